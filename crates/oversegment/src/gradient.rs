//! The fast edge detector: gradient magnitude of the colour.
//!
//! Per scale σ the image's CIE Lab channels are convolved with derivatives of a Gaussian along x and y; the magnitude
//! is √(Σ over channels and directions of the squares), times σ so that scales are comparable (T. Lindeberg, "Edge
//! detection and ridge detection with automatic scale selection", 1998). Scales are added up, and the result is
//! divided by its 99th percentile and cut at 1.

use std::sync::OnceLock;

use segcore::image::{ImageView, PixelFormat};

use crate::OversegmentError;

/// Strength of a boundary per pixel, `[height, width]` row-major, finite and ≥ 0.
#[derive(Clone, Debug, PartialEq)]
pub struct StrengthMap {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) values: Vec<f32>,
}

impl StrengthMap {
    /// A map of `height` × `width` strengths, row-major.
    ///
    /// # Errors
    /// When a side is 0, the number of values is not `height * width`, or a value is negative, infinite or not a
    /// number.
    pub fn new(height: usize, width: usize, values: Vec<f32>) -> Result<Self, OversegmentError> {
        if height == 0 || width == 0 {
            return Err(OversegmentError::EmptyMap { height, width });
        }
        let expected = height.saturating_mul(width);
        if values.len() != expected {
            return Err(OversegmentError::StrengthLength { height, width, expected, got: values.len() });
        }
        if let Some(at) = values.iter().position(|value| !(value.is_finite() && *value >= 0.0)) {
            return Err(OversegmentError::StrengthValue { row: at / width, column: at % width, value: values[at] });
        }
        Ok(Self { height, width, values })
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The strengths, `[height, width]` row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// Settings of the gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientSpec {
    /// Standard deviations of the Gaussians in pixels, each in 0.3 to 50.
    pub sigmas: Vec<f32>,
    /// Weight of each scale, beside `sigmas`; ≥ 0, at least one above 0.
    pub weights: Vec<f32>,
}

impl Default for GradientSpec {
    fn default() -> Self {
        Self { sigmas: vec![1.5], weights: vec![1.0] }
    }
}

/// Strength of the default detector: [`strength_with`] and [`GradientSpec::default`].
///
/// # Errors
/// When the image has no pixels, too few bytes or an unknown pixel format.
pub fn strength(image: &ImageView<'_>) -> Result<StrengthMap, OversegmentError> {
    strength_with(image, &GradientSpec::default())
}

/// Gradient magnitude of `image`, in 0 to 1: 1 from the image's 99th percentile on; all 0 for an image of one colour.
///
/// Beyond its borders the image is continued as in a mirror (the outermost pixels twice), so borders are no edges.
///
/// # Errors
/// When the image has no pixels, too few bytes or an unknown pixel format, or a setting is out of range.
pub fn strength_with(image: &ImageView<'_>, spec: &GradientSpec) -> Result<StrengthMap, OversegmentError> {
    if spec.sigmas.iter().any(|sigma| !(0.3..=50.0).contains(sigma)) {
        return Err(OversegmentError::Setting {
            name: "sigmas",
            got: format!("{:?}", spec.sigmas),
            expected: "standard deviations from 0.3 to 50 pixels",
        });
    }
    let is_weighted = spec.weights.iter().all(|w| w.is_finite() && *w >= 0.0) && spec.weights.iter().any(|w| *w > 0.0);
    if spec.weights.len() != spec.sigmas.len() || !is_weighted {
        return Err(OversegmentError::Setting {
            name: "weights",
            got: format!("{:?}", spec.weights),
            expected: "one weight ≥ 0 for each of `sigmas`, not all 0",
        });
    }
    image.check()?;
    let (height, width) = (image.size.height, image.size.width);
    let channels = lab_channels(image)?;
    let mut total = vec![0.0f32; height * width];
    let mut scratch = Scratch::new(height, width);
    for (&sigma, &weight) in spec.sigmas.iter().zip(&spec.weights) {
        if weight > 0.0 {
            add_gradient_magnitude(&channels, height, width, sigma, weight, &mut scratch, &mut total);
        }
    }
    // Derivatives of one colour are 0 only up to rounding, which must not be scaled up to edges.
    total.iter_mut().filter(|value| **value < ROUNDING).for_each(|value| *value = 0.0);
    scale_by_percentile(&mut total, 0.99);
    StrengthMap::new(height, width, total)
}

/// Far below the magnitude that one grey level makes (about 1e-3), far above the rounding of a flat area (1e-7).
const ROUNDING: f32 = 1e-5;

/// Divides by the value below which the share `percentile` of the values lies, and cuts at 1.
fn scale_by_percentile(values: &mut [f32], percentile: f64) {
    let mut sorted = values.to_vec();
    let rank = (((sorted.len() - 1) as f64) * percentile).round() as usize;
    let (_, reference, _) = sorted.select_nth_unstable_by(rank, f32::total_cmp);
    let mut reference = *reference;
    if reference <= 0.0 {
        // Fewer than one pixel in a hundred differs from its neighbours: scale by the strongest of them.
        reference = sorted.iter().copied().fold(0.0, f32::max);
    }
    if reference > 0.0 {
        for value in values {
            *value = (*value / reference).min(1.0);
        }
    }
}

/// sRGB byte → linear light, and linear light → CIE f, as tables.
struct LabTables {
    linear: [f32; 256],
    f: Vec<f32>,
}

/// Intervals of the table of CIE f over 0 to 1; linear interpolation errs by less than 1e-5.
const F_STEPS: usize = 8192;

impl LabTables {
    fn get() -> &'static Self {
        static TABLES: OnceLock<LabTables> = OnceLock::new();
        TABLES.get_or_init(|| {
            let mut linear = [0.0; 256];
            for (byte, value) in linear.iter_mut().enumerate() {
                let v = byte as f64 / 255.0;
                let light = if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) };
                *value = light as f32;
            }
            let f = (0..=F_STEPS + 1)
                .map(|step| {
                    let t = step as f64 / F_STEPS as f64;
                    let limit = (6.0f64 / 29.0).powi(3);
                    let f = if t > limit { t.cbrt() } else { t / (3.0 * (6.0f64 / 29.0).powi(2)) + 4.0 / 29.0 };
                    f as f32
                })
                .collect();
            Self { linear, f }
        })
    }

    fn f(&self, t: f32) -> f32 {
        let at = t.clamp(0.0, 1.0) * F_STEPS as f32;
        let step = at as usize;
        let fraction = at - step as f32;
        self.f[step] + fraction * (self.f[step + 1] - self.f[step])
    }
}

