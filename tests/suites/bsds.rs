//! `hsg eval files --dataset bsds`: what users type and get, and files that are not what they should be.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use segcore::image::ImageSize;
use segcore::image_io::{write_gray8, write_gray16};
use serde_json::Value;
use tests::folders::golden;
use tests::outputs::{files, read_json};
use tests::programs::{Sandbox, assert_refused};

/// Rows and columns of the made images.
const HEIGHT: usize = 20;
const WIDTH: usize = 30;

/// The left region of a made image ends before this column.
const MIDDLE: usize = 12;

/// A 16-bit picture of `width` × `height` from a function of (row, column).
fn write_16(path: &Path, width: usize, height: usize, value: impl Fn(usize, usize) -> u16) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels: Vec<u16> = (0..width * height).map(|at| value(at / width, at % width)).collect();
    write_gray16(path, ImageSize::new(width, height), &pixels).unwrap();
}

/// Regions of an annotator who sees a left and a right half.
fn write_seg(path: &Path) {
    write_16(path, WIDTH, HEIGHT, |_, column| if column < MIDDLE { 1 } else { 2 });
}

/// The boundaries of the same annotator.
fn write_bnd(path: &Path) {
    let pixels: Vec<u8> = (0..WIDTH * HEIGHT).map(|at| if at % WIDTH == MIDDLE - 1 { 255 } else { 0 }).collect();
    write_gray8(path, ImageSize::new(WIDTH, HEIGHT), &pixels).unwrap();
}

/// A doubled map with one contour between the halves.
fn write_ucm2(path: &Path, strength: u16) {
    write_16(path, 2 * WIDTH + 1, 2 * HEIGHT + 1, |_, column| if column == 2 * MIDDLE { strength } else { 0 });
}

/// The same as a map of image size.
fn write_ucm(path: &Path, strength: u16) {
    write_16(path, WIDTH, HEIGHT, |_, column| if column == MIDDLE - 1 { strength } else { 0 });
}

/// Two images, each with two annotators of one mind, and exact predictions, one in each layout.
fn made(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let (truth, prediction) = (sandbox.path("truth"), sandbox.path("prediction"));
    for id in ["one", "two"] {
        for annotator in [0, 10] {
            write_seg(&truth.join(format!("{id}_seg{annotator}.png")));
        }
    }
    write_bnd(&truth.join("one_bnd0.png"));
    write_ucm2(&prediction.join("one_ucm2.png"), 40000);
    write_ucm(&prediction.join("deeper/still/two.ucm.png"), 40000);
    // What else `hsg-train edges --ucm` leaves there is not looked at.
    fs::write(prediction.join("deeper/two.png"), "regions").unwrap();
    (truth, prediction)
}

fn eval_files(sandbox: &Sandbox, truth: &Path, prediction: &Path) -> assert_cmd::Command {
    let mut command = sandbox.hsg();
    command.args(["eval", "files", "--dataset", "bsds", "--truth"]).arg(truth).arg("--prediction").arg(prediction);
    command
}

fn document(assert: &Assert) -> Value {
    let stdout = &assert.get_output().stdout;
    serde_json::from_slice(stdout).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(stdout)))
}

#[test]
fn exact_predictions_have_perfect_figures() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = made(&sandbox);
    let assert = eval_files(&sandbox, &truth, &prediction).args(["--json", "--out", "figures"]).assert().code(0);
    let figures = document(&assert);
    for key in ["ods", "ois", "cover_ods", "cover_ois", "cover_best", "pri", "pri_ois"] {
        assert_eq!(figures[key].as_f64(), Some(1.0), "{key}: {figures}");
    }
    assert_eq!((figures["vi"].as_f64(), figures["vi_ois"].as_f64()), (Some(0.0), Some(0.0)));
    assert!(figures["ap"].is_number(), "{figures}");
    assert_eq!((&figures["images"], &figures["thresholds"]), (&2.into(), &99.into()));
    assert_eq!(figures, read_json(&sandbox.path("figures/evaluation.json")));
    assert_eq!(files(&sandbox.path("figures")), ["evaluation.json"]);

    let assert = eval_files(&sandbox, &truth, &prediction).assert().code(0);
    assert.stdout(predicate::str::contains("2 images").and(predicate::str::contains("covering")));
}

