//! Properties of 8-bit networks that hold for any weights and any table of ranges.

use std::collections::{BTreeMap, BTreeSet};

use models::graph::{ElementType, Graph, Op};
use models::params::{ParamInit, initial_weights};
use models::passes::quantize::{ActivationRange, Form, Ranges, insert_qdq, quantize_weight, tensors_to_observe};
use models::passes::recover_ranges;
use models::weights::{Tensor, Weights};
use proptest::prelude::*;

const FORMS: [Form; 3] = [Form::Cpu, Form::TensorRt8, Form::TensorRt10];

fn conv(graph: &mut Graph, name: &str, x: &str, [output, input]: [usize; 2]) -> String {
    let weight = graph.param(format!("{name}.weight"), &[output, input, 1, 1], ParamInit::Normal(0.5));
    let bias = graph.param(format!("{name}.bias"), &[output], ParamInit::Normal(0.5));
    graph.push(name, Op::Conv { strides: [1; 2], pads: [0; 2], dilations: [1; 2] }, &[x, &weight, &bias])
}

/// A residual block of each kind, then a concatenation of two branches, then a last convolution.
fn network() -> Graph {
    let mut graph = Graph::new("branches");
    let image = graph.input("image", &[1.into(), 2.into(), "h".into(), "w".into()]);
    let stem = conv(&mut graph, "stem", &image, [4, 2]);
    let stem = graph.push("stem.relu", Op::Relu, &[&stem]);
    let pool = Op::MaxPool { kernel: [3; 2], strides: [1; 2], pads: [1; 2] };
    let pooled = graph.push("pool", pool, &[&stem]);
    let branch = conv(&mut graph, "branch", &pooled, [4, 4]);
    let sum = graph.push("sum", Op::Add, &[&branch, &pooled]);
    let first = graph.push("first", Op::Relu, &[&sum]);
    let left = conv(&mut graph, "left", &first, [4, 4]);
    let right = conv(&mut graph, "right", &first, [4, 4]);
    let second = graph.push("second", Op::Add, &[&left, &right]);
    let a = conv(&mut graph, "a", &second, [4, 4]);
    let b = conv(&mut graph, "b", &second, [4, 4]);
    let both = graph.push("both", Op::Concat { axis: 1 }, &[&a, &b]);
    let last = conv(&mut graph, "last", &both, [4, 8]);
    graph.output("out", &last, &[1.into(), 4.into(), "h".into(), "w".into()]);
    graph
}

/// Tensors that have to have one scale.
fn groups(form: Form) -> Vec<&'static [&'static str]> {
    match form {
        // ONNX Runtime adds integers of two scales.
        Form::Cpu => vec![&["stem.relu", "pool"], &["branch"], &["left"], &["right"], &["a", "b", "both"]],
        Form::TensorRt8 | Form::TensorRt10 => {
            vec![&["stem.relu", "pool", "branch"], &["left", "right"], &["a", "b", "both"]]
        }
    }
}

/// The names of scale and zero point of every quantised tensor.
fn scales(graph: &Graph) -> BTreeMap<String, [String; 2]> {
    let quantizers = graph.nodes.iter().filter(|n| matches!(n.op, Op::QuantizeLinear { .. }));
    // The image is cast to fp16 on its way.
    let name = |name: &str| name.strip_suffix(".half").unwrap_or(name).to_owned();
    quantizers.map(|n| (name(&n.inputs[0]), [n.inputs[1].clone(), n.inputs[2].clone()])).collect()
}

fn quantised(ranges: &Ranges, form: Form) -> (Graph, Weights) {
    let mut graph = network();
    let mut weights = initial_weights(&graph.params, 3);
    insert_qdq(&mut graph, &mut weights, ranges, form, &BTreeSet::new()).unwrap();
    (graph, weights)
}

fn any_ranges() -> impl Strategy<Value = Ranges> {
    let names = tensors_to_observe(&network(), &BTreeSet::new()).unwrap();
    let range = (-1e3f32..1e3, 0.0f32..1e3).prop_map(|(min, width)| ActivationRange { min, max: min + width });
    prop::collection::vec(range, names.len()).prop_map(move |ranges| Ranges {
        model_sha256: String::new(),
        tensors: names.iter().cloned().zip(ranges).collect(),
    })
}

#[test]
fn every_tensor_between_layers_is_observed() {
    let names = tensors_to_observe(&network(), &BTreeSet::new()).unwrap();
    let expected = ["image", "stem.relu", "pool", "branch", "first", "left", "right", "second", "a", "b", "both"];
    assert_eq!(names, expected);
}

