//! Cityscapes in its official layout.
//!
//! * Images: `ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` (`.jpg` and `.jpeg`, too). A sequence is a city; its images
//!   are single frames seconds apart, so it has no rate.
//! * Labels: `ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png`, else `*_gtFine_labelTrainIds.png`. The 34 label ids of the
//!   official table become the 19 train ids of the evaluation, the others 255; a value outside the table is refused, as
//!   the official scripts do (the licence plate, id −1, is never drawn).
//! * Instances: `*_gtFine_instanceIds.png` beside them, where it is there: label id · 1000 + n for the n-th object (from
//!   0) of a class, the bare label id for groups and everything else. Here object n has the instance id n + 1.
//! * The split `sequence/SPLIT` is the video around each labelled frame, `ROOT/leftImg8bit_sequence/SPLIT`: consecutive
//!   frame numbers of a city are a sequence of 17 Hz, named by its first frame, its drive the city. Only one frame of 30
//!   has labels, so commands that need the labels of every image refuse it.

use std::path::{Path, PathBuf};

use segcore::hierarchy::{ClassId, TrainId};
use segcore::image::ImageSize;
use segcore::label_space::LabelSpace;

use crate::annotation::{AnnotationValues, IGNORE};
use crate::files::{Listing, check_annotation_files, found_folders, normal_split, without_extension};
use crate::sequences::{Sequence, select};
use crate::{Annotation, Dataset, DatasetError, SampleEntry};

const IMAGE_SUFFIX: &str = "_leftImg8bit";
const LABEL_IDS: &str = "_gtFine_labelIds.png";
const TRAIN_IDS: &str = "_gtFine_labelTrainIds.png";
const INSTANCE_IDS: &str = "_gtFine_instanceIds.png";
/// Values from here on are single objects.
const FIRST_OBJECT: u16 = 1000;
/// What a split of videos begins with.
const SEQUENCE_SPLIT: &str = "sequence/";
/// Rate of the videos, frames per second.
const RATE_HZ: f64 = 17.0;
/// Label ids of the official table: 0 to this.
const LAST_LABEL_ID: u8 = 33;

pub(crate) struct Cityscapes {
    split: String,
    sequences: Vec<Sequence>,
    samples: Vec<SampleEntry>,
    label_ids: AnnotationValues,
    train_ids: AnnotationValues,
}

impl Cityscapes {
    pub(crate) fn open(root: &Path, split: &str, selection: &[String]) -> Result<Self, DatasetError> {
        let normal = normal_split(split);
        let video_split = normal.strip_prefix(SEQUENCE_SPLIT);
        let part = if video_split.is_some() { "leftImg8bit_sequence" } else { "leftImg8bit" };
        let images = root.join(part);
        let folder = images.join(video_split.unwrap_or(&normal));
        if !folder.is_dir() {
            return Err(DatasetError::MissingPart {
                path: folder,
                what: "it has the images of the split as CITY/*_leftImg8bit.png",
                found: found_folders(if images.is_dir() { &images } else { root }),
            });
        }
        let annotations = root.join("gtFine").join(video_split.unwrap_or(&normal));
        let mut sequences = Vec::new();
        let mut samples = Vec::new();
        let mut left_out: Vec<PathBuf> = Vec::new();
        for city in Listing::read(&folder)?.folders {
            let mut frames = Vec::new();
            for file in Listing::read(&folder.join(&city))?.images {
                match without_extension(&file).strip_suffix(IMAGE_SUFFIX).map(str::to_owned) {
                    Some(frame) => frames.push((file, frame)),
                    None => left_out.push(folder.join(&city).join(file)),
                }
            }
            let city = City { name: &city, images: folder.join(&city), annotations: annotations.join(&city) };
            if video_split.is_some() {
                city.add_videos(frames, &mut sequences, &mut samples, &mut left_out)?;
            } else {
                city.add_images(frames, &mut sequences, &mut samples)?;
            }
        }
        if let Some(first) = left_out.first() {
            let (num, first) = (left_out.len(), first.display());
            log::warn!(
                "{num} images are left out because they are not named CITY_SEQUENCE_FRAME_leftImg8bit: {first}, …"
            );
        }
        if samples.is_empty() {
            return Err(DatasetError::EmptySplit {
                split: split.to_owned(),
                path: folder,
                remedy: "has no CITY/*_leftImg8bit.png; unpack the official archive there, or choose another split",
            });
        }
        let (sequences, samples) = select(split, sequences, samples, selection)?;
        Ok(Self {
            split: split.to_owned(),
            sequences,
            samples,
            label_ids: AnnotationValues::new(&LabelSpace::cityscapes_19(), None).or_ignored(0..=LAST_LABEL_ID),
            train_ids: train_id_values(),
        })
    }
}

/// Files that hold the train ids of the 19 classes, and 255.
pub(crate) fn train_id_values() -> AnnotationValues {
    let mut space = LabelSpace::cityscapes_19();
    for class in &mut space.classes {
        let TrainId(train_id) = class.train_id;
        class.class_id = ClassId(train_id.into());
    }
    AnnotationValues::new(&space, Some(IGNORE))
}

