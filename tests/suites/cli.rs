//! What users type and what they get: commands, options, exit codes, the output folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use predicates::prelude::*;
use serde_json::Value;
use tests::folders::{shipped_clip, tiny_model, workspace};
use tests::outputs::{assert_whole, files, read_json};
use tests::pictures::{cityscapes_dataset, own_dataset, street, street_dataset, street_folder};
use tests::programs::{Sandbox, assert_refused};

/// `hsg run` on `sources` with the tiny model; add options and run it.
fn run(sandbox: &Sandbox, sources: &[&Path]) -> assert_cmd::Command {
    let mut command = sandbox.hsg();
    command.arg("run").args(sources).arg("--model").arg(tiny_model());
    command
}

/// The only JSON document on stdout.
fn document(stdout: &[u8]) -> Value {
    serde_json::from_slice(stdout).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(stdout)))
}

#[test]
fn every_command_has_help_with_an_example() {
    let sandbox = Sandbox::new();
    let of_bank = ["bank build", "bank add", "bank list", "bank rename", "bank remove"];
    let others = ["run", "eval", "eval files", "eval merge", "bench", "build", "inspect", "doctor"];
    for command in others.into_iter().chain(of_bank) {
        let assert = sandbox.hsg().args(command.split(' ')).arg("--help").assert().success();
        assert.stdout(predicate::str::contains(format!("hsg {command}")).and(predicate::str::contains("Example")));
    }
    sandbox.hsg().arg("--help").assert().success().stdout(predicate::str::contains("hsg run"));
    sandbox.hsg().arg("--version").assert().success().stdout(predicate::str::starts_with("hsg "));
}

#[test]
fn wrong_usage_is_exit_2() {
    let sandbox = Sandbox::new();
    sandbox.hsg().assert().code(2);
    for (arguments, named) in [
        ("walk", "walk"),
        ("run --colour", "--colour"),
        ("run --frames many", "many"),
        ("run --frames 0", "frames"),
        ("run --frames -1", "invalid digit"),
        ("run --max-disk -1", "max-disk"),
        ("run --save jpeg", "jpeg"),
        ("run --backend magic", "magic"),
        ("run --precision fp64", "fp64"),
        ("eval --dataset imagenet --split val --root .", "imagenet"),
        ("eval --split val", "--dataset"),
    ] {
        let assert = sandbox.hsg().args(arguments.split(' ')).assert().code(2);
        assert.stdout("").stderr(predicate::str::contains(named).and(predicate::str::contains("panicked").not()));
    }
}

/// Frames of another camera than the bank's are said to be such, with their distance; those of its own are not.
#[test]
fn frames_unlike_the_street_are_told() {
    let sandbox = Sandbox::new();
    let shipped = workspace().join("models/zoo/camvid-r18");
    let hint = predicate::str::contains("names will often be wrong");
    let run_on = |source: &Path, model: &Path| {
        let mut hsg = sandbox.hsg();
        hsg.args(["run", "--frames", "2", "--save", "none", "--json", "--model"]).arg(model).arg(source);
        hsg.assert().success()
    };
    let assert = run_on(&shipped_clip(), &shipped).stderr(hint.clone());
    let distance = document(&assert.get_output().stdout)["retrieval"]["distance_to_bank"].as_f64().unwrap();
    assert!((0.15..0.4).contains(&distance), "{distance}");
    // Without a bank there are no names.
    run_on(&shipped_clip(), &tiny_model()).stderr(hint.clone().not());
    // The bank's own frames.
    let root = street_dataset(sandbox.path("camvid"), "train", 2);
    let mut build = sandbox.hsg();
    build.args(["bank", "build", "--dataset", "camvid", "--split", "train", "--out", "own", "--root"]).arg(&root);
    build.arg("--model").arg(tiny_model()).assert().success();
    run_on(&root.join("train"), &sandbox.path("own")).stderr(hint.not());
}

/// What a shell makes of `images/*.png` is one source; with names of their own they are several.
#[test]
fn several_images_are_one_source() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 3);
    let mut files: Vec<_> = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let files: Vec<&Path> = files.iter().map(std::path::PathBuf::as_path).collect();
    run(&sandbox, &files).args(["--out", "one"]).assert().success();
    assert_eq!(assert_whole(&sandbox.path("one")), Some(3));
    let names = ["--name", "a", "--name", "b", "--name", "c"];
    run(&sandbox, &files).args(["--out", "apart", "--save", "labels"]).args(names).assert().success();
    assert!(["a", "b", "c"].iter().all(|name| sandbox.path("apart").join(name).join("labels").is_dir()));
    for bad in ["", " ", "a\u{1b}[31m", "\u{200b}", "a\u{202e}b"] {
        assert_refused(run(&sandbox, &files[..1]).args(["--name", bad]).assert(), &["--name"]);
    }
}

