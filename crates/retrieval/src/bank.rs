//! A bank in memory: nearest neighbours and votes.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use segcore::simd::dispatch;

use crate::file::{NONE, Parsed, Storage, hash_is_right, parse, words};
use crate::inverted::{Centroids, ScanWork, pack_lane, pack_tiles, queries_of_lists};
use crate::mapping::Mapping;
use crate::nearest::{Judge, MAX_NEIGHBOURS, NearestSink, Neighbours, Reservoir};
use crate::overlay::Overlay;
use crate::panels::{PANEL, Panels};
use crate::products::{Products, TILE};
use crate::{NUM_VOTES, RetrievalError};

/// Files of at least this many bytes are mapped into memory; smaller ones are read, so that nothing that happens to them
/// later matters: a mapped file that is cut within a search ends the program. Every exact search looks at all of a bank, so
/// one that is read costs no more memory than one that is mapped, unless several programs have the same. (The banks that are
/// shipped have 6 MB.)
pub const MAPPED_FROM_BYTES: u64 = 256 << 20;

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

/// What a neighbour's vote counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weighting {
    /// All the same: the majority vote of the method.
    Equal,
    /// exp((cosine − cosine of the nearest) / temperature), so that what is closer counts more (Z. Wu et al., "Unsupervised
    /// Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, §3.4).
    Similarity {
        /// Above 0.
        temperature: f32,
    },
}

/// How neighbours are looked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Search {
    /// Among all prototypes.
    #[default]
    Exact,
    /// In the `probes` lists of the index that are nearest to the query, 1 to [`MAX_NEIGHBOURS`] and at most all of them.
    /// Similarities are exact; neighbours in other lists are missed.
    Approximate {
        /// Lists to look into.
        probes: usize,
    },
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
    panels: Content,
    /// 1 / norm of the prototype in each slot; NaN where there is none.
    inverse_norms: Vec<f32>,
    index: Option<Index>,
    /// What a person named, where somebody did.
    overlay: Option<Overlay>,
    /// Working memory of searches that are done, for the next ones: searching allocates nothing once warm.
    idle: Mutex<Vec<Scratch>>,
}

/// Where the panels are.
enum Content {
    Memory { bytes: Vec<u8>, panels: std::ops::Range<usize> },
    Mapped { mapping: Mapping, panels: std::ops::Range<usize>, sha256: [u8; 32] },
}

/// What an approximate search needs.
struct Index {
    /// Index of the prototype in each slot.
    indices: Vec<u32>,
    /// End of each list, in panels.
    list_ends: Vec<u32>,
    centroids: Centroids,
}

/// Working memory of one search.
#[derive(Default)]
struct Scratch {
    /// `[queries, dimension]`, unit vectors.
    unit: Vec<f32>,
    /// Whether a query has a direction.
    is_asked: Vec<bool>,
    /// `[tiles, dimension, TILE]`.
    tiles: Vec<f32>,
    parts: Vec<Part>,
    /// One per query.
    nearest: Vec<Neighbours>,
    /// Of an approximate search: the lists of each query, the queries of each list, the lists of each part.
    lists: Vec<u32>,
    starts: Vec<u32>,
    members: Vec<u32>,
    part_ends: Vec<usize>,
}

/// Working memory of one part of a bank.
#[derive(Default)]
struct Part {
    unpacked: Vec<f32>,
    /// What a product must exceed, per query, filling included.
    thresholds: Vec<f32>,
    reservoirs: Vec<Reservoir>,
    /// Of an approximate search: the queries of a list, and what their products must exceed.
    tiles: Vec<f32>,
    list_thresholds: Vec<f32>,
    lists: ScanWork,
}

impl Part {
    fn start(&mut self, dimension: usize, is_asked: &[bool]) {
        self.unpacked.resize(dimension * PANEL, 0.0);
        self.thresholds.clear();
        // Nothing is above infinity.
        self.thresholds.extend(is_asked.iter().map(|asked| if *asked { f32::NEG_INFINITY } else { f32::INFINITY }));
        self.thresholds.resize(is_asked.len().next_multiple_of(TILE), f32::INFINITY);
        if self.reservoirs.len() < is_asked.len() {
            self.reservoirs.resize_with(is_asked.len(), Reservoir::default);
        }
        self.reservoirs.iter_mut().for_each(Reservoir::clear);
    }
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
    /// Reads and checks a bank's file. One of at least [`MAPPED_FROM_BYTES`] stays on the disk and is mapped into memory
    /// (a file of version 1 is not: its content is arranged anew in memory): it may be replaced by rename meanwhile, but
    /// not be written to or cut, which the next search reports.
    ///
    /// # Errors
    /// When it cannot be read, is no bank, is of another version, or is cut or changed anywhere.
    pub fn open(path: &Path) -> Result<Self, RetrievalError> {
        Self::open_mapped_from(path, MAPPED_FROM_BYTES)
    }

