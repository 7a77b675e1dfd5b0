//! PNG and JPEG files (feature `image-io`). Nothing here panics on bad input; every error names the file and says
//! what is wrong with it.

use crate::image::{Frame, ImageSize, PixelFormat};
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// Largest width or height that is read.
pub const MAX_SIDE: usize = 32_768;
/// Largest number of pixels that is read (a 300-byte file may promise gigabytes).
pub const MAX_PIXELS: usize = 1 << 27;

/// Why an image file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageFileError {
    /// The file cannot be opened or read.
    #[error("cannot read image {}: {source}{}", path.display(), remedy_for(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file has no bytes.
    #[error("image {} is empty (0 bytes): the copy or download was probably cut off", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The content is neither PNG nor JPEG, whatever the name says.
    #[error(
        "{} is not an image that can be read: expected PNG or JPEG content; convert it or take it out of the folder",
        path.display()
    )]
    NotAnImage {
        /// The file.
        path: PathBuf,
    },
    /// The header promises no pixels.
    #[error("image {} is zero-sized ({size}); write or copy the file again", path.display())]
    ZeroSized {
        /// The file.
        path: PathBuf,
        /// Size in its header.
        size: ImageSize,
    },
    /// The header promises more pixels than are ever read.
    #[error(
        "image {} is {size}: more than {MAX_SIDE} pixels per side or {MAX_PIXELS} in all; scale it down or check the file",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Size in its header.
        size: ImageSize,
    },
    /// The file ends early or its data are damaged.
    #[error("image {} is damaged or truncated: {reason}; write or copy the file again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },
    /// A label map has another kind of pixels.
    #[error("label map {} is {got}, expected {expected}; convert it without changing its values", path.display())]
    WrongMode {
        /// The file.
        path: PathBuf,
        /// Pixel kind needed.
        expected: &'static str,
        /// Pixel kind found.
        got: String,
    },
    /// The file cannot be written; nothing is left behind.
    #[error("cannot write {}: {source}{}", path.display(), remedy_for(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The pixels do not fill the image.
    #[error("cannot encode a {size} image: got {got} values, expected {expected}")]
    WrongLength {
        /// Size asked for.
        size: ImageSize,
        /// Values needed.
        expected: usize,
        /// Values given.
        got: usize,
    },
}

/// What to do when the system cannot read or write a file: the end of a message, from the semicolon on.
#[must_use]
pub fn remedy_for(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::PermissionDenied => "; check its permissions",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; free some space or choose another folder"
        }
        ErrorKind::ReadOnlyFilesystem => "; choose another folder",
        ErrorKind::InvalidData => "; save it as UTF-8 text",
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidInput => {
            "; check the path"
        }
        _ => "; check the path and the disk",
    }
}

/// An 8-bit grey image (a label map), rows without padding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GrayImage {
    /// Size in pixels.
    pub size: ImageSize,
    /// `[height, width]`.
    pub pixels: Vec<u8>,
}

/// A 16-bit grey image (a label map), rows without padding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GrayImage16 {
    /// Size in pixels.
    pub size: ImageSize,
    /// `[height, width]`, native endian.
    pub pixels: Vec<u16>,
}

/// Reads a PNG or JPEG of any colour type as 8-bit RGB: grey is spread, palettes are looked up, alpha is dropped,
/// 16-bit values keep their upper half. The content decides, not the name. Orientation tags are ignored.
///
/// # Errors
/// When the file is missing, empty, not PNG or JPEG, zero-sized, too large, damaged or truncated.
pub fn read_rgb(path: impl AsRef<Path>) -> Result<Frame, ImageFileError> {
    let path = path.as_ref();
    decode_rgb(path, &read_bytes(path)?)
}

