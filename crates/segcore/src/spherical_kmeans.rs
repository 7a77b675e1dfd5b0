//! Base segments: spherical k-means over pixel features with location (§3), warm-started on video.

use crate::embedding::{EmbeddingMap, LocationFeatures, MIN_NORM, location_features};
use crate::hierarchy::NONE;
use crate::parallel::{enter_pool, for_each_range};
use crate::sampling::linspace;
use crate::simd::{self, Assign, Assignment, Kernel, PANEL, TILE, dispatch};
use serde::{Deserialize, Serialize};

pub mod scalar;

/// Number of clusters and rounds; part of the model's manifest.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KmeansSpec {
    /// Rows k_y of the initial grid.
    pub grid_rows: usize,
    /// Columns k_x of the initial grid.
    pub grid_columns: usize,
    /// Rounds of (centroid, assign); the method uses 15.
    pub rounds: usize,
}

impl KmeansSpec {
    /// Number of clusters (slots), `grid_rows · grid_columns`.
    #[must_use]
    pub const fn num_slots(&self) -> usize {
        self.grid_rows.saturating_mul(self.grid_columns)
    }

    /// Checks that there is at least one slot and round, and that slots fit 16-bit labels.
    ///
    /// # Errors
    /// [`KmeansError::InvalidSpec`] otherwise.
    pub fn check(&self) -> Result<(), KmeansError> {
        let num_slots = self.num_slots();
        if num_slots == 0 || num_slots >= usize::from(NONE) || self.rounds == 0 {
            return Err(KmeansError::InvalidSpec {
                grid_rows: self.grid_rows,
                grid_columns: self.grid_columns,
                rounds: self.rounds,
            });
        }
        Ok(())
    }

    /// Initial labels of an `h` × `w` map: `y + grid_rows · x` with y = round(linspace(0, k_y − 1, h)), x likewise,
    /// round half to even.
    pub fn initial_labels(&self, h: usize, w: usize) -> impl Iterator<Item = u16> {
        let rows = self.grid_rows;
        let columns = self.grid_columns;
        linspace(0.0, rows.saturating_sub(1) as f32, h).flat_map(move |y| {
            linspace(0.0, columns.saturating_sub(1) as f32, w)
                .map(move |x| (y.round_ties_even() as usize + rows * x.round_ties_even() as usize) as u16)
        })
    }
}

/// Where the centroids come from.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Start {
    /// The grid of initial labels: a first frame, a scene cut, a resize, a still image.
    Grid,
    /// The centroids of this object's last run; [`Start::Grid`] when there was none or the map had another size.
    Warm,
}

/// Why clustering cannot run.
#[derive(Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KmeansError {
    /// No cluster, too many, or no rounds.
    #[error(
        "k-means needs 1 to 65534 slots and at least one round, got a {grid_rows}×{grid_columns} grid and {rounds} rounds"
    )]
    InvalidSpec {
        /// Rows of the grid.
        grid_rows: usize,
        /// Columns of the grid.
        grid_columns: usize,
        /// Rounds.
        rounds: usize,
    },
    /// The embedding has another dimension, no cells, or data of another length.
    #[error(
        "the embedding is [{height}, {width}, {dim}] with {len} values; expected at least one cell, dimension {expected_dim} and {height}·{width}·{dim} values"
    )]
    WrongEmbedding {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Dimension.
        dim: usize,
        /// Values in the buffer.
        len: usize,
        /// Dimension asked for.
        expected_dim: usize,
    },
    /// The mask of clustered cells has another length.
    #[error("the mask has {got} cells, expected {expected}")]
    WrongMask {
        /// Cells of the map.
        expected: usize,
        /// Cells of the mask.
        got: usize,
    },
}

/// Base segments of one frame. Memory is reused from frame to frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentMap {
    /// Rows of cells.
    pub height: usize,
    /// Cells per row.
    pub width: usize,
    /// Number of slots k, empty ones included.
    pub num_slots: usize,
    /// Slot of each cell, `[height, width]`; on a fresh start slot = y + grid_rows · x of the initial grid.
    /// [`NONE`] = not clustered (masked).
    pub labels: Vec<u16>,
    /// Cells per slot, `[k]`; 0 = the slot is empty.
    pub areas: Vec<u32>,
    /// Unit mean of the features (without location) per slot, `[k, m]`; zero for an empty slot.
    pub prototypes: Vec<f32>,
}

