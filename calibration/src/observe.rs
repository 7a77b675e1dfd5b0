//! Runs a model's networks on frames with their inner tensors as outputs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use models::files::{read_file, write_atomically};
use models::manifest::Precision;
use models::onnx::{self, Storage};
use models::passes::quantize::tensors_to_observe;
use models::passes::{expose_activations, prepare_for_quantization};
use runtime::backend::{self, BackendChoice, EngineOptions, Session, TensorBuffer};
use runtime::pipeline::embed::EmbedStage;
use runtime::pipeline::group::GroupStage;
use runtime::pipeline::segment::SegmentStage;
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::unlike::distance_to_bank;
use runtime::pipeline::{Deployment, Processor, ProcessorSpec, Resolution};
use segcore::image::Frame;

use crate::error::{CalibrationError, Result};
use crate::table::Table;

/// Rows and columns of the parts of a frame that its descriptor describes.
const PARTS: (usize, usize) = (3, 4);

/// One network with its inner tensors as outputs.
struct Observed {
    session: Box<dyn Session>,
    /// Inputs of the graph, which are observed as they are given.
    inputs: Vec<String>,
    outputs: Vec<(String, TensorBuffer)>,
}

impl Observed {
    /// Writes the network of `path`, in the form that becomes INT8, into `scratch`, loads and deletes it.
    fn load(path: &Path, scratch: &Path, prefix: &str, backend: BackendChoice, num_threads: usize) -> Result<Self> {
        let (mut graph, mut weights) = onnx::read(&read_file(path)?, path)?;
        prepare_for_quantization(&mut graph, &mut weights)?;
        let names = tensors_to_observe(&graph, &BTreeSet::new())?;
        let given: BTreeSet<String> = graph.inputs.iter().map(|input| input.name.clone()).collect();
        expose_activations(&mut graph, names.iter().map(String::as_str))?;
        let file = scratch.join(format!(".{prefix}.observed.onnx"));
        write_atomically(&file, &onnx::write(&graph, &weights, Storage::Full)?)?;
        let loaded = backend::select(backend)?.backend.load(&file, EngineOptions { num_threads });
        // Loaded or not: it is of no use to anybody.
        let _ = std::fs::remove_file(&file);
        let (inputs, outputs) = names.into_iter().partition(|name| given.contains(name));
        let outputs: Vec<String> = outputs;
        let outputs = outputs.into_iter().map(|name| (name, TensorBuffer::default())).collect();
        Ok(Observed { session: loaded?.session()?, inputs, outputs })
    }

    /// The first tensor, as they are computed, that the last run left NaN or infinite.
    fn first_not_finite(&self, prefix: &str) -> Option<CalibrationError> {
        self.outputs.iter().find_map(|(name, buffer)| {
            let count = buffer.data.iter().filter(|value| !value.is_finite()).count();
            let (tensor, values) = (format!("{prefix}/{name}"), buffer.data.len());
            (count > 0).then_some(CalibrationError::NotFinite { tensor, count, values })
        })
    }

    fn run(&mut self, inputs: &[(&str, &[usize], &[f32])]) -> Result<()> {
        let mut outputs: Vec<(&str, &mut TensorBuffer)> =
            self.outputs.iter_mut().map(|(name, buffer)| (name.as_str(), buffer)).collect();
        Ok(self.session.run(inputs, &mut outputs)?)
    }

    /// What the last run saw, under `prefix/name`.
    fn seen<'a>(
        &'a self,
        prefix: &'a str,
        given: &'a [(&str, &[usize], &[f32])],
    ) -> impl Iterator<Item = (String, &'a [f32])> {
        let of_inputs = given.iter().filter(|(name, ..)| self.inputs.iter().any(|input| input == name));
        let of_inputs = of_inputs.map(|(name, _, values)| (*name, *values));
        let of_outputs = self.outputs.iter().map(|(name, buffer)| (name.as_str(), buffer.data.as_slice()));
        of_inputs.chain(of_outputs).map(move |(name, values)| (format!("{prefix}/{name}"), values))
    }
}

/// A model that is watched while it runs.
pub struct Observer {
    deployment: Arc<Deployment>,
    /// The deployed pipeline, for describing frames.
    processor: Processor,
    slot: FrameSlot,
    embed: EmbedStage,
    segment: SegmentStage,
    group: GroupStage,
    embedding: Observed,
    grouping: Observed,
}

