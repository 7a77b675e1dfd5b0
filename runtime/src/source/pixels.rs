//! Pixels as cameras and pipes deliver them → RGB8, rows of any stride.

use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::image_io::decode_jpeg_into;
use yuv::{YuvBiPlanarImage, YuvConversionMode, YuvPackedImage, YuvPlanarImage, YuvRange, YuvStandardMatrix};

/// How a picture lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelLayout {
    /// Y and interleaved UV at half resolution (4:2:0).
    Nv12,
    /// Y0 U Y1 V (4:2:2).
    Yuyv,
    /// U Y0 V Y1 (4:2:2).
    Uyvy,
    /// Red, green, blue.
    Rgb24,
    /// Blue, green, red.
    Bgr24,
    /// Planes Y, U, V (4:2:0).
    Yu12,
    /// A JPEG per picture.
    Mjpeg,
    /// One byte of grey.
    Gray8,
}

impl PixelLayout {
    /// All, the cheapest to convert at equal quality first; grey is the last resort.
    pub const ALL: [Self; 8] =
        [Self::Nv12, Self::Yuyv, Self::Uyvy, Self::Rgb24, Self::Bgr24, Self::Yu12, Self::Mjpeg, Self::Gray8];

    /// The four characters of V4L2.
    pub const fn fourcc(self) -> &'static [u8; 4] {
        match self {
            Self::Nv12 => b"NV12",
            Self::Yuyv => b"YUYV",
            Self::Uyvy => b"UYVY",
            Self::Rgb24 => b"RGB3",
            Self::Bgr24 => b"BGR3",
            Self::Yu12 => b"YU12",
            Self::Mjpeg => b"MJPG",
            Self::Gray8 => b"GREY",
        }
    }

    /// The format with these four characters; `JPEG` is motion JPEG as well.
    pub fn from_fourcc(fourcc: &[u8; 4]) -> Option<Self> {
        if fourcc == b"JPEG" {
            return Some(Self::Mjpeg);
        }
        Self::ALL.into_iter().find(|layout| layout.fourcc() == fourcc)
    }

    /// The format by a name that people use.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "RGB24" | "RGB" | "RGB8" => Self::Rgb24,
            "BGR24" | "BGR" | "BGR8" => Self::Bgr24,
            "YUY2" => Self::Yuyv,
            "I420" | "YUV420P" => Self::Yu12,
            "MJPEG" => Self::Mjpeg,
            "GRAY8" | "GRAY" | "Y800" => Self::Gray8,
            other => return Self::from_fourcc(other.as_bytes().try_into().ok()?),
        })
    }

    /// Smallest distance between two rows, bytes; none for JPEGs.
    pub const fn row_bytes(self, width: usize) -> Option<usize> {
        match self {
            Self::Nv12 | Self::Yu12 | Self::Gray8 => Some(width),
            // Two pixels share their colour.
            Self::Yuyv | Self::Uyvy => Some(width.div_ceil(2) * 4),
            Self::Rgb24 | Self::Bgr24 => Some(width * 3),
            Self::Mjpeg => None,
        }
    }

    /// Bytes of a picture whose rows are `stride` bytes apart; none for JPEGs.
    pub const fn picture_bytes(self, size: ImageSize, stride: usize) -> Option<usize> {
        let luma = stride.saturating_mul(size.height);
        match self {
            Self::Nv12 => Some(luma + stride * size.height.div_ceil(2)),
            Self::Yu12 => Some(luma + 2 * stride.div_ceil(2) * size.height.div_ceil(2)),
            Self::Mjpeg => None,
            _ => Some(luma),
        }
    }
}

impl std::fmt::Display for PixelLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.fourcc()))
    }
}

/// What the numbers of a YUV picture mean.
#[derive(Clone, Copy, Debug)]
pub struct YuvColors {
    /// 16–235 or 0–255.
    pub range: YuvRange,
    /// Which red, green and blue.
    pub matrix: YuvStandardMatrix,
}

impl Default for YuvColors {
    /// What webcams send, whatever the size: UVC 1.5, section 3.9.2.6, and V4L2's default for sRGB.
    fn default() -> Self {
        Self { range: YuvRange::Limited, matrix: YuvStandardMatrix::Bt601 }
    }
}

