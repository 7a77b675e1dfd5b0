//! STQ: hand-made cases, the definition pixel by pixel, and what shards add up to.

mod common;

use std::collections::BTreeMap;

use common::{assert_near, stored};
use evaluation::{EvaluationError, PanopticLabels, Stq};
use proptest::prelude::*;

const VOID: u8 = 255;
/// Of four classes.
const IS_THING: [bool; 4] = [false, true, false, true];

/// Class and instance of each pixel.
type Map = Vec<(u8, u16)>;
/// Truth and prediction of one frame.
type Frame = (Map, Map);

fn add(stq: &mut Stq, sequence: &str, (truth, prediction): &Frame) -> Result<(), EvaluationError> {
    let split = |map: &Map| -> (Vec<u8>, Vec<u16>) { map.iter().copied().unzip() };
    let (truth, prediction) = (split(truth), split(prediction));
    let labels = |(train_ids, instance_ids)| PanopticLabels { train_ids, instance_ids };
    stq.update(sequence, labels((&truth.0, &truth.1)), labels((&prediction.0, &prediction.1)))
}

fn measured<'a>(sequences: impl IntoIterator<Item = &'a (String, Vec<Frame>)>) -> Stq {
    let mut stq = Stq::new(&IS_THING).unwrap();
    for (name, frames) in sequences {
        frames.iter().for_each(|frame| add(&mut stq, name, frame).unwrap());
    }
    stq
}

#[test]
fn a_case_worked_out_by_hand() {
    // A car (class 1, id 1) of 4 pixels over two frames, called 1, 1, 1, 2; a crowd, which may be called anything; a thing
    // that is predicted on void and belongs to its tube; a pixel of class 0 that is predicted as void.
    let frames = vec![
        (vec![(1, 1), (1, 1), (1, 0), (0, 0)], vec![(1, 1), (1, 1), (1, 9), (0, 0)]),
        (vec![(1, 1), (1, 1), (VOID, 0), (0, 0)], vec![(1, 1), (1, 2), (1, 2), (VOID, 0)]),
    ];
    let result = measured(&[("a".to_owned(), frames)]).result().unwrap();
    // Tubes: 3 and 1 of 4 pixels in common, sizes 3 and 2.
    let aq = (3.0 * (3.0 / 4.0) + 1.0 * (1.0 / 5.0)) / 4.0;
    // Class 1: 5 of 5; class 0: 1 of 2; void: 0 of 1.
    let sq = (1.0 + 0.5 + 0.0) / 3.0;
    assert_near("AQ", Some(result.total.aq), Some(aq), 1e-15);
    assert_near("SQ", Some(result.total.sq), Some(sq), 1e-15);
    assert_near("STQ", Some(result.total.stq), Some((aq * sq).sqrt()), 1e-15);
    assert_eq!((result.per_sequence.len(), result.per_sequence[0].frames), (1, 2));
    assert_eq!(result.per_sequence[0].figures, Some(result.total));
}

#[test]
fn sequences_have_tubes_of_their_own() {
    let frame = |id| (vec![(1, 1); 2], vec![(1, id); 2]);
    let of = |a: &str, b: &str| {
        let sequences = [(a.to_owned(), vec![frame(5)]), (b.to_owned(), vec![frame(6)])];
        measured(&sequences).result().unwrap().total.aq
    };
    assert_eq!((of("a", "b"), of("a", "a")), (1.0, 0.5));
}

#[test]
fn nothing_is_no_number_and_no_tube_is_0() {
    assert_eq!(Stq::new(&IS_THING).unwrap().result(), None);
    let blank = [("a".to_owned(), vec![(vec![(VOID, 0)], vec![(1, 1)])])];
    assert_eq!(measured(&blank).result(), None);
    let stuff = [("a".to_owned(), vec![(vec![(0, 0)], vec![(0, 0)])])];
    let total = measured(&stuff).result().unwrap().total;
    assert_eq!((total.stq, total.aq, total.sq), (0.0, 0.0, 1.0));
}

#[test]
fn bad_input_is_refused_and_leaves_no_trace() {
    let mut stq = Stq::new(&IS_THING).unwrap();
    let message = add(&mut stq, "a", &(vec![(0, 0), (4, 0)], vec![(0, 0); 2])).unwrap_err().to_string();
    assert!(message.contains("pixel 1 of the ground truth has label 4"), "{message}");
    let message = add(&mut stq, "a", &(vec![(0, 0); 2], vec![(7, 0); 2])).unwrap_err().to_string();
    assert!(message.contains("pixel 0 of the prediction has label 7"), "{message}");
    assert_eq!(
        add(&mut stq, "a", &(vec![(0, 0); 2], vec![(0, 0)])),
        Err(EvaluationError::Length { expected: 2, got: 1 })
    );
    assert_eq!(stq, Stq::new(&IS_THING).unwrap());
    assert!(stq.merge(&Stq::new(&[true; 4]).unwrap()).is_err());
    assert!(Stq::new(&[]).is_err() && Stq::new(&[true; 256]).is_err());
    for damaged in [
        r#"{"is_thing":[],"sequences":{}}"#,
        r#"{"is_thing":[true],"sequences":{"a":{"frames":1,"confusion":[1],"tubes":[]}}}"#,
        r#"{"is_thing":[true],"sequences":{"a":{"frames":1,"confusion":[1,2],"tubes":[[null,null,1]]}}}"#,
        r#"{"is_thing":[true],"sequences":{"a":{"frames":1,"confusion":[1,2],"tubes":[[1,null,1],[1,null,1]]}}}"#,
        r#"{"is_thing":[false],"sequences":{"a":{"frames":1,"confusion":[1,2],"tubes":[[1,null,1]]}}}"#,
    ] {
        assert!(serde_json::from_str::<Stq>(damaged).is_err(), "{damaged}");
    }
}

