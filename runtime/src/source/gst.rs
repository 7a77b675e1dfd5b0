//! GStreamer pipelines and RTSP streams (cargo feature `gstreamer`).
//!
//! A pipeline is live when GStreamer says so (it gives no picture before it plays): cameras, RTSP. What goes wrong with one
//! that is live, and what happens then:
//!
//! | fault | behaviour |
//! |---|---|
//! | an error of the pipeline, the server ends the stream | the pipeline is made anew, after 0.1 s at first, then every 0.5 s |
//! | no picture for 2 s | the same |
//! | a picture of another size in mid-stream | it is taken: the stages adapt to it |
//!
//! Neither ends the run. Opening it the first time can fail: wrong credentials, a server that is not there, a pipeline
//! without the appsink `hsg`. A pipeline over a file is no live source: it ends with the file, and no frame is lost.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gstreamer::prelude::*;
use gstreamer::{self as gst, ClockTime, MessageView, StateChangeSuccess};
use gstreamer_app::AppSink;
use segcore::image::{CaptureTime, Frame, ImageSize};
use segcore::yuv::{YuvColors, YuvMatrix};

use super::pixels::{Delivery, PixelLayout, take};
use super::{Source, SourceError, SourceEvent, SourceInfo, TRACKED_RATE_HZ, WAITING, monotonic_nanos};

/// Name of the appsink that frames are taken from.
const SINK: &str = "hsg";
/// What may come out of the appsink: GStreamer's name, and how it lies in memory.
const FORMATS: [(&str, PixelLayout); 5] = [
    ("RGB", PixelLayout::Rgb24),
    ("BGR", PixelLayout::Bgr24),
    ("YUY2", PixelLayout::Yuyv),
    ("UYVY", PixelLayout::Uyvy),
    ("NV12", PixelLayout::Nv12),
];

/// What is asked of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// Anything but NV12, for pipelines that can give both: `videoconvert`, and not we, makes UYVY or RGB of it.
    Usual,
    /// NV12 too, the others first.
    WithNv12,
    /// All that frames can have as they are, and BGR. `videoconvert` passes on what the camera has or chooses what loses
    /// least; elements that do not weigh take the first.
    AsIs,
}

impl Offer {
    /// The formats, the best first. NV12 of an odd size is left out: GStreamer lays its rows out in another way.
    fn caps(self) -> gst::Caps {
        let raw = |formats: &[&str]| gst::Structure::builder("video/x-raw").field("format", gst::List::new(formats));
        let even = gst::IntRange::with_step(2, 16384, 2);
        let even_sized = |formats: &[&str]| raw(formats).field("width", even).field("height", even).build();
        let usual = raw(&["RGB", "BGR", "YUY2", "UYVY"]).build();
        let caps = gst::Caps::builder_full();
        match self {
            Self::Usual => caps.structure(usual),
            Self::WithNv12 => caps.structure(usual).structure(even_sized(&["NV12"])),
            // In one list, for converters that look at the first structure only.
            Self::AsIs => caps
                .structure(even_sized(&["NV12", "YUY2", "UYVY", "RGB", "BGR"]))
                .structure(raw(&["YUY2", "UYVY", "RGB", "BGR"]).build()),
        }
        .build()
    }
}

/// Pictures that wait in the appsink; of live pipelines the oldest makes way.
const QUEUED: u32 = 2;
/// Time for the first picture: a server has to be asked, a key frame to come.
const FIRST_PICTURE: Duration = Duration::from_secs(10);
/// Without a picture for this long (or five frame times, if that is more) a live pipeline counts as frozen.
const FROZEN: Duration = Duration::from_secs(2);
/// Shortest and longest pause between two attempts to start a lost pipeline.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(300));
/// A stamp older than this is not the time of the picture: the pipeline's clock is another.
const OLDEST: u64 = 10_000_000_000;

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Description {
    /// As for gst-launch.
    Pipeline(String),
    /// Address of an RTSP stream, perhaps with user and password.
    Rtsp(String),
}

impl Description {
    /// For messages: without the password.
    fn text(&self) -> String {
        match self {
            Self::Pipeline(text) => format!("gst:{text}"),
            Self::Rtsp(url) => without_password(url),
        }
    }
}

/// The address with `***` for the password.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{scheme}://{user}:***@{host}{path}"),
        None => url.to_owned(),
    }
}

