//! `hsg doctor`: what this machine has and lacks, and the remedy for each lack.
//!
//! Nothing is changed and no camera is started: cameras are opened and asked what they have. ONNX Runtime is opened, as `hsg run` would; other vendors' libraries are looked
//! for only: what a driver does when it is loaded is not for a look-around to find out. With the cargo features `cuda` and
//! `tensorrt` the GPU is opened, kernels are loaded and TensorRT is asked, since that is what will run.

use std::fs;
use std::path::{Path, PathBuf};

use runtime::backend::{BackendChoice, BackendErrorKind, onnxruntime, tensorrt};
use runtime::pipeline::stats::cpu_name;
use runtime::source::{ListedCamera, list_cameras};
use serde::Serialize;

use runtime::program::Outcome;
use runtime::program::printer::Printer;
use runtime::program::shipped;

/// How a part of the machine stands.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Standing {
    /// It is here and works, as far as can be seen without starting it.
    Ok,
    /// It is not here; things that need it will say so.
    Missing,
    /// It is here and does not work.
    Broken,
    /// This version makes no use of it.
    Unused,
}

/// One finding.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    standing: Standing,
    /// What was found.
    found: String,
    /// What to do; null where nothing has to be done.
    remedy: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, standing: Standing::Ok, found: found.into(), remedy: None }
    }

    fn lack(what: &'static str, standing: Standing, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, standing, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// What `hsg doctor --json` prints.
#[derive(Serialize)]
struct Report {
    /// Whether `hsg run` works here.
    can_run: bool,
    findings: Vec<Finding>,
}

pub fn run(printer: Printer) -> anyhow::Result<Outcome> {
    let mut findings = vec![processor(), memory(), model(), clip()];
    let can_run = findings.iter().all(|finding| finding.standing == Standing::Ok);
    findings.extend(backends());
    findings.extend(gpu());
    findings.extend(cameras());
    findings.push(gstreamer());
    let report = Report { can_run, findings };
    printer.document(&report)?;
    printer.text(to_text(&report))?;
    Ok(if can_run { Outcome::Done } else { Outcome::Incomplete })
}

fn to_text(report: &Report) -> String {
    let width = report.findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { what, standing, found, remedy } in &report.findings {
        let mark = match standing {
            Standing::Ok => "ok     ",
            Standing::Missing => "missing",
            Standing::Broken => "broken ",
            Standing::Unused => "unused ",
        };
        text.push_str(&format!("{what:<width$}  {mark}  {found}\n"));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:<width$}           → {remedy}\n", ""));
        }
    }
    text.push_str(if report.can_run {
        "`hsg run` works here."
    } else {
        "`hsg run` does not work here: see the remedies above."
    });
    text
}

fn processor() -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let flags: Vec<&str> =
        line.and_then(|line| line.split_once(':')).map_or("", |(_, f)| f).split_whitespace().collect();
    // What the loops of this program and int8 kernels make use of.
    let useful = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp"];
    let has: Vec<&str> = useful.into_iter().filter(|flag| flags.contains(flag)).collect();
    let with = if has.is_empty() { "no vector extensions known to hsg".to_owned() } else { has.join(", ") };
    Finding::ok("processor", format!("{}, {threads} threads, {with}", cpu_name()))
}

/// What the shipped model needs with room for large frames, bytes.
const COMFORTABLE_MEMORY: u64 = 512 << 20;

fn memory() -> Finding {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |key: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let Some(available) = kilobytes("MemAvailable:").map(|kilobytes| kilobytes << 10) else {
        return Finding::ok("memory", "not told by this system");
    };
    let found = format!("{:.1} GB free", available as f64 / 1e9);
    if available < COMFORTABLE_MEMORY {
        let remedy = format!("the shipped model wants about {} MB: end other programs", COMFORTABLE_MEMORY >> 20);
        return Finding::lack("memory", Standing::Broken, found, remedy);
    }
    Finding::ok("memory", found)
}

fn model() -> Finding {
    match shipped::open_model(shipped::DEFAULT_MODEL) {
        Ok(folder) => {
            let manifest = folder.manifest();
            let bank = if folder.bank_path().is_some() { "with a prototype bank" } else { "without a prototype bank" };
            Finding::ok("model", format!("{} in {}, all hashes right, {bank}", manifest.name, folder.path().display()))
        }
        Err(error) => Finding::lack(
            "model",
            Standing::Broken,
            format!("{error:#}"),
            format!("run in the project's folder, or let {} name a folder of model folders", shipped::MODELS_VARIABLE),
        ),
    }
}

