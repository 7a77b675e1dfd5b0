//! Graph ⇄ ONNX (opset 17; 19 where fp16 is quantised). Writing the same graph and weights gives the same bytes every time.

pub mod proto;
mod read;
mod write;

pub use read::{read, signature};
pub use write::{Storage, write};

/// The ONNX operator set that files declare, unless they quantise fp16: read by ONNX Runtime, rten and TensorRT 8.6 / 10 / 11 alike.
pub const OPSET: i64 = 17;

/// The operator set of files that quantise fp16, which earlier ones do not define. TensorRT 10 and newer read it.
pub const OPSET_QUANTIZED_HALF: i64 = 19;
