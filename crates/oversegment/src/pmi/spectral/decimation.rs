//! A graph with a quarter of the pixels that keeps the paths through the others.

use rayon::prelude::*;

use super::vectors::{Lanes, Vectors};
use crate::pmi::Affinity;
use crate::pmi::affinity::{NUM_PLACES, RADIUS, places};

/// The way back from a decimated graph: the pixels whose row and column are odd (from 0) were kept, and every pixel is
/// the mean of the kept ones around it, weighted by affinity.
pub(super) struct Decimation {
    height: usize,
    width: usize,
    /// For the four parities of (row, column): the kept pixels within the radius.
    kept: [Vec<KeptNeighbour>; 4],
    /// Weights of the kept neighbours of every pixel, in the order of `kept`, summing to 1; all pixels in `MOST_KEPT`
    /// places.
    shares: Vec<[f32; MOST_KEPT]>,
}

/// Most kept pixels that a pixel can see: those of a disk of radius 5 on every second row and column.
const MOST_KEPT: usize = 22;

/// A kept pixel, seen from another.
#[derive(Clone, Copy, Debug)]
struct KeptNeighbour {
    place: usize,
    /// Rows and columns of the decimated grid from half the seeing pixel's own (rounded down).
    rows: isize,
    columns: isize,
}

fn kept_neighbours() -> [Vec<KeptNeighbour>; 4] {
    std::array::from_fn(|parity| {
        let (row, column) = ((parity / 2) as isize, (parity % 2) as isize);
        let seen = places().enumerate().filter(|(_, (dy, dx))| (row + dy) & 1 == 1 && (column + dx) & 1 == 1);
        // Fine row 2 r + parity + dy is decimated row r + (parity + dy - 1) / 2.
        let of = |(place, (dy, dx))| KeptNeighbour { place, rows: (row + dy - 1) / 2, columns: (column + dx - 1) / 2 };
        seen.map(of).collect()
    })
}

impl Decimation {
    /// A ← S diag(1 / column sums of S) Sᵀ with S the rows of A at the kept pixels; the sides of `graph` are at
    /// least 2.
    pub(super) fn of(graph: &Affinity) -> (Self, Affinity) {
        let (height, width) = (graph.height, graph.width);
        let kept = kept_neighbours();
        let shares: Vec<[f32; MOST_KEPT]> = (graph.weights.par_iter().enumerate())
            .map(|(pixel, weights)| {
                let kept = &kept[parity_of(pixel / width, pixel % width)];
                let mut shares = [0.0; MOST_KEPT];
                shares.iter_mut().zip(kept).for_each(|(share, neighbour)| *share = weights[neighbour.place]);
                let sum: f32 = shares.iter().sum();
                if sum > 0.0 {
                    shares.iter_mut().for_each(|share| *share /= sum);
                }
                shares
            })
            .collect();
        let (new_height, new_width) = (height / 2, width / 2);
        let centre = RADIUS as isize;
        // Place of each offset of the decimated grid.
        let mut place_of = [[usize::MAX; 2 * RADIUS + 1]; 2 * RADIUS + 1];
        for (place, (dy, dx)) in places().enumerate() {
            place_of[(dy + centre) as usize][(dx + centre) as usize] = place;
        }
        let all: Vec<(isize, isize)> = places().collect();
        let mut weights = vec![[0.0f32; NUM_PLACES]; new_height * new_width];
        weights.par_chunks_mut(new_width).enumerate().for_each(|(new_row, out)| {
            for (new_column, out) in out.iter_mut().enumerate() {
                let (row, column) = (2 * new_row + 1, 2 * new_column + 1);
                for (&(dy, dx), &weight) in all.iter().zip(&graph.weights[row * width + column]) {
                    // Weights with pixels outside the grid are 0.
                    if weight == 0.0 {
                        continue;
                    }
                    let (r, c) = (row.wrapping_add_signed(dy), column.wrapping_add_signed(dx));
                    let (rows, columns) =
                        ((r / 2) as isize - new_row as isize + centre, (c / 2) as isize - new_column as isize + centre);
                    let shares = &shares[r * width + c];
                    for (neighbour, share) in kept[parity_of(r, c)].iter().zip(shares) {
                        let place = place_of[(rows + neighbour.rows) as usize][(columns + neighbour.columns) as usize];
                        out[place] += weight * share;
                    }
                }
            }
        });
        (Self { height, width, kept, shares }, Affinity { height: new_height, width: new_width, weights })
    }

    /// Vectors on the decimated grid, carried to all pixels.
    pub(super) fn carry_back(&self, coarse: &Vectors) -> Vectors {
        let mut fine = Vectors::zeros(self.height, self.width, coarse.number);
        for (block, source) in fine.blocks.iter_mut().zip(&coarse.blocks) {
            Vectors::for_each_row(block, (self.height, self.width), |row, out| {
                for (column, out) in out.iter_mut().enumerate() {
                    let here = coarse.at(row / 2, column / 2);
                    let shares = &self.shares[row * self.width + column];
                    let mut sums = Lanes::ZERO;
                    for (neighbour, &share) in self.kept[parity_of(row, column)].iter().zip(shares) {
                        // Shares of pixels outside the grid are 0, and the frame of the block holds what they point at.
                        let at = here as isize + neighbour.rows * coarse.stride() as isize + neighbour.columns;
                        let value = &source[at as usize];
                        sums.iter_mut().zip(value.iter()).for_each(|(sum, value)| *sum += share * value);
                    }
                    *out = sums;
                }
            });
        }
        fine
    }
}

fn parity_of(row: usize, column: usize) -> usize {
    (row & 1) * 2 + (column & 1)
}
