//! What executes the networks: [`Backend`] (is it here?) → [`Engine`] (one network, shared, immutable) → [`Session`]
//! (per thread, runs into the caller's buffers).
//!
//! [`select`] chooses a backend. A named one fails hard with the reason; only `auto` may choose, and says what it chose
//! and why. [`onnxruntime`] is opened at run time where it is installed; [`cpu`] is in the program. [`tensorrt`] needs the
//! cargo feature of its name and builds engines for the machine; without it answers [`BackendErrorKind::NotCompiled`].

pub mod cpu;
pub mod cuda;
pub mod onnxruntime;
pub mod switching;
pub mod tensorrt;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use models::manifest::{ModelFolder, Precision};

/// What a person may ask for with `--backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best one that works here.
    #[default]
    Auto,
    /// The embedded pure-Rust engine (rten), fp32.
    Cpu,
    /// ONNX Runtime, opened at run time.
    OnnxRuntime,
    /// NVIDIA TensorRT, opened at run time.
    TensorRt,
}

impl BackendChoice {
    /// The name on the command line and in `summary.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::OnnxRuntime => "onnxruntime",
            Self::TensorRt => "tensorrt",
        }
    }
}

/// What a working backend says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendInfo {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// Name and version of what executes the network.
    pub version: String,
    /// The accelerator; none on a CPU.
    pub device: Option<String>,
}

/// Why a backend cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// This program was built without it.
    NotCompiled,
    /// Its library is not on this machine.
    NotInstalled,
    /// The library is here, but no device it could use.
    NoDevice,
    /// The library is older than this program needs.
    TooOld,
    /// The library is of a version that this program was not built for.
    OtherVersion,
    /// The library is here and cannot be opened.
    Broken,
    /// The library works, but does what nobody asked for.
    Unwanted,
    /// A network file cannot be loaded.
    Load,
    /// A run failed, or was asked for something the network does not have.
    Run,
    /// A tensor holds NaN or infinity.
    NotFinite,
    /// The device is lost to this process: nothing runs on it until the process is started again.
    DeviceLost,
}

/// An error of a backend; the message names the file or library, what was found, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    kind: BackendErrorKind,
    message: String,
}

impl BackendError {
    /// An error of this kind; `message` names file, expected, got and the remedy.
    pub fn new(kind: BackendErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of error it is.
    pub fn kind(&self) -> BackendErrorKind {
        self.kind
    }
}

/// A tensor in the caller's memory. Runs resize it as needed; the memory is reused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorBuffer {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub data: Vec<f32>,
}

/// Name and shape of an input or output of a network; none = the axis may have any length.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its axes.
    pub shape: Vec<Option<usize>>,
}

/// How networks are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Threads for the arithmetic, at least 1.
    pub num_threads: usize,
}

/// One way to execute networks.
pub trait Backend: Send + Sync {
    /// Whether it works on this machine.
    ///
    /// # Errors
    /// Why not: [`BackendErrorKind::NotCompiled`], `NotInstalled`, `NoDevice` or `TooOld`, with the remedy.
    fn probe(&self) -> Result<BackendInfo, BackendError>;

    /// Loads an ONNX file.
    ///
    /// # Errors
    /// [`BackendErrorKind::Load`], naming the file.
    fn load(&self, path: &Path, options: EngineOptions) -> Result<Arc<dyn Engine>, BackendError>;

    /// Whether it makes networks of other precisions out of a model folder's fp32 files.
    fn makes_precisions(&self) -> bool {
        false
    }

    /// Loads a network of a model folder: its file, or what the backend makes of it.
    ///
    /// # Errors
    /// [`BackendErrorKind::Load`], naming the file.
    fn load_network(
        &self,
        source: &NetworkSource<'_>,
        options: EngineOptions,
    ) -> Result<Arc<dyn Engine>, BackendError> {
        match source.path() {
            Some(path) => self.load(&path, options),
            None => Err(BackendError::new(
                BackendErrorKind::Load,
                format!(
                    "{}: has no {} network in {}; choose another --precision",
                    source.folder.path().display(),
                    source.kind,
                    source.precision
                ),
            )),
        }
    }
}

/// Which of a model's networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// Image → features.
    Embedding,
    /// Segments → groups.
    Grouping,
}

impl NetworkKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Embedding, Self::Grouping];

    /// Its file, if the folder has it in this precision.
    pub fn path(self, folder: &ModelFolder, precision: Precision) -> Option<PathBuf> {
        match self {
            Self::Embedding => folder.embedding_path(precision),
            Self::Grouping => folder.grouping_path(precision),
        }
    }
}

impl std::fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Embedding => "embedding",
            Self::Grouping => "grouping",
        })
    }
}