/// A city of the split.
struct City<'a> {
    name: &'a str,
    images: PathBuf,
    annotations: PathBuf,
}

impl City<'_> {
    /// Adds single frames; `frames` are file names and what stands before the suffix, sorted.
    fn add_images(
        &self,
        frames: Vec<(String, String)>,
        sequences: &mut Vec<Sequence>,
        samples: &mut Vec<SampleEntry>,
    ) -> Result<(), DatasetError> {
        if !frames.is_empty() {
            sequences.push(Sequence { name: self.name.to_owned(), drive: self.name.to_owned(), rate_hz: None });
        }
        for (index, (file, frame)) in frames.into_iter().enumerate() {
            let labels =
                self.annotation(&frame).unwrap_or_else(|| self.annotations.join(format!("{frame}{LABEL_IDS}")));
            self.add(&file, Some(labels), self.name, index, samples)?;
        }
        Ok(())
    }

    /// Adds videos: frames with consecutive numbers.
    fn add_videos(
        &self,
        frames: Vec<(String, String)>,
        sequences: &mut Vec<Sequence>,
        samples: &mut Vec<SampleEntry>,
        left_out: &mut Vec<PathBuf>,
    ) -> Result<(), DatasetError> {
        let mut numbered = Vec::with_capacity(frames.len());
        for (file, frame) in frames {
            let parts = frame.rsplit_once('_').and_then(|(run, number)| Some((run, number.parse::<u64>().ok()?)));
            match parts {
                Some((run, number)) => numbered.push((run.to_owned(), number, file, frame)),
                None => left_out.push(self.images.join(file)),
            }
        }
        numbered.sort();
        let mut before: Option<(String, u64)> = None;
        let (mut sequence, mut index) = (String::new(), 0);
        for (run, number, file, frame) in numbered {
            let goes_on =
                before.as_ref().is_some_and(|(last_run, last)| *last_run == run && number.saturating_sub(1) <= *last);
            if !goes_on {
                (sequence, index) = (frame.clone(), 0);
                let drive = self.name.to_owned();
                sequences.push(Sequence { name: sequence.clone(), drive, rate_hz: Some(RATE_HZ) });
            }
            self.add(&file, self.annotation(&frame), &sequence, index, samples)?;
            index += 1;
            before = Some((run, number));
        }
        Ok(())
    }

    /// The annotation of a frame, if there is one.
    fn annotation(&self, frame: &str) -> Option<PathBuf> {
        [LABEL_IDS, TRAIN_IDS]
            .map(|suffix| self.annotations.join(format!("{frame}{suffix}")))
            .into_iter()
            .find(|p| p.is_file())
    }

    fn add(
        &self,
        file: &str,
        annotation: Option<PathBuf>,
        sequence: &str,
        index_in_sequence: usize,
        samples: &mut Vec<SampleEntry>,
    ) -> Result<(), DatasetError> {
        let name = format!("{}/{}", self.name, without_extension(file));
        let image = self.images.join(file);
        // Sorted by name, so the same name comes twice in a row.
        if let Some(last) = samples.last().filter(|last| last.name == name) {
            return Err(DatasetError::SameName { first: last.image.clone(), second: image });
        }
        samples.push(SampleEntry { name, image, annotation, sequence: sequence.to_owned(), index_in_sequence });
        Ok(())
    }
}

/// Instance ids of a sample; `None` where their file is missing.
fn read_instances(entry: &SampleEntry, size: ImageSize) -> Result<Option<Vec<u16>>, DatasetError> {
    let stem = |path: &Path| {
        let path = path.to_str()?;
        Some(path.strip_suffix(LABEL_IDS).or_else(|| path.strip_suffix(TRAIN_IDS))?.to_owned())
    };
    let Some(path) = entry.annotation.as_deref().and_then(stem).map(|stem| PathBuf::from(stem + INSTANCE_IDS)) else {
        return Ok(None);
    };
    if !path.is_file() {
        return Ok(None);
    }
    let mut map = segcore::image_io::read_gray16(&path)?;
    if map.size != size {
        return Err(DatasetError::AnnotationSize { path, image: entry.image.clone(), expected: size, got: map.size });
    }
    for value in &mut map.pixels {
        *value = if *value >= FIRST_OBJECT { *value % FIRST_OBJECT + 1 } else { 0 };
    }
    Ok(Some(map.pixels))
}

impl Dataset for Cityscapes {
    fn name(&self) -> &str {
        "cityscapes"
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

    fn check_annotations(&self) -> Result<(), DatasetError> {
        check_annotation_files(&self.split, &self.samples)
    }

    fn read_annotation(&self, entry: &SampleEntry) -> Result<Annotation, DatasetError> {
        let has_train_ids = entry.annotation.as_deref().and_then(Path::to_str).is_some_and(|p| p.ends_with(TRAIN_IDS));
        let mut annotation = if has_train_ids { self.train_ids.read(entry) } else { self.label_ids.read(entry) }?;
        annotation.instance_ids = read_instances(entry, annotation.size)?;
        Ok(annotation)
    }
}
