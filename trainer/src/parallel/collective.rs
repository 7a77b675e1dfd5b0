//! The sum over ranks that autograd goes back through; `collective.cpp` is its other half.

use std::sync::Arc;

use tch::Tensor;

use super::Communicator;
use crate::error::Result;

#[cfg(feature = "collective")]
pub(super) use shim::sum;

/// Without the feature `collective` there is no communicator.
#[cfg(not(feature = "collective"))]
pub(super) fn sum(_: &Arc<dyn Communicator>, _: &Tensor) -> Result<Tensor> {
    Err(super::place::not_compiled("a sum over ranks", "mpi or nccl"))
}

#[cfg(feature = "collective")]
#[allow(unsafe_code, reason = "libtorch's autograd is extended in C++, and tensors cross as pointers")]
mod shim {
    use std::ffi::{CStr, c_char, c_int, c_void};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use torch_sys::C_tensor;

    use super::*;
    use crate::parallel::ranks_error;

    type SumInPlace = extern "C" fn(*mut c_void, *mut C_tensor, *mut c_char, usize) -> c_int;
    type Release = extern "C" fn(*mut c_void);

    unsafe extern "C" {
        fn hsg_sum_over_ranks(
            x: *const C_tensor,
            context: *mut c_void,
            sum: SumInPlace,
            release: Release,
            result: *mut *mut C_tensor,
            message: *mut c_char,
            capacity: usize,
        ) -> c_int;
    }

    /// A thin pointer to a communicator, for the graph to own.
    type Context = Box<Arc<dyn Communicator>>;

    /// Σ over the ranks of `x`, with gradient.
    pub(in crate::parallel) fn sum(communicator: &Arc<dyn Communicator>, x: &Tensor) -> Result<Tensor> {
        let context: Context = Box::new(Arc::clone(communicator));
        let mut result = std::ptr::null_mut();
        let mut message: [c_char; 512] = [0; 512];
        // SAFETY: `x` is a live tensor that the C++ side reads only. `context` is taken over by it in every case and
        // comes back once, to `release`, when the last node of the graph is freed. `result` and `message` are ours and
        // outlive the call; the message ends with 0, as it was zeroed and snprintf ends what it writes.
        let code = unsafe {
            hsg_sum_over_ranks(
                x.as_ptr(),
                Box::into_raw(context).cast(),
                sum_in_place,
                release,
                &raw mut result,
                message.as_mut_ptr(),
                message.len(),
            )
        };
        if code != 0 {
            // SAFETY: see above.
            let message = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned();
            return Err(ranks_error(message, "the first rank that stopped says why"));
        }
        // SAFETY: on success this is a new `torch::Tensor`, which nobody else owns.
        Ok(unsafe { Tensor::from_ptr(result) })
    }

    /// Called by the C++ side, in the forward pass by the thread of [`sum`], in the backward pass by autograd's.
    extern "C" fn sum_in_place(
        context: *mut c_void,
        tensor: *mut C_tensor,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the pointer that `sum` made, which lives until `release`; communicators are Sync.
            let communicator = unsafe { &*context.cast::<Arc<dyn Communicator>>() };
            // SAFETY: a live tensor; the clone shares its memory and counts as one more owner.
            let values = unsafe { Tensor::clone_from_ptr(tensor) };
            communicator.all_reduce_sum(&values)
        }));
        let text = match outcome {
            Ok(Ok(())) => return 0,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a panic, printed above".to_owned(),
        };
        let length = text.len().min(capacity.saturating_sub(1));
        // SAFETY: `message` has `capacity` bytes, of which the last one written is the 0.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), message, length);
            *message.add(length) = 0;
        }
        1
    }

    extern "C" fn release(context: *mut c_void) {
        // SAFETY: the pointer that `sum` made; called once.
        let context: Context = unsafe { Box::from_raw(context.cast()) };
        // A panic may not leave this function; dropping a communicator has none to lose.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(context)));
    }
}
