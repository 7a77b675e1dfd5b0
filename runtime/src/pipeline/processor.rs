//! The compute stages of one stream, in order, on the calling thread and a thread pool of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use retrieval::{DEFAULT_PROBES, RetrievalError, Search};
use segcore::embedding::EmbeddingMap;
use segcore::image::Frame;
use segcore::spherical_kmeans::{KmeansSpec, SegmentMap};

use super::associate::{AssociateStage, Continuity};
use super::degrade::{Deadline, LADDER, Step as LadderStep};
use super::device::{DeviceStages, Lookup};
use super::embed::EmbedStage;
use super::group::GroupStage;
use super::label::LabelStage;
use super::mask::{Mask, MaskStage};
use super::names::Naming;
use super::refine::RefineStage;
use super::segment::{DEFAULT_ROUNDS, SegmentStage, SegmentStart};
use super::slot::{FrameSlot, OnDevice};
use super::smooth::TransitionSmoother;
use super::{Deployment, MAX_LEVELS, Ready, Resolution, StageError, nanos_since};
use crate::error::PipelineError;

/// How segments are looked up in the prototype bank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BankSearch {
    /// Approximately where the bank has an index, which `hsg bank build` makes of large banks alone; else exactly.
    #[default]
    Auto,
    /// Among all prototypes.
    Exact,
    /// In the lists of the index that are nearest; banks without an index are refused.
    Approximate,
}

impl BankSearch {
    /// What it means for the bank of a deployment.
    fn resolve(self, deployment: &Deployment) -> Result<Search, RetrievalError> {
        let approximate = Search::Approximate { probes: DEFAULT_PROBES };
        let Some(bank) = deployment.bank() else { return Ok(Search::Exact) };
        match self {
            Self::Exact => Ok(Search::Exact),
            Self::Auto if bank.num_lists() == 0 => Ok(Search::Exact),
            Self::Approximate if bank.num_lists() == 0 => Err(RetrievalError::NoIndex {
                path: bank.path().to_owned(),
                command: bank.build_command(),
                prototypes: bank.len(),
            }),
            Self::Auto | Self::Approximate => Ok(approximate),
        }
    }
}

/// Where the stages between the networks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On the CPU, whatever runs the networks.
    #[default]
    Host,
    /// On the GPU where the networks run there and there are kernels for the model; else on the CPU.
    Auto,
}

/// What changes how a stream is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessorSpec {
    /// Where the stages run.
    pub placement: Placement,
    /// Whether frames follow each other in time: clustering starts from the last frame, ids stay.
    pub tracking: bool,
    /// How labels get from cells to pixels.
    pub resolution: Resolution,
    /// How segments are looked up in the bank.
    pub bank_search: BankSearch,
    /// How they get their classes from what is found there.
    pub naming: Naming,
    /// Latency beyond which frames are computed with less care, see `degrade.rs`.
    pub deadline: Option<Duration>,
    /// Rounds of clustering; none = [`DEFAULT_ROUNDS`], or the model's where those are fewer. More than the model's on the CPU
    /// alone.
    pub rounds: Option<usize>,
}

impl ProcessorSpec {
    /// Rounds of clustering for a model with so many.
    pub fn rounds(&self, of_model: usize) -> usize {
        self.rounds.unwrap_or(of_model.min(DEFAULT_ROUNDS))
    }
}

/// The compute stages of one stream. Everything that lives from frame to frame is in here.
pub struct Processor {
    // A pool per stream: a thread that waits for its half of a loop must not pick up a whole frame of another stream.
    pool: Arc<rayon::ThreadPool>,
    stages: Stages,
}

struct Stages {
    deployment: Arc<Deployment>,
    spec: ProcessorSpec,
    pixels: PixelStages,
    smoother: TransitionSmoother,
    label: LabelStage,
    search: Search,
    associate: AssociateStage,
    mask: Option<MaskStage>,
    deadline: Option<Deadline>,
    /// Where the deadline's clock begins.
    start: Instant,
}

/// The stages that work on pixels and cells, F2 to F4 and F7. Those between them and after see segments only.
enum PixelStages {
    Host(Box<HostStages>),
    Device(Box<DeviceStages>),
}

/// The stages on the CPU.
struct HostStages {
    embed: EmbedStage,
    segment: SegmentStage,
    group: GroupStage,
    refine: RefineStage,
}

/// What [`PixelStages::run`] tells of a frame.
struct Segmented {
    start: SegmentStart,
    /// Preprocess, embed, segment and group.
    nanos: [u64; 4],
    /// Within both networks.
    network_nanos: u64,
}

