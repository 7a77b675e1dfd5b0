//! Opening good and bad data sets on disk.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use common::{SIZE, annotation, error, image, names, opened, shared_data, text};
use datasets::DatasetKind;
use segcore::image::ImageSize;
use segcore::image_io::write_gray8;

/// Two drives; the second run of drive A is 15 Hz.
fn camvid() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("writable");
    let root = folder.path();
    let all = ["B_1", "A_1", "A_2", "A_7"];
    for name in all {
        image(&root.join(format!("train/{name}.png")));
        annotation(&root.join(format!("trainannot/{name}.png")), &[3; 24]);
    }
    let list: String = all.map(|n| format!("train/{n}.png trainannot/{n}.png\n")).concat();
    text(&root.join("train.txt"), &list);
    text(
        &root.join("sequences/index.tsv"),
        "list\tsplit\tdrive\tframes\tfirst\tlast\tstep\trate_hz_at_30fps\n\
         train_A_1.txt\ttrain\tA\t2\t1\t2\t1\t0.333\n\
         train_A_7.txt\ttrain\tA\t1\t7\t7\t1\t15\n\
         train_B_1.txt\ttrain\tB\t1\t1\t1\t1\t1\n\
         val_C_1.txt\tval\tC\t1\t1\t1\t1\t1\n",
    );
    text(&root.join("sequences/train_A_1.txt"), "train/A_1.png\ntrain/A_2.png\n");
    text(&root.join("sequences/train_A_7.txt"), "train/A_7.png\n");
    text(&root.join("sequences/train_B_1.txt"), "train/B_1.png\n");
    folder
}

#[test]
fn camvid_samples_come_sequence_by_sequence() {
    let folder = camvid();
    let data = opened(DatasetKind::CamVid, folder.path(), "train", &[]);
    assert_eq!((data.name(), data.split()), ("camvid", "train"));
    assert_eq!(names(&*data), ["A_1", "A_2", "A_7", "B_1"]);
    assert_eq!(data.samples()[1].sequence, "train_A_1");
    assert_eq!(data.samples()[1].index_in_sequence, 1);
    assert_eq!(data.rate_hz("train_A_1"), Some(0.333));
    assert_eq!(data.rate_hz("train_A_7"), Some(15.0));
    assert_eq!(data.rate_hz("val_C_1"), None);
    assert_eq!(data.label_space().num_classes(), 11);
    data.check_annotations().expect("complete");
    let read = data.read_annotation(&data.samples()[0]).expect("valid");
    assert_eq!((read.size, read.train_ids), (SIZE, vec![3; 24]));
    assert_eq!(data.read_image(&data.samples()[0]).expect("valid").size, SIZE);
}

#[test]
fn camvid_sequences_are_selected_by_drive_or_name() {
    let folder = camvid();
    let select = |wanted: &[&str]| {
        let data = opened(DatasetKind::CamVid, folder.path(), "train", wanted);
        (names(&*data).join(" "), data.sequences().len())
    };
    assert_eq!(select(&["A"]), ("A_1 A_2 A_7".to_owned(), 2));
    assert_eq!(select(&["train_A_7", "B"]), ("A_7 B_1".to_owned(), 2));
    let message = error(DatasetKind::CamVid, folder.path(), "train", &["A", "Z"]);
    assert!(message.contains("`Z`") && message.contains("A, B, train_A_1, train_A_7, train_B_1"), "{message}");
}

#[test]
fn camvid_without_index_groups_by_drive() {
    let folder = camvid();
    fs::remove_dir_all(folder.path().join("sequences")).expect("writable");
    let data = opened(DatasetKind::CamVid, folder.path(), "train", &[]);
    assert_eq!(names(&*data), ["B_1", "A_1", "A_2", "A_7"]);
    assert_eq!(data.samples()[3].sequence, "A");
    assert_eq!(data.samples()[3].index_in_sequence, 2);
    assert_eq!(data.rate_hz("A"), None);
}

