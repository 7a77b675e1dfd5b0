use std::collections::BTreeMap;

use crate::graph::{Graph, Op};

/// Removes operators that only act in training (dropout): whoever read their result reads their input.
pub fn strip_training(graph: &mut Graph) {
    let mut replaced: BTreeMap<String, String> = BTreeMap::new();
    graph.nodes.retain_mut(|node| {
        for input in &mut node.inputs {
            if let Some(origin) = replaced.get(input) {
                input.clone_from(origin);
            }
        }
        let is_dropout = matches!(node.op, Op::Dropout { .. });
        if is_dropout {
            replaced.insert(node.output.clone(), node.inputs[0].clone());
        }
        !is_dropout
    });
}
