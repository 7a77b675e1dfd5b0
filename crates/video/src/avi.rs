//! Motion JPEG in AVI files (Microsoft, "AVI RIFF File Reference"; OpenDML's further RIFF segments too).
//!
//! The index at the end is not needed and not read: chunks are walked from header to header, so a file whose recording
//! never finished gives the frames it has.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use segcore::image::{CaptureTime, Frame, ImageSize};
use segcore::image_io::decode_jpeg_into;

use crate::VideoError;
use crate::reader::{VideoEnd, VideoInfo};

/// Most chunks looked at in one file.
const MAX_CHUNKS: usize = 1 << 24;
/// Largest header list read, bytes.
const MAX_HEADER_BYTES: u32 = 1 << 20;
/// Longest side accepted, pixels.
const MAX_SIDE: u32 = 16384;

/// Reads the frames of one AVI file.
pub(crate) struct AviReader {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    info: VideoInfo,
    /// Offset and bytes of each chunk of the stream; zero bytes = the frame before is shown again.
    chunks: Vec<(u64, u32)>,
    next: usize,
    coded: Vec<u8>,
    decoded: u64,
    first_problem: Option<String>,
}

/// What the headers say about the first video stream.
#[derive(Debug, Default, PartialEq)]
struct Headers {
    /// Number of the stream, once a video stream was seen.
    stream: Option<u8>,
    streams_seen: u8,
    handler: [u8; 4],
    compression: [u8; 4],
    size: (u32, u32),
    fps: f64,
    frames: u32,
}

impl AviReader {
    pub fn open(path: &Path) -> Result<Self, VideoError> {
        let io_error = |source| VideoError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io_error)?;
        let file_bytes = file.metadata().map_err(io_error)?.len();
        let mut headers = Headers::default();
        let mut chunks = Vec::new();
        walk(&mut file, file_bytes, &mut headers, &mut chunks).map_err(io_error)?;
        let damaged = |what, expected: &str, got: String| VideoError::IndexDamaged {
            path: path.to_owned(),
            what,
            expected: expected.to_owned(),
            got,
        };
        if headers.stream.is_none() {
            return Err(VideoError::NoVideoTrack {
                path: path.to_owned(),
                found: format!("an AVI file with {} other streams", headers.streams_seen),
            });
        }
        let known =
            |fourcc: &[u8; 4]| matches!(fourcc.to_ascii_uppercase().as_slice(), b"MJPG" | b"JPEG" | b"AVRN" | b"DMB1");
        if !known(&headers.compression) && !known(&headers.handler) {
            let codec = format!("`{}` in AVI", headers.compression.escape_ascii());
            return Err(VideoError::UnsupportedAviCodec { path: path.to_owned(), codec });
        }
        let (width, height) = headers.size;
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(damaged("frame size", "1×1 to 16384×16384", format!("{width}×{height}")));
        }
        let repeated = chunks.iter().filter(|(_, bytes)| *bytes == 0).count() as u64;
        let promised = u64::from(headers.frames).max(chunks.len() as u64).saturating_sub(repeated);
        let info = VideoInfo {
            size: ImageSize::new(width as usize, height as usize),
            fps: headers.fps,
            frames_promised: promised,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            file_bytes,
            info,
            chunks,
            next: 0,
            coded: Vec::new(),
            decoded: 0,
            first_problem: None,
        })
    }

    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    pub fn frames_decoded(&self) -> u64 {
        self.decoded
    }

    pub fn end(&self) -> VideoEnd {
        VideoEnd { decoded: self.decoded, promised: self.info.frames_promised }
    }

    pub fn first_problem(&self) -> Option<&str> {
        self.first_problem.as_deref()
    }

    pub fn next_frame(&mut self, frame: &mut Frame) -> Result<bool, VideoError> {
        while let Some(&(offset, bytes)) = self.chunks.get(self.next) {
            let place = self.next;
            self.next += 1;
            if bytes == 0 {
                continue;
            }
            match self.decode(offset, bytes, frame) {
                Ok(()) => {
                    frame.index = place as u64;
                    let nanos = place as f64 / self.info.fps * 1e9;
                    frame.capture_time = CaptureTime { monotonic_nanos: nanos.round() as u64, utc_nanos: 0 };
                    self.decoded += 1;
                    return Ok(true);
                }
                Err(reason) => {
                    log::debug!("{}: frame {place}: {reason}", self.path.display());
                    self.first_problem.get_or_insert(reason);
                }
            }
        }
        if self.decoded == 0 {
            return Err(VideoError::NothingDecoded {
                path: self.path.clone(),
                promised: self.info.frames_promised,
                reason: self.first_problem.clone().unwrap_or_else(|| "the stream has no picture".to_owned()),
            });
        }
        Ok(false)
    }

    fn decode(&mut self, offset: u64, bytes: u32, frame: &mut Frame) -> Result<(), String> {
        let end = offset + u64::from(bytes);
        if end > self.file_bytes {
            return Err(format!("its bytes end at {end}, the file at {}: the file was cut", self.file_bytes));
        }
        self.coded.resize(bytes as usize, 0);
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_exact(&mut self.coded))
            .map_err(|error| error.to_string())?;
        decode_jpeg_into(&self.coded, frame).map_err(|error| error.to_string())?;
        if frame.size != self.info.size {
            return Err(format!("expected a picture of {}, got one of {}", self.info.size, frame.size));
        }
        Ok(())
    }
}

