//! What a training run means: preset or file, then environment, then command line; validated; saved with the run.

use std::path::{Path, PathBuf};

use datasets::{DatasetKind, FrameChoice};
use models::arch::NetworkSpec;
use segcore::label_space::LabelSpace;
use segcore::spherical_kmeans::KmeansSpec;
use serde::{Deserialize, Serialize};

use crate::augment::AugmentSpec;
use crate::error::{Result, TrainError};
use crate::losses::goodness_of_grouping::Neighbours;
use crate::losses::pixel_segment::PositiveSum;
use crate::objective::ObjectiveSettings;
use crate::schedule::Decay;

/// The presets that are part of the program: name and text.
pub const PRESETS: &[(&str, &str)] = &[
    ("cityscapes", include_str!("../configs/cityscapes.toml")),
    ("kitti-step", include_str!("../configs/kitti-step.toml")),
    ("camvid", include_str!("../configs/camvid.toml")),
    ("camvid-cpu", include_str!("../configs/camvid-cpu.toml")),
    ("own-drives", include_str!("../configs/own-drives.toml")),
    ("own-drives-cpu", include_str!("../configs/own-drives-cpu.toml")),
    ("published", include_str!("../configs/published.toml")),
];

/// Puts the values of `over` into `base`, section by section.
fn lay_over(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => lay_over(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The names of the presets, for messages and help.
pub fn preset_names() -> String {
    PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Everything that decides a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Which images.
    pub data: DataSettings,
    /// How they are over-segmented when no folder with edge segments is given.
    pub edges: EdgeSettings,
    /// Shapes of the network.
    pub network: NetworkSpec,
    /// What a batch is made of.
    pub batch: BatchSettings,
    /// Augmentations of a view.
    pub augment: AugmentSpec,
    /// Base segments of a training crop.
    pub kmeans: KmeansSpec,
    /// Weights of the loss terms.
    pub loss: LossSettings,
    /// Descent.
    pub optimiser: OptimiserSettings,
    /// Length, seed, checkpoints.
    pub run: RunSettings,
    /// Measuring the network on labelled images while it learns; never without this section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationSettings>,
    /// What an exported model is told.
    pub export: ExportSettings,
}

/// Which images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// `cityscapes`, `kitti-step`, `camvid` or `folder`.
    pub dataset: String,
    /// Folder of the data set; usually given by `--root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Part of the data set.
    pub split: String,
    /// Drives or sequences; all if empty.
    #[serde(default)]
    pub sequences: Vec<String>,
    /// Which frames of videos are learned from (a folder with videos alone has some).
    #[serde(default, skip_serializing_if = "is_default")]
    pub frames: FrameSettings,
}

impl DataSettings {
    /// The folder of the data set.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] when none was given.
    pub fn root(&self) -> Result<&Path> {
        self.root.as_deref().ok_or_else(|| TrainError::Invalid {
            what: "--root".into(),
            expected: "the folder of the data set".into(),
            got: "none".into(),
            remedy: "give --root".into(),
        })
    }
}

/// Which frames of a video are learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrameSettings {
    /// A frame is taken when its thumbnail differs from that of the last one taken by more than this (mean absolute
    /// difference, in standard deviations of the brightness).
    pub min_difference: f32,
    /// At most so many frames of one video, spread over it.
    pub max_per_video: usize,
    /// Whether images of a folder are thinned by the same rule.
    pub thin_images: bool,
}

impl Default for FrameSettings {
    fn default() -> Self {
        let FrameChoice { min_difference, max_per_video, thin_images } = FrameChoice::default();
        FrameSettings { min_difference, max_per_video, thin_images }
    }
}

impl FrameSettings {
    /// As the data sets want it.
    pub fn choice(&self) -> FrameChoice {
        let FrameSettings { min_difference, max_per_video, thin_images } = *self;
        FrameChoice { min_difference, max_per_video, thin_images }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How images are over-segmented.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeSettings {
    /// `pmi`, `fast` or `gradient`.
    pub detector: String,
    /// `accurate` or `fast`; of `pmi` alone.
    #[serde(default = "accurate")]
    pub level: String,
    /// What strengths are compared with.
    #[serde(default)]
    pub scale: EdgeScale,
    /// Folder with edge segments that exist already; usually given by `--edges`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The threshold rises until there are fewer regions than this.
    pub max_regions: usize,
    /// Seed of what `pmi` and `fast` draw at random, the same for every image.
    #[serde(default = "first_seed")]
    pub seed: u64,
}

/// What strengths are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EdgeScale {
    /// Each image by itself, at half resolution, as HSG does it
    #[default]
    Image,
    /// The strongest edge of the whole data set, at full resolution, as benchmarks do it
    Dataset,
}

fn first_seed() -> u64 {
    1
}

fn accurate() -> String {
    "accurate".to_owned()
}

impl EdgeSettings {
    /// What the paper learned street scenes from.
    pub fn paper() -> Self {
        let max_regions = oversegment::owt_ucm::PAPER_MAX_REGIONS;
        let (detector, level, seed) = ("pmi".to_owned(), accurate(), first_seed());
        Self { detector, level, scale: EdgeScale::Image, folder: None, max_regions, seed }
    }

