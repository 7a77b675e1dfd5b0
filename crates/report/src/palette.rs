//! Colours of curves: told apart by colour-blind readers, and with contrast enough on light and on dark ground.
//!
//! Found by a search that moved a palette after Okabe and Ito, "Color Universal Design" (2008), to the largest smallest
//! distance between two colours as seen with all cones, as a protanope and as a deuteranope (CIE L*a*b*: 39 light, 38
//! dark), with a contrast of 3 to the ground. The tests below measure both.

/// Ground and colours of one scheme, as `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    /// The page's ground.
    pub ground: &'static str,
    /// Text.
    pub text: &'static str,
    /// Text of less weight: captions, axis labels.
    pub muted: &'static str,
    /// Lines between things: grids, table rules.
    pub rule: &'static str,
    /// One colour a curve; further curves start again, dashed.
    pub series: [&'static str; NUM_SERIES],
}

/// Colours before they repeat.
pub const NUM_SERIES: usize = 7;

/// Light ground, and paper.
pub const LIGHT: Palette = Palette {
    ground: "#ffffff",
    text: "#1b1d21",
    muted: "#5a5f68",
    rule: "#d5d8dd",
    series: ["#062e80", "#c88600", "#789b73", "#9b70a6", "#3d3c00", "#1b1d21", "#0290ff"],
};

/// Dark ground.
pub const DARK: Palette = Palette {
    ground: "#16181c",
    text: "#e8eaee",
    muted: "#a7adb7",
    rule: "#3b4048",
    series: ["#0064c6", "#9d5101", "#43df81", "#8d546c", "#ebc500", "#e8eaee", "#b4b8ff"],
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Linear red, green, blue, 0 to 1.
    fn linear(color: &str) -> [f64; 3] {
        [1, 3, 5].map(|at| {
            let value = f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        })
    }

    fn product(matrix: [[f64; 3]; 3], vector: [f64; 3]) -> [f64; 3] {
        matrix.map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
    }

    const LUMINANCE: [f64; 3] = [0.2126, 0.7152, 0.0722];

    /// WCAG 2.2's contrast of two colours, 1 to 21.
    fn contrast(a: &str, b: &str) -> f64 {
        let luminance = |color| linear(color).iter().zip(LUMINANCE).map(|(a, b)| a * b).sum::<f64>() + 0.05;
        let (a, b) = (luminance(a), luminance(b));
        a.max(b) / a.min(b)
    }

    /// CIE L*a*b* under D65.
    fn lab(rgb: [f64; 3]) -> [f64; 3] {
        let xyz = product(
            [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
            rgb.map(|value| value.max(0.0)),
        );
        let f = |t: f64| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
        let [x, y, z] = [f(xyz[0] / 0.9505), f(xyz[1]), f(xyz[2] / 1.089)];
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    /// Viénot, Brettel and Mollon, "Digital video colourmaps for checking the legibility of displays by dichromats"
    /// (1999), on linear RGB; and how everybody else sees it.
    const VIEWERS: [(&str, [[f64; 3]; 3]); 3] = [
        ("all cones", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        ("protanope", [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
        ("deuteranope", [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
    ];

    #[test]
    fn curves_are_told_apart_by_everyone() {
        for palette in [LIGHT, DARK] {
            for (viewer, matrix) in VIEWERS {
                let seen = palette.series.map(|color| lab(product(matrix, linear(color))));
                for i in 0..NUM_SERIES {
                    for j in 0..i {
                        let squares = (0..3).map(|axis| (seen[i][axis] - seen[j][axis]).powi(2));
                        let distance = squares.sum::<f64>().sqrt();
                        // 2.3 is just noticeable side by side; thin lines far apart need many times that.
                        let pair = (palette.series[j], palette.series[i]);
                        assert!(distance > 30.0, "{viewer}: {pair:?} are {distance:.1} apart");
                    }
                }
            }
        }
    }

    #[test]
    fn everything_stands_out_from_the_ground() {
        for palette in [LIGHT, DARK] {
            for text in [palette.text, palette.muted] {
                assert!(contrast(text, palette.ground) >= 4.5, "{text}");
            }
            // WCAG 1.4.11: graphics need 3.
            for color in palette.series {
                let contrast = contrast(color, palette.ground);
                assert!(contrast >= 3.0, "{color} on {}: {contrast:.2}", palette.ground);
            }
        }
    }
}
