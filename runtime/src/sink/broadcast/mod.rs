//! `--publish`: the frames of a run to other programs, live, as the byte stream of `docs/wire.md`. \[F8\]
//!
//! | file | what |
//! |---|---|
//! | `endpoint.rs` | what may stand after `--publish`; listening there |
//! | `ring.rs` | the last frames, once for all subscribers; who is too slow loses the oldest |
//! | `server.rs` | the thread `hsg-subscribers`: lets subscribers in and writes to them |
//!
//! `hsg-publish` encodes a frame once, into a buffer of the ring, and goes on; without subscribers it does not even encode. One
//! other thread does all that depends on others, and never waits for any of them: a subscriber that takes nothing is passed
//! over, loses the oldest frames, and after 30 seconds its place. Standard output is a subscriber that is there from
//! the start. If nothing of the run comes in real time it loses nothing: there alone `hsg-publish` waits for room, as every
//! program of a pipe does.

mod endpoint;
mod ring;
mod server;

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;

use super::{Publisher, SegmentedFrame, SinkError};
use crate::pipeline::publish::Sink;
use endpoint::Listener;
pub use endpoint::PublishTo;
use ring::Ring;
use server::{Listening, Server};

/// Most places that one run publishes to.
pub const MAX_PLACES: usize = 8;
/// Most subscribers at a time, standard output not counted.
pub const MAX_SUBSCRIBERS: usize = 16;

/// How often a thread that waits for room looks whether the run is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// What became of the frames of one source at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublishSummary {
    /// The place, with the port that was chosen.
    pub to: String,
    /// Subscribers that there were.
    pub subscribers: u64,
    /// Frames of this source that they got, all together.
    pub frames: u64,
    /// Frames of this source that they were too slow for, all together.
    pub lost: u64,
}

/// What the threads share.
struct Shared {
    state: Mutex<State>,
    /// There may be room in the ring.
    room: Condvar,
    /// Readable when the server has something to look at.
    wake: OwnedFd,
    /// The whole program is asked to stop.
    stop: Arc<AtomicBool>,
}

