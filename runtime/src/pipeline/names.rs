//! \[F5\] What the bank says about the segments → one class per segment that does not hang on a near tie.
//!
//! Most base segments near a border between classes have neighbours of both in the bank. Counted one by one, such a segment
//! changes its class as a whole when its prototype moves by the noise of a camera, and the segments beside it, as near a tie as
//! it is, stay. Two things make names steadier, and better (`docs/benchmarks/accuracy.md`, "Names"):
//!
//! 1. The 20 votes count by similarity ([`VOTE_TEMPERATURE`]).
//! 2. A segment's shares are averaged with those of the segments around it that look alike. Segment j counts for segment i
//!
//!    area(j) · exp((cos(i, j) − 1) / [`ALIKE_TEMPERATURE`]) · exp(−d(i, j)² / 2σ²)
//!
//!    with cos between prototypes and d between the segments' centres; σ is [`REACH`] times the width of a mean segment, and
//!    nothing beyond 3σ counts. A segment between two trees is a tree unless it looks different; one that does, keeps its own
//!    name.
//!
//! Every class still comes from the bank and belongs to a whole segment.

use segcore::spherical_kmeans::SegmentMap;

use super::segment::dot;

/// Temperature of the votes by similarity.
pub const VOTE_TEMPERATURE: f32 = 0.05;
/// Temperature of the likeness of two segments.
pub const ALIKE_TEMPERATURE: f32 = 0.2;
/// How far pooling reaches, in widths of a mean segment.
pub const REACH: f32 = 4.0 / 3.0;

/// How segments get their classes. The settings of [`Naming::Pooled`] were chosen on CamVid val with two banks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// By votes that are weighted and pooled. The default.
    #[default]
    Pooled,
    /// By the majority of the 20 nearest prototypes, each segment by itself (`--count-votes`): the paper's protocol.
    Counted,
}

/// Averages the shares of segments with those around them. Memory is reused from frame to frame.
#[derive(Debug, Default)]
pub struct Pooling {
    /// Row and column of the middle of each slot, in cells; the sums before.
    centres: Vec<[f32; 2]>,
    /// `[slots, classes]`.
    pooled: Vec<f32>,
}

impl Pooling {
    /// The pooled shares `[slots, classes]` of these; those of slots without cells are 0.
    ///
    /// `prototypes` `[slots, dim]` are those that were looked up, `slots` those that have cells.
    pub fn run(
        &mut self,
        segments: &SegmentMap,
        prototypes: &[f32],
        slots: &[usize],
        shares: &[f32],
        num_classes: usize,
    ) -> &[f32] {
        self.find_centres(segments);
        self.pooled.clear();
        self.pooled.resize(shares.len(), 0.0);
        let cells: f32 = slots.iter().map(|&slot| segments.areas[slot] as f32).sum();
        let sigma_squared = REACH * REACH * cells / slots.len().max(1) as f32;
        let dim = prototypes.len() / segments.areas.len().max(1);
        let prototype = |slot: usize| &prototypes[slot * dim..(slot + 1) * dim];
        let shares_of = |slot: usize| slot * num_classes..(slot + 1) * num_classes;
        for &slot in slots {
            let out = &mut self.pooled[shares_of(slot)];
            for &other in slots {
                let [rows, columns] = [0, 1].map(|axis| self.centres[slot][axis] - self.centres[other][axis]);
                let distance = (rows * rows + columns * columns) / sigma_squared;
                if distance > 9.0 {
                    continue;
                }
                // A segment is like itself whatever its numbers are.
                let cosine = if slot == other { 1.0 } else { dot(prototype(slot), prototype(other)) };
                let weight = ((cosine - 1.0) / ALIKE_TEMPERATURE - distance / 2.0).exp() * segments.areas[other] as f32;
                // Not so for a prototype that is no number.
                if weight.is_finite() {
                    for (out, &share) in out.iter_mut().zip(&shares[shares_of(other)]) {
                        *out += weight * share;
                    }
                }
            }
            let total: f32 = out.iter().sum();
            if total > 0.0 {
                out.iter_mut().for_each(|share| *share /= total);
            }
        }
        &self.pooled
    }

