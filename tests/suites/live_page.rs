//! `hsg run --live`, from outside: the real program, and a client that speaks HTTP by hand. Frames come through standard
//! input, so the run is open as long as the test wants, and has as many frames as it says.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::folders::tiny_model;
use tests::pictures::street;
use tests::programs::{Sandbox, assert_refused, hsg};

/// Nothing that is waited for takes longer: a test that hangs fails instead.
const TIME_LIMIT: Duration = Duration::from_secs(180);

/// A run over frames on standard input, with a live page.
struct Run {
    child: Child,
    frames: Option<ChildStdin>,
    fed: u32,
    picture: fn(u32) -> Vec<u8>,
    port: u16,
    errors: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Run {
    fn start(sandbox: &Sandbox, more: &[&str]) -> Self {
        Self::with_frames(sandbox, "raw:96x64:RGB24", |index| street(index).into_raw(), more)
    }

    fn with_frames(sandbox: &Sandbox, source: &str, picture: fn(u32) -> Vec<u8>, more: &[&str]) -> Self {
        let mut command = sandbox.command(hsg());
        command
            .args(["run", source, "--live", "127.0.0.1:0", "--save", "none", "--model"])
            .arg(tiny_model())
            .args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let frames = child.stdin.take();
        let errors = Arc::<Mutex<String>>::default();
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let for_reader = Arc::clone(&errors);
        let reader = std::thread::Builder::new().name("stderr".to_owned()).spawn(move || {
            for line in lines.map_while(Result::ok) {
                *for_reader.lock().unwrap() += &format!("{line}\n");
            }
        });
        let mut run = Self { child, frames, fed: 0, picture, port: 0, errors, reader: Some(reader.unwrap()) };
        let start = Instant::now();
        run.port = loop {
            let text = run.errors();
            let rest = text.split_once("live page: http://127.0.0.1:").and_then(|(_, rest)| rest.split_once("/\n"));
            if let Some((port, _)) = rest {
                break port.parse().expect("a port");
            }
            run.still_runs(start);
        };
        // The model is loaded.
        run.until(|status| status["state"] == "running");
        run
    }

    fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// A moment passes while the program runs and the test's time is not over.
    #[track_caller]
    fn still_runs(&mut self, since: Instant) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the program ended with {status}: {}", self.errors());
        }
        assert!(since.elapsed() < TIME_LIMIT, "waited for too long; the program said: {}", self.errors());
        std::thread::sleep(Duration::from_millis(5));
    }

    /// One frame more, and waits until it is through.
    #[track_caller]
    fn feed(&mut self) {
        let picture = (self.picture)(self.fed);
        let pipe = self.frames.as_mut().expect("still open");
        pipe.write_all(&picture).and_then(|()| pipe.flush()).expect("the program reads");
        self.fed += 1;
        let fed = u64::from(self.fed);
        self.until(|status| status["streams"][0]["frames"] == fed);
    }

    fn status(&self) -> Value {
        let response = self.get("/status.json");
        assert_eq!((response.code, response.header("content-type")), (200, "application/json"));
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// Waits until the figures are so.
    #[track_caller]
    fn until(&mut self, condition: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            self.still_runs(start);
        }
    }

    /// Feeds frames while another thread does something with them.
    #[track_caller]
    fn feed_while<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let start = Instant::now();
        let worker = std::thread::Builder::new().spawn(work).unwrap();
        while !worker.is_finished() {
            self.still_runs(start);
            self.feed();
        }
        worker.join().unwrap()
    }

    /// The picture at a path; frames are fed until there is one.
    #[track_caller]
    fn picture(&mut self, path: &str) -> Response {
        let (port, path) = (self.port, path.to_owned());
        self.feed_while(move || {
            loop {
                let response =
                    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
                // A busy machine may draw none in the time that a request has.
                if response.code != 503 {
                    return response;
                }
            }
        })
    }

    fn get(&self, path: &str) -> Response {
        ask(self.port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", self.port))
    }

    /// A connection over which this was sent.
    fn connect(&self, request: &str) -> TcpStream {
        connect(self.port, request)
    }

    /// Ends the source and waits for the program's end; its stdout.
    #[track_caller]
    fn end(mut self) -> (ExitStatus, String) {
        self.frames = None;
        self.finish()
    }

    #[track_caller]
    fn finish(&mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < TIME_LIMIT, "it does not end; it said: {}", self.errors());
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.reader.take().unwrap().join().unwrap();
        assert!(!self.errors().contains("panicked"), "{}", self.errors());
        (status, stdout)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

struct Response {
    code: u16,
    /// Names in small letters.
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Response {
    /// From all bytes of a connection.
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).expect("text");
        let (first, rest) = head.split_once("\r\n").expect("headers");
        let code = first.strip_prefix("HTTP/1.1 ").expect("HTTP")[..3].parse().expect("a status");
        let split = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Self { code, headers: rest.split("\r\n").map(split).collect(), body: bytes[end + 4..].to_vec() }
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}: {:?}", self.headers))
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    /// Size of the JPEG.
    #[track_caller]
    fn jpeg_size(&self) -> (u32, u32) {
        assert_eq!(
            (self.code, self.header("content-type")),
            (200, "image/jpeg"),
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        assert_eq!(self.header("content-length"), self.body.len().to_string());
        let picture = image::load_from_memory_with_format(&self.body, image::ImageFormat::Jpeg).expect("a picture");
        (picture.width(), picture.height())
    }
}

fn connect(port: u16, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("somebody listens");
    stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Everything that is answered to these bytes.
fn ask(port: u16, request: &str) -> Response {
    let mut bytes = Vec::new();
    connect(port, request).read_to_end(&mut bytes).expect("an answer");
    Response::read(&bytes)
}

/// The line that ends a head, and what came before.
fn read_head(reader: &mut impl std::io::BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("a line") > 0, "cut: {head}");
    }
    head
}

