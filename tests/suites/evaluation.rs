//! `hsg eval`: figures, the report, parts and their merge, predictions for the official tools, and data sets that are not
//! what they should be.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage};
use predicates::prelude::*;
use serde_json::Value;
use tests::folders::tiny_model;
use tests::outputs::{files, read_json};
use tests::pictures::{self, SIZE, street, street_dataset};
use tests::programs::{Sandbox, assert_refused};

/// Train ids of what is in a street picture: sky, building, road, car. The tiny model is untrained and sees no cars, so in
/// these data sets the building is a car and the car a building.
const TRAIN_IDS: [u8; 4] = [10, 13, 0, 2];
/// Label ids of sky, building, road and car.
const LABEL_IDS: [u8; 4] = [23, 11, 7, 26];

/// Frames of a KITTI-STEP data set: sequences of these lengths, each from another place of the street on.
fn kitti_step(root: PathBuf, split: &str, lengths: &[u32]) -> PathBuf {
    for (number, &length) in lengths.iter().enumerate() {
        let images = root.join(format!("images/{split}/{number:04}"));
        let maps = root.join(format!("panoptic_maps/{split}/{number:04}"));
        fs::create_dir_all(&images).unwrap();
        fs::create_dir_all(&maps).unwrap();
        for frame in 0..length {
            let at = frame + 5 * number as u32;
            street(at).save(images.join(format!("{frame:06}.png"))).unwrap();
            let map = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| {
                let thing = pictures::thing(at, x, y);
                Rgb([TRAIN_IDS[thing], 0, u8::from(thing == 1)])
            });
            map.save(maps.join(format!("{frame:06}.png"))).unwrap();
        }
    }
    root
}

/// Frames of a Cityscapes data set in one city.
fn cityscapes(root: PathBuf, split: &str, frames: u32) -> PathBuf {
    let (images, labels) = (root.join(format!("leftImg8bit/{split}/ulm")), root.join(format!("gtFine/{split}/ulm")));
    fs::create_dir_all(&images).unwrap();
    fs::create_dir_all(&labels).unwrap();
    for frame in 0..frames {
        let name = format!("ulm_{frame:06}_000019");
        street(frame).save(images.join(format!("{name}_leftImg8bit.png"))).unwrap();
        let map = GrayImage::from_fn(SIZE.0, SIZE.1, |x, y| Luma([LABEL_IDS[pictures::thing(frame, x, y)]]));
        map.save(labels.join(format!("{name}_gtFine_labelIds.png"))).unwrap();
        let instances: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_fn(SIZE.0, SIZE.1, |x, y| {
            let id = u16::from(LABEL_IDS[pictures::thing(frame, x, y)]);
            Luma([if id == 26 { 26_000 } else { id }])
        });
        instances.save(labels.join(format!("{name}_gtFine_instanceIds.png"))).unwrap();
    }
    root
}

/// The tiny model with the Cityscapes label space; its file hashes do not change with it.
fn cityscapes_model(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.path("city-model");
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(tiny_model()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let manifest = folder.join("model.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("camvid_11"), "{text}");
    fs::write(&manifest, text.replace("camvid_11", "cityscapes_19")).unwrap();
    folder
}

/// `hsg COMMAND --dataset KIND --root ROOT --split SPLIT --model MODEL`.
fn on(sandbox: &Sandbox, command: &str, kind: &str, root: &Path, split: &str, model: &Path) -> assert_cmd::Command {
    let mut hsg = sandbox.hsg();
    hsg.args(command.split(' ')).args(["--dataset", kind, "--split", split, "--root"]).arg(root);
    hsg.arg("--model").arg(model);
    hsg
}

fn with_bank(sandbox: &Sandbox, kind: &str, root: &Path, split: &str, model: &Path) -> PathBuf {
    let named = sandbox.path("named");
    on(sandbox, "bank build", kind, root, split, model).arg("--out").arg(&named).assert().code(0);
    named
}

fn document(assert: &Assert) -> Value {
    let stdout = &assert.get_output().stdout;
    serde_json::from_slice(stdout).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(stdout)))
}

fn share(value: &Value) -> bool {
    value.as_f64().is_some_and(|value| (0.0..=1.0).contains(&value))
}

