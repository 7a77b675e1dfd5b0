//! From cell labels to pixel labels (§3, "Refinement to pixels"), and the full-resolution reference.

use crate::embedding::{EmbeddingMap, LocationFeatures, MIN_NORM, location_features};
use crate::hierarchy::NONE;
use crate::image::ImageSize;
use crate::parallel::{enter_pool, for_each_range};
use crate::preprocess::ResizePlan;
use crate::sampling::{LinearTap, linear_tap};
use crate::simd::{self, Kernel, dispatch};
use crate::spherical_kmeans::{KmeansError, SegmentMap, SphericalKmeans, Start};

/// Why labels cannot be refined.
#[derive(Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefineError {
    /// Embedding and segment map have another size than the plan's content.
    #[error("the {what} is [{got_height}, {got_width}] cells, expected [{height}, {width}]")]
    WrongMapSize {
        /// `embedding` or `segment map`.
        what: &'static str,
        /// Rows expected.
        height: usize,
        /// Columns expected.
        width: usize,
        /// Rows given.
        got_height: usize,
        /// Columns given.
        got_width: usize,
    },
    /// A buffer has another length.
    #[error("{what} has {got} values, expected {expected}")]
    WrongLength {
        /// Which buffer.
        what: &'static str,
        /// Values needed.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// The segment map has a label that is not one of its slots.
    #[error("the segment map has label {label}, but only {num_slots} slots")]
    UnknownLabel {
        /// The label.
        label: u16,
        /// Slots of the map.
        num_slots: usize,
    },
}

/// Refines slot maps of one geometry (source size, content size, stride) to source size.
///
/// A pixel whose cell has no differing 4-neighbour takes the label of its cell. Elsewhere the features are upsampled
/// bilinearly (half-pixel centres, clamped at the border), scaled to unit length, the location (interpolated the same
/// way from the cells' locations) is appended, and the pixel takes the best of the clusters present in the 3×3 cells
/// around its own, ties to the lowest slot.
///
/// Upsampling is linear, so the products with the centroids are interpolated instead of the features: per border cell
/// the products of 9 cells with the few clusters nearby, and the cells' products among themselves for the length of
/// the upsampled vector. [`refine_plain`] is the same without that and serves as oracle.
#[derive(Clone, Debug)]
pub struct Refiner {
    source: ImageSize,
    cells: (usize, usize),
    rows: Vec<LinearTap>,
    columns: Vec<LinearTap>,
    column_table: ColumnTable,
    /// Source rows (columns) of cell i are `row_starts[i]..row_starts[i + 1]`.
    row_starts: Vec<usize>,
    column_starts: Vec<usize>,
    location: LocationFeatures,
}

impl Refiner {
    /// A refiner for frames of `plan.source`, whose feature map has stride `stride` and covers `plan.content`.
    ///
    /// # Panics
    /// When `stride` is 0.
    #[must_use]
    pub fn new(plan: &ResizePlan, stride: usize) -> Self {
        let cells = plan.content_cells(stride);
        let rows = source_taps(plan.source.height, plan.content.height, stride, cells.0);
        let columns = source_taps(plan.source.width, plan.content.width, stride, cells.1);
        let location = location_features(cells.0, cells.1);
        Self {
            source: plan.source,
            cells,
            column_table: ColumnTable::new(&columns, &location.columns),
            row_starts: cell_starts(&rows, cells.0),
            column_starts: cell_starts(&columns, cells.1),
            rows,
            columns,
            location,
        }
    }

    /// Size of the output.
    #[must_use]
    pub const fn source(&self) -> ImageSize {
        self.source
    }

    /// Rows and columns of the feature map.
    #[must_use]
    pub const fn cells(&self) -> (usize, usize) {
        self.cells
    }

