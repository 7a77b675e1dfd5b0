//! The training losses of method.md §5, one per file; all are batched and run on the tensors' device.

pub mod goodness_of_grouping;
pub mod image_blocks;
pub mod pixel_segment;

use tch::{Kind, Tensor};

/// Inverse temperature 1/T of every contrastive term (T = 1/16).
pub const CONCENTRATION: f64 = 16.0;

/// `x` divided by its Euclidean norm along `dim`; a vector shorter than 1e-12 stays as it is (divided by 1e-12).
pub fn unit(x: &Tensor, dim: i64) -> Tensor {
    x / x.linalg_norm(2.0, [dim].as_slice(), true, None::<Kind>).clamp_min(1e-12)
}
