//! What the bank said about a segment, kept while the segment stays what it was.
//!
//! On video a slot goes on with the same piece of the scene, so its prototype (averaged over time, `label.rs`) hardly moves
//! from frame to frame. Its vote is asked for again only when the prototype has turned away from the one that was asked
//! about: from that one, not from the frame before, so that slow drift does not add up. Nothing is kept over a start from the grid (first frame, scene cut, new
//! size, restart), in a slot that was re-seeded, or in one that was empty.

use super::associate::Continuity;
use super::segment::dot;

/// A vote is kept while the cosine between the prototype and the one that was asked about is at least this.
///
/// Chosen together with the average of `label.rs` on CamVid val (101 frames at 15 Hz) with three banks
/// (`docs/benchmarks/accuracy.md`, "Over time").
pub const MIN_KEPT_SIMILARITY: f32 = 0.99;

/// The votes of all slots.
#[derive(Debug, Default)]
pub struct KeptVotes {
    num_classes: usize,
    /// Prototypes that were asked about, `[slots, dim]`.
    prototypes: Vec<f32>,
    /// Shares of the classes in the votes, `[slots, classes]`; 0 where nothing is kept.
    shares: Vec<f32>,
    /// Unknown scores of the slots that have votes.
    unknown_scores: Vec<Option<f32>>,
}

impl KeptVotes {
    /// No slots yet.
    pub fn new(num_classes: usize) -> Self {
        Self { num_classes, ..Self::default() }
    }

    /// Forgets what no longer holds in a frame with these prototypes `[slots, dim]` and areas per slot.
    pub fn forget(&mut self, prototypes: &[f32], areas: &[u32], continuity: Continuity<'_>) {
        if !continuity.tracking || continuity.from_grid || self.unknown_scores.len() != areas.len() {
            self.unknown_scores.clear();
            self.unknown_scores.resize(areas.len(), None);
            self.shares.clear();
            self.shares.resize(areas.len() * self.num_classes, 0.0);
            self.prototypes.clear();
            self.prototypes.resize(prototypes.len(), 0.0);
        }
        let dim = prototypes.len() / areas.len().max(1);
        for (slot, kept) in self.unknown_scores.iter_mut().enumerate() {
            let range = slot * dim..(slot + 1) * dim;
            // Not `<`: the cosine of what is not a number is no reason to keep anything.
            let stays = || dot(&self.prototypes[range.clone()], &prototypes[range.clone()]) >= MIN_KEPT_SIMILARITY;
            if areas[slot] == 0 || continuity.reseeded.contains(&(slot as u32)) || (kept.is_some() && !stays()) {
                *kept = None;
                self.shares[slot * self.num_classes..(slot + 1) * self.num_classes].fill(0.0);
            }
        }
    }

    /// The unknown score of a slot, if its votes were kept.
    pub fn unknown_score(&self, slot: usize) -> Option<f32> {
        self.unknown_scores.get(slot).copied().flatten()
    }

    /// Shares of all slots, `[slots, classes]`.
    pub fn shares(&self) -> &[f32] {
        &self.shares
    }

    /// Keeps what the bank said about a slot's prototype.
    pub fn keep(&mut self, slot: usize, prototype: &[f32], shares: &[f32], unknown_score: f32) {
        let (dim, classes) = (prototype.len(), self.num_classes);
        if let (Some(place), Some(of_slot), Some(kept)) = (
            self.prototypes.get_mut(slot * dim..(slot + 1) * dim),
            self.shares.get_mut(slot * classes..(slot + 1) * classes).filter(|place| place.len() == shares.len()),
            self.unknown_scores.get_mut(slot),
        ) {
            place.copy_from_slice(prototype);
            of_slot.copy_from_slice(shares);
            *kept = Some(unknown_score);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: Continuity<'_> = Continuity { tracking: true, from_grid: false, reseeded: &[] };

    /// Two slots that point in directions at these angles; the second one always stays.
    fn at(angle: f32) -> [f32; 4] {
        [angle.cos(), angle.sin(), 0.0, 1.0]
    }

    fn kept() -> KeptVotes {
        let mut kept = KeptVotes::new(2);
        kept.forget(&at(0.0), &[5, 5], Continuity { from_grid: true, ..VIDEO });
        kept.keep(0, &at(0.0)[..2], &[0.75, 0.25], 0.3);
        kept.keep(1, &at(0.0)[2..], &[0.25, 0.75], 0.4);
        kept
    }

    /// Unknown scores, after a look at the shares, which go with them.
    fn scores(kept: &KeptVotes) -> [Option<f32>; 2] {
        let shares = [[0.75, 0.25], [0.25, 0.75]];
        [0, 1].map(|slot| {
            let score = kept.unknown_score(slot);
            assert_eq!(kept.shares()[2 * slot..2 * slot + 2], score.map_or([0.0; 2], |_| shares[slot]));
            score
        })
    }

    #[test]
    fn votes_stay_until_the_prototype_has_turned() {
        let limit = MIN_KEPT_SIMILARITY.acos();
        let mut kept = kept();
        kept.forget(&at(0.9 * limit), &[5, 5], VIDEO);
        assert_eq!(scores(&kept), [Some(0.3), Some(0.4)]);
        kept.forget(&at(1.1 * limit), &[5, 5], VIDEO);
        assert_eq!(scores(&kept), [None, Some(0.4)]);
    }

    #[test]
    fn drift_does_not_add_up() {
        let step = 0.3 * MIN_KEPT_SIMILARITY.acos();
        let mut kept = kept();
        let mut lasted = 0;
        while kept.unknown_score(0).is_some() {
            lasted += 1;
            kept.forget(&at(lasted as f32 * step), &[5, 5], VIDEO);
        }
        assert_eq!(lasted, 4, "each step alone is small enough to be kept for ever");
    }

    #[test]
    fn nothing_is_kept_of_another_scene_or_segment() {
        for continuity in [
            Continuity { tracking: false, ..VIDEO },
            Continuity { from_grid: true, ..VIDEO },
            Continuity { reseeded: &[0, 1], ..VIDEO },
        ] {
            let mut kept = kept();
            kept.forget(&at(0.0), &[5, 5], continuity);
            assert_eq!(scores(&kept), [None, None], "{continuity:?}");
        }
        let mut kept = kept();
        kept.forget(&at(0.0), &[0, 5], VIDEO);
        kept.forget(&at(0.0), &[5, 5], VIDEO);
        assert_eq!(scores(&kept), [None, Some(0.4)], "the slot was empty");
        // Another number of slots; numbers that are none.
        kept.forget(&[1.0, 0.0], &[5], VIDEO);
        assert_eq!(kept.unknown_score(0), None);
        let mut kept = self::kept();
        kept.forget(&[f32::NAN, 0.0, 0.0, 1.0], &[5, 5], VIDEO);
        assert_eq!(scores(&kept), [None, Some(0.4)]);
    }
}
