//! Names that a person gives: `hsg bank add`, `list`, `rename`, `remove`, and what `hsg run` makes of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use predicates::prelude::*;
use runtime::sink::class_table_hash;
use segcore::hierarchy::{ClassId, TrainId};
use segcore::image_io;
use segcore::label_space::{Class, LabelSpace};
use serde_json::{Value, json};
use tests::folders::tiny_model;
use tests::networks::model_with_bank;
use tests::outputs::{assert_nested, assert_whole, files, read_frames, read_json};
use tests::pictures::{SIZE, street_dataset, street_folder};
use tests::programs::{Sandbox, Started, assert_refused};

/// A pixel of the sky and one of the road in every picture.
const SKY: (usize, usize) = (5, 5);
const ROAD: (usize, usize) = (60, 60);

/// A sandbox with a model that has a bank of made-up prototypes, and three pictures.
struct Trial {
    sandbox: Sandbox,
    model: PathBuf,
    images: PathBuf,
}

impl Trial {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let model = model_with_bank(&sandbox.path(""));
        let images = street_folder(sandbox.path("images"), 3);
        Self { sandbox, model, images }
    }

    /// The same with a model that has no bank.
    fn without_bank() -> Self {
        let sandbox = Sandbox::new();
        let images = street_folder(sandbox.path("images"), 3);
        Self { sandbox, model: tiny_model(), images }
    }

    /// `hsg bank …` for the model.
    fn bank(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut hsg = self.sandbox.hsg();
        hsg.arg("bank").args(arguments).arg("--model").arg(&self.model);
        hsg
    }

    fn add(&self, (x, y): (usize, usize), name: &str, more: &[&str]) -> assert_cmd::Command {
        let mut hsg = self.bank(&["add"]);
        hsg.arg(&self.images).args(["--at", &format!("{x},{y}"), "--name", name]).args(more);
        hsg
    }

    /// The report of `hsg bank …` that succeeds.
    fn report(mut command: assert_cmd::Command) -> Value {
        let assert = command.arg("--json").assert().success();
        let stdout = &assert.get_output().stdout;
        serde_json::from_slice(stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(stdout)))
    }

    /// `hsg run` on the pictures.
    fn run(&self, out: &str, more: &[&str]) -> assert_cmd::Command {
        let mut hsg = self.sandbox.hsg();
        hsg.arg("run").arg(&self.images).args(["--out", out, "--model"]).arg(&self.model).args(more);
        hsg
    }

    /// The class of a pixel in a picture.
    fn class_at(&self, out: &str, frame: usize, (x, y): (usize, usize)) -> u8 {
        self.classes(out, frame)[y * SIZE.0 as usize + x]
    }

    fn classes(&self, out: &str, frame: usize) -> Vec<u8> {
        image_io::read_gray8(self.sandbox.path(out).join(format!("classes/{frame:06}.png"))).unwrap().pixels
    }

    /// The only file of names.
    fn file(&self) -> PathBuf {
        let folder = self.sandbox.path(".local/state/hsg/banks");
        let names = files(&folder);
        let [name] = names.as_slice() else { panic!("expected one file, got {names:?}") };
        assert!(name.len() == 64 + ".user".len() && name.ends_with(".user"), "{name}");
        folder.join(name)
    }
}

/// The classes of the models here, with more names.
fn with_names(mut space: LabelSpace, names: &[&str]) -> LabelSpace {
    for name in names {
        let id = space.classes.len() as u8;
        let name = (*name).to_owned();
        space.classes.push(Class { name, train_id: TrainId(id), color: [0; 3], thing: false, class_id: ClassId(0) });
    }
    space
}

