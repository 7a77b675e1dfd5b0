//! The CUDA kernels on the CPU: `tests/kernel_twin` compiles their sources for the host, and this runs them behind the same
//! trait as a GPU does.
#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CString, c_char, c_int, c_void};

use runtime::backend::cuda::{Argument, Executor, Kernel, MAX_ARGUMENTS};
use runtime::backend::{BackendError, BackendErrorKind};

unsafe extern "C" {
    // SAFETY: tests/kernel_twin/twin.cpp.
    fn hsg_twin_launch(
        name: *const c_char,
        grid_x: u32,
        grid_y: u32,
        num_threads: u32,
        backwards: c_int,
        arguments: *mut *mut c_void,
    ) -> c_int;
}

/// Runs kernels at once, on the calling thread. The threads of a block take turns forwards in every other launch, backwards
/// in the others: what depends on their order shows.
#[derive(Debug)]
pub struct Twin {
    num_launches: Cell<usize>,
    num_multiprocessors: usize,
}

impl Twin {
    /// A twin of a GPU with this many multiprocessors: what grids are fitted to.
    pub fn new(num_multiprocessors: usize) -> Self {
        Self { num_launches: Cell::new(0), num_multiprocessors }
    }
}

/// Memory that kernels write to through shared references, aligned to 16 bytes.
#[derive(Debug)]
pub struct TwinBuffer {
    words: Box<[UnsafeCell<u128>]>,
    num_bytes: usize,
}

impl TwinBuffer {
    fn pointer(&self) -> *mut u8 {
        self.words.as_ptr().cast::<u8>().cast_mut()
    }

    fn expect_room(&self, num_bytes: usize) -> Result<(), BackendError> {
        if num_bytes <= self.num_bytes {
            return Ok(());
        }
        let message = format!("{num_bytes} bytes do not fit memory of {}", self.num_bytes);
        Err(BackendError::new(BackendErrorKind::Run, message))
    }
}

impl Executor for Twin {
    type Buffer = TwinBuffer;

    fn alloc(&self, num_bytes: usize) -> Result<TwinBuffer, BackendError> {
        // Contents are as good as undefined: nothing that is meant.
        let words = (0..num_bytes.div_ceil(16)).map(|_| UnsafeCell::new(u128::MAX / 0xff * 0xa5)).collect();
        Ok(TwinBuffer { words, num_bytes })
    }

    fn upload(&self, from: &[u8], to: &mut TwinBuffer) -> Result<(), BackendError> {
        to.expect_room(from.len())?;
        // SAFETY: `to` is borrowed for writing and long enough, as was just checked.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.pointer(), from.len()) };
        Ok(())
    }

    fn download(&self, from: &TwinBuffer, to: &mut [u8]) -> Result<(), BackendError> {
        from.expect_room(to.len())?;
        // SAFETY: the memory is long enough; kernels run inside of `launch` only, so nobody writes meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(from.pointer(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn fill(&self, byte: u8, to: &mut TwinBuffer) -> Result<(), BackendError> {
        // SAFETY: `to` is borrowed for writing and has that many bytes.
        unsafe { std::ptr::write_bytes(to.pointer(), byte, to.num_bytes) };
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 2],
        num_threads: u32,
        arguments: &[Argument<'_, TwinBuffer>],
    ) -> Result<(), BackendError> {
        let fail = |message: String| BackendError::new(BackendErrorKind::Run, message);
        if arguments.len() != kernel.num_arguments() {
            let (expected, got) = (kernel.num_arguments(), arguments.len());
            return Err(fail(format!("{} takes {expected} arguments, got {got}", kernel.name())));
        }
        let mut values = [0u64; MAX_ARGUMENTS];
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_ARGUMENTS];
        for ((value, pointer), argument) in values.iter_mut().zip(&mut pointers).zip(arguments) {
            let place: *mut u64 = value;
            // SAFETY: every value has eight bytes; the kernel reads as many of them as its parameter has.
            unsafe {
                match *argument {
                    Argument::Memory(buffer) => place.cast::<*mut u8>().write(buffer.pointer()),
                    Argument::Null => place.write(0),
                    Argument::Int(number) => place.cast::<i32>().write(number),
                    Argument::Float(number) => place.cast::<f32>().write(number),
                }
            }
            *pointer = place.cast();
        }
        self.num_launches.set(self.num_launches.get() + 1);
        let backwards = (self.num_launches.get() % 2) as c_int;
        let name = CString::new(kernel.name()).unwrap_or_default();
        // SAFETY: name and arguments outlive the call; what they describe is the caller's promise.
        let code =
            unsafe { hsg_twin_launch(name.as_ptr(), grid[0], grid[1], num_threads, backwards, pointers.as_mut_ptr()) };
        match code {
            0 => Ok(()),
            1 => Err(fail(format!("the twin has no kernel {}", kernel.name()))),
            2 => Err(fail(format!("threads of {} wait for each other for ever", kernel.name()))),
            _ => Err(fail(format!("{} has too many threads: {num_threads}", kernel.name()))),
        }
    }

    fn num_multiprocessors(&self) -> usize {
        self.num_multiprocessors
    }
}
