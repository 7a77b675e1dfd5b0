//! Images in memory: sizes, borrowed views with a stride, and owned frames.

use serde::{Deserialize, Serialize};

use crate::yuv::YuvColors;

/// Width and height in pixels.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl ImageSize {
    /// A size of `width` × `height` pixels.
    #[must_use]
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }

    /// Number of pixels (saturating, so that a malicious size cannot overflow).
    #[must_use]
    pub const fn num_pixels(self) -> usize {
        self.width.saturating_mul(self.height)
    }

    /// True when there is no pixel at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}×{}", self.width, self.height)
    }
}

/// How the bytes of an image are laid out. All sizes that follow from it are stated here: an image is
/// [`num_rows`](Self::num_rows) rows of [`row_bytes`](Self::row_bytes) bytes, whose starts are a stride apart.
///
/// The YUV formats are what cameras deliver; what their numbers mean is part of the format. Only frames of sources that were
/// asked for them have them, and only what says so takes them (the kernels of a GPU); `yuv::to_rgb` makes RGB of them.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PixelFormat {
    /// Three interleaved bytes, red first, sRGB, 0–255.
    Rgb8,
    /// One byte, 0–255.
    Gray8,
    /// 4:2:2, Y0 U Y1 V: two pixels in four bytes. The last pixel of an odd row has a whole pair.
    Yuyv8(YuvColors),
    /// 4:2:2, U Y0 V Y1.
    Uyvy8(YuvColors),
    /// 4:2:0: rows of Y, then rows of UV pairs, one for two rows and columns. Rows of both have an even number of bytes.
    Nv12(YuvColors),
}

impl PixelFormat {
    /// Bytes of one row without padding.
    #[must_use]
    pub const fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Rgb8 => width.saturating_mul(3),
            Self::Gray8 => width,
            Self::Yuyv8(_) | Self::Uyvy8(_) => width.div_ceil(2).saturating_mul(4),
            Self::Nv12(_) => width.div_ceil(2).saturating_mul(2),
        }
    }

    /// Rows in memory of an image with `height` rows of pixels.
    #[must_use]
    pub const fn num_rows(self, height: usize) -> usize {
        match self {
            Self::Nv12(_) => height.saturating_add(height.div_ceil(2)),
            _ => height,
        }
    }

    /// Bytes of an image whose rows have no padding (saturating).
    #[must_use]
    pub const fn frame_bytes(self, size: ImageSize) -> usize {
        self.row_bytes(size.width).saturating_mul(self.num_rows(size.height))
    }

    /// What the numbers of a YUV format mean; none for RGB and grey, whose pixels stand for themselves.
    #[must_use]
    pub const fn yuv_colors(self) -> Option<YuvColors> {
        match self {
            Self::Rgb8 | Self::Gray8 => None,
            Self::Yuyv8(colors) | Self::Uyvy8(colors) | Self::Nv12(colors) => Some(colors),
        }
    }
}

impl std::fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rgb8 => "RGB",
            Self::Gray8 => "grey",
            Self::Yuyv8(_) => "YUYV",
            Self::Uyvy8(_) => "UYVY",
            Self::Nv12(_) => "NV12",
        })
    }
}

/// Why bytes do not form the image they are said to be.
#[derive(Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Width or height is zero.
    #[error("the image is {size}: it has no pixels")]
    ZeroSized {
        /// The offending size.
        size: ImageSize,
    },
    /// A row is longer than the distance between two rows.
    #[error("row stride is {got} bytes, but a row of the image needs at least {expected} bytes")]
    StrideTooSmall {
        /// Bytes of one row.
        expected: usize,
        /// The stride given.
        got: usize,
    },
    /// The buffer ends before the last row.
    #[error("the buffer of a {size} image has {got} bytes, expected at least {expected}")]
    BufferTooSmall {
        /// Size of the image.
        size: ImageSize,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
}

