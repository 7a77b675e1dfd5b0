//! `hsg eval files` for class maps and panoptic maps: what users type and get, and files that are not what they should be.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use segcore::image::ImageSize;
use segcore::image_io::{write_gray8, write_gray16, write_rgb8};
use serde_json::Value;
use tests::folders::data;
use tests::outputs::{files, read_json};
use tests::programs::{Sandbox, assert_refused};

/// The made images.
const SIZE: ImageSize = ImageSize { width: 6, height: 4 };

fn write_labels(path: &Path, label: impl Fn(usize) -> u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_gray8(path, SIZE, &(0..SIZE.num_pixels()).map(label).collect::<Vec<_>>()).unwrap();
}

fn write_panoptic(path: &Path, label: impl Fn(usize) -> (u8, u16)) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixel = |at: usize| {
        let (class, instance) = label(at);
        let [high, low] = instance.to_be_bytes();
        [class, high, low]
    };
    write_rgb8(path, SIZE, &(0..SIZE.num_pixels()).flat_map(pixel).collect::<Vec<_>>()).unwrap();
}

fn eval_files(sandbox: &Sandbox, dataset: &str) -> assert_cmd::Command {
    let mut command = sandbox.hsg();
    command.args(["eval", "files", "--dataset", dataset, "--truth", "truth", "--prediction", "prediction"]);
    command
}

fn document(assert: &Assert) -> Value {
    let stdout = &assert.get_output().stdout;
    serde_json::from_slice(stdout).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(stdout)))
}

fn figures(sandbox: &Sandbox, dataset: &str) -> Value {
    document(&eval_files(sandbox, dataset).arg("--json").assert().code(0))
}

/// Two frames of Cityscapes: half road, half two cars, a corner that is not evaluated.
fn cityscapes(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let (truth, prediction) = (sandbox.path("truth"), sandbox.path("prediction"));
    for frame in ["bonn_000000_000019", "zürich_000001_000019"] {
        let folder = truth.join(frame.split('_').next().unwrap());
        write_labels(&folder.join(format!("{frame}_gtFine_labelIds.png")), |at| label(at) as u8);
        let instances: Vec<u16> = (0..SIZE.num_pixels())
            .map(|at| if label(at) == 26 { 26_001 + (at % 6 == 5) as u16 } else { label(at) })
            .collect();
        write_gray16(folder.join(format!("{frame}_gtFine_instanceIds.png")), SIZE, &instances).unwrap();
        write_labels(&prediction.join("all").join(format!("{frame}_anything.png")), |at| label(at) as u8);
    }
    (truth, prediction)
}

fn label(at: usize) -> u16 {
    match at {
        0 => 3,
        at if at % 6 < 3 => 7,
        _ => 26,
    }
}

#[test]
fn cityscapes_files_belong_together_by_city_sequence_and_frame() {
    let sandbox = Sandbox::new();
    cityscapes(&sandbox);
    let assert = eval_files(&sandbox, "cityscapes").args(["--json", "--out", "figures"]).assert().code(0);
    let figures = document(&assert);
    for key in ["miou", "accuracy", "category_miou", "iiou", "category_iiou"] {
        assert_eq!(figures[key].as_f64(), Some(1.0), "{key}: {figures}");
    }
    assert_eq!((&figures["frames"], &figures["dataset"]), (&2.into(), &"cityscapes".into()));
    assert_eq!((&figures["per_class"]["car"], &figures["per_class"]["sky"]), (&1.0.into(), &Value::Null));
    assert_eq!(figures["confusion"][13][13], 24);
    for key in ["split", "model", "backend", "precision", "sequences"] {
        assert_eq!(figures.get(key), Some(&Value::Null), "{key}");
    }
    assert_eq!(figures["stq"], serde_json::json!({"stq": null, "aq": null, "sq": null}));
    assert_eq!(figures["levels"], serde_json::json!([]));
    assert_eq!(figures, read_json(&sandbox.path("figures/evaluation.json")));
    assert_eq!(files(&sandbox.path("figures")), ["evaluation.json"]);
    let assert = eval_files(&sandbox, "cityscapes").assert().code(0);
    assert.stdout(predicate::str::contains("category mIoU 100.0 %").and(predicate::str::contains("iIoU 100.0 %")));
}

