//! What can be wrong with a data set.

use std::path::PathBuf;

use segcore::image::ImageSize;
use segcore::image_io::{ImageFileError, remedy_for};

/// Why a data set could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// No data set of that name.
    #[error("unknown data set `{got}`: expected one of {known}")]
    UnknownKind {
        /// What was typed.
        got: String,
        /// The names that exist.
        known: String,
    },
    /// The root is not a folder.
    #[error("the data set's folder {} does not exist: check --root", path.display())]
    MissingRoot {
        /// The root.
        path: PathBuf,
    },
    /// A split that is empty, absolute or leads out of the root.
    #[error("`{got}` is no split: expected a folder name below the root, or `.` for the root itself")]
    SplitName {
        /// What was typed.
        got: String,
    },
    /// A file or folder that the layout requires is missing.
    #[error("{} is missing: {what}. Found: {found}", path.display())]
    MissingPart {
        /// The file or folder.
        path: PathBuf,
        /// What it is for.
        what: &'static str,
        /// What is there instead.
        found: String,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}{}", path.display(), remedy_for(source))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A list file with a line that does not follow its format.
    #[error("{} line {line}: expected {expected}, got `{got}`", path.display())]
    ListLine {
        /// The list file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What should be there.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A list whose number of entries is not the stated one.
    #[error("{} has {got} images, but {} says {expected}: one of the two is cut or outdated", path.display(), stated_in.display())]
    Count {
        /// The list.
        path: PathBuf,
        /// The file that states the number.
        stated_in: PathBuf,
        /// The stated number.
        expected: usize,
        /// The number found.
        got: usize,
    },
    /// Files named by a list are missing.
    #[error(
        "{missing} of {total} {what} of split `{split}` are missing, the first: {}; complete the copy of the data set or choose another split",
        display_paths(first)
    )]
    MissingFiles {
        /// `images` or `annotations`.
        what: &'static str,
        /// The split.
        split: String,
        /// How many are missing.
        missing: usize,
        /// How many there should be.
        total: usize,
        /// The first few.
        first: Vec<PathBuf>,
    },
    /// The split has no images.
    #[error("split `{split}` has no images: {} {remedy}", path.display())]
    EmptySplit {
        /// The split.
        split: String,
        /// The list file or folder looked at.
        path: PathBuf,
        /// What is wrong with it, as the rest of the sentence.
        remedy: &'static str,
    },
    /// A folder with videos and no images, opened by [`crate::open`].
    #[error("{} has {num_videos} video files ({}) and no images: one can learn from videos, but here images are needed; extract their frames as PNG or JPEG", path.display(), first.display())]
    OnlyVideos {
        /// The split's folder.
        path: PathBuf,
        /// How many videos.
        num_videos: usize,
        /// The first of them.
        first: PathBuf,
    },
    /// A folder of videos of which none can be read.
    #[error("none of the {num_videos} videos of {} can be read and there are no images; the first: {first}", path.display())]
    NoReadableVideo {
        /// The split's folder.
        path: PathBuf,
        /// How many videos.
        num_videos: usize,
        /// What is wrong with the first of them.
        first: String,
    },
    /// A cache folder where its frames would be taken for images of the data set.
    #[error("the cache folder {} is inside the data set's folder {}: choose one outside", cache.display(), folder.display())]
    CacheInside {
        /// The cache folder.
        cache: PathBuf,
        /// The split's folder.
        folder: PathBuf,
    },
    /// A frame choice out of its range.
    #[error("the frame choice's {field} is {got}: expected {expected}")]
    FrameChoice {
        /// The field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A file or folder of the cache could not be written or removed.
    #[error("cannot write {}: {source}{}", path.display(), remedy_for(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The caller's flag was set; what has been written is whole.
    #[error("interrupted")]
    Interrupted,
    /// A sequence that the split does not have.
    #[error("split `{split}` has no sequence or drive `{got}`: expected some of {known}")]
    UnknownSequence {
        /// The split.
        split: String,
        /// What was typed.
        got: String,
        /// The names that exist.
        known: String,
    },
    /// Two images of one name.
    #[error("{} and {} differ only in their extension, so their results would overwrite each other: rename one", first.display(), second.display())]
    SameName {
        /// The one.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A file name that is not valid Unicode.
    #[error("the name of {} is not valid Unicode: rename it", path.display())]
    FileName {
        /// The file.
        path: PathBuf,
    },
    /// `classes.toml` is malformed.
    #[error("{}: {reason}", path.display())]
    Classes {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A sample without annotation was asked for one.
    #[error("{} has no annotation, and one is needed: choose a split whose images all have one", image.display())]
    NoAnnotation {
        /// The image.
        image: PathBuf,
    },
    /// An image or annotation that cannot be decoded.
    #[error(transparent)]
    Image(#[from] ImageFileError),
    /// An image whose header cannot be read.
    #[error("{} is not a readable PNG or JPEG image: {reason}", path.display())]
    ImageHeader {
        /// The image.
        path: PathBuf,
        /// What the decoder says.
        reason: String,
    },
    /// An annotation of another size than its image.
    #[error("{} is {got}, but its image {} is {expected}: an annotation has the size of its image", path.display(), image.display())]
    AnnotationSize {
        /// The annotation.
        path: PathBuf,
        /// The image.
        image: PathBuf,
        /// Size of the image.
        expected: ImageSize,
        /// Size of the annotation.
        got: ImageSize,
    },
    /// A value in an annotation that is no class.
    #[error("{}: value {value} at column {x}, row {y} is no class of `{label_space}`: expected {expected}", path.display())]
    AnnotationValue {
        /// The annotation.
        path: PathBuf,
        /// The value.
        value: u8,
        /// Column, from 0.
        x: usize,
        /// Row, from 0.
        y: usize,
        /// Name of the label space.
        label_space: String,
        /// The valid values.
        expected: String,
    },
}

fn display_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl DatasetError {
    /// How many missing files a message names.
    pub(crate) const NUM_NAMED: usize = 3;
}