#[test]
fn run_writes_the_output_folder() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 3);
    let out = sandbox.path("out");
    run(&sandbox, &[&images]).arg("--out").arg(&out).assert().code(0);
    let mut expected: Vec<String> = vec!["frames.hsg".into(), "summary.json".into(), "video.avi".into()];
    for frame in 0..3 {
        expected.push(format!("overlay/{frame:06}.jpg"));
        expected.push(format!("classes/{frame:06}.png"));
        expected.extend((0..3).map(|level| format!("labels/level{level}/{frame:06}.png")));
    }
    expected.sort();
    assert_eq!(files(&out), expected);
    assert_eq!(assert_whole(&out), Some(3));
    // A model without a bank names nothing.
    let classes = image::open(out.join("classes/000000.png")).unwrap().into_luma8();
    assert!(classes.pixels().all(|pixel| pixel.0 == [255]));
    assert_eq!(classes.dimensions(), tests::pictures::SIZE);
}

#[test]
fn summary_has_the_agreed_words() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 4);
    let out = sandbox.path("out");
    run(&sandbox, &[&images]).arg("--out").arg(&out).assert().code(0);
    let summary = read_json(&out.join("summary.json"));
    assert_eq!(summary["model"], "tiny-model");
    assert_eq!(summary["backend"]["name"], "cpu");
    assert!(summary["backend"]["version"].is_string() && summary["backend"]["reason"].is_string());
    assert_eq!(summary["precision"], "fp32");
    assert_eq!(summary["source"], images.to_str().unwrap());
    assert_eq!((&summary["frames"], &summary["dropped"], &summary["skipped"]), (&4.into(), &0.into(), &0.into()));
    for key in ["seconds", "frames_per_second", "jitter_millis", "peak_rss_bytes", "cpu_seconds"] {
        assert!(summary[key].as_f64().is_some_and(|value| value >= 0.0), "{key}: {}", summary[key]);
    }
    let stages = ["capture", "preprocess", "embed", "segment", "group", "label", "associate", "refine", "publish"];
    for times in stages.map(|stage| &summary["stages_millis"][stage]).into_iter().chain([&summary["latency_millis"]]) {
        for key in ["mean", "p50", "p99", "p999", "max"] {
            assert!(times[key].as_f64().is_some_and(|value| value >= 0.0), "{key}: {times}");
        }
    }
    assert!(summary["stages_millis"]["embed"]["mean"].as_f64().unwrap() > 0.0);
    let levels = summary["levels"].as_array().unwrap();
    let numbers: Vec<_> = levels.iter().map(|level| level["level"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert!(levels.iter().all(|level| level["segments_mean"].as_f64().unwrap() >= 1.0));
    assert!(summary["machine"]["threads"].as_u64().unwrap() >= 1 && summary["machine"]["cpu"].is_string());
}

#[test]
fn json_is_one_document_and_stdout_holds_nothing_else() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 2);
    let output = run(&sandbox, &[&images]).args(["--out", "out", "--json"]).assert().code(0);
    let printed = document(&output.get_output().stdout);
    assert_eq!(printed, read_json(&sandbox.path("out/summary.json")));
    for arguments in [vec!["inspect", "--json"], vec!["inspect", "--json", "-q"]] {
        let output = sandbox.hsg().args(arguments).arg(tiny_model()).assert().code(0);
        assert!(document(&output.get_output().stdout).is_object());
    }
    // Without --json, people's words are not mixed with data: nothing on stdout looks like half a document.
    let mut bench = sandbox.hsg();
    bench.arg("bench").arg(&images).arg("--model").arg(tiny_model()).args(["--frames", "6", "--json", "-q"]);
    let output = bench.assert().code(0).stderr("");
    assert_eq!(document(&output.get_output().stdout)["frames"], 6);
}

#[test]
fn several_sources_have_a_folder_and_a_summary_each() {
    let sandbox = Sandbox::new();
    let front = street_folder(sandbox.path("a"), 2);
    let rear = street_folder(sandbox.path("b"), 3);
    let names = ["--name", "front", "--name", "rear", "--out", "out", "--json"];
    let output = run(&sandbox, &[&front, &rear]).args(names).assert().code(0);
    let printed = document(&output.get_output().stdout);
    assert_eq!(printed["sources"]["front"]["frames"], 2);
    assert_eq!(printed["sources"]["rear"]["frames"], 3);
    assert_eq!(assert_whole(&sandbox.path("out/front")), Some(2));
    assert_eq!(assert_whole(&sandbox.path("out/rear")), Some(3));
    // --frames counts per source.
    let output = run(&sandbox, &[&front, &rear]).args(names).args(["--save", "none", "--frames", "1"]).assert().code(0);
    let printed = document(&output.get_output().stdout);
    assert_eq!(printed["sources"]["front"]["frames"], 1);
    assert_eq!(printed["sources"]["rear"]["frames"], 1);
}

#[test]
fn sources_whose_names_give_one_folder_get_two() {
    let sandbox = Sandbox::new();
    let one = street_folder(sandbox.path("front cam"), 1);
    let other = street_folder(sandbox.path("front_cam"), 2);
    let output = run(&sandbox, &[&one, &other]).args(["--out", "out", "--json"]).assert().code(0);
    let printed = document(&output.get_output().stdout);
    assert_eq!(printed["sources"]["front cam"]["frames"], 1);
    assert_eq!(printed["sources"]["front_cam-2"]["frames"], 2);
    assert_eq!(assert_whole(&sandbox.path("out/front_cam")), Some(1));
    assert_eq!(assert_whole(&sandbox.path("out/front_cam-2")), Some(2));
}

