//! `hsg eval`: measures the deployed pipeline on labelled images. Nothing is dropped: an image or annotation that cannot
//! be read ends the evaluation, because a figure without it would be another figure.

mod against_reference;
pub mod files;
mod levels;
mod mapping;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use datasets::Dataset;
use evaluation::ConfusionMatrix;
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::summary::{BackendSummary, Machine};
use runtime::pipeline::{Deployment, Processor};
use runtime::sink::{NO_SEGMENT, SegmentedFrame};
use runtime::source::TRACKED_RATE_HZ;
use segcore::label_space::IGNORE;
use serde::Serialize;

use super::{ImageProgress, Outcome, deploy, open_dataset, write_json};
use crate::printer::{Printer, table};
use crate::settings::EvalSettings;
use crate::signals::Signals;
use against_reference::{AgainstReference, ReferenceReport};
use levels::{LevelEvaluation, LevelMeasures};
use mapping::{MappingReport, MeasuredClasses};

/// The evaluation JSON; null where a measure does not apply or does not exist in this version.
#[derive(Serialize)]
struct Evaluation {
    dataset: String,
    split: String,
    frames: u64,
    model: String,
    backend: BackendSummary,
    precision: String,
    /// How labels got to pixels: refined, nearest or reference.
    resolution: &'static str,
    /// Whether sequences of at least 5 Hz were tracked.
    track: bool,
    miou: Option<f64>,
    accuracy: Option<f64>,
    category_miou: Option<f64>,
    iiou: Option<f64>,
    category_iiou: Option<f64>,
    per_class: Option<serde_json::Map<String, serde_json::Value>>,
    /// How the classes of the model and the data set were compared; null where they are the same.
    label_mapping: Option<MappingReport>,
    /// Pixels: rows = truth, columns = prediction, the last column = no class.
    confusion: Option<Vec<Vec<u64>>>,
    levels: Vec<LevelEvaluation>,
    stq: SegmentationAndTrackingQuality,
    /// How the maps differ from those of clustering at full resolution; null without `--against-reference`.
    reference: Option<ReferenceReport>,
    machine: Machine,
}

#[derive(Default, Serialize)]
struct SegmentationAndTrackingQuality {
    stq: Option<f64>,
    aq: Option<f64>,
    sq: Option<f64>,
}

pub fn run(settings: &EvalSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    let dataset = open_dataset(&settings.dataset)?;
    let deployment = deploy(&settings.model, printer)?;
    let has_classes = deployment.bank().is_some();
    let classes =
        has_classes.then(|| MeasuredClasses::new(&deployment, &*dataset, &settings.dataset.root)).transpose()?;
    ensure!(
        has_classes || settings.save_predictions.is_none(),
        "--save-predictions: the model {} has no prototype bank, so there are no classes to save; make one with `hsg bank build`",
        deployment.manifest().name
    );
    let mut processor = Processor::new(Arc::clone(&deployment), settings.compute.processor(false))?;
    let mut slot = FrameSlot::default();
    let mut confusion = ConfusionMatrix::new(classes.as_ref().map_or(1, MeasuredClasses::num_classes))?;
    let mut prediction = Vec::new();
    let mut levels = LevelMeasures::new(deployment.level_sizes().len(), &dataset.label_space());
    let mut reference =
        settings.against_reference.then(|| AgainstReference::new(&deployment, classes.as_ref())).transpose()?;
    let mut frames = 0u64;
    let mut tracked_any = false;
    let samples = dataset.samples();
    let wanted = settings.frames.map_or(samples.len(), |frames| samples.len().min(frames as usize));
    let mut progress = ImageProgress::new(printer, dataset.split(), wanted as u64);
    let mut sequence: Option<&str> = None;
    for sample in &samples[..wanted] {
        if let Some(signal) = signals.received() {
            return Ok(Outcome::Interrupted(signal));
        }
        if sequence != Some(&sample.sequence) {
            let fast = dataset.rate_hz(&sample.sequence).is_some_and(|rate| rate >= TRACKED_RATE_HZ);
            let tracking = settings.compute.track && fast;
            tracked_any |= tracking;
            slot.output.stream.clone_from(&sample.sequence);
            processor.restart(tracking);
            sequence = Some(&sample.sequence);
        }
        slot.output.frame = dataset.read_image(sample)?;
        slot.output.frame.index = sample.index_in_sequence as u64;
        let mut truth = dataset.read_annotation(sample)?;
        processor.process(&mut slot)?;
        levels.update(&slot.output, &truth)?;
        if let Some(classes) = &classes {
            classes_of(&slot.output, &mut prediction);
            if let Some(folder) = &settings.save_predictions {
                save_prediction(folder, &sample.name, &slot.output, &prediction)?;
            }
            classes.map_truth(&mut truth.train_ids);
            classes.map_prediction(&mut prediction);
            confusion.update(&truth.train_ids, &prediction, IGNORE)?;
        }
        if let Some(reference) = &mut reference {
            reference.update(&slot.output, classes.as_ref(), &truth.train_ids)?;
        }
        frames += 1;
        progress.step();
    }
    drop(progress);
    let counts = classes.as_ref().map(|classes| (classes, &confusion));
    let mut evaluation = summarise(settings, &deployment, &*dataset, (frames, tracked_any), counts, levels.result());
    evaluation.reference = reference.as_ref().map(AgainstReference::report);
    printer.text(text_report(&evaluation))?;
    printer.document(&evaluation)?;
    if let Some(folder) = &settings.out {
        write_json(&folder.join("evaluation.json"), &evaluation)?;
        printer.status(format!("figures: {}", folder.join("evaluation.json").display()));
    }
    Ok(Outcome::Done)
}

