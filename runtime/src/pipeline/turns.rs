//! Whose frame is computed next, of the streams that share an engine: they take turns, in the order of asking.
//!
//! A frame uses all threads, so two at once are not faster together, and each takes twice as long. One after the other the
//! first is done in half the time, and while a stream waits, a newer frame may come. No stream can have more than its
//! share: who has had a turn stands behind everybody who waits.

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
    /// The number whose turn it is.
    serving: u64,
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
        while state.serving != number {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }

    /// How many have a turn or wait for one.
    pub fn in_line(&self) -> u64 {
        let state = self.lock();
        state.next - state.serving
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().serving += 1;
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
            drop(first);
            // Asks again at once, and yet is last.
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
    }
}
