//! Regression trees that learn the pointwise mutual information of a pair of pixels: exact densities for 10 000 pairs,
//! a walk down a few trees for the millions of others.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::density::Pair;

/// Features of a pair.
const NUM_FEATURES: usize = 6;
/// Features tried at each node.
const NUM_TRIED: usize = 3;
/// Fewest samples of a leaf, and of a node that may be split.
const MIN_LEAF: usize = 5;
const MIN_PARENT: usize = 10;
/// Pairs that walk down a tree side by side: their loads do not wait for one another.
pub(super) const NUM_WALKERS: usize = 16;
// `Node::link` has room for a feature times this.
const _: () = assert!(NUM_WALKERS == 1 << 4);

/// A node in 8 bytes, so that a tree of 1600 leaves stays in the first-level cache.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Node {
    /// Goes right if the feature is at least this; the value of a leaf.
    threshold: f32,
    /// Index of the left child · 128 + feature · 16; the right child follows the left one. A leaf has itself as left
    /// child and [`LEAF`] as feature.
    link: u32,
}

/// The "feature" of a leaf: one that no pair reaches ([`Walkers`] keeps -∞ there), so walkers stay where they are.
const LEAF: u32 = NUM_FEATURES as u32;

/// The mean of a few regression trees.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    trees: Vec<Vec<Node>>,
}

/// Pairs laid out for [`Forest::add_means`]: feature by feature, with a last row of -∞ for leaves.
#[derive(Clone, Debug)]
pub(super) struct Walkers([f32; 8 * NUM_WALKERS]);

impl Walkers {
    pub(super) fn new() -> Self {
        let mut features = [0.0; 8 * NUM_WALKERS];
        features[LEAF as usize * NUM_WALKERS..].fill(f32::NEG_INFINITY);
        Self(features)
    }

    pub(super) fn set(&mut self, walker: usize, pair: Pair) {
        for (feature, value) in pair.into_iter().enumerate() {
            self.0[feature * NUM_WALKERS + walker] = value;
        }
    }
}

impl Node {
    fn new(threshold: f32, left: usize, feature: u32) -> Self {
        Self { threshold, link: (left as u32) << 7 | feature << 4 }
    }
}

/// Steps before anybody looks whether all have arrived: most leaves are deeper.
const STEPS_AT_FIRST: usize = 9;

/// Moves every walker one step down; 0 when all stand on leaves.
#[inline(always)]
fn step(tree: &[Node], walkers: &Walkers, at: &mut [u32; NUM_WALKERS]) -> u32 {
    let mut moved = 0;
    for (walker, at) in at.iter_mut().enumerate() {
        let node = tree[*at as usize];
        let feature = walkers.0[(node.link & 0x70) as usize | walker];
        let next = (node.link >> 7) + u32::from(feature >= node.threshold);
        moved |= next ^ *at;
        *at = next;
    }
    moved
}

impl Forest {
    /// Learns `num_trees` trees from `pairs` and their `values` (as many). Every tree sees all samples and tries three
    /// random features at each node; splits minimise the sum of squared errors.
    pub fn learn(pairs: &[Pair], values: &[f32], num_trees: usize, random: &mut ChaCha8Rng) -> Self {
        debug_assert_eq!(pairs.len(), values.len());
        let learning = Learning::new(pairs, values);
        Self { trees: (0..num_trees.max(1)).map(|_| learning.clone().tree(random)).collect() }
    }

    /// The mean of the trees for one pair.
    pub fn mean(&self, pair: Pair) -> f32 {
        let mut walkers = Walkers::new();
        walkers.set(0, pair);
        let mut means = [0.0; NUM_WALKERS];
        self.add_means(&walkers, &mut means);
        means[0]
    }

    /// Adds the mean of the trees for every walker.
    pub(super) fn add_means(&self, walkers: &Walkers, sums: &mut [f32; NUM_WALKERS]) {
        let share = (self.trees.len() as f32).recip();
        for tree in &self.trees {
            let mut at = [0u32; NUM_WALKERS];
            (0..STEPS_AT_FIRST).for_each(|_| _ = step(tree, walkers, &mut at));
            while step(tree, walkers, &mut at) != 0 {
                step(tree, walkers, &mut at);
            }
            for (sum, at) in sums.iter_mut().zip(at) {
                *sum += share * tree[at as usize].threshold;
            }
        }
    }
}

