//! The receipt: what is in `receipt.int8.json`, and the limits.

use std::collections::BTreeMap;

use models::manifest::{ModelFolder, Precision};
use runtime::pipeline::summary::Machine;
use runtime::program::table;
use runtime::receipt::{AGREEMENT, FRAMES, LEVEL_RATIO, MIOU_LOSS, ReceiptHeader};
use serde::Serialize;

use super::forms::Form;
use crate::settings::Limits;

/// The file.
#[derive(Serialize)]
pub(super) struct Receipt {
    #[serde(flatten)]
    pub(super) header: ReceiptHeader,
    /// Limits that fp16 missed, in words; they decide nothing about int8.
    pub(super) fp16_limits_missed: Vec<String>,
    pub(super) program: String,
    pub(super) model: String,
    /// What accuracy was measured on; int8 as written.
    pub(super) backend: BackendReport,
    pub(super) machine: Machine,
    /// Whether this CPU multiplies 8-bit integers without saturating.
    pub(super) vnni: bool,
    pub(super) dataset: Option<DatasetReport>,
    pub(super) sources: Vec<SourceReport>,
    pub(super) limits: Vec<LimitReport>,
    /// fp32 first.
    pub(super) forms: Vec<FormReport>,
    pub(super) speed: Vec<SpeedReport>,
    pub(super) sizes: Vec<SizeReport>,
    /// How the int8 network was made.
    pub(super) quantization: Option<calibration::search::Quantization>,
}

#[derive(Serialize)]
pub(super) struct BackendReport {
    pub(super) name: String,
    pub(super) version: String,
}

#[derive(Serialize)]
pub(super) struct DatasetReport {
    pub(super) dataset: String,
    pub(super) split: String,
    pub(super) frames: usize,
}

#[derive(Serialize)]
pub(super) struct SourceReport {
    /// Its name, without folder.
    pub(super) source: String,
    pub(super) frames: u64,
    /// Whether stability over time was measured on it.
    pub(super) tracked: bool,
    pub(super) skipped: u64,
}

/// One form's figures, 0 to 1.
#[derive(Serialize)]
pub(super) struct FormReport {
    pub(super) form: String,
    #[serde(skip)]
    pub(super) title: String,
    pub(super) frames: u64,
    pub(super) labelled: Option<Labelled>,
    pub(super) against_fp32: Option<AgainstFp32>,
    pub(super) stability: Option<StabilityReport>,
}

/// Against labels.
#[derive(Serialize)]
pub(super) struct Labelled {
    pub(super) miou: Option<f64>,
    pub(super) accuracy: Option<f64>,
    pub(super) per_class: BTreeMap<String, Option<f64>>,
    pub(super) levels: Vec<LevelLabelled>,
}

#[derive(Serialize)]
pub(super) struct LevelLabelled {
    pub(super) level: usize,
    pub(super) nf_covering: Option<f64>,
    pub(super) covering: Option<f64>,
}

/// Without labels: each frame by itself.
#[derive(Serialize)]
pub(super) struct AgainstFp32 {
    /// Mean over all cells.
    pub(super) cosine_mean: f64,
    /// Mean of the worst frame.
    pub(super) cosine_least: f64,
    /// Share of the pixels with the same class; null without a bank.
    pub(super) class_agreement: Option<f64>,
    /// Share of the pixels in the same segment, after segments were paired one to one.
    pub(super) levels: Vec<LevelAgreement>,
}

#[derive(Serialize)]
pub(super) struct LevelAgreement {
    pub(super) level: usize,
    pub(super) agreement: Option<f64>,
}

/// Share of the pixels of a tracked video that keep class or id from frame to frame.
#[derive(Serialize)]
pub(super) struct StabilityReport {
    pub(super) classes: Option<f64>,
    pub(super) levels: Vec<f64>,
}

/// The embedding network alone.
#[derive(Serialize)]
pub(super) struct SpeedReport {
    pub(super) backend: String,
    pub(super) version: String,
    pub(super) threads: usize,
    pub(super) precision: String,
    /// Width and height.
    pub(super) input: [usize; 2],
    pub(super) millis_min: f64,
    pub(super) millis_median: f64,
    /// How many times as fast as fp32 on the same backend and threads, by the medians.
    pub(super) times_fp32: f64,
}

#[derive(Serialize)]
pub(super) struct SizeReport {
    pub(super) file: String,
    pub(super) bytes: u64,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct LimitReport {
    /// Whose limit.
    pub(super) form: &'static str,
    pub(super) what: String,
    /// Whether `limit` is the most or the least.
    pub(super) at: &'static str,
    pub(super) limit: f64,
    /// Null where it is beyond all numbers: something differs that noise leaves as it is.
    pub(super) value: Option<f64>,
    pub(super) met: bool,
}

impl LimitReport {
    fn at_most(form: Form, what: String, limit: f64, value: f64) -> Self {
        Self {
            form: form.name(),
            what,
            at: "most",
            limit,
            value: value.is_finite().then_some(value),
            met: value <= limit,
        }
    }

