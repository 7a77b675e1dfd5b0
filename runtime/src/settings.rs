//! What was typed means: TOML file < environment < command line, validated.
//!
//! Environment and command line arrive together from `cli.rs` (clap merges them in this order); this file lays them
//! over the TOML file of `--config` and fills in defaults. Unknown keys in the file are refused by name.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use models::manifest::Precision;
use retrieval::Storage;
use runtime::backend::tensorrt::{Batching, BuildOptions, MAX_BATCH};
use runtime::pipeline::names::Naming;
use runtime::pipeline::{BankSearch, DeploymentSpec, Placement, ProcessorSpec, Resolution};
use runtime::sink::{LiveAddress, LivePictures, MAX_PLACES, PublishTo, SaveKinds};
use serde::{Deserialize, Serialize};

use crate::cli::{
    BackendArg, BankAddArgs, BankBuildArgs, BankSearchArg, BenchArgs, BuildArgs, CommonArgs, ComputeArgs, DatasetArgs,
    EvalArgs, EvalFilesArgs, ModelArgs, PrecisionArg, RunArgs, StorageArg,
};
use runtime::program::args::{name_of, named, positive, read_config};
use runtime::program::shipped::DEFAULT_MODEL;

/// Frames that `hsg bench` measures unless told otherwise.
const DEFAULT_BENCH_FRAMES: u64 = 200;

/// Thresholds of `hsg eval files` unless told otherwise: those of the published BSDS figures.
const DEFAULT_THRESHOLDS: usize = 99;

/// Most rounds of clustering that can be asked for.
const MAX_ROUNDS: usize = 1000;

/// The TOML file of `--config`. Keys are the options' names; `track` and `refine` are positive.
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
    precision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    int8_float: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_unverified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    track: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refine: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_pixels: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bank_search: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count_votes: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_stages: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_bank: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval: Option<EvalSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bank: Option<BankSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bench: Option<BenchSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<BuildSection>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct RunSection {
    sources: Vec<String>,
    names: Vec<String>,
    masks: Vec<PathBuf>,
    publish: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    save: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_disk: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    realtime: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_millis: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_beside: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_wait_millis: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live_width: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live_quality: Option<u8>,
}

/// `batch = "auto"` or `batch = 4`.
fn text_or_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected \"auto\" or a number")]
    enum Value {
        Text(String),
        Number(u64),
    }
    Ok(Some(match Value::deserialize(deserializer)? {
        Value::Text(text) => text,
        Value::Number(number) => number.to_string(),
    }))
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct EvalSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<String>,
    sequences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    save_predictions: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against_reference: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<String>,
    /// `hsg eval files`.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<EvalFilesSection>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct EvalFilesSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truth: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thresholds: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    train_ids: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct BankSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<String>,
    sequences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct BuildSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing_cache: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hardware_compatible: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct BenchSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_millis: Option<f64>,
}

/// The settings file and the common options: the base of every command's settings.
#[derive(Clone, Debug)]
pub struct Base {
    file: ConfigFile,
    threads: usize,
    /// Whether standard output is for one JSON document.
    json: bool,
}

impl Base {
    /// Reads the file of `--config` and the common options.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML, or has an unknown key: the message names both.
    pub fn new(common: &CommonArgs) -> anyhow::Result<Self> {
        let file = match &common.config {
            None => ConfigFile::default(),
            Some(path) => read_config("hsg run", path)?,
        };
        let threads = common.threads.or(file.threads);
        ensure!(
            threads.is_none_or(|n| (1..=1024).contains(&n)),
            "--threads: expected 1 to 1024, got {}",
            threads.unwrap_or(0)
        );
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { file, threads: threads.unwrap_or_else(cores), json: common.json })
    }

    /// `measures`: the command is about accuracy, so int8 is executed as written unless told otherwise.
    fn model(&self, args: &ModelArgs, measures: bool) -> anyhow::Result<ModelSettings> {
        let file = &self.file;
        Ok(ModelSettings {
            model: args.model.clone().or_else(|| file.model.clone()).unwrap_or_else(|| DEFAULT_MODEL.to_owned()),
            backend: named(args.backend, file.backend.as_deref(), "backend")?.unwrap_or(BackendArg::Auto),
            precision: named(args.precision, file.precision.as_deref(), "precision")?.unwrap_or(PrecisionArg::Fp32),
            int8_float: args.int8_float.or(file.int8_float).unwrap_or(measures),
            allow_unverified: args.allow_unverified.or(file.allow_unverified).unwrap_or(false),
            threads: self.threads,
            batching: Batching::default(),
        })
    }

    fn user_bank(&self, no_user_bank: Option<bool>) -> bool {
        no_user_bank.map(|no| !no).or(self.file.user_bank).unwrap_or(true)
    }

    /// The model of commands that load no network.
    pub fn model_name(&self, typed: Option<&String>) -> ModelName {
        let name = typed.or(self.file.model.as_ref()).cloned();
        ModelName(name.unwrap_or_else(|| DEFAULT_MODEL.to_owned()))
    }

    fn compute(&self, args: &ComputeArgs) -> anyhow::Result<ComputeSettings> {
        let file = &self.file;
        let settings = ComputeSettings {
            track: args.no_track.map(|no| !no).or(file.track).unwrap_or(true),
            refine: args.no_refine.map(|no| !no).or(file.refine).unwrap_or(true),
            reference: args.reference.or(file.reference).unwrap_or(false),
            cluster_pixels: args.cluster_pixels.or(file.cluster_pixels).unwrap_or(false),
            rounds: args.rounds.or(file.rounds),
            bank_search: named(args.bank_search, file.bank_search.as_deref(), "bank_search")?
                .unwrap_or(BankSearchArg::Auto),
            count_votes: args.count_votes.or(file.count_votes).unwrap_or(false),
            host_stages: args.host_stages.or(file.host_stages).unwrap_or(false),
        };
        ensure!(
            settings.refine || !settings.reference,
            "--reference labels every pixel itself, so it cannot be combined with --no-refine (refine = false)"
        );
        ensure!(
            !settings.cluster_pixels || (settings.refine && !settings.reference),
            "--cluster-pixels (cluster_pixels = true) labels every pixel itself: leave out --no-refine (refine = false) and \
             --reference"
        );
        ensure!(
            settings.rounds.is_none_or(|rounds| (1..=MAX_ROUNDS).contains(&rounds)),
            "--rounds: expected 1 to {MAX_ROUNDS}, got {}",
            settings.rounds.unwrap_or(0)
        );
        Ok(settings)
    }

    fn dataset(
        &self,
        args: &DatasetArgs,
        (dataset, root, split, sequences): (Option<String>, Option<PathBuf>, Option<String>, Vec<String>),
        section: &str,
    ) -> anyhow::Result<DatasetSettings> {
        let required = |option: &str| missing_option(option, section);
        Ok(DatasetSettings {
            dataset: args.dataset.clone().or(dataset).with_context(|| required("dataset"))?,
            root: args.root.clone().or(root).with_context(|| required("root"))?,
            split: args.split.clone().or(split).with_context(|| required("split"))?,
            sequences: if args.sequences.is_empty() { sequences } else { args.sequences.clone() },
        })
    }
}

