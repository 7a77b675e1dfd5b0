//! Connections: who may have one, for how long, and what is sent on it. \[F8\]
//!
//! One thread accepts (`hsg-live`), and each of at most [`MAX_CONNECTIONS`] connections has one of its own (`hsg-live-viewer`).
//! Everything that a stranger may do is bounded: the bytes and the time of a request, the time of an answer, the number
//! of connections, and of those that want pictures. The pipeline knows nothing of all this.

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::address::{Hosts, LiveAddress, LiveError};
use super::exchange::{Exchange, Waited};
use super::page::{Page, SEALED};
use super::request::{
    self, MAX_HEAD_BYTES, METHOD_NOT_ALLOWED, NOT_FOUND, Refusal, Request, Status, Target, UNAVAILABLE,
};
use super::site::{Site, StreamSite};

/// Most connections at a time. A browser has up to six.
const MAX_CONNECTIONS: usize = 32;
/// Most of them that wait for pictures or are sent some.
pub(super) const MAX_VIEWERS: usize = 8;
/// How long a connection may stand between two requests.
const IDLE: Duration = Duration::from_secs(15);
/// How long a request may take from its first byte to its last.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long an answer, or one picture of a video, may take to be taken.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long a request for one picture waits for a frame, beyond the time from one picture to the next (`--live-rate`).
const FRAME_TIME: Duration = Duration::from_secs(5);
/// How often somebody who waits is looked after: they may have left.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// How long the end of a run waits for the threads of connections, which were all cut off.
const END_TIME: Duration = Duration::from_secs(1);
/// These threads hold a request and an answer, and draw nothing.
const STACK_BYTES: usize = 256 << 10;

/// The line between the pictures of a video.
const BOUNDARY: &str = "--frame\r\n";

/// Serves until it is dropped.
pub(super) struct Server {
    shared: Arc<Shared>,
    local: SocketAddr,
    /// Closing it wakes the thread that accepts.
    wake: Option<PipeWriter>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    hosts: Hosts,
    page: Page,
    /// None while the model is being loaded.
    site: OnceLock<Site>,
    viewers: AtomicUsize,
    connections: Mutex<Connections>,
    one_left: Condvar,
}

#[derive(Default)]
struct Connections {
    /// To cut them off at the end.
    open: BTreeMap<u64, TcpStream>,
    count: u64,
    stopping: bool,
}

