//! `report.html` of a run folder: what was learned so far, read from the folder's files alone. [T7]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use models::files::{file_error, read_file, write_atomically};
use report::{LineChart, Page, Picture, Series, Table};
use serde_json::Value;

use crate::run_folder::{EVALUATION_FILE, METRICS_FILE, PICTURES_FOLDER, REPORT_FILE, SETTINGS_FILE, SMOOTHING};

/// More samples would make a file that browsers open slowly.
const MOST_SAMPLES: usize = 12;

/// Writes `report.html` into the folder `run`. Files that are not there yet are left out of it.
///
/// # Errors
/// [`models::ModelError::File`] when a file cannot be read or the report not be written.
pub fn write_training_report(run: &Path) -> models::Result<()> {
    write_atomically(&run.join(REPORT_FILE), training_report(run)?.as_bytes())
}

/// The report of the folder `run` as HTML; the same files give the same text.
///
/// # Errors
/// [`models::ModelError::File`] when a file that is there cannot be read.
pub fn training_report(run: &Path) -> models::Result<String> {
    let settings_text = read_text(&run.join(SETTINGS_FILE))?;
    let settings: toml::Table = settings_text.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default();
    let metrics = Metrics::read(&run.join(METRICS_FILE))?;
    let evaluations = read_evaluations(&run.join(EVALUATION_FILE))?;
    let state = State::read(run)?;

    // A path such as `.` has no name of its own.
    let whole = fs::canonicalize(run).unwrap_or_else(|_| run.to_owned());
    let name = whole.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut page = Page::new(format!("Training run {name}"));
    let step = metrics.last_step().or(state.step).unwrap_or(0);
    let steps = setting(&settings, "run", "steps").and_then(toml::Value::as_integer);
    let steps = steps.and_then(|steps| u64::try_from(steps).ok());
    page.subtitle(match steps {
        Some(steps) if step >= steps => format!("Complete: {step} steps"),
        Some(steps) => format!("Step {step} of {steps}"),
        None => format!("Step {step}"),
    });

    figures(&mut page, &metrics, &evaluations, &state, &settings, step, steps);
    loss_charts(&mut page, &metrics);
    evaluation_charts(&mut page, &evaluations);
    sample_pictures(&mut page, &run.join(PICTURES_FOLDER))?;
    if let Some(text) = &settings_text {
        page.section("Settings").preformatted(text);
    }
    next_steps(&mut page, run, &state, step, steps);
    Ok(page.to_html())
}

fn figures(
    page: &mut Page,
    metrics: &Metrics,
    evaluations: &[Evaluation],
    state: &State,
    settings: &toml::Table,
    step: u64,
    steps: Option<u64>,
) {
    let mut rows: Vec<(&str, String)> = Vec::new();
    rows.push(("steps done", steps.map_or_else(|| step.to_string(), |steps| format!("{step} of {steps}"))));
    if let Some(loss) = metrics.column("loss").and_then(|column| column.iter().rfind(|value| value.is_finite())) {
        rows.push(("loss, last step", format!("{loss:.4}")));
    }
    let smoothed = metrics.smoothed("loss");
    if let Some([_, loss]) = smoothed.last() {
        rows.push(("loss, smoothed", format!("{loss:.4}")));
    }
    if let Some([at, loss]) = smoothed.iter().min_by(|a, b| a[1].total_cmp(&b[1])) {
        rows.push(("lowest smoothed loss", format!("{loss:.4} at step {at}")));
    }
    if let Some(best) = best_miou(evaluations) {
        rows.push(("best mIoU", format!("{:.1} % at step {}", 100.0 * best.miou, best.step)));
    }
    if let Some(rate) = metrics.median("images_per_second") {
        rows.push(("images per second, median", format!("{rate:.1}")));
    }
    if let Some(share) = metrics.median("wait_share") {
        rows.push(("time waiting for data, median", format!("{:.1} %", 100.0 * share)));
    }
    // Of every step, also of those after the last checkpoint, which the checkpoint's own clock does not know.
    let images = setting(settings, "batch", "images").and_then(toml::Value::as_integer);
    let seconds = images.and_then(|images| metrics.seconds(images as f64)).or(state.seconds);
    if let Some(seconds) = seconds {
        rows.push(("time in steps", duration(seconds)));
    }
    if let Some(images) = state.images {
        rows.push(("images to learn from", images.to_string()));
    }
    if let Some(named) = &state.last {
        rows.push(("last checkpoint", format!("checkpoints/{named}")));
    }
    if let Some(named) = &state.best {
        rows.push(("best checkpoint", format!("checkpoints/{named} ({})", criterion(evaluations))));
    }
    let table = rows
        .into_iter()
        .fold(Table::new(["figure", "value"]), |table, (what, value)| table.row([what.to_owned(), value]));
    page.section("Figures").table(&table);
}

