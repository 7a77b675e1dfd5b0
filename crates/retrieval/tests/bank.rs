//! The bank's file, its damage, and the search against a slow, obvious version of itself.

use std::path::Path;

use proptest::prelude::*;
use retrieval::{
    Bank, BankBuilder, DEFAULT_PROBES, MAPPED_FROM_BYTES, MAX_NEIGHBOURS, RetrievalError, Search, Storage, Weighting,
    majority_label,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

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
        dimension in 1usize..20, count in 1usize..700, num_queries in 1usize..30, k in 1usize..=MAX_NEIGHBOURS,
        seed in any::<u64>(), threads in 1usize..5, storage in 0usize..3, indexed in any::<bool>(), coarse in any::<bool>(),
    ) {
        let round = |v: f32| if coarse { (v * 2.0).round() } else { v };
        let mut vectors: Vec<f32> = values(count * dimension, seed).into_iter().map(round).collect();
        // None is zero, and with few different values many are equal or nearly so.
        vectors.chunks_exact_mut(dimension).for_each(|v| v[0] = v[0].abs() + 1.0);
        let queries = values(num_queries * dimension, !seed);
        let builder = builder(dimension, &vectors, |_| 0);
        let storage = STORAGES[storage];
        let encoded = if indexed { builder.finish_indexed(storage) } else { builder.finish(storage) };
        let bank = encoded.expect("valid").to_bank().expect("valid");
        // What the bank holds is the truth: the same in 64 bits.
        let stored: Vec<f32> = (0..count).flat_map(|index| bank.prototype(index).expect("there")).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let mut found = Vec::new();
        pool.install(|| bank.nearest(&queries, k, &mut found)).expect("valid");
        prop_assert_eq!(found.len(), num_queries);
        for (query, list) in queries.chunks_exact(dimension).zip(&found) {
            let expected = naive(&stored, dimension, query, k);
            prop_assert_eq!(list.len(), expected.len());
            for ((&index, &similarity), (_, best)) in list.indices().iter().zip(list.similarities()).zip(&expected) {
                // `prototype` rounds to 32 bits, which may move neighbours past each other by as much.
                prop_assert!((f64::from(similarity) - best).abs() < 3e-7, "{} {}", similarity, best);
                let exact = naive(&stored[index as usize * dimension..][..dimension], dimension, query, 1)[0].1;
                prop_assert!((exact - best).abs() < 3e-7);
            }
            let mut unique = list.indices().to_vec();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), list.len());
        }
    }

    #[test]
    fn eight_bits_are_searched_as_in_sixty_four(
        dimension in 1usize..140, count in 1usize..900, k in 1usize..=MAX_NEIGHBOURS, seed in any::<u64>(), indexed in any::<bool>(),
    ) {
        // Whole numbers with a largest magnitude of 127 are stored as they are, so nothing is rounded anywhere.
        let mut vectors: Vec<f32> = values(count * dimension, seed).iter().map(|v| (v * 40.0).round()).collect();
        vectors.chunks_exact_mut(dimension).for_each(|v| v[0] = 127.0);
        let queries = values(5 * dimension, !seed);
        let builder = builder(dimension, &vectors, |_| 0);
        let encoded = if indexed { builder.finish_indexed(Storage::Int8) } else { builder.finish(Storage::Int8) };
        let bank = encoded.expect("valid").to_bank().expect("valid");
        let mut found = Vec::new();
        bank.nearest(&queries, k, &mut found).expect("valid");
        for (query, list) in queries.chunks_exact(dimension).zip(&found) {
            let expected = naive(&vectors, dimension, query, k);
            let indices: Vec<usize> = list.indices().iter().map(|index| *index as usize).collect();
            // In 64 bits two orders of summing may differ in the last place, so equal prototypes decide by index and
            // different ones by more than that.
            let apart = expected.windows(2).all(|pair| pair[0].1 - pair[1].1 > 1e-12 || pair[0].1 == pair[1].1);
            if apart {
                prop_assert_eq!(indices, expected.iter().map(|(index, _)| *index).collect::<Vec<_>>());
            }
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
    assert_eq!(&bytes[..8], b"HSGB\x02\0\0\0");
    let labels = bytes.len() - 5;
    assert_eq!((labels % 64, &bytes[labels..]), (0, &[7u8; 5][..]));
    // One panel: three rows of sixteen 32-bit floats.
    let panel = labels - 3 * 64;
    assert_eq!(panel % 64, 0);
    let value = |lane: usize| f32::from_le_bytes(bytes[panel + 4 * lane..][..4].try_into().expect("4 bytes"));
    assert!(value(0) != 0.0 && value(0).abs() <= 1.0 && value(4) != 0.0 && value(5) == 0.0);
}

#[test]
fn every_changed_byte_and_every_cut_is_found() {
    let path = Path::new("models/zoo/x/bank.postcard");
    let vectors = values(40 * 3, 1);
    let encoded = builder(3, &vectors[..15], |_| 7).finish(Storage::Int8).expect("valid");
    let indexed = builder(3, &vectors, |_| 7).finish_indexed(Storage::Int8).expect("valid");
    for good in [encoded.bytes(), indexed.bytes(), &version_1(3, &vectors[..15], &[7; 5], Storage::Int8)] {
        Bank::from_bytes(good, path).expect("whole");
        for at in 0..good.len() {
            let mut bytes = good.to_vec();
            bytes[at] ^= 0x11;
            let message = Bank::from_bytes(&bytes, path).expect_err("changed").to_string();
            assert!(message.contains("models/zoo/x/bank.postcard"), "{message}");
            Bank::from_bytes(&good[..at], path).expect_err("cut");
        }
    }
    let good = encoded.bytes();
    let longer = [good, &[0]].concat();
    assert!(matches!(Bank::from_bytes(&longer, path), Err(RetrievalError::Length { .. })));
    assert!(matches!(Bank::from_bytes(&good[..good.len() - 1], path), Err(RetrievalError::Length { .. })));
    assert!(matches!(Bank::from_bytes(b"PNG", path), Err(RetrievalError::Magic { .. })));
    let mut newer = good.to_vec();
    newer[4] = 3;
    let message = Bank::from_bytes(&newer, path).expect_err("version 3").to_string();
    assert!(message.contains("version 3") && message.contains("version 2") && message.contains("hsg bank build"));
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

    // The whole command, as far as the bank knows it.
    let mut known = builder(2, &[1.0, 0.0], |_| 0);
    known.set_source(367, "annotations of camvid train");
    let bytes = known.finish(Storage::F32).expect("valid");
    let bank = Bank::from_bytes(bytes.bytes(), Path::new("runs/model/bank.postcard")).expect("valid");
    let message = bank.check_model("abcd").expect_err("another").to_string();
    let command = "`hsg bank build --dataset camvid --root FOLDER --split train --model runs/model`";
    assert!(message.contains(command), "{message}");
}

/// The header of version 1.
#[derive(Serialize)]
struct HeaderV1<'a> {
    sha256: [u8; 32],
    model_hash: &'a str,
    label_space: &'a str,
    dimension: u32,
    count: u32,
    storage: Storage,
    num_images: u32,
    labels_from: &'a str,
}

