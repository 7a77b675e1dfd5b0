//! Graph → graph. Each pass is proved against its input: `tests/suites/passes.rs` runs both graphs and compares.
//!
//! | pass | what |
//! |---|---|
//! | [`strip_training`] | removes dropout, which does nothing at inference |
//! | [`fold_batch_norm`] | multiplies batch normalisations into the convolution or matrix before them |

mod fold_batch_norm;
mod strip_training;

pub use fold_batch_norm::fold_batch_norm;
pub use strip_training::strip_training;