#[test]
fn what_is_named_is_found_again() {
    let trial = Trial::new();
    trial.run("before", &[]).assert().success().stderr(predicate::str::contains("of yours (").not());
    let report = Trial::report(trial.add(SKY, "forklift", &["--frame", "1"]));
    let segment = &report["segments"][0];
    assert_eq!((&report["train_id"], &segment["entry"], &segment["result"]), (&json!(11), &json!(1), &json!("new")));
    assert_eq!(segment["after"], "forklift", "{report}");
    let before = trial.class_at("before", 1, SKY);
    assert_eq!(segment["before"], LabelSpace::camvid_11().classes[usize::from(before)].name, "{report}");
    let [x0, y0, x1, y1] = [0, 1, 2, 3].map(|i| segment["bounding_box"][i].as_u64().unwrap() as usize);
    assert!((x0..x1).contains(&SKY.0) && (y0..y1).contains(&SKY.1), "{report}");
    assert!(segment["area"].as_u64().unwrap() as usize <= (x1 - x0) * (y1 - y0));
    let changed = report["changes"].as_array().unwrap();
    assert!(changed.iter().all(|change| change["after"] == "forklift"), "{report}");

    let assert = trial.run("after", &[]).assert().success();
    assert.stderr(predicate::str::contains("names: the model's bank (500 prototypes) + 1 of yours"));
    assert_eq!(assert_whole(&trial.sandbox.path("after")), Some(3));
    assert_nested(&trial.sandbox.path("after"));
    // Images are segmented one by one, so this is what `add` has said.
    assert_eq!(trial.class_at("after", 1, SKY), 11);
    // The sky of the other pictures looks the same.
    assert!([0, 2].iter().all(|frame| trial.classes("after", *frame).contains(&11)));
    // Nothing that changed changed to anything else, and segments are what they were.
    for frame in 0..3 {
        let pairs = trial.classes("before", frame).into_iter().zip(trial.classes("after", frame));
        assert!(pairs.into_iter().all(|(before, after)| after == before || after == 11));
    }
    let labels = |out: &str| fs::read(trial.sandbox.path(out).join("labels/level0/000001.png")).unwrap();
    assert_eq!(labels("before"), labels("after"));
    let frames = read_frames(&trial.sandbox.path("after/frames.hsg"));
    let space = with_names(LabelSpace::camvid_11(), &["forklift"]);
    assert!(frames.iter().all(|frame| frame.class_table_hash == class_table_hash(&space)));
    assert!(frames[1].levels[0].segments.iter().any(|segment| segment.train_id == Some(11)));
    let summary = read_json(&trial.sandbox.path("after/summary.json"));
    assert_eq!(summary["retrieval"]["user_prototypes"], 1);
    assert_eq!(summary["retrieval"]["user_classes"], json!({"forklift": 11}));

    // Without them everything is as it was, and so it is when they are gone.
    trial.run("without", &["--no-user-bank"]).assert().success();
    assert_eq!(read_json(&trial.sandbox.path("without/summary.json"))["retrieval"]["user_prototypes"], 0);
    trial.bank(&["remove", "FORKLIFT"]).assert().success();
    trial.file();
    trial.run("gone", &[]).assert().success().stderr(predicate::str::contains("of yours (").not());
    for out in ["without", "gone"] {
        for name in files(&trial.sandbox.path("before")) {
            // Times differ; pictures do not, nor does the rest of the frames.
            if name.starts_with("classes") || name.starts_with("labels") || name.starts_with("overlay") {
                let read = |out: &str| fs::read(trial.sandbox.path(out).join(&name)).unwrap();
                assert_eq!(read("before"), read(out), "{out}/{name}");
            }
        }
        let without_times = |out: &str| -> Vec<_> {
            let frames = read_frames(&trial.sandbox.path(out).join("frames.hsg"));
            frames.into_iter().map(|frame| (frame.class_table_hash, frame.levels)).collect()
        };
        assert_eq!(without_times("before"), without_times(out), "{out}");
    }
}

