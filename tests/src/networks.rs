//! Running a graph of crate `models` as it is deployed: written as ONNX, executed by the CPU backend.

use std::collections::BTreeMap;
use std::sync::Arc;

use models::graph::Graph;
use models::onnx::{Storage, write};
use models::weights::{Tensor, Weights};
use runtime::backend::cpu::CpuEngine;
use runtime::backend::{Engine, EngineOptions, TensorBuffer};

/// Writes `graph` to a temporary ONNX file, runs it on the embedded CPU backend and returns all outputs by name.
///
/// # Panics
///
/// If the graph cannot be written, loaded or run.
pub fn run_on_cpu(graph: &Graph, weights: &Weights, inputs: &[(&str, &Tensor)]) -> BTreeMap<String, Tensor> {
    let bytes = write(graph, weights, Storage::Full).unwrap_or_else(|e| panic!("{e}"));
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("a temporary folder: {e}"));
    let path = folder.path().join("network.onnx");
    std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let engine = CpuEngine::load(&path, EngineOptions { num_threads: 2 }).unwrap_or_else(|e| panic!("{e}"));
    let mut session = Arc::new(engine).session().unwrap_or_else(|e| panic!("{e}"));
    let inputs: Vec<_> = inputs.iter().map(|(name, t)| (*name, t.shape.as_slice(), t.values.as_slice())).collect();
    let mut buffers: Vec<TensorBuffer> = graph.outputs.iter().map(|_| TensorBuffer::default()).collect();
    let mut outputs: Vec<_> = graph.outputs.iter().map(|o| o.name.as_str()).zip(&mut buffers).collect();
    session.run(&inputs, &mut outputs).unwrap_or_else(|e| panic!("{e}"));
    let names = graph.outputs.iter().map(|o| o.name.clone());
    names.zip(buffers.into_iter().map(|b| Tensor { shape: b.shape, values: b.data })).collect()
}
