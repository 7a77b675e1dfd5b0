//! A person's prototypes laid over a bank: how much a handful of them say beside some ten thousand.
//!
//! One among 20 neighbours never has a majority, and whoever says "this is a forklift" has said it once. So each of the
//! person's prototypes counts as if it stood in the bank 20 times ([`NUM_VOTES`]): of the 20 nearest, those that are nearer
//! than the person's nearest keep their votes, and all the other votes are the person's. What the bank knows better stays what it was,
//! therefore; what it knows less well, or not at all, is what the person says. The person's votes are shared out among the (at
//! most 20) nearest of their prototypes by similarity, as are all votes with [`Weighting::Similarity`]; with
//! [`Weighting::Equal`] the nearest has them all.
//!
//! A prototype says something about its like alone: below a cosine of [`LIKE`] it has no vote, so that naming one thing on
//! a street that the bank does not know does not give its name to everything else there. Without a bank nothing else has a
//! name: "none" is a class of its own then, the last one, which has its votes at a cosine of [`LIKE`].

use crate::user::same_name;
use crate::{NUM_VOTES, UserBank, Weighting};

/// Least cosine at which a person's prototype says something about a segment.
pub const LIKE: f32 = 0.7;

/// A person's prototypes with their train ids, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    dimension: usize,
    /// `[n, dimension]`, unit vectors.
    prototypes: Vec<f32>,
    labels: Vec<u8>,
}

/// The person's prototypes nearest to a query: similarity and label, nearest first.
pub(crate) struct NearestOfUser {
    entries: [(f32, u8); NUM_VOTES],
    len: usize,
}

impl Overlay {
    /// Of all entries whose name is among the classes; a class's train id is its place there.
    pub fn new(user: &UserBank, classes: &[&str]) -> Self {
        let mut overlay = Self { dimension: user.dim(), prototypes: Vec::new(), labels: Vec::new() };
        for entry in user.entries() {
            let place = classes.iter().position(|class| same_name(class, &entry.name));
            if let Some(label) = place.and_then(|place| u8::try_from(place).ok()) {
                overlay.prototypes.extend_from_slice(&entry.prototype);
                overlay.labels.push(label);
            }
        }
        overlay
    }

    /// Number of prototypes.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Largest train id; 0 without prototypes.
    pub(crate) fn largest_label(&self) -> u8 {
        self.labels.iter().copied().max().unwrap_or(0)
    }

    /// Those that are like a query, which need not have unit length; none for one without direction.
    pub(crate) fn nearest(&self, query: &[f32]) -> NearestOfUser {
        let mut nearest = NearestOfUser { entries: [(0.0, 0); NUM_VOTES], len: 0 };
        let norm = dot(query, query).sqrt();
        if query.len() == self.dimension && norm.is_finite() && norm > 1e-6 {
            for (prototype, &label) in self.prototypes.chunks_exact(self.dimension).zip(&self.labels) {
                nearest.offer((dot(prototype, query) / norm).min(1.0), label);
            }
        }
        nearest
    }

    /// What the person's prototypes alone say of queries `[n, dim]`, where there is no bank: shares of the classes and of
    /// "none", the last of `num_shares` ([`crate::Bank::shares_by`] otherwise), and unknown scores. "None"
    /// alone for a query that is not finite.
    pub fn shares(
        &self,
        weighting: Weighting,
        queries: &[f32],
        num_shares: usize,
        (shares, unknown_scores): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        shares.clear();
        shares.resize(queries.len() / self.dimension.max(1) * num_shares, 0.0);
        unknown_scores.clear();
        let queries = queries.chunks_exact(self.dimension.max(1));
        for (query, shares) in queries.zip(shares.chunks_exact_mut(num_shares.max(1))) {
            let closest = self.closest(query);
            unknown_scores.push(closest.map_or(1.0, |closest| (1.0 - closest).clamp(0.0, 2.0)));
            let Some((none, classes)) = shares.split_last_mut() else { continue };
            let Some(closest) = closest else {
                // Of shares that are all 0 the first class would be the largest.
                *none = 1.0;
                continue;
            };
            let (of_user, of_none) = match weighting {
                Weighting::Equal => (f32::from(u8::from(closest >= LIKE)), f32::from(u8::from(closest < LIKE))),
                Weighting::Similarity { temperature } => {
                    let most = closest.max(LIKE);
                    (((closest - most) / temperature).exp(), ((LIKE - most) / temperature).exp())
                }
            };
            self.nearest(query).share_out(weighting, of_user / (of_user + of_none), classes);
            *none = of_none / (of_user + of_none);
        }
    }

    /// Similarity of the prototype nearest to a query.
    fn closest(&self, query: &[f32]) -> Option<f32> {
        let norm = dot(query, query).sqrt();
        if query.len() != self.dimension || !norm.is_finite() {
            return None;
        }
        let similarity = |prototype: &[f32]| if norm > 1e-6 { (dot(prototype, query) / norm).min(1.0) } else { 0.0 };
        self.prototypes.chunks_exact(self.dimension.max(1)).map(similarity).reduce(f32::max)
    }
}

impl NearestOfUser {
    /// Keeps the nearest ones; of equal ones those that came first.
    fn offer(&mut self, similarity: f32, label: u8) {
        let is_kept = similarity >= LIKE && (self.len < NUM_VOTES || similarity > self.entries[NUM_VOTES - 1].0);
        if !is_kept {
            return;
        }
        let mut place = self.len.min(NUM_VOTES - 1);
        while place > 0 && self.entries[place - 1].0 < similarity {
            self.entries[place] = self.entries[place - 1];
            place -= 1;
        }
        self.entries[place] = (similarity, label);
        self.len = (self.len + 1).min(NUM_VOTES);
    }

    /// Similarity of the nearest.
    pub(crate) fn closest(&self) -> Option<f32> {
        self.entries[..self.len].first().map(|(similarity, _)| *similarity)
    }

    /// Adds so much to the shares, by class.
    pub(crate) fn share_out(&self, weighting: Weighting, amount: f32, shares: &mut [f32]) {
        let Some(closest) = self.closest() else { return };
        let weight = |rank: usize, similarity: f32| match weighting {
            Weighting::Equal => f32::from(u8::from(rank == 0)),
            Weighting::Similarity { temperature } => ((similarity - closest) / temperature).exp(),
        };
        let entries = || self.entries[..self.len].iter().enumerate();
        let total: f32 = entries().map(|(rank, (similarity, _))| weight(rank, *similarity)).sum();
        for (rank, (similarity, label)) in entries() {
            if let Some(share) = shares.get_mut(usize::from(*label)) {
                *share += amount * weight(rank, *similarity) / total;
            }
        }
    }
}

/// Sum of products, in a fixed order that compilers make vectors of.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_wide, a_rest) = a.as_chunks::<16>();
    let (b_wide, b_rest) = b.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for (a, b) in a_wide.iter().zip(b_wide) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