/// A model without a bank names what was named, and nothing else.
#[test]
fn a_model_without_a_bank_learns_names() {
    let trial = Trial::without_bank();
    trial.run("before", &[]).assert().success().stderr(predicate::str::contains("hsg bank add"));
    let report = Trial::report(trial.add(SKY, "the sky", &[]));
    assert_eq!((&report["train_id"], &report["segments"][0]["before"]), (&json!(0), &Value::Null));
    let report = Trial::report(trial.add(ROAD, "way", &["--frame", "2"]));
    assert_eq!((&report["train_id"], &report["segments"][0]["after"]), (&json!(1), &json!("way")));
    trial.run("after", &[]).assert().success().stderr(predicate::str::contains("no bank of the model's + 2 of yours"));
    assert_whole(&trial.sandbox.path("after"));
    assert_nested(&trial.sandbox.path("after"));
    assert_eq!((trial.class_at("after", 0, SKY), trial.class_at("after", 2, ROAD)), (0, 1));
    assert!((0..3).all(|frame| trial.classes("after", frame).iter().all(|class| matches!(class, 0 | 1 | 255))));
    let none = LabelSpace { classes: Vec::new(), ..LabelSpace::camvid_11() };
    let frames = read_frames(&trial.sandbox.path("after/frames.hsg"));
    assert_eq!(frames[0].class_table_hash, class_table_hash(&with_names(none, &["the sky", "way"])));
    for segment in frames.iter().flat_map(|frame| &frame.levels).flat_map(|level| &level.segments) {
        assert!(segment.train_id.is_some() || segment.confidence == 0.0, "{segment:?}");
    }
    let summary = read_json(&trial.sandbox.path("after/summary.json"));
    assert_eq!(summary["retrieval"]["prototypes"], 0);
    assert_eq!(summary["retrieval"]["user_classes"], json!({"the sky": 0, "way": 1}));
    // Counted votes, and video, whose names are kept from frame to frame.
    trial.run("counted", &["--count-votes", "--save", "classes"]).assert().success();
    assert_eq!(trial.class_at("counted", 0, SKY), 0);
    let video = format!("{}?rate=20", trial.images.display());
    let mut tracked = trial.sandbox.hsg();
    tracked.args(["run", &video, "--out", "tracked", "--model"]).arg(&trial.model).assert().success();
    assert_eq!(trial.class_at("tracked", 0, SKY), 0);
    // The file says for which model it is.
    trial.sandbox.hsg().arg("inspect").arg(trial.file()).assert().success().stdout(
        predicate::str::contains("2 names given by hand, 16 values each").and(predicate::str::contains("the sky  1")),
    );
    // Nobody reads a file into memory for its first bytes.
    let huge = trial.sandbox.path("huge.user");
    fs::write(&huge, b"HSGU").unwrap();
    fs::File::options().write(true).open(&huge).unwrap().set_len(retrieval::MAX_USER_BYTES + 1).unwrap();
    assert_refused(trial.sandbox.hsg().arg("inspect").arg(&huge).assert(), &["huge.user", "at most 67108864"]);
    let bench = ["bench", "--frames", "2", "--json", "--model"];
    let bench_of = |more: &[&str]| {
        let mut hsg = trial.sandbox.hsg();
        let assert = hsg.args(bench).arg(&trial.model).arg(&trial.images).args(more).assert().success();
        serde_json::from_slice::<Value>(&assert.get_output().stdout).unwrap()["retrieval"].clone()
    };
    assert_eq!((&bench_of(&[])["user_prototypes"], bench_of(&["--no-user-bank"])), (&json!(2), Value::Null));
}

#[test]
fn names_are_listed_changed_and_removed() {
    let trial = Trial::new();
    let list = || Trial::report(trial.bank(&["list"]));
    let count = |list: &Value, name: &str| {
        let classes = list["classes"].as_array().unwrap();
        classes
            .iter()
            .find(|class| class["name"] == name)
            .map(|class| (class["train_id"].clone(), class["user"].clone()))
    };
    assert_eq!(list()["entries"], json!([]));
    trial.bank(&["list"]).assert().success().stdout(predicate::str::contains("none of yours"));
    trial.add(SKY, "SKY", &["--frame", "1"]).assert().success().stdout(predicate::str::contains("entry 1: sky at 5,5"));
    trial.add(ROAD, "forklift", &[]).assert().success();
    let both = list();
    // The model's class has the model's name, whatever was typed.
    assert_eq!(count(&both, "sky"), Some((json!(0), json!(1))));
    assert_eq!(count(&both, "forklift"), Some((json!(11), json!(1))));
    let entry = &both["entries"][0];
    assert_eq!((&entry["entry"], &entry["frame"], &entry["at"]), (&json!(1), &json!(1), &json!([5, 5])));
    assert_eq!(entry["source"], trial.images.to_str().unwrap());
    let when = entry["when"].as_str().unwrap();
    assert!(when.starts_with("20") && when.ends_with(" UTC"), "{when}");
    let text = trial.bank(&["list"]).assert().success();
    text.stdout(predicate::str::contains("forklift: ").and(predicate::str::contains("2 of yours in ")));

    // Once more: nothing new. Another name: instead.
    assert_eq!(Trial::report(trial.add(ROAD, "Forklift", &[]))["segments"][0]["result"], "known");
    assert_eq!(Trial::report(trial.add(ROAD, "crane", &[]))["segments"][0]["result"], "instead");
    assert_eq!((count(&list(), "forklift"), count(&list(), "crane").is_some()), (None, true));

    trial.bank(&["rename", "crane", "Building"]).assert().success().stdout(predicate::str::contains("`building` now"));
    assert_eq!(count(&list(), "building"), Some((json!(1), json!(1))));
    assert_refused(
        trial.bank(&["rename", "tree", "bush"]).assert(),
        &["`tree` is a class of the model", "hsg bank add"],
    );
    assert_refused(trial.bank(&["rename", "goat", "sheep"]).assert(), &["no name `goat`", "hsg bank list"]);
    assert_refused(trial.bank(&["rename", "sky", " "]).assert(), &["NEW", "1 to 40 characters"]);
    assert_refused(trial.bank(&["remove", "fence"]).assert(), &["`fence` is a class of the model"]);
    assert_refused(trial.bank(&["remove", "--entry", "7"]).assert(), &["--entry 7", "expected one of 1, 2"]);
    trial.bank(&["remove"]).assert().code(2);
    trial.bank(&["remove", "sky", "--all"]).assert().code(2);
    assert_eq!(Trial::report(trial.bank(&["remove", "--entry", "2"]))["left"], 1);
    assert_eq!(Trial::report(trial.bank(&["remove", "sky"]))["left"], 0);
    trial.bank(&["remove", "--all"]).assert().success().stdout(predicate::str::contains("are gone"));
    trial.bank(&["remove", "--all"]).assert().success().stdout(predicate::str::contains("there were no names"));
    // What was thrown away is kept, once.
    let left = files(&trial.sandbox.path(".local/state/hsg/banks"));
    assert!(matches!(&left[..], [kept] if kept.ends_with(".user.removed")), "{left:?}");
    assert_refused(trial.bank(&["remove", "--entry", "1"]).assert(), &["there are no names of yours"]);
}

