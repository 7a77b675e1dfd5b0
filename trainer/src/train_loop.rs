//! A training run: batches in, steps, checkpoints and log out. [T7]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use models::files::{sha256_hex, write_atomically};
use models::weights::{Weights, write_safetensors};
use serde_json::json;

use crate::augment::ViewSize;
use crate::checkpoint::{self, State};
use crate::error::{Result, TrainError};
use crate::evaluate::{Evaluation, Evaluator};
use crate::graph_module::Mode;
use crate::loader::{Batch, BatchSpec, Loader, Samples, make_batch};
use crate::parallel::Ranks;
use crate::pictures;
use crate::profile::{Profiler, Stage};
use crate::progress::{Progress, say};
use crate::run_folder::SMOOTHING;
use crate::run_log::RunLog;
use crate::settings::TrainSettings;
use crate::trainer::{StepReport, Trainer, cells};

/// Time between two warnings of checkpoints that cannot be written.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Images whose pictures are drawn.
const PICTURED_IMAGES: usize = 2;
/// The step of the pictured batch: one that no run reaches, so that its views are seen by no update.
const PICTURED_STEP: usize = usize::MAX >> 16;

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

/// Threads that make batches: as the settings say, else one where the CPU trains and half of the cores beside a GPU.
fn loader_threads(trainer: &Trainer) -> usize {
    match trainer.settings().run.loader_threads {
        0 if trainer.compute().device.is_cuda() => {
            std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2)
        }
        0 => 1,
        n => n,
    }
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
    /// The last evaluation of this call.
    pub evaluation: Option<Evaluation>,
    /// Images that were left out because they could not be read.
    pub skipped: usize,
    /// Whether it was interrupted; the checkpoint of the last finished step is whole.
    pub interrupted: bool,
    /// Seconds of this call.
    pub seconds: f64,
}

/// Trains into the folder `run`, from `state` (step 0 or a checkpoint's) to the last step of the settings.
///
/// `evaluator` measures the network every so many steps; `interrupt` ends the run after the current step with a whole
/// checkpoint, on any rank all of them. Only the first rank writes and measures. A full disk does not end the run: it goes
/// on, and the next checkpoint is tried again.
///
/// # Errors
/// Too many unreadable images; a last checkpoint that cannot be written; a loss that is no number (its batch is saved in
/// the run folder); out of memory. Checkpoints written before stay whole.
pub fn train(
    trainer: &mut Trainer,
    samples: &Arc<Samples>,
    run: &Path,
    state: State,
    evaluator: Option<Evaluator>,
    quiet: bool,
    interrupt: &AtomicBool,
) -> Result<Outcome> {
    let started = Instant::now();
    let is_first = trainer.ranks().is_first();
    if is_first && state.step == 0 && checkpoint::read(run, "last")?.is_none() {
        // So that an export of an untrained network, and a run that is interrupted at once, have something.
        trainer.save(run, &state, true)?;
    }
    let log = if is_first { Some(RunLog::open(run, state.step)?) } else { None };
    let saved = state.step;
    let mut course = Course { trainer, samples, run, state, evaluator, log, saved, evaluation: None, warned: None };
    course.steps(quiet, interrupt)?;
    let Course { state, log, evaluation, .. } = course;
    log.map_or(Ok(()), RunLog::finish)?;
    Ok(Outcome {
        step: state.step,
        smoothed_loss: state.smoothed_loss,
        evaluation,
        skipped: samples.skipped().len(),
        interrupted: state.step < state.steps,
        seconds: started.elapsed().as_secs_f64(),
    })
}

thread_local! {
    /// Whether a panic of this thread is caught and told as an error.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// From now on panics that become errors are not printed as well.
fn keep_caught_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                print(info)
            }
        }));
    });
}

/// A run under way.
struct Course<'a> {
    trainer: &'a mut Trainer,
    samples: &'a Arc<Samples>,
    run: &'a Path,
    state: State,
    evaluator: Option<Evaluator>,
    /// Of the first rank alone.
    log: Option<RunLog>,
    /// Step of the last checkpoint.
    saved: usize,
    evaluation: Option<Evaluation>,
    /// When a checkpoint that could not be written was last spoken of.
    warned: Option<Instant>,
}

