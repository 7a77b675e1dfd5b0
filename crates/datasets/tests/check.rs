//! What [`Dataset::check`] finds, and that nothing makes it panic.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use common::{annotation, assert_has, image, image_of, opened, shared_data, text};
use datasets::{CheckOptions, CheckReport, Dataset, DatasetError, DatasetKind};
use proptest::prelude::*;
use segcore::image::ImageSize;
use segcore::image_io::{write_gray8, write_rgb8};

fn check(data: &dyn Dataset, options: CheckOptions) -> Result<CheckReport, DatasetError> {
    data.check(&options, &AtomicBool::new(false))
}

fn with_annotations() -> CheckOptions {
    CheckOptions { needs_annotations: true, ..CheckOptions::default() }
}

const CLASSES: &str = "[[class]]\nid = 1\nname = \"road\"\ncolor = [1, 2, 3]\n";

/// Ten valid images with annotations in two sequences.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..10 {
        let name = format!("{}/{index}.png", if index < 4 { "a" } else { "b" });
        image(&folder.path().join("s").join(&name));
        annotation(&folder.path().join("sannot").join(&name), &[1; 24]);
    }
    text(&folder.path().join("classes.toml"), CLASSES);
    folder
}

fn jpeg(path: &Path, width: u32, height: u32) {
    let pixels = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 9]));
    pixels.save(path).unwrap();
}

#[test]
fn a_whole_data_set_is_clean() {
    let folder = folder();
    let data = opened(DatasetKind::Folder, folder.path(), "s", &[]);
    let report = check(&*data, with_annotations()).unwrap();
    assert!(report.is_clean());
    assert_eq!((report.num_images, report.num_sequences, report.num_annotations_read), (10, 2, 10));
    assert_eq!(report.sizes, [(ImageSize::new(6, 4), 10)]);
    assert_eq!(report.to_string(), "10 images in 2 sequences, 6×4; the label values of 10 are valid");
}

#[test]
fn sizes_and_damage_are_reported() {
    let folder = folder();
    let images = folder.path().join("s");
    jpeg(&images.join("a/4.jpg"), 33, 17);
    image_of(&images.join("b/small.png"), ImageSize::new(3, 9));
    fs::write(images.join("a/0.png"), "no image at all").unwrap();
    fs::write(images.join("a/1.png"), "").unwrap();
    let whole = fs::read(images.join("a/2.png")).unwrap();
    fs::write(images.join("a/2.png"), &whole[..whole.len() - 12]).unwrap();
    fs::write(images.join("a/3.png"), &whole[..20]).unwrap();
    let cut = fs::read(images.join("a/4.jpg")).unwrap();
    fs::write(images.join("a/cut.jpg"), &cut[..cut.len() - 2]).unwrap();
    let mut huge = whole.clone();
    huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    fs::write(images.join("a/huge.png"), huge).unwrap();
    // Something appended is no damage.
    for (name, bytes) in [("a/4.jpg", cut), ("b/4.png", whole)] {
        fs::write(images.join(name), [bytes, vec![0; 10_000]].concat()).unwrap();
    }
    let data = opened(DatasetKind::Folder, folder.path(), "s", &[]);
    let min_size = ImageSize::new(5, 4);
    let report = check(&*data, CheckOptions { min_size, ..CheckOptions::default() }).unwrap();
    assert!(!report.is_clean());
    let sizes = [(ImageSize::new(6, 4), 6), (ImageSize::new(3, 9), 1), (ImageSize::new(33, 17), 1)];
    assert_eq!(report.sizes, sizes);
    assert_eq!(report.too_small.len(), 1);
    assert!(report.too_small[0].path.ends_with("b/small.png"));
    let reasons: Vec<&str> = report.unreadable.iter().map(|image| image.reason.as_str()).collect();
    let expected = [
        "something else",
        "less than three bytes",
        "end is missing",
        "header is cut off",
        "end is missing",
        "its header says",
    ];
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
    for ((reason, part), name) in
        reasons.iter().zip(expected).zip(["0.png", "1.png", "2.png", "3.png", "cut.jpg", "huge.png"])
    {
        assert_has(reason, &[name, part]);
    }
    let text = report.to_string();
    assert_has(
        &text,
        &["14 images in 2 sequences, 6×4 (6) and 3×9 (1) and 33×17 (1)", "\n6 images cannot be read, the first: "],
    );
    assert_has(&text, &["0.png", "\n1 images are too small, the first: ", "small.png with 3×9"]);
}

