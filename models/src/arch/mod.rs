//! Architectures: functions that return a [`Graph`](crate::graph::Graph).
//!
//! | file | what |
//! |---|---|
//! | [`resnet`] | ResNet-18 / 34 / 50 with the dilation rules of method.md §2 and a width factor |
//! | [`embedding_net`] | backbone + head → one embedding per pixel |
//! | [`clustering_transformer`] | one level of grouping (paper Fig. 4 and 13), training and deployed form |
//! | [`grouping`] | all levels in one deployed graph |

pub mod clustering_transformer;
pub mod embedding_net;
pub mod grouping;
mod layers;
pub mod resnet;

use serde::{Deserialize, Serialize};

use crate::params::{ParamInit, ParamSpec};
use crate::{ModelError, Result};

pub use resnet::{Backbone, OutputStride};

/// Rows of each learned position table (method.md §2).
pub const POSITION_TABLE_ROWS: usize = 50;

/// Everything that decides the shapes of a network's parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The convolutional part.
    pub backbone: Backbone,
    /// Factor on all channel counts of the backbone: 1 as published, 0.5 for small boards.
    pub width_factor: f64,
    /// Channels of the embedding, m; 128 in the paper. A multiple of the 4 attention heads, and even.
    pub embedding_dim: usize,
    /// Number of groups at levels 1, 2, … (level 0 is the base segments); 8 and 4 for street scenes.
    pub groups: Vec<usize>,
}

impl NetworkSpec {
    /// Checks the ranges that the architecture allows.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] naming the value.
    pub fn validate(&self) -> Result<()> {
        let invalid = |what: &str, expected: &str, got: String| {
            Err(ModelError::Invalid { what: what.to_owned(), expected: expected.to_owned(), got })
        };
        if !(self.width_factor > 0.0 && self.width_factor <= 4.0) {
            return invalid("width_factor", "above 0 and at most 4", self.width_factor.to_string());
        }
        if self.embedding_dim == 0 || !self.embedding_dim.is_multiple_of(clustering_transformer::NUM_HEADS) {
            return invalid("embedding_dim", "a positive multiple of 4", self.embedding_dim.to_string());
        }
        if self.groups.is_empty() {
            return invalid("groups", "at least one level", "none".to_owned());
        }
        // Below 2 the standard deviation over tokens (n − 1) of the next level does not exist.
        if self.groups.iter().any(|&g| g < 2) || self.groups.windows(2).any(|w| w[1] >= w[0]) {
            return invalid(
                "groups",
                "numbers of at least 2 that fall from level to level",
                format!("{:?}", self.groups),
            );
        }
        Ok(())
    }

    /// Prefix of the parameters of level `level` (0 = from base segments to the first groups): the authors' names
    /// `fine` and `coarse` for two levels, `level1`, `level2`, … otherwise.
    pub fn level_prefix(&self, level: usize) -> String {
        match (self.groups.len(), level) {
            (2, 0) => "fine".to_owned(),
            (2, 1) => "coarse".to_owned(),
            _ => format!("level{}", level + 1),
        }
    }

    /// Name of the transformer of this level: its parameters begin with this and a dot.
    pub fn transformer_prefix(&self, level: usize) -> String {
        format!("{}_hrchy_transformer", self.level_prefix(level))
    }

    /// The query embedding of this level, `[groups, m]`, drawn from N(0, 1).
    pub fn query_param(&self, level: usize) -> ParamSpec {
        ParamSpec {
            name: format!("{}_query_embed._query_embedding.weight", self.level_prefix(level)),
            shape: vec![self.groups[level], self.embedding_dim],
            init: ParamInit::Normal(1.0),
        }
    }

    /// The two position tables, `[50, m/2]` each, drawn from U(0, 1): column (x) table first, as it comes first in
    /// the concatenation.
    pub fn position_params(&self) -> [ParamSpec; 2] {
        ["pos_embed.col_embed.weight", "pos_embed.row_embed.weight"].map(|name| ParamSpec {
            name: name.to_owned(),
            shape: vec![POSITION_TABLE_ROWS, self.embedding_dim / 2],
            init: ParamInit::Uniform(0.0, 1.0),
        })
    }

    /// All parameters of the network: embedding network, transformers, queries, position tables.
    ///
    /// # Errors
    /// As [`NetworkSpec::validate`].
    pub fn params(&self) -> Result<Vec<ParamSpec>> {
        self.validate()?;
        let mut params = embedding_net::embedding_net(self, OutputStride::Test8)?.params;
        for level in 0..self.groups.len() {
            params.extend(clustering_transformer::training(self, level)?.params);
        }
        params.extend(self.position_params());
        Ok(params)
    }
}
