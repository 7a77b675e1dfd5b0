//! Batches for training: images and edge segments from disk or memory, augmented on a thread of their own. [T1–T3]
//!
//! What a batch holds depends only on the seed and the step, so a resumed run sees what an uninterrupted one would.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use datasets::{Dataset, SampleEntry};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use segcore::image::ImageSize;
use segcore::image_io;
use tch::Tensor;

use crate::augment::{AugmentSpec, Source, ViewSize, random_view};
use crate::base_segments::{KeptCells, NO_REGION};
use crate::device::Compute;
use crate::edges::edge_file;
use crate::error::{Result, TrainError};

/// Decoded images and edge segments stay in memory up to this many bytes; beyond, every use decodes again.
const MEMORY_BUDGET_BYTES: usize = 2 << 30;
/// Batches made ahead of the one that trains.
const PREFETCH: usize = 2;

struct Decoded {
    size: ImageSize,
    rgb: Vec<u8>,
    regions: Vec<u16>,
}

/// A sample, kept in memory or decoded for this use.
enum Held<'a> {
    InMemory(&'a Decoded),
    Decoded(Decoded),
}

impl std::ops::Deref for Held<'_> {
    type Target = Decoded;

    fn deref(&self) -> &Decoded {
        match self {
            Held::InMemory(sample) => sample,
            Held::Decoded(sample) => sample,
        }
    }
}

/// An image that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedImage {
    /// The image file.
    pub image: PathBuf,
    /// The reason, with the file's name.
    pub reason: String,
}

/// The images of a training run with their edge segments.
pub struct Samples {
    entries: Vec<SampleEntry>,
    edges: PathBuf,
    /// Decoded images in the order of `entries`, if they fit.
    in_memory: Option<Vec<Decoded>>,
    /// Images that were left out, by their position in `entries` where they were found out only while training.
    skipped: Mutex<BTreeMap<usize, SkippedImage>>,
    left_out: Vec<SkippedImage>,
}

/// More unreadable images than one in so many are no accident.
const MOST_SKIPPED: usize = 10;

impl Samples {
    /// Opens all samples: sizes of images and edge maps are compared now, from their headers; if everything fits the
    /// memory budget it is decoded now, on all cores.
    ///
    /// `unusable` are images that are known to be unreadable; they and those found here are left out.
    ///
    /// # Errors
    /// An edge file that is missing or of another size than its image; more than a tenth of the images unreadable; no
    /// image at all.
    pub fn open(dataset: &dyn Dataset, edges: &Path, unusable: &[SkippedImage]) -> Result<Self> {
        let total = dataset.samples().len();
        let is_known = |entry: &SampleEntry| unusable.iter().any(|skipped| skipped.image == entry.image);
        let checked: Vec<(SampleEntry, Result<ImageSize>)> = (dataset.samples().par_iter())
            .filter(|entry| !is_known(entry))
            .map(|entry| (entry.clone(), image_io::read_size(&entry.image).map_err(TrainError::from)))
            .collect();
        let mut samples = Samples {
            entries: Vec::new(),
            edges: edges.to_owned(),
            in_memory: None,
            skipped: Mutex::default(),
            left_out: unusable.to_vec(),
        };
        let mut bytes = 0usize;
        for (entry, size) in checked {
            match size {
                Ok(size) => {
                    bytes = bytes.saturating_add(size.num_pixels().saturating_mul(5));
                    samples.entries.push(entry);
                }
                Err(error) => {
                    samples.left_out.push(SkippedImage { image: entry.image, reason: error.to_string() });
                }
            }
        }
        samples.entries.par_iter().try_for_each(|entry| samples.check_edges(entry))?;
        if bytes <= MEMORY_BUDGET_BYTES {
            samples.decode_all()?;
        }
        samples.refuse_if_too_few(total, dataset)?;
        Ok(samples)
    }