#[test]
fn parts_make_the_whole_byte_for_byte() {
    let sandbox = Sandbox::new();
    let root = kitti_step(sandbox.path("kitti"), "val", &[6, 20, 3, 5]);
    let model = with_bank(&sandbox, "kitti-step", &root, "val", &cityscapes_model(&sandbox));
    let eval = |options: &[&str]| on(&sandbox, "eval", "kitti-step", &root, "val", &model).args(options).assert();

    let whole = document(&eval(&["--json", "--out", "whole"]).code(0));
    assert_eq!(whole["frames"], 34);
    for figure in ["miou", "accuracy", "category_miou", "class_flicker"] {
        assert!(share(&whole[figure]), "{figure}: {whole}");
    }
    for figure in ["stq", "aq", "sq"] {
        assert!(share(&whole["stq"][figure]) && whole["stq"][figure] != 0.0, "{figure}: {whole}");
    }
    // Its instances are no Cityscapes ones.
    assert_eq!((&whole["iiou"], &whole["category_iiou"]), (&Value::Null, &Value::Null));
    for level in whole["levels"].as_array().unwrap() {
        assert!(share(&level["flicker"]) && share(&level["id_stability"]), "{level}");
    }
    assert_eq!(files(&sandbox.path("whole")), ["evaluation.json", "frames.jsonl", "report.html", "shard.json"]);
    assert_eq!(read_json(&sandbox.path("whole/evaluation.json")), whole);

    // More parts than sequences: the last one is empty.
    let mut merge = sandbox.hsg();
    merge.args(["eval", "merge", "--json", "--out", "merged"]);
    for index in [3, 1, 5, 2, 4] {
        let (part, out) = (format!("{index}/5"), format!("part{index}"));
        eval(&["--shard", &part, "--out", &out]).code(0);
        merge.arg(&out);
    }
    assert_eq!(read_json(&sandbox.path("part5/evaluation.json"))["frames"], 0);
    let merged = document(&merge.assert().code(0));
    assert_eq!(merged, whole);
    for file in ["evaluation.json", "frames.jsonl", "report.html", "shard.json"] {
        let read = |folder: &str| fs::read(sandbox.path(folder).join(file)).unwrap();
        assert!(read("merged") == read("whole"), "{file} differs");
    }
}

#[test]
fn the_report_stands_alone_and_shows_the_worst_frames() {
    let sandbox = Sandbox::new();
    let root = street_dataset(sandbox.path("camvid"), "train", 5);
    let model = with_bank(&sandbox, "camvid", &root, "train", &tiny_model());
    on(&sandbox, "eval", "camvid", &root, "train", &model).args(["--out", "figures"]).assert().code(0);
    let html = fs::read_to_string(sandbox.path("figures/report.html")).unwrap();
    for words in ["mIoU", "Confusion", "road as building: ", "Worst frames", "type=\"range\"", "level 2: "] {
        assert!(html.contains(words), "{words}");
    }
    assert!(!html.contains("src=\"http") && !html.contains("href=\"http"));
    // Input, truth, classes, errors and three levels of five frames that are no video.
    assert_eq!(html.matches("data:image/jpeg;base64,").count(), 5 * 7);
    let lines = fs::read_to_string(sandbox.path("figures/frames.jsonl")).unwrap();
    let frames: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(frames.len(), 5);
    assert_eq!(frames[4]["name"], "0001XX_000004");
    assert!(share(&frames[4]["accuracy"]) && frames[4]["covering"].as_array().unwrap().len() == 3);

    // Without a bank there is a report all the same.
    on(&sandbox, "eval", "camvid", &root, "train", &tiny_model()).args(["--out", "plain"]).assert().code(0);
    let html = fs::read_to_string(sandbox.path("plain/report.html")).unwrap();
    assert!(html.contains("no prototype bank") && !html.contains("Confusion"));
    assert_eq!(html.matches("data:image/jpeg;base64,").count(), 5 * 5);
}