/// A running pipeline. Dropping it stops it.
struct Running {
    pipeline: gst::Pipeline,
    sink: AppSink,
    live: bool,
    /// What it was asked for when it was started.
    offer: Offer,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever it answers: it is given up.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// Why a pipeline cannot be started or goes no further, in words with a remedy.
type Reason = String;

/// Why a pipeline gives no first picture.
struct Failure {
    reason: Reason,
    /// Whether it may go when NV12 is taken, too.
    formats: bool,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, formats: false }
    }
}

impl Running {
    /// Makes the pipeline and starts it. Without an offer it is looked at first.
    fn start(description: &Description, offer: Option<Offer>) -> Result<Self, Failure> {
        let element = match description {
            Description::Pipeline(text) => gst::parse::launch(text).map_err(|error| launch_reason(&error))?,
            Description::Rtsp(url) => {
                // The address is set, not written into the text, where quotes would have to be escaped. TCP, because a
                // firewall that swallows UDP costs 5 s at every start, and no key frame is lost on a bad radio.
                let text = format!(
                    "rtspsrc name=source latency=100 protocols=tcp tcp-timeout=2000000 ! decodebin ! videoconvert ! appsink name={SINK}"
                );
                let element = gst::parse::launch(&text).map_err(|error| launch_reason(&error))?;
                let source = element.downcast_ref::<gst::Bin>().and_then(|bin| bin.by_name("source"));
                source.ok_or_else(|| "GStreamer lost the element rtspsrc".to_owned())?.set_property("location", url);
                element
            }
        };
        let missing = || {
            format!(
                "expected an appsink named `{SINK}` to take frames from, got a pipeline without one; let it end in \
                 `! videoconvert ! appsink name={SINK}`"
            )
        };
        let pipeline = element.downcast::<gst::Pipeline>().map_err(|_| missing())?;
        let sink = pipeline.by_name(SINK).and_then(|sink| sink.downcast::<AppSink>().ok()).ok_or_else(missing)?;
        // Frames go as fast as they are taken; who wants a file at its rate says `--realtime`.
        sink.set_property("sync", false);
        sink.set_max_buffers(QUEUED);
        let mut running = Self { pipeline, sink, live: false, offer: offer.unwrap_or(Offer::Usual) };
        let failed = |running: &Self| running.failure("GStreamer refuses to start it");
        // From here on devices are open, and elements know what theirs can give.
        running.pipeline.set_state(gst::State::Ready).map_err(|_| failed(&running))?;
        if offer.is_none() && !running.can_give_both() {
            running.offer = Offer::WithNv12;
        }
        running.sink.set_caps(Some(&running.offer.caps()));
        // A live pipeline says so by giving no picture before it plays.
        let paused = running.pipeline.set_state(gst::State::Paused).map_err(|_| failed(&running))?;
        running.live = paused == StateChangeSuccess::NoPreroll || matches!(description, Description::Rtsp(_));
        running.sink.set_drop(running.live);
        running.pipeline.set_state(gst::State::Playing).map_err(|_| failed(&running))?;
        Ok(running)
    }

    /// Whether NV12 as well as one of the usual formats can come, by what the pipeline says before it runs. It may promise
    /// more than it keeps, never less.
    fn can_give_both(&self) -> bool {
        // A pad that is linked later is a demuxer's or decoder's own, and nothing converts behind it.
        let Some(peer) = self.sink.static_pad("sink").and_then(|pad| pad.peer()) else { return false };
        let given = peer.query_caps(Some(&Offer::WithNv12.caps()));
        let usual = Offer::Usual.caps();
        given.can_intersect(&usual) && !given.is_subset(&usual)
    }

    /// Asks for other formats from here on. Elements that cannot change theirs go on with what they have, which stays welcome.
    fn renegotiate(&self, offer: Offer) {
        self.sink.set_caps(Some(&offer.caps()));
        if let Some(pad) = self.sink.static_pad("sink") {
            pad.push_event(gst::event::Reconfigure::new());
        }
    }

    /// Starts a pipeline and waits for its first picture.
    fn first_picture(description: &Description, offer: Option<Offer>) -> Result<(Self, gst::Sample), Failure> {
        let running = Self::start(description, offer)?;
        let start = Instant::now();
        loop {
            if let Some(failure) = running.problem() {
                return Err(failure);
            }
            if let Some(sample) = running.sample(WAITING) {
                return Ok((running, sample));
            }
            // An error may be told a moment after the end.
            if running.sink.is_eos() {
                std::thread::sleep(WAITING);
                return Err(running.failure("it ended without a picture; check its source"));
            }
            if start.elapsed() > FIRST_PICTURE {
                let reason = format!("no picture within {} s; check that the other end sends", FIRST_PICTURE.as_secs());
                return Err(reason.into());
            }
        }
    }

