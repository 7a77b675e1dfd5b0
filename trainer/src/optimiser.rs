//! Stochastic gradient descent as the authors train (method.md §6). [T7]

use std::collections::BTreeMap;

use models::weights::{self, Weights};
use tch::{Device, Kind, Tensor};

use crate::error::{Result, TrainError};
use crate::graph_module::{ALIGNMENT, ParamStore, Place, flattened, to_plain};

/// SGD with momentum. The momentum buffer accumulates learning rate × gradient: v = μ·v + lr·(g + decay·w),
/// w = w − v. Biases (names ending in `bias`) have twice the learning rate and no decay; the parameters of the grouping
/// side (transformers, queries, position tables) have `grouping_factor` times the rate.
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    grouping_factor: f64,
    velocity: Option<Velocity>,
}

/// Momentum of all parameters, laid out as they are.
struct Velocity {
    all: Tensor,
    /// Views of it, of the parameters that had a gradient so far.
    parts: BTreeMap<String, Tensor>,
    /// By value: learning rate and weight decay as multiples of those of a weight of the backbone.
    rates: Tensor,
    decays: Tensor,
}

impl Velocity {
    fn zeros(params: &ParamStore, grouping_factor: f64) -> Result<Self> {
        let flat = params.flat();
        let (rates, decays) = (flat.f_zeros_like()?, flat.f_zeros_like()?);
        for place in params.places() {
            let side = if is_of_embedding(&place.name) { 1.0 } else { grouping_factor };
            let (rate, decay) = if is_bias(&place.name) { (2.0 * side, 0.0) } else { (side, side) };
            let _ = place.of(&rates)?.f_fill_(rate)?;
            let _ = place.of(&decays)?.f_fill_(decay)?;
        }
        Ok(Velocity { all: flat.f_zeros_like()?, parts: BTreeMap::new(), rates, decays })
    }

    /// The momentum of a parameter; from now on it has one.
    fn part(&mut self, place: &Place) -> Result<&mut Tensor> {
        if !self.parts.contains_key(&place.name) {
            self.parts.insert(place.name.clone(), place.of(&self.all)?);
        }
        self.parts.get_mut(&place.name).ok_or_else(|| unknown(&place.name))
    }
}

fn unknown(name: &str) -> TrainError {
    TrainError::Invalid {
        what: format!("momentum of `{name}`"),
        expected: "that of a learned parameter".into(),
        got: "another one".into(),
        remedy: "the checkpoint belongs to another architecture".into(),
    }
}

impl Sgd {
    /// With empty (zero) buffers.
    pub fn new(momentum: f64, weight_decay: f64, grouping_factor: f64) -> Self {
        Sgd { momentum, weight_decay, grouping_factor, velocity: None }
    }

