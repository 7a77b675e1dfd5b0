//! Label-free over-segmentation: one image in, a map of small, class-pure regions out.
//!
//! [`detector`] has the ways through the crate. PMI: [`pmi`] (edges in eight orientations) → [`mod@owt_ucm`] (closed contours
//! and their merge tree) → regions at a threshold. The cheap way: [`gradient::strength`] (how much the colour changes, per
//! pixel) → [`watershed::watershed`] (one basin per regional minimum) → [`merge::region_merging`] (neighbouring basins
//! merged in the order of the mean strength of their common boundary: a merge tree) → [`regions::gradient_regions`] (the
//! tree cut at the first threshold that leaves few enough regions).
//!
//! The same pixels and seed give the same regions on any number of threads. [`pmi`] splits its work over the rayon pool it
//! is called from; everything else runs on the calling thread.

pub mod detector;
pub mod gradient;
pub mod merge;
pub mod owt_ucm;
pub mod pmi;
pub mod regions;
mod resample;
mod strength;
pub mod watershed;

pub use detector::{Detector, Segmentation};
pub use gradient::GradientSpec;
pub use merge::{Merge, MergeTree, region_merging};
pub use regions::{GradientRegions, RegionMap, first_threshold, gradient_regions, region_map};
pub use strength::StrengthMap;
pub use watershed::{Basins, watershed};

use segcore::image::{ImageError, PixelFormat};

/// What can be wrong with an input of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OversegmentError {
    /// The image's size, stride and bytes do not fit together.
    #[error("cannot over-segment this image: {source}")]
    Image {
        /// What is wrong with it.
        #[from]
        source: ImageError,
    },
    /// A strength map without pixels.
    #[error("a strength map of {height}×{width} has no pixels: both sides must be at least 1")]
    EmptyMap {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// The image has a pixel format that this crate does not read.
    #[error("cannot over-segment an image of pixel format {got:?}: expected Rgb8 or Gray8")]
    PixelFormat {
        /// The format of the image.
        got: PixelFormat,
    },
    /// A strength map whose number of values is not height × width.
    #[error("a strength map of {height}×{width} needs {expected} values, got {got}")]
    StrengthLength {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Height × width.
        expected: usize,
        /// Number of values given.
        got: usize,
    },
    /// A strength that is negative, infinite or not a number.
    #[error("strength {value} at row {row}, column {column} is not a finite number ≥ 0")]
    StrengthValue {
        /// Row, from 0.
        row: usize,
        /// Column, from 0.
        column: usize,
        /// The value found there.
        value: f32,
    },
    /// A setting outside its range.
    #[error("setting `{name}` is {got}: expected {expected}")]
    Setting {
        /// Name of the field.
        name: &'static str,
        /// Its value.
        got: String,
        /// What would be valid.
        expected: &'static str,
    },
}
