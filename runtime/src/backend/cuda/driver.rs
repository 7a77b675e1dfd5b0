//! The CUDA driver: what device there is, and kernels run by it.

use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytemuck::Pod;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::executor::{Argument, Executor, Kernel, MAX_ARGUMENTS, MODULES, Memory};
use super::quiet::quiet;
use crate::backend::{BackendError, BackendErrorKind};

/// The kernels' PTX is of CUDA 12.2 (JetPack 6.0).
const OLDEST_DRIVER: i32 = 12020;
/// They are compiled for compute capability 8.0.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// Says how threads wait for the GPU: `auto` or nothing, as the driver likes; `block`, asleep.
const WAIT_VARIABLE: &str = "HSG_CUDA_WAIT";

/// Whether threads are to sleep while they wait. By itself CUDA spins where there are as many processors as contexts: the result
/// is there some microseconds earlier, and each stream that waits takes all of a processor, which the other streams'
/// stages on the CPU may need.
fn waits_asleep() -> Result<bool, BackendError> {
    match std::env::var_os(WAIT_VARIABLE) {
        None => Ok(false),
        Some(value) if value.is_empty() || value == "auto" => Ok(false),
        Some(value) if value == "block" => Ok(true),
        Some(value) => Err(missing(
            BackendErrorKind::Run,
            format!("{WAIT_VARIABLE}: expected `auto` or `block`, got `{}`", value.to_string_lossy()),
        )),
    }
}

/// A device and its driver.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// CUDA version of the driver, as 12.6.
    pub driver: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Memory, bytes.
    pub memory_bytes: usize,
    /// Second-level cache, bytes.
    pub cache_bytes: usize,
    /// Multiprocessors.
    pub num_multiprocessors: usize,
}

fn missing(kind: BackendErrorKind, message: impl Into<String>) -> BackendError {
    BackendError::new(kind, message)
}

fn failed(what: &str, error: DriverError) -> BackendError {
    let (kind, hint) = meaning(error.0);
    BackendError::new(kind, format!("CUDA could not {what}: {}{hint}", words(error)))
}

/// What follows from an error, and what to do.
const fn meaning(error: sys::CUresult) -> (BackendErrorKind, &'static str) {
    use sys::CUresult as E;
    match error {
        E::CUDA_ERROR_OUT_OF_MEMORY => (BackendErrorKind::Run, "; the GPU's memory is full: end other programs on it"),
        E::CUDA_ERROR_DEVICE_UNAVAILABLE => (
            BackendErrorKind::Run,
            "; another process has the GPU for itself, or its compute mode forbids it (`nvidia-smi -q -d COMPUTE`)",
        ),
        // CUDA keeps these for the process: nothing that it starts afterwards runs.
        E::CUDA_ERROR_ECC_UNCORRECTABLE
        | E::CUDA_ERROR_ILLEGAL_ADDRESS
        | E::CUDA_ERROR_LAUNCH_TIMEOUT
        | E::CUDA_ERROR_ASSERT
        | E::CUDA_ERROR_HARDWARE_STACK_ERROR
        | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | E::CUDA_ERROR_MISALIGNED_ADDRESS
        | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | E::CUDA_ERROR_INVALID_PC
        | E::CUDA_ERROR_LAUNCH_FAILED => (
            BackendErrorKind::DeviceLost,
            "; the GPU is lost to this process: start hsg again, and see `dmesg` for what the driver says",
        ),
        _ => (BackendErrorKind::Run, ""),
    }
}