fn clip() -> Finding {
    match shipped::default_clip() {
        Ok(path) => Finding::ok("example clip", path.display().to_string()),
        Err(error) => {
            Finding::lack("example clip", Standing::Missing, format!("{error:#}"), "name a source: `hsg run drive.mp4`")
        }
    }
}

fn backends() -> Vec<Finding> {
    let mut findings = Vec::new();
    match runtime::backend::select(BackendChoice::Cpu) {
        Ok(selection) => findings.push(Finding::ok("backend cpu", selection.info.version)),
        Err(error) => findings.push(Finding::lack("backend cpu", Standing::Broken, error.to_string(), "report this")),
    }
    findings.push(match onnxruntime::look() {
        Ok((version, path)) => {
            Finding::ok("backend onnxruntime", format!("ONNX Runtime {version}, {}", path.display()))
        }
        Err(lack) => {
            let is_missing = lack.kind == BackendErrorKind::NotInstalled && !onnxruntime::is_named();
            let standing = if is_missing { Standing::Missing } else { Standing::Broken };
            Finding::lack("backend onnxruntime", standing, &lack.found, &lack.remedy)
        }
    });
    findings.push(tensorrt_finding());
    findings
}

/// TensorRT, its GPU, and whether it can build. In a program without it: whether the library is here.
fn tensorrt_finding() -> Finding {
    const WHAT: &str = "backend tensorrt";
    match tensorrt::look() {
        Ok(found) => {
            let here = format!(
                "TensorRT {} ({}), {}, compute capability {}.{}, CUDA {}",
                found.version,
                found.library.display(),
                found.gpu.name,
                found.gpu.capability.0,
                found.gpu.capability.1,
                found.driver
            );
            match &found.cannot_build {
                None => Finding::ok(WHAT, here),
                Some(why) => Finding::lack(
                    WHAT,
                    Standing::Broken,
                    format!("{here}; engines cannot be built: {why}"),
                    "built engines run all the same",
                ),
            }
        }
        Err(lack) if lack.kind == BackendErrorKind::NotCompiled => {
            let here = match library("libnvinfer.so") {
                Some(path) => format!("{} is here; this build of hsg does without", path.display()),
                None => "not installed; this build of hsg does without".to_owned(),
            };
            Finding::lack(WHAT, Standing::Unused, here, &lack.remedy)
        }
        Err(lack) => {
            let is_named = std::env::var_os(tensorrt::LIBRARY_VARIABLE).is_some();
            let is_missing = lack.kind == BackendErrorKind::NotInstalled && !is_named;
            let standing = if is_missing { Standing::Missing } else { Standing::Broken };
            Finding::lack(WHAT, standing, &lack.found, &lack.remedy)
        }
    }
}

/// A library whose name begins with `name`, where systems keep theirs.
fn library(name: &str) -> Option<PathBuf> {
    let arch = std::env::consts::ARCH;
    let mut places = vec![
        PathBuf::from(format!("/usr/lib/{arch}-linux-gnu")),
        PathBuf::from(format!("/lib/{arch}-linux-gnu")),
        PathBuf::from("/usr/lib64"),
        PathBuf::from("/usr/lib"),
        PathBuf::from("/usr/local/lib"),
        PathBuf::from("/usr/local/cuda/lib64"),
        PathBuf::from(format!("/usr/lib/{arch}-linux-gnu/nvidia")),
    ];
    let more = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&more).filter(|place| !place.as_os_str().is_empty()));
    let found = |place: &PathBuf| {
        let mut files: Vec<PathBuf> = fs::read_dir(place)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().and_then(|file| file.to_str()).is_some_and(|file| file.starts_with(name)))
            .collect();
        files.sort();
        // The longest name has the version in it.
        files.into_iter().max_by_key(|path| path.as_os_str().len())
    };
    places.iter().find_map(found)
}

