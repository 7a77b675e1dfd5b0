//! The index of an MP4 file (ISO/IEC 14496-12): where each frame's bytes are and when it is shown.
//!
//! Own code rather than a crate: the demuxers tried (re_mp4 0.5 and mp4 0.14) index their tables without checks and
//! panic on damaged files, and refuse files whose last box is cut. Here each number is checked before it is used. On
//! sound files the result equals re_mp4's (a test compares them).
//!
//! Edit lists are not applied: every frame of the track is given. Rotation is not applied either.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::VideoError;
use crate::sps::ColorDescription;

/// Largest index read, bytes: a day at 30 frames per second has less than 100 MB.
const MAX_INDEX_BYTES: u64 = 512 << 20;
/// Most frames accepted: six days at 30 frames per second.
const MAX_SAMPLES: usize = 1 << 24;
/// Most boxes looked at in one file, so that a file of empty boxes ends.
const MAX_BOXES: usize = 1 << 22;

/// One coded frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// When it is shown, in units of the time scale, the earliest frame at 0.
    pub shown_at: i64,
}

/// What the index says about the video track.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// Frames in decoding order.
    pub samples: Vec<Sample>,
    /// Units of time per second.
    pub time_scale: u32,
    /// Pixels, as the container has it.
    pub width: u16,
    /// Pixels.
    pub height: u16,
    /// Bytes of the length before each unit of the stream: 1, 2 or 4.
    pub length_bytes: usize,
    /// Sequence and picture parameter sets, without start codes.
    pub parameter_sets: Vec<Vec<u8>>,
    /// Colours as the container has them.
    pub color: Option<ColorDescription>,
}

/// Reads the index of `file`.
pub(crate) fn read_index(file: &mut File, path: &Path) -> Result<Index, VideoError> {
    let io_error = |source| VideoError::Io { path: path.to_owned(), source };
    let file_bytes = file.seek(SeekFrom::End(0)).map_err(io_error)?;
    if file_bytes == 0 {
        return Err(VideoError::Empty { path: path.to_owned() });
    }
    let mut movie: Option<Vec<u8>> = None;
    let mut fragments: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut index_bytes = 0;
    let mut at = 0u64;
    for number in 0..MAX_BOXES {
        let Some(header) = read_header(file, at, file_bytes).map_err(io_error)? else { break };
        if number == 0 && !is_first_box(header.kind) {
            return Err(not_mp4(file, path)?);
        }
        let end = at.saturating_add(header.total_bytes);
        if matches!(&header.kind, b"moov" | b"moof") {
            // Of a cut index nothing can be used: its tables are not in the order of the frames.
            if end > file_bytes {
                break;
            }
            index_bytes += header.total_bytes;
            if index_bytes > MAX_INDEX_BYTES {
                return Err(damaged(path)("size of the index, bytes", MAX_INDEX_BYTES, index_bytes));
            }
            let mut body = vec![0; (header.total_bytes - header.header_bytes) as usize];
            file.seek(SeekFrom::Start(at + header.header_bytes)).map_err(io_error)?;
            file.read_exact(&mut body).map_err(io_error)?;
            if &header.kind == b"moov" {
                movie.get_or_insert(body);
            } else {
                fragments.push((at, body));
            }
        }
        at = end;
        if at >= file_bytes {
            break;
        }
    }
    if at == 0 {
        return Err(not_mp4(file, path)?);
    }
    let movie = movie.ok_or_else(|| VideoError::IndexMissing { path: path.to_owned(), file_bytes })?;
    parse(&movie, &fragments, path)
}

struct Header {
    kind: [u8; 4],
    header_bytes: u64,
    total_bytes: u64,
}

