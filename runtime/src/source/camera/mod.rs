//! USB and other cameras through Video4Linux.
//!
//! What goes wrong, and what happens then (each provoked by `cargo xtask camera-test` on a real kernel):
//!
//! | fault | behaviour |
//! |---|---|
//! | the driver drops buffers | the gap in its sequence numbers is counted as dropped |
//! | a buffer with the error flag, a cut JPEG, a picture of another size | not shown, counted as skipped |
//! | no picture for a while (2 s, or 5 frame times) | the device is closed and opened again, until pictures come |
//! | an error of the stream | the same |
//! | unplugged | looked for every 0.1 to 0.5 s by its place on the bus, or by vendor, product and serial number |
//!
//! None of these ends the run or changes its exit code; a camera that came back is counted in `reconnects`. Only
//! opening the camera the first time can fail.

mod device;
mod negotiate;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use segcore::image::{CaptureTime, Frame, ImageSize};
use segcore::yuv::{YuvColors, YuvMatrix};
use v4l::buffer::{Flags, Metadata, Type};
use v4l::format::{Colorspace, Quantization};
use v4l::io::mmap::Stream as MappedStream;
use v4l::io::traits::{CaptureStream as _, Stream as _};
use v4l::video::Capture as _;
use v4l::video::capture::Parameters;
use v4l::{Device, Format, FourCC, Fraction};

pub use device::{Address, Listed, list};
use device::{Identity, guarded, open_reason};
pub use negotiate::Wish;
use negotiate::{Choice, choose, describe as modes_text};

use super::pixels::{Delivery, PixelLayout, take};
use super::{Source, SourceError, SourceEvent, SourceInfo, WAITING, monotonic_nanos};

/// Buffers that the driver fills in turn. One is with us, so it can be three frames ahead of us before it drops.
const NUM_BUFFERS: u32 = 4;
/// What the network is taken to see, until [`Source::set_input_size`] says it.
const USUAL_INPUT: ImageSize = ImageSize::new(1024, 512);
/// Without a picture for this long (or five frame times, if that is more) a camera counts as frozen.
const FROZEN: Duration = Duration::from_secs(2);
/// The first picture may take longer: lamps, exposure, firmware.
const FIRST_PICTURE: Duration = Duration::from_secs(5);
/// Shortest and longest pause between two attempts to open a lost camera: back at most 1 s after it is there.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// `POLLIN`.
const READABLE: i16 = rustix::event::PollFlags::IN.bits().cast_signed();
/// More frames than this are not missing between two pictures: the driver began to count again.
const MAX_GAP: u32 = 100_000;

/// A camera. Live: it never ends by itself.
pub struct Camera {
    name: String,
    info: SourceInfo,
    address: Address,
    wish: Wish,
    identity: Identity,
    node: PathBuf,
    choice: Choice,
    delivery: Delivery,
    state: State,
    /// Index of the next frame.
    index: u64,
    last_sequence: Option<u32>,
    last_nanos: u64,
    /// Frames that the driver dropped, not yet told.
    gap: u64,
    /// Whether the camera is lost for the caller.
    lost: bool,
    busy: Duration,
}

enum State {
    /// Opened; the driver has not begun.
    Ready(Session),
    Streaming {
        session: Session,
        last_picture: Instant,
        any_picture: bool,
    },
    Away {
        retry_at: Instant,
        pause: Duration,
    },
}

/// An open device with its buffers.
struct Session {
    // Some until dropped.
    stream: Option<MappedStream<'static>>,
    layout: PixelLayout,
    size: ImageSize,
    stride: usize,
    colors: YuvColors,
    rate_hz: Option<f64>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // `v4l` panics when the driver refuses to stop.
        let stream = self.stream.take();
        let _ = guarded(|| {
            drop(stream);
            Ok(())
        });
    }
}

