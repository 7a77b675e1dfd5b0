//! The bank's file, `bank.postcard`.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | magic `HSGB` |
//! | 4..6 | format version, u16 little-endian |
//! | 6..8 | 0 |
//! | 8..12 | length of the header in bytes, u32 little-endian |
//! | 12.. | header, postcard: SHA-256 (32 bytes), model hash, label space, dimension, count, storage, number of images, where the labels came from |
//! | next multiple of 64 | vectors, `[count, dimension]` in the storage's type, little-endian |
//! | next multiple of 64 | scales, `[count]` f32 (storage `Int8` alone: value = integer × scale) |
//! | next multiple of 64 | labels, `[count]` u8, up to the end of the file |
//!
//! Gaps are filled with 0. The SHA-256 is that of the whole file with its own 32 bytes set to 0, so every byte is
//! covered. Everything can be used where it lies in a memory-mapped file.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Bank, RetrievalError};

/// First bytes of every bank.
pub const MAGIC: [u8; 4] = *b"HSGB";

/// The format version that is written and read.
pub const FORMAT_VERSION: u16 = 1;

/// Start of the header, and with it of the hash.
const HEADER_START: usize = 12;
const HASH_RANGE: Range<usize> = HEADER_START..HEADER_START + 32;
const ALIGNMENT: usize = 64;

/// Largest number of prototypes.
const MAX_COUNT: usize = u32::MAX as usize - 64;

/// How vectors are stored. Searching is done in 32-bit floats in every case.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Storage {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers, −127 to 127, and one 32-bit scale per vector.
    Int8,
}

impl Storage {
    /// Bytes of one value of a vector.
    fn value_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Int8 => 1,
        }
    }
}

/// The postcard header. Append only with a new format version.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Header {
    pub(crate) sha256: [u8; 32],
    pub(crate) model_hash: String,
    pub(crate) label_space: String,
    pub(crate) dimension: u32,
    pub(crate) count: u32,
    pub(crate) storage: Storage,
    pub(crate) num_images: u32,
    pub(crate) labels_from: String,
}

/// Where the parts of a file lie.
struct Layout {
    vectors: Range<usize>,
    scales: Range<usize>,
    labels: Range<usize>,
}

impl Layout {
    /// `None` when the sizes in the header do not fit in memory.
    fn new(header: &Header, header_bytes: usize) -> Option<Self> {
        let count = usize::try_from(header.count).ok()?;
        let vector_bytes = usize::try_from(header.dimension).ok()?.checked_mul(header.storage.value_bytes())?;
        let scale_bytes = if header.storage == Storage::Int8 { count.checked_mul(4)? } else { 0 };
        let part = |after: usize, bytes: usize| {
            let start = after.checked_next_multiple_of(ALIGNMENT)?;
            Some(start..start.checked_add(bytes)?)
        };
        let vectors = part(HEADER_START.checked_add(header_bytes)?, count.checked_mul(vector_bytes)?)?;
        let scales = part(vectors.end, scale_bytes)?;
        let labels = part(scales.end, count)?;
        Some(Self { vectors, scales, labels })
    }
}

/// Collects prototypes and makes a bank of them.
#[derive(Clone, Debug)]
pub struct BankBuilder {
    dimension: usize,
    model_hash: String,
    label_space: String,
    num_images: u32,
    labels_from: String,
    vectors: Vec<f32>,
    labels: Vec<u8>,
}

