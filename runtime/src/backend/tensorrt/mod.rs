//! NVIDIA TensorRT: engines built on the machine that runs them, kept in a cache, never used when they are stale or foreign.
//!
//! | file | what |
//! |---|---|
//! | [`network`] | model folder → the ONNX bytes for a version of TensorRT, and the shapes to be served |
//! | [`engine_file`] | an engine with its manifest in one file; whether it is the one that is wanted |
//! | [`cache`] | where engines are kept; built once, whoever asks |
//! | `found`, `backend` | the library, the driver and the backend itself: cargo feature `tensorrt` |
//! | `timings` | the file of times that builds take over from each other |
//! | `device_network` | an engine over device memory, on a stream of the caller's |
//! | `batch` | one run of the embedding network for the frames of several streams |
//! | `meeting` | who waits for whom before such a run, and what becomes of the others when it fails |
//! | `frame` | a frame's whole way on the GPU: read it to follow one |
//! | `absent` | the same functions in a program without that feature: they say so |
//!
//! Everything up to the first call of the driver is tested without a GPU, and the rest against stand-ins for the libraries
//! (`tests/suites/tensorrt.rs`); real engines have not run yet. The unsafe code of this folder are the calls that hand device
//! memory or an engine's bytes to TensorRT, and copies that do not wait.
#![allow(unsafe_code)]

pub mod cache;
pub mod engine_file;
pub mod network;

#[cfg(not(feature = "tensorrt"))]
mod absent;
#[cfg(feature = "tensorrt")]
mod backend;
#[cfg(feature = "tensorrt")]
pub mod batch;
#[cfg(feature = "tensorrt")]
mod device_network;
#[cfg(feature = "tensorrt")]
mod found;
#[cfg(feature = "tensorrt")]
pub mod frame;
#[cfg(feature = "tensorrt")]
mod meeting;
#[cfg(feature = "tensorrt")]
mod timings;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use models::manifest::{ModelFolder, Precision};

pub use cache::{Cached, EngineCache, Lookup};
pub use engine_file::{EngineManifest, Identity};
pub use network::{PreparedNetwork, prepare};

#[cfg(not(feature = "tensorrt"))]
pub use absent::{TensorRtBackend, TensorRtEngine, build, layers, load_watched, look};
#[cfg(feature = "tensorrt")]
pub use backend::{TensorRtBackend, TensorRtEngine, build, layers, load_watched};
#[cfg(feature = "tensorrt")]
pub use found::look;

use super::{BackendError, BackendErrorKind, NetworkKind};

/// Names libnvinfer's file.
pub const LIBRARY_VARIABLE: &str = "HSG_TENSORRT";

/// Why TensorRT cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What kind of error it is.
    pub kind: BackendErrorKind,
    /// What was found.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

impl From<&Lack> for BackendError {
    fn from(lack: &Lack) -> Self {
        Self::new(lack.kind, format!("{}; {}", lack.found, lack.remedy))
    }
}

/// What was found where TensorRT works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Version of the library.
    pub version: String,
    /// Its file, or the name that the system's loader knows it by.
    pub library: PathBuf,
    /// What is missing for building engines; none = nothing.
    pub cannot_build: Option<String>,
    /// The GPU.
    pub gpu: engine_file::Gpu,
    /// CUDA version of the driver.
    pub driver: String,
}

/// Most frames that a run of the embedding network may take; memory grows with it, and little is gained long before.
pub const MAX_BATCH: usize = 32;

/// How streams of a deployment share runs of the embedding network (`batch.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Most frames of one run, 1 to [`MAX_BATCH`]; 1 = every stream runs the network for itself.
    pub most: usize,
    /// How long a run waits for the frames of streams that brought some lately.
    pub wait: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self { most: 1, wait: Duration::ZERO }
    }
}

/// How engines are built.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildOptions {
    /// Most frames that the embedding network takes at once, 1 to [`MAX_BATCH`].
    pub max_batch: usize,
    /// Most device memory that a layer may use for itself, MiB; none = all there is.
    pub workspace_mebibytes: Option<u64>,
    /// File of timings that is read and written; none = one in the cache for this version and GPU.
    pub timing_cache: Option<PathBuf>,
    /// For every GPU from Ampere on.
    pub hardware_compatible: bool,
    /// Also where there is an engine already.
    pub again: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { max_batch: 1, workspace_mebibytes: None, timing_cache: None, hardware_compatible: false, again: false }
    }
}

/// An event of a build, for people.
#[derive(Clone, Debug, PartialEq)]
pub enum BuildEvent {
    /// Something to be told.
    Line(String),
    /// A phase has come so far.
    Progress {
        /// TensorRT's name of the phase.
        phase: String,
        /// Steps done.
        done: u32,
        /// Steps in all.
        steps: u32,
    },
}

/// Who watches a build; told from TensorRT's threads, too.
pub trait BuildWatch: Sync {
    /// Something happened.
    fn event(&self, event: BuildEvent);

    /// Whether to stop.
    fn is_stopped(&self) -> bool {
        false
    }
}

/// Lines go to the log as warnings, which people see unless they asked for quiet.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWatch<'a> {
    /// Stops a build when it is set.
    pub stop: Option<&'a AtomicBool>,
}

impl BuildWatch for LogWatch<'_> {
    fn event(&self, event: BuildEvent) {
        match event {
            BuildEvent::Line(line) => log::warn!("{line}"),
            BuildEvent::Progress { phase, done, steps } => log::info!("{phase}: {done} of {steps}"),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// An engine that was built or found.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltEngine {
    /// Its file.
    pub path: PathBuf,
    /// Whether it was built just now.
    pub is_new: bool,
    /// What stands in it before the engine.
    pub manifest: EngineManifest,
}

/// What an engine of this network must have been built from on this machine.
pub fn identity_of(
    folder: &ModelFolder,
    kind: NetworkKind,
    network: &PreparedNetwork,
    found: &Found,
    hardware_compatible: bool,
) -> Identity {
    Identity {
        model: folder.manifest().name.clone(),
        model_hash: folder.model_hash().to_owned(),
        network: kind.to_string(),
        network_sha256: network.sha256.clone(),
        precision: network.precision,
        tensorrt: found.version.clone(),
        gpu: found.gpu.clone(),
        hardware_compatible,
        shapes: network.shapes.clone(),
    }
}

/// Why the engines of a model, for runs of up to `max_batch` frames, cannot be used at once; none if they can. No engine is
/// loaded.
///
/// # Errors
/// When the model folder has no network of this precision, or there is no folder for a cache.
pub fn missing_engines(
    folder: &ModelFolder,
    precision: Precision,
    found: &Found,
    max_batch: usize,
) -> Result<Option<String>, BackendError> {
    let cache = EngineCache::open()?;
    let major = found.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    for kind in NetworkKind::ALL {
        let network = prepare(folder, kind, precision, major)?.for_batches(max_batch);
        match cache.look(&identity_of(folder, kind, &network, found, false)) {
            Lookup::Found(..) => {}
            Lookup::Absent => return Ok(Some(format!("there is no engine of its {kind} network in {precision} yet"))),
            Lookup::Unusable(reason) => return Ok(Some(reason)),
        }
    }
    Ok(None)
}
