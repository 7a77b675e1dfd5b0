//! Where a run computes, and in which precision.

use tch::{Cuda, Device, Kind};

use crate::cuda;
use crate::error::{Result, TrainError};

/// Device and precision of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compute {
    /// Where tensors live.
    pub device: Device,
    /// What the embedding network computes in: `Float` or `BFloat16`. Normalisation statistics, transformers, losses and
    /// the weights themselves are always `Float`.
    pub precision: Kind,
}

/// How a step is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For a CPU: the nodes of a graph one by one, parts of large products that stay in the cache, sizes that depend on
    /// values read where they are needed.
    Host,
    /// For a GPU: few operators on large tensors, as each costs its launch; and, on one
    /// device and from the second step on, no size is read before the end of a step, so that the host asks for work long
    /// before the device gets to it.
    Device,
}

impl Form {
    /// The one that suits `device`.
    pub fn of(device: Device) -> Self {
        if device == Device::Cpu { Form::Host } else { Form::Device }
    }
}

impl Compute {
    /// What the settings `run.device` and `run.precision` mean on this machine.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] when a GPU is asked for that is not there.
    pub fn resolve(device: &str, precision: &str) -> Result<Self> {
        let device = match device {
            "cpu" => Device::Cpu,
            "auto" => {
                if Cuda::is_available() {
                    Device::Cuda(0)
                } else {
                    Device::Cpu
                }
            }
            named => Device::Cuda(gpu(named)?),
        };
        if device.is_cuda() {
            // Views are always of one size, so what cuDNN finds out about each convolution in the first step holds.
            Cuda::cudnn_set_benchmark(true);
        }
        let precision = match precision {
            "bf16" => Kind::BFloat16,
            "auto" if device.is_cuda() => Kind::BFloat16,
            _ => Kind::Float,
        };
        Ok(Compute { device, precision })
    }

    /// `cpu`, `cuda:0`, …
    pub fn device_name(self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        }
    }

    /// `fp32` or `bf16`.
    pub fn precision_name(self) -> &'static str {
        if self.precision == Kind::BFloat16 { "bf16" } else { "fp32" }
    }

    /// Waits until the device has done all it was given.
    pub fn synchronize(self) {
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
    }
}

/// Index of the GPU `cuda` or `cuda:N`.
fn gpu(named: &str) -> Result<usize> {
    let index = named.strip_prefix("cuda:").and_then(|number| number.parse().ok()).unwrap_or(0);
    let found = if Cuda::is_available() { Cuda::device_count().max(0) as usize } else { 0 };
    if index < found {
        return Ok(index);
    }
    let why = match (found, cuda::missing()) {
        (0, Some(reason)) => format!("no GPU: libtorch has no CUDA here ({reason})"),
        (0, None) => "no GPU: libtorch has CUDA but finds no device; does nvidia-smi list one?".to_owned(),
        (n, _) => format!("{n}, from cuda:0"),
    };
    Err(TrainError::Invalid {
        what: format!("device `{named}`"),
        expected: "a GPU of this machine".into(),
        got: why,
        remedy: "set LIBTORCH to a libtorch with CUDA (the folder `torch` of the PyPI package), or choose --device cpu"
            .into(),
    })
}
