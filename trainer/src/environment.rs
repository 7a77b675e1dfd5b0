//! Settings that libgomp and the C library read before `main`, so that they have to be there when the program starts.

use std::ffi::OsStr;
use std::io;

/// What is set unless the user has set it: name, value, and other names that say the same.
///
/// A step has a thousand small parallel operations. Threads that sleep between them (`OMP_WAIT_POLICY=passive`) make it
/// 1.4 times slower on a free machine; threads that spin without end (the default) make it ten times slower on a busy
/// one; 2000 turns are within a few percent of the better of the two. Memory that is given back after each step has to
/// be cleared by the kernel in the next: 5 % of the time.
const SETTINGS: &[(&str, &str, &[&str])] = &[
    ("GOMP_SPINCOUNT", "2000", &["OMP_WAIT_POLICY"]),
    ("MALLOC_MMAP_THRESHOLD_", "1073741824", &["GLIBC_TUNABLES"]),
    ("MALLOC_TRIM_THRESHOLD_", "17179869184", &["GLIBC_TUNABLES"]),
    ("MALLOC_TOP_PAD_", "67108864", &["GLIBC_TUNABLES"]),
];

/// Starts this program again, as the same process and with the same arguments, with what is missing. Returns only when
/// nothing was missing or that did not work, which costs speed alone.
pub fn complete() -> Option<io::Error> {
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let missing: Vec<_> = (SETTINGS.iter())
        .filter(|(name, _, others)| !is_set(name) && !others.iter().any(|other| is_set(other)))
        .map(|(name, value, _)| (*name, *value))
        .collect();
    if missing.is_empty() {
        return None;
    }
    restart(&missing)
}

#[cfg(unix)]
fn restart(variables: &[(&str, &str)]) -> Option<io::Error> {
    use std::os::unix::process::CommandExt;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Some(error),
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let mut command = std::process::Command::new(program);
    if let Some(name) = &name {
        command.arg0(name);
    }
    command.args(arguments).envs(variables.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))));
    Some(command.exec())
}

#[cfg(not(unix))]
fn restart(_: &[(&str, &str)]) -> Option<io::Error> {
    None
}
