//! Many vectors over the pixels of a grid, 32 side by side.

use nalgebra::DMatrix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use segcore::simd::{Kernel, dispatch};

use super::filter::mul_add;
use crate::pmi::affinity::RADIUS;

/// Vectors of a block: four AVX2 registers. A stencil's weight is read once for all of them.
pub(in crate::pmi) const LANES: usize = 32;
/// Lanes of one register.
const REGISTER: usize = 8;
/// The values of a block's vectors at one pixel. Aligned to a cache line: half of all loads would cross one otherwise.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(in crate::pmi) struct Lanes(pub(in crate::pmi) [f32; LANES]);

impl Lanes {
    pub(in crate::pmi) const ZERO: Self = Self([0.0; LANES]);
}

impl std::ops::Deref for Lanes {
    type Target = [f32; LANES];

    #[inline(always)]
    fn deref(&self) -> &[f32; LANES] {
        &self.0
    }
}

impl std::ops::DerefMut for Lanes {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32; LANES] {
        &mut self.0
    }
}

/// Rows of the grid that are summed up before they are added to the rest: sums do not depend on the threads.
const ROWS_PER_SUM: usize = 8;
/// Rows of a piece of work, and columns: 11 rows of 128 + 10 pixels are 190 kB, which fits a second-level cache.
const BAND: usize = 16;
const STRIP: usize = 128;

/// `number` vectors over `height` × `width` pixels, in blocks of [`LANES`].
///
/// A block is `[height + 2 · RADIUS, width + 2 · RADIUS]` of [`Lanes`], 0 in the frame, so that stencils need no tests at
/// the border.
#[derive(Clone, Debug)]
pub(in crate::pmi) struct Vectors {
    pub(in crate::pmi) height: usize,
    pub(in crate::pmi) width: usize,
    pub(in crate::pmi) number: usize,
    pub(in crate::pmi) blocks: Vec<Vec<Lanes>>,
}

impl Vectors {
    /// Vectors of zeros.
    pub(super) fn zeros(height: usize, width: usize, number: usize) -> Self {
        let length = (height + 2 * RADIUS) * (width + 2 * RADIUS);
        let blocks = (0..number.div_ceil(LANES)).map(|_| vec![Lanes::ZERO; length]).collect();
        Self { height, width, number, blocks }
    }

    /// Always the same random vectors, the first one constant.
    pub(super) fn random(height: usize, width: usize, number: usize) -> Self {
        let mut vectors = Self::zeros(height, width, number);
        for row in 0..height {
            for column in 0..width {
                let at = vectors.at(row, column);
                vectors.blocks[0][at][0] = 1.0;
            }
        }
        vectors.randomise(1..number);
        vectors
    }

    /// Gives the vectors of `range` random values, always the same.
    pub(super) fn randomise(&mut self, range: std::ops::Range<usize>) {
        if range.is_empty() {
            return;
        }
        let mut random = ChaCha8Rng::seed_from_u64(range.start as u64);
        for row in 0..self.height {
            for column in 0..self.width {
                let at = self.at(row, column);
                for vector in range.clone() {
                    self.blocks[vector / LANES][at][vector % LANES] = random.random::<f32>() - 0.5;
                }
            }
        }
    }

    /// Elements from one row of a block to the next.
    pub(in crate::pmi) fn stride(&self) -> usize {
        self.width + 2 * RADIUS
    }

    /// Index of a pixel in a block.
    pub(in crate::pmi) fn at(&self, row: usize, column: usize) -> usize {
        (row + RADIUS) * self.stride() + column + RADIUS
    }

