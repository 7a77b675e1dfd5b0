//! A model folder like another one, with seeded initial weights in place of learned ones: what the network's shape alone is
//! worth. `cargo run --release -p models --example untrained -- models/zoo/camvid-r18 OUT [SEED [WIDTH_FACTOR]]`; it has no
//! bank yet (`hsg bank build --model OUT …`). A width factor of 1 is the backbone as published.

use std::error::Error;
use std::path::Path;

use models::export::{ExportSpec, write_model_folder};
use models::manifest::ModelFolder;
use models::onnx::Storage;
use models::params::initial_weights;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (like, out, options) = match &arguments[..] {
        [like, out, options @ ..] if options.len() <= 2 => (like, out, options),
        _ => return Err("expected MODEL OUT [SEED [WIDTH_FACTOR]]: a model folder to be like, and one to write".into()),
    };
    let seed: u64 = match options.first() {
        None => 1,
        Some(seed) => seed.parse().map_err(|_| format!("SEED: expected a number, got {seed}"))?,
    };
    let folder = ModelFolder::open(Path::new(like))?;
    let manifest = folder.manifest();
    let mut network = manifest.network.clone();
    if let Some(width) = options.get(1) {
        network.width_factor = width.parse().map_err(|_| format!("WIDTH_FACTOR: expected a number, got {width}"))?;
    }
    let spec = ExportSpec {
        name: format!("{}-untrained", manifest.name),
        network,
        position_extent: manifest.position_extent,
        preprocessing: manifest.preprocessing.clone(),
        kmeans: manifest.kmeans,
        label_space: "camvid_11".to_owned(),
        license: "MIT OR Apache-2.0 (no frames were used: the weights are random)".to_owned(),
        training: toml::Table::new(),
        card: format!("# Untrained\n\nThe network of {} with seeded random weights (seed {seed}).\n", manifest.name),
        training_log: None,
        storage: Storage::Full,
    };
    let weights = initial_weights(&spec.network.params()?, seed);
    let written = write_model_folder(&spec, &weights, Path::new(out))?;
    println!("{}", written.path().display());
    Ok(())
}