/// A network of a checked model folder.
#[derive(Clone, Copy, Debug)]
pub struct NetworkSource<'a> {
    /// The folder.
    pub folder: &'a ModelFolder,
    /// Which network.
    pub kind: NetworkKind,
    /// Number format asked for.
    pub precision: Precision,
    /// Most frames that one run of the embedding network should take, where the backend takes more than one.
    pub max_batch: usize,
}

impl NetworkSource<'_> {
    /// Its file. int8 is the embedding network alone, where nearly all the arithmetic is; grouping stays fp32 then.
    pub fn path(&self) -> Option<PathBuf> {
        let path = self.kind.path(self.folder, self.precision);
        match (self.kind, self.precision) {
            (NetworkKind::Grouping, Precision::Int8) => path.or_else(|| self.kind.path(self.folder, Precision::Fp32)),
            _ => path,
        }
    }
}

/// One loaded network. Immutable; all threads share it.
pub trait Engine: Send + Sync {
    /// The file it came from.
    fn path(&self) -> &Path;

    /// What it wants.
    fn inputs(&self) -> &[TensorInfo];

    /// What it can give.
    fn outputs(&self) -> &[TensorInfo];

    /// A session for one thread.
    ///
    /// # Errors
    /// [`BackendErrorKind::Run`] when resources for it are missing.
    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, BackendError>;

    /// The engine itself where it runs over memory of a GPU, so that a whole frame can stay there
    /// ([`tensorrt`], `frame.rs`); none elsewhere.
    fn on_gpu(self: Arc<Self>) -> Option<Arc<tensorrt::TensorRtEngine>> {
        None
    }
}

/// Runs one network on one thread.
pub trait Session: Send {
    /// Runs the network: `inputs` are (name, shape, row-major values); each of `outputs` is (name, buffer), and its
    /// buffer gets the shape and values of that output. Only what the asked outputs need is computed.
    ///
    /// # Errors
    /// [`BackendErrorKind::Run`] when a name is unknown, a shape does not fit, or the engine fails. Values are not
    /// judged here: see [`check_finite`].
    fn run(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: &mut [(&str, &mut TensorBuffer)],
    ) -> Result<(), BackendError>;
}

/// The chosen backend.
pub struct Selection {
    /// The backend.
    pub backend: Box<dyn Backend>,
    /// What it says about itself.
    pub info: BackendInfo,
    /// Why it was chosen, in words.
    pub reason: String,
}

/// Chooses a backend.
///
/// # Errors
/// When a named backend does not work here; `auto` always finds `cpu`.
pub fn select(choice: BackendChoice) -> Result<Selection, BackendError> {
    let chosen = |backend: Box<dyn Backend>, reason: String| {
        let info = backend.probe()?;
        Ok(Selection { backend, info, reason })
    };
    let named = || "named with --backend".to_owned();
    match choice {
        BackendChoice::Cpu => chosen(Box::<cpu::CpuBackend>::default(), named()),
        BackendChoice::OnnxRuntime => chosen(Box::new(onnxruntime::OnnxRuntimeBackend), named()),
        BackendChoice::Auto => match onnxruntime::OnnxRuntimeBackend.probe() {
            Ok(_) => {
                let reason = "chosen by auto: the fastest on a CPU, and its library is here";
                chosen(Box::new(onnxruntime::OnnxRuntimeBackend), reason.to_owned())
            }
            Err(error) if error.kind() == BackendErrorKind::NotInstalled && !onnxruntime::is_named() => chosen(
                Box::<cpu::CpuBackend>::default(),
                "chosen by auto: it needs nothing, and ONNX Runtime is not installed".to_owned(),
            ),
            // Somebody wanted it, and it does not work: said, because it is slower without.
            Err(error) => chosen(
                Box::<cpu::CpuBackend>::default(),
                format!("chosen by auto, because ONNX Runtime does not work: {error}"),
            ),
        },
        BackendChoice::TensorRt => chosen(Box::new(tensorrt::TensorRtBackend), named()),
    }
}

/// Chooses a backend for a model, whose engines should take `max_batch` frames at once: `auto` takes TensorRT where its engines of this model are built already, because building
/// them takes minutes that nobody asked for.
///
/// # Errors
/// As [`select`].
pub fn select_for(
    choice: BackendChoice,
    folder: &ModelFolder,
    precision: Precision,
    max_batch: usize,
) -> Result<Selection, BackendError> {
    if choice != BackendChoice::Auto {
        return select(choice);
    }
    let Ok(found) = tensorrt::look() else { return select(choice) };
    let reason = match tensorrt::missing_engines(folder, precision, found, max_batch) {
        Ok(None) => {
            let backend: Box<dyn Backend> = Box::new(tensorrt::TensorRtBackend);
            let info = backend.probe()?;
            let reason = "chosen by auto: the fastest, and its engines of this model are built".to_owned();
            return Ok(Selection { backend, info, reason });
        }
        Ok(Some(reason)) => reason,
        Err(error) => error.to_string(),
    };
    let selection = select(choice)?;
    let reason = format!(
        "{}; TensorRT {} is here, but {reason} (`hsg build --precision {precision}`)",
        selection.reason, found.version
    );
    Ok(Selection { reason, ..selection })
}

