//! What live sources go through, provoked at the library's own seams: the source, the network and the disk fail on
//! demand, and the run goes on. The same faults of real cameras are in `cargo xtask camera-test`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use models::manifest::{ModelFolder, Precision};
use runtime::PipelineError;
use runtime::backend::{BackendChoice, BackendError, BackendErrorKind};
use runtime::pipeline::publish::{Discard, Sink};
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::turns::Turns;
use runtime::pipeline::{
    self, Compute, Control, Deployment, DeploymentSpec, PipelineReport, PipelineSpec, Processor, ProcessorSpec,
    Progress,
};
use runtime::sink::{DiskBudget, FileSinks, FileSinksSpec, SaveKinds, SegmentedFrame, SinkError};
use runtime::source::{Source, SourceError, SourceEvent, SourceInfo};
use segcore::image::{CaptureTime, Frame, ImageSize, PixelFormat};
use tests::disks::SmallDisk;
use tests::folders::tiny_model;
use tests::outputs::{assert_whole, files, read_frames};
use tests::pictures::{SIZE, street};
use tests::programs::Sandbox;

/// What the scripted source does next.
#[derive(Clone, Debug)]
enum Act {
    /// A good frame.
    Frame,
    /// A frame of another size.
    Sized(usize, usize),
    /// A frame whose pixels do not fill its size.
    Garbage,
    /// A frame that was taken this many milliseconds after the first one, by a clock that may have been set.
    At(u64),
    /// Anything but a frame.
    Event(SourceEvent),
    /// Nothing for this long.
    Silent(Duration),
}

/// A live source that plays a script, frame after frame as they are taken, and then is silent for ever.
struct Scripted {
    info: SourceInfo,
    script: VecDeque<Act>,
    progress: Arc<Progress>,
    picture: Vec<u8>,
    given: u64,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = Act>, progress: &Arc<Progress>) -> Self {
        let info =
            SourceInfo { size: None, rate_hz: Some(30.0), is_sequence: true, frames_promised: None, is_live: true };
        let script = script.into_iter().collect();
        Self { info, script, progress: Arc::clone(progress), picture: street(0).into_raw(), given: 0 }
    }
}

impl Source for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError> {
        // The newest frame would win: each waits until the one before is through, so that counts are exact.
        let through = self.progress.frames.load(Ordering::Relaxed) + self.progress.skipped.load(Ordering::Relaxed);
        if through < self.given {
            std::thread::sleep(Duration::from_micros(200));
            return Ok(SourceEvent::Waiting);
        }
        let (width, height) = (SIZE.0 as usize, SIZE.1 as usize);
        frame.reshape(ImageSize::new(width, height), PixelFormat::Rgb8);
        frame.pixels.copy_from_slice(&self.picture);
        frame.index = self.given;
        let nanos = self.given * 33_000_000;
        frame.capture_time = CaptureTime { monotonic_nanos: nanos, utc_nanos: nanos };
        match self.script.pop_front() {
            None => {
                std::thread::sleep(Duration::from_millis(5));
                return Ok(SourceEvent::Waiting);
            }
            Some(Act::Silent(duration)) => {
                std::thread::sleep(duration.min(Duration::from_millis(50)));
                if let Some(left) = duration.checked_sub(Duration::from_millis(50)) {
                    self.script.push_front(Act::Silent(left));
                }
                return Ok(SourceEvent::Waiting);
            }
            Some(Act::Event(event)) => {
                self.given += u64::from(matches!(event, SourceEvent::Skipped { .. }));
                return Ok(event);
            }
            Some(Act::Frame) => {}
            Some(Act::Sized(width, height)) => {
                frame.reshape(ImageSize::new(width, height), PixelFormat::Rgb8);
                frame.pixels.fill(99);
            }
            Some(Act::Garbage) => frame.pixels.truncate(77),
            Some(Act::At(millis)) => {
                let nanos = millis * 1_000_000;
                frame.capture_time = CaptureTime { monotonic_nanos: nanos, utc_nanos: nanos };
            }
        }
        self.given += 1;
        Ok(SourceEvent::Frame)
    }
}

fn deployment() -> Arc<Deployment> {
    let spec = DeploymentSpec {
        backend: BackendChoice::Cpu,
        precision: Precision::Fp32,
        int8_float: false,
        num_threads: 1,
        batching: Default::default(),
    };
    Arc::new(Deployment::load(ModelFolder::open(&tiny_model()).unwrap(), spec).unwrap())
}

