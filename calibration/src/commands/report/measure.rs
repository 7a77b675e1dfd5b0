//! Frames → figures of every form: against fp32, and against labels where there are some.

use std::collections::BTreeMap;

use datasets::Annotation;
use evaluation::{Agreement, ConfusionMatrix, LevelCovering, MIN_REGION_PIXELS, NfCovering, Overlap, TruthRegions};
use runtime::sink::{NO_SEGMENT, SegmentedFrame};
use segcore::embedding::EmbeddingMap;
use segcore::image::Frame;
use segcore::label_space::IGNORE;

use super::forms::{Form, Forms};
use super::pictures::{self, WorstFrame};
use super::receipt::{AgainstFp32, FormReport, Labelled, LevelAgreement, LevelLabelled};
use super::stability::Stability;

/// What came of all frames.
pub(super) struct Figures {
    pub(super) forms: Vec<FormReport>,
    /// Frames where int8 differs most, worst first.
    pub(super) worst: Vec<WorstFrame>,
}

/// Sums over frames.
pub(super) struct Measuring {
    /// Of classes that predictions and annotations share.
    classes: Option<Vec<String>>,
    /// Thing or not, by train id of the annotations.
    things: Vec<bool>,
    has_bank: bool,
    sums: Vec<Sums>,
    worst: Vec<WorstFrame>,
    frames: u64,
}

#[derive(Clone)]
struct Sums {
    labelled: Option<LabelSums>,
    cosine: f64,
    cosine_least: f64,
    cells: u64,
    classes: Agreement,
    levels: Vec<Agreement>,
    stability: Stability,
}

#[derive(Clone)]
struct LabelSums {
    confusion: Option<ConfusionMatrix>,
    levels: Vec<(NfCovering, LevelCovering)>,
}

impl Measuring {
    /// Nothing seen yet.
    ///
    /// # Errors
    /// When there are no classes.
    pub(super) fn new(forms: &Forms, classes: Option<Vec<String>>, things: Vec<bool>) -> anyhow::Result<Self> {
        let num_levels = forms.reference().level_sizes().len();
        let confusion = classes.as_ref().map(|names| ConfusionMatrix::new(names.len())).transpose()?;
        let labelled = (!things.is_empty())
            .then(|| LabelSums { confusion, levels: vec![<(NfCovering, LevelCovering)>::default(); num_levels] });
        let sums = Sums {
            labelled,
            cosine: 0.0,
            cosine_least: 1.0,
            cells: 0,
            classes: Agreement::new(0),
            levels: vec![Agreement::new(0); num_levels],
            stability: Stability::default(),
        };
        Ok(Self {
            classes,
            things,
            has_bank: forms.reference().bank().is_some(),
            sums: vec![sums; forms.running.len()],
            worst: Vec::new(),
            frames: 0,
        })
    }

    /// Runs all forms on a frame by itself and compares.
    ///
    /// # Errors
    /// When a form fails, or frame and annotation differ in size.
    pub(super) fn add(
        &mut self,
        forms: &mut Forms,
        frame: &Frame,
        name: &str,
        truth: Option<&Annotation>,
    ) -> anyhow::Result<()> {
        for running in &mut forms.running {
            running.processor.restart(false);
            running.run(frame)?;
        }
        let Some((reference, _)) = forms.running.split_first() else { return Ok(()) };
        let width = frame.size.width;
        let reference_maps = level_maps(reference.output());
        let reference_classes = classes_of(reference.output());
        let regions = truth
            .map(|truth| TruthRegions::new(truth.size.height, truth.size.width, &truth.train_ids, IGNORE))
            .transpose()?;
        for (running, sums) in forms.running.iter().zip(&mut self.sums) {
            let output = running.output();
            let classes = classes_of(output);
            if let (Some(truth), Some(regions), Some(labelled)) = (truth, &regions, &mut sums.labelled) {
                labelled.add(output, truth, regions, &classes, &self.things)?;
            }
            if running.form == Form::Fp32 {
                continue;
            }
            let (mean, cells) = mean_cosine(reference.processor.features(), running.processor.features());
            sums.cosine += mean * cells as f64;
            sums.cells += cells;
            sums.cosine_least = sums.cosine_least.min(mean);
            sums.classes.update(&reference_classes, &classes, width, 0)?;
            let maps = level_maps(output);
            for ((agreement, (expected, num_labels)), (got, _)) in
                sums.levels.iter_mut().zip(&reference_maps).zip(&maps)
            {
                agreement.update(expected, got, width, *num_labels)?;
            }
            if running.form == Form::Int8 {
                let mut of_frame = Agreement::new(0);
                let share = if self.has_bank {
                    of_frame.update(&reference_classes, &classes, width, 0)?;
                    of_frame.result().same_label.all
                } else if let (Some((expected, num_labels)), Some((got, _))) = (reference_maps.first(), maps.first()) {
                    of_frame.update(expected, got, width, *num_labels)?;
                    of_frame.result().matched.all
                } else {
                    None
                };
                let palette = self.has_bank.then(|| forms.reference().label_space().palette());
                pictures::offer(&mut self.worst, name, share.unwrap_or(1.0), || {
                    pictures::draw(reference.output(), output, palette.as_ref())
                })?;
            }
        }
        self.frames += 1;
        Ok(())
    }

