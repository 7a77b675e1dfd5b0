//! The strictly nested hierarchy of segments, and the two class ids that must not be mixed up.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Dense class id, 0 first; the label space names it.
    TrainId(u8)
);
id!(
    /// Class value in a data set's own files.
    ClassId(i32)
);

/// Marks a segment without parent (it has no pixels), and a pixel or cell without segment.
pub const NONE: u16 = u16::MAX;

/// Why a hierarchy cannot be built.
#[derive(Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HierarchyError {
    /// `sizes` must name level 0 and one size per transition.
    #[error("{num_transitions} transitions need {expected} level sizes, got {got}")]
    WrongLevels {
        /// Transitions given.
        num_transitions: usize,
        /// Sizes needed.
        expected: usize,
        /// Sizes given.
        got: usize,
    },
    /// A level has no segments, or more than a 16-bit id can name.
    #[error("level {level} has {size} segments, expected 1 to 65534")]
    WrongSize {
        /// The level.
        level: usize,
        /// Its size.
        size: usize,
    },
    /// `areas` or a transition has another length.
    #[error("{what} of level {level} has {got} values, expected {expected}")]
    WrongLength {
        /// `areas` or `transition`.
        what: &'static str,
        /// The level it belongs to (a transition belongs to the finer one).
        level: usize,
        /// Values needed.
        expected: usize,
        /// Values given.
        got: usize,
    },
}

/// One parent per segment per level (§4): there is no way to build one that is not nested.
///
/// Level 0 are the k-means slots; level l+1 are the groups of transition l. Segments without pixels have no parent and
/// are not part of the tree. Memory is reused from frame to frame.
#[derive(Clone, Debug, Default)]
pub struct Hierarchy {
    sizes: Vec<usize>,
    /// `parents[l][g]`: parent at level l+1 of segment g of level l, or [`NONE`].
    parents: Vec<Vec<u16>>,
    /// `labels[l][slot]`: segment of level l that holds the slot, or [`NONE`].
    labels: Vec<Vec<u16>>,
    /// Pixels per segment per level.
    areas: Vec<Vec<u64>>,
    agreement: Vec<f64>,
    /// Soft assignment P_l `[n_0, n_l]` and the next one, and the votes `[n_l, n_{l+1}]`.
    soft: Vec<f64>,
    next_soft: Vec<f64>,
    votes: Vec<f64>,
}

