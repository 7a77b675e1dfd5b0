//! What lies where in the folder of a run.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Result, TrainError};

/// The resolved settings.
pub const SETTINGS_FILE: &str = "settings.toml";
/// One JSON object a step.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// One JSON object an evaluation: `step, miou, accuracy, images, bank_images`.
pub const EVALUATION_FILE: &str = "evaluation.jsonl";
/// Folder of the newest pictures, `sample{I}_{what}.png`.
pub const PICTURES_FOLDER: &str = "pictures";
/// The report.
pub const REPORT_FILE: &str = "report.html";
/// Weight of a new step in the smoothed loss.
pub const SMOOTHING: f64 = 0.01;

/// Keeps other processes from writing into a run folder, until the file is dropped or the process ends, however that is.
/// `None` where the file system has no locks.
///
/// # Errors
/// [`TrainError::Invalid`] when another process has it.
pub fn lock(run: &Path) -> Result<Option<File>> {
    let folder = File::open(run).map_err(|e| TrainError::file("open", run, e))?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(TrainError::Invalid {
            what: format!("run folder {}", run.display()),
            expected: "one that nobody else trains in".into(),
            got: "one that another hsg-train is writing to".into(),
            remedy: "wait for it, or name another folder with --out".into(),
        }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Path of the settings of a run folder.
pub fn settings_file(run: &Path) -> PathBuf {
    run.join(SETTINGS_FILE)
}
