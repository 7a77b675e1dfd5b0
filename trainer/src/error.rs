//! What can go wrong while learning, and what to do about it.

use std::path::{Path, PathBuf};

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, TrainError>;

/// An error of the trainer. The message names the file or setting, what was expected, what was found, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy_for(source))]
    File {
        /// `read`, `write`, `create`, ….
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A setting, a file's content or an option does not make sense.
    #[error("{what}: expected {expected}, got {got}; {remedy}")]
    Invalid {
        /// The file, setting or option.
        what: String,
        /// What would be right.
        expected: String,
        /// What was found.
        got: String,
        /// What to do.
        remedy: String,
    },
    /// The settings file is not valid TOML or holds unknown keys.
    #[error("{origin}: {message}; `hsg-train train --preset camvid-cpu --show-settings` prints all keys")]
    Settings {
        /// The file (or preset) and, if known, the key.
        origin: String,
        /// The parser's message.
        message: String,
    },
    /// Something is asked for that this version does not have.
    #[error("{what} is not in this version; {remedy}")]
    Missing {
        /// What was asked for.
        what: String,
        /// What to use instead.
        remedy: String,
    },
    /// The loss is no longer a number.
    #[error(
        "the loss became {loss} at step {step}; the last whole checkpoint is kept: resume from it with a lower \
         learning_rate or a longer warm_up_steps"
    )]
    Diverged {
        /// The step.
        step: usize,
        /// The value.
        loss: f64,
    },
    /// Processes that learn together cannot go on.
    #[error("{what}; {remedy}")]
    Ranks {
        /// What happened.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// From the networks.
    #[error(transparent)]
    Model(#[from] models::ModelError),
    /// From the data sets.
    #[error(transparent)]
    Dataset(#[from] datasets::DatasetError),
    /// From reading or writing a picture.
    #[error(transparent)]
    Image(#[from] segcore::image_io::ImageFileError),
    /// From over-segmenting an image.
    #[error("cannot over-segment {}: {source}", path.display())]
    Oversegment {
        /// The image.
        path: PathBuf,
        /// The reason.
        source: oversegment::OversegmentError,
    },
    /// From libtorch.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl TrainError {
    /// A [`TrainError::File`].
    pub fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        TrainError::File { action, path: path.to_owned(), source }
    }
}

fn remedy_for(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
            "; free some space or choose another folder"
        }
        std::io::ErrorKind::PermissionDenied => "; check the permissions or choose another folder",
        std::io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}
