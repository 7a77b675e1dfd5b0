//! `hsg-calibrate` from outside: collect → quantize → report → run, what is refused, and what a kill leaves behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use models::files::read_file;
use models::manifest::{
    CALIBRATION, ModelFolder, Precision, QUANTIZATION, RECEIPT, embedding_file, grouping_file, write_folder,
};
use models::onnx::{Storage, read, write};
use predicates::prelude::*;
use serde_json::Value;
use tests::folders::{data, shipped_clip, tiny_model, workspace};
use tests::outputs::read_json;
use tests::pictures::{SIZE, street_dataset, street_folder};
use tests::programs::{Sandbox, Started, assert_refused, hsg_calibrate};
use tests::skip;

/// Limits that an untrained network of a few channels can keep.
const LENIENT: [&str; 5] = [
    "--min-frames=1",
    "--max-miou-loss=100",
    "--max-fp16-miou-loss=100",
    "--min-agreement=0",
    "--max-level-ratio=1000000",
];

fn document(stdout: &[u8]) -> Value {
    serde_json::from_slice(stdout).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(stdout)))
}

/// The tiny model with a bank of CamVid's classes, in `name`.
fn model_with_bank(sandbox: &Sandbox, name: &str) -> PathBuf {
    let (root, model) = (street_dataset(sandbox.path("camvid"), "train", 4), sandbox.path(name));
    let mut hsg = sandbox.hsg();
    hsg.args(["bank", "build", "--dataset", "camvid", "--split", "train", "--root"]).arg(root);
    hsg.arg("--model").arg(tiny_model()).arg("--out").arg(&model).assert().success();
    model
}

/// `hsg-calibrate COMMAND --model MODEL SOURCES`.
fn calibrate(sandbox: &Sandbox, command: &str, model: &Path, sources: &[&Path]) -> assert_cmd::Command {
    let mut program = sandbox.hsg_calibrate();
    program.args([command, "--threads", "2", "--model"]).arg(model).args(sources);
    program
}

fn run_int8(sandbox: &Sandbox, model: &Path, images: &Path) -> assert_cmd::Command {
    let mut hsg = sandbox.hsg();
    hsg.arg("run").arg(images).arg("--model").arg(model).args(["--precision", "int8", "--save", "none", "--json"]);
    hsg
}

#[test]
fn every_command_has_help_and_shows_its_settings() {
    let sandbox = Sandbox::new();
    for command in ["collect", "quantize", "report"] {
        let assert = sandbox.hsg_calibrate().args([command, "--help"]).assert().success();
        assert.stdout(
            predicate::str::contains(format!("hsg-calibrate {command}")).and(predicate::str::contains("Example")),
        );
        let mut program = sandbox.hsg_calibrate();
        let shown = program.args([command, "a.mp4", "--show-settings", "--threads", "3"]).assert().success();
        let text = String::from_utf8_lossy(&shown.get_output().stdout).into_owned();
        let settings: toml::Table = text.parse().unwrap();
        assert_eq!(settings["threads"].as_integer(), Some(3));
        assert_eq!(settings[command]["sources"].as_array().unwrap()[0].as_str(), Some("a.mp4"));
        // What is shown is what may be given.
        fs::write(sandbox.path("mine.toml"), &text).unwrap();
        let mut program = sandbox.hsg_calibrate();
        program.args([command, "--show-settings", "--config", "mine.toml"]).assert().success().stdout(text);
    }
    fs::write(sandbox.path("bad.toml"), "[collect]\nframs = 3\n").unwrap();
    let mut program = sandbox.hsg_calibrate();
    assert_refused(program.args(["collect", "a.mp4", "--config", "bad.toml"]).assert(), &["bad.toml", "frams"]);
}