fn loss_charts(page: &mut Page, metrics: &Metrics) {
    if metrics.steps.is_empty() {
        return;
    }
    let smoothing = format!("Smoothed curves are moving averages in which a new step weighs {} %.", 100.0 * SMOOTHING);
    let total = LineChart::new("Total loss").x_label("step").y_label("loss");
    let total = total.with(Series::new("each step", metrics.points("loss")).faint());
    let total = total.series("smoothed", metrics.smoothed("loss"));
    let section = page.section("Losses");
    section.paragraph(smoothing).chart(&total);
    let terms: Vec<&str> = metrics.names.iter().map(String::as_str).filter(|name| name.starts_with("loss_")).collect();
    if !terms.is_empty() {
        let chart =
            LineChart::new("Weighted terms of the loss, smoothed").x_label("step").y_label("loss (log)").log_y();
        let chart = terms.iter().fold(chart, |chart, name| {
            chart.series(name.trim_start_matches("loss_").replace('_', " "), metrics.smoothed(name))
        });
        section.chart(&chart);
    }
    let rate = LineChart::new("Learning rate").x_label("step").reach_y(0.0);
    section.chart(&rate.series("learning rate", metrics.points("learning_rate")));
}

fn evaluation_charts(page: &mut Page, evaluations: &[Evaluation]) {
    if evaluations.is_empty() {
        return;
    }
    let section = page.section("Evaluation");
    let percent = |value: f64| 100.0 * value;
    let points = |of: fn(&Evaluation) -> f64| {
        evaluations.iter().map(move |evaluation| [evaluation.step as f64, percent(of(evaluation))])
    };
    let chart = LineChart::new("Classes by retrieval").x_label("step").y_label("%").reach_y(0.0);
    let chart = chart.series("mIoU", points(|e| e.miou)).series("accuracy", points(|e| e.accuracy));
    if !chart.is_empty() {
        section.chart(&chart);
    }
    let mut levels: Vec<u64> = evaluations.iter().flat_map(|e| e.levels.keys().copied()).collect();
    levels.sort_unstable();
    levels.dedup();
    for (title, index) in [("Covering of the levels", 0), ("NF covering of the levels", 1)] {
        let chart = LineChart::new(title).x_label("step").y_label("%").reach_y(0.0);
        let chart = levels.iter().fold(chart, |chart, level| {
            let points = evaluations.iter().map(|evaluation| {
                let value = evaluation.levels.get(level).map_or(f64::NAN, |values| values[index]);
                [evaluation.step as f64, percent(value)]
            });
            chart.series(format!("level {level}"), points)
        });
        if !chart.is_empty() {
            section.chart(&chart);
        }
    }
    if let Some(last) = evaluations.last() {
        let text = |value: f64| if value.is_finite() { format!("{:.1} %", percent(value)) } else { "–".to_owned() };
        let table = Table::new(["measure", "value"]).caption(format!("Latest evaluation, at step {}", last.step));
        let table = table.row(["mIoU", &text(last.miou)]).row(["accuracy", &text(last.accuracy)]);
        let table = last.levels.iter().fold(table, |table, (level, [covering, nf_covering])| {
            table
                .row([format!("level {level}: covering"), text(*covering)])
                .row([format!("level {level}: NF covering"), text(*nf_covering)])
        });
        section.table(&table);
    }
}

