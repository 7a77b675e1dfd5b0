//! `hsg inspect`: what is in a model folder, a network file, an engine, a bank, a stream of frames or a recording.

mod frames;
mod recording;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use models::graph::{Dim, Graph};
use models::manifest::{ModelFolder, Precision};
use models::weights::Weights;
use retrieval::{Bank, MAX_USER_BYTES, UserBank, same_name};
use runtime::backend::tensorrt::{self, engine_file};
use serde::Serialize;
use serde_json::json;

use crate::cli::InspectArgs;
use runtime::program::Outcome;
use runtime::program::printer::{Printer, table};
use runtime::program::shipped;

/// What a network file holds.
#[derive(Serialize)]
struct NetworkReport {
    file: String,
    bytes: u64,
    inputs: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
    operators: BTreeMap<&'static str, usize>,
    parameters: usize,
    tensors: usize,
}

/// What a bank holds.
#[derive(Serialize)]
struct BankReport {
    file: String,
    bytes: u64,
    prototypes: usize,
    dimension: usize,
    storage: String,
    label_space: String,
    images: u32,
    labels_from: String,
    model_hash: String,
    /// Lists of the index for approximate searches; 0 without one.
    lists: usize,
}

pub fn run(args: &InspectArgs, printer: Printer) -> anyhow::Result<Outcome> {
    let path = Path::new(&args.what);
    if path.is_file() {
        if path.extension().is_some_and(|extension| extension == "onnx") {
            let report = network(path)?;
            printer.document(&report)?;
            printer.text(network_text(&report))?;
        } else if starts_with(path, &engine_file::MAGIC)? {
            engine(path, printer)?;
        } else if starts_with(path, &retrieval::MAGIC)? {
            let report = bank(path)?;
            printer.document(&report)?;
            printer.text(bank_text(&report))?;
        } else if starts_with(path, &retrieval::USER_MAGIC)? {
            user_bank(path, printer)?;
        } else if starts_with(path, &wire::MAGIC)? {
            return frames::run(path, printer);
        } else if starts_with(path, &::recording::MAGIC)? {
            return recording::run(path, printer);
        } else {
            bail!(
                "{}: expected a model folder, an .onnx file, an engine (magic HSGE), a prototype bank (magic HSGB), \
                 names given by hand (magic HSGU), a stream of frames (magic HSGF) or an MCAP recording, got another file; \
                 for a model name its folder, not its model.toml",
                path.display()
            );
        }
        return Ok(Outcome::Done);
    }
    model(&shipped::open_model(&args.what)?, printer)?;
    Ok(Outcome::Done)
}

fn model(folder: &ModelFolder, printer: Printer) -> anyhow::Result<()> {
    let manifest = folder.manifest();
    let mut networks = Vec::new();
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
        for path in [folder.embedding_path(precision), folder.grouping_path(precision)].into_iter().flatten() {
            networks.push(network(&path)?);
        }
    }
    let bank = folder.bank_path().map(|path| bank(&path)).transpose()?;
    let int8 = folder.embedding_path(Precision::Int8).map(|_| match runtime::receipt::check(folder) {
        Ok(looser) if looser.is_empty() => "its receipt says that all limits are met".to_owned(),
        Ok(looser) => {
            format!(
                "its receipt says that all limits are met, with looser ones than the defaults: {}",
                looser.join("; ")
            )
        }
        Err(error) => error.to_string(),
    });
    // The folder was opened, so every hash has been compared.
    printer.document(&json!({
        "path": folder.path().display().to_string(),
        "model_hash": folder.model_hash(),
        "hashes_match": true,
        "manifest": manifest,
        "classes": folder.label_space().classes,
        "networks": networks,
        "bank": bank,
        "int8": int8,
    }))?;
    let groups: Vec<String> = manifest.groups().iter().map(ToString::to_string).collect();
    let preprocessing = &manifest.preprocessing;
    let rows = [
        ("model", manifest.name.clone()),
        ("folder", folder.path().display().to_string()),
        ("model hash", folder.model_hash().to_owned()),
        ("files", format!("{}, all hashes match", manifest.files.len())),
        ("licence", manifest.license.clone()),
        (
            "network",
            format!(
                "{:?}, width × {}, {} channels at stride {}",
                manifest.network.backbone,
                manifest.network.width_factor,
                manifest.network.embedding_dim,
                manifest.stride
            ),
        ),
        ("input", format!("at most {} pixels, in multiples of {}", preprocessing.input, preprocessing.multiple)),
        (
            "base segments",
            format!(
                "{}×{} grid, {} rounds",
                manifest.kmeans.grid_rows, manifest.kmeans.grid_columns, manifest.kmeans.rounds
            ),
        ),
        ("groups", groups.join(", ")),
        ("label space", {
            let names: Vec<&str> = folder.label_space().classes.iter().map(|class| class.name.as_str()).collect();
            format!("{}: {}", manifest.label_space, names.join(", "))
        }),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    let width = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
    let mut text: String = rows.iter().map(|row| format!("{:<width$}  {}\n", row[0], row[1])).collect();
    if !manifest.training.is_empty() {
        let training = toml::to_string(&manifest.training).context("cannot print the training receipt")?;
        text.push_str("\ntraining\n");
        text.extend(training.lines().map(|line| format!("  {line}\n")));
    }
    for report in &networks {
        text.push('\n');
        text.push_str(&network_text(report));
    }
    if let Some(int8) = &int8 {
        text.push_str(&format!("\nint8: {int8}\n"));
    }
    text.push('\n');
    match &bank {
        Some(report) => text.push_str(&bank_text(report)),
        None => text.push_str("no prototype bank: segments get no classes; make one with `hsg bank build`\n"),
    }
    printer.text(text)
}

