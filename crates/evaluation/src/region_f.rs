//! F-score of region matching, the measure of figure 9 of the HSG paper (CVPR 2022, supplement §5.2), which names it without
//! an equation. The definition here: F-measures of pairs and their best one-to-one assignment as in P. Ochs, J. Malik,
//! T. Brox, "Segmentation of Moving Objects by Long Term Video Analysis", PAMI 2014, averaged over the regions of the truth.

use serde::{Deserialize, Serialize};

use crate::EvaluationError;
use crate::assignment::largest_total;
use crate::image_mean::ImageMean;
use crate::overlap::Overlap;

/// Units of an F-measure of 1. Whole numbers make the best total one number, whichever of several assignments has it.
const UNIT: f64 = (1u64 << 40) as f64;

/// The F-score of one image. The F-measure of region R of the truth and segment R' is the harmonic mean of precision
/// |R ∩ R'| / |R'| and recall |R ∩ R'| / |R|, that is 2 |R ∩ R'| / (|R| + |R'|). Each segment is given to at most one
/// region and each region has at most one segment, so that the sum of F-measures is largest; that sum is divided by the
/// number of regions. A region without partner counts as 0; a segment without partner costs what its pixels are missed
/// for elsewhere.
///
/// `is_wanted` has one item per region of the truth; only the true ones take part: in this project those with at least
/// [`crate::MIN_REGION_PIXELS`] pixels, of all classes. `None` when there are none.
///
/// # Errors
/// When `is_wanted` is of another number of regions.
pub fn region_f(overlap: &Overlap, is_wanted: &[bool]) -> Result<Option<f64>, EvaluationError> {
    overlap.check_num_truth(is_wanted.len())?;
    let segment_areas: Vec<u64> = overlap.predicted_areas().collect();
    // Only segments that share pixels with a wanted region have a column.
    let mut columns: Vec<Option<usize>> = vec![None; segment_areas.len()];
    let mut num_columns = 0;
    let wanted =
        || overlap.truth_pieces().zip(is_wanted).filter(|&(_, &is_wanted)| is_wanted).map(|(region, _)| region);
    for &(label, _) in wanted().flat_map(|(_, pieces)| pieces) {
        columns[label as usize].get_or_insert_with(|| {
            num_columns += 1;
            num_columns - 1
        });
    }
    let num_rows = wanted().count();
    if num_rows == 0 {
        return Ok(None);
    }
    let mut weights = vec![0i64; num_rows * num_columns];
    for (row, (area, pieces)) in wanted().enumerate() {
        for &(label, common) in pieces {
            let both = u64::from(area) + segment_areas[label as usize];
            let f_measure = 2.0 * f64::from(common) / both as f64;
            if let Some(column) = columns[label as usize] {
                weights[row * num_columns + column] = (f_measure * UNIT).round() as i64;
            }
        }
    }
    let total = largest_total(num_rows, num_columns, &weights);
    Ok(Some(total as f64 / UNIT / num_rows as f64))
}

/// [`region_f`] over images: the mean over those that have regions.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RegionF(ImageMean);

impl RegionF {
    /// Adds one image.
    ///
    /// # Errors
    /// As [`region_f`]. Nothing is added then.
    pub fn update(&mut self, overlap: &Overlap, is_wanted: &[bool]) -> Result<(), EvaluationError> {
        self.0.update(region_f(overlap, is_wanted)?);
        Ok(())
    }

    /// Adds everything that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// The mean, 0 to 1, higher is better; `None` when no image had regions.
    pub fn result(&self) -> Option<f64> {
        self.0.result()
    }
}
