//! \[F5\] Segments looked up in a bank on the device, beside the frame's own stream: what [`TopK`] finds comes back through
//! page-locked memory, one wait for all.

use std::sync::Arc;

use super::driver::{Buffer, Cuda, HostMemory};
use super::executor::{Memory, expect_len};
use super::top_k::{DeviceBank, NO_NEIGHBOUR, TopK};
use crate::backend::BackendError;

/// What was found for a query.
pub enum Nearest<'a> {
    /// Indices in the bank and similarities, nearest first; as many as asked for, or as the bank has.
    Found(&'a [u32], &'a [f32]),
    /// Too many were too close to each other for the kernel to be sure: to be searched on the CPU.
    Doubtful,
}

/// A search for one stream.
///
/// Fields end in order: memory before CUDA.
pub struct DeviceSearch {
    top_k: TopK<Cuda>,
    k: usize,
    queries: Memory<Buffer, f32>,
    host_queries: HostMemory<f32>,
    indices: HostMemory<u32>,
    similarities: HostMemory<f32>,
    doubtful: HostMemory<u32>,
    cuda: Cuda,
}

impl DeviceSearch {
    /// For up to `max_queries` queries of length `dim` with `k` neighbours each, on a stream beside that of `cuda`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(
        cuda: &Cuda,
        bank: Arc<DeviceBank<Buffer>>,
        (max_queries, dim, k): (usize, usize, usize),
    ) -> Result<Self, BackendError> {
        let cuda = cuda.beside()?;
        Ok(Self {
            top_k: TopK::in_bank(&cuda, bank, max_queries, k)?,
            k,
            queries: Memory::zeros(&cuda, max_queries * dim)?,
            host_queries: cuda.host_memory(max_queries * dim)?,
            indices: cuda.host_memory(max_queries * k)?,
            similarities: cuda.host_memory(max_queries * k)?,
            doubtful: cuda.host_memory(max_queries)?,
            cuda,
        })
    }

    /// Finds the neighbours of the first `num_queries` vectors of `queries` and tells them in order.
    ///
    /// # Errors
    /// When there are too many, or the GPU fails.
    pub fn nearest(
        &mut self,
        queries: &[f32],
        num_queries: usize,
        mut tell: impl FnMut(usize, Nearest<'_>),
    ) -> Result<(), BackendError> {
        if num_queries == 0 {
            return Ok(());
        }
        let to = self.host_queries.values_mut();
        if queries.len() > to.len() {
            expect_len("the queries", to.len(), queries.len())?;
        }
        to[..queries.len()].copy_from_slice(queries);
        let begun = self.begin(num_queries);
        // Waited for in any case: the next search writes into the same memory.
        self.cuda.synchronize()?;
        begun?;
        for query in 0..num_queries {
            if self.doubtful.values()[query] != 0 {
                tell(query, Nearest::Doubtful);
                continue;
            }
            let indices = &self.indices.values()[query * self.k..(query + 1) * self.k];
            let num = indices.iter().position(|&index| index == NO_NEIGHBOUR).unwrap_or(self.k);
            tell(query, Nearest::Found(&indices[..num], &self.similarities.values()[query * self.k..][..num]));
        }
        Ok(())
    }

    fn begin(&mut self, num_queries: usize) -> Result<(), BackendError> {
        let Self { top_k, queries, host_queries, indices, similarities, doubtful, cuda, .. } = self;
        // SAFETY: `nearest` waits before anybody touches the host's side again; `drop` does, too.
        unsafe { cuda.begin_write(host_queries, queries)? };
        top_k.run(cuda, queries, num_queries)?;
        let results = top_k.results();
        // SAFETY: as above.
        unsafe {
            cuda.begin_read(results.indices, indices)?;
            cuda.begin_read(results.similarities, similarities)?;
            cuda.begin_read(results.doubtful, doubtful)
        }
    }
}

impl Drop for DeviceSearch {
    fn drop(&mut self) {
        // A lost device leaves nothing to be done.
        let _ = self.cuda.synchronize();
    }
}