impl Hierarchy {
    /// An empty hierarchy (no levels).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds the strict tree from soft transitions.
    ///
    /// * `areas` `[n_0]`: pixels (or cells) per slot; 0 = the slot is empty.
    /// * `transitions[l]` `[n_l, n_{l+1}]` row-major: C_l^{l+1}, rows sum to 1.
    /// * `sizes` `[L+1]`: n_0 … n_L.
    ///
    /// P_{l+1} = P_l · C (Eq. 7); parent(g) = argmax over k of Σ over the slots i in g (by the strict tree so far) of
    /// `areas[i]` · P_{l+1}\[i, k\], ties to the lowest k. NaN counts as minus infinity.
    ///
    /// # Errors
    /// When lengths do not fit; the hierarchy is then unchanged.
    pub fn from_transitions(
        &mut self,
        areas: &[u32],
        transitions: &[&[f32]],
        sizes: &[usize],
    ) -> Result<(), HierarchyError> {
        check(areas, transitions, sizes)?;
        let num_levels = sizes.len();
        let num_slots = sizes[0];
        self.sizes.clear();
        self.sizes.extend_from_slice(sizes);
        self.parents.resize_with(num_levels - 1, Vec::new);
        self.labels.resize_with(num_levels, Vec::new);
        self.areas.resize_with(num_levels, Vec::new);
        self.agreement.clear();
        self.agreement.push(1.0);

        self.labels[0].clear();
        self.labels[0].extend(areas.iter().enumerate().map(|(i, &a)| if a > 0 { i as u16 } else { NONE }));
        self.areas[0].clear();
        self.areas[0].extend(areas.iter().map(|&a| u64::from(a)));
        let total: u64 = self.areas[0].iter().sum();

        // P_0 is the identity: the first product is the transition itself.
        self.soft.clear();
        for (level, transition) in transitions.iter().enumerate() {
            let (n, n_next) = (sizes[level], sizes[level + 1]);
            self.next_soft.clear();
            if level == 0 {
                self.next_soft.extend(transition.iter().map(|&p| f64::from(p)));
            } else {
                self.next_soft.resize(num_slots * n_next, 0.0);
                for (row, out) in self.soft.chunks_exact(n).zip(self.next_soft.chunks_exact_mut(n_next)) {
                    for (&p, c) in row.iter().zip(transition.chunks_exact(n_next)) {
                        for (o, &c) in out.iter_mut().zip(c) {
                            *o += p * f64::from(c);
                        }
                    }
                }
            }
            std::mem::swap(&mut self.soft, &mut self.next_soft);

            self.votes.clear();
            self.votes.resize(n * n_next, 0.0);
            for (slot, p) in self.soft.chunks_exact(n_next).enumerate() {
                let segment = self.labels[level][slot];
                if segment != NONE {
                    let votes = &mut self.votes[usize::from(segment) * n_next..][..n_next];
                    for (v, &p) in votes.iter_mut().zip(p) {
                        *v += f64::from(areas[slot]) * p;
                    }
                }
            }
            let parents = &mut self.parents[level];
            parents.clear();
            parents.extend(
                self.votes
                    .chunks_exact(n_next)
                    .zip(&self.areas[level])
                    .map(|(votes, &area)| if area > 0 { argmax(votes) } else { NONE }),
            );

            let (finer, coarser) = self.labels.split_at_mut(level + 1);
            let labels = &mut coarser[0];
            labels.clear();
            labels.extend(finer[level].iter().map(|&s| if s == NONE { NONE } else { parents[usize::from(s)] }));
            let next_areas = &mut self.areas[level + 1];
            next_areas.clear();
            next_areas.resize(n_next, 0);
            let mut agreeing = 0;
            for (slot, &label) in labels.iter().enumerate() {
                if label != NONE {
                    let area = u64::from(areas[slot]);
                    next_areas[usize::from(label)] += area;
                    if argmax(&self.soft[slot * n_next..][..n_next]) == label {
                        agreeing += area;
                    }
                }
            }
            self.agreement.push(if total == 0 { 1.0 } else { agreeing as f64 / total as f64 });
        }
        Ok(())
    }

    /// Number of levels, level 0 (the slots) included.
    #[must_use]
    pub fn num_levels(&self) -> usize {
        self.sizes.len()
    }

    /// Number of segment ids of a level, empty segments included.
    ///
    /// # Panics
    /// When there is no such level (true for every function below that takes a level).
    #[must_use]
    pub fn segments(&self, level: usize) -> usize {
        self.sizes[level]
    }

    /// Parent at `level + 1` of each segment of `level`; [`NONE`] for segments without pixels.
    #[must_use]
    pub fn parents(&self, level: usize) -> &[u16] {
        &self.parents[level]
    }

    /// Segment of `level` that holds each slot, `[n_0]`; [`NONE`] for empty slots. This is also the look-up table from
    /// a slot map to a label map of the level.
    #[must_use]
    pub fn labels(&self, level: usize) -> &[u16] {
        &self.labels[level]
    }

    /// Pixels (in the unit of the `areas` given) of each segment of `level`.
    #[must_use]
    pub fn areas(&self, level: usize) -> &[u64] {
        &self.areas[level]
    }

    /// Segments of `level` that have pixels.
    #[must_use]
    pub fn num_segments_in_use(&self, level: usize) -> usize {
        self.areas[level].iter().filter(|&&a| a > 0).count()
    }

    /// Segment of `level` that holds `slot`; `None` for an empty or unknown slot or level.
    #[must_use]
    pub fn label_at(&self, level: usize, slot: u16) -> Option<u16> {
        self.labels.get(level)?.get(usize::from(slot)).copied().filter(|&label| label != NONE)
    }

    /// Share of pixels (0–1) whose strict label at `level` is the arg-max of the soft assignment P_l.
    #[must_use]
    pub fn agreement(&self, level: usize) -> f64 {
        self.agreement[level]
    }

