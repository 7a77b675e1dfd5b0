//! Clustering pixels from cells equals upsampling the features and clustering those.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use segcore::embedding::EmbeddingMap;
use segcore::hierarchy::NONE;
use segcore::image::ImageSize;
use segcore::pixel_kmeans::PixelKmeans;
use segcore::refine::reference_full_resolution;
use segcore::spherical_kmeans::{KmeansSpec, SegmentMap, SphericalKmeans, Start, scalar};

/// A smooth map of unit features with noise, as a network gives it; `phase` moves the picture.
fn scene(h: usize, w: usize, dim: usize, noise: f32, phase: f32, seed: u64) -> EmbeddingMap {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let waves: Vec<[f32; 3]> = (0..dim).map(|_| rng.random()).collect();
    let mut map = EmbeddingMap::zeros(h, w, dim);
    for (i, row) in map.data.chunks_exact_mut(dim).enumerate() {
        let (y, x) = ((i / w) as f32 / h as f32, (i % w) as f32 / w as f32 + phase);
        for (value, [a, b, c]) in row.iter_mut().zip(&waves) {
            *value = (9.0 * (a * y + b * x) + 6.0 * c).sin() + noise * (rng.random::<f32>() - 0.5);
        }
    }
    map.normalize_in_place();
    map
}

/// Both ways on the same frames.
struct Both {
    plain: SphericalKmeans,
    fast: PixelKmeans,
    upsampled: EmbeddingMap,
    expected: SegmentMap,
    got: SegmentMap,
}

impl Both {
    fn new(spec: KmeansSpec, dim: usize, threads: usize) -> Self {
        Self {
            plain: SphericalKmeans::new(spec, dim, threads).unwrap(),
            fast: PixelKmeans::new(spec, dim, threads).unwrap(),
            upsampled: EmbeddingMap::default(),
            expected: SegmentMap::default(),
            got: SegmentMap::default(),
        }
    }

    fn run(&mut self, map: &EmbeddingMap, content: ImageSize, stride: usize, mask: Option<&[bool]>, start: Start) {
        let Self { plain, fast, upsampled, expected, got } = self;
        reference_full_resolution(map, content, stride, plain, mask, start, upsampled, expected).unwrap();
        fast.run(map, content, stride, mask, start, got).unwrap();
    }

    /// Share of pixels with the same label.
    fn equal(&self) -> f64 {
        let labels = self.expected.labels.iter().zip(&self.got.labels);
        labels.filter(|(a, b)| a == b).count() as f64 / self.got.labels.len() as f64
    }

