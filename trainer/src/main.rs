//! Program `hsg-train`: maps the outcome of a command to an exit code.

use std::process::ExitCode;

use clap::Parser;
use trainer::cli::Cli;
use trainer::commands;
use trainer::progress::say;

fn main() -> ExitCode {
    match commands::run(&Cli::parse()) {
        Ok(commands::Exit::Done) => ExitCode::SUCCESS,
        Ok(commands::Exit::Skipped) => ExitCode::from(1),
        Ok(commands::Exit::Interrupted(signal)) => ExitCode::from(signal.exit_code()),
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}
