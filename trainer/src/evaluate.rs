//! How well the embedding names what it has never been told: label retrieval on labelled images (method.md §7).
//!
//! The network at stride 8, spherical k-means, a bank of the base segments of one split, and for every segment of another
//! split the majority of its 20 nearest. Cells are upsampled to pixels without refinement, which is the protocol of
//! docs/benchmarks/accuracy.md; `hsg eval` measures the deployed model in the same way and more.

use std::sync::atomic::{AtomicBool, Ordering};

use datasets::{Dataset, SampleEntry};
use evaluation::ConfusionMatrix;
use models::arch::{OutputStride, embedding_net};
use retrieval::{BankBuilder, Storage, majority_label};
use segcore::embedding::EmbeddingMap;
use segcore::image::ImageSize;
use segcore::label_space::{IGNORE, LabelSpace};
use segcore::preprocess::{PreprocessSpec, Preprocessor};
use segcore::refine::upsample_nearest;
use segcore::spherical_kmeans::{SegmentMap, SphericalKmeans, Start};
use serde::Serialize;
use tch::Tensor;

use crate::augment::{MEAN, STD};
use crate::device::Compute;
use crate::error::{Result, TrainError};
use crate::graph_module::{GraphModule, Mode, ParamStore, to_plain};
use crate::settings::{EvaluationSettings, TrainSettings, dataset_kind};

/// Sides of padded network inputs are multiples of this: the output stride at test time.
pub const MULTIPLE: usize = 8;
/// Nearest prototypes that vote.
const NUM_VOTES: usize = 20;

/// What a network is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Steps that the network had learned.
    pub step: usize,
    /// Mean IoU over the classes that occur, 0 to 1.
    pub miou: f64,
    /// Share of the labelled pixels that are right.
    pub accuracy: f64,
    /// Images that were named.
    pub images: usize,
    /// Images whose segments are in the bank.
    pub bank_images: usize,
}

/// Labelled images and the network at test time.
pub struct Evaluator {
    bank: Box<dyn Dataset>,
    bank_entries: Vec<SampleEntry>,
    queries: Box<dyn Dataset>,
    query_entries: Vec<SampleEntry>,
    label_space: LabelSpace,
    embedding: GraphModule,
    spec: PreprocessSpec,
    kmeans: SphericalKmeans,
    dim: usize,
    compute: Compute,
}

impl Evaluator {
    /// Opens the labelled splits of `evaluation`.
    ///
    /// # Errors
    /// A split that is not there, images without annotations, or classes of another data set.
    pub fn open(settings: &TrainSettings, evaluation: &EvaluationSettings, compute: Compute) -> Result<Self> {
        let data = &settings.data;
        let root = data.root()?;
        let kind = dataset_kind(&data.dataset)?;
        let open = |split: &str, most: usize| -> Result<(Box<dyn Dataset>, Vec<SampleEntry>)> {
            let dataset = datasets::open(kind, root, split, &[])?;
            dataset.check_annotations()?;
            let entries = spread(dataset.samples(), most).cloned().collect();
            Ok((dataset, entries))
        };
        let (bank, bank_entries) = open(&evaluation.bank_split, evaluation.bank_images)?;
        let (queries, query_entries) = open(&evaluation.split, evaluation.images)?;
        let [width, height] = settings.export.input;
        let dim = settings.network.embedding_dim;
        let threads = match settings.run.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let kmeans = SphericalKmeans::new(settings.export_kmeans(), dim, threads).map_err(|e| broken(&e))?;
        Ok(Evaluator {
            label_space: queries.label_space(),
            bank,
            bank_entries,
            queries,
            query_entries,
            embedding: GraphModule::new(
                &embedding_net::embedding_net(&settings.network, OutputStride::Test8)?,
                compute.device,
            )?
            .in_precision(compute.precision),
            spec: PreprocessSpec { input: ImageSize::new(width, height), mean: MEAN, std: STD, multiple: MULTIPLE },
            kmeans,
            dim,
            compute,
        })
    }

