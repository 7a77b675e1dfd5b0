//! The thread that lets subscribers in and writes to them. It waits for all of them at once and for none alone.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::endpoint::Listener;
use super::{MAX_PLACES, MAX_SUBSCRIBERS, Shared, SinkError};

/// How long a subscriber may take nothing while something waits for it, before it loses its place to others.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long the end of a run waits for subscribers that are behind.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Pause after the system refused to let somebody in (too many open files): it would refuse at once again.
const ACCEPT_RETRY: Duration = Duration::from_millis(500);
/// How often time limits are looked at while something waits.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Most bytes that go to a pipe at a time: if there is room for any, there is room for so many (POSIX: PIPE_BUF), so that a
/// pipe that others share need not be made one that does not wait.
const PIPE_BYTES: usize = 4096;
/// All that is waited for: the alarm clock, listeners, subscribers and standard output.
const MAX_FDS: usize = 1 + MAX_PLACES + MAX_SUBSCRIBERS + 1;

/// A place where subscribers come in.
pub(super) struct Listening {
    endpoint: usize,
    name: String,
    listener: Listener,
    /// Not to be looked at before.
    paused_until: Option<Instant>,
}

impl Listening {
    pub fn new(endpoint: usize, name: String, listener: Listener) -> Self {
        Self { endpoint, name, listener, paused_until: None }
    }
}

/// Somebody who gets frames.
struct Subscriber {
    id: u64,
    /// What to call it in the log.
    name: String,
    output: OwnedFd,
    is_stdout: bool,
    /// Most bytes to write at a time.
    piece_bytes: usize,
    /// What is being written.
    pending: Option<Pending>,
    /// Whether it may still say something. Nobody listens, but what is not read keeps a socket from closing well.
    may_talk: bool,
    /// When it last took something, or had nothing to take.
    took: Instant,
}

/// Bytes on their way to a subscriber.
struct Pending {
    bytes: Arc<Vec<u8>>,
    /// The stream whose frame it is; none = the header.
    stream: Option<usize>,
    written: usize,
}

/// Why a subscriber is no longer one.
enum Left {
    /// It has everything, and the run is over.
    Done,
    /// It went.
    Went,
    /// It cannot be written to.
    Failed(Errno),
    /// It took nothing for too long.
    Slow,
    /// The run is over, and it is behind.
    Late,
}

/// See the module.
pub(super) struct Server {
    shared: Arc<Shared>,
    listening: Vec<Listening>,
    subscribers: Vec<Subscriber>,
    /// Whether it was said that there is no place for more.
    is_full_said: bool,
    header: Arc<Vec<u8>>,
    /// When the run was over and nobody was waited for any longer.
    over_since: Option<Instant>,
    stdout_error: Option<Errno>,
}

impl Server {
    /// With standard output as the first subscriber, if it is one.
    ///
    /// # Errors
    /// When there is no standard output.
    pub fn new(shared: Arc<Shared>, listening: Vec<Listening>, stdout: Option<usize>) -> Result<Self, SinkError> {
        let header = Arc::new(wire::FileHeader::default().to_bytes().to_vec());
        let mut server = Self {
            shared,
            listening,
            subscribers: Vec::with_capacity(MAX_SUBSCRIBERS + 1),
            is_full_said: false,
            header,
            over_since: None,
            stdout_error: None,
        };
        if let Some(endpoint) = stdout {
            // A copy, because the one of the program is not ours to close.
            let output = io::stdout().as_fd().try_clone_to_owned().map_err(|source| stdout_error(&source))?;
            let is_file = output.try_clone().map(std::fs::File::from).and_then(|file| file.metadata());
            let is_file = is_file.is_ok_and(|metadata| metadata.is_file());
            server.add(endpoint, output, None);
            if let Some(subscriber) = server.subscribers.last_mut() {
                subscriber.piece_bytes = if is_file { usize::MAX } else { PIPE_BYTES };
            }
        }
        Ok(server)
    }

