//! Precision and recall of boundaries (D. Martin, C. Fowlkes, J. Malik, "Learning to Detect Natural Image Boundaries",
//! PAMI 2004; P. Arbeláez, M. Maire, C. Fowlkes, J. Malik, "Contour Detection and Hierarchical Image Segmentation", PAMI
//! 2011, §3.1): F-measure at the best scale of the data set (ODS) and of each image (OIS), average precision (AP).

use crate::EvaluationError;
use crate::contours::{Annotation, ContourMap, Thresholds, check_same_size};
use crate::covering::first_best;
use crate::matching::{BoundaryPixels, Matcher};
use crate::thinning::thin;

/// How far apart two boundary pixels may be and still be the same boundary, as a share of the image's diagonal.
const TOLERANCE: f64 = 0.0075;

/// Points from one threshold to the next at which the F-measure is looked at, both ends included.
const STEPS_BETWEEN_THRESHOLDS: u32 = 100;

/// Boundary pixels at one threshold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BoundaryCounts {
    /// Boundary pixels of the annotators that have a partner in the prediction; all annotators added up.
    pub matched_truth: u64,
    /// Boundary pixels of the annotators, added up.
    pub truth: u64,
    /// Boundary pixels of the prediction that are the partner of a pixel of at least one annotator.
    pub matched_prediction: u64,
    /// Boundary pixels of the prediction.
    pub prediction: u64,
}

impl BoundaryCounts {
    fn add(&mut self, other: &Self) {
        self.matched_truth += other.matched_truth;
        self.truth += other.truth;
        self.matched_prediction += other.matched_prediction;
        self.prediction += other.prediction;
    }

    /// Share of the annotators' pixels that have a partner; 0 when there are none.
    pub fn recall(&self) -> f64 {
        share(self.matched_truth, self.truth)
    }

    /// Share of the prediction's pixels that have a partner; 0 when there are none.
    pub fn precision(&self) -> f64 {
        share(self.matched_prediction, self.prediction)
    }

    /// Harmonic mean of precision and recall; 0 when both are.
    pub fn f_measure(&self) -> f64 {
        f_measure(self.recall(), self.precision())
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn f_measure(recall: f64, precision: f64) -> f64 {
    if recall + precision > 0.0 { 2.0 * recall * precision / (recall + precision) } else { 0.0 }
}

/// Counts of one image at each threshold. The boundaries of the prediction at t are the pixels whose strength is at least
/// t, thinned; those of the annotators are taken as they are.
///
/// # Errors
/// When there is no annotation or one is not of the size of `contours`.
pub fn boundary_counts(
    contours: &ContourMap,
    annotations: &[Annotation],
    thresholds: &Thresholds,
) -> Result<Vec<BoundaryCounts>, EvaluationError> {
    check_same_size(contours, annotations)?;
    let (height, width) = (contours.height(), contours.width());
    let strengths = contours.pixel_strengths();
    let truths: Vec<BoundaryPixels> = annotations.iter().map(|a| BoundaryPixels::new(a.boundary(), width)).collect();
    let mut matcher = Matcher::new(TOLERANCE * (height as f64).hypot(width as f64));
    let mut per_threshold: Vec<BoundaryCounts> = Vec::with_capacity(thresholds.len());
    // Threshold k has other boundaries than k − 1 only if a strength lies between them.
    let mut has_change = vec![false; thresholds.len() + 1];
    for &strength in &strengths {
        has_change[thresholds.values().partition_point(|&t| t <= strength)] = true;
    }
    for (index, &threshold) in thresholds.values().iter().enumerate() {
        if let Some(&last) = per_threshold.last().filter(|_| !has_change[index]) {
            per_threshold.push(last);
            continue;
        }
        let mut map: Vec<bool> = strengths.iter().map(|&strength| strength >= threshold).collect();
        thin(&mut map, width);
        per_threshold.push(match_all(&mut matcher, &truths, &BoundaryPixels::new(&map, width)));
    }
    Ok(per_threshold)
}

/// Matches a thinned prediction with each annotator by itself.
fn match_all(matcher: &mut Matcher, truths: &[BoundaryPixels], prediction: &BoundaryPixels) -> BoundaryCounts {
    let mut counts = BoundaryCounts { prediction: prediction.len() as u64, ..BoundaryCounts::default() };
    let mut is_matched = vec![false; prediction.len()];
    for truth in truths {
        counts.truth += truth.len() as u64;
        counts.matched_truth += matcher.run(truth, prediction) as u64;
        is_matched.iter_mut().enumerate().for_each(|(index, matched)| *matched |= matcher.is_matched(index));
    }
    counts.matched_prediction = is_matched.iter().filter(|&&matched| matched).count() as u64;
    counts
}

/// Precision and recall over images.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BoundaryBenchmark {
    sums: Vec<BoundaryCounts>,
    /// With each image at its own best threshold.
    at_best_of_image: BoundaryCounts,
}

/// Where on the curve of precision and recall a figure is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    /// Harmonic mean of the two others.
    pub f_measure: f64,
    /// Share of the annotators' boundary pixels that are found.
    pub recall: f64,
    /// Share of the prediction's boundary pixels that are right.
    pub precision: f64,
}