fn missing_option(option: &str, section: &str) -> String {
    format!("--{option} is missing; name it, or give `{option}` in the section [{section}] of --config")
}

/// Which model, and what runs it.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// Path or name of the model folder.
    pub model: String,
    backend: BackendArg,
    precision: PrecisionArg,
    int8_float: bool,
    /// Whether an int8 network needs no receipt.
    pub allow_unverified: bool,
    threads: usize,
    batching: Batching,
}

impl ModelSettings {
    /// How to load it.
    pub fn deployment(&self) -> DeploymentSpec {
        DeploymentSpec {
            backend: self.backend.choice(),
            precision: precision_of(self.precision),
            int8_float: self.int8_float,
            num_threads: self.threads,
            batching: self.batching,
        }
    }

    /// The same, for streams that share runs of the embedding network.
    #[must_use]
    pub fn batched(mut self, batching: Batching) -> Self {
        self.batching = batching;
        self
    }
}

/// How frames are computed.
#[derive(Clone, Copy, Debug)]
pub struct ComputeSettings {
    /// Whether sequences are tracked.
    pub track: bool,
    refine: bool,
    reference: bool,
    cluster_pixels: bool,
    /// Rounds of clustering; none = the default.
    pub rounds: Option<usize>,
    bank_search: BankSearchArg,
    count_votes: bool,
    host_stages: bool,
}

impl ComputeSettings {
    /// How labels get to pixels.
    pub fn resolution(self) -> Resolution {
        match (self.reference, self.cluster_pixels, self.refine) {
            (true, ..) => Resolution::Reference,
            (false, true, _) => Resolution::Pixels,
            (false, false, true) => Resolution::Refined,
            (false, false, false) => Resolution::Nearest,
        }
    }

    /// Whether the stages may run on a GPU, where frames of several streams meet.
    pub fn may_be_on_device(self) -> bool {
        !self.host_stages && matches!(self.resolution(), Resolution::Refined | Resolution::Nearest)
    }

    /// How segments get their classes.
    pub fn naming(self) -> Naming {
        if self.count_votes { Naming::Counted } else { Naming::Pooled }
    }

    /// How segments are looked up in the bank, as it is typed.
    pub fn bank_search(self) -> String {
        name_of(self.bank_search)
    }

    /// The stages of a stream; `is_sequence`: its frames follow each other in time.
    pub fn processor(self, is_sequence: bool, deadline: Option<Duration>) -> ProcessorSpec {
        let bank_search = match self.bank_search {
            BankSearchArg::Auto => BankSearch::Auto,
            BankSearchArg::Exact => BankSearch::Exact,
            BankSearchArg::Approximate => BankSearch::Approximate,
        };
        ProcessorSpec {
            placement: if self.host_stages { Placement::Host } else { Placement::Auto },
            tracking: self.track && is_sequence,
            resolution: self.resolution(),
            bank_search,
            naming: self.naming(),
            deadline,
            rounds: self.rounds,
        }
    }
}

/// Labelled images.
#[derive(Clone, Debug)]
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

