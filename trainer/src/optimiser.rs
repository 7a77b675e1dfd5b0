//! Stochastic gradient descent as the authors train (method.md §6). [T7]

use std::collections::BTreeMap;

use models::weights::{self, Weights};
use tch::{Device, Tensor};

use crate::error::Result;
use crate::graph_module::{ParamStore, channels_last, to_plain};

/// SGD with momentum. The momentum buffer accumulates learning rate × gradient: v = μ·v + lr·(g + decay·w),
/// w = w − v. Biases (names ending in `bias`) have twice the learning rate and no decay; the parameters of the grouping
/// side (transformers, queries, position tables) have `grouping_factor` times the rate.
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    grouping_factor: f64,
    buffers: BTreeMap<String, Tensor>,
}

impl Sgd {
    /// With empty (zero) buffers.
    pub fn new(momentum: f64, weight_decay: f64, grouping_factor: f64) -> Self {
        Sgd { momentum, weight_decay, grouping_factor, buffers: BTreeMap::new() }
    }

    /// One update. `gradients` belong to [`ParamStore::learned`], in its order; a parameter whose gradient is
    /// undefined (the loss does not depend on it) stays as it is.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`].
    pub fn step(&mut self, params: &ParamStore, gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        // One-element tensors: addcmul_ then adds a multiple without a temporary of the parameter's size.
        let device = params.learned().next().map_or(Device::Cpu, |(_, param)| param.device());
        let scalar = |value: f64| Tensor::from(value as f32).to_device(device);
        let rates = [learning_rate, learning_rate * self.grouping_factor].map(|rate| Rates {
            weights: scalar(rate),
            biases: scalar(2.0 * rate),
            decay: scalar(rate * self.weight_decay),
        });
        tch::no_grad(|| {
            for ((name, param), gradient) in params.learned().zip(gradients) {
                if !gradient.defined() {
                    continue;
                }
                let is_bias = name.ends_with("bias");
                if !self.buffers.contains_key(name) {
                    self.buffers.insert(name.to_owned(), param.f_zeros_like()?);
                }
                let Some(velocity) = self.buffers.get_mut(name) else { continue };
                let _ = velocity.f_mul_scalar_(self.momentum)?;
                let rates = &rates[usize::from(!is_of_embedding(name))];
                let _ = velocity.f_addcmul_(gradient, if is_bias { &rates.biases } else { &rates.weights })?;
                if !is_bias {
                    let _ = velocity.f_addcmul_(param, &rates.decay)?;
                }
                let _ = param.shallow_clone().f_sub_(velocity)?;
            }
            Ok(())
        })
    }

    /// Copies of the momentum buffers by parameter name.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`].
    pub fn state(&self) -> Result<Weights> {
        self.buffers.iter().map(|(name, buffer)| Ok((name.clone(), to_plain(buffer)?))).collect()
    }

    /// Takes momentum buffers as [`Sgd::state`] gave them.
    ///
    /// # Errors
    /// [`crate::TrainError::Model`] when a buffer's shape is not its parameter's, or it is not finite; `origin`
    /// names the file.
    pub fn restore(&mut self, params: &ParamStore, state: &Weights, origin: &str, device: Device) -> Result<()> {
        let mut buffers = BTreeMap::new();
        for (name, buffer) in state {
            let shape: Vec<usize> = params.get(name)?.size().iter().map(|&n| n as usize).collect();
            let spec = models::params::ParamSpec { name: name.clone(), shape, init: models::params::ParamInit::Zeros };
            weights::check_weights(std::slice::from_ref(&spec), state, origin)?;
            let shape: Vec<i64> = buffer.shape.iter().map(|&n| n as i64).collect();
            let tensor = Tensor::f_from_slice(&buffer.values)?.f_reshape(shape)?.f_to_device(device)?;
            buffers.insert(name.clone(), channels_last(&tensor));
        }
        self.buffers = buffers;
        Ok(())
    }
}

/// What gradients and weights are multiplied by.
struct Rates {
    weights: Tensor,
    biases: Tensor,
    decay: Tensor,
}

/// Whether a parameter is of the backbone or its head, by the authors' names.
fn is_of_embedding(name: &str) -> bool {
    name.starts_with("resnet_backbone.") || name.starts_with("conv_out.")
}
