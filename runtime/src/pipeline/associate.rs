//! \[F6\] Ids that stay with a segment over time.
//!
//! Level 0: a k-means cluster lives on from frame to frame (warm start), so its slot keeps its id, until the cluster
//! is empty, re-seeded, or its prototype jumps ([`MIN_PROTOTYPE_SIMILARITY`]). Higher levels: groups have no memory of
//! their own (the network may number them otherwise in each frame), so each is matched with the group of the last
//! frame that shares most pixels with it through members that kept their ids; greedily, largest overlap first.
//!
//! What dies is remembered for [`MEMORY_FRAMES`] frames with its feature: a new segment or group that looks the same
//! ([`MIN_RETURN_SIMILARITY`]) has come back, and takes its id again. The feature of a base segment is its centroid, place
//! included; that of a group is the mean of its members' prototypes.
//!
//! Without tracking the id is the index.

use std::collections::VecDeque;

use segcore::hierarchy::{Hierarchy, NONE};
use segcore::spherical_kmeans::SegmentMap;

use super::segment::dot;
use crate::sink::LevelSegments;

/// A slot whose prototype has a smaller cosine to its prototype of the last frame shows something else now.
pub const MIN_PROTOTYPE_SIMILARITY: f32 = 0.5;

/// Ids are below this, so that 1 + id fits the 16 bits of a label file.
pub const NUM_IDS: u32 = 65_535;

/// How long a segment that is gone is remembered, frames: two seconds at 15 Hz.
pub const MEMORY_FRAMES: u64 = 30;

/// A new segment whose feature has at least this cosine to that of one that is gone is the same one. Base segments, groups.
pub const MIN_RETURN_SIMILARITY: [f32; 2] = [0.98, 0.9];

/// Most segments of a level that are remembered; of more, the oldest are forgotten.
const MEMORY_SIZE: usize = 64;

/// A segment without id: it has no pixels.
const NO_ID: u32 = u32::MAX;

/// Hands out ids: new ones first; when the range is used up, the one that was retired first.
#[derive(Debug)]
struct IdAllocator {
    next: u32,
    retired: VecDeque<u16>,
}

impl IdAllocator {
    fn new() -> Self {
        // Room for every id, so that a long run never allocates.
        Self { next: 0, retired: VecDeque::with_capacity(NUM_IDS as usize) }
    }

    fn take(&mut self) -> u32 {
        if self.next < NUM_IDS {
            self.next += 1;
            return self.next - 1;
        }
        // At most 4096 segments of a level are alive at once, so one of 65535 is always retired.
        self.retired.pop_front().map_or(0, u32::from)
    }

    fn retire(&mut self, id: u32) {
        if let Ok(id) = u16::try_from(id) {
            self.retired.push_back(id);
        }
    }
}

#[derive(Debug)]
struct LevelIds {
    allocator: IdAllocator,
    ids: Vec<u32>,
    previous: Vec<u32>,
    /// Features of the segments, `[n, length]`, of this frame and of the last one.
    features: Vec<f32>,
    previous_features: Vec<f32>,
    memory: Memory,
}

/// Segments that are gone and may come back: (id, frame in which they were gone), oldest first, and their features.
#[derive(Debug, Default)]
struct Memory {
    gone: Vec<(u32, u64)>,
    features: Vec<f32>,
}

impl Memory {
    /// Makes room for all that it may ever hold, so that nothing is allocated later.
    fn reserve(&mut self, length: usize) {
        self.gone.reserve(MEMORY_SIZE.saturating_sub(self.gone.len()));
        self.features.reserve((MEMORY_SIZE * length).saturating_sub(self.features.len()));
    }

    /// Remembers a segment; returns the id that is forgotten for it.
    fn add(&mut self, id: u32, frame: u64, feature: &[f32]) -> Option<u32> {
        let forgotten = if self.gone.len() >= MEMORY_SIZE { self.remove(0, feature.len()) } else { None };
        self.gone.push((id, frame));
        self.features.extend_from_slice(feature);
        forgotten
    }

