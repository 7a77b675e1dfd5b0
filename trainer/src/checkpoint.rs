//! Checkpoints of a run: whole folders, written beside and renamed. [T7]
//!
//! `RUN/checkpoints/NNNNNNN/` holds `weights.safetensors` (all parameters and running statistics by the authors'
//! names), `state.safetensors` (momentum buffers by parameter name), `state.json` and the `settings.toml` of the time;
//! `RUN/last` and `RUN/best` name
//! one. Kept are the last few and the best.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use models::files::{read_file, sha256_hex, temporary_beside, write_atomically};
use models::weights::{Weights, read_safetensors, write_safetensors};
use serde::{Deserialize, Serialize};

use crate::base_segments::Room;
use crate::error::{Result, TrainError};
use crate::run_folder::SETTINGS_FILE;
use crate::settings::TrainSettings;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMISER: &str = "state.safetensors";
const STATE: &str = "state.json";
const FORMAT_VERSION: u32 = 1;

/// The small numbers of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of this layout.
    pub format_version: u32,
    /// Steps done.
    pub step: usize,
    /// Seed; every random stream of step i is derived from it and i, so there is no other random state.
    pub seed: u64,
    /// SHA-256 of the settings that a resumed run must share.
    pub settings_hash: String,
    /// Exponential moving average of the loss (weight 0.01 for a new step); `null` before the first.
    pub smoothed_loss: Option<f64>,
    /// Smoothed loss of the best checkpoint so far: the lowest, or that of the best mIoU.
    pub best_loss: Option<f64>,
    /// Highest mIoU of an evaluation so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_miou: Option<f64>,
    /// Steps of the whole run, which the schedule and the settings' hash depend on.
    pub steps: usize,
    /// Images that the run learns from; 0 before the first step.
    pub images: usize,
    /// Seconds spent in steps, of all calls together.
    pub seconds: f64,
    /// The command lines of all calls, in order.
    pub commands: Vec<String>,
    /// Changes of the run's length by `--resume --steps N`, in order; the schedule depends on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rescheduled: Vec<Rescheduled>,
    /// Room that the last steps needed for their segments; none on a CPU. What dropout draws depends on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub room: Vec<Room>,
    /// SHA-256 of the checkpoint's tensor files by their names; filled when it is written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sha256: BTreeMap<String, String>,
}

/// From this step on the learning-rate schedule is that of another number of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rescheduled {
    /// The first step of the new schedule.
    pub step: usize,
    /// Steps of the run before.
    pub steps_before: usize,
    /// Steps of the run from here on.
    pub steps: usize,
}

impl State {
    /// The state before the first step.
    pub fn initial(seed: u64, steps: usize, settings_hash: String) -> Self {
        State {
            format_version: FORMAT_VERSION,
            step: 0,
            seed,
            settings_hash,
            smoothed_loss: None,
            best_loss: None,
            best_miou: None,
            steps,
            images: 0,
            seconds: 0.0,
            commands: Vec::new(),
            rescheduled: Vec::new(),
            room: Vec::new(),
            sha256: BTreeMap::new(),
        }
    }
}

/// A checkpoint in memory.
pub struct Checkpoint {
    /// Where it was read from.
    pub folder: PathBuf,
    /// Parameters and running statistics.
    pub weights: Weights,
    /// Momentum buffers.
    pub momentum: Weights,
    /// Step, seed, ….
    pub state: State,
}

/// Writes a checkpoint of `run` and makes it the last one (and the best one if `is_best`); the newest, as many as the
/// settings keep, and the best one stay, older ones are removed.
///
/// # Errors
/// When a file cannot be written (a full disk): the checkpoints that were there stay whole and named.
pub fn write(
    run: &Path,
    weights: &Weights,
    momentum: &Weights,
    state: &State,
    settings: &TrainSettings,
    is_best: bool,
) -> Result<()> {
    let keep = settings.run.keep_checkpoints;
    let name = format!("{:07}", state.step);
    let folder = run.join("checkpoints").join(&name);
    let temporary = temporary_beside(&folder);
    let written = fill(&temporary, weights, momentum, state, settings).and_then(|()| {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|e| TrainError::file("replace", &folder, e))?;
        }
        std::fs::rename(&temporary, &folder).map_err(|e| TrainError::file("rename", &temporary, e))
    });
    if let Err(error) = written {
        // Nothing half-written may stay; that it cannot be removed either adds nothing to the error.
        let _ = std::fs::remove_dir_all(&temporary);
        return Err(error);
    }
    write_atomically(&run.join("last"), format!("{name}\n").as_bytes())?;
    if is_best {
        write_atomically(&run.join("best"), format!("{name}\n").as_bytes())?;
    }
    remove_old(run, named(run, "best").ok().flatten(), keep)
}

