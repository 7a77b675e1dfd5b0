//! Tests that need the stand-ins for TensorRT and CUDA (`tests/tensorrt_twin`) in their own process: the loader looks for
//! libcuda where its variable said when the process began, so such a test starts its program again.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip;

/// Set in the process that was started again: a folder for what the test writes.
const FOLDER: &str = "HSG_TEST_STAND_INS";

/// The stand-in for libnvinfer, beside which the others are; `None` without.
pub fn stand_in() -> Option<&'static Path> {
    option_env!("HSG_TENSORRT_TWIN").map(Path::new)
}

/// Runs `body` in a process that has the stand-ins, the variables, and a folder of its own, which `body` is given. `test` is
/// the name of the calling test. Returns what that process wrote to standard output; none in that process itself, and where
/// there are no stand-ins, which is said.
///
/// # Panics
///
/// When `body` does, with its words.
pub fn with_stand_ins(test: &str, variables: &[(&str, &str)], body: impl FnOnce(&Path)) -> Option<String> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        body(Path::new(&folder));
        return None;
    }
    let Some(library) = stand_in() else {
        skip(test, "no stand-ins for TensorRT: hsg was built with headers of another version than 10 or 11");
        return None;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .env("HSG_CACHE", folder.path().join("cache"))
        .env("HSG_TENSORRT", library)
        .env("LD_LIBRARY_PATH", library.parent().unwrap_or(library))
        .env("FAKE_CUDA_FAIL_FILE", fail_file(folder.path()))
        .envs(variables.iter().copied())
        .output()
        .expect("this program starts");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} with the stand-ins: {}\n{out}\n{error}", output.status);
    assert!(out.contains("1 passed"), "there is no test `{test}`: {out}");
    Some(out.into_owned())
}

/// The file that says what the stand-in for libcuda fails at, for as long as it says so (`tensorrt_twin/cuda.cpp`).
pub fn fail_file(folder: &Path) -> PathBuf {
    folder.join("fail")
}