impl Processor {
    /// The stages for one stream of a deployed model.
    ///
    /// # Errors
    /// When the backend has no session to give, threads cannot be started, or the bank has no index for the search asked for.
    pub fn new(deployment: Arc<Deployment>, spec: ProcessorSpec) -> Result<Self, PipelineError> {
        let num_threads = deployment.spec().num_threads;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(num_threads)
            .thread_name(|index| format!("hsg-math-{index}"))
            .build()
            .map_err(|error| PipelineError::Spawn { source: std::io::Error::other(error) })?;
        let search = spec.bank_search.resolve(&deployment)?;
        let pixels = PixelStages::new(&deployment, spec)?;
        let mut label = LabelStage::new(Arc::clone(&deployment), search, spec.naming);
        label.set_lookup(pixels.lookup(&deployment, search)?);
        let stages = Stages {
            pixels,
            smoother: TransitionSmoother::default(),
            label,
            search,
            associate: AssociateStage::new(deployment.level_sizes().len()),
            mask: None,
            deadline: spec.deadline.map(Deadline::new),
            start: Instant::now(),
            deployment,
            spec,
        };
        Ok(Self { pool: Arc::new(pool), stages })
    }

    /// Leaves the masked parts of all further frames out.
    pub fn set_mask(&mut self, mask: Mask) {
        self.stages.mask = Some(MaskStage::new(mask));
        if let PixelStages::Device(device) = &mut self.stages.pixels {
            device.forget_geometry();
        }
    }

    /// Begins another stream: nothing of the frames before lives on.
    pub fn restart(&mut self, tracking: bool) {
        let stages = &mut self.stages;
        stages.spec.tracking = tracking;
        match &mut stages.pixels {
            PixelStages::Host(host) => host.segment.restart(),
            PixelStages::Device(device) => device.restart(),
        }
        stages.smoother = TransitionSmoother::default();
        stages.deadline = stages.spec.deadline.map(Deadline::new);
        stages.associate = AssociateStage::new(stages.deployment.level_sizes().len());
    }

    /// Starts afresh after an error, with new sessions where the backend has some to give.
    pub fn recover(&mut self) {
        self.restart(self.stages.spec.tracking);
        let Stages { pixels, label, search, deployment, spec, .. } = &mut self.stages;
        // Without, the next frame is tried with the old ones and says what is wrong.
        match pixels {
            PixelStages::Host(host) => {
                if let Ok(embed) = EmbedStage::new(Arc::clone(deployment)) {
                    host.embed = embed;
                }
                if let Ok(group) = GroupStage::new(Arc::clone(deployment)) {
                    host.group = group;
                }
            }
            PixelStages::Device(device) => {
                device.forget_geometry();
                if let Ok(Some(new)) = DeviceStages::new(deployment, spec.resolution) {
                    **device = new;
                    // Its memory, too; without room for it segments are looked up on the CPU.
                    label.set_lookup(None);
                    label.set_lookup(pixels.lookup(deployment, *search).unwrap_or_default());
                }
            }
        }
    }

    /// Segments the frame of a slot; all other fields of its output are written.
    ///
    /// # Errors
    /// When a stage refuses the frame, or the network fails or gives numbers that are not finite.
    pub fn process(&mut self, slot: &mut FrameSlot) -> Result<(), PipelineError> {
        self.process_with(slot, None)
    }

    /// The same; where pixels are computed on a GPU, the frame that waits in `ready` is uploaded meanwhile.
    ///
    /// # Errors
    /// As [`Processor::process`].
    pub fn process_with(&mut self, slot: &mut FrameSlot, ready: Option<&Ready>) -> Result<(), PipelineError> {
        let stages = &mut self.stages;
        self.pool
            .install(|| stages.process(slot, ready))
            .map_err(|error| error.in_frame(&slot.output.stream, slot.output.frame.index))
    }

    /// Base segments alone, clustered from the grid, and the slot of each pixel of the frame by nearest upsampling: what
    /// a bank is built from. Tracking is not affected by `spec`: every frame stands for itself.
    ///
    /// # Errors
    /// As [`Processor::process`], and where the stages run on a GPU.
    pub fn base_segments(&mut self, frame: &Frame, slots: &mut Vec<u16>) -> Result<&SegmentMap, PipelineError> {
        let stages = &mut self.stages;
        self.pool.install(|| stages.base_segments(frame, slots)).map_err(|error| error.in_frame("", frame.index))?;
        Ok(self.stages.pixels.map())
    }

