//! SOURCEs as frames that can be read again: files as they are, live ones recorded first.

use std::path::Path;

use models::files::sha256_hex;
use runtime::source::{self, SourceEvent, SourceKind, SourceSpec};
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::image_io::write_rgb8;
use serde::{Deserialize, Serialize};

use crate::error::{CalibrationError, Result};

/// Hexadecimal digits of a frame's content that its name ends in.
const DIGITS: usize = 12;
/// Seconds between two frames that are taken of a camera.
const CAMERA_SECONDS: f64 = 1.0;

/// File of a recording that is complete: a [`Recording`].
const COMPLETE: &str = "complete";

/// What a recording is of.
#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Recording {
    /// The source as typed.
    source: String,
    /// Frames that were wanted.
    frames: u64,
    /// Width and height of the network's input: a source that can choose its size gave frames for it.
    input: [usize; 2],
}

impl std::fmt::Display for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [width, height] = self.input;
        write!(f, "up to {} frames of `{}` for a network input of {width}×{height}", self.frames, self.source)
    }
}

/// A source that gives the same frames every time it is read.
#[derive(Clone, Debug)]
pub struct FrameSource {
    spec: SourceSpec,
    /// As typed.
    text: String,
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
        let text = text.to_owned();
        if matches!(spec.kind, SourceKind::Raw(..)) {
            // Opening takes standard input, which can be done once.
            let (name, promised) = ("stdin".to_owned(), None);
            return Ok(Self { spec, text, name, stride: 1, promised, is_sequence: false, is_live: true, input });
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
            text,
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
    /// logged and counted. `go_on` is asked before every frame and while a source is waited for.
    ///
    /// # Errors
    /// When the source cannot go on, [`CalibrationError::Stopped`] when `go_on` says `false`, and what `visit` returns.
    pub fn read(
        &self,
        most: u64,
        go_on: &dyn Fn() -> bool,
        mut visit: impl FnMut(&Frame) -> Result<bool>,
    ) -> Result<Read> {
        let mut opened = source::open_spec(&self.spec)?;
        opened.set_input_size(self.input)?;
        let mut frame = Frame::black(ImageSize::new(1, 1), PixelFormat::Rgb8);
        let mut read = Read::default();
        // Indices of a live source have gaps where frames were lost.
        let mut next = 0;
        while read.frames < most {
            if !go_on() {
                return Err(CalibrationError::Stopped);
            }
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

    /// Whether `folder` holds a complete recording of this source with up to `most` frames.
    ///
    /// # Errors
    /// [`CalibrationError::OtherRecording`] when it holds that of something else.
    pub fn is_recorded(&self, folder: &Path, most: u64) -> Result<bool> {
        let path = folder.join(COMPLETE);
        if !path.is_file() {
            return Ok(false);
        }
        let expected = self.recording(most);
        match serde_json::from_slice::<Recording>(&models::files::read_file(&path)?) {
            Ok(got) if got == expected => Ok(true),
            got => Err(CalibrationError::OtherRecording {
                folder: folder.to_owned(),
                expected: expected.to_string(),
                got: got.map_or_else(|_| "something that it does not name".to_owned(), |got| got.to_string()),
            }),
        }
    }

    fn recording(&self, most: u64) -> Recording {
        let input = [self.input.width, self.input.height];
        Recording { source: self.text.clone(), frames: most, input }
    }

    /// Writes frames of a live source as PNG into `folder` and becomes that folder; `step` is told every frame. A complete
    /// recording that lies there is taken instead.
    ///
    /// # Errors
    /// As [`FrameSource::is_recorded`]; when the source fails, or the folder cannot be written.
    pub fn record(&mut self, folder: &Path, most: u64, go_on: &dyn Fn() -> bool, mut step: impl FnMut()) -> Result<()> {
        if self.is_recorded(folder, most)? {
            let unread =
                if matches!(self.spec.kind, SourceKind::Raw(..)) { "; standard input is not read" } else { "" };
            log::warn!(
                "source `{}`: the recording of an earlier run, {}, is used{unread}; delete that folder to record anew",
                self.text,
                folder.display()
            );
        } else {
            // Half a recording would be another set of frames.
            if folder.exists() {
                std::fs::remove_dir_all(folder).map_err(|e| models::files::file_error("remove", folder, e))?;
            }
            std::fs::create_dir_all(folder).map_err(|e| models::files::file_error("create", folder, e))?;
            let mut count = 0;
            self.read(most, go_on, |frame| {
                write_rgb8(folder.join(format!("{count:06}.png")), frame.size, &frame.pixels)?;
                count += 1;
                step();
                Ok(true)
            })?;
            let described = serde_json::to_vec(&self.recording(most)).map_err(CalibrationError::other)?;
            models::files::write_atomically(&folder.join(COMPLETE), &described)?;
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
