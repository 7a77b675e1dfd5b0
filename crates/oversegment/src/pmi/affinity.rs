//! How much two nearby pixels belong together: a sparse symmetric matrix over the pixels, as a stencil.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::density::{Density, Pair, pair};
use super::forest::{Forest, NUM_WALKERS, Walkers};
use super::{Features, PmiSpec};

/// Largest distance of two pixels that are compared.
pub const RADIUS: usize = 5;
/// Pixels within [`RADIUS`] of a pixel, the pixel itself included.
pub(super) const NUM_PLACES: usize = 81;
/// For each row of the stencil, from [`RADIUS`] above to [`RADIUS`] below, half the width of its run of pixels.
pub(super) const SPANS: [usize; 2 * RADIUS + 1] = [0, 3, 4, 4, 4, 5, 4, 4, 4, 3, 0];

/// All places of the stencil as (rows, columns) from its centre, row by row.
pub(super) fn places() -> impl Iterator<Item = (isize, isize)> {
    let radius = RADIUS as isize;
    (-radius..=radius).zip(SPANS).flat_map(|(dy, span)| (-(span as isize)..=span as isize).map(move |dx| (dy, dx)))
}

/// The 40 places after the centre, in the order of the rows: below, or to the right in the same row.
pub fn offsets() -> impl Iterator<Item = (isize, isize)> {
    places().skip(NUM_PLACES / 2 + 1)
}

/// Symmetric weights between the pixels of a grid that are at most [`RADIUS`] apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Affinity {
    pub(super) height: usize,
    pub(super) width: usize,
    /// `[height · width, NUM_PLACES]`; 0 for places outside the grid.
    pub(super) weights: Vec<[f32; NUM_PLACES]>,
}

impl Affinity {
    /// Affinities of `height` × `width` pixels from the weights of each pixel with the 40 [`offsets`] after it,
    /// `[offset, height, width]`; weights with pixels outside the grid are ignored. `None` when the number of weights
    /// does not fit.
    pub fn new(height: usize, width: usize, weights: &[f32]) -> Option<Self> {
        if height == 0 || width == 0 || weights.len() != NUM_PLACES / 2 * height * width {
            return None;
        }
        Some(Self::symmetric(height, width, weights))
    }

    /// The whole stencil from its second half, as in [`Affinity::new`].
    fn symmetric(height: usize, width: usize, half: &[f32]) -> Self {
        let weight = |offset: usize, pixel: usize| half[offset * height * width + pixel];
        let mut weights = vec![[0.0f32; NUM_PLACES]; height * width];
        weights.par_chunks_mut(width).enumerate().for_each(|(row, weights)| {
            for (offset, (dy, dx)) in offsets().enumerate() {
                let inside = |r: Option<usize>| r.filter(|&r| r < height);
                let (below, above) = (inside(row.checked_add_signed(dy)), inside(row.checked_add_signed(-dy)));
                for (column, weights) in weights.iter_mut().enumerate() {
                    let right = column.checked_add_signed(dx).filter(|&c| c < width);
                    let left = column.checked_add_signed(-dx).filter(|&c| c < width);
                    if below.is_some() && right.is_some() {
                        weights[NUM_PLACES / 2 + 1 + offset] = weight(offset, row * width + column);
                    }
                    if let (Some(r), Some(c)) = (above, left) {
                        weights[NUM_PLACES / 2 - 1 - offset] = weight(offset, r * width + c);
                    }
                }
            }
        });
        Self { height, width, weights }
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The weight of `pixel` with the pixel (`dy`, `dx`) away; 0 beyond the radius or outside the grid.
    pub fn weight(&self, pixel: usize, dy: isize, dx: isize) -> f32 {
        places().position(|place| place == (dy, dx)).map_or(0.0, |place| self.weights[pixel][place])
    }

    /// Σ over the neighbours of each pixel.
    pub(super) fn degrees(&self) -> Vec<f32> {
        self.weights.par_iter().map(|weights| weights.iter().sum()).collect()
    }
}

/// A measure of how well two pixels belong together, learnt for one image and one kind of features.
#[derive(Clone, Debug)]
pub(super) struct Model {
    features: Features,
    forest: Forest,
}

impl Model {
    /// Learns from pairs of `features` how often two colours are seen side by side.
    pub(super) fn learn(features: Features, spec: &PmiSpec, random: &mut ChaCha8Rng) -> Self {
        let kernels = super::density::sample_pairs(&features, spec.num_kernels, random);
        let density = Density::new(&kernels, spec.bandwidth);
        let queries = query_pairs(features.height, features.width, spec.num_queries, random);
        let at = |pixel: u32| features.values[pixel as usize];
        let (pairs, values): (Vec<Pair>, Vec<f32>) =
            (queries.par_iter()).map(|&(a, b)| (pair(at(a), at(b)), density.pmi(at(a), at(b)) as f32)).unzip();
        let forest = Forest::learn(&pairs, &values, spec.num_trees, random);
        Self { features, forest }
    }
}

/// Pairs of pixels at most [`RADIUS`] apart, drawn uniformly with replacement; none of an image of one pixel.
fn query_pairs(height: usize, width: usize, number: usize, random: &mut ChaCha8Rng) -> Vec<(u32, u32)> {
    let offsets: Vec<(isize, isize)> = offsets().collect();
    let mut pairs = Vec::with_capacity(number);
    if height * width < 2 {
        return pairs;
    }
    while pairs.len() < number {
        let (row, column) = (random.random_range(0..height), random.random_range(0..width));
        let (dy, dx) = offsets[random.random_range(0..offsets.len())];
        // Drawing again what leaves the image keeps the others equally likely.
        let (Some(r), Some(c)) = (row.checked_add_signed(dy), column.checked_add_signed(dx)) else { continue };
        if r < height && c < width {
            pairs.push(((row * width + column) as u32, (r * width + c) as u32));
        }
    }
    pairs
}

/// w(p, q) = exp(Σ over the models of the pointwise mutual information of p and q), for all pixels p and q at most
/// [`RADIUS`] apart (Isola et al., eq. 3). Both models are of one size.
pub(super) fn affinity(models: &[Model; 2]) -> Affinity {
    let (height, width) = (models[0].features.height, models[0].features.width);
    let mut half = vec![0.0f32; NUM_PLACES / 2 * height * width];
    // One row of one offset at a time; rows of one offset are neighbours in `half`.
    let offsets: Vec<(isize, isize)> = offsets().collect();
    half.par_chunks_mut(width).enumerate().for_each(|(at, out)| {
        let ((dy, dx), row) = (offsets[at / height], at % height);
        let Some(other) = row.checked_add_signed(dy).filter(|&other| other < height) else { return };
        let columns = dx.min(0).unsigned_abs()..width.saturating_sub(dx.max(0) as usize);
        let mut walkers = Walkers::new();
        for first in columns.clone().step_by(NUM_WALKERS) {
            let last = (first + NUM_WALKERS).min(columns.end);
            let mut sums = [0.0; NUM_WALKERS];
            for Model { features, forest } in models {
                for (walker, column) in (first..last).enumerate() {
                    let a = features.values[row * width + column];
                    let b = features.values[other * width + column.wrapping_add_signed(dx)];
                    walkers.set(walker, pair(a, b));
                }
                forest.add_means(&walkers, &mut sums);
            }
            for (out, sum) in out[first..last].iter_mut().zip(sums) {
                *out = sum.exp();
            }
        }
    });
    Affinity::symmetric(height, width, &half)
}
