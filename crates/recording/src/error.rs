//! Why a recording cannot be read.

use std::io;
use std::path::PathBuf;

/// Why a recording cannot be read. Every message names the file, what was expected, what was found, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The operating system refused.
    #[error("{path}: cannot be read: {source}; check that the file exists and may be read", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("{path}: expected an MCAP recording, got an empty file; copy or record it again", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is no MCAP.
    #[error("{path}: expected an MCAP recording, got {found}; check the file", path = path.display())]
    NotMcap {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
    },
    /// None of its topics has images.
    #[error("{path}: expected a topic with images, got {topics}; check the file, or record the camera's topic with it", path = path.display())]
    NoImages {
        /// The file.
        path: PathBuf,
        /// The topics in words.
        topics: String,
    },
    /// Nobody said which.
    #[error("{path}: expected one topic with images, got several; add one, for example `{path}?topic={first}`: {topics}", path = path.display())]
    SeveralTopics {
        /// The file.
        path: PathBuf,
        /// The first of them.
        first: String,
        /// The image topics in words.
        topics: String,
    },
    /// A topic that the file does not have.
    #[error("{path}: expected a topic `{wanted}`, got {topics}; check `?topic=`", path = path.display())]
    NoSuchTopic {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// The topics in words.
        topics: String,
    },
    /// A topic whose messages are not read.
    #[error("{path}: {topic}: expected images that can be read (sensor_msgs/msg/Image, sensor_msgs/msg/CompressedImage, \
             foxglove.RawImage, foxglove.CompressedImage), got {found}", path = path.display())]
    UnsupportedTopic {
        /// The file.
        path: PathBuf,
        /// The topic.
        topic: String,
        /// What its messages are, and what to do.
        found: String,
    },
    /// Images that are stored in a way that is not read.
    #[error("{path}: {topic}: expected {expected}, got {found}", path = path.display())]
    UnsupportedImage {
        /// The file.
        path: PathBuf,
        /// The topic.
        topic: String,
        /// What is read.
        expected: &'static str,
        /// What the images are, and what to do.
        found: String,
    },
}
