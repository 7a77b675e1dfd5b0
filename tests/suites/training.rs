//! A training run from outside: what it leaves behind, how it goes on, what it refuses.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::disks::SmallDisk;
use tests::outputs::{files, read_json};
use tests::pictures::street_dataset;
use tests::programs::{Sandbox, Started, hsg_train};
use tests::training::{Run, tiny_settings};
use trainer::device::Compute;
use trainer::settings::TrainSettings;
use trainer::trainer::Trainer;

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
    // So is one that is not there: segments of other images.
    fs::remove_file(training.sandbox.path("edges/0001XX_000001.png")).unwrap();
    let text = training.train("other", &["--edges", "edges"], 2);
    assert!(text.contains("0001XX_000001.png") && text.contains("hsg-train edges"), "{text}");
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

#[test]
fn a_loss_that_is_no_number_ends_the_run_with_its_batch() {
    let training = Training::new(40);
    let settings = fs::read_to_string(training.sandbox.path("tiny.toml")).unwrap();
    fs::write(
        training.sandbox.path("tiny.toml"),
        settings
            .replace("learning_rate = 0.1", "learning_rate = 1e30")
            .replace("warm_up_steps = 2", "warm_up_steps = 0"),
    )
    .unwrap();
    let text = training.train("run", &[], 2);
    let folder = files(&training.sandbox.path("run")).into_iter().find(|name| name.starts_with("diverged-"));
    let folder = folder.unwrap_or_else(|| panic!("no batch was saved: {text}"));
    let folder = folder.split('/').next().unwrap().to_owned();
    assert!(text.contains(&folder) && text.contains("NaN") | text.contains("inf"), "{text}");
    let batch = read_json(&training.sandbox.path("run").join(&folder).join("batch.json"));
    assert_eq!(batch["images"].as_array().map(Vec::len), Some(2), "{batch}");
    let bytes = fs::read(training.sandbox.path("run").join(&folder).join("batch.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("pixels").unwrap().shape(), [4, 64, 64, 3]);
    assert_eq!(tensors.tensor("edges").unwrap().shape(), [4, 4, 4]);
    // The checkpoints before it are whole.
    training.run("run").assert_whole();
}

#[test]
fn unreadable_images_are_left_out_until_they_are_too_many() {
    let training = Training::new(3);
    street_dataset(&training.root, "train", 12);
    let broken = training.root.join("train/0001XX_000004.png");
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let text = training.train("run", &[], 1);
    assert!(text.contains("0001XX_000004.png"), "{text}");
    let run = training.run("run");
    assert_eq!(run.assert_whole(), 3);
    assert_eq!(read_json(&run.last_checkpoint().join("state.json"))["images"], 11);
    for index in 5..7 {
        fs::write(training.root.join(format!("train/0001XX_{index:06}.png")), b"not a picture").unwrap();
    }
    let text = training.train("other", &[], 2);
    assert!(text.contains("0001XX_00000") && text.contains("tenth"), "{text}");
    assert!(!training.sandbox.path("other").exists());
}

#[test]
fn a_full_disk_is_survived() {
    let training = Training::new(100_000);
    let Some(disk) = SmallDisk::mount_of(training.sandbox.path("small"), "8m") else { return };
    let run = training.run("small/run");
    let mut command = training.sandbox.command(hsg_train());
    command.args(training.arguments("small/run", &[]));
    let mut program = Started::new(command);
    program.wait_until("eight steps", || run.num_lines() >= 8);
    let mut filler = fs::File::create(disk.0.join("filler")).unwrap();
    while std::io::Write::write(&mut filler, &[1; 4096]).is_ok_and(|n| n > 0) {}
    // An open file keeps its room.
    drop(filler);
    // Nothing can be seen from outside while nothing can be written.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let full = run.num_lines();
    fs::remove_file(disk.0.join("filler")).unwrap();
    program.wait_until("it goes on", || run.num_lines() > full + 20);
    program.send("TERM");
    let output = program.finish();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{text}");
    assert!(text.contains("the run goes on") && !text.contains("panicked"), "{text}");
    let last = run.assert_whole();
    let steps: Vec<u64> = run.metrics().iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=last).collect::<Vec<_>>(), "a line is missing");
}

