//! Files of PyTorch, written by real PyTorch (`tests/fixtures/torch_files/generate.py`).

use std::path::PathBuf;

use models::arch::{Backbone, NetworkSpec};
use models::params::initial_weights;
use models::weights::write_safetensors;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/torch_files").join(name)
}

/// Small enough for a file of some kilobytes.
fn tiny_network() -> NetworkSpec {
    NetworkSpec { backbone: Backbone::ResNet18, width_factor: 0.008, embedding_dim: 4, groups: vec![3, 2] }
}

#[test]
fn seed() {
    let weights = initial_weights(&tiny_network().params().unwrap(), 5);
    write_safetensors(&fixture("tiny_network.safetensors"), &weights).unwrap();
}
