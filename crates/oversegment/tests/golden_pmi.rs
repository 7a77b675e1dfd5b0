//! Every stage of the PMI edges against the outputs of the published tools on one small crop (folder `HSG_GOLDEN`, as in
//! `golden_owt.rs`, `edges/pmi_stage`).

use oversegment::owt_ucm::NUM_ORIENTATIONS;
use oversegment::pmi::{
    Affinity, Density, Features, Pair, decimated_spectrum, lab_d50, offsets, oriented_energy, pmi, spectrum,
    suppress_borders,
};
use segcore::image_io::read_rgb;

mod golden_files;
use golden_files::{Array, golden_file, read_npy};

fn golden(name: &str) -> Option<Array> {
    golden_file(&format!("pmi_stage/{name}.npy")).map(|path| read_npy(&path))
}

fn largest_difference(got: impl IntoIterator<Item = f64>, expected: &[f64]) -> f64 {
    let mut number = 0;
    let difference = got.into_iter().zip(expected).fold(0.0f64, |most, (g, &e)| {
        number += 1;
        assert!(g.is_finite());
        most.max((g - e).abs())
    });
    assert_eq!(number, expected.len());
    difference
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, v| v.abs().max(most))
}

fn triples(array: &Array) -> Vec<[f32; 3]> {
    array.values.chunks_exact(3).map(|v| [v[0] as f32, v[1] as f32, v[2] as f32]).collect()
}

fn golden_features(name: &str) -> Option<Features> {
    let array = golden(name)?;
    Some(Features::new(array.shape[0], array.shape[1], triples(&array)).unwrap())
}

/// 32-bit numbers up to 100 are rounded at 4e-6; the golden file was made with other constants for the white point.
#[test]
fn golden_lab() {
    let (Some(path), Some(expected)) = (golden_file("pmi_stage/crop.png"), golden("lab")) else { return };
    let lab = lab_d50(&read_rgb(path).unwrap().view()).unwrap();
    let difference = largest_difference(lab.as_flattened().iter().map(|&v| f64::from(v)), &expected.values);
    assert!(difference < 2e-5, "{difference}");
}

/// The sign of a principal component is arbitrary, and scaling to 0..1 comes after it: all eight are tried.
fn difference_up_to_mirrors(got: &Features, expected: &[f64]) -> f64 {
    let values = got.values();
    let mean: [f64; 3] =
        std::array::from_fn(|i| values.iter().map(|v| f64::from(v[i])).sum::<f64>() / values.len() as f64);
    let of_mirror = |mirror: usize| {
        let sign = |i: usize| if mirror >> i & 1 == 1 { -1.0 } else { 1.0 };
        let mut turned: Vec<f64> =
            values.iter().flat_map(|v| (0..3).map(|i| sign(i) * (f64::from(v[i]) - mean[i]))).collect();
        let least = turned.iter().copied().fold(f64::INFINITY, f64::min);
        let most = turned.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        turned.iter_mut().for_each(|v| *v = (*v - least) / (most - least));
        largest_difference(turned, expected)
    };
    (0..8).map(of_mirror).fold(f64::INFINITY, f64::min)
}

/// 32-bit steps between the stages; the golden README has 3e-8 for 64 bits.
#[test]
fn golden_colour_features() {
    let (Some(path), Some(expected)) = (golden_file("pmi_stage/crop.png"), golden("color_feat")) else { return };
    let got = Features::colour(&read_rgb(path).unwrap().view(), 1).unwrap();
    assert_eq!([got.height(), got.width()], expected.shape[..2]);
    let difference = difference_up_to_mirrors(&got, &expected.values);
    assert!(difference < 2e-6, "{difference}");
}

#[test]
fn golden_variation_features() {
    let (Some(path), Some(expected)) = (golden_file("pmi_stage/crop.png"), golden("var_feat")) else { return };
    let got = Features::variation(&read_rgb(path).unwrap().view(), 1).unwrap();
    let difference = difference_up_to_mirrors(&got, &expected.values);
    assert!(difference < 5e-6, "{difference}");
}