    /// Checks names and ranges.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let one_of = |what: &str, got: &str, known: &[&str]| {
            if known.contains(&got) {
                return Ok(());
            }
            Err(TrainError::Invalid {
                what: what.into(),
                expected: known.join(", "),
                got: format!("`{got}`"),
                remedy: format!("choose one of these with --{what}"),
            })
        };
        one_of("detector", &self.detector, &["pmi", "fast", "gradient"])?;
        one_of("level", &self.level, &["accurate", "fast"])?;
        if self.detector == "gradient" && self.scale == EdgeScale::Dataset {
            return Err(TrainError::Invalid {
                what: "--scale dataset".into(),
                expected: "a detector whose strengths compare: pmi or fast".into(),
                got: "gradient".into(),
                remedy: "choose another --detector".into(),
            });
        }
        if !(2..=65535).contains(&self.max_regions) {
            return Err(TrainError::Invalid {
                what: "setting `edges.max_regions`".into(),
                expected: "2 to 65535".into(),
                got: self.max_regions.to_string(),
                remedy: "change it in the settings file or with --max-regions".into(),
            });
        }
        Ok(())
    }
}

/// What a batch is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSettings {
    /// Images a step.
    pub images: usize,
    /// Views of each image.
    pub views: usize,
    /// Pixels along each side of a view; a multiple of 16.
    pub crop: usize,
}

/// Weights of the loss terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossSettings {
    /// λ_E.
    pub edge: f64,
    /// λ_F.
    pub feature: f64,
    /// λ_G.
    pub grouping: f64,
    /// Neighbours of a segment, k: among all views of its image, or within its view if `neighbours_across` is given.
    pub neighbours: usize,
    /// Neighbours of a segment in the other views of its image (object-centred data sets: 2 within, 2 across).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours_across: Option<usize>,
}

/// Descent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserSettings {
    /// Base learning rate.
    pub learning_rate: f64,
    /// How it falls.
    pub decay: Decay,
    /// Steps of linear warm-up.
    pub warm_up_steps: usize,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay (biases have none).
    pub weight_decay: f64,
    /// Learning rate of the clustering transformers, queries and position tables as a multiple of the others' (street
    /// scenes 1, COCO and VOC 10).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub transformer_factor: f64,
}

fn one() -> f64 {
    1.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// Length, seed, checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// Steps of the whole run.
    #[serde(default)]
    pub steps: usize,
    /// Or: how often every image is seen; the number of steps follows from the data set when the run starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Seed of weights, order of images, augmentations and dropout.
    pub seed: u64,
    /// Threads of libtorch; 0 = all cores.
    pub threads: usize,
    /// A checkpoint after so many steps.
    pub checkpoint_every: usize,
    /// How many of the last checkpoints are kept, besides the best one.
    #[serde(default = "two")]
    pub keep_checkpoints: usize,
    /// Threads that make batches; 0 = one on a CPU (which computes itself), half of the cores beside a GPU.
    #[serde(default)]
    pub loader_threads: usize,
    /// `auto` (a GPU if libtorch finds one), `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "auto")]
    pub device: String,
    /// Precision of the embedding network: `auto` (bf16 on GPUs that have it, else fp32), `fp32` or `bf16`. The losses
    /// are always fp32.
    #[serde(default = "auto")]
    pub precision: String,
    /// Pictures of two fixed images for TensorBoard and the report after so many steps; 0 = never.
    #[serde(default = "five_hundred")]
    pub pictures_every: usize,
}

fn two() -> usize {
    2
}

fn five_hundred() -> usize {
    500
}

fn auto() -> String {
    "auto".to_owned()
}

