//! Base segments of pixels at about the price of cells: the paper's clustering at full resolution, without upsampling.
//!
//! The paper upsamples the features to every pixel and clusters those: `stride²` times the work of clustering cells.
//! [`PixelKmeans`] makes the same segments from the cells alone. Between four neighbouring cells (a *quad*) the upsampled
//! vector of a pixel is u = Σ wᵢ eᵢ with the bilinear weights wᵢ, and everything that k-means asks of it is linear:
//!
//! - The product with a centroid is Σ wᵢ (eᵢ·c): one matrix of cells × centroids per round, interpolated.
//! - Its length |u|² = Σ wᵢ wⱼ (eᵢ·eⱼ): products of neighbouring cells, once per frame.
//! - A centroid, the sum of its pixels' vectors, is Σ over cells of the cell times the sum of its weights in those pixels.
//!
//! A pixel goes to the centroid with the largest u·c/|u| + location·c. A product that is smaller at all four corners of a
//! quad is smaller between them: a centroid that is behind another by more than the location can make up cannot win a pixel
//! there and is left out. Few are left (one inside of a segment, then the whole quad is one step), and only their
//! scores are interpolated.
//!
//! The products of all cells with all centroids are kept: 2 MB for 45×60 cells and 192 clusters, half a gigabyte for 128×256
//! cells and the 4096 clusters that a model may have at most.
//!
//! The oracle is [`reference_full_resolution`](crate::refine::reference_full_resolution), which does it plainly: both differ
//! by the rounding of sums alone.

use std::ops::Range;

use crate::embedding::{EmbeddingMap, MIN_NORM, location_features};
use crate::hierarchy::NONE;
use crate::image::ImageSize;
use crate::parallel::{enter_pool, for_each_range};
use crate::refine::source_taps;
use crate::sampling::LinearTap;
use crate::simd::{self, Kernel, PANEL, Products, TILE, dispatch};
use crate::spherical_kmeans::{KmeansError, KmeansSpec, SegmentMap, Start, check_input, pack_panels};

/// What loops over pixels take at a time; quads are padded to whole ones.
const LANES: usize = 8;
/// A centroid is left out when it is behind by more than this: what rounding may do to two scores of at most 1.
const MARGIN: f32 = 1e-5;
const CLUSTERS_PER_PIECE: usize = 8;
const TILES_PER_PIECE: usize = 16;
const NO_LABEL: u32 = NONE as u32;

/// Clusters the pixels between the cells of embedding maps; owns all scratch memory and, between frames, the centroids.
///
/// Rounds, ties, warm start and re-seeding are those of [`SphericalKmeans`](crate::spherical_kmeans::SphericalKmeans) on the
/// upsampled map. Results do not depend on the number of threads.
#[derive(Clone, Debug)]
pub struct PixelKmeans {
    spec: KmeansSpec,
    dim: usize,
    serial: bool,
    geometry: Geometry,
    has_run: bool,
    rows: Vec<QuadRow>,
    neighbours: Vec<Neighbours>,
    /// Cells, `[tiles, dim, TILE]`; zeros where a value is not finite.
    tiles: Vec<f32>,
    centroids: Vec<f32>,
    panels: Vec<f32>,
    /// Location part of the centroids, y and x, as many as columns of the panels.
    places: [Vec<f32>; 2],
    /// Cells × centroids, `[cell, columns of the panels]`.
    products: Vec<f32>,
    areas: Vec<u32>,
    /// (row of quads, place in its list) of the shares, sorted by label; `starts[c]..starts[c + 1]` is cluster c.
    order: Vec<(u32, u32)>,
    starts: Vec<u32>,
    reseeded: Vec<u32>,
    /// Label and cosine with its centroid per pixel, raster order; filled when clusters are re-seeded.
    similarities: Vec<(u32, f32)>,
    rounds_run: usize,
    max_rounds: usize,
}

/// How pixels lie between cells.
#[derive(Clone, Debug, PartialEq)]
struct Geometry {
    content: ImageSize,
    stride: usize,
    cells: (usize, usize),
    columns: Vec<QuadColumn>,
}

/// One column of quads.
#[derive(Clone, Debug, PartialEq)]
struct QuadColumn {
    /// Columns of pixels.
    pixels: Range<usize>,
    /// Cells left and right.
    cells: (usize, usize),
    /// Which of the patterns of a row of quads its quads have.
    pattern: usize,
    /// Location x of the first pixel, of the middle, and half the width.
    place: f32,
    middle: f32,
    half: f32,
}

/// Products of a cell with itself and its neighbours.
#[derive(Clone, Copy, Debug, Default)]
struct Neighbours {
    own: f32,
    right: f32,
    below: f32,
    right_below: f32,
    /// Of the next cell right with the one below.
    left_below: f32,
    finite: bool,
}

/// One row of quads and the rows of pixels in it. Pixels are sorted by quad, each padded to whole [`LANES`].
#[derive(Clone, Debug)]
struct QuadRow {
    /// Rows of pixels.
    pixels: Range<usize>,
    /// Rows of cells above and below.
    cells: (usize, usize),
    /// Location y: middle and half the height.
    middle: f32,
    half: f32,
    /// Quads of the row differ at the image's borders alone.
    patterns: Vec<Pattern>,
    quads: Vec<Quad>,
    /// Cluster per pixel.
    labels: Vec<u32>,
    /// 1 / |u| per pixel; 0 where u is zero or the pixel does not take part.
    lengths: Vec<f32>,
    /// 1 / |[u / |u|; location]| per pixel; 0 where the pixel does not take part (padding never does), else above.
    scales: Vec<f32>,
    /// What clusters have of the quads, from left to right.
    shares: Vec<Share>,
    changed: bool,
    candidates: Vec<u16>,
    /// How far each cluster is behind.
    leads: Vec<f32>,
    /// Per pixel of a quad: best score and its cluster; values and scales of one cluster's pixels.
    scores: Vec<f32>,
    new_labels: Vec<u32>,
    values: Vec<f32>,
    value_scales: Vec<f32>,
}

