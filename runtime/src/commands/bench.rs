//! `hsg bench`: latency and throughput of the whole pipeline; plays its source again and again and saves nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use runtime::PipelineError;
use runtime::pipeline::publish::Discard;
use runtime::pipeline::summary::Summary;
use runtime::pipeline::{self, Control, PipelineSpec, Processor, Progress};
use runtime::source::{self, Source, SourceError, SourceEvent, SourceInfo, SourceSpec, TRACKED_RATE_HZ};
use serde::Serialize;

use super::{load, with_user_bank};
use crate::settings::BenchSettings;
use runtime::program::printer::{Printer, table};
use runtime::program::shipped;
use runtime::program::signals::Signals;
use runtime::program::{Outcome, frame_bar};

/// What `hsg bench` prints with `--json`: the summary and what only a benchmark asks.
#[derive(Serialize)]
struct BenchReport {
    #[serde(flatten)]
    summary: Summary,
    /// Whether frames were tracked.
    track: bool,
    /// Mean time inside the two networks, part of embed and group; null where they are links of a chain on a GPU, which
    /// nobody interrupts to take times (also below).
    network_millis: Option<f64>,
    /// Share of the sum of stage means outside the networks, 0–1.
    outside_network_share: Option<f64>,
    /// Share of the sum of stage means outside the stages embed and group, 0–1.
    outside_network_stages_share: Option<f64>,
    /// Resident set after 10 frames.
    rss_start_bytes: u64,
    /// Resident set after the last frame.
    rss_end_bytes: u64,
}