/// Decodes a PNG or JPEG in memory as [`read_rgb`] does; `path` is what errors call it.
///
/// # Errors
/// As [`read_rgb`].
pub fn decode_rgb(path: &Path, bytes: &[u8]) -> Result<Frame, ImageFileError> {
    let (decoder, size) = open_decoder(path, bytes)?;
    let damaged = |reason: String| ImageFileError::Damaged { path: path.to_owned(), reason };
    let decoded = image::DynamicImage::from_decoder(decoder).map_err(|e| damaged(e.to_string()))?;
    Frame::from_pixels(size, PixelFormat::Rgb8, decoded.into_rgb8().into_raw()).map_err(|e| damaged(e.to_string()))
}

/// Size of a PNG or JPEG of any colour type, from its header.
///
/// # Errors
/// As [`read_rgb`], but for damage that only decoding finds.
pub fn read_size(path: impl AsRef<Path>) -> Result<ImageSize, ImageFileError> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    Ok(open_decoder(path, &bytes)?.1)
}

/// The decoder of a PNG or JPEG whose size has been checked, and that size.
fn open_decoder<'a>(
    path: &Path,
    bytes: &'a [u8],
) -> Result<(impl image::ImageDecoder + 'a, ImageSize), ImageFileError> {
    let damaged = |reason: String| ImageFileError::Damaged { path: path.to_owned(), reason };
    let format = match kind(bytes) {
        Some(Kind::Png) => {
            check_size(path, png_size(bytes).ok_or_else(|| damaged("the header is cut off".to_owned()))?)?;
            image::ImageFormat::Png
        }
        Some(Kind::Jpeg) => {
            // The decoder fills missing rows with grey and says nothing.
            if !jpeg_is_complete(bytes) {
                return Err(damaged("the JPEG data end before the end marker".to_owned()));
            }
            image::ImageFormat::Jpeg
        }
        None => return Err(ImageFileError::NotAnImage { path: path.to_owned() }),
    };
    let mut reader = image::ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(16 * MAX_PIXELS as u64);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| damaged(e.to_string()))?;
    let (width, height) = image::ImageDecoder::dimensions(&decoder);
    let size = ImageSize::new(width as usize, height as usize);
    check_size(path, size)?;
    Ok((decoder, size))
}

/// Decodes a JPEG that is in memory, as motion JPEG has them (without Huffman tables the usual ones are taken), into
/// `frame`: RGB8, its memory reused, index and time untouched. Bytes behind the end marker are ignored: cameras pad.
///
/// # Errors
/// When the bytes are no JPEG, end before its end marker, or are damaged in a way that the decoder notices.
pub fn decode_jpeg_into(bytes: &[u8], frame: &mut Frame) -> Result<(), JpegError> {
    use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
    if !bytes.starts_with(&[0xFF, 0xD8]) {
        return Err(JpegError(format!("expected a JPEG, got {} bytes of something else", bytes.len())));
    }
    // The decoder fills missing rows with grey and says nothing.
    if !jpeg_is_complete(bytes) {
        return Err(JpegError(format!("the JPEG of {} bytes ends before its end marker", bytes.len())));
    }
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let failed = |error: zune_jpeg::errors::DecodeErrors| JpegError(error.to_string());
    decoder.decode_headers().map_err(failed)?;
    let info = decoder.info().ok_or_else(|| JpegError("the header has no size".to_owned()))?;
    let size = ImageSize::new(usize::from(info.width), usize::from(info.height));
    if size.is_empty() || size.num_pixels() > MAX_PIXELS {
        return Err(JpegError(format!("its size is {size}")));
    }
    frame.reshape(size, PixelFormat::Rgb8);
    decoder.decode_into(&mut frame.pixels).map_err(failed)
}

/// Why a JPEG in memory cannot be decoded, in words.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct JpegError(String);

/// Reads an 8-bit grey PNG without touching its values.
///
/// # Errors
/// As [`read_rgb`], and when the PNG is not 8-bit grey without alpha (palettes and RGB are refused: their values are
/// not labels).
pub fn read_gray8(path: impl AsRef<Path>) -> Result<GrayImage, ImageFileError> {
    let (size, pixels) = read_exact(path.as_ref(), png::ColorType::Grayscale, png::BitDepth::Eight)?;
    Ok(GrayImage { size, pixels })
}

