//! `cargo xtask check-lints`: every crate inherits the workspace's lints, and unsafe code stays in its places.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::arrows::metadata;
use crate::process::{program, workspace};

/// Where `unsafe` may be, as path prefixes; ARCHITECTURE.md says what each is for.
const UNSAFE_PLACES: &[&str] = &[
    "crates/segcore/src/simd",
    "crates/retrieval/src/mapping.rs",
    "crates/tensorrt-sys/src",
    "crates/v4l2",
    "runtime/src/backend/cuda",
    "runtime/src/backend/tensorrt",
    "tests/suites/steady_state_allocs.rs",
    "trainer/src/cuda.rs",
    "trainer/src/parallel",
    "tests/src/kernel_twin.rs",
    "tests/src/operators.rs",
    "xtask/src/nvrtc.rs",
];

/// Fails with every crate and file that breaks a rule.
pub fn check() -> Result<()> {
    let mut faults = Vec::new();
    for package in metadata()?["packages"].as_array().into_iter().flatten() {
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let text = fs::read_to_string(manifest).with_context(|| format!("could not read {manifest}"))?;
        let table: toml::Table = text.parse().with_context(|| format!("{manifest} is no TOML"))?;
        if !inherits_lints(&table) {
            faults.push(format!("{manifest} lacks `[lints]` with `workspace = true`"));
        }
    }
    for file in rust_files()? {
        let text = fs::read_to_string(workspace().join(&file)).with_context(|| format!("could not read {file}"))?;
        for line in lines_that_lift_the_ban(&file, &text) {
            faults.push(format!("{file}:{line} allows unsafe code; it may be in {}", UNSAFE_PLACES.join(", ")));
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

fn inherits_lints(manifest: &toml::Table) -> bool {
    manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
}

/// The workspace denies `unsafe_code`, so unsafe code needs an attribute that names the lint: those lines.
fn lines_that_lift_the_ban(file: &str, text: &str) -> Vec<usize> {
    if UNSAFE_PLACES.iter().any(|place| Path::new(file).starts_with(place)) || file == "xtask/src/lints.rs" {
        return Vec::new();
    }
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.enumerate().filter(|(_, line)| line.contains("unsafe_code")).map(|(index, _)| index + 1).collect()
}

/// The Rust files of the checkout, new ones included, ignored ones not; paths with `/`, from the workspace's folder.
pub fn rust_files() -> Result<Vec<String>> {
    let list = program("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.rs"])
        .output("list the source files")?;
    // A deleted file stays in the list until its deletion is staged.
    let files = list.split('\0').filter(|file| !file.is_empty() && workspace().join(file).exists());
    Ok(files.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lints_must_be_inherited() {
        assert!(inherits_lints(&"[lints]\nworkspace = true".parse().unwrap()));
        assert!(!inherits_lints(&"[lints]\nworkspace = false".parse().unwrap()));
        assert!(!inherits_lints(&"[package]\nname = 'a'".parse().unwrap()));
    }

    #[test]
    fn the_ban_is_lifted_in_its_places_only() {
        let text = "//! Kernels.\n#![allow(unsafe_code)]\n// unsafe_code is denied\n";
        assert_eq!(lines_that_lift_the_ban("crates/video/src/lib.rs", text), [2]);
        assert!(lines_that_lift_the_ban("crates/segcore/src/simd/avx2.rs", text).is_empty());
        assert_eq!(lines_that_lift_the_ban("crates/segcore/src/simd_free.rs", text), [2]);
    }
}
