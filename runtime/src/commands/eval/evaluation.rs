//! The evaluation as people and programs read it: JSON and text. Made from an identity and sums alone, so that parts put
//! together give the same bytes as the whole.

use evaluation::{CITYSCAPES_CATEGORIES, category_iou};
use runtime::pipeline::summary::{BackendSummary, Machine};
use segcore::label_space::LabelSpace;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::against_reference::ReferenceReport;
use super::levels::LevelEvaluation;
use super::mapping::MappingReport;
use super::sums::Sums;
use crate::printer::table;

/// What was measured and how. Parts of one evaluation have the same, but for `machine` and the backend's `reason`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// Version of the program.
    pub(super) program: String,
    pub(super) dataset: String,
    pub(super) split: String,
    /// Number of frames of all parts, and a hash of their names.
    pub(super) samples: usize,
    pub(super) samples_sha256: String,
    pub(super) model: String,
    pub(super) model_hash: String,
    /// Hash of the bank's file; none without a bank.
    pub(super) bank_sha256: Option<String>,
    pub(super) backend: BackendSummary,
    pub(super) precision: String,
    /// How labels got to pixels: refined, nearest or reference.
    pub(super) resolution: String,
    /// Whether sequences of at least 5 Hz were to be tracked.
    pub(super) track: bool,
    /// The classes that are measured.
    pub(super) label_space: LabelSpace,
    /// How the classes of the model and the data set were compared; none where they are the same.
    pub(super) label_mapping: Option<MappingReport>,
    /// Frame numbers that the data set lacks within the sequences.
    pub(super) missing_frames: u64,
    pub(super) machine: Machine,
}

/// The evaluation JSON; null where a measure does not apply.
#[derive(Serialize)]
pub(super) struct Evaluation {
    dataset: String,
    split: String,
    pub(super) frames: u64,
    model: String,
    model_hash: String,
    backend: BackendSummary,
    precision: String,
    /// How labels got to pixels: refined, nearest or reference.
    resolution: String,
    /// Whether any sequence was tracked.
    track: bool,
    /// Frame numbers that the data set lacks within the sequences.
    missing_frames: u64,
    pub(super) miou: Option<f64>,
    pub(super) accuracy: Option<f64>,
    category_miou: Option<f64>,
    iiou: Option<f64>,
    category_iiou: Option<f64>,
    pub(super) per_class: Option<Map<String, Value>>,
    pub(super) per_category: Option<Map<String, Value>>,
    /// How the classes of the model and the data set were compared; null where they are the same.
    label_mapping: Option<MappingReport>,
    /// Pixels: rows = truth, columns = prediction, the last column = no class.
    pub(super) confusion: Option<Vec<Vec<u64>>>,
    /// Flicker of the class map.
    class_flicker: Option<f64>,
    pub(super) levels: Vec<LevelEvaluation>,
    stq: SegmentationAndTrackingQuality,
    /// How the maps differ from those of clustering at full resolution; null without `--against-reference`.
    pub(super) reference: Option<ReferenceReport>,
    machine: Machine,
}

/// Null where there are no sequences or no instances.
#[derive(Default, Serialize)]
struct SegmentationAndTrackingQuality {
    sq: Option<f64>,
    aq: Option<f64>,
    stq: Option<f64>,
}

impl Evaluation {
    pub(super) fn new(identity: &Identity, sums: &Sums, reference: Option<&ReferenceReport>) -> Self {
        let result = sums.confusion.as_ref().map(|confusion| confusion.result());
        let is_official = identity.label_space == LabelSpace::cityscapes_19();
        // Only a matrix of other classes has no categories, and that is excluded.
        let categories =
            sums.confusion.as_ref().filter(|_| is_official).and_then(|confusion| category_iou(confusion).ok());
        // Instances of some frames alone would give another figure.
        let of_instances =
            sums.instance_iou.as_ref().filter(|_| sums.frames_without_instances == 0).map(|iou| iou.result());
        let stq = sums.stq.as_ref().and_then(|stq| stq.result()).map(|result| result.total);
        let classes = &identity.label_space.classes;
        let named = |values: &[Option<f64>]| -> Map<String, Value> {
            classes.iter().zip(values).map(|(class, value)| (class.name.clone(), (*value).into())).collect()
        };
        Self {
            dataset: identity.dataset.clone(),
            split: identity.split.clone(),
            frames: sums.frames,
            model: identity.model.clone(),
            model_hash: identity.model_hash.clone(),
            backend: identity.backend.clone(),
            precision: identity.precision.clone(),
            resolution: identity.resolution.clone(),
            track: sums.tracked,
            missing_frames: identity.missing_frames,
            miou: result.as_ref().and_then(|result| result.miou),
            accuracy: result.as_ref().and_then(|result| result.accuracy),
            category_miou: categories.as_ref().and_then(|result| result.mean),
            iiou: of_instances.as_ref().and_then(|result| result.classes),
            category_iiou: of_instances.as_ref().and_then(|result| result.categories),
            per_class: result.as_ref().map(|result| named(&result.per_class)),
            per_category: categories.map(|result| {
                let shares = CITYSCAPES_CATEGORIES.iter().zip(result.per_category);
                shares.map(|(name, share)| ((*name).to_owned(), share.into())).collect()
            }),
            label_mapping: identity.label_mapping.clone(),
            confusion: sums.confusion.as_ref().map(|confusion| confusion.rows().map(<[u64]>::to_vec).collect()),
            class_flicker: sums.class_flicker.result(),
            levels: sums.levels.result(),
            stq: SegmentationAndTrackingQuality {
                sq: stq.map(|figures| figures.sq),
                aq: stq.map(|figures| figures.aq),
                stq: stq.map(|figures| figures.stq),
            },
            reference: reference.cloned(),
            machine: identity.machine.clone(),
        }
    }

