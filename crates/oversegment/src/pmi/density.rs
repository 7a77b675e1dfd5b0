//! How often two colours are found side by side: pairs of pixels, and the density of what they look like.

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use segcore::simd::{Kernel, dispatch};

use super::Features;

/// Features of two pixels A and B: A1 A2 A3 B1 B2 B3 with A1 ≥ B1.
///
/// The published tools order a pair by swapping the *first* feature alone; the others stay with their pixel. Density
/// and queries agree in this, so nothing is gained by doing it otherwise.
pub type Pair = [f32; 6];

/// The pair of the pixels `a` and `b`.
pub fn pair(a: [f32; 3], b: [f32; 3]) -> Pair {
    if a[0] < b[0] { [b[0], a[1], a[2], a[0], b[1], b[2]] } else { [a[0], a[1], a[2], b[0], b[1], b[2]] }
}

/// Furthest that a pixel of a sampled pair lies from their centre, along each axis.
const MAX_OFFSET: f64 = 2.0;

/// Pairs of nearby pixels of `features`: `num_centres` pixels drawn with replacement, each counted once, and around
/// each of them two pixels opposite of one another, mostly one or two pixels away. Pairs that leave the image are
/// dropped; an image too small for any gives the pairs of neighbouring pixels, or of each pixel with itself.
pub fn sample_pairs(features: &Features, num_centres: usize, random: &mut ChaCha8Rng) -> Vec<Pair> {
    let (height, width) = (features.height, features.width);
    let mut centres: Vec<usize> = (0..num_centres).map(|_| random.random_range(0..height * width)).collect();
    centres.sort_unstable();
    centres.dedup();
    let at = |row: usize, column: usize| features.values[row * width + column];
    let mut pairs = Vec::with_capacity(centres.len());
    for centre in centres {
        let (row, column) = (centre / width, centre % width);
        let [y, x] = offset(random);
        let first = (row.checked_add_signed(y), column.checked_add_signed(x));
        let second = (row.checked_add_signed(-y), column.checked_add_signed(-x));
        let ((Some(r0), Some(c0)), (Some(r1), Some(c1))) = (first, second) else { continue };
        if r0.max(r1) < height && c0.max(c1) < width {
            pairs.push(pair(at(r0, c0), at(r1, c1)));
        }
    }
    if pairs.is_empty() {
        let pixels = &features.values;
        pairs.extend(pixels.windows(2).map(|two| pair(two[0], two[1])));
        pairs.extend(pixels.first().filter(|_| pixels.len() == 1).map(|&one| pair(one, one)));
    }
    pairs
}

