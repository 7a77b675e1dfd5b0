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
//! The oracle is [`reference_full_resolution`](crate::refine::reference_full_resolution), which does it plainly: both differ
//! by the rounding of sums alone.

use crate::embedding::{EmbeddingMap, LocationFeatures, MIN_NORM, location_features};
use crate::hierarchy::NONE;
use crate::image::ImageSize;
use crate::parallel::{enter_pool, for_each_range};
use crate::refine::source_taps;
use crate::simd::{self, Kernel, PANEL, Products, TILE, dispatch};
use crate::spherical_kmeans::{KmeansError, KmeansSpec, SegmentMap, Start, check_input, pack_panels};

/// Pixels, or centroids, that are compared at once.
const LANES: usize = 8;
/// A centroid is left out when it is behind by more than this: what rounding may do to two scores of at most 1.
const MARGIN: f32 = 1e-5;
const CLUSTERS_PER_PIECE: usize = 8;
const TILES_PER_PIECE: usize = 16;

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
    /// Products of each cell with itself and the next one right, below, right below, and left below.
    neighbours: Vec<Neighbours>,
    /// Cells, `[tiles, dim, TILE]`; zeros where a value is not finite.
    tiles: Vec<f32>,
    centroids: Vec<f32>,
    panels: Vec<f32>,
    /// Location part of the centroids, y and x, as many as columns of the panels.
    places: [Vec<f32>; 2],
    /// Cells × centroids, `[cell, slots of the panels]`.
    products: Vec<f32>,
    areas: Vec<u32>,
    /// (row of quads, place in its list) of the shares, sorted by label; `starts[c]..starts[c + 1]` is cluster c.
    order: Vec<(u32, u32)>,
    starts: Vec<u32>,
    reseeded: Vec<u32>,
    similarities: Vec<f32>,
    rounds_run: usize,
    max_rounds: usize,
}

/// How pixels lie between cells.
#[derive(Clone, Debug, PartialEq)]
struct Geometry {
    content: ImageSize,
    stride: usize,
    cells: (usize, usize),
    /// Columns of pixels of column i of the quads: `column_starts[i]..column_starts[i + 1]`.
    column_starts: Vec<usize>,
    /// Weight of the right cells, and location x, per column; padded by a vector.
    column_weights: Vec<f32>,
    column_places: Vec<f32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Neighbours {
    own: f32,
    right: f32,
    below: f32,
    right_below: f32,
    left_below: f32,
    finite: bool,
}

/// One row of quads and the rows of pixels in it.
#[derive(Clone, Debug, Default)]
struct QuadRow {
    /// Rows of cells above and below.
    cells: (usize, usize),
    /// First row of pixels.
    first: usize,
    /// Per row of pixels: weight of the cells below, and location y.
    taps: Vec<(f32, f32)>,
    /// Cluster per pixel; these four are padded by a vector.
    labels: Vec<u16>,
    /// 1 / |u| per pixel; 0 where u is zero or the pixel does not take part.
    lengths: Vec<f32>,
    /// 1 / |[u / |u|; location]| per pixel; 0 where the pixel does not take part.
    scales: Vec<f32>,
    /// Whether the pixel takes part; empty when all do.
    kept: Vec<bool>,
    quads: Vec<Quad>,
    /// What clusters have of the quads, from left to right.
    shares: Vec<Share>,
    changed: bool,
    candidates: Vec<u16>,
    strips: Vec<Strip>,
}

/// Pixels between four cells, for one frame.
#[derive(Clone, Copy, Debug, Default)]
struct Quad {
    /// Least and largest 1 / |u|.
    lengths: (f32, f32),
    /// Whether a pixel has no direction: then any centroid may win it.
    degenerate: bool,
    /// Whether some pixels take part and others do not.
    partial: bool,
    /// All its pixels as one share, with and without the scale of the location.
    whole: [Sums; 2],
}

/// Sums over some pixels of a quad.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    num_pixels: u32,
    /// Weights of the four cells: above left, above right, below left, below right.
    weights: [f32; 4],
    /// Location, y and x.
    place: [f32; 2],
}

