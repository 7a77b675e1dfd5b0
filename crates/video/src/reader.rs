//! Coded frames to RGB.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource as _;
use segcore::image::{CaptureTime, Frame, ImageSize, PixelFormat};
use yuv::{YuvPlanarImage, YuvRange, YuvStandardMatrix};

use crate::VideoError;
use crate::mp4::{Index, read_index};
use crate::sps::{ColorDescription, SequenceParameters};

/// Longest side accepted, pixels: more than any level of H.264 allows.
const MAX_SIDE: usize = 16384;

/// What is known about a video before its first frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoInfo {
    /// Size of the frames, pixels.
    pub size: ImageSize,
    /// Mean rate, frames per second.
    pub fps: f64,
    /// Frames that the container promises; a file that was cut has fewer.
    pub frames_promised: u64,
}

/// How a video ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoEnd {
    /// Frames decoded.
    pub decoded: u64,
    /// Frames that the container promised; more than decoded when the file was cut or is damaged within.
    pub promised: u64,
}

/// Reads the frames of one MP4 file with H.264.
///
/// Memory: one coded frame, and at the end of the file the few frames that the decoder still held; the decoder's own
/// pictures are not counted. In steady state only the decoder allocates.
pub(crate) struct Mp4Reader {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    index: Index,
    info: VideoInfo,
    decoder: Decoder,
    range: YuvRange,
    matrix: YuvStandardMatrix,
    next_sample: usize,
    /// Place of each sample in the order shown.
    places: Vec<u32>,
    /// Presentation time of each place.
    times: Vec<CaptureTime>,
    /// Places of the frames that the decoder has received and not given back: the next one shown is the smallest.
    waiting: BinaryHeap<Reverse<u32>>,
    coded: Vec<u8>,
    packet: Vec<u8>,
    flushed: Option<VecDeque<Frame>>,
    decoded: u64,
    first_problem: Option<String>,
}

/// What became of one coded frame.
enum Step {
    Shown,
    Waiting,
    Broken(String),
}

