//! The random walk on a graph: from a pixel to its neighbours, in proportion to their affinity.

use rayon::prelude::*;
use segcore::simd::dispatch;

use super::filter::{Laplacian, Stencil, Step};
use super::vectors::{LANES, Lanes, Vectors};
use crate::pmi::Affinity;
use crate::pmi::affinity::{NUM_PLACES, RADIUS};

/// P = D⁻¹ W and the row sums D.
pub(super) struct Walk {
    pub(super) height: usize,
    pub(super) width: usize,
    /// `[height · width, NUM_PLACES]`; rows sum to 1.
    steps: Vec<[f32; NUM_PLACES]>,
    /// Row sums of the affinities, scaled to a mean of 1 (which changes no eigenvalue).
    pub(super) degrees: Vec<f32>,
}

impl Walk {
    pub(super) fn new(graph: Affinity) -> Self {
        let mut degrees = graph.degrees();
        let Affinity { height, width, weights: mut steps } = graph;
        steps.par_iter_mut().zip(&degrees).for_each(|(steps, &degree)| {
            // A pixel without neighbours walks nowhere.
            let factor = if degree > 0.0 { degree.recip() } else { 0.0 };
            steps.iter_mut().for_each(|step| *step *= factor);
        });
        let mean = degrees.iter().map(|&d| f64::from(d)).sum::<f64>() / degrees.len() as f64;
        let scale = if mean > 0.0 { (1.0 / mean) as f32 } else { 1.0 };
        degrees.iter_mut().for_each(|degree| *degree = (*degree * scale).max(f32::MIN_POSITIVE));
        Self { height, width, steps, degrees }
    }

    pub(super) fn row_degrees(&self, row: usize) -> &[f32] {
        &self.degrees[row * self.width..][..self.width]
    }

    /// out ← `walked` · P source + `kept` · source + `earlier` · out, for one block; both with their frames.
    pub(super) fn step(&self, source: &[Lanes], out: &mut [Lanes], [walked, kept, earlier]: [f32; 3]) {
        Vectors::for_each_piece(out, (self.height, self.width), |row, column, out| {
            let stencil = self.stencil(source, row, column, out.len());
            dispatch(Step { stencil, out, walked, kept, earlier });
        });
    }

    /// out ← (I - P) source for one block, as a sum of differences: exact also where the vector hardly changes.
    pub(super) fn laplacian(&self, source: &[Lanes], out: &mut [Lanes]) {
        Vectors::for_each_piece(out, (self.height, self.width), |row, column, out| {
            dispatch(Laplacian { stencil: self.stencil(source, row, column, out.len()), out });
        });
    }

    fn stencil<'a>(&'a self, source: &'a [Lanes], row: usize, column: usize, pixels: usize) -> Stencil<'a> {
        let steps = &self.steps[row * self.width + column..][..pixels];
        Stencil { steps, source, stride: self.width + 2 * RADIUS, row, column }
    }

    /// Σ over the pixels of D · a · b for each of a block's vectors.
    pub(super) fn inner(&self, vectors: &Vectors, a: &[Lanes], b: &[Lanes]) -> [f64; LANES] {
        let sums = Vectors::sum_over_rows(self.height, LANES, |row, sums| {
            let (a, b) = (vectors.row(a, row), vectors.row(b, row));
            for ((a, b), &degree) in a.iter().zip(b).zip(self.row_degrees(row)) {
                for lane in 0..LANES {
                    sums[lane] += f64::from(a[lane]) * f64::from(b[lane]) * f64::from(degree);
                }
            }
        });
        std::array::from_fn(|lane| sums[lane])
    }
}
