//! Accumulators of evaluation measures, one per file.
//!
//! Every measure is an accumulator: `update` with one image at a time, `merge` with the accumulator of another shard,
//! `result` at the end. Merging gives the same result as having seen all images together, in any order.
//!
//! Of labels: [`ConfusionMatrix`]. Of contours and segmentations against several annotators, at many thresholds:
//! [`BoundaryBenchmark`], [`Covering`], [`ProbabilisticRandIndex`], [`VariationOfInformation`], and [`BsdsBenchmark`],
//! which is all four. There the work of an image is a function of its own, whose counts `update` adds, so that images
//! can be measured side by side.
//!
//! Of a label map against another one of the same image, neither of them true: [`Agreement`].
//!
//! Of one level of a hierarchy against a class map: [`LevelCovering`], [`NfCovering`], [`RegionF`]. All three look at one
//! table, the [`Overlap`] of the level's segments with [`TruthRegions`]; coarser levels' tables come from the finest one.

mod agreement;
mod assignment;
mod boundary;
mod bsds;
mod category_iou;
mod cityscapes_labels;
mod confusion_matrix;
mod contours;
mod covering;
mod exact_sum;
mod flicker;
mod id_stability;
mod image_mean;
mod instance_iou;
mod label_pairs;
mod level_covering;
mod matching;
mod nf_covering;
mod overlap;
mod rand_index;
mod region_f;
mod regions;
mod runs;
mod stq;
mod thinning;
mod threshold_means;
mod truth_regions;
mod variation_of_information;

pub use agreement::{Agreement, AgreementResult, AgreementShares};
pub use boundary::{BoundaryBenchmark, BoundaryCounts, BoundaryResult, OperatingPoint, boundary_counts};
pub use bsds::{BsdsBenchmark, BsdsCounts, BsdsResult};
pub use category_iou::{CategoryResult, category_iou};
pub use cityscapes_labels::{CITYSCAPES_CATEGORIES, CityscapesValues};
pub use confusion_matrix::{ConfusionMatrix, SemanticResult};
pub use contours::{Annotation, ContourMap, Thresholds};
pub use covering::{Covering, CoveringCounts, CoveringResult, covered_pixels};
pub use flicker::{Flicker, LabelChanges, same_image, same_truth};
pub use id_stability::IdStability;
pub use instance_iou::{InstanceIou, InstanceIouResult};
pub use label_pairs::LabelPairs;
pub use level_covering::LevelCovering;
pub use nf_covering::{NfCovering, nf_covering};
pub use overlap::Overlap;
pub use rand_index::{ProbabilisticRandIndex, rand_index};
pub use region_f::{RegionF, region_f};
pub use regions::{Regions, regions_at};
pub use stq::{PanopticLabels, SequenceResult, Stq, StqFigures, StqResult};
pub use thinning::thin;
pub use threshold_means::ThresholdMeansResult;
pub use truth_regions::{MIN_REGION_PIXELS, TruthRegion, TruthRegions};
pub use variation_of_information::{VariationOfInformation, variation_of_information};

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
    /// A map without pixels, or with more than can be counted.
    #[error("a {what} of {height}×{width} is not possible: expected 1 to 2³² − 1 pixels")]
    MapSize {
        /// Which map.
        what: &'static str,
        /// Rows of the image.
        height: usize,
        /// Columns of the image.
        width: usize,
    },
    /// A map whose number of values does not fit its size.
    #[error("a {what} of {rows}×{columns} needs {} values, got {got}", rows * columns)]
    MapLength {
        /// Which map.
        what: &'static str,
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
        /// Number of values given.
        got: usize,
    },
    /// A contour strength that is none.
    #[error("the contour strength at row {row}, column {column} is {got}: expected a number in 0 to 1")]
    Strength {
        /// Row in the map, from 0.
        row: usize,
        /// Column in the map, from 0.
        column: usize,
        /// The value found there.
        got: String,
    },
    /// A region's label that is too large.
    #[error("pixel {index} has region {label}, but there are {num_regions} regions: expected 0 to {num_regions} - 1")]
    RegionLabel {
        /// Index of the pixel, row-major from 0.
        index: usize,
        /// Its label.
        label: u32,
        /// Number of regions.
        num_regions: usize,
    },
    /// An image that nobody annotated.
    #[error("there is no annotation to measure against: expected at least one annotator's")]
    NoAnnotation,
    /// An annotation of another size than the contour map's.
    #[error(
        "annotation {index} is {}×{}, but the contour map belongs to an image of {}×{}: both must be of the same image",
        got.0, got.1, expected.0, expected.1
    )]
    AnnotationSize {
        /// Index of the annotation, from 0.
        index: usize,
        /// Height and width of the contour map's image.
        expected: (usize, usize),
        /// Height and width of the annotation.
        got: (usize, usize),
    },
    /// A choice of regions that belongs to another image.
    #[error(
        "the choice is of {got} regions of the ground truth, but there are {expected}: both must be of the same image"
    )]
    NumRegions {
        /// Regions of the ground truth.
        expected: usize,
        /// Regions that the choice is of.
        got: usize,
    },
    /// Accumulators of maps that hold different values.
    #[error("cannot merge instance IoU of label ids with that of train ids: measure both shards the same way")]
    OtherValues,
    /// Accumulators of tubes of different classes.
    #[error("cannot merge tubes of different classes: the shards belong to different label spaces")]
    OtherThings,
    /// Accumulators of different numbers of levels.
    #[error("cannot add figures of {got} levels to figures of {expected}: they belong to different models")]
    NumLevels {
        /// Levels of the accumulator.
        expected: usize,
        /// Levels of what was to be added.
        got: usize,
    },
    /// A stored accumulator that cannot be one.
    #[error("a stored {what} is damaged: expected {expected}")]
    Stored {
        /// Which accumulator.
        what: &'static str,
        /// What was expected, and found.
        expected: String,
    },
    /// A number of thresholds that is not supported.
    #[error("{got} thresholds are not possible: expected 1 to 9999")]
    NumThresholds {
        /// The number asked for.
        got: usize,
    },
    /// Counts at other thresholds than the accumulator's.
    #[error("cannot add counts at {got} thresholds to counts at {expected}: use the same thresholds for all images")]
    OtherThresholds {
        /// Thresholds of the accumulator.
        expected: usize,
        /// Thresholds of what was to be added.
        got: usize,
    },
}

impl EvaluationError {
    /// Fails unless both numbers of thresholds are the same.
    fn check_thresholds(expected: usize, got: usize) -> Result<(), Self> {
        if expected == got { Ok(()) } else { Err(Self::OtherThresholds { expected, got }) }
    }

    /// Fails unless what was read of `what` `is_valid`.
    fn check_stored(is_valid: bool, what: &'static str, expected: impl FnOnce() -> String) -> Result<(), Self> {
        if is_valid { Ok(()) } else { Err(Self::Stored { what, expected: expected() }) }
    }
}
