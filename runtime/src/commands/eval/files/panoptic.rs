//! `hsg eval files --dataset kitti-step`: panoptic maps of sequences, SEQUENCE/FRAME.png, which belong together by their
//! relative paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::ensure;
use datasets::{PanopticMap, read_panoptic_png};
use evaluation::{ConfusionMatrix, PanopticLabels, Stq};
use segcore::label_space::{IGNORE, LabelSpace};

use super::super::super::Outcome;
use super::report::{Figures, report};
use super::{Measured, Pair, check_size, measure_all, pair, png_files_below, tell_unused};
use crate::printer::Printer;
use crate::settings::EvalFilesSettings;

/// Train ids of the classes whose instances KITTI-STEP follows: person and car.
const FOLLOWED: [usize; 2] = [11, 13];

/// What one frame adds.
struct Counts {
    confusion: ConfusionMatrix,
    stq: Stq,
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
    let empty = Counts { confusion: ConfusionMatrix::new(label_space.num_classes())?, stq: Stq::new(&is_thing)? };
    let counts = match measure_all(&pairs, settings, printer, |pair| measure(pair, &empty))? {
        Measured::All(counts) => counts,
        Measured::Interrupted(signal) => return Ok(Outcome::Interrupted(signal)),
    };
    let Counts { mut confusion, mut stq } = empty;
    for counts in &counts {
        confusion.merge(&counts.confusion)?;
        stq.merge(&counts.stq)?;
    }
    let figures = Figures {
        frames: counts.len(),
        label_space: &label_space,
        confusion,
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
        anyhow::bail!(
            "sequence {sequence}: expected a prediction for each of its frames, found none for {first}{others}; STQ needs \
             whole sequences: predict these frames, or take the sequence out of both folders"
        );
    }
    Ok(())
}

fn measure(pair: &Pair, empty: &Counts) -> anyhow::Result<Counts> {
    let truth = read_panoptic_png(&pair.truth)?;
    let prediction = read_panoptic_png(&pair.prediction)?;
    check_size(&pair.prediction, prediction.size, truth.size, &pair.truth)?;
    let Counts { mut confusion, mut stq } = Counts { confusion: empty.confusion.clone(), stq: empty.stq.clone() };
    confusion.update(&truth.train_ids, &prediction.train_ids, IGNORE)?;
    stq.update(sequence_of(&pair.key), labels(&truth), labels(&prediction))?;
    Ok(Counts { confusion, stq })
}

fn labels(map: &PanopticMap) -> PanopticLabels<'_> {
    PanopticLabels { train_ids: &map.train_ids, instance_ids: &map.instance_ids }
}
