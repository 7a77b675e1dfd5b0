//! TensorRT's objects, owned: each holds the one that it came from, so they end in order.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::library::Library;
use crate::log_lines::Call;
use crate::raw::{self, Dims, ERROR_BYTES, MAX_DIMS};

/// TensorRT refused something: its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// What the shim wrote, and what TensorRT logged about the call.
    fn told(buffer: &[c_char; ERROR_BYTES], call: &Call) -> Self {
        // SAFETY: the shim ends its words with zero within the buffer, which began as zeros.
        let words = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned();
        let words = if words.is_empty() { "TensorRT failed without a word".to_owned() } else { words };
        match call.errors() {
            logged if logged.is_empty() => Self(words),
            logged => Self(format!("{words} ({logged})")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Calls a function of the shim that returns 0 for success.
fn checked(call: impl FnOnce(*mut c_char) -> i32) -> Result<(), Error> {
    checked_within(&Call::begin(), call)
}

fn checked_within(within: &Call, call: impl FnOnce(*mut c_char) -> i32) -> Result<(), Error> {
    let mut buffer = [0; ERROR_BYTES];
    if call(buffer.as_mut_ptr()) == 0 { Ok(()) } else { Err(Error::told(&buffer, within)) }
}

/// The same for one that returns an object.
fn made(call: impl FnOnce(*mut c_char) -> *mut c_void) -> Result<NonNull<c_void>, Error> {
    let mut buffer = [0; ERROR_BYTES];
    let within = Call::begin();
    NonNull::new(call(buffer.as_mut_ptr())).ok_or_else(|| Error::told(&buffer, &within))
}

/// The same for one that cannot fail. What TensorRT logs all the same is about no other call.
fn plain<T>(call: impl FnOnce() -> T) -> T {
    let _within = Call::begin();
    call()
}

/// Shows that the CUDA driver has been started in this process. Without it TensorRT crashes when its first object is made.
#[derive(Clone, Copy, Debug)]
pub struct CudaReady(());

impl CudaReady {
    /// Says so.
    ///
    /// # Safety
    /// `cuInit` must have returned success in this process.
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

/// `IRuntime`: loads engines.
#[derive(Debug)]
pub struct Runtime {
    pointer: NonNull<c_void>,
}

// SAFETY: TensorRT documents IRuntime, ICudaEngine and IExecutionContext as usable from any thread; a context by one thread
// at a time, which `&mut self` sees to.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

impl Runtime {
    /// Makes one.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub fn new(library: &'static Library, _: CudaReady) -> Result<Arc<Self>, Error> {
        // SAFETY: the address is that of createInferRuntime_INTERNAL of a library whose major version is the headers', and
        // the driver has been started.
        let pointer = made(|error| unsafe { raw::hsg_trt_runtime_new(library.create_runtime(), error) })?;
        Ok(Arc::new(Self { pointer }))
    }

    /// Loads an engine from the bytes that [`Library::build`] made.
    ///
    /// TensorRT checks that an engine belongs to its version and this GPU, but trusts the bytes otherwise.
    ///
    /// # Safety
    /// The bytes must be an engine as TensorRT wrote it, unchanged: a hash is what shows that.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub unsafe fn load(self: &Arc<Self>, engine: &[u8]) -> Result<Arc<Engine>, Error> {
        // SAFETY: the runtime is alive; the bytes are the caller's promise and outlive the call, which copies them.
        let pointer = made(|error| unsafe {
            raw::hsg_trt_engine_new(self.pointer.as_ptr(), engine.as_ptr().cast(), engine.len(), error)
        })?;
        Ok(Arc::new(Engine { pointer, _runtime: Arc::clone(self) }))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once; every engine holds the runtime, so none is left.
        plain(|| unsafe { raw::hsg_trt_runtime_delete(self.pointer.as_ptr()) })
    }
}

/// An input or output of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Input or output.
    pub is_input: bool,
    /// Whether its values are 32-bit floats.
    pub is_float: bool,
    /// Its axes; none = varies.
    pub shape: Vec<Option<usize>>,
    /// Of inputs: the least shape that the engine takes.
    pub least: Vec<usize>,
    /// Of inputs: the largest.
    pub most: Vec<usize>,
}

/// `ICudaEngine`.
#[derive(Debug)]
pub struct Engine {
    pointer: NonNull<c_void>,
    /// Ends after the engine.
    _runtime: Arc<Runtime>,
}

// SAFETY: as for `Runtime`.
unsafe impl Send for Engine {}
// SAFETY: as above.
unsafe impl Sync for Engine {}

impl Engine {
    /// Inputs and outputs.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub fn tensors(&self) -> Result<Vec<Tensor>, Error> {
        // SAFETY: the engine is alive.
        let count = plain(|| unsafe { raw::hsg_trt_engine_num_tensors(self.pointer.as_ptr()) });
        (0..count).map(|index| self.tensor(index)).collect()
    }

    fn tensor(&self, index: i32) -> Result<Tensor, Error> {
        let mut found = raw::Tensor {
            name: ptr::null(),
            is_input: 0,
            is_float: 0,
            dims: Dims::default(),
            least: Dims::default(),
            most: Dims::default(),
        };
        // SAFETY: the engine is alive, `found` outlives the call.
        checked(|error| unsafe { raw::hsg_trt_engine_tensor(self.pointer.as_ptr(), index, &mut found, error) })?;
        // SAFETY: success means that the name is a string that lives as long as the engine.
        let name = unsafe { CStr::from_ptr(found.name) }.to_string_lossy().into_owned();
        let lengths = |dims: &Dims| dims.lengths[..usize::try_from(dims.count).unwrap_or(0).min(MAX_DIMS)].to_vec();
        let axis = |length: i64| usize::try_from(length).ok();
        Ok(Tensor {
            name,
            is_input: found.is_input != 0,
            is_float: found.is_float != 0,
            shape: lengths(&found.dims).into_iter().map(axis).collect(),
            least: lengths(&found.least).into_iter().filter_map(axis).collect(),
            most: lengths(&found.most).into_iter().filter_map(axis).collect(),
        })
    }

    /// Device memory that each [`Context`] takes for values in between; weights, inputs and outputs are not in it.
    pub fn activation_bytes(&self) -> u64 {
        // SAFETY: the engine is alive.
        u64::try_from(plain(|| unsafe { raw::hsg_trt_engine_activation_bytes(self.pointer.as_ptr()) })).unwrap_or(0)
    }

    /// Layers and their precisions as TensorRT's own JSON.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub fn layers_json(&self) -> Result<String, Error> {
        let mut received = Received::default();
        let to = ptr::from_mut(&mut received).cast();
        // SAFETY: the engine is alive; `receive` gets the pointer that it expects, which outlives the call.
        checked(|error| unsafe { raw::hsg_trt_engine_layers(self.pointer.as_ptr(), receive, to, error) })?;
        Ok(String::from_utf8_lossy(&received.text).into_owned())
    }

    /// A context with memory of its own, on the current CUDA context.
    ///
    /// # Safety
    /// `stream` must be a stream of the current CUDA context.
    ///
    /// # Errors
    /// In TensorRT's words; most often the GPU's memory is full.
    pub unsafe fn context(self: &Arc<Self>, stream: *mut c_void) -> Result<Context, Error> {
        // SAFETY: the engine is alive; the stream is the caller's promise.
        let pointer = made(|error| unsafe { raw::hsg_trt_context_new(self.pointer.as_ptr(), stream, error) })?;
        Ok(Context { pointer, _engine: Arc::clone(self) })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: made in `Runtime::load`, destroyed once; every context holds the engine, so none is left.
        plain(|| unsafe { raw::hsg_trt_engine_delete(self.pointer.as_ptr()) })
    }
}

