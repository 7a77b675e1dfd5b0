//! Is TensorRT here, which one, and if not, why not: in the order that is safe. The library is opened and asked for its
//! version, then the CUDA driver is started, and nothing of TensorRT is made before both have worked.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tensorrt_sys::{CudaReady, Library, LibraryError, LibraryErrorKind, header_version};

use super::engine_file::Gpu;
use super::{Found, LIBRARY_VARIABLE, Lack};
use crate::backend::{BackendErrorKind, cuda};

/// Major versions whose library is looked for to tell that it is here, though it cannot be used.
const KNOWN_MAJORS: [u32; 3] = [11, 10, 8];

/// TensorRT, ready for use.
#[derive(Debug)]
pub(super) struct Ready {
    pub found: Found,
    pub library: &'static Library,
    pub cuda: CudaReady,
}

/// The library can be opened once in a process, so what came of it stays.
static READY: OnceLock<Result<Ready, Lack>> = OnceLock::new();

pub(super) fn ready() -> Result<&'static Ready, &'static Lack> {
    READY.get_or_init(open).as_ref()
}

/// What was found, or what is the matter. Starts the CUDA driver if the library is there.
///
/// # Errors
/// When TensorRT cannot be used here, with the remedy.
pub fn look() -> Result<&'static Found, &'static Lack> {
    ready().map(|ready| &ready.found)
}

fn file_name(major: u32) -> String {
    format!("{}.{major}", tensorrt_sys::LIBRARY_STEM)
}

fn lack(error: &LibraryError) -> Lack {
    let headers = header_version();
    let install = format!(
        "install TensorRT {major}.x (on a Jetson `sudo apt install tensorrt`), or let {LIBRARY_VARIABLE} name its \
         {file}; `--backend auto` goes without",
        major = headers.major,
        file = file_name(headers.major)
    );
    let (kind, remedy) = match error.kind {
        LibraryErrorKind::NotFound => (BackendErrorKind::NotInstalled, install),
        LibraryErrorKind::TooOld => (BackendErrorKind::TooOld, install),
        LibraryErrorKind::OtherMajor => (
            BackendErrorKind::OtherVersion,
            "build hsg again on this machine, so that the headers of its TensorRT are used (`cargo build --release -p \
             runtime --features tensorrt`; TENSORRT_INCLUDE_DIR names their folder if they are not where they usually \
             are); `--backend auto` goes without"
                .to_owned(),
        ),
        _ => (BackendErrorKind::Broken, format!("install it again, or {install}")),
    };
    Lack { kind, found: error.to_string(), remedy }
}

/// Places of the library, best first; bare names go to the system's loader.
fn candidates(name: &str) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(program) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(program.join(name));
        places.push(program.join("../lib").join(name));
    }
    places.retain(|place| place.is_file());
    places.push(PathBuf::from(name));
    places
}

fn open_library() -> Result<&'static Library, Lack> {
    if let Some(named) = std::env::var_os(LIBRARY_VARIABLE).filter(|value| !value.is_empty()) {
        // A file that was named is not passed over for another one.
        return Library::open(Path::new(&named)).map_err(|error| {
            let lack = lack(&error);
            Lack { found: format!("{LIBRARY_VARIABLE}: {}", lack.found), ..lack }
        });
    }
    let headers = header_version();
    let mut first: Option<LibraryError> = None;
    for path in candidates(&file_name(headers.major)) {
        match Library::open(&path) {
            Ok(library) => return Ok(library),
            Err(error) if error.kind == LibraryErrorKind::NotFound => {}
            Err(error) => first = first.or(Some(error)),
        }
    }
    // Perhaps another version is here.
    for major in KNOWN_MAJORS.into_iter().filter(|&major| major != headers.major) {
        if first.is_none()
            && let Err(error) = Library::open(Path::new(&file_name(major)))
            && error.kind != LibraryErrorKind::NotFound
        {
            first = Some(error);
        }
    }
    Err(lack(&first.unwrap_or_else(|| LibraryError {
        kind: LibraryErrorKind::NotFound,
        found: format!(
            "TensorRT is not on this machine: no {} was found (this program was built with the headers of {headers})",
            file_name(headers.major)
        ),
    })))
}

fn open() -> Result<Ready, Lack> {
    let library = open_library()?;
    let here = format!("TensorRT {} is here ({})", library.version(), library.path().display());
    let device = cuda::look().map_err(|error| Lack {
        kind: match error.kind() {
            BackendErrorKind::NotInstalled => BackendErrorKind::NoDevice,
            kind => kind,
        },
        found: format!("{here}, but no GPU that it could use: {error}"),
        remedy: "install NVIDIA's driver, or give this process a GPU; `--backend auto` goes without".to_owned(),
    })?;
    // SAFETY: `cuda::look` returns success only after cuInit has.
    let cuda = unsafe { CudaReady::assume() };
    Ok(Ready {
        found: Found {
            version: library.version().to_string(),
            library: library.path().to_owned(),
            cannot_build: library.check_builder().err().map(|error| error.to_string()),
            gpu: Gpu { name: device.name, capability: device.capability },
            driver: device.driver,
        },
        library,
        cuda,
    })
}
