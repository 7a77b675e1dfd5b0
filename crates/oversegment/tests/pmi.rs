//! The PMI edges on made images: oracles of every fast part, what must hold whatever the numbers, and the smallest and
//! flattest inputs. The numbers of the published tools are in `golden_pmi.rs`.

use oversegment::Detector;
use oversegment::owt_ucm::{NUM_ORIENTATIONS, owt_ucm};
use oversegment::pmi::{
    Affinity, Density, Features, Forest, Pair, PmiSpec, RADIUS, Spectrum, decimated_spectrum, edges, offsets,
    oriented_energy, pair, relative_edges, sample_pairs, spectrum, suppress_borders,
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segcore::image::{Frame, ImageSize, PixelFormat};

fn image(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Frame {
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)).collect();
    Frame::from_pixels(ImageSize::new(width, height), PixelFormat::Rgb8, pixels).unwrap()
}

/// A disk of one texture on a ground of another.
fn disk(width: usize, height: usize) -> Frame {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let noise: Vec<u8> = (0..width * height).map(|_| random.random_range(0..30)).collect();
    image(width, height, |x, y| {
        let (dx, dy) = (x as f64 - width as f64 / 2.0, y as f64 - height as f64 / 2.0);
        let grain = noise[y * width + x];
        if dx.hypot(dy) < height as f64 / 4.0 { [180 + grain, 90, 60 + grain] } else { [60, 100 + grain, 120] }
    })
}

fn random_pairs(number: usize, seed: u64) -> Vec<Pair> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..number)
        .map(|_| {
            let near = random.random::<f32>();
            let mut pixel = || [near, near, 0.5].map(|v: f32| (v + 0.1 * random.random::<f32>()).min(1.0));
            pair(pixel(), pixel())
        })
        .collect()
}

/// The definition, kernel by kernel.
fn naive_density<const D: usize>(kernels: impl Iterator<Item = [f32; D]>, query: [f32; D], bandwidth: f64) -> f64 {
    let (mut sum, mut number) = (0.0, 0);
    for kernel in kernels {
        let factor = |d: usize| {
            let distance = (f64::from(query[d]) - f64::from(kernel[d])) / bandwidth;
            0.75 / bandwidth * (1.0 - distance * distance).max(0.0)
        };
        sum += (0..D).map(factor).product::<f64>();
        number += 1;
    }
    sum / f64::from(number)
}

#[test]
fn densities_are_those_of_the_definition() {
    let kernels = random_pairs(700, 1);
    let density = Density::new(&kernels, 0.05);
    let mut some_are_positive = 0;
    for query in random_pairs(200, 2) {
        let expected = naive_density(kernels.iter().copied(), query, f64::from(0.05f32));
        let got = density.joint(query);
        assert!((got - expected).abs() <= 1e-4 * expected + 1e-9, "{got}, not {expected}");
        some_are_positive += usize::from(expected > 0.0);

        let pixel = [query[0], query[1], query[2]];
        let part = |first: usize| kernels.iter().map(move |k| [k[first], k[first + 1], k[first + 2]]);
        let expected = (naive_density(part(0), pixel, f64::from(0.05f32))
            + naive_density(part(3), pixel, f64::from(0.05f32)))
            / 2.0;
        let got = density.unary(pixel);
        assert!((got - expected).abs() <= 1e-4 * expected + 1e-9, "{got}, not {expected}");
    }
    assert!(some_are_positive > 20, "the test has something to compare");
}

#[test]
fn pairs_keep_their_order_and_mutual_information_its_symmetry() {
    let density = Density::new(&random_pairs(500, 3), 0.05);
    let (a, b) = ([0.4, 0.45, 0.5], [0.42, 0.41, 0.55]);
    assert_eq!(pair(a, b), [0.42, 0.45, 0.5, 0.4, 0.41, 0.55]);
    assert_eq!(pair(a, a), [0.4, 0.45, 0.5, 0.4, 0.45, 0.5]);
    // Only the first feature is ordered, as in the published tools: what stays with its pixel differs.
    assert_ne!(pair(a, b), pair(b, a));
    assert!(density.pmi(a, b).is_finite() && density.pmi([9.0; 3], [-9.0; 3]).is_finite());
}

