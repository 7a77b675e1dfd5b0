//! How the regions of a prediction and those of one annotator share the pixels: all that the region measures look at.

use crate::EvaluationError;
use crate::contours::{Annotation, ContourMap, check_same_size};
use crate::regions::{Regions, regions_at};
use crate::truth_regions::TruthRegions;

/// The table of common pixels of two segmentations of one image, without its zeros.
#[derive(Clone, Debug, Default)]
pub struct Overlap {
    num_pixels: usize,
    /// Pixels of each region of the prediction, those without truth not counted.
    predicted_areas: Vec<u32>,
    /// Pixels of each region of the annotator, and where its common pieces end in `pieces`.
    truth: Vec<(u32, usize)>,
    /// Region of the prediction, and pixels common with the region of the annotator.
    pieces: Vec<(u32, u32)>,
}

impl Overlap {
    /// The table of `regions` and `annotation`, of the same image.
    ///
    /// # Errors
    /// When the numbers of pixels differ.
    pub fn new(regions: &Regions, annotation: &Annotation) -> Result<Self, EvaluationError> {
        let expected = annotation.height() * annotation.width();
        if regions.labels().len() != expected {
            return Err(EvaluationError::Length { expected, got: regions.labels().len() });
        }
        let mut overlap = Self::default();
        overlap.fill(regions.labels(), &areas(regions), annotation, &mut vec![0; regions.num_regions()]);
        Ok(overlap)
    }

    /// The table of segments given as labels of pixels and the regions of a ground truth. Pixels of the same label are one
    /// segment, wherever they are; labels from `num_segments` on are pixels without segment. Pixels without truth are
    /// counted nowhere.
    ///
    /// # Errors
    /// When the numbers of pixels differ.
    pub fn of_labels(prediction: &[u16], num_segments: usize, truth: &TruthRegions) -> Result<Self, EvaluationError> {
        let expected = truth.num_pixels();
        if prediction.len() != expected {
            return Err(EvaluationError::Length { expected, got: prediction.len() });
        }
        let mut overlap = Self::default();
        overlap.count_pieces(prediction, truth.runs(), &mut vec![0; num_segments]);
        overlap.sum_areas(num_segments);
        Ok(overlap)
    }

    /// The table after the regions of the prediction are put together: region `i` becomes a part of `parents[i]`; one
    /// whose parent is not below `num_groups`, or that has none, is no region any more.
    pub fn grouped(&self, parents: &[u16], num_groups: usize) -> Self {
        let mut grouped = Self::default();
        let mut common = vec![0; num_groups];
        for (area, pieces) in self.truth_pieces() {
            let first_piece = grouped.pieces.len();
            for &(label, count) in pieces {
                if let Some(&parent) = parents.get(label as usize) {
                    grouped.add_piece(&mut common, parent.into(), count);
                }
            }
            grouped.close_region(&mut common, first_piece, area);
        }
        grouped.sum_areas(num_groups);
        grouped
    }

    /// As `new`, into memory that is there; `areas`: pixels per region; `common`: zeros, one per region, left as zeros.
    fn fill(&mut self, labels: &[u32], areas: &[u32], annotation: &Annotation, common: &mut [u32]) {
        self.count_pieces(labels, annotation.regions().iter().map(Vec::as_slice), common);
        self.num_pixels = labels.len();
        self.predicted_areas.clear();
        self.predicted_areas.extend_from_slice(areas);
    }

