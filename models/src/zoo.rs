//! Models that are made, not learned: the tiny seeded model of the tests.

use std::path::Path;

use segcore::image::ImageSize;
use segcore::preprocess::PreprocessSpec;
use segcore::spherical_kmeans::KmeansSpec;

use crate::Result;
use crate::arch::{Backbone, NetworkSpec};
use crate::export::{ExportSpec, write_model_folder};
use crate::manifest::ModelFolder;
use crate::onnx::Storage;
use crate::params::initial_weights;

/// Means of RGB / 255 that all published models use (ImageNet's).
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviations that belong to [`MEAN`].
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What the tiny model is: input 96×64, 1/16 of ResNet-18's channels, 16 embedding channels, a 4×6 grid, levels of
/// 24 base segments, 5 and 3 groups.
pub fn tiny_spec() -> ExportSpec {
    ExportSpec {
        name: "tiny-model".into(),
        network: NetworkSpec {
            backbone: Backbone::ResNet18,
            width_factor: 1.0 / 16.0,
            embedding_dim: 16,
            groups: vec![5, 3],
        },
        position_extent: 8,
        preprocessing: PreprocessSpec { input: ImageSize { width: 96, height: 64 }, mean: MEAN, std: STD, multiple: 8 },
        kmeans: KmeansSpec { grid_rows: 4, grid_columns: 6, rounds: 10 },
        label_space: "camvid_11".into(),
        license: "MIT OR Apache-2.0 (no frames were used: the weights are random)".into(),
        training: toml::Table::new(),
        card:
            "# tiny-model\n\nSeeded random weights, never trained: for tests of the program, not for use on a road.\n\
               Written by `cargo xtask tiny-model`.\n"
                .into(),
        training_log: None,
        storage: Storage::Half,
    }
}

/// Writes the tiny model folder; the same bytes every time.
///
/// # Errors
/// As [`write_model_folder`].
pub fn write_tiny_model(out: &Path) -> Result<ModelFolder> {
    let spec = tiny_spec();
    let weights = initial_weights(&spec.network.params()?, 1);
    write_model_folder(&spec, &weights, out)
}