    /// Unit features of the content cells of the last frame, before clustering; no cells where they stay on a GPU.
    pub fn features(&self) -> &EmbeddingMap {
        match &self.stages.pixels {
            PixelStages::Host(host) => host.embed.map(),
            PixelStages::Device(device) => device.no_features(),
        }
    }

    /// Base segments of the last frame, and the slots of them that it re-seeded.
    pub fn segments(&self) -> (&SegmentMap, &[u32]) {
        (self.stages.pixels.map(), self.stages.pixels.reseeded())
    }

    /// Whether the stages between the networks run on a GPU.
    pub fn is_on_device(&self) -> bool {
        matches!(self.stages.pixels, PixelStages::Device(_))
    }

    /// Whether the embedding network runs for several streams at once.
    pub fn is_batched(&self) -> bool {
        matches!(&self.stages.pixels, PixelStages::Device(device) if device.is_batched())
    }

    /// The threads that frames are computed on; whoever calls [`Processor::process`] on one of them hands nothing over.
    pub fn pool(&self) -> &Arc<rayon::ThreadPool> {
        &self.pool
    }

    /// The deployed model.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.stages.deployment
    }
}

impl PixelStages {
    fn new(deployment: &Arc<Deployment>, spec: ProcessorSpec) -> Result<Self, PipelineError> {
        let manifest = deployment.manifest();
        let rounds = spec.rounds(manifest.kmeans.rounds);
        if spec.placement == Placement::Auto
            && rounds <= manifest.kmeans.rounds
            && let Some(device) = DeviceStages::new(deployment, spec.resolution)?
        {
            return Ok(Self::Device(Box::new(device)));
        }
        let features = (manifest.network.embedding_dim, manifest.stride);
        let kmeans = KmeansSpec { rounds, ..manifest.kmeans };
        let num_threads = deployment.spec().num_threads;
        Ok(Self::Host(Box::new(HostStages {
            embed: EmbedStage::new(Arc::clone(deployment))?,
            segment: SegmentStage::new(kmeans, features, spec.resolution, num_threads)
                .map_err(|error| error.in_frame("", 0))?,
            group: GroupStage::new(Arc::clone(deployment))?,
            refine: RefineStage::default(),
        })))
    }

    /// Where segments are looked up on the same GPU.
    fn lookup(&self, deployment: &Deployment, search: Search) -> Result<Option<Lookup>, PipelineError> {
        match self {
            Self::Host(_) => Ok(None),
            Self::Device(device) => Lookup::new(deployment, &deployment.device_bank, device, search),
        }
    }

    /// F2 to F4 of a frame: its segments and their transitions.
    fn run(
        &mut self,
        frame: &Frame,
        step: LadderStep,
        resolution: Resolution,
        mask: Option<&mut MaskStage>,
        tracking: bool,
        ready: Option<&Ready>,
    ) -> Result<Segmented, StageError> {
        match self {
            Self::Host(host) => host.run(frame, step, resolution, mask, tracking),
            Self::Device(device) => {
                let (start, nanos) = device.run(frame, (step.input_scale, step.max_rounds), mask, tracking, ready)?;
                // The device is not asked when which of its stages ended: that would be waiting for each.
                Ok(Segmented { start, nanos: [nanos.start, nanos.wait, 0, 0], network_nanos: 0 })
            }
        }
    }

    /// F7: the slot of every pixel of that frame, `[h, w]`.
    fn pixels(&mut self, resolution: Resolution, stride: usize, slots: &mut Vec<u16>) -> Result<(), StageError> {
        match self {
            Self::Host(host) => host.pixels(resolution, stride, slots),
            Self::Device(device) => device.pixels(slots),
        }
    }

    /// How the last frame was computed on a GPU; none where it was not.
    fn on_device(&self) -> Option<OnDevice> {
        match self {
            Self::Host(_) => None,
            Self::Device(device) => Some(device.how()),
        }
    }

    fn map(&self) -> &SegmentMap {
        match self {
            Self::Host(host) => host.segment.map(),
            Self::Device(device) => device.map(),
        }
    }

    fn centroids(&self) -> &[f32] {
        match self {
            Self::Host(host) => host.segment.centroids(),
            Self::Device(device) => device.centroids(),
        }
    }

    fn reseeded(&self) -> &[u32] {
        match self {
            Self::Host(host) => host.segment.reseeded(),
            Self::Device(device) => device.reseeded(),
        }
    }

    fn transitions(&self) -> ([&[f32]; MAX_LEVELS], usize) {
        match self {
            Self::Host(host) => host.group.transitions(),
            Self::Device(device) => device.transitions(),
        }
    }
}

