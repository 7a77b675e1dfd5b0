//! A training run: batches in, steps, checkpoints and metrics out. [T7]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use models::arch::{OutputStride, embedding_net};
use models::files::{sha256_hex, write_atomically};
use models::params::{ParamSpec, initial_weights};
use tch::{Device, Kind, Tensor};

use crate::augment::ViewSize;
use crate::base_segments::NO_REGION;
use crate::checkpoint::{self, State};
use crate::error::{Result, TrainError};
use crate::graph_module::{GraphModule, Mode, ParamStore};
use crate::loader::{Batch, BatchSpec, Loader, Samples};
use crate::objective::{Objective, ObjectiveModule, Views};
use crate::optimiser::Sgd;
use crate::parallel::Ranks;
use crate::profile::{Profiler, Stage};
use crate::progress::Progress;
use crate::schedule::learning_rate;
use crate::settings::TrainSettings;

/// Name of the file with the resolved settings in a run folder.
pub const SETTINGS_FILE: &str = "settings.toml";
/// Name of the file with one JSON object a step in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Weight of a new step in the smoothed loss.
const SMOOTHING: f64 = 0.01;
/// Pixels per feature cell in training.
const STRIDE: OutputStride = OutputStride::Train16;

/// The network of a run with everything a step needs.
pub struct Trainer {
    embedding: GraphModule,
    objective: ObjectiveModule,
    optimiser: Sgd,
    /// Parameters and running statistics.
    pub params: ParamStore,
    specs: Vec<ParamSpec>,
    settings: TrainSettings,
    device: Device,
    ranks: Ranks,
}

/// One step's numbers. Loss terms are weighted, so they add up to `loss`.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Total.
    pub loss: f64,
    /// λ_E L_f(G_e).
    pub edge: f64,
    /// λ_F L_f(G_l).
    pub feature: Vec<f64>,
    /// λ_G L_g of level l.
    pub grouping: Vec<f64>,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Base segments in the batch.
    pub num_segments: i64,
}

impl StepReport {
    /// Makes it that of the global batch, the same on all ranks.
    fn over_ranks(&mut self, ranks: &Ranks) -> Result<()> {
        // A rank's segments are a share too: their mean times the ranks is the total.
        let mut segments = self.num_segments as f64 * ranks.size() as f64;
        let terms = self.feature.iter_mut().chain(&mut self.grouping);
        let mut numbers: Vec<&mut f64> =
            [&mut self.loss, &mut self.edge, &mut segments].into_iter().chain(terms).collect();
        let mut values: Vec<f64> = numbers.iter().map(|number| **number).collect();
        ranks.mean(&mut values)?;
        numbers.iter_mut().zip(values).for_each(|(number, value)| **number = value);
        self.num_segments = segments.round() as i64;
        Ok(())
    }
}

impl Trainer {
    /// A network with the seeded initial weights of `settings`.
    ///
    /// # Errors
    /// When the settings are out of range.
    pub fn new(settings: &TrainSettings, device: Device) -> Result<Self> {
        Self::over_ranks(settings, device, &Ranks::alone())
    }

    /// The same, learning together with the other ranks: a step's images are those of all of them.
    ///
    /// # Errors
    /// When the settings are out of range, or the images of a step cannot be shared out evenly.
    pub fn over_ranks(settings: &TrainSettings, device: Device, ranks: &Ranks) -> Result<Self> {
        ranks.part(settings.batch.images)?;
        let specs = settings.network.params()?;
        let weights = initial_weights(&specs, settings.run.seed);
        let params = ParamStore::new(&specs, &weights, "initial weights", device)?;
        Ok(Trainer {
            embedding: GraphModule::new(&embedding_net::fcn(&settings.network, STRIDE)?, device)?.over_ranks(ranks),
            objective: ObjectiveModule::new(&settings.network, settings.objective(), device)?.over_ranks(ranks),
            optimiser: Sgd::new(settings.optimiser.momentum, settings.optimiser.weight_decay),
            params,
            specs,
            settings: settings.clone(),
            device,
            ranks: ranks.clone(),
        })
    }

