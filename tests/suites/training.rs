//! A training run from outside: what it leaves behind, how it goes on, what it refuses.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::outputs::{files, read_json};
use tests::pictures::street_dataset;
use tests::programs::{Sandbox, Started, hsg_train};
use tests::training::{Run, tiny_settings};

struct Training {
    sandbox: Sandbox,
    root: PathBuf,
}

impl Training {
    /// A small data set and settings for `steps` steps of a tiny network.
    fn new(steps: u32) -> Self {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 3);
        fs::write(sandbox.path("tiny.toml"), tiny_settings(steps).to_string()).unwrap();
        Self { sandbox, root }
    }

    fn arguments(&self, out: &str, options: &[&str]) -> Vec<String> {
        let root = self.root.to_str().expect("the sandbox has a plain name");
        let fixed = ["train", "--config", "tiny.toml", "--out", out, "--root", root];
        fixed.iter().chain(options).map(|&argument| argument.to_owned()).collect()
    }

    /// Runs it to its end and returns what it wrote to stderr.
    fn train(&self, out: &str, options: &[&str], code: i32) -> String {
        let assert = self.sandbox.hsg_train().args(self.arguments(out, options)).assert().code(code);
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    fn run(&self, out: &str) -> Run {
        Run::new(self.sandbox.path(out))
    }
}

/// Everything in a step's line but its times.
fn learned(run: &Run) -> Vec<Value> {
    let without_times = |mut line: Value| {
        for key in ["images_per_second", "wait_share"] {
            line.as_object_mut().expect("an object").remove(key);
        }
        line
    };
    run.metrics().into_iter().map(without_times).collect()
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let training = Training::new(40);
    training.train("whole", &[], 0);
    let cut = training.run("cut");
    let mut command = training.sandbox.command(hsg_train());
    command.args(training.arguments("cut", &[]));
    let mut program = Started::new(command);
    program.wait_until("seven steps", || cut.num_lines() >= 7);
    program.send("KILL");
    program.finish();
    assert!(cut.num_lines() < 40, "killed too late to show anything");
    training.train("cut", &["--resume"], 0);

    let whole = training.run("whole");
    assert_eq!(learned(&cut), learned(&whole), "one thread: every loss is the same to the last bit");
    let weights = |run: &Run| fs::read(run.last_checkpoint().join("weights.safetensors")).unwrap();
    assert!(weights(&cut) == weights(&whole), "the weights differ");
}

#[test]
fn a_run_may_become_longer_and_never_shorter_than_it_is() {
    let training = Training::new(4);
    training.train("run", &[], 0);
    let text = training.train("run", &["--resume", "--steps", "2"], 2);
    assert!(text.contains("run.steps") && text.contains('4'), "{text}");
    // The refusal changed nothing; the run can still go on.
    training.train("run", &["--resume", "--steps", "6"], 0);
    let run = training.run("run");
    assert_eq!(run.assert_whole(), 6);
    assert_eq!(run.metrics().len(), 6);
    let state = read_json(&run.last_checkpoint().join("state.json"));
    assert_eq!(state["rescheduled"][0]["steps_before"], 4);
    assert_eq!(state["commands"].as_array().map(Vec::len), Some(2));
}

