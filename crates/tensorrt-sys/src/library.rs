//! Opening libnvinfer and asking for its version: everything that is safe without a GPU.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_NOW};

use crate::objects::Error;
use crate::{log_lines, raw};

/// The name of the library's file begins so.
pub const LIBRARY_STEM: &str = "libnvinfer.so";
const PARSER_STEM: &str = "libnvonnxparser.so";

/// A version of TensorRT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 8, 10, 11.
    pub major: u32,
    /// Within it.
    pub minor: u32,
    /// Within that.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The oldest version that the shim knows.
pub const OLDEST: Version = Version { major: 8, minor: 6, patch: 0 };

impl Version {
    /// Of `getInferLibVersion`: 8.6.1 is 8601, 10.3.0 is 100300.
    fn decode(number: i32) -> Self {
        let number = number.unsigned_abs();
        let scale = if number < 10_000 { 1000 } else { 10_000 };
        Self { major: number / scale, minor: number % scale / 100, patch: number % 100 }
    }
}

/// The version of the headers that this program was built with. Only libraries of its major version are taken.
pub fn header_version() -> Version {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: writes three integers that outlive the call.
    unsafe { raw::hsg_trt_header_version(&mut major, &mut minor, &mut patch) }
    let number = |value: i32| u32::try_from(value).unwrap_or(0);
    Version { major: number(major), minor: number(minor), patch: number(patch) }
}

/// Why a library cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LibraryErrorKind {
    /// There is no such file, or the system's loader knows none of that name.
    NotFound,
    /// It is there and cannot be opened: cut, of another machine, or something that it needs is missing.
    Unusable,
    /// It opens, but is no TensorRT.
    NotTensorRt,
    /// Older than [`OLDEST`].
    TooOld,
    /// Another major version than the headers'.
    OtherMajor,
}

/// Why a library cannot be used, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryError {
    /// What kind of error.
    pub kind: LibraryErrorKind,
    /// What was tried, and what was found.
    pub found: String,
}

impl fmt::Display for LibraryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found)
    }
}

impl std::error::Error for LibraryError {}

/// libnvinfer, opened; it is never closed.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    version: Version,
    nvinfer: Handle,
    create_runtime: *mut c_void,
    /// What building needs besides, opened when somebody builds.
    builder: OnceLock<Result<BuilderParts, String>>,
}

#[derive(Debug)]
struct BuilderParts {
    create_builder: *mut c_void,
    create_parser: *mut c_void,
    /// Kept open.
    _parser: Handle,
}

// SAFETY: the pointers are those of functions, which may be called from any thread; TensorRT documents its entry points so.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}
// SAFETY: as above.
unsafe impl Send for BuilderParts {}
// SAFETY: as above.
unsafe impl Sync for BuilderParts {}

fn symbol(library: &Handle, name: &str) -> Option<*mut c_void> {
    let name = format!("{name}\0");
    // SAFETY: only the address is taken; it is called with the signature that NvInfer.h gives it.
    let found = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.ok()?;
    Some(*found as *mut c_void)
}

fn is_bare(path: &Path) -> bool {
    path.parent() == Some(Path::new(""))
}

/// Folders that the system's loader usually looks in.
fn loader_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH),
        format!("/lib/{}-linux-gnu", std::env::consts::ARCH),
        "/usr/lib64".to_owned(),
        "/usr/lib".to_owned(),
        "/usr/local/lib".to_owned(),
    ];
    std::env::split_paths(&named).chain(usual.map(PathBuf::from)).filter(|folder| folder.is_absolute()).collect()
}

/// The file that will be opened, as far as that can be told.
fn file_of(path: &Path) -> Option<PathBuf> {
    if is_bare(path) {
        loader_folders().into_iter().map(|folder| folder.join(path)).find(|file| file.is_file())
    } else {
        Some(path.to_owned())
    }
}

/// Refuses a library that is cut: the system's loader would map what is not there, and the process would end by a bus error.
fn check_whole(path: &Path) -> Result<(), String> {
    let Some(file) = file_of(path) else { return Ok(()) };
    shared_library::check(&file)
}

