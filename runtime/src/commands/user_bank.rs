//! Where names that a person gives are kept: `$HSG_STATE/banks/<model hash>.user`, one file for each model.
//!
//! A change is made under a lock on the folder (which leaves no file behind): the file is read, changed and written under
//! a temporary name, which then takes its place. Readers need no lock: they see the old file or the new one.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use models::manifest::ModelFolder;
use retrieval::{MAX_USER_BYTES, UserBank};

/// Names the folder of what hsg keeps.
const STATE_VARIABLE: &str = "HSG_STATE";
/// How long somebody else's change is waited for; one takes milliseconds, but several may wait for a slow disk.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// After this time it is said that there is a wait.
const LOCK_SILENCE: Duration = Duration::from_secs(1);
/// Between two looks at a lock that somebody else holds.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// The folder of what hsg keeps: `$HSG_STATE`, that of systemd's service, else `hsg` in the XDG state folder; none where
/// nothing says where.
fn state_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable(STATE_VARIABLE)
        .or_else(|| {
            // A service may have several, `:` between them.
            let folders = std::env::var_os("STATE_DIRECTORY")?;
            std::env::split_paths(&folders).find(|folder| !folder.as_os_str().is_empty())
        })
        .or_else(|| variable("XDG_STATE_HOME").map(|folder| folder.join("hsg")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".local/state/hsg")))
}

/// The file of one model.
#[derive(Clone, Debug)]
pub struct UserBankFile {
    path: PathBuf,
    model_hash: String,
    dimension: usize,
}

impl UserBankFile {
    /// That of a model; none where nothing says where it would be.
    pub fn of(model: &ModelFolder) -> Option<Self> {
        let path = state_folder()?.join("banks").join(format!("{}.user", model.model_hash()));
        let dimension = model.manifest().network.embedding_dim;
        Some(Self { path, model_hash: model.model_hash().to_owned(), dimension })
    }

    /// The same, for those who cannot do without.
    ///
    /// # Errors
    /// When nothing says where it would be.
    pub fn wanted(model: &ModelFolder) -> anyhow::Result<Self> {
        Self::of(model).with_context(|| {
            format!(
                "there is no folder for names: none of {STATE_VARIABLE}, XDG_STATE_HOME and HOME is set; let {STATE_VARIABLE} \
                 name one"
            )
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was named so far; nothing where there is no file, or no way to it, which is said.
    ///
    /// # Errors
    /// When there is one that cannot be read, is damaged or belongs to another model.
    pub fn read(&self) -> anyhow::Result<UserBank> {
        let path = self.path.display();
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(UserBank::new(&self.model_hash, self.dimension));
            }
            // The home of somebody else: nobody can have named anything there on our behalf.
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotADirectory) => {
                log::warn!(
                    "names that were given with `hsg bank add` are not looked for: {path}: {error}; set {STATE_VARIABLE}"
                );
                return Ok(UserBank::new(&self.model_hash, self.dimension));
            }
            Err(error) => {
                let remedy =
                    format!("look at that folder, let {STATE_VARIABLE} name another one, or run with --no-user-bank");
                return Err(error).with_context(|| format!("{path}: cannot be read; {remedy}"));
            }
        };
        ensure!(
            metadata.is_file() && metadata.len() <= MAX_USER_BYTES,
            "names of yours, {path}: expected a file of at most {MAX_USER_BYTES} bytes, got {}; remove it, or run with \
             --no-user-bank",
            if metadata.is_file() { format!("one of {} bytes", metadata.len()) } else { "something else".to_owned() }
        );
        let bytes = fs::read(&self.path)
            .with_context(|| format!("{path}: cannot be read; check its permissions, or run with --no-user-bank"))?;
        let user = UserBank::from_bytes(&bytes, &self.path)?;
        user.check_model(&self.model_hash, self.dimension, &self.path)?;
        Ok(user)
    }

    /// Changes what was named, alone, and writes it; returns what `change` does, and what there is now.
    ///
    /// # Errors
    /// Those of `change` (nothing is written then), and when the file cannot be read or written or somebody else is at it
    /// for long.
    pub fn change<T>(&self, change: impl FnOnce(&mut UserBank) -> anyhow::Result<T>) -> anyhow::Result<(T, UserBank)> {
        let _lock = self.lock()?;
        let mut user = self.read()?;
        let result = change(&mut user)?;
        models::files::write_atomically(&self.path, &user.to_bytes()?)?;
        Ok((result, user))
    }

    /// Removes the file, whatever is in it, and keeps it under another name until the next time; returns that name, none if
    /// there was no file.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn remove(&self) -> anyhow::Result<Option<PathBuf>> {
        if fs::symlink_metadata(&self.path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let kept = self.path.with_extension("user.removed");
        match fs::rename(&self.path, &kept) {
            Ok(()) => Ok(Some(kept)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error)
                .with_context(|| format!("{}: cannot be removed; check the folder's permissions", self.path.display())),
        }
    }

    /// Keeps others out until it is dropped, where the file system has locks; makes the folder.
    fn lock(&self) -> anyhow::Result<Option<File>> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(|| {
            format!("cannot make the folder {}; let {STATE_VARIABLE} name one of your own", folder.display())
        })?;
        let Ok(lock) = File::open(folder) else { return Ok(None) };
        let start = Instant::now();
        let mut is_said = false;
        loop {
            match lock.try_lock() {
                Ok(()) => {
                    self.remove_leftovers(folder);
                    return Ok(Some(lock));
                }
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                    if !is_said && start.elapsed() >= LOCK_SILENCE {
                        log::warn!("{}: waiting for another program that is changing names", folder.display());
                        is_said = true;
                    }
                    std::thread::sleep(LOCK_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => bail!(
                    "{}: another program has been changing names for {} s; wait for it, or end it",
                    folder.display(),
                    LOCK_PATIENCE.as_secs()
                ),
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }

    /// Removes what a program left that was killed while it wrote; whoever has the lock may.
    fn remove_leftovers(&self, folder: &Path) {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let other = entry.file_name().to_string_lossy().into_owned();
            if other.starts_with(&format!(".{name}.")) && other.ends_with(".tmp") {
                // That it cannot be removed harms nobody.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
