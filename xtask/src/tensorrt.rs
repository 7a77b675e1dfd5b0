//! `cargo xtask deps tensorrt`: NVIDIA's own libraries out of Python wheels, into .deps/tensorrt, for the tests that open them
//! without a GPU: TensorRT 8.6.0 (libnvinfer and the ONNX parser; not the gigabyte of kernels that only a GPU can use) and
//! the lean runtime of 11.4. `cargo xtask deps tensorrt-headers`: the headers of 10, for the test that compiles with them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{cargo, program, workspace};

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

/// The package on crates.io that has headers of TensorRT 10 (Apache-2.0): its last version that does. The newer one that
/// tensorrt-sys names has those of 11, and cargo takes no two of them into one build.
const HEADERS_PACKAGE: (&str, &str) = ("trtx-sys", "=0.5.0");
/// Where they are in it.
const HEADERS_FOLDER: &str = "TensorRT-Headers/TRT-Enterprise-10.16";
/// Where they go, in [`place`].
const HEADERS: &str = "headers-10.16";

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

/// Makes sure that the headers of TensorRT 10 are there.
pub fn ensure_headers() -> Result<PathBuf> {
    let target = place().join(HEADERS);
    if target.join("NvInfer.h").is_file() {
        return Ok(target);
    }
    let package = place().join("headers.package.tmp");
    let unpacked = target.with_extension("tmp");
    for folder in [&package, &unpacked] {
        fs::remove_dir_all(folder).ok();
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    eprintln!("fetching headers of TensorRT 10 with cargo into {}, once", target.display());
    let outcome = copy_headers(&package, &unpacked);
    fs::remove_dir_all(&package).ok();
    outcome?;
    fs::remove_dir_all(&target).ok();
    // By one rename, so that what is there is whole.
    fs::rename(&unpacked, &target).with_context(|| format!("could not make {}", target.display()))?;
    Ok(target)
}

/// Lets cargo fetch the package for an empty one in the folder `package`, and copies its headers.
fn copy_headers(package: &Path, to: &Path) -> Result<()> {
    let (name, version) = HEADERS_PACKAGE;
    let manifest = package.join("Cargo.toml");
    let text = format!(
        "[workspace]\n[package]\nname = \"headers\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n\
         [dependencies]\n{name} = \"{version}\"\n"
    );
    for (file, text) in [(&manifest, text.as_str()), (&package.join("lib.rs"), "")] {
        fs::write(file, text).with_context(|| format!("could not write {}", file.display()))?;
    }
    let metadata = cargo()
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(&manifest)
        .output("fetch headers of TensorRT 10 with cargo (is there a network?)")?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages.find(|package| package["name"] == name).and_then(|found| found["manifest_path"].as_str());
    let manifest = Path::new(manifest.with_context(|| format!("cargo metadata does not list {name}"))?);
    let from = manifest.parent().unwrap_or(Path::new("")).join(HEADERS_FOLDER);
    for entry in from.read_dir().with_context(|| format!("no folder {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name())).context("could not copy a header")?;
    }
    Ok(())
}