impl Course<'_> {
    fn steps(&mut self, quiet: bool, interrupt: &AtomicBool) -> Result<()> {
        let settings = self.trainer.settings().clone();
        let steps = settings.run.steps;
        let ranks = self.trainer.ranks().clone();
        let spec = batch_spec(&settings, &ranks)?;
        let threads = loader_threads(self.trainer);
        let mut loader = Loader::start(self.samples, &spec, self.trainer.compute(), self.state.step, steps, threads)?;
        let mut progress = Progress::new("train", self.state.step as u64, steps as u64, quiet || !ranks.is_first());
        let mut profiler = Profiler::default();
        while self.state.step < steps && !ranks.any(interrupt.load(Ordering::Relaxed))? {
            profiler.start();
            let Some(batch) = loader.next() else { break };
            let batch = batch?;
            profiler.mark(Stage::Data);
            let report = self.step(&batch, &mut profiler)?;
            let times = profiler.end_step(false);
            self.state.step = batch.step + 1;
            let step = self.state.step;
            let smoothed = self.state.smoothed_loss.map_or(report.loss, |old| old + SMOOTHING * (report.loss - old));
            self.state.smoothed_loss = Some(smoothed);
            let seconds: f64 = times.iter().map(Duration::as_secs_f64).sum();
            self.state.seconds += seconds;
            // Images, not views of them.
            let images_per_second = settings.batch.images as f64 / seconds;
            if let Some(log) = &mut self.log {
                log.step(step, &report, images_per_second, times[Stage::Data as usize].as_secs_f64() / seconds)?;
            }
            progress.update(step as u64, || {
                format!(
                    "loss {smoothed:.3} (now {:.3}: edges {:.3}, features {:.3}, grouping {:.3}) {images_per_second:.1} images/s",
                    report.loss,
                    report.edge,
                    report.feature.iter().sum::<f64>(),
                    report.grouping.iter().sum::<f64>(),
                )
            });
            let is_due = |every: usize| every > 0 && (step.is_multiple_of(every) || step == steps);
            if is_due(settings.run.pictures_every) {
                self.draw()?;
            }
            if is_due(settings.evaluation.as_ref().map_or(0, |e| e.every)) {
                self.evaluate(quiet, interrupt)?;
            }
            if is_due(settings.run.checkpoint_every) {
                self.save(step == steps)?;
            }
        }
        progress.finish();
        if self.saved != self.state.step { self.save(true) } else { Ok(()) }
    }

    /// One update; what libtorch says when it fails becomes an error that says what to do.
    fn step(&mut self, batch: &Batch, profiler: &mut Profiler<'_>) -> Result<StepReport> {
        let trainer = &mut *self.trainer;
        // Operators without a Result panic, which here can only be memory that ran out.
        keep_caught_panics_quiet();
        CAUGHT.set(true);
        let stepped = catch_unwind(AssertUnwindSafe(|| trainer.step(batch, profiler)));
        CAUGHT.set(false);
        let error = match stepped {
            Ok(Ok(report)) => return Ok(report),
            Ok(Err(error)) => error,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                TrainError::Step { message: text.unwrap_or_default().lines().next().unwrap_or_default().to_owned() }
            }
        };
        Err(match error {
            TrainError::Diverged { step, loss, .. } => {
                TrainError::Diverged { step, loss, saved: self.save_batch(batch).ok() }
            }
            TrainError::Torch(error) if is_out_of_memory(&error.to_string()) => {
                self.trainer.out_of_memory(&error.to_string())
            }
            TrainError::Step { message } if is_out_of_memory(&message) => self.trainer.out_of_memory(&message),
            other => other,
        })
    }

    /// Saves the batch of a step that went wrong into the run folder.
    fn save_batch(&self, batch: &Batch) -> Result<PathBuf> {
        let ranks = self.trainer.ranks();
        let rank = if ranks.is_alone() { String::new() } else { format!("-rank{}", ranks.rank()) };
        let folder = self.run.join(format!("diverged-{:07}{rank}", batch.step + 1));
        std::fs::create_dir_all(&folder).map_err(|e| TrainError::file("create", &folder, e))?;
        let settings = self.trainer.settings();
        let (crop, cells) = (settings.batch.crop, cells(settings));
        let views = batch.samples.len() * settings.batch.views;
        let mut tensors = Weights::new();
        let pixels = models::weights::Tensor { shape: vec![views, crop, crop, 3], values: batch.pixels.clone() };
        tensors.insert("pixels".into(), pixels);
        let edges = batch.edges.iter().map(|&region| region as f32).collect();
        tensors.insert("edges".into(), models::weights::Tensor { shape: vec![views, cells, cells], values: edges });
        write_safetensors(&folder.join("batch.safetensors"), &tensors)?;
        let images: Vec<&Path> = batch.samples.iter().map(|&index| self.samples.image(index)).collect();
        let text = json!({ "step": batch.step + 1, "images": images, "views": settings.batch.views });
        write_atomically(&folder.join("batch.json"), format!("{text:#}\n").as_bytes())?;
        Ok(folder)
    }

    /// Draws the pictured batch into the log.
    fn draw(&mut self) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let spec = batch_spec(self.trainer.settings(), &Ranks::alone())?;
        let images = spec.images.min(PICTURED_IMAGES);
        let spec = BatchSpec { images, own: 0..images, ..spec };
        let batch = make_batch(self.samples, &spec, PICTURED_STEP / spec.images.max(1))?;
        let pictures = tch::no_grad(|| {
            let embeddings = self.trainer.forward(&self.trainer.images(&batch)?, Mode::Evaluate)?;
            let cells = self.trainer.cells_of(&batch)?;
            let profiler = &mut Profiler::default();
            let objective = self.trainer.objective(&embeddings, &cells, None, Mode::Evaluate, profiler)?;
            pictures::draw(&batch, &embeddings, &objective, spec.views, spec.size.crop)
        })?;
        log.pictures(self.state.step, &pictures);
        log.report();
        Ok(())
    }

    /// Measures the network; the best one by mIoU is kept.
    fn evaluate(&mut self, quiet: bool, interrupt: &AtomicBool) -> Result<()> {
        let step = self.state.step;
        let (Some(evaluator), Some(log)) = (&mut self.evaluator, &mut self.log) else { return Ok(()) };
        let Some(evaluation) = evaluator.run(&self.trainer.params, step, interrupt)? else { return Ok(()) };
        if !quiet {
            let Evaluation { miou, accuracy, images, .. } = &evaluation;
            say(&format!(
                "step {step}: mIoU {:.1} %, accuracy {:.1} % on {images} images",
                100.0 * miou,
                100.0 * accuracy
            ));
        }
        log.evaluation(&evaluation)?;
        self.evaluation = Some(evaluation);
        self.save(false)?;
        if let Some(log) = &mut self.log {
            log.report();
        }
        Ok(())
    }

    /// Writes a checkpoint. Where it cannot be written for lack of space the run goes on, unless it `must` be.
    fn save(&mut self, must: bool) -> Result<()> {
        let state = &mut self.state;
        state.room = self.trainer.room_needed();
        // All ranks have the same weights.
        if !self.trainer.ranks().is_first() {
            self.saved = state.step;
            return Ok(());
        }
        // An evaluation of this step has saved it already.
        if self.saved == state.step {
            return Ok(());
        }
        let before = (state.best_loss, state.best_miou);
        let evaluation = self.evaluation.as_ref().filter(|evaluation| evaluation.step == state.step);
        let is_best = match (evaluation, self.evaluator.is_some()) {
            // Labels say more than the loss.
            (Some(evaluation), _) => {
                let is_best = state.best_miou.is_none_or(|best| evaluation.miou > best);
                if is_best {
                    state.best_miou = Some(evaluation.miou);
                }
                is_best
            }
            (None, true) => false,
            (None, false) => match (state.smoothed_loss, state.best_loss) {
                (Some(loss), Some(best)) => loss < best,
                _ => true,
            },
        };
        if is_best {
            state.best_loss = state.smoothed_loss;
        }
        match self.trainer.save(self.run, state, is_best) {
            Ok(()) => {
                self.saved = state.step;
                Ok(())
            }
            Err(error) if error.is_disk_full() && !must => {
                (state.best_loss, state.best_miou) = before;
                if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    self.warned = Some(Instant::now());
                    say(&format!("warning: no checkpoint of step {}: {error}; the run goes on", state.step));
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether a message of libtorch says that memory ran out. A primitive of oneDNN, once described, cannot be created when
/// there is no memory for its code; that one cannot be described has other reasons.
fn is_out_of_memory(message: &str) -> bool {
    let message = message.to_lowercase();
    let says = |words: &str| message.contains(words);
    ["not enough memory", "out of memory", "can't allocate memory", "bad_alloc"].into_iter().any(says)
        || (says("could not create a primitive") && !says("could not create a primitive descriptor"))
}

/// Median times of `steps` steps after three to warm up, and of the backbone alone in the same run.
#[derive(Clone, Debug)]
pub struct ProfileReport {
    /// Median of each stage, in milliseconds, in the order of [`Stage::ALL`].
    pub stages_millis: [f64; Stage::ALL.len()],
    /// Median whole step.
    pub step_millis: f64,
    /// The same of the steps whose stages were measured: on a GPU every mark waits for it, which costs time.
    pub marked_millis: f64,
    /// Median forward pass of the backbone and head (part of every step).
    pub forward_millis: f64,
    /// Median of the backbone and head alone, forwards and backwards.
    pub backbone_millis: f64,
    /// Images a step.
    pub images: usize,
}

impl ProfileReport {
    /// A whole step as a multiple of the backbone's forward pass.
    pub fn ratio(&self) -> f64 {
        self.step_millis / self.forward_millis
    }

    /// Share of a step in stages that are neither the backbone's forward pass nor the backward pass.
    pub fn outside_stages(&self) -> f64 {
        let inside = [Stage::Forward, Stage::Backward].map(|stage| self.stages_millis[stage as usize]);
        1.0 - inside.iter().sum::<f64>() / self.marked_millis
    }

    /// Share of a step beyond the backbone alone, forwards and backwards: the strict measure, which counts the backward
    /// pass of losses and transformers too.
    pub fn outside_backbone(&self) -> f64 {
        1.0 - self.backbone_millis / self.step_millis
    }

    /// Images a second.
    pub fn images_per_second(&self) -> f64 {
        1e3 * self.images as f64 / self.step_millis
    }
}

/// Measures `steps` training steps. Nothing is written.
///
/// # Errors
/// As [`train`].
pub fn profile(trainer: &mut Trainer, samples: &Arc<Samples>, steps: usize) -> Result<ProfileReport> {
    const WARM_UP: usize = 3;
    let threads = loader_threads(trainer);
    let compute = trainer.compute();
    let spec = batch_spec(trainer.settings(), trainer.ranks())?;
    // On a GPU the marks of the parts cost time, so steps with and without them take turns.
    let plain_too = compute.device.is_cuda();
    let rounds = steps + WARM_UP;
    let mut loader = Loader::start(samples, &spec, compute, 0, rounds * (1 + usize::from(plain_too)), threads)?;
    let mut profiler = Profiler::synchronized(compute);
    let (mut whole, mut alone) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let keep = round >= WARM_UP;
        profiler.start();
        let Some(batch) = loader.next() else { break };
        let batch = batch?;
        profiler.mark(Stage::Data);
        trainer.step(&batch, &mut profiler)?;
        profiler.end_step(keep);
        if plain_too {
            let started = Instant::now();
            let Some(batch) = loader.next() else { break };
            trainer.step(&batch?, &mut Profiler::default())?;
            compute.synchronize();
            if keep {
                whole.push(1e3 * started.elapsed().as_secs_f64());
            }
        }
        // Side by side, so that a busy machine disturbs both alike.
        let started = Instant::now();
        trainer.backbone_alone(&batch)?;
        if keep {
            alone.push(1e3 * started.elapsed().as_secs_f64());
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let (stages_millis, marked_millis) = profiler.medians_millis();
    let step_millis = median(&mut whole).unwrap_or(marked_millis);
    Ok(ProfileReport {
        stages_millis,
        step_millis,
        marked_millis,
        forward_millis: stages_millis[Stage::Forward as usize],
        backbone_millis: median(&mut alone).unwrap_or(0.0),
        images: trainer.settings().batch.images,
    })
}
