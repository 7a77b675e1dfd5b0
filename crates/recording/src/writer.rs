//! Writing a recording: its bytes, piece by piece. Files, and what happens on a full disk, are the caller's.
//!
//! One chunk per instant, without compression (pictures are compressed already), its checksum and index behind it; at the end a
//! summary, so that a reader finds every instant without reading what lies before it.

use crate::records::{MAGIC, MessageHeader, RECORD_HEADER_BYTES, opcode};

/// Type of the messages that [`compressed_image`] makes.
pub const COMPRESSED_IMAGE: &str = "foxglove.CompressedImage";
/// Their schema, a `FileDescriptorSet` of protobuf: `google/protobuf/timestamp.proto` and `foxglove/CompressedImage.proto` of
/// `foxglove-schemas-protobuf` 0.4.0.
pub const COMPRESSED_IMAGE_SCHEMA: &[u8] = include_bytes!("compressed_image.fds");

const HEADER: u8 = 0x01;
const MESSAGE_INDEX: u8 = 0x07;
/// A footer's body, bytes.
const FOOTER_BYTES: u64 = 20;
/// Fields of a chunk record before its content, bytes.
const CHUNK_FIELDS_BYTES: u64 = 40;
/// A message index of one message with its header, bytes.
const MESSAGE_INDEX_BYTES: u64 = RECORD_HEADER_BYTES + 22;

/// A topic to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// For example `/hsg/front/overlay`.
    pub topic: String,
    /// Type of its messages.
    pub schema: String,
    /// How the type is described, for example `protobuf`.
    pub schema_encoding: String,
    /// The description.
    pub schema_data: Vec<u8>,
    /// How its messages are written.
    pub encoding: String,
}

/// A message: the number of its channel, and its bytes in parts.
pub type Message<'a> = (usize, &'a [&'a [u8]]);

/// Makes the bytes of a recording: [`Writer::start`], for each instant [`Writer::chunk_into`] and, once it is written,
/// [`Writer::keep`], then [`Writer::end`].
#[derive(Clone, Debug)]
pub struct Writer {
    channels: Vec<Channel>,
    /// Bytes of the file so far.
    bytes: u64,
    chunks: Vec<Chunk>,
    /// The chunk that was made last and not kept yet.
    next: Option<Chunk>,
}

/// What the index says about a chunk.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    offset: u64,
    /// Of its record.
    bytes: u64,
    log_nanos: u64,
    /// One bit per channel that has a message in it.
    channels: u32,
}

impl Writer {
    /// For these channels, 32 at most; more are left out.
    pub fn new(mut channels: Vec<Channel>) -> Self {
        channels.truncate(32);
        Self { channels, bytes: 0, chunks: Vec::new(), next: None }
    }

    /// The beginning of the file.
    pub fn start(&mut self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        record(&mut out, HEADER, |out| {
            string(out, b"");
            string(out, concat!("hsg ", env!("CARGO_PKG_VERSION")).as_bytes());
        });
        self.put_channels(&mut out);
        self.bytes = out.len() as u64;
        out
    }

