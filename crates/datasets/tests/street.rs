//! Cityscapes and KITTI-STEP: small trees made here, each way they can be broken, and the real files where they are.

mod common;

use std::fs;
use std::path::Path;

use common::{SIZE, annotation, assert_has, error, image, names, opened, sequence_names, shared_data};
use datasets::{Dataset, DatasetKind};
use segcore::image::ImageSize;
use segcore::image_io::{write_gray8, write_rgb8};

const CITYSCAPES: DatasetKind = DatasetKind::Cityscapes;
const KITTI: DatasetKind = DatasetKind::KittiStep;

fn cityscapes() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for frame in ["ulm/ulm_000001_000019", "bonn/bonn_000000_000019", "bonn/bonn_000007_000019"] {
        image(&root.join(format!("leftImg8bit/train/{frame}_leftImg8bit.png")));
        let mut values = [7; 24];
        values[..4].copy_from_slice(&[0, 33, 30, 11]);
        annotation(&root.join(format!("gtFine/train/{frame}_gtFine_labelIds.png")), &values);
    }
    folder
}

#[test]
fn cityscapes_has_cities_as_sequences() {
    let folder = cityscapes();
    let data = opened(CITYSCAPES, folder.path(), "train", &[]);
    assert_eq!((data.name(), data.split()), ("cityscapes", "train"));
    let all = ["bonn/bonn_000000_000019", "bonn/bonn_000007_000019", "ulm/ulm_000001_000019"];
    assert_eq!(names(&*data), all.map(|name| format!("{name}_leftImg8bit")));
    assert_eq!(sequence_names(&*data), ["bonn", "ulm"]);
    assert_eq!((data.samples()[1].index_in_sequence, data.rate_hz("bonn")), (1, None));
    assert_eq!(data.label_space().num_classes(), 19);
    data.check_annotations().unwrap();
    let read = data.read_annotation(&data.samples()[2]).unwrap();
    assert_eq!((read.size, &read.train_ids[..5], read.instance_ids), (SIZE, &[255, 18, 255, 2, 0][..], None));
    assert_eq!(names(&*opened(CITYSCAPES, folder.path(), "train", &["ulm"])).len(), 1);
    assert_has(&error(CITYSCAPES, folder.path(), "train", &["jena"]), &["`jena`", "bonn, ulm"]);
}

#[test]
fn cityscapes_objects_are_counted_from_one() {
    let folder = cityscapes();
    let path = folder.path().join("gtFine/train/ulm/ulm_000001_000019_gtFine_instanceIds.png");
    let mut values = [7u16; 24];
    // Two cars, a group of cars, a caravan.
    values[..4].copy_from_slice(&[26_000, 26_013, 26, 29_001]);
    segcore::image_io::write_gray16(&path, SIZE, &values).unwrap();
    let data = opened(CITYSCAPES, folder.path(), "train", &["ulm"]);
    let read = || data.read_annotation(&data.samples()[0]);
    assert_eq!(read().unwrap().instance_ids.unwrap()[..5], [1, 14, 0, 2, 0]);
    segcore::image_io::write_gray16(&path, ImageSize::new(2, 1), &values[..2]).unwrap();
    assert_has(&read().unwrap_err().to_string(), &["instanceIds.png", "2×1"]);
}

#[test]
fn cityscapes_train_ids_are_read_as_they_are() {
    let folder = cityscapes();
    let root = folder.path().join("gtFine/train/ulm/ulm_000001_000019_gtFine");
    let (label_ids, train_ids) =
        (root.display().to_string() + "_labelIds.png", root.display().to_string() + "_labelTrainIds.png");
    fs::remove_file(&label_ids).unwrap();
    let mut values = [18; 24];
    values[1] = 255;
    annotation(Path::new(&train_ids), &values);
    let data = opened(CITYSCAPES, folder.path(), "train", &["ulm"]);
    data.check_annotations().unwrap();
    assert_eq!(data.read_annotation(&data.samples()[0]).unwrap().train_ids, values);
    values[9] = 19;
    annotation(Path::new(&train_ids), &values);
    let message = data.read_annotation(&data.samples()[0]).unwrap_err().to_string();
    assert_has(&message, &["labelTrainIds.png: value 19 at column 3, row 1", "expected 0–18, 255"]);
}

