//! What is in an MCAP recording.

use std::path::Path;

use recording::{Recording, Topic};
use runtime::program::Outcome;
use runtime::program::printer::{Printer, table};
use runtime::source::{RecordingFile, Source as _};
use serde::Serialize;

/// What the file holds.
#[derive(Serialize)]
struct Report {
    file: String,
    bytes: u64,
    /// Whether it has the summary that a recorder writes at its end.
    finished: bool,
    /// What is wrong with a file that has none.
    fault: Option<String>,
    topics: Vec<TopicReport>,
}

#[derive(Serialize)]
struct TopicReport {
    name: String,
    #[serde(rename = "type")]
    schema: String,
    encoding: String,
    messages: u64,
    /// From its first to its last message.
    seconds: f64,
    rate_hz: Option<f64>,
    /// WIDTHxHEIGHT of the first image, where it is one that can be read.
    image_size: Option<String>,
    /// Why `hsg run` does not read it, where it has images.
    refused: Option<String>,
}

/// Reads what the file says about itself and prints it.
pub fn run(path: &Path, printer: Printer) -> anyhow::Result<Outcome> {
    let recording = Recording::open(path)?;
    // Of a file without an index each look at a topic reads all of it.
    let looks = recording.is_finished();
    let topics = recording.topics().iter().map(|topic| about(path, topic, looks)).collect();
    let report = Report {
        file: path.display().to_string(),
        bytes: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
        finished: recording.is_finished(),
        fault: recording.fault().map(ToOwned::to_owned),
        topics,
    };
    printer.document(&report)?;
    printer.text(text(&report))?;
    Ok(if report.fault.is_none() { Outcome::Done } else { Outcome::Incomplete })
}

fn about(path: &Path, topic: &Topic, looks: bool) -> TopicReport {
    let images = topic.format().filter(|_| looks).map(|_| RecordingFile::open(path, Some(&topic.name), None));
    let (image_size, refused) = match images {
        Some(Ok(source)) => (source.info().size.map(|size| format!("{}x{}", size.width, size.height)), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    TopicReport {
        name: topic.name.clone(),
        schema: topic.schema.clone(),
        encoding: topic.encoding.clone(),
        messages: topic.messages,
        seconds: topic.times.map_or(0.0, |(first, last)| last.saturating_sub(first) as f64 / 1e9),
        rate_hz: topic.rate_hz(),
        image_size,
        refused,
    }
}

fn text(report: &Report) -> String {
    let mut text = format!("{}: {:.2} MB, {} topics\n", report.file, report.bytes as f64 / 1e6, report.topics.len());
    if let Some(fault) = &report.fault {
        text.push_str(&format!("not whole: {fault}\n"));
    }
    let row = |topic: &TopicReport| {
        vec![
            // Names came with the file: no control character reaches the terminal.
            format!("  {}", topic.name.escape_debug()),
            format!("{} in {}", topic.schema.escape_debug(), topic.encoding.escape_debug()),
            format!("{} messages", topic.messages),
            format!("{:.1} s", topic.seconds),
            topic.rate_hz.map(|rate| format!("{rate:.1} Hz")).unwrap_or_default(),
            topic.image_size.clone().unwrap_or_default(),
        ]
    };
    text.push_str(&table(&report.topics.iter().map(row).collect::<Vec<_>>()));
    for refused in report.topics.iter().filter_map(|topic| topic.refused.as_ref()) {
        text.push_str(&format!("not read: {refused}\n"));
    }
    text
}
