//! From an image to its regions: the merge tree cut at the first threshold that leaves few enough of them.

use segcore::image::{ImageSize, ImageView};

use crate::resample::twice;
use crate::{Basins, GradientSpec, MergeTree, OversegmentError, gradient, region_merging, watershed};

/// Settings of [`gradient_regions`].
#[derive(Clone, Debug, PartialEq)]
pub struct GradientRegions {
    /// First threshold on the mean boundary strength (0 to 1).
    pub start: f64,
    /// Added to the threshold while there are too many regions; > 0.
    pub step: f64,
    /// The result has fewer regions than this; 2 to 65535.
    pub max_regions: usize,
    /// Regions smaller than this share of the image's pixels are merged before any other (0 to 0.1; 0: none).
    ///
    /// On every fifth CamVid training frame (480×360, at most 255 regions; `examples/purity.rs`), share of the labelled
    /// pixels in a region of their class: 0.93 at 0.001 (median 238 regions), 0.68 at 0.0001, most of them specks with
    /// everything else merged. Between, at 0.0007 (and σ 1), twice as many pixel pairs of one class share a region at
    /// the same purity; networks learned from that were no better.
    pub min_area_share: f64,
    /// The edges.
    pub gradient: GradientSpec,
}

impl Default for GradientRegions {
    fn default() -> Self {
        Self { start: 0.05, step: 0.01, max_regions: 256, min_area_share: 0.001, gradient: GradientSpec::default() }
    }
}

impl GradientRegions {
    fn check(&self) -> Result<(), OversegmentError> {
        let setting = |name, got: String, expected| Err(OversegmentError::Setting { name, got, expected });
        if !(0.0..=1.0).contains(&self.start) {
            return setting("start", self.start.to_string(), "a strength from 0 to 1");
        }
        if !(self.step > 0.0 && self.step <= 1.0) {
            return setting("step", self.step.to_string(), "a strength above 0 and at most 1");
        }
        check_max_regions(self.max_regions)?;
        if !(0.0..=0.1).contains(&self.min_area_share) {
            return setting("min_area_share", self.min_area_share.to_string(), "a share from 0 to 0.1");
        }
        Ok(())
    }

    /// `min_area_share` of an image of `num_pixels`, in pixels.
    pub fn min_area(&self, num_pixels: usize) -> usize {
        (self.min_area_share * num_pixels as f64).round() as usize
    }
}

pub(crate) fn check_max_regions(max_regions: usize) -> Result<(), OversegmentError> {
    if (2..=65535).contains(&max_regions) {
        return Ok(());
    }
    Err(OversegmentError::Setting {
        name: "max_regions",
        got: max_regions.to_string(),
        expected: "2 to 65535 (65535 means `no region` in files)",
    })
}

/// Which region every pixel belongs to. Every pixel has one, and every region is 8-connected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RegionMap {
    /// Size of the image and of this map.
    pub size: ImageSize,
    /// Region ids, `[height, width]` row-major, dense from 0 in row-major order of the regions' first pixels.
    pub labels: Vec<u16>,
    /// Number of regions; ids are 0 to `num_regions - 1`.
    pub num_regions: usize,
}

impl RegionMap {
    /// The map for an image of up to twice the size, every pixel twice each way.
    ///
    /// # Panics
    /// If a side of `size` is more than twice as long.
    #[must_use]
    pub fn enlarged(&self, size: ImageSize) -> Self {
        Self { size, labels: twice(&self.labels, self.size.width, size), num_regions: self.num_regions }
    }
}

/// Over-segments `image`: gradient, watershed, merging by mean boundary strength until fewer than
/// `spec.max_regions` are left at one of the thresholds `start`, `start + step`, `start + 2·step`, ….
///
/// # Errors
/// When the image has no pixels, too few bytes or an unknown pixel format, or a setting is out of range.
pub fn gradient_regions(image: &ImageView<'_>, spec: &GradientRegions) -> Result<RegionMap, OversegmentError> {
    spec.check()?;
    let strength = gradient::strength_with(image, &spec.gradient)?;
    let basins = watershed(&strength);
    let tree = region_merging(&strength, &basins, spec.min_area(basins.labels.len()));
    let threshold = first_threshold(&tree, spec.start, spec.step, spec.max_regions);
    Ok(region_map(&basins, &tree, threshold))
}

/// The first of `start`, `start + step`, … at which `tree` has fewer than `max_regions` regions (≥ 2).
///
/// Strengths are at most 1, so from 1 on one region is left and the search ends.
pub fn first_threshold(tree: &MergeTree, start: f64, step: f64, max_regions: usize) -> f64 {
    // `start + n·step`, not a running sum: errors must not add up.
    (0..).map(|n| start + f64::from(n) * step).find(|&t| tree.num_regions(t) < max_regions || t >= 1.0).unwrap_or(1.0)
}

/// The regions that are left of `basins` when every merge of energy ≤ `threshold` is done.
///
/// # Panics
/// If 65535 or more are left: choose the threshold with [`first_threshold`].
pub fn region_map(basins: &Basins, tree: &MergeTree, threshold: f64) -> RegionMap {
    let num_regions = tree.num_regions(threshold);
    assert!(num_regions < usize::from(u16::MAX), "{num_regions} regions do not fit 16-bit ids");
    let root_of_basin = tree.cut(threshold);
    const UNNAMED: u16 = u16::MAX;
    let mut id_of_root = vec![UNNAMED; tree.num_basins()];
    let mut next = 0u16;
    let labels = basins
        .labels
        .iter()
        .map(|&basin| {
            let id = &mut id_of_root[root_of_basin[basin as usize] as usize];
            if *id == UNNAMED {
                *id = next;
                next += 1;
            }
            *id
        })
        .collect();
    RegionMap { size: ImageSize { width: basins.width, height: basins.height }, labels, num_regions: usize::from(next) }
}
