//! Which frames are worth observing: few that differ, instead of many alike.

/// Frames chosen by [`k_centre`].
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Their indices, in the order of choice: the first k' are the choice of k'.
    pub chosen: Vec<usize>,
    /// Largest distance of any frame to the nearest chosen one, after each choice.
    pub radius: Vec<f32>,
}

/// Greedy k-centre (Gonzalez 1985): the frame closest to the mean first, then always the one furthest from all chosen. At
/// most twice the smallest possible radius. `frames` are descriptors of equal length, Euclidean; ties go to the earlier one.
pub fn k_centre(frames: &[Vec<f32>], k: usize) -> Selection {
    let mut selection = Selection { chosen: Vec::new(), radius: Vec::new() };
    let Some(first) = frames.first() else { return selection };
    let mut mean = vec![0f32; first.len()];
    for frame in frames {
        mean.iter_mut().zip(frame).for_each(|(sum, value)| *sum += value / frames.len() as f32);
    }
    let to_mean = |frame: &Vec<f32>| squared(frame, &mean);
    let mut next = position_of(frames.iter().map(to_mean), |a, b| a < b);
    let mut distances = vec![f32::INFINITY; frames.len()];
    while selection.chosen.len() < k.min(frames.len()) {
        let centre = &frames[next];
        distances.iter_mut().zip(frames).for_each(|(nearest, frame)| *nearest = nearest.min(squared(frame, centre)));
        selection.chosen.push(next);
        next = position_of(distances.iter().copied(), |a, b| a > b);
        selection.radius.push(distances[next].sqrt());
    }
    selection
}

/// Distance of a frame to the nearest of `others`; infinite without any.
pub fn distance(frame: &[f32], others: &[Vec<f32>]) -> f32 {
    others.iter().map(|other| squared(frame, other)).fold(f32::INFINITY, f32::min).sqrt()
}

fn squared(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn position_of(values: impl Iterator<Item = f32>, is_better: impl Fn(f32, f32) -> bool) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for (index, value) in values.enumerate() {
        if best.is_none_or(|(_, held)| is_better(value, held)) {
            best = Some((index, value));
        }
    }
    best.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_cluster_gets_a_frame() {
        let at = |x: f32, y: f32, i: usize| vec![x + 0.01 * i as f32, y];
        let frames: Vec<Vec<f32>> =
            (0..30).map(|i| at([0.0, 10.0, 0.0][i % 3], [0.0, 0.0, 10.0][i % 3], i / 3)).collect();
        let mut clusters: Vec<usize> = k_centre(&frames, 3).chosen.iter().map(|i| i % 3).collect();
        clusters.sort_unstable();
        assert_eq!(clusters, [0, 1, 2]);
    }

    #[test]
    fn none_and_too_few_frames() {
        assert!(k_centre(&[], 5).chosen.is_empty());
        assert_eq!(k_centre(&[vec![1.0]], 5).chosen, [0]);
        assert_eq!(distance(&[1.0], &[]), f32::INFINITY);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

        /// No frame twice; the radius is that of the chosen and never grows.
        #[test]
        fn the_radius_covers_all(frames in prop::collection::vec(prop::collection::vec(-1.0f32..1.0, 3), 1..40), k in 1usize..12) {
            let Selection { chosen, radius } = k_centre(&frames, k);
            prop_assert_eq!(chosen.len(), k.min(frames.len()));
            let mut sorted = chosen.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert!(sorted.len() == chosen.len() || radius.contains(&0.0));
            prop_assert!(radius.windows(2).all(|pair| pair[1] <= pair[0]));
            let centres: Vec<Vec<f32>> = chosen.iter().map(|&i| frames[i].clone()).collect();
            let furthest = frames.iter().map(|frame| distance(frame, &centres)).fold(0.0, f32::max);
            prop_assert!((furthest - radius[radius.len() - 1]).abs() < 1e-6);
        }
    }
}
