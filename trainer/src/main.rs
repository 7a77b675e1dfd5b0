//! Program `hsg-train`: maps the outcome of a command to an exit code.

use std::process::ExitCode;

use clap::Parser;
use trainer::cli::Cli;
use trainer::commands;

fn main() -> ExitCode {
    match commands::run(&Cli::parse()) {
        Ok(commands::Exit::Done) => ExitCode::SUCCESS,
        Ok(commands::Exit::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
