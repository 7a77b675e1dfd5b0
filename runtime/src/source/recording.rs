//! Image messages of an MCAP recording: bags of ROS 2, recordings of Foxglove.

use std::path::{Path, PathBuf};

use ::recording::{Event, Format, ImageMessage, Messages, Picture, Recording, RecordingError, decode};
use segcore::image::{CaptureTime, Frame, ImageSize, PixelFormat};
use segcore::image_io::{MAX_PIXELS, decode_jpeg_into, decode_rgb};
use segcore::yuv::YuvColors;

use super::pixels::{Delivery, PixelLayout, take};
use super::{Source, SourceError, SourceEvent, SourceInfo, TRACKED_RATE_HZ};

/// Longest side accepted, pixels.
const MAX_SIDE: u32 = 16384;
/// The encodings of raw images that are read.
const RAW_ENCODINGS: &str = "raw images in rgb8, bgr8, rgba8, bgra8, mono8, yuv422 (uyvy), yuv422_yuy2 (yuyv) or nv12";
/// The files in messages that are read.
const CODED_FORMATS: &str = "compressed images in JPEG or PNG";

/// The images of one topic.
pub struct RecordingFile {
    name: String,
    info: SourceInfo,
    path: PathBuf,
    topic: String,
    messages: Messages,
    delivery: Delivery,
    /// A picture without its alpha channel, until it is taken.
    packed: Vec<u8>,
    first_nanos: Option<u64>,
    /// Messages seen: the index of the next one.
    seen: u64,
    delivered: u64,
    skipped: u64,
    fault_told: bool,
}

/// Why a message gives no picture.
enum Fault {
    /// Nobody here reads such pictures.
    Unsupported { expected: &'static str, found: String },
    /// This one is cut or damaged.
    Damaged(String),
}

impl RecordingFile {
    /// Opens a recording. `topic` may be left out where only one has images; `rate_hz` replaces the mean rate of the messages,
    /// which decides whether they are tracked. Capture times stay those of the recording.
    ///
    /// # Errors
    /// When the file cannot be read or has no such topic, or the images of its first message are stored in a way that is not read.
    pub fn open(path: &Path, topic: Option<&str>, rate_hz: Option<f64>) -> Result<Self, SourceError> {
        let recording = Recording::open(path)?;
        if recording.fault().is_some() {
            log::warn!("{}: the recording has no whole index, so it was read once to find its topics", path.display());
        }
        let topic = recording.image_topic(topic)?.clone();
        let rate_hz = rate_hz.or_else(|| topic.rate_hz());
        if let (None, Some((first, last)), 2..) = (rate_hz, topic.times, topic.messages) {
            log::warn!(
                "{}: {}: expected 0.01 messages a second at least, got {} in {} s (the clock may have been set while it was \
                 recorded): their rate is not known, and they are not tracked; add it, for example ?rate=10",
                path.display(),
                topic.name.escape_debug(),
                topic.messages,
                last.saturating_sub(first) / 1_000_000_000,
            );
        }
        let mut source = Self {
            name: super::folder::name_of(path),
            info: SourceInfo {
                size: None,
                rate_hz,
                is_sequence: rate_hz.is_some_and(|rate| rate >= TRACKED_RATE_HZ),
                frames_promised: Some(topic.messages),
                is_live: false,
            },
            path: path.to_owned(),
            topic: topic.name.clone(),
            messages: recording.messages(&topic),
            delivery: Delivery::Rgb,
            packed: Vec::new(),
            first_nanos: None,
            seen: 0,
            delivered: 0,
            skipped: 0,
            fault_told: false,
        };
        source.look_at_first()?;
        Ok(source)
    }

    /// Looks at the first message: how large its image is, and whether such images are read at all.
    fn look_at_first(&mut self) -> Result<(), SourceError> {
        let Event::Message { format: Some(format), data, .. } = self.messages.advance()? else {
            // Counted when its turn comes.
            self.messages.again();
            return Ok(());
        };
        let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
        match picture(format, data, Delivery::Rgb, &mut self.packed, &mut frame) {
            Ok(_) => self.info.size = Some(frame.size),
            Err(Fault::Unsupported { expected, found }) => {
                let (path, topic) = (self.path.clone(), self.topic.clone());
                return Err(RecordingError::UnsupportedImage { path, topic, expected, found }.into());
            }
            Err(Fault::Damaged(_)) => {}
        }
        self.messages.again();
        Ok(())
    }

    fn skip(&mut self, reason: &str) -> SourceEvent {
        let index = self.seen;
        self.seen += 1;
        self.skipped += 1;
        let reason = format!("{}: {}: message {index}: {reason}", self.path.display(), self.topic);
        SourceEvent::Skipped { index, path: self.path.clone(), reason }
    }

