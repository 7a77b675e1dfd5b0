//! From numbers to places on an axis, and which numbers to write beside it.

/// Numbers beyond this are not drawn: differences of them could overflow.
const LARGEST: f64 = 1e150;

/// How an axis spaces its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spacing {
    Linear,
    Log,
}

/// An axis over the numbers `low..=high`, `low < high`.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    spacing: Spacing,
    low: f64,
    high: f64,
}

impl Axis {
    /// The axis that shows all of `values` that can be shown; from 0 to 1 (linear) or 1 to 10 (log) without any.
    pub(crate) fn over(values: impl Iterator<Item = f64>, spacing: Spacing) -> Self {
        let mut range: Option<(f64, f64)> = None;
        for value in values.filter(|&value| can_show(value, spacing)) {
            range = Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))));
        }
        let Some((mut low, mut high)) = range else {
            let (low, high) = if spacing == Spacing::Log { (1.0, 10.0) } else { (0.0, 1.0) };
            return Self { spacing, low, high };
        };
        // A constant gets some room; so does what differs in rounding only, for which there are no ticks.
        if spacing == Spacing::Log {
            if high / low < 1.0 + 1e-9 {
                (low, high) = (low / 2.0, high * 2.0);
            }
        } else {
            let size = low.abs().max(high.abs());
            if high - low <= 1e-9 * size {
                let room = if size == 0.0 { 1.0 } else { 0.1 * size };
                (low, high) = (low - room, high + room);
            } else if high == low {
                // Numbers so small that a tenth of them is nothing.
                (low, high) = (low - 1.0, high + 1.0);
            }
        }
        Self { spacing, low, high }
    }

    /// The same axis, widened to the ticks around it, so that curves keep off the frame.
    pub(crate) fn widened(mut self, most: usize) -> Self {
        match self.spacing {
            Spacing::Linear => {
                let step = nice_step(self.high - self.low, most);
                self.low = (self.low / step).floor() * step;
                self.high = (self.high / step).ceil() * step;
            }
            Spacing::Log => {
                let room = (self.high / self.low).powf(0.03);
                (self.low, self.high) = (self.low / room, self.high * room);
            }
        }
        self
    }

    /// Where `value` is between the ends, 0 to 1; `None` where it cannot be shown.
    pub(crate) fn place(&self, value: f64) -> Option<f64> {
        if !can_show(value, self.spacing) {
            return None;
        }
        let share = match self.spacing {
            Spacing::Linear => (value - self.low) / (self.high - self.low),
            Spacing::Log => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
        };
        share.is_finite().then(|| share.clamp(0.0, 1.0))
    }

    /// At most about `most` numbers of the axis with their texts, rising.
    pub(crate) fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        if self.spacing == Spacing::Log {
            let ticks = log_ticks(self.low, self.high, most);
            // Within less than half a decade there may be no round number of the logarithm.
            if ticks.len() >= 2 {
                return ticks.into_iter().map(|value| (value, plain_text(value))).collect();
            }
        }
        let step = nice_step(self.high - self.low, most);
        let ticks = linear_ticks(self.low, self.high, step);
        let size = self.low.abs().max(self.high.abs());
        ticks.into_iter().map(|value| (value, tick_text(value, step, size))).collect()
    }
}

fn can_show(value: f64, spacing: Spacing) -> bool {
    let low = if spacing == Spacing::Log { 1.0 / LARGEST } else { -LARGEST };
    (low..=LARGEST).contains(&value)
}

/// The smallest of 1, 2, 5 times a power of ten that divides `range` into at most `most` parts.
fn nice_step(range: f64, most: usize) -> f64 {
    let least = range / most.max(1) as f64;
    if least < f64::MIN_POSITIVE {
        return f64::MIN_POSITIVE;
    }
    let power = power_of_ten(least.log10().floor() as i32);
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

/// 10^exponent, rounded correctly, which `powi` is not for negative exponents.
fn power_of_ten(exponent: i32) -> f64 {
    format!("1e{exponent}").parse().unwrap_or(f64::MIN_POSITIVE)
}

fn linear_ticks(low: f64, high: f64, step: f64) -> Vec<f64> {
    // What is on the end but for rounding belongs to the axis.
    let slack = 1e-6;
    let (first, last) = ((low / step - slack).ceil(), (high / step + slack).floor());
    let count = (last - first).clamp(0.0, 1000.0) as usize;
    if last < first {
        return Vec::new();
    }
    // `+ 0.0` turns −0 into 0.
    (0..=count).map(|i| (first + i as f64) * step + 0.0).collect()
}

fn log_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let decades = (last - first).max(1) as usize;
    let every = decades.div_ceil(most.max(1)) as i32;
    let factors: &[f64] = if decades * 3 <= most + 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    for exponent in (first..=last).filter(|exponent| exponent.rem_euclid(every) == 0) {
        let values = factors.iter().map(|factor| factor * power_of_ten(exponent));
        ticks.extend(values.filter(|&value| value >= low * (1.0 - 1e-9) && value <= high * (1.0 + 1e-9)));
    }
    ticks
}