/// `IExecutionContext`: runs an engine, one thread at a time.
#[derive(Debug)]
pub struct Context {
    pointer: NonNull<c_void>,
    /// Ends after the context.
    _engine: Arc<Engine>,
}

// SAFETY: may move between threads; `&mut self` keeps it to one at a time.
unsafe impl Send for Context {}

impl Context {
    /// Sets the shape of an input.
    ///
    /// # Errors
    /// In TensorRT's words, for one outside the profile too.
    pub fn set_shape(&mut self, input: &CStr, shape: &[usize]) -> Result<(), Error> {
        let dims = dims(shape)?;
        // SAFETY: the context is alive; name and shape outlive the call.
        checked(|error| unsafe { raw::hsg_trt_context_set_shape(self.pointer.as_ptr(), input.as_ptr(), &dims, error) })
    }

    /// The shape of a tensor after the inputs' have been set; an axis that cannot be told is an error.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub fn shape(&self, tensor: &CStr, into: &mut Vec<usize>) -> Result<(), Error> {
        let mut found = Dims::default();
        // SAFETY: the context is alive; name and dims outlive the call.
        checked(|error| unsafe {
            raw::hsg_trt_context_shape(self.pointer.as_ptr(), tensor.as_ptr(), &mut found, error)
        })?;
        into.clear();
        for &length in &found.lengths[..usize::try_from(found.count).unwrap_or(0).min(MAX_DIMS)] {
            into.push(usize::try_from(length).map_err(|_| Error::new("the shape of an output depends on its values"))?);
        }
        Ok(())
    }

    /// Sets the device memory of a tensor.
    ///
    /// # Safety
    /// `address` must be device memory of the current CUDA context with room for the tensor, until the last
    /// [`Context::enqueue`] has ended or another address is set.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub unsafe fn set_address(&mut self, tensor: &CStr, address: u64) -> Result<(), Error> {
        let address = usize::try_from(address).map_err(|_| Error::new("an address beyond this machine's"))?;
        // SAFETY: the context is alive; the memory is the caller's promise.
        checked(|error| unsafe {
            raw::hsg_trt_context_set_address(
                self.pointer.as_ptr(),
                tensor.as_ptr(),
                ptr::without_provenance_mut(address),
                error,
            )
        })
    }

    /// Starts the network on a stream.
    ///
    /// # Safety
    /// Every input and output must have an address as [`Context::set_address`] wants it, and `stream` be a stream of the
    /// current CUDA context.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub unsafe fn enqueue(&mut self, stream: *mut c_void) -> Result<(), Error> {
        // SAFETY: the context is alive; memory and stream are the caller's promise.
        checked(|error| unsafe { raw::hsg_trt_context_enqueue(self.pointer.as_ptr(), stream, error) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made in `Engine::context`, destroyed once.
        plain(|| unsafe { raw::hsg_trt_context_delete(self.pointer.as_ptr()) })
    }
}