    /// Begins a video: from here on frames are tracked.
    pub(super) fn begin_video(&mut self, forms: &mut Forms) {
        for (running, sums) in forms.running.iter_mut().zip(&mut self.sums) {
            running.processor.restart(true);
            sums.stability.begin();
        }
    }

    /// Adds the next frame of a video.
    ///
    /// # Errors
    /// When a form fails.
    pub(super) fn add_video_frame(&mut self, forms: &mut Forms, frame: &Frame) -> anyhow::Result<()> {
        for (running, sums) in forms.running.iter_mut().zip(&mut self.sums) {
            running.run(frame)?;
            sums.stability.add(running.output());
        }
        Ok(())
    }

    /// The figures.
    pub(super) fn finish(self, forms: &Forms) -> Figures {
        let has_bank = self.has_bank;
        let classes = self.classes.as_deref();
        let form = |(sums, form): (&Sums, Form)| FormReport {
            form: form.name().to_owned(),
            title: form.title().to_owned(),
            frames: self.frames,
            labelled: sums.labelled.as_ref().map(|labelled| labelled.report(classes)),
            against_fp32: (form != Form::Fp32).then(|| sums.against(has_bank)),
            stability: sums.stability.report(has_bank),
        };
        let each = self.sums.iter().zip(forms.running.iter().map(|running| running.form));
        Figures { forms: each.map(form).collect(), worst: self.worst }
    }
}

impl Sums {
    fn against(&self, has_bank: bool) -> AgainstFp32 {
        AgainstFp32 {
            cosine_mean: self.cosine / self.cells.max(1) as f64,
            cosine_least: self.cosine_least,
            class_agreement: if has_bank { self.classes.result().same_label.all } else { None },
            levels: self
                .levels
                .iter()
                .enumerate()
                .map(|(level, agreement)| LevelAgreement { level, agreement: agreement.result().matched.all })
                .collect(),
        }
    }
}

impl LabelSums {
    fn add(
        &mut self,
        output: &SegmentedFrame,
        truth: &Annotation,
        regions: &TruthRegions,
        classes: &[u16],
        things: &[bool],
    ) -> anyhow::Result<()> {
        if let Some(confusion) = &mut self.confusion {
            let prediction: Vec<u8> = classes.iter().map(|&class| u8::try_from(class).unwrap_or(IGNORE)).collect();
            confusion.update(&truth.train_ids, &prediction, IGNORE)?;
        }
        let is_thing = |train_id: u8| things.get(usize::from(train_id)).copied().unwrap_or(false);
        let foreground = regions.choose(MIN_REGION_PIXELS, is_thing);
        let num_slots = output.levels.first().map_or(0, |level| level.segments.len());
        // Nesting is strict: a coarser level is the finer one's table put together.
        let mut overlap = Overlap::of_labels(&output.slots, num_slots, regions)?;
        let mut finer: Option<&[u16]> = None;
        for ((nf_covering, covering), level) in self.levels.iter_mut().zip(&output.levels) {
            if let Some(parents) = finer.replace(&level.parents) {
                overlap = overlap.grouped(parents, level.segments.len());
            }
            nf_covering.update(&overlap, &foreground)?;
            covering.update(&overlap);
        }
        Ok(())
    }

    fn report(&self, classes: Option<&[String]>) -> Labelled {
        let result = self.confusion.as_ref().map(ConfusionMatrix::result);
        let per_class: BTreeMap<String, Option<f64>> = match (&result, classes) {
            (Some(result), Some(names)) => names.iter().cloned().zip(result.per_class.iter().copied()).collect(),
            _ => BTreeMap::new(),
        };
        let levels = self.levels.iter().enumerate().map(|(level, (nf_covering, covering))| LevelLabelled {
            level,
            nf_covering: nf_covering.result(),
            covering: covering.result(),
        });
        Labelled {
            miou: result.as_ref().and_then(|result| result.miou),
            accuracy: result.as_ref().and_then(|result| result.accuracy),
            per_class,
            levels: levels.collect(),
        }
    }
}

/// Mean cosine of the cells of two maps of unit vectors, and their number.
fn mean_cosine(a: &EmbeddingMap, b: &EmbeddingMap) -> (f64, u64) {
    let cells = a.num_cells() as u64;
    let sum: f64 = a.data.iter().zip(&b.data).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    (sum / cells.max(1) as f64, cells)
}

/// Per level the segment of every pixel, and how many there can be.
pub(super) fn level_maps(frame: &SegmentedFrame) -> Vec<(Vec<u16>, usize)> {
    let mut maps = Vec::with_capacity(frame.levels.len());
    let mut labels = frame.slots.clone();
    for level in &frame.levels {
        maps.push((labels.clone(), level.segments.len()));
        for label in &mut labels {
            *label = level.parents.get(usize::from(*label)).copied().unwrap_or(NO_SEGMENT);
        }
    }
    maps
}

/// Train id of every pixel; 255 where it has none.
pub(super) fn classes_of(frame: &SegmentedFrame) -> Vec<u16> {
    let segments = frame.levels.first().map_or(&[][..], |level| &level.segments);
    let class = |&slot: &u16| segments.get(usize::from(slot)).and_then(|segment| segment.train_id).unwrap_or(IGNORE);
    frame.slots.iter().map(|slot| u16::from(class(slot))).collect()
}
