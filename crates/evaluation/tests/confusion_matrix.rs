//! The confusion matrix against hand-made cases and its laws.

use evaluation::{ConfusionMatrix, EvaluationError, SemanticResult};
use proptest::prelude::*;

const IGNORE: u8 = 255;

fn matrix(num_classes: usize, images: &[(Vec<u8>, Vec<u8>)]) -> ConfusionMatrix {
    let mut matrix = ConfusionMatrix::new(num_classes).expect("valid");
    for (truth, prediction) in images {
        matrix.update(truth, prediction, IGNORE).expect("valid");
    }
    matrix
}

#[test]
fn a_case_worked_out_by_hand() {
    // Class 0: 2 right, 1 called 1. Class 1: 1 right, 1 missed. Class 2: never in truth, predicted once. Class 3: nowhere.
    let truth = [0, 0, 0, 1, 1, 0, IGNORE];
    let prediction = [0, 0, 1, 1, 255, 2, 3];
    let mut m = ConfusionMatrix::new(4).expect("valid");
    m.update(&truth, &prediction, IGNORE).expect("valid");
    let result = m.result();
    assert_eq!(result.per_class, [Some(2.0 / 4.0), Some(1.0 / 3.0), Some(0.0), None]);
    assert_eq!(result.miou, Some((0.5 + 1.0 / 3.0) / 3.0));
    assert_eq!(result.accuracy, Some(3.0 / 6.0));
    assert_eq!((m.count(0, Some(1)), m.count(1, None), m.count(2, Some(2))), (1, 1, 0));
}

#[test]
fn nothing_seen_is_no_number() {
    let result = ConfusionMatrix::new(2).expect("valid").result();
    assert_eq!(result, SemanticResult { miou: None, accuracy: None, per_class: vec![None, None] });
}

#[test]
fn ignore_may_be_any_value() {
    let mut m = ConfusionMatrix::new(2).expect("valid");
    m.update(&[0, 11, 1], &[0, 1, 1], 11).expect("valid");
    assert_eq!(m.result().accuracy, Some(1.0));
    assert_eq!(m.result().miou, Some(1.0));
}

#[test]
fn bad_input_is_refused_and_leaves_no_trace() {
    let mut m = ConfusionMatrix::new(3).expect("valid");
    let empty = m.clone();
    assert_eq!(m.update(&[0, 1], &[0], IGNORE), Err(EvaluationError::Length { expected: 2, got: 1 }));
    let message = m.update(&[0, 3], &[0, 0], IGNORE).expect_err("refused").to_string();
    assert!(message.contains("pixel 1 of the ground truth has label 3"), "{message}");
    let message = m.update(&[0, 1], &[0, 7], IGNORE).expect_err("refused").to_string();
    assert!(message.contains("pixel 1 of the prediction has label 7"), "{message}");
    assert_eq!(m, empty);
    assert!(m.merge(&ConfusionMatrix::new(4).expect("valid")).is_err());
    assert!(ConfusionMatrix::new(0).is_err() && ConfusionMatrix::new(256).is_err());
}

#[test]
fn json_round_trip_and_damage() {
    let m = matrix(2, &[(vec![0, 1, 1], vec![0, 1, 255])]);
    let text = serde_json::to_string(&m).expect("plain data");
    assert_eq!(serde_json::from_str::<ConfusionMatrix>(&text).expect("own output"), m);
    let result = serde_json::to_string(&m.result()).expect("plain data");
    assert_eq!(serde_json::from_str::<SemanticResult>(&result).expect("own output"), m.result());
    let message = serde_json::from_str::<ConfusionMatrix>(r#"{"num_classes":2,"counts":[1,2,3]}"#).expect_err("short");
    assert!(message.to_string().contains("2 classes has 6 counts, got 3"), "{message}");
}

type Images = Vec<(Vec<u8>, Vec<u8>)>;

fn images() -> impl Strategy<Value = (usize, Images)> {
    (1usize..6).prop_flat_map(|num_classes| {
        let label = prop_oneof![4 => 0..num_classes as u8, 1 => Just(IGNORE)];
        let image = prop::collection::vec((label.clone(), label), 0..40).prop_map(|pairs| pairs.into_iter().unzip());
        (Just(num_classes), prop::collection::vec(image, 0..6))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merged_shards_equal_one_pass((num_classes, images) in images(), cut in 0usize..7) {
        let (left, right) = images.split_at(cut.min(images.len()));
        let mut merged = matrix(num_classes, left);
        merged.merge(&matrix(num_classes, right)).expect("same classes");
        prop_assert_eq!(&merged, &matrix(num_classes, &images));
    }

    #[test]
    fn the_order_of_images_and_pixels_does_not_matter((num_classes, images) in images()) {
        let mut reversed: Images = images.iter().rev().cloned().collect();
        for (truth, prediction) in &mut reversed {
            truth.reverse();
            prediction.reverse();
        }
        prop_assert_eq!(matrix(num_classes, &images), matrix(num_classes, &reversed));
    }

    #[test]
    fn renaming_classes_renames_the_results((num_classes, images) in images()) {
        let rename = |labels: &[u8]| -> Vec<u8> {
            labels.iter().map(|&l| if l == IGNORE { l } else { num_classes as u8 - 1 - l }).collect()
        };
        let renamed: Images = images.iter().map(|(t, p)| (rename(t), rename(p))).collect();
        let (a, b) = (matrix(num_classes, &images).result(), matrix(num_classes, &renamed).result());
        prop_assert_eq!(a.accuracy, b.accuracy);
        prop_assert_eq!(a.per_class, b.per_class.into_iter().rev().collect::<Vec<_>>());
        prop_assert!((a.miou.unwrap_or(0.0) - b.miou.unwrap_or(0.0)).abs() < 1e-12);
    }

    #[test]
    fn measures_stay_in_0_to_1_and_truth_is_perfect((num_classes, images) in images()) {
        let result = matrix(num_classes, &images).result();
        for value in result.per_class.iter().flatten().chain(&result.miou).chain(&result.accuracy) {
            prop_assert!((0.0..=1.0).contains(value));
        }
        let perfect: Images = images.iter().map(|(truth, _)| (truth.clone(), truth.clone())).collect();
        let result = matrix(num_classes, &perfect).result();
        prop_assert!(result.miou.is_none_or(|miou| miou == 1.0));
        prop_assert!(result.accuracy.is_none_or(|accuracy| accuracy == 1.0));
    }
}
