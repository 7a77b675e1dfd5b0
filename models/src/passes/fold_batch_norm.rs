use std::collections::BTreeMap;

use crate::Result;
use crate::graph::{Graph, Node, Op, Shapes};
use crate::params::{ParamInit, ParamSpec};
use crate::weights::{Tensor, Weights};

use super::{count_readers, free_name, producers, trial_shapes, value_of};

/// Multiplies each batch normalisation (in inference form) into what it alone reads, where that is
///
/// - a convolution: w' = w · γ/√(σ² + ε) per output channel, b' = (b − μ) · γ/√(σ² + ε) + β;
/// - a matrix on tokens, `W · x` with x `[b, in, n]`, with or without a bias after it: likewise per row of W;
/// - another batch normalisation: one with μ and σ² of the first remains.
///
/// Others stay as they are: a normalisation of a sum, or of what someone else reads as well. Results are the same up to the
/// last digits of fp32; everything is computed in 64-bit floats and rounded once.
///
/// A folded weight keeps its name. A bias that was not there has its stem (`….weight` → `….bias`).
///
/// # Errors
/// [`crate::ModelError::Weights`] when a parameter of the graph is missing from `weights`.
pub fn fold_batch_norm(graph: &mut Graph, weights: &mut Weights) -> Result<()> {
    // Shapes say which matrices are tokens'. A graph whose shapes cannot be inferred keeps those normalisations.
    let shapes = trial_shapes(graph, 64).unwrap_or_default();
    let mut from = 0;
    while let Some(next) = fold_next(graph, weights, &shapes, from)? {
        from = next;
    }
    graph.remove_unused();
    Ok(())
}

/// What a normalisation is folded into.
enum Target {
    /// Node of the convolution.
    Conv(usize),
    /// Node of the matrix product and, where there is a bias: node of the sum and name of the bias.
    Matrix(usize, Option<(usize, String)>),
    /// Node of the earlier normalisation.
    Norm(usize),
}

/// Folds the first normalisation at or after node `from` that can be folded; returns where to go on.
fn fold_next(graph: &mut Graph, weights: &mut Weights, shapes: &Shapes, from: usize) -> Result<Option<usize>> {
    let (readers, producers) = (count_readers(graph), producers(graph));
    for index in from..graph.nodes.len() {
        if !matches!(graph.nodes[index].op, Op::BatchNormalization { .. }) {
            continue;
        }
        let Some(target) = target(graph, index, &readers, &producers, shapes) else { continue };
        let norm = Affine::of(graph, weights, index)?;
        match target {
            Target::Conv(conv) => fold_into_conv(graph, weights, index, conv, &norm)?,
            Target::Matrix(product, bias) => fold_into_matrix(graph, weights, index, product, bias, &norm)?,
            Target::Norm(earlier) => fold_into_norm(graph, weights, index, earlier, &norm)?,
        }
        return Ok(Some(index));
    }
    Ok(None)
}

fn target(
    graph: &Graph,
    index: usize,
    readers: &BTreeMap<String, usize>,
    producers: &BTreeMap<String, usize>,
    shapes: &Shapes,
) -> Option<Target> {
    let alone = |name: &String| readers.get(name) == Some(&1);
    let param = |name: &String| graph.params.iter().find(|p| p.name == *name);
    let norm = &graph.nodes[index];
    // γ, β, μ and σ² that are computed are nothing that can be folded.
    if !norm.inputs[1..].iter().all(|name| param(name).is_some()) {
        return None;
    }
    let read = &norm.inputs[0];
    let place = *producers.get(read)?;
    if !alone(read) {
        return None;
    }
    // A weight that two layers share cannot take one's statistics.
    let matrix = |place: usize| {
        let node = &graph.nodes[place];
        let is_matrix = node.op == Op::MatMul
            && param(&node.inputs[0]).is_some_and(|weight| weight.shape.len() == 2)
            && shapes.get(&node.inputs[1]).is_some_and(|shape| shape.len() == 3);
        (is_matrix && alone(&node.inputs[0])).then_some(place)
    };
    let node = &graph.nodes[place];
    match node.op {
        Op::Conv { .. } => (param(&node.inputs[1]).is_some() && alone(&node.inputs[1])).then_some(Target::Conv(place)),
        Op::MatMul => matrix(place).map(|product| Target::Matrix(product, None)),
        Op::Add => {
            // W · x + column of b
            let product = matrix(*producers.get(&node.inputs[0])?)?;
            let column = &graph.nodes[*producers.get(&node.inputs[1])?];
            let is_bias = column.op == Op::Unsqueeze { axis: 1 }
                && param(&column.inputs[0]).is_some_and(|bias| bias.shape.len() == 1);
            (is_bias && alone(&node.inputs[0]) && alone(&node.inputs[1]) && alone(&column.inputs[0]))
                .then(|| Target::Matrix(product, Some((place, column.inputs[0].clone()))))
        }
        Op::BatchNormalization { .. } => {
            node.inputs[1..].iter().all(|name| param(name).is_some() && alone(name)).then_some(Target::Norm(place))
        }
        _ => None,
    }
}

/// A normalisation as y = factor · (x − mean) + shift per channel.
struct Affine {
    factor: Vec<f64>,
    mean: Vec<f64>,
    shift: Vec<f64>,
}

