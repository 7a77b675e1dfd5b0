//! `cargo xtask deps onnxruntime`: the library out of the Python wheel, into .deps/onnxruntime.
//!
//! pip knows its index and downloads one pinned wheel; nothing is installed into any Python.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{program, workspace};

/// The version that the tests run with; the backend takes 1.17 and newer. From 1.29 on the library reports how it is used
/// to its maker unless it is told not to: not on a robot.
const VERSION: &str = "1.28.0";
const UNPACK: &str = "
import pathlib, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob('onnxruntime-*.whl'))
with zipfile.ZipFile(wheel) as archive:
    name, = [name for name in archive.namelist() if pathlib.PurePath(name).name.startswith('libonnxruntime.so')]
    pathlib.Path(sys.argv[2]).write_bytes(archive.read(name))
    notices = [name for name in archive.namelist() if pathlib.PurePath(name).name in ('LICENSE', 'ThirdPartyNotices.txt')]
    for name in notices:
        pathlib.Path(sys.argv[2]).with_name(pathlib.PurePath(name).name).write_bytes(archive.read(name))
";

fn place() -> PathBuf {
    workspace().join(".deps/onnxruntime")
}

/// The library's file, where it is.
pub fn installed() -> Option<PathBuf> {
    let library = place().join("libonnxruntime.so");
    let is_version = fs::read_to_string(place().join("version")).is_ok_and(|version| version.trim() == VERSION);
    (is_version && library.is_file()).then_some(library)
}

/// Makes sure that the library is there.
pub fn ensure() -> Result<PathBuf> {
    if let Some(library) = installed() {
        return Ok(library);
    }
    ensure!(
        cfg!(target_os = "linux"),
        "ONNX Runtime for {} is not fetched by this project: install it and let HSG_ONNXRUNTIME name its library",
        env::consts::OS
    );
    let deps = workspace().join(".deps");
    let (wheels, unpacked) = (deps.join("onnxruntime-wheel.tmp"), deps.join("onnxruntime.tmp"));
    // Left by a run that was interrupted.
    for folder in [&wheels, &unpacked] {
        fs::remove_dir_all(folder).ok();
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    eprintln!("fetching ONNX Runtime {VERSION} (about 20 MB) with pip into {}, once", place().display());
    let outcome = fetch(&wheels, &unpacked);
    fs::remove_dir_all(&wheels).ok();
    outcome?;
    fs::remove_dir_all(place()).ok();
    // By one rename, so that what is there is whole.
    fs::rename(&unpacked, place()).with_context(|| format!("could not make {}", place().display()))?;
    installed().with_context(|| format!("{} was unpacked but is not ONNX Runtime {VERSION}", place().display()))
}

fn fetch(wheels: &Path, unpacked: &Path) -> Result<()> {
    program("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "-d",
        ])
        .arg(wheels)
        .arg(format!("onnxruntime=={VERSION}"))
        .run("download ONNX Runtime with pip (is python3 -m pip there, and a network?)")?;
    let library = unpacked.join("libonnxruntime.so");
    program("python3")
        .arg("-c")
        .arg(UNPACK)
        .arg(wheels)
        .arg(&library)
        .run("unpack ONNX Runtime (is the disk full?)")?;
    fs::write(unpacked.join("version"), VERSION).with_context(|| format!("could not write in {}", unpacked.display()))
}
