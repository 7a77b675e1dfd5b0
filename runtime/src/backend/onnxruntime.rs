//! ONNX Runtime, opened at run time: about 1.4 times as fast as the embedded backend, and what INT8 models run on.
//!
//! The library is looked for in this order: the file that `HSG_ONNXRUNTIME` names; beside the program and in `../lib`; where
//! `cargo xtask deps onnxruntime` puts it; where the system's loader looks. A program that has been linked without it starts
//! on any machine and says what is missing.

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
    let environment = builder.with_name("hsg").with_telemetry(false).build().map_err(failed)?;
    Ok(Library { environment, version: version(ort::info()), path: path.to_owned() })
}

/// `1.31.1` out of what the library says about its build, or all of it.
fn version(info: &str) -> String {
    // ORT Build Info: git-branch=rel-1.31.1, git-commit-id=…
    let branch = info.split("git-branch=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or(info);
    branch.trim_start_matches("rel-").trim().to_owned()
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
    fn the_version_is_read_off_the_build() {
        assert_eq!(version("ORT Build Info: git-branch=rel-1.31.1, git-commit-id=ab, build type=Release"), "1.31.1");
        assert_eq!(version("something else"), "something else");
    }
}
