//! `hsg eval`: measures the deployed pipeline on labelled images. Nothing is dropped: an image or annotation that cannot
//! be read ends the evaluation, because a figure without it would be another figure.
//!
//! `plan.rs` says which samples a shard has → here each goes through the pipeline → `meter.rs` compares it with its
//! annotation and the frame before, into `sums.rs` (levels: `levels.rs`, instances: `instances.rs`), and `worst.rs` keeps
//! the frames to look at (`pictures.rs`) → `shard_file.rs` writes everything: figures (`evaluation.rs`, `class_figures.rs`), the page
//! (`report.rs`), and what `merge.rs` puts together. `predictions.rs` writes class maps for the official tools, `mapping.rs`
//! says which classes a foreign bank and the data set have in common, `against_reference.rs` compares with clustering at
//! full resolution.
//! `files/` measures prediction files of any program.

mod against_reference;
mod class_figures;
mod evaluation;
pub mod files;
mod instances;
mod levels;
mod mapping;
pub mod merge;
mod meter;
mod pictures;
mod plan;
mod predictions;
mod report;
mod shard_file;
mod sums;
mod worst;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, ensure};
use datasets::{Annotation, Dataset, DatasetError, DatasetKind, FrameGap, SampleEntry};
use runtime::pipeline::names::Naming;
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::summary::{BackendSummary, Machine};
use runtime::pipeline::{Deployment, Placement, Processor, Resolution};
use runtime::source::TRACKED_RATE_HZ;
use segcore::image::Frame;
use segcore::label_space::LabelSpace;

use self::against_reference::AgainstReference;
use self::evaluation::Identity;
use self::mapping::{MappingReport, MeasuredClasses};
use self::meter::{MeasuredSample, Meter, classes_of};
use self::pictures::Drawing;
use self::predictions::PredictionWriter;
use self::shard_file::ShardFile;
use self::worst::WorstFrames;
use super::{deploy, open_dataset, output_folder};
use crate::settings::{EvalSettings, Shard};
use runtime::program::printer::Printer;
use runtime::program::signals::{Signal, Signals};
use runtime::program::{ImageProgress, Outcome};
use runtime::sink::OutputFolder;

/// Samples that are read ahead.
const READ_AHEAD: usize = 2;

pub fn run(settings: &EvalSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    let dataset = open_dataset(&settings.dataset)?;
    // Before the work, which may take hours.
    if let Some(folder) = &settings.save_predictions {
        predictions::refuse_folder_of(&*dataset, &settings.dataset.root, folder)?;
    }
    let mut folders = Vec::new();
    let made = make_folders(settings, &mut folders);
    if made.is_err() {
        folders.iter().for_each(OutputFolder::remove_if_empty);
    }
    made?;
    let outcome = evaluate(settings, printer, &signals, &*dataset);
    // What failed or was interrupted before its first file leaves no trace.
    folders.iter().for_each(OutputFolder::remove_if_empty);
    if let Ok(Outcome::Interrupted(_)) = outcome {
        printer.status("interrupted: no figures are written, since those of a part would be others");
    }
    outcome
}

/// The folders of `--out` and `--save-predictions`, which may be one, or one in the other.
fn make_folders(settings: &EvalSettings, folders: &mut Vec<OutputFolder>) -> anyhow::Result<()> {
    if let Some(folder) = &settings.out {
        folders.push(output_folder("--out", folder, settings.force)?);
    }
    if let Some(folder) = &settings.save_predictions {
        let is_out = |out: &OutputFolder| match (out.path().canonicalize(), folder.canonicalize()) {
            (Ok(out), Ok(folder)) => out == folder,
            _ => false,
        };
        if !folders.iter().any(is_out) {
            folders.push(output_folder("--save-predictions", folder, settings.force)?);
        }
    }
    Ok(())
}

