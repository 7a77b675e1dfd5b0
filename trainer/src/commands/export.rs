//! `hsg-train export`: a run's checkpoint becomes a model folder. [T8]

use models::export::{ExportSpec, write_model_folder};
use models::onnx::Storage;
use segcore::image::ImageSize;
use segcore::preprocess::PreprocessSpec;
use serde_json::json;

use super::{Exit, print_json};
use crate::augment::{MEAN, STD};
use crate::checkpoint;
use crate::cli::ExportArgs;
use crate::error::{Result, TrainError};
use crate::settings::TrainSettings;
use crate::train_loop::{cells, settings_file};

/// Sides of padded network inputs are multiples of this: the output stride at test time.
const MULTIPLE: usize = 8;

/// Runs it.
///
/// # Errors
/// When the run has no checkpoint, its weights do not fit its settings, or the folder cannot be written.
pub fn run(args: &ExportArgs) -> Result<Exit> {
    let settings = TrainSettings::read(&settings_file(&args.run))?;
    settings.validate()?;
    let which = if args.best { "best" } else { "last" };
    let checkpoint = checkpoint::read(&args.run, which)?.ok_or_else(|| TrainError::Invalid {
        what: args.run.display().to_string(),
        expected: format!("a run folder with a file `{which}` that names a checkpoint"),
        got: "none".into(),
        remedy: "train first; `hsg-train train … --steps 0` writes the untrained network".into(),
    })?;
    if args.out.exists() && !args.force && std::fs::read_dir(&args.out).is_ok_and(|mut e| e.next().is_some()) {
        return Err(TrainError::Invalid {
            what: args.out.display().to_string(),
            expected: "a new or empty folder".into(),
            got: "one that holds files".into(),
            remedy: "add --force to replace a model folder, or choose another --out".into(),
        });
    }
    let folder_name = args.out.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = args.name.clone().or(folder_name).unwrap_or_else(|| "model".into());
    let mut training = toml::Table::new();
    let mut note = |key: &str, value: toml::Value| training.insert(key.to_owned(), value);
    note("program", format!("hsg-train {}", env!("CARGO_PKG_VERSION")).into());
    note("step", integer(checkpoint.state.step));
    note("steps", integer(settings.run.steps));
    note("seed", toml::Value::Integer(settings.run.seed as i64));
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
        card: card(&name, &settings, checkpoint.state.step),
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
    let folder = write_model_folder(&spec, &checkpoint.weights, &args.out)?;
    if args.common.json {
        print_json(&json!({
            "model": folder.path(), "model_hash": folder.model_hash(), "step": checkpoint.state.step,
        }));
    } else {
        eprintln!("{}: step {}, model hash {}", args.out.display(), checkpoint.state.step, folder.model_hash());
        eprintln!("names need a bank: hsg bank build --dataset … --model {}", args.out.display());
    }
    Ok(Exit::Done)
}

fn integer(n: usize) -> toml::Value {
    toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn card(name: &str, settings: &TrainSettings, step: usize) -> String {
    let data = &settings.data;
    let from = match step {
        0 => "untrained: seeded initial weights".to_owned(),
        _ => format!(
            "learned without labels from the split `{}` of `{}` in {step} steps of {} images × {} views",
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