/// Walks all chunks; what does not fit the file's end is taken as far as it is there.
fn walk(file: &mut File, file_bytes: u64, headers: &mut Headers, chunks: &mut Vec<(u64, u32)>) -> io::Result<()> {
    let mut at = 0u64;
    for _ in 0..MAX_CHUNKS {
        if file_bytes.saturating_sub(at) < 8 {
            return Ok(());
        }
        let mut header = [0; 12];
        let available = if file_bytes - at >= 12 { 12 } else { 8 };
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header[..available])?;
        let [k0, k1, k2, k3, s0, s1, s2, s3, l0, l1, l2, l3] = header;
        let (kind, list) = ([k0, k1, k2, k3], [l0, l1, l2, l3]);
        let bytes = u32::from_le_bytes([s0, s1, s2, s3]);
        match &kind {
            // Lists whose content is walked: sizes of unfinished ones are 0 or wrong, and are not needed.
            b"RIFF" => at += 12,
            b"LIST" if matches!(&list, b"movi" | b"rec ") => at += 12,
            b"LIST" if &list == b"hdrl" && bytes <= MAX_HEADER_BYTES => {
                let length = u64::from(bytes.saturating_sub(4)).min(file_bytes - at - 12);
                let mut body = vec![0; length as usize];
                file.read_exact(&mut body)?;
                if headers.stream.is_none() {
                    read_headers(&body, headers);
                }
                at += 8 + u64::from(bytes) + u64::from(bytes % 2);
            }
            _ => {
                // `00dc`: two digits of the stream, then the kind: db and dc are pictures.
                let stream = match kind {
                    [tens @ b'0'..=b'9', ones @ b'0'..=b'9', b'd', b'b' | b'c'] => {
                        Some((tens - b'0') * 10 + ones - b'0')
                    }
                    _ => None,
                };
                if stream.is_some() && stream == headers.stream {
                    chunks.push((at + 8, bytes));
                }
                at += 8 + u64::from(bytes) + u64::from(bytes % 2);
            }
        }
    }
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// The lists `strl` of the list `hdrl`: the first video stream.
fn read_headers(mut rest: &[u8], headers: &mut Headers) {
    while let (Some(kind), Some(bytes)) = (rest.get(..4), number(rest, 4)) {
        let end = (8 + bytes as usize).min(rest.len());
        let body = &rest[8..end];
        if kind == b"LIST" && body.starts_with(b"strl") && headers.stream.is_none() {
            read_stream(&body[4..], headers);
            headers.streams_seen = headers.streams_seen.saturating_add(1);
        }
        rest = rest.get(end + (bytes % 2) as usize..).unwrap_or(&[]);
    }
}

fn read_stream(mut rest: &[u8], headers: &mut Headers) {
    let mut is_video = false;
    while let (Some(kind), Some(bytes)) = (rest.get(..4), number(rest, 4)) {
        let end = (8 + bytes as usize).min(rest.len());
        let body = &rest[8..end];
        match kind {
            b"strh" => {
                is_video = body.starts_with(b"vids");
                if is_video {
                    headers.handler = body.get(4..8).and_then(|name| name.try_into().ok()).unwrap_or_default();
                    let (scale, rate) = (number(body, 20).unwrap_or(0), number(body, 24).unwrap_or(0));
                    let fps = f64::from(rate) / f64::from(scale);
                    headers.fps = if fps.is_finite() && (0.001..=100_000.0).contains(&fps) { fps } else { 25.0 };
                    headers.frames = number(body, 32).unwrap_or(0);
                }
            }
            b"strf" if is_video => {
                // Rows from the top have a negative height; JPEGs have an order of their own.
                let height = number(body, 8).unwrap_or(0).cast_signed().unsigned_abs();
                headers.size = (number(body, 4).unwrap_or(0), height);
                headers.compression = body.get(16..20).and_then(|name| name.try_into().ok()).unwrap_or_default();
                headers.stream = Some(headers.streams_seen);
            }
            _ => {}
        }
        rest = rest.get(end + (bytes % 2) as usize..).unwrap_or(&[]);
    }
}
