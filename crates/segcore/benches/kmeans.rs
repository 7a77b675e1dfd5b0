//! Spherical k-means: plain scalar, vectors on one core, vectors on all cores; street-sized maps, 128 features.
//!
//! `cargo bench -p segcore --bench kmeans` prints the table of divan (whole runs) and then the ratios, timed interleaved,
//! per round of (centroid, assign): the plain version always makes 15 rounds, the other stops when nothing changes, and
//! that gain is not counted. Inputs are smooth random features with noise. Last, clustering of the pixels of such maps at
//! stride 8: cells alone, pixels by the products of cells, and pixels by upsampling.

use divan::Bencher;
use rand::{Rng, SeedableRng};
use segcore::embedding::EmbeddingMap;
use segcore::image::ImageSize;
use segcore::pixel_kmeans::PixelKmeans;
use segcore::refine::reference_full_resolution;
use segcore::spherical_kmeans::{KmeansSpec, SegmentMap, SphericalKmeans, Start, scalar};
use std::time::{Duration, Instant};

const DIM: usize = 128;
const CASES: [Case; 2] = [
    Case { name: "45x60, 12x16 slots", h: 45, w: 60, grid: (12, 16) },
    Case { name: "128x256, 12x24 slots", h: 128, w: 256, grid: (12, 24) },
];