fn processor() -> Processor {
    Processor::new(deployment(), ProcessorSpec { tracking: true, ..ProcessorSpec::default() }).unwrap()
}

/// Runs a script until `max_frames` are published.
fn run(
    script: impl IntoIterator<Item = Act>,
    compute: &mut dyn Compute,
    sink: &mut dyn Sink,
    max_frames: u64,
) -> Result<PipelineReport, PipelineError> {
    let progress = Arc::default();
    let mut source = Scripted::new(script, &progress);
    let spec = PipelineSpec { name: "scripted".to_owned(), max_frames: Some(max_frames), realtime_hz: None };
    pipeline::run(&mut source, compute, sink, &spec, &Control::default(), &progress)
}

fn frames(count: usize) -> Vec<Act> {
    vec![Act::Frame; count]
}

fn lost() -> Act {
    Act::Event(SourceEvent::Lost { reason: "camera front: was unplugged; trying to open it again".to_owned() })
}

fn broken() -> Act {
    let reason = "camera front, frame 3: the driver marks the picture as broken".to_owned();
    Act::Event(SourceEvent::Skipped { index: 3, path: PathBuf::from("/dev/video0"), reason })
}

#[test]
fn a_source_that_was_away_goes_on_and_is_counted() {
    let back = Act::Event(SourceEvent::Restored);
    let dropped = Act::Event(SourceEvent::Dropped { count: 4 });
    let absence = vec![lost(), Act::Silent(Duration::from_millis(300)), back, dropped];
    let script = [frames(3), absence.clone(), frames(3), absence, frames(3)].concat();
    let report = run(script, &mut processor(), &mut Discard, 9).unwrap();
    assert_eq!((report.measured.frames, report.reconnects, report.dropped, report.skipped), (9, 2, 8, 0));
    // A camera that was lost and came back changes no exit code.
    assert!(report.complete() && !report.interrupted);
    assert!(report.seconds > 0.6, "it was away twice for 0.3 s: {} s", report.seconds);
}

#[test]
fn garbage_and_frames_of_other_sizes_are_survived() {
    let script = [
        frames(2),
        vec![Act::Garbage, broken(), Act::Garbage],
        frames(1),
        vec![Act::Sized(31, 17), Act::Sized(1, 1), Act::Sized(0, 0), Act::Sized(640, 360)],
        frames(2),
    ]
    .concat();
    let report = run(script, &mut processor(), &mut Discard, 8).unwrap();
    assert_eq!((report.measured.frames, report.skipped), (8, 4), "two garbage, one broken, one empty");
    assert!(report.complete());
}

/// Fails as a backend would on the frames for which `fails` says so.
struct Failing<F> {
    inner: Processor,
    fails: F,
    seen: u64,
    recovered: u64,
}

impl<F: Fn(u64) -> bool + Send> Compute for Failing<F> {
    fn process(&mut self, slot: &mut FrameSlot) -> Result<(), PipelineError> {
        self.seen += 1;
        if (self.fails)(self.seen - 1) {
            let message = "embedding.fp32.onnx: the run failed: the device is gone";
            return Err(BackendError::new(BackendErrorKind::Run, message).into());
        }
        self.inner.process(slot)
    }

    fn recover(&mut self) {
        self.recovered += 1;
        self.inner.recover();
    }
}

#[test]
fn errors_of_the_backend_cost_frames_and_not_the_run() {
    let mut compute = Failing { inner: processor(), fails: |n| (4..9).contains(&n), seen: 0, recovered: 0 };
    let report = run(frames(30), &mut compute, &mut Discard, 20).unwrap();
    assert_eq!((report.measured.frames, report.skipped, compute.recovered), (20, 5, 5));
    assert!(report.complete());
    // Five pauses, 10 ms and twice as long each time.
    assert!(report.seconds >= 0.31, "{}", report.seconds);
}

/// Asks to stop after a while; gives the time when it did.
fn stop_after(duration: Duration, stop: Arc<AtomicBool>) -> JoinHandle<Instant> {
    let thread = std::thread::Builder::new().name("stopper".to_owned()).spawn(move || {
        std::thread::sleep(duration);
        stop.store(true, Ordering::Relaxed);
        Instant::now()
    });
    thread.unwrap()
}