/// A normally distributed offset (standard deviation 0.5) pushed out by one pixel and rounded.
fn offset(random: &mut ChaCha8Rng) -> [isize; 2] {
    // Box and Muller: two independent normal numbers from two uniform ones.
    let radius = 0.5 * (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    let (sine, cosine) = (std::f64::consts::TAU * random.random::<f64>()).sin_cos();
    [sine, cosine].map(|part| ((radius + 1.0) * part).clamp(-MAX_OFFSET, MAX_OFFSET).round() as isize)
}

/// Kernel density of pairs: the mean over the kernels c of Π_d 3 / (4 h) · max(0, 1 - ((x_d - c_d) / h)²)
/// (Epanechnikov). Exact sums; kernels are sorted so that only those within reach of a query are visited.
#[derive(Clone, Debug)]
pub struct Density {
    bandwidth: f32,
    /// One list per feature, sorted by the first of A.
    joint: [Vec<f32>; 6],
    /// The A and the B part alone, each sorted by its own first feature.
    marginals: [[Vec<f32>; 3]; 2],
}

impl Density {
    /// The density of `pairs`; `bandwidth` is h, above 0.
    pub fn new(pairs: &[Pair], bandwidth: f32) -> Self {
        let sorted_by = |feature: usize| {
            let mut order: Vec<usize> = (0..pairs.len()).collect();
            order.sort_by(|&i, &j| pairs[i][feature].total_cmp(&pairs[j][feature]).then(i.cmp(&j)));
            order
        };
        let column = |order: &[usize], feature: usize| order.iter().map(|&i| pairs[i][feature]).collect();
        let (by_a, by_b) = (sorted_by(0), sorted_by(3));
        Self {
            bandwidth,
            joint: std::array::from_fn(|feature| column(&by_a, feature)),
            marginals: [
                std::array::from_fn(|feature| column(&by_a, feature)),
                std::array::from_fn(|feature| column(&by_b, 3 + feature)),
            ],
        }
    }

    /// P(A, B).
    pub fn joint(&self, pair: Pair) -> f64 {
        self.mean_of_kernels(&self.joint, pair)
    }

    /// P(A): the mean of the densities of the two marginals.
    pub fn unary(&self, pixel: [f32; 3]) -> f64 {
        let [a, b] = &self.marginals;
        (self.mean_of_kernels(a, pixel) + self.mean_of_kernels(b, pixel)) / 2.0
    }

    /// The pointwise mutual information of two pixels, log(P(A, B)^ρ / (P(A) P(B))) with ρ = 1.25 (P. Isola et al.,
    /// "Crisp boundary detection using pointwise mutual information", ECCV 2014, eq. 2), as the published tools
    /// compute it: densities are kept away from 0 by adding 100, and the joint one is halved because ordered pairs
    /// fill half of the space.
    pub fn pmi(&self, a: [f32; 3], b: [f32; 3]) -> f64 {
        pmi(self.joint(pair(a, b)), self.unary(a), self.unary(b))
    }

    fn mean_of_kernels<const D: usize>(&self, kernels: &[Vec<f32>; D], query: [f32; D]) -> f64 {
        let first = &kernels[0];
        let reach = |sign: f32| query[0] + sign * self.bandwidth;
        let range = first.partition_point(|&c| c < reach(-1.0))..first.partition_point(|&c| c <= reach(1.0));
        let per_bandwidth = self.bandwidth.recip();
        let sum = dispatch(SumOfKernels { kernels, range, query, per_bandwidth });
        let normaliser = (0.75 / f64::from(self.bandwidth)).powi(D as i32);
        f64::from(sum) * normaliser / first.len().max(1) as f64
    }
}

/// The formula of [`Density::pmi`].
pub fn pmi(joint: f64, unary_a: f64, unary_b: f64) -> f64 {
    const REGULARISER: f64 = 100.0;
    const RHO: f64 = 1.25;
    ((REGULARISER + joint / 2.0).powf(RHO) / (unary_a * unary_b + REGULARISER)).ln()
}

/// Σ Π_d max(0, 1 - ((x_d - c_d) / h)²) over a range of kernels.
struct SumOfKernels<'a, const D: usize> {
    kernels: &'a [Vec<f32>; D],
    range: Range<usize>,
    query: [f32; D],
    per_bandwidth: f32,
}

impl<const D: usize> Kernel for SumOfKernels<'_, D> {
    type Output = f32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        const LANES: usize = 8;
        let columns: [&[f32]; D] = std::array::from_fn(|d| &self.kernels[d][self.range.clone()]);
        let blocks: [&[[f32; LANES]]; D] = std::array::from_fn(|d| columns[d].as_chunks().0);
        let mut sums = [0.0f32; LANES];
        for block in 0..blocks[0].len() {
            let mut products = [1.0f32; LANES];
            for d in 0..D {
                let centres = &blocks[d][block];
                for lane in 0..LANES {
                    let distance = (centres[lane] - self.query[d]) * self.per_bandwidth;
                    products[lane] *= (1.0 - distance * distance).max(0.0);
                }
            }
            for lane in 0..LANES {
                sums[lane] += products[lane];
            }
        }
        let rest = blocks[0].len() * LANES..columns[0].len();
        let rest = rest.map(|at| {
            let share = |d: usize| {
                let distance = (columns[d][at] - self.query[d]) * self.per_bandwidth;
                (1.0 - distance * distance).max(0.0)
            };
            (0..D).map(share).product::<f32>()
        });
        sums.iter().sum::<f32>() + rest.sum::<f32>()
    }
}