fn words(error: DriverError) -> String {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    text.unwrap_or_else(|_| format!("error {}", error.0 as u32))
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// Looks for the first device.
///
/// # Errors
/// What is missing, with the remedy: the driver's library, a driver that works, a device, a version that is new enough.
pub fn look() -> Result<DeviceInfo, BackendError> {
    find().map(|(_, info)| info)
}

fn find() -> Result<(sys::CUdevice, DeviceInfo), BackendError> {
    // SAFETY: opens libcuda.so by its name, which runs the driver's own initialisers, and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing(
            BackendErrorKind::NotInstalled,
            "libcuda.so is not on this machine; it comes with the NVIDIA driver",
        ));
    }
    result::init().map_err(|error| {
        missing(
            BackendErrorKind::NoDevice,
            format!(
                "libcuda.so is here, but CUDA does not start: {}; is the driver loaded (nvidia-smi), and may this user \
                 (this container) use the GPU?",
                words(error)
            ),
        )
    })?;
    let mut number = 0;
    // SAFETY: `number` outlives the call.
    unsafe { sys::cuDriverGetVersion(&mut number) }.result().map_err(|error| failed("tell its version", error))?;
    if number < OLDEST_DRIVER {
        return Err(missing(
            BackendErrorKind::TooOld,
            format!("the driver has CUDA {}; {} or newer is needed", version(number), version(OLDEST_DRIVER)),
        ));
    }
    let count = result::device::get_count().map_err(|error| failed("count devices", error))?;
    if count == 0 {
        return Err(missing(
            BackendErrorKind::NoDevice,
            "CUDA works, but shows no GPU; does CUDA_VISIBLE_DEVICES hide it?",
        ));
    }
    let device = result::device::get(0).map_err(|error| failed("open the first GPU", error))?;
    let attribute = |attribute| {
        // SAFETY: `device` came from the driver just now.
        unsafe { result::device::get_attribute(device, attribute) }.map_err(|error| failed("describe the GPU", error))
    };
    use sys::CUdevice_attribute as A;
    let capability = (
        attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let name = result::device::get_name(device).map_err(|error| failed("name the GPU", error))?;
    if capability < OLDEST_CAPABILITY {
        return Err(missing(
            BackendErrorKind::TooOld,
            format!(
                "{name} has compute capability {}.{}; 8.0 or newer is needed (Ampere, Orin)",
                capability.0, capability.1
            ),
        ));
    }
    // SAFETY: `device` came from the driver just now.
    let memory_bytes =
        unsafe { result::device::total_mem(device) }.map_err(|error| failed("tell the GPU's memory", error))?;
    let info = DeviceInfo {
        name,
        driver: version(number),
        capability,
        memory_bytes,
        cache_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        num_multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
    };
    Ok((device, info))
}

/// Owns the device's primary context; memory and graphs keep it alive.
#[derive(Debug)]
struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    waits_asleep: bool,
}

// SAFETY: a CUDA context may be used from every thread; calls make it current on theirs first.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    fn enter(&self) -> Result<(), BackendError> {
        // SAFETY: the context is retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| failed("use the GPU", error))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, in `Cuda::new`; everything made in it holds this context and is gone. A failure leaves
        // nothing to be done.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory on the device.
#[derive(Debug)]
pub struct Buffer {
    context: Arc<Context>,
    pointer: sys::CUdeviceptr,
    num_bytes: usize,
}

impl Buffer {
    /// Its address on the device.
    pub const fn address(&self) -> u64 {
        self.pointer
    }
}

impl<T: Pod> Memory<Buffer, T> {
    /// Its address on the device, for calls of other libraries; valid as long as this lives.
    pub const fn address(&self) -> u64 {
        self.raw().address()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated in `alloc`, freed once; the driver waits for kernels that use it.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}

/// Memory on the device with page-locked memory of the host beside it: copies between the two do not wait.
#[derive(Debug)]
pub struct StagedBuffer {
    device: Buffer,
    host: NonNull<u8>,
}

// SAFETY: the memory belongs to this value alone; it is freed in the device's context, which any thread may enter.
unsafe impl Send for StagedBuffer {}

impl StagedBuffer {
    /// Its address on the device.
    pub const fn address(&self) -> u64 {
        self.device.address()
    }

    /// The host's side.
    pub fn host(&self) -> &[u8] {
        // SAFETY: allocated with this length, zeroed, freed in `drop`; who begins a copy promises not to look meanwhile.
        unsafe { std::slice::from_raw_parts(self.host.as_ptr(), self.device.num_bytes) }
    }

    /// The host's side, to be written.
    pub fn host_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `host`, and borrowed by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.host.as_ptr(), self.device.num_bytes) }
    }
}

