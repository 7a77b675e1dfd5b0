//! Whether a shared library is whole and of this machine, by its headers.
//!
//! The system's loader maps a file as its headers say. Where the file is shorter, because a download or a copy was cut, the
//! process ends by a bus error at the first page that is not there; so what is opened at run time is looked at before.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Length of the header of a 64-bit file.
const HEADER_BYTES: usize = 64;
/// Length of an entry of the table of segments.
const SEGMENT_BYTES: u16 = 56;
const LOADED: u32 = 1;
const SHARED: u16 = 3;

/// The number of this machine's processors; none where it is not known here.
fn machine() -> Option<u16> {
    match std::env::consts::ARCH {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        _ => None,
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut number = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        number.copy_from_slice(found);
    }
    number
}

/// Refuses what is no shared library of this machine, or one that is shorter than its headers say.
///
/// # Errors
/// What the file is instead, in words that go on after its name: "is cut: …".
pub fn check(path: &Path) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut file = File::open(path).map_err(cannot)?;
    let total = file.metadata().map_err(cannot)?.len();
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|_| format!("is no library, it has only {total} bytes"))?;
    // 64 bits, little-endian.
    if header[..6] != [0x7f, b'E', b'L', b'F', 2, 1] || u16::from_le_bytes(number(&header, 16)) != SHARED {
        return Err("is no library of this kind of machine".to_owned());
    }
    let found = u16::from_le_bytes(number(&header, 18));
    if machine().is_some_and(|wanted| wanted != found) {
        return Err(format!("is a library for other processors (ELF machine {found})"));
    }
    let (segments, sections) = (u64::from_le_bytes(number(&header, 32)), u64::from_le_bytes(number(&header, 40)));
    let [segment_bytes, num_segments, section_bytes, num_sections] =
        [54, 56, 58, 60].map(|at| u16::from_le_bytes(number(&header, at)));
    // The table of sections is what linkers write last.
    let mut end = sections.saturating_add(u64::from(section_bytes) * u64::from(num_sections));
    if segment_bytes != SEGMENT_BYTES {
        return Err("is no library: its table of segments is odd".to_owned());
    }
    let mut table = vec![0; usize::from(segment_bytes) * usize::from(num_segments)];
    file.seek(SeekFrom::Start(segments)).map_err(cannot)?;
    file.read_exact(&mut table).map_err(|_| format!("is cut: it has {total} bytes, fewer than its own tables"))?;
    for entry in table.chunks_exact(usize::from(SEGMENT_BYTES)) {
        if u32::from_le_bytes(number(entry, 0)) == LOADED {
            let (offset, length) = (u64::from_le_bytes(number(entry, 8)), u64::from_le_bytes(number(entry, 32)));
            end = end.max(offset.saturating_add(length));
        }
    }
    if end > total {
        return Err(format!("is cut: it should have {end} bytes, but has {total}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_whole_or_named_as_cut() {
        // This test program is of the same form, and there on every machine.
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libx.so");
        let check_bytes = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            check(&path)
        };
        assert_eq!(check_bytes(&whole), Ok(()));
        for length in [100, 4096, whole.len() / 2, whole.len() - 1] {
            let words = check_bytes(&whole[..length]).unwrap_err();
            assert!(words.contains("cut"), "{length}: {words}");
        }
        assert!(check_bytes(&whole[..10]).unwrap_err().contains("only 10 bytes"));
        let mut other = whole.clone();
        other[18] = 0xf3;
        assert!(check_bytes(&other).unwrap_err().contains("other processors"));
        other[0] = 0;
        assert!(check_bytes(&other).unwrap_err().contains("no library"));
    }
}
