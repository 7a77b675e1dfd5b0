//! The bank's file, its damage, and the search against a slow, obvious version of itself.

use std::path::Path;

use proptest::prelude::*;
use retrieval::{Bank, BankBuilder, MAX_NEIGHBOURS, RetrievalError, Storage, majority_label};

const STORAGES: [Storage; 3] = [Storage::F32, Storage::F16, Storage::Int8];

/// Pseudo-random values in -1 to 1.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) + 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn builder(dimension: usize, vectors: &[f32], labels: impl Fn(usize) -> u8) -> BankBuilder {
    let mut builder = BankBuilder::new(dimension, "00ff", "camvid_11");
    for (index, vector) in vectors.chunks_exact(dimension).enumerate() {
        builder.push(vector, labels(index)).expect("valid");
    }
    builder
}

/// Indices and similarities, by sorting all of them.
fn naive(vectors: &[f32], dimension: usize, query: &[f32], k: usize) -> Vec<(usize, f64)> {
    let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let mut all: Vec<(usize, f64)> = vectors
        .chunks_exact(dimension)
        .map(|v| v.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / (norm(v) * norm(query)))
        .enumerate()
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn the_search_is_exact(
        dimension in 1usize..20, count in 1usize..200, num_queries in 1usize..20, k in 1usize..=MAX_NEIGHBOURS,
        seed in any::<u64>(), threads in 1usize..5,
    ) {
        let vectors = values(count * dimension, seed);
        let queries = values(num_queries * dimension, !seed);
        let bank = builder(dimension, &vectors, |_| 0).finish(Storage::F32).expect("valid").to_bank().expect("valid");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let mut found = Vec::new();
        pool.install(|| bank.nearest(&queries, k, &mut found)).expect("valid");
        prop_assert_eq!(found.len(), num_queries);
        for (query, list) in queries.chunks_exact(dimension).zip(&found) {
            let expected = naive(&vectors, dimension, query, k);
            prop_assert_eq!(list.len(), expected.len());
            for ((&index, &similarity), (_, best)) in list.indices().iter().zip(list.similarities()).zip(&expected) {
                // Neighbours closer together than rounding may change places.
                prop_assert!((f64::from(similarity) - best).abs() < 1e-5);
                let exact = naive(&vectors[index as usize * dimension..][..dimension], dimension, query, 1)[0].1;
                prop_assert!((exact - best).abs() < 1e-5);
            }
            let mut unique = list.indices().to_vec();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), list.len());
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit(seed in any::<u64>(), count in 1usize..300) {
        // Two directions only: nearly everything is a tie.
        let vectors: Vec<f32> = values(count, seed).iter().flat_map(|v| if *v > 0.0 { [1.0, 0.0] } else { [0.6, 0.8] }).collect();
        let bank = builder(2, &vectors, |i| (i % 5) as u8).finish(Storage::F16).expect("valid").to_bank().expect("valid");
        let queries = values(14, seed ^ 1);
        let results: Vec<_> = [1, 2, 3, 7].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let (mut nearest, mut votes) = (Vec::new(), Vec::new());
            pool.install(|| {
                bank.nearest(&queries, 20, &mut nearest)?;
                bank.vote(&queries, 20, 5, &mut votes)
            })
            .expect("valid");
            (nearest, votes)
        }).into_iter().collect();
        for result in &results {
            prop_assert_eq!(result, &results[0]);
        }
        for list in &results[0].0 {
            for pair in 1..list.len() {
                let (a, b) = (list.similarities()[pair - 1], list.similarities()[pair]);
                prop_assert!(a > b || (a == b && list.indices()[pair - 1] < list.indices()[pair]));
            }
        }
    }

    #[test]
    fn stored_values_are_close(dimension in 1usize..40, count in 1usize..40, seed in any::<u64>()) {
        let vectors = values(count * dimension, seed);
        for (storage, tolerance) in STORAGES.into_iter().zip([1e-6, 1e-3, 1e-2]) {
            let bank = builder(dimension, &vectors, |i| (i % 7) as u8).finish(storage).expect("valid").to_bank().expect("valid");
            prop_assert_eq!((bank.dim(), bank.len(), bank.storage()), (dimension, count, storage));
            let mut found = Vec::new();
            bank.nearest(&vectors, 1, &mut found).expect("valid");
            for list in found {
                prop_assert!((list.similarities()[0] - 1.0).abs() < tolerance, "{:?} {:?}", storage, list);
            }
        }
    }

    #[test]
    fn majority_is_that_of_counting(
        pixels in prop::collection::vec((0u16..6, prop_oneof![0u8..4, Just(255)]), 0..60),
    ) {
        let (segments, labels): (Vec<u16>, Vec<u8>) = pixels.iter().copied().unzip();
        let found = majority_label(&segments, &labels, 5, 255);
        for (segment, found) in found.iter().enumerate() {
            let count = |label: u8| pixels.iter().filter(|p| **p == (segment as u16, label)).count();
            let best = (0..=255u8).max_by_key(|label| (count(*label), 255 - label)).expect("labels");
            prop_assert_eq!(*found, (count(best) > 0 && best != 255).then_some(best));
        }
    }
}

