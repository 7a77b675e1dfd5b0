//! `hsg-train evaluate`: what a run's checkpoint is worth on labelled images.

use serde_json::json;

use super::{Exit, listen, print_json, print_text, resolve_threads, show, start_pool};
use crate::checkpoint;
use crate::cli::{Common, EvaluateArgs};
use crate::device::Compute;
use crate::error::{Result, TrainError};
use crate::evaluate::Evaluator;
use crate::run_folder::settings_file;
use crate::settings::{EvaluationSettings, TrainSettings};
use crate::trainer::Trainer;

/// Runs it.
///
/// # Errors
/// A run without a checkpoint; labelled images that are not there.
pub fn run(args: &EvaluateArgs, common: &Common) -> Result<Exit> {
    let mut settings = TrainSettings::read(&settings_file(&args.run))?;
    if let Some(path) = &common.config {
        let file = TrainSettings::read(path)?;
        (settings.evaluation, settings.export) = (file.evaluation, file.export);
    }
    if let Some(root) = &args.root {
        settings.data.root = Some(root.clone());
    }
    let every = settings.run.steps.max(1);
    let evaluation = settings.evaluation.get_or_insert_with(|| EvaluationSettings {
        every,
        bank_split: settings.data.split.clone(),
        bank_images: usize::MAX,
        split: "val".to_owned(),
        images: usize::MAX,
    });
    if let Some(split) = &args.split {
        evaluation.split.clone_from(split);
    }
    if args.all {
        (evaluation.bank_images, evaluation.images) = (usize::MAX, usize::MAX);
    }
    let evaluation = evaluation.clone();
    if let Some(threads) = common.threads {
        settings.run.threads = threads;
    }
    if let Some(device) = &args.device {
        settings.run.device.clone_from(device);
    }
    settings.validate()?;
    if common.show_settings {
        return show(&settings, common);
    }
    let which = if args.best { "best" } else { "last" };
    let checkpoint = checkpoint::read(&args.run, which)?.ok_or_else(|| TrainError::Invalid {
        what: args.run.display().to_string(),
        expected: format!("a run folder with a file `{which}` that names a checkpoint"),
        got: "none".into(),
        remedy: "train first".into(),
    })?;
    let compute = Compute::resolve(&settings.run.device, &settings.run.precision)?;
    let threads = resolve_threads(settings.run.threads);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    start_pool(threads);
    let signals = listen()?;
    let mut trainer = Trainer::new(&settings, compute)?;
    trainer.restore(&checkpoint)?;
    let mut evaluator = Evaluator::open(&settings, &evaluation, compute)?;
    let step = checkpoint.state.step;
    let Some(result) = evaluator.run(&trainer.params, step, signals.stop())? else {
        return Ok(Exit::Interrupted(signals.received()));
    };
    if common.json {
        print_json(&json!({
            "run": args.run, "step": step, "split": evaluation.split, "bank_split": evaluation.bank_split,
            "miou": result.miou, "accuracy": result.accuracy, "images": result.images,
            "bank_images": result.bank_images,
        }))?;
    } else {
        print_text(&format!(
            "{}: step {step}, {} images of `{}` named by {} of `{}`: mIoU {:.1} %, accuracy {:.1} %\n",
            args.run.display(),
            result.images,
            evaluation.split,
            result.bank_images,
            evaluation.bank_split,
            100.0 * result.miou,
            100.0 * result.accuracy
        ))?;
    }
    Ok(Exit::Done)
}