/// From frames to a network that drives, with the embedded backend alone.
#[test]
fn from_frames_to_a_receipt_to_a_run() {
    let sandbox = Sandbox::new();
    let model = model_with_bank(&sandbox, "model");
    let hash = ModelFolder::open(&model).unwrap().model_hash().to_owned();
    let images = street_folder(sandbox.path("images"), 12);

    let assert = calibrate(&sandbox, "collect", &model, &[&images])
        .args(["--frames", "10", "--out", "table.json", "--json"])
        .assert()
        .success();
    let report = document(&assert.get_output().stdout);
    assert_eq!((report["model_hash"].as_str(), report["frames"].as_u64()), (Some(hash.as_str()), Some(10)));
    assert_eq!(report["candidates"], 12);
    for tensor in report["tensors"].as_array().unwrap() {
        let of = |method: &str, key: &str| tensor["ranges"][method][key].as_f64().unwrap();
        let best = tensor["best"].as_str().unwrap();
        for method in ["min-max", "percentile", "entropy", "mse"] {
            // No range reaches further than what was seen, and none is better than the best.
            assert!(
                of(method, "low") >= of("min-max", "low") && of(method, "high") <= of("min-max", "high"),
                "{tensor}"
            );
            assert!(of(best, "expected_error") <= of(method, "expected_error"), "{tensor}");
        }
    }
    assert!(!sandbox.path("table.json.partial").exists());

    // Without an int8 network there is nothing to measure or run.
    let words = ["embedding.int8.onnx", "hsg-calibrate quantize"];
    assert_refused(calibrate(&sandbox, "report", &model, &[&images]).assert(), &words);
    assert_refused(run_int8(&sandbox, &model, &images).assert(), &words);

    let int8 = sandbox.path("int8");
    let quantize = |out: &Path| {
        let mut program = calibrate(&sandbox, "quantize", &model, &[&images]);
        program.args(["--table", "table.json", "--frames", "4", "--json", "--out"]).arg(out);
        program
    };
    let made = document(&quantize(&int8).assert().success().get_output().stdout);
    let folder = ModelFolder::open(&int8).unwrap();
    assert_eq!(folder.model_hash(), hash);
    for name in [&embedding_file(Precision::Int8), &embedding_file(Precision::Fp16), &grouping_file(Precision::Fp16)] {
        assert!(folder.manifest().files.contains_key(name), "{name}");
    }
    for name in [CALIBRATION, QUANTIZATION] {
        assert!(folder.manifest().files.contains_key(name), "{name}");
    }
    assert!(!ModelFolder::open(&model).unwrap().manifest().files.contains_key(CALIBRATION), "M stays as it was");
    // Every step is kept only where it was measured to be better.
    let error = |key: &str| made[key].as_f64().unwrap();
    let methods = made["error_by_method"].as_object().unwrap();
    assert_eq!(methods.len(), 4);
    for value in methods.values().map(|value| value.as_f64().unwrap()).chain([error("error_histogram")]) {
        assert!(error("error_methods") <= value, "{made}");
    }
    assert!(error("error_biases") <= error("error_kept") && error("error_kept") <= error("error_methods"), "{made}");
    assert!(error("kept_share") <= 0.075 && error("error_biases") > 0.0, "{made}");
    // The same recipe makes TensorRT's forms: symmetric, so they cost somewhat more, but of the same kind.
    for form in ["check_tensorrt8", "check_tensorrt10"] {
        assert!((0.2..20.0).contains(&(error(form) / error("check_final"))), "{form}: {made}");
    }
    // The same frames, the same bytes.
    let again = sandbox.path("again");
    quantize(&again).assert().success();
    for name in folder.manifest().files.keys() {
        assert!(read_file(&int8.join(name)).unwrap() == read_file(&again.join(name)).unwrap(), "{name}");
    }
    assert_refused(quantize(&int8).assert(), &["--force", "int8"]);

    // Nobody has measured it yet.
    assert_refused(
        run_int8(&sandbox, &int8, &images).assert(),
        &[RECEIPT, "expected a receipt", "hsg-calibrate report", "--allow-unverified"],
    );
    let summary = run_int8(&sandbox, &int8, &images).arg("--allow-unverified").assert().success();
    let summary = document(&summary.get_output().stdout);
    assert_eq!(summary["precision"], "int8");
    assert!(summary["backend"]["reason"].as_str().unwrap().contains("computed in floats"), "{summary}");

    let root = sandbox.path("camvid");
    let measure = || {
        let mut program = calibrate(&sandbox, "report", &int8, &[&shipped_clip()]);
        program.args([
            "--dataset",
            "camvid",
            "--split",
            "train",
            "--frames",
            "3",
            "--out",
            "receipt",
            "--json",
            "--root",
        ]);
        program.arg(&root);
        program
    };
    let receipt = document(&measure().args(LENIENT).assert().success().get_output().stdout);
    assert_eq!(receipt["limits_missed"].as_array().unwrap().len(), 0);
    assert_eq!(read_json(&sandbox.path("receipt/receipt.int8.json")), read_json(&int8.join(RECEIPT)));
    assert_eq!(receipt["forms"].as_array().unwrap().len(), 4);
    let form =
        |name: &str| receipt["forms"].as_array().unwrap().iter().find(|form| form["form"] == name).cloned().unwrap();
    for name in ["fp32", "fp32-noise", "fp16", "int8"] {
        let form = form(name);
        // Three labelled frames; those of the clip are for stability alone.
        assert_eq!(form["frames"], 3, "{name}");
        assert!(form["labelled"]["miou"].as_f64().is_some_and(|miou| (0.0..=1.0).contains(&miou)), "{form}");
        assert_eq!(form["labelled"]["per_class"].as_object().unwrap().len(), 11);
        assert_eq!(form["labelled"]["levels"].as_array().unwrap().len(), 3);
        assert_eq!(form["stability"]["levels"].as_array().unwrap().len(), 3);
        assert_eq!(form["against_fp32"].is_null(), name == "fp32");
    }
    let cosine = |name: &str| form(name)["against_fp32"]["cosine_mean"].as_f64().unwrap();
    assert!(cosine("fp16") > cosine("int8") && cosine("int8") > 0.9 && cosine("int8") < 0.999_999, "{receipt}");
    let page = fs::read_to_string(sandbox.path("receipt/receipt.html")).unwrap();
    for words in [
        "All limits are met",
        "Side by side",
        "Per class",
        "Speed and size",
        "Where int8 differs most",
        "data:image/jpeg",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // The folder is whole, and drives.
    assert!(ModelFolder::open(&int8).unwrap().manifest().files.contains_key(RECEIPT));
    let looser =
        predicate::str::contains("looser limits than the defaults").and(predicate::str::contains("100 instead of 0.3"));
    run_int8(&sandbox, &int8, &images).assert().success().stderr(looser);
    for precision in ["fp16", "int8"] {
        let mut hsg = sandbox.hsg();
        hsg.args(["eval", "--dataset", "camvid", "--split", "train", "--json", "--precision", precision, "--root"]);
        let evaluated = hsg.arg(&root).arg("--model").arg(&int8).assert().success();
        assert_eq!(document(&evaluated.get_output().stdout)["precision"], precision);
    }

    // Without labels: the same, and nothing that needs labels.
    let here = |out: &str| {
        let mut program = calibrate(&sandbox, "report", Path::new("."), &[&images]);
        program.current_dir(&int8).args(["--out", out, "--json"]).args(LENIENT);
        program
    };
    // The folder one stands in can be replaced, but what is in it would go.
    assert_refused(here("receipt").assert(), &["--out receipt", "outside the model"]);
    let mut program = here("../unlabelled");
    let unlabelled = document(&program.assert().success().get_output().stdout);
    for form in unlabelled["forms"].as_array().unwrap() {
        assert!(form["labelled"].is_null() && form["stability"].is_null() && form["frames"] == 12, "{form}");
    }
    let mut program = calibrate(&sandbox, "report", &int8, &[&images]);
    program.args(["--dataset", "camvid", "--split", "train", "--root"]).arg(&root);
    assert_refused(program.assert(), &["images", "stability", "?rate="]);

    // A limit that is missed: exit code 1. A receipt that met the default limits stays in the model folder, unless told
    // otherwise; then the network is not run.
    let mut good = receipt.clone();
    good["limits"] = Value::Array(Vec::new());
    ModelFolder::open(&int8).unwrap().rewrite(None, &[(RECEIPT, good.to_string().as_bytes())]).unwrap();
    let before = read_file(&int8.join(RECEIPT)).unwrap();
    let stays = predicate::str::contains("stays").and(predicate::str::contains("--force"));
    measure().args(["--min-agreement", "100"]).assert().code(1).stderr(stays);
    assert!(read_file(&int8.join(RECEIPT)).unwrap() == before, "the receipt was replaced");
    assert_ne!(read_file(&sandbox.path("receipt/receipt.int8.json")).unwrap(), before);
    let missed = measure().args(["--min-agreement", "100", "--force"]).assert().code(1);
    let missed = document(&missed.get_output().stdout)["limits_missed"].to_string();
    assert!(missed.contains("class of fp32") && missed.contains("frames that int8 was measured on"), "{missed}");
    let words = ["missed a limit", "class of fp32", "--allow-unverified"];
    assert_refused(run_int8(&sandbox, &int8, &images).assert(), &words);

    let mut hsg = sandbox.hsg();
    let inspected = hsg.args(["inspect", "--json"]).arg(&int8).assert().success();
    let inspected = document(&inspected.get_output().stdout);
    assert!(inspected["int8"].as_str().unwrap().contains("missed a limit"), "{inspected}");

    // A receipt of another network, or one that is none.
    let folder = ModelFolder::open(&int8).unwrap();
    assert_eq!(receipt["grouping_int8_sha256"], Value::Null);
    let (grouped, grouping) = (sandbox.path("grouped"), grouping_file(Precision::Int8));
    let bytes = read_file(&folder.grouping_path(Precision::Fp32).unwrap()).unwrap();
    folder.rewrite(Some(&grouped), &[(&grouping, &bytes), (RECEIPT, receipt.to_string().as_bytes())]).unwrap();
    assert_refused(run_int8(&sandbox, &grouped, &images).assert(), &[&grouping, "got that of none"]);
    let mut receipt = receipt;
    receipt["embedding_int8_sha256"] = "0".repeat(64).into();
    for (bytes, words) in [
        (receipt.to_string().into_bytes(), ["expected the receipt of embedding.int8.onnx", "00000000"]),
        (b"{}".to_vec(), ["expected a receipt, got something else", "missing field"]),
    ] {
        folder.rewrite(None, &[(RECEIPT, &bytes)]).unwrap();
        assert_refused(run_int8(&sandbox, &int8, &images).assert(), &words);
    }
    // What was measured before the network was made again does not count.
    measure().args(LENIENT).assert().success();
    let mut program = calibrate(&sandbox, "quantize", &int8, &[&images]);
    program.args(["--frames", "4", "--no-fp16"]).assert().success();
    let files = ModelFolder::open(&int8).unwrap().manifest().files.clone();
    assert!(!files.contains_key(RECEIPT) && !files.contains_key(&embedding_file(Precision::Fp16)), "{files:?}");
    assert_refused(run_int8(&sandbox, &int8, &images).assert(), &["expected a receipt"]);
}

/// Killed in either pass, as often as one likes: the same bytes in the end.
#[test]
fn a_killed_run_goes_on_and_gives_the_same() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 40);
    let collect = |out: &str| {
        let mut program = calibrate(&sandbox, "collect", &tiny_model(), &[&images]);
        program.args(["--frames", "20", "--out", out]);
        program
    };
    collect("whole.json").assert().success();
    let partial = sandbox.path("killed.json.partial");
    let lines = |kind: &str| {
        let text = fs::read_to_string(&partial).unwrap_or_default();
        text.lines().filter(|line| line.contains(&format!("\"line\":\"{kind}\""))).count()
    };
    for (kind, least) in [("described", 3), ("observed", 3)] {
        let mut command = sandbox.command(hsg_calibrate());
        command.args(["collect", "--threads", "2", "--frames", "20", "--out", "killed.json", "--model"]);
        command.arg(tiny_model()).arg(&images);
        let mut started = Started::new(command);
        started.wait_until(kind, || lines(kind) >= least);
        started.send("KILL");
        started.finish();
        assert!(!sandbox.path("killed.json").exists());
    }
    // A line that was cut off.
    let text = fs::read(&partial).unwrap();
    fs::write(&partial, &text[..text.len() - 100]).unwrap();
    // Another run does not take it for its own.
    let mut other = calibrate(&sandbox, "collect", &tiny_model(), &[&images]);
    other.args(["--frames", "30", "--out", "killed.json"]);
    assert_refused(other.assert(), &["killed.json.partial", "frames: 20", "frames: 30", "delete"]);
    collect("killed.json").assert().success().stderr(predicate::str::contains("going on from"));
    assert!(fs::read(sandbox.path("killed.json")).unwrap() == fs::read(sandbox.path("whole.json")).unwrap());
    assert!(!partial.exists());
}

