//! What a person named: the file, and how much it says beside a bank.

use std::path::Path;

use proptest::prelude::*;
use retrieval::{
    Added, Bank, BankBuilder, LIKE, MAX_USER_ENTRIES, NUM_VOTES, Overlay, RetrievalError, Search, Storage,
    USER_FORMAT_VERSION, UserBank, UserEntry, UserOrigin, Weighting, same_name,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

const WEIGHTED: Weighting = Weighting::Similarity { temperature: 0.05 };

fn path() -> &'static Path {
    Path::new("somewhere/hash.user")
}

/// The unit vector at an angle.
fn at(angle: f32) -> [f32; 2] {
    [angle.cos(), angle.sin()]
}

/// The angle whose cosine is this.
fn like(cosine: f32) -> [f32; 2] {
    at(cosine.acos())
}

fn named(entries: &[(&str, [f32; 2])]) -> UserBank {
    let mut user = UserBank::new("hash", 2);
    for (name, prototype) in entries {
        user.add(name, prototype, UserOrigin::default()).expect("fits");
    }
    user
}

/// A bank in the plane: angles and labels.
fn bank(prototypes: &[(f32, u8)]) -> Bank {
    let mut builder = BankBuilder::new(2, "hash", "space");
    for (angle, label) in prototypes {
        builder.push(&at(*angle), *label).expect("valid");
    }
    builder.finish(Storage::F32).expect("valid").to_bank().expect("valid")
}

/// Shares of three classes and the unknown score for the query at angle 0.
fn shares(bank: &Bank, weighting: Weighting) -> ([f32; 3], f32) {
    let (mut shares, mut scores) = (Vec::new(), Vec::new());
    bank.shares_by(Search::Exact, weighting, (&[2.0, 0.0], NUM_VOTES), 3, (&mut shares, &mut scores)).expect("valid");
    (shares.try_into().expect("three"), scores[0])
}

fn overlay(entries: &[(&str, [f32; 2])]) -> Option<Overlay> {
    Some(Overlay::new(&named(entries), &["zero", "one", "two"]))
}

#[test]
fn one_prototype_of_a_person_outvotes_all_that_are_further() {
    // Thirty of class 0 at cosines of about 0.8 to 0.76.
    let many: Vec<(f32, u8)> = (0..30).map(|i| (0.8f32.acos() + 0.002 * i as f32, 0)).collect();
    let mut bank = bank(&many);
    assert_eq!(shares(&bank, WEIGHTED).0, [1.0, 0.0, 0.0]);
    for weighting in [WEIGHTED, Weighting::Equal] {
        bank.lay_over(overlay(&[("two", like(0.85))]));
        let (nearer, score) = shares(&bank, weighting);
        assert_eq!(nearer, [0.0, 0.0, 1.0]);
        assert!((score - 0.15).abs() < 1e-5, "{score}");
        // Further than twenty of the bank: it says nothing.
        bank.lay_over(overlay(&[("two", like(0.75))]));
        let (further, score) = shares(&bank, weighting);
        assert_eq!(further, [1.0, 0.0, 0.0]);
        assert!((score - 0.2).abs() < 1e-5, "{score}");
        // Between: five of the bank are nearer, and the fifteen other votes are the person's.
        bank.lay_over(overlay(&[("two", at(0.8f32.acos() + 0.009))]));
        let between = shares(&bank, weighting).0;
        assert!(between[2] > 0.7 && between[2] < 0.78 && between[0] > 0.22, "{between:?}");
    }
    bank.lay_over(None);
    assert_eq!(shares(&bank, WEIGHTED).0, [1.0, 0.0, 0.0]);
}

#[test]
fn what_a_person_says_of_the_same_segment_counts() {
    let mut bank = bank(&[(0.0, 0); 25]);
    bank.lay_over(overlay(&[("one", at(0.0))]));
    assert_eq!(shares(&bank, WEIGHTED).0, [0.0, 1.0, 0.0]);
}

