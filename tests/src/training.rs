//! Training runs small enough for tests, and what they leave behind.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::folders::workspace;

/// The preset `camvid-cpu` made as small as the tiny model: a step takes a few milliseconds.
pub fn tiny_settings(steps: u32) -> toml::Table {
    let preset = workspace().join("trainer/configs/camvid-cpu.toml");
    let text = fs::read_to_string(&preset).unwrap_or_else(|error| panic!("{}: {error}", preset.display()));
    let mut settings: toml::Table = text.parse().unwrap_or_else(|error| panic!("{}: {error}", preset.display()));
    let changes: toml::Table = r#"
        network = { width_factor = 0.0625, embedding_dim = 16, groups = [5, 3] }
        batch = { images = 2, crop = 64 }
        kmeans = { grid_rows = 2, grid_columns = 2, rounds = 5 }
        optimiser = { warm_up_steps = 2 }
        run = { threads = 1, checkpoint_every = 2, pictures_every = 0 }
        export = { input = [96, 64], grid = [4, 6], rounds = 10 }
    "#
    .parse()
    .expect("TOML");
    for (section, values) in changes {
        for (key, value) in values.as_table().expect("a section") {
            settings[&section][key] = value.clone();
        }
    }
    settings["run"]["steps"] = i64::from(steps).into();
    settings
}

/// The folder of a training run.
#[derive(Clone, Debug)]
pub struct Run {
    folder: PathBuf,
}

impl Run {
    /// A run, there or not yet.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        Self { folder: folder.as_ref().to_owned() }
    }

    /// Lines of `metrics.jsonl` so far, 0 without the file.
    pub fn num_lines(&self) -> usize {
        fs::read_to_string(self.folder.join("metrics.jsonl")).map_or(0, |text| text.matches('\n').count())
    }

    /// `metrics.jsonl`, one object a step.
    ///
    /// # Panics
    ///
    /// If a line is no JSON or has no number for step and loss.
    pub fn metrics(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("metrics.jsonl")).expect("metrics.jsonl");
        let parse = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(value["step"].is_u64() && value["loss"].is_number(), "{line}");
            value
        };
        text.lines().map(parse).collect()
    }

    /// The folder that `last` names.
    ///
    /// # Panics
    ///
    /// If it names none.
    pub fn last_checkpoint(&self) -> PathBuf {
        let name = fs::read_to_string(self.folder.join("last")).expect("the file `last`");
        let name = name.trim().trim_start_matches("checkpoints/");
        let checkpoint = self.folder.join("checkpoints").join(name);
        assert!(checkpoint.is_dir(), "`last` names {name}, which is no checkpoint");
        checkpoint
    }

    /// Checks that every checkpoint has all its files, readable to their end, and returns the last one's step.
    ///
    /// # Panics
    ///
    /// If something is missing or cut.
    pub fn assert_whole(&self) -> u64 {
        let checkpoints = fs::read_dir(self.folder.join("checkpoints")).expect("the folder of checkpoints");
        for checkpoint in checkpoints {
            let checkpoint = checkpoint.expect("a folder entry").path();
            for name in ["weights.safetensors", "state.safetensors"] {
                let path = checkpoint.join(name);
                let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
            crate::outputs::read_json(&checkpoint.join("state.json"));
        }
        self.metrics();
        let last = self.last_checkpoint();
        let name = last.file_name().expect("a name").to_string_lossy().into_owned();
        name.parse().unwrap_or_else(|_| panic!("the checkpoint {name} is not named by its step"))
    }
}
