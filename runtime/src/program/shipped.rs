//! Finds what is shipped with the program: models and the example clip.
//!
//! Looked for, in this order: the current folder and its ancestors (a checkout of the project), `$HSG_MODELS` (models
//! only), and `../share/hsg` beside the folder of the program (an installed package).

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use models::manifest::ModelFolder;

/// Name of the model that is used when none is named.
pub const DEFAULT_MODEL: &str = "camvid-r18";
/// The clip that `hsg run` without arguments segments.
const DEFAULT_CLIP: &str = "clips/highway.mp4";
/// Names further folders with models.
pub const MODELS_VARIABLE: &str = "HSG_MODELS";

/// Opens a model by path or name and checks all its hashes.
///
/// # Errors
/// When it is not found, damaged or was changed.
pub fn open_model(name_or_path: &str) -> anyhow::Result<ModelFolder> {
    Ok(ModelFolder::find(name_or_path, &model_places())?)
}

/// The clip that comes with the program.
///
/// # Errors
/// When it is not there.
pub fn default_clip() -> anyhow::Result<PathBuf> {
    let places: Vec<PathBuf> =
        ancestors().map(|folder| folder.join("assets")).chain(share_folder()).map(|f| f.join(DEFAULT_CLIP)).collect();
    places.into_iter().find(|path| path.is_file()).with_context(|| {
        format!(
            "no SOURCE given, and the example clip assets/{DEFAULT_CLIP} is neither in this folder nor in one above it; \
             name a source, for example `hsg run drive.mp4`"
        )
    })
}

/// Folders that hold model folders.
fn model_places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        ancestors().map(|folder| folder.join("models/zoo")).filter(|folder| folder.is_dir()).collect();
    places.extend(std::env::var_os(MODELS_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from));
    places.extend(share_folder().map(|share| share.join("models")).filter(|folder| folder.is_dir()));
    if places.is_empty() {
        // Nothing is there: the error should still say where models belong.
        places.push(PathBuf::from("models/zoo"));
    }
    places
}

/// The current folder and those above it, as relative paths where possible, so that messages stay short.
fn ancestors() -> impl Iterator<Item = PathBuf> {
    let current = std::env::current_dir().unwrap_or_default();
    let depth = current.ancestors().count();
    (0..depth).map(|up| if up == 0 { PathBuf::new() } else { std::iter::repeat_n("..", up).collect() })
}

fn share_folder() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let share = program.parent()?.parent()?.join("share/hsg");
    Path::is_dir(&share).then_some(share)
}
