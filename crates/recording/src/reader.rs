//! What is in a recording, and the messages of a topic in their order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::RecordingError;
use crate::chunk::{MAX_BYTES, Unpacker};
use crate::message::{Format, Kind, kind_of};
use crate::records::{
    Channel, ChunkHeader, ChunkIndex, Fields, MAGIC, MAX_NAME_BYTES, MAX_NAMES_END, MessageHeader, RECORD_HEADER_BYTES,
    Schema, Statistics, opcode, records,
};

/// Largest summary that is read, bytes.
const MAX_SUMMARY_BYTES: u64 = 1 << 28;
/// Most that the names of all schemas and channels take together, bytes. A bag of ROS 2 has some kilobytes of them.
const MAX_NAMES_BYTES: usize = 1 << 24;
/// Lowest mean rate that is believed, hertz.
const MIN_RATE_HZ: f64 = 0.01;
/// A footer with its header and the magic behind it, bytes.
const TAIL_BYTES: u64 = RECORD_HEADER_BYTES + 8 + 8 + 4 + MAGIC.len() as u64;

/// A topic of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name, for example `/camera/front/image_raw`.
    pub name: String,
    /// Type of its messages, for example `sensor_msgs/msg/Image`.
    pub schema: String,
    /// How they are written, for example `cdr`.
    pub encoding: String,
    /// How many there are.
    pub messages: u64,
    /// Log time of the first and the last, nanoseconds: where the file has an index, of the chunks that they are in.
    pub times: Option<(u64, u64)>,
    kind: Kind,
}

impl Topic {
    /// How images are written in it; none where it has none that can be read.
    pub fn format(&self) -> Option<Format> {
        match self.kind {
            Kind::Images(format) => Some(format),
            _ => None,
        }
    }

    /// Mean rate of its messages, hertz; none for fewer than two, where all have the same time, and below 0.01 Hz: there the
    /// recorder's clock was most likely set while it recorded, from 1970 to today.
    pub fn rate_hz(&self) -> Option<f64> {
        let (first, last) = self.times?;
        let seconds = last.checked_sub(first)? as f64 / 1e9;
        let rate = (self.messages > 1 && seconds > 0.0).then(|| (self.messages - 1) as f64 / seconds);
        rate.filter(|rate| *rate >= MIN_RATE_HZ)
    }
}

/// A recording and what is in it.
pub struct Recording {
    walk: Walk,
    topics: Vec<Topic>,
    is_finished: bool,
    chunks: Vec<ChunkIndex>,
    fault: Option<String>,
}

