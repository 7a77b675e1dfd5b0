//! Small MCAP recordings with what the committed ones (`tests/fixtures/mcap`) do not have.

use std::fs;
use std::path::Path;

/// Nanoseconds since 1970 of the first message.
pub const START: u64 = 1_700_000_000_000_000_000;
/// Nanoseconds from message to message.
pub const STEP: u64 = 100_000_000;

/// A recording in the making: no summary, an end.
#[derive(Clone, Debug)]
pub struct Bag {
    bytes: Vec<u8>,
}

impl Bag {
    /// With one channel for each type, numbered from 1: topic, type, encoding of its messages.
    pub fn new(channels: &[(&str, &str, &str)]) -> Self {
        let mut bag = Self { bytes: b"\x89MCAP0\r\n".to_vec() };
        bag.record(0x01, &[string("ros2"), string("test")].concat());
        for (id, (topic, schema, encoding)) in (1u16..).zip(channels) {
            let id = id.to_le_bytes();
            bag.record(0x03, &[&id[..], &string(schema), &string("ros2msg"), &string("")].concat());
            bag.record(0x04, &[&id[..], &id, &string(topic), &string(encoding), &string("")].concat());
        }
        bag
    }

    /// Adds a record.
    pub fn record(&mut self, kind: u8, body: &[u8]) {
        push_record(&mut self.bytes, kind, body);
    }

    /// Adds a message, outside of chunks.
    pub fn message(&mut self, channel: u16, log_nanos: u64, data: &[u8]) {
        self.record(0x05, &message_body(channel, log_nanos, data));
    }

    /// Adds a chunk of messages: channel, log time, data. `promised_bytes` is its size by its header where that is wrong.
    pub fn chunk(&mut self, messages: &[(u16, u64, Vec<u8>)], promised_bytes: Option<u64>) {
        let mut content = Vec::new();
        for (channel, log_nanos, data) in messages {
            push_record(&mut content, 0x05, &message_body(*channel, *log_nanos, data));
        }
        let length = content.len() as u64;
        let mut body = Vec::new();
        // First and last time, size, no checksum, no compression.
        for number in [0, 0, promised_bytes.unwrap_or(length)] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&[0; 8]);
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&content);
        self.record(0x06, &body);
    }

    /// Writes it with its end.
    pub fn save(mut self, path: &Path) {
        self.record(0x0F, &[0; 4]);
        self.record(0x02, &[0; 20]);
        self.bytes.extend_from_slice(b"\x89MCAP0\r\n");
        fs::write(path, self.bytes).expect("a recording is written");
    }
}

fn push_record(bytes: &mut Vec<u8>, kind: u8, body: &[u8]) {
    bytes.push(kind);
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(body);
}

fn message_body(channel: u16, log_nanos: u64, data: &[u8]) -> Vec<u8> {
    let (channel, time) = (channel.to_le_bytes(), log_nanos.to_le_bytes());
    [&channel[..], &[0; 4], &time, &time, data].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A `sensor_msgs/msg/Image` in CDR, little-endian; `stamp_nanos` is the time in its header.
pub fn ros_image(stamp_nanos: u64, size: (u32, u32), encoding: &str, step: u32, data: &[u8]) -> Vec<u8> {
    let mut cdr = ros_header(stamp_nanos);
    for number in [size.1, size.0] {
        push_number(&mut cdr, number);
    }
    push_string(&mut cdr, encoding);
    cdr.push(0);
    push_number(&mut cdr, step);
    push_number(&mut cdr, data.len() as u32);
    cdr.extend_from_slice(data);
    cdr
}

/// A `sensor_msgs/msg/CompressedImage` in CDR, little-endian.
pub fn ros_compressed_image(stamp_nanos: u64, format: &str, data: &[u8]) -> Vec<u8> {
    let mut cdr = ros_header(stamp_nanos);
    push_string(&mut cdr, format);
    push_number(&mut cdr, data.len() as u32);
    cdr.extend_from_slice(data);
    cdr
}

fn ros_header(stamp_nanos: u64) -> Vec<u8> {
    let mut cdr = vec![0, 1, 0, 0];
    push_number(&mut cdr, (stamp_nanos / 1_000_000_000) as u32);
    push_number(&mut cdr, (stamp_nanos % 1_000_000_000) as u32);
    push_string(&mut cdr, "camera");
    cdr
}

fn push_number(cdr: &mut Vec<u8>, number: u32) {
    cdr.resize(cdr.len().next_multiple_of(4), 0);
    cdr.extend_from_slice(&number.to_le_bytes());
}

fn push_string(cdr: &mut Vec<u8>, text: &str) {
    push_number(cdr, text.len() as u32 + 1);
    cdr.extend_from_slice(text.as_bytes());
    cdr.push(0);
}