/// Settings of `hsg run`.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// As typed; empty = the shipped clip.
    pub sources: Vec<String>,
    /// Names in the order of the sources.
    pub names: Vec<String>,
    /// Masks: none, one for all sources, or one for each.
    pub masks: Vec<PathBuf>,
    /// Model and backend.
    pub model: ModelSettings,
    /// How frames are computed.
    pub compute: ComputeSettings,
    /// Output folder.
    pub out: Option<PathBuf>,
    /// Whether it may hold files.
    pub force: bool,
    /// Where frames are published.
    pub publish: Vec<PublishTo>,
    /// What to write; none = all of files, nothing of live sources.
    pub save: Option<SaveKinds>,
    /// Most bytes to write.
    pub max_disk_bytes: Option<u64>,
    /// Frames per source.
    pub frames: Option<u64>,
    /// Whether files play at their own rate.
    pub realtime: bool,
    /// Whether streams begin on the CPU while engines are built.
    pub build_beside: bool,
    /// Most frames of several sources that the embedding network takes at once; none = as many as there are sources.
    batch: Option<usize>,
    batch_wait: Duration,
    /// Latency that frames should keep.
    pub deadline: Option<Duration>,
    /// Where the live page is; none = there is none.
    pub live: Option<LiveAddress>,
    /// What its pictures may cost.
    pub live_pictures: LivePictures,
    /// Whether names that a person gave are used.
    pub user_bank: bool,
}

impl RunSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is out of range or options contradict each other.
    pub fn resolve(base: &Base, args: &RunArgs) -> anyhow::Result<Self> {
        let file = base.file.run.clone().unwrap_or_default();
        let sources = if args.sources.is_empty() { file.sources } else { args.sources.clone() };
        let names = if args.names.is_empty() { file.names } else { args.names.clone() };
        ensure!(
            names.len() <= sources.len().max(1),
            "--name is given {} times for {} sources; give at most one per source",
            names.len(),
            sources.len().max(1)
        );
        // Control characters, and those that only change how others are shown.
        let is_hidden = |c: char| {
            c.is_control()
                || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
        };
        if let Some(name) = names.iter().find(|name| name.trim().is_empty() || name.chars().any(is_hidden)) {
            bail!("--name {name:?}: expected a name of characters that can be seen; it is printed, and names a folder");
        }
        let masks = if args.masks.is_empty() { file.masks } else { args.masks.clone() };
        ensure!(
            masks.len() <= 1 || masks.len() == sources.len(),
            "--mask is given {} times for {} sources; give one for all, or one for each in their order",
            masks.len(),
            sources.len().max(1)
        );
        let publish = publish(if args.publish.is_empty() { &file.publish } else { &args.publish }, base.json)?;
        let save = match args.save.clone().or(file.save) {
            None => None,
            Some(text) => Some(text.parse()?),
        };
        let max_disk = args.max_disk.clone().or(file.max_disk);
        let model = base.model(&args.model, false)?;
        let build_beside = args.build_beside.or(file.build_beside).unwrap_or(false);
        ensure!(
            !build_beside || model.backend == BackendArg::TensorRt,
            "--build-beside is about engines of TensorRT: add `--backend tensorrt`"
        );
        Ok(Self {
            sources,
            names,
            masks,
            model,
            compute: base.compute(&args.compute)?,
            out: args.out.clone().or(file.out),
            force: args.force.or(file.force).unwrap_or(false),
            publish,
            save,
            max_disk_bytes: max_disk.as_deref().map(parse_bytes).transpose()?,
            frames: positive(args.frames.or(file.frames), "frames")?,
            realtime: args.realtime.or(file.realtime).unwrap_or(false),
            build_beside,
            batch: batch(args.batch.as_deref().or(file.batch.as_deref()))?,
            batch_wait: batch_wait(args.batch_wait_millis.or(file.batch_wait_millis))?,
            deadline: deadline(args.deadline_millis.or(file.deadline_millis))?,
            live: args.live.clone().or(file.live).map(|text| text.parse()).transpose()?,
            live_pictures: LivePictures {
                rate_hz: within(args.live_rate.or(file.live_rate), "live-rate", 0.1, 30.0)?.unwrap_or(10.0),
                width: within(args.live_width.or(file.live_width), "live-width", 320, 1920)?.unwrap_or(1280),
                quality: within(args.live_quality.or(file.live_quality), "live-quality", 1, 100)?.unwrap_or(80),
            },
            user_bank: base.user_bank(args.no_user_bank),
        })
    }

    /// How so many sources, of which so many are live, share runs of the embedding network. Without a word only those do that
    /// come in real time: who meets whom is a matter of time, and files should give the same twice.
    pub fn batching(&self, num_sources: usize, num_live: usize) -> Batching {
        if !self.compute.may_be_on_device() {
            return Batching::default();
        }
        let auto = if self.realtime { num_sources } else { num_live }.min(MAX_AUTO_BATCH);
        let most = self.batch.unwrap_or(auto).min(num_sources).max(1);
        Batching { most, wait: self.batch_wait }
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        ConfigFile {
            run: Some(RunSection {
                sources: self.sources.clone(),
                names: self.names.clone(),
                masks: self.masks.clone(),
                publish: self.publish.iter().map(PublishTo::to_string).collect(),
                out: self.out.clone(),
                force: Some(self.force),
                save: self.save.map(|save| save.to_string()),
                max_disk: self.max_disk_bytes.map(|bytes| bytes.to_string()),
                frames: self.frames,
                realtime: Some(self.realtime),
                build_beside: Some(self.build_beside),
                batch: Some(self.batch.map_or_else(|| "auto".to_owned(), |most| most.to_string())),
                batch_wait_millis: Some(self.batch_wait.as_secs_f64() * 1e3),
                deadline_millis: self.deadline.map(|deadline| deadline.as_secs_f64() * 1e3),
                live: self.live.as_ref().map(|address| address.to_string()),
                live_rate: Some(self.live_pictures.rate_hz),
                live_width: Some(self.live_pictures.width),
                live_quality: Some(self.live_pictures.quality),
            }),
            user_bank: Some(self.user_bank),
            ..common_config(&self.model, Some(self.compute))
        }
    }
}

