//! One file per command.

mod edges;
mod evaluate;
mod export;
mod import;
mod train;

use std::io::Write;
use std::path::Path;

use crate::cli::{Cli, Command, Common};
use crate::error::{Result, TrainError};
use crate::settings::TrainSettings;
use crate::signals::{Signal, Signals};

/// How a command ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done,
    /// Done, but some inputs could not be read and were left out.
    Skipped,
    /// A process that this one started failed and has said why.
    Failed,
    /// By Ctrl-C or SIGTERM; files are whole.
    Interrupted(Signal),
}

/// Runs a command.
///
/// # Errors
/// As the commands; the message names the file or setting and the remedy.
pub fn run(cli: &Cli) -> Result<Exit> {
    let common = &cli.common;
    start_log(common);
    match &cli.command {
        Command::Edges(args) => edges::run(args, common),
        Command::Train(args) => train::run(args, common),
        Command::Evaluate(args) => evaluate::run(args, common),
        Command::Import(args) => import::run(args, common),
        Command::Export(args) => export::run(args, common),
    }
}

fn start_log(common: &Common) {
    let level = match common.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    // A second initialisation (tests) keeps the first logger.
    let _ = env_logger::Builder::new().filter_level(level).parse_env("HSG_LOG").try_init();
}

/// Listens to Ctrl-C and SIGTERM from now on.
fn listen() -> Result<Signals> {
    Signals::listen().map_err(|e| TrainError::file("install", Path::new("the signal handlers"), e))
}

/// Threads to use: `threads`, or all cores for 0.
fn resolve_threads(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Sizes the pool that over-segments and decodes.
fn start_pool(threads: usize) {
    // Already built by an earlier call (tests): its size stays.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(resolve_threads(threads)).build_global();
}

/// Prints the one JSON document of `--json`.
fn print_json(value: &serde_json::Value) -> Result<()> {
    write_out(&format!("{value:#}\n")).map_err(|e| TrainError::file("write", Path::new("stdout"), e))
}

/// Prints the settings that a command would use, as TOML or JSON.
fn show(settings: &TrainSettings, common: &Common) -> Result<Exit> {
    if common.json {
        print_json(&serde_json::to_value(settings).unwrap_or_default())?;
    } else {
        print_text(&settings.to_toml()?)?;
    }
    Ok(Exit::Done)
}

/// Words for people: a reader that has read enough (`| head`) is no error.
fn print_text(text: &str) -> Result<()> {
    match write_out(text) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(TrainError::file("write", Path::new("stdout"), e)),
        _ => Ok(()),
    }
}

fn write_out(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// The error for an option that is needed here.
fn needed(option: &str, expected: &str) -> TrainError {
    TrainError::Invalid {
        what: option.to_owned(),
        expected: expected.to_owned(),
        got: "none".to_owned(),
        remedy: format!("give {option}"),
    }
}
