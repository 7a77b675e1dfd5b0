//! \[F7\] Labels of cells → labels of pixels at source size.

use segcore::embedding::EmbeddingMap;
use segcore::preprocess::ResizePlan;
use segcore::refine::{Refiner, source_from_content, upsample_nearest};
use segcore::spherical_kmeans::SegmentMap;

use super::StageError;

/// How labels get from cells to pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// Cells are clustered; pixels near segment borders are looked at again (method.md §3). The default.
    #[default]
    Refined,
    /// Cells are clustered; each pixel takes its cell's label (`--no-refine`, the protocol of the baseline page).
    Nearest,
    /// Pixels are clustered, by the products of the cells around them (`--cluster-pixels`).
    Pixels,
    /// Features are upsampled everywhere and pixels are clustered (`--reference`): slow, for accuracy only.
    Reference,
}

impl Resolution {
    /// Pixels of the resized frame per clustered place, for features of this stride.
    pub fn cell(self, stride: usize) -> usize {
        match self {
            Self::Refined | Self::Nearest => stride,
            Self::Pixels | Self::Reference => 1,
        }
    }
}

/// The stage refine.
#[derive(Default)]
pub struct RefineStage {
    /// Made anew when the size of the frames changes.
    refiner: Option<(ResizePlan, Refiner)>,
    /// Columns of cells for each pixel of a row, for the nearest upsampling.
    columns: Vec<usize>,
}

impl RefineStage {
    /// Writes the slot of every pixel of the source, `[h, w]`, into `slots`. `stride`: pixels of the resized frame per
    /// cell; `centroids` are those of the clustering.
    ///
    /// # Errors
    /// When the sizes do not fit each other.
    pub fn run(
        &mut self,
        resolution: Resolution,
        plan: &ResizePlan,
        stride: usize,
        embedding: &EmbeddingMap,
        segments: &SegmentMap,
        centroids: &[f32],
        slots: &mut Vec<u16>,
    ) -> Result<(), StageError> {
        slots.resize(plan.source.num_pixels(), 0);
        match resolution {
            Resolution::Refined => {
                let refiner = match self.refiner.take().filter(|(of, _)| of == plan) {
                    Some((_, refiner)) => refiner,
                    None => Refiner::new(plan, stride),
                };
                let (_, refiner) = self.refiner.insert((*plan, refiner));
                refiner.run(embedding, segments, centroids, slots).map_err(StageError::at("refine"))
            }
            Resolution::Nearest => {
                upsample_nearest(&mut self.columns, plan, stride, segments, slots);
                Ok(())
            }
            Resolution::Pixels | Resolution::Reference => {
                source_from_content(plan, segments, slots).map_err(StageError::at("refine"))
            }
        }
    }
}
