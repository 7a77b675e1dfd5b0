//! How two maps of 8-bit labels share the pixels: all that measures of labels look at.

use crate::EvaluationError;
use crate::runs::{BLOCK, are_equal};

/// Number of values a label can have.
const NUM_VALUES: usize = 256;

/// Pixels that are looked at together where a block is more than one pair.
const SMALL: usize = 16;

/// Number of pixels of each pair (value of the truth, value of the prediction) in one image, or in several.
///
/// Counting is the only work that grows with the pixels, and it needs to know nothing of classes: what the values mean is
/// asked once per pair.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LabelPairs {
    /// `[256, 256]`: row = truth, column = prediction.
    counts: Vec<u64>,
}

impl Default for LabelPairs {
    fn default() -> Self {
        Self { counts: vec![0; NUM_VALUES * NUM_VALUES] }
    }
}

impl LabelPairs {
    /// The pairs of one image, pixels in the same order.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn of(truth: &[u8], prediction: &[u8]) -> Result<Self, EvaluationError> {
        let mut pairs = Self::default();
        pairs.add(truth, prediction)?;
        Ok(pairs)
    }

    /// Adds another image.
    ///
    /// # Errors
    /// When the lengths differ. Nothing is added then.
    pub fn add(&mut self, truth: &[u8], prediction: &[u8]) -> Result<(), EvaluationError> {
        if truth.len() != prediction.len() {
            return Err(EvaluationError::Length { expected: truth.len(), got: prediction.len() });
        }
        // Label maps are flat: most blocks are one pair, and mostly that of the block before.
        let (truth_blocks, truth_rest) = truth.as_chunks::<BLOCK>();
        let (blocks, rest) = prediction.as_chunks::<BLOCK>();
        let mut run = (0u8, 0u8);
        let mut length = 0u64;
        for (t, p) in truth_blocks.iter().zip(blocks) {
            if are_equal(t, &[run.0; BLOCK]) && are_equal(p, &[run.1; BLOCK]) {
                length += BLOCK as u64;
                continue;
            }
            for (t, p) in t.as_chunks::<SMALL>().0.iter().zip(p.as_chunks::<SMALL>().0) {
                if *t == [t[0]; SMALL] && *p == [p[0]; SMALL] {
                    if run != (t[0], p[0]) {
                        self.counts[index(run.0, run.1)] += length;
                        (run, length) = ((t[0], p[0]), 0);
                    }
                    length += SMALL as u64;
                } else {
                    t.iter().zip(p).for_each(|(&t, &p)| self.counts[index(t, p)] += 1);
                }
            }
        }
        self.counts[index(run.0, run.1)] += length;
        truth_rest.iter().zip(rest).for_each(|(&t, &p)| self.counts[index(t, p)] += 1);
        Ok(())
    }

    /// Forgets everything, and keeps the memory.
    pub fn clear(&mut self) {
        self.counts.fill(0);
    }

    /// Number of pixels of value `truth` that have the value `prediction`.
    pub fn count(&self, truth: u8, prediction: u8) -> u64 {
        self.counts[index(truth, prediction)]
    }

    /// The pairs that occur, (truth, prediction, pixels), sorted.
    pub fn iter(&self) -> impl Iterator<Item = (u8, u8, u64)> + '_ {
        let pair = |(index, &count): (usize, &u64)| ((index / NUM_VALUES) as u8, (index % NUM_VALUES) as u8, count);
        self.counts.iter().enumerate().filter(|&(_, &count)| count > 0).map(pair)
    }
}

fn index(truth: u8, prediction: u8) -> usize {
    usize::from(truth) * NUM_VALUES + usize::from(prediction)
}
