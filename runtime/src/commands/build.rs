//! `hsg build`: a model's TensorRT engines, for this machine's GPU.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use anyhow::Context as _;
use models::manifest::Precision;
use runtime::backend::tensorrt::{self, BuildEvent, BuildWatch, BuiltEngine};
use runtime::program::progress::LINE_INTERVAL;
use runtime::program::{Outcome, Printer, Signals, shipped, table};
use serde::Serialize;

use crate::settings::BuildSettings;

/// What `hsg build --json` prints.
#[derive(Serialize)]
struct BuildReport {
    model: String,
    precision: String,
    engines: Vec<EngineReport>,
}

/// One engine.
#[derive(Serialize)]
struct EngineReport {
    network: String,
    precision: String,
    path: String,
    /// Most frames that one run takes.
    max_batch: usize,
    /// Whether it was built just now; otherwise it was there.
    built: bool,
    bytes: u64,
    activation_bytes: u64,
    layers: usize,
    build_seconds: f64,
    tensorrt: String,
    gpu: String,
}

impl EngineReport {
    fn new(engine: BuiltEngine) -> Self {
        let BuiltEngine { path, is_new, manifest } = engine;
        Self {
            max_batch: manifest.identity.max_batch(),
            network: manifest.identity.network,
            precision: manifest.identity.precision.to_string(),
            path: path.display().to_string(),
            built: is_new,
            bytes: manifest.engine_bytes,
            activation_bytes: manifest.build.activation_bytes,
            layers: manifest.build.layers.len(),
            build_seconds: manifest.build.seconds,
            tensorrt: manifest.identity.tensorrt,
            gpu: manifest.identity.gpu.name,
        }
    }
}

/// Lines for people, and how far TensorRT is: a line every few seconds.
struct Watch<'a> {
    printer: Printer,
    signals: &'a Signals,
    last_line: Mutex<Instant>,
}

impl BuildWatch for Watch<'_> {
    fn event(&self, event: BuildEvent) {
        match event {
            BuildEvent::Line(line) => self.printer.status(line),
            BuildEvent::Progress { phase, done, steps } => {
                // Poisoned only if printing panicked: the time in it is a time still.
                let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    let of = if steps > 0 { format!(" of {steps}") } else { String::new() };
                    self.printer.status(format!("{phase}: {done}{of}"));
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.signals.received().is_some()
    }
}

pub fn run(settings: &BuildSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    // Where TensorRT does not work, nobody should wait for hashes.
    tensorrt::look().map_err(runtime::backend::BackendError::from)?;
    let folder = shipped::open_model(&settings.model)?;
    if settings.precision() == Precision::Int8 && !settings.allow_unverified {
        // Running asks the same: nobody should wait minutes for an engine that then is refused.
        runtime::receipt::check(&folder)?;
    }
    let watch = Watch { printer, signals: &signals, last_line: Mutex::new(Instant::now()) };
    let built = match tensorrt::build(&folder, settings.precision(), &settings.options, &watch) {
        Ok(built) => built,
        Err(error) => match signals.received() {
            Some(signal) => return Ok(Outcome::Interrupted(signal)),
            None => return Err(error.into()),
        },
    };
    let report = BuildReport {
        model: folder.manifest().name.clone(),
        precision: settings.precision().to_string(),
        engines: built.into_iter().map(EngineReport::new).collect(),
    };
    printer.document(&report)?;
    let mut rows = vec![
        ["network", "precision", "batch", "MB", "activations MB", "layers", "seconds", "file"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for engine in &report.engines {
        let seconds = if engine.built { format!("{:.0}", engine.build_seconds) } else { "there already".to_owned() };
        rows.push(vec![
            engine.network.clone(),
            engine.precision.clone(),
            engine.max_batch.to_string(),
            format!("{:.1}", engine.bytes as f64 / 1e6),
            format!("{:.1}", engine.activation_bytes as f64 / 1e6),
            engine.layers.to_string(),
            seconds,
            engine.path.clone(),
        ]);
    }
    printer.text(table(&rows))?;
    Ok(Outcome::Done)
}
