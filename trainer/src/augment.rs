//! Two views of an image: flip, rescale, crop, colours (method.md §6). [T3]
//!
//! The crop is sampled from the source in one pass (bilinear, half-pixel centres), so the rescaled image is never
//! made. Edge regions go through the same geometry with nearest sampling, only where the feature map needs them.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::base_segments::NO_REGION;

/// Mean of RGB / 255 over ImageNet, subtracted from every pixel; padding is exactly this colour.
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of RGB / 255 over ImageNet, which pixels are divided by.
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Ranges and probabilities of the augmentations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentSpec {
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Range of the uniform rescaling factor.
    pub scale: [f64; 2],
    /// Brightness factor in 1 ± this.
    pub brightness: f64,
    /// Contrast factor in 1 ± this.
    pub contrast: f64,
    /// Saturation factor in 1 ± this.
    pub saturation: f64,
    /// Hue shift in ± this, in turns.
    pub hue: f64,
    /// Probability of the four colour changes (together, in random order).
    pub jitter: f64,
    /// Probability of a grey view.
    pub gray: f64,
    /// Probability of a Gaussian blur with a standard deviation of 0.1 to 2 pixels.
    pub blur: f64,
}

/// An image with its edge regions.
pub struct Source<'a> {
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// RGB, row-major, `[height, width, 3]`.
    pub rgb: &'a [u8],
    /// Region of every pixel, `[height, width]`; 65535 = none.
    pub regions: &'a [u16],
}

/// Size of a view: `crop` × `crop` pixels and `cells` × `cells` feature cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewSize {
    /// Pixels along each side.
    pub crop: usize,
    /// Feature cells along each side.
    pub cells: usize,
}

/// Makes one random view of `source`.
///
/// `image` `[crop, crop, 3]` gets normalised pixels (0 where the crop reaches beyond the image); `edges`
/// `[cells, cells]` gets the region under each cell's top-left pixel, which is the centre of the cell's receptive
/// field (65535 beyond the image).
pub fn random_view(
    source: &Source<'_>,
    spec: &AugmentSpec,
    size: ViewSize,
    rng: &mut ChaCha8Rng,
    image: &mut [f32],
    edges: &mut [i64],
) {
    let ViewSize { crop, cells } = size;
    let flip = rng.random_bool(spec.flip);
    let factor = uniform(rng, spec.scale[0], spec.scale[1]);
    let scaled = |n: usize| ((n as f64 * factor).round() as usize).max(1);
    let (scaled_width, scaled_height) = (scaled(source.width), scaled(source.height));
    let x0 = offset(rng, scaled_width, crop);
    let y0 = offset(rng, scaled_height, crop);
    let columns = Axis::new(source.width, scaled_width, x0, crop, flip);
    let rows = Axis::new(source.height, scaled_height, y0, crop, false);

    image.fill(0.0);
    let used = columns.len();
    let mut pixels = resampled(source, &columns, &rows);
    if rng.random_bool(spec.jitter) {
        jitter(&mut pixels, spec, rng);
    }
    if rng.random_bool(spec.gray) {
        for pixel in &mut pixels {
            *pixel = [luma(pixel); 3];
        }
    }
    if rng.random_bool(spec.blur) {
        let deviation = uniform(rng, 0.1, 2.0);
        blur(&mut pixels, used, deviation);
    }
    for (line, out) in pixels.chunks_exact(used.max(1)).zip(image.chunks_exact_mut(crop * 3)) {
        for (pixel, out) in line.iter().zip(out.as_chunks_mut::<3>().0) {
            *out = std::array::from_fn(|c| (pixel[c] - MEAN[c]) / STD[c]);
        }
    }
    for (j, cell_row) in edges.chunks_exact_mut(cells).enumerate() {
        for (i, edge) in cell_row.iter_mut().enumerate() {
            let (x, y) = (i * crop / cells, j * crop / cells);
            *edge = match (columns.taps.get(x), rows.taps.get(y)) {
                (Some(column), Some(row)) => i64::from(source.regions[row.nearest * source.width + column.nearest]),
                _ => NO_REGION,
            };
        }
    }
}