impl Library {
    /// Opens the library in this file, or what the system's loader has under a bare name, and reads its version. No object
    /// of TensorRT is made and no driver is touched. An opened library stays open, also one that is refused.
    ///
    /// # Errors
    /// [`LibraryError`]: which library, what was expected, what was found.
    pub fn open(path: &Path) -> Result<&'static Self, LibraryError> {
        let error = |kind, found: String| LibraryError { kind, found: format!("{}: {found}", path.display()) };
        if !is_bare(path) && !path.is_file() {
            return Err(error(LibraryErrorKind::NotFound, "there is no such file".to_owned()));
        }
        check_whole(path).map_err(|words| error(LibraryErrorKind::Unusable, words))?;
        // Globally, so that TensorRT's other libraries find its symbols where they are not told to look.
        // SAFETY: runs the library's initialisers; NVIDIA's need neither a GPU nor a driver. Who names a file answers for it.
        let nvinfer = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|failure| {
            let words = loader_words(&failure);
            let missing = is_bare(path) && words.contains(&*path.to_string_lossy()) && words.contains("No such file");
            let kind = if missing { LibraryErrorKind::NotFound } else { LibraryErrorKind::Unusable };
            error(kind, format!("cannot be opened: {words}"))
        })?;
        // Never closed: what a library of that size registers does not come off again.
        let keep = |nvinfer: Handle| std::mem::forget(nvinfer);
        let (Some(get_version), Some(create_runtime)) =
            (symbol(&nvinfer, "getInferLibVersion"), symbol(&nvinfer, "createInferRuntime_INTERNAL"))
        else {
            keep(nvinfer);
            return Err(error(
                LibraryErrorKind::NotTensorRt,
                "is no TensorRT: it lacks getInferLibVersion or createInferRuntime_INTERNAL".to_owned(),
            ));
        };
        // SAFETY: `int32_t getInferLibVersion()` in every version of NvInferRuntimeCommon.h; it returns a constant.
        let get_version = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(get_version) };
        // SAFETY: as above.
        let version = Version::decode(unsafe { get_version() });
        let headers = header_version();
        if version < OLDEST {
            keep(nvinfer);
            let found = format!("is TensorRT {version}, expected {}.{} or newer", OLDEST.major, OLDEST.minor);
            return Err(error(LibraryErrorKind::TooOld, found));
        }
        if version.major != headers.major {
            keep(nvinfer);
            let found = format!(
                "is TensorRT {version}, expected {}.x: this program was built with the headers of {headers}, and the major \
                 versions must be the same",
                headers.major
            );
            return Err(error(LibraryErrorKind::OtherMajor, found));
        }
        // The shim calls functions by their places in tables that grow with each minor version.
        if (version.major, version.minor) < (headers.major, headers.minor) {
            keep(nvinfer);
            let found = format!(
                "is TensorRT {version}, expected {}.{} or newer: this program was built with the headers of {headers}, and an \
                 older library lacks what those promise",
                headers.major, headers.minor
            );
            return Err(error(LibraryErrorKind::TooOld, found));
        }
        log_lines::connect();
        Ok(Box::leak(Box::new(Self {
            path: path.to_owned(),
            version,
            nvinfer,
            create_runtime,
            builder: OnceLock::new(),
        })))
    }

    /// The file, or the bare name that the system's loader was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn create_runtime(&self) -> *mut c_void {
        self.create_runtime
    }

    /// Addresses of `createInferBuilder_INTERNAL` and `createNvOnnxParser_INTERNAL`.
    pub(crate) fn builder(&self) -> Result<(*mut c_void, *mut c_void), Error> {
        let parts = self.builder.get_or_init(|| self.open_builder());
        parts
            .as_ref()
            .map(|parts| (parts.create_builder, parts.create_parser))
            .map_err(|words| Error::new(words.clone()))
    }

    /// Whether engines can be built: libnvinfer has its builder, and the ONNX parser is there.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_builder(&self) -> Result<(), Error> {
        self.builder().map(drop)
    }

    fn open_builder(&self) -> Result<BuilderParts, String> {
        let create_builder = symbol(&self.nvinfer, "createInferBuilder_INTERNAL").ok_or_else(|| {
            format!(
                "{}: this library runs engines, but cannot build them (a lean one?); install the whole TensorRT",
                self.path.display()
            )
        })?;
        let name = format!("{PARSER_STEM}.{}", self.version.major);
        let parser_path = if is_bare(&self.path) { PathBuf::from(&name) } else { self.path.with_file_name(&name) };
        self.preload_resources();
        check_whole(&parser_path).map_err(|words| format!("{}: {words}; install it again", parser_path.display()))?;
        // SAFETY: NVIDIA's library beside libnvinfer, or the system's; its initialisers need nothing.
        let parser = unsafe { Handle::open(Some(&parser_path), RTLD_NOW) }.map_err(|failure| {
            format!(
                "{}: TensorRT's ONNX parser cannot be opened: {}; install it (libnvonnxparsers) and what it needs",
                parser_path.display(),
                loader_words(&failure)
            )
        })?;
        let create_parser = symbol(&parser, "createNvOnnxParser_INTERNAL")
            .ok_or_else(|| format!("{}: is no ONNX parser of TensorRT", parser_path.display()))?;
        Ok(BuilderParts { create_builder, create_parser, _parser: parser })
    }

    /// TensorRT opens its builder resource by name. Where the libraries are in a folder of their own, that finds it only
    /// once it is open.
    fn preload_resources(&self) {
        let Some(folder) = self.path.parent().filter(|folder| *folder != Path::new("")) else { return };
        let resource = folder.join(format!("libnvinfer_builder_resource.so.{}", self.version));
        if resource.is_file() && check_whole(&resource).is_ok() {
            // SAFETY: NVIDIA's library of kernels; its initialisers need nothing.
            match unsafe { Handle::open(Some(&resource), RTLD_NOW) } {
                // Kept open, as libnvinfer.
                Ok(handle) => std::mem::forget(handle),
                Err(failure) => log::warn!("{}: {}", resource.display(), loader_words(&failure)),
            }
        }
    }
}

