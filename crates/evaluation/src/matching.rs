//! One-to-one assignment of the pixels of two boundary maps within a distance (D. Martin, C. Fowlkes, J. Malik, "Learning
//! to Detect Natural Image Boundaries", PAMI 2004): as many pairs as possible.
//!
//! The paper minimises the distances plus a price for every pixel without a partner that is a hundred times the largest
//! distance, which makes the number of pairs the largest possible. Here that number is found as a maximum matching of a
//! bipartite graph: nearest pairs first, then augmenting paths from the pixels of the truth that are still alone. The
//! number is exact; which pixels are in pairs may differ from the paper's choice.

/// Pixels of a boundary map, row by row.
#[derive(Clone, Debug)]
pub(crate) struct BoundaryPixels {
    /// Row r has the pixels `row_starts[r]..row_starts[r + 1]`.
    row_starts: Vec<usize>,
    /// Column of each pixel, rising within a row.
    columns: Vec<usize>,
}

impl BoundaryPixels {
    /// The true pixels of `map`, `[h, w]` with rows of `width` pixels; `width` ≥ 1.
    pub(crate) fn new(map: &[bool], width: usize) -> Self {
        let mut pixels = Self { row_starts: vec![0], columns: Vec::new() };
        for row in map.chunks_exact(width) {
            pixels.columns.extend((0..width).filter(|&column| row[column]));
            pixels.row_starts.push(pixels.columns.len());
        }
        pixels
    }

    /// Number of pixels.
    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    fn num_rows(&self) -> usize {
        self.row_starts.len() - 1
    }
}

/// No partner.
const ALONE: u32 = u32::MAX;

/// Assigns pixels to each other; its memory is used again from pair of maps to pair of maps.
#[derive(Debug)]
pub(crate) struct Matcher {
    /// For each row step 0, 1 … the largest column step that is near enough.
    reach: Vec<usize>,
    /// Neighbours of truth pixel i: `neighbours[starts[i]..starts[i + 1]]`, pixels of the prediction.
    starts: Vec<usize>,
    neighbours: Vec<u32>,
    /// Pairs that are near enough, (truth, prediction), by their squared distance.
    by_distance: Vec<Vec<(u32, u32)>>,
    partner_of_truth: Vec<u32>,
    partner_of_prediction: Vec<u32>,
    /// Pixels of the prediction that this round of searches has seen.
    is_visited: Vec<bool>,
    /// The path of a search: truth pixel, and the next of its neighbours to look at.
    path: Vec<(u32, usize)>,
}

impl Matcher {
    /// A matcher of pixels whose centres are at most `distance` pixels apart; 0 ≤ `distance`, finite.
    pub(crate) fn new(distance: f64) -> Self {
        let limit = distance * distance;
        let squared = |step: usize| (step * step) as f64;
        let reach_in_row = |row: usize| (0..).take_while(|&column| squared(row) + squared(column) <= limit).last();
        let reach: Vec<usize> = (0..).map_while(reach_in_row).collect();
        let largest = limit.floor() as usize;
        Self {
            reach,
            starts: Vec::new(),
            neighbours: Vec::new(),
            by_distance: vec![Vec::new(); largest + 1],
            partner_of_truth: Vec::new(),
            partner_of_prediction: Vec::new(),
            is_visited: Vec::new(),
            path: Vec::new(),
        }
    }

    /// Assigns as many pixels of `truth` to pixels of `prediction`, maps of the same size, as can be; returns how many.
    pub(crate) fn run(&mut self, truth: &BoundaryPixels, prediction: &BoundaryPixels) -> usize {
        self.find_neighbours(truth, prediction);
        let mut num_pairs = self.pair_nearest_first(truth.len(), prediction.len());
        loop {
            // One round of searches sees every pixel at most once, so it costs no more than the number of edges.
            self.is_visited.clear();
            self.is_visited.resize(prediction.len(), false);
            let is_alone = |matcher: &Self, start: usize| matcher.partner_of_truth[start] == ALONE;
            let found = (0..truth.len()).filter(|&start| is_alone(self, start) && self.augment(start)).count();
            if found == 0 {
                return num_pairs;
            }
            num_pairs += found;
        }
    }

    /// Whether pixel `index` of the prediction has a partner since the last run.
    pub(crate) fn is_matched(&self, index: usize) -> bool {
        self.partner_of_prediction[index] != ALONE
    }

