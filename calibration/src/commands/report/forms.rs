//! The pipelines that run beside each other.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use models::files::read_file;
use models::manifest::{ModelFolder, Precision, embedding_file};
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::{Deployment, Processor, ProcessorSpec};
use runtime::sink::SegmentedFrame;
use segcore::image::{Frame, ImageSize};
use segcore::preprocess::{PreprocessSpec, ResizePlan};

use super::super::quantize::fp16_files;
use crate::settings::ReportSettings;

/// Which pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The yardstick.
    Fp32,
    /// fp32 on frames with one grey level of noise.
    Noise,
    /// fp16.
    Fp16,
    /// int8, as written.
    Int8,
    /// Another int8 network.
    Compared,
}

impl Form {
    /// Its name in the receipt.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Noise => "fp32-noise",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Compared => "compared",
        }
    }

    /// Its name for people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Noise => "fp32, ±1 grey level",
            Self::Compared => "compared int8",
            Self::Fp32 | Self::Fp16 | Self::Int8 => self.name(),
        }
    }
}

/// A pipeline and its last frame.
pub(super) struct Running {
    pub(super) form: Form,
    pub(super) processor: Processor,
    preprocessing: PreprocessSpec,
    slot: FrameSlot,
}

impl Running {
    fn new(form: Form, deployment: Arc<Deployment>) -> anyhow::Result<Self> {
        let preprocessing = deployment.manifest().preprocessing.clone();
        let processor = Processor::new(deployment, ProcessorSpec::default())?;
        Ok(Self { form, processor, preprocessing, slot: FrameSlot::default() })
    }

    /// What became of the last frame.
    pub(super) fn output(&self) -> &SegmentedFrame {
        &self.slot.output
    }

    /// Segments a frame.
    pub(super) fn run(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let held = &mut self.slot.output.frame;
        held.clone_from(frame);
        if self.form == Form::Noise {
            let plan = ResizePlan::new(&self.preprocessing, held.size)?;
            add_noise(held, plan.content);
        }
        self.processor.process(&mut self.slot).with_context(|| self.form.title())
    }
}

/// All of them, fp32 first.
pub(super) struct Forms {
    pub(super) running: Vec<Running>,
    /// The folder that has the fp16 networks.
    pub(super) fp16: ModelFolder,
    reference: Arc<Deployment>,
}

impl Forms {
    /// Loads every form of a model; what its folder does not have is made in `scratch`.
    ///
    /// # Errors
    /// When one cannot be loaded.
    pub(super) fn load(settings: &ReportSettings, folder: &ModelFolder, scratch: &Path) -> anyhow::Result<Self> {
        let load = |folder: &ModelFolder, precision: Precision| -> anyhow::Result<Arc<Deployment>> {
            Ok(Arc::new(Deployment::load_unverified(folder.clone(), settings.model.deployment(precision))?))
        };
        let reference = load(folder, Precision::Fp32)?;
        let has_fp16 =
            folder.embedding_path(Precision::Fp16).is_some() && folder.grouping_path(Precision::Fp16).is_some();
        let fp16 = if has_fp16 {
            folder.clone()
        } else {
            let files = fp16_files(folder)?;
            let changes: Vec<(&str, &[u8])> =
                files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            folder.rewrite(Some(&scratch.join("fp16")), &changes)?
        };
        let mut running = vec![
            Running::new(Form::Fp32, Arc::clone(&reference))?,
            Running::new(Form::Noise, Arc::clone(&reference))?,
            Running::new(Form::Fp16, load(&fp16, Precision::Fp16)?)?,
            Running::new(Form::Int8, load(folder, Precision::Int8)?)?,
        ];
        if let Some(path) = &settings.compare {
            let bytes = read_file(path)?;
            let name = embedding_file(Precision::Int8);
            let compared = folder.rewrite(Some(&scratch.join("compared")), &[(&name, &bytes)])?;
            running.push(Running::new(Form::Compared, load(&compared, Precision::Int8)?)?);
        }
        Ok(Self { running, fp16, reference })
    }

    /// The fp32 model.
    pub(super) fn reference(&self) -> &Arc<Deployment> {
        &self.reference
    }
}

/// Adds −1, 0 or +1, each as likely, within 0 to 255; the same for the same frame. Where the frame is reduced to
/// `content` for the network, all of the pixels that become one there get the same: it is there that the noise is to have
/// a grey level, and noise of single pixels would be averaged away.
fn add_noise(frame: &mut Frame, content: ImageSize) {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let size = frame.size;
    let grid = ImageSize::new(content.width.min(size.width), content.height.min(size.height));
    let start = frame.index.wrapping_mul(STEP).wrapping_add(frame.pixels.len() as u64);
    for (at, value) in frame.pixels.iter_mut().enumerate() {
        let (pixel, channel) = (at / 3, at % 3);
        let (x, y) = (pixel % size.width, pixel / size.width);
        let cell = (y * grid.height / size.height) * grid.width + x * grid.width / size.width;
        // SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014), its number `3 cell + channel`.
        let mut mixed = start.wrapping_add(STEP.wrapping_mul((3 * cell + channel + 1) as u64));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *value = match (mixed ^ (mixed >> 31)) % 3 {
            0 => value.saturating_sub(1),
            1 => value.saturating_add(1),
            _ => *value,
        };
    }
}

#[cfg(test)]
mod tests {
    use segcore::image::PixelFormat;

    use super::*;

    #[test]
    fn noise_is_one_grey_level_each_way() {
        let mut frame = Frame::black(ImageSize::new(100, 100), PixelFormat::Rgb8);
        frame.pixels.fill(100);
        let mut again = frame.clone();
        let size = frame.size;
        add_noise(&mut frame, size);
        add_noise(&mut again, ImageSize::new(200, 200));
        assert_eq!(frame, again);
        let share = |level: u8| frame.pixels.iter().filter(|&&v| v == level).count() as f64 / frame.pixels.len() as f64;
        for level in [99, 100, 101] {
            assert!((share(level) - 1.0 / 3.0).abs() < 0.02, "{level}: {}", share(level));
        }
        frame.pixels.fill(0);
        add_noise(&mut frame, size);
        assert!(frame.pixels.iter().all(|&v| v <= 1));
    }

    #[test]
    fn noise_keeps_its_grey_level_in_a_reduced_frame() {
        let mut frame = Frame::black(ImageSize::new(120, 80), PixelFormat::Rgb8);
        frame.pixels.fill(100);
        add_noise(&mut frame, ImageSize::new(40, 20));
        // Blocks of 3 × 4 pixels, whose mean is therefore as far from 100.
        let at = |x: usize, y: usize| frame.pixels[3 * (y * 120 + x)];
        let mut levels = [0usize; 3];
        for (x, y) in (0..40).flat_map(|x| (0..20).map(move |y| (x, y))) {
            let level = at(3 * x, 4 * y);
            assert!((0..3).all(|dx| (0..4).all(|dy| at(3 * x + dx, 4 * y + dy) == level)), "block {x}, {y}");
            levels[usize::from(level - 99)] += 1;
        }
        assert!(levels.iter().all(|&count| count.abs_diff(800 / 3) < 60), "{levels:?}");
    }
}