impl Session {
    /// Sets the format and takes the buffers, so that nobody else can have the camera.
    fn new(device: &Device, choice: Choice) -> Result<Self, SessionError> {
        let (width, height) = (choice.size.width as u32, choice.size.height as u32);
        let wanted = Format::new(width, height, FourCC::new(choice.layout.fourcc()));
        let got = guarded(|| device.set_format(&wanted))?;
        let size = ImageSize::new(got.width as usize, got.height as usize);
        let layout = PixelLayout::from_fourcc(&got.fourcc.repr);
        if (layout, size) != (Some(choice.layout), choice.size) {
            return Err(SessionError::Other(format!(
                "expected {} {} as the driver lists it, got {} {size}; choose another with ?format= and ?size=",
                choice.layout, choice.size, got.fourcc
            )));
        }
        let mut rate_hz = None;
        if let Some(rate) = choice.rate_hz {
            let interval = Fraction::new(1000, (rate * 1000.0).round() as u32);
            // Drivers without rates refuse this; pictures come at their own.
            let parameters = guarded(|| device.set_params(&Parameters::new(interval)));
            rate_hz = parameters.ok().map(|parameters| parameters.interval).filter(|interval| interval.numerator > 0);
        }
        let stream = guarded(|| MappedStream::with_buffers(device, Type::VideoCapture, NUM_BUFFERS))?;
        let minimum = choice.layout.row_bytes(size.width).unwrap_or(0);
        Ok(Self {
            stream: Some(stream),
            layout: choice.layout,
            size,
            stride: (got.stride as usize).max(minimum),
            colors: colors_of(&got),
            rate_hz: rate_hz.map(|interval| f64::from(interval.denominator) / f64::from(interval.numerator)),
        })
    }

