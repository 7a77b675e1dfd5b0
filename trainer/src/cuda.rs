//! Brings CUDA into the process.
//!
//! torch-sys links libtorch_cpu alone, so that the program starts on machines without CUDA. Where libtorch has its CUDA
//! half, loading it registers the GPU kernels; that has to happen before the first call into libtorch.

use std::path::PathBuf;
use std::sync::OnceLock;

/// Why CUDA's half of libtorch is not there; unset while nobody looked.
static MISSING: OnceLock<Option<String>> = OnceLock::new();

/// The library that registers libtorch's CUDA kernels.
const LIBRARY: &str = "libtorch_cuda.so";

/// Loads libtorch's CUDA half if it is there: from the folder that LIBTORCH names, or where the loader finds libtorch.
/// Called first thing in `main`.
pub fn preload() {
    MISSING.get_or_init(load);
}

/// Why CUDA is not there, for people.
pub fn missing() -> Option<&'static str> {
    MISSING.get().and_then(|missing| missing.as_deref())
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn load() -> Option<String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    let named = std::env::var_os("LIBTORCH").map(|folder| PathBuf::from(folder).join("lib").join(LIBRARY));
    let candidates = named.into_iter().filter(|path| path.is_file()).chain([PathBuf::from(LIBRARY)]);
    let mut reason = None;
    for candidate in candidates {
        // SAFETY: the constructors of libtorch_cuda register kernels with the dispatcher of the libtorch that is linked;
        // no thread of ours runs yet, and the library is never unloaded.
        match unsafe { Library::open(Some(&candidate), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                std::mem::forget(library);
                return None;
            }
            Err(error) => reason = Some(error.to_string()),
        }
    }
    reason
}

#[cfg(not(target_os = "linux"))]
fn load() -> Option<String> {
    Some("CUDA is looked for on Linux alone".to_owned())
}
