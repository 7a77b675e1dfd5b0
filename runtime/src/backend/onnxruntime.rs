//! ONNX Runtime, opened at run time: faster than the embedded backend (`docs/benchmarks/latency.md`), and what INT8 models
//! will run on.
//!
//! The library is looked for in this order: the file that `HSG_ONNXRUNTIME` names; beside the program and in `../lib`; where
//! `cargo xtask deps onnxruntime` puts it, `.deps` in a folder above the program; where the system's loader looks. Never in
//! the current folder or at a path of the machine that built the program: who can write there would decide what runs. A program that has been linked without it starts
//! on any machine and says what is missing.
//!
//! From 1.29 on the library keeps a device id in the home folder and reports how it is used to its maker, unless the
//! variable `ORT_DISABLE_TELEMETRY` is set before it starts. Without that such a library is refused.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session as OrtSession, SessionInputValue};
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::{
    Backend, BackendError, BackendErrorKind, BackendInfo, Engine, EngineOptions, Session, TensorBuffer, TensorInfo,
    check_length, check_name, load_error, run_error, run_failed,
};

/// Names the library's file.
pub const LIBRARY_VARIABLE: &str = "HSG_ONNXRUNTIME";

const FILE_NAME: &str = "libonnxruntime.so";

/// The oldest version that works: that of the interface this program is compiled for.
const OLDEST: &str = "1.17";

/// The variable that keeps the library from reporting how it is used. One that does not report does not know it.
const SILENT_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// The library can be opened once in a process, so what came of it stays.
static LIBRARY: OnceLock<Result<Library, Lack>> = OnceLock::new();

struct Library {
    environment: Environment,
    version: String,
    path: PathBuf,
}

/// Why the library cannot be used.
#[derive(Clone, Debug)]
pub struct Lack {
    /// What kind of error it is.
    pub kind: BackendErrorKind,
    /// What was found.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

impl Lack {
    fn new(kind: BackendErrorKind, found: String) -> Self {
        let remedy = format!(
            "install ONNX Runtime {OLDEST} or newer (`cargo xtask deps onnxruntime` fetches it), or let {LIBRARY_VARIABLE} \
             name its {FILE_NAME}; `--backend cpu` needs nothing"
        );
        Self { kind, found, remedy }
    }
}

/// Places of the library, best first.
fn candidates() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(program) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(program.join(FILE_NAME));
        places.push(program.join("../lib").join(FILE_NAME));
        places.extend(program.ancestors().map(|folder| folder.join(".deps/onnxruntime").join(FILE_NAME)));
    }
    places.retain(|place| place.is_file());
    // These go to the system's loader as they are.
    places.extend([FILE_NAME, "libonnxruntime.so.1"].map(PathBuf::from));
    places
}

fn open() -> Result<Library, Lack> {
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from) {
        // A file that was named is not passed over for another one.
        return open_at(&path).map_err(|lack| Lack { found: format!("{LIBRARY_VARIABLE}: {}", lack.found), ..lack });
    }
    let mut lacks = Vec::new();
    for path in candidates() {
        match open_at(&path) {
            Ok(library) => return Ok(library),
            // The system's loader has no such library.
            Err(Lack { kind: BackendErrorKind::NotInstalled, .. }) if path.parent() == Some(Path::new("")) => {}
            Err(lack) => lacks.push(lack),
        }
    }
    let nowhere = || {
        let found = format!("ONNX Runtime is not on this machine: no {FILE_NAME} was found");
        Lack::new(BackendErrorKind::NotInstalled, found)
    };
    Err(lacks.into_iter().next().unwrap_or_else(nowhere))
}

fn open_at(path: &Path) -> Result<Library, Lack> {
    // A bare name is the loader's to find; what is no file at all is told by it, too.
    if path.is_file() {
        shared_library::check(path).map_err(|words| {
            let found = format!("{}: expected ONNX Runtime {OLDEST} or newer, but this file {words}", path.display());
            Lack::new(BackendErrorKind::NotInstalled, found)
        })?;
    }
    let builder = ort::init_from(path).map_err(|error| {
        let error = error.to_string();
        let kind =
            if error.contains("not compatible") { BackendErrorKind::TooOld } else { BackendErrorKind::NotInstalled };
        Lack::new(kind, format!("{}: expected ONNX Runtime {OLDEST} or newer: {error}", path.display()))
    })?;
    let (version, reports) = examine(path);
    if reports && std::env::var_os(SILENT_VARIABLE).is_none_or(|value| value != "1") {
        return Err(Lack {
            kind: BackendErrorKind::Unwanted,
            found: format!("{}: ONNX Runtime {version} reports how it is used to its maker", path.display()),
            remedy: format!(
                "set {SILENT_VARIABLE}=1, or install 1.28 (`cargo xtask deps onnxruntime`), which does not; `--backend cpu` \
                 needs nothing"
            ),
        });
    }
    let environment = builder.with_name("hsg").with_telemetry(false).build().map_err(|error| {
        let found = format!("{}: ONNX Runtime does not start: {error}", path.display());
        Lack::new(BackendErrorKind::NotInstalled, found)
    })?;
    Ok(Library { environment, version, path: path.to_owned() })
}

