//! \[F5\] Transitions → strict hierarchy, and a class for every segment by retrieval.
//!
//! A base segment takes the class that its 20 nearest prototypes of the bank vote for, weighted and pooled with the segments
//! around it (`names.rs`), or counted as in method.md §7. On video the
//! prototype is averaged over the frames of the segment's life before it is looked up, so that a name does not go back and
//! forth, and the votes of a segment that hardly changed are kept (`kept_votes.rs`). A group takes the
//! class that holds most of its pixels by its members' votes, ties to the smallest id; its confidence is the
//! pixel-weighted share of its members' votes that went to that class by members of that class, its unknown score the
//! pixel-weighted mean of its members'. "Pixels" are cells of the feature map here, as in the hierarchy itself.
//!
//! What a person named (`hsg bank add`) is laid over the bank and is part of what it says, wherever it is searched. Without a
//! bank it is all there is: what is like nothing that was named has no class then.

use std::sync::Arc;

use retrieval::{Search, Vote, Weighting};
use segcore::hierarchy::{Hierarchy, NONE};
use segcore::spherical_kmeans::SegmentMap;

use super::associate::{Continuity, MIN_PROTOTYPE_SIMILARITY};
use super::device::Lookup;
use super::kept_votes::KeptVotes;
use super::names::{Naming, Pooling, VOTE_TEMPERATURE, best_class};
use super::segment::dot;
use super::{Deployment, MAX_LEVELS, StageError};
use crate::sink::{LevelSegments, NO_SEGMENT};

/// Nearest prototypes that vote (method.md §7).
pub const NUM_VOTES: usize = 20;

/// Weight of the newest frame in the average of a prototype that is looked up.
pub const NEWEST_PROTOTYPE_WEIGHT: f32 = 0.5;

/// The stage label.
pub struct LabelStage {
    deployment: Arc<Deployment>,
    search: Search,
    naming: Naming,
    /// The bank on a GPU, where the stream's pixels are.
    on_device: Option<Lookup>,
    /// Whether there is memory for as many queries as there can be.
    has_room: bool,
    hierarchy: Hierarchy,
    /// Prototypes of the segments that are looked up, without gaps, the slots they belong to, and what the bank says: shares
    /// of the classes, and unknown scores.
    queries: Vec<f32>,
    asked: Vec<usize>,
    shares: Vec<f32>,
    unknown_scores: Vec<f32>,
    kept: KeptVotes,
    pooling: Pooling,
    /// Prototypes averaged over time, `[slots, dim]`, of unit length.
    averages: Vec<f32>,
    /// Whether a slot had pixels in the last frame.
    was_present: Vec<bool>,
    /// Slots of the segments that exist, and what they were named by.
    slots: Vec<usize>,
    votes: Vec<Vote>,
    /// Pixels per class of one group, and those times confidence.
    class_areas: Vec<f64>,
    class_confidences: Vec<f64>,
}

impl LabelStage {
    /// A stage that searches the bank and names segments in these ways.
    pub fn new(deployment: Arc<Deployment>, search: Search, naming: Naming) -> Self {
        Self {
            kept: KeptVotes::new(num_shares(&deployment)),
            deployment,
            search,
            naming,
            on_device: None,
            has_room: false,
            hierarchy: Hierarchy::new(),
            queries: Vec::new(),
            asked: Vec::new(),
            shares: Vec::new(),
            unknown_scores: Vec::new(),
            pooling: Pooling::default(),
            averages: Vec::new(),
            was_present: Vec::new(),
            slots: Vec::new(),
            votes: Vec::new(),
            class_areas: Vec::new(),
            class_confidences: Vec::new(),
        }
    }

    /// Looks segments up on a GPU from now on, or on the CPU again; the votes are the same.
    pub(super) fn set_lookup(&mut self, on_device: Option<Lookup>) {
        self.on_device = on_device;
    }

    /// Whether segments are looked up on a GPU.
    pub(super) fn looks_up_on_device(&self) -> bool {
        self.on_device.is_some()
    }

