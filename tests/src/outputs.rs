//! Reading what the programs wrote: is every file whole, do the labels nest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use segcore::image_io;

/// A label file: one value per pixel, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Width and height in pixels.
    pub size: (usize, usize),
    /// 1 + track id of the segment that the pixel belongs to; 0 = no label.
    pub values: Vec<u16>,
}

/// Reads `labels/level{L}/NNNNNN.png`.
///
/// # Panics
///
/// If it is no 16-bit grey PNG.
pub fn read_labels(path: &Path) -> Labels {
    let image = image_io::read_gray16(path).unwrap_or_else(|error| panic!("{error}"));
    Labels { size: (image.size.width, image.size.height), values: image.pixels }
}

/// All files below `folder`, as sorted paths relative to it.
pub fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.push(path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// Checks that every file of an output folder of `hsg run` can be read to its end and that no other file is there;
/// returns the number of frames in `frames.hsg`, if there is one.
///
/// # Panics
///
/// If a file is cut, damaged or unknown.
pub fn assert_whole(folder: &Path) -> Option<usize> {
    let mut num_frames = None;
    for name in files(folder) {
        let path = folder.join(&name);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("png" | "jpg") if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) => {
                image::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            Some("json") => drop(read_json(&path)),
            Some("avi") => drop(avi_frames(&path)),
            Some("mcap") => {
                let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(bytes.ends_with(b"\x89MCAP0\r\n"), "{name} has no end");
            }
            Some("hsg") => num_frames = Some(read_frames(&path).len()),
            _ => panic!("{name} is no file that `hsg run` leaves behind"),
        }
    }
    num_frames
}

/// Reads a JSON document.
///
/// # Panics
///
/// If it is none.
pub fn read_json(path: &Path) -> serde_json::Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All frames of `frames.hsg`, each validated.
///
/// # Panics
///
/// If the file is cut or holds something wrong.
pub fn read_frames(path: &Path) -> Vec<wire::Frame> {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = wire::StreamReader::new(file);
    let mut frames = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return frames,
            Err(error) => panic!("{}: after {} frames: {error}", path.display(), frames.len()),
        }
    }
}

/// The frames of a Motion-JPEG AVI, each decoded once to prove it whole; the index must list as many.
///
/// # Panics
///
/// If the container or a frame is damaged.
pub fn avi_frames(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    assert!(bytes.starts_with(b"RIFF") && &bytes[8..12] == b"AVI ", "{}: no AVI", path.display());
    assert_eq!(word(4) + 8, bytes.len(), "{}: length in the RIFF header", path.display());
    let mut frames = Vec::new();
    let mut num_indexed = None;
    // Lists are walked into; everything else is a leaf.
    let mut at = 12;
    while at + 8 <= bytes.len() {
        let (tag, length) = (&bytes[at..at + 4], word(at + 4));
        match tag {
            b"LIST" => {
                at += 12;
                continue;
            }
            b"00dc" => frames.push(bytes[at + 8..at + 8 + length].to_vec()),
            b"idx1" => num_indexed = Some(length / 16),
            _ => {}
        }
        at += 8 + length + length % 2;
    }
    assert_eq!(num_indexed, Some(frames.len()), "{}: frames in the index", path.display());
    for (index, frame) in frames.iter().enumerate() {
        image::load_from_memory(frame).unwrap_or_else(|error| panic!("{}: frame {index}: {error}", path.display()));
    }
    frames
}

/// Checks that in every frame each value of a level lies under exactly one value of the next level, and returns the
/// frames' label files: frame name → one per level, finest first.
///
/// # Panics
///
/// If nesting is broken, a level lacks a frame, or sizes differ.
pub fn assert_nested(output: &Path) -> BTreeMap<String, Vec<Labels>> {
    let levels: Vec<PathBuf> =
        (0..).map(|level| output.join(format!("labels/level{level}"))).take_while(|folder| folder.is_dir()).collect();
    assert!(levels.len() >= 2, "{}: {} levels of labels", output.display(), levels.len());
    let mut frames = BTreeMap::new();
    for name in files(&levels[0]) {
        let labels: Vec<Labels> = levels.iter().map(|level| read_labels(&level.join(&name))).collect();
        for (level, pair) in labels.windows(2).enumerate() {
            assert_eq!(pair[0].size, pair[1].size, "{name}: levels {level} and {}", level + 1);
            let mut parents = BTreeMap::new();
            for (&value, &above) in pair[0].values.iter().zip(&pair[1].values) {
                let parent = *parents.entry(value).or_insert(above);
                assert_eq!(parent, above, "{name}: value {value} of level {level} has two parents");
                assert_eq!(value == 0, above == 0, "{name}: level {level}: unlabelled at one level only");
            }
        }
        frames.insert(name, labels);
    }
    for level in &levels {
        assert_eq!(files(level).len(), frames.len(), "{}", level.display());
    }
    frames
}
