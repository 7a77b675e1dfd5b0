//! `hsg-train edges`: over-segmentation to files.

use serde_json::json;

use super::{Exit, interrupt_flag, print_json, start_pool};
use crate::cli::EdgesArgs;
use crate::edges::make_edges;
use crate::error::Result;
use crate::settings::{EdgeSettings, check_detector, dataset_kind};

/// Runs it.
///
/// # Errors
/// As [`make_edges`].
pub fn run(args: &EdgesArgs) -> Result<Exit> {
    check_detector(&args.detector)?;
    start_pool(args.common.threads.unwrap_or(0));
    let dataset = datasets::open(dataset_kind(&args.dataset)?, &args.root, &args.split, &args.sequences)?;
    let settings = EdgeSettings { detector: args.detector.clone(), folder: None, max_regions: args.max_regions };
    let interrupt = interrupt_flag()?;
    let started = std::time::Instant::now();
    let done = make_edges(
        dataset.as_ref(),
        &settings,
        &args.out,
        args.preview,
        args.common.quiet || args.common.json,
        &interrupt,
    )?;
    let seconds = started.elapsed().as_secs_f64();
    if args.common.json {
        print_json(&json!({
            "out": args.out, "made": done.made, "present": done.present, "interrupted": done.interrupted, "seconds": seconds,
        }));
    } else {
        let left = if done.interrupted { "; interrupted, the same command goes on" } else { "" };
        eprintln!("{}: {} made, {} were there, {seconds:.1} s{left}", args.out.display(), done.made, done.present);
    }
    Ok(if done.interrupted { Exit::Interrupted } else { Exit::Done })
}