fn golden_density(kind: &str) -> Option<Density> {
    let kernels = golden(&format!("{kind}_kernels"))?;
    let pairs: Vec<Pair> = kernels.values.chunks_exact(6).map(|v| std::array::from_fn(|i| v[i] as f32)).collect();
    Some(Density::new(&pairs, 0.05))
}

/// Sums of some hundred 32-bit products of six factors.
#[test]
fn golden_densities() {
    for (kind, features) in [("color", "color_feat"), ("var", "var_feat")] {
        let (Some(density), Some(features)) = (golden_density(kind), golden_features(features)) else { continue };
        let (Some(pairs), Some(joint)) = (golden(&format!("{kind}_pairs")), golden(&format!("{kind}_joint"))) else {
            continue;
        };
        let at = |pixel: f64| features.values()[pixel as usize];
        let got = pairs.values.chunks_exact(2).map(|p| density.joint(oversegment::pmi::pair(at(p[0]), at(p[1]))));
        let difference = largest_difference(got, &joint.values) / largest(&joint.values);
        assert!(difference < 5e-6, "{kind} joint {difference}");

        let Some(unary) = golden(&format!("{kind}_unary")) else { continue };
        let got = features.values().iter().map(|&v| density.unary(v));
        let difference = largest_difference(got, &unary.values) / largest(&unary.values);
        assert!(difference < 5e-6, "{kind} unary {difference}");

        let Some(information) = golden(&format!("{kind}_pmi")) else { continue };
        let got = pairs.values.chunks_exact(2).map(|p| density.pmi(at(p[0]), at(p[1])));
        let difference = largest_difference(got, &information.values);
        assert!(difference < 2e-5, "{kind} mutual information {difference}");
        // The formula alone, on golden densities.
        let formula = pairs.values.chunks_exact(2).zip(&joint.values);
        let got = formula.map(|(p, &j)| pmi(j, unary.values[p[0] as usize], unary.values[p[1] as usize]));
        assert!(largest_difference(got, &information.values) < 1e-5, "{kind} formula");
    }
}

/// w = exp(PMI of colour + PMI of variation), for every pair of pixels, from exact densities.
#[test]
fn golden_affinities() {
    let Some(expected) = golden("w_pairs") else { return };
    let kinds = [("color", "color_feat"), ("var", "var_feat")];
    let models = kinds.map(|(kind, features)| Some((golden_density(kind)?, golden_features(features)?)));
    let [Some(colour), Some(variation)] = models else { return };
    let (height, width) = (colour.1.height(), colour.1.width());
    let mut at = 0;
    let mut difference = 0.0f64;
    for (dy, dx) in offsets() {
        for row in 0..height {
            for column in 0..width {
                let (Some(r), Some(c)) = (row.checked_add_signed(dy), column.checked_add_signed(dx)) else { continue };
                if r >= height || c >= width {
                    continue;
                }
                let log: f64 = [&colour, &variation]
                    .map(|(density, features)| {
                        let value = |row: usize, column: usize| features.values()[row * width + column];
                        density.pmi(value(row, column), value(r, c))
                    })
                    .iter()
                    .sum();
                difference = difference.max((log - expected.values[at].ln()).abs());
                at += 1;
            }
        }
    }
    assert_eq!(at, expected.values.len());
    assert!(difference < 4e-5, "{difference}");
}

/// The golden affinities as a graph.
fn golden_graph() -> Option<Affinity> {
    let (weights, size) = (golden("w_pairs")?, golden("color_feat")?.shape);
    let (height, width) = (size[0], size[1]);
    let mut all = vec![0.0f32; 40 * height * width];
    let mut given = weights.values.iter();
    for (offset, (dy, dx)) in offsets().enumerate() {
        for row in 0..height {
            for column in 0..width {
                let inside = row.checked_add_signed(dy).is_some_and(|r| r < height)
                    && column.checked_add_signed(dx).is_some_and(|c| c < width);
                if inside {
                    all[(offset * height + row) * width + column] = *given.next().unwrap() as f32;
                }
            }
        }
    }
    assert!(given.next().is_none());
    Affinity::new(height, width, &all)
}

