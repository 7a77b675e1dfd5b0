//! `report.html`: the evaluation as one page that opens anywhere, with the frames to look at.

use report::{HeatMap, LineChart, Page, Picture, Table};

use super::class_figures::percent;
use super::evaluation::{Evaluation, Identity};
use super::sums::Sums;
use super::worst::{FrameFigures, NUM_WORST, STRETCH, WorstFrame};

/// The page.
///
/// # Errors
/// When a picture is none: `shard.json` was changed by hand.
pub(super) fn report(
    identity: &Identity,
    evaluation: &Evaluation,
    sums: &Sums,
    worst: &[WorstFrame],
) -> anyhow::Result<String> {
    let mut page = Page::new(format!("{} on {} {}", identity.model, identity.dataset, identity.split));
    page.subtitle(evaluation.subject());
    let section = page.section("Figures");
    let figures: Vec<(&str, String)> = evaluation
        .headline()
        .into_iter()
        .map(|(name, figure)| (name, format!("{} %", percent(Some(figure)))))
        .collect();
    if sums.confusion.is_none() {
        section.paragraph(
            "The model has no prototype bank, so its segments have no names and nothing of classes is here.",
        );
    }
    if sums.frames == 0 {
        section.paragraph("No frame was measured: this part of the evaluation is empty.");
    }
    if identity.missing_frames > 0 {
        section.paragraph(format!(
            "{} frames are missing in the numbering of the sequences; nothing over time is measured across these gaps.",
            identity.missing_frames
        ));
    }
    section.key_values(figures);
    if let Some(mapping) = &identity.label_mapping {
        section.preformatted(mapping.text());
    }
    if let Some(reference) = &evaluation.reference {
        section.preformatted(reference.text());
    }
    section.table(&as_table(evaluation.level_rows()).caption("Levels, 0 = finest"));
    section.paragraph(
        "Covering: how well the best segments overlap the annotated regions, weighted by area; NFCovering: the same of the \
         things in the foreground, none with more weight; region F: segments matched with regions. Of videos, flicker: \
         pixels whose annotation stays and whose segment changes; id stability: pixels of an object under the id that \
         it has most; \"at most\": what that could be with these segments. docs/benchmarks/accuracy.md and docs/evaluation.md have the definitions.",
    );
    if let Some(rows) = evaluation.sequence_table() {
        page.section("Sequences").table(&as_table(rows));
    }
    if let Some(confusion) = &evaluation.classes.confusion {
        let section = page.section("Classes");
        for rows in evaluation.classes.tables() {
            section.table(&as_table(rows));
        }
        section.heat_map(&confusion_map(identity, confusion));
    }
    if sums.per_frame.len() > 1 {
        let section = page.section("Frames");
        section.chart(&frame_chart(&sums.per_frame));
    }
    if !worst.is_empty() {
        let by = if sums.confusion.is_some() { "accuracy" } else { "covering of the groups" };
        page.section("Worst frames").paragraph(format!(
            "The {} frames with the lowest {by}, of videos at most one in {STRETCH} frames. The slider goes from the input \
             through truth and classes to the levels of the hierarchy, finest first.",
            worst.len().min(NUM_WORST)
        ));
        if sums.confusion.is_some() {
            let classes = &identity.label_space.classes;
            let colors = classes.iter().map(|class| (class.name.as_str(), class.color));
            page.section("Colours of the classes").legend(colors);
        }
        for frame in worst {
            let figures = sums.per_frame.iter().find(|figures| figures.index == frame.index);
            let name = figures.map_or_else(|| frame.index.to_string(), |figures| figures.name.clone());
            let section = page.section(&name);
            if let Some(figures) = figures {
                section.paragraph(frame_line(figures));
            }
            let mut pictures = Vec::with_capacity(frame.pictures.len());
            for picture in &frame.pictures {
                let alt = format!("{name}: {}", picture.caption);
                pictures.push(Picture::new(picture.jpeg.clone(), alt)?.caption(&picture.caption));
            }
            section.slider("Picture", &pictures);
        }
    }
    let settings = page.section("Settings");
    settings.key_values([
        ("program", format!("hsg {}", identity.program)),
        ("frames", format!("{} (SHA-256 of their names {})", identity.samples, identity.samples_sha256)),
        ("model hash", identity.model_hash.clone()),
        ("bank", identity.bank_sha256.clone().unwrap_or_else(|| "none".to_owned())),
        ("backend", format!("{} {}", identity.backend.name, identity.backend.version)),
        ("precision", identity.precision.clone()),
        ("labels to pixels", identity.resolution.clone()),
        ("names", identity.naming.clone()),
        ("rounds of clustering", identity.rounds.to_string()),
        ("tracking", if identity.track { "sequences of at least 5 Hz" } else { "off" }.to_owned()),
        ("classes", identity.label_space.name.clone()),
        ("processor", identity.machine.cpu.clone()),
        ("accelerator", identity.machine.gpu.clone().unwrap_or_else(|| "none".to_owned())),
    ]);
    Ok(page.to_html())
}

/// A table whose first row is its headings.
fn as_table(rows: Vec<Vec<String>>) -> Table {
    let mut rows = rows.into_iter();
    let table = Table::new(rows.next().unwrap_or_default());
    rows.fold(table, |table, row| table.row(row))
}

/// Shares of each true class's pixels by prediction.
fn confusion_map(identity: &Identity, confusion: &[Vec<u64>]) -> HeatMap {
    let names = || identity.label_space.classes.iter().map(|class| class.name.clone());
    let columns = names().chain(["no class".to_owned()]);
    let map = HeatMap::new("Confusion: percent of each class's pixels, by what they were taken for", names(), columns);
    confusion.iter().fold(map.axes("truth", "prediction"), |map, row| {
        let total: u64 = row.iter().sum();
        map.row(row.iter().map(|&count| (total > 0).then(|| count as f64 / total as f64)))
    })
}

/// Figures frame by frame.
fn frame_chart(frames: &[FrameFigures]) -> LineChart {
    let chart = LineChart::new("Frame by frame").x_label("frame").y_label("%");
    let curve = |figure: &dyn Fn(&FrameFigures) -> Option<f64>| -> Vec<[f64; 2]> {
        frames.iter().map(|frame| [frame.index as f64, figure(frame).map_or(f64::NAN, |share| 100.0 * share)]).collect()
    };
    let has_names = frames.iter().any(|frame| frame.accuracy.is_some());
    let chart = if has_names {
        chart.series("accuracy", curve(&|frame| frame.accuracy)).series("mIoU", curve(&|frame| frame.miou))
    } else {
        chart
    };
    let num_levels = frames.iter().map(|frame| frame.covering.len()).max().unwrap_or(0);
    (0..num_levels).fold(chart, |chart, level| {
        let points = curve(&|frame| frame.covering.get(level).copied().flatten());
        chart.series(format!("covering, level {level}"), points)
    })
}

fn frame_line(figures: &FrameFigures) -> String {
    let mut parts = vec![format!("sequence {}", figures.sequence)];
    for (name, figure) in [("accuracy", figures.accuracy), ("mIoU", figures.miou)] {
        if figure.is_some() {
            parts.push(format!("{name} {} %", percent(figure)));
        }
    }
    let coverings: Vec<String> = figures.covering.iter().map(|covering| percent(*covering)).collect();
    parts.push(format!("covering by level {} %", coverings.join(", ")));
    parts.join(" · ")
}
