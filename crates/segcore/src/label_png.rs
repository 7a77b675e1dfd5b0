//! Label maps in PNG files, read quickly (feature `image-io`).
//!
//! Reading files is most of the work of measuring predictions, and undoing PNG's filters is most of reading: the Paeth
//! predictor waits for the pixel before. In a label map nearly all stretches repeat the row above or the pixel before,
//! and a stretch whose differences are zero can be copied at once. Files that are not plain go to the general decoder,
//! which also has the last word on what is wrong with a file.

use std::io::Read as _;
use std::path::Path;

use crate::image::ImageSize;
use crate::image_io::{ImageFileError, MAX_PIXELS, MAX_SIDE, read_gray8, read_gray16, read_rgb8};

/// Reads label maps one after the other into memory that it keeps.
#[derive(Clone, Debug, Default)]
pub struct LabelReader {
    file: Vec<u8>,
    /// Some rows as the file has them: a filter's number, then differences.
    filtered: Vec<u8>,
    bytes: Vec<u8>,
}

/// What a file should hold, by the numbers in its header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Layout {
    bit_depth: u8,
    color_type: u8,
    bytes_per_pixel: usize,
}

const GRAY_8: Layout = Layout { bit_depth: 8, color_type: 0, bytes_per_pixel: 1 };
const GRAY_16: Layout = Layout { bit_depth: 16, color_type: 0, bytes_per_pixel: 2 };
const RGB_8: Layout = Layout { bit_depth: 8, color_type: 2, bytes_per_pixel: 3 };

impl LabelReader {
    /// Size and values, `[height, width]`, of an 8-bit grey PNG.
    ///
    /// # Errors
    /// As [`read_gray8`].
    pub fn gray8(&mut self, path: &Path) -> Result<(ImageSize, &[u8]), ImageFileError> {
        let size = match self.read_plain::<1>(path, GRAY_8) {
            Some(size) => size,
            None => {
                let map = read_gray8(path)?;
                self.bytes = map.pixels;
                map.size
            }
        };
        Ok((size, &self.bytes))
    }

    /// Size and values, `[height, width]`, big-endian as the file has them, of a 16-bit grey PNG.
    ///
    /// # Errors
    /// As [`read_gray16`].
    pub fn gray16(&mut self, path: &Path) -> Result<(ImageSize, &[[u8; 2]]), ImageFileError> {
        let size = match self.read_plain::<2>(path, GRAY_16) {
            Some(size) => size,
            None => {
                let map = read_gray16(path)?;
                self.bytes.clear();
                self.bytes.extend(map.pixels.iter().flat_map(|value| value.to_be_bytes()));
                map.size
            }
        };
        Ok((size, self.bytes.as_chunks::<2>().0))
    }

    /// Size and channels, `[height, width, 3]`, of an 8-bit RGB PNG.
    ///
    /// # Errors
    /// As [`read_rgb8`].
    pub fn rgb8(&mut self, path: &Path) -> Result<(ImageSize, &[[u8; 3]]), ImageFileError> {
        let size = match self.read_plain::<3>(path, RGB_8) {
            Some(size) => size,
            None => {
                let map = read_rgb8(path)?;
                self.bytes = map.pixels;
                map.size
            }
        };
        Ok((size, self.bytes.as_chunks::<3>().0))
    }

    /// Reads a plain, whole PNG of this layout into `bytes`; `None` for anything else, whatever it is.
    fn read_plain<const BYTES: usize>(&mut self, path: &Path, layout: Layout) -> Option<ImageSize> {
        self.file.clear();
        std::fs::File::open(path).ok()?.read_to_end(&mut self.file).ok()?;
        let (size, compressed) = parse(&self.file, layout)?;
        let stride = size.width * BYTES;
        self.bytes.resize(stride * size.height, 0);
        let above = vec![0; stride];
        let mut above = above.as_slice();
        let mut rows = self.bytes.chunks_exact_mut(stride);
        inflate(&compressed, &mut self.filtered, stride + 1, |filtered| {
            let (row, (&filter, differences)) = (rows.next()?, filtered.split_first()?);
            match filter {
                0 => row.copy_from_slice(differences),
                1 => undo_sub::<BYTES>(differences, row),
                2 => undo_up(differences, above, row),
                3 => undo_average::<BYTES>(differences, above, row),
                4 => undo_paeth::<BYTES>(differences, above, row),
                _ => return None,
            }
            above = row;
            Some(())
        })?;
        rows.next().is_none().then_some(size)
    }
}

