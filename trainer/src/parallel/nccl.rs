//! One rank a GPU, connected by NCCL. Written by its documentation: no machine of this project has run it yet.
//!
//! Calls are queued on the legacy default stream, which is the one libtorch uses, so they come after the kernels that
//! make their input and before those that read their output without any waiting on the host.
//!
//! A rank that dies leaves the others' kernels spinning. A thread of its own looks every second: an error that NCCL
//! reports, or a sum that has taken longer than [`PATIENCE`], is printed and ends the process with exit code 2; what
//! started the ranks (torchrun, mpirun) then ends the others. Checkpoints are whole at every moment.
#![allow(unsafe_code, reason = "CUDA and NCCL are C libraries; tensors are summed where they are")]

use std::collections::VecDeque;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cudarc::driver;
use cudarc::nccl::{result, sys};
use tch::{Device, Kind, Tensor};

use super::{Communicator, Place, Ranks, check_layout, ranks_error, rendezvous};
use crate::error::Result;
use crate::progress::say;

/// A sum that takes longer has lost a rank; loading of data on the slowest rank counts too.
const PATIENCE: Duration = Duration::from_secs(600);
/// Time for all ranks to start.
const START: Duration = Duration::from_secs(300);
/// `ncclGetLastError` and all other functions used here are in NCCL from 2.18 on.
const OLDEST: i32 = 21800;
const FROM_START: &str = "the first rank that stopped says why";

/// NCCL's communicator and what has been queued on it; shared with the thread that watches.
struct Queue {
    communicator: sys::ncclComm_t,
    context: driver::sys::CUcontext,
    rank: usize,
    size: usize,
    /// An event behind every sum that was not yet seen finished, and when it was queued.
    pending: Mutex<VecDeque<(Instant, driver::sys::CUevent)>>,
    ended: AtomicBool,
}

// SAFETY: NCCL's communicators and CUDA's contexts and events may be used from any thread, a communicator from one at a
// time for collectives: the program's own come one after the other, autograd's while the program waits for it. The
// watching thread calls only `ncclCommGetAsyncError` and `ncclCommAbort`, which NCCL allows at any time.
unsafe impl Send for Queue {}
// SAFETY: see above.
unsafe impl Sync for Queue {}

struct Nccl {
    queue: Arc<Queue>,
    device: Device,
    watch: Option<JoinHandle<()>>,
}

/// Finds the other ranks (MASTER_ADDR, MASTER_PORT) and starts NCCL on `device`.
///
/// # Errors
/// A library that is missing or too old, each named; a rank that does not come; what NCCL says.
pub(super) fn connect(place: &Place, device: Device) -> Result<Ranks> {
    let Device::Cuda(ordinal) = device else {
        return Err(ranks_error(format!("NCCL connects GPUs, not {device:?}"), "this is a bug; please report it"));
    };
    // cudarc panics on a library that is missing.
    // SAFETY: opens a library, whose initialisers run, and closes it again.
    let (driver_there, nccl_there) = unsafe { (driver::sys::is_culib_present(), sys::is_culib_present()) };
    if !driver_there {
        return Err(ranks_error("libcuda.so is not found", "install NVIDIA's driver"));
    }
    if !nccl_there {
        let remedy =
            "install NCCL; where only libnccl.so.2 is there, link libnccl.so to it in a folder of LD_LIBRARY_PATH";
        return Err(ranks_error("libnccl.so is not found", remedy));
    }
    let version = result::get_nccl_version().map_err(|error| failed("ask for NCCL's version", &error, None))?;
    if version < OLDEST {
        return Err(ranks_error(format!("NCCL {version} is too old, {OLDEST} is the oldest"), "install a newer one"));
    }
    let cuda = |error: driver::result::DriverError| ranks_error(format!("CUDA: {error}"), "nvidia-smi shows the GPUs");
    driver::result::init().map_err(cuda)?;
    let gpu = driver::result::device::get(ordinal as i32).map_err(cuda)?;
    // SAFETY: the device was just got; the context is kept until the process ends, as libtorch does too.
    let context = unsafe { driver::result::primary_ctx::retain(gpu) }.map_err(cuda)?;
    // SAFETY: a context of this process.
    unsafe { driver::result::ctx::set_current(context) }.map_err(cuda)?;

    let id = rendezvous::share(&address()?, place.rank, place.size, START, || {
        let id = result::get_uniqueid().map_err(|error| failed("make NCCL's id", &error, None))?;
        Ok(id.internal.map(|byte| byte as u8))
    })?;
    let id = sys::ncclUniqueId { internal: id.map(|byte| byte as std::ffi::c_char) };
    let mut communicator = std::ptr::null_mut();
    // SAFETY: `communicator` is ours; rank and size were checked by the rendezvous; the GPU's context is current.
    let started = unsafe { result::comm_init_rank(&raw mut communicator, place.size as i32, id, place.rank as i32) };
    started.map_err(|error| failed("start NCCL", &error, None))?;
    let (rank, size) = (place.rank, place.size);
    let pending = Mutex::default();
    let queue = Arc::new(Queue { communicator, context, rank, size, pending, ended: AtomicBool::new(false) });
    let watched = Arc::clone(&queue);
    let watch = std::thread::Builder::new().name("ranks".into()).spawn(move || watched.watch());
    let watch = watch.map_err(|e| crate::TrainError::file("start", std::path::Path::new("the watching thread"), e))?;
    Ok(Ranks::of(Arc::new(Nccl { queue, device, watch: Some(watch) })))
}

