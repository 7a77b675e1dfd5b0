//! Oriented edge strengths, the input of the transform, and what the arcs make of them.

use super::LineArcs;
use crate::resample::resize_bicubic;
use crate::strength::check_strengths;
use crate::{OversegmentError, StrengthMap};

/// Number of orientations.
pub const NUM_ORIENTATIONS: usize = 8;

/// Angle of the boundaries that a channel answers, atan(Δrow / Δcolumn) in radians, rows downwards: 90° for channel 0, then
/// 22.5° less for each.
pub(crate) fn tangent(channel: usize) -> f64 {
    (90.0 - 22.5 * channel as f64).to_radians()
}

/// Strength of a boundary per pixel and orientation, `[height, width, 8]` row-major, finite and ≥ 0.
///
/// Channel k answers boundaries whose tangent has the angle 90° - k · 22.5°, measured as atan(Δrow / Δcolumn) with rows
/// downwards: channel 0 vertical ones, channel 4 horizontal ones.
#[derive(Clone, Debug, PartialEq)]
pub struct OrientedEdges {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl OrientedEdges {
    /// Edges of `height` × `width` pixels, `[height, width, 8]` row-major.
    ///
    /// # Errors
    /// When a side is 0, the number of values is not `height * width * 8`, or a value is negative, infinite or not a
    /// number.
    pub fn new(height: usize, width: usize, values: Vec<f32>) -> Result<Self, OversegmentError> {
        check_strengths(height, width, NUM_ORIENTATIONS, &values)?;
        Ok(Self { height, width, values })
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The strengths, `[height, width, 8]` row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The strengths, as [`OrientedEdges::values`], without a copy.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// The largest of all strengths.
    pub fn largest(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }

    /// All strengths divided by `reference`, for example the largest of a data set; unchanged if that is not above 0.
    #[must_use]
    pub fn divided_by(mut self, reference: f32) -> Self {
        if reference > 0.0 && reference.is_finite() {
            self.values.iter_mut().for_each(|value| *value /= reference);
        }
        self
    }

    /// The smallest of all strengths becomes 0 and the largest 1; equal strengths become 0.
    #[must_use]
    pub fn scaled_to_unit(mut self) -> Self {
        let least = self.values.iter().copied().fold(f32::INFINITY, f32::min);
        let range = self.largest() - least;
        let scale = |value: f32| if range > 0.0 { (value - least) / range } else { 0.0 };
        self.values.iter_mut().for_each(|value| *value = scale(*value));
        self
    }

    /// The strengths at 2^`doublings` times the size, bicubically, cut to `height` × `width` pixels: the way back to an
    /// image whose sides were halved and rounded up so often. What overshoots below 0 is 0.
    ///
    /// # Errors
    /// When a side is 0, or this is not the map of an image of that size.
    pub fn enlarged(&self, height: usize, width: usize, doublings: u32) -> Result<Self, OversegmentError> {
        let factor = 1 << doublings;
        let fits = |side: usize, small: usize| side > 0 && side.div_ceil(factor) == small;
        if !fits(height, self.height) || !fits(width, self.width) {
            return Err(OversegmentError::Setting {
                name: "size",
                got: format!("{height}×{width} (rows × columns)"),
                expected: "that of the image whose edges these are",
            });
        }
        let size = (self.height, self.width);
        let mut values = resize_bicubic(&self.values, size, NUM_ORIENTATIONS, (height, width), factor as f64);
        values.iter_mut().for_each(|value| *value = value.max(0.0));
        Ok(Self { height, width, values })
    }

    /// The largest strength of each pixel.
    pub fn strength(&self) -> StrengthMap {
        let largest = |channels: &[f32]| channels.iter().copied().fold(0.0, f32::max);
        let values = self.values.chunks_exact(NUM_ORIENTATIONS).map(largest).collect();
        StrengthMap { height: self.height, width: self.width, values }
    }

    /// Strength of every line pixel in the direction of its arc, `[height, width]` row-major; 0 elsewhere.
    ///
    /// W(x) = max over the arcs a that contain x, ends included, of E(x, channel of a). `arcs` must be those of a map
    /// of this size: pixels outside are ignored.
    pub fn along(&self, arcs: &LineArcs) -> Vec<f32> {
        let mut weights = vec![0.0f32; self.height * self.width];
        for arc in arcs.arcs() {
            let channel = arcs.channel(arc);
            for &pixel in arcs.interior(arc).iter().chain([&arc.start, &arc.end]) {
                if let Some(weight) = weights.get_mut(pixel as usize) {
                    *weight = weight.max(self.values[pixel as usize * NUM_ORIENTATIONS + channel]);
                }
            }
        }
        weights
    }
}
