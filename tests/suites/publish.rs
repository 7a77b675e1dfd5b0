//! `hsg run --publish`: other programs get the frames live. The tests feed frames one by one through standard input, so
//! that they decide what has happened when.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Cursor, ErrorKind, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tests::folders::{tiny_model, workspace};
use tests::outputs::{assert_whole, files, read_frames, read_json};
use tests::pictures::{street, street_folder};
use tests::programs::{Sandbox, Started, assert_refused, hsg};
use tests::skip;

const RAW: &str = "raw:96x64:RGB24";

/// Nobody waits longer for a frame: a test that hangs fails instead of stopping the suite.
const TIME_LIMIT: Duration = Duration::from_secs(180);

/// An `hsg run` that gets its frames from the test, one by one.
struct Run {
    program: Started,
    /// Closed = the end of the source.
    input: Option<ChildStdin>,
    given: u32,
    stderr: std::path::PathBuf,
}

impl Run {
    /// Starts it with further arguments; it saves `out/frames.hsg`. Standard output is as `stdout` says.
    fn start_with(sandbox: &Sandbox, arguments: &[&str], stdout: Stdio) -> (Self, Option<ChildStdout>) {
        let stderr = sandbox.path("stderr");
        let mut command = sandbox.command(hsg());
        command.args(["run", RAW, "--save", "frames", "--out", "out", "--force", "--model"]).arg(tiny_model());
        command.args(arguments).stdin(Stdio::piped()).stdout(stdout).stderr(File::create(&stderr).unwrap());
        let mut program = Started::as_is(command);
        let (input, output) = (program.child().stdin.take(), program.child().stdout.take());
        (Self { program, input, given: 0, stderr }, output)
    }

    fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        Self::start_with(sandbox, arguments, Stdio::null()).0
    }

    fn stderr(&self) -> String {
        let text = fs::read_to_string(&self.stderr).unwrap();
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    /// Waits for `words` on stderr.
    #[track_caller]
    fn wait_for(&mut self, words: &str) {
        let stderr = self.stderr.clone();
        self.program.wait_until(words, || fs::read_to_string(&stderr).unwrap().contains(words));
    }

    /// Where it listens, as it says itself.
    #[track_caller]
    fn place(&mut self, kind: &str) -> String {
        let words = format!("publishing frames: {kind}:");
        self.wait_for(&words);
        // The line is written in one go, but a reader may see less of it.
        let stderr = self.stderr.clone();
        let line = || {
            let text = fs::read_to_string(&stderr).unwrap();
            let (_, rest) = text.split_once("publishing frames: ")?;
            rest.split_once('\n').map(|(place, _)| place.to_owned())
        };
        self.program.wait_until(&words, || line().is_some());
        line().unwrap()
    }

    /// Gives it the next frame.
    fn give(&mut self) {
        self.try_give().unwrap();
    }

    fn try_give(&mut self) -> std::io::Result<()> {
        let picture = street(self.given).into_raw();
        self.given += 1;
        self.input.as_mut().expect("its source has not ended").write_all(&picture)
    }

    /// Ends its source.
    fn end(&mut self) {
        self.input = None;
    }

    /// Waits for its end.
    #[track_caller]
    fn finish(&mut self, code: i32) {
        self.end();
        let output = self.program.finish();
        assert_eq!(output.status.code(), Some(code), "{}", self.stderr());
    }
}

/// Somebody who has connected and has the header: the frames from the next one on are for it.
struct Subscriber {
    frames: wire::StreamReader<Box<dyn Read>>,
}

impl Subscriber {
    /// None = it was refused.
    fn try_new(mut socket: Box<dyn Read>) -> Option<Self> {
        let mut header = vec![0; wire::HEADER_BYTES];
        socket.read_exact(&mut header).ok()?;
        Some(Self { frames: wire::StreamReader::new(Box::new(Cursor::new(header).chain(socket))) })
    }

    fn connected(path: &Path) -> Box<dyn Read> {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        Box::new(socket)
    }

    fn unix(path: &Path) -> Self {
        Self::try_new(Self::connected(path)).expect("a header")
    }

