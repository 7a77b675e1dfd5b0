//! Segmentation covering of one level of a hierarchy (P. Arbeláez, M. Maire, C. Fowlkes, J. Malik, "Contour Detection and
//! Hierarchical Image Segmentation", PAMI 2011, §3.1.3, equation 6), as the HSG paper (T.-W. Ke, J.-J. Hwang, Y. Guo,
//! X. Wang, S. X. Yu, CVPR 2022, §4) takes it from there. [`crate::Covering`] is the same over thresholds and annotators.

use crate::covering::covered_pixels;
use crate::exact_sum::ExactSum;
use crate::overlap::Overlap;

/// 1/N · Σ over the regions R of the truth of |R| · max over the segments R' of |R ∩ R'| / |R ∪ R'|, N = pixels with
/// truth. Over several images sums and pixels are added up before they are divided, as the benchmark of the first paper
/// does. Large regions decide it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LevelCovering {
    covered: ExactSum,
    total: u64,
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
