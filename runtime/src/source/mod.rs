//! Where frames come from \[F1\]: folders of images and MP4 files; cameras and streams follow with their issues.
//!
//! [`SourceSpec::parse`] turns what the user typed into a [`SourceSpec`] (nothing is opened), [`open`] opens it.
//! A [`Source`] fills the caller's [`Frame`] again and again: videos reuse its memory, image folders replace it by the
//! picture that the decoder made.

mod folder;
mod mp4;
mod spec;

use std::path::PathBuf;

use segcore::image::{Frame, ImageSize};

pub use folder::ImageFolder;
pub use mp4::Mp4File;
pub use spec::{SourceKind, SourceSpec};

/// Sequences at or above this rate are tracked by default (interface.md, `--no-track`), hertz.
pub const TRACKED_RATE_HZ: f64 = 5.0;

/// What is known about a source before its first frame.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceInfo {
    /// Size of the frames; none where it is known only once a frame is read. Images of a folder may differ in size.
    pub size: Option<ImageSize>,
    /// Nominal rate, frames per second; none where the source has none (a folder of images without `?rate=`).
    pub rate_hz: Option<f64>,
    /// Whether consecutive frames show the same scene, so that tracking and warm starts make sense: live sources,
    /// videos, and image folders of a known rate of at least [`TRACKED_RATE_HZ`].
    pub is_sequence: bool,
    /// Number of frames the source promises (images in the folder, samples in the container); none for live sources.
    pub frames_promised: Option<u64>,
}

/// What one call of [`Source::next`] found.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceEvent {
    /// The caller's frame was filled; its `index` is the index in the source.
    Frame,
    /// One input could not be read. Report it, count it and go on: its index stays unused.
    Skipped {
        /// The index that this input would have had.
        index: u64,
        /// The file concerned.
        path: PathBuf,
        /// Why, in words that name the file, what was expected and what was found.
        reason: String,
    },
    /// The source is at its end; further calls return the same again.
    End {
        /// Frames delivered by this source.
        delivered: u64,
        /// Frames that the container promised, where that is more than it had (a file that was cut); otherwise none.
        promised_more: Option<u64>,
    },
}

/// A source of frames.
pub trait Source: Send {
    /// The name under which results of this source are published, for example the file name without its extension.
    fn name(&self) -> &str;

    /// What is known about the source.
    fn info(&self) -> &SourceInfo;

    /// Fills `frame` (RGB8, tightly packed; its memory is reused where the decoder allows it) with the next frame.
    ///
    /// # Errors
    /// When the source cannot go on.
    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError>;
}

/// Why a source cannot be opened or cannot go on. All end the run with exit code 2 when no frame was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The text is no SOURCE.
    #[error(
        "source `{text}`: {reason}; expected a folder of images or a file.mp4, for example `hsg run drive.mp4` or `hsg run images/?rate=15`"
    )]
    Syntax {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A form of SOURCE that this version does not read yet.
    #[error("source `{text}`: {feature} not in this version yet; {remedy}")]
    NotInThisVersion {
        /// What was typed.
        text: String,
        /// The missing feature with its verb, for example "v4l2 cameras are".
        feature: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// Nothing is there.
    #[error("source {path}: there is no such file or folder (looked in {folder}); check the path", path = path.display(), folder = folder.display())]
    Missing {
        /// The path looked for.
        path: PathBuf,
        /// The current folder, because relative paths are the usual cause.
        folder: PathBuf,
    },
    /// The operating system refused.
    #[error("source {path}: cannot be read: {source}; check that the file exists and may be read", path = path.display())]
    Io {
        /// The path concerned.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder without images.
    #[error("source {path}: expected a folder with .png, .jpg or .jpeg files, got {found}; sub-folders are not searched", path = path.display())]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// What is in it, in words.
        found: String,
    },
    /// A video that cannot be read.
    #[error(transparent)]
    Video(#[from] video::VideoError),
}

/// Opens what the user typed.
///
/// # Errors
/// When the text is no SOURCE, names a form that this version does not read, or the file or folder cannot be read.
pub fn open(text: &str) -> Result<Box<dyn Source>, SourceError> {
    open_spec(&SourceSpec::parse(text)?)
}

/// Opens a parsed SOURCE; call it again to start from the beginning (`hsg bench` does).
///
/// # Errors
/// As [`open`].
pub fn open_spec(spec: &SourceSpec) -> Result<Box<dyn Source>, SourceError> {
    match &spec.kind {
        SourceKind::Folder(path) => Ok(Box::new(ImageFolder::open(path, spec.rate_hz)?)),
        SourceKind::Image(path) => Ok(Box::new(ImageFolder::single(path)?)),
        SourceKind::Mp4(path) => Ok(Box::new(Mp4File::open(path, spec.rate_hz)?)),
    }
}
