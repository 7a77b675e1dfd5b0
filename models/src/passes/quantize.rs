//! 8-bit networks: Q/DQ pairs from a table of activation ranges ([`insert_qdq`]).
//!
//! A Q/DQ pair says where a value is an 8-bit integer, and with which scale; an engine then computes between them with
//! integers, and executed as written it is the accuracy that the integers have.
//!
//! **What is quantised.** Convolutions with a parameter as weight (matrices on tokens are convolutions after
//! [`super::linear_to_conv`]): the weight per output channel, symmetric, −127…127; the input per tensor. Where a sum joins
//! two branches of which one comes from such a convolution, and the result is quantised again (a residual connection), the
//! branches are quantised as well. What concatenation and max pooling read and give has **one scale**, so that integers only
//! move; in TensorRT's forms the branches of a residual sum have one, too, so that they can be added as integers. Products of
//! two activations (attention), normalisations, softmax, statistics and outputs are not quantised.
//!
//! A max pooling that follows a convolution in floats stays in floats, too, and its result is quantised: the same values, and
//! a quarter of them to be rounded.
//!
//! In the CPU's form a convolution whose result stays in floats (the last one, or one before a layer that is kept) has its
//! weight in floats as well: ONNX Runtime computes it in floats whatever its weight is. TensorRT gives floats from integers.
//!
//! The CPU's form has a scale per branch: ONNX Runtime adds integers of two scales, and a scale that has to hold the branch
//! before its ReLU gives the other branch, which is never negative, a zero point above 0; then that ReLU cannot be left out,
//! and around it everything is computed in floats. On the shipped embedding network (480×360, one thread of an AMD EPYC with
//! AVX-VNNI, six CamVid frames): 20 ms and a mean cosine of 0.99958 with a scale per branch, 34 ms and 0.99934 with one;
//! fp32 takes 66 to 86 ms.
//!
//! **Three forms, one table.**
//!
//! | form | activations | scales | opset | bias | reader |
//! |---|---|---|---|---|---|
//! | [`Form::Cpu`] | U8 with zero point | fp32 | 17 | S32 at scale(x) · scale(w) | ONNX Runtime |
//! | [`Form::TensorRt8`] | S8, zero point 0 written out | fp32 | 17 | fp32 | TensorRT 8.6 |
//! | [`Form::TensorRt10`] | S8, zero point 0 written out | fp16 | 19 | fp16 | TensorRT 10 and 11, strongly typed |
//!
//! ONNX Runtime fuses a convolution only with a bias of 32-bit integers at the product of the scales (its QLinearConv takes
//! no other); TensorRT wants the bias in floating point, which it adds to the accumulator itself. In TensorRT's forms the
//! branch of a residual sum that comes straight from a convolution has no Q/DQ: TensorRT adds the other branch inside that
//! convolution, and a pair in between would keep it from doing so. The range of that branch counts for the shared scale all the same.
//!
//! **What an engine cannot do here**: on CPUs without VNNI, fused U8 × S8 kernels saturate at 16 bits; accuracy is measured
//! with the file executed as written.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;
use serde::{Deserialize, Serialize};

use crate::graph::{ElementType, Graph, Node, Op};
use crate::params::{ParamInit, ParamSpec};
use crate::weights::{Tensor, Weights};
use crate::{ModelError, Result};

use super::linear_to_conv::CONV;
use super::{count_readers, producers, to_fp16, value_of};

/// The values that a tensor takes, or is to be clipped to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActivationRange {
    /// The lowest.
    pub min: f32,
    /// The highest.
    pub max: f32,
}

impl ActivationRange {
    /// The range that holds both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// The range of these values; `None` for none.
    pub fn of(values: &[f32]) -> Option<Self> {
        let each = values.iter().map(|&value| Self { min: value, max: value });
        // NaN is kept, so that `insert_qdq` can name the tensor.
        each.reduce(
            |a, b| if a.min.is_nan() || b.min.is_nan() { Self { min: f32::NAN, max: f32::NAN } } else { a.union(b) },
        )
    }
}