    fn at_least(form: Form, what: String, limit: f64, value: f64) -> Self {
        Self {
            form: form.name(),
            what,
            at: "least",
            limit,
            value: value.is_finite().then_some(value),
            met: value >= limit,
        }
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        let value = self.value.map_or("without end".to_owned(), |value| format!("{value:.3}"));
        format!("{}: at {} {} expected, got {value}", self.what, self.at, self.limit)
    }
}

/// Compares the figures with the limits; what could not be measured has none.
pub(super) fn check_limits(limits: &Limits, forms: &[FormReport]) -> Vec<LimitReport> {
    let find = |form: Form| forms.iter().find(|report| report.form == form.name());
    let miou = |form: Form| find(form)?.labelled.as_ref()?.miou;
    let mut checked = Vec::new();
    if let Some(int8) = find(Form::Int8) {
        let (least, frames) = (limits.min_frames as f64, int8.frames as f64);
        checked.push(LimitReport::at_least(Form::Int8, FRAMES.to_owned(), least, frames));
    }
    for (form, limit) in [(Form::Int8, limits.max_miou_loss), (Form::Fp16, limits.max_fp16_miou_loss)] {
        if let (Some(fp32), Some(of_form)) = (miou(Form::Fp32), miou(form)) {
            let what = match form {
                Form::Int8 => MIOU_LOSS.to_owned(),
                _ => format!("mIoU that {} loses, in points", form.name()),
            };
            checked.push(LimitReport::at_most(form, what, limit, 100.0 * (fp32 - of_form)));
        }
    }
    let against = |form: Form| find(form)?.against_fp32.as_ref();
    let Some(int8) = against(Form::Int8) else { return checked };
    if let Some(agreement) = int8.class_agreement {
        checked.push(LimitReport::at_least(Form::Int8, AGREEMENT.to_owned(), limits.min_agreement, 100.0 * agreement));
    }
    let noise = against(Form::Noise).map_or(&[][..], |noise| &noise.levels);
    for (int8, noise) in int8.levels.iter().zip(noise) {
        let (Some(of_int8), Some(of_noise)) = (int8.agreement, noise.agreement) else { continue };
        let (of_int8, of_noise) = (1.0 - of_int8, 1.0 - of_noise);
        // Nothing over nothing is nothing.
        let ratio = if of_int8 == 0.0 { 0.0 } else { of_int8 / of_noise };
        let what = format!("level {}: {LEVEL_RATIO}", int8.level);
        checked.push(LimitReport::at_most(Form::Int8, what, limits.max_level_ratio, ratio));
    }
    checked
}

/// The limits that a form missed, in words.
pub(super) fn missed(limits: &[LimitReport], form: Form) -> Vec<String> {
    limits.iter().filter(|limit| !limit.met && limit.form == form.name()).map(LimitReport::text).collect()
}

/// Sizes of the network files.
///
/// # Errors
/// When a file cannot be looked at.
pub(super) fn sizes(folder: &ModelFolder) -> anyhow::Result<Vec<SizeReport>> {
    let mut sizes = Vec::new();
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
        for path in [folder.embedding_path(precision), folder.grouping_path(precision)].into_iter().flatten() {
            let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let bytes = std::fs::metadata(&path).map_err(|e| models::files::file_error("read", &path, e))?.len();
            sizes.push(SizeReport { file, bytes });
        }
    }
    Ok(sizes)
}

/// A share in percent.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{:.2}", 100.0 * value))
}

