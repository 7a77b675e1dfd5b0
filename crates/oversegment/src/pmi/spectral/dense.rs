//! Small graphs: all eigenvectors of a dense matrix.

use nalgebra::{DMatrix, SymmetricEigen};

use super::vectors::{LANES, Vectors};
use super::{Affinity, Spectrum};
use crate::pmi::affinity::places;

/// The `number` eigenvectors of least eigenvalue, from D^-½ W D^-½.
pub(super) fn solve(graph: &Affinity, number: usize) -> Spectrum {
    let (height, width) = (graph.height, graph.width);
    let num_pixels = height * width;
    let roots: Vec<f64> = (graph.weights.iter())
        .map(|weights| weights.iter().map(|&w| f64::from(w)).sum::<f64>())
        .map(|degree| if degree > 0.0 { degree.sqrt().recip() } else { 1.0 })
        .collect();
    let mut matrix = DMatrix::zeros(num_pixels, num_pixels);
    for (pixel, weights) in graph.weights.iter().enumerate() {
        let (row, column) = (pixel / width, pixel % width);
        for ((dy, dx), &weight) in places().zip(weights) {
            if weight != 0.0 {
                let other = row.wrapping_add_signed(dy) * width + column.wrapping_add_signed(dx);
                matrix[(pixel, other)] = roots[pixel] * f64::from(weight) * roots[other];
            }
        }
    }
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(matrix);
    let mut order: Vec<usize> = (0..num_pixels).collect();
    order.sort_by(|&a, &b| eigenvalues[b].total_cmp(&eigenvalues[a]));
    order.truncate(number);
    let mut vectors = Vectors::zeros(height, width, order.len());
    for (vector, &from) in order.iter().enumerate() {
        for pixel in 0..num_pixels {
            let at = vectors.at(pixel / width, pixel % width);
            let value = roots[pixel] * eigenvectors[(pixel, from)];
            vectors.blocks[vector / LANES][at][vector % LANES] = value as f32;
        }
    }
    Spectrum { vectors, eigenvalues: order.iter().map(|&from| (1.0 - eigenvalues[from]).max(0.0)).collect() }
}
