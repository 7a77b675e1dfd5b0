//! Bad input and bad luck, with the real programs: one clear error that names the file and the remedy, the right exit
//! code, nothing half-written, no panic.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use tests::disks::{SmallDisk, with_file_limit};
use tests::folders::{shipped_clip, tiny_model};
use tests::outputs::{assert_whole, files, read_frames, read_json};
use tests::pictures::{street, street_dataset, street_folder};
use tests::programs::{Sandbox, Started, assert_refused, hsg};
use tests::skip;

/// `hsg run SOURCE --out out` with the tiny model.
fn run(sandbox: &Sandbox, source: &Path) -> assert_cmd::Command {
    let mut command = sandbox.hsg();
    command.arg("run").arg(source).arg("--model").arg(tiny_model()).args(["--out", "out"]);
    command
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

#[test]
fn missing_sources() {
    let sandbox = Sandbox::new();
    for source in ["nowhere", "nowhere.mp4", "nowhere/deeper.mp4"] {
        assert_refused(run(&sandbox, source.as_ref()).assert(), &[source, "check the path"]);
        assert!(!sandbox.path("out").exists(), "{source}");
    }
}

/// A PNG whose header says 0 × 0 pixels.
const PNG_WITHOUT_PIXELS: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\0\0\0\0\0\x08\x02\0\0\0\xb4\xe9\xebE\
                                    \0\0\0\0IEND\xae\x42\x60\x82";

/// Adds images that cannot be read to `folder`; returns their names.
fn add_bad_images(folder: &Path) -> [&'static str; 5] {
    let whole = folder.join("whole.png");
    street(9).save(&whole).unwrap();
    let bytes = fs::read(&whole).unwrap();
    fs::remove_file(whole).unwrap();
    fs::write(folder.join("bad-1-cut.png"), &bytes[..bytes.len() / 2]).unwrap();
    let whole = folder.join("whole.jpg");
    street(9).save(&whole).unwrap();
    let bytes = fs::read(&whole).unwrap();
    fs::remove_file(whole).unwrap();
    fs::write(folder.join("bad-2-cut.jpg"), &bytes[..bytes.len() / 3]).unwrap();
    fs::write(folder.join("bad-3-empty.png"), "").unwrap();
    fs::write(folder.join("bad-4-no-pixels.png"), PNG_WITHOUT_PIXELS).unwrap();
    fs::write(folder.join("bad-5-text.png"), "not a picture").unwrap();
    ["bad-1-cut.png", "bad-2-cut.jpg", "bad-3-empty.png", "bad-4-no-pixels.png", "bad-5-text.png"]
}

#[test]
fn unreadable_images_are_skipped_and_counted() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 2);
    let names = add_bad_images(&images);
    street(2).save(images.join("last.png")).unwrap();
    let assert = run(&sandbox, &images).assert().code(1);
    let text = stderr(&assert);
    assert!(!text.contains("panicked"), "{text}");
    for name in names {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(name)).collect();
        assert_eq!(lines.len(), 1, "expected one line about {name} in: {text}");
    }
    let out = sandbox.path("out");
    assert_eq!(assert_whole(&out), Some(3));
    let summary = read_json(&out.join("summary.json"));
    assert_eq!((summary["frames"].as_u64(), summary["skipped"].as_u64()), (Some(3), Some(5)));
    // Unreadable inputs leave gaps: the index is the one in the source.
    assert_eq!(files(&out.join("classes")), ["000000.png", "000001.png", "000007.png"]);
}