#[test]
fn cityscapes_refuses_what_is_broken() {
    let folder = cityscapes();
    let root = folder.path();
    let labels = root.join("gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png");
    let data = opened(CITYSCAPES, root, "train", &["ulm"]);
    let refused =
        |parts: &[&str]| assert_has(&data.read_annotation(&data.samples()[0]).unwrap_err().to_string(), parts);
    for value in [34, 255] {
        let mut values = [8; 24];
        values[13] = value;
        annotation(&labels, &values);
        refused(&["labelIds.png", &format!("value {value} at column 1, row 2"), "cityscapes_19", "expected 0–33"]);
    }
    write_gray8(&labels, ImageSize::new(3, 8), &[7; 24]).unwrap();
    refused(&["labelIds.png is 3×8", "is 6×4"]);
    write_rgb8(&labels, SIZE, &[7; 72]).unwrap();
    refused(&["labelIds.png", "8-bit grey"]);
    fs::remove_file(&labels).unwrap();
    refused(&["labelIds.png"]);
    let message = opened(CITYSCAPES, root, "train", &[]).check_annotations().unwrap_err().to_string();
    assert_has(&message, &["1 of 3 annotations", "ulm_000001_000019_gtFine_labelIds.png"]);
    assert_has(&error(CITYSCAPES, root, "val", &[]), &["leftImg8bit/val is missing", "CITY", "folders train"]);
    assert_has(&error(CITYSCAPES, &root.join("gtFine"), "val", &[]), &["is missing", "folders train"]);
    fs::create_dir_all(root.join("leftImg8bit/test/berlin")).unwrap();
    image(&root.join("leftImg8bit/test/berlin/berlin_000000_000019.png"));
    assert_has(&error(CITYSCAPES, root, "test", &[]), &["`test` has no images", "_leftImg8bit.png"]);
    let image = root.join("leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit");
    fs::copy(image.with_extension("png"), image.with_extension("jpg")).unwrap();
    assert_has(&error(CITYSCAPES, root, "train", &[]), &["differ only in their extension"]);
}

#[test]
fn cityscapes_videos_are_runs_of_frame_numbers() {
    let folder = cityscapes();
    let root = folder.path();
    for number in [5, 6, 7, 20, 21] {
        image(&root.join(format!("leftImg8bit_sequence/train/bonn/bonn_000000_{number:06}_leftImg8bit.png")));
    }
    image(&root.join("leftImg8bit_sequence/train/bonn/bonn_000001_000022_leftImg8bit.jpg"));
    annotation(&root.join("gtFine/train/bonn/bonn_000000_000006_gtFine_labelIds.png"), &[7; 24]);
    let data = opened(CITYSCAPES, root, "sequence/train", &["bonn"]);
    assert_eq!(
        sequence_names(&*data),
        ["bonn_000000_000005", "bonn_000000_000020", "bonn_000001_000022"].map(String::from)
    );
    assert_eq!((data.rate_hz("bonn_000000_000020"), data.sequences()[0].drive.as_str()), (Some(17.0), "bonn"));
    let index: Vec<usize> = data.samples().iter().map(|entry| entry.index_in_sequence).collect();
    assert_eq!(index, [0, 1, 2, 0, 1, 0]);
    assert_eq!(data.read_annotation(&data.samples()[1]).unwrap().train_ids, [0; 24]);
    assert_has(&data.check_annotations().unwrap_err().to_string(), &["000005", "no annotation"]);
    assert_has(
        &error(CITYSCAPES, root, "sequence/val", &[]),
        &["leftImg8bit_sequence/val is missing", "folders train"],
    );
}

/// Frames of a sequence, as KITTI-STEP has them.
fn kitti_frames(root: &Path, split: &str, sequence: &str, numbers: &[u32]) {
    for number in numbers {
        image(&root.join(format!("images/{split}/{sequence}/{number:06}.png")));
    }
}

fn kitti_map(root: &Path, split: &str, sequence: &str, number: u32, pixels: &[[u8; 3]; 24]) {
    let folder = root.join(format!("panoptic_maps/{split}/{sequence}"));
    fs::create_dir_all(&folder).unwrap();
    write_rgb8(folder.join(format!("{number:06}.png")), SIZE, pixels.as_flattened()).unwrap();
}

#[test]
fn kitti_step_reads_classes_and_instances() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    kitti_frames(root, "train", "0001", &[0, 1]);
    let mut pixels = [[0, 0, 0]; 24];
    pixels[1] = [13, 1, 2];
    pixels[2] = [11, 0, 7];
    pixels[3] = [255, 9, 9];
    kitti_map(root, "train", "0001", 0, &pixels);
    let data = opened(KITTI, root, "train", &[]);
    assert_eq!((data.name(), data.rate_hz("0001")), ("kitti-step", Some(10.0)));
    assert_eq!(names(&*data), ["0001/000000", "0001/000001"]);
    assert_has(
        &data.check_annotations().unwrap_err().to_string(),
        &["1 of 2 annotations", "panoptic_maps", "000001.png"],
    );
    let read = data.read_annotation(&data.samples()[0]).unwrap();
    assert_eq!(read.train_ids[..5], [0, 13, 11, 255, 0]);
    assert_eq!(read.instance_ids.unwrap()[..5], [0, 258, 7, 0, 0]);
    pixels[23][0] = 26;
    kitti_map(root, "train", "0001", 0, &pixels);
    let message = data.read_annotation(&data.samples()[0]).unwrap_err().to_string();
    assert_has(&message, &["000000.png: value 26 at column 5, row 3", "expected 0–18, 255"]);
    write_rgb8(root.join("panoptic_maps/train/0001/000000.png"), ImageSize::new(8, 3), &[0; 72]).unwrap();
    assert_has(&data.read_annotation(&data.samples()[0]).unwrap_err().to_string(), &["is 8×3", "is 6×4"]);
}

