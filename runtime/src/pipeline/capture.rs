//! \[F1\] Source → slots, on the thread `hsg-capture`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::slot::{BoundedQueue, CloseOnDrop, FrameSlot};
use super::{Control, Progress, nanos_since};
use crate::error::PipelineError;
use crate::source::{Source, SourceEvent};

/// What capture found by the time it ended.
#[derive(Clone, Debug, Default)]
pub(super) struct CaptureReport {
    /// Frames read.
    pub captured: u64,
    /// Frames that the container promised but did not have, with the number it did have: (promised, had).
    pub cut_short: Option<(u64, u64)>,
    /// The first input that could not be read.
    pub first_skip: Option<String>,
    /// Whether the end of the source was reached.
    pub at_end: bool,
}

/// The pace of a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// As fast as frames are taken; none is lost.
    Wait,
    /// At this rate, hertz; the newest frame wins.
    RealTime(f64),
    /// As frames come; the newest frame wins.
    Live,
}

/// Shortest time between two lines about frames that could not be read, of live sources.
const WARNING_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time between two looks at the stop flag while waiting.
const STOP_CHECK: Duration = Duration::from_millis(50);

pub(super) fn run(
    source: &mut dyn Source,
    pace: Pace,
    max_frames: Option<u64>,
    free: &BoundedQueue<Box<FrameSlot>>,
    ready: &BoundedQueue<Box<FrameSlot>>,
    control: &Control,
    progress: &Progress,
) -> Result<CaptureReport, PipelineError> {
    let _close = CloseOnDrop(ready);
    let mut report = CaptureReport::default();
    let start = Instant::now();
    let mut spare: Option<Box<FrameSlot>> = None;
    let mut warned: Option<Instant> = None;
    // A source that has nothing to give at present must not keep a run alive whose other stages have ended.
    while !control.stopped() && !ready.is_closed() {
        if pace == Pace::Wait && max_frames.is_some_and(|max| report.captured >= max) {
            break;
        }
        let Some(mut slot) = spare.take().or_else(|| free.pop()) else { break };
        let reading = Instant::now();
        match source.next(&mut slot.output.frame)? {
            SourceEvent::Frame => {}
            SourceEvent::Waiting => {
                spare = Some(slot);
                continue;
            }
            SourceEvent::Dropped { count } => {
                progress.dropped.fetch_add(count, Ordering::Relaxed);
                spare = Some(slot);
                continue;
            }
            SourceEvent::Lost { reason } => {
                log::warn!("{reason}");
                spare = Some(slot);
                continue;
            }
            SourceEvent::Restored => {
                log::warn!("`{}`: the source is back", slot.output.stream);
                progress.reconnects.fetch_add(1, Ordering::Relaxed);
                spare = Some(slot);
                continue;
            }
            SourceEvent::Skipped { reason, .. } => {
                // A camera with a bad cable would fill the log; the count is in the summary.
                if pace != Pace::Live || warned.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL) {
                    log::warn!("{reason}");
                    warned = Some(Instant::now());
                }
                progress.skipped.fetch_add(1, Ordering::Relaxed);
                report.first_skip.get_or_insert(reason);
                spare = Some(slot);
                continue;
            }
            SourceEvent::End { delivered, promised_more } => {
                report.cut_short = promised_more.map(|promised| (promised, delivered));
                // What the container promised and does not have is missing from the results like what was not readable.
                let missing = promised_more.map_or(0, |promised| promised.saturating_sub(delivered));
                progress.skipped.fetch_add(missing, Ordering::Relaxed);
                report.at_end = true;
                break;
            }
        }
        slot.output.stage_nanos.capture = source.busy().map_or_else(|| nanos_since(reading), super::nanos);
        report.captured += 1;
        let pushed = match pace {
            Pace::Wait => {
                slot.captured = Instant::now();
                ready.push(slot).map(|()| None)
            }
            Pace::Live => {
                slot.captured = Instant::now();
                ready.push_newest(slot)
            }
            Pace::RealTime(rate_hz) => {
                let due = start + Duration::from_secs_f64((report.captured - 1) as f64 / rate_hz);
                if !sleep_until(due, control) {
                    break;
                }
                slot.captured = Instant::now();
                ready.push_newest(slot)
            }
        };
        match pushed {
            Ok(oldest) => {
                if oldest.is_some() {
                    progress.dropped.fetch_add(1, Ordering::Relaxed);
                }
                spare = oldest;
            }
            // The next stage has ended and says why.
            Err(_) => break,
        }
    }
    Ok(report)
}

/// Waits; false when the run was stopped meanwhile.
pub(super) fn sleep_until(due: Instant, control: &Control) -> bool {
    loop {
        if control.stopped() {
            return false;
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(STOP_CHECK));
    }
}