    /// What the sampling says, for code that does the same elsewhere.
    #[must_use]
    pub fn tables(&self) -> RefineTables<'_> {
        let places = &self.location.rows;
        RefineTables {
            row_starts: &self.row_starts,
            column_starts: &self.column_starts,
            row_sides: self.rows.iter().map(|tap| (tap.low + 1 - tap.nearest).min(1) as u32).collect(),
            row_weights: self.rows.iter().map(|tap| tap.weight).collect(),
            row_places: self.rows.iter().map(|tap| lerp(places[tap.low], places[tap.high], tap.weight)).collect(),
            column_weights: std::array::from_fn(|i| &self.column_table.weights[i][..self.source.width]),
            column_places: &self.column_table.location[..self.source.width],
        }
    }

    /// Writes the slot of every source pixel to `out` (row-major, source size). `centroids` `[k, dim + 2]` are those
    /// of [`SphericalKmeans::centroids`]. Pixels of cells that were not clustered get [`NONE`]. Runs on the current
    /// rayon pool; allocates nothing.
    ///
    /// # Errors
    /// When a size or length does not fit, or the segment map holds an unknown label.
    pub fn run(
        &mut self,
        map: &EmbeddingMap,
        segments: &SegmentMap,
        centroids: &[f32],
        out: &mut [u16],
    ) -> Result<(), RefineError> {
        self.check(map, segments, centroids, out)?;
        let width = self.source.width;
        let rows = 0..self.cells.0;
        enter_pool(false, || {
            for_each_range(rows, out, 1, false, &|y| self.row_starts[y] * width, &|rows, out| {
                for y in rows {
                    dispatch(RefineRow { refiner: self, map, segments, centroids, y, out: &mut *out });
                }
            });
        });
        Ok(())
    }

    fn check(
        &self,
        map: &EmbeddingMap,
        segments: &SegmentMap,
        centroids: &[f32],
        out: &[u16],
    ) -> Result<(), RefineError> {
        let (height, width) = self.cells;
        let sizes = [("embedding", map.height, map.width), ("segment map", segments.height, segments.width)];
        for (what, got_height, got_width) in sizes {
            if (got_height, got_width) != self.cells {
                return Err(RefineError::WrongMapSize { what, height, width, got_height, got_width });
            }
        }
        let lengths = [
            ("the embedding", height * width * map.dim, map.data.len()),
            ("the segment map", height * width, segments.labels.len()),
            ("the centroids", segments.num_slots * (map.dim + 2), centroids.len()),
            ("the output", self.source.num_pixels(), out.len()),
        ];
        for (what, expected, got) in lengths {
            if got != expected {
                return Err(RefineError::WrongLength { what, expected, got });
            }
        }
        let num_slots = segments.num_slots;
        match segments.labels.iter().find(|&&l| l != NONE && usize::from(l) >= num_slots) {
            Some(&label) => Err(RefineError::UnknownLabel { label, num_slots }),
            None => Ok(()),
        }
    }
}

/// How a [`Refiner`] samples, see [`Refiner::tables`].
#[derive(Clone, Debug)]
pub struct RefineTables<'a> {
    /// Source rows of row i of the cells are `row_starts[i]..row_starts[i + 1]`.
    pub row_starts: &'a [usize],
    /// The same for columns.
    pub column_starts: &'a [usize],
    /// Per source row: 0 when it lies between the row of cells above and its own, 1 between its own and the one below.
    pub row_sides: Vec<u32>,
    /// Per source row: weight of the lower of the two.
    pub row_weights: Vec<f32>,
    /// Per source row: location y.
    pub row_places: Vec<f32>,
    /// Per source column: weights of the cells left of, at and right of its own.
    pub column_weights: [&'a [f32]; 3],
    /// Per source column: location x.
    pub column_places: &'a [f32],
}

/// Source columns as vectors: weights of the cells left of, at and right of a pixel's own cell, and location x. Padded
/// by one vector, so that a full vector can be read from every column.
#[derive(Clone, Debug)]
struct ColumnTable {
    weights: [Vec<f32>; 3],
    location: Vec<f32>,
}

impl ColumnTable {
    fn new(columns: &[LinearTap], places: &[f32]) -> Self {
        let len = columns.len() + LANES;
        let mut table = Self { weights: std::array::from_fn(|_| vec![0.0; len]), location: vec![0.0; len] };
        for (i, tap) in columns.iter().enumerate() {
            let side = (tap.low + 1 - tap.nearest).min(1);
            table.weights[side][i] = 1.0 - tap.weight;
            table.weights[side + 1][i] = tap.weight;
            table.location[i] = lerp(places[tap.low], places[tap.high], tap.weight);
        }
        table
    }
}

/// Pixels that are compared at once.
const LANES: usize = 8;
type Lanes = [f32; LANES];

/// Taps of the source pixels of one axis in the feature map.
pub(crate) fn source_taps(source: usize, content: usize, stride: usize, num_cells: usize) -> Vec<LinearTap> {
    assert!(stride > 0, "the stride of a feature map is at least 1");
    let scale = content as f64 / (source as f64 * stride as f64);
    (0..source)
        .map(|i| {
            let tap = linear_tap((i as f64 + 0.5) * scale, num_cells);
            // Rounding must not move the tap away from the cell that owns the pixel.
            debug_assert!(tap.low == tap.nearest || tap.low + 1 == tap.nearest);
            tap
        })
        .collect()
}

