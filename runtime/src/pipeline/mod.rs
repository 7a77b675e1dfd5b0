//! A frame's way through the program. Read this file first.
//!
//! | stage | file | thread | in → out |
//! |---|---|---|---|
//! | capture | `capture` | `hsg-capture` | source → slot |
//! | preprocess, embed | [`embed`] | `hsg-math-0` | frame → unit features `[h, w, m]` at stride 8 |
//! | segment | [`segment`] | | features → base segments (spherical k-means, fixed slots) |
//! | group | [`group`], [`smooth`] | | prototypes, positions → transitions between levels, averaged over time |
//! | label | [`label`], [`names`] | | transitions → strict hierarchy; prototypes → classes by retrieval |
//! | associate | [`associate`] | | ids that stay over time |
//! | refine | [`refine`] | | cells → pixels at source size |
//! | publish | [`publish`] | `hsg-publish` | slot → files, measurements |
//!
//! The compute stages of a frame run one after the other ([`Processor`]) on a thread of the stream's pool (`hsg-math-N`), of
//! which each stage uses all; the thread that began the stream (`hsg-compute`) waits for its end. Capture of the next and
//! publishing of the last frame go on meanwhile. No thread begins or ends with a frame.
//!
//! **On a GPU.** Where TensorRT runs the networks, preprocess to group and refine run there too, as one chain (`device.rs`,
//! `backend/tensorrt/frame.rs`); label and associate go on here meanwhile.
//!
//! **Queues.** [`slot`]: a fixed number of slots goes round through three bounded queues (free, ready, done), so memory
//! is bounded, and the slots' buffers and those of the stages are kept from frame to frame. What a library makes anew
//! for every frame is let go with it: a decoded picture (image folders), the tensors of a network's run (`cpu.rs`),
//! the state of a PNG encoder.
//!
//! **Drop policy.** Files wait for each other: nothing is lost. With `--realtime` (and on live sources) capture never
//! waits: a new frame takes the place of the oldest one that nobody has begun, which is counted as dropped.
//!
//! **Deadline.** With `--deadline-millis` frames that come late are computed with less care, step by step
//! ([`degrade::LADDER`]); each frame says at which step.
//!
//! **Several sources** run side by side as pipelines of their own, which share one [`Deployment`]. Those
//! in real time take [`turns`] at its engine, one frame at a time, and a frame that waited makes way for a newer one. Where their
//! stages run on a GPU they run the embedding network together instead (`backend/tensorrt/batch.rs`), and nobody waits for
//! another's whole frame.
//!
//! **Live sources keep going** ([`SourceInfo::is_live`](crate::source::SourceInfo::is_live)). A frame that the network or a
//! stage refuses is counted as skipped, and the stages start afresh; files that cannot be written (a full disk) are tried
//! again every half second, and what was not saved is counted. Both are said once, not per frame. With files either ends
//! the run, because nobody wants the rest of a result. A GPU that is lost to the process ends live runs, too: whoever watches
//! over hsg has to start it again.
//!
//! **End.** The source's end, `--frames`, a stop request ([`Control`]) or an error. Each closes the queues behind it;
//! frames that were begun are finished and published, sinks are finished in any case.

pub mod associate;
mod capture;
pub mod degrade;
mod deployment;
#[cfg(feature = "tensorrt")]
mod device;
#[cfg(not(feature = "tensorrt"))]
#[path = "device_absent.rs"]
mod device;
pub mod embed;
pub mod group;
mod kept_votes;
pub mod label;
pub mod mask;
pub mod names;
mod processor;
pub mod publish;
pub mod refine;
pub mod segment;
pub mod slot;
pub mod smooth;
pub mod stats;
pub mod summary;
pub mod turns;
pub mod unlike;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use deployment::{Deployment, DeploymentSpec, label_space_with};
pub use kept_votes::MIN_KEPT_SIMILARITY;
pub use processor::{BankSearch, Placement, Processor, ProcessorSpec};
pub use refine::Resolution;

use crate::backend::{BackendError, BackendErrorKind};
use crate::error::PipelineError;
use crate::source::Source;
use capture::{CaptureReport, Pace};
use publish::{Measurements, Sink};
use slot::{BoundedQueue, FrameSlot};
use turns::Turns;

