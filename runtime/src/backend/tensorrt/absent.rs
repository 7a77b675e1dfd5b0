//! In a program without the cargo feature `tensorrt`: the same functions, which say so.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use models::manifest::{ModelFolder, Precision};

use super::{BuildOptions, BuildWatch, BuiltEngine, Found, Lack};
use crate::backend::{Backend, BackendError, BackendErrorKind, BackendInfo, Engine, EngineOptions, NetworkSource};

fn lack() -> &'static Lack {
    static LACK: OnceLock<Lack> = OnceLock::new();
    LACK.get_or_init(|| Lack {
        kind: BackendErrorKind::NotCompiled,
        found: "the backend `tensorrt` is not compiled into this program".to_owned(),
        remedy:
            "build it with `cargo build --release -p runtime --features tensorrt` on a machine with an NVIDIA GPU, or \
                 use `--backend auto`"
                .to_owned(),
    })
}

/// What is the matter.
///
/// # Errors
/// Always: [`BackendErrorKind::NotCompiled`].
pub fn look() -> Result<&'static Found, &'static Lack> {
    Err(lack())
}

/// The backend that is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct TensorRtBackend;

impl Backend for TensorRtBackend {
    fn probe(&self) -> Result<BackendInfo, BackendError> {
        Err(lack().into())
    }

    fn load(&self, _: &Path, _: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        Err(lack().into())
    }
}

/// An engine that there cannot be.
#[derive(Clone, Copy, Debug)]
pub enum TensorRtEngine {}

/// Loads nothing.
///
/// # Errors
/// Always: [`BackendErrorKind::NotCompiled`].
pub fn load_watched(_: &NetworkSource<'_>, _: &dyn BuildWatch) -> Result<Arc<dyn Engine>, BackendError> {
    Err(lack().into())
}

/// Builds nothing.
///
/// # Errors
/// Always: [`BackendErrorKind::NotCompiled`].
pub fn build(
    _: &ModelFolder,
    _: Precision,
    _: &BuildOptions,
    _: &dyn BuildWatch,
) -> Result<Vec<BuiltEngine>, BackendError> {
    Err(lack().into())
}

/// Knows no layers.
///
/// # Errors
/// Always: [`BackendErrorKind::NotCompiled`].
pub fn layers(_: &Path) -> Result<String, BackendError> {
    Err(lack().into())
}
