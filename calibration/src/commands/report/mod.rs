//! \[T9\] `hsg-calibrate report`: fp32, fp16 and int8 side by side, and whether int8 keeps what was promised: the receipt.
//!
//! `forms.rs` has the pipelines that run beside each other → every frame goes through all of them, by itself, and `measure.rs`
//! compares → videos go through them once more, tracked, for stability (`stability.rs`) → `speed.rs` takes times → `receipt.rs`
//! is the file, with the limits; `page.rs` and `pictures.rs` are for people.

mod forms;
mod measure;
mod page;
mod pictures;
mod receipt;
mod speed;
mod stability;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use calibration::CalibrationError;
use calibration::frames::FrameSource;
use datasets::{Dataset, DatasetKind};
use models::files::{read_file, write_atomically};
use models::manifest::{BANK, ModelFolder, Precision, QUANTIZATION, RECEIPT, embedding_file, grouping_file};
use runtime::pipeline::Deployment;
use runtime::pipeline::summary::Machine;
use runtime::program::{ImageProgress, Outcome, Printer, Signals, shipped};
use runtime::receipt::{FORMAT_VERSION, ReceiptHeader};
use segcore::image::Frame;

use self::forms::{Form, Forms};
use self::measure::Measuring;
use self::receipt::{BackendReport, DatasetReport, Receipt, SourceReport};
use super::outcome;
use crate::settings::{DatasetSettings, ReportSettings};

/// Name of the page in OUT.
const PAGE: &str = "receipt.html";

pub fn run(settings: &ReportSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    outcome(report(settings, printer, &signals), &signals)
}

fn report(settings: &ReportSettings, printer: Printer, signals: &Signals) -> anyhow::Result<Outcome> {
    runtime::backend::select(settings.model.deployment(Precision::Fp32).backend)?;
    let folder = replaceable(&shipped::open_model(&settings.model.model)?, &settings.out)?;
    let int8_name = embedding_file(Precision::Int8);
    let int8_sha256 = folder.manifest().files.get(&int8_name).cloned().with_context(|| {
        format!(
            "{}: expected a file {int8_name} listed in model.toml, got none; make it with `hsg-calibrate quantize`",
            folder.path().display()
        )
    })?;
    let dataset = settings.dataset.as_ref().map(open_dataset).transpose()?;
    let scratch = tempfile::tempdir().context("cannot make a temporary folder; is TMPDIR full or not writable?")?;
    let mut forms = Forms::load(settings, &folder, scratch.path())?;
    let deployment = Arc::clone(forms.reference());
    let info = deployment.backend();
    printer.status(format!("backend: {} ({}), int8 in floats", info.name, info.version));
    let classes = classes(&deployment, dataset.as_deref(), printer);
    let things: Vec<bool> = match &dataset {
        None => Vec::new(),
        Some(dataset) => dataset.label_space().classes.iter().map(|class| class.thing).collect(),
    };
    let mut measuring = Measuring::new(&forms, classes, things)?;
    let mut first: Option<Frame> = None;
    let dataset_report = match (&dataset, &settings.dataset) {
        (Some(dataset), Some(named)) => {
            let samples = dataset.samples();
            let wanted = settings.dataset_frames.map_or(samples.len(), |frames| samples.len().min(frames as usize));
            let mut progress = ImageProgress::new(printer, dataset.split(), wanted as u64);
            for sample in &samples[..wanted] {
                ensure!(signals.received().is_none(), CalibrationError::Stopped);
                let frame = dataset.read_image(sample)?;
                let truth = dataset.read_annotation(sample)?;
                let named = || format!("image {}", sample.image.display());
                measuring.add(&mut forms, &frame, &sample.name, Some(&truth)).with_context(named)?;
                first.get_or_insert(frame);
                progress.step();
            }
            Some(DatasetReport { dataset: named.dataset.clone(), split: named.split.clone(), frames: wanted })
        }
        _ => None,
    };
    let (mut sources, mut skipped) = (Vec::new(), 0);
    for (number, text) in settings.sources.iter().enumerate() {
        // Sources may share a name.
        let recording = scratch.path().join(format!("source-{number}"));
        let source =
            measure_source(settings, text, &mut forms, &mut measuring, &mut first, &recording, printer, signals)?;
        skipped += source.skipped;
        sources.push(source);
    }
    let Some(first) = first else { bail!("no frame could be read; check the sources") };
    printer.status("taking times");
    let speed = speed::measure(settings, &folder, &forms, &first)?;
    let figures = measuring.finish(&forms);
    let limits = receipt::check_limits(&settings.limits, &figures.forms);
    let receipt = Receipt {
        header: ReceiptHeader {
            format_version: FORMAT_VERSION,
            model_hash: folder.model_hash().to_owned(),
            embedding_int8_sha256: int8_sha256,
            grouping_int8_sha256: folder.manifest().files.get(&grouping_file(Precision::Int8)).cloned(),
            bank_sha256: folder.manifest().files.get(BANK).cloned(),
            limits_missed: receipt::missed(&limits, Form::Int8),
        },
        fp16_limits_missed: receipt::missed(&limits, Form::Fp16),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        model: folder.manifest().name.clone(),
        backend: BackendReport { name: info.name.to_owned(), version: info.version.clone() },
        machine: Machine::of(&deployment),
        vnni: !runtime::backend::int8_saturates(),
        dataset: dataset_report,
        sources,
        limits,
        forms: figures.forms,
        speed,
        sizes: receipt::sizes(&folder)?,
        quantization: quantization(&folder)?,
    };
    write(settings, &folder, &receipt, &figures.worst, printer)?;
    printer.document(&receipt)?;
    printer.text(receipt.text())?;
    let all_met = receipt.limits.iter().all(|limit| limit.met);
    Ok(if all_met && skipped == 0 { Outcome::Done } else { Outcome::Incomplete })
}