/// Measuring the network on labelled images while it learns (method.md §7): a bank from one split, names for another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSettings {
    /// After so many steps, and at the end.
    pub every: usize,
    /// Split whose labelled images make the bank.
    pub bank_split: String,
    /// At most so many of them, spread over the split.
    pub bank_images: usize,
    /// Split that is named.
    pub split: String,
    /// At most so many of them, spread over the split.
    pub images: usize,
}

/// What an exported model is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSettings {
    /// Largest network input, width and height.
    pub input: [usize; 2],
    /// Rows and columns of the k-means grid at inference.
    pub grid: [usize; 2],
    /// Rounds of k-means at inference.
    pub rounds: usize,
    /// Label space of the prototype bank.
    pub label_space: String,
    /// Licence of the training frames.
    pub license: String,
}

/// Values from the command line or the environment that take the place of the file's.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--edges`
    pub edges: Option<PathBuf>,
    /// `--sequences`
    pub sequences: Vec<String>,
    /// `--steps`
    pub steps: Option<usize>,
    /// `--seed`
    pub seed: Option<u64>,
    /// `--threads`
    pub threads: Option<usize>,
    /// `--device`
    pub device: Option<String>,
    /// `--precision`
    pub precision: Option<String>,
    /// `--losses`: the terms that stay; the weights of the others become 0.
    pub losses: Vec<LossTerm>,
    /// `--views`
    pub views: Option<usize>,
}

/// A term of the loss, for the ablations of Table 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LossTerm {
    /// λ_E, pixels against edge segments
    Edge,
    /// λ_G, goodness of grouping
    Grouping,
    /// λ_F, pixels against the groups of every level
    Feature,
}

impl TrainSettings {
    /// The preset of this name.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] when there is none.
    pub fn preset(name: &str) -> Result<Self> {
        let found = PRESETS.iter().find(|(preset, _)| *preset == name);
        let (_, text) = found.ok_or_else(|| TrainError::Invalid {
            what: format!("preset `{name}`"),
            expected: preset_names(),
            got: "no preset of that name".into(),
            remedy: "choose one of these or give --config FILE.toml".into(),
        })?;
        Self::parse(text, &format!("preset `{name}`"))
    }