#[test]
fn no_readable_image_is_no_run() {
    let sandbox = Sandbox::new();
    let images = sandbox.path("images");
    fs::create_dir(&images).unwrap();
    assert_refused(run(&sandbox, &images).assert(), &["images"]);
    fs::write(images.join("notes.txt"), "no picture").unwrap();
    assert_refused(run(&sandbox, &images).assert(), &["images", ".png"]);
    add_bad_images(&images);
    let assert = run(&sandbox, &images).assert().code(2);
    let text = stderr(&assert);
    assert!(text.contains("bad-1-cut.png") && text.contains("no frame"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(!sandbox.path("out").exists());
}

#[test]
fn a_failed_run_removes_only_folders_that_it_made() {
    let sandbox = Sandbox::new();
    let images = sandbox.path("images");
    fs::create_dir(&images).unwrap();
    add_bad_images(&images);
    let attempt = |out: &str| {
        let mut command = sandbox.hsg();
        command.arg("run").arg(&images).arg("--model").arg(tiny_model()).args(["--out", out]).assert().code(2);
    };
    fs::create_dir_all(sandbox.path("mine/empty")).unwrap();
    attempt("mine/empty");
    assert!(sandbox.path("mine/empty").is_dir());
    attempt("new/deeper/deepest");
    assert!(!sandbox.path("new").exists());
    attempt("mine/empty/new/deeper");
    assert_eq!(fs::read_dir(sandbox.path("mine/empty")).unwrap().count(), 0);
}

#[test]
fn output_that_cannot_be_printed() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 2);
    fs::write(images.join("bad.png"), "no picture").unwrap();
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        return skip("a full terminal", "there is no /dev/full");
    };
    let program = |arguments: &[&str]| {
        let mut command = sandbox.command(hsg());
        command.args(arguments).arg("--model").arg(tiny_model());
        command
    };
    let run = ["run", "images", "--out", "out", "--force", "--json"];
    // Words for people are lost and nothing else: warnings and figures are as they were.
    let output = program(&run).stderr(full.try_clone().unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a frame was skipped");
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, read_json(&sandbox.path("out/summary.json")));
    let output = program(&["run", "nowhere"]).stderr(full.try_clone().unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    // Data that cannot be written are an error.
    let bench = ["bench", "images", "--frames", "1"];
    for arguments in [&run[..], &bench, &["run", "--show-settings"], &["run", "--help"]] {
        let output = program(arguments).stdout(full.try_clone().unwrap()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains("stdout") && !text.contains("panicked"), "{arguments:?}: {text}");
    }
}

#[test]
fn videos_that_are_none() {
    let sandbox = Sandbox::new();
    let clip = fs::read(shipped_clip()).unwrap();
    let position_after =
        |start: usize, word: &[u8; 4]| start + clip[start..].windows(4).position(|bytes| bytes == word).unwrap();
    let position = |word: &[u8; 4]| position_after(0, word);
    let mut other_codec = clip.clone();
    other_codec[position(b"avc1")..][..4].copy_from_slice(b"hev1");
    // The video's table of sample sizes (the sound has one too) claims four thousand million frames.
    let mut damaged = clip.clone();
    let table = position_after(position(b"vmhd"), b"stsz");
    damaged[table + 12..table + 16].copy_from_slice(&[0xff; 4]);
    for (name, bytes, words) in [
        ("text.mp4", &b"this is a text"[..], &["text.mp4", "MP4"][..]),
        ("empty.mp4", &[], &["empty.mp4", "empty"]),
        ("no-index.mp4", &clip[..600], &["no-index.mp4", "copy"]),
        ("codec.mp4", &other_codec, &["codec.mp4", "H.264", "--features gstreamer"]),
        ("damaged.mp4", &damaged, &["damaged.mp4"]),
    ] {
        let path = sandbox.path(name);
        fs::write(&path, bytes).unwrap();
        assert_refused(run(&sandbox, &path).assert(), words);
        assert!(!sandbox.path("out").exists(), "{name}");
    }
}

