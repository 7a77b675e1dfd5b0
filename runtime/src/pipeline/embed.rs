//! \[F2\] Frame → unit features at stride 8: resize, normalise, run the embedding network, keep the content cells.

use std::sync::Arc;
use std::time::Instant;

use segcore::embedding::EmbeddingMap;
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::preprocess::{Preprocessor, ResizePlan};
use segcore::yuv::rgb_of;

use super::{Deployment, StageError, nanos_since};
use crate::backend::{Session, TensorBuffer, check_finite};
use crate::error::PipelineError;

/// The stages preprocess and embed.
pub struct EmbedStage {
    deployment: Arc<Deployment>,
    session: Box<dyn Session>,
    /// Made anew when the size of the frames changes.
    preprocessor: Option<Preprocessor>,
    input_scale: f32,
    /// The frame as RGB, where it came as YUV: frames do that for stages on a GPU only, but these here take any.
    rgb: Frame,
    input: Vec<f32>,
    output: TensorBuffer,
    map: EmbeddingMap,
}

/// What one run of [`EmbedStage`] took, nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbedNanos {
    /// Resizing and normalising.
    pub preprocess: u64,
    /// Network and transposing.
    pub embed: u64,
    /// The network alone.
    pub network: u64,
}

impl EmbedStage {
    /// A stage with a session of its own.
    ///
    /// # Errors
    /// When the backend has no session to give.
    pub fn new(deployment: Arc<Deployment>) -> Result<Self, PipelineError> {
        let session = Arc::clone(&deployment.embedding).session()?;
        Ok(Self {
            deployment,
            session,
            preprocessor: None,
            input_scale: 1.0,
            rgb: Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8),
            input: Vec::new(),
            output: TensorBuffer::default(),
            map: EmbeddingMap::default(),
        })
    }

    /// Computes the features of a frame, on a network input of `input_scale` times the model's size per side;
    /// [`EmbedStage::map`] and [`EmbedStage::plan`] then hold them.
    ///
    /// # Errors
    /// When the frame cannot be resized, the network fails, or its output is not finite.
    pub fn run(&mut self, frame: &Frame, input_scale: f32) -> Result<EmbedNanos, StageError> {
        let start = Instant::now();
        let manifest = self.deployment.manifest();
        let fits = |preprocessor: &Preprocessor| preprocessor.plan().source == frame.size;
        if self.input_scale != input_scale {
            self.input_scale = input_scale;
            self.preprocessor = None;
        }
        let preprocessor = match self.preprocessor.take().filter(fits) {
            Some(preprocessor) => preprocessor,
            None => {
                let mut spec = manifest.preprocessing.clone();
                spec.input = scaled(spec.input, input_scale, spec.multiple);
                Preprocessor::new(&spec, frame.size).map_err(StageError::at("preprocess"))?
            }
        };
        let preprocessor = self.preprocessor.insert(preprocessor);
        let padded = preprocessor.plan().padded;
        self.input.resize(3 * padded.num_pixels(), 0.0);
        let frame = match frame.format.yuv_colors() {
            None => frame,
            Some(_) => rgb_of(frame, &mut self.rgb).map_err(StageError::at("preprocess"))?,
        };
        preprocessor.run(&frame.view(), &mut self.input).map_err(StageError::at("preprocess"))?;
        let preprocess = nanos_since(start);

        let start = Instant::now();
        let (names, dim, stride) = (&manifest.tensors, manifest.network.embedding_dim, manifest.stride);
        let shape = [1, 3, padded.height, padded.width];
        self.session
            .run(&[(names.image.as_str(), &shape, &self.input)], &mut [(names.embedding.as_str(), &mut self.output)])?;
        let network = nanos_since(start);
        check_finite(self.deployment.embedding.path(), &names.embedding, &self.output.data)?;
        let (padded_h, padded_w) = preprocessor.plan().feature_size(stride);
        let (content_h, content_w) = preprocessor.plan().content_cells(stride);
        self.map
            .set_from_nchw(&self.output.data, padded_h, padded_w, content_h, content_w, dim)
            .map_err(StageError::at("embed"))?;
        Ok(EmbedNanos { preprocess, embed: nanos_since(start), network })
    }

    /// What the network was given for the last frame: shape and values, for calibration; none before the first.
    pub fn input(&self) -> Option<([usize; 4], &[f32])> {
        let padded = self.preprocessor.as_ref()?.plan().padded;
        Some(([1, 3, padded.height, padded.width], &self.input))
    }

    /// Features of the content cells of the last frame.
    pub fn map(&self) -> &EmbeddingMap {
        &self.map
    }

    /// How the last frame was resized; none before the first.
    pub fn plan(&self) -> Option<&ResizePlan> {
        self.preprocessor.as_ref().map(Preprocessor::plan)
    }
}

/// A size per side, in whole multiples of the network's stride so that no padding is computed; at least one of them.
pub(super) fn scaled(size: ImageSize, scale: f32, multiple: usize) -> ImageSize {
    if scale >= 1.0 {
        return size;
    }
    let side = |pixels: usize| {
        let cells = (pixels as f32 * scale / multiple.max(1) as f32).round() as usize;
        (cells.max(1) * multiple.max(1)).min(pixels)
    };
    ImageSize::new(side(size.width), side(size.height))
}
