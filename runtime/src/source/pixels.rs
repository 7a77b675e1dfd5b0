//! Pixels as cameras and pipes deliver them, rows of any stride → a frame with packed rows: RGB8, or as they are.

use segcore::image::{Frame, ImageSize, ImageView, PixelFormat};
use segcore::image_io::decode_jpeg_into;
use segcore::yuv::{self as segcore_yuv, YuvColors, YuvMatrix};
use yuv::{YuvPlanarImage, YuvRange, YuvStandardMatrix};

/// What a source makes of the pictures that it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// RGB8, whatever came.
    #[default]
    Rgb,
    /// What came, where frames can have that format ([`PixelLayout::pixel_format`]); else RGB8.
    AsIs,
}

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

    /// The format of frames that have this layout; none where they must be converted.
    pub const fn pixel_format(self, colors: YuvColors) -> Option<PixelFormat> {
        Some(match self {
            Self::Rgb24 => PixelFormat::Rgb8,
            Self::Gray8 => PixelFormat::Gray8,
            Self::Yuyv => PixelFormat::Yuyv8(colors),
            Self::Uyvy => PixelFormat::Uyvy8(colors),
            Self::Nv12 => PixelFormat::Nv12(colors),
            Self::Bgr24 | Self::Yu12 | Self::Mjpeg => return None,
        })
    }

    /// Smallest distance between two rows, bytes; none for JPEGs.
    pub fn row_bytes(self, width: usize) -> Option<usize> {
        match self {
            Self::Yu12 => Some(width),
            Self::Bgr24 => Some(PixelFormat::Rgb8.row_bytes(width)),
            _ => Some(self.pixel_format(YuvColors::default())?.row_bytes(width)),
        }
    }

    /// Bytes of a picture whose rows are `stride` bytes apart; none for JPEGs.
    pub fn picture_bytes(self, size: ImageSize, stride: usize) -> Option<usize> {
        match self {
            Self::Yu12 => Some(stride.saturating_mul(size.height) + 2 * stride.div_ceil(2) * size.height.div_ceil(2)),
            Self::Bgr24 => Some(stride.saturating_mul(size.height)),
            _ => Some(stride.saturating_mul(self.pixel_format(YuvColors::default())?.num_rows(size.height))),
        }
    }
}

impl std::fmt::Display for PixelLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.fourcc()))
    }
}

/// Takes one picture into `frame` (reshaped, its memory reused): as it is or converted. A JPEG must have `size` as well.
///
/// # Errors
/// In words, when the bytes are too few or damaged, or have another size.
pub fn take(
    layout: PixelLayout,
    size: ImageSize,
    stride: usize,
    colors: YuvColors,
    delivery: Delivery,
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
    let bytes = &bytes[..expected];
    match layout.pixel_format(colors) {
        Some(format) if delivery == Delivery::AsIs => {
            frame.reshape(size, format);
            let rows = bytes.chunks_exact(stride).zip(frame.pixels.chunks_exact_mut(row_bytes));
            rows.for_each(|(from, to)| to.copy_from_slice(&from[..row_bytes]));
            Ok(())
        }
        Some(format) => {
            let image = ImageView::new(size, format, stride, bytes).map_err(|error| error.to_string())?;
            frame.reshape(size, PixelFormat::Rgb8);
            segcore_yuv::to_rgb(&image, &mut frame.pixels).map_err(|error| error.to_string())
        }
        None if layout == PixelLayout::Yu12 => planar_to_rgb(size, stride, colors, bytes, frame),
        None => {
            frame.reshape(size, PixelFormat::Rgb8);
            for (from, to) in bytes.chunks_exact(stride).zip(frame.pixels.chunks_exact_mut(row_bytes)) {
                let ((from, _), (to, _)) = (from.as_chunks::<3>(), to.as_chunks_mut::<3>());
                to.iter_mut().zip(from).for_each(|(to, &[b, g, r])| *to = [r, g, b]);
            }
            Ok(())
        }
    }
}

