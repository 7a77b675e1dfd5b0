//! `cargo xtask bench-edges`: time and memory of the edge detectors at three sizes, and OWT-UCM beside higra.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::libtorch::pip;
use crate::process::{Program, cargo, program, workspace};

/// Sizes of the image, width and height: each four times the pixels of the one before.
const SIZES: [(u32, u32); 3] = [(512, 256), (1024, 512), (2048, 1024)];
const DETECTORS: [&str; 3] = ["fast", "pmi-fast", "pmi-accurate"];
/// Runs of what takes milliseconds.
const RUNS: &str = "9";
const HIGRA: [&str; 2] = ["higra==0.6.13", "numpy"];

/// Prints one table and one comparison, for `image` or the first frame of the shipped clip.
pub fn run(image: Option<&str>) -> Result<()> {
    cargo().args(["build", "--release", "-p", "tests", "--example", "edge_speed"]).run("build the benchmark")?;
    println!(
        "{:<14}{:>11}{:>10}{:>14}{:>9}{:>10}",
        "detector", "image", "seconds", "µs per pixel", "regions", "peak MB"
    );
    for detector in DETECTORS {
        for (width, height) in SIZES {
            let [w, h] = [width, height].map(|side| side.to_string());
            let line = speed()?.args(["time", detector, &w, &h]).args(image).output("time a detector")?;
            let figures: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
            let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
            println!(
                "{detector:<14}{:>11}{:>10.2}{:>14.2}{:>9}{:>10}",
                format!("{width}×{height}"),
                number("seconds"),
                1e6 * number("seconds") / f64::from(width * height),
                number("regions"),
                number("peak_rss_mb")
            );
        }
    }
    beside_higra(image)
}

fn beside_higra(image: Option<&str>) -> Result<()> {
    let deps = workspace().join(".deps");
    let packages = deps.join("higra");
    if !packages.join("higra").is_dir() {
        fs::create_dir_all(&deps).with_context(|| format!("could not create {}", deps.display()))?;
        pip(&deps)?.args(["install", "--quiet", "--target"]).arg(&packages).args(HIGRA).run("install higra")?;
    }
    let graph = deps.join("edge-bench");
    for (width, height) in SIZES {
        let [w, h] = [width, height].map(|side| side.to_string());
        let text = speed()?.args(["merge", &w, &h, RUNS]).arg(&graph).args(image).output("time OWT-UCM")?;
        print!("\n{text}");
        let peer = program("python3").arg("tests/fixtures/edges/beside_higra.py").arg(&graph).arg(RUNS);
        print!("{}", peer.env("PYTHONPATH", &packages).output("time higra")?);
    }
    fs::remove_dir_all(&graph).with_context(|| format!("could not remove {}", graph.display()))
}

/// The built benchmark.
fn speed() -> Result<Program> {
    let metadata = crate::arrows::metadata()?;
    let target = metadata["target_directory"].as_str().context("no target folder")?;
    Ok(program(format!("{target}/release/examples/edge_speed")))
}