#[test]
fn a_video_shorter_than_it_promises() {
    let sandbox = Sandbox::new();
    let clip = fs::read(shipped_clip()).unwrap();
    // The index stands in front, so it still promises every frame.
    let cut = sandbox.path("cut.mp4");
    fs::write(&cut, &clip[..clip.len() * 2 / 5]).unwrap();
    let assert = run(&sandbox, &cut).args(["--save", "labels,frames"]).assert().code(1);
    let text = stderr(&assert);
    assert!(text.contains("cut.mp4") && text.contains("38"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let out = sandbox.path("out");
    let summary = read_json(&out.join("summary.json"));
    let frames = summary["frames"].as_u64().unwrap();
    assert!((5..38).contains(&frames), "{frames} frames");
    assert_eq!(summary["skipped"].as_u64(), Some(38 - frames), "what is missing is counted");
    assert_eq!(assert_whole(&out), Some(frames as usize));

    // Frames that were asked for and there are enough.
    let segment = |options: &[&str]| {
        let mut command = sandbox.hsg();
        command.arg("run").arg(&cut).arg("--model").arg(tiny_model()).args(options).assert()
    };
    segment(&["--save", "none", "--frames", "3"]).code(0);

    // All pictures gone, the index whole: nothing could be read.
    let index = clip.windows(4).position(|bytes| bytes == b"mdat").unwrap();
    fs::write(&cut, &clip[..index + 4]).unwrap();
    assert_refused(segment(&["--out", "none"]), &["cut.mp4"]);
    assert!(!sandbox.path("none").exists());
}

/// A copy of the tiny model in the sandbox.
fn model_copy(sandbox: &Sandbox, name: &str) -> PathBuf {
    let copy = sandbox.path(name);
    fs::create_dir(&copy).unwrap();
    for file in files(&tiny_model()) {
        fs::copy(tiny_model().join(&file), copy.join(&file)).unwrap();
    }
    copy
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_model_folder_with_a_changed_byte() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    let dataset = street_dataset(sandbox.path("camvid"), "train", 1);
    let listed: Vec<String> = files(&tiny_model()).into_iter().filter(|name| name != "model.toml").collect();
    assert!(listed.len() >= 3, "{listed:?}");
    for (index, file) in listed.iter().enumerate() {
        let model = model_copy(&sandbox, &format!("model-{index}"));
        flip_a_byte(&model.join(file));
        let words = [file.as_str(), "expected", "got"];
        let images = images.to_str().unwrap();
        let labelled = ["--dataset", "camvid", "--split", "train", "--root", dataset.to_str().unwrap()];
        let commands: [(&[&str], &[&str]); 4] = [
            (&["run", images, "--out", "out"], &[]),
            (&["bench", images], &[]),
            (&["eval"], &labelled),
            (&["bank", "build"], &labelled),
        ];
        for (command, options) in commands {
            let mut program = sandbox.hsg();
            program.args(command).args(options).arg("--model").arg(&model);
            assert_refused(program.assert(), &words);
        }
        assert_refused(sandbox.hsg().arg("inspect").arg(&model).assert(), &words);
        assert!(!sandbox.path("out").exists());
    }
}

#[test]
fn model_folders_that_are_none() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    let attempt = |model: &Path| {
        let mut command = sandbox.hsg();
        command.arg("run").arg(&images).args(["--out", "out", "--model"]).arg(model);
        command.assert()
    };
    assert_refused(attempt("no-such-model".as_ref()), &["no-such-model", "looked in"]);
    assert_refused(attempt(&images), &["model.toml"]);

    let model = model_copy(&sandbox, "lacks-a-file");
    fs::remove_file(model.join("grouping.fp32.onnx")).unwrap();
    assert_refused(attempt(&model), &["grouping.fp32.onnx"]);

    let model = model_copy(&sandbox, "unknown-key");
    let manifest = fs::read_to_string(model.join("model.toml")).unwrap();
    fs::write(model.join("model.toml"), format!("colour = 'red'\n{manifest}")).unwrap();
    assert_refused(attempt(&model), &["model.toml", "colour"]);

    let model = model_copy(&sandbox, "not-toml");
    fs::write(model.join("model.toml"), "= no TOML").unwrap();
    assert_refused(attempt(&model), &["model.toml"]);
    assert!(!sandbox.path("out").exists());
}

#[test]
fn a_bank_of_another_model_or_with_a_changed_byte() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    let dataset = street_dataset(sandbox.path("camvid"), "train", 1);
    let build = |model: &Path, out: &str| {
        let mut build = sandbox.hsg();
        build.args(["bank", "build", "--dataset", "camvid", "--split", "train", "--out", out, "--root"]);
        build.arg(&dataset).arg("--model").arg(model).assert().code(0)
    };
    build(&tiny_model(), "named");

    // Fed in another way it is another model: its features cannot be compared with those in the bank. The remedy works.
    let manifest = fs::read_to_string(sandbox.path("named/model.toml")).unwrap();
    let other = manifest.replace("rounds = 10", "rounds = 9");
    assert_ne!(manifest, other);
    fs::write(sandbox.path("named/model.toml"), other).unwrap();
    let (images, root) = (images.to_str().unwrap(), dataset.to_str().unwrap());
    for command in [
        &["run", images, "--out", "out"][..],
        &["bench", images],
        &["eval", "--dataset", "camvid", "--split", "train", "--root", root],
    ] {
        let mut program = sandbox.hsg();
        program.args(command).args(["--model", "named"]);
        assert_refused(program.assert(), &["bank.postcard", "was built with model", "hsg bank build"]);
    }
    assert!(!sandbox.path("out").exists());
    build(&sandbox.path("named"), "again").stderr(predicate::str::contains("no prototype bank").not());
    let mut command = sandbox.hsg();
    command.args(["run", images, "--model", "again", "--save", "none"]).assert().code(0);

    flip_a_byte(&sandbox.path("named/bank.postcard"));
    let mut command = sandbox.hsg();
    command.args(["run", images, "--model", "named", "--out", "out"]);
    assert_refused(command.assert(), &["bank.postcard"]);
}

