//! The ultrametric contour map: leaves, their merge tree, and what is drawn and cut from them.

use super::doubled_grid::components;
use crate::regions::check_max_regions;
use crate::watershed::UNLABELLED;
use crate::{Basins, MergeTree, OversegmentError, RegionMap, region_map};
use segcore::image::ImageSize;

/// First threshold of [`Ucm::paper_regions`], and what is added to it.
const PAPER_START: f64 = 0.05;
const PAPER_STEP: f64 = 0.01;
/// What the paper's number of regions stays below.
pub const PAPER_MAX_REGIONS: usize = 1024;

/// Leaves and the order in which they merge. Leaf (r, c) lies half a pixel to the right and below of pixel (r, c).
#[derive(Clone, Debug, PartialEq)]
pub struct Ucm {
    pub(super) leaves: Basins,
    pub(super) tree: MergeTree,
}

impl Ucm {
    /// The leaves, one id per pixel of the edge map.
    pub fn leaves(&self) -> &Basins {
        &self.leaves
    }

    /// The merge tree of the leaves; its energies are the saliencies of the contours.
    pub fn tree(&self) -> &MergeTree {
        &self.tree
    }

    /// The map on the scale of the published tools for gPb and PMI edges: 0 to 1 by
    /// y = clip((1 / (1 + exp(2.7487 - 11.1189 x)) - 0.0602) / 0.9398, 0, 1).
    pub fn sigmoid(&self) -> Self {
        let scale = |x: f64| ((1.0 / (1.0 + (2.7487 - 11.1189 * x).exp()) - 0.0602) / 0.9398).clamp(0.0, 1.0);
        Self { leaves: self.leaves.clone(), tree: self.tree.scaled(scale) }
    }

    /// The regions left when every contour of saliency ≤ `threshold` is gone, by cutting the tree.
    ///
    /// # Errors
    /// When 65535 or more are left, which 16-bit ids cannot name.
    pub fn regions(&self, threshold: f64) -> Result<RegionMap, OversegmentError> {
        if self.tree.num_regions(threshold) >= usize::from(u16::MAX) {
            return Err(OversegmentError::Setting {
                name: "threshold",
                got: threshold.to_string(),
                expected: "a strength that leaves fewer than 65535 regions",
            });
        }
        Ok(region_map(&self.leaves, &self.tree, threshold))
    }

    /// The saliencies on the doubled grid, `[2 · height + 1, 2 · width + 1]` row-major.
    ///
    /// A cell between two leaves has the energy at which they merge, a corner the largest of the four cells around it,
    /// a leaf cell 0. The outer frame repeats its neighbours at even positions, so that no region leaks through it.
    pub fn doubled_map(&self) -> Vec<f32> {
        let (height, width) = (self.leaves.height, self.leaves.width);
        let (rows, columns) = (2 * height + 1, 2 * width + 1);
        let saliencies = Saliencies::new(&self.tree);
        let labels = &self.leaves.labels;
        let mut map = vec![0.0f32; rows * columns];
        for r in 0..height {
            for c in 0..width {
                let leaf = labels[r * width + c];
                if c + 1 < width {
                    map[(2 * r + 1) * columns + 2 * c + 2] = saliencies.between(leaf, labels[r * width + c + 1]);
                }
                if r + 1 < height {
                    map[(2 * r + 2) * columns + 2 * c + 1] = saliencies.between(leaf, labels[(r + 1) * width + c]);
                }
            }
        }
        for row in (2..rows - 1).step_by(2) {
            for column in (2..columns - 1).step_by(2) {
                let at = row * columns + column;
                map[at] = map[at - 1].max(map[at + 1]).max(map[at - columns]).max(map[at + columns]);
            }
        }
        for column in (2..columns - 1).step_by(2) {
            map[column] = map[columns + column];
            map[(rows - 1) * columns + column] = map[(rows - 2) * columns + column];
        }
        for row in (2..rows - 1).step_by(2) {
            map[row * columns] = map[row * columns + 1];
            map[row * columns + columns - 1] = map[row * columns + columns - 2];
        }
        map
    }

    /// The saliencies per pixel, `[height, width]` row-major: the cells of [`Ucm::doubled_map`] whose indices are even
    /// and at least 2.
    pub fn image_size_map(&self) -> Vec<f32> {
        let columns = 2 * self.leaves.width + 1;
        let rows = self.doubled_map();
        let rows = rows.chunks_exact(columns).skip(2).step_by(2);
        rows.flat_map(|row| row.iter().skip(2).step_by(2).copied()).collect()
    }

