//! A video file.

use std::path::Path;

use segcore::image::Frame;
use video::VideoReader;

use super::{Source, SourceError, SourceEvent, SourceInfo};

/// The frames of a video file: MP4 with H.264, AVI with Motion JPEG.
pub struct VideoFile {
    name: String,
    info: SourceInfo,
    reader: VideoReader,
    at_end: bool,
}

impl VideoFile {
    /// Opens a video. `rate_hz` replaces the rate that the container states; capture times stay those of the container.
    ///
    /// # Errors
    /// As [`VideoReader::open`].
    pub fn open(path: &Path, rate_hz: Option<f64>) -> Result<Self, SourceError> {
        let reader = VideoReader::open(path)?;
        let known = reader.info();
        let info = SourceInfo {
            size: Some(known.size),
            rate_hz: Some(rate_hz.unwrap_or(known.fps)),
            is_sequence: true,
            frames_promised: Some(known.frames_promised),
            is_live: false,
        };
        Ok(Self { name: super::folder::name_of(path), info, reader, at_end: false })
    }
}

impl Source for VideoFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError> {
        if !self.at_end && self.reader.next_frame(frame)? {
            return Ok(SourceEvent::Frame);
        }
        let end = self.reader.end();
        if !self.at_end && end.decoded < end.promised {
            log::debug!("{}: {}", self.name, self.reader.first_problem().unwrap_or("frames are missing"));
        }
        self.at_end = true;
        let promised_more = (end.decoded < end.promised).then_some(end.promised);
        Ok(SourceEvent::End { delivered: end.decoded, promised_more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use segcore::image::{ImageSize, PixelFormat};

    #[test]
    fn cut_videos_promise_more() {
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/clips/highway.mp4");
        let folder = tempfile::tempdir().unwrap();
        let cut = folder.path().join("cut.mp4");
        let bytes = std::fs::read(clip).unwrap();
        std::fs::write(&cut, &bytes[..200_000]).unwrap();
        let mut source = VideoFile::open(&cut, None).unwrap();
        assert_eq!((source.name(), source.info().frames_promised), ("cut", Some(38)));
        let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
        let mut count = 0;
        let end = loop {
            match source.next(&mut frame).unwrap() {
                SourceEvent::Frame => count += 1,
                end => break end,
            }
        };
        assert!(count > 0 && count < 38);
        assert_eq!(end, SourceEvent::End { delivered: count, promised_more: Some(38) });
        assert_eq!(source.next(&mut frame).unwrap(), end);
    }

    #[test]
    fn rates_can_be_replaced() {
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/clips/highway.mp4");
        let source = VideoFile::open(&clip, Some(5.0)).unwrap();
        assert_eq!(source.info().rate_hz, Some(5.0));
        assert_eq!(source.info().size, Some(ImageSize::new(1280, 720)));
    }
}