    /// Appends the chunk of one instant to `out`; at most one message of a channel.
    pub fn chunk_into(&mut self, log_nanos: u64, messages: &[Message<'_>], out: &mut Vec<u8>) {
        let begin = out.len();
        let mut channels = 0;
        record(out, opcode::CHUNK, |out| {
            number(out, log_nanos);
            number(out, log_nanos);
            let sizes = out.len();
            // Length, checksum, compression, and length again: known below.
            out.extend_from_slice(&[0; 8 + 4 + 4 + 8]);
            let content = out.len();
            for (channel, parts) in messages {
                channels |= 1u32.checked_shl(*channel as u32).unwrap_or(0);
                record(out, opcode::MESSAGE, |out| {
                    out.extend_from_slice(&id(*channel));
                    out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
                    number(out, log_nanos);
                    number(out, log_nanos);
                    parts.iter().for_each(|part| out.extend_from_slice(part));
                });
            }
            let length = ((out.len() - content) as u64).to_le_bytes();
            let crc = crc32fast::hash(&out[content..]).to_le_bytes();
            out[sizes..sizes + 8].copy_from_slice(&length);
            out[sizes + 8..sizes + 12].copy_from_slice(&crc);
            out[content - 8..content].copy_from_slice(&length);
        });
        let bytes = (out.len() - begin) as u64;
        let mut offset = 0;
        for (channel, parts) in messages {
            record(out, MESSAGE_INDEX, |out| {
                out.extend_from_slice(&id(*channel));
                out.extend_from_slice(&16u32.to_le_bytes());
                number(out, log_nanos);
                number(out, offset);
            });
            let data: usize = parts.iter().map(|part| part.len()).sum();
            offset += RECORD_HEADER_BYTES + (MessageHeader::BYTES + data) as u64;
        }
        self.next = Some(Chunk { offset: self.bytes, bytes, log_nanos, channels });
    }

    /// The last chunk was written: it becomes part of the file.
    pub fn keep(&mut self) {
        if let Some(chunk) = self.next.take() {
            self.bytes = chunk.offset + chunk.bytes + MESSAGE_INDEX_BYTES * u64::from(chunk.channels.count_ones());
            self.chunks.push(chunk);
        }
    }

    /// Bytes of the file up to the last chunk that was kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives up some of the last chunks, one in sixteen; false when there is none.
    pub fn give_up_some(&mut self) -> bool {
        let count = self.chunks.len().div_ceil(16);
        for chunk in self.chunks.split_off(self.chunks.len() - count).iter().rev() {
            self.bytes = chunk.offset;
        }
        count > 0
    }

    /// Bytes that a chunk adds to the end of the file, at most.
    pub fn index_bytes_of_chunk(&self) -> u64 {
        chunk_index_bytes(self.channels.len() as u64)
    }

    /// The end of the file behind the last chunk that was kept: its summary.
    pub fn end(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024 + self.chunks.len() * self.index_bytes_of_chunk() as usize);
        record(&mut out, opcode::DATA_END, |out| out.extend_from_slice(&[0; 4]));
        let summary = out.len();
        self.put_channels(&mut out);
        record(&mut out, opcode::STATISTICS, |out| {
            let has =
                |channel: usize| self.chunks.iter().filter(move |chunk| chunk.channels >> channel & 1 == 1).count();
            let counts: Vec<u64> = (0..self.channels.len()).map(|channel| has(channel) as u64).collect();
            number(out, counts.iter().sum());
            out.extend_from_slice(&(self.channels.len() as u16).to_le_bytes());
            for count in [self.channels.len(), 0, 0, self.chunks.len()] {
                out.extend_from_slice(&(count as u32).to_le_bytes());
            }
            number(out, self.chunks.iter().map(|chunk| chunk.log_nanos).min().unwrap_or(0));
            number(out, self.chunks.iter().map(|chunk| chunk.log_nanos).max().unwrap_or(0));
            out.extend_from_slice(&(10 * counts.len() as u32).to_le_bytes());
            for (channel, count) in counts.into_iter().enumerate() {
                out.extend_from_slice(&id(channel));
                number(out, count);
            }
        });
        for chunk in &self.chunks {
            put_chunk_index(&mut out, chunk);
        }
        // The footer, up to the checksum that covers it.
        let mut footer = vec![opcode::FOOTER];
        number(&mut footer, FOOTER_BYTES);
        number(&mut footer, self.bytes + summary as u64);
        number(&mut footer, 0);
        out.extend_from_slice(&footer);
        let crc = crc32fast::hash(&out[summary..]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out
    }

    fn put_channels(&self, out: &mut Vec<u8>) {
        for (number, channel) in self.channels.iter().enumerate() {
            record(out, opcode::SCHEMA, |out| {
                out.extend_from_slice(&id(number));
                string(out, channel.schema.as_bytes());
                string(out, channel.schema_encoding.as_bytes());
                string(out, &channel.schema_data);
            });
        }
        for (number, channel) in self.channels.iter().enumerate() {
            record(out, opcode::CHANNEL, |out| {
                out.extend_from_slice(&id(number));
                out.extend_from_slice(&id(number));
                string(out, channel.topic.as_bytes());
                string(out, channel.encoding.as_bytes());
                string(out, b"");
            });
        }
    }
}

fn chunk_index_bytes(channels: u64) -> u64 {
    RECORD_HEADER_BYTES + 8 * 4 + 4 + 10 * channels + 8 + 4 + 8 + 8
}

fn put_chunk_index(out: &mut Vec<u8>, chunk: &Chunk) {
    record(out, opcode::CHUNK_INDEX, |out| {
        for value in [chunk.log_nanos, chunk.log_nanos, chunk.offset, chunk.bytes] {
            number(out, value);
        }
        let count = chunk.channels.count_ones();
        out.extend_from_slice(&(10 * count).to_le_bytes());
        let present = (0..32).filter(|channel| chunk.channels >> channel & 1 == 1);
        for (place, channel) in (0u64..).zip(present) {
            out.extend_from_slice(&id(channel));
            number(out, chunk.offset + chunk.bytes + place * MESSAGE_INDEX_BYTES);
        }
        number(out, MESSAGE_INDEX_BYTES * u64::from(count));
        string(out, b"");
        let content = chunk.bytes - RECORD_HEADER_BYTES - CHUNK_FIELDS_BYTES;
        number(out, content);
        number(out, content);
    });
}

/// Schemas and channels have the same numbers, from 1: 0 is no schema.
fn id(number: usize) -> [u8; 2] {
    (number as u16 + 1).to_le_bytes()
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a record whose body `body` appends.
fn record(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    number(out, 0);
    let begin = out.len();
    body(out);
    let length = ((out.len() - begin) as u64).to_le_bytes();
    out[begin - 8..begin].copy_from_slice(&length);
}

/// A `foxglove.CompressedImage` in protobuf up to its image, into `out` (cleared first): the message is this and then the
/// `image_bytes` bytes of the file.
pub fn compressed_image(stamp_nanos: u64, frame_id: &str, format: &str, image_bytes: usize, out: &mut Vec<u8>) {
    const BYTES: u8 = 2;
    out.clear();
    let field = |out: &mut Vec<u8>, number: u8, length: usize| {
        out.push(number << 3 | BYTES);
        varint(out, length as u64);
    };
    let (secs, nanos) = (stamp_nanos / 1_000_000_000, stamp_nanos % 1_000_000_000);
    field(out, 1, 2 + varint_bytes(secs) + varint_bytes(nanos));
    out.push(1 << 3);
    varint(out, secs);
    out.push(2 << 3);
    varint(out, nanos);
    for (number, text) in [(4, frame_id), (3, format)] {
        field(out, number, text.len());
        out.extend_from_slice(text.as_bytes());
    }
    field(out, 2, image_bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_bytes(value: u64) -> usize {
    (64 - value.leading_zeros() as usize).div_ceil(7).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Picture, Recording, decode};

    fn channel(topic: &str) -> Channel {
        Channel {
            topic: topic.to_owned(),
            schema: COMPRESSED_IMAGE.to_owned(),
            schema_encoding: "protobuf".to_owned(),
            schema_data: COMPRESSED_IMAGE_SCHEMA.to_vec(),
            encoding: "protobuf".to_owned(),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mcap");
        let mut writer = Writer::new(vec![channel("/a"), channel("/b")]);
        let mut bytes = writer.start();
        let mut head = Vec::new();
        for index in 0u8..40 {
            let time = 1_700_000_000_123_456_789 + u64::from(index) * 100_000_000;
            let image = vec![index; 300 + usize::from(index)];
            compressed_image(time, "camera", "jpeg", image.len(), &mut head);
            let parts = [&head[..], &image];
            let messages: &[Message<'_>] = if index % 2 == 0 { &[(0, &parts), (1, &parts)] } else { &[(1, &parts)] };
            writer.chunk_into(time, messages, &mut bytes);
            // One that could not be written leaves nothing behind.
            if index == 7 {
                bytes.truncate(writer.bytes() as usize);
            } else {
                writer.keep();
            }
            assert_eq!(bytes.len() as u64, writer.bytes());
        }
        assert!(writer.give_up_some());
        bytes.truncate(writer.bytes() as usize);
        bytes.extend_from_slice(&writer.end());
        std::fs::write(&path, &bytes).unwrap();
        for (topic, expected) in [("/a", 19), ("/b", 36)] {
            let recording = Recording::open(&path).unwrap();
            assert!(recording.is_finished());
            let topic = recording.image_topic(Some(topic)).unwrap().clone();
            assert_eq!(topic.messages, expected);
            let mut messages = recording.messages(&topic);
            let mut count = 0;
            let fault = loop {
                match messages.advance().unwrap() {
                    Event::Message { log_nanos, format, data } => {
                        let message = decode(format.unwrap(), data).unwrap();
                        assert_eq!(message.stamp_nanos, log_nanos);
                        let Picture::Coded { format, data } = message.picture else { panic!("no file") };
                        assert_eq!((&*format, data.len()), ("jpeg", 300 + usize::from(data[0])));
                        count += 1;
                    }
                    Event::End { fault } => break fault,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((count, fault), (expected, None));
        }
    }
}