impl Server {
    /// Listens and begins to serve; there is nothing to see yet.
    pub fn start(address: &LiveAddress) -> Result<Self, LiveError> {
        let listener = address.listen()?;
        let listen = |source| LiveError::Listen { address: address.clone(), source };
        let local = listener.local_addr().map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let (woken, wake) = io::pipe().map_err(|source| LiveError::Spawn { source })?;
        let shared = Arc::new(Shared {
            hosts: Hosts::of(address),
            page: Page::new(),
            site: OnceLock::new(),
            viewers: AtomicUsize::new(0),
            connections: Mutex::default(),
            one_left: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        let accepting = std::thread::Builder::new()
            .name("hsg-live".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || accept_all(&listener, &woken, &for_thread))
            .map_err(|source| LiveError::Spawn { source })?;
        Ok(Self { shared, local, wake: Some(wake), accepting: Some(accepting) })
    }

    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What there is to see from now on; a second time changes nothing.
    pub fn show(&self, site: Site) {
        let _ = self.shared.site.set(site);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        {
            let mut connections = self.shared.connections();
            connections.stopping = true;
            for stream in connections.open.values() {
                // Wakes whoever reads from it or writes to it.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        drop(self.wake.take());
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        // Those who wait for pictures are woken by the end of the streams.
        let all_left = |connections: &mut Connections| !connections.open.is_empty();
        let connections = self.shared.connections();
        drop(self.shared.one_left.wait_timeout_while(connections, END_TIME, all_left));
    }
}

/// Takes in whoever comes, until the other end of `woken` is closed.
fn accept_all(listener: &TcpListener, woken: &PipeReader, shared: &Arc<Shared>) {
    // Whether it was woken: there is no other end to write to.
    let is_over = |timeout: Option<&Timespec>| {
        let mut fds = [PollFd::new(woken, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        // With a timeout only the end is waited for.
        let fds = if timeout.is_some() { &mut fds[..1] } else { &mut fds[..] };
        match poll(fds, timeout) {
            Ok(_) => !fds[0].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => false,
            Err(error) => {
                log::warn!("--live: the page is over: {error}");
                true
            }
        }
    };
    while !is_over(None) {
        match listener.accept() {
            Ok((stream, _)) => shared.take(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Too many files are open, say: whoever waits is taken in when that is over.
                log::debug!("--live: {error}");
                if is_over(Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 })) {
                    return;
                }
            }
        }
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        // Nobody panics while they hold the lock, so it is in order in any case.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, stream: TcpStream) {
        let id = {
            let mut connections = self.connections();
            if connections.stopping {
                return;
            }
            if connections.open.len() >= MAX_CONNECTIONS {
                drop(connections);
                turn_away(stream);
                return;
            }
            let Ok(again) = stream.try_clone() else { return };
            connections.count += 1;
            let id = connections.count;
            connections.open.insert(id, again);
            id
        };
        let leave = Leave { shared: Arc::clone(self), id };
        let thread = std::thread::Builder::new().name("hsg-live-viewer".to_owned()).stack_size(STACK_BYTES);
        let serve = move || Connection { shared: &leave.shared, stream, bytes: Vec::new(), has_asked: false }.serve();
        if let Err(error) = thread.spawn(serve) {
            log::debug!("--live: {error}");
        }
    }

    /// A seat for one who wants pictures, while there are some.
    fn seat(&self) -> Option<Seat<'_>> {
        let one_more = |viewers| (viewers < MAX_VIEWERS).then_some(viewers + 1);
        self.viewers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Seat(&self.viewers))
    }

    /// A seat before this stream, and the index of the view.
    fn watch(&self, stream: &str, view: Option<&str>) -> Result<(Seat<'_>, &StreamSite, usize), Refusal> {
        let Some(site) = self.site.get() else {
            return Err(Refusal::new(UNAVAILABLE, "The model is still being loaded."));
        };
        let streams = || site.streams.iter().map(|stream| stream.slug.as_str()).collect::<Vec<_>>().join(", ");
        let found = site.streams.iter().find(|one| one.slug == stream || one.name == stream);
        let found = found.ok_or_else(|| {
            Refusal::new(NOT_FOUND, format!("There is no source of this name. There are: {}", streams()))
        })?;
        let view = found.exchange.view(view.unwrap_or("panel")).ok_or_else(|| {
            let views: Vec<String> = found.exchange.views().iter().map(|view| view.name()).collect();
            Refusal::new(NOT_FOUND, format!("There is no such view. There are: {}", views.join(", ")))
        })?;
        let seat = self.seat().ok_or_else(|| {
            Refusal::new(
                UNAVAILABLE,
                format!("{MAX_VIEWERS} viewers are watching already; more would slow this machine down."),
            )
        })?;
        Ok((seat, found, view))
    }
}

/// There are too many connections to begin a thread for this one.
fn turn_away(mut stream: TcpStream) {
    let words = "There are too many connections to this machine.\n";
    let text = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{words}",
        words.len()
    );
    // A few bytes fit into what the system keeps for a new connection; nobody is waited for.
    let _ = stream.set_nonblocking(true);
    // What was asked is not read, but unread bytes would take the answer with them.
    let _ = stream.read(&mut [0; MAX_HEAD_BYTES]);
    let _ = stream.write(text.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}

/// One connection less, however its thread ends.
struct Leave {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.shared.connections().open.remove(&self.id);
        self.shared.one_left.notify_all();
    }
}

/// One viewer less, however they go.
struct Seat<'a>(&'a AtomicUsize);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    /// What came and is not read yet.
    bytes: Vec<u8>,
    /// Whether a request came.
    has_asked: bool,
}

/// An answer, but for what all answers have.
struct Answer<'a> {
    status: Status,
    content_type: &'a str,
    policy: &'a str,
    /// Header lines, each with its end.
    more: String,
    /// None: it ends with the connection.
    content: Option<&'a [u8]>,
}

