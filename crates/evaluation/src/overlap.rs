//! How the regions of a prediction and those of one annotator share the pixels: all that the region measures look at.

use crate::EvaluationError;
use crate::contours::{Annotation, ContourMap, check_same_size};
use crate::regions::{Regions, regions_at};

/// The table of common pixels of two segmentations of one image, without its zeros.
#[derive(Clone, Debug, Default)]
pub struct Overlap {
    num_pixels: usize,
    /// Pixels of each region of the prediction.
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

    /// As `new`, into memory that is there; `areas`: pixels per region; `common`: zeros, one per region, left as zeros.
    fn fill(&mut self, labels: &[u32], areas: &[u32], annotation: &Annotation, common: &mut [u32]) {
        self.num_pixels = labels.len();
        self.predicted_areas.clear();
        self.predicted_areas.extend_from_slice(areas);
        self.truth.clear();
        self.pieces.clear();
        for runs in annotation.regions() {
            let first_piece = self.pieces.len();
            let mut area = 0;
            for &(start, length) in runs {
                area += length;
                for piece in labels[start as usize..(start + length) as usize].chunk_by(|a, b| a == b) {
                    let label = piece[0];
                    let count = &mut common[label as usize];
                    if *count == 0 {
                        self.pieces.push((label, 0));
                    }
                    *count += piece.len() as u32;
                }
            }
            for (label, count) in &mut self.pieces[first_piece..] {
                *count = std::mem::take(&mut common[*label as usize]);
            }
            self.truth.push((area, self.pieces.len()));
        }
    }

    /// Number of pixels of the image.
    pub fn num_pixels(&self) -> usize {
        self.num_pixels
    }

    /// Pixels of each region of the prediction.
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
        let mut start = 0;
        self.truth.iter().map(move |&(area, end)| {
            let pieces = &self.pieces[std::mem::replace(&mut start, end)..end];
            let areas = |&(label, common): &(u32, u32)| (self.predicted_areas[label as usize].into(), common.into());
            (area.into(), pieces.iter().map(areas))
        })
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