impl HostStages {
    fn run(
        &mut self,
        frame: &Frame,
        step: LadderStep,
        resolution: Resolution,
        mask: Option<&mut MaskStage>,
        tracking: bool,
    ) -> Result<Segmented, StageError> {
        self.segment.limit_rounds(step.max_rounds);
        let embed = self.embed.run(frame, step.input_scale)?;
        let (Some(plan), features) = (self.embed.plan(), self.embed.map()) else {
            return Err(StageError::new("embed", "there is no resize plan"));
        };

        let clock = Instant::now();
        let cells = resolution.cell(self.segment.stride());
        let clustered = mask.map(|mask| mask.cells(plan, cells)).transpose()?;
        let start = self.segment.run(features, plan, clustered, tracking)?;
        let segment = nanos_since(clock);

        let clock = Instant::now();
        let network = self.group.run(self.segment.map())?;
        let nanos = [embed.preprocess, embed.embed, segment, nanos_since(clock)];
        Ok(Segmented { start, nanos, network_nanos: embed.network + network })
    }

    fn pixels(&mut self, resolution: Resolution, stride: usize, slots: &mut Vec<u16>) -> Result<(), StageError> {
        let (Some(plan), features) = (self.embed.plan(), self.embed.map()) else {
            return Err(StageError::new("embed", "there is no resize plan"));
        };
        let (segments, centroids) = (self.segment.map(), self.segment.centroids());
        self.refine.run(resolution, plan, stride, features, segments, centroids, slots)
    }
}

impl Stages {
    fn process(&mut self, slot: &mut FrameSlot, ready: Option<&Ready>) -> Result<(), StageError> {
        let output = &mut slot.output;
        output.size = output.frame.size;
        let stride = self.deployment.manifest().stride;

        let at_step = self.deadline.as_ref().map_or(0, Deadline::step);
        let rounds = self.spec.rounds(self.deployment.manifest().kmeans.rounds);
        let step = LadderStep { max_rounds: LADDER[at_step].max_rounds.min(rounds), ..LADDER[at_step] };
        output.degradation_step = at_step as u8;
        let resolution = match self.spec.resolution {
            Resolution::Refined if !step.refine => Resolution::Nearest,
            resolution => resolution,
        };

        let tracking = self.spec.tracking;
        let Segmented { start, nanos: [preprocess, embed, segment, group], network_nanos } =
            self.pixels.run(&output.frame, step, resolution, self.mask.as_mut(), tracking, ready)?;
        let SegmentStart { from_grid, cut, distance } = start;
        let index = output.frame.index;
        if cut {
            log::info!("`{}`, frame {index}: scene cut (distance {distance:?})", output.stream);
        } else {
            log::trace!("`{}`, frame {index}: distance to the last frame's prototypes {distance:?}", output.stream);
        }
        slot.network_nanos = network_nanos;
        slot.on_device = self.pixels.on_device();

        let clock = Instant::now();
        let segments = self.pixels.map();
        let continuity = Continuity { tracking, from_grid, reseeded: self.pixels.reseeded() };
        let (of_frame, num_transitions) = self.pixels.transitions();
        let transitions = if tracking {
            let sizes = self.deployment.level_sizes();
            self.smoother.run(&of_frame[..num_transitions], sizes, segments, continuity);
            self.smoother.averages()
        } else {
            of_frame
        };
        output.stage_nanos.preprocess = preprocess;
        output.stage_nanos.embed = embed;
        output.stage_nanos.segment = segment;
        output.stage_nanos.group = group + nanos_since(clock);

        let start = Instant::now();
        self.label.run(segments, (transitions, num_transitions), continuity, &mut output.levels)?;
        output.stage_nanos.label = nanos_since(start);
        slot.lookups = self.label.lookups();
        slot.looked_up_on_device = self.label.looks_up_on_device();

        let start = Instant::now();
        let centroids = self.pixels.centroids();
        self.associate.run(segments, centroids, self.label.hierarchy(), continuity, &mut output.levels);
        output.stage_nanos.associate = nanos_since(start);

        let start = Instant::now();
        self.pixels.pixels(resolution, stride, &mut output.slots)?;
        if let Some(mask) = &self.mask {
            mask.clear(&mut output.slots);
        }
        output.measure_segments();
        output.stage_nanos.refine = nanos_since(start);

        if let Some(deadline) = &mut self.deadline {
            deadline.observe(nanos_since(self.start), nanos_since(slot.counted_from));
            if deadline.step() != at_step {
                let LadderStep { gives_up, .. } = LADDER[deadline.step()];
                log::info!("`{}`: degradation step {}: given up: {gives_up}", output.stream, deadline.step());
            }
        }
        Ok(())
    }