/// A file as version 1 was written: `[count, dimension]`, then scales, then labels.
fn version_1(dimension: usize, vectors: &[f32], labels: &[u8], storage: Storage) -> Vec<u8> {
    let header = HeaderV1 {
        sha256: [0; 32],
        model_hash: "00ff",
        label_space: "camvid_11",
        dimension: dimension as u32,
        count: labels.len() as u32,
        storage,
        num_images: 3,
        labels_from: "three images",
    };
    let header = postcard::to_allocvec(&header).expect("memory");
    let mut bytes = b"HSGB\x01\0\0\0".to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(&header);
    let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(64), 0);
    pad(&mut bytes);
    let mut scales = Vec::new();
    for vector in vectors.chunks_exact(dimension) {
        let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let unit: Vec<f32> = vector.iter().map(|v| (f64::from(*v) / norm) as f32).collect();
        let scale = unit.iter().fold(0.0f32, |largest, v| largest.max(v.abs())) / 127.0;
        for value in unit {
            match storage {
                Storage::F32 => bytes.extend(value.to_le_bytes()),
                Storage::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                Storage::Int8 => bytes.push((value / scale).round() as i8 as u8),
            }
        }
        scales.extend(scale.to_le_bytes());
    }
    pad(&mut bytes);
    if storage == Storage::Int8 {
        bytes.extend(scales);
        pad(&mut bytes);
    }
    bytes.extend(labels);
    let hash = Sha256::digest(&bytes);
    bytes[12..44].copy_from_slice(&hash);
    bytes
}

