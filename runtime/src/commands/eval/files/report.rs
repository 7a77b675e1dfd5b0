//! What `hsg eval files` says of label maps.

use evaluation::{ConfusionMatrix, InstanceIouResult, StqResult};
use segcore::label_space::LabelSpace;
use serde::Serialize;

use super::super::super::{Outcome, write_json};
use super::super::class_figures::{ClassFigures, SequenceReport, StqReport, headline_text, sequence_rows, stq_reports};
use crate::settings::EvalFilesSettings;
use runtime::program::printer::{Printer, table};

/// The evaluation JSON: the keys of `hsg eval`, null where a measure does not apply to files.
#[derive(Serialize)]
struct Evaluation {
    dataset: String,
    split: Option<String>,
    frames: usize,
    model: Option<String>,
    backend: Option<String>,
    precision: Option<String>,
    #[serde(flatten)]
    classes: ClassFigures,
    levels: [(); 0],
    stq: StqReport,
    /// Each sequence by itself.
    sequences: Option<Vec<SequenceReport>>,
    /// Images of the truth that have no prediction.
    truth_without_prediction: usize,
}

/// What was measured.
pub(super) struct Figures<'a> {
    pub(super) frames: usize,
    pub(super) label_space: &'a LabelSpace,
    pub(super) confusion: ConfusionMatrix,
    pub(super) instances: Option<InstanceIouResult>,
    /// `None` outside data sets of sequences; in them, `None` when no pixel had a class.
    pub(super) stq: Option<Option<StqResult>>,
    pub(super) truth_without_prediction: usize,
}

/// Prints and writes the figures.
pub(super) fn report(figures: Figures<'_>, settings: &EvalFilesSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let is_incomplete = settings.complete && figures.truth_without_prediction > 0;
    let evaluation = Evaluation::of(figures, settings);
    printer.text(evaluation.to_text())?;
    printer.document(&evaluation)?;
    if let Some(folder) = &settings.out {
        write_json(&folder.join("evaluation.json"), &evaluation)?;
        printer.status(format!("figures: {}", folder.join("evaluation.json").display()));
    }
    Ok(if is_incomplete { Outcome::Incomplete } else { Outcome::Done })
}

impl Evaluation {
    fn of(figures: Figures<'_>, settings: &EvalFilesSettings) -> Self {
        let (stq, sequences) = figures.stq.map(stq_reports).unzip();
        Self {
            dataset: settings.dataset.clone(),
            split: None,
            frames: figures.frames,
            model: None,
            backend: None,
            precision: None,
            classes: ClassFigures::new(figures.label_space, &figures.confusion, figures.instances.as_ref()),
            levels: [],
            stq: stq.unwrap_or_default(),
            sequences,
            truth_without_prediction: figures.truth_without_prediction,
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}, {} images\n", self.dataset, self.frames);
        if let Some(sequences) = &self.sequences {
            text.push_str(&table(&sequence_rows(sequences, &self.stq)));
        }
        for rows in self.classes.tables() {
            text.push_str(&table(&rows));
        }
        text.push_str(&headline_text(&self.classes.headline()));
        text
    }
}