/// Clusters embedding maps; owns all scratch memory and, between frames, the centroids.
///
/// Rows are `[v; loc]` scaled to unit length; centroids are normalised sums; a pixel goes to the centroid with the
/// largest cosine, ties to the lowest label. [`Start::Grid`] makes `rounds` rounds of (centroid, assign) and leaves an
/// empty cluster at a zero centroid. [`Start::Warm`] first assigns to the last centroids, then makes `rounds − 1` (at
/// least one) rounds, and re-seeds each empty cluster from the pixel with the lowest similarity to its own centroid.
/// When an assignment changes nothing, the remaining rounds would change nothing either and are skipped.
///
/// Results do not depend on the number of threads: every cluster sums its pixels in raster order.
#[derive(Clone, Debug)]
pub struct SphericalKmeans {
    spec: KmeansSpec,
    dim: usize,
    serial: bool,
    /// Map size of the last run; centroids are valid for it.
    last_size: Option<(usize, usize)>,
    location: LocationFeatures,
    /// 1 / |[v; loc]| per pixel, 0 for a zero vector.
    scales: Vec<f32>,
    /// Pixels as [`Assign`] wants them, `[tiles, dim + 2, TILE]`.
    tiles: Vec<f32>,
    centroids: Vec<f32>,
    panels: Vec<f32>,
    assignments: Vec<Assignment>,
    /// Pixels sorted by label, raster order within a label; `starts[c]..starts[c + 1]` is cluster c.
    order: Vec<u32>,
    starts: Vec<u32>,
    areas: Vec<u32>,
    reseeded: Vec<u32>,
    rounds_run: usize,
    max_rounds: usize,
}

/// Clusters per piece of work in the centroid step: about 10 µs each at 14 pixels per cluster.
const CLUSTERS_PER_PIECE: usize = 8;
/// Tiles per piece of work in the assignment: 96 pixels, about 100 µs at 192 clusters of 130 values.
const TILES_PER_PIECE: usize = 16;

impl SphericalKmeans {
    /// A clusterer for features of length `dim`. With `threads` = 1 it stays on the calling thread; with any other
    /// number (0 = all) it uses the current rayon pool.
    ///
    /// # Errors
    /// When the specification is invalid.
    pub fn new(spec: KmeansSpec, dim: usize, threads: usize) -> Result<Self, KmeansError> {
        spec.check()?;
        Ok(Self {
            spec,
            dim,
            serial: threads == 1,
            last_size: None,
            location: LocationFeatures::default(),
            scales: Vec::new(),
            tiles: Vec::new(),
            centroids: vec![0.0; spec.num_slots() * (dim + 2)],
            panels: vec![0.0; spec.num_slots().div_ceil(PANEL) * PANEL * (dim + 2)],
            assignments: Vec::new(),
            order: Vec::new(),
            starts: Vec::new(),
            areas: Vec::new(),
            reseeded: Vec::new(),
            rounds_run: 0,
            max_rounds: usize::MAX,
        })
    }

    /// The specification given to [`SphericalKmeans::new`].
    #[must_use]
    pub const fn spec(&self) -> &KmeansSpec {
        &self.spec
    }

    /// Makes at most this many rounds from now on; never more than the specification, never less than one.
    pub fn limit_rounds(&mut self, max_rounds: usize) {
        self.max_rounds = max_rounds.max(1);
    }

    /// Lets [`Start::Warm`] go on over a change of the map's size: centroids are features and relative places, which mean
    /// the same in a finer or coarser map of the same view. Without effect before the first run.
    pub fn carry_over(&mut self, height: usize, width: usize) {
        if self.last_size.is_some() {
            self.last_size = Some((height, width));
        }
    }

    /// Centroids of the last assignment, `[k, dim + 2]`: features, then location (y, x); unit length or zero.
    #[must_use]
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// Slots that were re-seeded in the last run, ascending: their segment has nothing to do with that of the frame
    /// before.
    #[must_use]
    pub fn reseeded(&self) -> &[u32] {
        &self.reseeded
    }