/// Where the pixels of a quad lie, padded with zeros.
#[derive(Clone, Debug, PartialEq)]
struct Pattern {
    /// Weights of the cells above left, above right, below left, below right.
    weights: [Vec<f32>; 4],
    /// Location y, and location x from the first column on.
    y: Vec<f32>,
    x: Vec<f32>,
}

/// Pixels between four cells.
#[derive(Clone, Copy, Debug, Default)]
struct Quad {
    /// Its pixels, padding included, are `first..first + len` of the row.
    first: usize,
    len: usize,
    /// Which of the row's patterns it has, and location x of its first column.
    pattern: usize,
    place: f32,
    /// Least and largest 1 / |u|.
    lengths: (f32, f32),
    /// Whether a pixel has no direction: then any centroid may win it.
    degenerate: bool,
    /// All that take part, as one share, see [`Of`].
    whole: [Sums; 2],
}

/// Sums over some pixels of a quad.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    num_pixels: u32,
    /// Of the four cells' weights, in the order of [`Pattern::weights`].
    weights: [f32; 4],
    /// Of the location, y and x.
    place: [f32; 2],
}

/// What a cluster has of a quad.
#[derive(Clone, Copy, Debug)]
struct Share {
    label: u16,
    column: u32,
    sums: Sums,
}

/// What is summed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    /// Vectors with location, scaled to unit length.
    Rows = 0,
    /// Features alone, scaled to unit length.
    Features = 1,
}

impl PixelKmeans {
    /// A clusterer for features of length `dim`. With `threads` = 1 it stays on the calling thread; with any other
    /// number (0 = all) it uses the current rayon pool.
    ///
    /// # Errors
    /// When the specification is invalid.
    pub fn new(spec: KmeansSpec, dim: usize, threads: usize) -> Result<Self, KmeansError> {
        spec.check()?;
        let num_columns = spec.num_slots().next_multiple_of(PANEL);
        Ok(Self {
            spec,
            dim,
            serial: threads == 1,
            geometry: Geometry { content: ImageSize::new(0, 0), stride: 0, cells: (0, 0), columns: Vec::new() },
            has_run: false,
            rows: Vec::new(),
            neighbours: Vec::new(),
            tiles: Vec::new(),
            centroids: vec![0.0; spec.num_slots() * (dim + 2)],
            panels: vec![0.0; num_columns * dim],
            places: [vec![0.0; num_columns], vec![0.0; num_columns]],
            products: Vec::new(),
            areas: Vec::new(),
            order: Vec::new(),
            starts: Vec::new(),
            reseeded: Vec::new(),
            similarities: Vec::new(),
            rounds_run: 0,
            max_rounds: usize::MAX,
        })
    }

    /// Makes at most this many rounds from now on; never more than the specification, never less than one.
    pub fn limit_rounds(&mut self, max_rounds: usize) {
        self.max_rounds = max_rounds.max(1);
    }

    /// Centroids of the last assignment, `[k, dim + 2]`: features, then location (y, x); unit length or zero.
    #[must_use]
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// Slots that were re-seeded in the last run, ascending.
    #[must_use]
    pub fn reseeded(&self) -> &[u32] {
        &self.reseeded
    }

    /// Assignments made in the last run (fewer than `rounds` when it converged).
    #[must_use]
    pub const fn rounds_run(&self) -> usize {
        self.rounds_run
    }

    /// Clusters the pixels of `content` (the resized frame without padding), of which `map` has one cell per `stride`; `out`
    /// gets content size. `clustered` (`[h, w]` of the content): which pixels take part; none = all. With
    /// [`Start::Warm`] the last run's centroids are gone on with, whatever size it had.
    ///
    /// # Errors
    /// When `map` is empty or has another dimension, or the mask another length; `out` is then unchanged.
    ///
    /// # Panics
    /// When `stride` is 0.
    pub fn run(
        &mut self,
        map: &EmbeddingMap,
        content: ImageSize,
        stride: usize,
        clustered: Option<&[bool]>,
        start: Start,
        out: &mut SegmentMap,
    ) -> Result<(), KmeansError> {
        check_input(map, None, self.dim.max(1))?;
        if let Some(mask) = clustered
            && mask.len() != content.num_pixels()
        {
            return Err(KmeansError::WrongMask { expected: content.num_pixels(), got: mask.len() });
        }
        enter_pool(self.serial, || self.run_checked(map, content, stride, clustered, start, out));
        Ok(())
    }