    fn end(&mut self, fault: Option<String>) -> SourceEvent {
        let promised = self.info.frames_promised.unwrap_or(0);
        // Those that were skipped are counted already. Where something is wrong with the file, at least one message is missing.
        let mut whole = promised.max(self.seen) - self.skipped;
        if let Some(fault) = fault {
            if !self.fault_told {
                log::warn!("{}: {fault}", self.path.display());
                self.fault_told = true;
            }
            if self.skipped == 0 {
                whole = whole.max(self.delivered + 1);
            }
        }
        let promised_more = (whole > self.delivered).then_some(whole);
        SourceEvent::End { delivered: self.delivered, promised_more }
    }
}

impl Source for RecordingFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn leave_pixels_as_they_are(&mut self) {
        self.delivery = Delivery::AsIs;
    }

    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError> {
        let (log_nanos, taken) = match self.messages.advance()? {
            Event::Message { log_nanos, format: Some(format), data } => {
                (log_nanos, picture(format, data, self.delivery, &mut self.packed, frame))
            }
            Event::Message { .. } => return Ok(self.skip("expected an image, got a message of another type")),
            Event::Damaged { reason } => return Ok(self.skip(&reason)),
            Event::End { fault } => return Ok(self.end(fault)),
        };
        match taken {
            Ok(stamp_nanos) => {
                let utc_nanos = if stamp_nanos > 0 { stamp_nanos } else { log_nanos };
                let first = *self.first_nanos.get_or_insert(utc_nanos);
                frame.index = self.seen;
                frame.capture_time = CaptureTime { monotonic_nanos: utc_nanos.saturating_sub(first), utc_nanos };
                self.seen += 1;
                self.delivered += 1;
                Ok(SourceEvent::Frame)
            }
            Err(Fault::Damaged(reason)) => Ok(self.skip(&reason)),
            Err(Fault::Unsupported { expected, found }) => Ok(self.skip(&format!("expected {expected}, got {found}"))),
        }
    }
}

/// Takes the picture of a message into `frame` and returns the time in the message's header, 0 without one.
fn picture(
    format: Format,
    data: &[u8],
    delivery: Delivery,
    packed: &mut Vec<u8>,
    frame: &mut Frame,
) -> Result<u64, Fault> {
    let ImageMessage { stamp_nanos, picture } = decode(format, data).map_err(Fault::Damaged)?;
    match picture {
        Picture::Coded { format, data } => coded(&format, &data, frame)?,
        Picture::Raw { width, height, encoding, step, data } => {
            if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
                return Err(Fault::Damaged(format!(
                    "expected an image of 1×1 to {MAX_SIDE}×{MAX_SIDE} pixels, got one of {width}×{height}"
                )));
            }
            let size = ImageSize::new(width as usize, height as usize);
            if size.num_pixels() > MAX_PIXELS {
                let why = format!("expected an image of {MAX_PIXELS} pixels at most, got one of {width}×{height}");
                return Err(Fault::Damaged(why));
            }
            raw(size, step as usize, &encoding, &data, delivery, packed, frame)?;
        }
    }
    Ok(stamp_nanos)
}

/// A file in a message: the content decides, because what senders call it differs.
fn coded(format: &str, data: &[u8], frame: &mut Frame) -> Result<(), Fault> {
    let is_depth = format.contains("compressedDepth");
    if !is_depth && data.starts_with(&[0xFF, 0xD8]) {
        return decode_jpeg_into(data, frame).map_err(|error| Fault::Damaged(error.to_string()));
    }
    if !is_depth && data.starts_with(b"\x89PNG") {
        let index_and_time = (frame.index, frame.capture_time);
        *frame = decode_rgb(Path::new("in the message"), data).map_err(|error| Fault::Damaged(error.to_string()))?;
        (frame.index, frame.capture_time) = index_and_time;
        return Ok(());
    }
    let found = format!("format `{}`", format.escape_debug());
    let remedy = match is_depth {
        true => "this is depth: name the topic of a colour camera in `?topic=`",
        false => "republish it as JPEG: ros2 run image_transport republish raw compressed",
    };
    let is_known = ["jpeg", "jpg", "png"].iter().any(|known| format.to_ascii_lowercase().contains(known));
    if is_known && !is_depth {
        return Err(Fault::Damaged(format!(
            "expected a JPEG or PNG, got {} bytes of something else in {found}",
            data.len()
        )));
    }
    Err(Fault::Unsupported { expected: CODED_FORMATS, found: format!("{found}; {remedy}") })
}

fn raw(
    size: ImageSize,
    step: usize,
    encoding: &str,
    data: &[u8],
    delivery: Delivery,
    packed: &mut Vec<u8>,
    frame: &mut Frame,
) -> Result<(), Fault> {
    let (layout, has_alpha) = match encoding {
        "rgb8" => (PixelLayout::Rgb24, false),
        "bgr8" => (PixelLayout::Bgr24, false),
        "rgba8" => (PixelLayout::Rgb24, true),
        "bgra8" => (PixelLayout::Bgr24, true),
        "mono8" => (PixelLayout::Gray8, false),
        "yuv422" | "uyvy" => (PixelLayout::Uyvy, false),
        "yuv422_yuy2" | "yuyv" => (PixelLayout::Yuyv, false),
        "nv12" => (PixelLayout::Nv12, false),
        other => {
            let remedy = if other.starts_with("bayer") {
                "debayer it with image_proc and record its image_color"
            } else if other.contains("C1") {
                "this is depth or the like: name the topic of a colour camera in `?topic=`"
            } else {
                "record or republish it as rgb8"
            };
            let found = format!("encoding `{}`; {remedy}", other.escape_debug());
            return Err(Fault::Unsupported { expected: RAW_ENCODINGS, found });
        }
    };
    if !has_alpha {
        return take(layout, size, step, YuvColors::default(), delivery, data, frame).map_err(Fault::Damaged);
    }
    let row_bytes = 4 * size.width;
    let expected = step.saturating_mul(size.height);
    if step < row_bytes || data.len() < expected {
        return Err(Fault::Damaged(format!(
            "expected {expected} bytes ({encoding}, {size}, {step} bytes per row, {row_bytes} at least), got {}; the picture is \
             cut",
            data.len()
        )));
    }
    packed.clear();
    for row in data[..expected].chunks_exact(step) {
        let (pixels, _) = row[..row_bytes].as_chunks::<4>();
        packed.extend(pixels.iter().flat_map(|[first, second, third, _]| [*first, *second, *third]));
    }
    take(layout, size, 3 * size.width, YuvColors::default(), delivery, packed, frame).map_err(Fault::Damaged)
}
