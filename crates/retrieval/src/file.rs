//! The bank's file, `bank.postcard`.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | magic `HSGB` |
//! | 4..6 | format version, u16 little-endian |
//! | 6..8 | 0 |
//! | 8..12 | length of the header in bytes, u32 little-endian |
//! | 12.. | header, postcard: SHA-256 (32 bytes), model hash, label space, dimension, count, storage, number of images, where the labels came from, number of inverted lists (0: no index) |
//! | next multiple of 64 | prototypes in panels of sixteen ([`crate::panels`]); the rest of the last panel, and of the last panel of every list, is 0 |
//! | next multiple of 64 | labels, `[count]` u8, in order of index |
//! | | *with an index* (`crate::inverted`): |
//! | next multiple of 64 | index of the prototype in every slot, u32; 0xffffffff: none |
//! | next multiple of 64 | end of every list, in panels from the first, u32; lists lie one after the other |
//! | next multiple of 64 | centroids of the lists, panels of 32-bit floats |
//!
//! Gaps are filled with 0. The SHA-256 is that of the whole file with its own 32 bytes set to 0, so every byte is
//! covered. Numbers are little-endian. A search streams the panels from where they lie in a memory-mapped file.
//!
//! *Version 1* is still read: instead of panels it has vectors, `[count, dimension]` in the storage's type, then (`Int8`
//! alone) scales, `[count]` f32, value = integer × scale; labels follow, and there is no index. Its vectors are put into
//! panels in memory.

use std::ops::Range;
use std::path::Path;

use half::f16;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::RetrievalError;
use crate::panels::{PANEL, pack, pack_halves, pack_integers, panel_bytes};

/// First bytes of every bank.
pub const MAGIC: [u8; 4] = *b"HSGB";

/// The format version that is written; this one and version 1 are read.
pub const FORMAT_VERSION: u16 = 2;

/// Start of the header, and with it of the hash.
pub(crate) const HEADER_START: usize = 12;
pub(crate) const HASH_RANGE: Range<usize> = HEADER_START..HEADER_START + 32;
pub(crate) const ALIGNMENT: usize = 64;

/// Largest number of prototypes: slots are 32-bit numbers, lists are filled up, and the largest number means none.
pub(crate) const MAX_COUNT: usize = (u32::MAX / 2) as usize;

/// Index of a slot that holds no prototype.
pub(crate) const NONE: u32 = u32::MAX;

/// How vectors are stored. Similarities are computed from the stored values, without further rounding.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Storage {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers, −127 to 127; the largest magnitude of every vector is 127.
    Int8,
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
    /// Since version 2.
    pub(crate) num_lists: u32,
}

/// The header of version 1.
#[derive(Deserialize)]
struct HeaderV1 {
    sha256: [u8; 32],
    model_hash: String,
    label_space: String,
    dimension: u32,
    count: u32,
    storage: Storage,
    num_images: u32,
    labels_from: String,
}

impl From<HeaderV1> for Header {
    fn from(old: HeaderV1) -> Self {
        let HeaderV1 { sha256, model_hash, label_space, dimension, count, storage, num_images, labels_from } = old;
        Self { sha256, model_hash, label_space, dimension, count, storage, num_images, labels_from, num_lists: 0 }
    }
}

/// Where the parts of a file lie.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) panels: Range<usize>,
    pub(crate) labels: Range<usize>,
    pub(crate) indices: Range<usize>,
    pub(crate) list_ends: Range<usize>,
    pub(crate) centroids: Range<usize>,
    /// Length of the file.
    pub(crate) end: usize,
}

/// A part that begins at the next multiple of the alignment; `None` when the sizes do not fit in memory.
fn part(after: usize, bytes: Option<usize>) -> Option<Range<usize>> {
    let start = after.checked_next_multiple_of(ALIGNMENT)?;
    Some(start..start.checked_add(bytes?)?)
}