impl Recording {
    /// Opens a file and finds its topics: from its summary, or where it has none (a recording that never finished, a summary
    /// that is damaged), by reading it once. Memory: the summary; one chunk.
    ///
    /// # Errors
    /// When the file cannot be read, is empty or another kind of file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let path = path.as_ref();
        let io_error = |source| RecordingError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io_error)?;
        let bytes = file.metadata().map_err(io_error)?.len();
        let mut start = Vec::with_capacity(16);
        (&mut file).take(16).read_to_end(&mut start).map_err(io_error)?;
        if start.is_empty() {
            return Err(RecordingError::Empty { path: path.to_owned() });
        }
        if !start.starts_with(&MAGIC) {
            let found = if start.starts_with(b"SQLite format 3\0") {
                "an SQLite bag of ROS 2 (.db3); convert it: ros2 bag convert -i BAG -o OUT.yaml, with `storage_id: mcap` in it"
            } else if start.starts_with(b"#ROSBAG V2.0") {
                "a bag of ROS 1; convert it: pip install rosbags && rosbags-convert"
            } else {
                "a file of another kind"
            };
            return Err(RecordingError::NotMcap { path: path.to_owned(), found });
        }
        let mut walk = Walk::new(path, file, bytes);
        let summary = walk.read_summary().map_err(io_error)?;
        let is_finished = summary.is_some();
        let (topics, chunks, fault) = match summary {
            Some((statistics, chunks)) => (walk.topics_by(&statistics, &chunks), chunks, None),
            None => {
                let (topics, fault) = walk.topics_by_reading().map_err(io_error)?;
                (topics, Vec::new(), fault)
            }
        };
        Ok(Self { walk, topics, is_finished, chunks, fault })
    }

    /// All topics, by name.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Whether the file has the summary that a recorder writes at its end.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// What is wrong with a file that has no summary, as far as it was seen.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// The topic to read images from: `wanted`, or the only one that has images.
    ///
    /// # Errors
    /// When there is no such topic, none with images that can be read, or several and nobody said which.
    pub fn image_topic(&self, wanted: Option<&str>) -> Result<&Topic, RecordingError> {
        let path = || self.walk.path.clone();
        let unsupported = |topic: &Topic, found: String| RecordingError::UnsupportedTopic {
            path: path(),
            topic: topic.name.clone(),
            found,
        };
        if let Some(wanted) = wanted {
            let topic = self.topics.iter().find(|topic| topic.name == wanted).ok_or_else(|| {
                let topics = in_words(&self.topics.iter().collect::<Vec<_>>());
                RecordingError::NoSuchTopic { path: path(), wanted: wanted.to_owned(), topics }
            })?;
            return match topic.kind {
                Kind::Images(_) => Ok(topic),
                Kind::Unsupported(found) => Err(unsupported(topic, format!("{}: {found}", topic.schema))),
                Kind::Other => {
                    let images = self.topics.iter().filter(|topic| matches!(topic.kind, Kind::Images(_)));
                    let images = in_words(&images.collect::<Vec<_>>());
                    let Topic { schema, encoding, .. } = topic;
                    Err(unsupported(
                        topic,
                        format!("{schema} in {encoding}; name a topic with images in `?topic=`, here: {images}"),
                    ))
                }
            };
        }
        let images: Vec<&Topic> = self.topics.iter().filter(|topic| matches!(topic.kind, Kind::Images(_))).collect();
        match images.as_slice() {
            [topic] => Ok(topic),
            [] => {
                for topic in &self.topics {
                    if let Kind::Unsupported(found) = topic.kind {
                        return Err(unsupported(topic, format!("{}: {found}", topic.schema)));
                    }
                }
                let topics = in_words(&self.topics.iter().collect::<Vec<_>>());
                Err(RecordingError::NoImages { path: path(), topics })
            }
            [first, ..] => Err(RecordingError::SeveralTopics {
                path: path(),
                first: first.name.clone(),
                topics: in_words(&images),
            }),
        }
    }

    /// Reads the messages of `topic` from the beginning.
    pub fn messages(mut self, topic: &Topic) -> Messages {
        let wanted: Vec<u16> = self
            .walk
            .channels
            .values()
            .filter(|channel| channel.topic == topic.name)
            .map(|channel| channel.id)
            .collect();
        // Chunks that say what they have, and have none of it, are passed over.
        let without = |chunk: &&ChunkIndex| {
            !chunk.channels.is_empty() && !chunk.channels.iter().any(|channel| wanted.contains(channel))
        };
        self.walk.passed_over = self.chunks.iter().filter(without).map(|chunk| chunk.offset).collect();
        self.walk.passed_over.sort_unstable();
        self.walk.chunk_starts = self.chunks.iter().map(|chunk| chunk.offset).collect();
        self.walk.chunk_starts.sort_unstable();
        self.walk.wanted = Some(wanted);
        self.walk.restart();
        Messages { walk: self.walk, next: 0 }
    }
}

/// Topics with type, encoding and number of messages, in one line.
fn in_words(topics: &[&Topic]) -> String {
    if topics.is_empty() {
        return "no topic at all".to_owned();
    }
    let one = |topic: &&Topic| {
        let Topic { name, schema, encoding, messages, .. } = topic;
        format!("{name} ({schema} in {encoding}, {messages} messages)")
    };
    topics.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What comes next of a topic.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    /// A message.
    Message {
        /// Log time, nanoseconds since 1970-01-01 UTC, usually.
        log_nanos: u64,
        /// How it is written; none for a publisher of something else than images on the same topic.
        format: Option<Format>,
        /// Its bytes.
        data: &'a [u8],
    },
    /// A message that lies in a damaged chunk: its bytes are not to be trusted.
    Damaged {
        /// What is wrong with the chunk.
        reason: String,
    },
    /// There is no more. Said again by every further call.
    End {
        /// What is wrong with the file, if something is: its end is missing, chunks are damaged.
        fault: Option<String>,
    },
}

/// The messages of one topic.
///
/// Memory: one chunk, unpacked. In steady state only the lz4 decoder allocates, per chunk.
pub struct Messages {
    walk: Walk,
    next: usize,
}

