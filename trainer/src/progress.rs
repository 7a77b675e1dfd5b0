//! Progress on stderr: a bar on a terminal, a plain line about every ten seconds otherwise.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Prints a line on stderr. One that cannot be written (a log on a full disk) is no reason to stop a run.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Time between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Progress of counted work.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    what: &'static str,
    total: u64,
    first: u64,
    done: u64,
    started: Instant,
    printed: Instant,
}

impl Progress {
    /// Starts at `done` of `total`; `quiet` shows nothing.
    pub fn new(what: &'static str, done: u64, total: u64, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total);
            let template = "{prefix} {bar:30} {pos}/{len} {msg} ({eta} left)";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(what);
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Progress { bar, quiet, what, total, first: done, done, started: now, printed: now }
    }

    /// `done` of the work is done; `message` says how it goes.
    pub fn update(&mut self, done: u64, message: impl FnOnce() -> String) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message());
        } else if !self.quiet && (self.printed.elapsed() >= PLAIN_EVERY || done == self.total) {
            self.printed = Instant::now();
            say(&format!("{} {done}/{} {} ({} left)", self.what, self.total, message(), self.time_left()));
        }
    }

    fn time_left(&self) -> String {
        let worked = self.done - self.first;
        if worked == 0 {
            return "unknown time".into();
        }
        let seconds = self.started.elapsed().as_secs_f64() / worked as f64 * (self.total - self.done) as f64;
        let seconds = seconds as u64;
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, s) => format!("{s} s"),
            (0, m, s) => format!("{m} min {s:02} s"),
            (h, m, _) => format!("{h} h {m:02} min"),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