/// In place, killed while it searches: the model is as it was, and nothing lies beside it.
#[test]
fn a_killed_quantize_leaves_the_model_alone() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 16);
    let model = sandbox.path("models/tiny");
    ModelFolder::open(&tiny_model()).unwrap().rewrite(Some(&model), &[]).unwrap();
    let before = tests::outputs::files(&model);
    calibrate(&sandbox, "collect", &model, &[&images]).assert().success();
    let scratch = sandbox.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let mut command = sandbox.command(hsg_calibrate());
    command.env("TMPDIR", &scratch).args(["quantize", "--threads", "2", "--frames", "16", "--model"]);
    let mut started = Started::new({
        command.arg(&model).arg(&images);
        command
    });
    // Networks are judged in a folder of its own.
    started.wait_until("a trial", || fs::read_dir(&scratch).unwrap().count() > 0);
    started.send("KILL");
    started.finish();
    assert_eq!(tests::outputs::files(&model), before);
    assert_eq!(fs::read_dir(sandbox.path("models")).unwrap().count(), 1);
    ModelFolder::open(&model).unwrap();
    calibrate(&sandbox, "quantize", &model, &[&images]).args(["--frames", "4"]).assert().success();
    assert!(ModelFolder::open(&model).unwrap().embedding_path(Precision::Int8).is_some());
}

