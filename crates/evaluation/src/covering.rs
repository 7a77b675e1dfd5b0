//! Segmentation covering (P. Arbeláez, M. Maire, C. Fowlkes, J. Malik, "Contour Detection and Hierarchical Image
//! Segmentation", PAMI 2011, §3.1.3, equation 6): how much of each annotated region one region of the prediction covers.

use crate::EvaluationError;
use crate::contours::Thresholds;
use crate::exact_sum::{ExactSum, merge_all};
use crate::overlap::Overlap;

/// Covered pixels of each region of the annotator: its pixels times its largest intersection over union with a region of
/// the prediction. In the order of [`Overlap::truth_regions`].
pub fn covered_pixels(overlap: &Overlap) -> Vec<f64> {
    overlap.truth_regions().zip(best_ious(overlap)).map(|((area, _), best)| area as f64 * best).collect()
}

/// The largest intersection over union of each region of the annotator with a region of the prediction; 0 where there is
/// none. In the order of [`Overlap::truth_regions`].
pub(crate) fn best_ious(overlap: &Overlap) -> impl Iterator<Item = f64> + '_ {
    overlap.truth_regions().map(|(area, pieces)| {
        pieces.map(|(predicted, common)| common as f64 / (area + predicted - common) as f64).fold(0.0, f64::max)
    })
}

/// Covered pixels of one image, all annotators together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoveringCounts {
    /// At each threshold.
    pub covered: Vec<f64>,
    /// With each annotated region at the threshold that is best for it.
    pub covered_at_best: f64,
    /// Pixels times annotators.
    pub total: u64,
}

/// Covering over images.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Covering {
    covered: Vec<ExactSum>,
    covered_at_best_of_image: ExactSum,
    covered_at_best_of_region: ExactSum,
    total: u64,
}

/// Covering, all in 0 to 1, higher is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CoveringResult {
    /// At the threshold that is best for the data set.
    pub ods: f64,
    /// Index of that threshold, the first of equals.
    pub ods_index: usize,
    /// With each image at the threshold that is best for it.
    pub ois: f64,
    /// With each annotated region at the threshold that is best for it.
    pub best: f64,
}

impl Covering {
    /// Nothing seen yet.
    pub fn new(thresholds: &Thresholds) -> Self {
        let zero = ExactSum::default();
        let covered = vec![zero; thresholds.len()];
        Self { covered, covered_at_best_of_image: zero, covered_at_best_of_region: zero, total: 0 }
    }

    /// Adds one image.
    ///
    /// # Errors
    /// When its number of thresholds is another one. Nothing is added then.
    pub fn update(&mut self, counts: &CoveringCounts) -> Result<(), EvaluationError> {
        EvaluationError::check_thresholds(self.covered.len(), counts.covered.len())?;
        self.covered.iter_mut().zip(&counts.covered).for_each(|(sum, &covered)| sum.add(covered));
        self.covered_at_best_of_image.add(counts.covered.iter().copied().fold(0.0, f64::max));
        self.covered_at_best_of_region.add(counts.covered_at_best);
        self.total += counts.total;
        Ok(())
    }

    /// Adds everything that `other` has seen.
    ///
    /// # Errors
    /// When its number of thresholds is another one.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        EvaluationError::check_thresholds(self.covered.len(), other.covered.len())?;
        merge_all(&mut self.covered, &other.covered);
        self.covered_at_best_of_image.merge(other.covered_at_best_of_image);
        self.covered_at_best_of_region.merge(other.covered_at_best_of_region);
        self.total += other.total;
        Ok(())
    }

    /// The measures over everything seen so far; `None` when that is nothing.
    pub fn result(&self) -> Option<CoveringResult> {
        let share = |covered: ExactSum| covered.value() / self.total as f64;
        let (ods_index, &ods) = first_best(&self.covered, |a, b| a.value() > b.value())?;
        (self.total > 0).then(|| CoveringResult {
            ods: share(ods),
            ods_index,
            ois: share(self.covered_at_best_of_image),
            best: share(self.covered_at_best_of_region),
        })
    }
}

/// The first item that no other `is_better` than, with its index.
pub(crate) fn first_best<T>(items: &[T], is_better: impl Fn(&T, &T) -> bool) -> Option<(usize, &T)> {
    items.iter().enumerate().reduce(|best, item| if is_better(item.1, best.1) { item } else { best })
}
