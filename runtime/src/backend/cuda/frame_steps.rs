//! What lies between the stages of a frame, on the device: are the features numbers, how far are they from the last frame's
//! prototypes, and what is the grouping network given.

use super::executor::{Argument, Executor, Kernel, Memory, expect_len, int, unsupported};
use super::kmeans::{Kmeans, LastSegments};
use crate::backend::BackendError;

/// Most cells of a map's side, as in kernels.h.
pub const MAX_SIDE: usize = 1024;
/// Threads of a block, and cells of a block that compares.
const THREADS: usize = 256;

/// Index that stands for "all values are finite".
pub const NONE_NOT_FINITE: u32 = u32::MAX;

/// Per row and column of a map the lower entry of the position table and the weight of the next one.
#[derive(Clone, Copy, Debug)]
pub struct MapAxes<'a> {
    /// Of the rows.
    pub rows: &'a [(usize, f32)],
    /// Of the columns.
    pub columns: &'a [(usize, f32)],
}

/// The steps for maps of one size, and the memory of what they find.
pub struct FrameSteps<E: Executor> {
    size: (usize, usize),
    dim: usize,
    num_slots: usize,
    extent: usize,
    row_entries: Memory<E::Buffer, u32>,
    row_weights: Memory<E::Buffer, f32>,
    column_entries: Memory<E::Buffer, u32>,
    column_weights: Memory<E::Buffer, f32>,
    first_not_finite: Memory<E::Buffer, u32>,
    sums: Memory<E::Buffer, f64>,
}

impl<E: Executor> FrameSteps<E> {
    /// For maps with these rows and columns. `dim`: length of features; `num_slots`: segments; `extent`: entries of the
    /// position table.
    ///
    /// # Errors
    /// When a side is longer than the kernels take, or memory runs out.
    pub fn new(
        executor: &E,
        MapAxes { rows, columns }: MapAxes<'_>,
        (dim, num_slots, extent): (usize, usize, usize),
    ) -> Result<Self, BackendError> {
        let size = (rows.len(), columns.len());
        if size.0 == 0 || size.1 == 0 || size.0 > MAX_SIDE || size.1 > MAX_SIDE {
            return Err(unsupported(format!("the map has {size:?} cells, expected 1 to {MAX_SIDE} a side")));
        }
        int("values of the positions", 2 * extent * num_slots)?;
        int("values of the features", size.0 * size.1 * dim)?;
        let entries = |axis: &[(usize, f32)]| axis.iter().map(|&(entry, _)| entry as u32).collect::<Vec<_>>();
        let weights = |axis: &[(usize, f32)]| axis.iter().map(|&(_, weight)| weight).collect::<Vec<_>>();
        Ok(Self {
            size,
            dim,
            num_slots,
            extent,
            row_entries: Memory::of(executor, &entries(rows))?,
            row_weights: Memory::of(executor, &weights(rows))?,
            column_entries: Memory::of(executor, &entries(columns))?,
            column_weights: Memory::of(executor, &weights(columns))?,
            first_not_finite: Memory::zeros(executor, 1)?,
            sums: Memory::zeros(executor, 2 * (size.0 * size.1).div_ceil(THREADS))?,
        })
    }

    /// Looks for values that are NaN or infinite; [`FrameSteps::first_not_finite`] then has the index of the first, or
    /// [`NONE_NOT_FINITE`].
    ///
    /// # Errors
    /// When the kernel cannot start.
    pub fn check_finite(&mut self, executor: &E, values: &Memory<E::Buffer, f32>) -> Result<(), BackendError> {
        self.first_not_finite.fill(executor, 0xff)?;
        let num = int("values of the network's output", values.len())?;
        let arguments = [values.argument(), Argument::Int(num), self.first_not_finite.argument()];
        let grid = [values.len().div_ceil(4 * THREADS) as u32, 1];
        // SAFETY: the arguments are those of `frame_first_not_finite`, with the length of the values.
        unsafe { executor.launch(Kernel::FrameFirstNotFinite, grid, THREADS as u32, &arguments) }
    }

