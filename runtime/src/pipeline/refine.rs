//! \[F7\] Labels of cells → labels of pixels at source size.

use segcore::embedding::EmbeddingMap;
use segcore::preprocess::ResizePlan;
use segcore::refine::{Refiner, source_from_content};
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
    /// Features are upsampled everywhere and pixels are clustered (`--reference`): slow, for accuracy only.
    Reference,
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
            Resolution::Reference => source_from_content(plan, segments, slots).map_err(StageError::at("refine")),
        }
    }
}

/// Each source pixel takes the cell that its centre falls into.
fn upsample_nearest(
    columns: &mut Vec<usize>,
    &ResizePlan { source, content, .. }: &ResizePlan,
    stride: usize,
    segments: &SegmentMap,
    slots: &mut [u16],
) {
    // (p + 1/2) · content / source / stride in integers: exact on every machine.
    let index = |pixel: usize, source: usize, content: usize, cells: usize| {
        ((2 * pixel + 1) * content / (2 * source * stride)).min(cells.saturating_sub(1))
    };
    columns.clear();
    columns.extend((0..source.width).map(|x| index(x, source.width, content.width, segments.width)));
    for (y, out) in slots.chunks_exact_mut(source.width).enumerate() {
        let row = index(y, source.height, content.height, segments.height) * segments.width;
        for (slot, &column) in out.iter_mut().zip(columns.iter()) {
            *slot = segments.labels[row + column];
        }
    }
}

#[cfg(test)]
mod tests {
    use segcore::image::ImageSize;

    use super::*;

    #[test]
    fn nearest_upsampling_takes_the_cell_of_the_pixel_centre() {
        let segments = SegmentMap { height: 1, width: 3, num_slots: 3, labels: vec![0, 1, 2], ..SegmentMap::default() };
        let upsampled = |source: (usize, usize), content: (usize, usize)| {
            let size = |(width, height)| ImageSize { width, height };
            let plan = ResizePlan { source: size(source), content: size(content), padded: size(content) };
            let mut slots = vec![9; source.0 * source.1];
            upsample_nearest(&mut Vec::new(), &plan, 2, &segments, &mut slots);
            slots
        };
        // Not resized, cells of 2 pixels: the last cell covers only one.
        assert_eq!(upsampled((5, 2), (5, 2)), [0, 0, 1, 1, 2, 0, 0, 1, 1, 2]);
        // Enlarged twofold before the network.
        assert_eq!(upsampled((3, 1), (6, 2)), [0, 1, 2]);
        // A remainder smaller than half a cell has no cell of its own and takes the last one.
        assert_eq!(upsampled((7, 1), (7, 1)), [0, 0, 1, 1, 2, 2, 2]);
    }
}
