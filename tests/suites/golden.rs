//! Networks against numbers that the authors' implementation and PyTorch computed (`../shared/golden/hsg`, or the
//! folder that `HSG_GOLDEN` names), run by the CPU backend as ONNX files.

use std::collections::BTreeMap;

use models::arch::{Backbone, NetworkSpec, OutputStride, clustering_transformer, embedding_net};
use models::graph::Graph;
use models::passes::{fold_batch_norm, strip_training};
use models::weights::{Tensor, Weights};
use tests::golden::Golden;
use tests::networks::run_on_cpu;
use tests::{Tolerance, folders};

/// Tolerances of the golden README, relative to the largest expected value: the 50-layer network, everything else.
const DEEP: f64 = 1e-3;
const FLAT: f64 = 1e-4;

fn assert_close(got: &Tensor, expected: &Tensor, tolerance: f64, name: &str) {
    assert_eq!(got.shape, expected.shape, "shape of {name}");
    tests::assert_close(name, &got.values, &expected.values, Tolerance::relative_to_max(tolerance));
}

fn tensor(golden: &Golden, name: &str) -> Tensor {
    let t = golden.f32(name);
    Tensor { shape: t.shape, values: t.data }
}

/// A golden mask is 1 where a token is padding; the networks take 1 where it is valid.
fn valid(golden: &Golden) -> Tensor {
    let mask = golden.u8("padding_mask");
    Tensor { shape: mask.shape, values: mask.data.iter().map(|&padded| f32::from(u8::from(padded == 0))).collect() }
}

#[derive(serde::Deserialize)]
struct Regenerate {
    step_element: f64,
    step_tensor: f64,
    phase: f64,
    tensors: Vec<Named>,
}

#[derive(serde::Deserialize)]
struct Named {
    name: String,
    shape: Vec<usize>,
    index: usize,
}

/// The weights of the FCN golden files follow a rule that the `.json` beside them states.
fn regenerate(rule: &Regenerate) -> Weights {
    let mut weights = Weights::new();
    for tensor in &rule.tensors {
        let count: usize = tensor.shape.iter().product();
        let values = (0..count).map(|j| {
            let s = (rule.step_element * j as f64 + rule.step_tensor * tensor.index as f64 + rule.phase).sin();
            let value = if tensor.shape.len() == 4 {
                let fan_in: usize = tensor.shape[1..].iter().product();
                (4.0 / fan_in as f64).sqrt() * s
            } else if tensor.name.ends_with("running_mean") {
                0.1 * s
            } else if tensor.name.ends_with("running_var") {
                1.0 + 0.25 * s
            } else if tensor.name.ends_with("bias") {
                0.05 * s
            } else {
                0.5 + 0.1 * s
            };
            value as f32
        });
        weights.insert(tensor.name.clone(), Tensor { shape: tensor.shape.clone(), values: values.collect() });
    }
    weights
}

fn fcn_resnet50(file: &str, output_stride: OutputStride) {
    let Some(golden) = Golden::open(file) else { return };
    let Some(rule) = folders::golden(&format!("hsg/{file}.json")) else { return };
    let rule = std::fs::read(rule).expect("the golden .json can be read");
    let rule: Regenerate = serde_json::from_slice(&rule).expect("the golden .json has its documented layout");
    let spec = NetworkSpec {
        backbone: Backbone::ResNet50,
        width_factor: 1.0,
        embedding_dim: tensor(&golden, "embedding").shape[1],
        groups: vec![8, 4],
    };
    let graph = embedding_net::fcn(&spec, output_stride).expect("the graph is built from constants");
    let names: Vec<&str> = graph.params.iter().map(|p| p.name.as_str()).collect();
    let expected: Vec<&str> = rule.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, expected, "parameter names and order are the authors'");
    let weights = regenerate(&rule);

    let image = tensor(&golden, "image");
    let plain = run_on_cpu(&graph, &weights, &[("image", &image)]);
    assert_close(&plain["embedding"], &tensor(&golden, "embedding"), DEEP, "embedding");

    let (mut folded, mut folded_weights) = (graph, weights);
    fold_batch_norm(&mut folded, &mut folded_weights).expect("all weights are there");
    assert!(folded.nodes.iter().all(|n| n.op.onnx_name() != "BatchNormalization"), "every norm follows a convolution");
    let folded = run_on_cpu(&folded, &folded_weights, &[("image", &image)]);
    assert_close(&folded["embedding"], &tensor(&golden, "embedding"), DEEP, "embedding with folded batch norm");
}

#[test]
fn golden_fcn_resnet50_test_stride8() {
    fcn_resnet50("fcn_resnet50_test_stride8", OutputStride::Test8);
}

#[test]
fn golden_fcn_resnet50_train_stride16() {
    fcn_resnet50("fcn_resnet50_train_stride16", OutputStride::Train16);
}

