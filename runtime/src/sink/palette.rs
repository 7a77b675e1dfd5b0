//! Colours of segments.

/// Step of the hue between successive ids, turns: the golden ratio, so that any few successive ids are far apart.
const HUE_STEP: f64 = 0.618_033_988_749_895;
/// Lightness and chroma (OKLCh) that ids take in turn, so that near hues still differ.
const TONES: [(f64, f64); 3] = [(0.72, 0.16), (0.56, 0.14), (0.85, 0.11)];

/// Colour of a segment: the same for the same track id, in every frame and program run.
///
/// Hues follow the golden ratio in OKLCh (B. Ottosson, "A perceptual color space for image processing", 2020), in which
/// equal steps look about equally far apart.
pub fn track_color(track_id: u32) -> [u8; 3] {
    let hue = (0.08 + f64::from(track_id) * HUE_STEP).fract() * std::f64::consts::TAU;
    let (lightness, chroma) = TONES[track_id as usize % TONES.len()];
    rgb_from_oklab(lightness, chroma * hue.cos(), chroma * hue.sin())
}

/// OKLab to sRGB bytes; colours outside sRGB are clipped per channel.
fn rgb_from_oklab(lightness: f64, a: f64, b: f64) -> [u8; 3] {
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    let linear = [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
    ];
    linear.map(|value| {
        let value = value.clamp(0.0, 1.0);
        let encoded = if value <= 0.003_130_8 { 12.92 * value } else { 1.055 * value.powf(1.0 / 2.4) - 0.055 };
        (encoded * 255.0).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours_convert() {
        assert_eq!(rgb_from_oklab(1.0, 0.0, 0.0), [255, 255, 255]);
        assert_eq!(rgb_from_oklab(0.0, 0.0, 0.0), [0, 0, 0]);
        // sRGB red in OKLab.
        assert_eq!(rgb_from_oklab(0.627_955, 0.224_863, 0.125_846), [255, 0, 0]);
    }

    #[test]
    fn successive_ids_are_far_apart() {
        for first in 0..2000 {
            for second in first + 1..first + 8 {
                let (a, b) = (track_color(first), track_color(second));
                let distance: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(b))).sum();
                assert!(distance >= 48, "ids {first} {a:?} and {second} {b:?}");
            }
        }
    }
}