impl Connection<'_> {
    /// Answers one request after the other. Whoever is gone or too slow is let go without a word.
    fn serve(mut self) {
        let _ = self.stream.set_nodelay(true);
        loop {
            match self.next_request() {
                Ok(Some(request)) => match self.answer(&request) {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return,
                },
                Ok(None) => return,
                Err(refusal) => {
                    log::debug!("--live: {} {}: {}", refusal.status.0, refusal.status.1, refusal.words);
                    if self.refuse(&refusal, false, false).is_ok() {
                        self.linger();
                    }
                    return;
                }
            }
        }
    }

    /// The next request; none when there are no more.
    fn next_request(&mut self) -> Result<Option<Request>, Refusal> {
        // Whoever connects and says nothing takes the place of others.
        let patience = if self.has_asked && self.bytes.is_empty() { IDLE } else { REQUEST_TIME };
        let mut until = Instant::now() + patience;
        loop {
            if let Some((request, length)) = request::parse(&self.bytes, &self.shared.hosts)? {
                self.bytes.drain(..length);
                self.has_asked = true;
                return Ok(Some(request));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let begun = !self.bytes.is_empty();
                let late = || Refusal::new(request::REQUEST_TIMEOUT, "The request took too long.");
                return if begun { Err(late()) } else { Ok(None) };
            }
            let mut buffer = [0; 2048];
            let received = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut buffer));
            match received {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    if self.bytes.is_empty() {
                        until = Instant::now() + REQUEST_TIME;
                    }
                    self.bytes.extend_from_slice(&buffer[..count]);
                }
                Err(error) if is_not_yet(&error) => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Answers; whether another request may follow.
    fn answer(&mut self, request: &Request) -> io::Result<bool> {
        let Request { head_only, keep_alive, target } = request;
        let (head_only, keep_alive) = (*head_only, *keep_alive);
        let shared = self.shared;
        match target {
            Target::Page => {
                let page = &shared.page;
                let answer = Answer {
                    status: request::OK,
                    content_type: "text/html; charset=utf-8",
                    policy: &page.policy,
                    more: String::new(),
                    content: Some(page.html.as_bytes()),
                };
                self.send(&answer, head_only, keep_alive)?;
            }
            Target::Status => {
                let viewers = shared.viewers.load(Ordering::Relaxed);
                let json = Site::status(shared.site.get(), viewers, MAX_VIEWERS);
                self.send(&Answer::of("application/json", &json), head_only, keep_alive)?;
            }
            Target::Frame { stream, view } => match shared.watch(stream, view.as_deref()) {
                Ok((_seat, stream, view)) => self.frame(&stream.exchange, view, head_only, keep_alive)?,
                Err(refusal) => self.refuse(&refusal, head_only, keep_alive)?,
            },
            Target::Video { stream, view } => match shared.watch(stream, view.as_deref()) {
                Ok((_seat, stream, view)) => {
                    self.video(&stream.exchange, view, head_only)?;
                    return Ok(false);
                }
                Err(refusal) => self.refuse(&refusal, head_only, keep_alive)?,
            },
        }
        Ok(keep_alive)
    }

    /// Waits for a picture, and looks now and then whether the viewer is still there.
    fn wait(&self, exchange: &Exchange, view: usize, after: u64, until: Option<Instant>) -> io::Result<Waited> {
        loop {
            let next_look = Instant::now() + LOOK_AFTER;
            let waited = exchange.next_picture(view, after, until.map_or(next_look, |until| until.min(next_look)));
            match waited {
                Waited::TimedOut if self.is_gone() => return Err(io::ErrorKind::ConnectionAborted.into()),
                Waited::TimedOut if until.is_none_or(|until| Instant::now() < until) => {}
                waited => return Ok(waited),
            }
        }
    }

    /// Whether the other end has closed the connection.
    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(1..) => match self.stream.peek(&mut [0]) {
                Ok(count) => count == 0,
                Err(error) => !is_not_yet(&error),
            },
            _ => false,
        }
    }

    /// The next picture.
    fn frame(&mut self, exchange: &Exchange, view: usize, head_only: bool, keep_alive: bool) -> io::Result<()> {
        if head_only {
            return self.send(&Answer { content: None, ..Answer::of("image/jpeg", &[]) }, true, keep_alive);
        }
        // Somebody else may have had a picture just now; then the next frame is taken after the interval.
        let time = FRAME_TIME + exchange.interval();
        let refusal = match self.wait(exchange, view, exchange.newest(), Some(Instant::now() + time))? {
            Waited::Picture(picture) => {
                let more = format!("X-Frame: {}\r\n", picture.frame_index);
                return self.send(&Answer { more, ..Answer::of("image/jpeg", &picture.jpeg) }, false, keep_alive);
            }
            Waited::TimedOut => Refusal::new(UNAVAILABLE, format!("No frame came within {:.1} s.", time.as_secs_f64())),
            Waited::Closed => Refusal::new(UNAVAILABLE, "This source has ended."),
        };
        self.refuse(&refusal, false, keep_alive)
    }

    /// Pictures until one of the two ends has enough. Browsers show a part when the line after it has come.
    fn video(&mut self, exchange: &Exchange, view: usize, head_only: bool) -> io::Result<()> {
        let content_type = "multipart/x-mixed-replace; boundary=frame";
        self.send(&Answer { content: None, ..Answer::of(content_type, &[]) }, head_only, false)?;
        if head_only {
            return Ok(());
        }
        self.write(BOUNDARY.as_bytes(), Instant::now() + ANSWER_TIME)?;
        let mut after = exchange.newest();
        while let Waited::Picture(picture) = self.wait(exchange, view, after, None)? {
            after = picture.number;
            let (length, index) = (picture.jpeg.len(), picture.frame_index);
            let head = format!("Content-Type: image/jpeg\r\nContent-Length: {length}\r\nX-Frame: {index}\r\n\r\n");
            let until = Instant::now() + ANSWER_TIME;
            self.write(head.as_bytes(), until)?;
            self.write(&picture.jpeg, until)?;
            self.write(b"\r\n", until)?;
            self.write(BOUNDARY.as_bytes(), until)?;
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: &Refusal, head_only: bool, keep_alive: bool) -> io::Result<()> {
        let more = match refusal.status {
            METHOD_NOT_ALLOWED => "Allow: GET, HEAD\r\n",
            UNAVAILABLE => "Retry-After: 1\r\n",
            _ => "",
        };
        let content = format!("{}\n", refusal.words);
        let answer = Answer {
            status: refusal.status,
            more: more.to_owned(),
            ..Answer::of("text/plain; charset=utf-8", content.as_bytes())
        };
        self.send(&answer, head_only, keep_alive)
    }

    fn send(&mut self, answer: &Answer<'_>, head_only: bool, keep_alive: bool) -> io::Result<()> {
        let (code, word) = answer.status;
        let length =
            answer.content.map_or_else(String::new, |content| format!("Content-Length: {}\r\n", content.len()));
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let head = format!(
            "HTTP/1.1 {code} {word}\r\nContent-Type: {}\r\n{length}{}Connection: {connection}\r\nCache-Control: no-store\r\n\
             Content-Security-Policy: {}\r\nX-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n\
             Referrer-Policy: no-referrer\r\n\r\n",
            answer.content_type, answer.more, answer.policy
        );
        let until = Instant::now() + ANSWER_TIME;
        self.write(head.as_bytes(), until)?;
        match answer.content {
            Some(content) if !head_only => self.write(content, until),
            _ => Ok(()),
        }
    }

    /// Writes all of it by then, or fails.
    fn write(&mut self, mut bytes: &[u8], until: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_not_yet(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends a connection on which more may be coming: closed at once, what is unread would take the answer with it.
    fn linger(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let until = Instant::now() + REQUEST_TIME;
        let (mut buffer, mut received) = ([0; 2048], 0);
        while received < 16 * MAX_HEAD_BYTES {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => received += count,
                Err(error) if is_not_yet(&error) => {}
                Err(_) => return,
            }
        }
    }
}

impl<'a> Answer<'a> {
    /// A good one.
    fn of(content_type: &'a str, content: &'a [u8]) -> Self {
        Self { status: request::OK, content_type, policy: SEALED, more: String::new(), content: Some(content) }
    }
}

/// Whether it may be tried again: the time that was given is over, or a signal came.
fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