/// The folder by its full path (`.` cannot be replaced), if it can be replaced and OUT is not in it.
fn replaceable(folder: &ModelFolder, out: &Path) -> anyhow::Result<ModelFolder> {
    let path = full_path(folder.path())?;
    let parent = path.parent().with_context(|| format!("{}: expected a model folder, got the root", path.display()))?;
    tempfile::Builder::new().prefix(".hsg-report-").tempdir_in(parent).with_context(|| {
        format!(
            "{}: expected a folder that can be written, since the model folder {} is replaced by one with the receipt; \
             change its permissions, or measure a copy of the model",
            parent.display(),
            path.display()
        )
    })?;
    ensure!(
        !full_path(out)?.starts_with(&path),
        "--out {}: expected a folder outside the model, got one inside {}, which is replaced; name another folder",
        out.display(),
        path.display()
    );
    Ok(ModelFolder::open(&path)?)
}

/// A path without links and dots; its last parts may be missing.
fn full_path(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("{}: has no full path", path.display()))?;
    for there in path.ancestors() {
        if let (Ok(full), Ok(rest)) = (there.canonicalize(), path.strip_prefix(there)) {
            // An empty rest would add a slash.
            return Ok(if rest.as_os_str().is_empty() { full } else { full.join(rest) });
        }
    }
    Ok(path)
}

fn open_dataset(settings: &DatasetSettings) -> anyhow::Result<Box<dyn Dataset>> {
    let kind: DatasetKind = settings.dataset.parse()?;
    let dataset = datasets::open(kind, &settings.root, &settings.split, &settings.sequences)?;
    dataset.check_annotations()?;
    Ok(dataset)
}

/// Names of the classes that predictions and annotations share; none where they cannot be compared.
fn classes(deployment: &Deployment, dataset: Option<&dyn Dataset>, printer: Printer) -> Option<Vec<String>> {
    let dataset = dataset?;
    if deployment.bank().is_none() {
        printer.status("the model has no bank, so there is no mIoU; make one with `hsg bank build`");
        return None;
    }
    let names = |space: &segcore::label_space::LabelSpace| -> Vec<String> {
        space.classes.iter().map(|class| class.name.clone()).collect()
    };
    let (model, data) = (names(deployment.label_space()), names(&dataset.label_space()));
    if model != data {
        printer.status(format!(
            "the model's bank has other classes than {}, so there is no mIoU; make a bank of its classes with `hsg bank build`",
            dataset.name()
        ));
        return None;
    }
    Some(model)
}

