//! Where the publish thread leaves frames, the painter takes them and leaves pictures, and viewers take those. \[F8\]
//!
//! The publish thread never waits here for anybody: it asks one atomic whether somebody waits for a picture, and if so and if the
//! last one is long enough ago, it copies the frame into memory that goes round. The lock is only ever held to exchange
//! pointers, not while a frame is copied, a picture drawn or bytes sent; and where another thread holds it just then (the
//! painter has a low priority, and may have lost its processor in that moment), the next frame will do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::sink::SegmentedFrame;
use crate::sink::panel::Field;

/// What of a stream a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View(pub Option<Field>);

impl View {
    /// Its word in addresses, `?view=…`.
    pub fn name(self) -> String {
        match self.0 {
            None => "panel".to_owned(),
            Some(Field::Input) => "input".to_owned(),
            Some(Field::Classes) => "classes".to_owned(),
            Some(Field::Legend) => "legend".to_owned(),
            Some(Field::Level(level)) => format!("level{level}"),
        }
    }

    /// All views of a model, the panel first.
    pub fn all(num_levels: usize, has_classes: bool) -> Vec<Self> {
        let classes = has_classes.then_some(Field::Classes);
        let fields = std::iter::once(Field::Input).chain(classes).chain((0..num_levels).map(Field::Level));
        std::iter::once(None).chain(fields.map(Some)).map(View).collect()
    }
}

/// One encoded picture.
#[derive(Debug)]
pub(super) struct Picture {
    /// Counts the pictures of a stream from 1.
    pub number: u64,
    /// Index of its frame in the source.
    pub frame_index: u64,
    /// The file.
    pub jpeg: Vec<u8>,
}