/// The header of the box at `at`; none where the file ends before it or its size is impossible.
fn read_header(file: &mut File, at: u64, file_bytes: u64) -> io::Result<Option<Header>> {
    let left = file_bytes.saturating_sub(at);
    if left < 8 {
        return Ok(None);
    }
    let mut bytes = [0; 16];
    let available = if left >= 16 { 16 } else { 8 };
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes[..available])?;
    let [s0, s1, s2, s3, k0, k1, k2, k3, large @ ..] = bytes;
    let (header_bytes, total_bytes) = match u32::from_be_bytes([s0, s1, s2, s3]) {
        0 => (8, left),
        1 if available == 16 => (16, u64::from_be_bytes(large)),
        size => (8, size.into()),
    };
    let header = Header { kind: [k0, k1, k2, k3], header_bytes, total_bytes };
    Ok((total_bytes >= header_bytes).then_some(header))
}

fn is_first_box(kind: [u8; 4]) -> bool {
    matches!(&kind, b"ftyp" | b"moov" | b"mdat" | b"free" | b"skip" | b"wide" | b"styp" | b"uuid" | b"pnot")
}

fn not_mp4(file: &mut File, path: &Path) -> Result<VideoError, VideoError> {
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.take(64).read_to_end(&mut start))
        .map_err(|source| VideoError::Io { path: path.to_owned(), source })?;
    let found = if start.starts_with(b"RIFF") {
        "an AVI or WAV file (RIFF)".to_owned()
    } else if start.starts_with(&[0x1a, 0x45, 0xdf, 0xa3]) {
        "a Matroska or WebM file".to_owned()
    } else if start.starts_with(b"\x89PNG") {
        "a PNG image".to_owned()
    } else if start.starts_with(&[0xff, 0xd8, 0xff]) {
        "a JPEG image".to_owned()
    } else if start.starts_with(&[0, 0, 0, 1]) || start.starts_with(&[0, 0, 1]) {
        "a bare H.264 or MPEG stream".to_owned()
    } else if start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "a text file".to_owned()
    } else {
        let hex: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("a file that begins with the bytes {}", hex.join(" "))
    };
    Ok(VideoError::NotMp4 { path: path.to_owned(), found })
}

/// Makes an error about the index of `path`.
fn damaged<E: ToString, G: ToString>(path: &Path) -> impl Fn(&'static str, E, G) -> VideoError {
    move |what, expected, got| VideoError::IndexDamaged {
        path: path.to_owned(),
        what,
        expected: expected.to_string(),
        got: got.to_string(),
    }
}

/// Big-endian numbers, read in order; none past the end.
struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// Version and flags at the start of a "full box".
    fn version_and_flags(&mut self) -> Option<(u8, u32)> {
        self.u32().map(|word| ((word >> 24) as u8, word & 0x00ff_ffff))
    }
}

/// The boxes inside `bytes`, up to the first one that does not fit.
fn boxes(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let mut numbers = Numbers(rest);
        let size = numbers.u32()?;
        let kind = numbers.bytes::<4>()?;
        let body_bytes = match size {
            0 => numbers.0.len(),
            1 => usize::try_from(numbers.u64()?.checked_sub(16)?).ok()?,
            size => usize::try_from(size.checked_sub(8)?).ok()?,
        };
        let body = numbers.take(body_bytes)?;
        rest = numbers.0;
        Some((kind, body))
    })
}

fn find<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(bytes).find(|(found, _)| found == kind).map(|(_, body)| body)
}

fn find_all<'a>(bytes: &'a [u8], kind: &'static [u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    boxes(bytes).filter(move |(found, _)| found == kind).map(|(_, body)| body)
}