/// Activation ranges of one network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ranges {
    /// SHA-256 (hexadecimal) of the ONNX file that they were observed on.
    pub model_sha256: String,
    /// Ranges by tensor.
    pub tensors: BTreeMap<String, ActivationRange>,
}

impl Ranges {
    /// Checks that the ranges are those of the model with this SHA-256.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with both hashes.
    pub fn check_model(&self, sha256: &str) -> Result<()> {
        if self.model_sha256 == sha256 {
            return Ok(());
        }
        Err(ModelError::Invalid {
            what: "the model that the activation ranges were collected on".into(),
            expected: format!("the one to be quantised, SHA-256 {sha256} (collect ranges on it)"),
            got: self.model_sha256.clone(),
        })
    }
}

/// Who reads the int8 file; the table is in the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// ONNX Runtime's.
    Cpu,
    /// TensorRT 8.6's.
    TensorRt8,
    /// TensorRT 10's and 11's; what is not 8-bit is fp16.
    TensorRt10,
}

/// Tensors whose ranges [`insert_qdq`] needs with the same `keep`, in execution order; the same for every form.
///
/// # Errors
/// [`ModelError::Graph`] when the graph is malformed, [`ModelError::Invalid`] for a name in `keep` that it does not have.
pub fn tensors_to_observe(graph: &Graph, keep: &BTreeSet<String>) -> Result<Vec<String>> {
    let plan = Plan::new(graph, keep, Form::Cpu)?;
    let producers = producers(graph);
    let roots: BTreeSet<&str> = plan.quantized.iter().map(|name| root(graph, &producers, name)).collect();
    let all = graph.inputs.iter().map(|i| &i.name).chain(graph.nodes.iter().map(|n| &n.output));
    Ok(all.filter(|name| roots.contains(name.as_str())).cloned().collect())
}

/// Inserts QuantizeLinear and DequantizeLinear; which where is in the [module documentation](self).
///
/// `graph` is what [`super::prepare_for_quantization`] gives, and `ranges` has a range for each of [`tensors_to_observe`].
/// Layers, weights and tensors named in `keep` stay in higher precision: a layer by the name of its result computes as
/// before; a tensor is not rounded, and neither are the layers that read it. Who else reads a quantised tensor reads it as
/// it was.
///
/// Every value is within half a step of its scale of what it was, if it lies in its range; weights always are. A channel
/// whose bias would not fit 32 bits gets a larger weight scale.
///
/// # Errors
/// [`ModelError::Invalid`] for a range that is missing, NaN, infinite or upside down (naming the tensor) and for unknown
/// names in `keep`; [`ModelError::Graph`] when the graph is quantised already; [`ModelError::Weights`] when a parameter is
/// missing or not finite; for [`Form::TensorRt10`] as [`to_fp16`].
pub fn insert_qdq(
    graph: &mut Graph,
    weights: &mut Weights,
    ranges: &Ranges,
    form: Form,
    keep: &BTreeSet<String>,
) -> Result<()> {
    crate::weights::check_weights(&graph.params, weights, &format!("graph `{}`", graph.name))?;
    let plan = Plan::new(graph, keep, form)?;
    let scales = plan.scales(graph, ranges, form)?;
    Inserter { graph, weights, form, plan, scales, leaves: BTreeSet::new(), nodes: Vec::new() }.insert()?;
    graph.remove_unused();
    weights.retain(|name, _| graph.params.iter().any(|p| p.name == *name));
    if form == Form::TensorRt10 {
        to_fp16(graph, weights)?;
    }
    graph.element_types().map(drop)
}

/// What is quantised.
struct Plan {
    /// Convolutions with an 8-bit weight, by node.
    layers: BTreeSet<usize>,
    /// Tensors with a scale.
    quantized: BTreeSet<String>,
    /// (node, operand) that reads 8-bit integers.
    uses: BTreeSet<(usize, usize)>,
    /// Pairs of tensors with one scale.
    shared: Vec<(String, String)>,
}

