//! What the programs `hsg` and `hsg-calibrate` share: words on the terminal, progress, signals, finding what is shipped. A
//! program's own `anyhow` is at home here and nowhere else in this library.

pub mod args;
pub mod printer;
pub mod progress;
pub mod shipped;
pub mod signals;

pub use printer::{Printer, init_log, table};
pub use progress::{ImageProgress, frame_bar};
pub use signals::{Signal, Signals};

/// How a command ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is done.
    Done,
    /// It ran, but a stated limit was missed or an input was skipped.
    Incomplete,
    /// Bounded work was interrupted; files are whole.
    Interrupted(Signal),
}

/// The exit code of `program` for the outcome of its command; an error is said on stderr. 0 done · 1 ran, but a stated limit
/// was missed or an input was skipped · 2 could not run · 130 / 143 interrupted by Ctrl-C / SIGTERM, files whole.
pub fn exit_code(program: &str, outcome: anyhow::Result<Outcome>) -> std::process::ExitCode {
    use std::io::Write as _;
    match outcome {
        Ok(Outcome::Done) => std::process::ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => std::process::ExitCode::from(1),
        Ok(Outcome::Interrupted(signal)) => std::process::ExitCode::from(signal.exit_code()),
        Err(error) => {
            // An error that cannot be said is in the exit code still.
            let _ = writeln!(std::io::stderr(), "{program}: error: {}", one_line(&error));
            std::process::ExitCode::from(2)
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
        let quoted = anyhow::Error::new(crate::PipelineError::Spawn { source: cause() });
        assert_eq!(super::one_line(&quoted).matches("disk on fire").count(), 1);
        let context = Err::<(), _>(cause()).context("cannot read a.toml").unwrap_err();
        assert_eq!(super::one_line(&context), "cannot read a.toml: disk on fire");
    }
}