/// Ctrl-C is no failure: the exit code says so, and the journal stays.
#[test]
fn an_interrupted_run_says_so_and_goes_on() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 40);
    let partial = sandbox.path("calibration.json.partial");
    let mut command = sandbox.command(hsg_calibrate());
    command.args(["collect", "--threads", "2", "--model"]).arg(tiny_model()).arg(&images);
    let mut started = Started::new(command);
    started.wait_until("a frame", || fs::metadata(&partial).is_ok_and(|file| file.len() > 2000));
    started.send("INT");
    let output = started.finish();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(partial.exists() && !sandbox.path("calibration.json").exists());
    calibrate(&sandbox, "collect", &tiny_model(), &[&images]).assert().success();
    assert!(!partial.exists());
}

/// What can be read once is kept until it has been read twice.
#[test]
fn frames_on_standard_input_are_recorded_first() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 12);
    let mut bytes = Vec::new();
    for index in 0..12 {
        let picture = image::open(images.join(format!("{index:06}.png"))).unwrap().into_rgb8();
        bytes.extend_from_slice(picture.as_raw());
    }
    let source = format!("raw:{}x{}:RGB24", SIZE.0, SIZE.1);
    let collect = |source: &str, out: &str| {
        let mut program = calibrate(&sandbox, "collect", &tiny_model(), &[]);
        program.args([source, "--candidates", "10", "--out", out]);
        program
    };
    collect(&source, "raw.json").write_stdin(bytes).assert().success();
    assert!(!sandbox.path("raw.json.frames").exists(), "the recording is gone");
    let table = |name: &str| {
        let mut table = read_json(&sandbox.path(name));
        let frames = table["frames"].as_array().unwrap().len();
        (frames, table["tensors"].take())
    };
    let raw = table("raw.json");
    assert_eq!(raw.0, 10);
    // The same ten pictures from a folder: the same activations.
    (10..12).for_each(|index| fs::remove_file(images.join(format!("{index:06}.png"))).unwrap());
    collect(images.to_str().unwrap(), "folder.json").assert().success();
    assert!(table("folder.json") == raw);
}