    /// Partner of each pixel of the truth since the last run, an index among the prediction's.
    #[cfg(test)]
    pub(crate) fn partners(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        self.partner_of_truth.iter().map(|&partner| (partner != ALONE).then_some(partner as usize))
    }

    fn find_neighbours(&mut self, truth: &BoundaryPixels, prediction: &BoundaryPixels) {
        self.starts.clear();
        self.neighbours.clear();
        self.by_distance.iter_mut().for_each(Vec::clear);
        let farthest = self.reach.len().saturating_sub(1);
        // Per row in reach: the first pixel not yet left of the window, which moves right with the truth pixel.
        let mut windows: Vec<(usize, usize, usize)> = Vec::new();
        for row in 0..truth.num_rows() {
            windows.clear();
            for near in row.saturating_sub(farthest)..(row + farthest + 1).min(prediction.num_rows()) {
                let (from, to) = (prediction.row_starts[near], prediction.row_starts[near + 1]);
                windows.push((row.abs_diff(near), from, to));
            }
            for index in truth.row_starts[row]..truth.row_starts[row + 1] {
                self.starts.push(self.neighbours.len());
                let column = truth.columns[index];
                for (row_step, from, to) in &mut windows {
                    let reach = self.reach[*row_step];
                    while *from < *to && prediction.columns[*from] + reach < column {
                        *from += 1;
                    }
                    for near in (*from..*to).take_while(|&near| prediction.columns[near] <= column + reach) {
                        let column_step = prediction.columns[near].abs_diff(column);
                        let distance = *row_step * *row_step + column_step * column_step;
                        self.neighbours.push(near as u32);
                        self.by_distance[distance].push((index as u32, near as u32));
                    }
                }
            }
        }
        self.starts.push(self.neighbours.len());
    }

    fn pair_nearest_first(&mut self, num_truth: usize, num_prediction: usize) -> usize {
        self.partner_of_truth.clear();
        self.partner_of_truth.resize(num_truth, ALONE);
        self.partner_of_prediction.clear();
        self.partner_of_prediction.resize(num_prediction, ALONE);
        let mut num_pairs = 0;
        for &(truth, prediction) in self.by_distance.iter().flatten() {
            let partners =
                (&mut self.partner_of_truth[truth as usize], &mut self.partner_of_prediction[prediction as usize]);
            if (*partners.0, *partners.1) == (ALONE, ALONE) {
                (*partners.0, *partners.1) = (prediction, truth);
                num_pairs += 1;
            }
        }
        num_pairs
    }

    /// Looks for a path from the lonely truth pixel `start` to a lonely pixel of the prediction, over pairs that would be
    /// exchanged, and exchanges them: one pair more.
    fn augment(&mut self, start: usize) -> bool {
        self.path.clear();
        self.path.push((start as u32, self.starts[start]));
        while let Some((truth, next)) = self.path.last_mut() {
            let end = self.starts[*truth as usize + 1];
            // A lonely neighbour ends the search at once; it is looked for when the pixel is entered.
            if *next == self.starts[*truth as usize] {
                let neighbours = &self.neighbours[*next..end];
                if let Some(&lonely) =
                    neighbours.iter().find(|&&near| self.partner_of_prediction[near as usize] == ALONE)
                {
                    self.exchange(lonely);
                    return true;
                }
            }
            let unseen = self.neighbours[*next..end].iter().position(|&near| !self.is_visited[near as usize]);
            match unseen {
                None => {
                    self.path.pop();
                }
                Some(step) => {
                    let near = self.neighbours[*next + step];
                    *next += step + 1;
                    self.is_visited[near as usize] = true;
                    let owner = self.partner_of_prediction[near as usize];
                    self.path.push((owner, self.starts[owner as usize]));
                }
            }
        }
        false
    }

