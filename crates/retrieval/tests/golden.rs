//! Label retrieval against the numbers of the authors' implementation (`hsg/` in the golden folder).
//!
//! The folder is `HSG_GOLDEN` (relative to the workspace), by default `../shared/golden` beside it, else the copies in
//! `tests/fixtures/golden`. Every number comes from the files, so a folder made with other seeds works as well.

use std::io::Write;
use std::path::Path;

use retrieval::{BankBuilder, NUM_VOTES, Storage, majority_label};
use safetensors::{Dtype, SafeTensors};

/// The golden folder's file, or `None` with a printed line.
fn golden_file(name: &str) -> Option<Vec<u8>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = match std::env::var_os("HSG_GOLDEN") {
        Some(folder) => {
            let folder = workspace.join(folder);
            assert!(folder.is_dir(), "HSG_GOLDEN is {}, which is no folder", folder.display());
            folder
        }
        None => Some(workspace.join("../shared/golden"))
            .filter(|folder| folder.is_dir())
            .unwrap_or_else(|| workspace.join("tests/fixtures/golden")),
    };
    let file = folder.join("hsg").join(name);
    if !file.exists() {
        // Not `eprintln!`: the test harness keeps that of passing tests to itself.
        let _ = writeln!(std::io::stderr(), "skipped: {}: not there", file.display());
        return None;
    }
    Some(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

fn integers(tensors: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let view = tensors.tensor(name).expect(name);
    assert_eq!(view.dtype(), Dtype::I64, "{name}");
    view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes"))).collect()
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = tensors.tensor(name).expect(name);
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

fn labels(values: &[i64]) -> Vec<u8> {
    values.iter().map(|value| u8::try_from(*value).expect("a train id")).collect()
}

#[test]
fn golden_retrieval_top20() {
    let Some(bytes) = golden_file("retrieval_top20.safetensors") else { return };
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let dimension = tensors.tensor("bank").expect("bank").shape()[1];
    let bank_labels = labels(&integers(&tensors, "bank_labels"));
    let num_classes = usize::from(*bank_labels.iter().max().expect("prototypes")) + 1;
    let mut builder = BankBuilder::new(dimension, "golden", "golden");
    for (vector, &label) in floats(&tensors, "bank").chunks_exact(dimension).zip(&bank_labels) {
        builder.push(vector, label).expect("valid");
    }
    let bank = builder.finish(Storage::F32).expect("valid").to_bank().expect("valid");
    let queries = floats(&tensors, "queries");

    let k = tensors.tensor("topk_labels").expect("topk_labels").shape()[1];
    assert_eq!(k, NUM_VOTES);
    let mut nearest = Vec::new();
    bank.nearest(&queries, k, &mut nearest).expect("valid");
    let found: Vec<i64> = nearest
        .iter()
        .flat_map(|list| list.indices().iter().map(|index| i64::from(bank.labels()[*index as usize])))
        .collect();
    assert_eq!(found, integers(&tensors, "topk_labels"));

    let mut votes = Vec::new();
    bank.vote(&queries, k, num_classes, &mut votes).expect("valid");
    let found: Vec<i64> = votes.iter().map(|vote| i64::from(vote.train_id)).collect();
    assert_eq!(found, integers(&tensors, "majority_label"));
}

#[test]
fn golden_bank_majority_label() {
    let Some(bytes) = golden_file("bank_majority_label.safetensors") else { return };
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let pixel_labels = labels(&integers(&tensors, "labels"));
    let segments: Vec<u32> =
        integers(&tensors, "segments").iter().map(|id| u32::try_from(*id).expect("a segment id")).collect();
    let expected = integers(&tensors, "majority");
    let found = majority_label(&segments, &pixel_labels, expected.len(), 255);
    for (segment, (found, expected)) in found.iter().zip(&expected).enumerate() {
        // A file made with another seed may have a segment without pixels, which has no majority.
        if segments.contains(&(segment as u32)) {
            assert_eq!(found.map(i64::from), Some(*expected), "segment {segment}");
        }
    }
}
