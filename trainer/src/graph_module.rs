//! Runs a [`models::graph::Graph`] on libtorch, with autograd. [T4]
//!
//! The graph is translated once into a list of steps over numbered slots; a run executes them and drops each value
//! after its last use (autograd keeps what it needs).

use std::collections::{BTreeMap, BTreeSet};

use models::ModelError;
use models::arch::clustering_transformer::names;
use models::graph::{Dim, Graph, Op};
use models::params::ParamSpec;
use models::weights::{self, Weights};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::batch_norm::{Counted, batch_norm_of_counted};
use crate::composites::{Composite, Composites, Value, elementwise_rows};
use crate::device::Form;
use crate::error::{Result, TrainError};
use crate::parallel::{self, BatchNorm, Ranks};

/// How a graph is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics, no dropout.
    Evaluate,
    /// Batch statistics, which also move the running ones.
    Train {
        /// Whether dropout is applied.
        dropout: bool,
    },
}

/// The values of all parameters of a network, by the authors' names.
///
/// Those that are learned lie one after the other in a single tensor, so that an update of all of them is a few operations
/// and not a few for each: on a GPU launches cost more than such small tensors do (`docs/benchmarks/gpu.md`).
pub struct ParamStore {
    tensors: BTreeMap<String, Tensor>,
    flat: Tensor,
    places: Vec<Place>,
    /// All running statistics.
    statistics: Tensor,
}

/// Where a learned parameter lies in the tensor of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// First value.
    pub start: i64,
    /// Number of values.
    pub length: i64,
    /// Values up to the next parameter, which are 0.
    pub padding: i64,
    shape: Vec<i64>,
}

/// Parameters begin at multiples of so many values (64 bytes): kernels read them in vectors.
pub const ALIGNMENT: i64 = 16;

impl Place {
    /// The parameter's part of a tensor that is laid out as [`ParamStore::flat`] is, in the parameter's shape.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn of(&self, flat: &Tensor) -> Result<Tensor> {
        let part = flat.f_narrow(0, self.start, self.length)?;
        Ok(match self.shape[..] {
            [outputs, inputs, height, width] => {
                part.f_view([outputs, height, width, inputs].as_slice())?.f_permute([0, 3, 1, 2])?
            }
            _ => part.f_view(self.shape.as_slice())?,
        })
    }
}

/// The values of `x` in the order of [`ParamStore::flat`]: channels innermost for 4-D tensors. A view where `x` lies so
/// already.
///
/// # Errors
/// [`TrainError::Torch`].
pub fn flattened(x: &Tensor) -> Result<Tensor> {
    let ordered = if x.dim() == 4 { x.f_permute([0, 2, 3, 1])? } else { x.shallow_clone() };
    Ok(ordered.f_reshape([-1])?)
}

impl ParamStore {
    /// Takes `weights` for the parameters `specs`; learned ones record gradients, running statistics do not.
    ///
    /// 4-D weights are stored channels-last, which libtorch's CPU convolutions prefer.
    ///
    /// # Errors
    /// [`TrainError::Model`] when a parameter is missing, has another shape, or is not finite; `origin` names the
    /// source in the message.
    pub fn new(specs: &[ParamSpec], weights: &Weights, origin: &str, device: Device) -> Result<Self> {
        weights::check_weights(specs, weights, origin)?;
        let (places, end) = places(specs);
        let flat = Tensor::f_zeros([end], (Kind::Float, device))?;
        let value = |name: &str| -> Result<Tensor> {
            let source = &weights[name];
            let shape: Vec<i64> = source.shape.iter().map(|&n| n as i64).collect();
            Ok(Tensor::f_from_slice(&source.values)?.f_reshape(shape)?.f_to_device(device)?)
        };
        let mut tensors = BTreeMap::new();
        for place in &places {
            let mut part = place.of(&flat)?;
            part.f_copy_(&value(&place.name)?)?;
            tensors.insert(place.name.clone(), part.detach().set_requires_grad(true));
        }
        let running: BTreeMap<&str, &ParamSpec> =
            specs.iter().filter(|spec| spec.is_running_statistic()).map(|spec| (spec.name.as_str(), spec)).collect();
        let (of_statistics, end) = places_of(&running);
        let statistics = Tensor::f_zeros([end], (Kind::Float, device))?;
        for place in of_statistics {
            let mut part = place.of(&statistics)?;
            part.f_copy_(&value(&place.name)?)?;
            // With a version number of its own: autograd takes a tensor whose number it has seen change for another.
            let mut own = Tensor::f_zeros([0], (Kind::Float, device))?;
            own.f_set_data(&part)?;
            tensors.insert(place.name, own);
        }
        Ok(ParamStore { tensors, flat, places, statistics })
    }

