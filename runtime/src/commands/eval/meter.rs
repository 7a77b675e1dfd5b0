//! Frames → sums: compares each segmented frame with its annotation and with the frame before.

use datasets::{Annotation, DatasetKind};
use evaluation::{
    CityscapesValues, ConfusionMatrix, EvaluationError, Flicker, InstanceIou, LabelChanges, MIN_REGION_PIXELS,
    PanopticLabels, Stq, TruthRegions, same_truth,
};
use runtime::sink::{NO_SEGMENT, SegmentedFrame};
use segcore::label_space::{IGNORE, LabelSpace};

use super::instances::InstanceTracker;
use super::levels::{LevelIds, LevelSums, Truth, level_ids};
use super::sums::Sums;
use super::worst::FrameFigures;

/// Classes whose instances KITTI-STEP has ids for: person and car.
const KITTI_STEP_THINGS: [u8; 2] = [11, 13];

/// A sample on its way.
pub(super) struct MeasuredSample<'a> {
    /// Position in the evaluation.
    pub(super) index: usize,
    pub(super) name: &'a str,
    pub(super) sequence: &'a str,
}

/// Measures frames one after the other.
pub(super) struct Meter {
    sums: Sums,
    /// Thing or not, by train id of the annotations.
    is_thing: [bool; 256],
    /// Value of each train id in the official instance maps.
    class_ids: [u16; 256],
    /// KITTI-STEP alone.
    instances: Option<InstanceTracker>,
    /// Whether the sequence is a video.
    is_video: bool,
    /// The frame before in the same video.
    previous: Option<Previous>,
    track_map: Vec<u32>,
    instance_map: Vec<u16>,
    instance_ids: Vec<u16>,
}

struct Previous {
    train_ids: Vec<u8>,
    slots: Vec<u16>,
    ids: LevelIds,
    prediction: Option<Vec<u8>>,
}

impl Meter {
    /// Nothing seen yet. `annotated` are the classes of the annotations, `measured` those that predictions are compared by,
    /// none without a bank.
    ///
    /// # Errors
    /// When there are no classes.
    pub(super) fn new(
        kind: DatasetKind,
        annotated: &LabelSpace,
        measured: Option<&LabelSpace>,
        num_levels: usize,
    ) -> Result<Self, EvaluationError> {
        let (mut is_thing, mut class_ids) = ([false; 256], [0; 256]);
        for class in &annotated.classes {
            let train_id = usize::from(class.train_id.0);
            is_thing[train_id] = class.thing;
            class_ids[train_id] = u16::try_from(class.class_id.0).unwrap_or(0);
        }
        // Measures with instances look at official classes alone.
        let official = measured.filter(|space| **space == LabelSpace::cityscapes_19());
        let mut followed = LabelSpace::cityscapes_19();
        for class in &mut followed.classes {
            class.thing = KITTI_STEP_THINGS.contains(&class.train_id.0);
        }
        let is_kitti_step = official.is_some() && kind == DatasetKind::KittiStep;
        let stq = || Stq::new(&followed.classes.iter().map(|class| class.thing).collect::<Vec<_>>());
        Ok(Self {
            sums: Sums {
                frames: 0,
                tracked: false,
                confusion: measured.map(|space| ConfusionMatrix::new(space.num_classes())).transpose()?,
                instance_iou: (official.is_some() && kind == DatasetKind::Cityscapes)
                    .then(|| InstanceIou::new(CityscapesValues::TrainIds)),
                frames_without_instances: 0,
                stq: is_kitti_step.then(stq).transpose()?,
                class_flicker: Flicker::default(),
                levels: LevelSums::new(num_levels),
                per_frame: Vec::new(),
            },
            is_thing,
            class_ids,
            instances: is_kitti_step.then(|| InstanceTracker::new(&followed)),
            is_video: false,
            previous: None,
            track_map: Vec::new(),
            instance_map: Vec::new(),
            instance_ids: Vec::new(),
        })
    }

    /// Begins a sequence; `is_video`: its frames follow each other closely enough to be compared.
    pub(super) fn begin_sequence(&mut self, is_video: bool, is_tracked: bool) {
        self.sums.levels.end_sequence();
        self.previous = None;
        if let Some(instances) = &mut self.instances {
            instances.restart();
        }
        self.is_video = is_video;
        self.sums.tracked |= is_tracked;
    }

    /// Frames are missing in the sequence: what comes next is compared with nothing before.
    pub(super) fn skip_gap(&mut self) {
        self.sums.levels.end_sequence();
        self.previous = None;
    }

    /// The regions of an annotation as the data set has it.
    ///
    /// # Errors
    /// When its size is not possible.
    pub(super) fn regions(&self, truth: &Annotation) -> Result<TruthRegions, EvaluationError> {
        TruthRegions::new(truth.size.height, truth.size.width, &truth.train_ids, IGNORE)
    }