    /// The pixels of a row in a block.
    pub(in crate::pmi) fn row<'a>(&self, block: &'a [Lanes], row: usize) -> &'a [Lanes] {
        &block[self.at(row, 0)..][..self.width]
    }

    /// One vector, row-major.
    pub(super) fn one(&self, index: usize) -> Vec<f32> {
        let block = &self.blocks[index / LANES];
        let rows = (0..self.height).flat_map(|row| self.row(block, row));
        rows.map(|lanes| lanes[index % LANES]).collect()
    }

    /// Forgets all vectors from `number` on.
    pub(super) fn truncate(&mut self, number: usize) {
        self.number = self.number.min(number);
        self.blocks.truncate(self.number.div_ceil(LANES));
        if let (Some(last), used @ 1..) = (self.blocks.last_mut(), self.number % LANES) {
            last.par_iter_mut().for_each(|lanes| lanes[used..].fill(0.0));
        }
    }

    /// Calls `work` with the row, the first column and the pixels of every piece of a block's rows, in parallel.
    ///
    /// A thread goes down a strip of columns before it goes on to the next: what a stencil reads stays in its cache.
    pub(super) fn for_each_piece(
        block: &mut [Lanes],
        (height, width): (usize, usize),
        work: impl Fn(usize, usize, &mut [Lanes]) + Sync,
    ) {
        let stride = width + 2 * RADIUS;
        let rows = &mut block[RADIUS * stride..][..height * stride];
        rows.par_chunks_mut(stride * BAND).enumerate().for_each(|(band, rows)| {
            for first in (0..width).step_by(STRIP) {
                let last = (first + STRIP).min(width);
                for (row, pixels) in rows.chunks_exact_mut(stride).enumerate() {
                    work(band * BAND + row, first, &mut pixels[RADIUS + first..RADIUS + last]);
                }
            }
        });
    }

    /// As [`Vectors::for_each_piece`] for whole rows.
    pub(super) fn for_each_row(
        block: &mut [Lanes],
        (height, width): (usize, usize),
        work: impl Fn(usize, &mut [Lanes]) + Sync,
    ) {
        let stride = width + 2 * RADIUS;
        let rows = &mut block[RADIUS * stride..][..height * stride];
        rows.par_chunks_mut(stride).enumerate().for_each(|(row, pixels)| work(row, &mut pixels[RADIUS..][..width]));
    }

    /// Σ over the pixels of what `add` adds for each row, `[length]`, in 64 bits and in a fixed order.
    pub(super) fn sum_over_rows(height: usize, length: usize, add: impl Fn(usize, &mut [f64]) + Sync) -> Vec<f64> {
        let starts: Vec<usize> = (0..height).step_by(ROWS_PER_SUM).collect();
        let parts: Vec<Vec<f64>> = (starts.par_iter())
            .map(|&start| {
                let mut sums = vec![0.0; length];
                (start..(start + ROWS_PER_SUM).min(height)).for_each(|row| add(row, &mut sums));
                sums
            })
            .collect();
        let mut total = vec![0.0; length];
        for part in parts {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
        total
    }

    /// Vᵀ V.
    pub(super) fn inner_products(&self) -> DMatrix<f64> {
        let mut products = DMatrix::zeros(self.number, self.number);
        for (q, block) in self.blocks.iter().enumerate() {
            self.products_with(q, block, &mut products);
        }
        products
    }

    /// The products of the vectors of blocks 0..=`q` with those of `right`, written into a symmetric matrix, `[number,
    /// number]`, where block `q` stands: for all `q`, they fill Vᵀ A V when `right` is A times block `q`.
    pub(super) fn products_with(&self, q: usize, right: &[Lanes], products: &mut DMatrix<f64>) {
        let sums = Self::sum_over_rows(self.height, (q + 1) * LANES * LANES, |row, sums| {
            let right = self.row(right, row);
            for (left, sums) in self.blocks[..=q].iter().zip(sums.as_chunks_mut().0) {
                dispatch(OuterSum { left: self.row(left, row), right, sums });
            }
        });
        for (at, &sum) in sums.iter().enumerate() {
            let (row, column) = (at / LANES, q * LANES + at % LANES);
            if row <= column && column < self.number {
                products[(row, column)] = sum;
                products[(column, row)] = sum;
            }
        }
    }

    /// V times a matrix `[number, ≤ number]`; vectors beyond its columns are 0.
    pub(super) fn turned(&self, turn: &DMatrix<f64>) -> Self {
        let mut out = Self::zeros(self.height, self.width, self.number);
        let num_rows = self.blocks.len() * LANES;
        let num_columns = turn.ncols().min(self.number);
        for (q, block) in out.blocks.iter_mut().enumerate() {
            let columns: Vec<Lanes> = (0..num_rows)
                .map(|row| {
                    Lanes(std::array::from_fn(|lane| {
                        let column = q * LANES + lane;
                        if row < self.number && column < num_columns { turn[(row, column)] as f32 } else { 0.0 }
                    }))
                })
                .collect();
            Self::for_each_row(block, (self.height, self.width), |row, out| {
                for (block, columns) in self.blocks.iter().zip(columns.as_chunks::<LANES>().0) {
                    dispatch(AddProduct { source: self.row(block, row), columns, out });
                }
            });
        }
        out
    }
}

