//! Progress bars on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

use super::printer::Printer;

/// A bar for `total` frames; a spinner where their number is not known.
pub fn frame_bar(printer: Printer, name: &str, total: Option<u64>) -> Option<ProgressBar> {
    let bars = printer.bars()?;
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{prefix} [{bar:30}] {pos}/{len} frames  {per_sec}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {pos} frames  {per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(name.to_owned());
    Some(bars.add(bar))
}

/// Progress over a known number of images: a bar on a terminal, otherwise a line every few seconds.
pub struct ImageProgress {
    printer: Printer,
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    start: std::time::Instant,
    last_line: std::time::Instant,
}

/// Time between two plain progress lines.
pub const LINE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

impl ImageProgress {
    /// Nothing is done yet.
    pub fn new(printer: Printer, name: &str, total: u64) -> Self {
        let now = std::time::Instant::now();
        Self { printer, bar: frame_bar(printer, name, Some(total)), total, done: 0, start: now, last_line: now }
    }

    /// One more image is done.
    pub fn step(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.printer.plain_progress() && self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = std::time::Instant::now();
            let rate = self.done as f64 / self.start.elapsed().as_secs_f64();
            self.printer.status(format!("{} of {} images, {rate:.1} per second", self.done, self.total));
        }
    }
}

impl Drop for ImageProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