    /// Reads a settings file; unknown keys are refused.
    ///
    /// # Errors
    /// [`TrainError::File`] or [`TrainError::Settings`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::file("read", path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The preset of this name with the keys of a file in place of its own: what a file of a few lines means.
    ///
    /// # Errors
    /// As [`TrainSettings::preset`] and [`TrainSettings::read`].
    pub fn preset_with(name: &str, path: &Path) -> Result<Self> {
        let preset = toml::Table::try_from(Self::preset(name)?);
        let origin = format!("{} over preset `{name}`", path.display());
        let failed = |message: String| TrainError::Settings { origin: origin.clone(), message };
        let mut settings = preset.map_err(|e| failed(e.to_string()))?;
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::file("read", path, e))?;
        let file: toml::Table = toml::from_str(&text).map_err(|e| failed(e.to_string().trim().to_owned()))?;
        // A number of steps takes the place of one of epochs, as on the command line.
        let has_steps = file.get("run").and_then(|run| run.get("steps")).is_some();
        if let (true, Some(toml::Value::Table(run))) = (has_steps, settings.get_mut("run")) {
            run.remove("epochs");
        }
        lay_over(&mut settings, file);
        settings.try_into().map_err(|e: toml::de::Error| failed(e.to_string().trim().to_owned()))
    }

    fn parse(text: &str, origin: &str) -> Result<Self> {
        toml::from_str(text)
            .map_err(|e| TrainError::Settings { origin: origin.to_owned(), message: e.to_string().trim().to_owned() })
    }

    /// Lays `overrides` over these settings.
    pub fn apply(&mut self, overrides: &Overrides) {
        if let Some(root) = &overrides.root {
            self.data.root = Some(root.clone());
        }
        if let Some(edges) = &overrides.edges {
            self.edges.folder = Some(edges.clone());
        }
        if !overrides.sequences.is_empty() {
            self.data.sequences.clone_from(&overrides.sequences);
        }
        if let Some(steps) = overrides.steps {
            self.run.steps = steps;
            self.run.epochs = None;
        }
        if let Some(seed) = overrides.seed {
            self.run.seed = seed;
        }
        if let Some(threads) = overrides.threads {
            self.run.threads = threads;
        }
        if let Some(device) = &overrides.device {
            self.run.device.clone_from(device);
        }
        if let Some(precision) = &overrides.precision {
            self.run.precision.clone_from(precision);
        }
        if let Some(views) = overrides.views {
            self.batch.views = views;
        }
        if !overrides.losses.is_empty() {
            let loss = &mut self.loss;
            for (term, weight) in [
                (LossTerm::Edge, &mut loss.edge),
                (LossTerm::Grouping, &mut loss.grouping),
                (LossTerm::Feature, &mut loss.feature),
            ] {
                if !overrides.losses.contains(&term) {
                    *weight = 0.0;
                }
            }
        }
    }

    /// Checks all ranges.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] naming the first setting out of range; [`TrainError::Model`] for the network's.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, what: &str, expected: &str, got: String| {
            if ok {
                return Ok(());
            }
            Err(TrainError::Invalid {
                what: format!("setting `{what}`"),
                expected: expected.into(),
                got,
                remedy: "change it in the settings file or on the command line".into(),
            })
        };
        self.network.validate()?;
        let (batch, augment, loss, optimiser) = (&self.batch, &self.augment, &self.loss, &self.optimiser);
        check((1..=4096).contains(&batch.images), "batch.images", "1 to 4096", batch.images.to_string())?;
        check((1..=16).contains(&batch.views), "batch.views", "1 to 16", batch.views.to_string())?;
        let crop_ok = batch.crop.is_multiple_of(16) && (32..=800).contains(&batch.crop);
        check(crop_ok, "batch.crop", "a multiple of 16 from 32 to 800", batch.crop.to_string())?;
        for (name, value) in
            [("flip", augment.flip), ("jitter", augment.jitter), ("gray", augment.gray), ("blur", augment.blur)]
        {
            let ok = (0.0..=1.0).contains(&value);
            check(ok, &format!("augment.{name}"), "a probability, 0 to 1", value.to_string())?;
        }
        let [low, high] = augment.scale;
        let scale_ok = low > 0.05 && low <= high && high <= 20.0;
        check(scale_ok, "augment.scale", "two factors from 0.05 to 20, rising", format!("{:?}", augment.scale))?;
        for (name, value, most) in [
            ("brightness", augment.brightness, 1.0),
            ("contrast", augment.contrast, 1.0),
            ("saturation", augment.saturation, 1.0),
            ("hue", augment.hue, 0.5),
        ] {
            let ok = (0.0..=most).contains(&value);
            check(ok, &format!("augment.{name}"), &format!("0 to {most}"), value.to_string())?;
        }
        for (what, kmeans) in [("kmeans", &self.kmeans), ("export.grid", &self.export_kmeans())] {
            let KmeansSpec { grid_rows, grid_columns, rounds } = *kmeans;
            let ok = [grid_rows, grid_columns, rounds].iter().all(|n| (1..=512).contains(n))
                && (2..=4096).contains(&(grid_rows * grid_columns));
            check(ok, what, "2 to 4096 clusters, rounds from 1 to 512", format!("{kmeans:?}"))?;
        }
        // What only export reads is checked before hours are spent, too.
        let export = &self.export;
        let size_ok = export.input.iter().all(|n| (8..=16384).contains(n));
        check(size_ok, "export.input", "width and height from 8 to 16384", format!("{:?}", export.input))?;
        let known = LabelSpace::by_name(&export.label_space).is_some();
        check(known, "export.label_space", "camvid_11 or cityscapes_19", format!("`{}`", export.label_space))?;
        for (name, value) in [("edge", loss.edge), ("feature", loss.feature), ("grouping", loss.grouping)] {
            let ok = value.is_finite() && value >= 0.0;
            check(ok, &format!("loss.{name}"), "a number from 0", value.to_string())?;
        }
        check(loss.neighbours > 0, "loss.neighbours", "at least 1", loss.neighbours.to_string())?;
        let across_ok = loss.neighbours_across != Some(0);
        check(across_ok, "loss.neighbours_across", "at least 1, or no such key", "0".into())?;
        let rate = optimiser.learning_rate;
        check(rate.is_finite() && rate > 0.0, "optimiser.learning_rate", "above 0", rate.to_string())?;
        let momentum = optimiser.momentum;
        check((0.0..1.0).contains(&momentum), "optimiser.momentum", "0 to below 1", momentum.to_string())?;
        let decay = optimiser.weight_decay;
        check((0.0..1.0).contains(&decay), "optimiser.weight_decay", "0 to below 1", decay.to_string())?;
        let factor = optimiser.transformer_factor;
        let factor_ok = factor.is_finite() && factor > 0.0;
        check(factor_ok, "optimiser.transformer_factor", "above 0", factor.to_string())?;
        let some_loss = loss.edge > 0.0 || loss.feature > 0.0 || loss.grouping > 0.0;
        check(some_loss, "loss", "at least one weight above 0", "none".into())?;
        let run = &self.run;
        check(run.checkpoint_every > 0, "run.checkpoint_every", "at least 1", "0".into())?;
        check(run.keep_checkpoints > 0, "run.keep_checkpoints", "at least 1", "0".into())?;
        check(run.epochs != Some(0), "run.epochs", "at least 1, or no such key", "0".into())?;
        let threads = run.loader_threads;
        check(threads <= 256, "run.loader_threads", "0 to 256", threads.to_string())?;
        let number = run.device.strip_prefix("cuda:").map(str::parse::<u16>);
        let device_ok = ["auto", "cpu", "cuda"].contains(&run.device.as_str()) || matches!(number, Some(Ok(_)));
        check(device_ok, "run.device", "auto, cpu, cuda or cuda:N", format!("`{}`", run.device))?;
        let precision_ok = ["auto", "fp32", "bf16"].contains(&run.precision.as_str());
        check(precision_ok, "run.precision", "auto, fp32 or bf16", format!("`{}`", run.precision))?;
        if let Some(evaluation) = &self.evaluation {
            for (name, n) in
                [("every", evaluation.every), ("images", evaluation.images), ("bank_images", evaluation.bank_images)]
            {
                check(n > 0, &format!("evaluation.{name}"), "at least 1", "0".into())?;
            }
        }
        self.data.frames.choice().validate()?;
        self.edges.validate()?;
        dataset_kind(&self.data.dataset)?;
        Ok(())
    }

    /// The settings of the losses.
    pub fn objective(&self) -> ObjectiveSettings {
        ObjectiveSettings {
            kmeans: self.kmeans,
            neighbours: match self.loss.neighbours_across {
                None => Neighbours::Joint(self.loss.neighbours),
                Some(across) => Neighbours::PerView { within: self.loss.neighbours, across },
            },
            weight_edge: self.loss.edge,
            weight_feature: self.loss.feature,
            weight_grouping: self.loss.grouping,
            positive_sum: PositiveSum::Direct,
        }
    }

    /// Base segments at inference.
    pub fn export_kmeans(&self) -> KmeansSpec {
        let [grid_rows, grid_columns] = self.export.grid;
        KmeansSpec { grid_rows, grid_columns, rounds: self.export.rounds }
    }

    /// The settings that a resumed run must share with its start, as TOML: all but paths, the machine (threads, device,
    /// precision), checkpoints, evaluation and what only export reads.
    pub fn binding_part(&self) -> Result<toml::Table> {
        let mut table = to_table(self)?;
        table.remove("export");
        table.remove("evaluation");
        const FREE: &[(&str, &[&str])] = &[
            ("data", &["root"]),
            ("edges", &["folder"]),
            (
                "run",
                &[
                    "threads",
                    "checkpoint_every",
                    "keep_checkpoints",
                    "loader_threads",
                    "device",
                    "precision",
                    "pictures_every",
                ],
            ),
        ];
        for (section, keys) in FREE {
            if let Some(toml::Value::Table(section)) = table.get_mut(*section) {
                keys.iter().for_each(|key| drop(section.remove(*key)));
            }
        }
        Ok(table)
    }

    /// `settings.toml` of a run: these settings and the versions that resolved them.
    pub fn to_toml(&self) -> Result<String> {
        let table = to_table(self)?;
        let text = toml::to_string(&table).map_err(|e| bug(&e.to_string()))?;
        Ok(format!(
            "# Resolved settings of this run, written by hsg-train {} (tch 0.24, libtorch 2.11).\n{text}",
            env!("CARGO_PKG_VERSION")
        ))
    }
}

fn to_table(settings: &TrainSettings) -> Result<toml::Table> {
    toml::Table::try_from(settings).map_err(|e| bug(&e.to_string()))
}

fn bug(message: &str) -> TrainError {
    TrainError::Settings { origin: "settings".into(), message: message.to_owned() }
}

/// The data set of this name.
///
/// # Errors
/// [`TrainError::Invalid`] when there is none.
pub fn dataset_kind(name: &str) -> Result<DatasetKind> {
    name.parse().map_err(|_| TrainError::Invalid {
        what: "data set".into(),
        expected: DatasetKind::ALL.map(DatasetKind::name).join(", "),
        got: format!("`{name}`"),
        remedy: "choose one of these; `folder` takes any folder of images or videos".into(),
    })
}
