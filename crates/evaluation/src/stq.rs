//! Segmentation and tracking quality (M. Weber et al., "STEP: Segmenting and Tracking Every Pixel", NeurIPS 2021 Datasets
//! and Benchmarks, §4, equations 2–5), as deeplab2 computes it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::runs::Runs;
use crate::{ConfusionMatrix, EvaluationError};

/// The value of pixels without class.
const VOID: u8 = 255;

/// Classes and instances of one frame, pixels in the same order.
#[derive(Clone, Copy, Debug)]
pub struct PanopticLabels<'a> {
    /// Train id of each pixel; 255 = no class.
    pub train_ids: &'a [u8],
    /// Instance of each pixel, which counts within its class and is the same in all frames of a sequence; of a thing in
    /// the truth, 0 = a crowd.
    pub instance_ids: &'a [u16],
}

/// STQ = √(AQ · SQ) over sequences.
///
/// A *tube* is all pixels of one class and one instance id of a thing in a sequence. AQ, association quality, is the mean
/// over the true tubes g of 1/|g| · Σ over the predicted tubes p of |g ∩ p|² / |g ∪ p|, of whatever class p is. Crowds of
/// the truth are in no tube, nor is what is predicted there; what is predicted as a thing on void is. SQ, segmentation
/// quality, is the mean class IoU with void left out of the truth.
///
/// Two habits of deeplab2 are kept, because figures are compared with those of others: a prediction of void on a pixel
/// with a class makes void one more class with an IoU of 0 in the mean, and a sequence without any true tube has an AQ,
/// and so an STQ, of 0.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "StoredStq", into = "StoredStq")]
pub struct Stq {
    is_thing: Vec<bool>,
    sequences: BTreeMap<String, SequenceCounts>,
}

/// Class · 65536 + instance of a tube.
type Tube = u32;

/// A true and a predicted tube, one of which may be missing.
type TubePair = (Option<Tube>, Option<Tube>);

/// Pixels of one sequence.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct SequenceCounts {
    frames: u64,
    /// `[num_classes, num_classes + 1]`: row = truth, column = prediction, the last column = void.
    confusion: Vec<u64>,
    /// Pixels that each pair has in common.
    tubes: BTreeMap<TubePair, u64>,
}

/// The measures of an [`Stq`], all in 0 to 1, higher is better.
#[derive(Clone, Debug, PartialEq)]
pub struct StqResult {
    /// Over all sequences: tubes of all of them, and pixels of all of them.
    pub total: StqFigures,
    /// Each sequence by itself, sorted by name.
    pub per_sequence: Vec<SequenceResult>,
}

/// STQ and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StqFigures {
    /// Segmentation and tracking quality.
    pub stq: f64,
    /// Association quality.
    pub aq: f64,
    /// Segmentation quality.
    pub sq: f64,
}

/// One sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceResult {
    /// Its name.
    pub name: String,
    /// Number of its frames.
    pub frames: u64,
    /// Its measures; `None` when no pixel had a class.
    pub figures: Option<StqFigures>,
}

impl Stq {
    /// Nothing seen yet; `is_thing` says of each class whether its instances are followed.
    ///
    /// # Errors
    /// When the number of classes is not in 1 to 255.
    pub fn new(is_thing: &[bool]) -> Result<Self, EvaluationError> {
        if !(1..=255).contains(&is_thing.len()) {
            return Err(EvaluationError::ClassCount { got: is_thing.len() });
        }
        Ok(Self { is_thing: is_thing.to_vec(), sequences: BTreeMap::new() })
    }