#[derive(Copy, Clone)]
struct Case {
    name: &'static str,
    h: usize,
    w: usize,
    grid: (usize, usize),
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Case {
    fn spec(&self) -> KmeansSpec {
        KmeansSpec { grid_rows: self.grid.0, grid_columns: self.grid.1, rounds: 15 }
    }

    fn map(&self) -> EmbeddingMap {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let waves: Vec<[f32; 3]> = (0..DIM).map(|_| rng.random()).collect();
        let mut map = EmbeddingMap::zeros(self.h, self.w, DIM);
        for (i, row) in map.data.chunks_exact_mut(DIM).enumerate() {
            let (y, x) = ((i / self.w) as f32 / self.h as f32, (i % self.w) as f32 / self.w as f32);
            for (value, [a, b, c]) in row.iter_mut().zip(&waves) {
                *value = (25.0 * (a * y + b * x) + 6.0 * c).sin() + 0.3 * (rng.random::<f32>() - 0.5);
            }
        }
        map.normalize_in_place();
        map
    }

    /// Floating-point operations of one assignment.
    fn flop(&self) -> f64 {
        2.0 * (self.h * self.w * self.spec().num_slots() * (DIM + 2)) as f64
    }
}

#[divan::bench(args = CASES, sample_count = 3)]
fn plain_scalar(bencher: Bencher<'_, '_>, case: Case) {
    let (spec, map) = (case.spec(), case.map());
    let (mut state, mut out) = Default::default();
    bencher.bench_local(|| scalar::run(&spec, &map, None, false, &mut state, &mut out).unwrap());
}

#[divan::bench(args = CASES, sample_count = 20)]
fn vectors_one_core(bencher: Bencher<'_, '_>, case: Case) {
    vectors(bencher, case, 1, Start::Grid);
}

#[divan::bench(args = CASES, sample_count = 20)]
fn vectors_all_cores(bencher: Bencher<'_, '_>, case: Case) {
    vectors(bencher, case, 0, Start::Grid);
}

/// A still picture: the last frame's centroids fit and the rounds end early.
#[divan::bench(args = CASES, sample_count = 20)]
fn vectors_all_cores_warm_still(bencher: Bencher<'_, '_>, case: Case) {
    vectors(bencher, case, 0, Start::Warm);
}

fn vectors(bencher: Bencher<'_, '_>, case: Case, threads: usize, start: Start) {
    let map = case.map();
    let mut kmeans = SphericalKmeans::new(case.spec(), DIM, threads).unwrap();
    let mut out = SegmentMap::default();
    kmeans.run(&map, Start::Grid, &mut out).unwrap();
    kmeans.run(&map, start, &mut out).unwrap();
    bencher.bench_local(|| kmeans.run(&map, start, &mut out).unwrap());
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn main() {
    divan::main();
    if std::env::args().any(|a| a == "--test" || a == "--list") {
        return;
    }
    println!("\ninstructions: {}, threads: {}", segcore::simd::instruction_set(), rayon::current_num_threads());
    println!("ms per round           plain scalar    1 core   all cores    ratio   GFLOP/s   rounds");
    for case in CASES {
        let (spec, map) = (case.spec(), case.map());
        let mut one = SphericalKmeans::new(spec, DIM, 1).unwrap();
        let mut all = SphericalKmeans::new(spec, DIM, 0).unwrap();
        let (mut state, mut out) = (scalar::ScalarState::default(), SegmentMap::default());
        // Minima of interleaved runs; the scalar version is slow and steady.
        let mut best = [Duration::MAX; 3];
        for round in 0..12 {
            if round % 6 == 0 {
                let time = timed(|| scalar::run(&spec, &map, None, false, &mut state, &mut out).unwrap());
                best[0] = best[0].min(time);
            }
            best[1] = best[1].min(timed(|| one.run(&map, Start::Grid, &mut out).unwrap()));
            best[2] = best[2].min(timed(|| all.run(&map, Start::Grid, &mut out).unwrap()));
        }
        let fast_rounds = all.rounds_run() as f64;
        let per_round = [spec.rounds as f64, fast_rounds, fast_rounds];
        let millis: [f64; 3] = std::array::from_fn(|i| best[i].as_secs_f64() * 1e3 / per_round[i]);
        println!(
            "{:<22} {:>12.2} {:>9.2} {:>11.2} {:>7.1}x {:>9.1} {:>8}",
            case.name,
            millis[0],
            millis[1],
            millis[2],
            millis[0] / millis[2],
            case.flop() / millis[2] / 1e6,
            fast_rounds,
        );
    }
    time_pixels();
}

/// Medians of interleaved runs; upsampling needs the memory of all features, so the smaller map alone.
fn time_pixels() {
    const STRIDE: usize = 8;
    let case = CASES[0];
    let (spec, map, content) = (case.spec(), case.map(), ImageSize::new(case.w * STRIDE, case.h * STRIDE));
    let mut cells = SphericalKmeans::new(spec, DIM, 0).unwrap();
    let mut pixels = PixelKmeans::new(spec, DIM, 0).unwrap();
    let mut upsampling = SphericalKmeans::new(spec, DIM, 0).unwrap();
    let (mut upsampled, mut out, mut plain) = (EmbeddingMap::default(), SegmentMap::default(), SegmentMap::default());
    let mut millis = [const { Vec::new() }; 3];
    for _ in 0..7 {
        millis[0].push(timed(|| cells.run(&map, Start::Grid, &mut out).unwrap()));
        millis[1].push(timed(|| pixels.run(&map, content, STRIDE, None, Start::Grid, &mut out).unwrap()));
        let (up, of) = (&mut upsampled, &mut plain);
        millis[2].push(timed(|| {
            reference_full_resolution(&map, content, STRIDE, &mut upsampling, None, Start::Grid, up, of).unwrap();
        }));
    }
    let [cells_ms, pixels_ms, upsampling_ms] = millis.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    let equal = out.labels.iter().zip(&plain.labels).filter(|(a, b)| a == b).count();
    println!(
        "\nms per frame of {}x{} pixels   cells   pixels   by upsampling   equal labels of the last two",
        content.width, content.height
    );
    println!(
        "{:<29} {cells_ms:>8.1} {pixels_ms:>8.1} {upsampling_ms:>9.1} ({:.1}x) {:>20.3} %",
        case.name,
        upsampling_ms / pixels_ms,
        100.0 * equal as f64 / plain.labels.len() as f64,
    );
}
