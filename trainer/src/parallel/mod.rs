//! Several processes ("ranks") that learn as one. [T7]
//!
//! R ranks with B images each compute what one process computes with R·B images. The rule that everything here
//! follows: **each rank computes a loss L_r such that the mean of L_r over the ranks is the loss L of the global
//! batch.** [`Ranks::sum`] sums over the ranks in both directions (y = Σ x_r, dx = Σ dy_r), so backward gives each rank
//! the derivative of Σ_r L_r by its own copy of the parameters, and the mean of those gradients over the ranks
//! ([`Ranks::average`]) is dL/dθ.
//!
//! What is global in a step, and how it is made so:
//!
//! | quantity | in one process | over ranks |
//! |---|---|---|
//! | images of a step | positions `step · R·B + i` | rank r takes i in `r·B .. (r+1)·B` ([`Ranks::part`]); random streams count globally |
//! | batch statistics | over batch × cells, batch × tokens | [`batch_norm()`]: every rank's mean, variance and count, gathered with gradient |
//! | length N of padded token sets | longest image | [`Ranks::max`]: N is counted by batch norm, feature mapping and collapse |
//! | segments of L_f | whole batch | [`Ranks::gather`] of features (with gradient) and group ids; image numbers start at r·B |
//! | mean of L_f over pixels | Σ / P | Σ over own pixels · R / P of all ranks |
//! | modularity, collapse | mean over images | mean over own images (as many on every rank) |
//! | centroid separation | centroids of all images | on gathered centroids, the same value on every rank |
//! | dropout | one mask | a mask a rank: the seed counts the rank; equality holds without dropout |
//! | gradients | – | [`Ranks::average`] |
//! | numbers that are printed or decide something | – | [`Ranks::mean`], [`Ranks::any`]: every rank decides alike |
//!
//! Every rank must make the same calls in the same order, in the forward and in the backward pass. The backward order
//! is that of the graph (later nodes first), which is the same on all ranks because they run the same program; on a
//! CPU libtorch runs it in the thread that calls it, on a GPU in one thread of its own per device.

mod batch_norm;
mod collective;
pub mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod place;
#[cfg(feature = "nccl")]
mod rendezvous;
#[cfg(feature = "collective")]
pub mod threads;

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::error::{Result, TrainError};
use crate::progress::say;

pub use batch_norm::{BatchNorm, batch_norm};
pub use place::{Place, connect};

/// Elements that one call sums at most: 32 MB, few enough calls and little memory besides the gradients.
const BUCKET_ELEMENTS: i64 = 8 << 20;

/// How ranks exchange numbers. Tensors are contiguous, on [`Communicator::device`], of kind float, double or int64,
/// and have the same size on every rank; all ranks make the same calls in the same order.
pub trait Communicator: Send + Sync {
    /// This process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Where tensors must be.
    fn device(&self) -> Device;

    /// Puts the sum over all ranks in the place of `values`.
    ///
    /// # Errors
    /// When another rank is gone, or the tensor is not as the trait says.
    fn all_reduce_sum(&self, values: &Tensor) -> Result<()>;

    /// Puts the values of rank `root` in the place of `values`.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_sum`].
    fn broadcast(&self, values: &Tensor, root: usize) -> Result<()>;

    /// Returns when all ranks are here.
    ///
    /// # Errors
    /// When another rank is gone.
    fn barrier(&self) -> Result<()>;

    /// Ends all ranks, this one with exit code 2. The reason is already printed.
    fn abort(&self) -> !;
}

/// The processes of a run as one of them sees them; cheap to clone. Alone by default: then nothing is copied, sent or
/// computed.
#[derive(Clone, Default)]
pub struct Ranks(Option<Arc<dyn Communicator>>);

/// Where the rows of a rank lie among those of all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Rows of the ranks before this one.
    pub before: i64,
    /// Rows of this rank.
    pub own: i64,
    /// Rows of all ranks.
    pub total: i64,
}

impl Ranks {
    /// One process.
    pub fn alone() -> Self {
        Ranks(None)
    }

