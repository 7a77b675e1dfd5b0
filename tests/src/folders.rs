//! Where fixtures, golden numbers and street data are.

use std::env;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::skip;

/// The workspace's folder: where it was built, or, on a machine that the programs were carried to, the current folder.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    match tests.parent().filter(|folder| folder.is_dir()) {
        Some(folder) => folder.to_owned(),
        None => env::current_dir().unwrap_or_default(),
    }
}

/// A new empty folder for sockets, whose paths have at most 107 bytes: in `/tmp`, however long `TMPDIR` is.
///
/// # Panics
///
/// If there can be none.
pub fn socket_folder() -> TempDir {
    tempfile::Builder::new().prefix("hsg").tempdir_in("/tmp").expect("a temporary folder")
}

/// A path under `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    workspace().join("tests/fixtures").join(path)
}

/// The seeded, untrained model folder that `cargo xtask tiny-model` writes.
pub fn tiny_model() -> PathBuf {
    fixture("tiny-model")
}

/// The clip that `cargo hsg run` segments: H.264 in MP4, in the repository.
pub fn shipped_clip() -> PathBuf {
    workspace().join("assets/clips/highway.mp4")
}

/// A file or folder of golden numbers, such as `hsg/kmeans_small.safetensors`, or `None` with a printed line.
///
/// Looks in `$HSG_GOLDEN`, else in `../shared/golden` beside the workspace, else in `tests/fixtures/golden`.
///
/// # Panics
///
/// If `HSG_GOLDEN` names no folder: a wrong path must not pass as a skipped test.
pub fn golden(path: &str) -> Option<PathBuf> {
    let folder = variable_or_beside("HSG_GOLDEN", "golden").unwrap_or_else(|| fixture("golden"));
    found(folder.join(path))
}

/// A file or folder of the street data, such as `camvid`, or `None` with a printed line.
///
/// Looks in `$HSG_DATA`, else in `../shared/data` beside the workspace.
///
/// # Panics
///
/// If `HSG_DATA` names no folder.
pub fn data(path: &str) -> Option<PathBuf> {
    match variable_or_beside("HSG_DATA", "data") {
        Some(folder) => found(folder.join(path)),
        None => {
            skip(path, "no street data: set HSG_DATA");
            None
        }
    }
}

fn variable_or_beside(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(folder) = env::var_os(variable) {
        // Relative to the workspace: cargo starts every test in its own crate's folder.
        let folder = workspace().join(folder);
        assert!(folder.is_dir(), "{variable} is {}, which is no folder", folder.display());
        return Some(folder);
    }
    let folder = workspace().join("../shared").join(name);
    folder.is_dir().then_some(folder)
}

fn found(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    skip(&path.display().to_string(), "not there");
    None
}