/// Size and compressed data of a PNG that has nothing but them; `None` when it has more, another layout or damage.
fn parse(file: &[u8], layout: Layout) -> Option<(ImageSize, Vec<&[u8]>)> {
    let mut rest = file.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let mut size = None;
    let mut data = Vec::new();
    loop {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let (kind_and_content, after) = after.split_at_checked(length.checked_add(4)?)?;
        let (sum, after) = after.split_first_chunk::<4>()?;
        if crc32fast::hash(kind_and_content) != u32::from_be_bytes(*sum) {
            return None;
        }
        let (kind, content) = kind_and_content.split_first_chunk::<4>()?;
        match (kind, size) {
            (b"IHDR", None) => size = Some(header(content, layout)?),
            (b"IDAT", Some(_)) => data.push(content),
            (b"IEND", Some(size)) if content.is_empty() => return Some((size, data)),
            // What says how the pixels look, or when the file was written, does not change them.
            (b"gAMA" | b"sRGB" | b"cHRM" | b"iCCP" | b"pHYs" | b"tEXt" | b"zTXt" | b"iTXt" | b"tIME", Some(_)) => {}
            _ => return None,
        }
        rest = after;
    }
}

/// The size in the content of IHDR, if the rest of it is this layout, without interlacing.
fn header(content: &[u8], layout: Layout) -> Option<ImageSize> {
    let &[w0, w1, w2, w3, h0, h1, h2, h3, bit_depth, color_type, 0, 0, 0] = content else { return None };
    let size =
        ImageSize::new(u32::from_be_bytes([w0, w1, w2, w3]) as usize, u32::from_be_bytes([h0, h1, h2, h3]) as usize);
    let is_possible = !size.is_empty() && size.width <= MAX_SIDE && size.height <= MAX_SIDE;
    let is_right = (bit_depth, color_type) == (layout.bit_depth, layout.color_type);
    (is_possible && is_right && size.num_pixels() <= MAX_PIXELS).then_some(size)
}

/// How far back compressed data may refer.
const WINDOW: usize = 1 << 15;

/// Gives `take` row after row, of `row_len` bytes, of what the pieces of a zlib stream hold; `None` when they hold something
/// else than whole rows, or `take` does not want one. Only a part of the data is kept, so that it stays near the processor.
fn inflate(
    pieces: &[&[u8]],
    buffer: &mut Vec<u8>,
    row_len: usize,
    mut take: impl FnMut(&[u8]) -> Option<()>,
) -> Option<()> {
    let mut decompressor = fdeflate::Decompressor::new();
    // As the general decoder: each chunk has a sum of its own, which was right.
    decompressor.ignore_adler32();
    buffer.resize(4 * WINDOW + 2 * row_len, 0);
    // End of what is there, and begin of the next row.
    let (mut filled, mut next) = (0, 0);
    for (index, piece) in pieces.iter().enumerate() {
        let mut input = *piece;
        let is_last = index + 1 == pieces.len();
        while !decompressor.is_done() {
            let (consumed, produced) = decompressor.read(input, buffer, filled, is_last).ok()?;
            input = input.get(consumed..)?;
            filled += produced;
            while filled - next >= row_len {
                take(&buffer[next..next + row_len])?;
                next += row_len;
            }
            if filled == buffer.len() {
                let kept = next.min(filled - WINDOW);
                buffer.copy_within(kept.., 0);
                (filled, next) = (filled - kept, next - kept);
            } else if consumed == 0 && produced == 0 {
                break;
            }
        }
    }
    (decompressor.is_done() && filled == next).then_some(())
}

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// Each byte is a difference to that of the pixel before.
fn undo_sub<const BYTES: usize>(differences: &[u8], row: &mut [u8]) {
    let (differences, row) = (differences.as_chunks::<BYTES>().0, row.as_chunks_mut::<BYTES>().0);
    let mut before = [0u8; BYTES];
    let mut at = 0;
    while at < row.len() {
        let end = at + zeros(differences[at..].as_flattened()) / BYTES;
        row[at..end].fill(before);
        at = end;
        // The first difference that is one.
        if let (Some(pixel), Some(difference)) = (row.get_mut(at), differences.get(at)) {
            for channel in 0..BYTES {
                before[channel] = before[channel].wrapping_add(difference[channel]);
            }
            *pixel = before;
            at += 1;
        }
    }
}

/// Each byte is a difference to that of the pixel above.
fn undo_up(differences: &[u8], above: &[u8], row: &mut [u8]) {
    for ((value, difference), above) in row.iter_mut().zip(differences).zip(above) {
        *value = difference.wrapping_add(*above);
    }
}

/// Each byte is a difference to the mean of those of the pixel before and the one above.
fn undo_average<const BYTES: usize>(differences: &[u8], above: &[u8], row: &mut [u8]) {
    for at in 0..row.len() {
        let before = if at < BYTES { 0 } else { row[at - BYTES] };
        let mean = (u16::from(before) + u16::from(above[at])) / 2;
        row[at] = differences[at].wrapping_add(mean as u8);
    }
}

