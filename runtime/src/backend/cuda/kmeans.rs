//! \[F3\] Spherical k-means on the device.

use segcore::embedding::location_features;
use segcore::hierarchy::NONE;
use segcore::spherical_kmeans::{KmeansSpec, Start};

use super::executor::{Argument, Executor, Kernel, Memory, int, unsupported};
use crate::backend::{BackendError, BackendErrorKind};

/// As in kernels.h.
const CELL_TILE: usize = 32;
const CLUSTER_TILE: usize = 64;
pub(super) const MAX_DIM: usize = 256;
/// Labels that `kmeans_centroids` reads at a time.
const LISTED: usize = 2048;

/// Segments of a map of another size.
pub struct LastSegments<B> {
    /// Slot of each cell, and "none" beyond.
    pub labels: Memory<B, u16>,
    /// Rows and columns.
    pub size: (usize, usize),
    /// `[slots, dim]`.
    pub prototypes: Memory<B, f32>,
}

/// Clusters maps of one size; features, labels and centroids stay on the device.
pub struct Kmeans<E: Executor> {
    spec: KmeansSpec,
    dim: usize,
    size: (usize, usize),
    max_rounds: usize,
    has_run: bool,
    last_warm: bool,
    row_places: Memory<E::Buffer, f32>,
    column_places: Memory<E::Buffer, f32>,
    clustered: Option<Memory<E::Buffer, u8>>,
    initial: Memory<E::Buffer, u16>,
    features: Memory<E::Buffer, f32>,
    scales: Memory<E::Buffer, f32>,
    columns: Memory<E::Buffer, f32>,
    labels: Memory<E::Buffer, u16>,
    similarities: Memory<E::Buffer, f32>,
    areas: Memory<E::Buffer, u32>,
    reseeded: Memory<E::Buffer, u32>,
    changed: Memory<E::Buffer, u32>,
    centroids: Memory<E::Buffer, f32>,
    places: Memory<E::Buffer, f32>,
    centroid_columns: Memory<E::Buffer, f32>,
    prototypes: Memory<E::Buffer, f32>,
}

impl<E: Executor> Kmeans<E> {
    /// For maps of `size` (rows, columns) cells with features of length `dim`; only the cells for which `clustered` is
    /// true take part, all of them when it is none.
    ///
    /// # Errors
    /// When sizes do not fit the kernels, or memory runs out.
    pub fn new(
        executor: &E,
        spec: KmeansSpec,
        dim: usize,
        size: (usize, usize),
        clustered: Option<&[bool]>,
    ) -> Result<Self, BackendError> {
        spec.check().map_err(|error| BackendError::new(BackendErrorKind::Run, error.to_string()))?;
        if dim == 0 || !dim.is_multiple_of(4) || dim > MAX_DIM {
            return Err(unsupported(format!("features have length {dim}, expected a multiple of 4 up to {MAX_DIM}")));
        }
        let num_cells = size.0 * size.1;
        if num_cells == 0 || clustered.is_some_and(|mask| mask.len() != num_cells) {
            return Err(unsupported(format!("the map has {num_cells} cells, the mask another number or both none")));
        }
        int("values of the features", num_cells.next_multiple_of(LISTED) * (dim + 2))?;
        let num_slots = spec.num_slots();
        int("values of the centroids", num_slots.next_multiple_of(CLUSTER_TILE) * (dim + 2))?;
        let location = location_features(size.0, size.1);
        let initial: Vec<u16> = spec.initial_labels(size.0, size.1).collect();
        let mask: Option<Vec<u8>> = clustered.map(|mask| mask.iter().map(|&kept| u8::from(kept)).collect());
        let padded_cells = num_cells.next_multiple_of(CELL_TILE);
        Ok(Self {
            spec,
            dim,
            size,
            max_rounds: usize::MAX,
            has_run: false,
            last_warm: false,
            row_places: Memory::of(executor, &location.rows)?,
            column_places: Memory::of(executor, &location.columns)?,
            clustered: mask.map(|mask| Memory::of(executor, &mask)).transpose()?,
            initial: Memory::of(executor, &initial)?,
            features: Memory::zeros(executor, num_cells * dim)?,
            scales: Memory::zeros(executor, num_cells)?,
            columns: Memory::zeros(executor, padded_cells * (dim + 2))?,
            labels: Memory::of(executor, &vec![NONE; num_cells.next_multiple_of(LISTED)])?,
            similarities: Memory::zeros(executor, num_cells)?,
            areas: Memory::zeros(executor, num_slots)?,
            reseeded: Memory::zeros(executor, num_slots)?,
            changed: Memory::zeros(executor, spec.rounds + 1)?,
            centroids: Memory::zeros(executor, num_slots * dim)?,
            places: Memory::zeros(executor, num_slots * 2)?,
            centroid_columns: Memory::zeros(executor, num_slots.next_multiple_of(CLUSTER_TILE) * (dim + 2))?,
            prototypes: Memory::zeros(executor, num_slots * dim)?,
        })
    }

