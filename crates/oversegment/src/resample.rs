//! Bicubic resampling as the published tools do it.

use rayon::prelude::*;
use segcore::image::ImageSize;

/// One output position: which inputs it reads, and how much of each.
type Taps = Vec<(usize, f32)>;

/// Keys' cubic kernel with a = -1/2 (R. Keys, "Cubic convolution interpolation for digital image processing", 1981).
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

/// Position `at` (may lie outside) in a line of `length` pixels mirrored at both ends, the end pixels twice.
pub(crate) fn mirrored(at: isize, length: usize) -> usize {
    let period = 2 * length as isize;
    let at = at.rem_euclid(period);
    (if at < length as isize { at } else { period - 1 - at }) as usize
}

/// Weights of every output of a line resized by `scale`. When shrinking, the kernel is widened by 1 / `scale`, which
/// smooths what the new grid cannot hold.
fn taps(inputs: usize, outputs: usize, scale: f64) -> Vec<Taps> {
    let widen = scale.min(1.0);
    let width = 4.0 / widen;
    (0..outputs)
        .map(|output| {
            // Centres of pixels lie at whole numbers and a half.
            let centre = (output as f64 + 0.5) / scale - 0.5;
            let first = (centre - width / 2.0).floor() as isize;
            let weights: Vec<(isize, f64)> = (first..=first + width.ceil() as isize + 1)
                .map(|input| (input, cubic(widen * (centre - input as f64))))
                .filter(|&(_, weight)| weight != 0.0)
                .collect();
            let sum: f64 = weights.iter().map(|&(_, weight)| weight).sum();
            weights.into_iter().map(|(input, weight)| (mirrored(input, inputs), (weight / sum) as f32)).collect()
        })
        .collect()
}

/// Resizes `values`, `[height, width, channels]` row-major, by the factor `scale` to `[new_height, new_width, channels]`;
/// beyond its border the image goes on as in a mirror, the outermost pixels twice.
///
/// Sizes and factor are given apart because the tools round sizes up and keep the factor. Overshoots are kept.
pub(crate) fn resize_bicubic(
    values: &[f32],
    (height, width): (usize, usize),
    channels: usize,
    (new_height, new_width): (usize, usize),
    scale: f64,
) -> Vec<f32> {
    let (row_taps, column_taps) = (taps(height, new_height, scale), taps(width, new_width, scale));
    let mut out = vec![0.0f32; new_height * new_width * channels];
    let old_row = width * channels;
    out.par_chunks_mut(new_width * channels).zip(&row_taps).for_each(|(out, row_taps)| {
        let mut line = vec![0.0f32; old_row];
        for &(row, weight) in row_taps {
            let source = &values[row * old_row..][..old_row];
            line.iter_mut().zip(source).for_each(|(sum, &value)| *sum += weight * value);
        }
        for (out, column_taps) in out.chunks_exact_mut(channels).zip(&column_taps) {
            for &(column, weight) in column_taps {
                let source = &line[column * channels..][..channels];
                out.iter_mut().zip(source).for_each(|(sum, &value)| *sum += weight * value);
            }
        }
    });
    out
}

/// Every value of a map of `width` columns twice each way, cut to `size`, whose sides are at most twice the map's.
pub(crate) fn twice<T: Copy>(map: &[T], width: usize, size: ImageSize) -> Vec<T> {
    (0..size.height).flat_map(|row| (0..size.width).map(move |column| map[row / 2 * width + column / 2])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_image_stays_flat_and_a_ramp_a_ramp() {
        let flat = resize_bicubic(&[0.25; 5 * 7 * 2], (5, 7), 2, (3, 4), 0.5);
        assert!(flat.iter().all(|v| (v - 0.25).abs() < 1e-6));
        let ramp: Vec<f32> = (0..16 * 40).map(|i| (i % 40) as f32).collect();
        let half = resize_bicubic(&ramp, (16, 40), 1, (8, 20), 0.5);
        // Away from the mirrored border.
        for column in 3..17 {
            assert!((half[4 * 20 + column] - (2.0 * column as f32 + 0.5)).abs() < 1e-4);
        }
        let double = resize_bicubic(&ramp, (16, 40), 1, (32, 80), 2.0);
        for column in 8..72 {
            assert!((double[9 * 80 + column] - (column as f32 / 2.0 - 0.25)).abs() < 1e-4);
        }
    }

    #[test]
    fn one_pixel_can_be_resized() {
        assert_eq!(resize_bicubic(&[3.0], (1, 1), 1, (1, 1), 0.5), [3.0]);
        assert_eq!(resize_bicubic(&[3.0], (1, 1), 1, (2, 2), 2.0).len(), 4);
    }
}