fn parse(movie: &[u8], fragments: &[(u64, Vec<u8>)], path: &Path) -> Result<Index, VideoError> {
    let missing = |what: &'static str| damaged(path)(what, "the box", "none, or a cut one");
    let mut handlers: Vec<String> = Vec::new();
    let mut video = None;
    for track in find_all(movie, b"trak") {
        let Some(media) = find(track, b"mdia") else { continue };
        let handler = find(media, b"hdlr").and_then(|body| body.get(8..12)).unwrap_or(b"????");
        match handler {
            b"vide" => {
                video = Some((track, media));
                break;
            }
            b"soun" => handlers.push("sound".to_owned()),
            other => handlers.push(format!("`{}`", other.escape_ascii())),
        }
    }
    let Some((track, media)) = video else {
        let found = match handlers.as_slice() {
            [] => "no track at all".to_owned(),
            list => format!("{} only", list.join(", ")),
        };
        return Err(VideoError::NoVideoTrack { path: path.to_owned(), found });
    };
    let track_id = find(track, b"tkhd").and_then(track_id).ok_or_else(|| missing("tkhd (track header)"))?;
    let time_scale = find(media, b"mdhd").and_then(time_scale).ok_or_else(|| missing("mdhd (media header)"))?;
    if time_scale == 0 {
        return Err(damaged(path)("mdhd (units of time per second)", "at least 1", 0));
    }
    let table =
        find(media, b"minf").and_then(|body| find(body, b"stbl")).ok_or_else(|| missing("stbl (sample table)"))?;
    let description = find(table, b"stsd").ok_or_else(|| missing("stsd (sample description)"))?;
    let mut index = description_of(description, path)?;
    index.time_scale = time_scale;
    index.samples = samples_of_table(table, path)?;
    let defaults = find(movie, b"mvex").map_or(FragmentDefaults::default(), |body| {
        find_all(body, b"trex").find_map(|body| fragment_defaults(body, track_id)).unwrap_or_default()
    });
    for (offset, fragment) in fragments {
        add_fragment(&mut index.samples, fragment, *offset, track_id, defaults, path)?;
    }
    let first = index.samples.iter().map(|sample| sample.shown_at).min().unwrap_or(0);
    for sample in &mut index.samples {
        sample.shown_at = sample.shown_at.saturating_sub(first);
    }
    if index.samples.is_empty() {
        return Err(VideoError::NoVideoTrack {
            path: path.to_owned(),
            found: "a video track without frames".to_owned(),
        });
    }
    Ok(index)
}

fn track_id(body: &[u8]) -> Option<u32> {
    let mut numbers = Numbers(body);
    let (version, _) = numbers.version_and_flags()?;
    numbers.take(if version == 1 { 16 } else { 8 })?;
    numbers.u32()
}

fn time_scale(body: &[u8]) -> Option<u32> {
    // The same layout up to here: creation and modification time, then the number.
    track_id(body)
}

/// Codec, size and parameter sets.
fn description_of(body: &[u8], path: &Path) -> Result<Index, VideoError> {
    let cut = || damaged(path)("stsd (sample description)", "an H.264 entry", "a cut one");
    let unsupported = |codec: String| VideoError::UnsupportedCodec { path: path.to_owned(), codec };
    let (codec, entry) = boxes(body.get(8..).unwrap_or_default()).next().ok_or_else(cut)?;
    match &codec {
        b"avc1" | b"avc3" => {}
        other => return Err(unsupported(codec_name(*other))),
    }
    let mut numbers = Numbers(entry);
    let mut fields = || {
        numbers.take(24)?;
        let width = numbers.u16()?;
        let height = numbers.u16()?;
        numbers.take(50)?;
        Some((width, height))
    };
    let (width, height) = fields().ok_or_else(cut)?;
    let children = numbers.0;
    let config = find(children, b"avcC").ok_or_else(cut)?;
    let (length_bytes, parameter_sets) = decoder_config(config).ok_or_else(cut)?;
    let color = find(children, b"colr").and_then(color_box);
    Ok(Index { samples: Vec::new(), time_scale: 0, width, height, length_bytes, parameter_sets, color })
}

/// "AVCDecoderConfigurationRecord" (ISO/IEC 14496-15 §5.3.3.1).
fn decoder_config(body: &[u8]) -> Option<(usize, Vec<Vec<u8>>)> {
    let mut numbers = Numbers(body);
    numbers.take(4)?;
    let length_bytes = usize::from(numbers.u8()? & 3) + 1;
    let mut sets = Vec::new();
    for mask in [0x1f, 0xff] {
        for _ in 0..numbers.u8()? & mask {
            let size = numbers.u16()?;
            sets.push(numbers.take(size.into())?.to_vec());
        }
    }
    Some((length_bytes, sets))
}