/// What `sample{I}_{what}.png` shows, in the order of the report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    View(usize),
    Edges,
    Embedding,
    Other(String),
    Level(usize),
}

impl Shown {
    fn parse(what: &str) -> Self {
        let number = |prefix: &str| what.strip_prefix(prefix).and_then(|digits| digits.parse().ok());
        match what {
            "edges" => Self::Edges,
            "embedding" => Self::Embedding,
            _ => number("view")
                .map(Self::View)
                .or_else(|| number("level").map(Self::Level))
                .unwrap_or_else(|| Self::Other(what.to_owned())),
        }
    }

    fn caption(&self) -> String {
        match self {
            Self::View(index) => format!("view {index}"),
            Self::Edges => "edge segments".to_owned(),
            Self::Embedding => "embedding".to_owned(),
            Self::Other(what) => what.clone(),
            Self::Level(level) => format!("groups of level {level}"),
        }
    }
}

/// The pictures of a folder by sample, in the report's order.
fn list_pictures(folder: &Path) -> models::Result<BTreeMap<usize, BTreeMap<Shown, PathBuf>>> {
    let mut samples: BTreeMap<usize, BTreeMap<Shown, PathBuf>> = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(samples),
        Err(error) => return Err(file_error("read", folder, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| file_error("read", folder, error))?.path();
        let parsed = path.file_name().and_then(|name| name.to_str()).and_then(|name| {
            let (sample, what) = name.strip_prefix("sample")?.strip_suffix(".png")?.split_once('_')?;
            Some((sample.parse().ok()?, Shown::parse(what)))
        });
        if let Some((sample, shown)) = parsed {
            samples.entry(sample).or_default().insert(shown, path);
        }
    }
    Ok(samples)
}