    fn stream(&mut self) -> io::Result<&mut MappedStream<'static>> {
        self.stream.as_mut().ok_or_else(|| io::Error::other("the stream is closed"))
    }

    /// Gives the driver all buffers but the first, which [`MappedStream::next`] gives it, and starts it. (If `next`
    /// itself started the stream, it could not be asked whether there is a picture before it waits for one, and after a
    /// time-out it queues a buffer twice and fails for ever.)
    fn start(&mut self) -> io::Result<()> {
        let stream = self.stream()?;
        guarded(|| {
            for index in 1..NUM_BUFFERS as usize {
                match stream.queue(index) {
                    Ok(()) => {}
                    // The driver may have given us fewer buffers.
                    Err(_) if index > 1 => break,
                    Err(error) => return Err(error),
                }
            }
            stream.start()
        })
    }

    fn has_picture(&mut self) -> io::Result<bool> {
        let handle = self.stream()?.handle();
        match guarded(|| handle.poll(READABLE, WAITING.as_millis() as i32)) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

enum SessionError {
    Io(io::Error),
    Other(String),
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the driver says about colours; where it is silent, what webcams send.
fn colors_of(format: &Format) -> YuvColors {
    let full_range = match format.quantization {
        Quantization::FullRange => true,
        Quantization::LimitedRange => false,
        Quantization::Default => matches!(format.colorspace, Colorspace::JPEG),
    };
    let matrix = match format.colorspace {
        Colorspace::Rec709 | Colorspace::DCIP3 => YuvMatrix::Bt709,
        Colorspace::Rec2020 => YuvMatrix::Bt2020,
        Colorspace::SMPTE240M => YuvMatrix::Smpte240,
        _ => YuvMatrix::Bt601,
    };
    YuvColors { matrix, full_range }
}

impl Camera {
    /// Opens a camera and takes it; pictures flow from the first call of [`Source::next`].
    ///
    /// # Errors
    /// When there is no such device, it may not be opened, is in use, is no camera, or lacks what is wished for.
    pub fn open(address: Address, wish: Wish) -> Result<Self, SourceError> {
        let (device, node, identity) = device::open(&address)?;
        let (choice, session) = negotiate(&address, &node, &device, &wish, USUAL_INPUT)?;
        let name = match &address {
            Address::Node(path) => path.file_name().map_or_else(|| "camera".to_owned(), |n| n.to_string_lossy().into()),
            Address::ById(name) => name.clone(),
        };
        let info = SourceInfo {
            size: Some(session.size),
            rate_hz: session.rate_hz,
            is_sequence: true,
            frames_promised: None,
            is_live: true,
        };
        Ok(Self {
            name,
            info,
            address,
            wish,
            identity,
            node,
            choice,
            delivery: Delivery::Rgb,
            state: State::Ready(session),
            index: 0,
            last_sequence: None,
            last_nanos: 0,
            gap: 0,
            lost: false,
            busy: Duration::ZERO,
        })
    }

    /// Lets go of the device; the caller is told once.
    fn lose(&mut self, reason: String) -> SourceEvent {
        self.last_sequence = None;
        // The first attempt comes at once: most errors are over when the device is opened again.
        self.state = State::Away { retry_at: Instant::now(), pause: RETRY.0 };
        if std::mem::replace(&mut self.lost, true) {
            log::debug!("camera {}: {reason}", self.address.text());
            return SourceEvent::Waiting;
        }
        SourceEvent::Lost { reason: format!("camera {}: {reason}; trying to open it again", self.address.text()) }
    }

    /// Opens the camera again as it was, and starts it.
    fn reopen(&mut self) -> Result<Session, String> {
        let (device, node) = device::find(&self.identity, &self.node).ok_or("it is not there")?;
        let mut session = Session::new(&device, self.choice).map_err(|error| match error {
            SessionError::Io(error) => error.to_string(),
            SessionError::Other(reason) => reason,
        })?;
        session.start().map_err(|error| error.to_string())?;
        if node != self.node {
            log::info!("camera {}: is {} now", self.address.text(), node.display());
            self.node = node;
        }
        Ok(session)
    }

    fn picture(&mut self, frame: &mut Frame) -> Result<SourceEvent, io::Error> {
        let State::Streaming { session, last_picture, any_picture } = &mut self.state else {
            return Ok(SourceEvent::Waiting);
        };
        let (layout, size, stride, colors) = (session.layout, session.size, session.stride, session.colors);
        let stream = session.stream()?;
        let (bytes, metadata) = guarded(|| stream.next())?;
        let start = Instant::now();
        (*last_picture, *any_picture) = (start, true);
        let metadata: Metadata = *metadata;
        // Frames missing between two sequence numbers; a driver that starts again says nothing about that.
        let step = self.last_sequence.map_or(1, |last| metadata.sequence.wrapping_sub(last));
        let missing = if (1..=MAX_GAP).contains(&step) { u64::from(step - 1) } else { 0 };
        self.last_sequence = Some(metadata.sequence);
        self.gap += missing;
        self.index += missing;
        let index = self.index;
        self.index += 1;
        let converted = if metadata.flags.contains(Flags::ERROR) {
            Err("the driver marks the picture as broken".to_owned())
        } else {
            let used = (metadata.bytesused as usize).min(bytes.len());
            take(layout, size, stride, colors, self.delivery, &bytes[..used], frame)
        };
        if let Err(reason) = converted {
            let reason = format!("camera {}, frame {index}: {reason}", self.address.text());
            return Ok(SourceEvent::Skipped { index, path: self.node.clone(), reason });
        }
        let now = monotonic_nanos();
        let stamp = metadata.timestamp;
        let stamp_nanos = (stamp.sec as u64).saturating_mul(1_000_000_000).saturating_add(stamp.usec as u64 * 1000);
        let taken =
            if metadata.flags.contains(Flags::TIMESTAMP_MONOTONIC) && stamp_nanos > 0 { stamp_nanos } else { now };
        // Some drivers stamp a little ahead of the clock; and time never goes back.
        let taken = taken.min(now).max(self.last_nanos);
        self.last_nanos = taken;
        let utc = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        frame.index = index;
        frame.capture_time =
            CaptureTime { monotonic_nanos: taken, utc_nanos: utc.saturating_sub(now.saturating_sub(taken)) };
        self.busy = start.elapsed();
        Ok(SourceEvent::Frame)
    }
}

/// Chooses a mode and takes the camera in it.
fn negotiate(
    address: &Address,
    node: &std::path::Path,
    device: &Device,
    wish: &Wish,
    input: ImageSize,
) -> Result<(Choice, Session), SourceError> {
    let failed = |reason: String| SourceError::Camera { device: address.text(), reason };
    let modes = device::modes(device, wish).map_err(|error| failed(open_reason(node, &error)))?;
    log::debug!("camera {}: {}", address.text(), modes_text(&modes));
    let choice = choose(&modes, wish, input).map_err(failed)?;
    let session = Session::new(device, choice).map_err(|error| match error {
        SessionError::Io(error) => failed(open_reason(node, &error)),
        SessionError::Other(reason) => failed(reason),
    })?;
    log::info!(
        "camera {} ({}): {} {} at {} Hz",
        address.text(),
        node.display(),
        choice.layout,
        choice.size,
        session.rate_hz.map_or_else(|| "an unknown rate,".to_owned(), |rate| format!("{rate:.2}"))
    );
    Ok((choice, session))
}

impl Source for Camera {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn set_input_size(&mut self, input: ImageSize) -> Result<(), SourceError> {
        if self.wish.size.is_some() || !matches!(self.state, State::Ready(_)) {
            return Ok(());
        }
        // The buffers must be given back before the format can change.
        self.state = State::Away { retry_at: Instant::now(), pause: RETRY.0 };
        let (device, node, _) = device::open(&self.address)?;
        let (choice, session) = negotiate(&self.address, &node, &device, &self.wish, input)?;
        self.info.size = Some(session.size);
        self.info.rate_hz = session.rate_hz;
        self.choice = choice;
        self.state = State::Ready(session);
        Ok(())
    }

    fn leave_pixels_as_they_are(&mut self) {
        self.delivery = Delivery::AsIs;
    }

    fn busy(&self) -> Option<Duration> {
        Some(self.busy)
    }

    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError> {
        if self.gap > 0 {
            return Ok(SourceEvent::Dropped { count: std::mem::take(&mut self.gap) });
        }
        match &mut self.state {
            State::Ready(session) => {
                let started = session.start();
                let away = State::Away { retry_at: Instant::now(), pause: RETRY.0 };
                let State::Ready(session) = std::mem::replace(&mut self.state, away) else {
                    return Ok(SourceEvent::Waiting);
                };
                if let Err(error) = started {
                    drop(session);
                    return Ok(self.lose(format!("cannot be started: {error}")));
                }
                self.state = State::Streaming { session, last_picture: Instant::now(), any_picture: false };
                Ok(SourceEvent::Waiting)
            }
            State::Away { retry_at, pause } => {
                let left = retry_at.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    std::thread::sleep(left.min(WAITING));
                    return Ok(SourceEvent::Waiting);
                }
                let pause = *pause;
                self.state = match self.reopen() {
                    Ok(session) => State::Streaming { session, last_picture: Instant::now(), any_picture: false },
                    Err(reason) => {
                        log::debug!("camera {}: {reason}", self.address.text());
                        State::Away { retry_at: Instant::now() + pause, pause: (pause * 2).min(RETRY.1) }
                    }
                };
                Ok(SourceEvent::Waiting)
            }
            State::Streaming { session, last_picture, any_picture } => {
                let usual = session
                    .rate_hz
                    .filter(|rate| *rate > 0.0)
                    .map_or(FROZEN, |rate| Duration::from_secs_f64(5.0 / rate));
                let limit = if *any_picture { FROZEN.max(usual) } else { FIRST_PICTURE.max(usual) };
                let event = match session.has_picture() {
                    Ok(false) if last_picture.elapsed() < limit => return Ok(SourceEvent::Waiting),
                    Ok(false) => return Ok(self.lose(format!("no picture for {:.0} s", limit.as_secs_f64()))),
                    Ok(true) => self.picture(frame),
                    Err(error) => Err(error),
                };
                match event {
                    Ok(SourceEvent::Frame) if std::mem::replace(&mut self.lost, false) => {
                        // The picture itself is given up and counted: the next one is a frame time away.
                        self.gap += 1;
                        Ok(SourceEvent::Restored)
                    }
                    Ok(event) => Ok(event),
                    Err(error) => Ok(self.lose(match error.raw_os_error() {
                        Some(19) => "was unplugged".to_owned(),
                        _ => format!("the stream failed: {error}"),
                    })),
                }
            }
        }
    }
}
