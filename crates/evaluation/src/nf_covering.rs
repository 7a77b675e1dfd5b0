//! Normalized foreground covering (T.-W. Ke, J.-J. Hwang, Y. Guo, X. Wang, S. X. Yu, "Unsupervised Hierarchical Semantic
//! Segmentation with Multiview Cosegmentation and Clustering Transformers", CVPR 2022, §4, equation 10).

use serde::{Deserialize, Serialize};

use crate::EvaluationError;
use crate::covering::best_ious;
use crate::image_mean::ImageMean;
use crate::overlap::Overlap;

/// Equation 10 for one image: the mean over the foreground regions R of the truth of max over the segments R' of
/// |R ∩ R'| / |R ∪ R'|, whatever their sizes; `None` without foreground. `is_foreground` has one item per region of the
/// truth; in this project it is true for the connected regions of thing classes with at least
/// [`crate::MIN_REGION_PIXELS`] pixels ([`crate::TruthRegions::choose`]). All other pixels with truth are background:
/// they make a union larger.
///
/// # Errors
/// When `is_foreground` is of another number of regions.
pub fn nf_covering(overlap: &Overlap, is_foreground: &[bool]) -> Result<Option<f64>, EvaluationError> {
    overlap.check_num_truth(is_foreground.len())?;
    let foreground = best_ious(overlap).zip(is_foreground).filter(|&(_, &is_foreground)| is_foreground);
    let (sum, count) = foreground.fold((0.0, 0u64), |(sum, count), (iou, _)| (sum + iou, count + 1));
    Ok((count > 0).then(|| sum / count as f64))
}

/// [`nf_covering`] over images: the mean over those that have foreground.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NfCovering(ImageMean);

impl NfCovering {
    /// Adds one image.
    ///
    /// # Errors
    /// As [`nf_covering`]. Nothing is added then.
    pub fn update(&mut self, overlap: &Overlap, is_foreground: &[bool]) -> Result<(), EvaluationError> {
        self.0.update(nf_covering(overlap, is_foreground)?);
        Ok(())
    }

    /// Adds everything that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The mean, 0 to 1, higher is better; `None` when no image had foreground.
    pub fn result(&self) -> Option<f64> {
        self.0.result()
    }
}
