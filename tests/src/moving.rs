//! A source in memory: a street that moves for ever, without a file, a decoder or an allocation per frame.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use runtime::pipeline::Progress;
use runtime::source::{Source, SourceError, SourceEvent, SourceInfo};
use segcore::image::{CaptureTime, Frame, ImageSize, PixelFormat};

use crate::pictures::{SIZE, street};

/// The source. Its pictures are drawn once and come round again, forwards and backwards, so that no step is a scene cut.
pub struct MovingStreet {
    info: SourceInfo,
    pictures: Vec<Vec<u8>>,
    given: u64,
    in_step: Option<Arc<Progress>>,
}

impl MovingStreet {
    /// Frames as fast as they are taken, or, of a live source, one every few milliseconds at most.
    pub fn new(is_live: bool) -> Self {
        let info = SourceInfo {
            size: Some(ImageSize::new(SIZE.0 as usize, SIZE.1 as usize)),
            rate_hz: Some(30.0),
            is_sequence: true,
            frames_promised: None,
            is_live,
        };
        let pictures = (0..16).chain((1..15).rev()).map(|index| street(index).into_raw()).collect();
        Self { info, pictures, given: 0, in_step: None }
    }

    /// Gives a frame only when the one before is through, so that no two stages work at the same time and no frame of a
    /// live source is dropped.
    #[must_use]
    pub fn in_step_with(mut self, progress: &Arc<Progress>) -> Self {
        self.in_step = Some(Arc::clone(progress));
        self
    }
}

impl Source for MovingStreet {
    fn name(&self) -> &str {
        "moving street"
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError> {
        let through = |progress: &Arc<Progress>| {
            progress.frames.load(Ordering::Relaxed) + progress.skipped.load(Ordering::Relaxed) >= self.given
        };
        if !self.in_step.as_ref().is_none_or(through) {
            std::thread::sleep(Duration::from_micros(50));
            return Ok(SourceEvent::Waiting);
        }
        if self.info.is_live && self.in_step.is_none() {
            std::thread::sleep(Duration::from_micros(500));
        }
        frame.reshape(ImageSize::new(SIZE.0 as usize, SIZE.1 as usize), PixelFormat::Rgb8);
        frame.pixels.copy_from_slice(&self.pictures[(self.given % self.pictures.len() as u64) as usize]);
        frame.index = self.given;
        let nanos = self.given * 33_000_000;
        frame.capture_time = CaptureTime { monotonic_nanos: nanos, utc_nanos: nanos };
        self.given += 1;
        Ok(SourceEvent::Frame)
    }
}
