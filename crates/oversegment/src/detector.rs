//! The edge detectors that people choose from, and what is done with their edges.
//!
//! [`Detector::segment`] is the way of HSG for street scenes: edges at half resolution, scaled by themselves; OWT-UCM;
//! the first threshold with few enough regions; every pixel twice each way. [`Detector::full_size`] gives the edges for
//! the benchmark's way: full size, scaled by the largest strength of a whole data set
//! ([`Detector::needs_data_set_scale`]).

use segcore::image::{ImageSize, ImageView};

use crate::owt_ucm::{NUM_ORIENTATIONS, OrientedEdges, owt_ucm};
use crate::pmi::{self, PmiSpec};
use crate::resample::{resize_bicubic, twice};
use crate::{OversegmentError, RegionMap, gradient};

/// What finds the edges.
#[derive(Clone, Debug, PartialEq)]
pub enum Detector {
    /// Pointwise mutual information at half resolution.
    Pmi(PmiSpec),
    /// Pointwise mutual information at quarter resolution plus a gradient at full resolution, for whole data sets in
    /// minutes.
    Fast {
        /// Seed of all that is random.
        seed: u64,
    },
}

/// Standard deviations of the gradient's Gaussians in pixels.
const SIGMAS: [f32; 2] = [2.0, 4.0];
/// Weight of the gradient.
const GRADIENT: f32 = 0.5;
/// The strength of [`pmi::relative_edges`] with [`PmiSpec::coarse`] that counts as 1. The largest of 20 BSDS images lies
/// between 22 and 24, depending on the seed; of 17, 22, 28 and 32, 28 scored best on them beside the gradient
/// (docs/benchmarks/edges.md).
const STRONGEST: f32 = 28.0;

/// Regions of an image and the map that they were cut from.
#[derive(Clone, Debug, PartialEq)]
pub struct Segmentation {
    /// Fewer regions than asked for, at the image's size.
    pub regions: RegionMap,
    /// Strengths of the contours between all leaves, 0 to 1, `[height, width]` row-major, at the image's size.
    pub contours: Vec<f32>,
}

impl Detector {
    /// Regions and contours of `image` as HSG makes them: from edges at half resolution (rounded up), scaled by the
    /// image alone; cut at 0.05, 0.06, … until fewer than `max_regions` (2 to 65535) are left.
    ///
    /// # Errors
    /// When the image has no pixels, too few bytes or an unknown pixel format, `max_regions` is out of range, or the
    /// edges are not those of half resolution.
    pub fn segment(&self, image: &ImageView<'_>, max_regions: usize) -> Result<Segmentation, OversegmentError> {
        let edges = match self {
            Self::Pmi(spec) if spec.halvings != 1 => {
                return Err(OversegmentError::Setting {
                    name: "halvings",
                    got: spec.halvings.to_string(),
                    expected: "1: this way works at half resolution",
                });
            }
            Self::Pmi(spec) => pmi::edges(image, spec)?.scaled_to_unit(),
            Self::Fast { seed } => fast(image, *seed, 1)?,
        };
        let ucm = owt_ucm(&edges).sigmoid();
        let regions = ucm.paper_regions(max_regions)?.enlarged(image.size);
        let contours = twice(&ucm.image_size_map(), ucm.leaves().width, image.size);
        Ok(Segmentation { regions, contours })
    }

    /// The edges of `image` as they are computed: at the resolution of [`Detector::Pmi`], or full size.
    ///
    /// # Errors
    /// When the image has no pixels, too few bytes or an unknown pixel format.
    pub fn edges(&self, image: &ImageView<'_>) -> Result<OrientedEdges, OversegmentError> {
        match self {
            Self::Pmi(spec) => pmi::edges(image, spec),
            Self::Fast { seed } => fast(image, *seed, 0),
        }
    }

    /// [`Detector::edges`] of an image of `size`, at that size. Those of [`Detector::Pmi`] still have to be divided by
    /// the largest one of the data set; those of [`Detector::Fast`] are comparable between images as they are.
    ///
    /// # Errors
    /// When `edges` are those of a smaller image.
    pub fn full_size(&self, edges: OrientedEdges, size: ImageSize) -> Result<OrientedEdges, OversegmentError> {
        match self {
            Self::Pmi(spec) if spec.halvings > 0 => edges.enlarged(size.height, size.width, spec.halvings),
            _ => Ok(edges),
        }
    }

    /// Whether strengths must be divided by the largest of a data set before they can be compared.
    pub fn needs_data_set_scale(&self) -> bool {
        matches!(self, Self::Pmi(_))
    }
}

/// Edges at 1 / 2^`halvings` of the size of `image` (rounded up), at most twice.
fn fast(image: &ImageView<'_>, seed: u64, halvings: u32) -> Result<OrientedEdges, OversegmentError> {
    let spec = PmiSpec { seed, ..PmiSpec::coarse() };
    let (height, width) = (image.size.height, image.size.width);
    let (new_height, new_width) = (height.div_ceil(1 << halvings), width.div_ceil(1 << halvings));
    let mut values = gradient::oriented(image, &SIGMAS)?.into_values();
    if halvings > 0 {
        let scale = 1.0 / f64::from(1u32 << halvings);
        values = resize_bicubic(&values, (height, width), NUM_ORIENTATIONS, (new_height, new_width), scale);
    }
    let soft = pmi::relative_edges(image, &spec)?.enlarged(new_height, new_width, spec.halvings - halvings)?;
    for (value, &soft) in values.iter_mut().zip(soft.values()) {
        *value = soft / STRONGEST + GRADIENT * value.max(0.0);
    }
    OrientedEdges::new(new_height, new_width, values)
}