    /// Assignments made in the last run (fewer than `rounds` when it converged).
    #[must_use]
    pub const fn rounds_run(&self) -> usize {
        self.rounds_run
    }

    /// Clusters all cells of `map`.
    ///
    /// # Errors
    /// When `map` is empty or has another dimension; `out` is then unchanged.
    pub fn run(&mut self, map: &EmbeddingMap, start: Start, out: &mut SegmentMap) -> Result<(), KmeansError> {
        self.run_masked(map, None, start, out)
    }

    /// Clusters the cells for which `clustered` (`[h, w]`) is true; the others get the label [`NONE`]. Location
    /// features stay those of the whole map.
    ///
    /// # Errors
    /// When `map` is empty or has another dimension, or the mask another length; `out` is then unchanged.
    pub fn run_masked(
        &mut self,
        map: &EmbeddingMap,
        clustered: Option<&[bool]>,
        start: Start,
        out: &mut SegmentMap,
    ) -> Result<(), KmeansError> {
        check_input(map, clustered, self.dim)?;
        enter_pool(self.serial, || self.run_checked(map, clustered, start, out));
        Ok(())
    }

    fn run_checked(&mut self, map: &EmbeddingMap, clustered: Option<&[bool]>, start: Start, out: &mut SegmentMap) {
        let size = (map.height, map.width);
        let warm = start == Start::Warm && self.last_size == Some(size);
        if (self.location.rows.len(), self.location.columns.len()) != size {
            self.location = location_features(map.height, map.width);
        }
        self.pack_pixels(map);
        self.reseeded.clear();
        self.rounds_run = 0;
        let num_tiles = map.num_cells().div_ceil(TILE);
        self.assignments.resize(num_tiles * TILE, Assignment::default());

        let mut rounds = self.spec.rounds.min(self.max_rounds);
        if warm {
            for assignment in &mut self.assignments {
                assignment.label = NONE;
            }
            self.pack_centroids();
            self.assign(map.num_cells(), clustered);
            rounds = (rounds - 1).max(1);
        } else {
            let labels = self.spec.initial_labels(map.height, map.width).chain(std::iter::repeat(NONE));
            for (i, (assignment, label)) in self.assignments.iter_mut().zip(labels).enumerate() {
                let kept = clustered.is_none_or(|c| c.get(i).copied().unwrap_or(false));
                *assignment = Assignment { similarity: 0.0, label: if kept { label } else { NONE }, previous: NONE };
            }
        }
        self.count_areas();
        for _ in 0..rounds {
            if warm {
                self.reseed();
            }
            self.sort_by_label();
            self.update_centroids(map);
            self.pack_centroids();
            self.assign(map.num_cells(), clustered);
            self.count_areas();
            if self.assignments.iter().all(|a| a.label == a.previous) {
                break;
            }
        }
        self.last_size = Some(size);
        self.sort_by_label();
        self.write(map, out);
    }

    /// Scales and packs `[v; loc]` of every pixel into tiles; the last tile is padded with zeros.
    fn pack_pixels(&mut self, map: &EmbeddingMap) {
        let (dim, depth) = (self.dim, self.dim + 2);
        let num_cells = map.num_cells();
        self.scales.resize(num_cells, 0.0);
        self.tiles.resize(num_cells.div_ceil(TILE) * depth * TILE, 0.0);
        let location = &self.location;
        let (width, data) = (map.width, &map.data);
        let at = |i: usize| (location.rows[i / width], location.columns[i % width]);
        for_each_range(0..num_cells, &mut self.scales, 512, self.serial, &|i| i, &|cells, scales| {
            for (i, scale) in cells.zip(scales) {
                let (y, x) = at(i);
                let norm = (simd::squared_norm(&data[i * dim..(i + 1) * dim]) + (y * y + x * x)).sqrt();
                *scale = if norm >= MIN_NORM && norm.is_finite() { norm.recip() } else { 0.0 };
            }
        });
        let scales = &self.scales;
        let num_tiles = num_cells.div_ceil(TILE);
        for_each_range(
            0..num_tiles,
            &mut self.tiles,
            TILES_PER_PIECE,
            self.serial,
            &|t| t * depth * TILE,
            &|range, tiles| {
                for (t, tile) in range.zip(tiles.chunks_exact_mut(depth * TILE)) {
                    for pixel in 0..TILE {
                        let i = t * TILE + pixel;
                        // A pixel that is not finite has scale 0, but 0 · NaN is NaN: write zeros instead.
                        let scale = scales.get(i).copied().unwrap_or(0.0);
                        if scale == 0.0 {
                            tile.iter_mut().skip(pixel).step_by(TILE).for_each(|v| *v = 0.0);
                            continue;
                        }
                        let (y, x) = at(i);
                        let row = data[i * dim..(i + 1) * dim].iter().copied().chain([y, x]);
                        for (out, value) in tile.iter_mut().skip(pixel).step_by(TILE).zip(row) {
                            *out = value * scale;
                        }
                    }
                }
            },
        );
    }