#[test]
fn the_model_folder_holds_the_receipt() {
    let training = Training::new(3);
    training.train("run", &[], 0);
    fs::write(training.sandbox.path("my.md"), "# Mine\n").unwrap();
    let mut export = training.sandbox.hsg_train();
    export.args(["export", "run", "--out", "model", "--card", "my.md"]).assert().code(0);
    let text = fs::read_to_string(training.sandbox.path("model/model.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let receipt = &manifest["training"];
    assert_eq!((receipt["step"].as_integer(), receipt["images"].as_integer()), (Some(3), Some(3)));
    assert!(receipt["seconds"].as_float().is_some_and(|s| s >= 0.0));
    let command = receipt["commands"][0].as_str().unwrap();
    assert!(command.starts_with("hsg-train train --config tiny.toml"), "{command}");
    assert_eq!(receipt["settings"]["optimiser"]["learning_rate"].as_float(), Some(0.1));
    let log = fs::read_to_string(training.sandbox.path("model/training.jsonl")).unwrap();
    assert_eq!(log, fs::read_to_string(training.sandbox.path("run/metrics.jsonl")).unwrap());
    assert_eq!(fs::read_to_string(training.sandbox.path("model/CARD.md")).unwrap(), "# Mine\n");
}

#[test]
fn edge_segments_are_made_once_and_used() {
    let training = Training::new(2);
    let edges = |options: &[&str]| -> Value {
        let mut command = training.sandbox.hsg_train();
        command.args(["edges", "--dataset", "camvid", "--split", "train", "--out", "edges", "--json", "--root"]);
        let assert = command.arg(&training.root).args(options).assert().code(0);
        serde_json::from_slice(&assert.get_output().stdout).unwrap()
    };
    let first = edges(&["--preview"]);
    assert_eq!((first["made"].as_u64(), first["present"].as_u64()), (Some(3), Some(0)));
    let second = edges(&[]);
    assert_eq!((second["made"].as_u64(), second["present"].as_u64()), (Some(0), Some(3)));
    let made = files(&training.sandbox.path("edges"));
    assert_eq!(made.iter().filter(|name| name.ends_with(".preview.png")).count(), 3, "{made:?}");
    let map = image::open(training.sandbox.path("edges/0001XX_000000.png")).unwrap();
    assert_eq!(map.color(), image::ColorType::L16);
    training.train("run", &["--edges", "edges"], 0);

    // A map that does not fit its image is named before the first step.
    image::GrayImage::new(5, 4).save(training.sandbox.path("edges/0001XX_000001.png")).unwrap();
    let text = training.train("other", &["--edges", "edges"], 2);
    assert!(text.contains("0001XX_000001.png"), "{text}");
    assert!(!training.sandbox.path("other").exists());
}

#[test]
fn settings_are_shown_and_nothing_is_done() {
    let training = Training::new(7);
    let shown = |arguments: &[&str]| {
        let assert = training.sandbox.hsg_train().args(arguments).arg("--show-settings").assert().code(0);
        String::from_utf8_lossy(&assert.get_output().stdout).into_owned()
    };
    let text = shown(&["train", "--config", "tiny.toml", "--seed", "5"]);
    let settings: toml::Table = text.parse().unwrap();
    assert_eq!(settings["run"]["seed"].as_integer(), Some(5));
    // What is shown can be read again.
    fs::write(training.sandbox.path("shown.toml"), &text).unwrap();
    assert_eq!(shown(&["train", "--config", "shown.toml"]), text);
    let json: Value =
        serde_json::from_str(&shown(&["edges", "--config", "tiny.toml", "--max-regions", "99", "--json"])).unwrap();
    assert_eq!(json["edges"]["max_regions"], 99);
    assert_eq!(files(&training.sandbox.path("")).iter().filter(|name| name.starts_with("run")).count(), 0);
}

#[test]
fn a_run_that_is_terminated_is_whole() {
    let training = Training::new(100_000);
    let run = training.run("run");
    let mut command = training.sandbox.command(hsg_train());
    command.args(training.arguments("run", &[]));
    let mut program = Started::new(command);
    program.wait_until("three steps", || run.num_lines() >= 3);
    program.send("TERM");
    let output = program.finish();
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(run.assert_whole() >= 3);
}

#[test]
fn a_log_on_a_full_disk_is_no_reason_to_stop() {
    let training = Training::new(3);
    let full = Path::new("/dev/full");
    if !full.exists() {
        eprintln!("skipped: this machine has no /dev/full");
        return;
    }
    let mut command = training.sandbox.command(hsg_train());
    command.args(training.arguments("run", &[]));
    let status = command.stderr(fs::File::options().write(true).open(full).unwrap()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(training.run("run").assert_whole(), 3);

    let mut show = training.sandbox.command(hsg_train());
    show.args(["train", "--config", "tiny.toml", "--show-settings"]);
    let output = show.stdout(fs::File::options().write(true).open(full).unwrap()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("stdout") && !text.contains("panicked"), "{text}");
}
