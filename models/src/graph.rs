//! A network as data: ONNX-named operators over named tensors.
//!
//! This is the only definition of a network in the project. The trainer interprets a [`Graph`] on libtorch
//! (training mode included), [`crate::onnx`] writes it, the runtime's backends execute the written file, so
//! training and deployment cannot drift apart.
//!
//! Values are named strings. A value is an input, a parameter (learned, or a running statistic), a constant, or
//! the output of one node; nodes stand in execution order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::params::{ParamInit, ParamSpec};
use crate::{ModelError, Result};

/// One axis of a graph input or output: a number, or a name for an axis that varies from run to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// Always this many.
    Fixed(usize),
    /// Any length; equal names mean equal lengths within one run.
    Named(String),
}

impl From<usize> for Dim {
    fn from(length: usize) -> Self {
        Dim::Fixed(length)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::Named(name.to_owned())
    }
}

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElementType {
    /// 32-bit float; what every tensor is unless something says otherwise.
    Float,
    /// 16-bit float.
    Half,
    /// Signed 8-bit integer.
    Int8,
    /// Unsigned 8-bit integer.
    UInt8,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
}

/// Name and axes of a graph input or output. All are 32-bit floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// Name of the tensor.
    pub name: String,
    /// Its axes, outermost first.
    pub dims: Vec<Dim>,
}

/// An operator with its attributes, named and defined as in ONNX (opset 17) unless said otherwise.
///
/// Where ONNX passes a constant as an input (`Slice` starts, `Reshape` shape, …) it is an attribute here; the
/// ONNX writer and reader translate.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// 2-D convolution, inputs x `[b, c, h, w]`, weight `[o, c, kh, kw]` and optionally bias `[o]`; no groups.
    Conv {
        /// Steps along height and width.
        strides: [usize; 2],
        /// Zero padding: the same at both ends of height, and of width.
        pads: [usize; 2],
        /// Spacing of the kernel's taps along height and width.
        dilations: [usize; 2],
    },
    /// Inputs x `[b, c, …]`, scale, bias, running mean, running variance (each `[c]`). Inference form in ONNX;
    /// the trainer uses batch statistics and moves the running ones by `momentum` (new = (1 − momentum)·old +
    /// momentum·batch, variance unbiased, PyTorch's convention).
    BatchNormalization {
        /// Added to the variance.
        epsilon: f32,
        /// PyTorch's momentum: the weight of the new statistics.
        momentum: f32,
    },
    /// max(x, 0).
    Relu,
    /// 2-D max pooling.
    MaxPool {
        /// Window height and width.
        kernel: [usize; 2],
        /// Steps along height and width.
        strides: [usize; 2],
        /// Padding (of −∞): the same at both ends of height, and of width.
        pads: [usize; 2],
    },
    /// Element-wise sum, broadcasting.
    Add,
    /// Element-wise difference, broadcasting.
    Sub,
    /// Element-wise product, broadcasting.
    Mul,
    /// Element-wise quotient, broadcasting.
    Div,
    /// Element-wise larger of two, broadcasting.
    Max,
    /// Square root.
    Sqrt,
    /// Matrix product of the last two axes, broadcasting the others.
    MatMul,
    /// Softmax along one axis.
    Softmax {
        /// The axis, from 0.
        axis: usize,
    },
    /// Reorders axes.
    Transpose {
        /// Output axis i is input axis `perm[i]`.
        perm: Vec<usize>,
    },
    /// New shape; 0 keeps the input's length at that place, −1 takes what is left.
    Reshape {
        /// The target shape.
        shape: Vec<i64>,
    },
    /// Joins tensors along an axis.
    Concat {
        /// The axis, from 0.
        axis: usize,
    },
    /// The range `start..end` of one axis.
    Slice {
        /// The axis, from 0.
        axis: usize,
        /// First index.
        start: usize,
        /// One past the last index.
        end: usize,
    },
    /// Inserts an axis of length 1.
    Unsqueeze {
        /// Its place in the output.
        axis: usize,
    },
    /// Sum over one axis, which stays with length 1.
    ReduceSum {
        /// The axis, from 0.
        axis: usize,
    },
    /// Mean over one axis, which stays with length 1.
    ReduceMean {
        /// The axis, from 0.
        axis: usize,
    },
    /// Maximum over one axis, which is dropped.
    ReduceMax {
        /// The axis, from 0.
        axis: usize,
    },
    /// Euclidean norm over one axis, which stays with length 1.
    ReduceL2 {
        /// The axis, from 0.
        axis: usize,
    },
    /// Indices (64-bit) of the last axis in descending order of value. In ONNX: `TopK` with all of k, sorted; the
    /// values themselves are not kept.
    DescendingOrder {
        /// Length of the last axis.
        length: usize,
    },
    /// Index (64-bit) of the largest value along an axis, which is dropped; ties to the lowest index.
    ArgMax {
        /// The axis, from 0.
        axis: usize,
    },
    /// Appends an axis with 1 at the index and 0 elsewhere.
    OneHot {
        /// Length of the new last axis.
        depth: usize,
    },
    /// Training only: zeroes elements with this probability and rescales the rest. Exporting strips it.
    Dropout {
        /// Probability of a zero.
        ratio: f32,
    },
    /// Conversion of fp16 to fp32; not in training.
    CastToFloat,
    /// Conversion of fp32 to fp16, rounded to nearest; not in training.
    CastToHalf,
    /// Inputs x, scale, zero point: round(x / scale) + zero point, saturated to the zero point's type. x and scale have
    /// the same type; fp16 needs opset 19. Not in training.
    QuantizeLinear {
        /// The axis along which scale and zero point are vectors; none for scalars.
        axis: Option<usize>,
    },
    /// Inputs q, scale and, except for 32-bit integers, zero point: (q − zero point) · scale, of the scale's type. Not in
    /// training.
    DequantizeLinear {
        /// The axis along which scale and zero point are vectors; none for scalars.
        axis: Option<usize>,
    },
}

