//! `cargo xtask kernels`: the CUDA kernels as PTX, committed beside their sources, so that no machine needs a compiler.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::nvrtc::Nvrtc;
use crate::process::workspace;

const FOLDER: &str = "runtime/src/backend/kernels";
const SOURCES: [&str; 5] = ["preprocess", "spherical_kmeans", "top_k", "refine", "frame"];
/// One PTX for Orin (8.7), Hopper (9.0) and Thor (11.0): their drivers compile it on. No contraction, as the C++ compiler
/// of the CPU twin: where a fused multiply-add is wanted, the source says so.
const OPTIONS: [&str; 4] = ["-arch=compute_80", "-std=c++17", "-default-device", "-fmad=false"];

/// Compiles all, and writes the files that changed; with `check`, fails when there are any.
pub fn run(check: bool) -> Result<()> {
    let folder = workspace().join(FOLDER);
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    };
    let nvrtc = Nvrtc::open()?;
    let header = read("kernels.h")?;
    let mut stale = Vec::new();
    for name in SOURCES {
        let ptx =
            nvrtc.compile(&format!("{name}.cu"), &read(&format!("{name}.cu"))?, &[("kernels.h", &header)], &OPTIONS)?;
        let path = folder.join(format!("{name}.ptx"));
        if fs::read_to_string(&path).is_ok_and(|committed| committed == ptx) {
            continue;
        }
        if check {
            stale.push(format!("{FOLDER}/{name}.ptx"));
        } else {
            fs::write(&path, ptx).with_context(|| format!("could not write {}", path.display()))?;
            println!("wrote {FOLDER}/{name}.ptx");
        }
    }
    if !stale.is_empty() {
        bail!("not what the sources compile to: {}; run `cargo xtask kernels` and commit", stale.join(", "));
    }
    Ok(())
}