impl Drop for StagedBuffer {
    fn drop(&mut self) {
        if self.device.context.enter().is_ok() {
            // SAFETY: allocated in `Cuda::stage`, freed once; copies have ended, as who began them promised.
            let _ = unsafe { result::free_host(self.host.as_ptr().cast()) };
        }
    }
}

/// Page-locked memory of the host for `len` numbers: copies between it and the device do not wait.
#[derive(Debug)]
pub struct HostMemory<T> {
    context: Arc<Context>,
    pointer: NonNull<T>,
    len: usize,
    kind: PhantomData<T>,
}

// SAFETY: the memory belongs to this value alone, and numbers may move between threads; it is freed in the device's context,
// which any thread may enter.
unsafe impl<T: Pod + Send> Send for HostMemory<T> {}

impl<T: Pod> HostMemory<T> {
    /// The numbers.
    pub fn values(&self) -> &[T] {
        // SAFETY: allocated with this length, zeroed, freed in `drop`; who begins a copy promises not to look meanwhile.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }

    /// The numbers, to be written.
    pub fn values_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `values`, and borrowed by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

impl<T> Drop for HostMemory<T> {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated in `host_memory`, freed once; copies have ended, as who began them promised.
            let _ = unsafe { result::free_host(self.pointer.as_ptr().cast()) };
        }
    }
}

/// A place in a stream's work, to wait for.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

// SAFETY: events belong to a context that is made current before every use, on any thread.
unsafe impl Send for Event {}

