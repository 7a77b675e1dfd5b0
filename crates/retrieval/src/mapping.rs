//! A file mapped into memory: large banks ([`MAPPED_FROM_BYTES`](crate::MAPPED_FROM_BYTES)) are searched where they lie, shared
//! between programs, and are read ahead by the system. Smaller ones are read and none of this is about them. This module
//! holds the crate's only unsafe code.
//!
//! What can happen to the file meanwhile:
//! - *Replaced by rename*, as everything of ours is written: the mapping keeps the old file. Nothing happens.
//! - *Cut short in place*: touching a page that is gone ends the program (SIGBUS). [`Mapping::check`] compares the length
//!   before each search, so that it ends with an error instead; only a cut in the milliseconds of a search itself is
//!   beyond that. So is a disk that fails: it cannot be reported through memory.
//! - *Written to in place*: the time of its last change tells; the content is hashed again and refused if it is another.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use memmap2::Mmap;

/// A file and its content in memory, read-only.
pub(crate) struct Mapping {
    file: File,
    content: Mmap,
    /// Time of the last change for which the content was known to be right.
    changed: AtomicU64,
}

impl Mapping {
    /// Maps a whole file.
    pub(crate) fn new(file: File) -> Result<Self, Error> {
        let changed = AtomicU64::new(changed(&file)?);
        // SAFETY: The bytes of a mapping may change or vanish when somebody writes to the file or cuts it; no type can
        // forbid that. Every use is safe for any content: bytes are copied out as numbers, never turned into references
        // of a type with invalid values, and no index is taken from the mapping after it was checked at opening. The
        // module's documentation says what is done about a cut.
        let content = unsafe { Mmap::map(&file)? };
        Ok(Self { file, content, changed })
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.content
    }

    /// Whether the file still is what was mapped; `is_right` looks at the whole content and is asked only when the file
    /// was touched.
    pub(crate) fn check(&self, is_right: impl FnOnce(&[u8]) -> bool) -> Result<(), Error> {
        let len = self.file.metadata()?.len();
        if len != self.content.len() as u64 {
            let text = format!("it was {} bytes long when it was opened and has {len} now", self.content.len());
            return Err(Error::new(ErrorKind::UnexpectedEof, text));
        }
        let now = changed(&self.file)?;
        if now != self.changed.load(Ordering::Relaxed) {
            if !is_right(&self.content) {
                return Err(Error::new(ErrorKind::InvalidData, "it holds something else than when it was opened"));
            }
            self.changed.store(now, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Nanoseconds since 1970 of the last write; 0 where the file system does not tell.
fn changed(file: &File) -> Result<u64, Error> {
    let time = file.metadata()?.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(time.map_or(0, |time| time.as_nanos() as u64))
}