#[test]
fn camvid_refuses_what_is_incomplete() {
    let refused = |change: &dyn Fn(&Path), parts: &[&str]| {
        let folder = camvid();
        change(folder.path());
        let message = error(DatasetKind::CamVid, folder.path(), "train", &[]);
        for part in parts {
            assert!(message.contains(part), "`{part}` in: {message}");
        }
    };
    refused(&|root| fs::remove_file(root.join("train.txt")).expect("there"), &["train.txt is missing", "no list file"]);
    refused(&|root| text(&root.join("train.txt"), "\n"), &["`train` has no images", "train.txt"]);
    refused(&|root| fs::write(root.join("train.txt"), [0xE9]).expect("writable"), &["train.txt", "; save it as UTF-8"]);
    refused(
        &|root| {
            for name in ["A_1", "A_2", "B_1", "A_7"] {
                fs::remove_file(root.join(format!("train/{name}.png"))).expect("there");
            }
        },
        &["4 of 4 images of split `train`", "B_1.png", "A_2.png", "; complete the copy"],
    );
    refused(&|root| text(&root.join("train.txt"), "train/A_1.png x y\n"), &["train.txt line 1", "x y"]);
    refused(&|root| text(&root.join("train.txt"), "\ntest/A_1.png x\n"), &["train.txt line 2", "train/NAME.png"]);
    refused(&|root| text(&root.join("train.txt"), "train/../A.png x\n"), &["train.txt line 1"]);
    refused(&|root| text(&root.join("train.txt"), "train/A.png ../x.png\n"), &["line 1", "annotation path"]);
    refused(&|root| text(&root.join("train.txt"), "train/A_1.png\ntrain/A_1.png\n"), &["line 2", "listed before"]);
    refused(
        &|root| text(&root.join("train.txt"), "train/A_1.png\ntrain/A_1.jpg\n"),
        &["differ only in their extension"],
    );
    refused(&|root| text(&root.join("sequences/train_A_1.txt"), "train/A_1.png\n"), &["has 1 images", "says 2"]);
    refused(
        &|root| text(&root.join("sequences/train_B_1.txt"), "train/A_1.png\n"),
        &["train_B_1.txt line 1", "no other sequence"],
    );
    refused(
        &|root| fs::remove_file(root.join("sequences/train_B_1.txt")).expect("there"),
        &["train_B_1.txt is missing"],
    );
    refused(&|root| text(&root.join("sequences/index.tsv"), "list\tsplit\n"), &["index.tsv line 1", "`drive`"]);
    refused(
        &|root| {
            text(
                &root.join("sequences/index.tsv"),
                "list\tsplit\tdrive\tframes\trate_hz_at_30fps\ntrain_B_1.txt\ttrain\tB\t1\tnan\n",
            );
        },
        &["index.tsv line 2", "rate"],
    );
}

#[test]
fn only_the_split_asked_for_is_checked() {
    let folder = camvid();
    text(&folder.path().join("val.txt"), "val/missing.png valannot/missing.png\n");
    opened(DatasetKind::CamVid, folder.path(), "train", &[]);
    // And annotations only when somebody needs them.
    fs::remove_dir_all(folder.path().join("trainannot")).expect("there");
    let data = opened(DatasetKind::CamVid, folder.path(), "train", &[]);
    let message = data.check_annotations().expect_err("missing").to_string();
    assert!(message.contains("4 of 4 annotations"), "{message}");
}

#[test]
fn annotations_are_checked() {
    let folder = camvid();
    let root = folder.path();
    let mut values = [0u8; 24];
    values[23] = 11;
    values[1] = 10;
    annotation(&root.join("trainannot/A_1.png"), &values);
    values[8] = 12;
    annotation(&root.join("trainannot/A_2.png"), &values);
    write_gray8(root.join("trainannot/A_7.png"), ImageSize { width: 4, height: 6 }, &[0; 24]).expect("writable");
    fs::copy(root.join("train/B_1.png"), root.join("trainannot/B_1.png")).expect("writable");
    let data = opened(DatasetKind::CamVid, root, "train", &[]);
    let read = |index: usize| data.read_annotation(&data.samples()[index]);
    let valid = read(0).expect("valid").train_ids;
    assert_eq!((valid[0], valid[1], valid[23]), (0, 10, 255));
    let message = read(1).expect_err("12 is no class").to_string();
    assert!(message.contains("A_2.png: value 12 at column 2, row 1") && message.contains("expected 0–11"), "{message}");
    let message = read(2).expect_err("other size").to_string();
    assert!(message.contains("is 4×6") && message.contains("is 6×4"), "{message}");
    let message = read(3).expect_err("RGB").to_string();
    assert!(message.contains("B_1.png"), "{message}");
    fs::write(root.join("train/A_1.png"), b"not an image").expect("writable");
    assert!(read(0).expect_err("image is broken").to_string().contains("A_1.png"));
}

