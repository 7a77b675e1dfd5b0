//! Frames from a file or socket (feature `std`).

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::vec;
use std::vec::Vec;

use crate::codec::{Deframer, WireError};
use crate::frame::Frame;

/// Bytes asked of the stream at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Why the next frame could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream could not be read.
    Io(io::Error),
    /// What was read is wrong.
    Wire(WireError),
    /// The stream ends within its header or a frame.
    Cut {
        /// Bytes received of what is incomplete.
        got: usize,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(source) => write!(f, "stream of frames cannot be read: {source}"),
            Self::Wire(source) => source.fmt(f),
            Self::Cut { got } => {
                write!(f, "stream of frames is cut: expected a whole frame at its end, got {got} bytes of one")
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            Self::Wire(source) => Some(source),
            Self::Cut { .. } => None,
        }
    }
}

/// Reads frames from `input`. It reads ahead, so wrapping it into a `BufReader` gains nothing.
pub struct StreamReader<R> {
    input: R,
    deframer: Deframer,
    piece: Vec<u8>,
}

impl<R: Read> StreamReader<R> {
    /// A reader at the beginning of a stream.
    pub fn new(input: R) -> Self {
        Self { input, deframer: Deframer::new(), piece: vec![0; PIECE_BYTES] }
    }

    /// The next frame; none at the end of the stream.
    ///
    /// # Errors
    /// When the stream cannot be read, is cut or holds something wrong; see [`Deframer::next_frame`] for what the next
    /// call does.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.deframer.next_frame().map_err(ReadError::Wire)? {
                return Ok(Some(frame));
            }
            match self.input.read(&mut self.piece) {
                Ok(0) => {
                    // A stream without even a header is cut as well: writers begin with it.
                    return match self.deframer.pending_bytes() {
                        0 if self.deframer.header().is_some() => Ok(None),
                        got => Err(ReadError::Cut { got }),
                    };
                }
                Ok(count) => self.deframer.push(&self.piece[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
    }
}
