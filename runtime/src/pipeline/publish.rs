//! \[F8\] Slots → sinks, on the thread `hsg-publish`; measures what a run reports about itself.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::slot::{BoundedQueue, CloseOnDrop, FrameSlot};
use super::stats::{Histogram, rss_bytes};
use super::unlike::distance_to_bank;
use super::{Control, Progress, Timing, nanos_since};
use crate::backend::tensorrt::MAX_BATCH;
use crate::error::PipelineError;
use crate::sink::{FileSinks, SegmentedFrame, SinkError, StageNanos};

/// Takes the segmented frames of one source.
pub trait Sink: Send {
    /// Shows a frame to whoever looks on (subscribers, a live page), before it is written. Called for every frame, also
    /// while writing fails. Must not wait for those who look on unless nothing of the run may be lost.
    ///
    /// Break = nobody needs further frames: the run ends in good order with this one.
    fn show(&mut self, _: &SegmentedFrame) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// When it cannot be written; nothing half-written is left.
    fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError>;

    /// Completes what was begun. Called at the end of every run, also of an interrupted one.
    ///
    /// # Errors
    /// When it cannot be completed.
    fn finish(&mut self) -> Result<(), SinkError>;
}

impl Sink for FileSinks {
    fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        FileSinks::write(self, frame)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        FileSinks::finish(self)
    }
}

/// Saves nothing (`--save none`, `hsg bench`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Sink for Discard {
    fn write(&mut self, _: &SegmentedFrame) -> Result<(), SinkError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Frames after which memory counts as settled.
pub const WARM_UP_FRAMES: u64 = 10;

/// Pause between two attempts to write after one failed: short, so that little is lost when there is room again; long
/// enough that a full disk is not hammered.
const WRITE_RETRY: Duration = Duration::from_millis(500);

/// What a run measured.
#[derive(Clone, Debug, Default)]
pub struct Measurements {
    /// Frames published.
    pub frames: u64,
    /// See [`super::summary::Summary::latency_millis`].
    pub latency: Histogram,
    /// Per stage.
    pub stages: StageHistograms,
    /// Inside the two networks.
    pub network: Histogram,
    /// Σ |latency − latency of the frame before|, nanoseconds.
    pub jitter_sum_nanos: f64,
    /// Base segments that were looked up in the bank.
    pub looked_up: u64,
    /// Those that were looked up on a GPU.
    pub looked_up_on_device: u64,
    /// Base segments that were named.
    pub named: u64,
    /// Σ [`distance_to_bank`] of the frames.
    pub distance_to_bank: f64,
    /// Frames whose pixels were computed on a GPU.
    pub on_device: u64,
    /// Those of them that were started as a CUDA graph.
    pub graphs: u64,
    /// Those of them that were uploaded while the frame before was worked on.
    pub uploaded_ahead: u64,
    /// Those of them that no CPU converted to RGB.
    pub as_they_came: u64,
    /// Those of them that were embedded together with so many frames less one of other streams, from 0 on.
    pub batches: [u64; MAX_BATCH],
    /// Per level, Σ segments present.
    pub segments: Vec<u64>,
    /// Frames at each step of [`super::degrade::LADDER`], and the time from the frame before to them, nanoseconds.
    pub degradation: [(u64, u64); super::degrade::LADDER.len()],
    /// The stated limit that ended the run before its time.
    pub limit: Option<String>,
    /// Frames of a live source that were published but could not be saved.
    pub unsaved: u64,
    /// Resident set after [`WARM_UP_FRAMES`] frames (or the last one, when there are fewer), bytes.
    pub rss_start_bytes: u64,
    /// Resident set after the last frame, bytes.
    pub rss_end_bytes: u64,
}

/// One histogram per stage.
#[derive(Clone, Debug, Default)]
pub struct StageHistograms {
    /// In the order of [`StageHistograms::NAMES`].
    pub all: [Histogram; 9],
}