/// Each byte is a difference to that of the pixel before, above, or above the one before, whichever is nearest to
/// before + above − (above the one before).
fn undo_paeth<const BYTES: usize>(differences: &[u8], above: &[u8], row: &mut [u8]) {
    let first = BYTES.min(row.len());
    // Beyond the edge there are zeros; then the one above is predicted.
    undo_up(&differences[..first], &above[..first], &mut row[..first]);
    let mut at = first;
    while at < row.len() {
        let zeros_end = at + zeros(&differences[at..]);
        // Where the pixel before is what is above it, the one above is predicted: without differences the row repeats the
        // one above, and so on.
        if zeros_end - at >= SHORT && row[at - BYTES..at] == above[at - BYTES..at] {
            row[at..zeros_end].copy_from_slice(&above[at..zeros_end]);
            at = zeros_end;
            continue;
        }
        // Where the row above does not change, the pixel before is predicted.
        if zeros_end - at >= SHORT {
            let flat = equal_bytes(&above[at - BYTES..zeros_end - BYTES], &above[at..zeros_end]);
            let end = at + flat;
            if let Some(&before) = row[at - BYTES..].first_chunk::<BYTES>() {
                let (pixels, rest) = row[at..end].as_chunks_mut::<BYTES>();
                pixels.fill(before);
                rest.copy_from_slice(&before[..rest.len()]);
            }
            if flat > 0 {
                at = end;
                continue;
            }
        }
        // To the first difference that is one; in a long stretch without, until it begins to repeat something.
        let end = if zeros_end - at >= SHORT { at + 1 } else { (zeros_end + 1).min(row.len()) };
        for at in at..end {
            let predicted = paeth(row[at - BYTES], above[at], above[at - BYTES]);
            row[at] = differences[at].wrapping_add(predicted);
        }
        at = end;
    }
}

/// Stretches of fewer bytes are not worth a look at what they repeat.
const SHORT: usize = 12;

