//! Each pass gives a graph that computes what its input computes, run by the CPU backend.

use models::arch::{Backbone, NetworkSpec, OutputStride, embedding_net, grouping};
use models::export::deployed_graphs;
use models::graph::{Dim, Graph, Op};
use models::onnx::{Storage, read, write};
use models::params::{ParamInit, initial_weights};
use models::passes::{fold_batch_norm, strip_training};
use models::weights::{Tensor, Weights};
use models::zoo::tiny_spec;
use tests::networks::run_on_cpu;
use tests::{Tolerance, assert_close};

/// A wave of this shape: no two rows or columns are alike, and the same numbers come every time.
fn wave(shape: &[usize], step: f64) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor { shape: shape.to_vec(), values: (0..count).map(|i| (i as f64 * step).sin() as f32).collect() }
}

/// Weights as after some training: running statistics away from 0 and 1, scales away from 1.
fn lived_in(graph: &Graph) -> Weights {
    let mut weights = initial_weights(&graph.params, 11);
    for (name, tensor) in &mut weights {
        let count = tensor.values.len();
        let noise = wave(&[count], 0.83).values;
        let is_norm = tensor.shape.len() == 1;
        for (value, noise) in tensor.values.iter_mut().zip(noise) {
            if name.ends_with("running_var") {
                *value = 0.5 + 0.4 * noise;
            } else if is_norm {
                *value += 0.3 * noise;
            }
        }
    }
    weights
}

fn same(name: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.shape, expected.shape, "{name}");
    assert_close(name, &got.values, &expected.values, Tolerance::relative_to_max(1e-5));
}

#[test]
fn folding_batch_norm_changes_no_result() {
    for backbone in [Backbone::ResNet18, Backbone::ResNet50] {
        let spec = NetworkSpec { backbone, width_factor: 0.125, embedding_dim: 16, groups: vec![5, 3] };
        let graph = embedding_net::embedding_net(&spec, OutputStride::Test8).unwrap();
        let weights = lived_in(&graph);
        let image = wave(&[1, 3, 40, 56], 0.37);
        let expected = run_on_cpu(&graph, &weights, &[("image", &image)]);
        let (mut folded, mut folded_weights) = (graph.clone(), weights);
        fold_batch_norm(&mut folded, &mut folded_weights).unwrap();
        assert!(folded.nodes.len() < graph.nodes.len());
        let got = run_on_cpu(&folded, &folded_weights, &[("image", &image)]);
        same("embedding", &got["embedding"], &expected["embedding"]);
    }
}

/// A normalisation whose convolution someone else reads as well must stay.
#[test]
fn a_convolution_with_a_second_reader_is_not_folded() {
    let mut graph = Graph::new("shared");
    let x = graph.input("x", &[1.into(), 2.into(), Dim::from("h"), Dim::from("w")]);
    let weight = graph.param("conv.weight", &[3, 2, 1, 1], ParamInit::Normal(1.0));
    let conv = Op::Conv { strides: [1; 2], pads: [0; 2], dilations: [1; 2] };
    let y = graph.push("conv", conv, &[&x, &weight]);
    let params = ["weight", "bias", "running_mean", "running_var"]
        .map(|p| graph.param(format!("norm.{p}"), &[3], ParamInit::Uniform(0.5, 1.5)));
    let inputs = [&y, &params[0], &params[1], &params[2], &params[3]].map(String::as_str);
    let z = graph.push("norm", Op::BatchNormalization { epsilon: 1e-5, momentum: 0.1 }, &inputs);
    let sum = graph.push("sum", Op::Add, &[&y, &z]);
    graph.output("out", &sum, &[1.into(), 3.into(), "h".into(), "w".into()]);
    let mut weights = initial_weights(&graph.params, 5);
    let input = wave(&[1, 2, 4, 5], 0.7);
    let expected = run_on_cpu(&graph, &weights, &[("x", &input)]);
    fold_batch_norm(&mut graph, &mut weights).unwrap();
    assert!(graph.nodes.iter().any(|n| n.op.onnx_name() == "BatchNormalization"));
    same("out", &run_on_cpu(&graph, &weights, &[("x", &input)])["out"], &expected["out"]);
}

#[test]
fn the_written_file_computes_what_was_written() {
    let spec = tiny_spec();
    let mut all = Weights::new();
    for graph in [
        embedding_net::embedding_net(&spec.network, OutputStride::Test8).unwrap(),
        grouping::grouping(&spec.network, 24, spec.position_extent).unwrap(),
    ] {
        all.extend(lived_in(&graph));
    }
    let [(embedding, weights), _] = deployed_graphs(&spec, &all).unwrap();
    let image = wave(&[1, 3, 64, 96], 0.11);
    let expected = run_on_cpu(&embedding, &weights, &[("image", &image)]);
    let bytes = write(&embedding, &weights, Storage::Full).unwrap();
    let (graph, weights) = read(&bytes, std::path::Path::new("embedding.onnx")).unwrap();
    let got = run_on_cpu(&graph, &weights, &[("image", &image)]);
    assert_eq!(got["embedding"], expected["embedding"]);
}

/// Empty slots have no influence, wherever they are and whatever they hold, on any level.
#[test]
fn empty_slots_of_the_grouping_network_change_nothing() {
    let spec = tiny_spec().network;
    let (tokens, slots, extent) = (20, 24, 8);
    let run = |slots: usize, place: &dyn Fn(usize) -> usize, rubbish: f32| {
        let mut graph = grouping::grouping(&spec, slots, extent).unwrap();
        let weights = lived_in(&graph);
        strip_training(&mut graph);
        let spread = |rows: usize, step: f64| {
            let source = wave(&[1, rows, tokens], step);
            let mut spread = Tensor { shape: vec![1, rows, slots], values: vec![rubbish; rows * slots] };
            for row in 0..rows {
                for token in 0..tokens {
                    spread.values[row * slots + place(token)] = source.values[row * tokens + token];
                }
            }
            spread
        };
        let mut valid = Tensor { shape: vec![1, slots], values: vec![0.0; slots] };
        (0..tokens).for_each(|t| valid.values[place(t)] = 1.0);
        let (features, positions) = (spread(16, 0.71), spread(2 * extent, 0.29));
        run_on_cpu(&graph, &weights, &[("features", &features), ("positions", &positions), ("valid", &valid)])
    };
    let dense = run(tokens, &|t| t, 0.0);
    let sparse = run(slots, &|t| t + usize::from(t > 6) * 3, 0.4);
    for name in ["transition_2", "centroids_1", "centroids_2"] {
        same(name, &sparse[name], &dense[name]);
    }
}