/// A recording goes on as what it was begun as, or not at all.
#[test]
fn recordings_of_something_else_are_refused() {
    let sandbox = Sandbox::new();
    let source = format!("raw:{}x{}:RGB24", SIZE.0, SIZE.1);
    let collect = |source: &str, candidates: &str| {
        let mut program = calibrate(&sandbox, "collect", &tiny_model(), &[]);
        program.args([source, "--candidates", candidates, "--out", "raw.json"]);
        program
    };
    let grey = vec![90; 10 * 3 * (SIZE.0 * SIZE.1) as usize];
    assert_refused(collect(&source, "10").write_stdin(grey).assert(), &["got 1"]);
    fs::remove_file(sandbox.path("raw.json.partial")).unwrap();
    assert_refused(
        collect(&source, "9").write_stdin("").assert(),
        &["raw.json.frames/0", "up to 9", "up to 10", "delete"],
    );
    let other = source.replace("RGB24", "BGR24");
    assert_refused(collect(&other, "10").write_stdin("").assert(), &["raw.json.frames/0", &other, &source, "delete"]);
    // The same again: what is on standard input now is not looked at.
    let assert = collect(&source, "10").write_stdin("").assert();
    let assert = assert.stderr(predicate::str::contains("standard input is not read"));
    assert_refused(assert, &["got 1"]);
    // As earlier versions left it.
    fs::write(sandbox.path("raw.json.frames/0/complete"), "").unwrap();
    assert_refused(collect(&source, "10").write_stdin("").assert(), &["raw.json.frames/0", "does not name", "delete"]);
}