    /// Adds a frame of a sequence; the order of frames does not matter.
    ///
    /// # Errors
    /// When lengths differ or a train id is no class. Nothing is added then.
    pub fn update(
        &mut self,
        sequence: &str,
        truth: PanopticLabels<'_>,
        prediction: PanopticLabels<'_>,
    ) -> Result<(), EvaluationError> {
        let expected = truth.train_ids.len();
        let lengths = [truth.instance_ids.len(), prediction.train_ids.len(), prediction.instance_ids.len()];
        if let Some(&got) = lengths.iter().find(|&&length| length != expected) {
            return Err(EvaluationError::Length { expected, got });
        }
        // Label maps are flat: pixels are counted by stretches in which nothing changes.
        let mut truth_runs = (Runs::new(truth.train_ids), Runs::new(truth.instance_ids));
        let mut runs = (Runs::new(prediction.train_ids), Runs::new(prediction.instance_ids));
        let mut start = 0;
        let stretches = std::iter::from_fn(|| {
            if start == expected {
                return None;
            }
            let of_truth = (truth.train_ids[start], truth.instance_ids[start]);
            let of_prediction = (prediction.train_ids[start], prediction.instance_ids[start]);
            let end = truth_runs.0.end_of(start).min(truth_runs.1.end_of(start));
            let end = end.min(runs.0.end_of(start)).min(runs.1.end_of(start));
            Some((of_truth, of_prediction, end - std::mem::replace(&mut start, end)))
        });
        let added = self.add_stretches(sequence, stretches);
        added.map_err(|refused| self.label_error(refused, truth.train_ids.iter(), prediction.train_ids.iter()))
    }

    /// As [`Stq::update`], for the bytes of panoptic maps of KITTI-STEP: train id (255 = void), and 256 · second +
    /// third = instance. What is void has no instance, whatever the bytes say.
    ///
    /// # Errors
    /// As there.
    pub fn update_panoptic(
        &mut self,
        sequence: &str,
        truth: &[[u8; 3]],
        prediction: &[[u8; 3]],
    ) -> Result<(), EvaluationError> {
        if truth.len() != prediction.len() {
            return Err(EvaluationError::Length { expected: truth.len(), got: prediction.len() });
        }
        let label = |pixel: [u8; 3]| (pixel[0], u16::from_be_bytes([pixel[1], pixel[2]]));
        let (mut truth_runs, mut runs) = (Runs::new(truth), Runs::new(prediction));
        let mut start = 0;
        let stretches = std::iter::from_fn(|| {
            let of_truth = label(*truth.get(start)?);
            let of_prediction = label(prediction[start]);
            let end = truth_runs.end_of(start).min(runs.end_of(start));
            Some((of_truth, of_prediction, end - std::mem::replace(&mut start, end)))
        });
        let added = self.add_stretches(sequence, stretches);
        added.map_err(|refused| {
            self.label_error(refused, truth.iter().map(|pixel| &pixel[0]), prediction.iter().map(|pixel| &pixel[0]))
        })
    }

    /// Adds a frame as stretches: truth, prediction, pixels. Fails, and adds nothing, at train ids of truth and prediction
    /// one of which is no class.
    fn add_stretches(
        &mut self,
        sequence: &str,
        stretches: impl Iterator<Item = ((u8, u16), (u8, u16), usize)>,
    ) -> Result<(), (u8, u8)> {
        let mut counts = FrameCounts::new(&self.is_thing);
        for (truth, prediction, pixels) in stretches {
            if self.is_refused(truth.0) || self.is_refused(prediction.0) {
                return Err((truth.0, prediction.0));
            }
            counts.add(truth, prediction, pixels as u64);
        }
        let confusion_len = counts.confusion.len();
        // Not `entry` alone, which would need an owned name for every frame.
        let sequence = match self.sequences.get_mut(sequence) {
            Some(counts) => counts,
            None => self.sequences.entry(sequence.to_owned()).or_insert(SequenceCounts::new(confusion_len)),
        };
        sequence.frames += 1;
        sequence.add(&counts.confusion, counts.tubes);
        Ok(())
    }

    /// The confusion matrix of the classes over all sequences.
    ///
    /// # Errors
    /// Never: the number of classes was checked when this was made.
    pub fn confusion(&self) -> Result<ConfusionMatrix, EvaluationError> {
        let num_classes = self.is_thing.len();
        let mut counts = vec![0; num_classes * (num_classes + 1)];
        self.sequences.values().for_each(|sequence| add_all(&mut counts, &sequence.confusion));
        ConfusionMatrix::of_counts(num_classes, counts)
    }

    fn is_refused(&self, label: u8) -> bool {
        usize::from(label) >= self.is_thing.len() && label != VOID
    }

