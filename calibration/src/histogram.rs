//! How often a tensor takes which values.

use serde::{Deserialize, Serialize};

use crate::error::{CalibrationError, Result};

/// Bins of a histogram, half of them below zero.
pub const BINS: usize = 4096;
const HALF: i64 = BINS as i64 / 2;
/// Values beyond 2 to this are refused as damaged: half precision ends at 2^16.
const LARGEST_EXPONENT: i32 = 60;
/// All-zero tensors have this one.
const SMALLEST_EXPONENT: i32 = -60;

/// Counts of values over [−2^e, 2^e), in [`BINS`] bins of equal width.
///
/// e is the smallest that holds every value seen, so it depends on the values alone: when a larger one comes, pairs of bins
/// are joined, which is exact, because widths are powers of two. So the result does not depend on the order of values, nor on
/// how they are shared out over histograms that are merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct Histogram {
    exponent: i32,
    counts: Vec<u64>,
    total: u64,
    min: f32,
    max: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            exponent: SMALLEST_EXPONENT,
            counts: vec![0; BINS],
            total: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
        }
    }
}

/// Smallest e with |x| < 2^e.
fn exponent_of(largest: f32) -> i32 {
    let mut exponent = if largest > 0.0 { largest.log2().floor() as i32 } else { SMALLEST_EXPONENT };
    // The logarithm is rounded.
    while f64::from(largest) >= 2f64.powi(exponent) {
        exponent += 1;
    }
    while exponent > SMALLEST_EXPONENT && f64::from(largest) < 2f64.powi(exponent - 1) {
        exponent -= 1;
    }
    exponent
}

impl Histogram {
    /// Counts all values of `tensor`, whose name is for the message.
    ///
    /// # Errors
    /// [`CalibrationError::NotFinite`] when one is NaN, infinite or beyond 2^60; nothing is counted then.
    pub fn observe(&mut self, tensor: &str, values: &[f32]) -> Result<()> {
        let (mut min, mut max, mut broken) = (f32::INFINITY, f32::NEG_INFINITY, 0usize);
        for &value in values {
            min = min.min(value);
            max = max.max(value);
            broken += usize::from(!value.is_finite());
        }
        let largest = min.abs().max(max.abs());
        if broken > 0 || (!values.is_empty() && exponent_of(largest) > LARGEST_EXPONENT) {
            return Err(CalibrationError::NotFinite {
                tensor: tensor.to_owned(),
                count: broken.max(1),
                values: values.len(),
            });
        }
        if values.is_empty() {
            return Ok(());
        }
        self.widen(exponent_of(largest));
        let bins_per_unit = (HALF as f64 * 2f64.powi(-self.exponent)) as f32;
        for &value in values {
            let bin = (value * bins_per_unit).floor() as i64 + HALF;
            self.counts[bin.clamp(0, BINS as i64 - 1) as usize] += 1;
        }
        self.total += values.len() as u64;
        self.min = self.min.min(min);
        self.max = self.max.max(max);
        Ok(())
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        self.widen(other.exponent);
        other.widen(self.exponent);
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.total += other.total;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Makes it reach to 2^exponent at least.
    fn widen(&mut self, exponent: i32) {
        if self.total == 0 {
            self.exponent = self.exponent.max(exponent);
        }
        while self.exponent < exponent {
            let mut joined = vec![0; BINS];
            for (bin, &count) in self.counts.iter().enumerate() {
                joined[((bin as i64 - HALF).div_euclid(2) + HALF) as usize] += count;
            }
            self.counts = joined;
            self.exponent += 1;
        }
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Smallest and largest value; `None` before the first.
    pub fn extremes(&self) -> Option<(f32, f32)> {
        (self.total > 0).then_some((self.min, self.max))
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        2f64.powi(self.exponent) / HALF as f64
    }

    /// The bins that are not empty: middle and count, from below.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let width = self.width();
        let middle = move |bin: usize| ((bin as i64 - HALF) as f64 + 0.5) * width;
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(move |(bin, count)| (middle(bin), *count))
    }

    /// Counts of |x| by distance from zero, in bins of [`Histogram::width`].
    pub fn magnitudes(&self) -> Vec<u64> {
        let (below, above) = self.counts.split_at(HALF as usize);
        above.iter().zip(below.iter().rev()).map(|(a, b)| a + b).collect()
    }
}

/// The form in files: runs of bins that are not empty.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    exponent: i32,
    min: Option<f32>,
    max: Option<f32>,
    /// First bin and counts.
    runs: Vec<(usize, Vec<u64>)>,
}