impl Receipt {
    /// Rows of the figures, a column per form: what, then numbers.
    pub(super) fn figures(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut row = |what: String, value: &dyn Fn(&FormReport) -> Option<String>| {
            let cells: Vec<Option<String>> = self.forms.iter().map(value).collect();
            if cells.iter().any(Option::is_some) {
                rows.push(
                    [what].into_iter().chain(cells.into_iter().map(|c| c.unwrap_or_else(|| "–".to_owned()))).collect(),
                );
            }
        };
        let labelled = |form: &FormReport, of: &dyn Fn(&Labelled) -> Option<f64>| {
            form.labelled.as_ref().and_then(of).map(|value| percent(Some(value)))
        };
        row("mIoU %".to_owned(), &|form| labelled(form, &|l| l.miou));
        row("accuracy %".to_owned(), &|form| labelled(form, &|l| l.accuracy));
        let num_levels = self.forms.iter().filter_map(|f| f.against_fp32.as_ref()).map(|a| a.levels.len()).max();
        for level in 0..num_levels.unwrap_or(0) {
            let nf = |l: &Labelled| l.levels.get(level)?.nf_covering;
            row(format!("NFCovering of level {level} %"), &|form| labelled(form, &nf));
        }
        row("cosine of the features".to_owned(), &|form| {
            Some(format!("{:.6}", form.against_fp32.as_ref()?.cosine_mean))
        });
        row("… of the worst frame".to_owned(), &|form| {
            Some(format!("{:.6}", form.against_fp32.as_ref()?.cosine_least))
        });
        row("pixels with the class of fp32 %".to_owned(), &|form| {
            form.against_fp32.as_ref()?.class_agreement.map(|value| percent(Some(value)))
        });
        for level in 0..num_levels.unwrap_or(0) {
            let what = if level == 0 { "base segments" } else { "groups" };
            row(format!("pixels in the same {what}, level {level} %"), &|form| {
                form.against_fp32.as_ref()?.levels.get(level)?.agreement.map(|value| percent(Some(value)))
            });
        }
        row("video: pixels that keep their class %".to_owned(), &|form| {
            form.stability.as_ref()?.classes.map(|value| percent(Some(value)))
        });
        for level in 0..num_levels.unwrap_or(0) {
            row(format!("video: pixels that keep their id, level {level} %"), &|form| {
                form.stability.as_ref()?.levels.get(level).map(|value| percent(Some(*value)))
            });
        }
        rows
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let heads = [String::new()].into_iter().chain(self.forms.iter().map(|form| form.title.clone())).collect();
        let mut rows: Vec<Vec<String>> = vec![heads];
        rows.extend(self.figures());
        let mut text = table(&rows);
        let mut rows =
            vec![["embedding network", "threads", "min ms", "median ms", "times fp32"].map(str::to_owned).to_vec()];
        for speed in &self.speed {
            rows.push(vec![
                format!("{} {}", speed.backend, speed.precision),
                speed.threads.to_string(),
                format!("{:.1}", speed.millis_min),
                format!("{:.1}", speed.millis_median),
                format!("{:.2}", speed.times_fp32),
            ]);
        }
        text += &format!(
            "{}on {}{}\n",
            table(&rows),
            self.machine.cpu,
            if self.vnni { ", with VNNI" } else { ", without VNNI" }
        );
        for limit in &self.limits {
            text += &format!("{}: {}\n", if limit.met { "met" } else { "MISSED" }, limit.text());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(form: Form, miou: f64, classes: f64, level: f64) -> FormReport {
        let labelled = Labelled { miou: Some(miou), accuracy: None, per_class: BTreeMap::new(), levels: Vec::new() };
        let levels = vec![LevelAgreement { level: 0, agreement: Some(level) }];
        let against = AgainstFp32 { cosine_mean: 1.0, cosine_least: 1.0, class_agreement: Some(classes), levels };
        FormReport {
            form: form.name().to_owned(),
            title: String::new(),
            frames: 3,
            labelled: Some(labelled),
            against_fp32: (form != Form::Fp32).then_some(against),
            stability: None,
        }
    }

    #[test]
    fn limits_are_met_up_to_their_value_and_missed_beyond() {
        let limits = Limits {
            min_frames: 3,
            max_miou_loss: 0.25,
            max_fp16_miou_loss: 0.05,
            min_agreement: 98.5,
            max_level_ratio: 2.0,
        };
        let forms = |miou: f64, classes: f64, level: f64| {
            [
                form(Form::Fp32, 0.5, 1.0, 1.0),
                form(Form::Noise, 0.5, 0.99, 0.75),
                form(Form::Fp16, 0.5, 1.0, 1.0),
                form(Form::Int8, miou, classes, level),
            ]
        };
        let missed = |miou, classes, level| -> Vec<String> {
            let checked = check_limits(&limits, &forms(miou, classes, level));
            assert_eq!(checked.len(), 5);
            checked.iter().filter(|limit| !limit.met).map(LimitReport::text).collect()
        };
        assert!(missed(0.498, 0.986, 0.5).is_empty());
        assert!(missed(0.497, 0.99, 0.9)[0].contains("mIoU that int8 loses"));
        assert!(missed(0.5, 0.984, 0.9)[0].contains("class of fp32"));
        assert!(missed(0.5, 0.99, 0.49)[0].contains("level 0"));
        let mut few = forms(0.5, 1.0, 1.0);
        few[3].frames = 2;
        assert!(super::missed(&check_limits(&limits, &few), Form::Int8)[0].contains("at least 3 expected, got 2"));
        // What fp16 loses is not held against int8.
        let mut worse_fp16 = forms(0.5, 1.0, 1.0);
        worse_fp16[2] = form(Form::Fp16, 0.4, 1.0, 1.0);
        let checked = check_limits(&limits, &worse_fp16);
        assert!(super::missed(&checked, Form::Int8).is_empty());
        assert!(super::missed(&checked, Form::Fp16)[0].contains("mIoU that fp16 loses"));
        // Noise that changes nothing allows no difference, and no difference is always allowed.
        let mut quiet = forms(0.5, 1.0, 0.9);
        quiet[1] = form(Form::Noise, 0.5, 1.0, 1.0);
        assert!(check_limits(&limits, &quiet).iter().any(|limit| !limit.met && limit.value.is_none()));
        quiet[3] = form(Form::Int8, 0.5, 1.0, 1.0);
        assert!(check_limits(&limits, &quiet).iter().all(|limit| limit.met));
    }
}
