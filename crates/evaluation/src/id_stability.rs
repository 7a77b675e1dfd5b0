//! Id stability: whether what is one thing keeps one track id. A measure of this project.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::EvaluationError;
use crate::overlap::Overlap;
use crate::truth_regions::TruthRegions;

/// For each level, the mean over objects, weighted by their areas, of the share of an object's pixels that carry its most
/// frequent track id.
///
/// An *object* is a connected region of the ground truth followed through a sequence: from one frame to the next, regions
/// of one class that share pixels are linked one to one, those that share most first. A region without partner begins a
/// new object. A pixel without track id counts in the area of its object, but `no id` is never the most frequent one.
///
/// A segmentation whose ids stay in place, as those of a fixed grid do, loses every object that moves over it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "StoredStability", into = "StoredStability")]
pub struct IdStability {
    /// Of the sequences that have ended, one per level.
    ended: Vec<Shares>,
    sequence: OpenSequence,
}

/// Pixels of objects.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Shares {
    /// With the most frequent id of their object.
    stable: u64,
    /// With the id that is the most frequent one of their object in their own frame.
    pure: u64,
    total: u64,
}

/// What is known of the objects of a sequence that goes on.
#[derive(Clone, Debug, Default)]
struct OpenSequence {
    /// Regions of the last frame: stretches in the order of their pixels, and the objects of the regions.
    stretches: Vec<Stretch>,
    objects: Vec<u32>,
    /// Pixels of each object.
    areas: Vec<u64>,
    /// For each level, pixels of each object with each track id.
    ids: Vec<HashMap<(u32, u32), u64>>,
    /// For each level, pixels with the most frequent id of their object in their own frame.
    pure: Vec<u64>,
    /// Pixels of each id within an object of one frame; kept for its memory.
    in_frame: HashMap<u32, u64>,
}

/// A horizontal stretch of a region.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    start: u32,
    end: u32,
    region: u32,
    train_id: u8,
}

impl IdStability {
    /// Nothing seen yet.
    pub fn new(num_levels: usize) -> Self {
        Self { ended: vec![Shares::default(); num_levels], sequence: OpenSequence::default() }
    }

    /// Adds the next frame of the sequence: its regions, the table of them and the segments of the finest level, and for
    /// each level the track id of the group that each of these segments is in. A segment without an item, or with `None`,
    /// has no id.
    ///
    /// # Errors
    /// When the table is of other regions, or the number of levels is another one. Nothing is added then.
    pub fn update<I: AsRef<[Option<u32>]>>(
        &mut self,
        truth: &TruthRegions,
        overlap: &Overlap,
        ids: &[I],
    ) -> Result<(), EvaluationError> {
        overlap.check_num_truth(truth.regions().len())?;
        check_levels(self.ended.len(), ids.len())?;
        let sequence = &mut self.sequence;
        sequence.ids.resize_with(ids.len(), HashMap::new);
        sequence.pure.resize(ids.len(), 0);
        sequence.follow(truth);
        for ((area, pieces), &object) in overlap.truth_pieces().zip(&sequence.objects) {
            sequence.areas[object as usize] += u64::from(area);
            for ((counts, pure), ids) in sequence.ids.iter_mut().zip(&mut sequence.pure).zip(ids) {
                sequence.in_frame.clear();
                for &(segment, pixels) in pieces {
                    if let Some(&Some(id)) = ids.as_ref().get(segment as usize) {
                        *sequence.in_frame.entry(id).or_default() += u64::from(pixels);
                    }
                }
                *pure += sequence.in_frame.values().max().unwrap_or(&0);
                for (&id, &pixels) in &sequence.in_frame {
                    *counts.entry((object, id)).or_default() += pixels;
                }
            }
        }
        Ok(())
    }

    /// Ends the sequence: the next frame is not linked with the last one.
    pub fn end_sequence(&mut self) {
        let shares = std::mem::take(&mut self.sequence).shares();
        self.ended.iter_mut().zip(shares).for_each(|(sum, shares)| sum.merge(shares));
    }

    /// Adds everything that `other` has seen; a sequence that goes on there is ended.
    ///
    /// # Errors
    /// When its number of levels is another one.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        check_levels(self.ended.len(), other.ended.len())?;
        self.ended.iter_mut().zip(other.shares()).for_each(|(sum, shares)| sum.merge(shares));
        Ok(())
    }

    /// The stability of each level over everything seen so far, 0 to 1, higher is better; `None` without objects.
    pub fn result(&self) -> Vec<Option<f64>> {
        self.shares().map(|shares| shares.of_all(shares.stable)).collect()
    }

    /// The *id purity* of each level: the same share with the most frequent id of each object chosen anew in every frame.
    /// What the stability would be with these segments if ids lasted as well as they can: what is missing to 1 is objects
    /// that lie in several segments, and what the stability misses to it is ids that change.
    pub fn purity(&self) -> Vec<Option<f64>> {
        self.shares().map(|shares| shares.of_all(shares.pure)).collect()
    }

    /// Of all sequences, as if the open one had ended.
    fn shares(&self) -> impl Iterator<Item = Shares> {
        let mut open = self.sequence.clone().shares();
        open.resize(self.ended.len(), Shares::default());
        self.ended.iter().zip(open).map(|(&(mut sum), open)| {
            sum.merge(open);
            sum
        })
    }
}