impl Plan {
    fn new(graph: &Graph, keep: &BTreeSet<String>, form: Form) -> Result<Self> {
        graph.validate()?;
        if let Some(node) = graph.nodes.iter().find(|n| matches!(n.op, Op::QuantizeLinear { .. } | Op::CastToHalf)) {
            return Err(ModelError::Graph {
                graph: graph.name.clone(),
                what: format!("`{}` is quantised or fp16 already; start from the fp32 network", node.output),
            });
        }
        let (readers, producers) = (count_readers(graph), producers(graph));
        let is_param = |name: &str| graph.params.iter().any(|p| p.name == name);
        for name in keep {
            let known = is_param(name)
                || producers.contains_key(name)
                || producers.contains_key(&format!("{name}{CONV}"))
                || graph.inputs.iter().any(|i| i.name == *name);
            if !known {
                return Err(ModelError::Invalid {
                    what: "a name to be kept in higher precision".into(),
                    expected: format!("a tensor or weight of the graph `{}` as it is quantised", graph.name),
                    got: name.clone(),
                });
            }
        }
        let kept = |name: &str| keep.contains(name) || name.strip_suffix(CONV).is_some_and(|name| keep.contains(name));
        // `x.cells` is x under another name.
        let kept_tensor = |name: &str| kept(name) || kept(root(graph, &producers, name));
        let layers: BTreeSet<usize> = (0..graph.nodes.len())
            .filter(|&place| {
                let node = &graph.nodes[place];
                matches!(node.op, Op::Conv { .. })
                    && is_param(&node.inputs[1])
                    && !is_param(&node.inputs[0])
                    && !kept(&node.output)
                    && !kept(&node.inputs[1])
                    && !kept_tensor(&node.inputs[0])
            })
            .collect();
        let mut plan = Plan { layers, quantized: BTreeSet::new(), uses: BTreeSet::new(), shared: Vec::new() };
        for (place, node) in graph.nodes.iter().enumerate().rev() {
            match node.op {
                Op::Conv { .. } if plan.layers.contains(&place) => {
                    plan.read(place, 0, &node.inputs[0]);
                }
                Op::MaxPool { .. } | Op::Concat { .. } if plan.quantized.contains(&node.output) => {
                    if node.inputs.iter().any(|i| is_param(i) || kept_tensor(i)) {
                        continue;
                    }
                    // After a convolution in floats the pooled values are rounded instead: they are the same, and fewer.
                    let pools = matches!(node.op, Op::MaxPool { .. });
                    if pools && plan.is_float_layer(graph, &producers, &node.inputs[0]) {
                        continue;
                    }
                    for (operand, input) in node.inputs.iter().enumerate() {
                        plan.read(place, operand, input);
                        plan.shared.push((input.clone(), node.output.clone()));
                    }
                }
                Op::Add => plan.sum(graph, place, form, &readers, &producers, &kept_tensor),
                _ => {}
            }
        }
        if form == Form::Cpu {
            let in_floats = |place: &usize| !plan.ends_in_integers(graph, &readers, &graph.nodes[*place].output);
            let in_floats: Vec<usize> = plan.layers.iter().copied().filter(in_floats).collect();
            for place in in_floats {
                plan.layers.remove(&place);
            }
        }
        // What only moves values about has them at one scale.
        for node in &graph.nodes {
            if moves(&node.op) && plan.quantized.contains(&node.output) && plan.quantized.contains(&node.inputs[0]) {
                plan.shared.push((node.inputs[0].clone(), node.output.clone()));
            }
        }
        Ok(plan)
    }

