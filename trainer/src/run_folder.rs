//! What lies where in the folder of a run.

use std::path::{Path, PathBuf};

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

/// Path of the settings of a run folder.
pub fn settings_file(run: &Path) -> PathBuf {
    run.join(SETTINGS_FILE)
}