    /// How far a pixel's label is from being as good as the oracle's, by the oracle's centroids.
    fn gap(&self, pixel: usize) -> f64 {
        let depth = self.upsampled.dim + 2;
        let rows = scalar::rows_with_location(&self.upsampled);
        let row = &rows[pixel * depth..][..depth];
        let product = |label: u16| -> f64 {
            let centroid = &self.plain.centroids()[usize::from(label) * depth..][..depth];
            row.iter().zip(centroid).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        (product(self.expected.labels[pixel]) - product(self.got.labels[pixel])).abs()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_round_equals_upsampling(
        seed: u64,
        h in 1usize..12,
        w in 1usize..12,
        cut in (0usize..8, 0usize..8),
        stride in 1usize..10,
        dim in 1usize..40,
        grid in (1usize..6, 1usize..6),
        masked: bool,
    ) {
        let spec = KmeansSpec { grid_rows: grid.0, grid_columns: grid.1, rounds: 1 };
        // The last cells may be cut: content that is no whole number of cells.
        let side = |cells: usize, cut: usize| cells * stride - cut.min(stride - 1);
        let content = ImageSize::new(side(w, cut.0), side(h, cut.1));
        let map = scene(h, w, dim, 0.5, 0.0, seed);
        let mask: Vec<bool> = (0..content.num_pixels()).map(|i| i % 7 != 3 && i / content.width != 2).collect();
        let mut both = Both::new(spec, dim, 0);
        both.run(&map, content, stride, masked.then_some(&mask[..]), Start::Grid);
        // The centroids of the first round come from the same labels: equal up to rounding.
        for (a, b) in both.fast.centroids().iter().zip(both.plain.centroids()) {
            prop_assert!((a - b).abs() < 2e-5, "{} {}", a, b);
        }
        let mut flips = 0;
        for (pixel, (&a, &b)) in both.got.labels.iter().zip(&both.expected.labels).enumerate() {
            prop_assert_eq!(a == NONE, b == NONE);
            if a != b {
                flips += 1;
                prop_assert!(both.gap(pixel) < 1e-4, "pixel {} is no near tie: {}", pixel, both.gap(pixel));
            }
        }
        prop_assert_eq!(both.got.areas.iter().sum::<u32>(), both.expected.areas.iter().sum::<u32>());
        if flips == 0 {
            prop_assert_eq!(&both.got.areas, &both.expected.areas);
            for (a, b) in both.got.prototypes.iter().zip(&both.expected.prototypes) {
                prop_assert!((a - b).abs() < 2e-5);
            }
        }
    }

    #[test]
    fn any_numbers_are_survived(seed: u64, h in 1usize..7, w in 1usize..7, rounds in 1usize..4) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
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
        let mut kmeans = PixelKmeans::new(spec, 5, 0).unwrap();
        let mut out = SegmentMap::default();
        for start in [Start::Grid, Start::Warm, Start::Warm] {
            kmeans.run(&map, ImageSize::new(w * 4, h * 4), 4, None, start, &mut out).unwrap();
            prop_assert!(out.labels.iter().all(|&label| usize::from(label) < spec.num_slots()));
            prop_assert_eq!(out.areas.iter().sum::<u32>() as usize, h * w * 16);
            prop_assert!(out.prototypes.iter().chain(kmeans.centroids()).all(|v| v.is_finite()));
        }
    }
}

#[test]
fn pixels_without_direction_equal_upsampling() {
    // Content of odd size, so that one pixel has no location either; cells around it have no features, or no numbers.
    let spec = KmeansSpec { grid_rows: 3, grid_columns: 3, rounds: 4 };
    for value in [0.0, f32::NAN] {
        let mut map = scene(3, 3, 6, 0.3, 0.0, 2);
        map.data[4 * 6..5 * 6].fill(value);
        let mut both = Both::new(spec, 6, 0);
        both.run(&map, ImageSize::new(9, 9), 4, None, Start::Grid);
        assert_eq!(both.got.labels, both.expected.labels, "{value}");
        for (a, b) in both.fast.centroids().iter().zip(both.plain.centroids()) {
            assert!((a - b).abs() < 2e-5, "{value}: {a} {b}");
        }
    }
}

#[test]
fn all_rounds_equal_upsampling() {
    let spec = KmeansSpec { grid_rows: 6, grid_columns: 8, rounds: 15 };
    let content = ImageSize::new(240, 180);
    let mut both = Both::new(spec, 32, 0);
    both.run(&scene(23, 30, 32, 0.3, 0.0, 5), content, 8, None, Start::Grid);
    assert_eq!(both.fast.rounds_run(), both.plain.rounds_run());
    assert!(both.equal() > 0.999, "{}", both.equal());
}

#[test]
fn warm_starts_and_reseeding_equal_upsampling() {
    let spec = KmeansSpec { grid_rows: 4, grid_columns: 6, rounds: 6 };
    let (content, dim) = (ImageSize::new(96, 64), 16);
    let mut both = Both::new(spec, dim, 0);
    both.run(&scene(8, 12, dim, 0.1, 0.0, 9), content, 8, None, Start::Grid);
    let mut reseeded = 0;
    for frame in 1..8 {
        // A jump half-way empties clusters.
        let phase = frame as f32 * 0.02 + if frame > 3 { 3.0 } else { 0.0 };
        both.run(&scene(8, 12, dim, 0.1, phase, 9), content, 8, None, Start::Warm);
        assert_eq!(both.fast.reseeded(), both.plain.reseeded(), "frame {frame}");
        assert!(both.equal() > 0.995, "frame {frame}: {}", both.equal());
        reseeded += both.fast.reseeded().len();
    }
    assert!(reseeded > 0, "the jump empties clusters");
}

#[test]
fn threads_change_nothing() {
    let spec = KmeansSpec { grid_rows: 5, grid_columns: 6, rounds: 15 };
    let map = scene(13, 17, 24, 0.3, 0.0, 3);
    let runs = [1, 2, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut kmeans = PixelKmeans::new(spec, 24, threads).unwrap();
        let mut out = SegmentMap::default();
        pool.install(|| kmeans.run(&map, ImageSize::new(17 * 8, 13 * 8), 8, None, Start::Grid, &mut out)).unwrap();
        (out, kmeans.centroids().to_vec())
    });
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
}

#[test]
fn wrong_inputs_are_refused() {
    let spec = KmeansSpec { grid_rows: 2, grid_columns: 2, rounds: 1 };
    let mut kmeans = PixelKmeans::new(spec, 3, 1).unwrap();
    let mut out = SegmentMap::default();
    let content = ImageSize::new(8, 8);
    assert!(
        PixelKmeans::new(spec, 0, 1)
            .unwrap()
            .run(&EmbeddingMap::zeros(2, 2, 0), content, 4, None, Start::Grid, &mut out)
            .is_err()
    );
    let map = EmbeddingMap::zeros(2, 2, 4);
    assert!(kmeans.run(&map, content, 4, None, Start::Grid, &mut out).is_err());
    let map = EmbeddingMap::zeros(2, 2, 3);
    assert!(kmeans.run(&map, content, 4, Some(&[true; 4]), Start::Grid, &mut out).is_err());
    assert_eq!(out, SegmentMap::default());
    assert!(kmeans.run(&map, content, 4, Some(&[true; 64]), Start::Grid, &mut out).is_ok());
}
