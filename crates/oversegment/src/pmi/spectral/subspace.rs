//! Chebyshev-filtered subspace iteration.

use super::vectors::{LANES, Lanes, Vectors};
use super::walk::Walk;
use nalgebra::{DMatrix, SymmetricEigen};

/// What one filter should gain: by how much the last wanted vector grows over the first unwanted one.
const GAIN: f64 = 8.0;
/// Most walks of one filter: turning the subspace now and then removes what the filter does not.
const MAX_DEGREE: f64 = 60.0;
/// Most that one filter may gain anywhere. What it gains on the constant vector, every vector loses of its 24 bits.
const MAX_GAIN: f64 = 5000.0;
/// Directions that make up less than this of the subspace's vectors (squared, beside the largest) are rounding.
const NOISE: f64 = 1e-9;
/// Filters after which the vectors are taken as they are, with a warning. No image has been seen to take more than five.
const MAX_FILTERS: usize = 100;
/// Steps of the bound on the spectrum.
const BOUND_STEPS: usize = 12;

/// Improves `vectors` until the first `number` are eigenvectors within `tolerance`; returns all of them and the
/// eigenvalues of those `number`, ascending.
pub(super) fn iterate(walk: &Walk, vectors: Vectors, number: usize, tolerance: f64) -> (Vectors, Vec<f64>) {
    let most = upper_bound(walk);
    let (mut vectors, mut values) = turn(walk, vectors);
    for filters in 0.. {
        let wanted = values[number.min(values.len()) - 1];
        let unwanted = values[values.len() - 1];
        let residuals = residuals(walk, &vectors, &values, number);
        let largest = residuals.iter().copied().fold(0.0, f64::max);
        if largest <= tolerance * wanted {
            break;
        }
        if filters == MAX_FILTERS {
            log::warn!(
                "eigenvectors of a graph of {}×{} pixels: residual {largest:.1e} after {MAX_FILTERS} filters, wanted {:.1e}",
                walk.width,
                walk.height,
                tolerance * wanted
            );
            break;
        }
        // Blocks whose vectors are right already, mostly the first, stay as they are.
        let is_done = |block: usize| {
            let last = (block + 1) * LANES;
            last <= number && residuals[block * LANES..last].iter().all(|&r| r <= 0.5 * tolerance * wanted)
        };
        let blocks = (0..vectors.blocks.len()).filter(|&block| !is_done(block)).collect::<Vec<_>>();
        filter(walk, &mut vectors, &blocks, wanted, unwanted, most);
        (vectors, values) = turn(walk, vectors);
    }
    values.truncate(number);
    values.iter_mut().for_each(|value| *value = value.max(0.0));
    (vectors, values)
}

/// Multiplies the vectors of `blocks` by a Chebyshev polynomial of I - P that is small from `unwanted` to `most`, grows
/// below, and is 1 at 0.
fn filter(walk: &Walk, vectors: &mut Vectors, blocks: &[usize], wanted: f64, unwanted: f64, most: f64) {
    let unwanted = unwanted.min(0.95 * most);
    let (centre, half) = ((most + unwanted) / 2.0, (most - unwanted) / 2.0);
    let growth = (1.0 + (unwanted - wanted).max(0.0) / half).acosh();
    let largest_growth = (centre / half).acosh();
    let degree = (GAIN.acosh() / growth.max(1e-9)).min(MAX_GAIN.acosh() / largest_growth).clamp(1.0, MAX_DEGREE);
    let degree = degree.ceil() as usize;
    let first = half / -centre;
    let (height, width) = (vectors.height, vectors.width);
    let mut spare = Vectors::zeros(height, width, LANES).blocks.swap_remove(0);
    for &block in blocks {
        let block = &mut vectors.blocks[block];
        let mut sigma = first;
        // y = σ / e · ((1 - c) x - P x)
        let scale = sigma / half;
        walk.step(block, &mut spare, [-scale as f32, (scale * (1.0 - centre)) as f32, 0.0]);
        std::mem::swap(block, &mut spare);
        for _ in 1..degree {
            let next = 1.0 / (2.0 / first - sigma);
            let scale = 2.0 * next / half;
            let factors = [-scale, scale * (1.0 - centre), -sigma * next].map(|factor| factor as f32);
            walk.step(block, &mut spare, factors);
            std::mem::swap(block, &mut spare);
            sigma = next;
        }
    }
}

/// Rayleigh and Ritz: turns the vectors so that they are orthonormal in D and the Laplacian is diagonal among them;
/// returns them with its diagonal, ascending.
fn turn(walk: &Walk, vectors: Vectors) -> (Vectors, Vec<f64>) {
    let number = vectors.number;
    let (mut energies, mut products) = (DMatrix::zeros(number, number), DMatrix::zeros(number, number));
    let (height, width) = (vectors.height, vectors.width);
    let mut spare = Vectors::zeros(height, width, LANES).blocks.swap_remove(0);
    let mut weighted = spare.clone();
    for q in 0..vectors.blocks.len() {
        let block = &vectors.blocks[q];
        walk.laplacian(block, &mut spare);
        let by_degree = |row: usize, pixels: &mut [Lanes]| {
            for (pixel, &degree) in pixels.iter_mut().zip(walk.row_degrees(row)) {
                pixel.iter_mut().for_each(|value| *value *= degree);
            }
        };
        Vectors::for_each_row(&mut spare, (height, width), by_degree);
        weighted.copy_from_slice(block);
        Vectors::for_each_row(&mut weighted, (height, width), by_degree);
        vectors.products_with(q, &spare, &mut energies);
        vectors.products_with(q, &weighted, &mut products);
    }
    let (turn, mut values) = ritz(energies, products);
    let mut turned = vectors.turned(&turn);
    // Vectors that had become parallel to others start anew.
    turned.randomise(values.len()..number);
    values.resize(number, 2.0);
    (turned, values)
}

