//! The list after `--publish`, and listening there.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::SinkError;

/// Longest path of a Unix socket: the kernel's structure has 108 bytes, the last of them 0.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Who may connect to a Unix socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;
/// How long another program may hold the lock of the socket's folder; ours do for less than a millisecond.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Where frames are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishTo {
    /// Standard output.
    Stdout,
    /// A Unix socket of this name, at which we listen.
    Unix(PathBuf),
    /// `HOST:PORT`, an address of this machine at which we listen; port 0 = any that is free.
    Tcp(String),
}

impl FromStr for PublishTo {
    type Err = SinkError;

    /// Parses `stdout`, `unix:PATH`, `tcp:HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, SinkError> {
        let refuse = |reason: &str| Err(SinkError::Publish { to: text.to_owned(), reason: reason.to_owned() });
        match text.split_once(':') {
            None if text == "stdout" => Ok(Self::Stdout),
            Some(("unix", "")) => refuse("expected a path, for example unix:/run/hsg/frames.sock"),
            Some(("unix", path)) if path.len() > MAX_SOCKET_PATH_BYTES => refuse(&format!(
                "expected a path of at most {MAX_SOCKET_PATH_BYTES} bytes, as the system does for sockets, got {}; take a \
                 shorter one",
                path.len()
            )),
            Some(("unix", path)) => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp", address)) => match address.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    // `::1:5555` could be either.
                    match host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
                        true => refuse("expected an IPv6 address in brackets, for example tcp:[::1]:5555"),
                        false => Ok(Self::Tcp(address.to_owned())),
                    }
                }
                _ => refuse(
                    "expected address and port, for example tcp:127.0.0.1:5555 (this machine alone) or tcp:0.0.0.0:5555 \
                     (all networks it is in)",
                ),
            },
            Some(("zenoh", _)) => {
                refuse("publishing by Zenoh is not in this version; use stdout, unix:PATH or tcp:ADDRESS:PORT")
            }
            _ => refuse("expected stdout, unix:PATH or tcp:ADDRESS:PORT"),
        }
    }
}

impl fmt::Display for PublishTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Where we listen.
#[derive(Debug)]
pub(super) enum Listener {
    /// The file is first, and so removed first: while nobody listens at it yet, or any more, another program may take it
    /// over, and we would remove that one's.
    Unix {
        _file: SocketFile,
        listener: UnixListener,
    },
    Tcp(TcpListener),
}

impl Listener {
    /// Listens at `to`, without waiting for anybody; none for standard output. Gives where that is, with the port that the
    /// system chose.
    ///
    /// # Errors
    /// When somebody else listens there, something else is there, or the system refuses.
    pub fn open(to: &PublishTo) -> Result<(Option<Self>, String), SinkError> {
        let error = |reason: String| SinkError::Publish { to: to.to_string(), reason };
        match to {
            PublishTo::Stdout => Ok((None, to.to_string())),
            PublishTo::Unix(path) => {
                let listener = listen_at(path).map_err(error)?;
                Ok((Some(listener), to.to_string()))
            }
            PublishTo::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(|source| error(tcp_refused(&source)))?;
                let opened = listener.set_nonblocking(true).and_then(|()| listener.local_addr());
                let local = opened.map_err(|source| error(format!("cannot listen there: {source}")))?;
                Ok((Some(Self::Tcp(listener)), format!("tcp:{local}")))
            }
        }
    }

    /// The next one who has connected, and what to call it. Writing to it does not wait.
    ///
    /// # Errors
    /// `WouldBlock` when nobody has; else the system's.
    pub fn accept(&self) -> io::Result<(OwnedFd, String)> {
        match self {
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((UnixStream::into(stream), String::new()))
            }
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept()?;
                stream.set_nonblocking(true)?;
                // A frame is written in one go; none is to wait for the acknowledgement of the one before.
                stream.set_nodelay(true)?;
                Ok((TcpStream::into(stream), format!(" ({from})")))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix { listener, .. } => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

fn tcp_refused(source: &io::Error) -> String {
    let remedy = match source.kind() {
        io::ErrorKind::AddrInUse => "end the program that listens there, or take another port (0 = any that is free)",
        io::ErrorKind::AddrNotAvailable => "name an address of this machine, 127.0.0.1 or 0.0.0.0",
        io::ErrorKind::PermissionDenied => "take a port from 1024 on",
        _ => "name an address of this machine and a port, for example tcp:127.0.0.1:5555",
    };
    format!("cannot listen there: {source}; {remedy}")
}

/// Listens at `path`. A socket that a program left there when it died is replaced; anything else stays as it is.
fn listen_at(path: &Path) -> Result<Listener, String> {
    // Until we listen: two that start at once would both find the dead socket, and the second remove the first one's.
    let _lock = lock_folder_of(path);
    match fs::symlink_metadata(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(format!("cannot look there: {source}; check the path")),
        Ok(there) if !there.file_type().is_socket() => {
            let what = if there.is_dir() { "a folder" } else { "a file that is no socket" };
            return Err(format!(
                "expected a new path, or a socket that a program left behind, got {what}; name another path"
            ));
        }
        Ok(_) => match probe(path) {
            Err(Errno::CONNREFUSED) => {
                fs::remove_file(path)
                    .map_err(|source| format!("the socket that a program left there cannot be removed: {source}"))?;
            }
            Err(Errno::NOENT) => {}
            // AGAIN: as many wait to be accepted as may; the program may be stopped.
            Ok(()) | Err(Errno::AGAIN) => {
                return Err("another program listens there; end it, or name another path".to_owned());
            }
            Err(source) => {
                return Err(format!("the socket that is there does not answer: {source}; name another path"));
            }
        },
    }
    let listener = UnixListener::bind(path).map_err(|source| {
        let remedy = match source.kind() {
            io::ErrorKind::NotFound => "make its folder first",
            io::ErrorKind::AddrInUse => "another program was faster; end it, or name another path",
            _ => "name a path in a folder of your own",
        };
        format!("cannot listen there: {source}; {remedy}")
    })?;
    let file = SocketFile::new(path).map_err(|source| format!("cannot listen there: {source}"))?;
    listener
        .set_nonblocking(true)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)))
        .map_err(|source| format!("cannot listen there: {source}"))?;
    Ok(Listener::Unix { _file: file, listener })
}

