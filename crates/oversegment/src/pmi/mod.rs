//! Boundaries by pointwise mutual information (P. Isola, D. Zoran, D. Krishnan, E. Adelson, "Crisp boundary detection
//! using pointwise mutual information", ECCV 2014): two pixels belong together when their colours are seen side by
//! side more often than chance would have it, in this very image. Nothing is learnt from other images or labels.
//!
//! The way of an image: [`Features`] (colour, and how it varies) → [`sample_pairs`] and [`Density`] (how often two
//! looks are neighbours) → [`Forest`] (the same, fast) → [`Affinity`] (every pixel with its 80 neighbours) →
//! [`spectral`] (the soft segments of the graph: eigenvectors of its normalised Laplacian) → [`energy`] (their edges,
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
use crate::owt_ucm::OrientedEdges;

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
    /// The image is taken at 1 / 2^`halvings` of its size.
    pub halvings: u32,
    /// Pairs drawn for the density (those outside the image and double ones are dropped).
    pub num_kernels: usize,
    /// Half the width of a density kernel, in units of the features' range.
    pub bandwidth: f32,
    /// Pairs whose mutual information is computed from the density, for the trees to learn.
    pub num_queries: usize,
    /// Trees.
    pub num_trees: usize,
    /// Eigenvectors, the constant one included.
    pub num_vectors: usize,
    /// How they are found.
    pub solver: Solver,
    /// Seed of all that is random. The same image and seed give the same edges on any number of threads.
    pub seed: u64,
}

impl PmiSpec {
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

    /// "speedy": half resolution, the graph thinned out twice.
    pub fn fast() -> Self {
        Self { solver: Solver::Decimated(2), ..Self::accurate() }
    }
}

/// Boundary strength of `image` in eight orientations at 1 / 2^`halvings` of its size (rounded up), unscaled: strengths
/// depend on the image's size and content, [`OrientedEdges::scaled`] makes them comparable.
///
/// An image of one colour, or with too few pixels to have neighbours, has strength 0 everywhere.
///
/// # Errors
/// When the image has no pixels, too few bytes or an unknown pixel format.
pub fn edges(image: &ImageView<'_>, spec: &PmiSpec) -> Result<OrientedEdges, OversegmentError> {
    let colour = Features::colour(image, spec.halvings)?;
    let variation = Features::variation(image, spec.halvings)?;
    let (height, width) = (colour.height, colour.width);
    let is_flat = colour.values.iter().all(|value| *value == colour.values[0]);
    if is_flat || height * width < 2 {
        return OrientedEdges::new(height, width, vec![0.0; height * width * 8]);
    }
    let mut random = ChaCha8Rng::seed_from_u64(spec.seed);
    let models = [colour, variation].map(|features| affinity::Model::learn(features, spec, &mut random));
    let graph = affinity::affinity(&models);
    drop(models);
    let Some(graph) = graph else { return OrientedEdges::new(height, width, vec![0.0; height * width * 8]) };
    let spectrum = match spec.solver {
        Solver::Exact => spectrum(graph, spec.num_vectors),
        Solver::Decimated(times) => decimated_spectrum(graph, spec.num_vectors, times),
    };
    let mut energy = oriented_energy(&spectrum);
    suppress_borders(&mut energy, height, width);
    OrientedEdges::new(height, width, energy)
}
