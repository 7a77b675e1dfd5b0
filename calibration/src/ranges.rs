//! From a histogram to a range of 8 bits, and what it is expected to cost.

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

/// How a range is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// From the smallest to the largest value seen.
    MinMax,
    /// Without the outermost hundredth of a percent.
    Percentile,
    /// The one whose 8-bit distribution is closest to the true one (Kullback–Leibler divergence), as TensorRT calibrates.
    Entropy,
    /// The one with the smallest mean squared error.
    Mse,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 4] = [Method::MinMax, Method::Percentile, Method::Entropy, Method::Mse];
}

/// Share of the values that [`Method::Percentile`] keeps.
const KEPT: f64 = 0.9999;
/// Ranges that [`Method::Mse`] tries.
const TRIALS: usize = 200;
/// Fewest bins that an entropy range has: as many as there are levels.
const LEVELS: usize = 128;

/// Values of a tensor that 8 bits stand for; what lies beyond is clipped. Contains 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Smallest, at most 0.
    pub low: f32,
    /// Largest, at least 0.
    pub high: f32,
}

/// How 8 bits are spent on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// −127 to 127 around 0: what TensorRT takes.
    Symmetric,
    /// 0 to 255 with a zero point: what CPUs multiply fastest.
    Asymmetric,
}

impl Range {
    /// Scale and zero point: value = scale · (q − zero point). A range of nothing has the scale 1, so that nothing is
    /// divided by 0.
    pub fn scale(self, bits: Bits) -> (f32, i32) {
        let (low, high) = (self.low.min(0.0), self.high.max(0.0));
        let span = match bits {
            Bits::Symmetric => high.max(-low) / 127.0,
            Bits::Asymmetric => (high - low) / 255.0,
        };
        if span <= f32::MIN_POSITIVE {
            return (1.0, 0);
        }
        match bits {
            Bits::Symmetric => (span, 0),
            Bits::Asymmetric => (span, ((-low / span).round() as i32).clamp(0, 255)),
        }
    }

    /// A value after 8 bits.
    pub fn round_trip(self, value: f64, bits: Bits) -> f64 {
        let (scale, zero) = self.scale(bits);
        let (least, most) = match bits {
            Bits::Symmetric => (-127.0, 127.0),
            Bits::Asymmetric => (0.0, 255.0),
        };
        let level = (value / f64::from(scale)).round_ties_even() + f64::from(zero);
        f64::from(scale) * (level.clamp(least, most) - f64::from(zero))
    }
}

/// The range of a histogram by `method`; of an empty one, nothing.
pub fn range(histogram: &Histogram, method: Method, bits: Bits) -> Range {
    let Some((min, max)) = histogram.extremes() else { return Range { low: 0.0, high: 0.0 } };
    let all = Range { low: min.min(0.0), high: max.max(0.0) };
    match method {
        Method::MinMax => all,
        Method::Percentile => percentile(histogram, all),
        Method::Entropy => within(all, entropy(histogram, all)),
        Method::Mse => mse(histogram, all, bits),
    }
}

/// Mean squared error of 8 bits on a tensor, as a share of its mean square; 0 where all values are 0.
///
/// Values are taken to lie in the middle of their bin, which is a hundredth of a level wide where the range is what the
/// histogram spans.
pub fn relative_error(histogram: &Histogram, range: Range, bits: Bits) -> f64 {
    let (mut error, mut square) = (0.0, 0.0);
    for (value, count) in histogram.bins() {
        let difference = value - range.round_trip(value, bits);
        error += count as f64 * difference * difference;
        square += count as f64 * value * value;
    }
    if square > 0.0 { error / square } else { 0.0 }
}

/// The method with the smallest expected error among all, its range, and that error.
pub fn best(histogram: &Histogram, bits: Bits) -> (Method, Range, f64) {
    let candidates = Method::ALL.map(|method| {
        let range = range(histogram, method, bits);
        (method, range, relative_error(histogram, range, bits))
    });
    let [first, others @ ..] = candidates;
    others.into_iter().fold(first, |best, other| if other.2 < best.2 { other } else { best })
}

/// `all` without what is further from 0 than `threshold`.
fn within(all: Range, threshold: f64) -> Range {
    let threshold = threshold as f32;
    Range { low: all.low.max(-threshold), high: all.high.min(threshold) }
}

