//! \[F2\]–\[F7\] A frame's way on the GPU, from the camera's bytes to the slot of every pixel: one chain on one stream.
//!
//! | step | what | back to the host |
//! |---|---|---|
//! | upload | bytes of the frame as the camera has them (RGB, grey, YUYV, UYVY, NV12), through page-locked memory; of the next one, if it is there, meanwhile | |
//! | preprocess | `kernels/preprocess.cu` writes into the embedding engine's input | |
//! | embed | the engine, for this frame or for those of several streams (`batch.rs`); are its features numbers? content cells row by row | index of the first that is none |
//! | compare | warm start: distance to the last frame's prototypes | sums by block |
//! | segment | spherical k-means; from the grid: distance to the own prototypes | labels, areas, prototypes, centroids, re-seeded slots |
//! | group | inputs of the grouping network, the engine | transitions |
//! | refine | pixels at borders, while the host already names segments | slot of each pixel |
//!
//! When the start is warm all of it but the upload is always the same work on the same memory, so from the second such frame on it is
//! two CUDA graphs: preprocess to group, one for each of the two uploads that take turns, and refine. The host is told between
//! them. A run that is shared with other streams, and preprocessing, stand before the first then. Where work cannot be
//! captured (TensorRT may refuse), it is started step by step, which is said. It is tried again where memory or rounds change,
//! up to `MAX_REFUSALS` times. Nothing is allocated per frame: memory changes with the frame's size only
//! ([`DeviceFrame::set_geometry`]).
//!
//! [`DeviceFrame::begin`] starts everything, [`DeviceFrame::wait`] waits for all but the slots, [`DeviceFrame::slots`] for those.
//! Page-locked memory is private to this file and looked at after waiting only, which is what its copies ask for.

use std::sync::Arc;

use models::arch::grouping::names::transition;
use models::manifest::Manifest;
use segcore::image::{CaptureTime, Frame, ImageSize, PixelFormat};
use segcore::preprocess::{PreprocessSpec, ResizePlan};
use segcore::spherical_kmeans::Start;

use super::backend::TensorRtEngine;
use super::batch::{Batches, Embedding};
use super::device_network::DeviceNetwork;
use crate::backend::cuda::{
    Buffer, Cuda, Event, FrameSteps, Graph, HostMemory, Kmeans, LastSegments, MAX_SIDE, MapAxes, Memory,
    NONE_NOT_FINITE, Noise, Preprocess, Refine, noise,
};
use crate::backend::{BackendError, BackendErrorKind, check_finite};

/// The frames that a [`DeviceFrame`] is set up for.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameGeometry {
    /// Preprocessing with the size of the network's input at present.
    pub preprocessing: PreprocessSpec,
    /// Size of the frames.
    pub source: ImageSize,
    /// Layout of their pixels.
    pub format: PixelFormat,
}

/// What a frame gave, but for its pixels; in page-locked memory.
pub struct Groups<'a> {
    /// Slot of each cell.
    pub labels: &'a [u16],
    /// Cells per slot.
    pub areas: &'a [u32],
    /// Per slot: 1 when it was re-seeded.
    pub reseeded: &'a [u32],
    /// Unit mean features `[slots, dim]`.
    pub prototypes: &'a [f32],
    /// Centroids' features `[slots, dim]`.
    pub centroids: &'a [f32],
    /// Centroids' places (y, x), `[slots, 2]`.
    pub places: &'a [f32],
    /// Transition matrices `[n_l, n_{l+1}]`, fine to coarse.
    pub transitions: &'a [HostMemory<f32>],
    /// Mean distance 1 − cos of the features: to the last frame's prototypes when the start was warm, else to their own.
    pub distance: f32,
}

/// Device memory and kernels for frames of one geometry.
struct Stages {
    plan: ResizePlan,
    format: PixelFormat,
    preprocess: Preprocess<Cuda>,
    kmeans: Kmeans<Cuda>,
    steps: FrameSteps<Cuda>,
    refine: Refine<Cuda>,
    uploads: [Upload; 2],
    /// Which of them has the frame that is worked on.
    current: usize,
    results: Results,
}

/// What tells a frame from others: index, time, and where its bytes are.
type FrameKey = (u64, CaptureTime, *const u8);

