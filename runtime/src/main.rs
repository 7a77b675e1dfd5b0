//! The program `hsg`: maps the outcome of a command to an exit code.
//!
//! 0 done · 1 ran, but a stated limit was missed or an input was skipped · 2 could not run · 130 / 143 interrupted by
//! Ctrl-C / SIGTERM, files whole.

mod cli;
mod commands;
mod printer;
mod settings;
mod shipped;
mod signals;

use std::io::Write as _;
use std::process::ExitCode;

use commands::Outcome;

fn main() -> ExitCode {
    match commands::run_program() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::from(1),
        Ok(Outcome::Interrupted(signal)) => ExitCode::from(signal.exit_code()),
        Err(error) => {
            // An error that cannot be said is in the exit code still.
            let _ = writeln!(std::io::stderr(), "hsg: error: {}", one_line(&error));
            ExitCode::from(2)
        }
    }
}

/// The error and its causes; a cause that the message quotes already is not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    #[test]
    fn causes_are_said_once() {
        let cause = || std::io::Error::other("disk on fire");
        let quoted = anyhow::Error::new(runtime::PipelineError::Spawn { source: cause() });
        assert_eq!(super::one_line(&quoted).matches("disk on fire").count(), 1);
        let context = Err::<(), _>(cause()).context("cannot read a.toml").unwrap_err();
        assert_eq!(super::one_line(&context), "cannot read a.toml: disk on fire");
    }
}
