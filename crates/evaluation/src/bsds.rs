//! The benchmark of the Berkeley Segmentation Data Set (P. Arbeláez, M. Maire, C. Fowlkes, J. Malik, "Contour Detection
//! and Hierarchical Image Segmentation", PAMI 2011, §3): one contour map per image against several annotators, as
//! boundaries and, cut at the same thresholds, as regions.
//!
//! [`BsdsCounts::of`] does the work of one image and depends on nothing else, so images can be measured side by side;
//! [`BsdsBenchmark`] adds up.

use serde::Serialize;

use crate::EvaluationError;
use crate::boundary::{BoundaryBenchmark, BoundaryCounts, boundary_counts};
use crate::contours::{Annotation, ContourMap, Thresholds};
use crate::covering::{Covering, CoveringCounts, covered_pixels};
use crate::overlap::Overlaps;
use crate::rand_index::{ProbabilisticRandIndex, rand_index};
use crate::variation_of_information::{VariationOfInformation, variation_of_information};

/// What is counted of one image; the vectors have one item per threshold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BsdsCounts {
    /// Boundary pixels.
    pub boundary: Vec<BoundaryCounts>,
    /// Covered pixels.
    pub covering: CoveringCounts,
    /// Rand index, mean over annotators, 0 to 1.
    pub rand_index: Vec<f64>,
    /// Variation of information, mean over annotators, bits.
    pub variation_of_information: Vec<f64>,
    /// Regions of the prediction.
    pub num_regions: Vec<usize>,
}

impl BsdsCounts {
    /// Measures one image.
    ///
    /// # Errors
    /// When there is no annotation or one is not of the size of `contours`.
    pub fn of(
        contours: &ContourMap,
        annotations: &[Annotation],
        thresholds: &Thresholds,
    ) -> Result<Self, EvaluationError> {
        let boundary = boundary_counts(contours, annotations, thresholds)?;
        let mut counts = Self { boundary, ..Self::default() };
        counts.count_regions(contours, annotations, thresholds)?;
        Ok(counts)
    }

    fn count_regions(
        &mut self,
        contours: &ContourMap,
        annotations: &[Annotation],
        thresholds: &Thresholds,
    ) -> Result<(), EvaluationError> {
        let mut overlaps = Overlaps::new(contours, annotations)?;
        // Threshold k has other regions than k − 1 only if a strength lies between them.
        let mut has_change = vec![false; thresholds.len() + 1];
        for &strength in contours.strengths() {
            has_change[thresholds.values().partition_point(|&t| t < strength)] = true;
        }
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / annotations.len() as f64;
        // Per annotated region, all annotators one after the other.
        let mut best_of_regions: Vec<f64> = Vec::new();
        for (index, &threshold) in thresholds.values().iter().enumerate() {
            if index > 0 && !has_change[index] {
                self.repeat_last();
                continue;
            }
            overlaps.set_threshold(threshold);
            let covered: Vec<f64> = overlaps.tables.iter().flat_map(covered_pixels).collect();
            best_of_regions.resize(covered.len(), 0.0);
            best_of_regions.iter_mut().zip(&covered).for_each(|(best, &covered)| *best = best.max(covered));
            self.covering.covered.push(covered.iter().sum());
            self.rand_index.push(mean(&mut overlaps.tables.iter().map(rand_index)));
            self.variation_of_information.push(mean(&mut overlaps.tables.iter().map(variation_of_information)));
            self.num_regions.push(overlaps.num_regions);
        }
        self.covering.covered_at_best = best_of_regions.iter().sum();
        self.covering.total = (contours.height() * contours.width() * annotations.len()) as u64;
        Ok(())
    }

    /// The regions are those of the threshold before.
    fn repeat_last(&mut self) {
        fn repeat<T: Copy>(values: &mut Vec<T>) {
            values.extend(values.last().copied());
        }
        repeat(&mut self.covering.covered);
        repeat(&mut self.rand_index);
        repeat(&mut self.variation_of_information);
        repeat(&mut self.num_regions);
    }
}

/// All measures of the benchmark over images.
#[derive(Clone, Debug, PartialEq)]
pub struct BsdsBenchmark {
    thresholds: Thresholds,
    boundary: BoundaryBenchmark,
    covering: Covering,
    rand_index: ProbabilisticRandIndex,
    variation_of_information: VariationOfInformation,
    num_images: u64,
}

