//! Figures of classes and of sequences, as `hsg eval` and `hsg eval files` both report them.

use evaluation::{
    CITYSCAPES_CATEGORIES, ConfusionMatrix, InstanceIouResult, SequenceResult, StqFigures, StqResult, category_iou,
};
use segcore::label_space::LabelSpace;
use serde::Serialize;
use serde_json::{Map, Value};

/// Keys of the evaluation JSON; null where a measure does not apply.
#[derive(Default, Serialize)]
pub(super) struct ClassFigures {
    pub(super) miou: Option<f64>,
    pub(super) accuracy: Option<f64>,
    category_miou: Option<f64>,
    iiou: Option<f64>,
    category_iiou: Option<f64>,
    per_class: Option<Map<String, Value>>,
    per_category: Option<Map<String, Value>>,
    per_class_iiou: Option<Map<String, Value>>,
    per_category_iiou: Option<Map<String, Value>>,
    /// Pixels: rows = truth, columns = prediction, the last column = no class.
    pub(super) confusion: Option<Vec<Vec<u64>>>,
}

impl ClassFigures {
    /// Figures of the classes of `label_space`; categories where they are those of Cityscapes.
    pub(super) fn new(
        label_space: &LabelSpace,
        confusion: &ConfusionMatrix,
        instances: Option<&InstanceIouResult>,
    ) -> Self {
        let by_class = |values: &[Option<f64>]| -> Map<String, Value> {
            label_space.classes.iter().zip(values).map(|(class, value)| (class.name.clone(), (*value).into())).collect()
        };
        let by_category = |values: &[Option<f64>]| -> Map<String, Value> {
            CITYSCAPES_CATEGORIES.iter().zip(values).map(|(&name, value)| (name.to_owned(), (*value).into())).collect()
        };
        let semantic = confusion.result();
        let has_categories = *label_space == LabelSpace::cityscapes_19();
        // It fails only for another number of classes.
        let categories = if has_categories { category_iou(confusion).ok() } else { None };
        Self {
            miou: semantic.miou,
            accuracy: semantic.accuracy,
            category_miou: categories.as_ref().and_then(|categories| categories.mean),
            iiou: instances.and_then(|instances| instances.classes),
            category_iiou: instances.and_then(|instances| instances.categories),
            per_class: Some(by_class(&semantic.per_class)),
            per_category: categories.map(|categories| by_category(&categories.per_category)),
            per_class_iiou: instances.map(|instances| by_class(&instances.per_class)),
            per_category_iiou: instances.map(|instances| by_category(&instances.per_category)),
            confusion: Some(confusion.rows().map(<[u64]>::to_vec).collect()),
        }
    }

    /// Tables of classes and, where there are some, categories, each with a row of headings.
    pub(super) fn tables(&self) -> Vec<Vec<Vec<String>>> {
        let table = |what: &str, ious: &Map<String, Value>, instances: &Option<Map<String, Value>>| {
            let mut rows = vec![vec![what.to_owned(), "IoU %".to_owned()]];
            rows[0].extend(instances.iter().map(|_| "iIoU %".to_owned()));
            for (name, iou) in ious {
                let mut row = vec![name.clone(), percent(iou.as_f64())];
                row.extend(instances.iter().map(|instances| percent(instances.get(name).and_then(Value::as_f64))));
                rows.push(row);
            }
            rows
        };
        let of_classes = self.per_class.iter().map(|ious| table("class", ious, &self.per_class_iiou));
        let of_categories = self.per_category.iter().map(|ious| table("category", ious, &self.per_category_iiou));
        of_classes.chain(of_categories).collect()
    }

    /// The figures of all classes together that there are, by name.
    pub(super) fn headline(&self) -> Vec<(&'static str, f64)> {
        let figures = [
            ("mIoU", self.miou),
            ("accuracy", self.accuracy),
            ("category mIoU", self.category_miou),
            ("iIoU", self.iiou),
            ("category iIoU", self.category_iiou),
        ];
        figures.into_iter().filter_map(|(name, figure)| Some((name, figure?))).collect()
    }
}

/// Segmentation and tracking quality; null where there are no sequences or no instances.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct StqReport {
    pub(super) stq: Option<f64>,
    pub(super) aq: Option<f64>,
    pub(super) sq: Option<f64>,
}

/// One sequence by itself.
#[derive(Serialize)]
pub(super) struct SequenceReport {
    name: String,
    frames: u64,
    #[serde(flatten)]
    figures: StqReport,
}

impl From<StqFigures> for StqReport {
    fn from(figures: StqFigures) -> Self {
        Self { stq: Some(figures.stq), aq: Some(figures.aq), sq: Some(figures.sq) }
    }
}

impl From<SequenceResult> for SequenceReport {
    fn from(sequence: SequenceResult) -> Self {
        let figures = sequence.figures.map(StqReport::from).unwrap_or_default();
        Self { name: sequence.name, frames: sequence.frames, figures }
    }
}

/// All sequences together, and each; nothing when no pixel had a class.
pub(super) fn stq_reports(result: Option<StqResult>) -> (StqReport, Vec<SequenceReport>) {
    result.map_or_else(Default::default, |result| {
        (result.total.into(), result.per_sequence.into_iter().map(SequenceReport::from).collect())
    })
}

/// A table of sequences with a row of headings, and last all of them. Segmentation quality comes first: most predictions
/// have no instances of their own.
pub(super) fn sequence_rows(sequences: &[SequenceReport], all: &StqReport) -> Vec<Vec<String>> {
    let row = |name: &str, frames: u64, stq: &StqReport| {
        let figures = [stq.sq, stq.aq, stq.stq].map(percent);
        [name.to_owned(), frames.to_string()].into_iter().chain(figures).collect::<Vec<_>>()
    };
    let mut rows = vec![["sequence", "frames", "SQ %", "AQ %", "STQ %"].map(str::to_owned).to_vec()];
    rows.extend(sequences.iter().map(|sequence| row(&sequence.name, sequence.frames, &sequence.figures)));
    rows.push(row("all", sequences.iter().map(|sequence| sequence.frames).sum(), all));
    rows
}

/// A share in percent; `-` where there is none.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1}", 100.0 * share))
}

/// `mIoU 40.6 %, accuracy 84.0 %`.
pub(super) fn headline_text(figures: &[(&'static str, f64)]) -> String {
    let figures: Vec<String> =
        figures.iter().map(|(name, figure)| format!("{name} {} %", percent(Some(*figure)))).collect();
    figures.join(", ")
}
