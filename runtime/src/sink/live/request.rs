//! The head of a request: what is asked for, or why it is refused. Knows no sockets. \[F8\]

use super::address::Hosts;

/// Longest head, bytes. Browsers send below 1 KiB here.
pub(super) const MAX_HEAD_BYTES: usize = 8 << 10;
/// Most headers.
const MAX_HEADERS: usize = 64;

/// A status with its word.
pub(super) type Status = (u16, &'static str);

pub(super) const OK: Status = (200, "OK");
pub(super) const BAD_REQUEST: Status = (400, "Bad Request");
pub(super) const NOT_FOUND: Status = (404, "Not Found");
pub(super) const METHOD_NOT_ALLOWED: Status = (405, "Method Not Allowed");
pub(super) const REQUEST_TIMEOUT: Status = (408, "Request Timeout");
pub(super) const MISDIRECTED: Status = (421, "Misdirected Request");
pub(super) const HEAD_TOO_LARGE: Status = (431, "Request Header Fields Too Large");
pub(super) const UNAVAILABLE: Status = (503, "Service Unavailable");
pub(super) const VERSION_NOT_SUPPORTED: Status = (505, "HTTP Version Not Supported");

/// Why a request is not served; the words are for the person who made it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: Status,
    pub words: String,
}

impl Refusal {
    pub fn new(status: Status, words: impl Into<String>) -> Self {
        Self { status, words: words.into() }
    }
}

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// HEAD: everything but the content.
    pub head_only: bool,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    pub target: Target,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Page,
    Status,
    /// The next picture of a stream.
    Frame {
        stream: String,
        view: Option<String>,
    },
    /// Picture after picture.
    Video {
        stream: String,
        view: Option<String>,
    },
}

/// Reads a request from the bytes that came so far. None: it is not whole yet. Else the request and its length in bytes.
pub(super) fn parse(bytes: &[u8], hosts: &Hosts) -> Result<Option<(Request, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let too_large = || {
        Refusal::new(HEAD_TOO_LARGE, format!("A request may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers."))
    };
    let length = match parsed.parse(&bytes[..bytes.len().min(MAX_HEAD_BYTES)]) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => return Err(too_large()),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(too_large()),
        Err(httparse::Error::Version) => {
            return Err(Refusal::new(VERSION_NOT_SUPPORTED, "This is HTTP/1.1 and nothing else."));
        }
        Err(error) => return Err(Refusal::new(BAD_REQUEST, format!("This is no HTTP request: {error}."))),
    };
    let head_only = match parsed.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Refusal::new(METHOD_NOT_ALLOWED, "There is nothing to change here: GET and HEAD only.")),
    };
    let values = |name: &'static str| {
        parsed.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    let has_body = values("transfer-encoding").next().is_some() || values("content-length").any(|value| value != b"0");
    if has_body {
        return Err(Refusal::new(BAD_REQUEST, "A request for something to look at has no content of its own."));
    }
    let mut named = values("host");
    match (named.next().map(std::str::from_utf8), named.next()) {
        (Some(Ok(host)), None) if hosts.allow(host.trim()) => {}
        (Some(Ok(host)), None) => {
            return Err(Refusal::new(
                MISDIRECTED,
                format!(
                    "This machine is not known by the name `{}`. Ask for its address (http://127.0.0.1:…, http://192.168.…:…) or \
                     its host name; or give the name to hsg: --live NAME:PORT.",
                    host.trim()
                ),
            ));
        }
        _ => return Err(Refusal::new(BAD_REQUEST, "A request needs one header `Host`.")),
    }
    let last = |value: &[u8], word: &str| {
        std::str::from_utf8(value).is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    let keep_alive = match parsed.version {
        Some(1) => !values("connection").any(|value| last(value, "close")),
        _ => values("connection").any(|value| last(value, "keep-alive")),
    };
    let target = target(parsed.path.unwrap_or_default())?;
    Ok(Some((Request { head_only, keep_alive, target }, length)))
}

fn target(path: &str) -> Result<Target, Refusal> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let not_found = || {
        Refusal::new(
            NOT_FOUND,
            "There is no such page. There are: /  /status.json  /streams/NAME/video  /streams/NAME/frame.jpg",
        )
    };
    let parts: Vec<&str> = path.strip_prefix('/').ok_or_else(not_found)?.split('/').collect();
    let view = || {
        let view = query.and_then(|query| query.split('&').find_map(|part| part.strip_prefix("view=")));
        view.map(|view| decoded(view).ok_or_else(not_found)).transpose()
    };
    match parts[..] {
        [""] => Ok(Target::Page),
        ["status.json"] => Ok(Target::Status),
        ["streams", stream, "frame.jpg"] => {
            Ok(Target::Frame { stream: decoded(stream).ok_or_else(not_found)?, view: view()? })
        }
        ["streams", stream, "video"] => {
            Ok(Target::Video { stream: decoded(stream).ok_or_else(not_found)?, view: view()? })
        }
        _ => Err(not_found()),
    }
}

