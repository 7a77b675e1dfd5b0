//! Shapes, dilations and parameter names of the architectures, and what a graph refuses.

use models::ModelError;
use models::arch::{Backbone, NetworkSpec, OutputStride, clustering_transformer, embedding_net, grouping};
use models::graph::{Graph, Op};
use models::params::{ParamInit, initial_weights};
use models::passes::strip_training;
use proptest::prelude::*;

fn spec(backbone: Backbone, width_factor: f64) -> NetworkSpec {
    NetworkSpec { backbone, width_factor, embedding_dim: 128, groups: vec![8, 4] }
}

/// (stride, dilation) of the 3×3 convolutions of a stage in order.
fn three_by_three(graph: &Graph, stage: &str) -> Vec<(usize, usize)> {
    let stage = format!("resnet_backbone.{stage}.");
    let nodes = graph.nodes.iter().filter(|n| n.output.starts_with(&stage) && !n.output.contains("downsample"));
    nodes
        .filter_map(|n| match n.op {
            Op::Conv { strides, pads, dilations } if pads[0] > 0 => Some((strides[0], dilations[0])),
            _ => None,
        })
        .collect()
}

#[test]
fn dilations_follow_the_multi_grid_rules() {
    let net = |backbone, stride| embedding_net::fcn(&spec(backbone, 1.0), stride).unwrap();
    let train = net(Backbone::ResNet50, OutputStride::Train16);
    assert_eq!(three_by_three(&train, "res4"), [(2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]);
    assert_eq!(three_by_three(&train, "res5"), [(1, 1), (1, 4), (1, 8)]);
    let test = net(Backbone::ResNet50, OutputStride::Test8);
    assert_eq!(three_by_three(&test, "res4"), [(1, 1), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)]);
    assert_eq!(three_by_three(&test, "res5"), [(1, 2), (1, 8), (1, 16)]);
    // Basic blocks: the second 3×3 of the first block already takes the stage's dilation.
    let train = net(Backbone::ResNet18, OutputStride::Train16);
    assert_eq!(three_by_three(&train, "res3"), [(2, 1), (1, 1), (1, 1), (1, 1)]);
    assert_eq!(three_by_three(&train, "res5"), [(1, 1), (1, 2), (1, 4), (1, 4)]);
    let test = net(Backbone::ResNet18, OutputStride::Test8);
    assert_eq!(three_by_three(&test, "res4"), [(1, 1), (1, 2), (1, 2), (1, 2)]);
    assert_eq!(three_by_three(&test, "res5"), [(1, 2), (1, 4), (1, 8), (1, 8)]);
}

#[test]
fn both_output_strides_have_the_same_parameters() {
    for backbone in [Backbone::ResNet18, Backbone::ResNet34, Backbone::ResNet50] {
        let spec = spec(backbone, 0.5);
        let train = embedding_net::embedding_net(&spec, OutputStride::Train16).unwrap();
        let test = embedding_net::embedding_net(&spec, OutputStride::Test8).unwrap();
        assert_eq!(train.params, test.params);
    }
}

#[test]
fn half_width_resnet18_has_the_channels_of_the_baseline() {
    let spec = spec(Backbone::ResNet18, 0.5);
    let graph = embedding_net::embedding_net(&spec, OutputStride::Test8).unwrap();
    let shapes = graph.infer_shapes(&[("image", &[1, 3, 360, 480])]).unwrap();
    assert_eq!(shapes["resnet_backbone.conv1.relu"], [1, 32, 180, 240]);
    assert_eq!(shapes["resnet_backbone.res5.1.relu"], [1, 256, 45, 60]);
    assert_eq!(shapes["embedding"], [1, 128, 45, 60]);
}

#[test]
fn the_grouping_graph_has_transitions_for_any_list_of_levels() {
    for groups in [vec![8], vec![8, 4], vec![25, 16, 9, 4]] {
        let spec = NetworkSpec { groups: groups.clone(), ..spec(Backbone::ResNet18, 1.0) };
        let graph = grouping::grouping(&spec, 48, 14).unwrap();
        let shapes = graph
            .infer_shapes(&[("features", &[1, 128, 48]), ("positions", &[1, 28, 48]), ("valid", &[1, 48])])
            .unwrap();
        let mut below = 48;
        for (i, &k) in groups.iter().enumerate() {
            assert_eq!(shapes[&grouping::names::transition(i + 1)], [1, below, k]);
            assert_eq!(shapes[&grouping::names::centroids(i + 1)], [1, 128, k]);
            below = k;
        }
    }
}

