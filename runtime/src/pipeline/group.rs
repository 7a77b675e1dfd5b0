//! \[F4\] Base segments → transitions between levels: runs the grouping network on the fixed slots.

use std::sync::Arc;
use std::time::Instant;

use segcore::spherical_kmeans::SegmentMap;

use super::{Deployment, MAX_LEVELS, StageError, nanos_since};
use crate::backend::{Session, TensorBuffer, check_finite};
use crate::error::PipelineError;

/// The stage group.
pub struct GroupStage {
    deployment: Arc<Deployment>,
    session: Box<dyn Session>,
    features: Vec<f32>,
    positions: Vec<f32>,
    valid: Vec<f32>,
    axes: PositionAxes,
    /// Names and buffers of the transitions; entries above the model's levels stay unused.
    transitions: Box<[(String, TensorBuffer); MAX_LEVELS]>,
    num_transitions: usize,
}

impl GroupStage {
    /// A stage with a session of its own.
    ///
    /// # Errors
    /// When the backend has no session to give.
    pub fn new(deployment: Arc<Deployment>) -> Result<Self, PipelineError> {
        let session = Arc::clone(&deployment.grouping).session()?;
        let transitions = std::array::from_fn(|index| {
            (models::arch::grouping::names::transition(index + 1), TensorBuffer::default())
        });
        Ok(Self {
            session,
            features: Vec::new(),
            positions: Vec::new(),
            valid: Vec::new(),
            axes: PositionAxes::default(),
            transitions: Box::new(transitions),
            num_transitions: deployment.level_sizes().len() - 1,
            deployment,
        })
    }

    /// Groups the base segments of a frame. Returns the nanoseconds spent in the network.
    ///
    /// # Errors
    /// When the network fails or its output is not finite.
    pub fn run(&mut self, segments: &SegmentMap) -> Result<u64, StageError> {
        let manifest = self.deployment.manifest();
        let (dim, slots, extent) = (manifest.network.embedding_dim, manifest.num_slots(), manifest.position_extent);
        self.features.resize(dim * slots, 0.0);
        for (slot, prototype) in segments.prototypes.chunks_exact(dim).enumerate() {
            for (channel, &value) in prototype.iter().enumerate() {
                self.features[channel * slots + slot] = value;
            }
        }
        self.valid.clear();
        self.valid.extend(segments.areas.iter().map(|&area| if area > 0 { 1.0 } else { 0.0 }));
        self.axes.weights(segments, extent, slots, &mut self.positions);

        let start = Instant::now();
        let names = &manifest.tensors;
        {
            let mut outputs = self.transitions.each_mut().map(|(name, buffer)| (name.as_str(), buffer));
            self.session.run(
                &[
                    (names.features.as_str(), &[1, dim, slots], &self.features),
                    (names.positions.as_str(), &[1, 2 * extent, slots], &self.positions),
                    (names.valid.as_str(), &[1, slots], &self.valid),
                ],
                &mut outputs[..self.num_transitions],
            )?;
        }
        let network = nanos_since(start);
        for (name, buffer) in &self.transitions[..self.num_transitions] {
            check_finite(self.deployment.grouping.path(), name, &buffer.data)?;
        }
        Ok(network)
    }

    /// What the network was given for the last frame, for calibration: features `[1, dim, slots]`, positions
    /// `[1, 2·extent, slots]`, valid `[1, slots]`.
    pub fn inputs(&self) -> [&[f32]; 3] {
        [&self.features, &self.positions, &self.valid]
    }

    /// Transition matrices `[n_l, n_{l+1}]` of the last frame, fine to coarse; the second value counts those in use.
    pub fn transitions(&self) -> ([&[f32]; MAX_LEVELS], usize) {
        (self.transitions.each_ref().map(|(_, buffer)| buffer.data.as_slice()), self.num_transitions)
    }
}

/// Linear-interpolation positions of the rows and columns of a map in the learned position tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct PositionAxes {
    /// Per row of the map: lower table row and the weight of the next one.
    rows: Vec<(usize, f32)>,
    columns: Vec<(usize, f32)>,
}