    /// The figures of all classes together, by name: those that apply.
    pub(super) fn headline(&self) -> Vec<(&'static str, f64)> {
        let figures = [
            ("mIoU", self.miou),
            ("accuracy", self.accuracy),
            ("category mIoU", self.category_miou),
            ("iIoU", self.iiou),
            ("category iIoU", self.category_iiou),
            ("SQ", self.stq.sq),
            ("AQ", self.stq.aq),
            ("STQ", self.stq.stq),
            ("flicker of classes", self.class_flicker),
        ];
        figures.into_iter().filter_map(|(name, figure)| Some((name, figure?))).collect()
    }

    /// One line: what was measured.
    pub(super) fn subject(&self) -> String {
        format!(
            "{} {}, {} frames, model {}, {} ({}), labels {}, tracking {}",
            self.dataset,
            self.split,
            self.frames,
            self.model,
            self.backend.name,
            self.precision,
            self.resolution,
            if self.track { "on" } else { "off" }
        )
    }

    /// The tables for the terminal.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.subject());
        if let Some(mapping) = &self.label_mapping {
            text.push_str(&mapping.text());
        }
        if let Some(per_class) = &self.per_class {
            text.push_str(&table(&share_rows("class", per_class)));
            if let Some(per_category) = &self.per_category {
                text.push_str(&table(&share_rows("category", per_category)));
            }
            let figures: Vec<String> =
                self.headline().iter().map(|(name, figure)| format!("{name} {} %", percent(Some(*figure)))).collect();
            text.push_str(&format!("{}\n", figures.join(", ")));
        } else {
            text.push_str("no prototype bank: no classes to measure\n");
        }
        text.push_str(&table(&self.level_rows()));
        if let Some(reference) = &self.reference {
            text.push_str(&reference.text());
        }
        text
    }

    /// The table of levels: a row of headings, then a row a level. Columns without any figure are left out.
    pub(super) fn level_rows(&self) -> Vec<Vec<String>> {
        type Figure = fn(&LevelEvaluation) -> Option<f64>;
        let columns: [(&str, Figure); 5] = [
            ("covering %", |level| level.covering),
            ("NFCovering %", |level| level.nf_covering),
            ("region F %", |level| level.region_f),
            ("flicker %", |level| level.flicker),
            ("id stability %", |level| level.id_stability),
        ];
        let columns: Vec<_> =
            columns.into_iter().filter(|(_, figure)| self.levels.iter().any(|l| figure(l).is_some())).collect();
        let headings = ["level", "segments"].into_iter().chain(columns.iter().map(|(name, _)| *name));
        let mut rows = vec![headings.map(str::to_owned).collect::<Vec<_>>()];
        for level in &self.levels {
            let figures = columns.iter().map(|(_, figure)| percent(figure(level)));
            let head = [level.level.to_string(), format!("{:.1}", level.segments_mean)];
            rows.push(head.into_iter().chain(figures).collect());
        }
        rows
    }
}

/// A table of shares under the headings `name` and IoU %.
pub(super) fn share_rows(name: &str, shares: &Map<String, Value>) -> Vec<Vec<String>> {
    let mut rows = vec![vec![name.to_owned(), "IoU %".to_owned()]];
    rows.extend(shares.iter().map(|(class, share)| vec![class.clone(), percent(share.as_f64())]));
    rows
}

/// A share in percent; `-` where there is none.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1}", 100.0 * share))
}
