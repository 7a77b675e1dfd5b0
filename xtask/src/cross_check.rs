//! `cargo xtask cross-check`: builds everything but the trainer for aarch64, runs tests there and compares a run on the
//! shipped clip with this machine's. There: a Debian of its own in .deps/aarch64 (tests/aarch64/run.sh), where programs for
//! aarch64 run under QEMU.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::process::{Program, cargo, program, workspace};
use crate::suites::{self, Counts, count};

/// Everything that a board runs, with TensorRT; the trainer's libtorch is for x86-64, and xtask's chores are this machine's.
const PACKAGES: [&str; 5] =
    ["--workspace", "--exclude=trainer", "--exclude=xtask", "--features", "runtime/tensorrt,tests/tensorrt"];
/// Suites of this folder's tests that run there. The others start hsg again and again with limits of time, which QEMU misses,
/// or need libtorch.
const SUITES: [&str; 5] = ["device_frame", "frame_to_labels", "golden", "kernels", "passes"];
/// The folder of the suites.
const SUITES_FOLDER: &str = "tests/suites";
/// Least share of pixels with the same class on both.
const LEAST_SAME: f64 = 0.999;

/// What is checked.
#[derive(Args)]
pub struct Options {
    /// Part of the names of the tests to run [default: all]
    filter: Option<String>,
    /// Frames of the shipped clip that both compute; 0: none
    #[arg(long, default_value_t = 3)]
    frames: u32,
}

/// Builds, tests, and compares.
pub fn run(options: &Options) -> Result<()> {
    inside(["--prepare"]).run("make the Debian system for aarch64")?;
    inside(["cargo", "build", "--release", "--locked", "--bins"]).args(PACKAGES).run("build for aarch64")?;
    let mut counts = Counts::default();
    let metadata = crate::arrows::metadata()?;
    let suites = suites::suites(&metadata).into_iter().filter(|suite| {
        SUITES.contains(&suite.as_str()) || !workspace().join(SUITES_FOLDER).join(format!("{suite}.rs")).exists()
    });
    // Documentation's examples are compiled by a compiler that knows nothing of QEMU's folder.
    let tests = inside(["cargo", "test", "--release", "--locked", "--no-fail-fast"])
        .args(PACKAGES)
        .args(["--lib", "--bins"])
        .args(suites.flat_map(|suite| ["--test".to_owned(), suite]))
        .arg("--")
        .args(options.filter.as_deref());
    count(tests, &mut counts)?;
    if options.frames > 0 {
        compare(options.frames)?;
    }
    println!("\non aarch64, under QEMU:\n{counts}");
    ensure!(counts.failed == 0, "{} tests failed: their names stand above under `failures:`", counts.failed);
    Ok(())
}

/// A command in the Debian system, in the workspace's folder.
fn inside<'a>(words: impl IntoIterator<Item = &'a str>) -> Program {
    program(workspace().join("tests/aarch64/run.sh")).args(words)
}

/// The shipped model on the first frames of the shipped clip, here and there: the share of pixels with the same class.
fn compare(frames: u32) -> Result<()> {
    let metadata = crate::arrows::metadata()?;
    let target = PathBuf::from(metadata["target_directory"].as_str().context("no target folder")?);
    cargo().args(["build", "--release", "-p", "runtime", "--bin", "hsg"]).run("build hsg")?;
    let hsg = target.join("release/hsg");
    // The folder that is /target there.
    let out = target.join("aarch64/cross-check");
    fs::remove_dir_all(&out).ok();
    fs::create_dir_all(&out).with_context(|| format!("could not create {}", out.display()))?;
    let frames = frames.to_string();
    let arguments = ["run", "--quiet", "--save", "classes,frames", "--frames", &frames, "--backend", "cpu", "--out"];
    program(&hsg).args(arguments).arg(out.join("here")).run("run hsg")?;
    inside(["/target/aarch64-unknown-linux-gnu/release/hsg"])
        .args(arguments)
        .arg("/target/cross-check/there")
        .run("run hsg for aarch64")?;
    // Our class maps are a data set like any other.
    program(&hsg)
        .args(["eval", "files", "--quiet", "--dataset", "camvid", "--truth"])
        .arg(out.join("here/classes"))
        .arg("--prediction")
        .arg(out.join("there/classes"))
        .arg("--out")
        .arg(out.join("figures"))
        .output("compare the class maps")?;
    let figures = out.join("figures/evaluation.json");
    let text = fs::read_to_string(&figures).with_context(|| format!("could not read {}", figures.display()))?;
    let figures: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", figures.display()))?;
    let same = figures["accuracy"].as_f64().context("the figures have no accuracy")?;
    println!("{:.4} % of the pixels of {frames} frames have the same class on x86-64 and aarch64", same * 100.0);
    ensure!(same >= LEAST_SAME, "at least {} % were expected", LEAST_SAME * 100.0);
    Ok(())
}
