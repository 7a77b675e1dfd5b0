//! `cargo xtask deps mpi`: Debian's Open MPI and the libclang that its Rust binding is made with.
//!
//! Nothing in the default build needs them. Unlike everything else that is fetched they are packages of the system:
//! MPI is part of a cluster's installation, and a copy of our own would not talk to it.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::process::program;

/// What Debian and Ubuntu call them.
const PACKAGES: [&str; 3] = ["libopenmpi-dev", "openmpi-bin", "libclang-dev"];

/// What is missing to build and run programs with MPI, in words.
pub fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !program("mpicc").arg("--version").works() {
        missing.push("mpicc");
    }
    if !program("mpirun").arg("--version").works() {
        missing.push("mpirun");
    }
    if !has_libclang() {
        missing.push("libclang");
    }
    missing
}

/// Whether there is a libclang, which bindgen needs.
pub fn has_libclang() -> bool {
    let is_libclang = |name: &str| name.starts_with("libclang.so") || name.starts_with("libclang-");
    let holds_one = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
    };
    if env::var_os("LIBCLANG_PATH").is_some_and(|path| Path::new(&path).is_file() || holds_one(Path::new(&path))) {
        return true;
    }
    let versions = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let versions = versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"));
    let mut folders: Vec<_> = versions.map(|entry| entry.path().join("lib")).collect();
    folders.extend(["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(Into::into));
    folders.push(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH).into());
    folders.iter().any(|folder| holds_one(folder))
}

/// Installs what is missing; says what before.
pub fn install() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        println!("mpirun, mpicc and libclang are installed");
        return Ok(());
    }
    let packages = PACKAGES.join(" ");
    eprintln!("missing: {}; to be installed with apt-get: {packages}", missing.join(", "));
    if !program("apt-get").arg("--version").works() {
        bail!("there is no apt-get here: install an MPI with mpicc and mpirun, and libclang, your system's way");
    }
    if program("id").arg("-u").output("ask who runs this")?.trim() != "0" {
        bail!("installing packages needs root: sudo apt-get install -y {packages}");
    }
    program("apt-get").args(["install", "-y"]).args(PACKAGES).run("install MPI (try apt-get update first)")
}