#[test]
fn sampled_pairs_are_near_and_seeded() {
    // The first feature is the row, the second the column.
    let (height, width) = (40, 50);
    let values = (0..height * width).map(|p| [(p / width) as f32, (p % width) as f32, 0.0]).collect();
    let features = Features::new(height, width, values).unwrap();
    let sample = |seed| sample_pairs(&features, 900, &mut ChaCha8Rng::seed_from_u64(seed));
    let pairs = sample(1);
    assert!(pairs.len() > 500 && pairs == sample(1) && pairs != sample(2));
    for p in pairs {
        let (rows, columns) = (p[0] - p[3], (p[1] - p[4]).abs());
        assert!((0.0..=4.0).contains(&rows) && columns <= 4.0 && rows + columns > 0.0, "{p:?}");
        assert!(rows % 2.0 == 0.0 && columns % 2.0 == 0.0, "{p:?}: opposite of one another");
    }
    let one = Features::new(1, 1, vec![[0.5; 3]]).unwrap();
    assert_eq!(sample_pairs(&one, 10, &mut ChaCha8Rng::seed_from_u64(1)).len(), 1);
}

#[test]
fn a_forest_learns_a_smooth_function_and_steps() {
    let pairs = random_pairs(6000, 4);
    let function = |p: &Pair| (6.0 * p[0]).sin() + if p[4] > 0.5 { 2.0 } else { 0.0 };
    let values: Vec<f32> = pairs.iter().map(function).collect();
    let forest = Forest::learn(&pairs[..5000], &values[..5000], 4, &mut ChaCha8Rng::seed_from_u64(1));
    let error: f32 =
        pairs[5000..].iter().zip(&values[5000..]).map(|(p, v)| (forest.mean(*p) - v).powi(2)).sum::<f32>() / 1000.0;
    assert!(error < 0.02, "mean squared error {error}");
    assert_eq!(forest, Forest::learn(&pairs[..5000], &values[..5000], 4, &mut ChaCha8Rng::seed_from_u64(1)));
    // Values that never differ, and too few samples to split.
    let constant = Forest::learn(&pairs[..100], &[1.5; 100], 2, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(constant.mean([0.3; 6]), 1.5);
    let few = Forest::learn(&pairs[..3], &[1.0, 2.0, 6.0], 1, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(few.mean([0.3; 6]), 3.0);
}

/// A grid whose left and right halves hardly belong together; weights vary.
fn two_halves(height: usize, width: usize) -> Affinity {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let mut weights = Vec::new();
    for (_, dx) in offsets() {
        for pixel in 0..height * width {
            let (a, b) = (pixel % width, (pixel % width) as isize + dx);
            let is_across = (a < width / 2) != (b < (width / 2) as isize);
            weights.push(if is_across { 0.01 } else { 0.5 + random.random::<f32>() });
        }
    }
    Affinity::new(height, width, &weights).unwrap()
}

/// ‖D^-½ (D - W - λ D) v‖ / ‖D^½ v‖, straight from the definition.
fn residual(graph: &Affinity, spectrum: &Spectrum, index: usize) -> f64 {
    let (height, width) = (graph.height(), graph.width());
    let v = spectrum.vector(index);
    let lambda = spectrum.eigenvalues()[index];
    let (mut error, mut length) = (0.0, 0.0);
    for pixel in 0..height * width {
        let (row, column) = ((pixel / width) as isize, (pixel % width) as isize);
        let (mut degree, mut difference) = (0.0, 0.0);
        for dy in -(RADIUS as isize)..=RADIUS as isize {
            for dx in -(RADIUS as isize)..=RADIUS as isize {
                let (r, c) = (row + dy, column + dx);
                if r < 0 || c < 0 || r >= height as isize || c >= width as isize {
                    continue;
                }
                let weight = f64::from(graph.weight(pixel, dy, dx));
                degree += weight;
                difference += weight * (f64::from(v[pixel]) - f64::from(v[(r * width as isize + c) as usize]));
            }
        }
        let own = f64::from(v[pixel]);
        error += (difference - lambda * degree * own).powi(2) / degree;
        length += degree * own * own;
    }
    (error / length).sqrt()
}

#[test]
fn eigenvectors_of_a_large_graph_satisfy_the_definition() {
    let graph = two_halves(60, 90);
    let found = spectrum(graph.clone(), 40);
    let values = found.eigenvalues();
    assert_eq!(values.len(), 40);
    assert!(values[0] < 1e-6 && values.windows(2).all(|v| v[0] <= v[1]) && values[39] < 2.0, "{values:?}");
    for index in 0..40 {
        let residual = residual(&graph, &found, index);
        assert!(residual <= 0.011 * values[39], "vector {index}: {residual}, largest eigenvalue {}", values[39]);
    }
    // The second one tells the halves apart.
    let second = found.vector(1);
    let sides = |pixel: usize| second[pixel] > 0.0;
    let right = (0..60 * 90).filter(|p| sides(*p) == (p % 90 < 45)).count();
    assert!(right == 0 || right == 60 * 90, "{right}");
}

/// Both ways through the solver: as a dense matrix, and by iteration, just above the size where it takes over.
#[test]
fn small_graphs_and_large_ones_have_the_same_eigenvalues() {
    let graph = two_halves(9, 28);
    let dense = spectrum(graph.clone(), 252);
    assert_eq!(dense.eigenvalues().len(), 252);
    for index in [0, 1, 5, 100, 251] {
        assert!(residual(&graph, &dense, index) < 1e-4, "vector {index}");
    }
    // Sum of the eigenvalues = trace of D⁻¹ (D - W) = number of pixels.
    assert!((dense.eigenvalues().iter().sum::<f64>() - 252.0).abs() < 1e-3);
    let larger = two_halves(9, 29);
    let iterated = spectrum(larger.clone(), 20);
    let exact = spectrum(larger, 261);
    for (index, (got, expected)) in iterated.eigenvalues().iter().zip(exact.eigenvalues()).enumerate() {
        assert!((got - expected).abs() < 1e-3, "eigenvalue {index}: {got}, not {expected}");
    }
}

#[test]
fn more_vectors_than_pixels_are_all_there_are() {
    let graph = two_halves(2, 3);
    let found = spectrum(graph.clone(), 100);
    assert_eq!(found.eigenvalues().len(), 6);
    assert_eq!(decimated_spectrum(graph, 100, 3).eigenvalues().len(), 6);
    assert_eq!(spectrum(two_halves(1, 1), 100).eigenvalues().len(), 1);
}

#[test]
fn a_decimated_graph_has_nearly_the_same_soft_segments() {
    let graph = two_halves(64, 80);
    let found = decimated_spectrum(graph, 20, 2);
    assert_eq!((found.size(), found.eigenvalues().len()), ((64, 80), 20));
    let second = found.vector(1);
    let left: f32 = (0..64).map(|r| second[r * 80 + 20]).sum();
    let right: f32 = (0..64).map(|r| second[r * 80 + 60]).sum();
    assert!(left * right < 0.0);
    // Orthonormal, as DNcuts leaves them.
    for a in 0..20 {
        for b in 0..=a {
            let product: f64 =
                found.vector(a).iter().zip(found.vector(b)).map(|(&x, y)| f64::from(x) * f64::from(y)).sum();
            assert!((product - f64::from(u8::from(a == b))).abs() < 1e-3, "{a} · {b} = {product}");
        }
    }
}

/// Affinities of a grid in two parts that hardly belong together; `part` says which one a pixel is in.
fn two_parts(height: usize, width: usize, part: impl Fn(isize, isize) -> bool) -> Affinity {
    let mut weights = Vec::new();
    for (dy, dx) in offsets() {
        for pixel in 0..height * width {
            let (row, column) = ((pixel / width) as isize, (pixel % width) as isize);
            weights.push(if part(row, column) == part(row + dy, column + dx) { 1.0 } else { 0.001 });
        }
    }
    Affinity::new(height, width, &weights).unwrap()
}

/// Rows go downwards, so a boundary with Δrow / Δcolumn = tan 45° falls to the right; channel 0 is 90°, each next 22.5°
/// less.
#[test]
fn every_orientation_is_strongest_in_its_own_channel() {
    for channel in 0..NUM_ORIENTATIONS {
        let angle = (90.0 - 22.5 * channel as f64).to_radians();
        let (height, width) = (40, 40);
        let side =
            |row: isize, column: isize| (row as f64 - 19.5) * angle.cos() - (column as f64 - 19.5) * angle.sin() > 0.0;
        let energy = oriented_energy(&spectrum(two_parts(height, width, side), 2));
        // Along the boundary, away from the borders.
        let mut sums = [0.0f32; NUM_ORIENTATIONS];
        for row in 10..30 {
            for column in 10..30 {
                let at = (row * width + column) * NUM_ORIENTATIONS;
                (0..NUM_ORIENTATIONS).for_each(|k| sums[k] += energy[at + k]);
            }
        }
        let strongest = (0..NUM_ORIENTATIONS).max_by(|&a, &b| sums[a].total_cmp(&sums[b])).unwrap();
        assert_eq!(strongest, channel, "{sums:?}");
    }
}

/// A vector that rises along the columns rises from every pixel to the next one after it was carried back, too: each
/// pixel is a mean of kept ones around it, not a copy of one.
#[test]
fn vectors_are_carried_back_smoothly() {
    let (height, width) = (32, 96);
    let found = decimated_spectrum(two_parts(height, width, |_, _| true), 8, 1);
    let second = found.vector(1);
    let row = &second[16 * width..17 * width];
    let sign = (row[width - 1] - row[0]).signum();
    let rises = (8..width - 9).filter(|&c| sign * (row[c + 1] - row[c]) > 0.0).count();
    assert_eq!(rises, width - 17, "{row:?}");
}

#[test]
fn oriented_energy_is_largest_along_the_edge() {
    let found = spectrum(two_halves(40, 60), 2);
    let energy = oriented_energy(&found);
    let at = |row: usize, column: usize| &energy[(row * 60 + column) * NUM_ORIENTATIONS..][..NUM_ORIENTATIONS];
    // The halves meet between columns 29 and 30, in a vertical line: channel 0.
    let border = at(20, 29);
    assert!(border.iter().all(|e| *e <= border[0]), "{border:?}");
    assert!(border[0] > 50.0 * at(20, 10)[0] && border[4] < 0.2 * border[0], "{border:?} {:?}", at(20, 10));
    // Mirrored orientations see a vertical line alike.
    for (a, b) in [(1, 7), (2, 6), (3, 5)] {
        assert!((border[a] - border[b]).abs() < 0.05 * border[0], "{border:?}");
    }
}

#[test]
fn borders_are_suppressed_near_them_and_nowhere_else() {
    let (height, width) = (100, 80);
    let mut energy = vec![1.0f32; height * width * NUM_ORIENTATIONS];
    suppress_borders(&mut energy, height, width);
    let at = |row: usize, column: usize| &energy[(row * width + column) * NUM_ORIENTATIONS..][..NUM_ORIENTATIONS];
    assert!(at(50, 0)[0] < 1e-6 && (at(50, 0)[4] - 1.0).abs() < 1e-6, "vertical edges at the left border");
    assert!(at(0, 40)[4] < 1e-6 && (at(0, 40)[0] - 1.0).abs() < 1e-6, "horizontal edges at the upper border");
    assert!(at(50, 79)[0] < 1e-6 && at(99, 40)[4] < 1e-6);
    // R = 3 pixels: 1 - (1 - (2/3)²) at distance 2, nothing from distance 3 on.
    assert!((at(50, 2)[0] - 4.0 / 9.0).abs() < 1e-6);
    assert!(at(50, 3).iter().chain(at(50, 40)).all(|e| *e == 1.0));
}

#[test]
fn images_have_the_edges_they_show() {
    let frame = disk(120, 90);
    for detector in [Detector::Pmi(PmiSpec::accurate()), Detector::Pmi(PmiSpec::fast()), Detector::Fast { seed: 1 }] {
        let found = detector.segment(&frame.view(), 1024).unwrap();
        let label = |x: usize, y: usize| found.regions.labels[y * 120 + x];
        assert_ne!(label(60, 45), label(10, 10), "{detector:?}");
        // Most pixels agree with disk and ground when every region is called what most of it is.
        let mut counts = vec![[0usize; 2]; found.regions.num_regions];
        for (at, &region) in found.regions.labels.iter().enumerate() {
            let is_disk = ((at % 120) as f64 - 60.0).hypot((at / 120) as f64 - 45.0) < 22.5;
            counts[usize::from(region)][usize::from(is_disk)] += 1;
        }
        let right: usize = counts.iter().map(|c| c[0].max(c[1])).sum();
        assert!(right as f64 > 0.95 * (120.0 * 90.0), "{detector:?}: {right}");
        assert!(found.contours.iter().all(|c| (0.0..=1.0).contains(c)));
    }
}

#[test]
fn other_resolutions_than_half_are_refused_or_served() {
    let frame = disk(64, 48);
    for halvings in [0, 2] {
        let detector = Detector::Pmi(PmiSpec { halvings, ..PmiSpec::coarse() });
        assert!(detector.segment(&frame.view(), 100).unwrap_err().to_string().contains("halvings"));
        let found = detector.edges(&frame.view()).unwrap();
        assert_eq!(found.height(), 48 >> halvings);
        let full = detector.full_size(found.clone(), frame.size).unwrap();
        assert_eq!((full.height(), full.width()), (48, 64));
        // Edges of another image.
        if halvings > 0 {
            assert!(detector.full_size(found, ImageSize::new(40, 20)).is_err());
        }
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let frame = disk(16, 12);
    let accurate = PmiSpec::accurate;
    for (name, spec) in [
        ("halvings", PmiSpec { halvings: 40, ..accurate() }),
        ("num_kernels", PmiSpec { num_kernels: 0, ..accurate() }),
        ("bandwidth", PmiSpec { bandwidth: 0.0, ..accurate() }),
        ("bandwidth", PmiSpec { bandwidth: f32::NAN, ..accurate() }),
        ("num_queries", PmiSpec { num_queries: 0, ..accurate() }),
        ("num_trees", PmiSpec { num_trees: 0, ..accurate() }),
        ("num_vectors", PmiSpec { num_vectors: 1, ..accurate() }),
    ] {
        let error = edges(&frame.view(), &spec).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    for sigmas in [&[0.0][..], &[2.0, f32::NAN]] {
        let error = oversegment::gradient::oriented(&frame.view(), sigmas).unwrap_err().to_string();
        assert!(error.contains("sigmas"), "{error}");
    }
}

#[test]
fn seeds_and_not_threads_decide() {
    let frame = disk(100, 76);
    let with_threads = |threads: usize, spec: &PmiSpec| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| edges(&frame.view(), spec).unwrap())
    };
    for spec in [PmiSpec::accurate(), PmiSpec::fast(), PmiSpec::coarse()] {
        let one = with_threads(1, &spec);
        assert!(one == with_threads(1, &spec) && one == with_threads(3, &spec), "{spec:?}");
        assert!(one != with_threads(1, &PmiSpec { seed: 2, ..spec }));
    }
}

#[test]
fn flat_and_tiny_images_have_no_edges_and_one_region() {
    for (width, height) in [(1, 1), (2, 1), (1, 2), (3, 3), (40, 30)] {
        let frame = image(width, height, |_, _| [77, 120, 9]);
        for detector in [Detector::Pmi(PmiSpec::accurate()), Detector::Pmi(PmiSpec::fast()), Detector::Fast { seed: 1 }]
        {
            let found = detector.segment(&frame.view(), 1024).unwrap();
            assert_eq!(found.regions.num_regions, 1, "{width}×{height} {detector:?}");
            assert!(found.contours.iter().all(|c| *c == 0.0));
        }
        assert_eq!(relative_edges(&frame.view(), &PmiSpec::coarse()).unwrap().largest(), 0.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Few colours, any size: every strength is a number, every pixel has a region, and the numbers of regions fit.
    #[test]
    fn any_small_image_is_segmented(
        width in 1usize..30, height in 1usize..30, seed in any::<u64>(), colours in 1u8..4, fast in any::<bool>(),
    ) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let pixels: Vec<u8> = (0..width * height).map(|_| random.random_range(0..colours) * 60).collect();
        let frame = image(width, height, |x, y| [pixels[y * width + x], 30, 255 - pixels[y * width + x]]);
        let spec = if fast { PmiSpec::fast() } else { PmiSpec::accurate() };
        let found = edges(&frame.view(), &spec).unwrap();
        prop_assert_eq!((found.height(), found.width()), (height.div_ceil(2), width.div_ceil(2)));
        prop_assert!(found.values().iter().all(|v| v.is_finite() && *v >= 0.0));
        let full = found.enlarged(height, width, 1).unwrap();
        prop_assert_eq!((full.height(), full.width()), (height, width));
        let ucm = owt_ucm(&full.scaled_to_unit()).sigmoid();
        prop_assert!(ucm.image_size_map().iter().all(|v| (0.0..=1.0).contains(v)));
        for detector in [Detector::Pmi(spec), Detector::Fast { seed: 1 }] {
            let segments = detector.segment(&frame.view(), 16).unwrap();
            prop_assert!(segments.regions.num_regions < 16);
            prop_assert_eq!(segments.regions.labels.len(), width * height);
        }
    }
}
