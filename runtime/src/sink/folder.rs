//! Which folder a run writes to, and files that are written whole or not at all.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SinkError;

/// Name of the default folder.
const DEFAULT_FOLDER: &str = "hsg-out";

/// The folder that one run writes to. Nothing outside it is touched.
#[derive(Clone, Debug)]
pub struct OutputFolder {
    path: PathBuf,
    /// Holds the lock that keeps others of our programs out, where the file system has locks.
    _lock: Option<Arc<File>>,
    /// The folders that this run made, `path` and those above it, deepest first; none that were there before.
    made: Vec<PathBuf>,
}

impl OutputFolder {
    /// Makes the folder of a run: `out` where given, otherwise the first of `hsg-out`, `hsg-out-2`, … in the current
    /// folder that does not exist yet.
    ///
    /// With `force`, `out` may hold files already; those that an earlier run wrote are removed, so that its frames do
    /// not mix with the new ones, and all others are left alone.
    ///
    /// # Errors
    /// When `out` is a file, holds something and `force` is not given, or cannot be made.
    pub fn create(out: Option<&Path>, force: bool) -> Result<Self, SinkError> {
        match out {
            Some(out) => Self::create_for("--out", out, force),
            None => Self::create_default(Path::new("")),
        }
    }

    /// The same for the folder after `option`.
    ///
    /// # Errors
    /// When `path` is a file, holds something and `force` is not given, cannot be made, or is in use.
    pub fn create_for(option: &'static str, path: &Path, force: bool) -> Result<Self, SinkError> {
        let mut folder = Self::create_named(option, path, force)?;
        folder._lock = locked(option, path)?;
        Ok(folder)
    }

