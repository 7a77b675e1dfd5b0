//! GStreamer pipelines and RTSP from a server on this machine, with the real program (built with the feature `gstreamer`;
//! `cargo xtask test` does that where GStreamer is installed).

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tests::folders::{shipped_clip, tiny_model, workspace};
use tests::outputs::{assert_whole, files, read_json};
use tests::programs::{Sandbox, Started, assert_refused, hsg};
use tests::skip;
use tests::stand_ins::stand_in;

/// The Python of the system, which finds the system's GStreamer.
const PYTHON: &str = "/usr/bin/python3";
/// A live test picture of the tiny model's size.
const LIVE: &str = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=96,height=64,framerate=20/1";

fn run(sandbox: &Sandbox, source: &str) -> assert_cmd::Command {
    let mut command = sandbox.hsg();
    command.args(["run", source, "--model"]).arg(tiny_model());
    command
}

/// The summary that `--json` prints.
fn summary(assert: &assert_cmd::assert::Assert) -> serde_json::Value {
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

#[test]
fn files_of_other_kinds_lose_no_frame() {
    let sandbox = Sandbox::new();
    let clip = shipped_clip();
    let source = format!("gst:filesrc location={} ! decodebin ! videoconvert ! appsink name=hsg", clip.display());
    let assert = run(&sandbox, &source).args(["--save", "frames", "--out", "out", "--json"]).assert().code(0);
    let summary = summary(&assert);
    assert_eq!((&summary["frames"], &summary["dropped"], &summary["skipped"]), (&38.into(), &0.into(), &0.into()));
    assert_eq!(assert_whole(&sandbox.path("out")), Some(38));
}

/// A pipeline that has NV12 alone is read, on the CPU and (against the stand-ins) on the GPU, where nothing converts it.
#[test]
fn pipelines_with_nothing_but_nv12() {
    let sandbox = Sandbox::new();
    let source =
        "gst:videotestsrc num-buffers=6 ! video/x-raw,format=NV12,width=96,height=64,framerate=20/1 ! appsink name=hsg";
    let assert = run(&sandbox, source).args(["--save", "none", "--json"]).assert().code(0);
    assert_eq!(summary(&assert)["frames"], 6);
    let Some((library, folder)) = stand_in().and_then(|library| Some((library, library.parent()?))) else {
        skip("pipelines for the GPU", "no stand-ins for TensorRT");
        return;
    };
    let converting = "gst:videotestsrc num-buffers=30 ! video/x-raw,format=NV12,width=96,height=64,framerate=20/1 ! videoconvert ! appsink name=hsg";
    for (source, frames, least) in [(source, 6, 6), (converting, 30, 20)] {
        let mut command = run(&sandbox, source);
        command.args(["--save", "none", "--json", "--backend", "tensorrt", "--precision", "fp16"]);
        command.env("HSG_TENSORRT", library).env("LD_LIBRARY_PATH", folder);
        let summary = summary(&command.env("HSG_CACHE", sandbox.path("cache")).assert().code(0));
        let stages_on = |key: &str| summary["stages_on"][key].as_u64().unwrap();
        assert_eq!(stages_on("device_frames"), frames, "{source}");
        assert!(stages_on("unconverted_frames") >= least, "{source}: {summary}");
    }
}

#[test]
fn live_pipelines_keep_their_rate_and_save_nothing_unasked() {
    let sandbox = Sandbox::new();
    let source = format!("gst:{LIVE} ! videoconvert ! appsink name=hsg");
    let assert = run(&sandbox, &source).args(["--frames", "30", "--json"]).assert().code(0);
    let summary = summary(&assert);
    let rate = summary["frames_per_second"].as_f64().unwrap();
    assert!((12.0..22.0).contains(&rate), "{rate} frames per second of 20");
    assert_eq!(summary["reconnects"], 0);
    assert!(!sandbox.path("hsg-out").exists());
}

#[test]
fn pipelines_that_fail_or_end_are_started_again() {
    let sandbox = Sandbox::new();
    for fault in ["! identity error-after=15", "! identity eos-after=15"] {
        let source = format!("gst:{LIVE} {fault} ! videoconvert ! appsink name=hsg");
        let assert = run(&sandbox, &source).args(["--frames", "40", "--json"]).assert().code(0);
        let summary = summary(&assert);
        assert!(summary["reconnects"].as_u64().unwrap() >= 2, "{fault}: {summary}");
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(text.contains("trying again") && text.contains("the source is back"), "{text}");
    }
}

#[test]
fn what_is_no_pipeline_is_refused() {
    let sandbox = Sandbox::new();
    for (source, words) in [
        ("gst:videotestsrc ! fakesink", &["appsink named `hsg`", "videoconvert ! appsink name=hsg"][..]),
        ("gst:nosuchelement ! appsink name=hsg", &["nosuchelement", "cargo xtask deps gstreamer"]),
        ("gst:filesrc location=nowhere.mkv ! decodebin ! appsink name=hsg", &["nowhere.mkv", "check the path"]),
        ("gst:", &["gst-launch-1.0"]),
        // Nobody listens there.
        ("rtsp://127.0.0.1:9/front", &["rtsp://127.0.0.1:9/front", "cannot be opened"]),
    ] {
        assert_refused(run(&sandbox, source).args(["--out", "out"]).assert(), words);
        assert!(!sandbox.path("out").exists(), "{source}");
    }
}

/// An RTSP server, ended with the test.
struct Server(Child);

impl Server {
    /// None, with a printed line, where there is nothing to serve with.
    fn start(port: u16, options: &[&str]) -> Option<Self> {
        let script = workspace().join("tests/rtsp/server.py");
        let mut command = Command::new(PYTHON);
        command.arg(script).arg(port.to_string()).args(options).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                skip("RTSP", &format!("{PYTHON}: {error}"));
                return None;
            }
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.trim() == "ready" {
            return Some(Self(child));
        }
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let reason = text.lines().last().unwrap_or_default();
        assert!(text.contains("gi") || text.contains("GstRtspServer"), "the server does not start: {text}");
        skip("RTSP", &format!("{reason}: `cargo xtask deps gstreamer` installs the server"));
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn pictures(out: &Path) -> usize {
    let folder = out.join("overlay");
    if folder.is_dir() { files(&folder).len() } else { 0 }
}

/// Starts `hsg run` on a stream and waits for its first pictures.
fn started(sandbox: &Sandbox, url: &str) -> (Started, PathBuf) {
    let out = sandbox.path("out");
    let mut command = sandbox.command(hsg());
    command.args(["run", url, "--save", "overlay,frames", "--out"]).arg(&out).arg("--model").arg(tiny_model());
    let mut program = Started::new(command);
    program.wait_until("the third picture", || pictures(&out) >= 3);
    (program, out)
}

#[test]
fn a_server_that_goes_away_and_comes_back() {
    for codec in [&[][..], &["--h264"]] {
        let sandbox = Sandbox::new();
        let port = free_port();
        let Some(server) = Server::start(port, codec) else { return };
        let (mut program, out) = started(&sandbox, &format!("rtsp://127.0.0.1:{port}/front"));
        drop(server);
        std::thread::sleep(Duration::from_secs(3));
        let before = pictures(&out);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(pictures(&out), before, "no pictures without a server");
        let server = Server::start(port, codec).unwrap();
        let start = Instant::now();
        program.wait_until("a picture from the second server", || pictures(&out) > before);
        let late = start.elapsed();
        program.send("INT");
        let output = program.finish();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "being stopped is the usual end: {text}");
        assert!(text.contains("trying again") && text.contains("the source is back"), "{text}");
        println!("back after {late:?}");
        // A second to be back, and another for machines that do other things meanwhile.
        assert!(late < Duration::from_secs(2), "back after {late:?}: {text}");
        assert_eq!(read_json(&out.join("summary.json"))["reconnects"], 1);
        assert!(assert_whole(&out).unwrap() > before);
        drop(server);
    }
}

#[test]
fn a_server_that_stands_still() {
    let sandbox = Sandbox::new();
    let port = free_port();
    let Some(server) = Server::start(port, &[]) else { return };
    let signal = |name: &str| {
        let status = Command::new("kill").args(["-s", name, &server.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    };
    let (mut program, out) = started(&sandbox, &format!("rtsp://127.0.0.1:{port}/front"));
    signal("STOP");
    std::thread::sleep(Duration::from_secs(4));
    let before = pictures(&out);
    signal("CONT");
    let start = Instant::now();
    program.wait_until("a picture after the pause", || pictures(&out) > before);
    assert!(start.elapsed() < Duration::from_secs(2), "back after {:?}", start.elapsed());
    // Stopped while it stands still again, and while it is looked for.
    signal("STOP");
    std::thread::sleep(Duration::from_secs(3));
    let start = Instant::now();
    program.send("TERM");
    let output = program.finish();
    let late = start.elapsed();
    signal("CONT");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(late < Duration::from_secs(2), "stopped after {late:?}");
    assert!(text.contains("no picture for 2 s") && text.contains("the source is back"), "{text}");
    assert!(assert_whole(&out).unwrap() > before);
}

#[test]
fn wrong_credentials_are_named_and_passwords_are_not() {
    let sandbox = Sandbox::new();
    let port = free_port();
    let Some(_server) = Server::start(port, &["robot", "secret"]) else { return };
    let address = |user: &str| format!("rtsp://{user}127.0.0.1:{port}/front");
    for user in ["", "robot:guess@", "nobody:secret@"] {
        let assert = run(&sandbox, &address(user)).assert();
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(!text.contains("guess") && !text.contains("secret"), "{text}");
        assert_refused(assert, &["refuses the credentials", "USER:PASSWORD", "127.0.0.1"]);
    }
    let assert = run(&sandbox, &address("robot:secret@")).args(["--frames", "3", "--json"]).assert().code(0);
    assert_eq!(summary(&assert)["frames"], 3);
    let folder = sandbox.path("hsg-out");
    assert!(!folder.exists() || fs::read_dir(folder).unwrap().count() == 0);
}

#[test]
fn doctor_tells_the_version() {
    let sandbox = Sandbox::new();
    let output = sandbox.hsg().args(["doctor", "--json"]).assert();
    let report: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let finding = report["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "GStreamer").unwrap();
    assert_eq!(finding["standing"], "ok");
    assert!(finding["found"].as_str().unwrap().contains("GStreamer 1."), "{finding}");
}