    /// Writes the label map of `level` for a map of slots ([`NONE`] stays [`NONE`]).
    ///
    /// # Panics
    /// When `out` has another length than `slots`, or there is no such level.
    pub fn write_labels(&self, level: usize, slots: &[u16], out: &mut [u16]) {
        assert_eq!(slots.len(), out.len(), "label maps must have the size of the slot map");
        let table = &self.labels[level];
        for (out, &slot) in out.iter_mut().zip(slots) {
            *out = table.get(usize::from(slot)).copied().unwrap_or(NONE);
        }
    }
}

fn check(areas: &[u32], transitions: &[&[f32]], sizes: &[usize]) -> Result<(), HierarchyError> {
    if sizes.len() != transitions.len() + 1 {
        return Err(HierarchyError::WrongLevels {
            num_transitions: transitions.len(),
            expected: transitions.len() + 1,
            got: sizes.len(),
        });
    }
    for (level, &size) in sizes.iter().enumerate() {
        if size == 0 || size >= usize::from(NONE) {
            return Err(HierarchyError::WrongSize { level, size });
        }
    }
    if areas.len() != sizes[0] {
        return Err(HierarchyError::WrongLength { what: "areas", level: 0, expected: sizes[0], got: areas.len() });
    }
    for (level, transition) in transitions.iter().enumerate() {
        let expected = sizes[level] * sizes[level + 1];
        if transition.len() != expected {
            return Err(HierarchyError::WrongLength { what: "transition", level, expected, got: transition.len() });
        }
    }
    Ok(())
}

/// Index of the largest value, ties to the lowest; NaN never wins.
fn argmax(values: &[f64]) -> u16 {
    let mut best = 0;
    let mut best_value = f64::NEG_INFINITY;
    for (k, &value) in values.iter().enumerate() {
        if value > best_value {
            best = k;
            best_value = value;
        }
    }
    best as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_parents_by_pixels() {
        // Slot 1 prefers group 1, slots 0 and 2 group 0; at the next level group 0 is torn: slot 0 (10 pixels) wants
        // the second group, slot 2 (2 pixels) as well by Eq. 7.
        let c01 = [0.9, 0.1, 0.2, 0.8, 0.6, 0.4];
        let c12 = [0.3, 0.7, 1.0, 0.0];
        let mut h = Hierarchy::new();
        h.from_transitions(&[10, 5, 2], &[&c01, &c12], &[3, 2, 2]).unwrap();
        assert_eq!(h.num_levels(), 3);
        assert_eq!(h.parents(0), [0, 1, 0]);
        assert_eq!(h.parents(1), [1, 0]);
        assert_eq!(h.labels(2), [1, 0, 1]);
        assert_eq!(h.areas(1), [12, 5]);
        assert_eq!(h.label_at(2, 1), Some(0));
        // P_2 of slot 2 = 0.6·0.3 + 0.4·1 = 0.58 for group 0: the strict tree disagrees on its 2 of 17 pixels.
        assert!((h.agreement(2) - 15.0 / 17.0).abs() < 1e-12);
    }

    #[test]
    fn empty_slots_and_ties() {
        let c = [0.5, 0.5, 0.5, 0.5, f32::NAN, 0.1];
        let mut h = Hierarchy::new();
        h.from_transitions(&[3, 0, 1], &[&c], &[3, 2]).unwrap();
        assert_eq!(h.parents(0), [0, NONE, 1]);
        assert_eq!(h.label_at(1, 1), None);
        assert_eq!(h.label_at(1, 9), None);
        assert_eq!(h.label_at(7, 0), None);
        assert_eq!(h.num_segments_in_use(0), 2);
        let mut out = [0; 3];
        h.write_labels(1, &[2, 1, NONE], &mut out);
        assert_eq!(out, [1, NONE, NONE]);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let mut h = Hierarchy::new();
        assert!(h.from_transitions(&[1], &[], &[]).is_err());
        assert!(h.from_transitions(&[1], &[&[1.0]], &[1]).is_err());
        assert!(h.from_transitions(&[1, 1], &[&[1.0]], &[1, 1]).is_err());
        assert!(h.from_transitions(&[1], &[&[1.0, 0.0]], &[1, 1]).is_err());
        assert!(h.from_transitions(&[], &[], &[0]).is_err());
        assert!(h.from_transitions(&[1], &[], &[1]).is_ok());
        assert_eq!(h.num_levels(), 1);
    }
}