/// Reads a 16-bit grey PNG without touching its values.
///
/// # Errors
/// As [`read_gray8`], for 16 bits.
pub fn read_gray16(path: impl AsRef<Path>) -> Result<GrayImage16, ImageFileError> {
    let (size, bytes) = read_exact(path.as_ref(), png::ColorType::Grayscale, png::BitDepth::Sixteen)?;
    let (pairs, _) = bytes.as_chunks::<2>();
    Ok(GrayImage16 { size, pixels: pairs.iter().map(|&b| u16::from_be_bytes(b)).collect() })
}

/// Reads an 8-bit RGB PNG without touching its values (a map that keeps numbers in its channels).
///
/// # Errors
/// As [`read_rgb`], and when the PNG is not 8-bit RGB without alpha and palette.
pub fn read_rgb8(path: impl AsRef<Path>) -> Result<Frame, ImageFileError> {
    let path = path.as_ref();
    let (size, pixels) = read_exact(path, png::ColorType::Rgb, png::BitDepth::Eight)?;
    let damaged =
        |e: crate::image::ImageError| ImageFileError::Damaged { path: path.to_owned(), reason: e.to_string() };
    Frame::from_pixels(size, PixelFormat::Rgb8, pixels).map_err(damaged)
}

/// Bits per pixel (1, 2, 4, 8 or 16) of a grey PNG, from its header; tells an 8-bit label map from a 16-bit one.
///
/// # Errors
/// As [`read_gray8`].
pub fn gray_bit_depth(path: impl AsRef<Path>) -> Result<u8, ImageFileError> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    let reader = exact_reader(path, &bytes, "a grey PNG")?;
    match reader.output_color_type() {
        (png::ColorType::Grayscale, depth) => Ok(depth as u8),
        (color, depth) => Err(wrong_mode(path, "grey", color, depth)),
    }
}

/// Writes an 8-bit grey PNG (fast settings) whole or not at all: a temporary file in the same folder, then renamed.
///
/// # Errors
/// When `pixels` does not fill `size`, or the file cannot be written.
pub fn write_gray8(path: impl AsRef<Path>, size: ImageSize, pixels: &[u8]) -> Result<(), ImageFileError> {
    let mut bytes = Vec::new();
    encode_gray8_into(&mut bytes, size, pixels)?;
    write_file_atomically(path, &bytes)
}

/// Writes a 16-bit grey PNG like [`write_gray8`].
///
/// # Errors
/// As [`write_gray8`].
pub fn write_gray16(path: impl AsRef<Path>, size: ImageSize, pixels: &[u16]) -> Result<(), ImageFileError> {
    let mut bytes = Vec::new();
    encode_gray16_into(&mut bytes, size, pixels)?;
    write_file_atomically(path, &bytes)
}

/// Writes an 8-bit RGB PNG like [`write_gray8`]; `pixels` is `[height, width, 3]`.
///
/// # Errors
/// As [`write_gray8`].
pub fn write_rgb8(path: impl AsRef<Path>, size: ImageSize, pixels: &[u8]) -> Result<(), ImageFileError> {
    let mut bytes = Vec::new();
    encode_rgb8_into(&mut bytes, size, pixels)?;
    write_file_atomically(path, &bytes)
}

/// Encodes an 8-bit grey PNG into `out` (cleared first, memory reused): fast compression, filter Up.
///
/// # Errors
/// When `pixels` does not fill `size`, or a side is 0 or beyond 2³¹.
pub fn encode_gray8_into(out: &mut Vec<u8>, size: ImageSize, pixels: &[u8]) -> Result<(), ImageFileError> {
    encode(out, size, pixels, png::ColorType::Grayscale, png::BitDepth::Eight)
}

