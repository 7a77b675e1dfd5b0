//! `video.avi`: Motion JPEG in an AVI container (Microsoft, "AVI RIFF File Reference"; OpenDML is not used).

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use segcore::image::ImageSize;

use super::SinkError;
use super::folder::temporary_name;

/// A file is closed before it grows beyond this and the next one begun: players differ above 1 GB without OpenDML.
const MAX_FILE_BYTES: u64 = 1_000_000_000;
/// Bytes before the first frame's chunk: RIFF header 12, LIST hdrl 12 + 64 + (LIST strl 12 + 64 + 48), LIST movi 12.
const MOVIE_START: u64 = 224;
/// Where the list `movi` counts its offsets from: its type word.
const MOVIE_BASE: u64 = MOVIE_START - 4;
/// Bytes of an index entry.
const ENTRY_BYTES: u64 = 16;
/// Bytes of a chunk's header.
const CHUNK_BYTES: u64 = 8;
/// AVIF_HASINDEX: the index at the end is to be used.
const HAS_INDEX: u32 = 0x10;
/// AVIIF_KEYFRAME: the frame needs no other.
const KEY_FRAME: u32 = 0x10;
/// Bytes that closing a file adds to its frames, index entries not counted.
pub(super) const FIXED_BYTES: u64 = MOVIE_START + CHUNK_BYTES;
/// Bytes that each frame takes besides its JPEG: chunk header, padding, index entry.
pub(super) const FRAME_BYTES: u64 = CHUNK_BYTES + 1 + ENTRY_BYTES;

/// Writes `video.avi`, and `video-2.avi` and so on where one file would be too long or the panel changes its size. Each
/// has a temporary name until it is closed.
#[derive(Debug)]
pub(super) struct VideoFiles {
    folder: PathBuf,
    rate_hz: f64,
    number: u32,
    open: Option<AviFile>,
    max_file_bytes: u64,
}

impl VideoFiles {
    /// Videos of `rate_hz` frames per second in `folder`.
    pub fn new(folder: &Path, rate_hz: f64) -> Self {
        Self { folder: folder.to_owned(), rate_hz, number: 0, open: None, max_file_bytes: MAX_FILE_BYTES }
    }

    /// Appends a frame: a whole JPEG file of `size`.
    pub fn append(&mut self, size: ImageSize, jpeg: &[u8]) -> Result<(), SinkError> {
        let fits = |file: &AviFile| file.size == size && file.closed_bytes_with(jpeg) <= self.max_file_bytes;
        if !self.open.as_ref().is_some_and(fits) {
            self.finish()?;
            let number = self.number + 1;
            let name = if number == 1 { "video.avi".to_owned() } else { format!("video-{number}.avi") };
            self.open = Some(AviFile::create(&self.folder.join(name), size, self.rate_hz)?);
            // Not before: tried again after an error, the name is still free.
            self.number = number;
        }
        match &mut self.open {
            Some(file) => file.append(jpeg),
            None => Ok(()),
        }
    }

    /// Closes the last file. Further calls do nothing.
    pub fn finish(&mut self) -> Result<(), SinkError> {
        self.open.take().map_or(Ok(()), AviFile::finish)
    }
}

#[derive(Debug)]
struct AviFile {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    size: ImageSize,
    rate_hz: f64,
    /// Offset of each chunk from [`MOVIE_BASE`], and its bytes.
    index: Vec<(u32, u32)>,
    /// Where the next chunk begins.
    end: u64,
}

impl AviFile {
    fn create(path: &Path, size: ImageSize, rate_hz: f64) -> Result<Self, SinkError> {
        let temporary = temporary_name(path);
        let file = File::create(&temporary).map_err(|source| SinkError::Write { path: path.to_owned(), source })?;
        let mut avi =
            Self { path: path.to_owned(), temporary, file, size, rate_hz, index: Vec::new(), end: MOVIE_START };
        // Sizes are filled in when the file is closed.
        let header = avi.header();
        match avi.file.write_all(&header) {
            Ok(()) => Ok(avi),
            Err(source) => Err(avi.abandon(source)),
        }
    }

    fn closed_bytes_with(&self, jpeg: &[u8]) -> u64 {
        self.end + jpeg.len() as u64 + FRAME_BYTES + CHUNK_BYTES + ENTRY_BYTES * self.index.len() as u64
    }

