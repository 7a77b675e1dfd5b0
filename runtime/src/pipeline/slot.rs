//! Preallocated frame slots and the bounded queues between stages.
//!
//! A slot goes round: free → capture → ready → compute → done → publish → free. There are as many slots as places, so
//! slots and queues allocate nothing per frame; sources, networks and encoders may. Files wait for a place ([`BoundedQueue::push`]); real-time sources never do: the
//! newest frame takes the place of one that waits ([`BoundedQueue::push_newest`]).

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::sink::SegmentedFrame;

/// One frame on its way, with all buffers that leave the compute stage.
#[derive(Debug)]
pub struct FrameSlot {
    /// What is captured and, later, what is published.
    pub output: SegmentedFrame,
    /// When the frame was complete in memory.
    pub captured: Instant,
    /// When the compute stage took it.
    pub started: Instant,
    /// When its latency begins to count: `captured` in real time, `started` for files, which wait for us.
    pub counted_from: Instant,
    /// Time inside the two networks, nanoseconds: part of the stages embed and group.
    pub network_nanos: u64,
    /// Segments that were looked up in the bank, and those that were named.
    pub lookups: (usize, usize),
    /// Whether they were looked up on a GPU.
    pub looked_up_on_device: bool,
    /// How its pixels were computed on a GPU; none on the CPU.
    pub on_device: Option<OnDevice>,
}

/// How a frame was computed on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDevice {
    /// Whether its work was started as a CUDA graph.
    pub graph: bool,
    /// Whether its bytes were uploaded while the frame before was worked on.
    pub uploaded_ahead: bool,
    /// Whether the GPU took it as the camera has it, in a YUV format.
    pub as_it_came: bool,
    /// Frames of the run of the embedding network that it was part of; 0 when streams run it for themselves.
    pub batch: usize,
}

impl Default for FrameSlot {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            output: SegmentedFrame::default(),
            captured: now,
            started: now,
            counted_from: now,
            network_nanos: 0,
            lookups: (0, 0),
            looked_up_on_device: false,
            on_device: None,
        }
    }
}

/// A queue of at most `capacity` items between two threads. Closing it lets the receiver take what is left.
pub struct BoundedQueue<T> {
    state: Mutex<State<T>>,
    capacity: usize,
    not_empty: Condvar,
    not_full: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> BoundedQueue<T> {
    /// An empty queue.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let state = State { items: VecDeque::with_capacity(capacity), closed: false };
        Self { state: Mutex::new(state), capacity, not_empty: Condvar::new(), not_full: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code panics while it holds the lock, so a poisoned queue is still in order.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the item that comes next, if there is one. The queue stands still meanwhile.
    pub fn look_at_next(&self, look: impl FnOnce(&T)) {
        if let Some(item) = self.lock().items.front() {
            look(item);
        }
    }

    /// Adds an item, waiting for a place. Returns the item when the queue is closed.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        while state.items.len() >= self.capacity && !state.closed {
            state = self.not_full.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(item);
        }
        state.items.push_back(item);
        self.not_empty.notify_one();
        Ok(())
    }

    /// Adds an item without waiting; when the queue is full, the oldest one makes way and is returned.
    /// `Err` returns the item when the queue is closed.
    pub fn push_newest(&self, item: T) -> Result<Option<T>, T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        let oldest = if state.items.len() >= self.capacity { state.items.pop_front() } else { None };
        state.items.push_back(item);
        self.not_empty.notify_one();
        Ok(oldest)
    }

    /// Takes the oldest item, waiting for one. None when the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                self.not_full.notify_one();
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.not_empty.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the oldest item if there is one.
    pub fn try_pop(&self) -> Option<T> {
        let item = self.lock().items.pop_front();
        if item.is_some() {
            self.not_full.notify_one();
        }
        item
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// No more items come in; what is in the queue can still be taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.not_empty.notify_all();
        self.not_full.notify_all();
    }
}

/// Closes a queue when a stage ends, however it ends, so that no other stage waits for ever.
pub struct CloseOnDrop<'a, T>(pub &'a BoundedQueue<T>);

impl<T> Drop for CloseOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_wins_and_the_oldest_comes_back() {
        let queue = BoundedQueue::new(2);
        assert_eq!(queue.push_newest(1), Ok(None));
        assert_eq!(queue.push_newest(2), Ok(None));
        assert_eq!(queue.push_newest(3), Ok(Some(1)));
        queue.close();
        assert_eq!(queue.push_newest(4), Err(4));
        assert_eq!(queue.push(5), Err(5));
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn files_lose_nothing_and_keep_their_order() {
        let queue = BoundedQueue::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _close = CloseOnDrop(&queue);
                for i in 0..1000 {
                    assert!(queue.push(i).is_ok());
                }
            });
            let received: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
            assert_eq!(received, (0..1000).collect::<Vec<_>>());
        });
    }
}
