//! \[T9\] `hsg-calibrate quantize`: the int8 and fp16 networks of a model, as a whole new model folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use calibration::CalibrationError;
use calibration::frames::FrameSource;
use calibration::judge::Judge;
use calibration::quantizer::Quantizer;
use calibration::search::{Quantization, Step, search};
use calibration::table::Table;
use models::files::read_file;
use models::manifest::{CALIBRATION, ModelFolder, Precision, QUANTIZATION, RECEIPT, embedding_file, grouping_file};
use models::onnx::{self, Storage};
use models::passes::{fold_batch_norm, to_fp16};
use runtime::backend::onnxruntime::{AsWritten, NAME};
use runtime::backend::{self, EngineOptions};
use runtime::pipeline::Deployment;
use runtime::program::{Outcome, Printer, Signals, table as text_table};
use segcore::image::Frame;
use segcore::preprocess::Preprocessor;
use serde::Serialize;

use super::{deploy, outcome, read_table};
use crate::settings::QuantizeSettings;

/// What `hsg-calibrate quantize` prints with `--json`.
#[derive(Serialize)]
struct QuantizeReport<'a> {
    path: String,
    model: String,
    bytes_fp32: usize,
    bytes_int8: usize,
    skipped: u64,
    #[serde(flatten)]
    quantization: &'a Quantization,
}

pub fn run(settings: &QuantizeSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    outcome(quantize(settings, printer, &signals), &signals)
}

fn quantize(settings: &QuantizeSettings, printer: Printer, signals: &Signals) -> anyhow::Result<Outcome> {
    let deployment = deploy(&settings.model, printer)?;
    let folder = deployment.folder();
    if let Some(out) = &settings.out {
        check_out(out, folder.path(), settings.force)?;
    }
    let table = find_table(settings, folder)?;
    let path = folder.embedding_path(Precision::Fp32).context("the model has no fp32 embedding network")?;
    let scratch = tempfile::tempdir().context("cannot make a temporary folder; is TMPDIR full or not writable?")?;
    let names = &deployment.manifest().tensors;
    let mut judge = Judge::new(
        executed_as_written(&deployment)?,
        settings.model.threads,
        scratch.path(),
        (&names.image, &names.embedding),
    );
    let skipped = add_frames(settings, &deployment, &path, &mut judge, signals)?;
    let shape = judge.largest_shape().context("no frame could be read; check the sources")?;
    let quantizer = Quantizer::load(&path, (&names.image, &shape))?;
    let mut last = "";
    let (recipe, quantization) = search(&quantizer, &table, &judge, settings.budget, &mut |step: Step| {
        if step.what != last {
            last = step.what;
            printer.status(format!("trying {}: {} trials", step.what, step.of));
        }
        log::info!("{}: {} of {}", step.what, step.done, step.of);
        signals.received().is_none()
    })?;
    let (graph, weights) = quantizer.build(&recipe)?;
    let int8 = onnx::write(&graph, &weights, Storage::Full)?;
    let mut description = serde_json::to_vec_pretty(&quantization).context("cannot make JSON")?;
    description.push(b'\n');
    let mut changes = vec![
        (embedding_file(Precision::Int8), int8),
        (CALIBRATION.to_owned(), table.to_json()?.into_bytes()),
        (QUANTIZATION.to_owned(), description),
    ];
    if settings.fp16 {
        changes.extend(fp16_files(folder)?);
    }
    let bytes_int8 = changes.first().map_or(0, |(_, bytes)| bytes.len());
    let changes: Vec<(&str, &[u8])> = changes.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    // A receipt of the network that was there says nothing about this one; fp16 files that are not wanted go.
    let (embedding, grouping) = (embedding_file(Precision::Fp16), grouping_file(Precision::Fp16));
    let written = folder.without(&[RECEIPT, &embedding, &grouping]).rewrite(settings.out.as_deref(), &changes)?;
    let report = QuantizeReport {
        path: written.path().display().to_string(),
        model: written.manifest().name.clone(),
        bytes_fp32: read_file(&path)?.len(),
        bytes_int8,
        skipped,
        quantization: &quantization,
    };
    printer.document(&report)?;
    printer.text(report.text())?;
    printer.status(format!("now measure it: hsg-calibrate report --model {} …", written.path().display()));
    Ok(if skipped > 0 { Outcome::Incomplete } else { Outcome::Done })
}

/// Refuses, before any work, an `out` that would cost the user something.
fn check_out(out: &Path, model: &Path, force: bool) -> anyhow::Result<()> {
    let is_model = || matches!((out.canonicalize(), model.canonicalize()), (Ok(out), Ok(model)) if out == model);
    if !out.exists() || is_model() {
        return Ok(());
    }
    ensure!(out.is_dir(), "--out {}: expected a folder, got a file; name another folder", out.display());
    let mut entries = out.read_dir().with_context(|| format!("--out {}: cannot be read", out.display()))?;
    ensure!(
        force || entries.next().is_none(),
        "--out {}: expected a new or an empty folder, got one that holds files; add --force to replace a model folder, or \
         name another one",
        out.display()
    );
    Ok(())
}

