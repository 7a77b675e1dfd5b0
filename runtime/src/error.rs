//! What can go wrong between a source and its sinks.

use std::path::PathBuf;

use crate::backend::BackendError;
use crate::sink::SinkError;
use crate::source::SourceError;

/// An error of the pipeline. Messages name the file concerned, what was expected, what was found, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The source cannot go on.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Results cannot be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The network cannot be loaded or run.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The model folder is not what it promises.
    #[error(transparent)]
    Model(#[from] models::ModelError),
    /// The model's files do not fit each other.
    #[error("{path}: {what}: expected {expected}, got {got}; {remedy}", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// What the manifest says.
        expected: String,
        /// What the file has.
        got: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The prototype bank cannot be read, or belongs to another model.
    #[error(transparent)]
    Bank(#[from] retrieval::RetrievalError),
    /// An int8 network that nobody has measured, or one that missed a limit.
    #[error(
        "{path}: {reason}; measure it with `hsg-calibrate report --model {model}`, or run it all the same with --allow-unverified",
        path = path.display(),
        model = model.display()
    )]
    Unverified {
        /// The receipt's file.
        path: PathBuf,
        /// The model folder.
        model: PathBuf,
        /// What is missing or does not match.
        reason: String,
    },
    /// A stage refused a frame.
    #[error("stage {stage}, frame {index} of `{stream}`: {reason}")]
    Stage {
        /// The stage.
        stage: &'static str,
        /// The stream.
        stream: String,
        /// The frame's index in its source.
        index: u64,
        /// Why.
        reason: String,
    },
    /// The source ended without a single frame.
    #[error("source `{name}`: no frame could be read ({detail}); check the source, or copy it again")]
    NoFrame {
        /// The source.
        name: String,
        /// What was found instead.
        detail: String,
    },
    /// Settings that do not fit the source.
    #[error("source `{name}`: {reason}")]
    Settings {
        /// The source.
        name: String,
        /// What does not fit, and the remedy.
        reason: String,
    },
    /// A thread of the pipeline panicked: an error of the program.
    #[error(
        "source `{name}`: the thread {thread} stopped unexpectedly; this is an error of the program, please report it"
    )]
    Thread {
        /// The source.
        name: String,
        /// The thread.
        thread: &'static str,
    },
    /// The system refused a thread.
    #[error("cannot start a thread: {source}; use fewer --threads or allow more with `ulimit -u`")]
    Spawn {
        /// The system's reason.
        source: std::io::Error,
    },
}
