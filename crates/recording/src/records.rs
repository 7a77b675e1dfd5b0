//! The records of an MCAP file (<https://mcap.dev/spec>): fields in little-endian order, strings with their length before them.

use std::borrow::Cow;

/// The bytes at a file's beginning, and at its end if it has one.
pub const MAGIC: [u8; 8] = *b"\x89MCAP0\r\n";

/// Bytes before a record's body: its kind, the body's length.
pub(crate) const RECORD_HEADER_BYTES: u64 = 9;

/// Longest name of a schema, topic, encoding or compression, bytes. They are kept for as long as the file is read.
pub(crate) const MAX_NAME_BYTES: usize = 4096;
/// How much of the body of a schema or channel record can be of interest, bytes: numbers and names. Definitions are not.
pub(crate) const MAX_NAMES_END: u64 = 2 + 2 + 2 * (4 + MAX_NAME_BYTES as u64);

/// Kinds of record.
pub(crate) mod opcode {
    pub const FOOTER: u8 = 0x02;
    pub const SCHEMA: u8 = 0x03;
    pub const CHANNEL: u8 = 0x04;
    pub const MESSAGE: u8 = 0x05;
    pub const CHUNK: u8 = 0x06;
    pub const CHUNK_INDEX: u8 = 0x08;
    pub const STATISTICS: u8 = 0x0B;
    pub const DATA_END: u8 = 0x0F;
}

/// Takes the fields of a record from its front; none when it ends before.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes with their 32-bit length before them: strings, maps and arrays are such.
    pub fn prefixed(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.u32()?).ok()?;
        self.bytes(count)
    }

    /// A name; none, too, when it is longer than [`MAX_NAME_BYTES`].
    pub fn name(&mut self) -> Option<Cow<'a, str>> {
        let bytes = self.prefixed().filter(|bytes| bytes.len() <= MAX_NAME_BYTES)?;
        Some(String::from_utf8_lossy(bytes))
    }

    fn owned_name(&mut self) -> Option<String> {
        self.name().map(Cow::into_owned)
    }
}

/// A type of message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schema {
    pub id: u16,
    pub name: String,
}

impl Schema {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        Some(Self { id: fields.u16()?, name: fields.owned_name()? })
    }
}

/// Who writes messages of a type to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channel {
    pub id: u16,
    pub schema_id: u16,
    pub topic: String,
    pub encoding: String,
}

impl Channel {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        Some(Self {
            id: fields.u16()?,
            schema_id: fields.u16()?,
            topic: fields.owned_name()?,
            encoding: fields.owned_name()?,
        })
    }
}

/// A message without its data, which are what follows [`MessageHeader::BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageHeader {
    pub channel: u16,
    /// Nanoseconds since 1970-01-01 UTC, usually.
    pub log_nanos: u64,
}

impl MessageHeader {
    pub const BYTES: usize = 2 + 4 + 8 + 8;

    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body.get(..Self::BYTES)?);
        let channel = fields.u16()?;
        fields.u32()?;
        Some(Self { channel, log_nanos: fields.u64()? })
    }
}

/// What a chunk record says before its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkHeader<'a> {
    pub unpacked_bytes: u64,
    /// CRC-32 of the unpacked content; 0 = not computed.
    pub crc: u32,
    pub compression: Cow<'a, str>,
    /// Bytes of the content as it is in the file.
    pub packed_bytes: u64,
    /// Bytes of this header.
    pub header_bytes: u64,
}

impl<'a> ChunkHeader<'a> {
    /// Most bytes that a header takes: fixed fields and a short name.
    pub const MAX_BYTES: usize = 8 + 8 + 8 + 4 + 4 + 32 + 8;

    pub fn parse(start: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(start);
        fields.bytes(16)?;
        let (unpacked_bytes, crc, compression) = (fields.u64()?, fields.u32()?, fields.name()?);
        let packed_bytes = fields.u64()?;
        let header_bytes = (start.len() - fields.0.len()) as u64;
        Some(Self { unpacked_bytes, crc, compression, packed_bytes, header_bytes })
    }
}

/// What the summary says about a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkIndex {
    pub first_nanos: u64,
    pub last_nanos: u64,
    /// Where its record begins in the file.
    pub offset: u64,
    /// Channels with messages in it; empty = the writer did not say.
    pub channels: Vec<u16>,
}

impl ChunkIndex {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let (first_nanos, last_nanos, offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
        fields.u64()?;
        let mut map = Fields(fields.prefixed()?);
        let mut channels = Vec::new();
        while !map.0.is_empty() {
            channels.push(map.u16()?);
            map.u64()?;
        }
        Some(Self { first_nanos, last_nanos, offset, channels })
    }
}

/// What the summary counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub first_nanos: u64,
    pub last_nanos: u64,
    /// Channel and its messages.
    pub counts: Vec<(u16, u64)>,
}

impl Statistics {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        fields.bytes(8 + 2 + 4 + 4 + 4 + 4)?;
        let (first_nanos, last_nanos) = (fields.u64()?, fields.u64()?);
        let mut map = Fields(fields.prefixed()?);
        let mut counts = Vec::new();
        while !map.0.is_empty() {
            counts.push((map.u16()?, map.u64()?));
        }
        Some(Self { first_nanos, last_nanos, counts })
    }
}

/// The records in `bytes`, kind and body; ends where the bytes do, or where they are no records.
pub(crate) fn records(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let mut fields = Fields(bytes);
        let kind = *fields.bytes(1)?.first()?;
        let length = usize::try_from(fields.u64()?).ok()?;
        let body = fields.bytes(length)?;
        bytes = fields.0;
        Some((kind, body))
    })
}
