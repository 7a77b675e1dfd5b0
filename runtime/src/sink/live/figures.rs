//! The figures of a stream beside its pictures: written per frame by the publish thread, read once a second by each page. \[F8\]
//!
//! They are atomics, so that the publish thread never waits for a reader. One who reads while a frame is added may see some
//! figures of that frame beside some of the one before; the number of frames is written last, so once it counts a frame, all
//! figures are of that frame or a later one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use segcore::label_space::{Class, LabelSpace};
use serde::Serialize;

use crate::pipeline::degrade::LADDER;
use crate::pipeline::publish::{Measurements, StageHistograms};
use crate::pipeline::unlike::UNLIKE;
use crate::pipeline::{MAX_LEVELS, Progress};
use crate::sink::SegmentedFrame;

/// Rates and times are those of the last frames: so many at most …
const WINDOW_FRAMES: usize = 256;
/// … and none older than this.
const WINDOW: Duration = Duration::from_secs(10);
/// Samples that are kept: a reader has the time of so many frames less [`WINDOW_FRAMES`] before one that it reads is overwritten.
const SAMPLES: usize = 2 * WINDOW_FRAMES;

/// Figures of one stream.
#[derive(Debug)]
pub(super) struct Figures {
    progress: Arc<Progress>,
    start: Instant,
    /// The last frames, that of frame n at n modulo [`SAMPLES`].
    samples: Box<[SharedSample]>,
    frames: AtomicU64,
    frame_index: AtomicU64,
    width: AtomicUsize,
    height: AtomicUsize,
    degradation_step: AtomicU8,
    unsaved: AtomicU64,
    /// Mean over all frames; bits of an `f64`.
    distance_to_bank: AtomicU64,
    num_levels: AtomicUsize,
    /// Segments with pixels, per level.
    segments: [AtomicUsize; MAX_LEVELS + 1],
    /// Pixels per train id, in the newest frame.
    class_pixels: [AtomicU32; 256],
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct SharedSample {
    /// Since the figures' start.
    at_nanos: AtomicU64,
    latency_nanos: AtomicU64,
    stage_nanos: [AtomicU64; 9],
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the figures' start.
    at: Duration,
    latency_nanos: u64,
    stage_nanos: [u64; 9],
}

impl SharedSample {
    fn set(&self, sample: &Sample) {
        self.at_nanos.store(sample.at.as_nanos() as u64, Ordering::Relaxed);
        self.latency_nanos.store(sample.latency_nanos, Ordering::Relaxed);
        for (to, from) in self.stage_nanos.iter().zip(sample.stage_nanos) {
            to.store(from, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Sample {
        Sample {
            at: Duration::from_nanos(self.at_nanos.load(Ordering::Relaxed)),
            latency_nanos: self.latency_nanos.load(Ordering::Relaxed),
            stage_nanos: std::array::from_fn(|stage| self.stage_nanos[stage].load(Ordering::Relaxed)),
        }
    }
}

/// The figures of one stream as `/status.json` has them; `docs/live.md` says what they are.
#[derive(Debug, Serialize)]
pub(super) struct StreamFigures {
    state: &'static str,
    frames: u64,
    frame_index: Option<u64>,
    size: Option<[usize; 2]>,
    seconds_since_frame: Option<f64>,
    frames_per_second: f64,
    latency_millis: Option<Latency>,
    /// Means, in the order of the stages.
    stages_millis: serde_json::Map<String, serde_json::Value>,
    dropped: u64,
    skipped: u64,
    reconnects: u64,
    unsaved: u64,
    degradation_step: u8,
    gives_up: &'static str,
    segments: Vec<usize>,
    classes: Vec<ClassShare>,
    names_often_wrong: bool,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

#[derive(Debug, Serialize)]
struct ClassShare {
    name: String,
    color: String,
    share: f64,
}

impl Figures {
    /// Nothing yet. `progress`: what the other threads of the stream count.
    pub fn new(progress: Arc<Progress>) -> Self {
        Self {
            progress,
            start: Instant::now(),
            samples: (0..SAMPLES).map(|_| SharedSample::default()).collect(),
            frames: AtomicU64::new(0),
            frame_index: AtomicU64::new(0),
            width: AtomicUsize::new(0),
            height: AtomicUsize::new(0),
            degradation_step: AtomicU8::new(0),
            unsaved: AtomicU64::new(0),
            distance_to_bank: AtomicU64::new(0),
            num_levels: AtomicUsize::new(0),
            segments: [const { AtomicUsize::new(0) }; MAX_LEVELS + 1],
            class_pixels: [const { AtomicU32::new(0) }; 256],
            ended: AtomicBool::new(false),
        }
    }

    fn sample(&self, frame: u64) -> &SharedSample {
        &self.samples[(frame % SAMPLES as u64) as usize]
    }

    /// Publish thread: one frame more. Allocates nothing, and waits for nobody.
    pub fn add(&self, frame: &SegmentedFrame, latency_nanos: u64, so_far: &Measurements) {
        let stage_nanos = StageHistograms::in_order(&frame.stage_nanos);
        self.sample(so_far.frames).set(&Sample { at: self.start.elapsed(), latency_nanos, stage_nanos });
        self.frame_index.store(frame.frame.index, Ordering::Relaxed);
        self.width.store(frame.size.width, Ordering::Relaxed);
        self.height.store(frame.size.height, Ordering::Relaxed);
        self.degradation_step.store(frame.degradation_step, Ordering::Relaxed);
        self.unsaved.store(so_far.unsaved, Ordering::Relaxed);
        let distance = so_far.distance_to_bank / so_far.frames.max(1) as f64;
        self.distance_to_bank.store(distance.to_bits(), Ordering::Relaxed);
        self.num_levels.store(frame.levels.len().min(self.segments.len()), Ordering::Relaxed);
        for (to, level) in self.segments.iter().zip(&frame.levels) {
            to.store(level.segments.iter().filter(|segment| segment.present).count(), Ordering::Relaxed);
        }
        let mut class_pixels = [0_u32; 256];
        for segment in frame.levels.first().map_or(&[][..], |level| &level.segments) {
            if let Some(train_id) = segment.train_id {
                class_pixels[usize::from(train_id)] += segment.area;
            }
        }
        for (to, pixels) in self.class_pixels.iter().zip(class_pixels) {
            to.store(pixels, Ordering::Relaxed);
        }
        // Last: see the head of this file.
        self.frames.store(so_far.frames, Ordering::Release);
    }

    /// Publish thread: there are no further frames.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// For a page. `label_space`: none when nothing has a class. `has_bank`: classes that a person named say nothing of the
    /// street that the model knows.
    pub fn read(&self, label_space: Option<&LabelSpace>, has_bank: bool) -> StreamFigures {
        let ended = self.ended.load(Ordering::Acquire);
        let frames = self.frames.load(Ordering::Acquire);
        let now = self.start.elapsed();
        // Frames count from 1.
        let newest = frames.saturating_sub(WINDOW_FRAMES as u64) + 1..=frames;
        let mut recent: Vec<Sample> = newest.map(|frame| self.sample(frame).get()).collect();
        let since_frame = recent.last().map(|sample| now.saturating_sub(sample.at).as_secs_f64());
        recent.retain(|sample| now.saturating_sub(sample.at) <= WINDOW);
        let mut latencies: Vec<u64> = recent.iter().map(|sample| sample.latency_nanos).collect();
        latencies.sort_unstable();
        let percentile = |share: f64| {
            let rank = (share * latencies.len() as f64).ceil().max(1.0) as usize;
            latencies.get(rank - 1).map(|nanos| millis(*nanos as f64))
        };
        let mean = |stage: usize| {
            recent.iter().map(|sample| sample.stage_nanos[stage]).sum::<u64>() as f64 / recent.len().max(1) as f64
        };
        let stages = StageHistograms::NAMES.iter().enumerate();
        let size = [self.width.load(Ordering::Relaxed), self.height.load(Ordering::Relaxed)];
        let degradation_step = self.degradation_step.load(Ordering::Relaxed);
        let num_levels = self.num_levels.load(Ordering::Relaxed);
        let distance_to_bank = f64::from_bits(self.distance_to_bank.load(Ordering::Relaxed));
        StreamFigures {
            state: match (ended, frames) {
                (true, _) => "ended",
                (false, 0) => "waiting",
                _ => "running",
            },
            frames,
            frame_index: (frames > 0).then(|| self.frame_index.load(Ordering::Relaxed)),
            size: (frames > 0).then_some(size),
            seconds_since_frame: since_frame,
            frames_per_second: rate(&recent),
            latency_millis: percentile(0.5).zip(percentile(0.99)).map(|(p50, p99)| Latency { p50, p99 }),
            stages_millis: stages.map(|(index, name)| ((*name).to_owned(), millis(mean(index)).into())).collect(),
            dropped: self.progress.dropped.load(Ordering::Relaxed),
            skipped: self.progress.skipped.load(Ordering::Relaxed),
            reconnects: self.progress.reconnects.load(Ordering::Relaxed),
            unsaved: self.unsaved.load(Ordering::Relaxed),
            degradation_step,
            gives_up: LADDER[usize::from(degradation_step).min(LADDER.len() - 1)].gives_up,
            segments: self.segments.iter().take(num_levels).map(|count| count.load(Ordering::Relaxed)).collect(),
            classes: label_space.map_or_else(Vec::new, |space| self.shares(space, size)),
            names_often_wrong: has_bank && distance_to_bank > f64::from(UNLIKE),
        }
    }

    /// Classes in the newest frame, those with most pixels first.
    fn shares(&self, space: &LabelSpace, [width, height]: [usize; 2]) -> Vec<ClassShare> {
        let all = (width * height).max(1) as f64;
        let pixels =
            |class: &Class| u64::from(self.class_pixels[usize::from(class.train_id.0)].load(Ordering::Relaxed));
        // Read once each: they may change meanwhile.
        let mut present: Vec<(u64, &Class)> = space.classes.iter().map(|class| (pixels(class), class)).collect();
        present.retain(|(pixels, _)| *pixels > 0);
        present.sort_by_key(|(pixels, _)| std::cmp::Reverse(*pixels));
        let share = |(pixels, class): &(u64, &Class)| {
            let [red, green, blue] = class.color;
            ClassShare {
                name: class.name.clone(),
                color: format!("#{red:02x}{green:02x}{blue:02x}"),
                share: *pixels as f64 / all,
            }
        };
        present.iter().map(share).collect()
    }
}

/// Frames a second between the first and the last of them.
fn rate(recent: &[Sample]) -> f64 {
    match recent {
        [first, .., last] if last.at > first.at => (recent.len() - 1) as f64 / (last.at - first.at).as_secs_f64(),
        _ => 0.0,
    }
}

fn millis(nanos: f64) -> f64 {
    nanos / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::small_frame;

    #[test]
    fn figures_are_those_of_the_last_frames() {
        let figures = Figures::new(Arc::default());
        let space = LabelSpace::camvid_11();
        let none = figures.read(Some(&space), true);
        assert_eq!((none.state, none.frames, none.seconds_since_frame), ("waiting", 0, None));
        assert!(none.latency_millis.is_none() && none.classes.is_empty());
        let mut frame = small_frame();
        frame.degradation_step = 1;
        frame.stage_nanos.embed = 3_000_000;
        let mut so_far = Measurements { unsaved: 2, ..Measurements::default() };
        for number in 0..WINDOW_FRAMES as u64 + 100 {
            frame.frame.index = number * 2;
            so_far.frames = number + 1;
            so_far.distance_to_bank += 0.3;
            figures.add(&frame, (number % 100 + 1) * 1_000_000, &so_far);
        }
        figures.progress.dropped.store(7, Ordering::Relaxed);
        let read = figures.read(Some(&space), true);
        let json = serde_json::to_value(&read).unwrap();
        assert_eq!((read.state, read.frames, read.frame_index), ("running", 356, Some(710)));
        assert_eq!(json["size"], serde_json::json!([6, 4]));
        assert_eq!(json["stages_millis"]["embed"], 3.0);
        assert_eq!(json["stages_millis"].as_object().unwrap().len(), 9);
        assert_eq!((read.dropped, read.unsaved, read.gives_up), (7, 2, LADDER[1].gives_up));
        assert_eq!(read.segments, [3, 2, 1]);
        let classes: Vec<(&str, f64)> = read.classes.iter().map(|c| (c.name.as_str(), c.share * 24.0)).collect();
        assert_eq!(classes.len(), 2, "{classes:?}");
        assert!(classes[0].1 > classes[1].1 && (classes[0].1 - 9.0).abs() < 1e-9, "{classes:?}");
        assert!(read.names_often_wrong && !figures.read(Some(&space), false).names_often_wrong);
        assert!(figures.read(None, false).classes.is_empty());
        figures.end();
        assert_eq!(figures.read(None, false).state, "ended");
    }
}