    /// Builds the hierarchy and writes parents, classes, confidences and unknown scores into `levels`.
    ///
    /// # Errors
    /// When lengths do not fit each other.
    pub fn run(
        &mut self,
        segments: &SegmentMap,
        (transitions, num_transitions): ([&[f32]; MAX_LEVELS], usize),
        continuity: Continuity<'_>,
        levels: &mut Vec<LevelSegments>,
    ) -> Result<(), StageError> {
        let sizes = self.deployment.level_sizes();
        self.hierarchy
            .from_transitions(&segments.areas, &transitions[..num_transitions], sizes)
            .map_err(StageError::at("label"))?;
        levels.resize_with(sizes.len(), LevelSegments::default);
        for (level, (out, &size)) in levels.iter_mut().zip(sizes).enumerate() {
            out.segments.clear();
            out.segments.resize(size, Default::default());
            out.parents.clear();
            if level + 1 < sizes.len() {
                // segcore's NONE and the sinks' NO_SEGMENT are the same value; the map keeps that a fact, not a hope.
                let parents = self.hierarchy.parents(level).iter();
                out.parents.extend(parents.map(|&parent| if parent == NONE { NO_SEGMENT } else { parent }));
            }
        }
        self.look_up(segments, continuity)?;
        self.name_segments(segments, levels);
        Ok(())
    }

    /// Finds the votes of all segments that exist, asking the bank about those that changed.
    fn look_up(&mut self, segments: &SegmentMap, continuity: Continuity<'_>) -> Result<(), StageError> {
        self.slots.clear();
        self.votes.clear();
        self.asked.clear();
        self.queries.clear();
        if !self.deployment.has_classes() {
            return Ok(());
        }
        let dim = self.deployment.manifest().network.embedding_dim;
        average_prototypes(&mut self.averages, &mut self.was_present, segments, continuity);
        self.kept.forget(&self.averages, &segments.areas, continuity);
        for (slot, prototype) in self.averages.chunks_exact(dim).enumerate() {
            if segments.areas[slot] > 0 {
                self.slots.push(slot);
                if self.kept.unknown_score(slot).is_none() {
                    self.asked.push(slot);
                    self.queries.extend_from_slice(prototype);
                }
            }
        }
        if !self.has_room && !self.queries.is_empty() {
            // Once as many as there can be, whose answers nobody reads: no later frame needs more memory.
            let most = segments.areas.len() * dim;
            let num_first = self.queries.len();
            self.queries.reserve_exact(most.saturating_sub(num_first));
            for place in num_first..most {
                self.queries.push(self.queries[place % num_first]);
            }
            self.slots.reserve(segments.areas.len());
            self.asked.reserve(segments.areas.len());
            self.votes.reserve(segments.areas.len());
            self.has_room = true;
        }
        let num_shares = num_shares(&self.deployment);
        let weighting = match self.naming {
            Naming::Pooled => Weighting::Similarity { temperature: VOTE_TEMPERATURE },
            Naming::Counted => Weighting::Equal,
        };
        let queries = (&self.queries[..], NUM_VOTES);
        let answers = (&mut self.shares, &mut self.unknown_scores);
        match (&mut self.on_device, self.deployment.bank(), self.deployment.user()) {
            (Some(lookup), Some(bank), _) => lookup.shares(bank, weighting, queries.0, num_shares, answers)?,
            (None, Some(bank), _) => {
                bank.shares_by(self.search, weighting, queries, num_shares, answers).map_err(StageError::at("label"))?
            }
            (_, None, Some(user)) => user.shares(weighting, queries.0, num_shares, answers),
            (_, None, None) => return Ok(()),
        }
        let answers = self.shares.chunks_exact(num_shares.max(1)).zip(&self.unknown_scores);
        for ((&slot, prototype), (shares, &score)) in self.asked.iter().zip(self.queries.chunks_exact(dim)).zip(answers)
        {
            self.kept.keep(slot, prototype, shares, score);
        }
        let shares = match self.naming {
            Naming::Pooled => self.pooling.run(segments, &self.averages, &self.slots, self.kept.shares(), num_shares),
            Naming::Counted => self.kept.shares(),
        };
        self.votes.extend(self.slots.iter().map(|&slot| {
            let (train_id, confidence) = best_class(&shares[slot * num_shares..(slot + 1) * num_shares]);
            Vote { train_id, confidence, unknown_score: self.kept.unknown_score(slot).unwrap_or(1.0) }
        }));
        Ok(())
    }

