//! One file per command.

mod edges;
mod export;
mod train;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::{Cli, Command, Common};
use crate::error::{Result, TrainError};

/// How a command ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done,
    /// Ctrl-C or SIGTERM; files are whole.
    Interrupted,
}

/// Runs a command.
///
/// # Errors
/// As the commands; the message names the file or setting and the remedy.
pub fn run(cli: &Cli) -> Result<Exit> {
    let (Command::Edges(crate::cli::EdgesArgs { common, .. })
    | Command::Train(crate::cli::TrainArgs { common, .. })
    | Command::Export(crate::cli::ExportArgs { common, .. })) = &cli.command;
    start_log(common);
    match &cli.command {
        Command::Edges(args) => edges::run(args),
        Command::Train(args) => train::run(args),
        Command::Export(args) => export::run(args),
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

/// A flag that Ctrl-C or SIGTERM sets; a second signal ends the program at once.
fn interrupt_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        #[allow(clippy::disallowed_methods, reason = "whoever asks twice does not want to wait for a clean end")]
        if shared.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("interrupted: finishing what is begun (a second Ctrl-C ends at once)");
    })
    .map_err(|e| TrainError::Settings { origin: "signal handler".into(), message: e.to_string() })?;
    Ok(flag)
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
fn print_json(value: &serde_json::Value) {
    println!("{value:#}");
}
