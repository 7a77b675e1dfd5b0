//! All levels of grouping in one deployed graph: fixed segment slots and a mask in, transitions out.
//!
//! Positions enter as interpolation weights into the learned tables instead of embeddings, so that the tables stay
//! part of the network: a segment's positional feature is the mean of its cells' position embeddings, and the mean
//! of linear interpolations is the table times the mean of the interpolation weights.

use super::NetworkSpec;
use super::clustering_transformer::{self, Padding};
use crate::graph::{Graph, Op};
use crate::{ModelError, Result};

/// Names of the inputs and outputs of [`grouping`].
pub mod names {
    /// Unit mean feature of each slot, `[1, m, slots]`; 0 where the slot is empty.
    pub const FEATURES: &str = "features";
    /// Mean interpolation weights of each slot's cells into the position tables, `[1, 2·T, slots]`: T rows for the
    /// column (x) table, then T rows for the row (y) table.
    pub const POSITIONS: &str = "positions";
    /// 1 where the slot has cells, else 0, `[1, slots]`.
    pub const VALID: &str = "valid";

    /// Transition C from level − 1 to `level` (1, 2, …), `[1, n_{level−1}, n_level]`, rows sum to 1.
    pub fn transition(level: usize) -> String {
        format!("transition_{level}")
    }

    /// Centroid features X of `level` (1, 2, …), `[1, m, n_level]`.
    pub fn centroids(level: usize) -> String {
        format!("centroids_{level}")
    }
}

/// The grouping network for `slots` base segments and position tables trained on `position_extent` rows (T).
///
/// # Errors
/// [`ModelError::Invalid`] as [`NetworkSpec::validate`], or when T is not in 1..=50 or there are fewer slots than
/// groups at the first level.
pub fn grouping(spec: &NetworkSpec, slots: usize, position_extent: usize) -> Result<Graph> {
    spec.validate()?;
    if !(1..=super::POSITION_TABLE_ROWS).contains(&position_extent) {
        return Err(ModelError::Invalid {
            what: "position_extent".into(),
            expected: format!("1 to {}", super::POSITION_TABLE_ROWS),
            got: position_extent.to_string(),
        });
    }
    if slots < spec.groups[0] {
        return Err(ModelError::Invalid {
            what: "number of k-means clusters".into(),
            expected: format!("at least the {} groups of level 1", spec.groups[0]),
            got: slots.to_string(),
        });
    }
    let m = spec.embedding_dim;
    let mut graph = Graph::new("grouping");
    let features = graph.input(names::FEATURES, &[1.into(), m.into(), slots.into()]);
    let weights = graph.input(names::POSITIONS, &[1.into(), (2 * position_extent).into(), slots.into()]);
    let valid = graph.input(names::VALID, &[1.into(), slots.into()]);

    let mut halves = Vec::new();
    for (i, table) in spec.position_params().into_iter().enumerate() {
        let name = graph.param(table.name.clone(), &table.shape, table.init);
        let trained =
            graph.push(format!("{name}.trained"), Op::Slice { axis: 0, start: 0, end: position_extent }, &[&name]);
        let trained = graph.push(format!("{name}.trained_t"), Op::Transpose { perm: vec![1, 0] }, &[&trained]);
        let range = Op::Slice { axis: 1, start: i * position_extent, end: (i + 1) * position_extent };
        let part = graph.push(format!("{name}.weights"), range, &[&weights]);
        halves.push(graph.push(format!("{name}.mean"), Op::MatMul, &[&trained, &part]));
    }
    let base_positions = graph.push("base_positions", Op::Concat { axis: 1 }, &[&halves[0], &halves[1]]);

    let valid_column = graph.push("valid_column", Op::Unsqueeze { axis: 2 }, &[&valid]);
    let one = graph.constant("one", &[1], vec![1.0]);
    let mut level_features = features;
    let mut level_positions = base_positions.clone();
    let mut assignment: Option<String> = None;
    for (i, &groups) in spec.groups.iter().enumerate() {
        let level = i + 1;
        let (mask, padding) = if i == 0 { (Some(valid.as_str()), Padding::LeftOut) } else { (None, Padding::None) };
        let out = clustering_transformer::append(&mut graph, spec, i, &level_features, &level_positions, mask, padding);
        let shares = graph.push(format!("shares_{level}"), Op::Softmax { axis: 1 }, &[&out.logits]);
        let transition = format!("unnamed_transition_{level}");
        graph.push(&transition, Op::Transpose { perm: vec![0, 2, 1] }, &[&shares]);
        let below = if i == 0 { slots } else { spec.groups[i - 1] };
        graph.output(&names::transition(level), &transition, &[1.into(), below.into(), groups.into()]);
        graph.output(&names::centroids(level), &out.centroid_features, &[1.into(), m.into(), groups.into()]);
        level_features = names::centroids(level);

        if level < spec.groups.len() {
            // P_{l+1} = P_l · C (Eq. 7); its arg-max says whose positions are averaged for the next level.
            let soft = match &assignment {
                None => names::transition(level),
                Some(p) => graph.push(format!("assignment_{level}"), Op::MatMul, &[p, &names::transition(level)]),
            };
            let winner = graph.push(format!("winner_{level}"), Op::ArgMax { axis: 2 }, &[&soft]);
            let member = graph.push(format!("member_{level}"), Op::OneHot { depth: groups }, &[&winner]);
            let member = graph.push(format!("valid_member_{level}"), Op::Mul, &[&member, &valid_column]);
            let sum = graph.push(format!("position_sum_{level}"), Op::MatMul, &[&base_positions, &member]);
            // [1, slots, k] → [1, 1, k]: members of each group; a group without any has position 0.
            let count = graph.push(format!("member_count_{level}"), Op::ReduceSum { axis: 1 }, &[&member]);
            let count = graph.push(format!("member_divisor_{level}"), Op::Max, &[&count, &one]);
            level_positions = graph.push(format!("positions_{level}"), Op::Div, &[&sum, &count]);
            assignment = Some(soft);
        }
    }
    graph.remove_unused();
    graph.validate()?;
    Ok(graph)
}