    fn tcp(place: &str) -> Self {
        let socket = TcpStream::connect(place.strip_prefix("tcp:").unwrap()).unwrap();
        socket.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        Self::try_new(Box::new(socket)).expect("a header")
    }

    /// The next frame; none at the end.
    fn next(&mut self) -> Option<wire::Frame> {
        self.frames.next_frame().unwrap()
    }

    fn frame(&mut self) -> wire::Frame {
        self.next().expect("a frame")
    }
}

/// The only document of `publish` in a summary.
fn published(summary: &Path) -> serde_json::Value {
    read_json(summary)["publish"].clone()
}

#[test]
fn subscribers_come_and_go_and_get_what_is_saved() {
    let sandbox = Sandbox::for_sockets();
    let socket = sandbox.path("s");
    let mut run = Run::start(&sandbox, &["--publish", "unix:s", "--publish", "tcp:127.0.0.1:0"]);
    assert_eq!(run.place("unix"), "unix:s");
    run.wait_for("publishing frames: tcp:");
    let mut early = Subscriber::unix(&socket);
    let mut got = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        run.give();
        got[0].push(early.frame());
    }
    let mut late = Subscriber::unix(&socket);
    for _ in 0..3 {
        run.give();
        got[0].push(early.frame());
        got[1].push(late.frame());
    }
    drop(early);
    for _ in 0..3 {
        run.give();
        got[1].push(late.frame());
    }
    run.end();
    assert!(late.next().is_none(), "the end of the run is the end of the stream");
    run.finish(0);
    let saved = read_frames(&sandbox.path("out/frames.hsg"));
    assert_eq!((saved.len(), &saved[..6], &saved[3..]), (9, &got[0][..], &got[1][..]));
    assert!(!socket.exists());

    let published = published(&sandbox.path("out/summary.json"));
    let unix = serde_json::json!({"to": "unix:s", "subscribers": 2, "frames": 12, "lost": 0});
    assert_eq!((&published[0], published.as_array().unwrap().len()), (&unix, 2));
    let to = published[1]["to"].as_str().unwrap();
    assert!(to.starts_with("tcp:127.0.0.1:") && !to.ends_with(":0"), "{to}");
    assert_eq!(published[1]["subscribers"], 0);
    assert_eq!(assert_whole(&sandbox.path("out")), Some(9));
}

#[test]
fn a_subscriber_that_never_reads_loses_frames_and_holds_nobody_up() {
    let sandbox = Sandbox::for_sockets();
    let mut run = Run::start(&sandbox, &["--publish", "unix:s"]);
    run.place("unix");
    let mut slow = Subscriber::unix(&sandbox.path("s"));
    let mut quick = Subscriber::unix(&sandbox.path("s"));
    // More than the socket can hold, and as many again.
    let socket_bytes =
        fs::read_to_string("/proc/sys/net/core/wmem_default").ok().and_then(|text| text.trim().parse().ok());
    let enough = 2 * socket_bytes.unwrap_or(212_992);
    let (mut got, mut bytes) = (Vec::new(), Vec::new());
    while bytes.len() < enough {
        run.give();
        let frame = quick.frame();
        wire::encode_into(&frame, &mut bytes).unwrap();
        got.push(frame);
    }
    run.finish(0);
    let saved = read_frames(&sandbox.path("out/frames.hsg"));
    assert!(got == saved, "the quick one got everything");
    let published = published(&sandbox.path("out/summary.json"));
    let count = |key: &str| published[0][key].as_u64().unwrap() as usize;
    assert!(count("lost") > 0 && count("frames") < 2 * saved.len(), "{published}");
    assert!(run.stderr().contains("--publish unix:s: subscriber 1 got "), "{}", run.stderr());
    // What the socket held is the beginning, frame by frame; the last one may be cut.
    let mut held = Vec::new();
    while let Ok(Some(frame)) = slow.frames.next_frame() {
        held.push(frame);
    }
    assert!(!held.is_empty() && held.len() < saved.len());
    assert!(held == saved[..held.len()]);
}