#[test]
fn unknown_keys_in_settings() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    for (text, key) in [("colour = 'red'", "colour"), ("[run]\nfarmes = 3", "farmes"), ("[bnech]\nframes = 3", "bnech")]
    {
        fs::write(sandbox.path("wrong.toml"), text).unwrap();
        let assert = run(&sandbox, &images).args(["--config", "wrong.toml"]).assert();
        // The parser shows the line, so the message has several.
        let text = stderr(&assert.code(2));
        assert!(text.contains("wrong.toml") && text.contains(key), "{text}");
        assert!(!text.contains("panicked") && text.matches("error: ").count() == 1, "{text}");
        assert!(!sandbox.path("out").exists());
    }
    let assert = run(&sandbox, &images).args(["--config", "missing.toml"]).assert();
    assert_refused(assert, &["missing.toml"]);
}

#[test]
fn a_quota_is_reached_while_writing() {
    let sandbox = Sandbox::new();
    let mut command = with_file_limit(&sandbox, 64, hsg());
    command.arg("run").arg(shipped_clip()).arg("--model").arg(tiny_model()).args(["--out", "out", "--frames", "5"]);
    let assert = assert_cmd::Command::from_std(command).assert();
    assert_refused(assert, &["out/", "--out"]);
    if sandbox.path("out").exists() {
        assert_whole(&sandbox.path("out"));
    }
}

#[test]
fn the_disk_is_full_while_writing() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(sandbox.path("small")) else { return };
    let mut command = sandbox.hsg();
    command.arg("run").arg(shipped_clip()).arg("--model").arg(tiny_model()).args(["--out", "small/out"]);
    assert_refused(command.assert(), &["small/out/", "free some space"]);
    if disk.0.join("out").exists() {
        assert_whole(&disk.0.join("out"));
        fs::remove_dir_all(disk.0.join("out")).unwrap();
    }

    // A model folder is written whole or not at all.
    let dataset = street_dataset(sandbox.path("camvid"), "train", 2);
    let filler = vec![1_u8; 150 << 10];
    fs::write(disk.0.join("filler"), filler).unwrap();
    let mut build = sandbox.hsg();
    build.args(["bank", "build", "--dataset", "camvid", "--split", "train", "--out", "small/named", "--root"]);
    build.arg(&dataset).arg("--model").arg(tiny_model());
    assert_refused(build.assert(), &["small"]);
    assert_eq!(files(&disk.0), ["filler"]);
}

