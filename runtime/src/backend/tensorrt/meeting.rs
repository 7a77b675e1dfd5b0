//! Where the streams of `batch.rs` meet: who waits for whom, who starts the next run and for which frames, and what becomes of
//! the others when that fails. It knows nothing of GPUs, so all of it is tested without one.
//!
//! There is one [`Runner`]. The first in the queue takes it, starts a run for those that are there, and puts it back. Whatever
//! happens to that thread, a panic too, the runner goes back and every frame of the run gets an answer ([`Leading`]); nobody
//! holds the lock or the runner while it waits for frames of its own.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Batching;
use crate::backend::{BackendError, BackendErrorKind};

/// Frames that a member must have brought since it was last waited for in vain, before it is waited for again.
const TRUSTED: u32 = 4;

/// What runs the frames of several members at once.
pub trait Runner {
    /// What a member brings to a run, and gets back.
    type Seat;

    /// Of a member's frame: those of a run have the same.
    fn shape(seat: &Self::Seat) -> [usize; 4];

    /// Waits for the end of the last run.
    ///
    /// # Errors
    /// When it failed.
    fn wait(&mut self) -> Result<(), BackendError>;

    /// Starts a run of these frames.
    ///
    /// # Errors
    /// When it cannot be started; nothing of it is under way then.
    fn launch(&mut self, batch: &mut [Ticket<Self::Seat>]) -> Result<(), BackendError>;

    /// Waits for whatever was begun, which must end before the members go on with their memory.
    ///
    /// # Errors
    /// What came of it.
    fn give_up(&mut self) -> Result<(), BackendError>;
}

/// A frame that is to be part of a run.
pub struct Ticket<S> {
    member: u64,
    /// Its member's.
    pub seat: Box<S>,
}

/// The meeting place.
pub struct Meeting<R: Runner> {
    batching: Batching,
    state: Mutex<State<R>>,
    /// Somebody came or went, or a run was started.
    changed: Condvar,
}

struct State<R: Runner> {
    /// None while somebody starts a run.
    turn: Option<Box<Turn<R>>>,
    /// In the order of coming.
    waiting: VecDeque<Ticket<R::Seat>>,
    /// What came of runs, until its member takes it.
    finished: Vec<Finished<R::Seat>>,
    members: Vec<Listed>,
    next_number: u64,
}

/// A frame of a run that was started or failed.
struct Finished<S> {
    ticket: Ticket<S>,
    /// How many frames the run has.
    outcome: Result<usize, BackendError>,
}

/// What somebody has who starts a run.
struct Turn<R: Runner> {
    runner: R,
    /// The frames that are being started.
    batch: Vec<Ticket<R::Seat>>,
}

/// A member as the others know it.
struct Listed {
    number: u64,
    /// Of its frames; zeros before the first.
    shape: [usize; 4],
    /// Frames since it was waited for in vain.
    trust: u32,
}

