//! What measures that give each image one number share: the mean over the images that have one.

use serde::{Deserialize, Serialize};

use crate::EvaluationError;
use crate::exact_sum::ExactSum;

/// Mean over images of a number in 0 to 1.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "StoredMean", into = "StoredMean")]
pub(crate) struct ImageMean {
    sum: ExactSum,
    num_images: u64,
}

/// What is written: the fields, not yet checked against each other.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredMean {
    sum: ExactSum,
    num_images: u64,
}

impl From<ImageMean> for StoredMean {
    fn from(mean: ImageMean) -> Self {
        Self { sum: mean.sum, num_images: mean.num_images }
    }
}

impl TryFrom<StoredMean> for ImageMean {
    type Error = EvaluationError;

    fn try_from(stored: StoredMean) -> Result<Self, EvaluationError> {
        let (sum, num_images) = (stored.sum, stored.num_images);
        EvaluationError::check_stored(sum.value() <= num_images as f64, "mean over images", || {
            format!("a sum of at most {num_images}, the number of images, got {}", sum.value())
        })?;
        Ok(Self { sum, num_images })
    }
}

impl ImageMean {
    /// Adds one image; nothing of it when the measure does not apply to it.
    pub(crate) fn update(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum.add(value);
            self.num_images += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.sum.merge(other.sum);
        self.num_images += other.num_images;
    }

    pub(crate) fn result(&self) -> Option<f64> {
        (self.num_images > 0).then(|| self.sum.value() / self.num_images as f64)
    }
}