fn measure_source(
    settings: &ReportSettings,
    text: &str,
    forms: &mut Forms,
    measuring: &mut Measuring,
    first: &mut Option<Frame>,
    recording: &Path,
    printer: Printer,
    signals: &Signals,
) -> anyhow::Result<SourceReport> {
    let input = forms.reference().manifest().preprocessing.input;
    let most = settings.source_frames;
    let go_on = || signals.received().is_none();
    let mut source = FrameSource::open(text, most, input)?;
    if source.is_live {
        printer.status(format!("recording {most} frames of `{}`", source.name));
        source.record(recording, most, &go_on, || {})?;
    }
    let is_video = source.is_sequence;
    // Beside labelled frames, whose figures stay theirs alone, a source says how stable each form is and no more.
    let compares = settings.dataset.is_none();
    ensure!(
        compares || is_video,
        "source `{text}`: beside --dataset a source is there for stability over time, so expected a video or images with \
         `?rate=`, got images without; leave it out, or measure it alone"
    );
    // Of a video the first frames, one after the other; of other images some of all parts.
    let source = if is_video { source.every_frame(most) } else { source };
    let passes = u64::from(compares) + u64::from(is_video);
    let total = source.promised.unwrap_or(most).min(most);
    let mut progress = ImageProgress::new(printer, &source.name, total * passes);
    let mut read = calibration::frames::Read::default();
    let visit_alone = |frame: &Frame| {
        let name = format!("{}/{:06}", source.name, frame.index);
        measuring.add(forms, frame, &name, None).map_err(CalibrationError::other)?;
        if first.is_none() {
            *first = Some(frame.clone());
        }
        progress.step();
        Ok(true)
    };
    if compares {
        read = source.read(most, &go_on, visit_alone)?;
    }
    if is_video {
        measuring.begin_video(forms);
        read = source.read(most, &go_on, |frame| {
            measuring.add_video_frame(forms, frame).map_err(CalibrationError::other)?;
            progress.step();
            Ok(true)
        })?;
    }
    Ok(SourceReport { source: source.name, frames: read.frames, tracked: is_video, skipped: read.skipped })
}

/// How the int8 network was made, if the folder says so.
fn quantization(folder: &ModelFolder) -> anyhow::Result<Option<calibration::search::Quantization>> {
    if !folder.manifest().files.contains_key(QUANTIZATION) {
        return Ok(None);
    }
    let path = folder.path().join(QUANTIZATION);
    let parsed = serde_json::from_slice(&read_file(&path)?);
    Ok(Some(parsed.with_context(|| format!("{}: expected what `quantize` wrote; quantize again", path.display()))?))
}

/// The receipt and the page into OUT; then, so that what was measured is there whatever comes, the receipt into the model folder.
fn write(
    settings: &ReportSettings,
    folder: &ModelFolder,
    receipt: &Receipt,
    worst: &[pictures::WorstFrame],
    printer: Printer,
) -> anyhow::Result<()> {
    let mut json = serde_json::to_vec_pretty(receipt).context("cannot make JSON")?;
    json.push(b'\n');
    std::fs::create_dir_all(&settings.out)
        .with_context(|| format!("cannot make the folder {}; check its permissions", settings.out.display()))?;
    write_atomically(&settings.out.join(RECEIPT), &json)?;
    let html = settings.out.join(PAGE);
    write_atomically(&html, page::page(receipt, worst)?.as_bytes())?;
    // A look at a few frames of one's own must not take int8 away from a model that has earned it.
    let has_good_one = || runtime::receipt::check(folder).is_ok_and(|looser| looser.is_empty());
    if !receipt.header.limits_missed.is_empty() && !settings.force && has_good_one() {
        printer.status(format!(
            "receipt: {}; limits were missed, so the receipt in {} stays, which met the default limits; --force replaces it",
            html.display(),
            folder.path().display()
        ));
        return Ok(());
    }
    let kept = || format!("what was measured is in {}, but not in the model folder", settings.out.display());
    folder.rewrite(None, &[(RECEIPT, &json)]).with_context(kept)?;
    printer.status(format!("receipt: {} and {}", folder.path().join(RECEIPT).display(), html.display()));
    Ok(())
}