#[test]
fn cityscapes_figures_and_predictions() {
    let sandbox = Sandbox::new();
    let root = cityscapes(sandbox.path("city"), "val", 4);
    let model = with_bank(&sandbox, "cityscapes", &root, "val", &cityscapes_model(&sandbox));
    let eval = || on(&sandbox, "eval", "cityscapes", &root, "val", &model);
    let figures = document(&eval().args(["--json", "--save-predictions", "predictions"]).assert().code(0));
    for figure in ["miou", "category_miou", "iiou", "category_iiou"] {
        assert!(share(&figures[figure]), "{figure}: {figures}");
    }
    // Single images are no video and have no tubes.
    assert_eq!((&figures["class_flicker"], &figures["stq"]["stq"]), (&Value::Null, &Value::Null));
    let names: Vec<String> = (0..4).map(|i| format!("ulm/ulm_{i:06}_000019_pred_labelIds.png")).collect();
    assert_eq!(files(&sandbox.path("predictions")), names);
    let map = image::open(sandbox.path("predictions").join(&names[0])).unwrap().into_luma8();
    assert_eq!(map.dimensions(), SIZE);
    assert!(map.pixels().all(|pixel| LABEL_IDS.contains(&pixel.0[0])), "label ids of classes that the bank has");

    // Instances of some images alone would give another figure.
    fs::remove_file(root.join("gtFine/val/ulm/ulm_000001_000019_gtFine_instanceIds.png")).unwrap();
    let without = document(&eval().arg("--json").assert().code(0));
    assert_eq!((&without["miou"], &without["iiou"]), (&figures["miou"], &Value::Null));
}

#[test]
fn kitti_step_predictions_are_panoptic() {
    let sandbox = Sandbox::new();
    let root = kitti_step(sandbox.path("kitti"), "val", &[4]);
    let model = with_bank(&sandbox, "kitti-step", &root, "val", &cityscapes_model(&sandbox));
    on(&sandbox, "eval", "kitti-step", &root, "val", &model)
        .args(["--save-predictions", "predictions"])
        .assert()
        .code(0);
    assert_eq!(files(&sandbox.path("predictions")), (0..4).map(|i| format!("0000/{i:06}.png")).collect::<Vec<_>>());
    let map = image::open(sandbox.path("predictions/0000/000002.png")).unwrap().into_rgb8();
    let mut has_car = false;
    for Rgb([class, high, low]) in map.pixels() {
        let id = u16::from_be_bytes([*high, *low]);
        assert_eq!(id != 0, matches!(class, 11 | 13), "class {class}, instance {id}");
        has_car |= *class == 13;
    }
    assert!(has_car);
}

#[test]
fn camvid_predictions_have_its_values() {
    let sandbox = Sandbox::new();
    let root = street_dataset(sandbox.path("camvid"), "train", 1);
    let model = with_bank(&sandbox, "camvid", &root, "train", &tiny_model());
    let mut eval = on(&sandbox, "eval", "camvid", &root, "train", &model);
    eval.args(["--save-predictions", "predictions"]).assert().code(0);
    let map = image::open(sandbox.path("predictions/0001XX_000000.png")).unwrap().into_luma8();
    assert!(map.pixels().all(|pixel| [0, 1, 3, 8].contains(&pixel.0[0])));
}

