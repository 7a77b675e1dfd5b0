//! Where the time of a step goes.

use std::time::{Duration, Instant};

use crate::device::Compute;

/// A part of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the loader.
    Data,
    /// Backbone and head, forwards.
    Forward,
    /// Normalisation, k-means and splitting.
    Kmeans,
    /// Segment features and clustering transformers, forwards.
    Transformers,
    /// L_f on edge segments and groups, forwards.
    PixelSegmentLosses,
    /// L_g, forwards.
    GroupingLosses,
    /// Gradients of everything.
    Backward,
    /// Update of the parameters.
    Optimiser,
}

impl Stage {
    /// All stages in the order of a step.
    pub const ALL: [Stage; 8] = [
        Stage::Data,
        Stage::Forward,
        Stage::Kmeans,
        Stage::Transformers,
        Stage::PixelSegmentLosses,
        Stage::GroupingLosses,
        Stage::Backward,
        Stage::Optimiser,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Data => "data",
            Stage::Forward => "forward",
            Stage::Kmeans => "k-means",
            Stage::Transformers => "transformers",
            Stage::PixelSegmentLosses => "L_f",
            Stage::GroupingLosses => "L_g",
            Stage::Backward => "backward",
            Stage::Optimiser => "optimiser",
        }
    }
}

/// Collects the durations of the stages of each step.
pub struct Profiler<'a> {
    /// Waited for at every mark, so that a GPU's work counts where it was asked for.
    synchronized: Option<Compute>,
    /// Told of every mark.
    observer: Option<Box<dyn FnMut(Stage) + 'a>>,
    last: Instant,
    current: [Duration; Stage::ALL.len()],
    steps: Vec<[Duration; Stage::ALL.len()]>,
}

impl Default for Profiler<'_> {
    fn default() -> Self {
        Profiler {
            synchronized: None,
            observer: None,
            last: Instant::now(),
            current: Default::default(),
            steps: Vec::new(),
        }
    }
}

impl<'a> Profiler<'a> {
    /// One that waits for the device at every mark: exact parts, at some cost of overlap on a GPU.
    pub fn synchronized(compute: Compute) -> Self {
        Profiler { synchronized: Some(compute), ..Profiler::default() }
    }

    /// One that tells `observer` of every stage that has ended.
    pub fn observed(observer: impl FnMut(Stage) + 'a) -> Self {
        Profiler { observer: Some(Box::new(observer)), ..Profiler::default() }
    }

    /// The next stage starts now.
    pub fn start(&mut self) {
        self.last = Instant::now();
    }

    /// The time since the last mark belongs to `stage`.
    pub fn mark(&mut self, stage: Stage) {
        if let Some(compute) = self.synchronized {
            compute.synchronize();
        }
        if let Some(observer) = &mut self.observer {
            observer(stage);
        }
        let now = Instant::now();
        self.current[stage as usize] += now - self.last;
        self.last = now;
    }

    /// Ends a step: its durations so far. `keep` stores them for [`Profiler::medians_millis`].
    pub fn end_step(&mut self, keep: bool) -> [Duration; Stage::ALL.len()] {
        let step = std::mem::take(&mut self.current);
        if keep {
            self.steps.push(step);
        }
        step
    }

    /// Median over the kept steps of each stage and of the whole step, in milliseconds.
    pub fn medians_millis(&self) -> ([f64; Stage::ALL.len()], f64) {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        let millis = |d: Duration| d.as_secs_f64() * 1e3;
        let stages = std::array::from_fn(|i| median(self.steps.iter().map(|s| millis(s[i])).collect()));
        (stages, median(self.steps.iter().map(|s| millis(s.iter().sum())).collect()))
    }
}