    fn pack_centroids(&mut self) {
        let depth = self.dim + 2;
        pack_panels(&self.centroids, depth, depth, self.serial, &mut self.panels);
    }

    fn assign(&mut self, num_cells: usize, clustered: Option<&[bool]>) {
        let depth = self.dim + 2;
        let (tiles, panels) = (&self.tiles, &self.panels);
        let num_tiles = num_cells.div_ceil(TILE);
        for_each_range(
            0..num_tiles,
            &mut self.assignments,
            TILES_PER_PIECE,
            self.serial,
            &|t| t * TILE,
            &|range, out| {
                let tiles = &tiles[range.start * depth * TILE..range.end * depth * TILE];
                dispatch(Assign { tiles, panels, depth, out });
                for (i, assignment) in (range.start * TILE..).zip(out) {
                    let kept = i < num_cells && clustered.is_none_or(|c| c[i]);
                    if !kept {
                        assignment.label = NONE;
                    }
                }
            },
        );
        self.rounds_run += 1;
    }

    fn count_areas(&mut self) {
        self.areas.clear();
        self.areas.resize(self.spec.num_slots(), 0);
        for assignment in &self.assignments {
            if let Some(area) = self.areas.get_mut(usize::from(assignment.label)) {
                *area += 1;
            }
        }
    }

    /// Gives each empty cluster the pixel with the lowest similarity to its own centroid (distinct pixels; ties to the
    /// first in raster order). A pixel that is alone in its cluster is left there, or that cluster would be empty next.
    fn reseed(&mut self) {
        for slot in 0..self.areas.len() {
            if self.areas[slot] > 0 {
                continue;
            }
            let mut worst: Option<usize> = None;
            for (i, a) in self.assignments.iter().enumerate() {
                let shared = self.areas.get(usize::from(a.label)).is_some_and(|&area| area > 1);
                if shared && worst.is_none_or(|w| a.similarity < self.assignments[w].similarity) {
                    worst = Some(i);
                }
            }
            // Fewer pixels than clusters: the rest stays empty.
            let Some(worst) = worst else { return };
            self.areas[usize::from(self.assignments[worst].label)] -= 1;
            self.areas[slot] = 1;
            self.assignments[worst].label = slot as u16;
            if let Err(place) = self.reseeded.binary_search(&(slot as u32)) {
                self.reseeded.insert(place, slot as u32);
            }
        }
    }

    /// Counting sort of the pixels by label, stable, so that every cluster sums in raster order.
    fn sort_by_label(&mut self) {
        let num_slots = self.spec.num_slots();
        self.starts.clear();
        self.starts.push(0);
        let mut end = 0;
        for &area in &self.areas {
            end += area;
            self.starts.push(end);
        }
        self.order.resize(end as usize, 0);
        for (i, assignment) in self.assignments.iter().enumerate() {
            let label = usize::from(assignment.label);
            if label < num_slots {
                let place = &mut self.starts[label];
                self.order[*place as usize] = i as u32;
                *place += 1;
            }
        }
        // Every start now is its cluster's end: shift back.
        self.starts.copy_within(0..num_slots, 1);
        self.starts[0] = 0;
    }

