//! The index of an approximate search: prototypes in lists by their nearest centroid ("inverted file"; J. Sivic, A.
//! Zisserman, "Video Google", ICCV 2003). A query looks only into the lists whose centroids are nearest to it; in these it
//! finds the nearest neighbours exactly.
//!
//! Lists are found by spherical k-means when the bank is built, and each lies in panels of its own in the file.

use rayon::prelude::*;
use segcore::simd::dispatch;

use crate::builder::append_panels;
use crate::file::Storage;
use crate::nearest::{LargestSink, Reservoir};
use crate::panels::{PANEL, Panels};
use crate::products::{Products, TILE};

/// Prototypes per list that k-means looks at.
const SAMPLES_PER_LIST: usize = 32;
/// Rounds of k-means. More change little: lists need not be good clusters, only of like size and compact.
const NUM_ROUNDS: usize = 8;
/// Vectors assigned at a time on one thread: their tiles (½ MB at dimension 128) stay in the second-level cache.
const BATCH: usize = 85 * TILE;

/// Lists for this many prototypes: 4·√n, at least 1. Finding the lists and looking into them cost alike then.
pub(crate) fn default_num_lists(count: usize) -> usize {
    ((4.0 * (count as f64).sqrt()) as usize).clamp(1, count.max(1))
}

/// Prototypes sorted into lists.
pub(crate) struct Lists {
    /// `[lists, dimension]`, unit vectors.
    pub(crate) centroids: Vec<f32>,
    /// Indices of each list's prototypes, rising; none is empty.
    pub(crate) members: Vec<Vec<u32>>,
}

impl Lists {
    /// Sorts unit vectors `[n, dimension]` into at most `num_lists` lists, the same ones on every run.
    pub(crate) fn cluster(vectors: &[f32], dimension: usize, num_lists: usize) -> Self {
        let count = vectors.len() / dimension;
        let row = |index: usize| &vectors[index * dimension..][..dimension];
        let sample = choose(count, (SAMPLES_PER_LIST * num_lists).min(count));
        let sampled: Vec<f32> = sample.iter().flat_map(|&index| row(index)).copied().collect();
        let start = choose(sample.len(), num_lists);
        let mut centroids: Vec<f32> = start.iter().flat_map(|&index| row(sample[index])).copied().collect();
        for _ in 0..NUM_ROUNDS {
            let nearest = assign(&sampled, &centroids, dimension);
            let mut sums = vec![0.0f64; centroids.len()];
            for (vector, &list) in sampled.chunks_exact(dimension).zip(&nearest) {
                let sum = &mut sums[list as usize * dimension..][..dimension];
                sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            for (centroid, sum) in centroids.chunks_exact_mut(dimension).zip(sums.chunks_exact(dimension)) {
                let norm = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
                // A list that lost all its vectors, or whose vectors cancel out, stays where it was.
                if norm > 1e-6 {
                    centroid.iter_mut().zip(sum).for_each(|(value, sum)| *value = (sum / norm) as f32);
                }
            }
        }
        let mut members = vec![Vec::new(); num_lists];
        for (index, list) in (0u32..).zip(assign(vectors, &centroids, dimension)) {
            members[list as usize].push(index);
        }
        let is_used: Vec<bool> = members.iter().map(|list| !list.is_empty()).collect();
        let rows = centroids.chunks_exact(dimension).zip(&is_used).filter(|(_, used)| **used);
        let centroids = rows.flat_map(|(row, _)| row).copied().collect();
        members.retain(|list| !list.is_empty());
        Self { centroids, members }
    }
}

/// `wanted` of `count` indices, rising: one out of each of as many equal stretches, pseudo-randomly, because successive
/// prototypes come from an image's grid and a fixed step could meet the same place of it again and again.
fn choose(count: usize, wanted: usize) -> Vec<usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut stretch = |index: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (first, end) = (index * count / wanted, (index + 1) * count / wanted);
        first + (state >> 33) as usize % (end - first).max(1)
    };
    (0..wanted).map(&mut stretch).collect()
}

/// Nearest centroid of each vector.
fn assign(vectors: &[f32], centroids: &[f32], dimension: usize) -> Vec<u32> {
    let index = Centroids::new(centroids, dimension);
    let mut nearest = vec![0u32; vectors.len() / dimension];
    let batches = nearest.par_chunks_mut(BATCH).zip(vectors.par_chunks(BATCH * dimension));
    batches.for_each_init(Work::default, |work, (nearest, vectors)| {
        pack_tiles(vectors, dimension, &mut work.tiles);
        let Work { tiles, scan } = work;
        index.nearest_lists(tiles, nearest.len(), 1, scan, nearest);
    });
    nearest
}

#[derive(Default)]
struct Work {
    tiles: Vec<f32>,
    scan: ScanWork,
}

/// Working memory of a search for lists.
#[derive(Default)]
pub(crate) struct ScanWork {
    unpacked: Vec<f32>,
    thresholds: Vec<f32>,
    reservoirs: Vec<Reservoir>,
}

