//! ONNX Runtime, opened at run time: about 1.4 times as fast as the embedded backend, and what INT8 models run on.
//!
//! The library is looked for in this order: the file that `HSG_ONNXRUNTIME` names; beside the program and in `../lib`; where
//! `cargo xtask deps onnxruntime` puts it; where the system's loader looks. A program that has been linked without it starts
//! on any machine and says what is missing.
//!
//! From 1.29 on the library keeps a device id in the home folder and reports how it is used to its maker, unless the
//! variable `ORT_DISABLE_TELEMETRY` is set before it starts. Without that such a library is refused.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session as OrtSession, SessionInputValue};
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::{
    Backend, BackendError, BackendErrorKind, BackendInfo, Engine, EngineOptions, Session, TensorBuffer, TensorInfo,
    load_error,
};

/// Names the library's file.
pub const LIBRARY_VARIABLE: &str = "HSG_ONNXRUNTIME";

const FILE_NAME: &str = "libonnxruntime.so";

/// The oldest version that works: that of the interface this program is compiled for.
const OLDEST: &str = "1.17";

/// The variable that keeps the library from reporting how it is used. One that does not report does not know it.
const SILENT_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// The library can be opened once in a process, so what came of it stays.
static LIBRARY: OnceLock<Result<Library, (BackendErrorKind, String)>> = OnceLock::new();

struct Library {
    environment: Environment,
    version: String,
    path: PathBuf,
}

/// Places of the library, best first.
fn candidates() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(program) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(program.join(FILE_NAME));
        places.push(program.join("../lib").join(FILE_NAME));
    }
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/onnxruntime").join(FILE_NAME));
    places.retain(|place| place.is_file());
    // These go to the system's loader as they are.
    places.extend([FILE_NAME, "libonnxruntime.so.1"].map(PathBuf::from));
    places
}

fn open() -> Result<Library, (BackendErrorKind, String)> {
    let remedy = format!(
        "install ONNX Runtime {OLDEST} or newer (`cargo xtask deps onnxruntime` fetches it), or let {LIBRARY_VARIABLE} name \
         its {FILE_NAME}; `--backend cpu` needs nothing"
    );
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from) {
        // A file that was named is not passed over for another one.
        return open_at(&path, &remedy).map_err(|(kind, what)| (kind, format!("{LIBRARY_VARIABLE}: {what}")));
    }
    let mut reasons = Vec::new();
    for path in candidates() {
        match open_at(&path, &remedy) {
            Ok(library) => return Ok(library),
            Err((BackendErrorKind::NotInstalled, _)) if path.parent() == Some(Path::new("")) => {}
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.into_iter().next().unwrap_or_else(|| {
        (
            BackendErrorKind::NotInstalled,
            format!("ONNX Runtime is not on this machine: no {FILE_NAME} was found; {remedy}"),
        )
    }))
}

fn open_at(path: &Path, remedy: &str) -> Result<Library, (BackendErrorKind, String)> {
    let builder = ort::init_from(path).map_err(|error| {
        let error = error.to_string();
        let kind =
            if error.contains("not compatible") { BackendErrorKind::TooOld } else { BackendErrorKind::NotInstalled };
        (kind, format!("{}: expected ONNX Runtime {OLDEST} or newer: {error}; {remedy}", path.display()))
    })?;
    let failed = |error: ort::Error| {
        (BackendErrorKind::NotInstalled, format!("{}: ONNX Runtime does not start: {error}; {remedy}", path.display()))
    };
    let (version, reports) = examine(path);
    if reports && std::env::var_os(SILENT_VARIABLE).is_none_or(|value| value != "1") {
        return Err((
            BackendErrorKind::Unwanted,
            format!(
                "{}: ONNX Runtime {version} reports how it is used to its maker; set {SILENT_VARIABLE}=1, or install 1.28 \
                 (`cargo xtask deps onnxruntime`), which does not; `--backend cpu` needs nothing",
                path.display()
            ),
        ));
    }
    let environment = builder.with_name("hsg").with_telemetry(false).build().map_err(failed)?;
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
    LIBRARY.get_or_init(open).as_ref().map_err(|(kind, what)| BackendError::new(*kind, what.clone()))
}

/// Whether a person has named the library's file.
pub(super) fn is_named() -> bool {
    std::env::var_os(LIBRARY_VARIABLE).is_some()
}

/// ONNX Runtime on the CPU.
#[derive(Default)]
pub struct OnnxRuntimeBackend;

impl OnnxRuntimeBackend {
    /// The library's file, as it was found.
    ///
    /// # Errors
    /// As [`Backend::probe`].
    pub fn library_path() -> Result<&'static Path, BackendError> {
        Ok(&library()?.path)
    }
}

impl Backend for OnnxRuntimeBackend {
    fn probe(&self) -> Result<BackendInfo, BackendError> {
        Ok(BackendInfo { name: "onnxruntime", version: format!("ONNX Runtime {}", library()?.version), device: None })
    }

    fn load(&self, path: &Path, options: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        let session = open_session(path, options)?;
        let info = |outlets: &[ort::value::Outlet]| outlets.iter().map(tensor_info).collect::<Vec<_>>();
        let (inputs, outputs) = (info(session.inputs()), info(session.outputs()));
        Ok(Arc::new(OnnxRuntimeEngine {
            path: path.to_owned(),
            inputs,
            outputs,
            options,
            first: Mutex::new(Some(session)),
        }))
    }
}

fn open_session(path: &Path, options: EngineOptions) -> Result<OrtSession, BackendError> {
    let library = library()?;
    let open = || -> ort::Result<OrtSession> {
        OrtSession::builder(&library.environment)?
            .with_intra_threads(options.num_threads.max(1))?
            .with_inter_threads(1)?
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
            None => open_session(&self.path, self.options)?,
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
        BackendError::new(BackendErrorKind::Run, format!("{}: {what}", self.path.display()))
    }

    fn check_name(&self, name: &str, kind: &str, known: &[TensorInfo]) -> Result<(), BackendError> {
        if known.iter().any(|tensor| tensor.name == name) {
            return Ok(());
        }
        let names: Vec<&str> = known.iter().map(|tensor| tensor.name.as_str()).collect();
        Err(self.error(format!("there is no {kind} `{name}`, only {}", names.join(", "))))
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
            engine.check_name(name, "input", &engine.inputs)?;
            let expected = shape.iter().product::<usize>();
            if expected != data.len() {
                let got = data.len();
                return Err(engine
                    .error(format!("the input `{name}` has {got} values, expected {expected} for shape {shape:?}")));
            }
            let tensor = TensorRef::from_array_view((shape, data)).map_err(|error| engine.error(error))?;
            values.push((Cow::Borrowed(name), tensor.into()));
        }
        for (name, _) in outputs.iter() {
            engine.check_name(name, "output", &engine.outputs)?;
        }
        self.ask(outputs)?;
        let Some(options) = &self.options else { return Err(engine.error("no output was asked for")) };
        let shapes = || -> String {
            let shapes: Vec<String> = inputs.iter().map(|(name, shape, _)| format!("`{name}` {shape:?}")).collect();
            shapes.join(", ")
        };
        let results = self
            .session
            .run_with_options(values, options)
            .map_err(|error| engine.error(format!("the run failed: {error}; inputs were {}", shapes())))?;
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