#[test]
fn more_than_sixteen_are_refused_until_one_leaves() {
    let sandbox = Sandbox::for_sockets();
    let socket = sandbox.path("s");
    let mut run = Run::start(&sandbox, &["--publish", "unix:s"]);
    run.place("unix");
    let mut subscribers: Vec<Subscriber> = (0..16).map(|_| Subscriber::unix(&socket)).collect();
    assert!(Subscriber::try_new(Subscriber::connected(&socket)).is_none(), "there are sixteen");
    run.wait_for("there are 16 already");
    subscribers.pop();
    let start = Instant::now();
    let newcomer = loop {
        if let Some(subscriber) = Subscriber::try_new(Subscriber::connected(&socket)) {
            break subscriber;
        }
        assert!(start.elapsed() < TIME_LIMIT, "nobody is let in");
    };
    subscribers.push(newcomer);
    run.give();
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.frame().sequence, 0);
    }
    run.finish(0);
    assert_eq!(published(&sandbox.path("out/summary.json"))[0]["frames"], 16);
}

#[test]
fn sockets_are_taken_over_from_the_dead_only() {
    let sandbox = Sandbox::for_sockets();
    let refused = |to: &str, words: &[&str]| {
        let mut command = sandbox.hsg();
        // A model that is not there: what is said about the socket comes before.
        command.args(["run", RAW, "--model", "nowhere", "--out", "refused", "--publish", to]);
        assert_refused(command.assert(), &[&[to], words].concat());
        assert!(!sandbox.path("refused").exists());
    };
    fs::write(sandbox.path("mine"), "mine").unwrap();
    refused("unix:mine", &["no socket"]);
    assert_eq!(fs::read_to_string(sandbox.path("mine")).unwrap(), "mine");
    refused("unix:none/s", &["make its folder"]);
    let alive = UnixListener::bind(sandbox.path("alive")).unwrap();
    refused("unix:alive", &["another program listens there"]);
    drop(alive);

    // Killed, a program leaves its socket.
    let mut run = Run::start(&sandbox, &["--publish", "unix:s"]);
    run.place("unix");
    run.program.send("KILL");
    assert_eq!(run.program.finish().status.code(), None);
    assert!(sandbox.path("s").exists());
    let mut run = Run::start(&sandbox, &["--publish", "unix:s"]);
    run.place("unix");
    let mut subscriber = Subscriber::unix(&sandbox.path("s"));
    refused("unix:s", &["another program listens there"]);
    run.give();
    assert_eq!(subscriber.frame().sequence, 0);
    run.finish(0);
    assert!(!sandbox.path("s").exists());
}

#[test]
fn ports_in_use_and_contradictions_are_refused() {
    let sandbox = Sandbox::for_sockets();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp:{}", listener.local_addr().unwrap());
    let attempt = |arguments: &[&str]| {
        let mut command = sandbox.hsg();
        command.args(["run", RAW, "--model", "nowhere"]).args(arguments);
        command.assert()
    };
    assert_refused(attempt(&["--publish", &taken]), &[&taken, "another port"]);
    assert_refused(attempt(&["--publish", "stdout", "--json"]), &["--publish stdout", "--json", "unix:PATH"]);
    assert_refused(attempt(&["--publish", "zenoh:frames"]), &["zenoh:frames", "not in this version"]);
    assert_refused(attempt(&["--publish", "unix:a", "--publish", "unix:a"]), &["unix:a", "twice"]);
    let long = format!("unix:{}", "x".repeat(108));
    assert_refused(attempt(&["--publish", &long]), &["107 bytes"]);
    assert_eq!(files(&sandbox.path("")), Vec::<String>::new());
}