/// Planes Y, U, V to RGB, as the video decoder's pictures are converted.
fn planar_to_rgb(
    size: ImageSize,
    stride: usize,
    colors: YuvColors,
    bytes: &[u8],
    frame: &mut Frame,
) -> Result<(), String> {
    frame.reshape(size, PixelFormat::Rgb8);
    let (luma, chroma) = bytes.split_at(stride * size.height);
    let (u_plane, v_plane) = chroma.split_at(chroma.len() / 2);
    let chroma_stride = stride.div_ceil(2) as u32;
    let (width, height) = (size.width as u32, size.height as u32);
    let image = YuvPlanarImage {
        y_plane: luma,
        y_stride: stride as u32,
        u_plane,
        u_stride: chroma_stride,
        v_plane,
        v_stride: chroma_stride,
        width,
        height,
    };
    let range = if colors.full_range { YuvRange::Full } else { YuvRange::Limited };
    let matrix = match colors.matrix {
        YuvMatrix::Bt709 => YuvStandardMatrix::Bt709,
        YuvMatrix::Bt2020 => YuvStandardMatrix::Bt2020,
        YuvMatrix::Smpte240 => YuvStandardMatrix::Smpte240,
        _ => YuvStandardMatrix::Bt601,
    };
    yuv::yuv420_to_rgb(&image, &mut frame.pixels, width * 3, range, matrix).map_err(|error| format!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn empty() -> Frame {
        Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8)
    }

    fn to_rgb(
        layout: PixelLayout,
        size: ImageSize,
        stride: usize,
        bytes: &[u8],
        frame: &mut Frame,
    ) -> Result<(), String> {
        take(layout, size, stride, YuvColors::default(), Delivery::Rgb, bytes, frame)
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
                to_rgb(layout, size, stride, &bytes, &mut frame).unwrap();
                assert_eq!(frame.pixels.len(), 72);
                for pixel in frame.pixels.chunks_exact(3) {
                    assert!(pixel[0] > 248 && pixel[1] < 8 && pixel[2] < 8, "{layout}: {pixel:?}");
                }
                let short = to_rgb(layout, size, stride, &bytes[1..], &mut frame).unwrap_err();
                assert!(short.contains("cut"), "{short}");
            }
        }
    }

    proptest! {
        /// Frames that were left as they are and converted later are those that were converted at once.
        #[test]
        fn later_is_as_at_once(
            (width, height) in (1usize..70, 1usize..7),
            padding in 0usize..9,
            place in 0..PixelLayout::ALL.len(),
            full_range: bool,
            bytes in proptest::collection::vec(any::<u8>(), 80 * 3 * 12),
        ) {
            let (layout, size) = (PixelLayout::ALL[place], ImageSize::new(width, height));
            let Some(row_bytes) = layout.row_bytes(width) else { return Ok(()) };
            let colors = YuvColors { matrix: YuvMatrix::Bt709, full_range };
            let (stride, mut as_is, mut later, mut at_once) = (row_bytes + padding, empty(), empty(), empty());
            take(layout, size, stride, colors, Delivery::AsIs, &bytes, &mut as_is).unwrap();
            take(layout, size, stride, colors, Delivery::Rgb, &bytes, &mut at_once).unwrap();
            prop_assert_eq!(as_is.format, layout.pixel_format(colors).unwrap_or(PixelFormat::Rgb8));
            prop_assert_eq!(as_is.pixels.len(), as_is.format.frame_bytes(size));
            segcore_yuv::frame_to_rgb(&as_is, &mut later).unwrap();
            prop_assert_eq!(later, at_once);
        }
    }

    #[test]
    fn cut_pictures_are_refused_as_they_are_too() {
        for layout in PixelLayout::ALL {
            let size = ImageSize::new(6, 3);
            let Some(row_bytes) = layout.row_bytes(6) else { continue };
            let bytes = vec![0; layout.picture_bytes(size, row_bytes).unwrap()];
            let mut frame = empty();
            let mut take = |stride, bytes: &[u8]| {
                take(layout, size, stride, YuvColors::default(), Delivery::AsIs, bytes, &mut frame)
            };
            take(row_bytes, &bytes).unwrap();
            assert!(take(row_bytes, &bytes[1..]).unwrap_err().contains("cut"), "{layout}");
            assert!(take(row_bytes - 1, &bytes).unwrap_err().contains("bytes per row"), "{layout}");
        }
    }

    #[test]
    fn packed_colours_are_ordered() {
        let size = ImageSize::new(2, 2);
        let mut frame = empty();
        let bytes = [1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10, 11, 12, 0];
        to_rgb(PixelLayout::Rgb24, size, 7, &bytes, &mut frame).unwrap();
        assert_eq!(frame.pixels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        to_rgb(PixelLayout::Bgr24, size, 7, &bytes, &mut frame).unwrap();
        assert_eq!(frame.pixels, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
        to_rgb(PixelLayout::Gray8, size, 3, &bytes, &mut frame).unwrap();
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
        let mut run = |bytes: &[u8], size| to_rgb(PixelLayout::Mjpeg, size, 0, bytes, &mut frame);
        run(&bytes, size).unwrap();
        let mut padded = bytes.clone();
        padded.extend_from_slice(&[0; 64]);
        run(&padded, size).unwrap();
        assert!(run(&bytes[..bytes.len() / 2], size).unwrap_err().contains("ends before"));
        assert!(run(&bytes, ImageSize::new(16, 16)).unwrap_err().contains("32×16"));
        assert!(run(&[0; 100], size).is_err() && run(&[], size).is_err());
    }
}