fn cell_starts(taps: &[LinearTap], num_cells: usize) -> Vec<usize> {
    (0..=num_cells).map(|cell| taps.partition_point(|t| t.nearest < cell)).collect()
}

/// True when a 4-neighbour inside the map has another label.
fn is_border(segments: &SegmentMap, y: usize, x: usize) -> bool {
    let (h, w) = (segments.height, segments.width);
    let at = |y: usize, x: usize| segments.labels[y * w + x];
    let own = at(y, x);
    (y > 0 && at(y - 1, x) != own)
        || (y + 1 < h && at(y + 1, x) != own)
        || (x > 0 && at(y, x - 1) != own)
        || (x + 1 < w && at(y, x + 1) != own)
}

/// The clusters present in the 3×3 cells around (y, x), ascending.
fn candidates(segments: &SegmentMap, y: usize, x: usize) -> ([u16; 9], usize) {
    let (h, w) = (segments.height, segments.width);
    let mut labels = [NONE; 9];
    let mut num = 0;
    for ny in y.saturating_sub(1)..(y + 2).min(h) {
        for nx in x.saturating_sub(1)..(x + 2).min(w) {
            let label = segments.labels[ny * w + nx];
            let place = labels[..num].partition_point(|&l| l < label);
            if label != NONE && labels[..num].get(place) != Some(&label) {
                labels.copy_within(place..num, place + 1);
                labels[place] = label;
                num += 1;
            }
        }
    }
    (labels, num)
}

/// All source pixels of one row of cells.
struct RefineRow<'a> {
    refiner: &'a Refiner,
    map: &'a EmbeddingMap,
    segments: &'a SegmentMap,
    centroids: &'a [f32],
    y: usize,
    /// Source rows of this row of cells.
    out: &'a mut [u16],
}

impl Kernel for RefineRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { refiner, segments, y, .. } = self;
        let width = refiner.source.width;
        let first_row = refiner.row_starts[y];
        let pixel_rows = first_row..refiner.row_starts[y + 1];
        for x in 0..segments.width {
            let own = segments.labels[y * segments.width + x];
            let columns = refiner.column_starts[x]..refiner.column_starts[x + 1];
            let (labels, num) = candidates(segments, y, x);
            if own == NONE || num < 2 || !is_border(segments, y, x) {
                for row in pixel_rows.clone() {
                    self.out[(row - first_row) * width..][columns.clone()].fill(own);
                }
                continue;
            }
            let cell = CellProducts::new::<FMA>(self.map, self.centroids, &labels[..num], y, x);
            for row in pixel_rows.clone() {
                let tap = refiner.rows[row];
                let strip = cell.strip(tap, y);
                let location_y = lerp(refiner.location.rows[tap.low], refiner.location.rows[tap.high], tap.weight);
                let out_row = &mut self.out[(row - first_row) * width..][..width];
                let mut first = columns.start;
                while first < columns.end {
                    let num = LANES.min(columns.end - first);
                    let best = cell.best::<FMA>(&strip, &labels, &refiner.column_table, first, location_y);
                    for (out, label) in out_row[first..first + num].iter_mut().zip(best) {
                        *out = label as u16;
                    }
                    first += num;
                }
            }
        }
    }
}

#[inline(always)]
fn lerp(a: f32, b: f32, weight: f32) -> f32 {
    a * (1.0 - weight) + b * weight
}

/// Dot products around one border cell. Cells of the 3×3 neighbourhood are numbered row by row; outside the map the
/// border repeats.
struct CellProducts {
    num: usize,
    /// `[candidate][cell]`: centroid (features only) · cell.
    with_centroid: [[f32; 9]; 9],
    /// `[cell][cell]`, only for cells of a common 2×2 block.
    among_cells: [[f32; 9]; 9],
    /// Location part (y, x) of each candidate.
    location: [[f32; 2]; 9],
}

/// The products of [`CellProducts`] interpolated vertically for one row of pixels; index = column of the 3×3 cells.
struct Strip {
    with_centroid: [[f32; 3]; 9],
    /// |u_c|² of the vertically interpolated vectors u, and u_c · u_{c+1}.
    squared: [f32; 3],
    mixed: [f32; 2],
}

