//! Running the real programs, `hsg` and `hsg-train`, each test in a folder of its own.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::folders;

/// No program of a test runs longer: one that hangs fails instead of stopping the whole suite.
const TIME_LIMIT: Duration = Duration::from_secs(180);

/// A private folder: the programs' current directory, home and state; removed at the end.
#[derive(Debug)]
pub struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    /// A new empty folder.
    #[allow(clippy::new_without_default, reason = "creates a folder on disk")]
    pub fn new() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    /// A new empty folder with a path that is short enough for sockets.
    pub fn for_sockets() -> Self {
        Self { folder: folders::socket_folder() }
    }

    /// The folder, or a path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `hsg`, to be given arguments and run.
    pub fn hsg(&self) -> assert_cmd::Command {
        self.wrapped(hsg())
    }

    /// `hsg-calibrate`.
    pub fn hsg_calibrate(&self) -> assert_cmd::Command {
        self.wrapped(hsg_calibrate())
    }

    /// `hsg-train`; only with the feature `torch` is there one to build.
    pub fn hsg_train(&self) -> assert_cmd::Command {
        self.wrapped(hsg_train())
    }

    /// Any program with this folder as its current directory, home and state.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.folder.path()).env("HOME", self.folder.path());
        // What the person or the machine running the tests has set must not change their outcome.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let is_other = ["RUST_LOG", "STATE_DIRECTORY", "CACHE_DIRECTORY"].contains(&text.as_ref());
            if text.starts_with("HSG_") || text.starts_with("XDG_") || is_other {
                command.env_remove(&name);
            }
        }
        // Whether ONNX Runtime is installed must not either: `auto` takes the embedded backend.
        command.env("HSG_ONNXRUNTIME", self.folder.path().join("none/libonnxruntime.so"));
        command
    }

    fn wrapped(&self, program: &Path) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::from_std(self.command(program));
        command.timeout(TIME_LIMIT);
        command
    }
}

/// The built `hsg`.
pub fn hsg() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let features: &[&str] = match (cfg!(feature = "gstreamer"), cfg!(feature = "tensorrt")) {
        (true, true) => &["--features", "gstreamer,tensorrt"],
        (true, false) => &["--features", "gstreamer"],
        (false, true) => &["--features", "tensorrt"],
        (false, false) => &[],
    };
    PROGRAM.get_or_init(|| built("runtime", "hsg", features))
}

/// The built `hsg-calibrate`.
pub fn hsg_calibrate() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("calibration", "hsg-calibrate", &[]))
}

/// The built `hsg-train`.
pub fn hsg_train() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let features: &[&str] = if cfg!(feature = "mpi") { &["--features", "mpi"] } else { &[] };
    PROGRAM.get_or_init(|| built("trainer", "hsg-train", features))
}

/// Cargo builds the programs of another package for nobody's tests. `cargo xtask test` has built them and says where;
/// under a plain `cargo test` they are built here, so that no stale program is tested.
fn built(package: &str, name: &str, features: &[&str]) -> PathBuf {
    if let Some(folder) = env::var_os("HSG_TEST_PROGRAMS") {
        return Path::new(&folder).join(name);
    }
    // TARGET/release/deps/SUITE-HASH
    let suite = env::current_exe().expect("a test knows its own path");
    let profile = suite.ancestors().nth(2).expect("tests lie in TARGET/PROFILE/deps");
    let target = profile.parent().expect("TARGET/PROFILE");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folders::workspace()).args(["build", "--quiet", "-p", package, "--bin", name, "--target-dir"]);
    cargo.arg(target).args(features);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "cargo could not build {name}: {status}");
    profile.join(name)
}

/// The program could not run: exit 2, nothing on stdout, one error with every one of `words`, no panic.
#[track_caller]
pub fn assert_refused(assert: assert_cmd::assert::Assert, words: &[&str]) {
    let assert = assert.code(2).stdout("");
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("error: ")).count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// A started program that is ended with the test.
#[derive(Debug)]
pub struct Started {
    child: Option<Child>,
}

impl Started {
    /// Starts `command` with pipes for stdout and stderr, which must stay below a pipe's 64 KiB.
    pub fn new(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::as_is(command)
    }

    /// Starts `command` with the standard streams that it has been given.
    pub fn as_is(mut command: Command) -> Self {
        Self { child: Some(command.spawn().expect("the program starts")) }
    }

    /// The running program.
    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("not waited for yet")
    }

    /// Waits until `condition` holds; fails if the program ends before.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            let child = self.child.as_mut().expect("not waited for yet");
            if let Some(status) = child.try_wait().expect("the program can be asked") {
                let output = self.finish();
                panic!("the program ended with {status} before {what}: {}", String::from_utf8_lossy(&output.stderr));
            }
            assert!(start.elapsed() < TIME_LIMIT, "no {what} after {} s", TIME_LIMIT.as_secs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal; `INT` is what Ctrl-C does, `TERM` what a service manager does.
    pub fn send(&self, signal: &str) {
        let pid = self.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill starts");
        assert!(status.success(), "kill -s {signal} {pid}: {status}");
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("not waited for yet").id()
    }

    /// Waits for its end; fails if that takes too long.
    #[track_caller]
    pub fn finish(&mut self) -> Output {
        let mut child = self.child.take().expect("finished once");
        let start = Instant::now();
        while child.try_wait().expect("the program can be asked").is_none() {
            if start.elapsed() > TIME_LIMIT {
                child.kill().ok();
                panic!("the program did not end within {} s", TIME_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait_with_output().expect("its output can be read")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