    /// Makes `truth` and `pieces` those of regions of the truth given as runs (first pixel, number of pixels). Labels
    /// that `common` has no place for belong to no region of the prediction.
    fn count_pieces<'a, L: Copy + Eq + Into<u32>>(
        &mut self,
        labels: &[L],
        truth: impl Iterator<Item = &'a [(u32, u32)]>,
        common: &mut [u32],
    ) {
        self.truth.clear();
        self.pieces.clear();
        for runs in truth {
            let first_piece = self.pieces.len();
            let mut area = 0;
            for &(start, length) in runs {
                area += length;
                for piece in labels[start as usize..(start + length) as usize].chunk_by(|a, b| a == b) {
                    self.add_piece(common, piece[0].into(), piece.len() as u32);
                }
            }
            self.close_region(common, first_piece, area);
        }
    }

    /// Adds `count` pixels common with region `label` of the prediction to the region of the truth that is being counted.
    fn add_piece(&mut self, common: &mut [u32], label: u32, count: u32) {
        let Some(sum) = common.get_mut(label as usize) else { return };
        if *sum == 0 {
            self.pieces.push((label, 0));
        }
        *sum += count;
    }

    /// Ends a region of the truth: what was counted moves from `common` to its pieces.
    fn close_region(&mut self, common: &mut [u32], first_piece: usize, area: u32) {
        for (label, count) in &mut self.pieces[first_piece..] {
            *count = std::mem::take(&mut common[*label as usize]);
        }
        self.truth.push((area, self.pieces.len()));
    }

    /// Makes the prediction's areas and the number of pixels those of the pieces and of the truth.
    fn sum_areas(&mut self, num_regions: usize) {
        self.num_pixels = self.truth.iter().map(|&(area, _)| area as usize).sum();
        self.predicted_areas = vec![0; num_regions];
        for &(label, count) in &self.pieces {
            self.predicted_areas[label as usize] += count;
        }
    }

    /// Number of pixels of the image that have a truth.
    pub fn num_pixels(&self) -> usize {
        self.num_pixels
    }

    /// Pixels of each region of the prediction, those without truth not counted.
    pub fn predicted_areas(&self) -> impl Iterator<Item = u64> + '_ {
        self.predicted_areas.iter().map(|&area| area.into())
    }

    /// Pixels of each region of the annotator.
    pub fn truth_areas(&self) -> impl Iterator<Item = u64> + '_ {
        self.truth.iter().map(|&(area, _)| area.into())
    }

    /// Numbers of common pixels, those that are not 0.
    pub fn common_areas(&self) -> impl Iterator<Item = u64> + '_ {
        self.pieces.iter().map(|&(_, common)| common.into())
    }

    /// For each region of the annotator, in the order of its labels, its pixels, and (pixels, common pixels) of each
    /// region of the prediction that has some of them.
    pub fn truth_regions(&self) -> impl Iterator<Item = (u64, impl Iterator<Item = (u64, u64)> + '_)> + '_ {
        self.truth_pieces().map(|(area, pieces)| {
            let areas = |&(label, common): &(u32, u32)| (self.predicted_areas[label as usize].into(), common.into());
            (area.into(), pieces.iter().map(areas))
        })
    }

    /// For each region of the annotator its pixels, and the label of each region of the prediction that has some of them
    /// with the number of these.
    pub(crate) fn truth_pieces(&self) -> impl Iterator<Item = (u32, &[(u32, u32)])> + '_ {
        let mut start = 0;
        self.truth.iter().map(move |&(area, end)| (area, &self.pieces[std::mem::replace(&mut start, end)..end]))
    }

    /// Fails unless `got` is the number of regions of the truth.
    pub(crate) fn check_num_truth(&self, got: usize) -> Result<(), EvaluationError> {
        let expected = self.truth.len();
        if got == expected { Ok(()) } else { Err(EvaluationError::NumRegions { expected, got }) }
    }
}

fn areas(regions: &Regions) -> Vec<u32> {
    let mut areas = vec![0; regions.num_regions()];
    for piece in regions.labels().chunk_by(|a, b| a == b) {
        areas[piece[0] as usize] += piece.len() as u32;
    }
    areas
}

/// The tables of one image from threshold to threshold.
pub(crate) struct Overlaps<'a> {
    contours: &'a ContourMap,
    annotations: &'a [Annotation],
    /// One per annotator.
    pub(crate) tables: Vec<Overlap>,
    pub(crate) num_regions: usize,
}

impl<'a> Overlaps<'a> {
    pub(crate) fn new(contours: &'a ContourMap, annotations: &'a [Annotation]) -> Result<Self, EvaluationError> {
        check_same_size(contours, annotations)?;
        let tables = vec![Overlap::default(); annotations.len()];
        Ok(Self { contours, annotations, tables, num_regions: 0 })
    }

    /// Makes the tables those of the regions at `threshold`.
    pub(crate) fn set_threshold(&mut self, threshold: f32) {
        let regions = regions_at(self.contours, threshold);
        self.num_regions = regions.num_regions();
        let (areas, mut common) = (areas(&regions), vec![0; regions.num_regions()]);
        for (table, annotation) in self.tables.iter_mut().zip(self.annotations) {
            table.fill(regions.labels(), &areas, annotation, &mut common);
        }
    }
}
