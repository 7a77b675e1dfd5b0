//! ONNX files, safetensors and model folders: round trips, and what is refused.

use std::collections::BTreeMap;
use std::path::Path;

use models::ModelError;
use models::export::deployed_graphs;
use models::manifest::{BANK, MANIFEST, ModelFolder, Precision};
use models::onnx::{Storage, read, write};
use models::params::initial_weights;
use models::weights::{Tensor, check_weights, read_safetensors, write_safetensors};
use models::zoo::{tiny_spec, write_tiny_model};
use proptest::prelude::*;

#[test]
fn onnx_files_read_back_to_the_same_bytes() {
    let spec = tiny_spec();
    let weights = initial_weights(&spec.network.params().unwrap(), 3);
    for (graph, weights) in deployed_graphs(&spec, &weights).unwrap() {
        for storage in [Storage::Full, Storage::Half] {
            let bytes = write(&graph, &weights, storage).unwrap();
            let (graph, weights) = read(&bytes, Path::new("x.onnx")).unwrap();
            assert!(write(&graph, &weights, storage).unwrap() == bytes, "{storage:?}");
        }
    }
}

#[test]
fn half_storage_rounds_weights_to_fp16_and_no_further() {
    let spec = tiny_spec();
    let weights = initial_weights(&spec.network.params().unwrap(), 3);
    let [(graph, weights), _] = deployed_graphs(&spec, &weights).unwrap();
    let (_, rounded) = read(&write(&graph, &weights, Storage::Half).unwrap(), Path::new("x.onnx")).unwrap();
    for (name, tensor) in &rounded {
        // Constants come back as parameters too.
        let Some(original) = weights.get(name) else { continue };
        for (a, b) in tensor.values.iter().zip(&original.values) {
            assert!((a - b).abs() <= b.abs() * 2f32.powi(-11) + 2f32.powi(-25), "{name}: {a} {b}");
        }
    }
}

#[test]
fn nan_weights_are_refused_by_name() {
    let spec = tiny_spec();
    let params = spec.network.params().unwrap();
    let mut weights = initial_weights(&params, 3);
    weights.get_mut("conv_out.3.bias").unwrap().values[2] = f32::NAN;
    let error = deployed_graphs(&spec, &weights).unwrap_err().to_string();
    assert!(error.contains("conv_out.3.bias") && error.contains("NaN"), "{error}");
}

#[test]
fn weights_of_another_architecture_are_refused_by_name() {
    let mut other = tiny_spec();
    other.network.width_factor = 0.125;
    let weights = initial_weights(&other.network.params().unwrap(), 3);
    let error = deployed_graphs(&tiny_spec(), &weights).unwrap_err().to_string();
    assert!(error.contains("resnet_backbone.conv1.conv1.weight") && error.contains("[8, 3, 7, 7]"), "{error}");
}

#[test]
fn safetensors_round_trip_and_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let weights = BTreeMap::from([
        ("b".to_owned(), Tensor { shape: vec![2, 3], values: vec![1.0, -2.0, 3.5, 0.0, 1e-30, 7.0] }),
        ("a".to_owned(), Tensor { shape: vec![], values: vec![4.0] }),
    ]);
    write_safetensors(&path, &weights).unwrap();
    assert_eq!(read_safetensors(&path).unwrap(), weights);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let error = read_safetensors(&path).unwrap_err().to_string();
    assert!(error.contains("weights.safetensors") && error.contains("whole"), "{error}");
    assert!(check_weights(&tiny_spec().network.params().unwrap(), &weights, "x").is_err());
}

#[test]
fn a_model_folder_opens_and_every_changed_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny");
    let written = write_tiny_model(&path).unwrap();
    let opened = ModelFolder::open(&path).unwrap();
    assert_eq!(opened.model_hash(), written.model_hash());
    assert_eq!(opened.bank_path(), None);
    assert_eq!(opened.embedding_path(Precision::Fp16), None);
    for file in opened.manifest().files.keys() {
        let file = path.join(file);
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        match ModelFolder::open(&path) {
            Err(ModelError::Hash { path, .. }) => assert_eq!(path, file),
            other => panic!("{}: {other:?}", file.display()),
        }
        std::fs::remove_file(&file).unwrap();
        let error = ModelFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
        std::fs::write(&file, &good).unwrap();
    }
    ModelFolder::open(&path).unwrap();
}