fn check_levels(expected: usize, got: usize) -> Result<(), EvaluationError> {
    if expected == got { Ok(()) } else { Err(EvaluationError::NumLevels { expected, got }) }
}

impl Shares {
    /// A part of these pixels as a share of all; `None` without any.
    fn of_all(self, pixels: u64) -> Option<f64> {
        (self.total > 0).then(|| pixels as f64 / self.total as f64)
    }

    fn merge(&mut self, other: Self) {
        self.stable += other.stable;
        self.pure += other.pure;
        self.total += other.total;
    }
}

impl OpenSequence {
    /// One item per level seen so far.
    fn shares(self) -> Vec<Shares> {
        let total = self.areas.iter().sum();
        let shares = |(counts, pure): (HashMap<(u32, u32), u64>, u64)| {
            let mut most = vec![0; self.areas.len()];
            for ((object, _), pixels) in counts {
                let most = &mut most[object as usize];
                *most = pixels.max(*most);
            }
            Shares { stable: most.iter().sum(), pure, total }
        };
        self.ids.into_iter().zip(self.pure).map(shares).collect()
    }

    /// Makes the regions those of the next frame, and finds their objects.
    fn follow(&mut self, truth: &TruthRegions) {
        let mut stretches: Vec<Stretch> = Vec::new();
        for (region, (runs, train_id)) in truth.runs().zip(truth.regions().iter().map(|r| r.train_id())).enumerate() {
            stretches.extend(runs.iter().map(|&(start, length)| Stretch {
                start,
                end: start + length,
                region: region as u32,
                train_id,
            }));
        }
        stretches.sort_unstable_by_key(|stretch| stretch.start);
        let mut shared: Vec<(u64, u32, u32)> =
            common_pixels(&self.stretches, &stretches).into_iter().map(|((a, b), pixels)| (pixels, a, b)).collect();
        // Most pixels first; among equals the region that comes first.
        shared.sort_unstable_by_key(|&(pixels, before, now)| (std::cmp::Reverse(pixels), before, now));
        let mut is_taken = vec![false; self.objects.len()];
        let mut objects = vec![None; truth.regions().len()];
        for (_, before, now) in shared {
            let (is_taken, object) = (&mut is_taken[before as usize], &mut objects[now as usize]);
            if !*is_taken && object.is_none() {
                *is_taken = true;
                *object = Some(self.objects[before as usize]);
            }
        }
        let areas = &mut self.areas;
        self.objects = objects
            .into_iter()
            .map(|object| {
                object.unwrap_or_else(|| {
                    areas.push(0);
                    areas.len() as u32 - 1
                })
            })
            .collect();
        self.stretches = stretches;
    }
}

/// Pixels that regions of one frame share with regions of the same class in another, by (region, region).
fn common_pixels(before: &[Stretch], now: &[Stretch]) -> HashMap<(u32, u32), u64> {
    let mut common = HashMap::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (before.get(i), now.get(j)) {
        let pixels = a.end.min(b.end).saturating_sub(a.start.max(b.start));
        if pixels > 0 && a.train_id == b.train_id {
            *common.entry((a.region, b.region)).or_default() += u64::from(pixels);
        }
        // The one that ends first has met everything it meets.
        if a.end <= b.end { i += 1 } else { j += 1 }
    }
    common
}

/// What is written: sequences are whole in a shard, so the open one has ended.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredStability {
    levels: Vec<Shares>,
}

impl From<IdStability> for StoredStability {
    fn from(stability: IdStability) -> Self {
        Self { levels: stability.shares().collect() }
    }
}

impl TryFrom<StoredStability> for IdStability {
    type Error = EvaluationError;

    fn try_from(stored: StoredStability) -> Result<Self, EvaluationError> {
        for Shares { stable, pure, total } in &stored.levels {
            EvaluationError::check_stored(stable <= pure && pure <= total, "id stability", || {
                format!(
                    "at most {total} pixels with the most frequent id of their object in their frame and no more with that \
                     of all frames, got {pure} and {stable}"
                )
            })?;
        }
        Ok(Self { ended: stored.levels, sequence: OpenSequence::default() })
    }
}
