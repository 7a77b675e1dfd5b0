use std::collections::{BTreeMap, BTreeSet};

use half::f16;

use crate::graph::{ElementType, Graph, Node, Op};
use crate::params::{ParamInit, ParamSpec};
use crate::weights::Weights;
use crate::{ModelError, Result};

use super::free_name;

/// Makes a strongly typed fp16 graph: convolutions and matrix products compute in fp16 and their weights are stored so.
///
/// In fp32 stay: inputs and outputs of the graph; normalisations (batch normalisation, division by a norm), softmax, sums,
/// means, maxima, norms, roots, quotients, orders; and what only they read, such as the squares under a sum and the mask
/// before a softmax. Whatever else moves or combines values follows its readers. A cast stands where a value is read in
/// the other type, once per value.
///
/// A graph with [`Op::QuantizeLinear`] must have fp16 scales ([`super::quantize::Form::TensorRt10`] makes them).
///
/// Results stay up to fp16's 11 bits. Activations above 65 504 would become infinite; which occur, only running it shows.
///
/// # Errors
/// [`ModelError::Invalid`] naming a parameter or constant with a value that fp16 cannot hold; [`ModelError::Graph`] when
/// the graph is fp16 already or is quantised with fp32 scales.
pub fn to_fp16(graph: &mut Graph, weights: &mut Weights) -> Result<()> {
    check(graph)?;
    let wide = computed_in_fp32(graph);
    let mut types: BTreeMap<String, ElementType> =
        graph.inputs.iter().map(|i| (i.name.clone(), ElementType::Float)).collect();
    let leaves: BTreeSet<String> =
        graph.params.iter().map(|p| p.name.clone()).chain(graph.constants.keys().cloned()).collect();
    let outputs: BTreeSet<String> = graph.outputs.iter().map(|o| o.name.clone()).collect();
    // Which parameters are read in which type; those with another type already (scales, integers) are left alone.
    let mut wanted: BTreeMap<String, BTreeSet<ElementType>> = BTreeMap::new();
    for (node, &wide) in graph.nodes.iter().zip(&wide) {
        for name in node.inputs.iter().filter(|i| leaves.contains(*i) && !graph.types.contains_key(*i)) {
            wanted.entry(name.clone()).or_default().insert(if wide { ElementType::Float } else { ElementType::Half });
        }
    }
    let halves = store_halves(graph, weights, &wanted)?;

    let mut nodes = Vec::with_capacity(graph.nodes.len());
    let mut casts: BTreeMap<(String, ElementType), String> = BTreeMap::new();
    for (mut node, wide) in std::mem::take(&mut graph.nodes).into_iter().zip(wide) {
        let computed = if wide { ElementType::Float } else { ElementType::Half };
        for input in &mut node.inputs {
            if leaves.contains(input) {
                if !wide && let Some(half) = halves.get(input) {
                    input.clone_from(half);
                }
                continue;
            }
            let found = types.get(input).copied().unwrap_or(ElementType::Float);
            if found == computed || !matches!(found, ElementType::Float | ElementType::Half) {
                continue;
            }
            let cast = casts.entry((input.clone(), computed)).or_insert_with(|| {
                let (op, ending) = match computed {
                    ElementType::Half => (Op::CastToHalf, "half"),
                    _ => (Op::CastToFloat, "float"),
                };
                let output = format!("{input}.{ending}");
                types.insert(output.clone(), computed);
                nodes.push(Node { op, inputs: vec![input.clone()], output: output.clone() });
                output
            });
            input.clone_from(cast);
        }
        let result = match node.op {
            Op::QuantizeLinear { .. } => ElementType::Int8,
            Op::DescendingOrder { .. } | Op::ArgMax { .. } => ElementType::Int64,
            _ => computed,
        };
        if result == ElementType::Half && outputs.contains(&node.output) {
            // Computed in fp16 under another name, given in fp32 under its own.
            let output = node.output.clone();
            node.output = format!("{output}.half");
            casts.insert((output.clone(), ElementType::Half), node.output.clone());
            types.insert(node.output.clone(), ElementType::Half);
            types.insert(output.clone(), ElementType::Float);
            let cast = Node { op: Op::CastToFloat, inputs: vec![node.output.clone()], output };
            nodes.extend([node, cast]);
        } else {
            types.insert(node.output.clone(), result);
            nodes.push(node);
        }
    }
    graph.nodes = nodes;
    graph.remove_unused();
    graph.element_types().map(drop)
}