    /// The error of a pair of train ids one of which is no class, with its first place.
    fn label_error<'a>(
        &self,
        (truth_label, label): (u8, u8),
        mut truth: impl Iterator<Item = &'a u8>,
        mut prediction: impl Iterator<Item = &'a u8>,
    ) -> EvaluationError {
        let (map, label, index) = if self.is_refused(truth_label) {
            ("ground truth", truth_label, truth.position(|&other| other == truth_label))
        } else {
            ("prediction", label, prediction.position(|&other| other == label))
        };
        let last_class = self.is_thing.len() - 1;
        EvaluationError::Label { map, index: index.unwrap_or(0), label, last_class, ignore: VOID }
    }

    /// Adds everything that `other` has seen. A sequence that both have seen is one sequence.
    ///
    /// # Errors
    /// When its classes are others.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        if self.is_thing != other.is_thing {
            return Err(EvaluationError::OtherThings);
        }
        for (name, counts) in &other.sequences {
            let sequence = self.sequences.entry(name.clone()).or_insert(SequenceCounts::new(counts.confusion.len()));
            sequence.frames += counts.frames;
            sequence.add(&counts.confusion, counts.tubes.iter().map(|(&pair, &pixels)| (pair, pixels)));
        }
        Ok(())
    }

    /// The measures over everything seen so far; `None` when no pixel had a class.
    pub fn result(&self) -> Option<StqResult> {
        let num_classes = self.is_thing.len();
        let mut confusion = vec![0; num_classes * (num_classes + 1)];
        let (mut association, mut num_tubes) = (0.0, 0);
        let mut per_sequence = Vec::with_capacity(self.sequences.len());
        for (name, counts) in &self.sequences {
            add_all(&mut confusion, &counts.confusion);
            let (sum, tubes) = counts.association();
            association += sum;
            num_tubes += tubes;
            let figures = segmentation_quality(num_classes, &counts.confusion).map(|sq| StqFigures::of(sum, tubes, sq));
            per_sequence.push(SequenceResult { name: name.clone(), frames: counts.frames, figures });
        }
        let sq = segmentation_quality(num_classes, &confusion)?;
        Some(StqResult { total: StqFigures::of(association, num_tubes, sq), per_sequence })
    }
}

impl StqFigures {
    /// From the sum of the qualities of `num_tubes` tubes.
    fn of(association: f64, num_tubes: u64, sq: f64) -> Self {
        let aq = association / num_tubes.max(1) as f64;
        Self { stq: (aq * sq).sqrt(), aq, sq }
    }
}

/// Mean over the classes that occur of TP / (TP + FP + FN), void as a class that is predicted only.
fn segmentation_quality(num_classes: usize, confusion: &[u64]) -> Option<f64> {
    let mut union = vec![0u64; num_classes + 1];
    let mut correct = vec![0u64; num_classes + 1];
    for (class, row) in confusion.chunks_exact(num_classes + 1).enumerate() {
        correct[class] = row[class];
        union[class] += row.iter().sum::<u64>() - row[class];
        add_all(&mut union, row);
    }
    let ious = union.iter().zip(&correct).filter(|&(&union, _)| union > 0);
    let (sum, count) =
        ious.fold((0.0, 0u64), |(sum, count), (&union, &correct)| (sum + correct as f64 / union as f64, count + 1));
    (count > 0).then(|| sum / count as f64)
}

fn add_all(sums: &mut [u64], others: &[u64]) {
    sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
}

impl SequenceCounts {
    fn new(confusion_len: usize) -> Self {
        Self { confusion: vec![0; confusion_len], ..Self::default() }
    }

    fn add(&mut self, confusion: &[u64], tubes: impl IntoIterator<Item = (TubePair, u64)>) {
        add_all(&mut self.confusion, confusion);
        for (pair, pixels) in tubes {
            *self.tubes.entry(pair).or_default() += pixels;
        }
    }

    /// The sum of the qualities of the true tubes, and their number.
    fn association(&self) -> (f64, u64) {
        let (mut truth_areas, mut areas) = (BTreeMap::<Tube, u64>::new(), BTreeMap::<Tube, u64>::new());
        for (&(truth, predicted), &pixels) in &self.tubes {
            if let Some(truth) = truth {
                *truth_areas.entry(truth).or_default() += pixels;
            }
            if let Some(predicted) = predicted {
                *areas.entry(predicted).or_default() += pixels;
            }
        }
        let quality = |(&pair, &common): (&TubePair, &u64)| {
            let (truth, predicted) = (truth_areas[&pair.0?], areas[&pair.1?]);
            let (common, union) = (common as f64, (truth + predicted - common) as f64);
            Some(common * (common / union) / truth as f64)
        };
        // From 0, because the sum of no floats is −0.
        let sum = self.tubes.iter().filter_map(quality).fold(0.0, |sum, quality| sum + quality);
        (sum, truth_areas.len() as u64)
    }
}

