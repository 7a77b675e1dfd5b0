//! What must hold for any input: nesting, ranges, fast = plain, survival of zeros and bad numbers.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use segcore::embedding::EmbeddingMap;
use segcore::hierarchy::{Hierarchy, NONE};
use segcore::image::{Frame, ImageSize, ImageView, PixelFormat};
use segcore::preprocess::{PreprocessSpec, Preprocessor, ResizePlan};
use segcore::refine::{Refiner, reference_full_resolution, refine_plain, source_from_content};
use segcore::spherical_kmeans::{KmeansSpec, SegmentMap, SphericalKmeans, Start, scalar};
use segcore::yuv::{self, YuvColors, YuvMatrix};

fn rng(seed: u64) -> rand_chacha::ChaCha8Rng {
    rand_chacha::ChaCha8Rng::seed_from_u64(seed)
}

/// A map of patches with a direction each, far apart, plus noise: labels do not hang on the last bit.
fn patches(h: usize, w: usize, dim: usize, noise: f32, seed: u64) -> EmbeddingMap {
    let mut rng = rng(seed);
    let directions: Vec<f32> = (0..16 * dim).map(|_| rng.random::<f32>() - 0.5).collect();
    let mut map = EmbeddingMap::zeros(h, w, dim);
    for (i, row) in map.data.chunks_exact_mut(dim).enumerate() {
        let patch = (i / w * 4 / h) * 4 + i % w * 4 / w;
        for (value, direction) in row.iter_mut().zip(&directions[patch * dim..]) {
            *value = direction + noise * (rng.random::<f32>() - 0.5);
        }
    }
    map.normalize_in_place();
    map
}