/// Cuts half of the rest from each end that is not 0.
fn percentile(histogram: &Histogram, all: Range) -> Range {
    let ends = f64::from(u8::from(all.low < 0.0) + u8::from(all.high > 0.0)).max(1.0);
    let cut = (histogram.total() as f64 * (1.0 - KEPT) / ends).floor() as u64;
    let half = histogram.width() / 2.0;
    let edge = |bins: &mut dyn Iterator<Item = (f64, u64)>| {
        let mut passed = 0;
        for (middle, count) in bins {
            passed += count;
            if passed > cut {
                return Some(middle);
            }
        }
        None
    };
    let bins: Vec<(f64, u64)> = histogram.bins().collect();
    let low = edge(&mut bins.iter().copied()).map_or(0.0, |middle| middle - half);
    let high = edge(&mut bins.iter().rev().copied()).map_or(0.0, |middle| middle + half);
    Range { low: all.low.max(low.min(0.0) as f32), high: all.high.min(high.max(0.0) as f32) }
}

/// TensorRT's threshold: of the first i bins of magnitudes, the rest clipped into the last, the i whose coarse copy with
/// [`LEVELS`] levels diverges least.
fn entropy(histogram: &Histogram, all: Range) -> f64 {
    let magnitudes = histogram.magnitudes();
    let width = histogram.width();
    // One-sided tensors have twice the levels for one side.
    let levels = if all.low < 0.0 && all.high > 0.0 { LEVELS } else { 2 * LEVELS };
    let used = magnitudes.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
    if used <= levels {
        return used as f64 * width;
    }
    let mut tail: u64 = magnitudes[levels..].iter().sum();
    let mut best = (f64::INFINITY, used);
    for length in levels..=used {
        // As fine as matters: one in so many candidates.
        if (length - levels).is_multiple_of(4) || length == used {
            let divergence = divergence(&magnitudes[..length], tail, levels);
            if divergence < best.0 {
                best = (divergence, length);
            }
        }
        if length < used {
            tail -= magnitudes[length];
        }
    }
    best.1 as f64 * width
}

/// Kullback–Leibler divergence of `levels` levels from `bins` with `tail` clipped into the last.
fn divergence(bins: &[u64], tail: u64, levels: usize) -> f64 {
    let total = bins.iter().sum::<u64>() + tail;
    let inside = bins.iter().sum::<u64>();
    if inside == 0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for level in 0..levels {
        let part = (level * bins.len() / levels)..((level + 1) * bins.len() / levels);
        let counts = &bins[part.clone()];
        let filled = counts.iter().filter(|count| **count > 0).count();
        let level_share = counts.iter().sum::<u64>() as f64 / inside as f64 / filled.max(1) as f64;
        for (bin, &count) in part.zip(counts) {
            let clipped = if bin + 1 == bins.len() { tail } else { 0 };
            let share = (count + clipped) as f64 / total as f64;
            if share > 0.0 {
                // What is clipped into an empty bin has nothing in the copy: that costs, but not without end.
                let copy = if count > 0 { level_share } else { 1e-9 };
                sum += share * (share / copy).ln();
            }
        }
    }
    sum
}

