use std::collections::BTreeMap;

use crate::graph::{ElementType, Graph, Op};

/// Undoes the types of [`super::to_fp16`], not its rounding: the same numbers in fp32, without casts. Parameters keep their
/// fp16 values, Q and DQ stay with scales of the same value. Only what is computed in between is no longer rounded.
///
/// Why: ONNX Runtime on a CPU (1.28; mended after 1.29) truncates where QuantizeLinear of fp16 has to round, so the form
/// for TensorRT 10 can only be judged there as fp32.
pub fn to_fp32(graph: &mut Graph) {
    graph.types.retain(|_, kind| *kind != ElementType::Half);
    let mut replaced: BTreeMap<String, String> = BTreeMap::new();
    let outputs: Vec<String> = graph.outputs.iter().map(|o| o.name.clone()).collect();
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        for input in &mut node.inputs {
            if let Some(origin) = replaced.get(input) {
                input.clone_from(origin);
            }
        }
        if !matches!(node.op, Op::CastToHalf | Op::CastToFloat) {
            graph.nodes.push(node);
        } else if outputs.contains(&node.output) {
            // The value takes the output's name again, wherever it was computed.
            let computed = node.inputs[0].clone();
            for earlier in &mut graph.nodes {
                let names = std::iter::once(&mut earlier.output).chain(&mut earlier.inputs);
                names.filter(|name| **name == computed).for_each(|name| name.clone_from(&node.output));
            }
            replaced.insert(computed, node.output);
        } else {
            replaced.insert(node.output, node.inputs[0].clone());
        }
    }
}
