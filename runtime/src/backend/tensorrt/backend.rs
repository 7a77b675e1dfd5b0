//! The backend: engines out of the cache, or built; sessions with device memory of their own.
//!
//! A session's inputs and outputs are in the caller's memory; they are copied to page-locked memory and from there to the GPU
//! and back, on the session's own stream, which is waited for once a run. Nothing is allocated after it is made.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use models::manifest::{ModelFolder, Precision};
use tensorrt_sys::{Build, BuildProgress, Context, Engine as TensorRtObject, InputRange, LogRecording, Runtime};

use super::cache::{Cached, EngineCache, cache_folder};
use super::engine_file::{self, BuildRecord, Identity, layers_of};
use super::found::{Ready, ready};
use super::network::{PreparedNetwork, prepare};
use super::timings::TimingFile;
use super::{BuildEvent, BuildOptions, BuildWatch, BuiltEngine, LogWatch, identity_of};
use crate::backend::cuda::{Cuda, Noise, StagedBuffer, noise};
use crate::backend::{
    Backend, BackendError, BackendErrorKind, BackendInfo, Engine, EngineOptions, NetworkKind, NetworkSource, Session,
    TensorBuffer, TensorInfo, check_length, check_name, run_error, run_failed,
};

/// TensorRT on the first GPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct TensorRtBackend;

fn ready_or_error() -> Result<&'static Ready, BackendError> {
    ready().map_err(BackendError::from)
}

/// One runtime for the process, as TensorRT wants it.
fn runtime(ready: &Ready) -> Result<Arc<Runtime>, BackendError> {
    static RUNTIME: OnceLock<Result<Arc<Runtime>, tensorrt_sys::Error>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| Runtime::new(ready.library, ready.cuda))
        .clone()
        .map_err(|error| BackendError::new(BackendErrorKind::Load, format!("TensorRT does not start: {error}")))
}

impl Backend for TensorRtBackend {
    fn probe(&self) -> Result<BackendInfo, BackendError> {
        let found = &ready_or_error()?.found;
        Ok(BackendInfo {
            name: "tensorrt",
            version: format!("TensorRT {}", found.version),
            device: Some(found.gpu.name.clone()),
        })
    }

    fn makes_precisions(&self) -> bool {
        true
    }

    fn load(&self, path: &Path, _: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        Err(BackendError::new(
            BackendErrorKind::Load,
            format!("{}: the backend tensorrt loads networks of model folders only", path.display()),
        ))
    }

    fn load_network(&self, source: &NetworkSource<'_>, _: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        load_watched(source, &LogWatch::default())
    }
}

/// Loads a network's engine, built first if need be, with somebody watching.
///
/// # Errors
/// As [`Backend::load_network`], and when stopped.
pub fn load_watched(source: &NetworkSource<'_>, watch: &dyn BuildWatch) -> Result<Arc<dyn Engine>, BackendError> {
    let ready = ready_or_error()?;
    let major = ready.library.version().major;
    let network = prepare(source.folder, source.kind, source.precision, major)?.for_batches(source.max_batch);
    if source.kind == NetworkKind::Embedding && source.max_batch > 1 && !network.takes_batches {
        watch.event(BuildEvent::Line(format!(
            "{}: its network takes one frame at a time, so streams are not batched; export the model again",
            network.source.display()
        )));
    }
    let identity = identity_of(source.folder, source.kind, &network, &ready.found, false);
    let options = BuildOptions { max_batch: source.max_batch, ..BuildOptions::default() };
    let cached = obtain(ready, &identity, &network, &options, watch)?;
    // What the driver refuses is not the engine's fault: no reason to build another one.
    let cuda = gpu()?;
    match load_engine(ready, cuda, &network.source, &cached.engine) {
        // TensorRT knows best what it can load, but where memory is full a build would not fit either.
        Err(error) if !cached.is_new && is_about_memory(&error) => Err(BackendError::new(
            BackendErrorKind::Load,
            format!("{error}; if the GPU's memory is full, end other programs that use it"),
        )),
        Err(error) if !cached.is_new => {
            watch.event(BuildEvent::Line(format!("{error}; building it again")));
            let options = BuildOptions { again: true, ..options };
            let cached = obtain(ready, &identity, &network, &options, watch)?;
            load_engine(ready, gpu()?, &network.source, &cached.engine)
        }
        outcome => outcome,
    }
}