    /// Makes at most this many rounds from now on; never more than the specification, never less than one.
    pub fn limit_rounds(&mut self, max_rounds: usize) {
        self.max_rounds = max_rounds.max(1);
    }

    /// Rounds of a start from the grid.
    fn rounds(&self) -> usize {
        self.spec.rounds.min(self.max_rounds)
    }

    /// Copies features `[cell, dim]` to the device.
    ///
    /// # Errors
    /// When there are more or fewer.
    pub fn upload(&mut self, executor: &E, features: &[f32]) -> Result<(), BackendError> {
        self.features.upload(executor, features)
    }

    /// Takes the features of the content from the network's output `[dim, padded rows, padded columns]`.
    ///
    /// # Errors
    /// When it has another length or is smaller than the map.
    pub fn gather(
        &mut self,
        executor: &E,
        network: &Memory<E::Buffer, f32>,
        padded: (usize, usize),
    ) -> Result<(), BackendError> {
        super::executor::expect_len("the network's output", padded.0 * padded.1 * self.dim, network.len())?;
        if padded.0 < self.size.0 || padded.1 < self.size.1 {
            return Err(unsupported(format!("the network's map of {padded:?} is smaller than {:?}", self.size)));
        }
        let grid = [(self.size.0 * self.size.1).div_ceil(32) as u32, self.dim.div_ceil(32) as u32];
        let arguments = [
            network.argument(),
            Argument::Int(padded.0 as i32),
            Argument::Int(padded.1 as i32),
            Argument::Int(self.size.0 as i32),
            Argument::Int(self.size.1 as i32),
            Argument::Int(self.dim as i32),
            self.features.argument(),
        ];
        // SAFETY: the arguments are those of `kmeans_gather`; the lengths were just checked and are those of `new`.
        unsafe { executor.launch(Kernel::KmeansGather, grid, 256, &arguments) }
    }

    /// Starts clustering of the features on the device. A warm start without an earlier run is one from the grid.
    ///
    /// # Errors
    /// When a kernel cannot start.
    pub fn run(&mut self, executor: &E, start: Start) -> Result<(), BackendError> {
        let warm = start == Start::Warm && self.has_run;
        self.prepare(executor, warm)?;
        if warm {
            self.assign(executor, 0)?;
            for round in 1..=(self.rounds() - 1).max(1) {
                self.reseed(executor, round)?;
                self.update(executor, round)?;
                self.assign(executor, round)?;
            }
        } else {
            for round in 0..self.rounds() {
                self.update(executor, round)?;
                self.assign(executor, round)?;
            }
        }
        (self.has_run, self.last_warm) = (true, warm);
        self.finish(executor)
    }

    /// Starts the first half: scaled columns of the cells, and the labels of the start.
    fn prepare(&mut self, executor: &E, warm: bool) -> Result<(), BackendError> {
        let num_cells = self.num_cells();
        let padded = num_cells.next_multiple_of(CELL_TILE);
        let arguments = [
            self.features.argument(),
            self.row_places.argument(),
            self.column_places.argument(),
            Argument::Int(num_cells as i32),
            Argument::Int(self.size.1 as i32),
            Argument::Int(self.dim as i32),
            Argument::Int(padded as i32),
            self.scales.argument(),
            self.columns.argument(),
        ];
        // SAFETY: the arguments are those of `kmeans_prepare`; `new` made all memory of these lengths.
        unsafe { executor.launch(Kernel::KmeansPrepare, [(padded / CELL_TILE) as u32, 1], 256, &arguments)? };
        let arguments = [
            self.initial.argument(),
            self.mask(),
            Argument::Int(num_cells as i32),
            Argument::Int(self.labels.len() as i32),
            Argument::Int(i32::from(warm)),
            Argument::Int(self.changed.len() as i32),
            Argument::Int(self.spec.num_slots() as i32),
            self.labels.argument(),
            self.changed.argument(),
            self.areas.argument(),
            self.reseeded.argument(),
        ];
        let num_threads = self.labels.len().max(self.changed.len()).max(self.areas.len());
        // SAFETY: the arguments are those of `kmeans_start`; it writes below the three lengths that it is given.
        unsafe { executor.launch(Kernel::KmeansStart, [num_threads.div_ceil(256) as u32, 1], 256, &arguments) }
    }