    fn create_named(option: &'static str, path: &Path, force: bool) -> Result<Self, SinkError> {
        let write = |source| SinkError::Write { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_dir() => return Err(SinkError::NotAFolder { option, path: path.to_owned() }),
            Ok(_) => {
                if let Some(entry) = fs::read_dir(path).map_err(write)?.next() {
                    let found = entry.map_err(write)?.file_name().to_string_lossy().into_owned();
                    if !force {
                        return Err(SinkError::NotEmpty { option, path: path.to_owned(), found });
                    }
                }
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Self::make(path),
            Err(source) => return Err(write(source)),
        }
        Ok(Self { path: path.to_owned(), _lock: None, made: Vec::new() })
    }

    /// Makes `path` and what is missing above it.
    fn make(path: &Path) -> Result<Self, SinkError> {
        let is_missing = |folder: &&Path| {
            !folder.as_os_str().is_empty()
                && fs::metadata(folder).is_err_and(|source| source.kind() == io::ErrorKind::NotFound)
        };
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        let mut folder = Self { path: path.to_owned(), _lock: None, made: Vec::new() };
        for part in missing.into_iter().rev() {
            match fs::create_dir(part) {
                Ok(()) => folder.made.insert(0, part.to_owned()),
                // Somebody else was faster, or it is `..` of a folder just made: not ours to remove.
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists && part.is_dir() => {}
                Err(source) => {
                    folder.remove_if_empty();
                    return Err(SinkError::Write { path: part.to_owned(), source });
                }
            }
        }
        Ok(folder)
    }

    fn create_default(parent: &Path) -> Result<Self, SinkError> {
        let mut number = 1u32;
        loop {
            let name = if number == 1 { DEFAULT_FOLDER.to_owned() } else { format!("{DEFAULT_FOLDER}-{number}") };
            let path = parent.join(name);
            // create_dir fails when the folder exists, so two runs started together get two folders.
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { _lock: locked("--out", &path)?, made: vec![path.clone()], path }),
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(SinkError::Write { path, source }),
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of one of several sources: [`subfolder_name`] in this one.
    pub fn subfolder(&self, source_name: &str) -> PathBuf {
        self.path.join(subfolder_name(source_name))
    }

    /// Removes the folders that this run made and wrote nothing to: a run that failed before its first frame leaves no
    /// trace. What was there before stays, empty or not.
    pub fn remove_if_empty(&self) {
        for folder in &self.made {
            // An error means that it is not empty, which is fine; then those above it are not either.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// A lock on the folder itself, which leaves no file behind; it goes with its last owner, however that ends. `None` where
/// the file system has none.
fn locked(option: &'static str, path: &Path) -> Result<Option<Arc<File>>, SinkError> {
    let Ok(folder) = File::open(path) else { return Ok(None) };
    match folder.try_lock() {
        Ok(()) => Ok(Some(Arc::new(folder))),
        Err(TryLockError::WouldBlock) => Err(SinkError::InUse { option, path: path.to_owned() }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Name of the folder of one of several sources: the source's name, in which characters that are no part of a file name
/// become `_`. Two names may give one folder, so it is these that have to differ within a run.
pub fn subfolder_name(source_name: &str) -> String {
    let safe: String = source_name
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .collect();
    match safe.as_str() {
        "" | "." | ".." => "source".to_owned(),
        _ => safe,
    }
}

/// Removes what an earlier run wrote into `folder`, by name and pattern; everything else stays.
pub(super) fn remove_earlier_results(folder: &Path) -> Result<(), SinkError> {
    let is_frame = |name: &str, extension: &str| {
        name.strip_suffix(extension)
            .is_some_and(|stem| stem.len() >= 6 && stem.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_level = |name: &str| name.strip_prefix("level").is_some_and(|n| n.parse::<u8>().is_ok());
    let is_video = |name: &str| {
        name == "video.avi"
            || name
                .strip_prefix("video-")
                .and_then(|rest| rest.strip_suffix(".avi"))
                .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    remove_files(folder, |name| {
        name == "frames.hsg" || name == "summary.json" || name == "recording.mcap" || is_video(name)
    })?;
    remove_files(&folder.join("overlay"), |name| is_frame(name, ".jpg"))?;
    remove_files(&folder.join("classes"), |name| is_frame(name, ".png"))?;
    let labels = folder.join("labels");
    for name in names_in(&labels)?.iter().filter(|name| is_level(name)) {
        remove_files(&labels.join(name), |name| is_frame(name, ".png"))?;
    }
    Ok(())
}

fn names_in(folder: &Path) -> Result<Vec<String>, SinkError> {
    let error = |source| SinkError::Write { path: folder.to_owned(), source };
    match fs::read_dir(folder) {
        Err(source) if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(vec![]),
        Err(source) => Err(error(source)),
        Ok(entries) => {
            let mut names = Vec::new();
            for entry in entries {
                // Our names are ASCII; a name that is no UTF-8 is not ours.
                if let Ok(name) = entry.map_err(error)?.file_name().into_string() {
                    names.push(name);
                }
            }
            Ok(names)
        }
    }
}

fn remove_files(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), SinkError> {
    for name in names_in(folder)? {
        let path = folder.join(&name);
        // symlink_metadata: a folder or a link that only bears our name is left alone.
        if is_ours(&name) && fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            fs::remove_file(&path).map_err(|source| SinkError::Write { path, source })?;
        }
    }
    Ok(())
}

/// The temporary name of `path`, in the same folder.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    path.with_file_name(name)
}

/// Writes `bytes` to `path`: a temporary file beside it, then renamed. On an error nothing is left.
pub(super) fn write_whole(path: &Path, bytes: &[u8], temporary: &Path) -> Result<(), SinkError> {
    let result =
        File::create(temporary).and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(temporary, path));
    result.map_err(|source| {
        let _ = fs::remove_file(temporary);
        SinkError::Write { path: path.to_owned(), source }
    })
}

/// Makes `folder` and the folders above it.
pub(super) fn make_folder(folder: &Path) -> Result<(), SinkError> {
    fs::create_dir_all(folder).map_err(|source| SinkError::Write { path: folder.to_owned(), source })
}

/// The bound of `--max-disk`, shared by all sources of a run.
#[derive(Clone, Debug)]
pub struct DiskBudget {
    limit_bytes: u64,
    used_bytes: Arc<AtomicU64>,
}

impl DiskBudget {
    /// A budget of `limit_bytes` for the content of all files together (not their place in the file system's tables);
    /// none means no bound.
    pub fn new(limit_bytes: Option<u64>) -> Self {
        Self { limit_bytes: limit_bytes.unwrap_or(u64::MAX), used_bytes: Arc::default() }
    }

    /// Bytes written so far.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Gives back what was taken and not written.
    pub(super) fn give_back(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes bytes before they are written to `path`.
    pub(super) fn take(&self, needed_bytes: u64, path: impl FnOnce() -> PathBuf) -> Result<(), SinkError> {
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(needed_bytes).filter(|sum| *sum <= self.limit_bytes)
            })
            .map(|_| ())
            .map_err(|used_bytes| SinkError::DiskBudget {
                path: path(),
                limit_bytes: self.limit_bytes,
                used_bytes,
                needed_bytes,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_folders_are_numbered() {
        let parent = tempfile::tempdir().unwrap();
        let names: Vec<_> =
            (0..3).map(|_| OutputFolder::create_default(parent.path()).unwrap().path().to_owned()).collect();
        assert_eq!(names[0], parent.path().join("hsg-out"));
        assert_eq!(names[1], parent.path().join("hsg-out-2"));
        assert_eq!(names[2], parent.path().join("hsg-out-3"));
    }

    #[test]
    fn non_empty_folder_needs_force() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        OutputFolder::create(Some(&out), false).unwrap();
        OutputFolder::create(Some(&out), false).unwrap();
        fs::write(out.join("mine.txt"), "keep").unwrap();
        let message = OutputFolder::create(Some(&out), false).unwrap_err().to_string();
        assert!(message.contains("mine.txt") && message.contains("--force"), "{message}");
        OutputFolder::create(Some(&out), true).unwrap();
        let message = OutputFolder::create(Some(&out.join("mine.txt")), true).unwrap_err().to_string();
        assert!(message.contains("got a file"), "{message}");
    }

    #[test]
    fn force_removes_only_what_runs_write() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path();
        let ours = ["frames.hsg", "video.avi", "video-2.avi", "overlay/000012.jpg", "labels/level0/000000.png"];
        let others = ["notes.txt", "overlay/cat.jpg", "labels/mine/000000.png", "video-x.avi"];
        for name in ours.iter().chain(&others) {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), "x").unwrap();
        }
        remove_earlier_results(root).unwrap();
        assert!(ours.iter().all(|name| !root.join(name).exists()));
        assert!(others.iter().all(|name| root.join(name).exists()));
    }

    #[test]
    fn source_names_stay_inside() {
        let folder = OutputFolder { path: PathBuf::from("out"), _lock: None, made: Vec::new() };
        for name in ["../../etc", "..", "", "a/b", "cam:0"] {
            let sub = folder.subfolder(name);
            assert_eq!(sub.parent().unwrap(), Path::new("out"), "{name}");
            assert_ne!(sub.file_name(), None);
        }
    }

    #[test]
    fn only_folders_that_were_made_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let mine = parent.path().join("mine");
        fs::create_dir(&mine).unwrap();
        OutputFolder::create(Some(&mine), false).unwrap().remove_if_empty();
        assert!(mine.is_dir());
        OutputFolder::create(Some(&mine.join("a/b/../c")), false).unwrap().remove_if_empty();
        assert_eq!(fs::read_dir(&mine).unwrap().count(), 0);
        OutputFolder::create(Some(&mine.join("a/b/c")), false).unwrap().remove_if_empty();
        assert_eq!(fs::read_dir(&mine).unwrap().count(), 0);
        let folder = OutputFolder::create(Some(&mine.join("a/b/c")), false).unwrap();
        fs::write(mine.join("a/note.txt"), "keep").unwrap();
        folder.remove_if_empty();
        assert!(mine.join("a/note.txt").is_file() && !mine.join("a/b").exists());
        // A file in the way: what was made above it goes again.
        fs::remove_dir_all(mine.join("a")).unwrap();
        fs::write(mine.join("file"), "keep").unwrap();
        OutputFolder::create(Some(&mine.join("file/deeper")), false).unwrap_err();
        assert_eq!(fs::read_to_string(mine.join("file")).unwrap(), "keep");
    }

    #[test]
    fn failed_write_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("gone/file.png");
        let message = write_whole(&path, b"x", &temporary_name(&path)).unwrap_err().to_string();
        assert!(message.contains("file.png"), "{message}");
        assert!(!parent.path().join("gone").exists());
    }

    #[test]
    fn budget_counts_and_refuses() {
        let budget = DiskBudget::new(Some(10));
        let shared = budget.clone();
        budget.take(6, || PathBuf::from("a")).unwrap();
        shared.take(4, || PathBuf::from("b")).unwrap();
        let error = budget.take(1, || PathBuf::from("c")).unwrap_err();
        assert!(error.is_limit());
        assert_eq!(budget.used_bytes(), 10);
    }
}
