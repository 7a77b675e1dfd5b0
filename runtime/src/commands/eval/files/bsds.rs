//! `hsg eval files --dataset bsds`: contour maps against the drawings of several annotators. An image belongs to its truth
//! by its ID, whatever the subfolder.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use evaluation::{Annotation, BsdsBenchmark, BsdsCounts, BsdsResult, ContourMap, Thresholds};
use segcore::image::ImageSize;
use segcore::image_io::{gray_bit_depth, read_gray8, read_gray16, read_rgb};
use serde::Serialize;

use super::super::super::{Outcome, write_json};
use super::{Measured, and_more, check_size, files_below, found_twice, measure_all, tell_unused};
use crate::settings::EvalFilesSettings;
use runtime::program::printer::{Printer, table};

/// The name of the data set.
pub(super) const BSDS: &str = "bsds";

/// The evaluation JSON of BSDS files.
#[derive(Serialize)]
struct Evaluation {
    dataset: &'static str,
    #[serde(flatten)]
    figures: BsdsResult,
    /// `pri_ods` and `vi_ods` by their short names.
    pri: f64,
    vi: f64,
    thresholds: usize,
    /// Images of the truth that have no prediction.
    truth_without_prediction: usize,
}

pub(super) fn run(settings: &EvalFilesSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let thresholds = Thresholds::new(settings.thresholds).context("--thresholds")?;
    let (images, unused_truth) = pair(find_truth(&settings.truth)?, find_predictions(&settings.prediction)?, settings)?;
    tell_unused(unused_truth, images.len() + unused_truth, printer);
    let counts = match measure_all(&images, settings, printer, |(), image: &Image| image.measure(&thresholds))? {
        Measured::All(counts) => counts,
        Measured::Interrupted(signal) => return Ok(Outcome::Interrupted(signal)),
    };
    let mut benchmark = BsdsBenchmark::new(thresholds);
    for counts in &counts {
        benchmark.update(counts)?;
    }
    let figures = benchmark.result().context("no image was measured")?;
    let evaluation = Evaluation {
        dataset: BSDS,
        figures,
        pri: figures.pri_ods,
        vi: figures.vi_ods,
        thresholds: settings.thresholds,
        truth_without_prediction: unused_truth,
    };
    printer.text(text_report(&evaluation))?;
    printer.document(&evaluation)?;
    if let Some(folder) = &settings.out {
        write_json(&folder.join("evaluation.json"), &evaluation)?;
        printer.status(format!("figures: {}", folder.join("evaluation.json").display()));
    }
    Ok(if settings.complete && unused_truth > 0 { Outcome::Incomplete } else { Outcome::Done })
}

/// What one annotator drew.
struct AnnotatorFiles {
    regions: PathBuf,
    /// None: from the regions.
    boundaries: Option<PathBuf>,
}

/// A contour map, of one of two layouts.
struct PredictionFile {
    path: PathBuf,
    /// On the doubled grid, else of the image's size.
    is_doubled: bool,
}

/// What belongs together.
struct Image {
    prediction: PredictionFile,
    annotators: Vec<AnnotatorFiles>,
}

/// Gives each prediction its truth, sorted by ID; also the number of images without prediction.
fn pair(
    mut truth: BTreeMap<String, Vec<AnnotatorFiles>>,
    predictions: BTreeMap<String, PredictionFile>,
    settings: &EvalFilesSettings,
) -> anyhow::Result<(Vec<Image>, usize)> {
    let num_without = predictions.keys().filter(|&id| !truth.contains_key(id)).count();
    let mut images = Vec::new();
    for (id, prediction) in predictions {
        let Some(annotators) = truth.remove(&id) else {
            let others = and_more(num_without);
            bail!(
                "{}{others}: expected its truth {id}_seg0.png, {id}_seg1.png … in {} or below, found none; check --truth, \
                 or take the prediction out of the folder",
                prediction.path.display(),
                settings.truth.display()
            );
        };
        images.push(Image { prediction, annotators });
    }
    Ok((images, truth.len()))
}

/// Contour maps by ID.
fn find_predictions(folder: &Path) -> anyhow::Result<BTreeMap<String, PredictionFile>> {
    let mut found = BTreeMap::new();
    for (path, name) in files_below(folder, "--prediction")?.into_iter().map(super::with_name) {
        let (id, is_doubled) = match (name.strip_suffix("_ucm2.png"), name.strip_suffix(".ucm.png")) {
            (Some(id), _) => (id, true),
            (_, Some(id)) => (id, false),
            _ => continue,
        };
        match found.entry(id.to_owned()) {
            Entry::Vacant(entry) => drop(entry.insert(PredictionFile { path, is_doubled })),
            Entry::Occupied(entry) => return Err(found_twice(&entry.get().path, &path, "predictions")),
        }
    }
    ensure!(
        !found.is_empty(),
        "--prediction {}: expected contour maps ID_ucm2.png or ID.ucm.png, found none there or below; check the path",
        folder.display()
    );
    Ok(found)
}