    fn assign(&mut self, executor: &E, round: usize) -> Result<(), BackendError> {
        let num_cells = self.num_cells();
        let num_slots = self.spec.num_slots();
        let arguments = [
            self.columns.argument(),
            self.centroid_columns.argument(),
            self.mask(),
            Argument::Int(num_cells as i32),
            Argument::Int(num_cells.next_multiple_of(CELL_TILE) as i32),
            Argument::Int(num_slots as i32),
            Argument::Int(num_slots.next_multiple_of(CLUSTER_TILE) as i32),
            Argument::Int(self.dim as i32 + 2),
            Argument::Int(round as i32),
            self.labels.argument(),
            self.similarities.argument(),
            self.areas.argument(),
            self.changed.argument(),
        ];
        // SAFETY: the arguments are those of `kmeans_assign`; matrices are padded to its tiles, and `round` is below the
        // length of `changed`.
        unsafe { executor.launch(Kernel::KmeansAssign, [num_cells.div_ceil(CELL_TILE) as u32, 1], 128, &arguments) }
    }

    fn reseed(&mut self, executor: &E, round: usize) -> Result<(), BackendError> {
        let arguments = [
            self.similarities.argument(),
            Argument::Int(self.num_cells() as i32),
            Argument::Int(self.spec.num_slots() as i32),
            Argument::Int(round as i32),
            self.changed.argument(),
            self.labels.argument(),
            self.areas.argument(),
            self.reseeded.argument(),
        ];
        // SAFETY: the arguments are those of `kmeans_reseed`, with the lengths of `new`.
        unsafe { executor.launch(Kernel::KmeansReseed, [1, 1], 512, &arguments) }
    }

    fn update(&mut self, executor: &E, round: usize) -> Result<(), BackendError> {
        let num_slots = self.spec.num_slots();
        let arguments = [
            self.features.argument(),
            self.scales.argument(),
            self.row_places.argument(),
            self.column_places.argument(),
            self.labels.argument(),
            Argument::Int(self.num_cells() as i32),
            Argument::Int(self.size.1 as i32),
            Argument::Int(self.dim as i32),
            Argument::Int(num_slots.next_multiple_of(CLUSTER_TILE) as i32),
            Argument::Int(round as i32),
            self.changed.argument(),
            self.areas.argument(),
            self.centroids.argument(),
            self.places.argument(),
            self.centroid_columns.argument(),
        ];
        // SAFETY: the arguments are those of `kmeans_centroids`; labels are padded to what it reads at a time.
        unsafe { executor.launch(Kernel::KmeansCentroids, [num_slots as u32, 1], 256, &arguments) }
    }

    fn finish(&mut self, executor: &E) -> Result<(), BackendError> {
        let arguments = [
            self.features.argument(),
            self.scales.argument(),
            self.labels.argument(),
            Argument::Int(self.num_cells() as i32),
            Argument::Int(self.dim as i32),
            self.prototypes.argument(),
        ];
        // SAFETY: the arguments are those of `kmeans_prototypes`; labels are padded to what it reads at a time.
        unsafe { executor.launch(Kernel::KmeansPrototypes, [self.spec.num_slots() as u32, 1], 256, &arguments) }
    }