    /// An error that the pipeline has told.
    fn problem(&self) -> Option<Failure> {
        let bus = self.pipeline.bus()?;
        while let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
            if let MessageView::Error(error) = message.view() {
                let failure = error_failure(error);
                return Some(Failure { formats: failure.formats && self.offer == Offer::Usual, ..failure });
            }
        }
        None
    }

    /// The error that the pipeline has told; `otherwise` where it stopped without one, as it may when formats do not fit.
    fn failure(&self, otherwise: &str) -> Failure {
        let silent = || Failure { reason: otherwise.to_owned(), formats: self.offer == Offer::Usual };
        self.problem().unwrap_or_else(silent)
    }

    fn sample(&self, timeout: Duration) -> Option<gst::Sample> {
        self.sink.try_pull_sample(ClockTime::from_nseconds(timeout.as_nanos() as u64))
    }
}

/// Why GStreamer cannot make a pipeline of a text.
fn launch_reason(error: &gst::glib::Error) -> Reason {
    let remedy = match error.kind::<gst::ParseError>() {
        Some(gst::ParseError::NoSuchElement) => {
            "install the plugin that has it (`cargo xtask deps gstreamer` installs the usual ones; `gst-inspect-1.0` lists \
             what is here)"
        }
        _ => "try it with `gst-launch-1.0` first",
    };
    format!("GStreamer cannot make this pipeline: {}; {remedy}", error.message())
}

/// What an error of a running pipeline means. Elements tell formats that do not fit in many ways, so all that has no other
/// known cause may come of them.
fn error_failure(error: &gst::message::Error) -> Failure {
    let (what, debug) = (error.error(), error.debug());
    let debug = debug.as_deref().unwrap_or_default();
    let text = what.message().trim_end_matches('.').to_owned();
    let kind = what.kind::<gst::ResourceError>();
    // Servers refuse in one of two ways, and elements tell it as an error of one kind or another.
    if kind == Some(gst::ResourceError::NotAuthorized) || debug.contains("Unauthorized") || debug.contains("(401)") {
        return format!(
            "the server refuses the credentials: {text}; give user and password as rtsp://USER:PASSWORD@HOST/PATH"
        )
        .into();
    }
    if matches!(kind, Some(gst::ResourceError::NotFound)) {
        return format!("there is no such file or stream: {text}; check the path").into();
    }
    if matches!(kind, Some(gst::ResourceError::OpenRead | gst::ResourceError::OpenReadWrite)) {
        return format!("cannot be opened: {text}; check the address, and that the other end is running").into();
    }
    if what.matches(gst::StreamError::CodecNotFound) || what.matches(gst::CoreError::MissingPlugin) {
        return format!("GStreamer lacks a plugin: {text}; `cargo xtask deps gstreamer` installs the usual ones")
            .into();
    }
    if debug.contains("not-negotiated") {
        let reason =
            format!("the picture's format is none that hsg reads: {text}; put `videoconvert` before the appsink");
        return Failure { reason, formats: true };
    }
    let source = error.src().map(|source| format!(" (from {})", source.name())).unwrap_or_default();
    Failure { reason: format!("GStreamer says: {text}{source}"), formats: true }
}

enum State {
    Streaming { running: Running, last_picture: Instant, any_picture: bool },
    Away { retry_at: Instant, pause: Duration },
    Ended,
}

/// A pipeline as a source.
pub struct GstSource {
    name: String,
    info: SourceInfo,
    description: Description,
    offer: Offer,
    delivery: Delivery,
    state: State,
    /// The first frame of a source that is not live, read to know its size.
    first: Option<gst::Sample>,
    index: u64,
    last_nanos: u64,
    lost: bool,
    pause: Duration,
    busy: Duration,
}

