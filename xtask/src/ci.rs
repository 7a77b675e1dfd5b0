//! `cargo xtask ci`: everything a change has to pass, and what each part took.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::process::cargo;
use crate::suites::Counts;
use crate::{arrows, kernels, libtorch, lints, suites};

/// Runs every part, also after one has failed: one run tells all that is wrong.
pub fn run() -> Result<()> {
    let mut counts = None;
    let mut parts = Parts(Vec::new());
    parts.run("format", || cargo().args(["fmt", "--all", "--check"]).run("check the format (cargo fmt mends it)"));
    parts.run("check-arrows", arrows::check);
    parts.run("check-lints", lints::check);
    parts.run("kernels", || kernels::run(true));
    parts.run("deps libtorch", || libtorch::ensure().map(drop));
    // The release profile everywhere: what clippy's build scripts made is used by the tests.
    parts.run("clippy", || {
        cargo()
            .args(["clippy", "--release", "--workspace", "--all-targets", "--features", suites::features()])
            .args(["--", "-D", "warnings"])
            .run("pass clippy")
    });
    // What most people build, where what only the features use is unused.
    parts.run("clippy without features", || {
        cargo()
            .args(["clippy", "--release", "-p", "runtime", "-p", "calibration", "--", "-D", "warnings"])
            .run("pass clippy")
    });
    // Of the default members: those of the trainer would need libtorch once more, for rustdoc.
    parts.run("documentation", || {
        cargo()
            .args(["doc", "--release", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings")
            .run("make the documentation without warnings")
    });
    parts.run("tests", || {
        let result: Counts = suites::run(None)?;
        counts = Some(result);
        if result.failed > 0 {
            bail!("{} tests failed: their names stand above under `failures:`", result.failed);
        }
        Ok(())
    });
    parts.close(counts)
}

/// Name, seconds and outcome of what has run.
struct Parts(Vec<(&'static str, f64, bool)>);

impl Parts {
    fn run(&mut self, name: &'static str, part: impl FnOnce() -> Result<()>) {
        eprintln!("== {name}");
        let start = Instant::now();
        let outcome = part();
        if let Err(error) = &outcome {
            eprintln!("error: {name}: {error:#}");
        }
        self.0.push((name, start.elapsed().as_secs_f64(), outcome.is_ok()));
    }

    /// Prints the table of times and, last and alone on its line, the counts of the tests.
    fn close(&self, counts: Option<Counts>) -> Result<()> {
        println!();
        for (name, seconds, passed) in &self.0 {
            println!("{name:<16}{seconds:>7.1} s  {}", if *passed { "ok" } else { "FAILED" });
        }
        let total: f64 = self.0.iter().map(|(_, seconds, _)| seconds).sum();
        println!("{:<16}{total:>7.1} s", "together");
        if let Some(counts) = counts {
            println!("{counts}");
        }
        let failed: Vec<_> = self.0.iter().filter(|(_, _, passed)| !passed).map(|(name, ..)| *name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}
