//! One axis of a resampling with half-pixel centres (`align_corners = false`).

/// `torch.linspace(start, end, n)` in `f32`, computed from both ends as PyTorch does (one value: `start`).
pub(crate) fn linspace(start: f32, end: f32, n: usize) -> impl Iterator<Item = f32> {
    let step = if n > 1 { (end - start) / (n - 1) as f32 } else { 0.0 };
    (0..n).map(move |i| if i < n.div_ceil(2) { start + step * i as f32 } else { end - step * (n - 1 - i) as f32 })
}

/// Where an output sample lies between two cells of the input.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct LinearTap {
    /// Cell the sample lies in (for nearest sampling).
    pub nearest: usize,
    /// Lower neighbour; the upper one is `low + 1`, or `low` at the end.
    pub low: usize,
    /// Upper neighbour.
    pub high: usize,
    /// Weight of the upper neighbour, 0–1.
    pub weight: f32,
}

/// The tap of a sample at `position`, measured in cells from the *edge* of the first of `num_cells` cells (the centre
/// of cell `i` is at `i + 0.5`). Positions outside the centres are clamped to the first and last cell.
pub(crate) fn linear_tap(position: f64, num_cells: usize) -> LinearTap {
    let last = num_cells.saturating_sub(1);
    let nearest = (position.max(0.0) as usize).min(last);
    let from_centre = (position - 0.5).clamp(0.0, last as f64);
    let low = (from_centre as usize).min(last);
    LinearTap { nearest, low, high: (low + 1).min(last), weight: (from_centre - low as f64) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linspace_includes_both_ends() {
        let values: Vec<f32> = linspace(-0.5, 0.5, 5).collect();
        assert_eq!(values, [-0.5, -0.25, 0.0, 0.25, 0.5]);
        assert_eq!(linspace(-0.5, 0.5, 1).collect::<Vec<_>>(), [-0.5]);
        assert_eq!(linspace(0.0, 1.0, 0).count(), 0);
    }

    #[test]
    fn taps_are_clamped() {
        assert_eq!(linear_tap(0.2, 4), LinearTap { nearest: 0, low: 0, high: 1, weight: 0.0 });
        assert_eq!(linear_tap(1.0, 4), LinearTap { nearest: 1, low: 0, high: 1, weight: 0.5 });
        assert_eq!(linear_tap(3.9, 4), LinearTap { nearest: 3, low: 3, high: 3, weight: 0.0 });
        assert_eq!(linear_tap(9.0, 1), LinearTap { nearest: 0, low: 0, high: 0, weight: 0.0 });
    }
}