impl GstSource {
    /// Starts a pipeline and waits for its first picture.
    ///
    /// # Errors
    /// When GStreamer cannot make or start it, it lacks the appsink, the server refuses, or no picture comes.
    pub fn open(description: Description) -> Result<Self, SourceError> {
        let failed = |reason: String| SourceError::Camera { device: description.text(), reason };
        gst::init().map_err(|error| failed(format!("GStreamer cannot be used here: {error}; install it again")))?;
        let mut opened = Running::first_picture(&description, None);
        // Ours for RTSP ends in `videoconvert`, which keeps what it promises.
        let may_help = |failure: &Failure| failure.formats && matches!(description, Description::Pipeline(_));
        if opened.as_ref().err().is_some_and(may_help) {
            opened = Running::first_picture(&description, Some(Offer::WithNv12)).or(opened);
        }
        let (running, first) = opened.map_err(|failure| failed(failure.reason))?;
        let format = Format::of(&first).map_err(failed)?;
        let rate_hz = format.rate_hz;
        let info = SourceInfo {
            size: Some(format.size),
            rate_hz,
            is_sequence: running.live || rate_hz.is_none_or(|rate| rate >= TRACKED_RATE_HZ),
            frames_promised: None,
            is_live: running.live,
        };
        let name = match &description {
            Description::Pipeline(_) => "gst".to_owned(),
            Description::Rtsp(url) => {
                let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
                path.rsplit('/').next().filter(|part| !part.contains(['@', ':'])).unwrap_or("rtsp").to_owned()
            }
        };
        Ok(Self {
            name,
            description,
            offer: running.offer,
            delivery: Delivery::Rgb,
            // A picture that waits while the model is loaded is old news of a live source.
            first: Some(first).filter(|_| !info.is_live),
            info,
            state: State::Streaming { running, last_picture: Instant::now(), any_picture: true },
            index: 0,
            last_nanos: 0,
            lost: false,
            pause: RETRY.0,
            busy: Duration::ZERO,
        })
    }

    /// Lets go of the pipeline; the caller is told once.
    fn lose(&mut self, reason: &str) -> SourceEvent {
        self.state = State::Away { retry_at: Instant::now() + self.pause, pause: self.pause };
        self.pause = (self.pause * 2).min(RETRY.1);
        if std::mem::replace(&mut self.lost, true) {
            log::debug!("{}: {reason}", self.description.text());
            return SourceEvent::Waiting;
        }
        SourceEvent::Lost { reason: format!("{}: {reason}; trying again", self.description.text()) }
    }

    /// Fills `frame` with a picture.
    fn take(&mut self, sample: &gst::Sample, now: u64, frame: &mut Frame) -> SourceEvent {
        let start = Instant::now();
        let index = self.index;
        self.index += 1;
        let live = self.info.is_live;
        let filled = Format::of(sample).and_then(|format| {
            let buffer = sample.buffer().ok_or("the sample has no picture")?;
            let bytes = buffer.map_readable().map_err(|error| error.to_string())?;
            take(format.layout, format.size, format.stride, format.colors, self.delivery, &bytes, frame)
        });
        if let Err(reason) = filled {
            let text = self.description.text();
            return SourceEvent::Skipped {
                index,
                path: text.clone().into(),
                reason: format!("{text}, frame {index}: {reason}"),
            };
        }
        frame.index = index;
        let stamp = self.stamp(sample);
        if live {
            let taken = stamp.filter(|stamp| now.saturating_sub(*stamp) < OLDEST).unwrap_or(now);
            let taken = taken.min(now).max(self.last_nanos);
            self.last_nanos = taken;
            let utc = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
            frame.capture_time = CaptureTime { monotonic_nanos: taken, utc_nanos: utc.saturating_sub(now - taken) };
        } else {
            let nanos = stamp.or_else(|| Some((index as f64 / self.info.rate_hz? * 1e9) as u64)).unwrap_or(0);
            frame.capture_time = CaptureTime { monotonic_nanos: nanos, utc_nanos: 0 };
        }
        self.busy = start.elapsed();
        SourceEvent::Frame
    }

    /// When a picture was taken: by the monotonic clock of live pipelines, since the start of others.
    fn stamp(&self, sample: &gst::Sample) -> Option<u64> {
        let State::Streaming { running, .. } = &self.state else { return None };
        let time = sample.buffer()?.pts()?;
        let segment = sample.segment()?.downcast_ref::<ClockTime>()?;
        let since_start = segment.to_running_time(time)?.nseconds();
        if !running.live {
            return Some(since_start);
        }
        Some(running.pipeline.base_time()?.nseconds() + since_start)
    }
}

/// How the picture of a sample lies in memory.
struct Format {
    layout: PixelLayout,
    size: ImageSize,
    /// Bytes between rows.
    stride: usize,
    colors: YuvColors,
    rate_hz: Option<f64>,
}