    /// Serves until the run is over and everybody has what waits.
    ///
    /// # Errors
    /// When standard output could not be written.
    pub fn run(mut self) -> Result<(), SinkError> {
        // However this ends, nobody waits for room any more.
        struct End(Arc<Shared>);
        impl Drop for End {
            fn drop(&mut self) {
                self.0.lock().stdout_ended = true;
                self.0.room.notify_all();
            }
        }
        let _end = End(Arc::clone(&self.shared));
        while !self.hand_out() {
            let mut events = [PollFlags::empty(); MAX_FDS];
            let (first_listener, first_subscriber) = (1, 1 + self.listening.len());
            match self.wait(&mut events) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(error) => {
                    // Out of memory, at most: not for ever, and not in a hurry.
                    log::debug!("--publish: poll: {error}");
                    std::thread::sleep(ACCEPT_RETRY);
                    continue;
                }
            }
            if !events[0].is_empty() {
                let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
            }
            // From behind, because whoever leaves is replaced by the last one.
            for place in (0..self.subscribers.len()).rev() {
                if let Some(left) = self.serve(place, events[first_subscriber + place]) {
                    self.remove(place, &left);
                }
            }
            for place in 0..self.listening.len() {
                if !events[first_listener + place].is_empty() {
                    self.let_in(place);
                }
            }
        }
        match self.stdout_error.take() {
            None => Ok(()),
            Some(error) => Err(stdout_error(&error.into())),
        }
    }

    /// Gives everybody who has nothing the next frame. True when the run is over and there is nothing more to do.
    fn hand_out(&mut self) -> bool {
        let now = Instant::now();
        let mut left: Vec<(usize, Left)> = Vec::new();
        let mut state = self.shared.lock();
        let is_closing = state.closing;
        // Where nothing of the run may be lost it ends when its reader has everything, or somebody wants it to end.
        let is_urgent = is_closing && (state.patient.is_none() || self.shared.stop.load(Ordering::Relaxed));
        let over_since = is_urgent.then(|| *self.over_since.get_or_insert(now));
        for (place, subscriber) in self.subscribers.iter_mut().enumerate() {
            if subscriber.pending.is_none() {
                subscriber.took = now;
                if let Some((bytes, stream)) = state.ring.take(subscriber.id) {
                    subscriber.pending = Some(Pending { bytes, stream: Some(stream), written: 0 });
                    self.shared.room.notify_all();
                }
            }
            let is_done = subscriber.pending.is_none();
            if is_done && is_closing {
                left.push((place, Left::Done));
            } else if over_since.is_some_and(|since| now.duration_since(since) > LINGER) {
                left.push((place, Left::Late));
            } else if !subscriber.is_stdout && now.duration_since(subscriber.took) > PATIENCE {
                left.push((place, Left::Slow));
            }
        }
        drop(state);
        for (place, why) in left.into_iter().rev() {
            self.remove(place, &why);
        }
        is_closing && self.subscribers.is_empty()
    }

    /// Waits until something can be done, and says what: the alarm clock, then listeners, then subscribers.
    fn wait(&self, events: &mut [PollFlags; MAX_FDS]) -> Result<(), Errno> {
        let now = Instant::now();
        let wake = &self.shared.wake;
        let mut fds: [PollFd<'_>; MAX_FDS] = std::array::from_fn(|_| PollFd::new(wake, PollFlags::empty()));
        fds[0] = PollFd::new(wake, PollFlags::IN);
        let mut used = 1;
        let mut has_limit = self.over_since.is_some();
        for listening in &self.listening {
            let is_paused = listening.paused_until.is_some_and(|until| now < until);
            has_limit |= is_paused;
            fds[used] = PollFd::new(&listening.listener, if is_paused { PollFlags::empty() } else { PollFlags::IN });
            used += 1;
        }
        for subscriber in &self.subscribers {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::OUT, subscriber.pending.is_some());
            wanted.set(PollFlags::IN, subscriber.may_talk);
            has_limit |= subscriber.pending.is_some();
            fds[used] = PollFd::new(&subscriber.output, wanted);
            used += 1;
        }
        poll(&mut fds[..used], has_limit.then_some(&TICK))?;
        for (event, fd) in events.iter_mut().zip(&fds) {
            *event = fd.revents();
        }
        Ok(())
    }

    /// Does what can be done for a subscriber now.
    fn serve(&mut self, place: usize, events: PollFlags) -> Option<Left> {
        let subscriber = &mut self.subscribers[place];
        if events.contains(PollFlags::IN) {
            match rustix::io::read(&subscriber.output, &mut [0; 1024]) {
                // It may only have said that it has nothing to say, as netcat does.
                Ok(0) => subscriber.may_talk = false,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Some(Left::Failed(error)),
            }
        }
        if events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Some(Left::Went);
        }
        let pending = subscriber.pending.as_mut().filter(|_| events.contains(PollFlags::OUT))?;
        let rest = pending.bytes.get(pending.written..).unwrap_or_default();
        match rustix::io::write(&subscriber.output, &rest[..rest.len().min(subscriber.piece_bytes)]) {
            Ok(count) => {
                pending.written += count;
                subscriber.took = Instant::now();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Some(Left::Went),
            Err(error) => return Some(Left::Failed(error)),
        }
        if pending.written >= pending.bytes.len() {
            if let Some(stream) = pending.stream {
                self.shared.lock().ring.given(subscriber.id, stream);
            }
            subscriber.pending = None;
        }
        None
    }

    /// Lets all in who wait at a place.
    fn let_in(&mut self, place: usize) {
        loop {
            let listening = &mut self.listening[place];
            match listening.listener.accept() {
                Ok((output, from)) => {
                    listening.paused_until = None;
                    let num_others = self.subscribers.iter().filter(|subscriber| !subscriber.is_stdout).count();
                    if num_others >= MAX_SUBSCRIBERS {
                        if !std::mem::replace(&mut self.is_full_said, true) {
                            log::warn!(
                                "--publish {}: a subscriber{from} is refused, there are {MAX_SUBSCRIBERS} already",
                                listening.name
                            );
                        }
                        continue;
                    }
                    let (endpoint, name) = (listening.endpoint, listening.name.clone());
                    self.add(endpoint, output, Some((name, from)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It went before it was let in.
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                Err(error) => {
                    if listening.paused_until.replace(Instant::now() + ACCEPT_RETRY).is_none() {
                        log::warn!(
                            "--publish {}: a subscriber cannot be let in: {error}; trying again",
                            listening.name
                        );
                    }
                    return;
                }
            }
        }
    }

    /// `came`: at which place, and from where; none = standard output, which was there from the start.
    fn add(&mut self, endpoint: usize, output: OwnedFd, came: Option<(String, String)>) {
        let id = self.shared.lock().ring.join(endpoint);
        let is_stdout = came.is_none();
        let name = came.map_or("stdout".to_owned(), |(place, from)| format!("{place}: subscriber {id}{from}"));
        log::info!("--publish {name} gets frames from now on");
        self.subscribers.push(Subscriber {
            id,
            name,
            output,
            is_stdout,
            piece_bytes: usize::MAX,
            pending: Some(Pending { bytes: Arc::clone(&self.header), stream: None, written: 0 }),
            may_talk: !is_stdout,
            took: Instant::now(),
        });
    }

    fn remove(&mut self, place: usize, why: &Left) {
        let subscriber = self.subscribers.swap_remove(place);
        let is_late = matches!(why, Left::Late | Left::Slow);
        let counts = {
            let mut state = self.shared.lock();
            if let (true, Some(stream)) = (is_late, subscriber.pending.as_ref().and_then(|pending| pending.stream)) {
                state.ring.lost(subscriber.id, stream);
            }
            let counts = state.ring.leave(subscriber.id, is_late);
            // Who reads standard output has read enough; the run ends, too.
            state.stdout_ended |= subscriber.is_stdout;
            counts
        };
        self.shared.room.notify_all();
        if !subscriber.is_stdout {
            self.is_full_said = false;
        }
        let why = match why {
            Left::Done => "the run is over".to_owned(),
            Left::Went => "it left".to_owned(),
            Left::Failed(error) if subscriber.is_stdout => {
                self.stdout_error = Some(*error);
                error.to_string()
            }
            Left::Failed(error) => error.to_string(),
            Left::Slow => format!("it took nothing for {} s", PATIENCE.as_secs()),
            Left::Late => "the run is over, and it is behind".to_owned(),
        };
        let level = if counts.lost > 0 { log::Level::Warn } else { log::Level::Info };
        let name = &subscriber.name;
        log::log!(level, "--publish {name} got {} frames and lost {}; {why}", counts.frames, counts.lost);
    }
}

fn stdout_error(source: &io::Error) -> SinkError {
    SinkError::Publish { to: "stdout".to_owned(), reason: format!("cannot be written: {source}; disk full?") }
}