    /// One update. `gradients` belong to [`ParamStore::learned`], in its order; a parameter whose gradient is
    /// undefined (the loss does not depend on it) stays as it is.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn step(&mut self, params: &ParamStore, gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        self.update(None, params, gradients, learning_rate)
    }

    /// The same if `holds`, a bool on the device that is not read back; otherwise parameters and momentum stay, whatever
    /// the gradients are.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn step_where(
        &mut self,
        holds: &Tensor,
        params: &ParamStore,
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<()> {
        self.update(Some(holds), params, gradients, learning_rate)
    }

    fn update(
        &mut self,
        holds: Option<&Tensor>,
        params: &ParamStore,
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<()> {
        let mut velocity = match self.velocity.take() {
            Some(velocity) => velocity,
            None => Velocity::zeros(params, self.grouping_factor)?,
        };
        // Parameters without a gradient part the others into a few runs. A CPU keeps a parameter in its cache while it
        // works on it, but not all of them.
        let together = holds.is_some() || params.flat().device() != Device::Cpu;
        let defined: Vec<bool> = gradients.iter().map(Tensor::defined).collect();
        let mut first = 0;
        let mut stepped = Ok(());
        for run in defined.chunk_by(|a, b| together && a == b) {
            let range = first..first + run.len();
            first = range.end;
            if stepped.is_ok() && run[0] {
                let places = &params.places()[range.clone()];
                let gradients = &gradients[range];
                stepped =
                    tch::no_grad(|| self.step_run(holds, params, places, gradients, learning_rate, &mut velocity));
            }
        }
        self.velocity = Some(velocity);
        stepped
    }

    /// Parameters that lie one after the other, all at once.
    fn step_run(
        &self,
        holds: Option<&Tensor>,
        params: &ParamStore,
        places: &[Place],
        gradients: &[Tensor],
        rate: f64,
        velocity: &mut Velocity,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(()) };
        for place in places {
            velocity.part(place)?;
        }
        let (start, end) = (first.start, last.start + last.length);
        let of_run = |flat: &Tensor| flat.f_narrow(0, start, end - start);
        // One parameter has one rate.
        let factor = |flat: &Tensor| if places.len() == 1 { flat.f_narrow(0, start, 1) } else { of_run(flat) };
        let gradient = joined(places, gradients)?;
        let (mut values, mut momentum) = (of_run(params.flat())?, of_run(&velocity.all)?);
        let mut moved = match holds {
            None => momentum.f_mul_scalar_(self.momentum)?,
            Some(_) => momentum.f_mul_scalar(self.momentum)?,
        };
        let _ = moved.f_addcmul_(&gradient, &factor(&velocity.rates)?.f_mul_scalar(rate)?)?;
        let decays = factor(&velocity.decays)?.f_mul_scalar(rate * self.weight_decay)?;
        let _ = moved.f_addcmul_(&values, &decays)?;
        match holds {
            None => drop(values.f_sub_(&moved)?),
            Some(holds) => {
                momentum.f_copy_(&moved.f_where_self(holds, &momentum)?)?;
                drop(values.f_sub_(&moved.f_where_scalarother(holds, 0.0)?)?);
            }
        }
        Ok(())
    }

    /// Copies of the momentum buffers by parameter name.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`].
    pub fn state(&self) -> Result<Weights> {
        let parts = self.velocity.iter().flat_map(|velocity| &velocity.parts);
        parts.map(|(name, part)| Ok((name.clone(), to_plain(part)?))).collect()
    }

    /// Takes momentum buffers as [`Sgd::state`] gave them.
    ///
    /// # Errors
    /// [`TrainError::Model`] when a buffer's shape is not its parameter's, or it is not finite; `origin` names the
    /// file.
    pub fn restore(&mut self, params: &ParamStore, state: &Weights, origin: &str, device: Device) -> Result<()> {
        let mut velocity = Velocity::zeros(params, self.grouping_factor)?;
        for (name, buffer) in state {
            let place = params.places().iter().find(|place| place.name == *name).ok_or_else(|| unknown(name))?;
            let shape: Vec<usize> = params.get(name)?.size().iter().map(|&n| n as usize).collect();
            let spec = models::params::ParamSpec { name: name.clone(), shape, init: models::params::ParamInit::Zeros };
            weights::check_weights(std::slice::from_ref(&spec), state, origin)?;
            let shape: Vec<i64> = buffer.shape.iter().map(|&n| n as i64).collect();
            let values = Tensor::f_from_slice(&buffer.values)?.f_reshape(shape)?.f_to_device(device)?;
            velocity.part(place)?.f_copy_(&values)?;
        }
        self.velocity = Some(velocity);
        Ok(())
    }
}

/// Gradients of parameters that lie one after the other, as they lie.
fn joined(places: &[Place], gradients: &[Tensor]) -> Result<Tensor> {
    if let [gradient] = gradients {
        return flattened(gradient);
    }
    let device = gradients.first().map_or(Device::Cpu, Tensor::device);
    let padding = Tensor::f_zeros([ALIGNMENT], (Kind::Float, device))?;
    let mut parts = Vec::with_capacity(2 * gradients.len());
    for (i, (place, gradient)) in places.iter().zip(gradients).enumerate() {
        parts.push(flattened(gradient)?);
        if place.padding > 0 && i + 1 < places.len() {
            parts.push(padding.f_narrow(0, 0, place.padding)?);
        }
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}

fn is_bias(name: &str) -> bool {
    name.ends_with("bias")
}

/// Whether a parameter is of the backbone or its head, by the authors' names.
fn is_of_embedding(name: &str) -> bool {
    name.starts_with("resnet_backbone.") || name.starts_with("conv_out.")
}
