//! Frames to bytes and back.

use alloc::vec::Vec;
use core::fmt;

use postcard::ser_flavors::Flavor;

use crate::frame::Frame;

/// First bytes of a stream.
pub const MAGIC: [u8; 4] = *b"HSGF";
/// Version that this crate reads and writes.
pub const VERSION: u16 = 1;
/// Bytes of the header: magic and version.
pub const HEADER_BYTES: usize = 6;
/// Bytes of the length before each frame; the length does not count them.
pub const LENGTH_BYTES: usize = 4;
/// Longest frame accepted, bytes. A map is at most 4 bytes a pixel (each pixel a run of its own), so a 3840×2160 frame
/// has 33 MB at the very worst, and a damaged length cannot make a reader wait for gigabytes.
pub const MAX_FRAME_BYTES: u32 = 256 << 20;
/// Largest `width * height` accepted, so that a map of a few bytes cannot ask for all memory when it is expanded.
pub const MAX_PIXELS: u64 = 1 << 28;

/// What is wrong with a stream of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// The stream does not begin with [`MAGIC`].
    Magic {
        /// Its first four bytes.
        got: [u8; 4],
    },
    /// The stream is of a version that this crate does not read.
    Version {
        /// The version found.
        got: u16,
    },
    /// A frame is longer than [`MAX_FRAME_BYTES`], or cannot be encoded within it.
    TooLong {
        /// The length found.
        got: u64,
    },
    /// The bytes of a frame are no frame: too few, or a number that does not fit its field.
    Encoding {
        /// The decoder's reason.
        reason: postcard::Error,
    },
    /// Bytes are left behind a frame, within the length that was given for it.
    TrailingBytes {
        /// How many.
        got: usize,
    },
    /// The fields of a frame contradict each other.
    Content {
        /// The field and the measure.
        field: &'static str,
        /// The value expected.
        expected: u64,
        /// The value found.
        got: u64,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { got } => {
                write!(f, "not a stream of frames: expected it to begin with {MAGIC:02x?} (HSGF), got {got:02x?}")
            }
            Self::Version { got } => write!(f, "stream of frames: expected version {VERSION}, got {got}"),
            Self::TooLong { got } => write!(f, "frame: expected at most {MAX_FRAME_BYTES} bytes, got {got}"),
            Self::Encoding { reason } => write!(f, "frame: its bytes are no frame: {reason}"),
            Self::TrailingBytes { got } => write!(f, "frame: expected no bytes behind it, got {got}"),
            Self::Content { field, expected, got } => write!(f, "frame: {field}: expected {expected}, got {got}"),
        }
    }
}

impl core::error::Error for WireError {}

/// The header of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Version of the frames that follow.
    pub version: u16,
}

impl Default for FileHeader {
    fn default() -> Self {
        Self { version: VERSION }
    }
}

impl FileHeader {
    /// The bytes: magic, then the version as u16 little-endian.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [m0, m1, m2, m3] = MAGIC;
        let [v0, v1] = self.version.to_le_bytes();
        [m0, m1, m2, m3, v0, v1]
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`WireError::Magic`] or [`WireError::Version`].
    pub fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, v0, v1] = bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(WireError::Magic { got: [m0, m1, m2, m3] });
        }
        match u16::from_le_bytes([v0, v1]) {
            VERSION => Ok(Self { version: VERSION }),
            got => Err(WireError::Version { got }),
        }
    }
}

/// Appends to a vector that the caller keeps; postcard's own flavours take the vector away.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends a frame with its length to `bytes`. In steady state (the vector is reused) nothing is allocated.
///
/// # Errors
/// [`WireError::Content`] if a reader would refuse the frame, [`WireError::TooLong`] if it does not fit into
/// [`MAX_FRAME_BYTES`]; `bytes` is then as it was.
pub fn encode_into(frame: &Frame, bytes: &mut Vec<u8>) -> Result<(), WireError> {
    frame.validate()?;
    let start = bytes.len();
    bytes.extend_from_slice(&[0; LENGTH_BYTES]);
    if let Err(reason) = postcard::serialize_with_flavor(frame, Append(bytes)) {
        bytes.truncate(start);
        return Err(WireError::Encoding { reason });
    }
    let body = start + LENGTH_BYTES;
    let got = (bytes.len() - body) as u64;
    match u32::try_from(got).ok().filter(|length| *length <= MAX_FRAME_BYTES) {
        Some(length) => {
            bytes[start..body].copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        None => {
            bytes.truncate(start);
            Err(WireError::TooLong { got })
        }
    }
}

/// Reads one frame from exactly its bytes, without the length before it.
///
/// Memory: at most a few bytes per byte of `body`, whatever numbers it claims.
///
/// # Errors
/// [`WireError::Encoding`], [`WireError::TrailingBytes`] or [`WireError::Content`].
pub fn decode(body: &[u8]) -> Result<Frame, WireError> {
    let (frame, rest) = postcard::take_from_bytes::<Frame>(body).map_err(|reason| WireError::Encoding { reason })?;
    if !rest.is_empty() {
        return Err(WireError::TrailingBytes { got: rest.len() });
    }
    frame.validate()?;
    Ok(frame)
}

/// Takes the bytes of a stream in pieces of any size and gives frames back.
///
/// ```
/// # let mut stream = wire::FileHeader::default().to_bytes().to_vec();
/// # wire::encode_into(&wire::Frame::default(), &mut stream).unwrap();
/// let mut deframer = wire::Deframer::new();
/// for piece in stream.chunks(7) {
///     deframer.push(piece);
///     while let Some(frame) = deframer.next_frame()? {
///         assert_eq!(frame.sequence, 0);
///     }
/// }
/// assert_eq!(deframer.pending_bytes(), 0); // the stream was not cut
/// # Ok::<(), wire::WireError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Deframer {
    bytes: Vec<u8>,
    start: usize,
    header: Option<FileHeader>,
}

impl Deframer {
    /// A reader at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream. They are kept until [`Deframer::next_frame`] has used them.
    pub fn push(&mut self, bytes: &[u8]) {
        // Used bytes are moved out of the way only when they are the larger part, so each byte moves at most once.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The header, once it has arrived and been read.
    pub fn header(&self) -> Option<FileHeader> {
        self.header
    }

    /// Bytes received that do not make a whole frame yet: at the end of a stream anything but 0 means that it was cut.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The next frame; none until more bytes are pushed.
    ///
    /// # Errors
    /// As [`FileHeader::from_bytes`] and [`decode`], and [`WireError::TooLong`] for a length above
    /// [`MAX_FRAME_BYTES`]. A frame whose bytes are wrong is passed over, so the next call gives the frame after it;
    /// errors of the header and of a length stay, for nothing says where the next frame begins.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        if self.header.is_none() {
            let Some(bytes) = self.peek::<HEADER_BYTES>(0) else { return Ok(None) };
            self.header = Some(FileHeader::from_bytes(bytes)?);
            self.start += HEADER_BYTES;
        }
        let Some(length) = self.peek::<LENGTH_BYTES>(0) else { return Ok(None) };
        let length = u32::from_le_bytes(length);
        if length > MAX_FRAME_BYTES {
            return Err(WireError::TooLong { got: length.into() });
        }
        let body = self.start + LENGTH_BYTES;
        let end = body + length as usize;
        let Some(bytes) = self.bytes.get(body..end) else { return Ok(None) };
        let result = decode(bytes);
        self.start = end;
        result.map(Some)
    }

    fn peek<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.start + offset;
        self.bytes.get(start..start + N)?.try_into().ok()
    }
}