#[test]
fn the_page_the_figures_and_the_pictures() {
    let sandbox = Sandbox::new();
    let mut run = Run::start(&sandbox, &["--json", "--live-width", "640"]);
    let page = run.get("/");
    assert_eq!((page.code, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!((page.header("x-content-type-options"), page.header("cache-control")), ("nosniff", "no-store"));
    assert!(!page.text().contains("http://") && !page.text().contains("https://"), "nothing from elsewhere");

    let status = run.status();
    assert_eq!(status["streams"][0]["state"], "waiting");
    let id = status["run"].as_str().expect("text").to_owned();
    assert!(id.len() == 16 && status["process"] == run.child.id(), "{id}");
    assert_eq!((&status["viewers"], &status["viewers_max"]), (&0.into(), &8.into()));
    for _ in 0..3 {
        run.feed();
    }
    let status = run.status();
    assert_eq!(status["run"], *id, "it stays the same");
    let stream = &status["streams"][0];
    assert_eq!((&stream["name"], &stream["path"]), (&"raw".into(), &"/streams/raw".into()));
    assert_eq!((&stream["state"], &stream["frame_index"]), (&"running".into(), &2.into()));
    assert_eq!(stream["size"], serde_json::json!([96, 64]));
    assert_eq!(stream["segments"].as_array().unwrap().len(), 3);
    assert_eq!(stream["views"], serde_json::json!(["panel", "input", "level0", "level1", "level2"]));
    assert!(stream["latency_millis"].is_null() || stream["latency_millis"]["p99"].as_f64() > Some(0.0));
    for text in ["model", "license", "backend", "precision", "hsg"] {
        assert!(status[text].as_str().is_some_and(|text| !text.is_empty()), "{text}");
    }

    // 96×64 is drawn 320 wide at least where there is room: four pictures in two columns.
    let panel = run.picture("/streams/raw/frame.jpg");
    let (width, height) = panel.jpeg_size();
    assert!(width <= 640 && height > width / 2, "{width}×{height}");
    assert!(panel.header("x-frame").parse::<u32>().unwrap() >= 2);
    let (one_width, one_height) = run.picture("/streams/raw/frame.jpg?view=level2").jpeg_size();
    assert!(one_width <= 640 && (one_width, one_height) != (width, height), "{one_width}×{one_height}");

    let frames = run.fed;
    let (status, stdout) = run.end();
    assert_eq!(status.code(), Some(0));
    let summary: Value = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(summary["frames"], frames);
    assert!(!sandbox.path("hsg-out").exists(), "nothing is saved");
}

#[test]
fn a_video_has_one_picture_after_the_other() {
    let sandbox = Sandbox::new();
    let mut run = Run::start(&sandbox, &["--live-rate", "30"]);
    let stream = run.connect("GET /streams/raw/video HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let pictures = run.feed_while(move || {
        let mut reader = BufReader::new(stream);
        let head = read_head(&mut reader);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: multipart/x-mixed-replace; boundary=frame\r\n"), "{head}");
        let mut part = || {
            let head = read_head(&mut reader);
            let header =
                |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).expect("a header").to_owned();
            assert!(head.starts_with("--frame\r\nContent-Type: image/jpeg\r\n"), "{head}");
            let mut jpeg = vec![0; header("Content-Length: ").parse().unwrap()];
            reader.read_exact(&mut jpeg).unwrap();
            let mut end = [0; 2];
            reader.read_exact(&mut end).unwrap();
            assert_eq!(&end, b"\r\n");
            image::load_from_memory_with_format(&jpeg, image::ImageFormat::Jpeg).expect("a picture");
            (header("X-Frame: ").parse::<u32>().unwrap(), jpeg)
        };
        [part(), part(), part()]
    });
    assert!(pictures[0].0 < pictures[1].0 && pictures[1].0 < pictures[2].0);
    assert!(pictures[0].1 != pictures[1].1, "the street moves");
    assert_eq!(run.end().0.code(), Some(0));
}