/// The table that was named, the one in the current folder, or that of the model.
fn find_table(settings: &QuantizeSettings, folder: &ModelFolder) -> anyhow::Result<Table> {
    let places: Vec<PathBuf> = match &settings.table {
        Some(path) => vec![path.clone()],
        None => vec![CALIBRATION.into(), folder.path().join(CALIBRATION)],
    };
    let named = settings.table.is_some();
    let path = places.iter().find(|path| named || path.is_file()).with_context(|| {
        format!(
            "no table: {CALIBRATION} is neither here nor in {}; make one with `hsg-calibrate collect`, or name it with --table",
            folder.path().display()
        )
    })?;
    read_table(path, folder.model_hash())
}

/// The backend of a deployment, executing int8 as written.
fn executed_as_written(deployment: &Deployment) -> anyhow::Result<Box<dyn backend::Backend>> {
    Ok(if deployment.backend().name == NAME {
        Box::new(AsWritten)
    } else {
        backend::select(deployment.spec().backend)?.backend
    })
}

/// Gives the judge frames, evenly from all sources; returns how many inputs could not be read.
fn add_frames(
    settings: &QuantizeSettings,
    deployment: &Deployment,
    path: &Path,
    judge: &mut Judge<'_>,
    signals: &Signals,
) -> anyhow::Result<u64> {
    let manifest = deployment.manifest();
    let options = EngineOptions { num_threads: settings.model.threads };
    let mut reference = backend::select(deployment.spec().backend)?.backend.load(path, options)?.session()?;
    let mut skipped = 0;
    let of_each = settings.frames.div_ceil(settings.sources.len() as u64);
    for text in &settings.sources {
        let source = FrameSource::open(text, of_each, manifest.preprocessing.input)?;
        let read = source.read(of_each, &|| signals.received().is_none(), |frame: &Frame| {
            let damaged = |error: segcore::preprocess::PreprocessError| CalibrationError::Frame {
                index: frame.index,
                source_name: source.name.clone(),
                reason: error.to_string(),
            };
            let mut preprocessor = Preprocessor::new(&manifest.preprocessing, frame.size).map_err(damaged)?;
            let padded = preprocessor.plan().padded;
            let mut input = vec![0.0; 3 * padded.num_pixels()];
            preprocessor.run(&frame.view(), &mut input).map_err(damaged)?;
            judge.add(&mut *reference, [1, 3, padded.height, padded.width], &input)?;
            Ok(true)
        })?;
        skipped += read.skipped;
    }
    ensure!(
        judge.num_frames() >= 2,
        "expected at least 2 frames, one that decides and one that checks, got {}; give more sources",
        judge.num_frames()
    );
    Ok(skipped)
}

/// The fp16 networks of a model.
pub(super) fn fp16_files(folder: &ModelFolder) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for (name, path) in [
        (embedding_file(Precision::Fp16), folder.embedding_path(Precision::Fp32)),
        (grouping_file(Precision::Fp16), folder.grouping_path(Precision::Fp32)),
    ] {
        let path = path.with_context(|| format!("{}: a network is missing in fp32", folder.path().display()))?;
        let (mut graph, mut weights) = onnx::read(&read_file(&path)?, &path)?;
        fold_batch_norm(&mut graph, &mut weights)?;
        to_fp16(&mut graph, &mut weights)?;
        files.push((name, onnx::write(&graph, &weights, Storage::Full)?));
    }
    Ok(files)
}

impl QuantizeReport<'_> {
    fn text(&self) -> String {
        let made = self.quantization;
        let mut rows = vec![
            ["layer", "share of multiplications", "cost if kept alone", "error without it", ""]
                .map(str::to_owned)
                .to_vec(),
        ];
        for layer in &made.layers {
            rows.push(vec![
                layer.layer.clone(),
                format!("{:.1} %", 100.0 * layer.share),
                format!("{:.1} %", 100.0 * layer.cost),
                format!("{:.2e}", layer.error_without),
                if layer.kept { "stays fp32".to_owned() } else { String::new() },
            ]);
        }
        let mut text = text_table(&rows);
        text += &format!("errors (mean 1 − cosine to fp32) on the {} frames that decided:\n", made.search_frames);
        for (method, error) in &made.error_by_method {
            text += &format!("  {:<44} {error:.2e}\n", format!("{method:?} for all tensors"));
        }
        let steps = [
            ("best by histogram", made.error_histogram),
            ("methods tried tensor by tensor", made.error_methods),
            ("sensitive layers kept", made.error_kept),
            ("biases corrected", made.error_biases),
        ];
        for (step, error) in steps {
            text += &format!("  {step:<44} {error:.2e}\n");
        }
        text + &format!(
            "on the {} frames that only checked: min-max alone {:.2e}, the result {:.2e} (in TensorRT's \
             forms {:.2e} for 8.6, {:.2e} for 10)\nfloats for accuracy's \
             sake cost {:.1} % of the multiplications (budget {:.1} %); {} biases corrected\nembedding network {:.2} MB, fp32 {:.2} MB, in {}",
            made.check_frames,
            made.check_min_max,
            made.check_final,
            made.check_tensorrt8,
            made.check_tensorrt10,
            100.0 * made.kept_share,
            100.0 * made.budget,
            made.biases_corrected.len(),
            self.bytes_int8 as f64 / 1e6,
            self.bytes_fp32 as f64 / 1e6,
            self.path,
        )
    }
}
