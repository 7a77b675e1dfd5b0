//! `hsg eval files --dataset kitti-step`: panoptic maps of sequences, SEQUENCE/FRAME.png, which belong together by their
//! relative paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{bail, ensure};
use datasets::read_panoptic_png;
use evaluation::Stq;
use segcore::label_png::LabelReader;
use segcore::label_space::LabelSpace;

use super::super::super::Outcome;
use super::report::{Figures, report};
use super::{Measured, Pair, check_size, measure_all, pair, png_files_below, tell_unused};
use crate::settings::EvalFilesSettings;
use runtime::program::printer::Printer;

/// Train ids of the classes whose instances KITTI-STEP follows: person and car.
const FOLLOWED: [usize; 2] = [11, 13];

/// Memory of a thread, used for frame after frame.
#[derive(Default)]
struct Memory {
    truth: LabelReader,
    prediction: LabelReader,
}

pub(super) fn run(settings: &EvalFilesSettings, printer: Printer) -> anyhow::Result<Outcome> {
    ensure!(settings.classes.is_none(), "--classes: kitti-step has classes of its own; leave the option out");
    ensure!(!settings.train_ids, "--train-ids: kitti-step has only train ids; leave the option out");
    let truth = png_files_below(&settings.truth, "--truth")?;
    let predictions = png_files_below(&settings.prediction, "--prediction")?;
    let (pairs, unused) = pair(truth, predictions, settings, str::to_owned)?;
    check_sequences(&pairs, &unused)?;
    tell_unused(unused.len(), pairs.len() + unused.len(), printer);

    let label_space = LabelSpace::cityscapes_19();
    let is_thing: Vec<bool> = (0..label_space.num_classes()).map(|class| FOLLOWED.contains(&class)).collect();
    let empty = Stq::new(&is_thing)?;
    let measure = |memory: &mut Memory, pair: &Pair| measure(memory, pair, &empty);
    let frames = match measure_all(&pairs, settings, printer, measure)? {
        Measured::All(frames) => frames,
        Measured::Interrupted(signal) => return Ok(Outcome::Interrupted(signal)),
    };
    let mut stq = empty.clone();
    frames.iter().try_for_each(|frame| stq.merge(frame))?;
    let figures = Figures {
        frames: frames.len(),
        label_space: &label_space,
        confusion: stq.confusion()?,
        instances: None,
        stq: Some(stq.result()),
        truth_without_prediction: unused.len(),
    };
    report(figures, settings, printer)
}

/// The folder of a frame.
fn sequence_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(".", |(sequence, _)| sequence)
}

/// Fails when a sequence has predictions for some of its frames only: an id that is lost in between would cost nothing.
fn check_sequences(pairs: &[Pair], unused: &BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    let predicted: BTreeSet<&str> = pairs.iter().map(|pair| sequence_of(&pair.key)).collect();
    let mut missing = unused.keys().filter(|key| predicted.contains(sequence_of(key)));
    if let Some(first) = missing.next() {
        let others = match missing.count() {
            0 => String::new(),
            n => format!(" and {n} more frames"),
        };
        let sequence = sequence_of(first);
        bail!(
            "sequence {sequence}: expected a prediction for each of its frames, found none for {first}{others}; STQ needs \
             whole sequences: predict these frames, or take the sequence out of both folders"
        );
    }
    Ok(())
}

/// Reads both maps of a frame and counts; `empty` knows the classes.
fn measure(memory: &mut Memory, pair: &Pair, empty: &Stq) -> anyhow::Result<Stq> {
    let Memory { truth, prediction } = memory;
    let (size, truth) = truth.rgb8(&pair.truth)?;
    let (got, prediction) = prediction.rgb8(&pair.prediction)?;
    check_size(&pair.prediction, got, size, &pair.truth)?;
    let mut stq = empty.clone();
    if stq.update_panoptic(sequence_of(&pair.key), truth, prediction).is_err() {
        // A value that is no train id; this says which and where.
        read_panoptic_png(&pair.truth)?;
        read_panoptic_png(&pair.prediction)?;
        bail!("{}: cannot be measured against {}", pair.prediction.display(), pair.truth.display());
    }
    Ok(stq)
}