/// The figures of the benchmark. Those that end in `ods` are at the threshold that is best for the data set, those that
/// end in `ois` with each image at its own best. In 0 to 1 and higher is better, but for the variation of information.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BsdsResult {
    /// F-measure of boundaries, ODS, between thresholds too.
    pub ods: f64,
    /// F-measure of boundaries, OIS.
    pub ois: f64,
    /// Average precision of boundaries.
    pub ap: f64,
    /// Covering, ODS.
    pub cover_ods: f64,
    /// Covering, OIS.
    pub cover_ois: f64,
    /// Covering with each annotated region at its own best threshold.
    pub cover_best: f64,
    /// Probabilistic Rand index, ODS.
    pub pri_ods: f64,
    /// Probabilistic Rand index, OIS.
    pub pri_ois: f64,
    /// Variation of information, ODS, bits; lower is better.
    pub vi_ods: f64,
    /// Variation of information, OIS, bits; lower is better.
    pub vi_ois: f64,
    /// Number of images.
    pub images: u64,
    /// Threshold of `ods`.
    pub ods_threshold: f64,
    /// Recall of `ods`.
    pub ods_recall: f64,
    /// Precision of `ods`.
    pub ods_precision: f64,
    /// Recall of `ois`.
    pub ois_recall: f64,
    /// Precision of `ois`.
    pub ois_precision: f64,
    /// Threshold of `cover_ods`.
    pub cover_ods_threshold: f64,
    /// Threshold of `pri_ods`.
    pub pri_ods_threshold: f64,
    /// Threshold of `vi_ods`.
    pub vi_ods_threshold: f64,
}

impl BsdsBenchmark {
    /// Nothing seen yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            boundary: BoundaryBenchmark::new(&thresholds),
            covering: Covering::new(&thresholds),
            rand_index: ProbabilisticRandIndex::new(&thresholds),
            variation_of_information: VariationOfInformation::new(&thresholds),
            thresholds,
            num_images: 0,
        }
    }

    /// The thresholds for [`BsdsCounts::of`].
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// Adds one image.
    ///
    /// # Errors
    /// When its counts are of another number of thresholds. Nothing is added then.
    pub fn update(&mut self, counts: &BsdsCounts) -> Result<(), EvaluationError> {
        let lengths = [counts.boundary.len(), counts.covering.covered.len(), counts.rand_index.len()];
        for got in lengths.into_iter().chain([counts.variation_of_information.len()]) {
            EvaluationError::check_thresholds(self.thresholds.len(), got)?;
        }
        self.boundary.update(&counts.boundary)?;
        self.covering.update(&counts.covering)?;
        self.rand_index.update(&counts.rand_index)?;
        self.variation_of_information.update(&counts.variation_of_information)?;
        self.num_images += 1;
        Ok(())
    }

    /// Adds everything that `other` has seen.
    ///
    /// # Errors
    /// When its thresholds are others.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        self.boundary.merge(&other.boundary)?;
        self.covering.merge(&other.covering)?;
        self.rand_index.merge(&other.rand_index)?;
        self.variation_of_information.merge(&other.variation_of_information)?;
        self.num_images += other.num_images;
        Ok(())
    }

    /// The figures over everything seen so far; `None` when that is nothing.
    pub fn result(&self) -> Option<BsdsResult> {
        let boundary = self.boundary.result();
        let covering = self.covering.result()?;
        let rand_index = self.rand_index.result()?;
        let variation = self.variation_of_information.result()?;
        Some(BsdsResult {
            ods: boundary.ods.f_measure,
            ois: boundary.ois.f_measure,
            ap: boundary.ap,
            cover_ods: covering.ods,
            cover_ois: covering.ois,
            cover_best: covering.best,
            pri_ods: rand_index.ods,
            pri_ois: rand_index.ois,
            vi_ods: variation.ods,
            vi_ois: variation.ois,
            images: self.num_images,
            ods_threshold: boundary.ods_threshold,
            ods_recall: boundary.ods.recall,
            ods_precision: boundary.ods.precision,
            ois_recall: boundary.ois.recall,
            ois_precision: boundary.ois.precision,
            cover_ods_threshold: self.thresholds.exact(covering.ods_index),
            pri_ods_threshold: self.thresholds.exact(rand_index.ods_index),
            vi_ods_threshold: self.thresholds.exact(variation.ods_index),
        })
    }
}
