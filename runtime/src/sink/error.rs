//! Why results cannot be written.

use std::io;
use std::path::PathBuf;

/// Why results cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The list after `--save` is wrong.
    #[error("--save {text}: {reason}; expected a comma list of overlay, labels, classes, frames, video, mcap, or none")]
    SaveList {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Frames cannot be published there.
    #[error("--publish {to}: {reason}")]
    Publish {
        /// What was typed.
        to: String,
        /// Why not, and the remedy.
        reason: String,
    },
    /// The folder after an option holds something already.
    #[error("{option} {path}: expected a new or an empty folder, got one with {found}; name another folder, or add --force to write into this one", path = path.display())]
    NotEmpty {
        /// The option, `--out`.
        option: &'static str,
        /// The folder.
        path: PathBuf,
        /// One thing in it.
        found: String,
    },
    /// Another program of ours writes into the folder right now.
    #[error("{option} {path}: another program is writing into this folder; wait for it, or name another folder", path = path.display())]
    InUse {
        /// The option, `--out`.
        option: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// The path after an option is a file.
    #[error("{option} {path}: expected a folder, got a file; name another folder", path = path.display())]
    NotAFolder {
        /// The option, `--out`.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A file could not be written; nothing half-written is left of it.
    #[error("{path}: cannot be written: {source}; {remedy}", path = path.display(), remedy = write_remedy(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The bound of `--max-disk` is reached; all files written so far are whole.
    #[error("--max-disk: the bound of {limit_bytes} bytes is reached ({used_bytes} written, {path} needs {needed_bytes} more); raise it or save fewer kinds with --save", path = path.display())]
    DiskBudget {
        /// The file that did not fit.
        path: PathBuf,
        /// The bound.
        limit_bytes: u64,
        /// Bytes written so far.
        used_bytes: u64,
        /// Bytes that the file would have taken.
        needed_bytes: u64,
    },
    /// A result that its file format cannot hold.
    #[error("{path}: {what}: expected {expected}, got {got}; this is an error of the program, please report it", path = path.display())]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
        /// The values that fit.
        expected: String,
        /// The value found.
        got: String,
    },
}

impl SinkError {
    /// Whether a stated limit was missed (exit code 1) rather than something broken (exit code 2).
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::DiskBudget { .. })
    }
}

fn write_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero => {
            "disk full? free some space, or write elsewhere with --out, or less with --save"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "write to a folder of your own with --out"
        }
        _ => "disk full, or the folder was removed? check it, or write elsewhere with --out",
    }
}