impl Event {
    /// Waits until the work before the last [`Cuda::record`] has ended; returns at once when there was none.
    ///
    /// # Errors
    /// When that work failed: CUDA tells here.
    pub fn wait(&self) -> Result<(), BackendError> {
        self.context.enter()?;
        // SAFETY: the event lives until `drop`.
        unsafe { result::event::synchronize(self.event) }.map_err(|error| failed("finish its work", error))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `Cuda::event`, destroyed once; CUDA keeps what is under way.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// The first GPU, the kernels loaded, and a stream that runs them in order.
#[derive(Debug)]
pub struct Cuda {
    info: DeviceInfo,
    kernels: Arc<Kernels>,
    stream: sys::CUstream,
    context: Arc<Context>,
}

// SAFETY: streams belong to a context that is made current before every use, on any thread.
unsafe impl Send for Cuda {}

/// The kernels that were loaded, for the streams that share them.
#[derive(Debug)]
struct Kernels {
    functions: Vec<sys::CUfunction>,
    modules: Vec<sys::CUmodule>,
    context: Arc<Context>,
}

// SAFETY: functions and modules belong to a context that is made current before every use, on any thread.
unsafe impl Send for Kernels {}
// SAFETY: as above; nothing of them changes once they are loaded.
unsafe impl Sync for Kernels {}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        for &module in &self.modules {
            // SAFETY: loaded in `Kernels::load`, unloaded once; streams that ran its kernels held this and have ended.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// The kernels that some stream of the process has loaded: they belong to the device's primary context, which is one for all.
static LOADED: Mutex<Weak<Kernels>> = Mutex::new(Weak::new());

impl Kernels {
    /// Those that are loaded, or loads them. The context is current.
    fn shared(context: &Arc<Context>) -> Result<Arc<Self>, BackendError> {
        // Nobody panics while holding it; what was loaded then is as good as new.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = loaded.upgrade() {
            return Ok(kernels);
        }
        let kernels = Arc::new(Self::load(context)?);
        *loaded = Arc::downgrade(&kernels);
        Ok(kernels)
    }

    fn load(context: &Arc<Context>) -> Result<Self, BackendError> {
        let mut kernels = Self { functions: Vec::new(), modules: Vec::new(), context: Arc::clone(context) };
        for (name, ptx) in MODULES {
            let text = CString::new(ptx).map_err(|_| {
                missing(BackendErrorKind::Load, format!("{name}.ptx holds a zero byte; run `cargo xtask kernels`"))
            })?;
            // SAFETY: the image is a string that ends with zero and outlives the call.
            let module = unsafe { result::module::load_data(text.as_ptr().cast()) }
                .map_err(|error| failed(&format!("load the kernels of {name}"), error))?;
            kernels.modules.push(module);
        }
        for kernel in Kernel::ALL {
            let name = CString::new(kernel.name()).unwrap_or_default();
            // SAFETY: the module was just loaded and is unloaded by `drop` only.
            let function = unsafe { result::module::get_function(kernels.modules[kernel.module()], name) }
                .map_err(|error| failed(&format!("find the kernel {}", kernel.name()), error))?;
            kernels.functions.push(function);
        }
        Ok(kernels)
    }
}

impl Cuda {
    /// Opens the first device and loads the kernels, unless another stream has: the driver compiles them for it (and
    /// remembers that).
    ///
    /// # Errors
    /// As [`look`], or when the driver does not take the kernels.
    pub fn new() -> Result<Self, BackendError> {
        let mut cuda = Self::without_kernels()?;
        cuda.kernels = Kernels::shared(&cuda.context)?;
        Ok(cuda)
    }

    /// Another stream on the same device, with the same kernels.
    ///
    /// # Errors
    /// When the driver has none.
    pub fn beside(&self) -> Result<Self, BackendError> {
        self.context.enter()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|error| failed("make a stream", error))?;
        let (kernels, context) = (Arc::clone(&self.kernels), Arc::clone(&self.context));
        Ok(Self { info: self.info.clone(), kernels, stream, context })
    }

    /// Opens the first device with a stream and without kernels: launching one fails.
    ///
    /// # Errors
    /// As [`look`].
    pub fn without_kernels() -> Result<Self, BackendError> {
        let (device, info) = find()?;
        let waits_asleep = waits_asleep()?;
        if waits_asleep {
            // For everything on the device's context, TensorRT's waiting included.
            let flags = sys::CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC as u32;
            // SAFETY: `device` came from the driver.
            match unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(device, flags) }.result() {
                // Older drivers, once another stream has opened the context: it has said the same.
                Ok(()) | Err(DriverError(sys::CUresult::CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE)) => {}
                Err(error) => return Err(failed("sleep while it is waited for (HSG_CUDA_WAIT)", error)),
            }
        }
        // SAFETY: `device` came from the driver; released by `Context::drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|error| failed("open the GPU", error))?;
        let context = Arc::new(Context { device, context, waits_asleep });
        context.enter()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|error| failed("make a stream", error))?;
        let kernels = Kernels { functions: Vec::new(), modules: Vec::new(), context: Arc::clone(&context) };
        Ok(Self { info, kernels: Arc::new(kernels), stream, context })
    }

    /// Memory on both sides, at least a byte.
    ///
    /// # Errors
    /// When either side has none.
    pub fn stage(&self, num_bytes: usize) -> Result<StagedBuffer, BackendError> {
        let num_bytes = num_bytes.max(1);
        let device = self.alloc(num_bytes)?;
        // SAFETY: the context is current since `alloc`; `StagedBuffer` frees it.
        let host = unsafe { result::malloc_host(num_bytes, 0) }
            .map_err(|error| failed(&format!("allocate {num_bytes} page-locked bytes"), error))?;
        let Some(host) = NonNull::new(host.cast::<u8>()) else {
            return Err(missing(BackendErrorKind::Run, "CUDA gave page-locked memory at address 0"));
        };
        // SAFETY: just allocated with this length.
        unsafe { host.as_ptr().write_bytes(0, num_bytes) }
        Ok(StagedBuffer { device, host })
    }

    /// Begins to copy the first bytes of the host's side to the device's.
    ///
    /// # Safety
    /// Until [`Cuda::synchronize`] has returned, the buffer must neither be written on the host nor dropped.
    ///
    /// # Errors
    /// When the buffer is shorter, or the device is lost.
    pub unsafe fn begin_upload(&self, buffer: &StagedBuffer, num_bytes: usize) -> Result<(), BackendError> {
        expect_room(&buffer.device, num_bytes)?;
        self.context.enter()?;
        // SAFETY: both sides are that long; the caller keeps them as they are.
        unsafe { result::memcpy_htod_async(buffer.device.pointer, &buffer.host()[..num_bytes], self.stream) }
            .map_err(|error| failed("copy to the GPU", error))
    }

    /// Begins to copy the first bytes of the device's side to the host's.
    ///
    /// # Safety
    /// Until [`Cuda::synchronize`] has returned, the buffer must neither be looked at on the host nor dropped.
    ///
    /// # Errors
    /// When the buffer is shorter, or the device is lost.
    pub unsafe fn begin_download(&self, buffer: &mut StagedBuffer, num_bytes: usize) -> Result<(), BackendError> {
        expect_room(&buffer.device, num_bytes)?;
        self.context.enter()?;
        let pointer = buffer.device.pointer;
        // SAFETY: both sides are that long; the caller keeps them as they are.
        unsafe { result::memcpy_dtoh_async(&mut buffer.host_mut()[..num_bytes], pointer, self.stream) }
            .map_err(|error| failed("copy from the GPU", error))
    }

    /// Page-locked memory of the host for `len` numbers, all zero.
    ///
    /// # Errors
    /// When there is none.
    pub fn host_memory<T: Pod>(&self, len: usize) -> Result<HostMemory<T>, BackendError> {
        self.context.enter()?;
        let num_bytes = (len * size_of::<T>()).max(1);
        // SAFETY: the context is current; `HostMemory` frees it.
        let pointer = unsafe { result::malloc_host(num_bytes, 0) }
            .map_err(|error| failed(&format!("allocate {num_bytes} page-locked bytes"), error))?;
        let Some(pointer) = NonNull::new(pointer.cast::<T>()) else {
            return Err(missing(BackendErrorKind::Run, "CUDA gave page-locked memory at address 0"));
        };
        // SAFETY: just allocated with this length; CUDA aligns to pages, and zeros are numbers of every kind (`Pod`).
        unsafe { pointer.as_ptr().cast::<u8>().write_bytes(0, num_bytes) }
        Ok(HostMemory { context: Arc::clone(&self.context), pointer, len, kind: PhantomData })
    }

    /// Begins to copy all of `from` to the start of `to`.
    ///
    /// # Safety
    /// Until the stream has come this far (an event, [`Cuda::synchronize`]), also in every launch of a graph that captured
    /// this, `from` must neither be written nor dropped.
    ///
    /// # Errors
    /// When `to` is shorter, or the device is lost.
    pub unsafe fn begin_write<T: Pod>(
        &self,
        from: &HostMemory<T>,
        to: &mut Memory<Buffer, T>,
    ) -> Result<(), BackendError> {
        expect_room(to.raw(), from.len * size_of::<T>())?;
        self.context.enter()?;
        // SAFETY: both sides are that long; the caller keeps them as they are.
        unsafe { result::memcpy_htod_async(to.raw().pointer, from.values(), self.stream) }
            .map_err(|error| failed("copy to the GPU", error))
    }

    /// Begins to copy the start of `from` to all of `to`.
    ///
    /// # Safety
    /// As [`Cuda::begin_write`]; `to` must not be looked at either.
    ///
    /// # Errors
    /// When `from` is shorter, or the device is lost.
    pub unsafe fn begin_read<T: Pod>(
        &self,
        from: &Memory<Buffer, T>,
        to: &mut HostMemory<T>,
    ) -> Result<(), BackendError> {
        expect_room(from.raw(), to.len * size_of::<T>())?;
        self.context.enter()?;
        // SAFETY: both sides are that long; the caller keeps them as they are.
        unsafe { result::memcpy_dtoh_async(to.values_mut(), from.raw().pointer, self.stream) }
            .map_err(|error| failed("copy from the GPU", error))
    }

    /// An event, not recorded yet.
    ///
    /// # Errors
    /// When the driver has none.
    pub fn event(&self) -> Result<Event, BackendError> {
        self.context.enter()?;
        let mut flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        if self.context.waits_asleep {
            // Events have a flag of their own and do not go by the context's.
            flags |= sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        }
        let mut event = MaybeUninit::uninit();
        // SAFETY: the context is current; `event` outlives the call.
        unsafe { sys::cuEventCreate(event.as_mut_ptr(), flags) }
            .result()
            .map_err(|error| failed("make an event", error))?;
        // SAFETY: success means that it was written.
        let event = unsafe { event.assume_init() };
        Ok(Event { context: Arc::clone(&self.context), event })
    }

    /// Has `event` stand for all work that was started so far.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn record(&self, event: &Event) -> Result<(), BackendError> {
        self.context.enter()?;
        // SAFETY: event and stream are alive and of this context.
        unsafe { result::event::record(event.event, self.stream) }.map_err(|error| failed("record an event", error))
    }

    /// Has what is started from now on wait, on the device, for what `event` stands for: work of another stream.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn wait_for(&self, event: &Event) -> Result<(), BackendError> {
        self.context.enter()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: event and stream are alive and of this context.
        unsafe { result::stream::wait_event(self.stream, event.event, flags) }
            .map_err(|error| failed("wait for an event", error))
    }

    /// Free memory of the device, bytes.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn free_bytes(&self) -> Result<usize, BackendError> {
        self.context.enter()?;
        result::mem_get_info().map(|(free, _)| free).map_err(|error| failed("tell its free memory", error))
    }

    /// Makes the device's context current on this thread, for calls of other libraries.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn make_current(&self) -> Result<(), BackendError> {
        self.context.enter()
    }

    /// The stream, for calls of other libraries; valid as long as this lives.
    pub const fn stream(&self) -> *mut c_void {
        self.stream.cast()
    }

    /// The device.
    pub const fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Highest clock of the multiprocessors, as the driver names it.
    ///
    /// # Errors
    /// When the driver does not tell.
    pub fn clock_kilohertz(&self) -> Result<i32, BackendError> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE;
        // SAFETY: the device came from the driver.
        unsafe { result::device::get_attribute(self.context.device, attribute) }
            .map_err(|error| failed("tell its clock", error))
    }

    /// Whether the device has no memory of its own, but shares the host's.
    ///
    /// # Errors
    /// When the driver does not tell.
    pub fn is_integrated(&self) -> Result<bool, BackendError> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED;
        // SAFETY: the device came from the driver.
        let value = unsafe { result::device::get_attribute(self.context.device, attribute) };
        value.map(|value| value != 0).map_err(|error| failed("tell where its memory is", error))
    }

    /// Waits for everything that was started.
    ///
    /// # Errors
    /// When a kernel failed: CUDA tells here.
    pub fn synchronize(&self) -> Result<(), BackendError> {
        self.context.enter()?;
        // SAFETY: the stream lives until `drop`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|error| failed("finish its work", error))
    }

    /// Captures what `work` starts as a graph, while nobody makes [`noise`](super::noise); it does not run yet. `work` must wait for nothing: of copies to and from the
    /// host only those of [`Cuda::begin_write`] and [`Cuda::begin_read`].
    ///
    /// # Errors
    /// When something in it cannot be captured.
    pub fn capture(&self, work: impl FnOnce() -> Result<(), BackendError>) -> Result<Graph, BackendError> {
        self.context.enter()?;
        let _quiet = quiet();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives until `drop`.
        unsafe { result::stream::begin_capture(self.stream, mode) }
            .map_err(|error| failed("begin a graph's capture", error))?;
        let outcome = work();
        // SAFETY: capture began on this stream just now.
        let graph =
            unsafe { result::stream::end_capture(self.stream) }.map_err(|error| failed("end a graph's capture", error));
        if let Err(error) = outcome {
            if let Ok(graph) = graph {
                // SAFETY: the graph came from the capture and has no instance. A failure leaves nothing to be done.
                let _ = unsafe { result::graph::destroy(graph) };
            }
            return Err(error);
        }
        let graph = graph?;
        // SAFETY: the graph came from the capture.
        let instance = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags_enum(0)) };
        // SAFETY: the graph came from the capture; its instance does not need it.
        let _ = unsafe { result::graph::destroy(graph) };
        let instance = instance.map_err(|error| failed("make a graph", error))?;
        Ok(Graph { context: self.context.clone(), instance })
    }

    /// Starts a captured graph.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn launch_graph(&self, graph: &Graph) -> Result<(), BackendError> {
        self.context.enter()?;
        // SAFETY: graph and stream are alive; the memory that its kernels use is what the caller captured it with.
        unsafe { result::graph::launch(graph.instance, self.stream) }.map_err(|error| failed("start a graph", error))
    }

    /// Milliseconds between before and after what `work` starts, by events on the device.
    ///
    /// # Errors
    /// When `work` fails or the device is lost.
    pub fn time(&self, work: impl FnOnce() -> Result<(), BackendError>) -> Result<f32, BackendError> {
        self.context.enter()?;
        let event = || {
            result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(|error| failed("make an event", error))
        };
        let (start, end) = (event()?, event()?);
        let outcome = (|| {
            // SAFETY: events and stream are alive; destroyed below.
            unsafe { result::event::record(start, self.stream) }.map_err(|error| failed("record an event", error))?;
            work()?;
            // SAFETY: as above.
            unsafe {
                result::event::record(end, self.stream)
                    .and_then(|()| result::event::synchronize(end))
                    .and_then(|()| result::event::elapsed(start, end))
            }
            .map_err(|error| failed("take the time", error))
        })();
        for event in [start, end] {
            // SAFETY: made above, destroyed once.
            let _ = unsafe { result::event::destroy(event) };
        }
        outcome
    }

    /// Copies `num_bytes` within the device, to measure its memory.
    ///
    /// # Errors
    /// When a buffer is shorter.
    pub fn copy(&self, from: &Buffer, to: &mut Buffer, num_bytes: usize) -> Result<(), BackendError> {
        expect_room(from, num_bytes)?;
        expect_room(to, num_bytes)?;
        self.context.enter()?;
        // SAFETY: both are at least that long, as was just checked.
        unsafe { result::memcpy_dtod_async(to.pointer, from.pointer, num_bytes, self.stream) }
            .map_err(|error| failed("copy on the GPU", error))
    }
}