    /// All running statistics in one tensor; writing to it changes them.
    pub fn statistics(&self) -> &Tensor {
        &self.statistics
    }

    /// All learned parameters in one tensor; writing to it changes them.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Where each learned parameter lies in it, in the order of [`ParamStore::learned`].
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] when there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| TrainError::Invalid {
            what: format!("parameter `{name}`"),
            expected: "a value".into(),
            got: "none".into(),
            remedy: "the graph and the weights belong to different architectures".into(),
        })
    }

    /// All parameters that record gradients, in name order.
    pub fn learned(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().filter(|(_, t)| t.requires_grad()).map(|(n, t)| (n.as_str(), t))
    }

    /// All parameters and running statistics, in name order.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(n, t)| (n.as_str(), t))
    }

    /// Copies of all values.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn to_weights(&self) -> Result<Weights> {
        self.all().map(|(name, tensor)| Ok((name.to_owned(), to_plain(tensor)?))).collect()
    }
}

/// Places for the learned parameters among `specs`, in name order, and the length of all together.
fn places(specs: &[ParamSpec]) -> (Vec<Place>, i64) {
    let learned: BTreeMap<&str, &ParamSpec> =
        specs.iter().filter(|spec| !spec.is_running_statistic()).map(|spec| (spec.name.as_str(), spec)).collect();
    places_of(&learned)
}

/// Places one after the other, and where the last one ends.
fn places_of(specs: &BTreeMap<&str, &ParamSpec>) -> (Vec<Place>, i64) {
    let mut end = 0;
    let places = specs.iter().map(|(&name, spec)| {
        let shape: Vec<i64> = spec.shape.iter().map(|&n| n as i64).collect();
        let (start, length) = (end, shape.iter().product::<i64>());
        let padding = (ALIGNMENT - length % ALIGNMENT) % ALIGNMENT;
        end += length + padding;
        Place { name: name.to_owned(), start, length, padding, shape }
    });
    (places.collect(), end)
}

/// A tensor's values, row-major, as 32-bit floats on the CPU.
///
/// # Errors
/// [`TrainError::Torch`].
pub fn to_plain(tensor: &Tensor) -> Result<weights::Tensor> {
    let shape = tensor.size().iter().map(|&n| n as usize).collect();
    let flat = tensor.detach().f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut values = vec![0f32; flat.numel()];
    flat.f_copy_data(&mut values, flat.numel())?;
    Ok(weights::Tensor { shape, values })
}