#[test]
fn what_cannot_be_served_is_refused_in_words() {
    let sandbox = Sandbox::new();
    let mut run = Run::start(&sandbox, &[]);
    run.feed();
    let port = run.port;
    let with_host = |line: &str, more: &str| ask(port, &format!("{line} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"));
    let closing = "Connection: close\r\n";
    for (response, code, word) in [
        (with_host("GET /index.php", closing), 404, "/status.json"),
        (with_host("GET /streams/rear/video", closing), 404, "There are: raw"),
        (with_host("GET /streams/raw/frame.jpg?view=level9", closing), 404, "level2"),
        (with_host("GET /streams/raw/../../etc/passwd", closing), 404, "/status.json"),
        (with_host("POST /status.json", "Content-Length: 3\r\n"), 405, "GET and HEAD"),
        (with_host("GET /", &format!("X: {}\r\n", "x".repeat(30_000))), 431, "8192"),
        (with_host("GET /", &"X: y\r\n".repeat(500)), 431, "64 headers"),
        (with_host("GET /", "Transfer-Encoding: chunked\r\n"), 400, "content"),
        (ask(port, "GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n"), 421, "rebound.example"),
        (ask(port, "GET / HTTP/1.1\r\n\r\n"), 400, "Host"),
        (ask(port, "\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n"), 400, "HTTP"),
        // Begun and not ended: in time it is given up.
        (ask(port, "GET / HTTP/1.1\r\nHost: loc"), 408, "too long"),
    ] {
        assert_eq!((response.code, response.header("content-type")), (code, "text/plain; charset=utf-8"));
        assert!(response.text().contains(word), "{code}: {}", response.text());
        assert_eq!(response.header("x-content-type-options"), "nosniff");
        assert!(code != 405 || response.header("allow") == "GET, HEAD");
    }

    // One connection serves several requests; HEAD has everything but the content.
    let stream = run.connect("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /x HTTP/1.1\r\nHost: [::1]:1\r\n\r\n");
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader);
    let page = run.get("/");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", page.body.len())), "{head}");
    assert!(read_head(&mut reader).starts_with("HTTP/1.1 404 "));
    drop(reader);
    let head = ask(port, "HEAD /streams/raw/video HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.code == 200 && head.body.is_empty());
    assert_eq!(run.end().0.code(), Some(0));
}