/// What a cluster has of a quad.
#[derive(Clone, Copy, Debug)]
struct Share {
    label: u16,
    column: u32,
    sums: Sums,
}

/// A candidate's score along one row of pixels of a quad: left and right product, location y's part, centroid's x.
#[derive(Clone, Copy, Debug)]
struct Strip {
    left: f32,
    right: f32,
    vertical: f32,
    horizontal: f32,
}

/// What is summed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    /// Vectors with location, all scaled to unit length.
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
            geometry: Geometry {
                content: ImageSize::new(0, 0),
                stride: 0,
                cells: (0, 0),
                column_starts: Vec::new(),
                column_weights: Vec::new(),
                column_places: Vec::new(),
            },
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
        check_input(map, None, self.dim)?;
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
            for row in &mut self.rows {
                row.labels.fill(NONE);
            }
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
        let LocationFeatures { rows: row_places, columns: mut column_places } =
            location_features(content.height, content.width);
        let mut column_weights: Vec<f32> = column_taps.iter().map(|tap| tap.weight).collect();
        column_weights.resize(content.width + LANES, 0.0);
        column_places.resize(content.width + LANES, 0.0);
        let num_pixels = content.num_pixels();
        self.geometry = Geometry {
            content,
            stride,
            cells,
            column_starts: (0..=cells.1).map(|cell| column_taps.partition_point(|tap| tap.low < cell)).collect(),
            column_weights,
            column_places,
        };
        self.rows = (0..cells.0)
            .map(|cell| {
                let [first, end] = [cell, cell + 1].map(|cell| row_taps.partition_point(|tap| tap.low < cell));
                let len = (end - first) * content.width;
                QuadRow {
                    cells: (cell, (cell + 1).min(cells.0 - 1)),
                    first,
                    taps: (first..end).map(|y| (row_taps[y].weight, row_places[y])).collect(),
                    labels: vec![NONE; len + LANES],
                    lengths: vec![0.0; len + LANES],
                    scales: vec![0.0; len + LANES],
                    kept: Vec::new(),
                    quads: vec![Quad::default(); cells.1],
                    // A pixel each at most: memory is touched where it is used.
                    shares: Vec::with_capacity(len),
                    changed: false,
                    candidates: Vec::with_capacity(self.spec.num_slots()),
                    strips: Vec::with_capacity(self.spec.num_slots()),
                }
            })
            .collect();
        self.order = Vec::with_capacity(num_pixels);
        self.similarities = Vec::with_capacity(num_pixels);
        let num_cells = cells.0 * cells.1;
        let padded = num_cells.next_multiple_of(TILE);
        self.neighbours = vec![Neighbours::default(); num_cells];
        self.tiles = vec![0.0; padded * self.dim];
        self.products = vec![0.0; padded * self.places[0].len()];
    }

    /// Packs the cells, and multiplies neighbours.
    fn pack_cells(&mut self, map: &EmbeddingMap) {
        let (dim, width, num_cells) = (self.dim, map.width, map.num_cells());
        let last = (map.height - 1, map.width - 1);
        for_each_range(0..num_cells, &mut self.neighbours, 256, self.serial, &|i| i, &|range, neighbours| {
            dispatch(MultiplyNeighbours { map, first: range.start, width, last, out: neighbours });
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
                let len = row.taps.len() * geometry.content.width;
                row.kept.clear();
                if let Some(mask) = clustered {
                    row.kept.extend_from_slice(&mask[row.first * geometry.content.width..][..len]);
                }
                dispatch(PrepareRow { geometry, neighbours, row });
            }
        });
    }

    fn set_initial_labels(&mut self) {
        let ImageSize { width, height } = self.geometry.content;
        let mut labels = self.spec.initial_labels(height, width);
        for row in &mut self.rows {
            let len = row.taps.len() * width;
            for (place, label) in row.labels[..len].iter_mut().zip(&mut labels) {
                *place = label;
            }
            for (label, _) in row.labels.iter_mut().zip(&row.kept).filter(|(_, kept)| !**kept) {
                *label = NONE;
            }
        }
    }

    /// Assigns every pixel to its best centroid, and sums the shares of the clusters in the quads.
    fn assign(&mut self) {
        let (dim, depth) = (self.dim, self.dim + 2);
        pack_panels(&self.centroids, depth, dim, self.serial, &mut self.panels);
        let num_slots = self.spec.num_slots();
        for (axis, places) in self.places.iter_mut().enumerate() {
            for (slot, place) in places.iter_mut().enumerate() {
                *place = self.centroids[if slot < num_slots { slot } else { 0 } * depth + dim + axis];
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
        let Self { geometry, rows, .. } = self;
        for_each_range(0..rows.len(), rows, 1, self.serial, &|y| y, &|_, rows| {
            for row in rows {
                dispatch(SumRow { geometry, of, row });
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
        let width = self.geometry.content.width;
        for slot in 0..self.areas.len() {
            if self.areas[slot] > 0 {
                continue;
            }
            // (similarity, row of quads, pixel in it)
            let mut worst: Option<(f32, usize, usize)> = None;
            let mut similarities = self.similarities.iter();
            for (y, row) in self.rows.iter().enumerate() {
                let labels = &row.labels[..row.taps.len() * width];
                for (pixel, (&label, &similarity)) in labels.iter().zip(&mut similarities).enumerate() {
                    let shared = self.areas.get(usize::from(label)).is_some_and(|&area| area > 1);
                    if shared && worst.is_none_or(|(least, ..)| similarity < least) {
                        worst = Some((similarity, y, pixel));
                    }
                }
            }
            // Fewer pixels than clusters: the rest stays empty.
            let Some((_, y, pixel)) = worst else { break };
            let label = &mut self.rows[y].labels[pixel];
            self.areas[usize::from(*label)] -= 1;
            self.areas[slot] = 1;
            *label = slot as u16;
            if let Err(place) = self.reseeded.binary_search(&(slot as u32)) {
                self.reseeded.insert(place, slot as u32);
            }
        }
        true
    }

    /// Cosine of every pixel with its centroid, in raster order.
    fn measure_similarities(&mut self) {
        let Self { geometry, rows, places, products, similarities, .. } = self;
        let row_len = places[0].len();
        let (width, cells_x) = (geometry.content.width, geometry.cells.1);
        similarities.clear();
        for row in rows.iter() {
            for (i, &(below, place_y)) in row.taps.iter().enumerate() {
                for column in 0..cells_x {
                    let right = (column + 1).min(cells_x - 1);
                    for x in geometry.column_starts[column]..geometry.column_starts[column + 1] {
                        let at = i * width + x;
                        let slot = usize::from(row.labels[at]);
                        if slot >= self.spec.num_slots() {
                            similarities.push(0.0);
                            continue;
                        }
                        let product = |y: usize, x: usize| products[(y * cells_x + x) * row_len + slot];
                        let weight = geometry.column_weights[x];
                        let [above, under] = [row.cells.0, row.cells.1]
                            .map(|y| (1.0 - weight) * product(y, column) + weight * product(y, right));
                        let place = places[0][slot] * place_y + places[1][slot] * geometry.column_places[x];
                        let product = (1.0 - below) * above + below * under;
                        similarities.push((product * row.lengths[at] + place) * row.scales[at]);
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
            out.labels.extend_from_slice(&row.labels[..row.taps.len() * width]);
        }
        self.sort_shares();
        out.areas.clear();
        out.areas.extend_from_slice(&self.areas);
        out.prototypes.resize(out.num_slots * self.dim, 0.0);
        self.sum_clusters(map, self.dim, &mut out.prototypes);
    }
}

struct MultiplyNeighbours<'a> {
    map: &'a EmbeddingMap,
    first: usize,
    width: usize,
    last: (usize, usize),
    out: &'a mut [Neighbours],
}

impl Kernel for MultiplyNeighbours<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { map, first, width, last, out } = self;
        for (i, out) in (first..).zip(out) {
            let (y, x) = (i / width, i % width);
            let (below, right) = ((y + 1).min(last.0), (x + 1).min(last.1));
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

/// The four cells around a quad, as numbers of cells.
#[inline(always)]
fn corners(geometry: &Geometry, row: &QuadRow, column: usize) -> [usize; 4] {
    let width = geometry.cells.1;
    let right = (column + 1).min(width - 1);
    [row.cells.0 * width + column, row.cells.0 * width + right, row.cells.1 * width + column, row.cells.1 * width + right]
}

#[inline(always)]
fn load(values: &[f32], at: usize) -> [f32; LANES] {
    values.get(at..).and_then(|values| values.first_chunk()).copied().unwrap_or([0.0; LANES])
}

struct PrepareRow<'a> {
    geometry: &'a Geometry,
    neighbours: &'a [Neighbours],
    row: &'a mut QuadRow,
}

impl Kernel for PrepareRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { geometry, neighbours, row } = self;
        let width = geometry.content.width;
        let location = &geometry.column_places;
        for column in 0..geometry.cells.1 {
            let cells = corners(geometry, row, column);
            let [g00, g01, g10, g11] = cells.map(|cell| &neighbours[cell]);
            let finite = g00.finite && g01.finite && g10.finite && g11.finite;
            let (same_column, same_row) = (cells[0] == cells[1], cells[0] == cells[2]);
            // Repeated cells at the right and lower edge have weight 0; their products must only be numbers.
            let below_right = if same_column { g00.below } else { g01.below };
            let right_below = if same_row { g00.right } else { g10.right };
            let columns = geometry.column_starts[column]..geometry.column_starts[column + 1];
            for (i, &(b, place_y)) in row.taps.iter().enumerate() {
                let a = 1.0 - b;
                let left = a * a * g00.own + 2.0 * a * b * g00.below + b * b * g10.own;
                let right = a * a * g01.own + 2.0 * a * b * below_right + b * b * g11.own;
                let mixed = a * a * g00.right + a * b * (g00.right_below + g00.left_below) + b * b * right_below;
                let mut first = columns.start;
                while first < columns.end {
                    let num = LANES.min(columns.end - first);
                    let at = i * width + first;
                    let (weights, places) = (load(&geometry.column_weights, first), load(location, first));
                    let lengths: [f32; LANES] = std::array::from_fn(|i| {
                        let (w, v) = (weights[i], 1.0 - weights[i]);
                        let squared = v * v * left + 2.0 * v * w * mixed + w * w * right;
                        let length = 1.0 / squared.sqrt();
                        if finite && squared >= MIN_NORM * MIN_NORM { length } else { 0.0 }
                    });
                    let scales: [f32; LANES] = std::array::from_fn(|i| {
                        let unit = if lengths[i] > 0.0 { 1.0 } else { 0.0 };
                        let squared = unit + (place_y * place_y + places[i] * places[i]);
                        if squared >= MIN_NORM * MIN_NORM { 1.0 / squared.sqrt() } else { 0.0 }
                    });
                    row.lengths[at..at + num].copy_from_slice(&lengths[..num]);
                    row.scales[at..at + num].copy_from_slice(&scales[..num]);
                    first += num;
                }
            }
            let mut quad = Quad { lengths: (f32::INFINITY, 0.0), ..Quad::default() };
            let (mut any, mut all) = (row.kept.is_empty(), true);
            for i in 0..row.taps.len() {
                for at in (columns.clone()).map(|x| i * width + x) {
                    let kept = row.kept.get(at).copied().unwrap_or(true);
                    (any, all) = (any || kept, all && kept);
                    if !kept {
                        (row.lengths[at], row.scales[at]) = (0.0, 0.0);
                        row.labels[at] = NONE;
                        continue;
                    }
                    let length = row.lengths[at];
                    quad.degenerate |= length == 0.0;
                    quad.lengths = (quad.lengths.0.min(length), quad.lengths.1.max(length));
                }
            }
            quad.partial = any && !all;
            let rows = row.taps.len();
            for of in [Of::Rows, Of::Features] {
                let sums = sum_pixels::<FMA>(geometry, row, column, of, None);
                quad.whole[of as usize] = if any && rows > 0 { sums } else { Sums::default() };
            }
            row.quads[column] = quad;
        }
    }
}

/// Sums over the pixels of a quad that have this label, or all that take part.
#[inline(always)]
fn sum_pixels<const FMA: bool>(
    geometry: &Geometry,
    row: &QuadRow,
    column: usize,
    of: Of,
    label: Option<u16>,
) -> Sums {
    let width = geometry.content.width;
    let columns = geometry.column_starts[column]..geometry.column_starts[column + 1];
    let add = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
    let mut sums = [[0.0f32; LANES]; 6];
    let mut counts = [0u32; LANES];
    for (i, &(b, place_y)) in row.taps.iter().enumerate() {
        let a = 1.0 - b;
        let mut first = columns.start;
        while first < columns.end {
            let num = LANES.min(columns.end - first);
            let at = i * width + first;
            let (weights, places) = (load(&geometry.column_weights, first), load(&geometry.column_places, first));
            let (lengths, scales) = (load(&row.lengths, at), load(&row.scales, at));
            let labels = row.labels.get(at..).and_then(|labels| labels.first_chunk::<LANES>());
            let labels = labels.copied().unwrap_or([NONE; LANES]);
            let hit: [bool; LANES] = match label {
                Some(label) => std::array::from_fn(|i| (i < num) & (labels[i] == label)),
                // Which take part, not which have a label: there is none yet.
                None if row.kept.is_empty() => std::array::from_fn(|i| i < num),
                None => std::array::from_fn(|i| i < num && row.kept.get(at + i).copied().unwrap_or(false)),
            };
            for i in 0..LANES {
                let scale = if hit[i] { scales[i] } else { 0.0 };
                let value = match of {
                    Of::Rows => lengths[i] * scale,
                    Of::Features => {
                        if hit[i] {
                            lengths[i]
                        } else {
                            0.0
                        }
                    }
                };
                let right = value * weights[i];
                let left = value - right;
                sums[0][i] = add(a, left, sums[0][i]);
                sums[1][i] = add(a, right, sums[1][i]);
                sums[2][i] = add(b, left, sums[2][i]);
                sums[3][i] = add(b, right, sums[3][i]);
                sums[4][i] = add(scale, place_y, sums[4][i]);
                sums[5][i] = add(scale, places[i], sums[5][i]);
                counts[i] += u32::from(hit[i]);
            }
            first += num;
        }
    }
    let [w0, w1, w2, w3, y, x] = sums.map(|lanes| lanes.iter().sum());
    Sums { num_pixels: counts.iter().sum(), weights: [w0, w1, w2, w3], place: [y, x] }
}

struct SumRow<'a> {
    geometry: &'a Geometry,
    of: Of,
    row: &'a mut QuadRow,
}

impl Kernel for SumRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { geometry, of, row } = self;
        let width = geometry.content.width;
        row.shares.clear();
        for column in 0..geometry.cells.1 {
            if row.quads[column].whole[0].num_pixels == 0 {
                continue;
            }
            row.candidates.clear();
            for i in 0..row.taps.len() {
                let columns = geometry.column_starts[column]..geometry.column_starts[column + 1];
                for &label in &row.labels[i * width..][columns] {
                    if label != NONE && row.candidates.last() != Some(&label) && !row.candidates.contains(&label) {
                        row.candidates.push(label);
                    }
                }
            }
            for place in 0..row.candidates.len() {
                let label = row.candidates[place];
                let sums = match row.candidates.len() {
                    1 => row.quads[column].whole[of as usize],
                    _ => sum_pixels::<FMA>(geometry, row, column, of, Some(label)),
                };
                row.shares.push(Share { label, column: column as u32, sums });
            }
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
        for column in 0..geometry.cells.1 {
            if row.quads[column].whole[0].num_pixels == 0 {
                continue;
            }
            let products = corners(geometry, row, column).map(|cell| &products[cell * row_len..][..row_len]);
            find_candidates(geometry, places, &products, num_slots, row, column);
            if let [label] = row.candidates[..] {
                assign_whole(geometry, row, column, label);
                let sums = row.quads[column].whole[Of::Rows as usize];
                row.shares.push(Share { label, column: column as u32, sums });
                continue;
            }
            assign_pixels::<FMA>(geometry, places, &products, row, column);
            for place in 0..row.candidates.len() {
                let label = row.candidates[place];
                let sums = sum_pixels::<FMA>(geometry, row, column, Of::Rows, Some(label));
                if sums.num_pixels > 0 {
                    row.shares.push(Share { label, column: column as u32, sums });
                }
            }
        }
    }
}

/// The location of a quad's pixels: middle and half the extent, y and x.
#[inline(always)]
fn extent(geometry: &Geometry, row: &QuadRow, column: usize) -> [(f32, f32); 2] {
    let (first, last) = (geometry.column_starts[column], geometry.column_starts[column + 1] - 1);
    let [top, bottom] = [row.taps.first(), row.taps.last()].map(|tap| tap.map_or(0.0, |tap| tap.1));
    let [left, right] = [first, last].map(|x| geometry.column_places[x]);
    [(top, bottom), (left, right)].map(|(low, high)| (0.5 * (low + high), 0.5 * (high - low)))
}

/// Leaves the clusters in `row.candidates`, ascending, that may win a pixel of the quad.
#[inline(always)]
fn find_candidates(
    geometry: &Geometry,
    places: &[Vec<f32>; 2],
    products: &[&[f32]; 4],
    num_slots: usize,
    row: &mut QuadRow,
    column: usize,
) {
    row.candidates.clear();
    let quad = row.quads[column];
    if quad.degenerate {
        row.candidates.extend(0..num_slots as u16);
        return;
    }
    let [(middle_y, half_y), (middle_x, half_x)] = extent(geometry, row, column);
    // Who has the middle pixel is likely to have it again, and whoever is taken here, the bound holds.
    let middle_column = (geometry.column_starts[column] + geometry.column_starts[column + 1]) / 2;
    let middle = row.labels[row.taps.len() / 2 * geometry.content.width + middle_column];
    let rival = usize::from(if usize::from(middle) < num_slots { middle } else { 0 });
    let rival_products = products.map(|products| products[rival]);
    let rival_place = [places[0][rival], places[1][rival]];
    let (least, most) = quad.lengths;
    for first in (0..num_slots).step_by(LANES) {
        let corner = products.map(|products| load(products, first));
        let (y, x) = (load(&places[0], first), load(&places[1], first));
        // How far the rival is ahead at least.
        let lead: [f32; LANES] = std::array::from_fn(|i| {
            let ahead = |corner_of: usize| rival_products[corner_of] - corner[corner_of][i];
            let min = |a: f32, b: f32| if a < b { a } else { b };
            let product = min(min(ahead(0), ahead(1)), min(ahead(2), ahead(3)));
            let (y, x) = (rival_place[0] - y[i], rival_place[1] - x[i]);
            let place = y * middle_y + x * middle_x - y.abs() * half_y - x.abs() * half_x;
            product * if product > 0.0 { least } else { most } + place
        });
        if lead.iter().fold(true, |all, &lead| all & (lead > MARGIN)) {
            continue;
        }
        for (i, _) in lead.iter().enumerate().filter(|(_, lead)| !(**lead > MARGIN)) {
            if first + i < num_slots {
                row.candidates.push((first + i) as u16);
            }
        }
    }
    // A better rival leaves fewer: the best in the middle of those that are left.
    if row.candidates.len() > 2 {
        let scale = 0.125 * (least + most);
        let score = |slot: u16| {
            let slot = usize::from(slot);
            let product: f32 = products.iter().map(|products| products[slot]).sum();
            product * scale + places[0][slot] * middle_y + places[1][slot] * middle_x
        };
        let mut best = (row.candidates[0], f32::NEG_INFINITY);
        for &slot in &row.candidates {
            let score = score(slot);
            if score > best.1 {
                best = (slot, score);
            }
        }
        let rival = usize::from(best.0);
        row.candidates.retain(|&slot| {
            let slot = usize::from(slot);
            let product = products.iter().map(|products| products[rival] - products[slot]).fold(f32::INFINITY, f32::min);
            let (y, x) = (places[0][rival] - places[0][slot], places[1][rival] - places[1][slot]);
            let place = y * middle_y + x * middle_x - y.abs() * half_y - x.abs() * half_x;
            let lead = product * if product > 0.0 { least } else { most } + place;
            !(lead > MARGIN)
        });
    }
}

/// Stores labels from place `at` on, and notes whether one is new.
#[inline(always)]
fn store(row: &mut QuadRow, at: usize, mut new: [u16; LANES], num: usize, partial: bool) {
    if partial {
        for (new, kept) in new.iter_mut().zip(&row.kept[at..]) {
            *new = if *kept { *new } else { NONE };
        }
    }
    let labels = &mut row.labels[at..at + num];
    row.changed |= labels.iter().zip(&new).fold(false, |any, (old, new)| any | (old != new));
    labels.copy_from_slice(&new[..num]);
}

#[inline(always)]
fn assign_whole(geometry: &Geometry, row: &mut QuadRow, column: usize, label: u16) {
    let partial = row.quads[column].partial;
    for i in 0..row.taps.len() {
        let mut first = geometry.column_starts[column];
        let end = geometry.column_starts[column + 1];
        while first < end {
            let num = LANES.min(end - first);
            store(row, i * geometry.content.width + first, [label; LANES], num, partial);
            first += num;
        }
    }
}

/// Each pixel of a quad to the best candidate, ties to the lowest.
#[inline(always)]
fn assign_pixels<const FMA: bool>(
    geometry: &Geometry,
    places: &[Vec<f32>; 2],
    products: &[&[f32]; 4],
    row: &mut QuadRow,
    column: usize,
) {
    let add = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
    let partial = row.quads[column].partial;
    let end = geometry.column_starts[column + 1];
    for i in 0..row.taps.len() {
        let (b, place_y) = row.taps[i];
        let a = 1.0 - b;
        row.strips.clear();
        for &slot in &row.candidates {
            let slot = usize::from(slot);
            let [above_left, above_right, below_left, below_right] = products.map(|products| products[slot]);
            row.strips.push(Strip {
                left: a * above_left + b * below_left,
                right: a * above_right + b * below_right,
                vertical: places[0][slot] * place_y,
                horizontal: places[1][slot],
            });
        }
        let mut first = geometry.column_starts[column];
        while first < end {
            let num = LANES.min(end - first);
            let at = i * geometry.content.width + first;
            let (weights, x) = (load(&geometry.column_weights, first), load(&geometry.column_places, first));
            let lengths = load(&row.lengths, at);
            let mut best = [u32::from(row.candidates[0]); LANES];
            let mut best_score = [f32::NEG_INFINITY; LANES];
            for (&slot, strip) in row.candidates.iter().zip(&row.strips) {
                let slot = u32::from(slot);
                let score: [f32; LANES] = std::array::from_fn(|i| {
                    let product = add(weights[i], strip.right, (1.0 - weights[i]) * strip.left);
                    add(product, lengths[i], add(x[i], strip.horizontal, strip.vertical))
                });
                best = std::array::from_fn(|i| if score[i] > best_score[i] { slot } else { best[i] });
                best_score = std::array::from_fn(|i| if score[i] > best_score[i] { score[i] } else { best_score[i] });
            }
            store(row, at, best.map(|slot| slot as u16), num, partial);
            first += num;
        }
    }
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
        let dim = map.dim;
        let add = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
        for &(y, i) in order {
            let row = &rows[y as usize];
            let Share { column, sums, .. } = &row.shares[i as usize];
            for (place, sum) in place.iter_mut().zip(sums.place) {
                *place += sum;
            }
            let cells = corners(geometry, row, *column as usize);
            if !cells.iter().all(|&cell| neighbours[cell].finite) {
                // The vectors there are zero.
                continue;
            }
            let [e0, e1, e2, e3] = cells.map(|cell| &map.data[cell * dim..][..dim]);
            let [w0, w1, w2, w3] = sums.weights;
            let values = features.iter_mut().zip(e0).zip(e1).zip(e2).zip(e3);
            for ((((out, &e0), &e1), &e2), &e3) in values {
                *out += add(w0, e0, w1 * e1) + add(w2, e2, w3 * e3);
            }
        }
    }
}