/// A frame's bytes on their way to the device.
struct Upload {
    host: HostMemory<u8>,
    device: Memory<Buffer, u8>,
    done: Event,
    holds: Option<FrameKey>,
}

// SAFETY: the pointer in a key is compared and never followed; everything else may move between threads.
unsafe impl Send for Upload {}

/// The host's side of what comes back.
struct Results {
    labels: HostMemory<u16>,
    areas: HostMemory<u32>,
    reseeded: HostMemory<u32>,
    prototypes: HostMemory<f32>,
    centroids: HostMemory<f32>,
    places: HostMemory<f32>,
    transitions: Vec<HostMemory<f32>>,
    first_not_finite: HostMemory<u32>,
    sums: HostMemory<f64>,
    slots: HostMemory<u16>,
}

/// How warm frames are started.
enum Warm {
    /// One by one; this many were since the last change of memory or rounds. TensorRT wants to have run once on its shapes.
    Plain(usize),
    /// As graphs.
    Graphs(Graphs),
    /// One by one: a graph cannot be had, at least not of this memory and these rounds.
    Refused,
}

/// A frame's work as CUDA graphs, each captured when it is there to be done.
#[derive(Default)]
struct Graphs {
    /// As far as the groups, for a frame in either upload, whose address is part of it. The first alone, where the run of the
    /// embedding network, and with it the upload, stands before.
    groups: [Option<Graph>; 2],
    /// Refinement, and the slots' way back.
    slots: Option<Graph>,
}

/// The graph of some work, which it is captured from the first time.
fn captured<'a>(
    graph: &'a mut Option<Graph>,
    cuda: &Cuda,
    work: impl FnOnce() -> Result<(), BackendError>,
) -> Result<&'a Graph, BackendError> {
    match graph {
        Some(graph) => Ok(graph),
        None => Ok(graph.insert(cuda.capture(work)?)),
    }
}

impl Warm {
    /// Work could not be captured.
    fn refuse(&mut self, num_refusals: &mut u8, error: &BackendError) {
        log::warn!("no CUDA graph, frames are started step by step: {error}");
        *num_refusals = num_refusals.saturating_add(1);
        *self = Self::Refused;
    }
}

/// How often capturing may fail in a row before it is not tried again: what is in the way need not stay, but each attempt costs
/// time, and a line in the log.
const MAX_REFUSALS: u8 = 3;

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Idle,
    /// A frame was begun and not to its end.
    Unknown,
    Begun {
        refine: bool,
    },
}

/// Both networks, and what they are called.
struct Networks {
    manifest: Manifest,
    transitions: Vec<String>,
    embedding: Embedding,
    grouping: DeviceNetwork,
}

/// A frame's way on the GPU for one stream.
///
/// Fields end in order: the graph before what it refers to, memory before CUDA.
pub struct DeviceFrame {
    warm: Warm,
    /// Captures that failed since the last one that did not.
    num_refusals: u8,
    stages: Option<Stages>,
    /// Segments of the frame before, on a map of another size.
    other_map: Option<LastSegments<Buffer>>,
    networks: Networks,
    groups_done: Event,
    max_rounds: usize,
    state: State,
    /// Whether the frame that was begun last had been uploaded while the one before was worked on.
    was_ahead: bool,
    /// Whether that frame was started as a graph.
    was_graph: bool,
    /// Frames of the run that embedded it; 0 when the stream has the network for itself.
    batch: usize,
    /// Uploads run beside everything else.
    upload_stream: Cuda,
    cuda: Cuda,
    /// Last, so that it covers the end of all others.
    _leaving: Option<Noise>,
}

impl DeviceFrame {
    /// Why a model cannot go this way; none if it can.
    pub fn lack(manifest: &Manifest) -> Option<String> {
        let (dim, preprocessing) = (manifest.network.embedding_dim, &manifest.preprocessing);
        if dim == 0 || !dim.is_multiple_of(4) || dim > 256 {
            return Some(format!("its features have length {dim}, the kernels take multiples of 4 up to 256"));
        }
        // Frames may have any size, so what they could lead to counts.
        let multiple = preprocessing.multiple;
        if !multiple.is_multiple_of(4) {
            return Some(format!("its input is padded to multiples of {multiple}, the kernels take multiples of 4"));
        }
        let cells = preprocessing.input.width.max(preprocessing.input.height).div_ceil(manifest.stride.max(1));
        (cells > MAX_SIDE).then(|| format!("its maps have up to {cells} cells a side, the kernels take {MAX_SIDE}"))
    }

