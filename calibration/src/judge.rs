//! What a form of the embedding network costs, measured: it is executed as written on frames, beside fp32.

use std::path::Path;

use models::files::write_atomically;
use models::graph::Graph;
use models::onnx::{self, Storage};
use models::passes::expose_activations;
use models::weights::Weights;
use runtime::backend::{Backend, EngineOptions, TensorBuffer};

use crate::error::{CalibrationError, Result};

/// A network input and what fp32 makes of it.
struct Case {
    shape: [usize; 4],
    input: Vec<f32>,
    /// `[1, dim, h, w]`.
    expected: TensorBuffer,
}

/// Runs networks that take an image and give unit features.
pub struct Judge<'a> {
    backend: Box<dyn Backend>,
    options: EngineOptions,
    scratch: &'a Path,
    /// Names of input and output.
    names: (String, String),
    cases: Vec<Case>,
}

/// Which of a judge's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Those that decide: the even ones.
    Search,
    /// Those that the search never sees: the odd ones.
    Check,
}

impl<'a> Judge<'a> {
    /// A judge of networks with an input and an output of these names. `backend` must execute networks as written; `scratch`
    /// is a folder for a file that lives for a moment.
    pub fn new(backend: Box<dyn Backend>, num_threads: usize, scratch: &'a Path, names: (&str, &str)) -> Self {
        let names = (names.0.to_owned(), names.1.to_owned());
        Judge { backend, options: EngineOptions { num_threads }, scratch, names, cases: Vec::new() }
    }

    /// Adds a frame: `[1, 3, h, w]` as the network takes it. What is expected comes from `reference`, the fp32 network.
    ///
    /// # Errors
    /// When the reference cannot be run.
    pub fn add(
        &mut self,
        reference: &mut dyn runtime::backend::Session,
        shape: [usize; 4],
        input: &[f32],
    ) -> Result<()> {
        let mut expected = TensorBuffer::default();
        reference.run(&[(&self.names.0, &shape, input)], &mut [(&self.names.1, &mut expected)])?;
        self.cases.push(Case { shape, input: input.to_vec(), expected });
        Ok(())
    }

    /// Number of frames.
    pub fn num_frames(&self) -> usize {
        self.cases.len()
    }

    /// Shape of the largest input.
    pub fn largest_shape(&self) -> Option<[usize; 4]> {
        self.cases.iter().map(|case| case.shape).max_by_key(|shape| shape.iter().product::<usize>())
    }

    fn half(&self, half: Half) -> impl Iterator<Item = &Case> {
        let skipped = match half {
            Half::Search => 0,
            Half::Check => 1,
        };
        self.cases.iter().skip(skipped).step_by(2)
    }

    fn load(&self, graph: &Graph, weights: &Weights) -> Result<Box<dyn runtime::backend::Session>> {
        let file = self.scratch.join("judged.onnx");
        write_atomically(&file, &onnx::write(graph, weights, Storage::Full)?)?;
        let engine = self.backend.load(&file, self.options);
        // Loaded or not: it is of no use to anybody.
        let _ = std::fs::remove_file(&file);
        Ok(engine?.session()?)
    }

    /// Mean over all cells of 1 − cosine to what fp32 computes, 0 to 2.
    ///
    /// # Errors
    /// When the network cannot be loaded or run, or gives something else than features.
    pub fn error(&self, (graph, weights): &(Graph, Weights), half: Half) -> Result<f64> {
        let mut session = self.load(graph, weights)?;
        let mut output = TensorBuffer::default();
        let (mut sum, mut cells) = (0.0, 0usize);
        for case in self.half(half) {
            session.run(&[(&self.names.0, &case.shape, &case.input)], &mut [(&self.names.1, &mut output)])?;
            let (of_frame, num_cells) = distances(&output, &case.expected);
            sum += of_frame;
            cells += num_cells;
        }
        let error = sum / cells.max(1) as f64;
        if !error.is_finite() {
            let (tensor, count) = (self.names.1.clone(), cells);
            return Err(CalibrationError::NotFinite { tensor, count, values: cells });
        }
        Ok(error)
    }

    /// Mean of each channel of the tensors `names`, which have the shape `[1, channels, …]`, over the frames of the search.
    ///
    /// # Errors
    /// When the network does not have them, or cannot be run.
    pub fn channel_means(&self, (graph, weights): &(Graph, Weights), names: &[&str]) -> Result<Vec<Vec<f64>>> {
        let mut graph = graph.clone();
        expose_activations(&mut graph, names.iter().copied())?;
        let mut session = self.load(&graph, weights)?;
        let mut sums: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
        let mut buffers: Vec<TensorBuffer> = names.iter().map(|_| TensorBuffer::default()).collect();
        let mut frames = 0.0;
        for case in self.half(Half::Search) {
            let mut outputs: Vec<(&str, &mut TensorBuffer)> = names.iter().copied().zip(&mut buffers).collect();
            session.run(&[(&self.names.0, &case.shape, &case.input)], &mut outputs)?;
            frames += 1.0;
            for (sums, buffer) in sums.iter_mut().zip(&buffers) {
                let channels = buffer.shape.get(1).copied().unwrap_or(0);
                let per_channel = (buffer.data.len() / channels.max(1)).max(1);
                sums.resize(channels, 0.0);
                for (sum, values) in sums.iter_mut().zip(buffer.data.chunks_exact(per_channel)) {
                    *sum += values.iter().map(|&value| f64::from(value)).sum::<f64>() / per_channel as f64;
                }
            }
        }
        sums.iter_mut().flatten().for_each(|sum| *sum /= f64::max(frames, 1.0));
        Ok(sums)
    }
}

/// Sum over cells of 1 − cosine, and the number of cells, of two maps `[1, dim, h, w]`; NaN when they differ in shape.
fn distances(a: &TensorBuffer, b: &TensorBuffer) -> (f64, usize) {
    let dim = b.shape.get(1).copied().unwrap_or(0);
    let cells = b.data.len() / dim.max(1);
    if a.shape != b.shape || cells == 0 {
        return (f64::NAN, 1);
    }
    let mut sums = vec![[0f64; 3]; cells];
    for (a, b) in a.data.chunks_exact(cells).zip(b.data.chunks_exact(cells)) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            let (a, b) = (f64::from(a), f64::from(b));
            *sum = [sum[0] + a * b, sum[1] + a * a, sum[2] + b * b];
        }
    }
    let distance = |[dot, a, b]: &[f64; 3]| {
        let norm = (a * b).sqrt();
        // Cells without features on both sides are equal.
        if norm > 0.0 { 1.0 - dot / norm } else { f64::from(u8::from(a != b)) }
    };
    (sums.iter().map(distance).sum(), cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_directions() {
        let map = |values: &[f32]| TensorBuffer { shape: vec![1, 2, 1, 2], data: values.to_vec() };
        // Cells (1, 0) and (0, 2).
        let a = map(&[1.0, 0.0, 0.0, 2.0]);
        assert_eq!(distances(&a, &a), (0.0, 2));
        // The first turned by 90°, the second longer.
        let b = map(&[0.0, 0.0, 1.0, 5.0]);
        assert_eq!(distances(&a, &b), (1.0, 2));
        assert_eq!(distances(&a, &map(&[1.0, 0.0, 0.0, 0.0])), (1.0, 2));
        assert!(distances(&a, &TensorBuffer { shape: vec![1, 1, 1, 4], data: vec![0.0; 4] }).0.is_nan());
    }
}