/// The same values with channels innermost in memory, for 4-D tensors; others unchanged.
pub fn channels_last(x: &Tensor) -> Tensor {
    if x.dim() != 4 {
        return x.shallow_clone();
    }
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

enum Source {
    Slot(usize),
    Param(String),
}

enum Action {
    /// One node.
    Node(Op),
    /// Several nodes that libtorch has as one operator.
    Composite(Composite),
    /// All slices of one parameter at once, which together are the whole of it: autograd then puts its gradient
    /// together in one go instead of one full-size tensor a slice.
    Split { axis: i64, sizes: Vec<i64> },
}

struct Step {
    action: Action,
    name: String,
    inputs: Vec<Source>,
    outputs: Vec<usize>,
    /// Slots that no later step reads.
    finished: Vec<usize>,
    /// Whether it normalises tokens of which only the counted ones make the statistics.
    is_of_counted: bool,
}

/// A graph made ready to run.
pub struct GraphModule {
    name: String,
    inputs: Vec<(String, usize)>,
    constants: Vec<(usize, Tensor)>,
    steps: Vec<Step>,
    outputs: Vec<(String, usize)>,
    num_slots: usize,
    /// What convolutions compute in, and what flows between them.
    precision: Kind,
    /// Whose batches batch statistics are made of.
    ranks: Ranks,
    form: Form,
}

impl GraphModule {
    /// The same module with its convolutions in `precision`: operands are rounded to it where they enter, outputs come
    /// back as 32-bit floats. Normalisation keeps its statistics and parameters in 32 bits.
    #[must_use]
    pub fn in_precision(mut self, precision: Kind) -> Self {
        self.precision = precision;
        self
    }

    /// Translates `graph`, with its constants on `device`, in the form that suits it.
    ///
    /// # Errors
    /// [`TrainError::Model`] when the graph is not well formed.
    pub fn new(graph: &Graph, device: Device) -> Result<Self> {
        Self::in_form(graph, device, Form::of(device))
    }

    /// The same in a given form: [`Form::Device`] has [`Composites`].
    ///
    /// # Errors
    /// [`TrainError::Model`] when the graph is not well formed.
    pub fn in_form(graph: &Graph, device: Device, form: Form) -> Result<Self> {
        let composites = if form == Form::Device { Composites::find(graph) } else { Composites::default() };
        Ok(GraphModule { form, ..Self::with_composites(graph, composites, device)? })
    }

    /// The same with these composites.
    ///
    /// # Errors
    /// [`TrainError::Model`] when the graph is not well formed.
    pub fn with_composites(graph: &Graph, mut composites: Composites, device: Device) -> Result<Self> {
        graph.validate()?;
        let mut slots: BTreeMap<&str, usize> = BTreeMap::new();
        let mut inputs = Vec::new();
        for info in &graph.inputs {
            slots.insert(&info.name, slots.len());
            inputs.push((info.name.clone(), slots[info.name.as_str()]));
        }
        let mut constants = Vec::new();
        for (name, constant) in &graph.constants {
            let slot = slots.len();
            slots.insert(name, slot);
            let shape: Vec<i64> = constant.shape.iter().map(|&n| n as i64).collect();
            constants.push((slot, Tensor::f_from_slice(&constant.values)?.f_reshape(shape)?.f_to_device(device)?));
        }
        let over_counted = norms_over_counted(graph)?;
        let mut steps: Vec<Step> = Vec::with_capacity(graph.nodes.len());
        let mut splits = complete_splits(graph);
        for (i, node) in graph.nodes.iter().enumerate() {
            // A slice that was made with the first one of its parameter, or a node inside a composite.
            if slots.contains_key(node.output.as_str()) || composites.covered.contains(&i) {
                continue;
            }
            let composite = composites.at.remove(&i);
            let inputs = composite.as_ref().map_or(&node.inputs, |(_, inputs)| inputs);
            let sources = inputs.iter().map(|name| match slots.get(name.as_str()) {
                Some(&slot) => Source::Slot(slot),
                None => Source::Param(name.clone()),
            });
            let inputs = sources.collect();
            let (action, made) = match (composite, splits.remove(&i)) {
                (Some((composite, _)), _) => (Action::Composite(composite), vec![i]),
                (None, Some((action, nodes))) => (action, nodes),
                (None, None) => (Action::Node(node.op.clone()), vec![i]),
            };
            let mut outputs = Vec::with_capacity(made.len());
            for i in made {
                outputs.push(slots.len());
                slots.insert(&graph.nodes[i].output, slots.len());
            }
            let (name, is_of_counted) = (node.output.clone(), over_counted.contains(&i));
            steps.push(Step { action, name, inputs, outputs, finished: Vec::new(), is_of_counted });
        }
        let outputs: Vec<_> = graph.outputs.iter().map(|o| (o.name.clone(), slots[o.name.as_str()])).collect();
        let num_slots = slots.len();
        let mut seen = vec![false; num_slots];
        for (_, slot) in &outputs {
            seen[*slot] = true;
        }
        for step in steps.iter_mut().rev() {
            let read = step.inputs.iter().filter_map(|s| match s {
                Source::Slot(slot) => Some(*slot),
                Source::Param(_) => None,
            });
            for slot in read.chain(step.outputs.iter().copied()).collect::<Vec<_>>() {
                if !std::mem::replace(&mut seen[slot], true) {
                    step.finished.push(slot);
                }
            }
        }
        Ok(GraphModule {
            name: graph.name.clone(),
            inputs,
            constants,
            steps,
            outputs,
            num_slots,
            precision: Kind::Float,
            ranks: Ranks::alone(),
            form: Form::of(device),
        })
    }

    /// With batch statistics over the batches of all ranks in training; they must run the same graph at the same time.
    #[must_use]
    pub fn over_ranks(self, ranks: &Ranks) -> Self {
        GraphModule { ranks: ranks.clone(), ..self }
    }

    /// Runs the graph; returns its outputs by name.
    ///
    /// # Errors
    /// [`TrainError::Model`] when an input is missing; [`TrainError::Torch`] when operands do not fit, which
    /// `Graph::infer_shapes` would have told.
    pub fn run(&self, params: &ParamStore, inputs: &[(&str, &Tensor)], mode: Mode) -> Result<Outputs> {
        let mut slots: Vec<Option<Value>> = (0..self.num_slots).map(|_| None).collect();
        for (name, slot) in &self.inputs {
            let value = inputs.iter().find(|(n, _)| n == name).map(|(_, t)| Value::Plain(t.shallow_clone()));
            slots[*slot] = Some(value.ok_or_else(|| self.error(format!("no value was given for the input `{name}`")))?);
        }
        for (slot, value) in &self.constants {
            slots[*slot] = Some(Value::Plain(value.shallow_clone()));
        }
        let counted = match inputs.iter().find(|(name, _)| *name == names::COUNTED) {
            Some((_, mask)) if mode != Mode::Evaluate => Some(Counted::new(mask)?),
            _ => None,
        };
        for step in &self.steps {
            let of_params: Vec<Option<Value>> = (step.inputs.iter())
                .map(|source| match source {
                    Source::Slot(_) => Ok(None),
                    Source::Param(name) => Ok(Some(Value::Plain(params.get(name)?.shallow_clone()))),
                })
                .collect::<Result<_>>()?;
            let operands: Vec<&Value> = (step.inputs.iter().zip(&of_params))
                .map(|(source, of_params)| {
                    let value = match source {
                        Source::Slot(slot) => slots[*slot].as_ref(),
                        Source::Param(_) => of_params.as_ref(),
                    };
                    value.ok_or_else(|| {
                        self.error(format!("node `{}` reads a value that was already dropped", step.name))
                    })
                })
                .collect::<Result<_>>()?;
            let values = match &counted {
                Some(counted) if step.is_of_counted => vec![self.normalise(step, &operands, counted)?],
                _ => self.execute(step, &operands, mode)?,
            };
            for (&slot, value) in step.outputs.iter().zip(values) {
                slots[slot] = Some(value);
            }
            for &slot in &step.finished {
                slots[slot] = None;
            }
        }
        let mut outputs = BTreeMap::new();
        for (name, slot) in &self.outputs {
            if let Some(value) = &slots[*slot] {
                outputs.insert(name.clone(), self.in_full_precision(&value.plain()?)?);
            }
        }
        Ok(Outputs(outputs))
    }

    /// One step; tokens stay rows where that is possible and composites have made them rows.
    fn execute(&self, step: &Step, operands: &[&Value], mode: Mode) -> Result<Vec<Value>> {
        let is_dropping = mode == Mode::Train { dropout: true };
        let plain = || -> Result<Vec<Tensor>> { operands.iter().map(|value| value.plain()).collect() };
        Ok(match &step.action {
            Action::Node(op) => {
                let has_rows = operands.iter().any(|value| matches!(value, Value::Rows(..)));
                let value = if has_rows { self.apply_to_rows(op, operands, mode)? } else { None };
                vec![match value {
                    Some(value) => value,
                    None => {
                        let operands = plain()?;
                        Value::Plain(self.apply(op, &operands.iter().collect::<Vec<_>>(), mode)?)
                    }
                }]
            }
            Action::Composite(composite) => match composite.apply(operands, is_dropping)? {
                Some(value) => vec![value],
                None => return Err(self.error(format!("node `{}` is not given tokens", step.name))),
            },
            Action::Split { axis, sizes } => {
                plain()?[0].f_split_with_sizes(sizes, *axis)?.into_iter().map(Value::Plain).collect()
            }
        })
    }

    /// Batch normalisation of tokens by the statistics of the counted ones.
    fn normalise(&self, step: &Step, operands: &[&Value], counted: &Counted) -> Result<Value> {
        let (Action::Node(Op::BatchNormalization { epsilon, momentum }), [x, others @ ..]) = (&step.action, operands)
        else {
            return Err(self.error(format!("node `{}` is no normalisation", step.name)));
        };
        let Some((rows, batch)) = x.rows()? else {
            return Err(self.error(format!("node `{}` is not given tokens", step.name)));
        };
        let others: Vec<Tensor> = others.iter().map(|value| value.plain()).collect::<Result<_>>()?;
        let [scale, bias, running_mean, running_variance] = &others[..] else {
            return Err(self.error(format!("node `{}` has {} parameters", step.name, others.len())));
        };
        let (momentum, epsilon) = (f64::from(*momentum), f64::from(*epsilon));
        let norm = BatchNorm { scale, bias, running_mean, running_variance, momentum, epsilon };
        Ok(Value::Rows(batch_norm_of_counted(&rows, counted, &norm)?, batch))
    }

    /// A node on rows; `None` where it needs what the graph has.
    fn apply_to_rows(&self, op: &Op, operands: &[&Value], mode: Mode) -> Result<Option<Value>> {
        match (op, operands) {
            (Op::BatchNormalization { .. } | Op::Dropout { .. }, [Value::Rows(rows, batch), others @ ..]) => {
                let others: Vec<Tensor> = others.iter().map(|value| value.plain()).collect::<Result<_>>()?;
                let operands: Vec<&Tensor> = std::iter::once(rows).chain(&others).collect();
                Ok(Some(Value::Rows(self.apply(op, &operands, mode)?, *batch)))
            }
            _ => elementwise_rows(op, operands),
        }
    }

    fn apply(&self, op: &Op, operands: &[&Tensor], mode: Mode) -> Result<Tensor> {
        if self.precision == Kind::Float || !matches!(op, Op::Conv { .. }) {
            return self.apply_rounded(op, operands, mode);
        }
        let rounded: Vec<Tensor> =
            operands.iter().map(|x| x.f_to_kind(self.precision)).collect::<std::result::Result<_, _>>()?;
        self.apply_rounded(op, &rounded.iter().collect::<Vec<_>>(), mode)
    }

    fn apply_rounded(&self, op: &Op, operands: &[&Tensor], mode: Mode) -> Result<Tensor> {
        match op {
            Op::Dropout { ratio } if mode == (Mode::Train { dropout: true }) => match self.form {
                Form::Host => dropout(operands[0], *ratio),
                Form::Device => Ok(operands[0].f_dropout(f64::from(*ratio), true)?),
            },
            _ => apply(op, operands, mode, &self.ranks),
        }
    }

    fn in_full_precision(&self, value: &Tensor) -> Result<Tensor> {
        Ok(if value.kind() == Kind::BFloat16 { value.f_to_kind(Kind::Float)? } else { value.shallow_clone() })
    }

    fn error(&self, what: String) -> TrainError {
        TrainError::Model(ModelError::Graph { graph: self.name.clone(), what })
    }
}

/// Outputs of a run, by name.
pub struct Outputs(BTreeMap<String, Tensor>);

impl Outputs {
    /// Takes the output of this name.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] when the graph has no such output.
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        self.0.remove(name).ok_or_else(|| TrainError::Invalid {
            what: format!("graph output `{name}`"),
            expected: "one of the graph's outputs".into(),
            got: "no such output".into(),
            remedy: "this is a bug; please report it".into(),
        })
    }
}

