//! A sum that does not depend on the order of its terms.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The least part of 1 that is kept: 2⁻⁴⁰, about 10⁻¹².
const UNIT: f64 = (1u64 << 40) as f64;

/// A sum of numbers ≥ 0 as a whole number of units: floating-point addition would make the last digits of a result
/// depend on which image came first and on how shards were merged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ExactSum(u128);

impl ExactSum {
    /// Adds a finite number ≥ 0 below 2⁶⁰, rounded to a whole number of units.
    pub(crate) fn add(&mut self, term: f64) {
        self.0 += (term * UNIT).round() as u128;
    }

    /// Adds another sum.
    pub(crate) fn merge(&mut self, other: Self) {
        // Sums of images never get there; one from a damaged file might.
        self.0 = self.0.saturating_add(other.0);
    }

    pub(crate) fn value(self) -> f64 {
        self.0 as f64 / UNIT
    }
}

/// Written as a string of decimal digits: no JSON reader keeps whole numbers of this size as numbers.
impl Serialize for ExactSum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ExactSum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let units = digits.parse();
        units.map(Self).map_err(|_| D::Error::custom(format!("expected a sum as decimal digits, got `{digits}`")))
    }
}

/// Adds the sums of another shard, one per threshold, to `sums`.
pub(crate) fn merge_all(sums: &mut [ExactSum], others: &[ExactSum]) {
    sums.iter_mut().zip(others).for_each(|(sum, &other)| sum.merge(other));
}
