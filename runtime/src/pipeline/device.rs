//! \[F2\]–\[F4\], \[F7\] on the GPU: what `embed.rs`, `segment.rs`, `group.rs` and `refine.rs` do on the host, with the whole
//! frame staying in the device's memory (`backend/tensorrt/frame.rs`).
//!
//! What differs from the host: sums of floats are taken in another order, so features, centroids and prototypes differ in
//! their last bits, and a cell or pixel that is as near to one segment as to another may go to the other. And a scene cut is seen
//! after the frame was clustered from the last one's centroids, not before: it is then clustered again from the grid, which
//! nothing of the first attempt reaches.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use retrieval::{Bank, Search, Weighting};
use segcore::embedding::EmbeddingMap;
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::preprocess::ResizePlan;
use segcore::spherical_kmeans::{SegmentMap, Start};

use super::embed::scaled;
use super::group::fill_axis;
use super::label::NUM_VOTES;
use super::mask::MaskStage;
use super::refine::RefineStage;
use super::segment::{SceneCuts, SegmentStart};
use super::slot::OnDevice;
use super::{Deployment, MAX_LEVELS, Ready, Resolution, StageError, nanos_since};
use crate::backend::cuda::{Buffer, Cuda, DeviceBank, DeviceSearch, MapAxes, Nearest, noise};
use crate::backend::tensorrt::TensorRtEngine;
use crate::backend::tensorrt::batch::Batches;
use crate::backend::tensorrt::frame::{DeviceFrame, FrameGeometry};
use crate::backend::{BackendError, BackendErrorKind};
use crate::error::PipelineError;

/// The stages on the GPU, for one stream.
pub struct DeviceStages {
    deployment: Arc<Deployment>,
    frame: DeviceFrame,
    /// Whether pixels at borders are looked at, whatever the ladder says: it takes the device no time worth speaking of, and
    /// upsampling on the host instead would cost more.
    refine: bool,
    /// Size, format and scale of the network's input that memory is set up for.
    geometry: Option<(ImageSize, PixelFormat, f32)>,
    /// Size of the last frame; none before the first.
    previous: Option<ImageSize>,
    cuts: SceneCuts,
    map: SegmentMap,
    centroids: Vec<f32>,
    reseeded: Vec<u32>,
    transitions: Vec<Vec<f32>>,
    /// Nearest upsampling, which is the host's here, too.
    nearest: RefineStage,
    no_features: EmbeddingMap,
}

/// Time of one frame, nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceNanos {
    /// Until everything was started: the frame copied to page-locked memory, launches.
    pub start: u64,
    /// Until everything but the slots was there.
    pub wait: u64,
}

impl DeviceStages {
    /// The stages where a deployment's engines run over memory of a GPU; none elsewhere, and where the model or what is asked
    /// for has no kernels, which is said.
    ///
    /// # Errors
    /// When memory runs out, or driver or TensorRT refuse.
    pub fn new(deployment: &Arc<Deployment>, resolution: Resolution) -> Result<Option<Self>, PipelineError> {
        let engines = [&deployment.embedding, &deployment.grouping].map(|engine| Arc::clone(engine).on_gpu());
        let [Some(embedding), Some(grouping)] = engines else { return Ok(None) };
        if matches!(resolution, Resolution::Pixels | Resolution::Reference) {
            return Ok(None);
        }
        if let Some(lack) = DeviceFrame::lack(deployment.manifest()) {
            log::warn!("only the networks run on the GPU, the stages between them on the CPU: {lack}");
            return Ok(None);
        }
        let batches = deployment.batches.of(deployment, &embedding)?;
        Ok(Some(Self {
            frame: DeviceFrame::new(deployment.manifest(), embedding, grouping, batches)?,
            refine: resolution == Resolution::Refined,
            deployment: Arc::clone(deployment),
            geometry: None,
            previous: None,
            cuts: SceneCuts::default(),
            map: SegmentMap::default(),
            centroids: Vec::new(),
            reseeded: Vec::new(),
            transitions: vec![Vec::new(); deployment.level_sizes().len() - 1],
            nearest: RefineStage::default(),
            no_features: EmbeddingMap::default(),
        }))
    }

