//! TensorRT, opened at run time, behind a thin C++ shim (`shim/`) that is compiled against the machine's own headers.
//!
//! The order in which things may be touched, because TensorRT crashes in another one:
//!
//! 1. [`Library::open`] opens libnvinfer and reads its version, which needs no GPU and no driver. It refuses one that is too
//!    old or of another major version than the headers: virtual tables and enumerations differ between those.
//! 2. Somebody starts the CUDA driver (`cuInit`), and has a [`CudaReady`] to show for it.
//! 3. Only then are there objects: [`Runtime`] → [`Engine`] → [`Context`], each of which holds the one that it came from, and
//!    [`Library::build`], which makes the bytes of an engine out of an ONNX file.
//!
//! The library is never closed: TensorRT does not survive that. What it logs goes to the crate `log`, target `tensorrt`; the
//! last errors about a call also become part of ours, because its functions only say that they failed (`log_lines.rs`).
#![allow(unsafe_code)]

mod library;
mod log_lines;
mod objects;
mod raw;

pub use library::{LIBRARY_STEM, Library, LibraryError, LibraryErrorKind, OLDEST, Version, header_version};
pub use log_lines::LogRecording;
pub use objects::{
    Build, BuildProgress, Built, Context, CudaReady, Engine, Error, InputRange, NewerTimings, Runtime, Tensor,
};
