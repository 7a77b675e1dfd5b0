//! What a pixel looks like: its colour and how much colour varies around it.

use nalgebra::{Matrix3, SymmetricEigen};
use rayon::prelude::*;
use segcore::image::{ImageView, PixelFormat};

use crate::OversegmentError;
use crate::resample::{mirrored, resize_bicubic};

/// Three numbers per pixel, `[height, width, 3]` row-major, in 0 to 1, the most varying first.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) values: Vec<[f32; 3]>,
}

impl Features {
    /// Features of `height` × `width` pixels, row-major; `None` when a side is 0 or the number of values is another.
    pub fn new(height: usize, width: usize, values: Vec<[f32; 3]>) -> Option<Self> {
        let fits = height > 0 && width > 0 && height.checked_mul(width) == Some(values.len());
        fits.then_some(Self { height, width, values })
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The features, `[height, width, 3]` row-major.
    pub fn values(&self) -> &[[f32; 3]] {
        &self.values
    }

    /// The colour of `image` at 1 / 2^`halvings` of its size (rounded up): CIE Lab (D50) scaled to 0..1 over all three
    /// channels, resized, turned onto its principal components, scaled again.
    ///
    /// # Errors
    /// When the image has no pixels, too few bytes or an unknown pixel format.
    pub fn colour(image: &ImageView<'_>, halvings: u32) -> Result<Self, OversegmentError> {
        let mut lab = lab_d50(image)?;
        scale_to_unit(&mut lab);
        Ok(Self::reduced((image.size.height, image.size.width), &lab, halvings))
    }

    /// How much the colour varies around each pixel of `image`, at 1 / 2^`halvings` of its size (rounded up): the
    /// square root of the standard deviation of each principal component of RGB in a disk of radius 2^`halvings` pixels
    /// of the image, then as [`Features::colour`].
    ///
    /// # Errors
    /// As [`Features::colour`].
    pub fn variation(image: &ImageView<'_>, halvings: u32) -> Result<Self, OversegmentError> {
        let size = (image.size.height, image.size.width);
        let mut components = rgb(image)?;
        turn_to_principal_components(&mut components);
        let mut variation = local_deviation(&components, size, 1 << halvings);
        variation.iter_mut().flatten().for_each(|value| *value = value.sqrt());
        scale_to_unit(&mut variation);
        Ok(Self::reduced(size, &variation, halvings))
    }

    fn reduced((height, width): (usize, usize), full: &[[f32; 3]], halvings: u32) -> Self {
        let step = 1 << halvings;
        let (new_height, new_width) = (height.div_ceil(step), width.div_ceil(step));
        let scale = 1.0 / step as f64;
        let mut values = if halvings == 0 {
            full.to_vec()
        } else {
            let resized = resize_bicubic(full.as_flattened(), (height, width), 3, (new_height, new_width), scale);
            resized.as_chunks::<3>().0.to_vec()
        };
        turn_to_principal_components(&mut values);
        scale_to_unit(&mut values);
        Self { height: new_height, width: new_width, values }
    }
}

/// Maps the smallest of all values to 0 and the largest to 1; equal values to 0.
fn scale_to_unit(values: &mut [[f32; 3]]) {
    let flat = values.as_flattened_mut();
    let least = flat.iter().copied().fold(f32::INFINITY, f32::min);
    let most = flat.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = most - least;
    let factor = if range > 0.0 { range.recip() } else { 0.0 };
    flat.iter_mut().for_each(|value| *value = ((*value - least) * factor).min(1.0));
}

/// Removes the mean and turns the three channels onto their principal components, the most varying first, unscaled.
/// The sign of a component is arbitrary; here its largest loading is positive.
fn turn_to_principal_components(values: &mut [[f32; 3]]) {
    let number = values.len() as f64;
    let mut mean = [0.0f64; 3];
    for value in values.iter() {
        (0..3).for_each(|i| mean[i] += f64::from(value[i]));
    }
    mean.iter_mut().for_each(|sum| *sum /= number);
    let mut covariance = Matrix3::zeros();
    for value in values.iter() {
        let centred: [f64; 3] = std::array::from_fn(|i| f64::from(value[i]) - mean[i]);
        for i in 0..3 {
            for j in 0..3 {
                covariance[(i, j)] += centred[i] * centred[j];
            }
        }
    }
    let eigen = SymmetricEigen::new(covariance / number);
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let loadings = order.map(|component| {
        let loading = [0, 1, 2].map(|channel| eigen.eigenvectors[(channel, component)]);
        let largest = loading.iter().copied().fold(0.0f64, |most, l| if l.abs() > most.abs() { l } else { most });
        loading.map(|l| if largest < 0.0 { -l } else { l })
    });
    for value in values.iter_mut() {
        let centred: [f64; 3] = std::array::from_fn(|i| f64::from(value[i]) - mean[i]);
        *value = loadings.map(|l| (l[0] * centred[0] + l[1] * centred[1] + l[2] * centred[2]) as f32);
    }
}

/// Every pixel of `image` as red, green, blue bytes; grey is spread.
fn rgb_bytes(image: &ImageView<'_>) -> Result<Vec<[u8; 3]>, OversegmentError> {
    image.check()?;
    let mut pixels = Vec::with_capacity(image.size.num_pixels());
    for row in 0..image.size.height {
        match image.format {
            PixelFormat::Rgb8 => pixels.extend_from_slice(image.row(row).as_chunks::<3>().0),
            PixelFormat::Gray8 => pixels.extend(image.row(row).iter().map(|&value| [value; 3])),
            got => return Err(OversegmentError::PixelFormat { got }),
        }
    }
    Ok(pixels)
}

fn rgb(image: &ImageView<'_>) -> Result<Vec<[f32; 3]>, OversegmentError> {
    Ok(rgb_bytes(image)?.into_iter().map(|pixel| pixel.map(|v| f32::from(v) / 255.0)).collect())
}

/// CIE Lab of sRGB with the white point D50 (L from 0 to 100), one value per pixel, row-major.
///
/// # Errors
/// When the image has no pixels, too few bytes or an unknown pixel format.
pub fn lab_d50(image: &ImageView<'_>) -> Result<Vec<[f32; 3]>, OversegmentError> {
    let linear: [f64; 256] = std::array::from_fn(|byte| {
        let v = byte as f64 / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    });
    let f = |t: f64| {
        let edge = 6.0f64 / 29.0;
        if t > edge.powi(3) { t.cbrt() } else { t / (3.0 * edge * edge) + 4.0 / 29.0 }
    };
    let of_pixel = |pixel: &[u8; 3]| {
        let [r, g, b] = pixel.map(|v| linear[usize::from(v)]);
        let x = f((0.436_074_7 * r + 0.385_064_9 * g + 0.143_080_4 * b) / 0.964_2);
        let y = f(0.222_504_5 * r + 0.716_878_6 * g + 0.060_616_9 * b);
        let z = f((0.013_932_2 * r + 0.097_104_5 * g + 0.714_173_3 * b) / 0.824_9);
        [(116.0 * y - 16.0) as f32, (500.0 * (x - y)) as f32, (200.0 * (y - z)) as f32]
    };
    Ok(rgb_bytes(image)?.par_iter().map(of_pixel).collect())
}

/// Standard deviation (n - 1) of each channel in the disk {x² + y² ≤ `radius`²} around each pixel; beyond its border
/// the image goes on as in a mirror.
fn local_deviation(values: &[[f32; 3]], (height, width): (usize, usize), radius: usize) -> Vec<[f32; 3]> {
    let radius = radius as isize;
    // Half the width of each row of the disk.
    let spans: Vec<isize> = (-radius..=radius).map(|y| ((radius * radius - y * y) as f64).sqrt() as isize).collect();
    let number = spans.iter().map(|&span| 2 * span + 1).sum::<isize>() as f64;
    // Running sums along each row, with `radius` mirrored pixels on both sides, of the values and of their squares.
    let stride = width + 2 * radius as usize + 1;
    let mut sums = vec![[0.0f64; 6]; height * stride];
    sums.par_chunks_mut(stride).zip(values.par_chunks(width)).for_each(|(sums, row)| {
        let mut running = [0.0f64; 6];
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum = running;
            let value = row[mirrored(at as isize - radius, width)].map(f64::from);
            for channel in 0..3 {
                running[channel] += value[channel];
                running[3 + channel] += value[channel] * value[channel];
            }
        }
    });
    let mut out = vec![[0.0f32; 3]; height * width];
    out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
        let rows: Vec<usize> = (-radius..=radius).map(|y| mirrored(row as isize + y, height) * stride).collect();
        for (column, out) in out.iter_mut().enumerate() {
            let mut total = [0.0f64; 6];
            for (&start, &span) in rows.iter().zip(&spans) {
                let first = start + column + (radius - span) as usize;
                let (low, high) = (&sums[first], &sums[first + 2 * span as usize + 1]);
                (0..6).for_each(|i| total[i] += high[i] - low[i]);
            }
            *out = std::array::from_fn(|c| {
                let squares = total[3 + c] - total[c] * total[c] / number;
                (squares.max(0.0) / (number - 1.0)).sqrt() as f32
            });
        }
    });
    out
}