/// The pixels of the crop, in 0 to 1, bilinear between the four pixels around each.
///
/// Rows of the source are interpolated along x once and kept for the rows of the crop that lie beside them.
fn resampled(source: &Source<'_>, columns: &Axis, rows: &Axis) -> Vec<[f32; 3]> {
    let used = columns.len();
    let (source_rows, _) = source.rgb.as_chunks::<3>();
    let along_x = |y: usize, out: &mut Vec<[f32; 3]>| {
        let line = &source_rows[y * source.width..][..source.width];
        out.clear();
        out.extend(columns.taps.iter().map(|tap| {
            let (low, high) = (line[tap.low].map(f32::from), line[tap.high].map(f32::from));
            std::array::from_fn(|c| low[c] + tap.weight * (high[c] - low[c]))
        }));
    };
    let (mut above, mut below) = (Vec::with_capacity(used), Vec::with_capacity(used));
    let (mut at_above, mut at_below) = (usize::MAX, usize::MAX);
    let mut pixels = Vec::with_capacity(used * rows.len());
    for row in &rows.taps {
        if row.low != at_above {
            // Going down, what was below is above now.
            if row.low == at_below {
                std::mem::swap(&mut above, &mut below);
                at_below = usize::MAX;
            } else {
                along_x(row.low, &mut above);
            }
            at_above = row.low;
        }
        if row.high != at_below {
            along_x(row.high, &mut below);
            at_below = row.high;
        }
        pixels.extend(above.iter().zip(&below).map(|(top, bottom): (&[f32; 3], &[f32; 3])| -> [f32; 3] {
            std::array::from_fn(|c| (top[c] + row.weight * (bottom[c] - top[c])) * (1.0 / 255.0))
        }));
    }
    pixels
}

fn uniform(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// First column (row) of the crop; one number is drawn whether there is a choice or not.
fn offset(rng: &mut ChaCha8Rng, scaled: usize, crop: usize) -> usize {
    let share: f64 = rng.random();
    let room = scaled.saturating_sub(crop);
    ((share * (room + 1) as f64) as usize).min(room)
}

/// Where a pixel of the crop comes from along one axis.
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
    nearest: usize,
}

struct Axis {
    taps: Vec<Tap>,
}

impl Axis {
    /// Taps of the crop's pixels that lie inside the rescaled image.
    fn new(source: usize, scaled: usize, start: usize, crop: usize, flip: bool) -> Self {
        let ratio = source as f64 / scaled as f64;
        let last = source - 1;
        let taps = (start..scaled.min(start + crop)).map(|i| {
            let centre = (i as f64 + 0.5) * ratio;
            let at = (centre - 0.5).clamp(0.0, last as f64);
            let low = (at as usize).min(last);
            let high = (low + 1).min(last);
            let nearest = (centre as usize).min(last);
            let weight = (at - low as f64) as f32;
            let mirror = |x: usize| if flip { last - x } else { x };
            Tap { low: mirror(low), high: mirror(high), weight, nearest: mirror(nearest) }
        });
        Axis { taps: taps.collect() }
    }

    fn len(&self) -> usize {
        self.taps.len()
    }
}

/// ITU-R 601 luma of RGB in [0, 1].
fn luma(pixel: &[f32; 3]) -> f32 {
    0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
}

/// Brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter.
fn jitter(pixels: &mut [[f32; 3]], spec: &AugmentSpec, rng: &mut ChaCha8Rng) {
    let mut factor = |range: f64| uniform(rng, (1.0 - range).max(0.0), 1.0 + range) as f32;
    let (brightness, contrast, saturation) = (factor(spec.brightness), factor(spec.contrast), factor(spec.saturation));
    let hue = uniform(rng, -spec.hue, spec.hue) as f32;
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    for change in order {
        match change {
            0 => pixels.iter_mut().for_each(|p| *p = p.map(|v| (v * brightness).clamp(0.0, 1.0))),
            1 => {
                let mean = pixels.iter().map(luma).sum::<f32>() / pixels.len().max(1) as f32;
                let blend = |v: f32| (mean + contrast * (v - mean)).clamp(0.0, 1.0);
                pixels.iter_mut().for_each(|p| *p = p.map(blend));
            }
            2 => pixels.iter_mut().for_each(|p| {
                let gray = luma(p);
                *p = p.map(|v| (gray + saturation * (v - gray)).clamp(0.0, 1.0));
            }),
            _ => pixels.iter_mut().for_each(|p| *p = shift_hue(p, hue)),
        }
    }
}

