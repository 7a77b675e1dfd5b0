//! Options that `hsg` and `hsg-calibrate` both have, and reading settings files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;

use crate::backend::BackendChoice;

/// Options of all commands.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Say more (-v info, -vv debug, -vvv trace).
    #[arg(short, long, action = clap::ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say nothing but errors.
    #[arg(short, long, global = true, env = "HSG_QUIET", value_parser = BoolishValueParser::new())]
    pub quiet: bool,
    /// Print one JSON document on stdout, and nothing else there.
    #[arg(long, global = true, env = "HSG_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// Take settings from this TOML file; unknown keys are refused.
    #[arg(long, global = true, value_name = "FILE.toml", env = "HSG_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print the settings in effect as TOML and stop.
    #[arg(long, global = true)]
    pub show_settings: bool,
    /// Threads for arithmetic [default: all cores].
    #[arg(long, global = true, value_name = "N", env = "HSG_THREADS")]
    pub threads: Option<usize>,
}

/// Which backend executes the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendArg {
    /// The best one that works here; says which and why.
    Auto,
    /// Embedded, pure Rust.
    Cpu,
    /// ONNX Runtime, opened at run time (`cargo xtask deps onnxruntime`, or HSG_ONNXRUNTIME names the library).
    #[value(name = "onnxruntime")]
    OnnxRuntime,
    /// NVIDIA TensorRT, opened at run time (programs with the cargo feature `tensorrt`; `hsg build` builds its engines).
    #[value(name = "tensorrt")]
    TensorRt,
}

impl BackendArg {
    /// What it means.
    pub fn choice(self) -> BackendChoice {
        match self {
            Self::Auto => BackendChoice::Auto,
            Self::Cpu => BackendChoice::Cpu,
            Self::OnnxRuntime => BackendChoice::OnnxRuntime,
            Self::TensorRt => BackendChoice::TensorRt,
        }
    }
}

/// A data set.
#[derive(Args, Clone, Debug)]
pub struct DatasetArgs {
    /// Kind of data set: cityscapes, kitti-step, camvid or folder.
    #[arg(long, value_name = "NAME", env = "HSG_DATASET")]
    pub dataset: Option<String>,
    /// Its folder.
    #[arg(long, value_name = "DIR", env = "HSG_ROOT")]
    pub root: Option<PathBuf>,
    /// Its split, for example train, val or test.
    #[arg(long, value_name = "S", env = "HSG_SPLIT")]
    pub split: Option<String>,
    /// Only these drives or sequences.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', env = "HSG_SEQUENCES")]
    pub sequences: Vec<String>,
}

/// The file of `--config`. `command` prints all its keys with `--show-settings`.
///
/// # Errors
/// When it cannot be read, is no TOML, or has an unknown key: the message names both.
pub fn read_config<T: DeserializeOwned>(command: &str, path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--config {}: cannot be read; check the path", path.display()))?;
    toml::from_str(&text).map_err(|error| {
        anyhow::anyhow!(
            "--config {}: {}; remove or correct it (`{command} --show-settings` prints all keys in use)",
            path.display(),
            error.to_string().trim_end()
        )
    })
}

/// A choice from the command line or, by its name, from the file.
///
/// # Errors
/// When the file has a name that is none.
pub fn named<T: ValueEnum>(typed: Option<T>, in_file: Option<&str>, key: &str) -> anyhow::Result<Option<T>> {
    match (typed, in_file) {
        (Some(value), _) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some(text)) => match T::from_str(text, false) {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                let known: Vec<String> = T::value_variants()
                    .iter()
                    .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
                    .collect();
                bail!("`{key}` in the file of --config: expected {}, got `{text}`", known.join(", "))
            }
        },
    }
}

/// As it is typed.
pub fn name_of<T: ValueEnum>(value: T) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

/// Refuses 0.
///
/// # Errors
/// For 0, naming the option.
pub fn positive(number: Option<u64>, option: &str) -> anyhow::Result<Option<u64>> {
    ensure!(number != Some(0), "--{option}: expected at least 1, got 0");
    Ok(number)
}