    /// The regions of the paper's files: the map per pixel cut at 0.05, 0.06, … until fewer than `max_regions` regions
    /// are left (2 to 65535; the paper's is [`PAPER_MAX_REGIONS`]).
    /// Call it on the [`Ucm::sigmoid`] of PMI edges; saliencies above 1 count as 1.
    ///
    /// Regions are the 8-connected components of pixels of saliency ≤ the threshold; a contour pixel belongs to the
    /// region with the highest number (counted column by column) in the 3×3 pixels around it.
    ///
    /// # Errors
    /// When `max_regions` is out of range.
    pub fn paper_regions(&self, max_regions: usize) -> Result<RegionMap, OversegmentError> {
        check_max_regions(max_regions)?;
        let (height, width) = (self.leaves.height, self.leaves.width);
        let map = self.image_size_map();
        let mut steps = 0;
        let (labels, num_regions) = loop {
            let threshold = PAPER_START + f64::from(steps) * PAPER_STEP;
            let is_last = threshold >= 1.0;
            let is_open = |row: usize, column: usize| is_last || f64::from(map[row * width + column]) <= threshold;
            let (labels, number) = components(height, width, is_open);
            if is_last || number < max_regions {
                break (labels, number);
            }
            steps += 1;
        };
        let labels = absorb_contours(height, width, labels);
        // Fewer than 65535, so 16 bits hold them.
        Ok(RegionMap {
            size: ImageSize { width, height },
            labels: dense_in_row_major_order(&labels, num_regions),
            num_regions,
        })
    }
}

/// Gives unlabelled pixels the highest label of the 3×3 pixels around them, again and again until all have one.
///
/// One round is what the published masks have; the others reach the middle of contours more than two pixels wide,
/// which those leave at 0. The corner at the lower right is never a contour, so there is a label to begin with.
fn absorb_contours(height: usize, width: usize, mut labels: Vec<u32>) -> Vec<u32> {
    let mut left: Vec<usize> = (0..labels.len()).filter(|&pixel| labels[pixel] == UNLABELLED).collect();
    let mut found = Vec::with_capacity(left.len());
    while !left.is_empty() {
        found.clear();
        for &pixel in &left {
            let (row, column) = (pixel / width, pixel % width);
            let around = (row.saturating_sub(1)..(row + 2).min(height))
                .flat_map(|r| (column.saturating_sub(1)..(column + 2).min(width)).map(move |c| r * width + c));
            // One round reads what the round before wrote, not its own labels.
            if let Some(label) = around.map(|p| labels[p]).filter(|&label| label != UNLABELLED).max() {
                found.push((pixel, label));
            }
        }
        if found.is_empty() {
            break;
        }
        for &(pixel, label) in &found {
            labels[pixel] = label;
        }
        left.retain(|&pixel| labels[pixel] == UNLABELLED);
    }
    labels
}

/// The same partition with ids from 0 in row-major order of first pixels.
fn dense_in_row_major_order(labels: &[u32], num_regions: usize) -> Vec<u16> {
    const UNNAMED: u16 = u16::MAX;
    let mut id_of_label = vec![UNNAMED; num_regions];
    let mut next = 0;
    let number = |&label: &u32| {
        let id = &mut id_of_label[label as usize];
        if *id == UNNAMED {
            *id = next;
            next += 1;
        }
        *id
    };
    labels.iter().map(number).collect()
}

/// At which energy two leaves merge.
///
/// A forest of unions by size, each link with the index of its merge: links grow younger towards the root and no path
/// is longer than log2 of the number of leaves.
struct Saliencies {
    parent: Vec<u32>,
    /// Index of the merge that linked a leaf to its parent; `u32::MAX` at the root.
    merge: Vec<u32>,
    energies: Vec<f32>,
}

impl Saliencies {
    fn new(tree: &MergeTree) -> Self {
        let num_leaves = tree.num_basins();
        let mut forest = Self {
            parent: (0..num_leaves as u32).collect(),
            merge: vec![u32::MAX; num_leaves],
            energies: tree.merges().iter().map(|merge| merge.energy as f32).collect(),
        };
        let mut sizes = vec![1u32; num_leaves];
        for (index, merge) in (0u32..).zip(tree.merges()) {
            let (mut child, mut root) = (forest.root(merge.a), forest.root(merge.b));
            if sizes[child as usize] > sizes[root as usize] {
                std::mem::swap(&mut child, &mut root);
            }
            sizes[root as usize] += sizes[child as usize];
            forest.parent[child as usize] = root;
            forest.merge[child as usize] = index;
        }
        forest
    }

    fn root(&self, mut leaf: u32) -> u32 {
        while self.parent[leaf as usize] != leaf {
            leaf = self.parent[leaf as usize];
        }
        leaf
    }

    /// 0 for one and the same leaf.
    fn between(&self, mut a: u32, mut b: u32) -> f32 {
        let mut energy = 0.0;
        while a != b {
            // The older link first: the last one taken is the merge that joined the two.
            if self.merge[a as usize] > self.merge[b as usize] {
                std::mem::swap(&mut a, &mut b);
            }
            let Some(&at) = self.energies.get(self.merge[a as usize] as usize) else { break };
            energy = at;
            a = self.parent[a as usize];
        }
        energy
    }
}