impl StageHistograms {
    /// The stages in their order; the words of `summary.json`.
    pub const NAMES: [&'static str; 9] =
        ["capture", "preprocess", "embed", "segment", "group", "label", "associate", "refine", "publish"];

    fn add(&mut self, nanos: &StageNanos) {
        let StageNanos { capture, preprocess, embed, segment, group, label, associate, refine, publish } = *nanos;
        let values = [capture, preprocess, embed, segment, group, label, associate, refine, publish];
        for (histogram, value) in self.all.iter_mut().zip(values) {
            histogram.add(value);
        }
    }
}

pub(super) fn run(
    sink: &mut dyn Sink,
    timing: Timing,
    max_frames: Option<u64>,
    done: &BoundedQueue<Box<FrameSlot>>,
    free: &BoundedQueue<Box<FrameSlot>>,
    control: &Control,
    progress: &Progress,
) -> Result<Measurements, PipelineError> {
    // Whatever ends this stage, capture must not wait for slots, nor compute for a place.
    let (_close_free, _close_done) = (CloseOnDrop(free), CloseOnDrop(done));
    let mut measured = Measurements::default();
    let result = publish_all(sink, timing, max_frames, done, free, control, progress, &mut measured);
    // Also after an error: what was written before stays readable.
    let finished = sink.finish();
    result?;
    finished?;
    measured.rss_end_bytes = rss_bytes();
    if measured.frames < WARM_UP_FRAMES {
        measured.rss_start_bytes = measured.rss_end_bytes;
    }
    Ok(measured)
}

fn publish_all(
    sink: &mut dyn Sink,
    timing: Timing,
    max_frames: Option<u64>,
    done: &BoundedQueue<Box<FrameSlot>>,
    free: &BoundedQueue<Box<FrameSlot>>,
    control: &Control,
    progress: &Progress,
    measured: &mut Measurements,
) -> Result<(), PipelineError> {
    let (mut last_publish, mut last_latency) = (0, None);
    // When to try writing again, after it failed.
    let mut retry_at: Option<Instant> = None;
    let mut last_done = Instant::now();
    while let Some(mut slot) = done.pop() {
        let start = Instant::now();
        let output = &mut slot.output;
        output.sequence = measured.frames;
        output.drops = progress.dropped.load(Ordering::Relaxed);
        output.stage_nanos.publish = last_publish;
        // First, so that a slow or full disk keeps nobody from seeing it.
        let has_enough = sink.show(output).is_break();
        let written = match retry_at {
            Some(at) if start < at => {
                measured.unsaved += 1;
                None
            }
            _ => Some(sink.write(output)),
        };
        match written {
            None => {}
            Some(Ok(())) if retry_at.is_some() => {
                log::warn!("`{}`: results are saved again; {} frames were not", output.stream, measured.unsaved);
                retry_at = None;
            }
            Some(Ok(())) => {}
            // A stated limit ends the run in good order: what was written is whole and is reported.
            Some(Err(error)) if error.is_limit() => {
                measured.limit = Some(error.to_string());
                control.stop_source();
                break;
            }
            Some(Err(error)) if timing.live => {
                if retry_at.is_none() {
                    log::error!("{error}; segmenting goes on, saving is tried again");
                }
                measured.unsaved += 1;
                retry_at = Some(Instant::now() + WRITE_RETRY);
            }
            Some(Err(error)) => return Err(error.into()),
        }
        last_publish = nanos_since(start);
        output.stage_nanos.publish = last_publish;

        let latency = nanos_since(slot.counted_from) + if timing.real_time { 0 } else { output.stage_nanos.capture };
        measured.latency.add(latency);
        if let Some(last) = last_latency.replace(latency) {
            measured.jitter_sum_nanos += latency.abs_diff(last) as f64;
        }
        if let Some((frames, time)) = measured.degradation.get_mut(usize::from(output.degradation_step)) {
            *frames += 1;
            *time += nanos_since(last_done);
        }
        last_done = Instant::now();
        measured.stages.add(&output.stage_nanos);
        measured.network.add(slot.network_nanos);
        measured.looked_up += slot.lookups.0 as u64;
        measured.named += slot.lookups.1 as u64;
        measured.distance_to_bank += distance_to_bank(output);
        if slot.looked_up_on_device {
            measured.looked_up_on_device += slot.lookups.0 as u64;
        }
        if let Some(on_device) = slot.on_device {
            measured.on_device += 1;
            measured.graphs += u64::from(on_device.graph);
            measured.uploaded_ahead += u64::from(on_device.uploaded_ahead);
            measured.as_they_came += u64::from(on_device.as_it_came);
            if let Some(frames) = on_device.batch.checked_sub(1).and_then(|others| measured.batches.get_mut(others)) {
                *frames += 1;
            }
        }
        measured.segments.resize(output.levels.len(), 0);
        for (sum, level) in measured.segments.iter_mut().zip(&output.levels) {
            *sum += level.segments.iter().filter(|segment| segment.present).count() as u64;
        }
        measured.frames += 1;
        if measured.frames == WARM_UP_FRAMES {
            measured.rss_start_bytes = rss_bytes();
        }
        progress.frames.fetch_add(1, Ordering::Relaxed);
        if has_enough || max_frames.is_some_and(|max| measured.frames >= max) {
            control.stop_source();
            break;
        }
        // Closed only when this stage ends.
        let _ = free.push(slot);
    }
    Ok(())
}
