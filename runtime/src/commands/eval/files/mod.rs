//! `hsg eval files`: the measures alone, on prediction files of any program. A prediction that cannot be measured ends the
//! evaluation, because a figure without it would be another figure.

mod bsds;
mod labels;
mod panoptic;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use datasets::DatasetKind;
use rayon::prelude::*;
use runtime::PipelineError;
use segcore::image::ImageSize;
use segcore::image_io::remedy_for;

use crate::commands::output_folder;
use crate::settings::EvalFilesSettings;
use runtime::program::printer::Printer;
use runtime::program::signals::{Signal, Signals};
use runtime::program::{ImageProgress, Outcome};
use runtime::sink::OutputFolder;

pub fn run(settings: &EvalFilesSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let folder = settings.out.as_deref().map(|out| output_folder("--out", out, settings.force)).transpose()?;
    let outcome = measure(settings, printer);
    // What failed or was interrupted leaves no trace.
    folder.iter().for_each(OutputFolder::remove_if_empty);
    outcome
}

fn measure(settings: &EvalFilesSettings, printer: Printer) -> anyhow::Result<Outcome> {
    if settings.dataset == bsds::BSDS {
        return bsds::run(settings, printer);
    }
    match settings.dataset.parse() {
        Ok(DatasetKind::KittiStep) => panoptic::run(settings, printer),
        Ok(kind @ (DatasetKind::Cityscapes | DatasetKind::CamVid | DatasetKind::Folder)) => {
            labels::run(kind, settings, printer)
        }
        _ => {
            let known = DatasetKind::ALL.map(DatasetKind::name).join(", ");
            let name = &settings.dataset;
            bail!("--dataset {name}: unknown data set; `hsg eval files` measures files of {known} and {}", bsds::BSDS)
        }
    }
}

/// What became of work on many files.
enum Measured<T> {
    /// What was measured, in the order of the items.
    All(Vec<T>),
    /// The user has asked to stop.
    Interrupted(Signal),
}

/// Measures each item by itself, several side by side, each thread with memory of its own. Fails with the first item's error, in their order, so that it is the
/// same for any number of threads.
fn measure_all<I: Sync, T: Send, M: Default + Send>(
    items: &[I],
    settings: &EvalFilesSettings,
    printer: Printer,
    measure: impl Fn(&mut M, &I) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Measured<T>> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(settings.threads)
        .thread_name(|index| format!("hsg-eval-{index}"))
        .build()
        .map_err(|error| PipelineError::Spawn { source: std::io::Error::other(error) })?;
    let start = Instant::now();
    let progress = Mutex::new(ImageProgress::new(printer, &settings.dataset, items.len() as u64));
    // As many as threads; not `map_init`, which makes new ones whenever work is divided.
    let memories = Mutex::new(Vec::new());
    // `None` once the user has asked to stop.
    let measure_one = |item: &I| -> Option<anyhow::Result<T>> {
        if signals.received().is_some() {
            return None;
        }
        let mut memory =
            memories.lock().ok().and_then(|mut memories: MutexGuard<'_, Vec<M>>| memories.pop()).unwrap_or_default();
        let measured = measure(&mut memory, item);
        if let Ok(mut memories) = memories.lock() {
            memories.push(memory);
        }
        // A lock is poisoned only by a panic, which has ended everything anyway.
        if let Ok(mut progress) = progress.lock() {
            progress.step();
        }
        Some(measured)
    };
    let measured: Vec<_> = pool.install(|| items.par_iter().map(measure_one).collect());
    drop(progress);
    if let Some(signal) = signals.received() {
        return Ok(Measured::Interrupted(signal));
    }
    let measured = measured.into_iter().flatten().collect::<anyhow::Result<_>>()?;
    printer.status(format!(
        "{} images measured in {:.3} s, {} threads",
        items.len(),
        start.elapsed().as_secs_f64(),
        pool.current_num_threads()
    ));
    Ok(Measured::All(measured))
}

/// Says how many images of the truth are left out.
fn tell_unused(unused: usize, total: usize, printer: Printer) {
    if unused > 0 {
        printer.status(format!("{unused} of {total} images of the truth have no prediction; they are left out"));
    }
}

/// Truth and prediction of an image.
struct Pair {
    /// What makes them belong together.
    key: String,
    truth: PathBuf,
    prediction: PathBuf,
}

/// Gives each prediction its truth, sorted by key; also the truth that is left.
fn pair(
    mut truth: BTreeMap<String, PathBuf>,
    predictions: BTreeMap<String, PathBuf>,
    settings: &EvalFilesSettings,
    expected: impl Fn(&str) -> String,
) -> anyhow::Result<(Vec<Pair>, BTreeMap<String, PathBuf>)> {
    let num_without = predictions.keys().filter(|&key| !truth.contains_key(key)).count();
    let mut pairs = Vec::with_capacity(predictions.len());
    for (key, prediction) in predictions {
        let Some(truth) = truth.remove(&key) else {
            bail!(
                "{}{}: expected its truth {} in {} or below, found none; check --truth, or take the prediction out of the \
                 folder",
                prediction.display(),
                and_more(num_without),
                expected(&key),
                settings.truth.display()
            );
        };
        pairs.push(Pair { key, truth, prediction });
    }
    Ok((pairs, truth))
}

/// How many predictions without truth there are beside the one that is named.
fn and_more(num_without: usize) -> String {
    match num_without {
        0 | 1 => String::new(),
        n => format!(" (and {} more predictions without truth)", n - 1),
    }
}

fn found_twice(one: &Path, other: &Path, what: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{} and {} are two {what} of one image: expected one; take one of them out of the folder",
        one.display(),
        other.display()
    )
}

/// The PNG files in and below `folder` by their paths relative to it, with `/`; `option` named the folder.
fn png_files_below(folder: &Path, option: &str) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for path in files_below(folder, option)? {
        let is_png = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
        if let (true, Ok(relative)) = (is_png, path.strip_prefix(folder)) {
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            files.insert(parts.join("/"), path);
        }
    }
    ensure!(
        !files.is_empty(),
        "{option} {}: expected label maps *.png, found none there or below; check the path",
        folder.display()
    );
    Ok(files)
}

/// Paths of all files in and below `folder` that are not hidden, sorted; `option` named it.
fn files_below(folder: &Path, option: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    // Real paths of the folders seen: a link may lead back up.
    let mut seen = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = list_once(&folder, &mut seen).map_err(|error| {
            let remedy = remedy_for(&error);
            anyhow::anyhow!("{option}: cannot read the folder {}: {error}{remedy}", folder.display())
        })?;
        for (path, is_folder) in entries {
            if is_folder {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What is in `folder` and not hidden, and whether it is a folder; nothing when `folder` has been `seen`.
fn list_once(folder: &Path, seen: &mut BTreeSet<PathBuf>) -> std::io::Result<Vec<(PathBuf, bool)>> {
    if !seen.insert(folder.canonicalize()?) {
        return Ok(Vec::new());
    }
    let mut entries = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Only a link has to be looked up.
        let kind = entry.file_type()?;
        let path = entry.path();
        let is_folder = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
        entries.push((path, is_folder));
    }
    Ok(entries)
}

/// A path with its last part as text.
fn with_name(path: PathBuf) -> (PathBuf, String) {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (path, name)
}

/// Fails unless the file at `path` is of the size that the file `first` has.
fn check_size(path: &Path, got: ImageSize, expected: ImageSize, first: &Path) -> anyhow::Result<()> {
    ensure!(
        got == expected,
        "{}: expected {expected}, the size of {}, got {got}; make both of the same image",
        path.display(),
        first.display()
    );
    Ok(())
}