impl Cuda {
    /// Begins to copy `len` numbers within the device, from place `from_at` of `from` to place `to_at` of `to`.
    ///
    /// # Errors
    /// When either is shorter, or the device is lost.
    pub fn copy_range<T: Pod>(
        &self,
        (from, from_at): (&Memory<Buffer, T>, usize),
        (to, to_at): (&mut Memory<Buffer, T>, usize),
        len: usize,
    ) -> Result<(), BackendError> {
        let size = size_of::<T>();
        expect_room(from.raw(), from_at.saturating_add(len).saturating_mul(size))?;
        expect_room(to.raw(), to_at.saturating_add(len).saturating_mul(size))?;
        self.context.enter()?;
        let (source, target) = (from.address() + (from_at * size) as u64, to.address() + (to_at * size) as u64);
        // SAFETY: both are at least that long, as was just checked; they are two allocations, and the driver frees neither
        // before work that uses it has ended.
        unsafe { result::memcpy_dtod_async(target, source, len * size, self.stream) }
            .map_err(|error| failed("copy on the GPU", error))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        // SAFETY: made with this value and dropped once; nothing uses the stream after its work has ended. Failures leave
        // nothing to be done.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::destroy(self.stream);
        }
    }
}

/// A captured chain of kernels. It uses the memory that it was captured with: keep that.
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    instance: sys::CUgraphExec,
}