    /// For one stream of a model with these engines; with `batches` it shares runs of the embedding network with others.
    ///
    /// # Errors
    /// When memory runs out, or driver or TensorRT refuse.
    pub fn new(
        manifest: &Manifest,
        embedding: Arc<TensorRtEngine>,
        grouping: Arc<TensorRtEngine>,
        batches: Option<Arc<Batches>>,
    ) -> Result<Self, BackendError> {
        let _noise = noise();
        let cuda = Cuda::new()?;
        let networks = Networks {
            transitions: (1..=manifest.groups().len()).map(transition).collect(),
            manifest: manifest.clone(),
            embedding: match batches {
                Some(batches) => Embedding::Shared(batches.join()),
                None => Embedding::Own(DeviceNetwork::new(embedding, &cuda)?),
            },
            grouping: DeviceNetwork::new(grouping, &cuda)?,
        };
        Ok(Self {
            warm: Warm::Plain(0),
            num_refusals: 0,
            stages: None,
            other_map: None,
            networks,
            groups_done: cuda.event()?,
            max_rounds: usize::MAX,
            state: State::Idle,
            was_ahead: false,
            was_graph: false,
            batch: 0,
            upload_stream: cuda.beside()?,
            cuda,
            _leaving: None,
        })
    }

    /// Sets memory up for frames of a geometry, whose maps have these `axes`. `clustered`: the cells that take part, none =
    /// all. With `carry_over` the next warm start goes on from the last frame, whose view is the same at another size.
    ///
    /// # Errors
    /// When memory runs out, or the engine or a kernel does not take the sizes. There is no geometry then.
    pub fn set_geometry(
        &mut self,
        geometry: &FrameGeometry,
        axes: MapAxes<'_>,
        clustered: Option<&[bool]>,
        carry_over: bool,
    ) -> Result<(), BackendError> {
        let _noise = noise();
        self.change_geometry(geometry, axes, clustered, carry_over).map_err(|error| self.or_lost(error))
    }

    fn change_geometry(
        &mut self,
        geometry: &FrameGeometry,
        axes: MapAxes<'_>,
        clustered: Option<&[bool]>,
        carry_over: bool,
    ) -> Result<(), BackendError> {
        self.end()?;
        self.upload_stream.synchronize()?;
        self.forget_graph();
        self.other_map = None;
        // What is not carried over goes first: there may be no room for both.
        let last = self.stages.take().filter(|_| carry_over).map(|stages| stages.kmeans);
        let mut stages = Stages::new(&self.cuda, &mut self.networks, geometry, axes, clustered)?;
        if let Some(kmeans) = last {
            self.other_map = Some(stages.kmeans.carry_over(kmeans)?);
        }
        stages.kmeans.limit_rounds(self.max_rounds);
        self.stages = Some(stages);
        Ok(())
    }

    /// Makes at most this many rounds of k-means from now on.
    pub fn limit_rounds(&mut self, max_rounds: usize) {
        if self.max_rounds == max_rounds {
            return;
        }
        self.max_rounds = max_rounds;
        self.forget_graph();
        if let Some(stages) = &mut self.stages {
            stages.kmeans.limit_rounds(max_rounds);
        }
    }

    /// Starts all work on a frame. A warm start goes on from the last frame, and compares with it; `refine`: pixels at
    /// borders are looked at, for [`DeviceFrame::slots`].
    ///
    /// # Errors
    /// When the frame is not of the geometry, or something cannot start.
    pub fn begin(&mut self, frame: &Frame, start: Start, refine: bool) -> Result<(), BackendError> {
        self.start(frame, start, refine).map_err(|error| self.or_lost(error))
    }