pub fn run(settings: &BenchSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    let text = match &settings.source {
        Some(text) => text.clone(),
        None => shipped::default_clip()?.display().to_string(),
    };
    let mut source = LoopedSource::open(&text)?;
    let deployment = with_user_bank(load(&settings.model, printer)?, settings.user_bank, printer)?;
    source.set_input_size(deployment.manifest().preprocessing.input)?;
    // What is played at a sequence's rate is a sequence; a slower rate makes none of a set of images.
    let played_fast = settings.rate_hz.is_some_and(|rate| rate >= TRACKED_RATE_HZ);
    let spec = settings.compute.processor(source.info().is_sequence || played_fast, settings.deadline);
    let track = spec.tracking;
    let mut processor = Processor::new(Arc::clone(&deployment), spec)?;
    if processor.is_on_device() {
        source.leave_pixels_as_they_are();
    }
    let spec = PipelineSpec {
        name: source.name().to_owned(),
        max_frames: Some(settings.frames),
        realtime_hz: settings.rate_hz,
    };
    let bar = frame_bar(printer, &spec.name, Some(settings.frames));
    let progress = Progress::default();
    let control = Control::new(signals.stop_flag());
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("hsg-compute".to_owned()).spawn_scoped(scope, || {
            pipeline::run(&mut source, &mut processor, &mut Discard, &spec, &control, &progress)
        });
        let handle = thread.map_err(|source| PipelineError::Spawn { source })?;
        while !handle.is_finished() {
            if let Some(bar) = &bar {
                bar.set_position(progress.frames.load(std::sync::atomic::Ordering::Relaxed));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        handle.join().unwrap_or(Err(PipelineError::Thread { name: spec.name.clone(), thread: "hsg-compute" }))
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let report = result?;
    let summary = Summary::new(&deployment, &text, &report);
    let stages = summary.stages_millis;
    let (total, network) = (stages.total_mean(), report.measured.network.distribution().mean);
    let share = |part: f64| if total > 0.0 { part / total } else { 0.0 };
    let is_host = summary.stages_on.device_frames == 0;
    let bench = BenchReport {
        track,
        network_millis: is_host.then_some(network),
        outside_network_share: is_host.then(|| share(total - network)),
        outside_network_stages_share: is_host.then(|| share(total - stages.embed.mean - stages.group.mean)),
        rss_start_bytes: report.measured.rss_start_bytes,
        rss_end_bytes: report.measured.rss_end_bytes,
        summary,
    };
    printer.document(&bench)?;
    printer.text(text_report(&bench))?;
    match signals.received() {
        Some(signal) => Ok(Outcome::Interrupted(signal)),
        None if report.complete() => Ok(Outcome::Done),
        None => Ok(Outcome::Incomplete),
    }
}

fn text_report(bench: &BenchReport) -> String {
    let summary = &bench.summary;
    let stages = summary.stages_millis;
    let total = stages.total_mean();
    let millis = |value: f64| format!("{value:.2}");
    let mut rows = vec![["", "mean ms", "p50", "p99", "p99.9", "max", "share"].map(str::to_owned).to_vec()];
    let mut row = |name: &str, d: pipeline::stats::Distribution, share: String| {
        rows.push(vec![
            name.to_owned(),
            millis(d.mean),
            millis(d.p50),
            millis(d.p99),
            millis(d.p999),
            millis(d.max),
            share,
        ]);
    };
    row("latency", summary.latency_millis, String::new());
    for (name, distribution) in stages.named() {
        let share = if total > 0.0 { distribution.mean / total } else { 0.0 };
        row(name, distribution, format!("{:.1} %", 100.0 * share));
    }
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let shares = (bench.network_millis, bench.outside_network_share, bench.outside_network_stages_share);
    let networks = match shares {
        (Some(network), Some(outside), Some(outside_stages)) => format!(
            "of it networks {} ms; outside the networks {:.1} % (outside the stages embed and group {:.1} %)",
            millis(network),
            100.0 * outside,
            100.0 * outside_stages
        ),
        _ => format!(
            "preprocess to refine on the GPU for {} frames, {} of them as a graph, {} uploaded ahead",
            summary.stages_on.device_frames, summary.stages_on.graph_frames, summary.stages_on.uploaded_ahead_frames
        ),
    };
    format!(
        "{} frames in {:.2} s: {:.2} fps; {} dropped; jitter {} ms; {} threads of {}\n{}\
         sum of stage means {} ms, {networks}\n\
         resident memory {} after {} frames, {} at the end, peak {}",
        summary.frames,
        summary.seconds,
        summary.frames_per_second,
        summary.dropped,
        millis(summary.jitter_millis),
        summary.machine.threads,
        summary.machine.cpu,
        table(&rows),
        millis(total),
        megabytes(bench.rss_start_bytes),
        summary.frames.min(pipeline::publish::WARM_UP_FRAMES),
        megabytes(bench.rss_end_bytes),
        megabytes(summary.peak_rss_bytes),
    )
}

/// A source that starts again at its end, for ever.
struct LoopedSource {
    spec: SourceSpec,
    name: String,
    info: SourceInfo,
    /// None only while it starts again.
    inner: Option<Box<dyn Source>>,
    /// What [`Source::leave_pixels_as_they_are`] asked for.
    as_they_are: bool,
    /// Whether this round had a frame: a source without any must not be tried for ever.
    any_frame: bool,
}

impl LoopedSource {
    fn open(text: &str) -> Result<Self, SourceError> {
        let spec = SourceSpec::parse(text)?;
        let inner = source::open_spec(&spec)?;
        let (name, info) = (inner.name().to_owned(), inner.info().clone());
        Ok(Self { spec, name, info, inner: Some(inner), as_they_are: false, any_frame: false })
    }
}

impl Source for LoopedSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn set_input_size(&mut self, input: segcore::image::ImageSize) -> Result<(), SourceError> {
        let Some(inner) = &mut self.inner else { return Ok(()) };
        inner.set_input_size(input)?;
        // A camera may have chosen another size and rate for it.
        self.info = inner.info().clone();
        Ok(())
    }

    fn leave_pixels_as_they_are(&mut self) {
        self.as_they_are = true;
        if let Some(inner) = &mut self.inner {
            inner.leave_pixels_as_they_are();
        }
    }

    fn busy(&self) -> Option<Duration> {
        self.inner.as_ref().and_then(|inner| inner.busy())
    }

    fn next(&mut self, frame: &mut segcore::image::Frame) -> Result<SourceEvent, SourceError> {
        loop {
            let inner = match &mut self.inner {
                Some(inner) => inner,
                None => {
                    let inner = self.inner.insert(source::open_spec(&self.spec)?);
                    if self.as_they_are {
                        inner.leave_pixels_as_they_are();
                    }
                    inner
                }
            };
            match inner.next(frame)? {
                SourceEvent::End { .. } if self.any_frame => {
                    // Before the next one is there: two decoders at once are memory that no run of a source needs.
                    self.inner = None;
                    self.any_frame = false;
                }
                event => {
                    self.any_frame |= matches!(event, SourceEvent::Frame);
                    return Ok(event);
                }
            }
        }
    }
}