impl CellProducts {
    #[inline(always)]
    fn new<const FMA: bool>(map: &EmbeddingMap, centroids: &[f32], labels: &[u16], y: usize, x: usize) -> Self {
        let dim = map.dim;
        let clamp = |at: usize, offset: usize, n: usize| (at + offset).saturating_sub(1).min(n - 1);
        let cells: [&[f32]; 9] =
            std::array::from_fn(|i| map.cell(clamp(y, i / 3, map.height), clamp(x, i % 3, map.width)));
        let mut products = Self {
            num: labels.len(),
            with_centroid: [[0.0; 9]; 9],
            among_cells: [[0.0; 9]; 9],
            location: [[0.0; 2]; 9],
        };
        for (k, &label) in labels.iter().enumerate() {
            let centroid = &centroids[usize::from(label) * (dim + 2)..][..dim + 2];
            for (i, cell) in cells.iter().enumerate() {
                products.with_centroid[k][i] = simd::dot::<FMA>(&centroid[..dim], cell);
            }
            products.location[k] = [centroid[dim], centroid[dim + 1]];
        }
        for i in 0..9usize {
            for j in i..9 {
                let near = (j / 3 - i / 3) < 2 && (j % 3).abs_diff(i % 3) < 2;
                if near {
                    let product = simd::dot::<FMA>(cells[i], cells[j]);
                    products.among_cells[i][j] = product;
                    products.among_cells[j][i] = product;
                }
            }
        }
        products
    }

    #[inline(always)]
    fn strip(&self, tap: LinearTap, y: usize) -> Strip {
        let low = (tap.low + 1 - y).min(1) * 3;
        let high = low + 3;
        let (b, a) = (tap.weight, 1.0 - tap.weight);
        let g = &self.among_cells;
        let mut with_centroid = [[0.0; 3]; 9];
        for (strip, d) in with_centroid.iter_mut().zip(&self.with_centroid).take(self.num) {
            *strip = std::array::from_fn(|c| a * d[low + c] + b * d[high + c]);
        }
        Strip {
            with_centroid,
            squared: std::array::from_fn(|c| {
                let (l, h) = (low + c, high + c);
                a * a * g[l][l] + 2.0 * a * b * g[l][h] + b * b * g[h][h]
            }),
            mixed: std::array::from_fn(|c| {
                let (l, h) = (low + c, high + c);
                a * a * g[l][l + 1] + a * b * (g[l][h + 1] + g[h][l + 1]) + b * b * g[h][h + 1]
            }),
        }
    }

    /// Labels of the best candidates of the pixels from column `first`, one vector of them.
    #[inline(always)]
    fn best<const FMA: bool>(
        &self,
        strip: &Strip,
        labels: &[u16; 9],
        table: &ColumnTable,
        first: usize,
        location_y: f32,
    ) -> [u32; LANES] {
        let load = |values: &[f32]| -> Lanes { *values[first..].first_chunk().unwrap_or(&[0.0; LANES]) };
        let add = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
        let [w0, w1, w2] = [load(&table.weights[0]), load(&table.weights[1]), load(&table.weights[2])];
        let x = load(&table.location);
        let ([s0, s1, s2], [m0, m1]) = (strip.squared, strip.mixed);
        let scale: Lanes = std::array::from_fn(|i| {
            let squares = add(w0[i] * w0[i], s0, add(w1[i] * w1[i], s1, w2[i] * w2[i] * s2));
            let squared = add(2.0 * w1[i], add(w0[i], m0, w2[i] * m1), squares);
            if squared >= MIN_NORM * MIN_NORM { 1.0 / squared.sqrt() } else { 0.0 }
        });
        let mut best = [u32::from(labels[0]); LANES];
        let mut best_score = [f32::NEG_INFINITY; LANES];
        for k in 0..self.num.min(9) {
            let [d0, d1, d2] = strip.with_centroid[k];
            let [cy, cx] = self.location[k];
            let label = u32::from(labels[k]);
            let score: Lanes = std::array::from_fn(|i| {
                let product = add(w0[i], d0, add(w1[i], d1, w2[i] * d2));
                add(product, scale[i], add(x[i], cx, location_y * cy))
            });
            best = std::array::from_fn(|i| if score[i] > best_score[i] { label } else { best[i] });
            best_score = std::array::from_fn(|i| if score[i] > best_score[i] { score[i] } else { best_score[i] });
        }
        best
    }
}