    /// Measures the network `params` after `step` steps; `None` when that was interrupted.
    ///
    /// # Errors
    /// An image or annotation that cannot be read; a network whose features are not finite.
    pub fn run(&mut self, params: &ParamStore, step: usize, interrupt: &AtomicBool) -> Result<Option<Evaluation>> {
        let mut builder = BankBuilder::new(self.dim, "", &self.label_space.name);
        let (bank_entries, query_entries) = (self.bank_entries.clone(), self.query_entries.clone());
        let mut slots = Vec::new();
        for entry in &bank_entries {
            if interrupt.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let frame = self.bank.read_image(entry)?;
            let truth = self.bank.read_annotation(entry)?;
            let segments = self.segments(params, &frame, &mut slots)?;
            let labels = majority_label(&slots, &truth.train_ids, segments.num_slots, IGNORE);
            for ((prototype, label), &area) in
                segments.prototypes.chunks_exact(self.dim).zip(labels).zip(&segments.areas)
            {
                if let (Some(label), true) = (label, area > 0) {
                    builder.push(prototype, label).map_err(|e| broken(&e))?;
                }
            }
        }
        let num_classes = self.label_space.num_classes();
        let mut confusion = ConfusionMatrix::new(num_classes).map_err(|e| broken(&e))?;
        let bank = builder.finish(Storage::F32).and_then(|encoded| encoded.to_bank()).map_err(|e| broken(&e))?;
        let mut votes = Vec::new();
        for entry in &query_entries {
            if interrupt.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let frame = self.queries.read_image(entry)?;
            let truth = self.queries.read_annotation(entry)?;
            let segments = self.segments(params, &frame, &mut slots)?;
            bank.vote(&segments.prototypes, NUM_VOTES, num_classes, &mut votes).map_err(|e| broken(&e))?;
            let name = |slot: &u16| votes.get(usize::from(*slot)).map_or(IGNORE, |vote| vote.train_id);
            let named: Vec<u8> = slots.iter().map(name).collect();
            confusion.update(&truth.train_ids, &named, IGNORE).map_err(|e| broken(&e))?;
        }
        let result = confusion.result();
        Ok(Some(Evaluation {
            step,
            miou: result.miou.unwrap_or(0.0),
            accuracy: result.accuracy.unwrap_or(0.0),
            images: query_entries.len(),
            bank_images: bank_entries.len(),
        }))
    }

    /// Base segments of an image; `slots` gets the slot of every pixel.
    fn segments(
        &mut self,
        params: &ParamStore,
        frame: &segcore::image::Frame,
        slots: &mut Vec<u16>,
    ) -> Result<SegmentMap> {
        let mut preprocessor = Preprocessor::new(&self.spec, frame.size).map_err(|e| broken(&e))?;
        let plan = *preprocessor.plan();
        let mut input = vec![0.0; 3 * plan.padded.num_pixels()];
        preprocessor.run(&frame.view(), &mut input).map_err(|e| broken(&e))?;
        let shape = [1, 3, plan.padded.height as i64, plan.padded.width as i64];
        let output = tch::no_grad(|| -> Result<Tensor> {
            let image = Tensor::f_from_slice(&input)?.f_reshape(shape)?.f_to_device(self.compute.device)?;
            let inputs = [(embedding_net::IMAGE, &image)];
            self.embedding.run(params, &inputs, Mode::Evaluate)?.take(embedding_net::EMBEDDING)
        })?;
        let plain = to_plain(&output)?;
        if plain.values.iter().any(|value| !value.is_finite()) {
            return Err(TrainError::Invalid {
                what: "the network's features".into(),
                expected: "finite numbers".into(),
                got: "NaN or infinity".into(),
                remedy: "the weights are damaged or have diverged; go back to an older checkpoint".into(),
            });
        }
        let mut map = EmbeddingMap::default();
        let (padded_h, padded_w) = plan.feature_size(MULTIPLE);
        let (content_h, content_w) = plan.content_cells(MULTIPLE);
        map.set_from_nchw(&plain.values, padded_h, padded_w, content_h, content_w, self.dim).map_err(|e| broken(&e))?;
        let mut segments = SegmentMap::default();
        self.kmeans.run(&map, Start::Grid, &mut segments).map_err(|e| broken(&e))?;
        slots.resize(plan.source.num_pixels(), 0);
        upsample_nearest(&mut Vec::new(), &plan, MULTIPLE, &segments, slots);
        Ok(segments)
    }
}

/// At most `most` of `entries`, evenly spread.
fn spread(entries: &[SampleEntry], most: usize) -> impl Iterator<Item = &SampleEntry> {
    let taken = most.min(entries.len());
    (0..taken).map(move |i| &entries[i * entries.len() / taken])
}

/// Sizes that do not fit each other: settings that passed every check cannot give them.
fn broken(error: &dyn std::fmt::Display) -> TrainError {
    TrainError::Invalid {
        what: "evaluation".into(),
        expected: "images and features that fit the settings".into(),
        got: error.to_string(),
        remedy: "check [export] and [evaluation] of the settings".into(),
    }
}
