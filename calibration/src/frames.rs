//! SOURCEs as frames that can be read again: files as they are, live ones recorded first.

use std::path::Path;

use models::files::sha256_hex;
use runtime::source::{self, SourceEvent, SourceKind, SourceSpec};
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::image_io::write_rgb8;

use crate::error::{CalibrationError, Result};

/// Hexadecimal digits of a frame's content that its name ends in.
const DIGITS: usize = 12;
/// Seconds between two frames that are taken of a camera.
const CAMERA_SECONDS: f64 = 1.0;

/// A source that gives the same frames every time it is read.
#[derive(Clone, Debug)]
pub struct FrameSource {
    spec: SourceSpec,
    /// Name of the source, without folder and extension.
    pub name: String,
    /// One frame in so many is taken.
    pub stride: u64,
    /// Frames that are taken, if the source promises a number.
    pub promised: Option<u64>,
    /// Whether its frames follow each other in time.
    pub is_sequence: bool,
    /// Whether frames come by themselves: a camera, standard input.
    pub is_live: bool,
    /// Input of the network, for sources that can choose their size.
    input: ImageSize,
}

/// What came of reading a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Frames visited.
    pub frames: u64,
    /// Inputs that could not be read, frames that a container promised and did not have.
    pub skipped: u64,
}

impl FrameSource {
    /// Opens what was typed, to take at most `most` frames evenly over its length; of live sources the first.
    ///
    /// # Errors
    /// When it is no SOURCE or cannot be opened.
    pub fn open(text: &str, most: u64, input: ImageSize) -> Result<Self> {
        let spec = SourceSpec::parse(text)?;
        if matches!(spec.kind, SourceKind::Raw(..)) {
            // Opening takes standard input, which can be done once.
            let (name, promised) = ("stdin".to_owned(), None);
            return Ok(Self { spec, name, stride: 1, promised, is_sequence: false, is_live: true, input });
        }
        let opened = source::open_spec(&spec)?;
        let info = opened.info();
        let stride = match (info.frames_promised, info.rate_hz) {
            (Some(promised), _) => promised.div_ceil(most.max(1)).max(1),
            (None, Some(rate)) if info.is_live => (rate * CAMERA_SECONDS).round().max(1.0) as u64,
            (None, _) => 1,
        };
        Ok(Self {
            name: opened.name().to_owned(),
            stride,
            promised: info.frames_promised.map(|promised| promised.div_ceil(stride).min(most)),
            is_sequence: info.is_sequence,
            is_live: info.is_live,
            spec,
            input,
        })
    }

    /// Takes every frame, from the first on.
    #[must_use]
    pub fn every_frame(mut self, most: u64) -> Self {
        self.promised = self.promised.map(|promised| (promised * self.stride).min(most));
        self.stride = 1;
        self
    }

    /// Shows at most `most` frames to `visit`, one in [`FrameSource::stride`], until it says `false`. What cannot be read is
    /// logged and counted.
    ///
    /// # Errors
    /// When the source cannot go on, and what `visit` returns.
    pub fn read(&self, most: u64, mut visit: impl FnMut(&Frame) -> Result<bool>) -> Result<Read> {
        let mut opened = source::open_spec(&self.spec)?;
        opened.set_input_size(self.input)?;
        let mut frame = Frame::black(ImageSize::new(1, 1), PixelFormat::Rgb8);
        let mut read = Read::default();
        // Indices of a live source have gaps where frames were lost.
        let mut next = 0;
        while read.frames < most {
            match opened.next(&mut frame)? {
                SourceEvent::Frame if frame.index >= next => {
                    next = frame.index + self.stride;
                    read.frames += 1;
                    if !visit(&frame)? {
                        break;
                    }
                }
                SourceEvent::Skipped { reason, .. } => {
                    log::warn!("{reason}");
                    read.skipped += 1;
                }
                SourceEvent::Lost { reason } => return Err(CalibrationError::Lost { reason }),
                SourceEvent::End { promised_more, .. } => {
                    if let Some(promised) = promised_more {
                        log::warn!("source `{}` promised {promised} frames more than it has", self.name);
                        read.skipped += 1;
                    }
                    break;
                }
                _ => {}
            }
        }
        Ok(read)
    }

    /// Writes frames of a live source as PNG into `folder` and becomes that folder; `go_on` is asked after every frame.
    ///
    /// # Errors
    /// When the source fails, or the folder cannot be written.
    pub fn record(&mut self, folder: &Path, most: u64, mut go_on: impl FnMut() -> bool) -> Result<()> {
        let finished = folder.join("complete");
        if !finished.is_file() {
            // Half a recording would be another set of frames.
            if folder.exists() {
                std::fs::remove_dir_all(folder).map_err(|e| models::files::file_error("remove", folder, e))?;
            }
            std::fs::create_dir_all(folder).map_err(|e| models::files::file_error("create", folder, e))?;
            let mut count = 0;
            let mut stopped = false;
            self.read(most, |frame| {
                write_rgb8(folder.join(format!("{count:06}.png")), frame.size, &frame.pixels)?;
                count += 1;
                stopped = !go_on();
                Ok(!stopped)
            })?;
            if stopped {
                return Err(CalibrationError::Stopped);
            }
            models::files::write_atomically(&finished, b"")?;
        }
        let name = std::mem::take(&mut self.name);
        *self = Self { name, ..Self::open(&folder.display().to_string(), most, self.input)? };
        Ok(())
    }
}

/// A frame's name in a table: its source, its index and its content, so that a frame that two tables have seen is known, and
/// another one of the same place is not mistaken for it.
pub fn frame_name(source: &str, frame: &Frame) -> String {
    let hash = sha256_hex(&frame.pixels);
    format!("{source}/{:06}@{}", frame.index, hash.get(..DIGITS).unwrap_or(&hash))
}

/// The part of a frame's name that says what is in it.
pub fn content(name: &str) -> &str {
    name.rsplit_once('@').map_or(name, |(_, content)| content)
}
