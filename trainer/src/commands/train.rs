//! `hsg-train train`: learn, resume, measure.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use datasets::Dataset;
use models::files::write_atomically;
use serde_json::json;

use super::{Exit, listen, needed, print_json, print_text, resolve_threads, show, start_pool};
use crate::checkpoint::{self, Rescheduled, State};
use crate::cli::{Common, TrainArgs};
use crate::data::{self, Opened};
use crate::device::Compute;
use crate::edges::{Extras, cached_edges_folder, edge_file, make_edges};
use crate::error::{Result, TrainError};
use crate::evaluate::Evaluator;
use crate::loader::{Samples, SkippedImage};
use crate::parallel::{self, Place, Ranks, launch};
use crate::profile::Stage;
use crate::progress::say;
use crate::run_folder::{self, settings_file};
use crate::settings::{Overrides, TrainSettings, preset_names};
use crate::signals::Signals;
use crate::train_loop::{self, settings_hash};
use crate::trainer::Trainer;

/// Runs it.
///
/// # Errors
/// Settings out of range, data that cannot be read, a run folder that does not fit, as the message says.
pub fn run(args: &TrainArgs, common: &Common) -> Result<Exit> {
    let settings = resolve(args, common)?;
    settings.validate()?;
    if common.show_settings {
        return show(&settings, common);
    }
    if args.gpus > 1 && !launch::is_rank() {
        return start_ranks(args.gpus);
    }
    let threads = resolve_threads(settings.run.threads);
    let compute = Compute::resolve(&own_device(&settings.run.device)?, &settings.run.precision)?;
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    start_pool(threads);
    let signals = listen()?;
    let ranks = parallel::connect(compute.device)?;
    // An error of one rank ends all: the others would wait for it.
    learn(args, common, settings, compute, &signals, &ranks).map_err(|error| ranks.stop_all(error))
}

/// Starts this command once a GPU and waits for all of them.
fn start_ranks(gpus: usize) -> Result<Exit> {
    if !cfg!(feature = "nccl") {
        return Err(TrainError::Missing {
            what: format!("training on {gpus} GPUs"),
            remedy: "build it with the cargo feature: cargo build --release -p trainer --features nccl".into(),
        });
    }
    let program = std::env::current_exe().map_err(|e| TrainError::file("find", Path::new("this program"), e))?;
    let command = || {
        let mut command = std::process::Command::new(&program);
        command.args(std::env::args_os().skip(1));
        command
    };
    let signals = listen()?;
    Ok(match launch::ranks(gpus, command, signals.stop())? {
        0 => Exit::Done,
        1 => Exit::Skipped,
        _ if signals.stop().load(std::sync::atomic::Ordering::Relaxed) => Exit::Interrupted(signals.received()),
        _ => Exit::Failed,
    })
}

/// The device of this process: of several on one machine, each has a GPU of its own.
fn own_device(device: &str) -> Result<String> {
    let place = Place::from_environment()?;
    let is_free = device == "cuda" || (device == "auto" && tch::Cuda::is_available());
    Ok(match place {
        Some(place) if is_free => format!("cuda:{}", place.local_rank),
        _ => device.to_owned(),
    })
}