#[test]
fn cityscapes_predictions_may_hold_train_ids() {
    let sandbox = Sandbox::new();
    let (_, prediction) = cityscapes(&sandbox);
    let by_label_id = {
        write_labels(&prediction.join("all/bonn_000000_000019_anything.png"), |at| if at % 5 == 0 { 27 } else { 0 });
        figures(&sandbox, "cityscapes")
    };
    for frame in ["bonn_000000_000019", "zürich_000001_000019"] {
        write_labels(&prediction.join(format!("all/{frame}_anything.png")), |at| match (frame, label(at)) {
            ("bonn_000000_000019", _) if at % 5 == 0 => 14,
            ("bonn_000000_000019", _) => 255,
            (_, 7) => 0,
            (_, 26) => 13,
            _ => 255,
        });
    }
    let assert = eval_files(&sandbox, "cityscapes").args(["--json", "--train-ids"]).assert().code(0);
    assert_eq!(document(&assert), by_label_id);
    assert_refused(
        eval_files(&sandbox, "cityscapes").assert(),
        &["bonn_000000_000019_anything.png", "value 255 at column 1, row 0", "0–33"],
    );
    assert_refused(eval_files(&sandbox, "camvid").arg("--train-ids").assert(), &["--train-ids"]);
}

#[test]
fn without_instances_there_is_no_iiou() {
    let sandbox = Sandbox::new();
    let (truth, _) = cityscapes(&sandbox);
    fs::remove_file(truth.join("bonn/bonn_000000_000019_gtFine_instanceIds.png")).unwrap();
    assert_refused(
        eval_files(&sandbox, "cityscapes").assert(),
        &["bonn_000000_000019_gtFine_instanceIds.png", "expected the instances"],
    );
    fs::remove_file(truth.join("zürich/zürich_000001_000019_gtFine_instanceIds.png")).unwrap();
    let figures = figures(&sandbox, "cityscapes");
    assert_eq!(
        (&figures["iiou"], &figures["category_iiou"], &figures["miou"]),
        (&Value::Null, &Value::Null, &1.0.into())
    );
}

#[test]
fn cityscapes_names_and_pairs() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = cityscapes(&sandbox);
    // What networks predicted lies beside the truth of some copies of the data set.
    write_labels(&truth.join("bonn/bonn_000000_000019_pseudo_labelIds.png"), |_| 7);
    assert_eq!(figures(&sandbox, "cityscapes")["miou"], 1.0);
    let second = prediction.join("bonn_000000_000019.png");
    write_labels(&second, |_| 7);
    assert_refused(
        eval_files(&sandbox, "cityscapes").assert(),
        &["bonn_000000_000019.png", "bonn_000000_000019_anything.png", "two predictions"],
    );
    fs::rename(&second, prediction.join("bonn_000000_000020.png")).unwrap();
    assert_refused(
        eval_files(&sandbox, "cityscapes").assert(),
        &["bonn_000000_000020.png", "bonn_000000_000020_gtFine_labelIds.png", "--truth"],
    );
    fs::rename(prediction.join("bonn_000000_000020.png"), prediction.join("legend.png")).unwrap();
    assert_refused(eval_files(&sandbox, "cityscapes").assert(), &["legend.png", "CITY_SEQUENCE_FRAME"]);
    fs::remove_file(prediction.join("legend.png")).unwrap();
    fs::remove_file(prediction.join("all/bonn_000000_000019_anything.png")).unwrap();
    let counted = || predicate::str::contains("1 of 2 images of the truth have no prediction");
    let assert = eval_files(&sandbox, "cityscapes").arg("--json").assert().code(0).stderr(counted());
    assert_eq!((&document(&assert)["frames"], &document(&assert)["truth_without_prediction"]), (&1.into(), &1.into()));
    eval_files(&sandbox, "cityscapes").arg("--complete").assert().code(1).stderr(counted());
}

#[test]
fn camvid_and_folders_pair_by_relative_path() {
    let sandbox = Sandbox::new();
    for name in ["a/1.png", "a/2.png", "b/1.png"] {
        write_labels(&sandbox.path("truth").join(name), |at| if at < 12 { 3 } else { 11 });
        // A third is right, a third is no class, in two ways.
        write_labels(&sandbox.path("prediction").join(name), |at| [3, 255, 11][at % 3]);
    }
    let camvid = figures(&sandbox, "camvid");
    assert_eq!((&camvid["frames"], camvid["accuracy"].as_f64()), (&3.into(), Some(1.0 / 3.0)));
    assert_eq!((&camvid["category_miou"], &camvid["iiou"]), (&Value::Null, &Value::Null));

    assert_refused(eval_files(&sandbox, "folder").assert(), &["classes.toml", "--classes"]);
    let table = "ignore = 11\n[[class]]\nid = 3\nname = 'track'\ncolor = [1, 2, 3]\n";
    fs::write(sandbox.path("classes.toml"), table).unwrap();
    let folder = figures(&sandbox, "folder");
    assert_eq!((folder["accuracy"].as_f64(), &folder["per_class"]["track"]), (Some(1.0 / 3.0), &(1.0 / 3.0).into()));
    fs::rename(sandbox.path("classes.toml"), sandbox.path("mine.toml")).unwrap();
    let assert = eval_files(&sandbox, "folder").args(["--json", "--classes", "mine.toml"]).assert().code(0);
    assert_eq!(document(&assert), folder);
    assert_refused(eval_files(&sandbox, "camvid").args(["--classes", "mine.toml"]).assert(), &["--classes"]);
    fs::write(sandbox.path("mine.toml"), "[[class]]\nid = 'x'\n").unwrap();
    assert_refused(eval_files(&sandbox, "folder").args(["--classes", "mine.toml"]).assert(), &["mine.toml"]);

    write_labels(&sandbox.path("prediction/c/1.png"), |_| 3);
    assert_refused(eval_files(&sandbox, "camvid").assert(), &["c/1.png", "found none"]);
}

