//! The figures of a stream beside its pictures: written per frame by the publish thread, read once a second by each page. \[F8\]

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use segcore::image::ImageSize;
use segcore::label_space::LabelSpace;
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

/// Figures of one stream.
#[derive(Debug)]
pub(super) struct Figures {
    progress: Arc<Progress>,
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// The last frames, oldest first.
    window: VecDeque<Sample>,
    frames: u64,
    frame_index: u64,
    size: ImageSize,
    degradation_step: u8,
    unsaved: u64,
    /// Mean over all frames.
    distance_to_bank: f64,
    /// Segments with pixels, per level.
    segments: Vec<usize>,
    /// Pixels per train id, in the newest frame.
    class_pixels: [u64; 256],
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    latency_nanos: u64,
    stage_nanos: [u64; 9],
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
        let state = State {
            window: VecDeque::with_capacity(WINDOW_FRAMES),
            frames: 0,
            frame_index: 0,
            size: ImageSize::new(0, 0),
            degradation_step: 0,
            unsaved: 0,
            distance_to_bank: 0.0,
            segments: Vec::with_capacity(MAX_LEVELS + 1),
            class_pixels: [0; 256],
            ended: false,
        };
        Self { progress, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while they hold the lock, so it is in order in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publish thread: one frame more. Allocates nothing.
    pub fn add(&self, frame: &SegmentedFrame, latency_nanos: u64, so_far: &Measurements) {
        let stage_nanos = StageHistograms::in_order(&frame.stage_nanos);
        let sample = Sample { at: Instant::now(), latency_nanos, stage_nanos };
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.window.len() == WINDOW_FRAMES {
            state.window.pop_front();
        }
        state.window.push_back(sample);
        state.frames = so_far.frames;
        state.frame_index = frame.frame.index;
        state.size = frame.size;
        state.degradation_step = frame.degradation_step;
        state.unsaved = so_far.unsaved;
        state.distance_to_bank = so_far.distance_to_bank / so_far.frames.max(1) as f64;
        state.segments.clear();
        let present = |level: &crate::sink::LevelSegments| level.segments.iter().filter(|s| s.present).count();
        state.segments.extend(frame.levels.iter().map(present));
        state.class_pixels.fill(0);
        for segment in frame.levels.first().map_or(&[][..], |level| &level.segments) {
            if let Some(train_id) = segment.train_id {
                state.class_pixels[usize::from(train_id)] += u64::from(segment.area);
            }
        }
    }

    /// Publish thread: there are no further frames.
    pub fn end(&self) {
        self.lock().ended = true;
    }

    /// For a page. `label_space`: none without a bank.
    pub fn read(&self, label_space: Option<&LabelSpace>) -> StreamFigures {
        let state = self.lock().clone();
        let now = Instant::now();
        let recent: Vec<&Sample> =
            state.window.iter().filter(|sample| now.duration_since(sample.at) <= WINDOW).collect();
        let since_frame = state.window.back().map(|sample| now.duration_since(sample.at).as_secs_f64());
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
        let step = usize::from(state.degradation_step).min(LADDER.len() - 1);
        StreamFigures {
            state: match (state.ended, state.frames) {
                (true, _) => "ended",
                (false, 0) => "waiting",
                _ => "running",
            },
            frames: state.frames,
            frame_index: (state.frames > 0).then_some(state.frame_index),
            size: (state.frames > 0).then_some([state.size.width, state.size.height]),
            seconds_since_frame: since_frame,
            frames_per_second: rate(&recent),
            latency_millis: percentile(0.5).zip(percentile(0.99)).map(|(p50, p99)| Latency { p50, p99 }),
            stages_millis: stages.map(|(index, name)| ((*name).to_owned(), millis(mean(index)).into())).collect(),
            dropped: self.progress.dropped.load(Ordering::Relaxed),
            skipped: self.progress.skipped.load(Ordering::Relaxed),
            reconnects: self.progress.reconnects.load(Ordering::Relaxed),
            unsaved: state.unsaved,
            degradation_step: state.degradation_step,
            gives_up: LADDER[step].gives_up,
            classes: label_space.map_or_else(Vec::new, |space| shares(&state, space)),
            segments: state.segments,
            names_often_wrong: label_space.is_some() && state.distance_to_bank > f64::from(UNLIKE),
        }
    }
}

/// Frames a second between the first and the last of them.
fn rate(recent: &[&Sample]) -> f64 {
    match recent {
        [first, .., last] if last.at > first.at => {
            (recent.len() - 1) as f64 / last.at.duration_since(first.at).as_secs_f64()
        }
        _ => 0.0,
    }
}

fn millis(nanos: f64) -> f64 {
    nanos / 1e6
}

/// Classes in the newest frame, those with most pixels first.
fn shares(state: &State, space: &LabelSpace) -> Vec<ClassShare> {
    let all = state.size.num_pixels().max(1) as f64;
    let pixels = |train_id: u8| state.class_pixels[usize::from(train_id)];
    let mut present: Vec<_> = space.classes.iter().filter(|class| pixels(class.train_id.0) > 0).collect();
    present.sort_by_key(|class| std::cmp::Reverse(pixels(class.train_id.0)));
    let share = |class: &&segcore::label_space::Class| {
        let [red, green, blue] = class.color;
        ClassShare {
            name: class.name.clone(),
            color: format!("#{red:02x}{green:02x}{blue:02x}"),
            share: pixels(class.train_id.0) as f64 / all,
        }
    };
    present.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::small_frame;

    #[test]
    fn figures_are_those_of_the_last_frames() {
        let figures = Figures::new(Arc::default());
        let space = LabelSpace::camvid_11();
        let none = figures.read(Some(&space));
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
        let read = figures.read(Some(&space));
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
        assert!(read.names_often_wrong && !figures.read(None).names_often_wrong);
        assert!(figures.read(None).classes.is_empty());
        figures.end();
        assert_eq!(figures.read(None).state, "ended");
        assert_eq!(figures.lock().window.len(), WINDOW_FRAMES);
    }
}
