//! \[F5\] The nearest prototypes of every segment, on the device.

use std::sync::Arc;

use half::f16;
use retrieval::Bank;

use super::executor::{Argument, Executor, Kernel, Memory, expect_len, int, unsupported};
use crate::backend::BackendError;

/// As in kernels.h and top_k.cu.
const PANEL: usize = 64;
const QUERY_TILE: usize = 64;
const CANDIDATES: usize = 128;
const STEP: usize = 16;
const MAX_DIM: usize = 128;
/// Neighbours that may be asked for: the kernel keeps 32 candidates, those beyond are for what rounding leaves in doubt.
pub const MAX_K: usize = 24;
/// Blocks per multiprocessor that a scan aims at: what shared memory has room for.
const BLOCKS_PER_MULTIPROCESSOR: usize = 4;

/// Index where a query has no neighbour.
pub const NO_NEIGHBOUR: u32 = u32::MAX;

enum Stored<B> {
    Float(Memory<B, f32>),
    Half(Memory<B, f16>),
}

/// A bank on the device, which searches on several streams may share.
pub struct DeviceBank<B> {
    num_prototypes: usize,
    dim: usize,
    stored: Stored<B>,
    inverse_norms: Memory<B, f32>,
}

impl<B> DeviceBank<B> {
    /// Why a bank has no kernel; none if it has.
    pub fn lack(bank: &Bank) -> Option<String> {
        let dim = bank.dim();
        (dim == 0 || !dim.is_multiple_of(STEP) || dim > MAX_DIM)
            .then(|| format!("the bank's dimension is {dim}, expected a multiple of {STEP} up to {MAX_DIM}"))
    }

    /// Bytes of the device that a bank takes.
    pub fn needed_bytes(bank: &Bank) -> usize {
        let bytes = if bank.storage() == retrieval::Storage::F32 { 4 } else { 2 };
        bank.len().next_multiple_of(PANEL) * (bank.dim() * bytes + 4)
    }

    /// Puts a bank on the device. Banks of halves and of 8-bit integers are kept as halves (which hold such integers exactly).
    ///
    /// # Errors
    /// When the bank's dimension does not fit the kernels, or memory runs out.
    pub fn new<E: Executor<Buffer = B>>(executor: &E, bank: &Bank) -> Result<Self, BackendError> {
        if let Some(lack) = Self::lack(bank) {
            return Err(unsupported(lack));
        }
        let (dim, num_prototypes) = (bank.dim(), bank.len());
        int("prototypes", num_prototypes.next_multiple_of(PANEL))?;
        let num_panels = num_prototypes.div_ceil(PANEL);
        let mut inverse_norms = vec![0.0f32; num_panels * PANEL];
        let place = |index: usize, d: usize| (index / PANEL * dim + d) * PANEL + index % PANEL;
        let mut norm = |index: usize, values: &[f32]| {
            let square: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
            inverse_norms[index] = (1.0 / square.sqrt()) as f32;
        };
        let stored = if bank.storage() == retrieval::Storage::F32 {
            let mut panels = vec![0.0f32; num_panels * dim * PANEL];
            bank.for_each_stored(|index, values| {
                norm(index, values);
                values.iter().enumerate().for_each(|(d, &value)| panels[place(index, d)] = value);
            });
            Stored::Float(Memory::of(executor, &panels)?)
        } else {
            let mut panels = vec![f16::ZERO; num_panels * dim * PANEL];
            bank.for_each_stored(|index, values| {
                norm(index, values);
                values.iter().enumerate().for_each(|(d, &value)| panels[place(index, d)] = f16::from_f32(value));
            });
            Stored::Half(Memory::of(executor, &panels)?)
        };
        Ok(Self { num_prototypes, dim, stored, inverse_norms: Memory::of(executor, &inverse_norms)? })
    }
}