/// Annotations by ID, those of an image in the order of their numbers.
fn find_truth(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<AnnotatorFiles>>> {
    let (mut regions, mut boundaries) = (BTreeMap::new(), BTreeMap::new());
    for (path, name) in files_below(folder, "--truth")?.into_iter().map(super::with_name) {
        let (key, files) = match (numbered(&name, "_seg"), numbered(&name, "_bnd")) {
            (Some(key), _) => (key, &mut regions),
            (_, Some(key)) => (key, &mut boundaries),
            _ => continue,
        };
        match files.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(path)),
            Entry::Occupied(entry) => return Err(found_twice(entry.get(), &path, "annotations")),
        }
    }
    ensure!(
        !regions.is_empty(),
        "--truth {}: expected annotators' regions ID_segN.png, found none there or below; check the path",
        folder.display()
    );
    let mut truth: BTreeMap<String, Vec<AnnotatorFiles>> = BTreeMap::new();
    for (key, regions) in regions {
        let files = AnnotatorFiles { regions, boundaries: boundaries.remove(&key) };
        truth.entry(key.0).or_default().push(files);
    }
    if let Some(((id, number), path)) = boundaries.pop_first() {
        bail!(
            "{}: expected the same annotator's regions {id}_seg{number}.png in {} or below, found none; copy them, or \
             take the boundaries out",
            path.display(),
            folder.display()
        );
    }
    Ok(truth)
}

/// `ID` and `N` of the file name `ID<word>N.png`.
fn numbered(name: &str, word: &str) -> Option<(String, u32)> {
    let (id, number) = name.strip_suffix(".png")?.rsplit_once(word)?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| number.parse().ok())??;
    Some((id.to_owned(), number))
}

impl Image {
    /// Reads all files of the image and measures it.
    fn measure(&self, thresholds: &Thresholds) -> anyhow::Result<BsdsCounts> {
        let mut annotations = Vec::with_capacity(self.annotators.len());
        let mut size = None;
        for files in &self.annotators {
            let (labels_size, labels) = read_labels(&files.regions)?;
            // The first annotator says how large the image is.
            let &mut (size, first) = size.get_or_insert((labels_size, &files.regions));
            check_size(&files.regions, labels_size, size, first)?;
            let boundary = files.boundaries.as_deref().map(|path| read_boundary(path, size, first)).transpose()?;
            let annotation = Annotation::new(size.height, size.width, &labels, boundary)
                .with_context(|| files.regions.display().to_string())?;
            annotations.push(annotation);
        }
        let (size, first) = size.with_context(|| format!("{}: no truth", self.prediction.path.display()))?;
        let contours = self.prediction.read(size, first)?;
        BsdsCounts::of(&contours, &annotations, thresholds).with_context(|| self.prediction.path.display().to_string())
    }
}

impl PredictionFile {
    /// The contour map of an image of `size`, which `truth` says.
    fn read(&self, size: ImageSize, truth: &Path) -> anyhow::Result<ContourMap> {
        let map = read_gray16(&self.path)?;
        let strengths = map.pixels.iter().map(|&value| f32::from(value) / 65535.0).collect();
        let contours = if self.is_doubled {
            let expected = ImageSize::new(2 * size.width + 1, 2 * size.height + 1);
            ensure!(
                map.size == expected,
                "{}: expected {expected}, twice the {size} of {} plus one, got {}; make both of the same image (a map of \
                 the image's size is named ID.ucm.png)",
                self.path.display(),
                truth.display(),
                map.size
            );
            ContourMap::doubled(size.height, size.width, strengths)
        } else {
            check_size(&self.path, map.size, size, truth)?;
            ContourMap::image_sized(size.height, size.width, strengths)
        };
        contours.with_context(|| self.path.display().to_string())
    }
}

/// Size and labels of a grey PNG of 8 or 16 bits.
fn read_labels(path: &Path) -> anyhow::Result<(ImageSize, Vec<u16>)> {
    if gray_bit_depth(path)? == 8 {
        let map = read_gray8(path)?;
        return Ok((map.size, map.pixels.into_iter().map(u16::from).collect()));
    }
    let map = read_gray16(path)?;
    Ok((map.size, map.pixels))
}

/// Where a grey PNG of 1 to 8 bits and of the size of the file `first` is not 0.
fn read_boundary(path: &Path, size: ImageSize, first: &Path) -> anyhow::Result<Vec<bool>> {
    let bits = gray_bit_depth(path)?;
    ensure!(
        bits <= 8,
        "{}: expected a grey PNG of 1 or 8 bits, not 0 on boundaries, got {bits} bits; convert it",
        path.display()
    );
    let map = read_rgb(path)?;
    check_size(path, map.size, size, first)?;
    // Three equal bytes a pixel.
    Ok(map.pixels.chunks_exact(3).map(|pixel| pixel[0] > 0).collect())
}

fn text_report(evaluation: &Evaluation) -> String {
    let figures = &evaluation.figures;
    let number = |value: f64| format!("{value:.3}");
    let row = |name: &str, ods: f64, threshold: f64, ois: f64, best: Option<f64>| {
        let best = best.map_or("-".to_owned(), number);
        vec![name.to_owned(), number(ods), format!("{threshold:.2}"), number(ois), best]
    };
    let rows = [
        ["", "ODS", "at", "OIS", "best"].map(str::to_owned).to_vec(),
        row("boundary F-measure", figures.ods, figures.ods_threshold, figures.ois, None),
        row("covering", figures.cover_ods, figures.cover_ods_threshold, figures.cover_ois, Some(figures.cover_best)),
        row("probabilistic Rand index", figures.pri_ods, figures.pri_ods_threshold, figures.pri_ois, None),
        row(
            "variation of information, bits (low is good)",
            figures.vi_ods,
            figures.vi_ods_threshold,
            figures.vi_ois,
            None,
        ),
    ];
    format!(
        "{}, {} images, {} thresholds\n{}boundary average precision {:.3}; at ODS recall {:.3}, precision {:.3}",
        evaluation.dataset,
        figures.images,
        evaluation.thresholds,
        table(&rows),
        figures.ap,
        figures.ods_recall,
        figures.ods_precision
    )
}