/// CIE Lab / 100 (D65) of an sRGB image, one `[height, width]` plane per channel; grey images have L alone.
fn lab_channels(image: &ImageView<'_>) -> Result<Vec<Vec<f32>>, OversegmentError> {
    let tables = LabTables::get();
    let (height, width) = (image.size.height, image.size.width);
    match image.format {
        PixelFormat::Rgb8 => {
            let mut planes = vec![vec![0.0f32; height * width]; 3];
            let [lightness, a, b] = planes.as_mut_slice() else { unreachable!("three planes") };
            for row in 0..height {
                for (column, pixel) in image.row(row).chunks_exact(3).enumerate() {
                    let [red, green, blue] = [0, 1, 2].map(|channel| tables.linear[usize::from(pixel[channel])]);
                    let x = tables.f((0.412_456_4 * red + 0.357_576_1 * green + 0.180_437_5 * blue) / 0.950_47);
                    let y = tables.f(0.212_672_9 * red + 0.715_152_2 * green + 0.072_175 * blue);
                    let z = tables.f((0.019_333_9 * red + 0.119_192 * green + 0.950_304_1 * blue) / 1.088_83);
                    let at = row * width + column;
                    lightness[at] = 1.16 * y - 0.16;
                    a[at] = 5.0 * (x - y);
                    b[at] = 2.0 * (y - z);
                }
            }
            Ok(planes)
        }
        PixelFormat::Gray8 => {
            let mut plane = Vec::with_capacity(height * width);
            for row in 0..height {
                plane.extend(image.row(row).iter().map(|&v| 1.16 * tables.f(tables.linear[usize::from(v)]) - 0.16));
            }
            Ok(vec![plane])
        }
        got => Err(OversegmentError::PixelFormat { got }),
    }
}