/// Starts a long run, sends `signal` after the third frame and checks what is left.
fn interrupted_run(signal: &str, exit_code: i32) {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(hsg());
    command.arg("run").arg(shipped_clip()).arg("--model").arg(tiny_model()).args(["--out", "out"]);
    let mut program = Started::new(command);
    let third = sandbox.path("out/labels/level0/000002.png");
    program.wait_until("the third frame", || third.exists());
    program.send(signal);
    let output = program.finish();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{text}");
    assert!(!text.contains("panicked"), "{text}");

    let out = sandbox.path("out");
    let num_frames = assert_whole(&out).expect("frames.hsg is there");
    assert!((3..38).contains(&num_frames), "{num_frames} frames before the end of the clip");
    // Every kind of file ends with the same frame.
    for folder in ["overlay", "classes", "labels/level0", "labels/level1", "labels/level2"] {
        assert_eq!(files(&out.join(folder)).len(), num_frames, "{folder}");
    }
    assert_eq!(tests::outputs::avi_frames(&out.join("video.avi")).len(), num_frames);
    assert_eq!(read_json(&out.join("summary.json"))["frames"].as_u64(), Some(num_frames as u64));
    assert_eq!(read_frames(&out.join("frames.hsg")).last().unwrap().sequence + 1, num_frames as u64);
}

#[test]
fn ctrl_c_during_a_run_leaves_whole_files() {
    interrupted_run("INT", 130);
}

#[test]
fn sigterm_during_a_run_leaves_whole_files() {
    interrupted_run("TERM", 143);
}

#[test]
fn an_output_path_that_is_a_file() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    fs::write(sandbox.path("out"), "mine").unwrap();
    assert_refused(run(&sandbox, &images).assert(), &["out", "file"]);
    assert_refused(run(&sandbox, &images).arg("--force").assert(), &["out", "file"]);
    assert_eq!(fs::read_to_string(sandbox.path("out")).unwrap(), "mine");
}

/// A pipe that nobody writes to is refused or skipped; opening it would wait for ever.
#[test]
fn pipes_are_no_files() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 2);
    for pipe in [sandbox.path("v.mp4"), images.join("a.png")] {
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    }
    assert_refused(run(&sandbox, &sandbox.path("v.mp4")).assert(), &["v.mp4", "pipe"]);
    let text = stderr(&run(&sandbox, &images).args(["--save", "none"]).assert().code(1));
    assert!(text.contains("a.png") && text.contains("pipe") && text.contains("1 skipped"), "{text}");
}

/// Two runs never write into one folder at the same time.
#[test]
fn a_folder_in_use() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1);
    fs::create_dir(sandbox.path("out")).unwrap();
    let held = fs::File::open(sandbox.path("out")).unwrap();
    held.lock().unwrap();
    assert_refused(run(&sandbox, &images).assert(), &["--out", "another program"]);
    held.unlock().unwrap();
    run(&sandbox, &images).assert().code(0);
}

#[test]
fn readers_that_have_read_enough() {
    let sandbox = Sandbox::new();
    for arguments in ["--help", "run --help", "run --show-settings", "doctor"] {
        let mut command = sandbox.command(hsg());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.args(arguments.split(' ')).stdout(writer).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("error") && !text.contains("panicked"), "{arguments}: {text}");
        assert_ne!(output.status.code(), Some(2), "{arguments}");
    }
}

#[test]
fn bad_data_sets() {
    let sandbox = Sandbox::new();
    let attempt = |root: &Path, split: &str| {
        let mut command = sandbox.hsg();
        command.args(["eval", "--dataset", "camvid", "--split", split, "--root"]).arg(root);
        command.arg("--model").arg(tiny_model()).assert()
    };
    assert_refused(attempt("nowhere".as_ref(), "val"), &["nowhere"]);
    let root = street_dataset(sandbox.path("camvid"), "val", 2);
    assert_refused(attempt(&root, "test"), &["test.txt", "val"]);
    fs::remove_file(root.join("valannot/0001XX_000001.png")).unwrap();
    assert_refused(attempt(&root, "val"), &["0001XX_000001.png"]);
}