    /// Whether a tensor is the result of a convolution, perhaps with its ReLU, that is not quantised.
    fn is_float_layer(&self, graph: &Graph, producers: &BTreeMap<String, usize>, name: &str) -> bool {
        let producer = |name: &str| producers.get(name).map(|&place| (place, &graph.nodes[place]));
        let before_relu = match producer(name) {
            Some((_, node)) if node.op == Op::Relu => producer(&node.inputs[0]),
            producer => producer,
        };
        before_relu.is_some_and(|(place, node)| matches!(node.op, Op::Conv { .. }) && !self.layers.contains(&place))
    }

    /// Whether the result of a convolution is rounded, perhaps after its ReLU.
    fn ends_in_integers(&self, graph: &Graph, readers: &BTreeMap<String, usize>, name: &str) -> bool {
        let relu = graph.nodes.iter().find(|node| node.op == Op::Relu && node.inputs[0] == name);
        let relu = relu.filter(|_| readers.get(name) == Some(&1));
        self.quantized.contains(name) || relu.is_some_and(|relu| self.quantized.contains(&relu.output))
    }

    fn read(&mut self, place: usize, operand: usize, name: &str) {
        self.quantized.insert(name.to_owned());
        self.uses.insert((place, operand));
    }

    /// A residual sum.
    fn sum(
        &mut self,
        graph: &Graph,
        place: usize,
        form: Form,
        readers: &BTreeMap<String, usize>,
        producers: &BTreeMap<String, usize>,
        kept: &dyn Fn(&str) -> bool,
    ) {
        let node = &graph.nodes[place];
        let alone = |name: &str| readers.get(name) == Some(&1);
        let relu = graph.nodes.iter().find(|n| n.op == Op::Relu && n.inputs[0] == node.output);
        let result = match relu {
            Some(relu) if alone(&node.output) => &relu.output,
            _ => &node.output,
        };
        let from_layer = |name: &String| producers.get(name).is_some_and(|producer| self.layers.contains(producer));
        let is_residual = self.quantized.contains(result)
            && node.inputs.iter().all(|i| producers.contains_key(i) && !kept(i))
            && node.inputs.iter().any(from_layer);
        if !is_residual {
            return;
        }
        // TensorRT adds the other branch within this convolution.
        let fused = match form {
            Form::Cpu => None,
            Form::TensorRt8 | Form::TensorRt10 => node.inputs.iter().position(|i| from_layer(i) && alone(i)),
        };
        for (operand, input) in node.inputs.iter().enumerate() {
            if fused != Some(operand) {
                self.read(place, operand, input);
            }
        }
        if form != Form::Cpu {
            self.shared.push((node.inputs[0].clone(), node.inputs[1].clone()));
        }
    }

    /// The scale of every quantised tensor.
    fn scales(&self, graph: &Graph, ranges: &Ranges, form: Form) -> Result<BTreeMap<String, Scale>> {
        let producers = producers(graph);
        // Groups by their first member; pairs are few, so merging by renaming is fast enough.
        let mut group: BTreeMap<&str, &str> =
            self.quantized.iter().map(|name| (name.as_str(), name.as_str())).collect();
        for (a, b) in &self.shared {
            let (a, b) = (*group.entry(a).or_insert(a), *group.entry(b).or_insert(b));
            let (first, second) = (a.min(b), a.max(b));
            group.values_mut().filter(|leader| **leader == second).for_each(|leader| *leader = first);
        }
        let mut joint: BTreeMap<&str, ActivationRange> = BTreeMap::new();
        for (&name, &leader) in &group {
            let range = find_range(graph, &producers, ranges, name)?;
            joint.entry(leader).and_modify(|joint| *joint = joint.union(range)).or_insert(range);
        }
        let scale = |name: &String| -> Result<(String, Scale)> {
            let leader = group.get(name.as_str()).copied().unwrap_or(name);
            let range = joint.get(leader).copied().unwrap_or(ActivationRange { min: 0.0, max: 0.0 });
            Ok((name.clone(), Scale::new(leader, range, form)?))
        };
        self.quantized.iter().map(scale).collect()
    }
}

/// Whether the result holds the same values in another place.
fn moves(op: &Op) -> bool {
    matches!(op, Op::Unsqueeze { .. } | Op::Reshape { .. } | Op::Transpose { .. })
}

