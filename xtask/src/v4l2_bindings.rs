//! `cargo xtask v4l2-bindings`: how `crates/v4l2/src/bindings.rs` was made, and whether it still is what comes out.
//!
//! The committed file needs no libclang to build; this chore does, and fetches bindgen of the version that wrote it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::mpi::has_libclang;
use crate::process::{cargo, program, workspace};

/// The bindgen whose output is committed: another version writes the same structures with other words.
const VERSION: &str = "0.72.1";
/// What videodev2.h is a part of.
const HEADER: &str = "/usr/include/linux/videodev2.h";
const OPTIONS: [&str; 8] = [
    "--no-layout-tests",
    "--no-doc-comments",
    "--rust-target",
    "1.82",
    "--allowlist-type",
    "v4l2_.*|time_t",
    "--allowlist-var",
    "V4L2_.*|VIDIOC_.*",
];

/// Compares the committed bindings with what bindgen makes of this machine's headers, or writes them.
pub fn run(write: bool) -> Result<()> {
    let mut missing = Vec::new();
    if !has_libclang() {
        missing.push("libclang (apt-get install libclang-dev)");
    }
    if !std::path::Path::new(HEADER).is_file() {
        missing.push("linux/videodev2.h (apt-get install linux-libc-dev)");
    }
    if !missing.is_empty() {
        println!("skipped: comparing the V4L2 bindings needs {}", missing.join(" and "));
        return Ok(());
    }
    let bindgen = bindgen()?;
    let crate_folder = workspace().join("crates/v4l2");
    let made = program(&bindgen).arg(crate_folder.join("wrapper.h")).args(OPTIONS).output("make the V4L2 bindings")?;
    let committed = crate_folder.join("src/bindings.rs");
    if write {
        fs::write(&committed, &made).with_context(|| format!("could not write {}", committed.display()))?;
        println!("written: {}", committed.display());
        return Ok(());
    }
    let old = fs::read_to_string(&committed).with_context(|| format!("could not read {}", committed.display()))?;
    if old == made {
        println!("{} is what bindgen {VERSION} makes of {HEADER}", committed.display());
        return Ok(());
    }
    let line = old.lines().zip(made.lines()).take_while(|(a, b)| a == b).count() + 1;
    bail!(
        "{} differs from what bindgen {VERSION} makes of {HEADER}, from line {line} on; the header of another kernel \
         version adds structures: look at `cargo xtask v4l2-bindings --write` and `git diff`",
        committed.display()
    );
}

/// The program bindgen, into .deps/bindgen where it is not yet.
fn bindgen() -> Result<PathBuf> {
    let place = workspace().join(".deps/bindgen");
    let file = place.join("bin/bindgen");
    let is_version = file.is_file()
        && program(&file).arg("--version").output("ask bindgen for its version")?.trim()
            == format!("bindgen {VERSION}");
    if !is_version {
        eprintln!("building bindgen {VERSION} into {}, once", place.display());
        cargo()
            .args(["install", "--quiet", "--locked", "bindgen-cli", "--version", VERSION, "--root"])
            .arg(&place)
            .run("build bindgen")?;
    }
    Ok(file)
}