/// The GPU, its context the current one of this thread.
fn gpu() -> Result<Cuda, BackendError> {
    let cuda = Cuda::without_kernels()?;
    cuda.make_current()?;
    Ok(cuda)
}

/// TensorRT says what is the matter in words alone ("OutOfMemory", "out of memory").
fn is_about_memory(error: &BackendError) -> bool {
    let words = error.to_string().to_ascii_lowercase();
    words.contains("out of memory") || words.contains("outofmemory")
}

fn stopped(network: &PreparedNetwork) -> BackendError {
    BackendError::new(BackendErrorKind::Run, format!("{}: building its engine was stopped", network.source.display()))
}

/// Builds the engines of a model, or finds them built.
///
/// # Errors
/// When TensorRT cannot be used or refuses, when the model lacks what is asked for, and when an engine cannot be written.
pub fn build(
    folder: &ModelFolder,
    precision: Precision,
    options: &BuildOptions,
    watch: &dyn BuildWatch,
) -> Result<Vec<BuiltEngine>, BackendError> {
    let ready = ready_or_error()?;
    let cache = EngineCache::open()?;
    let mut built = Vec::new();
    for kind in NetworkKind::ALL {
        let network = prepare(folder, kind, precision, ready.library.version().major)?.for_batches(options.max_batch);
        let identity = identity_of(folder, kind, &network, &ready.found, options.hardware_compatible);
        if network.precision != precision {
            let line = format!("the model has no {kind} network in {precision}: it is built in {}", network.precision);
            watch.event(BuildEvent::Line(line));
        }
        let cached = obtain(ready, &identity, &network, options, watch)?;
        if let Some(why) = cached.unsaved {
            return Err(BackendError::new(BackendErrorKind::Load, format!("the engine was built and is lost: {why}")));
        }
        let path = cache.path(&cached.manifest.identity);
        built.push(BuiltEngine { path, is_new: cached.is_new, manifest: cached.manifest });
    }
    Ok(built)
}

/// Layers of an engine file as TensorRT tells them (its JSON).
///
/// # Errors
/// When it cannot be loaded here.
pub fn layers(path: &Path) -> Result<String, BackendError> {
    let ready = ready_or_error()?;
    let (_, engine) = engine_file::read(path)?;
    let words = |error: tensorrt_sys::Error| load_refused(path, &error);
    // SAFETY: the file's hash shows that these are the bytes that TensorRT wrote.
    let engine = unsafe { runtime(ready)?.load(&engine) }.map_err(words)?;
    engine.layers_json().map_err(words)
}

fn load_refused(path: &Path, error: &tensorrt_sys::Error) -> BackendError {
    BackendError::new(
        BackendErrorKind::Load,
        format!(
            "{}: TensorRT does not load its engine: {error}; build it again with `hsg build --force`",
            path.display()
        ),
    )
}

fn obtain(
    ready: &Ready,
    identity: &Identity,
    network: &PreparedNetwork,
    options: &BuildOptions,
    watch: &dyn BuildWatch,
) -> Result<Cached, BackendError> {
    let cached = EngineCache::open()?.get_or_build(
        identity,
        options.again,
        &|line| watch.event(BuildEvent::Line(line.to_owned())),
        &|| watch.is_stopped(),
        &mut || build_engine(ready, identity, network, options, watch),
    )?;
    if let Some(why) = &cached.unsaved {
        watch.event(BuildEvent::Line(format!("the engine is used now but not kept: {why}")));
    }
    Ok(cached)
}

