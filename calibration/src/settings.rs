//! What was typed, and what it means: validated, with defaults filled in; TOML file < environment < command line.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use models::manifest::Precision;
use runtime::pipeline::DeploymentSpec;
use runtime::program::args::{name_of, named, positive, read_config};
use runtime::program::shipped::DEFAULT_MODEL;
use runtime::receipt::{LEAST_AGREEMENT, LEAST_FRAMES, MOST_LEVEL_RATIO, MOST_MIOU_LOSS};
use serde::{Deserialize, Serialize};

use crate::cli::{BackendArg, CollectArgs, CommonArgs, DatasetArgs, ModelArgs, QuantizeArgs, ReportArgs};

const DEFAULT_FRAMES: u64 = 64;
const DEFAULT_CANDIDATES: u64 = 400;
const DEFAULT_SEARCH_FRAMES: u64 = 16;
const DEFAULT_SOURCE_FRAMES: u64 = 100;
const DEFAULT_BUDGET_PERCENT: f64 = 7.5;
/// Largest limits that can be stated.
const MOST_PERCENT: f64 = 100.0;
const MOST_RATIO: f64 = 1e6;

/// The TOML file of `--config`. Keys are the options' names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collect: Option<CollectSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantize: Option<QuantizeSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<ReportSection>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct CollectSection {
    sources: Vec<String>,
    merge: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct QuantizeSection {
    sources: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fp16: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct ReportSection {
    sources: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<String>,
    sequences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compare: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_frames: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_miou_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_fp16_miou_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_agreement: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_level_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
}

impl ConfigFile {
    /// As TOML, for `--show-settings`.
    ///
    /// # Errors
    /// Never for values that came from settings.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        toml::to_string(self).context("cannot write the settings as TOML")
    }
}

/// The settings file and the common options: the base of every command's settings.
#[derive(Clone, Debug)]
pub struct Base {
    file: ConfigFile,
    threads: usize,
}

impl Base {
    /// Reads the file of `--config` and the common options.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML, or has an unknown key: the message names both.
    pub fn new(common: &CommonArgs) -> anyhow::Result<Self> {
        let file: ConfigFile = match &common.config {
            None => ConfigFile::default(),
            Some(path) => read_config("hsg-calibrate collect", path)?,
        };
        let threads = common.threads.or(file.threads);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or_else(cores);
        ensure!((1..=1024).contains(&threads), "--threads: expected 1 to 1024, got {threads}");
        Ok(Self { file, threads })
    }

    fn model(&self, args: &ModelArgs) -> anyhow::Result<ModelSettings> {
        let file = &self.file;
        Ok(ModelSettings {
            model: args.model.clone().or_else(|| file.model.clone()).unwrap_or_else(|| DEFAULT_MODEL.to_owned()),
            backend: named(args.backend, file.backend.as_deref(), "backend")?.unwrap_or(BackendArg::Auto),
            threads: self.threads,
        })
    }
}

/// Which model, and what runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// Path or name of the model folder.
    pub model: String,
    backend: BackendArg,
    /// Threads for arithmetic.
    pub threads: usize,
}

impl ModelSettings {
    /// How to load it; int8 as written.
    pub fn deployment(&self, precision: Precision) -> DeploymentSpec {
        DeploymentSpec {
            backend: self.backend.choice(),
            precision,
            int8_float: true,
            num_threads: self.threads,
            batching: Default::default(),
        }
    }

    fn config(&self) -> ConfigFile {
        ConfigFile {
            threads: Some(self.threads),
            model: Some(self.model.clone()),
            backend: Some(name_of(self.backend)),
            ..ConfigFile::default()
        }
    }
}

fn or<T: Clone>(typed: &[T], in_file: Vec<T>) -> Vec<T> {
    if typed.is_empty() { in_file } else { typed.to_vec() }
}

/// A number of a kind that has a smallest and a largest value.
fn within(value: f64, option: &str, least: f64, most: f64) -> anyhow::Result<f64> {
    ensure!((least..=most).contains(&value), "--{option}: expected {least} to {most}, got {value}");
    Ok(value)
}

/// Settings of `hsg-calibrate collect`.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectSettings {
    /// As typed.
    pub sources: Vec<String>,
    /// Model and backend.
    pub model: ModelSettings,
    /// Frames to observe.
    pub frames: u64,
    /// Frames of each source to choose from.
    pub candidates: u64,
    /// Tables to add.
    pub merge: Vec<PathBuf>,
    /// The table to write.
    pub out: PathBuf,
}

