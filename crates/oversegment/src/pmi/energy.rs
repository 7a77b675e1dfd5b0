//! Edges of the soft segments, in eight orientations.

use rayon::prelude::*;
use segcore::simd::{Kernel, dispatch};

use super::spectral::{LANES, Lanes, Spectrum};
use crate::owt_ucm::{NUM_ORIENTATIONS, tangent};
use crate::resample::mirrored;

/// Reach of the filters.
const REACH: usize = 3;
const NUM_TAPS: usize = 2 * REACH + 1;

/// A Gaussian of σ = 1 pixel and its derivative, averaged over each pixel (10 samples), from -3 to 3; scaled so that the
/// absolute values of derivative ⊗ Gaussian sum to 1.
struct Filters {
    gaussian: [f32; NUM_TAPS],
    derivative: [f32; NUM_TAPS],
    /// For each channel: weights of the slopes along columns and along rows, so that the absolute values of the filter
    /// sum to 1. The derivative across any direction is a sum of these two: the Gaussian is round.
    weights: [[f32; 2]; NUM_ORIENTATIONS],
}

impl Filters {
    fn new() -> Self {
        const SAMPLES: usize = 10;
        let average = |f: &dyn Fn(f64) -> f64| -> [f64; NUM_TAPS] {
            std::array::from_fn(|tap| {
                let first = tap as f64 - REACH as f64 - 0.5;
                let samples = (0..SAMPLES).map(|s| f(first + (s as f64 + 0.5) / SAMPLES as f64));
                samples.sum::<f64>() / SAMPLES as f64
            })
        };
        let gaussian = average(&|x| (-x * x / 2.0).exp());
        let derivative = average(&|x| x * (-x * x / 2.0).exp());
        let sum = |f: &[f64]| f.iter().map(|v| v.abs()).sum::<f64>();
        let scale = 1.0 / (sum(&gaussian) * sum(&derivative));
        let derivative = derivative.map(|v| v * scale);
        let weights = std::array::from_fn(|channel| {
            // The boundary runs at this angle, rows downwards; the filter goes across.
            let (sine, cosine) = tangent(channel).sin_cos();
            let (along_columns, along_rows) = (-sine, cosine);
            let mut total = 0.0;
            for y in 0..NUM_TAPS {
                for x in 0..NUM_TAPS {
                    let slope_x = derivative[x] * gaussian[y];
                    let slope_y = gaussian[x] * derivative[y];
                    total += (along_columns * slope_x + along_rows * slope_y).abs();
                }
            }
            [along_columns / total, along_rows / total].map(|w| w as f32)
        });
        Self { gaussian: gaussian.map(|v| v as f32), derivative: derivative.map(|v| v as f32), weights }
    }
}

/// E(x, k) = Σ over the eigenvectors but the first of |(v / √λ) ∗ f_k|, `[height, width, 8]` row-major in the channels
/// of [`crate::owt_ucm::OrientedEdges`]: every vector, scaled to 0..1, counts with 1 / √λ; f_k is the derivative of a
/// Gaussian across orientation k. Beyond the border vectors go on as in a mirror.
pub fn oriented_energy(spectrum: &Spectrum) -> Vec<f32> {
    let vectors = spectrum.vectors();
    let (height, width) = (vectors.height, vectors.width);
    let filters = Filters::new();
    let scales: Vec<Lanes> = (vectors.blocks.iter().enumerate())
        .map(|(q, block)| {
            let rows = (0..height).into_par_iter().map(|row| vectors.row(block, row));
            let widest = |a: [Lanes; 2], b: [Lanes; 2]| {
                [
                    Lanes(std::array::from_fn(|i| a[0][i].min(b[0][i]))),
                    Lanes(std::array::from_fn(|i| a[1][i].max(b[1][i]))),
                ]
            };
            let none = || [Lanes([f32::INFINITY; LANES]), Lanes([f32::NEG_INFINITY; LANES])];
            let [least, most] = rows
                .map(|row| row.iter().fold(none(), |range, &lanes| widest(range, [lanes, lanes])))
                .reduce(none, widest);
            Lanes(std::array::from_fn(|lane| {
                let range = most[lane] - least[lane];
                match spectrum.eigenvalues().get(q * LANES + lane) {
                    // The first is constant, and what is constant has no edges.
                    Some(&value) if q + lane > 0 && range > 0.0 && value > 0.0 => (1.0 / value.sqrt()) as f32 / range,
                    _ => 0.0,
                }
            }))
        })
        .collect();
    let mut energy = vec![0.0f32; height * width * NUM_ORIENTATIONS];
    energy.par_chunks_mut(width * NUM_ORIENTATIONS).enumerate().for_each(|(row, out)| {
        let framed = width + 2 * REACH;
        let (mut smooth, mut slope) = (vec![Lanes::ZERO; framed], vec![Lanes::ZERO; framed]);
        for (block, scale) in vectors.blocks.iter().zip(&scales) {
            let rows: [&[Lanes]; NUM_TAPS] =
                std::array::from_fn(|tap| vectors.row(block, mirrored((row + tap) as isize - REACH as isize, height)));
            let out = out.as_chunks_mut().0;
            dispatch(AddRow { rows, filters: &filters, scale, smooth: &mut smooth, slope: &mut slope, out });
        }
    });
    energy
}