/// Most levels a model may have, base segments included (the paper uses 5).
pub const MAX_LEVELS: usize = 16;

/// Slots of one pipeline: one being captured, one ready, one being computed, one done, one being published.
const NUM_SLOTS: usize = 5;

/// Requests to stop: one flag of the whole program (signals), one of this source.
#[derive(Clone, Debug, Default)]
pub struct Control {
    program: Arc<AtomicBool>,
    source: Arc<AtomicBool>,
}

impl Control {
    /// Stops when `program` becomes true.
    pub fn new(program: Arc<AtomicBool>) -> Self {
        Self { program, source: Arc::default() }
    }

    /// Stops this source alone.
    pub fn stop_source(&self) {
        self.source.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    pub fn stopped(&self) -> bool {
        self.source.load(Ordering::Relaxed) || self.interrupted()
    }

    /// Whether the whole program was asked to stop.
    pub fn interrupted(&self) -> bool {
        self.program.load(Ordering::Relaxed)
    }
}

/// Counts that other threads may watch.
#[derive(Debug, Default)]
pub struct Progress {
    /// Frames published.
    pub frames: AtomicU64,
    /// Frames dropped because a newer one was there.
    pub dropped: AtomicU64,
    /// Inputs that could not be read.
    pub skipped: AtomicU64,
    /// Times that a lost source came back.
    pub reconnects: AtomicU64,
}

/// The queue of frames that were captured and not begun.
pub type Ready = BoundedQueue<Box<FrameSlot>>;

/// The compute stages as the pipeline sees them: [`Processor`], or in tests something that fails on demand.
pub trait Compute: Send {
    /// Segments the frame of a slot.
    ///
    /// # Errors
    /// When the frame is refused or the network fails.
    fn process(&mut self, slot: &mut FrameSlot) -> Result<(), PipelineError>;

    /// The same, while further frames may be waiting in `ready`: what can be done for the next one meanwhile may be done.
    ///
    /// # Errors
    /// As [`Compute::process`].
    fn process_with(&mut self, slot: &mut FrameSlot, _ready: &Ready) -> Result<(), PipelineError> {
        self.process(slot)
    }

    /// Gets ready for the next frame after an error.
    fn recover(&mut self);

    /// The queue of the streams that share an engine; none = nobody to share with.
    fn turns(&self) -> Option<Arc<Turns>> {
        None
    }

    /// The threads that [`Compute::process`] works on: frames are computed on one of them, because handing every frame over
    /// from outside costs memory (a block of rayon's queue per 63 frames) and waking up. None = on the calling thread.
    fn pool(&self) -> Option<Arc<rayon::ThreadPool>> {
        None
    }
}

impl Compute for Processor {
    fn process(&mut self, slot: &mut FrameSlot) -> Result<(), PipelineError> {
        Self::process(self, slot)
    }

    fn process_with(&mut self, slot: &mut FrameSlot, ready: &Ready) -> Result<(), PipelineError> {
        Self::process_with(self, slot, Some(ready))
    }

    fn recover(&mut self) {
        Self::recover(self);
    }

    fn turns(&self) -> Option<Arc<Turns>> {
        // Taking turns, streams would never meet to run the network together.
        (!self.is_batched()).then(|| Arc::clone(self.deployment().turns()))
    }