    fn remove(&mut self, index: usize, length: usize) -> Option<u32> {
        if index >= self.gone.len() || self.features.len() < (index + 1) * length {
            return None;
        }
        self.features.drain(index * length..(index + 1) * length);
        Some(self.gone.remove(index).0)
    }

    /// The most similar one, if it is similar enough: it is no longer gone.
    fn recall(&mut self, feature: &[f32], min_similarity: f32) -> Option<u32> {
        let mut best: Option<(usize, f32)> = None;
        for (index, known) in self.features.chunks_exact(feature.len().max(1)).enumerate() {
            let similarity = dot(known, feature);
            if similarity >= min_similarity && best.is_none_or(|(_, most)| similarity > most) {
                best = Some((index, similarity));
            }
        }
        best.and_then(|(index, _)| self.remove(index, feature.len()))
    }

    /// Forgets the oldest one if it has been gone for too long; returns its id.
    fn forget(&mut self, frame: u64, length: usize) -> Option<u32> {
        let &(_, since) = self.gone.first()?;
        if frame.saturating_sub(since) > MEMORY_FRAMES { self.remove(0, length) } else { None }
    }
}

/// What happened to the clusters of this frame.
#[derive(Clone, Copy, Debug)]
pub struct Continuity<'a> {
    /// Whether this frame follows the last one in time.
    pub tracking: bool,
    /// Whether clustering started anew, so that no cluster lives on.
    pub from_grid: bool,
    /// Slots that were re-seeded.
    pub reseeded: &'a [u32],
}

/// The stage associate.
#[derive(Debug)]
pub struct AssociateStage {
    levels: Vec<LevelIds>,
    /// Prototypes `[k, m]` and areas of the last frame.
    prototypes: Vec<f32>,
    areas: Vec<u32>,
    /// Segment of each slot at each level in the last frame, `[levels][k]`.
    labels: Vec<Vec<u16>>,
    overlaps: Vec<u64>,
    /// Frames so far.
    frame: u64,
}

impl AssociateStage {
    /// A stage for this many levels.
    pub fn new(num_levels: usize) -> Self {
        let level = || LevelIds {
            allocator: IdAllocator::new(),
            ids: Vec::new(),
            previous: Vec::new(),
            features: Vec::new(),
            previous_features: Vec::new(),
            memory: Memory::default(),
        };
        Self {
            levels: (0..num_levels).map(|_| level()).collect(),
            prototypes: Vec::new(),
            areas: Vec::new(),
            labels: vec![Vec::new(); num_levels],
            overlaps: Vec::new(),
            frame: 0,
        }
    }

    /// Writes the ids of all segments into `levels`; `centroids` `[k, m + 2]` are those of the clustering.
    pub fn run(
        &mut self,
        segments: &SegmentMap,
        centroids: &[f32],
        hierarchy: &Hierarchy,
        continuity: Continuity<'_>,
        levels: &mut [LevelSegments],
    ) {
        if !continuity.tracking {
            for level in levels {
                for (index, segment) in level.segments.iter_mut().enumerate() {
                    segment.track_id = index as u32;
                }
            }
            return;
        }
        self.frame += 1;
        for level in 0..self.levels.len().min(hierarchy.num_levels()) {
            let ids = &mut self.levels[level];
            std::mem::swap(&mut ids.ids, &mut ids.previous);
            std::mem::swap(&mut ids.features, &mut ids.previous_features);
            write_features(level, segments, centroids, hierarchy, &mut ids.features);
            ids.memory.reserve(ids.features.len() / hierarchy.segments(level).max(1));
            ids.ids.clear();
            ids.ids.resize(hierarchy.segments(level), NO_ID);
            if !continuity.from_grid && ids.previous.len() == ids.ids.len() {
                if level == 0 {
                    self.keep_slots(segments, continuity.reseeded);
                } else {
                    self.match_groups(level, segments, hierarchy);
                }
            }
            self.levels[level].births_and_deaths(level, hierarchy, self.frame);
            let ids = &self.levels[level].ids;
            if let Some(out) = levels.get_mut(level) {
                for (segment, &id) in out.segments.iter_mut().zip(ids.iter()) {
                    segment.track_id = if id == NO_ID { 0 } else { id };
                }
            }
        }
        self.prototypes.clone_from(&segments.prototypes);
        self.areas.clone_from(&segments.areas);
        for (level, labels) in self.labels.iter_mut().enumerate() {
            labels.clear();
            if level < hierarchy.num_levels() {
                labels.extend_from_slice(hierarchy.labels(level));
            }
        }
    }

