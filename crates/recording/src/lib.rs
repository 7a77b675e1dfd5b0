//! MCAP recordings, what ROS 2 and Foxglove write, to image messages \[F1\], and [`writer`] for our own. Pixels are not touched
//! here.
//!
//! [`Recording::open`] finds out which topics a file has, [`Recording::messages`] reads one of them from the beginning to the
//! end, and [`decode`] takes a message apart into its [`ImageMessage`].
//!
//! Honoured: files with and without chunks, chunks as they are or in lz4 or zstd, checksums of chunks and of the summary, the
//! index (chunks without the topic are not unpacked), files without an end. Ignored: attachments, metadata, the checksum of the
//! whole data section. Not read: messages in the second version of CDR, ROS 1, compressed video; what was found is named.
//!
//! Order: messages come in the order of the file; those of one chunk by log time, where the chunk does not have them so. Chunks
//! are not sorted against each other: when they overlap in time, times may step back.
//!
//! Why the crate `mcap` is not used: it brings 23 crates for a format of fifteen records, and reads whole files that end as
//! they should; here most of the work is with those that do not.

mod cdr;
mod chunk;
mod error;
mod message;
mod protobuf;
mod reader;
mod records;
pub mod writer;

pub use error::RecordingError;
pub use message::{Format, ImageMessage, Picture, decode};
pub use reader::{Event, Messages, Recording, Topic};
pub use records::MAGIC;