#[test]
fn kitti_step_orders_by_number_and_counts_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    kitti_frames(root, "train", "0001", &[3, 4, 7, 8, 20]);
    kitti_frames(root, "train", "0003", &[0, 1]);
    image(&root.join("images/train/0003/10.png"));
    image(&root.join("images/train/0003/preview.png"));
    let data = opened(KITTI, root, "train", &[]);
    assert_eq!(names(&*data)[5..], ["0003/000000", "0003/000001", "0003/10"]);
    let gaps: Vec<_> =
        data.gaps().iter().map(|gap| (gap.sequence.as_str(), gap.after, gap.before, gap.num_missing())).collect();
    assert_eq!(gaps, [("0001", 4, 7, 2), ("0001", 8, 20, 11), ("0003", 1, 10, 8)]);
    assert_eq!(opened(KITTI, root, "train", &["0003"]).gaps().len(), 1);
    image(&root.join("images/train/0003/1.png"));
    assert_has(&error(KITTI, root, "train", &[]), &["1.png", "000001.png", "rename one"]);
}

const VALIDATION: [&str; 9] = ["0002", "0006", "0007", "0008", "0010", "0013", "0014", "0016", "0018"];

#[test]
fn kittis_own_folders_have_the_official_split() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for sequence in 0..21 {
        kitti_frames(root, "train", &format!("{sequence:04}"), &[0]);
        kitti_map(root, "train", &format!("{sequence:04}"), 0, &[[0, 0, 0]; 24]);
    }
    kitti_frames(root, "test", "0000", &[0]);
    let val = opened(KITTI, root, "val", &[]);
    assert_eq!(sequence_names(&*val), VALIDATION);
    val.check_annotations().unwrap();
    assert_eq!(val.samples()[0].name, "0002/000000");
    let train = opened(KITTI, root, "train", &[]);
    assert_eq!(train.sequences().len(), 12);
    assert!(!sequence_names(&*train).iter().any(|name| VALIDATION.contains(name)));
    assert_has(&error(KITTI, root, "train", &["0002"]), &["`0002`", "0000, 0001, 0003"]);
    // However it is written.
    assert_eq!(opened(KITTI, root, "./train/", &[]).sequences().len(), 12);
    assert_eq!(sequence_names(&*opened(KITTI, root, "test", &[])), ["0000"]);
    // The maps have a folder `val`, the images do not.
    fs::create_dir(root.join("panoptic_maps/val")).unwrap();
    fs::rename(root.join("panoptic_maps/train/0002"), root.join("panoptic_maps/val/0002")).unwrap();
    opened(KITTI, root, "val", &[]).check_annotations().unwrap();
    // Without all nine there is no such split, and nothing is taken out of train.
    fs::remove_dir_all(root.join("images/train/0018")).unwrap();
    assert_has(&error(KITTI, root, "val", &[]), &["images/val is missing", "without 0018"]);
    assert_eq!(opened(KITTI, root, "train", &[]).sequences().len(), 20);
    // A folder `val` decides.
    kitti_frames(root, "val", "0018", &[0]);
    assert_eq!(sequence_names(&*opened(KITTI, root, "val", &[])), ["0018"]);
    assert_eq!(opened(KITTI, root, "train", &[]).sequences().len(), 20);
}

#[test]
fn kitti_step_refuses_what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert_has(&error(KITTI, root, "train", &[]), &["images/train is missing", "no folders"]);
    fs::create_dir_all(root.join("images/train/0000")).unwrap();
    assert_has(&error(KITTI, root, "train", &[]), &["`train` has no images", "SEQUENCE/FRAME.png"]);
    assert_has(&error(KITTI, root, "test", &[]), &["images/test is missing", "folders train"]);
    assert_has(&error(KITTI, root, "val", &[]), &["images/val is missing", "without 0002, 0006"]);
}

/// How often each train id occurs in all annotations.
fn histogram(data: &dyn Dataset) -> [u64; 256] {
    let mut counts = [0; 256];
    for entry in data.samples() {
        for id in data.read_annotation(entry).unwrap().train_ids {
            counts[usize::from(id)] += 1;
        }
    }
    counts
}