/// Converts one picture into `frame` (reshaped, its memory reused). A JPEG must have `size` as well.
///
/// # Errors
/// In words, when the bytes are too few or damaged, or have another size.
pub fn to_rgb(
    layout: PixelLayout,
    size: ImageSize,
    stride: usize,
    colors: YuvColors,
    bytes: &[u8],
    frame: &mut Frame,
) -> Result<(), String> {
    if layout == PixelLayout::Mjpeg {
        decode_jpeg_into(bytes, frame).map_err(|error| error.to_string())?;
        if frame.size != size {
            return Err(format!("expected a picture of {size}, got one of {}", frame.size));
        }
        return Ok(());
    }
    let row_bytes = layout.row_bytes(size.width).unwrap_or(0);
    let expected = layout.picture_bytes(size, stride).unwrap_or(0);
    if stride < row_bytes || bytes.len() < expected {
        return Err(format!(
            "expected {expected} bytes ({layout}, {size}, {stride} bytes per row), got {}; the picture is cut",
            bytes.len()
        ));
    }
    frame.reshape(size, PixelFormat::Rgb8);
    let YuvColors { range, matrix } = colors;
    let (width, height) = (size.width as u32, size.height as u32);
    let (stride_u32, rgb_stride) = (stride as u32, width * 3);
    let rgb = frame.pixels.as_mut_slice();
    let (luma, chroma) = bytes[..expected].split_at(stride * size.height);
    match layout {
        PixelLayout::Nv12 => {
            let image = YuvBiPlanarImage {
                y_plane: luma,
                y_stride: stride_u32,
                uv_plane: chroma,
                uv_stride: stride_u32,
                width,
                height,
            };
            yuv::yuv_nv12_to_rgb(&image, rgb, rgb_stride, range, matrix, YuvConversionMode::Balanced)
                .map_err(|error| format!("{error:?}"))
        }
        PixelLayout::Yu12 => {
            let chroma_stride = stride.div_ceil(2);
            let (u_plane, v_plane) = chroma.split_at(chroma.len() / 2);
            let image = YuvPlanarImage {
                y_plane: luma,
                y_stride: stride_u32,
                u_plane,
                u_stride: chroma_stride as u32,
                v_plane,
                v_stride: chroma_stride as u32,
                width,
                height,
            };
            yuv::yuv420_to_rgb(&image, rgb, rgb_stride, range, matrix).map_err(|error| format!("{error:?}"))
        }
        PixelLayout::Yuyv | PixelLayout::Uyvy => {
            let image = YuvPackedImage { yuy: luma, yuy_stride: stride_u32, width, height };
            let convert = if layout == PixelLayout::Yuyv { yuv::yuyv422_to_rgb } else { yuv::uyvy422_to_rgb };
            convert(&image, rgb, rgb_stride, range, matrix).map_err(|error| format!("{error:?}"))
        }
        PixelLayout::Rgb24 | PixelLayout::Bgr24 | PixelLayout::Gray8 => {
            for (from, to) in luma.chunks_exact(stride).zip(rgb.chunks_exact_mut(size.width * 3)) {
                let (to, _) = to.as_chunks_mut::<3>();
                match layout {
                    PixelLayout::Gray8 => to.iter_mut().zip(from).for_each(|(to, &grey)| *to = [grey; 3]),
                    PixelLayout::Rgb24 => to.as_flattened_mut().copy_from_slice(&from[..row_bytes]),
                    _ => {
                        let (from, _) = from.as_chunks::<3>();
                        to.iter_mut().zip(from).for_each(|(to, &[b, g, r])| *to = [r, g, b]);
                    }
                }
            }
            Ok(())
        }
        PixelLayout::Mjpeg => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Frame {
        Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8)
    }

    /// A picture of one colour in `layout`, rows `padding` bytes longer than they need be.
    fn plain(layout: PixelLayout, size: ImageSize, padding: usize, y: u8, u: u8, v: u8) -> (Vec<u8>, usize) {
        let stride = layout.row_bytes(size.width).unwrap() + padding;
        let mut bytes = vec![0xee; layout.picture_bytes(size, stride).unwrap()];
        let luma = stride * size.height;
        let quads: Option<[u8; 4]> = match layout {
            PixelLayout::Yuyv => Some([y, u, y, v]),
            PixelLayout::Uyvy => Some([u, y, v, y]),
            _ => None,
        };
        if let Some(quad) = quads {
            for row in bytes.chunks_exact_mut(stride) {
                row[..stride - padding].chunks_exact_mut(4).for_each(|pixels| pixels.copy_from_slice(&quad));
            }
        } else {
            bytes[..luma].fill(y);
            let chroma = &mut bytes[luma..];
            if layout == PixelLayout::Nv12 {
                chroma.chunks_exact_mut(2).for_each(|pair| pair.copy_from_slice(&[u, v]));
            } else {
                let half = chroma.len() / 2;
                chroma[..half].fill(u);
                chroma[half..].fill(v);
            }
        }
        (bytes, stride)
    }

    #[test]
    fn yuv_layouts_agree_whatever_the_stride() {
        let size = ImageSize::new(6, 4);
        // BT.601, limited: a strong red.
        let (y, u, v) = (81, 90, 240);
        for layout in [PixelLayout::Nv12, PixelLayout::Yu12, PixelLayout::Yuyv, PixelLayout::Uyvy] {
            for padding in [0, 8] {
                let (bytes, stride) = plain(layout, size, padding, y, u, v);
                let mut frame = empty();
                to_rgb(layout, size, stride, YuvColors::default(), &bytes, &mut frame).unwrap();
                assert_eq!(frame.pixels.len(), 72);
                for pixel in frame.pixels.chunks_exact(3) {
                    assert!(pixel[0] > 248 && pixel[1] < 8 && pixel[2] < 8, "{layout}: {pixel:?}");
                }
                let short = to_rgb(layout, size, stride, YuvColors::default(), &bytes[1..], &mut frame).unwrap_err();
                assert!(short.contains("cut"), "{short}");
            }
        }
    }

    #[test]
    fn packed_colours_are_ordered() {
        let size = ImageSize::new(2, 2);
        let mut frame = empty();
        let bytes = [1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10, 11, 12, 0];
        to_rgb(PixelLayout::Rgb24, size, 7, YuvColors::default(), &bytes, &mut frame).unwrap();
        assert_eq!(frame.pixels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        to_rgb(PixelLayout::Bgr24, size, 7, YuvColors::default(), &bytes, &mut frame).unwrap();
        assert_eq!(frame.pixels, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
        to_rgb(PixelLayout::Gray8, size, 3, YuvColors::default(), &bytes, &mut frame).unwrap();
        assert_eq!(frame.pixels, [1, 1, 1, 2, 2, 2, 4, 4, 4, 5, 5, 5]);
    }

    #[test]
    fn names_and_four_characters() {
        for layout in PixelLayout::ALL {
            assert_eq!(PixelLayout::from_fourcc(layout.fourcc()), Some(layout));
            assert_eq!(PixelLayout::from_name(&layout.to_string().to_lowercase()), Some(layout));
        }
        assert_eq!(PixelLayout::from_name("RGB24"), Some(PixelLayout::Rgb24));
        assert_eq!(PixelLayout::from_name("GRAY8"), Some(PixelLayout::Gray8));
        assert_eq!(PixelLayout::from_name("H264"), None);
    }

    #[test]
    fn cut_and_wrong_sized_jpegs_are_refused() {
        let size = ImageSize::new(32, 16);
        let mut bytes = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
        encoder.encode(&[200; 32 * 16 * 3], 32, 16, jpeg_encoder::ColorType::Rgb).unwrap();
        let mut frame = empty();
        let mut run = |bytes: &[u8], size| to_rgb(PixelLayout::Mjpeg, size, 0, YuvColors::default(), bytes, &mut frame);
        run(&bytes, size).unwrap();
        let mut padded = bytes.clone();
        padded.extend_from_slice(&[0; 64]);
        run(&padded, size).unwrap();
        assert!(run(&bytes[..bytes.len() / 2], size).unwrap_err().contains("ends before"));
        assert!(run(&bytes, ImageSize::new(16, 16)).unwrap_err().contains("32×16"));
        assert!(run(&[0; 100], size).is_err() && run(&[], size).is_err());
    }
}
