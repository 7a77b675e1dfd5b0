//! The shim against every set of headers that the package trtx-sys carries: that of TensorRT 11, and those of TensorRT-RTX,
//! which stand in for 10.x (the same interface, other version numbers). The headers of 8.6 are not to be had without an account
//! at NVIDIA, so what the shim does differently there was never compiled.

use std::path::{Path, PathBuf};
use std::process::Command;

fn folders() -> Vec<PathBuf> {
    let Some(headers) = option_env!("HSG_TRTX_HEADERS") else { return Vec::new() };
    let mut folders: Vec<PathBuf> =
        Path::new(headers).read_dir().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|folder| folder.join("NvInfer.h").is_file());
    folders.sort();
    folders
}

#[test]
fn the_shim_compiles_with_the_headers_of_11_and_of_what_stands_in_for_10() {
    let folders = folders();
    if folders.is_empty() {
        println!("skipped: the package trtx-sys was not needed for this build, or is not here");
        return;
    }
    let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim");
    // The oldest and the newest of each kind: a second each.
    let name = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (rtx, full): (Vec<_>, Vec<_>) = folders.into_iter().partition(|folder| name(folder).contains("RTX"));
    let ends = |of: &[PathBuf]| [of.first().cloned(), of.last().cloned()].into_iter().flatten().collect::<Vec<_>>();
    let mut tried = Vec::new();
    for (folders, major) in [(ends(&rtx), Some("-DHSG_TRT_MAJOR=10")), (ends(&full), None)] {
        for folder in folders {
            let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
            compiler.args([
                "-std=c++17",
                "-fsyntax-only",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-Wno-deprecated-declarations",
            ]);
            compiler
                .args(major)
                .arg("-I")
                .arg(shim.join("stub"))
                .arg("-isystem")
                .arg(&folder)
                .arg(shim.join("shim.cpp"));
            let output = compiler.output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {words}", folder.display());
            tried.push(name(&folder));
        }
    }
    assert!(
        tried.iter().any(|name| name.contains("RTX")) && tried.iter().any(|name| !name.contains("RTX")),
        "{tried:?}"
    );
}