fn dims(shape: &[usize]) -> Result<Dims, Error> {
    let mut dims = Dims::default();
    if shape.len() > MAX_DIMS {
        return Err(Error::new(format!("{} axes, at most {MAX_DIMS} are possible", shape.len())));
    }
    dims.count = shape.len() as i32;
    for (to, &length) in dims.lengths.iter_mut().zip(shape) {
        *to = i64::try_from(length).map_err(|_| Error::new(format!("an axis of length {length}")))?;
    }
    Ok(dims)
}

/// Shapes of an input that varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRange {
    /// Its name.
    pub input: String,
    /// The least.
    pub least: Vec<usize>,
    /// What the engine is tuned for.
    pub best: Vec<usize>,
    /// The largest.
    pub most: Vec<usize>,
}

/// How far a build is; told by TensorRT 10 and newer.
pub enum BuildProgress<'a> {
    /// A phase begins, within another or none.
    Begin {
        /// Its name.
        phase: &'a str,
        /// The one that it is part of; empty for none.
        parent: &'a str,
        /// How many steps it has.
        steps: u32,
    },
    /// A step has been done.
    Step {
        /// Of this phase.
        phase: &'a str,
        /// Its number, from 0.
        done: u32,
    },
    /// A phase has ended.
    End {
        /// Its name.
        phase: &'a str,
    },
}