    fn start(&mut self, frame: &Frame, start: Start, refine: bool) -> Result<(), BackendError> {
        self.end()?;
        self.state = State::Unknown;
        let Self { stages, networks, cuda, upload_stream, was_ahead, was_graph, batch, .. } = self;
        let (warm, num_refusals, other_map) = (&mut self.warm, &mut self.num_refusals, &mut self.other_map);
        (*was_graph, *batch) = (false, 0);
        let stages = stages.as_mut().ok_or_else(|| unsupported("no size was set for frames"))?;
        let next = 1 - stages.current;
        *was_ahead = stages.uploads[next].holds == Some(key(frame));
        if !*was_ahead {
            stages.upload(upload_stream, next, frame)?;
        }
        stages.current = next;
        let upload = &mut stages.uploads[next];
        // Once: a frame that is given again may have other bytes by then.
        upload.holds = None;
        cuda.wait_for(&upload.done)?;
        let is_shared = networks.embedding.is_shared();
        if is_shared {
            stages.preprocess(cuda, networks)?;
            *batch = networks.embedding.run_with_others(cuda)?;
        }
        let other_map = other_map.take();
        let can_be_graph = start == Start::Warm && other_map.is_none();
        if can_be_graph && matches!(warm, Warm::Plain(1..)) {
            *warm = Warm::Graphs(Graphs::default());
        }
        let graph = match warm {
            Warm::Graphs(graphs) if can_be_graph => Some(&mut graphs.groups[if is_shared { 0 } else { next }]),
            _ => None,
        };
        match graph.map(|graph| captured(graph, cuda, || stages.chain(cuda, networks, Start::Warm, None))) {
            Some(Ok(graph)) => {
                cuda.launch_graph(graph)?;
                (*was_graph, *num_refusals) = (true, 0);
            }
            Some(Err(error)) => {
                warm.refuse(num_refusals, &error);
                stages.chain(cuda, networks, Start::Warm, None)?;
            }
            None => {
                stages.chain(cuda, networks, start, other_map.as_ref())?;
                if let (Start::Warm, Warm::Plain(count)) = (start, warm) {
                    *count += 1;
                }
            }
        }
        if let Some(other_map) = other_map {
            let _noise = noise();
            // Its memory is freed here, which waits for the work that reads it.
            drop(other_map);
        }
        self.begin_slots(refine)
    }

