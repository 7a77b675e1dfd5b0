//! The loops that most of the time goes into: a stencil applied to 32 vectors at once.

use segcore::simd::Kernel;

use super::vectors::{LANES, Lanes};
use crate::pmi::affinity::{NUM_PLACES, RADIUS, places};

/// a · b + c.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Pixels of a register tile: 2 · 32 sums are 8 of AVX2's 16 registers, enough to hide the latency of an addition.
const PIXELS: usize = 2;

/// Some pixels of one row, and what their stencils read.
pub(super) struct Stencil<'a> {
    /// P of these pixels, `[pixels, NUM_PLACES]`.
    pub(super) steps: &'a [[f32; NUM_PLACES]],
    /// A block with its frame.
    pub(super) source: &'a [Lanes],
    /// Elements from one row of the block to the next.
    pub(super) stride: usize,
    /// Row and column of the first pixel.
    pub(super) row: usize,
    pub(super) column: usize,
}

impl Stencil<'_> {
    /// The element of `source` that the first pixel's stencil starts from.
    #[inline(always)]
    fn start(&self) -> usize {
        self.row * self.stride + self.column
    }
}

/// out ← walked · P source + kept · source + earlier · out.
pub(super) struct Step<'a> {
    pub(super) stencil: Stencil<'a>,
    pub(super) out: &'a mut [Lanes],
    pub(super) walked: f32,
    pub(super) kept: f32,
    pub(super) earlier: f32,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { stencil, out, walked, kept, earlier } = self;
        let Stencil { steps, source, stride, .. } = stencil;
        let finish = |sums: Lanes, pixel: Lanes, out: &mut Lanes| {
            for lane in 0..LANES {
                out[lane] = walked * sums[lane] + kept * pixel[lane] + earlier * out[lane];
            }
        };
        let offsets = offsets(stride);
        let start = stencil.start();
        let here = start + RADIUS * stride + RADIUS;
        let (tiles, rest) = out.as_chunks_mut::<PIXELS>();
        let (tile_steps, rest_steps) = steps.as_chunks::<PIXELS>();
        for (tile, (out, steps)) in tiles.iter_mut().zip(tile_steps).enumerate() {
            let column = tile * PIXELS;
            let sums = walk::<FMA, PIXELS>(steps, source, &offsets, start + column);
            for pixel in 0..PIXELS {
                finish(sums[pixel], source[here + column + pixel], &mut out[pixel]);
            }
        }
        for (at, (out, steps)) in rest.iter_mut().zip(rest_steps).enumerate() {
            let column = tile_steps.len() * PIXELS + at;
            let [sums] = walk::<FMA, 1>(&[*steps], source, &offsets, start + column);
            finish(sums, source[here + column], out);
        }
    }
}

/// Σ P source at neighbouring pixels; `start` is the element that the stencil of the first pixel starts from.
///
/// One loop over one list of places: with a loop over rows around it, the compiler gives up on vectors.
#[inline(always)]
fn walk<const FMA: bool, const N: usize>(
    steps: &[[f32; NUM_PLACES]; N],
    source: &[Lanes],
    offsets: &[usize; NUM_PLACES],
    start: usize,
) -> [Lanes; N] {
    let mut sums = [Lanes::ZERO; N];
    for (place, &offset) in offsets.iter().enumerate() {
        let neighbours = &source[start + offset..][..N];
        for pixel in 0..N {
            for lane in 0..LANES {
                sums[pixel][lane] = mul_add::<FMA>(steps[pixel][place], neighbours[pixel][lane], sums[pixel][lane]);
            }
        }
    }
    sums
}

/// Elements from the first of a stencil's row to each of its places, the first row's being [`RADIUS`] rows above.
fn offsets(stride: usize) -> [usize; NUM_PLACES] {
    let mut all = places().map(|(dy, dx)| (dy + RADIUS as isize) as usize * stride + (dx + RADIUS as isize) as usize);
    std::array::from_fn(|_| all.next().unwrap_or(0))
}

/// out ← Σ P (source here - source there).
pub(super) struct Laplacian<'a> {
    pub(super) stencil: Stencil<'a>,
    pub(super) out: &'a mut [Lanes],
}

impl Kernel for Laplacian<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { stencil, out } = self;
        let Stencil { steps, source, stride, .. } = stencil;
        let offsets = offsets(stride);
        let start = stencil.start();
        // One pixel: its own values take registers, too.
        for (column, (out, steps)) in out.iter_mut().zip(steps).enumerate() {
            *out = differ::<FMA>(steps, source, &offsets, start + column);
        }
    }
}

/// Σ P (pixel - neighbour); arguments as in [`walk`].
#[inline(always)]
fn differ<const FMA: bool>(
    steps: &[f32; NUM_PLACES],
    source: &[Lanes],
    offsets: &[usize; NUM_PLACES],
    start: usize,
) -> Lanes {
    let pixel = &source[start + offsets[NUM_PLACES / 2]];
    let mut sums = Lanes::ZERO;
    for (&step, &offset) in steps.iter().zip(offsets) {
        let neighbour = &source[start + offset];
        for lane in 0..LANES {
            sums[lane] = mul_add::<FMA>(step, pixel[lane] - neighbour[lane], sums[lane]);
        }
    }
    sums
}