    /// Decodes everything into memory; unreadable images are left out.
    fn decode_all(&mut self) -> Result<()> {
        let decoded: Vec<Result<Decoded>> = self.entries.par_iter().map(|entry| self.decode(entry)).collect();
        let mut in_memory = Vec::with_capacity(decoded.len());
        let mut kept = Vec::with_capacity(decoded.len());
        for (entry, decoded) in std::mem::take(&mut self.entries).into_iter().zip(decoded) {
            match decoded {
                Ok(decoded) => {
                    in_memory.push(decoded);
                    kept.push(entry);
                }
                Err(error @ (TrainError::Image(_) | TrainError::Dataset(_))) => {
                    self.left_out.push(SkippedImage { image: entry.image, reason: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        self.entries = kept;
        self.in_memory = Some(in_memory);
        Ok(())
    }

    fn refuse_if_too_few(&self, total: usize, dataset: &dyn Dataset) -> Result<()> {
        let skipped = self.left_out.len();
        if !self.entries.is_empty() && skipped.saturating_mul(MOST_SKIPPED) <= total {
            return Ok(());
        }
        let first = self.left_out.first().map_or_else(String::new, |skipped| format!("; first: {}", skipped.reason));
        Err(TrainError::Invalid {
            what: format!("data set `{}`, split `{}`", dataset.name(), dataset.split()),
            expected: "images, at most a tenth of them unreadable".into(),
            got: format!("{total}, {skipped} of them unreadable{first}"),
            remedy: "mend these files, choose another split or other sequences".into(),
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; [`Samples::open`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All images that were left out, so far.
    pub fn skipped(&self) -> Vec<SkippedImage> {
        let found = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        self.left_out.iter().chain(found.values()).cloned().collect()
    }

    /// The image file of a sample.
    pub fn image(&self, index: usize) -> &Path {
        &self.entries[index].image
    }

    /// Compares the edge map of a sample with its image, by their headers.
    fn check_edges(&self, entry: &SampleEntry) -> Result<()> {
        let path = edge_file(&self.edges, entry);
        if !path.is_file() {
            return Err(TrainError::Invalid {
                what: path.display().to_string(),
                expected: format!("the edge segments of {}", entry.image.display()),
                got: "no such file".into(),
                remedy: "make the edge segments of these images with `hsg-train edges`, or leave --edges out".into(),
            });
        }
        let (size, expected) = (image_io::read_size(&path)?, image_io::read_size(&entry.image)?);
        if size == expected { Ok(()) } else { Err(other_size(&path, entry, size, expected)) }
    }

    fn decode(&self, entry: &SampleEntry) -> Result<Decoded> {
        let frame = image_io::read_rgb(&entry.image)?;
        let path = edge_file(&self.edges, entry);
        // 8-bit maps are imports, where 255 means "none".
        let (size, regions) = match image_io::gray_bit_depth(&path)? {
            8 => {
                let map = image_io::read_gray8(&path)?;
                let wide = |&id: &u8| if id == u8::MAX { u16::MAX } else { u16::from(id) };
                (map.size, map.pixels.iter().map(wide).collect())
            }
            _ => {
                let map = image_io::read_gray16(&path)?;
                (map.size, map.pixels)
            }
        };
        if size != frame.size {
            return Err(other_size(&path, entry, size, frame.size));
        }
        Ok(Decoded { size, rgb: frame.pixels, regions })
    }

    /// The sample at `index`, or the next one that can be read, and its position.
    fn sample(&self, index: usize) -> Result<(usize, Held<'_>)> {
        if let Some(all) = &self.in_memory {
            return Ok((index, Held::InMemory(&all[index])));
        }
        let is_known = |index: usize| self.skipped.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&index);
        let mut index = index;
        for _ in 0..self.entries.len() {
            if !is_known(index) {
                match self.decode(&self.entries[index]) {
                    Ok(decoded) => return Ok((index, Held::Decoded(decoded))),
                    Err(error) => self.skip(index, &error)?,
                }
            }
            index = (index + 1) % self.entries.len();
        }
        Err(self.too_many_skipped())
    }

    /// Notes that a sample cannot be read and says so, once.
    fn skip(&self, index: usize, error: &TrainError) -> Result<()> {
        let image = self.entries[index].image.clone();
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        if skipped.insert(index, SkippedImage { image, reason: error.to_string() }).is_none() {
            log::warn!("left out: {error}");
        }
        let number = skipped.len() + self.left_out.len();
        drop(skipped);
        if number * MOST_SKIPPED > self.entries.len() + self.left_out.len() {
            Err(self.too_many_skipped())
        } else {
            Ok(())
        }
    }

    fn too_many_skipped(&self) -> TrainError {
        let skipped = self.skipped();
        TrainError::Invalid {
            what: "the images of this run".into(),
            expected: "at most a tenth of them to be unreadable".into(),
            got: format!(
                "{} of {}; first: {}",
                skipped.len(),
                self.entries.len() + self.left_out.len(),
                skipped.first().map_or("none", |s| s.reason.as_str())
            ),
            remedy: "mend these files (is the disk or the network drive still there?) and go on with --resume".into(),
        }
    }
}

fn other_size(path: &Path, entry: &SampleEntry, got: ImageSize, expected: ImageSize) -> TrainError {
    TrainError::Invalid {
        what: path.display().to_string(),
        expected: format!("the size of {}, {expected}", entry.image.display()),
        got: got.to_string(),
        remedy: "make the edge segments again from these images".into(),
    }
}

/// What a batch is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchSpec {
    /// Images a step, of all ranks together.
    pub images: usize,
    /// Which of them this rank makes. What an image and its views are depends on its place in the whole step alone.
    pub own: Range<usize>,
    /// Views of each image; they are adjacent in the batch.
    pub views: usize,
    /// Size of a view.
    pub size: ViewSize,
    /// Augmentations.
    pub augment: AugmentSpec,
    /// Seed of the run.
    pub seed: u64,
}

/// One step's input.
pub struct Batch {
    /// Step, from 0.
    pub step: usize,
    /// Normalised pixels, `[own images · views, crop, crop, 3]`.
    pub pixels: Vec<f32>,
    /// Edge region of every feature cell, `[own images · views, cells, cells]`, 65535 = none.
    pub edges: Vec<i64>,
    /// Position of each image among the samples.
    pub samples: Vec<usize>,
    /// For a GPU: the same once more in memory that the GPU reads by itself.
    pub pinned: Option<PinnedBatch>,
}

/// A batch in page-locked memory: copies from it to the GPU do not wait for what the GPU has to do before.
pub struct PinnedBatch {
    /// [`Batch::pixels`] in the network's precision.
    pub pixels: Tensor,
    /// [`Batch::edges`].
    pub edges: Tensor,
    /// Cells with an edge region.
    pub kept: KeptCells,
}

impl Batch {
    /// Makes the batch of `spec` ready for the GPU of `compute`; on a CPU there is nothing to do.
    ///
    /// Rounding pixels here gives what the network's first convolution would round them to, in half the bytes.
    fn pin(&mut self, compute: Compute, spec: &BatchSpec) -> Result<()> {
        if compute.device.is_cuda() {
            let pinned = |x: Tensor| x.f_internal_pin_memory(compute.device);
            let kept = KeptCells::of_edges(&self.edges, spec.size.cells * spec.size.cells, spec.views)?;
            self.pinned = Some(PinnedBatch {
                pixels: pinned(Tensor::f_from_slice(&self.pixels)?.f_to_kind(compute.precision)?)?,
                edges: pinned(Tensor::f_from_slice(&self.edges)?)?,
                kept: KeptCells { index: pinned(kept.index)?, ..kept },
            });
        }
        Ok(())
    }
}

/// Makes the batch of a step (this rank's part of it).
///
/// # Errors
/// Too many images that cannot be read (only when the samples do not fit into memory).
pub fn make_batch(samples: &Samples, spec: &BatchSpec, step: usize) -> Result<Batch> {
    let ViewSize { crop, cells } = spec.size;
    let (pixels_of_view, cells_of_view) = (crop * crop * 3, cells * cells);
    let images = spec.own.len();
    let num_pixels = images * spec.views * pixels_of_view;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(num_pixels).map_err(|error| TrainError::OutOfMemory {
        images: spec.images,
        views: spec.views,
        crop,
        device: "cpu".into(),
        message: error.to_string(),
    })?;
    pixels.resize(num_pixels, 0.0);
    let mut batch = Batch {
        step,
        pixels,
        edges: vec![NO_REGION; images * spec.views * cells_of_view],
        samples: Vec::with_capacity(images),
        pinned: None,
    };
    let pixels_of_image = batch.pixels.chunks_exact_mut(spec.views * pixels_of_view);
    let edges_of_image = batch.edges.chunks_exact_mut(spec.views * cells_of_view);
    for (image, (pixels, edges)) in spec.own.clone().zip(pixels_of_image.zip(edges_of_image)) {
        let position = step * spec.images + image;
        let index = sample_index(samples.len(), spec.seed, position);
        let (index, sample) = samples.sample(index)?;
        let (width, height) = (sample.size.width, sample.size.height);
        let source = Source { width, height, rgb: &sample.rgb, regions: &sample.regions };
        for view in 0..spec.views {
            let mut rng = stream(spec.seed, Purpose::View, (position * spec.views + view) as u64);
            let pixels = &mut pixels[view * pixels_of_view..][..pixels_of_view];
            let edges = &mut edges[view * cells_of_view..][..cells_of_view];
            random_view(&source, &spec.augment, spec.size, &mut rng, pixels, edges);
        }
        batch.samples.push(index);
    }
    Ok(batch)
}

/// The `position`-th image of the run: every epoch is a new permutation of all images.
fn sample_index(num_samples: usize, seed: u64, position: usize) -> usize {
    let (epoch, within) = (position / num_samples, position % num_samples);
    let mut order: Vec<usize> = (0..num_samples).collect();
    order.shuffle(&mut stream(seed, Purpose::Order, epoch as u64));
    order[within]
}

#[derive(Clone, Copy)]
enum Purpose {
    Order,
    View,
}

/// A random stream that depends on the seed, what it is for, and a counter, and on nothing else.
fn stream(seed: u64, purpose: Purpose, counter: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..24].copy_from_slice(&counter.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Batches of consecutive steps, made ahead on threads of their own: thread t of T makes every T-th one.
pub struct Loader {
    /// One queue a thread, read in turn.
    queues: Vec<Receiver<Result<Batch>>>,
    next: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts `threads` threads with the batch of step `first`; ends after that of step `end − 1`. The batches are made
    /// ready for `compute`.
    ///
    /// # Errors
    /// [`TrainError::File`] when a thread cannot be started.
    pub fn start(
        samples: &Arc<Samples>,
        spec: &BatchSpec,
        compute: Compute,
        first: usize,
        end: usize,
        threads: usize,
    ) -> Result<Self> {
        let threads = threads.max(1);
        let mut loader = Loader { queues: Vec::new(), next: 0, threads: Vec::new() };
        for thread in 0..threads {
            let (sender, receiver) = sync_channel(PREFETCH.div_ceil(threads));
            let (samples, spec) = (Arc::clone(samples), spec.clone());
            let steps = (first + thread..end).step_by(threads);
            let handle = std::thread::Builder::new()
                .name(format!("loader {thread}"))
                .spawn(move || load(&samples, &spec, compute, steps, &sender))
                .map_err(|e| TrainError::file("start", Path::new("a loader thread"), e))?;
            loader.queues.push(receiver);
            loader.threads.push(handle);
        }
        Ok(loader)
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    /// The next batch; `None` after the last. An error, as of [`make_batch`], is the last item.
    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.queues.get(self.next)?.recv().ok();
        self.next = (self.next + 1) % self.queues.len();
        batch
    }
}

fn load(
    samples: &Samples,
    spec: &BatchSpec,
    compute: Compute,
    steps: impl Iterator<Item = usize>,
    sender: &SyncSender<Result<Batch>>,
) {
    for step in steps {
        let batch = make_batch(samples, spec, step).and_then(|mut batch| batch.pin(compute, spec).map(|()| batch));
        let failed = batch.is_err();
        // The receiver is gone when training ended early.
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Dropping the receivers first wakes threads that wait to send.
        self.queues.clear();
        for thread in self.threads.drain(..) {
            // A panic of the thread has already been printed; there is nobody to return it to here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_make_what_one_process_makes() {
        let size = ImageSize { width: 40, height: 30 };
        let decoded = |image: usize| Decoded {
            size,
            rgb: (0..3600).map(|i| (i * 7 + image * 31) as u8).collect(),
            regions: (0..1200).map(|i| (i / 300 + image) as u16).collect(),
        };
        let entry = |i: usize| SampleEntry {
            name: i.to_string(),
            image: PathBuf::new(),
            annotation: None,
            sequence: String::new(),
            index_in_sequence: i,
        };
        let entries = (0..5).map(entry).collect();
        let samples = Samples {
            entries,
            edges: PathBuf::new(),
            in_memory: Some((0..5).map(decoded).collect()),
            skipped: Mutex::default(),
            left_out: Vec::new(),
        };
        let augment = AugmentSpec {
            flip: 0.5,
            scale: [0.5, 1.5],
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
            jitter: 0.8,
            gray: 0.2,
            blur: 0.5,
        };
        let spec = |own| BatchSpec {
            images: 6,
            own,
            views: 2,
            size: ViewSize { crop: 32, cells: 2 },
            augment: augment.clone(),
            seed: 7,
        };
        // Step 1 goes over the end of an epoch.
        for step in 0..3 {
            let whole = make(&samples, &spec(0..6), step);
            let parts = [0..2, 2..4, 4..6].map(|own| make(&samples, &spec(own), step));
            let pixels: Vec<f32> = parts.iter().flat_map(|part| part.pixels.iter().copied()).collect();
            let edges: Vec<i64> = parts.iter().flat_map(|part| part.edges.iter().copied()).collect();
            assert!(pixels == whole.pixels && edges == whole.edges, "step {step}");
        }
    }

    fn make(samples: &Samples, spec: &BatchSpec, step: usize) -> Batch {
        make_batch(samples, spec, step).unwrap()
    }

    #[test]
    fn an_epoch_visits_every_image_once() {
        for epoch in 0..3 {
            let mut seen: Vec<usize> = (0..10).map(|i| sample_index(10, 7, epoch * 10 + i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        let order = |seed, epoch: usize| (0..10).map(|i| sample_index(10, seed, epoch * 10 + i)).collect::<Vec<_>>();
        assert_ne!(order(7, 0), order(7, 1));
        assert_ne!(order(7, 0), order(8, 0));
    }
}