#[test]
fn a_look_before_naming_changes_nothing() {
    let trial = Trial::new();
    let more = ["--dry-run", "--preview", "look.png", "--level", "2", "--at", "60,60"];
    let report = Trial::report(trial.add(SKY, "forklift", &more));
    assert_eq!((&report["dry_run"], &report["train_id"]), (&json!(true), &json!(11)));
    let segments = report["segments"].as_array().unwrap();
    assert!(segments.len() > 1 && segments.iter().all(|segment| segment["entry"].is_null()), "{report}");
    let picture = image::open(trial.sandbox.path("look.png")).unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), SIZE);
    assert!(picture.pixels().any(|pixel| pixel.0 == [255, 230, 0]));
    assert!(!trial.sandbox.path(".local").exists());
    trial.run("after", &["--save", "classes"]).assert().success();
    assert!((0..3).all(|frame| !trial.classes("after", frame).contains(&11)));
    // All segments in a group, then the same without the group: they are known.
    let grouped = Trial::report(trial.add(SKY, "forklift", &["--level", "2"]));
    assert!(grouped["segments"].as_array().unwrap().len() > 1, "{grouped}");
    assert_eq!(Trial::report(trial.add(SKY, "forklift", &[]))["segments"][0]["result"], "known");
}

#[test]
fn wrong_places_and_names_are_refused() {
    let trial = Trial::new();
    for (point, more, words) in [
        ("96,5", &[][..], &["--at 96,5", "96×64"][..]),
        ("5", &[], &["--at 5:", "X,Y"]),
        ("5,-1", &[], &["--at 5,-1:", "X,Y"]),
        ("5,5", &["--frame", "3"], &["index 3", "after 3 frames"]),
        ("5,5", &["--level", "3"], &["--level 3", "0 to 2"]),
    ] {
        let mut hsg = trial.bank(&["add"]);
        hsg.arg(&trial.images).args([&format!("--at={point}"), "--name", "x"]).args(more);
        assert_refused(hsg.assert(), words);
    }
    let own = trial.images.join("000000.png");
    for preview in [trial.images.join("look.png"), own.clone()] {
        let more = ["--dry-run", "--preview", preview.to_str().unwrap()];
        assert_refused(trial.add(SKY, "x", &more).assert(), &["--preview", "the source itself"]);
        let mut of_image = trial.bank(&["add", own.to_str().unwrap(), "--at", "5,5", "--name", "x", "--dry-run"]);
        assert_refused(of_image.arg("--preview").arg(&own).assert(), &["--preview", "the source itself"]);
    }
    // Options and `replay:` are no part of a path.
    let with_rate = format!("{}/?rate=10", trial.images.display());
    let mut of_video = trial.bank(&["add", &with_rate, "--at", "5,5", "--name", "x", "--dry-run"]);
    assert_refused(of_video.arg("--preview").arg(&own).assert(), &["--preview", "the source itself"]);
    let replay = format!("replay:{}", own.display());
    let mut of_replay = trial.bank(&["add", &replay, "--at", "5,5", "--name", "x", "--dry-run"]);
    assert_refused(of_replay.arg("--preview").arg(&own).assert(), &["--preview", "the source itself"]);
    for name in ["", " sky", "a\nb", "a\u{202e}b"] {
        assert_refused(trial.add(SKY, name, &[]).assert(), &["--name", "1 to 40 characters"]);
    }
    let nowhere = trial.bank(&["add", "nowhere.mp4", "--at", "1,1", "--name", "x"]).assert();
    assert_refused(nowhere, &["nowhere.mp4"]);
    trial.bank(&["add", "x.mp4", "--name", "x"]).assert().code(2);
    assert!(!trial.sandbox.path(".local").exists());
}

