//! What the boundary and region benchmark compares: a contour map, the annotators' drawings of the same image, and the
//! thresholds at which the map is read.
//!
//! Arrays are row-major, shapes `[h, w]`.

use std::collections::BTreeMap;

use crate::EvaluationError;
use crate::thinning::thin;

/// How a contour map lies over the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    /// `[h, w]`: one strength per pixel.
    Image,
    /// `[2h + 1, 2w + 1]`: pixels at odd rows and columns, what separates them between.
    Doubled,
}

/// Strengths of contours in 0 to 1, of one image of `h` × `w` pixels.
///
/// Two layouts are known. The *doubled* one, `[2h + 1, 2w + 1]`, has a cell for each pixel (row and column odd), for each
/// edge between two pixels (one of them even) and for each corner (both even); it is how ultrametric contour maps are
/// computed and the only layout in which a region can be one pixel wide. The *image* layout, `[h, w]`, is the corner of
/// the doubled map at the lower right of each pixel, or what any other edge detector gives.
#[derive(Clone, Debug, PartialEq)]
pub struct ContourMap {
    height: usize,
    width: usize,
    layout: Layout,
    strengths: Vec<f32>,
}

impl ContourMap {
    /// A map of one strength per pixel: `strengths` is `[height, width]`, each in 0 to 1.
    ///
    /// # Errors
    /// When there is no pixel or there are 2³² or more, the length is not height × width, or a strength is outside 0 to 1
    /// or not a number.
    pub fn image_sized(height: usize, width: usize, strengths: Vec<f32>) -> Result<Self, EvaluationError> {
        Self::new(height, width, Layout::Image, strengths)
    }

    /// A map on the doubled grid of an image of `height` × `width` pixels: `strengths` is `[2 height + 1, 2 width + 1]`.
    ///
    /// # Errors
    /// As [`ContourMap::image_sized`].
    pub fn doubled(height: usize, width: usize, strengths: Vec<f32>) -> Result<Self, EvaluationError> {
        Self::new(height, width, Layout::Doubled, strengths)
    }

    fn new(height: usize, width: usize, layout: Layout, strengths: Vec<f32>) -> Result<Self, EvaluationError> {
        check_size("contour map", height, width)?;
        let map = Self { height, width, layout, strengths };
        let (rows, columns) = map.grid();
        if map.strengths.len() != rows * columns {
            let got = map.strengths.len();
            return Err(EvaluationError::MapLength { what: "contour map", rows, columns, got });
        }
        match map.strengths.iter().position(|strength| !(0.0..=1.0).contains(strength)) {
            None => Ok(map),
            Some(at) => Err(EvaluationError::Strength {
                row: at / columns,
                column: at % columns,
                got: map.strengths[at].to_string(),
            }),
        }
    }

    /// Rows of the image.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of the image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows and columns of `strengths`.
    pub(crate) fn grid(&self) -> (usize, usize) {
        match self.layout {
            Layout::Image => (self.height, self.width),
            Layout::Doubled => (2 * self.height + 1, 2 * self.width + 1),
        }
    }

    /// Row and column of the first pixel in `strengths`, and the distance from one to the next.
    pub(crate) fn pixel_cells(&self) -> (usize, usize) {
        match self.layout {
            Layout::Image => (0, 1),
            Layout::Doubled => (1, 2),
        }
    }

    /// All strengths, of the shape that [`ContourMap::grid`] says.
    pub(crate) fn strengths(&self) -> &[f32] {
        &self.strengths
    }

    /// One strength per pixel, `[h, w]`: of a doubled map the corner at the pixel's lower right, `U2[2::2, 2::2]`.
    pub(crate) fn pixel_strengths(&self) -> Vec<f32> {
        match self.layout {
            Layout::Image => self.strengths.clone(),
            Layout::Doubled => {
                let columns = 2 * self.width + 1;
                let corner_rows = self.strengths.chunks_exact(columns).skip(2).step_by(2);
                corner_rows.flat_map(|row| row.iter().skip(2).step_by(2).copied()).collect()
            }
        }
    }
}

/// What one annotator drew on an image: its regions and their boundaries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Annotation {
    height: usize,
    width: usize,
    /// Pixels of each region as horizontal runs `(first pixel, length)`; regions by rising label. A run never passes the
    /// end of a row.
    regions: Vec<Vec<(u32, u32)>>,
    /// `[h, w]`: true on boundaries.
    boundary: Vec<bool>,
}