    fn find_centres(&mut self, segments: &SegmentMap) {
        self.centres.clear();
        self.centres.resize(segments.areas.len(), [0.0; 2]);
        for (row, labels) in segments.labels.chunks_exact(segments.width.max(1)).enumerate() {
            for (column, &label) in labels.iter().enumerate() {
                if let Some([rows, columns]) = self.centres.get_mut(usize::from(label)) {
                    *rows += row as f32;
                    *columns += column as f32;
                }
            }
        }
        for (centre, &area) in self.centres.iter_mut().zip(&segments.areas) {
            *centre = centre.map(|sum| sum / area.max(1) as f32);
        }
    }
}

/// The class with the largest share, the first of equal ones, and that share; class 0 and share 0 when there is none.
pub fn best_class(shares: &[f32]) -> (u8, f32) {
    let mut best = (0, 0.0);
    for (class, &share) in (0u8..=255).zip(shares) {
        // Strictly more: the smallest class keeps a tie.
        if share > best.1 {
            best = (class, share);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of six segments, three cells high and wide each; the second half of them looks different by this angle.
    fn row(angle: f32) -> SegmentMap {
        let labels = (0..3 * 18).map(|cell| (cell % 18 / 3) as u16).collect();
        let prototypes =
            (0..6).flat_map(|slot| if slot < 3 { [1.0, 0.0] } else { [angle.cos(), angle.sin()] }).collect();
        SegmentMap { height: 3, width: 18, num_slots: 6, labels, areas: vec![9; 6], prototypes }
    }

    fn pooled(segments: &SegmentMap, shares: &[[f32; 2]; 6]) -> Vec<u8> {
        let slots: Vec<usize> = (0..6).collect();
        let mut pooling = Pooling::default();
        let pooled = pooling.run(segments, &segments.prototypes, &slots, shares.as_flattened(), 2);
        for shares in pooled.chunks_exact(2) {
            assert!((shares[0] + shares[1] - 1.0).abs() < 1e-5, "{shares:?}");
        }
        pooled.chunks_exact(2).map(|shares| best_class(shares).0).collect()
    }

    const SURE: [f32; 2] = [0.9, 0.1];
    const OTHER: [f32; 2] = [0.1, 0.9];

    #[test]
    fn a_near_tie_follows_what_looks_alike_around_it() {
        let segments = row(1.2);
        // Segment 1 between two sure ones; segment 3 is beside segment 2 but looks like 4 and 5.
        let shares = [SURE, [0.48, 0.52], SURE, [0.52, 0.48], OTHER, OTHER];
        assert_eq!(pooled(&segments, &shares), [0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn what_looks_different_keeps_its_name() {
        let mut segments = row(0.0);
        segments.prototypes[2..4].copy_from_slice(&[0.0, 1.0]);
        let shares = [SURE, OTHER, SURE, SURE, SURE, SURE];
        assert_eq!(pooled(&segments, &shares), [0, 1, 0, 0, 0, 0]);
        // The same name from a segment that looks like all others is overruled.
        assert_eq!(pooled(&row(0.0), &shares), [0; 6]);
    }

    #[test]
    fn what_is_far_away_does_not_count() {
        // σ is 4 cells: 15 cells between the first and the last segment are beyond 3σ.
        let none = [0.0, 0.0];
        let segments = row(0.0);
        let slots = [0, 5];
        let mut pooling = Pooling::default();
        let shares = [SURE, none, none, none, none, OTHER];
        let pooled = pooling.run(&segments, &segments.prototypes, &slots, shares.as_flattened(), 2);
        assert!((pooled[0] - 0.9).abs() < 1e-6 && (pooled[11] - 0.9).abs() < 1e-6, "{pooled:?}");
        assert_eq!(pooled[2..10], [0.0; 8]);
    }

    #[test]
    fn numbers_that_are_none_harm_nobody_else() {
        let mut segments = row(0.0);
        segments.prototypes[0] = f32::NAN;
        let shares = [[0.0, 0.0], SURE, SURE, SURE, SURE, SURE];
        let mut pooling = Pooling::default();
        let pooled =
            pooling.run(&segments, &segments.prototypes, &[0, 1, 2, 3, 4, 5], shares.as_flattened(), 2).to_vec();
        assert_eq!((best_class(&pooled[..2]), best_class(&[])), ((0, 0.0), (0, 0.0)));
        assert!(pooled[2..].iter().all(|share| share.is_finite()));
    }

    #[test]
    fn ties_go_to_the_smallest_class() {
        assert_eq!(best_class(&[0.2, 0.4, 0.4]), (1, 0.4));
    }
}