    /// Starts a frame and waits for all but its pixels; meanwhile what is `ready` next is uploaded. `input_scale`,
    /// `max_rounds`: what a late stream gives up (`degrade.rs`); `tracking`: the frame follows the last one in time.
    ///
    /// # Errors
    /// When the frame has no kernel, the network fails or gives numbers that are not finite, or the GPU fails.
    pub fn run(
        &mut self,
        frame: &Frame,
        (input_scale, max_rounds): (f32, usize),
        mask: Option<&mut MaskStage>,
        tracking: bool,
        ready: Option<&Ready>,
    ) -> Result<(SegmentStart, DeviceNanos), StageError> {
        let begin = Instant::now();
        // After an error nothing lives on.
        let previous = self.previous.take();
        let comparable = tracking && previous == Some(frame.size);
        self.frame.limit_rounds(max_rounds);
        let geometry = (frame.size, frame.format, input_scale);
        if self.geometry != Some(geometry) {
            self.geometry = None;
            self.set_geometry(frame, input_scale, mask, comparable)?;
            self.geometry = Some(geometry);
        }
        self.frame.begin(frame, if comparable { Start::Warm } else { Start::Grid }, self.refine)?;
        let start = nanos_since(begin);
        self.upload_next(ready);

        let mut groups = self.frame.wait()?;
        let distance = comparable.then_some(groups.distance);
        let cut = distance.is_some_and(|distance| self.cuts.is_cut(distance));
        if cut {
            self.frame.again_from_grid()?;
            groups = self.frame.wait()?;
        }
        self.cuts.observe(distance.filter(|_| !cut), || groups.distance);
        let manifest = self.deployment.manifest();
        let dim = manifest.network.embedding_dim;
        self.map.num_slots = manifest.num_slots();
        self.map.labels.clear();
        self.map.labels.extend_from_slice(groups.labels);
        self.map.areas.clear();
        self.map.areas.extend_from_slice(groups.areas);
        self.map.prototypes.clear();
        self.map.prototypes.extend_from_slice(groups.prototypes);
        self.centroids.clear();
        for (feature, place) in groups.centroids.chunks_exact(dim).zip(groups.places.chunks_exact(2)) {
            self.centroids.extend_from_slice(feature);
            self.centroids.extend_from_slice(place);
        }
        self.reseeded.clear();
        self.reseeded.extend((0..).zip(groups.reseeded).filter(|(_, flag)| **flag != 0).map(|(slot, _)| slot));
        for (to, from) in self.transitions.iter_mut().zip(groups.transitions) {
            to.clear();
            to.extend_from_slice(from.values());
        }
        // Once more, for what came meanwhile: refinement is under way, and the host's stages follow.
        self.upload_next(ready);
        self.previous = Some(frame.size);
        let wait = nanos_since(begin).saturating_sub(start);
        Ok((SegmentStart { from_grid: cut || !comparable, cut, distance }, DeviceNanos { start, wait }))
    }

    /// Begins to upload what is ready next, unless it was.
    fn upload_next(&mut self, ready: Option<&Ready>) {
        if let Some(ready) = ready {
            // What goes wrong here is told when it is that frame's turn.
            ready.look_at_next(|next| drop(self.frame.upload_ahead(&next.output.frame)));
        }
    }

    fn set_geometry(
        &mut self,
        frame: &Frame,
        input_scale: f32,
        mask: Option<&mut MaskStage>,
        carry_over: bool,
    ) -> Result<(), StageError> {
        let manifest = self.deployment.manifest();
        let mut preprocessing = manifest.preprocessing.clone();
        preprocessing.input = scaled(preprocessing.input, input_scale, preprocessing.multiple);
        let plan = ResizePlan::new(&preprocessing, frame.size).map_err(StageError::at("preprocess"))?;
        let (height, width) = plan.content_cells(manifest.stride);
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        fill_axis(&mut rows, height, manifest.position_extent);
        fill_axis(&mut columns, width, manifest.position_extent);
        let clustered = mask.map(|mask| mask.cells(&plan, manifest.stride)).transpose()?;
        let geometry = FrameGeometry { preprocessing, source: frame.size, format: frame.format };
        let axes = MapAxes { rows: &rows, columns: &columns };
        self.frame.set_geometry(&geometry, axes, clustered, carry_over)?;
        (self.map.height, self.map.width) = (height, width);
        Ok(())
    }