impl<R: Runner> Meeting<R> {
    /// Without members.
    pub fn new(batching: Batching, runner: R) -> Self {
        let state = State {
            turn: Some(Box::new(Turn { runner, batch: Vec::with_capacity(batching.most) })),
            waiting: VecDeque::new(),
            finished: Vec::new(),
            members: Vec::new(),
            next_number: 0,
        };
        Self { batching, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// One more member: its number.
    pub fn join(&self) -> u64 {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        state.members.push(Listed { number, shape: [0; 4], trust: 0 });
        // Room for all of them, so that no frame allocates.
        let num_members = state.members.len();
        state.waiting.reserve(num_members);
        state.finished.reserve(num_members);
        number
    }

    /// The member is gone; nobody waits for it any more.
    pub fn leave(&self, member: u64) {
        let is_own = |ticket: &Ticket<R::Seat>| ticket.member == member;
        let mut state = self.lock();
        state.members.retain(|listed| listed.number != member);
        // Only there when its thread has failed while it waited.
        state.waiting.retain(|ticket| !is_own(ticket));
        state.finished.retain(|finished| !is_own(&finished.ticket));
        drop(state);
        self.changed.notify_all();
    }

    /// From now on a member brings frames of this shape.
    pub fn set_shape(&self, member: u64, shape: [usize; 4]) {
        let mut state = self.lock();
        if let Some(listed) = state.members.iter_mut().find(|listed| listed.number == member) {
            (listed.shape, listed.trust) = (shape, 0);
        }
        drop(state);
        // Perhaps somebody waits for a frame of the shape before.
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a run that has the member's frame, and perhaps starts it. Gives the seat back with the number of its frames.
    pub fn run(&self, member: u64, seat: Box<R::Seat>) -> (Box<R::Seat>, Result<usize, BackendError>) {
        let mut state = self.lock();
        if let Some(listed) = state.members.iter_mut().find(|listed| listed.number == member) {
            listed.trust = listed.trust.saturating_add(1);
        }
        state.waiting.push_back(Ticket { member, seat });
        // Perhaps somebody waits for this one.
        self.changed.notify_all();
        loop {
            if let Some(at) = state.finished.iter().position(|it| it.ticket.member == member) {
                let Finished { ticket, outcome } = state.finished.swap_remove(at);
                return (ticket.seat, outcome);
            }
            let is_first = state.waiting.front().is_some_and(|ticket| ticket.member == member);
            let turn = if is_first { state.turn.take() } else { None };
            let Some(turn) = turn else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            Leading { meeting: self, member, turn: Some(turn), outcome: None }.start();
            state = self.lock();
        }
    }

    /// Hands the runner to `work` when nobody else has it. The member brings no frame meanwhile, and is not waited for: who
    /// waits for it has the runner that it waits for.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with_runner(
        &self,
        member: u64,
        work: impl FnOnce(&mut R) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let mut state = self.lock();
        if let Some(listed) = state.members.iter_mut().find(|listed| listed.number == member) {
            listed.trust = 0;
        }
        self.changed.notify_all();
        let turn = loop {
            match state.turn.take() {
                Some(turn) => break turn,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        let mut leading = Leading { meeting: self, member, turn: Some(turn), outcome: None };
        leading.turn.as_mut().map_or(Ok(()), |turn| work(&mut turn.runner))
    }

    /// Moves the frames of the next run from the queue into `batch`: those that have the shape of the first. Waits for members
    /// that are missing, if that is wanted.
    fn choose(&self, batch: &mut Vec<Ticket<R::Seat>>) {
        let begin = Instant::now();
        let Batching { most, wait } = self.batching;
        let mut state = self.lock();
        let Some(shape) = state.waiting.front().map(|ticket| R::shape(&ticket.seat)) else { return };
        loop {
            let State { waiting, members, .. } = &mut *state;
            let is_here = |number: u64| waiting.iter().any(|ticket| ticket.member == number);
            let is_missing =
                |listed: &&mut Listed| listed.shape == shape && listed.trust >= TRUSTED && !is_here(listed.number);
            let is_full = waiting.iter().filter(|ticket| R::shape(&ticket.seat) == shape).count() >= most;
            if is_full || members.iter_mut().find(is_missing).is_none() {
                break;
            }
            let left = wait.saturating_sub(begin.elapsed());
            if left.is_zero() {
                // Slow, failed, unplugged: whatever it is, the next runs do not wait for them.
                members.iter_mut().filter(is_missing).for_each(|listed| listed.trust = 0);
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        while batch.len() < most
            && let Some(at) = state.waiting.iter().position(|ticket| R::shape(&ticket.seat) == shape)
            && let Some(ticket) = state.waiting.remove(at)
        {
            batch.push(ticket);
        }
    }
}

/// Who has the runner. Whatever happens, it goes back and every frame of the run gets an answer.
struct Leading<'a, R: Runner> {
    meeting: &'a Meeting<R>,
    member: u64,
    turn: Option<Box<Turn<R>>>,
    outcome: Option<Result<(), BackendError>>,
}

impl<R: Runner> Leading<'_, R> {
    fn start(mut self) {
        let Some(turn) = &mut self.turn else { return };
        // Who comes meanwhile is part of the next run.
        let before = turn.runner.wait();
        self.meeting.choose(&mut turn.batch);
        self.outcome = Some(before.and_then(|()| turn.runner.launch(&mut turn.batch)));
    }
}

impl<R: Runner> Drop for Leading<'_, R> {
    fn drop(&mut self) {
        let Some(mut turn) = self.turn.take() else { return };
        let failed =
            || BackendError::new(BackendErrorKind::Run, "the thread that started a run of the network has failed");
        let num_frames = turn.batch.len();
        if self.outcome.is_none() && num_frames > 0 {
            // A panic left work half begun; the members may go on when it has ended.
            let _ = turn.runner.give_up();
        }
        let outcome = self.outcome.take().unwrap_or_else(|| Err(failed()));
        let mut state = self.meeting.lock();
        if num_frames == 0 {
            // It failed before it chose: its own frame must not stand before the others.
            state.waiting.retain(|ticket| ticket.member != self.member);
        }
        for ticket in turn.batch.drain(..) {
            let outcome = match &outcome {
                Ok(()) => Ok(num_frames),
                Err(error) => Err(BackendError::new(error.kind(), error.to_string())),
            };
            // A member that is gone takes nothing.
            if state.members.iter().any(|listed| listed.number == ticket.member) {
                state.finished.push(Finished { ticket, outcome });
            }
        }
        state.turn = Some(turn);
        drop(state);
        self.meeting.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::sync_channel;
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    use super::*;

    /// Where the thread panics that has the runner.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Place {
        Nowhere,
        /// Before it has chosen frames.
        Wait,
        /// With the frames of a run in its hands.
        Launch,
        /// While it sets memory up.
        Reserve,
    }

    /// Doubles numbers.
    struct Doubler {
        place: Place,
        /// Runs until then.
        left: usize,
        num_given_up: Arc<AtomicUsize>,
    }

    impl Doubler {
        fn pass(&mut self, place: Place) {
            if self.place == place {
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    self.place = Place::Nowhere;
                    panic!("a panic of the test's");
                }
            }
        }
    }

    struct Number {
        shape: [usize; 4],
        value: u64,
    }

    impl Runner for Doubler {
        type Seat = Number;

        fn shape(seat: &Number) -> [usize; 4] {
            seat.shape
        }

        fn wait(&mut self) -> Result<(), BackendError> {
            self.pass(Place::Wait);
            Ok(())
        }

        fn launch(&mut self, batch: &mut [Ticket<Number>]) -> Result<(), BackendError> {
            self.pass(Place::Launch);
            // Others come meanwhile.
            std::thread::sleep(Duration::from_millis(1));
            batch.iter_mut().for_each(|ticket| ticket.seat.value *= 2);
            Ok(())
        }

        fn give_up(&mut self) -> Result<(), BackendError> {
            self.num_given_up.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    /// As `batch::Member`: it leaves, whatever ends it.
    struct Member<'a>(&'a Meeting<Doubler>, u64);

    impl Drop for Member<'_> {
        fn drop(&mut self) {
            self.0.leave(self.1);
        }
    }

    /// What became of a member's frames; `None` for one whose thread panicked.
    #[derive(Debug, Default)]
    struct Played {
        sizes: Vec<usize>,
        errors: Vec<String>,
    }

    const FRAMES: u64 = 40;

    fn play(meeting: &Meeting<Doubler>, shape: [usize; 4], all_are_here: &Barrier) -> Option<Played> {
        catch_unwind(AssertUnwindSafe(|| {
            let member = Member(meeting, meeting.join());
            meeting.set_shape(member.1, shape);
            all_are_here.wait();
            let mut played = Played::default();
            for value in 0..FRAMES {
                if value == FRAMES / 2 {
                    meeting
                        .with_runner(member.1, |runner| {
                            runner.pass(Place::Reserve);
                            Ok(())
                        })
                        .unwrap();
                }
                let (seat, outcome) = meeting.run(member.1, Box::new(Number { shape, value }));
                match outcome {
                    Ok(size) => {
                        assert_eq!(seat.value, 2 * value);
                        played.sizes.push(size);
                    }
                    Err(error) => played.errors.push(error.to_string()),
                }
            }
            played
        }))
        .ok()
    }

    /// All members at once, each on a thread of its own; fails when one hangs, which a scope would wait for.
    fn play_all(place: Place, left: usize, wait: Duration, shapes: &[[usize; 4]]) -> (Vec<Option<Played>>, usize) {
        let num_given_up = Arc::new(AtomicUsize::new(0));
        let runner = Doubler { place, left, num_given_up: Arc::clone(&num_given_up) };
        let meeting = Arc::new(Meeting::new(Batching { most: shapes.len(), wait }, runner));
        let all_are_here = Arc::new(Barrier::new(shapes.len()));
        let (sender, receiver) = sync_channel(shapes.len());
        for &shape in shapes {
            let (meeting, sender, all_are_here) = (Arc::clone(&meeting), sender.clone(), Arc::clone(&all_are_here));
            let thread = std::thread::Builder::new().name("member".to_owned());
            thread.spawn(move || sender.send(play(&meeting, shape, &all_are_here))).unwrap();
        }
        let at = format!("{place:?} after {left}, waiting {wait:?}");
        let take = |_| receiver.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| panic!("{at}: one hangs"));
        let played = shapes.iter().map(take).collect();
        let state = meeting.lock();
        assert!(state.turn.is_some() && state.waiting.is_empty() && state.finished.is_empty(), "{at}");
        assert!(state.members.is_empty(), "{at}");
        (played, num_given_up.load(Ordering::Relaxed))
    }

    #[test]
    fn a_thread_that_panics_is_missed_by_nobody() {
        const ONE: [usize; 4] = [1, 3, 64, 96];
        // Longer than the test may take: a panic must not be waited for, either.
        for wait in [Duration::ZERO, Duration::from_secs(100)] {
            for (place, left) in
                [(Place::Wait, 1), (Place::Wait, 9), (Place::Launch, 1), (Place::Launch, 9), (Place::Reserve, 2)]
            {
                for shapes in [&[ONE; 3][..], &[ONE, [1, 3, 32, 96], ONE, [1, 3, 32, 96]]] {
                    let (played, num_given_up) = play_all(place, left, wait, shapes);
                    let at = format!("{place:?} after {left}, waiting {wait:?}, {shapes:?}");
                    let others: Vec<_> = played.iter().flatten().collect();
                    assert_eq!(others.len(), shapes.len() - 1, "{at}");
                    // Only who was in the run that panicked has an error, and that once.
                    let errors: Vec<_> = others.iter().flat_map(|played| &played.errors).collect();
                    assert!(
                        errors.iter().all(|error| error.contains("the thread that started a run")),
                        "{at}: {errors:?}"
                    );
                    assert!(others.iter().all(|played| played.errors.len() <= 1), "{at}: {errors:?}");
                    assert!(place == Place::Launch || errors.is_empty(), "{at}: {errors:?}");
                    assert_eq!(num_given_up, usize::from(place == Place::Launch), "{at}");
                    for played in others {
                        assert_eq!(played.sizes.len() + played.errors.len(), FRAMES as usize, "{at}");
                    }
                }
            }
        }
    }

    /// Who brought frames lately is waited for, until it comes, goes, or waits for the runner itself: then two would wait for each
    /// other.
    #[test]
    fn who_is_trusted_is_waited_for_and_nobody_else() {
        const SHAPE: [usize; 4] = [1, 3, 64, 96];
        const WAIT: Duration = Duration::from_secs(100);
        type Act = fn(&Meeting<Doubler>, Member<'_>);
        let comes: Act = |meeting, member| {
            let (seat, outcome) = meeting.run(member.1, Box::new(Number { shape: SHAPE, value: 4 }));
            assert_eq!((seat.value, outcome.unwrap()), (8, 2));
        };
        let sets_up: Act = |meeting, member| meeting.with_runner(member.1, |_| Ok(())).unwrap();
        let goes: Act = |_, member| drop(member);
        for (name, act, expected) in [("comes", comes, 2), ("sets up", sets_up, 1), ("goes", goes, 1)] {
            let runner = Doubler { place: Place::Nowhere, left: 0, num_given_up: Arc::default() };
            let meeting = Meeting::new(Batching { most: 2, wait: WAIT }, runner);
            let [trusted, other] = [(); 2].map(|()| Member(&meeting, meeting.join()));
            [&trusted, &other].iter().for_each(|member| meeting.set_shape(member.1, SHAPE));
            for value in 0..u64::from(TRUSTED) {
                // The other one has not brought any.
                let (seat, outcome) = meeting.run(trusted.1, Box::new(Number { shape: SHAPE, value }));
                assert_eq!((seat.value, outcome.unwrap()), (2 * value, 1));
            }
            let begin = Instant::now();
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| meeting.run(other.1, Box::new(Number { shape: SHAPE, value: 7 })));
                while meeting.lock().turn.is_some() {
                    assert!(begin.elapsed() < WAIT / 2, "it does not begin");
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(20));
                assert!(!waits.is_finished(), "{name}: it does not wait");
                act(&meeting, trusted);
                let (seat, outcome) = waits.join().unwrap();
                assert_eq!((seat.value, outcome.unwrap()), (14, expected), "{name}");
            });
            assert!(begin.elapsed() < WAIT / 2, "{name}: it waits to the end");
        }
    }
}