/// A value within bounds, both included, where there is one.
fn within<T: PartialOrd + std::fmt::Display + Copy>(
    value: Option<T>,
    option: &str,
    least: T,
    most: T,
) -> anyhow::Result<Option<T>> {
    if let Some(value) = value {
        ensure!(value >= least && value <= most, "--{option}: expected {least} to {most}, got {value}");
    }
    Ok(value)
}

/// Where frames are published; `json`: standard output is taken.
fn publish(texts: &[String], json: bool) -> anyhow::Result<Vec<PublishTo>> {
    let places = texts.iter().map(|text| text.parse()).collect::<Result<Vec<PublishTo>, _>>()?;
    ensure!(
        !(json && places.contains(&PublishTo::Stdout)),
        "--publish stdout: with --json standard output is for one JSON document; publish to unix:PATH or tcp:ADDRESS:PORT"
    );
    ensure!(
        places.len() <= MAX_PLACES,
        "--publish is given {} times; give it at most {MAX_PLACES} times, each place has room for several programs",
        places.len()
    );
    let twice = places.iter().enumerate().find(|(index, place)| places[..*index].contains(place));
    if let Some((_, place)) = twice {
        bail!("--publish {place} is given twice; several programs may connect to one place");
    }
    Ok(places)
}

/// Part `index` of `of` of an evaluation; 1 of 1 is all of it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// 1 to `of`.
    pub index: u32,
    /// Number of parts.
    pub of: u32,
}

impl Shard {
    /// Everything in one part.
    pub const WHOLE: Self = Self { index: 1, of: 1 };
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl std::str::FromStr for Shard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        match parts {
            Some((index, of)) if (1..=of).contains(&index) && of <= MAX_SHARDS => Ok(Self { index, of }),
            _ => {
                bail!("--shard: expected I/N with I from 1 to N (at most {MAX_SHARDS}), for example 2/8, got `{text}`")
            }
        }
    }
}

/// Most parts of an evaluation.
const MAX_SHARDS: u32 = 100_000;

/// Settings of `hsg eval`.
#[derive(Clone, Debug)]
pub struct EvalSettings {
    /// Labelled images.
    pub dataset: DatasetSettings,
    /// Model and backend.
    pub model: ModelSettings,
    /// How frames are computed.
    pub compute: ComputeSettings,
    /// Where report and figures go.
    pub out: Option<PathBuf>,
    /// Whether these folders may hold files already.
    pub force: bool,
    /// Where predictions go.
    pub save_predictions: Option<PathBuf>,
    /// Whether every frame is also clustered at full resolution.
    pub against_reference: bool,
    /// Number of frames.
    pub frames: Option<u64>,
    /// Which part of them.
    pub shard: Shard,
}

impl EvalSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is missing or out of range.
    pub fn resolve(base: &Base, args: &EvalArgs) -> anyhow::Result<Self> {
        let file = base.file.eval.clone().unwrap_or_default();
        let shard = args.shard.clone().or(file.shard).map_or(Ok(Shard::WHOLE), |text| text.parse())?;
        let out = args.out.clone().or(file.out);
        ensure!(
            shard == Shard::WHOLE || out.is_some(),
            "--shard {shard}: a part is of use only when it is kept; name its folder with --out"
        );
        let compute = base.compute(&args.compute)?;
        let against_reference = args.against_reference.or(file.against_reference).unwrap_or(false);
        ensure!(
            !against_reference || !(compute.track || compute.reference),
            "--against-reference compares frame by frame: add --no-track (track = false), and leave out --reference"
        );
        ensure!(
            !against_reference || shard == Shard::WHOLE,
            "--against-reference is for the whole, so --shard {shard} cannot be combined with it; --frames makes it shorter"
        );
        Ok(Self {
            dataset: base.dataset(&args.dataset, (file.dataset, file.root, file.split, file.sequences), "eval")?,
            model: base.model(&args.model, true)?,
            compute,
            against_reference,
            out,
            force: args.force.or(file.force).unwrap_or(false),
            save_predictions: args.save_predictions.clone().or(file.save_predictions),
            frames: positive(args.frames.or(file.frames), "frames")?,
            shard,
        })
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        let data = self.dataset.clone();
        ConfigFile {
            eval: Some(EvalSection {
                dataset: Some(data.dataset),
                root: Some(data.root),
                split: Some(data.split),
                sequences: data.sequences,
                out: self.out.clone(),
                force: Some(self.force),
                save_predictions: self.save_predictions.clone(),
                against_reference: Some(self.against_reference),
                frames: self.frames,
                shard: Some(self.shard.to_string()),
                files: None,
            }),
            ..common_config(&self.model, Some(self.compute))
        }
    }
}