    /// Begins to upload the frame that comes next, while one is worked on; [`DeviceFrame::begin`] then finds it there. A frame of
    /// another geometry waits for its turn.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn upload_ahead(&mut self, frame: &Frame) -> Result<(), BackendError> {
        let Self { stages: Some(stages), state: State::Begun { .. }, upload_stream, .. } = self else { return Ok(()) };
        let next = 1 - stages.current;
        if !stages.fits(frame) || stages.uploads[next].holds == Some(key(frame)) {
            return Ok(());
        }
        stages.upload(upload_stream, next, frame)
    }

    /// Starts clustering of the same frame again, from the grid: the last frame had nothing to do with it.
    ///
    /// # Errors
    /// When something cannot start.
    pub fn again_from_grid(&mut self) -> Result<(), BackendError> {
        self.start_again().map_err(|error| self.or_lost(error))
    }

    fn start_again(&mut self) -> Result<(), BackendError> {
        let State::Begun { refine } = self.state else { return Err(unsupported("no frame was begun")) };
        // The slots of the first attempt are still on their way into the same memory.
        self.cuda.synchronize()?;
        self.state = State::Unknown;
        let Self { stages, networks, cuda, .. } = self;
        let stages = stages.as_mut().ok_or_else(|| unsupported("no size was set for frames"))?;
        stages.groups(cuda, networks, Start::Grid)?;
        self.begin_slots(refine)
    }

    fn begin_slots(&mut self, refine: bool) -> Result<(), BackendError> {
        let Self { stages, cuda, groups_done, warm, num_refusals, .. } = self;
        let stages = stages.as_mut().ok_or_else(|| unsupported("no size was set for frames"))?;
        cuda.record(groups_done)?;
        if refine {
            let graph = match warm {
                Warm::Graphs(graphs) => Some(&mut graphs.slots),
                Warm::Plain(_) | Warm::Refused => None,
            };
            match graph.map(|graph| captured(graph, cuda, || stages.slots(cuda))) {
                Some(Ok(graph)) => cuda.launch_graph(graph)?,
                Some(Err(error)) => {
                    warm.refuse(num_refusals, &error);
                    stages.slots(cuda)?;
                }
                None => stages.slots(cuda)?,
            }
        }
        self.state = State::Begun { refine };
        Ok(())
    }

    /// Waits for everything but the slots.
    ///
    /// # Errors
    /// When a kernel failed or the device is lost; when features or transitions are not finite, naming the file.
    pub fn wait(&mut self) -> Result<Groups<'_>, BackendError> {
        if !matches!(self.state, State::Begun { .. }) {
            return Err(unsupported("no frame was begun"));
        }
        self.groups_done.wait()?;
        let Self { stages: Some(Stages { results, .. }), networks, cuda, .. } = self else {
            return Err(unsupported("no size was set for frames"));
        };
        let first = results.first_not_finite.values()[0];
        if first != NONE_NOT_FINITE {
            // Once more on the CPU, which has the words; the frame is lost anyway.
            let name = &networks.manifest.tensors.embedding;
            let memory = networks.features()?;
            let path = networks.embedding.path();
            check_finite(path, name, &memory.to_vec(cuda, memory.len())?)?;
            let what = format!(
                "{}: a value of `{name}` was no number on the GPU (index {first}), but all are in the CPU's copy: the GPU's memory \
                 is not what was written; see `dmesg` for what the driver says",
                path.display()
            );
            return Err(BackendError::new(BackendErrorKind::NotFinite, what));
        }
        for (name, values) in networks.transitions.iter().zip(&results.transitions) {
            check_finite(networks.grouping.path(), name, values.values())?;
        }
        Ok(Groups {
            labels: results.labels.values(),
            areas: results.areas.values(),
            reseeded: results.reseeded.values(),
            prototypes: results.prototypes.values(),
            centroids: results.centroids.values(),
            places: results.places.values(),
            transitions: &results.transitions,
            distance: FrameSteps::<Cuda>::mean_distance(results.sums.values()),
        })
    }

    /// Waits for the slot of every pixel of the source, `[h, w]`; none when the frame was begun without refinement.
    ///
    /// # Errors
    /// When a kernel failed or the device is lost.
    pub fn slots(&mut self) -> Result<Option<&[u16]>, BackendError> {
        let State::Begun { refine } = self.state else { return Err(unsupported("no frame was begun")) };
        self.cuda.synchronize()?;
        self.state = State::Idle;
        Ok(self.stages.as_ref().filter(|_| refine).map(|stages| stages.results.slots.values()))
    }

    /// How frames are resized at present.
    pub fn plan(&self) -> Option<&ResizePlan> {
        self.stages.as_ref().map(|stages| &stages.plan)
    }

    /// Whether the frame that was begun last was started as a graph.
    pub const fn was_graph(&self) -> bool {
        self.was_graph
    }

    /// Whether the frame that was begun last had been uploaded ahead.
    pub const fn was_ahead(&self) -> bool {
        self.was_ahead
    }

    /// Frames of the run of the embedding network that the frame was part of which was begun last; 0 when it is never shared.
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// Whether the embedding network is shared with other streams.
    pub const fn is_batched(&self) -> bool {
        self.networks.embedding.is_shared()
    }

    /// What runs it.
    pub const fn cuda(&self) -> &Cuda {
        &self.cuda
    }

    /// Memory or rounds are others from now on: a graph of them is to be captured anew, once the work has run step by step.
    fn forget_graph(&mut self) {
        if !matches!(self.warm, Warm::Refused) || self.num_refusals < MAX_REFUSALS {
            self.warm = Warm::Plain(0);
        }
    }

    /// The error, or that the device is lost where that is the reason: TensorRT does not tell.
    fn or_lost(&self, error: BackendError) -> BackendError {
        if error.kind() == BackendErrorKind::DeviceLost {
            return error;
        }
        match self.cuda.synchronize() {
            Err(lost) if lost.kind() == BackendErrorKind::DeviceLost => {
                BackendError::new(BackendErrorKind::DeviceLost, format!("{error}: {lost}"))
            }
            _ => error,
        }
    }

    /// Waits for what a frame that was not waited for began.
    fn end(&mut self) -> Result<(), BackendError> {
        if self.state != State::Idle {
            self.cuda.synchronize()?;
            self.state = State::Idle;
        }
        Ok(())
    }
}

