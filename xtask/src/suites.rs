//! `cargo xtask test [FILTER]`: every test of every crate, or those that FILTER names.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{Program, cargo};
use crate::{arrows, gstreamer, libtorch, mpi, onnxruntime, tensorrt};

/// What cargo's own result lines add up to.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Counts {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines count nothing.
    fn add_line(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

/// Runs the tests and closes with their counts, alone on a line.
pub fn test(filter: Option<&str>) -> Result<()> {
    let start = Instant::now();
    let counts = run(filter)?;
    println!("\ntests took {:.0} s\n{counts}", start.elapsed().as_secs_f64());
    ensure!(counts.failed == 0, "{} tests failed: their names stand above under `failures:`", counts.failed);
    ensure!(
        counts.passed + counts.skipped > 0,
        "`{}` is part of no suite's file name and of no test's name; suites are tests/suites/*.rs and the crates' \
         tests/*.rs",
        filter.unwrap_or_default()
    );
    Ok(())
}

/// Runs the tests; failed tests are counted, not an error. A crate that does not compile is one.
pub fn run(filter: Option<&str>) -> Result<Counts> {
    libtorch::ensure()?;
    // Without it one suite is skipped, in words.
    if let Err(error) = onnxruntime::ensure() {
        eprintln!("warning: the backend onnxruntime is not tested: {error:#}");
    }
    if let Err(error) = tensorrt::ensure_headers() {
        eprintln!("warning: the shim is not compiled with headers of TensorRT 10: {error:#}");
    }
    let metadata = arrows::metadata()?;
    // The suites run the real programs. `cargo test` alone would leave those of other packages unbuilt or stale.
    cargo()
        .args(["build", "--release", "--workspace", "--bins", "--features", features()])
        .run("build the programs")?;
    let programs = Path::new(metadata["target_directory"].as_str().context("no target folder")?).join("release");

    let mut counts = Counts::default();
    let Some(filter) = filter else {
        run_part(&[], None, &programs, &mut counts)?;
        return Ok(counts);
    };
    // Suites that the filter names run whole; in everything else it picks tests by name.
    let (named, others): (Vec<_>, Vec<_>) = suites(&metadata).into_iter().partition(|suite| suite.contains(filter));
    let flags = |suites: Vec<String>| suites.into_iter().flat_map(|suite| ["--test".to_owned(), suite]);
    if !named.is_empty() {
        run_part(&flags(named).collect::<Vec<_>>(), None, &programs, &mut counts)?;
    }
    let code = ["--lib", "--bins"].map(str::to_owned).into_iter();
    run_part(&code.chain(flags(others)).collect::<Vec<_>>(), Some(filter), &programs, &mut counts)?;
    run_part(&["--doc".to_owned()], Some(filter), &programs, &mut counts)?;
    Ok(counts)
}

/// The features of everything that can be built here; the suite `parallel` says what it leaves out without MPI, and this
/// does about GStreamer.
pub fn features() -> &'static str {
    static FEATURES: OnceLock<String> = OnceLock::new();
    FEATURES.get_or_init(|| {
        let mut features = vec!["tests/torch", "runtime/cuda", "tests/tensorrt"];
        if mpi::missing().is_empty() {
            features.push("tests/mpi");
        }
        let missing = gstreamer::missing();
        if missing.is_empty() {
            features.push("tests/gstreamer");
        } else {
            eprintln!("skipped: the suite `gstreamer` lacks {} (`cargo xtask deps gstreamer`)", missing.join(", "));
        }
        features.join(",")
    })
}

/// Names of the test targets of all crates, each once.
pub fn suites(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"].as_array().is_some_and(|kinds| kinds.contains(&"test".into())));
    let mut names: Vec<String> = tests.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}

fn run_part(targets: &[String], filter: Option<&str>, programs: &PathBuf, counts: &mut Counts) -> Result<()> {
    let mut program: Program = cargo()
        .args(["test", "--release", "--workspace", "--features", features(), "--no-fail-fast"])
        .args(targets)
        .env("HSG_TEST_PROGRAMS", programs);
    // The same random cases every time, so that a change is not blamed for a case that it did not touch; a plain
    // `cargo test`, or this variable, draws others.
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        program = program.env("PROPTEST_RNG_SEED", "1");
    }
    // The suite of backends looks above its own program, which may be built elsewhere.
    if let (Some(library), None) = (onnxruntime::installed(), std::env::var_os("HSG_ONNXRUNTIME")) {
        program = program.env("HSG_ONNXRUNTIME", library);
    }
    if let Some(filter) = filter {
        program = program.args(["--", filter]);
    }
    count(program, counts)
}

/// Runs a program that prints the results of tests, such as `cargo test`, and counts them.
pub fn count(program: Program, counts: &mut Counts) -> Result<()> {
    let (mut command, line) = program.command_with_piped_stdout();
    let mut child = command.spawn().with_context(|| format!("`{line}` did not start"))?;
    let failed_before = counts.failed;
    if let Some(stdout) = child.stdout.take() {
        pass_through(BufReader::new(stdout), counts)?;
    }
    let status = child.wait().with_context(|| format!("could not wait for `{line}`"))?;
    // Failed tests are in the counts already; a crate that did not compile or a test that crashed is not.
    if !status.success() && counts.failed == failed_before {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Copies the output as it comes, counts its results, and leaves out test binaries in which nothing ran.
fn pass_through(mut output: impl BufRead, counts: &mut Counts) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let mut bytes = Vec::new();
    while output.read_until(b'\n', &mut bytes).context("could not read the tests' output")? > 0 {
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        counts.add_line(line);
        let empty = line.is_empty()
            || line == "running 0 tests"
            || line.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored;");
        if !empty {
            stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("could not write to stdout")?;
        }
        bytes.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let mut counts = Counts::default();
        counts
            .add_line("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.00s");
        counts.add_line("test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished");
        counts.add_line("test close::tests::names_the_outlier ... ok");
        counts.add_line("7 passed");
        assert_eq!(counts, Counts { passed: 13, failed: 2, skipped: 1 });
        assert_eq!(counts.to_string(), "13 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn suites_are_test_targets_of_all_packages() {
        let metadata = serde_json::json!({"packages": [
            {"targets": [{"name": "video", "kind": ["lib"]}, {"name": "clips", "kind": ["test"]}]},
            {"targets": [{"name": "cli", "kind": ["test"]}, {"name": "clips", "kind": ["test"]}]},
        ]});
        assert_eq!(suites(&metadata), ["cli", "clips"]);
    }
}
