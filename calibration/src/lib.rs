//! INT8 without surprises: what values a network's tensors take on representative frames, and which ranges follow.
//!
//! The way: [`select`] chooses frames that differ → their activations fill one [`histogram`] a tensor → [`table`] keeps
//! them, mergeable and bound to one model → [`ranges`] makes an 8-bit range of each, by four methods, with the error that
//! each is expected to cost. The commands on top of this (`hsg-calibrate`) are not written yet.

mod error;
pub mod histogram;
pub mod ranges;
pub mod select;
pub mod table;

pub use error::{CalibrationError, Result};
