//! The last frames, once for all subscribers. Each has a place of its own in them; whoever is so slow that its place is
//! written over loses the oldest frames, which is counted.
//!
//! Nothing here waits or does input or output: `mod.rs` and `server.rs` share it behind a lock.

use std::collections::VecDeque;
use std::sync::Arc;

/// Frames that wait for the slowest subscriber: enough for a hiccup of a third of a second at 30 Hz, few enough that whoever
/// is too slow for good sees what has just happened.
pub(super) const CAPACITY: usize = 8;

/// What became of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Given to a subscriber from the first to the last byte.
    pub frames: u64,
    /// Made way for newer ones, or were still waiting when the run ended.
    pub lost: u64,
}

/// A frame that waits.
#[derive(Debug)]
struct Entry {
    bytes: Arc<Vec<u8>>,
    stream: usize,
}

/// Who gets frames.
#[derive(Debug)]
struct Subscriber {
    id: u64,
    endpoint: usize,
    /// Number of the frame that it gets next; never before the first one that is kept.
    next: u64,
    counts: Counts,
}

/// The last frames of all streams, numbered in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Ring {
    frames: VecDeque<Entry>,
    /// Number of the first of `frames`.
    first: u64,
    subscribers: Vec<Subscriber>,
    last_id: u64,
    /// All buffers that are not being filled. One that nobody else has is free.
    pool: Vec<Arc<Vec<u8>>>,
    /// Bytes of the longest frame: every buffer has room for it, so that frames stop asking for memory soon.
    longest: usize,
    num_endpoints: usize,
    /// Per stream and endpoint, one stream after the other.
    counts: Vec<Counts>,
    /// Per endpoint, the subscribers that there have been.
    joined: Vec<u64>,
}

impl Ring {
    /// For so many endpoints.
    pub fn new(num_endpoints: usize) -> Self {
        Self {
            frames: VecDeque::with_capacity(CAPACITY),
            pool: Vec::with_capacity(4 * CAPACITY),
            num_endpoints,
            joined: vec![0; num_endpoints],
            ..Self::default()
        }
    }

    /// Adds a stream and gives its index.
    pub fn add_stream(&mut self) -> usize {
        let stream = self.counts.len() / self.num_endpoints.max(1);
        self.counts.resize(self.counts.len() + self.num_endpoints, Counts::default());
        stream
    }

    /// What became of the frames of `stream` at `endpoint`.
    pub fn counts(&self, stream: usize, endpoint: usize) -> Counts {
        self.counts.get(stream * self.num_endpoints + endpoint).copied().unwrap_or_default()
    }

    /// The subscribers that there have been at `endpoint`.
    pub fn joined(&self, endpoint: usize) -> u64 {
        self.joined.get(endpoint).copied().unwrap_or(0)
    }

    /// Whether anybody listens.
    pub fn has_subscribers(&self) -> bool {
        !self.subscribers.is_empty()
    }

    /// A new subscriber, which gets the frames from the next one on; gives its id.
    pub fn join(&mut self, endpoint: usize) -> u64 {
        self.last_id += 1;
        if let Some(joined) = self.joined.get_mut(endpoint) {
            *joined += 1;
        }
        let next = self.first + self.frames.len() as u64;
        self.subscribers.push(Subscriber { id: self.last_id, endpoint, next, counts: Counts::default() });
        self.last_id
    }

    /// The subscriber is gone; gives what it got and lost. `is_late`: what still waits for it is lost to it as well.
    pub fn leave(&mut self, id: u64, is_late: bool) -> Counts {
        let Some(place) = self.subscribers.iter().position(|subscriber| subscriber.id == id) else {
            return Counts::default();
        };
        if is_late {
            for number in self.subscribers[place].next..self.first + self.frames.len() as u64 {
                let stream = self.frames[(number - self.first) as usize].stream;
                self.lose(place, stream);
            }
        }
        self.subscribers.swap_remove(place).counts
    }

    /// The next frame of a subscriber, and its stream; none until there is one.
    pub fn take(&mut self, id: u64) -> Option<(Arc<Vec<u8>>, usize)> {
        let subscriber = self.subscribers.iter_mut().find(|subscriber| subscriber.id == id)?;
        let entry = self.frames.get((subscriber.next - self.first) as usize)?;
        subscriber.next += 1;
        Some((Arc::clone(&entry.bytes), entry.stream))
    }

    /// The subscriber has a whole frame of `stream`.
    pub fn given(&mut self, id: u64, stream: usize) {
        if let Some(place) = self.subscribers.iter().position(|subscriber| subscriber.id == id) {
            self.count(place, stream, |counts| counts.frames += 1);
        }
    }

