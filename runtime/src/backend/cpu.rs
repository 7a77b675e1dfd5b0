//! The embedded backend: rten, pure Rust. Runs any ONNX file whose inputs and outputs are f32 tensors, and computes in fp32:
//! weights of fp16 files are widened, and what stands between Q and DQ is computed in floats, as ONNX Runtime does without
//! graph optimisations.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rten::{Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, ValueOrView, ValueView};
use rten_tensor::Layout as _;

use super::{
    Backend, BackendError, BackendInfo, Engine, EngineOptions, Session, TensorBuffer, TensorInfo, check_length,
    check_name, load_error, run_error, run_failed,
};

/// The version of rten that the workspace pins.
const RTEN_VERSION: &str = "0.27.0";

/// The embedded CPU backend. All its engines share one thread pool.
#[derive(Default)]
pub struct CpuBackend {
    pool: Mutex<Option<(usize, Arc<ThreadPool>)>>,
}

impl CpuBackend {
    fn pool(&self, num_threads: usize) -> Arc<ThreadPool> {
        // A poisoned lock only means that another thread panicked while it looked at the pool.
        let mut cached = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((threads, pool)) if *threads == num_threads => Arc::clone(pool),
            _ => {
                let pool = Arc::new(ThreadPool::with_num_threads(num_threads));
                *cached = Some((num_threads, Arc::clone(&pool)));
                pool
            }
        }
    }
}

impl Backend for CpuBackend {
    fn probe(&self) -> Result<BackendInfo, BackendError> {
        Ok(BackendInfo { name: "cpu", version: format!("rten {RTEN_VERSION}"), device: None })
    }

    fn load(&self, path: &Path, options: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        let num_threads = options.num_threads.max(1);
        Ok(Arc::new(CpuEngine::load_in(path, self.pool(num_threads))?))
    }
}

/// A network loaded by rten.
pub struct CpuEngine {
    model: Model,
    path: PathBuf,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    pool: Arc<ThreadPool>,
}

impl CpuEngine {
    /// Loads an ONNX file, with a thread pool of its own.
    ///
    /// # Errors
    /// [`super::BackendErrorKind::Load`], naming the file and the node concerned.
    pub fn load(path: &Path, options: EngineOptions) -> Result<Self, BackendError> {
        Self::load_in(path, Arc::new(ThreadPool::with_num_threads(options.num_threads.max(1))))
    }

    fn load_in(path: &Path, pool: Arc<ThreadPool>) -> Result<Self, BackendError> {
        // rten goes by the extension; a file of another name is not ours.
        if path.extension().is_none_or(|extension| extension != "onnx") {
            return Err(load_error(path, "its name does not end in .onnx"));
        }
        let model = ModelOptions::with_all_ops()
            .prepack_weights(true)
            .load_file(path)
            .map_err(|error| load_error(path, error))?;
        let info = |ids: &[NodeId]| {
            ids.iter()
                .filter_map(|&id| model.node_info(id))
                .map(|node| TensorInfo {
                    name: node.name().unwrap_or_default().to_owned(),
                    shape: node
                        .shape()
                        .unwrap_or_default()
                        .into_iter()
                        .map(|dimension| match dimension {
                            Dimension::Fixed(length) => Some(length),
                            Dimension::Symbolic(_) => None,
                        })
                        .collect(),
                })
                .collect()
        };
        let (inputs, outputs) = (info(model.input_ids()), info(model.output_ids()));
        Ok(Self { model, path: path.to_owned(), inputs, outputs, pool })
    }

    fn error(&self, what: impl std::fmt::Display) -> BackendError {
        run_error(&self.path, what)
    }

    fn node(&self, name: &str, kind: &str, known: &[TensorInfo]) -> Result<NodeId, BackendError> {
        check_name(&self.path, kind, name, known)?;
        self.model.find_node(name).ok_or_else(|| self.error(format!("the {kind} `{name}` is lost")))
    }
}

impl Engine for CpuEngine {
    fn path(&self) -> &Path {
        &self.path
    }

    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, BackendError> {
        Ok(Box::new(CpuSession { engine: self }))
    }
}

struct CpuSession {
    engine: Arc<CpuEngine>,
}

impl Session for CpuSession {
    fn run(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: &mut [(&str, &mut TensorBuffer)],
    ) -> Result<(), BackendError> {
        let engine = &*self.engine;
        let mut values: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(inputs.len());
        for (name, shape, data) in inputs {
            let id = engine.node(name, "input", &engine.inputs)?;
            check_length(&engine.path, name, shape, data)?;
            let view = ValueView::from_shape(shape, data).map_err(|error| engine.error(error))?;
            values.push((id, view.into()));
        }
        let mut ids = Vec::with_capacity(outputs.len());
        for (name, _) in outputs.iter() {
            ids.push(engine.node(name, "output", &engine.outputs)?);
        }
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&engine.pool)));
        let results =
            engine.model.run(values, &ids, Some(options)).map_err(|error| run_failed(&engine.path, error, inputs))?;
        for ((name, buffer), value) in outputs.iter_mut().zip(&results) {
            let tensor = value
                .as_tensor_view::<f32>()
                .ok_or_else(|| engine.error(format!("the output `{name}` is no f32 tensor")))?;
            buffer.shape.clear();
            buffer.shape.extend_from_slice(tensor.shape().as_ref());
            buffer.data.clear();
            match tensor.data() {
                Some(data) => buffer.data.extend_from_slice(data),
                // A view whose memory is not in row-major order (a transpose, for example).
                None => buffer.data.extend(tensor.iter().copied()),
            }
        }
        Ok(())
    }
}
