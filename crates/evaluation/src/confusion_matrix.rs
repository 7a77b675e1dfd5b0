//! Confusion matrix, intersection over union and pixel accuracy (M. Everingham et al., "The PASCAL Visual Object Classes
//! Challenge", IJCV 2010, §4.4; M. Cordts et al., "The Cityscapes Dataset", CVPR 2016, §4.1).

use serde::{Deserialize, Serialize};

use crate::EvaluationError;
use crate::label_pairs::LabelPairs;

/// A prediction without class.
const UNLABELLED: u8 = 255;

/// Values that are train ids already.
const IDENTITY: [u8; 256] = {
    let mut ids = [0; 256];
    let mut value = 0;
    while value < 256 {
        ids[value] = value as u8;
        value += 1;
    }
    ids
};

/// Counts of (true class, predicted class) over pixels.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "StoredMatrix", into = "StoredMatrix")]
pub struct ConfusionMatrix {
    num_classes: usize,
    /// `[num_classes, num_classes + 1]`: row = truth, column = prediction, the last column = no prediction.
    counts: Vec<u64>,
}

/// What is written: the fields, not yet checked against each other.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredMatrix {
    num_classes: usize,
    counts: Vec<u64>,
}

impl From<ConfusionMatrix> for StoredMatrix {
    fn from(matrix: ConfusionMatrix) -> Self {
        Self { num_classes: matrix.num_classes, counts: matrix.counts }
    }
}

impl TryFrom<StoredMatrix> for ConfusionMatrix {
    type Error = EvaluationError;

    fn try_from(stored: StoredMatrix) -> Result<Self, EvaluationError> {
        Self::of_counts(stored.num_classes, stored.counts)
    }
}

/// The measures of a [`ConfusionMatrix`], all in 0 to 1.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SemanticResult {
    /// Mean of the `per_class` values that exist; `None` when none does.
    pub miou: Option<f64>,
    /// Share of the labelled pixels whose class is predicted; `None` without labelled pixels.
    pub accuracy: Option<f64>,
    /// Intersection over union of each class: TP / (TP + FP + FN). `None` for a class that occurs neither in the truth
    /// nor in the prediction.
    pub per_class: Vec<Option<f64>>,
}

impl ConfusionMatrix {
    /// An empty matrix of `num_classes` classes.
    ///
    /// # Errors
    /// When `num_classes` is not in 1 to 255.
    pub fn new(num_classes: usize) -> Result<Self, EvaluationError> {
        if !(1..=255).contains(&num_classes) {
            return Err(EvaluationError::ClassCount { got: num_classes });
        }
        Ok(Self { num_classes, counts: vec![0; num_classes * (num_classes + 1)] })
    }

    /// A matrix of counts made elsewhere, `[num_classes, num_classes + 1]`.
    pub(crate) fn of_counts(num_classes: usize, counts: Vec<u64>) -> Result<Self, EvaluationError> {
        let (expected, got) = (Self::new(num_classes)?.counts.len(), counts.len());
        if got != expected {
            return Err(EvaluationError::Counts { num_classes, expected, got });
        }
        Ok(Self { num_classes, counts })
    }

    /// Number of classes.
    pub fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// Number of pixels of class `truth` that were predicted as `prediction`; `None` as prediction: as no class.
    ///
    /// # Panics
    /// If a class is out of range.
    pub fn count(&self, truth: usize, prediction: Option<usize>) -> u64 {
        assert!(truth < self.num_classes && prediction.is_none_or(|p| p < self.num_classes), "class out of range");
        self.counts[truth * (self.num_classes + 1) + prediction.unwrap_or(self.num_classes)]
    }