#[test]
fn a_file_survives_the_round_trip() {
    let folder = tempfile::tempdir().expect("writable");
    let path = folder.path().join("bank.postcard");
    let vectors = values(33 * 9, 5);
    for storage in STORAGES {
        let mut builder = builder(9, &vectors, |i| (i % 11) as u8);
        builder.set_source(231, "CamVid train, research only");
        let encoded = builder.finish(storage).expect("valid");
        encoded.write(&path).expect("writable");
        assert_eq!(std::fs::read(&path).expect("there"), encoded.bytes());
        let bank = Bank::open(&path).expect("valid");
        assert_eq!((bank.model_hash(), bank.label_space(), bank.storage()), ("00ff", "camvid_11", storage));
        assert_eq!((bank.num_images(), bank.labels_from()), (231, "CamVid train, research only"));
        assert_eq!(bank.labels()[12], 1);
        let (mut from_file, mut from_memory) = (Vec::new(), Vec::new());
        bank.nearest(&vectors, 5, &mut from_file).expect("valid");
        encoded.to_bank().expect("valid").nearest(&vectors, 5, &mut from_memory).expect("valid");
        assert_eq!(from_file, from_memory);
    }
    // Nothing is left beside it.
    assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
}

#[test]
fn parts_are_aligned_for_memory_mapping() {
    let bytes = builder(3, &values(5 * 3, 1), |_| 7).finish(Storage::F32).expect("valid");
    let bytes = bytes.bytes();
    assert_eq!(&bytes[..8], b"HSGB\x01\0\0\0");
    let labels = bytes.len() - 5;
    assert_eq!((labels % 64, &bytes[labels..]), (0, &[7u8; 5][..]));
    let vectors = labels - 64;
    assert_eq!(vectors % 64, 0);
    let first = f32::from_le_bytes(bytes[vectors..vectors + 4].try_into().expect("4 bytes"));
    assert!(first != 0.0 && first.abs() <= 1.0);
}

#[test]
fn every_changed_byte_and_every_cut_is_found() {
    let encoded = builder(3, &values(5 * 3, 1), |_| 7).finish(Storage::Int8).expect("valid");
    let good = encoded.bytes();
    let path = Path::new("models/zoo/x/bank.postcard");
    for at in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x11;
        let message = Bank::from_bytes(&bytes, path).expect_err("changed").to_string();
        assert!(message.contains("models/zoo/x/bank.postcard"), "{message}");
        Bank::from_bytes(&good[..at], path).expect_err("cut");
    }
    let longer = [good, &[0]].concat();
    assert!(matches!(Bank::from_bytes(&longer, path), Err(RetrievalError::Length { .. })));
    assert!(matches!(Bank::from_bytes(&good[..good.len() - 1], path), Err(RetrievalError::Length { .. })));
    assert!(matches!(Bank::from_bytes(b"PNG", path), Err(RetrievalError::Magic { .. })));
    let mut newer = good.to_vec();
    newer[4] = 2;
    let message = Bank::from_bytes(&newer, path).expect_err("version 2").to_string();
    assert!(message.contains("version 2") && message.contains("version 1") && message.contains("hsg bank build"));
    let mut changed = good.to_vec();
    *changed.last_mut().expect("bytes") ^= 1;
    assert!(matches!(Bank::from_bytes(&changed, path), Err(RetrievalError::Hash { .. })));
}