/// The best of ranges that shrink towards 0, both ends alike.
fn mse(histogram: &Histogram, all: Range, bits: Bits) -> Range {
    let largest = f64::from(all.high.max(-all.low));
    let mut best = (relative_error(histogram, all, bits), all);
    for trial in 1..TRIALS {
        let range = within(all, largest * trial as f64 / TRIALS as f64);
        let error = relative_error(histogram, range, bits);
        if error < best.0 {
            best = (error, range);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Quantiles of a distribution, so that nothing is left to chance.
    fn spread(quantile: impl Fn(f64) -> f64) -> Histogram {
        let count = 200_000;
        let values: Vec<f32> = (0..count).map(|i| quantile((i as f64 + 0.5) / count as f64) as f32).collect();
        let mut histogram = Histogram::default();
        histogram.observe("x", &values).unwrap();
        histogram
    }

    /// Inverse of the normal distribution (Acklam's rational form in the middle, enough here through bisection).
    fn normal(share: f64) -> f64 {
        let below = |x: f64| 0.5 * erfc(-x / std::f64::consts::SQRT_2);
        let (mut low, mut high) = (-8.0, 8.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if below(middle) < share { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    /// Numerical Recipes' erfccheb-like rational form, 1e-7.
    fn erfc(x: f64) -> f64 {
        let z = x.abs();
        let t = 2.0 / (2.0 + z);
        let poly = -z * z - 1.265_512_23
            + t * (1.000_023_68
                + t * (0.374_091_96
                    + t * (0.096_784_18
                        + t * (-0.186_288_06
                            + t * (0.278_868_07
                                + t * (-1.135_203_98
                                    + t * (1.488_515_87 + t * (-0.822_152_23 + t * 0.170_872_77))))))));
        let value = t * poly.exp();
        if x >= 0.0 { value } else { 2.0 - value }
    }

    #[test]
    fn a_normal_tensor_is_clipped_at_four_deviations() {
        // Banner et al. 2019: the best clipping of 8 bits lies at 3.9 deviations.
        let histogram = spread(normal);
        let range = range(&histogram, Method::Mse, Bits::Symmetric);
        assert!((3.6..4.3).contains(&range.high), "{range:?}");
        assert!((range.low + range.high).abs() < 0.1);
        let mse = relative_error(&histogram, range, Bits::Symmetric);
        // (2·3.9/255)²/12 inside.
        assert!((5e-5..1.2e-4).contains(&mse), "{mse}");
    }

    #[test]
    fn long_tails_are_clipped_by_all_but_min_max() {
        // Laplace's distribution: 0.01 % lie beyond 9.2, the last at 12.2.
        let laplace = |share: f64| if share < 0.5 { (2.0 * share).ln() } else { -(2.0 - 2.0 * share).ln() };
        let histogram = spread(laplace);
        let (_, max) = histogram.extremes().unwrap();
        let high = |method| range(&histogram, method, Bits::Symmetric).high;
        assert_eq!(high(Method::MinMax), max);
        assert!((high(Method::Percentile) - 9.2).abs() < 0.1, "{}", high(Method::Percentile));
        for method in [Method::Entropy, Method::Mse] {
            assert!((4.0..0.95 * max).contains(&high(method)), "{method:?}: {}", high(method));
        }
        let error = |method| relative_error(&histogram, range(&histogram, method, Bits::Symmetric), Bits::Symmetric);
        let (method, _, least) = best(&histogram, Bits::Symmetric);
        assert_eq!((method, least), (Method::Mse, error(Method::Mse)));
        assert!(least < 0.8 * error(Method::MinMax), "{least} and {}", error(Method::MinMax));
    }

    #[test]
    fn a_rectified_tensor_spends_no_level_below_zero() {
        let histogram = spread(|share| (2.0 * share - 1.0).max(0.0));
        for method in Method::ALL {
            let range = range(&histogram, method, Bits::Asymmetric);
            assert_eq!(range.low, 0.0, "{method:?}");
            assert_eq!(range.scale(Bits::Asymmetric).1, 0, "{method:?}");
        }
    }

    #[test]
    fn a_tensor_of_zeros_costs_nothing() {
        let mut histogram = Histogram::default();
        histogram.observe("x", &[0.0; 10]).unwrap();
        for method in Method::ALL {
            let range = range(&histogram, method, Bits::Symmetric);
            assert_eq!(range.scale(Bits::Symmetric), (1.0, 0));
            assert!(range.round_trip(0.0, Bits::Symmetric) == 0.0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

        /// Zero stays zero, values inside move by half a level at most (asymmetric ranges: one, for the rounded zero
        /// point), and nothing is better than the best.
        #[test]
        fn ranges_keep_what_they_promise(values in prop::collection::vec(-20.0f32..30.0, 1..300)) {
            let mut histogram = Histogram::default();
            histogram.observe("x", &values).unwrap();
            for bits in [Bits::Symmetric, Bits::Asymmetric] {
                let (_, _, least) = best(&histogram, bits);
                for method in Method::ALL {
                    let range = range(&histogram, method, bits);
                    prop_assert!(range.low <= 0.0 && range.high >= 0.0);
                    prop_assert_eq!(range.round_trip(0.0, bits), 0.0);
                    let scale = f64::from(range.scale(bits).0);
                    for &value in values.iter().filter(|v| **v >= range.low && **v <= range.high) {
                        let moved = (range.round_trip(f64::from(value), bits) - f64::from(value)).abs();
                        prop_assert!(moved <= scale * 1.001, "{method:?} {bits:?}: {value} moved by {moved}, scale {scale}");
                    }
                    prop_assert!(relative_error(&histogram, range, bits) >= least);
                }
            }
        }
    }
}