/// Adds one block's vectors to one row of the energy.
struct AddRow<'a> {
    rows: [&'a [Lanes]; NUM_TAPS],
    filters: &'a Filters,
    scale: &'a Lanes,
    /// The row smoothed along rows, and its slope along rows, with [`REACH`] mirrored pixels at both ends.
    smooth: &'a mut [Lanes],
    slope: &'a mut [Lanes],
    out: &'a mut [[f32; NUM_ORIENTATIONS]],
}

impl Kernel for AddRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { rows, filters, scale, smooth, slope, out } = self;
        let width = out.len();
        for column in 0..width {
            let (mut s, mut d) = (Lanes::ZERO, Lanes::ZERO);
            for tap in 0..NUM_TAPS {
                let value = &rows[tap][column];
                for lane in 0..LANES {
                    s[lane] += filters.gaussian[tap] * value[lane];
                    d[lane] += filters.derivative[tap] * value[lane];
                }
            }
            smooth[REACH + column] = s;
            slope[REACH + column] = d;
        }
        for side in 1..=REACH {
            let (left, right) = (mirrored(-(side as isize), width), mirrored((width - 1 + side) as isize, width));
            for line in [&mut *smooth, &mut *slope] {
                line[REACH - side] = line[REACH + left];
                line[REACH + width - 1 + side] = line[REACH + right];
            }
        }
        for (column, out) in out.iter_mut().enumerate() {
            let (mut x, mut y) = (Lanes::ZERO, Lanes::ZERO);
            for tap in 0..NUM_TAPS {
                let (smooth, slope) = (&smooth[column + tap], &slope[column + tap]);
                for lane in 0..LANES {
                    x[lane] += filters.derivative[tap] * smooth[lane];
                    y[lane] += filters.gaussian[tap] * slope[lane];
                }
            }
            for lane in 0..LANES {
                x[lane] *= scale[lane];
                y[lane] *= scale[lane];
            }
            for (out, [along_columns, along_rows]) in out.iter_mut().zip(filters.weights) {
                let mut partial = [0.0f32; 8];
                for register in 0..LANES / 8 {
                    for lane in 0..8 {
                        let at = register * 8 + lane;
                        partial[lane] += (along_columns * x[at] + along_rows * y[at]).abs();
                    }
                }
                *out += ((partial[0] + partial[4]) + (partial[1] + partial[5]))
                    + ((partial[2] + partial[6]) + (partial[3] + partial[7]));
            }
        }
    }
}

/// Weakens what runs along a border of the image near it, where eigenvectors bend for no reason in the image.
///
/// Within R = 3 % of the rows from a border, in the triangle of the image that belongs to it (cut off by the diagonals),
/// E(x, k) is multiplied by 1 - (1 - (d / R)²) · |sin θ| near the left and right borders, |cos θ| near the upper and lower
/// ones; θ is the angle of the boundary, d the distance from the border.
pub fn suppress_borders(energy: &mut [f32], height: usize, width: usize) {
    let reach = (0.03 * height as f64).ceil();
    let strength = |distance: usize| {
        let share = distance as f64 / reach;
        if share < 1.0 { 1.0 - share * share } else { 0.0 }
    };
    let weights: [[f64; 2]; NUM_ORIENTATIONS] = std::array::from_fn(|channel| {
        let (sine, cosine) = tangent(channel).sin_cos();
        [cosine.abs(), sine.abs()]
    });
    for (row, line) in energy.chunks_exact_mut(width * NUM_ORIENTATIONS).enumerate().take(height) {
        for (column, channels) in line.chunks_exact_mut(NUM_ORIENTATIONS).enumerate() {
            let (side, end) = (column.min(width - 1 - column), row.min(height - 1 - row));
            // Where the diagonals of the image lie, in pixels from the borders.
            let is_side = side * height <= end * width;
            let (along_rows, along_columns) = if is_side { (0.0, strength(side)) } else { (strength(end), 0.0) };
            if along_rows + along_columns > 0.0 {
                for (value, [cosine, sine]) in channels.iter_mut().zip(weights) {
                    *value *= (1.0 - (cosine * along_rows + sine * along_columns)) as f32;
                }
            }
        }
    }
}