/// Ctrl-C while no frame comes.
#[test]
fn a_source_that_stands_still_can_be_interrupted() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(hsg_calibrate());
    command.args(["collect", &format!("raw:{}x{}:RGB24", SIZE.0, SIZE.1), "--model"]).arg(tiny_model());
    // Standard input stays open, and nothing is written.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let recording = sandbox.path("calibration.json.frames/0");
    let start = Instant::now();
    let wait = |done: &mut dyn FnMut() -> bool| {
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(120), "it does not record, or does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait(&mut || recording.is_dir());
    let status = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let mut ended = None;
    wait(&mut || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(130));
    assert!(!recording.join("complete").exists());
}

/// Frames that go while they are worked on are missed.
#[test]
fn a_frame_that_goes_between_the_passes_is_an_error() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 12);
    let mut command = sandbox.command(hsg_calibrate());
    command.args(["collect", "--threads", "2", "--out", "table.json", "--model"]).arg(tiny_model()).arg(&images);
    let mut started = Started::new(command);
    let partial = sandbox.path("table.json.partial");
    started.wait_until("all described", || {
        fs::read_to_string(&partial).unwrap_or_default().matches("\"line\":\"described\"").count() == 12
    });
    // All are wanted, and this one is read last.
    fs::remove_file(images.join("000011.png")).unwrap();
    let output = started.finish();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("`images`") && text.contains("got 1 of those chosen no more"), "{text}");
    assert!(!sandbox.path("table.json").exists());
}

/// What the shipped receipt claims belongs to the shipped network.
#[test]
fn the_shipped_receipt_is_that_of_the_shipped_network() {
    let folder = ModelFolder::open(&workspace().join("models/zoo/camvid-r18")).unwrap();
    runtime::receipt::check(&folder).unwrap();
    let receipt = read_json(&folder.path().join(RECEIPT));
    assert!(receipt["limits_missed"].as_array().unwrap().is_empty());
    assert_eq!((receipt["dataset"]["split"].as_str(), receipt["dataset"]["frames"].as_u64()), (Some("test"), Some(62)));
    let limits = receipt["limits"].as_array().unwrap();
    let stated: Vec<f64> = limits.iter().map(|limit| limit["limit"].as_f64().unwrap()).collect();
    assert_eq!(stated, [20.0, 0.3, 0.05, 98.5, 2.0, 2.0, 2.0]);
    let table = calibration_frames(&read_json(&folder.path().join(CALIBRATION)));
    assert!(table.len() == 64 && table.iter().all(|name| name.starts_with("train/")), "{table:?}");
}

