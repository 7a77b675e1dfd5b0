use crate::graph::{Graph, Op, output_shape};
use crate::params::{ParamInit, ParamSpec};
use crate::weights::{Tensor, Weights};
use crate::{ModelError, Result};

use super::value_of;

/// Computes what only moves a parameter about (slice, transpose, reshape, unsqueeze): the result is a parameter under the
/// name of the node that is gone. Every bit of every result stays.
///
/// So weights that the architecture packs into one matrix, such as those of attention, become one parameter each, which can
/// have a scale of its own.
///
/// # Errors
/// [`ModelError::Weights`] when a parameter is missing; [`ModelError::Graph`] when operands do not fit.
pub fn fold_constants(graph: &mut Graph, weights: &mut Weights) -> Result<()> {
    let nodes = std::mem::take(&mut graph.nodes);
    let mut kept = Vec::with_capacity(nodes.len());
    for node in nodes {
        let moves =
            matches!(node.op, Op::Slice { .. } | Op::Transpose { .. } | Op::Reshape { .. } | Op::Unsqueeze { .. });
        // An output of the graph has to be computed.
        let is_output = graph.outputs.iter().any(|o| o.name == node.output);
        if !moves || is_output || !graph.params.iter().any(|p| p.name == node.inputs[0]) {
            kept.push(node);
            continue;
        }
        let source = value_of(graph, weights, &node.inputs[0])?;
        let moved = apply(&node.op, source).ok_or_else(|| ModelError::Graph {
            graph: graph.name.clone(),
            what: format!("node `{}` does not fit the parameter `{}` {:?}", node.output, node.inputs[0], source.shape),
        })?;
        let spec = ParamSpec { name: node.output.clone(), shape: moved.shape.clone(), init: ParamInit::Zeros };
        graph.params.push(spec);
        if let Some(&kind) = graph.types.get(&node.inputs[0]) {
            graph.types.insert(node.output.clone(), kind);
        }
        weights.insert(node.output, moved);
    }
    graph.nodes = kept;
    graph.remove_unused();
    weights.retain(|name, _| graph.params.iter().any(|p| p.name == *name));
    Ok(())
}

fn apply(op: &Op, source: &Tensor) -> Option<Tensor> {
    let shape = output_shape(op, &[&source.shape])?;
    let values = match op {
        Op::Reshape { .. } | Op::Unsqueeze { .. } => source.values.clone(),
        Op::Slice { axis, start, end } => {
            let inner: usize = source.shape[axis + 1..].iter().product();
            let row = source.shape[*axis] * inner;
            let rows = source.values.chunks_exact(row.max(1));
            rows.flat_map(|row| &row[start * inner..end * inner]).copied().collect()
        }
        Op::Transpose { perm } => {
            // How far apart neighbours along each axis of the result lie in the source.
            let mut strides = vec![1; source.shape.len()];
            for axis in (1..source.shape.len()).rev() {
                strides[axis - 1] = strides[axis] * source.shape[axis];
            }
            let strides: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
            let mut index = vec![0; shape.len()];
            let mut values = Vec::with_capacity(source.values.len());
            for _ in 0..source.values.len() {
                let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
                values.push(source.values[at]);
                for axis in (0..index.len()).rev() {
                    index[axis] += 1;
                    if index[axis] < shape[axis] {
                        break;
                    }
                    index[axis] = 0;
                }
            }
            values
        }
        _ => return None,
    };
    Some(Tensor { shape, values })
}