/// Where rank 0 listens.
fn address() -> Result<String> {
    let host = std::env::var("MASTER_ADDR").unwrap_or_else(|_| "127.0.0.1".into());
    let port = std::env::var("MASTER_PORT").unwrap_or_else(|_| "29500".into());
    let port: u16 = port.parse().map_err(|_| crate::TrainError::Invalid {
        what: "environment variable MASTER_PORT".into(),
        expected: "a port, 1 to 65534".into(),
        got: format!("`{port}`"),
        remedy: "set it to a free port of the first machine".into(),
    })?;
    // torchrun itself listens on the port that it names.
    let taken = std::env::var("TORCHELASTIC_USE_AGENT_STORE").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(format!("{host}:{}", port.saturating_add(u16::from(taken))))
}

fn failed(what: &str, error: &result::NcclError, communicator: Option<sys::ncclComm_t>) -> crate::TrainError {
    let text = |text: *const std::ffi::c_char| {
        if text.is_null() {
            return String::new();
        }
        // SAFETY: NCCL's messages are static or live as long as the library, and end with 0.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    // SAFETY: any value may be asked for; a null communicator asks for the last error of the process.
    let (name, last) = unsafe {
        (sys::ncclGetErrorString(error.0), sys::ncclGetLastError(communicator.unwrap_or(std::ptr::null_mut())))
    };
    let remedy = "NCCL_DEBUG=INFO makes NCCL say more";
    ranks_error(format!("cannot {what}: {} {}", text(name), text(last)).trim_end().to_owned(), remedy)
}

impl Queue {
    /// Remembers that a sum was queued, for the watching thread.
    fn queued(&self) -> Result<()> {
        let cuda = |error: driver::result::DriverError| ranks_error(format!("CUDA: {error}"), FROM_START);
        let event = driver::result::event::create(driver::sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(cuda)?;
        // SAFETY: an event just made; the null stream is the legacy default one.
        unsafe { driver::result::event::record(event, std::ptr::null_mut()) }.map_err(cuda)?;
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push_back((Instant::now(), event));
        Ok(())
    }

    fn watch(&self) {
        // SAFETY: a context of this process; without it the events below cannot be asked, which ends the watch.
        if unsafe { driver::result::ctx::set_current(self.context) }.is_err() {
            return;
        }
        while !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(1));
            let mut error = sys::ncclResult_t::ncclSuccess;
            // SAFETY: the communicator lives until `Nccl` is dropped, which joins this thread first.
            let asked = unsafe { sys::ncclCommGetAsyncError(self.communicator, &raw mut error) }.result();
            if let Err(reason) = asked.and(error.result()) {
                self.end(&failed("go on with the other ranks", &reason, Some(self.communicator)).to_string());
            }
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(&(since, event)) = pending.front() {
                // SAFETY: an event of ours, destroyed once, below.
                if unsafe { driver::sys::cuEventQuery(event) } != driver::sys::CUresult::CUDA_SUCCESS {
                    if since.elapsed() > PATIENCE {
                        let seconds = PATIENCE.as_secs();
                        self.end(&format!("another rank has not answered for {seconds} s; {FROM_START}"));
                    }
                    break;
                }
                // SAFETY: see above; a failure leaks it.
                let _ = unsafe { driver::result::event::destroy(event) };
                pending.pop_front();
            }
        }
    }

    fn end(&self, reason: &str) -> ! {
        say(&format!("error: rank {} of {}: {reason}", self.rank, self.size));
        self.abort()
    }

    #[allow(clippy::disallowed_methods, reason = "kernels that wait for a rank that is gone cannot be waited for")]
    fn abort(&self) -> ! {
        // SAFETY: ends the kernels that wait for others; nothing is called on the communicator afterwards.
        let _ = unsafe { result::comm_abort(self.communicator) };
        std::process::exit(2)
    }
}

