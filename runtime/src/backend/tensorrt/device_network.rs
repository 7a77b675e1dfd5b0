//! An engine on a stream of the caller's, over device memory that kernels write and read: nothing is copied to the host.

use std::ffi::CString;
use std::sync::Arc;

use tensorrt_sys::Context;

use super::backend::{TensorRtEngine, check_profile};
use crate::backend::cuda::{Buffer, Cuda, Memory};
use crate::backend::{BackendError, run_error};

/// A tensor and its memory, which is exactly as long as the shapes at present say.
struct DeviceTensor {
    name: CString,
    is_input: bool,
    shape: Vec<usize>,
    memory: Memory<Buffer, f32>,
}

/// Fields end in order: the context before the memory that it uses.
pub struct DeviceNetwork {
    context: Context,
    tensors: Vec<DeviceTensor>,
    engine: Arc<TensorRtEngine>,
}

impl DeviceNetwork {
    /// A context of an engine, for the stream of `cuda`. Inputs that vary have no shape yet.
    ///
    /// # Errors
    /// When memory runs out, or TensorRT refuses.
    pub fn new(engine: Arc<TensorRtEngine>, cuda: &Cuda) -> Result<Self, BackendError> {
        cuda.make_current()?;
        let words = |error: tensorrt_sys::Error| run_error(&engine.path, format!("no session: {error}"));
        // SAFETY: the stream is of the context that was just made current.
        let context = unsafe { engine.object.context(cuda.stream()) }.map_err(words)?;
        let mut tensors = Vec::with_capacity(engine.tensors.len());
        for tensor in &engine.tensors {
            let name = CString::new(tensor.name.as_str())
                .map_err(|_| run_error(&engine.path, "a tensor's name has a zero byte"))?;
            let memory = Memory::zeros(cuda, 0)?;
            tensors.push(DeviceTensor { name, is_input: tensor.is_input, shape: Vec::new(), memory });
        }
        let mut network = Self { context, tensors, engine };
        if network.engine.inputs.iter().all(|input| input.shape.iter().all(Option::is_some)) {
            network.fit_memory(cuda)?;
        }
        Ok(network)
    }

    /// Gives an input that varies this shape, and all tensors the memory that follows. Nothing may be under way; graphs that
    /// were captured before are stale.
    ///
    /// # Errors
    /// When the engine was not built for the shape, or memory runs out.
    pub fn set_shape(&mut self, cuda: &Cuda, input: &str, shape: &[usize]) -> Result<(), BackendError> {
        self.shape_input(cuda, input, shape)?;
        self.fit_memory(cuda)
    }

    /// Tells TensorRT the shape of an input.
    fn shape_input(&mut self, cuda: &Cuda, input: &str, shape: &[usize]) -> Result<(), BackendError> {
        cuda.make_current()?;
        check_profile(&self.engine.path, input, shape, &self.engine.tensors)?;
        let path = &self.engine.path;
        let tensor = self.tensors.iter().find(|tensor| tensor.is_input && tensor.name.to_bytes() == input.as_bytes());
        let tensor = tensor.ok_or_else(|| run_error(path, format!("there is no input `{input}`")))?;
        self.context.set_shape(&tensor.name, shape).map_err(|error| run_error(path, error))
    }

    fn fit_memory(&mut self, cuda: &Cuda) -> Result<(), BackendError> {
        let path = &self.engine.path;
        for tensor in &mut self.tensors {
            self.context.shape(&tensor.name, &mut tensor.shape).map_err(|error| run_error(path, error))?;
            let len = tensor.shape.iter().product::<usize>();
            if tensor.memory.len() != len || len == 0 {
                tensor.memory = Memory::zeros(cuda, len)?;
            }
            // SAFETY: device memory with room for the tensor; it lives until another address is set or the context, which
            // ends before it.
            unsafe { self.context.set_address(&tensor.name, tensor.memory.address()) }
                .map_err(|error| run_error(path, error))?;
        }
        Ok(())
    }

