//! What the suites share: comparison of numbers, where data and fixtures are, pictures to feed, programs to run.

pub mod bags;
mod close;
pub mod disks;
pub mod fake_backend;
pub mod folders;
pub mod golden;
pub mod kernel_twin;
pub mod moving;
pub mod networks;
#[cfg(feature = "torch")]
pub mod operators;
pub mod outputs;
pub mod pictures;
pub mod programs;
pub mod stand_ins;
#[cfg(feature = "torch")]
pub mod torch;
pub mod training;

pub use close::{Tolerance, assert_close};

use std::io::Write;

/// Says on standard error that a case is left out and why.
///
/// The test harness keeps `println!` of passing tests to itself, so this writes past it.
pub fn skip(case: &str, reason: &str) {
    // A closed standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr(), "skipped: {case}: {reason}");
}