/// Encodes a 16-bit grey PNG into `out` like [`encode_gray8_into`].
///
/// # Errors
/// As [`encode_gray8_into`].
pub fn encode_gray16_into(out: &mut Vec<u8>, size: ImageSize, pixels: &[u16]) -> Result<(), ImageFileError> {
    let expected = size.num_pixels();
    if pixels.len() != expected {
        return Err(ImageFileError::WrongLength { size, expected, got: pixels.len() });
    }
    let bytes: Vec<u8> = pixels.iter().flat_map(|v| v.to_be_bytes()).collect();
    encode(out, size, &bytes, png::ColorType::Grayscale, png::BitDepth::Sixteen)
}

/// Encodes an 8-bit RGB PNG into `out` like [`encode_gray8_into`].
///
/// # Errors
/// As [`encode_gray8_into`].
pub fn encode_rgb8_into(out: &mut Vec<u8>, size: ImageSize, pixels: &[u8]) -> Result<(), ImageFileError> {
    encode(out, size, pixels, png::ColorType::Rgb, png::BitDepth::Eight)
}

/// Writes `bytes` to `path` whole or not at all: into a temporary file in the same folder, which is then renamed over
/// `path` and removed on failure.
///
/// # Errors
/// [`ImageFileError::Write`] with the system's reason.
pub fn write_file_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), ImageFileError> {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);

    let path = path.as_ref();
    let failed = |source| ImageFileError::Write { path: path.to_owned(), source };
    let Some(name) = path.file_name() else {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path has no file name")));
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let temporary = path.with_file_name(temporary_name);
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        // Best effort: the first failure is the one to report.
        let _ = std::fs::remove_file(&temporary);
        failed(source)
    })
}

/// Fails for pipes and devices: opening a pipe waits for somebody who writes to it, for ever if nobody does.
///
/// # Errors
/// When `path` is no regular file and no folder (whose own error says more), or nothing is there.
pub fn expect_regular_file(path: &Path) -> std::io::Result<()> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(());
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is a pipe or a device, no file"))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, ImageFileError> {
    let bytes = expect_regular_file(path)
        .and_then(|()| std::fs::read(path))
        .map_err(|source| ImageFileError::Read { path: path.to_owned(), source })?;
    if bytes.is_empty() {
        return Err(ImageFileError::Empty { path: path.to_owned() });
    }
    Ok(bytes)
}

enum Kind {
    Png,
    Jpeg,
}

fn kind(bytes: &[u8]) -> Option<Kind> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some(Kind::Png)
    } else if bytes.starts_with(&[0xFF, 0xD8, 0xFF]) {
        Some(Kind::Jpeg)
    } else {
        None
    }
}

/// Width and height from the first chunk, before any decoder sees the file.
fn png_size(bytes: &[u8]) -> Option<ImageSize> {
    let number = |at: usize| {
        let b = bytes.get(at..at + 4)?;
        Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    (bytes.get(12..16)? == b"IHDR").then_some(ImageSize::new(number(16)?, number(20)?))
}

fn check_size(path: &Path, size: ImageSize) -> Result<(), ImageFileError> {
    if size.is_empty() {
        return Err(ImageFileError::ZeroSized { path: path.to_owned(), size });
    }
    if size.width > MAX_SIDE || size.height > MAX_SIDE || size.num_pixels() > MAX_PIXELS {
        return Err(ImageFileError::TooLarge { path: path.to_owned(), size });
    }
    Ok(())
}

/// Walks the marker segments (thumbnails inside them are skipped) to the end marker of the image itself.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Entropy-coded data and fill bytes: search for the next marker. FF00 is a stuffed byte, D0–D7 are restarts.
        while bytes.get(at) != Some(&0xFF) || matches!(bytes.get(at + 1), Some(0x00 | 0xFF | 0xD0..=0xD7)) {
            at += 1;
            if at >= bytes.len() {
                return false;
            }
        }
        match bytes.get(at + 1) {
            None => return false,
            Some(0xD9) => return true,
            Some(0x01 | 0xD8) => at += 2,
            Some(_) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2),
                _ => return false,
            },
        }
    }
}