    fn run_checked(
        &mut self,
        map: &EmbeddingMap,
        content: ImageSize,
        stride: usize,
        clustered: Option<&[bool]>,
        start: Start,
        out: &mut SegmentMap,
    ) {
        let cells = (map.height, map.width);
        if (self.geometry.content, self.geometry.stride, self.geometry.cells) != (content, stride, cells) {
            self.lay_out(content, stride, cells);
        }
        self.pack_cells(map);
        self.prepare_rows(clustered);
        self.reseeded.clear();
        self.rounds_run = 0;
        let warm = start == Start::Warm && self.has_run;
        let mut rounds = self.spec.rounds.min(self.max_rounds);
        if warm {
            self.rows.iter_mut().for_each(|row| row.labels.fill(NO_LABEL));
            self.assign();
            rounds = (rounds - 1).max(1);
        } else {
            self.set_initial_labels();
            self.sum_shares(Of::Rows);
        }
        for _ in 0..rounds {
            if warm && self.reseed() {
                self.sum_shares(Of::Rows);
            }
            self.update_centroids(map);
            self.assign();
            if self.rows.iter().all(|row| !row.changed) {
                break;
            }
        }
        self.has_run = true;
        self.sum_shares(Of::Features);
        self.write(map, out);
    }

    /// What depends on the sizes alone.
    fn lay_out(&mut self, content: ImageSize, stride: usize, cells: (usize, usize)) {
        let row_taps = source_taps(content.height, content.height, stride, cells.0);
        let column_taps = source_taps(content.width, content.width, stride, cells.1);
        let places = location_features(content.height, content.width);
        let mut patterns: Vec<Vec<LinearTap>> = Vec::new();
        let columns = (0..cells.1).map(|cell| {
            let pixels = pixels_of(&column_taps, cell);
            // The same weights, whatever the cells.
            let taps: Vec<LinearTap> = column_taps[pixels.clone()]
                .iter()
                .map(|tap| LinearTap { nearest: 0, low: 0, high: 0, ..*tap })
                .collect();
            let pattern = patterns.iter().position(|pattern| *pattern == taps).unwrap_or_else(|| {
                patterns.push(taps);
                patterns.len() - 1
            });
            let (middle, half) = extent(&places.columns[pixels.clone()]);
            let place = places.columns.get(pixels.start).copied().unwrap_or(0.0);
            QuadColumn { pixels, cells: (cell, (cell + 1).min(cells.1 - 1)), pattern, place, middle, half }
        });
        let columns: Vec<QuadColumn> = columns.collect();
        let num_slots = self.spec.num_slots();
        self.rows = (0..cells.0)
            .map(|cell| {
                let pixels = pixels_of(&row_taps, cell);
                let row_patterns = (0..patterns.len()).map(|pattern| {
                    let of = columns.iter().find(|column| column.pattern == pattern);
                    let x = of.map_or(&[][..], |column| &places.columns[column.pixels.clone()]);
                    Pattern::new(&row_taps[pixels.clone()], &places.rows[pixels.clone()], &patterns[pattern], x)
                });
                let row_patterns: Vec<Pattern> = row_patterns.collect();
                let mut first = 0;
                let quads = columns.iter().map(|column| {
                    let len = row_patterns[column.pattern].y.len();
                    first += len;
                    let (pattern, place) = (column.pattern, column.place);
                    Quad { first: first - len, len, pattern, place, ..Quad::default() }
                });
                let quads: Vec<Quad> = quads.collect();
                let (middle, half) = extent(&places.rows[pixels.clone()]);
                let longest = quads.iter().map(|quad| quad.len).max().unwrap_or(0);
                QuadRow {
                    cells: (cell, (cell + 1).min(cells.0 - 1)),
                    middle,
                    half,
                    patterns: row_patterns,
                    quads,
                    labels: vec![NO_LABEL; first],
                    lengths: vec![0.0; first],
                    scales: vec![0.0; first],
                    // A pixel each at most; memory is touched where it is used.
                    shares: Vec::with_capacity(pixels.len() * content.width),
                    pixels,
                    changed: false,
                    candidates: Vec::with_capacity(num_slots),
                    leads: vec![0.0; num_slots],
                    scores: vec![0.0; longest],
                    new_labels: vec![NO_LABEL; longest],
                    values: vec![0.0; longest],
                    value_scales: vec![0.0; longest],
                }
            })
            .collect();
        self.order = Vec::with_capacity(content.num_pixels());
        self.similarities = Vec::with_capacity(content.num_pixels());
        self.reseeded = Vec::with_capacity(num_slots);
        let num_cells = cells.0 * cells.1;
        self.neighbours = vec![Neighbours::default(); num_cells];
        self.tiles = vec![0.0; num_cells.next_multiple_of(TILE) * self.dim];
        self.products = vec![0.0; num_cells.next_multiple_of(TILE) * self.places[0].len()];
        self.geometry = Geometry { content, stride, cells, columns };
    }

    /// Packs the cells, and multiplies neighbours.
    fn pack_cells(&mut self, map: &EmbeddingMap) {
        let (dim, num_cells) = (self.dim, map.num_cells());
        for_each_range(0..num_cells, &mut self.neighbours, 256, self.serial, &|i| i, &|range, out| {
            dispatch(MultiplyNeighbours { map, first: range.start, out });
        });
        let neighbours = &self.neighbours;
        let offset = |tile: usize| tile * dim * TILE;
        let num_tiles = num_cells.div_ceil(TILE);
        for_each_range(0..num_tiles, &mut self.tiles, TILES_PER_PIECE, self.serial, &offset, &|range, tiles| {
            for (t, tile) in range.zip(tiles.chunks_exact_mut(dim * TILE)) {
                for column in 0..TILE {
                    let cell = t * TILE + column;
                    let places = tile.iter_mut().skip(column).step_by(TILE);
                    match neighbours.get(cell) {
                        Some(Neighbours { finite: true, .. }) => {
                            let values = &map.data[cell * dim..(cell + 1) * dim];
                            places.zip(values).for_each(|(place, &value)| *place = value);
                        }
                        _ => places.for_each(|place| *place = 0.0),
                    }
                }
            }
        });
    }