/// Connects to the socket at `path`, without waiting, and hangs up.
fn probe(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

/// Locks the folder that `path` is in, until the file is dropped; a lock file would be left behind. None when the folder
/// cannot be locked (it may not be read, its file system has no locks) or another program keeps it locked: two of ours that
/// start within the same moment can then still take each other's socket.
fn lock_folder_of(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = File::open(parent.unwrap_or(Path::new("."))).ok()?;
    let start = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}

/// The file of a Unix socket, removed when it is dropped if it is still the one that we made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_parse_and_print_back() {
        for text in
            ["stdout", "unix:a.sock", "unix:/run/hsg/a:b.sock", "tcp:127.0.0.1:5555", "tcp:[::1]:0", "tcp:localhost:80"]
        {
            assert_eq!(text.parse::<PublishTo>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_places_are_refused_with_a_remedy() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, word) in [
            ("zenoh:hsg/frames", "not in this version"),
            ("unix:", "unix:/run/hsg"),
            (&long, "at most 107 bytes"),
            ("tcp:5555", "127.0.0.1:5555"),
            ("tcp::5555", "127.0.0.1:5555"),
            ("tcp:127.0.0.1", "127.0.0.1:5555"),
            ("tcp:127.0.0.1:70000", "127.0.0.1:5555"),
            ("tcp:::1:5555", "brackets"),
            ("udp:127.0.0.1:1", "unix:PATH"),
            ("127.0.0.1:5555", "unix:PATH"),
            ("", "unix:PATH"),
        ] {
            let message = text.parse::<PublishTo>().unwrap_err().to_string();
            assert!(message.contains(&format!("--publish {text}: ")) && message.contains(word), "{message}");
        }
        assert!(format!("unix:/{}", "x".repeat(106)).parse::<PublishTo>().is_ok());
    }

    /// A folder with a path that is short enough for sockets, however long `TMPDIR` is.
    fn folder() -> tempfile::TempDir {
        tempfile::Builder::new().prefix("hsg").tempdir_in("/tmp").unwrap()
    }

    #[test]
    fn sockets_replace_only_dead_sockets() {
        let folder = folder();
        let path = folder.path().join("s");
        let to = PublishTo::Unix(path.clone());
        let refused = |word: &str| {
            let message = Listener::open(&to).unwrap_err().to_string();
            assert!(message.contains(path.to_str().unwrap()) && message.contains(word), "{message}");
        };
        fs::write(&path, "mine").unwrap();
        refused("no socket");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("a folder");
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        refused("no socket");
        fs::remove_file(&path).unwrap();

        let alive = UnixListener::bind(&path).unwrap();
        refused("another program");
        drop(alive);
        assert!(path.exists(), "a dead program's socket");
        let (listener, name) = Listener::open(&to).unwrap();
        assert_eq!(name, format!("unix:{}", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(listener);
        assert!(!path.exists());
        // Somebody else's by now.
        let (listener, _) = Listener::open(&to).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(listener);
        assert!(path.exists());
        let to = PublishTo::Unix(folder.path().join("none/s"));
        assert!(Listener::open(&to).unwrap_err().to_string().contains("make its folder"));
    }

    #[test]
    fn a_program_that_accepts_nobody_is_alive() {
        let folder = folder();
        let path = folder.path().join("s");
        let alive = UnixListener::bind(&path).unwrap();
        // Nobody more than one may wait.
        rustix::net::listen(&alive, 0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        assert_eq!(probe(&path), Err(Errno::AGAIN));
        let message = Listener::open(&PublishTo::Unix(path.clone())).unwrap_err().to_string();
        assert!(message.contains("another program listens there") && path.exists(), "{message}");
    }

    #[test]
    fn one_of_many_takes_a_dead_socket_over() {
        let folder = folder();
        let to = PublishTo::Unix(folder.path().join("s"));
        for _ in 0..20 {
            drop(UnixListener::bind(folder.path().join("s")).unwrap());
            let start = std::sync::Barrier::new(4);
            let open = || {
                start.wait();
                Listener::open(&to).ok()
            };
            let opened: Vec<_> = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(open));
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(opened.len(), 1);
            let _subscriber = UnixStream::connect(folder.path().join("s")).unwrap();
            assert!(opened[0].0.as_ref().unwrap().accept().is_ok());
        }
    }

    #[test]
    fn ports_in_use_are_refused() {
        let (_listener, name) = Listener::open(&PublishTo::Tcp("127.0.0.1:0".to_owned())).unwrap();
        assert!(!name.ends_with(":0"), "{name}");
        let to: PublishTo = name.parse().unwrap();
        let message = Listener::open(&to).unwrap_err().to_string();
        assert!(message.contains(&name) && message.contains("another port"), "{message}");
    }
}
