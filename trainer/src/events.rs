//! TensorBoard's event files: scalars, pictures and texts of a run, for `tensorboard --logdir RUN`. [T7]
//!
//! A file is a row of TFRecords (length, CRC of it, an `Event` in protobuf, CRC of that). Only the fields that are
//! written are declared here; their numbers are those of TensorFlow's `event.proto`, `summary.proto`, `tensor.proto`.
//!
//! Each start of the program opens a file of its own, so nothing that was written is ever changed. What an older file
//! has of steps that come again is not deleted: the new file's first records tell TensorBoard to forget it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use models::files::file_error;
use prost::Message;

/// TensorBoard takes a file for one of events by this.
const PREFIX: &str = "events.out.tfevents.";
/// Where a host name usually stands, which would tell strangers the machine's name and us nothing.
const ORIGIN: &str = "hsg";
/// Makes TensorBoard heed [`SessionLog`]s instead of guessing from steps that go backwards.
const FILE_VERSION: &str = "brain.Event:2";
/// Records are held back up to so many bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes the events of one start of the program. Dropping it writes what is held back, errors unseen: call
/// [`EventWriter::flush`] first.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
    /// Records, or the rest of them, that are not in the file yet.
    pending: Vec<u8>,
}

impl EventWriter {
    /// A new event file in the folder `run`, for a run that has done `steps_done` steps (0: a new one). Whatever older
    /// files have of later steps, TensorBoard forgets.
    ///
    /// # Errors
    /// [`models::ModelError::File`] naming the file, here and in all methods.
    pub fn create(run: &Path, steps_done: usize) -> models::Result<Self> {
        // TensorBoard reads files in the order of their names; a clock that was set back, or two starts within a
        // second, must not put this one before older ones.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        let latest = latest_seconds(run).map_err(|e| file_error("read", run, e))?;
        let mut seconds = latest.map_or(now, |latest| now.max(latest.saturating_add(1)));
        let (path, file) = loop {
            let path = run.join(format!("{PREFIX}{seconds:010}.{ORIGIN}.{}", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => seconds += 1,
                Err(error) => return Err(file_error("create", &path, error)),
            }
        };
        let mut writer = Self { path, file, pending: Vec::new() };
        writer.event(0, What::FileVersion(FILE_VERSION.to_owned()))?;
        // TensorBoard forgets the step named here, too: it is the first one that comes again.
        writer.event(steps_done + 1, What::SessionLog(SessionLog { status: SessionLog::START }))?;
        writer.flush()?;
        Ok(writer)
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number at a step; tags with a common beginning up to `/` are shown together.
    ///
    /// # Errors
    /// As [`EventWriter::create`].
    pub fn scalar(&mut self, step: usize, tag: &str, value: f64) -> models::Result<()> {
        self.summary(step, tag, None, Content::SimpleValue(value as f32))
    }

    /// A picture at a step, as the bytes of a PNG file of that size.
    ///
    /// # Errors
    /// As [`EventWriter::create`].
    pub fn image(&mut self, step: usize, tag: &str, width: u32, height: u32, png_bytes: &[u8]) -> models::Result<()> {
        let side = |pixels: u32| i32::try_from(pixels).unwrap_or(i32::MAX);
        let image = Image {
            height: side(height),
            width: side(width),
            colorspace: Image::RGB,
            encoded_image_string: png_bytes.to_vec(),
        };
        self.summary(step, tag, None, Content::Image(image))
    }

    /// A text at a step, in Markdown.
    ///
    /// # Errors
    /// As [`EventWriter::create`].
    pub fn text(&mut self, step: usize, tag: &str, markdown: &str) -> models::Result<()> {
        let metadata = SummaryMetadata { plugin_data: Some(PluginData { plugin_name: "text".to_owned() }) };
        let tensor = Tensor {
            dtype: Tensor::STRING,
            tensor_shape: Some(TensorShape { dim: vec![Dim { size: 1 }] }),
            string_val: vec![markdown.as_bytes().to_vec()],
        };
        self.summary(step, tag, Some(metadata), Content::Tensor(tensor))
    }

    /// Writes what is held back, so that TensorBoard sees it.
    ///
    /// # Errors
    /// As [`EventWriter::create`]. Nothing is lost by it: once the disk has room again, the next call goes on with the
    /// byte at which this one ended, so that the file is whole.
    pub fn flush(&mut self) -> models::Result<()> {
        let mut written = 0;
        let mut result = Ok(());
        while written < self.pending.len() {
            match self.file.write(&self.pending[written..]) {
                Ok(0) => result = Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
            if result.is_err() {
                break;
            }
        }
        self.pending.drain(..written);
        result.map_err(|error| file_error("write", &self.path, error))
    }

    fn summary(
        &mut self,
        step: usize,
        tag: &str,
        metadata: Option<SummaryMetadata>,
        content: Content,
    ) -> models::Result<()> {
        let value = Value { tag: tag.to_owned(), metadata, content: Some(content) };
        self.event(step, What::Summary(Summary { value: vec![value] }))
    }

    fn event(&mut self, step: usize, what: What) -> models::Result<()> {
        let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |passed| passed.as_secs_f64());
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        push_record(&mut self.pending, &Event { wall_time, step, what: Some(what) }.encode_to_vec());
        if self.pending.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.flush();
    }
}

/// The largest time in the names of the event files of a folder.
fn latest_seconds(run: &Path) -> std::io::Result<Option<u64>> {
    let mut latest = None;
    for entry in fs::read_dir(run)? {
        let name = entry?.file_name();
        let seconds = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
        latest = latest.max(seconds);
    }
    Ok(latest)
}

fn push_record(out: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked_crc(data).to_le_bytes());
}

/// CRC-32C, turned and shifted by a constant: a CRC of data that hold CRCs would be weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl SessionLog {
    const START: i32 = 1;
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
    #[prost(oneof = "Content", tags = "2, 4, 8")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(Image),
    #[prost(message, tag = "8")]
    Tensor(Tensor),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

impl Image {
    const RGB: i32 = 3;
}

#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

impl Tensor {
    const STRING: i32 = 7;
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// CRC-32C bit by bit, from its polynomial.
    fn crc_by_bits(data: &[u8]) -> u32 {
        !data.iter().fold(!0_u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
        })
    }

