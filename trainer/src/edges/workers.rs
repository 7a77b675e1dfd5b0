//! Several images at once, as many as there are cores and memory for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::error::{Result, TrainError};
use crate::memory::MachineMemory;

/// Share of the free memory that is used.
const MEMORY_SHARE: f64 = 0.6;
/// What is assumed to be free where the system does not say.
const UNKNOWN_MEMORY: u64 = 4 << 30;

/// Memory that workers ask for before they take it.
pub(super) struct Memory {
    budget: u64,
    in_use: Mutex<u64>,
    freed: Condvar,
}

/// Memory that was asked for; given back when dropped.
pub(super) struct Share<'a> {
    memory: &'a Memory,
    bytes: u64,
}

impl Memory {
    /// A share of what is free now.
    pub(super) fn of_this_machine() -> Self {
        let free = MachineMemory::of_this_machine().map_or(UNKNOWN_MEMORY, |memory| memory.available);
        Self::new((free as f64 * MEMORY_SHARE) as u64)
    }

    fn new(budget: u64) -> Self {
        Self { budget, in_use: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits until `bytes` fit beside what is in use. One who wants more than there is works alone.
    pub(super) fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.min(self.budget);
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let mut in_use = (self.freed)
            .wait_while(in_use, |in_use| *in_use + bytes > self.budget)
            .unwrap_or_else(PoisonError::into_inner);
        *in_use += bytes;
        Share { memory: self, bytes }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut in_use = self.memory.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        *in_use -= self.bytes;
        drop(in_use);
        self.memory.freed.notify_all();
    }
}

/// Calls `work` for every item, on `num_threads` threads in all: one item a thread while there are enough of them, several
/// threads an item otherwise. Items not begun when `stop` is set, or after an error, are left out.
///
/// # Errors
/// The first error of `work`; a thread that cannot be started.
pub(super) fn for_each<T: Send>(
    items: Vec<T>,
    num_threads: usize,
    stop: &AtomicBool,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let num_workers = items.len().min(num_threads).max(1);
    let queue = Mutex::new(VecDeque::from(items));
    let failure: Mutex<Option<TrainError>> = Mutex::new(None);
    let fail = |error: TrainError| {
        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    };
    let has_failed = || failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    let worker = |threads: usize| {
        // The arithmetic of an image splits its work over the pool it is called from.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|at| format!("edges-{at}")).build();
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => return fail(thread_error(std::io::Error::other(error))),
        };
        while !stop.load(Ordering::Relaxed) && !has_failed() {
            let Some(item) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { break };
            if let Err(error) = pool.install(|| work(item)) {
                fail(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for at in 0..num_workers {
            let threads = (num_threads / num_workers + usize::from(at < num_threads % num_workers)).max(1);
            let worker = &worker;
            let started = std::thread::Builder::new()
                .name(format!("edges-worker-{at}"))
                .spawn_scoped(scope, move || worker(threads));
            if let Err(error) = started {
                fail(thread_error(error));
            }
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn thread_error(source: std::io::Error) -> TrainError {
    TrainError::file("start", std::path::Path::new("a worker thread"), source)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize};

    use super::*;

    #[test]
    fn every_item_is_done_once_and_memory_is_kept() {
        let memory = Memory::new(100);
        let (in_use, most, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
        let sizes: Vec<u64> = (0..40).map(|i| 20 + i % 5 * 30).collect();
        for_each(sizes, 8, &AtomicBool::new(false), |bytes| {
            let _share = memory.take(bytes);
            let now = in_use.fetch_add(bytes.min(100), Ordering::SeqCst) + bytes.min(100);
            most.fetch_max(now, Ordering::SeqCst);
            std::thread::yield_now();
            in_use.fetch_sub(bytes.min(100), Ordering::SeqCst);
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        assert_eq!(done.into_inner(), 40);
        assert!(most.into_inner() <= 100);
    }

    #[test]
    fn an_error_or_a_stop_ends_the_work() {
        let done = AtomicUsize::new(0);
        let error = for_each((0..1000).collect(), 2, &AtomicBool::new(false), |item: i32| {
            done.fetch_add(1, Ordering::SeqCst);
            if item == 3 {
                Err(TrainError::file("write", std::path::Path::new("x"), std::io::Error::other("full")))
            } else {
                Ok(())
            }
        });
        assert!(error.unwrap_err().to_string().contains("full"));
        assert!(done.into_inner() < 1000);
        let stop = AtomicBool::new(true);
        for_each(vec![1], 2, &stop, |_| panic!("not begun")).unwrap();
    }
}
