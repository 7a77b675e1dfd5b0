//! Where built engines are kept, and when one is used again.
//!
//! `$HSG_CACHE/engines` has one file ([`super::engine_file`]) for each network, precision and kind of GPU of a model. An
//! engine that is damaged, or was built for anything else than what is wanted, is never loaded: the reason is told once, and
//! it is built again. Builders of the same engine, in one process or several, wait for the first.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use models::files::write_atomically;

use super::MAX_BATCH;
use super::engine_file::{BuildRecord, EngineManifest, Identity, encode, read};
use crate::backend::{BackendError, BackendErrorKind};

/// Names the folder of caches.
pub const CACHE_VARIABLE: &str = "HSG_CACHE";
/// How engine files end.
pub const EXTENSION: &str = "engine";
/// Between two looks at a lock that somebody else holds.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// The folder of all caches of hsg: `$HSG_CACHE`, that of systemd's service, else `hsg` in the XDG cache folder.
///
/// # Errors
/// [`BackendErrorKind::Load`] when nothing says where.
pub fn cache_folder() -> Result<PathBuf, BackendError> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable(CACHE_VARIABLE)
        .or_else(|| variable("CACHE_DIRECTORY"))
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("hsg")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/hsg")))
        .ok_or_else(|| {
            BackendError::new(
                BackendErrorKind::Load,
                format!(
                    "there is no folder for engines: none of {CACHE_VARIABLE}, XDG_CACHE_HOME and HOME is set; let \
                     {CACHE_VARIABLE} name one"
                ),
            )
        })
}

/// What a look into the cache found.
#[derive(Debug)]
pub enum Lookup {
    /// The engine that is wanted.
    Found(Box<EngineManifest>, Vec<u8>),
    /// None.
    Absent,
    /// One that must not be used, and why.
    Unusable(String),
}

/// An engine, ready to be loaded.
#[derive(Debug)]
pub struct Cached {
    /// What stands before it in its file.
    pub manifest: EngineManifest,
    /// The engine.
    pub engine: Vec<u8>,
    /// Whether it was built just now.
    pub is_new: bool,
    /// Why a new one could not be kept; it can be used all the same.
    pub unsaved: Option<String>,
}

/// The folder of engines.
#[derive(Clone, Debug)]
pub struct EngineCache {
    folder: PathBuf,
}

impl EngineCache {
    /// The cache in the folder that [`cache_folder`] names.
    ///
    /// # Errors
    /// As [`cache_folder`].
    pub fn open() -> Result<Self, BackendError> {
        Ok(Self::in_folder(&cache_folder()?))
    }

    /// The cache in a folder of caches.
    pub fn in_folder(caches: &Path) -> Self {
        Self { folder: caches.join("engines") }
    }