/// What one frame adds to its sequence.
struct FrameCounts<'a> {
    is_thing: &'a [bool],
    confusion: Vec<u64>,
    tubes: HashMap<TubePair, u64>,
}

impl<'a> FrameCounts<'a> {
    fn new(is_thing: &'a [bool]) -> Self {
        let num_classes = is_thing.len();
        Self { is_thing, confusion: vec![0; num_classes * (num_classes + 1)], tubes: HashMap::new() }
    }

    /// Adds pixels of one class and instance in the truth, and of one in the prediction.
    fn add(&mut self, truth: (u8, u16), prediction: (u8, u16), pixels: u64) {
        let num_classes = self.is_thing.len();
        let (class, predicted) = (usize::from(truth.0), usize::from(prediction.0).min(num_classes));
        if class < num_classes {
            self.confusion[class * (num_classes + 1) + predicted] += pixels;
        }
        let is_thing = |class: usize| self.is_thing.get(class).copied().unwrap_or(false);
        let is_crowd = is_thing(class) && truth.1 == 0;
        let tube = |(class, instance): (u8, u16)| Tube::from(class) << 16 | Tube::from(instance);
        let pair = (
            (is_thing(class) && !is_crowd).then(|| tube(truth)),
            (is_thing(predicted) && !is_crowd).then(|| tube(prediction)),
        );
        if pair != (None, None) {
            *self.tubes.entry(pair).or_default() += pixels;
        }
    }
}

/// What is written: the fields, not yet checked against each other.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredStq {
    is_thing: Vec<bool>,
    sequences: BTreeMap<String, StoredSequence>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredSequence {
    frames: u64,
    confusion: Vec<u64>,
    /// True tube, predicted tube, common pixels.
    tubes: Vec<(Option<Tube>, Option<Tube>, u64)>,
}

impl From<Stq> for StoredStq {
    fn from(stq: Stq) -> Self {
        let stored = |counts: SequenceCounts| StoredSequence {
            frames: counts.frames,
            confusion: counts.confusion,
            tubes: counts.tubes.into_iter().map(|((truth, predicted), pixels)| (truth, predicted, pixels)).collect(),
        };
        let sequences = stq.sequences.into_iter().map(|(name, counts)| (name, stored(counts))).collect();
        Self { is_thing: stq.is_thing, sequences }
    }
}

impl TryFrom<StoredStq> for Stq {
    type Error = EvaluationError;

    fn try_from(stored: StoredStq) -> Result<Self, EvaluationError> {
        let mut stq = Self::new(&stored.is_thing)?;
        let num_classes = stq.is_thing.len();
        let expected = num_classes * (num_classes + 1);
        for (name, sequence) in stored.sequences {
            let got = sequence.confusion.len();
            if got != expected {
                return Err(EvaluationError::Counts { num_classes, expected, got });
            }
            let is_thing = |tube: Tube| stq.is_thing.get((tube >> 16) as usize).copied().unwrap_or(false);
            let mut counts =
                SequenceCounts { frames: sequence.frames, confusion: sequence.confusion, ..Default::default() };
            for (truth, predicted, pixels) in sequence.tubes {
                let are_things = truth.is_none_or(is_thing) && predicted.is_none_or(is_thing);
                let is_valid = are_things && (truth, predicted) != (None, None) && pixels > 0;
                let is_new = counts.tubes.insert((truth, predicted), pixels).is_none();
                EvaluationError::check_stored(is_valid && is_new, "table of tubes", || {
                    format!(
                        "pairs of tubes of things, each once and with pixels; got {truth:?}, {predicted:?}, {pixels}"
                    )
                })?;
            }
            stq.sequences.insert(name, counts);
        }
        Ok(stq)
    }
}
