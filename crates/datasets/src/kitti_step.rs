//! KITTI-STEP: `ROOT/images/{train,val,test}/SEQUENCE/FRAME.png` (`.jpg` and `.jpeg`, too) and
//! `ROOT/panoptic_maps/{train,val}/SEQUENCE/FRAME.png`, read by [`crate::read_panoptic_png`]. 10 Hz.
//!
//! The download of KITTI has no folder `val`. Where `ROOT/images` has none either and `ROOT/images/train` has all nine
//! official validation sequences (0002, 0006, 0007, 0008, 0010, 0013, 0014, 0016, 0018), the split `val` is these nine and
//! `train` is what remains. Their maps are looked for in `panoptic_maps/val` first, then in `panoptic_maps/train`.
//!
//! Frames are ordered by their number. A number that is missing within a sequence is reported by
//! [`Dataset::gaps`] and a warning, and is no error.

use std::path::{Path, PathBuf};

use segcore::label_space::LabelSpace;

use crate::annotation::{AnnotationValues, check_size};
use crate::cityscapes::train_id_values;
use crate::files::{Listing, check_annotation_files, found_folders, normal_split, without_extension};
use crate::panoptic_png;
use crate::sequences::{FrameGap, Sequence, select};
use crate::{Annotation, Dataset, DatasetError, SampleEntry};

/// Frames per second.
const RATE_HZ: f64 = 10.0;
/// Official validation sequences among KITTI's 21 for training.
const VALIDATION: [&str; 9] = ["0002", "0006", "0007", "0008", "0010", "0013", "0014", "0016", "0018"];

pub(crate) struct KittiStep {
    split: String,
    sequences: Vec<Sequence>,
    samples: Vec<SampleEntry>,
    gaps: Vec<FrameGap>,
    values: AnnotationValues,
}

impl KittiStep {
    pub(crate) fn open(root: &Path, split: &str, selection: &[String]) -> Result<Self, DatasetError> {
        let normal = normal_split(split);
        let (folder, names) = find_sequences(root, &normal)?;
        let mut sequences = Vec::new();
        let mut samples = Vec::new();
        let mut gaps = Vec::new();
        for name in names {
            let annotations = annotation_folder(root, &normal, &name);
            let before = samples.len();
            let numbers = add_frames(&folder, &name, &annotations, &mut samples)?;
            if samples.len() > before {
                gaps.extend(FrameGap::find(&name, &numbers));
                sequences.push(Sequence { name: name.clone(), drive: name, rate_hz: Some(RATE_HZ) });
            }
        }
        if samples.is_empty() {
            return Err(DatasetError::EmptySplit {
                split: split.to_owned(),
                path: folder,
                remedy: "has no SEQUENCE/FRAME.png; unpack the images there, or choose another split",
            });
        }
        let (sequences, samples) = select(split, sequences, samples, selection)?;
        gaps.retain(|gap: &FrameGap| sequences.iter().any(|sequence| sequence.name == gap.sequence));
        FrameGap::warn(split, &gaps);
        Ok(Self { split: split.to_owned(), sequences, samples, gaps, values: train_id_values() })
    }
}

/// The folder and the names of the sequences of a split.
fn find_sequences(root: &Path, split: &str) -> Result<(PathBuf, Vec<String>), DatasetError> {
    let images = root.join("images");
    let folder = images.join(split);
    let has_val = images.join("val").is_dir();
    let (is_train, is_val) = (split == "train", split == "val" && !has_val);
    let train = images.join("train");
    if !(folder.is_dir() || is_val && train.is_dir()) {
        return Err(DatasetError::MissingPart {
            path: folder,
            what: "it has the images of the split as SEQUENCE/FRAME.png",
            found: found_folders(if images.is_dir() { &images } else { root }),
        });
    }
    if has_val || !(is_train || is_val) {
        let names = Listing::read(&folder)?.folders;
        return Ok((folder, names));
    }
    let mut names = Listing::read(&train)?.folders;
    let (present, missing): (Vec<&str>, Vec<&str>) =
        VALIDATION.into_iter().partition(|official| names.iter().any(|name| name == official));
    if missing.is_empty() {
        names.retain(|name| VALIDATION.contains(&name.as_str()) == is_val);
    } else if is_val {
        return Err(DatasetError::MissingPart {
            path: folder,
            what: "without it, `val` is the nine official validation sequences in images/train, of which some are not there",
            found: format!("images/train without {}", missing.join(", ")),
        });
    } else if !present.is_empty() {
        log::warn!(
            "{} has the official validation sequences {} but not all nine: they belong to the split `train` here",
            train.display(),
            present.join(", ")
        );
    }
    Ok((train, names))
}

/// Where the maps of a sequence are or would be.
fn annotation_folder(root: &Path, split: &str, sequence: &str) -> PathBuf {
    let maps = root.join("panoptic_maps");
    let own = maps.join(split).join(sequence);
    let train = maps.join("train").join(sequence);
    if split == "val" && !own.is_dir() && train.is_dir() { train } else { own }
}

/// Adds the frames of a sequence by number; gives the numbers.
fn add_frames(
    folder: &Path,
    sequence: &str,
    annotations: &Path,
    samples: &mut Vec<SampleEntry>,
) -> Result<Vec<u64>, DatasetError> {
    let images = folder.join(sequence);
    let mut frames: Vec<(u64, String)> = Vec::new();
    for file in Listing::read(&images)?.images {
        match without_extension(&file).parse() {
            Ok(number) => frames.push((number, file)),
            Err(_) => log::warn!("{} is left out: its name is no frame number", images.join(file).display()),
        }
    }
    frames.sort();
    let mut numbers: Vec<u64> = Vec::with_capacity(frames.len());
    for (index_in_sequence, (number, file)) in frames.into_iter().enumerate() {
        let image = images.join(&file);
        if numbers.last() == Some(&number) {
            let first = samples.last().map_or_else(|| images.clone(), |last| last.image.clone());
            return Err(DatasetError::SameName { first, second: image });
        }
        numbers.push(number);
        let stem = without_extension(&file);
        samples.push(SampleEntry {
            name: format!("{sequence}/{stem}"),
            image,
            annotation: Some(annotations.join(format!("{stem}.png"))),
            sequence: sequence.to_owned(),
            index_in_sequence,
        });
    }
    Ok(numbers)
}

impl Dataset for KittiStep {
    fn name(&self) -> &str {
        "kitti-step"
    }

    fn split(&self) -> &str {
        &self.split
    }

    fn label_space(&self) -> LabelSpace {
        LabelSpace::cityscapes_19()
    }

    fn samples(&self) -> &[SampleEntry] {
        &self.samples
    }

    fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    fn gaps(&self) -> &[FrameGap] {
        &self.gaps
    }

    fn check_annotations(&self) -> Result<(), DatasetError> {
        check_annotation_files(&self.split, &self.samples)
    }

    fn read_annotation(&self, entry: &SampleEntry) -> Result<Annotation, DatasetError> {
        let path =
            entry.annotation.as_deref().ok_or_else(|| DatasetError::NoAnnotation { image: entry.image.clone() })?;
        let map = panoptic_png::read(path, &self.values)?;
        check_size(entry, path, map.size)?;
        Ok(Annotation { size: map.size, train_ids: map.train_ids, instance_ids: Some(map.instance_ids) })
    }
}