    /// Lengths of the upsampled vectors, and the sums over whole quads.
    fn prepare_rows(&mut self, clustered: Option<&[bool]>) {
        let Self { geometry, rows, neighbours, serial, .. } = self;
        for_each_range(0..rows.len(), rows, 1, *serial, &|y| y, &|_, rows| {
            for row in rows {
                dispatch(PrepareRow { geometry, neighbours, clustered, row });
            }
        });
    }

    fn set_initial_labels(&mut self) {
        let ImageSize { width, height } = self.geometry.content;
        let mut labels = self.spec.initial_labels(height, width);
        for row in &mut self.rows {
            for y in 0..row.pixels.len() {
                for (column, quad) in self.geometry.columns.iter().zip(&row.quads) {
                    let first = quad.first + y * column.pixels.len();
                    for (at, label) in (first..first + column.pixels.len()).zip(&mut labels) {
                        row.labels[at] = if row.scales[at] > 0.0 { u32::from(label) } else { NO_LABEL };
                    }
                }
            }
        }
    }

    /// Assigns every pixel to its best centroid, and sums the shares of the clusters in the quads.
    fn assign(&mut self) {
        let (dim, depth) = (self.dim, self.dim + 2);
        pack_panels(&self.centroids, depth, dim, self.serial, &mut self.panels);
        let num_slots = self.spec.num_slots();
        for (axis, places) in self.places.iter_mut().enumerate() {
            for (place, centroid) in places.iter_mut().zip(self.centroids.chunks_exact(depth)) {
                *place = centroid[dim + axis];
            }
        }
        let (tiles, panels, row_len) = (&self.tiles, &self.panels, self.places[0].len());
        let num_tiles = tiles.len() / (dim * TILE);
        let offset = |tile: usize| tile * TILE * row_len;
        for_each_range(0..num_tiles, &mut self.products, TILES_PER_PIECE, self.serial, &offset, &|range, out| {
            let tiles = &tiles[range.start * dim * TILE..range.end * dim * TILE];
            dispatch(Products { tiles, panels, depth: dim, out });
        });
        let Self { geometry, rows, places, products, .. } = self;
        for_each_range(0..rows.len(), rows, 1, self.serial, &|y| y, &|_, rows| {
            for row in rows {
                dispatch(AssignRow { geometry, places, products, num_slots, row });
            }
        });
        self.rounds_run += 1;
    }

    /// Sums the shares of the clusters in the quads anew, with the labels as they are.
    fn sum_shares(&mut self, of: Of) {
        let num_slots = self.spec.num_slots();
        for_each_range(0..self.rows.len(), &mut self.rows, 1, self.serial, &|y| y, &|_, rows| {
            for row in rows {
                dispatch(SumRow { of, num_slots, row });
            }
        });
    }

    /// Sorts the shares by label, in the order of the quads within a label, and counts pixels.
    fn sort_shares(&mut self) {
        let num_slots = self.spec.num_slots();
        self.areas.clear();
        self.areas.resize(num_slots, 0);
        self.starts.clear();
        self.starts.resize(num_slots + 1, 0);
        for share in self.rows.iter().flat_map(|row| &row.shares) {
            self.areas[usize::from(share.label)] += share.sums.num_pixels;
            self.starts[usize::from(share.label) + 1] += 1;
        }
        for slot in 0..num_slots {
            self.starts[slot + 1] += self.starts[slot];
        }
        self.order.resize(self.starts[num_slots] as usize, (0, 0));
        for (y, row) in self.rows.iter().enumerate() {
            for (i, share) in row.shares.iter().enumerate() {
                let place = &mut self.starts[usize::from(share.label)];
                self.order[*place as usize] = (y as u32, i as u32);
                *place += 1;
            }
        }
        // Every start now is its cluster's end: shift back.
        self.starts.copy_within(0..num_slots, 1);
        self.starts[0] = 0;
    }

    fn update_centroids(&mut self, map: &EmbeddingMap) {
        self.sort_shares();
        let mut centroids = std::mem::take(&mut self.centroids);
        self.sum_clusters(map, self.dim + 2, &mut centroids);
        self.centroids = centroids;
    }

    /// Unit sums of the clusters, `[k, len]`; `len` is the length of a feature vector with or without location.
    fn sum_clusters(&self, map: &EmbeddingMap, len: usize, out: &mut [f32]) {
        let Self { dim, rows, order, starts, neighbours, geometry, .. } = self;
        let num_slots = self.spec.num_slots();
        for_each_range(0..num_slots, out, CLUSTERS_PER_PIECE, self.serial, &|c| c * len, &|clusters, out| {
            for (cluster, sum) in clusters.zip(out.chunks_exact_mut(len)) {
                sum.fill(0.0);
                let order = &order[starts[cluster] as usize..starts[cluster + 1] as usize];
                let (features, place) = sum.split_at_mut(*dim);
                dispatch(SumCorners { map, geometry, neighbours, rows, order, features, place });
                crate::embedding::normalize(sum);
            }
        });
    }