/// Two sequences of three frames with a car that moves.
fn kitti_step(sandbox: &Sandbox) {
    for folder in ["truth", "prediction"] {
        for (sequence, frame) in [0, 1].into_iter().flat_map(|s| (0..3).map(move |f| (s, f))) {
            let path = sandbox.path(folder).join(format!("{sequence:04}/{frame:06}.png"));
            write_panoptic(&path, |at| if at % 6 == frame { (13, 1 + sequence) } else { (0, 0) });
        }
    }
}

#[test]
fn panoptic_maps_have_stq() {
    let sandbox = Sandbox::new();
    kitti_step(&sandbox);
    let perfect = figures(&sandbox, "kitti-step");
    assert_eq!(perfect["stq"], serde_json::json!({"stq": 1.0, "aq": 1.0, "sq": 1.0}));
    assert_eq!((&perfect["miou"], &perfect["accuracy"]), (&1.0.into(), &1.0.into()));
    let names: Vec<_> = perfect["sequences"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["0000", "0001"]);
    // The id changes in one of three frames of one of two sequences.
    write_panoptic(&sandbox.path("prediction/0001/000002.png"), |at| if at % 6 == 2 { (13, 9) } else { (0, 0) });
    let changed = figures(&sandbox, "kitti-step");
    let aq = (1.0 + (2.0 / 3.0 * 2.0 + 1.0 / 3.0) / 3.0) / 2.0;
    assert!((changed["stq"]["aq"].as_f64().unwrap() - aq).abs() < 1e-12, "{changed}");
    assert_eq!(changed["stq"]["sq"], 1.0);
    eval_files(&sandbox, "kitti-step").assert().code(0).stdout(predicate::str::contains("STQ %"));
}

#[test]
fn stq_needs_whole_sequences() {
    let sandbox = Sandbox::new();
    kitti_step(&sandbox);
    fs::remove_file(sandbox.path("prediction/0001/000001.png")).unwrap();
    assert_refused(eval_files(&sandbox, "kitti-step").assert(), &["sequence 0001", "0001/000001.png", "whole"]);
    // A sequence that is missing altogether is counted.
    fs::remove_dir_all(sandbox.path("prediction/0001")).unwrap();
    let counted = predicate::str::contains("3 of 6 images of the truth have no prediction");
    eval_files(&sandbox, "kitti-step").assert().code(0).stderr(counted);
    eval_files(&sandbox, "kitti-step").arg("--complete").assert().code(1);
    write_panoptic(&sandbox.path("prediction/0000/000002.png"), |at| if at == 8 { (19, 0) } else { (0, 0) });
    assert_refused(eval_files(&sandbox, "kitti-step").assert(), &["0000/000002.png", "value 19 at column 2, row 1"]);
}

