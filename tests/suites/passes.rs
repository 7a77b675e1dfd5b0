//! Each pass gives a graph that computes what its input computes, run by the CPU backend; fp16 and int8, which that does not
//! have, by ONNX Runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use models::arch::{Backbone, NetworkSpec, OutputStride, embedding_net, grouping};
use models::export::deployed_graphs;
use models::graph::{Dim, ElementType, Graph, Op};
use models::manifest::ModelFolder;
use models::onnx::{Storage, read, write};
use models::params::{ParamInit, initial_weights};
use models::passes::quantize::{ActivationRange, Form, Ranges, insert_qdq, tensors_to_observe};
use models::passes::{
    expose_activations, fold_batch_norm, fold_constants, linear_to_conv, prepare_for_quantization, strip_training,
    to_fp16, to_fp32,
};
use models::weights::{Tensor, Weights};
use models::zoo::tiny_spec;
use runtime::backend::Backend;
use runtime::backend::onnxruntime::OnnxRuntimeBackend;
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::preprocess::Preprocessor;
use tests::folders::{shipped_clip, tiny_model, workspace};
use tests::networks::{Execution, observe, run_on_cpu, run_on_onnxruntime};
use tests::{Tolerance, assert_close, skip};
use video::VideoReader;

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
    let (graph, weights) = read(&bytes, Path::new("embedding.onnx")).unwrap();
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

