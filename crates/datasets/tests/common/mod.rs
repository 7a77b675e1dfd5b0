//! What the tests of this crate share.
// Every test file is a program of its own and uses some of this.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use datasets::{Dataset, DatasetKind, open};
use segcore::image::ImageSize;
use segcore::image_io::{write_gray8, write_rgb8};

pub const SIZE: ImageSize = ImageSize { width: 6, height: 4 };

/// A grey image of [`SIZE`].
pub fn image(path: &Path) {
    image_of(path, SIZE);
}

pub fn image_of(path: &Path, size: ImageSize) {
    fs::create_dir_all(path.parent().expect("has a folder")).expect("writable");
    write_rgb8(path, size, &vec![40; 3 * size.num_pixels()]).expect("writable");
}

pub fn annotation(path: &Path, values: &[u8]) {
    fs::create_dir_all(path.parent().expect("has a folder")).expect("writable");
    write_gray8(path, SIZE, values).expect("writable");
}

pub fn text(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("has a folder")).expect("writable");
    fs::write(path, content).expect("writable");
}

pub fn opened(kind: DatasetKind, root: &Path, split: &str, sequences: &[&str]) -> Box<dyn Dataset> {
    let sequences: Vec<String> = sequences.iter().map(|s| (*s).to_owned()).collect();
    open(kind, root, split, &sequences).expect("valid")
}

pub fn error(kind: DatasetKind, root: &Path, split: &str, sequences: &[&str]) -> String {
    let sequences: Vec<String> = sequences.iter().map(|s| (*s).to_owned()).collect();
    open(kind, root, split, &sequences).err().expect("refused").to_string()
}

pub fn names(data: &dyn Dataset) -> Vec<&str> {
    data.samples().iter().map(|entry| entry.name.as_str()).collect()
}

pub fn sequence_names(data: &dyn Dataset) -> Vec<&str> {
    data.sequences().iter().map(|sequence| sequence.name.as_str()).collect()
}

#[track_caller]
pub fn assert_has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
}

/// A folder of the street data (`HSG_DATA`, relative to the workspace, else `../shared/data` beside it), or `None` with
/// a printed line.
pub fn shared_data(path: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = match std::env::var_os("HSG_DATA") {
        Some(folder) => {
            let folder = workspace.join(folder);
            assert!(folder.is_dir(), "HSG_DATA is {}, which is no folder", folder.display());
            folder
        }
        None => workspace.join("../shared/data"),
    };
    let found = folder.join(path);
    if found.exists() {
        return Some(found);
    }
    // Not `eprintln!`: the test harness keeps that of passing tests to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {}: not there", found.display());
    None
}