impl Messages {
    /// The next message.
    ///
    /// # Errors
    /// When the file cannot be read; what is wrong with its content is an [`Event`].
    pub fn advance(&mut self) -> Result<Event<'_>, RecordingError> {
        while self.next >= self.walk.found.len() {
            self.next = 0;
            let loaded = self.walk.load();
            if !loaded.map_err(|source| RecordingError::Io { path: self.walk.path.clone(), source })? {
                return Ok(Event::End { fault: self.walk.fault.clone() });
            }
        }
        let message = &self.walk.found[self.next];
        self.next += 1;
        if let Some(reason) = &self.walk.chunk_fault {
            return Ok(Event::Damaged { reason: reason.clone() });
        }
        let channel = self.walk.channels.get(&message.channel);
        let format = channel.and_then(|channel| match self.walk.kind(channel) {
            Kind::Images(format) => Some(format),
            _ => None,
        });
        let data = self.walk.buffer.get(message.data.clone()).unwrap_or_default();
        Ok(Event::Message { log_nanos: message.log_nanos, format, data })
    }

    /// Makes [`Messages::advance`] give the last message once more.
    pub fn again(&mut self) {
        self.next = self.next.saturating_sub(1);
    }
}

/// A message in the buffer.
#[derive(Clone, Debug)]
struct Found {
    channel: u16,
    log_nanos: u64,
    data: Range<usize>,
}

/// Goes from record to record.
struct Walk {
    path: PathBuf,
    file: BufReader<File>,
    bytes: u64,
    /// Where the next record begins.
    at: u64,
    is_at_end: bool,
    schemas: BTreeMap<u16, Schema>,
    channels: BTreeMap<u16, Channel>,
    /// What the names in `schemas` and `channels` take, bytes.
    names_bytes: usize,
    /// Channels whose messages are looked for; none = all.
    wanted: Option<Vec<u16>>,
    /// Offsets of chunks that have nothing that is looked for, ascending.
    passed_over: Vec<u64>,
    /// Offsets of all chunks that the index names, ascending: where to go on behind damage.
    chunk_starts: Vec<u64>,
    unpacker: Unpacker,
    /// An unpacked chunk, or the body of one message record.
    buffer: Vec<u8>,
    /// The messages in it that are looked for, in the order in which they are given.
    found: Vec<Found>,
    /// Why the messages in the buffer are not to be trusted.
    chunk_fault: Option<String>,
    /// The first thing that is wrong with the file.
    fault: Option<String>,
}