    fn base_segments(&mut self, frame: &Frame, slots: &mut Vec<u16>) -> Result<(), StageError> {
        let PixelStages::Host(host) = &mut self.pixels else {
            return Err(StageError::new("segment", "base segments alone are the host's work (`Placement::Host`)"));
        };
        host.segment.limit_rounds(usize::MAX);
        host.embed.run(frame, 1.0)?;
        let (Some(plan), features) = (host.embed.plan(), host.embed.map()) else {
            return Err(StageError::new("embed", "there is no resize plan"));
        };
        host.segment.run(features, plan, None, false)?;
        let resolution = match self.spec.resolution {
            Resolution::Refined => Resolution::Nearest,
            as_clustered => as_clustered,
        };
        host.pixels(resolution, self.deployment.manifest().stride, slots)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use models::manifest::{ModelFolder, Precision};
    use segcore::image::{ImageSize, PixelFormat};

    use super::*;
    use crate::backend::BackendChoice;
    use crate::pipeline::DeploymentSpec;

    fn processor(deadline: Option<Duration>) -> Processor {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-model");
        let spec = DeploymentSpec {
            backend: BackendChoice::Cpu,
            precision: Precision::Fp32,
            int8_float: false,
            num_threads: 1,
            batching: crate::backend::tensorrt::Batching::default(),
        };
        let deployment = Arc::new(Deployment::load(ModelFolder::open(&path).unwrap(), spec).unwrap());
        Processor::new(deployment, ProcessorSpec { tracking: true, deadline, ..ProcessorSpec::default() }).unwrap()
    }

    /// A street-like scene: sky, road, and boxes that drift by and pass each other.
    fn draw(slot: &mut FrameSlot, time: usize) {
        let frame = &mut slot.output.frame;
        (frame.size, frame.format, frame.index) = (ImageSize::new(96, 64), PixelFormat::Rgb8, time as u64);
        frame.pixels.clear();
        for y in 0..64usize {
            for x in 0..96usize {
                let boxes = [
                    (time / 2, 20, [200, 40, 30]),
                    (time / 3 + 40, 30, [30, 60, 190]),
                    (200 - time % 160, 40, [230, 220, 40]),
                ];
                let hit = boxes
                    .iter()
                    .find(|(left, top, _)| (x + 160 - left % 160) % 160 < 18 && (*top..top + 14).contains(&y));
                let ground = if y < 28 { [120, 160, 220] } else { [70 + (y as u8), 70, 75] };
                let texture = ((x * 7 + y * 13 + time / 4) % 11) as u8;
                frame
                    .pixels
                    .extend(hit.map_or(ground, |(_, _, color)| *color).map(|value: u8| value.saturating_add(texture)));
            }
        }
    }

    #[test]
    fn clusters_are_alive_after_5000_frames() {
        let mut processor = processor(None);
        let mut slot = FrameSlot::default();
        for time in 0..5000 {
            draw(&mut slot, time);
            processor.process(&mut slot).unwrap();
        }
        let areas = &processor.stages.pixels.map().areas;
        let alive = areas.iter().filter(|&&area| area > 0).count();
        assert!(alive * 100 >= 95 * areas.len(), "{alive} of {} clusters are alive", areas.len());
    }

    #[test]
    fn the_ladder_is_in_the_frames_and_ids_live_on_over_it() {
        // Every frame is later than a nanosecond, on any machine.
        let mut processor = processor(Some(Duration::from_nanos(1)));
        let mut slot = FrameSlot::default();
        let (mut steps, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            draw(&mut slot, 0);
            slot.counted_from = Instant::now();
            processor.process(&mut slot).unwrap();
            steps.push(slot.output.degradation_step);
            let present = slot.output.levels[2].segments.iter().filter(|segment| segment.present);
            ids.push(present.map(|segment| segment.track_id).max());
        }
        assert_eq!((steps[0], steps[19]), (0, 4));
        assert!(steps.is_sorted(), "{steps:?}");
        let PixelStages::Host(host) = &processor.stages.pixels else { panic!("this runs on the CPU") };
        let plan = *host.embed.plan().unwrap();
        assert_eq!((plan.padded.width, plan.padded.height), (48, 32));
        // A change of the input's size is no cut: the coarsest groups are not all born again each time.
        assert!(ids.iter().flatten().all(|&id| id < 6), "{ids:?}");
    }
}