impl PositionAxes {
    /// Writes `[2·extent, slots]`: per segment the mean over its cells of the interpolation weights, columns first.
    /// A map of h rows reads the row table at y·(extent−1)/(h−1) (method.md §2); one row reads row 0.
    pub(crate) fn weights(&mut self, segments: &SegmentMap, extent: usize, slots: usize, out: &mut Vec<f32>) {
        fill_axis(&mut self.rows, segments.height, extent);
        fill_axis(&mut self.columns, segments.width, extent);
        out.clear();
        out.resize(2 * extent * slots, 0.0);
        let (column_part, row_part) = out.split_at_mut(extent * slots);
        for (labels, &(row, row_weight)) in segments.labels.chunks_exact(segments.width.max(1)).zip(&self.rows) {
            for (&label, &(column, column_weight)) in labels.iter().zip(&self.columns) {
                let slot = usize::from(label);
                if slot >= slots {
                    continue;
                }
                let add = |part: &mut [f32], index: usize, weight: f32| {
                    part[index * slots + slot] += 1.0 - weight;
                    if weight > 0.0 {
                        part[(index + 1) * slots + slot] += weight;
                    }
                };
                add(column_part, column, column_weight);
                add(row_part, row, row_weight);
            }
        }
        for row in out.chunks_exact_mut(slots) {
            for (value, &area) in row.iter_mut().zip(&segments.areas) {
                if area > 0 {
                    *value /= area as f32;
                }
            }
        }
    }
}

/// Per cell of an axis the lower entry of a position table with `extent` entries, and the weight of the next one.
pub(crate) fn fill_axis(axis: &mut Vec<(usize, f32)>, cells: usize, extent: usize) {
    axis.clear();
    axis.extend((0..cells).map(|cell| {
        if cells <= 1 || extent <= 1 {
            return (0, 0.0);
        }
        let numerator = cell * (extent - 1);
        let (index, rest) = (numerator / (cells - 1), numerator % (cells - 1));
        (index, rest as f32 / (cells - 1) as f32)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(height: usize, width: usize, labels: Vec<u16>, num_slots: usize) -> SegmentMap {
        let mut areas = vec![0; num_slots];
        for &label in &labels {
            if usize::from(label) < num_slots {
                areas[usize::from(label)] += 1;
            }
        }
        SegmentMap { height, width, num_slots, labels, areas, ..SegmentMap::default() }
    }

    #[test]
    fn a_map_of_the_trained_size_looks_up_plainly() {
        // 3 × 2 cells, one segment each, T = 3 rows; two columns read table rows 0 and 2.
        let segments = map(3, 2, (0..6).collect(), 7);
        let mut out = Vec::new();
        PositionAxes::default().weights(&segments, 3, 7, &mut out);
        for y in 0..3 {
            for x in 0..2 {
                let slot = y * 2 + x;
                let column: Vec<f32> = (0..6).map(|t| out[t * 7 + slot]).collect();
                let mut expected = vec![0.0; 6];
                expected[x * 2] = 1.0;
                expected[3 + y] = 1.0;
                assert_eq!(column, expected);
            }
        }
        assert!((0..6).all(|t| out[t * 7 + 6] == 0.0), "an empty slot has no weights");
    }

    #[test]
    fn weights_are_means_and_sum_to_one_per_axis() {
        let (height, width, slots, extent) = (45, 60, 5, 14);
        let labels: Vec<u16> = (0..height * width).map(|i| ((i * 7 + i / 60) % 5) as u16).collect();
        let segments = map(height, width, labels.clone(), slots);
        let mut out = Vec::new();
        PositionAxes::default().weights(&segments, extent, slots, &mut out);
        for slot in 0..slots {
            for axis in 0..2 {
                let part: Vec<f32> = (0..extent).map(|t| out[(axis * extent + t) * slots + slot]).collect();
                assert!((part.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                // The mean table position is the mean of the cells' positions.
                let position: f64 = part.iter().enumerate().map(|(t, &w)| t as f64 * f64::from(w)).sum();
                let cells: Vec<f64> = (0..height * width)
                    .filter(|&i| usize::from(labels[i]) == slot)
                    .map(|i| match axis {
                        0 => (i % width) as f64 * 13.0 / 59.0,
                        _ => (i / width) as f64 * 13.0 / 44.0,
                    })
                    .collect();
                let expected = cells.iter().sum::<f64>() / cells.len() as f64;
                assert!((position - expected).abs() < 1e-3, "{position} {expected}");
            }
        }
    }

    #[test]
    fn one_row_one_column_or_a_table_of_one_read_the_first_entry() {
        let mut axis = Vec::new();
        fill_axis(&mut axis, 1, 28);
        assert_eq!(axis, [(0, 0.0)]);
        fill_axis(&mut axis, 3, 1);
        assert_eq!(axis, [(0, 0.0); 3]);
        fill_axis(&mut axis, 28, 28);
        assert!(axis.iter().enumerate().all(|(i, &(index, weight))| index == i && weight == 0.0));
    }
}
