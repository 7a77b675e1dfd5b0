//! The CUDA kernels, compiled for the host, against the Rust code that they must equal. What a GPU adds (its scheduler, its
//! memory, the driver's compiler) is checked on one by the program `gpu-kernels`, with the same comparisons.

use proptest::prelude::*;
use retrieval::{BankBuilder, Storage};
use runtime::backend::cuda::checks::{self, Numbers, Outcome, Scene};
use runtime::backend::cuda::{Memory, TopK};
use segcore::image::ImageSize;
use segcore::spherical_kmeans::KmeansSpec;
use tests::kernel_twin::Twin;

fn expect_all(outcomes: &[Outcome]) {
    assert!(!outcomes.is_empty());
    for outcome in outcomes {
        println!("{:<70} {:.2e}  {}", outcome.name, outcome.largest_difference, outcome.detail);
    }
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn preprocessing_has_the_same_bits() {
    let twin = Twin::new(1);
    let mut numbers = Numbers(1);
    // Shrunk by less than two, as it is, enlarged, shrunk by more (the triangle filter), odd sizes, one pixel.
    for (input, source) in [
        ((64, 32), (120, 60)),
        ((48, 36), (48, 36)),
        ((64, 48), (31, 23)),
        ((40, 40), (181, 97)),
        ((16, 16), (33, 7)),
        ((16, 8), (1, 1)),
    ] {
        let (input, source) = (ImageSize::new(input.0, input.1), ImageSize::new(source.0, source.1));
        expect_all(&checks::preprocess(&twin, input, source, &mut numbers).unwrap());
    }
}

fn scene(source: (usize, usize), input: (usize, usize), dim: usize, grid: (usize, usize), rounds: usize) -> Scene {
    Scene {
        source: ImageSize::new(source.0, source.1),
        input: ImageSize::new(input.0, input.1),
        dim,
        spec: KmeansSpec { grid_rows: grid.0, grid_columns: grid.1, rounds },
        masked: false,
    }
}

#[test]
fn clustering_and_refinement() {
    let twin = Twin::new(1);
    let mut numbers = Numbers(2);
    let mut masked = scene((150, 100), (144, 96), 16, (4, 5), 15);
    masked.masked = true;
    for scene in [
        // As deployed on CamVid, smaller; more than one tile of clusters; over 128 dimensions; one round; more cells than
        // are listed at a time; fewer than a tile.
        scene((240, 180), (192, 144), 128, (6, 8), 15),
        scene((160, 120), (128, 96), 32, (9, 11), 4),
        scene((96, 64), (96, 64), 256, (3, 4), 3),
        scene((64, 64), (64, 64), 20, (3, 3), 1),
        scene((400, 320), (512, 400), 8, (4, 4), 2),
        scene((40, 16), (40, 16), 12, (2, 2), 5),
        masked,
    ] {
        expect_all(&checks::cluster(&twin, &scene, &mut numbers).unwrap());
    }
}

#[test]
fn nearest_prototypes_are_the_banks() {
    let mut numbers = Numbers(3);
    for (num_prototypes, dim, storage, num_queries, k) in [
        (3000, 128, Storage::F32, 70, 20),
        (2000, 32, Storage::F16, 9, 20),
        (1500, 64, Storage::Int8, 65, 5),
        (7, 16, Storage::F32, 8, 20),
        (64, 16, Storage::F16, 3, 1),
        (65, 48, Storage::F32, 10, 24),
    ] {
        let (bank, queries) =
            checks::bank_and_queries(num_prototypes, dim, storage, num_queries, &mut numbers).unwrap();
        // The bank in few parts and in many.
        for num_multiprocessors in [1, 9] {
            let twin = Twin::new(num_multiprocessors);
            expect_all(&[checks::top_k(&twin, &bank, &queries, k).unwrap()]);
        }
    }
}

#[test]
fn more_ties_than_are_kept_are_left_to_the_cpu() {
    let twin = Twin::new(1);
    let mut numbers = Numbers(5);
    let mut builder = BankBuilder::new(16, &"0".repeat(64), "cityscapes-19");
    let often: Vec<f32> = (0..16).map(|_| numbers.normal()).collect();
    for i in 0..160 {
        let other: Vec<f32> = (0..16).map(|_| numbers.normal()).collect();
        builder.push(if i % 3 == 0 { &often } else { &other }, 0).unwrap();
    }
    let bank = builder.finish(Storage::F32).and_then(|file| file.to_bank()).unwrap();
    let queries: Vec<f32> = often.iter().copied().chain((0..16).map(|_| numbers.normal())).collect();
    let mut search = TopK::new(&twin, &bank, 2, 20).unwrap();
    search.run(&twin, &Memory::of(&twin, &queries).unwrap(), 2).unwrap();
    let found = search.read(&twin, 2).unwrap();
    assert_eq!(found.doubtful, [true, false]);
    let mut expected = Vec::new();
    bank.nearest(&queries, 20, &mut expected).unwrap();
    assert_eq!(found.indices[20..], *expected[1].indices());
}

/// The sizes of Cityscapes, and more of a bank.
#[test]
#[ignore = "takes minutes: cargo test --release -p tests --test kernels -- --ignored"]
fn real_sizes() {
    let twin = Twin::new(132);
    let mut numbers = Numbers(4);
    expect_all(&checks::cluster(&twin, &scene((2048, 1024), (1024, 512), 128, (20, 20), 2), &mut numbers).unwrap());
    expect_all(&checks::cluster(&twin, &scene((480, 360), (480, 360), 128, (12, 16), 4), &mut numbers).unwrap());
    let input = ImageSize::new(1024, 576);
    expect_all(&checks::preprocess(&twin, input, ImageSize::new(1920, 1080), &mut numbers).unwrap());
    let (bank, queries) = checks::bank_and_queries(20_000, 128, Storage::F16, 288, &mut numbers).unwrap();
    expect_all(&[checks::top_k(&twin, &bank, &queries, 20).unwrap()]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_geometry(
        source in (8usize..90, 8usize..70),
        input in (16usize..100, 16usize..90),
        dim in 1usize..12,
        grid in (1usize..5, 2usize..6),
        rounds in 1usize..5,
        seed: u64,
    ) {
        let twin = Twin::new(1);
        let mut numbers = Numbers(seed);
        let scene = scene(source, input, dim * 4, grid, rounds);
        let outcomes = checks::preprocess(&twin, scene.input, scene.source, &mut numbers).unwrap();
        prop_assert!(outcomes.iter().all(|outcome| outcome.passed), "{outcomes:#?}");
    }
}
