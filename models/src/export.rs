//! Weights and settings → model folder (T8 of a training image's journey).

use std::collections::BTreeMap;
use std::path::Path;

use segcore::preprocess::PreprocessSpec;
use segcore::spherical_kmeans::KmeansSpec;

use crate::Result;
use crate::arch::{NetworkSpec, OutputStride, embedding_net, grouping};
use crate::graph::Graph;
use crate::manifest::{
    CARD, FORMAT_VERSION, LevelSpec, Manifest, ModelFolder, Precision, TRAINING_LOG, TensorNames, embedding_file,
    grouping_file, write_folder,
};
use crate::onnx::{self, Storage};
use crate::passes::{fold_batch_norm, strip_training};
use crate::weights::{Weights, check_weights};

/// Everything about a model that its weights do not say.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// Name of the model.
    pub name: String,
    /// Shapes of the network.
    pub network: NetworkSpec,
    /// Rows of the position tables that training reached: crop / output stride.
    pub position_extent: usize,
    /// Largest network input, mean and standard deviation.
    pub preprocessing: PreprocessSpec,
    /// Base segments at inference.
    pub kmeans: KmeansSpec,
    /// Label space of the bank to come.
    pub label_space: String,
    /// Licence of the training frames, in words.
    pub license: String,
    /// The training receipt.
    pub training: toml::Table,
    /// Text of `CARD.md`.
    pub card: String,
    /// Content of `training.jsonl`; without one there is no such file.
    pub training_log: Option<String>,
    /// How large initialisers are stored.
    pub storage: Storage,
}

/// The two deployed graphs with their weights: dropout stripped, batch normalisation folded into convolutions.
///
/// # Errors
/// [`crate::ModelError::Weights`] when `weights` are not those of `network`; [`crate::ModelError::Invalid`] for
/// values out of range.
pub fn deployed_graphs(spec: &ExportSpec, weights: &Weights) -> Result<[(Graph, Weights); 2]> {
    check_weights(&spec.network.params()?, weights, &format!("the weights of `{}`", spec.name))?;
    let slots = spec.kmeans.grid_rows * spec.kmeans.grid_columns;
    let embedding = embedding_net::embedding_net(&spec.network, OutputStride::Test8)?;
    let grouping = grouping::grouping(&spec.network, slots, spec.position_extent)?;
    let deploy = |mut graph: Graph| -> Result<(Graph, Weights)> {
        let mut weights: Weights =
            graph.params.iter().filter_map(|p| Some((p.name.clone(), weights.get(&p.name)?.clone()))).collect();
        strip_training(&mut graph);
        fold_batch_norm(&mut graph, &mut weights)?;
        Ok((graph, weights))
    };
    Ok([deploy(embedding)?, deploy(grouping)?])
}

/// Writes the model folder, without a bank: `hsg bank build` adds it.
///
/// # Errors
/// As [`deployed_graphs`] and [`write_folder`].
pub fn write_model_folder(spec: &ExportSpec, weights: &Weights, out: &Path) -> Result<ModelFolder> {
    let [embedding, grouping] = deployed_graphs(spec, weights)?;
    let encode = |(graph, weights): &(Graph, Weights)| onnx::write(graph, weights, spec.storage);
    let mut files = BTreeMap::from([
        (embedding_file(Precision::Fp32), encode(&embedding)?),
        (grouping_file(Precision::Fp32), encode(&grouping)?),
        (CARD.to_owned(), spec.card.clone().into_bytes()),
    ]);
    if let Some(log) = &spec.training_log {
        files.insert(TRAINING_LOG.to_owned(), log.clone().into_bytes());
    }
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        name: spec.name.clone(),
        label_space: spec.label_space.clone(),
        license: spec.license.clone(),
        stride: OutputStride::Test8.pixels(),
        position_extent: spec.position_extent,
        network: spec.network.clone(),
        preprocessing: spec.preprocessing.clone(),
        kmeans: spec.kmeans,
        levels: spec.network.groups.iter().map(|&groups| LevelSpec { groups }).collect(),
        tensors: TensorNames::default(),
        training: spec.training.clone(),
        files: BTreeMap::new(),
    };
    write_folder(out, manifest, &files)
}