/// How waiting for a picture ended.
#[derive(Debug)]
pub(super) enum Waited {
    /// With a picture.
    Picture(Arc<Picture>),
    /// Without one in this time.
    TimedOut,
    /// The stream is over.
    Closed,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Exchange {
    views: Vec<View>,
    interval: Duration,
    /// Those who wait for a picture now.
    waiting: AtomicUsize,
    state: Mutex<State>,
    frame_came: Condvar,
    picture_came: Condvar,
}

#[derive(Debug)]
struct State {
    /// Two frames go round: one is drawn while the other may be overwritten by a newer one.
    spare: Vec<SegmentedFrame>,
    fresh: Option<SegmentedFrame>,
    /// When the last frame was taken.
    taken: Option<Instant>,
    /// Per view.
    slots: Vec<ViewSlot>,
    pictures: u64,
    closed: bool,
}

#[derive(Clone, Debug, Default)]
struct ViewSlot {
    waiting: usize,
    newest: Option<Arc<Picture>>,
}

impl Exchange {
    /// An exchange for these views, which takes at most one frame per `interval`.
    pub fn new(views: Vec<View>, interval: Duration) -> Self {
        let state = State {
            spare: vec![SegmentedFrame::default(), SegmentedFrame::default()],
            fresh: None,
            taken: None,
            slots: vec![ViewSlot::default(); views.len()],
            pictures: 0,
            closed: false,
        };
        Self {
            views,
            interval,
            waiting: AtomicUsize::new(0),
            state: Mutex::new(state),
            frame_came: Condvar::new(),
            picture_came: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while they hold the lock, so it is in order in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The views.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// Shortest time from one frame that is taken to the next.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Index of the view of this name.
    pub fn view(&self, name: &str) -> Option<usize> {
        self.views.iter().position(|view| view.name() == name)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Publish thread: takes a copy of the frame if somebody waits for one and it is time. `held` is a copy that found the
    /// lock taken: it is memory for the next one.
    pub fn offer(&self, frame: &SegmentedFrame, held: &mut Option<SegmentedFrame>) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = Instant::now();
        let mut copy = {
            let Some(mut state) = self.try_lock() else { return };
            if state.taken.is_some_and(|taken| now.duration_since(taken) < self.interval) {
                return;
            }
            // A frame that nobody has drawn yet is older than this one.
            let Some(copy) = held.take().or_else(|| state.fresh.take()).or_else(|| state.spare.pop()) else { return };
            copy
        };
        copy.copy_from(frame);
        match self.try_lock() {
            Some(mut state) => {
                state.taken = Some(now);
                // With a copy that was held, one that nobody has drawn may still be there: it goes round.
                let before = state.fresh.replace(copy);
                state.spare.extend(before);
                drop(state);
                self.frame_came.notify_one();
            }
            None => *held = Some(copy),
        }
    }

    /// Painter: waits for a frame that somebody wants to see; `wanted` becomes the views to draw. None at the end.
    pub fn next_frame(&self, wanted: &mut Vec<usize>) -> Option<SegmentedFrame> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            wanted.clear();
            wanted.extend(state.slots.iter().enumerate().filter(|(_, slot)| slot.waiting > 0).map(|(view, _)| view));
            match state.fresh.take() {
                Some(frame) if !wanted.is_empty() => return Some(frame),
                // Whoever wanted it has left.
                Some(frame) => state.spare.push(frame),
                None => {}
            }
            state = self.frame_came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Painter: a picture of `view` for all who wait for it.
    pub fn show(&self, view: usize, frame_index: u64, jpeg: Vec<u8>) {
        let mut state = self.lock();
        state.pictures += 1;
        let number = state.pictures;
        if let Some(slot) = state.slots.get_mut(view) {
            slot.newest = Some(Arc::new(Picture { number, frame_index, jpeg }));
        }
        drop(state);
        self.picture_came.notify_all();
    }

    /// Painter: the memory of a frame that is drawn.
    pub fn give_back(&self, frame: SegmentedFrame) {
        self.lock().spare.push(frame);
    }

    /// Number of the newest picture; those that a viewer is sent from now on have higher ones.
    pub fn newest(&self) -> u64 {
        self.lock().pictures
    }

    /// Viewer: waits for a picture of `view` with a number above `after`.
    pub fn next_picture(&self, view: usize, after: u64, until: Instant) -> Waited {
        let mut state = self.lock();
        if state.slots.len() <= view {
            return Waited::Closed;
        }
        state.slots[view].waiting += 1;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waited = loop {
            if let Some(picture) = state.slots[view].newest.as_ref().filter(|picture| picture.number > after) {
                break Waited::Picture(Arc::clone(picture));
            }
            if state.closed {
                break Waited::Closed;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Waited::TimedOut;
            }
            state = self.picture_came.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.slots[view].waiting -= 1;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        waited
    }

    /// No more pictures: painter and viewers stop waiting.
    pub fn close(&self) {
        self.lock().closed = true;
        self.frame_came.notify_all();
        self.picture_came.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::small_frame;

    /// Waits until so many wait for a picture.
    fn until_waiting(exchange: &Exchange, count: usize) {
        while exchange.waiting.load(Ordering::Relaxed) != count {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    /// Offers the frame until it is the one that waits to be drawn: the lock may be taken just then.
    fn offer(exchange: &Exchange, frame: &SegmentedFrame) {
        let mut held = None;
        while exchange.lock().fresh.as_ref().is_none_or(|fresh| fresh.frame.index != frame.frame.index) {
            exchange.offer(frame, &mut held);
        }
        // Its memory stays in the round.
        exchange.lock().spare.extend(held);
    }

    #[test]
    fn frames_are_taken_only_while_somebody_waits_and_the_newest_wins() {
        let exchange = Exchange::new(View::all(2, true), Duration::ZERO);
        assert_eq!(
            exchange.views().iter().map(|view| view.name()).collect::<Vec<_>>(),
            ["panel", "input", "classes", "level0", "level1"]
        );
        let mut frame = small_frame();
        exchange.offer(&frame, &mut None);
        assert!(exchange.lock().fresh.is_none(), "nobody waits");
        std::thread::scope(|scope| {
            let viewer = scope.spawn(|| exchange.next_picture(1, 0, far()));
            until_waiting(&exchange, 1);
            for index in 1..6 {
                frame.frame.index = index;
                offer(&exchange, &frame);
            }
            let mut wanted = vec![7];
            let fresh = exchange.next_frame(&mut wanted).unwrap();
            assert_eq!((fresh.frame.index, &wanted[..]), (5, &[1][..]));
            // One is drawn; the other takes what comes meanwhile.
            for index in [6, 7] {
                frame.frame.index = index;
                offer(&exchange, &frame);
            }
            assert_eq!(exchange.lock().spare.len(), 0, "two go round");
            exchange.show(1, fresh.frame.index, vec![1, 2]);
            exchange.give_back(fresh);
            let Waited::Picture(picture) = viewer.join().unwrap() else { panic!() };
            assert_eq!((picture.number, picture.frame_index, &picture.jpeg[..]), (1, 5, &[1, 2][..]));
        });
        assert_eq!(exchange.waiting.load(Ordering::Relaxed), 0);
        assert!(matches!(exchange.next_picture(1, 1, Instant::now()), Waited::TimedOut));
        assert!(matches!(exchange.next_picture(99, 0, far()), Waited::Closed));
    }

    #[test]
    fn a_copy_that_finds_the_lock_taken_is_memory_for_the_next() {
        let exchange = Exchange::new(View::all(1, false), Duration::ZERO);
        exchange.waiting.store(1, Ordering::Relaxed);
        let (mut frame, mut held) = (small_frame(), None);
        let lock = exchange.lock();
        exchange.offer(&frame, &mut held);
        assert!(held.is_none(), "nothing was copied");
        drop(lock);
        held = exchange.lock().spare.pop();
        frame.frame.index = 9;
        exchange.offer(&frame, &mut held);
        let state = exchange.lock();
        assert!(held.is_none() && state.spare.len() == 1);
        assert_eq!(state.fresh.as_ref().unwrap().frame.index, 9);
    }

    #[test]
    fn no_more_frames_are_taken_than_the_interval_allows() {
        let exchange = Exchange::new(View::all(1, false), Duration::from_secs(3600));
        let mut frame = small_frame();
        frame.frame.index = 10;
        std::thread::scope(|scope| {
            let viewer = scope.spawn(|| exchange.next_picture(0, 0, far()));
            until_waiting(&exchange, 1);
            offer(&exchange, &frame);
            for index in 11..20 {
                frame.frame.index = index;
                exchange.offer(&frame, &mut None);
            }
            assert_eq!(exchange.lock().fresh.as_ref().unwrap().frame.index, 10);
            exchange.close();
            assert!(matches!(viewer.join().unwrap(), Waited::Closed));
        });
        assert!(exchange.next_frame(&mut Vec::new()).is_none());
    }
}