/// TensorRT adds the shortcut inside the branch's convolution, which therefore has no pair after it.
#[test]
fn the_forms_quantise_what_their_reader_fuses() {
    let names = tensors_to_observe(&network(), &BTreeSet::new()).unwrap();
    let range = ActivationRange { min: -1.0, max: 2.0 };
    let ranges = Ranges { model_sha256: String::new(), tensors: names.into_iter().map(|n| (n, range)).collect() };
    for form in FORMS {
        let (graph, weights) = quantised(&ranges, form);
        let types = graph.element_types().unwrap();
        let scales = scales(&graph);
        let all = if form == Form::Cpu { 11 } else { 9 };
        assert_eq!(scales.len(), all, "{form:?}: {:?}", scales.keys());
        assert_eq!(scales.contains_key("branch"), form == Form::Cpu);
        assert_eq!(scales.contains_key("left"), form == Form::Cpu);
        assert!(scales.contains_key("right"));
        for [scale, zero_point] in scales.values() {
            let expected = if form == Form::TensorRt10 { ElementType::Half } else { ElementType::Float };
            assert_eq!(types[scale], expected);
            let expected = if form == Form::Cpu { ElementType::UInt8 } else { ElementType::Int8 };
            assert_eq!(types[zero_point], expected);
            let zero = weights[zero_point].values[0];
            assert_eq!(zero, if form == Form::Cpu { 85.0 } else { 0.0 });
        }
        let biases: Vec<ElementType> = graph
            .nodes
            .iter()
            .filter(|n| matches!(n.op, Op::Conv { .. }))
            .map(|n| {
                let producer = graph.nodes.iter().find(|p| p.output == n.inputs[2]);
                types[producer.map_or(&n.inputs[2], |p| &p.inputs[0])]
            })
            .collect();
        let expected = match form {
            Form::Cpu => ElementType::Int32,
            Form::TensorRt8 => ElementType::Float,
            Form::TensorRt10 => ElementType::Half,
        };
        // The last layer gives floats; ONNX Runtime then computes in floats, whatever its weight is.
        let last = if form == Form::Cpu { ElementType::Float } else { expected };
        assert_eq!(biases[..6], [expected; 6], "{form:?}");
        assert_eq!(biases[6..], [last], "{form:?}");
        assert_eq!(weights.contains_key("last.weight.quantized"), form != Form::Cpu);
    }
}

/// What is pooled after a layer in floats is rounded after pooling, which makes the same of it: rounding keeps the order.
#[test]
fn after_a_layer_that_is_kept_max_pooling_stays_in_floats() {
    let keep = BTreeSet::from(["stem".to_owned()]);
    let names = tensors_to_observe(&network(), &keep).unwrap();
    assert!(!names.contains(&"stem.relu".to_owned()) && names.contains(&"pool".to_owned()), "{names:?}");
    let range = ActivationRange { min: -1.0, max: 2.0 };
    let ranges = Ranges { model_sha256: String::new(), tensors: names.into_iter().map(|n| (n, range)).collect() };
    for form in FORMS {
        let (mut graph, mut weights) = (network(), initial_weights(&network().params, 3));
        insert_qdq(&mut graph, &mut weights, &ranges, form, &keep).unwrap();
        let scales = scales(&graph);
        assert!(!scales.contains_key("stem.relu") && scales.contains_key("pool"), "{form:?}: {:?}", scales.keys());
    }
}

/// A channel of almost nothing with a large bias: the bias has to fit 32 bits all the same.
#[test]
fn a_large_bias_of_a_dead_channel_survives() {
    let mut graph = network();
    let mut weights = initial_weights(&graph.params, 3);
    weights.get_mut("stem.weight").unwrap().values[..2].fill(1e-30);
    weights.get_mut("stem.bias").unwrap().values[0] = 7.25;
    let names = tensors_to_observe(&graph, &BTreeSet::new()).unwrap();
    let range = ActivationRange { min: -1e-3, max: 1e-3 };
    let ranges = Ranges { model_sha256: String::new(), tensors: names.into_iter().map(|n| (n, range)).collect() };
    insert_qdq(&mut graph, &mut weights, &ranges, Form::Cpu, &BTreeSet::new()).unwrap();
    let (bias, scale) = (&weights["stem.bias.quantized"].values, &weights["stem.bias.scale"].values);
    assert!(bias[0].abs() < 2f32.powi(31) && (bias[0] * scale[0] - 7.25).abs() < 1e-5, "{} · {}", bias[0], scale[0]);
    models::onnx::write(&graph, &weights, models::onnx::Storage::Full).unwrap();
}