    /// Gives each empty cluster the pixel with the lowest similarity to its own centroid, as
    /// [`SphericalKmeans`](crate::spherical_kmeans::SphericalKmeans) does; whether there was one.
    fn reseed(&mut self) -> bool {
        self.sort_shares();
        if !self.areas.contains(&0) {
            return false;
        }
        self.measure_similarities();
        for slot in 0..self.areas.len() {
            if self.areas[slot] > 0 {
                continue;
            }
            let mut worst: Option<usize> = None;
            for (pixel, &(label, similarity)) in self.similarities.iter().enumerate() {
                let shared = self.areas.get(label as usize).is_some_and(|&area| area > 1);
                if shared && worst.is_none_or(|worst| similarity < self.similarities[worst].1) {
                    worst = Some(pixel);
                }
            }
            // Fewer pixels than clusters: the rest stays empty.
            let Some(pixel) = worst else { break };
            let label = &mut self.similarities[pixel].0;
            self.areas[*label as usize] -= 1;
            self.areas[slot] = 1;
            *label = slot as u32;
            if let Err(place) = self.reseeded.binary_search(&(slot as u32)) {
                self.reseeded.insert(place, slot as u32);
            }
        }
        let (columns, mut pixels) = (&self.geometry.columns, self.similarities.iter());
        for row in &mut self.rows {
            for y in 0..row.pixels.len() {
                for (column, quad) in columns.iter().zip(&row.quads) {
                    let labels = &mut row.labels[quad.first + y * column.pixels.len()..][..column.pixels.len()];
                    for (label, (new, _)) in labels.iter_mut().zip(&mut pixels) {
                        *label = *new;
                    }
                }
            }
        }
        true
    }

    /// Label of every pixel and cosine with its centroid.
    fn measure_similarities(&mut self) {
        let Self { geometry, rows, places, products, similarities, .. } = self;
        let row_len = places[0].len();
        similarities.clear();
        for row in rows.iter() {
            for y in 0..row.pixels.len() {
                for (column, quad) in geometry.columns.iter().zip(&row.quads) {
                    let cells = corners(geometry, row, column);
                    let pattern = &row.patterns[column.pattern];
                    for i in (y * column.pixels.len()..).take(column.pixels.len()) {
                        let at = quad.first + i;
                        let label = row.labels[at];
                        let slot = label as usize;
                        let similarity = if slot < self.spec.num_slots() {
                            let corner = |c: usize| pattern.weights[c][i] * products[cells[c] * row_len + slot];
                            let product = (corner(0) + corner(1)) + (corner(2) + corner(3));
                            let x = column.place + pattern.x[i];
                            let place = places[0][slot] * pattern.y[i] + places[1][slot] * x;
                            (product * row.lengths[at] + place) * row.scales[at]
                        } else {
                            0.0
                        };
                        similarities.push((label, similarity));
                    }
                }
            }
        }
    }

    fn write(&mut self, map: &EmbeddingMap, out: &mut SegmentMap) {
        let ImageSize { width, height } = self.geometry.content;
        (out.height, out.width, out.num_slots) = (height, width, self.spec.num_slots());
        out.labels.clear();
        for row in &self.rows {
            for y in 0..row.pixels.len() {
                for (column, quad) in self.geometry.columns.iter().zip(&row.quads) {
                    let labels = &row.labels[quad.first + y * column.pixels.len()..][..column.pixels.len()];
                    out.labels.extend(labels.iter().map(|&label| label as u16));
                }
            }
        }
        self.sort_shares();
        out.areas.clear();
        out.areas.extend_from_slice(&self.areas);
        out.prototypes.resize(out.num_slots * self.dim, 0.0);
        self.sum_clusters(map, self.dim, &mut out.prototypes);
    }
}

/// The pixels of one axis between this cell and the next.
fn pixels_of(taps: &[LinearTap], cell: usize) -> Range<usize> {
    taps.partition_point(|tap| tap.low < cell)..taps.partition_point(|tap| tap.low <= cell)
}

/// Middle and half the length of ascending places.
fn extent(places: &[f32]) -> (f32, f32) {
    let (first, last) = (places.first().copied().unwrap_or(0.0), places.last().copied().unwrap_or(0.0));
    (0.5 * (first + last), 0.5 * (last - first))
}

impl Pattern {
    fn new(rows: &[LinearTap], y: &[f32], columns: &[LinearTap], x: &[f32]) -> Self {
        let len = (rows.len() * columns.len()).next_multiple_of(LANES);
        let table = |value: &dyn Fn(usize, usize) -> f32| {
            let mut values: Vec<f32> = (0..rows.len())
                .flat_map(|y| (0..columns.len()).map(move |x| (y, x)))
                .map(|(y, x)| value(y, x))
                .collect();
            values.resize(len, 0.0);
            values
        };
        let below = |y: usize, corner: usize| if corner < 2 { 1.0 - rows[y].weight } else { rows[y].weight };
        let right = |x: usize, corner: usize| {
            if corner.is_multiple_of(2) { 1.0 - columns[x].weight } else { columns[x].weight }
        };
        Self {
            weights: std::array::from_fn(|corner| table(&|y, x| below(y, corner) * right(x, corner))),
            y: table(&|row, _| y[row]),
            x: table(&|_, column| x[column] - x[0]),
        }
    }
}

/// The four cells around a quad, as numbers of cells.
#[inline(always)]
fn corners(geometry: &Geometry, row: &QuadRow, column: &QuadColumn) -> [usize; 4] {
    let width = geometry.cells.1;
    let ((above, below), (left, right)) = (row.cells, column.cells);
    [above * width + left, above * width + right, below * width + left, below * width + right]
}

#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

struct MultiplyNeighbours<'a> {
    map: &'a EmbeddingMap,
    first: usize,
    out: &'a mut [Neighbours],
}