impl Op {
    /// The operator's ONNX name.
    pub fn onnx_name(&self) -> &'static str {
        match self {
            Op::Conv { .. } => "Conv",
            Op::BatchNormalization { .. } => "BatchNormalization",
            Op::Relu => "Relu",
            Op::MaxPool { .. } => "MaxPool",
            Op::Add => "Add",
            Op::Sub => "Sub",
            Op::Mul => "Mul",
            Op::Div => "Div",
            Op::Max => "Max",
            Op::Sqrt => "Sqrt",
            Op::MatMul => "MatMul",
            Op::Softmax { .. } => "Softmax",
            Op::Transpose { .. } => "Transpose",
            Op::Reshape { .. } => "Reshape",
            Op::Concat { .. } => "Concat",
            Op::Slice { .. } => "Slice",
            Op::Unsqueeze { .. } => "Unsqueeze",
            Op::ReduceSum { .. } => "ReduceSum",
            Op::ReduceMean { .. } => "ReduceMean",
            Op::ReduceMax { .. } => "ReduceMax",
            Op::ReduceL2 { .. } => "ReduceL2",
            Op::DescendingOrder { .. } => "TopK",
            Op::ArgMax { .. } => "ArgMax",
            Op::OneHot { .. } => "OneHot",
            Op::Dropout { .. } => "Dropout",
            Op::CastToFloat | Op::CastToHalf => "Cast",
            Op::QuantizeLinear { .. } => "QuantizeLinear",
            Op::DequantizeLinear { .. } => "DequantizeLinear",
        }
    }

    /// How many inputs the operator takes: lowest and highest number.
    fn arity(&self) -> (usize, usize) {
        match self {
            Op::Conv { .. } | Op::DequantizeLinear { .. } => (2, 3),
            Op::QuantizeLinear { .. } => (3, 3),
            Op::BatchNormalization { .. } => (5, 5),
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max | Op::MatMul => (2, 2),
            Op::Concat { .. } => (1, usize::MAX),
            _ => (1, 1),
        }
    }
}