/// Nothing is replaced without a word, least of all images and annotations; and what cannot be written is found out before
/// the work.
#[test]
fn outputs_are_new_or_forced() {
    let sandbox = Sandbox::new();
    let root = street_dataset(sandbox.path("camvid"), "train", 1);
    let model = with_bank(&sandbox, "camvid", &root, "train", &tiny_model());
    let eval = |options: &[&str]| on(&sandbox, "eval", "camvid", &root, "train", &model).args(options).assert();
    let before: Vec<(String, Vec<u8>)> =
        files(&root).into_iter().map(|file| (file.clone(), fs::read(root.join(&file)).unwrap())).collect();
    for folder in ["camvid", "camvid/train", "camvid/trainannot"] {
        for force in [&[][..], &["--force"]] {
            let options: Vec<&str> = ["--save-predictions", folder].iter().chain(force).copied().collect();
            assert_refused(eval(&options), &["--save-predictions", "data set"]);
        }
    }
    for (file, bytes) in &before {
        assert!(fs::read(root.join(file)).unwrap() == *bytes, "{file} was changed");
    }
    assert_eq!(files(&root).len(), before.len());

    // Nor through links, nor into a folder below, where the next run would look for images.
    let annotation = root.join("trainannot").read_dir().unwrap().next().unwrap().unwrap().path();
    let store = sandbox.path("store");
    fs::create_dir(&store).unwrap();
    let moved = store.join(annotation.file_name().unwrap());
    fs::rename(&annotation, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &annotation).unwrap();
    std::os::unix::fs::symlink(&store, sandbox.path("link")).unwrap();
    for folder in ["store", "link", "camvid/train/new", "camvid/new/newer"] {
        assert_refused(eval(&["--save-predictions", folder, "--force"]), &["--save-predictions", "data set"]);
    }
    assert!(!root.join("new").exists() && !root.join("train/new").exists());
    assert!(fs::read(&moved).unwrap() == before.iter().find(|(file, _)| root.join(file) == annotation).unwrap().1);

    // One in the other, and one that is spelled in two ways.
    eval(&["--out", "nested", "--save-predictions", "nested/predictions"]).code(0);
    eval(&["--out", "same", "--save-predictions", "./same"]).code(0);
    assert!(sandbox.path("same/report.html").is_file() && sandbox.path("nested/predictions").is_dir());

    let both = ["--out", "figures", "--save-predictions", "predictions"];
    eval(&both).code(0);
    assert_refused(eval(&both), &["--out figures", "--force"]);
    assert_refused(eval(&["--save-predictions", "predictions"]), &["--save-predictions predictions", "--force"]);
    assert_refused(eval(&["--out", "figures"]), &["--out figures", "--force"]);
    fs::write(sandbox.path("figures/mine.txt"), "mine").unwrap();
    eval(&[&both[..], &["--force"]].concat()).code(0);
    assert_eq!(fs::read_to_string(sandbox.path("figures/mine.txt")).unwrap(), "mine");
    fs::write(sandbox.path("file"), "").unwrap();
    for out in ["file", "file/below"] {
        assert_refused(eval(&["--out", out]), &["--out", "file"]);
    }
    // What is refused leaves no folder behind.
    assert_refused(eval(&["--out", "fresh", "--frames", "0"]), &["frames"]);
    assert!(!sandbox.path("fresh").exists());

    let merge = |options: &[&str]| sandbox.hsg().args(["eval", "merge", "figures"]).args(options).assert();
    merge(&["--out", "merged"]).code(0);
    assert_refused(merge(&["--out", "merged"]), &["--out merged", "--force"]);
    merge(&["--out", "merged", "--force"]).code(0);
    let measure = |options: &[&str]| {
        let mut files = sandbox.hsg();
        files.args(["eval", "files", "--dataset", "camvid", "--truth", "camvid/trainannot"]);
        files.args(["--prediction", "predictions", "--out", "measured"]).args(options).assert()
    };
    measure(&[]).code(0);
    assert_refused(measure(&[]), &["--out measured", "--force"]);
    measure(&["--force"]).code(0);
}

