//! `cargo xtask bench-retrieval`: label retrieval beside FAISS, on the same vectors, in turn.

use std::fs;

use anyhow::{Context, Result};

use crate::libtorch::pip;
use crate::process::{cargo, program, workspace};

const FAISS: [&str; 2] = ["faiss-cpu==1.15.1", "numpy"];
const BANK: &str = "models/zoo/camvid-r18/bank.postcard";

/// Prints a table for made-up street scenes, and one for the shipped bank's prototypes repeated with noise. `arguments` go to
/// `crates/retrieval/examples/speed.rs`.
pub fn run(arguments: &[String]) -> Result<()> {
    let deps = workspace().join(".deps");
    let packages = deps.join("faiss");
    if !packages.join("faiss").is_dir() {
        fs::create_dir_all(&deps).with_context(|| format!("could not create {}", deps.display()))?;
        pip(&deps)?.args(["install", "--quiet", "--target"]).arg(&packages).args(FAISS).run("install FAISS")?;
    }
    cargo().args(["build", "--release", "-p", "retrieval", "--example", "speed"]).run("build the benchmark")?;
    let metadata = crate::arrows::metadata()?;
    let target = metadata["target_directory"].as_str().context("no target folder")?;
    for data in ["mixture".to_owned(), workspace().join(BANK).display().to_string()] {
        // The OpenBLAS inside FAISS does not know new processors and takes kernels without vectors for them; what somebody
        // set for other programs must not decide either.
        program("env")
            .args(["-u", "OPENBLAS_L2_SIZE"])
            .arg(format!("{target}/release/examples/speed"))
            .args([format!("data={data}"), "faiss=python3".to_owned()])
            .args(arguments)
            .env("PYTHONPATH", &packages)
            .env("OPENBLAS_CORETYPE", openblas_kernel())
            .run("time label retrieval")?;
        println!();
    }
    Ok(())
}

/// The best kernel of OpenBLAS for this machine that every version knows.
fn openblas_kernel() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "SkylakeX";
        }
        if is_x86_feature_detected!("avx2") {
            return "Haswell";
        }
    }
    ""
}