    fn append(&mut self, jpeg: &[u8]) -> Result<(), SinkError> {
        let padding = &[0][..jpeg.len() % 2];
        // Both fit: a file is closed before MAX_FILE_BYTES, and a single JPEG is far smaller.
        let (offset, length) = ((self.end - MOVIE_BASE) as u32, jpeg.len() as u32);
        let mut header = *b"00dc\0\0\0\0";
        header[4..].copy_from_slice(&length.to_le_bytes());
        let written = self
            .file
            .write_all(&header)
            .and_then(|()| self.file.write_all(jpeg))
            .and_then(|()| self.file.write_all(padding));
        if let Err(source) = written {
            // Back to the last whole frame, so that closing makes a sound file of what is there.
            let _ = self.cut();
            return Err(SinkError::Write { path: self.path.clone(), source });
        }
        self.index.push((offset, length));
        self.end += CHUNK_BYTES + (jpeg.len() + padding.len()) as u64;
        Ok(())
    }

    /// Removes what is behind the last whole frame.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.seek(SeekFrom::Start(self.end)).map(|_| ())
    }

    /// Writes index and sizes and gives the file its name.
    fn finish(mut self) -> Result<(), SinkError> {
        loop {
            match self.close() {
                Ok(()) => break,
                // No room for the index: give up frames until it fits; their bytes are far more than the index.
                Err(error) if is_full(&error) && !self.index.is_empty() => {
                    for _ in 0..self.index.len().div_ceil(16) {
                        if let Some((offset, _)) = self.index.pop() {
                            self.end = MOVIE_BASE + u64::from(offset);
                        }
                    }
                    if let Err(error) = self.cut() {
                        return Err(self.abandon(error));
                    }
                }
                Err(error) => return Err(self.abandon(error)),
            }
        }
        fs::rename(&self.temporary, &self.path).map_err(|source| self.abandon(source))
    }

    fn close(&mut self) -> io::Result<()> {
        let mut tail = Vec::with_capacity((CHUNK_BYTES + ENTRY_BYTES * self.index.len() as u64) as usize);
        tail.extend_from_slice(b"idx1");
        put(&mut tail, (ENTRY_BYTES * self.index.len() as u64) as u32);
        for (offset, length) in &self.index {
            tail.extend_from_slice(b"00dc");
            put(&mut tail, KEY_FRAME);
            put(&mut tail, *offset);
            put(&mut tail, *length);
        }
        self.cut()?;
        self.file.write_all(&tail)?;
        let header = self.header();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)
    }

    /// Removes the file after an error.
    fn abandon(&self, source: io::Error) -> SinkError {
        let _ = fs::remove_file(&self.temporary);
        SinkError::Write { path: self.path.clone(), source }
    }

    /// Everything before the first frame.
    fn header(&self) -> Vec<u8> {
        const RATE_SCALE: u32 = 1000;
        let frames = self.index.len() as u32;
        let largest = self.index.iter().map(|(_, length)| *length).max().unwrap_or(0);
        let rate = (self.rate_hz * f64::from(RATE_SCALE)).round().clamp(1.0, 1e9) as u32;
        let (width, height) = (self.size.width as u32, self.size.height as u32);
        let index_bytes = ENTRY_BYTES * u64::from(frames) + CHUNK_BYTES;
        let mut out = Vec::with_capacity(MOVIE_START as usize);
        out.extend_from_slice(b"RIFF");
        put(&mut out, (self.end + index_bytes - CHUNK_BYTES) as u32);
        out.extend_from_slice(b"AVI LIST");
        put(&mut out, 4 + 64 + 12 + 64 + 48);
        out.extend_from_slice(b"hdrlavih");
        // MainAVIHeader
        let bytes_per_second = (f64::from(largest) * self.rate_hz).min(f64::from(u32::MAX)) as u32;
        let micros_per_frame = (1e6 / self.rate_hz).round().clamp(1.0, f64::from(u32::MAX)) as u32;
        for value in
            [56, micros_per_frame, bytes_per_second, 0, HAS_INDEX, frames, 0, 1, largest, width, height, 0, 0, 0, 0]
        {
            put(&mut out, value);
        }
        out.extend_from_slice(b"LIST");
        put(&mut out, 4 + 64 + 48);
        out.extend_from_slice(b"strlstrh");
        put(&mut out, 56);
        // AVIStreamHeader; quality −1 = default.
        out.extend_from_slice(b"vidsMJPG");
        for value in [0, 0, 0, RATE_SCALE, rate, 0, frames, largest, u32::MAX, 0] {
            put(&mut out, value);
        }
        for value in [0, 0, width, height] {
            out.extend_from_slice(&(value as u16).to_le_bytes());
        }
        out.extend_from_slice(b"strf");
        // BITMAPINFOHEADER
        put(&mut out, 40);
        put(&mut out, 40);
        put(&mut out, width);
        put(&mut out, height);
        put(&mut out, 24 << 16 | 1);
        out.extend_from_slice(b"MJPG");
        for value in [width.saturating_mul(height).saturating_mul(3), 0, 0, 0, 0] {
            put(&mut out, value);
        }
        out.extend_from_slice(b"LIST");
        put(&mut out, (self.end - MOVIE_BASE) as u32);
        out.extend_from_slice(b"movi");
        debug_assert_eq!(out.len() as u64, MOVIE_START);
        out
    }
}