#[test]
fn viewers_are_bounded_and_those_who_leave_make_room() {
    let sandbox = Sandbox::new();
    let mut run = Run::start(&sandbox, &[]);
    let video = "GET /streams/raw/video HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut viewers: Vec<TcpStream> = (0..8).map(|_| run.connect(video)).collect();
    run.until(|status| status["viewers"] == 8);
    for path in ["/streams/raw/video", "/streams/raw/frame.jpg"] {
        let refused = run.get(path);
        assert_eq!((refused.code, refused.header("retry-after")), (503, "1"));
        assert!(refused.text().contains("8 viewers"), "{}", refused.text());
    }
    assert_eq!((run.get("/").code, run.get("/status.json").code), (200, 200));
    viewers.truncate(6);
    run.until(|status| status["viewers"] == 6);
    run.picture("/streams/raw/frame.jpg").jpeg_size();
    // They are cut off with the run's end, however much they have not read.
    assert_eq!(run.end().0.code(), Some(0));
    for mut viewer in viewers {
        // Cut off in the middle of a picture, or after one.
        let _ = viewer.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_viewer_that_does_not_read_is_let_go_and_holds_nobody() {
    let sandbox = Sandbox::new();
    // Noise: a picture of it is large, and a few fill what the system keeps for a reader.
    let noise = |index: u32| {
        let mut state = index.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        (0..640 * 480 * 3).map(|_| next()).collect()
    };
    let more = ["--live-rate", "30", "--live-width", "1920", "--live-quality", "100"];
    let mut run = Run::with_frames(&sandbox, "raw:640x480:RGB24", noise, &more);
    let video = "GET /streams/raw/video?view=input HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let stalled = run.connect(video);
    run.until(|status| status["viewers"] == 1);
    let start = Instant::now();
    while run.status()["viewers"] != 0 {
        run.feed();
        run.still_runs(start);
    }
    // Another one, and some who ask for nothing or for half of something, at the end of the run.
    let idle = [run.connect(video), run.connect(""), run.connect("GET /")];
    run.until(|status| status["viewers"] == 1);
    for _ in 0..3 {
        run.feed();
    }
    assert_eq!(run.end().0.code(), Some(0));
    drop((stalled, idle));
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_is_loaded() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut program = sandbox.hsg();
    program.args(["run", "raw:96x64:RGB24", "--model", "nowhere", "--live", &address]);
    assert_refused(program.assert(), &["--live", &address, "another program", "another port"]);
    let mut program = sandbox.hsg();
    program.args(["run", "raw:96x64:RGB24", "--live", "8080"]);
    assert_refused(program.assert(), &["--live 8080", "HOST:PORT", "127.0.0.1:8080"]);
}

#[test]
fn one_picture_is_waited_for_as_long_as_the_rate_asks() {
    let sandbox = Sandbox::new();
    let mut run = Run::start(&sandbox, &["--live-rate", "0.5"]);
    let refused = run.get("/streams/raw/frame.jpg");
    assert_eq!((refused.code, refused.text().as_str()), (503, "No frame came within 7.0 s.\n"));
    // A run without any frame would have failed.
    run.feed();
    assert_eq!(run.end().0.code(), Some(0));
}

#[test]
fn a_hostile_name_is_only_a_name() {
    let sandbox = Sandbox::new();
    let name = "\"><script>alert('ü')</script>&/../%2e?#";
    let mut run = Run::start(&sandbox, &["--name", name]);
    let status = run.status();
    let stream = &status["streams"][0];
    assert_eq!(stream["name"], name);
    let path = stream["path"].as_str().unwrap().to_owned();
    assert!(path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/%_-.".contains(&byte)), "{path}");
    assert!(!run.get("/").text().contains("alert("));
    run.picture(&format!("{path}/frame.jpg?view=input")).jpeg_size();
    // What is wrong is said without repeating it as anything but text.
    let refused = run.get("/streams/%3Cscript%3E/video");
    assert_eq!((refused.code, refused.header("content-type")), (404, "text/plain; charset=utf-8"));
    assert_eq!(run.end().0.code(), Some(0));
}

#[test]
fn a_signal_ends_page_and_run() {
    let sandbox = Sandbox::new();
    let mut run = Run::start(&sandbox, &[]);
    run.feed();
    let viewer = run.connect("GET /streams/raw/video HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run.until(|status| status["viewers"] == 1);
    let status = Command::new("kill").args(["-s", "TERM", &run.child.id().to_string()]).status().unwrap();
    assert!(status.success());
    // Frames on standard input are bounded work: interrupted.
    assert_eq!(run.finish().0.code(), Some(143));
    drop(viewer);
}
