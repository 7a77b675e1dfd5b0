//! Plain spherical k-means: one loop per formula, one accumulator per sum, one thread. The oracle of the vector code
//! and of every other implementation (same results up to the order of float sums), and the yardstick of its benches.

use super::{KmeansError, KmeansSpec, SegmentMap, check_input};
use crate::embedding::{EmbeddingMap, MIN_NORM, location_features};
use crate::hierarchy::NONE;

/// What [`run`] leaves beside the segments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScalarState {
    /// `[k, dim + 2]`, centroids of the last assignment; empty before the first run.
    pub centroids: Vec<f32>,
    /// Slots re-seeded in the last run, ascending.
    pub reseeded: Vec<u32>,
}

/// Clusters `map` from the grid, or, when `warm`, from `state.centroids` (with re-seeding), as described at
/// [`super::SphericalKmeans`]. Allocates freely.
///
/// # Errors
/// The same as [`super::SphericalKmeans::run_masked`].
pub fn run(
    spec: &KmeansSpec,
    map: &EmbeddingMap,
    clustered: Option<&[bool]>,
    warm: bool,
    state: &mut ScalarState,
    out: &mut SegmentMap,
) -> Result<(), KmeansError> {
    spec.check()?;
    check_input(map, clustered, map.dim)?;
    let (num_slots, num_cells, depth) = (spec.num_slots(), map.num_cells(), map.dim + 2);
    let rows = rows_with_location(map);
    let keep = |i: usize| clustered.is_none_or(|c| c[i]);
    let warm = warm && state.centroids.len() == num_slots * depth;
    state.reseeded.clear();

    let mut labels: Vec<u16>;
    let mut similarities = vec![0.0; num_cells];
    let mut rounds = spec.rounds;
    if warm {
        labels = vec![NONE; num_cells];
        assign(&rows, &state.centroids, depth, &keep, &mut labels, &mut similarities);
        rounds = (rounds - 1).max(1);
    } else {
        labels = spec.initial_labels(map.height, map.width).collect();
        labels.iter_mut().enumerate().filter(|(i, _)| !keep(*i)).for_each(|(_, label)| *label = NONE);
    }
    for _ in 0..rounds {
        if warm {
            reseed(num_slots, &mut labels, &similarities, &mut state.reseeded);
        }
        state.centroids = normalized_sums(&rows, depth, &labels, num_slots);
        assign(&rows, &state.centroids, depth, &keep, &mut labels, &mut similarities);
    }
    (out.height, out.width, out.num_slots) = (map.height, map.width, num_slots);
    out.areas = areas(num_slots, &labels);
    out.prototypes = normalized_sums(&map.data, map.dim, &labels, num_slots);
    out.labels = labels;
    Ok(())
}

/// `[v; loc]` of every pixel at unit length, `[h · w, dim + 2]`; a zero or not finite vector becomes zero.
#[must_use]
pub fn rows_with_location(map: &EmbeddingMap) -> Vec<f32> {
    let location = location_features(map.height, map.width);
    let mut rows = Vec::with_capacity(map.num_cells() * (map.dim + 2));
    for y in 0..map.height {
        for x in 0..map.width {
            let start = rows.len();
            rows.extend_from_slice(map.cell(y, x));
            rows.extend([location.rows[y], location.columns[x]]);
            normalize(&mut rows[start..]);
        }
    }
    rows
}

fn normalize(vector: &mut [f32]) {
    let mut sum = 0.0;
    for &v in vector.iter() {
        sum += v * v;
    }
    let norm = f32::sqrt(sum);
    let usable = norm >= MIN_NORM && norm.is_finite();
    for v in vector {
        *v = if usable { *v / norm } else { 0.0 };
    }
}

fn assign(
    rows: &[f32],
    centroids: &[f32],
    depth: usize,
    keep: &impl Fn(usize) -> bool,
    labels: &mut [u16],
    similarities: &mut [f32],
) {
    for (i, row) in rows.chunks_exact(depth).enumerate() {
        let mut best = f32::NEG_INFINITY;
        let mut label = 0;
        for (c, centroid) in centroids.chunks_exact(depth).enumerate() {
            let mut sum = 0.0;
            for (&a, &b) in row.iter().zip(centroid) {
                sum += a * b;
            }
            if sum > best {
                (best, label) = (sum, c);
            }
        }
        labels[i] = if keep(i) { label as u16 } else { NONE };
        similarities[i] = best;
    }
}

fn normalized_sums(rows: &[f32], depth: usize, labels: &[u16], num_slots: usize) -> Vec<f32> {
    let mut sums = vec![0.0; num_slots * depth];
    for (row, &label) in rows.chunks_exact(depth).zip(labels) {
        if label != NONE && row.iter().all(|v| v.is_finite()) {
            for (sum, &v) in sums[usize::from(label) * depth..].iter_mut().zip(row) {
                *sum += v;
            }
        }
    }
    sums.chunks_exact_mut(depth).for_each(normalize);
    sums
}

fn areas(num_slots: usize, labels: &[u16]) -> Vec<u32> {
    let mut areas = vec![0; num_slots];
    for &label in labels.iter().filter(|&&l| l != NONE) {
        areas[usize::from(label)] += 1;
    }
    areas
}

fn reseed(num_slots: usize, labels: &mut [u16], similarities: &[f32], reseeded: &mut Vec<u32>) {
    let mut areas = areas(num_slots, labels);
    for slot in 0..num_slots {
        if areas[slot] > 0 {
            continue;
        }
        let candidates = (0..labels.len()).filter(|&i| labels[i] != NONE && areas[usize::from(labels[i])] > 1);
        let Some(worst) = candidates.reduce(|a, b| if similarities[b] < similarities[a] { b } else { a }) else {
            return;
        };
        areas[usize::from(labels[worst])] -= 1;
        areas[slot] = 1;
        labels[worst] = slot as u16;
        if !reseeded.contains(&(slot as u32)) {
            reseeded.push(slot as u32);
            reseeded.sort_unstable();
        }
    }
}
