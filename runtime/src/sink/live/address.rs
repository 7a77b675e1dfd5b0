//! ADDR of `--live`: where to listen, and by which names the page may be asked for. \[F8\]

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::str::FromStr;

/// Why there is no live page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// No address.
    #[error(
        "--live {text}: expected HOST:PORT, for example 127.0.0.1:8080 (this machine alone) or 0.0.0.0:8080 (everybody who reaches it), got {got}"
    )]
    Address {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        got: String,
    },
    /// The system does not let us listen there.
    #[error("--live {address}: cannot listen there: {source}; {remedy}", remedy = listen_remedy(source))]
    Listen {
        /// Where.
        address: LiveAddress,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refused a thread.
    #[error("--live: cannot start a thread: {source}; allow more with `ulimit -u`, or leave out --live")]
    Spawn {
        /// The system's reason.
        source: io::Error,
    },
}

fn listen_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "another program (another hsg?) listens on this port: stop it, or take another port; 0 is any free one"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 are the system's: take one like 8080",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have this address; 127.0.0.1 is itself alone, 0.0.0.0 all that it has"
        }
        _ => "check the address; 127.0.0.1:8080 works on most machines",
    }
}

/// HOST:PORT after `--live`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveAddress {
    /// A name or an address, without the brackets of IPv6.
    host: String,
    port: u16,
}

impl LiveAddress {
    /// Listens there.
    pub(super) fn listen(&self) -> Result<TcpListener, LiveError> {
        let listener = TcpListener::bind((self.host.as_str(), self.port));
        listener.map_err(|source| LiveError::Listen { address: self.clone(), source })
    }

    /// What a person types into a browser to see the page served at `local`.
    pub(super) fn url(&self, local: SocketAddr) -> String {
        let port = local.port();
        match local.ip() {
            // All addresses: the machine's name leads to one of them.
            ip if ip.is_unspecified() => match machine_name() {
                Some(name) => format!("http://{name}:{port}/"),
                None => format!("http://localhost:{port}/"),
            },
            IpAddr::V4(ip) => format!("http://{ip}:{port}/"),
            IpAddr::V6(ip) => format!("http://[{ip}]:{port}/"),
        }
    }
}

impl FromStr for LiveAddress {
    type Err = LiveError;

    fn from_str(text: &str) -> Result<Self, LiveError> {
        let error = |got: &str| LiveError::Address { text: text.to_owned(), got: got.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| error("no port"))?;
        let port = port.parse().map_err(|_| error(&format!("the port `{port}`, which is not 0 to 65535")))?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inside)) if inside.parse::<Ipv6Addr>().is_ok() => inside,
            None if !host.is_empty() && host.chars().all(is_host_character) => host,
            None if host.contains(':') && !host.contains('/') => {
                return Err(error("an IPv6 address without brackets: write [::1]:8080"));
            }
            _ => return Err(error(&format!("the host `{host}`"))),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

fn is_host_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')
}

impl fmt::Display for LiveAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The names that the header `Host` may have. A foreign page whose name was made to lead here (DNS rebinding) would otherwise
/// read the pictures as if they were its own; the browser sends that name, and it is none of these.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
}

impl Hosts {
    /// Those of this machine and of `address`.
    pub fn of(address: &LiveAddress) -> Self {
        let mut names = vec!["localhost".to_owned(), address.host.to_ascii_lowercase()];
        if let Some(name) = machine_name() {
            let name = name.to_ascii_lowercase();
            names.extend([format!("{name}.local"), name]);
        }
        Self { names }
    }

    /// Whether a header may say this. Addresses always: nobody else can make them lead somewhere.
    pub fn allow(&self, header: &str) -> bool {
        let host = match header.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) if is_port(port) => return host.parse::<Ipv6Addr>().is_ok(),
                _ => return false,
            },
            None => match header.split_once(':') {
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
                Some(_) => return false,
                None => header,
            },
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        host.parse::<IpAddr>().is_ok() || self.names.contains(&host)
    }
}

/// `:8080`, or nothing.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// This machine's name, where the system tells.
fn machine_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty() && name != "(none)" && name.chars().all(is_host_character)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["127.0.0.1:8080", "0.0.0.0:0", "[::1]:65535", "localhost:80", "robot-7.lan:1"] {
            assert_eq!(text.parse::<LiveAddress>().unwrap().to_string(), text);
        }
        for (text, got) in [
            ("8080", "no port"),
            (":8080", "the host ``"),
            ("localhost", "no port"),
            ("localhost:http", "the port `http`"),
            ("localhost:65536", "0 to 65535"),
            ("::1:8080", "brackets"),
            ("[::1:8080", "the host"),
            ("[robot]:8080", "the host"),
            ("a b:1", "the host `a b`"),
            ("http://robot:8080", "the host"),
        ] {
            let error = text.parse::<LiveAddress>().unwrap_err().to_string();
            assert!(error.contains(got) && error.contains(text) && error.contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn addresses_become_links() {
        let url = |text: &str, local: &str| text.parse::<LiveAddress>().unwrap().url(local.parse().unwrap());
        assert_eq!(url("127.0.0.1:0", "127.0.0.1:4711"), "http://127.0.0.1:4711/");
        assert_eq!(url("[::1]:0", "[::1]:4711"), "http://[::1]:4711/");
        assert!(
            url("0.0.0.0:0", "0.0.0.0:4711").ends_with(":4711/") && !url("0.0.0.0:0", "0.0.0.0:1").contains("0.0.0")
        );
    }

    #[test]
    fn only_names_of_this_machine_may_be_asked_for() {
        let hosts = Hosts::of(&"Robot.lan:0".parse().unwrap());
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "192.168.1.7:1",
            "LocalHost:8080",
            "robot.lan:8",
            "robot.lan.",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "127.0.0.1.example.com",
            "localhost.example.com",
            "[::1",
            "[example.com]:1",
            "[::1]x",
            "localhost:x",
            "a@localhost",
        ] {
            assert!(!hosts.allow(host), "{host}");
        }
        if let Some(name) = machine_name() {
            assert!(hosts.allow(&format!("{name}:8080")) && hosts.allow(&format!("{name}.local")));
        }
    }
}
