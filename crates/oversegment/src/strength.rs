//! Boundary strength, the common ground of edge detectors and watersheds.

use crate::OversegmentError;

/// Checks `[height, width, channels]` strengths: both sides at least 1, as many as that, finite and ≥ 0.
pub(crate) fn check_strengths(
    height: usize,
    width: usize,
    channels: usize,
    values: &[f32],
) -> Result<(), OversegmentError> {
    if height == 0 || width == 0 {
        return Err(OversegmentError::EmptyMap { height, width });
    }
    let expected = height.saturating_mul(width).saturating_mul(channels);
    if values.len() != expected {
        return Err(OversegmentError::StrengthLength { height, width, expected, got: values.len() });
    }
    match values.iter().position(|value| !(value.is_finite() && *value >= 0.0)) {
        None => Ok(()),
        Some(at) => {
            let (pixel, value) = (at / channels, values[at]);
            Err(OversegmentError::StrengthValue { row: pixel / width, column: pixel % width, value })
        }
    }
}

/// Strength of a boundary per pixel, `[height, width]` row-major, finite and ≥ 0.
#[derive(Clone, Debug, PartialEq)]
pub struct StrengthMap {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) values: Vec<f32>,
}

impl StrengthMap {
    /// A map of `height` × `width` strengths, row-major.
    ///
    /// # Errors
    /// When a side is 0, the number of values is not `height * width`, or a value is negative, infinite or not a
    /// number.
    pub fn new(height: usize, width: usize, values: Vec<f32>) -> Result<Self, OversegmentError> {
        check_strengths(height, width, 1, &values)?;
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

    /// The strengths, `[height, width]` row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}
