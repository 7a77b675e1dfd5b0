//! Over-segmenting a data set.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use datasets::{Dataset, SampleEntry};
use models::files::{read_file, sha256_hex, write_atomically};
use oversegment::owt_ucm::{OrientedEdges, owt_ucm};
use oversegment::{Detector, OversegmentError, RegionMap, Segmentation};
use rayon::prelude::*;
use segcore::image::Frame;
use segcore::image_io;
use serde::{Deserialize, Serialize};

use super::picture::draw_borders;
use super::workers::{Memory, for_each};
use super::{Maker, Marker, edge_file, remove_leftovers};
use crate::error::{Result, TrainError};
use crate::progress::{Progress, say};
use crate::settings::{EdgeScale, EdgeSettings};

/// Files beside the region maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// `<name>.preview.png`: the image with region borders in red.
    pub preview: bool,
    /// `<name>.ucm.png`: the contour map, 16-bit grey, image size, value / 65535 = strength after the sigmoid.
    pub ucm: bool,
}

/// What making edge segments came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgesDone {
    /// Images over-segmented now.
    pub made: usize,
    /// Images whose files were there already.
    pub present: usize,
    /// Images that could not be read, and why; their files are missing.
    pub skipped: Vec<String>,
    /// Whether the work was interrupted; what is there is whole, and the same command goes on.
    pub interrupted: bool,
}

/// Over-segments all samples of `dataset` into `folder`, on `num_threads` threads and as many images at once as the
/// memory allows; files that exist are kept. An image that cannot be read is reported and left out.
///
/// # Errors
/// [`TrainError::Invalid`] when settings are out of range, `folder` holds images of the data set, edge segments of other
/// settings or of others' making, or two images would write one file; the first file that cannot be written.
pub fn make_edges(
    dataset: &dyn Dataset,
    settings: &EdgeSettings,
    folder: &Path,
    extras: Extras,
    num_threads: usize,
    quiet: bool,
    interrupt: &AtomicBool,
) -> Result<EdgesDone> {
    let maker = Maker::of(settings)?;
    if extras.ucm && matches!(maker, Maker::Gradient(_)) {
        return Err(TrainError::Invalid {
            what: "--ucm".into(),
            expected: "a detector with a contour map: pmi or fast".into(),
            got: "gradient".into(),
            remedy: "choose another --detector".into(),
        });
    }
    check_apart(folder, dataset.samples())?;
    let work = Work {
        maker,
        max_regions: settings.max_regions,
        folder,
        extras,
        num_threads,
        quiet,
        interrupt,
        memory: Memory::of_this_machine(),
        skipped: Mutex::new(Vec::new()),
    };
    work.check_names(dataset.samples())?;
    std::fs::create_dir_all(folder).map_err(|e| TrainError::file("create", folder, e))?;
    remove_leftovers(folder)?;
    let marker = Marker::of(settings)?;
    let foreign = dataset.samples().iter().map(|sample| edge_file(folder, sample)).find(|file| file.is_file());
    if let Some(file) = foreign.filter(|_| !folder.join(super::MARKER).is_file()) {
        return Err(TrainError::Invalid {
            what: file.display().to_string(),
            expected: "region maps that were made here".into(),
            got: "one from elsewhere".into(),
            remedy: "choose an empty folder for --out".into(),
        });
    }
    marker.check(folder)?;
    match &work.maker {
        Maker::Oriented(detector) if settings.scale == EdgeScale::Dataset && detector.needs_data_set_scale() => {
            let detector = detector.clone();
            work.by_data_set(dataset, &detector)
        }
        _ => work.by_image(dataset, settings.scale),
    }
}

/// Refuses a folder that holds images of the data set: region maps would take their place, or be taken for images.
fn check_apart(folder: &Path, samples: &[SampleEntry]) -> Result<()> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    let is_below = |sample: &&SampleEntry| sample.image.canonicalize().is_ok_and(|image| image.starts_with(&folder));
    match samples.iter().find(is_below) {
        None => Ok(()),
        Some(sample) => Err(TrainError::Invalid {
            what: folder.display().to_string(),
            expected: "a folder apart from the images".into(),
            got: format!("one that holds {}", sample.image.display()),
            remedy: "choose another --out".into(),
        }),
    }
}