    /// Gives an input that varies this shape, whose first axis counts frames, for [`DeviceNetwork::enqueue_over`]. Where there is not
    /// enough memory, there is as much as `most` frames of this size need from then on; it never shrinks. Work may be under
    /// way: it is waited for where its memory goes.
    ///
    /// # Errors
    /// As [`DeviceNetwork::set_shape`]; the shape must be set again then.
    pub fn set_batch(&mut self, cuda: &Cuda, input: &str, shape: &[usize; 4], most: usize) -> Result<(), BackendError> {
        self.shape_input(cuda, input, shape)?;
        let path = &self.engine.path;
        let num_frames = shape[0].max(1);
        for tensor in &mut self.tensors {
            self.context.shape(&tensor.name, &mut tensor.shape).map_err(|error| run_error(path, error))?;
            let len = tensor.shape.iter().product::<usize>();
            if tensor.memory.len() < len {
                tensor.memory = Memory::zeros(cuda, len / num_frames * most.max(num_frames))?;
            }
        }
        Ok(())
    }

    /// Starts the network on the stream of `cuda` over memory of the caller's for the tensors that are `given` by name, and over
    /// its own for the others.
    ///
    /// # Errors
    /// When a tensor has less memory than its shape says, or in TensorRT's words.
    pub fn enqueue_over(&mut self, cuda: &Cuda, given: &[(&str, &Memory<Buffer, f32>)]) -> Result<(), BackendError> {
        cuda.make_current()?;
        let path = &self.engine.path;
        for tensor in &self.tensors {
            let of_caller = given.iter().find(|(name, _)| tensor.name.to_bytes() == name.as_bytes());
            let memory = of_caller.map_or(&tensor.memory, |(_, memory)| memory);
            let (len, room) = (tensor.shape.iter().product::<usize>(), memory.len());
            if room < len {
                let name = tensor.name.to_string_lossy();
                return Err(run_error(path, format!("the tensor `{name}` has {len} values, there is room for {room}")));
            }
            // SAFETY: device memory with room for the tensor, as was just checked. The network starts below and nowhere else
            // before all addresses are set again; the driver frees memory only when the work that uses it has ended.
            unsafe { self.context.set_address(&tensor.name, memory.address()) }
                .map_err(|error| run_error(path, error))?;
        }
        self.enqueue(cuda)
    }

    /// Values of a tensor at its present shape; 0 when there is none of this name.
    pub fn num_values(&self, name: &str) -> usize {
        let tensor = self.tensors.iter().find(|tensor| tensor.name.to_bytes() == name.as_bytes());
        tensor.map_or(0, |tensor| tensor.shape.iter().product())
    }

    /// The memory of a tensor, row-major.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn memory(&self, name: &str) -> Result<&Memory<Buffer, f32>, BackendError> {
        let tensor = self.tensors.iter().find(|tensor| tensor.name.to_bytes() == name.as_bytes());
        let tensor = tensor.ok_or_else(|| run_error(&self.engine.path, format!("there is no tensor `{name}`")))?;
        Ok(&tensor.memory)
    }

    /// The same, to be written.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn memory_mut(&mut self, name: &str) -> Result<&mut Memory<Buffer, f32>, BackendError> {
        let tensor = self.tensors.iter_mut().find(|tensor| tensor.name.to_bytes() == name.as_bytes());
        let tensor = tensor.ok_or_else(|| run_error(&self.engine.path, format!("there is no tensor `{name}`")))?;
        Ok(&mut tensor.memory)
    }

    /// Starts the network on the stream of `cuda`, the one that this was made for.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub fn enqueue(&mut self, cuda: &Cuda) -> Result<(), BackendError> {
        cuda.make_current()?;
        // SAFETY: every tensor has memory of its shape (`fit_memory`, `enqueue_over`), which nobody frees while work is under
        // way; TensorRT refuses itself when an input has no shape.
        unsafe { self.context.enqueue(cuda.stream()) }
            .map_err(|error| run_error(&self.engine.path, format!("the run failed: {error}")))
    }

    /// The network's file, for messages.
    pub fn path(&self) -> &std::path::Path {
        &self.engine.path
    }
}