/// Similarities of one pixel to two clusters, in f64.
fn gap(map: &EmbeddingMap, centroids: &[f32], pixel: usize, a: u16, b: u16) -> f64 {
    let rows = scalar::rows_with_location(map);
    let depth = map.dim + 2;
    let row = &rows[pixel * depth..][..depth];
    let dot = |c: u16| -> f64 {
        row.iter().zip(&centroids[usize::from(c) * depth..]).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    (dot(a) - dot(b)).abs()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn labels_are_strictly_nested(
        seed: u64,
        sizes in prop::collection::vec(1usize..20, 1..5),
        empty in 0.0f64..0.9,
    ) {
        let mut rng = rng(seed);
        let areas: Vec<u32> =
            (0..sizes[0]).map(|_| if rng.random::<f64>() < empty { 0 } else { rng.random_range(1..900) }).collect();
        let transitions: Vec<Vec<f32>> = sizes
            .windows(2)
            .map(|n| (0..n[0] * n[1]).map(|_| if rng.random::<f32>() < 0.02 { f32::NAN } else { rng.random() }).collect())
            .collect();
        let views: Vec<&[f32]> = transitions.iter().map(Vec::as_slice).collect();
        let mut hierarchy = Hierarchy::new();
        hierarchy.from_transitions(&areas, &views, &sizes).unwrap();
        prop_assert_eq!(hierarchy.num_levels(), sizes.len());
        let total: u64 = areas.iter().map(|&a| u64::from(a)).sum();
        for level in 0..sizes.len() {
            prop_assert_eq!(hierarchy.areas(level).iter().sum::<u64>(), total);
            prop_assert!((0.0..=1.0).contains(&hierarchy.agreement(level)));
            for slot in 0..sizes[0] {
                let label = hierarchy.label_at(level, slot as u16);
                prop_assert_eq!(label.is_some(), areas[slot] > 0);
                prop_assert!(label.is_none_or(|l| usize::from(l) < sizes[level]));
                // Equal labels at a level are equal at every coarser one.
                for other in 0..sizes[0] {
                    if level + 1 < sizes.len() && label == hierarchy.label_at(level, other as u16) && label.is_some() {
                        let coarser = |s: usize| hierarchy.label_at(level + 1, s as u16);
                        prop_assert_eq!(coarser(slot), coarser(other));
                    }
                }
            }
        }
    }

    #[test]
    fn vectors_equal_scalar(
        seed: u64,
        h in 4usize..20,
        w in 4usize..20,
        dim in 1usize..70,
        grid_rows in 1usize..7,
        grid_columns in 1usize..7,
    ) {
        let spec = KmeansSpec { grid_rows, grid_columns, rounds: 1 };
        let map = patches(h, w, dim, 0.5, seed);
        let mask: Vec<bool> = (0..h * w).map(|i| i % 11 != 3).collect();
        let mask = (seed % 2 == 0).then_some(&mask[..]);
        let mut fast = SphericalKmeans::new(spec, dim, 0).unwrap();
        let (mut got, mut expected) = (SegmentMap::default(), SegmentMap::default());
        fast.run_masked(&map, mask, Start::Grid, &mut got).unwrap();
        let mut state = scalar::ScalarState::default();
        scalar::run(&spec, &map, mask, false, &mut state, &mut expected).unwrap();
        // The centroids of the first round come from the same labels: equal up to rounding.
        for (a, b) in fast.centroids().iter().zip(&state.centroids) {
            prop_assert!((a - b).abs() < 1e-5);
        }
        let mut flips = 0;
        for (pixel, (&a, &b)) in got.labels.iter().zip(&expected.labels).enumerate() {
            prop_assert_eq!(a == NONE, b == NONE);
            prop_assert!(a == NONE || usize::from(a) < spec.num_slots());
            if a != b {
                flips += 1;
                prop_assert!(gap(&map, &state.centroids, pixel, a, b) < 1e-5, "pixel {} is no near tie", pixel);
            }
        }
        if flips == 0 {
            prop_assert_eq!(&got.areas, &expected.areas);
            for (a, b) in got.prototypes.iter().zip(&expected.prototypes) {
                prop_assert!((a - b).abs() < 1e-5);
            }
        }
        prop_assert_eq!(got.areas.iter().sum::<u32>() as usize, got.labels.iter().filter(|&&l| l != NONE).count());
    }

    #[test]
    fn clustering_survives_any_numbers(seed: u64, h in 1usize..9, w in 1usize..9, rounds in 1usize..4) {
        let mut rng = rng(seed);
        let mut map = EmbeddingMap::zeros(h, w, 5);
        for value in &mut map.data {
            *value = match rng.random_range(0..8) {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2 => f32::MAX,
                3..6 => 0.0,
                _ => rng.random(),
            };
        }
        let spec = KmeansSpec { grid_rows: 3, grid_columns: 4, rounds };
        let mut kmeans = SphericalKmeans::new(spec, 5, 0).unwrap();
        let mut out = SegmentMap::default();
        for start in [Start::Grid, Start::Warm, Start::Warm] {
            kmeans.run(&map, start, &mut out).unwrap();
            prop_assert!(out.labels.iter().all(|&l| usize::from(l) < spec.num_slots()));
            prop_assert_eq!(out.areas.iter().sum::<u32>() as usize, h * w);
            prop_assert!(kmeans.centroids().iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn preprocessing_equals_the_plain_formula(
        seed: u64,
        source in (1usize..90, 1usize..90),
        input in (1usize..60, 1usize..60),
        multiple in 1usize..9,
        gray: bool,
        extra_stride in 0usize..5,
    ) {
        let spec = PreprocessSpec {
            input: ImageSize::new(input.0, input.1),
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            multiple,
        };
        let size = ImageSize::new(source.0, source.1);
        let format = if gray { PixelFormat::Gray8 } else { PixelFormat::Rgb8 };
        let stride = format.row_bytes(size.width) + extra_stride;
        let mut rng = rng(seed);
        let bytes: Vec<u8> = (0..stride * size.height).map(|_| rng.random()).collect();
        let view = ImageView::new(size, format, stride, &bytes).unwrap();
        let mut preprocessor = Preprocessor::new(&spec, size).unwrap();
        let plan = *preprocessor.plan();
        prop_assert!(plan.content.width <= spec.input.width && plan.content.height <= spec.input.height);
        prop_assert!(plan.padded.width.is_multiple_of(multiple) && plan.padded.width - plan.content.width < multiple);
        let mut got = vec![f32::NAN; preprocessor.output_len()];
        preprocessor.run(&view, &mut got).unwrap();
        for (i, &value) in got.iter().enumerate() {
            let c = i / plan.padded.num_pixels();
            let (y, x) = (i / plan.padded.width % plan.padded.height, i % plan.padded.width);
            let expected = plain_pixel(&view, &plan, &spec, c, y, x);
            prop_assert!((f64::from(value) - expected).abs() < 2e-5, "({}, {}, {}): {} ≠ {}", c, y, x, value, expected);
        }
    }

    #[test]
    fn rgb_equals_pixel_by_pixel(
        seed: u64,
        (width, height) in (1usize..80, 1usize..6),
        padding in 0usize..9,
        matrix in prop::sample::select(vec![YuvMatrix::Bt601, YuvMatrix::Bt709, YuvMatrix::Bt2020, YuvMatrix::Smpte240]),
        full_range: bool,
    ) {
        let (colors, size) = (YuvColors { matrix, full_range }, ImageSize::new(width, height));
        for format in [
            PixelFormat::Rgb8,
            PixelFormat::Gray8,
            PixelFormat::Yuyv8(colors),
            PixelFormat::Uyvy8(colors),
            PixelFormat::Nv12(colors),
        ] {
            let stride = format.row_bytes(width) + padding;
            let mut rng = rng(seed);
            let bytes: Vec<u8> = (0..stride * format.num_rows(height)).map(|_| rng.random()).collect();
            let view = ImageView::new(size, format, stride, &bytes).unwrap();
            let mut rgb = vec![0; PixelFormat::Rgb8.frame_bytes(size)];
            yuv::to_rgb(&view, &mut rgb).unwrap();
            for (i, pixel) in rgb.chunks_exact(3).enumerate() {
                let (y, x) = (i / width, i % width);
                let (row, pair) = (view.row(y), x / 2);
                let [luma, u, v] = match format {
                    PixelFormat::Rgb8 => {
                        prop_assert_eq!(pixel, &row[3 * x..3 * x + 3]);
                        continue;
                    }
                    PixelFormat::Yuyv8(_) => [row[2 * x], row[4 * pair + 1], row[4 * pair + 3]],
                    PixelFormat::Uyvy8(_) => [row[2 * x + 1], row[4 * pair], row[4 * pair + 2]],
                    PixelFormat::Nv12(_) => {
                        let chroma = view.row(height + y / 2);
                        [row[x], chroma[2 * pair], chroma[2 * pair + 1]]
                    }
                    _ => {
                        prop_assert_eq!(pixel, [row[x]; 3]);
                        continue;
                    }
                };
                prop_assert_eq!(pixel, colors.conversion().pixel(luma, u, v), "{} {} ({}, {})", format, size, y, x);
            }
            // Packed rows are the same picture.
            let packed: Vec<u8> = (0..format.num_rows(height)).flat_map(|y| view.row(y).to_vec()).collect();
            let frame = Frame::from_pixels(size, format, packed).unwrap();
            let mut converted = Frame::black(ImageSize::new(0, 0), PixelFormat::Gray8);
            yuv::frame_to_rgb(&frame, &mut converted).unwrap();
            prop_assert_eq!((converted.size, converted.format, converted.pixels), (size, PixelFormat::Rgb8, rgb));
            // What needs pixels that stand for themselves refuses the rest by name.
            let spec = PreprocessSpec { input: size, mean: [0.5; 3], std: [0.5; 3], multiple: 1 };
            let mut preprocessor = Preprocessor::new(&spec, size).unwrap();
            let mut output = vec![0.0; preprocessor.output_len()];
            let run = preprocessor.run(&frame.view(), &mut output);
            prop_assert_eq!(run.is_err(), format.yuv_colors().is_some());
            if let Err(error) = run {
                prop_assert!(error.to_string().contains(&format!("the frame is {format}, expected RGB")), "{}", error);
            }
        }
    }

    #[test]
    fn refinement_equals_plain(
        seed: u64,
        source in (1usize..120, 1usize..120),
        input in (8usize..100, 8usize..100),
        dim in 1usize..20,
        masked: bool,
    ) {
        let spec = PreprocessSpec {
            input: ImageSize::new(input.0, input.1), mean: [0.5; 3], std: [0.5; 3], multiple: 8,
        };
        let plan = ResizePlan::new(&spec, ImageSize::new(source.0, source.1)).unwrap();
        let (h, w) = plan.content_cells(8);
        prop_assert!(h <= plan.feature_size(8).0 && w <= plan.feature_size(8).1);
        let map = patches(h, w, dim, 0.4, seed);
        let kmeans_spec = KmeansSpec { grid_rows: 4, grid_columns: 3, rounds: 3 };
        let mut kmeans = SphericalKmeans::new(kmeans_spec, dim, 0).unwrap();
        let mut segments = SegmentMap::default();
        let mask: Vec<bool> = (0..h * w).map(|i| !masked || i % 7 != 2).collect();
        kmeans.run_masked(&map, Some(&mask), Start::Grid, &mut segments).unwrap();
        let mut refiner = Refiner::new(&plan, 8);
        let mut got = vec![0; plan.source.num_pixels()];
        let mut expected = got.clone();
        refiner.run(&map, &segments, kmeans.centroids(), &mut got).unwrap();
        let mut margins = vec![0.0; got.len()];
        refine_plain(&refiner, &map, &segments, kmeans.centroids(), &mut expected, &mut margins).unwrap();
        for (i, (&a, &b)) in got.iter().zip(&expected).enumerate() {
            // Ties may fall either way: half-way between two cells that are a cluster each, rounding decides.
            prop_assert!(a == b || margins[i] < 1e-5, "pixel {}: {} ≠ {}, ahead by {}", i, a, b, margins[i]);
        }
        prop_assert!(got.iter().all(|&l| l == NONE || usize::from(l) < kmeans_spec.num_slots()));
        prop_assert!(masked || got.iter().all(|&l| l != NONE));
    }
}

/// One value of the network input, in f64, straight from the definition.
fn plain_pixel(view: &ImageView<'_>, plan: &ResizePlan, spec: &PreprocessSpec, c: usize, y: usize, x: usize) -> f64 {
    if y >= plan.content.height || x >= plan.content.width {
        return 0.0;
    }
    let (mut sum, mut total) = (0.0, 0.0);
    let rows = plain_taps(y, view.size.height, plan.content.height);
    let columns = plain_taps(x, view.size.width, plan.content.width);
    for &(row, wy) in &rows {
        for &(column, wx) in &columns {
            let channels = view.format.row_bytes(1);
            let byte = view.row(row)[column * channels + c.min(channels - 1)];
            sum += wy * wx * f64::from(byte);
            total += wy * wx;
        }
    }
    (sum / total / 255.0 - f64::from(spec.mean[c])) / f64::from(spec.std[c])
}

fn plain_taps(i: usize, input: usize, output: usize) -> Vec<(usize, f64)> {
    let scale = input as f64 / output as f64;
    let position = (i as f64 + 0.5) * scale;
    if scale > 2.0 {
        let weight = |j: usize| 1.0 - ((j as f64 + 0.5 - position) / scale).abs();
        return (0..input).map(|j| (j, weight(j))).filter(|t| t.1 > 0.0).collect();
    }
    let from_centre = (position - 0.5).clamp(0.0, (input - 1) as f64);
    let low = from_centre.floor();
    let high = (low as usize + 1).min(input - 1);
    vec![(low as usize, 1.0 - (from_centre - low)), (high, from_centre - low)]
}

#[test]
fn separated_clusters_are_found_exactly_over_many_frames() {
    let spec = KmeansSpec { grid_rows: 4, grid_columns: 4, rounds: 15 };
    let mut fast = SphericalKmeans::new(spec, 24, 0).unwrap();
    let mut state = scalar::ScalarState::default();
    let (mut got, mut expected) = (SegmentMap::default(), SegmentMap::default());
    for frame in 0..6 {
        let map = patches(24, 32, 24, 0.1, 40 + frame / 2);
        let start = if frame == 0 { Start::Grid } else { Start::Warm };
        fast.run(&map, start, &mut got).unwrap();
        scalar::run(&spec, &map, None, frame > 0, &mut state, &mut expected).unwrap();
        assert_eq!(got.labels, expected.labels, "frame {frame}");
        assert_eq!(got.areas, expected.areas);
        assert_eq!(fast.reseeded(), state.reseeded);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let spec = KmeansSpec { grid_rows: 6, grid_columns: 5, rounds: 6 };
    let results: Vec<(SegmentMap, Vec<f32>)> = [1, 2, 3, 5]
        .into_iter()
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut kmeans = SphericalKmeans::new(spec, 40, threads).unwrap();
                let mut out = SegmentMap::default();
                for seed in 0..3 {
                    let start = if seed == 0 { Start::Grid } else { Start::Warm };
                    kmeans.run(&patches(37, 41, 40, 0.8, seed), start, &mut out).unwrap();
                }
                (out, kmeans.centroids().to_vec())
            })
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_dead_cluster_is_reseeded_from_the_worst_pixel() {
    // Frame 1: two directions, left and right, one cluster each. Frame 2: everything points left except one pixel that
    // fits neither; the right cluster loses all pixels and must take that one.
    let spec = KmeansSpec { grid_rows: 1, grid_columns: 2, rounds: 15 };
    let mut map = EmbeddingMap::zeros(4, 4, 3);
    for (i, row) in map.data.chunks_exact_mut(3).enumerate() {
        row[usize::from(i % 4 >= 2)] = 1.0;
    }
    let mut kmeans = SphericalKmeans::new(spec, 3, 0).unwrap();
    let mut out = SegmentMap::default();
    kmeans.run(&map, Start::Warm, &mut out).unwrap();
    assert!(kmeans.reseeded().is_empty(), "the first run starts from the grid");
    assert_eq!(out.areas, [8, 8]);
    for (i, row) in map.data.chunks_exact_mut(3).enumerate() {
        row.copy_from_slice(if i == 13 { &[0.6, -0.8, 0.0] } else { &[1.0, 0.0, 0.0] });
    }
    kmeans.run(&map, Start::Warm, &mut out).unwrap();
    assert_eq!(kmeans.reseeded(), [1]);
    assert_eq!(out.labels[13], 1);
    assert!(out.areas[1] > 0);
    // A map of another size has no use for the centroids.
    kmeans.run(&patches(5, 6, 3, 0.2, 1), Start::Warm, &mut out).unwrap();
    assert!(kmeans.reseeded().is_empty());
}

/// A drive of 5000 frames past walls of one colour, at which most clusters die. Without re-seeding one of 48 is left.
#[test]
fn clusters_stay_alive_over_5000_frames() {
    const SIZE: (usize, usize, usize) = (24, 32, 8);
    let (height, width, dim) = SIZE;
    let spec = KmeansSpec { grid_rows: 6, grid_columns: 8, rounds: 5 };
    let mut kmeans = SphericalKmeans::new(spec, dim, 1).unwrap();
    let (mut segments, mut map) = (SegmentMap::default(), EmbeddingMap::zeros(height, width, dim));
    let mut rng = rng(7);
    // What passes by: patches of 4×4 cells, a column of them comes in every 12 frames.
    let patch = |rng: &mut rand_chacha::ChaCha8Rng| -> [f32; 8] { std::array::from_fn(|_| rng.random::<f32>() - 0.5) };
    let mut street: Vec<[f32; 8]> = (0..6 * 2000).map(|_| patch(&mut rng)).collect();
    street[6 * 100..].chunks_mut(6 * 100).for_each(|wall| wall[..6 * 8].fill([0.3; 8]));
    let mut fewest_late = spec.num_slots();
    for frame in 0..5000 {
        for (cell, feature) in map.data.chunks_exact_mut(dim).enumerate() {
            let (y, x) = (cell / width, cell % width + frame / 3);
            for (value, &direction) in feature.iter_mut().zip(&street[x / 4 * 6 + y / 4]) {
                *value = direction + 0.2 * (rng.random::<f32>() - 0.5);
            }
        }
        map.normalize_in_place();
        kmeans.run(&map, if frame == 0 { Start::Grid } else { Start::Warm }, &mut segments).unwrap();
        if frame >= 4000 {
            fewest_late = fewest_late.min(segments.areas.iter().filter(|&&area| area > 0).count());
        }
    }
    assert!(fewest_late as f64 >= 0.95 * spec.num_slots() as f64, "{fewest_late} of {} live", spec.num_slots());
}

#[test]
fn more_clusters_than_pixels() {
    let spec = KmeansSpec { grid_rows: 12, grid_columns: 16, rounds: 15 };
    let mut kmeans = SphericalKmeans::new(spec, 4, 0).unwrap();
    let mut out = SegmentMap::default();
    for start in [Start::Grid, Start::Warm, Start::Warm] {
        kmeans.run(&patches(1, 3, 4, 0.1, 3), start, &mut out).unwrap();
        assert_eq!(out.areas.iter().sum::<u32>(), 3);
    }
    let everything_masked = [false; 3];
    kmeans.run_masked(&patches(1, 3, 4, 0.1, 3), Some(&everything_masked), Start::Warm, &mut out).unwrap();
    assert_eq!(out.labels, [NONE; 3]);
}

#[test]
fn wrong_shapes_are_errors() {
    let spec = KmeansSpec { grid_rows: 2, grid_columns: 2, rounds: 2 };
    assert!(SphericalKmeans::new(KmeansSpec { rounds: 0, ..spec }, 4, 0).is_err());
    assert!(SphericalKmeans::new(KmeansSpec { grid_rows: 0, ..spec }, 4, 0).is_err());
    assert!(SphericalKmeans::new(KmeansSpec { grid_rows: 1 << 40, ..spec }, 4, 0).is_err());
    let mut kmeans = SphericalKmeans::new(spec, 4, 0).unwrap();
    let mut out = SegmentMap::default();
    assert!(kmeans.run(&EmbeddingMap::zeros(2, 2, 5), Start::Grid, &mut out).is_err());
    assert!(kmeans.run(&EmbeddingMap::zeros(0, 2, 4), Start::Grid, &mut out).is_err());
    let map = EmbeddingMap::zeros(2, 2, 4);
    assert!(kmeans.run_masked(&map, Some(&[true; 3]), Start::Grid, &mut out).is_err());
    assert_eq!(out, SegmentMap::default());
}

#[test]
fn one_label_stays_one_label() {
    // Constant features and one cluster: refinement, its plain version and the full-resolution reference agree.
    let size = ImageSize::new(50, 37);
    let spec = PreprocessSpec { input: ImageSize::new(64, 64), mean: [0.5; 3], std: [0.5; 3], multiple: 8 };
    let plan = ResizePlan::new(&spec, size).unwrap();
    let (h, w) = plan.content_cells(8);
    let map = patches(h, w, 6, 0.0, 1);
    let kmeans_spec = KmeansSpec { grid_rows: 1, grid_columns: 1, rounds: 2 };
    let mut kmeans = SphericalKmeans::new(kmeans_spec, 6, 0).unwrap();
    let mut segments = SegmentMap::default();
    kmeans.run(&map, Start::Grid, &mut segments).unwrap();
    let mut refined = vec![9; size.num_pixels()];
    Refiner::new(&plan, 8).run(&map, &segments, kmeans.centroids(), &mut refined).unwrap();
    let (mut upsampled, mut full) = (EmbeddingMap::default(), SegmentMap::default());
    reference_full_resolution(&map, plan.content, 8, &mut kmeans, None, Start::Grid, &mut upsampled, &mut full)
        .unwrap();
    assert_eq!((full.height, full.width), (plan.content.height, plan.content.width));
    let mut reference = vec![7; size.num_pixels()];
    source_from_content(&plan, &full, &mut reference).unwrap();
    assert!(refined.iter().all(|&l| l == 0));
    assert_eq!(refined, reference);
}

#[test]
fn refinement_finds_a_border_inside_a_cell() {
    // Two directions that meet at column 20 of 64: upsampling between the cells at 12 and 20 puts the border between
    // their centres, not on the cell edge at 16 where the nearest cell would have it.
    let size = ImageSize::new(64, 32);
    let spec = PreprocessSpec { input: size, mean: [0.5; 3], std: [0.5; 3], multiple: 8 };
    let plan = ResizePlan::new(&spec, size).unwrap();
    let mut map = EmbeddingMap::zeros(4, 8, 2);
    for (i, row) in map.data.chunks_exact_mut(2).enumerate() {
        row.copy_from_slice(match i % 8 {
            0 | 1 => &[1.0, 0.0],
            // Nearer to the left cluster's direction than the rest of the right cluster.
            2 => &[0.64, 0.7684],
            _ => &[0.0, 1.0],
        });
    }
    let kmeans_spec = KmeansSpec { grid_rows: 1, grid_columns: 2, rounds: 15 };
    let mut kmeans = SphericalKmeans::new(kmeans_spec, 2, 0).unwrap();
    let mut segments = SegmentMap::default();
    kmeans.run(&map, Start::Grid, &mut segments).unwrap();
    let mut out = vec![0; size.num_pixels()];
    Refiner::new(&plan, 8).run(&map, &segments, kmeans.centroids(), &mut out).unwrap();
    let border = out[..64].iter().position(|&l| l == 1).unwrap();
    assert!(border % 8 != 0, "the border lies on a cell edge: {border}");
    assert!(out.chunks_exact(64).all(|row| row.windows(2).filter(|p| p[0] != p[1]).count() == 1));
}

#[test]
fn refinement_refuses_wrong_sizes() {
    let size = ImageSize::new(32, 32);
    let spec = PreprocessSpec { input: size, mean: [0.5; 3], std: [0.5; 3], multiple: 8 };
    let plan = ResizePlan::new(&spec, size).unwrap();
    let mut refiner = Refiner::new(&plan, 8);
    let mut segments = SegmentMap {
        height: 4,
        width: 4,
        num_slots: 2,
        labels: vec![0; 16],
        areas: vec![16, 0],
        prototypes: vec![0.0; 6],
    };
    let map = EmbeddingMap::zeros(4, 4, 3);
    let centroids = [0.0; 10];
    let mut out = vec![0; 32 * 32];
    assert!(refiner.run(&map, &segments, &centroids, &mut out).is_ok());
    assert!(refiner.run(&map, &segments, &centroids[1..], &mut out).is_err());
    assert!(refiner.run(&map, &segments, &centroids, &mut out[1..]).is_err());
    assert!(refiner.run(&EmbeddingMap::zeros(3, 4, 3), &segments, &centroids, &mut out).is_err());
    segments.labels[3] = 2;
    assert!(refiner.run(&map, &segments, &centroids, &mut out).is_err());
}

#[test]
fn plans_are_whole_pixels() {
    let spec = PreprocessSpec { input: ImageSize::new(1024, 512), mean: [0.5; 3], std: [0.5; 3], multiple: 8 };
    let plan = ResizePlan::new(&spec, ImageSize::new(1242, 375)).unwrap();
    assert_eq!(plan.content, ImageSize::new(1024, 309));
    assert_eq!(plan.padded, ImageSize::new(1024, 312));
    assert_eq!((plan.feature_size(8), plan.content_cells(8)), ((39, 128), (39, 128)));
    let plan = ResizePlan::new(&spec, ImageSize::new(1280, 720)).unwrap();
    assert_eq!(plan.content, ImageSize::new(910, 512));
    assert_eq!((plan.feature_size(8), plan.content_cells(8)), ((64, 114), (64, 114)));
    let tiny = ResizePlan::new(&spec, ImageSize::new(100_000, 1)).unwrap();
    assert_eq!((tiny.content, tiny.content_cells(8)), (ImageSize::new(1024, 1), (1, 128)));
    assert!(ResizePlan::new(&spec, ImageSize::new(0, 5)).is_err());
    assert!(ResizePlan::new(&PreprocessSpec { multiple: 0, ..spec.clone() }, plan.source).is_err());
    assert!(ResizePlan::new(&PreprocessSpec { std: [1.0, 0.0, 1.0], ..spec }, plan.source).is_err());
}

#[test]
fn a_one_pixel_frame_fills_the_input() {
    let spec = PreprocessSpec { input: ImageSize::new(5, 9), mean: [0.0; 3], std: [1.0; 3], multiple: 1 };
    for size in [ImageSize::new(1, 1), ImageSize::new(1, 9), ImageSize::new(5, 1)] {
        let mut preprocessor = Preprocessor::new(&spec, size).unwrap();
        let mut out = vec![f32::NAN; preprocessor.output_len()];
        let mut frame = Frame::black(size, PixelFormat::Rgb8);
        frame.pixels.fill(255);
        preprocessor.run(&frame.view(), &mut out).unwrap();
        assert!(out.iter().all(|v| (v - 1.0).abs() < 1e-6), "{size}");
    }
}

#[test]
fn preprocessing_refuses_wrong_sizes() {
    let size = ImageSize::new(16, 8);
    let spec = PreprocessSpec { input: size, mean: [0.5; 3], std: [0.5; 3], multiple: 8 };
    let mut preprocessor = Preprocessor::new(&spec, size).unwrap();
    let mut out = vec![0.0; preprocessor.output_len()];
    let frame = Frame::black(size, PixelFormat::Rgb8);
    assert!(preprocessor.run(&frame.view(), &mut out[1..]).is_err());
    let other = Frame::black(ImageSize::new(8, 16), PixelFormat::Rgb8);
    assert!(preprocessor.run(&other.view(), &mut out).is_err());
    let mut short = frame.clone();
    short.pixels.truncate(10);
    assert!(preprocessor.run(&short.view(), &mut out).is_err());
    preprocessor.run(&frame.view(), &mut out).unwrap();
    assert!(out.iter().all(|&v| v == -1.0));
}

#[test]
fn nearest_upsampling_takes_the_cell_of_the_pixel_centre() {
    let segments = SegmentMap { height: 1, width: 3, num_slots: 3, labels: vec![0, 1, 2], ..SegmentMap::default() };
    let upsampled = |source: (usize, usize), content: (usize, usize)| {
        let size = |(width, height)| ImageSize { width, height };
        let plan = ResizePlan { source: size(source), content: size(content), padded: size(content) };
        let mut slots = vec![9; source.0 * source.1];
        segcore::refine::upsample_nearest(&mut Vec::new(), &plan, 2, &segments, &mut slots);
        slots
    };
    // Not resized, cells of 2 pixels: the last cell covers only one.
    assert_eq!(upsampled((5, 2), (5, 2)), [0, 0, 1, 1, 2, 0, 0, 1, 1, 2]);
    // Enlarged twofold before the network.
    assert_eq!(upsampled((3, 1), (6, 2)), [0, 1, 2]);
    // A remainder smaller than half a cell has no cell of its own and takes the last one.
    assert_eq!(upsampled((7, 1), (7, 1)), [0, 0, 1, 1, 2, 2, 2]);
}
