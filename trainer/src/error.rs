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
        "the loss became {loss} at step {step}{}; the last whole checkpoint is kept: look at the images of that batch, or \
         start again with a lower learning_rate or a longer warm_up_steps",
        saved.as_ref().map_or_else(String::new, |folder| format!("; its batch is saved in {}", folder.display()))
    )]
    Diverged {
        /// The step.
        step: usize,
        /// The value.
        loss: f64,
        /// Folder with the step's batch.
        saved: Option<PathBuf>,
    },
    /// A step does not fit into memory.
    #[error(
        "out of memory on {device} with batch.images = {images}, batch.views = {views}, batch.crop = {crop}: lower \
         batch.images first (memory grows with it), then batch.crop; on a GPU precision = \"bf16\" needs about half \
         ({message})"
    )]
    OutOfMemory {
        /// Images a step.
        images: usize,
        /// Views of each.
        views: usize,
        /// Pixels along each side of a view.
        crop: usize,
        /// `cpu`, `cuda:0`, ….
        device: String,
        /// libtorch's message.
        message: String,
    },
    /// libtorch refused an operation of a step.
    #[error("libtorch: {message}; this is a bug, please report it with the run's settings.toml")]
    Step {
        /// libtorch's message.
        message: String,
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

    /// Whether a file could not be written because there is no room for it.
    pub fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind;
        let source = match self {
            TrainError::File { source, .. } | TrainError::Model(models::ModelError::File { source, .. }) => source,
            _ => return false,
        };
        matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
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
