//! Instance-weighted intersection over union (M. Cordts et al., "The Cityscapes Dataset", CVPR 2016, §4.1, iIoU_class and
//! iIoU_category), as cityscapesScripts computes it.

use serde::{Deserialize, Serialize};

use crate::EvaluationError;
use crate::category_iou::mean_of_existing;
use crate::cityscapes_labels::{
    CATEGORY_OF_CLASS, CityscapesValues, INSTANCE_VALUES, MEAN_INSTANCE_PIXELS, NONE, NUM_CATEGORIES, NUM_CLASSES,
    class_of_instance,
};
use crate::exact_sum::ExactSum;
use crate::label_pairs::LabelPairs;
use crate::runs::{Label, Runs};

/// iTP / (iTP + FP + iFN) of the Cityscapes classes and categories that have instances. iTP and iFN are the pixels of true
/// instances, each weighted with the mean size of its class over the size of its instance, so that small instances count
/// as much as large ones. A wrong pixel belongs to no instance, so false positives are plain pixels.
///
/// A predicted caravan or trailer, which are not evaluated as classes, is a vehicle here; it can be predicted with
/// [`CityscapesValues::LabelIds`] only.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceIou {
    values: CityscapesValues,
    classes: [Sums; NUM_CLASSES],
    categories: [Sums; NUM_CATEGORIES],
}

/// Weighted pixels of instances, and pixels.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Sums {
    true_positives: ExactSum,
    false_negatives: ExactSum,
    false_positives: u64,
}

/// The measures of an [`InstanceIou`], all in 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceIouResult {
    /// Mean of the `per_class` values that exist; `None` when none does.
    pub classes: Option<f64>,
    /// By train id; `None` for a class without instances, and one that occurs neither in the truth nor in the prediction.
    pub per_class: [Option<f64>; NUM_CLASSES],
    /// Mean of the `per_category` values that exist; `None` when none does.
    pub categories: Option<f64>,
    /// In the order of [`crate::CITYSCAPES_CATEGORIES`]; `None` for all but `human` and `vehicle`.
    pub per_category: [Option<f64>; NUM_CATEGORIES],
}

/// Pixels of one instance.
#[derive(Default)]
struct Instance {
    pixels: u64,
    right_class: u64,
    right_category: u64,
}

impl InstanceIou {
    /// Nothing seen yet; `values` says what the label maps hold.
    pub fn new(values: CityscapesValues) -> Self {
        Self { values, classes: [Sums::default(); NUM_CLASSES], categories: [Sums::default(); NUM_CATEGORIES] }
    }

    /// Adds one image: the data set's `instanceIds` (label id · 1000 + number, or a label id where there is no instance),
    /// and maps of the labels, pixels in the same order. Values that are not evaluated are left out of the truth, and are
    /// no class in the prediction.
    ///
    /// # Errors
    /// When the lengths differ. Nothing is added then.
    pub fn update(&mut self, truth: &[u8], prediction: &[u8], instance_ids: &[u16]) -> Result<(), EvaluationError> {
        self.add(&LabelPairs::of(truth, prediction)?, prediction, instance_ids, |id| id)
    }

    /// As [`InstanceIou::update`], where the pairs of the labels are counted already, with the instances as big-endian
    /// bytes, as PNG files have them.
    ///
    /// # Errors
    /// As there.
    pub fn update_pairs(
        &mut self,
        pairs: &LabelPairs,
        prediction: &[u8],
        instance_ids: &[[u8; 2]],
    ) -> Result<(), EvaluationError> {
        self.add(pairs, prediction, instance_ids, u16::from_be_bytes)
    }

