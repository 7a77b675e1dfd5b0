//! The program `hsg`: maps the outcome of a command to an exit code.
//!
//! 0 done · 1 ran, but a stated limit was missed or an input was skipped · 2 could not run · 130 / 143 interrupted by
//! Ctrl-C / SIGTERM, files whole.

mod cli;
mod commands;
mod settings;

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::program::exit_code("hsg", commands::run_program())
}