const CLASSES: &str = "ignore = 9\n[[class]]\nid = 7\nname = \"road\"\ncolor = [1, 2, 3]\nthing = false\n\
                       [[class]]\nid = 2\nname = \"car\"\ncolor = [4, 5, 6]\nthing = true\n";

#[test]
fn folders_are_searched_to_their_leaves() {
    let folder = tempfile::tempdir().expect("writable");
    let root = folder.path();
    for path in ["day/b/2.png", "day/a/10.PNG", "day/z.jpeg", "day/b/c/1.jpg", "day/.hidden/1.png", "day/.x.png"] {
        image(&root.join(path));
    }
    text(&root.join("day/notes.txt"), "");
    text(&root.join("day/clip.mp4"), "");
    text(&root.join("classes.toml"), CLASSES);
    let data = opened(DatasetKind::Folder, root, "day", &[]);
    assert_eq!(names(&*data), ["z", "a/10", "b/2", "b/c/1"]);
    let sequences: Vec<&str> = data.sequences().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(sequences, [".", "a", "b", "b/c"]);
    assert_eq!(names(&*opened(DatasetKind::Folder, root, "day", &["b", "."])), ["z", "b/2"]);
    assert!(error(DatasetKind::Folder, root, "day", &["c"]).contains("., a, b, b/c"));
    assert!(data.check_annotations().expect_err("none").to_string().contains("4 of 4 annotations"));
    annotation(&root.join("dayannot/b/2.png"), &[[7; 12], [9; 12]].concat());
    let read = data.read_annotation(&data.samples()[2]).expect("valid");
    assert_eq!(read.train_ids, [[0; 12], [255; 12]].concat());
    let space = data.label_space();
    assert_eq!(
        (space.classes[1].name.as_str(), space.classes[1].thing, space.classes[1].color),
        ("car", true, [4, 5, 6])
    );
    annotation(&root.join("dayannot/b/2.png"), &[255; 24]);
    let message = data.read_annotation(&data.samples()[2]).expect_err("255 is not listed").to_string();
    assert!(message.contains("value 255") && message.contains("expected 2, 7, 9"), "{message}");
}

/// Keeps what is logged; one for all tests of this file.
struct Kept(Mutex<Vec<String>>);

