//! What the tests of this crate share.
// Every test file is a program of its own and uses some of this.
#![allow(dead_code)]

use std::fmt::Debug;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A folder of the oracles (`HSG_DATA`, relative to the workspace, else `../shared/data` beside it), or `None` with a
/// printed line.
pub fn oracle(name: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = match std::env::var_os("HSG_DATA") {
        Some(folder) => {
            let folder = workspace.join(folder);
            assert!(folder.is_dir(), "HSG_DATA is {}, which is no folder", folder.display());
            folder
        }
        None => workspace.join("../shared/data"),
    };
    let folder = folder.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    // Not `eprintln!`: the test harness keeps that of passing tests to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {}: not there", folder.display());
    None
}

/// A file that is in the repository.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[track_caller]
pub fn assert_near(what: &str, got: Option<f64>, expected: Option<f64>, tolerance: f64) {
    let is_near = match (got, expected) {
        (Some(got), Some(expected)) => (got - expected).abs() <= tolerance,
        (got, expected) => got == expected,
    };
    assert!(is_near, "{what}: got {got:?}, expected {expected:?} ± {tolerance}");
}

/// What becomes of an accumulator that is written to a shard's file and read again.
#[track_caller]
pub fn stored<T: Serialize + DeserializeOwned + Debug>(accumulator: &T) -> T {
    serde_json::from_str(&serde_json::to_string(accumulator).unwrap()).unwrap()
}