    /// The same with another limit than [`MAPPED_FROM_BYTES`].
    ///
    /// # Errors
    /// As [`Bank::open`].
    pub fn open_mapped_from(path: &Path, num_bytes: u64) -> Result<Self, RetrievalError> {
        let error = |source| RetrievalError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(error)?;
        let metadata = file.metadata().map_err(error)?;
        if !metadata.is_file() || metadata.len() < num_bytes {
            let bytes = std::fs::read(path).map_err(error)?;
            return Self::new(parse(&bytes, path)?, Source::Memory(bytes), path);
        }
        let mapping = Mapping::new(file).map_err(error)?;
        let parsed = parse(mapping.bytes(), path)?;
        Self::new(parsed, Source::Mapping(mapping), path)
    }

    /// The same from the bytes of a file; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Bank::open`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, RetrievalError> {
        Self::new(parse(bytes, path)?, Source::Memory(bytes.to_vec()), path)
    }

    fn new(parsed: Parsed, source: Source, path: &Path) -> Result<Self, RetrievalError> {
        let Parsed { header, layout, panels } = parsed;
        let damaged = |reason: String| RetrievalError::Damaged { path: path.to_owned(), reason };
        let bytes = source.bytes();
        let (dimension, count) = (header.dimension as usize, header.count as usize);
        let labels = bytes[layout.labels].to_vec();
        let stored = panels.as_deref().unwrap_or(&bytes[layout.panels.clone()]);
        let stored = Panels { storage: header.storage, dimension, bytes: stored };
        let num_panels = stored.bytes.len() / stored.stride().max(1);
        let indices = words(&bytes[layout.indices]);
        let inverse_norms = stored
            .inverse_norms(|slot| if header.num_lists == 0 { slot < count } else { indices[slot] != NONE })
            .map_err(|(slot, norm)| {
                let index = indices.get(slot).copied().unwrap_or(slot as u32);
                damaged(format!("prototype {index} has norm {norm}"))
            })?;
        let index = if header.num_lists == 0 {
            None
        } else {
            let list_ends = words(&bytes[layout.list_ends]);
            if !is_permutation(&indices, count)
                || list_ends.last().map(|end| *end as usize) != Some(num_panels)
                || !list_ends.is_sorted_by(|a, b| a < b)
                || list_ends.first() == Some(&0)
            {
                return Err(damaged("its index does not fit its prototypes".to_owned()));
            }
            let centroids = Centroids::read(&bytes[layout.centroids], dimension, list_ends.len())
                .map_err(|(list, norm)| damaged(format!("the centroid of list {list} has norm {norm}")))?;
            Some(Index { indices, list_ends, centroids })
        };
        let panels = match (panels, source) {
            (Some(arranged), _) => Content::Memory { panels: 0..arranged.len(), bytes: arranged },
            // Where they were read to: beside a copy a large bank would need its room twice.
            (None, Source::Memory(bytes)) => Content::Memory { bytes, panels: layout.panels },
            (None, Source::Mapping(mapping)) => {
                Content::Mapped { mapping, panels: layout.panels, sha256: header.sha256 }
            }
        };
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
            inverse_norms,
            index,
            overlay: None,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Lets a person's prototypes speak in [`Bank::shares_by`] and [`Bank::shares_of`] from now on, in the place of those before;
    /// searches for neighbours and [`Bank::vote`] are about the bank itself.
    pub fn lay_over(&mut self, overlay: Option<Overlay>) {
        self.overlay = overlay.filter(|overlay| !overlay.is_empty());
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

    /// The prototype with this index, of unit length up to rounding; none beyond the last. Takes time in proportion to the
    /// bank when it has an index.
    pub fn prototype(&self, index: usize) -> Option<Vec<f32>> {
        let slot = match &self.index {
            None => Some(index).filter(|index| *index < self.len()),
            Some(lists) => lists.indices.iter().position(|other| *other as usize == index && *other != NONE),
        }?;
        let mut out = vec![0.0; self.dimension];
        self.panels().copy(slot, &mut out);
        out.iter_mut().for_each(|value| *value *= self.inverse_norms[slot]);
        Some(out)
    }

    /// Calls `take` with index and stored values (not scaled to unit length) of every prototype, in the order of the file.
    pub fn for_each_stored(&self, mut take: impl FnMut(usize, &[f32])) {
        let mut values = vec![0.0; self.dimension];
        for slot in 0..self.inverse_norms.len() {
            let index = self.index.as_ref().map_or(slot, |lists| lists.indices[slot] as usize);
            if index < self.len() {
                self.panels().copy(slot, &mut values);
                take(index, &values);
            }
        }
    }

    /// Number of lists of the index for approximate searches; 0 without one.
    pub fn num_lists(&self) -> usize {
        self.index.as_ref().map_or(0, |index| index.centroids.len())
    }

    /// Whether the prototypes are mapped from the file, not in memory of the program's own.
    pub fn is_mapped(&self) -> bool {
        matches!(self.panels, Content::Mapped { .. })
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
            command: self.build_command(),
        })
    }

    /// The command that builds it anew. The data set is told by [`Bank::labels_from`] where `hsg bank build` wrote that.
    pub fn build_command(&self) -> String {
        let (dataset, split) = self
            .labels_from
            .strip_prefix("annotations of ")
            .and_then(|source| source.split_once(' '))
            .unwrap_or(("DATASET", "SPLIT"));
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        format!("hsg bank build --dataset {dataset} --root FOLDER --split {split} --model {}", folder.display())
    }

    /// The `k` nearest prototypes of every query by cosine, exactly (on the stored values, as in 64-bit floats).
    ///
    /// `queries` is `[n, dim]` row-major and need not have unit length; a zero query has similarity 0 to everything.
    /// `out` is overwritten with one entry per query. The result does not depend on the number of threads.
    ///
    /// # Errors
    /// When the number of values is no multiple of the dimension, `k` is not in 1 to [`MAX_NEIGHBOURS`], or the file was
    /// changed while it was mapped.
    pub fn nearest(&self, queries: &[f32], k: usize, out: &mut Vec<Neighbours>) -> Result<(), RetrievalError> {
        self.nearest_by(Search::Exact, queries, k, out)
    }

    /// The same by any search. An approximate one finds fewer than `k` when its lists hold fewer.
    ///
    /// # Errors
    /// As [`Bank::nearest`], and when the bank has no index or the number of probes is out of range.
    pub fn nearest_by(
        &self,
        search: Search,
        queries: &[f32],
        k: usize,
        out: &mut Vec<Neighbours>,
    ) -> Result<(), RetrievalError> {
        self.check(queries, k)?;
        out.clear();
        self.search(search, queries, k, |nearest| out.extend_from_slice(nearest))
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
        self.vote_by(Search::Exact, queries, k, num_classes, out)
    }

    /// The same by any search.
    ///
    /// # Errors
    /// As [`Bank::vote`] and [`Bank::nearest_by`].
    pub fn vote_by(
        &self,
        search: Search,
        queries: &[f32],
        k: usize,
        num_classes: usize,
        out: &mut Vec<Vote>,
    ) -> Result<(), RetrievalError> {
        self.check(queries, k)?;
        self.check_labels(num_classes)?;
        out.clear();
        self.search(search, queries, k, |nearest| out.extend(nearest.iter().map(|list| self.count_votes(list))))
    }

    /// The share of each class in the votes of the `k` nearest prototypes of every query, `[n, num_classes]` (each query's add
    /// up to 1; all 0 for a query that is not finite), and the unknown scores as in [`Vote`].
    ///
    /// # Errors
    /// As [`Bank::vote_by`].
    pub fn shares_by(
        &self,
        search: Search,
        weighting: Weighting,
        (queries, k): (&[f32], usize),
        num_classes: usize,
        (shares, unknown_scores): (&mut Vec<f32>, &mut Vec<f32>),
    ) -> Result<(), RetrievalError> {
        self.check(queries, k)?;
        self.check_labels(num_classes)?;
        shares.clear();
        shares.resize(queries.len() / self.dimension * num_classes, 0.0);
        unknown_scores.clear();
        self.search(search, queries, k, |nearest| {
            let queries = queries.chunks_exact(self.dimension);
            for ((query, list), shares) in queries.zip(nearest).zip(shares.chunks_exact_mut(num_classes.max(1))) {
                unknown_scores.push(self.shares_of(query, list.indices(), list.similarities(), weighting, shares));
            }
        })
    }

    /// Writes the shares of a query's neighbours that are known already, nearest first, into `shares`, one per class, and returns
    /// the unknown score. What is not in the bank, or has no place in `shares`, has no vote.
    pub fn shares_of(
        &self,
        query: &[f32],
        indices: &[u32],
        similarities: &[f32],
        weighting: Weighting,
        shares: &mut [f32],
    ) -> f32 {
        shares.fill(0.0);
        // A query that is not finite has no neighbours, and nothing of a person's either.
        let of_user = self.overlay.as_ref().filter(|_| !indices.is_empty()).map(|overlay| overlay.nearest(query));
        let of_user = of_user.as_ref().and_then(|nearest| Some((nearest, nearest.closest()?)));
        // Those of the bank that are nearer than the person's nearest; all without one.
        let nearer = match of_user {
            None => similarities.len(),
            Some((_, similarity)) => similarities.iter().take_while(|other| **other > similarity).count(),
        };
        let closest = similarities.iter().take(nearer).copied().next().or(of_user.map(|(_, similarity)| similarity));
        let closest = closest.unwrap_or(0.0);
        let weight = |similarity: f32| match weighting {
            Weighting::Equal => 1.0,
            Weighting::Similarity { temperature } => ((similarity - closest) / temperature).exp(),
        };
        let mut total = 0.0;
        for (&index, &similarity) in indices.iter().zip(&similarities[..nearer]) {
            let label = self.labels.get(index as usize).copied().map_or(usize::MAX, usize::from);
            if let Some(share) = shares.get_mut(label) {
                let weight = weight(similarity);
                *share += weight;
                total += weight;
            }
        }
        if let Some((nearest, similarity)) = of_user {
            let amount = NUM_VOTES.saturating_sub(nearer) as f32 * weight(similarity);
            nearest.share_out(weighting, amount, shares);
            total += amount;
        }
        if total > 0.0 {
            shares.iter_mut().for_each(|share| *share /= total);
        }
        let of_bank = unknown_score(similarities);
        of_user.map_or(of_bank, |(_, similarity)| of_bank.min((1.0 - similarity).clamp(0.0, 2.0)))
    }

    fn check_labels(&self, num_classes: usize) -> Result<(), RetrievalError> {
        let largest_label = self.overlay.as_ref().map_or(0, Overlay::largest_label).max(self.largest_label);
        if usize::from(largest_label) >= num_classes {
            return Err(RetrievalError::Label { got: largest_label, num_classes });
        }
        Ok(())
    }

    fn count_votes(&self, nearest: &Neighbours) -> Vote {
        self.vote_of(nearest.indices(), nearest.similarities())
    }

    /// The vote of neighbours that somebody else found: their indices, and similarities, nearest first. Indices that are not in
    /// the bank have no vote.
    pub fn vote_of(&self, indices: &[u32], similarities: &[f32]) -> Vote {
        let mut counts = [0u32; 256];
        for label in indices.iter().filter_map(|&index| self.labels.get(index as usize)) {
            counts[usize::from(*label)] += 1;
        }
        let (mut train_id, mut votes) = (0, 0);
        for (label, &count) in (0u8..=255).zip(&counts) {
            // Strictly more: the smallest label keeps a tie.
            if count > votes {
                (train_id, votes) = (label, count);
            }
        }
        let confidence = votes as f32 / indices.len().max(1) as f32;
        Vote { train_id, confidence, unknown_score: unknown_score(similarities) }
    }

    fn check(&self, queries: &[f32], k: usize) -> Result<(), RetrievalError> {
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
        if let Content::Mapped { mapping, sha256, .. } = &self.panels {
            mapping
                .check(|bytes| hash_is_right(bytes, sha256))
                .map_err(|source| RetrievalError::Changed { path: self.path.clone(), source })?;
        }
        Ok(())
    }

    fn panels(&self) -> Panels<'_> {
        let bytes = match &self.panels {
            Content::Memory { bytes, panels } => &bytes[panels.clone()],
            Content::Mapped { mapping, panels, .. } => &mapping.bytes()[panels.clone()],
        };
        Panels { storage: self.storage, dimension: self.dimension, bytes }
    }

    /// Finds the neighbours of all queries and hands them to `read`.
    fn search(
        &self,
        search: Search,
        queries: &[f32],
        k: usize,
        read: impl FnOnce(&[Neighbours]),
    ) -> Result<(), RetrievalError> {
        let index = match (search, &self.index) {
            (Search::Exact, _) => None,
            (Search::Approximate { .. }, None) => {
                return Err(RetrievalError::NoIndex {
                    path: self.path.clone(),
                    command: self.build_command(),
                    prototypes: self.len(),
                });
            }
            (Search::Approximate { probes }, Some(index)) => {
                if !(1..=MAX_NEIGHBOURS).contains(&probes) {
                    return Err(RetrievalError::NumProbes { expected: MAX_NEIGHBOURS, got: probes });
                }
                Some((index, probes.min(index.centroids.len())))
            }
        };
        if queries.is_empty() {
            read(&[]);
            return Ok(());
        }
        // A search that panicked has left only working memory behind.
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = idle().pop().unwrap_or_default();
        scratch.set_queries(queries, self.dimension);
        let indices = self.index.as_ref().map_or(&[][..], |index| &index.indices);
        let judge = Judge::new(self.panels(), indices, k);
        // On a thread of the pool, so that the splits inside need no further hand-over.
        rayon::join(
            || match index {
                None => self.scan_all(judge, queries, &mut scratch),
                Some((index, probes)) => self.scan_lists(index, probes, judge, queries, &mut scratch),
            },
            || (),
        );
        self.decide(judge, queries, &mut scratch);
        read(&scratch.nearest);
        idle().push(scratch);
        Ok(())
    }

    /// Candidates among all prototypes.
    fn scan_all(&self, judge: Judge<'_>, queries: &[f32], scratch: &mut Scratch) {
        let panels = judge.panels;
        let num_panels = self.inverse_norms.len() / PANEL;
        let num_parts = num_panels.clamp(1, NUM_PARTS_PER_THREAD * rayon::current_num_threads());
        scratch.parts.resize_with(num_parts, Part::default);
        let Scratch { tiles, is_asked, parts, .. } = scratch;
        parts.par_iter_mut().with_max_len(1).enumerate().for_each(|(number, part)| {
            part.start(self.dimension, is_asked);
            let range = number * num_panels / num_parts..(number + 1) * num_panels / num_parts;
            let Part { unpacked, thresholds, reservoirs, .. } = part;
            let mut sink = NearestSink { judge, queries, members: &[], thresholds, reservoirs };
            dispatch(Products {
                tiles,
                num_queries: is_asked.len(),
                panels: panels.slice(range.clone()),
                inverse_norms: &self.inverse_norms[range.start * PANEL..range.end * PANEL],
                first_panel: range.start,
                unpacked,
                sink: &mut sink,
            });
        });
    }

    /// Candidates in the lists nearest to each query.
    fn scan_lists(&self, index: &Index, probes: usize, judge: Judge<'_>, queries: &[f32], scratch: &mut Scratch) {
        let Index { list_ends, centroids, .. } = index;
        let (dimension, num_lists) = (self.dimension, centroids.len());
        let num_parts = NUM_PARTS_PER_THREAD * rayon::current_num_threads();
        scratch.parts.resize_with(num_parts, Part::default);
        let Scratch { unit, is_asked, tiles, parts, lists, starts, members, part_ends, .. } = scratch;
        let num_queries = is_asked.len();
        lists.resize(num_queries * probes, 0);
        let tiles_per_part = num_queries.div_ceil(TILE).div_ceil(num_parts);
        parts
            .par_iter_mut()
            .with_max_len(1)
            .zip(tiles.par_chunks(tiles_per_part * TILE * dimension))
            .zip(lists.par_chunks_mut(tiles_per_part * TILE * probes))
            .for_each(|((part, tiles), out)| {
                centroids.nearest_lists(tiles, out.len() / probes, probes, &mut part.lists, out);
            });
        queries_of_lists(lists, (num_lists, probes), |query| is_asked[query], starts, members);

        let panels_of = |list: usize| {
            let start = if list == 0 { 0 } else { list_ends[list - 1] as usize };
            start..list_ends[list] as usize
        };
        // A panel is unpacked once for all queries of its list, which takes about as long as three queries.
        let cost = |list: usize| match (starts[list + 1] - starts[list]) as usize {
            0 => 0,
            queries => panels_of(list).len() * (queries + 3),
        };
        let total: usize = (0..num_lists).map(cost).sum();
        part_ends.clear();
        let mut sum = 0;
        for list in 0..num_lists {
            if sum >= total * (part_ends.len() + 1) / num_parts && part_ends.len() + 1 < num_parts {
                part_ends.push(list);
            }
            sum += cost(list);
        }
        part_ends.resize(num_parts, num_lists);

        parts.par_iter_mut().with_max_len(1).enumerate().for_each(|(number, part)| {
            part.start(dimension, is_asked);
            let first = if number == 0 { 0 } else { part_ends[number - 1] };
            for list in first..part_ends[number] {
                let members = &members[starts[list] as usize..starts[list + 1] as usize];
                if members.is_empty() {
                    continue;
                }
                part.tiles.resize(num_queries.next_multiple_of(TILE) * dimension, 0.0);
                part.list_thresholds.clear();
                for (at, &query) in members.iter().enumerate() {
                    pack_lane(&unit[query as usize * dimension..][..dimension], at, &mut part.tiles);
                    part.list_thresholds.push(part.thresholds[query as usize]);
                }
                // What the last list left in the filling is multiplied too, and never heard of.
                let num_filled = members.len().next_multiple_of(TILE);
                part.list_thresholds.resize(num_filled, f32::INFINITY);
                let range = panels_of(list);
                let (thresholds, reservoirs) = (&mut part.list_thresholds[..], &mut part.reservoirs[..]);
                let mut sink = NearestSink { judge, queries, members, thresholds, reservoirs };
                dispatch(Products {
                    tiles: &part.tiles[..num_filled * dimension],
                    num_queries: members.len(),
                    panels: judge.panels.slice(range.clone()),
                    inverse_norms: &self.inverse_norms[range.start * PANEL..range.end * PANEL],
                    first_panel: range.start,
                    unpacked: &mut part.unpacked,
                    sink: &mut sink,
                });
                for (&query, &threshold) in members.iter().zip(&part.list_thresholds) {
                    part.thresholds[query as usize] = threshold;
                }
            }
        });
    }

    /// The nearest of the candidates of all parts.
    fn decide(&self, judge: Judge<'_>, queries: &[f32], scratch: &mut Scratch) {
        let Scratch { is_asked, parts, nearest, .. } = scratch;
        nearest.resize_with(is_asked.len(), Neighbours::default);
        let Some((first, later)) = parts.split_first_mut() else { return };
        let num_queries = is_asked.len();
        first.reservoirs[..num_queries].par_iter_mut().zip(nearest).zip(is_asked).enumerate().with_min_len(8).for_each(
            |(number, ((reservoir, out), asked))| {
                let query = &queries[number * self.dimension..][..self.dimension];
                if *asked {
                    for part in later.iter() {
                        judge.merge(reservoir, query, &part.reservoirs[number]);
                    }
                    judge.decide(reservoir, query, out);
                } else if query.iter().all(|value| value.is_finite()) {
                    // Without direction: everything is equally far.
                    out.set((0..judge.k.min(self.len()) as u32).map(|index| (0.0, index)));
                } else {
                    out.set(std::iter::empty());
                }
            },
        );
    }
}