/// A reader that gives the values as they are in the file; `expected` says what the file should be.
fn exact_reader<'a>(
    path: &Path,
    bytes: &'a [u8],
    expected: &'static str,
) -> Result<png::Reader<Cursor<&'a [u8]>>, ImageFileError> {
    if !matches!(kind(bytes), Some(Kind::Png)) {
        return Err(match kind(bytes) {
            Some(Kind::Jpeg) => ImageFileError::WrongMode {
                path: path.to_owned(),
                expected,
                got: "JPEG (which changes label values)".to_owned(),
            },
            _ => ImageFileError::NotAnImage { path: path.to_owned() },
        });
    }
    let damaged = |reason: String| ImageFileError::Damaged { path: path.to_owned(), reason };
    let size = png_size(bytes).ok_or_else(|| damaged("the header is cut off".to_owned()))?;
    check_size(path, size)?;
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    decoder.read_info().map_err(|e| damaged(e.to_string()))
}

fn wrong_mode(path: &Path, expected: &'static str, color: png::ColorType, depth: png::BitDepth) -> ImageFileError {
    let color = match color {
        png::ColorType::Grayscale => "grey",
        png::ColorType::GrayscaleAlpha => "grey with alpha",
        png::ColorType::Indexed => "palettised",
        png::ColorType::Rgb => "RGB",
        png::ColorType::Rgba => "RGB with alpha",
    };
    ImageFileError::WrongMode { path: path.to_owned(), expected, got: format!("{}-bit {color}", depth as u8) }
}

fn read_exact(
    path: &Path,
    color: png::ColorType,
    depth: png::BitDepth,
) -> Result<(ImageSize, Vec<u8>), ImageFileError> {
    let (file, mode) = match (color, depth) {
        (png::ColorType::Rgb, _) => ("an RGB PNG", "8-bit RGB"),
        (_, png::BitDepth::Eight) => ("a grey PNG", "8-bit grey"),
        _ => ("a grey PNG", "16-bit grey"),
    };
    let bytes = read_bytes(path)?;
    let mut reader = exact_reader(path, &bytes, file)?;
    let got = reader.output_color_type();
    if got != (color, depth) {
        return Err(wrong_mode(path, mode, got.0, got.1));
    }
    let damaged = |reason: String| ImageFileError::Damaged { path: path.to_owned(), reason };
    let size = ImageSize::new(reader.info().width as usize, reader.info().height as usize);
    let len = size.num_pixels() * depth as usize / 8 * if color == png::ColorType::Rgb { 3 } else { 1 };
    let mut pixels = vec![0; len];
    reader.next_frame(&mut pixels).map_err(|e| damaged(e.to_string()))?;
    // Also wants the end of the file: a map whose last bytes are missing is not to be trusted.
    reader.finish().map_err(|e| damaged(e.to_string()))?;
    Ok((size, pixels))
}

fn encode(
    out: &mut Vec<u8>,
    size: ImageSize,
    bytes: &[u8],
    color: png::ColorType,
    depth: png::BitDepth,
) -> Result<(), ImageFileError> {
    let bytes_per_pixel = depth as usize / 8 * if color == png::ColorType::Rgb { 3 } else { 1 };
    let expected = size.num_pixels().saturating_mul(bytes_per_pixel);
    let wrong = || ImageFileError::WrongLength { size, expected, got: bytes.len() };
    let (Ok(width), Ok(height)) = (u32::try_from(size.width), u32::try_from(size.height)) else {
        return Err(wrong());
    };
    if bytes.len() != expected || expected == 0 {
        return Err(wrong());
    }
    out.clear();
    let mut encoder = png::Encoder::new(&mut *out, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Up);
    // Into memory nothing can fail but a size that PNG cannot express.
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(bytes));
    written.map_err(|_| wrong())
}