/// One build at a time: they take all of the GPU, and TensorRT's log is one for the process.
static BUILDING: Mutex<()> = Mutex::new(());

fn build_engine(
    ready: &Ready,
    identity: &Identity,
    network: &PreparedNetwork,
    options: &BuildOptions,
    watch: &dyn BuildWatch,
) -> Result<(Vec<u8>, BuildRecord), BackendError> {
    // Poisoned only if a build panicked: the next one starts afresh.
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if watch.is_stopped() {
        return Err(stopped(network));
    }
    if let Some(why) = &ready.found.cannot_build {
        return Err(BackendError::new(BackendErrorKind::Load, why.clone()));
    }
    let timing_path = match &options.timing_cache {
        Some(path) => path.clone(),
        None => timing_cache_path(&ready.found)?,
    };
    let timings = TimingFile::read(timing_path, |line| watch.event(BuildEvent::Line(line)));
    let ranges: Vec<InputRange> = network
        .shapes
        .iter()
        .map(|(input, range)| InputRange {
            input: input.clone(),
            least: range.least.clone(),
            best: range.best.clone(),
            most: range.most.clone(),
        })
        .collect();
    let spec = Build {
        onnx: &network.onnx,
        fp16: network.precision != Precision::Fp32,
        int8: network.precision == Precision::Int8,
        hardware_compatible: identity.hardware_compatible,
        workspace_bytes: options.workspace_mebibytes.map(|mebibytes| mebibytes << 20),
        timing_cache: timings.bytes(),
        ranges: &ranges,
    };
    let start = Instant::now();
    let recording = LogRecording::begin();
    let mut phase_steps = (String::new(), 0);
    // From the end of the build until its timings are written.
    let mut update = None;
    let mut newer_timings = || {
        let begun = timings.begin_update();
        let newer = begun.as_ref().map(|update| update.newer().to_vec()).unwrap_or_default();
        update = Some(begun);
        newer
    };
    let mut progress = |progress: BuildProgress<'_>| {
        match progress {
            BuildProgress::Begin { phase, steps, .. } => phase_steps = (phase.to_owned(), steps),
            BuildProgress::Step { phase, done } => {
                let steps = if phase_steps.0 == phase { phase_steps.1 } else { 0 };
                watch.event(BuildEvent::Progress { phase: phase.to_owned(), done: done + 1, steps });
            }
            BuildProgress::End { .. } => {}
        }
        !watch.is_stopped()
    };
    let built = ready.library.build(&spec, ready.cuda, &mut progress, &mut newer_timings);
    let log = recording.finish();
    let built = built.map_err(|error| {
        let (source, of) = (network.source.display(), &identity.network);
        if watch.is_stopped() {
            return stopped(network);
        }
        BackendError::new(
            BackendErrorKind::Load,
            format!(
                "{source}: TensorRT {} builds no engine of the {of} network in {}: {error}; give it more memory \
                 (--workspace-mib, end other programs on the GPU), or use another --precision",
                identity.tensorrt, identity.precision
            ),
        )
    })?;
    if !built.timing_cache.is_empty()
        && let Some(Err(error)) = update.map(|update| update.and_then(|update| update.write(&built.timing_cache)))
    {
        watch.event(BuildEvent::Line(format!("timings are not kept, the next build takes as long: {error}")));
    }
    // 8.6 cannot be stopped while it builds; what it made is kept, and the next one is not begun.
    // Loaded once: an engine that TensorRT does not load again is not worth keeping.
    // SAFETY: these are the bytes that TensorRT just made.
    let engine =
        unsafe { runtime(ready)?.load(&built.engine) }.map_err(|error| load_refused(&network.source, &error))?;
    let record = BuildRecord {
        unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        seconds: start.elapsed().as_secs_f64(),
        hsg: env!("CARGO_PKG_VERSION").to_owned(),
        driver: ready.found.driver.clone(),
        workspace_bytes: spec.workspace_bytes,
        activation_bytes: engine.activation_bytes(),
        layers: engine.layers_json().map(|text| layers_of(&text)).unwrap_or_default(),
        log,
    };
    Ok((built.engine, record))
}