#[test]
fn worse_predictions_have_worse_figures() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = made(&sandbox);
    // A map without contours: one region, no boundary.
    write_ucm(&prediction.join("deeper/still/two.ucm.png"), 0);
    let figures = document(&eval_files(&sandbox, &truth, &prediction).arg("--json").assert().code(0));
    // Recall 1/2, precision 1.
    assert!((figures["ods"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-9, "{figures}");
    // All of one; of two, the larger half's share is covered by 18 / 30 of itself and the smaller one's by 12 / 30.
    let covered = (1.0 + 0.6 * 0.6 + 0.4 * 0.4) / 2.0;
    assert!((figures["cover_ods"].as_f64().unwrap() - covered).abs() < 1e-9, "{figures}");
}

#[test]
fn boundaries_are_taken_from_the_regions_where_they_are_missing() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = made(&sandbox);
    let with = document(&eval_files(&sandbox, &truth, &prediction).arg("--json").assert().code(0));
    fs::remove_file(truth.join("one_bnd0.png")).unwrap();
    assert_eq!(document(&eval_files(&sandbox, &truth, &prediction).arg("--json").assert().code(0)), with);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = (sandbox.path("truth"), sandbox.path("prediction"));
    for id in 0..9 {
        write_seg(&truth.join(format!("{id}_seg0.png")));
        // Lines at several places and strengths, some of them crossing.
        let strength = |row: usize, column: usize| -> u16 {
            let lines = [(row + id) % 7 == 3, (column * 2 + row) % 11 == id, column == MIDDLE - 1];
            (1 + id as u16) * lines.into_iter().map(u16::from).sum::<u16>() * 2000
        };
        write_16(&prediction.join(format!("{id}.ucm.png")), WIDTH, HEIGHT, strength);
    }
    let figures = |threads: &str| {
        let mut command = eval_files(&sandbox, &truth, &prediction);
        command.args(["--json", "--threads", threads]).assert().code(0).get_output().stdout.clone()
    };
    let one = figures("1");
    assert!(one == figures("2") && one == figures("7"));
}

#[test]
fn a_prediction_without_truth_is_exit_2_and_truth_without_prediction_is_counted() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = made(&sandbox);
    for id in ["three", "four"] {
        write_seg(&truth.join(format!("{id}_seg0.png")));
    }
    let counted = || predicate::str::contains("2 of 4 images of the truth have no prediction");
    let assert = eval_files(&sandbox, &truth, &prediction).arg("--json").assert().code(0).stderr(counted());
    assert_eq!(document(&assert)["truth_without_prediction"], 2);
    let assert = eval_files(&sandbox, &truth, &prediction).args(["--json", "--complete"]).assert().code(1);
    assert_eq!(document(&assert.stderr(counted()))["images"], 2);
    let mut command = eval_files(&sandbox, &truth, &prediction);
    command.env("HSG_COMPLETE", "1").assert().code(1);
    command.arg("--complete=false").assert().code(0);

    write_ucm2(&prediction.join("five_ucm2.png"), 1);
    assert_refused(eval_files(&sandbox, &truth, &prediction).assert(), &["five_ucm2.png", "five_seg0.png", "--truth"]);
}

#[test]
fn files_that_do_not_fit() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = made(&sandbox);
    let attempt = || eval_files(&sandbox, &truth, &prediction).args(["--json", "--out", "figures"]).assert();
    let one = prediction.join("one_ucm2.png");
    // A map of image size under the name of a doubled one.
    write_ucm(&one, 1);
    assert_refused(attempt(), &["one_ucm2.png", "61×41", "got 30×20", "ID.ucm.png"]);
    // The other way round.
    let two = prediction.join("deeper/still/two.ucm.png");
    write_ucm2(&one, 1);
    write_ucm2(&two, 1);
    assert_refused(attempt(), &["two.ucm.png", "expected 30×20", "got 61×41"]);
    write_ucm(&two, 1);
    // 8 bits are no strengths of 16.
    write_gray8(&one, ImageSize::new(61, 41), &[0; 61 * 41]).unwrap();
    assert_refused(attempt(), &["one_ucm2.png", "16"]);
    write_ucm2(&one, 1);
    // Damaged: in the prediction, the regions, the boundaries.
    for file in [&one, &truth.join("one_seg10.png"), &truth.join("one_bnd0.png")] {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        assert_refused(attempt(), &[file.file_name().unwrap().to_str().unwrap(), "damaged"]);
        fs::write(file, "").unwrap();
        assert_refused(attempt(), &[file.file_name().unwrap().to_str().unwrap(), "empty"]);
        fs::write(file, bytes).unwrap();
    }
    // Annotators of different sizes.
    write_16(&truth.join("two_seg10.png"), WIDTH, HEIGHT + 1, |_, _| 1);
    assert_refused(attempt(), &["two_seg10.png", "two_seg0.png", "expected 30×20", "got 30×21"]);
    write_seg(&truth.join("two_seg10.png"));
    write_16(&truth.join("two_bnd10.png"), WIDTH, HEIGHT, |_, _| 1);
    assert_refused(attempt(), &["two_bnd10.png", "16 bits"]);
    fs::rename(truth.join("two_bnd10.png"), truth.join("two_bnd11.png")).unwrap();
    assert_refused(attempt(), &["two_bnd11.png", "two_seg11.png"]);
    fs::remove_file(truth.join("two_bnd11.png")).unwrap();
    assert!(!sandbox.path("figures").exists());
    attempt().code(0);
    fs::remove_dir_all(sandbox.path("figures")).unwrap();
    // One image twice.
    write_ucm(&prediction.join("one.ucm.png"), 1);
    assert_refused(attempt(), &["one.ucm.png", "one_ucm2.png", "take one of them out"]);
    fs::remove_file(prediction.join("one.ucm.png")).unwrap();
    write_seg(&truth.join("copy/one_seg0.png"));
    assert_refused(attempt(), &["copy/one_seg0.png", "take one of them out"]);
}

