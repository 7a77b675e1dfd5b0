//! \[F7\] Labels of cells → labels of pixels, on the device.

use segcore::preprocess::ResizePlan;
use segcore::refine::Refiner;

use super::executor::{Argument, Executor, Kernel, Memory, expect_len, int};
use super::kmeans::Kmeans;
use crate::backend::BackendError;

/// Refines maps of one geometry.
pub struct Refine<E: Executor> {
    cells: (usize, usize),
    dim: usize,
    source_width: usize,
    row_starts: Memory<E::Buffer, u32>,
    column_starts: Memory<E::Buffer, u32>,
    row_sides: Memory<E::Buffer, u32>,
    row_weights: Memory<E::Buffer, f32>,
    row_places: Memory<E::Buffer, f32>,
    column_weights: Memory<E::Buffer, f32>,
    column_places: Memory<E::Buffer, f32>,
    out: Memory<E::Buffer, u16>,
}

impl<E: Executor> Refine<E> {
    /// For frames of `plan.source` whose feature map has stride `stride` and features of length `dim`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(executor: &E, plan: &ResizePlan, stride: usize, dim: usize) -> Result<Self, BackendError> {
        let same = Refiner::new(plan, stride);
        let tables = same.tables();
        let num_pixels = plan.source.num_pixels();
        int("pixels of the source", num_pixels)?;
        let starts = |starts: &[usize]| starts.iter().map(|&start| start as u32).collect::<Vec<u32>>();
        Ok(Self {
            cells: same.cells(),
            dim,
            source_width: plan.source.width,
            row_starts: Memory::of(executor, &starts(tables.row_starts))?,
            column_starts: Memory::of(executor, &starts(tables.column_starts))?,
            row_sides: Memory::of(executor, &tables.row_sides)?,
            row_weights: Memory::of(executor, &tables.row_weights)?,
            row_places: Memory::of(executor, &tables.row_places)?,
            column_weights: Memory::of(executor, &tables.column_weights.concat())?,
            column_places: Memory::of(executor, tables.column_places)?,
            out: Memory::zeros(executor, num_pixels)?,
        })
    }

    /// Starts refinement of what `kmeans` holds.
    ///
    /// # Errors
    /// When its map has another size, or the kernel cannot start.
    pub fn run(&mut self, executor: &E, kmeans: &Kmeans<E>) -> Result<(), BackendError> {
        let (height, width) = self.cells;
        expect_len("the features", height * width * self.dim, kmeans.features().len())?;
        let arguments = [
            kmeans.features().argument(),
            kmeans.labels().argument(),
            kmeans.centroids().argument(),
            kmeans.places().argument(),
            self.row_starts.argument(),
            self.column_starts.argument(),
            self.row_sides.argument(),
            self.row_weights.argument(),
            self.row_places.argument(),
            self.column_weights.argument(),
            self.column_places.argument(),
            Argument::Int(height as i32),
            Argument::Int(width as i32),
            Argument::Int(self.dim as i32),
            Argument::Int(self.source_width as i32),
            self.out.argument(),
        ];
        // SAFETY: the arguments are those of `refine_labels`; the tables are of this geometry, `kmeans` was just seen to
        // have its size, and its labels are slots of its centroids or none.
        unsafe { executor.launch(Kernel::RefineLabels, [(height * width) as u32, 1], 128, &arguments) }
    }

    /// Slots of the source's pixels on the device, `[h, w]`.
    pub const fn slots(&self) -> &Memory<E::Buffer, u16> {
        &self.out
    }

    /// Sets all bytes of the output: a check sees what was not written.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn poison(&mut self, executor: &E) -> Result<(), BackendError> {
        self.out.fill(executor, 0xee)
    }

    /// Reads the slot of every source pixel.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn read(&self, executor: &E) -> Result<Vec<u16>, BackendError> {
        self.out.to_vec(executor, self.out.len())
    }
}