fn sample_pictures(page: &mut Page, folder: &Path) -> models::Result<()> {
    let samples = list_pictures(folder)?;
    if samples.is_empty() {
        return Ok(());
    }
    let section = page.section("Samples");
    if samples.len() > MOST_SAMPLES {
        section.paragraph(format!("The first {MOST_SAMPLES} of {} samples.", samples.len()));
    }
    for (sample, pictures) in samples.iter().take(MOST_SAMPLES) {
        let (mut side_by_side, mut levels, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for (shown, path) in pictures {
            let caption = shown.caption();
            let alt = format!("Sample {sample}: {caption}");
            match Picture::new(read_file(path)?, alt) {
                // Only photographs may be smoothed when they are enlarged.
                Ok(picture) if matches!(shown, Shown::View(_)) => side_by_side.push(picture.caption(caption)),
                Ok(picture) if matches!(shown, Shown::Level(_)) => levels.push(picture.caption(caption).sharp()),
                Ok(picture) => side_by_side.push(picture.caption(caption).sharp()),
                // A picture that is no picture is worth a line, not the report.
                Err(error) => unreadable.push(error.to_string()),
            }
        }
        section.paragraph(format!("Sample {sample}"));
        section.pictures(&side_by_side);
        section.slider(format!("Level of sample {sample}, from fine to coarse"), &levels);
        for line in unreadable {
            section.paragraph(line);
        }
    }
    Ok(())
}

fn next_steps(page: &mut Page, run: &Path, state: &State, step: u64, steps: Option<u64>) {
    let run = shell_word(&run.display().to_string());
    let mut text = String::new();
    if steps.is_some_and(|steps| step < steps) {
        text += &format!("# go on with training\nhsg-train train --out {run} --resume\n\n");
    }
    let best = if state.best.is_some() && state.best != state.last {
        "   # --best: the best checkpoint instead of the last"
    } else {
        ""
    };
    text += &format!("# measure the last checkpoint\nhsg-train evaluate {run}\n\n");
    text += &format!("# make a model folder of it\nhsg-train export {run} --out MODEL{best}\n\n");
    text += "# give it names: prototypes of labelled images\n";
    text += "hsg bank build --dataset NAME --root DIR --split SPLIT --model MODEL\n\n";
    text += "# segment\nhsg run SOURCE --model MODEL\n";
    let section = page.section("How to go on");
    section.preformatted(text);
    if !state.commands.is_empty() {
        section.paragraph("The run so far was started with:").preformatted(state.commands.join("\n"));
    }
}

/// Columns of `metrics.jsonl`, one value a step.
#[derive(Debug, Default)]
struct Metrics {
    steps: Vec<u64>,
    /// In the order in which they first appear.
    names: Vec<String>,
    columns: Vec<Vec<f64>>,
}

impl Metrics {
    fn read(path: &Path) -> models::Result<Self> {
        let mut metrics = Self::default();
        for_each_line(path, |line| metrics.push(line))?;
        Ok(metrics)
    }

    fn push(&mut self, line: &serde_json::Map<String, Value>) {
        let Some(step) = line.get("step").and_then(Value::as_u64) else { return };
        // A run that was resumed by hand may do steps again; the later ones count.
        let kept = self.steps.partition_point(|&earlier| earlier < step);
        self.steps.truncate(kept);
        self.columns.iter_mut().for_each(|column| column.truncate(kept));
        self.steps.push(step);
        for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
            let index = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
                self.names.push(name.clone());
                self.columns.push(vec![f64::NAN; kept]);
                self.names.len() - 1
            });
            // What is not finite is null in JSON.
            self.columns[index].push(value.as_f64().unwrap_or(f64::NAN));
        }
        self.columns.iter_mut().for_each(|column| column.resize(kept + 1, f64::NAN));
    }

    fn last_step(&self) -> Option<u64> {
        self.steps.last().copied()
    }

    fn column(&self, name: &str) -> Option<&[f64]> {
        let index = self.names.iter().position(|known| known == name)?;
        Some(&self.columns[index])
    }

    fn points(&self, name: &str) -> Vec<[f64; 2]> {
        let values = self.column(name).unwrap_or_default();
        self.steps.iter().zip(values).map(|(&step, &value)| [step as f64, value]).collect()
    }

    /// The moving average after each step that has a value.
    fn smoothed(&self, name: &str) -> Vec<[f64; 2]> {
        let mut average: Option<f64> = None;
        let points = self.points(name).into_iter().filter(|[_, value]| value.is_finite());
        points
            .map(|[step, value]| {
                let new = average.map_or(value, |old| old + SMOOTHING * (value - old));
                average = Some(new);
                [step, new]
            })
            .collect()
    }

    fn median(&self, name: &str) -> Option<f64> {
        let mut values: Vec<f64> = self.column(name)?.iter().copied().filter(|value| value.is_finite()).collect();
        let middle = values.len() / 2;
        (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
    }

    /// Seconds in all steps of `images` images each.
    fn seconds(&self, images: f64) -> Option<f64> {
        let rates = self.column("images_per_second")?;
        Some(rates.iter().filter(|&&rate| rate > 0.0).map(|rate| images / rate).sum())
    }
}

/// A line of `evaluation.jsonl`; NaN where a measure is missing.
#[derive(Debug)]
struct Evaluation {
    step: u64,
    miou: f64,
    accuracy: f64,
    /// Level → covering, NF covering.
    levels: BTreeMap<u64, [f64; 2]>,
}

fn read_evaluations(path: &Path) -> models::Result<Vec<Evaluation>> {
    let mut evaluations: BTreeMap<u64, Evaluation> = BTreeMap::new();
    for_each_line(path, |line| {
        let Some(step) = line.get("step").and_then(Value::as_u64) else { return };
        let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or(f64::NAN);
        let levels = line.get("levels").and_then(Value::as_array).into_iter().flatten();
        let levels = levels.filter_map(|level| {
            let values = [number(level.get("covering")), number(level.get("nf_covering"))];
            Some((level.get("level")?.as_u64()?, values))
        });
        let (miou, accuracy) = (number(line.get("miou")), number(line.get("accuracy")));
        // Measured again after a resume: the later line counts, and so do no steps beyond it that were undone.
        evaluations.split_off(&step);
        evaluations.insert(step, Evaluation { step, miou, accuracy, levels: levels.collect() });
    })?;
    Ok(evaluations.into_values().collect())
}

/// What the best checkpoint is the best by.
fn criterion(evaluations: &[Evaluation]) -> &'static str {
    if evaluations.is_empty() { "lowest smoothed loss" } else { "highest mIoU" }
}