/// What all images share.
struct Work<'a> {
    maker: Maker,
    max_regions: usize,
    folder: &'a Path,
    extras: Extras,
    num_threads: usize,
    quiet: bool,
    interrupt: &'a AtomicBool,
    memory: Memory,
    skipped: Mutex<Vec<String>>,
}

/// What an image came to.
struct Made {
    regions: RegionMap,
    /// Strengths of the contours, 0 to 1, image size.
    contours: Option<Vec<f32>>,
}

impl Work<'_> {
    fn files(&self, sample: &SampleEntry) -> Vec<PathBuf> {
        let regions = edge_file(self.folder, sample);
        let beside = |wanted: bool, extension: &str| wanted.then(|| regions.with_extension(extension));
        let extras = [beside(self.extras.preview, "preview.png"), beside(self.extras.ucm, "ucm.png")];
        std::iter::once(regions.clone()).chain(extras.into_iter().flatten()).collect()
    }

    /// Refuses two images of which one's map or extra would take the other's place, such as `a.png` and `a.ucm.png`.
    fn check_names(&self, samples: &[SampleEntry]) -> Result<()> {
        let mut owners: HashMap<PathBuf, &SampleEntry> = HashMap::new();
        for sample in samples {
            for file in self.files(sample) {
                if let Some(other) = owners.insert(file.clone(), sample) {
                    return Err(TrainError::Invalid {
                        what: file.display().to_string(),
                        expected: "a file of one image".into(),
                        got: format!("{} and {}", other.image.display(), sample.image.display()),
                        remedy: "rename one of them, or leave out --ucm and --preview".into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn missing<'s>(&self, samples: &'s [SampleEntry]) -> Vec<&'s SampleEntry> {
        samples.iter().filter(|sample| !self.files(sample).iter().all(|file| file.is_file())).collect()
    }

    /// Calls `make` for every sample of `todo`, out of `total`, that can be read, and shows how it goes; `make` returns what
    /// to say. Returns how many were made.
    fn each(
        &self,
        what: &'static str,
        todo: Vec<&SampleEntry>,
        total: usize,
        make: impl Fn(&SampleEntry, Frame) -> Result<String> + Sync,
    ) -> Result<usize> {
        let before = total - todo.len();
        let (made, done) = (AtomicUsize::new(0), AtomicUsize::new(before));
        let progress = Mutex::new(Progress::new(what, before as u64, total as u64, self.quiet));
        let outcome = for_each(todo, self.num_threads, self.interrupt, |sample| {
            let note = match image_io::read_rgb(&sample.image) {
                Ok(frame) => {
                    let _share = self.memory.take(frame.size.num_pixels() as u64 * self.maker.bytes_per_pixel());
                    // It may have waited long.
                    if self.interrupt.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    let note = make(sample, frame)?;
                    made.fetch_add(1, Ordering::Relaxed);
                    note
                }
                Err(error) => {
                    say(&format!("skipped: {error}"));
                    self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
                    "skipped".to_owned()
                }
            };
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Ok(mut progress) = progress.lock() {
                progress.update(done as u64, || format!("{}: {note}", sample.name));
            }
            Ok(())
        });
        if let Ok(progress) = progress.lock() {
            progress.finish();
        }
        outcome.map(|()| made.into_inner())
    }

    fn done(self, made: usize, present: usize, wanted: usize) -> EdgesDone {
        let mut skipped = self.skipped.into_inner().unwrap_or_else(PoisonError::into_inner);
        skipped.sort();
        skipped.dedup();
        EdgesDone { made, present, interrupted: made + skipped.len() < wanted, skipped }
    }

    /// Every image by itself.
    fn by_image(self, dataset: &dyn Dataset, scale: EdgeScale) -> Result<EdgesDone> {
        let samples = dataset.samples();
        let missing = self.missing(samples);
        let (wanted, present) = (missing.len(), samples.len() - missing.len());
        let made = self.each("edges", missing, samples.len(), |sample, frame| {
            let failed = |source| TrainError::Oversegment { path: sample.image.clone(), source };
            let made = match &self.maker {
                Maker::Oriented(detector) if scale == EdgeScale::Dataset => {
                    let edges = detector.edges(&frame.view()).map_err(failed)?;
                    self.full_size_regions(edges).map_err(failed)?
                }
                Maker::Oriented(detector) => {
                    let Segmentation { regions, contours } =
                        detector.segment(&frame.view(), self.max_regions).map_err(failed)?;
                    Made { regions, contours: Some(contours) }
                }
                Maker::Gradient(spec) => {
                    let regions = oversegment::gradient_regions(&frame.view(), spec).map_err(failed)?;
                    Made { regions, contours: None }
                }
            };
            self.write(sample, frame, &made)
        })?;
        Ok(self.done(made, present, wanted))
    }

    /// Regions and contours of comparable edges at full size.
    fn full_size_regions(&self, edges: OrientedEdges) -> std::result::Result<Made, OversegmentError> {
        let ucm = owt_ucm(&edges).sigmoid();
        Ok(Made { regions: ucm.paper_regions(self.max_regions)?, contours: Some(ucm.image_size_map()) })
    }

    /// Edges of all images first, then regions of strengths divided by the largest of them all.
    fn by_data_set(self, dataset: &dyn Dataset, detector: &Detector) -> Result<EdgesDone> {
        let samples = dataset.samples();
        let missing = self.missing(samples);
        let (wanted, present) = (missing.len(), samples.len() - missing.len());
        let interrupted = |skipped: Vec<String>| EdgesDone { made: 0, present, skipped, interrupted: true };
        let work_folder = self.folder.join(".work");
        let hashes = content_hashes(samples);
        // Named by the image's content: edges of another image of this name are nobody's.
        let work_file = |sample: &SampleEntry| work_folder.join(format!("{}.e8", hashes[&sample.name]));
        let largest = match DataSetScale::read(self.folder, &hashes)? {
            Some(scale) => scale.largest,
            None => {
                // The largest strength of images that are done already counts as well, so their edges are found again.
                let unknown: Vec<&SampleEntry> = samples.iter().filter(|sample| !work_file(sample).is_file()).collect();
                let num_unknown = unknown.len();
                let found = self.each("edges", unknown, samples.len(), |sample, frame| {
                    let failed = |source| TrainError::Oversegment { path: sample.image.clone(), source };
                    let edges = detector.edges(&frame.view()).map_err(failed)?;
                    let largest = detector.full_size(edges.clone(), frame.size).map_err(failed)?.largest();
                    write_edges(&work_file(sample), &edges, largest)?;
                    Ok(format!("strongest edge {largest:.2}"))
                })?;
                let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if found + skipped.len() < num_unknown {
                    return Ok(interrupted(skipped));
                }
                let mut largest = 0.0f32;
                for path in samples.iter().map(work_file).filter(|path| path.is_file()) {
                    largest = largest.max(read_edges(&path)?.1);
                }
                DataSetScale::new(largest, &hashes).write(self.folder)?;
                largest
            }
        };
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let made = self.each("regions", missing, samples.len(), |sample, frame| {
            let path = work_file(sample);
            let failed = |source| TrainError::Oversegment { path: sample.image.clone(), source };
            // Without the file, its regions were deleted after a whole run: the scale stays what it was.
            let edges =
                if path.is_file() { read_edges(&path)?.0 } else { detector.edges(&frame.view()).map_err(failed)? };
            let edges = detector.full_size(edges, frame.size).map_err(failed)?;
            let made = self.full_size_regions(edges.divided_by(largest)).map_err(failed)?;
            self.write(sample, frame, &made)
        })?;
        let folder = self.folder;
        let done = self.done(made, present, wanted);
        if !done.interrupted {
            // All regions are there: the edges have done their work.
            let removed = std::fs::remove_dir_all(&work_folder);
            if let Err(error) = removed
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(TrainError::file("remove", &folder.join(".work"), error));
            }
        }
        Ok(done)
    }

    /// Writes all files of a sample, the region map last.
    fn write(&self, sample: &SampleEntry, mut frame: Frame, made: &Made) -> Result<String> {
        let path = edge_file(self.folder, sample);
        make_parent(&path)?;
        let (size, labels) = (made.regions.size, &made.regions.labels);
        if let Some(contours) = made.contours.as_ref().filter(|_| self.extras.ucm) {
            let values: Vec<u16> =
                contours.iter().map(|&v| (f64::from(v.clamp(0.0, 1.0)) * 65535.0).round() as u16).collect();
            image_io::write_gray16(path.with_extension("ucm.png"), size, &values)?;
        }
        if self.extras.preview {
            draw_borders(&mut frame.pixels, size, labels);
            image_io::write_rgb8(path.with_extension("preview.png"), size, &frame.pixels)?;
        }
        image_io::write_gray16(&path, size, labels)?;
        Ok(format!("{} regions", made.regions.num_regions))
    }
}

pub(super) fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(|e| TrainError::file("create", parent, e)),
        None => Ok(()),
    }
}