    fn name_segments(&mut self, segments: &SegmentMap, levels: &mut [LevelSegments]) {
        if self.slots.is_empty() {
            return;
        }
        let num_shares = num_shares(&self.deployment);
        let num_classes = self.deployment.label_space().num_classes();
        // What is called "none" has no class.
        let class = |place: usize| u8::try_from(place).ok().filter(|_| place < num_classes);
        let Some((finest, groups)) = levels.split_first_mut() else { return };
        for (&slot, vote) in self.slots.iter().zip(&self.votes) {
            let segment = &mut finest.segments[slot];
            segment.train_id = class(usize::from(vote.train_id));
            segment.confidence = segment.train_id.map_or(0.0, |_| vote.confidence);
            segment.unknown_score = vote.unknown_score;
        }
        for (index, level) in groups.iter_mut().enumerate() {
            let labels = self.hierarchy.labels(index + 1);
            for (group, out) in level.segments.iter_mut().enumerate() {
                self.class_areas.clear();
                self.class_areas.resize(num_shares, 0.0);
                self.class_confidences.clear();
                self.class_confidences.resize(num_shares, 0.0);
                let (mut total, mut unknown) = (0.0, 0.0);
                for (&slot, vote) in self.slots.iter().zip(&self.votes) {
                    if usize::from(labels[slot]) == group {
                        let area = f64::from(segments.areas[slot]);
                        total += area;
                        unknown += area * f64::from(vote.unknown_score);
                        if let Some(class) = self.class_areas.get_mut(usize::from(vote.train_id)) {
                            *class += area;
                            self.class_confidences[usize::from(vote.train_id)] += area * f64::from(vote.confidence);
                        }
                    }
                }
                if total > 0.0 {
                    let best = argmax(&self.class_areas);
                    out.train_id = class(best);
                    out.confidence = out.train_id.map_or(0.0, |_| (self.class_confidences[best] / total) as f32);
                    out.unknown_score = (unknown / total) as f32;
                }
            }
        }
    }

    /// Segments of the last frame that were looked up in the bank, and those that were named.
    pub fn lookups(&self) -> (usize, usize) {
        (self.asked.len(), self.votes.len())
    }

    /// The hierarchy of the last frame.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }
}

/// Shares of a segment: one per class, and where a person's names are the only ones the share of "none" ([`retrieval::Overlay`]).
fn num_shares(deployment: &Deployment) -> usize {
    deployment.label_space().num_classes() + usize::from(deployment.bank().is_none())
}

/// Moves the average of each slot towards the prototype of this frame; slots that show something else begin anew.
fn average_prototypes(
    averages: &mut Vec<f32>,
    was_present: &mut Vec<bool>,
    segments: &SegmentMap,
    continuity: Continuity<'_>,
) {
    let num_slots = segments.areas.len();
    if !continuity.tracking || continuity.from_grid || was_present.len() != num_slots {
        was_present.clear();
        was_present.resize(num_slots, false);
        averages.clear();
        averages.resize(segments.prototypes.len(), 0.0);
    }
    let dim = segments.prototypes.len() / num_slots.max(1);
    let slots = averages.chunks_exact_mut(dim.max(1)).zip(segments.prototypes.chunks_exact(dim.max(1)));
    for (slot, ((average, prototype), was_present)) in slots.zip(was_present).enumerate() {
        let lives_on = *was_present
            && !continuity.reseeded.contains(&(slot as u32))
            && dot(average, prototype) >= MIN_PROTOTYPE_SIMILARITY;
        *was_present = segments.areas[slot] > 0;
        if lives_on {
            for (average, &value) in average.iter_mut().zip(prototype) {
                *average += NEWEST_PROTOTYPE_WEIGHT * (value - *average);
            }
            segcore::embedding::normalize(average);
        } else {
            average.copy_from_slice(prototype);
        }
    }
}

/// Index of the largest value, the first of equal ones.
fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}
