//! ONNX bytes → graph + weights, for files of the operators in [`crate::graph::Op`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;

use super::proto::{DimensionValue, ModelProto, NodeProto, SignatureProto, TensorProto, ValueInfoProto, data_type};
use crate::graph::{Dim, ElementType, Graph, Node, Op, ValueInfo};
use crate::params::{ParamInit, ParamSpec};
use crate::weights::{Tensor, Weights};
use crate::{ModelError, Result};

/// Decodes an ONNX model written by [`super::write`]. Constants come back as parameters (a file does not tell them
/// apart), initialisers that are only stored as fp16 (each with its cast) as fp32. `origin` names the file in errors.
///
/// # Errors
/// [`ModelError::Format`] when the bytes are no ONNX model, or hold an operator, attribute or tensor type that this
/// crate does not know; never panics on foreign bytes.
pub fn read(bytes: &[u8], origin: &Path) -> Result<(Graph, Weights)> {
    Reader { origin }.model(bytes)
}

/// Inputs, then outputs of an ONNX model of any operators; weights are skipped. `origin` names the file in errors.
///
/// # Errors
/// [`ModelError::Format`] when the bytes are no ONNX model, or an input or output has no shape.
pub fn signature(bytes: &[u8], origin: &Path) -> Result<Vec<ValueInfo>> {
    let reader = Reader { origin };
    let model = SignatureProto::decode(bytes).map_err(|e| reader.error(format!("not an ONNX model: {e}")))?;
    let graph = model.graph.ok_or_else(|| reader.error("the ONNX model holds no graph"))?;
    graph.input.iter().chain(&graph.output).map(|v| reader.value_info(v)).collect()
}

struct Reader<'a> {
    origin: &'a Path,
}

/// Initialisers by type.
#[derive(Default)]
struct Initialisers {
    floats: Weights,
    halves: Weights,
    integers: BTreeMap<String, Vec<i64>>,
    /// 8-bit and 32-bit integers.
    quantized: BTreeMap<String, (ElementType, Tensor)>,
}