/// A bank on the device and the memory of a search.
pub struct TopK<E: Executor> {
    max_queries: usize,
    k: usize,
    num_parts: usize,
    panels_per_part: usize,
    bank: Arc<DeviceBank<E::Buffer>>,
    tiles: Memory<E::Buffer, f32>,
    kinds: Memory<E::Buffer, u32>,
    candidates: Memory<E::Buffer, u64>,
    indices: Memory<E::Buffer, u32>,
    similarities: Memory<E::Buffer, f32>,
    doubtful: Memory<E::Buffer, u32>,
}

impl<E: Executor> TopK<E> {
    /// Puts a bank on the device, for up to `max_queries` queries with `k` neighbours each.
    ///
    /// # Errors
    /// When the bank's dimension or `k` does not fit the kernels, or memory runs out.
    pub fn new(executor: &E, bank: &Bank, max_queries: usize, k: usize) -> Result<Self, BackendError> {
        Self::in_bank(executor, Arc::new(DeviceBank::new(executor, bank)?), max_queries, k)
    }

    /// The same in a bank that is there already.
    ///
    /// # Errors
    /// When `k` does not fit the kernels, or memory runs out.
    pub fn in_bank(
        executor: &E,
        bank: Arc<DeviceBank<E::Buffer>>,
        max_queries: usize,
        k: usize,
    ) -> Result<Self, BackendError> {
        if k == 0 || k > MAX_K || max_queries == 0 {
            return Err(unsupported(format!("{k} neighbours of {max_queries} queries; at most {MAX_K}, at least 1")));
        }
        int("results", max_queries * k)?;
        let (dim, num_panels) = (bank.dim, bank.num_prototypes.div_ceil(PANEL));
        let num_tiles = max_queries.div_ceil(QUERY_TILE);
        let wanted = (executor.num_multiprocessors() * BLOCKS_PER_MULTIPROCESSOR / num_tiles).clamp(1, num_panels);
        let panels_per_part = num_panels.div_ceil(wanted);
        let num_parts = num_panels.div_ceil(panels_per_part);
        Ok(Self {
            max_queries,
            k,
            num_parts,
            panels_per_part,
            bank,
            tiles: Memory::zeros(executor, num_tiles * QUERY_TILE * dim)?,
            kinds: Memory::zeros(executor, max_queries)?,
            candidates: Memory::zeros(executor, num_parts * num_tiles * QUERY_TILE * CANDIDATES)?,
            indices: Memory::zeros(executor, max_queries * k)?,
            similarities: Memory::zeros(executor, max_queries * k)?,
            doubtful: Memory::zeros(executor, max_queries)?,
        })
    }

    /// Bytes of the stored bank, read at least once.
    pub fn bank_bytes(&self) -> usize {
        match &self.bank.stored {
            Stored::Float(bank) => bank.len() * 4,
            Stored::Half(bank) => bank.len() * 2,
        }
    }

