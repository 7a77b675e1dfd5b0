//! Graph + weights → ONNX bytes.

use std::collections::BTreeMap;

use prost::Message;

use super::proto::{
    AttributeProto, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use super::{OPSET, OPSET_QUANTIZED_HALF};
use crate::graph::{Dim, ElementType, Graph, Op, ValueInfo};
use crate::params::ParamSpec;
use crate::weights::{Weights, check_weights};
use crate::{ModelError, Result};

/// How initialisers are stored. Arithmetic is fp32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As fp32.
    Full,
    /// Tensors of more than 1024 elements as fp16 followed by a `Cast`: half the file, weights rounded to 11 bits.
    Half,
}

const HALF_ABOVE: usize = 1024;
/// The oldest file version that may hold an operator set.
fn ir_version(opset: i64) -> i64 {
    if opset < OPSET_QUANTIZED_HALF { 8 } else { 9 }
}

/// The oldest of the two operator sets that defines what the graph does.
fn opset(graph: &Graph) -> i64 {
    let scale_is_half = |inputs: &[String]| inputs.get(1).and_then(|s| graph.types.get(s)) == Some(&ElementType::Half);
    let quantises_half = graph.nodes.iter().any(|node| {
        matches!(node.op, Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. }) && scale_is_half(&node.inputs)
    });
    if quantises_half { OPSET_QUANTIZED_HALF } else { OPSET }
}

