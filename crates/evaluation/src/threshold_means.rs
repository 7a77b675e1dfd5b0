//! What measures that are averaged over images share: the mean at each threshold, and with each image at its own best.

use crate::EvaluationError;
use crate::contours::Thresholds;
use crate::covering::first_best;
use crate::exact_sum::{ExactSum, merge_all};

/// Which values are the good ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Best {
    Highest,
    Lowest,
}

impl Best {
    fn is_better(self, a: f64, b: f64) -> bool {
        match self {
            Self::Highest => a > b,
            Self::Lowest => a < b,
        }
    }
}

/// Means over images of a number ≥ 0 that each has at each threshold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ThresholdMeans {
    best: Best,
    sums: Vec<ExactSum>,
    sum_of_bests: ExactSum,
    num_images: u64,
}

/// Means over images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThresholdMeansResult {
    /// At the threshold that is best for the data set.
    pub ods: f64,
    /// Index of that threshold, the first of equals.
    pub ods_index: usize,
    /// With each image at the threshold that is best for it.
    pub ois: f64,
}

impl ThresholdMeans {
    pub(crate) fn new(thresholds: &Thresholds, best: Best) -> Self {
        let zero = ExactSum::default();
        Self { best, sums: vec![zero; thresholds.len()], sum_of_bests: zero, num_images: 0 }
    }

    pub(crate) fn update(&mut self, values: &[f64]) -> Result<(), EvaluationError> {
        EvaluationError::check_thresholds(self.sums.len(), values.len())?;
        self.sums.iter_mut().zip(values).for_each(|(sum, &value)| sum.add(value));
        if let Some((_, &best)) = first_best(values, |&a, &b| self.best.is_better(a, b)) {
            self.sum_of_bests.add(best);
        }
        self.num_images += 1;
        Ok(())
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        EvaluationError::check_thresholds(self.sums.len(), other.sums.len())?;
        merge_all(&mut self.sums, &other.sums);
        self.sum_of_bests.merge(other.sum_of_bests);
        self.num_images += other.num_images;
        Ok(())
    }

    pub(crate) fn result(&self) -> Option<ThresholdMeansResult> {
        let mean = |sum: ExactSum| sum.value() / self.num_images as f64;
        let (ods_index, &ods) = first_best(&self.sums, |a, b| self.best.is_better(a.value(), b.value()))?;
        (self.num_images > 0).then(|| ThresholdMeansResult { ods: mean(ods), ods_index, ois: mean(self.sum_of_bests) })
    }
}