/// Whether `vector` is a multiple of `expected` plus a constant: 1 - |correlation|.
fn deviation(vector: &[f32], expected: &[f64]) -> f64 {
    let n = expected.len() as f64;
    let (ma, mb) = (vector.iter().map(|&v| f64::from(v)).sum::<f64>() / n, expected.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&a, &b) in vector.iter().zip(expected) {
        let (a, b) = (f64::from(a) - ma, b - mb);
        (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
    }
    1.0 - ab.abs() / (aa * bb).sqrt()
}

/// Eigenvalues err with the square of the residual; weights are 32-bit numbers.
#[test]
fn golden_eigenvectors() {
    let (Some(graph), Some(values), Some(vectors)) = (golden_graph(), golden("eigvals"), golden("eigvecs_2_6")) else {
        return;
    };
    let got = spectrum(graph, values.values.len());
    for (index, (&got, &expected)) in got.eigenvalues().iter().zip(&values.values).enumerate() {
        assert!((got - expected).abs() <= 2e-3 * expected + 1e-6, "eigenvalue {index}: {got}, not {expected}");
    }
    let num_pixels: usize = vectors.values.len() / 5;
    println!("shape of the golden vectors: {:?}", vectors.shape);
    for index in 0..5 {
        let expected: Vec<f64> = (0..num_pixels)
            .map(|pixel| {
                if vectors.shape[0] == 5 {
                    vectors.values[index * num_pixels + pixel]
                } else {
                    vectors.values[pixel * 5 + index]
                }
            })
            .collect();
        let deviation = deviation(&got.vector(index + 1), &expected);
        assert!(deviation < 1e-5, "eigenvector {}: {deviation}", index + 2);
    }
}

#[test]
fn golden_energy() {
    let (Some(graph), Some(values)) = (golden_graph(), golden("eigvals")) else { return };
    let (Some(plain), Some(suppressed)) = (golden("E8_exact"), golden("E8_exact_border")) else { return };
    let (height, width) = (graph.height(), graph.width());
    let mut energy = oriented_energy(&spectrum(graph, values.values.len()));
    let most = largest(&plain.values);
    let difference = largest_difference(energy.iter().map(|&v| f64::from(v)), &plain.values) / most;
    println!("oriented energy differs by {difference:e} of its maximum");
    // The originals round their filters: 2.2e-3 with ideal ones.
    assert!(difference < 3e-3, "{difference}");

    suppress_borders(&mut energy, height, width);
    let mut got: Vec<f64> = energy.iter().map(|&v| f64::from(v)).collect();
    let mut expected = suppressed.values;
    // The two bottom corner pixels are as the originals' rounding has them.
    for corner in [(height - 1) * width, height * width - 1] {
        for channel in 0..NUM_ORIENTATIONS {
            got[corner * NUM_ORIENTATIONS + channel] = 0.0;
            expected[corner * NUM_ORIENTATIONS + channel] = 0.0;
        }
    }
    let difference = largest_difference(got, &expected) / most;
    assert!(difference < 3e-3, "near the border {difference}");
}

#[test]
fn golden_energy_of_the_decimated_graph() {
    let (Some(graph), Some(values), Some(expected)) = (golden_graph(), golden("dncuts_eigvals"), golden("E8_dncuts"))
    else {
        return;
    };
    let spectrum = decimated_spectrum(graph, values.values.len(), 2);
    for (index, (&got, &expected)) in spectrum.eigenvalues().iter().zip(&values.values).enumerate() {
        assert!((got - expected).abs() <= 1e-4 * expected + 1e-6, "eigenvalue {index}: {got}, not {expected}");
    }
    let energy = oriented_energy(&spectrum);
    let difference =
        largest_difference(energy.iter().map(|&v| f64::from(v)), &expected.values) / largest(&expected.values);
    println!("oriented energy of the decimated graph differs by {difference:e} of its maximum");
    assert!(difference < 3e-3, "{difference}");
}
