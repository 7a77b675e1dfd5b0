//! What `hsg eval files` says of label maps.

use evaluation::{CITYSCAPES_CATEGORIES, ConfusionMatrix, InstanceIouResult, SequenceResult, StqResult, category_iou};
use segcore::label_space::LabelSpace;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::super::{Outcome, write_json};
use crate::printer::{Printer, table};
use crate::settings::EvalFilesSettings;

/// The evaluation JSON: the keys of `hsg eval`, null where a measure does not apply to files.
#[derive(Serialize)]
struct Evaluation {
    dataset: String,
    split: Option<String>,
    frames: usize,
    model: Option<String>,
    backend: Option<String>,
    precision: Option<String>,
    miou: Option<f64>,
    accuracy: Option<f64>,
    category_miou: Option<f64>,
    iiou: Option<f64>,
    category_iiou: Option<f64>,
    per_class: Map<String, Value>,
    per_category: Option<Map<String, Value>>,
    per_class_iiou: Option<Map<String, Value>>,
    per_category_iiou: Option<Map<String, Value>>,
    /// Pixels: rows = truth, columns = prediction, the last column = no class.
    confusion: Vec<Vec<u64>>,
    levels: [(); 0],
    stq: Stq,
    /// Each sequence by itself.
    sequences: Option<Vec<Sequence>>,
    /// Images of the truth that have no prediction.
    truth_without_prediction: usize,
}

#[derive(Default, Serialize)]
struct Stq {
    stq: Option<f64>,
    aq: Option<f64>,
    sq: Option<f64>,
}

#[derive(Serialize)]
struct Sequence {
    name: String,
    frames: u64,
    #[serde(flatten)]
    figures: Stq,
}

/// What was measured.
pub(super) struct Figures<'a> {
    pub(super) frames: usize,
    pub(super) label_space: &'a LabelSpace,
    pub(super) confusion: ConfusionMatrix,
    /// Whether the classes are in the Cityscapes categories.
    pub(super) has_categories: bool,
    pub(super) instances: Option<InstanceIouResult>,
    /// `None` outside data sets of sequences; in them, `None` when no pixel had a class.
    pub(super) stq: Option<Option<StqResult>>,
    pub(super) truth_without_prediction: usize,
}

/// Prints and writes the figures.
pub(super) fn report(figures: Figures<'_>, settings: &EvalFilesSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let is_incomplete = settings.complete && figures.truth_without_prediction > 0;
    let evaluation = Evaluation::of(figures, settings)?;
    printer.text(text_report(&evaluation))?;
    printer.document(&evaluation)?;
    if let Some(folder) = &settings.out {
        write_json(&folder.join("evaluation.json"), &evaluation)?;
        printer.status(format!("figures: {}", folder.join("evaluation.json").display()));
    }
    Ok(if is_incomplete { Outcome::Incomplete } else { Outcome::Done })
}

impl Evaluation {
    fn of(figures: Figures<'_>, settings: &EvalFilesSettings) -> anyhow::Result<Self> {
        let semantic = figures.confusion.result();
        let categories = figures.has_categories.then(|| category_iou(&figures.confusion)).transpose()?;
        let by_class = |values: &[Option<f64>]| -> Map<String, Value> {
            let classes = figures.label_space.classes.iter().zip(values);
            classes.map(|(class, value)| (class.name.clone(), (*value).into())).collect()
        };
        let by_category = |values: &[Option<f64>]| -> Map<String, Value> {
            CITYSCAPES_CATEGORIES.iter().zip(values).map(|(&name, value)| (name.to_owned(), (*value).into())).collect()
        };
        let instances = figures.instances.as_ref();
        let (stq, sequences) = match figures.stq {
            None => (Stq::default(), None),
            Some(None) => (Stq::default(), Some(Vec::new())),
            Some(Some(result)) => {
                let sequences = result.per_sequence.into_iter().map(Sequence::from).collect();
                (Stq::from(result.total), Some(sequences))
            }
        };
        Ok(Self {
            dataset: settings.dataset.clone(),
            split: None,
            frames: figures.frames,
            model: None,
            backend: None,
            precision: None,
            miou: semantic.miou,
            accuracy: semantic.accuracy,
            category_miou: categories.as_ref().and_then(|categories| categories.mean),
            iiou: instances.and_then(|instances| instances.classes),
            category_iiou: instances.and_then(|instances| instances.categories),
            per_class: by_class(&semantic.per_class),
            per_category: categories.map(|categories| by_category(&categories.per_category)),
            per_class_iiou: instances.map(|instances| by_class(&instances.per_class)),
            per_category_iiou: instances.map(|instances| by_category(&instances.per_category)),
            confusion: figures.confusion.rows().map(<[u64]>::to_vec).collect(),
            levels: [],
            stq,
            sequences,
            truth_without_prediction: figures.truth_without_prediction,
        })
    }
}

impl From<evaluation::StqFigures> for Stq {
    fn from(figures: evaluation::StqFigures) -> Self {
        Self { stq: Some(figures.stq), aq: Some(figures.aq), sq: Some(figures.sq) }
    }
}

impl From<SequenceResult> for Sequence {
    fn from(sequence: SequenceResult) -> Self {
        let figures = sequence.figures.map(Stq::from).unwrap_or_default();
        Self { name: sequence.name, frames: sequence.frames, figures }
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{:.1}", 100.0 * value))
}

fn text_report(evaluation: &Evaluation) -> String {
    let mut text = format!("{}, {} images\n", evaluation.dataset, evaluation.frames);
    let values = |what: &str, ious: &Map<String, Value>, instances: &Option<Map<String, Value>>| {
        let mut rows = vec![vec![what.to_owned(), "IoU %".to_owned()]];
        rows[0].extend(instances.iter().map(|_| "iIoU %".to_owned()));
        for (name, iou) in ious {
            let mut row = vec![name.clone(), percent(iou.as_f64())];
            row.extend(instances.iter().map(|instances| percent(instances.get(name).and_then(Value::as_f64))));
            rows.push(row);
        }
        table(&rows)
    };
    // Segmentation quality first: most predictions have no instances of their own.
    if let Some(sequences) = &evaluation.sequences {
        let row = |name: &str, frames: String, stq: &Stq| {
            [name.to_owned(), frames].into_iter().chain([stq.sq, stq.aq, stq.stq].map(percent)).collect::<Vec<_>>()
        };
        let mut rows = vec![["sequence", "frames", "SQ %", "AQ %", "STQ %"].map(str::to_owned).to_vec()];
        rows.extend(sequences.iter().map(|s| row(&s.name, s.frames.to_string(), &s.figures)));
        rows.push(row("all", evaluation.frames.to_string(), &evaluation.stq));
        text.push_str(&table(&rows));
    }
    text.push_str(&values("class", &evaluation.per_class, &evaluation.per_class_iiou));
    if let Some(per_category) = &evaluation.per_category {
        text.push_str(&values("category", per_category, &evaluation.per_category_iiou));
    }
    text.push_str(&format!("mIoU {} %, accuracy {} %", percent(evaluation.miou), percent(evaluation.accuracy)));
    if evaluation.per_category.is_some() {
        text.push_str(&format!(", category mIoU {} %", percent(evaluation.category_miou)));
    }
    if evaluation.per_class_iiou.is_some() {
        let (classes, categories) = (percent(evaluation.iiou), percent(evaluation.category_iiou));
        text.push_str(&format!(", iIoU {classes} %, category iIoU {categories} %"));
    }
    text
}
