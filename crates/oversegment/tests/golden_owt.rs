//! OWT-UCM against the outputs of the published tools (folder `HSG_GOLDEN`, default `../shared/golden` beside the
//! workspace, else `tests/fixtures/golden`; same layout, `edges/owt/…`). The golden numbers are for research use only,
//! so none are copied into the project.

use oversegment::StrengthMap;
use oversegment::owt_ucm::{LineArc, LineArcs, LineMap, trace, watershed_with_lines};
use std::io::Write;
use std::path::{Path, PathBuf};

const IMAGES: [&str; 5] = ["100007", "141012", "196088", "259060", "388006"];

/// The golden file, or `None` with a printed line.
fn golden_file(name: &str) -> Option<PathBuf> {
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
    let file = folder.join("edges/owt").join(name);
    if file.exists() {
        return Some(file);
    }
    // Not `eprintln!`: the test harness keeps that of passing tests to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {}: not there", file.display());
    None
}

/// A NumPy array: shape and values, row-major whatever the order in the file.
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

fn read_npy(path: &Path) -> Array {
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
        "<i4" => data.chunks_exact(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect(),
        "<u2" => data.chunks_exact(2).map(|b| f64::from(u16::from_le_bytes(b.try_into().unwrap()))).collect(),
        "|u1" => data.iter().map(|&b| f64::from(b)).collect(),
        _ => panic!("{}: type {kind}", path.display()),
    };
    assert_eq!(values.len(), shape.iter().product::<usize>());
    if after("'fortran_order': ").starts_with("True") {
        let [rows, columns] = shape[..] else { panic!("{}: Fortran order of {shape:?}", path.display()) };
        values = (0..rows * columns).map(|i| values[i % columns * rows + i / columns]).collect();
    }
    Array { shape, values }
}

fn golden(image: &str, name: &str) -> Option<Array> {
    golden_file(&format!("{image}/{name}.npy")).map(|path| read_npy(&path))
}

/// The strengths of an image, its largest channel per pixel.
fn strength(image: &str) -> Option<StrengthMap> {
    let e8 = golden(image, "E8")?;
    let values = e8.values.chunks_exact(8).map(|e| e.iter().fold(0.0, |m: f64, &v| m.max(v)) as f32).collect();
    Some(StrengthMap::new(e8.shape[0], e8.shape[1], values).unwrap())
}

#[test]
fn golden_watershed_with_lines() {
    for image in IMAGES {
        let (Some(map), Some(expected)) = (strength(image), golden(image, "ws_line")) else { continue };
        let lines = watershed_with_lines(&map);
        let flips = lines.is_line.iter().zip(&expected.values).filter(|&(&got, &e)| got != (e == 1.0)).count();
        assert_eq!(flips, 0, "{image}");
    }
}

fn arc_rows(arcs: &LineArcs, width: u32) -> Vec<[f64; 6]> {
    let row = |arc: &LineArc| {
        let LineArc { start, end, .. } = *arc;
        let numbers = [start / width, start % width, end / width, end % width];
        let [a, b, c, d] = numbers.map(f64::from);
        [a, b, c, d, arcs.interior(arc).len() as f64, (arcs.channel(arc) + 1) as f64]
    };
    arcs.arcs().iter().map(row).collect()
}

#[test]
fn golden_arcs() {
    for image in IMAGES {
        let (Some(line), Some(expected)) = (golden(image, "ws_line"), golden(image, "arcs")) else { continue };
        let is_line = line.values.iter().map(|&v| v == 1.0).collect();
        let mut arcs = trace(&LineMap { height: line.shape[0], width: line.shape[1], is_line });
        arcs.subdivide();
        let got = arc_rows(&arcs, line.shape[1] as u32);
        assert_eq!(got.len(), expected.shape[0], "{image}: number of arcs");
        for (index, (got, expected)) in got.iter().zip(expected.values.chunks_exact(6)).enumerate() {
            assert_eq!(got, expected, "{image}: arc {index}");
        }
    }
}