impl Walk {
    fn new(path: &Path, file: File, bytes: u64) -> Self {
        Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(1 << 16, file),
            bytes,
            at: MAGIC.len() as u64,
            is_at_end: false,
            schemas: BTreeMap::new(),
            channels: BTreeMap::new(),
            names_bytes: 0,
            wanted: None,
            passed_over: Vec::new(),
            chunk_starts: Vec::new(),
            unpacker: Unpacker::new(),
            buffer: Vec::new(),
            found: Vec::new(),
            chunk_fault: None,
            fault: None,
        }
    }

    fn restart(&mut self) {
        (self.at, self.is_at_end) = (MAGIC.len() as u64, false);
        self.found.clear();
        (self.chunk_fault, self.fault) = (None, None);
    }

    fn kind(&self, channel: &Channel) -> Kind {
        let schema = self.schemas.get(&channel.schema_id).map_or("", |schema| schema.name.as_str());
        kind_of(schema, &channel.encoding)
    }

    fn seek(&mut self, to: u64) -> io::Result<()> {
        // Short ways stay inside what was read already.
        let from = self.file.stream_position()?;
        match i64::try_from(i128::from(to) - i128::from(from)) {
            Ok(distance) => self.file.seek_relative(distance),
            Err(_) => self.file.seek(SeekFrom::Start(to)).map(drop),
        }
    }

    /// Reads `count` bytes at `at` into `out` (cleared first); fewer where the file ends.
    fn read_at(&mut self, at: u64, count: u64, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        self.seek(at)?;
        (&mut self.file).take(count).read_to_end(out).map(drop)
    }

    /// What the file says about itself at its end; none where it does not, or what it says is damaged.
    fn read_summary(&mut self) -> io::Result<Option<(Statistics, Vec<ChunkIndex>)>> {
        let Some(tail_at) = self.bytes.checked_sub(TAIL_BYTES).filter(|at| *at >= MAGIC.len() as u64) else {
            return Ok(None);
        };
        let mut tail = Vec::new();
        self.read_at(tail_at, TAIL_BYTES, &mut tail)?;
        let footer = |tail: &[u8]| {
            let mut fields = Fields(tail.strip_suffix(&MAGIC)?);
            let is_footer = fields.bytes(1)? == [opcode::FOOTER] && fields.u64()? == 20;
            let (start, _, crc) = (fields.u64()?, fields.u64()?, fields.u32()?);
            (is_footer && start >= MAGIC.len() as u64).then_some((start, crc))
        };
        let Some((start, crc)) = footer(&tail) else { return Ok(None) };
        let Some(length) = tail_at.checked_sub(start).filter(|length| *length <= MAX_SUMMARY_BYTES) else {
            return Ok(None);
        };
        let mut summary = Vec::new();
        self.read_at(start, length, &mut summary)?;
        if crc != 0 {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&summary);
            // Up to the checksum itself.
            hasher.update(&tail[..tail.len() - MAGIC.len() - 4]);
            if hasher.finalize() != crc {
                return Ok(None);
            }
        }
        let (mut statistics, mut chunks, mut read) = (None, Vec::new(), 0);
        for (kind, body) in records(&summary) {
            read += RECORD_HEADER_BYTES as usize + body.len();
            match kind {
                opcode::STATISTICS => statistics = Statistics::parse(body),
                opcode::CHUNK_INDEX => chunks.extend(ChunkIndex::parse(body)),
                _ => self.note(kind, body),
            }
        }
        let is_known = |id: &u16| {
            self.channels
                .get(id)
                .is_some_and(|channel| channel.schema_id == 0 || self.schemas.contains_key(&channel.schema_id))
        };
        let statistics = statistics.filter(|statistics: &Statistics| {
            read == summary.len() && statistics.counts.iter().all(|(id, _)| is_known(id))
        });
        if statistics.is_none() {
            self.channels.clear();
            self.schemas.clear();
            self.names_bytes = 0;
            // Seen again where the records themselves are read.
            self.fault = None;
        }
        Ok(statistics.map(|statistics| (statistics, chunks)))
    }

    /// The topics by what the summary says.
    fn topics_by(&self, statistics: &Statistics, chunks: &[ChunkIndex]) -> Vec<Topic> {
        let mut topics = Topics::default();
        for channel in self.channels.values() {
            let count = statistics.counts.iter().find(|(id, _)| *id == channel.id).map_or(0, |(_, count)| *count);
            let with: Vec<&ChunkIndex> = chunks.iter().filter(|chunk| chunk.channels.contains(&channel.id)).collect();
            let first = with.iter().map(|chunk| chunk.first_nanos).min().unwrap_or(statistics.first_nanos);
            let last = with.iter().map(|chunk| chunk.last_nanos).max().unwrap_or(statistics.last_nanos);
            topics.add(self, channel, count, (count > 0).then_some((first, last)));
        }
        topics.0.into_values().collect()
    }

    /// The topics by all that is in the file, and what is wrong with it.
    fn topics_by_reading(&mut self) -> io::Result<(Vec<Topic>, Option<String>)> {
        let mut seen: BTreeMap<u16, (u64, u64, u64)> = BTreeMap::new();
        while self.load()? {
            for message in &self.found {
                let (count, first, last) = seen.entry(message.channel).or_insert((0, u64::MAX, 0));
                *count += 1;
                *first = message.log_nanos.min(*first);
                *last = message.log_nanos.max(*last);
            }
        }
        let mut topics = Topics::default();
        for channel in self.channels.values() {
            let times = seen.get(&channel.id).copied();
            let (count, times) = times.map_or((0, None), |(count, first, last)| (count, Some((first, last))));
            topics.add(self, channel, count, times);
        }
        Ok((topics.0.into_values().collect(), self.fault.take()))
    }

    /// Takes note of a schema or channel; the first of a number counts.
    fn note(&mut self, kind: u8, body: &[u8]) {
        // Writers repeat these records in every chunk: nothing is allocated for what is known.
        let id = Fields(body).u16();
        let is_noted = match kind {
            opcode::SCHEMA if id.is_some_and(|id| self.schemas.contains_key(&id)) => true,
            opcode::CHANNEL if id.is_some_and(|id| self.channels.contains_key(&id)) => true,
            opcode::SCHEMA => Schema::parse(body).is_some_and(|schema| {
                let has_room = self.has_room_for(schema.name.len());
                if has_room {
                    self.schemas.insert(schema.id, schema);
                }
                has_room
            }),
            opcode::CHANNEL => Channel::parse(body).is_some_and(|channel| {
                let has_room = self.has_room_for(channel.topic.len() + channel.encoding.len());
                if has_room {
                    self.channels.insert(channel.id, channel);
                }
                has_room
            }),
            _ => true,
        };
        if !is_noted {
            let kind = if kind == opcode::SCHEMA { "schema" } else { "channel" };
            let id = id.map_or_else(|| "without a number".to_owned(), |id| id.to_string());
            self.note_fault(format!(
                "{kind} {id} is left out: expected names of {MAX_NAME_BYTES} bytes at most, {MAX_NAMES_BYTES} bytes in all, got \
                 longer ones or a record that is cut; the file is damaged or was not made by a recorder"
            ));
        }
    }

    /// Counts a name of `bytes`; false when there is no room for it.
    fn has_room_for(&mut self, bytes: usize) -> bool {
        let has_room = self.names_bytes + bytes <= MAX_NAMES_BYTES;
        if has_room {
            self.names_bytes += bytes;
        }
        has_room
    }

    /// Goes on to the next record with messages and fills `found`, perhaps with none; false at the end.
    fn load(&mut self) -> io::Result<bool> {
        self.found.clear();
        self.chunk_fault = None;
        while !self.is_at_end {
            let start = self.at;
            let body_at = start + RECORD_HEADER_BYTES;
            let Some(available) = self.bytes.checked_sub(body_at) else {
                self.end_at(start, "the recording never finished, or its end was cut off".to_owned());
                continue;
            };
            self.seek(start)?;
            let mut header = [0; RECORD_HEADER_BYTES as usize];
            self.file.read_exact(&mut header)?;
            let [kind, length @ ..] = header;
            let length = u64::from_le_bytes(length);
            if matches!(kind, opcode::DATA_END | opcode::FOOTER) && length <= available {
                self.is_at_end = true;
                break;
            }
            if kind == 0 || length > available {
                let why = format!(
                    "expected a record at byte {start}, got one of kind {kind} with {length} bytes of {available}"
                );
                let is_last = kind == opcode::CHUNK && !self.chunk_starts.iter().any(|chunk| *chunk > start);
                self.end_at(start, format!("{why}: the recording never finished, was cut or is damaged"));
                if is_last && self.load_chunk(body_at, available, true)? {
                    return Ok(true);
                }
                continue;
            }
            self.at = body_at + length;
            let is_loaded = match kind {
                opcode::CHUNK if self.passed_over.binary_search(&start).is_ok() => false,
                opcode::CHUNK => self.load_chunk(body_at, length, false)?,
                opcode::MESSAGE if length <= MAX_BYTES => {
                    let mut body = std::mem::take(&mut self.buffer);
                    let read = self.read_at(body_at, length, &mut body);
                    self.find_in(&body, &mut std::iter::once((opcode::MESSAGE, 0..body.len())));
                    self.buffer = body;
                    read?;
                    true
                }
                opcode::MESSAGE => {
                    let why = format!("a message of {length} bytes at byte {start}: expected {MAX_BYTES} at most");
                    self.note_fault(why);
                    false
                }
                opcode::SCHEMA | opcode::CHANNEL => {
                    let mut body = std::mem::take(&mut self.buffer);
                    let read = self.read_at(body_at, length.min(MAX_NAMES_END), &mut body);
                    self.note(kind, &body);
                    self.buffer = body;
                    read?;
                    false
                }
                _ => false,
            };
            if is_loaded {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Nothing can be read at `start`: goes on with the next chunk that the index knows, if there is one.
    fn end_at(&mut self, start: u64, why: String) {
        self.note_fault(why);
        match self.chunk_starts.iter().find(|chunk| **chunk > start) {
            Some(next) if *next < self.bytes => self.at = *next,
            _ => self.is_at_end = true,
        }
    }

    fn note_fault(&mut self, why: String) {
        self.fault.get_or_insert(why);
    }

    /// Unpacks the chunk whose record's body lies at `at`. False when there is nothing in it.
    fn load_chunk(&mut self, at: u64, length: u64, is_cut: bool) -> io::Result<bool> {
        let mut start = [0; ChunkHeader::MAX_BYTES];
        let start = &mut start[..usize::try_from(length).unwrap_or(usize::MAX).min(ChunkHeader::MAX_BYTES)];
        self.seek(at)?;
        self.file.read_exact(start)?;
        let Some(header) = ChunkHeader::parse(start) else {
            if !is_cut {
                self.note_fault(format!("the chunk at byte {at} is damaged: its header is none"));
            }
            return Ok(false);
        };
        let available = length - header.header_bytes;
        if header.unpacked_bytes > MAX_BYTES || header.packed_bytes > available && !is_cut {
            let ChunkHeader { unpacked_bytes, packed_bytes, .. } = header;
            self.note_fault(format!(
                "the chunk at byte {at} is damaged: {packed_bytes} bytes of {available}, {unpacked_bytes} unpacked ({MAX_BYTES} \
                 at most)"
            ));
            return Ok(false);
        }
        let is_cut = header.packed_bytes > available;
        self.seek(at + header.header_bytes)?;
        let packed = (&mut self.file).take(header.packed_bytes.min(available));
        let unpacked = self.unpacker.unpack(&header.compression, packed, header.unpacked_bytes, &mut self.buffer);
        let whole = unpacked.and_then(|()| match header.crc {
            0 => Ok(()),
            crc if crc32fast::hash(&self.buffer) == crc => Ok(()),
            _ => Err("its checksum (CRC-32) is another".to_owned()),
        });
        // What was written of a chunk before the power went is as it was meant; what changed later is not.
        if let (Err(why), false) = (whole, is_cut) {
            let why = format!("the chunk at byte {at} is damaged: {why}");
            self.note_fault(why.clone());
            self.chunk_fault = Some(why);
        }
        let mut rest = 0;
        let buffer = std::mem::take(&mut self.buffer);
        let mut ranges = records(&buffer).map(|(kind, body)| {
            let start = rest + RECORD_HEADER_BYTES as usize;
            rest = start + body.len();
            (kind, start..rest)
        });
        self.find_in(&buffer, &mut ranges);
        drop(ranges);
        if rest < buffer.len() && !is_cut && self.chunk_fault.is_none() {
            let why = format!("the chunk at byte {at} is damaged: its records end at {rest} of {} bytes", buffer.len());
            self.note_fault(why.clone());
            self.chunk_fault = Some(why);
        }
        self.buffer = buffer;
        Ok(true)
    }

    /// Lists the messages that are looked for, by log time, and takes note of schemas and channels.
    fn find_in(&mut self, buffer: &[u8], records: &mut dyn Iterator<Item = (u8, Range<usize>)>) {
        for (kind, body) in records {
            let Some(bytes) = buffer.get(body.clone()) else { continue };
            if kind != opcode::MESSAGE {
                // What a damaged chunk says about topics is not to be trusted either.
                if self.chunk_fault.is_none() {
                    self.note(kind, bytes);
                }
                continue;
            }
            let Some(MessageHeader { channel, log_nanos }) = MessageHeader::parse(bytes) else { continue };
            if self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&channel)) {
                self.found.push(Found { channel, log_nanos, data: body.start + MessageHeader::BYTES..body.end });
            }
        }
        if !self.found.is_sorted_by_key(|message| message.log_nanos) {
            self.found.sort_by_key(|message| message.log_nanos);
        }
    }
}

/// Topics by name: several publishers of one are one.
#[derive(Default)]
struct Topics(BTreeMap<String, Topic>);

impl Topics {
    fn add(&mut self, walk: &Walk, channel: &Channel, messages: u64, times: Option<(u64, u64)>) {
        let schema = walk.schemas.get(&channel.schema_id).map(|schema| schema.name.clone()).unwrap_or_default();
        let topic = self.0.entry(channel.topic.clone()).or_insert_with(|| Topic {
            name: channel.topic.clone(),
            schema,
            encoding: channel.encoding.clone(),
            messages: 0,
            times: None,
            kind: walk.kind(channel),
        });
        topic.messages = topic.messages.saturating_add(messages);
        topic.times = match (topic.times, times) {
            (Some((first, last)), Some((other_first, other_last))) => {
                Some((first.min(other_first), last.max(other_last)))
            }
            (known, other) => known.or(other),
        };
    }
}