#[test]
fn settings_files_and_the_environment_name_places() {
    let sandbox = Sandbox::for_sockets();
    let places = "publish = [\"unix:/run/hsg/frames.sock\", \"tcp:[::1]:5555\"]";
    fs::write(sandbox.path("a.toml"), format!("[run]\n{places}\n")).unwrap();
    let shown = |command: &mut assert_cmd::Command| {
        let output = command.args(["run", "--show-settings"]).assert().code(0).get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    let first = shown(sandbox.hsg().args(["--config", "a.toml"]));
    assert!(first.contains(places), "{first}");
    fs::write(sandbox.path("b.toml"), &first).unwrap();
    assert_eq!(shown(sandbox.hsg().args(["--config", "b.toml"])), first);
    // What is nearer to the person wins.
    let shown = shown(sandbox.hsg().args(["--config", "a.toml"]).env("HSG_PUBLISH", "unix:x"));
    assert!(shown.contains("publish = [\"unix:x\"]"), "{shown}");
}

#[test]
fn a_signal_ends_the_stream_with_a_whole_frame() {
    let sandbox = Sandbox::for_sockets();
    let mut run = Run::start(&sandbox, &["--publish", "unix:s"]);
    run.place("unix");
    let mut subscriber = Subscriber::unix(&sandbox.path("s"));
    run.give();
    subscriber.frame();
    run.program.send("TERM");
    assert!(subscriber.next().is_none());
    // The source is still open.
    let output = run.program.finish();
    assert_eq!(output.status.code(), Some(143), "{}", run.stderr());
    assert!(!sandbox.path("s").exists());
}

#[test]
fn standard_output_loses_nothing_however_late_it_is_read() {
    const FRAMES: u32 = 300;
    let sandbox = Sandbox::for_sockets();
    let (mut run, output) = Run::start_with(&sandbox, &["--publish", "stdout"], Stdio::piped());
    let partial = sandbox.path("out/.frames.hsg.partial");
    let (mut bytes, stderr) = (Vec::new(), run.stderr.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Full when nobody reads: the run waits.
            (0..FRAMES).for_each(|_| run.give());
            run.end();
        });
        // Closed with this block, whatever happens in it: a run that waits for it ends.
        let mut output = output.unwrap();
        // Not before something is saved. A pipe may be as small as two pages.
        let start = Instant::now();
        while !fs::metadata(&partial).is_ok_and(|file| file.len() > 8 << 10) {
            let stderr = fs::read_to_string(&stderr).unwrap();
            assert!(start.elapsed() < TIME_LIMIT && !stderr.contains("error"), "{stderr}");
            std::thread::sleep(Duration::from_millis(5));
        }
        output.read_to_end(&mut bytes).unwrap();
    });
    run.finish(0);
    assert!(bytes == fs::read(sandbox.path("out/frames.hsg")).unwrap());
    let published = published(&sandbox.path("out/summary.json"));
    let expected = serde_json::json!([{"to": "stdout", "subscribers": 1, "frames": FRAMES, "lost": 0}]);
    assert_eq!(published, expected);
    assert_eq!(read_frames(&sandbox.path("out/frames.hsg")).len(), FRAMES as usize);
}

#[test]
fn a_signal_ends_a_run_that_waits_for_its_reader() {
    let sandbox = Sandbox::for_sockets();
    let (run, output) = Run::start_with(&sandbox, &["--publish", "stdout"], Stdio::piped());
    // Held and never read.
    let output = output.unwrap();
    let (partial, picture) = (sandbox.path("out/.frames.hsg.partial"), street(0).into_raw());
    std::thread::scope(|scope| {
        // Killed with this block, whatever happens in it: the thread, which is joined behind it, then ends.
        let mut run = run;
        let mut input = run.input.take().unwrap();
        // Until the run ends: then nobody reads any more.
        scope.spawn(move || while input.write_all(&picture).is_ok() {});
        run.program.wait_until("frames", || fs::metadata(&partial).is_ok_and(|file| file.len() > 8 << 10));
        run.program.send("TERM");
        assert_eq!(run.program.finish().status.code(), Some(143), "{}", run.stderr());
    });
    drop(output);
    let saved = read_frames(&sandbox.path("out/frames.hsg")).len() as u64;
    let published = published(&sandbox.path("out/summary.json"));
    let count = |key: &str| published[0][key].as_u64().unwrap();
    assert_eq!(count("frames") + count("lost"), saved, "{published}");
}

