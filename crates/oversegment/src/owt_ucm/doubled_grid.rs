//! The doubled grid: cells for leaves, for the edgels between them, and for the corners between those.

use crate::Basins;
use crate::merge::{boundaries, merge_boundaries};
use crate::{MergeTree, watershed::UNLABELLED};

/// Line strengths on a grid of twice the size plus one row and column.
///
/// Pixel (r, c) is the cell (2r, 2c); cells with an even and an odd index lie between two pixels; the cell
/// (2r + 1, 2c + 1) belongs to the leaf (r, c), half a pixel to the right and below. Between the leaves (r, c) and
/// (r + 1, c) lies the edgel (2r + 2, 2c + 1), between (r, c) and (r, c + 1) the edgel (2r + 1, 2c + 2).
#[derive(Clone, Debug, PartialEq)]
pub struct DoubledGrid {
    height: usize,
    width: usize,
    cells: Vec<f32>,
}

impl DoubledGrid {
    /// The grid of `weights`, `[height, width]` row-major, with the holes of 2×2 line blocks cleaned away; `None` when
    /// a side is 0 or the number of weights is another.
    pub fn new(height: usize, width: usize, weights: &[f32]) -> Option<Self> {
        if height == 0 || width == 0 || height.checked_mul(width) != Some(weights.len()) {
            return None;
        }
        Some(Self::of_weights(height, width, weights))
    }

    /// As [`DoubledGrid::new`] for sizes that are known to fit.
    pub(super) fn of_weights(height: usize, width: usize, weights: &[f32]) -> Self {
        let (rows, columns) = (2 * height, 2 * width);
        let mut grid = Self { height, width, cells: vec![0.0; (rows + 1) * (columns + 1)] };
        for r in 0..height {
            for c in 0..width {
                let weight = weights[r * width + c];
                grid.set(2 * r, 2 * c, weight);
                if c + 1 < width {
                    grid.set(2 * r, 2 * c + 1, weight.min(weights[r * width + c + 1]));
                }
                if r + 1 < height {
                    grid.set(2 * r + 1, 2 * c, weight.min(weights[(r + 1) * width + c]));
                }
            }
        }
        for column in 0..columns {
            grid.set(rows - 1, column, grid.at(rows - 2, column));
        }
        for row in 0..rows {
            grid.set(row, columns - 1, grid.at(row, columns - 1).max(grid.at(row, columns - 2)));
        }
        grid.fill_holes();
        for column in 0..columns {
            grid.set(rows, column, grid.at(rows - 1, column));
        }
        for row in 0..=rows {
            grid.set(row, columns, grid.at(row, columns - 1));
        }
        grid
    }

    /// The cells, `[2 · height + 1, 2 · width + 1]` row-major.
    pub fn cells(&self) -> &[f32] {
        &self.cells
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        self.cells[row * (2 * self.width + 1) + column]
    }

    fn set(&mut self, row: usize, column: usize, value: f32) {
        self.cells[row * (2 * self.width + 1) + column] = value;
    }

    /// A zero cell in the middle of a 2×2 block of line pixels is no region: each is opened towards one of its four
    /// diagonal neighbours, where the wall is weakest.
    fn fill_holes(&mut self) {
        let (rows, columns) = (2 * self.height, 2 * self.width);
        let mut holes = Vec::new();
        for column in 1..columns - 1 {
            for row in 1..rows - 1 {
                let ring = (row - 1..=row + 1).flat_map(|r| (column - 1..=column + 1).map(move |c| (r, c)));
                if ring.filter(|&at| self.at(at.0, at.1) == 0.0).eq([(row, column)]) {
                    holes.push((row, column));
                }
            }
        }
        for (row, column) in holes {
            let mut weakest: Option<(f32, isize, isize)> = None;
            for (a, b) in [(-1, -1), (1, -1), (1, 1), (-1, 1)] {
                // Beyond the grid there is nothing to open towards.
                let is_inside = row.checked_add_signed(2 * a).is_some_and(|r| r < rows)
                    && column.checked_add_signed(2 * b).is_some_and(|c| c < columns);
                if !is_inside {
                    continue;
                }
                let (vertical, horizontal) = self.beyond(row, column, a, b);
                let wall = vertical.max(horizontal);
                if weakest.is_none_or(|(least, _, _)| wall < least) {
                    weakest = Some((wall, a, b));
                }
            }
            let Some((wall, a, b)) = weakest else { continue };
            let (vertical, horizontal) = self.beyond(row, column, a, b);
            let (to_row, to_column) = (row.wrapping_add_signed(a), column.wrapping_add_signed(b));
            let is_sideways = vertical < horizontal;
            self.set(row, to_column, if is_sideways { 0.0 } else { wall });
            self.set(to_row, column, if is_sideways { wall } else { 0.0 });
            self.set(to_row, to_column, wall);
        }
    }

