//! YUV frames, as cameras deliver them, to RGB: the only place that says what their numbers mean.
//!
//! A pixel has its luma (Y) and the chroma (U, V) of its pair (4:2:2) or of its square of four (4:2:0), without interpolation.
//! With Kr and Kb of the matrix (Rec. ITU-T H.273, table 4), Kg = 1 − Kr − Kb and y, u, v scaled to 0–1 and ±½:
//!
//! R = y + 2 (1 − Kr) v,  G = y − 2 (1 − Kb) Kb / Kg · u − 2 (1 − Kr) Kr / Kg · v,  B = y + 2 (1 − Kb) u
//!
//! Computed in whole numbers with factors of 13 bits, rounded once and clamped ([`Conversion::pixel`]), so the result is the
//! same bits in the vector loop of [`to_rgb`], in its scalar oracle and in the CUDA kernel (`preprocess.cu`, which gets the same factors),
//! and within 0.55 of the exact value.

use serde::{Deserialize, Serialize};

use crate::image::{Frame, ImageError, ImageSize, ImageView, PixelFormat};
use crate::simd::{Kernel, dispatch};

/// Which red, green and blue.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum YuvMatrix {
    /// Standard definition, webcams, JPEG.
    #[default]
    Bt601,
    /// High definition.
    Bt709,
    /// Ultra-high definition, with constant differences.
    Bt2020,
    /// Early high definition.
    Smpte240,
}

/// What the numbers of a YUV picture mean. The default is what webcams send, whatever the size (UVC 1.5, section 3.9.2.6, and
/// V4L2's default for sRGB): BT.601, limited.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Hash, Serialize, Deserialize)]
pub struct YuvColors {
    /// Which red, green and blue.
    pub matrix: YuvMatrix,
    /// Luma and chroma have the range 0–255; else 16–235 and 16–240.
    pub full_range: bool,
}

/// Bits of the factors of [`Conversion`].
pub const SHIFT: u32 = 13;

/// The factors from YUV to RGB, times 2^[`SHIFT`].
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Conversion {
    /// Luma of black.
    pub black: i32,
    /// Of luma.
    pub luma: i32,
    /// Of V in red.
    pub red_v: i32,
    /// Of U in green, taken away.
    pub green_u: i32,
    /// Of V in green, taken away.
    pub green_v: i32,
    /// Of U in blue.
    pub blue_u: i32,
}

impl YuvColors {
    /// The factors.
    #[must_use]
    pub const fn conversion(self) -> Conversion {
        let (red, blue) = match self.matrix {
            YuvMatrix::Bt601 => (0.299, 0.114),
            YuvMatrix::Bt709 => (0.2126, 0.0722),
            YuvMatrix::Bt2020 => (0.2627, 0.0593),
            YuvMatrix::Smpte240 => (0.212, 0.087),
        };
        let green = 1.0 - red - blue;
        let (black, luma, chroma) = if self.full_range { (0, 1.0, 1.0) } else { (16, 255.0 / 219.0, 255.0 / 224.0) };
        Conversion {
            black,
            luma: whole(luma),
            red_v: whole(2.0 * (1.0 - red) * chroma),
            green_u: whole(2.0 * (1.0 - blue) * blue / green * chroma),
            green_v: whole(2.0 * (1.0 - red) * red / green * chroma),
            blue_u: whole(2.0 * (1.0 - blue) * chroma),
        }
    }
}

/// A factor (positive) times 2^[`SHIFT`], rounded.
const fn whole(factor: f64) -> i32 {
    (factor * (1 << SHIFT) as f64 + 0.5) as i32
}

impl Conversion {
    /// RGB of a pixel.
    #[must_use]
    #[inline(always)]
    pub fn pixel(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let (y, u, v) = ((i32::from(y) - self.black) * self.luma, i32::from(u) - 128, i32::from(v) - 128);
        let rgb = [y + self.red_v * v, y - self.green_u * u - self.green_v * v, y + self.blue_u * u];
        rgb.map(|value| ((value + (1 << (SHIFT - 1))) >> SHIFT).clamp(0, 255) as u8)
    }
}

