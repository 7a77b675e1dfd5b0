//! The kernels of `../kernels/*.cu` on a GPU: preprocessing, spherical k-means, the nearest prototypes, refinement.
//!
//! [`Executor`] is what runs kernels: `Cuda`, the driver (cargo feature `cuda`; libcuda is opened at run time, nothing is
//! linked), or the CPU twin of `tests/kernel_twin`, which compiles the same sources for the host. [`Preprocess`],
//! [`Kmeans`], [`TopK`], [`Refine`] and [`FrameSteps`] own their memory on the device and start kernels; nothing is allocated
//! once they are made, so a chain of them can be captured as a CUDA graph. `../tensorrt/frame.rs` is that chain. [`checks`] compares them with the Rust code that they must
//! equal, on either executor.
//!
//! This folder holds the crate's only unsafe code: calls of the driver and of kernels.
#![allow(unsafe_code)]

#[cfg(feature = "cuda")]
mod driver;
mod executor;
mod frame_steps;
mod kmeans;
mod preprocess;
#[cfg(feature = "cuda")]
mod quiet;
mod refine;
#[cfg(feature = "cuda")]
mod search;
mod top_k;

pub mod checks;

#[cfg(feature = "cuda")]
pub use driver::{Buffer, Cuda, DeviceInfo, Event, Graph, HostMemory, StagedBuffer, look};
pub use executor::{Argument, Executor, Kernel, MAX_ARGUMENTS, Memory};
pub use frame_steps::{FrameSteps, MAX_SIDE, MapAxes, NONE_NOT_FINITE};
pub use kmeans::{Kmeans, LastSegments};
pub use preprocess::Preprocess;
#[cfg(feature = "cuda")]
pub use quiet::{Noise, noise};
pub use refine::Refine;
#[cfg(feature = "cuda")]
pub use search::{DeviceSearch, Nearest};
pub use top_k::{DeviceBank, Found, MAX_K, NO_NEIGHBOUR, TopK};
