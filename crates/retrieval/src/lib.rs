//! The prototype bank: labelled prototypes of base segments, their file, and label retrieval by nearest neighbours.
//!
//! A prototype is the unit mean feature of a segment of a training image, with the label that most of its pixels have
//! ([`majority_label`]). A segment of a new image takes the majority vote among its 20 nearest prototypes by cosine
//! ([`Bank::vote`]; J.-J. Hwang et al., "SegSort", ICCV 2019, §3.3), or what these say weighted by similarity
//! ([`Bank::shares_by`]).
//!
//! The way of a search: [`bank`](self) makes tiles of the queries and parts of the prototypes → `products` multiplies them,
//! unpacking panel after panel of what is stored (`panels`) → `nearest` keeps candidates and decides between them in 64
//! bits, so the search is exact. With [`Search::Approximate`], `inverted` says which prototypes are looked at.
//!
//! What a person named is a file of its own (`user`), laid over a bank when that is loaded (`overlay` has the rule).

mod bank;
mod builder;
mod error;
mod file;
mod inverted;
mod majority;
mod mapping;
mod nearest;
mod overlay;
mod panels;
mod products;
mod user;

pub use bank::{Bank, MAPPED_FROM_BYTES, Search, Vote, Weighting};
pub use builder::{BankBuilder, EncodedBank};
pub use error::RetrievalError;
pub use file::{FORMAT_VERSION, MAGIC, Storage};
pub use majority::majority_label;
pub use nearest::{MAX_NEIGHBOURS, Neighbours};
pub use overlay::{LIKE, Overlay};
pub use user::{
    Added, MAX_USER_BYTES, MAX_USER_ENTRIES, USER_FORMAT_VERSION, USER_MAGIC, UserBank, UserEntry, UserOrigin,
    check_name, same_name,
};

/// Banks of at least this many prototypes are worth an index: an exact search of one takes about 20 ms for 288 queries on two
/// cores with AVX-512, and an approximate one has little to gain in smaller ones.
pub const INDEXED_FROM: usize = 100_000;

/// Lists that an approximate search looks into unless told otherwise. With 857 000 repeated CamVid prototypes in 3700 lists
/// 99.9 % of 1440 segments kept the label of the exact search (`docs/benchmarks/speed.md`).
pub const DEFAULT_PROBES: usize = 32;

/// Votes of the method: 20 nearest prototypes.
pub const NUM_VOTES: usize = 20;