/// The version of the library that was opened as `path`, and whether it reports how it is used. One whose file cannot be
/// looked at might.
fn examine(path: &Path) -> (String, bool) {
    let file = if path.is_file() { Some(path.to_owned()) } else { mapped_file() };
    let Some(bytes) = file.and_then(|file| std::fs::read(file).ok()) else {
        return ("of unknown version".to_owned(), true);
    };
    let reports = memchr::memmem::find(&bytes, SILENT_VARIABLE.as_bytes()).is_some();
    (version(&bytes).unwrap_or_else(|| "of unknown version".to_owned()), reports)
}

/// The version of a library file: its symbols belong to a version node such as `VERS_1.28.0`.
fn version(bytes: &[u8]) -> Option<String> {
    const NODE: &[u8] = b"VERS_";
    let start = memchr::memmem::find(bytes, NODE)? + NODE.len();
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
    Some(digits.map(|&byte| char::from(byte)).collect()).filter(|version: &String| !version.is_empty())
}

/// Where the system's loader found the library.
fn mapped_file() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = |line: &str| line.find('/').map(|at| PathBuf::from(&line[at..]));
    maps.lines()
        .filter_map(path)
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(FILE_NAME)))
}

fn library() -> Result<&'static Library, BackendError> {
    let error = |Lack { kind, found, remedy }: &Lack| BackendError::new(*kind, format!("{found}; {remedy}"));
    LIBRARY.get_or_init(open).as_ref().map_err(error)
}

/// The library's version and file, or what is the matter with it.
///
/// # Errors
/// When there is none that can be used.
pub fn look() -> Result<(&'static str, &'static Path), &'static Lack> {
    LIBRARY.get_or_init(open).as_ref().map(|library| (library.version.as_str(), library.path.as_path()))
}

/// Whether a person has named the library's file.
pub fn is_named() -> bool {
    std::env::var_os(LIBRARY_VARIABLE).is_some()
}

/// Its name on the command line.
pub const NAME: &str = "onnxruntime";

/// ONNX Runtime on the CPU.
#[derive(Default)]
pub struct OnnxRuntimeBackend;

impl Backend for OnnxRuntimeBackend {
    fn probe(&self) -> Result<BackendInfo, BackendError> {
        Ok(BackendInfo { name: NAME, version: format!("ONNX Runtime {}", library()?.version), device: None })
    }

    fn load(&self, path: &Path, options: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        load(path, options, Rewriting::Allowed)
    }
}

impl OnnxRuntimeBackend {
    /// Loads a network that is executed operator by operator as the file says: no graph optimisations, so what stands
    /// between Q and DQ is computed in floats. That is how the accuracy of an int8 file is measured; it is slow.
    ///
    /// # Errors
    /// As [`Backend::load`].
    pub fn load_as_written(&self, path: &Path, options: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        load(path, options, Rewriting::Forbidden)
    }
}

/// ONNX Runtime that executes networks as their files say: [`OnnxRuntimeBackend::load_as_written`].
#[derive(Default)]
pub struct AsWritten;

impl Backend for AsWritten {
    fn probe(&self) -> Result<BackendInfo, BackendError> {
        OnnxRuntimeBackend.probe()
    }

    fn load(&self, path: &Path, options: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        OnnxRuntimeBackend.load_as_written(path, options)
    }
}

/// Whether the library may rewrite the graph.
#[derive(Clone, Copy)]
enum Rewriting {
    Allowed,
    Forbidden,
}

fn load(path: &Path, options: EngineOptions, rewriting: Rewriting) -> Result<Arc<dyn Engine>, BackendError> {
    let session = open_session(path, options, rewriting)?;
    let info = |outlets: &[ort::value::Outlet]| outlets.iter().map(tensor_info).collect::<Vec<_>>();
    let (inputs, outputs) = (info(session.inputs()), info(session.outputs()));
    Ok(Arc::new(OnnxRuntimeEngine {
        path: path.to_owned(),
        inputs,
        outputs,
        options,
        rewriting,
        first: Mutex::new(Some(session)),
    }))
}

