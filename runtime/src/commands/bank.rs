//! `hsg bank build`: prototypes of all base segments of labelled images.
//!
//! Each image is clustered by itself (from the grid, no tracking) with the deployed network. A segment's pixels are
//! those that nearest upsampling of the cell map gives it, which is the protocol of the baseline page; its class is the
//! label of most of them (ties: smallest id), and segments that are mostly unlabelled are left out. The model takes over
//! the data set's classes; those of a `folder` with names of its own are written beside the bank.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use datasets::Dataset;
use retrieval::{BankBuilder, INDEXED_FROM, majority_label};
use runtime::pipeline::{Deployment, Processor, ProcessorSpec, Resolution};
use segcore::label_space::{IGNORE, LabelSpace};
use serde::Serialize;

use super::{deploy_without_bank, open_dataset};
use crate::settings::BankBuildSettings;
use runtime::program::printer::{Printer, table};
use runtime::program::signals::Signals;
use runtime::program::{ImageProgress, Outcome};

/// What `hsg bank build` prints with `--json`.
#[derive(Serialize)]
struct BankReport {
    model: String,
    path: String,
    /// Name of the label space of the bank.
    label_space: String,
    images: u64,
    prototypes: usize,
    /// Segments left out because most of their pixels are unlabelled.
    without_label: u64,
    bytes: usize,
    per_class: serde_json::Map<String, serde_json::Value>,
}

/// Refuses, before any work, an `out` that would cost the user something: a file, or without `force` a folder with
/// something in it. The model's own folder may be named: that is building in place.
fn check_out(out: &Path, model: &Path, force: bool) -> anyhow::Result<()> {
    let is_model = || matches!((out.canonicalize(), model.canonicalize()), (Ok(out), Ok(model)) if out == model);
    if !out.exists() || is_model() {
        return Ok(());
    }
    ensure!(out.is_dir(), "--out {}: expected a folder, got a file; name another folder", out.display());
    let mut entries = out.read_dir().with_context(|| format!("--out {}: cannot be read", out.display()))?;
    ensure!(
        force || entries.next().is_none(),
        "--out {}: expected a new or an empty folder, got one that holds files; add --force to replace a model folder, \
         or name another one",
        out.display()
    );
    Ok(())
}

/// The classes of the new bank: the data set's, whatever the model's were, because the network has never seen a label.
/// Where they have the same names in the same order, the model's colours stay.
fn label_space(deployment: &Deployment, dataset: &dyn Dataset) -> LabelSpace {
    let (model, data) = (deployment.label_space(), dataset.label_space());
    let names = |space: &LabelSpace| -> Vec<String> { space.classes.iter().map(|class| class.name.clone()).collect() };
    if names(model) == names(&data) { model.clone() } else { data }
}

pub fn build(settings: &BankBuildSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    let dataset = open_dataset(&settings.dataset)?;
    let deployment = deploy_without_bank(&settings.model, printer)?;
    let space = label_space(&deployment, &*dataset);
    if let Some(out) = &settings.out {
        check_out(out, deployment.folder().path(), settings.force)?;
    }
    let resolution = if settings.reference { Resolution::Reference } else { Resolution::Nearest };
    let manifest = deployment.manifest();
    // A bank belongs to the model, so its segments are the method's.
    let rounds = Some(manifest.kmeans.rounds);
    let mut processor =
        Processor::new(Arc::clone(&deployment), ProcessorSpec { resolution, rounds, ..ProcessorSpec::default() })?;
    let dim = manifest.network.embedding_dim;
    let mut builder = BankBuilder::new(dim, deployment.folder().model_hash(), &space.name);
    let mut slots = Vec::new();
    let mut counts = vec![0u64; space.num_classes()];
    let mut without_label = 0;
    let samples = dataset.samples();
    let wanted = settings.frames.map_or(samples.len(), |frames| samples.len().min(frames as usize));
    let mut progress = ImageProgress::new(printer, dataset.split(), wanted as u64);
    for sample in &samples[..wanted] {
        if let Some(signal) = signals.received() {
            return Ok(Outcome::Interrupted(signal));
        }
        let frame = dataset.read_image(sample)?;
        let truth = dataset.read_annotation(sample)?;
        let segments =
            processor.base_segments(&frame, &mut slots).with_context(|| format!("image {}", sample.image.display()))?;
        let labels = majority_label(&slots, &truth.train_ids, segments.num_slots, IGNORE);
        for (slot, label) in labels.into_iter().enumerate() {
            let prototype = &segments.prototypes[slot * dim..(slot + 1) * dim];
            match label {
                _ if segments.areas[slot] == 0 => {}
                Some(train_id) => {
                    builder.push(prototype, train_id)?;
                    if let Some(count) = counts.get_mut(usize::from(train_id)) {
                        *count += 1;
                    }
                }
                None => without_label += 1,
            }
        }
        progress.step();
    }
    drop(progress);
    let num_prototypes = builder.len();
    ensure!(
        num_prototypes > 0,
        "no segment of the {wanted} images has a label; check that the annotations are not all void"
    );
    let images = u32::try_from(wanted).context("more images than a bank can count")?;
    builder.set_source(images, &format!("annotations of {} {}", dataset.name(), dataset.split()));
    let encoded = if num_prototypes >= INDEXED_FROM {
        builder.finish_indexed(settings.storage())?
    } else {
        builder.finish(settings.storage())?
    };
    let bytes = encoded.bytes();
    let folder = deployment.folder().rewrite_bank(settings.out.as_deref(), bytes, &space)?;
    let report = BankReport {
        model: manifest.name.clone(),
        path: folder.path().display().to_string(),
        label_space: space.name.clone(),
        images: wanted as u64,
        prototypes: num_prototypes,
        without_label,
        bytes: bytes.len(),
        per_class: space.classes.iter().zip(&counts).map(|(class, &n)| (class.name.clone(), n.into())).collect(),
    };
    printer.document(&report)?;
    let mut rows = vec![vec!["class".to_owned(), "prototypes".to_owned()]];
    rows.extend(space.classes.iter().zip(&counts).map(|(class, n)| vec![class.name.clone(), n.to_string()]));
    printer.text(format!(
        "{}{num_prototypes} prototypes of {wanted} images ({without_label} segments are mostly unlabelled), {:.2} MB, in {}",
        table(&rows),
        bytes.len() as f64 / 1e6,
        report.path
    ))?;
    Ok(Outcome::Done)
}
