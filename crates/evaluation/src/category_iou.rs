//! Intersection over union of categories, groups of classes (M. Cordts et al., "The Cityscapes Dataset", CVPR 2016, §4.1,
//! IoU_category), and what both kinds of IoU of categories share.

use crate::cityscapes_labels::{CATEGORY_OF_CLASS, NUM_CATEGORIES, NUM_CLASSES};
use crate::{ConfusionMatrix, EvaluationError};

/// Measures of the Cityscapes categories, in the order of [`crate::CITYSCAPES_CATEGORIES`].
#[derive(Clone, Debug, PartialEq)]
pub struct CategoryResult {
    /// Mean of the values that exist; `None` when none does.
    pub mean: Option<f64>,
    /// `None` for a category that occurs neither in the truth nor in the prediction.
    pub per_category: [Option<f64>; NUM_CATEGORIES],
}

/// TP / (TP + FP + FN) of each Cityscapes category, from a matrix of the 19 Cityscapes classes: a pixel is right when its
/// category is, whichever of its classes was predicted.
///
/// # Errors
/// When the matrix has another number of classes.
pub fn category_iou(matrix: &ConfusionMatrix) -> Result<CategoryResult, EvaluationError> {
    if matrix.num_classes() != NUM_CLASSES {
        return Err(EvaluationError::NumClasses { expected: NUM_CLASSES, got: matrix.num_classes() });
    }
    let mut correct = [0u64; NUM_CATEGORIES];
    let mut union = [0u64; NUM_CATEGORIES];
    for (row, &truth) in matrix.rows().zip(&CATEGORY_OF_CLASS) {
        union[truth] += row.iter().sum::<u64>();
        for (&count, &prediction) in row.iter().zip(&CATEGORY_OF_CLASS) {
            if truth == prediction {
                correct[truth] += count;
            } else {
                union[prediction] += count;
            }
        }
    }
    let per_category =
        std::array::from_fn(|index| (union[index] > 0).then(|| correct[index] as f64 / union[index] as f64));
    Ok(CategoryResult { mean: mean_of_existing(&per_category), per_category })
}

/// Mean of the values that exist.
pub(crate) fn mean_of_existing(values: &[Option<f64>]) -> Option<f64> {
    let existing: Vec<f64> = values.iter().flatten().copied().collect();
    (!existing.is_empty()).then(|| existing.iter().sum::<f64>() / existing.len() as f64)
}