    /// A frame of `stream` that the subscriber took and will not get to its end.
    pub fn lost(&mut self, id: u64, stream: usize) {
        if let Some(place) = self.subscribers.iter().position(|subscriber| subscriber.id == id) {
            self.lose(place, stream);
        }
    }

    fn lose(&mut self, place: usize, stream: usize) {
        self.count(place, stream, |counts| counts.lost += 1);
    }

    fn count(&mut self, place: usize, stream: usize, count: impl Fn(&mut Counts)) {
        let subscriber = &mut self.subscribers[place];
        count(&mut subscriber.counts);
        if let Some(counts) = self.counts.get_mut(stream * self.num_endpoints + subscriber.endpoint) {
            count(counts);
        }
    }

    /// Whether the next frame takes the place of one that a subscriber at `endpoint` has not taken.
    pub fn is_full_for(&self, endpoint: usize) -> bool {
        self.frames.len() >= CAPACITY
            && self.subscribers.iter().any(|waiting| waiting.endpoint == endpoint && waiting.next == self.first)
    }

    /// An empty buffer that nobody else has, to be filled and given to [`Ring::push`].
    pub fn buffer(&mut self) -> Arc<Vec<u8>> {
        let free = self.pool.iter_mut().position(|buffer| Arc::get_mut(buffer).is_some());
        let mut buffer = free.map_or_else(Arc::default, |place| self.pool.swap_remove(place));
        if let Some(bytes) = Arc::get_mut(&mut buffer) {
            bytes.clear();
            bytes.reserve(self.longest);
        }
        buffer
    }

    /// Gives back a buffer that was not filled.
    pub fn put_back(&mut self, buffer: Arc<Vec<u8>>) {
        self.pool.push(buffer);
    }

    /// Adds a frame. The oldest one makes way when there is no room.
    pub fn push(&mut self, stream: usize, bytes: Arc<Vec<u8>>) {
        self.longest = self.longest.max(bytes.len());
        // Those that everybody has: their buffers are free at once.
        let next = self.subscribers.iter().map(|subscriber| subscriber.next).min().unwrap_or(u64::MAX);
        while !self.frames.is_empty() && self.first < next {
            self.frames.pop_front();
            self.first += 1;
        }
        if self.frames.len() >= CAPACITY
            && let Some(oldest) = self.frames.pop_front()
        {
            for place in 0..self.subscribers.len() {
                if self.subscribers[place].next == self.first {
                    self.subscribers[place].next += 1;
                    self.lose(place, oldest.stream);
                }
            }
            self.first += 1;
        }
        self.pool.push(Arc::clone(&bytes));
        self.frames.push_back(Entry { bytes, stream });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn push(ring: &mut Ring, stream: usize, number: u64) {
        let mut buffer = ring.buffer();
        Arc::get_mut(&mut buffer).unwrap().extend_from_slice(&number.to_le_bytes());
        ring.push(stream, buffer);
    }

    fn number(bytes: &[u8]) -> u64 {
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    fn all(ring: &mut Ring, id: u64) -> Vec<u64> {
        std::iter::from_fn(|| ring.take(id)).map(|(bytes, _)| number(&bytes)).collect()
    }

    #[test]
    fn the_slow_lose_the_oldest_and_the_late_begin_with_the_next() {
        let mut ring = Ring::new(1);
        let stream = ring.add_stream();
        assert!(!ring.has_subscribers());
        push(&mut ring, stream, 100);
        let slow = ring.join(0);
        for number in 0..20 {
            push(&mut ring, stream, number);
        }
        let late = ring.join(0);
        push(&mut ring, stream, 20);
        assert_eq!(all(&mut ring, late), [20]);
        assert_eq!(all(&mut ring, slow), (13..=20).collect::<Vec<_>>());
        assert_eq!(ring.leave(slow, false), Counts { frames: 0, lost: 13 });
        assert_eq!((ring.counts(stream, 0), ring.joined(0)), (Counts { frames: 0, lost: 13 }, 2));
    }

    #[test]
    fn what_waits_at_the_end_is_lost_only_to_those_who_were_late() {
        for (is_late, lost) in [(true, 3), (false, 0)] {
            let mut ring = Ring::new(2);
            let streams = [ring.add_stream(), ring.add_stream()];
            let id = ring.join(1);
            for (number, stream) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
                push(&mut ring, streams[stream], number);
            }
            let (_, stream) = ring.take(id).unwrap();
            ring.given(id, stream);
            assert_eq!(ring.leave(id, is_late), Counts { frames: 1, lost });
            let by_stream = [ring.counts(0, 1), ring.counts(1, 1)];
            assert_eq!(by_stream.map(|counts| counts.frames), [1, 0]);
            assert_eq!(by_stream.map(|counts| counts.lost), if is_late { [1, 2] } else { [0, 0] });
            assert_eq!(ring.counts(0, 0), Counts::default());
            assert!(ring.take(id).is_none() && !ring.has_subscribers());
        }
    }

    #[test]
    fn it_is_full_for_those_who_would_lose() {
        let mut ring = Ring::new(2);
        ring.add_stream();
        let (patient, other) = (ring.join(0), ring.join(1));
        for number in 0..CAPACITY as u64 {
            assert!(!ring.is_full_for(0));
            push(&mut ring, 0, number);
        }
        assert!(ring.is_full_for(0) && ring.is_full_for(1));
        ring.take(patient);
        assert!(!ring.is_full_for(0) && ring.is_full_for(1));
        push(&mut ring, 0, CAPACITY as u64);
        assert_eq!((ring.leave(patient, false).lost, ring.leave(other, false).lost), (0, 1));
    }

    #[test]
    fn buffers_are_used_again() {
        let mut ring = Ring::new(1);
        let stream = ring.add_stream();
        let id = ring.join(0);
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..100 {
            let mut buffer = ring.buffer();
            let bytes = Arc::get_mut(&mut buffer).unwrap();
            assert!(bytes.is_empty());
            bytes.extend_from_slice(&[number; 3000]);
            seen.insert(bytes.as_ptr() as usize);
            ring.push(stream, buffer);
            if number < 50 {
                assert!(ring.take(id).is_some());
            }
        }
        // Two while the reader keeps up, afterwards one for each place and one that is being filled.
        assert!(seen.len() <= CAPACITY + 2, "{}", seen.len());
        assert!(ring.pool.len() <= CAPACITY + 2, "{}", ring.pool.len());
    }

    /// What a subscriber should still get (number and stream), and what it had.
    #[derive(Default)]
    struct Expected {
        endpoint: usize,
        queue: VecDeque<(u64, usize)>,
        counts: Counts,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Join(usize),
        Take(usize),
        Leave(usize, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..2usize).prop_map(Step::Push),
            1 => (0..2usize).prop_map(Step::Join),
            4 => (0..8usize).prop_map(Step::Take),
            1 => (0..8usize, any::<bool>()).prop_map(|(who, is_late)| Step::Leave(who, is_late)),
        ]
    }

