//! `cargo xtask check-arrows`: which crate may use which of ours, proved from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lints::rust_files;
use crate::process::{cargo, workspace};

/// The arrow table of ARCHITECTURE.md: crate → what it may use of ours, development dependencies included.
const ARROWS: &[(&str, &[&str])] = &[
    ("segcore", &[]),
    ("wire", &[]),
    ("report", &[]),
    ("recording", &[]),
    ("datasets", &["segcore", "video"]),
    ("evaluation", &["segcore"]),
    ("oversegment", &["segcore"]),
    ("retrieval", &["segcore"]),
    ("models", &["segcore"]),
    ("video", &["segcore"]),
    ("trainer", &["segcore", "datasets", "evaluation", "oversegment", "retrieval", "report", "models"]),
    (
        "runtime",
        &[
            "segcore",
            "video",
            "recording",
            "datasets",
            "evaluation",
            "retrieval",
            "report",
            "wire",
            "models",
            "shared-library",
            "tensorrt-sys",
        ],
    ),
    ("calibration", &["segcore", "datasets", "evaluation", "report", "models", "runtime"]),
    (
        "tests",
        &[
            "segcore",
            "wire",
            "report",
            "datasets",
            "evaluation",
            "oversegment",
            "retrieval",
            "models",
            "video",
            "trainer",
            "runtime",
            "tensorrt-sys",
        ],
    ),
    ("shared-library", &[]),
    ("tensorrt-sys", &["shared-library"]),
    // Used by `v4l` alone, through [patch.crates-io].
    ("v4l2-sys-mit", &[]),
    // Links nothing of ours, so that it builds in seconds.
    ("xtask", &[]),
];

/// Packages that bring libtorch, and the only crates that may name them.
const LIBTORCH_PACKAGES: &[&str] = &["tch", "torch-sys"];
const LIBTORCH_USERS: &[&str] = &["trainer", "tests"];

/// Crates that the runtime may use from its commands only: a frame's way needs none of them.
const COMMANDS_ONLY: &[&str] = &["datasets", "evaluation", "report"];

/// What `cargo metadata` says of the workspace's own packages.
pub fn metadata() -> Result<Value> {
    let text = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output("read the workspace")?;
    serde_json::from_str(&text).context("cargo metadata wrote no JSON")
}

/// Fails with every arrow that the table does not have.
pub fn check() -> Result<()> {
    let mut faults = faults(&metadata()?);
    faults.extend(runtime_faults()?);
    if !faults.is_empty() {
        bail!("{}\nthe arrow table is in xtask/src/arrows.rs and ARCHITECTURE.md", faults.join("\n"));
    }
    Ok(())
}

fn faults(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    let members: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut faults = Vec::new();
    for name in allowed.keys().filter(|name| !members.contains(*name)) {
        faults.push(format!("the arrow table names {name}, which is no crate of the workspace"));
    }
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(uses) = allowed.get(name) else {
            faults.push(format!("the crate {name} has no row in the arrow table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            if members.contains(used) && !uses.contains(&used) {
                faults.push(format!("{name} → {used} is no arrow of the table"));
            }
            if LIBTORCH_PACKAGES.contains(&used) {
                if !LIBTORCH_USERS.contains(&name) {
                    faults.push(format!("{name} names {used}; only {} may", LIBTORCH_USERS.join(" and ")));
                } else if name == "tests" && dependency["optional"] != true {
                    faults.push(format!("tests names {used} without its feature `torch`"));
                }
            }
        }
    }
    faults
}

/// `datasets`, `evaluation` and `report` are used in runtime/src/commands/ and nowhere else in the runtime.
fn runtime_faults() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for file in rust_files()? {
        if !file.starts_with("runtime/src/") || file.starts_with("runtime/src/commands/") {
            continue;
        }
        let text = fs::read_to_string(workspace().join(&file)).with_context(|| format!("could not read {file}"))?;
        for (index, line) in text.lines().enumerate() {
            for name in COMMANDS_ONLY.iter().filter(|name| names_crate(line, name)) {
                faults.push(format!("{file}:{}: runtime uses {name} in runtime/src/commands/ only", index + 1));
            }
        }
    }
    Ok(faults)
}

/// True if the line of code has the path `name::…` with nothing before it; comments do not count.
fn names_crate(line: &str, name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let path = format!("{name}::");
    code.match_indices(&path)
        .any(|(at, _)| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace_with(name: &str, dependencies: Value) -> Value {
        let packages = ARROWS.iter().map(|(member, _)| {
            let dependencies = if *member == name { dependencies.clone() } else { serde_json::json!([]) };
            serde_json::json!({"name": member, "dependencies": dependencies})
        });
        serde_json::json!({"packages": packages.collect::<Vec<_>>()})
    }

    #[test]
    fn allowed_arrows_pass() {
        let metadata = workspace_with("datasets", serde_json::json!([{"name": "video"}, {"name": "serde"}]));
        assert_eq!(faults(&metadata), [""; 0]);
    }

    #[test]
    fn every_other_arrow_is_named() {
        let metadata = workspace_with("segcore", serde_json::json!([{"name": "models", "kind": "dev"}]));
        assert_eq!(faults(&metadata), ["segcore → models is no arrow of the table"]);
        let metadata = workspace_with("runtime", serde_json::json!([{"name": "tch"}]));
        assert_eq!(faults(&metadata), ["runtime names tch; only trainer and tests may"]);
        let metadata = workspace_with("tests", serde_json::json!([{"name": "tch", "optional": false}]));
        assert_eq!(faults(&metadata), ["tests names tch without its feature `torch`"]);
    }

    #[test]
    fn members_and_rows_belong_together() {
        let mut metadata = workspace_with("", serde_json::json!([]));
        metadata["packages"][0]["name"] = "newcomer".into();
        assert_eq!(faults(&metadata).len(), 2);
    }

    #[test]
    fn paths_into_a_crate_are_found() {
        assert!(names_crate("use datasets::{Dataset, open};", "datasets"));
        assert!(names_crate("    let all = evaluation::ConfusionMatrix::new(11);", "evaluation"));
        assert!(!names_crate("use crate::datasets::open;", "datasets"));
        assert!(!names_crate("// datasets::open reads", "datasets"));
        assert!(!names_crate("use my_datasets::open;", "datasets"));
    }
}
