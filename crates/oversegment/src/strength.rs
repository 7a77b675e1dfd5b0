//! Boundary strength, the common ground of edge detectors and watersheds.

use crate::OversegmentError;

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
        if height == 0 || width == 0 {
            return Err(OversegmentError::EmptyMap { height, width });
        }
        let expected = height.saturating_mul(width);
        if values.len() != expected {
            return Err(OversegmentError::StrengthLength { height, width, expected, got: values.len() });
        }
        if let Some(at) = values.iter().position(|value| !(value.is_finite() && *value >= 0.0)) {
            return Err(OversegmentError::StrengthValue { row: at / width, column: at % width, value: values[at] });
        }
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