#[test]
fn a_bound_on_the_disk_is_kept_and_is_exit_1() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 4);
    let bytes_in = |out: &str| -> u64 {
        let results = files(&sandbox.path(out)).into_iter().filter(|name| name != "summary.json");
        results.map(|name| fs::metadata(sandbox.path(out).join(name)).unwrap().len()).sum()
    };
    run(&sandbox, &[&images]).args(["--out", "all"]).assert().code(0);
    let half = bytes_in("all") / 2;
    let stopped = || predicate::str::contains("--max-disk").and(predicate::str::contains("stopped early"));
    let assert = run(&sandbox, &[&images]).args(["--out", "some", "--max-disk", &half.to_string()]).assert();
    assert.code(1).stderr(stopped());
    let frames = assert_whole(&sandbox.path("some")).unwrap();
    assert!((1..4).contains(&frames) && bytes_in("some") <= half, "{frames} frames");
    assert_eq!(read_json(&sandbox.path("some/summary.json"))["frames"], frames);
    // Below the first frame: the source is not empty, the bound is too low.
    for num_images in [4, 1] {
        let images = street_folder(sandbox.path(&format!("images-{num_images}")), num_images);
        let out = format!("none-{num_images}");
        let assert = run(&sandbox, &[&images]).args(["--out", &out, "--max-disk", "10"]).assert().code(1);
        assert.stderr(stopped().and(predicate::str::contains("no frame could be read").not()));
        assert_eq!(files(&sandbox.path(&out)), ["summary.json"]);
        assert_eq!(read_json(&sandbox.path(&out).join("summary.json"))["frames"], 0);
    }
}

#[test]
fn a_folder_with_files_is_refused_without_force() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    let out = sandbox.path("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine.txt"), "keep").unwrap();
    let refused = run(&sandbox, &[&images]).args(["--out", "out"]).assert().code(2);
    refused.stderr(predicate::str::contains("out").and(predicate::str::contains("--force")));
    assert_eq!(files(&out), ["mine.txt"]);
    run(&sandbox, &[&images]).args(["--out", "out", "--force"]).assert().code(0);
    assert_eq!(fs::read_to_string(out.join("mine.txt")).unwrap(), "keep");
    assert!(out.join("summary.json").is_file());
    // An existing empty folder is no obstacle.
    fs::create_dir(sandbox.path("empty")).unwrap();
    run(&sandbox, &[&images]).args(["--out", "empty"]).assert().code(0);
}

#[test]
fn default_folders_are_numbered_and_nothing_else_is_touched() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    for _ in 0..3 {
        run(&sandbox, &[&images]).assert().code(0);
    }
    let entries: BTreeSet<String> = fs::read_dir(sandbox.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(entries, ["hsg-out", "hsg-out-2", "hsg-out-3", "images"].map(str::to_owned).into());
    assert_eq!(files(&images), ["000000.png"]);
}

#[test]
fn save_chooses_what_is_written() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    run(&sandbox, &[&images]).args(["--out", "out", "--save", "classes,frames"]).assert().code(0);
    assert_eq!(files(&sandbox.path("out")), ["classes/000000.png", "frames.hsg", "summary.json"]);
    let assert = run(&sandbox, &[&images]).args(["--save", "none"]).env_remove("HOME").assert();
    assert.code(0);
    assert!(!sandbox.path("hsg-out").exists());
}

#[test]
fn frames_stops_early() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 5);
    run(&sandbox, &[&images]).args(["--out", "out", "--frames", "2"]).assert().code(0);
    assert_eq!(assert_whole(&sandbox.path("out")), Some(2));
}

#[test]
fn settings_come_from_file_environment_and_command_line_in_this_order() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 5);
    let config = format!("[run]\nframes = 1\nsave = 'none'\nsources = ['{}']\n", images.display());
    fs::write(sandbox.path("run.toml"), config).unwrap();
    let frames = |environment: Option<&str>, typed: Option<&str>| {
        let mut command = run(&sandbox, &[]);
        command.args(["--config", "run.toml", "--json"]);
        command.envs(environment.map(|number| ("HSG_FRAMES", number)));
        command.args(typed.into_iter().flat_map(|number| ["--frames", number]));
        document(&command.assert().code(0).get_output().stdout)["frames"].as_u64().unwrap()
    };
    assert_eq!(frames(None, None), 1);
    assert_eq!(frames(Some("2"), None), 2);
    assert_eq!(frames(Some("2"), Some("3")), 3);
}

#[test]
fn shown_settings_are_a_settings_file() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 3);
    let output =
        run(&sandbox, &[&images]).args(["--frames", "2", "--save", "none", "--show-settings"]).assert().code(0);
    let shown = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(shown.contains("frames = 2"), "{shown}");
    fs::write(sandbox.path("shown.toml"), &shown).unwrap();
    let output = sandbox.hsg().args(["run", "--config", "shown.toml", "--json"]).assert().code(0);
    assert_eq!(document(&output.get_output().stdout)["frames"], 2);
}