    /// The folder of engine files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that an engine of this identity has. What changes with an update (versions, files, shapes) is not in the
    /// name, so that an old engine is replaced. How many frames a run takes is: one camera and four have an engine each.
    pub fn path(&self, identity: &Identity) -> PathBuf {
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
        };
        let gpu = if identity.hardware_compatible { "ampere-and-later".to_owned() } else { plain(&identity.gpu.name) };
        let hash: String = identity.model_hash.chars().take(16).collect();
        let (network, precision) = (plain(&identity.network), identity.precision);
        let batch = match identity.max_batch() {
            1 => String::new(),
            most => format!("-batch{most}"),
        };
        let model = plain(&identity.model);
        self.folder.join(format!("{model}-{}-{network}-{precision}{batch}-{gpu}.{EXTENSION}", plain(&hash)))
    }

    /// Looks for an engine. Where one for this GPU is wanted, one for all of them will do, and one that takes more frames at
    /// once.
    pub fn look(&self, wanted: &Identity) -> Lookup {
        let for_all = Identity { hardware_compatible: true, ..wanted.clone() };
        let mut unusable = None;
        for identity in [wanted, &for_all] {
            let most = if identity.shapes.is_empty() { 1 } else { MAX_BATCH };
            for max_batch in wanted.max_batch()..=most.max(wanted.max_batch()) {
                match look_at(&self.path(&identity.clone().for_batches(max_batch)), wanted) {
                    found @ Lookup::Found(..) => return found,
                    Lookup::Absent => {}
                    // Of those that were asked for, which would be built again.
                    Lookup::Unusable(reason) if max_batch == wanted.max_batch() => unusable = unusable.or(Some(reason)),
                    Lookup::Unusable(_) => {}
                }
            }
        }
        unusable.map_or(Lookup::Absent, Lookup::Unusable)
    }

    /// The engine of this identity, built by `build` if there is none or `again` says so. `tell` gets a line when something
    /// happens that a person wants to know: why an engine is built, and that somebody else is building it. `is_stopped` is
    /// asked while waiting.
    ///
    /// # Errors
    /// Those of `build`, and [`BackendErrorKind::Run`] when stopped. What cannot be written is not an error: see
    /// [`Cached::unsaved`].
    pub fn get_or_build(
        &self,
        wanted: &Identity,
        again: bool,
        tell: &dyn Fn(&str),
        is_stopped: &dyn Fn() -> bool,
        build: &mut dyn FnMut() -> Result<(Vec<u8>, BuildRecord), BackendError>,
    ) -> Result<Cached, BackendError> {
        let path = self.path(wanted);
        let found = |manifest: Box<EngineManifest>, engine| Cached {
            manifest: *manifest,
            engine,
            is_new: false,
            unsaved: None,
        };
        let mut name = format!("{} of {} in {}", wanted.network, wanted.model, wanted.precision);
        if wanted.max_batch() > 1 {
            name.push_str(&format!(" for {} frames at once", wanted.max_batch()));
        }
        if again {
            tell(&format!("engine {name}: built again, as asked"));
        } else {
            match self.look(wanted) {
                Lookup::Found(manifest, engine) => {
                    let (most, wanted) = (manifest.identity.max_batch(), wanted.max_batch());
                    if most > wanted {
                        tell(&format!(
                            "engine {name}: the one for {most} frames at once is there and taken; it needs more memory, and is \
                             tuned for {most} (`hsg build --max-batch {wanted} --force` makes another)"
                        ));
                    }
                    return Ok(found(manifest, engine));
                }
                Lookup::Absent => tell(&format!("engine {name}: there is none yet; building it takes minutes")),
                Lookup::Unusable(reason) => {
                    tell(&format!("engine {name}: not used, {reason}; building it again takes minutes"));
                }
            }
        }
        let lock = match self.lock(&path, &name, tell, is_stopped)? {
            Locking::Held(lock) => {
                // Who held the lock until now has probably built it. One that was refused is not taken again.
                if !again && let Lookup::Found(manifest, engine) = self.look(wanted) {
                    return Ok(found(manifest, engine));
                }
                self.sweep(&path);
                Ok(lock)
            }
            Locking::Impossible(why) => Err(why),
        };
        let (engine, record) = build()?;
        let manifest = EngineManifest::new(wanted.clone(), &engine, record);
        let unsaved = match &lock {
            Ok(_) => encode(&manifest, &engine)
                .map_err(|error| error.to_string())
                .and_then(|bytes| write_atomically(&path, &bytes).map_err(|error| error.to_string()))
                .err(),
            Err(why) => Some(why.clone()),
        };
        Ok(Cached { manifest, engine, is_new: true, unsaved })
    }

    /// Waits for the lock of an engine.
    fn lock(
        &self,
        path: &Path,
        name: &str,
        tell: &dyn Fn(&str),
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Locking, BackendError> {
        let lock_path = path.with_extension("lock");
        let opened = fs::create_dir_all(&self.folder)
            .and_then(|()| File::options().create(true).truncate(false).write(true).open(&lock_path));
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                let why = format!(
                    "cannot write {}: {error}; free some space or let HSG_CACHE name another folder",
                    lock_path.display()
                );
                return Ok(Locking::Impossible(why));
            }
        };
        let mut waited = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Locking::Held(file)),
                Err(TryLockError::WouldBlock) => {
                    if !waited {
                        tell(&format!("engine {name}: another process or stream is building it; waiting"));
                    }
                    waited = true;
                    if is_stopped() {
                        return Err(BackendError::new(
                            BackendErrorKind::Run,
                            format!("engine {name}: stopped while another process was building it"),
                        ));
                    }
                    std::thread::sleep(LOCK_INTERVAL);
                }
                // Some network file systems have no locks; two builders then do the same work, and a rename is whole.
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                    return Ok(Locking::Held(file));
                }
                Err(TryLockError::Error(error)) => {
                    return Ok(Locking::Impossible(format!("cannot lock {}: {error}", lock_path.display())));
                }
            }
        }
    }

    /// Removes what builders left that were killed while they wrote; the caller holds the lock.
    fn sweep(&self, path: &Path) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let found = entry.file_name();
            let is_left =
                found.to_str().is_some_and(|found| found.starts_with(&format!(".{name}.")) && found.ends_with(".tmp"));
            if is_left {
                // One that cannot be removed harms nobody.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

enum Locking {
    /// Until the file is dropped.
    Held(File),
    /// Nothing can be written there, so nobody else builds there either.
    Impossible(String),
}

fn look_at(path: &Path, wanted: &Identity) -> Lookup {
    if !path.exists() {
        return Lookup::Absent;
    }
    match read(path) {
        Err(error) => Lookup::Unusable(error.to_string()),
        Ok((manifest, engine)) => match manifest.identity.difference(wanted) {
            Some(difference) => Lookup::Unusable(format!("{}: {difference}", path.display())),
            None => Lookup::Found(Box::new(manifest), engine),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier, Mutex};

    use super::super::engine_file::tests::identity;
    use super::super::engine_file::{Gpu, ShapeRange};
    use super::*;
    use models::manifest::Precision;

    /// A cache in a private folder, and what it told.
    struct Trial {
        _folder: tempfile::TempDir,
        cache: EngineCache,
        told: Mutex<Vec<String>>,
        builds: AtomicUsize,
    }

    impl Trial {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let cache = EngineCache::in_folder(folder.path());
            Self { cache, _folder: folder, told: Mutex::default(), builds: AtomicUsize::new(0) }
        }

        /// Gets the engine; a build gives its number.
        fn get(&self, wanted: &Identity) -> Cached {
            let mut build = || {
                let number = self.builds.fetch_add(1, Ordering::SeqCst) + 1;
                Ok((vec![number as u8; 1000], BuildRecord::default()))
            };
            let tell = |line: &str| self.told.lock().unwrap().push(line.to_owned());
            self.cache.get_or_build(wanted, false, &tell, &|| false, &mut build).unwrap()
        }

        fn last_words(&self) -> String {
            self.told.lock().unwrap().last().cloned().unwrap_or_default()
        }
    }

    #[test]
    fn an_engine_is_built_once_and_used_again() {
        let trial = Trial::new();
        let first = trial.get(&identity());
        assert!(first.is_new && first.unsaved.is_none() && first.engine == [1; 1000]);
        let again = trial.get(&identity());
        assert!(!again.is_new && again.engine == first.engine);
        assert_eq!(trial.told.lock().unwrap().len(), 1, "nothing is said when nothing happens");
        let files: Vec<_> = fs::read_dir(trial.cache.folder()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(files.len(), 2, "{files:?}");
    }

    /// After an update, or a copy from elsewhere: the reason is told once, and the old file is replaced.
    #[test]
    fn a_stale_or_foreign_engine_is_never_loaded() {
        type Change = fn(&mut Identity);
        let changes: [(&str, Change); 6] = [
            ("TensorRT 10.3.0", |it| it.tensorrt = "10.7.0".into()),
            ("Orin", |it| it.gpu = Gpu { name: "Thor".into(), capability: (11, 0) }),
            ("the model", |it| it.model_hash = format!("{}ff", "aa".repeat(31))),
            ("network file", |it| it.network_sha256 = "dd".repeat(32)),
            ("precision fp16", |it| it.precision = Precision::Int8),
            ("inputs of", |it| {
                let range = ShapeRange { least: vec![1, 3, 8, 8], best: vec![1, 3, 8, 8], most: vec![1, 3, 720, 960] };
                it.shapes.insert("image".into(), range);
            }),
        ];
        for (words, change) in changes {
            let trial = Trial::new();
            trial.get(&identity());
            let mut wanted = identity();
            change(&mut wanted);
            // Whatever the name says: as if somebody had copied the file.
            let (old, new) = (trial.cache.path(&identity()), trial.cache.path(&wanted));
            if old != new {
                fs::copy(&old, &new).unwrap();
            }
            let got = trial.get(&wanted);
            assert!(got.is_new && got.engine == [2; 1000], "{words}");
            let told = trial.last_words();
            assert!(told.contains(words) && told.contains("not used"), "{told}");
            let again = trial.get(&wanted);
            assert!(!again.is_new && again.manifest.identity == wanted);
            assert_eq!(trial.last_words(), told, "the reason is told once");
        }
    }

    /// One camera and four have an engine each; that of four is taken for fewer where they have none.
    #[test]
    fn engines_of_several_batches_are_beside_each_other() {
        let trial = Trial::new();
        let of = |most: usize| identity().for_batches(most);
        assert!(trial.get(&of(4)).is_new);
        assert_eq!(trial.get(&of(2)).manifest.identity.max_batch(), 4);
        assert_eq!(trial.get(&of(1)).engine, [1; 1000]);
        let more = trial.get(&of(5));
        assert!(more.is_new && more.engine == [2; 1000]);
        // Its own first.
        let build = || Ok((vec![9; 1000], BuildRecord::default()));
        let tell = |_: &str| {};
        trial.cache.get_or_build(&of(1), true, &tell, &|| false, &mut { build }).unwrap();
        assert_eq!(trial.get(&of(1)).engine, [9; 1000]);
        assert_eq!(trial.get(&of(4)).engine, [1; 1000]);
    }

    #[test]
    fn a_damaged_engine_is_replaced() {
        for damage in ["cut", "changed", "manifest", "empty"] {
            let trial = Trial::new();
            trial.get(&identity());
            let path = trial.cache.path(&identity());
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                "cut" => bytes.truncate(bytes.len() - 1),
                "changed" => *bytes.last_mut().unwrap() ^= 1,
                "manifest" => bytes[20] = 0,
                _ => bytes.clear(),
            }
            fs::write(&path, bytes).unwrap();
            assert!(trial.get(&identity()).is_new, "{damage}");
            assert!(trial.last_words().contains("no whole engine file"), "{}", trial.last_words());
            assert!(!trial.get(&identity()).is_new, "{damage}");
        }
    }

    #[test]
    fn one_for_all_gpus_will_do_for_this_one() {
        let trial = Trial::new();
        let for_all = Identity { hardware_compatible: true, ..identity() };
        trial.get(&for_all);
        let got = trial.get(&identity());
        assert!(!got.is_new && got.manifest.identity.hardware_compatible);
        // One for this GPU alone is not enough for all.
        let trial = Trial::new();
        trial.get(&identity());
        assert!(trial.get(&for_all).is_new);
        // A stale one for all is told, if there is nothing better.
        let trial = Trial::new();
        trial.get(&Identity { tensorrt: "8.6.1".into(), ..for_all });
        assert!(trial.get(&identity()).is_new && trial.last_words().contains("8.6.1"), "{}", trial.last_words());
    }

    #[test]
    fn builders_side_by_side_build_once() {
        let trial = Arc::new(Trial::new());
        let start = Arc::new(Barrier::new(4));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (trial, start) = (Arc::clone(&trial), Arc::clone(&start));
                std::thread::Builder::new()
                    .name("builder".into())
                    .spawn(move || {
                        start.wait();
                        let mut build = || {
                            trial.builds.fetch_add(1, Ordering::SeqCst);
                            // Long enough that the others come while it lasts.
                            std::thread::sleep(Duration::from_millis(300));
                            Ok((vec![7; 10], BuildRecord::default()))
                        };
                        trial.cache.get_or_build(&identity(), false, &|_| (), &|| false, &mut build).unwrap().engine
                    })
                    .unwrap()
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), [7; 10]);
        }
        assert_eq!(trial.builds.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn waiting_for_another_builder_can_be_stopped() {
        let trial = Trial::new();
        fs::create_dir_all(trial.cache.folder()).unwrap();
        let held = File::create(trial.cache.path(&identity()).with_extension("lock")).unwrap();
        held.lock().unwrap();
        let tell = |line: &str| trial.told.lock().unwrap().push(line.to_owned());
        let mut build = || panic!("nobody may build beside the one who holds the lock");
        let error = trial.cache.get_or_build(&identity(), false, &tell, &|| true, &mut build).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Run);
        assert!(trial.last_words().contains("another process"), "{}", trial.last_words());
        drop(held);
        assert!(trial.get(&identity()).is_new);
    }

    /// A build that fails, as one that is stopped, leaves nothing behind, and the next one can build.
    #[test]
    fn a_failed_build_leaves_nothing() {
        let trial = Trial::new();
        let mut build = || Err(BackendError::new(BackendErrorKind::Load, "no workspace"));
        let error = trial.cache.get_or_build(&identity(), false, &|_| (), &|| false, &mut build).unwrap_err();
        assert_eq!(error.to_string(), "no workspace");
        assert!(!trial.cache.path(&identity()).exists());
        assert!(trial.get(&identity()).is_new);
    }

    #[test]
    fn what_a_killed_builder_left_is_swept() {
        let trial = Trial::new();
        fs::create_dir_all(trial.cache.folder()).unwrap();
        let name = trial.cache.path(&identity()).file_name().unwrap().to_str().unwrap().to_owned();
        let left = trial.cache.folder().join(format!(".{name}.4242.tmp"));
        fs::write(&left, "half an engine").unwrap();
        trial.get(&identity());
        assert!(!left.exists());
    }

    /// A cache that cannot be written is told, and the engine is used all the same.
    #[test]
    fn a_cache_that_cannot_be_written_costs_the_next_start_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "no folder").unwrap();
        let cache = EngineCache::in_folder(&file);
        let mut build = || Ok((vec![1; 10], BuildRecord::default()));
        let got = cache.get_or_build(&identity(), false, &|_| (), &|| false, &mut build).unwrap();
        assert_eq!(got.engine, [1; 10]);
        let why = got.unsaved.unwrap();
        assert!(why.contains("file/engines") && why.contains("HSG_CACHE"), "{why}");
    }

    #[test]
    fn asking_again_builds_again() {
        let trial = Trial::new();
        trial.get(&identity());
        let mut build = || Ok((vec![9; 10], BuildRecord::default()));
        let got = trial.cache.get_or_build(&identity(), true, &|_| (), &|| false, &mut build).unwrap();
        assert!(got.is_new && trial.get(&identity()).engine == [9; 10]);
    }
}