fn network(path: &Path) -> anyhow::Result<NetworkReport> {
    let bytes = models::files::read_file(path)?;
    let (graph, weights): (Graph, Weights) = models::onnx::read(&bytes, path)?;
    let mut operators: BTreeMap<&'static str, usize> = BTreeMap::new();
    for node in &graph.nodes {
        *operators.entry(node.op.onnx_name()).or_default() += 1;
    }
    let shapes = |values: &[models::graph::ValueInfo]| {
        values.iter().map(|value| (value.name.clone(), shape_text(&value.dims))).collect()
    };
    Ok(NetworkReport {
        file: path.display().to_string(),
        bytes: bytes.len() as u64,
        inputs: shapes(&graph.inputs),
        outputs: shapes(&graph.outputs),
        operators,
        parameters: weights.values().map(|tensor| tensor.values.len()).sum(),
        tensors: weights.len(),
    })
}

fn shape_text(dims: &[Dim]) -> String {
    let axes: Vec<String> = dims
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(length) => length.to_string(),
            Dim::Named(name) => name.clone(),
        })
        .collect();
    format!("[{}]", axes.join(", "))
}

fn network_text(report: &NetworkReport) -> String {
    let mut text = format!(
        "{}: {:.2} MB, {} parameters in {} tensors\n",
        report.file,
        report.bytes as f64 / 1e6,
        report.parameters,
        report.tensors
    );
    for (kind, values) in [("input", &report.inputs), ("output", &report.outputs)] {
        for (name, shape) in values {
            text.push_str(&format!("  {kind} {name} {shape}\n"));
        }
    }
    let rows: Vec<Vec<String>> =
        report.operators.iter().map(|(name, count)| vec![format!("  {name}"), count.to_string()]).collect();
    text.push_str(&table(&rows));
    text
}

fn bank(path: &Path) -> anyhow::Result<BankReport> {
    let bytes = std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0);
    let bank = Bank::open(path)?;
    Ok(BankReport {
        file: path.display().to_string(),
        bytes,
        prototypes: bank.len(),
        dimension: bank.dim(),
        storage: format!("{:?}", bank.storage()).to_lowercase(),
        label_space: bank.label_space().to_owned(),
        images: bank.num_images(),
        labels_from: bank.labels_from().to_owned(),
        model_hash: bank.model_hash().to_owned(),
        lists: bank.num_lists(),
    })
}

fn bank_text(report: &BankReport) -> String {
    format!(
        "{}: {:.2} MB, {} prototypes of {} values in {}, label space {}{}\n  from {} images, {}\n  for the model {}\n",
        report.file,
        report.bytes as f64 / 1e6,
        report.prototypes,
        report.dimension,
        report.storage,
        report.label_space,
        if report.lists > 0 { format!(", index of {} lists", report.lists) } else { String::new() },
        report.images,
        report.labels_from,
        report.model_hash
    )
}