impl From<Histogram> for Stored {
    fn from(histogram: Histogram) -> Self {
        let mut runs: Vec<(usize, Vec<u64>)> = Vec::new();
        for (bin, count) in histogram.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0) {
            match runs.last_mut() {
                Some((first, counts)) if *first + counts.len() == bin => counts.push(count),
                _ => runs.push((bin, vec![count])),
            }
        }
        let extremes = histogram.extremes();
        Stored { exponent: histogram.exponent, min: extremes.map(|e| e.0), max: extremes.map(|e| e.1), runs }
    }
}

impl TryFrom<Stored> for Histogram {
    type Error = CalibrationError;

    fn try_from(stored: Stored) -> Result<Self> {
        let damaged = |what: &str| CalibrationError::Damaged { what: what.to_owned() };
        if !(SMALLEST_EXPONENT..=LARGEST_EXPONENT).contains(&stored.exponent) {
            return Err(damaged("a histogram's exponent is out of range"));
        }
        let mut histogram = Histogram { exponent: stored.exponent, ..Histogram::default() };
        for (first, counts) in stored.runs {
            let bins = first.checked_add(counts.len()).and_then(|end| histogram.counts.get_mut(first..end));
            let bins = bins.ok_or_else(|| damaged("a histogram has more bins than it can have"))?;
            bins.copy_from_slice(&counts);
        }
        let total = histogram.counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count));
        histogram.total = total.ok_or_else(|| damaged("a histogram counts more than there can be"))?;
        match (histogram.total, stored.min, stored.max) {
            (0, None, None) => {}
            (1.., Some(min), Some(max)) if min <= max && min.is_finite() && max.is_finite() => {
                (histogram.min, histogram.max) = (min, max);
            }
            _ => return Err(damaged("a histogram's smallest and largest value do not fit its counts")),
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.observe("x", values).unwrap();
        histogram
    }

    #[test]
    fn values_fall_where_they_belong() {
        let histogram = of(&[-1.0, 0.0, 0.5, 1.999]);
        // 2^1 holds them: bins of 2^-10.
        assert_eq!(histogram.width(), 2f64.powi(-10));
        let middles: Vec<f64> = histogram.bins().map(|(middle, _)| middle).collect();
        for (middle, value) in middles.iter().zip([-1.0, 0.0, 0.5, 1.999]) {
            assert!((middle - value).abs() <= histogram.width() / 2.0 + 1e-12, "{middle} is not around {value}");
        }
        assert_eq!(histogram.extremes(), Some((-1.0, 1.999)));
        assert_eq!(histogram.magnitudes().iter().sum::<u64>(), 4);
    }

    #[test]
    fn what_is_no_number_is_named_and_not_counted() {
        let mut histogram = of(&[1.0]);
        let error = histogram.observe("layer1.relu", &[1.0, f32::NAN, f32::INFINITY]).unwrap_err();
        assert!(error.to_string().contains("`layer1.relu`: 2 of 3"), "{error}");
        assert_eq!(histogram, of(&[1.0]));
    }

    #[test]
    fn a_damaged_table_is_refused() {
        for text in [
            r#"{"exponent":900,"min":null,"max":null,"runs":[]}"#,
            r#"{"exponent":0,"min":0.0,"max":1.0,"runs":[[4095,[1,1]]]}"#,
            r#"{"exponent":0,"min":null,"max":null,"runs":[[4000,[1]]]}"#,
            r#"{"exponent":0,"min":2.0,"max":1.0,"runs":[[4000,[1]]]}"#,
        ] {
            assert!(serde_json::from_str::<Histogram>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

        /// However values are shared out, in whatever order: the same histogram, to the last count.
        #[test]
        fn merging_is_observing_all(
            values in prop::collection::vec(prop_oneof![-1e-3f32..1e-3, -1.0f32..1.0, -300.0f32..300.0, Just(0.0)], 1..200),
            cut in 0usize..200,
        ) {
            let all = of(&values);
            let (a, b) = values.split_at(cut.min(values.len()));
            let mut merged = of(b);
            merged.merge(&of(a));
            prop_assert_eq!(&merged, &all);
            let mut one_by_one = Histogram::default();
            for value in values.iter().rev() {
                one_by_one.observe("x", &[*value]).unwrap();
            }
            prop_assert_eq!(&one_by_one, &all);
            let text = serde_json::to_string(&all).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Histogram>(&text).unwrap(), &all);
            prop_assert_eq!(all.bins().map(|(_, count)| count).sum::<u64>(), values.len() as u64);
        }
    }
}