fn gpu() -> Vec<Finding> {
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver.as_deref().and_then(|text| text.lines().next()).map(str::trim).map(str::to_owned);
    let is_jetson = Path::new("/etc/nv_tegra_release").is_file();
    let driver = match (driver, is_jetson) {
        (Some(version), _) => Finding::ok("NVIDIA driver", version),
        (None, true) => {
            let release = fs::read_to_string("/etc/nv_tegra_release").unwrap_or_default();
            Finding::ok("NVIDIA driver", release.lines().next().unwrap_or("Jetson").trim().to_owned())
        }
        (None, false) => Finding::lack(
            "NVIDIA driver",
            Standing::Missing,
            "no GPU driver is loaded",
            "none is needed: hsg runs on the CPU; training on a GPU needs the NVIDIA driver",
        ),
    };
    let cuda = match library("libcuda.so") {
        Some(path) => Finding::ok("CUDA", path.display().to_string()),
        None => Finding::lack("CUDA", Standing::Missing, "no libcuda.so", "it comes with the NVIDIA driver"),
    };
    let mut findings = vec![driver, cuda];
    findings.extend(kernels());
    findings
}

/// The first GPU and whether its driver takes the kernels. Opening it takes a moment and some of its memory.
#[cfg(feature = "cuda")]
fn kernels() -> Option<Finding> {
    use runtime::backend::cuda::{Cuda, look};
    let info = match look() {
        Ok(info) => info,
        Err(error) => {
            let is_missing = error.kind() == BackendErrorKind::NotInstalled;
            let standing = if is_missing { Standing::Missing } else { Standing::Broken };
            return Some(Finding::lack(
                "GPU kernels",
                standing,
                error.to_string(),
                "none is needed: hsg runs on the CPU",
            ));
        }
    };
    let found = format!(
        "{}, compute capability {}.{}, CUDA {}, {:.1} GB",
        info.name,
        info.capability.0,
        info.capability.1,
        info.driver,
        info.memory_bytes as f64 / 1e9
    );
    Some(match Cuda::new() {
        Ok(_) if cfg!(feature = "tensorrt") => Finding::ok(
            "GPU kernels",
            format!("load on {found}; with `--backend tensorrt` frames stay on the GPU from preprocess to refine"),
        ),
        Ok(_) => Finding::lack(
            "GPU kernels",
            Standing::Unused,
            format!("load on {found}; without the cargo feature `tensorrt` frames do not use them"),
            "`gpu-kernels` checks and times them",
        ),
        Err(error) => Finding::lack("GPU kernels", Standing::Broken, format!("{found}: {error}"), "report this"),
    })
}

#[cfg(not(feature = "cuda"))]
fn kernels() -> Option<Finding> {
    None
}

fn cameras() -> Vec<Finding> {
    let cameras = list_cameras();
    if cameras.is_empty() {
        return vec![Finding::lack(
            "cameras",
            Standing::Missing,
            "no camera",
            "plug a USB camera in; in a container, pass its device on (`--device /dev/video0`)",
        )];
    }
    cameras.into_iter().map(camera).collect()
}

fn camera(ListedCamera { node, card, by_id, modes }: ListedCamera) -> Finding {
    let mut found = format!("{} ({card})", node.display());
    if let Some(name) = by_id {
        // The name that lasts: numbers of nodes change with the order of plugging in.
        found.push_str(&format!(", v4l2:by-id/{name}"));
    }
    match modes {
        Ok(modes) => Finding::ok("camera", format!("{found}: {modes}")),
        Err(reason) => match reason.split_once("; ") {
            Some((reason, remedy)) => Finding::lack("camera", Standing::Broken, format!("{found}: {reason}"), remedy),
            None => Finding::lack("camera", Standing::Broken, format!("{found}: {reason}"), "plug it in again"),
        },
    }
}

fn gstreamer() -> Finding {
    const WHAT: &str = "GStreamer";
    #[cfg(feature = "gstreamer")]
    {
        Finding::ok(WHAT, runtime::source::gstreamer_version())
    }
    #[cfg(not(feature = "gstreamer"))]
    {
        let places = std::env::var_os("PATH").unwrap_or_default();
        let is_here = std::env::split_paths(&places).any(|place| place.join("gst-inspect-1.0").is_file());
        let here = if is_here { "is here" } else { "is not installed" };
        Finding::lack(
            WHAT,
            Standing::Unused,
            format!("{here}; this build of hsg does without"),
            "USB cameras, MP4 with H.264 and Motion-JPEG AVI need nothing; for RTSP, CSI cameras and other codecs: `cargo xtask \
             deps gstreamer`, then `cargo build --release -p runtime --features gstreamer`",
        )
    }
}
