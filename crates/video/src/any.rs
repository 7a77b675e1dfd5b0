//! A video file of any kind that is built in.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use segcore::image::Frame;
use segcore::image_io::expect_regular_file;

use crate::VideoError;
use crate::avi::AviReader;
use crate::reader::{Mp4Reader, VideoEnd, VideoInfo};

/// Reads the frames of one video file: MP4 with H.264 or AVI with Motion JPEG.
pub struct VideoReader(Kind);

enum Kind {
    // Boxed: the decoder's state is large.
    Mp4(Box<Mp4Reader>),
    Avi(AviReader),
}

impl VideoReader {
    /// Opens a file and finds its frames.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, is of another kind, lacks its index, has no video, or a codec that is not
    /// built in.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, VideoError> {
        let path = path.as_ref();
        let mut start = Vec::with_capacity(12);
        expect_regular_file(path)
            .and_then(|()| File::open(path))
            .and_then(|file| file.take(12).read_to_end(&mut start))
            .map_err(|source| VideoError::Io { path: path.to_owned(), source })?;
        let is_avi = start.starts_with(b"RIFF") && start.get(8..12) == Some(b"AVI ".as_slice());
        Ok(Self(if is_avi { Kind::Avi(AviReader::open(path)?) } else { Kind::Mp4(Box::new(Mp4Reader::open(path)?)) }))
    }

    /// What is known about the video.
    pub fn info(&self) -> &VideoInfo {
        match &self.0 {
            Kind::Mp4(reader) => reader.info(),
            Kind::Avi(reader) => reader.info(),
        }
    }

    /// Frames decoded so far.
    pub fn frames_decoded(&self) -> u64 {
        match &self.0 {
            Kind::Mp4(reader) => reader.frames_decoded(),
            Kind::Avi(reader) => reader.frames_decoded(),
        }
    }

    /// How the video ended: decoded and promised frames, whether equal or not. Meaningful after
    /// [`VideoReader::next_frame`] has returned `false`.
    pub fn end(&self) -> VideoEnd {
        match &self.0 {
            Kind::Mp4(reader) => reader.end(),
            Kind::Avi(reader) => reader.end(),
        }
    }

    /// Why frames are missing, if some are: the first problem met.
    pub fn first_problem(&self) -> Option<&str> {
        match &self.0 {
            Kind::Mp4(reader) => reader.first_problem(),
            Kind::Avi(reader) => reader.first_problem(),
        }
    }

    /// Fills `frame` with the next frame shown, RGB8, its memory reused; `false` at the end of the video.
    ///
    /// `frame.index` is the frame's place in the video (a frame that cannot be decoded leaves a gap),
    /// `frame.capture_time.monotonic_nanos` its presentation time from the first frame; UTC is unknown (0).
    ///
    /// Frames whose bytes are missing or damaged are passed over, together with those that depend on them;
    /// [`VideoReader::end`] counts them.
    ///
    /// # Errors
    /// When the file cannot be read, or at the end when not one frame could be decoded.
    pub fn next_frame(&mut self, frame: &mut Frame) -> Result<bool, VideoError> {
        match &mut self.0 {
            Kind::Mp4(reader) => reader.next_frame(frame),
            Kind::Avi(reader) => reader.next_frame(frame),
        }
    }
}