#[test]
fn a_backend_that_never_works_again_can_still_be_stopped() {
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Arc::default();
    let mut source = Scripted::new(frames(1000), &progress);
    let mut compute = Failing { inner: processor(), fails: |n| n > 0, seen: 0, recovered: 0 };
    let spec = PipelineSpec { name: "scripted".to_owned(), ..PipelineSpec::default() };
    let control = Control::new(Arc::clone(&stop));
    let stopper = stop_after(Duration::from_millis(1500), stop);
    let report = pipeline::run(&mut source, &mut compute, &mut Discard, &spec, &control, &progress).unwrap();
    let late = stopper.join().unwrap().elapsed();
    assert!(late < Duration::from_secs(1), "stopped {late:?} after the request");
    // 10, 20, 40, 80, 160, 320, 500, 500 ms …
    assert!((4..=9).contains(&report.skipped), "{} tries in 1.5 s", report.skipped);
    assert_eq!(report.measured.frames, 1);
}

/// A file ends with the first error: nobody wants the rest of a result.
#[test]
fn the_same_errors_end_a_run_over_files() {
    let progress = Arc::default();
    let mut source = Scripted::new(frames(10), &progress);
    source.info.is_live = false;
    let mut compute = Failing { inner: processor(), fails: |n| n == 3, seen: 0, recovered: 0 };
    let spec = PipelineSpec { name: "scripted".to_owned(), ..PipelineSpec::default() };
    let result = pipeline::run(&mut source, &mut compute, &mut Discard, &spec, &Control::default(), &progress);
    let message = result.unwrap_err().to_string();
    assert!(message.contains("embedding.fp32.onnx"), "{message}");
}

fn file_sinks(folder: PathBuf) -> FileSinks {
    let deployment = deployment();
    FileSinks::create(FileSinksSpec {
        folder,
        save: SaveKinds::ALL,
        rate_hz: Some(30.0),
        label_space: deployment.label_space().clone(),
        has_classes: false,
        budget: DiskBudget::new(None),
    })
    .unwrap()
}

/// Fills the disk before frame `fill_at`, and frees it before frame `free_at`.
struct Filling {
    inner: FileSinks,
    filler: PathBuf,
    fill_at: u64,
    free_at: u64,
    written: Vec<u64>,
}

impl Sink for Filling {
    fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        if frame.frame.index == self.fill_at {
            // As much as there is room for.
            let _ = std::fs::write(&self.filler, vec![1; 64 << 20]);
        }
        if frame.frame.index >= self.free_at {
            let _ = std::fs::remove_file(&self.filler);
        }
        let result = FileSinks::write(&mut self.inner, frame);
        if result.is_ok() {
            self.written.push(frame.frame.index);
        }
        result
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        FileSinks::finish(&mut self.inner)
    }
}

#[test]
fn a_full_disk_costs_files_and_not_the_run() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount_of(sandbox.path("small"), "8m") else { return };
    let out = disk.0.join("out");
    let (inner, filler) = (file_sinks(out.clone()), disk.0.join("filler"));
    let mut sink = Filling { inner, filler, fill_at: 5, free_at: 8, written: Vec::new() };
    // Written again is half a second after the failure at the earliest: slow frames come after it.
    let pauses = (0..20).flat_map(|_| [Act::Frame, Act::Silent(Duration::from_millis(100))]);
    let report = run(pauses, &mut processor(), &mut sink, 20).unwrap();
    assert_eq!(report.measured.frames, 20);
    let unsaved = report.measured.unsaved;
    assert_eq!(sink.written.len() as u64 + unsaved, 20);
    assert_eq!(sink.written[..5], [0, 1, 2, 3, 4]);
    assert!((3..=14).contains(&unsaved), "{unsaved} not saved, {:?} saved", sink.written);
    assert_eq!(sink.written.last(), Some(&19), "saved again once there is room");
    assert!(!report.complete(), "files are missing: exit code 1");
    // What is there is whole: frames in all their files or in none.
    let saved = assert_whole(&out).unwrap();
    assert_eq!(saved, sink.written.len());
    for folder in ["overlay", "classes", "labels/level0", "labels/level1", "labels/level2"] {
        assert_eq!(files(&out.join(folder)).len(), saved, "{folder}");
    }
}