#[test]
fn a_manifest_with_unknown_keys_or_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny");
    write_tiny_model(&path).unwrap();
    let manifest = path.join(MANIFEST);
    let good = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, good.replace("stride = 8", "stride = 8\nstrides = 8")).unwrap();
    assert!(ModelFolder::open(&path).unwrap_err().to_string().contains("strides"));
    std::fs::write(&manifest, good.replace("format_version = 1", "format_version = 2")).unwrap();
    assert!(ModelFolder::open(&path).unwrap_err().to_string().contains("format_version"));
    std::fs::write(&manifest, good.replace("grid_rows = 4", "grid_rows = 0")).unwrap();
    assert!(ModelFolder::open(&path).unwrap_err().to_string().contains("kmeans"));
}

#[test]
fn values_that_later_stages_rely_on_are_checked_with_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny");
    write_tiny_model(&path).unwrap();
    let manifest = path.join(MANIFEST);
    let good = std::fs::read_to_string(&manifest).unwrap();
    for (old, new, key, got) in [
        ("width = 96", "width = 0", "preprocessing.input", "0×64"),
        ("height = 64", "height = 65537", "preprocessing.input", "96×65537"),
        ("0.485", "nan", "preprocessing.mean", "NaN"),
        ("0.229", "0.0", "preprocessing.std", "[0.0, 0.224, 0.225]"),
        ("0.224", "inf", "preprocessing.std", "inf"),
        ("multiple = 8", "multiple = 0", "preprocessing.multiple", "0"),
        ("multiple = 8", "multiple = 12", "preprocessing.multiple", "12"),
        ("stride = 8", "stride = 4", "stride", "4"),
        ("position_extent = 8", "position_extent = 51", "position_extent", "51"),
        ("width_factor = 0.0625", "width_factor = 0.0", "network.width_factor", "0"),
        ("embedding_dim = 16", "embedding_dim = 18", "network.embedding_dim", "18"),
        ("grid_rows = 4", "grid_rows = 9000", "kmeans.grid_rows", "9000 × 6"),
        ("grid_columns = 6", "grid_columns = 1", "kmeans.grid_columns", "4 × 1"),
        ("rounds = 10", "rounds = 0", "kmeans.rounds", "0"),
        ("rounds = 10", "rounds = 1000000000", "kmeans.rounds", "1000000000"),
        ("\"camvid_11\"", "\"moon_3\"", "label_space", "moon_3"),
        ("features = \"features\"", "features = \"valid\"", "tensors.valid", "`valid`"),
        ("image = \"image\"", "image = \"\"", "tensors.image", "``"),
        ("valid = [1, 24]", "valid = [1, 25]", "tensors.shapes.valid", "[1, 25], expected [1, 24]"),
        ("transition_2 = [1, 5, 3]\n", "", "tensors.shapes.transition_2", "none, expected [1, 5, 3]"),
    ] {
        let bad = good.replacen(old, new, 1);
        assert_ne!(bad, good, "{old}");
        std::fs::write(&manifest, bad).unwrap();
        let error = ModelFolder::open(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", manifest.display())), "{error}");
        for part in [key, got, "expected", "export the model again"] {
            assert!(error.contains(part), "`{part}` in: {error}");
        }
    }
}