/// The nodes that normalise over the tokens which the graph's input [`names::COUNTED`] is about.
fn norms_over_counted(graph: &Graph) -> Result<BTreeSet<usize>> {
    if !graph.inputs.iter().any(|input| input.name == names::COUNTED) {
        return Ok(BTreeSet::new());
    }
    // A length that nothing else has shows where the tokens are.
    const TOKENS: usize = 7919;
    let shapes: Vec<(&str, Vec<usize>)> = (graph.inputs.iter())
        .map(|input| {
            let length = |dim: &Dim| match dim {
                Dim::Fixed(length) => *length,
                Dim::Named(name) if name == "tokens" => TOKENS,
                Dim::Named(_) => 3,
            };
            (input.name.as_str(), input.dims.iter().map(length).collect())
        })
        .collect();
    let given: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (*name, shape.as_slice())).collect();
    let shapes = graph.infer_shapes(&given)?;
    let is_of_tokens = |name: &str| shapes.get(name).is_some_and(|shape| shape.last() == Some(&TOKENS));
    let norms = graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| matches!(node.op, Op::BatchNormalization { .. }) && is_of_tokens(&node.inputs[0]));
    Ok(norms.map(|(index, _)| index).collect())
}

/// The slices of a parameter that lie side by side and cover it: by the first of their nodes, the action that makes
/// them all and the nodes in its order.
fn complete_splits(graph: &Graph) -> BTreeMap<usize, (Action, Vec<usize>)> {
    /// Start, end and node of a slice.
    type Part = (usize, usize, usize);
    let mut slices: BTreeMap<(&str, usize), Vec<Part>> = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        if let Op::Slice { axis, start, end } = node.op {
            slices.entry((&node.inputs[0], axis)).or_default().push((start, end, i));
        }
    }
    let mut splits = BTreeMap::new();
    for param in &graph.params {
        for (axis, &length) in param.shape.iter().enumerate() {
            let Some(parts) = slices.get_mut(&(param.name.as_str(), axis)) else { continue };
            parts.sort_unstable();
            let mut reached = 0;
            let is_whole = parts.iter().all(|&(start, end, _)| start == std::mem::replace(&mut reached, end));
            if is_whole && reached == length {
                let sizes = parts.iter().map(|(start, end, _)| (end - start) as i64).collect();
                let nodes: Vec<usize> = parts.iter().map(|(_, _, i)| *i).collect();
                let first = nodes.iter().copied().min().unwrap_or_default();
                splits.insert(first, (Action::Split { axis: axis as i64, sizes }, nodes));
            }
        }
    }
    splits
}