/// A borrowed image whose rows may be padded (camera drivers do that).
#[derive(Copy, Clone, Debug)]
pub struct ImageView<'a> {
    /// Size in pixels.
    pub size: ImageSize,
    /// Layout of one pixel.
    pub format: PixelFormat,
    /// Bytes from the start of one row to the start of the next.
    pub stride_bytes: usize,
    /// All rows ([`PixelFormat::num_rows`]); the last one may lack its padding.
    pub pixels: &'a [u8],
}

impl<'a> ImageView<'a> {
    /// A view whose lengths have been checked.
    ///
    /// # Errors
    /// When the size is zero, the stride shorter than a row, or `pixels` too short.
    pub fn new(
        size: ImageSize,
        format: PixelFormat,
        stride_bytes: usize,
        pixels: &'a [u8],
    ) -> Result<Self, ImageError> {
        let view = Self { size, format, stride_bytes, pixels };
        view.check()?;
        Ok(view)
    }

    /// Verifies the lengths; [`ImageView::row`] cannot panic on a view that passes.
    ///
    /// # Errors
    /// The same as [`ImageView::new`].
    pub fn check(&self) -> Result<(), ImageError> {
        let Self { size, stride_bytes, pixels, .. } = *self;
        if size.is_empty() {
            return Err(ImageError::ZeroSized { size });
        }
        let row_bytes = self.row_bytes();
        if stride_bytes < row_bytes {
            return Err(ImageError::StrideTooSmall { expected: row_bytes, got: stride_bytes });
        }
        let rows_before_the_last = self.format.num_rows(size.height) - 1;
        let expected = stride_bytes.saturating_mul(rows_before_the_last).saturating_add(row_bytes);
        if pixels.len() < expected {
            return Err(ImageError::BufferTooSmall { size, expected, got: pixels.len() });
        }
        Ok(())
    }

    /// Bytes of one row without its padding.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.size.width)
    }

    /// Row `y` in memory without its padding; of NV12 those of UV follow those of Y.
    ///
    /// # Panics
    /// When `y` is outside the image, or the view was built without [`ImageView::new`] and its lengths are wrong.
    #[must_use]
    pub fn row(&self, y: usize) -> &'a [u8] {
        let start = y * self.stride_bytes;
        &self.pixels[start..start + self.row_bytes()]
    }
}

/// When a frame was taken.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug, Hash, Serialize, Deserialize)]
pub struct CaptureTime {
    /// Nanoseconds on the machine's monotonic clock (arbitrary origin; for files: position in the stream).
    pub monotonic_nanos: u64,
    /// Nanoseconds since 1970-01-01 UTC, 0 when unknown.
    pub utc_nanos: u64,
}

/// An owned image with its place in the sequence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// Size in pixels.
    pub size: ImageSize,
    /// Layout of one pixel.
    pub format: PixelFormat,
    /// Rows without padding, [`PixelFormat::frame_bytes`].
    pub pixels: Vec<u8>,
    /// Index in the source, from 0.
    pub index: u64,
    /// When it was taken.
    pub capture_time: CaptureTime,
}

impl Frame {
    /// A frame of zeros (black, if it is RGB or grey), index 0, no capture time.
    #[must_use]
    pub fn black(size: ImageSize, format: PixelFormat) -> Self {
        let pixels = vec![0; format.frame_bytes(size)];
        Self { size, format, pixels, index: 0, capture_time: CaptureTime::default() }
    }

    /// A frame over tightly packed rows.
    ///
    /// # Errors
    /// When the size is zero or `pixels` is too short for it.
    pub fn from_pixels(size: ImageSize, format: PixelFormat, pixels: Vec<u8>) -> Result<Self, ImageError> {
        ImageView::new(size, format, format.row_bytes(size.width), &pixels)?;
        Ok(Self { size, format, pixels, index: 0, capture_time: CaptureTime::default() })
    }

    /// Gives the frame another size and format, reusing its memory. Old pixels keep no meaning.
    pub fn reshape(&mut self, size: ImageSize, format: PixelFormat) {
        self.size = size;
        self.format = format;
        self.pixels.resize(format.frame_bytes(size), 0);
    }

