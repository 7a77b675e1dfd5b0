//! Measures against what the official programs say of the same files: cityscapesScripts, deeplab2's STQ, BDD100K's mIoU.
//! The files of Cityscapes and KITTI may not be passed on, so they are taken from the street data's folder; what may be
//! is in `tests/fixtures`.

mod common;

use std::path::Path;

use common::{assert_near, fixture, json, oracle};
use evaluation::{
    CITYSCAPES_CATEGORIES, CityscapesValues, ConfusionMatrix, InstanceIou, LabelPairs, PanopticLabels, Stq,
    category_iou,
};
use segcore::image_io::{read_gray8, read_gray16, read_rgb8};
use segcore::label_space::LabelSpace;
use serde_json::Value;

/// The programs compute in 64 bits; sums here are kept to 2⁻⁴⁰.
const TOLERANCE: f64 = 1e-10;

#[test]
fn cityscapes_scripts() {
    let Some(oracles) = oracle("oracle_vectors/cityscapes_official/semantic") else { return };
    let Some(truth_folder) = oracle("cityscapes/gtFine/train/aachen") else { return };
    let expected = json(&oracles.join("expected_official_output.json"));
    let mut pairs = LabelPairs::default();
    // Measured once with the label ids of the files, and once with train ids.
    let mut by_label = InstanceIou::new(CityscapesValues::LabelIds);
    let mut by_train_id = InstanceIou::new(CityscapesValues::TrainIds);
    let mut of_train_ids = ConfusionMatrix::new(19).unwrap();
    let train_ids = CityscapesValues::LabelIds.train_ids();
    for image in ["aachen_000000_000019", "aachen_000001_000019", "aachen_000002_000019"] {
        let prediction = read_gray8(oracles.join(format!("pred/{image}_pred_labelIds.png"))).unwrap().pixels;
        let truth = read_gray8(truth_folder.join(format!("{image}_gtFine_labelIds.png"))).unwrap().pixels;
        let instances = read_gray16(truth_folder.join(format!("{image}_gtFine_instanceIds.png"))).unwrap().pixels;
        pairs.add(&truth, &prediction).unwrap();
        by_label.update(&truth, &prediction, &instances).unwrap();
        let to_train_ids = |labels: &[u8]| labels.iter().map(|&id| train_ids[usize::from(id)]).collect::<Vec<_>>();
        let (truth, prediction) = (to_train_ids(&truth), to_train_ids(&prediction));
        by_train_id.update(&truth, &prediction, &instances).unwrap();
        of_train_ids.update(&truth, &prediction, 255).unwrap();
    }
    for (truth, row) in expected["confMatrix"].as_array().unwrap().iter().enumerate() {
        for (prediction, count) in row.as_array().unwrap().iter().enumerate() {
            assert_eq!(Some(pairs.count(truth as u8, prediction as u8)), count.as_u64(), "{truth} as {prediction}");
        }
    }
    let mut matrix = ConfusionMatrix::new(19).unwrap();
    matrix.update_pairs(&pairs, &train_ids, &train_ids);
    assert_eq!(matrix, of_train_ids);

    let near = |what: &str, got: Option<f64>, expected: &Value| assert_near(what, got, expected.as_f64(), TOLERANCE);
    let semantic = matrix.result();
    let categories = category_iou(&matrix).unwrap();
    let instance = by_label.result();
    near("class mIoU", semantic.miou, &expected["averageScoreClasses"]);
    near("category mIoU", categories.mean, &expected["averageScoreCategories"]);
    near("class iIoU", instance.classes, &expected["averageScoreInstClasses"]);
    near("category iIoU", instance.categories, &expected["averageScoreInstCategories"]);
    for (index, class) in LabelSpace::cityscapes_19().classes.iter().enumerate() {
        near(&class.name, semantic.per_class[index], &expected["classScores"][&class.name]);
        near(&class.name, instance.per_class[index], &expected["classInstScores"][&class.name]);
    }
    for (index, name) in CITYSCAPES_CATEGORIES.into_iter().enumerate() {
        near(name, categories.per_category[index], &expected["categoryScores"][name]);
        near(name, instance.per_category[index], &expected["categoryInstScores"][name]);
    }
    // Nothing there was predicted as caravan or trailer.
    assert_eq!(by_train_id.result(), instance);
}

/// The channels of a KITTI-STEP panoptic map.
fn panoptic(path: &Path) -> (Vec<u8>, Vec<u16>) {
    let map = read_rgb8(path).unwrap();
    let pixels = map.pixels.as_chunks::<3>().0;
    (
        pixels.iter().map(|pixel| pixel[0]).collect(),
        pixels.iter().map(|pixel| u16::from_be_bytes([pixel[1], pixel[2]])).collect(),
    )
}