/// Settings of `hsg eval files`.
#[derive(Clone, Debug)]
pub struct EvalFilesSettings {
    /// Kind of data set, as typed.
    pub dataset: String,
    /// Folder of what is right.
    pub truth: PathBuf,
    /// Folder of what is measured.
    pub prediction: PathBuf,
    /// Whether truth without prediction makes the outcome incomplete.
    pub complete: bool,
    /// Number of thresholds.
    pub thresholds: usize,
    /// Whether predictions for Cityscapes hold train ids.
    pub train_ids: bool,
    /// Class table of `folder`, where it is not beside the truth.
    pub classes: Option<PathBuf>,
    /// Where `evaluation.json` goes.
    pub out: Option<PathBuf>,
    /// Whether that folder may hold files already.
    pub force: bool,
    /// Threads that measure.
    pub threads: usize,
}

impl EvalFilesSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is missing.
    pub fn resolve(base: &Base, args: &EvalFilesArgs) -> anyhow::Result<Self> {
        let file = base.file.eval.clone().and_then(|eval| eval.files).unwrap_or_default();
        let required = |option: &str| missing_option(option, "eval.files");
        Ok(Self {
            dataset: args.dataset.clone().or(file.dataset).with_context(|| required("dataset"))?,
            truth: args.truth.clone().or(file.truth).with_context(|| required("truth"))?,
            prediction: args.prediction.clone().or(file.prediction).with_context(|| required("prediction"))?,
            complete: args.complete.or(file.complete).unwrap_or(false),
            thresholds: args.thresholds.or(file.thresholds).unwrap_or(DEFAULT_THRESHOLDS),
            train_ids: args.train_ids.or(file.train_ids).unwrap_or(false),
            classes: args.classes.clone().or(file.classes),
            out: args.out.clone().or(file.out),
            force: args.force.or(file.force).unwrap_or(false),
            threads: base.threads,
        })
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        let files = EvalFilesSection {
            dataset: Some(self.dataset.clone()),
            truth: Some(self.truth.clone()),
            prediction: Some(self.prediction.clone()),
            complete: Some(self.complete),
            thresholds: Some(self.thresholds),
            train_ids: Some(self.train_ids),
            classes: self.classes.clone(),
            out: self.out.clone(),
            force: Some(self.force),
        };
        ConfigFile {
            threads: Some(self.threads),
            eval: Some(EvalSection { files: Some(files), ..EvalSection::default() }),
            ..ConfigFile::default()
        }
    }
}

/// Settings of `hsg bank build`.
#[derive(Clone, Debug)]
pub struct BankBuildSettings {
    /// Labelled images.
    pub dataset: DatasetSettings,
    /// Model and backend.
    pub model: ModelSettings,
    /// Whether to cluster at full resolution.
    pub reference: bool,
    /// Where the model with its bank goes; none = in place of the model.
    pub out: Option<PathBuf>,
    /// Whether a model folder that is there already is replaced.
    pub force: bool,
    storage: StorageArg,
    /// Number of images.
    pub frames: Option<u64>,
}

impl BankBuildSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is missing or out of range.
    pub fn resolve(base: &Base, args: &BankBuildArgs) -> anyhow::Result<Self> {
        let file = base.file.bank.clone().unwrap_or_default();
        Ok(Self {
            dataset: base.dataset(&args.dataset, (file.dataset, file.root, file.split, file.sequences), "bank")?,
            model: base.model(&args.model, true)?,
            reference: args.reference.or(base.file.reference).unwrap_or(false),
            out: args.out.clone().or(file.out),
            force: args.force.or(file.force).unwrap_or(false),
            storage: named(args.storage, file.storage.as_deref(), "storage")?.unwrap_or(StorageArg::Int8),
            frames: positive(args.frames.or(file.frames), "frames")?,
        })
    }

    /// How prototypes are stored.
    pub fn storage(&self) -> Storage {
        match self.storage {
            StorageArg::F32 => Storage::F32,
            StorageArg::F16 => Storage::F16,
            StorageArg::Int8 => Storage::Int8,
        }
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        let data = self.dataset.clone();
        ConfigFile {
            reference: Some(self.reference),
            bank: Some(BankSection {
                dataset: Some(data.dataset),
                root: Some(data.root),
                split: Some(data.split),
                sequences: data.sequences,
                out: self.out.clone(),
                force: Some(self.force),
                storage: Some(name_of(self.storage)),
                frames: self.frames,
            }),
            ..common_config(&self.model, None)
        }
    }
}

/// Path or name of a model folder.
#[derive(Clone, Debug)]
pub struct ModelName(pub String);

impl ModelName {
    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        ConfigFile { model: Some(self.0.clone()), ..ConfigFile::default() }
    }
}

/// Settings of `hsg bank add`.
#[derive(Clone, Debug)]
pub struct BankAddSettings {
    /// As typed.
    pub source: String,
    /// Index of the frame.
    pub frame: u64,
    /// Pixels, x and y.
    pub points: Vec<[u32; 2]>,
    /// 0 = finest.
    pub level: usize,
    /// What the segments are.
    pub name: String,
    /// Model and backend.
    pub model: ModelSettings,
    /// Where the picture goes.
    pub preview: Option<PathBuf>,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
}

