//! Making a bank and writing its file.

use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::file::{ALIGNMENT, FORMAT_VERSION, HASH_RANGE, Header, MAGIC, MAX_COUNT, NONE, Storage};
use crate::inverted::{Lists, default_num_lists};
use crate::panels::{PANEL, pack, panel_bytes};
use crate::{Bank, RetrievalError};

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

    /// Encodes all prototypes, without an index: searches are exact.
    ///
    /// # Errors
    /// When there are none, or more than a bank can hold.
    pub fn finish(self, storage: Storage) -> Result<EncodedBank, RetrievalError> {
        self.encode(storage, None)
    }

    /// Encodes all prototypes with an index, so that they can be searched approximately as well; exact searches give the
    /// same as without. Takes seconds with 857 000 prototypes, on the threads of the current rayon pool; their number
    /// changes no byte.
    ///
    /// # Errors
    /// As [`BankBuilder::finish`].
    pub fn finish_indexed(self, storage: Storage) -> Result<EncodedBank, RetrievalError> {
        if self.labels.is_empty() {
            return Err(RetrievalError::Empty);
        }
        let lists = Lists::cluster(&self.vectors, self.dimension, default_num_lists(self.labels.len()));
        self.encode(storage, Some(&lists))
    }

    fn encode(self, storage: Storage, lists: Option<&Lists>) -> Result<EncodedBank, RetrievalError> {
        if self.labels.is_empty() {
            return Err(RetrievalError::Empty);
        }
        let too_many = || RetrievalError::TooMany { expected: MAX_COUNT, got: self.labels.len() };
        if self.labels.len() > MAX_COUNT {
            return Err(too_many());
        }
        let (Ok(count), Ok(dimension)) = (u32::try_from(self.labels.len()), u32::try_from(self.dimension)) else {
            return Err(too_many());
        };
        // Lists are filled up to whole panels; without an index all prototypes are one list.
        let mut indices: Vec<u32> = Vec::new();
        let mut list_ends = Vec::new();
        match lists {
            None => indices.extend(0..count),
            Some(lists) => {
                for members in &lists.members {
                    indices.extend_from_slice(members);
                    indices.resize(indices.len().next_multiple_of(PANEL), NONE);
                    list_ends.push(u32::try_from(indices.len() / PANEL).map_err(|_| too_many())?);
                }
            }
        }
        let header = Header {
            sha256: [0; 32],
            model_hash: self.model_hash,
            label_space: self.label_space,
            dimension,
            count,
            storage,
            num_images: self.num_images,
            labels_from: self.labels_from,
            num_lists: list_ends.len() as u32,
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
        let rows = indices
            .iter()
            .map(|&index| (index != NONE).then(|| &self.vectors[index as usize * self.dimension..][..self.dimension]));
        append_panels(&mut bytes, storage, self.dimension, rows);
        pad(&mut bytes);
        bytes.extend_from_slice(&self.labels);
        if let Some(lists) = lists {
            pad(&mut bytes);
            bytes.extend(indices.iter().flat_map(|index| index.to_le_bytes()));
            pad(&mut bytes);
            bytes.extend(list_ends.iter().flat_map(|end| end.to_le_bytes()));
            pad(&mut bytes);
            append_panels(
                &mut bytes,
                Storage::F32,
                self.dimension,
                lists.centroids.chunks_exact(self.dimension).map(Some),
            );
        }
        let hash = Sha256::digest(&bytes);
        bytes[HASH_RANGE].copy_from_slice(&hash);
        Ok(EncodedBank { bytes })
    }
}

/// Packs vectors, one a slot, into panels at the end of `bytes`; slots without one, and the rest of the last panel, are 0.
pub(crate) fn append_panels<'a>(
    bytes: &mut Vec<u8>,
    storage: Storage,
    dimension: usize,
    rows: impl Iterator<Item = Option<&'a [f32]>>,
) {
    let stride = panel_bytes(storage, dimension).unwrap_or(0);
    for (slot, row) in rows.enumerate() {
        if slot % PANEL == 0 {
            bytes.resize(bytes.len() + stride, 0);
        }
        let start = bytes.len() - stride;
        if let Some(row) = row {
            pack(storage, row, slot % PANEL, &mut bytes[start..]);
        }
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