    fn keep_slots(&mut self, segments: &SegmentMap, reseeded: &[u32]) {
        let num_slots = segments.areas.len().max(1);
        let dim = segments.prototypes.len() / num_slots;
        let LevelIds { ids, previous, .. } = &mut self.levels[0];
        for (slot, id) in ids.iter_mut().enumerate() {
            let alive = segments.areas[slot] > 0 && self.areas.get(slot).is_some_and(|&area| area > 0);
            if !alive || reseeded.contains(&(slot as u32)) {
                continue;
            }
            let range = slot * dim..(slot + 1) * dim;
            let similar = self
                .prototypes
                .get(range.clone())
                .is_some_and(|old| dot(old, &segments.prototypes[range]) >= MIN_PROTOTYPE_SIMILARITY);
            if similar {
                *id = previous[slot];
            }
        }
    }

    fn match_groups(&mut self, level: usize, segments: &SegmentMap, hierarchy: &Hierarchy) {
        let (finest, coarser) = self.levels.split_at_mut(level);
        let (finest, LevelIds { ids, previous, .. }) = (&finest[0], &mut coarser[0]);
        let num_groups = ids.len();
        self.overlaps.clear();
        self.overlaps.resize(num_groups * num_groups, 0);
        let (now, before) = (hierarchy.labels(level), &self.labels[level]);
        for (slot, &id) in finest.ids.iter().enumerate() {
            let kept = id != NO_ID && finest.previous.get(slot) == Some(&id);
            if kept && now[slot] != NONE && before[slot] != NONE {
                let area = segments.areas[slot].min(self.areas[slot]);
                self.overlaps[usize::from(now[slot]) * num_groups + usize::from(before[slot])] += u64::from(area);
            }
        }
        // The largest overlap first; of equal ones the first pair, so that results do not depend on anything else.
        loop {
            let mut best = 0;
            for (index, &overlap) in self.overlaps.iter().enumerate() {
                if overlap > self.overlaps[best] {
                    best = index;
                }
            }
            if self.overlaps.get(best).is_none_or(|&overlap| overlap == 0) {
                return;
            }
            let (group, old) = (best / num_groups, best % num_groups);
            ids[group] = previous[old];
            for other in 0..num_groups {
                self.overlaps[group * num_groups + other] = 0;
                self.overlaps[other * num_groups + old] = 0;
            }
        }
    }
}

impl LevelIds {
    /// Segments that have no id yet get one: that of what came back, or a new one. Ids that are gone are remembered, and
    /// retired when they are forgotten.
    fn births_and_deaths(&mut self, level: usize, hierarchy: &Hierarchy, frame: u64) {
        let Self { allocator, ids, previous, features, previous_features, memory } = self;
        let length = features.len() / ids.len().max(1);
        // Deaths first: a group whose members have all changed at once is gone and comes back in the same frame.
        for (index, &old) in previous.iter().enumerate().filter(|&(_, &old)| old != NO_ID) {
            if ids.contains(&old) {
                continue;
            }
            let forgotten = match previous_features.get(index * length..(index + 1) * length) {
                Some(feature) if length > 0 => memory.add(old, frame, feature),
                _ => Some(old),
            };
            if let Some(id) = forgotten {
                allocator.retire(id);
            }
        }
        while let Some(id) = memory.forget(frame, length) {
            allocator.retire(id);
        }
        let min_similarity = MIN_RETURN_SIMILARITY[level.min(1)];
        for (index, id) in ids.iter_mut().enumerate() {
            if *id == NO_ID && hierarchy.areas(level)[index] > 0 {
                let feature = &features[index * length..(index + 1) * length];
                *id = memory.recall(feature, min_similarity).unwrap_or_else(|| allocator.take());
            }
        }
    }
}

