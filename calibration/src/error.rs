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
    /// A stage that ran without leaving what it has to.
    #[error("{what} of frame `{frame}` is missing after a run without an error; this is a bug, please report it")]
    Missing {
        /// What the stage leaves.
        what: &'static str,
        /// The frame.
        frame: String,
    },
    /// A table that does not hold together.
    #[error("the table is damaged: {what}; collect again")]
    Damaged {
        /// What does not fit.
        what: String,
    },
}

/// A result of calibration.
pub type Result<T> = std::result::Result<T, CalibrationError>;