fn best_miou(evaluations: &[Evaluation]) -> Option<&Evaluation> {
    let measured = evaluations.iter().filter(|evaluation| evaluation.miou.is_finite());
    // Of equals the first.
    measured.reduce(|best, next| if next.miou > best.miou { next } else { best })
}

/// What the checkpoints say.
#[derive(Debug, Default)]
struct State {
    last: Option<String>,
    best: Option<String>,
    step: Option<u64>,
    seconds: Option<f64>,
    images: Option<u64>,
    commands: Vec<String>,
}

impl State {
    fn read(run: &Path) -> models::Result<Self> {
        let named = |which: &str| -> models::Result<Option<String>> {
            let text = read_text(&run.join(which))?;
            // The name becomes part of a path.
            let name = text.map(|text| text.trim().to_owned());
            Ok(name.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())))
        };
        let mut state = Self { last: named("last")?, best: named("best")?, ..Self::default() };
        let Some(last) = &state.last else { return Ok(state) };
        state.step = last.parse().ok();
        let text = read_text(&run.join("checkpoints").join(last).join("state.json"))?;
        let json: Value = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        state.seconds = json["seconds"].as_f64();
        state.images = json["images"].as_u64().filter(|&images| images > 0);
        let commands = json["commands"].as_array().into_iter().flatten();
        state.commands = commands.filter_map(|command| command.as_str().map(str::to_owned)).collect();
        Ok(state)
    }
}

fn setting<'a>(settings: &'a toml::Table, section: &str, key: &str) -> Option<&'a toml::Value> {
    settings.get(section)?.get(key)
}

/// The text of a file; `None` where there is none.
fn read_text(path: &Path) -> models::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error("read", path, error)),
    }
}

/// Calls `take` with every whole JSON object of a file, one a line; a line that is none, as the half-written last one
/// of a run that is going on, is passed over. Does nothing without the file.
fn for_each_line(path: &Path, mut take: impl FnMut(&serde_json::Map<String, Value>)) -> models::Result<()> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file_error("read", path, error)),
    };
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| file_error("read", path, error))?;
        if let Ok(Value::Object(object)) = serde_json::from_slice(&line) {
            take(&object);
        }
    }
    Ok(())
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round().max(0.0) as u64;
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

