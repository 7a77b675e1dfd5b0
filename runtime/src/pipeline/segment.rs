//! \[F3\] Features → base segments: spherical k-means, started from the last frame's centroids on video.
//!
//! A sequence starts from the grid on its first frame, when the map changes size, and at a scene cut. A cut is found
//! before clustering: the mean distance 1 − cos between each cell's feature and the prototype that this cell belonged
//! to in the frame before. In a continuous drive it stays near its running mean; at a cut nothing of the old frame fits.

use segcore::embedding::EmbeddingMap;
use segcore::image::ImageSize;
use segcore::pixel_kmeans::PixelKmeans;
use segcore::preprocess::ResizePlan;
use segcore::refine::reference_full_resolution;
use segcore::spherical_kmeans::{KmeansSpec, SegmentMap, SphericalKmeans, Start};

use super::{Resolution, StageError};

/// Rounds of clustering unless told otherwise; never more than the model's.
///
/// The method makes 15 and has hardly settled then, while every round amplifies what differs in the input: with 3 segments are
/// as good, on video better, and change less under noise and through int8 (`docs/benchmarks/accuracy.md`, "Rounds").
pub const DEFAULT_ROUNDS: usize = 3;

/// A frame is a cut when its distance to the last frame's prototypes exceeds the running mean by this factor.
///
/// Measured with an early camvid-r18: successive frames of the CamVid drive at 15 Hz 0.06–0.09, of KITTI at 10 Hz
/// 0.06–0.07, of the highway clip at 25 Hz 0.05–0.08, never above 1.4 × the running mean; changes to another drive
/// 0.44–0.73; frames of one drive a whole second apart 0.19–0.29 (nothing could be tracked there either).
pub const CUT_FACTOR: f32 = 2.5;
/// … and is at least this, so that a standing camera (distances near 0) is not cut by a passing car.
pub const CUT_MIN_DISTANCE: f32 = 0.05;
/// Weight of the newest frame in the running mean.
const RUNNING_WEIGHT: f32 = 0.1;

/// The stage segment.
pub struct SegmentStage {
    kmeans: SphericalKmeans,
    /// Clusters instead of `kmeans` when pixels are clustered.
    pixel_kmeans: Option<PixelKmeans>,
    map: SegmentMap,
    stride: usize,
    resolution: Resolution,
    /// Upsampled features of the reference path.
    upsampled: EmbeddingMap,
    /// Size of the last frame, and of its feature map; none before the first.
    previous_size: Option<(ImageSize, (usize, usize))>,
    cuts: SceneCuts,
}

/// What tells a scene cut: a jump of the distance to the last frame's prototypes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SceneCuts {
    /// Running mean of the distance of warm frames.
    usual_distance: f32,
}

impl SceneCuts {
    /// Whether a frame at this distance from the last one's prototypes is of another scene.
    pub(super) fn is_cut(&self, distance: f32) -> bool {
        is_cut(distance, self.usual_distance)
    }

    /// Takes note of a frame: its distance when it went on from the last one. The first frame after a start sets the scale by
    /// `own`, the distance of cells to their own segments; the next frame will hardly be closer than that.
    pub(super) fn observe(&mut self, distance: Option<f32>, own: impl FnOnce() -> f32) {
        match distance {
            Some(distance) => self.usual_distance += RUNNING_WEIGHT * (distance - self.usual_distance),
            None => self.usual_distance = own(),
        }
    }
}

/// How a frame was clustered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegmentStart {
    /// Whether clustering started from the grid, so that nothing of the last frame lives on.
    pub from_grid: bool,
    /// Whether this was because of a scene cut.
    pub cut: bool,
    /// Mean distance of this frame's features to the last frame's prototypes; none when it was not compared.
    pub distance: Option<f32>,
}

impl SegmentStage {
    /// A stage for features of length `dim` with one cell per `stride` pixels.
    ///
    /// # Errors
    /// When the specification is invalid.
    pub fn new(
        spec: KmeansSpec,
        (dim, stride): (usize, usize),
        resolution: Resolution,
        num_threads: usize,
    ) -> Result<Self, StageError> {
        let pixel_kmeans = (resolution == Resolution::Pixels)
            .then(|| PixelKmeans::new(spec, dim, num_threads))
            .transpose()
            .map_err(StageError::at("segment"))?;
        Ok(Self {
            pixel_kmeans,
            kmeans: SphericalKmeans::new(spec, dim, num_threads).map_err(StageError::at("segment"))?,
            map: SegmentMap::default(),
            stride,
            resolution,
            upsampled: EmbeddingMap::default(),
            previous_size: None,
            cuts: SceneCuts::default(),
        })
    }

