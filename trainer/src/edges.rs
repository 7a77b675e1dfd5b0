//! Edge segments on disk: made once per image, read by the loader. [T2]
//!
//! `<folder>/<sample name>.png`, 16-bit grey, region id from 0, 65535 = none. `edges.toml` beside them says which
//! settings made them, so that a folder is never filled with two kinds.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use datasets::{Dataset, SampleEntry};
use models::files::{read_file, sha256_hex, write_atomically};
use oversegment::FastSpec;
use rayon::prelude::*;
use segcore::image::ImageSize;
use segcore::image_io;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Result, TrainError};
use crate::progress::Progress;
use crate::settings::{EdgeSettings, check_detector};

/// Name of the file that says how a folder's edge segments were made.
pub const MARKER: &str = "edges.toml";

/// How edge segments were made; the content of [`MARKER`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    detector: String,
    start: f64,
    step: f64,
    max_regions: usize,
    min_area_share: f64,
    sigmas: Vec<f32>,
    weights: Vec<f32>,
}

fn fast_spec(settings: &EdgeSettings) -> FastSpec {
    FastSpec { max_regions: settings.max_regions, ..FastSpec::default() }
}

fn marker(settings: &EdgeSettings) -> Marker {
    let spec = fast_spec(settings);
    Marker {
        detector: settings.detector.clone(),
        start: spec.start,
        step: spec.step,
        max_regions: spec.max_regions,
        min_area_share: spec.min_area_share,
        sigmas: spec.gradient.sigmas,
        weights: spec.gradient.weights,
    }
}

/// What making edge segments came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgesDone {
    /// Images over-segmented now.
    pub made: usize,
    /// Images whose file was there already.
    pub present: usize,
    /// Whether the work was interrupted; what is there is whole, and the same command goes on.
    pub interrupted: bool,
}

/// File of a sample's edge segments.
pub fn edge_file(folder: &Path, sample: &SampleEntry) -> PathBuf {
    folder.join(format!("{}.png", sample.name))
}

/// Over-segments all samples of `dataset` into `folder`, on all cores; files that exist are kept.
///
/// `preview` adds `<name>.preview.png`: the image with region borders in red.
///
/// # Errors
/// [`TrainError::Missing`] for a detector that this version lacks; [`TrainError::Invalid`] when `folder` holds
/// edge segments made with other settings; the first unreadable image or unwritable file.
pub fn make_edges(
    dataset: &dyn Dataset,
    settings: &EdgeSettings,
    folder: &Path,
    preview: bool,
    quiet: bool,
    interrupt: &AtomicBool,
) -> Result<EdgesDone> {
    check_detector(&settings.detector)?;
    std::fs::create_dir_all(folder).map_err(|e| TrainError::file("create", folder, e))?;
    check_marker(folder, &marker(settings))?;
    let samples = dataset.samples();
    let spec = fast_spec(settings);
    let is_missing = |s: &&SampleEntry| {
        !edge_file(folder, s).is_file() || (preview && !edge_file(folder, s).with_extension("preview.png").is_file())
    };
    let missing: Vec<&SampleEntry> = samples.iter().filter(is_missing).collect();
    let present = samples.len() - missing.len();
    let done = AtomicU64::new(present as u64);
    let progress = Mutex::new(Progress::new("edges", present as u64, samples.len() as u64, quiet));
    let made: Vec<bool> = missing
        .par_iter()
        .map(|sample| {
            if interrupt.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let num_regions = make_one(sample, &spec, folder, preview)?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Ok(mut progress) = progress.lock() {
                progress.update(done, || format!("{}: {num_regions} regions", sample.name));
            }
            Ok(true)
        })
        .collect::<Result<_>>()?;
    if let Ok(progress) = progress.lock() {
        progress.finish();
    }
    let made = made.iter().filter(|m| **m).count();
    Ok(EdgesDone { made, present, interrupted: made < missing.len() })
}

fn check_marker(folder: &Path, expected: &Marker) -> Result<()> {
    let path = folder.join(MARKER);
    if path.is_file() {
        let bytes = read_file(&path)?;
        let found: Marker = toml::from_str(&String::from_utf8_lossy(&bytes))
            .map_err(|e| TrainError::Settings { origin: path.display().to_string(), message: e.to_string() })?;
        if found != *expected {
            return Err(TrainError::Invalid {
                what: path.display().to_string(),
                expected: format!("edge segments made with {expected:?}"),
                got: format!("some made with {found:?}"),
                remedy: "choose an empty folder".into(),
            });
        }
        return Ok(());
    }
    let text = toml::to_string(expected)
        .map_err(|e| TrainError::Settings { origin: MARKER.into(), message: e.to_string() })?;
    Ok(write_atomically(&path, text.as_bytes())?)
}

fn make_one(sample: &SampleEntry, spec: &FastSpec, folder: &Path, preview: bool) -> Result<usize> {
    let frame = image_io::read_rgb(&sample.image)?;
    let map = oversegment::regions(&frame.view(), spec)
        .map_err(|source| TrainError::Oversegment { path: sample.image.clone(), source })?;
    let path = edge_file(folder, sample);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| TrainError::file("create", parent, e))?;
    }
    if preview {
        let mut rgb = frame.pixels.clone();
        draw_borders(&mut rgb, map.size, &map.labels);
        image_io::write_rgb8(path.with_extension("preview.png"), map.size, &rgb)?;
    }
    image_io::write_gray16(&path, map.size, &map.labels)?;
    Ok(map.num_regions)
}

/// Paints pixels red whose right or lower neighbour is in another region.
fn draw_borders(rgb: &mut [u8], size: ImageSize, labels: &[u16]) {
    for y in 0..size.height {
        for x in 0..size.width {
            let i = y * size.width + x;
            let right = x + 1 < size.width && labels[i + 1] != labels[i];
            let below = y + 1 < size.height && labels[i + size.width] != labels[i];
            if right || below {
                rgb[3 * i..3 * i + 3].copy_from_slice(&[255, 0, 0]);
            }
        }
    }
}

/// `$HSG_CACHE`, else `hsg` in the XDG cache folder.
///
/// # Errors
/// [`TrainError::Invalid`] when none of HSG_CACHE, XDG_CACHE_HOME and HOME is set.
pub fn cache_folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("HSG_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|p| p.join("hsg")))
        .or_else(|| variable("HOME").map(|p| p.join(".cache/hsg")))
        .ok_or_else(|| TrainError::Invalid {
            what: "cache folder".into(),
            expected: "HSG_CACHE, XDG_CACHE_HOME or HOME to be set".into(),
            got: "none of them".into(),
            remedy: "set HSG_CACHE, or give --edges a folder made by `hsg-train edges`".into(),
        })
}

/// Folder in the cache for the edge segments of these images with these settings.
///
/// # Errors
/// An unreadable image; no cache folder.
pub fn cached_edges_folder(dataset: &dyn Dataset, settings: &EdgeSettings) -> Result<PathBuf> {
    let hashes: Vec<String> = (dataset.samples().par_iter())
        .map(|sample| Ok(format!("{} {}\n", sample.name, sha256_hex(&read_file(&sample.image)?))))
        .collect::<Result<_>>()?;
    let mut hasher = Sha256::new();
    hasher.update(format!("{:?}\n", marker(settings)));
    for line in hashes {
        hasher.update(line);
    }
    let hash: String = hasher.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    Ok(cache_folder()?.join("edges").join(hash))
}
