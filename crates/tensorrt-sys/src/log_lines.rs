//! What TensorRT logs: to the crate `log`, as part of the error of the call that it is about, and kept as long as somebody
//! records.
//!
//! TensorRT has one logger for the process and does not say whom a line is about. It logs on the thread that called it, so
//! an error belongs to the call that this thread is in. Builds have threads of their own: what comes from a thread that is in
//! none of our calls belongs to the only call there is, or to the only build. Where that does not tell, it stays in the log
//! alone: no words are better than those about another stream.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::raw;

/// Lines of a recording; a build says thousands at most.
const MAX_LINES: usize = 2000;
/// The last errors of a call become part of ours.
const MAX_ERRORS: usize = 3;

struct Lines {
    /// In progress, of all threads.
    calls: Vec<Listed>,
    /// Of the last call that began.
    number: u64,
    recording: Option<Vec<String>>,
}

/// A call as the logger knows it.
struct Listed {
    number: u64,
    is_build: bool,
    /// Its last errors.
    errors: VecDeque<String>,
}

static LINES: Mutex<Lines> = Mutex::new(Lines { calls: Vec::new(), number: 0, recording: None });

thread_local! {
    /// Number of the call that this thread is in; 0 = none. Nothing to drop, so a thread that ends may still log.
    static CALL: Cell<u64> = const { Cell::new(0) };
}

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
    let own = CALL.get();
    let mut lines = lines();
    if level == log::Level::Error
        && let Some(call) = lines.whose(own)
    {
        if call.errors.len() == MAX_ERRORS {
            call.errors.pop_front();
        }
        call.errors.push_back(text.trim().to_owned());
    }
    // Builds are what is recorded; streams go on beside them.
    let is_of_another = lines.calls.iter().any(|call| call.number == own && !call.is_build);
    if !is_of_another && let Some(recording) = lines.recording.as_mut().filter(|kept| kept.len() < MAX_LINES) {
        recording.push(format!("{word}: {}", text.trim()));
    }
}

impl Lines {
    /// The call that an error is about which comes from a thread that is in call `own`.
    fn whose(&mut self, own: u64) -> Option<&mut Listed> {
        let at = if own != 0 {
            self.calls.iter().position(|call| call.number == own)
        } else if self.calls.len() == 1 {
            Some(0)
        } else {
            let mut builds = (0..self.calls.len()).filter(|&at| self.calls[at].is_build);
            builds.next().filter(|_| builds.next().is_none())
        };
        at.map(|at| &mut self.calls[at])
    }
}

/// Sends TensorRT's lines here.
pub(crate) fn connect() {
    // SAFETY: stores a pointer to a function that lives as long as the process.
    unsafe { raw::hsg_trt_set_log(receive) }
}

/// A call of TensorRT by this thread, from here to its end: what is logged meanwhile is about it.
#[derive(Debug)]
pub(crate) struct Call {
    number: u64,
    /// The call within which this one is made; 0 = none.
    outer: u64,
}

impl Call {
    /// Of anything but a build.
    pub(crate) fn begin() -> Self {
        Self::new(false)
    }

    /// Of a build, which logs from threads of its own, too.
    pub(crate) fn begin_build() -> Self {
        Self::new(true)
    }

    fn new(is_build: bool) -> Self {
        let mut lines = lines();
        lines.number += 1;
        let number = lines.number;
        // Allocates only when more calls are made at once than ever before, or when there is an error.
        lines.calls.push(Listed { number, is_build, errors: VecDeque::new() });
        Self { number, outer: CALL.replace(number) }
    }

    /// Its errors so far, in words.
    pub(crate) fn errors(&self) -> String {
        let mut lines = lines();
        let listed = lines.calls.iter_mut().find(|listed| listed.number == self.number);
        listed.map(|listed| listed.errors.drain(..).collect::<Vec<_>>().join("; ")).unwrap_or_default()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CALL.set(self.outer);
        lines().calls.retain(|listed| listed.number != self.number);
    }
}

/// Keeps what TensorRT says from info up, but for what other calls than builds make it say. One at a time: builds do not run side by side.
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
    fn lines_are_kept_by_severity_and_belong_to_their_call() {
        let recording = LogRecording::begin();
        let call = Call::begin_build();
        for (severity, text) in [(0, "a"), (1, "b "), (2, "c"), (3, "d"), (4, "e"), (1, "f"), (1, "g")] {
            take(severity, text);
        }
        assert_eq!(recording.finish(), ["error: a", "error: b", "warning: c", "info: d", "error: f", "error: g"]);
        assert_eq!(call.errors(), "b; f; g");
        assert_eq!(call.errors(), "");
        drop(call);
        take(1, "in no call");
        assert_eq!(Call::begin().errors(), "");

        take(3, "nobody records");
        let recording = LogRecording::begin();
        for _ in 0..MAX_LINES + 5 {
            take(3, "x");
        }
        assert_eq!(recording.finish().len(), MAX_LINES);

        // Several threads, each in a call, one within another; and a thread of TensorRT's own.
        let elsewhere = |text: &str| {
            std::thread::scope(|scope| drop(scope.spawn(|| take(1, text)).join()));
        };
        let recording = LogRecording::begin();
        let outer = Call::begin();
        take(1, "outer");
        elsewhere("of the only call");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let call = Call::begin();
                take(1, "other");
                elsewhere("of whom?");
                let build = Call::begin_build();
                elsewhere("of the only build");
                take(1, "build");
                assert_eq!(build.errors(), "of the only build; build");
                let second = Call::begin_build();
                elsewhere("of which build?");
                assert_eq!(second.errors(), "");
                drop((second, build));
                take(1, "other again");
                call.errors()
            });
            assert_eq!(other.join().unwrap(), "other; other again");
        });
        assert_eq!(outer.errors(), "outer; of the only call");
        drop(outer);
        // What streams say while an engine is built is none of the build's.
        let kept = ["of the only call", "of whom?", "of the only build", "build", "of which build?"];
        assert_eq!(recording.finish(), kept.map(|text| format!("error: {text}")));
        assert!(lines().calls.is_empty());
    }
}