impl Affine {
    fn of(graph: &Graph, weights: &Weights, index: usize) -> Result<Self> {
        let node = &graph.nodes[index];
        let Op::BatchNormalization { epsilon, .. } = node.op else {
            return Ok(Self { factor: vec![], mean: vec![], shift: vec![] });
        };
        let wide = |place: usize| -> Result<Vec<f64>> {
            let tensor = value_of(graph, weights, &node.inputs[place])?;
            Ok(tensor.values.iter().map(|&v| f64::from(v)).collect())
        };
        let (scale, shift, mean, variance) = (wide(1)?, wide(2)?, wide(3)?, wide(4)?);
        let factor = scale.iter().zip(variance).map(|(s, v)| s / (v + f64::from(epsilon)).sqrt()).collect();
        Ok(Self { factor, mean, shift })
    }

    /// Multiplies the rows of a weight, whose first axis is the channels.
    fn scale_rows(&self, weight: &mut Tensor) {
        let per_channel = (weight.values.len() / self.factor.len().max(1)).max(1);
        for (row, factor) in weight.values.chunks_mut(per_channel).zip(&self.factor) {
            row.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
        }
    }

    /// The bias that `old` becomes.
    fn bias(&self, old: Option<&Tensor>) -> Tensor {
        let values: Vec<f32> = (0..self.factor.len())
            .map(|c| {
                let old = old.map_or(0.0, |bias| f64::from(bias.values[c]));
                ((old - self.mean[c]) * self.factor[c] + self.shift[c]) as f32
            })
            .collect();
        Tensor { shape: vec![values.len()], values }
    }
}

fn fold_into_conv(graph: &mut Graph, weights: &mut Weights, index: usize, place: usize, norm: &Affine) -> Result<()> {
    let conv = graph.nodes[place].clone();
    let mut weight = value_of(graph, weights, &conv.inputs[1])?.clone();
    let old = conv.inputs.get(2).map(|name| value_of(graph, weights, name)).transpose()?;
    let bias = norm.bias(old);
    norm.scale_rows(&mut weight);
    let name = declare_bias(graph, weights, &conv.inputs[1], conv.inputs.get(2), bias);
    weights.insert(conv.inputs[1].clone(), weight);
    let output = graph.nodes[index].output.clone();
    let node = &mut graph.nodes[place];
    node.inputs.truncate(2);
    node.inputs.push(name);
    node.output = output;
    graph.nodes.remove(index);
    Ok(())
}

fn fold_into_matrix(
    graph: &mut Graph,
    weights: &mut Weights,
    index: usize,
    place: usize,
    sum: Option<(usize, String)>,
    norm: &Affine,
) -> Result<()> {
    let name = graph.nodes[place].inputs[0].clone();
    let mut weight = value_of(graph, weights, &name)?.clone();
    let old = sum.as_ref().map(|(_, bias)| value_of(graph, weights, bias)).transpose()?;
    let bias = norm.bias(old);
    norm.scale_rows(&mut weight);
    weights.insert(name.clone(), weight);
    let output = graph.nodes[index].output.clone();
    if let Some((sum, old)) = sum {
        weights.insert(old, bias);
        graph.nodes[sum].output = output;
        graph.nodes.remove(index);
    } else {
        let bias = declare_bias(graph, weights, &name, None, bias);
        let column = free_name(graph, &format!("{output}.column"));
        let product = graph.nodes[place].output.clone();
        graph.nodes[index] = Node { op: Op::Add, inputs: vec![product, column.clone()], output };
        graph.nodes.insert(index, Node { op: Op::Unsqueeze { axis: 1 }, inputs: vec![bias], output: column });
    }
    Ok(())
}

/// γ₂/√(σ₂² + ε) · (γ₁/√(σ₁² + ε) · (x − μ₁) + β₁ − μ₂) + β₂ has the form of the first normalisation.
fn fold_into_norm(graph: &mut Graph, weights: &mut Weights, index: usize, place: usize, norm: &Affine) -> Result<()> {
    let earlier = graph.nodes[place].clone();
    let mut scale = value_of(graph, weights, &earlier.inputs[1])?.clone();
    let shift = norm.bias(Some(value_of(graph, weights, &earlier.inputs[2])?));
    norm.scale_rows(&mut scale);
    weights.insert(earlier.inputs[1].clone(), scale);
    weights.insert(earlier.inputs[2].clone(), shift);
    let output = graph.nodes[index].output.clone();
    graph.nodes[place].output = output;
    graph.nodes.remove(index);
    Ok(())
}

/// Makes `bias` a parameter: under the name of the old one, or the weight's with another ending.
fn declare_bias(graph: &mut Graph, weights: &mut Weights, weight: &str, old: Option<&String>, bias: Tensor) -> String {
    // An old bias that another layer reads as well keeps its value.
    let mine = old.filter(|old| graph.nodes.iter().flat_map(|n| &n.inputs).filter(|i| i == old).count() == 1);
    let name = mine.cloned().unwrap_or_else(|| {
        let stem = weight.strip_suffix(".weight").unwrap_or(weight);
        free_name(graph, &format!("{stem}.bias"))
    });
    if !graph.params.iter().any(|p| p.name == name) {
        graph.params.push(ParamSpec { name: name.clone(), shape: bias.shape.clone(), init: ParamInit::Zeros });
    }
    weights.insert(name.clone(), bias);
    name
}