/// Turns the hue of an RGB colour in [0, 1] by `turns`.
fn shift_hue(pixel: &[f32; 3], turns: f32) -> [f32; 3] {
    let [r, g, b] = *pixel;
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = high - low;
    if chroma <= 0.0 {
        return *pixel;
    }
    let sixths = if high == r {
        (g - b) / chroma
    } else if high == g {
        (b - r) / chroma + 2.0
    } else {
        (r - g) / chroma + 4.0
    };
    let hue = (sixths + turns * 6.0).rem_euclid(6.0);
    // One triangle wave per channel.
    let channel = |shift: f32| {
        let k = (hue + shift) % 6.0;
        high - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// Separable Gaussian blur of rows of `width` pixels; at the border the kernel is cut and renormalised.
fn blur(pixels: &mut [[f32; 3]], width: usize, deviation: f64) {
    let radius = (3.0 * deviation).ceil() as usize;
    let kernel: Vec<f32> = (0..=radius).map(|d| (-0.5 * (d as f64 / deviation).powi(2)).exp() as f32).collect();
    let height = pixels.len() / width.max(1);
    let pass = |input: &[[f32; 3]], along: usize, length: usize, line: usize, lines: usize| {
        let mut output = vec![[0f32; 3]; input.len()];
        for l in 0..lines {
            for i in 0..length {
                let (mut sum, mut total) = ([0f32; 3], 0f32);
                for j in i.saturating_sub(radius)..=(i + radius).min(length - 1) {
                    let weight = kernel[i.abs_diff(j)];
                    total += weight;
                    for c in 0..3 {
                        sum[c] += weight * input[l * line + j * along][c];
                    }
                }
                output[l * line + i * along] = sum.map(|v| v / total);
            }
        }
        output
    };
    if width == 0 || height == 0 {
        return;
    }
    let rows = pass(pixels, 1, width, width, height);
    pixels.copy_from_slice(&pass(&rows, width, height, 1, width));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn spec() -> AugmentSpec {
        AugmentSpec {
            flip: 0.5,
            scale: [0.5, 1.5],
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
            jitter: 0.8,
            gray: 0.2,
            blur: 0.5,
        }
    }

    /// Regions that say their own place: after any view, the colour under a cell belongs to the region under it.
    #[test]
    fn pixels_and_regions_move_together() {
        let (width, height) = (60, 44);
        let mut rgb = Vec::new();
        let mut regions = Vec::new();
        for y in 0..height {
            for x in 0..width {
                // Blocks of 20 × 22 pixels with colours far apart.
                let region = x / 20 + 3 * (y / 22);
                regions.push(region as u16);
                rgb.extend([40 * region as u8, 255 - 40 * region as u8, 128]);
            }
        }
        let source = Source { width, height, rgb: &rgb, regions: &regions };
        let plain = AugmentSpec { jitter: 0.0, gray: 0.0, blur: 0.0, ..spec() };
        let size = ViewSize { crop: 48, cells: 12 };
        let (mut right, mut wrong) = (0, 0);
        for seed in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut image = vec![0.0; 48 * 48 * 3];
            let mut edges = vec![0; 144];
            random_view(&source, &plain, size, &mut rng, &mut image, &mut edges);
            for j in 0..12 {
                for i in 0..12 {
                    let pixel = &image[(j * 4 * 48 + i * 4) * 3..][..3];
                    let red = pixel[0] * STD[0] + MEAN[0];
                    match edges[j * 12 + i] {
                        NO_REGION => assert_eq!(pixel, [0.0; 3]),
                        // Between blocks the colours mix.
                        region if (red * 255.0 - 40.0 * region as f32).abs() < 1.0 => right += 1,
                        _ => wrong += 1,
                    }
                }
            }
        }
        // Bilinear sampling mixes colours within a pixel of a border: with blocks of 20 pixels that is up to one cell in ten.
        assert!(right > 10 * wrong, "{right} cells agree, {wrong} do not");
    }

    #[test]
    fn the_same_seed_gives_the_same_view() {
        let rgb: Vec<u8> = (0..30 * 20 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let regions = vec![3; 600];
        let source = Source { width: 30, height: 20, rgb: &rgb, regions: &regions };
        let view = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut image, mut edges) = (vec![0.0; 16 * 16 * 3], vec![0; 4]);
            random_view(&source, &spec(), ViewSize { crop: 16, cells: 2 }, &mut rng, &mut image, &mut edges);
            image
        };
        assert_eq!(view(1), view(1));
        assert_ne!(view(1), view(2));
        assert!(view(1).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn hue_turns_primaries_into_each_other() {
        let close = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(shift_hue(&[1.0, 0.0, 0.0], 1.0 / 3.0), [0.0, 1.0, 0.0]));
        assert!(close(shift_hue(&[0.0, 1.0, 0.0], 1.0 / 3.0), [0.0, 0.0, 1.0]));
        assert!(close(shift_hue(&[0.8, 0.3, 0.1], 0.0), [0.8, 0.3, 0.1]));
        assert!(close(shift_hue(&[0.8, 0.3, 0.1], 1.0), [0.8, 0.3, 0.1]));
    }
}