impl CollectSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is missing or out of range.
    pub fn resolve(base: &Base, args: &CollectArgs) -> anyhow::Result<Self> {
        let file = base.file.collect.clone().unwrap_or_default();
        let settings = Self {
            sources: or(&args.sources, file.sources),
            model: base.model(&args.model)?,
            frames: positive(args.frames.or(file.frames), "frames")?.unwrap_or(DEFAULT_FRAMES),
            candidates: positive(args.candidates.or(file.candidates), "candidates")?.unwrap_or(DEFAULT_CANDIDATES),
            merge: or(&args.merge, file.merge),
            out: args.out.clone().or(file.out).unwrap_or_else(|| models::manifest::CALIBRATION.into()),
        };
        ensure!(
            !settings.sources.is_empty() || settings.merge.len() > 1,
            "no SOURCE: name images or a video, for example `hsg-calibrate collect drive.mp4`, or two tables with --merge"
        );
        Ok(settings)
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        ConfigFile {
            collect: Some(CollectSection {
                sources: self.sources.clone(),
                merge: self.merge.clone(),
                frames: Some(self.frames),
                candidates: Some(self.candidates),
                out: Some(self.out.clone()),
            }),
            ..self.model.config()
        }
    }
}

/// Settings of `hsg-calibrate quantize`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizeSettings {
    /// As typed.
    pub sources: Vec<String>,
    /// Model and backend.
    pub model: ModelSettings,
    /// The table; none = `calibration.json`, then that of the model folder.
    pub table: Option<PathBuf>,
    /// Frames to measure on.
    pub frames: u64,
    /// Share of the multiplications that may stay in fp32, 0 to 1.
    pub budget: f64,
    /// Whether fp16 networks are written.
    pub fp16: bool,
    /// Where the model goes; none = in place of M.
    pub out: Option<PathBuf>,
    /// Whether a model folder that is there already is replaced.
    pub force: bool,
}

impl QuantizeSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is missing or out of range.
    pub fn resolve(base: &Base, args: &QuantizeArgs) -> anyhow::Result<Self> {
        let file = base.file.quantize.clone().unwrap_or_default();
        let percent = args.budget.or(file.budget).unwrap_or(DEFAULT_BUDGET_PERCENT);
        let settings = Self {
            sources: or(&args.sources, file.sources),
            model: base.model(&args.model)?,
            table: args.table.clone().or(file.table),
            frames: positive(args.frames.or(file.frames), "frames")?.unwrap_or(DEFAULT_SEARCH_FRAMES),
            budget: within(percent, "budget", 0.0, 100.0)? / 100.0,
            fp16: args.no_fp16.map(|no| !no).or(file.fp16).unwrap_or(true),
            out: args.out.clone().or(file.out),
            force: args.force.or(file.force).unwrap_or(false),
        };
        ensure!(
            !settings.sources.is_empty(),
            "no SOURCE: name frames to measure on, for example those of `collect`; never those of a test"
        );
        ensure!(settings.frames >= 2, "--frames: expected at least 2, one that decides and one that checks, got 1");
        Ok(settings)
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        ConfigFile {
            quantize: Some(QuantizeSection {
                sources: self.sources.clone(),
                table: self.table.clone(),
                frames: Some(self.frames),
                budget: Some(100.0 * self.budget),
                fp16: Some(self.fp16),
                out: self.out.clone(),
                force: Some(self.force),
            }),
            ..self.model.config()
        }
    }
}

/// Labelled images.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSettings {
    /// Kind of data set.
    pub dataset: String,
    /// Its folder.
    pub root: PathBuf,
    /// Its split.
    pub split: String,
    /// Selected sequences; empty = all.
    pub sequences: Vec<String>,
}

/// What must hold for the receipt to vouch for the int8 network.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Limits {
    /// Least frames that the other figures come from.
    pub min_frames: u64,
    /// Most mIoU that int8 may lose, in points (0 to 100).
    pub max_miou_loss: f64,
    /// The same of fp16.
    pub max_fp16_miou_loss: f64,
    /// Least share of the pixels whose class is that of fp32, in percent.
    pub min_agreement: f64,
    /// Most disagreement of a level over that under one grey level of noise.
    pub max_level_ratio: f64,
}

/// Settings of `hsg-calibrate report`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportSettings {
    /// As typed.
    pub sources: Vec<String>,
    /// Model and backend.
    pub model: ModelSettings,
    /// Labelled images.
    pub dataset: Option<DatasetSettings>,
    /// Frames of the data set; none = all.
    pub dataset_frames: Option<u64>,
    /// Frames of each source.
    pub source_frames: u64,
    /// Another int8 network.
    pub compare: Option<PathBuf>,
    /// Limits.
    pub limits: Limits,
    /// Folder for the page.
    pub out: PathBuf,
    /// Whether a receipt with missed limits replaces one that met the default limits.
    pub force: bool,
}

