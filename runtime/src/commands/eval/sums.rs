//! What is summed over frames: all measures of an evaluation.

use anyhow::bail;
use evaluation::{ConfusionMatrix, EvaluationError, Flicker, InstanceIou, Stq};
use serde::{Deserialize, Serialize};

use super::levels::LevelSums;
use super::worst::FrameFigures;

/// Sums over frames; those of parts add up to those of the whole, whatever their order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sums {
    pub(super) frames: u64,
    /// Whether any sequence was tracked.
    pub(super) tracked: bool,
    /// Of classes; none without a bank.
    pub(super) confusion: Option<ConfusionMatrix>,
    /// Cityscapes alone.
    pub(super) instance_iou: Option<InstanceIou>,
    /// Frames whose instances were not there; a figure without them would be another figure.
    pub(super) frames_without_instances: u64,
    /// KITTI-STEP alone.
    pub(super) stq: Option<Stq>,
    /// Of the class map.
    pub(super) class_flicker: Flicker,
    pub(super) levels: LevelSums,
    /// In the order of the evaluation.
    pub(super) per_frame: Vec<FrameFigures>,
}

impl Sums {
    /// Adds the frames of another part.
    ///
    /// # Errors
    /// When it has other classes, levels or measures.
    pub(super) fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        self.frames += other.frames;
        self.tracked |= other.tracked;
        self.frames_without_instances += other.frames_without_instances;
        merge_both(&mut self.confusion, &other.confusion, ConfusionMatrix::merge)?;
        merge_both(&mut self.instance_iou, &other.instance_iou, InstanceIou::merge)?;
        merge_both(&mut self.stq, &other.stq, Stq::merge)?;
        self.class_flicker.merge(&other.class_flicker);
        self.levels.merge(&other.levels)?;
        self.per_frame.extend_from_slice(&other.per_frame);
        Ok(())
    }
}

fn merge_both<T>(
    sum: &mut Option<T>,
    other: &Option<T>,
    merge: impl FnOnce(&mut T, &T) -> Result<(), EvaluationError>,
) -> anyhow::Result<()> {
    match (sum, other) {
        (Some(sum), Some(other)) => Ok(merge(sum, other)?),
        (None, None) => Ok(()),
        _ => bail!("one part has measures that the other one lacks"),
    }
}