fn learn(
    args: &TrainArgs,
    common: &Common,
    mut settings: TrainSettings,
    compute: Compute,
    signals: &Signals,
    ranks: &Ranks,
) -> Result<Exit> {
    let quiet = common.quiet || common.json || !ranks.is_first();
    if let Some(steps) = args.profile {
        let Some(opened) = open_data(&settings, quiet, signals.stop(), ranks)? else {
            return Ok(Exit::Interrupted(signals.received()));
        };
        let Some(samples) = open_samples(&settings, opened.dataset.as_ref(), quiet, signals.stop(), ranks)? else {
            return Ok(Exit::Interrupted(signals.received()));
        };
        return profile(&settings, &samples, steps, compute, common.json, ranks);
    }
    let out = args.out.as_deref().ok_or_else(|| needed("--out", "a run folder"))?;
    // The number of steps may depend on the data set, and what a run folder must fit depends on the number of steps.
    let opened = match settings.run.epochs {
        Some(_) => open_data(&settings, quiet, signals.stop(), ranks)?,
        None => None,
    };
    if let (Some(epochs), Some(opened)) = (settings.run.epochs, &opened) {
        settings.run.steps = (epochs * opened.dataset.samples().len()).div_ceil(settings.batch.images);
    }
    if settings.run.epochs.is_some() && opened.is_none() {
        return Ok(Exit::Interrupted(signals.received()));
    }
    // Before anything is read of the run. A folder that is not there yet is nobody's.
    let mut lock = if ranks.is_first() && out.is_dir() { run_folder::lock(out)? } else { None };
    let mut trainer = Trainer::over_ranks(&settings, compute, ranks)?;
    if settings.run.steps > 0 {
        trainer.check_memory()?;
    }
    let mut state = read_run(out, &settings, args.resume, &mut trainer)?;
    // Ranks that do not see the same run folder would not start from the same weights. All have looked into it before
    // the first one writes there.
    ranks.agree("the step to start from", state.step as i64)?;
    state.commands.push(command_line(ranks));
    let (mut evaluator, mut damaged_videos) = (None, 0);
    let samples = if state.step < settings.run.steps {
        let opened = match opened {
            Some(opened) => Some(opened),
            None => open_data(&settings, quiet, signals.stop(), ranks)?,
        };
        let Some(Opened { dataset, damaged_videos: damaged }) = opened else {
            return Ok(Exit::Interrupted(signals.received()));
        };
        damaged_videos = damaged;
        if !data::check(dataset.as_ref(), settings.batch.crop, quiet, signals.stop())? {
            return Ok(Exit::Interrupted(signals.received()));
        }
        evaluator = if ranks.is_first() { open_evaluator(&settings, compute) } else { None };
        match open_samples(&settings, dataset.as_ref(), quiet, signals.stop(), ranks)? {
            Some(samples) => Some(samples),
            None => return Ok(Exit::Interrupted(signals.received())),
        }
    } else {
        None
    };
    // From here on the run can go; a try that failed above has left nothing behind.
    state.images = samples.as_ref().map_or(state.images, |samples| samples.len());
    if ranks.is_first() {
        std::fs::create_dir_all(out).map_err(|e| TrainError::file("create", out, e))?;
        if lock.is_none() {
            lock = run_folder::lock(out)?;
        }
        write_atomically(&settings_file(out), settings.to_toml()?.as_bytes())?;
    }
    if !quiet {
        let BatchOf { images, views, crop } = BatchOf::from(&settings);
        say(&format!(
            "{}, {}: {images} images × {views} views of {crop}² a step, {} steps",
            compute.device_name(),
            compute.precision_name(),
            settings.run.steps
        ));
    }
    let outcome = match samples {
        Some(samples) => train_loop::train(&mut trainer, &samples, out, state, evaluator, quiet, signals.stop())?,
        None => {
            // `--steps 0`, or a run that is complete.
            if ranks.is_first() && checkpoint::read(out, "last")?.is_none() {
                trainer.save(out, &state, true)?;
            }
            train_loop::Outcome {
                step: state.step,
                smoothed_loss: state.smoothed_loss,
                evaluation: None,
                skipped: 0,
                interrupted: false,
                seconds: 0.0,
            }
        }
    };
    if !ranks.is_first() {
        // The first one says it.
    } else if common.json {
        print_json(&json!({
            "run": out, "step": outcome.step, "steps": settings.run.steps, "smoothed_loss": outcome.smoothed_loss,
            "evaluation": outcome.evaluation, "skipped": outcome.skipped, "interrupted": outcome.interrupted,
            "seconds": outcome.seconds, "device": compute.device_name(), "precision": compute.precision_name(),
        }))?;
    } else if !quiet {
        let loss = outcome.smoothed_loss.map_or_else(String::new, |l| format!(", smoothed loss {l:.4}"));
        let seconds = outcome.seconds;
        say(&format!("{}: step {} of {}{loss}, {seconds:.0} s", out.display(), outcome.step, settings.run.steps));
        if outcome.interrupted {
            say("interrupted; go on with the same command and --resume");
        }
    }
    drop(lock);
    Ok(match outcome {
        _ if outcome.interrupted => Exit::Interrupted(signals.received()),
        _ if outcome.skipped > 0 || damaged_videos > 0 => Exit::Skipped,
        _ => Exit::Done,
    })
}

