//! The shim against headers of every version that it knows, as far as they can be had (README.md):
//!
//! - 11, and TensorRT-RTX, which has the interface of 10 under other version numbers: of the package trtx-sys;
//! - 10.16: of an older version of that package, where `cargo xtask deps tensorrt-headers` has fetched them;
//! - 8.6: an excerpt in `excerpt_8_6`, written after them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders in `place` that have TensorRT's headers, sorted by name.
fn folders(place: &Path) -> Vec<PathBuf> {
    let entries = place.read_dir().into_iter().flatten();
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|folder| folder.join("NvInfer.h").is_file());
    folders.sort();
    folders
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn assert_compiles(headers: &Path, flags: &[&str]) {
    let shim = here().join("shim");
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    compiler.args(["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations"]);
    compiler.args(flags).arg("-I").arg(shim.join("stub")).arg("-isystem").arg(headers).arg(shim.join("shim.cpp"));
    let output = compiler.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {words}", headers.display());
}

#[test]
fn the_shim_compiles_with_the_headers_of_11_and_of_rtx() {
    let folders = option_env!("HSG_TRTX_HEADERS").map_or_else(Vec::new, |place| folders(Path::new(place)));
    if folders.is_empty() {
        println!("skipped: the package trtx-sys was not needed for this build, or is not here");
        return;
    }
    // The oldest and the newest of each kind: a second each.
    let name = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (rtx, full): (Vec<_>, Vec<_>) = folders.into_iter().partition(|folder| name(folder).contains("RTX"));
    assert!(!rtx.is_empty() && !full.is_empty());
    for (folders, flags) in [(&rtx, &["-DHSG_TRT_MAJOR=10"][..]), (&full, &[])] {
        for folder in [folders.first(), folders.last()].into_iter().flatten() {
            assert_compiles(folder, flags);
        }
    }
}

#[test]
fn the_shim_compiles_with_the_headers_of_10() {
    let folders = folders(&here().join("../../.deps/tensorrt"));
    if folders.is_empty() {
        println!("skipped: no headers of TensorRT 10: `cargo xtask deps tensorrt-headers`");
    }
    for folder in folders {
        assert_compiles(&folder, &[]);
    }
}

#[test]
fn the_shim_compiles_with_what_it_uses_of_8_6() {
    assert_compiles(&here().join("tests/excerpt_8_6"), &[]);
}