impl Reader<'_> {
    fn error(&self, what: impl Into<String>) -> ModelError {
        ModelError::Format {
            path: self.origin.to_owned(),
            what: what.into(),
            remedy: "the file is damaged or was not written by `hsg-train export`; export it again".into(),
        }
    }

    fn model(&self, bytes: &[u8]) -> Result<(Graph, Weights)> {
        let model = ModelProto::decode(bytes).map_err(|e| self.error(format!("not an ONNX model: {e}")))?;
        let proto = model.graph.ok_or_else(|| self.error("the ONNX model holds no graph"))?;
        let mut initialisers = Initialisers::default();
        for tensor in &proto.initializer {
            self.initialiser(tensor, &mut initialisers)?;
        }
        let mut graph = Graph::new(proto.name.unwrap_or_default());
        graph.inputs = proto.input.iter().map(|v| self.value_info(v)).collect::<Result<_>>()?;
        graph.outputs = proto.output.iter().map(|v| self.value_info(v)).collect::<Result<_>>()?;
        let mut used = BTreeSet::new();
        for node in &proto.node {
            // The fp16 storage form: an initialiser and its cast become one fp32 parameter again.
            if node.op_type.as_deref() == Some("Cast")
                && let [stored] = node.input.as_slice()
                && let Some(tensor) = initialisers.halves.get(stored)
                && let [name] = node.output.as_slice()
                && node.attribute.iter().any(|a| a.i == Some(i64::from(data_type::FLOAT)))
            {
                initialisers.floats.insert(name.clone(), tensor.clone());
                continue;
            }
            let node = self.node(node, &initialisers)?;
            used.extend(node.inputs.iter().cloned());
            graph.nodes.push(node);
        }
        let mut weights = initialisers.floats;
        for (name, tensor) in initialisers.halves {
            if used.contains(&name) {
                graph.types.insert(name.clone(), ElementType::Half);
                weights.insert(name, tensor);
            }
        }
        for (name, (kind, tensor)) in initialisers.quantized {
            if used.contains(&name) {
                graph.types.insert(name.clone(), kind);
                weights.insert(name, tensor);
            }
        }
        weights.retain(|name, _| used.contains(name));
        graph.params = weights
            .iter()
            .map(|(name, t)| ParamSpec { name: name.clone(), shape: t.shape.clone(), init: ParamInit::Zeros })
            .collect();
        graph.validate().map_err(|e| self.error(e.to_string()))?;
        Ok((graph, weights))
    }

    fn initialiser(&self, tensor: &TensorProto, into: &mut Initialisers) -> Result<()> {
        let name = tensor.name.clone().unwrap_or_default();
        let shape: Vec<usize> = tensor
            .dims
            .iter()
            .map(|&d| usize::try_from(d).map_err(|_| self.error(format!("the tensor `{name}` has a negative axis"))))
            .collect::<Result<_>>()?;
        let raw = tensor.raw_data.as_deref().unwrap_or_default();
        let width = match tensor.data_type {
            Some(data_type::FLOAT) => 4,
            Some(data_type::FLOAT16) => 2,
            Some(data_type::INT64) => 8,
            Some(data_type::INT8 | data_type::UINT8) => 1,
            Some(data_type::INT32) => 4,
            other => {
                return Err(
                    self.error(format!("the tensor `{name}` has data type {other:?}, expected 1, 2, 3, 6, 7 or 10"))
                );
            }
        };
        let expected = shape.iter().try_fold(width, |n: usize, &d| n.checked_mul(d));
        if expected != Some(raw.len()) {
            return Err(self.error(format!("the tensor `{name}` of shape {shape:?} holds {} bytes", raw.len())));
        }
        let quantized = match tensor.data_type {
            Some(data_type::INT8) => {
                let values = raw.iter().map(|&b| f32::from(b.cast_signed())).collect();
                Some((ElementType::Int8, values))
            }
            Some(data_type::UINT8) => Some((ElementType::UInt8, raw.iter().map(|&b| f32::from(b)).collect())),
            Some(data_type::INT32) => {
                let exact = |b: &[u8; 4]| {
                    let value = i32::from_le_bytes(*b);
                    // By way of 64 bits, so that nothing saturates.
                    (f64::from(value as f32) == f64::from(value)).then_some(value as f32)
                };
                let values: Option<Vec<f32>> = raw.as_chunks().0.iter().map(exact).collect();
                let inexact = || self.error(format!("the tensor `{name}` holds an integer of more than 24 bits"));
                Some((ElementType::Int32, values.ok_or_else(inexact)?))
            }
            _ => None,
        };
        if let Some((kind, values)) = quantized {
            into.quantized.insert(name, (kind, Tensor { shape, values }));
            return Ok(());
        }
        match width {
            4 => {
                let values = raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                into.floats.insert(name, Tensor { shape, values });
            }
            2 => {
                let values = raw.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect();
                into.halves.insert(name, Tensor { shape, values });
            }
            _ => {
                let values = raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
                into.integers.insert(name, values);
            }
        }
        Ok(())
    }

    fn value_info(&self, info: &ValueInfoProto) -> Result<ValueInfo> {
        let name = info.name.clone().unwrap_or_default();
        let shape = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.shape.as_ref());
        let shape = shape.ok_or_else(|| self.error(format!("`{name}` has no shape")))?;
        let dims = shape.dim.iter().map(|dim| match &dim.value {
            Some(DimensionValue::DimValue(length)) => usize::try_from(*length).map(Dim::Fixed).ok(),
            Some(DimensionValue::DimParam(name)) => Some(Dim::Named(name.clone())),
            None => None,
        });
        let dims: Option<Vec<Dim>> = dims.collect();
        Ok(ValueInfo { dims: dims.ok_or_else(|| self.error(format!("`{name}` has a broken shape")))?, name })
    }

    fn node(&self, node: &NodeProto, initialisers: &Initialisers) -> Result<Node> {
        let op_type = node.op_type.as_deref().unwrap_or_default();
        let name = node.name.as_deref().unwrap_or_default();
        let broken = |what: &str| self.error(format!("node `{name}` ({op_type}): {what}"));
        let find = |wanted: &str| node.attribute.iter().find(|a| a.name.as_deref() == Some(wanted));
        let int = |wanted: &str| {
            find(wanted).and_then(|a| a.i).ok_or_else(|| broken(&format!("the attribute `{wanted}` is missing")))
        };
        let index = |wanted: &str| {
            usize::try_from(int(wanted)?).map_err(|_| broken(&format!("the attribute `{wanted}` is negative")))
        };
        let list = |wanted: &str| -> Result<Vec<usize>> {
            let attribute = find(wanted).ok_or_else(|| broken(&format!("the attribute `{wanted}` is missing")))?;
            let values: Option<Vec<usize>> = attribute.ints.iter().map(|&v| usize::try_from(v).ok()).collect();
            values.ok_or_else(|| broken(&format!("the attribute `{wanted}` has a negative value")))
        };
        let pair = |wanted: &str| -> Result<[usize; 2]> {
            <[usize; 2]>::try_from(list(wanted)?).map_err(|_| broken(&format!("`{wanted}` needs two values")))
        };
        let pads = || -> Result<[usize; 2]> {
            match list("pads")?.as_slice() {
                [top, left, bottom, right] if top == bottom && left == right => Ok([*top, *left]),
                _ => Err(broken("pads must be the same at both ends")),
            }
        };
        let integers = |place: usize| -> Result<&Vec<i64>> {
            let missing = || broken("an integer operand is no initialiser");
            initialisers.integers.get(node.input.get(place).ok_or_else(missing)?).ok_or_else(missing)
        };
        let single = |place: usize| -> Result<usize> {
            match integers(place)?.as_slice() {
                [value] => usize::try_from(*value).map_err(|_| broken("an integer operand is negative")),
                _ => Err(broken("an integer operand must be one number")),
            }
        };
        // An attribute, or since opset 18 an operand.
        let one_axis = || -> Result<usize> {
            if find("axes").is_none() && node.input.len() > 1 {
                return single(1);
            }
            match list("axes")?.as_slice() {
                [axis] => Ok(*axis),
                _ => Err(broken("needs one axis")),
            }
        };
        let optional_axis = || find("axis").map(|_| index("axis")).transpose();
        let mut operands = node.input.len();
        let op = match op_type {
            "Conv" => Op::Conv { strides: pair("strides")?, pads: pads()?, dilations: pair("dilations")? },
            "BatchNormalization" => Op::BatchNormalization {
                epsilon: find("epsilon").and_then(|a| a.f).unwrap_or(1e-5),
                momentum: 1.0 - find("momentum").and_then(|a| a.f).unwrap_or(0.9),
            },
            "MaxPool" => Op::MaxPool { kernel: pair("kernel_shape")?, strides: pair("strides")?, pads: pads()? },
            "Relu" => Op::Relu,
            "Add" => Op::Add,
            "Sub" => Op::Sub,
            "Mul" => Op::Mul,
            "Div" => Op::Div,
            "Max" => Op::Max,
            "Sqrt" => Op::Sqrt,
            "MatMul" => Op::MatMul,
            "Softmax" => Op::Softmax { axis: index("axis")? },
            "Concat" => Op::Concat { axis: index("axis")? },
            "Transpose" => Op::Transpose { perm: list("perm")? },
            "ReduceMean" | "ReduceL2" | "ReduceMax" => {
                operands = 1;
                let axis = one_axis()?;
                match op_type {
                    "ReduceMean" => Op::ReduceMean { axis },
                    "ReduceL2" => Op::ReduceL2 { axis },
                    _ => Op::ReduceMax { axis },
                }
            }
            "Cast" => match i32::try_from(int("to")?) {
                Ok(data_type::FLOAT) => Op::CastToFloat,
                Ok(data_type::FLOAT16) => Op::CastToHalf,
                _ => return Err(broken("converts to neither fp32 nor fp16")),
            },
            "QuantizeLinear" => Op::QuantizeLinear { axis: optional_axis()? },
            "DequantizeLinear" => Op::DequantizeLinear { axis: optional_axis()? },
            "ArgMax" => Op::ArgMax { axis: index("axis")? },
            "Reshape" => {
                operands = 1;
                Op::Reshape { shape: integers(1)?.clone() }
            }
            "Slice" => {
                operands = 1;
                Op::Slice { start: single(1)?, end: single(2)?, axis: single(3)? }
            }
            "Unsqueeze" => {
                operands = 1;
                Op::Unsqueeze { axis: single(1)? }
            }
            "ReduceSum" => {
                operands = 1;
                Op::ReduceSum { axis: single(1)? }
            }
            "TopK" => {
                operands = 1;
                Op::DescendingOrder { length: single(1)? }
            }
            "OneHot" => {
                operands = 1;
                Op::OneHot { depth: single(1)? }
            }
            _ => return Err(broken("this operator is not one of the project's networks")),
        };
        let output = node.output.last().ok_or_else(|| broken("has no output"))?.clone();
        Ok(Node { op, inputs: node.input[..operands.min(node.input.len())].to_vec(), output })
    }
}
