//! The functions of `shim/shim.h`, one to one.

use std::ffi::{c_char, c_void};

/// Room for words about a failure.
pub const ERROR_BYTES: usize = 2048;
/// Most axes of a tensor.
pub const MAX_DIMS: usize = 8;

pub type Log = extern "C" fn(severity: i32, text: *const c_char);
pub type Sink = extern "C" fn(to: *mut c_void, kind: i32, bytes: *const c_void, length: usize);
pub type Progress =
    extern "C" fn(to: *mut c_void, phase: *const c_char, parent: *const c_char, steps: i32, done: i32) -> i32;
pub type Newer = extern "C" fn(to: *mut c_void, length: *mut usize) -> *const c_void;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Dims {
    pub count: i32,
    pub lengths: [i64; MAX_DIMS],
}

#[repr(C)]
pub struct Tensor {
    pub name: *const c_char,
    pub is_input: i32,
    pub is_float: i32,
    pub dims: Dims,
    pub least: Dims,
    pub most: Dims,
}

#[repr(C)]
pub struct Range {
    pub input: *const c_char,
    pub least: Dims,
    pub best: Dims,
    pub most: Dims,
}

#[repr(C)]
pub struct Build {
    pub onnx: *const c_void,
    pub onnx_bytes: usize,
    pub fp16: i32,
    pub int8: i32,
    pub hardware_compatible: i32,
    pub workspace_bytes: u64,
    pub timing_cache: *const c_void,
    pub timing_cache_bytes: usize,
    pub ranges: *const Range,
    pub num_ranges: usize,
    pub sink: Sink,
    pub progress: Progress,
    pub newer_timings: Newer,
    pub to: *mut c_void,
}

unsafe extern "C" {
    pub fn hsg_trt_header_version(major: *mut i32, minor: *mut i32, patch: *mut i32);
    pub fn hsg_trt_set_log(log: Log);
    pub fn hsg_trt_runtime_new(create: *mut c_void, error: *mut c_char) -> *mut c_void;
    pub fn hsg_trt_runtime_delete(runtime: *mut c_void);
    pub fn hsg_trt_engine_new(
        runtime: *mut c_void,
        bytes: *const c_void,
        length: usize,
        error: *mut c_char,
    ) -> *mut c_void;
    pub fn hsg_trt_engine_delete(engine: *mut c_void);
    pub fn hsg_trt_engine_num_tensors(engine: *mut c_void) -> i32;
    pub fn hsg_trt_engine_tensor(engine: *mut c_void, index: i32, tensor: *mut Tensor, error: *mut c_char) -> i32;
    pub fn hsg_trt_engine_activation_bytes(engine: *mut c_void) -> i64;
    pub fn hsg_trt_engine_layers(engine: *mut c_void, sink: Sink, to: *mut c_void, error: *mut c_char) -> i32;
    pub fn hsg_trt_context_new(engine: *mut c_void, stream: *mut c_void, error: *mut c_char) -> *mut c_void;
    pub fn hsg_trt_context_delete(context: *mut c_void);
    pub fn hsg_trt_context_set_shape(
        context: *mut c_void,
        input: *const c_char,
        dims: *const Dims,
        error: *mut c_char,
    ) -> i32;
    pub fn hsg_trt_context_shape(
        context: *mut c_void,
        tensor: *const c_char,
        dims: *mut Dims,
        error: *mut c_char,
    ) -> i32;
    pub fn hsg_trt_context_set_address(
        context: *mut c_void,
        tensor: *const c_char,
        address: *mut c_void,
        error: *mut c_char,
    ) -> i32;
    pub fn hsg_trt_context_enqueue(context: *mut c_void, stream: *mut c_void, error: *mut c_char) -> i32;
    pub fn hsg_trt_build_engine(
        create_builder: *mut c_void,
        create_parser: *mut c_void,
        build: *const Build,
        error: *mut c_char,
    ) -> i32;
}
