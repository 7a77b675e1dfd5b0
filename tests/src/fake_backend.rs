//! A backend without networks: deterministic outputs made from the inputs, in the caller's memory and nowhere else, and
//! failures on demand. What a test then measures of the pipeline (memory, allocations, behaviour) is the pipeline's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use models::graph::{Dim, ValueInfo};
use models::manifest::{ModelFolder, Precision};
use runtime::backend::{
    Backend, BackendChoice, BackendError, BackendErrorKind, BackendInfo, Engine, EngineOptions, Selection, Session,
    TensorBuffer, TensorInfo,
};
use runtime::pipeline::{Deployment, DeploymentSpec};

/// Side of a cell, pixels: the stride of every model of this project.
const STRIDE: usize = 8;

/// What goes wrong, counted over the frames of all streams of a backend, from 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Frames whose number is a multiple of this fail; 0 = none.
    pub fail_every: u64,
    /// Frames whose number is a multiple of this take [`Faults::slow_for`] longer; 0 = none.
    pub slow_every: u64,
    /// How much longer.
    pub slow_for: Duration,
}

/// The backend. It reads of a network's file no more than names and shapes.
///
/// A network with an image as input gives every 8×8 cell a unit vector that depends on the cell's mean colour and contrast,
/// smoothly: what looks alike has like features. One without gives `transition_1` by the direction of each feature, softly,
/// and every further transition and output by the indices alone.
#[derive(Clone, Debug, Default)]
pub struct FakeBackend {
    faults: Faults,
    frames: Arc<AtomicU64>,
}

impl FakeBackend {
    /// A backend with these faults.
    pub fn new(faults: Faults) -> Self {
        Self { faults, frames: Arc::default() }
    }

    /// Frames that were asked for so far, failed ones included.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// The model in `folder`, deployed on this backend.
    ///
    /// # Panics
    /// When the folder cannot be deployed.
    pub fn deploy(&self, folder: &Path, num_threads: usize) -> Arc<Deployment> {
        deploy_on(self.clone(), folder, num_threads)
    }
}

/// The model in `folder`, deployed on a backend of the test's own.
///
/// # Panics
/// When the folder cannot be deployed.
pub fn deploy_on(backend: impl Backend + 'static, folder: &Path, num_threads: usize) -> Arc<Deployment> {
    let info = backend.probe().expect("the backend works");
    let selection = Selection { backend: Box::new(backend), info, reason: "given by a test".to_owned() };
    let spec = DeploymentSpec {
        backend: BackendChoice::Auto,
        precision: Precision::Fp32,
        int8_float: false,
        num_threads,
        batching: Default::default(),
    };
    let folder = ModelFolder::open(folder).expect("the model folder is whole");
    Arc::new(Deployment::load_on(folder, spec, selection).expect("the model is deployed"))
}

impl Backend for FakeBackend {
    fn probe(&self) -> Result<BackendInfo, BackendError> {
        Ok(BackendInfo { name: "fake", version: "1".to_owned(), device: None })
    }

    fn load(&self, path: &Path, _: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        let error = |what: String| BackendError::new(BackendErrorKind::Load, format!("{}: {what}", path.display()));
        let bytes = std::fs::read(path).map_err(|source| error(source.to_string()))?;
        let (graph, _) = models::onnx::read(&bytes, path).map_err(|source| error(source.to_string()))?;
        Ok(Arc::new(FakeEngine {
            path: path.to_owned(),
            inputs: graph.inputs.iter().map(info).collect(),
            outputs: graph.outputs.iter().map(info).collect(),
            backend: self.clone(),
        }))
    }
}

fn info(value: &ValueInfo) -> TensorInfo {
    let axis = |dim: &Dim| match dim {
        Dim::Fixed(length) => Some(*length),
        Dim::Named(_) => None,
    };
    TensorInfo { name: value.name.clone(), shape: value.dims.iter().map(axis).collect() }
}

struct FakeEngine {
    path: PathBuf,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    backend: FakeBackend,
}

impl Engine for FakeEngine {
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
        Ok(Box::new(FakeSession(self)))
    }
}

struct FakeSession(Arc<FakeEngine>);

impl FakeSession {
    fn error(&self, what: &str) -> BackendError {
        BackendError::new(BackendErrorKind::Run, format!("{}: {what}", self.0.path.display()))
    }

    /// Counts a frame and does what is wrong with it.
    fn fault(&self) -> Result<(), BackendError> {
        let FakeBackend { faults, frames } = &self.0.backend;
        let number = frames.fetch_add(1, Ordering::Relaxed) + 1;
        let is_nth = |every: u64| every > 0 && number.is_multiple_of(every);
        if is_nth(faults.slow_every) {
            std::thread::sleep(faults.slow_for);
        }
        if is_nth(faults.fail_every) { Err(self.error(&format!("frame {number} fails on demand"))) } else { Ok(()) }
    }
}