/// Train id of every pixel; [`IGNORE`] where it has none.
fn classes_of(frame: &SegmentedFrame, classes: &mut Vec<u8>) {
    let segments = frame.levels.first().map_or(&[][..], |level| &level.segments);
    classes.clear();
    classes.extend(frame.slots.iter().map(|&slot| match slot {
        NO_SEGMENT => IGNORE,
        slot => segments.get(usize::from(slot)).and_then(|segment| segment.train_id).unwrap_or(IGNORE),
    }));
}

fn save_prediction(folder: &Path, name: &str, frame: &SegmentedFrame, prediction: &[u8]) -> anyhow::Result<()> {
    let path = folder.join(format!("{name}.png"));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the folder {}; check its permissions", parent.display()))?;
    }
    Ok(segcore::image_io::write_gray8(&path, frame.size, prediction)?)
}

fn summarise(
    settings: &EvalSettings,
    deployment: &Deployment,
    dataset: &dyn Dataset,
    (frames, track): (u64, bool),
    counts: Option<(&MeasuredClasses, &ConfusionMatrix)>,
    levels: Vec<LevelEvaluation>,
) -> Evaluation {
    let result = counts.map(|(_, confusion)| confusion.result());
    let per_class = counts.zip(result.as_ref()).map(|((classes, _), result)| {
        let classes = &classes.space().classes;
        classes.iter().zip(&result.per_class).map(|(class, iou)| (class.name.clone(), (*iou).into())).collect()
    });
    use runtime::pipeline::Resolution;
    Evaluation {
        dataset: dataset.name().to_owned(),
        split: dataset.split().to_owned(),
        frames,
        model: deployment.manifest().name.clone(),
        backend: BackendSummary::of(deployment),
        precision: deployment.spec().precision.to_string(),
        resolution: match settings.compute.resolution() {
            Resolution::Refined => "refined",
            Resolution::Nearest => "nearest",
            Resolution::Reference => "reference",
        },
        track,
        miou: result.as_ref().and_then(|result| result.miou),
        accuracy: result.as_ref().and_then(|result| result.accuracy),
        category_miou: None,
        iiou: None,
        category_iiou: None,
        per_class,
        label_mapping: counts.and_then(|(classes, _)| classes.report()),
        confusion: counts.map(|(_, confusion)| confusion.rows().map(<[u64]>::to_vec).collect()),
        levels,
        stq: SegmentationAndTrackingQuality::default(),
        reference: None,
        machine: Machine::of(deployment),
    }
}

fn text_report(evaluation: &Evaluation) -> String {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.1}", 100.0 * value));
    let mut text = format!(
        "{} {}, {} frames, model {}, {} ({}), labels {}, tracking {}\n",
        evaluation.dataset,
        evaluation.split,
        evaluation.frames,
        evaluation.model,
        evaluation.backend.name,
        evaluation.precision,
        evaluation.resolution,
        if evaluation.track { "on" } else { "off" }
    );
    text.push_str(&evaluation.label_mapping.as_ref().map_or(String::new(), MappingReport::text));
    if let Some(per_class) = &evaluation.per_class {
        let mut rows = vec![vec!["class".to_owned(), "IoU %".to_owned()]];
        rows.extend(per_class.iter().map(|(name, iou)| vec![name.clone(), percent(iou.as_f64())]));
        text.push_str(&table(&rows));
        text.push_str(&format!("mIoU {} %, accuracy {} %\n", percent(evaluation.miou), percent(evaluation.accuracy)));
    } else {
        text.push_str("no prototype bank: no classes to measure\n");
    }
    let mut rows = vec![["level", "segments", "covering %", "NFCovering %", "region F %"].map(str::to_owned).to_vec()];
    for level in &evaluation.levels {
        let segments = format!("{:.1}", level.segments_mean);
        let figures = [level.covering, level.nf_covering, level.region_f].map(percent);
        rows.push([level.level.to_string(), segments].into_iter().chain(figures).collect());
    }
    text.push_str(&table(&rows));
    text.push_str(&evaluation.reference.as_ref().map_or(String::new(), ReferenceReport::text));
    text
}