impl Kernel for MultiplyNeighbours<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { map, first, out } = self;
        for (i, out) in (first..).zip(out) {
            let (y, x) = (i / map.width, i % map.width);
            let (below, right) = ((y + 1).min(map.height - 1), (x + 1).min(map.width - 1));
            let own = map.cell(y, x);
            let squared = simd::dot::<FMA>(own, own);
            *out = Neighbours {
                own: squared,
                right: simd::dot::<FMA>(own, map.cell(y, right)),
                below: simd::dot::<FMA>(own, map.cell(below, x)),
                right_below: simd::dot::<FMA>(own, map.cell(below, right)),
                left_below: simd::dot::<FMA>(map.cell(y, right), map.cell(below, x)),
                finite: squared.is_finite(),
            };
        }
    }
}

/// 1 / √`squared`. A pixel without direction in the very middle of the image takes part without weight, so never zero.
#[inline(always)]
fn scale_of(squared: f32) -> f32 {
    if squared >= MIN_NORM * MIN_NORM { 1.0 / squared.sqrt() } else { f32::MIN_POSITIVE }
}

struct PrepareRow<'a> {
    geometry: &'a Geometry,
    neighbours: &'a [Neighbours],
    clustered: Option<&'a [bool]>,
    row: &'a mut QuadRow,
}

impl Kernel for PrepareRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { geometry, neighbours, clustered, row } = self;
        for (column, number) in geometry.columns.iter().zip(0..) {
            let Quad { first, len, .. } = row.quads[number];
            let [g0, g1, g2, g3] = corners(geometry, row, column).map(|cell| neighbours[cell]);
            let finite = g0.finite && g1.finite && g2.finite && g3.finite;
            let pattern = &row.patterns[column.pattern];
            let [w0, w1, w2, w3] = [0, 1, 2, 3].map(|corner| &pattern.weights[corner][..len]);
            let (y, x) = (&pattern.y[..len], &pattern.x[..len]);
            let lengths = &mut row.lengths[first..first + len];
            let scales = &mut row.scales[first..first + len];
            // Repeated cells at the right and lower edge have weight 0; any numbers will do for their products.
            let (own, twice) = ([g0.own, g1.own, g2.own, g3.own], |product: f32| 2.0 * product);
            let [g01, g02, g03] = [g0.right, g0.below, g0.right_below].map(twice);
            let [g12, g13, g23] = [g0.left_below, g1.below, g2.right].map(twice);
            for i in 0..len {
                let squared = w0[i] * (own[0] * w0[i] + g01 * w1[i] + g02 * w2[i] + g03 * w3[i])
                    + w1[i] * (own[1] * w1[i] + g12 * w2[i] + g13 * w3[i])
                    + w2[i] * (own[2] * w2[i] + g23 * w3[i])
                    + own[3] * w3[i] * w3[i];
                let has_direction = squared >= MIN_NORM * MIN_NORM;
                lengths[i] = if has_direction { 1.0 / squared.sqrt() } else { 0.0 };
                let place = y[i] * y[i] + (column.place + x[i]) * (column.place + x[i]);
                let unit = if has_direction { 1.0 } else { 0.0 };
                scales[i] = scale_of(unit + place);
            }
            if !finite {
                lengths.fill(0.0);
                for i in 0..len {
                    let place = y[i] * y[i] + (column.place + x[i]) * (column.place + x[i]);
                    scales[i] = scale_of(place);
                }
            }
            let width = column.pixels.len();
            scales[row.pixels.len() * width..].fill(0.0);
            if let Some(mask) = clustered {
                for (y, scales) in row.pixels.clone().zip(scales.chunks_exact_mut(width.max(1))) {
                    let mask = &mask[y * geometry.content.width..][column.pixels.clone()];
                    for (scale, _) in scales.iter_mut().zip(mask).filter(|(_, kept)| !**kept) {
                        *scale = 0.0;
                    }
                }
            }
            let (mut least, mut most, mut degenerate) = (f32::INFINITY, 0.0f32, false);
            for (length, scale) in lengths.iter_mut().zip(&*scales) {
                if *scale == 0.0 {
                    *length = 0.0;
                } else {
                    degenerate |= *length == 0.0;
                    least = least.min(*length);
                    most = most.max(*length);
                }
            }
            let quad = &mut row.quads[number];
            (quad.lengths, quad.degenerate) = ((least, most), degenerate);
            for of in [Of::Rows, Of::Features] {
                row.quads[number].whole[of as usize] = sum_pixels::<FMA>(row, number, of, None);
            }
        }
    }
}