fn sequences() -> impl Strategy<Value = Vec<(String, Vec<Frame>)>> {
    // Stretches, as label maps have them, so that blocks of equal pixels occur.
    let class = || prop_oneof![5 => 0u8..4, 1 => Just(VOID)];
    let map = || {
        prop::collection::vec((class(), 0u16..3, 1usize..40), 1..8).prop_map(|stretches| {
            let pixel = |(class, instance, length)| std::iter::repeat_n((class, instance), length);
            let mut pixels: Map = stretches.into_iter().flat_map(pixel).collect();
            pixels.resize(60, (0, 0));
            pixels
        })
    };
    let frames = prop::collection::vec((map(), map()), 1..4);
    prop::collection::vec(frames, 1..5)
        .prop_map(|all| all.into_iter().enumerate().map(|(index, frames)| (format!("{index:04}"), frames)).collect())
}

/// AQ and SQ, pixel by pixel.
fn slow(sequences: &[(String, Vec<Frame>)]) -> Option<(f64, f64)> {
    let (mut truth_areas, mut areas) = (BTreeMap::new(), BTreeMap::new());
    let mut common = BTreeMap::new();
    let mut confusion = [[0u64; 5]; 5];
    let is_thing = |class: u8| class != VOID && IS_THING[usize::from(class)];
    for (name, frames) in sequences {
        for (truth, prediction) in frames {
            for (&t, &p) in truth.iter().zip(prediction) {
                if t.0 != VOID {
                    confusion[usize::from(t.0)][usize::from(p.0).min(4)] += 1;
                }
                if is_thing(t.0) && t.1 == 0 {
                    continue;
                }
                if is_thing(t.0) {
                    *truth_areas.entry((name, t)).or_insert(0.0) += 1.0;
                }
                if is_thing(p.0) {
                    *areas.entry((name, p)).or_insert(0.0) += 1.0;
                }
                if is_thing(t.0) && is_thing(p.0) {
                    *common.entry((name, t, p)).or_insert(0.0) += 1.0;
                }
            }
        }
    }
    let mut aq = 0.0;
    for (&(name, t, p), &both) in &common {
        let (truth, area): (f64, f64) = (truth_areas[&(name, t)], areas[&(name, p)]);
        aq += both * both / (truth + area - both) / truth;
    }
    let mut ious = Vec::new();
    for class in 0..5 {
        let union: u64 = (0..5).map(|other| confusion[class][other] + confusion[other][class]).sum();
        let union = union - confusion[class][class];
        if union > 0 {
            ious.push(confusion[class][class] as f64 / union as f64);
        }
    }
    let count = ious.len() as f64;
    (count > 0.0).then(|| (aq / (truth_areas.len() as f64).max(1.0), ious.iter().sum::<f64>() / count))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_its_definition(sequences in sequences()) {
        let result = measured(&sequences).result();
        let expected = slow(&sequences);
        prop_assert_eq!(result.is_some(), expected.is_some());
        if let (Some(result), Some((aq, sq))) = (result, expected) {
            prop_assert!((result.total.aq - aq).abs() < 1e-12);
            prop_assert!((result.total.sq - sq).abs() < 1e-12);
        }
    }

    #[test]
    fn merged_shards_equal_one_pass(sequences in sequences(), shard_of in prop::collection::vec(0usize..3, 5)) {
        let whole = measured(&sequences);
        let mut merged = Stq::new(&IS_THING).unwrap();
        for shard in (0..3).rev() {
            let of_shard = sequences.iter().enumerate().filter(|(index, _)| shard_of[*index] == shard).map(|(_, s)| s);
            merged.merge(&stored(&measured(of_shard))).unwrap();
        }
        prop_assert_eq!(merged.result(), whole.result());
        prop_assert_eq!(merged, whole);
    }

    #[test]
    fn perfect_is_1(sequences in sequences()) {
        // A crowd is no tube; everything else is what it is.
        let perfect: Vec<(String, Vec<Frame>)> = sequences
            .into_iter()
            .map(|(name, frames)| (name, frames.into_iter().map(|(truth, _)| (truth.clone(), truth)).collect()))
            .collect();
        let stq = measured(&perfect);
        if let Some(result) = stq.result() {
            prop_assert_eq!(result.total.sq, 1.0);
            prop_assert!(result.total.aq == 0.0 || (result.total.aq - 1.0).abs() < 1e-12);
        }
    }
}