fn timing_cache_path(found: &super::Found) -> Result<PathBuf, BackendError> {
    let plain: String = found.gpu.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(cache_folder()?.join(format!("engines/timing-{}-{plain}.cache", found.version)))
}

/// A loaded engine.
pub struct TensorRtEngine {
    pub(super) path: PathBuf,
    pub(super) object: Arc<TensorRtObject>,
    pub(super) tensors: Vec<tensorrt_sys::Tensor>,
    pub(super) inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    /// Keeps the device's context, in which the weights are; ends after them.
    _cuda: Mutex<Cuda>,
}

/// The engine's weights go to the current context, which is that of `cuda`.
fn load_engine(ready: &Ready, cuda: Cuda, path: &Path, engine: &[u8]) -> Result<Arc<dyn Engine>, BackendError> {
    let _noise = noise();
    let words = |error: tensorrt_sys::Error| load_refused(path, &error);
    // SAFETY: the bytes came from a file whose hash was checked, or from the builder just now.
    let object = unsafe { runtime(ready)?.load(engine) }.map_err(words)?;
    let tensors = object.tensors().map_err(words)?;
    if let Some(tensor) = tensors.iter().find(|tensor| !tensor.is_float) {
        let what = format!("the tensor `{}` is not in 32-bit floats", tensor.name);
        return Err(run_error(path, what));
    }
    let infos = |is_input: bool| {
        let of_kind = tensors.iter().filter(|tensor| tensor.is_input == is_input);
        of_kind.map(|tensor| TensorInfo { name: tensor.name.clone(), shape: tensor.shape.clone() }).collect()
    };
    let (inputs, outputs) = (infos(true), infos(false));
    Ok(Arc::new(TensorRtEngine { path: path.to_owned(), object, tensors, inputs, outputs, _cuda: Mutex::new(cuda) }))
}

impl Engine for TensorRtEngine {
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
        TensorRtSession::new(self).map(|session| Box::new(session) as Box<dyn Session>)
    }

    fn on_gpu(self: Arc<Self>) -> Option<Arc<TensorRtEngine>> {
        Some(self)
    }
}

/// A tensor of a session: its memory on the device.
struct Slot {
    name: CString,
    is_input: bool,
    memory: StagedBuffer,
    /// Room, values.
    capacity: usize,
    /// Of the last run.
    shape: Vec<usize>,
}

/// Fields end in order: the context before the memory that it uses, that before CUDA.
struct TensorRtSession {
    context: Context,
    slots: Vec<Slot>,
    engine: Arc<TensorRtEngine>,
    cuda: Cuda,
    /// Last, so that it covers the end of all others.
    _leaving: Option<Noise>,
}

impl TensorRtSession {
    fn new(engine: Arc<TensorRtEngine>) -> Result<Self, BackendError> {
        let _noise = noise();
        let cuda = Cuda::without_kernels()?;
        cuda.make_current()?;
        let words = |error: tensorrt_sys::Error| run_error(&engine.path, format!("no session: {error}"));
        // SAFETY: the stream is of the context that was just made current.
        let mut context = unsafe { engine.object.context(cuda.stream()) }.map_err(words)?;
        let name = |tensor: &tensorrt_sys::Tensor| {
            CString::new(tensor.name.as_str()).map_err(|_| run_error(&engine.path, "a name with a zero byte"))
        };
        // With the largest inputs the outputs are largest: room for those, once. A session runs for one frame at a time.
        for tensor in engine.tensors.iter().filter(|tensor| tensor.is_input) {
            context.set_shape(&name(tensor)?, &largest_of_one(tensor)).map_err(words)?;
        }
        let mut slots = Vec::with_capacity(engine.tensors.len());
        for tensor in &engine.tensors {
            let name = name(tensor)?;
            let mut shape = Vec::new();
            if tensor.is_input {
                shape = largest_of_one(tensor);
            } else {
                context.shape(&name, &mut shape).map_err(words)?;
            }
            let capacity = shape.iter().product::<usize>();
            let memory = cuda.stage(capacity * size_of::<f32>())?;
            // SAFETY: device memory with room for the largest tensor; it lives as long as the session, whose context ends
            // before it.
            unsafe { context.set_address(&name, memory.address()) }.map_err(words)?;
            slots.push(Slot { name, is_input: tensor.is_input, memory, capacity, shape });
        }
        Ok(Self { context, slots, engine, cuda, _leaving: None })
    }
}