impl Format {
    fn of(sample: &gst::Sample) -> Result<Self, String> {
        let structure = sample.caps().and_then(|caps| caps.structure(0)).ok_or("the sample does not say its format")?;
        let number = |name: &str| structure.get::<i32>(name).ok().and_then(|value| usize::try_from(value).ok());
        let (width, height) = number("width").zip(number("height")).ok_or("the sample does not say its size")?;
        let format = structure.get::<&str>("format").map_err(|error| error.to_string())?;
        let layout = FORMATS.iter().find(|(name, _)| *name == format).map(|(_, layout)| *layout);
        let layout =
            layout.ok_or_else(|| format!("the format {format} is not read; put `videoconvert` before the appsink"))?;
        let rate = structure.get::<gst::Fraction>("framerate").ok().filter(|rate| rate.numer() > 0 && rate.denom() > 0);
        // GStreamer's rows begin at multiples of four bytes; appsink asks for no others.
        let stride = layout.row_bytes(width).unwrap_or(0).next_multiple_of(4);
        let rate_hz = rate.map(|rate| f64::from(rate.numer()) / f64::from(rate.denom()));
        let colors = colors_of(structure.get::<&str>("colorimetry").unwrap_or_default(), height);
        Ok(Self { layout, size: ImageSize::new(width, height), stride, colors, rate_hz })
    }
}

/// What GStreamer's `colorimetry` means: a name, or RANGE:MATRIX:TRANSFER:PRIMARIES in numbers (GstVideoColorRange,
/// GstVideoColorMatrix). Without one, or without a matrix in it, it is what GStreamer's own converters assume then, so that
/// colours are the same whoever converts.
fn colors_of(colorimetry: &str, height: usize) -> YuvColors {
    let limited = |matrix: YuvMatrix| YuvColors { matrix, full_range: false };
    let assumed = limited(if height > 576 { YuvMatrix::Bt709 } else { YuvMatrix::Bt601 });
    match colorimetry {
        "bt601" => limited(YuvMatrix::Bt601),
        "bt709" => limited(YuvMatrix::Bt709),
        "smpte240m" => limited(YuvMatrix::Smpte240),
        name if name.starts_with("bt2") => limited(YuvMatrix::Bt2020),
        numbers => {
            let parts: Vec<&str> = numbers.split(':').collect();
            let [range, matrix, _, _] = parts[..] else { return assumed };
            let matrix = match matrix {
                // The FCC's differs from it by less than a level.
                "2" | "4" => YuvMatrix::Bt601,
                "3" => YuvMatrix::Bt709,
                "5" => YuvMatrix::Smpte240,
                "6" => YuvMatrix::Bt2020,
                _ => return assumed,
            };
            // They take an unknown range for a full one.
            YuvColors { matrix, full_range: range != "2" }
        }
    }
}

impl Source for GstSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn leave_pixels_as_they_are(&mut self) {
        (self.delivery, self.offer) = (Delivery::AsIs, Offer::AsIs);
        if let State::Streaming { running, .. } = &self.state {
            running.renegotiate(self.offer);
        }
    }

    fn busy(&self) -> Option<Duration> {
        Some(self.busy)
    }

    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError> {
        if let Some(sample) = self.first.take() {
            return Ok(self.take(&sample, monotonic_nanos(), frame));
        }
        let live = self.info.is_live;
        match &mut self.state {
            State::Ended => Ok(SourceEvent::End { delivered: self.index, promised_more: None }),
            State::Away { retry_at, pause } => {
                let left = retry_at.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    std::thread::sleep(left.min(WAITING));
                    return Ok(SourceEvent::Waiting);
                }
                let pause = *pause;
                match Running::start(&self.description, Some(self.offer)) {
                    Ok(running) => {
                        self.state = State::Streaming { running, last_picture: Instant::now(), any_picture: false };
                    }
                    Err(Failure { reason, .. }) => {
                        log::debug!("{}: {reason}", self.description.text());
                        self.state = State::Away { retry_at: Instant::now() + pause, pause: (pause * 2).min(RETRY.1) };
                    }
                }
                Ok(SourceEvent::Waiting)
            }
            State::Streaming { running, last_picture, any_picture } => {
                if let Some(sample) = running.sample(WAITING) {
                    (*last_picture, *any_picture) = (Instant::now(), true);
                    self.pause = RETRY.0;
                    if std::mem::replace(&mut self.lost, false) {
                        // The picture itself is given up: the next one is a frame time away.
                        return Ok(SourceEvent::Restored);
                    }
                    return Ok(self.take(&sample, monotonic_nanos(), frame));
                }
                let ended = running.sink.is_eos();
                let problem = running.problem().map(|failure| failure.reason);
                if !live {
                    return match (problem, ended) {
                        (Some(reason), _) => Err(SourceError::Camera { device: self.description.text(), reason }),
                        (None, true) => {
                            self.state = State::Ended;
                            Ok(SourceEvent::End { delivered: self.index, promised_more: None })
                        }
                        (None, false) => Ok(SourceEvent::Waiting),
                    };
                }
                let usual = self.info.rate_hz.map_or(FROZEN, |rate| Duration::from_secs_f64(5.0 / rate));
                let limit = if *any_picture { FROZEN.max(usual) } else { FIRST_PICTURE };
                let silent = last_picture.elapsed() >= limit;
                match problem {
                    Some(reason) => Ok(self.lose(&reason)),
                    None if ended => Ok(self.lose("the other end stopped the stream")),
                    None if silent => Ok(self.lose(&format!("no picture for {:.0} s", limit.as_secs_f64()))),
                    None => Ok(SourceEvent::Waiting),
                }
            }
        }
    }
}

