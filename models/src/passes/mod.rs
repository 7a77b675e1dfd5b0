//! Graph → graph. Each pass is proved against its input: `tests/suites/passes.rs` runs both graphs and compares.
//!
//! | pass | what | what it preserves |
//! |---|---|---|
//! | [`strip_training`] | removes dropout, which does nothing at inference | every bit |
//! | [`fold_batch_norm`] | multiplies batch normalisations into the convolution, matrix or normalisation before them | results up to the last digits of fp32 |
//! | [`fold_constants`] | slices, transposes and reshapes of parameters become parameters | every bit |
//! | [`linear_to_conv`] | a matrix on tokens becomes a 1×1 convolution, its bias with it | results up to the order of a sum |
//! | [`prepare_for_quantization`] | the four above, in this order | results up to the last digits of fp32 |
//! | [`expose_activations`] | extra outputs, for calibration to observe | every bit |
//! | [`to_fp16`] | strongly typed fp16 | results up to fp16's 11 bits; inputs, outputs and statistics stay fp32 |
//! | [`to_fp32`] | drops fp16 types and casts | parameters and scales; nothing in between is rounded |
//! | [`insert_qdq`] | 8-bit integers between [`Op::QuantizeLinear`](crate::graph::Op::QuantizeLinear) and [`Op::DequantizeLinear`](crate::graph::Op::DequantizeLinear) | results up to half a step of each scale |
//!
//! [`recover_ranges`] is no pass: it reads that table back from an int8 file.
//!
//! The ways to a file: fp32 is the first two; fp16 is those, then [`to_fp16`]; int8 is [`prepare_for_quantization`], then
//! [`insert_qdq`] with a form. Only the last takes numbers from elsewhere, a table of [`quantize::Ranges`].

mod expose_activations;
mod fold_batch_norm;
mod fold_constants;
mod linear_to_conv;
pub mod quantize;
mod recover_ranges;
mod strip_training;
mod to_fp16;
mod to_fp32;

use std::collections::BTreeMap;

use crate::graph::{Dim, Graph, Shapes};
use crate::weights::{Tensor, Weights};
use crate::{ModelError, Result};

pub use expose_activations::expose_activations;
pub use fold_batch_norm::fold_batch_norm;
pub use fold_constants::fold_constants;
pub use linear_to_conv::linear_to_conv;
pub use quantize::insert_qdq;
pub use recover_ranges::{Recovered, recover_ranges};
pub use strip_training::strip_training;
pub use to_fp16::to_fp16;
pub use to_fp32::to_fp32;

/// The form that ranges are collected on and that [`insert_qdq`] takes: [`strip_training`], [`fold_batch_norm`],
/// [`fold_constants`], [`linear_to_conv`].
///
/// # Errors
/// As those passes.
pub fn prepare_for_quantization(graph: &mut Graph, weights: &mut Weights) -> Result<()> {
    strip_training(graph);
    fold_batch_norm(graph, weights)?;
    fold_constants(graph, weights)?;
    linear_to_conv(graph, weights)
}

/// How often each value is read; an output of the graph counts as a reader.
fn count_readers(graph: &Graph) -> BTreeMap<String, usize> {
    let mut readers: BTreeMap<String, usize> = BTreeMap::new();
    for name in graph.nodes.iter().flat_map(|n| &n.inputs).chain(graph.outputs.iter().map(|o| &o.name)) {
        *readers.entry(name.clone()).or_default() += 1;
    }
    readers
}

/// Place in `graph.nodes` of the node that computes each value.
fn producers(graph: &Graph) -> BTreeMap<String, usize> {
    graph.nodes.iter().enumerate().map(|(i, node)| (node.output.clone(), i)).collect()
}

/// Shapes for one made-up choice of the axes that vary: `length` for each of them. What does not depend on that choice,
/// such as the number of axes, holds for every choice.
fn trial_shapes(graph: &Graph, length: usize) -> Result<Shapes> {
    let shapes: Vec<(String, Vec<usize>)> = graph
        .inputs
        .iter()
        .map(|input| {
            let axes = input.dims.iter().map(|dim| match dim {
                Dim::Fixed(fixed) => *fixed,
                Dim::Named(_) => length,
            });
            (input.name.clone(), axes.collect())
        })
        .collect();
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    graph.infer_shapes(&shapes)
}

/// A parameter's value.
fn value_of<'a>(graph: &Graph, weights: &'a Weights, name: &str) -> Result<&'a Tensor> {
    weights.get(name).ok_or_else(|| ModelError::Weights {
        origin: format!("graph `{}`", graph.name),
        tensor: name.to_owned(),
        what: "is missing".into(),
    })
}

/// `wanted`, or with a number after it if that name is taken.
fn free_name(graph: &Graph, wanted: &str) -> String {
    let is_taken = |name: &str| {
        graph.params.iter().any(|p| p.name == name)
            || graph.constants.contains_key(name)
            || graph.inputs.iter().any(|i| i.name == name)
            || graph.nodes.iter().any(|n| n.output == name)
    };
    let mut name = wanted.to_owned();
    let mut number = 2;
    while is_taken(&name) {
        name = format!("{wanted}.{number}");
        number += 1;
    }
    name
}
