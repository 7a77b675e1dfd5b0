use std::collections::BTreeSet;

use crate::Result;
use crate::graph::{Graph, Node, Op};
use crate::params::{ParamInit, ParamSpec};
use crate::weights::{Tensor, Weights};

use super::{count_readers, producers, trial_shapes, value_of};

/// Ending of the convolution's name; without it, the name of the layer.
pub(super) const CONV: &str = ".conv";

/// Turns each matrix on tokens, `W · x` with a parameter W `[out, in]` and x `[b, in, n]`, into a 1×1 convolution over
/// `[b, in, n, 1]`, and takes the bias after it along. Run [`super::fold_constants`] first, which makes parameters of packed
/// weights and of columns of biases.
///
/// It is the same sum, so results stay up to the order of addition. Why: a scale per output channel is along axis 0 of a
/// convolution's weight everywhere, while for a matrix from the left neither ONNX Runtime's kernels nor TensorRT have one.
///
/// The value that the layer gave keeps its name; the convolution has it with `.conv` after it, its weight is `….kernel`.
///
/// # Errors
/// [`crate::ModelError::Graph`] when shapes do not fit, [`crate::ModelError::Weights`] when a parameter is missing.
pub fn linear_to_conv(graph: &mut Graph, weights: &mut Weights) -> Result<()> {
    let shapes = trial_shapes(graph, 64)?;
    let (readers, producers) = (count_readers(graph), producers(graph));
    let is_param = |name: &str| graph.params.iter().any(|p| p.name == name);
    let is_linear = |node: &Node| {
        node.op == Op::MatMul
            && is_param(&node.inputs[0])
            && !is_param(&node.inputs[1])
            && !graph.types.contains_key(&node.inputs[0])
            && shapes[&node.inputs[0]].len() == 2
            && shapes[&node.inputs[1]].len() == 3
    };
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    let mut params: Vec<ParamSpec> = Vec::new();
    let mut spread: BTreeSet<String> = BTreeSet::new();
    let mut declare = |weights: &mut Weights, name: String, tensor: Tensor| {
        if !params.iter().any(|p| p.name == name) {
            params.push(ParamSpec { name: name.clone(), shape: tensor.shape.clone(), init: ParamInit::Zeros });
            weights.insert(name.clone(), tensor);
        }
        name
    };
    // Sums that become part of a convolution, by the product that they read: (sum, bias).
    let mut biases = std::collections::BTreeMap::new();
    for node in &graph.nodes {
        if node.op != Op::Add || !is_param(&node.inputs[1]) {
            continue;
        }
        let Some(product) = producers.get(&node.inputs[0]).map(|&place| &graph.nodes[place]) else { continue };
        let column = [shapes[&product.output].get(1).copied().unwrap_or(0), 1];
        let fits = is_linear(product)
            && readers.get(&product.output) == Some(&1)
            && shapes[&node.inputs[1]] == column
            && !graph.types.contains_key(&node.inputs[1]);
        if fits {
            biases.insert(product.output.clone(), (node.output.clone(), node.inputs[1].clone()));
        }
    }
    let absorbed: BTreeSet<&String> = biases.values().map(|(sum, _)| sum).collect();
    for node in &graph.nodes {
        if absorbed.contains(&node.output) {
            continue;
        }
        if !is_linear(node) {
            nodes.push(node.clone());
            continue;
        }
        let cells = format!("{}.cells", node.inputs[1]);
        if spread.insert(cells.clone()) {
            let inputs = vec![node.inputs[1].clone()];
            nodes.push(Node { op: Op::Unsqueeze { axis: 3 }, inputs, output: cells.clone() });
        }
        let weight = value_of(graph, weights, &node.inputs[0])?;
        let kernel = Tensor { shape: vec![weight.shape[0], weight.shape[1], 1, 1], values: weight.values.clone() };
        let stem = node.inputs[0].strip_suffix(".weight").unwrap_or(&node.inputs[0]);
        let mut inputs = vec![cells, declare(weights, format!("{stem}.kernel"), kernel)];
        let mut output = node.output.clone();
        if let Some((sum, column)) = biases.get(&node.output) {
            let column_value = value_of(graph, weights, column)?;
            let row = Tensor { shape: vec![column_value.values.len()], values: column_value.values.clone() };
            let stem = column.strip_suffix(".column").unwrap_or(column);
            inputs.push(declare(weights, format!("{stem}.row"), row));
            output.clone_from(sum);
        }
        let conv = format!("{output}{CONV}");
        let op = Op::Conv { strides: [1; 2], pads: [0; 2], dilations: [1; 2] };
        nodes.push(Node { op, inputs, output: conv.clone() });
        nodes.push(Node { op: Op::Reshape { shape: vec![0, 0, -1] }, inputs: vec![conv], output });
    }
    graph.nodes = nodes;
    graph.params.extend(params);
    graph.remove_unused();
    weights.retain(|name, _| graph.params.iter().any(|p| p.name == *name));
    graph.validate()
}
