use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, Op};
use crate::weights::Weights;
use crate::{ModelError, Result};

use super::quantize::{ActivationRange, Ranges};
use super::{producers, value_of};

/// What a quantised network was made with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// The range of every tensor that has Q and DQ. Tensors that share a scale have the range of all of them.
    pub ranges: Ranges,
    /// Convolutions that were kept in higher precision, by the name of their result.
    pub keep: BTreeSet<String>,
}

/// Reads the ranges and the exceptions back from an int8 file of the form for CPUs, so that the forms for TensorRT come from
/// the same numbers as the file whose accuracy was measured: `prepared`, what
/// [`prepare_for_quantization`](super::prepare_for_quantization) makes of the fp32 file, then goes through
/// [`insert_qdq`](super::insert_qdq) with these.
///
/// A range comes back as its 256 steps lie, so each end is within half a step of what it was.
///
/// # Errors
/// [`ModelError::Graph`] when `quantized` has no Q and DQ; [`ModelError::Weights`] when a scale is missing.
pub fn recover_ranges(prepared: &Graph, quantized: &Graph, weights: &Weights) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    let scalar = |name: &str| Ok(value_of(quantized, weights, name)?.values.first().copied().unwrap_or(0.0));
    for node in quantized.nodes.iter().filter(|node| matches!(node.op, Op::QuantizeLinear { .. })) {
        let [tensor, scale, zero_point] = node.inputs.as_slice() else { continue };
        let (scale, zero_point) = (scalar(scale)?, scalar(zero_point)?);
        let range = ActivationRange { min: -zero_point * scale, max: (255.0 - zero_point) * scale };
        recovered.ranges.tensors.insert(tensor.clone(), range);
    }
    if recovered.ranges.tensors.is_empty() {
        return Err(ModelError::Graph {
            graph: quantized.name.clone(),
            what: "has no QuantizeLinear: it is no int8 network; make one with hsg-calibrate".into(),
        });
    }
    let producers = producers(quantized);
    let convolutions: BTreeMap<&str, &str> = quantized
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Conv { .. }))
        .map(|node| (node.output.as_str(), node.inputs[1].as_str()))
        .collect();
    let is_integer = |weight: &str| {
        producers.get(weight).is_some_and(|&place| matches!(quantized.nodes[place].op, Op::DequantizeLinear { .. }))
    };
    for node in prepared.nodes.iter().filter(|node| matches!(node.op, Op::Conv { .. })) {
        if !convolutions.get(node.output.as_str()).is_some_and(|weight| is_integer(weight)) {
            recovered.keep.insert(node.output.clone());
        }
    }
    Ok(recovered)
}