fn color_box(body: &[u8]) -> Option<ColorDescription> {
    let mut numbers = Numbers(body);
    match &numbers.bytes::<4>()? {
        b"nclx" | b"nclc" => {
            let (_, _, matrix) = (numbers.u16()?, numbers.u16()?, numbers.u16()?);
            // nclc (QuickTime) has no range byte.
            let full_range = numbers.u8().is_some_and(|byte| byte & 0x80 != 0);
            Some(ColorDescription { matrix: u8::try_from(matrix).ok(), full_range })
        }
        _ => None,
    }
}

fn codec_name(codec: [u8; 4]) -> String {
    let name = match &codec {
        b"hvc1" | b"hev1" | b"dvh1" | b"dvhe" => "H.265 (HEVC)",
        b"av01" => "AV1",
        b"vp08" => "VP8",
        b"vp09" => "VP9",
        b"vvc1" | b"vvi1" => "H.266 (VVC)",
        b"mp4v" => "MPEG-4 Part 2 or MPEG-2",
        b"jpeg" | b"mjpa" | b"mjpb" | b"MJPG" => "Motion JPEG",
        b"apcn" | b"apch" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "ProRes",
        b"encv" => "encrypted video",
        b"s263" | b"h263" => "H.263",
        b"svc1" | b"mvc1" | b"mvc2" => "scalable or multi-view H.264",
        _ => "another codec",
    };
    format!("{name} (`{}`)", codec.escape_ascii())
}

/// A table of entries after a count; checked that the bytes are there.
fn table_entries<'a>(
    body: Option<&'a [u8]>,
    entry_bytes: usize,
    what: &'static str,
    path: &Path,
) -> Result<impl Iterator<Item = Numbers<'a>>, VideoError> {
    let cut = |got: usize| damaged(path)(what, "a table as long as it says", format!("a cut one of {got} bytes"));
    let body = body.ok_or_else(|| cut(0))?;
    let mut numbers = Numbers(body);
    let (_, count) = numbers.version_and_flags().zip(numbers.u32()).ok_or_else(|| cut(body.len()))?;
    let total = (count as usize).checked_mul(entry_bytes).ok_or_else(|| cut(body.len()))?;
    let entries = numbers.take(total).ok_or_else(|| cut(body.len()))?;
    Ok(entries.chunks_exact(entry_bytes).map(Numbers))
}

/// The values of a table of (count, value) entries, each as often as its count says.
fn expand<'a>(entries: impl Iterator<Item = Numbers<'a>>) -> impl Iterator<Item = u32> {
    entries.flat_map(|mut entry| {
        let (count, value) = (entry.u32().unwrap_or(0), entry.u32().unwrap_or(0));
        std::iter::repeat_n(value, count as usize)
    })
}

fn samples_of_table(table: &[u8], path: &Path) -> Result<Vec<Sample>, VideoError> {
    let sizes = sample_sizes(table, path)?;
    let mut samples = Vec::with_capacity(sizes.len());
    if sizes.is_empty() {
        // Fragmented files have empty tables here; their frames follow in the fragments.
        return Ok(samples);
    }
    let offsets: Vec<u64> = match find(table, b"stco") {
        Some(body) => table_entries(Some(body), 4, "stco (chunk offsets)", path)?
            .map(|mut entry| entry.u32().unwrap_or(0).into())
            .collect(),
        None => table_entries(find(table, b"co64"), 8, "co64 (chunk offsets)", path)?
            .map(|mut entry| entry.u64().unwrap_or(0))
            .collect(),
    };
    let mut chunk_runs = table_entries(find(table, b"stsc"), 12, "stsc (samples per chunk)", path)?
        .map(|mut entry| (entry.u32().unwrap_or(0), entry.u32().unwrap_or(0)))
        .peekable();
    let mut durations = expand(table_entries(find(table, b"stts"), 8, "stts (durations)", path)?);
    let mut shifts = match find(table, b"ctts") {
        Some(body) => Some(expand(table_entries(Some(body), 8, "ctts (shifts to the time shown)", path)?)),
        None => None,
    };
    let mut sizes = sizes.into_iter();
    let mut decoded_at = 0i64;
    let mut duration = 0;
    let mut per_chunk = 0;
    'chunks: for (chunk, start) in (1u32..).zip(&offsets) {
        while let Some((_, count)) = chunk_runs.next_if(|(first, _)| *first <= chunk) {
            per_chunk = count;
        }
        let mut offset = *start;
        for _ in 0..per_chunk {
            let Some(size) = sizes.next() else { break 'chunks };
            // Version 0 calls the shift unsigned, but files with negative shifts in it are common; both read alike.
            let shift = shifts.as_mut().and_then(Iterator::next).unwrap_or(0) as i32;
            samples.push(Sample { offset, size, shown_at: decoded_at.saturating_add(shift.into()) });
            offset = offset.saturating_add(size.into());
            // A table that is too short: the last duration goes on.
            duration = durations.next().unwrap_or(duration);
            decoded_at = decoded_at.saturating_add(duration.into());
        }
    }
    if sizes.len() > 0 {
        let expected = samples.len() + sizes.len();
        return Err(damaged(path)("stsc, stco (place of each frame)", expected, samples.len()));
    }
    Ok(samples)
}