    proptest! {
        /// Each subscriber gets frames in their order, each at most once; what it did not get are the oldest of what
        /// waited for it, and both are counted, for itself and by stream and endpoint.
        #[test]
        fn order_is_kept_and_only_the_oldest_are_lost(steps in proptest::collection::vec(step(), 1..200)) {
            let mut ring = Ring::new(2);
            let streams = [ring.add_stream(), ring.add_stream()];
            let mut waiting: BTreeMap<u64, Expected> = BTreeMap::new();
            let mut totals = [[Counts::default(); 2]; 2];
            for (number, step) in (0u64..).zip(steps) {
                let one_of = |who: usize| waiting.keys().nth(who % waiting.len().max(1)).copied();
                match step {
                    Step::Push(stream) => {
                        push(&mut ring, streams[stream], number);
                        for Expected { endpoint, queue, counts } in waiting.values_mut() {
                            queue.push_back((number, stream));
                            if queue.len() > CAPACITY {
                                let (_, stream) = queue.pop_front().unwrap();
                                counts.lost += 1;
                                totals[stream][*endpoint].lost += 1;
                            }
                        }
                    }
                    Step::Join(endpoint) => {
                        waiting.insert(ring.join(endpoint), Expected { endpoint, ..Expected::default() });
                    }
                    Step::Take(who) => {
                        let Some(id) = one_of(who) else { continue };
                        let Expected { endpoint, queue, counts } = waiting.get_mut(&id).unwrap();
                        let expected = queue.pop_front();
                        let got = ring.take(id);
                        prop_assert_eq!(got.as_ref().map(|(bytes, stream)| (self::number(bytes), *stream)), expected);
                        if let Some((_, stream)) = got {
                            ring.given(id, stream);
                            counts.frames += 1;
                            totals[stream][*endpoint].frames += 1;
                        }
                    }
                    Step::Leave(who, is_late) => {
                        let Some(id) = one_of(who) else { continue };
                        let Expected { endpoint, queue, mut counts } = waiting.remove(&id).unwrap();
                        for (_, stream) in queue.iter().filter(|_| is_late) {
                            counts.lost += 1;
                            totals[*stream][endpoint].lost += 1;
                        }
                        prop_assert_eq!(ring.leave(id, is_late), counts);
                    }
                }
                prop_assert!(ring.frames.len() <= CAPACITY);
                prop_assert!(ring.pool.len() <= CAPACITY + 1);
            }
            for (stream, endpoint) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                prop_assert_eq!(ring.counts(stream, endpoint), totals[stream][endpoint]);
            }
        }
    }
}