fn calibration_frames(table: &Value) -> Vec<String> {
    table["frames"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Six frames of CamVid `test` on the embedded backend: what the receipt says about all of them holds about here, too.
#[test]
fn the_shipped_int8_network_keeps_its_accuracy() {
    let Some(camvid) = data("camvid") else { return };
    let sandbox = Sandbox::new();
    let shipped = ModelFolder::open(&workspace().join("models/zoo/camvid-r18")).unwrap();
    let model = sandbox.path("model");
    shipped.rewrite(Some(&model), &[]).unwrap();
    let mut program = calibrate(&sandbox, "report", &model, &[]);
    program.args(["--dataset", "camvid", "--split", "test", "--frames", "6", "--json", "--root"]).arg(camvid);
    // So few frames say less about classes; more than this no part of the clip has lost.
    let assert =
        program.args(["--min-frames", "6", "--max-miou-loss", "1", "--min-agreement", "95"]).assert().success();
    let receipt = document(&assert.get_output().stdout);
    let int8 = &receipt["forms"].as_array().unwrap()[3];
    assert_eq!(int8["form"], "int8");
    let cosine = int8["against_fp32"]["cosine_mean"].as_f64().unwrap();
    // 0.99974 over all 62 frames; the stock quantiser has 0.9985.
    assert!((0.9995..0.99999).contains(&cosine), "{cosine}");
}

/// Integer kernels where int8 drives, floats where it is measured.
#[test]
fn onnxruntime_executes_int8_both_ways() {
    let library = match runtime::backend::onnxruntime::look() {
        Ok((_, path)) => path,
        Err(lack) => return skip("int8 on ONNX Runtime", &lack.found),
    };
    let sandbox = Sandbox::new();
    let run = |options: &[&str]| {
        let mut hsg = sandbox.hsg();
        hsg.env("HSG_ONNXRUNTIME", library).arg("run").arg(shipped_clip()).args(["--model"]);
        hsg.arg(workspace().join("models/zoo/camvid-r18")).args(["--frames", "3", "--save", "none", "--json"]);
        let output = hsg.args(["--backend", "onnxruntime", "--allow-unverified"]).args(options).assert().success();
        let summary = document(&output.get_output().stdout);
        (summary["backend"]["reason"].as_str().unwrap().to_owned(), summary["precision"].as_str().unwrap().to_owned())
    };
    for (options, words) in [
        (&["--precision", "int8"][..], "integer kernels"),
        (&["--precision", "int8", "--int8-float"], "as written, in floats"),
    ] {
        let (reason, precision) = run(options);
        assert!(reason.contains(words) && precision == "int8", "{options:?}: {reason}");
    }
    assert!(!run(&["--precision", "fp32"]).0.contains("int8"));
}

#[test]
fn tables_of_parts_are_the_table_of_the_whole() {
    let sandbox = Sandbox::new();
    let [day, night] = ["day", "night"].map(|name| street_folder(sandbox.path(name), 20));
    // Other pictures than by day.
    for index in 0..20u32 {
        let path = night.join(format!("{index:06}.png"));
        let mut picture = image::open(&path).unwrap().into_rgb8();
        picture.pixels_mut().for_each(|pixel| pixel.0 = pixel.0.map(|value| value / 3));
        picture.save(&path).unwrap();
    }
    let collect = |sources: &[&Path], out: &str, merge: &[&str]| {
        let mut program = calibrate(&sandbox, "collect", &tiny_model(), sources);
        program.args(["--frames", "100", "--out", out]);
        program.args(merge.iter().flat_map(|table| ["--merge", table]));
        program
    };
    collect(&[&day], "day.json", &[]).assert().success();
    collect(&[&night], "night.json", &[]).assert().success();
    collect(&[], "merged.json", &["night.json", "day.json"]).assert().success();
    collect(&[&night], "added.json", &["day.json"]).assert().success();
    collect(&[&day, &night], "both.json", &[]).assert().success();
    let both = fs::read(sandbox.path("both.json")).unwrap();
    for name in ["merged.json", "added.json"] {
        assert!(fs::read(sandbox.path(name)).unwrap() == both, "{name}");
    }
    // A frame does not count twice.
    assert_refused(collect(&[&day], "x.json", &["day.json"]).assert(), &["day.json", "in both tables"]);
    assert!(!sandbox.path("x.json").exists());
}

#[test]
fn frames_that_say_too_little_are_refused() {
    let sandbox = Sandbox::new();
    let few = street_folder(sandbox.path("few"), 5);
    let collect = |sources: &[&Path]| calibrate(&sandbox, "collect", &tiny_model(), sources);
    assert_refused(collect(&[&few]).assert(), &["at least 8 frames", "got 5"]);
    // Twelve files, two pictures.
    let same = sandbox.path("same");
    fs::create_dir_all(&same).unwrap();
    for index in 0..12u32 {
        fs::copy(few.join(format!("{:06}.png", index % 2)), same.join(format!("{index:06}.png"))).unwrap();
    }
    assert_refused(collect(&[&same]).args(["--out", "same.json"]).assert(), &["got 2", "12 were read"]);
    let enough = street_folder(sandbox.path("enough"), 10);
    let mut program = collect(&[&enough]);
    assert_refused(program.args(["--frames", "3", "--out", "three.json"]).assert(), &["--frames 3", "at least 8"]);
    assert!(!sandbox.path("three.json.partial").exists(), "before anything is described");
    // A file of somebody else is left alone.
    fs::write(sandbox.path("mine.json.partial"), "my notes").unwrap();
    let assert = collect(&[&enough]).args(["--out", "mine.json"]).assert();
    assert_refused(assert, &["mine.json.partial", "expected the journal", "--out"]);
    assert_eq!(fs::read_to_string(sandbox.path("mine.json.partial")).unwrap(), "my notes");
    // A journal that a kill cut off in its first line is not.
    fs::write(sandbox.path("nine.json.partial"), "{\"line\":\"ru").unwrap();
    assert_refused(collect(&[]).assert(), &["no SOURCE", "--merge"]);
    assert_refused(collect(&[Path::new("nowhere")]).assert(), &["nowhere"]);
    // A picture that cannot be read is left out, and the exit code says so.
    fs::write(enough.join("000004.png"), "no picture").unwrap();
    let assert = collect(&[&enough]).args(["--out", "nine.json", "--json"]).assert().code(1);
    let assert = assert.stderr(predicate::str::contains("000004.png"));
    assert_eq!(document(&assert.get_output().stdout)["skipped"], 1);
}

#[test]
fn frames_unlike_the_street_are_told_with_their_distance() {
    let sandbox = Sandbox::new();
    let shipped = workspace().join("models/zoo/camvid-r18");
    let noise = sandbox.path("noise");
    fs::create_dir_all(&noise).unwrap();
    let mut state = 1u32;
    for index in 0..8 {
        let picture = RgbImage::from_fn(SIZE.0, SIZE.1, |_, _| {
            Rgb([0; 3].map(|_: u8| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            }))
        });
        picture.save(noise.join(format!("{index}.png"))).unwrap();
    }
    let assert = calibrate(&sandbox, "collect", &shipped, &[&noise]).assert().success();
    assert.stderr(
        predicate::str::contains("8 of 8 frames are unlike the street").and(predicate::str::contains("distance 0.")),
    );
    // Without a bank nobody can tell.
    let assert =
        calibrate(&sandbox, "collect", &tiny_model(), &[&noise]).args(["--out", "tiny.json"]).assert().success();
    assert.stderr(predicate::str::contains("cannot be told"));
}

/// A weight so large that a convolution overflows: the tensor is named, not the output at the end.
#[test]
fn activations_that_are_no_numbers_are_named() {
    let sandbox = Sandbox::new();
    let folder = ModelFolder::open(&tiny_model()).unwrap();
    let path = folder.embedding_path(Precision::Fp32).unwrap();
    let (graph, mut weights) = read(&read_file(&path).unwrap(), &path).unwrap();
    let broken = weights.iter_mut().find(|(name, _)| name.contains("res3.0") && name.contains("weight")).unwrap();
    broken.1.values.fill(3e38);
    let mut files: std::collections::BTreeMap<String, Vec<u8>> = folder
        .manifest()
        .files
        .keys()
        .map(|name| (name.clone(), read_file(&folder.path().join(name)).unwrap()))
        .collect();
    files.insert(embedding_file(Precision::Fp32), write(&graph, &weights, Storage::Full).unwrap());
    let model = sandbox.path("broken");
    write_folder(&model, folder.manifest().clone(), &files).unwrap();
    let images = street_folder(sandbox.path("images"), 10);
    let assert = calibrate(&sandbox, "collect", &model, &[&images]).assert();
    assert_refused(assert, &["tensor `embedding/resnet_backbone.res3.0", "NaN or infinite"]);
}

#[test]
fn tables_that_do_not_belong_are_refused() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 10);
    calibrate(&sandbox, "collect", &tiny_model(), &[&images]).args(["--out", "table.json"]).assert().success();
    let table = fs::read_to_string(sandbox.path("table.json")).unwrap();
    let hash = ModelFolder::open(&tiny_model()).unwrap().model_hash().to_owned();
    let quantize = |table: &str| {
        let mut program = calibrate(&sandbox, "quantize", &tiny_model(), &[&images]);
        program.args(["--out", "int8", "--table", table]);
        program
    };
    fs::write(sandbox.path("other.json"), table.replace(&hash, &"a".repeat(64))).unwrap();
    assert_refused(quantize("other.json").assert(), &["other.json", &hash, "aaaaaaaa", "collect again"]);
    let mut merge = calibrate(&sandbox, "collect", &tiny_model(), &[]);
    merge.args(["--merge", "table.json", "--merge", "other.json", "--out", "x.json"]);
    assert_refused(merge.assert(), &["other.json", "aaaaaaaa"]);
    fs::write(sandbox.path("cut.json"), &table[..table.len() / 2]).unwrap();
    assert_refused(quantize("cut.json").assert(), &["cut.json", "damaged"]);
    assert_refused(quantize("nowhere.json").assert(), &["nowhere.json"]);
    fs::write(sandbox.path("less.json"), table.replacen("\"embedding/image\"", "\"embedding/picture\"", 1)).unwrap();
    assert_refused(quantize("less.json").assert(), &["`image`"]);
    let mut none = calibrate(&sandbox, "quantize", &tiny_model(), &[&images]);
    assert_refused(none.assert(), &["calibration.json", "hsg-calibrate collect", "--table"]);
    let mut no_frames = calibrate(&sandbox, "quantize", &tiny_model(), &[]);
    assert_refused(no_frames.args(["--table", "table.json"]).assert(), &["no SOURCE"]);
    assert!(!sandbox.path("int8").exists());
}