/// The tensor whose values these are, before they were moved about.
fn root<'a>(graph: &'a Graph, producers: &BTreeMap<String, usize>, mut name: &'a str) -> &'a str {
    while let Some(node) = producers.get(name).map(|&place| &graph.nodes[place]).filter(|node| moves(&node.op)) {
        name = &node.inputs[0];
    }
    name
}

fn find_range(
    graph: &Graph,
    producers: &BTreeMap<String, usize>,
    ranges: &Ranges,
    name: &str,
) -> Result<ActivationRange> {
    let root = root(graph, producers, name);
    let invalid = |expected: &str, got: String| ModelError::Invalid {
        what: format!("the activation range of the tensor `{root}`"),
        expected: expected.to_owned(),
        got,
    };
    let range = ranges.tensors.get(name).or_else(|| ranges.tensors.get(root));
    let range = range.ok_or_else(|| {
        invalid("one in the table (collect ranges for passes::quantize::tensors_to_observe)", "none".into())
    })?;
    if !(range.min.is_finite() && range.max.is_finite() && range.min <= range.max) {
        let got = format!("{} to {}", range.min, range.max);
        return Err(invalid("finite and in order (did the network compute NaN on a calibration frame?)", got));
    }
    Ok(*range)
}

/// Scale and zero point of a tensor.
struct Scale {
    /// The tensor that the scale is named after: of all that share it, the first by name.
    leader: String,
    scale: f32,
    zero_point: f32,
}

impl Scale {
    fn new(leader: &str, range: ActivationRange, form: Form) -> Result<Self> {
        // 0 has to be exact: padding is 0.
        let (min, max) = (f64::from(range.min.min(0.0)), f64::from(range.max.max(0.0)));
        let (scale, zero_point) = match form {
            Form::Cpu => {
                let scale = representable((max - min) / 255.0, form, leader)?;
                (scale, (-min / f64::from(scale)).round().clamp(0.0, 255.0) as f32)
            }
            Form::TensorRt8 | Form::TensorRt10 => (representable(max.max(-min) / 127.0, form, leader)?, 0.0),
        };
        Ok(Self { leader: leader.to_owned(), scale, zero_point })
    }
}

/// A scale of the form's type, never smaller than `scale`, so that nothing saturates by rounding; 1 instead of 0.
fn representable(scale: f64, form: Form, tensor: &str) -> Result<f32> {
    if scale == 0.0 {
        return Ok(1.0);
    }
    if form == Form::TensorRt10 {
        let nearest = f16::from_f64(scale);
        let up = if nearest.to_f64() < scale { f16::from_bits(nearest.to_bits() + 1) } else { nearest };
        if !up.is_finite() {
            return Err(ModelError::Invalid {
                what: format!("the scale of the tensor `{tensor}`"),
                expected: "at most 65504, the largest fp16 number (keep this tensor in higher precision)".into(),
                got: scale.to_string(),
            });
        }
        return Ok(up.to_f32());
    }
    let nearest = (scale as f32).max(f32::MIN_POSITIVE);
    Ok(if f64::from(nearest) < scale { nearest.next_up() } else { nearest })
}

/// A weight in 8 bits, a scale per row of its first axis.
pub struct QuantizedWeight {
    /// −127…127, in the weight's shape.
    pub values: Tensor,
    /// One per row.
    pub scales: Tensor,
}