/// Transposes vectors `[n, dimension]` to `[tiles, dimension, TILE]`; filling is 0.
pub(crate) fn pack_tiles(vectors: &[f32], dimension: usize, tiles: &mut Vec<f32>) {
    let num_tiles = (vectors.len() / dimension).div_ceil(TILE);
    tiles.clear();
    tiles.resize(num_tiles * TILE * dimension, 0.0);
    for (index, vector) in vectors.chunks_exact(dimension).enumerate() {
        pack_lane(vector, index, tiles);
    }
}

/// Writes one vector to its place in `[tiles, dimension, TILE]`.
pub(crate) fn pack_lane(vector: &[f32], index: usize, tiles: &mut [f32]) {
    let tile = &mut tiles[index / TILE * TILE * vector.len()..][..TILE * vector.len()];
    for (value, row) in vector.iter().zip(tile.chunks_exact_mut(TILE)) {
        row[index % TILE] = *value;
    }
}

/// Centroids of lists, ready for searching.
pub(crate) struct Centroids {
    dimension: usize,
    num_lists: usize,
    /// Panels of 32-bit floats.
    bytes: Vec<u8>,
    inverse_norms: Vec<f32>,
}

impl Centroids {
    /// From unit vectors `[lists, dimension]`.
    fn new(centroids: &[f32], dimension: usize) -> Self {
        let mut bytes = Vec::new();
        append_panels(&mut bytes, Storage::F32, dimension, centroids.chunks_exact(dimension).map(Some));
        let num_lists = centroids.len() / dimension;
        let inverse = |slot| if slot < num_lists { 1.0 } else { f32::NAN };
        let inverse_norms = (0..num_lists.next_multiple_of(PANEL)).map(inverse).collect();
        Self { dimension, num_lists, bytes, inverse_norms }
    }

    /// From panels as a file holds them.
    ///
    /// # Errors
    /// The first list whose centroid has no direction, and its norm.
    pub(crate) fn read(bytes: &[u8], dimension: usize, num_lists: usize) -> Result<Self, (usize, f64)> {
        let panels = Panels { storage: Storage::F32, dimension, bytes };
        let inverse_norms = panels.inverse_norms(|slot| slot < num_lists)?;
        Ok(Self { dimension, num_lists, bytes: bytes.to_vec(), inverse_norms })
    }

    /// Number of lists.
    pub(crate) fn len(&self) -> usize {
        self.num_lists
    }

    /// Writes the `probes` lists nearest to each query, in no order, `[num_queries, probes]`; `probes` is at most the number of
    /// lists and of neighbours.
    pub(crate) fn nearest_lists(
        &self,
        tiles: &[f32],
        num_queries: usize,
        probes: usize,
        work: &mut ScanWork,
        out: &mut [u32],
    ) {
        work.unpacked.resize(self.dimension * PANEL, 0.0);
        work.thresholds.clear();
        work.thresholds.resize(num_queries.next_multiple_of(TILE), f32::INFINITY);
        work.thresholds[..num_queries].fill(f32::NEG_INFINITY);
        if work.reservoirs.len() < num_queries {
            work.reservoirs.resize_with(num_queries, Reservoir::default);
        }
        work.reservoirs[..num_queries].iter_mut().for_each(Reservoir::clear);
        let mut sink = LargestSink { k: probes, thresholds: &mut work.thresholds, reservoirs: &mut work.reservoirs };
        dispatch(Products {
            tiles,
            num_queries,
            panels: Panels { storage: Storage::F32, dimension: self.dimension, bytes: &self.bytes },
            inverse_norms: &self.inverse_norms,
            first_panel: 0,
            unpacked: &mut work.unpacked,
            sink: &mut sink,
        });
        for (out, reservoir) in out.chunks_exact_mut(probes).zip(&mut work.reservoirs) {
            reservoir.drop_far(probes, 0.0);
            // A query that is not finite has no products: it is given lists, in which it finds nothing.
            out.fill(0);
            out.iter_mut().zip(reservoir.entries()).for_each(|(out, &(_, list))| *out = list);
        }
    }
}

/// Queries of each list, `[lists + 1]` starts into `members`: a counting sort of `[num_queries, probes]`. Queries for which
/// `is_asked` is false are left out.
pub(crate) fn queries_of_lists(
    nearest: &[u32],
    (num_lists, probes): (usize, usize),
    is_asked: impl Fn(usize) -> bool,
    starts: &mut Vec<u32>,
    members: &mut Vec<u32>,
) {
    starts.clear();
    starts.resize(num_lists + 1, 0);
    let asked = || nearest.chunks_exact(probes).enumerate().filter(|(query, _)| is_asked(*query));
    for (_, lists) in asked() {
        lists.iter().for_each(|&list| starts[list as usize] += 1);
    }
    // Ends of the lists, which filling from the back turns into their starts.
    let mut sum = 0;
    for start in starts.iter_mut() {
        sum += *start;
        *start = sum;
    }
    members.clear();
    members.resize(sum as usize, 0);
    for (query, lists) in asked() {
        for &list in lists {
            let place = &mut starts[list as usize];
            *place -= 1;
            members[*place as usize] = query as u32;
        }
    }
}
