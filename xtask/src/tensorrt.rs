//! `cargo xtask deps tensorrt`: NVIDIA's own libraries out of Python wheels, into .deps/tensorrt, for the tests that open them
//! without a GPU: TensorRT 8.6.0 (libnvinfer and the ONNX parser; not the gigabyte of kernels that only a GPU can use) and
//! the lean runtime of 11.4.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{program, workspace};

/// What is fetched: the folder it goes to, the requirement, and pip's words for wheels of another Python.
const WHEELS: [(&str, &str, &[&str]); 2] = [
    (
        "8.6",
        "tensorrt==8.6.0",
        &["--python-version=3.10", "--implementation=cp", "--abi=cp310", "--platform=manylinux_2_17_x86_64"],
    ),
    ("11.4-lean", "tensorrt-lean-cu13-libs==11.4.0.106", &["--platform=manylinux_2_28_x86_64"]),
];
const UNPACK: &str = "
import pathlib, shutil, sys, zipfile
wheel, = pathlib.Path(sys.argv[1]).glob('*.whl')
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        file = pathlib.PurePath(name).name
        if file.startswith(('libnvinfer', 'libnvonnxparser')) and 'builder_resource' not in file or file == 'LICENSE.txt':
            with archive.open(name) as source, open(pathlib.Path(sys.argv[2], file), 'wb') as target:
                shutil.copyfileobj(source, target)
";

fn place() -> PathBuf {
    workspace().join(".deps/tensorrt")
}

/// Makes sure that the libraries are there.
pub fn ensure() -> Result<PathBuf> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "these libraries are for Linux on x86-64; on a board the tests use what JetPack has installed"
    );
    for (folder, requirement, platform) in WHEELS {
        let target = place().join(folder);
        if fs::read_to_string(target.join("version")).is_ok_and(|version| version == requirement) {
            continue;
        }
        fetch(&target, requirement, platform)?;
    }
    Ok(place())
}

fn fetch(target: &Path, requirement: &str, platform: &[&str]) -> Result<()> {
    let (wheels, unpacked) = (target.with_extension("wheel.tmp"), target.with_extension("tmp"));
    // Left by a run that was interrupted.
    for folder in [&wheels, &unpacked] {
        fs::remove_dir_all(folder).ok();
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    eprintln!("fetching {requirement} with pip into {}, once", target.display());
    let outcome = program(env::var_os("PYTHON").unwrap_or_else(|| "python3".into()))
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"])
        .args(platform)
        .arg("-d")
        .arg(&wheels)
        .arg(requirement)
        .run("download TensorRT with pip (is python3 -m pip there, and a network?)")
        .and_then(|()| {
            let unpack = program("python3").arg("-c").arg(UNPACK).arg(&wheels).arg(&unpacked);
            unpack.run("unpack TensorRT (is the disk full?)")
        });
    fs::remove_dir_all(&wheels).ok();
    outcome?;
    fs::write(unpacked.join("version"), requirement)
        .with_context(|| format!("could not write in {}", unpacked.display()))?;
    fs::remove_dir_all(target).ok();
    // By one rename, so that what is there is whole.
    fs::rename(&unpacked, target).with_context(|| format!("could not make {}", target.display()))
}
