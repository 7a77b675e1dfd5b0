//! Whole files: read with an error that names them, written so that no half file is ever seen.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{ModelError, Result};

/// Reads a file.
///
/// # Errors
/// [`ModelError::File`].
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| file_error("read", path, source))
}

/// Writes to a temporary file beside `path`, then renames it.
///
/// # Errors
/// [`ModelError::File`]; the temporary file is removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_beside(path);
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        // Nothing half-written may stay; that it cannot be removed either adds nothing to the error below.
        let _ = std::fs::remove_file(&temporary);
        file_error("write", path, source)
    })
}

/// A hidden sibling of `path`, in the same folder so that a rename is atomic.
pub fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Hexadecimal SHA-256.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A [`ModelError::File`] for an operation that failed.
pub fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> ModelError {
    ModelError::File { action, path: path.to_owned(), source }
}