    /// Adds a frame: its regions, and truth and prediction as train ids of the measured classes; no prediction without a
    /// bank.
    ///
    /// # Errors
    /// When frame, annotation and prediction are of different sizes, or a label is no class.
    pub(super) fn update(
        &mut self,
        sample: &MeasuredSample<'_>,
        frame: &SegmentedFrame,
        regions: &TruthRegions,
        truth: &Annotation,
        prediction: Option<&[u8]>,
    ) -> Result<FrameFigures, EvaluationError> {
        let is_thing = &self.is_thing;
        let ids = self.is_video.then(|| level_ids(frame));
        let covering = self.sums.levels.update(
            frame,
            &Truth {
                regions,
                is_foreground: &regions.choose(MIN_REGION_PIXELS, |train_id| is_thing[usize::from(train_id)]),
                is_large: &regions.choose(MIN_REGION_PIXELS, |_| true),
            },
            ids.as_ref(),
        )?;
        let (mut miou, mut accuracy) = (None, None);
        if let (Some(prediction), Some(confusion)) = (prediction, &mut self.sums.confusion) {
            let mut of_frame = ConfusionMatrix::new(confusion.num_classes())?;
            of_frame.update(&truth.train_ids, prediction, IGNORE)?;
            let result = of_frame.result();
            (miou, accuracy) = (result.miou, result.accuracy);
            confusion.merge(&of_frame)?;
        }
        if let Some(prediction) = prediction {
            self.update_instances(sample, frame, truth, prediction)?;
        }
        if let Some(ids) = ids {
            self.compare_with_previous(frame, truth, prediction, ids)?;
        }
        self.sums.frames += 1;
        let figures = FrameFigures {
            index: sample.index,
            name: sample.name.to_owned(),
            sequence: sample.sequence.to_owned(),
            miou,
            accuracy,
            covering,
        };
        self.sums.per_frame.push(figures.clone());
        Ok(figures)
    }

    /// Instances of the last frame's prediction, per pixel; none where the data set has no instances.
    pub(super) fn instance_ids(&self) -> Option<&[u16]> {
        self.instances.is_some().then_some(&self.instance_ids)
    }

    fn update_instances(
        &mut self,
        sample: &MeasuredSample<'_>,
        frame: &SegmentedFrame,
        truth: &Annotation,
        prediction: &[u8],
    ) -> Result<(), EvaluationError> {
        if let Some(instance_iou) = &mut self.sums.instance_iou {
            match &truth.instance_ids {
                Some(ids) => {
                    let official = |(&train_id, &id): (&u8, &u16)| match id {
                        0 => 0,
                        id => self.class_ids[usize::from(train_id)] * 1000 + id - 1,
                    };
                    self.instance_map.clear();
                    self.instance_map.extend(truth.train_ids.iter().zip(ids).map(official));
                    instance_iou.update(&truth.train_ids, prediction, &self.instance_map)?;
                }
                None => self.sums.frames_without_instances += 1,
            }
        }
        let Some(instances) = &mut self.instances else { return Ok(()) };
        let segments = frame.levels.first().map_or(&[][..], |level| &level.segments);
        let track = |&slot: &u16| segments.get(usize::from(slot)).map_or(u32::MAX, |segment| segment.track_id);
        self.track_map.clear();
        self.track_map.extend(frame.slots.iter().map(track));
        self.instance_ids.clear();
        self.instance_ids.extend_from_slice(instances.update(frame.size, prediction, &self.track_map)?);
        if let (Some(stq), Some(instances)) = (&mut self.sums.stq, &truth.instance_ids) {
            let truth = PanopticLabels { train_ids: &truth.train_ids, instance_ids: instances };
            let prediction = PanopticLabels { train_ids: prediction, instance_ids: &self.instance_ids };
            stq.update(sample.sequence, truth, prediction)?;
        }
        Ok(())
    }

    fn compare_with_previous(
        &mut self,
        frame: &SegmentedFrame,
        truth: &Annotation,
        prediction: Option<&[u8]>,
        ids: LevelIds,
    ) -> Result<(), EvaluationError> {
        // A size that changes within a video leaves nothing to compare.
        let previous = self.previous.take().filter(|previous| previous.slots.len() == frame.slots.len());
        if let Some(previous) = &previous {
            let is_same = same_truth(&previous.train_ids, &truth.train_ids, IGNORE)?;
            let changes = LabelChanges::new(&is_same, &previous.slots, &frame.slots)?;
            self.sums.levels.update_changes(&changes, &previous.ids, &ids);
            if let (Some(before), Some(now)) = (&previous.prediction, prediction) {
                self.sums.class_flicker.update_labels(&LabelChanges::new(&is_same, before, now)?);
            }
        }
        let mut kept = previous.unwrap_or_else(|| Previous {
            train_ids: Vec::new(),
            slots: Vec::new(),
            ids: Vec::new(),
            prediction: None,
        });
        kept.train_ids.clone_from(&truth.train_ids);
        kept.slots.clone_from(&frame.slots);
        kept.ids = ids;
        kept.prediction = prediction.map(<[u8]>::to_vec);
        self.previous = Some(kept);
        Ok(())
    }

    /// The sums.
    pub(super) fn finish(mut self) -> Sums {
        self.sums.levels.end_sequence();
        self.sums
    }
}

/// Train id of every pixel; [`IGNORE`] where it has none.
pub(super) fn classes_of(frame: &SegmentedFrame, classes: &mut Vec<u8>) {
    let segments = frame.levels.first().map_or(&[][..], |level| &level.segments);
    classes.clear();
    classes.extend(frame.slots.iter().map(|&slot| match slot {
        NO_SEGMENT => IGNORE,
        slot => segments.get(usize::from(slot)).and_then(|segment| segment.train_id).unwrap_or(IGNORE),
    }));
}
