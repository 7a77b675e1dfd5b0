//! A bank in memory: nearest neighbours and votes.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use segcore::simd::dispatch;

use crate::RetrievalError;
use crate::file::{Decoded, Storage, decode};
use crate::nearest::{MAX_NEIGHBOURS, NearestSink, Neighbours};
use crate::products::{PANEL, Products, TILE};

/// What the nearest prototypes say about a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vote {
    /// The label that most of the nearest prototypes have; ties go to the smallest.
    pub train_id: u8,
    /// Share of the votes for it, above 0 to 1; 0 when there was no vote (the query was not finite).
    pub confidence: f32,
    /// 1 − cosine to the nearest prototype, 0 to 2; 1 when there was no vote.
    pub unknown_score: f32,
}

/// A prototype bank, ready for searching. Shared between threads; searching splits the bank over the current rayon pool.
pub struct Bank {
    path: PathBuf,
    model_hash: String,
    label_space: String,
    storage: Storage,
    num_images: u32,
    labels_from: String,
    dimension: usize,
    labels: Vec<u8>,
    largest_label: u8,
    /// `[panels, dimension, PANEL]`, unit vectors; the rest of the last panel is 0.
    panels: Vec<f32>,
    /// Working memory of searches that are done, for the next ones: searching allocates nothing once warm.
    idle: Mutex<Vec<Scratch>>,
}

/// Working memory of one search.
#[derive(Default)]
struct Scratch {
    /// `[tiles, dimension, TILE]`.
    tiles: Vec<f32>,
    /// `[parts, tiles · TILE]`.
    thresholds: Vec<f32>,
    /// `[parts, queries]`; after the search the first part holds the result.
    nearest: Vec<Neighbours>,
}

impl std::fmt::Debug for Bank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bank")
            .field("path", &self.path)
            .field("len", &self.len())
            .field("dimension", &self.dimension)
            .field("storage", &self.storage)
            .finish_non_exhaustive()
    }
}

impl Bank {
    /// Reads and checks a bank's file.
    ///
    /// # Errors
    /// When it cannot be read, is no bank, is of another version, or is cut or changed anywhere.
    pub fn open(path: &Path) -> Result<Self, RetrievalError> {
        let bytes = std::fs::read(path).map_err(|source| RetrievalError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes, path)
    }