    /// Takes weights and momentum from a checkpoint.
    ///
    /// # Errors
    /// When it belongs to another architecture; the message names file, tensor and shapes.
    pub fn restore(&mut self, checkpoint: &checkpoint::Checkpoint) -> Result<()> {
        let origin = checkpoint.folder.display().to_string();
        self.params = ParamStore::new(&self.specs, &checkpoint.weights, &origin, self.device)?;
        self.optimiser.restore(&self.params, &checkpoint.momentum, &origin, self.device)
    }

    /// Feature cells along each side of a view.
    pub fn cells(&self) -> usize {
        cells(&self.settings)
    }

    /// Embeddings of a batch's views, `[V, m, cells, cells]`, with gradient.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mode = Mode::Train { dropout: true };
        self.embedding.run(&self.params, &[(embedding_net::IMAGE, images)], mode)?.take(embedding_net::EMBEDDING)
    }

    /// The pixels of a batch as `[V, 3, crop, crop]`, channels innermost in memory.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn images(&self, batch: &Batch) -> Result<Tensor> {
        let crop = self.settings.batch.crop as i64;
        let images = Tensor::f_from_slice(&batch.pixels)?.f_reshape([-1, crop, crop, 3])?.f_to_device(self.device)?;
        Ok(images.f_permute([0, 3, 1, 2])?)
    }

    fn objective_of(&self, embeddings: &Tensor, batch: &Batch, profiler: &mut Profiler) -> Result<Objective> {
        let cells = self.cells() as i64;
        let edges = Tensor::f_from_slice(&batch.edges)?.f_reshape([-1, cells, cells])?.f_to_device(self.device)?;
        let kept = edges.f_ne(NO_REGION)?;
        let views = self.settings.batch.views as i64;
        let images = edges.size()[0] / views;
        let options = (Kind::Int64, self.device);
        let image_of_view = Tensor::arange(images * views, options).f_divide_scalar_mode(views, "floor")?;
        let views = Views { edge_segments: &edges, kept: &kept, image_of_view: &image_of_view, num_images: images };
        self.objective.run(&self.params, embeddings, &views, Mode::Train { dropout: true }, profiler)
    }

    /// One optimiser update.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] when the loss is not finite (nothing is updated then); [`TrainError::Torch`].
    pub fn step(&mut self, batch: &Batch, profiler: &mut Profiler) -> Result<StepReport> {
        // Dropout is the only random draw inside libtorch; like all streams it depends on seed and step alone.
        // Ranks draw different masks.
        let draw = (batch.step as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ (self.ranks.rank() as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
        tch::manual_seed((self.settings.run.seed ^ draw) as i64);
        let images = self.images(batch)?;
        let embeddings = self.forward(&images)?;
        profiler.mark(Stage::Forward);
        let objective = self.objective_of(&embeddings, batch, profiler)?;
        let number = |t: &Tensor| t.double_value(&[]);
        let optimiser = &self.settings.optimiser;
        let rate = learning_rate(
            optimiser.decay,
            optimiser.learning_rate,
            batch.step,
            self.settings.run.steps,
            optimiser.warm_up_steps,
        );
        let mut report = StepReport {
            loss: number(&objective.total),
            edge: number(&objective.edge),
            feature: objective.feature.iter().map(number).collect(),
            grouping: objective.grouping.iter().map(number).collect(),
            learning_rate: rate,
            num_segments: objective.base.num_segments,
        };
        report.over_ranks(&self.ranks)?;
        if !report.loss.is_finite() {
            return Err(TrainError::Diverged { step: batch.step + 1, loss: report.loss });
        }
        // Gradients are handed over instead of being added up in the parameters, which would have to be cleared.
        let learned: Vec<&Tensor> = self.params.learned().map(|(_, param)| param).collect();
        let gradients = Tensor::f_run_backward(&[&objective.total], &learned, false, false)?;
        let gradients = self.ranks.average(&learned, gradients)?;
        profiler.mark(Stage::Backward);
        self.optimiser.step(&self.params, &gradients, rate)?;
        profiler.mark(Stage::Optimiser);
        Ok(report)
    }

    /// Writes a checkpoint into `run`.
    ///
    /// # Errors
    /// As [`checkpoint::write`].
    pub fn save(&self, run: &Path, state: &State, is_best: bool) -> Result<()> {
        checkpoint::write(run, &self.params.to_weights()?, &self.optimiser.state()?, state, is_best)
    }
}

/// Feature cells along each side of a view, rounded up as the network does.
pub fn cells(settings: &TrainSettings) -> usize {
    settings.batch.crop.div_ceil(STRIDE.pixels())
}

/// The batches of a run, this rank's part of them.
///
/// # Errors
/// As [`Ranks::part`].
pub fn batch_spec(settings: &TrainSettings, ranks: &Ranks) -> Result<BatchSpec> {
    Ok(BatchSpec {
        images: settings.batch.images,
        own: ranks.part(settings.batch.images)?,
        views: settings.batch.views,
        size: ViewSize { crop: settings.batch.crop, cells: cells(settings) },
        augment: settings.augment.clone(),
        seed: settings.run.seed,
    })
}

/// SHA-256 of the settings that a resumed run must share with its start.
///
/// # Errors
/// [`TrainError::Settings`].
pub fn settings_hash(settings: &TrainSettings) -> Result<String> {
    Ok(sha256_hex(settings.binding_part()?.to_string().as_bytes()))
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done in the whole run.
    pub step: usize,
    /// Smoothed loss.
    pub smoothed_loss: Option<f64>,
    /// Whether it was interrupted; the checkpoint of the last finished step is whole.
    pub interrupted: bool,
    /// Seconds of this call.
    pub seconds: f64,
}

/// Trains into the folder `run`, from `state` (step 0 or a checkpoint's) to the last step of the settings.
///
/// `interrupt` ends the run after the current step with a whole checkpoint; on any rank it ends all. Only the first rank
/// writes.
///
/// # Errors
/// An unreadable image; a full disk; a loss that is no number. Checkpoints written before stay whole.
pub fn train(
    trainer: &mut Trainer,
    samples: Arc<Samples>,
    run: &Path,
    mut state: State,
    quiet: bool,
    interrupt: &AtomicBool,
) -> Result<Outcome> {
    let settings = trainer.settings.clone();
    let steps = settings.run.steps;
    let started = Instant::now();
    let ranks = trainer.ranks.clone();
    let mut metrics = if ranks.is_first() { Some(open_metrics(run, state.step)?) } else { None };
    if ranks.is_first() && state.step == 0 && checkpoint::read(run, "last")?.is_none() {
        // So that an export of an untrained network, and a run that is interrupted at once, have something.
        trainer.save(run, &state, true)?;
    }
    let mut loader = Loader::start(samples, batch_spec(&settings, &ranks)?, state.step, steps)?;
    let mut progress = Progress::new("train", state.step as u64, steps as u64, quiet || !ranks.is_first());
    let mut profiler = Profiler::default();
    let mut saved = state.step;
    while state.step < steps && !ranks.any(interrupt.load(Ordering::Relaxed))? {
        profiler.start();
        let Some(batch) = loader.next() else { break };
        let batch = batch?;
        profiler.mark(Stage::Data);
        let report = trainer.step(&batch, &mut profiler)?;
        let times = profiler.end_step(false);
        state.step = batch.step + 1;
        let smoothed = state.smoothed_loss.map_or(report.loss, |old| old + SMOOTHING * (report.loss - old));
        state.smoothed_loss = Some(smoothed);
        let seconds: f64 = times.iter().map(std::time::Duration::as_secs_f64).sum();
        let wait_share = times[Stage::Data as usize].as_secs_f64() / seconds;
        state.seconds += seconds;
        // Images, not views of them.
        let images_per_second = settings.batch.images as f64 / seconds;
        if let Some(metrics) = &mut metrics {
            let line = metrics_line(state.step, &report, images_per_second, wait_share);
            writeln!(metrics, "{line}")
                .and_then(|()| metrics.flush())
                .map_err(|e| TrainError::file("write", &run.join(METRICS_FILE), e))?;
        }
        progress.update(state.step as u64, || {
            format!(
                "loss {smoothed:.3} (now {:.3}: edges {:.3}, features {:.3}, grouping {:.3}) {images_per_second:.1} images/s",
                report.loss,
                report.edge,
                report.feature.iter().sum::<f64>(),
                report.grouping.iter().sum::<f64>(),
            )
        });
        if state.step.is_multiple_of(settings.run.checkpoint_every) || state.step == steps {
            save(trainer, run, &mut state)?;
            saved = state.step;
        }
    }
    progress.finish();
    let interrupted = state.step < steps;
    if saved != state.step {
        save(trainer, run, &mut state)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Outcome { step: state.step, smoothed_loss: state.smoothed_loss, interrupted, seconds })
}

fn save(trainer: &Trainer, run: &Path, state: &mut State) -> Result<()> {
    let is_best = match (state.smoothed_loss, state.best_loss) {
        (Some(loss), Some(best)) => loss < best,
        _ => true,
    };
    if is_best {
        state.best_loss = state.smoothed_loss;
    }
    // All ranks have the same weights.
    if trainer.ranks.is_first() { trainer.save(run, state, is_best) } else { Ok(()) }
}

fn metrics_line(step: usize, report: &StepReport, images_per_second: f64, wait_share: f64) -> serde_json::Value {
    let mut line = serde_json::Map::new();
    line.insert("step".into(), step.into());
    line.insert("loss".into(), report.loss.into());
    line.insert("loss_edge".into(), report.edge.into());
    for (name, values) in [("loss_feature", &report.feature), ("loss_grouping", &report.grouping)] {
        for (i, value) in values.iter().enumerate() {
            line.insert(format!("{name}_{}", i + 1), (*value).into());
        }
    }
    line.insert("learning_rate".into(), report.learning_rate.into());
    line.insert("images_per_second".into(), images_per_second.into());
    line.insert("wait_share".into(), wait_share.into());
    line.insert("segments".into(), report.num_segments.into());
    line.into()
}

/// Opens `metrics.jsonl` for appending, cut back to the lines of steps up to `step`; a half-written line is dropped.
fn open_metrics(run: &Path, step: usize) -> Result<File> {
    let path = run.join(METRICS_FILE);
    let error = |e| TrainError::file("write", &path, e);
    if path.is_file() {
        let mut kept = Vec::new();
        let file = File::open(&path).map_err(|e| TrainError::file("read", &path, e))?;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(|e| TrainError::file("read", &path, e))?;
            let value: Option<serde_json::Value> = serde_json::from_slice(&line).ok();
            let line_step = value.as_ref().and_then(|v| v["step"].as_u64());
            if line_step.is_some_and(|s| s <= step as u64) {
                kept.extend_from_slice(&line);
                kept.push(b'\n');
            }
        }
        write_atomically(&path, &kept)?;
    }
    File::options().create(true).append(true).open(&path).map_err(error)
}