impl Drop for DeviceFrame {
    fn drop(&mut self) {
        // Copies from and into page-locked memory must end before it goes. A lost device leaves nothing to be done.
        let _ = self.upload_stream.synchronize();
        let _ = self.cuda.synchronize();
        self._leaving = Some(noise());
    }
}

impl Networks {
    fn image(&self) -> Result<&Memory<Buffer, f32>, BackendError> {
        self.embedding.image(&self.manifest)
    }

    fn features(&self) -> Result<&Memory<Buffer, f32>, BackendError> {
        self.embedding.features(&self.manifest)
    }
}

impl Stages {
    fn new(
        cuda: &Cuda,
        networks: &mut Networks,
        geometry: &FrameGeometry,
        axes: MapAxes<'_>,
        clustered: Option<&[bool]>,
    ) -> Result<Self, BackendError> {
        let Networks { manifest, embedding, grouping, transitions: names } = networks;
        let (dim, stride, num_slots) = (manifest.network.embedding_dim, manifest.stride, manifest.num_slots());
        let source = geometry.source;
        let row_bytes = geometry.format.row_bytes(source.width);
        let preprocess = Preprocess::without_output(cuda, &geometry.preprocessing, source, geometry.format, row_bytes)?;
        let (plan, num_bytes) = (*preprocess.plan(), preprocess.frame_bytes());
        let shape = [1, 3, plan.padded.height, plan.padded.width];
        let (rows, columns) = plan.feature_size(stride);
        embedding.set_shape(cuda, manifest, shape, dim * rows * columns)?;
        let cells = plan.content_cells(stride);
        let kmeans = Kmeans::new(cuda, manifest.kmeans, dim, cells, clustered)?;
        let steps = FrameSteps::new(cuda, axes, (dim, num_slots, manifest.position_extent))?;
        let mut transitions = Vec::with_capacity(names.len());
        for name in names.iter() {
            transitions.push(cuda.host_memory(grouping.memory(name)?.len())?);
        }
        let results = Results {
            labels: cuda.host_memory(cells.0 * cells.1)?,
            areas: cuda.host_memory(num_slots)?,
            reseeded: cuda.host_memory(num_slots)?,
            prototypes: cuda.host_memory(num_slots * dim)?,
            centroids: cuda.host_memory(num_slots * dim)?,
            places: cuda.host_memory(num_slots * 2)?,
            transitions,
            first_not_finite: cuda.host_memory(1)?,
            sums: cuda.host_memory(steps.sums().len())?,
            slots: cuda.host_memory(source.num_pixels())?,
        };
        Ok(Self {
            plan,
            preprocess,
            kmeans,
            steps,
            refine: Refine::new(cuda, &plan, stride, dim)?,
            uploads: [Upload::new(cuda, num_bytes)?, Upload::new(cuda, num_bytes)?],
            current: 0,
            format: geometry.format,
            results,
        })
    }

    /// Whether a frame has the geometry.
    fn fits(&self, frame: &Frame) -> bool {
        let num_bytes = self.preprocess.frame_bytes();
        frame.size == self.plan.source && frame.format == self.format && frame.pixels.len() >= num_bytes
    }

    /// Begins to upload a frame. Nobody reads the memory of the upload that is not the current one: its frame is done.
    fn upload(&mut self, stream: &Cuda, which: usize, frame: &Frame) -> Result<(), BackendError> {
        if !self.fits(frame) {
            let (size, format, bytes) = (frame.size, frame.format, frame.pixels.len());
            let (expected, least) = (self.plan.source, self.preprocess.frame_bytes());
            return Err(unsupported(&format!(
                "the frame is {size}, {format}, with {bytes} bytes, expected {expected}, {}, with {least}",
                self.format
            )));
        }
        let Upload { host, device, done, holds } = &mut self.uploads[which];
        *holds = None;
        // An upload that nobody came for.
        done.wait()?;
        let to = host.values_mut();
        to.copy_from_slice(&frame.pixels[..to.len()]);
        // SAFETY: written again after waiting for `done` only; `drop` and `set_geometry` wait for the stream before it goes.
        unsafe { stream.begin_write(host, device)? };
        stream.record(done)?;
        *holds = Some(key(frame));
        Ok(())
    }