/// What is to be built.
pub struct Build<'a> {
    /// The ONNX file's bytes.
    pub onnx: &'a [u8],
    /// fp16 where the file has it; of use for 8.6 alone, later versions go by the file.
    pub fp16: bool,
    /// The file has Q/DQ; of use for 8.6 alone.
    pub int8: bool,
    /// For every GPU from Ampere on instead of this one.
    pub hardware_compatible: bool,
    /// Most device memory that a layer may use for itself, bytes; none = all there is.
    pub workspace_bytes: Option<u64>,
    /// Times taken before, or none.
    pub timing_cache: &'a [u8],
    /// Inputs that vary.
    pub ranges: &'a [InputRange],
}

/// What came of a build.
#[derive(Debug, Default)]
pub struct Built {
    /// The engine.
    pub engine: Vec<u8>,
    /// All times taken, for the next build; empty if TensorRT gave none.
    pub timing_cache: Vec<u8>,
}

#[derive(Default)]
struct Received {
    engine: Vec<u8>,
    timing_cache: Vec<u8>,
    text: Vec<u8>,
}

extern "C" fn receive(to: *mut c_void, kind: i32, bytes: *const c_void, length: usize) {
    // SAFETY: `to` is the `Received` that the caller of the shim passed, borrowed by nobody else meanwhile.
    let received = unsafe { &mut *to.cast::<Received>() };
    append(received, kind, bytes, length);
}

fn append(received: &mut Received, kind: i32, bytes: *const c_void, length: usize) {
    if bytes.is_null() || length == 0 {
        return;
    }
    // SAFETY: TensorRT's own memory, alive during the call.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) };
    match kind {
        0 => received.engine.extend_from_slice(bytes),
        1 => received.timing_cache.extend_from_slice(bytes),
        _ => received.text.extend_from_slice(bytes),
    }
}

/// Told how far a build is; stops it by returning `false`. TensorRT tells from several threads, one after the other here.
pub type ProgressSink<'a> = dyn FnMut(BuildProgress<'_>) -> bool + Send + 'a;

/// Asked once, after a build, for the timings that somebody else has kept since it began; none = no others. They become part
/// of [`Built::timing_cache`].
pub type NewerTimings<'a> = dyn FnMut() -> Vec<u8> + Send + 'a;

/// Receiver of the callbacks of a build, which come from TensorRT's threads.
struct BuildState<'a, 'b> {
    received: Mutex<Received>,
    progress: Mutex<&'a mut ProgressSink<'b>>,
    newer_timings: Mutex<&'a mut NewerTimings<'b>>,
    /// What it gave.
    newer: OnceLock<Vec<u8>>,
}

/// Poisoned only if a callback panicked, which ends the process.
fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn receive_built(to: *mut c_void, kind: i32, bytes: *const c_void, length: usize) {
    // SAFETY: `to` is the `BuildState` of the call in progress, which all its threads share.
    let state = unsafe { &*to.cast::<BuildState<'_, '_>>() };
    append(&mut locked(&state.received), kind, bytes, length);
}

extern "C" fn tell_progress(
    to: *mut c_void,
    phase: *const c_char,
    parent: *const c_char,
    steps: i32,
    done: i32,
) -> i32 {
    if phase.is_null() || parent.is_null() {
        return 1;
    }
    // SAFETY: strings of TensorRT that end with zero and live during the call.
    let (phase, parent) = unsafe { (CStr::from_ptr(phase), CStr::from_ptr(parent)) };
    let (phase, parent) = (phase.to_string_lossy(), parent.to_string_lossy());
    // SAFETY: `to` is the `BuildState` of the call in progress, which all its threads share.
    let state = unsafe { &*to.cast::<BuildState<'_, '_>>() };
    let event = match steps {
        1.. => BuildProgress::Begin { phase: &phase, parent: &parent, steps: steps.unsigned_abs() },
        0 => BuildProgress::Step { phase: &phase, done: done.unsigned_abs() },
        _ => BuildProgress::End { phase: &phase },
    };
    i32::from((locked(&state.progress))(event))
}