impl BankAddSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a point is none, or the name cannot be one.
    pub fn resolve(base: &Base, args: &BankAddArgs) -> anyhow::Result<Self> {
        retrieval::check_name(&args.name).context("--name")?;
        let point = |text: &String| -> anyhow::Result<[u32; 2]> {
            let point = text.split_once(',').and_then(|(x, y)| Some([x.trim().parse().ok()?, y.trim().parse().ok()?]));
            point.with_context(|| format!("--at {text}: expected a pixel as X,Y, for example --at 640,80"))
        };
        Ok(Self {
            source: args.source.clone(),
            frame: args.frame,
            points: args.at.iter().map(point).collect::<anyhow::Result<_>>()?,
            level: args.level,
            name: args.name.clone(),
            model: base.model(&args.model, false)?,
            preview: args.preview.clone(),
            dry_run: args.dry_run,
        })
    }

    /// The settings as a file for `--config`; what is pointed at has no keys.
    pub fn to_config(&self) -> ConfigFile {
        common_config(&self.model, None)
    }
}

/// Settings of `hsg bench`.
#[derive(Clone, Debug)]
pub struct BenchSettings {
    /// As typed; none = the shipped clip.
    pub source: Option<String>,
    /// Model and backend.
    pub model: ModelSettings,
    /// How frames are computed.
    pub compute: ComputeSettings,
    /// Frames to measure.
    pub frames: u64,
    /// Rate to play at, hertz.
    pub rate_hz: Option<f64>,
    /// Latency that frames should keep.
    pub deadline: Option<Duration>,
    /// Whether names that a person gave are used.
    pub user_bank: bool,
}

impl BenchSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn resolve(base: &Base, args: &BenchArgs) -> anyhow::Result<Self> {
        let file = base.file.bench.clone().unwrap_or_default();
        let rate_hz = args.rate.or(file.rate);
        if let Some(rate) = rate_hz {
            ensure!(rate > 0.0 && rate <= 10_000.0, "--rate: expected a rate in hertz up to 10000, got {rate}");
        }
        Ok(Self {
            source: args.source.clone().or(file.source),
            model: base.model(&args.model, false)?,
            compute: base.compute(&args.compute)?,
            frames: positive(args.frames.or(file.frames), "frames")?.unwrap_or(DEFAULT_BENCH_FRAMES),
            rate_hz,
            deadline: deadline(args.deadline_millis.or(file.deadline_millis))?,
            user_bank: base.user_bank(args.no_user_bank),
        })
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        ConfigFile {
            bench: Some(BenchSection {
                source: self.source.clone(),
                frames: Some(self.frames),
                rate: self.rate_hz,
                deadline_millis: self.deadline.map(|deadline| deadline.as_secs_f64() * 1e3),
            }),
            user_bank: Some(self.user_bank),
            ..common_config(&self.model, Some(self.compute))
        }
    }
}

/// Settings of `hsg build`.
#[derive(Clone, Debug)]
pub struct BuildSettings {
    /// Path or name of the model folder.
    pub model: String,
    precision: PrecisionArg,
    /// Whether int8 is built without a receipt that vouches for it.
    pub allow_unverified: bool,
    /// How engines are built.
    pub options: BuildOptions,
}

impl BuildSettings {
    /// Resolves the settings.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn resolve(base: &Base, args: &BuildArgs) -> anyhow::Result<Self> {
        let (common, file) = (&base.file, base.file.build.clone().unwrap_or_default());
        let model = args.model.clone().or_else(|| common.model.clone());
        let precision = named(args.precision, common.precision.as_deref(), "precision")?;
        Ok(Self {
            model: model.unwrap_or_else(|| DEFAULT_MODEL.to_owned()),
            precision: precision.unwrap_or(PrecisionArg::Fp16),
            allow_unverified: args.allow_unverified.or(common.allow_unverified).unwrap_or(false),
            options: BuildOptions {
                max_batch: max_batch(args.max_batch.or(file.max_batch).unwrap_or(1), "max-batch")?,
                workspace_mebibytes: positive(args.workspace_mib.or(file.workspace_mib), "workspace-mib")?,
                timing_cache: args.timing_cache.clone().or(file.timing_cache),
                hardware_compatible: args.hardware_compatible.or(file.hardware_compatible).unwrap_or(false),
                again: args.force.or(file.force).unwrap_or(false),
            },
        })
    }

    /// Number format of the engines.
    pub fn precision(&self) -> Precision {
        precision_of(self.precision)
    }

    /// The settings as a file for `--config`.
    pub fn to_config(&self) -> ConfigFile {
        ConfigFile {
            model: Some(self.model.clone()),
            precision: Some(name_of(self.precision)),
            allow_unverified: Some(self.allow_unverified),
            build: Some(BuildSection {
                max_batch: Some(self.options.max_batch),
                workspace_mib: self.options.workspace_mebibytes,
                timing_cache: self.options.timing_cache.clone(),
                hardware_compatible: Some(self.options.hardware_compatible),
                force: Some(self.options.again),
            }),
            ..ConfigFile::default()
        }
    }
}

fn precision_of(precision: PrecisionArg) -> Precision {
    match precision {
        PrecisionArg::Fp32 => Precision::Fp32,
        PrecisionArg::Fp16 => Precision::Fp16,
        PrecisionArg::Int8 => Precision::Int8,
    }
}

