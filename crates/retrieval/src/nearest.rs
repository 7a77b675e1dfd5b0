//! The nearest neighbours of one query, kept in order while products come in.

use crate::products::{PANEL, Sink};

/// Largest number of neighbours that can be asked for.
pub const MAX_NEIGHBOURS: usize = 64;

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

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// What a similarity must exceed to be worth inserting. (An equal one with a smaller index would have come first.)
    fn threshold(&self, k: usize) -> f32 {
        if self.len < k { f32::NEG_INFINITY } else { self.similarities[k - 1] }
    }

    /// Keeps the `k` nearest. Within one list, indices must come in rising order, so a tie goes to the earlier one.
    #[inline]
    fn insert(&mut self, similarity: f32, index: u32, k: usize) {
        let mut at = if self.len < k { self.len } else { k - 1 };
        if self.len < k {
            self.len += 1;
        }
        while at > 0 && self.similarities[at - 1] < similarity {
            self.similarities[at] = self.similarities[at - 1];
            self.indices[at] = self.indices[at - 1];
            at -= 1;
        }
        self.similarities[at] = similarity;
        self.indices[at] = index;
    }

    /// Adds the neighbours of a part of the bank whose indices are all larger.
    pub(crate) fn merge(&mut self, later: &Self, k: usize) {
        for (&index, &similarity) in later.indices().iter().zip(later.similarities()) {
            if similarity <= self.threshold(k) {
                break;
            }
            self.insert(similarity, index, k);
        }
    }
}

/// Collects the `k` nearest of `len` prototypes for each query.
pub(crate) struct NearestSink<'a> {
    pub(crate) k: usize,
    /// Number of prototypes; the rest of the last panel is filling.
    pub(crate) len: usize,
    /// Per query, filling included.
    pub(crate) thresholds: &'a mut [f32],
    /// Per query, filling not included.
    pub(crate) nearest: &'a mut [Neighbours],
}

impl NearestSink<'_> {
    /// Empties the lists.
    pub(crate) fn start(&mut self) {
        self.nearest.iter_mut().for_each(Neighbours::clear);
        self.thresholds.fill(f32::NEG_INFINITY);
        // Nothing is above infinity: filling queries are never offered.
        self.thresholds[self.nearest.len()..].fill(f32::INFINITY);
    }
}

impl Sink for NearestSink<'_> {
    #[inline(always)]
    fn thresholds(&self) -> &[f32] {
        self.thresholds
    }

    #[inline(never)]
    fn offer(&mut self, query: usize, panel: usize, products: &[f32; PANEL]) {
        let nearest = &mut self.nearest[query];
        let mut threshold = self.thresholds[query];
        let first = panel * PANEL;
        for (index, &similarity) in (first..self.len).zip(products) {
            if similarity > threshold {
                nearest.insert(similarity, index as u32, self.k);
                threshold = nearest.threshold(self.k);
            }
        }
        self.thresholds[query] = threshold;
    }
}