/// A network as it was shipped, and inputs as they come on the road.
struct Network {
    name: &'static str,
    graph: Graph,
    weights: Weights,
    inputs: Vec<Vec<(&'static str, Tensor)>>,
}

impl Network {
    fn inputs(&self) -> Vec<Vec<(&str, &Tensor)>> {
        self.inputs.iter().map(|inputs| inputs.iter().map(|(name, tensor)| (*name, tensor)).collect()).collect()
    }
}

/// Embedding and grouping of the tiny and of the shipped model, on two frames of the clip in the repository.
fn networks() -> Vec<Network> {
    let shipped = workspace().join("models/zoo/camvid-r18");
    let mut networks = Vec::new();
    for (names, path) in [
        (["tiny embedding", "tiny grouping"], tiny_model()),
        (["camvid-r18 embedding", "camvid-r18 grouping"], shipped),
    ] {
        let folder = ModelFolder::open(&path).unwrap();
        let manifest = folder.manifest();
        let load = |file: &str| {
            let path = path.join(file);
            read(&std::fs::read(&path).unwrap(), &path).unwrap()
        };
        let (graph, weights) = load("embedding.fp32.onnx");
        let images = frames(manifest);
        let slots = [manifest.kmeans.grid_rows, manifest.kmeans.grid_columns];
        let grouping_inputs = images
            .iter()
            .map(|image| {
                let cells = run_on_cpu(&graph, &weights, &[("image", image)]).remove("embedding").unwrap();
                tokens(&cells, slots, manifest.position_extent)
            })
            .collect();
        let inputs = images.into_iter().map(|image| vec![("image", image)]).collect();
        networks.push(Network { name: names[0], graph, weights, inputs });
        let (graph, weights) = load("grouping.fp32.onnx");
        networks.push(Network { name: names[1], graph, weights, inputs: grouping_inputs });
    }
    networks
}

/// Two frames of the shipped clip, prepared as the manifest says.
fn frames(manifest: &models::manifest::Manifest) -> Vec<Tensor> {
    let mut reader = VideoReader::open(shipped_clip()).unwrap();
    let mut frame = Frame::black(ImageSize::new(1, 1), PixelFormat::Rgb8);
    let mut images = Vec::new();
    for index in 0..11 {
        assert!(reader.next_frame(&mut frame).unwrap());
        if index % 10 == 0 {
            let mut preprocessor = Preprocessor::new(&manifest.preprocessing, frame.size).unwrap();
            let padded = preprocessor.plan().padded;
            let mut values = vec![0.0; 3 * padded.num_pixels()];
            preprocessor.run(&frame.view(), &mut values).unwrap();
            images.push(Tensor { shape: vec![1, 3, padded.height, padded.width], values });
        }
    }
    images
}

/// A segment per cell of a coarse grid: its embedding, where it lies between the rows of the position tables, and that it is
/// there, but for every eleventh.
fn tokens(cells: &Tensor, [rows, columns]: [usize; 2], extent: usize) -> Vec<(&'static str, Tensor)> {
    let [_, channels, height, width] = cells.shape[..] else { panic!("{:?}", cells.shape) };
    let slots = rows * columns;
    let mut features = Tensor { shape: vec![1, channels, slots], values: vec![0.0; channels * slots] };
    let mut positions = Tensor { shape: vec![1, 2 * extent, slots], values: vec![0.0; 2 * extent * slots] };
    let mut valid = Tensor { shape: vec![1, slots], values: vec![0.0; slots] };
    for slot in (0..slots).filter(|slot| slot % 11 != 5) {
        let place = [(slot % columns) as f64 / columns as f64, (slot / columns) as f64 / rows as f64];
        let (x, y) = ((place[0] * width as f64) as usize, (place[1] * height as f64) as usize);
        for channel in 0..channels {
            features.values[channel * slots + slot] = cells.values[(channel * height + y) * width + x];
        }
        for (table, place) in place.into_iter().enumerate() {
            let at = place * (extent - 1) as f64;
            let row = table * extent + at as usize;
            positions.values[row * slots + slot] = 1.0 - at.fract() as f32;
            positions.values[(row + 1) * slots + slot] = at.fract() as f32;
        }
        valid.values[slot] = 1.0;
    }
    vec![("features", features), ("positions", positions), ("valid", valid)]
}

fn has_onnxruntime(case: &str) -> bool {
    let probed = OnnxRuntimeBackend.probe();
    if let Err(error) = &probed {
        skip(case, &error.to_string());
    }
    probed.is_ok()
}

/// The smallest cosine of all outputs.
fn cosine(got: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) -> f64 {
    let each = expected.iter().map(|(name, expected)| {
        let got = &got[name];
        assert_eq!(got.shape, expected.shape, "{name}");
        let dot = |a: &Tensor, b: &Tensor| -> f64 {
            a.values.iter().zip(&b.values).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        dot(got, expected) / (dot(got, got) * dot(expected, expected)).sqrt()
    });
    // NaN is the smallest.
    each.fold(1.0, |least, cosine| if cosine >= least { least } else { cosine })
}

fn count(graph: &Graph, operator: &str) -> usize {
    graph.nodes.iter().filter(|n| n.op.onnx_name() == operator).count()
}

/// Normalisations after token matrices, with and without bias, and of one another; those of residual sums stay.
#[test]
fn folding_on_tokens_changes_no_result() {
    let spec = NetworkSpec { backbone: Backbone::ResNet18, width_factor: 0.125, embedding_dim: 16, groups: vec![5, 3] };
    let mut graph = grouping::grouping(&spec, 24, 8).unwrap();
    let weights = lived_in(&graph);
    strip_training(&mut graph);
    let (features, positions) = (wave(&[1, 16, 24], 0.71), wave(&[1, 16, 24], 0.29));
    let mut valid = Tensor { shape: vec![1, 24], values: vec![1.0; 24] };
    valid.values[7] = 0.0;
    let inputs = [("features", &features), ("positions", &positions), ("valid", &valid)];
    // Instead of the transitions: with weights like these logits are large, and a softmax turns their last digits, which are
    // relative to the largest, into an absolute error.
    let logits: Vec<String> =
        graph.nodes.iter().map(|n| n.output.clone()).filter(|name| name.ends_with(".logits")).collect();
    assert_eq!(logits.len(), 2);
    expose_activations(&mut graph, logits.iter().map(String::as_str)).unwrap();
    graph.outputs.retain(|output| !output.name.starts_with("transition"));
    let expected = run_on_cpu(&graph, &weights, &inputs);
    println!("largest logit: {}", expected[&logits[0]].values.iter().fold(0.0f32, |largest, v| largest.max(v.abs())));
    let (mut folded, mut folded_weights) = (graph.clone(), weights);
    fold_batch_norm(&mut folded, &mut folded_weights).unwrap();
    // Per level: the statistics' layer, the decoder's last norm into the one before; one or two centroid heads (the last
    // level has no successor, but its features are an output).
    assert_eq!(count(&graph, "BatchNormalization") - count(&folded, "BatchNormalization"), 8);
    for (name, got) in run_on_cpu(&folded, &folded_weights, &inputs) {
        same(&name, &got, &expected[&name]);
    }
}

/// W · x + b → norm.
#[test]
fn a_bias_between_matrix_and_normalisation_is_folded() {
    let mut graph = Graph::new("biased");
    let x = graph.input("x", &[1.into(), 4.into(), Dim::from("tokens")]);
    let weight = graph.param("layer.weight", &[3, 4], ParamInit::Normal(1.0));
    let bias = graph.param("layer.bias", &[3], ParamInit::Normal(1.0));
    let product = graph.push("product", Op::MatMul, &[&weight, &x]);
    let column = graph.push("column", Op::Unsqueeze { axis: 1 }, &[&bias]);
    let sum = graph.push("sum", Op::Add, &[&product, &column]);
    let params = ["weight", "bias", "running_mean", "running_var"]
        .map(|p| graph.param(format!("norm.{p}"), &[3], ParamInit::Uniform(0.5, 1.5)));
    let inputs = [&sum, &params[0], &params[1], &params[2], &params[3]].map(String::as_str);
    let norm = graph.push("norm", Op::BatchNormalization { epsilon: 1e-5, momentum: 0.1 }, &inputs);
    graph.output("out", &norm, &[1.into(), 3.into(), "tokens".into()]);
    let mut weights = initial_weights(&graph.params, 5);
    let input = wave(&[1, 4, 9], 0.7);
    let expected = run_on_cpu(&graph, &weights, &[("x", &input)]);
    fold_batch_norm(&mut graph, &mut weights).unwrap();
    assert_eq!((count(&graph, "BatchNormalization"), graph.nodes.len()), (0, 3));
    same("out", &run_on_cpu(&graph, &weights, &[("x", &input)])["out"], &expected["out"]);
}

/// What comes before int8, on the shipped files and what they see.
#[test]
fn the_shipped_networks_stay_what_they_are() {
    for network in networks() {
        let inputs = &network.inputs()[0];
        let expected = run_on_cpu(&network.graph, &network.weights, inputs);
        let (mut graph, mut weights) = (network.graph.clone(), network.weights.clone());
        let compare = |what: &str, graph: &Graph, weights: &Weights| {
            for (name, got) in run_on_cpu(graph, weights, inputs) {
                same(&format!("{}, {what}: {name}", network.name), &got, &expected[&name]);
            }
        };
        fold_batch_norm(&mut graph, &mut weights).unwrap();
        compare("folded", &graph, &weights);
        fold_constants(&mut graph, &mut weights).unwrap();
        assert!(
            !graph
                .nodes
                .iter()
                .any(|n| graph.params.iter().any(|p| n.op.onnx_name() == "Slice" && p.name == n.inputs[0]))
        );
        compare("constants folded", &graph, &weights);
        linear_to_conv(&mut graph, &mut weights).unwrap();
        compare("linear to conv", &graph, &weights);
        let is_param = |name: &String| graph.params.iter().any(|p| p.name == *name);
        assert!(!graph.nodes.iter().any(|n| n.op == Op::MatMul && is_param(&n.inputs[0])), "{}", network.name);
    }
}

#[test]
fn exposed_activations_are_those_inside() {
    let network = networks().remove(0);
    let inputs = &network.inputs()[0];
    let expected = run_on_cpu(&network.graph, &network.weights, inputs);
    let mut graph = network.graph.clone();
    let relu = graph.nodes.iter().find(|n| n.op == Op::Relu).unwrap().output.clone();
    expose_activations(&mut graph, [relu.as_str(), "image", "embedding"]).unwrap();
    assert_eq!(graph.outputs.len(), 2, "the input and the output are there already");
    let got = run_on_cpu(&graph, &network.weights, inputs);
    assert_eq!(got["embedding"], expected["embedding"]);
    assert!(got[&relu].values.iter().all(|&v| v >= 0.0) && got[&relu].values.iter().any(|&v| v > 0.0));
    let error = expose_activations(&mut graph, ["nothing"]).unwrap_err().to_string();
    assert!(error.contains("`nothing`"), "{error}");
}

#[test]
fn fp16_computes_what_fp32_computes() {
    if !has_onnxruntime("fp16") {
        return;
    }
    for network in networks() {
        let (mut graph, mut weights) = (network.graph.clone(), network.weights.clone());
        fold_batch_norm(&mut graph, &mut weights).unwrap();
        to_fp16(&mut graph, &mut weights).unwrap();
        let types = graph.element_types().unwrap();
        for node in &graph.nodes {
            let computed = types[&node.output];
            match node.op {
                Op::Conv { .. } | Op::MatMul => assert_eq!(computed, ElementType::Half, "{}", node.output),
                Op::Softmax { .. } | Op::BatchNormalization { .. } | Op::ReduceSum { .. } | Op::ReduceL2 { .. } => {
                    assert_eq!(computed, ElementType::Float, "{}", node.output);
                }
                _ => {}
            }
        }
        // No value is cast twice, and no cast is undone at once.
        let casts: Vec<_> = graph.nodes.iter().filter(|n| n.op.onnx_name() == "Cast").collect();
        let read: BTreeSet<_> = casts.iter().map(|n| &n.inputs[0]).collect();
        assert_eq!(read.len(), casts.len(), "{}", network.name);
        assert!(!casts.iter().any(|n| read.contains(&n.output)), "{}", network.name);
        let mut least = 1.0f64;
        for inputs in network.inputs() {
            let expected = run_on_cpu(&network.graph, &network.weights, &inputs);
            let got = run_on_onnxruntime(&graph, &weights, &inputs, Execution::AsWritten);
            least = least.min(cosine(&got, &expected));
            run_on_onnxruntime(&graph, &weights, &inputs, Execution::Optimised);
        }
        println!("{}: fp16 cosine {least:.7}", network.name);
        assert!(least >= 0.9999, "{}: {least}", network.name);
        let (mut wide, mut expected) = (graph.clone(), network.graph.clone());
        to_fp32(&mut wide);
        fold_batch_norm(&mut expected, &mut network.weights.clone()).unwrap();
        assert_eq!(wide.nodes.len(), expected.nodes.len(), "{}: to_fp32 undoes casts and nothing else", network.name);
        same_bytes(&graph, &weights);
    }
}

/// Read and written again, a file keeps every byte.
fn same_bytes(graph: &Graph, weights: &Weights) {
    let bytes = write(graph, weights, Storage::Full).unwrap();
    let (graph, weights) = read(&bytes, Path::new("network.onnx")).unwrap();
    assert!(write(&graph, &weights, Storage::Full).unwrap() == bytes);
}

#[test]
fn fp16_refuses_what_it_cannot_hold() {
    let Network { mut graph, mut weights, .. } = networks().remove(0);
    weights.get_mut("conv_out.3.weight").unwrap().values[3] = 1e5;
    let error = to_fp16(&mut graph, &mut weights).unwrap_err().to_string();
    assert!(error.contains("conv_out.3.weight") && error.contains("65504"), "{error}");
}

const FORMS: [Form; 3] = [Form::Cpu, Form::TensorRt8, Form::TensorRt10];

/// Min-max ranges of two frames; what 8 bits cost with nothing done about it.
#[test]
fn int8_executed_in_floats_is_close_to_fp32() {
    if !has_onnxruntime("int8") {
        return;
    }
    for network in networks() {
        let (mut prepared, mut prepared_weights) = (network.graph.clone(), network.weights.clone());
        prepare_for_quantization(&mut prepared, &mut prepared_weights).unwrap();
        let ranges = observe(&prepared, &prepared_weights, &network.inputs());
        for form in FORMS {
            let (mut graph, mut weights) = (prepared.clone(), prepared_weights.clone());
            insert_qdq(&mut graph, &mut weights, &ranges, form, &BTreeSet::new()).unwrap();
            same_bytes(&graph, &weights);
            let mut judged = graph.clone();
            to_fp32(&mut judged);
            let mut least = 1.0f64;
            for inputs in network.inputs() {
                let expected = run_on_cpu(&network.graph, &network.weights, &inputs);
                let got = run_on_onnxruntime(&judged, &weights, &inputs, Execution::AsWritten);
                least = least.min(cosine(&got, &expected));
                // The file itself loads and runs, fused and not.
                for execution in [Execution::AsWritten, Execution::Optimised] {
                    let got = run_on_onnxruntime(&graph, &weights, &inputs, execution);
                    assert!(got.values().flat_map(|t| &t.values).all(|v| v.is_finite()), "{execution:?}");
                }
            }
            println!("{}: {form:?} cosine {least:.5}", network.name);
            // Above: nothing was rounded.
            assert!((0.999..0.999_999).contains(&least), "{}, {form:?}: {least}", network.name);
        }
    }
}

#[test]
fn what_is_named_stays_in_higher_precision() {
    let network = networks().remove(0);
    let (mut prepared, mut prepared_weights) = (network.graph.clone(), network.weights.clone());
    prepare_for_quantization(&mut prepared, &mut prepared_weights).unwrap();
    let ranges = observe(&prepared, &prepared_weights, &network.inputs());
    let quantise = |keep: &[&str]| {
        let (mut graph, mut weights) = (prepared.clone(), prepared_weights.clone());
        let keep = keep.iter().map(|&name| name.to_owned()).collect();
        insert_qdq(&mut graph, &mut weights, &ranges, Form::Cpu, &keep).map(|()| graph)
    };
    let floats = |graph: &Graph| -> Vec<String> {
        let convs = graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv { .. }));
        convs.filter(|n| !n.inputs[0].ends_with(".dequantized")).map(|n| n.output.clone()).collect()
    };
    let last = prepared.nodes.iter().rfind(|n| matches!(n.op, Op::Conv { .. })).unwrap();
    let all_quantised = quantise(&[]).unwrap();
    assert!(floats(&all_quantised).is_empty());
    // Its result stays in floats, and so does its weight: only what it reads is rounded.
    let weights = |graph: &Graph| graph.nodes.iter().find(|n| n.output == last.output).map(|n| n.inputs[1..].to_vec());
    assert_eq!(weights(&all_quantised).as_deref(), Some(&last.inputs[1..]));
    // By its own name, by its weight, by what it reads.
    for name in [&last.output, &last.inputs[1], &last.inputs[0]] {
        let graph = quantise(&[name]).unwrap();
        assert_eq!(floats(&graph), [last.output.as_str()]);
        assert_eq!(graph.nodes.iter().find(|n| n.output == last.output), Some(last), "kept by {name}");
    }
    let all: Vec<&str> =
        prepared.nodes.iter().filter(|n| matches!(n.op, Op::Conv { .. })).map(|n| n.output.as_str()).collect();
    assert_eq!(quantise(&all).unwrap().nodes, prepared.nodes);
    let error = quantise(&["no such layer"]).unwrap_err().to_string();
    assert!(error.contains("no such layer"), "{error}");
}

