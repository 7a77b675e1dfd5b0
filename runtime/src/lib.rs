//! Streams frames through backbone, clustering and grouping. The library behind the program `hsg`.
//!
//! - [`pipeline`]: the stages of a frame, in order; read its module page first.
//! - [`source`], [`sink`]: where frames come from and where results go.
//! - [`backend`]: what executes the networks.
//! - [`program`]: what the command lines share.

pub mod backend;
pub mod error;
pub mod pipeline;
pub mod program;
pub mod receipt;
pub mod sink;
pub mod source;

pub use error::PipelineError;
