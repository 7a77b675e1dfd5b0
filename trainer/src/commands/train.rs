//! `hsg-train train`: learn, resume, measure.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use models::files::write_atomically;
use serde_json::json;
use tch::Device;

use super::{Exit, listen, needed, print_json, print_text, resolve_threads, show, start_pool};
use crate::checkpoint::{self, Rescheduled, State};
use crate::cli::{Common, TrainArgs};
use crate::edges::{Extras, cached_edges_folder, make_edges};
use crate::error::{Result, TrainError};
use crate::loader::Samples;
use crate::parallel::{self, Ranks};
use crate::profile::Stage;
use crate::progress::say;
use crate::settings::{Overrides, TrainSettings, dataset_kind};
use crate::signals::Signals;
use crate::train_loop::{self, Trainer, settings_file, settings_hash};

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
    let threads = resolve_threads(settings.run.threads);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    start_pool(threads);
    let signals = listen()?;
    let ranks = parallel::connect(Device::Cpu)?;
    // An error of one rank ends all: the others would wait for it.
    learn(args, common, settings, &signals, &ranks).map_err(|error| ranks.stop_all(error))
}

fn learn(
    args: &TrainArgs,
    common: &Common,
    mut settings: TrainSettings,
    signals: &Signals,
    ranks: &Ranks,
) -> Result<Exit> {
    let quiet = common.quiet || common.json || !ranks.is_first();
    if let Some(steps) = args.profile {
        let Some(samples) = open_samples(&mut settings, quiet, signals.stop(), ranks)? else {
            return Ok(Exit::Interrupted(signals.received()));
        };
        return profile(&settings, samples, steps, common.json, ranks);
    }
    let out = args.out.as_deref().ok_or_else(|| needed("--out", "a run folder"))?;
    let mut trainer = Trainer::over_ranks(&settings, Device::Cpu, ranks)?;
    let mut state = read_run(out, &settings, args.resume, &mut trainer)?;
    // Ranks that do not see the same run folder would not start from the same weights. All have looked into it before
    // the first one writes there.
    ranks.agree("the step to start from", state.step as i64)?;
    state.commands.push(command_line(ranks));
    let samples = if state.step < settings.run.steps {
        match open_samples(&mut settings, quiet, signals.stop(), ranks)? {
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
        write_atomically(&settings_file(out), settings.to_toml()?.as_bytes())?;
    }
    let outcome = match samples {
        Some(samples) => train_loop::train(&mut trainer, samples, out, state, quiet, signals.stop())?,
        None => {
            // `--steps 0`, or a run that is complete.
            if ranks.is_first() && checkpoint::read(out, "last")?.is_none() {
                trainer.save(out, &state, true)?;
            }
            train_loop::Outcome {
                step: state.step,
                smoothed_loss: state.smoothed_loss,
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
            "interrupted": outcome.interrupted, "seconds": outcome.seconds,
        }))?;
    } else if !quiet {
        let loss = outcome.smoothed_loss.map_or_else(String::new, |l| format!(", smoothed loss {l:.4}"));
        let seconds = outcome.seconds;
        say(&format!("{}: step {} of {}{loss}, {seconds:.0} s", out.display(), outcome.step, settings.run.steps));
        if outcome.interrupted {
            say("interrupted; go on with the same command and --resume");
        }
    }
    Ok(if outcome.interrupted { Exit::Interrupted(signals.received()) } else { Exit::Done })
}