/// One operator application. Every operator here has exactly one output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Names of the operands.
    pub inputs: Vec<String>,
    /// Name of the result; it also names the node.
    pub output: String,
}

/// A small constant tensor of the graph (32-bit floats, row-major).
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

/// A network: inputs, parameters, constants, nodes in execution order, outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// A name for messages and files.
    pub name: String,
    /// What the caller passes.
    pub inputs: Vec<ValueInfo>,
    /// What the caller gets.
    pub outputs: Vec<ValueInfo>,
    /// Tensors whose values live outside the graph, in the order in which the architecture names them.
    pub params: Vec<ParamSpec>,
    /// Tensors whose values are part of the architecture.
    pub constants: BTreeMap<String, Constant>,
    /// Types of the parameters and constants that are not 32-bit floats. Their values are kept as 32-bit floats all the
    /// same and have to be numbers of that type: passes round them.
    pub types: BTreeMap<String, ElementType>,
    /// The operators, each after those it reads from.
    pub nodes: Vec<Node>,
}

/// Shapes of all values of a graph for one choice of input shapes.
pub type Shapes = BTreeMap<String, Vec<usize>>;

impl Graph {
    /// An empty graph of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Declares an input and returns its name.
    pub fn input(&mut self, name: &str, dims: &[Dim]) -> String {
        self.inputs.push(ValueInfo { name: name.to_owned(), dims: dims.to_vec() });
        name.to_owned()
    }

    /// Declares `value` as an output called `name`.
    ///
    /// The node that computes `value` is renamed, so outputs need no copying operator. A value can be one output.
    pub fn output(&mut self, name: &str, value: &str, dims: &[Dim]) {
        self.rename(value, name);
        self.outputs.push(ValueInfo { name: name.to_owned(), dims: dims.to_vec() });
    }

    fn rename(&mut self, from: &str, to: &str) {
        for node in &mut self.nodes {
            if node.output == from {
                to.clone_into(&mut node.output);
            }
            for input in &mut node.inputs {
                if input == from {
                    to.clone_into(input);
                }
            }
        }
    }

    /// Declares a parameter and returns its name. Declaring the same name and shape again is harmless.
    pub fn param(&mut self, name: impl Into<String>, shape: &[usize], init: ParamInit) -> String {
        let name = name.into();
        if !self.params.iter().any(|p| p.name == name) {
            self.params.push(ParamSpec { name: name.clone(), shape: shape.to_vec(), init });
        }
        name
    }

    /// Adds a constant and returns its name.
    pub fn constant(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> String {
        let name = name.into();
        self.constants.insert(name.clone(), Constant { shape: shape.to_vec(), values });
        name
    }

    /// Appends an operator and returns the name of its result, `name`.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[&str]) -> String {
        let output = name.into();
        let inputs = inputs.iter().map(|&i| i.to_owned()).collect();
        self.nodes.push(Node { op, inputs, output: output.clone() });
        output
    }

    /// Checks that names are defined once and before use, that operators have as many operands as they take, and
    /// that outputs exist.
    ///
    /// # Errors
    /// [`ModelError::Graph`] naming the node or value.
    pub fn validate(&self) -> Result<()> {
        let fail = |what: String| Err(ModelError::Graph { graph: self.name.clone(), what });
        let mut known = BTreeSet::new();
        let leaves = (self.inputs.iter().map(|v| &v.name))
            .chain(self.params.iter().map(|p| &p.name))
            .chain(self.constants.keys());
        for name in leaves {
            if !known.insert(name.as_str()) {
                return fail(format!("the value `{name}` is defined twice"));
            }
        }
        for node in &self.nodes {
            let (least, most) = node.op.arity();
            if node.inputs.len() < least || node.inputs.len() > most {
                return fail(format!(
                    "node `{}` ({}) has {} inputs, which that operator does not take",
                    node.output,
                    node.op.onnx_name(),
                    node.inputs.len()
                ));
            }
            for input in &node.inputs {
                if !known.contains(input.as_str()) {
                    return fail(format!(
                        "node `{}` ({}) reads `{input}`, which no earlier node, input, parameter or constant defines",
                        node.output,
                        node.op.onnx_name()
                    ));
                }
            }
            if !known.insert(node.output.as_str()) {
                return fail(format!("the value `{}` is defined twice", node.output));
            }
        }
        for output in &self.outputs {
            if !known.contains(output.name.as_str()) {
                return fail(format!("the output `{}` is computed by no node", output.name));
            }
        }
        Ok(())
    }