/// [`Refiner::run`] computed plainly: every border pixel's feature vector is built, scaled and compared. The oracle.
/// `margins` (source size) gets how far each pixel's best cluster is ahead of the second, times the squared length of
/// the interpolated vector (half-way between opposite features there is no direction); infinity where there was nothing
/// to choose. Another order of the sums may turn a margin of about 1e-6.
///
/// # Errors
/// The same as [`Refiner::run`].
pub fn refine_plain(
    refiner: &Refiner,
    map: &EmbeddingMap,
    segments: &SegmentMap,
    centroids: &[f32],
    out: &mut [u16],
    margins: &mut [f32],
) -> Result<(), RefineError> {
    refiner.check(map, segments, centroids, out)?;
    if margins.len() != out.len() {
        return Err(RefineError::WrongLength { what: "the margins", expected: out.len(), got: margins.len() });
    }
    margins.fill(f32::INFINITY);
    let dim = map.dim;
    let mut vector = vec![0.0; dim + 2];
    let width = refiner.source.width;
    let out_rows = out.chunks_exact_mut(width).zip(margins.chunks_exact_mut(width));
    for (row, (out_row, margin_row)) in refiner.rows.iter().zip(out_rows) {
        for ((column, out), margin) in refiner.columns.iter().zip(out_row).zip(margin_row) {
            let (y, x) = (row.nearest, column.nearest);
            let own = segments.labels[y * segments.width + x];
            *out = own;
            if own == NONE || !is_border(segments, y, x) {
                continue;
            }
            let squared_length = upsample(map, *row, *column, &mut vector[..dim]);
            vector[dim] = lerp(refiner.location.rows[row.low], refiner.location.rows[row.high], row.weight);
            let places = &refiner.location.columns;
            vector[dim + 1] = lerp(places[column.low], places[column.high], column.weight);
            let (labels, num) = candidates(segments, y, x);
            let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for &label in &labels[..num] {
                let centroid = &centroids[usize::from(label) * (dim + 2)..][..dim + 2];
                let score: f32 = vector.iter().zip(centroid).map(|(a, b)| a * b).sum();
                if score > best {
                    (*out, second, best) = (label, best, score);
                } else {
                    second = second.max(score);
                }
            }
            *margin = (best - second) * squared_length.min(1.0);
        }
    }
    Ok(())
}

/// The unit vector at a sample between four cells; returns its squared length before it was scaled.
fn upsample(map: &EmbeddingMap, row: LinearTap, column: LinearTap, out: &mut [f32]) -> f32 {
    let corners = [
        (map.cell(row.low, column.low), (1.0 - row.weight) * (1.0 - column.weight)),
        (map.cell(row.low, column.high), (1.0 - row.weight) * column.weight),
        (map.cell(row.high, column.low), row.weight * (1.0 - column.weight)),
        (map.cell(row.high, column.high), row.weight * column.weight),
    ];
    for (i, o) in out.iter_mut().enumerate() {
        *o = corners.iter().map(|(cell, weight)| cell[i] * weight).sum();
    }
    let squared_length = out.iter().map(|v| v * v).sum();
    crate::embedding::normalize(out);
    squared_length
}

/// The `--reference` path: upsamples the features to every content pixel (half-pixel centres, clamped), scales them to
/// unit length, and clusters at that resolution. `upsampled` (content size × dim values) is scratch memory; `out` has
/// content size. About `stride²` times the work of clustering cells: for accuracy, not for speed.
///
/// # Errors
/// The same as [`SphericalKmeans::run`].
///
/// # Panics
/// When `stride` is 0.
pub fn reference_full_resolution(
    map: &EmbeddingMap,
    content: ImageSize,
    stride: usize,
    kmeans: &mut SphericalKmeans,
    clustered: Option<&[bool]>,
    start: Start,
    upsampled: &mut EmbeddingMap,
    out: &mut SegmentMap,
) -> Result<(), KmeansError> {
    if map.num_cells() == 0 || map.dim == 0 || map.data.len() != map.num_cells() * map.dim {
        // The clusterer words the error.
        return kmeans.run(map, start, out);
    }
    let dim = map.dim;
    let rows = source_taps(content.height, content.height, stride, map.height);
    let columns = source_taps(content.width, content.width, stride, map.width);
    (upsampled.height, upsampled.width, upsampled.dim) = (content.height, content.width, dim);
    upsampled.data.resize(content.num_pixels() * dim, 0.0);
    let row_len = content.width * dim;
    for_each_range(0..content.height, &mut upsampled.data, 1, false, &|y| y * row_len, &|range, data| {
        for (y, data) in range.zip(data.chunks_exact_mut(row_len)) {
            for (column, vector) in columns.iter().zip(data.chunks_exact_mut(dim)) {
                upsample(map, rows[y], *column, vector);
            }
        }
    });
    kmeans.run_masked(upsampled, clustered, start, out)
}

