//! Graph ⇄ ONNX (opset 17). Writing the same graph and weights gives the same bytes every time.

pub mod proto;
mod read;
mod write;

pub use read::{read, signature};
pub use write::{Storage, write};

/// The ONNX operator set that files declare: read by ONNX Runtime, rten and TensorRT 8.6 / 10 / 11 alike.
pub const OPSET: i64 = 17;
