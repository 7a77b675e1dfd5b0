//! \[T9\] `hsg-calibrate collect`: frames that differ, and what values the tensors take on them.
//!
//! Two passes over the sources: every candidate is described by the deployed network, k-centre chooses, and those chosen are
//! run again with all inner tensors as outputs. Each frame's result is a line of a journal, `OUT.partial`, written before the
//! next frame begins: a run that was killed takes them from there, and gives what it would have given.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use calibration::CalibrationError;
use calibration::frames::{FrameSource, content, frame_name};
use calibration::observe::{Description, Observer};
use calibration::ranges::{Bits, Method, best, range, relative_error};
use calibration::select::{distance, k_centre};
use calibration::table::Table;
use models::files::{file_error, write_atomically};
use runtime::pipeline::Deployment;
use runtime::pipeline::unlike::UNLIKE;
use runtime::program::{ImageProgress, Outcome, Printer, Signals, table as text_table};
use serde::{Deserialize, Serialize};

use super::{deploy, outcome, read_table};
use crate::settings::CollectSettings;

/// Fewer frames than this say too little about the road.
const LEAST_FRAMES: usize = 8;
/// Bytes that every journal begins with.
const JOURNAL_START: &[u8] = br#"{"line":"run","#;
/// So many of them are named in the warning.
const NAMED: usize = 3;

/// A line of the journal.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, tag = "line", rename_all = "kebab-case")]
enum Line {
    /// What the others belong to: the first line.
    Run(RunKey),
    /// A candidate.
    Described { source: usize, index: u64, name: String, features: Vec<f32>, unknown: Option<f32> },
    /// A frame that was chosen: the table of this frame alone.
    Observed { table: Table },
}

/// What decides the result: another run may not go on from here.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RunKey {
    program: String,
    model_hash: String,
    backend: String,
    sources: Vec<String>,
    frames: u64,
    candidates: u64,
}

/// What `hsg-calibrate collect` prints with `--json`.
#[derive(Serialize)]
struct CollectReport {
    path: String,
    model: String,
    model_hash: String,
    /// Frames that were chosen from.
    candidates: usize,
    /// Inputs that could not be read.
    skipped: u64,
    /// Frames of this run, in the order of choice.
    chosen: Vec<ChosenFrame>,
    /// Largest distance of any candidate to the nearest chosen frame.
    radius: Option<f32>,
    /// Frames of the table, merged ones included.
    frames: usize,
    tensors: Vec<TensorReport>,
}

#[derive(Serialize)]
struct ChosenFrame {
    name: String,
    /// Mean distance to the nearest prototype of the bank; null without a bank.
    unknown: Option<f32>,
}

/// Ranges of a tensor, for 8 bits with a zero point.
#[derive(Serialize)]
struct TensorReport {
    tensor: String,
    values: u64,
    min: f32,
    max: f32,
    /// The method with the smallest expected error.
    best: Method,
    ranges: BTreeMap<Method, RangeReport>,
}

#[derive(Serialize)]
struct RangeReport {
    low: f32,
    high: f32,
    /// Mean squared error as a share of the mean square.
    expected_error: f64,
}

pub fn run(settings: &CollectSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    outcome(collect(settings, printer, &signals), &signals)
}

