//! The measures of each level of the hierarchy in `hsg eval`, at source size.

use datasets::Annotation;
use evaluation::{EvaluationError, LevelCovering, MIN_REGION_PIXELS, NfCovering, Overlap, RegionF, TruthRegions};
use runtime::sink::SegmentedFrame;
use segcore::label_space::{IGNORE, LabelSpace};
use serde::Serialize;

/// One level in the evaluation JSON.
#[derive(Default, Serialize)]
pub(super) struct LevelEvaluation {
    pub(super) level: usize,
    pub(super) covering: Option<f64>,
    pub(super) nf_covering: Option<f64>,
    pub(super) region_f: Option<f64>,
    flicker: Option<f64>,
    id_stability: Option<f64>,
    /// Mean number of segments with pixels.
    pub(super) segments_mean: f64,
}

/// Sums over frames.
pub(super) struct LevelMeasures {
    levels: Vec<Sums>,
    /// Thing or not, by train id.
    is_thing: [bool; 256],
    frames: u64,
}

#[derive(Clone, Default)]
struct Sums {
    covering: LevelCovering,
    nf_covering: NfCovering,
    region_f: RegionF,
    segments: u64,
}

impl LevelMeasures {
    /// Nothing seen yet; `label_space` is that of the annotations.
    pub(super) fn new(num_levels: usize, label_space: &LabelSpace) -> Self {
        let mut is_thing = [false; 256];
        for class in &label_space.classes {
            is_thing[usize::from(class.train_id.0)] = class.thing;
        }
        Self { levels: vec![Sums::default(); num_levels], is_thing, frames: 0 }
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// When frame and annotation are of different sizes.
    pub(super) fn update(&mut self, frame: &SegmentedFrame, truth: &Annotation) -> Result<(), EvaluationError> {
        let regions = TruthRegions::new(truth.size.height, truth.size.width, &truth.train_ids, IGNORE)?;
        let is_foreground = regions.choose(MIN_REGION_PIXELS, |train_id| self.is_thing[usize::from(train_id)]);
        let is_large = regions.choose(MIN_REGION_PIXELS, |_| true);
        let num_slots = frame.levels.first().map_or(0, |level| level.segments.len());
        // Pixels are counted once: nesting is strict, so a coarser level is the finer one's table put together.
        let mut overlap = Overlap::of_labels(&frame.slots, num_slots, &regions)?;
        let mut finer: Option<&[u16]> = None;
        for (sums, level) in self.levels.iter_mut().zip(&frame.levels) {
            if let Some(parents) = finer.replace(&level.parents) {
                overlap = overlap.grouped(parents, level.segments.len());
            }
            sums.covering.update(&overlap);
            sums.nf_covering.update(&overlap, &is_foreground)?;
            sums.region_f.update(&overlap, &is_large)?;
            sums.segments += level.segments.iter().filter(|segment| segment.present).count() as u64;
        }
        self.frames += 1;
        Ok(())
    }

    /// The figures over all frames so far, finest level first.
    pub(super) fn result(&self) -> Vec<LevelEvaluation> {
        let figures = |(level, sums): (usize, &Sums)| LevelEvaluation {
            level,
            covering: sums.covering.result(),
            nf_covering: sums.nf_covering.result(),
            region_f: sums.region_f.result(),
            segments_mean: sums.segments as f64 / self.frames.max(1) as f64,
            ..LevelEvaluation::default()
        };
        self.levels.iter().enumerate().map(figures).collect()
    }
}