#[test]
fn bad_labels_are_named_with_file_and_remedy() {
    let sandbox = Sandbox::new();
    let eval = |dataset: &str, root: &Path, split: &str| {
        let mut command = sandbox.hsg();
        command.args(["eval", "--dataset", dataset, "--split", split, "--root"]).arg(root);
        command.arg("--model").arg(tiny_model()).assert()
    };
    let root = street_dataset(sandbox.path("camvid"), "val", 2);
    let labels = root.join("valannot/0001XX_000001.png");
    // A value outside the table, with its place.
    let mut wrong = image::open(&labels).unwrap().into_luma8();
    wrong.put_pixel(5, 7, image::Luma([77]));
    wrong.save(&labels).unwrap();
    assert_refused(eval("camvid", &root, "val"), &["0001XX_000001.png", "77", "camvid_11", "0–11"]);
    // Labels of another size than the image.
    image::GrayImage::new(10, 10).save(&labels).unwrap();
    assert_refused(eval("camvid", &root, "val"), &["0001XX_000001.png", "10×10", "96×64"]);
    // Labels in colour: which class a colour means is not known.
    street(0).save(&labels).unwrap();
    assert_refused(eval("camvid", &root, "val"), &["0001XX_000001.png"]);
    // A frame that the list has and the disk does not.
    fs::remove_file(root.join("val/0001XX_000000.png")).unwrap();
    assert_refused(eval("camvid", &root, "val"), &["0001XX_000000.png", "1 of 2"]);
    // Nothing at all.
    fs::write(root.join("empty.txt"), "").unwrap();
    assert_refused(eval("camvid", &root, "empty"), &["empty"]);
    fs::create_dir_all(sandbox.path("none/leftImg8bit/val/city")).unwrap();
    assert_refused(eval("cityscapes", &sandbox.path("none"), "val"), &["leftImg8bit/val", "official archive"]);
    // Images without a table of classes, and with an empty one.
    let folder = street_folder(sandbox.path("mine/val"), 1);
    assert_refused(eval("folder", folder.parent().unwrap(), "val"), &["classes.toml", "missing"]);
    fs::write(sandbox.path("mine/classes.toml"), "class = []\n").unwrap();
    assert_refused(eval("folder", &sandbox.path("mine"), "val"), &["classes.toml", "at least one"]);
}

/// The trainer's faults.
#[cfg(feature = "torch")]
mod training {
    use super::*;
    use tests::programs::hsg_train;
    use tests::training::{Run, tiny_settings};

