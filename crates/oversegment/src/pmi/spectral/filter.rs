//! The loops that most of the time goes into: a stencil applied to sixteen vectors at once.

use segcore::simd::Kernel;

use super::vectors::{LANES, Lanes};
use crate::pmi::affinity::{NUM_PLACES, RADIUS, SPANS};

/// a · b + c.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Pixels of a register tile: 4 · 16 sums are 8 of AVX2's 16 registers, enough to hide the latency of an addition.
const PIXELS: usize = 4;

/// One row of out ← walked · P source + kept · source + earlier · out.
pub(super) struct Step<'a> {
    /// P, `[width, NUM_PLACES]` of this row.
    pub(super) steps: &'a [[f32; NUM_PLACES]],
    /// A block with its frame.
    pub(super) source: &'a [Lanes],
    /// Elements from one row of the block to the next.
    pub(super) stride: usize,
    /// The row.
    pub(super) row: usize,
    /// The row's pixels.
    pub(super) out: &'a mut [Lanes],
    pub(super) walked: f32,
    pub(super) kept: f32,
    pub(super) earlier: f32,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { steps, source, stride, row, out, walked, kept, earlier } = self;
        let finish = |sums: Lanes, pixel: Lanes, out: &mut Lanes| {
            for lane in 0..LANES {
                out[lane] = walked * sums[lane] + kept * pixel[lane] + earlier * out[lane];
            }
        };
        // Column 0 of the row above the stencil's first.
        let start = row * stride + RADIUS;
        let here = (row + RADIUS) * stride + RADIUS;
        let (tiles, rest) = out.as_chunks_mut::<PIXELS>();
        let (tile_steps, rest_steps) = steps.as_chunks::<PIXELS>();
        for (tile, (out, steps)) in tiles.iter_mut().zip(tile_steps).enumerate() {
            let column = tile * PIXELS;
            let sums = walk::<FMA, PIXELS>(steps, source, stride, start + column);
            for pixel in 0..PIXELS {
                finish(sums[pixel], source[here + column + pixel], &mut out[pixel]);
            }
        }
        for (at, (out, steps)) in rest.iter_mut().zip(rest_steps).enumerate() {
            let column = tile_steps.len() * PIXELS + at;
            let [sums] = walk::<FMA, 1>(&[*steps], source, stride, start + column);
            finish(sums, source[here + column], out);
        }
    }
}

/// Σ P source at neighbouring pixels; `start` is the element of the first pixel's column in the stencil's first row.
#[inline(always)]
fn walk<const FMA: bool, const N: usize>(
    steps: &[[f32; NUM_PLACES]; N],
    source: &[Lanes],
    stride: usize,
    start: usize,
) -> [Lanes; N] {
    let mut sums = [[0.0f32; LANES]; N];
    let mut place = 0;
    for (row, span) in SPANS.into_iter().enumerate() {
        let run = 2 * span + 1;
        let neighbours = &source[start + row * stride - span..][..run + N - 1];
        for at in 0..run {
            for pixel in 0..N {
                let (step, neighbour) = (steps[pixel][place + at], &neighbours[at + pixel]);
                for lane in 0..LANES {
                    sums[pixel][lane] = mul_add::<FMA>(step, neighbour[lane], sums[pixel][lane]);
                }
            }
        }
        place += run;
    }
    sums
}

/// One row of out ← Σ P (source here - source there).
pub(super) struct Laplacian<'a> {
    pub(super) steps: &'a [[f32; NUM_PLACES]],
    pub(super) source: &'a [Lanes],
    pub(super) stride: usize,
    pub(super) row: usize,
    pub(super) out: &'a mut [Lanes],
}

impl Kernel for Laplacian<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { steps, source, stride, row, out } = self;
        let start = row * stride + RADIUS;
        for (column, (out, steps)) in out.iter_mut().zip(steps).enumerate() {
            let pixel = source[(row + RADIUS) * stride + RADIUS + column];
            // Two sums, so that one addition need not wait for the other.
            let mut sums = [[0.0f32; LANES]; 2];
            let mut place = 0;
            for (row, span) in SPANS.into_iter().enumerate() {
                let run = 2 * span + 1;
                let neighbours = &source[start + column + row * stride - span..][..run];
                for (at, neighbour) in neighbours.iter().enumerate() {
                    let step = steps[place + at];
                    for lane in 0..LANES {
                        let difference = pixel[lane] - neighbour[lane];
                        sums[at % 2][lane] = mul_add::<FMA>(step, difference, sums[at % 2][lane]);
                    }
                }
                place += run;
            }
            for lane in 0..LANES {
                out[lane] = sums[0][lane] + sums[1][lane];
            }
        }
    }
}