impl Observer {
    /// Watches the fp32 networks of a deployed model. `scratch` is a folder for two files that live for a moment.
    ///
    /// # Errors
    /// When a file of the model cannot be read or loaded, or `scratch` cannot be written.
    pub fn new(deployment: Arc<Deployment>, backend: BackendChoice, scratch: &Path) -> Result<Self> {
        let manifest = deployment.manifest();
        let num_threads = deployment.spec().num_threads;
        let features = (manifest.network.embedding_dim, manifest.stride);
        let load = |path: Option<PathBuf>, prefix: &str| {
            let path = path.unwrap_or_else(|| deployment.folder().path().join(format!("{prefix}.fp32.onnx")));
            Observed::load(&path, scratch, prefix, backend, num_threads)
        };
        Ok(Observer {
            embedding: load(deployment.folder().embedding_path(Precision::Fp32), "embedding")?,
            grouping: load(deployment.folder().grouping_path(Precision::Fp32), "grouping")?,
            embed: EmbedStage::new(Arc::clone(&deployment))?,
            segment: SegmentStage::new(manifest.kmeans, features, Resolution::Nearest, num_threads)
                .map_err(|error| error.in_frame("", 0))?,
            group: GroupStage::new(Arc::clone(&deployment))?,
            processor: Processor::new(
                Arc::clone(&deployment),
                ProcessorSpec { resolution: Resolution::Nearest, ..ProcessorSpec::default() },
            )?,
            slot: FrameSlot::default(),
            deployment,
        })
    }

    /// What a frame is like.
    ///
    /// # Errors
    /// When a network fails on the frame; when that is because an activation is NaN or infinite, the message names it.
    pub fn describe(&mut self, frame: &Frame, name: &str) -> Result<Description> {
        self.slot.output.frame.clone_from(frame);
        if let Err(error) = self.processor.process(&mut self.slot) {
            // What went wrong inside is found by looking inside.
            self.observe(frame, name, &mut Table::new(""))?;
            return Err(error.into());
        }
        let unknown = self.deployment.bank().is_some().then(|| distance_to_bank(&self.slot.output) as f32);
        Ok(Description { features: self.part_features(), unknown })
    }

    /// The mean feature of each of 3 × 4 parts, row by row.
    fn part_features(&self) -> Vec<f32> {
        let map = self.processor.features();
        let (height, width, dim) = (map.height, map.width, map.dim);
        let mut sums = vec![0f32; PARTS.0 * PARTS.1 * dim];
        let mut counts = vec![0f32; PARTS.0 * PARTS.1];
        for row in 0..height {
            for column in 0..width {
                let part = (row * PARTS.0 / height) * PARTS.1 + column * PARTS.1 / width;
                counts[part] += 1.0;
                let feature = map.cell(row, column);
                sums[part * dim..][..dim].iter_mut().zip(feature).for_each(|(sum, value)| *sum += value);
            }
        }
        for (part, count) in sums.chunks_exact_mut(dim).zip(counts) {
            part.iter_mut().for_each(|value| *value /= count.max(1.0));
        }
        sums
    }

    /// Adds a frame's activations to `table` under the name `name`; `false` when it is in it already.
    ///
    /// # Errors
    /// When a network fails, or an activation is NaN or infinite (the message names it).
    pub fn observe(&mut self, frame: &Frame, name: &str, table: &mut Table) -> Result<bool> {
        if table.frames.contains(name) {
            return Ok(false);
        }
        let at = |error: runtime::pipeline::StageError| error.in_frame(name, frame.index);
        let embedded = self.embed.run(frame, 1.0);
        // With the input in place the network is run once more, its inner tensors as outputs: they say what is wrong first.
        self.observe_embedding(name)?;
        embedded.map_err(at)?;
        self.segment.restart();
        let missing = |what| CalibrationError::Missing { what, frame: name.to_owned() };
        let plan = self.embed.plan().ok_or_else(|| missing("the plan of resizing"))?;
        self.segment.run(self.embed.map(), plan, None, false).map_err(at)?;
        let grouped = self.group.run(self.segment.map());
        let manifest = self.deployment.manifest();
        let (dim, slots, extent) = (manifest.network.embedding_dim, manifest.num_slots(), manifest.position_extent);
        let (shape, pixels) = self.embed.input().ok_or_else(|| missing("the network's input"))?;
        let image = [(manifest.tensors.image.as_str(), shape.as_slice(), pixels)];
        let [features, positions, valid] = self.group.inputs();
        let (of_features, of_positions, of_valid) = ([1, dim, slots], [1, 2 * extent, slots], [1, slots]);
        let names = &manifest.tensors;
        let tokens: [(&str, &[usize], &[f32]); 3] = [
            (names.features.as_str(), &of_features, features),
            (names.positions.as_str(), &of_positions, positions),
            (names.valid.as_str(), &of_valid, valid),
        ];
        self.grouping.run(&tokens)?;
        if let Some(error) = self.grouping.first_not_finite("grouping") {
            return Err(error);
        }
        grouped.map_err(at)?;
        let seen: Vec<(String, &[f32])> =
            self.embedding.seen("embedding", &image).chain(self.grouping.seen("grouping", &tokens)).collect();
        let seen: Vec<(&str, &[f32])> = seen.iter().map(|(name, values)| (name.as_str(), *values)).collect();
        table.add(name, &seen)
    }