#[test]
fn a_prototype_says_something_about_its_like_alone() {
    let mut bank = bank(&[(3.0, 0); 25]);
    bank.lay_over(overlay(&[("one", like(LIKE - 0.01))]));
    let (few, score) = shares(&bank, WEIGHTED);
    assert_eq!(few, [1.0, 0.0, 0.0]);
    assert!(score > 1.9, "{score}");
    bank.lay_over(overlay(&[("one", like(LIKE + 0.01))]));
    assert_eq!(shares(&bank, WEIGHTED).0, [0.0, 1.0, 0.0]);
}

#[test]
fn a_persons_votes_are_shared_by_similarity() {
    let mut bank = bank(&[(3.0, 0); 25]);
    bank.lay_over(overlay(&[("one", like(0.95)), ("two", like(0.9))]));
    let (weighted, _) = shares(&bank, WEIGHTED);
    let ratio = (-1.0f32).exp();
    assert!((weighted[1] - 1.0 / (1.0 + ratio)).abs() < 1e-3 && weighted[0] == 0.0, "{weighted:?}");
    // Counted, the nearest has them all.
    assert_eq!(shares(&bank, Weighting::Equal).0, [0.0, 1.0, 0.0]);
    // A label without a place is refused before anything is asked.
    let (mut shares, mut scores) = (Vec::new(), Vec::new());
    let asked = bank.shares_by(Search::Exact, WEIGHTED, (&[1.0, 0.0], 20), 2, (&mut shares, &mut scores));
    assert!(asked.expect_err("refused").to_string().contains("label 2"));
}