/// What the system's loader says.
fn loader_words(error: &libloading::Error) -> String {
    match error {
        libloading::Error::DlOpen { desc } => format!("{desc:?}").trim_matches('"').to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_off_the_number() {
        for (number, words) in
            [(8600, "8.6.0"), (8601, "8.6.1"), (100_300, "10.3.0"), (110_400, "11.4.0"), (7203, "7.2.3")]
        {
            assert_eq!(Version::decode(number).to_string(), words);
        }
        assert!(Version::decode(8503) < OLDEST && OLDEST <= Version::decode(8600));
    }

    #[test]
    fn headers_are_of_a_version_that_the_shim_knows() {
        assert!([8, 10, 11].contains(&header_version().major), "{}", header_version());
    }

    #[test]
    fn what_is_not_there_or_is_no_library_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("libnvinfer.so.99");
        let error = Library::open(&missing).unwrap_err();
        assert_eq!(error.kind, LibraryErrorKind::NotFound);
        assert!(error.to_string().contains("libnvinfer.so.99"), "{error}");
        let error = Library::open(Path::new("libnvinfer-of-nobody.so.99")).unwrap_err();
        assert_eq!(error.kind, LibraryErrorKind::NotFound, "{error}");
        let text = folder.path().join("libnvinfer.so.98");
        std::fs::write(&text, "no library of any kind, but a text that is long enough to have a header").unwrap();
        let error = Library::open(&text).unwrap_err();
        assert_eq!(error.kind, LibraryErrorKind::Unusable, "{error}");
        // A library of the system that is no TensorRT.
        let error = Library::open(Path::new("libm.so.6")).unwrap_err();
        assert_eq!(error.kind, LibraryErrorKind::NotTensorRt, "{error}");
        assert!(error.to_string().contains("is no TensorRT"), "{error}");
    }
}
