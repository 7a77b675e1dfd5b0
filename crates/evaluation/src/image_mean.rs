//! What measures that give each image one number share: the mean over the images that have one.

use crate::exact_sum::ExactSum;

/// Mean over images of a number in 0 to 1.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ImageMean {
    sum: ExactSum,
    num_images: u64,
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