#[test]
fn folders_without_what_is_needed() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = made(&sandbox);
    let attempt = |truth: &Path, prediction: &Path| eval_files(&sandbox, truth, prediction).assert();
    assert_refused(attempt("nowhere".as_ref(), &prediction), &["--truth", "nowhere", "check the path"]);
    assert_refused(attempt(&truth, "nowhere".as_ref()), &["--prediction", "nowhere", "check the path"]);
    fs::create_dir(sandbox.path("empty")).unwrap();
    assert_refused(attempt("empty".as_ref(), &prediction), &["--truth", "empty", "ID_segN.png"]);
    assert_refused(attempt(&truth, "empty".as_ref()), &["--prediction", "empty", "ID_ucm2.png"]);
    // A link back up is no endless folder.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("..", prediction.join("deeper/up")).unwrap();
        attempt(&truth, &prediction).code(0);
    }
}

#[test]
fn wrong_usage() {
    let sandbox = Sandbox::new();
    let (truth, prediction) = made(&sandbox);
    assert_refused(sandbox.hsg().args(["eval", "files"]).assert(), &["--dataset"]);
    assert_refused(sandbox.hsg().args(["eval", "files", "--dataset", "bsds"]).assert(), &["--truth", "[eval.files]"]);
    for number in ["0", "10000"] {
        let assert = eval_files(&sandbox, &truth, &prediction).args(["--thresholds", number]).assert();
        assert_refused(assert, &["--thresholds", number, "1 to 9999"]);
    }
    // The options of `hsg eval` itself belong to a model.
    sandbox.hsg().args(["eval", "--dataset", "camvid", "files"]).assert().code(2).stdout("");
    let assert = sandbox.hsg().args(["eval", "--dataset", "bsds", "--root", ".", "--split", "test"]).assert();
    assert_refused(assert, &["bsds", "hsg eval files"]);
}

#[test]
fn settings_come_from_file_environment_and_command_line_in_this_order() {
    let sandbox = Sandbox::new();
    made(&sandbox);
    let file = "[eval.files]\ndataset = 'bsds'\ntruth = 'truth'\nprediction = 'prediction'\nthresholds = 3\n";
    fs::write(sandbox.path("files.toml"), file).unwrap();
    let run = |environment: Option<&str>, typed: &[&str]| {
        let mut command = sandbox.hsg();
        command.args(["eval", "files", "--config", "files.toml", "--json"]).args(typed);
        command.envs(environment.map(|number| ("HSG_THRESHOLDS", number))).assert().code(0)
    };
    assert_eq!(document(&run(None, &[]))["thresholds"], 3);
    assert_eq!(document(&run(Some("4"), &[]))["thresholds"], 4);
    assert_eq!(document(&run(Some("4"), &["--thresholds", "5"]))["thresholds"], 5);
    assert_eq!(document(&run(None, &["--show-settings"]))["eval"]["files"]["thresholds"], 3);
}

#[test]
fn golden_figures_of_the_benchmark() {
    let Some(folder) = golden("edges/bench5") else { return };
    let sandbox = Sandbox::new();
    let assert = eval_files(&sandbox, &folder, &folder).args(["--thresholds", "5", "--json"]).assert().code(0);
    let figures = document(&assert);
    let expected = &read_json(&folder.join("summary.json"))["ours"];
    for (key, golden, tolerance) in [
        ("ods", "ods", 1e-3),
        ("ois", "ois", 1e-3),
        ("ap", "AP", 1e-3),
        ("cover_ods", "cover_ods", 1e-9),
        ("cover_ois", "cover_ois", 1e-9),
        ("cover_best", "cover_best", 1e-9),
        ("pri", "pri_ods", 1e-9),
        ("pri_ois", "pri_ois", 1e-9),
        ("vi", "vi_ods", 1e-9),
        ("vi_ois", "vi_ois", 1e-9),
    ] {
        let (got, expected) = (figures[key].as_f64().unwrap(), expected[golden].as_f64().unwrap());
        assert!((got - expected).abs() <= tolerance, "{key}: got {got}, expected {expected} ± {tolerance}");
    }
    assert_eq!(figures["images"], 5);
}