#[test]
fn doctor_names_what_is_lacking_and_the_remedy() {
    let sandbox = Sandbox::new();
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo");
    // The sandbox has no example clip in reach.
    let assert = sandbox.hsg().args(["doctor", "--json"]).env("HSG_MODELS", &zoo).assert().code(1);
    let report = document(&assert.get_output().stdout);
    let finding = |what: &str| {
        let findings = report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what} in {report}"))
    };
    assert_eq!(report["can_run"], false);
    assert_eq!(
        (&finding("model")["standing"], &finding("example clip")["standing"]),
        (&"ok".into(), &"missing".into())
    );
    assert_eq!(finding("backend cpu")["standing"], "ok");
    let lacking = finding("backend onnxruntime");
    // The sandbox names a library that is not there.
    assert_eq!(lacking["standing"], "broken");
    assert!(lacking["remedy"].as_str().unwrap().contains("cargo xtask deps onnxruntime"), "{lacking}");
    // In the project's folder everything that the first run needs is there.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let words = predicate::str::contains("`hsg run` works here").and(predicate::str::contains("NVIDIA driver"));
    sandbox.hsg().arg("doctor").current_dir(root).assert().code(0).stdout(words);
    assert!(files(&sandbox.path(".")).is_empty(), "nothing is written");
}

#[test]
fn a_backend_that_is_not_there_fails_hard() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    for backend in ["tensorrt", "onnxruntime"] {
        let assert = run(&sandbox, &[&images]).args(["--out", "out", "--backend", backend]).assert().code(2);
        assert.stderr(predicate::str::contains(backend));
        assert!(!sandbox.path("out").exists());
    }
    // A library that is none is named, with what to do.
    fs::write(sandbox.path("lib.so"), "not a library").unwrap();
    let mut hsg = run(&sandbox, &[&images]);
    hsg.args(["--out", "out", "--backend", "onnxruntime"]).env("HSG_ONNXRUNTIME", sandbox.path("lib.so"));
    assert_refused(hsg.assert(), &["HSG_ONNXRUNTIME", "lib.so", "cargo xtask deps onnxruntime", "--backend cpu"]);
    // One that is cut: the loader would map what is not there, and the process would end by a bus error.
    let program = fs::read(tests::programs::hsg()).unwrap();
    fs::write(sandbox.path("cut.so"), &program[..program.len() / 2]).unwrap();
    let mut hsg = run(&sandbox, &[&images]);
    hsg.args(["--out", "out", "--backend", "onnxruntime"]).env("HSG_ONNXRUNTIME", sandbox.path("cut.so"));
    assert_refused(hsg.assert(), &["cut.so", "is cut", "cargo xtask deps onnxruntime", "--backend cpu"]);
    // `auto` goes on without, and says why.
    let mut hsg = run(&sandbox, &[&images]);
    hsg.args(["--save", "none"]).env("HSG_ONNXRUNTIME", sandbox.path("lib.so"));
    hsg.assert().code(0).stderr(predicate::str::contains("cpu (rten").and(predicate::str::contains("lib.so")));
}

#[test]
fn what_is_not_in_this_version_is_refused_in_words() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    let assert = run(&sandbox, &[&images]).args(["--out", "out", "--publish", "zenoh:frames"]).assert().code(2);
    let words = predicate::str::contains("--publish zenoh:frames").and(predicate::str::contains("this version"));
    assert.stdout("").stderr(words);
    assert!(!sandbox.path("out").exists());
}

#[test]
fn data_sets_that_are_not_there_are_refused_in_words() {
    let sandbox = Sandbox::new();
    for command in ["eval", "bank build"] {
        for (dataset, words) in [
            ("cityscapes", "leftImg8bit/val is missing"),
            ("kitti-step", "images/val is missing"),
            ("bsds", "the data sets for models are cityscapes, kitti-step, camvid, folder"),
        ] {
            let mut program = sandbox.hsg();
            program.args(command.split(' ')).args(["--dataset", dataset, "--root", ".", "--split", "val", "--model"]);
            let assert = program.arg(tiny_model()).assert().code(2);
            assert.stdout("").stderr(predicate::str::contains(words));
        }
    }
}

#[test]
fn bench_tracks_what_is_played_at_the_rate_of_a_sequence() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 3);
    let tracked = |rate: &[&str]| {
        let mut command = sandbox.hsg();
        command.arg("bench").arg(&images).arg("--model").arg(tiny_model()).args(["--frames", "2", "--json"]).args(rate);
        document(&command.assert().code(0).get_output().stdout)["track"].as_bool().unwrap()
    };
    assert!(!tracked(&[]));
    assert!(!tracked(&["--rate", "4"]));
    assert!(tracked(&["--rate", "5"]));
}

#[test]
fn bench_measures_and_saves_nothing() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 3);
    let mut command = sandbox.hsg();
    command.arg("bench").arg(&images).arg("--model").arg(tiny_model()).args(["--frames", "20", "--json"]);
    let output = command.assert().code(0);
    // More frames than the source has: it loops.
    assert_eq!(document(&output.get_output().stdout)["frames"], 20);
    let left: Vec<_> = fs::read_dir(sandbox.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["images"]);
}

