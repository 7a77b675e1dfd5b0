//! Files of golden numbers (folder `HSG_GOLDEN`, default `../shared/golden` beside the workspace, else
//! `tests/fixtures/golden`; same layout, `edges/…`), and NumPy arrays.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The golden file, or `None` with a printed line.
pub fn golden_file(name: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = match std::env::var_os("HSG_GOLDEN") {
        Some(folder) => {
            let folder = workspace.join(folder);
            assert!(folder.is_dir(), "HSG_GOLDEN is {}, which is no folder", folder.display());
            folder
        }
        None => Some(workspace.join("../shared/golden"))
            .filter(|folder| folder.is_dir())
            .unwrap_or_else(|| workspace.join("tests/fixtures/golden")),
    };
    let file = folder.join("edges").join(name);
    if file.exists() {
        return Some(file);
    }
    // Not `eprintln!`: the test harness keeps that of passing tests to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {}: not there", file.display());
    None
}

/// A NumPy array: shape and values, row-major whatever the order in the file.
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

pub fn read_npy(path: &Path) -> Array {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}", path.display());
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end]).unwrap();
    let after = |key: &str| header.split_once(key).unwrap().1;
    let kind = after("'descr': '").split('\'').next().unwrap();
    let list = after("'shape': (").split(')').next().unwrap();
    let shape: Vec<usize> = list.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let data = &bytes[end..];
    let mut values: Vec<f64> = match kind {
        "<f4" => data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        "<f8" => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        "<i4" => data.chunks_exact(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect(),
        "<u2" => data.chunks_exact(2).map(|b| f64::from(u16::from_le_bytes(b.try_into().unwrap()))).collect(),
        "|u1" => data.iter().map(|&b| f64::from(b)).collect(),
        _ => panic!("{}: type {kind}", path.display()),
    };
    assert_eq!(values.len(), shape.iter().product::<usize>());
    if after("'fortran_order': ").starts_with("True") {
        let row_major = |mut index: usize| {
            let (mut offset, mut stride) = (0, values.len());
            for &side in shape.iter().rev() {
                stride /= side;
                offset += index % side * stride;
                index /= side;
            }
            values[offset]
        };
        values = (0..values.len()).map(row_major).collect();
    }
    Array { shape, values }
}