impl log::Log for Kept {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().expect("no panic while logging").push(format!("{}: {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

#[test]
fn videos_beside_images_are_named_in_a_warning() {
    static KEPT: Kept = Kept(Mutex::new(Vec::new()));
    log::set_logger(&KEPT).expect("the only logger");
    log::set_max_level(log::LevelFilter::Warn);
    let folder = tempfile::tempdir().expect("writable");
    image(&folder.path().join("both/1.png"));
    text(&folder.path().join("both/b/late.avi"), "");
    text(&folder.path().join("both/a.MP4"), "");
    assert_eq!(names(&*opened(DatasetKind::Folder, folder.path(), "both", &[])), ["1"]);
    let both = folder.path().join("both").display().to_string();
    let kept = KEPT.0.lock().expect("no panic while logging");
    let ours: Vec<&String> = kept.iter().filter(|line| line.contains(&both)).collect();
    assert!(
        matches!(ours[..], [line] if line.starts_with("WARN") && line.contains("2 video files (a.MP4)")),
        "{ours:?}"
    );
}

#[test]
fn the_root_itself_can_be_the_split() {
    let folder = tempfile::tempdir().expect("writable");
    let root = folder.path();
    image(&root.join("1.png"));
    image(&root.join("x/2.png"));
    annotation(&root.join("annot/1.png"), &[7; 24]);
    annotation(&root.join("xannot/2.png"), &[7; 24]);
    text(&root.join("classes.toml"), CLASSES);
    let data = opened(DatasetKind::Folder, root, ".", &[]);
    assert_eq!(names(&*data), ["1", "x/2"]);
    assert_eq!(data.read_annotation(&data.samples()[0]).expect("valid").train_ids, [0; 24]);
    fs::rename(root.join("annot"), root.join(".annot")).expect("writable");
    let data = opened(DatasetKind::Folder, root, "./", &[]);
    assert_eq!(data.read_annotation(&data.samples()[0]).expect("valid").train_ids, [0; 24]);
}

#[test]
fn folders_without_classes_have_images_alone() {
    let folder = tempfile::tempdir().expect("writable");
    image(&folder.path().join("1.png"));
    let data = opened(DatasetKind::Folder, folder.path(), ".", &[]);
    assert_eq!(data.label_space().num_classes(), 0);
    assert!(data.check_annotations().expect_err("none").to_string().contains("classes.toml is missing"));
    assert!(
        data.read_annotation(&data.samples()[0]).expect_err("none").to_string().contains("classes.toml is missing")
    );
}

#[test]
fn bad_folders_are_refused() {
    let folder = tempfile::tempdir().expect("writable");
    let root = folder.path();
    image(&root.join("same/1.png"));
    fs::copy(root.join("same/1.png"), root.join("same/1.jpg")).expect("writable");
    let message = error(DatasetKind::Folder, root, "same", &[]);
    assert!(message.contains("1.jpg") && message.contains("1.png") && message.contains("rename"), "{message}");
    text(&root.join("videos/b.mp4"), "");
    text(&root.join("videos/a.MP4"), "");
    let message = error(DatasetKind::Folder, root, "videos", &[]);
    assert!(message.contains("2 video files (a.MP4)") && message.contains("images are needed"), "{message}");
    fs::create_dir(root.join("empty")).expect("writable");
    assert!(error(DatasetKind::Folder, root, "empty", &[]).contains("`empty` has no images"));
    let message = error(DatasetKind::Folder, root, "absent", &[]);
    assert!(message.contains("absent is missing") && message.contains("folders empty, same, videos"), "{message}");
    for split in ["", "..", "a/../..", "/"] {
        assert!(error(DatasetKind::Folder, root, split, &[]).contains("is no split"), "{split}");
    }
    assert!(error(DatasetKind::Folder, &root.join("nowhere"), ".", &[]).contains("--root"));
}

#[test]
fn classes_are_checked() {
    let folder = tempfile::tempdir().expect("writable");
    let root = folder.path();
    image(&root.join("s/1.png"));
    for (content, part) in [
        ("[[class]]\nid = 1\nname = \"a\"\ncolor = [0, 0, 0]\ncolour = 1\n", "colour"),
        ("ignored = 3\n", "ignored"),
        ("class = []\n", "at least one"),
        ("[[class]]\nid = 255\nname = \"a\"\ncolor = [0, 0, 0]\n", "`ignore`"),
        (
            "[[class]]\nid = 1\nname = \"a\"\ncolor = [0, 0, 0]\n[[class]]\nid = 1\nname = \"b\"\ncolor = [0, 0, 0]\n",
            "id 1",
        ),
        (
            "[[class]]\nid = 1\nname = \"a\"\ncolor = [0, 0, 0]\n[[class]]\nid = 2\nname = \"a\"\ncolor = [0, 0, 0]\n",
            "`a`",
        ),
        ("[[class]]\nid = 300\nname = \"a\"\ncolor = [0, 0, 0]\n", "300"),
    ] {
        text(&root.join("classes.toml"), content);
        let message = error(DatasetKind::Folder, root, "s", &[]);
        assert!(message.contains("classes.toml") && message.contains(part), "{part}: {message}");
    }
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_end() {
    let folder = tempfile::tempdir().expect("writable");
    let root = folder.path();
    image(&root.join("s/1.png"));
    std::os::unix::fs::symlink(root.join("s"), root.join("s/again")).expect("writable");
    assert_eq!(names(&*opened(DatasetKind::Folder, root, "s", &[])), ["1"]);
}

#[test]
fn kinds_have_names() {
    assert_eq!("camvid".parse::<DatasetKind>().expect("known"), DatasetKind::CamVid);
    let message = "kitti".parse::<DatasetKind>().expect_err("unknown").to_string();
    assert!(message.contains("`kitti`") && message.contains("camvid, folder"), "{message}");
}

/// The shared street data, when it is there.
#[test]
fn the_real_camvid_opens() {
    let Some(root) = shared_data("camvid") else { return };
    for (split, images, runs) in [("train", 231, 5), ("val", 101, 1), ("test", 62, 1)] {
        let data = opened(DatasetKind::CamVid, &root, split, &[]);
        assert_eq!((data.samples().len(), data.sequences().len()), (images, runs), "{split}");
        data.check_annotations().expect("complete");
        let read = data.read_annotation(&data.samples()[0]).expect("valid");
        assert!(read.train_ids.iter().all(|id| *id < 11 || *id == 255));
    }
    let data = opened(DatasetKind::CamVid, &root, "train", &["0001TP", "0006R0"]);
    assert_eq!(data.samples().len(), 163);
    let data = opened(DatasetKind::CamVid, &root, "val", &["val_0016E5_07959"]);
    assert_eq!(data.rate_hz(&data.samples()[0].sequence), Some(15.0));
}
