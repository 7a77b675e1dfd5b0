//! Thousands of frames on a backend without networks: memory stays what it is after the first few, and neither frames
//! that fail nor frames that take long change that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::pipeline::publish::Sink;
use runtime::pipeline::stats::rss_bytes;
use runtime::pipeline::{self, Control, PipelineReport, PipelineSpec, Processor, ProcessorSpec, Progress};
use runtime::sink::{Publisher, SegmentedFrame, SinkError};
use tests::fake_backend::{FakeBackend, Faults};
use tests::folders::tiny_model;
use tests::moving::MovingStreet;

/// Frames until memory counts as settled: all buffers have their size, and what is remembered of segments that are gone
/// (30 frames) has come and gone.
const WARM_UP: u64 = 500;

/// Memory of the process may grow by this much afterwards: pages of the program and of ids that are touched for the first
/// time. One KiB lost per frame would be more.
const MAX_GROWTH_BYTES: u64 = 2 << 20;

/// Memory is that of the whole process, so the tests of this file go one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing behind.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes into memory, and looks at that of the process.
#[derive(Default)]
struct Watch {
    publisher: Publisher,
    bytes: Vec<u8>,
    settled_rss_bytes: u64,
    last_index: Option<u64>,
}

impl Sink for Watch {
    fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        assert!(self.last_index.is_none_or(|last| last < frame.frame.index), "frames stay in order");
        self.last_index = Some(frame.frame.index);
        self.bytes.clear();
        wire::encode_into(self.publisher.publish(frame), &mut self.bytes).expect("the frame is published");
        if frame.sequence == WARM_UP {
            self.settled_rss_bytes = rss_bytes();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Plays the moving street until `frames` are published; returns the memory after [`WARM_UP`] frames, too.
fn play(backend: &FakeBackend, live: bool, in_step: bool, frames: u64) -> (PipelineReport, u64) {
    let progress = Arc::<Progress>::default();
    let mut source = MovingStreet::new(live);
    if in_step {
        source = source.in_step_with(&progress);
    }
    let spec = ProcessorSpec { tracking: true, ..ProcessorSpec::default() };
    let mut processor = Processor::new(backend.deploy(&tiny_model(), 2), spec).unwrap();
    let mut sink = Watch::default();
    let spec = PipelineSpec { name: "street".to_owned(), max_frames: Some(frames), realtime_hz: None };
    let report = pipeline::run(&mut source, &mut processor, &mut sink, &spec, &Control::default(), &progress).unwrap();
    assert_eq!(report.measured.frames, frames);
    (report, sink.settled_rss_bytes)
}

fn assert_flat(report: &PipelineReport, settled: u64) {
    let end = report.measured.rss_end_bytes;
    assert!(
        settled > 1_000_000 && end < settled + MAX_GROWTH_BYTES,
        "resident memory {settled} bytes after {WARM_UP} frames, {end} after {}",
        report.measured.frames
    );
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_flat_over_thousands_of_frames() {
    let _alone = alone();
    let (report, settled) = play(&FakeBackend::default(), false, false, 10_000);
    assert_eq!((report.skipped, report.dropped), (0, 0));
    assert_flat(&report, settled);
}

#[test]
#[cfg(target_os = "linux")]
fn frames_that_fail_cost_no_memory_and_no_more_frames_than_themselves() {
    let _alone = alone();
    let backend = FakeBackend::new(Faults { fail_every: 10, ..Faults::default() });
    let (report, settled) = play(&backend, true, true, 1500);
    // Every tenth frame that the backend was asked for; it fails before anything else could be lost.
    assert_eq!(report.skipped, backend.frames() / 10);
    assert!(report.skipped >= 150, "{} frames failed", report.skipped);
    assert_eq!(report.dropped, 0);
    assert_flat(&report, settled);
}

#[test]
fn files_end_with_the_first_frame_that_fails() {
    let _alone = alone();
    let backend = FakeBackend::new(Faults { fail_every: 10, ..Faults::default() });
    let mut processor = Processor::new(backend.deploy(&tiny_model(), 2), ProcessorSpec::default()).unwrap();
    let spec = PipelineSpec { name: "street".to_owned(), max_frames: Some(100), realtime_hz: None };
    let mut sink = Watch::default();
    let error = pipeline::run(
        &mut MovingStreet::new(false),
        &mut processor,
        &mut sink,
        &spec,
        &Control::default(),
        &Progress::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("frame 10 fails on demand"), "{error}");
    assert_eq!(sink.last_index, Some(8), "what was segmented before is published");
}

#[test]
fn while_a_frame_takes_long_newer_ones_take_its_place() {
    let _alone = alone();
    let slow_for = Duration::from_millis(40);
    let backend = FakeBackend::new(Faults { slow_every: 10, slow_for, ..Faults::default() });
    let (report, _) = play(&backend, true, false, 100);
    // The source has a frame every half millisecond or so; one of those that came meanwhile is taken, the rest make way.
    assert!(report.dropped > 50, "{} frames dropped", report.dropped);
    assert_eq!(report.skipped, 0);
    let latency = report.measured.latency.distribution();
    assert!(latency.max >= 40.0, "{latency:?}");
    // Nothing queues up behind a slow frame: half of the frames know nothing of it.
    assert!(latency.p50 < 40.0, "{latency:?}");
}
