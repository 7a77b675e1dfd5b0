//! Batches for training: images and edge segments from disk or memory, augmented on a thread of their own. [T1–T3]
//!
//! What a batch holds depends only on the seed and the step, so a resumed run sees what an uninterrupted one would.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use datasets::{Dataset, SampleEntry};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use segcore::image::ImageSize;
use segcore::image_io;

use crate::augment::{AugmentSpec, Source, ViewSize, random_view};
use crate::base_segments::NO_REGION;
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

/// The images of a training run with their edge segments.
pub struct Samples {
    entries: Vec<SampleEntry>,
    edges: PathBuf,
    in_memory: Option<Vec<Decoded>>,
}

impl Samples {
    /// Opens all samples; if they fit the memory budget they are decoded now, on all cores.
    ///
    /// # Errors
    /// An image or edge file that is missing or broken, or whose sizes differ; the first one is named.
    pub fn open(dataset: &dyn Dataset, edges: &Path) -> Result<Self> {
        let entries = dataset.samples().to_vec();
        let mut samples = Samples { entries, edges: edges.to_owned(), in_memory: None };
        let Some(first) = samples.entries.first() else {
            return Err(TrainError::Invalid {
                what: format!("data set `{}`, split `{}`", dataset.name(), dataset.split()),
                expected: "at least one image".into(),
                got: "none".into(),
                remedy: "choose another split or other sequences".into(),
            });
        };
        let first = samples.decode(first)?;
        if samples.entries.len().saturating_mul(first.rgb.len() + 2 * first.regions.len()) <= MEMORY_BUDGET_BYTES {
            let decoded = samples.entries.par_iter().map(|entry| samples.decode(entry)).collect::<Result<_>>()?;
            samples.in_memory = Some(decoded);
        }
        Ok(samples)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; [`Samples::open`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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
            return Err(TrainError::Invalid {
                what: path.display().to_string(),
                expected: format!("the size of {}, {}", entry.image.display(), frame.size),
                got: size.to_string(),
                remedy: "make the edge segments again from these images".into(),
            });
        }
        Ok(Decoded { size, rgb: frame.pixels, regions })
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
}

/// Makes the batch of a step.
///
/// # Errors
/// An image that cannot be read (only when the samples do not fit into memory).
pub fn make_batch(samples: &Samples, spec: &BatchSpec, step: usize) -> Result<Batch> {
    let ViewSize { crop, cells } = spec.size;
    let (pixels_of_view, cells_of_view) = (crop * crop * 3, cells * cells);
    let num_views = spec.own.len() * spec.views;
    let mut batch = Batch {
        step,
        pixels: vec![0.0; num_views * pixels_of_view],
        edges: vec![NO_REGION; num_views * cells_of_view],
    };
    for image in spec.own.clone() {
        let index = sample_index(samples.len(), spec.seed, step * spec.images + image);
        let decoded;
        let sample = match &samples.in_memory {
            Some(all) => &all[index],
            None => {
                decoded = samples.decode(&samples.entries[index])?;
                &decoded
            }
        };
        let source =
            Source { width: sample.size.width, height: sample.size.height, rgb: &sample.rgb, regions: &sample.regions };
        for view in 0..spec.views {
            let number = (step * spec.images + image) * spec.views + view;
            let mut rng = stream(spec.seed, Purpose::View, number as u64);
            let view = (image - spec.own.start) * spec.views + view;
            random_view(
                &source,
                &spec.augment,
                spec.size,
                &mut rng,
                &mut batch.pixels[view * pixels_of_view..][..pixels_of_view],
                &mut batch.edges[view * cells_of_view..][..cells_of_view],
            );
        }
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

/// Batches of consecutive steps, made ahead on a thread.
pub struct Loader {
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts with the batch of step `first`; ends after that of step `end − 1`.
    ///
    /// # Errors
    /// [`TrainError::File`] when no thread can be started.
    pub fn start(samples: Arc<Samples>, spec: BatchSpec, first: usize, end: usize) -> Result<Self> {
        let (sender, receiver) = sync_channel(PREFETCH);
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || load(&samples, &spec, first..end, &sender))
            .map_err(|e| TrainError::file("start", Path::new("the loader thread"), e))?;
        Ok(Loader { receiver: Some(receiver), thread: Some(thread) })
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    /// The next batch; `None` after the last. An error, as of [`make_batch`], is the last item.
    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.as_ref().and_then(|receiver| receiver.recv().ok())
    }
}

fn load(samples: &Samples, spec: &BatchSpec, steps: Range<usize>, sender: &SyncSender<Result<Batch>>) {
    for step in steps {
        let batch = make_batch(samples, spec, step);
        let failed = batch.is_err();
        // The receiver is gone when training ended early.
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Dropping the receiver first wakes a thread that waits to send.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
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
        let samples = Samples { entries, edges: PathBuf::new(), in_memory: Some((0..5).map(decoded).collect()) };
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
