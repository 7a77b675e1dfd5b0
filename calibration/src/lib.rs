//! INT8 without surprises: what values a network's tensors take on representative frames, and which ranges follow.
//!
//! The way: [`select`] chooses frames that differ → [`observe`] runs both networks on them with their inner tensors as outputs
//! → one [`histogram`] a tensor → [`table`] keeps them, mergeable and bound to one model → [`ranges`] makes an 8-bit range of
//! each, by four methods, with the error that each is expected to cost → [`quantizer`] makes the int8 network of a recipe →
//! [`judge`] measures what it costs → [`search`] tries recipes. [`frames`] is where frames come from. The program
//! `hsg-calibrate` has a command for each part of the way: `collect`, `quantize`, `report`.

mod error;
pub mod frames;
pub mod histogram;
pub mod judge;
pub mod observe;
pub mod quantizer;
pub mod ranges;
pub mod search;
pub mod select;
pub mod table;

pub use error::{CalibrationError, Result};