    /// Starts the search for the first `num_queries` of `queries` `[n, dim]`.
    ///
    /// # Errors
    /// When there are too many or too few, or a kernel cannot start.
    pub fn run(
        &mut self,
        executor: &E,
        queries: &Memory<E::Buffer, f32>,
        num_queries: usize,
    ) -> Result<(), BackendError> {
        let dim = self.bank.dim;
        if num_queries == 0 || num_queries > self.max_queries || queries.len() < num_queries * dim {
            expect_len("the queries", self.max_queries * dim, num_queries * dim)?;
            expect_len("the queries", num_queries * dim, queries.len())?;
        }
        let num_tiles = num_queries.div_ceil(QUERY_TILE);
        let (count, prototypes) = (num_queries as i32, self.bank.num_prototypes as i32);
        let (dim, k) = (dim as i32, self.k as i32);
        let arguments = [
            queries.argument(),
            Argument::Int(count),
            Argument::Int(dim),
            self.tiles.argument(),
            self.kinds.argument(),
        ];
        // SAFETY: the arguments are those of `top_k_queries`; the tiles have room for whole tiles of the queries.
        unsafe { executor.launch(Kernel::TopKQueries, [(num_tiles * QUERY_TILE / 32) as u32, 1], 32, &arguments)? };
        let (scan, decide, bank) = match &self.bank.stored {
            Stored::Float(bank) => (Kernel::TopKScan, Kernel::TopKDecide, bank.argument()),
            Stored::Half(bank) => (Kernel::TopKScanHalf, Kernel::TopKDecideHalf, bank.argument()),
        };
        let arguments = [
            self.tiles.argument(),
            bank,
            self.bank.inverse_norms.argument(),
            Argument::Int(count),
            Argument::Int(prototypes),
            Argument::Int(dim),
            Argument::Int(self.panels_per_part as i32),
            self.candidates.argument(),
        ];
        // SAFETY: the arguments are those of `top_k_scan`; bank and norms are whole panels, candidates have room for every
        // part and tile.
        unsafe { executor.launch(scan, [num_tiles as u32, self.num_parts as u32], 128, &arguments)? };
        let bank = match &self.bank.stored {
            Stored::Float(bank) => bank.argument(),
            Stored::Half(bank) => bank.argument(),
        };
        let arguments = [
            queries.argument(),
            self.kinds.argument(),
            bank,
            self.candidates.argument(),
            Argument::Int(count),
            Argument::Int(prototypes),
            Argument::Int(dim),
            Argument::Int(self.num_parts as i32),
            Argument::Int(k),
            // As in retrieval::nearest: twice what rounding can do to a product.
            Argument::Float((self.bank.dim + 8) as f32 * f32::EPSILON),
            self.indices.argument(),
            self.similarities.argument(),
            self.doubtful.argument(),
        ];
        // SAFETY: the arguments are those of `top_k_decide`; `k` is at most what it keeps, results have room for all
        // queries.
        unsafe { executor.launch(decide, [num_queries as u32, 1], 32, &arguments) }
    }

    /// Results on the device.
    #[cfg(feature = "cuda")]
    pub(super) const fn results(&self) -> FoundOnDevice<'_, E::Buffer> {
        FoundOnDevice { indices: &self.indices, similarities: &self.similarities, doubtful: &self.doubtful }
    }

    /// Sets all bytes of the results: a check sees what was not written.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn poison(&mut self, executor: &E) -> Result<(), BackendError> {
        self.candidates.fill(executor, 0xff)?;
        self.tiles.fill(executor, 0xff)?;
        self.kinds.fill(executor, 0xee)?;
        self.indices.fill(executor, 0xee)?;
        self.similarities.fill(executor, 0xff)?;
        self.doubtful.fill(executor, 0xee)
    }

    /// Reads the results of the first `num_queries` queries.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn read(&self, executor: &E, num_queries: usize) -> Result<Found, BackendError> {
        Ok(Found {
            indices: self.indices.to_vec(executor, num_queries * self.k)?,
            similarities: self.similarities.to_vec(executor, num_queries * self.k)?,
            doubtful: self.doubtful.to_vec(executor, num_queries)?.iter().map(|&doubt| doubt != 0).collect(),
        })
    }
}

/// [`Found`], still on the device.
#[cfg(feature = "cuda")]
pub(super) struct FoundOnDevice<'a, B> {
    pub(super) indices: &'a Memory<B, u32>,
    pub(super) similarities: &'a Memory<B, f32>,
    pub(super) doubtful: &'a Memory<B, u32>,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// `[n, k]`, nearest first; [`NO_NEIGHBOUR`] where there is none.
    pub indices: Vec<u32>,
    /// `[n, k]`, cosine similarities.
    pub similarities: Vec<f32>,
    /// Per query: too many prototypes were too close to each other for the kernel to be sure of all; to be searched on the
    /// CPU.
    pub doubtful: Vec<bool>,
}