fn open_session(path: &Path, options: EngineOptions, rewriting: Rewriting) -> Result<OrtSession, BackendError> {
    let library = library()?;
    let level = match rewriting {
        Rewriting::Allowed => GraphOptimizationLevel::All,
        Rewriting::Forbidden => GraphOptimizationLevel::Disable,
    };
    let open = || -> ort::Result<OrtSession> {
        OrtSession::builder(&library.environment)?
            .with_intra_threads(options.num_threads.max(1))?
            .with_inter_threads(1)?
            .with_optimization_level(level)?
            // Threads that wait by spinning take the cores from our own stages: small layers of a run end sooner (4 % on two
            // threads), and a frame of the pipeline later (6 to 8 %, also if they spin during a run only).
            .with_intra_op_spinning(false)?
            // It would take max pooling that we leave in floats to integers, which are pooled fifty times as slowly.
            .with_config_entry("optimization.disable_specified_optimizers", "QDQPropagationTransformer")?
            .commit_from_file(path)
    };
    open().map_err(|error| load_error(path, error))
}

fn tensor_info(outlet: &ort::value::Outlet) -> TensorInfo {
    let shape = match outlet.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => {
            shape.iter().map(|&axis| usize::try_from(axis).ok()).collect()
        }
        // Of another type: no shape that a caller could ask for.
        _ => Vec::new(),
    };
    TensorInfo { name: outlet.name().to_owned(), shape }
}

struct OnnxRuntimeEngine {
    path: PathBuf,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    options: EngineOptions,
    rewriting: Rewriting,
    /// Made to read the file; the first session that is asked for.
    first: Mutex<Option<OrtSession>>,
}

impl Engine for OnnxRuntimeEngine {
    fn path(&self) -> &Path {
        &self.path
    }

    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, BackendError> {
        // A poisoned lock only means that another thread panicked while it took a session.
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let session = match first {
            Some(session) => session,
            None => open_session(&self.path, self.options, self.rewriting)?,
        };
        Ok(Box::new(OnnxRuntimeSession { engine: self, session, asked: Vec::new(), options: None }))
    }
}

struct OnnxRuntimeSession {
    engine: Arc<OnnxRuntimeEngine>,
    session: OrtSession,
    /// Names of the outputs that `options` ask for.
    asked: Vec<String>,
    options: Option<RunOptions<HasSelectedOutputs>>,
}

impl OnnxRuntimeSession {
    /// Makes `options` those of `outputs`.
    fn ask(&mut self, outputs: &[(&str, &mut TensorBuffer)]) -> Result<(), BackendError> {
        if self.options.is_some() && self.asked.iter().map(String::as_str).eq(outputs.iter().map(|(name, _)| *name)) {
            return Ok(());
        }
        let selector = outputs.iter().fold(OutputSelector::no_default(), |selector, (name, _)| selector.with(*name));
        let options = RunOptions::new().map_err(|error| self.engine.error(error))?;
        self.options = Some(options.with_outputs(selector));
        self.asked = outputs.iter().map(|(name, _)| (*name).to_owned()).collect();
        Ok(())
    }
}

impl OnnxRuntimeEngine {
    fn error(&self, what: impl std::fmt::Display) -> BackendError {
        run_error(&self.path, what)
    }
}

impl Session for OnnxRuntimeSession {
    fn run(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: &mut [(&str, &mut TensorBuffer)],
    ) -> Result<(), BackendError> {
        let engine = Arc::clone(&self.engine);
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for &(name, shape, data) in inputs {
            check_name(&engine.path, "input", name, &engine.inputs)?;
            check_length(&engine.path, name, shape, data)?;
            let tensor = TensorRef::from_array_view((shape, data)).map_err(|error| engine.error(error))?;
            values.push((Cow::Borrowed(name), tensor.into()));
        }
        for (name, _) in outputs.iter() {
            check_name(&engine.path, "output", name, &engine.outputs)?;
        }
        self.ask(outputs)?;
        let Some(options) = &self.options else { return Err(engine.error("no output was asked for")) };
        let results =
            self.session.run_with_options(values, options).map_err(|error| run_failed(&engine.path, error, inputs))?;
        for (name, buffer) in outputs.iter_mut() {
            let value = results.get(*name).ok_or_else(|| engine.error(format!("the output `{name}` did not come")))?;
            let (shape, data) = value
                .try_extract_tensor::<f32>()
                .map_err(|_| engine.error(format!("the output `{name}` is no f32 tensor")))?;
            buffer.shape.clear();
            buffer.shape.extend(shape.iter().map(|&axis| usize::try_from(axis).unwrap_or(0)));
            buffer.data.clear();
            buffer.data.extend_from_slice(data);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_off_the_file() {
        assert_eq!(version(b"\0OrtGetApiBase\0VERS_1.28.0\0VERS_1.2\0").as_deref(), Some("1.28.0"));
        assert_eq!(version(b"VERS_"), None);
        assert_eq!(version(b"nothing"), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        std::fs::write(&path, b"VERS_1.31.1\0ORT_DISABLE_TELEMETRY\0").unwrap();
        assert_eq!(examine(&path), ("1.31.1".to_owned(), true));
        std::fs::write(&path, b"VERS_1.24.1\0").unwrap();
        assert_eq!(examine(&path), ("1.24.1".to_owned(), false));
    }
}