impl Nccl {
    fn element(&self, values: &Tensor) -> Result<sys::ncclDataType_t> {
        check_layout(values, self.device)?;
        // SAFETY: a context of this process; autograd's thread may have had another.
        let current = unsafe { driver::result::ctx::set_current(self.queue.context) };
        current.map_err(|error| ranks_error(format!("CUDA: {error}"), FROM_START))?;
        match values.kind() {
            Kind::Float => Ok(sys::ncclDataType_t::ncclFloat32),
            Kind::Double => Ok(sys::ncclDataType_t::ncclFloat64),
            Kind::Int64 => Ok(sys::ncclDataType_t::ncclInt64),
            kind => Err(ranks_error(format!("{kind:?} tensors are not exchanged"), "this is a bug; please report it")),
        }
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.queue.rank
    }

    fn size(&self) -> usize {
        self.queue.size
    }

    fn device(&self) -> Device {
        self.device
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<()> {
        let (element, pointer) = (self.element(values)?, values.data_ptr());
        // SAFETY: contiguous memory on this rank's GPU, of this kind and length; NCCL allows both pointers to be the same.
        // libtorch gives freed memory only to later work on the same stream.
        let summed = unsafe {
            let sum = sys::ncclRedOp_t::ncclSum;
            let communicator = self.queue.communicator;
            result::all_reduce(pointer, pointer, values.numel(), element, sum, communicator, std::ptr::null_mut())
        };
        summed.map_err(|error| failed("sum over the ranks", &error, Some(self.queue.communicator)))?;
        self.queue.queued()
    }

    fn broadcast(&self, values: &Tensor, root: usize) -> Result<()> {
        let (element, pointer) = (self.element(values)?, values.data_ptr());
        // SAFETY: as for the sum.
        let sent = unsafe {
            let communicator = self.queue.communicator;
            let (root, length) = (root as i32, values.numel());
            result::broadcast(pointer, pointer, length, element, root, communicator, std::ptr::null_mut())
        };
        sent.map_err(|error| failed("send to the ranks", &error, Some(self.queue.communicator)))?;
        self.queue.queued()
    }

    fn barrier(&self) -> Result<()> {
        let one = Tensor::f_ones([1], (Kind::Float, self.device))?;
        self.all_reduce_sum(&one)?;
        // Reading the value waits for it.
        one.f_double_value(&[0]).map(drop).map_err(Into::into)
    }

    fn abort(&self) -> ! {
        self.queue.abort()
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.queue.ended.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            // It does not panic, and there is nobody to tell.
            let _ = watch.join();
        }
        let communicator = self.queue.communicator;
        // SAFETY: nothing uses the communicator any more. In a panic the others are not waited for.
        let _ = unsafe {
            match std::thread::panicking() {
                true => result::comm_abort(communicator),
                false => result::comm_destroy(communicator),
            }
        };
    }
}