fn evaluate(
    settings: &EvalSettings,
    printer: Printer,
    signals: &Signals,
    dataset: &dyn Dataset,
) -> anyhow::Result<Outcome> {
    let kind: DatasetKind = settings.dataset.dataset.parse()?;
    let deployment = deploy(&settings.model, printer)?;
    let has_classes = deployment.bank().is_some();
    let classes =
        has_classes.then(|| MeasuredClasses::new(&deployment, dataset, &settings.dataset.root)).transpose()?;
    ensure!(
        has_classes || settings.save_predictions.is_none(),
        "--save-predictions: the model {} has no prototype bank, so there are no classes to save; make one with `hsg bank build`",
        deployment.manifest().name
    );
    let mapping = classes.as_ref().and_then(MeasuredClasses::report);
    ensure!(
        mapping.is_none() || settings.save_predictions.is_none(),
        "--save-predictions: the files have the classes of the data set, and the model's bank has others; make a bank of \
         them with `hsg bank build --dataset {} …`",
        dataset.name()
    );
    // Without a mapping the model's classes are those of the data set.
    let label_space = match (&classes, &mapping) {
        (Some(classes), Some(_)) => classes.space().clone(),
        _ => dataset.label_space(),
    };
    let wanted = settings.frames.map_or(dataset.samples().len(), |frames| dataset.samples().len().min(frames as usize));
    let plan = plan::samples_of(dataset, wanted, settings.shard);
    let is_mapped = mapping.is_some();
    let mut spec = settings.compute.processor(false, None);
    if settings.against_reference {
        // Only there is it known what each stage took.
        spec.placement = Placement::Host;
    }
    let processor = Processor::new(Arc::clone(&deployment), spec)?;
    let mut identity = identity(settings, &deployment, dataset, wanted, (label_space.clone(), mapping));
    identity.stages = if processor.is_on_device() { "device" } else { "host" }.to_owned();
    if plan.is_empty() {
        printer.status(format!("part {}: there are fewer sequences than parts, so this one is empty", settings.shard));
    }
    let mut measuring = Measuring {
        dataset,
        processor,
        track: settings.compute.track,
        meter: Meter::new(
            kind,
            &dataset.label_space(),
            classes.as_ref().map(|_| &label_space),
            deployment.level_sizes().len(),
        )?,
        worst: WorstFrames::default(),
        draws: settings.out.is_some(),
        palette: label_space.palette(),
        writer: settings.save_predictions.as_deref().map(|folder| PredictionWriter::new(folder, kind, &label_space)),
        reference: settings
            .against_reference
            .then(|| AgainstReference::new(&deployment, spec, classes.as_ref()))
            .transpose()?,
        mapped: classes.as_ref().filter(|_| is_mapped),
        classes: classes.as_ref(),
        slot: FrameSlot::default(),
        prediction: Vec::new(),
        sequence: None,
    };
    if let Some(signal) = measuring.run(&plan, signals, printer)? {
        return Ok(Outcome::Interrupted(signal));
    }
    let missing_frames = identity.missing_frames;
    let reference = measuring.reference.as_ref().map(AgainstReference::report);
    let (sums, worst) = (measuring.meter.finish(), measuring.worst.finish());
    let file = ShardFile::new(settings.shard, identity, sums, worst, reference);
    let evaluation = file.evaluation();
    printer.text(evaluation.to_text())?;
    printer.document(&evaluation)?;
    if let Some(folder) = &settings.out {
        let report = file.write(folder)?;
        printer.status(format!("report: {}", report.display()));
        if settings.shard != Shard::WHOLE {
            let of = settings.shard.of;
            printer
                .status(format!("part {} of {of}; put all together with `hsg eval merge DIR…`", settings.shard.index));
        }
    }
    Ok(if missing_frames > 0 { Outcome::Incomplete } else { Outcome::Done })
}

/// An evaluation that goes on.
struct Measuring<'a> {
    dataset: &'a dyn Dataset,
    processor: Processor,
    /// Whether videos are tracked.
    track: bool,
    meter: Meter,
    worst: WorstFrames,
    /// Whether a report will show pictures.
    draws: bool,
    palette: [[u8; 3]; 256],
    writer: Option<PredictionWriter>,
    reference: Option<AgainstReference>,
    /// None without a bank.
    classes: Option<&'a MeasuredClasses>,
    /// Where the model's classes are not those of the data set.
    mapped: Option<&'a MeasuredClasses>,
    slot: FrameSlot,
    prediction: Vec<u8>,
    /// The sequence of the last sample, and whether it is a video.
    sequence: Option<(String, bool)>,
}

/// A sample read from disk.
type Read = Result<(Frame, Annotation), DatasetError>;