    /// Starts preprocessing of the current upload.
    fn preprocess(&mut self, cuda: &Cuda, networks: &Networks) -> Result<(), BackendError> {
        self.preprocess.run_from(cuda, &self.uploads[self.current].device, networks.image()?)
    }

    /// Starts refinement.
    fn slots(&mut self, cuda: &Cuda) -> Result<(), BackendError> {
        let Self { refine, kmeans, results, .. } = self;
        refine.run(cuda, kmeans)?;
        // SAFETY: nobody looks at the slots before `DeviceFrame::slots` has waited; `drop` and `end` wait, too.
        unsafe { cuda.begin_read(refine.slots(), &mut results.slots) }
    }

    /// Starts the steps from preprocess to group; from the features on, where other streams shared the run that made them.
    fn chain(
        &mut self,
        cuda: &Cuda,
        networks: &mut Networks,
        start: Start,
        other_map: Option<&LastSegments<Buffer>>,
    ) -> Result<(), BackendError> {
        if !networks.embedding.is_shared() {
            self.preprocess(cuda, networks)?;
        }
        networks.embedding.run_alone(cuda)?;
        let features = networks.features()?;
        self.steps.check_finite(cuda, features)?;
        self.kmeans.gather(cuda, features, self.plan.feature_size(networks.manifest.stride))?;
        if start == Start::Warm {
            self.steps.compare(cuda, &self.kmeans, other_map)?;
        }
        self.groups(cuda, networks, start)
    }

    /// Starts clustering of the features on the device, and all after it.
    fn groups(&mut self, cuda: &Cuda, networks: &mut Networks, start: Start) -> Result<(), BackendError> {
        let Self { kmeans, steps, results, .. } = self;
        kmeans.run(cuda, start)?;
        if start == Start::Grid {
            steps.compare(cuda, kmeans, None)?;
        }
        let (names, grouping) = (&networks.manifest.tensors, &mut networks.grouping);
        let [features, positions, valid] = [&names.features, &names.positions, &names.valid];
        let inputs = [grouping.memory(features)?, grouping.memory(positions)?, grouping.memory(valid)?];
        steps.grouping_inputs(cuda, kmeans, inputs[0], inputs[1], inputs[2])?;
        grouping.enqueue(cuda)?;
        // SAFETY: nobody looks at the results before `wait` has waited for the event that is recorded after this; the next
        // frame begins after `end`, and `drop` waits, too.
        unsafe {
            cuda.begin_read(steps.first_not_finite(), &mut results.first_not_finite)?;
            cuda.begin_read(steps.sums(), &mut results.sums)?;
            cuda.begin_read(kmeans.labels(), &mut results.labels)?;
            cuda.begin_read(kmeans.areas(), &mut results.areas)?;
            cuda.begin_read(kmeans.reseeded(), &mut results.reseeded)?;
            cuda.begin_read(kmeans.prototypes(), &mut results.prototypes)?;
            cuda.begin_read(kmeans.centroids(), &mut results.centroids)?;
            cuda.begin_read(kmeans.places(), &mut results.places)?;
            for (name, to) in networks.transitions.iter().zip(&mut results.transitions) {
                cuda.begin_read(grouping.memory(name)?, to)?;
            }
        }
        Ok(())
    }
}

impl Upload {
    fn new(cuda: &Cuda, num_bytes: usize) -> Result<Self, BackendError> {
        let (host, device) = (cuda.host_memory(num_bytes)?, Memory::zeros(cuda, num_bytes)?);
        // The upload's stream is another one than that which clears the memory.
        cuda.synchronize()?;
        Ok(Self { host, device, done: cuda.event()?, holds: None })
    }
}

fn key(frame: &Frame) -> FrameKey {
    (frame.index, frame.capture_time, frame.pixels.as_ptr())
}

fn unsupported(message: &str) -> BackendError {
    BackendError::new(BackendErrorKind::Run, message)
}
