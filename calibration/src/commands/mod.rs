//! One file per command, and what they share.

mod collect;
mod quantize;
mod report;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use calibration::CalibrationError;
use clap::Parser as _;
use models::manifest::Precision;
use runtime::pipeline::Deployment;
use runtime::program::{Outcome, Printer, Signals, init_log, shipped};

use crate::cli::{Cli, Command};
use crate::settings::{Base, CollectSettings, ConfigFile, ModelSettings, QuantizeSettings, ReportSettings};

/// Reads the command line and runs the command. Usage errors end the program here, with exit code 2.
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
                // `hsg-calibrate --help | head` has what it wanted.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Err(error).context("cannot write to stdout")
                }
                _ => Ok(Outcome::Done),
            };
        }
    };
    init_log("hsg-calibrate", cli.common.verbose, cli.common.quiet);
    let printer = Printer::new(cli.common.quiet, cli.common.json);
    let base = Base::new(&cli.common)?;
    let show = |config: ConfigFile| -> anyhow::Result<bool> {
        if cli.common.show_settings {
            printer.document(&config)?;
            printer.text(config.to_toml()?)?;
        }
        Ok(cli.common.show_settings)
    };
    match &cli.command {
        Command::Collect(args) => {
            let settings = CollectSettings::resolve(&base, args)?;
            if show(settings.to_config())? { Ok(Outcome::Done) } else { collect::run(&settings, printer) }
        }
        Command::Quantize(args) => {
            let settings = QuantizeSettings::resolve(&base, args)?;
            if show(settings.to_config())? { Ok(Outcome::Done) } else { quantize::run(&settings, printer) }
        }
        Command::Report(args) => {
            let settings = ReportSettings::resolve(&base, args)?;
            if show(settings.to_config())? { Ok(Outcome::Done) } else { report::run(&settings, printer) }
        }
    }
}

/// Opens a model, checks all its hashes and loads its fp32 networks.
fn deploy(settings: &ModelSettings, printer: Printer) -> anyhow::Result<Arc<Deployment>> {
    let spec = settings.deployment(Precision::Fp32);
    // The backend first: a choice that cannot work should not wait for hashes.
    runtime::backend::select(spec.backend)?;
    let deployment = Deployment::load(shipped::open_model(&settings.model)?, spec)?;
    let info = deployment.backend();
    printer.status(format!("backend: {} ({}), {}", info.name, info.version, deployment.reason()));
    Ok(Arc::new(deployment))
}

/// Reads a table and refuses that of another model.
fn read_table(path: &Path, model_hash: &str) -> anyhow::Result<calibration::table::Table> {
    let bytes = models::files::read_file(path)?;
    let in_file = || path.display().to_string();
    let text = String::from_utf8(bytes).with_context(|| format!("{}: expected a table, got no text", in_file()))?;
    let table = calibration::table::Table::from_json(&text).with_context(in_file)?;
    table.belongs_to(model_hash).with_context(in_file)?;
    Ok(table)
}

/// The outcome of a command that may have been told to stop.
fn outcome(result: anyhow::Result<Outcome>, signals: &Signals) -> anyhow::Result<Outcome> {
    match (result, signals.received()) {
        (Err(error), Some(signal)) if matches!(error.downcast_ref(), Some(CalibrationError::Stopped)) => {
            Ok(Outcome::Interrupted(signal))
        }
        (result, _) => result,
    }
}