/// Whether ONNX Runtime's integer kernels may saturate on this CPU: on x86 they add products in 16 bits unless there is VNNI.
pub fn int8_saturates() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        !(std::arch::is_x86_feature_detected!("avx512vnni") || std::arch::is_x86_feature_detected!("avxvnni"))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// The first value that is NaN or infinite. Costs about one pass over memory: cheap enough for every frame.
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    // x · 0 is 0 for finite x and NaN otherwise, and NaN survives sums: eight independent sums vectorise.
    let mut sums = [0.0f32; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value * 0.0;
        }
    }
    let all_finite = sums.iter().sum::<f32>() == 0.0 && rest.iter().all(|value| value.is_finite());
    if all_finite { None } else { values.iter().position(|value| !value.is_finite()) }
}

/// Refuses a tensor with NaN or infinity: `file` is the network it came from.
///
/// # Errors
/// [`BackendErrorKind::NotFinite`], naming the file and the tensor.
pub fn check_finite(file: &Path, tensor: &str, values: &[f32]) -> Result<(), BackendError> {
    match first_not_finite(values) {
        None => Ok(()),
        Some(index) => Err(BackendError::new(
            BackendErrorKind::NotFinite,
            format!(
                "{}: the output tensor `{tensor}` holds {} at index {index}, expected finite numbers; the weights are \
                 broken: export the model again from a checkpoint whose training did not diverge",
                file.display(),
                values[index]
            ),
        )),
    }
}

pub(crate) fn load_error(path: &Path, what: impl std::fmt::Display) -> BackendError {
    BackendError::new(
        BackendErrorKind::Load,
        format!("{}: cannot be loaded as a network: {what}; export the model again", path.display()),
    )
}

/// An error of a run of the network in `path`.
fn run_error(path: &Path, what: impl std::fmt::Display) -> BackendError {
    BackendError::new(BackendErrorKind::Run, format!("{}: {what}", path.display()))
}

/// The library gave up on a run with these inputs.
fn run_failed(path: &Path, error: impl std::fmt::Display, inputs: &[(&str, &[usize], &[f32])]) -> BackendError {
    let shapes: Vec<String> = inputs.iter().map(|(name, shape, _)| format!("`{name}` {shape:?}")).collect();
    run_error(path, format!("the run failed: {error}; inputs were {}", shapes.join(", ")))
}

/// Fails unless the network has this input or output.
fn check_name(path: &Path, kind: &str, name: &str, known: &[TensorInfo]) -> Result<(), BackendError> {
    if known.iter().any(|tensor| tensor.name == name) {
        return Ok(());
    }
    let names: Vec<&str> = known.iter().map(|tensor| tensor.name.as_str()).collect();
    Err(run_error(path, format!("there is no {kind} `{name}`, only {}", names.join(", "))))
}

/// Fails unless an input has as many values as its shape says.
fn check_length(path: &Path, name: &str, shape: &[usize], data: &[f32]) -> Result<(), BackendError> {
    let (expected, got) = (shape.iter().product::<usize>(), data.len());
    if expected == got {
        return Ok(());
    }
    Err(run_error(path, format!("the input `{name}` has {got} values, expected {expected} for shape {shape:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_finite_are_found() {
        for len in [0, 1, 7, 8, 9, 100] {
            let mut values = vec![1.5; len];
            assert_eq!(first_not_finite(&values), None);
            for i in 0..len {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    values[i] = bad;
                    assert_eq!(first_not_finite(&values), Some(i));
                }
                values[i] = f32::MAX;
                assert_eq!(first_not_finite(&values), None);
            }
        }
        let error = check_finite(Path::new("a/b.onnx"), "embedding", &[0.0, f32::NAN]).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::NotFinite);
        assert!(error.to_string().contains("a/b.onnx") && error.to_string().contains("`embedding`"));
    }

    #[test]
    fn a_named_backend_works_or_says_why_not() {
        match select(BackendChoice::TensorRt) {
            Ok(selection) => assert!(cfg!(feature = "tensorrt") && selection.info.device.is_some()),
            Err(error) => {
                let is_compiled = error.kind() != BackendErrorKind::NotCompiled;
                assert_eq!(is_compiled, cfg!(feature = "tensorrt"), "{error}");
                assert!(error.to_string().contains("--backend auto"), "{error}");
            }
        }
        assert_eq!(select(BackendChoice::Cpu).unwrap().info.name, "cpu");
        // Which one depends on the machine.
        assert!(["cpu", "onnxruntime"].contains(&select(BackendChoice::Auto).unwrap().info.name));
    }
}