fn fill(folder: &Path, weights: &Weights, momentum: &Weights, state: &State, settings: &TrainSettings) -> Result<()> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).map_err(|e| TrainError::file("create", folder, e))?;
    write_safetensors(&folder.join(WEIGHTS), weights)?;
    write_safetensors(&folder.join(OPTIMISER), momentum)?;
    write_atomically(&folder.join(SETTINGS_FILE), settings.to_toml()?.as_bytes())?;
    let mut state = state.clone();
    for name in [WEIGHTS, OPTIMISER] {
        state.sha256.insert(name.to_owned(), sha256_hex(&read_file(&folder.join(name))?));
    }
    let json = serde_json::to_vec_pretty(&state).map_err(|e| damaged(&folder.join(STATE), &e.to_string()))?;
    Ok(write_atomically(&folder.join(STATE), &json)?)
}

/// Removes all checkpoints but the `keep` newest and the best one, and what an interrupted write left behind.
fn remove_old(run: &Path, best: Option<String>, keep: usize) -> Result<()> {
    let folder = run.join("checkpoints");
    let entries = std::fs::read_dir(&folder).map_err(|e| TrainError::file("read", &folder, e))?;
    let (mut checkpoints, mut removed) = (BTreeSet::new(), Vec::new());
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() >= 7 && name.bytes().all(|b| b.is_ascii_digit()) {
            // By length first, so that ten million comes after nine.
            checkpoints.insert((name.len(), name));
        } else if name.starts_with('.') && name.ends_with(".tmp") {
            removed.push(name);
        }
    }
    removed.extend(checkpoints.into_iter().rev().skip(keep.max(1)).map(|(_, name)| name));
    for name in removed.into_iter().filter(|name| Some(name) != best.as_ref()) {
        let path = folder.join(name);
        std::fs::remove_dir_all(&path).map_err(|e| TrainError::file("remove", &path, e))?;
    }
    Ok(())
}

/// The checkpoint that the text file `which` (`last` or `best`) of `run` names; `None` when there is no such file.
fn named(run: &Path, which: &str) -> Result<Option<String>> {
    let path = run.join(which);
    if !path.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&read_file(&path)?).trim().to_owned();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(damaged(&path, "does not name a checkpoint"));
    }
    Ok(Some(text))
}

/// Reads the checkpoint that `which` (`last` or `best`) of `run` names; `None` when there is none yet.
///
/// # Errors
/// When a file is missing or damaged, or the layout is of another version.
pub fn read(run: &Path, which: &str) -> Result<Option<Checkpoint>> {
    let Some(name) = named(run, which)? else { return Ok(None) };
    let folder = run.join("checkpoints").join(name);
    let path = folder.join(STATE);
    let state: State =
        serde_json::from_slice(&read_file(&path)?).map_err(|e| damaged(&path, &format!("is not whole: {e}")))?;
    if state.format_version != FORMAT_VERSION {
        return Err(TrainError::Invalid {
            what: path.display().to_string(),
            expected: format!("format version {FORMAT_VERSION}"),
            got: state.format_version.to_string(),
            remedy: "use the version of hsg-train that wrote it".into(),
        });
    }
    // Checkpoints of older versions have no hashes.
    for (name, expected) in &state.sha256 {
        let path = folder.join(name);
        let got = sha256_hex(&read_file(&path)?);
        if got != *expected {
            return Err(TrainError::Invalid {
                what: path.display().to_string(),
                expected: format!("SHA-256 {expected}, as {STATE} beside it says"),
                got,
                remedy: "the file was changed or damaged: restore it from a copy, or let `last` and `best` of the run \
                         name another checkpoint"
                    .into(),
            });
        }
    }
    let weights = read_safetensors(&folder.join(WEIGHTS))?;
    let momentum = read_safetensors(&folder.join(OPTIMISER))?;
    Ok(Some(Checkpoint { folder, weights, momentum, state }))
}

fn damaged(path: &Path, what: &str) -> TrainError {
    TrainError::Invalid {
        what: path.display().to_string(),
        expected: "what hsg-train wrote".into(),
        got: format!("a file that {what}"),
        remedy: "delete it to go on without it, or restore the run folder from a copy".into(),
    }
}