impl Layout {
    /// `num_panels`: those of the prototypes. `None` when the sizes do not fit in memory.
    fn new(header: &Header, header_bytes: usize, num_panels: usize) -> Option<Self> {
        let (count, dimension) = (usize::try_from(header.count).ok()?, usize::try_from(header.dimension).ok()?);
        let num_lists = usize::try_from(header.num_lists).ok()?;
        let stored = panel_bytes(header.storage, dimension)?.checked_mul(num_panels);
        let panels = part(HEADER_START.checked_add(header_bytes)?, stored)?;
        let labels = part(panels.end, Some(count))?;
        if num_lists == 0 {
            return Some(Self { end: labels.end, panels, labels, ..Self::default() });
        }
        let indices = part(labels.end, num_panels.checked_mul(4 * PANEL))?;
        let list_ends = part(indices.end, num_lists.checked_mul(4))?;
        let centroid_bytes = panel_bytes(Storage::F32, dimension)?.checked_mul(num_lists.div_ceil(PANEL));
        let centroids = part(list_ends.end, centroid_bytes)?;
        Some(Self { end: centroids.end, panels, labels, indices, list_ends, centroids })
    }

    /// The layout of a file of this length. Without an index the number of panels follows from that of prototypes; with one
    /// it depends on how far lists are filled up, and follows from the length.
    fn of_file(header: &Header, header_bytes: usize, len: usize) -> Option<Self> {
        let count = usize::try_from(header.count).ok()?;
        let fewest = count.div_ceil(PANEL);
        if header.num_lists == 0 {
            return Self::new(header, header_bytes, fewest);
        }
        // The length rises with every panel, and each list adds less than one.
        let (mut low, mut high) = (fewest, fewest.checked_add(usize::try_from(header.num_lists).ok()?)?);
        while low < high {
            let middle = low.midpoint(high);
            if Self::new(header, header_bytes, middle)?.end < len {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Self::new(header, header_bytes, low)
    }
}

/// A checked file.
pub(crate) struct Parsed {
    pub(crate) header: Header,
    pub(crate) layout: Layout,
    /// The panels of a file of version 1, which has none.
    pub(crate) panels: Option<Vec<u8>>,
}

/// Whether the content has the hash that its header states.
pub(crate) fn hash_is_right(bytes: &[u8], expected: &[u8; 32]) -> bool {
    bytes.len() >= HASH_RANGE.end && content_hash(bytes) == *expected
}

/// SHA-256 with its own bytes as 0; the content is longer than those.
fn content_hash(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(&bytes[..HASH_RANGE.start]);
    hasher.update([0; 32]);
    hasher.update(&bytes[HASH_RANGE.end..]);
    hasher.finalize().into()
}

/// Checks a file; `path` is for messages.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Parsed, RetrievalError> {
    let damaged = |reason: &str| RetrievalError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let length = |expected: usize| RetrievalError::Length {
        path: path.to_owned(),
        expected: expected as u64,
        got: bytes.len() as u64,
    };
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if magic != MAGIC {
        let got = String::from_utf8_lossy(magic).into_owned();
        return Err(RetrievalError::Magic { path: path.to_owned(), got });
    }
    let Some([v0, v1, zero0, zero1, l0, l1, l2, l3]) = bytes.get(4..HEADER_START) else {
        return Err(length(HEADER_START));
    };
    let version = u16::from_le_bytes([*v0, *v1]);
    if !(1..=FORMAT_VERSION).contains(&version) {
        return Err(RetrievalError::Version { path: path.to_owned(), expected: FORMAT_VERSION, got: version });
    }
    if [*zero0, *zero1] != [0, 0] {
        return Err(damaged("bytes 6 and 7 are not 0"));
    }
    let header_bytes = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
    let header_end = HEADER_START.saturating_add(header_bytes);
    let encoded = bytes.get(HEADER_START..header_end).ok_or_else(|| length(header_end))?;
    let header = if version == 1 {
        postcard::take_from_bytes::<HeaderV1>(encoded).map(|(header, rest)| (Header::from(header), rest))
    } else {
        postcard::take_from_bytes::<Header>(encoded)
    };
    let Ok((header, [])) = header else { return Err(damaged("its header cannot be decoded")) };
    let layout = if version == 1 {
        LayoutV1::new(&header, header_bytes).map(|old| (old.labels.end, Err(old)))
    } else {
        Layout::of_file(&header, header_bytes, bytes.len()).map(|layout| (layout.end, Ok(layout)))
    };
    let (end, layout) = layout.ok_or_else(|| damaged("its header states impossible sizes"))?;
    if bytes.len() != end || end < HASH_RANGE.end {
        return Err(length(end));
    }
    let hash = content_hash(bytes);
    if hash != header.sha256 {
        return Err(RetrievalError::Hash { path: path.to_owned(), expected: hex(&header.sha256), got: hex(&hash) });
    }
    if header.count == 0 || header.dimension == 0 || header.count as usize > MAX_COUNT {
        return Err(damaged("it has no prototypes, or too many"));
    }
    match layout {
        Ok(layout) => Ok(Parsed { header, layout, panels: None }),
        Err(old) => {
            let panels = panels_of_v1(bytes, &header, &old)
                .map_err(|index| damaged(&format!("the scale of prototype {index} is no positive number")))?;
            let layout = Layout { labels: old.labels, end, ..Layout::default() };
            Ok(Parsed { header, layout, panels: Some(panels) })
        }
    }
}

/// Where the parts of a file of version 1 lie.
struct LayoutV1 {
    vectors: Range<usize>,
    scales: Range<usize>,
    labels: Range<usize>,
}

impl LayoutV1 {
    fn new(header: &Header, header_bytes: usize) -> Option<Self> {
        let (count, dimension) = (usize::try_from(header.count).ok()?, usize::try_from(header.dimension).ok()?);
        let (value_bytes, scale_bytes) = match header.storage {
            Storage::F32 => (4, 0),
            Storage::F16 => (2, 0),
            Storage::Int8 => (1, 4),
        };
        let vector_bytes = dimension.checked_mul(value_bytes)?.checked_mul(count);
        let vectors = part(HEADER_START.checked_add(header_bytes)?, vector_bytes)?;
        let scales = part(vectors.end, count.checked_mul(scale_bytes))?;
        let labels = part(scales.end, Some(count))?;
        Some(Self { vectors, scales, labels })
    }
}

/// The same stored values in panels.
///
/// # Errors
/// The index of a prototype whose scale is no positive number.
fn panels_of_v1(bytes: &[u8], header: &Header, old: &LayoutV1) -> Result<Vec<u8>, usize> {
    let (dimension, storage) = (header.dimension as usize, header.storage);
    // The file has as many bytes as its vectors, so its panels fit in memory as well.
    let stride = panel_bytes(storage, dimension).unwrap_or(0);
    let mut panels = vec![0u8; (header.count as usize).div_ceil(PANEL) * stride];
    let scales = bytes[old.scales.clone()].as_chunks::<4>().0;
    if let Some(index) = scales.iter().map(|s| f32::from_le_bytes(*s)).position(|s| !(s.is_finite() && s > 0.0)) {
        return Err(index);
    }
    let rows = bytes[old.vectors.clone()].chunks_exact((old.vectors.len() / header.count as usize).max(1));
    for (index, row) in rows.enumerate() {
        let panel = &mut panels[index / PANEL * stride..][..stride];
        let lane = index % PANEL;
        match storage {
            Storage::F32 => {
                let row: Vec<f32> = row.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
                pack(storage, &row, lane, panel);
            }
            Storage::F16 => pack_halves(row.as_chunks::<2>().0.iter().map(|w| f16::from_le_bytes(*w)), lane, panel),
            Storage::Int8 => pack_integers(row.iter().map(|byte| byte.cast_signed()), lane, panel),
        }
    }
    Ok(panels)
}

/// 32-bit numbers of a part.
pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