/// Pixels whose products are summed in 32 bits before they are added up in 64.
const PIXELS_PER_SUM: usize = 64;
/// Rows of the register tile of [`OuterSum`]: 2 · 32 sums are 8 of 16 registers.
const TILE_ROWS: usize = 2;

/// sums += Σ over the pixels of left ⊗ right, `[LANES, LANES]`.
struct OuterSum<'a> {
    left: &'a [Lanes],
    right: &'a [Lanes],
    sums: &'a mut [f64; LANES * LANES],
}

impl Kernel for OuterSum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (left, right) in self.left.chunks(PIXELS_PER_SUM).zip(self.right.chunks(PIXELS_PER_SUM)) {
            for (tile, sums) in self.sums.chunks_exact_mut(TILE_ROWS * LANES).enumerate() {
                let partial = outer_sum::<FMA>(left, right, tile * TILE_ROWS);
                for (sum, &part) in sums.iter_mut().zip(partial.as_flattened().as_flattened()) {
                    *sum += f64::from(part);
                }
            }
        }
    }
}

/// Σ left[first + row] · right for [`TILE_ROWS`] rows, a vector register by register: in this form the compiler keeps
/// them there.
#[inline(always)]
fn outer_sum<const FMA: bool>(
    left: &[Lanes],
    right: &[Lanes],
    first: usize,
) -> [[[f32; REGISTER]; LANES / REGISTER]; TILE_ROWS] {
    let mut sums = [[[0.0f32; REGISTER]; LANES / REGISTER]; TILE_ROWS];
    for (left, right) in left.iter().zip(right) {
        let left = &left[first..first + TILE_ROWS];
        for row in 0..TILE_ROWS {
            for register in 0..LANES / REGISTER {
                for lane in 0..REGISTER {
                    let value = right[register * REGISTER + lane];
                    sums[row][register][lane] = mul_add::<FMA>(left[row], value, sums[row][register][lane]);
                }
            }
        }
    }
    sums
}

/// out += source · columns for every pixel; `columns` is `[LANES, LANES]`.
struct AddProduct<'a> {
    source: &'a [Lanes],
    columns: &'a [Lanes; LANES],
    out: &'a mut [Lanes],
}

impl Kernel for AddProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        const PIXELS: usize = 2;
        let (sources, outs) = (self.source.as_chunks::<PIXELS>(), self.out.as_chunks_mut::<PIXELS>());
        for (source, out) in sources.0.iter().zip(outs.0) {
            add_product::<FMA, PIXELS>(source, self.columns, out);
        }
        for (source, out) in sources.1.iter().zip(outs.1) {
            add_product::<FMA, 1>(&[*source], self.columns, std::array::from_mut(out));
        }
    }
}

#[inline(always)]
fn add_product<const FMA: bool, const PIXELS: usize>(
    source: &[Lanes; PIXELS],
    columns: &[Lanes; LANES],
    out: &mut [Lanes; PIXELS],
) {
    let mut sums = *out;
    for (row, column) in columns.iter().enumerate() {
        for pixel in 0..PIXELS {
            for lane in 0..LANES {
                sums[pixel][lane] = mul_add::<FMA>(source[pixel][row], column[lane], sums[pixel][lane]);
            }
        }
    }
    *out = sums;
}