    /// The cells two rows (columns) and one column (row) away from a hole, in the direction (a, b).
    fn beyond(&self, row: usize, column: usize, a: isize, b: isize) -> (f32, f32) {
        (
            self.at(row.wrapping_add_signed(2 * a), column.wrapping_add_signed(b)),
            self.at(row.wrapping_add_signed(a), column.wrapping_add_signed(2 * b)),
        )
    }

    /// The leaves: 8-connected components of the cells without strength, read at the leaf cells; ids in column-major
    /// order of the components' first cells.
    ///
    /// Leaf cells belong to a leaf whatever their strength (the copied last row and column may hold some).
    pub fn leaves(&self) -> Basins {
        let (rows, columns) = (2 * self.height, 2 * self.width);
        let is_open = |row: usize, column: usize| (row % 2 == 1 && column % 2 == 1) || self.at(row, column) == 0.0;
        let (labels, num_basins) = components(rows, columns, is_open);
        // A component without a leaf cell would be an id without a pixel: ids are given again, in the same order.
        let mut id_of_component = vec![UNLABELLED; num_basins];
        let mut is_used = vec![false; num_basins];
        let leaf_cells =
            || (0..self.height).flat_map(|r| (0..self.width).map(move |c| (2 * r + 1) * columns + 2 * c + 1));
        leaf_cells().for_each(|cell| is_used[labels[cell] as usize] = true);
        let mut next = 0;
        for (id, _) in id_of_component.iter_mut().zip(is_used).filter(|(_, is_used)| *is_used) {
            *id = next;
            next += 1;
        }
        let labels = leaf_cells().map(|cell| id_of_component[labels[cell] as usize]).collect();
        Basins { height: self.height, width: self.width, labels, num_basins: next as usize }
    }

    /// Merges `leaves`, those of this grid, in the order of the mean strength of the edgels between them.
    pub fn merge(&self, leaves: &Basins) -> MergeTree {
        merge_boundaries(leaves.num_basins, self.elements(leaves))
    }

    /// The boundaries between neighbouring leaves of this grid: each pair once, lower id first, with the sum of the
    /// strengths of its edgels and their number.
    pub fn boundaries(&self, leaves: &Basins) -> Vec<(u32, u32, f64, u32)> {
        let neighbours = boundaries(leaves.num_basins, self.elements(leaves));
        let lists = (0u32..).zip(&neighbours);
        let pairs = lists.flat_map(|(a, list)| list.iter().map(move |(b, boundary)| (a, *b, *boundary)));
        pairs.filter(|(a, b, _)| a < b).map(|(a, b, boundary)| (a, b, boundary.sum, boundary.length)).collect()
    }

    /// The edgels between different leaves: (lower id << 32 | higher id, strength).
    fn elements(&self, leaves: &Basins) -> Vec<(u64, f32)> {
        let mut elements = Vec::new();
        let mut note = |p: usize, q: usize, strength: f32| {
            let (a, b) = (leaves.labels[p], leaves.labels[q]);
            if a != b {
                elements.push(((u64::from(a.min(b)) << 32) | u64::from(a.max(b)), strength));
            }
        };
        for r in 0..self.height {
            for c in 0..self.width {
                let leaf = r * self.width + c;
                if c + 1 < self.width {
                    note(leaf, leaf + 1, self.at(2 * r + 1, 2 * c + 2));
                }
                if r + 1 < self.height {
                    note(leaf, leaf + self.width, self.at(2 * r + 2, 2 * c + 1));
                }
            }
        }
        elements
    }
}

/// 8-connected components of the open cells, dense from 0 in column-major order of their first cells, `[rows, columns]`
/// row-major, and their number; closed cells are `UNLABELLED`.
pub(super) fn components(rows: usize, columns: usize, is_open: impl Fn(usize, usize) -> bool) -> (Vec<u32>, usize) {
    let mut labels = vec![UNLABELLED; rows * columns];
    let mut next = 0;
    let mut waiting = Vec::new();
    for column in 0..columns {
        for row in 0..rows {
            if labels[row * columns + column] != UNLABELLED || !is_open(row, column) {
                continue;
            }
            labels[row * columns + column] = next;
            waiting.push((row, column));
            while let Some((row, column)) = waiting.pop() {
                for r in row.saturating_sub(1)..(row + 2).min(rows) {
                    for c in column.saturating_sub(1)..(column + 2).min(columns) {
                        let label = &mut labels[r * columns + c];
                        if *label == UNLABELLED && is_open(r, c) {
                            *label = next;
                            waiting.push((r, c));
                        }
                    }
                }
            }
            next += 1;
        }
    }
    (labels, next as usize)
}