/// Sets each value to 0 with probability `ratio` (to the nearest 1/65536) and scales the others by 1/(1 − ratio).
///
/// libtorch draws its masks on a CPU one number at a time, which was two fifths of a transformer's forward pass; here
/// one draw of its generator seeds a stream that fills a mask at once.
fn dropout(x: &Tensor, ratio: f32) -> Result<Tensor> {
    let seed = Tensor::f_randint(i64::MAX, [1], (Kind::Int64, Device::Cpu))?.int64_value(&[0]);
    let mut bytes = vec![0u8; 2 * x.numel()];
    ChaCha8Rng::seed_from_u64(seed.unsigned_abs()).fill_bytes(&mut bytes);
    let dropped = (f64::from(ratio) * 65536.0).round() as u16;
    let kept = 1.0 / (1.0 - ratio);
    let value = |pair: &[u8]| if u16::from_le_bytes([pair[0], pair[1]]) < dropped { 0.0 } else { kept };
    let mask: Vec<f32> = bytes.chunks_exact(2).map(value).collect();
    let mask = Tensor::f_from_slice(&mask)?;
    let size = x.size();
    // Tokens [b, c, n] lie in memory as [b, n, c]; a mask in the same order is read along with them.
    let mask = match (size.as_slice(), x.stride().get(1)) {
        (&[batch, channels, tokens], Some(1)) => mask.f_reshape([batch, tokens, channels])?.f_transpose(1, 2)?,
        _ => mask.f_reshape(size)?,
    };
    Ok(x.f_mul(&mask)?)
}