fn collect(settings: &CollectSettings, printer: Printer, signals: &Signals) -> anyhow::Result<Outcome> {
    let wanted = usize::try_from(settings.frames).unwrap_or(usize::MAX);
    ensure!(
        wanted >= LEAST_FRAMES || settings.sources.is_empty(),
        "--frames {wanted}: expected at least {LEAST_FRAMES}; ranges of fewer frames do not hold on others"
    );
    let deployment = deploy(&settings.model, printer)?;
    let model_hash = deployment.folder().model_hash().to_owned();
    // Tables first: a wrong one should not wait for an hour of frames.
    let merged = settings.merge.iter().map(|path| read_table(path, &model_hash)).collect::<Result<Vec<_>, _>>()?;
    let partial = suffixed(&settings.out, ".partial");
    let recordings = suffixed(&settings.out, ".frames");
    let mut table = Table::new(&model_hash);
    let (mut found, mut selection) = (Found::default(), Vec::new());
    let mut radius = None;
    if !settings.sources.is_empty() {
        let mut sources = open_sources(settings, &deployment)?;
        record(&mut sources, &recordings, settings, printer, signals)?;
        let key = RunKey {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            model_hash: model_hash.clone(),
            backend: format!("{} {}", deployment.backend().name, deployment.backend().version),
            sources: settings.sources.clone(),
            frames: settings.frames,
            candidates: settings.candidates,
        };
        let mut journal = Journal::open(&partial, &key)?;
        if journal.num_lines() > 0 {
            printer.status(format!("going on from {}: {} frames are done", partial.display(), journal.num_lines()));
        }
        let scratch = tempfile::tempdir().context("cannot make a temporary folder; is TMPDIR full or not writable?")?;
        let mut observer =
            Observer::new(Arc::clone(&deployment), deployment.spec().backend, scratch.path()).map_err(stop)?;
        found = describe(&sources, &mut observer, &mut journal, settings, printer, signals)?;
        let features: Vec<Vec<f32>> = found.candidates.iter().map(|candidate| candidate.features.clone()).collect();
        if found.candidates.len() < LEAST_FRAMES {
            bail!(CalibrationError::TooFewFrames {
                expected: LEAST_FRAMES,
                got: found.candidates.len(),
                detail: format!(
                    "{} were read, {} of them the same as another",
                    found.read,
                    found.read as usize - found.candidates.len()
                ),
            });
        }
        let choice = k_centre(&features, wanted);
        radius = choice.radius.last().copied();
        selection = choice.chosen;
        warn_of_strangers(&found.candidates, &selection, &features, printer);
        observe(&sources, &found, &selection, &mut observer, &mut journal, &mut table, printer, signals)?;
    }
    for (path, other) in settings.merge.iter().zip(&merged) {
        table.merge(other).with_context(|| path.display().to_string())?;
    }
    write_atomically(&settings.out, table.to_json()?.as_bytes())?;
    // What is in the table need not be done again.
    let _ = std::fs::remove_file(&partial);
    let _ = std::fs::remove_dir_all(&recordings);
    let report = CollectReport {
        path: settings.out.display().to_string(),
        model: deployment.manifest().name.clone(),
        model_hash,
        candidates: found.candidates.len(),
        skipped: found.skipped,
        chosen: selection.iter().filter_map(|&at| found.candidates.get(at)).map(Candidate::chosen).collect(),
        radius,
        frames: table.frames.len(),
        tensors: table.tensors.iter().map(|(name, histogram)| TensorReport::of(name, histogram)).collect(),
    };
    printer.document(&report)?;
    printer.text(report.text())?;
    Ok(if found.skipped > 0 { Outcome::Incomplete } else { Outcome::Done })
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn stop(error: CalibrationError) -> anyhow::Error {
    error.into()
}

fn open_sources(settings: &CollectSettings, deployment: &Deployment) -> anyhow::Result<Vec<FrameSource>> {
    let input = deployment.manifest().preprocessing.input;
    let open = |text: &String| FrameSource::open(text, settings.candidates, input).map_err(stop);
    settings.sources.iter().map(open).collect()
}

/// Live sources become folders of what they showed.
fn record(
    sources: &mut [FrameSource],
    folder: &Path,
    settings: &CollectSettings,
    printer: Printer,
    signals: &Signals,
) -> anyhow::Result<()> {
    let of = |number: usize| folder.join(number.to_string());
    // What cannot go on is said before anything is read.
    for (number, source) in sources.iter().enumerate().filter(|(_, source)| source.is_live) {
        source.is_recorded(&of(number), settings.candidates)?;
    }
    for (number, source) in sources.iter_mut().enumerate().filter(|(_, source)| source.is_live) {
        printer.status(format!("recording up to {} frames of `{}`", settings.candidates, source.name));
        let mut progress = ImageProgress::new(printer, &source.name.clone(), settings.candidates);
        let go_on = || signals.received().is_none();
        source.record(&of(number), settings.candidates, &go_on, || progress.step())?;
    }
    Ok(())
}

/// A frame that may be chosen.
struct Candidate {
    source: usize,
    index: u64,
    name: String,
    features: Vec<f32>,
    unknown: Option<f32>,
}

impl Candidate {
    fn chosen(&self) -> ChosenFrame {
        ChosenFrame { name: self.name.clone(), unknown: self.unknown }
    }
}

/// Frames of the sources, each content once.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    read: u64,
    skipped: u64,
}