#[test]
fn frames_that_are_missing_inside_a_sequence_are_said() {
    let sandbox = Sandbox::new();
    let root = kitti_step(sandbox.path("kitti"), "val", &[8]);
    for folder in ["images", "panoptic_maps"] {
        for frame in [3, 4] {
            fs::remove_file(root.join(format!("{folder}/val/0000/{frame:06}.png"))).unwrap();
        }
    }
    let assert = on(&sandbox, "eval", "kitti-step", &root, "val", &cityscapes_model(&sandbox))
        .args(["--json", "--out", "figures"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("sequence 0000").and(predicate::str::contains("between 2 and 5")));
    let figures = document(&assert);
    assert_eq!((&figures["frames"], &figures["missing_frames"]), (&Value::from(6), &Value::from(2)));
    let html = fs::read_to_string(sandbox.path("figures/report.html")).unwrap();
    assert!(html.contains("2 frames are missing"));
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let sandbox = Sandbox::new();
    let root = street_dataset(sandbox.path("camvid"), "train", 4);
    let part = |shard: &str, options: &[&str], out: &str| {
        let mut eval = on(&sandbox, "eval", "camvid", &root, "train", &tiny_model());
        eval.args(["--shard", shard, "--out", out]).args(options).assert().code(0);
    };
    part("1/2", &[], "one");
    part("2/2", &[], "two");
    part("2/2", &["--no-refine"], "coarse");
    part("2/2", &["--frames", "3"], "short");
    part("2/2", &["--bank-search", "exact"], "exact");
    part("2/2", &["--count-votes"], "counted");
    part("2/2", &["--rounds", "1"], "few");
    part("2/3", &[], "third");
    let merge = |parts: &[&str]| sandbox.hsg().args(["eval", "merge"]).args(parts).assert();
    assert_refused(merge(&["one", "coarse"]), &["one", "coarse", "`resolution`", "refined", "nearest"]);
    assert_refused(merge(&["one", "short"]), &["`samples`", "4", "3"]);
    assert_refused(merge(&["one", "exact"]), &["`bank_search`", "auto", "exact"]);
    assert_refused(merge(&["one", "counted"]), &["`naming`", "pooled", "counted"]);
    assert_refused(merge(&["one", "few"]), &["`rounds`", "1"]);
    assert_refused(merge(&["one", "third"]), &["1/2", "2/3"]);
    assert_refused(merge(&["one"]), &["missing: 2", "--shard I/2"]);
    assert_refused(merge(&["one", "two", "one"]), &["part 1 of 2 is there twice"]);
    assert_refused(merge(&["one", "nowhere"]), &["nowhere/shard.json", "--shard"]);
    assert_refused(merge(&["one", "two", "--out", "two"]), &["--out two", "another folder"]);
    assert_refused(sandbox.hsg().args(["eval", "merge"]).assert(), &["DIR"]);

    // Files that were cut or come from a later version.
    let text = fs::read_to_string(sandbox.path("two/shard.json")).unwrap();
    fs::create_dir_all(sandbox.path("cut")).unwrap();
    fs::write(sandbox.path("cut/shard.json"), &text[..text.len() / 2]).unwrap();
    assert_refused(merge(&["one", "cut"]), &["cut/shard.json", "damaged"]);
    fs::write(sandbox.path("cut/shard.json"), text.replacen("\"format\":3", "\"format\":4", 1)).unwrap();
    assert_refused(merge(&["one", "cut"]), &["format version 4", "version 3"]);
    fs::write(sandbox.path("cut/shard.json"), text.replacen("\"frames\":2", "\"frames\":-2", 1)).unwrap();
    assert_refused(merge(&["one", "cut"]), &["cut/shard.json"]);

    assert_refused(
        on(&sandbox, "eval", "camvid", &root, "train", &tiny_model()).args(["--shard", "1/2"]).assert(),
        &["--shard 1/2", "--out"],
    );
    let attempt = |shard: &str| {
        let mut eval = on(&sandbox, "eval", "camvid", &root, "train", &tiny_model());
        eval.args(["--out", "x", "--shard", shard]).assert()
    };
    assert_refused(attempt("3/2"), &["`3/2`", "I from 1 to N"]);
    assert_refused(attempt("0/2"), &["`0/2`"]);
    assert!(!sandbox.path("x").exists());
}

#[test]
fn labels_that_are_no_class_are_named() {
    let sandbox = Sandbox::new();
    let root = street_dataset(sandbox.path("camvid"), "train", 3);
    let labels = root.join("trainannot/0001XX_000001.png");
    let mut map = image::open(&labels).unwrap().into_luma8();
    map.put_pixel(7, 5, Luma([77]));
    map.save(&labels).unwrap();
    let attempt = || on(&sandbox, "eval", "camvid", &root, "train", &tiny_model()).args(["--out", "figures"]).assert();
    assert_refused(attempt(), &["0001XX_000001.png", "value 77", "column 7, row 5", "camvid_11"]);
    image::imageops::crop_imm(&map, 0, 0, 90, 64).to_image().save(&labels).unwrap();
    assert_refused(attempt(), &["0001XX_000001.png", "90×64", "96×64"]);
    let bytes = fs::read(root.join("trainannot/0001XX_000002.png")).unwrap();
    fs::write(&labels, &bytes[..bytes.len() / 2]).unwrap();
    assert_refused(attempt(), &["0001XX_000001.png"]);
    assert!(!sandbox.path("figures").exists(), "nothing half-written");
}

#[test]
fn nothing_to_measure_is_refused() {
    let sandbox = Sandbox::new();
    let root = street_dataset(sandbox.path("camvid"), "train", 1);
    fs::write(root.join("train.txt"), "").unwrap();
    assert_refused(
        on(&sandbox, "eval", "camvid", &root, "train", &tiny_model()).assert(),
        &["split `train` has no images", "train.txt"],
    );
}
