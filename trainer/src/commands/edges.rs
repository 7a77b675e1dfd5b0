//! `hsg-train edges`: over-segmentation to files.

use std::path::Path;

use serde_json::json;

use super::{Exit, listen, needed, print_json, resolve_threads, show, start_pool};
use crate::cli::{Common, EdgesArgs};
use crate::data;
use crate::edges::{EdgesDone, Extras, import_edges, make_edges, resolved};
use crate::error::{Result, TrainError};
use crate::progress::say;
use crate::settings::{DataSettings, EdgeSettings, TrainSettings};

/// Runs it.
///
/// # Errors
/// As [`make_edges`] and [`import_edges`].
pub fn run(args: &EdgesArgs, common: &Common) -> Result<Exit> {
    // Typed options lie over a settings file, of which the sections [data] and [edges] alone are read.
    let mut settings = match &common.config {
        Some(path) => TrainSettings::read(path)?,
        None => TrainSettings { edges: EdgeSettings::paper(), ..TrainSettings::preset("camvid-cpu")? },
    };
    let is_given = common.config.is_some();
    let has_data = is_given || args.dataset.is_some();
    let (data, edges) = (&mut settings.data, &mut settings.edges);
    let is_needed = !is_given && (args.import.is_none() || args.dataset.is_some() || args.root.is_some());
    match &args.dataset {
        Some(dataset) => data.dataset.clone_from(dataset),
        None if is_needed => return Err(needed("--dataset", "cityscapes, kitti-step, camvid or folder")),
        None => {}
    }
    match &args.split {
        Some(split) => data.split.clone_from(split),
        None if is_needed => return Err(needed("--split", "a part of the data set, for example train")),
        None => {}
    }
    if args.root.is_some() {
        data.root.clone_from(&args.root);
    }
    if !args.sequences.is_empty() {
        data.sequences.clone_from(&args.sequences);
    }
    for (typed, setting) in [(&args.detector, &mut edges.detector), (&args.level, &mut edges.level)] {
        if let Some(typed) = typed {
            setting.clone_from(typed);
        }
    }
    edges.scale = args.scale.unwrap_or(edges.scale);
    edges.seed = args.seed.unwrap_or(edges.seed);
    edges.max_regions = args.max_regions.unwrap_or(edges.max_regions);
    edges.validate()?;
    if common.show_settings {
        return show(&settings, common);
    }
    let out = args.out.as_deref().ok_or_else(|| needed("--out", "a folder for the region maps"))?;
    let threads = resolve_threads(common.threads.unwrap_or(0));
    start_pool(threads);
    let quiet = common.quiet || common.json;
    let started = std::time::Instant::now();
    let signals = listen()?;
    let opened = match &args.import {
        Some(_) if !has_data => None,
        _ => match data::open(&settings.data, quiet, signals.stop())? {
            Some(opened) => Some(opened),
            None => return Ok(Exit::Interrupted(signals.received())),
        },
    };
    let damaged_videos = opened.as_ref().map_or(0, |opened| opened.damaged_videos);
    let dataset = opened.map(|opened| opened.dataset);
    let done = match (&args.import, &dataset) {
        (Some(source), dataset) => import_edges(source, out, dataset.as_deref(), signals.stop())?,
        (None, Some(dataset)) => {
            check_outside(out, &settings.data)?;
            let extras = Extras { preview: args.preview, ucm: args.ucm };
            make_edges(dataset.as_ref(), &settings.edges, out, extras, threads, quiet, signals.stop())?
        }
        (None, None) => EdgesDone::default(),
    };
    report(&done, out, started.elapsed().as_secs_f64(), common)?;
    Ok(match (done.interrupted, done.skipped.is_empty() && damaged_videos == 0) {
        (true, _) => Exit::Interrupted(signals.received()),
        (false, false) => Exit::Skipped,
        (false, true) => Exit::Done,
    })
}

/// A folder of images is searched to its bottom, so region maps below it would be images of the next run.
fn check_outside(out: &Path, data: &DataSettings) -> Result<()> {
    let Some(root) = data.root.as_ref().filter(|_| data.dataset == "folder") else { return Ok(()) };
    let searched = resolved(&root.join(&data.split));
    if !resolved(out).starts_with(&searched) {
        return Ok(());
    }
    Err(TrainError::Invalid {
        what: out.display().to_string(),
        expected: "a folder apart from the images".into(),
        got: format!("one in {}, which is searched for them", searched.display()),
        remedy: "choose another --out".into(),
    })
}

fn report(done: &EdgesDone, out: &Path, seconds: f64, common: &Common) -> Result<()> {
    if common.json {
        print_json(&json!({
            "out": out, "made": done.made, "present": done.present, "skipped": done.skipped,
            "interrupted": done.interrupted, "seconds": seconds,
        }))?;
    } else if !common.quiet {
        let skipped = match done.skipped.len() {
            0 => String::new(),
            number => format!(", {number} could not be read (named above)"),
        };
        let left = if done.interrupted { "; interrupted, the same command goes on" } else { "" };
        let (made, present) = (done.made, done.present);
        say(&format!("{}: {made} made, {present} were there{skipped}, {seconds:.1} s{left}", out.display()));
    }
    Ok(())
}
