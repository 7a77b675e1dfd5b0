//! Groupings that stay over time: the transitions of a frame, renumbered and averaged with those of the frames before.
//!
//! The network orders the groups of each frame by their largest logit, so the same group has another number in the next
//! frame, and a segment that is half in one group and half in another goes back and forth. Here the columns of each
//! transition are matched with those of the frames before by the pixels that they share softly, greedily, largest first,
//! and then averaged. A group without pixels keeps its column, which is how it comes back as the same group. Nothing is
//! averaged over a start from the grid, nor for a slot that was re-seeded or empty: it shows something else.

use segcore::spherical_kmeans::SegmentMap;

use super::MAX_LEVELS;
use super::associate::Continuity;

/// Weight of the newest frame in the average of the transitions (figures: `docs/benchmarks/accuracy.md`, "Over time").
pub const NEWEST_WEIGHT: f32 = 0.1;

/// Averages the transitions of a stream.
#[derive(Debug, Default)]
pub struct TransitionSmoother {
    /// Averages `[n_l, n_{l+1}]`, fine to coarse.
    averages: [Vec<f32>; MAX_LEVELS],
    /// Areas of the last frame, per slot.
    areas: Vec<u32>,
    /// Pixels per segment of the finer level, softly.
    masses: Vec<f32>,
    next_masses: Vec<f32>,
    /// Common pixels of each column of this frame (row) with each of the average.
    common: Vec<f32>,
    /// Column of the average that each column of this frame continues; of the finer level, and of this one.
    places: Vec<usize>,
    next_places: Vec<usize>,
}

impl TransitionSmoother {
    /// Takes the transitions of a frame, `sizes` n_0 … n_L.
    pub fn run(&mut self, transitions: &[&[f32]], sizes: &[usize], segments: &SegmentMap, continuity: Continuity<'_>) {
        let anew = !continuity.tracking || continuity.from_grid || self.areas.len() != segments.areas.len();
        self.places.clear();
        self.places.extend(0..segments.areas.len());
        self.masses.clear();
        self.masses.extend(segments.areas.iter().map(|&area| area as f32));
        for (level, (&transition, pair)) in transitions.iter().zip(sizes.windows(2)).enumerate() {
            let (rows, columns) = (pair[0], pair[1]);
            let average = &mut self.averages[level];
            if anew || average.len() != transition.len() {
                average.clear();
                average.extend_from_slice(transition);
                self.next_places.clear();
                self.next_places.extend(0..columns);
            } else {
                let is_new =
                    |row: usize| level == 0 && (self.areas[row] == 0 || continuity.reseeded.contains(&(row as u32)));
                self.common.clear();
                self.common.resize(columns * columns, 0.0);
                for (row, now) in transition.chunks_exact(columns).enumerate().take(rows) {
                    let place = self.places[row];
                    if is_new(row) {
                        continue;
                    }
                    let before = &average[place * columns..(place + 1) * columns];
                    for (common, &share) in self.common.chunks_exact_mut(columns).zip(now) {
                        for (sum, &old) in common.iter_mut().zip(before) {
                            *sum += self.masses[row] * share * old;
                        }
                    }
                }
                match_columns(&mut self.common, columns, &mut self.next_places);
                for (row, now) in transition.chunks_exact(columns).enumerate().take(rows) {
                    let weight = if is_new(row) { 1.0 } else { NEWEST_WEIGHT };
                    let place = self.places[row];
                    for (&share, &column) in now.iter().zip(&self.next_places) {
                        let value = &mut average[place * columns + column];
                        *value += weight * (share - *value);
                    }
                }
            }
            self.next_masses.clear();
            self.next_masses.resize(columns, 0.0);
            for (now, &mass) in transition.chunks_exact(columns).zip(&self.masses) {
                for (sum, &share) in self.next_masses.iter_mut().zip(now) {
                    *sum += mass * share;
                }
            }
            std::mem::swap(&mut self.masses, &mut self.next_masses);
            std::mem::swap(&mut self.places, &mut self.next_places);
        }
        self.areas.clone_from(&segments.areas);
    }

