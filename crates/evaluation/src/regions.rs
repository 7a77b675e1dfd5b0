//! The regions that a contour map leaves open at a threshold (P. Arbeláez, M. Maire, C. Fowlkes, J. Malik, "Contour
//! Detection and Hierarchical Image Segmentation", PAMI 2011, §4).

use crate::EvaluationError;
use crate::contours::ContourMap;

/// The region of each pixel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Regions {
    labels: Vec<u32>,
    num_regions: usize,
}

impl Regions {
    /// Regions from labels: pixels of the same label are one region, wherever they are. The labels are below `num_regions`.
    ///
    /// # Errors
    /// When one of them is not.
    pub fn new(labels: Vec<u32>, num_regions: usize) -> Result<Self, EvaluationError> {
        match labels.iter().position(|&label| label as usize >= num_regions) {
            None => Ok(Self { labels, num_regions }),
            Some(index) => Err(EvaluationError::RegionLabel { index, label: labels[index], num_regions }),
        }
    }

    /// Label of each pixel, row by row, below [`Regions::num_regions`].
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Number of labels.
    pub fn num_regions(&self) -> usize {
        self.num_regions
    }
}

/// A pixel on a contour, not yet given to a region.
const NO_REGION: u32 = u32::MAX;

/// The regions of `contours` at `threshold`: connected components (8 neighbours) of the cells whose strength is at most
/// `threshold`. On a doubled map they are read at the pixels' own cells, so contours, which lie between pixels, belong to
/// nobody. A pixel that is itself on a contour goes to the nearest region: in a map of image size that is each pixel above
/// the threshold, in an ultrametric doubled map there is none. Nearest is by steps to one of 8 neighbours; among equals the
/// region whose nearest pixel comes first, row by row. If the whole image is contour, it is one region.
///
/// Labels are `[h, w]`, from 0, in the order of each region's first pixel; there is at least one region.
///
/// A map of image size therefore loses regions that are one pixel wide, and its region borders may be a pixel off.
pub fn regions_at(contours: &ContourMap, threshold: f32) -> Regions {
    let mut labels = open_components(contours, threshold);
    absorb_contours(&mut labels, contours.width());
    number_from_0(labels)
}

/// A horizontal stretch of open cells.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    /// One past the last column.
    end: usize,
    component: u32,
}

/// A component of each pixel, [`NO_REGION`] on contours; components have any ids.
fn open_components(contours: &ContourMap, threshold: f32) -> Vec<u32> {
    let (_, columns) = contours.grid();
    let (first, step) = contours.pixel_cells();
    let mut components = Forest::default();
    // All runs, and where those of each row begin.
    let (mut runs, mut row_starts): (Vec<Run>, Vec<usize>) = (Vec::new(), vec![0]);
    let mut above = 0;
    for row in contours.strengths().chunks_exact(columns) {
        let row_start = runs.len();
        let mut next = above;
        let mut column = 0;
        while let Some(open) = row[column..].iter().position(|&strength| strength <= threshold) {
            let start = column + open;
            let length = row[start..].iter().position(|&strength| strength > threshold);
            let end = length.map_or(columns, |length| start + length);
            let component = components.add();
            runs.push(Run { start, end, component });
            // 8 neighbours: runs that touch at a corner are connected. The last of them may touch the next run as well.
            while next < row_start && runs[next].end < start {
                next += 1;
            }
            for touching in runs[next..row_start].iter().take_while(|run| run.start <= end) {
                components.join(touching.component, component);
            }
            column = end;
        }
        above = row_start;
        row_starts.push(runs.len());
    }
    let mut labels = vec![NO_REGION; contours.height() * contours.width()];
    for (row, pixels) in labels.chunks_exact_mut(contours.width()).enumerate() {
        let row = first + row * step;
        for run in &runs[row_starts[row]..row_starts[row + 1]] {
            // Pixels whose cells `first + step * i` lie in the run.
            let index = |column: usize| column.saturating_sub(first).div_ceil(step);
            pixels[index(run.start)..index(run.end)].fill(components.root(run.component));
        }
    }
    labels
}

/// Sets that can be joined (union–find with path halving).
#[derive(Default)]
pub(crate) struct Forest {
    parents: Vec<u32>,
}

impl Forest {
    pub(crate) fn add(&mut self) -> u32 {
        let id = self.parents.len() as u32;
        self.parents.push(id);
        id
    }

    pub(crate) fn root(&mut self, mut id: u32) -> u32 {
        while self.parents[id as usize] != id {
            let grandparent = self.parents[self.parents[id as usize] as usize];
            self.parents[id as usize] = grandparent;
            id = grandparent;
        }
        id
    }

    pub(crate) fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }
}

/// Gives contour pixels to the nearest region, breadth first.
fn absorb_contours(labels: &mut [u32], width: usize) {
    let height = labels.len() / width;
    if !labels.contains(&NO_REGION) {
        return;
    }
    let neighbours = |at: usize| {
        let (row, column) = (at / width, at % width);
        let rows = row.saturating_sub(1)..(row + 2).min(height);
        let columns = column.saturating_sub(1)..(column + 2).min(width);
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
    };
    // Only regions' border pixels have somebody to take in.
    let touches_contour = |at: usize| neighbours(at).any(|near| labels[near] == NO_REGION);
    let mut queue: Vec<usize> =
        (0..labels.len()).filter(|&at| labels[at] != NO_REGION && touches_contour(at)).collect();
    let mut next = 0;
    while next < queue.len() {
        let at = queue[next];
        next += 1;
        for near in neighbours(at) {
            if labels[near] == NO_REGION {
                labels[near] = labels[at];
                queue.push(near);
            }
        }
    }
}

fn number_from_0(mut labels: Vec<u32>) -> Regions {
    // `NO_REGION` is left where there is no region at all; then it is the one label.
    let largest =
        labels.iter().copied().filter(|&label| label != NO_REGION).max().map_or(0, |label| label as usize + 1);
    let mut ids = vec![NO_REGION; largest];
    let mut num_regions = 0u32;
    for label in &mut labels {
        match ids.get_mut(*label as usize) {
            None => *label = 0,
            Some(id) => {
                if *id == NO_REGION {
                    *id = num_regions;
                    num_regions += 1;
                }
                *label = *id;
            }
        }
    }
    Regions { labels, num_regions: (num_regions as usize).max(1) }
}