    /// Gives each truth pixel of the path its next one's partner, and `lonely` to the last.
    fn exchange(&mut self, lonely: u32) {
        let mut given = lonely;
        while let Some((truth, _)) = self.path.pop() {
            let old = std::mem::replace(&mut self.partner_of_truth[truth as usize], given);
            self.partner_of_prediction[given as usize] = truth;
            given = old;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIDE: usize = 6;

    fn positions(map: &[bool]) -> Vec<(usize, usize)> {
        (0..map.len()).filter(|&at| map[at]).map(|at| (at / SIDE, at % SIDE)).collect()
    }

    fn are_near(a: (usize, usize), b: (usize, usize), distance: f64) -> bool {
        let squared = a.0.abs_diff(b.0).pow(2) + a.1.abs_diff(b.1).pow(2);
        squared as f64 <= distance * distance
    }

    /// The largest number of pairs by trying every choice for the first pixel of the truth.
    fn brute_force(truth: &[(usize, usize)], prediction: &[(usize, usize)], distance: f64) -> usize {
        let Some((&first, rest)) = truth.split_first() else { return 0 };
        let mut best = brute_force(rest, prediction, distance);
        for (index, &pixel) in prediction.iter().enumerate() {
            if are_near(first, pixel, distance) {
                let others = [&prediction[..index], &prediction[index + 1..]].concat();
                best = best.max(1 + brute_force(rest, &others, distance));
            }
        }
        best
    }

    /// A map of at most six pixels, so that the brute force ends.
    fn small_map() -> impl Strategy<Value = Vec<bool>> {
        prop::collection::vec(0..SIDE * SIDE, 0..6).prop_map(|pixels| {
            let mut map = vec![false; SIDE * SIDE];
            pixels.into_iter().for_each(|at| map[at] = true);
            map
        })
    }

    fn any_map() -> impl Strategy<Value = Vec<bool>> {
        (0.0..1.0f64).prop_flat_map(|share| prop::collection::vec(prop::bool::weighted(share), SIDE * SIDE))
    }

    #[test]
    fn a_pair_is_given_up_for_two() {
        // Truth at columns 1 and 2, prediction at 0 and 1: the nearest pair (1, 1) leaves 2 and 0 alone at distance 1.
        let row = |columns: [usize; 2]| {
            let map: Vec<bool> = (0..4).map(|column| columns.contains(&column)).collect();
            BoundaryPixels::new(&map, 4)
        };
        let (truth, prediction) = (row([1, 2]), row([0, 1]));
        let mut matcher = Matcher::new(1.0);
        matcher.find_neighbours(&truth, &prediction);
        assert_eq!(matcher.pair_nearest_first(2, 2), 1);
        assert_eq!(matcher.run(&truth, &prediction), 2);
        assert_eq!(matcher.partners().collect::<Vec<_>>(), [Some(0), Some(1)]);
    }

    #[test]
    fn distance_is_of_centres_and_includes_its_limit() {
        let map = |at: usize| BoundaryPixels::new(&(0..25).map(|i| i == at).collect::<Vec<_>>(), 5);
        // (0, 0) and (3, 4) are 5 apart.
        assert_eq!(Matcher::new(5.0).run(&map(0), &map(19)), 1);
        assert_eq!(Matcher::new(4.99).run(&map(0), &map(19)), 0);
        assert_eq!(Matcher::new(0.0).run(&map(7), &map(7)), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn as_many_pairs_as_the_brute_force(truth in small_map(), prediction in small_map(), distance in 0.0..4.0f64) {
            let pixels = |map: &[bool]| BoundaryPixels::new(map, SIDE);
            let got = Matcher::new(distance).run(&pixels(&truth), &pixels(&prediction));
            prop_assert_eq!(got, brute_force(&positions(&truth), &positions(&prediction), distance));
        }

        #[test]
        fn pairs_are_one_to_one_and_near(truth in any_map(), prediction in any_map(), distance in 0.0..4.0f64) {
            let (a, b) = (positions(&truth), positions(&prediction));
            let (truth, prediction) = (BoundaryPixels::new(&truth, SIDE), BoundaryPixels::new(&prediction, SIDE));
            let mut matcher = Matcher::new(distance);
            matcher.find_neighbours(&truth, &prediction);
            let greedy = matcher.pair_nearest_first(a.len(), b.len());
            let got = matcher.run(&truth, &prediction);
            prop_assert!(greedy <= got && got <= a.len().min(b.len()));
            let mut used = vec![false; b.len()];
            for (index, partner) in matcher.partners().enumerate() {
                let Some(partner) = partner else { continue };
                prop_assert!(are_near(a[index], b[partner], distance));
                prop_assert!(!std::mem::replace(&mut used[partner], true));
            }
            prop_assert_eq!(used.iter().filter(|&&used| used).count(), got);
            let matched = (0..b.len()).filter(|&index| matcher.is_matched(index)).count();
            prop_assert_eq!(matched, got);
            // The roles can be exchanged.
            prop_assert_eq!(Matcher::new(distance).run(&prediction, &truth), got);
        }
    }
}