/// Names that a person gave; which model they are for, the hash says.
fn user_bank(path: &Path, printer: Printer) -> anyhow::Result<()> {
    let cannot = || format!("{}: cannot be read; check its permissions", path.display());
    let length = std::fs::metadata(path).with_context(cannot)?.len();
    ensure!(
        length <= MAX_USER_BYTES,
        "{}: names given by hand: expected at most {MAX_USER_BYTES} bytes, got {length}: hsg wrote no such file; name another one",
        path.display()
    );
    let bytes = std::fs::read(path).with_context(cannot)?;
    let user = UserBank::from_bytes(&bytes, path)?;
    let count = |name: &str| user.entries().iter().filter(|entry| same_name(&entry.name, name)).count();
    let names: BTreeMap<&str, usize> = user.names().into_iter().map(|name| (name, count(name))).collect();
    printer.document(&json!({
        "file": path.display().to_string(),
        "bytes": bytes.len(),
        "entries": user.entries().len(),
        "dimension": user.dim(),
        "names": names,
        "model_hash": user.model_hash(),
    }))?;
    let rows: Vec<Vec<String>> =
        names.iter().map(|(name, count)| vec![format!("  {name}"), count.to_string()]).collect();
    printer.text(format!(
        "{}: {} names given by hand, {} values each\n{}  for the model {}",
        path.display(),
        user.entries().len(),
        user.dim(),
        table(&rows),
        user.model_hash()
    ))
}

/// An engine: its manifest, its layers as they were when it was built, and whether TensorRT takes it here.
fn engine(path: &Path, printer: Printer) -> anyhow::Result<()> {
    let (manifest, _) = engine_file::read(path)?;
    // Where TensorRT works, what it says now is worth more than what it said then.
    let (layers, loads) = match tensorrt::layers(path) {
        Ok(text) => (engine_file::layers_of(&text), None),
        Err(error) => (manifest.build.layers.clone(), Some(error.to_string())),
    };
    printer.document(&json!({
        "file": path.display().to_string(),
        "manifest": manifest,
        "layers": layers,
        "loads_here": loads.is_none(),
        "reason": loads,
    }))?;
    let (identity, build) = (&manifest.identity, &manifest.build);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let shapes = identity
        .shapes
        .iter()
        .map(|(name, range)| format!("`{name}` {:?} to {:?}, tuned for {:?}", range.least, range.most, range.best));
    let shapes: Vec<String> = shapes.collect();
    let rows = [
        ("engine", path.display().to_string()),
        ("model", format!("{}, hash {}", identity.model, identity.model_hash)),
        ("network", format!("{} in {}, SHA-256 {}", identity.network, identity.precision, identity.network_sha256)),
        ("shapes", if shapes.is_empty() { "fixed".to_owned() } else { shapes.join(", ") }),
        ("TensorRT", identity.tensorrt.clone()),
        (
            "GPU",
            format!(
                "{}, compute capability {}.{}{}",
                identity.gpu.name,
                identity.gpu.capability.0,
                identity.gpu.capability.1,
                if identity.hardware_compatible { "; runs on every one from Ampere on" } else { "" }
            ),
        ),
        (
            "memory",
            format!(
                "{} on disk, {} for activations of every session",
                megabytes(manifest.engine_bytes),
                megabytes(build.activation_bytes)
            ),
        ),
        ("built", format!("in {:.0} s by hsg {} with a driver of CUDA {}", build.seconds, build.hsg, build.driver)),
        ("build log", format!("{} lines (--json has them)", build.log.len())),
        ("loads here", loads.map_or("yes".to_owned(), |why| format!("no: {why}"))),
    ];
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut text: String = rows.iter().map(|(key, value)| format!("{key:<width$}  {value}\n")).collect();
    text.push_str(&format!("\n{} layers\n", layers.len()));
    let row = |layer: &engine_file::Layer| vec![layer.kind.clone(), layer.outputs.join(", "), layer.name.clone()];
    text.push_str(&table(&layers.iter().map(row).collect::<Vec<_>>()));
    printer.text(text)
}

fn starts_with(path: &Path, magic: &[u8]) -> anyhow::Result<bool> {
    use std::io::Read as _;
    let mut start = vec![0; magic.len()];
    let mut file = std::fs::File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
    Ok(file.read_exact(&mut start).is_ok() && start == magic)
}
