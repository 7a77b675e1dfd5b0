//! The measures of each level of the hierarchy in `hsg eval`, at source size.

use evaluation::{
    EvaluationError, Flicker, IdStability, LabelChanges, LevelCovering, NfCovering, Overlap, RegionF, TruthRegions,
};
use runtime::sink::SegmentedFrame;
use serde::{Deserialize, Serialize};

/// One level in the evaluation JSON; null where a measure does not apply.
#[derive(Default, Serialize)]
pub(super) struct LevelEvaluation {
    pub(super) level: usize,
    pub(super) covering: Option<f64>,
    pub(super) nf_covering: Option<f64>,
    pub(super) region_f: Option<f64>,
    /// On videos only.
    pub(super) flicker: Option<f64>,
    pub(super) id_stability: Option<f64>,
    /// What the stability could be at most with these segments.
    pub(super) id_purity: Option<f64>,
    /// Mean number of segments with pixels.
    pub(super) segments_mean: f64,
}

/// Sums over frames.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LevelSums {
    levels: Vec<Sums>,
    id_stability: IdStability,
    frames: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Sums {
    covering: LevelCovering,
    nf_covering: NfCovering,
    region_f: RegionF,
    flicker: Flicker,
    segments: u64,
}

/// What is known of a frame's truth.
pub(super) struct Truth<'a> {
    pub(super) regions: &'a TruthRegions,
    /// Per region whether NFCovering looks at it.
    pub(super) is_foreground: &'a [bool],
    /// Per region whether it is large enough for region F.
    pub(super) is_large: &'a [bool],
}

/// Per level the track id of the segment that each slot is in; `None` for a slot without.
pub(super) type LevelIds = Vec<Vec<Option<u32>>>;

/// The ids of a frame.
pub(super) fn level_ids(frame: &SegmentedFrame) -> LevelIds {
    let num_slots = frame.levels.first().map_or(0, |level| level.segments.len());
    let mut ancestors: Vec<Option<usize>> = (0..num_slots).map(Some).collect();
    let mut ids = Vec::with_capacity(frame.levels.len());
    for level in &frame.levels {
        let segment = |ancestor: &Option<usize>| level.segments.get((*ancestor)?);
        ids.push(ancestors.iter().map(|ancestor| segment(ancestor).map(|segment| segment.track_id)).collect());
        for ancestor in &mut ancestors {
            *ancestor = ancestor.and_then(|index| level.parents.get(index)).map(|&parent| usize::from(parent));
        }
    }
    ids
}

impl LevelSums {
    /// Nothing seen yet.
    pub(super) fn new(num_levels: usize) -> Self {
        Self { levels: vec![Sums::default(); num_levels], id_stability: IdStability::new(num_levels), frames: 0 }
    }

    /// Adds a frame; with `ids`, as the next one of its video. Returns the covering of each level.
    ///
    /// # Errors
    /// When frame and truth are of different sizes.
    pub(super) fn update(
        &mut self,
        frame: &SegmentedFrame,
        truth: &Truth<'_>,
        ids: Option<&LevelIds>,
    ) -> Result<Vec<Option<f64>>, EvaluationError> {
        let num_slots = frame.levels.first().map_or(0, |level| level.segments.len());
        // Pixels are counted once: nesting is strict, so a coarser level is the finer one's table put together.
        let mut overlap = Overlap::of_labels(&frame.slots, num_slots, truth.regions)?;
        if let Some(ids) = ids {
            self.id_stability.update(truth.regions, &overlap, ids)?;
        }
        let mut coverings = Vec::with_capacity(self.levels.len());
        let mut finer: Option<&[u16]> = None;
        for (sums, level) in self.levels.iter_mut().zip(&frame.levels) {
            if let Some(parents) = finer.replace(&level.parents) {
                overlap = overlap.grouped(parents, level.segments.len());
            }
            let mut covering = LevelCovering::default();
            covering.update(&overlap);
            coverings.push(covering.result());
            sums.covering.merge(&covering);
            sums.nf_covering.update(&overlap, truth.is_foreground)?;
            sums.region_f.update(&overlap, truth.is_large)?;
            sums.segments += level.segments.iter().filter(|segment| segment.present).count() as u64;
        }
        self.frames += 1;
        Ok(coverings)
    }

    /// Adds how slots changed from the frame before, and what they meant in both frames.
    pub(super) fn update_changes(&mut self, changes: &LabelChanges, before: &LevelIds, now: &LevelIds) {
        for ((sums, before), now) in self.levels.iter_mut().zip(before).zip(now) {
            sums.flicker.update(changes, before, now);
        }
    }

    /// Ends a sequence.
    pub(super) fn end_sequence(&mut self) {
        self.id_stability.end_sequence();
    }

    /// Adds the frames of another part.
    ///
    /// # Errors
    /// When it has another number of levels.
    pub(super) fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        self.id_stability.merge(&other.id_stability)?;
        for (sums, others) in self.levels.iter_mut().zip(&other.levels) {
            sums.covering.merge(&others.covering);
            sums.nf_covering.merge(&others.nf_covering);
            sums.region_f.merge(&others.region_f);
            sums.flicker.merge(&others.flicker);
            sums.segments += others.segments;
        }
        self.frames += other.frames;
        Ok(())
    }

    /// The figures over all frames so far, finest level first.
    pub(super) fn result(&self) -> Vec<LevelEvaluation> {
        let (stability, purity) = (self.id_stability.result(), self.id_stability.purity());
        let figures = |(level, sums): (usize, &Sums)| LevelEvaluation {
            level,
            covering: sums.covering.result(),
            nf_covering: sums.nf_covering.result(),
            region_f: sums.region_f.result(),
            flicker: sums.flicker.result(),
            id_stability: stability.get(level).copied().flatten(),
            id_purity: purity.get(level).copied().flatten(),
            segments_mean: sums.segments as f64 / self.frames.max(1) as f64,
        };
        self.levels.iter().enumerate().map(figures).collect()
    }
}

#[cfg(test)]
mod tests {
    use runtime::sink::{LevelSegments, NO_SEGMENT, SegmentInfo};

    use super::*;

    #[test]
    fn ids_follow_the_parents() {
        let level = |parents: &[u16], ids: &[u32]| LevelSegments {
            parents: parents.to_vec(),
            segments: ids.iter().map(|&track_id| SegmentInfo { track_id, ..SegmentInfo::default() }).collect(),
        };
        let levels = vec![level(&[1, NO_SEGMENT, 0], &[7, 8, 9]), level(&[0, 0], &[3, 4]), level(&[], &[5])];
        let mut frame = SegmentedFrame::default();
        frame.levels = levels;
        let expected: LevelIds =
            vec![vec![Some(7), Some(8), Some(9)], vec![Some(4), None, Some(3)], vec![Some(5), None, Some(5)]];
        assert_eq!(level_ids(&frame), expected);
    }
}
