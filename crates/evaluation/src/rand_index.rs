//! Probabilistic Rand index (R. Unnikrishnan, C. Pantofaru, M. Hebert, "Toward Objective Evaluation of Image Segmentation
//! Algorithms", PAMI 2007): the share of pixel pairs on which a segmentation and an annotator agree, averaged over
//! annotators.

use crate::EvaluationError;
use crate::contours::Thresholds;
use crate::overlap::Overlap;
use crate::threshold_means::{Best, ThresholdMeans, ThresholdMeansResult};

/// Share of the pixel pairs that are in one region in both segmentations or in two regions in both: 0 to 1, higher is
/// better; 1 for an image of one pixel, which has no pairs.
pub fn rand_index(overlap: &Overlap) -> f64 {
    let num_pixels = overlap.num_pixels() as u128;
    let num_pairs = num_pixels * num_pixels.saturating_sub(1) / 2;
    if num_pairs == 0 {
        return 1.0;
    }
    let sum_of_squares =
        |areas: &mut dyn Iterator<Item = u64>| areas.map(|a| u128::from(a) * u128::from(a)).sum::<u128>();
    let together_in_one = sum_of_squares(&mut overlap.predicted_areas()) + sum_of_squares(&mut overlap.truth_areas());
    let together_in_both = sum_of_squares(&mut overlap.common_areas());
    // Whole numbers: (Σ a² + Σ b²) / 2 − Σ n² counts the pairs that are together in one of the two only.
    let num_disagreements = (together_in_one - 2 * together_in_both) / 2;
    1.0 - num_disagreements as f64 / num_pairs as f64
}

/// The index over images.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProbabilisticRandIndex(ThresholdMeans);

impl ProbabilisticRandIndex {
    /// Nothing seen yet.
    pub fn new(thresholds: &Thresholds) -> Self {
        Self(ThresholdMeans::new(thresholds, Best::Highest))
    }

    /// Adds one image: at each threshold the mean of [`rand_index`] over its annotators.
    ///
    /// # Errors
    /// When its number of thresholds is another one. Nothing is added then.
    pub fn update(&mut self, means: &[f64]) -> Result<(), EvaluationError> {
        self.0.update(means)
    }

    /// Adds everything that `other` has seen.
    ///
    /// # Errors
    /// When its number of thresholds is another one.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        self.0.merge(&other.0)
    }

    /// The means over the images seen so far, 0 to 1; `None` when there are none.
    pub fn result(&self) -> Option<ThresholdMeansResult> {
        self.0.result()
    }
}
