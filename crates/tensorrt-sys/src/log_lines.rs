//! What TensorRT logs: to the crate `log`, and kept as long as somebody records.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::raw;

/// Lines of a recording; a build says thousands at most.
const MAX_LINES: usize = 2000;
/// Errors that become part of the next of ours.
const MAX_ERRORS: usize = 3;

struct Lines {
    /// The last errors.
    errors: VecDeque<String>,
    recording: Option<Vec<String>>,
}

static LINES: Mutex<Lines> = Mutex::new(Lines { errors: VecDeque::new(), recording: None });

fn lines() -> MutexGuard<'static, Lines> {
    // Poisoned only if a thread ended while it appended a line: the lines are still lines.
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn receive(severity: i32, text: *const c_char) {
    // SAFETY: the shim passes TensorRT's own string, which ends with zero and lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    take(severity, &text);
}

fn take(severity: i32, text: &str) {
    let (level, word) = match severity {
        0 | 1 => (log::Level::Error, "error"),
        2 => (log::Level::Warn, "warning"),
        3 => (log::Level::Info, "info"),
        _ => (log::Level::Debug, ""),
    };
    log::log!(target: "tensorrt", level, "{text}");
    if level > log::Level::Info {
        return;
    }
    let mut lines = lines();
    if level == log::Level::Error {
        if lines.errors.len() == MAX_ERRORS {
            lines.errors.pop_front();
        }
        lines.errors.push_back(text.trim().to_owned());
    }
    if let Some(recording) = lines.recording.as_mut().filter(|recording| recording.len() < MAX_LINES) {
        recording.push(format!("{word}: {}", text.trim()));
    }
}

/// Sends TensorRT's lines here.
pub(crate) fn connect() {
    // SAFETY: stores a pointer to a function that lives as long as the process.
    unsafe { raw::hsg_trt_set_log(receive) }
}

/// The errors since the last call, in words.
pub(crate) fn take_errors() -> String {
    lines().errors.drain(..).collect::<Vec<_>>().join("; ")
}

/// Keeps what TensorRT says from info up. One at a time: builds do not run side by side.
#[derive(Debug)]
pub struct LogRecording(());

impl LogRecording {
    /// Begins.
    pub fn begin() -> Self {
        lines().recording = Some(Vec::new());
        Self(())
    }

    /// The lines.
    pub fn finish(self) -> Vec<String> {
        lines().recording.take().unwrap_or_default()
    }
}

impl Drop for LogRecording {
    fn drop(&mut self) {
        lines().recording = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test: the lines belong to the process.
    #[test]
    fn lines_are_kept_by_their_severity() {
        let recording = LogRecording::begin();
        for (severity, text) in [(0, "a"), (1, "b "), (2, "c"), (3, "d"), (4, "e"), (1, "f"), (1, "g")] {
            take(severity, text);
        }
        assert_eq!(recording.finish(), ["error: a", "error: b", "warning: c", "info: d", "error: f", "error: g"]);
        assert_eq!(take_errors(), "b; f; g");
        assert_eq!(take_errors(), "");
        take(3, "nobody records");
        let recording = LogRecording::begin();
        for _ in 0..MAX_LINES + 5 {
            take(3, "x");
        }
        assert_eq!(recording.finish().len(), MAX_LINES);
    }
}
