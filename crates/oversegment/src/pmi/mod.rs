//! Boundaries by pointwise mutual information (P. Isola, D. Zoran, D. Krishnan, E. Adelson, "Crisp boundary detection
//! using pointwise mutual information", ECCV 2014): two pixels belong together when their colours are seen side by
//! side more often than chance would have it, in this very image. Nothing is learnt from other images or labels.
//!
//! The way of an image: [`Features`] (colour, and how it varies) → [`sample_pairs`] and [`Density`] (how often two
//! looks are neighbours) → [`Forest`] (the same, fast) → [`Affinity`] (every pixel with its 80 neighbours) →
//! `spectral` (the soft segments of the graph: eigenvectors of its normalised Laplacian) → `energy` (their edges,
//! in eight orientations) → [`crate::owt_ucm`].

mod affinity;
mod density;
mod energy;
mod features;
mod forest;
mod spectral;

pub use affinity::{Affinity, RADIUS, offsets};
pub use density::{Density, Pair, pair, pmi, sample_pairs};
pub use energy::{oriented_energy, suppress_borders};
pub use features::{Features, lab_d50};
pub use forest::Forest;
pub use spectral::{Spectrum, decimated_spectrum, spectrum};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use segcore::image::ImageView;

use crate::OversegmentError;
use crate::owt_ucm::{NUM_ORIENTATIONS, OrientedEdges};

/// How the soft segments are computed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Solver {
    /// The eigenvectors of the whole graph.
    Exact,
    /// Those of the graph thinned out this many times, each time to a quarter of its pixels (J. Pont-Tuset,
    /// P. Arbeláez et al., "Multiscale combinatorial grouping", PAMI 2017, §3: DNcuts).
    Decimated(usize),
}

/// Settings of [`edges`].
#[derive(Clone, Debug, PartialEq)]
pub struct PmiSpec {
    /// The image is taken at 1 / 2^`halvings` of its size; 0 to 8.
    pub halvings: u32,
    /// Pairs drawn for the density (those outside the image and double ones are dropped); at least 1.
    pub num_kernels: usize,
    /// Half the width of a density kernel, in units of the features' range; above 0 and at most 1.
    pub bandwidth: f32,
    /// Pairs whose mutual information is computed from the density, for the trees to learn; 1 to 1 000 000.
    pub num_queries: usize,
    /// Trees; 1 to 1000.
    pub num_trees: usize,
    /// Eigenvectors, the constant one included; 2 to 1000.
    pub num_vectors: usize,
    /// How they are found.
    pub solver: Solver,
    /// Seed of all that is random. The same image and seed give the same edges on any number of threads.
    pub seed: u64,
}

impl PmiSpec {
    fn check(&self) -> Result<(), OversegmentError> {
        let check = |is_fine: bool, name, got: String, expected| match is_fine {
            true => Ok(()),
            false => Err(OversegmentError::Setting { name, got, expected }),
        };
        check(self.halvings <= 8, "halvings", self.halvings.to_string(), "0 to 8")?;
        check(self.num_kernels > 0, "num_kernels", "0".to_owned(), "at least 1")?;
        let bandwidth_fits = self.bandwidth > 0.0 && self.bandwidth <= 1.0;
        check(bandwidth_fits, "bandwidth", self.bandwidth.to_string(), "above 0 and at most 1")?;
        let queries_fit = (1..=1_000_000).contains(&self.num_queries);
        check(queries_fit, "num_queries", self.num_queries.to_string(), "1 to 1000000")?;
        check((1..=1000).contains(&self.num_trees), "num_trees", self.num_trees.to_string(), "1 to 1000")?;
        check((2..=1000).contains(&self.num_vectors), "num_vectors", self.num_vectors.to_string(), "2 to 1000")
    }

    /// What HSG used for street scenes ("accurate_low_res"): half resolution, exact eigenvectors.
    pub fn accurate() -> Self {
        Self {
            halvings: 1,
            num_kernels: 5000,
            bandwidth: 0.05,
            num_queries: 10_000,
            num_trees: 4,
            num_vectors: 100,
            solver: Solver::Exact,
            seed: 1,
        }
    }

    /// As [`PmiSpec::accurate`] in less than a quarter of its time: one tree, the graph thinned out three times
    /// (the published preset "speedy" has four trees and two times; docs/benchmarks/edges.md compares them).
    pub fn fast() -> Self {
        Self { num_trees: 1, solver: Solver::Decimated(3), ..Self::accurate() }
    }

    /// What [`crate::detector::Detector::Fast`] adds to a gradient: quarter resolution, one tree, the graph thinned out
    /// once, half the vectors.
    pub fn coarse() -> Self {
        Self { halvings: 2, num_trees: 1, num_vectors: 50, solver: Solver::Decimated(1), ..Self::accurate() }
    }
}

/// Boundary strength of `image` in eight orientations at 1 / 2^`halvings` of its size (rounded up), unscaled: strengths
/// grow with the number of pixels and depend on the image, so they are divided by the largest of the image or of a data
/// set ([`OrientedEdges::divided_by`]).
///
/// An image of one colour, or with too few pixels to have neighbours, has strength 0 everywhere.
///
/// # Errors
/// When the image has no pixels, too few bytes or an unknown pixel format, or a setting is out of range.
pub fn edges(image: &ImageView<'_>, spec: &PmiSpec) -> Result<OrientedEdges, OversegmentError> {
    Ok(edges_and_eigenvalue(image, spec)?.0)
}

/// As [`edges`], times √λ of the last eigenvector: every vector counts with its share of the last one's, whatever the
/// size of the image, which makes strengths of different images comparable without having seen the others.
///
/// # Errors
/// As [`edges`].
pub fn relative_edges(image: &ImageView<'_>, spec: &PmiSpec) -> Result<OrientedEdges, OversegmentError> {
    let (edges, eigenvalue) = edges_and_eigenvalue(image, spec)?;
    Ok(edges.divided_by((1.0 / eigenvalue.max(f64::MIN_POSITIVE).sqrt()) as f32))
}

/// The edges, and the largest eigenvalue of the vectors they were made of (0 where there is none).
fn edges_and_eigenvalue(image: &ImageView<'_>, spec: &PmiSpec) -> Result<(OrientedEdges, f64), OversegmentError> {
    spec.check()?;
    let colour = Features::colour(image, spec.halvings)?;
    let variation = Features::variation(image, spec.halvings)?;
    let (height, width) = (colour.height, colour.width);
    let is_flat = colour.values.iter().all(|value| *value == colour.values[0]);
    if is_flat || height * width < 2 {
        return Ok((OrientedEdges::new(height, width, vec![0.0; height * width * NUM_ORIENTATIONS])?, 0.0));
    }
    let mut random = ChaCha8Rng::seed_from_u64(spec.seed);
    let models = [colour, variation].map(|features| affinity::Model::learn(features, spec, &mut random));
    let graph = affinity::affinity(&models);
    drop(models);
    let spectrum = match spec.solver {
        Solver::Exact => spectrum(graph, spec.num_vectors),
        Solver::Decimated(times) => decimated_spectrum(graph, spec.num_vectors, times),
    };
    let mut energy = oriented_energy(&spectrum);
    suppress_borders(&mut energy, height, width);
    let last = spectrum.eigenvalues().last().copied().unwrap_or(0.0);
    Ok((OrientedEdges::new(height, width, energy)?, last))
}