#[test]
fn a_bank_of_another_model_is_refused() {
    let bank = builder(2, &[1.0, 0.0], |_| 0).finish(Storage::F32).expect("valid").to_bank().expect("valid");
    bank.check_model("00ff").expect("its own");
    let message = bank.check_model("abcd").expect_err("another").to_string();
    assert!(message.contains("00ff") && message.contains("abcd") && message.contains("hsg bank build"), "{message}");
}

#[test]
fn votes_count_neighbours() {
    // Labels 3, 3, 1, 1, 2 at growing angles from the query.
    let vectors: Vec<f32> = [0.0f32, 0.1, 0.2, 0.3, 2.0].iter().flat_map(|a| [a.cos(), a.sin()]).collect();
    let labels = [3, 3, 1, 1, 2];
    let bank = builder(2, &vectors, |i| labels[i]).finish(Storage::F32).expect("valid").to_bank().expect("valid");
    let mut votes = Vec::new();
    let mut vote = |query: [f32; 2], k: usize| {
        bank.vote(&query, k, 4, &mut votes).expect("valid");
        votes[0]
    };
    let found = vote([2.0, 0.0], 3);
    assert_eq!((found.train_id, found.confidence), (3, 2.0 / 3.0));
    assert!(found.unknown_score.abs() < 1e-6);
    // A tie of two and two: the smallest label.
    assert_eq!((vote([1.0, 0.0], 4).train_id, vote([1.0, 0.0], 4).confidence), (1, 0.5));
    // More asked for than there are.
    assert_eq!(vote([1.0, 0.0], 20).confidence, 2.0 / 5.0);
    assert!((vote([-1.0, 0.0], 1).unknown_score - (1.0 + 2.0f32.cos())).abs() < 1e-6);
    // Zero: similarity 0 to everything. Not finite: no vote.
    assert_eq!(vote([0.0, 0.0], 3).unknown_score, 1.0);
    for query in [[f32::NAN, 0.0], [f32::INFINITY, 0.0]] {
        let found = vote(query, 3);
        assert_eq!((found.confidence, found.unknown_score), (0.0, 1.0));
    }
}

#[test]
fn no_queries_no_votes() {
    let bank = builder(2, &[1.0, 0.0], |_| 0).finish(Storage::F32).expect("valid").to_bank().expect("valid");
    let mut votes = vec![];
    bank.vote(&[1.0, 0.0], 1, 1, &mut votes).expect("valid");
    bank.vote(&[], 1, 1, &mut votes).expect("valid");
    assert!(votes.is_empty());
}

#[test]
fn bad_input_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().expect("writable");
    let missing = folder.path().join("none.postcard");
    assert!(Bank::open(&missing).expect_err("missing").to_string().contains("none.postcard"));
    let mut empty = BankBuilder::new(3, "", "");
    assert!(matches!(empty.clone().finish(Storage::F32), Err(RetrievalError::Empty)));
    for vector in [&[0.0, 0.0, 0.0][..], &[f32::NAN, 0.0, 1.0], &[1.0, 0.0]] {
        empty.push(vector, 0).expect_err("refused");
    }
    assert!(empty.is_empty());
    BankBuilder::new(0, "", "").push(&[], 0).expect_err("no dimension");

    let encoded = builder(2, &[1.0, 0.0], |_| 4).finish(Storage::F32).expect("valid");
    let bank = encoded.to_bank().expect("valid");
    let mut votes = Vec::new();
    let mut message = |queries: &[f32], k: usize, classes: usize| {
        bank.vote(queries, k, classes, &mut votes).expect_err("refused").to_string()
    };
    assert!(message(&[1.0], 1, 5).contains("has 1 values: expected a multiple of the bank's dimension 2"));
    assert!(message(&[1.0, 0.0], 0, 5).contains("1 to 64"));
    assert!(message(&[1.0, 0.0], 65, 5).contains("65 neighbours"));
    assert!(message(&[1.0, 0.0], 1, 4).contains("label 4"));

    let error = encoded.write(&folder.path().join("absent/bank.postcard")).expect_err("no folder");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    // A folder in the way: the temporary file is removed again.
    std::fs::create_dir_all(folder.path().join("taken/inside")).expect("writable");
    encoded.write(&folder.path().join("taken")).expect_err("a folder");
    assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
}