impl Mp4Reader {
    /// Opens a file and reads its index.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, is no MP4, lacks its index, has no video, or a codec that is not built in.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, VideoError> {
        let path = path.as_ref().to_owned();
        let io_error = |source| VideoError::Io { path: path.clone(), source };
        let mut file = File::open(&path).map_err(io_error)?;
        let file_bytes = file.metadata().map_err(io_error)?.len();
        let index = read_index(&mut file, &path)?;
        let mut size = ImageSize { width: index.width.into(), height: index.height.into() };
        let mut color = None;
        if let Some(parameters) = index.parameter_sets.iter().find_map(|set| SequenceParameters::parse(set)) {
            if let Some(codec) = unsupported(&parameters) {
                return Err(VideoError::UnsupportedCodec { path, codec });
            }
            size = ImageSize { width: parameters.width as usize, height: parameters.height as usize };
            color = parameters.color;
        }
        if size.is_empty() || size.width.max(size.height) > MAX_SIDE {
            return Err(VideoError::IndexDamaged {
                path,
                what: "frame size",
                expected: format!("1×1 to {MAX_SIDE}×{MAX_SIDE}"),
                got: size.to_string(),
            });
        }
        let (range, matrix) = conversion(color, index.color, size);
        // With the default the decoder is emptied after each frame, and streams with B-frames break after a few.
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let decoder = Decoder::with_api_config(OpenH264API::from_source(), config)
            .map_err(|error| VideoError::Decoder { path: path.clone(), reason: error.to_string() })?;
        let (places, times) = order_shown(&index);
        let info = VideoInfo { size, fps: rate(&index), frames_promised: index.samples.len() as u64 };
        Ok(Self {
            path,
            file,
            file_bytes,
            index,
            info,
            decoder,
            range,
            matrix,
            next_sample: 0,
            places,
            times,
            waiting: BinaryHeap::with_capacity(64),
            coded: Vec::new(),
            packet: Vec::new(),
            flushed: None,
            decoded: 0,
            first_problem: None,
        })
    }

    /// What is known about the video.
    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// Frames decoded so far.
    pub fn frames_decoded(&self) -> u64 {
        self.decoded
    }

    /// How the video ended: decoded and promised frames, whether equal or not. Meaningful after
    /// [`Mp4Reader::next_frame`] has returned `false`.
    pub fn end(&self) -> VideoEnd {
        VideoEnd { decoded: self.decoded, promised: self.info.frames_promised }
    }

    /// Why frames are missing, if some are: the first problem met.
    pub fn first_problem(&self) -> Option<&str> {
        self.first_problem.as_deref()
    }

    /// Fills `frame` with the next frame shown, RGB8, its memory reused; `false` at the end of the video.
    ///
    /// `frame.index` is the frame's place in the video (a frame that cannot be decoded leaves a gap),
    /// `frame.capture_time.monotonic_nanos` its presentation time from the first frame; UTC is unknown (0).
    ///
    /// Frames whose bytes are missing or damaged are passed over, together with those that depend on them;
    /// [`Mp4Reader::end`] counts them.
    ///
    /// # Errors
    /// When the file cannot be read, or at the end when not one frame could be decoded.
    pub fn next_frame(&mut self, frame: &mut Frame) -> Result<bool, VideoError> {
        while self.next_sample < self.index.samples.len() {
            let sample = self.next_sample;
            self.next_sample += 1;
            match self.decode_sample(sample, frame)? {
                Step::Shown => return Ok(true),
                Step::Waiting => {}
                Step::Broken(reason) => {
                    log::debug!("{}: frame {sample} in decoding order: {reason}", self.path.display());
                    self.first_problem.get_or_insert(reason);
                }
            }
        }
        if self.flushed.is_none() {
            self.flushed = Some(self.flush()?);
        }
        if let Some(last) = self.flushed.as_mut().and_then(VecDeque::pop_front) {
            // Handed over by value: the caller's buffer and this one have the same size.
            *frame = last;
            self.decoded += 1;
            return Ok(true);
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

    fn decode_sample(&mut self, sample: usize, frame: &mut Frame) -> Result<Step, VideoError> {
        let first = sample == 0;
        let place = self.places[sample];
        let sample = self.index.samples[sample];
        let end = sample.offset.saturating_add(sample.size.into());
        if end > self.file_bytes {
            return Ok(Step::Broken(format!(
                "its bytes end at {end}, the file at {}: the file was cut",
                self.file_bytes
            )));
        }
        self.coded.resize(sample.size as usize, 0);
        self.file
            .seek(SeekFrom::Start(sample.offset))
            .and_then(|_| self.file.read_exact(&mut self.coded))
            .map_err(|source| VideoError::Io { path: self.path.clone(), source })?;
        self.packet.clear();
        if first {
            for set in &self.index.parameter_sets {
                push_unit(&mut self.packet, set);
            }
        }
        if let Err(reason) = push_units(&mut self.packet, &self.coded, self.index.length_bytes) {
            return Ok(Step::Broken(reason));
        }
        self.waiting.push(Reverse(place));
        match self.decoder.decode(&self.packet) {
            Ok(Some(picture)) => {
                let shown = self.waiting.pop().map_or(place, |Reverse(place)| place);
                convert(&picture, self.range, self.matrix, frame)
                    .map_err(|reason| VideoError::Decoder { path: self.path.clone(), reason })?;
                stamp(frame, shown, &self.times);
                self.decoded += 1;
                Ok(Step::Shown)
            }
            Ok(None) => Ok(Step::Waiting),
            Err(error) => {
                self.waiting.retain(|Reverse(waiting)| *waiting != place);
                Ok(Step::Broken(error.to_string()))
            }
        }
    }

    /// The frames that the decoder still holds.
    fn flush(&mut self) -> Result<VecDeque<Frame>, VideoError> {
        let mut frames = VecDeque::new();
        let pictures = match self.decoder.flush_remaining() {
            Ok(pictures) => pictures,
            Err(error) => {
                self.first_problem.get_or_insert(error.to_string());
                return Ok(frames);
            }
        };
        for picture in pictures {
            let Some(Reverse(place)) = self.waiting.pop() else { break };
            let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
            convert(&picture, self.range, self.matrix, &mut frame)
                .map_err(|reason| VideoError::Decoder { path: self.path.clone(), reason })?;
            stamp(&mut frame, place, &self.times);
            frames.push_back(frame);
        }
        Ok(frames)
    }
}

/// Why the decoder cannot decode such a stream, if so.
fn unsupported(parameters: &SequenceParameters) -> Option<String> {
    let SequenceParameters { chroma_format, bit_depth: (luma, chroma), progressive, .. } = *parameters;
    let sampling = match chroma_format {
        0 => "4:0:0 (grey)",
        1 => "4:2:0",
        2 => "4:2:2",
        _ => "4:4:4",
    };
    if chroma_format != 1 || luma != 8 || chroma != 8 {
        Some(format!("H.264 in {sampling} with {} bit", luma.max(chroma)))
    } else if !progressive {
        Some("interlaced H.264".to_owned())
    } else {
        None
    }
}

/// Range and matrix: the stream's word first, then the container's, then what is customary for the size.
fn conversion(
    stream: Option<ColorDescription>,
    container: Option<ColorDescription>,
    size: ImageSize,
) -> (YuvRange, YuvStandardMatrix) {
    let full = stream.or(container).is_some_and(|color| color.full_range);
    let named = |color: Option<ColorDescription>| match color?.matrix? {
        1 => Some(YuvStandardMatrix::Bt709),
        4 => Some(YuvStandardMatrix::Fcc),
        5 | 6 => Some(YuvStandardMatrix::Bt601),
        7 => Some(YuvStandardMatrix::Smpte240),
        9 | 10 => Some(YuvStandardMatrix::Bt2020),
        _ => None,
    };
    let customary =
        if size.width >= 1280 || size.height >= 720 { YuvStandardMatrix::Bt709 } else { YuvStandardMatrix::Bt601 };
    let range = if full { YuvRange::Full } else { YuvRange::Limited };
    (range, named(stream).or_else(|| named(container)).unwrap_or(customary))
}

/// Place of each sample in the order shown (equal times keep the decoding order), and the time of each place.
fn order_shown(index: &Index) -> (Vec<u32>, Vec<CaptureTime>) {
    let mut order: Vec<u32> = (0..index.samples.len() as u32).collect();
    order.sort_by_key(|sample| index.samples[*sample as usize].shown_at);
    let mut places = vec![0; order.len()];
    let mut times = Vec::with_capacity(order.len());
    for (place, sample) in (0u32..).zip(order) {
        places[sample as usize] = place;
        let ticks = i128::from(index.samples[sample as usize].shown_at);
        let nanos = ticks * 1_000_000_000 / i128::from(index.time_scale.max(1));
        times.push(CaptureTime { monotonic_nanos: u64::try_from(nanos).unwrap_or(0), utc_nanos: 0 });
    }
    (places, times)
}

/// Mean rate, frames per second; 25 where the times say nothing.
fn rate(index: &Index) -> f64 {
    let last = index.samples.iter().map(|sample| sample.shown_at).max().unwrap_or(0);
    if last > 0 { (index.samples.len() - 1) as f64 * f64::from(index.time_scale) / last as f64 } else { 25.0 }
}

fn stamp(frame: &mut Frame, place: u32, times: &[CaptureTime]) {
    frame.index = place.into();
    frame.capture_time = times[place as usize];
}

/// Appends a unit with its start code.
fn push_unit(packet: &mut Vec<u8>, unit: &[u8]) {
    packet.extend_from_slice(&[0, 0, 0, 1]);
    packet.extend_from_slice(unit);
}

/// Appends the units of a coded frame: lengths before them (AVCC) become start codes (Annex B).
fn push_units(packet: &mut Vec<u8>, mut coded: &[u8], length_bytes: usize) -> Result<(), String> {
    while !coded.is_empty() {
        let Some((length, rest)) = coded.split_at_checked(length_bytes) else {
            return Err(format!("it ends within a length: expected {length_bytes} bytes, got {}", coded.len()));
        };
        let length = length.iter().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
        let Some((unit, after)) = rest.split_at_checked(length) else {
            return Err(format!("a unit in it has {length} bytes by its length, {} are left", rest.len()));
        };
        push_unit(packet, unit);
        coded = after;
    }
    Ok(())
}

/// A decoded picture to packed RGB8.
fn convert(
    picture: &DecodedYUV<'_>,
    range: YuvRange,
    matrix: YuvStandardMatrix,
    frame: &mut Frame,
) -> Result<(), String> {
    let (width, height) = picture.dimensions();
    let (y_stride, u_stride, v_stride) = picture.strides();
    let size = ImageSize { width, height };
    frame.reshape(size, PixelFormat::Rgb8);
    let number = |value: usize| u32::try_from(value).map_err(|_| format!("{value} pixels in a row"));
    let image = YuvPlanarImage {
        y_plane: picture.y(),
        y_stride: number(y_stride)?,
        u_plane: picture.u(),
        u_stride: number(u_stride)?,
        v_plane: picture.v(),
        v_stride: number(v_stride)?,
        width: number(width)?,
        height: number(height)?,
    };
    yuv::yuv420_to_rgb(&image, &mut frame.pixels, number(width * 3)?, range, matrix)
        .map_err(|error| format!("picture of {size}: {error:?}"))
}
