//! One file per command, and what they share.

mod bank;
mod bench;
mod build;
mod doctor;
mod eval;
mod inspect;
mod name;
mod run;
mod user_bank;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use datasets::DatasetKind;
use models::manifest::{BANK, ModelFolder, Precision};
use runtime::PipelineError;
use runtime::backend::BackendChoice;
use runtime::pipeline::{Deployment, DeploymentSpec};
use runtime::program::{Outcome, Printer, init_log, shipped};
use runtime::sink::OutputFolder;
use serde::Serialize;

use crate::cli::{BankCommand, Cli, Command, EvalCommand};
use crate::settings::{
    BankAddSettings, BankBuildSettings, Base, BenchSettings, BuildSettings, ConfigFile, DatasetSettings,
    EvalFilesSettings, EvalSettings, ModelSettings, RunSettings,
};
use user_bank::UserBankFile;

/// Reads the command line and runs the command. Usage errors end the program here, with exit code 2, whether or not
/// they can be printed.
///
/// # Errors
/// When the command could not run.
pub fn run_program() -> anyhow::Result<Outcome> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) if usage.use_stderr() => usage.exit(),
        // --help and --version are data on stdout.
        Err(help) => {
            return match help.print() {
                // `hsg --help | head` has what it wanted.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Err(error).context("cannot write to stdout")
                }
                _ => Ok(Outcome::Done),
            };
        }
    };
    init_log("hsg", cli.common.verbose, cli.common.quiet);
    let printer = Printer::new(cli.common.quiet, cli.common.json);
    let base = Base::new(&cli.common)?;
    let show = |config: ConfigFile| -> anyhow::Result<bool> {
        if cli.common.show_settings {
            if printer.json() {
                printer.document(&config)?;
            } else {
                printer.text(config.to_toml()?)?;
            }
        }
        Ok(cli.common.show_settings)
    };
    match &cli.command {
        Command::Run(args) => {
            let settings = RunSettings::resolve(&base, args)?;
            if show(settings.to_config())? { Ok(Outcome::Done) } else { run::run(&settings, printer) }
        }
        Command::Eval(args) => match &args.command {
            None => {
                let settings = EvalSettings::resolve(&base, args)?;
                if show(settings.to_config())? { Ok(Outcome::Done) } else { eval::run(&settings, printer) }
            }
            Some(EvalCommand::Merge(args)) => {
                if show(ConfigFile::default())? {
                    Ok(Outcome::Done)
                } else {
                    eval::merge::run(args, printer)
                }
            }
            Some(EvalCommand::Files(args)) => {
                let settings = EvalFilesSettings::resolve(&base, args)?;
                if show(settings.to_config())? { Ok(Outcome::Done) } else { eval::files::run(&settings, printer) }
            }
        },
        Command::Bank(args) => match &args.command {
            BankCommand::Build(args) => {
                let settings = BankBuildSettings::resolve(&base, args)?;
                if show(settings.to_config())? { Ok(Outcome::Done) } else { bank::build(&settings, printer) }
            }
            BankCommand::Add(args) => {
                let settings = BankAddSettings::resolve(&base, args)?;
                if show(settings.to_config())? { Ok(Outcome::Done) } else { name::add(&settings, printer) }
            }
            BankCommand::List(args) => {
                let model = base.model_name(args.model.as_ref());
                if show(model.to_config())? { Ok(Outcome::Done) } else { name::list(&model, printer) }
            }
            BankCommand::Rename(args) => {
                let model = base.model_name(args.model.as_ref());
                if show(model.to_config())? {
                    Ok(Outcome::Done)
                } else {
                    name::rename(&model, (&args.old, &args.new), printer)
                }
            }
            BankCommand::Remove(args) => {
                let model = base.model_name(args.model.as_ref());
                if show(model.to_config())? { Ok(Outcome::Done) } else { name::remove(&model, args, printer) }
            }
        },
        Command::Bench(args) => {
            let settings = BenchSettings::resolve(&base, args)?;
            if show(settings.to_config())? { Ok(Outcome::Done) } else { bench::run(&settings, printer) }
        }
        Command::Build(args) => {
            let settings = BuildSettings::resolve(&base, args)?;
            if show(settings.to_config())? { Ok(Outcome::Done) } else { build::run(&settings, printer) }
        }
        Command::Doctor(_) => {
            if show(ConfigFile::default())? {
                Ok(Outcome::Done)
            } else {
                doctor::run(printer)
            }
        }
        Command::Inspect(args) => {
            if show(ConfigFile::default())? {
                Ok(Outcome::Done)
            } else {
                inspect::run(args, printer)
            }
        }
    }
}

/// Opens a model, checks all its hashes and loads it as it was shipped: what is measured is what others can measure, so a
/// person's names are not part of it.
fn deploy(settings: &ModelSettings, printer: Printer) -> anyhow::Result<Arc<Deployment>> {
    let deployment = load(settings, printer)?;
    tell_of_bank(&deployment, printer);
    Ok(Arc::new(deployment))
}

/// The same, to be changed before it is used; nothing is said of its bank.
fn load(settings: &ModelSettings, printer: Printer) -> anyhow::Result<Deployment> {
    let load = if settings.allow_unverified { Deployment::load_unverified } else { Deployment::load };
    deploy_by(settings, printer, load)
}