/// Median times of `steps` steps after three to warm up, and of the backbone's forward pass alone in the same run.
#[derive(Clone, Debug)]
pub struct ProfileReport {
    /// Median of each stage, in milliseconds, in the order of [`Stage::ALL`].
    pub stages_millis: [f64; Stage::ALL.len()],
    /// Median whole step.
    pub step_millis: f64,
    /// Median forward pass of the backbone and head (part of every step).
    pub forward_millis: f64,
}

impl ProfileReport {
    /// A whole step as a multiple of the backbone's forward pass.
    pub fn ratio(&self) -> f64 {
        self.step_millis / self.forward_millis
    }
}

/// Measures `steps` training steps. Nothing is written.
///
/// # Errors
/// As [`train`].
pub fn profile(trainer: &mut Trainer, samples: Arc<Samples>, steps: usize) -> Result<ProfileReport> {
    const WARM_UP: usize = 3;
    let spec = batch_spec(&trainer.settings, &trainer.ranks)?;
    let mut loader = Loader::start(samples, spec, 0, steps + WARM_UP)?;
    let mut profiler = Profiler::default();
    for step in 0..steps + WARM_UP {
        profiler.start();
        let Some(batch) = loader.next() else { break };
        let batch = batch?;
        profiler.mark(Stage::Data);
        trainer.step(&batch, &mut profiler)?;
        profiler.end_step(step >= WARM_UP);
    }
    let (stages_millis, step_millis) = profiler.medians_millis();
    Ok(ProfileReport { stages_millis, step_millis, forward_millis: stages_millis[Stage::Forward as usize] })
}

/// Path of the settings of a run folder.
pub fn settings_file(run: &Path) -> PathBuf {
    run.join(SETTINGS_FILE)
}
