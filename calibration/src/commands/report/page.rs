//! The receipt as a page.

use report::{Page, Picture, Table};

use super::pictures::WorstFrame;
use super::receipt::{Receipt, percent};

/// The page.
///
/// # Errors
/// When a picture is none.
pub(super) fn page(receipt: &Receipt, worst: &[WorstFrame]) -> anyhow::Result<String> {
    let mut page = Page::new(format!("INT8 receipt of {}", receipt.model));
    let missed = receipt.limits.iter().filter(|limit| !limit.met).count();
    page.subtitle(if missed == 0 {
        "All limits are met.".to_owned()
    } else {
        format!("{missed} of {} limits are missed.", receipt.limits.len())
    });
    let mut limits = Table::new(["limit", "expected at", "value", "got", ""]);
    for limit in &receipt.limits {
        let got = limit.value.map_or("without end".to_owned(), |value| format!("{value:.3}"));
        let verdict = if limit.met { "met" } else { "MISSED" };
        limits =
            limits.row([limit.what.clone(), limit.at.to_owned(), limit.limit.to_string(), got, verdict.to_owned()]);
    }
    let dataset = receipt
        .dataset
        .as_ref()
        .map(|data| format!("{} {}, {} labelled frames", data.dataset, data.split, data.frames));
    let sources = receipt.sources.iter().map(|source| {
        format!("{}, {} frames{}", source.source, source.frames, if source.tracked { ", a video" } else { "" })
    });
    let frames: Vec<String> = dataset.into_iter().chain(sources).collect();
    page.section("Limits").table(&limits).key_values([
        ("model hash", receipt.header.model_hash.clone()),
        ("int8 network", format!("SHA-256 {}", receipt.header.embedding_int8_sha256)),
        ("frames", frames.join("; ")),
        (
            "accuracy measured on",
            format!("{} ({}), int8 as written, in floats", receipt.backend.name, receipt.backend.version),
        ),
        ("fp16", "on a CPU: rounded weights in fp32 arithmetic".to_owned()),
    ]);
    let heads = || [String::new()].into_iter().chain(receipt.forms.iter().map(|form| form.title.clone()));
    let mut figures = Table::new(heads());
    for row in receipt.figures() {
        figures = figures.row(row);
    }
    page.section("Side by side")
        .paragraph(
            "Each frame by itself, segments paired one to one with those of fp32; videos once more, tracked. What one grey \
             level of noise does to fp32 is there to judge by.",
        )
        .table(&figures);
    let names: Vec<String> = receipt
        .forms
        .first()
        .and_then(|form| form.labelled.as_ref())
        .map(|labelled| labelled.per_class.keys().cloned().collect())
        .unwrap_or_default();
    if !names.is_empty() {
        let mut classes = Table::new(heads()).caption("Intersection over union of each class, percent");
        for name in names {
            let of_form = receipt.forms.iter().map(|form| {
                percent(form.labelled.as_ref().and_then(|labelled| labelled.per_class.get(&name).copied().flatten()))
            });
            classes = classes.row([name.clone()].into_iter().chain(of_form));
        }
        page.section("Per class").table(&classes);
    }
    let mut speed = Table::new(["backend", "threads", "precision", "input", "min ms", "median ms", "times fp32"]);
    for row in &receipt.speed {
        speed = speed.row([
            format!("{} ({})", row.backend, row.version),
            row.threads.to_string(),
            row.precision.clone(),
            format!("{} × {}", row.input[0], row.input[1]),
            format!("{:.1}", row.millis_min),
            format!("{:.1}", row.millis_median),
            format!("{:.2}", row.times_fp32),
        ]);
    }
    let mut sizes = Table::new(["file", "MB"]);
    for size in &receipt.sizes {
        sizes = sizes.row([size.file.clone(), format!("{:.2}", size.bytes as f64 / 1e6)]);
    }
    let vnni = if receipt.vnni { "with VNNI" } else { "without VNNI: integer kernels may saturate" };
    page.section("Speed and size")
        .paragraph(format!("The embedding network alone, on {} ({vnni}); the forms take turns.", receipt.machine.cpu))
        .table(&speed)
        .table(&sizes);
    if let Some(made) = &receipt.quantization {
        let mut layers =
            Table::new(["layer", "share of multiplications %", "cost if kept alone %", "error without it", ""]);
        for layer in &made.layers {
            let kept = if layer.kept { "stays fp32" } else { "" };
            layers = layers.row([
                layer.layer.clone(),
                percent(Some(layer.share)),
                percent(Some(layer.cost)),
                format!("{:.2e}", layer.error_without),
                kept.to_owned(),
            ]);
        }
        let mut tensors = Table::new(["tensor", "method", "low", "high", "expected error"]);
        for (name, choice) in &made.tensors {
            tensors = tensors.row([
                name.clone(),
                format!("{:?}", choice.method),
                format!("{:.3}", choice.low),
                format!("{:.3}", choice.high),
                format!("{:.1e}", choice.expected_error),
            ]);
        }
        page.section("How it was made")
            .key_values([
                ("frames of the ranges", made.calibration_frames.to_string()),
                ("frames that decided, checked", format!("{}, {}", made.search_frames, made.check_frames)),
                (
                    "budget",
                    format!(
                        "{} % of the multiplications for floats, {} % used",
                        percent(Some(made.budget)),
                        percent(Some(made.kept_share))
                    ),
                ),
                ("error, min-max alone", format!("{:.2e}", made.check_min_max)),
                ("error, the result", format!("{:.2e}", made.check_final)),
                (
                    "error, in TensorRT's forms",
                    format!("{:.2e} for 8.6, {:.2e} for 10", made.check_tensorrt8, made.check_tensorrt10),
                ),
                ("biases corrected", made.biases_corrected.len().to_string()),
            ])
            .paragraph("Errors are means of 1 − cosine to the fp32 features, on frames that decided nothing.")
            .table(&layers)
            .table(&tensors);
    }
    let section = page.section("Where int8 differs most");
    for frame in worst {
        let caption = format!("{}: {} % of the pixels as in fp32", frame.name, percent(Some(frame.agreement)));
        let pictures = frame
            .pictures
            .iter()
            .map(|(what, jpeg)| {
                Picture::new(jpeg.clone(), format!("{what} of {}", frame.name)).map(|p| p.caption(what.clone()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        section.paragraph(caption).pictures(&pictures);
    }
    Ok(page.to_html())
}