/// A tree being learnt: the samples of a node are a range of every list.
#[derive(Clone)]
struct Learning<'a> {
    pairs: &'a [Pair],
    values: &'a [f32],
    /// Samples sorted by each feature; splitting a node keeps the order inside its children.
    sorted: [Vec<u32>; NUM_FEATURES],
    goes_right: Vec<bool>,
    spare: Vec<u32>,
    nodes: Vec<Node>,
}

/// Where a node is split.
struct Split {
    gain: f64,
    feature: usize,
    threshold: f32,
    num_left: usize,
}

impl<'a> Learning<'a> {
    fn new(pairs: &'a [Pair], values: &'a [f32]) -> Self {
        let sorted = std::array::from_fn(|feature| {
            let mut order: Vec<u32> = (0..pairs.len() as u32).collect();
            order.sort_by(|&i, &j| pairs[i as usize][feature].total_cmp(&pairs[j as usize][feature]).then(i.cmp(&j)));
            order
        });
        let goes_right = vec![false; pairs.len()];
        Self { pairs, values, sorted, goes_right, spare: Vec::new(), nodes: Vec::new() }
    }

    fn tree(mut self, random: &mut ChaCha8Rng) -> Vec<Node> {
        let leaf = Node::new(0.0, 0, LEAF);
        self.nodes.push(leaf);
        let mut waiting = vec![(0usize, 0, self.pairs.len())];
        while let Some((node, start, end)) = waiting.pop() {
            let values = self.sorted[0][start..end].iter().map(|&i| f64::from(self.values[i as usize]));
            let sum: f64 = values.sum();
            let split = if end - start < MIN_PARENT { None } else { self.best_split(start, end, sum, random) };
            let Some(split) = split else {
                let mean = sum / (end - start).max(1) as f64;
                self.nodes[node] = Node::new(mean as f32, node, LEAF);
                continue;
            };
            self.divide(start, end, &split);
            let left = self.nodes.len();
            self.nodes.extend([leaf; 2]);
            self.nodes[node] = Node::new(split.threshold, left, split.feature as u32);
            let middle = start + split.num_left;
            waiting.extend([(left + 1, middle, end), (left, start, middle)]);
        }
        self.nodes
    }

    /// The best split of three random features; `None` when no split leaves enough samples on both sides or lowers the
    /// error.
    fn best_split(&self, start: usize, end: usize, sum: f64, random: &mut ChaCha8Rng) -> Option<Split> {
        let number = end - start;
        let mut features = [0, 1, 2, 3, 4, 5];
        let mut best: Option<Split> = None;
        for tried in 0..NUM_TRIED {
            features.swap(tried, random.random_range(tried..NUM_FEATURES));
            let feature = features[tried];
            let samples = &self.sorted[feature][start..end];
            let mut left = 0.0;
            for num_left in 1..=number - MIN_LEAF {
                let (last, next) = (samples[num_left - 1] as usize, samples.get(num_left).map(|&i| i as usize));
                left += f64::from(self.values[last]);
                let Some(next) = next else { break };
                let (below, above) = (self.pairs[last][feature], self.pairs[next][feature]);
                if num_left < MIN_LEAF || below == above {
                    continue;
                }
                // What is left of the squared error falls by this much, up to a constant.
                let right = sum - left;
                let gain = left * left / num_left as f64 + right * right / (number - num_left) as f64
                    - sum * sum / number as f64;
                if gain > best.as_ref().map_or(1e-9 * number as f64, |best| best.gain) {
                    let middle = below + (above - below) / 2.0;
                    // Neighbouring floats have no middle.
                    let threshold = if middle > below { middle } else { above };
                    best = Some(Split { gain, feature, threshold, num_left });
                }
            }
        }
        best
    }

    /// Puts the samples of the left child before those of the right one, in every list.
    fn divide(&mut self, start: usize, end: usize, split: &Split) {
        for (place, &sample) in self.sorted[split.feature][start..end].iter().enumerate() {
            self.goes_right[sample as usize] = place >= split.num_left;
        }
        for list in &mut self.sorted {
            let list = &mut list[start..end];
            self.spare.clear();
            let mut kept = 0;
            for at in 0..list.len() {
                let sample = list[at];
                if self.goes_right[sample as usize] {
                    self.spare.push(sample);
                } else {
                    list[kept] = sample;
                    kept += 1;
                }
            }
            list[kept..].copy_from_slice(&self.spare);
        }
    }
}
