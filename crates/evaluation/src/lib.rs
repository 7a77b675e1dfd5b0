//! Accumulators of evaluation measures, one per file.
//!
//! Every measure is an accumulator: `update` with one image at a time, `merge` with the accumulator of another shard,
//! `result` at the end. Merging gives the same result as having seen all images together, in any order.

mod confusion_matrix;

pub use confusion_matrix::{ConfusionMatrix, SemanticResult};

/// What can be wrong with the inputs of a measure.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// Two label maps of different lengths.
    #[error("the prediction has {got} pixels, but the ground truth has {expected}: both must be of the same image")]
    Length {
        /// Pixels of the ground truth.
        expected: usize,
        /// Pixels of the prediction.
        got: usize,
    },
    /// A label that is neither a class nor the ignore value.
    #[error("pixel {index} of the {map} has label {label}: expected 0 to {last_class}, or {ignore} for `no class`")]
    Label {
        /// `ground truth` or `prediction`.
        map: &'static str,
        /// Index of the pixel, row-major from 0.
        index: usize,
        /// Its label.
        label: u8,
        /// The largest class id.
        last_class: usize,
        /// The value that means `no class` there.
        ignore: u8,
    },
    /// Accumulators of different numbers of classes.
    #[error(
        "cannot merge a confusion matrix of {got} classes into one of {expected}: they belong to different label spaces"
    )]
    NumClasses {
        /// Classes of the accumulator that is merged into.
        expected: usize,
        /// Classes of the other one.
        got: usize,
    },
    /// A number of classes that 8-bit labels cannot have.
    #[error("a confusion matrix of {got} classes is not possible: expected 1 to 255")]
    ClassCount {
        /// The number asked for.
        got: usize,
    },
    /// Stored counts whose number does not fit the number of classes.
    #[error("a confusion matrix of {num_classes} classes has {expected} counts, got {got}: the file is damaged")]
    Counts {
        /// Number of classes.
        num_classes: usize,
        /// The number of counts that belongs to it.
        expected: usize,
        /// The number found.
        got: usize,
    },
}
