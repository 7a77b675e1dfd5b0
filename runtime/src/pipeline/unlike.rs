//! Whether frames are like the street that the model's bank knows: names of others are often wrong.

use crate::sink::SegmentedFrame;

/// Frames further from the bank than this are unlike the street that the model knows. The shipped model's own street is at
/// 0.000 to 0.014 and the same street at dusk up to 0.12; noise and printed text are at 0.18 to 0.21, streets of other cameras
/// at 0.21 to 0.27 (docs/calibration.md).
pub const UNLIKE: f32 = 0.15;

/// Distance of a frame to the bank: mean over its pixels of 1 − cosine between their segment and the nearest prototype, 0 to
/// 2; 0 without segments. It means something only where there is a bank.
pub fn distance_to_bank(frame: &SegmentedFrame) -> f64 {
    let segments = frame.levels.first().map_or(&[][..], |level| &level.segments);
    let (mut sum, mut area) = (0.0, 0.0);
    for segment in segments.iter().filter(|segment| segment.present) {
        sum += f64::from(segment.unknown_score) * f64::from(segment.area);
        area += f64::from(segment.area);
    }
    sum / f64::max(area, 1.0)
}
