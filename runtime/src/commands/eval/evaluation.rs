//! The evaluation as people and programs read it: JSON and text. Made from an identity and sums alone, so that parts put
//! together give the same bytes as the whole.

use runtime::pipeline::summary::{BackendSummary, Machine};
use segcore::label_space::LabelSpace;
use serde::{Deserialize, Serialize};

use super::against_reference::ReferenceReport;
use super::class_figures::{
    ClassFigures, SequenceReport, StqReport, headline_text, percent, sequence_rows, stq_reports,
};
use super::levels::LevelEvaluation;
use super::mapping::MappingReport;
use super::sums::Sums;
use runtime::program::printer::table;

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
    /// How labels got to pixels: refined, nearest, pixels or reference.
    pub(super) resolution: String,
    /// Whether sequences of at least 5 Hz were to be tracked.
    pub(super) track: bool,
    /// How segments were looked up in the bank: auto, exact or approximate.
    pub(super) bank_search: String,
    /// How segments got their classes: pooled or counted.
    pub(super) naming: String,
    /// Rounds of clustering per frame.
    pub(super) rounds: usize,
    /// Where the stages between the networks ran: host or device, which take near ties differently.
    pub(super) stages: String,
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
    /// How labels got to pixels: refined, nearest, pixels or reference.
    resolution: String,
    /// How segments got their classes: pooled or counted.
    naming: String,
    /// Rounds of clustering per frame.
    rounds: usize,
    /// Where the stages between the networks ran: host or device.
    stages: String,
    /// Whether any sequence was tracked.
    track: bool,
    /// Frame numbers that the data set lacks within the sequences.
    missing_frames: u64,
    #[serde(flatten)]
    pub(super) classes: ClassFigures,
    /// How the classes of the model and the data set were compared; null where they are the same.
    label_mapping: Option<MappingReport>,
    /// Flicker of the class map.
    class_flicker: Option<f64>,
    pub(super) levels: Vec<LevelEvaluation>,
    stq: StqReport,
    /// Each sequence by itself, where there is an STQ.
    sequences: Option<Vec<SequenceReport>>,
    /// How the maps differ from those of clustering at full resolution; null without `--against-reference`.
    pub(super) reference: Option<ReferenceReport>,
    machine: Machine,
}

impl Evaluation {
    pub(super) fn new(identity: &Identity, sums: &Sums, reference: Option<&ReferenceReport>) -> Self {
        // Instances of some frames alone would give another figure.
        let instances =
            sums.instance_iou.as_ref().filter(|_| sums.frames_without_instances == 0).map(|iou| iou.result());
        let classes = sums
            .confusion
            .as_ref()
            .map(|confusion| ClassFigures::new(&identity.label_space, confusion, instances.as_ref()))
            .unwrap_or_default();
        let (stq, sequences) = sums.stq.as_ref().map(|stq| stq_reports(stq.result())).unzip();
        Self {
            dataset: identity.dataset.clone(),
            split: identity.split.clone(),
            frames: sums.frames,
            model: identity.model.clone(),
            model_hash: identity.model_hash.clone(),
            backend: identity.backend.clone(),
            precision: identity.precision.clone(),
            resolution: identity.resolution.clone(),
            naming: identity.naming.clone(),
            rounds: identity.rounds,
            stages: identity.stages.clone(),
            track: sums.tracked,
            missing_frames: identity.missing_frames,
            classes,
            label_mapping: identity.label_mapping.clone(),
            class_flicker: sums.class_flicker.result(),
            levels: sums.levels.result(),
            stq: stq.unwrap_or_default(),
            sequences,
            reference: reference.cloned(),
            machine: identity.machine.clone(),
        }
    }

    /// The figures of all classes together that there are, by name.
    pub(super) fn headline(&self) -> Vec<(&'static str, f64)> {
        let mut figures = self.classes.headline();
        figures.extend(self.class_flicker.map(|flicker| ("flicker of classes", flicker)));
        figures
    }

    /// One line: what was measured.
    pub(super) fn subject(&self) -> String {
        format!(
            "{} {}, {} frames, model {}, {} ({}), labels {}, names {}, tracking {}",
            self.dataset,
            self.split,
            self.frames,
            self.model,
            self.backend.name,
            self.precision,
            self.resolution,
            self.naming,
            if self.track { "on" } else { "off" }
        )
    }

    /// The sequences, as a table; none where there is no STQ.
    pub(super) fn sequence_table(&self) -> Option<Vec<Vec<String>>> {
        self.sequences.as_ref().map(|sequences| sequence_rows(sequences, &self.stq))
    }

    /// The tables for the terminal.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.subject());
        if let Some(mapping) = &self.label_mapping {
            text.push_str(&mapping.text());
        }
        if let Some(rows) = self.sequence_table() {
            text.push_str(&table(&rows));
        }
        if self.classes.confusion.is_some() {
            for rows in self.classes.tables() {
                text.push_str(&table(&rows));
            }
            text.push_str(&format!("{}\n", headline_text(&self.headline())));
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
        let columns: [(&str, Figure); 6] = [
            ("covering %", |level| level.covering),
            ("NFCovering %", |level| level.nf_covering),
            ("region F %", |level| level.region_f),
            ("flicker %", |level| level.flicker),
            ("id stability %", |level| level.id_stability),
            ("at most %", |level| level.id_purity),
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