    /// The ranks that `communicator` connects; alone if it is one.
    pub fn of(communicator: Arc<dyn Communicator>) -> Self {
        Ranks((communicator.size() > 1).then_some(communicator))
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |c| c.rank())
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |c| c.size())
    }

    /// Whether there is no other process.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this process writes checkpoints, metrics and progress.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The indices of this rank among `total` images of a step.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] when they cannot be shared out evenly; the message has the numbers of ranks that can.
    pub fn part(&self, total: usize) -> Result<Range<usize>> {
        let size = self.size();
        if total == 0 || !total.is_multiple_of(size) {
            let fitting: Vec<String> =
                (1..=total).filter(|n| total.is_multiple_of(*n)).map(|n| n.to_string()).collect();
            let next = total.next_multiple_of(size).max(size);
            return Err(TrainError::Invalid {
                what: "setting `batch.images`, the images of a step on all ranks together,".into(),
                expected: format!("a multiple of the {size} ranks"),
                got: total.to_string(),
                remedy: format!("start {} ranks, or set it to {next}", fitting.join(", ")),
            });
        }
        let share = total / size;
        Ok(self.rank() * share..(self.rank() + 1) * share)
    }

    /// Σ over the ranks of `x` (any shape, the same on all), with gradient: dx = Σ over the ranks of dy.
    ///
    /// # Errors
    /// [`TrainError::Ranks`] when another rank is gone; [`TrainError::Torch`].
    pub fn sum(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            None => Ok(x.shallow_clone()),
            Some(communicator) => collective::sum(communicator, x),
        }
    }

    /// Where `own` rows of this rank lie among all.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn rows(&self, own: i64) -> Result<Rows> {
        let Some(communicator) = &self.0 else { return Ok(Rows { before: 0, own, total: own }) };
        let mut counts = vec![0i64; communicator.size()];
        counts[communicator.rank()] = own;
        self.sum_numbers(&mut counts)?;
        Ok(Rows { before: counts[..communicator.rank()].iter().sum(), own, total: counts.iter().sum() })
    }

    /// Where the rows of this rank lie when all ranks have `own` rows.
    pub fn even_rows(&self, own: i64) -> Rows {
        Rows { before: self.rank() as i64 * own, own, total: self.size() as i64 * own }
    }

    /// The rows of all ranks, `[total, …]`, in the order of the ranks, from this rank's `[own, …]`. Floats keep their
    /// gradient: each rank's rows get the sum of the gradients that all ranks have for them.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn gather(&self, rows: &Rows, values: &Tensor) -> Result<Tensor> {
        let Some(communicator) = &self.0 else { return Ok(values.shallow_clone()) };
        // Zeros in the others' places: x + 0 is exact, so all ranks get the same bits whatever order sums are made in.
        let mut size = values.size();
        let mut zeros = |count: i64| {
            size[0] = count;
            Tensor::f_zeros(&size, (values.kind(), values.device()))
        };
        let parts = [zeros(rows.before)?, values.shallow_clone(), zeros(rows.total - rows.before - rows.own)?];
        let placed = Tensor::f_cat(&parts, 0)?;
        if placed.kind() == Kind::Int64 {
            communicator.all_reduce_sum(&placed)?;
            return Ok(placed);
        }
        self.sum(&placed)
    }

    /// The largest of the ranks' `value`s, which must not be negative.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn max(&self, value: i64) -> Result<i64> {
        let Some(communicator) = &self.0 else { return Ok(value) };
        let mut values = vec![0i64; communicator.size()];
        values[communicator.rank()] = value;
        self.sum_numbers(&mut values)?;
        Ok(values.into_iter().max().unwrap_or(value))
    }

    /// Whether `value` is true on any rank.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn any(&self, value: bool) -> Result<bool> {
        Ok(self.max(i64::from(value))? > 0)
    }

    /// Checks that all ranks have the same `value` of `what`, for example the step they start from.
    ///
    /// # Errors
    /// [`TrainError::Ranks`] on every rank when they differ, with all values.
    pub fn agree(&self, what: &str, value: i64) -> Result<()> {
        let Some(communicator) = &self.0 else { return Ok(()) };
        let mut values = vec![0i64; communicator.size()];
        values[communicator.rank()] = value;
        self.sum_numbers(&mut values)?;
        if values.iter().all(|v| *v == value) {
            return Ok(());
        }
        Err(ranks_error(
            format!("{what} is not the same on all ranks: {values:?}"),
            "start them with the same command, and on machines that share the run folder",
        ))
    }

    /// The ranks' total of each of the `values`.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn sum_numbers(&self, values: &mut [i64]) -> Result<()> {
        let Some(communicator) = &self.0 else { return Ok(()) };
        let tensor = Tensor::f_from_slice(values)?.f_to_device(communicator.device())?;
        communicator.all_reduce_sum(&tensor)?;
        let length = values.len();
        Ok(tensor.f_to_device(Device::Cpu)?.f_copy_data(values, length)?)
    }

    /// The ranks' mean of each of the `values`; a value that is no number on one rank is none on all.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn mean(&self, values: &mut [f64]) -> Result<()> {
        let Some(communicator) = &self.0 else { return Ok(()) };
        let tensor = Tensor::f_from_slice(values)?.f_to_device(communicator.device())?;
        communicator.all_reduce_sum(&tensor)?;
        let length = values.len();
        tensor.f_to_device(Device::Cpu)?.f_copy_data(values, length)?;
        values.iter_mut().for_each(|value| *value /= communicator.size() as f64);
        Ok(())
    }

    /// The mean over the ranks of the gradients of `params`, in their memory layout. A gradient that is undefined on
    /// all ranks stays so; where only some have one, the others count as zero.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn average(&self, params: &[&Tensor], gradients: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let Some(communicator) = &self.0 else { return Ok(gradients) };
        tch::no_grad(|| {
            let mut defined: Vec<i64> = gradients.iter().map(|g| i64::from(g.defined())).collect();
            self.sum_numbers(&mut defined)?;
            let mut averaged: Vec<Tensor> = Vec::with_capacity(gradients.len());
            for ((gradient, param), &count) in gradients.into_iter().zip(params).zip(&defined) {
                averaged.push(if count == 0 || gradient.defined() { gradient } else { param.f_zeros_like()? });
            }
            let mut rest: &mut [Tensor] = &mut averaged;
            while !rest.is_empty() {
                let mut elements = 0;
                let bucket = |tensor: &Tensor| {
                    elements += if tensor.defined() { tensor.numel() as i64 } else { 0 };
                    elements <= BUCKET_ELEMENTS
                };
                // At least one, which may be larger.
                let length = rest.iter().map(bucket).take_while(|fits| *fits).count().max(1);
                let (now, later) = rest.split_at_mut(length);
                average_bucket(communicator.as_ref(), now)?;
                rest = later;
            }
            Ok(averaged)
        })
    }

    /// Gives `tensors` the values that they have on rank 0.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn broadcast<'a>(&self, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
        let Some(communicator) = &self.0 else { return Ok(()) };
        tch::no_grad(|| {
            for tensor in tensors {
                // A tensor may have its channels innermost.
                let flat = copied(&tensor.f_detach()?.f_reshape([-1])?)?;
                communicator.broadcast(&flat, 0)?;
                tensor.detach().f_copy_(&flat.f_view(tensor.size().as_slice())?)?;
            }
            Ok(())
        })
    }

    /// Returns when all ranks are here.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub fn barrier(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |communicator| communicator.barrier())
    }

    /// Returns the error when alone. Else prints it with this rank's number and ends all ranks with exit code 2: the
    /// others would wait for this one for ever.
    pub fn stop_all(&self, error: TrainError) -> TrainError {
        let Some(communicator) = &self.0 else { return error };
        say(&format!("error: rank {} of {}: {error}", communicator.rank(), communicator.size()));
        communicator.abort()
    }
}

