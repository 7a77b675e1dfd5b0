//! Greedy region merging by mean boundary strength (P. Arbeláez et al., "Contour detection and hierarchical image
//! segmentation", PAMI 2011, §4: the ultrametric contour map).
//!
//! Two regions are neighbours when a pixel of one has a pixel of the other above, below, left or right of it. Such a
//! pair of pixels is one *boundary element*; its strength is the larger of the two pixels' (the ridge between two
//! basins is one pixel wide and belongs to one of them). The energy of two neighbouring regions is the mean strength
//! of their common boundary elements. The pair of least energy is merged again and again; a merged region adds up the
//! boundaries with common neighbours, so energies never fall (average linkage weighted by length).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::{Basins, StrengthMap};

/// One merge of two regions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Merge {
    /// A basin in the one region.
    pub a: u32,
    /// A basin in the other region.
    pub b: u32,
    /// Mean strength of the common boundary; never smaller than that of the merge before.
    pub energy: f64,
}

/// All merges from single basins to the whole image, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeTree {
    num_basins: usize,
    merges: Vec<Merge>,
}

/// Boundary between two regions.
#[derive(Clone, Copy)]
pub(crate) struct Boundary {
    pub(crate) sum: f64,
    pub(crate) length: u32,
}

impl Boundary {
    fn energy(self) -> f64 {
        self.sum / f64::from(self.length)
    }
}

/// A pair waiting in the heap: least energy first, then lowest ids. The bits of a finite energy ≥ 0 sort like it.
type Entry = Reverse<(u64, u32, u32)>;

fn entry(a: u32, b: u32, boundary: Boundary) -> Entry {
    Reverse((boundary.energy().to_bits(), a.min(b), a.max(b)))
}

/// Boundaries of all neighbouring basins: for each basin its neighbours in ascending order.
fn neighbouring_basins(map: &StrengthMap, basins: &Basins) -> Vec<Vec<(u32, Boundary)>> {
    let (height, width) = (basins.height, basins.width);
    let values = map.values();
    let mut elements: Vec<(u64, f32)> = Vec::new();
    let mut note = |p: usize, q: usize| {
        let (a, b) = (basins.labels[p], basins.labels[q]);
        if a != b {
            let pair = (u64::from(a.min(b)) << 32) | u64::from(a.max(b));
            elements.push((pair, values[p].max(values[q])));
        }
    };
    for row in 0..height {
        for column in 0..width {
            let pixel = row * width + column;
            if column + 1 < width {
                note(pixel, pixel + 1);
            }
            if row + 1 < height {
                note(pixel, pixel + width);
            }
        }
    }
    boundaries(basins.num_basins, elements)
}

/// Boundaries out of their elements, each (lower id << 32 | higher id, strength): for each basin its neighbours in
/// ascending order.
pub(crate) fn boundaries(num_basins: usize, mut elements: Vec<(u64, f32)>) -> Vec<Vec<(u32, Boundary)>> {
    // A stable sort keeps the order of summation, and with it every bit of the sums.
    elements.sort_by_key(|&(pair, _)| pair);
    let mut neighbours = vec![Vec::new(); num_basins];
    for group in elements.chunk_by(|x, y| x.0 == y.0) {
        let (a, b) = ((group[0].0 >> 32) as u32, group[0].0 as u32);
        let boundary =
            Boundary { sum: group.iter().map(|&(_, strength)| f64::from(strength)).sum(), length: group.len() as u32 };
        neighbours[a as usize].push((b, boundary));
        neighbours[b as usize].push((a, boundary));
    }
    neighbours
}

/// Merges the basins of `map` completely and returns the order of the merges.
///
/// Regions of fewer than `min_area` pixels come first: as long as there is one, the pair of least energy that contains
/// one is merged, and these merges have energy 0 in the tree (no threshold undoes them). 0 or 1 switches this off.
/// Without it, the mean strength leaves hundreds of specks of strong texture at thresholds where large regions are long
/// merged; [`crate::GradientRegions::min_area_share`] has the figures.
///
/// Ties: the pair with the lowest ids first. A merged region has the larger id of the two it was made of.
///
/// # Panics
/// If `basins` is not the watershed of a map of `map`'s size.
pub fn region_merging(map: &StrengthMap, basins: &Basins, min_area: usize) -> MergeTree {
    assert_eq!(map.values().len(), basins.labels.len(), "basins of another map");
    let mut merging = Merging::new(neighbouring_basins(map, basins), areas(basins));
    if min_area > 1 {
        merging.merge_all(|smaller_area| smaller_area < min_area);
        for merge in &mut merging.merges {
            merge.energy = 0.0;
        }
    }
    merging.finish()
}

/// As [`region_merging`] with every boundary element given by its two basins and its strength: (lower id << 32 | higher
/// id, strength). Elements of one boundary are added up in the order of the list.
pub(crate) fn merge_boundaries(num_basins: usize, elements: Vec<(u64, f32)>) -> MergeTree {
    // Areas decide nothing without a smallest one.
    Merging::new(boundaries(num_basins, elements), vec![0; num_basins]).finish()
}

/// Pixels of every basin.
fn areas(basins: &Basins) -> Vec<usize> {
    let mut areas = vec![0; basins.num_basins];
    for &label in &basins.labels {
        areas[label as usize] += 1;
    }
    areas
}

