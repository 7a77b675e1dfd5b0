//! What a person named: a few prototypes with names of their own choice, and their file.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | magic `HSGU` |
//! | 4..6 | format version, u16 little-endian |
//! | 6..8 | 0 |
//! | 8..40 | SHA-256 of all that follows |
//! | 40.. | postcard: model hash, dimension, the next entry's number, entries (number, name, unit vector, where it came from) |
//!
//! Entries have names, not train ids: which id a name has depends on the bank below ([`crate::Overlay`]).

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::RetrievalError;

/// First bytes of every file of names that a person gave.
pub const USER_MAGIC: [u8; 4] = *b"HSGU";
/// The format version that is written and read.
pub const USER_FORMAT_VERSION: u16 = 1;
/// Most entries: a search looks at all of them for every segment, and beyond some hundred `hsg bank build` is the better tool.
pub const MAX_USER_ENTRIES: usize = 1000;
/// Most bytes that a file is read with: what so many entries of the largest dimension need, and more.
pub const MAX_USER_BYTES: u64 = 64 << 20;
/// Most characters of a name.
const MAX_NAME_CHARS: usize = 40;
/// Prototypes with at least this cosine are of the same segment, pointed at again.
const SAME_SEGMENT: f64 = 0.999_999;
/// How far from 1 the norm of a stored vector may be.
const NORM_TOLERANCE: f64 = 1e-3;
/// Start of the hashed part.
const BODY_START: usize = 40;

/// What a person named, for one model.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct UserBank {
    model_hash: String,
    dimension: u32,
    next_number: u32,
    entries: Vec<UserEntry>,
}

/// A segment that somebody named.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct UserEntry {
    /// Its number, from 1; no other entry gets it, also when this one is gone.
    pub number: u32,
    /// The name.
    pub name: String,
    /// The segment's mean feature, of unit length.
    pub prototype: Vec<f32>,
    /// Where it came from.
    pub origin: UserOrigin,
}

/// Where an entry came from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct UserOrigin {
    /// The source as it was typed.
    pub source: String,
    /// Index of the frame in the source.
    pub frame: u64,
    /// The pixel that was pointed at, x and y.
    pub point: [u32; 2],
    /// Pixels of the segment.
    pub area: u32,
    /// What it was called before.
    pub before: Option<String>,
    /// When, in seconds since 1970 (UTC).
    pub utc_seconds: u64,
}

/// What became of a prototype that was added.
#[derive(Clone, Debug, PartialEq)]
pub enum Added {
    /// It is a new entry with this number.
    New(u32),
    /// The same segment has this name already: nothing changed.
    Known(u32),
    /// The same segment had another name, which this one replaces.
    Instead {
        /// The entry.
        number: u32,
        /// What it was called.
        name: String,
    },
}

