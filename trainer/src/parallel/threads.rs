//! Ranks that are threads of one process: what tests use where no MPI is installed.
//!
//! CPU tensors only. Sums are made in the order of the ranks, so results are the same every time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use super::{Communicator, Ranks, check_layout, copied, ranks_error};
use crate::error::Result;

/// A rank that waits longer takes the others for gone.
const PATIENCE: Duration = Duration::from_secs(120);

/// One of several threads.
struct Member {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Round of exchange, and how many have arrived in it.
    round: u64,
    arrived: usize,
    /// What each rank brought into this round.
    brought: Vec<Option<Tensor>>,
    /// The first rank that ended early.
    gone: Option<usize>,
}

/// Runs `work` as `size` ranks and returns their results in the order of the ranks.
///
/// # Panics
/// When `work` panics on a rank; the others get an error from their next call instead of waiting for it.
pub fn run<T: Send>(size: usize, work: impl Fn(&Ranks) -> T + Sync) -> Vec<T> {
    let brought = (0..size).map(|_| None).collect();
    let state = Mutex::new(State { brought, ..State::default() });
    let shared = Arc::new(Shared { size, state, changed: Condvar::new() });
    std::thread::scope(|scope| {
        let start = |rank| {
            let (shared, work) = (Arc::clone(&shared), &work);
            scope.spawn(move || {
                let _leave = Leave(Member { rank, shared: Arc::clone(&shared) });
                work(&Ranks::of(Arc::new(Member { rank, shared })))
            })
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, T>| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    })
}

/// Tells the others when a thread ends.
struct Leave(Member);

impl Drop for Leave {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.gone.get_or_insert(self.0.rank);
        self.0.shared.changed.notify_all();
    }
}

impl Member {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A rank that panicked while it held the lock left a whole state: nothing in here panics half-way.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a tensor, waits for all, and returns what `take` makes of all tensors.
    fn exchange<T>(&self, values: Option<Tensor>, take: impl FnOnce(&[Option<Tensor>]) -> Result<T>) -> Result<T> {
        self.wait(|state| state.brought[self.rank] = values)?;
        let taken = take(&self.lock().brought);
        self.wait(|_| ())?;
        taken
    }

    fn wait(&self, arrive: impl FnOnce(&mut State)) -> Result<()> {
        let start = Instant::now();
        let mut state = self.lock();
        arrive(&mut state);
        let round = state.round;
        state.arrived += 1;
        if state.arrived == self.shared.size {
            state.arrived = 0;
            state.round += 1;
            self.shared.changed.notify_all();
            return Ok(());
        }
        while state.round == round {
            if state.gone.is_some() || start.elapsed() > PATIENCE {
                let who = state.gone.map_or_else(|| "another rank".to_owned(), |rank| format!("rank {rank}"));
                return Err(ranks_error(format!("{who} is gone"), "the first rank that stopped says why"));
            }
            let (next, _) = self.shared.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
        Ok(())
    }
}

impl Communicator for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.size
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<()> {
        check_layout(values, Device::Cpu)?;
        let total = self.exchange(Some(copied(values)?), |all| {
            let mut brought = all.iter().flatten();
            let mut total = copied(brought.next().unwrap_or(values))?;
            for values in brought {
                let _ = total.f_add_(values)?;
            }
            Ok(total)
        })?;
        values.f_detach()?.f_copy_(&total)?;
        Ok(())
    }

    fn broadcast(&self, values: &Tensor, root: usize) -> Result<()> {
        check_layout(values, Device::Cpu)?;
        let of_root = self
            .exchange(Some(copied(values)?), |all| copied(all.get(root).and_then(Option::as_ref).unwrap_or(values)))?;
        values.f_detach()?.f_copy_(&of_root)?;
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.wait(|_| ())
    }

    fn abort(&self) -> ! {
        // The others notice that this one is gone.
        panic!("rank {} ends all", self.rank)
    }
}