/// Whether a convolution is a product per cell of very few channels, on a CPU. With AVX-512 and several threads oneDNN's
/// gradient of such weights (`jit_avx512_common_1x1_convolution_bwd_weights`, libtorch 2.11) divides by zero or writes
/// beyond its memory where there are fewer than 16 channels. Networks as wide as the presets' have none.
fn is_narrow_pointwise(x: &[&Tensor], pads: &[usize]) -> bool {
    let weight = x[1].size();
    let is_pointwise = weight[2..] == [1, 1] && pads.iter().all(|&pad| pad == 0);
    is_pointwise && weight[0].min(weight[1]) < 16 && x[0].device() == Device::Cpu
}

/// A 1 × 1 convolution as a matrix product over the cells that the strides leave.
fn pointwise(x: &[&Tensor], strides: &[usize]) -> Result<Tensor> {
    let mut cells = x[0].shallow_clone();
    for (axis, &stride) in strides.iter().enumerate() {
        cells = cells.f_slice(2 + axis as i64, None, None, stride as i64)?;
    }
    let weight = x[1].f_flatten(1, -1)?;
    Ok(cells.f_permute([0, 2, 3, 1])?.f_linear(&weight, x.get(2).copied())?.f_permute([0, 3, 1, 2])?)
}

/// One operator; semantics as documented at [`Op`].
fn apply(op: &Op, x: &[&Tensor], mode: Mode, ranks: &Ranks) -> Result<Tensor> {
    let axis_of = |axis: &usize| *axis as i64;
    let list = |values: &[usize]| -> Vec<i64> { values.iter().map(|&v| v as i64).collect() };
    Ok(match op {
        Op::Conv { strides, pads, .. } if is_narrow_pointwise(x, pads) => pointwise(x, strides)?,
        Op::Conv { strides, pads, dilations } => {
            x[0].f_conv2d(x[1], x.get(2).copied(), list(strides), list(pads), list(dilations), 1)?
        }
        Op::BatchNormalization { epsilon, momentum } => {
            let normalise = |map: &Tensor| -> Result<Tensor> {
                let (training, momentum, epsilon) = (mode != Mode::Evaluate, f64::from(*momentum), f64::from(*epsilon));
                if training && !ranks.is_alone() {
                    let [scale, bias, running_mean, running_variance] = [x[1], x[2], x[3], x[4]];
                    let norm = BatchNorm { scale, bias, running_mean, running_variance, momentum, epsilon };
                    return parallel::batch_norm(ranks, map, &norm);
                }
                let [scale, bias, mean, variance] = [x[1], x[2], x[3], x[4]].map(Some);
                Ok(map.f_batch_norm(scale, bias, mean, variance, training, momentum, epsilon, true)?)
            };
            if x[0].dim() == 3 {
                // Products with [out, in] weights leave tokens [b, c, n] with c innermost in memory: as rows [b·n, c]
                // they need no copy.
                let rows = x[0].f_transpose(1, 2)?;
                let size = rows.size();
                normalise(&rows.f_reshape([-1, size[2]])?)?.f_reshape(size)?.f_transpose(1, 2)?
            } else {
                normalise(x[0])?
            }
        }
        Op::Relu => x[0].f_relu()?,
        Op::MaxPool { kernel, strides, pads } => {
            x[0].f_max_pool2d(list(kernel), list(strides), list(pads), [1, 1].as_slice(), false)?
        }
        Op::Add => x[0].f_add(x[1])?,
        Op::Sub => x[0].f_sub(x[1])?,
        Op::Mul => x[0].f_mul(x[1])?,
        Op::Div => x[0].f_div(x[1])?,
        Op::Max => x[0].f_maximum(x[1])?,
        Op::Sqrt => x[0].f_sqrt()?,
        Op::MatMul => x[0].f_matmul(x[1])?,
        Op::Softmax { axis } => x[0].f_softmax(axis_of(axis), None::<Kind>)?,
        Op::Transpose { perm } => x[0].f_permute(list(perm))?,
        Op::Reshape { shape } => {
            let size = x[0].size();
            let shape: Vec<i64> = shape.iter().enumerate().map(|(i, &n)| if n == 0 { size[i] } else { n }).collect();
            x[0].f_reshape(shape)?
        }
        Op::Concat { axis } => Tensor::f_cat(x, axis_of(axis))?,
        Op::Slice { axis, start, end } => x[0].f_narrow(axis_of(axis), *start as i64, (end - start) as i64)?,
        Op::Unsqueeze { axis } => x[0].f_unsqueeze(axis_of(axis))?,
        Op::ReduceSum { axis } => x[0].f_sum_dim_intlist([axis_of(axis)].as_slice(), true, None::<Kind>)?,
        Op::ReduceMean { axis } => x[0].f_mean_dim([axis_of(axis)].as_slice(), true, None::<Kind>)?,
        Op::ReduceMax { axis } => x[0].f_amax([axis_of(axis)].as_slice(), false)?,
        Op::ReduceL2 { axis } => x[0].f_linalg_norm(2.0, [axis_of(axis)].as_slice(), true, None::<Kind>)?,
        Op::DescendingOrder { .. } => x[0].f_argsort(-1, true)?,
        Op::ArgMax { axis } => x[0].f_argmax(axis_of(axis), false)?,
        Op::OneHot { depth } => {
            // libtorch's own operator reads the largest index back to check it.
            let places = Tensor::f_arange(*depth as i64, (Kind::Int64, x[0].device()))?;
            x[0].f_unsqueeze(-1)?.f_eq_tensor(&places)?.f_to_kind(Kind::Float)?
        }
        Op::Dropout { .. } => x[0].shallow_clone(),
        Op::CastToFloat => x[0].f_to_kind(Kind::Float)?,
        Op::CastToHalf => x[0].f_to_kind(Kind::Half)?,
        // Only in files that `models::passes::insert_qdq` wrote.
        Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } => {
            return Err(TrainError::Model(ModelError::Graph {
                graph: "a quantized network".into(),
                what: format!("{} does not train; start from the fp32 network", op.onnx_name()),
            }));
        }
    })
}