fn put(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A JPEG-like chunk of `length` bytes.
    fn jpeg(number: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![number; length];
        bytes[..2].copy_from_slice(&[0xff, 0xd8]);
        bytes
    }

    fn number(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// Parses a file the way a player does and gives its frames.
    fn frames(path: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(path).unwrap();
        assert_eq!((&bytes[..4], &bytes[8..12]), (&b"RIFF"[..], &b"AVI "[..]));
        assert_eq!(number(&bytes, 4) + 8, bytes.len());
        let (mut at, mut movie, mut index, mut count) = (12, None, None, 0);
        while at < bytes.len() {
            let size = number(&bytes, at + 4);
            let body = &bytes[at + 8..at + 8 + size];
            match (&bytes[at..at + 4], body.get(..4)) {
                (b"LIST", Some(b"hdrl")) => {
                    assert_eq!(&body[4..8], b"avih");
                    count = number(body, 12 + 16);
                    let stream = &body[12 + 56..];
                    assert_eq!((&stream[..4], &stream[8..16]), (&b"LIST"[..], &b"strlstrh"[..]));
                    assert_eq!(number(stream, 4) + 8, stream.len());
                    assert_eq!(number(stream, 20 + 32), count);
                    assert_eq!(&stream[20 + 56..20 + 60], b"strf");
                }
                (b"LIST", Some(b"movi")) => movie = Some(at + 8),
                (b"idx1", _) => index = Some(body.to_vec()),
                other => panic!("{other:?}"),
            }
            at += 8 + size + size % 2;
        }
        let (movie, index) = (movie.unwrap(), index.unwrap());
        assert_eq!(index.len(), count * 16);
        index
            .chunks_exact(16)
            .map(|entry| {
                let chunk = movie + number(entry, 8);
                assert_eq!(&bytes[chunk..chunk + 4], b"00dc");
                let size = number(entry, 12);
                assert_eq!(number(&bytes, chunk + 4), size);
                bytes[chunk + 8..chunk + 8 + size].to_vec()
            })
            .collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_parse_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut video = VideoFiles::new(folder.path(), 29.97);
        let all: Vec<Vec<u8>> = (0..5).map(|i| jpeg(i, 100 + i as usize * 3)).collect();
        for bytes in &all {
            video.append(ImageSize::new(64, 48), bytes).unwrap();
            assert_eq!(names(folder.path()), [".video.avi.partial"]);
        }
        video.finish().unwrap();
        video.finish().unwrap();
        assert_eq!(names(folder.path()), ["video.avi"]);
        assert_eq!(frames(&folder.path().join("video.avi")), all);
    }

    #[test]
    fn long_or_changed_videos_go_on_in_the_next_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut video = VideoFiles::new(folder.path(), 10.0);
        video.max_file_bytes = 1000;
        for i in 0..5 {
            video.append(ImageSize::new(64, 48), &jpeg(i, 300)).unwrap();
        }
        video.append(ImageSize::new(32, 48), &jpeg(9, 300)).unwrap();
        video.finish().unwrap();
        assert_eq!(names(folder.path()), ["video-2.avi", "video-3.avi", "video-4.avi", "video.avi"]);
        let counts: Vec<usize> = ["video.avi", "video-2.avi", "video-3.avi", "video-4.avi"]
            .map(|n| frames(&folder.path().join(n)).len())
            .to_vec();
        assert_eq!(counts, [2, 2, 1, 1]);
        assert!(names(folder.path()).iter().all(|n| fs::metadata(folder.path().join(n)).unwrap().len() <= 1000));
    }
}
