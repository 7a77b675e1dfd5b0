//! What the bank said about a segment, kept while the segment stays what it was.
//!
//! On video a slot goes on with the same piece of the scene, so its prototype (averaged over time, `label.rs`) hardly moves
//! from frame to frame. Its vote is asked for again only when the prototype has turned away from the one that was asked
//! about: from that one, not from the frame before, so that slow drift does not add up. Nothing is kept over a start from the grid (first frame, scene cut, new
//! size, restart), in a slot that was re-seeded, or in one that was empty.

use retrieval::Vote;

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
    /// Prototypes that were asked about, `[slots, dim]`.
    prototypes: Vec<f32>,
    votes: Vec<Option<Vote>>,
}

impl KeptVotes {
    /// Forgets what no longer holds in a frame with these prototypes `[slots, dim]` and areas per slot.
    pub fn forget(&mut self, prototypes: &[f32], areas: &[u32], continuity: Continuity<'_>) {
        if !continuity.tracking || continuity.from_grid || self.votes.len() != areas.len() {
            self.votes.clear();
            self.votes.resize(areas.len(), None);
            self.prototypes.clear();
            self.prototypes.resize(prototypes.len(), 0.0);
        }
        let dim = prototypes.len() / areas.len().max(1);
        for (slot, vote) in self.votes.iter_mut().enumerate() {
            let range = slot * dim..(slot + 1) * dim;
            // Not `<`: the cosine of what is not a number is no reason to keep anything.
            let stays = || dot(&self.prototypes[range.clone()], &prototypes[range.clone()]) >= MIN_KEPT_SIMILARITY;
            if areas[slot] == 0 || continuity.reseeded.contains(&(slot as u32)) || (vote.is_some() && !stays()) {
                *vote = None;
            }
        }
    }

    /// The vote of a slot, if it was kept.
    pub fn get(&self, slot: usize) -> Option<Vote> {
        self.votes.get(slot).copied().flatten()
    }

    /// Keeps what the bank said about a slot's prototype.
    pub fn keep(&mut self, slot: usize, prototype: &[f32], vote: Vote) {
        let dim = prototype.len();
        if let (Some(place), Some(kept)) =
            (self.prototypes.get_mut(slot * dim..(slot + 1) * dim), self.votes.get_mut(slot))
        {
            place.copy_from_slice(prototype);
            *kept = Some(vote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(train_id: u8) -> Vote {
        Vote { train_id, confidence: 1.0, unknown_score: 0.0 }
    }

    const VIDEO: Continuity<'_> = Continuity { tracking: true, from_grid: false, reseeded: &[] };

    /// Two slots that point in directions at these angles; the second one always stays.
    fn at(angle: f32) -> [f32; 4] {
        [angle.cos(), angle.sin(), 0.0, 1.0]
    }

    fn kept() -> KeptVotes {
        let mut kept = KeptVotes::default();
        kept.forget(&at(0.0), &[5, 5], Continuity { from_grid: true, ..VIDEO });
        kept.keep(0, &at(0.0)[..2], vote(3));
        kept.keep(1, &at(0.0)[2..], vote(4));
        kept
    }

    fn train_ids(kept: &KeptVotes) -> [Option<u8>; 2] {
        [0, 1].map(|slot| kept.get(slot).map(|vote| vote.train_id))
    }

    #[test]
    fn votes_stay_until_the_prototype_has_turned() {
        let limit = MIN_KEPT_SIMILARITY.acos();
        let mut kept = kept();
        kept.forget(&at(0.9 * limit), &[5, 5], VIDEO);
        assert_eq!(train_ids(&kept), [Some(3), Some(4)]);
        kept.forget(&at(1.1 * limit), &[5, 5], VIDEO);
        assert_eq!(train_ids(&kept), [None, Some(4)]);
    }

    #[test]
    fn drift_does_not_add_up() {
        let step = 0.3 * MIN_KEPT_SIMILARITY.acos();
        let mut kept = kept();
        let mut lasted = 0;
        while kept.get(0).is_some() {
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
            assert_eq!(train_ids(&kept), [None, None], "{continuity:?}");
        }
        let mut kept = kept();
        kept.forget(&at(0.0), &[0, 5], VIDEO);
        kept.forget(&at(0.0), &[5, 5], VIDEO);
        assert_eq!(train_ids(&kept), [None, Some(4)], "the slot was empty");
        // Another number of slots; numbers that are none.
        kept.forget(&[1.0, 0.0], &[5], VIDEO);
        assert_eq!(kept.get(0), None);
        let mut kept = self::kept();
        kept.forget(&[f32::NAN, 0.0, 0.0, 1.0], &[5, 5], VIDEO);
        assert_eq!(train_ids(&kept), [None, Some(4)]);
    }
}