    /// Shapes of all values, given the shape of every input.
    ///
    /// # Errors
    /// [`ModelError::Graph`] when an input is missing or does not fit its declaration, or operands do not fit an
    /// operator; the message names the node, its operands and their shapes.
    pub fn infer_shapes(&self, inputs: &[(&str, &[usize])]) -> Result<Shapes> {
        self.validate()?;
        let mut shapes = Shapes::new();
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for info in &self.inputs {
            let Some((_, shape)) = inputs.iter().find(|(name, _)| *name == info.name) else {
                return Err(self.error(format!("no shape was given for the input `{}`", info.name)));
            };
            if shape.len() != info.dims.len() {
                return Err(self.error(format!(
                    "the input `{}` has {} axes, got the shape {shape:?}",
                    info.name,
                    info.dims.len()
                )));
            }
            for (axis, (dim, &length)) in info.dims.iter().zip(*shape).enumerate() {
                let expected = match dim {
                    Dim::Fixed(fixed) => *fixed,
                    Dim::Named(name) => *named.entry(name).or_insert(length),
                };
                if expected != length {
                    return Err(self
                        .error(format!("axis {axis} of the input `{}` must be {expected}, got {length}", info.name)));
                }
            }
            shapes.insert(info.name.clone(), shape.to_vec());
        }
        for param in &self.params {
            shapes.insert(param.name.clone(), param.shape.clone());
        }
        for (name, constant) in &self.constants {
            shapes.insert(name.clone(), constant.shape.clone());
        }
        for node in &self.nodes {
            let operands: Vec<&[usize]> = node.inputs.iter().map(|i| shapes[i].as_slice()).collect();
            let shape = output_shape(&node.op, &operands).ok_or_else(|| {
                self.error(format!(
                    "node `{}`: {} does not fit operands {:?} of shapes {operands:?}",
                    node.output,
                    node.op.onnx_name(),
                    node.inputs
                ))
            })?;
            shapes.insert(node.output.clone(), shape);
        }
        Ok(shapes)
    }

    /// The type of every value. Nothing is converted without a cast: operands of different types, and outputs that are no
    /// 32-bit floats, are errors.
    ///
    /// # Errors
    /// [`ModelError::Graph`] naming the node, its operands and their types.
    pub fn element_types(&self) -> Result<BTreeMap<String, ElementType>> {
        self.validate()?;
        let mut types: BTreeMap<String, ElementType> =
            self.inputs.iter().map(|input| (input.name.clone(), ElementType::Float)).collect();
        for name in self.params.iter().map(|p| &p.name).chain(self.constants.keys()) {
            types.insert(name.clone(), self.types.get(name).copied().unwrap_or(ElementType::Float));
        }
        for node in &self.nodes {
            let operands: Vec<ElementType> = node.inputs.iter().map(|i| types[i]).collect();
            let result = output_type(&node.op, &operands).ok_or_else(|| {
                self.error(format!(
                    "node `{}`: {} does not take operands {:?} of types {operands:?}; insert a cast",
                    node.output,
                    node.op.onnx_name(),
                    node.inputs
                ))
            })?;
            types.insert(node.output.clone(), result);
        }
        for output in &self.outputs {
            let found = types[&output.name];
            if found != ElementType::Float {
                return Err(self.error(format!("the output `{}` must be 32-bit floats, got {found:?}", output.name)));
            }
        }
        Ok(types)
    }

    fn error(&self, what: String) -> ModelError {
        ModelError::Graph { graph: self.name.clone(), what }
    }