/// Slot of every pixel of the source, `[h, w]`: that of the cell its centre falls into. `stride`: pixels of the resized
/// frame per cell; `columns` is scratch memory. Without refinement: the protocol that published figures compare by.
///
/// # Panics
/// When `segments` has fewer labels than its size says.
pub fn upsample_nearest(
    columns: &mut Vec<usize>,
    &ResizePlan { source, content, .. }: &ResizePlan,
    stride: usize,
    segments: &SegmentMap,
    slots: &mut [u16],
) {
    // (p + 1/2) · content / source / stride in integers: exact on every machine.
    let index = |pixel: usize, source: usize, content: usize, cells: usize| {
        ((2 * pixel + 1) * content / (2 * source * stride)).min(cells.saturating_sub(1))
    };
    columns.clear();
    columns.extend((0..source.width).map(|x| index(x, source.width, content.width, segments.width)));
    for (y, out) in slots.chunks_exact_mut(source.width.max(1)).enumerate() {
        let row = index(y, source.height, content.height, segments.height) * segments.width;
        for (slot, &column) in out.iter_mut().zip(columns.iter()) {
            *slot = segments.labels[row + column];
        }
    }
}

/// Which cells of a map of `plan.content` take part in clustering when only the pixels of the source take part for which
/// `kept` (`[h, w]` of the source) is true: those with at least one such pixel. So every pixel that takes part finds its
/// cell clustered, in [`Refiner::run`], [`upsample_nearest`] and (with stride 1) [`source_from_content`].
///
/// # Panics
/// When `stride` is 0.
pub fn clustered_cells(plan: &ResizePlan, stride: usize, kept: &[bool], cells: &mut Vec<bool>) {
    let (height, width) = plan.content_cells(stride);
    // The cells of a source row or column. Two ways of rounding are in use above, which may differ at a cell's edge; and
    // where cells are smaller than pixels, each takes its pixel.
    let places = |source: usize, content: usize, num: usize| -> Vec<Vec<usize>> {
        let mut cells: Vec<Vec<usize>> = source_taps(source, content, stride, num)
            .iter()
            .enumerate()
            .map(|(i, tap)| vec![tap.nearest, ((2 * i + 1) * content / (2 * source * stride)).min(num - 1)])
            .collect();
        for cell in 0..num {
            let pixel = ((2 * cell + 1) * stride * source / (2 * content)).min(source - 1);
            cells[pixel].push(cell);
        }
        for cells in &mut cells {
            cells.sort_unstable();
            cells.dedup();
        }
        cells
    };
    let rows = places(plan.source.height, plan.content.height, height);
    let columns = places(plan.source.width, plan.content.width, width);
    cells.clear();
    cells.resize(height * width, false);
    for (kept, rows) in kept.chunks_exact(plan.source.width.max(1)).zip(&rows) {
        for (_, columns) in kept.iter().zip(&columns).filter(|(kept, _)| **kept) {
            for (y, x) in rows.iter().flat_map(|y| columns.iter().map(move |x| (y, x))) {
                cells[y * width + x] = true;
            }
        }
    }
}

/// Labels of a segment map of content size (as [`reference_full_resolution`] makes it) at source size, nearest pixel.
///
/// # Errors
/// When the map does not have content size or `out` not source size.
pub fn source_from_content(plan: &ResizePlan, segments: &SegmentMap, out: &mut [u16]) -> Result<(), RefineError> {
    let (height, width) = (plan.content.height, plan.content.width);
    if (segments.height, segments.width) != (height, width) || segments.labels.len() != height * width {
        let (got_height, got_width) = (segments.height, segments.width);
        return Err(RefineError::WrongMapSize { what: "segment map", height, width, got_height, got_width });
    }
    let expected = plan.source.num_pixels();
    if out.len() != expected {
        return Err(RefineError::WrongLength { what: "the output", expected, got: out.len() });
    }
    // (i + ½)·n/N in integers: exact.
    let nearest = |i: usize, n: usize, num: usize| ((2 * i + 1) * n / (2 * num)).min(n - 1);
    for (y, row) in out.chunks_exact_mut(plan.source.width).enumerate() {
        let labels = &segments.labels[nearest(y, height, plan.source.height) * width..][..width];
        for (x, out) in row.iter_mut().enumerate() {
            *out = labels[nearest(x, width, plan.source.width)];
        }
    }
    Ok(())
}
