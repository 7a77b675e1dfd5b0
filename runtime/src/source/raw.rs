//! Raw frames on standard input: `raw:WIDTHxHEIGHT:FORMAT`.
//!
//! The other end of the pipe waits for us as it would for a file, so nothing is lost; `--realtime` drops what is late.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use segcore::image::{CaptureTime, Frame, ImageSize};
use segcore::yuv::YuvColors;

use super::pixels::{Delivery, PixelLayout, take};
use super::{Source, SourceError, SourceEvent, SourceInfo, TRACKED_RATE_HZ, WAITING};

/// Frames of one size and format, one after the other, without anything between them.
pub struct RawFrames {
    info: SourceInfo,
    layout: PixelLayout,
    size: ImageSize,
    delivery: Delivery,
    input: File,
    /// Bytes of the frame that is coming in.
    bytes: Vec<u8>,
    filled: usize,
    delivered: u64,
    at_end: bool,
}

impl RawFrames {
    /// Frames on standard input.
    ///
    /// # Errors
    /// When standard input is closed.
    pub fn stdin(layout: PixelLayout, size: ImageSize, rate_hz: Option<f64>) -> Result<Self, SourceError> {
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(|source| stdin_error(&source))?;
        Ok(Self::new(File::from(input), layout, size, rate_hz))
    }

    fn new(input: File, layout: PixelLayout, size: ImageSize, rate_hz: Option<f64>) -> Self {
        let stride = layout.row_bytes(size.width).unwrap_or(0);
        let info = SourceInfo {
            size: Some(size),
            rate_hz,
            // A pipe of frames is a video; only the user's word makes it something slower.
            is_sequence: rate_hz.is_none_or(|rate| rate >= TRACKED_RATE_HZ),
            frames_promised: None,
            is_live: false,
        };
        let bytes = vec![0; layout.picture_bytes(size, stride).unwrap_or(0)];
        Self { info, layout, size, delivery: Delivery::Rgb, input, bytes, filled: 0, delivered: 0, at_end: false }
    }
}

fn stdin_error(source: &io::Error) -> SourceError {
    SourceError::Camera {
        device: "stdin".to_owned(),
        reason: format!("cannot be read: {source}; pipe frames into hsg"),
    }
}

impl Source for RawFrames {
    fn name(&self) -> &str {
        "raw"
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn leave_pixels_as_they_are(&mut self) {
        self.delivery = Delivery::AsIs;
    }

    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError> {
        while !self.at_end && self.filled < self.bytes.len() {
            // A read that waits for the other end would not see a request to stop.
            let timeout = Timespec { tv_sec: 0, tv_nsec: WAITING.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.input, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(SourceEvent::Waiting),
                Ok(_) => {}
                Err(error) => return Err(stdin_error(&error.into())),
            }
            match self.input.read(&mut self.bytes[self.filled..]) {
                Ok(0) => self.at_end = true,
                Ok(count) => self.filled += count,
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(stdin_error(&error)),
            }
        }
        if self.at_end {
            // A frame that began and did not end was promised.
            let promised_more = (self.filled > 0).then_some(self.delivered + 1);
            return Ok(SourceEvent::End { delivered: self.delivered, promised_more });
        }
        self.filled = 0;
        let stride = self.layout.row_bytes(self.size.width).unwrap_or(0);
        take(self.layout, self.size, stride, YuvColors::default(), self.delivery, &self.bytes, frame)
            .map_err(|reason| SourceError::Camera { device: "stdin".to_owned(), reason })?;
        frame.index = self.delivered;
        let nanos = self.info.rate_hz.map_or(0.0, |rate| self.delivered as f64 / rate * 1e9);
        frame.capture_time = CaptureTime { monotonic_nanos: nanos.round() as u64, utc_nanos: 0 };
        self.delivered += 1;
        Ok(SourceEvent::Frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use segcore::image::PixelFormat;
    use std::io::Write as _;

    #[test]
    fn pixels_are_left_as_they_are_on_request() {
        for (as_is, format) in [(false, PixelFormat::Rgb8), (true, PixelFormat::Yuyv8(YuvColors::default()))] {
            let (reader, mut writer) = io::pipe().unwrap();
            let input = File::from(std::os::fd::OwnedFd::from(reader));
            let mut source = RawFrames::new(input, PixelLayout::Yuyv, ImageSize::new(3, 1), None);
            if as_is {
                source.leave_pixels_as_they_are();
            }
            let bytes = [235, 128, 16, 128, 126, 128, 7, 128];
            let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
            let mut memory = None;
            for _ in 0..3 {
                writer.write_all(&bytes).unwrap();
                assert_eq!(source.next(&mut frame).unwrap(), SourceEvent::Frame);
                assert_eq!(frame.format, format);
                assert_eq!(frame.pixels, if as_is { &bytes[..] } else { &[255, 255, 255, 0, 0, 0, 128, 128, 128] });
                // The frame's memory is kept.
                assert_eq!(*memory.get_or_insert(frame.pixels.as_ptr()), frame.pixels.as_ptr());
            }
        }
    }

    #[test]
    fn frames_come_in_pieces_and_the_last_may_be_short() {
        let (reader, mut writer) = io::pipe().unwrap();
        let input = File::from(std::os::fd::OwnedFd::from(reader));
        let mut source = RawFrames::new(input, PixelLayout::Rgb24, ImageSize::new(2, 1), Some(10.0));
        let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
        assert_eq!(source.next(&mut frame).unwrap(), SourceEvent::Waiting);
        writer.write_all(&[1, 2, 3, 4]).unwrap();
        assert_eq!(source.next(&mut frame).unwrap(), SourceEvent::Waiting);
        writer.write_all(&[5, 6, 7, 8, 9, 10, 11, 12, 13]).unwrap();
        drop(writer);
        for index in 0..2u8 {
            assert_eq!(source.next(&mut frame).unwrap(), SourceEvent::Frame);
            assert_eq!(frame.index, u64::from(index));
            assert_eq!(frame.pixels, [1, 2, 3, 4, 5, 6].map(|value| value + 6 * index));
        }
        assert_eq!(frame.capture_time.monotonic_nanos, 100_000_000);
        for _ in 0..2 {
            let end = SourceEvent::End { delivered: 2, promised_more: Some(3) };
            assert_eq!(source.next(&mut frame).unwrap(), end);
        }
    }
}