/// The size of each frame, from stsz or its compact form stz2.
fn sample_sizes(table: &[u8], path: &Path) -> Result<Vec<u32>, VideoError> {
    let read = || {
        if let Some(body) = find(table, b"stsz") {
            let mut numbers = Numbers(body);
            numbers.version_and_flags()?;
            let (same, count) = (numbers.u32()?, numbers.u32()? as usize);
            if count > MAX_SAMPLES {
                return None;
            }
            if same != 0 {
                return Some(vec![same; count]);
            }
            let entries = numbers.take(count.checked_mul(4)?)?;
            Some(entries.chunks_exact(4).filter_map(|entry| Numbers(entry).u32()).collect())
        } else {
            let mut numbers = Numbers(find(table, b"stz2")?);
            numbers.version_and_flags()?;
            let bits = numbers.u32()? & 0xff;
            let count = numbers.u32()? as usize;
            match bits {
                8 => Some(numbers.take(count)?.iter().map(|byte| u32::from(*byte)).collect()),
                16 => {
                    let entries = numbers.take(count.checked_mul(2)?)?;
                    Some(entries.chunks_exact(2).filter_map(|entry| Numbers(entry).u16().map(u32::from)).collect())
                }
                _ => None,
            }
        }
    };
    read().ok_or_else(|| {
        damaged(path)(
            "stsz (frame sizes)",
            format!("a whole table of at most {MAX_SAMPLES} frames"),
            "a cut, missing or larger one",
        )
    })
}

/// What a fragment leaves out ("trex").
#[derive(Clone, Copy, Default)]
struct FragmentDefaults {
    duration: u32,
    size: u32,
}

fn fragment_defaults(body: &[u8], track_id: u32) -> Option<FragmentDefaults> {
    let mut numbers = Numbers(body);
    numbers.version_and_flags()?;
    let (id, _description) = (numbers.u32()?, numbers.u32()?);
    let defaults = FragmentDefaults { duration: numbers.u32()?, size: numbers.u32()? };
    (id == track_id).then_some(defaults)
}

/// Adds the frames of one "moof" box that begins at `fragment_at`.
fn add_fragment(
    samples: &mut Vec<Sample>,
    fragment: &[u8],
    fragment_at: u64,
    track_id: u32,
    defaults: FragmentDefaults,
    path: &Path,
) -> Result<(), VideoError> {
    for track in find_all(fragment, b"traf") {
        add_track_fragment(samples, track, fragment_at, track_id, defaults)
            .ok_or_else(|| damaged(path)("traf (track fragment)", "whole tables", "cut or too large ones"))?;
    }
    Ok(())
}