    /// The same from the bytes of a file; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Bank::open`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, RetrievalError> {
        let Decoded { header, vectors, labels } = decode(bytes, path)?;
        let dimension = header.dimension as usize;
        let mut panels = vec![0.0f32; labels.len().div_ceil(PANEL) * PANEL * dimension];
        for (index, vector) in vectors.chunks_exact(dimension).enumerate() {
            // Stored values are rounded: they are unit vectors only nearly.
            let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if !(norm.is_finite() && norm > 1e-6) {
                return Err(RetrievalError::Damaged {
                    path: path.to_owned(),
                    reason: format!("prototype {index} has norm {norm}"),
                });
            }
            let panel = &mut panels[index / PANEL * PANEL * dimension..][..PANEL * dimension];
            for (value, row) in vector.iter().zip(panel.chunks_exact_mut(PANEL)) {
                row[index % PANEL] = (f64::from(*value) / norm) as f32;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            model_hash: header.model_hash,
            label_space: header.label_space,
            storage: header.storage,
            num_images: header.num_images,
            labels_from: header.labels_from,
            dimension,
            largest_label: labels.iter().copied().max().unwrap_or(0),
            labels,
            panels,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of a vector.
    pub fn dim(&self) -> usize {
        self.dimension
    }

    /// Number of prototypes, at least 1.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Never true: a bank without prototypes is refused.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Name of the label space of the labels.
    pub fn label_space(&self) -> &str {
        &self.label_space
    }

    /// Hash of the model that made the prototypes.
    pub fn model_hash(&self) -> &str {
        &self.model_hash
    }

    /// How the file stores vectors.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Number of images the prototypes came from.
    pub fn num_images(&self) -> u32 {
        self.num_images
    }

    /// Where the labels came from, in words.
    pub fn labels_from(&self) -> &str {
        &self.labels_from
    }

    /// Train id of every prototype.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Checks that the bank was built with the model that has this hash.
    ///
    /// # Errors
    /// When it was built with another one.
    pub fn check_model(&self, model_hash: &str) -> Result<(), RetrievalError> {
        if self.model_hash == model_hash {
            return Ok(());
        }
        Err(RetrievalError::Model {
            path: self.path.clone(),
            expected: model_hash.to_owned(),
            got: self.model_hash.clone(),
        })
    }

    /// The `k` nearest prototypes of every query by cosine, exactly (on the stored values).
    ///
    /// `queries` is `[n, dim]` row-major and need not have unit length; a zero query has similarity 0 to everything.
    /// `out` is overwritten with one entry per query. The result does not depend on the number of threads.
    ///
    /// # Errors
    /// When the number of values is no multiple of the dimension, or `k` is not in 1 to [`MAX_NEIGHBOURS`].
    pub fn nearest(&self, queries: &[f32], k: usize, out: &mut Vec<Neighbours>) -> Result<(), RetrievalError> {
        let num_queries = self.check(queries, k)?;
        out.clear();
        self.search(queries, num_queries, k, |nearest| out.extend_from_slice(nearest));
        Ok(())
    }

    /// The majority vote of the `k` nearest prototypes of every query ([`crate::NUM_VOTES`] in the method).
    ///
    /// `queries` as in [`Bank::nearest`]; `out` is overwritten with one vote per query.
    ///
    /// # Errors
    /// As [`Bank::nearest`], and when the bank has a label of `num_classes` or above.
    pub fn vote(
        &self,
        queries: &[f32],
        k: usize,
        num_classes: usize,
        out: &mut Vec<Vote>,
    ) -> Result<(), RetrievalError> {
        let num_queries = self.check(queries, k)?;
        if usize::from(self.largest_label) >= num_classes {
            return Err(RetrievalError::Label { got: self.largest_label, num_classes });
        }
        out.clear();
        self.search(queries, num_queries, k, |nearest| out.extend(nearest.iter().map(|list| self.count_votes(list))));
        Ok(())
    }

    fn count_votes(&self, nearest: &Neighbours) -> Vote {
        let mut counts = [0u8; 256];
        for &index in nearest.indices() {
            counts[usize::from(self.labels[index as usize])] += 1;
        }
        let (mut train_id, mut votes) = (0, 0);
        for (label, &count) in (0u8..=255).zip(&counts) {
            // Strictly more: the smallest label keeps a tie.
            if count > votes {
                (train_id, votes) = (label, count);
            }
        }
        let confidence = f32::from(votes) / nearest.len().max(1) as f32;
        let unknown_score = nearest.similarities().first().map_or(1.0, |cosine| (1.0 - cosine).clamp(0.0, 2.0));
        Vote { train_id, confidence, unknown_score }
    }

    fn check(&self, queries: &[f32], k: usize) -> Result<usize, RetrievalError> {
        if !queries.len().is_multiple_of(self.dimension) {
            return Err(RetrievalError::Dimension {
                what: "the list of queries",
                expected: format!("a multiple of the bank's dimension {}", self.dimension),
                got: queries.len(),
            });
        }
        if !(1..=MAX_NEIGHBOURS).contains(&k) {
            return Err(RetrievalError::NumNeighbours { expected: MAX_NEIGHBOURS, got: k });
        }
        Ok(queries.len() / self.dimension)
    }

    /// Finds the neighbours of all queries and hands them to `read`.
    fn search(&self, queries: &[f32], num_queries: usize, k: usize, read: impl FnOnce(&[Neighbours])) {
        if num_queries == 0 {
            return read(&[]);
        }
        // A search that panicked has left only working memory behind.
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = idle().pop().unwrap_or_default();
        let num_tiles = num_queries.div_ceil(TILE);
        pack_queries(queries, self.dimension, num_tiles, &mut scratch.tiles);
        let num_panels = self.panels.len() / (PANEL * self.dimension);
        let num_parts = num_panels.clamp(1, NUM_PARTS_PER_THREAD * rayon::current_num_threads());
        scratch.thresholds.resize(num_parts * num_tiles * TILE, 0.0);
        scratch.nearest.resize_with(num_parts * num_queries, Neighbours::default);
        let Scratch { tiles, thresholds, nearest } = &mut scratch;
        let parts = Parts { bank: self, tiles, num_queries, num_panels, num_parts, k };
        // On a thread of the pool, so that the splits inside need no further hand-over.
        rayon::join(|| parts.search(0, num_parts, thresholds, nearest), || ());
        let (first, later) = nearest.split_at_mut(num_queries);
        for part in later.chunks_exact(num_queries) {
            for (list, more) in first.iter_mut().zip(part) {
                list.merge(more, k);
            }
        }
        read(first);
        idle().push(scratch);
    }
}

/// Parts of the bank per thread. Two, so that a thread held up by another program costs half as much; more would find the
/// same neighbours several times over.
const NUM_PARTS_PER_THREAD: usize = 2;

/// Transposes queries to `[tiles, dimension, TILE]` and makes them unit vectors; filling is 0.
fn pack_queries(queries: &[f32], dimension: usize, num_tiles: usize, tiles: &mut Vec<f32>) {
    tiles.clear();
    tiles.resize(num_tiles * TILE * dimension, 0.0);
    for (index, query) in queries.chunks_exact(dimension).enumerate() {
        let norm = query.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let scale = if norm > 1e-12 { 1.0 / norm } else { 0.0 };
        let tile = &mut tiles[index / TILE * TILE * dimension..][..TILE * dimension];
        for (value, row) in query.iter().zip(tile.chunks_exact_mut(TILE)) {
            row[index % TILE] = (f64::from(*value) * scale) as f32;
        }
    }
}

/// A search split into contiguous parts of the bank.
struct Parts<'a> {
    bank: &'a Bank,
    tiles: &'a [f32],
    num_queries: usize,
    num_panels: usize,
    num_parts: usize,
    k: usize,
}

impl Parts<'_> {
    /// Searches the parts `first..end`; `thresholds` and `nearest` are theirs.
    fn search(&self, first: usize, end: usize, thresholds: &mut [f32], nearest: &mut [Neighbours]) {
        if end - first > 1 {
            let middle = first.midpoint(end);
            let (left, right) = (middle - first, end - first);
            let (left_thresholds, right_thresholds) = thresholds.split_at_mut(thresholds.len() / right * left);
            let (left_nearest, right_nearest) = nearest.split_at_mut(self.num_queries * left);
            rayon::join(
                || self.search(first, middle, left_thresholds, left_nearest),
                || self.search(middle, end, right_thresholds, right_nearest),
            );
            return;
        }
        let start = |part: usize| part * self.num_panels / self.num_parts;
        let panel_len = PANEL * self.bank.dimension;
        let mut sink = NearestSink { k: self.k, len: self.bank.len(), thresholds, nearest };
        sink.start();
        dispatch(Products {
            tiles: self.tiles,
            panels: &self.bank.panels[start(first) * panel_len..start(end) * panel_len],
            dimension: self.bank.dimension,
            first_panel: start(first),
            sink: &mut sink,
        });
    }
}