/// Solves K u = λ M u for symmetric K and M (M positive): columns u of length 1 in M, ascending; fewer than rows where M
/// is singular.
fn ritz(energies: DMatrix<f64>, products: DMatrix<f64>) -> (DMatrix<f64>, Vec<f64>) {
    let number = products.nrows();
    // Vectors of very different lengths would hide nearly parallel ones.
    let lengths = products.diagonal().map(|square| if square > 0.0 { square.sqrt().recip() } else { 1.0 });
    let scale = DMatrix::from_diagonal(&lengths);
    let (energies, products) = (&scale * energies * &scale, &scale * products * &scale);
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(products);
    let most = eigenvalues.max();
    let kept: Vec<usize> = (0..number).filter(|&at| eigenvalues[at] > NOISE * most).collect();
    let whitening =
        DMatrix::from_fn(number, kept.len(), |row, at| eigenvectors[(row, kept[at])] / eigenvalues[kept[at]].sqrt());
    let white = whitening.transpose() * energies * &whitening;
    let white = (&white + white.transpose()) * 0.5;
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(white);
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by(|&a, &b| eigenvalues[a].total_cmp(&eigenvalues[b]));
    let sorted = DMatrix::from_fn(kept.len(), kept.len(), |row, column| eigenvectors[(row, order[column])]);
    (scale * whitening * sorted, order.iter().map(|&at| eigenvalues[at]).collect())
}

/// The residuals ‖D^½ ((I - P) v - λ v)‖ of the first `number` vectors, which are orthonormal in D.
fn residuals(walk: &Walk, vectors: &Vectors, values: &[f64], number: usize) -> Vec<f64> {
    let (height, width) = (vectors.height, vectors.width);
    let mut spare = Vectors::zeros(height, width, LANES).blocks.swap_remove(0);
    let mut residuals = Vec::with_capacity(number);
    for (q, block) in vectors.blocks[..number.div_ceil(LANES)].iter().enumerate() {
        walk.laplacian(block, &mut spare);
        let values: [f32; LANES] =
            std::array::from_fn(|lane| values.get(q * LANES + lane).copied().unwrap_or(0.0) as f32);
        Vectors::for_each_row(&mut spare, (height, width), |row, pixels| {
            for (pixel, source) in pixels.iter_mut().zip(vectors.row(block, row)) {
                (0..LANES).for_each(|lane| pixel[lane] -= values[lane] * source[lane]);
            }
        });
        let squares = walk.inner(vectors, &spare, &spare);
        let wanted = (number - q * LANES).min(LANES);
        residuals.extend(squares[..wanted].iter().map(|square| square.sqrt()));
    }
    residuals
}

/// A bound on the eigenvalues of I - P, by a few steps of Lanczos from 31 random vectors at once (Y. Zhou, R.-C. Li,
/// "Bounding the spectrum of large Hermitian matrices", 2011).
fn upper_bound(walk: &Walk) -> f64 {
    let (height, width) = (walk.height, walk.width);
    let start = Vectors::random(height, width, LANES);
    let scaled = |block: &mut [Lanes], lengths: [f64; LANES]| {
        let factors = lengths.map(|length| if length > 0.0 { (1.0 / length) as f32 } else { 0.0 });
        Vectors::for_each_row(block, (height, width), |_, pixels| {
            pixels.iter_mut().for_each(|pixel| (0..LANES).for_each(|lane| pixel[lane] *= factors[lane]));
        });
    };
    let mut current = start.blocks[0].clone();
    let lengths = walk.inner(&start, &current, &current).map(f64::sqrt);
    scaled(&mut current, lengths);
    let mut previous = vec![Lanes::ZERO; current.len()];
    let mut next = previous.clone();
    let (mut diagonal, mut beside): (Vec<[f64; LANES]>, Vec<[f64; LANES]>) = (Vec::new(), Vec::new());
    for _ in 0..BOUND_STEPS {
        walk.laplacian(&current, &mut next);
        let alphas = walk.inner(&start, &current, &next);
        let betas = beside.last().copied().unwrap_or([0.0; LANES]);
        Vectors::for_each_row(&mut next, (height, width), |row, pixels| {
            let (current, previous) = (start.row(&current, row), start.row(&previous, row));
            for ((pixel, current), previous) in pixels.iter_mut().zip(current).zip(previous) {
                for lane in 0..LANES {
                    pixel[lane] -= alphas[lane] as f32 * current[lane] + betas[lane] as f32 * previous[lane];
                }
            }
        });
        let lengths = walk.inner(&start, &next, &next).map(f64::sqrt);
        scaled(&mut next, lengths);
        diagonal.push(alphas);
        beside.push(lengths);
        std::mem::swap(&mut previous, &mut current);
        std::mem::swap(&mut current, &mut next);
    }
    let mut bound = 0.0f64;
    for lane in 0..LANES {
        let tridiagonal = DMatrix::from_fn(BOUND_STEPS, BOUND_STEPS, |i, j| match i.abs_diff(j) {
            0 => diagonal[i][lane],
            1 => beside[i.min(j)][lane],
            _ => 0.0,
        });
        let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(tridiagonal);
        let top = eigenvalues.imax();
        let rest = beside[BOUND_STEPS - 1][lane] * eigenvectors[(BOUND_STEPS - 1, top)].abs();
        bound = bound.max(eigenvalues[top] + rest);
    }
    // The walk's eigenvalues lie in -1 to 1; a little more than needed costs nothing.
    (1.01 * bound).clamp(0.5, 2.0)
}
