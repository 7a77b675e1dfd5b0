//! Size of an image from its first bytes, and whether its end is there: what can be told without decoding.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use segcore::image::ImageSize;
use segcore::image_io::{MAX_PIXELS, MAX_SIDE, expect_regular_file};

use crate::DatasetError;

const PNG_SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// How far from the end of a file its end marker is looked for before the whole file is.
const TAIL_BYTES: u64 = 4096;

/// Size of a PNG or JPEG of any colour type, from its header alone.
///
/// # Errors
/// [`DatasetError::Read`] when the system refuses, [`DatasetError::ImageHeader`] when the content is no PNG or JPEG, the
/// header is cut off or promises no pixels or too many.
pub(crate) fn read_size(path: &Path) -> Result<ImageSize, DatasetError> {
    let mut file = open(path)?;
    size_of(&mut file).map_err(|problem| problem.at(path))
}

/// As [`read_size`], and the end of the image must be there: the commonest damage is a copy that was cut off.
///
/// # Errors
/// As [`read_size`].
pub(crate) fn read_size_of_whole(path: &Path) -> Result<ImageSize, DatasetError> {
    let mut file = open(path)?;
    size_of(&mut file)
        .and_then(|size| if has_end(&mut file)? { Ok(size) } else { Err(Problem::cut()) })
        .map_err(|problem| problem.at(path))
}

fn open(path: &Path) -> Result<BufReader<File>, DatasetError> {
    let file = expect_regular_file(path).and_then(|()| File::open(path));
    Ok(BufReader::new(file.map_err(|source| read_error(path, source))?))
}

enum Problem {
    System(std::io::Error),
    Content(String),
}

impl Problem {
    fn cut() -> Self {
        Self::Content("its end is missing: the copy or download was cut off; copy it again".to_owned())
    }

    fn at(self, path: &Path) -> DatasetError {
        match self {
            Self::System(source) => read_error(path, source),
            Self::Content(reason) => DatasetError::ImageHeader { path: path.to_owned(), reason },
        }
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Content("the header is cut off; copy it again".to_owned()),
            _ => Self::System(error),
        }
    }
}

fn read_error(path: &Path, source: std::io::Error) -> DatasetError {
    DatasetError::Read { path: path.to_owned(), source }
}

fn bytes<const N: usize>(file: &mut impl Read) -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn size_of(file: &mut BufReader<File>) -> Result<ImageSize, Problem> {
    let size = match bytes::<3>(file) {
        Ok([0xFF, 0xD8, 0xFF]) => jpeg_size(file)?,
        Ok([0x89, b'P', b'N']) if bytes::<5>(file)? == PNG_SIGNATURE[3..] => {
            let [_, _, _, _, name @ ..] = bytes::<8>(file)?;
            if name != *b"IHDR" {
                return Err(Problem::Content("the PNG does not begin with its header".to_owned()));
            }
            let side = |bytes: [u8; 4]| u32::from_be_bytes(bytes) as usize;
            ImageSize::new(side(bytes(file)?), side(bytes(file)?))
        }
        Ok(_) => return Err(Problem::Content("expected PNG or JPEG content, got something else".to_owned())),
        Err(Problem::Content(_)) => return Err(Problem::Content("it has less than three bytes".to_owned())),
        Err(problem) => return Err(problem),
    };
    if size.is_empty() || size.width.max(size.height) > MAX_SIDE || size.num_pixels() > MAX_PIXELS {
        let limit = format!("1×1 to {MAX_SIDE} pixels a side and {MAX_PIXELS} in all");
        return Err(Problem::Content(format!("its header says {size}, expected {limit}")));
    }
    Ok(size)
}

/// Walks the segments to the one with the size; the first `FF` of the second marker has been read.
fn jpeg_size(file: &mut BufReader<File>) -> Result<ImageSize, Problem> {
    loop {
        // Any number of FF may fill the space before a marker.
        let mut marker = 0xFF;
        while marker == 0xFF {
            [marker] = bytes(file)?;
        }
        match marker {
            // Markers without a segment.
            0x01 | 0xD0..=0xD8 => {}
            0xD9 | 0xDA => return Err(Problem::Content("the JPEG has no frame header".to_owned())),
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let [_, _, _, h1, h0, w1, w0] = bytes(file)?;
                return Ok(ImageSize::new(u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into()));
            }
            _ => {
                let length = u16::from_be_bytes(bytes(file)?);
                let rest = length
                    .checked_sub(2)
                    .ok_or_else(|| Problem::Content("a JPEG segment of negative length".into()))?;
                file.seek_relative(rest.into())?;
            }
        }
        if bytes(file)? != [0xFF] {
            return Err(Problem::Content("expected a JPEG marker, got other bytes".to_owned()));
        }
    }
}

/// Whether the end marker is there.
fn has_end(file: &mut BufReader<File>) -> Result<bool, Problem> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    file.seek(SeekFrom::Start(0))?;
    let is_png = bytes::<1>(file)? == [0x89];
    let found = |marker: &[u8]| tail.windows(marker.len()).any(|window| window == marker);
    if found(if is_png { b"IEND" } else { &[0xFF, 0xD9] }) {
        return Ok(true);
    }
    // Something may be appended, such as the video of a telephone's picture.
    file.seek(SeekFrom::Start(if is_png { 8 } else { 2 }))?;
    if is_png { png_walk(file, length) } else { jpeg_walk(file) }
}

/// Goes from chunk to chunk; `true` at the last.
fn png_walk(file: &mut BufReader<File>, length: u64) -> Result<bool, Problem> {
    let mut at = 8;
    while at + 12 <= length {
        let [l3, l2, l1, l0, name @ ..] = bytes::<8>(file)?;
        if name == *b"IEND" {
            return Ok(true);
        }
        let data = u64::from(u32::from_be_bytes([l3, l2, l1, l0])) + 4;
        at += 8 + data;
        file.seek(SeekFrom::Start(at))?;
    }
    Ok(false)
}

/// Looks for the end marker of the image itself: thumbnails inside segments have markers of their own.
fn jpeg_walk(file: &mut BufReader<File>) -> Result<bool, Problem> {
    let mut after_ff = false;
    loop {
        let mut byte = [0];
        if file.read(&mut byte)? == 0 {
            return Ok(false);
        }
        match (after_ff, byte[0]) {
            (_, 0xFF) => after_ff = true,
            (true, 0xD9) => return Ok(true),
            // Stuffed bytes, restarts and markers without a segment.
            (true, 0x00 | 0x01 | 0xD0..=0xD8) => after_ff = false,
            (true, _) => {
                let [high, low] = match bytes(file) {
                    Ok(length) => length,
                    Err(Problem::Content(_)) => return Ok(false),
                    Err(problem) => return Err(problem),
                };
                file.seek_relative(i64::from(u16::from_be_bytes([high, low]).max(2)) - 2)?;
                after_ff = false;
            }
            (false, _) => {}
        }
    }
}