/// `%C3%BC` → `ü`; none when it is no UTF-8 or cut.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// `ü` → `%C3%BC`: everything but letters, digits, `-`, `_` and `.` of ASCII.
pub(super) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => path.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(path, "%{byte:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(Request, usize)>, Refusal> {
        parse(text.as_bytes(), &Hosts::of(&"127.0.0.1:0".parse().unwrap()))
    }

    fn target_of(path: &str) -> Result<Target, Status> {
        let request = read(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        request.map(|request| request.unwrap().0.target).map_err(|refusal| refusal.status)
    }

    #[test]
    fn requests_are_read_as_they_come() {
        let text = "GET /status.json HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(read(&text[..cut]), Ok(None), "{cut}");
        }
        let expected = Request { head_only: false, keep_alive: true, target: Target::Status };
        assert_eq!(read(&format!("{text}GET")), Ok(Some((expected, text.len()))));
        for (version, connection, keep_alive) in [
            ("1.1", "Connection: Close\r\n", false),
            ("1.1", "connection: upgrade, close\r\n", false),
            ("1.1", "Connection: keep-alive\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
        ] {
            let (request, _) =
                read(&format!("HEAD / HTTP/{version}\r\nHost: [::1]\r\n{connection}\r\n")).unwrap().unwrap();
            assert_eq!((request.keep_alive, request.head_only), (keep_alive, true), "{version} {connection}");
        }
    }

    #[test]
    fn paths_lead_somewhere_or_nowhere() {
        assert_eq!(target_of("/"), Ok(Target::Page));
        assert_eq!(target_of("/?x=1"), Ok(Target::Page));
        let frame = |stream: &str, view: Option<&str>| {
            Ok(Target::Frame { stream: stream.to_owned(), view: view.map(str::to_owned) })
        };
        assert_eq!(target_of("/streams/front/frame.jpg"), frame("front", None));
        assert_eq!(target_of("/streams/f%C3%BCr%20%2F/frame.jpg?x&view=level%31"), frame("für /", Some("level1")));
        let video = Target::Video { stream: "a".to_owned(), view: Some(String::new()) };
        assert_eq!(target_of("/streams/a/video?view="), Ok(video));
        for path in [
            "*",
            "http://localhost/",
            "//",
            "/index.html",
            "/streams",
            "/streams/a",
            "/streams/a/",
            "/streams/a/b/video",
            "/streams/%/video",
            "/streams/%f/video",
            "/streams/%zz/video",
            "/streams/%ff/video",
            "/streams/a/video?view=%",
            "/../etc/passwd",
            "/status.json/",
        ] {
            assert_eq!(target_of(path), Err(NOT_FOUND), "{path}");
        }
        for name in ["front", "für /", "<script>", "a%b", "日本"] {
            assert_eq!(decoded(&encoded(name)).as_deref(), Some(name));
            assert!(encoded(name).bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%-_.".contains(&byte)));
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_in_words() {
        let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD_BYTES));
        let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS));
        let unended = "x".repeat(MAX_HEAD_BYTES + 1);
        for (text, status) in [
            ("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", METHOD_NOT_ALLOWED),
            ("BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", METHOD_NOT_ALLOWED),
            ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", VERSION_NOT_SUPPORTED),
            ("GET / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", MISDIRECTED),
            ("GET / HTTP/1.1\r\nHost: \r\n\r\n", MISDIRECTED),
            ("\u{1}\u{2}\u{3}\r\n\r\n", BAD_REQUEST),
            ("GET /\r\n\r\n", BAD_REQUEST),
            (&long, HEAD_TOO_LARGE),
            (&many, HEAD_TOO_LARGE),
            (&unended, HEAD_TOO_LARGE),
        ] {
            let refusal = read(text).unwrap_err();
            assert_eq!(refusal.status, status, "{:?}", &text[..text.len().min(80)]);
            assert!(refusal.words.ends_with('.') || refusal.words.contains("/status.json"), "{}", refusal.words);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_stop_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let hosts = Hosts::of(&"127.0.0.1:0".parse().unwrap());
            let _ = parse(&bytes, &hosts);
            let mut request = b"GET /streams/".to_vec();
            request.extend(bytes.iter().filter(|byte| byte.is_ascii_graphic()));
            request.extend(b"/video HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let _ = parse(&request, &hosts);
        }
    }
}