impl BankBuilder {
    /// A bank of `dimension`-vectors made by the model with `model_hash` (hex SHA-256, see the model folder), whose labels
    /// are train ids of the label space named `label_space`.
    pub fn new(dimension: usize, model_hash: &str, label_space: &str) -> Self {
        Self {
            dimension,
            model_hash: model_hash.to_owned(),
            label_space: label_space.to_owned(),
            num_images: 0,
            labels_from: String::new(),
            vectors: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// States what the labels came from: a number of images, and in words which ones and under which licence.
    pub fn set_source(&mut self, num_images: u32, labels_from: &str) {
        self.num_images = num_images;
        labels_from.clone_into(&mut self.labels_from);
    }

    /// Number of prototypes so far.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True before the first prototype.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Adds a prototype: a unit vector (it is normalised again, so rounding does not add up) and its train id.
    ///
    /// # Errors
    /// When its length is not the bank's dimension, or it is zero or not finite.
    pub fn push(&mut self, prototype: &[f32], train_id: u8) -> Result<(), RetrievalError> {
        if prototype.len() != self.dimension || self.dimension == 0 {
            let expected = if self.dimension == 0 { "at least 1".to_owned() } else { self.dimension.to_string() };
            return Err(RetrievalError::Dimension { what: "a prototype", expected, got: prototype.len() });
        }
        let norm = prototype.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if !(norm.is_finite() && norm > 1e-6) {
            return Err(RetrievalError::Prototype { index: self.len(), norm: norm as f32 });
        }
        self.vectors.extend(prototype.iter().map(|v| (f64::from(*v) / norm) as f32));
        self.labels.push(train_id);
        Ok(())
    }

    /// Encodes all prototypes.
    ///
    /// # Errors
    /// When there are none, or more than a bank can hold.
    pub fn finish(self, storage: Storage) -> Result<EncodedBank, RetrievalError> {
        if self.labels.is_empty() {
            return Err(RetrievalError::Empty);
        }
        let too_many = RetrievalError::TooMany { expected: MAX_COUNT, got: self.labels.len() };
        if self.labels.len() > MAX_COUNT {
            return Err(too_many);
        }
        let (Ok(count), Ok(dimension)) = (u32::try_from(self.labels.len()), u32::try_from(self.dimension)) else {
            return Err(too_many);
        };
        let header = Header {
            sha256: [0; 32],
            model_hash: self.model_hash,
            label_space: self.label_space,
            dimension,
            count,
            storage,
            num_images: self.num_images,
            labels_from: self.labels_from,
        };
        // Writing plain data to memory can fail only for want of memory.
        let encoded = postcard::to_allocvec(&header).map_err(|_| RetrievalError::Empty)?;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&encoded);
        pad(&mut bytes);
        let mut scales: Vec<f32> = Vec::new();
        match storage {
            Storage::F32 => bytes.extend(self.vectors.iter().flat_map(|v| v.to_le_bytes())),
            Storage::F16 => bytes.extend(self.vectors.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            Storage::Int8 => {
                for vector in self.vectors.chunks_exact(self.dimension) {
                    // Unit vectors: the largest magnitude is above 0.
                    let scale = vector.iter().fold(0.0f32, |largest, v| largest.max(v.abs())) / 127.0;
                    bytes.extend(
                        vector.iter().map(|v| ((v / scale).round().clamp(-127.0, 127.0) as i8).cast_unsigned()),
                    );
                    scales.push(scale);
                }
            }
        }
        pad(&mut bytes);
        bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
        pad(&mut bytes);
        bytes.extend_from_slice(&self.labels);
        let hash = Sha256::digest(&bytes);
        bytes[HASH_RANGE].copy_from_slice(&hash);
        Ok(EncodedBank { bytes })
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// The bytes of a bank's file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EncodedBank {
    bytes: Vec<u8>,
}

impl EncodedBank {
    /// The bytes as they are written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the file: to a temporary file in the same folder, then by rename over `path`.
    ///
    /// # Errors
    /// When it cannot be written; `path` is untouched then, and no temporary file stays behind.
    pub fn write(&self, path: &Path) -> Result<(), RetrievalError> {
        let error = |source| RetrievalError::Write { path: path.to_owned(), source };
        let name = path.file_name().ok_or_else(|| error(std::io::ErrorKind::InvalidInput.into()))?;
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary_name);
        let result = write_synced(&temporary, &self.bytes).and_then(|()| std::fs::rename(&temporary, path));
        result.map_err(|source| {
            // Best effort: the error to report is the first one.
            let _ = std::fs::remove_file(&temporary);
            error(source)
        })
    }

    /// The bank for searching, as it would be read from the file.
    ///
    /// # Errors
    /// Never for bytes made by [`BankBuilder::finish`].
    pub fn to_bank(&self) -> Result<Bank, RetrievalError> {
        Bank::from_bytes(&self.bytes, Path::new("(in memory)"))
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What a file holds, decoded to 32-bit floats.
pub(crate) struct Decoded {
    pub(crate) header: Header,
    /// `[count, dimension]`.
    pub(crate) vectors: Vec<f32>,
    pub(crate) labels: Vec<u8>,
}

/// Checks and decodes a file; `path` is for messages.
pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Decoded, RetrievalError> {
    let path_buf = || -> PathBuf { path.to_owned() };
    let damaged = |reason: &str| RetrievalError::Damaged { path: path_buf(), reason: reason.to_owned() };
    let length = |expected: usize| RetrievalError::Length {
        path: path_buf(),
        expected: expected as u64,
        got: bytes.len() as u64,
    };
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if magic != MAGIC {
        let got = String::from_utf8_lossy(magic).into_owned();
        return Err(RetrievalError::Magic { path: path_buf(), got });
    }
    let Some([v0, v1, zero0, zero1, l0, l1, l2, l3]) = bytes.get(4..HEADER_START) else {
        return Err(length(HEADER_START));
    };
    let version = u16::from_le_bytes([*v0, *v1]);
    if version != FORMAT_VERSION {
        return Err(RetrievalError::Version { path: path_buf(), expected: FORMAT_VERSION, got: version });
    }
    if [*zero0, *zero1] != [0, 0] {
        return Err(damaged("bytes 6 and 7 are not 0"));
    }
    let header_bytes = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
    let header_end = HEADER_START.saturating_add(header_bytes);
    let encoded = bytes.get(HEADER_START..header_end).ok_or_else(|| length(header_end))?;
    let header = match postcard::take_from_bytes::<Header>(encoded) {
        Ok((header, [])) => header,
        _ => return Err(damaged("its header cannot be decoded")),
    };
    let layout = Layout::new(&header, header_bytes).ok_or_else(|| damaged("its header states impossible sizes"))?;
    if bytes.len() != layout.labels.end {
        return Err(length(layout.labels.end));
    }
    let mut hasher = Sha256::new();
    hasher.update(&bytes[..HASH_RANGE.start]);
    hasher.update([0; 32]);
    hasher.update(&bytes[HASH_RANGE.end..]);
    let hash: [u8; 32] = hasher.finalize().into();
    if hash != header.sha256 {
        return Err(RetrievalError::Hash { path: path_buf(), expected: hex(&header.sha256), got: hex(&hash) });
    }
    if header.count == 0 || header.dimension == 0 || header.count as usize > MAX_COUNT {
        return Err(damaged("it has no prototypes, or too many"));
    }

    let stored = &bytes[layout.vectors];
    let mut vectors = vec![0.0f32; header.count as usize * header.dimension as usize];
    match header.storage {
        Storage::F32 => {
            let (words, _) = stored.as_chunks::<4>();
            vectors.iter_mut().zip(words).for_each(|(v, word)| *v = f32::from_le_bytes(*word));
        }
        Storage::F16 => {
            let (words, _) = stored.as_chunks::<2>();
            let halves: Vec<f16> = words.iter().map(|word| f16::from_le_bytes(*word)).collect();
            halves.convert_to_f32_slice(&mut vectors);
        }
        Storage::Int8 => {
            let (scales, _) = bytes[layout.scales].as_chunks::<4>();
            let dimension = header.dimension as usize;
            let rows = vectors.chunks_exact_mut(dimension).zip(stored.chunks_exact(dimension));
            for ((row, stored), scale) in rows.zip(scales) {
                let scale = f32::from_le_bytes(*scale);
                row.iter_mut().zip(stored).for_each(|(v, &q)| *v = f32::from(q.cast_signed()) * scale);
            }
        }
    }
    Ok(Decoded { header, vectors, labels: bytes[layout.labels].to_vec() })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