#[test]
fn without_a_bank_what_is_like_nothing_has_no_name() {
    let overlay = overlay(&[("one", at(0.0))]).expect("some");
    let (mut shares, mut scores) = (Vec::new(), Vec::new());
    let queries: Vec<f32> = [1.0, LIKE, 0.3].into_iter().flat_map(like).chain([f32::NAN, 0.0, 0.0, 0.0]).collect();
    overlay.shares(WEIGHTED, &queries, 4, (&mut shares, &mut scores));
    let rows: Vec<&[f32]> = shares.chunks_exact(4).collect();
    assert!(rows[0][1] > 0.99 && rows[0][3] < 0.01, "{rows:?}");
    assert!((rows[1][3] - 0.5).abs() < 0.01, "{rows:?}");
    assert!(rows[2][3] > 0.99 && rows[2][1] < 0.01, "{rows:?}");
    assert_eq!((rows[3], scores[3]), (&[0.0, 0.0, 0.0, 1.0][..], 1.0), "no number");
    assert!(rows[4][3] > 0.99 && scores[4] == 1.0, "no direction: {rows:?} {scores:?}");
    overlay.shares(Weighting::Equal, &queries, 4, (&mut shares, &mut scores));
    assert_eq!(shares[..4], [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(shares[8..12], [0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn the_same_segment_is_one_entry() {
    let mut user = named(&[("Forklift", at(0.0)), ("truck", at(1.0))]);
    // Case does not matter, and the first spelling stays.
    let origin = UserOrigin { source: "again".to_owned(), ..UserOrigin::default() };
    assert_eq!(user.add("forklift", &[3.0, 0.0], origin.clone()).expect("fits"), Added::Known(1));
    assert_eq!(user.add("forklift", &at(0.5), origin.clone()).expect("fits"), Added::New(3));
    assert_eq!(user.entries()[2].name, "Forklift");
    // Somebody changed their mind.
    let instead = user.add("crane", &at(1.0), origin.clone()).expect("fits");
    assert_eq!(instead, Added::Instead { number: 2, name: "truck".to_owned() });
    assert_eq!(user.names(), ["Forklift", "crane"]);
    assert_eq!(user.rename("FORKLIFT", "Crane").expect("a name"), 2);
    assert_eq!(user.names(), ["crane"]);
    assert_eq!(user.rename("crane", "CRANE").expect("a name"), 3);
    assert_eq!(user.names(), ["CRANE"]);
    assert!(user.rename("crane", "").is_err());
    // Numbers are not given twice.
    assert_eq!(user.remove_entry(3).expect("there").number, 3);
    assert!(user.remove_entry(3).is_none());
    assert_eq!(user.add("x", &at(0.5), origin).expect("fits"), Added::New(4));
    assert_eq!((user.remove("Crane"), user.remove("Crane"), user.entries().len()), (2, 0, 1));
    assert!(same_name("ÄMTER", "ämter") && !same_name("a", "b"));
}

#[test]
fn what_cannot_be_named_is_refused() {
    let mut user = named(&[]);
    let mut add = |name: &str, prototype: &[f32]| {
        user.add(name, prototype, UserOrigin::default()).expect_err("refused").to_string()
    };
    let long = "x".repeat(41);
    for name in ["", " ", "a ", "a\nb", "a\u{200b}b", "a\u{202e}b", long.as_str()] {
        assert!(add(name, &at(0.0)).contains("1 to 40 characters"), "{name:?}");
    }
    assert!(add("a", &[1.0]).contains("has 1 values: expected 2"));
    for prototype in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 0.0]] {
        assert!(add("a", &prototype).contains("expected a finite unit vector"));
    }
    assert!(user.is_empty());
    for index in 0..MAX_USER_ENTRIES {
        user.add("a", &at(0.005 * index as f32), UserOrigin::default()).expect("fits");
    }
    let full = user.add("a", &at(6.0), UserOrigin::default());
    assert!(matches!(full, Err(RetrievalError::TooMany { expected: MAX_USER_ENTRIES, .. })), "{full:?}");
}

/// The reason for which bytes are refused.
fn refused(bytes: &[u8]) -> String {
    let text = UserBank::from_bytes(bytes, path()).expect_err("refused").to_string();
    assert!(text.contains("somewhere/hash.user") && text.contains("hsg bank remove --all"), "{text}");
    text
}

#[test]
fn damage_is_found_wherever_it_is() {
    let bytes = named(&[("forklift", at(0.3)), ("sky", at(2.0))]).to_bytes().expect("bytes");
    for length in 0..bytes.len() {
        refused(&bytes[..length]);
    }
    for place in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut changed = bytes.clone();
            changed[place] ^= bit;
            refused(&changed);
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    refused(&longer);
    let mut newer = bytes;
    newer[4..6].copy_from_slice(&(USER_FORMAT_VERSION + 1).to_le_bytes());
    assert!(refused(&newer).contains("expected format version 1, got 2"));
    assert!(refused(b"HSGB").contains("begin with `HSGU`"));
}

/// As the file has it, to be wrong in ways that no hash finds.
#[derive(Clone, Serialize)]
struct Content {
    model_hash: String,
    dimension: u32,
    next_number: u32,
    entries: Vec<UserEntry>,
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        let body = postcard::to_allocvec(self).expect("bytes");
        let mut bytes = b"HSGU\x01\0\0\0".to_vec();
        bytes.extend(Sha256::digest(&body));
        bytes.extend(body);
        bytes
    }
}

#[test]
fn content_is_checked_too() {
    let entry = |number: u32, name: &str, prototype: &[f32]| UserEntry {
        number,
        name: name.to_owned(),
        prototype: prototype.to_vec(),
        origin: UserOrigin::default(),
    };
    let good = Content {
        model_hash: "hash".to_owned(),
        dimension: 2,
        next_number: 3,
        entries: vec![entry(1, "a", &[1.0, 0.0]), entry(2, "b", &[0.0, 1.0])],
    };
    let read = UserBank::from_bytes(&good.bytes(), path()).expect("good");
    assert_eq!(read, named(&[("a", [1.0, 0.0]), ("b", [0.0, 1.0])]));
    for (wrong, words) in [
        (entry(2, "b", &[f32::NAN, 0.0]), "length NaN"),
        (entry(2, "b", &[3.0, 0.0]), "length 3"),
        (entry(2, "b", &[1.0]), "expected 2 values, got 1"),
        (entry(2, "\u{1b}[31m", &at(1.0)), "characters that can be seen"),
        (entry(1, "b", &at(1.0)), "numbers of their own"),
        (entry(3, "b", &at(1.0)), "numbers of their own"),
    ] {
        let mut content = good.clone();
        content.entries[1] = wrong;
        let text = refused(&content.bytes());
        assert!(text.contains(words), "{text}");
    }
    let many = (1..).take(MAX_USER_ENTRIES + 1).map(|number| entry(number, "a", &at(0.0))).collect();
    assert!(refused(&Content { entries: many, next_number: 9999, ..good }.bytes()).contains("at most 1000"));

    assert!(read.check_model("hash", 2, path()).is_ok());
    let text = read.check_model("other", 2, path()).expect_err("another").to_string();
    assert!(text.contains("for the model other, got those for hash"), "{text}");
    assert!(read.check_model("hash", 3, path()).expect_err("another").to_string().contains("3 values, got 2"));
}

/// Pseudo-random values in -1 to 1.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn what_is_written_is_read(count in 0usize..20, dimension in 2usize..40, seed in any::<u64>()) {
        let mut user = UserBank::new("some hash", dimension);
        for (index, prototype) in values(count * dimension, seed).chunks_exact(dimension).enumerate() {
            let origin = UserOrigin {
                source: format!("drive {index}.mp4"),
                frame: seed,
                point: [index as u32, u32::MAX],
                area: 7,
                before: (index % 2 == 0).then(|| "tree".to_owned()),
                utc_seconds: 1,
            };
            user.add(&format!("name {}", index % 3), prototype, origin).expect("fits");
        }
        let again = UserBank::from_bytes(&user.to_bytes().expect("bytes"), path()).expect("whole");
        prop_assert_eq!(again, user);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut with_magic = b"HSGU\x01\0\0\0".to_vec();
        with_magic.extend(Sha256::digest(&bytes));
        with_magic.extend(&bytes);
        let _ = UserBank::from_bytes(&bytes, path());
        let _ = UserBank::from_bytes(&with_magic, path());
    }

    /// Shares are shares whatever is named, however the bank is searched, and nothing named changes no bit.
    #[test]
    fn shares_add_up(
        dimension in 1usize..20, count in 1usize..300, num_named in 1usize..30, seed in any::<u64>(), weighted in any::<bool>(),
    ) {
        let mut builder = BankBuilder::new(dimension, "hash", "space");
        let mut vectors = values(count * dimension, seed);
        vectors.chunks_exact_mut(dimension).for_each(|v| v[0] = v[0].abs() + 1.0);
        for (index, vector) in vectors.chunks_exact(dimension).enumerate() {
            builder.push(vector, (index % 3) as u8).expect("valid");
        }
        let mut bank = builder.clone().finish(Storage::Int8).expect("valid").to_bank().expect("valid");
        let mut indexed = builder.finish_indexed(Storage::Int8).expect("valid").to_bank().expect("valid");
        let queries = values(8 * dimension, !seed);
        let weighting = if weighted { WEIGHTED } else { Weighting::Equal };
        let ask = |bank: &Bank, search| {
            let (mut shares, mut scores) = (Vec::new(), Vec::new());
            let answers = (&mut shares, &mut scores);
            bank.shares_by(search, weighting, (&queries, NUM_VOTES), 5, answers).expect("valid");
            (shares, scores)
        };
        let plain = ask(&bank, Search::Exact);
        bank.lay_over(Some(Overlay::new(&UserBank::new("hash", dimension), &["a"])));
        prop_assert_eq!(&ask(&bank, Search::Exact), &plain, "nothing is named");

        let mut user = UserBank::new("hash", dimension);
        for (index, prototype) in values(num_named * dimension, seed ^ 77).chunks_exact(dimension).enumerate() {
            let name = ["c", "d", "e", "no class"][index % 4];
            // One value alone may be nearly 0.
            let _ = user.add(name, prototype, UserOrigin::default());
        }
        let overlay = Overlay::new(&user, &["a", "b", "c", "d", "e"]);
        bank.lay_over(Some(overlay.clone()));
        indexed.lay_over(Some(overlay));
        let (shares, scores) = ask(&bank, Search::Exact);
        for (shares, (score, before)) in shares.chunks_exact(5).zip(scores.iter().zip(&plain.1)) {
            prop_assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{shares:?}");
            prop_assert!(shares.iter().all(|share| *share >= 0.0) && score <= before, "{shares:?} {score}");
        }
        // All lists are looked into, so the neighbours are the same.
        let all = Search::Approximate { probes: indexed.num_lists().min(64) };
        if indexed.num_lists() <= 64 {
            prop_assert_eq!(ask(&indexed, all), (shares, scores));
        }
    }
}
