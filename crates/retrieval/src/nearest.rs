//! The nearest neighbours of one query: candidates while products come in, then their exact order.
//!
//! A scan multiplies in 32-bit floats, so its products are off by up to [`Judge::margin`]. Whatever is within twice that
//! of the k-th best product may belong to the k nearest, and nothing else may: these are the candidates. Their similarities
//! are computed once more from the stored values in 64 bits, which decides. No neighbour is missed, and the order is that of
//! a plain search in 64 bits, on every machine and with any number of threads.

use crate::panels::{PANEL, Panels};
use crate::products::Sink;

/// Largest number of neighbours that can be asked for.
pub const MAX_NEIGHBOURS: usize = 64;

/// Candidates of one query in one part of the bank.
const CAPACITY: usize = 256;

/// The nearest prototypes of one query, nearest first; equal similarities are in order of index.
#[derive(Clone, Copy)]
pub struct Neighbours {
    len: usize,
    similarities: [f32; MAX_NEIGHBOURS],
    indices: [u32; MAX_NEIGHBOURS],
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { len: 0, similarities: [0.0; MAX_NEIGHBOURS], indices: [0; MAX_NEIGHBOURS] }
    }
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.indices().iter().zip(self.similarities())).finish()
    }
}

impl PartialEq for Neighbours {
    fn eq(&self, other: &Self) -> bool {
        self.indices() == other.indices() && self.similarities() == other.similarities()
    }
}

impl Neighbours {
    /// Number of neighbours: what was asked for, or the size of a smaller bank; 0 for a query that is not finite.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no neighbour.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Indices of the prototypes in the bank.
    pub fn indices(&self) -> &[u32] {
        &self.indices[..self.len]
    }

    /// Their cosine similarities to the query, never rising.
    pub fn similarities(&self) -> &[f32] {
        &self.similarities[..self.len]
    }

    /// Replaces all; at most [`MAX_NEIGHBOURS`] are kept.
    pub(crate) fn set(&mut self, neighbours: impl Iterator<Item = (f64, u32)>) {
        self.len = 0;
        for (similarity, index) in neighbours.take(MAX_NEIGHBOURS) {
            self.similarities[self.len] = similarity as f32;
            self.indices[self.len] = index;
            self.len += 1;
        }
    }
}

/// Candidates of one query: products and slots, in no order.
pub(crate) struct Reservoir {
    len: usize,
    entries: [(f32, u32); CAPACITY],
}

impl Default for Reservoir {
    fn default() -> Self {
        Self { len: 0, entries: [(0.0, 0); CAPACITY] }
    }
}

impl Reservoir {
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn entries(&self) -> &[(f32, u32)] {
        &self.entries[..self.len]
    }

    /// Adds one; true when it is full now and must be shrunk.
    #[inline]
    fn push(&mut self, product: f32, slot: u32) -> bool {
        self.entries[self.len] = (product, slot);
        self.len += 1;
        self.len == CAPACITY
    }

    /// Drops what is not within `slack` of the `k`-th best product, and returns that limit.
    pub(crate) fn drop_far(&mut self, k: usize, slack: f32) -> f32 {
        if self.len <= k {
            return f32::NEG_INFINITY;
        }
        let entries = &mut self.entries[..self.len];
        // By slot among equals, so that without slack the same ones are kept on every run.
        entries.select_nth_unstable_by(k - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let limit = entries[k - 1].0 - slack;
        let mut len = k;
        if slack > 0.0 {
            for index in k..entries.len() {
                if entries[index].0 > limit {
                    entries.swap(index, len);
                    len += 1;
                }
            }
        }
        self.len = len;
        limit
    }
}

/// Decides between candidates.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'a> {
    pub(crate) panels: Panels<'a>,
    /// Index of the prototype in each slot; empty when they are the same.
    pub(crate) indices: &'a [u32],
    /// Neighbours asked for.
    pub(crate) k: usize,
    /// Largest error of a product.
    pub(crate) margin: f32,
}

/// A candidate with its exact similarity.
#[derive(Clone, Copy, Default)]
struct Ranked {
    similarity: f64,
    index: u32,
    product: f32,
    slot: u32,
}

impl<'a> Judge<'a> {
    /// For products in 32-bit floats. Each of the `dimension` sums rounds by at most 2⁻²⁴ of Σ|a·b| ≤ 1, as do the query,
    /// the prototype's factor and their product, which are rounded once each: below (dimension + 4) · 2⁻²⁴ for the
    /// dimensions that fit in memory. Twice that is taken.
    pub(crate) fn new(panels: Panels<'a>, indices: &'a [u32], k: usize) -> Self {
        Self { panels, indices, k, margin: (panels.dimension + 8) as f32 * f32::EPSILON }
    }

