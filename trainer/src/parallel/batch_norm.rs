//! Batch normalisation with the statistics of all ranks' batches.

use tch::{Kind, Tensor};

use super::Ranks;
use crate::error::Result;

/// Parameters, running statistics and constants of a batch norm over c channels.
pub struct BatchNorm<'a> {
    /// `[c]`.
    pub scale: &'a Tensor,
    /// `[c]`.
    pub bias: &'a Tensor,
    /// Moved by the call, `[c]`.
    pub running_mean: &'a Tensor,
    /// Moved by the call, `[c]`.
    pub running_variance: &'a Tensor,
    /// Weight of the new statistics.
    pub momentum: f64,
    /// Added to the variance.
    pub epsilon: f64,
}

/// Normalises `x` `[n, c, …]` by mean and variance over all but the channels, of all ranks' `x` together (n may differ),
/// with gradient, and moves the running statistics: what one process's batch norm does in training with the batches
/// side by side.
///
/// Each rank computes mean and variance of its own values, in two passes as libtorch does; these and the counts are
/// exchanged in one call and put together (Chan et al. 1979), so nothing cancels as in Σx² − (Σx)². All ranks get the
/// same bits.
///
/// # Errors
/// As [`Ranks::sum`].
pub fn batch_norm(ranks: &Ranks, x: &Tensor, norm: &BatchNorm<'_>) -> Result<Tensor> {
    let size = x.size();
    let channels = size[1];
    let over: Vec<i64> = (0..size.len() as i64).filter(|dim| *dim != 1).collect();
    let count = (x.numel() as i64 / channels.max(1)) as f64;
    let (variance, mean) = x.f_var_mean_correction(over.as_slice(), 0, false)?;
    let count = Tensor::f_full([1], count, (mean.kind(), mean.device()))?;
    let own = Tensor::f_cat(&[mean, variance, count], 0)?.f_unsqueeze(0)?;

    let all = ranks.gather(&ranks.even_rows(1), &own)?;
    let parts = all.f_split_with_sizes([channels, channels, 1], 1)?;
    let (means, variances, counts) = (&parts[0], &parts[1], &parts[2]);
    let total = counts.f_sum(None::<Kind>)?;
    let weights = counts.f_div(&total)?;
    let over_ranks = [0i64].as_slice();
    let mean = means.f_mul(&weights)?.f_sum_dim_intlist(over_ranks, false, None::<Kind>)?;
    let spread = variances.f_add(&means.f_sub(&mean)?.f_square()?)?;
    let variance = spread.f_mul(&weights)?.f_sum_dim_intlist(over_ranks, false, None::<Kind>)?;

    tch::no_grad(|| -> Result<()> {
        let unbiased = variance.f_mul(&(&total / (&total - 1.0)))?;
        let _ = norm.running_mean.shallow_clone().f_lerp_(&mean, norm.momentum)?;
        let _ = norm.running_variance.shallow_clone().f_lerp_(&unbiased, norm.momentum)?;
        Ok(())
    })?;

    let factor = norm.scale.f_mul(&variance.f_add_scalar(norm.epsilon)?.f_rsqrt()?)?;
    let offset = norm.bias.f_sub(&mean.f_mul(&factor)?)?;
    let mut shape = vec![1i64; size.len()];
    shape[1] = channels;
    Ok(offset.f_view(shape.as_slice())?.f_addcmul(x, &factor.f_view(shape.as_slice())?)?)
}