    fn observe_embedding(&mut self, name: &str) -> Result<()> {
        let missing = CalibrationError::Missing { what: "the network's input", frame: name.to_owned() };
        let (shape, pixels) = self.embed.input().ok_or(missing)?;
        let image = self.deployment.manifest().tensors.image.as_str();
        self.embedding.run(&[(image, shape.as_slice(), pixels)])?;
        self.embedding.first_not_finite("embedding").map_or(Ok(()), Err)
    }
}

/// What [`Observer::describe`] says of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// For [`crate::select::k_centre`]: the mean feature of each of 3 × 4 parts, row by row.
    pub features: Vec<f32>,
    /// How far its segments are from what the bank knows: mean over the pixels of 1 − cosine to the nearest prototype, 0 to
    /// 2; none without a bank.
    pub unknown: Option<f32>,
}

#[cfg(test)]
mod tests {
    use runtime::backend::tensorrt::Batching;
    use runtime::pipeline::DeploymentSpec;
    use segcore::image::{CaptureTime, ImageSize, PixelFormat};

    use super::*;
    use crate::ranges::{Bits, Method, range};

    fn tiny() -> Arc<Deployment> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-model");
        let folder = models::manifest::ModelFolder::open(&path).unwrap();
        let spec = DeploymentSpec {
            backend: BackendChoice::Cpu,
            precision: Precision::Fp32,
            int8_float: false,
            num_threads: 1,
            batching: Batching::default(),
        };
        Arc::new(Deployment::load(folder, spec).unwrap())
    }

    fn frame(seed: u8) -> Frame {
        let size = ImageSize::new(96, 64);
        let pixel = |i: usize| (i as u32 * 7 + u32::from(seed) * (1 + i as u32 / 977)) as u8;
        let pixels = (0..size.num_pixels() * 3).map(pixel).collect();
        Frame { size, pixels, format: PixelFormat::Rgb8, index: 0, capture_time: CaptureTime::default() }
    }

    #[test]
    fn both_networks_are_seen_and_a_frame_counts_once() {
        let scratch = tempfile::tempdir().unwrap();
        let mut observer = Observer::new(tiny(), BackendChoice::Cpu, scratch.path()).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "the written networks are gone");
        let mut table = Table::new("tiny");
        assert!(observer.observe(&frame(1), "a", &mut table).unwrap());
        assert!(!observer.observe(&frame(1), "a", &mut table).unwrap());
        let once = table.clone();
        assert!(observer.observe(&frame(90), "b", &mut table).unwrap());
        for prefix in ["embedding/", "grouping/"] {
            let seen = table.tensors.iter().filter(|(name, _)| name.starts_with(prefix));
            assert!(seen.count() > 3, "{prefix}: {:?}", table.tensors.keys().collect::<Vec<_>>());
        }
        // The normalised image: 96 × 64 × 3 values a frame, within what mean and deviation make of 0 to 255.
        let image = &table.tensors["embedding/image"];
        assert_eq!(image.total(), 2 * 96 * 64 * 3);
        let range = range(image, Method::MinMax, Bits::Symmetric);
        assert!((-2.2..-1.0).contains(&range.low) && (1.0..2.7).contains(&range.high), "{range:?}");
        // Frames in another order, in tables that are merged: the same.
        let mut other = Table::new("tiny");
        observer.observe(&frame(90), "b", &mut other).unwrap();
        other.merge(&once).unwrap();
        assert_eq!(other, table);
    }

    #[test]
    fn descriptors_tell_frames_apart() {
        let scratch = tempfile::tempdir().unwrap();
        let mut observer = Observer::new(tiny(), BackendChoice::Cpu, scratch.path()).unwrap();
        let [a, b, again] = [1, 90, 1].map(|seed| observer.describe(&frame(seed), "x").unwrap().features);
        assert_eq!(a, again);
        assert_ne!(a, b);
        assert!(a.iter().all(|value| value.is_finite()));
    }
}
