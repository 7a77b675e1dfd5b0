//! Edges by the gradient of the colour: its magnitude ([`strength_with`]), or one strength per orientation
//! ([`oriented`]).
//!
//! Per scale σ the image's CIE Lab channels are convolved with derivatives of a Gaussian along x and y; the magnitude
//! is √(Σ over channels and directions of the squares), times σ so that scales are comparable (T. Lindeberg, "Edge
//! detection and ridge detection with automatic scale selection", 1998). Scales are added up, and the result is
//! divided by its 99th percentile and cut at 1.

use std::sync::OnceLock;

use segcore::image::{ImageView, PixelFormat};

use crate::owt_ucm::{NUM_ORIENTATIONS, OrientedEdges, tangent};
use crate::resample::mirrored;
use crate::{OversegmentError, StrengthMap};

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
    check_sigmas(&spec.sigmas)?;
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
            add_gradient_magnitude(&channels, (height, width), sigma, weight, &mut scratch, &mut total);
        }
    }
    // Derivatives of one colour are 0 only up to rounding, which must not be scaled up to edges.
    total.iter_mut().filter(|value| **value < ROUNDING).for_each(|value| *value = 0.0);
    scale_by_percentile(&mut total, 0.99);
    StrengthMap::new(height, width, total)
}

fn check_sigmas(sigmas: &[f32]) -> Result<(), OversegmentError> {
    if sigmas.iter().all(|sigma| (0.3..=50.0).contains(sigma)) {
        return Ok(());
    }
    Err(OversegmentError::Setting {
        name: "sigmas",
        got: format!("{sigmas:?}"),
        expected: "standard deviations from 0.3 to 50 pixels",
    })
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

/// Memory of [`for_each_row_of_slopes`].
struct Scratch {
    smooth_along_x: Vec<f32>,
    slope_along_x: Vec<f32>,
    slope_x_row: Vec<f32>,
    slope_y_row: Vec<f32>,
    line: Vec<f32>,
}

impl Scratch {
    fn new(height: usize, width: usize) -> Self {
        Self {
            smooth_along_x: vec![0.0; height * width],
            slope_along_x: vec![0.0; height * width],
            slope_x_row: vec![0.0; width],
            slope_y_row: vec![0.0; width],
            line: Vec::new(),
        }
    }
}

/// Adds weight · σ · |∇(G_σ ∗ channels)| to `total`.
fn add_gradient_magnitude(
    channels: &[Vec<f32>],
    size: (usize, usize),
    sigma: f32,
    weight: f32,
    scratch: &mut Scratch,
    total: &mut [f32],
) {
    let width = size.1;
    let mut squares = vec![0.0f32; total.len()];
    for plane in channels {
        for_each_row_of_slopes(plane, size, sigma, scratch, |row, along_x, along_y| {
            let squares = &mut squares[row * width..][..width];
            for ((square, &x), &y) in squares.iter_mut().zip(along_x).zip(along_y) {
                *square += x * x + y * y;
            }
        });
    }
    for (sum, &square) in total.iter_mut().zip(&squares) {
        *sum += weight * sigma * square.sqrt();
    }
}

/// Mean over `sigmas` of the gradient of `image` across each of eight orientations, `[height, width, 8]`, about 0 to 1.
///
/// For a scale σ, E(x, k) = σ · √(Σ over the channels c of CIE Lab / 100 of (n_k · ∇(G_σ ∗ c))²), n_k across the
/// boundary's direction.
///
/// # Errors
/// When the image has no pixels, too few bytes or an unknown pixel format, or one of `sigmas` is outside
/// 0.3 to 50. Without any, all strengths are 0.
pub fn oriented(image: &ImageView<'_>, sigmas: &[f32]) -> Result<OrientedEdges, OversegmentError> {
    check_sigmas(sigmas)?;
    image.check()?;
    let size @ (height, width) = (image.size.height, image.size.width);
    let channels = lab_channels(image)?;
    let mut scratch = Scratch::new(height, width);
    let mut values = vec![0.0f32; height * width * NUM_ORIENTATIONS];
    // n_k nᵀ_k as the weights of x², x y and y².
    let across: [[f32; 3]; NUM_ORIENTATIONS] = std::array::from_fn(|channel| {
        let (sine, cosine) = tangent(channel).sin_cos();
        [sine * sine, -2.0 * sine * cosine, cosine * cosine].map(|part| part as f32)
    });
    for &sigma in sigmas {
        let mut products = vec![[0.0f32; 3]; height * width];
        for plane in &channels {
            for_each_row_of_slopes(plane, size, sigma, &mut scratch, |row, along_x, along_y| {
                let products = &mut products[row * width..][..width];
                for ((product, &x), &y) in products.iter_mut().zip(along_x).zip(along_y) {
                    product[0] += x * x;
                    product[1] += x * y;
                    product[2] += y * y;
                }
            });
        }
        let scale = sigma / sigmas.len() as f32;
        for (values, product) in values.as_chunks_mut::<NUM_ORIENTATIONS>().0.iter_mut().zip(&products) {
            for (value, across) in values.iter_mut().zip(&across) {
                let square = across[0] * product[0] + across[1] * product[1] + across[2] * product[2];
                // Rounding may leave a little less than 0, or a flat area a little more.
                *value += scale * square.max(0.0).sqrt();
            }
        }
    }
    values.iter_mut().filter(|value| **value < ROUNDING).for_each(|value| *value = 0.0);
    OrientedEdges::new(height, width, values)
}

/// Calls `work` with every row's number and the slopes of G_σ ∗ `plane` along columns and along rows.
fn for_each_row_of_slopes(
    plane: &[f32],
    (height, width): (usize, usize),
    sigma: f32,
    scratch: &mut Scratch,
    mut work: impl FnMut(usize, &[f32], &[f32]),
) {
    let (gaussian, derivative) = gaussian_and_derivative(sigma);
    let radius = gaussian.len() / 2;
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
        work(row, &scratch.slope_x_row, &scratch.slope_y_row);
    }
}