#[test]
fn networks_of_another_shape_are_refused_and_shapes_may_be_absent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny");
    let tiny = write_tiny_model(&path).unwrap();
    let grouping = tiny.grouping_path(Precision::Fp32).unwrap();
    let embedding = std::fs::read(tiny.embedding_path(Precision::Fp32).unwrap()).unwrap();
    let text = std::fs::read_to_string(path.join(MANIFEST)).unwrap();
    assert!(text.contains("image = [\"batch\", 3, \"height\", \"width\"]"), "{text}");

    // A folder of an older program has no shapes; rewriting it adds them.
    let shapes = text.find("[tensors.shapes]").unwrap()..text.find("[files]").unwrap();
    let old = [&text[..shapes.start], &text[shapes.end..]].concat();
    std::fs::write(path.join(MANIFEST), old).unwrap();
    let opened = ModelFolder::open(&path).unwrap();
    assert!(opened.manifest().tensors.shapes.is_empty());
    assert_eq!(opened.model_hash(), tiny.model_hash());
    assert_eq!(opened.rewrite(None, &[]).unwrap().manifest(), tiny.manifest());

    // The hashes are right, the network is not.
    let name = grouping.file_name().unwrap().to_str().unwrap();
    let error = tiny.rewrite(None, &[(name, &embedding)]).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("`features`") && error.contains("missing"), "{error}");
    assert_eq!(ModelFolder::open(&path).unwrap().manifest(), tiny.manifest());
    let mut spec = tiny_spec();
    spec.position_extent = 9;
    let weights = initial_weights(&spec.network.params().unwrap(), 1);
    let [_, (graph, weights)] = deployed_graphs(&spec, &weights).unwrap();
    let other = write(&graph, &weights, Storage::Half).unwrap();
    let error = tiny.rewrite(Some(&folder.path().join("other")), &[(name, &other)]).unwrap_err().to_string();
    assert!(error.contains("is [1, 18, 24], expected [1, 16, 24]"), "{error}");
}

/// The fixture that all suites use holds what the code writes.
#[test]
fn the_committed_tiny_model_is_what_the_code_writes() {
    let folder = tempfile::tempdir().unwrap();
    let fresh = folder.path().join("tiny-model");
    write_tiny_model(&fresh).unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-model");
    let files = |folder: &Path| -> BTreeMap<String, Vec<u8>> {
        let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
    };
    let (expected, got) = (files(&fresh), files(&committed));
    let mut names: Vec<&String> = expected.keys().chain(got.keys()).collect();
    names.sort();
    names.dedup();
    names.retain(|&name| expected.get(name) != got.get(name));
    assert!(
        names.is_empty(),
        "{names:?} of tests/fixtures/tiny-model differ from what the code writes: run `cargo xtask tiny-model`"
    );
}

#[test]
fn the_model_hash_covers_networks_and_settings_but_not_the_bank() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny");
    let plain = write_tiny_model(&path).unwrap();
    let with_bank = plain.rewrite(None, &[(BANK, b"a bank".as_slice())]).unwrap();
    assert_eq!(with_bank.model_hash(), plain.model_hash());
    assert_eq!(std::fs::read(with_bank.bank_path().unwrap()).unwrap(), b"a bank");
    let mut manifest = plain.manifest().clone();
    manifest.kmeans.rounds += 1;
    assert_ne!(manifest.model_hash().unwrap(), plain.model_hash());
    // Nothing is left beside the folder.
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_folder_with_other_things_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("holiday.jpg"), b"x").unwrap();
    assert!(write_tiny_model(folder.path()).unwrap_err().to_string().contains("other things"));
    assert!(folder.path().join("holiday.jpg").exists());
}

#[test]
fn a_name_that_is_nowhere_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let error = ModelFolder::find("nobody", &[folder.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("nobody") && error.contains(&folder.path().display().to_string()), "{error}");
}

proptest! {
    /// Foreign bytes give an error, never a panic.
    #[test]
    fn reading_foreign_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes, Path::new("x.onnx"));
    }

    /// Nor do damaged files.
    #[test]
    fn reading_damaged_models_never_panics(position in 0.0f64..1.0, value in any::<u8>(), cut in 0.0f64..1.0) {
        let spec = tiny_spec();
        let weights = initial_weights(&spec.network.params().unwrap(), 3);
        let [(graph, weights), _] = deployed_graphs(&spec, &weights).unwrap();
        let mut bytes = write(&graph, &weights, Storage::Half).unwrap();
        let at = (position * bytes.len() as f64) as usize;
        bytes[at] = value;
        let _ = read(&bytes, Path::new("x.onnx"));
        bytes.truncate((cut * bytes.len() as f64) as usize);
        let _ = read(&bytes, Path::new("x.onnx"));
    }
}
