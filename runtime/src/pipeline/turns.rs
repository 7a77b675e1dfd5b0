//! Whose frame is computed next, of the real-time streams that share an engine: they take turns, in the order of asking. Streams
//! that share runs of the network (`backend/tensorrt/batch.rs`) do not: they would never meet.
//!
//! A frame uses all threads. Computed over each other, four streams at 15 Hz on two cores (shipped model, embedded backend)
//! had latencies of 0.47 to 0.80 s (median) and up to 1.4 s; one after the other 0.19 to 0.23 s and up to 0.5 s, because a
//! frame is done sooner and a newer one can take the place of one that waits. It costs 8 % of the throughput, the gaps
//! between the parallel loops of one frame, so files, which nobody waits for, do not take turns.
//!
//! Who has had a turn stands behind everybody who waits: no stream has more than its share, however fast its frames come.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The queue in front of an engine.
#[derive(Debug, Default)]
pub struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The next number to be given out.
    next: u64,
    /// Turns that have ended.
    ended: u64,
}

/// A turn; it ends when this is dropped, also by a panic.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub fn wait(&self) -> Turn<'_> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        while state.ended != number {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }

    /// How many have a turn or wait for one.
    pub fn in_line(&self) -> u64 {
        let state = self.lock();
        state.next - state.ended
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().ended += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn turns_come_in_the_order_of_asking() {
        let turns = Turns::default();
        let order = Mutex::new(Vec::new());
        let stand_in_line = |at: u64| {
            while turns.in_line() < at {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let first = turns.wait();
            for name in ["b", "c"] {
                let place = turns.in_line() + 1;
                let (turns, order) = (&turns, &order);
                scope.spawn(move || {
                    let _turn = turns.wait();
                    order.lock().unwrap().push(name);
                });
                stand_in_line(place);
            }
            // Asks again at once, and yet is last.
            drop(first);
            let _turn = turns.wait();
            order.lock().unwrap().push("a");
        });
        assert_eq!(*order.lock().unwrap(), ["b", "c", "a"]);
        assert_eq!(turns.in_line(), 0);
    }

    #[test]
    fn a_panic_ends_a_turn() {
        let turns = Turns::default();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _turn = turns.wait();
            panic!("in a turn");
        }));
        assert!(result.is_err());
        drop(turns.wait());
        assert_eq!(turns.in_line(), 0);
    }
}