/// The version of GStreamer. It is not initialised for that, because it would look at all its plugins and write what it
/// finds into the user's cache.
pub fn version() -> String {
    gst::version_string().to_string()
}

#[cfg(test)]
mod tests {
    use segcore::image::PixelFormat;
    use segcore::yuv::frame_to_rgb;

    use super::*;

    fn pipeline(text: &str) -> Result<GstSource, String> {
        GstSource::open(Description::Pipeline(text.to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn files_and_generators_give_every_frame() {
        for (format, width) in [("RGB", 35), ("BGR", 34), ("YUY2", 34), ("UYVY", 34), ("NV12", 34)] {
            let text = format!(
                "videotestsrc num-buffers=5 pattern=white ! video/x-raw,format={format},width={width},height=18,framerate=10/1 \
                 ! appsink name=hsg"
            );
            let mut source = pipeline(&text).unwrap();
            assert_eq!((source.info().size, source.info().rate_hz), (Some(ImageSize::new(width, 18)), Some(10.0)));
            assert!(!source.info().is_live && source.info().is_sequence);
            let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
            for index in 0..5 {
                assert_eq!(source.next(&mut frame).unwrap(), SourceEvent::Frame, "{format}");
                assert_eq!((frame.index, frame.capture_time.monotonic_nanos), (index, index * 100_000_000));
                assert!(frame.pixels.iter().all(|value| *value >= 250), "{format}: white");
            }
            let end = loop {
                match source.next(&mut frame).unwrap() {
                    SourceEvent::Waiting => {}
                    event => break event,
                }
            };
            assert_eq!(end, SourceEvent::End { delivered: 5, promised_more: None });
            assert_eq!(source.next(&mut frame).unwrap(), end);
        }
    }

    /// The frames of a pipeline to its end.
    fn frames(text: &str, as_they_are: bool) -> Vec<Frame> {
        let mut source = pipeline(text).unwrap();
        if as_they_are {
            source.leave_pixels_as_they_are();
        }
        let (mut frame, mut frames) = (Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8), Vec::new());
        loop {
            match source.next(&mut frame).unwrap() {
                SourceEvent::Frame => frames.push(frame.clone()),
                SourceEvent::Waiting => {}
                SourceEvent::End { .. } => return frames,
                event => panic!("{event:?}"),
            }
        }
    }

    #[test]
    fn pixels_are_left_as_they_are_on_request() {
        let high_definition = YuvColors { matrix: YuvMatrix::Bt709, full_range: false };
        for (caps, format) in [
            ("NV12,width=34,height=18,colorimetry=bt601", PixelFormat::Nv12(YuvColors::default())),
            ("NV12,width=34,height=18,colorimetry=bt709", PixelFormat::Nv12(high_definition)),
            ("YUY2,width=35,height=17,colorimetry=bt601", PixelFormat::Yuyv8(YuvColors::default())),
            ("UYVY,width=34,height=17,colorimetry=bt709", PixelFormat::Uyvy8(high_definition)),
            ("RGB,width=35,height=17", PixelFormat::Rgb8),
            ("BGR,width=35,height=17", PixelFormat::Rgb8),
        ] {
            let text =
                format!("videotestsrc num-buffers=3 pattern=smpte ! video/x-raw,format={caps} ! appsink name=hsg");
            let (as_is, at_once) = (frames(&text, true), frames(&text, false));
            assert_eq!((as_is.len(), at_once.len()), (3, 3));
            for (as_is, at_once) in as_is.iter().zip(&at_once) {
                assert_eq!((as_is.format, at_once.format), (format, PixelFormat::Rgb8), "{caps}");
                let mut converted = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
                frame_to_rgb(as_is, &mut converted).unwrap();
                assert!(converted == *at_once, "{caps}");
            }
        }
    }

    /// What converts in the pipeline stops doing so, but for the pictures that were made before.
    #[test]
    fn running_pipelines_change_to_what_the_camera_has() {
        let text = "videotestsrc num-buffers=30 ! video/x-raw,format=NV12,width=34,height=18 ! videoconvert ! appsink name=hsg";
        assert!(frames(text, false).iter().all(|frame| frame.format == PixelFormat::Rgb8));
        let formats: Vec<PixelFormat> = frames(text, true).iter().map(|frame| frame.format).collect();
        assert_eq!(formats.len(), 30);
        let first = formats.iter().position(|format| matches!(format, PixelFormat::Nv12(_)));
        assert!(first.is_some_and(|first| first <= 5), "{formats:?}");
    }

    #[test]
    fn colorimetry_in_words_and_numbers() {
        for (text, matrix, full_range) in [
            ("bt601", YuvMatrix::Bt601, false),
            ("bt709", YuvMatrix::Bt709, false),
            ("smpte240m", YuvMatrix::Smpte240, false),
            ("bt2020-10", YuvMatrix::Bt2020, false),
            ("1:4:0:0", YuvMatrix::Bt601, true),
            ("2:3:5:1", YuvMatrix::Bt709, false),
            ("2:6:13:7", YuvMatrix::Bt2020, false),
        ] {
            for height in [480, 720] {
                assert_eq!(colors_of(text, height), YuvColors { matrix, full_range }, "{text}, {height} lines");
            }
        }
        for text in ["", "sRGB", "2:0:0:0", "1:1:7:1", "2:4", "anything"] {
            for (height, matrix) in [(576, YuvMatrix::Bt601), (577, YuvMatrix::Bt709)] {
                assert_eq!(colors_of(text, height), YuvColors { matrix, full_range: false }, "{text}, {height} lines");
            }
        }
    }

    /// The same pixels have the same colours whether we make RGB of them or `videoconvert` does.
    #[test]
    fn colours_are_those_of_gstreamers_own_converter() {
        for height in [480, 576, 578, 720] {
            let colorimetries =
                ["", "bt601", "bt709", "bt2020", "2:0:0:0", "1:0:0:0", "0:4:0:0", "1:4:0:0", "1:3:0:0", "2:2:0:0"];
            for colorimetry in colorimetries {
                let said = if colorimetry.is_empty() { String::new() } else { format!(",colorimetry={colorimetry}") };
                // Y 100, U 110, V 180, as NV12: what GStreamer says of the bytes is not in them.
                let text = format!(
                    "videotestsrc num-buffers=1 pattern=solid-color foreground-color=0xffb44a3c \
                     ! video/x-raw,format=NV12,width=32,height={height},colorimetry=bt601 \
                     ! capssetter replace=true caps=video/x-raw,format=NV12,width=32,height={height},framerate=30/1{said}"
                );
                let theirs =
                    frames(&format!("{text} ! videoconvert ! video/x-raw,format=RGB ! appsink name=hsg"), true);
                for as_it_is in [true, false] {
                    let ours = frames(&format!("{text} ! appsink name=hsg"), as_it_is);
                    let nv12 = PixelFormat::Nv12(colors_of(colorimetry, height));
                    assert_eq!(ours[0].format, if as_it_is { nv12 } else { PixelFormat::Rgb8 });
                    let mut rgb = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
                    frame_to_rgb(&ours[0], &mut rgb).unwrap();
                    let apart = rgb.pixels.iter().zip(&theirs[0].pixels).map(|(a, b)| a.abs_diff(*b)).max();
                    // It computes with coefficients of 8 bits.
                    assert!(apart.is_some_and(|apart| apart <= 4), "{height} lines, `{colorimetry}`: {apart:?} apart");
                }
            }
        }
    }

    /// `videoconvert` passes on what comes, or takes the format that loses least.
    #[test]
    fn converters_choose_what_loses_least() {
        // Of two that lose the same, any.
        let packed = &["UYVY", "YUY2"][..];
        for (format, even, odd) in [
            ("I420", &["NV12"][..], packed),
            ("NV12", &["NV12"], packed),
            ("Y42B", packed, packed),
            ("YUY2", &["YUY2"], &["YUY2"]),
            ("UYVY", &["UYVY"], &["UYVY"]),
            ("RGB", &["RGB"], &["RGB"]),
            ("BGR", &["BGR"], &["BGR"]),
        ] {
            for (size, expected) in [("width=34,height=18", even), ("width=35,height=17", odd)] {
                let text =
                    format!("videotestsrc ! video/x-raw,format={format},{size} ! videoconvert ! appsink name=hsg");
                gst::init().unwrap();
                let opened = Running::first_picture(&Description::Pipeline(text), Some(Offer::AsIs));
                let (_running, sample) = opened.map_err(|failure| failure.reason).unwrap();
                let chosen = sample.caps().unwrap().structure(0).unwrap().get::<&str>("format").unwrap();
                assert!(expected.contains(&chosen), "{format}, {size}: {chosen}");
            }
        }
    }

    /// Pipelines that have NV12 alone: that say so, that say it too late, that do not say why they stop.
    #[test]
    fn nv12_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames");
        std::fs::write(&path, vec![128; 36 * 18 * 3 / 2 * 4]).unwrap();
        let raw = format!(
            "filesrc location={} ! rawvideoparse format=nv12 width=36 height=18 framerate=10/1",
            path.display()
        );
        let caps = "video/x-raw,format=NV12,width=36,height=18";
        for (text, asked_once) in [
            (format!("videotestsrc num-buffers=4 ! {caps} ! queue ! appsink name=hsg"), true),
            (format!("videotestsrc num-buffers=4 ! {caps} ! decodebin ! appsink name=hsg"), true),
            (format!("{raw} ! appsink name=hsg"), false),
            (format!("{raw} ! errorignore convert-to=eos ! appsink name=hsg"), false),
        ] {
            gst::init().unwrap();
            let once = Running::first_picture(&Description::Pipeline(text.clone()), None);
            assert_eq!(once.is_ok(), asked_once, "{text}: {:?}", once.err().map(|failure| failure.reason));
            for as_it_is in [true, false] {
                assert_eq!(frames(&text, as_it_is).len(), 4, "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_pipeline_is_told() {
        for (text, words) in [
            ("videotestsrc ! fakesink", &["appsink named `hsg`", "videoconvert ! appsink name=hsg"][..]),
            ("videotestsrc ! appsink name=other", &["appsink named `hsg`"]),
            ("nosuchelement ! appsink name=hsg", &["nosuchelement", "cargo xtask deps gstreamer"]),
            ("videotestsrc !", &["gst-launch-1.0"]),
            ("filesrc location=/no/such/file ! decodebin ! appsink name=hsg", &["no such file", "check the path"]),
            ("videotestsrc num-buffers=0 ! appsink name=hsg", &["without a picture"]),
            ("videotestsrc ! video/x-raw,format=I420 ! appsink name=hsg", &["none that hsg reads", "`videoconvert`"]),
            (
                "videotestsrc ! video/x-raw,format=NV12,width=35,height=18 ! appsink name=hsg",
                &["none that hsg reads", "`videoconvert`"],
            ),
            (
                "videotestsrc ! video/x-raw,format=NV12,width=34,height=17 ! appsink name=hsg",
                &["none that hsg reads", "`videoconvert`"],
            ),
        ] {
            let message = pipeline(text).err().unwrap();
            for word in words {
                assert!(message.contains(word), "`{word}` is not in: {message}");
            }
        }
    }

    #[test]
    fn passwords_are_not_told() {
        for (url, text) in [
            ("rtsp://me:secret@host:8554/front?x=1", "rtsp://me:***@host:8554/front?x=1"),
            ("rtsp://me@host/a", "rtsp://me@host/a"),
            ("rtsp://host:8554/a@b:c", "rtsp://host:8554/a@b:c"),
        ] {
            assert_eq!(Description::Rtsp(url.to_owned()).text(), text);
        }
    }
}