impl ReportSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is missing or out of range.
    pub fn resolve(base: &Base, args: &ReportArgs) -> anyhow::Result<Self> {
        let file = base.file.report.clone().unwrap_or_default();
        let frames = positive(args.frames.or(file.frames), "frames")?;
        let limit = |typed: Option<f64>, in_file: Option<f64>, default: f64, option: &str| {
            within(typed.or(in_file).unwrap_or(default), option, 0.0, MOST_PERCENT)
        };
        let ratio = args.max_level_ratio.or(file.max_level_ratio).unwrap_or(MOST_LEVEL_RATIO);
        let DatasetArgs { dataset, root, split, sequences } = args.dataset.clone();
        let dataset = match dataset.or(file.dataset) {
            None => {
                ensure!(
                    root.or(file.root).or(split.clone().map(PathBuf::from)).is_none(),
                    "--root and --split belong to a data set: add --dataset"
                );
                None
            }
            Some(dataset) => Some(DatasetSettings {
                dataset,
                root: root.or(file.root).context("--root is missing; name the data set's folder")?,
                split: split.or(file.split).context("--split is missing, for example `--split test`")?,
                sequences: or(&sequences, file.sequences),
            }),
        };
        let settings = Self {
            sources: or(&args.sources, file.sources),
            model: base.model(&args.model)?,
            dataset,
            dataset_frames: frames,
            source_frames: frames.unwrap_or(DEFAULT_SOURCE_FRAMES),
            compare: args.compare.clone().or(file.compare),
            limits: Limits {
                min_frames: args.min_frames.or(file.min_frames).unwrap_or(LEAST_FRAMES),
                max_miou_loss: limit(args.max_miou_loss, file.max_miou_loss, MOST_MIOU_LOSS, "max-miou-loss")?,
                max_fp16_miou_loss: limit(
                    args.max_fp16_miou_loss,
                    file.max_fp16_miou_loss,
                    0.05,
                    "max-fp16-miou-loss",
                )?,
                min_agreement: limit(args.min_agreement, file.min_agreement, LEAST_AGREEMENT, "min-agreement")?,
                max_level_ratio: within(ratio, "max-level-ratio", 0.0, MOST_RATIO)?,
            },
            out: args.out.clone().or(file.out).unwrap_or_else(|| "hsg-receipt".into()),
            force: args.force.or(file.force).unwrap_or(false),
        };
        ensure!(
            !settings.sources.is_empty() || settings.dataset.is_some(),
            "no SOURCE and no --dataset: name frames to measure on, for example `hsg-calibrate report drive.mp4`"
        );
        Ok(settings)
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        let data = self.dataset.clone();
        let (dataset, root, split, sequences) = match data {
            None => (None, None, None, Vec::new()),
            Some(data) => (Some(data.dataset), Some(data.root), Some(data.split), data.sequences),
        };
        ConfigFile {
            report: Some(ReportSection {
                sources: self.sources.clone(),
                dataset,
                root,
                split,
                sequences,
                frames: self.dataset_frames,
                compare: self.compare.clone(),
                min_frames: Some(self.limits.min_frames),
                max_miou_loss: Some(self.limits.max_miou_loss),
                max_fp16_miou_loss: Some(self.limits.max_fp16_miou_loss),
                min_agreement: Some(self.limits.min_agreement),
                max_level_ratio: Some(self.limits.max_level_ratio),
                out: Some(self.out.clone()),
                force: Some(self.force),
            }),
            ..self.model.config()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn base(file: &str) -> Base {
        Base { file: toml::from_str(file).unwrap(), threads: 2 }
    }

    fn report(file: &str, typed: &[&str]) -> anyhow::Result<ReportSettings> {
        let Command::Report(args) = Cli::parse_from([&["hsg-calibrate", "report"], typed].concat()).command else {
            unreachable!("`report` was typed")
        };
        ReportSettings::resolve(&base(file), &args)
    }

    #[test]
    fn settings_print_back_as_a_file_that_means_the_same() {
        let typed = ["a.mp4", "--dataset", "camvid", "--root", "r", "--split", "test", "--max-miou-loss", "0.1"];
        let settings = report("", &typed).unwrap();
        assert_eq!(settings.limits.max_miou_loss, 0.1);
        let text = settings.to_config().to_toml().unwrap();
        assert_eq!(report(&text, &[]).unwrap(), settings);
        // What is typed wins.
        assert_eq!(report(&text, &["--max-miou-loss", "0.2"]).unwrap().limits.max_miou_loss, 0.2);
        let Command::Quantize(args) = Cli::parse_from(["hsg-calibrate", "quantize", "a", "--budget", "7"]).command
        else {
            unreachable!("`quantize` was typed")
        };
        let settings = QuantizeSettings::resolve(&base(""), &args).unwrap();
        let again = Cli::parse_from(["hsg-calibrate", "quantize"]).command;
        let Command::Quantize(none) = again else { unreachable!("`quantize` was typed") };
        let text = settings.to_config().to_toml().unwrap();
        assert_eq!(QuantizeSettings::resolve(&base(&text), &none).unwrap(), settings);
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_its_names() {
        for (typed, word) in [
            (&[][..], "--dataset"),
            (&["a.mp4", "--split", "test"], "--dataset"),
            (&["--dataset", "camvid", "--split", "test"], "--root"),
            (&["a.mp4", "--frames", "0"], "--frames"),
            (&["a.mp4", "--min-agreement", "101"], "--min-agreement"),
            (&["a.mp4", "--max-miou-loss=-1"], "--max-miou-loss"),
        ] {
            let error = format!("{:#}", report("", typed).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
        assert!(toml::from_str::<ConfigFile>("[collect]\nframs = 3\n").unwrap_err().to_string().contains("frams"));
    }
}