/// RGB8 of an image of any format, rows packed, into `rgb`; its length is `3 · width · height`.
///
/// # Errors
/// When the lengths of one of them are wrong.
pub fn to_rgb(image: &ImageView<'_>, rgb: &mut [u8]) -> Result<(), ImageError> {
    image.check()?;
    let ImageSize { width, height } = image.size;
    let expected = PixelFormat::Rgb8.frame_bytes(image.size);
    if rgb.len() != expected {
        return Err(ImageError::BufferTooSmall { size: image.size, expected, got: rgb.len() });
    }
    let rows = rgb.chunks_exact_mut(width * 3).enumerate();
    match image.format {
        PixelFormat::Rgb8 => rows.for_each(|(y, to)| to.copy_from_slice(image.row(y))),
        PixelFormat::Gray8 => rows.for_each(|(y, to)| {
            to.as_chunks_mut::<3>().0.iter_mut().zip(image.row(y)).for_each(|(to, &grey)| *to = [grey; 3]);
        }),
        PixelFormat::Yuyv8(colors) => {
            let conversion = colors.conversion();
            rows.for_each(|(y, to)| dispatch(Packed::<0> { conversion, row: image.row(y), to }));
        }
        PixelFormat::Uyvy8(colors) => {
            let conversion = colors.conversion();
            rows.for_each(|(y, to)| dispatch(Packed::<1> { conversion, row: image.row(y), to }));
        }
        PixelFormat::Nv12(colors) => {
            let conversion = colors.conversion();
            let chroma = |y: usize| image.row(height + y / 2);
            rows.for_each(|(y, to)| dispatch(Planar { conversion, luma: image.row(y), chroma: chroma(y), to }));
        }
    }
    Ok(())
}

/// The same of a frame, with its index and time; the memory of `rgb` is reused.
///
/// # Errors
/// When the frame's lengths are wrong.
pub fn frame_to_rgb(frame: &Frame, rgb: &mut Frame) -> Result<(), ImageError> {
    rgb.reshape(frame.size, PixelFormat::Rgb8);
    (rgb.index, rgb.capture_time) = (frame.index, frame.capture_time);
    to_rgb(&frame.view(), &mut rgb.pixels)
}

/// The frame itself if it is RGB8, else what [`frame_to_rgb`] makes of it in `memory`.
///
/// # Errors
/// When the frame's lengths are wrong and it is to be converted.
pub fn rgb_of<'a>(frame: &'a Frame, memory: &'a mut Frame) -> Result<&'a Frame, ImageError> {
    if frame.format != PixelFormat::Rgb8 {
        frame_to_rgb(frame, memory)?;
        return Ok(memory);
    }
    Ok(frame)
}

/// Pixels of one step of the loops.
const STEP: usize = 8;

/// RGB of a step: luma of the pixels, chroma of the pairs.
#[inline(always)]
fn step(of: &Conversion, y: &[u8; STEP], u: &[u8; STEP / 2], v: &[u8; STEP / 2], to: &mut [u8; 3 * STEP]) {
    // Red, green and blue in the low bytes of a number: a store writes more than one byte.
    let mut pixels = [0u32; STEP];
    for i in 0..STEP {
        let [r, g, b] = of.pixel(y[i], u[i / 2], v[i / 2]);
        pixels[i] = u32::from(r) | u32::from(g) << 8 | u32::from(b) << 16;
    }
    for i in 0..STEP / 4 {
        let [a, b, c, d] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2], pixels[4 * i + 3]];
        for (j, word) in [a | b << 24, b >> 8 | c << 16, c >> 16 | d << 8].into_iter().enumerate() {
            to[12 * i + 4 * j..12 * i + 4 * j + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// A row of 4:2:2, two pixels in four bytes. `LUMA`: where the first luma of them is, 0 or 1; U is at `1 - LUMA`.
struct Packed<'a, const LUMA: usize> {
    conversion: Conversion,
    row: &'a [u8],
    to: &'a mut [u8],
}

impl<const LUMA: usize> Kernel for Packed<'_, LUMA> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { conversion, row, to } = self;
        let (to, last) = to.as_chunks_mut::<{ 3 * STEP }>();
        let (steps, rest) = row.split_at(to.len() * 2 * STEP);
        for (from, to) in steps.as_chunks::<{ 2 * STEP }>().0.iter().zip(to) {
            let y = std::array::from_fn(|i| from[2 * i + LUMA]);
            let u = std::array::from_fn(|i| from[4 * i + 1 - LUMA]);
            let v = std::array::from_fn(|i| from[4 * i + 3 - LUMA]);
            step(&conversion, &y, &u, &v, to);
        }
        for (i, to) in last.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let pair = &rest[i / 2 * 4..i / 2 * 4 + 4];
            *to = conversion.pixel(pair[i % 2 * 2 + LUMA], pair[1 - LUMA], pair[3 - LUMA]);
        }
    }
}

