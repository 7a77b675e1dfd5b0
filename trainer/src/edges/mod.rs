//! Edge segments on disk: made once per image, read by the loader. [T2]
//!
//! `<folder>/<sample name>.png`, 16-bit grey, region id from 0, 65535 = none. `edges.toml` beside them says which
//! settings made them, so that a folder is never filled with two kinds. Files are whole or not there: a run that was
//! killed goes on where it stopped.

mod import;
mod make;
mod picture;
mod workers;

use std::path::{Path, PathBuf};

use datasets::{Dataset, SampleEntry};
use models::files::{read_file, sha256_hex, write_atomically};
use oversegment::pmi::{PmiSpec, Solver};
use oversegment::{Detector, GradientRegions};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Result, TrainError};
use crate::settings::{EdgeScale, EdgeSettings};

pub use import::import_edges;
pub use make::{EdgesDone, Extras, make_edges};

/// Name of the file that says how a folder's edge segments were made.
pub const MARKER: &str = "edges.toml";
/// Raised when the same settings give other regions than before.
const RECIPE: u32 = 1;

/// What makes the edge segments of an image.
#[derive(Clone, Debug)]
enum Maker {
    /// Oriented edges and OWT-UCM.
    Oriented(Detector),
    /// Gradient magnitude and region merging.
    Gradient(GradientRegions),
}

impl Maker {
    fn of(settings: &EdgeSettings) -> Result<Self> {
        settings.validate()?;
        let seed = settings.seed;
        Ok(match (settings.detector.as_str(), settings.level.as_str()) {
            ("pmi", "fast") => Self::Oriented(Detector::Pmi(PmiSpec { seed, ..PmiSpec::fast() })),
            ("pmi", _) => Self::Oriented(Detector::Pmi(PmiSpec { seed, ..PmiSpec::accurate() })),
            ("fast", _) => Self::Oriented(Detector::Fast { seed }),
            _ => Self::Gradient(GradientRegions { max_regions: settings.max_regions, ..GradientRegions::default() }),
        })
    }

    /// About how much memory an image takes while it is worked on, in bytes per pixel.
    ///
    /// Peaks of `cargo xtask bench-edges` on a 1024×2048 image divided by its pixels, rounded up.
    fn bytes_per_pixel(&self) -> u64 {
        match self {
            Self::Oriented(Detector::Pmi(spec)) if spec.solver == Solver::Exact => 600,
            Self::Oriented(Detector::Pmi(_)) => 350,
            Self::Oriented(Detector::Fast { .. }) => 150,
            Self::Gradient(_) => 100,
        }
    }
}

/// How edge segments were made; the content of [`MARKER`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    recipe: u32,
    detector: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<String>,
    scale: EdgeScale,
    max_regions: usize,
    /// Everything else that decides the result.
    details: String,
}

impl Marker {
    fn of(settings: &EdgeSettings) -> Result<Self> {
        let details = match Maker::of(settings)? {
            Maker::Oriented(detector) => format!("{detector:?}"),
            Maker::Gradient(spec) => format!("{spec:?}"),
        };
        Ok(Self {
            recipe: RECIPE,
            detector: settings.detector.clone(),
            level: (settings.detector == "pmi").then(|| settings.level.clone()),
            scale: settings.scale,
            max_regions: settings.max_regions,
            details,
        })
    }

    /// The marker of a folder of maps that others made.
    fn imported() -> Self {
        Self {
            recipe: RECIPE,
            detector: "import".to_owned(),
            level: None,
            scale: EdgeScale::Image,
            max_regions: 0,
            details: String::new(),
        }
    }

    /// Writes the marker of a new folder, or compares it with the one that is there.
    fn check(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MARKER);
        if path.is_file() {
            let bytes = read_file(&path)?;
            let found: Marker = toml::from_str(&String::from_utf8_lossy(&bytes))
                .map_err(|e| TrainError::Settings { origin: path.display().to_string(), message: e.to_string() })?;
            if found != *self {
                return Err(TrainError::Invalid {
                    what: path.display().to_string(),
                    expected: format!("edge segments made with {self:?}"),
                    got: format!("some made with {found:?}"),
                    remedy: "choose an empty folder".into(),
                });
            }
            return Ok(());
        }
        let text = toml::to_string(self)
            .map_err(|e| TrainError::Settings { origin: MARKER.into(), message: e.to_string() })?;
        Ok(write_atomically(&path, text.as_bytes())?)
    }
}

/// File of a sample's edge segments.
pub fn edge_file(folder: &Path, sample: &SampleEntry) -> PathBuf {
    folder.join(format!("{}.png", sample.name))
}

/// The path without links, also of what is not there yet: the folders above it tell where it would be.
pub fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let existing = absolute.ancestors().find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    let Some((folder, real)) = existing else { return absolute };
    absolute.strip_prefix(folder).map_or(absolute.clone(), |rest| real.join(rest))
}

/// Removes what writers that were killed have left in `folder`: temporary files of processes that no longer run.
fn remove_leftovers(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|e| TrainError::file("read", folder, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| TrainError::file("read", folder, e))?;
        let path = entry.path();
        // Links are not followed: what they point at is somebody else's, or this very folder.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_leftovers(&path)?;
        } else if path.file_name().and_then(|name| name.to_str()).is_some_and(is_leftover) {
            std::fs::remove_file(&path).map_err(|e| TrainError::file("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Whether a file is `.NAME.PID.NUMBER.tmp` or `.NAME.PID.tmp` of a process that is not there.
fn is_leftover(name: &str) -> bool {
    let Some(middle) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")) else { return false };
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let numbers: Vec<&str> = middle.rsplit('.').take_while(is_number).take(2).collect();
    // The process comes before the counter, where there is one.
    let Some(process) = numbers.last() else { return false };
    // Without /proc nobody can tell whether its process is still writing.
    Path::new("/proc/self").exists() && !Path::new("/proc").join(process).exists()
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
/// An unreadable image; no cache folder; settings out of range.
pub fn cached_edges_folder(dataset: &dyn Dataset, settings: &EdgeSettings) -> Result<PathBuf> {
    let hashes: Vec<String> = (dataset.samples().par_iter())
        .map(|sample| Ok(format!("{} {}\n", sample.name, sha256_hex(&read_file(&sample.image)?))))
        .collect::<Result<_>>()?;
    let mut hasher = Sha256::new();
    hasher.update(format!("{:?}\n", Marker::of(settings)?));
    for line in hashes {
        hasher.update(line);
    }
    let hash: String = hasher.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    Ok(cache_folder()?.join("edges").join(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_told_from_files_of_running_processes() {
        let mine = std::process::id();
        assert!(!is_leftover(&format!(".a.png.{mine}.7.tmp")));
        assert!(!is_leftover(&format!(".edges.toml.{mine}.tmp")));
        // No process has this number: Linux stops at 2^22.
        assert!(is_leftover(".a.png.99999999.7.tmp"));
        assert!(is_leftover(".edges.toml.99999999.tmp"));
        for name in ["a.png", ".a.png", ".tmp", "a.99999999.tmp", ".a.png.x.tmp"] {
            assert!(!is_leftover(name), "{name}");
        }
    }
}
