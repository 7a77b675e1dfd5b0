//! The frames of one source to several sinks: files, and whoever looks on. \[F8\]

use std::ops::ControlFlow;

use super::{SegmentedFrame, SinkError};
use crate::pipeline::publish::Sink;

/// Hands each frame to all its sinks, in their order; without any it is thrown away.
#[derive(Default)]
pub struct FanOut {
    sinks: Vec<Box<dyn Sink>>,
}

impl FanOut {
    /// Without sinks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sink.
    pub fn add(&mut self, sink: impl Sink + 'static) {
        self.sinks.push(Box::new(sink));
    }
}

impl Sink for FanOut {
    fn show(&mut self, frame: &SegmentedFrame) -> ControlFlow<()> {
        // Everybody sees the frame with which one has enough.
        let mut flow = ControlFlow::Continue(());
        for sink in &mut self.sinks {
            if sink.show(frame).is_break() {
                flow = ControlFlow::Break(());
            }
        }
        flow
    }

    fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        self.sinks.iter_mut().try_for_each(|sink| sink.write(frame))
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        // All are completed, whatever becomes of the first.
        self.sinks.iter_mut().map(|sink| sink.finish()).fold(Ok(()), Result::and)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Notes what it is asked, and fails or has enough as told.
    struct Noting {
        name: &'static str,
        fails: bool,
        notes: Arc<Mutex<Vec<String>>>,
    }

    impl Noting {
        fn note(&self, what: &str) -> Result<(), SinkError> {
            self.notes.lock().unwrap().push(format!("{} {what}", self.name));
            let refused = || SinkError::SaveList { text: self.name.to_owned(), reason: what.to_owned() };
            if self.fails { Err(refused()) } else { Ok(()) }
        }
    }

    impl Sink for Noting {
        fn show(&mut self, _: &SegmentedFrame) -> ControlFlow<()> {
            if self.note("show").is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }

        fn write(&mut self, _: &SegmentedFrame) -> Result<(), SinkError> {
            self.note("write")
        }

        fn finish(&mut self) -> Result<(), SinkError> {
            self.note("finish")
        }
    }

    #[test]
    fn all_sinks_are_shown_the_frame_and_finished() {
        let notes = Arc::default();
        let mut sinks = FanOut::new();
        for (name, fails) in [("a", true), ("b", false), ("c", true)] {
            sinks.add(Noting { name, fails, notes: Arc::clone(&notes) });
        }
        let frame = SegmentedFrame::default();
        assert!(sinks.show(&frame).is_break());
        assert!(sinks.finish().unwrap_err().to_string().contains("--save a: finish"));
        assert_eq!(*notes.lock().unwrap(), ["a show", "b show", "c show", "a finish", "b finish", "c finish"]);
        assert!(sinks.write(&frame).unwrap_err().to_string().contains("--save a: write"));
    }

    #[test]
    fn without_sinks_frames_are_thrown_away() {
        let (mut sinks, frame) = (FanOut::new(), SegmentedFrame::default());
        assert!(sinks.show(&frame).is_continue());
        sinks.write(&frame).unwrap();
        sinks.finish().unwrap();
    }
}