    /// Waits for the slot of every pixel of the source, `[h, w]`.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn pixels(&mut self, slots: &mut Vec<u16>) -> Result<(), StageError> {
        let Self { frame, nearest, map, centroids, deployment, no_features, .. } = self;
        if let Some(refined) = frame.slots()? {
            slots.clear();
            slots.extend_from_slice(refined);
            return Ok(());
        }
        let plan = frame.plan().ok_or_else(|| StageError::new("refine", "there is no resize plan"))?;
        let stride = deployment.manifest().stride;
        nearest.run(Resolution::Nearest, plan, stride, no_features, map, centroids, slots)
    }

    /// Forgets the frames so far: the next one starts from the grid.
    pub fn restart(&mut self) {
        self.previous = None;
    }

    /// Sets memory up again with the next frame: another mask, or nothing that was there is trusted.
    pub fn forget_geometry(&mut self) {
        (self.geometry, self.previous) = (None, None);
    }

    /// Base segments of the last frame.
    pub fn map(&self) -> &SegmentMap {
        &self.map
    }

    /// Centroids `[k, dim + 2]` of the last frame.
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// Slots that the last frame re-seeded.
    pub fn reseeded(&self) -> &[u32] {
        &self.reseeded
    }

    /// Transition matrices `[n_l, n_{l+1}]` of the last frame, fine to coarse; the second value counts those in use.
    pub fn transitions(&self) -> ([&[f32]; MAX_LEVELS], usize) {
        let of_level = |level: usize| self.transitions.get(level).map_or(&[][..], Vec::as_slice);
        (std::array::from_fn(of_level), self.transitions.len())
    }

    /// The features are on the device; here is a map without cells.
    pub const fn no_features(&self) -> &EmbeddingMap {
        &self.no_features
    }

    /// How the last frame was computed.
    pub fn how(&self) -> OnDevice {
        let as_it_came = self.geometry.is_some_and(|(_, format, _)| format.yuv_colors().is_some());
        let (graph, uploaded_ahead) = (self.frame.was_graph(), self.frame.was_ahead());
        OnDevice { graph, uploaded_ahead, as_it_came, batch: self.frame.batch() }
    }

    /// Whether the embedding network runs for several streams at once.
    pub fn is_batched(&self) -> bool {
        self.frame.is_batched()
    }
}

/// Where the streams of a deployment meet to share runs of the embedding network, as long as one of them does.
#[derive(Default)]
pub struct SharedBatches(Mutex<Weak<Batches>>);

impl SharedBatches {
    /// Their meeting place, made by the first; none where every stream is to run the network for itself.
    fn of(&self, deployment: &Deployment, engine: &Arc<TensorRtEngine>) -> Result<Option<Arc<Batches>>, BackendError> {
        // Nobody panics while holding it.
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batches) = shared.upgrade() {
            return Ok(Some(batches));
        }
        let made = Batches::new(deployment.manifest(), engine, deployment.spec().batching)?;
        if let Some(batches) = &made {
            *shared = Arc::downgrade(batches);
        }
        Ok(made)
    }
}

/// Most of the device's free memory that a bank may take; less where that is the host's, too, because a copy is made there first.
const BANK_SHARE: f64 = 0.5;
const INTEGRATED_BANK_SHARE: f64 = 0.3;

/// The bank on the device, one for all streams of a deployment, as long as one of them uses it.
#[derive(Default)]
pub struct SharedBank(Mutex<Weak<DeviceBank<Buffer>>>);

/// Segments looked up on the GPU.
pub struct Lookup {
    search: DeviceSearch,
    /// Shares and unknown score of one query that the kernel was not sure of.
    doubtful: Vec<f32>,
    doubtful_score: Vec<f32>,
}

