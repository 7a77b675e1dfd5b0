//! What a run tells about itself: `metrics.jsonl`, `evaluation.jsonl`, TensorBoard events, pictures, `report.html`. [T7]
//!
//! A full disk is no reason to lose hours: lines that cannot be written are kept and tried again with the next one, and
//! what is only there to be looked at (events, pictures, the report) is left out with one warning.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use models::files::write_atomically;
use serde_json::Value;

use crate::error::{Result, TrainError};
use crate::evaluate::Evaluation;
use crate::events::EventWriter;
use crate::pictures::Picture;
use crate::run_folder::{EVALUATION_FILE, METRICS_FILE, PICTURES_FOLDER};
use crate::trainer::StepReport;
use crate::training_report::write_training_report;

/// A file of JSON lines, one or more a step, that survives a full disk.
struct Lines {
    path: PathBuf,
    file: File,
    unwritten: Vec<u8>,
}

impl Lines {
    /// Opens a file for appending, cut back to the lines of steps up to `step`; a half-written line is dropped.
    fn open(path: PathBuf, step: usize) -> Result<Self> {
        if path.is_file() {
            let mut kept = Vec::new();
            let file = File::open(&path).map_err(|e| TrainError::file("read", &path, e))?;
            for line in BufReader::new(file).split(b'\n') {
                let line = line.map_err(|e| TrainError::file("read", &path, e))?;
                let value: Option<Value> = serde_json::from_slice(&line).ok();
                let line_step = value.as_ref().and_then(|v| v["step"].as_u64());
                if line_step.is_some_and(|s| s <= step as u64) {
                    kept.extend_from_slice(&line);
                    kept.push(b'\n');
                }
            }
            write_atomically(&path, &kept)?;
        }
        let file =
            File::options().create(true).append(true).open(&path).map_err(|e| TrainError::file("write", &path, e))?;
        Ok(Lines { path, file, unwritten: Vec::new() })
    }

    /// Appends a line, and those that could not be written before.
    fn push(&mut self, line: &Value) -> Result<()> {
        self.unwritten.extend_from_slice(line.to_string().as_bytes());
        self.unwritten.push(b'\n');
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        while !self.unwritten.is_empty() {
            match self.file.write(&self.unwritten) {
                Ok(0) => return Err(TrainError::file("write", &self.path, std::io::ErrorKind::WriteZero.into())),
                // What is written is not tried again, so that a line cut by a full disk goes on where it was cut.
                Ok(written) => drop(self.unwritten.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TrainError::file("write", &self.path, error)),
            }
        }
        Ok(())
    }
}

/// The log of a run.
pub struct RunLog {
    run: PathBuf,
    metrics: Lines,
    evaluations: Option<Lines>,
    events: Option<EventWriter>,
    warned: bool,
}

impl RunLog {
    /// Opens the files of `run`, cut back to `step`.
    ///
    /// # Errors
    /// When `metrics.jsonl` cannot be opened.
    pub fn open(run: &Path, step: usize) -> Result<Self> {
        let metrics = Lines::open(run.join(METRICS_FILE), step)?;
        let evaluations = run.join(EVALUATION_FILE);
        let evaluations = if evaluations.is_file() { Some(Lines::open(evaluations, step)?) } else { None };
        let mut log = RunLog { run: run.to_owned(), metrics, evaluations, events: None, warned: false };
        match EventWriter::create(run, step) {
            Ok(events) => log.events = Some(events),
            Err(error) => log.warn(&error.into()),
        }
        Ok(log)
    }

    /// Notes a step.
    ///
    /// # Errors
    /// When `metrics.jsonl` cannot be written for another reason than a full disk.
    pub fn step(&mut self, step: usize, report: &StepReport, images_per_second: f64, wait_share: f64) -> Result<()> {
        let mut line = serde_json::Map::new();
        line.insert("step".into(), step.into());
        let mut numbers = vec![("loss".to_owned(), report.loss), ("loss_edge".to_owned(), report.edge)];
        for (name, values) in [("loss_feature", &report.feature), ("loss_grouping", &report.grouping)] {
            numbers.extend(values.iter().enumerate().map(|(i, &value)| (format!("{name}_{}", i + 1), value)));
        }
        numbers.push(("learning_rate".into(), report.learning_rate));
        numbers.push(("images_per_second".into(), images_per_second));
        numbers.push(("wait_share".into(), wait_share));
        for (name, value) in &numbers {
            line.insert(name.clone(), (*value).into());
        }
        line.insert("segments".into(), report.num_segments.into());
        let written = self.metrics.push(&line.into());
        self.survive(written)?;
        self.scalars(step, &numbers.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>());
        Ok(())
    }

    /// Notes an evaluation.
    ///
    /// # Errors
    /// When `evaluation.jsonl` cannot be written for another reason than a full disk.
    pub fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        let line = serde_json::to_value(evaluation).unwrap_or_default();
        let lines = match &mut self.evaluations {
            Some(lines) => lines,
            empty => empty.insert(Lines::open(self.run.join(EVALUATION_FILE), evaluation.step)?),
        };
        let written = lines.push(&line);
        self.survive(written)?;
        self.scalars(evaluation.step, &[("miou", evaluation.miou), ("accuracy", evaluation.accuracy)]);
        Ok(())
    }

    /// Shows pictures: the newest as files, all in the events.
    pub fn pictures(&mut self, step: usize, pictures: &[Picture]) {
        let folder = self.run.join(PICTURES_FOLDER);
        let shown =
            std::fs::create_dir_all(&folder).map_err(|e| TrainError::file("create", &folder, e)).and_then(|()| {
                pictures.iter().try_for_each(|Picture { sample, what, png, .. }| {
                    Ok(write_atomically(&folder.join(format!("sample{sample}_{what}.png")), png)?)
                })
            });
        if let Err(error) = shown {
            self.warn(&error);
        }
        let Some(events) = &mut self.events else { return };
        for Picture { sample, what, size, png } in pictures {
            let tag = format!("sample{sample}/{what}");
            if let Err(error) = events.image(step, &tag, size.width as u32, size.height as u32, png) {
                return self.warn(&error.into());
            }
        }
    }

    /// Writes `report.html` and what is waiting.
    pub fn report(&mut self) {
        if let Some(Err(error)) = self.events.as_mut().map(EventWriter::flush) {
            self.warn(&error.into());
        }
        if let Err(error) = write_training_report(&self.run) {
            self.warn(&error.into());
        }
    }

    /// Ends the log.
    ///
    /// # Errors
    /// When lines could not be written until now.
    pub fn finish(mut self) -> Result<()> {
        self.report();
        self.metrics.flush()?;
        self.evaluations.as_mut().map_or(Ok(()), Lines::flush)
    }

    fn scalars(&mut self, step: usize, values: &[(&str, f64)]) {
        let Some(events) = &mut self.events else { return };
        let written = values.iter().try_for_each(|(name, value)| events.scalar(step, name, *value));
        if let Err(error) = written {
            self.warn(&error.into());
        }
    }

    /// Passes errors on, except that of a full disk, which is said once.
    fn survive(&mut self, written: Result<()>) -> Result<()> {
        match written {
            Err(error) if error.is_disk_full() => {
                self.warn(&error);
                Ok(())
            }
            other => other,
        }
    }

    fn warn(&mut self, error: &TrainError) {
        if !std::mem::replace(&mut self.warned, true) {
            crate::progress::say(&format!("warning: {error}; the run goes on"));
        }
    }
}