/// The state of the merging.
struct Merging {
    /// Neighbours of every region and the boundaries with them; empty for a region that was absorbed.
    neighbours: Vec<Vec<(u32, Boundary)>>,
    /// Pixels of every region.
    areas: Vec<usize>,
    merges: Vec<Merge>,
    /// Position of a region in the list of the surviving one while two are being merged; `NOWHERE` otherwise.
    position: Vec<u32>,
}

/// Not in the list.
const NOWHERE: u32 = u32::MAX;

impl Merging {
    fn new(neighbours: Vec<Vec<(u32, Boundary)>>, areas: Vec<usize>) -> Self {
        let num_basins = neighbours.len();
        Self {
            neighbours,
            areas,
            merges: Vec::with_capacity(num_basins.saturating_sub(1)),
            position: vec![NOWHERE; num_basins],
        }
    }

    /// Merges all that is left.
    fn finish(mut self) -> MergeTree {
        self.merge_all(|_| true);
        // Rounding can lower an energy by its last bits; the tree promises that energies never fall.
        let mut energy = 0.0f64;
        for merge in &mut self.merges {
            energy = energy.max(merge.energy);
            merge.energy = energy;
        }
        MergeTree { num_basins: self.neighbours.len(), merges: self.merges }
    }

    /// Merges the pair of least energy, among those whose smaller area `is_wanted`, until there is none.
    fn merge_all(&mut self, is_wanted: impl Fn(usize) -> bool) {
        let mut heap: BinaryHeap<Entry> = BinaryHeap::new();
        for (a, list) in (0u32..).zip(&self.neighbours) {
            heap.extend(list.iter().filter(|(b, _)| *b > a).map(|&(b, boundary)| entry(a, b, boundary)));
        }
        while let Some(Reverse((bits, a, b))) = heap.pop() {
            // Areas only grow: a pair that is not wanted now will not be wanted later.
            if !is_wanted(self.areas[a as usize].min(self.areas[b as usize])) {
                continue;
            }
            // Stale when `a` was absorbed or the boundary has changed since: the valid entry is elsewhere in the heap.
            let current = self.neighbours[a as usize].iter().find(|(id, _)| *id == b);
            if current.is_some_and(|(_, boundary)| boundary.energy().to_bits() == bits) {
                self.merges.push(Merge { a, b, energy: f64::from_bits(bits) });
                self.absorb(a, b, &mut heap);
            }
        }
    }

    /// Makes `a` a part of `b` and queues the boundaries that this changed.
    fn absorb(&mut self, a: u32, b: u32, heap: &mut BinaryHeap<Entry>) {
        self.areas[b as usize] += self.areas[a as usize];
        let absorbed = std::mem::take(&mut self.neighbours[a as usize]);
        let mut kept = std::mem::take(&mut self.neighbours[b as usize]);
        kept.retain(|(id, _)| *id != a);
        for (index, (id, _)) in (0u32..).zip(&kept) {
            self.position[*id as usize] = index;
        }
        for (id, boundary) in absorbed {
            if id == b {
                continue;
            }
            // The neighbour's own list must say the same about the boundary.
            let mirror = &mut self.neighbours[id as usize];
            let index = self.position[id as usize];
            let merged = if index == NOWHERE {
                if let Some((other, _)) = mirror.iter_mut().find(|(other, _)| *other == a) {
                    *other = b;
                }
                kept.push((id, boundary));
                boundary
            } else {
                let both = &mut kept[index as usize].1;
                both.sum += boundary.sum;
                both.length += boundary.length;
                mirror.retain(|(other, _)| *other != a);
                if let Some((_, mirrored)) = mirror.iter_mut().find(|(other, _)| *other == b) {
                    *mirrored = *both;
                }
                *both
            };
            heap.push(entry(id, b, merged));
        }
        for (id, _) in &kept {
            self.position[*id as usize] = NOWHERE;
        }
        self.neighbours[b as usize] = kept;
    }
}

impl MergeTree {
    /// Number of basins, the leaves of the tree.
    pub fn num_basins(&self) -> usize {
        self.num_basins
    }

    /// The merges in order: `num_basins() - 1` of them, energies never falling.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// The same tree with `scale` applied to its energies; `scale` must never fall.
    pub(crate) fn scaled(&self, scale: impl Fn(f64) -> f64) -> Self {
        let merges = self.merges.iter().map(|merge| Merge { energy: scale(merge.energy), ..*merge }).collect();
        Self { num_basins: self.num_basins, merges }
    }

    /// Number of regions left when every merge of energy ≤ `threshold` is done.
    pub fn num_regions(&self, threshold: f64) -> usize {
        self.num_basins - self.merges.partition_point(|merge| merge.energy <= threshold)
    }

    /// Region of every basin when every merge of energy ≤ `threshold` is done; region ids are those of one of their
    /// basins, so they are not dense.
    pub fn cut(&self, threshold: f64) -> Vec<u32> {
        let mut parent: Vec<u32> = (0..self.num_basins as u32).collect();
        for merge in self.merges.iter().take_while(|merge| merge.energy <= threshold) {
            // `a` was absorbed by `b` and never appears again.
            parent[merge.a as usize] = merge.b;
        }
        // A parent always comes later than its child in the merge order, not in id order, so paths are followed.
        for basin in 0..self.num_basins {
            let mut root = basin as u32;
            while parent[root as usize] != root {
                root = parent[root as usize];
            }
            let mut at = basin as u32;
            while parent[at as usize] != root {
                at = std::mem::replace(&mut parent[at as usize], root);
            }
        }
        parent
    }
}
