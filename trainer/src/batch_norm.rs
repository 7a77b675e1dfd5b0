//! Batch normalisation of tokens among which there is spare room. [T4]
//!
//! The number of tokens that count is a value on the device, which nobody has to wait for
//! ([`models::arch::clustering_transformer::training_with_spare_room`]).

use tch::{Kind, Tensor};

use crate::error::Result;
use crate::parallel::BatchNorm;

/// Which tokens make the statistics.
pub(crate) struct Counted {
    /// Of every row 1 / n if it counts, else 0, `[1, rows]`.
    shares: Tensor,
    /// n / (n − 1), `[1]`.
    unbiased: Tensor,
}

impl Counted {
    /// From 1 for every token that counts and 0 for the others, `[b, tokens]`.
    pub(crate) fn new(mask: &Tensor) -> Result<Self> {
        tch::no_grad(|| {
            let row = mask.f_reshape([1, -1])?;
            let number = row.f_sum(None::<Kind>)?;
            Ok(Counted { shares: row.f_div(&number)?, unbiased: number.f_div(&number.f_sub_scalar(1.0)?)? })
        })
    }
}

/// Normalises rows `[b · tokens, c]`, counted or not, by mean and variance of the counted ones, with gradient, and moves
/// the running statistics.
pub(crate) fn batch_norm_of_counted(rows: &Tensor, counted: &Counted, norm: &BatchNorm<'_>) -> Result<Tensor> {
    let mean = counted.shares.f_matmul(rows)?;
    let centred = rows.f_sub(&mean)?;
    let variance = counted.shares.f_matmul(&centred.f_square()?)?;
    tch::no_grad(|| -> Result<()> {
        let [mean, variance] = [mean.f_squeeze_dim(0)?, (&variance * &counted.unbiased).f_squeeze_dim(0)?];
        let _ = norm.running_mean.shallow_clone().f_lerp_(&mean, norm.momentum)?;
        let _ = norm.running_variance.shallow_clone().f_lerp_(&variance, norm.momentum)?;
        Ok(())
    })?;
    let factor = variance.f_add_scalar(norm.epsilon)?.f_rsqrt()?.f_mul(norm.scale)?;
    Ok(norm.bias.f_addcmul(&centred, &factor)?)
}