/// Whether two names mean the same class: case makes no difference.
pub fn same_name(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

/// Checks that something can be a class's name.
///
/// # Errors
/// [`RetrievalError::Name`] for one that is empty or too long, begins or ends with a space, or has characters that cannot be
/// seen.
pub fn check_name(name: &str) -> Result<(), RetrievalError> {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let wrong =
        name.is_empty() || name.trim() != name || name.chars().count() > MAX_NAME_CHARS || name.chars().any(is_hidden);
    if wrong {
        return Err(RetrievalError::Name { got: name.to_owned(), expected: MAX_NAME_CHARS });
    }
    Ok(())
}

impl UserBank {
    /// Nothing named yet, for the model with this hash and so many values per prototype.
    pub fn new(model_hash: &str, dimension: usize) -> Self {
        let dimension = u32::try_from(dimension).unwrap_or(u32::MAX);
        Self { model_hash: model_hash.to_owned(), dimension, next_number: 1, entries: Vec::new() }
    }

    /// Reads and checks the bytes of a file; `path` is only for messages.
    ///
    /// # Errors
    /// [`RetrievalError::User`] when they are no such file, of another version, or cut or changed anywhere.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, RetrievalError> {
        let wrong = |reason: String| RetrievalError::User { path: path.to_owned(), reason };
        let start = &bytes[..bytes.len().min(USER_MAGIC.len())];
        if start != USER_MAGIC {
            return Err(wrong(format!("expected it to begin with `HSGU`, got {:?}", String::from_utf8_lossy(start))));
        }
        let cut = || wrong(format!("expected more than {BODY_START} bytes, got {}: it is cut", bytes.len()));
        let version =
            bytes.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes).ok_or_else(cut)?;
        if version != USER_FORMAT_VERSION {
            return Err(wrong(format!(
                "expected format version {USER_FORMAT_VERSION}, got {version}: it was written by another version of hsg"
            )));
        }
        let (Some([0, 0]), Some(hash), Some(body)) =
            (bytes.get(6..8), bytes.get(8..BODY_START), bytes.get(BODY_START..))
        else {
            return Err(cut());
        };
        if Sha256::digest(body).as_slice() != hash {
            return Err(wrong("expected the SHA-256 it was written with, got another: it is damaged".to_owned()));
        }
        let Ok((bank, [])) = postcard::take_from_bytes::<Self>(body) else {
            return Err(wrong("expected entries, got something that cannot be decoded".to_owned()));
        };
        bank.check().map_err(wrong)?;
        Ok(bank)
    }

    /// What makes content wrong whose hash is right.
    fn check(&self) -> Result<(), String> {
        if self.entries.len() > MAX_USER_ENTRIES {
            return Err(format!("expected at most {MAX_USER_ENTRIES} entries, got {}", self.entries.len()));
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let number = entry.number;
            check_name(&entry.name).map_err(|error| format!("entry {number}: {error}"))?;
            if entry.prototype.len() != self.dimension as usize {
                return Err(format!(
                    "entry {number}: expected {} values, got {}",
                    self.dimension,
                    entry.prototype.len()
                ));
            }
            let norm = norm(&entry.prototype);
            // A norm that is no number is not.
            let is_unit = (norm - 1.0).abs() <= NORM_TOLERANCE;
            if !is_unit {
                return Err(format!("entry {number}: expected a vector of length 1, got length {norm}"));
            }
            if number >= self.next_number || self.entries[..index].iter().any(|other| other.number == number) {
                return Err(format!("expected entries with numbers of their own, got {number} twice or too large"));
            }
        }
        Ok(())
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// Never for a bank that was made by these functions.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RetrievalError> {
        let body = postcard::to_allocvec(self).map_err(|_| RetrievalError::Empty)?;
        let mut bytes = USER_MAGIC.to_vec();
        bytes.extend(USER_FORMAT_VERSION.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(Sha256::digest(&body));
        bytes.extend(body);
        Ok(bytes)
    }

    /// Checks that it belongs to the model with this hash, whose prototypes have so many values.
    ///
    /// # Errors
    /// [`RetrievalError::User`] when it belongs to another one.
    pub fn check_model(&self, model_hash: &str, dimension: usize, path: &Path) -> Result<(), RetrievalError> {
        let wrong = |reason: String| Err(RetrievalError::User { path: path.to_owned(), reason });
        if self.model_hash != model_hash {
            return wrong(format!("expected names for the model {model_hash}, got those for {}", self.model_hash));
        }
        if self.dimension as usize != dimension {
            return wrong(format!("expected prototypes of {dimension} values, got {}", self.dimension));
        }
        Ok(())
    }

    /// Hash of the model that made the prototypes.
    pub fn model_hash(&self) -> &str {
        &self.model_hash
    }

    /// Values per prototype.
    pub fn dim(&self) -> usize {
        self.dimension as usize
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[UserEntry] {
        &self.entries
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The different names, in the order in which they first came.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !names.iter().any(|name| same_name(name, &entry.name)) {
                names.push(&entry.name);
            }
        }
        names
    }

    /// Names a segment by its mean feature. The same segment again keeps its entry: a new name replaces the old one.
    ///
    /// # Errors
    /// For a name that is none, a vector of another length or without direction, and when there is no room.
    pub fn add(&mut self, name: &str, prototype: &[f32], origin: UserOrigin) -> Result<Added, RetrievalError> {
        check_name(name)?;
        if prototype.len() != self.dim() {
            let expected = self.dim().to_string();
            return Err(RetrievalError::Dimension { what: "a prototype", expected, got: prototype.len() });
        }
        let norm = norm(prototype);
        if !(norm.is_finite() && norm > 1e-6) {
            return Err(RetrievalError::Prototype { index: self.entries.len(), norm: norm as f32 });
        }
        let prototype: Vec<f32> = prototype.iter().map(|value| (f64::from(*value) / norm) as f32).collect();
        // One spelling for all entries of a name.
        let name = self.entries.iter().find(|entry| same_name(&entry.name, name)).map_or(name, |entry| &entry.name);
        let name = name.to_owned();
        let is_same = |entry: &UserEntry| {
            let products = entry.prototype.iter().zip(&prototype).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum::<f64>() >= SAME_SEGMENT
        };
        if let Some(entry) = self.entries.iter_mut().find(|entry| is_same(entry)) {
            if entry.name == name {
                return Ok(Added::Known(entry.number));
            }
            let before = std::mem::replace(&mut entry.name, name);
            entry.origin = origin;
            return Ok(Added::Instead { number: entry.number, name: before });
        }
        let room = self.entries.len() < MAX_USER_ENTRIES;
        let next = self.next_number.checked_add(1).filter(|_| room);
        let Some(next) = next else {
            return Err(RetrievalError::TooMany { expected: MAX_USER_ENTRIES, got: self.entries.len() + 1 });
        };
        let number = std::mem::replace(&mut self.next_number, next);
        self.entries.push(UserEntry { number, name, prototype, origin });
        Ok(Added::New(number))
    }

    /// Gives the entries of one name another; returns how many.
    ///
    /// # Errors
    /// For a new name that is none.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<usize, RetrievalError> {
        check_name(new)?;
        // Case alone may be what is to be changed.
        let is_case = same_name(old, new);
        let spelled = self.entries.iter().find(|entry| !is_case && same_name(&entry.name, new));
        let new = spelled.map_or(new, |entry| &entry.name).to_owned();
        let named = self.entries.iter_mut().filter(|entry| same_name(&entry.name, old));
        Ok(named.map(|entry| entry.name.clone_from(&new)).count())
    }

    /// Removes the entries of a name; returns how many.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.entries.len();
        self.entries.retain(|entry| !same_name(&entry.name, name));
        before - self.entries.len()
    }

    /// Removes the entry with this number, if there is one.
    pub fn remove_entry(&mut self, number: u32) -> Option<UserEntry> {
        let index = self.entries.iter().position(|entry| entry.number == number)?;
        Some(self.entries.remove(index))
    }
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}