/// Sums over the pixels of a quad that have this label, or all that take part.
#[inline(always)]
fn sum_pixels<const FMA: bool>(row: &mut QuadRow, number: usize, of: Of, label: Option<u32>) -> Sums {
    let Quad { first, len, pattern, place, .. } = row.quads[number];
    let pattern = &row.patterns[pattern];
    let (values, value_scales) = (&mut row.values[..len], &mut row.value_scales[..len]);
    let (lengths, scales) = (&row.lengths[first..first + len], &row.scales[first..first + len]);
    let mut num_pixels = 0;
    if let Some(label) = label {
        let labels = &row.labels[first..first + len];
        for i in 0..len {
            let hit = labels[i] == label;
            num_pixels += u32::from(hit);
            value_scales[i] = if hit { scales[i] } else { 0.0 };
            values[i] = if hit { lengths[i] } else { 0.0 };
        }
    } else {
        for i in 0..len {
            num_pixels += u32::from(scales[i] > 0.0);
        }
        value_scales.copy_from_slice(scales);
        values.copy_from_slice(lengths);
    }
    if num_pixels == 0 {
        return Sums::default();
    }
    if of == Of::Rows {
        for i in 0..len {
            values[i] *= value_scales[i];
        }
    }
    let y = simd::dot::<FMA>(value_scales, &pattern.y);
    let x = simd::dot::<FMA>(value_scales, &pattern.x) + place * sum(value_scales);
    // Four calls, because a closure would not be compiled for the vector instructions.
    let [w0, w1, w2, w3] = &pattern.weights;
    let weights = [
        simd::dot::<FMA>(values, w0),
        simd::dot::<FMA>(values, w1),
        simd::dot::<FMA>(values, w2),
        simd::dot::<FMA>(values, w3),
    ];
    Sums { num_pixels, weights, place: [y, x] }
}

/// Sum of whole [`LANES`].
#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            sums[i] += values[i];
        }
    }
    sums.iter().sum()
}

struct SumRow<'a> {
    of: Of,
    num_slots: usize,
    row: &'a mut QuadRow,
}

impl Kernel for SumRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { of, num_slots, row } = self;
        row.shares.clear();
        for number in 0..row.quads.len() {
            let Quad { first, len, .. } = row.quads[number];
            row.candidates.clear();
            for &label in &row.labels[first..first + len] {
                let label = label as u16;
                if usize::from(label) < num_slots
                    && row.candidates.last() != Some(&label)
                    && !row.candidates.contains(&label)
                {
                    row.candidates.push(label);
                }
            }
            share_out::<FMA>(row, number, of);
        }
    }
}

/// Adds the shares of a quad's candidates.
#[inline(always)]
fn share_out<const FMA: bool>(row: &mut QuadRow, number: usize, of: Of) {
    for place in 0..row.candidates.len() {
        let label = row.candidates[place];
        let sums = match row.candidates.len() {
            1 => row.quads[number].whole[of as usize],
            _ => sum_pixels::<FMA>(row, number, of, Some(u32::from(label))),
        };
        if sums.num_pixels > 0 {
            row.shares.push(Share { label, column: number as u32, sums });
        }
    }
}

struct AssignRow<'a> {
    geometry: &'a Geometry,
    places: &'a [Vec<f32>; 2],
    products: &'a [f32],
    num_slots: usize,
    row: &'a mut QuadRow,
}

impl Kernel for AssignRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { geometry, places, products, num_slots, row } = self;
        let row_len = places[0].len();
        row.shares.clear();
        row.changed = false;
        for (number, column) in geometry.columns.iter().enumerate() {
            if row.quads[number].whole[0].num_pixels == 0 {
                continue;
            }
            let products = corners(geometry, row, column).map(|cell| &products[cell * row_len..][..num_slots]);
            let places = [&places[0][..num_slots], &places[1][..num_slots]];
            find_candidates(column, places, products, row, number);
            match row.candidates[..] {
                [label] => assign_whole(row, number, label),
                _ => assign_pixels::<FMA>(places, products, row, number),
            }
            share_out::<FMA>(row, number, Of::Rows);
        }
    }
}

/// How far one cluster is ahead of another at least, anywhere in a quad: by the least of the leads at its corners, times the
/// least or largest of the `lengths`, and by the least that the location gives (middle and half the extent of y and x).
#[inline(always)]
fn lead((least, most): (f32, f32), [vertical, horizontal]: [(f32, f32); 2], corners: [f32; 4], place: [f32; 2]) -> f32 {
    let min = |a: f32, b: f32| if a < b { a } else { b };
    let product = min(min(corners[0], corners[1]), min(corners[2], corners[3]));
    let product = min(product * least, product * most);
    let [y, x] = place;
    product + (y * vertical.0 + x * horizontal.0) - (y.abs() * vertical.1 + x.abs() * horizontal.1)
}

/// Whether a cluster that is behind by `lead` stays in; so does one whose lead is not a number.
#[inline(always)]
fn may_win(lead: f32) -> bool {
    lead <= MARGIN || lead.is_nan()
}

