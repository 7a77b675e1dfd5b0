//! `hsg-train export`: a run's checkpoint becomes a model folder. [T8]

use std::path::Path;

use models::export::{ExportSpec, write_model_folder};
use models::onnx::Storage;
use models::weights::check_weights;
use segcore::image::ImageSize;
use segcore::preprocess::PreprocessSpec;
use serde_json::json;

use super::{Exit, import, needed, print_json, show};
use crate::augment::{MEAN, STD};
use crate::checkpoint;
use crate::cli::{Common, ExportArgs};
use crate::error::{Result, TrainError};
use crate::evaluate::MULTIPLE;
use crate::progress::say;
use crate::run_folder::METRICS_FILE;
use crate::run_folder::settings_file;
use crate::settings::TrainSettings;
use crate::trainer::cells;

/// Steps of the training log that a model keeps, about.
const LOGGED_STEPS: usize = 400;

/// Runs it.
///
/// # Errors
/// When the run has no checkpoint, its weights do not fit its settings, or the folder cannot be written.
pub fn run(args: &ExportArgs, common: &Common) -> Result<Exit> {
    let mut settings = TrainSettings::read(&settings_file(&args.run))?;
    if let Some(path) = &common.config {
        settings.export = TrainSettings::read(path)?.export;
    }
    if let Some(license) = &args.license {
        settings.export.license.clone_from(license);
    }
    settings.validate()?;
    if common.show_settings {
        return show(&settings, common);
    }
    let out = args.out.as_deref().ok_or_else(|| needed("--out", "a model folder"))?;
    let which = if args.best { "best" } else { "last" };
    let checkpoint = checkpoint::read(&args.run, which)?.ok_or_else(|| TrainError::Invalid {
        what: args.run.display().to_string(),
        expected: format!("a run folder with a file `{which}` that names a checkpoint"),
        got: "none".into(),
        remedy: "train first; `hsg-train train … --steps 0` writes the untrained network".into(),
    })?;
    // Checked here, where the checkpoint still has a name.
    check_weights(&settings.network.params()?, &checkpoint.weights, &checkpoint.folder.display().to_string())?;
    if out.exists() && !args.force && std::fs::read_dir(out).is_ok_and(|mut e| e.next().is_some()) {
        return Err(TrainError::Invalid {
            what: out.display().to_string(),
            expected: "a new or empty folder".into(),
            got: "one that holds files".into(),
            remedy: "add --force to replace a model folder, or choose another --out".into(),
        });
    }
    let folder_name = out.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = args.name.clone().or(folder_name).unwrap_or_else(|| "model".into());
    let mut training = toml::Table::new();
    let mut note = |key: &str, value: toml::Value| training.insert(key.to_owned(), value);
    note("program", format!("hsg-train {}", env!("CARGO_PKG_VERSION")).into());
    note("step", integer(checkpoint.state.step));
    note("steps", integer(settings.run.steps));
    note("seed", toml::Value::Integer(settings.run.seed as i64));
    note("images", integer(checkpoint.state.images));
    note("seconds", checkpoint.state.seconds.round().into());
    note("commands", checkpoint.state.commands.clone().into());
    let rescheduled = &checkpoint.state.rescheduled;
    if !rescheduled.is_empty() {
        let change = |r: &checkpoint::Rescheduled| {
            format!("from step {} on the schedule of {} steps instead of {}", r.step, r.steps, r.steps_before)
        };
        let changes = rescheduled.iter().map(|r| toml::Value::String(change(r)));
        note("rescheduled", toml::Value::Array(changes.collect()));
    }
    if let Some(loss) = checkpoint.state.smoothed_loss {
        note("smoothed_loss", loss.into());
    }
    note("settings", toml::Value::Table(settings.binding_part()?));
    let [width, height] = settings.export.input;
    let spec = ExportSpec {
        card: match &args.card {
            Some(path) => std::fs::read_to_string(path).map_err(|e| TrainError::file("read", path, e))?,
            None => card(&name, &settings, &checkpoint.state),
        },
        training_log: training_log(&args.run, checkpoint.state.step)?,
        name,
        network: settings.network.clone(),
        position_extent: cells(&settings),
        preprocessing: PreprocessSpec {
            input: ImageSize::new(width, height),
            mean: MEAN,
            std: STD,
            multiple: MULTIPLE,
        },
        kmeans: settings.export_kmeans(),
        label_space: settings.export.label_space.clone(),
        license: settings.export.license.clone(),
        training,
        storage: Storage::Half,
    };
    let folder = write_model_folder(&spec, &checkpoint.weights, out)?;
    if common.json {
        print_json(&json!({
            "model": folder.path(), "model_hash": folder.model_hash(), "step": checkpoint.state.step,
        }))?;
    } else if !common.quiet {
        say(&format!("{}: step {}, model hash {}", out.display(), checkpoint.state.step, folder.model_hash()));
        say(&format!("names need a bank: hsg bank build --dataset … --model {}", out.display()));
    }
    Ok(Exit::Done)
}

/// About [`LOGGED_STEPS`] lines of the run's metrics up to `step`, the last one among them; `None` without any.
fn training_log(run: &Path, step: usize) -> Result<Option<String>> {
    let path = run.join(METRICS_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TrainError::file("read", &path, error)),
    };
    let every = step.div_ceil(LOGGED_STEPS).max(1);
    let step_of = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        usize::try_from(value["step"].as_u64()?).ok()
    };
    let kept = text.lines().filter(|line| {
        step_of(line).is_some_and(|at| at <= step && (at == 1 || at == step || at.is_multiple_of(every)))
    });
    let log: String = kept.flat_map(|line| [line, "\n"]).collect();
    Ok((!log.is_empty()).then_some(log))
}

fn integer(n: usize) -> toml::Value {
    toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn card(name: &str, settings: &TrainSettings, state: &checkpoint::State) -> String {
    let (data, step) = (&settings.data, state.step);
    let imported = state.commands.iter().find(|command| command.starts_with(import::COMMAND));
    let start = match imported {
        Some(command) => format!("imported weights (`{command}`)"),
        None => "seeded initial weights".to_owned(),
    };
    let from = match step {
        0 if imported.is_some() => format!("not trained by this program: {start}"),
        0 => format!("untrained: {start}"),
        _ => format!(
            "learned without labels from the split `{}` of `{}` in {step} steps of {} images × {} views, from {start}",
            data.split, data.dataset, settings.batch.images, settings.batch.views
        ),
    };
    format!(
        "# {name}\n\nHierarchical segmentation (HSG, Ke et al., CVPR 2022): {:?} with width factor {}, {} channels, \
         groups {:?} above the base segments; {from}; seed {}.\n\nLicence of the training frames: {}.\n",
        settings.network.backbone,
        settings.network.width_factor,
        settings.network.embedding_dim,
        settings.network.groups,
        settings.run.seed,
        settings.export.license,
    )
}