proptest! {
    #[test]
    fn weights_are_within_half_a_step(
        rows in prop::collection::vec(prop::collection::vec(-1.0f32..1.0, 6), 1..5),
        magnitude in -20i32..10,
        form in prop::sample::select(FORMS.to_vec()),
    ) {
        let factor = 2f32.powi(magnitude);
        let values: Vec<f32> = rows.iter().flatten().map(|v| v * factor).collect();
        let weight = Tensor { shape: vec![rows.len(), 6], values };
        let quantized = quantize_weight("w", &weight, &[], form).unwrap();
        for (i, (&w, &q)) in weight.values.iter().zip(&quantized.values.values).enumerate() {
            let scale = f64::from(quantized.scales.values[i / 6]);
            prop_assert!(q.fract() == 0.0 && q.abs() <= 127.0);
            let error = (f64::from(w) - f64::from(q) * scale).abs();
            prop_assert!(error <= scale / 2.0 * (1.0 + 1e-9), "{} became {} of {}", w, q, scale);
        }
        // Not wasteful: the largest of a row uses the range, but for fp16 scales near their smallest.
        if form != Form::TensorRt10 {
            for row in quantized.values.values.chunks(6) {
                prop_assert!(row.iter().all(|&q| q == 0.0) || row.iter().any(|q| q.abs() >= 126.0));
            }
        }
    }

    #[test]
    fn branches_that_meet_have_one_scale_which_holds_them_all(ranges in any_ranges(), form in prop::sample::select(FORMS.to_vec())) {
        let (graph, weights) = quantised(&ranges, form);
        let scales = scales(&graph);
        let mut all = BTreeSet::new();
        for group in groups(form) {
            let names: BTreeSet<_> = group.iter().filter_map(|name| scales.get(*name)).collect();
            prop_assert_eq!(names.len(), 1, "{:?}", group);
            // And no two groups have the same one.
            prop_assert!(all.insert(names));
        }
        let (low, high) = if form == Form::Cpu { (0.0, 255.0) } else { (-127.0, 127.0) };
        for (name, [scale, zero_point]) in &scales {
            let (scale, zero) = (f64::from(weights[scale].values[0]), f64::from(weights[zero_point].values[0]));
            // What is in the range, and 0, is within half a step; the zero point is rounded, too.
            let range = ranges.tensors[name];
            for value in [range.min, range.max, 0.0] {
                let q = (f64::from(value) / scale + zero).round_ties_even().clamp(low, high);
                let error = ((q - zero) * scale - f64::from(value)).abs();
                let rounded = if form == Form::Cpu { 1.0 } else { 0.5 };
                prop_assert!(error <= scale * rounded * 1.001, "{}: {} is off by {} at scale {}", name, value, error, scale);
                prop_assert!(value != 0.0 || error == 0.0);
            }
        }
    }
}

/// The table comes back from the CPU's file, and with it TensorRT's forms are those of the first table up to the steps of 8
/// bits.
#[test]
fn ranges_and_exceptions_come_back_from_the_cpus_form() {
    let names = tensors_to_observe(&network(), &BTreeSet::new()).unwrap();
    let range = |i: usize| ActivationRange { min: -(i as f32) * 0.37, max: 1.0 + i as f32 };
    let ranges = Ranges {
        model_sha256: String::new(),
        tensors: names.iter().enumerate().map(|(i, name)| (name.clone(), range(i))).collect(),
    };
    let kept: [&[&str]; 4] = [&[], &["left", "out"], &["stem"], &["out"]];
    for keep in kept.map(|names| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<String>>()) {
        let make = |ranges: &Ranges, form: Form, keep: &BTreeSet<String>, set: &dyn Fn(&mut Weights)| {
            let (mut graph, mut weights) = (network(), initial_weights(&network().params, 3));
            set(&mut weights);
            insert_qdq(&mut graph, &mut weights, ranges, form, keep).unwrap();
            (graph, weights)
        };
        // As after a correction: the biases of int8 are its own.
        let (mut graph, mut weights) = (network(), initial_weights(&network().params, 3));
        weights.get_mut("left.bias").unwrap().values[0] += 0.25;
        insert_qdq(&mut graph, &mut weights, &ranges, Form::Cpu, &keep).unwrap();
        let bytes = models::onnx::write(&graph, &weights, models::onnx::Storage::Full).unwrap();
        let (graph, weights) = models::onnx::read(&bytes, std::path::Path::new("embedding.int8.onnx")).unwrap();
        let recovered = recover_ranges(&network(), &graph, &weights).unwrap();
        assert_eq!(recovered.keep, keep);
        for form in [Form::TensorRt8, Form::TensorRt10] {
            let (expected, expected_weights) =
                make(&ranges, form, &keep, &|weights| weights.get_mut("left.bias").unwrap().values[0] += 0.25);
            let (got, got_weights) = make(&recovered.ranges, form, &recovered.keep, &|weights| {
                recovered.set_biases(weights).unwrap();
            });
            assert_eq!(got.nodes, expected.nodes);
            for (name, tensor) in &expected_weights {
                for (a, b) in tensor.values.iter().zip(&got_weights[name].values) {
                    // Half a step of 255, rounded up, and fp16 scales.
                    assert!((a - b).abs() <= a.abs() * 0.01 + 1e-3, "{form:?} {name}: {a} came back as {b}");
                }
            }
        }
    }
    let error = recover_ranges(&network(), &network(), &Weights::new()).unwrap_err().to_string();
    assert!(error.contains("no QuantizeLinear"), "{error}");
}