    /// Clusters a frame; `tracking`: it follows the last one in time. `clustered`: the cells that take part (pixels of the
    /// resized frame when pixels are clustered); none = all.
    ///
    /// # Errors
    /// When the map does not fit the stage.
    pub fn run(
        &mut self,
        embedding: &EmbeddingMap,
        plan: &ResizePlan,
        clustered: Option<&[bool]>,
        tracking: bool,
    ) -> Result<SegmentStart, StageError> {
        let cells = (embedding.height, embedding.width);
        // A frame of the same size on another feature map: the ladder of `degrade.rs` made the network's input smaller or
        // larger. The view is the same, so centroids and ids live on.
        let comparable = tracking && self.previous_size.is_some_and(|(source, _)| source == plan.source);
        let resized = self.previous_size.is_some_and(|(_, size)| size != cells);
        if comparable && resized && self.resolution != Resolution::Reference {
            self.kmeans.carry_over(cells.0, cells.1);
        }
        let distance = comparable.then(|| distance_to_segments(embedding, &self.map));
        let cut = distance.is_some_and(|distance| self.cuts.is_cut(distance));
        let from_grid = cut || !comparable;
        let start = if from_grid { Start::Grid } else { Start::Warm };
        let Self { kmeans, pixel_kmeans, upsampled, map, stride, .. } = self;
        match (self.resolution, pixel_kmeans) {
            (Resolution::Pixels, Some(kmeans)) => kmeans.run(embedding, plan.content, *stride, clustered, start, map),
            (Resolution::Reference, _) => {
                reference_full_resolution(embedding, plan.content, *stride, kmeans, clustered, start, upsampled, map)
            }
            _ => kmeans.run_masked(embedding, clustered, start, map),
        }
        .map_err(StageError::at("segment"))?;
        self.previous_size = Some((plan.source, cells));
        self.cuts.observe(distance.filter(|_| !cut), || distance_to_segments(embedding, &self.map));
        Ok(SegmentStart { from_grid, cut, distance })
    }

    /// Pixels of the resized frame per cell.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Makes at most this many rounds from now on.
    pub fn limit_rounds(&mut self, max_rounds: usize) {
        self.kmeans.limit_rounds(max_rounds);
        if let Some(kmeans) = &mut self.pixel_kmeans {
            kmeans.limit_rounds(max_rounds);
        }
    }

    /// Forgets the frames so far: the next one starts from the grid.
    pub fn restart(&mut self) {
        self.previous_size = None;
    }

    /// Base segments of the last frame.
    pub fn map(&self) -> &SegmentMap {
        &self.map
    }

    /// Centroids `[k, dim + 2]` of the last run.
    pub fn centroids(&self) -> &[f32] {
        self.pixel_kmeans.as_ref().map_or_else(|| self.kmeans.centroids(), PixelKmeans::centroids)
    }

    /// Slots that the last run re-seeded.
    pub fn reseeded(&self) -> &[u32] {
        self.pixel_kmeans.as_ref().map_or_else(|| self.kmeans.reseeded(), PixelKmeans::reseeded)
    }
}

/// Mean of 1 − cos(feature, prototype of the segment at the cell's place) over the cells that have one. The segments
/// may be of another resolution (pixels): cells then look at the pixel in their middle.
pub(crate) fn distance_to_segments(embedding: &EmbeddingMap, segments: &SegmentMap) -> f32 {
    let dim = embedding.dim.max(1);
    let (mut sum, mut count) = (0.0f64, 0u32);
    for (index, feature) in embedding.data.chunks_exact(dim).enumerate() {
        let (y, x) = (index / embedding.width, index % embedding.width);
        let row = (2 * y + 1) * segments.height / (2 * embedding.height);
        let column = (2 * x + 1) * segments.width / (2 * embedding.width);
        let slot = segments.labels.get(row * segments.width + column).map_or(usize::MAX, |&slot| usize::from(slot));
        if slot < segments.num_slots
            && let Some(prototype) = segments.prototypes.get(slot * dim..(slot + 1) * dim)
        {
            sum += f64::from(1.0 - dot(feature, prototype));
            count += 1;
        }
    }
    if count == 0 { 0.0 } else { (sum / f64::from(count)) as f32 }
}

fn is_cut(distance: f32, usual: f32) -> bool {
    distance > CUT_MIN_DISTANCE && distance > CUT_FACTOR * usual
}

/// Inner product with eight partial sums, so that it vectorises.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_a_jump_of_the_distance() {
        assert!(is_cut(0.5, 0.15));
        assert!(!is_cut(0.3, 0.15));
        assert!(!is_cut(0.04, 0.001), "a standing camera");
    }

    #[test]
    fn inner_products() {
        let a: Vec<f32> = (0..19).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), (0..19).map(|i| (i * i) as f32).sum::<f32>());
    }
}