#[test]
fn the_real_cityscapes_frames_have_the_stated_pixels() {
    let Some(root) = shared_data("cityscapes") else { return };
    let data = opened(CITYSCAPES, &root, "train", &[]);
    assert_eq!(sequence_names(&*data), ["aachen"]);
    let numbers = ["000000", "000001", "000002", "000006"];
    assert_eq!(names(&*data), numbers.map(|number| format!("aachen/aachen_{number}_000019_leftImg8bit")));
    data.check_annotations().unwrap();
    // The table of its README, label id: pixels.
    let table: [(i32, u64); 22] = [
        (0, 157),
        (1, 326_136),
        (3, 126_536),
        (4, 69_609),
        (5, 1688),
        (6, 30_737),
        (7, 3_191_685),
        (8, 347_258),
        (9, 12_933),
        (11, 1_371_685),
        (12, 7655),
        (13, 63_113),
        (17, 87_543),
        (19, 1047),
        (20, 52_520),
        (21, 1_798_230),
        (22, 331_872),
        (23, 291_703),
        (24, 7247),
        (25, 2270),
        (26, 264_512),
        (33, 2472),
    ];
    let space = data.label_space();
    let mut expected = [0; 256];
    for (label_id, pixels) in table {
        let class = space.classes.iter().find(|class| class.class_id.0 == label_id);
        expected[class.map_or(255, |class| usize::from(class.train_id.0))] += pixels;
    }
    assert_eq!(histogram(&*data), expected);
    assert_eq!(expected.iter().sum::<u64>(), 4 * 2048 * 1024);
    assert!(error(CITYSCAPES, &root, "val", &[]).contains("leftImg8bit/val is missing"), "it has labels alone");
}

#[test]
fn the_real_cityscapes_snippet_is_one_sequence() {
    let Some(root) = shared_data("cityscapes") else { return };
    let data = opened(CITYSCAPES, &root, "sequence/train", &[]);
    assert_eq!((data.samples().len(), sequence_names(&*data)), (30, vec!["aachen_000000_000000"]));
    let labelled: Vec<usize> = (0..30).filter(|index| data.samples()[*index].annotation.is_some()).collect();
    assert_eq!(labelled, [19]);
    assert_eq!(data.read_annotation(&data.samples()[19]).unwrap().size, ImageSize::new(2048, 1024));
}

#[test]
fn the_real_kitti_step_opens() {
    let Some(root) = shared_data("kitti_step") else { return };
    let test = opened(KITTI, &root, "test", &["9100"]);
    assert_eq!((test.samples().len(), test.gaps().len(), test.rate_hz("9100")), (24, 0, Some(10.0)));
    assert_has(&test.check_annotations().unwrap_err().to_string(), &["24 of 24 annotations"]);
    let train = opened(KITTI, &root, "train", &[]);
    assert_eq!(names(&*train), ["9000/000000", "9001/000000", "9002/000000"]);
    train.check_annotations().unwrap();
    let counts = histogram(&*train);
    // As the frames were made: label pixels from column 19, row 5 on; road, vegetation and building are most of them.
    assert_eq!(counts.iter().sum::<u64>(), 3 * 1223 * 370);
    let mut ids: Vec<usize> = (0..19).collect();
    ids.sort_by_key(|id| std::cmp::Reverse(counts[*id]));
    let mut first: Vec<usize> = ids[..3].to_vec();
    first.sort_unstable();
    assert_eq!(first, [0, 2, 8]);
    // No more pixels of a class than the uncropped labels have.
    let uncropped = [
        343_899, 79_088, 309_031, 20_153, 21_064, 21_569, 6896, 7640, 340_028, 36_957, 50_073, 1903, 9799, 114_596,
        994, 506, 161, 2113, 16_258,
    ];
    for (id, most) in uncropped.into_iter().enumerate() {
        assert!(counts[id] <= most, "train id {id}: {} of {most}", counts[id]);
        assert!(counts[id] * 10 >= most * 7, "train id {id}: {} of {most}", counts[id]);
    }
    // Things have instances: persons (offset by 100) and cars; stuff has none.
    for entry in train.samples() {
        let read = train.read_annotation(entry).unwrap();
        let instances = read.instance_ids.unwrap();
        for (train_id, instance) in read.train_ids.iter().zip(&instances) {
            assert!(*instance == 0 || matches!(train_id, 11 | 13), "{}: {train_id} {instance}", entry.name);
            assert!(*train_id != 11 || *instance == 0 || *instance > 100);
        }
        assert!(instances.iter().any(|instance| *instance > 0), "{}", entry.name);
    }
}