#[test]
fn annotations_are_looked_at_when_they_are_needed() {
    let folder = folder();
    let labels = folder.path().join("sannot");
    let data = opened(DatasetKind::Folder, folder.path(), "s", &[]);
    let refused = |parts: &[&str]| {
        assert!(check(&*data, CheckOptions::default()).unwrap().is_clean());
        assert_has(&check(&*data, with_annotations()).unwrap_err().to_string(), parts);
    };
    let mut values = [1; 24];
    values[7] = 2;
    annotation(&labels.join("b/8.png"), &values);
    refused(&["b/8.png: value 2 at column 1, row 1", "expected 1, 255"]);
    write_gray8(labels.join("a/3.png"), ImageSize::new(4, 6), &[1; 24]).unwrap();
    refused(&["a/3.png is 4×6", "is 6×4"]);
    fs::write(labels.join("a/1.png"), "").unwrap();
    refused(&["annot/a/1.png", "less than three bytes"]);
    fs::remove_file(labels.join("b/5.png")).unwrap();
    fs::remove_file(labels.join("b/7.png")).unwrap();
    refused(&["2 of 10 annotations", "b/5.png", "b/7.png"]);
    // A broken image is in the report, and its annotation is not compared with it.
    let folder = self::folder();
    fs::write(folder.path().join("s/a/1.png"), "").unwrap();
    let data = opened(DatasetKind::Folder, folder.path(), "s", &[]);
    let report = check(&*data, with_annotations()).unwrap();
    assert_eq!((report.unreadable.len(), report.num_annotations_read), (1, 9));
}

#[test]
fn gaps_are_in_the_report() {
    let folder = tempfile::tempdir().unwrap();
    for number in [0, 1, 5] {
        image(&folder.path().join(format!("images/train/0001/{number:06}.png")));
    }
    let data = opened(DatasetKind::KittiStep, folder.path(), "train", &[]);
    let report = check(&*data, CheckOptions::default()).unwrap();
    assert!(!report.is_clean());
    assert_has(&report.to_string(), &["3 frames are missing, the first in sequence 0001 between 1 and 5"]);
}

#[test]
fn an_interrupt_ends_it() {
    let folder = folder();
    let data = opened(DatasetKind::Folder, folder.path(), "s", &[]);
    let error = data.check(&with_annotations(), &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, DatasetError::Interrupted), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any damage is reported or harmless, never a panic; what has no damage keeps its size.
    #[test]
    fn damaged_images_are_reported(
        (width, height) in (1u32..40, 1u32..40), is_jpeg: bool, cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(), value: u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(if is_jpeg { "a.jpg" } else { "a.png" });
        let size = ImageSize::new(width as usize, height as usize);
        if is_jpeg { jpeg(&path, width, height) } else { write_rgb8(&path, size, &vec![7; 3 * size.num_pixels()]).unwrap() }
        let data = opened(DatasetKind::Folder, folder.path(), ".", &[]);
        let report = check(&*data, CheckOptions::default()).unwrap();
        prop_assert_eq!(&report.sizes[..], &[(size, 1)][..]);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..cut.index(whole.len())]).unwrap();
        let cut_report = check(&*data, CheckOptions::default()).unwrap();
        // The last bytes of a PNG are the checksum of its empty last chunk.
        let is_reported = cut_report.unreadable.len() == 1;
        prop_assert!(is_reported || (!is_jpeg && cut.index(whole.len()) + 4 >= whole.len()));
        let mut changed = whole.clone();
        changed[at.index(whole.len())] = value;
        fs::write(&path, &changed).unwrap();
        check(&*data, CheckOptions::default()).unwrap();
    }
}

/// Headers and ends of files are all that is read.
#[test]
fn three_thousand_images_take_less_than_ten_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("0.png");
    image_of(&first, ImageSize::new(64, 48));
    let bytes = fs::read(&first).unwrap();
    for index in 1..3000 {
        fs::write(folder.path().join(format!("{index}.png")), &bytes).unwrap();
    }
    let data = opened(DatasetKind::Folder, folder.path(), ".", &[]);
    let start = std::time::Instant::now();
    let report = check(&*data, CheckOptions::default()).unwrap();
    println!("{report} ({:?})", start.elapsed());
    assert!(report.is_clean() && start.elapsed().as_secs() < 10);
}

/// 394 images with their annotations take well below a second.
#[test]
fn the_real_camvid_is_clean() {
    let Some(root) = shared_data("camvid") else { return };
    for (split, num_images) in [("train", 231), ("val", 101), ("test", 62)] {
        let data = opened(DatasetKind::CamVid, &root, split, &[]);
        let start = std::time::Instant::now();
        let report = check(&*data, with_annotations()).unwrap();
        println!("{split}: {report} ({:?})", start.elapsed());
        assert!(report.is_clean());
        assert_eq!((report.num_images, report.sizes), (num_images, vec![(ImageSize::new(480, 360), num_images)]));
    }
}

#[test]
fn the_real_kitti_and_cityscapes_are_clean() {
    for (kind, folder, splits) in [
        (DatasetKind::KittiStep, "kitti_step", &["train", "test"][..]),
        (DatasetKind::Cityscapes, "cityscapes", &["train", "sequence/train"][..]),
    ] {
        let Some(root) = shared_data(folder) else { continue };
        for split in splits {
            let data = opened(kind, &root, split, &[]);
            let report =
                check(&*data, CheckOptions { needs_annotations: *split == "train", ..CheckOptions::default() });
            println!("{folder} {split}: {}", report.as_ref().unwrap());
            assert!(report.unwrap().is_clean());
        }
    }
}