/// `text` as one word of a shell's command line.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn write(run: &Path, name: &str, content: impl AsRef<[u8]>) {
        let path = run.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn line(step: u64, loss: f64) -> String {
        format!(
            "{{\"step\":{step},\"loss\":{loss},\"loss_edge\":{},\"loss_feature_1\":0.5,\"loss_grouping_1\":null,\
             \"learning_rate\":0.1,\"images_per_second\":8.0,\"wait_share\":0.02,\"segments\":790}}\n",
            loss - 0.5
        )
    }

    fn filled() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let lines: String = (1..=20).map(|step| line(step, 5.0 - step as f64 / 10.0)).collect();
        write(run, "metrics.jsonl", lines + "{\"step\":21,\"lo");
        write(run, "settings.toml", "[run]\nsteps = 40\n[batch]\nimages = 4\n# <b>\n");
        let evaluation = "{\"step\":10,\"miou\":0.25,\"accuracy\":0.6,\"levels\":[{\"level\":0,\"covering\":0.5,\
                          \"nf_covering\":0.4}]}\n{\"step\":20,\"miou\":0.2,\"accuracy\":null,\"levels\":[{\"level\":0}]}\n{\"st";
        write(run, "evaluation.jsonl", evaluation);
        write(run, "last", "0000020\n");
        write(run, "best", "0000010\n");
        let state = "{\"seconds\":9.0,\"images\":231,\"commands\":[\"hsg-train train --preset camvid-cpu\"]}";
        write(run, "checkpoints/0000020/state.json", state);
        for what in ["view0", "view1", "edges", "level1", "level2", "level10", "embedding", "odd<thing"] {
            write(run, &format!("pictures/sample0_{what}.png"), PNG);
        }
        write(run, "pictures/sample1_view0.png", "no picture");
        write(run, "pictures/notes.txt", "not one of ours");
        folder
    }

    #[test]
    fn a_run_folder_becomes_a_report() {
        let folder = filled();
        write_training_report(folder.path()).unwrap();
        let html = fs::read_to_string(folder.path().join(REPORT_FILE)).unwrap();
        for text in [
            "Step 20 of 40",
            ">3.0000</td>",
            "25.0 % at step 10",
            ">8.0</td>",
            ">2.0 %</td>",
            // 20 steps of 4 images, 8 a second.
            ">10 s</td>",
            ">231</td>",
            "checkpoints/0000020",
            "checkpoints/0000010",
            "<title>feature 1</title>",
            "<title>mIoU</title>",
            "level 0: covering",
            "# &lt;b&gt;",
            "--resume",
            "--best",
            "hsg-train train --preset camvid-cpu",
            "odd&lt;thing",
            "the picture `Sample 1: view 0`",
        ] {
            assert!(html.contains(text), "{text}");
        }
        assert!(!html.contains("NaN") && !html.contains("nan"));
        assert_eq!(html, training_report(folder.path()).unwrap());
    }

    #[test]
    fn pictures_come_in_order_and_levels_behind_a_slider() {
        let folder = filled();
        let html = training_report(folder.path()).unwrap();
        let order = ["view 0", "view 1", "edge segments", "embedding", "odd&lt;thing", "type=\"range\""];
        let levels = ["groups of level 1", "groups of level 2", "groups of level 10"];
        let mut at = 0;
        for caption in order.iter().chain(&levels) {
            at += html[at..].find(caption).unwrap_or_else(|| panic!("{caption} is not in its place"));
        }
        assert_eq!(html.matches("type=\"range\"").count(), 1);
    }

    #[test]
    fn an_empty_folder_has_a_report_too() {
        let folder = tempfile::tempdir().unwrap();
        let html = training_report(folder.path()).unwrap();
        assert!(html.contains("Step 0") && html.contains("How to go on"));
        assert!(!html.contains("Losses") && !html.contains("Samples") && !html.contains("Settings"));
    }

    #[test]
    fn a_complete_run_is_not_to_be_resumed() {
        let folder = filled();
        write(folder.path(), "settings.toml", "[run]\nsteps = 20\n");
        let html = training_report(folder.path()).unwrap();
        assert!(html.contains("Complete: 20 steps") && !html.contains("--resume"));
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("settings.toml")).unwrap();
        let error = training_report(folder.path()).unwrap_err().to_string();
        assert!(error.contains("settings.toml"), "{error}");
    }

    #[test]
    fn steps_that_come_again_replace_the_older_ones() {
        let mut metrics = Metrics::default();
        for (step, loss) in [(1, 5.0), (2, 4.0), (3, 3.0), (2, 9.0)] {
            let line: Value = serde_json::from_str(line(step, loss).trim()).unwrap();
            metrics.push(line.as_object().unwrap());
        }
        assert_eq!(metrics.points("loss"), [[1.0, 5.0], [2.0, 9.0]]);
        assert!(metrics.columns.iter().all(|column| column.len() == 2));
        assert_eq!(metrics.points("no such"), [[0.0; 2]; 0]);
    }

    #[test]
    fn columns_may_come_and_go() {
        let mut metrics = Metrics::default();
        for text in ["{\"step\":1,\"a\":1}", "{\"step\":2,\"b\":2}", "{\"step\":3,\"a\":3,\"b\":4}"] {
            metrics.push(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap());
        }
        assert_eq!(metrics.smoothed("a").len(), 2);
        assert_eq!(metrics.points("b")[1..], [[2.0, 2.0], [3.0, 4.0]]);
        assert_eq!(metrics.median("b"), Some(4.0));
    }

    #[test]
    fn times_and_words_are_readable() {
        assert_eq!([0.4, 61.0, 7322.0].map(duration), ["0 s", "1 min 1 s", "2 h 2 min"]);
        assert_eq!(shell_word("runs/a-1"), "runs/a-1");
        assert_eq!(shell_word("my run's"), "'my run'\\''s'");
    }
}
