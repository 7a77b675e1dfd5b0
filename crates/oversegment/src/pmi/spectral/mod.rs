//! The soft segments of an image: the smoothest functions on its graph of affinities.
//!
//! They are the generalised eigenvectors (D - W) v = λ D v of least λ (J. Shi, J. Malik, "Normalized cuts and image
//! segmentation", PAMI 2000), W the affinities and D their row sums. [`spectrum()`] finds them to a stated residual,
//! [`decimated_spectrum`] those of a graph a fraction of the size.
//!
//! How: a block of trial vectors is multiplied by a Chebyshev polynomial of the graph's random walk D⁻¹ W that is large
//! where eigenvectors are wanted and small everywhere else, then turned so that it is diagonal in the subspace it spans
//! (Rayleigh and Ritz), and again until the residual is small (Y. Zhou, Y. Saad et al., "Self-consistent-field
//! calculations using Chebyshev-filtered subspace iteration", J. Comp. Phys. 2006). Unlike Lanczos, it works on all
//! vectors at once, so that every weight is read once for 32 of them, and it can start from the eigenvectors of the
//! decimated graph, which are nearly right already. Everything is summed in a fixed order: the number of threads changes
//! no bit.

mod decimation;
mod dense;
mod filter;
mod subspace;
mod vectors;
mod walk;

use nalgebra::{DMatrix, SymmetricEigen};

use super::Affinity;
use decimation::Decimation;
pub(super) use vectors::{LANES, Lanes, Vectors};
use walk::Walk;

/// Graphs up to this many pixels are solved as dense matrices.
const DENSE_PIXELS: usize = 256;
/// Graphs from this many pixels on start from the solution of the decimated graph; smaller ones at random.
const COARSE_START_PIXELS: usize = 4096;
/// More trial vectors than wanted ones, so that the last wanted ones converge too.
const NUM_GUARDS: usize = 24;
/// Largest residual ‖D^-½ (D - W - λ D) v‖ of a wanted vector of length 1 (in D), as a share of the largest wanted λ.
///
/// On the golden crop the oriented energy then differs from the golden one by 2.18e-3 of its largest value, as it does at a
/// fiftieth of this residual (`golden_energy` prints it); at four times, by 3.4e-3.
const TOLERANCE: f64 = 0.005;
/// The same where the vectors are only the start of a finer solution.
const COARSE_TOLERANCE: f64 = 0.3;

/// Eigenvectors of least eigenvalue, the constant one first.
#[derive(Clone, Debug)]
pub struct Spectrum {
    vectors: Vectors,
    eigenvalues: Vec<f64>,
}

impl Spectrum {
    /// Rows and columns of the grid of pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.vectors.height, self.vectors.width)
    }

    /// The eigenvalues, ascending from 0; at most 2.
    pub fn eigenvalues(&self) -> &[f64] {
        &self.eigenvalues
    }

    /// The eigenvector of `eigenvalues()[index]`, row-major; its sign and scale mean nothing.
    ///
    /// # Panics
    /// If `index` is not below the number of eigenvalues.
    pub fn vector(&self, index: usize) -> Vec<f32> {
        assert!(index < self.eigenvalues.len(), "eigenvector {index} of {}", self.eigenvalues.len());
        self.vectors.one(index)
    }

    pub(super) fn vectors(&self) -> &Vectors {
        &self.vectors
    }
}

/// The `number` eigenvectors of least eigenvalue of `graph` (all of them, when it has fewer pixels).
///
/// Time grows with pixels · `number` · √(1 / λ) of the last one.
pub fn spectrum(graph: Affinity, number: usize) -> Spectrum {
    solve(graph, number, TOLERANCE)
}

/// As [`spectrum()`] for the graph decimated `times` times: of every 2×2 pixels one is kept, which inherits the paths
/// through the others; vectors are carried back to all pixels and made orthogonal (DNcuts).
///
/// A graph that becomes too small for `number` vectors is decimated less often.
pub fn decimated_spectrum(graph: Affinity, number: usize, times: usize) -> Spectrum {
    let mut chain = Vec::new();
    let mut coarse = graph;
    for _ in 0..times {
        let (height, width) = (coarse.height / 2, coarse.width / 2);
        if height < 2 || width < 2 || height * width < number {
            break;
        }
        let (decimation, next) = Decimation::of(&coarse);
        chain.push(decimation);
        coarse = next;
    }
    let Spectrum { mut vectors, eigenvalues } = solve(coarse, number, TOLERANCE);
    vectors.truncate(eigenvalues.len());
    for decimation in chain.iter().rev() {
        vectors = decimation.carry_back(&vectors);
    }
    if !chain.is_empty() {
        orthogonalise(&mut vectors);
    }
    Spectrum { vectors, eigenvalues }
}

fn solve(graph: Affinity, number: usize, tolerance: f64) -> Spectrum {
    let (height, width) = (graph.height, graph.width);
    let num_pixels = height * width;
    let number = number.clamp(1, num_pixels);
    // Below, the subspace must be small beside the space.
    let num_trials = (number + NUM_GUARDS).next_multiple_of(LANES);
    if num_pixels <= DENSE_PIXELS.max(2 * num_trials) {
        return dense::solve(&graph, number);
    }
    let start = if num_pixels >= COARSE_START_PIXELS && height >= 8 && width >= 8 {
        let (decimation, smaller) = Decimation::of(&graph);
        let mut coarse = solve(smaller, num_trials, COARSE_TOLERANCE);
        // Its own guards have done their work.
        coarse.vectors.truncate(num_trials);
        decimation.carry_back(&coarse.vectors)
    } else {
        Vectors::random(height, width, num_trials)
    };
    let walk = Walk::new(graph);
    let (vectors, eigenvalues) = subspace::iterate(&walk, start, number, tolerance);
    Spectrum { vectors, eigenvalues }
}

/// V ← V (Vᵀ V)^-½: orthonormal vectors that differ as little as possible from those given.
fn orthogonalise(vectors: &mut Vectors) {
    let products = vectors.inner_products();
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(products);
    let largest = eigenvalues.max();
    let roots = eigenvalues.map(|value| if value > 1e-12 * largest { value.sqrt().recip() } else { 0.0 });
    let turn: DMatrix<f64> = &eigenvectors * DMatrix::from_diagonal(&roots) * eigenvectors.transpose();
    *vectors = vectors.turned(&turn);
}