    /// TensorFlow's `lib/hash/crc32c.h`.
    fn mask(crc: u32) -> u32 {
        let turned = u64::from(crc) << 17 | u64::from(crc) >> 15;
        ((turned + 0xa282_ead8) & 0xffff_ffff) as u32
    }

    fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (head, tail) = rest.split_at(count);
        *rest = tail;
        head
    }

    /// The records of a file whose checksums hold; what is cut off at the end does not count.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let mut rest = bytes;
        while rest.len() >= 12 {
            let length = take(&mut rest, 8);
            assert_eq!(mask(crc_by_bits(length)), u32::from_le_bytes(take(&mut rest, 4).try_into().unwrap()));
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            if rest.len() < length + 4 {
                break;
            }
            let data = take(&mut rest, length);
            assert_eq!(mask(crc_by_bits(data)), u32::from_le_bytes(take(&mut rest, 4).try_into().unwrap()));
            records.push(data.to_vec());
        }
        records
    }

    /// A field of a message: a number (fixed ones as their bits) or bytes.
    #[derive(Clone, Debug, PartialEq)]
    enum Field {
        Number(u64),
        Bytes(Vec<u8>),
    }

    fn varint(rest: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = take(rest, 1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        panic!("a number without its end")
    }

    /// A protobuf message without its declaration: fields by number, the last one of each.
    fn fields(mut rest: &[u8]) -> BTreeMap<u64, Field> {
        let mut fields = BTreeMap::new();
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let field = match key & 7 {
                0 => Field::Number(varint(&mut rest)),
                1 => Field::Number(u64::from_le_bytes(take(&mut rest, 8).try_into().unwrap())),
                2 => {
                    let length = varint(&mut rest) as usize;
                    Field::Bytes(take(&mut rest, length).to_vec())
                }
                5 => Field::Number(u32::from_le_bytes(take(&mut rest, 4).try_into().unwrap()).into()),
                kind => panic!("wire type {kind}"),
            };
            fields.insert(key >> 3, field);
        }
        fields
    }

    fn message(fields_: &BTreeMap<u64, Field>, number: u64) -> BTreeMap<u64, Field> {
        match &fields_[&number] {
            Field::Bytes(bytes) => fields(bytes),
            Field::Number(_) => panic!("field {number} is no message"),
        }
    }

    fn events(path: &Path) -> Vec<BTreeMap<u64, Field>> {
        records(&fs::read(path).unwrap()).iter().map(|record| fields(record)).collect()
    }

    fn bytes(text: &str) -> Field {
        Field::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn checksums_are_those_of_the_castagnoli_polynomial() {
        assert_eq!(crc_by_bits(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), mask(crc_by_bits(b"123456789")));
    }

    #[test]
    fn everything_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 0).unwrap();
        writer.scalar(1, "loss/total", 2.5).unwrap();
        writer.scalar(2, "loss/total", 0.0).unwrap();
        writer.image(2, "sample0/level1", 3, 2, b"\x89PNG data").unwrap();
        writer.text(2, "settings", "# hello").unwrap();
        writer.flush().unwrap();
        let events = events(writer.path());
        assert_eq!(events.len(), 6);
        assert_eq!(events[0][&3], bytes("brain.Event:2"));
        assert_eq!((&events[1][&2], &message(&events[1], 7)[&1]), (&Field::Number(1), &Field::Number(1)));
        for event in &events {
            let Field::Number(bits) = event[&1] else { panic!("no time") };
            assert!(f64::from_bits(bits) > 1.7e9);
        }
        let value = |event: usize| message(&message(&events[event], 5), 1);
        assert_eq!((&value(2)[&1], &events[2][&2]), (&bytes("loss/total"), &Field::Number(1)));
        assert_eq!(value(2)[&2], Field::Number(2.5_f32.to_bits().into()));
        // Zero is a value, not a missing one.
        assert_eq!(value(3)[&2], Field::Number(0));
        let image = message(&value(4), 4);
        assert_eq!(
            [1, 2, 3, 4].map(|number| image[&number].clone()),
            [Field::Number(2), Field::Number(3), Field::Number(3), Field::Bytes(b"\x89PNG data".to_vec())]
        );
        assert_eq!(message(&message(&value(5), 9), 1)[&1], bytes("text"));
        let tensor = message(&value(5), 8);
        assert_eq!((&tensor[&1], &tensor[&8]), (&Field::Number(7), &bytes("# hello")));
        assert_eq!(message(&message(&tensor, 2), 2)[&1], Field::Number(1));
    }

    #[test]
    fn resuming_opens_a_later_file_and_leaves_the_older_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        let mut before = Vec::new();
        for steps_done in [0, 10, 10, 20] {
            let mut writer = EventWriter::create(folder.path(), steps_done).unwrap();
            writer.scalar(steps_done + 1, "loss", 1.0).unwrap();
            let path = writer.path().to_owned();
            drop(writer);
            let start = &events(&path)[1];
            assert_eq!(start[&2], Field::Number(steps_done as u64 + 1));
            assert_eq!(message(start, 7)[&1], Field::Number(1));
            names.push(path.file_name().unwrap().to_owned());
            for (path, bytes) in &before {
                assert_eq!(&fs::read(path).unwrap(), bytes);
            }
            before.push((path.clone(), fs::read(path).unwrap()));
        }
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        assert!(names[0].to_str().unwrap().starts_with("events.out.tfevents."));
    }

    #[test]
    fn a_clock_set_back_does_not_put_the_new_file_first() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("events.out.tfevents.9000000000.host.1"), "").unwrap();
        fs::write(folder.path().join("events.out.tfevents.none"), "").unwrap();
        let writer = EventWriter::create(folder.path(), 0).unwrap();
        assert!(writer.path().to_str().unwrap().contains("tfevents.9000000001."));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = EventWriter::create(&folder.path().join("missing"), 0).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.1.hsg.1");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = EventWriter { path: path.clone(), file: full, pending: Vec::new() };
        writer.scalar(1, "loss", 1.0).unwrap();
        let error = writer.flush().unwrap_err().to_string();
        assert!(error.contains("tfevents.1.hsg.1") && error.contains("free some space"), "{error}");
        // Larger than what is held back: the error comes at once.
        assert!(writer.image(1, "large", 1, 1, &vec![0; 2 * BUFFER_BYTES]).is_err());
        writer.file = File::create_new(&path).unwrap();
        writer.flush().unwrap();
        assert_eq!(events(&path).len(), 2);
    }
}