/// What was typed, for the receipt; the number of ranks changes what dropout draws.
fn command_line(ranks: &Ranks) -> String {
    let words = std::iter::once("hsg-train".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ");
    if ranks.is_alone() { words } else { format!("mpirun -n {} {words}", ranks.size()) }
}

/// As [`data::open`]; the first rank extracts the frames of videos, the others wait for it.
fn open_data(settings: &TrainSettings, quiet: bool, interrupt: &AtomicBool, ranks: &Ranks) -> Result<Option<Opened>> {
    first_alone(ranks, || data::open(&settings.data, quiet, interrupt))
}

/// What `make` gives: first on the first rank alone, because it writes what the others then find; `None` when that was
/// interrupted on any.
fn first_alone<T>(ranks: &Ranks, mut make: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let mut made = if ranks.is_first() { make()? } else { None };
    if ranks.any(ranks.is_first() && made.is_none())? {
        return Ok(None);
    }
    if !ranks.is_first() {
        made = make()?;
    }
    Ok(if ranks.any(made.is_none())? { None } else { made })
}

/// As [`open_samples_alone`]; the first rank over-segments, the others wait for it.
fn open_samples(
    settings: &TrainSettings,
    dataset: &dyn Dataset,
    quiet: bool,
    interrupt: &AtomicBool,
    ranks: &Ranks,
) -> Result<Option<Arc<Samples>>> {
    let samples = first_alone(ranks, || open_samples_alone(settings, dataset, quiet, interrupt))?;
    ranks.agree("the number of images", samples.as_ref().map_or(0, |s| s.len()) as i64)?;
    Ok(samples)
}

/// What the first line of a run says of its batches.
struct BatchOf {
    images: usize,
    views: usize,
    crop: usize,
}

impl From<&TrainSettings> for BatchOf {
    fn from(settings: &TrainSettings) -> Self {
        let batch = &settings.batch;
        BatchOf { images: batch.images, views: batch.views, crop: batch.crop }
    }
}

/// The labelled images that the network is measured on, if the settings name some and they are there: learning needs no
/// labels, so that it goes on without.
fn open_evaluator(settings: &TrainSettings, compute: Compute) -> Option<Evaluator> {
    let evaluation = settings.evaluation.as_ref()?;
    match Evaluator::open(settings, evaluation, compute) {
        Ok(evaluator) => Some(evaluator),
        Err(error) => {
            log::warn!("no evaluation while training: {error}");
            None
        }
    }
}

fn resolve(args: &TrainArgs, common: &Common) -> Result<TrainSettings> {
    let mut settings = match (&args.preset, &common.config, &args.out) {
        (Some(preset), Some(path), _) => TrainSettings::preset_with(preset, path)?,
        (Some(preset), None, _) => TrainSettings::preset(preset)?,
        (None, Some(path), _) => TrainSettings::read(path)?,
        (None, None, Some(out)) if args.resume && settings_file(out).is_file() => {
            TrainSettings::read(&settings_file(out))?
        }
        _ => {
            return Err(TrainError::Invalid {
                what: "settings".into(),
                expected: "--preset NAME or --config FILE.toml".into(),
                got: "neither".into(),
                remedy: format!("presets: {}", preset_names()),
            });
        }
    };
    settings.apply(&Overrides {
        root: args.root.clone(),
        edges: args.edges.clone(),
        sequences: args.sequences.clone(),
        steps: args.steps,
        seed: args.seed,
        threads: common.threads,
        device: args.device.clone(),
        precision: args.precision.clone(),
        losses: args.losses.clone(),
        views: args.views,
    });
    Ok(settings)
}

/// Opens the images of `dataset`; over-segments them first, into the cache, where no folder of edge segments is given.
/// `None` when that was interrupted.
fn open_samples_alone(
    settings: &TrainSettings,
    dataset: &dyn Dataset,
    quiet: bool,
    interrupt: &AtomicBool,
) -> Result<Option<Arc<Samples>>> {
    let mut unusable = Vec::new();
    let folder = match &settings.edges.folder {
        Some(folder) => folder.clone(),
        None => {
            let folder = cached_edges_folder(dataset, &settings.edges)?;
            let (edges, threads) = (&settings.edges, resolve_threads(settings.run.threads));
            let done = make_edges(dataset, edges, &folder, Extras::default(), threads, quiet, interrupt)?;
            if done.interrupted {
                return Ok(None);
            }
            if !done.skipped.is_empty() {
                unusable = without_edges(dataset, &folder, &done.skipped);
            }
            folder
        }
    };
    Ok(Some(Arc::new(Samples::open(dataset, &folder, &unusable)?)))
}

/// The images that could not be over-segmented, with the reasons given for them.
fn without_edges(dataset: &dyn Dataset, folder: &Path, reasons: &[String]) -> Vec<SkippedImage> {
    let missing = dataset.samples().iter().filter(|entry| !edge_file(folder, entry).is_file());
    missing
        .map(|entry| {
            let name = entry.image.display().to_string();
            let reason = reasons.iter().find(|reason| reason.contains(&name)).cloned().unwrap_or(name);
            SkippedImage { image: entry.image.clone(), reason }
        })
        .collect()
}

/// The state to start from: step 0 for a new run folder, which is not made yet, or the last checkpoint of an existing
/// one, whose weights go into `trainer`.
fn read_run(out: &Path, settings: &TrainSettings, resume: bool, trainer: &mut Trainer) -> Result<State> {
    let is_used = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if is_used && !resume {
        return Err(TrainError::Invalid {
            what: out.display().to_string(),
            expected: "a new or empty run folder".into(),
            got: "one that holds files".into(),
            remedy: "add --resume to go on with it, or choose another --out".into(),
        });
    }
    let hash = settings_hash(settings)?;
    let Some(checkpoint) = checkpoint::read(out, "last")? else {
        return Ok(State::initial(settings.run.seed, settings.run.steps, hash));
    };
    // Settings before weights: the name of the setting says more than a tensor's shape.
    let mut state = checkpoint.state.clone();
    if state.settings_hash != hash {
        // Another number of steps alone is allowed: to train longer, or to end sooner. It is written down.
        let mut as_before = settings.clone();
        as_before.run.steps = state.steps;
        if settings_hash(&as_before)? != state.settings_hash {
            return Err(other_settings(out, &as_before)?);
        }
        if settings.run.steps < state.step {
            return Err(TrainError::Invalid {
                what: format!("{}: setting `run.steps`", out.display()),
                expected: format!("at least the {} steps that the run has done", state.step),
                got: settings.run.steps.to_string(),
                remedy: "give more --steps, or choose another --out".into(),
            });
        }
        let steps = settings.run.steps;
        state.rescheduled.push(Rescheduled { step: state.step, steps_before: state.steps, steps });
        state.steps = steps;
        state.settings_hash = hash;
    }
    trainer.restore(&checkpoint)?;
    Ok(state)
}

/// The error for a run folder that was started with other settings, naming the first key that differs.
fn other_settings(out: &Path, settings: &TrainSettings) -> Result<TrainError> {
    let before = TrainSettings::read(&settings_file(out))?.binding_part()?;
    let now = settings.binding_part()?;
    let mut difference = None;
    for (section, value) in &now {
        let (Some(now), Some(before)) = (value.as_table(), before.get(section).and_then(|v| v.as_table())) else {
            continue;
        };
        let keys = now.iter().find(|(key, value)| before.get(*key) != Some(value));
        if let Some((key, value)) = keys {
            let was = before.get(key).map_or_else(|| "nothing".to_owned(), ToString::to_string);
            difference = Some((format!("{section}.{key}"), was, value.to_string()));
            break;
        }
    }
    let (key, expected, got) =
        difference.unwrap_or_else(|| ("settings".into(), "those of the checkpoint".into(), "others".into()));
    Ok(TrainError::Invalid {
        what: format!("{}: setting `{key}`", out.display()),
        expected: format!("{expected}, as the run was started"),
        got,
        remedy: "resume with the settings of its settings.toml, or choose another --out".into(),
    })
}

fn profile(
    settings: &TrainSettings,
    samples: &Arc<Samples>,
    steps: usize,
    compute: Compute,
    json: bool,
    ranks: &Ranks,
) -> Result<Exit> {
    let threads = resolve_threads(settings.run.threads);
    let mut trainer = Trainer::over_ranks(settings, compute, ranks)?;
    let report = train_loop::profile(&mut trainer, samples, steps)?;
    if !ranks.is_first() {
        // The first one says it.
    } else if json {
        let stages: serde_json::Map<_, _> = Stage::ALL
            .iter()
            .zip(report.stages_millis)
            .map(|(stage, millis)| (stage.name().to_owned(), millis.into()))
            .collect();
        print_json(&json!({
            "steps": steps, "threads": threads, "device": compute.device_name(), "precision": compute.precision_name(),
            "images": settings.batch.images, "views": settings.batch.views, "crop": settings.batch.crop,
            "stages_millis": stages, "step_millis": report.step_millis, "forward_millis": report.forward_millis,
            "backbone_millis": report.backbone_millis, "step_over_forward": report.ratio(),
            "outside_stages": report.outside_stages(), "outside_backbone": report.outside_backbone(),
            "images_per_second": report.images_per_second(),
        }))?;
    } else {
        let mut text = format!(
            "median of {steps} steps, {}, {}, {threads} threads, {} views of {}²\n",
            compute.device_name(),
            compute.precision_name(),
            settings.batch.images * settings.batch.views,
            settings.batch.crop
        );
        for (stage, millis) in Stage::ALL.iter().zip(report.stages_millis) {
            text += &format!("{:<14}{millis:>8.1} ms\n", stage.name());
        }
        text += &format!(
            "{:<14}{:>8.1} ms = {:.2} × forward, {:.1} images/s\n",
            "whole step",
            report.step_millis,
            report.ratio(),
            report.images_per_second()
        );
        text += &format!("{:<14}{:>8.1} ms, forwards and backwards\n", "backbone alone", report.backbone_millis);
        text += &format!(
            "outside the backbone: {:.1} % of the step in other stages than forward and backward, {:.1} % beyond the \
             backbone alone\n",
            100.0 * report.outside_stages(),
            100.0 * report.outside_backbone()
        );
        print_text(&text)?;
    }
    Ok(Exit::Done)
}