impl Drop for TensorRtSession {
    fn drop(&mut self) {
        // What a failed run began must end before its memory goes. A lost device leaves nothing to be done.
        let _ = self.cuda.synchronize();
        self._leaving = Some(noise());
    }
}

impl Session for TensorRtSession {
    fn run(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: &mut [(&str, &mut TensorBuffer)],
    ) -> Result<(), BackendError> {
        let engine = Arc::clone(&self.engine);
        let path = engine.path.as_path();
        let begun = self.begin(inputs, outputs);
        // Waited for in any case: the next run writes into the same memory.
        let ended = self.cuda.synchronize();
        // TensorRT's own words do not tell that the device is lost, which is why it failed then.
        if let Err(lost) = &ended
            && lost.kind() == BackendErrorKind::DeviceLost
        {
            return Err(BackendError::new(BackendErrorKind::DeviceLost, format!("{}: {lost}", path.display())));
        }
        begun?;
        ended.map_err(|error| run_failed(path, error, inputs))?;
        for (name, buffer) in outputs.iter_mut() {
            let slot = find(&mut self.slots, false, name).ok_or_else(|| lost(path, "output", name))?;
            let values = slot.shape.iter().product::<usize>();
            buffer.shape.clear();
            buffer.shape.extend_from_slice(&slot.shape);
            buffer.data.clear();
            buffer.data.resize(values, 0.0);
            bytemuck::cast_slice_mut(&mut buffer.data)
                .copy_from_slice(&slot.memory.host()[..values * size_of::<f32>()]);
        }
        Ok(())
    }
}

fn find<'a>(slots: &'a mut [Slot], is_input: bool, name: &str) -> Option<&'a mut Slot> {
    slots.iter_mut().find(|slot| slot.is_input == is_input && slot.name.to_bytes() == name.as_bytes())
}

fn lost(path: &Path, kind: &str, name: &str) -> BackendError {
    run_error(path, format!("the {kind} `{name}` is lost"))
}