    fn update_centroids(&mut self, map: &EmbeddingMap) {
        let (dim, depth, width) = (self.dim, self.dim + 2, map.width);
        let Self { order, starts, scales, location, .. } = self;
        for_each_range(
            0..self.spec.num_slots(),
            &mut self.centroids,
            CLUSTERS_PER_PIECE,
            self.serial,
            &|c| c * depth,
            &|clusters, centroids| {
                for (c, centroid) in clusters.zip(centroids.chunks_exact_mut(depth)) {
                    let members = &order[starts[c] as usize..starts[c + 1] as usize];
                    let (features, place) = centroid.split_at_mut(dim);
                    features.fill(0.0);
                    dispatch(SumRows { rows: &map.data, scales, scaled: true, list: members, out: features });
                    let mut sum = [0.0f32; 2];
                    for &i in members {
                        let i = i as usize;
                        sum[0] += location.rows[i / width] * scales[i];
                        sum[1] += location.columns[i % width] * scales[i];
                    }
                    place.copy_from_slice(&sum);
                    crate::embedding::normalize(centroid);
                }
            },
        );
    }

    fn write(&self, map: &EmbeddingMap, out: &mut SegmentMap) {
        let dim = self.dim;
        (out.height, out.width, out.num_slots) = (map.height, map.width, self.spec.num_slots());
        out.labels.clear();
        out.labels.extend(self.assignments[..map.num_cells()].iter().map(|a| a.label));
        out.areas.clear();
        out.areas.extend_from_slice(&self.areas);
        out.prototypes.resize(out.num_slots * dim, 0.0);
        let (order, starts, scales) = (&self.order, &self.starts, &self.scales);
        for_each_range(
            0..out.num_slots,
            &mut out.prototypes,
            CLUSTERS_PER_PIECE,
            self.serial,
            &|c| c * dim,
            &|clusters, prototypes| {
                for (c, prototype) in clusters.zip(prototypes.chunks_exact_mut(dim.max(1))) {
                    let list = &order[starts[c] as usize..starts[c + 1] as usize];
                    prototype.fill(0.0);
                    dispatch(SumRows { rows: &map.data, scales, scaled: false, list, out: prototype });
                    crate::embedding::normalize(prototype);
                }
            },
        );
    }
}

/// Packs the first `used` values of the centroids `[k, depth]` into `panels`, `[panels, used, PANEL]`; the last panel is
/// filled up with the first centroid.
pub(crate) fn pack_panels(centroids: &[f32], depth: usize, used: usize, serial: bool, panels: &mut [f32]) {
    let num_slots = centroids.len() / depth;
    for_each_range(0..num_slots.div_ceil(PANEL), panels, 4, serial, &|p| p * used * PANEL, &|range, panels| {
        for (p, panel) in range.zip(panels.chunks_exact_mut(used * PANEL)) {
            for column in 0..PANEL {
                let slot = p * PANEL + column;
                let slot = if slot < num_slots { slot } else { 0 };
                let centroid = &centroids[slot * depth..][..used];
                for (row, &value) in panel.chunks_exact_mut(PANEL).zip(centroid) {
                    row[column] = value;
                }
            }
        }
    });
}

struct SumRows<'a> {
    rows: &'a [f32],
    scales: &'a [f32],
    scaled: bool,
    list: &'a [u32],
    out: &'a mut [f32],
}

impl Kernel for SumRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        simd::sum_rows(self.rows, self.scales, self.scaled, self.list, self.out);
    }
}

pub(crate) fn check_input(
    map: &EmbeddingMap,
    clustered: Option<&[bool]>,
    expected_dim: usize,
) -> Result<(), KmeansError> {
    let expected_len = map.num_cells().saturating_mul(map.dim);
    if map.dim != expected_dim || map.num_cells() == 0 || map.data.len() != expected_len {
        return Err(KmeansError::WrongEmbedding {
            height: map.height,
            width: map.width,
            dim: map.dim,
            len: map.data.len(),
            expected_dim,
        });
    }
    if let Some(mask) = clustered
        && mask.len() != map.num_cells()
    {
        return Err(KmeansError::WrongMask { expected: map.num_cells(), got: mask.len() });
    }
    Ok(())
}