fn add_track_fragment(
    samples: &mut Vec<Sample>,
    track: &[u8],
    fragment_at: u64,
    track_id: u32,
    mut defaults: FragmentDefaults,
) -> Option<()> {
    let mut numbers = Numbers(find(track, b"tfhd")?);
    let (_, flags) = numbers.version_and_flags()?;
    if numbers.u32()? != track_id {
        return Some(());
    }
    let base = if flags & 0x01 != 0 { numbers.u64()? } else { fragment_at };
    if flags & 0x02 != 0 {
        numbers.u32()?;
    }
    if flags & 0x08 != 0 {
        defaults.duration = numbers.u32()?;
    }
    if flags & 0x10 != 0 {
        defaults.size = numbers.u32()?;
    }
    let mut decoded_at = match find(track, b"tfdt") {
        Some(body) => {
            let mut numbers = Numbers(body);
            match numbers.version_and_flags()? {
                (1, _) => i64::try_from(numbers.u64()?).ok()?,
                _ => numbers.u32()?.into(),
            }
        }
        None => samples.last().map_or(0, |sample| sample.shown_at),
    };
    let mut offset = base;
    for run in find_all(track, b"trun") {
        let mut numbers = Numbers(run);
        let (_, flags) = numbers.version_and_flags()?;
        let count = numbers.u32()? as usize;
        if samples.len().saturating_add(count) > MAX_SAMPLES {
            return None;
        }
        if flags & 0x01 != 0 {
            offset = base.checked_add_signed((numbers.u32()? as i32).into())?;
        }
        if flags & 0x04 != 0 {
            numbers.u32()?;
        }
        for _ in 0..count {
            let duration = if flags & 0x100 != 0 { numbers.u32()? } else { defaults.duration };
            let size = if flags & 0x200 != 0 { numbers.u32()? } else { defaults.size };
            if flags & 0x400 != 0 {
                numbers.u32()?;
            }
            let shift = if flags & 0x800 != 0 { numbers.u32()? as i32 } else { 0 };
            samples.push(Sample { offset, size, shown_at: decoded_at.saturating_add(shift.into()) });
            offset = offset.saturating_add(size.into());
            decoded_at = decoded_at.saturating_add(duration.into());
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::PathBuf;

    fn files() -> Vec<PathBuf> {
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = crate_folder.join("../..");
        let mut files = vec![root.join("assets/clips/highway.mp4"), crate_folder.join("tests/fixtures/fragmented.mp4")];
        files.extend(shared_data("clips/solidWhiteRight.mp4"));
        files
    }

    /// A file of the street data (`HSG_DATA`, relative to the workspace, else `../shared/data` beside it), or `None` with
    /// a printed line.
    fn shared_data(path: &str) -> Option<PathBuf> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = match std::env::var_os("HSG_DATA") {
            Some(folder) => {
                let folder = workspace.join(folder);
                assert!(folder.is_dir(), "HSG_DATA is {}, which is no folder", folder.display());
                folder
            }
            None => workspace.join("../shared/data"),
        };
        let found = folder.join(path);
        if found.exists() {
            return Some(found);
        }
        // Not `eprintln!`: the test harness keeps that of passing tests to itself.
        let _ = writeln!(io::stderr(), "skipped: {}: not there", found.display());
        None
    }

    /// Offsets, sizes and relative times of sound files are those of the crate re_mp4.
    #[test]
    fn index_equals_re_mp4() {
        for path in files() {
            let index = read_index(&mut File::open(&path).unwrap(), &path).unwrap();
            let (oracle, _) = re_mp4::Mp4::read_file(&path).unwrap();
            let track = oracle.tracks().values().find(|track| track.kind == Some(re_mp4::TrackKind::Video)).unwrap();
            let first = track.samples.iter().map(|sample| sample.composition_timestamp).min().unwrap();
            let expected: Vec<Sample> = track
                .samples
                .iter()
                .map(|sample| Sample {
                    offset: sample.offset,
                    size: sample.size as u32,
                    shown_at: sample.composition_timestamp - first,
                })
                .collect();
            assert_eq!(index.samples, expected, "{}", path.display());
            assert_eq!(u64::from(index.time_scale), track.timescale);
            assert_eq!((index.width, index.height), (track.width, track.height));
        }
    }
}