/// 1 − cosine to the nearest; 1 without any.
fn unknown_score(similarities: &[f32]) -> f32 {
    similarities.first().map_or(1.0, |cosine| (1.0 - cosine).clamp(0.0, 2.0))
}

/// What a bank is read from.
enum Source {
    Memory(Vec<u8>),
    Mapping(Mapping),
}

impl Source {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Mapping(mapping) => mapping.bytes(),
        }
    }
}

/// Whether every index below `count` is there once, beside [`NONE`].
fn is_permutation(indices: &[u32], count: usize) -> bool {
    let mut is_there = vec![false; count];
    let fits = indices.iter().filter(|index| **index != NONE).all(|&index| {
        let place = is_there.get_mut(index as usize);
        place.is_some_and(|place| !std::mem::replace(place, true))
    });
    fits && is_there.iter().all(|there| *there)
}

/// Parts of the bank per thread. Two, so that a thread held up by another program costs half as much; more would find the
/// same neighbours several times over.
const NUM_PARTS_PER_THREAD: usize = 2;

impl Scratch {
    /// Takes over queries `[n, dimension]`.
    fn set_queries(&mut self, queries: &[f32], dimension: usize) {
        self.unit.clear();
        self.is_asked.clear();
        for query in queries.chunks_exact(dimension) {
            let norm = query.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let has_direction = norm.is_finite() && norm > 1e-12;
            let scale = if has_direction { 1.0 / norm } else { 0.0 };
            self.is_asked.push(has_direction);
            self.unit
                .extend(query.iter().map(|value| if has_direction { (f64::from(*value) * scale) as f32 } else { 0.0 }));
        }
        pack_tiles(&self.unit, dimension, &mut self.tiles);
    }
}