    /// Removes nodes, parameters and constants from which no output is computed.
    pub fn remove_unused(&mut self) {
        let mut needed: BTreeSet<String> = self.outputs.iter().map(|o| o.name.clone()).collect();
        let mut kept = Vec::with_capacity(self.nodes.len());
        for node in self.nodes.drain(..).rev() {
            if needed.contains(&node.output) {
                needed.extend(node.inputs.iter().cloned());
                kept.push(node);
            }
        }
        kept.reverse();
        self.nodes = kept;
        self.params.retain(|p| needed.contains(&p.name));
        self.constants.retain(|name, _| needed.contains(name));
        self.types.retain(|name, _| needed.contains(name));
    }

    /// Multiply–accumulate operations of convolutions and matrix products for one choice of input shapes.
    ///
    /// # Errors
    /// As [`Graph::infer_shapes`].
    pub fn multiply_accumulates(&self, inputs: &[(&str, &[usize])]) -> Result<u64> {
        let shapes = self.infer_shapes(inputs)?;
        let mut total = 0u64;
        for node in &self.nodes {
            let outputs: usize = shapes[&node.output].iter().product();
            let per_output = match node.op {
                Op::Conv { .. } => shapes[&node.inputs[1]][1..].iter().product(),
                Op::MatMul => *shapes[&node.inputs[0]].last().unwrap_or(&0),
                _ => 0,
            };
            total += (outputs * per_output) as u64;
        }
        Ok(total)
    }
}

/// Shape of an operator's result, or `None` when the operands do not fit.
pub(crate) fn output_shape(op: &Op, operands: &[&[usize]]) -> Option<Vec<usize>> {
    let first = *operands.first()?;
    let axis_ok = |axis: usize| (axis < first.len()).then_some(());
    match op {
        Op::Conv { strides, pads, dilations } => {
            let weight = operands[1];
            if first.len() != 4 || weight.len() != 4 || weight[1] != first[1] {
                return None;
            }
            if operands.get(2).is_some_and(|bias| **bias != [weight[0]]) {
                return None;
            }
            let mut shape = vec![first[0], weight[0], 0, 0];
            for i in 0..2 {
                shape[2 + i] = windows(first[2 + i], weight[2 + i], strides[i], pads[i], dilations[i])?;
            }
            Some(shape)
        }
        Op::MaxPool { kernel, strides, pads } => {
            if first.len() != 4 {
                return None;
            }
            let mut shape = first.to_vec();
            for i in 0..2 {
                shape[2 + i] = windows(first[2 + i], kernel[i], strides[i], pads[i], 1)?;
            }
            Some(shape)
        }
        Op::BatchNormalization { .. } => {
            let channels = *first.get(1)?;
            operands[1..].iter().all(|p| **p == [channels]).then(|| first.to_vec())
        }
        Op::Relu | Op::Sqrt | Op::Dropout { .. } | Op::CastToFloat | Op::CastToHalf => Some(first.to_vec()),
        Op::QuantizeLinear { axis } | Op::DequantizeLinear { axis } => {
            let expected = match axis {
                Some(axis) => vec![*first.get(*axis)?],
                None => vec![],
            };
            operands[1..].iter().all(|operand| **operand == *expected).then(|| first.to_vec())
        }
        Op::Softmax { axis } => axis_ok(*axis).map(|()| first.to_vec()),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max => broadcast(first, operands[1]),
        Op::MatMul => {
            let second = operands[1];
            if first.len() < 2 || second.len() < 2 || first[first.len() - 1] != second[second.len() - 2] {
                return None;
            }
            let mut shape = broadcast(&first[..first.len() - 2], &second[..second.len() - 2])?;
            shape.extend([first[first.len() - 2], second[second.len() - 1]]);
            Some(shape)
        }
        Op::Transpose { perm } => {
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            (sorted.len() == first.len() && sorted.iter().enumerate().all(|(i, &p)| i == p))
                .then(|| perm.iter().map(|&p| first[p]).collect())
        }
        Op::Reshape { shape } => {
            let total: usize = first.iter().product();
            let mut result = Vec::with_capacity(shape.len());
            for (i, &length) in shape.iter().enumerate() {
                result.push(match length {
                    0 => *first.get(i)?,
                    -1 => 1,
                    length => usize::try_from(length).ok()?,
                });
            }
            let known: usize = result.iter().product();
            if let Some(free) = shape.iter().position(|&l| l == -1) {
                result[free] = total.checked_div(known)?;
            }
            (result.iter().product::<usize>() == total).then_some(result)
        }
        Op::Concat { axis } => {
            axis_ok(*axis)?;
            let mut shape = first.to_vec();
            for other in &operands[1..] {
                let same = other.len() == shape.len() && (0..shape.len()).all(|i| i == *axis || shape[i] == other[i]);
                if !same {
                    return None;
                }
                shape[*axis] += other[*axis];
            }
            Some(shape)
        }
        Op::Slice { axis, start, end } => {
            axis_ok(*axis)?;
            let mut shape = first.to_vec();
            (start < end && *end <= shape[*axis]).then_some(())?;
            shape[*axis] = end - start;
            Some(shape)
        }
        Op::Unsqueeze { axis } => {
            (*axis <= first.len()).then_some(())?;
            let mut shape = first.to_vec();
            shape.insert(*axis, 1);
            Some(shape)
        }
        Op::ReduceSum { axis } | Op::ReduceMean { axis } | Op::ReduceL2 { axis } => {
            axis_ok(*axis)?;
            let mut shape = first.to_vec();
            shape[*axis] = 1;
            Some(shape)
        }
        Op::ReduceMax { axis } | Op::ArgMax { axis } => {
            axis_ok(*axis)?;
            let mut shape = first.to_vec();
            shape.remove(*axis);
            Some(shape)
        }
        Op::DescendingOrder { length } => (first.last() == Some(length)).then(|| first.to_vec()),
        Op::OneHot { depth } => {
            let mut shape = first.to_vec();
            shape.push(*depth);
            Some(shape)
        }
    }
}

