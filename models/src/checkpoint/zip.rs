//! The zip container of `torch.save`: stored entries found through the central directory.
//!
//! Read here and not with a crate: PyTorch only ever stores (method 0, its storages are mapped into memory from the
//! file), so nothing has to be decompressed and no entry can grow. What is left is three fixed headers, and every
//! entry is a slice of bytes that are in memory already.

use std::collections::HashMap;

const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
const CENTRAL_HEADER: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const END_LENGTH: usize = 22;
/// The longest comment that can follow the end record.
const MAX_COMMENT: usize = 65_535;
/// Extra field with the 64-bit sizes.
const ZIP64_EXTRA: u16 = 1;

/// The entries of an archive: name → content, inside the archive's bytes.
pub struct Archive<'a> {
    entries: HashMap<&'a str, &'a [u8]>,
    /// An entry that is compressed or encrypted and so not among them: program text of TorchScript, or everything
    /// where another tool packed the file again.
    packed: Option<&'a str>,
}

impl<'a> Archive<'a> {
    /// Whether bytes begin as a zip archive does.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(LOCAL_HEADER)
    }

    /// Finds all entries.
    ///
    /// # Errors
    /// In words: cut and damaged archives.
    pub fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let (mut at, count) = central_directory(bytes)?;
        let (mut entries, mut packed) = (HashMap::new(), None);
        for _ in 0..count {
            let header = Fields::at(bytes, at, 46, CENTRAL_HEADER, "an entry of the central directory")?;
            let name_length = header.u16(28) as usize;
            let (extra_length, comment_length) = (header.u16(30) as usize, header.u16(32) as usize);
            let name = slice(bytes, at.saturating_add(46), name_length, "an entry's name")?;
            let name = std::str::from_utf8(name).map_err(|_| "an entry's name is not text".to_owned())?;
            let extra = slice(bytes, at.saturating_add(46 + name_length), extra_length, "an entry's extra field")?;
            let [size, stored, offset] = sizes(&header, extra)?;
            if header.u16(10) != 0 || header.u16(8) & 1 != 0 || size != stored {
                packed = packed.or(Some(name));
                at = at.saturating_add(46 + name_length + extra_length + comment_length);
                continue;
            }
            let local = Fields::at(bytes, offset, 30, LOCAL_HEADER, "the header of an entry")?;
            let skip = 30 + local.u16(26) as usize + local.u16(28) as usize;
            let content = slice(bytes, offset.saturating_add(skip), size, name)?;
            // Writers that were told not to compute it leave 0.
            let expected = header.u32(16);
            if expected != 0 && crc32fast::hash(content) != expected {
                return Err(format!("the entry `{name}` is damaged: its checksum is another one"));
            }
            if entries.insert(name, content).is_some() {
                return Err(format!("two entries are named `{name}`"));
            }
            at = at.saturating_add(46 + name_length + extra_length + comment_length);
        }
        Ok(Archive { entries, packed })
    }

    /// The content of an entry.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.entries.get(name).copied()
    }

    /// Why an entry may be missing.
    pub fn hint(&self) -> String {
        self.packed.map_or_else(String::new, |name| {
            format!("; its entry `{name}` is compressed or encrypted, and PyTorch stores what is read here plainly")
        })
    }

    /// Names of all entries that can be read, in no order.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.entries.keys().copied()
    }
}

/// Offset of the central directory and number of its entries.
fn central_directory(bytes: &[u8]) -> Result<(usize, usize), String> {
    let cut = || "the archive has no end record, so the file is cut".to_owned();
    let last = bytes.len().checked_sub(END_LENGTH).ok_or_else(cut)?;
    let first = last.saturating_sub(MAX_COMMENT);
    let at = (first..=last).rev().find(|&at| bytes[at..].starts_with(END)).ok_or_else(cut)?;
    let end = Fields::at(bytes, at, END_LENGTH, END, "the end record")?;
    if let Some(locator) = at.checked_sub(20).filter(|&at| bytes[at..].starts_with(END64_LOCATOR)) {
        let locator = Fields::at(bytes, locator, 20, END64_LOCATOR, "the end locator")?;
        let end64 = Fields::at(bytes, locator.usize(8)?, 56, END64, "the 64-bit end record")?;
        return Ok((end64.usize(48)?, end64.usize(32)?));
    }
    Ok((end.u32(16) as usize, end.u16(10) as usize))
}

/// Size, stored size and offset of the local header; from the zip64 field where the plain one is full.
fn sizes(header: &Fields<'_>, mut extra: &[u8]) -> Result<[usize; 3], String> {
    let mut values = [u64::from(header.u32(24)), u64::from(header.u32(20)), u64::from(header.u32(42))];
    while let [a, b, c, d, rest @ ..] = extra {
        let (id, length) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]) as usize);
        let field = rest.get(..length).ok_or("an entry's extra field is cut")?;
        if id == ZIP64_EXTRA {
            let mut numbers = field.as_chunks::<8>().0.iter().map(|n| u64::from_le_bytes(*n));
            for value in values.iter_mut().filter(|v| **v == u64::from(u32::MAX)) {
                *value = numbers.next().ok_or("an entry's 64-bit sizes are cut")?;
            }
        }
        extra = &rest[length..];
    }
    let [size, stored, offset] = values.map(usize::try_from);
    match (size, stored, offset) {
        (Ok(size), Ok(stored), Ok(offset)) => Ok([size, stored, offset]),
        _ => Err("an entry is larger than this machine's memory".to_owned()),
    }
}

fn slice<'a>(bytes: &'a [u8], at: usize, length: usize, what: &str) -> Result<&'a [u8], String> {
    let end = at.checked_add(length);
    let found = end.and_then(|end| bytes.get(at..end));
    found.ok_or_else(|| format!("{what} lies beyond the end of the file, which is cut or damaged"))
}

/// A header whose length was checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn at(bytes: &'a [u8], at: usize, length: usize, signature: &[u8], what: &str) -> Result<Self, String> {
        let header = slice(bytes, at, length, what)?;
        match header.starts_with(signature) {
            true => Ok(Fields(header)),
            false => Err(format!("{what} is damaged")),
        }
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn usize(&self, at: usize) -> Result<usize, String> {
        let value = u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32;
        usize::try_from(value).map_err(|_| "the archive is larger than this machine's memory".to_owned())
    }
}