    fn add<L: Label>(
        &mut self,
        pairs: &LabelPairs,
        prediction: &[u8],
        instance_ids: &[L],
        value: impl Fn(L) -> u16,
    ) -> Result<(), EvaluationError> {
        if instance_ids.len() != prediction.len() {
            return Err(EvaluationError::Length { expected: instance_ids.len(), got: prediction.len() });
        }
        let (train_ids, categories) = (self.values.train_ids(), self.values.categories());
        for (value, instance) in instances(prediction, instance_ids, value, &train_ids, &categories) {
            let Some((class, mean_pixels)) = class_of_instance(value) else { continue };
            let weight = mean_pixels / instance.pixels as f64;
            self.classes[class].add(instance.right_class, instance.pixels, weight);
            self.categories[CATEGORY_OF_CLASS[class]].add(instance.right_category, instance.pixels, weight);
        }
        for (truth, prediction, count) in pairs.iter() {
            let class = usize::from(train_ids[usize::from(truth)]);
            let Some(&category) = CATEGORY_OF_CLASS.get(class) else { continue };
            let predicted = usize::from(train_ids[usize::from(prediction)]);
            if let Some(sums) = self.classes.get_mut(predicted).filter(|_| predicted != class) {
                sums.false_positives += count;
            }
            let predicted = usize::from(categories[usize::from(prediction)]);
            if let Some(sums) = self.categories.get_mut(predicted).filter(|_| predicted != category) {
                sums.false_positives += count;
            }
        }
        Ok(())
    }

    /// Adds everything that `other` has seen.
    ///
    /// # Errors
    /// When its maps hold other values.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        if self.values != other.values {
            return Err(EvaluationError::OtherValues);
        }
        let sums = self.classes.iter_mut().chain(&mut self.categories);
        for (sums, others) in sums.zip(other.classes.iter().chain(&other.categories)) {
            sums.true_positives.merge(others.true_positives);
            sums.false_negatives.merge(others.false_negatives);
            sums.false_positives += others.false_positives;
        }
        Ok(())
    }

    /// The measures over everything seen so far.
    pub fn result(&self) -> InstanceIouResult {
        let per_class =
            std::array::from_fn(|class| MEAN_INSTANCE_PIXELS[class].and_then(|_| self.classes[class].iou()));
        // Of a category all classes have instances, or none has.
        let has_instances =
            |category| (0..NUM_CLASSES).any(|c| CATEGORY_OF_CLASS[c] == category && MEAN_INSTANCE_PIXELS[c].is_some());
        let per_category =
            std::array::from_fn(|category| self.categories[category].iou().filter(|_| has_instances(category)));
        InstanceIouResult {
            classes: mean_of_existing(&per_class),
            per_class,
            categories: mean_of_existing(&per_category),
            per_category,
        }
    }
}

impl Sums {
    /// Adds an instance of `pixels` pixels, `right` of which are right.
    fn add(&mut self, right: u64, pixels: u64, weight: f64) {
        self.true_positives.add(right as f64 * weight);
        self.false_negatives.add((pixels - right) as f64 * weight);
    }

    fn iou(&self) -> Option<f64> {
        let true_positives = self.true_positives.value();
        let union = true_positives + self.false_negatives.value() + self.false_positives as f64;
        (union > 0.0).then(|| true_positives / union)
    }
}

/// The instances of an image with their values, sorted by them.
fn instances<L: Label>(
    prediction: &[u8],
    instance_ids: &[L],
    value: impl Fn(L) -> u16,
    train_ids: &[u8; 256],
    categories: &[u8; 256],
) -> Vec<(u16, Instance)> {
    let mut instances: Vec<(u16, Instance)> = Vec::new();
    // One more than where an instance is in the list, by its value.
    let mut places = vec![0u32; INSTANCE_VALUES.len()];
    // A run at a time: most of an image is no instance at all, and a row of one is a few runs.
    let (mut runs, mut predicted_runs) = (Runs::new(instance_ids), Runs::new(prediction));
    let mut start = 0;
    while start < instance_ids.len() {
        let value = value(instance_ids[start]);
        let end = runs.end_of(start);
        let Some((class, _)) = class_of_instance(value) else {
            start = end;
            continue;
        };
        let place = &mut places[usize::from(value - INSTANCE_VALUES.start)];
        if *place == 0 {
            instances.push((value, Instance::default()));
            *place = instances.len() as u32;
        }
        let (_, instance) = &mut instances[*place as usize - 1];
        instance.pixels += (end - start) as u64;
        while start < end {
            let same_end = predicted_runs.end_of(start).min(end);
            let predicted = usize::from(prediction[start]);
            let pixels = (same_end - std::mem::replace(&mut start, same_end)) as u64;
            let category = categories[predicted];
            let is_right = category != NONE && usize::from(category) == CATEGORY_OF_CLASS[class];
            instance.right_class += if usize::from(train_ids[predicted]) == class { pixels } else { 0 };
            instance.right_category += if is_right { pixels } else { 0 };
        }
    }
    instances.sort_unstable_by_key(|&(value, _)| value);
    instances
}