#[test]
fn a_damaged_file_says_what_to_do() {
    let trial = Trial::new();
    trial.add(SKY, "forklift", &[]).assert().success();
    let file = trial.file();
    let good = fs::read(&file).unwrap();
    let path = file.to_str().unwrap().to_owned();
    let flipped = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        bytes
    };
    let mut newer = good.clone();
    newer[4] = 2;
    for (bytes, words) in [
        (good[..good.len() / 2].to_vec(), "it is damaged"),
        (flipped(good.len() - 3), "it is damaged"),
        (newer, "format version 1, got 2"),
        (Vec::new(), "begin with `HSGU`"),
    ] {
        fs::write(&file, bytes).unwrap();
        let words = [path.as_str(), words, "hsg bank remove --all", "--no-user-bank"];
        assert_refused(trial.run("refused", &[]).assert(), &words);
        assert_refused(trial.add(ROAD, "x", &[]).assert(), &words);
        assert_refused(trial.bank(&["list"]).assert(), &words);
        assert_refused(trial.bank(&["remove", "forklift"]).assert(), &words);
        trial.sandbox.hsg().arg("inspect").arg(&file).assert().code(2);
    }
    trial.run("without", &["--no-user-bank", "--save", "none"]).assert().success();
    trial.bank(&["remove", "--all"]).assert().success();
    trial.run("gone", &["--save", "none"]).assert().success();
    // Not even a file.
    fs::create_dir(&file).unwrap();
    assert_refused(trial.run("refused", &[]).assert(), &[&path, "got something else"]);
    fs::remove_dir(&file).unwrap();

    // Names of another model, whose file was copied.
    let other = "0123456789abcdef".repeat(4);
    fs::write(file.with_file_name(format!("{other}.user")), &good).unwrap();
    let user = retrieval::UserBank::new(&other, 16);
    fs::write(&file, user.to_bytes().unwrap()).unwrap();
    assert_refused(trial.run("refused", &[]).assert(), &[&path, "got those for 0123"]);
}

#[test]
fn nobody_needs_a_state_folder_but_those_who_name() {
    let trial = Trial::new();
    let homeless = |mut command: assert_cmd::Command| {
        command.env_remove("HOME");
        command
    };
    homeless(trial.run("out", &["--save", "none"])).assert().success();
    homeless(trial.bank(&["list"])).assert().success().stdout(predicate::str::contains("set HSG_STATE"));
    for command in [trial.add(SKY, "x", &[]), trial.bank(&["remove", "--all"]), trial.bank(&["rename", "a", "b"])] {
        assert_refused(homeless(command).assert(), &["HSG_STATE", "XDG_STATE_HOME"]);
    }
    // What is nearer to the person wins.
    let places = [("HSG_STATE", "state", ""), ("STATE_DIRECTORY", "service", ""), ("XDG_STATE_HOME", "xdg", "hsg")];
    for (index, (_, folder, below)) in places.iter().enumerate() {
        let mut add = trial.add(SKY, "forklift", &[]);
        for (variable, folder, _) in &places[index..] {
            add.env(variable, trial.sandbox.path(folder));
        }
        if index == 1 {
            // As systemd writes several.
            let paths = [trial.sandbox.path("service"), trial.sandbox.path("second")];
            add.env("STATE_DIRECTORY", std::env::join_paths(paths).unwrap());
        }
        add.assert().success();
        assert_eq!(files(&trial.sandbox.path(folder).join(below).join("banks")).len(), 1, "{folder}");
    }
    // The home of somebody else is no reason to stand still.
    fs::write(trial.sandbox.path("taken"), "a file").unwrap();
    let mut run = trial.run("out", &["--save", "none"]);
    run.env("HSG_STATE", trial.sandbox.path("taken")).assert().success().stderr(predicate::str::contains("HSG_STATE"));
    let mut add = trial.add(SKY, "x", &[]);
    assert_refused(add.env("HSG_STATE", trial.sandbox.path("taken")).assert(), &["taken", "HSG_STATE"]);
}