    /// Exact similarities of all candidates to a query, best first, equal ones in order of index; the number of them.
    fn rank(&self, reservoir: &Reservoir, query: &[f32], out: &mut [Ranked; CAPACITY]) -> usize {
        let square: f64 = query.iter().map(|v| f64::from(*v).powi(2)).sum();
        for (out, &(product, slot)) in out.iter_mut().zip(reservoir.entries()) {
            let (dot, stored_square) = self.panels.dot_and_square(slot as usize, query);
            *out = Ranked {
                similarity: dot / (square * stored_square).sqrt(),
                index: self.indices.get(slot as usize).copied().unwrap_or(slot),
                product,
                slot,
            };
        }
        let ranked = &mut out[..reservoir.len];
        ranked.sort_unstable_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.index.cmp(&b.index)));
        ranked.len()
    }

    /// Makes room, and returns what a product must exceed from now on; `threshold`: what it had to exceed so far.
    #[cold]
    fn shrink(&self, reservoir: &mut Reservoir, query: &[f32], threshold: f32) -> f32 {
        let threshold = threshold.max(reservoir.drop_far(self.k, 2.0 * self.margin));
        if reservoir.len <= CAPACITY / 2 {
            return threshold;
        }
        // Too many are too close to each other: decide now.
        let mut ranked = [Ranked::default(); CAPACITY];
        let len = self.rank(reservoir, query, &mut ranked).min(self.k);
        for (entry, ranked) in reservoir.entries.iter_mut().zip(&ranked[..len]) {
            *entry = (ranked.product, ranked.slot);
        }
        reservoir.len = len;
        threshold.max(ranked[len - 1].similarity as f32 - self.margin)
    }

    /// Adds candidates of another part of the bank.
    pub(crate) fn merge(&self, reservoir: &mut Reservoir, query: &[f32], later: &Reservoir) {
        let mut threshold = f32::NEG_INFINITY;
        for &(product, slot) in later.entries() {
            if product > threshold && reservoir.push(product, slot) {
                threshold = self.shrink(reservoir, query, threshold);
            }
        }
    }

    /// The `k` nearest of all candidates.
    pub(crate) fn decide(&self, reservoir: &mut Reservoir, query: &[f32], out: &mut Neighbours) {
        reservoir.drop_far(self.k, 2.0 * self.margin);
        let mut ranked = [Ranked::default(); CAPACITY];
        let len = self.rank(reservoir, query, &mut ranked).min(self.k);
        out.set(ranked[..len].iter().map(|ranked| (ranked.similarity, ranked.index)));
    }
}

/// Collects the candidates of some queries in a part of a bank.
pub(crate) struct NearestSink<'a> {
    pub(crate) judge: Judge<'a>,
    /// `[n, dimension]`, of any length.
    pub(crate) queries: &'a [f32],
    /// Which of them the products belong to, in order; empty for all of them.
    pub(crate) members: &'a [u32],
    /// In the order of the products, filling included.
    pub(crate) thresholds: &'a mut [f32],
    /// One per query.
    pub(crate) reservoirs: &'a mut [Reservoir],
}

impl Sink for NearestSink<'_> {
    #[inline(always)]
    fn thresholds(&self) -> &[f32] {
        self.thresholds
    }

    #[inline(never)]
    fn offer(&mut self, at: usize, panel: usize, products: &[f32; PANEL]) {
        let query = self.members.get(at).map_or(at, |&member| member as usize);
        let reservoir = &mut self.reservoirs[query];
        let mut threshold = self.thresholds[at];
        for (lane, &product) in products.iter().enumerate() {
            if product > threshold && reservoir.push(product, (panel * PANEL + lane) as u32) {
                let dimension = self.judge.panels.dimension;
                let query = &self.queries[query * dimension..][..dimension];
                threshold = self.judge.shrink(reservoir, query, threshold);
            }
        }
        self.thresholds[at] = threshold;
    }
}

/// Collects the slots with the `k` largest products as they are, rounding included.
pub(crate) struct LargestSink<'a> {
    pub(crate) k: usize,
    /// Per query, filling included.
    pub(crate) thresholds: &'a mut [f32],
    /// One per query.
    pub(crate) reservoirs: &'a mut [Reservoir],
}

impl Sink for LargestSink<'_> {
    #[inline(always)]
    fn thresholds(&self) -> &[f32] {
        self.thresholds
    }

    #[inline(never)]
    fn offer(&mut self, query: usize, panel: usize, products: &[f32; PANEL]) {
        let reservoir = &mut self.reservoirs[query];
        let mut threshold = self.thresholds[query];
        for (lane, &product) in products.iter().enumerate() {
            if product > threshold && reservoir.push(product, (panel * PANEL + lane) as u32) {
                threshold = threshold.max(reservoir.drop_far(self.k, 0.0));
            }
        }
        self.thresholds[query] = threshold;
    }
}