    /// The matrix as rows (truth) of `num_classes + 1` counts (prediction; the last: none).
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks_exact(self.num_classes + 1)
    }

    /// Adds one image. `truth` and `prediction` are train ids per pixel in the same order; pixels whose truth is `ignore`
    /// are left out; a prediction of 255 is a missed pixel (wrong, but no false positive of any class).
    ///
    /// # Errors
    /// When the lengths differ or a label is no class. Nothing is added then.
    pub fn update(&mut self, truth: &[u8], prediction: &[u8], ignore: u8) -> Result<(), EvaluationError> {
        let pairs = LabelPairs::of(truth, prediction)?;
        if let Some((t, p)) = self.first_refused(&pairs, ignore) {
            let last_class = self.num_classes - 1;
            let is_refused = |&(_, (&a, &b)): &(usize, (&u8, &u8))| (a, b) == (t, p);
            let index = truth.iter().zip(prediction).enumerate().find(is_refused).map_or(0, |(index, _)| index);
            return Err(if self.is_class(t) {
                EvaluationError::Label { map: "prediction", index, label: p, last_class, ignore: UNLABELLED }
            } else {
                EvaluationError::Label { map: "ground truth", index, label: t, last_class, ignore }
            });
        }
        self.add(&pairs, &IDENTITY, &IDENTITY, ignore);
        Ok(())
    }

    /// As [`ConfusionMatrix::update`], with maps whose values are not train ids: `truth_ids` and `prediction_ids` have the
    /// train id of each value; one that is no class is as `ignore` in the truth and as no class in the prediction.
    pub fn update_pairs(&mut self, pairs: &LabelPairs, truth_ids: &[u8; 256], prediction_ids: &[u8; 256]) {
        let only_classes = |ids: &[u8; 256]| ids.map(|id| if self.is_class(id) { id } else { UNLABELLED });
        let (truth_ids, prediction_ids) = (only_classes(truth_ids), only_classes(prediction_ids));
        self.add(pairs, &truth_ids, &prediction_ids, UNLABELLED);
    }

    fn is_class(&self, label: u8) -> bool {
        usize::from(label) < self.num_classes
    }

    /// The first pair of train ids that cannot be counted.
    fn first_refused(&self, pairs: &LabelPairs, ignore: u8) -> Option<(u8, u8)> {
        let is_counted = |t: u8, p: u8| self.is_class(t) && (p == UNLABELLED || self.is_class(p));
        pairs.iter().find(|&(t, p, _)| t != ignore && !is_counted(t, p)).map(|(t, p, _)| (t, p))
    }

    /// Counts pairs none of which is refused.
    fn add(&mut self, pairs: &LabelPairs, truth_ids: &[u8; 256], prediction_ids: &[u8; 256], ignore: u8) {
        for (t, p, count) in pairs.iter() {
            let (t, p) = (truth_ids[usize::from(t)], prediction_ids[usize::from(p)]);
            if t != ignore {
                let column = usize::from(p).min(self.num_classes);
                self.counts[usize::from(t) * (self.num_classes + 1) + column] += count;
            }
        }
    }

    /// Adds everything that `other` has counted.
    ///
    /// # Errors
    /// When the numbers of classes differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        if self.num_classes != other.num_classes {
            return Err(EvaluationError::NumClasses { expected: self.num_classes, got: other.num_classes });
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        Ok(())
    }

    /// The measures over everything counted so far.
    pub fn result(&self) -> SemanticResult {
        let mut predicted = vec![0u64; self.num_classes];
        for row in self.rows() {
            for (sum, count) in predicted.iter_mut().zip(row) {
                *sum += count;
            }
        }
        let (mut correct, mut total) = (0u64, 0u64);
        let per_class: Vec<Option<f64>> = self
            .rows()
            .enumerate()
            .map(|(class, row)| {
                let labelled: u64 = row.iter().sum();
                correct += row[class];
                total += labelled;
                let union = labelled + predicted[class] - row[class];
                (union > 0).then(|| row[class] as f64 / union as f64)
            })
            .collect();
        let existing: Vec<f64> = per_class.iter().flatten().copied().collect();
        let miou = (!existing.is_empty()).then(|| existing.iter().sum::<f64>() / existing.len() as f64);
        let accuracy = (total > 0).then(|| correct as f64 / total as f64);
        SemanticResult { miou, accuracy, per_class }
    }
}
