//! Small pictures for the programs to read, made here so that nobody's licence is involved.

use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, Luma, Rgb, RgbImage};

/// Width and height of the pictures: the tiny model's input.
pub const SIZE: (u32, u32) = (96, 64);

/// CamVid labels of [`street`]: sky, building, road, car.
const CLASSES: [u8; 4] = [0, 1, 3, 8];

/// Sky, houses, a road and a car that drives to the right; `index` is the frame.
pub fn street(index: u32) -> RgbImage {
    let (width, height) = SIZE;
    RgbImage::from_fn(width, height, |x, y| {
        // A little texture: flat areas have no gradient to segment by.
        let grain = ((x * 7 + y * 13 + index * 3) % 11) as u8;
        let [r, g, b] = [[140, 180, 230], [150, 120, 90], [90, 90, 95], [180, 30, 30]][thing(index, x, y)];
        Rgb([r + grain, g + grain, b + grain])
    })
}

/// Writes frames and their labels as Cityscapes lays them out, with label ids, and returns the root.
pub fn cityscapes_dataset(root: impl AsRef<Path>, split: &str, num_frames: u32) -> PathBuf {
    // sky, wall, road, bus: `wall` and `bus` have no class of their own in CamVid.
    const LABEL_IDS: [u8; 4] = [23, 12, 7, 28];
    let root = root.as_ref().to_owned();
    let [images, labels] = ["leftImg8bit", "gtFine"].map(|part| root.join(part).join(split).join("ulm"));
    for folder in [&images, &labels] {
        fs::create_dir_all(folder).expect("a folder");
    }
    for index in 0..num_frames {
        let name = format!("ulm_{index:06}_000019");
        street(index).save(images.join(format!("{name}_leftImg8bit.png"))).expect("a picture is written");
        save_labels(&labels.join(format!("{name}_gtFine_labelIds.png")), index, &LABEL_IDS);
    }
    root
}

/// Writes frames and their labels as the data set `folder` has them and returns the root; `names` are those of sky,
/// houses, road and car in `classes.toml`, with the values 10, 11, 12 and 13.
pub fn own_dataset(root: impl AsRef<Path>, split: &str, num_frames: u32, names: [&str; 4]) -> PathBuf {
    let root = root.as_ref().to_owned();
    let labels = root.join(format!("{split}annot"));
    street_folder(root.join(split), num_frames);
    fs::create_dir_all(&labels).expect("a folder");
    for index in 0..num_frames {
        save_labels(&labels.join(format!("{index:06}.png")), index, &[10, 11, 12, 13]);
    }
    let class = |(id, name): (usize, &str)| {
        format!("[[class]]\nid = {}\nname = \"{name}\"\ncolor = [{id}, 100, 0]\nthing = {}\n", 10 + id, id == 3)
    };
    let classes: String = names.into_iter().enumerate().map(class).collect();
    fs::write(root.join("classes.toml"), format!("name = \"mine\"\n{classes}")).expect("the classes are written");
    root
}

fn save_labels(path: &Path, index: u32, values: &[u8; 4]) {
    let labels = GrayImage::from_fn(SIZE.0, SIZE.1, |x, y| Luma([values[thing(index, x, y)]]));
    labels.save(path).expect("labels are written");
}

/// What is at a pixel of [`street`]: 0 sky, 1 building, 2 road, 3 car.
pub fn thing(index: u32, x: u32, y: u32) -> usize {
    let car = 10 + 4 * index % (SIZE.0 - 30);
    if (car..car + 18).contains(&x) && (40..50).contains(&y) {
        3
    } else if y > 36 + x / 16 {
        2
    } else if y > 12 + (x / 12 % 3) * 6 {
        1
    } else {
        0
    }
}

/// Writes frames `000000.png` … into a new folder and returns it.
pub fn street_folder(folder: impl AsRef<Path>, num_frames: u32) -> PathBuf {
    let folder = folder.as_ref().to_owned();
    fs::create_dir_all(&folder).expect("a folder for the pictures");
    for index in 0..num_frames {
        street(index).save(folder.join(format!("{index:06}.png"))).expect("a picture is written");
    }
    folder
}

/// Writes frames and their labels as CamVid lays them out, `ROOT/SPLIT/NAME.png` …, and returns the root.
pub fn street_dataset(root: impl AsRef<Path>, split: &str, num_frames: u32) -> PathBuf {
    let root = root.as_ref().to_owned();
    let (images, annotations) = (root.join(split), root.join(format!("{split}annot")));
    fs::create_dir_all(&annotations).expect("a folder for the labels");
    fs::create_dir_all(&images).expect("a folder for the pictures");
    let mut list = String::new();
    for index in 0..num_frames {
        let name = format!("0001XX_{index:06}.png");
        street(index).save(images.join(&name)).expect("a picture is written");
        save_labels(&annotations.join(&name), index, &CLASSES);
        list.push_str(&format!("{split}/{name} {split}annot/{name}\n"));
    }
    fs::write(root.join(format!("{split}.txt")), list).expect("the list is written");
    root
}
