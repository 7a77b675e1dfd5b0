//! `hsg-train edges`: over-segmentation to files.

use serde_json::json;

use super::{Exit, listen, needed, print_json, show, start_pool};
use crate::cli::{Common, EdgesArgs};
use crate::edges::make_edges;
use crate::error::Result;
use crate::progress::say;
use crate::settings::{TrainSettings, check_detector, dataset_kind};

/// Runs it.
///
/// # Errors
/// As [`make_edges`].
pub fn run(args: &EdgesArgs, common: &Common) -> Result<Exit> {
    // Typed options lie over a settings file, which lies over the defaults of the preset; of both, the sections
    // [data] and [edges] alone are read.
    let mut settings = match &common.config {
        Some(path) => TrainSettings::read(path)?,
        None => TrainSettings::preset("camvid-cpu")?,
    };
    let is_given = common.config.is_some();
    let (data, edges) = (&mut settings.data, &mut settings.edges);
    match &args.dataset {
        Some(dataset) => data.dataset.clone_from(dataset),
        None if !is_given => return Err(needed("--dataset", "camvid or folder")),
        None => {}
    }
    match &args.split {
        Some(split) => data.split.clone_from(split),
        None if !is_given => return Err(needed("--split", "a part of the data set, for example train")),
        None => {}
    }
    if args.root.is_some() {
        data.root.clone_from(&args.root);
    }
    if !args.sequences.is_empty() {
        data.sequences.clone_from(&args.sequences);
    }
    if let Some(detector) = &args.detector {
        edges.detector.clone_from(detector);
    }
    if let Some(max_regions) = args.max_regions {
        edges.max_regions = max_regions;
    }
    check_detector(&edges.detector)?;
    if common.show_settings {
        return show(&settings, common);
    }
    let root = settings.data.root.as_deref().ok_or_else(|| needed("--root", "the folder of the data set"))?;
    let out = args.out.as_deref().ok_or_else(|| needed("--out", "a folder for the region maps"))?;
    start_pool(common.threads.unwrap_or(0));
    let data = &settings.data;
    let dataset = datasets::open(dataset_kind(&data.dataset)?, root, &data.split, &data.sequences)?;
    let signals = listen()?;
    let quiet = common.quiet || common.json;
    let started = std::time::Instant::now();
    let done = make_edges(dataset.as_ref(), &settings.edges, out, args.preview, quiet, signals.stop())?;
    let seconds = started.elapsed().as_secs_f64();
    if common.json {
        print_json(&json!({
            "out": out, "made": done.made, "present": done.present, "interrupted": done.interrupted, "seconds": seconds,
        }))?;
    } else if !quiet {
        let left = if done.interrupted { "; interrupted, the same command goes on" } else { "" };
        say(&format!("{}: {} made, {} were there, {seconds:.1} s{left}", out.display(), done.made, done.present));
    }
    Ok(if done.interrupted { Exit::Interrupted(signals.received()) } else { Exit::Done })
}