#[test]
fn version_1_is_still_read_and_finds_the_same() {
    let (vectors, queries) = (values(75 * 13, 3), values(20 * 13, 4));
    let labels: Vec<u8> = (0..75).map(|i| (i % 11) as u8).collect();
    for storage in STORAGES {
        let old = Bank::from_bytes(&version_1(13, &vectors, &labels, storage), Path::new("old")).expect("valid");
        let new = builder(13, &vectors, |i| (i % 11) as u8).finish(storage).expect("valid").to_bank().expect("valid");
        assert_eq!((old.len(), old.dim(), old.storage(), old.num_images()), (75, 13, storage, 3));
        assert_eq!((old.labels(), old.labels_from(), old.num_lists()), (&labels[..], "three images", 0));
        let (mut from_old, mut from_new) = (Vec::new(), Vec::new());
        old.nearest(&queries, 20, &mut from_old).expect("valid");
        new.nearest(&queries, 20, &mut from_new).expect("valid");
        assert_eq!(from_old, from_new, "{storage:?}");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    let resealed = |mut bytes: Vec<u8>| {
        bytes[12..44].fill(0);
        let hash = Sha256::digest(&bytes);
        bytes[12..44].copy_from_slice(&hash);
        Bank::from_bytes(&bytes, Path::new("bank")).expect_err("refused").to_string()
    };
    // Panels are what lies before the 5 labels at the end, which begin at a multiple of 64.
    for (storage, bytes_of_none) in [(Storage::F32, &f32::NAN.to_le_bytes()[..]), (Storage::F16, &[0, 0x7c])] {
        let mut bytes = builder(4, &values(20, 1), |_| 0).finish(storage).expect("valid").bytes().to_vec();
        let panel = bytes.len() - 5 - 16 * 4 * bytes_of_none.len();
        bytes[panel + 2 * bytes_of_none.len()..][..bytes_of_none.len()].copy_from_slice(bytes_of_none);
        let message = resealed(bytes);
        assert!(message.contains("prototype 2 has norm NaN"), "{message}");
    }
    let mut zero = builder(4, &values(20, 1), |_| 0).finish(Storage::Int8).expect("valid").bytes().to_vec();
    let panel = zero.len() - 5 - 64;
    (0..4).for_each(|k| zero[panel + 16 * k + 3] = 0);
    let message = resealed(zero);
    assert!(message.contains("prototype 3 has norm 0"), "{message}");
    let mut scale = version_1(4, &values(20, 1), &[0; 5], Storage::Int8);
    let place = scale.len() - 5 - 64 + 4;
    scale[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let message = resealed(scale);
    assert!(message.contains("scale of prototype 1"), "{message}");
}

/// Vectors in clumps, and queries beside some of them.
fn clumps(count: usize, num_queries: usize, dimension: usize) -> (Vec<f32>, Vec<f32>) {
    let (middles, noise) = (values(40 * dimension, 5), values((count + num_queries) * dimension, 6));
    let all: Vec<f32> = noise
        .chunks_exact(dimension)
        .enumerate()
        .flat_map(|(i, noise)| {
            let middle = &middles[(i * 7 % 40) * dimension..][..dimension];
            middle.iter().zip(noise).map(|(a, b)| a + 0.4 * b).collect::<Vec<_>>()
        })
        .collect();
    let (vectors, queries) = all.split_at(count * dimension);
    (vectors.to_vec(), queries.to_vec())
}

#[test]
fn an_approximate_search_agrees_with_the_exact_one() {
    let (vectors, queries) = clumps(12_000, 300, 32);
    let label = |i: usize| (i * 7 % 40 % 11) as u8;
    let bank = builder(32, &vectors, label).finish_indexed(Storage::Int8).expect("valid").to_bank().expect("valid");
    assert!(bank.num_lists() > 300, "{}", bank.num_lists());
    let (mut exact, mut approximate) = (Vec::new(), Vec::new());
    bank.vote(&queries, 20, 11, &mut exact).expect("valid");
    let search = Search::Approximate { probes: DEFAULT_PROBES };
    bank.vote_by(search, &queries, 20, 11, &mut approximate).expect("valid");
    let same = exact.iter().zip(&approximate).filter(|(a, b)| a.train_id == b.train_id).count();
    assert!(same * 100 >= 99 * exact.len(), "{same} of {}", exact.len());
    // Whatever the threads, and however few the queries.
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let mut again = Vec::new();
        pool.install(|| bank.vote_by(search, &queries, 20, 11, &mut again)).expect("valid");
        assert_eq!(again, approximate);
        pool.install(|| bank.vote_by(search, &queries[..32], 20, 11, &mut again)).expect("valid");
        assert_eq!(again, approximate[..1]);
    }
    // Similarities are exact, and no prototype comes twice.
    let mut lists = Vec::new();
    bank.nearest_by(search, &queries, 20, &mut lists).expect("valid");
    for (query, list) in queries.chunks_exact(32).zip(&lists) {
        for (&index, &similarity) in list.indices().iter().zip(list.similarities()) {
            let stored = bank.prototype(index as usize).expect("there");
            assert!((naive(&stored, 32, query, 1)[0].1 - f64::from(similarity)).abs() < 3e-7);
        }
        assert!(list.similarities().is_sorted_by(|a, b| a >= b));
        let unique: std::collections::BTreeSet<u32> = list.indices().iter().copied().collect();
        assert_eq!(unique.len(), 20);
    }
    // Queries without direction, and such that are not numbers.
    let odd = [vec![0.0; 32], vec![f32::NAN; 32]].concat();
    bank.nearest_by(search, &odd, 3, &mut lists).expect("valid");
    assert_eq!((lists[0].indices(), lists[1].len()), (&[0, 1, 2][..], 0));
}

#[test]
fn all_lists_are_all_prototypes() {
    let (vectors, queries) = clumps(200, 30, 8);
    let bank = builder(8, &vectors, |_| 0).finish_indexed(Storage::F16).expect("valid").to_bank().expect("valid");
    assert!(bank.num_lists() <= MAX_NEIGHBOURS);
    let (mut exact, mut approximate) = (Vec::new(), Vec::new());
    bank.nearest(&queries, 20, &mut exact).expect("valid");
    bank.nearest_by(Search::Approximate { probes: 64 }, &queries, 20, &mut approximate).expect("valid");
    assert_eq!(exact, approximate);

    let error = bank.nearest_by(Search::Approximate { probes: 65 }, &queries, 20, &mut exact).expect_err("too many");
    assert!(error.to_string().contains("1 to 64"), "{error}");
    let plain = builder(8, &vectors, |_| 0).finish(Storage::F16).expect("valid").to_bank().expect("valid");
    let error = plain.nearest_by(Search::Approximate { probes: 1 }, &queries, 20, &mut exact).expect_err("no index");
    assert!(error.to_string().contains("has no index"), "{error}");
}

#[test]
fn equal_prototypes_go_by_index() {
    // More equal ones than there is room for candidates, with and without lists.
    let vectors: Vec<f32> = (0..3000).flat_map(|i| if i % 3 == 0 { [0.6, 0.8] } else { [0.8, 0.6] }).collect();
    for indexed in [false, true] {
        let builder = builder(2, &vectors, |_| 0);
        let encoded = if indexed { builder.finish_indexed(Storage::Int8) } else { builder.finish(Storage::Int8) };
        let mut found = Vec::new();
        encoded.expect("valid").to_bank().expect("valid").nearest(&[3.0, 4.0], 20, &mut found).expect("valid");
        let expected: Vec<u32> = (0..20).map(|i| 3 * i).collect();
        assert_eq!(found[0].indices(), expected);
    }
}

/// What is shipped is far below the limit.
#[test]
fn whatever_happens_to_the_file_of_a_bank_that_was_read_does_not_matter() {
    let folder = tempfile::tempdir().expect("writable");
    let path = folder.path().join("bank.postcard");
    let vectors = values(500 * 24, 9);
    for storage in [Storage::Int8, Storage::F16, Storage::F32] {
        let encoded = builder(24, &vectors, |i| i as u8 % 5).finish(storage).expect("valid");
        encoded.write(&path).expect("writable");
        let size = std::fs::metadata(&path).expect("written").len();
        assert!(size < MAPPED_FROM_BYTES / 1000);
        let bank = Bank::open(&path).expect("valid");
        assert!(!bank.is_mapped() && Bank::open_mapped_from(&path, size).expect("valid").is_mapped());
        let queries = values(7 * 24, 8);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        bank.nearest(&queries, 20, &mut before).expect("valid");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("writable");
        for len in [size / 2, 0] {
            file.set_len(len).expect("writable");
            bank.nearest(&queries, 20, &mut after).expect("in memory");
            assert_eq!(before, after);
        }
        std::fs::remove_file(&path).expect("there");
        bank.nearest(&queries, 20, &mut after).expect("in memory");
        assert_eq!(before, after);
    }
}

#[test]
fn large_banks_are_mapped_and_watched() {
    let folder = tempfile::tempdir().expect("writable");
    let path = folder.path().join("bank.postcard");
    // A smaller limit: the real one would take seconds and a gigabyte.
    const LIMIT: u64 = 16 << 20;
    let dimension = 1024;
    let vectors = values(LIMIT as usize / 4, 9);
    let encoded = builder(dimension, &vectors, |_| 1).finish(Storage::F32).expect("valid");
    encoded.write(&path).expect("writable");
    let open = || Bank::open_mapped_from(&path, LIMIT);
    let bank = open().expect("valid");
    assert!(bank.is_mapped() && !Bank::open(&path).expect("valid").is_mapped());
    let queries = values(3 * dimension, 8);
    let (mut from_file, mut from_memory) = (Vec::new(), Vec::new());
    bank.nearest(&queries, 20, &mut from_file).expect("valid");
    encoded.to_bank().expect("valid").nearest(&queries, 20, &mut from_memory).expect("valid");
    assert_eq!(from_file, from_memory);

    // Another file of that name: the mapping keeps the old one.
    encoded.write(&path).expect("writable");
    bank.nearest(&queries, 20, &mut from_file).expect("still there");
    assert_eq!(from_file, from_memory);

    // Touched, but not changed.
    let bank = open().expect("valid");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("writable");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    file.set_modified(later).expect("settable");
    bank.nearest(&queries, 20, &mut from_file).expect("the same content");

    // Written to in place.
    use std::os::unix::fs::FileExt;
    file.write_all_at(&[1, 2, 3, 4], 1 << 20).expect("writable");
    file.set_modified(later + std::time::Duration::from_secs(5)).expect("settable");
    let message = bank.nearest(&queries, 20, &mut from_file).expect_err("changed").to_string();
    assert!(message.contains("changed while in use") && message.contains("bank.postcard"), "{message}");

    // Cut in place: no signal, but an error with both lengths.
    file.set_len(1 << 20).expect("writable");
    let message = bank.nearest(&queries, 20, &mut from_file).expect_err("cut").to_string();
    assert!(message.contains("1048576 now") && message.contains("renaming"), "{message}");
    assert!(matches!(Bank::open(&path), Err(RetrievalError::Length { .. })));
}

#[test]
fn a_shipped_bank_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/zoo/camvid-r18/bank.postcard");
    let bank = Bank::open(&path).expect("valid");
    assert_eq!((bank.dim(), bank.storage(), bank.label_space()), (128, Storage::Int8, "camvid_11"));
    // A prototype's nearest neighbour is itself, or one that is equal.
    let query = bank.prototype(1234).expect("there");
    let mut found = Vec::new();
    bank.nearest(&query, 1, &mut found).expect("valid");
    assert!((found[0].similarities()[0] - 1.0).abs() < 1e-6);
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
fn shares_weigh_neighbours() {
    // Labels 3, 3, 1, 1, 2 at growing angles from the query.
    let angles = [0.0f32, 0.1, 0.2, 0.3, 2.0];
    let vectors: Vec<f32> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
    let labels = [3, 3, 1, 1, 2];
    let bank = builder(2, &vectors, |i| labels[i]).finish(Storage::F32).expect("valid").to_bank().expect("valid");
    let (mut shares, mut scores) = (Vec::new(), Vec::new());
    let mut ask = |weighting, query: &[f32], classes| {
        bank.shares_by(Search::Exact, weighting, (query, 4), classes, (&mut shares, &mut scores))?;
        Ok::<_, RetrievalError>((shares.clone(), scores.clone()))
    };
    let (equal, scores) = ask(Weighting::Equal, &[1.0, 0.0, f32::NAN, 0.0], 4).expect("valid");
    assert_eq!(equal, [0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0], "the second query is none");
    assert!(scores[0].abs() < 1e-6 && scores[1] == 1.0, "{scores:?}");
    let temperature = 0.05;
    let (weighed, _) = ask(Weighting::Similarity { temperature }, &[2.0, 0.0], 4).expect("valid");
    let weight = |angle: f32| ((angle.cos() - 1.0) / temperature).exp();
    let [near, far] = [weight(0.0) + weight(0.1), weight(0.2) + weight(0.3)];
    assert!((weighed[3] - near / (near + far)).abs() < 1e-5 && (weighed[1] - far / (near + far)).abs() < 1e-5);
    assert_eq!((weighed[0], weighed[2]), (0.0, 0.0));
    let error = ask(Weighting::Equal, &[1.0, 0.0], 3).expect_err("refused").to_string();
    assert!(error.contains('3'), "{error}");
    // Neighbours that somebody else found; one that is not in the bank has no vote.
    let mut of_two = [9.0; 4];
    let score = bank.shares_of(&[], &[0, 2, 77], &[0.9, 0.8, 0.7], Weighting::Equal, &mut of_two);
    assert_eq!(of_two, [0.0, 0.5, 0.0, 0.5]);
    assert!((score - 0.1).abs() < 1e-6);
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