    fn pool(&self) -> Option<Arc<rayon::ThreadPool>> {
        Some(Arc::clone(Self::pool(self)))
    }
}

/// One source and what to do with it.
#[derive(Clone, Debug, Default)]
pub struct PipelineSpec {
    /// Name of the stream.
    pub name: String,
    /// Stop after this many published frames.
    pub max_frames: Option<u64>,
    /// Play at this rate and drop what is too late, hertz; none = as fast as possible, nothing dropped.
    pub realtime_hz: Option<f64>,
}

/// How a source ended.
#[derive(Clone, Debug)]
pub struct PipelineReport {
    /// What was measured.
    pub measured: Measurements,
    /// Frames dropped.
    pub dropped: u64,
    /// Inputs that could not be read.
    pub skipped: u64,
    /// Times that a lost source came back.
    pub reconnects: u64,
    /// Whether the source is live: it has no end, and what goes wrong with it is counted only.
    pub live: bool,
    /// (promised, had): the container promised more frames than it had.
    pub cut_short: Option<(u64, u64)>,
    /// Whether the run was stopped from outside before its end.
    pub interrupted: bool,
    /// From start to end, seconds.
    pub seconds: f64,
}

impl PipelineReport {
    /// Whether all inputs were read and no stated limit was missed.
    pub fn complete(&self) -> bool {
        (self.live || self.skipped == 0)
            && self.cut_short.is_none()
            && self.measured.limit.is_none()
            && self.measured.unsaved == 0
    }
}

/// Runs one source to its end: capture and publish on threads of their own, compute on one of the processor's own, for
/// which the calling thread waits.
///
/// # Errors
/// The first error in the order compute, publish, capture; [`PipelineError::NoFrame`] when the source had no frame.
pub fn run(
    source: &mut dyn Source,
    processor: &mut dyn Compute,
    sink: &mut dyn Sink,
    spec: &PipelineSpec,
    control: &Control,
    progress: &Progress,
) -> Result<PipelineReport, PipelineError> {
    let start = Instant::now();
    let (free, ready, done) = (BoundedQueue::new(NUM_SLOTS), BoundedQueue::new(1), BoundedQueue::new(1));
    for _ in 0..NUM_SLOTS {
        let mut slot = Box::<FrameSlot>::default();
        slot.output.stream.clone_from(&spec.name);
        // The queue has room for all slots and is open.
        let _ = free.push(slot);
    }
    let source_is_live = source.info().is_live;
    let pace = match spec.realtime_hz {
        _ if source_is_live => Pace::Live,
        None => Pace::Wait,
        Some(rate_hz) if rate_hz > 0.0 && rate_hz.is_finite() => Pace::RealTime(rate_hz),
        Some(rate_hz) => {
            let reason = format!("a rate of {rate_hz} Hz: expected a positive number");
            return Err(PipelineError::Settings { name: spec.name.clone(), reason });
        }
    };
    let timing = Timing { real_time: pace != Pace::Wait, live: source_is_live };
    let (computed, published, captured) = std::thread::scope(|scope| {
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let capture = thread("hsg-capture")
            .spawn_scoped(scope, || capture::run(source, pace, spec.max_frames, &free, &ready, control, progress));
        let publish = thread("hsg-publish")
            .spawn_scoped(scope, || publish::run(sink, timing, spec.max_frames, &done, &free, control, progress));
        let computed = if capture.is_ok() && publish.is_ok() {
            let pool = processor.pool();
            let mut compute = || compute(processor, timing, &free, &ready, &done, control, progress);
            match pool {
                Some(pool) => pool.install(compute),
                None => compute(),
            }
        } else {
            Ok(())
        };
        for queue in [&free, &ready, &done] {
            queue.close();
        }
        let stopped = |thread| PipelineError::Thread { name: spec.name.clone(), thread };
        let captured = capture
            .map_err(|source| PipelineError::Spawn { source })
            .and_then(|handle| handle.join().unwrap_or_else(|_| Err(stopped("hsg-capture"))));
        let published = publish
            .map_err(|source| PipelineError::Spawn { source })
            .and_then(|handle| handle.join().unwrap_or_else(|_| Err(stopped("hsg-publish"))));
        (computed, published, captured)
    });
    computed?;
    let measured = published?;
    let CaptureReport { cut_short, first_skip, at_end, .. } = captured?;
    let skipped = progress.skipped.load(Ordering::Relaxed);
    let enough = spec.max_frames.is_some_and(|max| measured.frames >= max);
    // A live source has no end of its own: being stopped is it.
    let interrupted = control.interrupted() && !at_end && !enough && !source_is_live;
    // A source whose first frame did not fit a limit is not an empty one.
    if measured.frames == 0 && at_end && measured.limit.is_none() {
        let detail = match (&first_skip, cut_short) {
            (Some(reason), _) => reason.clone(),
            (None, Some((promised, _))) => format!("{promised} were promised or begun, and none is whole"),
            (None, None) => "it is empty".to_owned(),
        };
        return Err(PipelineError::NoFrame { name: spec.name.clone(), detail });
    }
    let dropped = progress.dropped.load(Ordering::Relaxed);
    Ok(PipelineReport {
        measured,
        dropped,
        skipped,
        reconnects: progress.reconnects.load(Ordering::Relaxed),
        live: source_is_live,
        cut_short,
        interrupted,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// What the clock means for a source.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// Frames come at their own rate, and latency counts from then.
    real_time: bool,
    /// The source is live: the run outlives errors of single frames.
    live: bool,
}

/// Shortest and longest pause after a frame of a live source that failed. Frames that come meanwhile are dropped, the
/// newest is tried next.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

fn compute(
    processor: &mut dyn Compute,
    timing: Timing,
    free: &BoundedQueue<Box<FrameSlot>>,
    ready: &BoundedQueue<Box<FrameSlot>>,
    done: &BoundedQueue<Box<FrameSlot>>,
    control: &Control,
    progress: &Progress,
) -> Result<(), PipelineError> {
    // However this ends, capture must not wait for a place, and publish must see the end.
    let (_close_ready, _close_done) = (slot::CloseOnDrop(ready), slot::CloseOnDrop(done));
    // Frames that failed since the last one that did not.
    let mut failed = 0u64;
    let mut pause = RETRY.0;
    let turns = processor.turns().filter(|_| timing.real_time);
    while let Some(mut slot) = ready.pop() {
        let turn = turns.as_ref().map(|turns| turns.wait());
        if timing.real_time
            && let Some(newer) = ready.try_pop()
        {
            progress.dropped.fetch_add(1, Ordering::Relaxed);
            let _ = free.push(std::mem::replace(&mut slot, newer));
        }
        slot.started = Instant::now();
        slot.counted_from = if timing.real_time { slot.captured } else { slot.started };
        let processed = processor.process_with(&mut slot, ready);
        drop(turn);
        match processed {
            Ok(()) => {
                if failed > 0 {
                    log::warn!("`{}`: frames are segmented again; {failed} were not", slot.output.stream);
                    (failed, pause) = (0, RETRY.0);
                }
            }
            Err(error) if timing.live && !is_for_ever(&error) => {
                if failed == 0 {
                    log::error!("{error}; going on with the next frames");
                } else {
                    log::debug!("{error}");
                }
                failed += 1;
                progress.skipped.fetch_add(1, Ordering::Relaxed);
                let _ = free.push(slot);
                processor.recover();
                if !capture::sleep_until(Instant::now() + pause, control) {
                    break;
                }
                pause = (pause * 2).min(RETRY.1);
                continue;
            }
            Err(error) => return Err(error),
        }
        if done.push(slot).is_err() {
            // Publish has ended and says why.
            break;
        }
    }
    Ok(())
}

/// Whether no frame can be computed any more, whatever is tried: only another process gets a lost GPU back.
fn is_for_ever(error: &PipelineError) -> bool {
    matches!(error, PipelineError::Backend(error) if error.kind() == BackendErrorKind::DeviceLost)
}

/// Why a stage refuses a frame; [`StageError::in_frame`] adds which frame.
#[derive(Debug)]
pub enum StageError {
    /// The network failed; the message names its file.
    Backend(BackendError),
    /// Anything else.
    Stage {
        /// The stage.
        stage: &'static str,
        /// Why.
        reason: String,
    },
}

impl StageError {
    fn new(stage: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Stage { stage, reason: reason.to_string() }
    }

    /// For `map_err`: an error of this stage.
    fn at<E: std::fmt::Display>(stage: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::new(stage, error)
    }

    /// The error with its frame.
    pub fn in_frame(self, stream: &str, index: u64) -> PipelineError {
        match self {
            Self::Backend(error) => PipelineError::Backend(error),
            Self::Stage { stage, reason } => PipelineError::Stage { stage, stream: stream.to_owned(), index, reason },
        }
    }
}

impl From<BackendError> for StageError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

/// Nanoseconds since `start`.
fn nanos_since(start: Instant) -> u64 {
    nanos(start.elapsed())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
