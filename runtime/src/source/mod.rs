//! Where frames come from \[F1\]: folders of images, video files, recordings, cameras, raw frames on standard input.
//!
//! [`SourceSpec::parse`] turns what the user typed into a [`SourceSpec`] (nothing is opened), [`open`] opens it.
//! A [`Source`] fills the caller's [`Frame`] again and again: videos reuse its memory, image folders replace it by the
//! picture that the decoder made.

mod camera;
mod folder;
#[cfg(feature = "gstreamer")]
mod gst;
mod pixels;
mod raw;
mod recording;
mod spec;
mod video_file;

use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use segcore::image::{Frame, ImageSize};

pub use camera::{Address as CameraAddress, Camera, Listed as ListedCamera, Wish as CameraWish, list as list_cameras};
pub use folder::ImageFolder;
#[cfg(feature = "gstreamer")]
pub use gst::{Description as GstDescription, GstSource, version as gstreamer_version};
pub use pixels::PixelLayout;
pub use raw::RawFrames;
pub use recording::RecordingFile;
pub use spec::{SourceKind, SourceSpec};
pub use video_file::VideoFile;

/// Sequences at or above this rate are tracked by default (interface.md, `--no-track`), hertz.
pub const TRACKED_RATE_HZ: f64 = 5.0;

/// Longest time that [`Source::next`] of a source without an end in sight keeps the caller waiting.
pub const WAITING: Duration = Duration::from_millis(50);

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
    /// Whether frames come by themselves and never end (cameras, streams): the newest one wins, what goes wrong with the
    /// source is counted and changes no exit code, and being stopped is its usual end.
    pub is_live: bool,
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
    /// Nothing yet; ask again. Returned after at most [`WAITING`], so that the caller can look whether to stop.
    Waiting,
    /// Frames were lost before they reached this program (a gap in the driver's numbers); their indices stay unused.
    Dropped {
        /// How many.
        count: u64,
    },
    /// The source stopped giving frames; it is looked for from now on. Said once, until [`SourceEvent::Restored`].
    Lost {
        /// Why, in words that name the source.
        reason: String,
    },
    /// A lost source gives frames again.
    Restored,
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

    /// Fills `frame` (RGB8, unless [`Source::leave_pixels_as_they_are`] was called; tightly packed; its memory is reused where
    /// the decoder allows it) with the next frame.
    ///
    /// # Errors
    /// When the source cannot go on.
    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError>;

    /// Says before the first frame how large the network's input is, for sources that can choose their size.
    ///
    /// # Errors
    /// When the source cannot be opened that way.
    fn set_input_size(&mut self, _input: ImageSize) -> Result<(), SourceError> {
        Ok(())
    }

    /// Says before the first frame that frames may stay as the camera has them, in any [`PixelFormat`]: whoever takes them
    /// has kernels for all. Without, they are RGB8. Sources whose decoder makes RGB go on doing so.
    ///
    /// [`PixelFormat`]: segcore::image::PixelFormat
    fn leave_pixels_as_they_are(&mut self) {}

    /// Time that the last frame took from its arrival until it was complete in the caller's memory; none = all of the
    /// call, which did not wait for anything.
    fn busy(&self) -> Option<Duration> {
        None
    }
}

/// Why a source cannot be opened or cannot go on. All end the run with exit code 2 when no frame was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The text is no SOURCE.
    #[error(
        "source `{text}`: {reason}; expected a folder of images, a video file, a recording (.mcap), v4l2:/dev/videoN or raw:WIDTHxHEIGHT:FORMAT, for example `hsg run drive.mp4` or `hsg run images/?rate=15`"
    )]
    Syntax {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A form of SOURCE that builds with GStreamer read.
    #[error(
        "source `{text}`: expected a build of hsg with GStreamer, got one without; make it with `cargo xtask deps gstreamer` and `cargo build --release -p runtime --features gstreamer`"
    )]
    NotInThisBuild {
        /// What was typed.
        text: String,
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
    /// A camera or pipe that cannot be read.
    #[error("source {device}: {reason}")]
    Camera {
        /// The device.
        device: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A video that cannot be read.
    #[error(transparent)]
    Video(#[from] video::VideoError),
    /// A recording that cannot be read.
    #[error(transparent)]
    Recording(#[from] ::recording::RecordingError),
}

/// The clock that capture times are told by.
fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
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
        SourceKind::Images(files) => Ok(Box::new(ImageFolder::of_files(files.clone()))),
        SourceKind::Camera(address) => {
            let wish = CameraWish { size: spec.size, rate_hz: spec.rate_hz, layout: spec.layout };
            Ok(Box::new(Camera::open(address.clone(), wish)?))
        }
        SourceKind::Raw(layout, size) => Ok(Box::new(RawFrames::stdin(*layout, *size, spec.rate_hz)?)),
        #[cfg(feature = "gstreamer")]
        SourceKind::Gst(description) => Ok(Box::new(GstSource::open(description.clone())?)),
        SourceKind::Video(path) => Ok(Box::new(VideoFile::open(path, spec.rate_hz)?)),
        SourceKind::Recording(path, topic) => Ok(Box::new(RecordingFile::open(path, topic.as_deref(), spec.rate_hz)?)),
    }
}
