//! `cargo xtask deps libtorch`: the CPU-only libtorch out of the Python wheels, into .deps/libtorch.
//!
//! pip downloads pinned wheels, a short Python script keeps the headers and five libraries of them. Nothing is
//! installed into any Python, and Python is not used again afterwards.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Program, program, workspace};

/// The version that tch 0.24.0 is made for; torch-sys refuses another.
const VERSION: &str = "2.11.0";
const REQUIREMENTS: &str = "xtask/libtorch-cpu.txt";
const UNPACK: &str = "xtask/unpack_libtorch.py";
/// 0.5 GB of wheels and 0.5 GB unpacked exist at the same time; the rest is for building what links them.
const FREE_BYTES_NEEDED: u64 = 2 << 30;
/// The wheels that the requirements' hashes belong to.
const PIP_DOWNLOAD: [&str; 10] = [
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux_2_25_x86_64",
    "--platform=manylinux2014_x86_64",
    "--python-version=3.11",
    "--implementation=cp",
    "--disable-pip-version-check",
    "--require-hashes",
];

fn default_place() -> PathBuf {
    workspace().join(".deps/libtorch")
}

/// True if LIBTORCH names the project's own folder, which is what .cargo/config.toml makes of an unset variable.
pub fn is_default_place() -> bool {
    env::var_os("LIBTORCH").is_none_or(|place| Path::new(&place) == default_place())
}

/// Makes sure that there is a libtorch to link and returns where it is.
///
/// LIBTORCH and LIBTORCH_USE_PYTORCH are respected: who set them wants that libtorch, for example one with CUDA.
pub fn ensure() -> Result<PathBuf> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return Ok("the Python package torch (LIBTORCH_USE_PYTORCH is set)".into());
    }
    if let Some(place) = env::var_os("LIBTORCH").filter(|_| !is_default_place()) {
        let place = PathBuf::from(place);
        ensure!(
            place.join("lib/libtorch.so").exists() || place.join("lib/libtorch_cpu.so").exists(),
            "LIBTORCH is {}, but there is no lib/libtorch.so in it; name a folder of libtorch {VERSION}, or unset \
             LIBTORCH and the project fetches its own",
            place.display()
        );
        return Ok(place);
    }
    let place = default_place();
    if is_installed(&place) {
        return Ok(place);
    }
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!(
            "libtorch for {} {} is not fetched by this project: install libtorch {VERSION} yourself (the Python \
             package torch holds one) and set LIBTORCH to its folder",
            env::consts::OS,
            env::consts::ARCH
        );
    }
    fetch(&place)?;
    Ok(place)
}

fn is_installed(place: &Path) -> bool {
    // The folder appears by one rename, so what is there is whole.
    fs::read_to_string(place.join("build-version")).is_ok_and(|version| version.starts_with(VERSION))
        && place.join("lib/libtorch_cpu.so").exists()
}

fn fetch(place: &Path) -> Result<()> {
    let deps = workspace().join(".deps");
    fs::create_dir_all(&deps).with_context(|| format!("could not create {}", deps.display()))?;
    // Two at once (an editor's check and a test run) would unpack into one folder. The lock ends with the process.
    let lock_path = deps.join("lock");
    let lock = File::create(&lock_path).with_context(|| format!("could not create {}", lock_path.display()))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("another process fetches libtorch; waiting for it");
            lock.lock().with_context(|| format!("could not lock {}", lock_path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("could not lock {}", lock_path.display()));
        }
    }
    if is_installed(place) {
        return Ok(());
    }
    let wheels = deps.join("wheels.tmp");
    // Left by a run that was interrupted.
    fs::remove_dir_all(&wheels).ok();
    check_free_disk(&deps)?;

    eprintln!("fetching libtorch {VERSION} (CPU, about 540 MB) with pip into {}, once", place.display());
    let outcome = download(&deps, &wheels).and_then(|()| {
        program("python3").arg(UNPACK).arg(&wheels).arg(place).run("unpack libtorch (is the disk full?)")
    });
    fs::remove_dir_all(&wheels).ok();
    outcome?;
    ensure!(is_installed(place), "{} was unpacked but is not libtorch {VERSION}", place.display());
    Ok(())
}

fn download(deps: &Path, wheels: &Path) -> Result<()> {
    pip(deps)?
        .args(PIP_DOWNLOAD)
        .args(["-r", REQUIREMENTS, "-d"])
        .arg(wheels)
        .run("download libtorch")
        .context("needs the Python package index; behind a proxy or a mirror set HTTPS_PROXY or PIP_INDEX_URL")
}

/// Some pip: python3's own if it has one, else the one that a virtual environment brings.
pub fn pip(deps: &Path) -> Result<Program> {
    if !program("python3").arg("--version").works() {
        bail!(
            "python3 is missing, and what is fetched comes as a Python package: apt-get install -y python3 python3-pip"
        );
    }
    if program("python3").args(["-m", "pip", "--version"]).works() {
        return Ok(program("python3").args(["-m", "pip"]));
    }
    let environment = deps.join("venv");
    let python = environment.join("bin/python");
    if !program(&python).args(["-m", "pip", "--version"]).works()
        && !program("python3").args(["-m", "venv", "--clear"]).arg(&environment).works()
    {
        fs::remove_dir_all(&environment).ok();
        bail!("python3 has neither pip nor a working venv: apt-get install -y python3-venv python3-pip");
    }
    Ok(program(python).args(["-m", "pip"]))
}

fn check_free_disk(folder: &Path) -> Result<()> {
    // Without `df`, or with one that prints something else, the check is left out: a full disk then ends pip or the
    // unpacking with its own message, and nothing half-written is taken for a libtorch.
    let Ok(table) = program("df").args(["-P", "-k"]).arg(folder).output("read the free disk space") else {
        return Ok(());
    };
    let Some(free_bytes) = free_bytes(&table) else {
        return Ok(());
    };
    ensure!(
        free_bytes >= FREE_BYTES_NEEDED,
        "libtorch needs {:.1} GB of free disk while it is fetched, and {} has {:.1} GB: make room, or set LIBTORCH to \
         a libtorch {VERSION} that you have",
        FREE_BYTES_NEEDED as f64 / 1e9,
        folder.display(),
        free_bytes as f64 / 1e9
    );
    Ok(())
}

/// The fourth column of the second line of `df -P -k`, in bytes.
fn free_bytes(table: &str) -> Option<u64> {
    let kibibytes: u64 = table.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_disk_is_read_from_df() {
        let table = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 100 60 40 60% /\n";
        assert_eq!(free_bytes(table), Some(40 * 1024));
        assert_eq!(free_bytes("df: unrecognised option"), None);
    }

    #[test]
    fn half_a_libtorch_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("build-version"), VERSION).unwrap();
        assert!(!is_installed(folder));
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
        assert!(is_installed(folder));
        fs::write(folder.join("build-version"), "2.1.0").unwrap();
        assert!(!is_installed(folder));
    }
}
