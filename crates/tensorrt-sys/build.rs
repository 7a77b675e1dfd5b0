//! Compiles the shim against TensorRT's headers. They are looked for, best first:
//!
//! 1. the folder that `TENSORRT_INCLUDE_DIR` names, or `include` in the one of `TENSORRT_ROOT`: nothing else is tried then;
//! 2. where distributions and JetPack put them;
//! 3. those of TensorRT 11 that the package trtx-sys carries, found through `cargo metadata`.
//!
//! The program then takes only libraries of the headers' major version, and says so.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEADER: &str = "NvInfer.h";
const PACKAGE: &str = "trtx-sys";
/// The headers in that package, best first: its others are those of TensorRT-RTX, another library.
const PACKAGE_FOLDER: &str = "TensorRT-Headers/TRT-Enterprise-";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=TENSORRT_INCLUDE_DIR");
    println!("cargo:rerun-if-env-changed=TENSORRT_ROOT");
    let outcome = headers().and_then(|headers| compile(&headers));
    if let Err(words) = outcome {
        println!("cargo::error={words}");
    }
}

fn headers() -> Result<PathBuf, String> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = named("TENSORRT_INCLUDE_DIR").or_else(|| named("TENSORRT_ROOT").map(|root| root.join("include")));
    if let Some(folder) = named {
        return if folder.join(HEADER).is_file() {
            Ok(folder)
        } else {
            Err(format!(
                "TENSORRT_INCLUDE_DIR or TENSORRT_ROOT leads to {}, but there is no {HEADER}; name the folder that has \
                 it, or unset both",
                folder.display()
            ))
        };
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let places = [
        PathBuf::from(format!("/usr/include/{arch}-linux-gnu")),
        PathBuf::from("/usr/include"),
        PathBuf::from("/usr/local/include"),
        PathBuf::from("/usr/local/tensorrt/include"),
        PathBuf::from("/opt/tensorrt/include"),
    ];
    match places.into_iter().find(|place| place.join(HEADER).is_file()) {
        Some(place) => Ok(place),
        None => packaged().map_err(|why| {
            format!(
                "no TensorRT headers: {HEADER} is not where JetPack and distributions put it, and those of the package \
                 {PACKAGE} cannot be had: {why}; install TensorRT's development package (libnvinfer-dev, \
                 libnvonnxparsers-dev), or let TENSORRT_INCLUDE_DIR name the folder of {HEADER}"
            )
        }),
    }
}

/// The headers in the package that Cargo.toml names and nobody compiles.
fn packaged() -> Result<PathBuf, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("Cargo.toml");
    let run = |offline: bool| {
        let mut command = Command::new(&cargo);
        command.args(["metadata", "--format-version", "1", "--locked", "--manifest-path"]).arg(&manifest);
        if offline {
            command.arg("--offline");
        }
        command.output()
    };
    // Without the network first: what it wants has usually been fetched.
    let output = match run(true) {
        Ok(output) if output.status.success() => Ok(output),
        _ => run(false),
    };
    let output = output.map_err(|error| format!("cargo metadata does not start: {error}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata: {}", words.trim().replace('\n', " ")));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == PACKAGE)
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or_else(|| format!("cargo metadata does not list {PACKAGE}"))?;
    let package = Path::new(manifest).parent().unwrap_or(Path::new(""));
    let (folder, prefix) = PACKAGE_FOLDER.split_once('/').unwrap_or(("", PACKAGE_FOLDER));
    // For the test that tries all of them.
    println!("cargo:rustc-env=HSG_TRTX_HEADERS={}", package.join(folder).display());
    let mut found: Vec<PathBuf> = package
        .join(folder)
        .read_dir()
        .map_err(|error| format!("{}: {error}", package.join(folder).display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix)))
        .filter(|path| path.join(HEADER).is_file())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| format!("{} holds no {PACKAGE_FOLDER}*/{HEADER}", package.display()))
}

fn compile(headers: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-changed={}", headers.join("NvInferVersion.h").display());
    println!("cargo::metadata=headers={}", headers.display());
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("shim/shim.cpp").include("shim/stub");
    // As a system's, so that warnings are about the shim alone. What is on the compiler's own path must not be named so:
    // it would come before the C++ library's headers, which then do not find theirs.
    if headers != Path::new("/usr/include") {
        build.flag("-isystem").flag(headers.as_os_str());
    }
    // Old and new names of a thing differ between versions.
    build.flag("-Wno-deprecated-declarations");
    build.try_compile("hsg_tensorrt").map_err(|error| {
        format!(
            "the shim does not compile with the headers in {}: {error}; TensorRT 8.6, 10 and 11 are known to hsg \
             (crates/tensorrt-sys/README.md says which headers were tried)",
            headers.display()
        )
        .replace('\n', " ")
    })
}
