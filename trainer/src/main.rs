//! Program `hsg-train`: maps the outcome of a command to an exit code.

use std::process::ExitCode;

use clap::Parser;
use trainer::cli::Cli;
use trainer::environment;
use trainer::progress::say;
use trainer::{commands, cuda};

fn main() -> ExitCode {
    // Without them it is slower, no more.
    let _ = environment::complete();
    cuda::preload();
    match commands::run(&Cli::parse()) {
        Ok(commands::Exit::Done) => ExitCode::SUCCESS,
        Ok(commands::Exit::Skipped) => ExitCode::from(1),
        Ok(commands::Exit::Failed) => ExitCode::from(2),
        Ok(commands::Exit::Interrupted(signal)) => ExitCode::from(signal.exit_code()),
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}
