//! What can go wrong with a model, and what to do about it.

use std::path::PathBuf;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, ModelError>;

/// An error of the crate `models`. The message names the file, what was expected, what was found, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy_for(source))]
    File {
        /// `read`, `write`, ….
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file holds something else than its format promises.
    #[error("{}: {what}; {remedy}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A file of a model folder is not the one its manifest names.
    #[error(
        "{}: this file is not the one the manifest was written for (SHA-256 expected {expected}, got {got}); \
         restore the model folder from its source or export it again",
        path.display()
    )]
    Hash {
        /// Which file.
        path: PathBuf,
        /// The manifest's hash.
        expected: String,
        /// The file's hash.
        got: String,
    },
    /// No model of that name was found.
    #[error("no model folder `{name}`; looked in {looked_in}; give the path of a folder that holds a model.toml")]
    NotFound {
        /// What was asked for.
        name: String,
        /// The places, in words.
        looked_in: String,
    },
    /// A graph is not well formed, or does not fit its inputs.
    #[error("graph `{graph}`: {what}")]
    Graph {
        /// The graph's name.
        graph: String,
        /// What is wrong.
        what: String,
    },
    /// Weights do not belong to the architecture, or are broken.
    #[error(
        "{origin}: the tensor `{tensor}` {what}; these weights do not fit this network — check backbone, width, embedding size and levels"
    )]
    Weights {
        /// Where the weights came from.
        origin: String,
        /// Which tensor.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
    /// A value that the architecture or the manifest does not allow.
    #[error("{what} is {got}, expected {expected}")]
    Invalid {
        /// Which value.
        what: String,
        /// What is allowed.
        expected: String,
        /// What was given.
        got: String,
    },
}

fn remedy_for(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "; check the path",
        std::io::ErrorKind::PermissionDenied => "; check its permissions",
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
            "; free some space or choose another folder"
        }
        _ => "",
    }
}