fn describe(
    sources: &[FrameSource],
    observer: &mut Observer,
    journal: &mut Journal,
    settings: &CollectSettings,
    printer: Printer,
    signals: &Signals,
) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    for (source_number, source) in sources.iter().enumerate() {
        let total = source.promised.unwrap_or(settings.candidates);
        let mut progress = ImageProgress::new(printer, &format!("describing {}", source.name), total);
        let read = source.read(settings.candidates, &|| signals.received().is_none(), |frame| {
            let name = frame_name(&source.name, frame);
            progress.step();
            if !seen.insert(content(&name).to_owned()) {
                return Ok(true);
            }
            let Description { features, unknown } = match journal.described.get(&(source_number, frame.index)) {
                Some((held, description)) if *held == name => description.clone(),
                _ => {
                    let description = observer.describe(frame, &name)?;
                    journal.add(&Line::Described {
                        source: source_number,
                        index: frame.index,
                        name: name.clone(),
                        features: description.features.clone(),
                        unknown: description.unknown,
                    })?;
                    description
                }
            };
            found.candidates.push(Candidate { source: source_number, index: frame.index, name, features, unknown });
            Ok(true)
        })?;
        found.read += read.frames;
        found.skipped += read.skipped;
    }
    Ok(found)
}

/// Says which of the chosen frames are unlike what the model knows.
fn warn_of_strangers(candidates: &[Candidate], chosen: &[usize], features: &[Vec<f32>], printer: Printer) {
    let mut strangers: Vec<(f32, usize)> = chosen
        .iter()
        .filter_map(|&at| Some((candidates.get(at)?.unknown.filter(|unknown| *unknown > UNLIKE)?, at)))
        .collect();
    if candidates.iter().all(|candidate| candidate.unknown.is_none()) {
        printer.status("the model has no bank, so whether these frames are like the street cannot be told");
        return;
    }
    strangers.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    if 2 * strangers.len() > chosen.len() {
        let median = strangers.get(strangers.len() / 2).map_or(0.0, |stranger| stranger.0);
        log::warn!(
            "{} of {} frames are unlike the street that the model knows: distance {median:.3} to its bank, at most {UNLIKE} \
             expected; if this is not the camera that the model will see, collect from that one",
            strangers.len(),
            chosen.len()
        );
        return;
    }
    for (unknown, at) in strangers.iter().take(NAMED) {
        let others: Vec<Vec<f32>> =
            chosen.iter().filter(|other| *other != at).map(|&other| features[other].clone()).collect();
        log::warn!(
            "frame {} is unlike the street that the model knows: distance {unknown:.3} to its bank, at most {UNLIKE} \
             expected; {:.2} to the nearest other frame; leave it out unless the camera will see such",
            candidates[*at].name,
            distance(&features[*at], &others)
        );
    }
    if strangers.len() > NAMED {
        log::warn!("and {} more of {} frames", strangers.len() - NAMED, chosen.len());
    }
}

/// Runs the chosen frames with inner tensors as outputs.
fn observe(
    sources: &[FrameSource],
    found: &Found,
    chosen: &[usize],
    observer: &mut Observer,
    journal: &mut Journal,
    table: &mut Table,
    printer: Printer,
    signals: &Signals,
) -> anyhow::Result<()> {
    let wanted: BTreeMap<(usize, u64), &Candidate> = chosen
        .iter()
        .filter_map(|&at| found.candidates.get(at))
        .map(|candidate| ((candidate.source, candidate.index), candidate))
        .collect();
    let mut progress = ImageProgress::new(printer, "observing", wanted.len() as u64);
    for (source_number, source) in sources.iter().enumerate() {
        let mut left = wanted.keys().filter(|(of, _)| *of == source_number).count();
        if left == 0 {
            continue;
        }
        source.read(u64::MAX, &|| signals.received().is_none(), |frame| {
            let Some(candidate) = wanted.get(&(source_number, frame.index)) else { return Ok(true) };
            left -= 1;
            progress.step();
            let name = frame_name(&source.name, frame);
            if name != candidate.name {
                let what = format!("expected frame {} as it was described, got another picture", frame.index);
                return Err(CalibrationError::Changed { source_name: source.name.clone(), what });
            }
            match journal.observed.get(&name) {
                Some(held) => table.merge(held)?,
                None => {
                    let mut of_frame = Table::new(&table.model_hash);
                    observer.observe(frame, &name, &mut of_frame)?;
                    table.merge(&of_frame)?;
                    journal.add(&Line::Observed { table: of_frame })?;
                }
            }
            Ok(left > 0)
        })?;
        if left > 0 {
            let what = format!("expected the frames that were described, got {left} of those chosen no more");
            bail!(CalibrationError::Changed { source_name: source.name.clone(), what });
        }
    }
    Ok(())
}