/// Type of an operator's result, or `None` when it does not take such operands.
fn output_type(op: &Op, operands: &[ElementType]) -> Option<ElementType> {
    use ElementType::{Float, Half, Int8, Int32, Int64, UInt8};
    let first = *operands.first()?;
    let alike = operands.iter().all(|&operand| operand == first);
    let is_float = matches!(first, Float | Half);
    match op {
        Op::CastToFloat => is_float.then_some(Float),
        Op::CastToHalf => is_float.then_some(Half),
        Op::QuantizeLinear { .. } => {
            let zero_point = *operands.get(2)?;
            (is_float && operands[1] == first && matches!(zero_point, Int8 | UInt8)).then_some(zero_point)
        }
        Op::DequantizeLinear { .. } => {
            let is_zero_point = operands.get(2).map_or(first == Int32, |&zero_point| zero_point == first);
            let fits = is_zero_point && matches!(first, Int8 | UInt8 | Int32) && matches!(operands[1], Float | Half);
            fits.then_some(operands[1])
        }
        Op::DescendingOrder { .. } | Op::ArgMax { .. } => is_float.then_some(Int64),
        Op::OneHot { .. } => (first == Int64).then_some(Float),
        Op::Transpose { .. }
        | Op::Reshape { .. }
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Unsqueeze { .. }
        | Op::MaxPool { .. } => alike.then_some(first),
        _ => (alike && is_float).then_some(first),
    }
}

fn windows(length: usize, kernel: usize, stride: usize, pad: usize, dilation: usize) -> Option<usize> {
    let reach = dilation * kernel.checked_sub(1)? + 1;
    Some((length + 2 * pad).checked_sub(reach)? / stride + 1)
}

fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let axes = a.len().max(b.len());
    (0..axes)
        .map(|i| {
            let at = |s: &[usize]| (i + s.len()).checked_sub(axes).map_or(1, |j| s[j]);
            match (at(a), at(b)) {
                (x, y) if x == y => Some(x),
                (1, y) => Some(y),
                (x, 1) => Some(x),
                _ => None,
            }
        })
        .collect()
}