fn labels((train_ids, instance_ids): &(Vec<u8>, Vec<u16>)) -> PanopticLabels<'_> {
    PanopticLabels { train_ids, instance_ids }
}

#[test]
fn deeplab2_stq_on_panoptic_maps() {
    let Some(folder) = oracle("oracle_vectors/stq_vpq_kitti_step") else { return };
    let expected = json(&folder.join("expected_stq.json"));
    let is_thing: Vec<bool> = (0..19).map(|train_id| matches!(train_id, 11 | 13)).collect();
    let mut stq = Stq::new(&is_thing).unwrap();
    for sequence in ["0000", "0001"] {
        for frame in 0..6 {
            let read = |kind: &str| panoptic(&folder.join(format!("{kind}/val/{sequence}/{frame:06}.png")));
            stq.update(sequence, labels(&read("gt")), labels(&read("pred"))).unwrap();
        }
    }
    let result = stq.result().unwrap();
    let expected = &expected["result"];
    // The expected values of AQ are of 64 bits, but its terms were rounded to 32 on the way.
    let near = |what: &str, got: f64, expected: &Value| assert_near(what, Some(got), expected.as_f64(), 1e-7);
    near("STQ", result.total.stq, &expected["STQ"]);
    near("AQ", result.total.aq, &expected["AQ"]);
    near("SQ", result.total.sq, &expected["IoU"]);
    for (index, sequence) in result.per_sequence.iter().enumerate() {
        let figures = sequence.figures.unwrap();
        near(&sequence.name, figures.stq, &expected["STQ_per_seq"][index]);
        near(&sequence.name, figures.aq, &expected["AQ_per_seq"][index]);
        near(&sequence.name, figures.sq, &expected["IoU_per_seq"][index]);
        assert_eq!(Some(sequence.frames), expected["Length_per_seq"][index].as_u64());
    }
}

#[test]
fn deeplab2_stq_unit_cases() {
    let cases = json(&fixture("stq/unit_vectors.json"));
    let cases = cases["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 13);
    for (index, case) in cases.iter().enumerate() {
        let config = &case["config"];
        let shift = config["label_bit_shift"].as_u64().unwrap();
        let mut is_thing = vec![false; config["num_classes"].as_u64().unwrap() as usize];
        for thing in config["things"].as_array().unwrap() {
            is_thing[thing.as_u64().unwrap() as usize] = true;
        }
        let mut stq = Stq::new(&is_thing).unwrap();
        for frame in case["frames"].as_array().unwrap() {
            let map = |kind: &str| -> (Vec<u8>, Vec<u16>) {
                let rows = frame[kind].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
                rows.map(|value| value.as_u64().unwrap())
                    .map(|value| ((value >> shift) as u8, (value & ((1 << shift) - 1)) as u16))
                    .unzip()
            };
            stq.update(&frame["seq"].to_string(), labels(&map("gt")), labels(&map("pred"))).unwrap();
        }
        let result = stq.result().unwrap().total;
        for (key, got) in [("STQ", result.stq), ("AQ", result.aq), ("IoU", result.sq)] {
            assert_near(&format!("case {index}, {key}"), Some(got), case["result"][key].as_f64(), 1e-7);
        }
    }
}

#[test]
fn bdd100k_miou_and_accuracy() {
    let folder = fixture("semseg_bdd100k");
    let expected = json(&folder.join("expected.json"));
    let read = |name: &str| read_gray8(folder.join(name)).unwrap().pixels;
    let check = |images: &[(&str, Option<&str>)], expected: &Value| {
        let mut matrix = ConfusionMatrix::new(19).unwrap();
        for &(truth, prediction) in images {
            let truth = read(truth);
            let prediction = prediction.map_or(vec![255; truth.len()], read);
            matrix.update(&truth, &prediction, 255).unwrap();
        }
        let result = matrix.result();
        // Published in percent.
        let percent = |value: Option<f64>| value.map(|value| 100.0 * value);
        assert_near("mIoU", percent(result.miou), expected["mIoU"].as_f64(), 1e-9);
        assert_near("accuracy", percent(result.accuracy), expected["pAcc"].as_f64(), 1e-9);
    };
    check(&[("gt/a.png", Some("pred/a.png"))], &expected["gt_vs_pred"]);
    let with_missing = &expected["gt+_vs_pred (b.png has no prediction)"];
    check(&[("gt+/a.png", Some("pred/a.png")), ("gt+/b.png", None)], with_missing);
}
