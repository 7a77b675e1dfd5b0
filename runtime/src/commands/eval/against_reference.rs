//! `hsg eval --against-reference`: every frame also by clustering at full resolution, which is what the paper does, and how
//! far the deployed way (cells, then borders) agrees with it.
//!
//! The reference clusters each frame from the grid, and once more with twice the rounds: k-means on these features has not
//! converged after the rounds it is given, so the yardstick is no sharper than it agrees with itself.

use std::sync::Arc;

use evaluation::{Agreement, AgreementResult, AgreementShares, ConfusionMatrix};
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::{Deployment, Processor, ProcessorSpec, Resolution};
use runtime::sink::{NO_SEGMENT, SegmentedFrame, StageNanos};
use segcore::label_space::IGNORE;
use segcore::preprocess::ResizePlan;
use serde::{Deserialize, Serialize};

use super::mapping::MeasuredClasses;
use super::meter::classes_of;
use runtime::program::printer::table;

/// Runs the reference beside the deployed pipeline.
pub(super) struct AgainstReference {
    processor: Processor,
    slot: FrameSlot,
    /// The same with twice the rounds; by the products of cells, which is the same but for near ties and much faster.
    continued: Processor,
    continued_slot: FrameSlot,
    /// Base segments, the levels above, and classes where there are some.
    maps: Vec<MapAgreement>,
    confusion: Option<ConfusionMatrix>,
    /// [deployed, reference].
    times: [Times; 2],
    border_pixels: usize,
    frames: u64,
}

struct MapAgreement {
    name: String,
    deployed: Agreement,
    /// With borders twice as wide.
    two_cells: Agreement,
    continued: Agreement,
}

#[derive(Clone, Copy, Default)]
struct Times {
    cluster: u64,
    all: u64,
}

/// `reference` in the evaluation JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReferenceReport {
    /// Of the reference's own classes.
    miou: Option<f64>,
    accuracy: Option<f64>,
    /// Pixels on either side of a border of the reference's map that are not inside.
    border_pixels: usize,
    maps: Vec<MapReport>,
    /// Mean time of clustering and refinement (stages segment and refine).
    cluster_millis: TimeReport,
    /// Mean time of all stages from preprocessing to refinement.
    frame_millis: TimeReport,
}

/// Agreement of one kind of map.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MapReport {
    map: String,
    /// Share of the pixels that are inside.
    inside_share: Option<f64>,
    /// Shares of equal pixels, labels as they are; for classes these are names, for segments numbers of slots and groups.
    same_label: SharesReport,
    /// The same after segments are paired one to one; null for classes.
    matched: Option<SharesReport>,
    /// The same two cells and more away from borders.
    two_cells: TwoCellsReport,
    /// The reference with twice the rounds against itself, paired in the same way.
    reference_continued: SharesReport,
}