    /// The averages, in the form of the transitions; the first `num_transitions` are in use.
    pub fn averages(&self) -> [&[f32]; MAX_LEVELS] {
        self.averages.each_ref().map(Vec::as_slice)
    }
}

/// Pairs rows with columns, most in common first; what has nothing in common is paired in order. `common` is used up.
fn match_columns(common: &mut [f32], columns: usize, places: &mut Vec<usize>) {
    places.clear();
    places.resize(columns, usize::MAX);
    for _ in 0..columns {
        let mut best: Option<usize> = None;
        for (index, &value) in common.iter().enumerate() {
            // Taken rows and columns are negative; NaN is never larger.
            if value >= 0.0 && best.is_none_or(|best| value > common[best]) {
                best = Some(index);
            }
        }
        let Some(best) = best else { break };
        let (now, old) = (best / columns, best % columns);
        places[now] = old;
        for other in 0..columns {
            common[now * columns + other] = -1.0;
            common[other * columns + old] = -1.0;
        }
    }
    // Only numbers that are none can leave a place open: the network's output was checked, so this does not happen.
    for now in 0..columns {
        if places[now] == usize::MAX
            && let Some(free) = (0..columns).find(|old| !places.contains(old))
        {
            places[now] = free;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: Continuity<'_> = Continuity { tracking: true, from_grid: false, reseeded: &[] };
    const FIRST: Continuity<'_> = Continuity { from_grid: true, ..VIDEO };

    fn segments(areas: &[u32]) -> SegmentMap {
        SegmentMap { num_slots: areas.len(), areas: areas.to_vec(), ..SegmentMap::default() }
    }

    #[test]
    fn groups_keep_their_columns_when_the_network_renumbers_them() {
        let mut smoother = TransitionSmoother::default();
        let map = segments(&[5, 5, 5]);
        let sizes = [3, 2, 2];
        let (fine, coarse) = ([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], [0.9, 0.1, 0.1, 0.9]);
        smoother.run(&[&fine, &coarse], &sizes, &map, FIRST);
        // Both levels numbered the other way round: nothing has changed.
        let (fine_now, coarse_now) = ([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], [0.9, 0.1, 0.1, 0.9]);
        smoother.run(&[&fine_now, &coarse_now], &sizes, &map, VIDEO);
        let averages = smoother.averages();
        assert_eq!(averages[0], fine);
        for (got, expected) in averages[1].iter().zip(coarse) {
            assert!((got - expected).abs() < 1e-6, "{:?}", averages[1]);
        }
    }

    #[test]
    fn one_odd_frame_does_not_move_a_segment_and_rows_stay_distributions() {
        let mut smoother = TransitionSmoother::default();
        let map = segments(&[5, 5, 5]);
        let (usual, odd) = ([0.6, 0.4, 1.0, 0.0, 0.0, 1.0], [0.4, 0.6, 1.0, 0.0, 0.0, 1.0]);
        smoother.run(&[&usual], &[3, 2], &map, FIRST);
        smoother.run(&[&odd], &[3, 2], &map, VIDEO);
        let average = smoother.averages()[0];
        assert!(average[0] > average[1], "{average:?}");
        assert!(average.chunks(2).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6));
        // For good: it moves.
        for _ in 0..10 {
            smoother.run(&[&odd], &[3, 2], &map, VIDEO);
        }
        assert!(smoother.averages()[0][0] < smoother.averages()[0][1]);
    }

    #[test]
    fn nothing_is_averaged_for_a_new_segment_or_scene() {
        let (before, now) = ([1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]);
        for (areas, continuity) in [
            ([5, 5], Continuity { reseeded: &[0], ..VIDEO }),
            ([5, 5], FIRST),
            ([5, 5], Continuity { tracking: false, ..VIDEO }),
            ([0, 5], VIDEO),
        ] {
            let mut smoother = TransitionSmoother::default();
            smoother.run(&[&before], &[2, 2], &segments(&areas), FIRST);
            smoother.run(&[&now], &[2, 2], &segments(&[5, 5]), continuity);
            assert_eq!(smoother.averages()[0][..2], [0.0, 1.0], "{areas:?} {continuity:?}");
        }
    }
}
