//! Comparison of float tensors, with a message that says what is wrong.

/// How far two tensors may lie apart.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    relative_to_max: f64,
    absolute: f64,
}

impl Tolerance {
    /// |a − b| ≤ `share` · max|b|, the maximum taken over the whole expected tensor.
    ///
    /// For numbers that went through sums: the small elements carry the rounding errors of the large ones.
    pub fn relative_to_max(share: f64) -> Self {
        Self { relative_to_max: share, absolute: 0.0 }
    }

    /// |a − b| ≤ `bound`.
    pub fn absolute(bound: f64) -> Self {
        Self { relative_to_max: 0.0, absolute: bound }
    }

    /// Both bounds added.
    pub fn or_absolute(self, bound: f64) -> Self {
        Self { absolute: self.absolute + bound, ..self }
    }
}

/// Panics unless `actual` and `expected` have one length and every element lies within `tolerance`.
///
/// The message names the first outlier with both values, the share of outliers, the largest difference and max|b|.
/// A NaN in either tensor is an outlier.
#[track_caller]
pub fn assert_close(name: &str, actual: &[f32], expected: &[f32], tolerance: Tolerance) {
    if let Some(difference) = difference(actual, expected, tolerance) {
        panic!("{name}: {difference}");
    }
}

fn difference(actual: &[f32], expected: &[f32], tolerance: Tolerance) -> Option<String> {
    if actual.len() != expected.len() {
        return Some(format!("{} elements, expected {}", actual.len(), expected.len()));
    }
    let max = expected.iter().fold(0.0_f64, |max, value| max.max(f64::from(value.abs())));
    let bound = tolerance.relative_to_max * max + tolerance.absolute;
    let mut first = None;
    let mut num_outliers = 0_usize;
    let mut largest = 0.0_f64;
    for (index, (&a, &b)) in actual.iter().zip(expected).enumerate() {
        let distance = if a == b { 0.0 } else { (f64::from(a) - f64::from(b)).abs() };
        if distance.is_nan() || distance > bound {
            num_outliers += 1;
            first.get_or_insert((index, a, b));
        }
        largest = if distance.is_nan() { f64::NAN } else { largest.max(distance) };
    }
    let (index, a, b) = first?;
    Some(format!(
        "element {index} is {a:e}, expected {b:e}; {num_outliers} of {} outside {bound:.3e} ({:.2} %), largest \
         difference {largest:.3e}, max |expected| {max:.3e}",
        actual.len(),
        100.0 * num_outliers as f64 / actual.len() as f64,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_relative_to_the_largest_element() {
        let tolerance = Tolerance::relative_to_max(1e-2);
        assert_eq!(difference(&[100.0, 0.9], &[100.0, 0.0], tolerance), None);
        assert!(difference(&[100.0, 1.1], &[100.0, 0.0], tolerance).is_some());
    }

    #[test]
    fn the_message_names_the_first_outlier_and_the_share() {
        let text = difference(&[1.0, 2.5, 3.5, 4.0], &[1.0, 2.0, 3.0, 4.0], Tolerance::absolute(0.1)).unwrap();
        assert!(text.starts_with("element 1 is 2.5e0, expected 2e0; 2 of 4 outside 1.000e-1 (50.00 %)"), "{text}");
        assert!(text.ends_with("max |expected| 4.000e0"), "{text}");
    }

    #[test]
    fn nan_and_missing_elements_are_outliers() {
        let tolerance = Tolerance::relative_to_max(1.0).or_absolute(1.0);
        assert!(difference(&[f32::NAN], &[1.0], tolerance).is_some());
        assert!(difference(&[1.0], &[f32::NAN], tolerance).is_some());
        assert_eq!(difference(&[1.0], &[1.0, 2.0], tolerance).as_deref(), Some("1 elements, expected 2"));
        assert_eq!(difference(&[f32::INFINITY], &[f32::INFINITY], Tolerance::absolute(0.0)), None);
    }
}