/// How many bytes at the beginning are equal; both have the same length.
fn equal_bytes(a: &[u8], b: &[u8]) -> usize {
    let are_equal = |(a, b): &(&[u8; BLOCK], &[u8; BLOCK])| a.iter().zip(*b).fold(0, |any, (a, b)| any | (a ^ b)) == 0;
    let equal = BLOCK * a.as_chunks().0.iter().zip(b.as_chunks().0).take_while(are_equal).count();
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes at the beginning are 0.
fn zeros(bytes: &[u8]) -> usize {
    // Not `==`, which calls a function for blocks of this size.
    let is_zero = |block: &&[u8; BLOCK]| block.iter().fold(0, |any, byte| any | byte) == 0;
    let zeros = BLOCK * bytes.as_chunks().0.iter().take_while(is_zero).count();
    zeros + bytes[zeros..].iter().take_while(|&&byte| byte == 0).count()
}

fn paeth(before: u8, above: u8, above_before: u8) -> u8 {
    let [a, b, c] = [before, above, above_before].map(i16::from);
    let (to_a, to_b, to_c) = ((b - c).abs(), (a - c).abs(), (a + b - 2 * c).abs());
    if to_a <= to_b && to_a <= to_c {
        before
    } else if to_b <= to_c {
        above
    } else {
        above_before
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// A PNG with a filter of its own for each row, in pieces.
    fn write(path: &Path, color: png::ColorType, depth: png::BitDepth, width: usize, rows: &[(u8, Vec<u8>)]) {
        let mut data = Vec::new();
        let stride = rows[0].1.len();
        let bytes_per_pixel = stride / width;
        let mut above = vec![0u8; stride];
        for (filter, row) in rows {
            data.push(*filter);
            for at in 0..stride {
                let before = if at < bytes_per_pixel { 0 } else { row[at - bytes_per_pixel] };
                let above_before = if at < bytes_per_pixel { 0 } else { above[at - bytes_per_pixel] };
                let predicted = match filter {
                    1 => before,
                    2 => above[at],
                    3 => ((u16::from(before) + u16::from(above[at])) / 2) as u8,
                    4 => paeth(before, above[at], above_before),
                    _ => 0,
                };
                data.push(row[at].wrapping_sub(predicted));
            }
            above.clone_from(row);
        }
        let compressed = fdeflate::compress_to_vec(&data);
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(b"\x89PNG\r\n\x1a\n").unwrap();
        let mut chunk = |kind: &[u8; 4], content: &[u8]| {
            let bytes = [kind.as_slice(), content].concat();
            file.write_all(&(content.len() as u32).to_be_bytes()).unwrap();
            file.write_all(&bytes).unwrap();
            file.write_all(&crc32fast::hash(&bytes).to_be_bytes()).unwrap();
        };
        let size = [(width as u32).to_be_bytes(), (rows.len() as u32).to_be_bytes()].concat();
        chunk(b"IHDR", &[&size[..], &[depth as u8, color as u8, 0, 0, 0]].concat());
        compressed.chunks(50).for_each(|piece| chunk(b"IDAT", piece));
        chunk(b"IEND", &[]);
    }

    /// Rows that repeat and break off, as those of label maps do.
    fn rows(bytes_per_pixel: usize) -> impl Strategy<Value = (usize, Vec<(u8, Vec<u8>)>)> {
        let stretch = (prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], bytes_per_pixel), 1usize..90);
        let row = (0u8..5, prop::option::of(prop::collection::vec(stretch, 1..8)));
        (1usize..140, prop::collection::vec(row, 1..9)).prop_map(move |(width, rows)| {
            let mut above = vec![0; width * bytes_per_pixel];
            let filled = rows.into_iter().map(|(filter, stretches)| {
                let Some(stretches) = stretches else { return (filter, above.clone()) };
                let pixels = stretches.iter().flat_map(|(pixel, length)| std::iter::repeat_n(pixel, *length));
                let mut row: Vec<u8> = pixels.flatten().copied().collect();
                row.resize(width * bytes_per_pixel, 7);
                above.clone_from(&row);
                (filter, row)
            });
            (width, filled.collect())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_reads_what_the_general_decoder_reads(
            (gray8, gray16, rgb8) in (rows(1), rows(2), rows(3))
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("map.png");
            let mut reader = LabelReader::default();
            let bytes = |rows: &[(u8, Vec<u8>)]| rows.iter().flat_map(|row| row.1.clone()).collect::<Vec<u8>>();

            write(&path, png::ColorType::Grayscale, png::BitDepth::Eight, gray8.0, &gray8.1);
            prop_assert!(reader.read_plain::<1>(&path, GRAY_8).is_some());
            prop_assert_eq!(&read_gray8(&path).unwrap().pixels, &bytes(&gray8.1));
            prop_assert_eq!(reader.gray8(&path).unwrap().1, bytes(&gray8.1));
            prop_assert!(reader.read_plain::<2>(&path, GRAY_16).is_none());

            write(&path, png::ColorType::Grayscale, png::BitDepth::Sixteen, gray16.0, &gray16.1);
            prop_assert!(reader.read_plain::<2>(&path, GRAY_16).is_some());
            let map = read_gray16(&path).unwrap();
            let (size, values) = reader.gray16(&path).unwrap();
            let values: Vec<u16> = values.iter().map(|&value| u16::from_be_bytes(value)).collect();
            prop_assert_eq!((size, values), (map.size, map.pixels));

            write(&path, png::ColorType::Rgb, png::BitDepth::Eight, rgb8.0, &rgb8.1);
            prop_assert!(reader.read_plain::<3>(&path, RGB_8).is_some());
            prop_assert_eq!(reader.rgb8(&path).unwrap().1.as_flattened(), bytes(&rgb8.1));
        }

        #[test]
        fn the_window_moves(seed in any::<u32>()) {
            // 300 kB of rows, some of which repeat what was long ago.
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("map.png");
            let mut state = seed;
            let rows: Vec<(u8, Vec<u8>)> = (0..100u32).map(|y| {
                let row = (0..3000u32).map(|x| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if y % 3 == 0 { (state >> 28) as u8 } else { (x / 100 * (y % 7)) as u8 }
                });
                let row: Vec<u8> = row.collect();
                ((row[0] + (y % 5) as u8) % 5, row)
            }).collect();
            write(&path, png::ColorType::Rgb, png::BitDepth::Eight, 1000, &rows);
            let mut reader = LabelReader::default();
            prop_assert!(reader.read_plain::<3>(&path, RGB_8).is_some());
            prop_assert_eq!(&reader.bytes, &read_rgb8(&path).unwrap().pixels);
        }

        #[test]
        fn damage_is_what_the_general_decoder_says((width, rows) in rows(1), at in any::<prop::sample::Index>(), cut: bool) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("map.png");
            write(&path, png::ColorType::Grayscale, png::BitDepth::Eight, width, &rows);
            let mut file = std::fs::read(&path).unwrap();
            let at = at.index(file.len());
            if cut { file.truncate(at) } else { file[at] ^= 0x10 }
            std::fs::write(&path, file).unwrap();
            let mut reader = LabelReader::default();
            let got = reader.gray8(&path).map(|(size, values)| (size, values.to_vec())).map_err(|e| e.to_string());
            let expected = read_gray8(&path).map(|map| (map.size, map.pixels)).map_err(|e| e.to_string());
            prop_assert_eq!(got, expected);
        }
    }
}
