//! `hsg-train import`: a checkpoint of another program becomes a run folder, as if after step 0. [T8]

use std::path::Path;

use models::checkpoint::{FitReport, TensorFile, fit, infer_network};
use models::files::write_atomically;
use models::weights::Weights;
use serde_json::json;

use super::{Exit, needed, print_json, show};
use crate::checkpoint::{self, State};
use crate::cli::{Common, ImportArgs};
use crate::error::{Result, TrainError};
use crate::progress::say;
use crate::run_folder::settings_file;
use crate::settings::{Overrides, TrainSettings};
use crate::train_loop::settings_hash;

/// Settings of a file that comes without any: the published recipe.
const DEFAULT_PRESET: &str = "published";

/// How the command begins in a run's list of commands.
pub(super) const COMMAND: &str = "hsg-train import ";

/// Runs it.
///
/// # Errors
/// When the file is no checkpoint, does not hold the whole network, or the run folder cannot be written.
pub fn run(args: &ImportArgs, common: &Common) -> Result<Exit> {
    // What is wrong with the place to write to is said before a large file is read.
    if let Some(out) = &args.out {
        refuse_used(out)?;
    }
    let file = TensorFile::open(&args.file)?;
    let mut settings = resolve(args, common, &file)?;
    settings.apply(&Overrides { steps: Some(0), threads: common.threads, ..Overrides::default() });
    settings.validate()?;
    if common.show_settings {
        return show(&settings, common);
    }
    let out = args.out.as_deref().ok_or_else(|| needed("--out", "a run folder"))?;
    let (weights, report) = fit(&settings.network.params()?, &file)?;

    let mut state = State::initial(settings.run.seed, settings.run.steps, settings_hash(&settings)?);
    // As the model's receipt and card will say it; a path says more here than in the order it was typed.
    let (source, run) = (args.file.display(), out.display());
    state.commands.push(format!("{COMMAND}{source} --out {run} (SHA-256 of the file: {})", report.sha256));
    std::fs::create_dir_all(out).map_err(|e| TrainError::file("create", out, e))?;
    write_atomically(&settings_file(out), settings.to_toml()?.as_bytes())?;
    // No momentum: the optimiser's state of another program is left out.
    checkpoint::write(out, &weights, &Weights::new(), &state, &settings, true)?;

    if common.json {
        print_json(&as_json(out, &settings, &report))?;
    } else if !common.quiet {
        let network = &settings.network;
        say(&format!(
            "{}: {:?} with width factor {}, {} channels, groups {:?}",
            out.display(),
            network.backbone,
            network.width_factor,
            network.embedding_dim,
            network.groups
        ));
        say(&report.to_string());
        say(&format!("next: hsg-train export {} --out MODEL", out.display()));
    }
    Ok(Exit::Done)
}

/// The settings that were asked for, or the published ones with the network that the file holds.
fn resolve(args: &ImportArgs, common: &Common, file: &TensorFile) -> Result<TrainSettings> {
    match (&args.preset, &common.config) {
        (Some(preset), _) => TrainSettings::preset(preset),
        (None, Some(path)) => TrainSettings::read(path),
        (None, None) => {
            let mut settings = TrainSettings::preset(DEFAULT_PRESET)?;
            settings.network = infer_network(file)?;
            Ok(settings)
        }
    }
}

fn refuse_used(out: &Path) -> Result<()> {
    let is_used = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if is_used {
        return Err(TrainError::Invalid {
            what: out.display().to_string(),
            expected: "a new or empty run folder".into(),
            got: "one that holds files".into(),
            remedy: "choose another --out".into(),
        });
    }
    Ok(())
}

fn as_json(out: &Path, settings: &TrainSettings, report: &FitReport) -> serde_json::Value {
    let extra = report.extra.iter();
    let extra = extra.map(|left| json!({"name": left.name, "shape": left.shape, "type": left.element.to_string()}));
    json!({
        "run": out,
        "step": 0,
        "network": settings.network,
        "format": report.container.to_string(),
        "sha256": report.sha256,
        "used": report.used,
        "stripped": report.stripped,
        "converted": report.converted,
        "extra": extra.collect::<Vec<_>>(),
        "not_run": report.foreign,
    })
}