/// Leaves the clusters in `row.candidates`, ascending, that may win a pixel of the quad.
#[inline(always)]
fn find_candidates(column: &QuadColumn, places: [&[f32]; 2], products: [&[f32]; 4], row: &mut QuadRow, number: usize) {
    let QuadRow { quads, candidates, leads, labels, middle, half, .. } = row;
    let quad = &quads[number];
    let num_slots = leads.len();
    candidates.clear();
    if quad.degenerate {
        candidates.extend(0..num_slots as u16);
        return;
    }
    let (lengths, extents) = (quad.lengths, [(*middle, *half), (column.middle, column.half)]);
    // Who has a pixel in the middle is likely to have it again; but whoever is taken here, the bound holds.
    let rival = labels[quad.first + quad.len / 2] as usize;
    let rival = if rival < num_slots { rival } else { 0 };
    let ([p0, p1, p2, p3], [y, x]) = (products, places);
    let of_rival = [p0[rival], p1[rival], p2[rival], p3[rival]];
    let (y_rival, x_rival) = (y[rival], x[rival]);
    let (p0, p1, p2, p3) = (&p0[..num_slots], &p1[..num_slots], &p2[..num_slots], &p3[..num_slots]);
    let (y, x) = (&y[..num_slots], &x[..num_slots]);
    for slot in 0..num_slots {
        let corners = [of_rival[0] - p0[slot], of_rival[1] - p1[slot], of_rival[2] - p2[slot], of_rival[3] - p3[slot]];
        leads[slot] = lead(lengths, extents, corners, [y_rival - y[slot], x_rival - x[slot]]);
    }
    for (chunk, first) in leads.chunks(LANES).zip((0..).step_by(LANES)) {
        if chunk.iter().fold(true, |all, &lead| all & (lead > MARGIN)) {
            continue;
        }
        let near = chunk.iter().zip(first..).filter(|(lead, _)| may_win(**lead));
        candidates.extend(near.map(|(_, slot): (_, u16)| slot));
    }
    if candidates.len() <= 2 {
        return;
    }
    // A better rival leaves fewer: the best in the middle.
    let mut best = (usize::from(candidates[0]), f32::NEG_INFINITY);
    for slot in candidates.iter().map(|&slot| usize::from(slot)) {
        let product = (p0[slot] + p1[slot]) + (p2[slot] + p3[slot]);
        let score = product * 0.125 * (lengths.0 + lengths.1) + y[slot] * extents[0].0 + x[slot] * extents[1].0;
        if score > best.1 {
            best = (slot, score);
        }
    }
    let rival = best.0;
    candidates.retain(|&slot| {
        let slot = usize::from(slot);
        let corners = [p0[rival] - p0[slot], p1[rival] - p1[slot], p2[rival] - p2[slot], p3[rival] - p3[slot]];
        may_win(lead(lengths, extents, corners, [y[rival] - y[slot], x[rival] - x[slot]]))
    });
}

/// All pixels of a quad that take part to one cluster.
#[inline(always)]
fn assign_whole(row: &mut QuadRow, number: usize, label: u16) {
    let Quad { first, len, .. } = row.quads[number];
    let (labels, scales) = (&mut row.labels[first..first + len], &row.scales[first..first + len]);
    let mut changed = 0;
    for i in 0..len {
        let new = if scales[i] > 0.0 { u32::from(label) } else { NO_LABEL };
        changed |= labels[i] ^ new;
        labels[i] = new;
    }
    row.changed |= changed != 0;
}

/// Each pixel of a quad to the best candidate, ties to the lowest.
#[inline(always)]
fn assign_pixels<const FMA: bool>(places: [&[f32]; 2], products: [&[f32]; 4], row: &mut QuadRow, number: usize) {
    let Quad { first, len, pattern, place, .. } = row.quads[number];
    let pattern = &row.patterns[pattern];
    let [w0, w1, w2, w3] = [0, 1, 2, 3].map(|corner| &pattern.weights[corner][..len]);
    let (y, x) = (&pattern.y[..len], &pattern.x[..len]);
    let (lengths, scales) = (&row.lengths[first..first + len], &row.scales[first..first + len]);
    let (scores, new) = (&mut row.scores[..len], &mut row.new_labels[..len]);
    scores.fill(f32::NEG_INFINITY);
    new.fill(row.candidates.first().map_or(NO_LABEL, |&slot| u32::from(slot)));
    for &slot in &row.candidates {
        let (label, slot) = (u32::from(slot), usize::from(slot));
        let [p0, p1, p2, p3] = products.map(|products| products[slot]);
        let (slope_y, slope_x) = (places[0][slot], places[1][slot]);
        let start = slope_x * place;
        for i in 0..len {
            let top = mul_add::<FMA>(w0[i], p0, w1[i] * p1);
            let product = mul_add::<FMA>(w2[i], p2, mul_add::<FMA>(w3[i], p3, top));
            let place = mul_add::<FMA>(y[i], slope_y, mul_add::<FMA>(x[i], slope_x, start));
            let score = mul_add::<FMA>(product, lengths[i], place);
            let better = score > scores[i];
            scores[i] = if better { score } else { scores[i] };
            new[i] = if better { label } else { new[i] };
        }
    }
    let labels = &mut row.labels[first..first + len];
    let mut changed = 0;
    for i in 0..len {
        let new = if scales[i] > 0.0 { new[i] } else { NO_LABEL };
        changed |= labels[i] ^ new;
        labels[i] = new;
    }
    row.changed |= changed != 0;
}

struct SumCorners<'a> {
    map: &'a EmbeddingMap,
    geometry: &'a Geometry,
    neighbours: &'a [Neighbours],
    rows: &'a [QuadRow],
    order: &'a [(u32, u32)],
    features: &'a mut [f32],
    place: &'a mut [f32],
}

impl Kernel for SumCorners<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { map, geometry, neighbours, rows, order, features, place } = self;
        let dim = features.len();
        for &(y, i) in order {
            let row = &rows[y as usize];
            let Share { column, sums, .. } = &row.shares[i as usize];
            for (place, sum) in place.iter_mut().zip(sums.place) {
                *place += sum;
            }
            let cells = corners(geometry, row, &geometry.columns[*column as usize]);
            if !cells.iter().all(|&cell| neighbours[cell].finite) {
                // The vectors there are zero.
                continue;
            }
            let [e0, e1, e2, e3] = cells.map(|cell| &map.data[cell * dim..][..dim]);
            let [w0, w1, w2, w3] = sums.weights;
            for i in 0..dim {
                let above = mul_add::<FMA>(w0, e0[i], w1 * e1[i]);
                features[i] += mul_add::<FMA>(w2, e2[i], mul_add::<FMA>(w3, e3[i], above));
            }
        }
    }
}
