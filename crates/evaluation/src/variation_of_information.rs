//! Variation of information (M. Meilă, "Comparing Clusterings: An Axiomatic View", ICML 2005): what is not known of one
//! segmentation when the other one is known and the other way round, averaged over annotators.

use crate::EvaluationError;
use crate::contours::Thresholds;
use crate::overlap::Overlap;
use crate::threshold_means::{Best, ThresholdMeans, ThresholdMeansResult};

/// H(A|B) + H(B|A) = 2 H(A, B) − H(A) − H(B) of the regions of a random pixel, in bits: 0 for equal segmentations, lower
/// is better, at most 2 log₂ of the number of pixels.
pub fn variation_of_information(overlap: &Overlap) -> f64 {
    // N H = N log N − Σ a log a; the first terms cancel.
    let sum_of_logs = |areas: &mut dyn Iterator<Item = u64>| areas.map(|a| a as f64 * (a as f64).log2()).sum::<f64>();
    let in_one = sum_of_logs(&mut overlap.predicted_areas()) + sum_of_logs(&mut overlap.truth_areas());
    let in_both = sum_of_logs(&mut overlap.common_areas());
    // Rounding may leave a little less than nothing.
    ((in_one - 2.0 * in_both) / overlap.num_pixels().max(1) as f64).max(0.0)
}

/// The variation over images.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VariationOfInformation(ThresholdMeans);

impl VariationOfInformation {
    /// Nothing seen yet.
    pub fn new(thresholds: &Thresholds) -> Self {
        Self(ThresholdMeans::new(thresholds, Best::Lowest))
    }

    /// Adds one image: at each threshold the mean of [`variation_of_information`] over its annotators.
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

    /// The means over the images seen so far, in bits; `None` when there are none.
    pub fn result(&self) -> Option<ThresholdMeansResult> {
        self.0.result()
    }
}