/// Quantises a weight per row of its first axis, symmetric: q = round(w / scale), scale = max |w| / 127, or larger where
/// `least` (one per row) says so. Every weight is within scale / 2 of q · scale.
///
/// # Errors
/// [`ModelError::Invalid`] when a scale does not fit the form's type, naming `name`.
pub fn quantize_weight(name: &str, weight: &Tensor, least: &[f64], form: Form) -> Result<QuantizedWeight> {
    let rows = weight.shape.first().copied().unwrap_or(1);
    let per_row = (weight.values.len() / rows.max(1)).max(1);
    let mut values = Vec::with_capacity(weight.values.len());
    let mut scales = Vec::with_capacity(rows);
    for (row, values_of_row) in weight.values.chunks(per_row).enumerate() {
        let largest = values_of_row.iter().fold(0.0f64, |largest, &v| largest.max(f64::from(v).abs()));
        let scale = (largest / 127.0).max(least.get(row).copied().unwrap_or(0.0));
        let scale = representable(scale, form, name)?;
        scales.push(scale);
        let steps = values_of_row.iter().map(|&v| (f64::from(v) / f64::from(scale)).round().clamp(-127.0, 127.0));
        values.extend(steps.map(|q| q as f32));
    }
    Ok(QuantizedWeight {
        values: Tensor { shape: weight.shape.clone(), values },
        scales: Tensor { shape: vec![rows], values: scales },
    })
}

/// Quantised biases stay below this: far from 2³¹, so that the products that are added have room.
const BIAS_LIMIT: f64 = (1u64 << 30) as f64;

struct Inserter<'a> {
    graph: &'a mut Graph,
    weights: &'a mut Weights,
    form: Form,
    plan: Plan,
    scales: BTreeMap<String, Scale>,
    /// Parameters that are declared.
    leaves: BTreeSet<String>,
    nodes: Vec<Node>,
}