    #[test]
    fn unknown_keys_in_training_settings() {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 2);
        for (section, key) in [("run", "setps"), ("network", "widht")] {
            let mut settings = tiny_settings(2);
            settings[section].as_table_mut().unwrap().insert(key.into(), 3.into());
            fs::write(sandbox.path("wrong.toml"), settings.to_string()).unwrap();
            let mut command = sandbox.hsg_train();
            command.args(["train", "--config", "wrong.toml", "--out", "run", "--root"]).arg(&root);
            let text = stderr(&command.assert().code(2));
            assert!(text.contains("wrong.toml") && text.contains(key) && !text.contains("panicked"), "{text}");
            assert!(!sandbox.path("run").exists());
        }
    }

    #[test]
    fn ctrl_c_during_training_leaves_a_whole_checkpoint() {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 3);
        let run = Run::new(sandbox.path("run"));
        fs::write(sandbox.path("long.toml"), tiny_settings(100_000).to_string()).unwrap();
        let mut step = 0;
        // What was learned is not lost: the second round goes on where the first one stopped.
        for options in [&[][..], &["--resume"]] {
            let mut command = sandbox.command(hsg_train());
            command.args(["train", "--config", "long.toml", "--out", "run", "--root"]).arg(&root).args(options);
            let mut program = Started::new(command);
            program.wait_until("five more steps", || run.num_lines() as u64 >= step + 5);
            program.send("INT");
            let output = program.finish();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{text}");
            assert!(!text.contains("panicked"), "{text}");

            let reached = run.assert_whole();
            assert!(reached >= step + 5, "interrupted after step {reached}");
            step = reached;
            let steps: Vec<u64> = run.metrics().iter().map(|line| line["step"].as_u64().unwrap()).collect();
            assert_eq!(steps.len() as u64, step, "one line a step");
            assert!(steps.windows(2).all(|pair| pair[1] == pair[0] + 1), "{steps:?}");
        }
    }

    #[test]
    fn a_checkpoint_of_another_architecture() {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 2);
        let mut wider = tiny_settings(0);
        wider["network"]["embedding_dim"] = 32.into();
        fs::write(sandbox.path("tiny.toml"), tiny_settings(0).to_string()).unwrap();
        fs::write(sandbox.path("wider.toml"), wider.to_string()).unwrap();
        let train = |settings: &str, out: &str, options: &[&str]| {
            let mut command = sandbox.hsg_train();
            command.args(["train", "--config", settings, "--out", out, "--root"]).arg(&root).args(options);
            command.assert()
        };
        train("tiny.toml", "run", &[]).code(0);
        train("wider.toml", "other", &[]).code(0);
        let before = fs::read(sandbox.path("run/settings.toml")).unwrap();
        let text = stderr(&train("wider.toml", "run", &["--resume"]).code(2));
        assert!(text.contains("embedding_dim") && !text.contains("panicked"), "{text}");
        assert_eq!(fs::read(sandbox.path("run/settings.toml")).unwrap(), before);

        // A checkpoint that was copied from another run.
        let weights = |run: &str| Run::new(sandbox.path(run)).last_checkpoint().join("weights.safetensors");
        fs::copy(weights("other"), weights("run")).unwrap();
        for arguments in [&["export", "run", "--out", "model"][..], &["train", "--config", "tiny.toml", "--out", "run"]]
        {
            let mut command = sandbox.hsg_train();
            command.args(arguments);
            if arguments[0] == "train" {
                command.args(["--resume", "--steps", "1", "--root"]).arg(&root);
            }
            let text = stderr(&command.assert().code(2));
            assert!(text.contains("run/checkpoints") && !text.contains("panicked"), "{text}");
        }
        assert!(!sandbox.path("model").exists());
    }

    #[test]
    fn a_quota_is_reached_while_writing_a_checkpoint() {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 2);
        fs::write(sandbox.path("tiny.toml"), tiny_settings(4).to_string()).unwrap();
        let mut command = with_file_limit(&sandbox, 64, hsg_train());
        command.args(["train", "--config", "tiny.toml", "--out", "run", "--root"]).arg(&root);
        let text = stderr(&assert_cmd::Command::from_std(command).assert().code(2));
        assert!(text.contains("run") && !text.contains("panicked"), "{text}");
        assert!(!sandbox.path("run/last").exists(), "no checkpoint fits, so none is named");
        let left = files(&sandbox.path("run"));
        assert!(!left.iter().any(|name| name.ends_with(".safetensors")), "{left:?}");
    }

    #[test]
    fn runs_that_are_none() {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.path("empty")).unwrap();
        for arguments in [["export", "empty"], ["export", "nowhere"]] {
            let mut command = sandbox.hsg_train();
            let text = stderr(&command.args(arguments).args(["--out", "model"]).assert().code(2));
            assert!(text.contains(arguments[1]) && !text.contains("panicked"), "{text}");
        }
        fs::write(sandbox.path("tiny.toml"), tiny_settings(1).to_string()).unwrap();
        let train = |root: &Path| {
            let mut command = sandbox.hsg_train();
            command.args(["train", "--config", "tiny.toml", "--out", "run", "--root"]).arg(root).assert()
        };
        let text = stderr(&train("nowhere".as_ref()).code(2));
        assert!(text.contains("nowhere") && !text.contains("panicked"), "{text}");
        assert!(!sandbox.path("model").exists());
        // The failed try is no obstacle to the next one.
        train(&street_dataset(sandbox.path("camvid"), "train", 2)).code(0);
        assert_eq!(Run::new(sandbox.path("run")).assert_whole(), 1);
    }

    #[test]
    fn an_unreadable_training_image() {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 2);
        let image = root.join("train/0001XX_000001.png");
        let bytes = fs::read(&image).unwrap();
        fs::write(&image, &bytes[..bytes.len() / 2]).unwrap();
        fs::write(sandbox.path("tiny.toml"), tiny_settings(1).to_string()).unwrap();
        let mut command = sandbox.hsg_train();
        command.args(["train", "--config", "tiny.toml", "--out", "run", "--root"]).arg(&root);
        let text = stderr(&command.assert().code(2));
        assert!(text.contains("0001XX_000001.png") && !text.contains("panicked"), "{text}");
    }
}