/// What was typed, for the receipt; the number of ranks changes what dropout draws.
fn command_line(ranks: &Ranks) -> String {
    let words = std::iter::once("hsg-train".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ");
    if ranks.is_alone() { words } else { format!("mpirun -n {} {words}", ranks.size()) }
}

fn resolve(args: &TrainArgs, common: &Common) -> Result<TrainSettings> {
    let mut settings = match (&args.preset, &common.config, &args.out) {
        (Some(preset), _, _) => TrainSettings::preset(preset)?,
        (None, Some(path), _) => TrainSettings::read(path)?,
        (None, None, Some(out)) if args.resume && settings_file(out).is_file() => {
            TrainSettings::read(&settings_file(out))?
        }
        _ => {
            return Err(TrainError::Invalid {
                what: "settings".into(),
                expected: "--preset NAME or --config FILE.toml".into(),
                got: "neither".into(),
                remedy: "try --preset camvid-cpu".into(),
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
    });
    Ok(settings)
}

/// As [`open_samples_alone`]; the first rank over-segments, the others wait for it.
fn open_samples(
    settings: &mut TrainSettings,
    quiet: bool,
    interrupt: &AtomicBool,
    ranks: &Ranks,
) -> Result<Option<Arc<Samples>>> {
    if ranks.is_alone() {
        return open_samples_alone(settings, quiet, interrupt);
    }
    let mut samples = None;
    if ranks.is_first() {
        samples = open_samples_alone(settings, quiet, interrupt)?;
    }
    if ranks.any(ranks.is_first() && samples.is_none())? {
        return Ok(None);
    }
    if !ranks.is_first() {
        samples = open_samples_alone(settings, quiet, interrupt)?;
    }
    if ranks.any(samples.is_none())? {
        return Ok(None);
    }
    ranks.agree("the number of images", samples.as_ref().map_or(0, |s| s.len()) as i64)?;
    Ok(samples)
}

/// Opens the data set; over-segments it first, into the cache, where no folder of edge segments is given. `None`
/// when that was interrupted.
fn open_samples_alone(
    settings: &mut TrainSettings,
    quiet: bool,
    interrupt: &AtomicBool,
) -> Result<Option<Arc<Samples>>> {
    let root = settings.data.root.clone().ok_or_else(|| needed("--root", "the folder of the data set"))?;
    let kind = dataset_kind(&settings.data.dataset)?;
    let dataset = datasets::open(kind, &root, &settings.data.split, &settings.data.sequences)?;
    let folder = match &settings.edges.folder {
        Some(folder) => folder.clone(),
        None => {
            let folder = cached_edges_folder(dataset.as_ref(), &settings.edges)?;
            let (edges, threads) = (&settings.edges, resolve_threads(settings.run.threads));
            let done = make_edges(dataset.as_ref(), edges, &folder, Extras::default(), threads, quiet, interrupt)?;
            if done.interrupted {
                return Ok(None);
            }
            if let Some(first) = done.skipped.first() {
                return Err(TrainError::Invalid {
                    what: format!("images of {}", root.display()),
                    expected: "all of them to be readable".into(),
                    got: format!("{} that are not; first: {first}", done.skipped.len()),
                    remedy: "mend them or take them out of the data set".into(),
                });
            }
            folder
        }
    };
    Ok(Some(Arc::new(Samples::open(dataset.as_ref(), &folder)?)))
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

fn profile(settings: &TrainSettings, samples: Arc<Samples>, steps: usize, json: bool, ranks: &Ranks) -> Result<Exit> {
    let threads = resolve_threads(settings.run.threads);
    let mut trainer = Trainer::over_ranks(settings, Device::Cpu, ranks)?;
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
            "steps": steps, "threads": threads, "stages_millis": stages, "step_millis": report.step_millis,
            "forward_millis": report.forward_millis, "step_over_forward": report.ratio(),
        }))?;
    } else {
        let mut text = format!(
            "median of {steps} steps, {threads} threads, {} views of {}²\n",
            settings.batch.images * settings.batch.views,
            settings.batch.crop
        );
        for (stage, millis) in Stage::ALL.iter().zip(report.stages_millis) {
            text += &format!("{:<14}{millis:>8.1} ms\n", stage.name());
        }
        text += &format!("{:<14}{:>8.1} ms = {:.2} × forward\n", "whole step", report.step_millis, report.ratio());
        print_text(&text)?;
    }
    Ok(Exit::Done)
}