/// Features of the segments of a level: centroids at level 0, means of the members' prototypes above.
fn write_features(
    level: usize,
    segments: &SegmentMap,
    centroids: &[f32],
    hierarchy: &Hierarchy,
    features: &mut Vec<f32>,
) {
    features.clear();
    if level == 0 {
        features.extend_from_slice(centroids);
        return;
    }
    let dim = segments.prototypes.len() / segments.areas.len().max(1);
    features.resize(hierarchy.segments(level) * dim, 0.0);
    let slots = segments.prototypes.chunks_exact(dim.max(1)).zip(&segments.areas);
    for ((prototype, &area), &group) in slots.zip(hierarchy.labels(level)) {
        let group = usize::from(group);
        if let Some(sum) = features.get_mut(group * dim..(group + 1) * dim) {
            sum.iter_mut().zip(prototype).for_each(|(sum, &value)| *sum += area as f32 * value);
        }
    }
    features.chunks_exact_mut(dim.max(1)).for_each(segcore::embedding::normalize);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::SegmentInfo;

    /// Four slots in two groups; `groups[slot]` is the group of each slot.
    struct Scene {
        segments: SegmentMap,
        hierarchy: Hierarchy,
        levels: Vec<LevelSegments>,
    }

    fn scene(areas: &[u32], groups: &[usize], prototypes: &[[f32; 2]]) -> Scene {
        let num_slots = areas.len();
        let num_groups = 3;
        let mut transition = vec![0.0f32; num_slots * num_groups];
        for (slot, &group) in groups.iter().enumerate() {
            transition[slot * num_groups + group] = 1.0;
        }
        let mut hierarchy = Hierarchy::new();
        hierarchy.from_transitions(areas, &[&transition], &[num_slots, num_groups]).unwrap();
        let segments =
            SegmentMap { num_slots, areas: areas.to_vec(), prototypes: prototypes.concat(), ..SegmentMap::default() };
        let level = |n| LevelSegments { parents: vec![], segments: vec![SegmentInfo::default(); n] };
        Scene { segments, hierarchy, levels: vec![level(num_slots), level(num_groups)] }
    }

    fn ids(stage: &mut AssociateStage, mut scene: Scene, from_grid: bool, reseeded: &[u32]) -> [Vec<u32>; 2] {
        let continuity = Continuity { tracking: true, from_grid, reseeded };
        stage.run(&scene.segments, &scene.segments.prototypes, &scene.hierarchy, continuity, &mut scene.levels);
        [0, 1].map(|level| scene.levels[level].segments.iter().map(|s| s.track_id).collect())
    }

    const A: [f32; 2] = [1.0, 0.0];
    const B: [f32; 2] = [0.0, 1.0];
    const C: [f32; 2] = [0.7, 0.7];
    const D: [f32; 2] = [-0.7, -0.7];

    #[test]
    fn without_tracking_the_id_is_the_index() {
        let mut stage = AssociateStage::new(2);
        let mut scene = scene(&[5, 0, 5, 5], &[0, 0, 1, 2], &[A; 4]);
        let continuity = Continuity { tracking: false, from_grid: true, reseeded: &[] };
        stage.run(&scene.segments, &scene.segments.prototypes, &scene.hierarchy, continuity, &mut scene.levels);
        assert_eq!(scene.levels[0].segments.iter().map(|s| s.track_id).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn slots_keep_their_ids_while_their_clusters_live() {
        let mut stage = AssociateStage::new(2);
        let [first, _] = ids(&mut stage, scene(&[5, 5, 5, 5], &[0, 0, 1, 1], &[A; 4]), true, &[]);
        assert_eq!(first, [0, 1, 2, 3]);
        // Slot 1 is re-seeded, slot 2 jumps to something else, slot 3 is empty.
        let [second, _] = ids(&mut stage, scene(&[5, 5, 5, 0], &[0, 0, 1, 1], &[A, C, B, A]), false, &[1]);
        assert_eq!(second[..3], [0, 4, 5]);
        // After a cut to something else all are new.
        let [third, _] = ids(&mut stage, scene(&[5, 5, 5, 5], &[0, 0, 1, 1], &[D; 4]), true, &[]);
        assert_eq!(third, [6, 7, 8, 9]);
    }

    #[test]
    fn what_comes_back_in_time_takes_its_id_again() {
        for (away, expected) in [(MEMORY_FRAMES as usize - 1, 1), (MEMORY_FRAMES as usize + 1, 4)] {
            let mut stage = AssociateStage::new(2);
            let [first, groups] = ids(&mut stage, scene(&[5, 5, 5, 5], &[0, 1, 0, 0], &[A, B, A, A]), true, &[]);
            assert_eq!((first[1], groups[1]), (1, 1));
            for _ in 0..away {
                ids(&mut stage, scene(&[5, 0, 5, 5], &[0, 1, 0, 0], &[A, [0.0; 2], A, A]), false, &[]);
            }
            // In another slot, and in another group.
            let now = scene(&[5, 0, 5, 5], &[0, 1, 0, 2], &[A, [0.0; 2], A, B]);
            let [slots, groups] = ids(&mut stage, now, false, &[3]);
            assert_eq!(slots[3], expected, "away for {away} frames");
            assert_eq!(groups[2], if expected == 1 { 1 } else { 2 });
        }
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let mut memory = Memory::default();
        for id in 0..MEMORY_SIZE as u32 {
            assert_eq!(memory.add(id, 1, &A), None);
        }
        assert_eq!(memory.add(1000, 2, &B), Some(0));
        assert_eq!((memory.gone.len(), memory.features.len()), (MEMORY_SIZE, 2 * MEMORY_SIZE));
        assert_eq!(memory.recall(&B, 0.9), Some(1000));
        assert_eq!(memory.recall(&B, 0.9), None);
        assert_eq!(memory.forget(1 + MEMORY_FRAMES, 2), None);
        assert_eq!(memory.forget(2 + MEMORY_FRAMES, 2), Some(1));
    }

    #[test]
    fn groups_follow_their_members_not_their_numbers() {
        let mut stage = AssociateStage::new(2);
        let [_, first] = ids(&mut stage, scene(&[9, 5, 5, 5], &[0, 0, 1, 1], &[A; 4]), true, &[]);
        assert_eq!(first[..2], [0, 1]);
        // The network numbers the groups the other way round, and slot 1 changes sides; group 2 is new.
        let [_, second] = ids(&mut stage, scene(&[9, 5, 5, 5], &[1, 0, 0, 0], &[A; 4]), false, &[]);
        assert_eq!(second[..2], [1, 0]);
        let [_, third] = ids(&mut stage, scene(&[9, 5, 5, 5], &[1, 0, 0, 2], &[A; 4]), false, &[]);
        assert_eq!(third, [1, 0, 2]);
    }

    #[test]
    fn ids_are_reused_only_when_the_range_is_used_up_oldest_first() {
        let mut allocator = IdAllocator::new();
        let taken: Vec<u32> = (0..NUM_IDS).map(|_| allocator.take()).collect();
        assert_eq!(taken, (0..NUM_IDS).collect::<Vec<_>>());
        for id in [7, 3, 9] {
            allocator.retire(id);
        }
        assert_eq!([allocator.take(), allocator.take(), allocator.take()], [7, 3, 9]);
    }

    #[test]
    fn a_long_run_stays_in_range_and_ids_stay_unique() {
        let mut stage = AssociateStage::new(2);
        for _ in 0..40_000 {
            let [slots, groups] = ids(&mut stage, scene(&[5, 5, 5, 5], &[0, 1, 2, 2], &[A; 4]), true, &[]);
            for ids in [slots, groups] {
                let mut sorted = ids.clone();
                sorted.sort_unstable();
                sorted.dedup();
                assert!(sorted.len() == ids.len() && sorted.iter().all(|&id| id < NUM_IDS), "{ids:?}");
            }
        }
    }
}