/// A row of luma and the row of UV pairs that goes with it.
struct Planar<'a> {
    conversion: Conversion,
    luma: &'a [u8],
    chroma: &'a [u8],
    to: &'a mut [u8],
}

impl Kernel for Planar<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { conversion, luma, chroma, to } = self;
        let (to, last) = to.as_chunks_mut::<{ 3 * STEP }>();
        let (luma, luma_rest) = luma.split_at(to.len() * STEP);
        let (chroma, chroma_rest) = chroma.split_at(to.len() * STEP);
        let steps = luma.as_chunks::<STEP>().0.iter().zip(chroma.as_chunks::<STEP>().0);
        for ((y, uv), to) in steps.zip(to) {
            let u = std::array::from_fn(|i| uv[2 * i]);
            let v = std::array::from_fn(|i| uv[2 * i + 1]);
            step(&conversion, y, &u, &v, to);
        }
        for (i, to) in last.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let pair = i / 2 * 2;
            *to = conversion.pixel(luma_rest[i], chroma_rest[pair], chroma_rest[pair + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRICES: [(YuvMatrix, f64, f64); 4] = [
        (YuvMatrix::Bt601, 0.299, 0.114),
        (YuvMatrix::Bt709, 0.2126, 0.0722),
        (YuvMatrix::Bt2020, 0.2627, 0.0593),
        (YuvMatrix::Smpte240, 0.212, 0.087),
    ];

    #[test]
    fn pixels_are_the_standards_conversion() {
        for (matrix, kr, kb) in MATRICES {
            for full_range in [false, true] {
                let conversion = YuvColors { matrix, full_range }.conversion();
                let (black, scale, chroma) =
                    if full_range { (0.0, 1.0, 1.0) } else { (16.0, 255.0 / 219.0, 255.0 / 224.0) };
                let kg = 1.0 - kr - kb;
                for y in (0..=255u8).step_by(3) {
                    for u in (0..=255u8).step_by(5) {
                        for v in (0..=255u8).step_by(5) {
                            let (luma, blue, red) = (f64::from(y) - black, f64::from(u) - 128.0, f64::from(v) - 128.0);
                            let r = scale * luma + 2.0 * (1.0 - kr) * chroma * red;
                            let g = scale * luma
                                - 2.0 * (1.0 - kb) * kb / kg * chroma * blue
                                - 2.0 * (1.0 - kr) * kr / kg * chroma * red;
                            let b = scale * luma + 2.0 * (1.0 - kb) * chroma * blue;
                            for (got, exact) in conversion.pixel(y, u, v).into_iter().zip([r, g, b]) {
                                let off = (f64::from(got) - exact.clamp(0.0, 255.0)).abs();
                                assert!(off <= 0.55, "{matrix:?} {full_range} {y} {u} {v}: {got}, exactly {exact}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn usual_factors() {
        let Conversion { black, luma, red_v, green_u, green_v, blue_u } = YuvColors::default().conversion();
        assert_eq!([black, luma, red_v, green_u, green_v, blue_u], [16, 9539, 13075, 3209, 6660, 16525]);
    }

    #[test]
    fn lengths_are_checked() {
        let size = ImageSize::new(4, 2);
        let image = ImageView::new(size, PixelFormat::Yuyv8(YuvColors::default()), 8, &[0; 16]).unwrap();
        assert!(matches!(to_rgb(&image, &mut [0; 23]), Err(ImageError::BufferTooSmall { expected: 24, got: 23, .. })));
        let short = ImageView { pixels: &[0; 15], ..image };
        assert!(matches!(to_rgb(&short, &mut [0; 24]), Err(ImageError::BufferTooSmall { expected: 16, .. })));
    }
}