/// The largest strength of a data set and which images it is of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DataSetScale {
    largest: f32,
    images: usize,
    /// Of the names and contents of all images.
    sha256: String,
}

impl DataSetScale {
    const FILE: &'static str = "scale.toml";

    fn new(largest: f32, hashes: &BTreeMap<String, String>) -> Self {
        let lines: String = hashes.iter().map(|(name, hash)| format!("{hash} {name}\n")).collect();
        Self { largest, images: hashes.len(), sha256: sha256_hex(lines.as_bytes()) }
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let text = toml::to_string(self)
            .map_err(|e| TrainError::Settings { origin: Self::FILE.into(), message: e.to_string() })?;
        Ok(write_atomically(&folder.join(Self::FILE), text.as_bytes())?)
    }

    /// The scale that was written for these images; `None` without one.
    fn read(folder: &Path, hashes: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = read_file(&path)?;
        let found: Self = toml::from_str(&String::from_utf8_lossy(&bytes))
            .map_err(|e| TrainError::Settings { origin: path.display().to_string(), message: e.to_string() })?;
        if found.sha256 != Self::new(0.0, hashes).sha256 {
            return Err(TrainError::Invalid {
                what: path.display().to_string(),
                expected: format!("the scale of these {} images as they are now", hashes.len()),
                got: format!("that of {} other or changed ones", found.images),
                remedy: "choose an empty folder: with --scale dataset, every image depends on all of them".into(),
            });
        }
        Ok(Some(found))
    }
}