impl Annotation {
    /// An annotation of `height` × `width` pixels. `labels`: the region of each pixel; every value is a label, 0 as well,
    /// and the pixels of one label are one region. `boundary`: true where the annotator sees a boundary, taken as it is
    /// (not thinned). Without `boundary`, the boundaries are the pixels whose label differs from that of their right,
    /// lower or lower right neighbour, thinned: exactly how the boundaries of the data set were made from its regions.
    ///
    /// # Errors
    /// When there is no pixel or there are 2³² or more, or a length is not height × width.
    pub fn new(
        height: usize,
        width: usize,
        labels: &[u16],
        boundary: Option<Vec<bool>>,
    ) -> Result<Self, EvaluationError> {
        check_size("segmentation of an annotator", height, width)?;
        let check_length = |what, got| match got == height * width {
            true => Ok(()),
            false => Err(EvaluationError::MapLength { what, rows: height, columns: width, got }),
        };
        check_length("segmentation of an annotator", labels.len())?;
        let boundary = boundary.unwrap_or_else(|| {
            let mut boundary = boundaries_between(labels, height, width);
            thin(&mut boundary, width);
            boundary
        });
        check_length("boundary map of an annotator", boundary.len())?;
        Ok(Self { height, width, regions: region_runs(labels, width), boundary })
    }

    /// Rows of the image.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of the image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Where the annotator sees boundaries, `[h, w]`.
    pub fn boundary(&self) -> &[bool] {
        &self.boundary
    }

    /// The regions, each as runs `(first pixel, length)`.
    pub(crate) fn regions(&self) -> &[Vec<(u32, u32)>] {
        &self.regions
    }
}

/// True at pixels whose label is not that of the right, lower or lower right neighbour. `labels`: `[height, width]`.
fn boundaries_between(labels: &[u16], height: usize, width: usize) -> Vec<bool> {
    let mut boundary = vec![false; labels.len()];
    for row in 0..height {
        // In the last row and column the missing neighbour is the pixel itself: no difference.
        let below = if row + 1 < height { width } else { 0 };
        for column in 0..width {
            let right = usize::from(column + 1 < width);
            let at = row * width + column;
            boundary[at] = [right, below, below + right].iter().any(|step| labels[at + step] != labels[at]);
        }
    }
    boundary
}

/// The pixels of each label as horizontal runs, labels rising.
fn region_runs(labels: &[u16], width: usize) -> Vec<Vec<(u32, u32)>> {
    let mut by_label: BTreeMap<u16, Vec<(u32, u32)>> = BTreeMap::new();
    for (row, values) in labels.chunks_exact(width).enumerate() {
        let mut start = row * width;
        for run in values.chunk_by(|a, b| a == b) {
            // Fits: `check_size` allows fewer than 2³² pixels.
            by_label.entry(run[0]).or_default().push((start as u32, run.len() as u32));
            start += run.len();
        }
    }
    by_label.into_values().collect()
}

/// Pixels are counted in 32 bits.
fn check_size(what: &'static str, height: usize, width: usize) -> Result<(), EvaluationError> {
    match height.checked_mul(width) {
        Some(1..=0xFFFF_FFFF) => Ok(()),
        _ => Err(EvaluationError::MapSize { what, height, width }),
    }
}

/// Fails unless there are annotations and all are of the size of the contour map.
pub(crate) fn check_same_size(contours: &ContourMap, annotations: &[Annotation]) -> Result<(), EvaluationError> {
    if annotations.is_empty() {
        return Err(EvaluationError::NoAnnotation);
    }
    let expected = (contours.height, contours.width);
    for (index, annotation) in annotations.iter().enumerate() {
        let got = (annotation.height, annotation.width);
        if got != expected {
            return Err(EvaluationError::AnnotationSize { index, expected, got });
        }
    }
    Ok(())
}

/// The thresholds t = k / (n + 1), k = 1 … n, of a benchmark; the official ones are n = 99: 0.01, 0.02 … 0.99.
///
/// Strengths are `f32`, so they are compared with each threshold's nearest `f32`. Rounding keeps order, so a strength that
/// was stored as an integer, like 13107 / 65535 = 0.2, is on the same side of a threshold as in exact arithmetic, ties
/// included, unless it is nearer to it than 2⁻²⁴, which a 16-bit value never is without being equal.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    values: Vec<f32>,
}

impl Thresholds {
    /// `num_thresholds` thresholds, evenly between 0 and 1.
    ///
    /// # Errors
    /// When `num_thresholds` is not in 1 to 9999.
    pub fn new(num_thresholds: usize) -> Result<Self, EvaluationError> {
        if !(1..=9999).contains(&num_thresholds) {
            return Err(EvaluationError::NumThresholds { got: num_thresholds });
        }
        let value = |k: usize| (k as f64 / (num_thresholds + 1) as f64) as f32;
        Ok(Self { values: (1..=num_thresholds).map(value).collect() })
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Threshold number `index`, from 0, exactly.
    pub fn exact(&self, index: usize) -> f64 {
        (index + 1) as f64 / (self.values.len() + 1) as f64
    }

    /// The thresholds as they are compared, rising.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }
}
