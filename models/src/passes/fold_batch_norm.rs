use std::collections::BTreeMap;

use crate::graph::{Graph, Node, Op};
use crate::params::{ParamInit, ParamSpec};
use crate::weights::{Tensor, Weights};
use crate::{ModelError, Result};

/// Multiplies each batch normalisation (in inference form) into the convolution whose result it alone reads:
/// w' = w · γ/√(σ² + ε) per output channel, b' = (b − μ) · γ/√(σ² + ε) + β. Others stay as they are.
///
/// The folded convolution keeps its weight's name and gets a bias of the same stem (`….weight` → `….bias`).
/// Computed in 64-bit floats.
///
/// # Errors
/// [`ModelError::Weights`] when a parameter of the graph is missing from `weights`.
pub fn fold_batch_norm(graph: &mut Graph, weights: &mut Weights) -> Result<()> {
    let mut readers: BTreeMap<String, usize> = BTreeMap::new();
    for name in graph.nodes.iter().flat_map(|n| &n.inputs).chain(graph.outputs.iter().map(|o| &o.name)) {
        *readers.entry(name.clone()).or_default() += 1;
    }
    let producers: BTreeMap<String, usize> =
        graph.nodes.iter().enumerate().map(|(i, node)| (node.output.clone(), i)).collect();
    let mut removed = vec![false; graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        let Op::BatchNormalization { epsilon, .. } = graph.nodes[index].op else { continue };
        let norm = graph.nodes[index].clone();
        let Some(&conv_index) = producers.get(&norm.inputs[0]) else { continue };
        let conv = &graph.nodes[conv_index];
        if !matches!(conv.op, Op::Conv { .. }) || readers.get(&conv.output) != Some(&1) {
            continue;
        }
        // A weight that two convolutions share cannot take one's statistics.
        if readers.get(&conv.inputs[1]) != Some(&1) {
            continue;
        }
        let bias_name = fold(&norm, conv, f64::from(epsilon), &graph.name, weights)?;
        let channels = weights[&bias_name].values.len();
        if !graph.params.iter().any(|p| p.name == bias_name) {
            graph.params.push(ParamSpec { name: bias_name.clone(), shape: vec![channels], init: ParamInit::Zeros });
        }
        let conv = &mut graph.nodes[conv_index];
        conv.inputs.truncate(2);
        conv.inputs.push(bias_name);
        conv.output = norm.output;
        removed[index] = true;
    }
    let mut removed = removed.iter();
    graph.nodes.retain(|_| !removed.next().copied().unwrap_or(false));
    graph.remove_unused();
    Ok(())
}

/// Folds in `weights` and returns the name of the convolution's bias.
fn fold(norm: &Node, conv: &Node, epsilon: f64, graph: &str, weights: &mut Weights) -> Result<String> {
    let get = |weights: &Weights, name: &String| {
        weights.get(name).cloned().ok_or_else(|| ModelError::Weights {
            origin: format!("graph `{graph}`"),
            tensor: name.clone(),
            what: "is missing".into(),
        })
    };
    let scale = get(weights, &norm.inputs[1])?;
    let shift = get(weights, &norm.inputs[2])?;
    let mean = get(weights, &norm.inputs[3])?;
    let variance = get(weights, &norm.inputs[4])?;
    let mut weight = get(weights, &conv.inputs[1])?;
    let old_bias = conv.inputs.get(2).map(|name| get(weights, name)).transpose()?;
    let channels = scale.values.len();
    let per_channel = weight.values.len() / channels.max(1);
    let mut bias = vec![0.0f32; channels];
    for c in 0..channels {
        let factor = f64::from(scale.values[c]) / (f64::from(variance.values[c]) + epsilon).sqrt();
        for value in &mut weight.values[c * per_channel..(c + 1) * per_channel] {
            *value = (f64::from(*value) * factor) as f32;
        }
        let old = old_bias.as_ref().map_or(0.0, |b| f64::from(b.values[c]));
        bias[c] = ((old - f64::from(mean.values[c])) * factor + f64::from(shift.values[c])) as f32;
    }
    let stem = conv.inputs[1].strip_suffix(".weight").unwrap_or(&conv.inputs[1]);
    let name = format!("{stem}.bias");
    weights.insert(conv.inputs[1].clone(), weight);
    weights.insert(name.clone(), Tensor { shape: vec![channels], values: bias });
    Ok(name)
}