/// SHA-256 of every image file by the sample's name; of a file that cannot be read, that of its name.
fn content_hashes(samples: &[SampleEntry]) -> BTreeMap<String, String> {
    let unreadable = |sample: &SampleEntry| sha256_hex(format!("unreadable {}", sample.name).as_bytes());
    let hash = |sample: &SampleEntry| match read_file(&sample.image) {
        Ok(bytes) => sha256_hex(&bytes),
        Err(_) => unreadable(sample),
    };
    samples.par_iter().map(|sample| (sample.name.clone(), hash(sample))).collect()
}

/// Height, width, the largest strength at full size, then the strengths, `[height, width, 8]` row-major: all
/// little-endian, 8, 8, 4 and 4 bytes.
fn write_edges(path: &Path, edges: &OrientedEdges, largest: f32) -> Result<()> {
    make_parent(path)?;
    let mut bytes = Vec::with_capacity(EDGES_HEADER + 4 * edges.values().len());
    bytes.extend((edges.height() as u64).to_le_bytes());
    bytes.extend((edges.width() as u64).to_le_bytes());
    bytes.extend(largest.to_le_bytes());
    bytes.extend(edges.values().iter().flat_map(|value| value.to_le_bytes()));
    Ok(image_io::write_file_atomically(path, &bytes)?)
}

const EDGES_HEADER: usize = 20;

/// What [`write_edges`] wrote: the edges and the largest strength at full size.
fn read_edges(path: &Path) -> Result<(OrientedEdges, f32)> {
    let bytes = read_file(path)?;
    let damaged = |got: String| TrainError::Invalid {
        what: path.display().to_string(),
        expected: "edges that an earlier run left here".into(),
        got,
        remedy: "delete the file; it is made again".into(),
    };
    let Some((header, values)) = bytes.split_first_chunk::<EDGES_HEADER>() else {
        return Err(damaged(format!("{} bytes", bytes.len())));
    };
    let side = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i])) as usize;
    let largest = f32::from_le_bytes(std::array::from_fn(|i| header[16 + i]));
    let values = values.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
    let edges = OrientedEdges::new(side(0), side(8), values).map_err(|source| damaged(source.to_string()))?;
    Ok((edges, largest))
}
