//! The regions of a class map: connected pieces of one class.

use crate::EvaluationError;
use crate::regions::Forest;

/// The least pixels of a region that counts by itself, whatever its size, in [`crate::NfCovering`] and
/// [`crate::RegionF`]. Annotations have specks of a few pixels, which no segmentation could be asked for.
pub const MIN_REGION_PIXELS: u64 = 100;

/// One connected region of a class map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TruthRegion {
    train_id: u8,
    num_pixels: u64,
    /// First pixel (row-major) and number of pixels of each horizontal stretch, row by row.
    runs: Vec<(u32, u32)>,
}

impl TruthRegion {
    /// Class of its pixels.
    pub fn train_id(&self) -> u8 {
        self.train_id
    }

    /// Its pixels, at least 1.
    pub fn num_pixels(&self) -> u64 {
        self.num_pixels
    }
}

/// The connected components (8 neighbours) of each class of one image, in the order of their first pixels. Pixels without
/// class are in none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TruthRegions {
    num_pixels: usize,
    regions: Vec<TruthRegion>,
}

/// A horizontal stretch of one class.
struct Run {
    /// First column, and one past the last one.
    start: usize,
    end: usize,
    /// First pixel, row-major.
    pixel: usize,
    train_id: u8,
    component: u32,
}

impl TruthRegions {
    /// The regions of `train_ids`, `[height, width]` row-major; `ignore` is the value of pixels without class.
    ///
    /// # Errors
    /// When the size is not possible or not that of the map.
    pub fn new(height: usize, width: usize, train_ids: &[u8], ignore: u8) -> Result<Self, EvaluationError> {
        let what = "class map";
        let num_pixels = height.checked_mul(width).filter(|&pixels| pixels > 0 && u32::try_from(pixels).is_ok());
        let num_pixels = num_pixels.ok_or(EvaluationError::MapSize { what, height, width })?;
        if train_ids.len() != num_pixels {
            let got = train_ids.len();
            return Err(EvaluationError::MapLength { what, rows: height, columns: width, got });
        }
        let (runs, mut components) = connected_runs(width, train_ids, ignore);
        let mut regions: Vec<TruthRegion> = Vec::new();
        let mut region_of_component = vec![None; runs.len()];
        for run in runs {
            let index = *region_of_component[components.root(run.component) as usize].get_or_insert_with(|| {
                regions.push(TruthRegion { train_id: run.train_id, num_pixels: 0, runs: Vec::new() });
                regions.len() - 1
            });
            let (region, length) = (&mut regions[index], run.end - run.start);
            region.num_pixels += length as u64;
            region.runs.push((run.pixel as u32, length as u32));
        }
        Ok(Self { num_pixels, regions })
    }

    /// Number of pixels of the image, those without class as well.
    pub fn num_pixels(&self) -> usize {
        self.num_pixels
    }

    /// The regions.
    pub fn regions(&self) -> &[TruthRegion] {
        &self.regions
    }

    /// Which regions have at least `min_pixels` pixels and a class that `is_wanted`.
    pub fn choose(&self, min_pixels: u64, is_wanted: impl Fn(u8) -> bool) -> Vec<bool> {
        self.regions.iter().map(|region| region.num_pixels >= min_pixels && is_wanted(region.train_id)).collect()
    }

    /// The stretches of each region, in the order of [`TruthRegions::regions`]: first pixel (row-major) and length.
    pub fn runs(&self) -> impl Iterator<Item = &[(u32, u32)]> + '_ {
        self.regions.iter().map(|region| region.runs.as_slice())
    }
}

/// All stretches, row by row, and the components they are in, one id per stretch.
fn connected_runs(width: usize, train_ids: &[u8], ignore: u8) -> (Vec<Run>, Forest) {
    let mut components = Forest::default();
    let mut runs: Vec<Run> = Vec::new();
    let mut above = 0;
    for (y, row) in train_ids.chunks_exact(width).enumerate() {
        let row_start = runs.len();
        let (mut next, mut start) = (above, 0);
        for stretch in row.chunk_by(|a, b| a == b) {
            let end = start + stretch.len();
            let train_id = stretch[0];
            if train_id != ignore {
                let component = components.add();
                // Stretches that touch at a corner are connected. The last of them may touch the next one as well.
                while next < row_start && runs[next].end < start {
                    next += 1;
                }
                for touching in runs[next..row_start].iter().take_while(|run| run.start <= end) {
                    if touching.train_id == train_id {
                        components.join(touching.component, component);
                    }
                }
                runs.push(Run { start, end, pixel: y * width + start, train_id, component });
            }
            start = end;
        }
        above = row_start;
    }
    (runs, components)
}
