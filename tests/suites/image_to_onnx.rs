//! One definition of the network: what the trainer computes with libtorch, the exported files compute on the CPU
//! backend.

use models::arch::{NetworkSpec, OutputStride, clustering_transformer, embedding_net, grouping};
use models::export::deployed_graphs;
use models::params::initial_weights;
use models::weights::{Tensor, Weights};
use models::zoo::tiny_spec;
use tch::{Device, Kind};
use tests::networks::run_on_cpu;
use tests::{Tolerance, assert_close};
use trainer::graph_module::{GraphModule, Mode, ParamStore, to_plain};

/// A wave of this shape, the same every time.
fn wave(shape: &[usize], step: f64) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor { shape: shape.to_vec(), values: (0..count).map(|i| (i as f64 * step).sin() as f32).collect() }
}

fn torch(tensor: &Tensor) -> tch::Tensor {
    let shape: Vec<i64> = tensor.shape.iter().map(|&n| n as i64).collect();
    tch::Tensor::from_slice(&tensor.values).reshape(shape)
}

/// Weights with running statistics and scales as after some training.
fn weights(spec: &NetworkSpec) -> Weights {
    let mut weights = initial_weights(&spec.params().unwrap(), 2);
    for (name, tensor) in &mut weights {
        if tensor.shape.len() == 1 {
            let noise = wave(&tensor.shape, 0.83).values;
            let spread = if name.ends_with("running_var") { 0.4 } else { 0.2 };
            tensor.values.iter_mut().zip(noise).for_each(|(v, n)| *v += spread * n);
        }
    }
    weights
}

fn same(name: &str, got: &Tensor, expected: &tch::Tensor) {
    let expected = to_plain(expected).unwrap();
    assert_eq!(got.shape, expected.shape, "{name}");
    assert_close(name, &got.values, &expected.values, Tolerance::relative_to_max(1e-4));
}

#[test]
fn the_exported_embedding_is_the_trained_one() {
    let spec = tiny_spec();
    let weights = weights(&spec.network);
    let params = ParamStore::new(&spec.network.params().unwrap(), &weights, "test", Device::Cpu).unwrap();
    let graph = embedding_net::embedding_net(&spec.network, OutputStride::Test8).unwrap();
    let module = GraphModule::new(&graph, Device::Cpu).unwrap();
    let image = wave(&[1, 3, 64, 96], 0.11);
    let mut outputs = module.run(&params, &[("image", &torch(&image))], Mode::Evaluate).unwrap();
    let [(graph, weights), _] = deployed_graphs(&spec, &weights).unwrap();
    let got = run_on_cpu(&graph, &weights, &[("image", &image)]);
    same("embedding", &got["embedding"], &outputs.take("embedding").unwrap());
}

/// The exported grouping of all levels equals the chain of training transformers on the same unpadded segments, with
/// positions looked up, averaged and handed from level to level outside the graph.
#[test]
fn the_exported_grouping_is_the_trained_one() {
    let spec = tiny_spec();
    let network = &spec.network;
    let (slots, extent, m) = (24i64, spec.position_extent as i64, network.embedding_dim as i64);
    let weights = weights(network);
    let params = ParamStore::new(&network.params().unwrap(), &weights, "test", Device::Cpu).unwrap();

    let features = wave(&[1, m as usize, slots as usize], 0.71);
    // Every segment is one cell: its weights pick one row of each table.
    let mut picks = Tensor { shape: vec![1, 2 * extent as usize, slots as usize], values: vec![] };
    picks.values = vec![0.0; (2 * extent * slots) as usize];
    let column = |s: i64| s % extent;
    let row = |s: i64| (s / 3) % extent;
    for s in 0..slots {
        picks.values[(column(s) * slots + s) as usize] = 1.0;
        picks.values[((extent + row(s)) * slots + s) as usize] = 1.0;
    }
    let [columns, rows] = network.position_params().map(|p| params.get(&p.name).unwrap().shallow_clone());
    let index = |f: &dyn Fn(i64) -> i64| tch::Tensor::from_slice(&(0..slots).map(f).collect::<Vec<_>>());
    let halves = [columns.index_select(0, &index(&column)), rows.index_select(0, &index(&row))];
    let base_positions = tch::Tensor::cat(&halves, 1).transpose(0, 1).unsqueeze(0);

    let valid = Tensor { shape: vec![1, slots as usize], values: vec![1.0; slots as usize] };
    let [_, (graph, deployed)] = deployed_graphs(&spec, &weights).unwrap();
    let inputs = [("features", &features), ("positions", &picks), ("valid", &valid)];
    let got = run_on_cpu(&graph, &deployed, &inputs);

    let mut x = torch(&features);
    let mut positions = base_positions.shallow_clone();
    let mut assignment: Option<tch::Tensor> = None;
    for level in 0..network.groups.len() {
        let module = GraphModule::new(&clustering_transformer::training(network, level).unwrap(), Device::Cpu).unwrap();
        let ones = torch(&valid);
        let mut inputs = vec![("features", &x), ("positions", &positions)];
        if level == 0 {
            inputs.push(("valid", &ones));
        }
        let mut outputs = module.run(&params, &inputs, Mode::Evaluate).unwrap();
        let transition = outputs.take("logits").unwrap().softmax(1, None::<Kind>).transpose(1, 2);
        same(&grouping::names::transition(level + 1), &got[&grouping::names::transition(level + 1)], &transition);
        x = outputs.take("centroid_features").unwrap();
        same(&grouping::names::centroids(level + 1), &got[&grouping::names::centroids(level + 1)], &x);
        let soft = assignment.map_or_else(|| transition.shallow_clone(), |p| p.matmul(&transition));
        let member = soft.argmax(2, false).one_hot(network.groups[level] as i64).to_kind(Kind::Float);
        let count = member.sum_dim_intlist([1i64].as_slice(), true, None::<Kind>).clamp_min(1.0);
        positions = base_positions.matmul(&member) / count;
        assignment = Some(soft);
    }
}