    fn mask(&self) -> Argument<'_, E::Buffer> {
        self.clustered.as_ref().map_or(Argument::Null, Memory::argument)
    }

    fn num_cells(&self) -> usize {
        self.size.0 * self.size.1
    }

    /// Sets all bytes of the results, centroids left out: a check sees what was not written.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn poison(&mut self, executor: &E) -> Result<(), BackendError> {
        self.scales.fill(executor, 0xff)?;
        self.columns.fill(executor, 0xff)?;
        self.labels.fill(executor, 0xee)?;
        self.similarities.fill(executor, 0xff)?;
        self.areas.fill(executor, 0xee)?;
        self.reseeded.fill(executor, 0xee)?;
        self.changed.fill(executor, 0xee)?;
        self.prototypes.fill(executor, 0xff)
    }

    /// Replaces what a warm start begins with: centroids `[k, dim + 2]` as [`Kmeans::read_centroids`] gives them.
    ///
    /// # Errors
    /// When there are more or fewer.
    pub fn set_centroids(&mut self, executor: &E, centroids: &[f32]) -> Result<(), BackendError> {
        let (num_slots, depth) = (self.spec.num_slots(), self.dim + 2);
        super::executor::expect_len("the centroids", num_slots * depth, centroids.len())?;
        let padded = num_slots.next_multiple_of(CLUSTER_TILE);
        let mut columns = vec![0.0; padded * depth];
        let (mut features, mut places) = (Vec::new(), Vec::new());
        for (slot, centroid) in centroids.chunks_exact(depth).enumerate() {
            features.extend_from_slice(&centroid[..self.dim]);
            places.extend_from_slice(&centroid[self.dim..]);
            for (d, &value) in centroid.iter().enumerate() {
                columns[d * padded + slot] = value;
            }
        }
        self.centroid_columns.upload(executor, &columns)?;
        self.centroids.upload(executor, &features)?;
        self.places.upload(executor, &places)?;
        self.has_run = true;
        Ok(())
    }

    /// Goes on where `last` ended, whose map had another size: centroids are features and relative places, which mean the
    /// same in a finer or coarser map of the same view. Returns the segments of its last run.
    ///
    /// # Errors
    /// When it has other clusters or features.
    pub fn carry_over(&mut self, last: Self) -> Result<LastSegments<E::Buffer>, BackendError> {
        super::executor::expect_len("the last centroids", self.centroids.len(), last.centroids.len())?;
        super::executor::expect_len("the last clusters", self.areas.len(), last.areas.len())?;
        self.centroids = last.centroids;
        self.places = last.places;
        self.centroid_columns = last.centroid_columns;
        self.has_run = last.has_run;
        Ok(LastSegments { labels: last.labels, size: last.size, prototypes: last.prototypes })
    }

    /// Reads the slot of each cell.
    ///
    /// # Errors
    /// When a kernel failed (also below).
    pub fn read_labels(&self, executor: &E) -> Result<Vec<u16>, BackendError> {
        self.labels.to_vec(executor, self.num_cells())
    }

    /// Reads the cells per slot.
    ///
    /// # Errors
    /// As above.
    pub fn read_areas(&self, executor: &E) -> Result<Vec<u32>, BackendError> {
        self.areas.to_vec(executor, self.areas.len())
    }

    /// Reads the slots that the last run re-seeded, ascending.
    ///
    /// # Errors
    /// As above.
    pub fn read_reseeded(&self, executor: &E) -> Result<Vec<u32>, BackendError> {
        let flags = self.reseeded.to_vec(executor, self.reseeded.len())?;
        Ok((0u32..).zip(flags).filter(|(_, flag)| *flag != 0).map(|(slot, _)| slot).collect())
    }

    /// Reads the prototypes `[k, dim]`.
    ///
    /// # Errors
    /// As above.
    pub fn read_prototypes(&self, executor: &E) -> Result<Vec<f32>, BackendError> {
        self.prototypes.to_vec(executor, self.prototypes.len())
    }

    /// Reads the centroids `[k, dim + 2]`: features, then location (y, x).
    ///
    /// # Errors
    /// As above.
    pub fn read_centroids(&self, executor: &E) -> Result<Vec<f32>, BackendError> {
        let features = self.centroids.to_vec(executor, self.centroids.len())?;
        let places = self.places.to_vec(executor, self.places.len())?;
        let rows = features.chunks_exact(self.dim).zip(places.chunks_exact(2));
        Ok(rows.flat_map(|(feature, place)| feature.iter().chain(place).copied()).collect())
    }

    /// Reads how many assignments the last run made before nothing changed.
    ///
    /// # Errors
    /// As above.
    pub fn read_rounds(&self, executor: &E) -> Result<usize, BackendError> {
        let made = if self.last_warm { (self.rounds() - 1).max(1) + 1 } else { self.rounds() };
        let changed = self.changed.to_vec(executor, made)?;
        Ok(changed.iter().position(|&number| number == 0).map_or(made, |last| last + 1))
    }

    /// Cells per slot on the device.
    pub const fn areas(&self) -> &Memory<E::Buffer, u32> {
        &self.areas
    }

    /// Per slot on the device whether the last run re-seeded it, 0 or 1.
    pub const fn reseeded(&self) -> &Memory<E::Buffer, u32> {
        &self.reseeded
    }

    /// Features on the device, `[cell, dim]`.
    pub const fn features(&self) -> &Memory<E::Buffer, f32> {
        &self.features
    }

    /// Labels on the device, padded with "none".
    pub const fn labels(&self) -> &Memory<E::Buffer, u16> {
        &self.labels
    }

    /// Features of the centroids on the device, `[k, dim]`.
    pub const fn centroids(&self) -> &Memory<E::Buffer, f32> {
        &self.centroids
    }

    /// Locations (y, x) of the centroids on the device, `[k, 2]`.
    pub const fn places(&self) -> &Memory<E::Buffer, f32> {
        &self.places
    }

    /// Prototypes on the device, `[k, dim]`.
    pub const fn prototypes(&self) -> &Memory<E::Buffer, f32> {
        &self.prototypes
    }
}