    /// Compares the features of `kmeans` with the prototypes of `last`, those of its own last run when it is none;
    /// [`FrameSteps::sums`] then has the parts of the sum.
    ///
    /// # Errors
    /// When lengths do not fit each other, or the kernel cannot start.
    pub fn compare(
        &mut self,
        executor: &E,
        kmeans: &Kmeans<E>,
        last: Option<&LastSegments<E::Buffer>>,
    ) -> Result<(), BackendError> {
        let (labels, size, prototypes) = match last {
            Some(last) => (&last.labels, last.size, &last.prototypes),
            None => (kmeans.labels(), self.size, kmeans.prototypes()),
        };
        let num_cells = self.size.0 * self.size.1;
        expect_len("the features", num_cells * self.dim, kmeans.features().len())?;
        expect_len("the prototypes", self.num_slots * self.dim, prototypes.len())?;
        if labels.len() < size.0 * size.1 {
            expect_len("the last labels", size.0 * size.1, labels.len())?;
        }
        let arguments = [
            kmeans.features().argument(),
            Argument::Int(self.size.0 as i32),
            Argument::Int(self.size.1 as i32),
            Argument::Int(self.dim as i32),
            labels.argument(),
            Argument::Int(size.0 as i32),
            Argument::Int(size.1 as i32),
            prototypes.argument(),
            Argument::Int(self.num_slots as i32),
            self.sums.argument(),
        ];
        let grid = [num_cells.div_ceil(THREADS) as u32, 1];
        // SAFETY: the arguments are those of `frame_distances`; lengths were just checked, `sums` has two numbers a block.
        unsafe { executor.launch(Kernel::FrameDistances, grid, THREADS as u32, &arguments) }
    }

    /// Writes what the grouping network is given for the segments of `kmeans`: features `[dim, slots]`, positions
    /// `[2 · extent, slots]`, valid `[slots]`.
    ///
    /// # Errors
    /// When lengths do not fit each other, or the kernel cannot start.
    pub fn grouping_inputs(
        &mut self,
        executor: &E,
        kmeans: &Kmeans<E>,
        features: &Memory<E::Buffer, f32>,
        positions: &Memory<E::Buffer, f32>,
        valid: &Memory<E::Buffer, f32>,
    ) -> Result<(), BackendError> {
        expect_len("the prototypes", self.num_slots * self.dim, kmeans.prototypes().len())?;
        expect_len("the grouping network's features", self.num_slots * self.dim, features.len())?;
        expect_len("the grouping network's positions", 2 * self.extent * self.num_slots, positions.len())?;
        expect_len("the grouping network's mask", self.num_slots, valid.len())?;
        let arguments = [
            kmeans.prototypes().argument(),
            kmeans.labels().argument(),
            kmeans.areas().argument(),
            Argument::Int(self.size.0 as i32),
            Argument::Int(self.size.1 as i32),
            Argument::Int(self.dim as i32),
            Argument::Int(self.num_slots as i32),
            Argument::Int(self.extent as i32),
            self.row_entries.argument(),
            self.row_weights.argument(),
            self.column_entries.argument(),
            self.column_weights.argument(),
            features.argument(),
            positions.argument(),
            valid.argument(),
        ];
        let grid = [self.num_slots as u32, 1];
        // SAFETY: the arguments are those of `frame_grouping_inputs`; the lengths were just checked, tables are those of
        // `new`, and labels are padded beyond the map.
        unsafe { executor.launch(Kernel::FrameGroupingInputs, grid, THREADS as u32, &arguments) }
    }

    /// Index of the first value that is not finite, on the device.
    pub const fn first_not_finite(&self) -> &Memory<E::Buffer, u32> {
        &self.first_not_finite
    }

    /// Sum and number of compared cells by block, on the device.
    pub const fn sums(&self) -> &Memory<E::Buffer, f64> {
        &self.sums
    }

    /// Mean distance of what [`FrameSteps::sums`] holds; 0 without cells.
    pub fn mean_distance(sums: &[f64]) -> f32 {
        let (mut sum, mut count) = (0.0, 0.0);
        for part in sums.chunks_exact(2) {
            sum += part[0];
            count += part[1];
        }
        if count == 0.0 { 0.0 } else { (sum / count) as f32 }
    }
}