impl Lookup {
    /// A search on a stream beside that of `stages`. None, which is said, where the bank has no kernel or the GPU no room for it;
    /// none without a bank, or when it is to be searched by its index.
    ///
    /// # Errors
    /// When the GPU is lost.
    pub fn new(
        deployment: &Deployment,
        shared: &SharedBank,
        stages: &DeviceStages,
        search: Search,
    ) -> Result<Option<Self>, PipelineError> {
        let Some(bank) = deployment.bank().filter(|bank| search == Search::Exact && !bank.is_empty()) else {
            return Ok(None);
        };
        match Self::of_bank(deployment, bank, shared, stages.frame.cuda()) {
            Ok(Ok(lookup)) => return Ok(Some(lookup)),
            Err(error) if error.kind() == BackendErrorKind::DeviceLost => return Err(error.into()),
            // The CPU finds the same; full memory is no reason to do without frames.
            Ok(Err(lack)) => log::warn!("{}: the bank is searched on the CPU: {lack}", bank.path().display()),
            Err(error) => log::warn!("{}: the bank is searched on the CPU: {error}", bank.path().display()),
        }
        Ok(None)
    }

    /// The search, or what the bank lacks for it.
    fn of_bank(
        deployment: &Deployment,
        bank: &Bank,
        shared: &SharedBank,
        cuda: &Cuda,
    ) -> Result<Result<Self, String>, BackendError> {
        let _noise = noise();
        // Nobody panics while holding it; an old bank is as good as a new one.
        let mut shared = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let on_device = match shared.upgrade() {
            Some(on_device) => on_device,
            None => {
                let (needed, free) = (DeviceBank::<Buffer>::needed_bytes(bank), cuda.free_bytes()?);
                let share = if cuda.is_integrated()? { INTEGRATED_BANK_SHARE } else { BANK_SHARE };
                let lack = DeviceBank::<Buffer>::lack(bank).or_else(|| {
                    let (needed, free) = (needed as f64 / 1e6, free as f64 / 1e6);
                    (needed > share * free)
                        .then(|| format!("it takes {needed:.0} MB, and {free:.0} MB of the GPU's memory are free"))
                });
                if let Some(lack) = lack {
                    return Ok(Err(lack));
                }
                let on_device = Arc::new(DeviceBank::new(cuda, bank)?);
                *shared = Arc::downgrade(&on_device);
                on_device
            }
        };
        let sizes = (deployment.manifest().num_slots(), bank.dim(), NUM_VOTES);
        Ok(Ok(Self {
            search: DeviceSearch::new(cuda, on_device, sizes)?,
            doubtful: Vec::new(),
            doubtful_score: Vec::new(),
        }))
    }

    /// What [`Bank::shares_by`] says of queries `[n, dim]`: the neighbours are the same, in the same order.
    ///
    /// # Errors
    /// When the GPU fails, or the bank has more classes.
    pub fn shares(
        &mut self,
        bank: &Bank,
        weighting: Weighting,
        queries: &[f32],
        num_classes: usize,
        (shares, unknown_scores): (&mut Vec<f32>, &mut Vec<f32>),
    ) -> Result<(), StageError> {
        let exactly = |query: &[f32], answers: (&mut Vec<f32>, &mut Vec<f32>)| {
            bank.shares_by(Search::Exact, weighting, (query, NUM_VOTES), num_classes, answers)
        };
        // Whether the bank is what it was, and its labels are classes.
        exactly(&[], (shares, unknown_scores)).map_err(StageError::at("label"))?;
        let num_queries = queries.len() / bank.dim();
        shares.resize(num_queries * num_classes, 0.0);
        let Self { search, doubtful, doubtful_score } = self;
        let mut failed = None;
        search.nearest(queries, num_queries, |query, nearest| {
            let asked = &queries[query * bank.dim()..][..bank.dim()];
            let out = &mut shares[query * num_classes..][..num_classes];
            match nearest {
                Nearest::Found(indices, similarities) => {
                    unknown_scores.push(bank.shares_of(asked, indices, similarities, weighting, out));
                }
                Nearest::Doubtful => {
                    match exactly(asked, (doubtful, doubtful_score)) {
                        Ok(()) => out.copy_from_slice(doubtful),
                        Err(error) => failed = Some(error),
                    }
                    unknown_scores.append(doubtful_score);
                }
            }
        })?;
        failed.map_or(Ok(()), |error| Err(StageError::new("label", error)))
    }
}
