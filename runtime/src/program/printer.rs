//! What goes to the terminal: data on stdout, everything else on stderr; bars on a terminal, plain lines otherwise.

use std::io::{IsTerminal as _, Write};
use std::sync::OnceLock;

use anyhow::Context as _;
use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

/// All bars of the program. Log lines are written between them, not through them.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Decides what is printed.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    quiet: bool,
    json: bool,
}

impl Printer {
    /// A printer: `quiet` keeps everything but errors, warnings and data away, `json` makes data JSON.
    pub fn new(quiet: bool, json: bool) -> Self {
        Self { quiet, json }
    }

    /// Whether data is to be one JSON document.
    pub fn json(&self) -> bool {
        self.json
    }

    /// A line for people, on stderr.
    pub fn status(&self, line: impl AsRef<str>) {
        if !self.quiet {
            eprint_between_bars(line.as_ref());
        }
    }

    /// Data for people, on stdout; nothing with `--json`. A reader that has read enough (`| head`) is no error.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn text(&self, text: impl AsRef<str>) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        match write_line(text.as_ref().trim_end()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written.context(UNWRITTEN),
        }
    }

    /// The JSON document, on stdout; nothing without `--json`.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn document(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if self.json {
            let text = serde_json::to_string_pretty(value).context("cannot make JSON")?;
            write_line(&text).context(UNWRITTEN)?;
        }
        Ok(())
    }

    /// The group of progress bars; none when there is no terminal or `--quiet`.
    pub fn bars(&self) -> Option<&'static MultiProgress> {
        if self.quiet || !std::io::stderr().is_terminal() {
            return None;
        }
        Some(BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5))))
    }

    /// Whether plain progress lines are wanted: no terminal, not quiet.
    pub fn plain_progress(&self) -> bool {
        !self.quiet && !std::io::stderr().is_terminal()
    }
}

/// Writes a line to stdout, at once: data that did not arrive must not end with exit code 0.
fn write_line(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}

/// Why a command failed whose data did not arrive.
const UNWRITTEN: &str = "cannot write to stdout; disk full, or its reader gone?";

/// Writes a line to stderr. Words for people that cannot be written are no reason to stop (and `eprintln!` would panic).
fn eprint_between_bars(line: &str) {
    let write = || {
        let _ = writeln!(std::io::stderr(), "{line}");
    };
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Sends the log lines of `program` to stderr: warnings by default, more with `-v`, errors alone with `-q`.
pub fn init_log(program: &'static str, verbose: u8, quiet: bool) {
    struct BetweenBars;
    impl Write for BetweenBars {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            eprint_between_bars(String::from_utf8_lossy(bytes).trim_end());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let level = match (quiet, verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, 2) => log::LevelFilter::Debug,
        (false, _) => log::LevelFilter::Trace,
    };
    // rten and other crates have nothing to say to a user of hsg below a warning.
    env_logger::Builder::new()
        .filter_level(level.min(log::LevelFilter::Warn))
        .filter_module("hsg", level)
        .filter_module("hsg_calibrate", level)
        .filter_module("calibration", level)
        .filter_module("runtime", level)
        .filter_module("video", level)
        .filter_module("tensorrt", level)
        .format(move |out, record| writeln!(out, "{program}: {}: {}", level_word(record.level()), record.args()))
        .target(env_logger::Target::Pipe(Box::new(BetweenBars)))
        .init();
}

fn level_word(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "error",
        log::Level::Warn => "warning",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    }
}

/// Widest that a column is padded to, characters. Names in files of others can be of any length, and `format!` panics on a
/// width of more than 65 535.
const MAX_WIDTH: usize = 200;

/// A table for people: columns padded to their widest cell, the first one left-aligned. Cells of more than 200 characters stand
/// as they are.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0).min(MAX_WIDTH)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn cells_may_have_any_length() {
        let long = "x".repeat(70_000);
        let text = table(&[vec!["a".to_owned(), long.clone()], vec![long.clone(), "b".to_owned()]]);
        let lines: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lines, [200 + 2 + 70_000, 70_000 + 2 + 200]);
    }
}
