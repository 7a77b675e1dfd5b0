//! From a folder on disk to samples: names, images, annotations and sequences of one split.
//!
//! [`open`] checks everything that can be checked without decoding: the list files, that every image is there, that
//! the split is not empty and that the sequences asked for exist. Only the split asked for is looked at. Annotations are
//! checked by [`Dataset::check_annotations`], because over-segmentation and training need images alone.
//! [`Dataset::check`] looks into the files: sizes, damage, label values. [`open_drives`] opens a folder that has videos.
//!
//! To add a data set: a file beside `camvid.rs` with a type that implements [`Dataset`], a [`DatasetKind`], and an arm in
//! [`open`].

mod annotation;
mod camvid;
mod check;
mod cityscapes;
mod drives;
mod error;
mod files;
mod folder;
mod frame_choice;
mod header;
mod kitti_step;
mod panoptic_png;
mod sequences;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use segcore::image::Frame;
use segcore::label_space::LabelSpace;

pub use annotation::Annotation;
pub use check::{CheckOptions, CheckReport, TooSmall, UnreadableImage};
pub use drives::{DriveProgress, Drives, VideoReport, open_drives};
pub use error::DatasetError;
pub use frame_choice::FrameChoice;
pub use panoptic_png::{PanopticMap, read_panoptic_png};
pub use sequences::{FrameGap, Sequence};

/// The kinds of data sets that [`open`] reads.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum DatasetKind {
    /// Cityscapes in its official layout: `leftImg8bit/SPLIT/CITY/`, `gtFine/SPLIT/CITY/`, 19 classes; the split
    /// `sequence/SPLIT` has the videos of `leftImg8bit_sequence`.
    Cityscapes,
    /// KITTI-STEP: `images/SPLIT/SEQUENCE/FRAME.png`, `panoptic_maps/SPLIT/SEQUENCE/FRAME.png`, 19 classes, instances.
    KittiStep,
    /// CamVid in the layout of the SegNet tutorial: `SPLIT.txt`, `SPLIT/`, `SPLITannot/`, 11 classes.
    CamVid,
    /// Any folder of images: `SPLIT/**/*.{png,jpg,jpeg}`, `SPLITannot/**/*.png`, `classes.toml`.
    Folder,
}

impl DatasetKind {
    /// All kinds, in the order in which they are listed to people.
    pub const ALL: [Self; 4] = [Self::Cityscapes, Self::KittiStep, Self::CamVid, Self::Folder];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cityscapes => "cityscapes",
            Self::KittiStep => "kitti-step",
            Self::CamVid => "camvid",
            Self::Folder => "folder",
        }
    }
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DatasetKind {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Self, DatasetError> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| DatasetError::UnknownKind {
            got: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// One image of a split and where it belongs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SampleEntry {
    /// Path relative to the split without extension, with `/` on every system; unique within the split.
    pub name: String,
    /// The image file; it existed when the data set was opened.
    pub image: PathBuf,
    /// Where its annotation is or would be; `None` when the data set does not say.
    pub annotation: Option<PathBuf>,
    /// Name of its [`Sequence`].
    pub sequence: String,
    /// Position in its sequence, from 0, without gaps (sequences left out by a selection leave none).
    pub index_in_sequence: usize,
}

/// One split of a data set, checked when opened.
pub trait Dataset: Send + Sync {
    /// What to call the data set in results: the name of its [`DatasetKind`].
    fn name(&self) -> &str;

    /// The split that was opened.
    fn split(&self) -> &str;

    /// The classes of the annotations. Without classes for a folder that has no `classes.toml`.
    fn label_space(&self) -> LabelSpace;

    /// The selected samples: sequence by sequence, each in order of time.
    fn samples(&self) -> &[SampleEntry];

    /// The selected sequences, in the order of [`Dataset::samples`].
    fn sequences(&self) -> &[Sequence];

    /// Frames per second of a sequence; `None` when unknown or when the images are no video.
    fn rate_hz(&self, sequence: &str) -> Option<f64> {
        self.sequences().iter().find(|known| known.name == sequence).and_then(|known| known.rate_hz)
    }

    /// Frame numbers that are missing within the selected sequences, sequence by sequence; empty where frames have no
    /// numbers.
    fn gaps(&self) -> &[FrameGap] {
        &[]
    }

    /// Looks into the files before an hour is spent on them: sizes and damage from headers and ends of files, label
    /// values of a few annotations. Uses the current rayon pool; well below 10 s for 3000 images on a local disk.
    ///
    /// Images that cannot be read or are too small, and gaps, are in the report; the caller decides.
    ///
    /// # Errors
    /// When annotations are needed: as [`Dataset::check_annotations`]; an annotation of another size than its image; a
    /// label value that is no class in one of the annotations read. [`DatasetError::Interrupted`] soon after
    /// `interrupt` is set.
    fn check(&self, options: &CheckOptions, interrupt: &AtomicBool) -> Result<CheckReport, DatasetError> {
        check::check(self, options, interrupt)
    }

    /// Checks that every sample has its annotation file.
    ///
    /// # Errors
    /// Names the first missing files and their number, or the missing list of classes.
    fn check_annotations(&self) -> Result<(), DatasetError>;

    /// The annotation of a sample as train ids.
    ///
    /// # Errors
    /// When there is none, it cannot be read, its size is not the image's, or it holds a value that is neither a class
    /// nor the ignore value: the message names file, value and position.
    fn read_annotation(&self, entry: &SampleEntry) -> Result<Annotation, DatasetError>;

    /// The image of a sample.
    ///
    /// # Errors
    /// When it cannot be read or decoded.
    fn read_image(&self, entry: &SampleEntry) -> Result<Frame, DatasetError> {
        Ok(segcore::image_io::read_rgb(&entry.image)?)
    }
}

/// Opens the split `split` of the data set in `root`.
///
/// `sequences` selects by name of sequence or drive; empty means all.
///
/// # Errors
/// When the folder or a list file is missing or malformed, images are missing (the first few are named, and how many),
/// the split is empty, or `sequences` holds a name that is none of the split's (the known ones are listed).
pub fn open(
    kind: DatasetKind,
    root: &Path,
    split: &str,
    sequences: &[String],
) -> Result<Box<dyn Dataset>, DatasetError> {
    check_split(split)?;
    if !root.is_dir() {
        return Err(DatasetError::MissingRoot { path: root.to_owned() });
    }
    Ok(match kind {
        DatasetKind::Cityscapes => Box::new(cityscapes::Cityscapes::open(root, split, sequences)?),
        DatasetKind::KittiStep => Box::new(kitti_step::KittiStep::open(root, split, sequences)?),
        DatasetKind::CamVid => Box::new(camvid::CamVid::open(root, split, sequences)?),
        DatasetKind::Folder => Box::new(folder::Folder::open(root, split, sequences)?),
    })
}

/// A split is a relative path that stays below the root.
fn check_split(split: &str) -> Result<(), DatasetError> {
    use std::path::Component;
    let is_inside = Path::new(split).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if split.is_empty() || !is_inside {
        return Err(DatasetError::SplitName { got: split.to_owned() });
    }
    Ok(())
}