/// Replaces the defined gradients by their means over the ranks.
fn average_bucket(communicator: &dyn Communicator, gradients: &mut [Tensor]) -> Result<()> {
    let mut flat = Vec::with_capacity(gradients.len());
    for gradient in gradients.iter().filter(|g| g.defined()) {
        flat.push(gradient.f_reshape([-1])?);
    }
    if flat.is_empty() {
        return Ok(());
    }
    let sizes: Vec<i64> = flat.iter().map(|part| part.numel() as i64).collect();
    let buffer = Tensor::f_cat(&flat, 0)?;
    communicator.all_reduce_sum(&buffer)?;
    let buffer = buffer.f_div_scalar(communicator.size() as f64)?;
    let parts = buffer.f_split_with_sizes(&sizes, 0)?;
    for (gradient, part) in gradients.iter_mut().filter(|g| g.defined()).zip(parts) {
        // A new tensor: a gradient may share its memory with another one.
        let mut mean = gradient.f_empty_like()?;
        mean.f_copy_(&part.f_view(gradient.size().as_slice())?)?;
        *gradient = mean;
    }
    Ok(())
}

/// Its values in memory of their own, without gradient.
fn copied(values: &Tensor) -> Result<Tensor> {
    let mut copy = values.f_detach()?.f_empty_like()?;
    copy.f_copy_(&values.f_detach()?)?;
    Ok(copy)
}

/// The checks that every communicator makes: contiguous, on `device`.
#[cfg(feature = "collective")]
fn check_layout(values: &Tensor, device: Device) -> Result<()> {
    if values.is_contiguous() && values.device() == device {
        return Ok(());
    }
    Err(ranks_error(
        format!("a tensor of size {:?} on {:?} was to be exchanged on {device:?}", values.size(), values.device()),
        "this is a bug; please report it",
    ))
}

/// A [`TrainError::Ranks`].
fn ranks_error(what: impl Into<String>, remedy: impl Into<String>) -> TrainError {
    TrainError::Ranks { what: what.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many, without exchanging anything.
    struct Counted(usize, usize);

    impl Communicator for Counted {
        fn rank(&self) -> usize {
            self.0
        }
        fn size(&self) -> usize {
            self.1
        }
        fn device(&self) -> Device {
            Device::Cpu
        }
        fn all_reduce_sum(&self, _: &Tensor) -> Result<()> {
            Ok(())
        }
        fn broadcast(&self, _: &Tensor, _: usize) -> Result<()> {
            Ok(())
        }
        fn barrier(&self) -> Result<()> {
            Ok(())
        }
        fn abort(&self) -> ! {
            panic!("aborted")
        }
    }

    #[test]
    fn images_are_shared_out_evenly_or_refused() {
        let ranks = |rank, size| Ranks::of(Arc::new(Counted(rank, size)));
        assert_eq!(Ranks::alone().part(5).unwrap(), 0..5);
        assert_eq!(ranks(2, 4).part(32).unwrap(), 16..24);
        let message = ranks(0, 5).part(12).unwrap_err().to_string();
        assert!(message.contains("batch.images") && message.contains("1, 2, 3, 4, 6, 12"), "{message}");
        assert!(message.contains("15"), "{message}");
        assert!(ranks(0, 1).is_alone());
    }
}
