//! Instance IoU and category IoU: hand-made cases and their laws.

mod common;

use common::{assert_near, stored};
use evaluation::{CityscapesValues, ConfusionMatrix, EvaluationError, InstanceIou, LabelPairs, category_iou};
use proptest::prelude::*;

const CAR: usize = 13;
const PERSON: usize = 11;
const VEHICLE: usize = 6;
const HUMAN: usize = 5;
/// Mean sizes.
const CAR_PIXELS: f64 = 12794.0202738185;

#[test]
fn a_case_worked_out_by_hand() {
    // Two cars of 4 and 2 pixels; road; ego vehicle (ignored).
    let truth = [26, 26, 26, 26, 26, 26, 7, 7, 1];
    let instances = [26001, 26001, 26001, 26001, 26002, 26002, 7, 7, 1];
    // Of the first car a pixel is a truck and one a caravan; a road pixel is a car, one a trailer.
    let prediction = [26, 26, 27, 29, 26, 7, 26, 30, 26];
    let mut iou = InstanceIou::new(CityscapesValues::LabelIds);
    iou.update(&truth, &prediction, &instances).unwrap();
    let result = iou.result();
    let (first, second) = (CAR_PIXELS / 4.0, CAR_PIXELS / 2.0);
    let tp = 2.0 * first + second;
    assert_near("car", result.per_class[CAR], Some(tp / (2.0 * CAR_PIXELS + 1.0)), 1e-12);
    // A truck was never there but predicted on a pixel that counts.
    assert_eq!(result.per_class[14], Some(0.0));
    assert_near("classes", result.classes, Some(tp / (2.0 * CAR_PIXELS + 1.0) / 2.0), 1e-12);
    // As a vehicle truck and caravan are right, and both road pixels wrong.
    let tp = CAR_PIXELS + second;
    assert_near("vehicle", result.per_category[VEHICLE], Some(tp / (2.0 * CAR_PIXELS + 2.0)), 1e-12);
    assert_eq!((result.per_category[HUMAN], result.per_category[0]), (None, None));
    assert_eq!(result.categories, result.per_category[VEHICLE]);
    // Without instances there is nothing, whatever was predicted.
    assert_eq!(result.per_class[0], None);
}

#[test]
fn crowds_are_no_instances() {
    // A label id alone marks a group of persons; 24000 is the first person.
    let mut iou = InstanceIou::new(CityscapesValues::TrainIds);
    iou.update(&[11, 11, 255], &[11, 0, 11], &[24, 24000, 3]).unwrap();
    assert_eq!(iou.result().per_class[PERSON], Some(0.0));
    assert_eq!(iou.result().per_category[HUMAN], Some(0.0));
}

#[test]
fn categories_worked_out_by_hand() {
    let mut matrix = ConfusionMatrix::new(19).unwrap();
    // Car as truck is right; car as road, and as nothing, is wrong; road as sidewalk is right.
    matrix.update(&[13, 13, 13, 0, 255], &[14, 0, 255, 1, 13], 255).unwrap();
    let result = category_iou(&matrix).unwrap();
    assert_eq!(result.per_category, [Some(1.0 / 2.0), None, None, None, None, None, Some(1.0 / 3.0)]);
    assert_eq!(result.mean, Some((1.0 / 2.0 + 1.0 / 3.0) / 2.0));
    let other = category_iou(&ConfusionMatrix::new(11).unwrap());
    assert_eq!(other, Err(EvaluationError::NumClasses { expected: 19, got: 11 }));
}

#[test]
fn bad_input_is_refused() {
    let mut iou = InstanceIou::new(CityscapesValues::TrainIds);
    assert!(iou.update(&[0, 0], &[0], &[7, 7]).is_err());
    assert!(iou.update(&[0, 0], &[0, 0], &[7]).is_err());
    let wrong = iou.merge(&InstanceIou::new(CityscapesValues::LabelIds));
    assert_eq!(wrong, Err(EvaluationError::OtherValues));
    assert_eq!(iou, InstanceIou::new(CityscapesValues::TrainIds));
}

/// Truth with instances, and prediction.
type Image = (Vec<u8>, Vec<u8>, Vec<u16>);

fn images() -> impl Strategy<Value = Vec<Image>> {
    let pixel = (prop_oneof![Just(7u8), Just(24), Just(26), Just(3), Just(29)], 0u8..34, 0u16..3);
    let image = prop::collection::vec(pixel, 1..60).prop_map(|pixels| {
        let truth = pixels.iter().map(|pixel| pixel.0).collect();
        let instance = |&(label, _, number): &(u8, u8, u16)| {
            if label < 24 || number == 0 { label.into() } else { u16::from(label) * 1000 + number }
        };
        (truth, pixels.iter().map(|pixel| pixel.1).collect(), pixels.iter().map(instance).collect())
    });
    prop::collection::vec(image, 1..6)
}

fn measured(images: &[Image]) -> InstanceIou {
    let mut iou = InstanceIou::new(CityscapesValues::LabelIds);
    for (truth, prediction, instances) in images {
        iou.update(truth, prediction, instances).unwrap();
    }
    iou
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merged_shards_equal_one_pass(images in images(), cut in 0usize..7) {
        let (left, right) = images.split_at(cut.min(images.len()));
        let mut merged = stored(&measured(right));
        merged.merge(&stored(&measured(left))).unwrap();
        prop_assert_eq!(merged.result(), measured(&images).result());
    }

    #[test]
    fn pairs_are_counted_one_by_one(
        pixels in prop::collection::vec((0u8..3, 250u8..=255, 1usize..50), 0..20).prop_map(|stretches| {
            stretches.into_iter().flat_map(|(t, p, length)| std::iter::repeat_n((t, p), length)).collect::<Vec<_>>()
        })
    ) {
        let (truth, prediction): (Vec<u8>, Vec<u8>) = pixels.iter().copied().unzip();
        let pairs = LabelPairs::of(&truth, &prediction).unwrap();
        for (t, p) in (0..3).flat_map(|t| (250..=255).map(move |p| (t, p))) {
            prop_assert_eq!(pairs.count(t, p), pixels.iter().filter(|&&pixel| pixel == (t, p)).count() as u64);
        }
        prop_assert_eq!(pairs.iter().map(|(.., count)| count).sum::<u64>(), pixels.len() as u64);
    }
}
