//! From a folder on disk to samples: names, images, annotations and sequences of one split.
//!
//! [`open`] checks everything that can be checked without decoding: the list files, that every image is there, that
//! the split is not empty and that the sequences asked for exist. Only the split asked for is looked at. Annotations are
//! checked by [`Dataset::check_annotations`], because over-segmentation and training need images alone.
//!
//! To add a data set: a file beside `camvid.rs` with a type that implements [`Dataset`], a [`DatasetKind`], and an arm in
//! [`open`].

mod annotation;
mod camvid;
mod error;
mod folder;
mod sequences;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use segcore::image::Frame;
use segcore::label_space::LabelSpace;

pub use annotation::Annotation;
pub use error::DatasetError;
pub use sequences::Sequence;

/// The kinds of data sets that [`open`] reads.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum DatasetKind {
    /// CamVid in the layout of the SegNet tutorial: `SPLIT.txt`, `SPLIT/`, `SPLITannot/`, 11 classes.
    CamVid,
    /// Any folder of images: `SPLIT/**/*.{png,jpg,jpeg}`, `SPLITannot/**/*.png`, `classes.toml`.
    Folder,
}

impl DatasetKind {
    /// All kinds, in the order in which they are listed to people.
    pub const ALL: [Self; 2] = [Self::CamVid, Self::Folder];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
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
    /// What to call the data set in results: `camvid`, `folder`.
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
