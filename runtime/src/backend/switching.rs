//! An engine that begins as one and becomes another: a stream that runs on the CPU until the engines of its GPU are built.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::{BackendError, Engine, Session, TensorBuffer, TensorInfo};

/// Runs on `first` until there is something in `later`.
pub struct SwitchingEngine {
    first: Arc<dyn Engine>,
    later: Arc<OnceLock<Arc<dyn Engine>>>,
}

impl SwitchingEngine {
    /// Runs on `first`; `later` is filled by somebody else, with an engine of the same inputs and outputs.
    pub fn new(first: Arc<dyn Engine>, later: Arc<OnceLock<Arc<dyn Engine>>>) -> Self {
        Self { first, later }
    }
}

impl Engine for SwitchingEngine {
    fn path(&self) -> &Path {
        self.first.path()
    }

    fn inputs(&self) -> &[TensorInfo] {
        self.first.inputs()
    }

    fn outputs(&self) -> &[TensorInfo] {
        self.first.outputs()
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, BackendError> {
        let (session, is_later) = match self.later.get() {
            Some(later) => (Arc::clone(later).session()?, true),
            None => (Arc::clone(&self.first).session()?, false),
        };
        Ok(Box::new(SwitchingSession { engine: self, session, is_later }))
    }
}

struct SwitchingSession {
    engine: Arc<SwitchingEngine>,
    session: Box<dyn Session>,
    /// Whether that is a session of the later engine, or it gave none.
    is_later: bool,
}

impl Session for SwitchingSession {
    fn run(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: &mut [(&str, &mut TensorBuffer)],
    ) -> Result<(), BackendError> {
        if !self.is_later
            && let Some(later) = self.engine.later.get()
        {
            // Once: a session that cannot be had now costs nothing, the stream goes on as it is.
            self.is_later = true;
            match Arc::clone(later).session() {
                Ok(session) => self.session = session,
                Err(error) => log::warn!("the stream stays where it is: {error}"),
            }
        }
        self.session.run(inputs, outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BackendErrorKind, TensorBuffer};
    use super::*;

    /// Gives its number as output, or has no sessions.
    struct Numbered(Option<f32>);

    impl Engine for Numbered {
        fn path(&self) -> &Path {
            Path::new("numbered.onnx")
        }

        fn inputs(&self) -> &[TensorInfo] {
            &[]
        }

        fn outputs(&self) -> &[TensorInfo] {
            &[]
        }

        fn session(self: Arc<Self>) -> Result<Box<dyn Session>, BackendError> {
            match self.0 {
                Some(number) => Ok(Box::new(NumberedSession(number))),
                None => Err(BackendError::new(BackendErrorKind::Run, "no memory")),
            }
        }
    }

    struct NumberedSession(f32);

    impl Session for NumberedSession {
        fn run(
            &mut self,
            _: &[(&str, &[usize], &[f32])],
            outputs: &mut [(&str, &mut TensorBuffer)],
        ) -> Result<(), BackendError> {
            for (_, buffer) in outputs {
                buffer.data = vec![self.0];
            }
            Ok(())
        }
    }

    fn number(session: &mut Box<dyn Session>) -> f32 {
        let mut buffer = TensorBuffer::default();
        session.run(&[], &mut [("x", &mut buffer)]).unwrap();
        buffer.data[0]
    }

    #[test]
    fn sessions_move_over_when_the_later_engine_is_there() {
        let later = Arc::default();
        let engine = Arc::new(SwitchingEngine::new(Arc::new(Numbered(Some(1.0))), Arc::clone(&later)));
        let mut session = Arc::clone(&engine).session().unwrap();
        assert_eq!([number(&mut session), number(&mut session)], [1.0, 1.0]);
        later.set(Arc::new(Numbered(Some(2.0))) as Arc<dyn Engine>).ok().unwrap();
        assert_eq!([number(&mut session), number(&mut session)], [2.0, 2.0]);
        assert_eq!(number(&mut engine.session().unwrap()), 2.0);
    }

    #[test]
    fn a_later_engine_without_a_session_leaves_the_stream_as_it_is() {
        let later = Arc::default();
        let engine = Arc::new(SwitchingEngine::new(Arc::new(Numbered(Some(1.0))), Arc::clone(&later)));
        let mut session = engine.session().unwrap();
        later.set(Arc::new(Numbered(None)) as Arc<dyn Engine>).ok().unwrap();
        assert_eq!([number(&mut session), number(&mut session)], [1.0, 1.0]);
    }
}