/// Spec and weights of the golden transformer, renamed to those of the first level here.
fn transformer(golden: &Golden) -> (NetworkSpec, Weights) {
    let query = tensor(golden, "query");
    let (groups, embedding_dim) = (query.shape[0], query.shape[1]);
    // A single level, so that any number of groups is allowed.
    let spec = NetworkSpec { backbone: Backbone::ResNet18, width_factor: 1.0, embedding_dim, groups: vec![groups] };
    let prefix = spec.transformer_prefix(0);
    let mut weights: Weights = BTreeMap::new();
    for name in golden.names().iter().filter_map(|n| n.strip_prefix("weights.")) {
        if !name.ends_with("num_batches_tracked") {
            weights.insert(format!("{prefix}.{name}"), tensor(golden, &format!("weights.{name}")));
        }
    }
    weights.insert(spec.query_param(0).name, query);
    (spec, weights)
}

fn check(graph: &mut Graph, weights: &Weights, inputs: &[(&str, &Tensor)], expected: &[(&str, Tensor)]) {
    strip_training(graph);
    let results = run_on_cpu(graph, weights, inputs);
    for (name, expected) in expected {
        assert_close(&results[*name], expected, FLAT, name);
    }
}

const OUTPUTS: [(&str, &str); 4] = [
    ("memory", "encoder_memory"),
    ("logits", "logits"),
    ("centroids", "centroids"),
    ("centroid_features", "centroid_features"),
];

#[test]
fn golden_clustering_transformer_eval() {
    let Some(golden) = Golden::open("clustering_transformer_eval") else { return };
    let (spec, weights) = transformer(&golden);
    let mut graph = clustering_transformer::training(&spec, 0).expect("a legal spec");
    let valid = valid(&golden);
    let (src, pos) = (tensor(&golden, "src"), tensor(&golden, "pos"));
    let expected: Vec<_> = OUTPUTS.iter().map(|(ours, theirs)| (*ours, tensor(&golden, theirs))).collect();
    check(&mut graph, &weights, &[("features", &src), ("positions", &pos), ("valid", &valid)], &expected);
}

/// The deployed form with free slots gives what the training form gives without padding.
#[test]
fn golden_clustering_transformer_fixed_slots_equal_training_form() {
    let Some(golden) = Golden::open("clustering_transformer_eval") else { return };
    let (spec, weights) = transformer(&golden);
    let first = |name: &str| {
        let all = tensor(&golden, name);
        let each: usize = all.shape[1..].iter().product();
        let mut shape = all.shape.clone();
        shape[0] = 1;
        Tensor { shape, values: all.values[..each].to_vec() }
    };
    let (src, pos) = (first("src"), first("pos"));
    let tokens = src.shape[2];
    let mask = golden.u8("padding_mask").data;
    assert!(mask[..tokens].iter().all(|&p| p == 0), "the first image of this file has no padding");
    let mut training = clustering_transformer::training(&spec, 0).expect("a legal spec");
    strip_training(&mut training);
    let ones = Tensor { shape: vec![1, tokens], values: vec![1.0; tokens] };
    let expected = run_on_cpu(&training, &weights, &[("features", &src), ("positions", &pos), ("valid", &ones)]);
    assert_close(&expected["logits"], &first("logits"), FLAT, "logits of the training form");

    // Seven free slots in between and behind, with rubbish in their positions.
    let slots = tokens + 7;
    let place = |token: usize| token + usize::from(token >= 3) * 2;
    let spread = |x: &Tensor, rubbish: f32| {
        let channels = x.shape[1];
        let mut values = vec![rubbish; channels * slots];
        for c in 0..channels {
            for t in 0..tokens {
                values[c * slots + place(t)] = x.values[c * tokens + t];
            }
        }
        Tensor { shape: vec![1, channels, slots], values }
    };
    let mut valid = Tensor { shape: vec![1, slots], values: vec![0.0; slots] };
    (0..tokens).for_each(|t| valid.values[place(t)] = 1.0);
    let mut deployed = clustering_transformer::deployed(&spec, 0, slots).expect("a legal spec");
    strip_training(&mut deployed);
    let got = run_on_cpu(
        &deployed,
        &weights,
        &[("features", &spread(&src, 0.0)), ("positions", &spread(&pos, 0.5)), ("valid", &valid)],
    );
    for name in ["centroids", "centroid_features"] {
        assert_close(&got[name], &expected[name], FLAT, name);
    }
    for name in ["logits", "memory"] {
        let (got, expected) = (&got[name], &expected[name]);
        let rows = expected.shape[1];
        let values = (0..rows).flat_map(|r| (0..tokens).map(move |t| got.values[r * slots + place(t)]));
        let gathered = Tensor { shape: expected.shape.clone(), values: values.collect() };
        assert_close(&gathered, expected, FLAT, name);
    }
}
