//! Refinement of slot maps to source size, beside the plain version, and the hierarchy of one frame.

use divan::Bencher;
use rand::{Rng, SeedableRng};
use segcore::embedding::EmbeddingMap;
use segcore::hierarchy::Hierarchy;
use segcore::image::ImageSize;
use segcore::preprocess::{PreprocessSpec, ResizePlan};
use segcore::refine::{Refiner, refine_plain};
use segcore::spherical_kmeans::{KmeansSpec, SegmentMap, SphericalKmeans, Start};

const DIM: usize = 128;
/// Source size (= network size) and grid.
const CASES: [[usize; 4]; 2] = [[480, 360, 12, 16], [2048, 1024, 12, 24]];

struct Scene {
    refiner: Refiner,
    map: EmbeddingMap,
    segments: SegmentMap,
    centroids: Vec<f32>,
    out: Vec<u16>,
}

fn main() {
    divan::main();
}

#[divan::bench(args = CASES, sample_count = 50)]
fn all_cores(bencher: Bencher<'_, '_>, case: [usize; 4]) {
    let mut s = scene(case);
    bencher.bench_local(|| s.refiner.run(&s.map, &s.segments, &s.centroids, &mut s.out).unwrap());
}

#[divan::bench(args = CASES, sample_count = 50)]
fn one_core(bencher: Bencher<'_, '_>, case: [usize; 4]) {
    let mut s = scene(case);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    bencher.bench_local(|| pool.install(|| s.refiner.run(&s.map, &s.segments, &s.centroids, &mut s.out).unwrap()));
}

#[divan::bench(args = CASES, sample_count = 3)]
fn plain_scalar(bencher: Bencher<'_, '_>, case: [usize; 4]) {
    let mut s = scene(case);
    let mut margins = vec![0.0; s.out.len()];
    bencher
        .bench_local(|| refine_plain(&s.refiner, &s.map, &s.segments, &s.centroids, &mut s.out, &mut margins).unwrap());
}

/// 192 slots, 8 and 4 groups.
#[divan::bench]
fn hierarchy(bencher: Bencher<'_, '_>) {
    let (c1, c2) = (vec![1.0 / 8.0; 192 * 8], vec![0.25; 8 * 4]);
    let areas = [900; 192];
    let mut hierarchy = Hierarchy::new();
    bencher.bench_local(|| hierarchy.from_transitions(&areas, &[&c1, &c2], &[192, 8, 4]).unwrap());
}

fn scene([width, height, grid_rows, grid_columns]: [usize; 4]) -> Scene {
    let size = ImageSize::new(width, height);
    let spec = PreprocessSpec { input: size, mean: [0.5; 3], std: [0.5; 3], multiple: 8 };
    let refiner = Refiner::new(&ResizePlan::new(&spec, size).unwrap(), 8);
    let (h, w) = (height / 8, width / 8);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut map = EmbeddingMap::zeros(h, w, DIM);
    for (i, row) in map.data.chunks_exact_mut(DIM).enumerate() {
        let (y, x) = ((i / w) as f32 / h as f32, (i % w) as f32 / w as f32);
        for (c, value) in row.iter_mut().enumerate() {
            *value = (9.0 * y + (c % 7) as f32 * x + c as f32).sin() + 0.3 * rng.random::<f32>();
        }
    }
    map.normalize_in_place();
    let mut kmeans = SphericalKmeans::new(KmeansSpec { grid_rows, grid_columns, rounds: 15 }, DIM, 0).unwrap();
    let mut segments = SegmentMap::default();
    kmeans.run(&map, Start::Grid, &mut segments).unwrap();
    Scene { refiner, map, segments, centroids: kmeans.centroids().to_vec(), out: vec![0; size.num_pixels()] }
}
