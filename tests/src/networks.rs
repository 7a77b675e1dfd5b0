//! Running a graph of crate `models` as it is deployed: written as ONNX, executed by a backend.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use models::graph::Graph;
use models::manifest::ModelFolder;
use models::onnx::{Storage, write};
use models::passes::expose_activations;
use models::passes::quantize::{ActivationRange, Ranges, tensors_to_observe};
use models::weights::{Tensor, Weights};
use retrieval::BankBuilder;
use runtime::backend::cpu::CpuEngine;
use runtime::backend::onnxruntime::OnnxRuntimeBackend;
use runtime::backend::{Backend, BackendError, Engine, EngineOptions, TensorBuffer};

/// Writes `graph` to a temporary ONNX file, runs it on the embedded CPU backend and returns all outputs by name.
///
/// # Panics
///
/// If the graph cannot be written, loaded or run.
pub fn run_on_cpu(graph: &Graph, weights: &Weights, inputs: &[(&str, &Tensor)]) -> BTreeMap<String, Tensor> {
    let load = |path: &Path| CpuEngine::load(path, OPTIONS).map(|engine| Arc::new(engine) as Arc<dyn Engine>);
    run(graph, weights, inputs, load)
}

/// The same on ONNX Runtime, which must be there.
///
/// # Panics
///
/// If the graph cannot be written, loaded or run.
pub fn run_on_onnxruntime(
    graph: &Graph,
    weights: &Weights,
    inputs: &[(&str, &Tensor)],
    execution: Execution,
) -> BTreeMap<String, Tensor> {
    run(graph, weights, inputs, |path: &Path| match execution {
        Execution::AsWritten => OnnxRuntimeBackend.load_as_written(path, OPTIONS),
        Execution::Optimised => OnnxRuntimeBackend.load(path, OPTIONS),
    })
}

/// How ONNX Runtime executes a graph.
#[derive(Clone, Copy, Debug)]
pub enum Execution {
    /// Operator by operator.
    AsWritten,
    /// As it likes: with fused integer kernels, for one.
    Optimised,
}

/// The lowest and highest value that the tensors take which `passes::insert_qdq` wants to know, over several inputs.
///
/// # Panics
///
/// If the graph cannot be written, loaded or run.
pub fn observe(graph: &Graph, weights: &Weights, inputs: &[Vec<(&str, &Tensor)>]) -> Ranges {
    let names = tensors_to_observe(graph, &BTreeSet::new()).unwrap_or_else(|e| panic!("{e}"));
    let mut exposed = graph.clone();
    expose_activations(&mut exposed, names.iter().map(String::as_str)).unwrap_or_else(|e| panic!("{e}"));
    let mut ranges = Ranges::default();
    for inputs in inputs {
        let mut values = run_on_cpu(&exposed, weights, inputs);
        values.extend(inputs.iter().map(|(name, tensor)| ((*name).to_owned(), (*tensor).clone())));
        for name in &names {
            let seen = ActivationRange::of(&values[name].values).unwrap_or_else(|| panic!("`{name}` is empty"));
            ranges.tensors.entry(name.clone()).and_modify(|range| *range = range.union(seen)).or_insert(seen);
        }
    }
    ranges
}

const OPTIONS: EngineOptions = EngineOptions { num_threads: 2 };

fn run(
    graph: &Graph,
    weights: &Weights,
    inputs: &[(&str, &Tensor)],
    load: impl Fn(&Path) -> Result<Arc<dyn Engine>, BackendError>,
) -> BTreeMap<String, Tensor> {
    let bytes = write(graph, weights, Storage::Full).unwrap_or_else(|e| panic!("{e}"));
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("a temporary folder: {e}"));
    let path = folder.path().join("network.onnx");
    std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let engine = load(&path).unwrap_or_else(|e| panic!("{e}"));
    let mut session = engine.session().unwrap_or_else(|e| panic!("{e}"));
    let inputs: Vec<_> = inputs.iter().map(|(name, t)| (*name, t.shape.as_slice(), t.values.as_slice())).collect();
    let mut buffers: Vec<TensorBuffer> = graph.outputs.iter().map(|_| TensorBuffer::default()).collect();
    let mut outputs: Vec<_> = graph.outputs.iter().map(|o| o.name.as_str()).zip(&mut buffers).collect();
    session.run(&inputs, &mut outputs).unwrap_or_else(|e| panic!("{e}"));
    let names = graph.outputs.iter().map(|o| o.name.clone());
    names.zip(buffers.into_iter().map(|b| Tensor { shape: b.shape, values: b.data })).collect()
}

/// The tiny model in a folder `model` of this one, with a bank of made-up prototypes.
///
/// # Panics
///
/// If it cannot be written.
pub fn model_with_bank(folder: &Path) -> PathBuf {
    let model = ModelFolder::open(&crate::folders::tiny_model()).expect("the tiny model");
    let dim = model.manifest().network.embedding_dim;
    let space = model.label_space().clone();
    let mut builder = BankBuilder::new(dim, model.model_hash(), &space.name);
    for index in 0..500usize {
        let angle = |channel: usize| ((index * 31 + channel * 17) as f32 * 0.7).sin();
        let prototype: Vec<f32> = (0..dim).map(angle).collect();
        let norm = prototype.iter().map(|value| value * value).sum::<f32>().sqrt();
        let unit: Vec<f32> = prototype.iter().map(|value| value / norm).collect();
        builder.push(&unit, (index % space.num_classes()) as u8).expect("a prototype");
    }
    let bank = builder.finish(retrieval::Storage::F32).expect("a bank");
    let out = folder.join("model");
    model.rewrite_bank(Some(&out), bank.bytes(), &space).expect("the model is written");
    out
}
