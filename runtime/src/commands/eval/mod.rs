//! `hsg eval`: measures the deployed pipeline on labelled images. Nothing is dropped: an image or annotation that cannot
//! be read ends the evaluation, because a figure without it would be another figure.
//!
//! `plan.rs` says which samples a shard has → here each goes through the pipeline → `meter.rs` compares it with its
//! annotation and the frame before, into `sums.rs` (levels: `levels.rs`, instances: `instances.rs`), and `worst.rs` keeps
//! the frames to look at (`pictures.rs`) → `shard_file.rs` writes everything: figures (`evaluation.rs`), the page
//! (`report.rs`), and what `merge.rs` puts together. `predictions.rs` writes class maps for the official tools.
//! `files/` measures prediction files of any program.

mod evaluation;
pub mod files;
mod instances;
mod levels;
pub mod merge;
mod meter;
mod pictures;
mod plan;
mod predictions;
mod report;
mod shard_file;
mod sums;
mod worst;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, bail, ensure};
use datasets::{Annotation, Dataset, DatasetError, DatasetKind, FrameGap, SampleEntry};
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::summary::{BackendSummary, Machine};
use runtime::pipeline::{Deployment, Processor, Resolution};
use runtime::source::TRACKED_RATE_HZ;
use segcore::image::Frame;
use segcore::label_space::LabelSpace;

use self::evaluation::Identity;
use self::meter::{MeasuredSample, Meter, classes_of};
use self::pictures::Drawing;
use self::predictions::PredictionWriter;
use self::shard_file::ShardFile;
use self::worst::WorstFrames;
use super::{ImageProgress, Outcome, deploy, open_dataset};
use crate::printer::Printer;
use crate::settings::{EvalSettings, Shard};
use crate::signals::{Signal, Signals};

/// Samples that are read ahead.
const READ_AHEAD: usize = 2;

pub fn run(settings: &EvalSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    let dataset = open_dataset(&settings.dataset)?;
    let kind: DatasetKind = settings.dataset.dataset.parse()?;
    let deployment = deploy(&settings.model, printer)?;
    let has_classes = deployment.bank().is_some();
    if has_classes {
        same_label_space(&deployment, &*dataset, &settings.dataset.root)?;
    }
    ensure!(
        has_classes || settings.save_predictions.is_none(),
        "--save-predictions: the model {} has no prototype bank, so there are no classes to save; make one with `hsg bank build`",
        deployment.manifest().name
    );
    let label_space = dataset.label_space();
    let wanted = settings.frames.map_or(dataset.samples().len(), |frames| dataset.samples().len().min(frames as usize));
    let plan = plan::samples_of(&*dataset, wanted, settings.shard);
    let identity = identity(settings, &deployment, &*dataset, wanted, label_space.clone())?;
    if plan.is_empty() {
        printer.status(format!("part {}: there are fewer sequences than parts, so this one is empty", settings.shard));
    }
    let mut measuring = Measuring {
        dataset: &*dataset,
        processor: Processor::new(Arc::clone(&deployment), settings.compute.processor(false))?,
        track: settings.compute.track,
        meter: Meter::new(kind, &label_space, has_classes, deployment.level_sizes().len())?,
        worst: WorstFrames::default(),
        draws: settings.out.is_some(),
        palette: label_space.palette(),
        writer: settings.save_predictions.as_deref().map(|folder| PredictionWriter::new(folder, kind, &label_space)),
        has_classes,
        slot: FrameSlot::default(),
        prediction: Vec::new(),
        sequence: None,
    };
    if let Some(signal) = measuring.run(&plan, &signals, printer)? {
        return Ok(Outcome::Interrupted(signal));
    }
    let missing_frames = identity.missing_frames;
    let file = ShardFile::new(settings.shard, identity, measuring.meter.finish(), measuring.worst.finish());
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
    has_classes: bool,
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
                self.measure(index, frame, &truth)?;
                progress.step();
            }
            Ok(None)
        })
    }

    fn measure(&mut self, index: usize, frame: Frame, truth: &Annotation) -> anyhow::Result<()> {
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
        if self.has_classes {
            classes_of(output, &mut self.prediction);
        }
        let prediction = self.has_classes.then_some(self.prediction.as_slice());
        let measured = MeasuredSample { index, name: &sample.name, sequence: &sample.sequence };
        let figures = self
            .meter
            .update(&measured, output, truth, prediction)
            .with_context(|| format!("image {}", sample.image.display()))?;
        if self.draws {
            let drawing = Drawing { frame: output, truth, prediction, palette: &self.palette };
            self.worst.offer(&figures, sample.index_in_sequence, is_video, || drawing.pictures())?;
        }
        if let (Some(writer), Some(prediction)) = (&mut self.writer, prediction) {
            writer.write(&sample.name, output.size, prediction, self.meter.instance_ids())?;
        }
        Ok(())
    }
}

impl Measuring<'_> {
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
    label_space: LabelSpace,
) -> anyhow::Result<Identity> {
    let names: Vec<&str> = dataset.samples()[..wanted].iter().map(|sample| sample.name.as_str()).collect();
    let manifest = deployment.manifest();
    Ok(Identity {
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
            Resolution::Reference => "reference",
        }
        .to_owned(),
        track: settings.compute.track,
        label_space,
        missing_frames: dataset.gaps().iter().map(FrameGap::num_missing).sum(),
        machine: Machine::of(deployment),
    })
}

/// A bank knows the classes of one label space; comparing its ids with those of another would be nonsense.
/// `root` is the data set's folder.
pub(super) fn same_label_space(deployment: &Deployment, dataset: &dyn Dataset, root: &Path) -> anyhow::Result<()> {
    let (model, data) = (deployment.label_space(), dataset.label_space());
    let names = |space: &LabelSpace| -> Vec<String> { space.classes.iter().map(|class| class.name.clone()).collect() };
    let (wanted, found) = (names(model), names(&data));
    if wanted == found {
        return Ok(());
    }
    let (folder, wanted, found) = (deployment.folder().path().display(), wanted.join(", "), found.join(", "));
    if dataset.name() == DatasetKind::Folder.name() {
        bail!(
            "{}: its classes are {found}; banks and figures for a folder with classes of its own are not in this \
             version. The label spaces that work are camvid_11 and cityscapes_19, and that of the model {folder} is {}: \
             list the classes {wanted}, in this order",
            root.join("classes.toml").display(),
            model.name,
        );
    }
    bail!(
        "{folder}: the model's label space is {} ({wanted}), that of the data set {} is {} ({found}); use a data set of \
         the model's label space, or a model that was exported for {}",
        model.name,
        dataset.name(),
        data.name,
        data.name
    );
}