impl TensorRtSession {
    /// Starts copies and network; they are under way when this returns, also when it fails.
    fn begin(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: &[(&str, &mut TensorBuffer)],
    ) -> Result<(), BackendError> {
        let Self { context, slots, engine, cuda, .. } = self;
        let path = engine.path.as_path();
        cuda.make_current()?;
        if let Some(missing) = engine.inputs.iter().find(|known| !inputs.iter().any(|(name, ..)| *name == known.name)) {
            return Err(run_error(path, format!("the input `{}` was not given", missing.name)));
        }
        for &(name, shape, data) in inputs {
            check_name(path, "input", name, &engine.inputs)?;
            check_length(path, name, shape, data)?;
            check_profile(path, name, shape, &engine.tensors)?;
            let slot = find(slots, true, name).ok_or_else(|| lost(path, "input", name))?;
            if slot.shape != shape {
                context.set_shape(&slot.name, shape).map_err(|error| run_error(path, error))?;
                slot.shape.clear();
                slot.shape.extend_from_slice(shape);
            }
            let bytes: &[u8] = bytemuck::cast_slice(data);
            if data.len() > slot.capacity {
                let what = format!("the input `{name}` has {} values, there is room for {}", data.len(), slot.capacity);
                return Err(run_error(path, what));
            }
            slot.memory.host_mut()[..bytes.len()].copy_from_slice(bytes);
            // SAFETY: `run` waits for the stream before anybody touches the host's side again; `drop` does, too.
            unsafe { cuda.begin_upload(&slot.memory, bytes.len()) }?;
        }
        for (name, _) in outputs {
            check_name(path, "output", name, &engine.outputs)?;
        }
        for slot in slots.iter_mut().filter(|slot| !slot.is_input) {
            context.shape(&slot.name, &mut slot.shape).map_err(|error| run_error(path, error))?;
            let values = slot.shape.iter().product::<usize>();
            if values > slot.capacity {
                let name = slot.name.to_string_lossy();
                let what = format!("the output `{name}` has {values} values, there is room for {}", slot.capacity);
                return Err(run_error(path, what));
            }
        }
        // SAFETY: every tensor got memory with room for it when the session was made; the stream is this session's.
        unsafe { context.enqueue(cuda.stream()) }.map_err(|error| run_failed(path, error, inputs))?;
        for (name, _) in outputs {
            let slot = find(slots, false, name).ok_or_else(|| lost(path, "output", name))?;
            let num_bytes = slot.shape.iter().product::<usize>() * size_of::<f32>();
            // SAFETY: as above.
            unsafe { cuda.begin_download(&mut slot.memory, num_bytes) }?;
        }
        Ok(())
    }
}

/// The largest shape of an input for one frame, whatever the engine takes at once.
fn largest_of_one(tensor: &tensorrt_sys::Tensor) -> Vec<usize> {
    let mut shape = tensor.most.clone();
    if let (Some(frames), Some(&least)) = (shape.first_mut(), tensor.least.first()) {
        *frames = least;
    }
    shape
}

/// Refuses a shape that the engine was not built for.
pub(super) fn check_profile(
    path: &Path,
    name: &str,
    shape: &[usize],
    tensors: &[tensorrt_sys::Tensor],
) -> Result<(), BackendError> {
    let Some(tensor) = tensors.iter().find(|tensor| tensor.is_input && tensor.name == name) else { return Ok(()) };
    let fits = shape.len() == tensor.most.len()
        && shape.iter().zip(tensor.least.iter().zip(&tensor.most)).all(|(n, (least, most))| least <= n && n <= most);
    if fits {
        return Ok(());
    }
    let what = format!(
        "the input `{name}` has the shape {shape:?}, its engine takes {:?} to {:?}; the engine serves frames up to the \
         model's input size: let model.toml have a larger one and build again",
        tensor.least, tensor.most
    );
    Err(run_error(path, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_outside_the_profile_are_refused_with_both() {
        let tensor = tensorrt_sys::Tensor {
            name: "image".into(),
            is_input: true,
            is_float: true,
            shape: vec![Some(1), Some(3), None, None],
            least: vec![1, 3, 8, 8],
            most: vec![1, 3, 360, 480],
        };
        let check = |shape: &[usize]| check_profile(Path::new("a.onnx"), "image", shape, std::slice::from_ref(&tensor));
        for shape in [[1, 3, 8, 8], [1, 3, 360, 480], [1, 3, 272, 480]] {
            assert!(check(&shape).is_ok());
        }
        for shape in [&[1, 3, 368, 480][..], &[1, 3, 360, 488], &[2, 3, 360, 480], &[1, 3, 0, 8], &[1, 3, 360]] {
            let error = check(shape).unwrap_err();
            assert_eq!(error.kind(), BackendErrorKind::Run);
            let text = error.to_string();
            assert!(text.contains(&format!("{shape:?}")) && text.contains("[1, 3, 360, 480]"), "{text}");
        }
    }
}