/// A checkpoint whose files are not what was written is not gone on from, and a run that another process writes is left
/// alone.
#[test]
fn damaged_checkpoints_and_runs_in_use_are_refused() {
    let training = Training::new(4);
    training.train("run", &[], 0);
    let held = fs::File::open(training.sandbox.path("run")).unwrap();
    held.lock().unwrap();
    let text = training.train("run", &["--resume", "--steps", "6"], 2);
    assert!(text.contains("another hsg-train"), "{text}");
    held.unlock().unwrap();
    let weights = training.run("run").last_checkpoint().join("weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let text = training.train("run", &["--resume", "--steps", "6"], 2);
    assert!(text.contains("weights.safetensors") && text.contains("SHA-256"), "{text}");
    let export = |code| training.sandbox.hsg_train().args(["export", "run", "--out", "model"]).assert().code(code);
    export(2);
    assert!(!training.sandbox.path("model").exists());
    fs::write(&weights, whole).unwrap();
    export(0);
}

#[test]
fn the_newest_checkpoints_and_the_best_are_kept() {
    let training = Training::new(12);
    street_dataset(&training.root, "val", 2);
    let mut settings = tiny_settings(12);
    settings["run"]["keep_checkpoints"] = 3.into();
    settings["run"]["pictures_every"] = 6.into();
    for (key, value) in [("every", 4), ("images", 2), ("bank_images", 3)] {
        settings["evaluation"][key] = value.into();
    }
    fs::write(training.sandbox.path("tiny.toml"), settings.to_string()).unwrap();
    training.train("run", &[], 0);
    let run = training.sandbox.path("run");
    let text = fs::read_to_string(run.join("evaluation.jsonl")).unwrap();
    let evaluations: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(evaluations.iter().map(|e| e["step"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 8, 12]);
    let best = evaluations.iter().rev().max_by(|a, b| {
        a["miou"].as_f64().unwrap().total_cmp(&b["miou"].as_f64().unwrap()).then(std::cmp::Ordering::Less)
    });
    let best = format!("{:07}", best.unwrap()["step"].as_u64().unwrap());
    assert_eq!(fs::read_to_string(run.join("best")).unwrap().trim(), best);
    let mut kept: Vec<String> = ["0000008", "0000010", "0000012"].map(str::to_owned).into();
    if !kept.contains(&best) {
        kept.insert(0, best);
    }
    let mut names: Vec<String> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, kept);
    for what in ["view0", "view1", "edges", "level1", "level2", "embedding"] {
        image::open(run.join(format!("pictures/sample0_{what}.png"))).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("mIoU") && report.contains("</html>"), "{}", report.len());
    assert!(report.contains("(highest mIoU)"), "by what the best checkpoint is the best");
    assert!(files(&run).iter().any(|name| name.contains("tfevents")), "no TensorBoard events");
    // The same figures from the command.
    let output = training.sandbox.hsg_train().args(["evaluate", "run", "--best", "--json"]).assert().code(0);
    let again: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let expected = evaluations.iter().find(|e| e["step"] == again["step"]).unwrap();
    assert_eq!((&again["miou"], &again["accuracy"]), (&expected["miou"], &expected["accuracy"]));
}

#[test]
fn terms_of_the_loss_and_views_can_be_switched_off() {
    let training = Training::new(2);
    training.train("edge", &["--losses", "edge", "--views", "1"], 0);
    for line in training.run("edge").metrics() {
        assert!(line["loss_edge"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!(line["loss"], line["loss_edge"], "{line}");
    }
    training.train("grouping", &["--losses", "edge,grouping"], 0);
    for line in training.run("grouping").metrics() {
        assert!(line["loss_grouping_1"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!(line["loss_feature_1"].as_f64(), Some(0.0), "{line}");
    }
    // Another loss is another run.
    let text = training.train("edge", &["--resume", "--steps", "3"], 2);
    assert!(text.contains("batch.views") || text.contains("loss."), "{text}");
}

#[test]
fn epochs_become_steps_of_the_data_set() {
    let training = Training::new(0);
    let mut settings = tiny_settings(0);
    settings["run"].as_table_mut().unwrap().insert("epochs".into(), 3.into());
    fs::write(training.sandbox.path("tiny.toml"), settings.to_string()).unwrap();
    training.train("run", &[], 0);
    // Three images three times, two a step.
    assert_eq!(training.run("run").assert_whole(), 5);
    training.train("run", &["--resume"], 0);
    assert_eq!(training.run("run").metrics().len(), 5);
}

/// With a preset a file need only have what differs from it.
#[test]
fn a_file_may_lie_over_a_preset() {
    let training = Training::new(1);
    let show = |text: &str, options: &[&str], code| {
        fs::write(training.sandbox.path("few.toml"), text).unwrap();
        let mut program = training.sandbox.hsg_train();
        program.args(["train", "--preset", "cityscapes", "--config", "few.toml", "--show-settings"]).args(options);
        program.assert().code(code).get_output().clone()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = show("[batch]\ncrop = 320\n[run]\nsteps = 77\n", &["--seed", "5"], 0);
    let settings: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(
        (settings["batch"]["crop"].as_integer(), settings["batch"]["images"].as_integer()),
        (Some(320), Some(32))
    );
    assert_eq!((settings["run"]["steps"].as_integer(), settings["run"]["seed"].as_integer()), (Some(77), Some(5)));
    assert!(settings["run"].get("epochs").is_none());
    for (bad, word) in
        [("[batch]\ncorp = 320\n", "corp"), ("[batch]\ncrop = \"a\"\n", "few.toml"), ("[batch\n", "few.toml")]
    {
        let error = text(&show(bad, &[], 2).stderr);
        assert!(error.contains(word) && error.contains("few.toml"), "{error}");
    }
}

#[test]
fn every_preset_is_whole() {
    let training = Training::new(0);
    for preset in ["cityscapes", "kitti-step", "camvid", "camvid-cpu", "own-drives", "own-drives-cpu", "published"] {
        let output =
            training.sandbox.hsg_train().args(["train", "--preset", preset, "--show-settings"]).assert().code(0);
        let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
        let settings: toml::Table = text.parse().unwrap();
        assert!(settings["run"]["seed"].is_integer(), "{preset}");
    }
    let output = training.sandbox.hsg_train().args(["train", "--preset", "moon", "--out", "run"]).assert().code(2);
    let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(text.contains("kitti-step") && text.contains("moon"), "{text}");
}

/// A folder with a video and nothing else: frames are taken, over-segmented and learned from.
#[test]
fn own_drives_are_learned_from() {
    let training = Training::new(2);
    let drives = training.sandbox.path("drives/monday");
    fs::create_dir_all(&drives).unwrap();
    fs::copy(tests::folders::workspace().join("assets/clips/highway.mp4"), drives.join("trip.mp4")).unwrap();
    let mut settings = tiny_settings(2);
    settings["data"] = toml::Value::Table(
        "dataset = \"folder\"\nsplit = \".\"\nframes = { min_difference = 0.0, max_per_video = 4 }".parse().unwrap(),
    );
    settings.remove("evaluation");
    fs::write(training.sandbox.path("own.toml"), settings.to_string()).unwrap();
    let mut command = training.sandbox.hsg_train();
    let assert = command.args(["train", "--config", "own.toml", "--root", "drives", "--out", "run"]).assert().code(0);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(text.contains("trip.mp4: 4 of"), "{text}");
    let run = training.run("run");
    assert_eq!(run.assert_whole(), 2);
    assert_eq!(read_json(&run.last_checkpoint().join("state.json"))["images"], 4);
    assert_eq!(files(&training.sandbox.path("drives")), ["monday/trip.mp4"], "nothing is written beside the drives");
}

#[test]
fn a_checkpoint_of_pytorch_becomes_a_model() {
    let training = Training::new(0);
    let file = tests::folders::workspace().join("tests/fixtures/torch_files/tiny.module.legacy.pth");
    let mut command = training.sandbox.hsg_train();
    let assert = command.arg("import").arg(&file).args(["--out", "run"]).assert().code(0);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(text.contains("module.") && text.contains("313 tensors used"), "{text}");
    training.sandbox.hsg_train().args(["export", "run", "--out", "model"]).assert().code(0);
    let card = fs::read_to_string(training.sandbox.path("model/CARD.md")).unwrap();
    assert!(card.contains("import"), "{card}");

    let file = tests::folders::workspace().join("tests/fixtures/torch_files/tiny.backbone_only.pth");
    let assert = training.sandbox.hsg_train().arg("import").arg(&file).args(["--out", "other"]).assert().code(2);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(text.contains("tiny.backbone_only.pth") && text.contains("levels"), "{text}");
    assert!(!training.sandbox.path("other").exists());
}

/// The first convolution's result alone is larger than the limit, so that libtorch's allocator is what fails, with more
/// than a gigabyte left. Nearer to the limit anything may fail first, and oneDNN crashes when it has no memory to
/// generate code.
#[test]
fn memory_that_runs_out_is_explained() {
    let training = Training::new(2);
    let mut settings = tiny_settings(2);
    settings["network"]["width_factor"] = 2.0.into();
    settings["batch"]["images"] = 200.into();
    settings["batch"]["crop"] = 224.into();
    fs::write(training.sandbox.path("tiny.toml"), settings.to_string()).unwrap();
    let mut command = training.sandbox.command("bash");
    command.args(["-c", "ulimit -v 2500000; exec \"$@\"", "bash"]).arg(hsg_train());
    let output = command.args(training.arguments("run", &[])).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("out of memory") && text.contains("lower batch.images"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

/// What is refused before it begins, or warned of, is never more than a step takes.
#[test]
fn a_step_takes_at_least_what_is_counted_before_it() {
    let training = Training::new(1000);
    let mut settings = tiny_settings(1000);
    settings["network"]["width_factor"] = 0.5.into();
    settings["batch"]["images"] = 16.into();
    settings["batch"]["crop"] = 224.into();
    fs::write(training.sandbox.path("tiny.toml"), settings.to_string()).unwrap();
    let settings = TrainSettings::read(&training.sandbox.path("tiny.toml")).unwrap();
    let cpu = Compute::resolve("cpu", "fp32").unwrap();
    let least = Trainer::new(&settings, cpu).unwrap().least_step_bytes().unwrap();

    let run = training.run("run");
    let mut command = training.sandbox.command(hsg_train());
    command.args(training.arguments("run", &[]));
    let mut program = Started::new(command);
    program.wait_until("a step", || run.num_lines() >= 1);
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    program.send("KILL");
    program.finish();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")).unwrap();
    let peak = peak.trim().parse::<u64>().unwrap() << 10;
    println!("counted {least} bytes, resident {peak}");
    // How much more depends on the machine: libtorch itself, and what its threads take.
    assert!(least <= peak && least > 256 << 20, "counted {least}, resident {peak}");
}

/// oneDNN's gradient of 1 × 1 convolutions with few channels crashes on CPUs with AVX-512 and several threads.
#[test]
fn narrow_networks_train_on_several_threads() {
    let training = Training::new(2);
    let mut settings = tiny_settings(2);
    for (key, value) in [("images", 2), ("crop", 224)] {
        settings["batch"][key] = value.into();
    }
    settings["network"]["embedding_dim"] = 128.into();
    settings["run"]["threads"] = 2.into();
    fs::write(training.sandbox.path("tiny.toml"), settings.to_string()).unwrap();
    training.train("run", &[], 0);
    assert_eq!(training.run("run").assert_whole(), 2);
}