/// Sampled Gaussian (sum 1) and its derivative (a ramp of slope 1 gives 1), from -radius to radius.
fn gaussian_and_derivative(sigma: f32) -> (Vec<f32>, Vec<f32>) {
    let sigma = f64::from(sigma);
    let radius = (3.0 * sigma).ceil() as i64;
    let weight = |x: i64| (-0.5 * (x as f64 / sigma).powi(2)).exp();
    let sum: f64 = (-radius..=radius).map(weight).sum();
    let slope: f64 = (-radius..=radius).map(|x| (x * x) as f64 * weight(x)).sum();
    let gaussian = (-radius..=radius).map(|x| (weight(x) / sum) as f32).collect();
    let derivative = (-radius..=radius).map(|x| (x as f64 * weight(x) / slope) as f32).collect();
    (gaussian, derivative)
}

/// Position `at` (may lie outside) in a line of `length` pixels mirrored at both ends, the end pixels twice.
fn mirrored(at: isize, length: usize) -> usize {
    let period = 2 * length as isize;
    let at = at.rem_euclid(period);
    (if at < length as isize { at } else { period - 1 - at }) as usize
}

/// Planes used by [`add_gradient_magnitude`].
struct Scratch {
    smooth_along_x: Vec<f32>,
    slope_along_x: Vec<f32>,
    squares: Vec<f32>,
    slope_x_row: Vec<f32>,
    slope_y_row: Vec<f32>,
    line: Vec<f32>,
}

impl Scratch {
    fn new(height: usize, width: usize) -> Self {
        Self {
            smooth_along_x: vec![0.0; height * width],
            slope_along_x: vec![0.0; height * width],
            squares: vec![0.0; height * width],
            slope_x_row: vec![0.0; width],
            slope_y_row: vec![0.0; width],
            line: Vec::new(),
        }
    }
}

/// Adds weight · σ · |∇(G_σ ∗ channels)| to `total`.
fn add_gradient_magnitude(
    channels: &[Vec<f32>],
    height: usize,
    width: usize,
    sigma: f32,
    weight: f32,
    scratch: &mut Scratch,
    total: &mut [f32],
) {
    let (gaussian, derivative) = gaussian_and_derivative(sigma);
    let radius = gaussian.len() / 2;
    scratch.squares.fill(0.0);
    for plane in channels {
        for row in 0..height {
            let source = &plane[row * width..][..width];
            scratch.line.clear();
            scratch.line.extend((0..radius).map(|i| source[mirrored(i as isize - radius as isize, width)]));
            scratch.line.extend_from_slice(source);
            scratch.line.extend((0..radius).map(|i| source[mirrored((width + i) as isize, width)]));
            let smooth = &mut scratch.smooth_along_x[row * width..][..width];
            let slope = &mut scratch.slope_along_x[row * width..][..width];
            smooth.fill(0.0);
            slope.fill(0.0);
            // Tap by tap over the whole row: the inner loop is over neighbours in memory.
            for (tap, (&g, &d)) in gaussian.iter().zip(&derivative).enumerate() {
                let shifted = &scratch.line[tap..][..width];
                for ((smooth, slope), &value) in smooth.iter_mut().zip(slope.iter_mut()).zip(shifted) {
                    *smooth += g * value;
                    *slope += d * value;
                }
            }
        }
        for row in 0..height {
            scratch.slope_x_row.fill(0.0);
            scratch.slope_y_row.fill(0.0);
            for (tap, (&g, &d)) in gaussian.iter().zip(&derivative).enumerate() {
                let source = mirrored((row + tap) as isize - radius as isize, height) * width;
                let slopes = &scratch.slope_along_x[source..][..width];
                let smooths = &scratch.smooth_along_x[source..][..width];
                for column in 0..width {
                    scratch.slope_x_row[column] += g * slopes[column];
                    scratch.slope_y_row[column] += d * smooths[column];
                }
            }
            let squares = &mut scratch.squares[row * width..][..width];
            for ((square, &x), &y) in squares.iter_mut().zip(&scratch.slope_x_row).zip(&scratch.slope_y_row) {
                *square += x * x + y * y;
            }
        }
    }
    for (sum, &square) in total.iter_mut().zip(&scratch.squares) {
        *sum += weight * sigma * square.sqrt();
    }
}