#[test]
fn a_reader_that_has_enough_ends_the_run_quietly() {
    let sandbox = Sandbox::for_sockets();
    let (mut run, output) = Run::start_with(&sandbox, &["--publish", "stdout"], Stdio::piped());
    let mut output = output.unwrap();
    run.give();
    output.read_exact(&mut [0; 100]).unwrap();
    drop(output);
    let start = Instant::now();
    // Until nobody takes frames any more.
    while run.try_give().is_ok() {
        assert!(start.elapsed() < TIME_LIMIT, "{}", run.stderr());
    }
    run.finish(0);
    let text = run.stderr();
    assert!(!text.contains("error") && !text.contains("warning"), "{text}");
    assert!(assert_whole(&sandbox.path("out")).is_some());
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let sandbox = Sandbox::for_sockets();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (mut run, _) = Run::start_with(&sandbox, &["--publish", "stdout"], Stdio::from(full));
    let start = Instant::now();
    while run.try_give().is_ok() {
        assert!(start.elapsed() < TIME_LIMIT, "{}", run.stderr());
    }
    run.finish(2);
    assert!(run.stderr().contains("--publish stdout: cannot be written"), "{}", run.stderr());
}

#[test]
fn sources_share_a_place_and_keep_their_names() {
    let sandbox = Sandbox::for_sockets();
    for (name, count) in [("front", 5), ("rear", 7)] {
        street_folder(sandbox.path(name), count);
    }
    let mut command = sandbox.hsg();
    command.args(["run", "front", "rear", "--out", "out", "--save", "frames", "--publish", "stdout", "--model"]);
    let bytes = command.arg(tiny_model()).assert().code(0).get_output().stdout.clone();
    let mut reader = wire::StreamReader::new(&bytes[..]);
    let mut by_name = BTreeMap::<String, Vec<wire::Frame>>::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        by_name.entry(frame.stream.clone()).or_default().push(frame);
    }
    assert_eq!(by_name.len(), 2);
    for (name, frames) in by_name {
        assert_eq!(frames, read_frames(&sandbox.path(&format!("out/{name}/frames.hsg"))), "{name}");
        let published = published(&sandbox.path(&format!("out/{name}/summary.json")));
        assert_eq!(published[0]["frames"].as_u64().unwrap() as usize, frames.len());
    }
}

/// `docs/wire/hsg_frames.py --json` of `from`, if there is a Python.
fn python(from: &str, input: Stdio) -> Option<Child> {
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(workspace().join("docs/wire/hsg_frames.py")).args(["--json", from]);
    let child = command.stdin(input).stdout(Stdio::piped()).spawn();
    if child.is_err() {
        skip("docs/wire/hsg_frames.py", "no python3 here");
    }
    child.ok()
}

/// What Python makes of the file.
fn python_of_file(path: &Path) -> String {
    let child = python(path.to_str().unwrap(), Stdio::null()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn python_reads_sockets() {
    for kind in ["tcp:127.0.0.1:0", "unix:s"] {
        let sandbox = Sandbox::for_sockets();
        let mut run = Run::start(&sandbox, &["-v", "--publish", kind]);
        let mut place = run.place(&kind[..kind.find(':').unwrap()]);
        if kind == "unix:s" {
            place = format!("unix:{}", sandbox.path("s").display());
        }
        let Some(mut python) = python(&place, Stdio::null()) else { return };
        run.wait_for(" gets frames from now on");
        let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
        let mut got = String::new();
        for _ in 0..3 {
            run.give();
            got += &lines.next().expect("a line per frame").unwrap();
            got += "\n";
        }
        run.finish(0);
        assert!(python.wait().unwrap().success() && lines.next().is_none());
        assert_eq!(got, python_of_file(&sandbox.path("out/frames.hsg")), "{kind}");
    }
}

#[test]
fn python_reads_the_pipe() {
    let sandbox = Sandbox::for_sockets();
    let (run, output) = Run::start_with(&sandbox, &["--publish", "stdout"], Stdio::piped());
    let Some(python) = python("-", Stdio::from(output.unwrap())) else { return };
    let output = std::thread::scope(|scope| {
        // Killed with this block, whatever happens in it: Python, which the thread waits for, then ends.
        let mut run = run;
        let reader = scope.spawn(|| python.wait_with_output().unwrap());
        (0..5).for_each(|_| run.give());
        run.finish(0);
        reader.join().unwrap()
    });
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), python_of_file(&sandbox.path("out/frames.hsg")));
}