/// A name that gets no train id is never kept: every later start would be refused.
#[test]
fn names_beyond_the_train_ids_are_refused_and_not_kept() {
    let trial = Trial::without_bank();
    trial.add(SKY, "name 0", &[]).assert().success();
    let file = trial.file();
    let mut user = retrieval::UserBank::from_bytes(&fs::read(&file).unwrap(), &file).unwrap();
    // Far from each other and from what is in the pictures: each is an entry.
    for index in 1..255 {
        let mut prototype = vec![0.0; user.dim()];
        prototype[index % 16] = 1.0;
        prototype[(index + 1) % 16] -= 0.1 * (1 + index / 16) as f32;
        user.add(&format!("name {index}"), &prototype, retrieval::UserOrigin::default()).unwrap();
    }
    assert_eq!(user.names().len(), 255);
    fs::write(&file, user.to_bytes().unwrap()).unwrap();
    let full = fs::read(&file).unwrap();
    for more in [&[][..], &["--dry-run"]] {
        assert_refused(trial.add(ROAD, "one more", more).assert(), &["at most 255", "hsg bank remove NAME"]);
        assert_eq!(fs::read(&file).unwrap(), full);
    }
    trial.run("full", &["--save", "none"]).assert().success();
    trial.bank(&["remove", "name 7"]).assert().success();
    trial.add(ROAD, "one more", &[]).assert().success();
}

/// Programs that name at the same time wait for each other: no name is lost.
#[test]
fn several_may_name_at_once() {
    let trial = Trial::new();
    let start = |index: usize| {
        let mut command: Command = trial.sandbox.command(tests::programs::hsg());
        command.args(["bank", "add"]).arg(&trial.images).arg("--model").arg(&trial.model);
        let (x, y) = (8 + 24 * index, 8);
        command.args(["--at", &format!("{x},{y}"), "--name", &format!("name {index}"), "--threads", "1"]);
        Started::new(command)
    };
    let mut programs: Vec<Started> = (0..4).map(start).collect();
    for program in &mut programs {
        let output = program.finish();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let list = Trial::report(trial.bank(&["list"]));
    let entries = list["entries"].as_array().unwrap();
    let mut numbers: Vec<u64> = entries.iter().map(|entry| entry["entry"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=4).collect::<Vec<_>>(), "{list}");
    trial.file();
}

/// Figures are those of the model as it was shipped.
#[test]
fn eval_measures_what_was_shipped() {
    let trial = Trial::new();
    let root = street_dataset(trial.sandbox.path("camvid"), "val", 2);
    let eval = || {
        let mut hsg = trial.sandbox.hsg();
        hsg.args(["eval", "--dataset", "camvid", "--split", "val", "--json", "--root"]).arg(&root);
        let assert = hsg.arg("--model").arg(&trial.model).assert().success();
        let figures: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        [figures["confusion"].clone(), figures["miou"].clone()]
    };
    let before = eval();
    trial.add(SKY, "forklift", &["--level", "2"]).assert().success();
    assert_eq!(eval(), before);
}

/// What a killed program left beside the file goes with the next change.
#[test]
fn leftovers_are_removed() {
    let trial = Trial::new();
    trial.add(SKY, "forklift", &[]).assert().success();
    let file = trial.file();
    let name = file.file_name().unwrap().to_str().unwrap();
    let half: &Path = &file.with_file_name(format!(".{name}.12345.tmp"));
    fs::write(half, "half").unwrap();
    trial.bank(&["rename", "forklift", "crane"]).assert().success();
    trial.file();
    assert!(!half.exists());
}