#[test]
fn broken_tables_are_refused_by_name() {
    let Network { mut graph, mut weights, .. } = networks().remove(0);
    prepare_for_quantization(&mut graph, &mut weights).unwrap();
    let keep = BTreeSet::new();
    let names = tensors_to_observe(&graph, &keep).unwrap();
    let fine = |name: &String| (name.clone(), ActivationRange { min: -1.0, max: 1.0 });
    let table = Ranges { model_sha256: "aa".into(), tensors: names.iter().map(fine).collect() };
    let attempt =
        |ranges: &Ranges| insert_qdq(&mut graph.clone(), &mut weights.clone(), ranges, Form::TensorRt8, &keep);
    attempt(&table).unwrap();
    for name in &names {
        for broken in [
            None,
            Some(ActivationRange { min: f32::NAN, max: 1.0 }),
            Some(ActivationRange { min: 0.0, max: f32::INFINITY }),
            Some(ActivationRange { min: 2.0, max: 1.0 }),
        ] {
            let mut table = table.clone();
            table.tensors.remove(name);
            table.tensors.extend(broken.map(|range| (name.clone(), range)));
            let error = attempt(&table).unwrap_err().to_string();
            assert!(error.contains(name.as_str()), "{name}, {broken:?}: {error}");
        }
    }
    assert!(table.check_model("aa").is_ok());
    let error = table.check_model("bb").unwrap_err().to_string();
    assert!(error.contains("aa") && error.contains("bb"), "{error}");
}