#[test]
fn a_clock_that_is_set_loses_nothing() {
    let sandbox = Sandbox::new();
    let times = [1_000_000, 1_000_033, 5, 38, 9_000_000_000, 9_000_000_033, 0, 33];
    let mut sink = file_sinks(sandbox.path("out"));
    let report = run(times.map(Act::At), &mut processor(), &mut sink, 8).unwrap();
    assert_eq!((report.measured.frames, report.skipped, report.dropped), (8, 0, 0));
    let published = read_frames(&sandbox.path("out/frames.hsg"));
    let sequence: Vec<u64> = published.iter().map(|frame| frame.sequence).collect();
    assert_eq!(sequence, [0, 1, 2, 3, 4, 5, 6, 7]);
    let stamps: Vec<u64> = published.iter().map(|frame| frame.capture_utc_nanos / 1_000_000).collect();
    assert_eq!(stamps, times, "the source's own stamps, whatever they are");
    // Latency is counted by a clock that nobody sets.
    assert!(report.measured.latency.distribution().max < 10_000.0);
}

#[test]
fn a_frozen_source_can_be_stopped_at_once() {
    let stop = Arc::new(AtomicBool::new(false));
    let progress: Arc<Progress> = Arc::default();
    let mut source = Scripted::new([frames(2), vec![lost()]].concat(), &progress);
    let spec = PipelineSpec { name: "scripted".to_owned(), ..PipelineSpec::default() };
    let control = Control::new(Arc::clone(&stop));
    let stopper = stop_after(Duration::from_secs(1), stop);
    let report = pipeline::run(&mut source, &mut processor(), &mut Discard, &spec, &control, &progress).unwrap();
    let late = stopper.join().unwrap().elapsed();
    assert!(late < Duration::from_millis(500), "stopped {late:?} after the request");
    assert_eq!((report.measured.frames, report.interrupted), (2, false), "being stopped is the usual end");
}

/// An engine that takes 10 ms a frame, shared by the streams of a deployment.
struct Slow {
    deployment: Arc<Deployment>,
    inside: Arc<AtomicBool>,
}

impl Compute for Slow {
    fn process(&mut self, _: &mut FrameSlot) -> Result<(), PipelineError> {
        assert!(!self.inside.swap(true, Ordering::SeqCst), "two frames in one engine");
        std::thread::sleep(Duration::from_millis(10));
        self.inside.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn recover(&mut self) {}

    fn turns(&self) -> Option<Arc<Turns>> {
        Some(Arc::clone(self.deployment.turns()))
    }
}

#[test]
fn streams_that_share_an_engine_take_turns() {
    let (deployment, inside) = (deployment(), Arc::new(AtomicBool::new(false)));
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop_after(Duration::from_secs(2), Arc::clone(&stop));
    let reports: Vec<PipelineReport> = std::thread::scope(|scope| {
        // Each has its next frame ready as soon as the one before is through.
        let streams: Vec<_> = (0..3)
            .map(|_| {
                let mut compute = Slow { deployment: Arc::clone(&deployment), inside: Arc::clone(&inside) };
                let control = Control::new(Arc::clone(&stop));
                let run = move || {
                    let progress = Arc::default();
                    let mut source = Scripted::new(frames(2000), &progress);
                    let spec = PipelineSpec { name: "scripted".to_owned(), ..PipelineSpec::default() };
                    pipeline::run(&mut source, &mut compute, &mut Discard, &spec, &control, &progress).unwrap()
                };
                std::thread::Builder::new().name("stream".to_owned()).spawn_scoped(scope, run).unwrap()
            })
            .collect();
        streams.into_iter().map(|stream| stream.join().unwrap()).collect()
    });
    stopper.join().unwrap();
    let published: Vec<u64> = reports.iter().map(|report| report.measured.frames).collect();
    let (least, most) = (published.iter().min().unwrap(), published.iter().max().unwrap());
    assert!(*least >= 20 && most - least <= 3, "{published:?}");
}

#[test]
fn faults_do_not_grow_memory() {
    let round = || {
        let back = Act::Event(SourceEvent::Restored);
        [frames(6), vec![Act::Garbage, broken(), lost(), back, Act::Sized(64, 48)], frames(1)].concat()
    };
    let script: Vec<Act> = (0..250).flat_map(|_| round()).collect();
    // Errors of the backend too, with their new sessions; rarely, because each takes a pause.
    let mut compute = Failing { inner: processor(), fails: |n| n % 97 == 96, seen: 0, recovered: 0 };
    let report = run(script, &mut compute, &mut Discard, 1950).unwrap();
    assert_eq!((report.measured.frames, report.reconnects > 230), (1950, true));
    let (start, end) = (report.measured.rss_start_bytes, report.measured.rss_end_bytes);
    let grown = end.saturating_sub(start);
    assert!(grown < 8 << 20, "grew by {grown} bytes in 1950 frames with 250 losses and 500 broken frames");
}