/// `value` with as many digits as its neighbours a `step` away need, on an axis whose numbers are up to `size`.
fn tick_text(value: f64, step: f64, size: f64) -> String {
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    if value == 0.0 {
        return "0".to_owned();
    }
    if size < 1e7 && decimals <= 5 {
        return format!("{value:.decimals$}").replace('-', "−");
    }
    let digits = (value.abs().log10().floor() - (step.log10() + 1e-9).floor()).clamp(0.0, 15.0) as usize;
    format!("{value:.digits$e}").replace('-', "−")
}

/// A round number in the shortest usual form.
fn plain_text(value: f64) -> String {
    if (1e-4..1e7).contains(&value) { format!("{value}") } else { format!("{value:e}").replace('-', "−") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn axis(values: &[f64], spacing: Spacing) -> Axis {
        Axis::over(values.iter().copied(), spacing)
    }

    fn texts(axis: &Axis, most: usize) -> Vec<String> {
        axis.ticks(most).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(texts(&axis(&[0.0, 1.0], Spacing::Linear), 5), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(&axis(&[1.0, 4000.0], Spacing::Linear), 5), ["1000", "2000", "3000", "4000"]);
        assert_eq!(texts(&axis(&[-0.03, 0.021], Spacing::Linear), 6), ["−0.03", "−0.02", "−0.01", "0", "0.01", "0.02"]);
        assert_eq!(texts(&axis(&[0.0, 3e8], Spacing::Linear), 3), ["0", "1e8", "2e8", "3e8"]);
        assert_eq!(texts(&axis(&[0.0, 4e-7], Spacing::Linear), 2), ["0", "2e−7", "4e−7"]);
    }

    #[test]
    fn logarithmic_ticks_are_decades_or_their_parts() {
        assert_eq!(texts(&axis(&[0.001, 100.0], Spacing::Log), 6), ["0.001", "0.01", "0.1", "1", "10", "100"]);
        assert_eq!(texts(&axis(&[1.0, 10.0], Spacing::Log), 6), ["1", "2", "5", "10"]);
        assert_eq!(texts(&axis(&[1e-12, 1.0], Spacing::Log), 4), ["1e−12", "1e−9", "1e−6", "0.001", "1"]);
        // Too little for them: as on a linear axis.
        assert_eq!(texts(&axis(&[3.0, 4.0], Spacing::Log), 5), ["3.0", "3.2", "3.4", "3.6", "3.8", "4.0"]);
    }

    #[test]
    fn a_constant_is_in_the_middle() {
        for value in [0.0, 5.0, -3.0, 1e100, 1e-310, f64::MIN_POSITIVE] {
            let place = axis(&[value; 3], Spacing::Linear).place(value).unwrap();
            assert!((place - 0.5).abs() < 1e-6, "{value}: {place}");
        }
        let place = axis(&[0.3], Spacing::Log).place(0.3).unwrap();
        assert!((place - 0.5).abs() < 1e-9);
    }

    #[test]
    fn without_numbers_there_is_an_axis_all_the_same() {
        assert_eq!(texts(&axis(&[f64::NAN, f64::INFINITY], Spacing::Linear), 2), ["0", "0.5", "1.0"]);
        assert_eq!(texts(&axis(&[-1.0, 0.0], Spacing::Log), 2).first().unwrap(), "1");
    }

    #[test]
    fn what_cannot_be_shown_has_no_place() {
        let linear = axis(&[0.0, 1.0], Spacing::Linear);
        assert_eq!(linear.place(f64::NAN), None);
        assert_eq!(linear.place(f64::NEG_INFINITY), None);
        assert_eq!(axis(&[0.1, 1.0], Spacing::Log).place(0.0), None);
        assert_eq!(linear.place(1.0), Some(1.0));
    }

    proptest! {
        #[test]
        fn any_numbers_have_few_rising_ticks_on_the_axis(
            values in proptest::collection::vec(any::<f64>(), 0..6), log in any::<bool>(), most in 1_usize..12
        ) {
            let spacing = if log { Spacing::Log } else { Spacing::Linear };
            for axis in [axis(&values, spacing), axis(&values, spacing).widened(most)] {
                let ticks = axis.ticks(most);
                prop_assert!(ticks.len() <= 3 * most + 3, "{ticks:?}");
                prop_assert!(ticks.windows(2).all(|pair| pair[0].0 < pair[1].0), "{ticks:?}");
                for (value, text) in &ticks {
                    prop_assert!(value.is_finite() && !text.is_empty());
                }
                for value in &values {
                    let place = axis.place(*value);
                    prop_assert!(place.is_none_or(|place| (0.0..=1.0).contains(&place)));
                }
            }
        }

        #[test]
        fn everyday_ranges_have_two_ticks_with_texts_of_their_own(low in -1e6_f64..1e6, size in 1e-3_f64..1e6) {
            let axis = axis(&[low, low + size], Spacing::Linear).widened(5);
            let texts = texts(&axis, 5);
            prop_assert!(texts.len() >= 2 && texts.len() <= 8, "{texts:?}");
            prop_assert!(texts.windows(2).all(|pair| pair[0] != pair[1]), "{texts:?}");
        }
    }
}