extern "C" fn newer_timings(to: *mut c_void, length: *mut usize) -> *const c_void {
    // SAFETY: `to` is the `BuildState` of the call in progress, which all its threads share.
    let state = unsafe { &*to.cast::<BuildState<'_, '_>>() };
    let newer = state.newer.get_or_init(|| (locked(&state.newer_timings))());
    // SAFETY: the shim passes the address of a number of its own.
    unsafe { *length = newer.len() };
    newer.as_ptr().cast()
}

impl Library {
    /// Builds an engine; minutes. `progress` is told how far it is, and stops the build by returning `false`;
    /// `newer` says what others have timed meanwhile.
    ///
    /// # Errors
    /// In TensorRT's words: a network that it does not take, too little workspace, too little memory, stopped.
    pub fn build(
        &self,
        build: &Build<'_>,
        _: CudaReady,
        progress: &mut ProgressSink<'_>,
        newer: &mut NewerTimings<'_>,
    ) -> Result<Built, Error> {
        let (create_builder, create_parser) = self.builder()?;
        let names = build
            .ranges
            .iter()
            .map(|range| CString::new(range.input.as_str()).map_err(|_| Error::new("a name with a zero byte")))
            .collect::<Result<Vec<_>, _>>()?;
        let ranges = build
            .ranges
            .iter()
            .zip(&names)
            .map(|(range, name)| {
                Ok(raw::Range {
                    input: name.as_ptr(),
                    least: dims(&range.least)?,
                    best: dims(&range.best)?,
                    most: dims(&range.most)?,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let has_cache = !build.timing_cache.is_empty();
        let state = BuildState {
            received: Mutex::default(),
            progress: Mutex::new(progress),
            newer_timings: Mutex::new(newer),
            newer: OnceLock::new(),
        };
        let spec = raw::Build {
            onnx: build.onnx.as_ptr().cast(),
            onnx_bytes: build.onnx.len(),
            fp16: i32::from(build.fp16),
            int8: i32::from(build.int8),
            hardware_compatible: i32::from(build.hardware_compatible),
            workspace_bytes: build.workspace_bytes.unwrap_or(0),
            timing_cache: if has_cache { build.timing_cache.as_ptr().cast() } else { ptr::null() },
            timing_cache_bytes: build.timing_cache.len(),
            ranges: ranges.as_ptr(),
            num_ranges: ranges.len(),
            sink: receive_built,
            progress: tell_progress,
            newer_timings,
            // Nobody writes through it: the callbacks share it, and what changes is behind locks.
            to: ptr::from_ref(&state).cast_mut().cast(),
        };
        // SAFETY: the addresses are those of this library's functions, whose major version is the headers'; the driver has
        // been started; everything that `spec` points to outlives the call, and the callbacks get the state they expect.
        checked_within(&Call::begin_build(), |error| unsafe {
            raw::hsg_trt_build_engine(create_builder, create_parser, &spec, error)
        })?;
        let Received { engine, timing_cache, .. } = state.received.into_inner().unwrap_or_else(PoisonError::into_inner);
        if engine.is_empty() {
            return Err(Error::new("TensorRT gave an engine of no bytes"));
        }
        Ok(Built { engine, timing_cache })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_at_most_eight_axes() {
        assert_eq!(dims(&[1, 3, 64, 96]).unwrap().lengths[..4], [1, 3, 64, 96]);
        assert!(dims(&[1; 9]).unwrap_err().to_string().contains("9 axes"));
    }
}
