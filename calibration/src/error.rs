//! What can go wrong.

/// An error of calibration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// An activation is NaN or infinite.
    #[error(
        "tensor `{tensor}`: {count} of {values} values are NaN or infinite; the network or its input is damaged: does `hsg run` work with this model on these frames?"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// How many of its values.
        count: usize,
        /// Of so many.
        values: usize,
    },
    /// A table of another model.
    #[error(
        "the table belongs to the model with hash {got}, this is the model {expected}; collect again with this model"
    )]
    OtherModel {
        /// Hash of the model at hand.
        expected: String,
        /// That in the table.
        got: String,
    },
    /// Tables that observed the same frame.
    #[error("frame `{frame}` is in both tables and would count twice; leave one of the tables out")]
    SameFrame {
        /// The frame.
        frame: String,
    },
    /// A table with other tensors.
    #[error(
        "the tables do not observe the same tensors: only one has `{tensor}`; collect both with the same version of hsg"
    )]
    OtherTensors {
        /// A tensor that one lacks.
        tensor: String,
    },
    /// A model's file, or a network that does not run.
    #[error(transparent)]
    Model(#[from] models::ModelError),
    /// A stage or backend of the runtime.
    #[error(transparent)]
    Runtime(#[from] runtime::PipelineError),
    /// A backend.
    #[error(transparent)]
    Backend(#[from] runtime::backend::BackendError),
    /// A source of frames.
    #[error(transparent)]
    Source(#[from] runtime::source::SourceError),
    /// A frame that cannot become the network's input.
    #[error("frame {index} of `{source_name}`: {reason}")]
    Frame {
        /// Its index.
        index: u64,
        /// The source.
        source_name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A camera that went away.
    #[error("the source was lost while its frames were recorded: {reason}; start again when it is back")]
    Lost {
        /// Why.
        reason: String,
    },
    /// A recording of another source, of another number of frames, or for another input of the network.
    #[error(
        "{}: expected a recording of {expected}, got one of {got}; delete that folder, or name another --out", folder.display()
    )]
    OtherRecording {
        /// Where it lies.
        folder: std::path::PathBuf,
        /// What this run records.
        expected: String,
        /// What was recorded.
        got: String,
    },
    /// A source that gave other frames when it was read again.
    #[error("source `{source_name}`: {what}; start again when nothing writes to it")]
    Changed {
        /// The source.
        source_name: String,
        /// What was expected and what came.
        what: String,
    },
    /// An image that cannot be written or read.
    #[error(transparent)]
    Image(#[from] segcore::image_io::ImageFileError),
    /// What a frame's visitor ran into.
    #[error("{0}")]
    Other(String),
    /// The person wants it to stop.
    #[error("stopped")]
    Stopped,
    /// Too few frames for ranges that hold elsewhere.
    #[error(
        "expected at least {expected} frames that differ, got {got} ({detail}); give more sources or longer ones, as they come on the road"
    )]
    TooFewFrames {
        /// The least number.
        expected: usize,
        /// How many there are.
        got: usize,
        /// What was found, in words.
        detail: String,
    },
    /// A stage that ran without leaving what it has to.
    #[error("{what} of frame `{frame}` is missing after a run without an error; this is a bug, please report it")]
    Missing {
        /// What the stage leaves.
        what: &'static str,
        /// The frame.
        frame: String,
    },
    /// A table that does not hold together.
    #[error("the table is damaged: {what}; collect again, or restore the file")]
    Damaged {
        /// What does not fit.
        what: String,
    },
}

impl CalibrationError {
    /// An error of another kind, in its words.
    pub fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(format!("{error:#}"))
    }
}

/// A result of calibration.
pub type Result<T> = std::result::Result<T, CalibrationError>;