/// Lays over the bank what a person named on this machine, if that `is_wanted`, and says so.
fn with_user_bank(mut deployment: Deployment, is_wanted: bool, printer: Printer) -> anyhow::Result<Arc<Deployment>> {
    let file = UserBankFile::of(deployment.folder());
    if let Some(file) = file.as_ref().filter(|_| is_wanted) {
        let user = file.read()?;
        if !user.is_empty() {
            deployment.lay_over(&user, file.path())?;
            let shipped = match deployment.bank() {
                Some(bank) => format!("the model's bank ({} prototypes)", bank.len()),
                None => "no bank of the model's".to_owned(),
            };
            printer.status(format!("names: {shipped} + {} of yours ({})", user.entries().len(), file.path().display()));
        }
    }
    tell_of_bank(&deployment, printer);
    Ok(Arc::new(deployment))
}

/// The same for making a bank: the one that the folder has is about to be replaced, so that of another model must not keep
/// anybody from it, all the less as the error would say to do just this.
fn deploy_without_bank(settings: &ModelSettings, printer: Printer) -> anyhow::Result<Arc<Deployment>> {
    let deployment = if settings.allow_unverified {
        deploy_by(settings, printer, |folder, spec| Deployment::load_unverified(folder.without(&[BANK]), spec))?
    } else {
        deploy_by(settings, printer, |folder, spec| {
            // The receipt is about the bank that is there.
            if spec.precision == Precision::Int8 {
                runtime::receipt::check(&folder)?;
            }
            Deployment::load_unverified(folder.without(&[BANK]), spec)
        })?
    };
    Ok(Arc::new(deployment))
}

/// Loaded in another way.
fn deploy_by(
    settings: &ModelSettings,
    printer: Printer,
    load: fn(ModelFolder, DeploymentSpec) -> Result<Deployment, PipelineError>,
) -> anyhow::Result<Deployment> {
    // The backend first: a choice that cannot work should not wait for hashes.
    let spec = settings.deployment();
    runtime::backend::select(spec.backend)?;
    let folder = shipped::open_model(&settings.model)?;
    let deployment = load(folder, spec)?;
    if spec.backend == BackendChoice::Auto || spec.precision != Precision::Fp32 {
        let info = deployment.backend();
        printer.status(format!("backend: {} ({}), {}", info.name, info.version, deployment.reason()));
    }
    Ok(deployment)
}

/// Says that there will be no classes, where that is so.
fn tell_of_bank(deployment: &Deployment, printer: Printer) {
    if !deployment.has_classes() {
        printer.status(format!(
            "the model {} has no prototype bank, so segments get no classes; name some with `hsg bank add`, or make one with \
             `hsg bank build`",
            deployment.manifest().name
        ));
    }
}

/// Makes the folder after `option` before any work is done for it, and makes sure that it can be written to.
fn output_folder(option: &'static str, path: &Path, force: bool) -> anyhow::Result<OutputFolder> {
    let folder = OutputFolder::create_for(option, path, force)?;
    let probe = path.join(format!(".hsg-probe-{}", std::process::id()));
    let probed = std::fs::File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe));
    if let Err(error) = probed {
        folder.remove_if_empty();
        bail!("{option} {}: nothing can be written there: {error}; write to a folder of your own", path.display());
    }
    Ok(folder)
}

/// Writes a JSON file whole or not at all.
fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value).context("cannot make JSON")?;
    text.push(b'\n');
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}; check its permissions", folder.display()))?;
    }
    Ok(models::files::write_atomically(path, &text)?)
}

/// Data sets that interface.md names and commands with a model do not read, each with the reason.
const OTHER_DATASETS: [(&str, &str); 1] =
    [("bsds", "the data set BSDS has no classes; `hsg eval files` measures contour maps on it")];

/// Opens the data set and checks that every image has its annotation.
///
/// # Errors
/// When images, list files or annotations are missing.
fn open_dataset(settings: &DatasetSettings) -> anyhow::Result<Box<dyn datasets::Dataset>> {
    let name = &settings.dataset;
    let kind = match name.parse::<DatasetKind>() {
        Ok(kind) => kind,
        Err(error) => match OTHER_DATASETS.iter().find(|(other, _)| other == name) {
            Some((name, reason)) => {
                let known = DatasetKind::ALL.map(DatasetKind::name).join(", ");
                bail!("--dataset {name}: {reason}; the data sets for models are {known}")
            }
            None => return Err(error.into()),
        },
    };
    let dataset = datasets::open(kind, &settings.root, &settings.split, &settings.sequences)?;
    dataset.check_annotations()?;
    Ok(dataset)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// `cli.rs` may not use the crate `datasets`, so the names stand there as text.
    #[test]
    fn the_help_names_every_kind_of_data_set() {
        let mut program = Cli::command();
        program.build();
        for path in [&["eval"][..], &["bank", "build"]] {
            let found = path.iter().try_fold(&program, |command, name| command.find_subcommand(name)).unwrap();
            let argument = found.get_arguments().find(|argument| argument.get_id() == "dataset").unwrap();
            let help = argument.get_help().unwrap().to_string();
            for kind in DatasetKind::ALL {
                assert!(help.contains(kind.name()), "{kind} is not in: {help}");
            }
        }
    }
}