// SAFETY: as `Cuda`.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `capture`, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.instance) };
        }
    }
}

fn expect_room(buffer: &Buffer, num_bytes: usize) -> Result<(), BackendError> {
    if num_bytes <= buffer.num_bytes {
        return Ok(());
    }
    let message = format!("{num_bytes} bytes do not fit device memory of {}", buffer.num_bytes);
    Err(BackendError::new(BackendErrorKind::Run, message))
}

impl Executor for Cuda {
    type Buffer = Buffer;

    fn alloc(&self, num_bytes: usize) -> Result<Buffer, BackendError> {
        self.context.enter()?;
        // SAFETY: `Buffer` frees it; contents are written before kernels read them.
        let pointer = unsafe { result::malloc_sync(num_bytes.max(16)) }
            .map_err(|error| failed(&format!("allocate {num_bytes} bytes"), error))?;
        Ok(Buffer { context: self.context.clone(), pointer, num_bytes })
    }

    fn upload(&self, from: &[u8], to: &mut Buffer) -> Result<(), BackendError> {
        expect_room(to, from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: the memory is long enough, as was just checked; the copy has ended when the stream has.
        unsafe {
            result::memcpy_htod_async(to.pointer, from, self.stream)
                .and_then(|()| result::stream::synchronize(self.stream))
        }
        .map_err(|error| failed("copy to the GPU", error))
    }

    fn download(&self, from: &Buffer, to: &mut [u8]) -> Result<(), BackendError> {
        expect_room(from, to.len())?;
        if to.is_empty() {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: as in `upload`.
        unsafe {
            result::memcpy_dtoh_async(to, from.pointer, self.stream)
                .and_then(|()| result::stream::synchronize(self.stream))
        }
        .map_err(|error| failed("copy from the GPU", error))
    }

    fn fill(&self, byte: u8, to: &mut Buffer) -> Result<(), BackendError> {
        if to.num_bytes == 0 {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: the memory is that long.
        unsafe { result::memset_d8_async(to.pointer, byte, to.num_bytes, self.stream) }
            .map_err(|error| failed("fill memory", error))
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 2],
        num_threads: u32,
        arguments: &[Argument<'_, Buffer>],
    ) -> Result<(), BackendError> {
        super::executor::expect_len(kernel.name(), kernel.num_arguments(), arguments.len())?;
        self.context.enter()?;
        let mut values = [MaybeUninit::<u64>::zeroed(); MAX_ARGUMENTS];
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_ARGUMENTS];
        for ((value, pointer), argument) in values.iter_mut().zip(&mut pointers).zip(arguments) {
            let place = value.as_mut_ptr();
            // SAFETY: every value has eight bytes; the kernel reads as many of them as its parameter has.
            unsafe {
                match *argument {
                    Argument::Memory(buffer) => place.write(buffer.pointer),
                    Argument::Null => place.write(0),
                    Argument::Int(number) => place.cast::<i32>().write(number),
                    Argument::Float(number) => place.cast::<f32>().write(number),
                }
            }
            *pointer = place.cast();
        }
        let Some(&function) = self.kernels.functions.get(kernel as usize) else {
            return Err(missing(BackendErrorKind::Run, "kernels were not loaded here"));
        };
        let (grid, block) = ((grid[0], grid[1], 1), (num_threads, 1, 1));
        // SAFETY: the function is loaded; pointers point to values that live until the call returns, which has copied them.
        // What they describe is the caller's promise.
        unsafe { result::launch_kernel(function, grid, block, 0, self.stream, &mut pointers[..arguments.len()]) }
            .map_err(|error| failed(&format!("start {}", kernel.name()), error))
    }

    fn num_multiprocessors(&self) -> usize {
        self.info.num_multiprocessors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_cuda_keeps_mean_that_the_device_is_lost() {
        use sys::CUresult as E;
        // By number, as `cuda.h` has them.
        let lost = [214, 700, 702, 710, 714, 715, 716, 717, 718, 719];
        for error in [
            E::CUDA_ERROR_ECC_UNCORRECTABLE,
            E::CUDA_ERROR_ILLEGAL_ADDRESS,
            E::CUDA_ERROR_LAUNCH_TIMEOUT,
            E::CUDA_ERROR_ASSERT,
            E::CUDA_ERROR_HARDWARE_STACK_ERROR,
            E::CUDA_ERROR_ILLEGAL_INSTRUCTION,
            E::CUDA_ERROR_MISALIGNED_ADDRESS,
            E::CUDA_ERROR_INVALID_ADDRESS_SPACE,
            E::CUDA_ERROR_INVALID_PC,
            E::CUDA_ERROR_LAUNCH_FAILED,
            E::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            E::CUDA_ERROR_OUT_OF_MEMORY,
            E::CUDA_ERROR_DEVICE_UNAVAILABLE,
            E::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        ] {
            let (kind, hint) = meaning(error);
            let is_lost = lost.contains(&(error as u32));
            assert_eq!(kind == BackendErrorKind::DeviceLost, is_lost, "{error:?}");
            assert_eq!(hint.contains("start hsg again"), is_lost, "{error:?}");
        }
        assert!(meaning(E::CUDA_ERROR_DEVICE_UNAVAILABLE).1.contains("compute mode"));
    }
}