/// Most frames at once that `--batch auto` asks for: memory grows with it, and the GPU is full before.
const MAX_AUTO_BATCH: usize = 8;

fn max_batch(most: usize, option: &str) -> anyhow::Result<usize> {
    ensure!((1..=MAX_BATCH).contains(&most), "--{option}: expected 1 to {MAX_BATCH} frames, got {most}");
    Ok(most)
}

/// `auto` (none) or a number of frames.
fn batch(text: Option<&str>) -> anyhow::Result<Option<usize>> {
    match text {
        None | Some("auto") => Ok(None),
        Some(text) => match text.parse() {
            Ok(most) => Ok(Some(max_batch(most, "batch")?)),
            Err(_) => bail!("--batch: expected auto or 1 to {MAX_BATCH} frames, got `{text}`"),
        },
    }
}

/// Cameras with one shutter come within a millisecond or two, and one of a run is back in time for the next; who comes at
/// other times is waited for in vain, which costs this much every few frames.
const BATCH_WAIT_MILLIS: f64 = 2.0;

fn batch_wait(millis: Option<f64>) -> anyhow::Result<Duration> {
    let millis = millis.unwrap_or(BATCH_WAIT_MILLIS);
    ensure!(
        (0.0..=1000.0).contains(&millis),
        "--batch-wait-millis: expected 0 to 1000 milliseconds, got {millis}; every frame may be as much later"
    );
    Ok(Duration::from_secs_f64(millis / 1e3))
}

/// A deadline in milliseconds.
fn deadline(millis: Option<f64>) -> anyhow::Result<Option<Duration>> {
    let Some(millis) = millis else { return Ok(None) };
    ensure!(
        (1.0..=60_000.0).contains(&millis),
        "--deadline-millis: expected 1 to 60000 milliseconds, got {millis}; a frame of the shipped model takes about 100"
    );
    Ok(Some(Duration::from_secs_f64(millis / 1e3)))
}