impl Inserter<'_> {
    fn insert(mut self) -> Result<()> {
        let old = std::mem::take(&mut self.graph.nodes);
        let least = self.least_weight_scales(&old)?;
        let mut dequantized: BTreeMap<String, String> = BTreeMap::new();
        for (place, mut node) in old.into_iter().enumerate() {
            let is_layer = self.plan.layers.contains(&place);
            let input_scale = self.scales.get(&node.inputs[0]).map_or(1.0, |scale| scale.scale);
            for operand in 0..node.inputs.len() {
                if !self.plan.uses.contains(&(place, operand)) {
                    continue;
                }
                let name = node.inputs[operand].clone();
                if !dequantized.contains_key(&name) {
                    let result = self.activation(&name);
                    dequantized.insert(name.clone(), result);
                }
                node.inputs[operand].clone_from(&dequantized[&name]);
            }
            if is_layer {
                let weight = node.inputs[1].clone();
                if !dequantized.contains_key(&weight) {
                    let result = self.weight(&weight, least.get(&weight).map_or(&[], Vec::as_slice))?;
                    dequantized.insert(weight.clone(), result);
                }
                node.inputs[1].clone_from(&dequantized[&weight]);
                if self.form == Form::Cpu && node.inputs.len() == 3 {
                    node.inputs[2] = self.bias(&node, &weight, input_scale)?;
                }
            }
            self.nodes.push(node);
        }
        self.graph.nodes = self.nodes;
        Ok(())
    }

    fn declare(&mut self, name: &str, shape: &[usize], values: Vec<f32>, kind: ElementType) -> String {
        if self.leaves.insert(name.to_owned()) {
            let spec = ParamSpec { name: name.to_owned(), shape: shape.to_vec(), init: ParamInit::Zeros };
            self.graph.params.push(spec);
            if kind != ElementType::Float {
                self.graph.types.insert(name.to_owned(), kind);
            }
            self.weights.insert(name.to_owned(), Tensor { shape: shape.to_vec(), values });
        }
        name.to_owned()
    }

    fn scale_type(&self) -> ElementType {
        if self.form == Form::TensorRt10 { ElementType::Half } else { ElementType::Float }
    }

    /// Q and DQ after a tensor.
    fn activation(&mut self, name: &str) -> String {
        let Some(Scale { leader, scale, zero_point }) = self.scales.get(name) else { return name.to_owned() };
        let (leader, scale, zero_point) = (leader.clone(), *scale, *zero_point);
        let kind = if self.form == Form::Cpu { ElementType::UInt8 } else { ElementType::Int8 };
        let scale_name = self.declare(&format!("{leader}.scale"), &[], vec![scale], self.scale_type());
        let zero_name = self.declare(&format!("{leader}.zero_point"), &[], vec![zero_point], kind);
        let (quantized, result) = (format!("{name}.quantized"), format!("{name}.dequantized"));
        self.nodes.push(Node {
            op: Op::QuantizeLinear { axis: None },
            inputs: vec![name.to_owned(), scale_name.clone(), zero_name.clone()],
            output: quantized.clone(),
        });
        self.nodes.push(Node {
            op: Op::DequantizeLinear { axis: None },
            inputs: vec![quantized, scale_name, zero_name],
            output: result.clone(),
        });
        result
    }

    /// 8-bit weights and their DQ.
    fn weight(&mut self, name: &str, least: &[f64]) -> Result<String> {
        let weight = value_of(self.graph, self.weights, name)?;
        let QuantizedWeight { values, scales } = quantize_weight(name, weight, least, self.form)?;
        let channels = scales.values.len();
        let result = format!("{name}.dequantized");
        let inputs = vec![
            self.declare(&format!("{name}.quantized"), &values.shape, values.values, ElementType::Int8),
            self.declare(&format!("{name}.scale"), &[channels], scales.values, self.scale_type()),
            self.declare(&format!("{name}.zero_point"), &[channels], vec![0.0; channels], ElementType::Int8),
        ];
        self.nodes.push(Node { op: Op::DequantizeLinear { axis: Some(0) }, inputs, output: result.clone() });
        Ok(result)
    }

    /// A bias of 32-bit integers at the product of the scales, and its DQ.
    fn bias(&mut self, conv: &Node, weight: &str, input_scale: f32) -> Result<String> {
        let bias = value_of(self.graph, self.weights, &conv.inputs[2])?;
        let weight_scales = value_of(self.graph, self.weights, &format!("{weight}.scale"))?;
        // As ONNX Runtime multiplies them: in fp32.
        let scales: Vec<f32> = weight_scales.values.iter().map(|scale| scale * input_scale).collect();
        let steps = bias.values.iter().zip(&scales).map(|(&b, &s)| (f64::from(b) / f64::from(s)).round());
        // A 32-bit float of this size is an integer.
        let values: Vec<f32> = steps.map(|q| q as f32).collect();
        let channels = scales.len();
        let name = &conv.output;
        let result = format!("{name}.bias.dequantized");
        let inputs = vec![
            self.declare(&format!("{name}.bias.quantized"), &[channels], values, ElementType::Int32),
            self.declare(&format!("{name}.bias.scale"), &[channels], scales, ElementType::Float),
        ];
        self.nodes.push(Node { op: Op::DequantizeLinear { axis: Some(0) }, inputs, output: result.clone() });
        Ok(result)
    }

    /// For each weight the scales that its rows need so that the biases fit 32 bits. The form for the CPU alone has such.
    fn least_weight_scales(&self, nodes: &[Node]) -> Result<BTreeMap<String, Vec<f64>>> {
        let mut least: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        if self.form != Form::Cpu {
            return Ok(least);
        }
        for &place in &self.plan.layers {
            let [input, weight, bias] = nodes[place].inputs.as_slice() else { continue };
            let bias = value_of(self.graph, self.weights, bias)?;
            let input = self.scales.get(input).map_or(1.0, |scale| f64::from(scale.scale));
            let rows = least.entry(weight.clone()).or_insert_with(|| vec![0.0; bias.values.len()]);
            for (row, &bias) in rows.iter_mut().zip(&bias.values) {
                *row = row.max(f64::from(bias).abs() / (input * BIAS_LIMIT)).max(smallest_product(input));
            }
        }
        Ok(least)
    }
}

/// The smallest weight scale whose product with the input's scale is a normal 32-bit float.
fn smallest_product(input: f64) -> f64 {
    2.0 * f64::from(f32::MIN_POSITIVE) / input
}