#[test]
fn files_that_do_not_fit() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = cityscapes(&sandbox);
    let attempt = || eval_files(&sandbox, "cityscapes").args(["--json", "--out", "figures"]).assert();
    let file = prediction.join("all/bonn_000000_000019_anything.png");
    write_gray8(&file, ImageSize::new(4, 6), &[7; 24]).unwrap();
    assert_refused(attempt(), &["bonn_000000_000019_anything.png", "expected 6×4", "got 4×6"]);
    write_labels(&file, |at| if at == 13 { 34 } else { 7 });
    assert_refused(attempt(), &["bonn_000000_000019_anything.png", "value 34 at column 1, row 2", "0–33"]);
    write_gray16(&file, SIZE, &[7; 24]).unwrap();
    assert_refused(attempt(), &["bonn_000000_000019_anything.png", "16-bit grey", "8-bit grey"]);
    write_labels(&file, |at| label(at) as u8);
    let truth = truth.join("bonn/bonn_000000_000019_gtFine_labelIds.png");
    for file in [&file, &truth, &truth.with_file_name("bonn_000000_000019_gtFine_instanceIds.png")] {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() - 14]).unwrap();
        assert_refused(attempt(), &[file.file_name().unwrap().to_str().unwrap(), "damaged"]);
        fs::write(file, "").unwrap();
        assert_refused(attempt(), &[file.file_name().unwrap().to_str().unwrap(), "empty"]);
        fs::write(file, bytes).unwrap();
    }
    assert!(!sandbox.path("figures").exists());
    attempt().code(0);
    for dataset in ["cityscapes", "kitti-step", "camvid"] {
        fs::create_dir_all(sandbox.path("empty")).unwrap();
        let mut command = sandbox.hsg();
        command.args(["eval", "files", "--dataset", dataset, "--truth", "empty", "--prediction", "prediction"]);
        assert_refused(command.assert(), &["--truth empty", "found none"]);
        let mut command = sandbox.hsg();
        command.args(["eval", "files", "--dataset", dataset, "--truth", "truth", "--prediction", "empty"]);
        assert_refused(command.assert(), &["--prediction empty", "found none"]);
    }
    let mut command = sandbox.hsg();
    command.args(["eval", "files", "--dataset", "imagenet", "--truth", "truth", "--prediction", "prediction"]);
    assert_refused(command.assert(), &["imagenet", "unknown", "kitti-step", "bsds"]);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let sandbox = Sandbox::new();
    for (sequence, frame) in (0..3).flat_map(|s| (0..5).map(move |f| (s, f))) {
        let path = format!("{sequence:04}/{frame:06}.png");
        let label = |at: usize, seed: usize| ([0u8, 13, 11, 255][(at * seed + frame) % 4], (at / seed % 3) as u16);
        write_panoptic(&sandbox.path("truth").join(&path), |at| label(at, 3 + sequence));
        write_panoptic(&sandbox.path("prediction").join(&path), |at| label(at, 7 + sequence));
    }
    let figures = |threads: &str| {
        let mut command = eval_files(&sandbox, "kitti-step");
        command.args(["--json", "--threads", threads]).assert().code(0).get_output().stdout.clone()
    };
    let one = figures("1");
    assert!(one == figures("2") && one == figures("7"));
}

#[track_caller]
fn assert_near(what: &str, got: &Value, expected: &Value, tolerance: f64) {
    let is_near = match (got.as_f64(), expected.as_f64()) {
        (Some(got), Some(expected)) => (got - expected).abs() <= tolerance,
        (got, expected) => got == expected,
    };
    assert!(is_near, "{what}: got {got}, expected {expected} ± {tolerance}");
}

#[test]
fn figures_of_cityscapes_scripts() {
    let (Some(truth), Some(oracle)) =
        (data("cityscapes/gtFine/train"), data("oracle_vectors/cityscapes_official/semantic"))
    else {
        return;
    };
    let sandbox = Sandbox::new();
    let mut command = sandbox.hsg();
    command.args(["eval", "files", "--dataset", "cityscapes", "--json", "--truth"]).arg(truth).arg("--prediction");
    let figures = document(&command.arg(oracle.join("pred")).assert().code(0));
    let expected = read_json(&oracle.join("expected_official_output.json"));
    for (key, official) in [
        ("miou", "averageScoreClasses"),
        ("category_miou", "averageScoreCategories"),
        ("iiou", "averageScoreInstClasses"),
        ("category_iiou", "averageScoreInstCategories"),
    ] {
        assert_near(key, &figures[key], &expected[official], 1e-10);
    }
    for (key, official) in [("per_class", "classScores"), ("per_class_iiou", "classInstScores")] {
        for (class, value) in figures[key].as_object().unwrap() {
            assert_near(class, value, &expected[official][class], 1e-10);
        }
    }
    assert_eq!(figures["frames"], 3);
}

#[test]
fn figures_of_deeplab2() {
    let Some(oracle) = data("oracle_vectors/stq_vpq_kitti_step") else { return };
    let sandbox = Sandbox::new();
    let mut command = sandbox.hsg();
    command.args(["eval", "files", "--dataset", "kitti-step", "--json", "--truth"]).arg(oracle.join("gt"));
    let figures = document(&command.arg("--prediction").arg(oracle.join("pred")).assert().code(0));
    let expected = &read_json(&oracle.join("expected_stq.json"))["result"];
    for (key, official) in [("stq", "STQ"), ("aq", "AQ"), ("sq", "IoU")] {
        assert_near(key, &figures["stq"][key], &expected[official], 1e-7);
        for (index, sequence) in figures["sequences"].as_array().unwrap().iter().enumerate() {
            assert_near(key, &sequence[key], &expected[format!("{official}_per_seq")][index], 1e-7);
        }
    }
}