#[test]
fn two_levels_have_the_authors_parameter_names() {
    let params = spec(Backbone::ResNet18, 1.0).params().unwrap();
    let shape = |name: &str| params.iter().find(|p| p.name == name).map(|p| p.shape.clone());
    assert_eq!(shape("fine_query_embed._query_embedding.weight"), Some(vec![8, 128]));
    assert_eq!(shape("coarse_hrchy_transformer.centroid_feat_fc.1.weight"), Some(vec![128, 128]));
    assert_eq!(
        shape("fine_hrchy_transformer._transformer.decoder.layers.1.multihead_attn.in_proj_weight"),
        Some(vec![384, 128])
    );
    assert_eq!(shape("pos_embed.row_embed.weight"), Some(vec![50, 64]));
    let mut names: Vec<_> = params.iter().map(|p| &p.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), params.len());
}

#[test]
fn stripping_leaves_no_dropout_and_a_valid_graph() {
    let mut graph = clustering_transformer::training(&spec(Backbone::ResNet18, 1.0), 0).unwrap();
    let nodes = graph.nodes.len();
    strip_training(&mut graph);
    graph.validate().unwrap();
    assert!(graph.nodes.iter().all(|n| !matches!(n.op, Op::Dropout { .. })));
    // Two per attention block and its sum, two per feed-forward: 2 · (2 + 2) in the encoder, 2 · (4 + 2) in the decoder.
    assert_eq!(nodes - graph.nodes.len(), 20);
}

#[test]
fn initial_values_have_the_stated_spread_and_depend_on_seed_and_name_only() {
    let params = spec(Backbone::ResNet18, 1.0).params().unwrap();
    let weights = initial_weights(&params, 7);
    let conv = &weights["resnet_backbone.res4.0.conv1.weight"].values;
    let variance = conv.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / conv.len() as f64;
    let expected = 2.0 / (9.0 * 256.0);
    assert!((variance / expected - 1.0).abs() < 0.02, "{variance} against {expected}");
    let head = &weights["conv_out.0.weight"].values;
    let bound = 1.0 / 512f32.sqrt();
    assert!(head.iter().all(|v| v.abs() <= bound) && head.iter().any(|v| v.abs() > 0.99 * bound));
    let alone = params.iter().find(|p| p.name == "conv_out.0.weight").unwrap().initial(7);
    assert_eq!(alone.values, *head);
    assert_ne!(initial_weights(&params, 8)["conv_out.0.weight"].values, *head);
}

#[test]
fn specs_out_of_range_are_refused_by_name() {
    let bad = [
        (NetworkSpec { width_factor: 0.0, ..spec(Backbone::ResNet18, 1.0) }, "width_factor"),
        (NetworkSpec { embedding_dim: 30, ..spec(Backbone::ResNet18, 1.0) }, "embedding_dim"),
        (NetworkSpec { groups: vec![], ..spec(Backbone::ResNet18, 1.0) }, "groups"),
        (NetworkSpec { groups: vec![4, 8], ..spec(Backbone::ResNet18, 1.0) }, "groups"),
    ];
    for (spec, name) in bad {
        match spec.params() {
            Err(ModelError::Invalid { what, .. }) => assert_eq!(what, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn shapes_that_do_not_fit_name_the_node() {
    let mut graph = Graph::new("sum");
    let a = graph.input("a", &["n".into(), 3.into()]);
    let b = graph.param("b", &[4], ParamInit::Zeros);
    let sum = graph.push("sum", Op::Add, &[&a, &b]);
    graph.output("out", &sum, &["n".into(), 4.into()]);
    let error = graph.infer_shapes(&[("a", &[2, 3])]).unwrap_err().to_string();
    assert!(error.contains("`out`") && error.contains("[2, 3]") && error.contains("[4]"), "{error}");
    let error = graph.infer_shapes(&[("a", &[2, 5])]).unwrap_err().to_string();
    assert!(error.contains("axis 1 of the input `a` must be 3, got 5"), "{error}");
}

#[test]
fn malformed_graphs_are_refused() {
    let mut graph = Graph::new("bad");
    let x = graph.input("x", &[1.into()]);
    graph.push("y", Op::Relu, &["missing"]);
    assert!(graph.validate().unwrap_err().to_string().contains("missing"));
    graph.nodes.clear();
    graph.push("x", Op::Relu, &[&x]);
    assert!(graph.validate().unwrap_err().to_string().contains("twice"));
    graph.nodes.clear();
    graph.push("y", Op::Add, &[&x]);
    assert!(graph.validate().unwrap_err().to_string().contains("1 inputs"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any image whose sides are multiples of 8 comes out at an eighth of its size, whatever the backbone.
    #[test]
    fn test_time_embeddings_have_stride_8(rows in 2usize..30, columns in 2usize..30, depth in 0usize..3) {
        let backbone = [Backbone::ResNet18, Backbone::ResNet34, Backbone::ResNet50][depth];
        let graph = embedding_net::embedding_net(&spec(backbone, 0.25), OutputStride::Test8).unwrap();
        let shapes = graph.infer_shapes(&[("image", &[1, 3, 8 * rows, 8 * columns])]).unwrap();
        prop_assert_eq!(&shapes["embedding"], &vec![1, 128, rows, columns]);
    }
}