#[test]
fn inspect_says_what_is_in_a_model() {
    let sandbox = Sandbox::new();
    let words = predicate::str::contains("tiny-model").and(predicate::str::contains("ResNet18"));
    sandbox.hsg().arg("inspect").arg(tiny_model()).assert().code(0).stdout(words);
    let network = tiny_model().join("embedding.fp32.onnx");
    let words = predicate::str::contains("image").and(predicate::str::contains("embedding"));
    sandbox.hsg().arg("inspect").arg(network).assert().code(0).stdout(words);
}

#[test]
fn bank_build_then_eval_names_what_is_seen() {
    let sandbox = Sandbox::new();
    let root = street_dataset(sandbox.path("camvid"), "train", 4);
    let dataset = |command: &mut assert_cmd::Command, model: &Path| {
        command.args(["--dataset", "camvid", "--split", "train", "--root"]).arg(&root).arg("--model").arg(model);
    };
    // Without a bank there are no names, so nothing of classes can be measured.
    let mut eval = sandbox.hsg();
    eval.args(["eval", "--json"]);
    dataset(&mut eval, &tiny_model());
    let measured = document(&eval.assert().code(0).get_output().stdout);
    assert_eq!((&measured["miou"], &measured["accuracy"]), (&Value::Null, &Value::Null));
    // Segments need no names.
    let levels = measured["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 3, "{measured}");
    for (index, level) in levels.iter().enumerate() {
        assert_eq!(level["level"], index);
        for figure in ["covering", "nf_covering", "region_f"] {
            assert!(level[figure].as_f64().is_some_and(|value| value > 0.0 && value < 1.0), "{figure}: {level}");
        }
        assert_eq!((&level["flicker"], &level["id_stability"]), (&Value::Null, &Value::Null));
    }
    let mut eval = sandbox.hsg();
    eval.arg("eval");
    dataset(&mut eval, &tiny_model());
    let words = predicate::str::is_match("level +segments +covering % +NFCovering % +region F %\n0 ").unwrap();
    eval.assert().code(0).stdout(words);

    let named = sandbox.path("named");
    let mut build = sandbox.hsg();
    build.args(["bank", "build", "--out"]).arg(&named);
    dataset(&mut build, &tiny_model());
    build.assert().code(0);
    assert!(named.join("bank.postcard").is_file());

    let mut eval = sandbox.hsg();
    eval.args(["eval", "--json", "--out", "eval"]);
    dataset(&mut eval, &named);
    let measured = document(&eval.assert().code(0).get_output().stdout);
    assert_eq!(measured["dataset"], "camvid");
    assert_eq!(measured["split"], "train");
    assert_eq!(measured["frames"], 4);
    // The network is untrained, but the bank has seen these very pictures: better than one class everywhere.
    assert!(measured["accuracy"].as_f64().unwrap() > 0.5, "{measured}");
    assert!(measured["miou"].as_f64().is_some_and(|miou| (0.0..=1.0).contains(&miou)), "{measured}");
    assert!(measured["per_class"]["sky"].is_number() && measured["per_class"]["fence"].is_null(), "{measured}");

    // And `run` writes classes now.
    street(0).save(sandbox.path("one.png")).unwrap();
    let mut command = sandbox.hsg();
    command.arg("run").arg(root.join("train")).arg("--model").arg(&named).args(["--out", "out", "--frames", "1"]);
    command.assert().code(0);
    let classes = image::open(sandbox.path("out/classes/000000.png")).unwrap().into_luma8();
    assert!(classes.pixels().any(|pixel| pixel.0 != [255]));
}

/// A command on a labelled data set.
fn on_dataset(sandbox: &Sandbox, command: &str, (dataset, root): (&str, &Path), model: &Path) -> assert_cmd::Command {
    let mut program = sandbox.hsg();
    program.args(command.split(' ')).args(["--dataset", dataset, "--split", "train", "--root"]).arg(root);
    program.arg("--model").arg(model);
    program
}

#[test]
fn a_bank_meets_frames_of_another_label_space() {
    let sandbox = Sandbox::new();
    let camvid = street_dataset(sandbox.path("camvid"), "train", 4);
    let cityscapes = cityscapes_dataset(sandbox.path("cityscapes"), "train", 4);
    let named = sandbox.path("named");
    let mut build = on_dataset(&sandbox, "bank build", ("camvid", &camvid), &tiny_model());
    build.arg("--out").arg(&named).assert().code(0);
    let measure = |data: (&str, &Path)| {
        let mut eval = on_dataset(&sandbox, "eval", data, &named);
        document(&eval.args(["--json", "--no-track"]).assert().code(0).get_output().stdout)
    };
    let own_space = measure(("camvid", &camvid));
    assert_eq!(own_space["label_mapping"], Value::Null);
    // The same pictures: what is a wall and a bus there is building and car here.
    let measured = measure(("cityscapes", &cityscapes));
    assert_eq!(measured["accuracy"], own_space["accuracy"], "{measured}");
    for (class, own_class) in [("road", "road"), ("sky", "sky"), ("building", "building"), ("car", "car")] {
        assert_eq!(measured["per_class"][class], own_space["per_class"][own_class], "{class}");
    }
    let mapping = &measured["label_mapping"];
    assert_eq!((&mapping["model"], &mapping["data"]), (&"camvid_11".into(), &"cityscapes_19".into()));
    assert_eq!(mapping["common"].as_array().unwrap().len(), 11);
    assert_eq!(measured["confusion"].as_array().unwrap().len(), 11);
    let text = on_dataset(&sandbox, "eval", ("cityscapes", &cityscapes), &named).assert().code(0);
    text.stdout(predicate::str::contains("car: car = car + truck + bus + train"));

    // A folder with names of its own: two are known under other names, one is not.
    let mine = own_dataset(sandbox.path("mine"), "train", 4, ["Sky", "house", "Street", "dragon"]);
    let measured = measure(("folder", &mine));
    let mapping = &measured["label_mapping"];
    assert_eq!(mapping["only_data"], serde_json::json!(["dragon"]));
    assert!(mapping["only_model"].as_array().unwrap().contains(&"car".into()), "{mapping}");
    let names: Vec<&str> = measured["per_class"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["Sky", "house", "Street"]);
    // Dragons are left out, and nothing else.
    let count = |measured: &Value| -> u64 {
        let rows = measured["confusion"].as_array().unwrap();
        rows.iter().flat_map(|row| row.as_array().unwrap()).map(|n| n.as_u64().unwrap()).sum()
    };
    let (width, height) = tests::pictures::SIZE;
    assert_eq!(count(&own_space), u64::from(4 * width * height));
    assert_eq!(count(&measured), u64::from(4 * (width * height - 18 * 10)));
    // Nothing in common: both sides are listed.
    let alien = own_dataset(sandbox.path("alien"), "train", 1, ["a", "b", "c", "dragon"]);
    let refused = on_dataset(&sandbox, "eval", ("folder", &alien), &named).assert().code(2);
    let words = ["none in common", "sky, building, pole", "a, b, c, dragon", "hsg bank build"];
    for word in words {
        let refused = refused.get_output();
        assert!(String::from_utf8_lossy(&refused.stderr).contains(word), "{word}: {refused:?}");
    }
}

#[test]
fn eval_says_how_far_it_is_from_the_reference() {
    let sandbox = Sandbox::new();
    let camvid = street_dataset(sandbox.path("camvid"), "train", 2);
    let named = sandbox.path("named");
    let mut build = on_dataset(&sandbox, "bank build", ("camvid", &camvid), &tiny_model());
    build.arg("--out").arg(&named).assert().code(0);
    let mut eval = on_dataset(&sandbox, "eval", ("camvid", &camvid), &named);
    let measured =
        document(&eval.args(["--no-track", "--against-reference", "--json"]).assert().code(0).get_output().stdout);
    let reference = &measured["reference"];
    assert_eq!(reference["border_pixels"], 8);
    let maps = reference["maps"].as_array().unwrap();
    let names: Vec<&str> = maps.iter().map(|map| map["map"].as_str().unwrap()).collect();
    assert_eq!(names, ["level 0", "level 1", "level 2", "classes"]);
    for map in maps {
        for (kind, least) in [("same_label", 0.0), ("reference_continued", 0.5)] {
            let share = map[kind]["all"].as_f64().unwrap();
            assert!((least..=1.0).contains(&share), "{kind}: {map}");
        }
        assert_eq!(map["matched"].is_null(), map["map"] == "classes");
        if let Some(matched) = map["matched"]["all"].as_f64() {
            assert!(matched >= map["same_label"]["all"].as_f64().unwrap(), "{map}");
        }
    }
    for times in ["cluster_millis", "frame_millis"] {
        assert!(reference[times]["reference"].as_f64().unwrap() > 0.0, "{reference}");
    }
    // What it calls the reference is what `--reference` measures.
    let mut eval = on_dataset(&sandbox, "eval", ("camvid", &camvid), &named);
    let alone = document(&eval.args(["--no-track", "--reference", "--json"]).assert().code(0).get_output().stdout);
    assert_eq!((&alone["miou"], &alone["accuracy"]), (&reference["miou"], &reference["accuracy"]));
    assert_eq!(alone["reference"], Value::Null);
    // The same segments by another way: every pixel, but for near ties.
    let mut eval = on_dataset(&sandbox, "eval", ("camvid", &camvid), &named);
    let pixels = ["--no-track", "--cluster-pixels", "--against-reference", "--json"];
    let pixels = document(&eval.args(pixels).assert().code(0).get_output().stdout);
    assert_eq!(pixels["resolution"], "pixels");
    for map in pixels["reference"]["maps"].as_array().unwrap() {
        assert!(map["same_label"]["all"].as_f64().unwrap() > 0.999, "{map}");
    }
    for options in [&["--against-reference"][..], &["--against-reference", "--no-track", "--reference"]] {
        let mut eval = on_dataset(&sandbox, "eval", ("camvid", &camvid), &named);
        eval.args(options).assert().code(2).stderr(predicate::str::contains("--against-reference"));
    }
}

#[test]
fn own_names_live_in_the_model_folder() {
    let sandbox = Sandbox::new();
    let names = ["heaven", "house", "street", "little red car"];
    let mine = own_dataset(sandbox.path("mine"), "train", 4, names);
    let named = sandbox.path("named");
    let mut build = on_dataset(&sandbox, "bank build", ("folder", &mine), &tiny_model());
    build.arg("--out").arg(&named).assert().code(0);
    assert!(fs::read_to_string(named.join("classes.toml")).unwrap().contains("little red car"));
    let mut eval = on_dataset(&sandbox, "eval", ("folder", &mine), &named);
    let measured = document(&eval.arg("--json").assert().code(0).get_output().stdout);
    assert_eq!(measured["label_mapping"], Value::Null);
    let found: Vec<&str> = measured["per_class"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, names);
    assert!(measured["accuracy"].as_f64().unwrap() > 0.5, "{measured}");
    sandbox.hsg().arg("inspect").arg(&named).assert().code(0).stdout(predicate::str::contains("mine: heaven, house"));
    // `run` writes their train ids, and a subscriber sees that the class table is another one.
    let mut command = sandbox.hsg();
    command.arg("run").arg(mine.join("train")).arg("--model").arg(&named).args(["--out", "out", "--frames", "1"]);
    command.assert().code(0);
    let classes = image::open(sandbox.path("out/classes/000000.png")).unwrap().into_luma8();
    assert!(classes.pixels().all(|pixel| pixel.0[0] < 4));
    assert!(classes.pixels().any(|pixel| pixel.0[0] == 2));

    // A bank of a built-in label space takes the table away again; a damaged table is noticed.
    let camvid = street_dataset(sandbox.path("camvid"), "train", 2);
    let again = sandbox.path("again");
    on_dataset(&sandbox, "bank build", ("camvid", &camvid), &named).arg("--out").arg(&again).assert().code(0);
    assert!(!again.join("classes.toml").exists());
    assert_eq!(fs::read(again.join("model.toml")).unwrap().len(), {
        let plain = sandbox.path("plain");
        on_dataset(&sandbox, "bank build", ("camvid", &camvid), &tiny_model())
            .arg("--out")
            .arg(&plain)
            .assert()
            .code(0);
        fs::read(plain.join("model.toml")).unwrap().len()
    });
    fs::write(named.join("classes.toml"), "class = []").unwrap();
    let refused = on_dataset(&sandbox, "eval", ("folder", &mine), &named).assert().code(2);
    refused.stderr(predicate::str::contains("classes.toml"));
}

#[test]
fn cityscapes_labels_may_be_train_ids() {
    let sandbox = Sandbox::new();
    let root = cityscapes_dataset(sandbox.path("cityscapes"), "train", 2);
    let named = sandbox.path("named");
    let mut build = on_dataset(&sandbox, "bank build", ("cityscapes", &root), &tiny_model());
    build.arg("--out").arg(&named).assert().code(0);
    let measure = || {
        let mut eval = on_dataset(&sandbox, "eval", ("cityscapes", &root), &named);
        document(&eval.arg("--json").assert().code(0).get_output().stdout)["confusion"].clone()
    };
    let before = measure();
    let labels = root.join("gtFine/train/ulm");
    for entry in fs::read_dir(&labels).unwrap() {
        let path = entry.unwrap().path();
        let mut ids = image::open(&path).unwrap().into_luma8();
        for pixel in ids.pixels_mut() {
            pixel.0[0] = match pixel.0[0] {
                23 => 10,
                12 => 3,
                7 => 0,
                28 => 15,
                other => panic!("{other}"),
            };
        }
        fs::remove_file(&path).unwrap();
        ids.save(path.to_str().unwrap().replace("labelIds", "labelTrainIds")).unwrap();
    }
    assert_eq!(measure(), before);
}

#[test]
fn bank_build_replaces_a_folder_only_when_told() {
    let sandbox = Sandbox::new();
    let root = street_dataset(sandbox.path("camvid"), "train", 1);
    let build = |model: &Path, options: &[&str]| {
        let mut command = sandbox.hsg();
        command.args(["bank", "build", "--dataset", "camvid", "--split", "train", "--root"]).arg(&root);
        command.arg("--model").arg(model).args(options).assert()
    };
    // An empty folder is no obstacle.
    fs::create_dir(sandbox.path("named")).unwrap();
    build(&tiny_model(), &["--out", "named"]).code(0);
    let bank = || fs::read(sandbox.path("named/bank.postcard")).unwrap();
    let before = bank();
    let refused = build(&tiny_model(), &["--out", "named", "--storage", "f32"]).code(2);
    refused.stdout("").stderr(predicate::str::contains("named").and(predicate::str::contains("--force")));
    assert!(bank() == before);
    build(&tiny_model(), &["--out", "named", "--storage", "f32", "--force"]).code(0);
    let forced = bank();
    assert!(forced != before);
    // In place, with or without saying so.
    let named = sandbox.path("named");
    build(&named, &[]).code(0);
    assert!(bank() == before);
    build(&named, &["--out", "./named", "--storage", "f32"]).code(0);
    assert!(bank() == forced);
    // What is no model folder is left alone in any case.
    fs::create_dir(sandbox.path("mine")).unwrap();
    for name in ["mine/note.txt", "note.txt"] {
        fs::write(sandbox.path(name), "keep").unwrap();
    }
    for out in ["mine", "note.txt"] {
        for options in [&["--out", out][..], &["--out", out, "--force"]] {
            build(&tiny_model(), options).code(2).stderr(predicate::str::contains(out));
        }
    }
    assert_eq!(files(&sandbox.path("mine")), ["note.txt"]);
}

#[test]
fn a_clip_is_segmented() {
    let sandbox = Sandbox::new();
    let output = run(&sandbox, &[&shipped_clip()]).args(["--out", "out", "--frames", "3", "--json"]).assert().code(0);
    assert_eq!(document(&output.get_output().stdout)["frames"], 3);
    assert_eq!(assert_whole(&sandbox.path("out")), Some(3));
    let panel = image::open(sandbox.path("out/overlay/000000.jpg")).unwrap();
    assert!(panel.width() > 200 && panel.height() > 200);
}

/// The trainer's commands.
#[cfg(feature = "torch")]
mod training {
    use super::*;
    use tests::training::{Run, tiny_settings};

    #[test]
    fn every_command_of_the_trainer_has_help_with_an_example() {
        let sandbox = Sandbox::new();
        for command in ["train", "edges", "import", "export"] {
            let assert = sandbox.hsg_train().args([command, "--help"]).assert().success();
            let words =
                predicate::str::contains(format!("hsg-train {command}")).and(predicate::str::contains("Example"));
            assert.stdout(words);
        }
        for arguments in ["walk", "train --colour", "train --preset no-such-preset --out run"] {
            let assert = sandbox.hsg_train().args(arguments.split(' ')).assert().code(2);
            assert.stdout("").stderr(predicate::str::contains("panicked").not());
        }
    }

    #[test]
    fn train_export_bank_run() {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 3);
        fs::write(sandbox.path("tiny.toml"), tiny_settings(3).to_string()).unwrap();
        let mut train = sandbox.hsg_train();
        train.args(["train", "--config", "tiny.toml", "--out", "run", "--json", "--root"]).arg(&root);
        let output = train.assert().code(0);
        assert_eq!(document(&output.get_output().stdout)["step"], 3);
        let run = Run::new(sandbox.path("run"));
        assert_eq!(run.assert_whole(), 3);
        let metrics = run.metrics();
        assert_eq!(metrics.len(), 3);
        let words = ["loss_edge", "loss_feature_1", "loss_feature_2", "loss_grouping_1", "loss_grouping_2"];
        for word in words.into_iter().chain(["learning_rate", "images_per_second", "wait_share"]) {
            assert!(metrics[0][word].is_number(), "{word}: {}", metrics[0]);
        }
        // Nothing is written beside the images.
        assert_eq!(files(&root).len(), 7);

        sandbox.hsg_train().args(["export", "run", "--out", "model"]).assert().code(0);
        let mut build = sandbox.hsg();
        build.args(["bank", "build", "--dataset", "camvid", "--split", "train", "--model", "model", "--root"]);
        build.arg(&root).assert().code(0);
        let mut segment = sandbox.hsg();
        segment.arg("run").arg(root.join("train")).args(["--model", "model", "--out", "out"]).assert().code(0);
        assert_eq!(assert_whole(&sandbox.path("out")), Some(3));
    }

    /// A checkpoint as the authors' program writes it, without any settings, becomes a run and a model.
    #[test]
    fn import_export() {
        let sandbox = Sandbox::new();
        let file = workspace().join("tests/fixtures/torch_files/tiny.embedding_model.pth");
        let import = |out: &str| {
            let mut command = sandbox.hsg_train();
            command.arg("import").arg(&file).args(["--out", out, "--json"]).assert()
        };
        let output = import("run").code(0);
        let report = document(&output.get_output().stdout);
        assert_eq!(report["network"]["groups"], serde_json::json!([3, 2]));
        assert_eq!(report["stripped"]["embedding_model."], report["used"]);
        assert!(Run::new(sandbox.path("run")).last_checkpoint().ends_with("0000000"));
        import("run").code(2).stderr(predicate::str::contains("one that holds files"));

        sandbox.hsg_train().args(["export", "run", "--out", "model"]).assert().code(0);
        let card = fs::read_to_string(sandbox.path("model/CARD.md")).unwrap();
        let sha256 = report["sha256"].as_str().unwrap();
        assert!(card.contains("imported weights") && card.contains(sha256), "{card}");
        sandbox.hsg().args(["inspect", "model"]).assert().code(0);

        let mut other = sandbox.hsg_train();
        other.args(["import", "--preset", "camvid-cpu", "--out", "other"]).arg(&file);
        other.assert().code(2).stderr(predicate::str::contains("of another shape"));
        assert!(!sandbox.path("other").exists());
    }

    #[test]
    fn zero_steps_give_the_seeded_untrained_model() {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 2);
        fs::write(sandbox.path("tiny.toml"), tiny_settings(5).to_string()).unwrap();
        let export = |run: &str, seed: &str| {
            let mut train = sandbox.hsg_train();
            train.args(["train", "--config", "tiny.toml", "--steps", "0", "--seed", seed, "--out", run, "--root"]);
            train.arg(&root).assert().code(0);
            let model = sandbox.path(&format!("{run}-model"));
            sandbox.hsg_train().args(["export", run, "--out"]).arg(&model).assert().code(0);
            fs::read(model.join("embedding.fp32.onnx")).unwrap()
        };
        let first = export("a", "1");
        assert!(first == export("b", "1"), "the same seed gives the same bytes");
        assert!(first != export("c", "2"), "another seed gives other weights");
    }
}
