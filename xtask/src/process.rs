//! Running other programs: the workspace's folder, a clean cargo, and errors that say what was run.

use std::env;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The folder of the workspace's Cargo.toml: where this program was built, or, on a machine that it was carried to, the
/// current folder.
pub fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    match xtask.parent().filter(|folder| folder.is_dir()) {
        Some(folder) => folder.to_owned(),
        None => env::current_dir().unwrap_or_default(),
    }
}

/// A command with the words to describe it in an error.
pub struct Program(Command);

/// Cargo, started in the workspace's folder as a person would start it.
///
/// `cargo xtask` runs under cargo, which exports variables about the package xtask; they must not reach a second
/// cargo, where build scripts that watch them would run again. The same goes for the default of LIBTORCH: cargo
/// reads it from .cargo/config.toml once more.
pub fn cargo() -> Program {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    if crate::libtorch::is_default_place() {
        command.env_remove("LIBTORCH");
    }
    Program(command)
}

/// Any other program, started in the workspace's folder.
pub fn program(name: impl AsRef<OsStr>) -> Program {
    let mut command = Command::new(name);
    command.current_dir(workspace());
    Program(command)
}

impl Program {
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it with our own stdout and stderr; anything but exit code 0 is an error.
    pub fn run(mut self, purpose: &str) -> Result<()> {
        let line = self.line();
        let status = self.0.status().with_context(|| format!("could not {purpose}: `{line}` did not start"))?;
        if !status.success() {
            bail!("could not {purpose}: `{line}` ended with {status}");
        }
        Ok(())
    }

    /// Runs it and returns its stdout; anything but exit code 0 is an error with its stderr.
    pub fn output(mut self, purpose: &str) -> Result<String> {
        let line = self.line();
        let output = self.0.output().with_context(|| format!("could not {purpose}: `{line}` did not start"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("could not {purpose}: `{line}` ended with {}\n{}", output.status, stderr.trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// True if it starts and ends with exit code 0; prints nothing.
    pub fn works(mut self) -> bool {
        self.0.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.0.status().is_ok_and(|status| status.success())
    }

    /// Starts it with a pipe for its stdout and our own stderr.
    pub fn command_with_piped_stdout(mut self) -> (Command, String) {
        let line = self.line();
        self.0.stdout(Stdio::piped());
        (self.0, line)
    }

    /// Replaces this process; returns only when that failed.
    pub fn replace_this_process(mut self, purpose: &str) -> Result<()> {
        let line = self.line();
        Err(self.0.exec()).with_context(|| format!("could not {purpose}: `{line}` did not start"))
    }

    fn line(&self) -> String {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}