/// Away from borders twice as wide.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TwoCellsReport {
    inside_share: Option<f64>,
    /// Share of equal pixels, segments paired.
    inside: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SharesReport {
    all: Option<f64>,
    inside: Option<f64>,
    borders: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TimeReport {
    deployed: f64,
    reference: f64,
    /// reference / deployed.
    ratio: f64,
}

impl AgainstReference {
    /// A reference for what is deployed in this way; `classes` are those that are measured.
    ///
    /// # Errors
    /// When the backend has no session to give.
    pub(super) fn new(
        deployment: &Arc<Deployment>,
        deployed: ProcessorSpec,
        classes: Option<&MeasuredClasses>,
    ) -> anyhow::Result<Self> {
        let spec = ProcessorSpec { resolution: Resolution::Reference, ..deployed };
        let twice = Some(2 * spec.rounds(deployment.manifest().kmeans.rounds));
        let continued = ProcessorSpec { resolution: Resolution::Pixels, rounds: twice, ..spec };
        let confusion = classes.map(|classes| ConfusionMatrix::new(classes.num_classes())).transpose()?;
        Ok(Self {
            processor: Processor::new(Arc::clone(deployment), spec)?,
            slot: FrameSlot::default(),
            continued: Processor::new(Arc::clone(deployment), continued)?,
            continued_slot: FrameSlot::default(),
            maps: Vec::new(),
            confusion,
            times: [Times::default(); 2],
            border_pixels: 0,
            frames: 0,
        })
    }

    /// Adds a frame: what the deployed pipeline made of it, and the true classes (already those that are measured).
    ///
    /// # Errors
    /// When the reference fails on the frame.
    pub(super) fn update(
        &mut self,
        deployed: &SegmentedFrame,
        measured: Option<&MeasuredClasses>,
        truth: &[u8],
    ) -> anyhow::Result<()> {
        for (processor, slot) in
            [(&mut self.processor, &mut self.slot), (&mut self.continued, &mut self.continued_slot)]
        {
            slot.output.stream.clone_from(&deployed.stream);
            slot.output.frame.clone_from(&deployed.frame);
            processor.process(slot)?;
        }
        self.add_times(&deployed.stage_nanos, 0);
        self.add_times(&self.slot.output.stage_nanos.clone(), 1);
        if let (Some(confusion), Some(measured)) = (&mut self.confusion, measured) {
            let mut classes = Vec::new();
            classes_of(&self.slot.output, &mut classes);
            measured.map_prediction(&mut classes);
            confusion.update(truth, &classes, IGNORE)?;
        }
        if self.maps.is_empty() {
            self.start(deployed, measured.is_some())?;
        }
        let reference = maps_of(&self.slot.output, measured.is_some());
        let continued = maps_of(&self.continued_slot.output, measured.is_some());
        let maps = reference.iter().zip(maps_of(deployed, measured.is_some())).zip(continued);
        for (sums, (((reference, num_labels), (deployed_map, _)), (continued, _))) in self.maps.iter_mut().zip(maps) {
            sums.deployed.update(reference, &deployed_map, deployed.size.width, *num_labels)?;
            sums.two_cells.update(reference, &deployed_map, deployed.size.width, *num_labels)?;
            sums.continued.update(reference, &continued, deployed.size.width, *num_labels)?;
        }
        self.frames += 1;
        Ok(())
    }

    /// The kinds of maps, and how wide borders are: one cell.
    fn start(&mut self, frame: &SegmentedFrame, has_classes: bool) -> anyhow::Result<()> {
        let manifest = self.processor.deployment().manifest();
        let plan = ResizePlan::new(&manifest.preprocessing, frame.size)?;
        self.border_pixels = (manifest.stride * plan.source.width).div_ceil(plan.content.width);
        let levels = (0..frame.levels.len()).map(|level| format!("level {level}"));
        let names = levels.chain(has_classes.then(|| "classes".to_owned()));
        let agreement = |cells: usize| Agreement::new(cells * self.border_pixels);
        let map =
            |name| MapAgreement { name, deployed: agreement(1), two_cells: agreement(2), continued: agreement(1) };
        self.maps = names.map(map).collect();
        Ok(())
    }

    fn add_times(&mut self, nanos: &StageNanos, of: usize) {
        let times = &mut self.times[of];
        times.cluster += nanos.segment + nanos.refine;
        let others = [nanos.preprocess, nanos.embed, nanos.group, nanos.label, nanos.associate];
        times.all += nanos.segment + nanos.refine + others.iter().sum::<u64>();
    }

    /// The figures over all frames so far.
    pub(super) fn report(&self) -> ReferenceReport {
        let semantic = self.confusion.as_ref().map(ConfusionMatrix::result);
        let millis = |time: fn(&Times) -> u64| {
            let [deployed, reference] = [0, 1].map(|of| time(&self.times[of]) as f64 / 1e6 / self.frames.max(1) as f64);
            TimeReport { deployed, reference, ratio: reference / deployed.max(1e-9) }
        };
        ReferenceReport {
            miou: semantic.as_ref().and_then(|result| result.miou),
            accuracy: semantic.as_ref().and_then(|result| result.accuracy),
            border_pixels: self.border_pixels,
            maps: self.maps.iter().map(MapAgreement::report).collect(),
            cluster_millis: millis(|times| times.cluster),
            frame_millis: millis(|times| times.all),
        }
    }
}

impl MapAgreement {
    fn report(&self) -> MapReport {
        let AgreementResult { inside_share, same_label, matched } = self.deployed.result();
        let has_names = self.name == "classes";
        let (continued, two_cells) = (self.continued.result(), self.two_cells.result());
        // Classes have nothing to pair, so both are the same there.
        let two_cells = TwoCellsReport { inside_share: two_cells.inside_share, inside: two_cells.matched.inside };
        MapReport {
            two_cells,
            map: self.name.clone(),
            inside_share,
            same_label: SharesReport::of(same_label),
            matched: (!has_names).then(|| SharesReport::of(matched)),
            reference_continued: SharesReport::of(continued.matched),
        }
    }
}

impl SharesReport {
    fn of(AgreementShares { all, inside, borders }: AgreementShares) -> Self {
        Self { all, inside, borders }
    }
}

/// Labels of every pixel and their number: per level the segment's number, last the classes.
fn maps_of(frame: &SegmentedFrame, has_classes: bool) -> Vec<(Vec<u16>, usize)> {
    let mut maps = Vec::with_capacity(frame.levels.len() + 1);
    let mut labels = frame.slots.clone();
    for level in &frame.levels {
        let parents = level.parents.clone();
        maps.push((labels.clone(), level.segments.len()));
        for label in &mut labels {
            *label = parents.get(usize::from(*label)).copied().unwrap_or(NO_SEGMENT);
        }
    }
    if has_classes {
        let mut classes = Vec::new();
        classes_of(frame, &mut classes);
        // Nothing to pair: they have names.
        maps.push((classes.into_iter().map(u16::from).collect(), 0));
    }
    maps
}

impl ReferenceReport {
    /// For people.
    pub(super) fn text(&self) -> String {
        let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.1}", 100.0 * value));
        let heads = [
            "map",
            "inside: share %",
            "equal %",
            "near borders: equal %",
            "all: equal %",
            "two cells inside: share %",
            "equal %",
            "reference, twice the rounds: inside equal %",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for map in &self.maps {
            let shares = map.matched.as_ref().unwrap_or(&map.same_label);
            let TwoCellsReport { inside_share, inside } = map.two_cells;
            let figures = [
                map.inside_share,
                shares.inside,
                shares.borders,
                shares.all,
                inside_share,
                inside,
                map.reference_continued.inside,
            ];
            rows.push([map.map.clone()].into_iter().chain(figures.map(percent)).collect::<Vec<_>>());
        }
        let TimeReport { deployed, reference, ratio } = self.cluster_millis;
        let frame = &self.frame_millis;
        format!(
            "against clustering at full resolution (mIoU {} %, accuracy {} %; inside = more than {} pixels from its borders, \
             segments paired one to one)\n{}clustering and refinement {deployed:.1} ms, reference {reference:.1} ms \
             ({ratio:.1} times); whole frame {:.1} ms and {:.1} ms ({:.1} times)\n",
            percent(self.miou),
            percent(self.accuracy),
            self.border_pixels,
            table(&rows),
            frame.deployed,
            frame.reference,
            frame.ratio,
        )
    }
}
