//! The published frame, version 1: what `frames.hsg` holds and what a subscriber receives. `docs/wire.md` gives the
//! bytes.
//!
//! A stream is a [`HEADER_BYTES`] long header ([`FileHeader`]), then per frame its length as u32 little-endian and a
//! [`Frame`] in postcard's encoding. [`encode_into`] writes one frame with its length, [`Deframer`] takes bytes as they
//! arrive and gives frames back, and with the feature `std` [`StreamReader`] reads from anything that is
//! [`std::io::Read`].
//!
//! Everything that is read is checked: wrong lengths, numbers out of range and cut streams are errors, never panics,
//! and memory grows with the bytes received, not with the numbers that they claim. Not promised: that a frame which
//! passes the checks was written by this program.
//!
//! Without the feature `std` (on by default) the crate needs no standard library, only an allocator.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod codec;
mod frame;
#[cfg(feature = "std")]
mod reader;

pub use codec::{
    Deframer, FileHeader, HEADER_BYTES, LENGTH_BYTES, MAGIC, MAX_FRAME_BYTES, MAX_PIXELS, VERSION, WireError, decode,
    encode_into,
};
pub use frame::{Frame, Level, NO_SEGMENT, Run, Segment, StageNanos};
#[cfg(feature = "std")]
pub use reader::{ReadError, StreamReader};