fn common_config(model: &ModelSettings, compute: Option<ComputeSettings>) -> ConfigFile {
    ConfigFile {
        threads: Some(model.threads),
        model: Some(model.model.clone()),
        backend: Some(name_of(model.backend)),
        precision: Some(name_of(model.precision)),
        int8_float: Some(model.int8_float),
        allow_unverified: Some(model.allow_unverified),
        track: compute.map(|compute| compute.track),
        refine: compute.map(|compute| compute.refine),
        reference: compute.map(|compute| compute.reference),
        cluster_pixels: compute.map(|compute| compute.cluster_pixels),
        rounds: compute.and_then(|compute| compute.rounds),
        bank_search: compute.map(|compute| name_of(compute.bank_search)),
        count_votes: compute.map(|compute| compute.count_votes),
        host_stages: compute.map(|compute| compute.host_stages),
        ..ConfigFile::default()
    }
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

/// A number of bytes with an optional suffix k, M, G or T (powers of 1000) or Ki, Mi, Gi, Ti (powers of 1024).
fn parse_bytes(text: &str) -> anyhow::Result<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let scale: u64 = match suffix.trim().trim_end_matches('B') {
        "" => 1,
        "k" | "K" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => bail!(
            "--max-disk {text}: expected a number of bytes such as 800000, 500M or 2Gi, got the suffix `{suffix}`"
        ),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| anyhow::anyhow!("--max-disk {text}: expected a number of bytes such as 800000, 500M or 2Gi"))?;
    Ok((number * scale as f64) as u64)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn run_settings(file: &str, typed: &[&str]) -> anyhow::Result<RunSettings> {
        let cli = Cli::parse_from([&["hsg", "run"], typed].concat());
        let Command::Run(args) = cli.command else { unreachable!("`run` was typed") };
        let base = Base { file: toml::from_str(file)?, threads: 2, json: false };
        RunSettings::resolve(&base, &args)
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = "track = false\nmodel = \"a\"\n[run]\nframes = 5\nsave = \"labels\"\nsources = [\"x.mp4\"]\n";
        let settings = run_settings(file, &[]).unwrap();
        assert_eq!((settings.frames, settings.compute.track, settings.model.model.as_str()), (Some(5), false, "a"));
        assert_eq!(settings.sources, ["x.mp4"]);
        let settings =
            run_settings(file, &["y.mp4", "--frames", "7", "--model", "b", "--no-track=false", "--save", "none"])
                .unwrap();
        assert_eq!((settings.frames, settings.compute.track, settings.model.model.as_str()), (Some(7), true, "b"));
        assert_eq!(settings.sources, ["y.mp4"]);
        assert_eq!(settings.save, Some(SaveKinds::NONE));
    }

    #[test]
    fn settings_print_back_as_a_file_that_means_the_same() {
        let typed = ["a.mp4", "b", "--name", "front", "--frames", "3", "--no-track", "--max-disk", "5Mi", "--out", "o"];
        let live = ["--live", "[::1]:8080", "--live-rate", "2.5", "--live-width", "640", "--live-quality", "60"];
        let settings = run_settings("", &[&typed[..], &live].concat()).unwrap();
        assert_eq!(settings.live.as_ref().map(ToString::to_string).as_deref(), Some("[::1]:8080"));
        let text = settings.to_config().to_toml().unwrap();
        let again = run_settings(&text, &[]).unwrap();
        assert_eq!(format!("{settings:?}"), format!("{again:?}"));
    }

    #[test]
    fn batches_may_be_numbers_in_a_file() {
        let most = |file: &str| run_settings(file, &[]).unwrap().batching(4, 4).most;
        assert_eq!(["[run]\nbatch = 3", "[run]\nbatch = \"3\"", "[run]\nbatch = \"auto\""].map(most), [3, 3, 4]);
        assert!(run_settings("[run]\nbatch = 1.5", &[]).is_err());
    }

    #[test]
    fn batches_are_as_large_as_there_are_sources() {
        let most = |typed: &[&str], sources| run_settings("", typed).unwrap().batching(sources, sources).most;
        assert_eq!([1, 2, 8, 20].map(|sources| most(&[], sources)), [1, 2, 8, 8]);
        // Files do not meet unless they are told to, or come in real time.
        let of_files = |typed: &[&str]| run_settings("", typed).unwrap().batching(4, 0).most;
        assert_eq!([&[][..], &["--realtime"], &["--batch=3"]].map(of_files), [1, 4, 3]);
        assert_eq!(run_settings("", &[]).unwrap().batching(4, 2).most, 2);
        assert_eq!([1, 2, 8, 20].map(|sources| most(&["--batch", "3"], sources)), [1, 2, 3, 3]);
        assert_eq!(most(&["--batch=auto", "--no-refine"], 4), 4);
        // Nothing meets on the CPU.
        for typed in [&["--host-stages"][..], &["--reference"], &["--cluster-pixels"], &["--batch", "1"]] {
            assert_eq!(most(typed, 4), 1, "{typed:?}");
        }
        let settings = run_settings("[run]\nbatch = \"2\"\nbatch_wait_millis = 1.5\n", &[]).unwrap();
        assert_eq!(settings.batching(4, 4), Batching { most: 2, wait: Duration::from_micros(1500) });
        for (typed, words) in [
            (["--batch", "0"], "1 to 32"),
            (["--batch", "33"], "got 33"),
            (["--batch", "many"], "auto or"),
            (["--batch-wait-millis", "nan"], "0 to 1000"),
            (["--batch-wait-millis", "1001"], "0 to 1000"),
        ] {
            let error = run_settings("", &typed).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_shipped_file_holds_every_key_and_the_defaults() {
        let text = include_str!("../configs/default.toml");
        let defaults = run_settings("", &[]).unwrap();
        let shipped = run_settings(text, &[]).unwrap();
        assert_eq!(format!("{defaults:?}"), format!("{shipped:?}"));
        // Keys that are commented out are still right.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let parsed: ConfigFile = toml::from_str(&all).unwrap();
        let value = toml::Table::try_from(&parsed).unwrap();
        fn count(value: &toml::Value) -> usize {
            value.as_table().map_or(1, |table| table.values().map(count).sum())
        }
        assert_eq!(value.values().map(count).sum::<usize>(), 15 + (12 + 2 + 4) + (10 + 9) + 8 + 4 + (4 + 1), "{value}");
    }

    #[test]
    fn bad_values_are_refused_with_their_names() {
        for (file, typed, word) in [
            ("[run]\nframs = 3", &[][..], "frams"),
            ("colour = 3", &[], "colour"),
            ("backend = \"cuda\"", &[], "cuda"),
            ("", &["--frames", "0"], "--frames"),
            ("refine = false", &["--reference"], "--no-refine"),
            ("refine = false", &["--cluster-pixels"], "--no-refine"),
            ("", &["--rounds", "0"], "--rounds"),
            ("reference = true", &["--cluster-pixels"], "--reference"),
            ("", &["a", "--name", "x", "--name", "y"], "--name"),
            ("", &["a", "--mask", "x.png", "--mask", "y.png"], "--mask"),
            ("", &["--max-disk", "5 apples"], "apples"),
            ("", &["--build-beside"], "--backend tensorrt"),
            ("", &["--publish", "zenoh:frames"], "not in this version"),
            ("", &["--publish", "stdout", "--publish", "stdout"], "twice"),
            ("[run]\npublish = [\"tcp:5555\"]", &[], "tcp:127.0.0.1:5555"),
            ("", &["--live", "8080"], "HOST:PORT"),
            ("[run]\nlive = \"localhost\"", &[], "--live localhost"),
            ("", &["--live-rate", "0"], "0.1 to 30"),
            ("", &["--live-rate", "nan"], "--live-rate"),
            ("[run]\nlive_width = 100", &[], "320 to 1920"),
            ("", &["--live-quality", "101"], "1 to 100"),
        ] {
            let error = format!("{:#}", run_settings(file, typed).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn shards_are_counted_from_one() {
        assert_eq!("2/8".parse::<Shard>().unwrap(), Shard { index: 2, of: 8 });
        for text in ["0/4", "5/4", "4", "1/0", "a/b", "-1/2", "1/100001", ""] {
            let error = text.parse::<Shard>().unwrap_err().to_string();
            assert!(error.contains("from 1 to N") && error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn sizes_on_disk() {
        for (text, bytes) in [("800", 800), ("1.5k", 1500), ("2Gi", 2 << 30), ("3MB", 3_000_000)] {
            assert_eq!(parse_bytes(text).unwrap(), bytes);
        }
    }
}