#[test]
fn tcp_subscribers_get_what_is_saved() {
    let sandbox = Sandbox::for_sockets();
    let mut run = Run::start(&sandbox, &["--publish", "tcp:127.0.0.1:0"]);
    let place = run.place("tcp");
    let mut subscribers = [Subscriber::tcp(&place), Subscriber::tcp(&place)];
    let mut got = Vec::new();
    for _ in 0..4 {
        run.give();
        let [one, other] = &mut subscribers;
        got.push(one.frame());
        assert_eq!(other.frame(), got[got.len() - 1]);
    }
    run.end();
    assert!(subscribers.iter_mut().all(|subscriber| subscriber.next().is_none()));
    run.finish(0);
    assert_eq!(got, read_frames(&sandbox.path("out/frames.hsg")));
    assert_eq!(published(&sandbox.path("out/summary.json"))[0]["to"], place.as_str());
}

/// The example in `language` under "From a socket" in docs/wire.md, word by word.
fn example(language: &str) -> String {
    let page = fs::read_to_string(workspace().join("docs/wire.md")).unwrap();
    let (_, section) = page.split_once("\n## From a socket\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("another section behind it");
    let (_, block) = section.split_once(&format!("```{language}\n")).expect("an example");
    block.split_once("```").expect("its end").0.to_owned()
}

/// The examples of the documentation that can be run here, ready to read from the socket `s` in the sandbox.
fn examples(sandbox: &Sandbox) -> Vec<Command> {
    let readers = workspace().join("docs/wire");
    fs::write(sandbox.path("newest.py"), example("python")).unwrap();
    fs::write(sandbox.path("reader.cpp"), example("cpp")).unwrap();
    let mut examples = Vec::new();
    match sandbox.command("python3").arg("--version").stdout(Stdio::null()).status() {
        Ok(status) => {
            assert!(status.success());
            let mut newest = sandbox.command("python3");
            newest.args(["-u", "newest.py", "unix:s"]).env("PYTHONPATH", &readers).env("PYTHONDONTWRITEBYTECODE", "1");
            examples.push(newest);
        }
        Err(_) => skip("the example in Python", "no python3 here"),
    }
    let mut compile = sandbox.command(std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned()));
    compile.args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "reader.cpp", "-o", "reader", "-I"]).arg(&readers);
    match compile.status() {
        Ok(status) => {
            assert!(status.success());
            let mut reader = sandbox.command(sandbox.path("reader"));
            reader.arg("s");
            examples.push(reader);
        }
        Err(_) => skip("the example in C++", "no C++ compiler here (c++, or what CXX names)"),
    }
    examples
}

#[test]
fn the_examples_of_the_documentation_work() {
    let sandbox = Sandbox::for_sockets();
    let mut run = Run::start(&sandbox, &["-v", "--publish", "unix:s"]);
    run.place("unix");
    let mut started = Vec::new();
    for mut example in examples(&sandbox).into_iter().map(Started::new) {
        let lines = BufReader::new(example.child().stdout.take().unwrap()).lines();
        started.push((example, lines));
        run.wait_for(&format!("subscriber {} gets frames", started.len()));
    }
    for index in 0..3 {
        run.give();
        for (_, lines) in &mut started {
            let line = lines.next().expect("a line per frame").unwrap();
            assert!(line.starts_with(&format!("raw {index}")), "{line}");
        }
    }
    run.finish(0);
    for (example, _) in &mut started {
        let output = example.finish();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }

    // A program that dies within a frame.
    let saved = fs::read(sandbox.path("out/frames.hsg")).unwrap();
    let listener = UnixListener::bind(sandbox.path("s")).unwrap();
    listener.set_nonblocking(true).unwrap();
    for example in examples(&sandbox) {
        let mut example = Started::new(example);
        let socket = OnceCell::new();
        example.wait_until("it connects", || match listener.accept() {
            Ok((connected, _)) => socket.set(connected).is_ok(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        });
        let mut socket = socket.into_inner().unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.write_all(&saved[..saved.len() - 1]).unwrap();
        drop(socket);
        let output = example.finish();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && stderr.contains("cut"), "{:?}: {stderr}", output.status);
    }
}
