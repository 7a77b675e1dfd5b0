//! The prototype bank: labelled prototypes of base segments, their file, and label retrieval by nearest neighbours.
//!
//! A prototype is the unit mean feature of a segment of a training image, with the label that most of its pixels have
//! ([`majority_label`]). A segment of a new image takes the majority vote among its 20 nearest prototypes by cosine
//! ([`Bank::vote`]; J.-J. Hwang et al., "SegSort", ICCV 2019, §3.3). The search is exact.

mod bank;
mod error;
mod file;
mod majority;
mod nearest;
mod products;

pub use bank::{Bank, Vote};
pub use error::RetrievalError;
pub use file::{BankBuilder, EncodedBank, FORMAT_VERSION, MAGIC, Storage};
pub use majority::majority_label;
pub use nearest::{MAX_NEIGHBOURS, Neighbours};

/// Votes of the method: 20 nearest prototypes.
pub const NUM_VOTES: usize = 20;