impl Session for FakeSession {
    fn run(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: &mut [(&str, &mut TensorBuffer)],
    ) -> Result<(), BackendError> {
        for (name, shape, values) in inputs {
            let known = self.0.inputs.iter().any(|input| input.name == *name && input.shape.len() == shape.len());
            if !known || shape.iter().product::<usize>() != values.len() {
                return Err(self.error(&format!("the input `{name}` {shape:?} does not fit")));
            }
        }
        let Some(&(_, shape, values)) = inputs.first() else { return Err(self.error("no inputs")) };
        let image = match *shape {
            [1, 3, height, width] => Some((height, width)),
            _ => None,
        };
        if image.is_some() {
            self.fault()?;
        }
        for (name, buffer) in outputs {
            let Some(output) = self.0.outputs.iter().find(|output| output.name == *name) else {
                return Err(self.error(&format!("there is no output `{name}`")));
            };
            match (image, output.shape.as_slice()) {
                (Some((height, width)), &[_, Some(dim), _, _]) => embed(values, (height, width), dim, buffer),
                (None, &[Some(1), Some(rows), Some(columns)]) => match *shape {
                    [1, dim, slots] if slots == rows && *name == "transition_1" => {
                        set_shape(buffer, &[1, rows, columns]);
                        transition(values, (dim, slots), columns, &mut buffer.data);
                    }
                    _ => {
                        set_shape(buffer, &[1, rows, columns]);
                        for (row, shares) in buffer.data.chunks_exact_mut(columns).enumerate() {
                            softmax(shares, |column| 3.0 * noise(row * columns + column));
                        }
                    }
                },
                _ => return Err(self.error(&format!("the output `{name}` is of no known kind"))),
            }
        }
        Ok(())
    }
}

fn set_shape(buffer: &mut TensorBuffer, shape: &[usize]) {
    buffer.shape.clear();
    buffer.shape.extend_from_slice(shape);
    buffer.data.resize(shape.iter().product(), 0.0);
}

/// A number in −1 … 1 that depends on `index` alone.
fn noise(index: usize) -> f32 {
    let mixed = (index as u32 + 1).wrapping_mul(2_654_435_761);
    (mixed >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// `[3, height, width]` → `[1, dim, height/8, width/8]`, a unit vector per cell.
fn embed(image: &[f32], (height, width): (usize, usize), dim: usize, out: &mut TensorBuffer) {
    let (rows, columns) = (height / STRIDE, width / STRIDE);
    set_shape(out, &[1, dim, rows, columns]);
    let cells = rows * columns;
    for cell in 0..cells {
        // Mean of each colour, and the mean difference of neighbouring pixels.
        let mut looks = [0.0f32; 4];
        for (channel, plane) in image.chunks_exact(height * width).enumerate() {
            for y in 0..STRIDE {
                let row = (cell / columns * STRIDE + y) * width + cell % columns * STRIDE;
                let row = &plane[row..row + STRIDE];
                looks[channel] += row.iter().sum::<f32>() / (STRIDE * STRIDE) as f32;
                looks[3] +=
                    row.windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum::<f32>() / (STRIDE * STRIDE) as f32;
            }
        }
        let mut squares = 0.0;
        for channel in 0..dim {
            let angle: f32 = looks.iter().enumerate().map(|(i, look)| look * noise(channel * 5 + i)).sum();
            let value = (2.0 * angle + 3.0 * noise(channel * 5 + 4)).sin();
            squares += value * value;
            out.data[channel * cells + cell] = value;
        }
        let scale = 1.0 / squares.sqrt().max(1e-6);
        out.data.iter_mut().skip(cell).step_by(cells).for_each(|value| *value *= scale);
    }
}

/// Features `[dim, slots]` → `[slots, groups]`: each slot by the directions that its feature is near to.
fn transition(features: &[f32], (dim, slots): (usize, usize), groups: usize, out: &mut [f32]) {
    for (slot, shares) in out.chunks_exact_mut(groups).enumerate() {
        softmax(shares, |group| {
            let toward = |channel: usize| features[channel * slots + slot] * noise(1000 + group * dim + channel);
            4.0 * (0..dim).map(toward).sum::<f32>()
        });
    }
}

fn softmax(shares: &mut [f32], logit: impl Fn(usize) -> f32) {
    for (index, share) in shares.iter_mut().enumerate() {
        *share = logit(index).exp();
    }
    let sum: f32 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
}