impl Measuring<'_> {
    /// Measures the samples of `plan`, unless a signal comes first.
    fn run(&mut self, plan: &[usize], signals: &Signals, printer: Printer) -> anyhow::Result<Option<Signal>> {
        let dataset = self.dataset;
        let mut progress = ImageProgress::new(printer, dataset.split(), plan.len() as u64);
        std::thread::scope(|scope| {
            let (sender, receiver): (_, Receiver<Read>) = sync_channel(READ_AHEAD);
            let read = move || {
                for &index in plan {
                    let sample = &dataset.samples()[index];
                    let read =
                        dataset.read_image(sample).and_then(|frame| Ok((frame, dataset.read_annotation(sample)?)));
                    let failed = read.is_err();
                    // Nobody listens any more: the evaluation has ended early.
                    if sender.send(read).is_err() || failed {
                        break;
                    }
                }
            };
            std::thread::Builder::new()
                .name("hsg-read".to_owned())
                .spawn_scoped(scope, read)
                .context("cannot start a thread")?;
            for &index in plan {
                if let Some(signal) = signals.received() {
                    return Ok(Some(signal));
                }
                let (frame, truth) = receiver.recv().context("the thread that reads images has ended")??;
                self.measure(index, frame, truth)?;
                progress.step();
            }
            Ok(None)
        })
    }

    fn measure(&mut self, index: usize, frame: Frame, mut truth: Annotation) -> anyhow::Result<()> {
        let sample = &self.dataset.samples()[index];
        let is_next = self.sequence.as_ref().is_some_and(|(name, _)| *name == sample.sequence);
        if !is_next {
            let is_video = self.dataset.rate_hz(&sample.sequence).is_some_and(|rate| rate >= TRACKED_RATE_HZ);
            let tracking = self.track && is_video;
            self.slot.output.stream.clone_from(&sample.sequence);
            self.processor.restart(tracking);
            self.meter.begin_sequence(is_video, tracking);
            self.sequence = Some((sample.sequence.clone(), is_video));
        } else if self.is_after_gap(sample) {
            self.meter.skip_gap();
        }
        let is_video = self.sequence.as_ref().is_some_and(|(_, is_video)| *is_video);
        self.slot.output.frame = frame;
        self.slot.output.frame.index = sample.index_in_sequence as u64;
        self.processor.process(&mut self.slot)?;
        let output = &self.slot.output;
        let regions = self.meter.regions(&truth)?;
        if self.classes.is_some() {
            classes_of(output, &mut self.prediction);
        }
        if let Some(mapped) = self.mapped {
            mapped.map_truth(&mut truth.train_ids);
            mapped.map_prediction(&mut self.prediction);
        }
        let prediction = self.classes.map(|_| self.prediction.as_slice());
        if let Some(reference) = &mut self.reference {
            reference.update(output, self.classes, &truth.train_ids)?;
        }
        let measured = MeasuredSample { index, name: &sample.name, sequence: &sample.sequence };
        let figures = self
            .meter
            .update(&measured, output, &regions, &truth, prediction)
            .with_context(|| format!("image {}", sample.image.display()))?;
        if self.draws {
            let drawing = Drawing { frame: output, truth: &truth, prediction, palette: &self.palette };
            self.worst.offer(&figures, sample.index_in_sequence, is_video, || drawing.pictures())?;
        }
        if let (Some(writer), Some(prediction)) = (&mut self.writer, prediction) {
            writer.write(&sample.name, output.size, prediction, self.meter.instance_ids())?;
        }
        Ok(())
    }

    /// Whether frames are missing right before `sample`.
    fn is_after_gap(&self, sample: &SampleEntry) -> bool {
        let number = || sample.image.file_stem()?.to_str()?.parse::<u64>().ok();
        let is_its = |gap: &FrameGap| gap.sequence == sample.sequence && Some(gap.before) == number();
        self.dataset.gaps().iter().any(is_its)
    }
}

/// What is measured and how.
fn identity(
    settings: &EvalSettings,
    deployment: &Deployment,
    dataset: &dyn Dataset,
    wanted: usize,
    (label_space, label_mapping): (LabelSpace, Option<MappingReport>),
) -> Identity {
    let names: Vec<&str> = dataset.samples()[..wanted].iter().map(|sample| sample.name.as_str()).collect();
    let manifest = deployment.manifest();
    Identity {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        dataset: dataset.name().to_owned(),
        split: dataset.split().to_owned(),
        samples: wanted,
        samples_sha256: models::files::sha256_hex(names.join("\n").as_bytes()),
        model: manifest.name.clone(),
        model_hash: deployment.folder().model_hash().to_owned(),
        bank_sha256: deployment.bank().and_then(|_| manifest.files.get(models::manifest::BANK).cloned()),
        backend: BackendSummary::of(deployment),
        precision: deployment.spec().precision.to_string(),
        resolution: match settings.compute.resolution() {
            Resolution::Refined => "refined",
            Resolution::Nearest => "nearest",
            Resolution::Pixels => "pixels",
            Resolution::Reference => "reference",
        }
        .to_owned(),
        rounds: settings.compute.processor(true, None).rounds(manifest.kmeans.rounds),
        stages: String::new(),
        track: settings.compute.track,
        bank_search: settings.compute.bank_search(),
        naming: match settings.compute.naming() {
            Naming::Pooled => "pooled",
            Naming::Counted => "counted",
        }
        .to_owned(),
        label_space,
        label_mapping,
        missing_frames: dataset.gaps().iter().map(FrameGap::num_missing).sum(),
        machine: Machine::of(deployment),
    }
}