fn check(graph: &Graph) -> Result<()> {
    let fail = |what: String| Err(ModelError::Graph { graph: graph.name.clone(), what });
    for node in &graph.nodes {
        match node.op {
            Op::CastToHalf => {
                return fail(format!("`{}` is fp16 already; start from the fp32 network", node.output));
            }
            Op::Dropout { .. } => {
                return fail(format!("`{}` is for training only; run passes::strip_training first", node.output));
            }
            Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. }
                if graph.types.get(&node.inputs[1]) != Some(&ElementType::Half) =>
            {
                return fail(format!(
                    "the scale `{}` of `{}` is fp32, expected fp16; quantise the fp32 network in the form TensorRt10, \
                     which is fp16 then",
                    node.inputs[1], node.output
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// For each node, whether it computes in fp32.
fn computed_in_fp32(graph: &Graph) -> Vec<bool> {
    let mut readers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, node) in graph.nodes.iter().enumerate() {
        for input in &node.inputs {
            readers.entry(input).or_default().push(place);
        }
    }
    let mut wide = vec![false; graph.nodes.len()];
    for (place, node) in graph.nodes.iter().enumerate().rev() {
        wide[place] = match node.op {
            Op::BatchNormalization { .. }
            | Op::Softmax { .. }
            | Op::ReduceSum { .. }
            | Op::ReduceMean { .. }
            | Op::ReduceMax { .. }
            | Op::ReduceL2 { .. }
            | Op::Sqrt
            | Op::Div
            | Op::Max
            | Op::DescendingOrder { .. }
            | Op::ArgMax { .. }
            | Op::OneHot { .. }
            | Op::CastToFloat => true,
            Op::Conv { .. } | Op::MatMul | Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } => false,
            // An output has no reader here, or its readers and the caller, who wants fp32.
            _ => readers.get(node.output.as_str()).is_none_or(|all| all.iter().all(|&reader| wide[reader])),
        };
    }
    wide
}

/// Rounds what is read as fp16; a parameter that is read in both types gets a second one. Returns the names for fp16.
fn store_halves(
    graph: &mut Graph,
    weights: &mut Weights,
    wanted: &BTreeMap<String, BTreeSet<ElementType>>,
) -> Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    for (name, types) in wanted {
        if !types.contains(&ElementType::Half) {
            continue;
        }
        let stored = if types.len() == 1 { name.clone() } else { free_name(graph, &format!("{name}.half")) };
        if let Some(constant) = graph.constants.get(name) {
            let mut constant = constant.clone();
            round(name, &mut constant.values)?;
            graph.constants.insert(stored.clone(), constant);
        } else {
            let mut tensor = super::value_of(graph, weights, name)?.clone();
            round(name, &mut tensor.values)?;
            if stored != *name {
                let spec = ParamSpec { name: stored.clone(), shape: tensor.shape.clone(), init: ParamInit::Zeros };
                graph.params.push(spec);
            }
            weights.insert(stored.clone(), tensor);
        }
        graph.types.insert(stored.clone(), ElementType::Half);
        names.insert(name.clone(), stored);
    }
    Ok(names)
}

fn round(name: &str, values: &mut [f32]) -> Result<()> {
    for (element, value) in values.iter_mut().enumerate() {
        let rounded = f16::from_f32(*value);
        if !rounded.is_finite() {
            return Err(ModelError::Invalid {
                what: format!("element {element} of the tensor `{name}`"),
                expected: "at most 65504 in size, the largest fp16 number (keep this network in fp32)".into(),
                got: value.to_string(),
            });
        }
        *value = rounded.to_f32();
    }
    Ok(())
}