impl OperatingPoint {
    fn new(recall: f64, precision: f64) -> Self {
        Self { f_measure: f_measure(recall, precision), recall, precision }
    }
}

/// The figures of boundaries, all in 0 to 1, higher is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundaryResult {
    /// At the threshold that is best for the data set, precision and recall interpolated between thresholds.
    pub ods: OperatingPoint,
    /// That threshold.
    pub ods_threshold: f64,
    /// With each image at the best of the thresholds for it.
    pub ois: OperatingPoint,
    /// Average precision: area below the curve of precision over recall, as far as thresholds reach. 0 when all thresholds
    /// have one recall: then there is no curve.
    pub ap: f64,
}

impl BoundaryBenchmark {
    /// Nothing seen yet.
    pub fn new(thresholds: &Thresholds) -> Self {
        Self { sums: vec![BoundaryCounts::default(); thresholds.len()], at_best_of_image: BoundaryCounts::default() }
    }

    /// Adds one image.
    ///
    /// # Errors
    /// When its number of thresholds is another one. Nothing is added then.
    pub fn update(&mut self, counts: &[BoundaryCounts]) -> Result<(), EvaluationError> {
        EvaluationError::check_thresholds(self.sums.len(), counts.len())?;
        self.sums.iter_mut().zip(counts).for_each(|(sum, counts)| sum.add(counts));
        if let Some((_, best)) = first_best(counts, |a, b| a.f_measure() > b.f_measure()) {
            self.at_best_of_image.add(best);
        }
        Ok(())
    }

    /// Adds everything that `other` has seen.
    ///
    /// # Errors
    /// When its number of thresholds is another one.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        EvaluationError::check_thresholds(self.sums.len(), other.sums.len())?;
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| sum.add(other));
        self.at_best_of_image.add(&other.at_best_of_image);
        Ok(())
    }

    /// The figures over everything seen so far; all 0 when that is nothing.
    pub fn result(&self) -> BoundaryResult {
        let (ods, ods_threshold) = self.best_point();
        let ois = OperatingPoint::new(self.at_best_of_image.recall(), self.at_best_of_image.precision());
        BoundaryResult { ods, ods_threshold, ois, ap: self.average_precision() }
    }

    /// The point of highest F-measure on the straight lines from threshold to threshold, and its threshold.
    fn best_point(&self) -> (OperatingPoint, f64) {
        let threshold = |index: usize| (index + 1) as f64 / (self.sums.len() + 1) as f64;
        let point = |index: usize| (self.sums[index].recall(), self.sums[index].precision());
        let mut best = (OperatingPoint::new(point(0).0, point(0).1), threshold(0));
        for index in 1..self.sums.len() {
            let (from, to) = (point(index - 1), point(index));
            // Between equal points there is nothing but rounding.
            if from == to {
                continue;
            }
            for step in 0..STEPS_BETWEEN_THRESHOLDS {
                let part = f64::from(step) / f64::from(STEPS_BETWEEN_THRESHOLDS - 1);
                let between = |a: f64, b: f64| a * (1.0 - part) + b * part;
                let here = OperatingPoint::new(between(from.0, to.0), between(from.1, to.1));
                if here.f_measure > best.0.f_measure {
                    best = (here, between(threshold(index - 1), threshold(index)));
                }
            }
        }
        best
    }

    /// Precision, interpolated at recall 0, 0.01 … 1, times 0.01, added up; 0 where no threshold reaches. Of thresholds
    /// with the same recall the lowest counts.
    fn average_precision(&self) -> f64 {
        let mut curve: Vec<(f64, f64)> = self.sums.iter().map(|counts| (counts.recall(), counts.precision())).collect();
        // Stable: equal recalls stay in the order of their thresholds.
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
        curve.dedup_by(|later, first| later.0 == first.0);
        let precision_at = |recall: f64| {
            let above = curve.partition_point(|point| point.0 < recall);
            match (above.checked_sub(1).map(|below| curve[below]), curve.get(above)) {
                (_, Some(&(reached, precision))) if reached == recall => precision,
                (Some((r0, p0)), Some(&(r1, p1))) => p0 + (p1 - p0) * (recall - r0) / (r1 - r0),
                _ => 0.0,
            }
        };
        if curve.len() < 2 {
            return 0.0;
        }
        (0..=100).map(|percent| 0.01 * precision_at(f64::from(percent) / 100.0)).sum()
    }
}