    /// The frame as a view. Lengths are not checked here (fields are public); consumers call [`ImageView::check`].
    #[must_use]
    pub fn view(&self) -> ImageView<'_> {
        ImageView {
            size: self.size,
            format: self.format,
            stride_bytes: self.format.row_bytes(self.size.width),
            pixels: &self.pixels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_check_their_lengths() {
        let size = ImageSize::new(4, 3);
        let bytes = [0u8; 64];
        assert!(ImageView::new(size, PixelFormat::Rgb8, 12, &bytes[..36]).is_ok());
        // The last row may lack its padding.
        assert!(ImageView::new(size, PixelFormat::Rgb8, 16, &bytes[..44]).is_ok());
        assert_eq!(
            ImageView::new(size, PixelFormat::Rgb8, 16, &bytes[..43]).unwrap_err(),
            ImageError::BufferTooSmall { size, expected: 44, got: 43 }
        );
        assert_eq!(
            ImageView::new(size, PixelFormat::Rgb8, 11, &bytes).unwrap_err(),
            ImageError::StrideTooSmall { expected: 12, got: 11 }
        );
        let empty = ImageSize::new(0, 3);
        assert_eq!(
            ImageView::new(empty, PixelFormat::Gray8, 0, &[]).unwrap_err(),
            ImageError::ZeroSized { size: empty }
        );
        let huge = ImageSize::new(usize::MAX, usize::MAX);
        assert!(ImageView::new(huge, PixelFormat::Rgb8, usize::MAX, &bytes).is_err());
    }

    #[test]
    fn every_format_has_its_sizes() {
        let colors = YuvColors::default();
        for (format, width, row_bytes, height, num_rows) in [
            (PixelFormat::Rgb8, 5, 15, 3, 3),
            (PixelFormat::Gray8, 5, 5, 3, 3),
            (PixelFormat::Yuyv8(colors), 4, 8, 3, 3),
            (PixelFormat::Yuyv8(colors), 5, 12, 3, 3),
            (PixelFormat::Uyvy8(colors), 1, 4, 1, 1),
            (PixelFormat::Nv12(colors), 4, 4, 4, 6),
            (PixelFormat::Nv12(colors), 5, 6, 3, 5),
            (PixelFormat::Nv12(colors), 1, 2, 1, 2),
        ] {
            let size = ImageSize::new(width, height);
            assert_eq!((format.row_bytes(width), format.num_rows(height)), (row_bytes, num_rows), "{format} {size}");
            let bytes = row_bytes * num_rows;
            assert_eq!((format.frame_bytes(size), Frame::black(size, format).pixels.len()), (bytes, bytes));
            assert!(Frame::from_pixels(size, format, vec![0; bytes]).is_ok());
            // Rows of any stride; the last one needs no padding.
            for stride in [row_bytes, row_bytes + 7] {
                let least = stride * (num_rows - 1) + row_bytes;
                assert!(ImageView::new(size, format, stride, &vec![0; least]).is_ok());
                assert!(matches!(
                    ImageView::new(size, format, stride, &vec![0; least - 1]).unwrap_err(),
                    ImageError::BufferTooSmall { expected, .. } if expected == least
                ));
            }
            let narrow = ImageView::new(size, format, row_bytes - 1, &vec![0; bytes]).unwrap_err();
            assert!(matches!(narrow, ImageError::StrideTooSmall { .. }));
            assert!(ImageView::new(ImageSize::new(usize::MAX, usize::MAX), format, usize::MAX, &[0; 64]).is_err());
        }
    }

    #[test]
    fn rows_leave_out_the_padding() {
        let bytes: Vec<u8> = (0..16).collect();
        let view = ImageView::new(ImageSize::new(3, 2), PixelFormat::Gray8, 8, &bytes).unwrap();
        assert_eq!(view.row(0), [0, 1, 2]);
        assert_eq!(view.row(1), [8, 9, 10]);
    }
}
