//! The file of the times that TensorRT took of its kernels while it built engines: the next build takes them over.
//!
//! A build reads it when it begins and replaces it, minutes later, by what it read and measured. Another process may have done
//! the same meanwhile. So at the end, under a lock, the file is read again, and TensorRT adds what is new in it
//! (`Build` in `crates/tensorrt-sys`) before it is written. The lock is on a file beside it, because a rename replaces the file
//! itself, and is held for milliseconds, not while an engine is built.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at a lock that somebody else holds.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// Nobody holds it that long who is not stopped or broken.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The file as it was when a build began.
pub struct TimingFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TimingFile {
    /// Reads it. Without one all is measured anew; `tell` hears when there is one that cannot be read.
    pub fn read(path: PathBuf, tell: impl FnOnce(String)) -> Self {
        let bytes = fs::read(&path).unwrap_or_else(|error| {
            if error.kind() != ErrorKind::NotFound {
                tell(format!("{}: timings taken before cannot be read: {error}", path.display()));
            }
            Vec::new()
        });
        Self { path, bytes }
    }

    /// What is in it; empty without one.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins to replace it: nobody else does so until what this returns is gone.
    ///
    /// # Errors
    /// When its folder cannot be written to, or somebody else holds the lock for ten seconds.
    pub fn begin_update(&self) -> Result<Update<'_>, String> {
        self.begin_update_within(LOCK_WAIT)
    }

    fn begin_update_within(&self, wait: Duration) -> Result<Update<'_>, String> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let lock = lock(&self.path, wait)?;
        // One that is gone or cannot be read has nothing that could be kept.
        let now = fs::read(&self.path).unwrap_or_default();
        let newer = if now == self.bytes { Vec::new() } else { now };
        Ok(Update { path: &self.path, newer, _lock: lock })
    }
}

/// The right to replace the file.
pub struct Update<'a> {
    path: &'a Path,
    newer: Vec<u8>,
    /// Held until it is closed.
    _lock: File,
}

impl Update<'_> {
    /// What somebody else has written since the build began; empty if nobody has.
    pub fn newer(&self) -> &[u8] {
        &self.newer
    }

    /// Replaces the file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(self, bytes: &[u8]) -> Result<(), String> {
        models::files::write_atomically(self.path, bytes).map_err(|error| error.to_string())
    }
}

fn lock(path: &Path, wait: Duration) -> Result<File, String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let begin = Instant::now();
    let file = File::options().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(|error| format!("cannot write {}: {error}", name.display()))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begin.elapsed() < wait => std::thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "another process has held {} for {} s; end it if it hangs",
                    name.display(),
                    wait.as_secs()
                ));
            }
            // Some network file systems have no locks: the file is whole all the same, and times can be taken again.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(format!("cannot lock {}: {error}", name.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_meanwhile_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.cache");
        let silent = |line: String| panic!("{line}");
        let first = TimingFile::read(path.clone(), silent);
        assert!(first.bytes().is_empty());
        let update = first.begin_update().unwrap();
        assert!(update.newer().is_empty());
        update.write(b"one").unwrap();
        let second = TimingFile::read(path.clone(), silent);
        assert_eq!(second.bytes(), b"one");
        // Nobody wrote since the second began, but since the first did.
        assert!(second.begin_update().unwrap().newer().is_empty());
        assert_eq!(first.begin_update().unwrap().newer(), b"one");
        fs::remove_file(&path).unwrap();
        assert!(second.begin_update().unwrap().newer().is_empty());
        // A folder in its place: said when it is read, an error when it is written.
        fs::create_dir(&path).unwrap();
        let mut told = String::new();
        let odd = TimingFile::read(path, |line| told = line);
        assert!(told.contains("a.cache") && told.contains("cannot be read"), "{told}");
        assert!(odd.begin_update().unwrap().write(b"two").unwrap_err().contains("a.cache"));
    }

    #[test]
    fn one_at_a_time_replaces_it_and_nobody_waits_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let file = TimingFile::read(folder.path().join("a.cache"), |line| panic!("{line}"));
        let held = file.begin_update().unwrap();
        let error = file.begin_update_within(Duration::from_millis(50)).map(drop).unwrap_err();
        assert!(error.contains("a.cache.lock") && error.contains("another process"), "{error}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| file.begin_update().map(|update| update.newer().to_vec()));
            std::thread::sleep(Duration::from_millis(50));
            held.write(b"theirs").unwrap();
            assert_eq!(waiting.join().unwrap().unwrap(), b"theirs");
        });
    }
}