/// What is done already, and where more of it goes.
struct Journal {
    path: PathBuf,
    file: std::fs::File,
    described: BTreeMap<(usize, u64), (String, Description)>,
    observed: BTreeMap<String, Table>,
}

impl Journal {
    /// Opens the journal of this run, or begins one.
    fn open(path: &Path, key: &RunKey) -> anyhow::Result<Self> {
        let (mut described, mut observed) = (BTreeMap::new(), BTreeMap::new());
        let no_journal = || {
            format!(
                "{}: expected the journal of a run that was cut off, got something else; move or delete the file, or name \
                 another --out",
                path.display()
            )
        };
        // Bytes of whole lines: a line that a kill cut off is written again.
        let mut whole = 0;
        if path.is_file() {
            let file = std::fs::File::open(path).map_err(|e| file_error("read", path, e))?;
            let mut reader = BufReader::new(file);
            let mut text = Vec::new();
            loop {
                text.clear();
                reader.read_until(b'\n', &mut text).map_err(|e| file_error("read", path, e))?;
                if text.last() != Some(&b'\n') {
                    let begins = text.starts_with(JOURNAL_START) || JOURNAL_START.starts_with(&text);
                    ensure!(whole > 0 || begins, no_journal());
                    break;
                }
                match serde_json::from_slice(&text) {
                    Ok(Line::Run(held)) if whole == 0 => ensure!(
                        held == *key,
                        "{}: a run that was cut off lies here, with {held:?}; this one has {key:?}: repeat that command, \
                         delete the file, or name another --out",
                        path.display()
                    ),
                    Ok(Line::Described { source, index, name, features, unknown }) if whole > 0 => {
                        described.insert((source, index), (name, Description { features, unknown }));
                    }
                    Ok(Line::Observed { table }) if whole > 0 => {
                        let names = table.frames.clone();
                        observed.extend(names.into_iter().map(|name| (name, table.clone())));
                    }
                    _ => bail!(no_journal()),
                }
                whole += text.len() as u64;
            }
        } else if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| file_error("create", folder, e))?;
        }
        let failed = |e| file_error("write", path, e);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        file.set_len(whole).map_err(failed)?;
        let mut journal = Self { path: path.to_owned(), file, described, observed };
        if whole == 0 {
            journal.add(&Line::Run(key.clone()))?;
        }
        Ok(journal)
    }

    fn num_lines(&self) -> usize {
        self.described.len() + self.observed.len()
    }

    fn add(&mut self, line: &Line) -> Result<(), CalibrationError> {
        let mut text =
            serde_json::to_vec(line).map_err(|error| CalibrationError::Damaged { what: error.to_string() })?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(|e| file_error("write", &self.path, e))?;
        Ok(())
    }
}

impl TensorReport {
    fn of(name: &str, histogram: &calibration::histogram::Histogram) -> Self {
        let (min, max) = histogram.extremes().unwrap_or_default();
        let of_method = |method: Method| {
            let held = range(histogram, method, Bits::Asymmetric);
            let expected_error = relative_error(histogram, held, Bits::Asymmetric);
            (method, RangeReport { low: held.low, high: held.high, expected_error })
        };
        Self {
            tensor: name.to_owned(),
            values: histogram.total(),
            min,
            max,
            best: best(histogram, Bits::Asymmetric).0,
            ranges: Method::ALL.into_iter().map(of_method).collect(),
        }
    }
}

impl CollectReport {
    fn text(&self) -> String {
        let heads = ["tensor", "min", "max", "min-max", "percentile", "entropy", "mse"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for tensor in &self.tensors {
            let error =
                |method| tensor.ranges.get(&method).map_or(String::new(), |r| format!("{:.1e}", r.expected_error));
            let extremes = [format!("{:.3}", tensor.min), format!("{:.3}", tensor.max)];
            let errors = Method::ALL.map(error);
            rows.push([tensor.tensor.clone()].into_iter().chain(extremes).chain(errors).collect());
        }
        format!(
            "{}expected errors of 8 bits with a zero point, as a share of the mean square\n{} of {} frames observed, {} in \
             the table {}",
            text_table(&rows),
            self.chosen.len(),
            self.candidates,
            self.frames,
            self.path
        )
    }
}
