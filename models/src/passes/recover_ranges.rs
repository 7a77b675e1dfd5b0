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
    /// Biases by their name in the prepared network; those of int8 may have been corrected.
    pub biases: BTreeMap<String, Vec<f32>>,
}

impl Recovered {
    /// Puts the biases into the weights of the prepared network.
    ///
    /// # Errors
    /// [`ModelError::Weights`] when a bias has another length.
    pub fn set_biases(&self, weights: &mut Weights) -> Result<()> {
        for (name, values) in &self.biases {
            let tensor = weights.get_mut(name).filter(|tensor| tensor.values.len() == values.len());
            let tensor = tensor.ok_or_else(|| ModelError::Weights {
                origin: "the int8 network".into(),
                tensor: name.clone(),
                what: "has another number of values in the fp32 network".into(),
            })?;
            tensor.values.clone_from(values);
        }
        Ok(())
    }
}

/// Reads the ranges and the exceptions back from an int8 file of the form for CPUs, so that the forms for TensorRT come from
/// the same numbers as the file whose accuracy was measured: `prepared`, what
/// [`prepare_for_quantization`](super::prepare_for_quantization) makes of the fp32 file, then goes through
/// [`insert_qdq`](super::insert_qdq) with these, after [`Recovered::set_biases`].
///
/// A range comes back as its 256 steps lie, so each end is within half a step of what it was; so do biases.
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
    let convolutions: BTreeMap<&str, &[String]> = quantized
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Conv { .. }))
        .map(|node| (node.output.as_str(), node.inputs.as_slice()))
        .collect();
    let dequantizer = |name: &str| {
        let node = producers.get(name).map(|&place| &quantized.nodes[place])?;
        matches!(node.op, Op::DequantizeLinear { .. }).then_some(node)
    };
    for node in prepared.nodes.iter().filter(|node| matches!(node.op, Op::Conv { .. })) {
        let inputs = convolutions.get(node.output.as_str()).copied().unwrap_or_default();
        // Its weight does not tell: where the result stays in floats, it does, too.
        if inputs.first().is_none_or(|input| dequantizer(input).is_none()) {
            recovered.keep.insert(node.output.clone());
        }
        let (Some(name), Some(bias)) = (node.inputs.get(2), inputs.get(2)) else { continue };
        let values = match dequantizer(bias).map(|node| node.inputs.as_slice()) {
            Some([steps, scales, ..]) => {
                let (steps, scales) = (value_of(quantized, weights, steps)?, value_of(quantized, weights, scales)?);
                // In 64 bits: a step count of 32 bits keeps its digits.
                let values = steps.values.iter().zip(&scales.values);
                values.map(|(&step, &scale)| (f64::from(step) * f64::from(scale)) as f32).collect()
            }
            _ => value_of(quantized, weights, bias)?.values.clone(),
        };
        recovered.biases.insert(name.clone(), values);
    }
    Ok(recovered)
}
