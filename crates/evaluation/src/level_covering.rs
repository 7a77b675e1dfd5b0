//! Segmentation covering of one level of a hierarchy (P. Arbeláez, M. Maire, C. Fowlkes, J. Malik, "Contour Detection and
//! Hierarchical Image Segmentation", PAMI 2011, §3.1.3, equation 6), as the HSG paper (T.-W. Ke, J.-J. Hwang, Y. Guo,
//! X. Wang, S. X. Yu, CVPR 2022, §4) takes it from there. [`crate::Covering`] is the same over thresholds and annotators.

use serde::{Deserialize, Serialize};

use crate::EvaluationError;
use crate::covering::covered_pixels;
use crate::exact_sum::ExactSum;
use crate::overlap::Overlap;

/// 1/N · Σ over the regions R of the truth of |R| · max over the segments R' of |R ∩ R'| / |R ∪ R'|, N = pixels with
/// truth. Over several images sums and pixels are added up before they are divided, as the benchmark of the first paper
/// does. Large regions decide it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "StoredCovering", into = "StoredCovering")]
pub struct LevelCovering {
    covered: ExactSum,
    total: u64,
}

/// What is written: the fields, not yet checked against each other.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredCovering {
    covered: ExactSum,
    total: u64,
}

impl From<LevelCovering> for StoredCovering {
    fn from(covering: LevelCovering) -> Self {
        Self { covered: covering.covered, total: covering.total }
    }
}

impl TryFrom<StoredCovering> for LevelCovering {
    type Error = EvaluationError;

    fn try_from(stored: StoredCovering) -> Result<Self, EvaluationError> {
        let (covered, total) = (stored.covered, stored.total);
        // Each image's sum of products was rounded by itself.
        EvaluationError::check_stored(covered.value() <= total as f64 * (1.0 + 1e-9), "covering", || {
            format!("at most {total} covered pixels, got {}", covered.value())
        })?;
        Ok(Self { covered, total })
    }
}

impl LevelCovering {
    /// Adds one image: the level's segments against all regions of the truth, the smallest ones included.
    pub fn update(&mut self, overlap: &Overlap) {
        self.covered.add(covered_pixels(overlap).iter().sum());
        self.total += overlap.num_pixels() as u64;
    }

    /// Adds everything that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        self.covered.merge(other.covered);
        self.total += other.total;
    }

    /// The covering over everything seen so far, 0 to 1, higher is better; `None` when no pixel had a truth.
    pub fn result(&self) -> Option<f64> {
        (self.total > 0).then(|| self.covered.value() / self.total as f64)
    }
}