/// Encodes a graph with its weights as an ONNX model.
///
/// # Errors
/// [`ModelError::Graph`] when the graph is malformed, lacks a cast or still holds dropout, [`ModelError::Weights`] when a
/// parameter is missing, has another shape, or holds what its type cannot.
pub fn write(graph: &Graph, weights: &Weights, storage: Storage) -> Result<Vec<u8>> {
    graph.validate()?;
    check_weights(&graph.params, weights, &format!("graph `{}`", graph.name))?;
    graph.element_types()?;
    let opset = opset(graph);
    let mut writer = Writer { opset, tensors: BTreeMap::new(), nodes: Vec::new() };
    // By name, so that a file that is read and written again stays the same.
    let params: BTreeMap<&str, &ParamSpec> = graph.params.iter().map(|p| (p.name.as_str(), p)).collect();
    for param in params.into_values() {
        let tensor = &weights[&param.name];
        if let Some(&kind) = graph.types.get(&param.name) {
            writer.typed(&param.name, &tensor.shape, &tensor.values, kind, &graph.name)?;
        } else if storage == Storage::Half && tensor.values.len() > HALF_ABOVE {
            writer.half(&param.name, &tensor.shape, &tensor.values, &graph.name)?;
        } else {
            writer.float(&param.name, &tensor.shape, &tensor.values);
        }
    }
    for (name, constant) in &graph.constants {
        let kind = graph.types.get(name).copied().unwrap_or(ElementType::Float);
        writer.typed(name, &constant.shape, &constant.values, kind, &graph.name)?;
    }
    for node in &graph.nodes {
        writer.node(&node.op, &node.inputs, &node.output, &graph.name)?;
    }
    let model = ModelProto {
        ir_version: Some(ir_version(opset)),
        producer_name: Some("hsg".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        graph: Some(GraphProto {
            node: writer.nodes,
            name: Some(graph.name.clone()),
            initializer: writer.tensors.into_values().collect(),
            input: graph.inputs.iter().map(value_info).collect(),
            output: graph.outputs.iter().map(value_info).collect(),
        }),
    };
    Ok(model.encode_to_vec())
}

fn value_info(info: &ValueInfo) -> ValueInfoProto {
    let dim = info
        .dims
        .iter()
        .map(|dim| {
            let value = match dim {
                Dim::Fixed(length) => DimensionValue::DimValue(*length as i64),
                Dim::Named(name) => DimensionValue::DimParam(name.clone()),
            };
            DimensionProto { value: Some(value) }
        })
        .collect();
    let tensor = TensorTypeProto { elem_type: Some(data_type::FLOAT), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: Some(info.name.clone()), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

struct Writer {
    opset: i64,
    /// By name, so that the order in the file does not depend on the order of use.
    tensors: BTreeMap<String, TensorProto>,
    nodes: Vec<NodeProto>,
}

impl Writer {
    fn tensor(&mut self, name: &str, shape: &[usize], data_type: i32, raw: Vec<u8>) {
        let tensor = TensorProto {
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(data_type),
            name: Some(name.to_owned()),
            raw_data: Some(raw),
        };
        self.tensors.insert(name.to_owned(), tensor);
    }

    fn float(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.tensor(name, shape, data_type::FLOAT, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// A tensor of this type. Integers have to be integers already: rounding is for the pass that quantised.
    fn typed(&mut self, name: &str, shape: &[usize], values: &[f32], kind: ElementType, graph: &str) -> Result<()> {
        let (data_type, low, high) = match kind {
            ElementType::Float => {
                self.float(name, shape, values);
                return Ok(());
            }
            ElementType::Half => {
                let raw = halves(name, values, graph)?;
                self.tensor(name, shape, data_type::FLOAT16, raw);
                return Ok(());
            }
            ElementType::Int8 => (data_type::INT8, -128.0, 127.0),
            ElementType::UInt8 => (data_type::UINT8, 0.0, 255.0),
            // The largest 32-bit float below 2^31.
            ElementType::Int32 => (data_type::INT32, -2_147_483_648.0, 2_147_483_520.0),
            ElementType::Int64 => (data_type::INT64, -9.0e18, 9.0e18),
        };
        if let Some(value) = values.iter().find(|v| v.fract() != 0.0 || !(low..=high).contains(*v)) {
            return Err(ModelError::Weights {
                origin: format!("graph `{graph}`"),
                tensor: name.to_owned(),
                what: format!("holds {value}, which {kind:?} cannot store"),
            });
        }
        let raw = match kind {
            ElementType::Int8 => values.iter().flat_map(|&v| (v as i8).to_le_bytes()).collect(),
            ElementType::UInt8 => values.iter().flat_map(|&v| (v as u8).to_le_bytes()).collect(),
            ElementType::Int32 => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect(),
        };
        self.tensor(name, shape, data_type, raw);
        Ok(())
    }

    /// The storage form: an fp16 initialiser and its cast to fp32.
    fn half(&mut self, name: &str, shape: &[usize], values: &[f32], graph: &str) -> Result<()> {
        let raw = halves(name, values, graph)?;
        let stored = format!("{name}.fp16");
        self.tensor(&stored, shape, data_type::FLOAT16, raw);
        self.push("Cast", &[stored], &[name.to_owned()], vec![int("to", i64::from(data_type::FLOAT))]);
        Ok(())
    }

    /// A shared 64-bit integer initialiser; its name is its content.
    fn integers(&mut self, shape: &[usize], values: &[i64]) -> String {
        let content: Vec<String> = values.iter().map(|v| v.to_string().replace('-', "minus")).collect();
        let kind = if shape.is_empty() { "scalar" } else { "list" };
        let name = format!("int64.{kind}.{}", content.join("_"));
        self.tensor(&name, shape, data_type::INT64, values.iter().flat_map(|v| v.to_le_bytes()).collect());
        name
    }

    fn list(&mut self, values: &[i64]) -> String {
        self.integers(&[values.len()], values)
    }

    fn push(&mut self, op_type: &str, inputs: &[String], outputs: &[String], attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            input: inputs.to_vec(),
            output: outputs.to_vec(),
            name: outputs.last().cloned(),
            op_type: Some(op_type.to_owned()),
            attribute,
        });
    }

    fn node(&mut self, op: &Op, inputs: &[String], output: &str, graph: &str) -> Result<()> {
        let mut inputs = inputs.to_vec();
        let mut outputs = vec![output.to_owned()];
        let attributes = match op {
            Op::Conv { strides, pads, dilations } => vec![
                ints("dilations", dilations),
                int("group", 1),
                ints("pads", &[pads[0], pads[1], pads[0], pads[1]]),
                ints("strides", strides),
            ],
            Op::BatchNormalization { epsilon, momentum } => {
                vec![float("epsilon", *epsilon), float("momentum", 1.0 - momentum), int("training_mode", 0)]
            }
            Op::MaxPool { kernel, strides, pads } => vec![
                ints("kernel_shape", kernel),
                ints("pads", &[pads[0], pads[1], pads[0], pads[1]]),
                ints("strides", strides),
            ],
            Op::Relu | Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max | Op::Sqrt | Op::MatMul => vec![],
            Op::Softmax { axis } | Op::Concat { axis } => vec![int("axis", *axis as i64)],
            Op::Transpose { perm } => vec![ints("perm", perm)],
            Op::Reshape { shape } => {
                inputs.push(self.list(shape));
                vec![]
            }
            Op::Slice { axis, start, end } => {
                for value in [start, end, axis] {
                    inputs.push(self.list(&[*value as i64]));
                }
                vec![]
            }
            Op::Unsqueeze { axis } => {
                inputs.push(self.list(&[*axis as i64]));
                vec![]
            }
            Op::ReduceSum { axis } => {
                inputs.push(self.list(&[*axis as i64]));
                vec![int("keepdims", 1)]
            }
            Op::ReduceMean { axis } | Op::ReduceL2 { axis } | Op::ReduceMax { axis } => {
                let keep = int("keepdims", i64::from(!matches!(op, Op::ReduceMax { .. })));
                // Opset 18 made the axes an operand.
                if self.opset < 18 {
                    vec![ints("axes", &[*axis]), keep]
                } else {
                    inputs.push(self.list(&[*axis as i64]));
                    vec![keep]
                }
            }
            Op::ArgMax { axis } => {
                vec![int("axis", *axis as i64), int("keepdims", 0), int("select_last_index", 0)]
            }
            Op::DescendingOrder { length } => {
                inputs.push(self.list(&[*length as i64]));
                outputs.insert(0, format!("{output}.values"));
                vec![int("axis", -1), int("largest", 1), int("sorted", 1)]
            }
            Op::OneHot { depth } => {
                inputs.push(self.integers(&[], &[*depth as i64]));
                let off_on = "float.off_on";
                self.float(off_on, &[2], &[0.0, 1.0]);
                inputs.push(off_on.to_owned());
                vec![int("axis", -1)]
            }
            Op::CastToFloat => vec![int("to", i64::from(data_type::FLOAT))],
            Op::CastToHalf => vec![int("to", i64::from(data_type::FLOAT16))],
            Op::QuantizeLinear { axis } | Op::DequantizeLinear { axis } => {
                axis.iter().map(|&axis| int("axis", axis as i64)).collect()
            }
            Op::Dropout { .. } => {
                return Err(ModelError::Graph {
                    graph: graph.to_owned(),
                    what: format!(
                        "`{output}` is dropout, which is for training only; run passes::strip_training first"
                    ),
                });
            }
        };
        self.push(op.onnx_name(), &inputs, &outputs, attributes);
        Ok(())
    }
}

/// fp16 bytes of values that fp16 can hold.
fn halves(name: &str, values: &[f32], graph: &str) -> Result<Vec<u8>> {
    let mut raw = Vec::with_capacity(values.len() * 2);
    for &value in values {
        let half = half::f16::from_f32(value);
        if !half.is_finite() {
            return Err(ModelError::Weights {
                origin: format!("graph `{graph}`"),
                tensor: name.to_owned(),
                what: format!("holds {value}, which fp16 cannot store"),
            });
        }
        raw.extend(half.to_le_bytes());
    }
    Ok(raw)
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind), ..AttributeProto::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, attribute_type::INT) }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, attribute_type::FLOAT) }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto { ints: values.iter().map(|&v| v as i64).collect(), ..attribute(name, attribute_type::INTS) }
}