struct State {
    ring: Ring,
    /// The endpoint whose subscribers lose nothing while the run goes on.
    patient: Option<usize>,
    /// The run is over: what waits is still delivered.
    closing: bool,
    /// The reader of standard output is gone, or it cannot be written.
    stdout_ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; and if it did, the counts would be wrong and nothing else.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_server(&self) {
        // It fails only when it is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Publishes the frames of a run.
pub struct Broadcast {
    shared: Arc<Shared>,
    /// With the ports that were chosen.
    places: Vec<String>,
    stdout: Option<usize>,
    server: Option<JoinHandle<Result<(), SinkError>>>,
}

impl Broadcast {
    /// Listens at all of `places`, and lets subscribers in from now on; none when there are no places. `stop`: the whole
    /// program is asked to stop.
    ///
    /// # Errors
    /// When one of the places is taken or the system refuses.
    pub fn open(places: &[PublishTo], stop: Arc<AtomicBool>) -> Result<Option<Self>, SinkError> {
        let Some(first) = places.first() else { return Ok(None) };
        let no_thread = |source: std::io::Error| SinkError::Publish {
            to: first.to_string(),
            reason: format!("the system refuses: {source}; allow more threads or open files with `ulimit`"),
        };
        let wake =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| no_thread(error.into()))?;
        let (mut listening, mut names, mut stdout) = (Vec::new(), Vec::new(), None);
        for (endpoint, place) in places.iter().enumerate() {
            let (listener, name) = Listener::open(place)?;
            match listener {
                Some(listener) => listening.push(Listening::new(endpoint, name.clone(), listener)),
                None => stdout = Some(endpoint),
            }
            names.push(name);
        }
        let state = State { ring: Ring::new(names.len()), patient: None, closing: false, stdout_ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), room: Condvar::new(), wake, stop });
        let server = Server::new(Arc::clone(&shared), listening, stdout)?;
        let thread = std::thread::Builder::new().name("hsg-subscribers".to_owned());
        let server = thread.spawn(move || server.run()).map_err(no_thread)?;
        Ok(Some(Self { shared, places: names, stdout, server: Some(server) }))
    }

    /// The places, with the ports that were chosen.
    pub fn places(&self) -> &[String] {
        &self.places
    }

    /// Nothing of this run comes in real time: standard output loses nothing, and the run waits for its reader.
    pub fn wait_for_stdout(&self) {
        self.shared.lock().patient = self.stdout;
    }

    /// The sink of the next source. `class_table_hash` as for [`Publisher::new`].
    pub fn add_source(&self, class_table_hash: [u8; 32]) -> BroadcastSink {
        let stream = self.shared.lock().ring.add_stream();
        BroadcastSink {
            shared: Arc::clone(&self.shared),
            stream,
            publisher: Publisher::new(class_table_hash),
            is_refused: false,
        }
    }

    /// The run is over: ends when the subscribers have what waits for them, after 2 seconds at the latest (standard output
    /// that loses nothing has as long as it needs). Sockets are closed and their files removed. Further calls do nothing.
    ///
    /// # Errors
    /// When standard output could not be written, for another reason than that its reader has read enough.
    pub fn close(&mut self) -> Result<(), SinkError> {
        let Some(server) = self.server.take() else { return Ok(()) };
        self.shared.lock().closing = true;
        self.shared.wake_server();
        server.join().unwrap_or_else(|_| {
            let reason =
                "the thread hsg-subscribers stopped unexpectedly; this is an error of the program, please report it";
            Err(SinkError::Publish { to: self.places.join(" "), reason: reason.to_owned() })
        })
    }

    /// What became of the frames of source `stream`, counted in the order of [`Broadcast::add_source`].
    pub fn summary(&self, stream: usize) -> Vec<PublishSummary> {
        let state = self.shared.lock();
        let of = |(endpoint, to): (usize, &String)| {
            let counts = state.ring.counts(stream, endpoint);
            PublishSummary {
                to: to.clone(),
                subscribers: state.ring.joined(endpoint),
                frames: counts.frames,
                lost: counts.lost,
            }
        };
        self.places.iter().enumerate().map(of).collect()
    }
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("{error}");
        }
    }
}

/// Publishes the frames of one source. It saves nothing, so it never fails.
pub struct BroadcastSink {
    shared: Arc<Shared>,
    stream: usize,
    publisher: Publisher,
    /// A frame could not be encoded, which was said.
    is_refused: bool,
}

impl BroadcastSink {
    fn publish(&mut self, frame: &SegmentedFrame) {
        let mut buffer = {
            let mut state = self.shared.lock();
            if !state.ring.has_subscribers() {
                return;
            }
            state.ring.buffer()
        };
        let encoded = Arc::get_mut(&mut buffer).map(|bytes| wire::encode_into(self.publisher.publish(frame), bytes));
        let mut state = self.shared.lock();
        match encoded {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                state.ring.put_back(buffer);
                if !std::mem::replace(&mut self.is_refused, true) {
                    log::error!("`{}`: frame {} is not published: {error}", frame.stream, frame.frame.index);
                }
                return;
            }
            // The ring hands out what nobody else has.
            None => return,
        }
        while state.patient.is_some_and(|patient| state.ring.is_full_for(patient))
            && !state.stdout_ended
            && !self.shared.stop.load(Ordering::Relaxed)
        {
            state = self.shared.room.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.ring.push(self.stream, buffer);
        drop(state);
        self.shared.wake_server();
    }
}

impl Sink for BroadcastSink {
    fn show(&mut self, frame: &SegmentedFrame) -> ControlFlow<()> {
        self.publish(frame);
        if self.shared.lock().stdout_ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn write(&mut self, _: &SegmentedFrame) -> Result<(), SinkError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        // The other sources may still have something for the subscribers: `Broadcast::close` is the end.
        Ok(())
    }
}
