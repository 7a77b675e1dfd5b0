//! `hsg eval files` for class maps: Cityscapes, where files belong together by city, sequence and frame, and CamVid and
//! folders, where they do by their relative paths.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use datasets::DatasetKind;
use evaluation::{CityscapesValues, ConfusionMatrix, InstanceIou, LabelPairs};
use segcore::image::ImageSize;
use segcore::label_png::LabelReader;
use segcore::label_space::{CLASSES_FILE, ClassTable, IGNORE, LabelSpace};

use super::super::super::Outcome;
use super::report::{Figures, report};
use super::{
    Measured, Pair, check_size, files_below, found_twice, measure_all, pair, png_files_below, tell_unused, with_name,
};
use crate::settings::EvalFilesSettings;
use runtime::program::printer::Printer;

/// Value of pixels without class in CamVid's files.
const CAMVID_VOID: u8 = 11;

/// The last label id of Cityscapes.
const LAST_LABEL_ID: u8 = 33;

/// What the values of class maps mean.
struct Values {
    label_space: LabelSpace,
    /// Train id of each value, 255 = no class; `None` for a value that must not occur.
    truth: [Option<u8>; 256],
    prediction: [Option<u8>; 256],
}

/// Memory of a thread, used for image after image.
#[derive(Default)]
struct Memory {
    truth: LabelReader,
    prediction: LabelReader,
    instances: LabelReader,
    pairs: LabelPairs,
}

/// What one image adds.
struct Counts {
    confusion: ConfusionMatrix,
    instances: Option<InstanceIou>,
}

pub(super) fn run(kind: DatasetKind, settings: &EvalFilesSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let is_cityscapes = kind == DatasetKind::Cityscapes;
    ensure!(
        is_cityscapes || !settings.train_ids,
        "--train-ids: only Cityscapes has label ids beside train ids; leave the option out"
    );
    ensure!(
        kind == DatasetKind::Folder || settings.classes.is_none(),
        "--classes: {} has classes of its own; leave the option out, or use `--dataset folder`",
        settings.dataset
    );
    let values = match kind {
        DatasetKind::Cityscapes => Values::cityscapes(settings.train_ids),
        DatasetKind::CamVid => Values::of(LabelSpace::camvid_11(), CAMVID_VOID),
        _ => Values::of_folder(settings)?,
    };
    let (pairs, unused) = if is_cityscapes {
        let predictions = by_frame(&settings.prediction, "--prediction", "predictions", &["png"])?;
        // What networks predicted for other purposes has names that end alike.
        let truth = match by_frame(&settings.truth, "--truth", "truths", &["_gtFine_labelIds.png"]) {
            Ok(truth) => truth,
            Err(_) => by_frame(&settings.truth, "--truth", "truths", &["_labelIds.png"])?,
        };
        pair(truth, predictions, settings, |key| format!("{key}_gtFine_labelIds.png"))?
    } else {
        let truth = png_files_below(&settings.truth, "--truth")?;
        pair(truth, png_files_below(&settings.prediction, "--prediction")?, settings, str::to_owned)?
    };
    tell_unused(unused.len(), pairs.len() + unused.len(), printer);

    let with_instances = is_cityscapes && have_instances(&pairs, printer)?;
    let measure = |memory: &mut Memory, pair: &Pair| values.measure(memory, pair, with_instances, settings.train_ids);
    let counts = match measure_all(&pairs, settings, printer, measure)? {
        Measured::All(counts) => counts,
        Measured::Interrupted(signal) => return Ok(Outcome::Interrupted(signal)),
    };
    let mut confusion = ConfusionMatrix::new(values.label_space.num_classes())?;
    let mut instances = with_instances.then(|| InstanceIou::new(CityscapesValues::LabelIds));
    for counts in &counts {
        confusion.merge(&counts.confusion)?;
        if let (Some(sum), Some(instances)) = (&mut instances, &counts.instances) {
            sum.merge(instances)?;
        }
    }
    let figures = Figures {
        frames: counts.len(),
        label_space: &values.label_space,
        confusion,
        instances: instances.map(|instances| instances.result()),
        stq: None,
        truth_without_prediction: unused.len(),
    };
    report(figures, settings, printer)
}

/// The PNG files in and below `folder` whose names end with one of `endings`, by CITY_SEQUENCE_FRAME; `option` named the
/// folder.
fn by_frame(folder: &Path, option: &str, what: &str, endings: &[&str]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for (path, name) in files_below(folder, option)?.into_iter().map(with_name) {
        if !endings.iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        let Some(key) = frame_of(&name) else {
            bail!(
                "{}: expected a name that begins with CITY_SEQUENCE_FRAME, such as frankfurt_000000_000294.png; rename the \
                 file, or take it out of the folder",
                path.display()
            );
        };
        match found.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(path)),
            Entry::Occupied(entry) => return Err(found_twice(entry.get(), &path, what)),
        }
    }
    let expected = endings.first().map_or("", |ending| ending.trim_start_matches("png"));
    ensure!(
        !found.is_empty(),
        "{option} {}: expected label maps CITY_SEQUENCE_FRAME*{}, found none there or below; check the path",
        folder.display(),
        if expected.is_empty() { ".png" } else { expected }
    );
    Ok(found)
}

/// CITY_SEQUENCE_FRAME at the beginning of a file name.
fn frame_of(name: &str) -> Option<String> {
    let mut parts = name.splitn(3, '_');
    let (city, sequence, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let frame = &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()];
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (!city.is_empty() && is_number(sequence) && is_number(frame)).then(|| format!("{city}_{sequence}_{frame}"))
}

/// The instances that belong to a file of label ids.
fn instance_file(truth: &Path) -> PathBuf {
    let name = truth.file_name().map(|name| name.to_string_lossy().replace("labelIds", "instanceIds"));
    truth.with_file_name(name.unwrap_or_default())
}

/// Whether instances can be measured: all images have their file, or none has.
fn have_instances(pairs: &[Pair], printer: Printer) -> anyhow::Result<bool> {
    let (with, without): (Vec<_>, Vec<_>) =
        pairs.iter().map(|pair| instance_file(&pair.truth)).partition(|path| path.exists());
    match (with.first(), without.first()) {
        (Some(with), Some(without)) => bail!(
            "{}: expected the instances of {} images, as {} has them, found none; copy the file, or leave all \
             *_instanceIds.png out, then iIoU is not measured",
            without.display(),
            pairs.len(),
            with.display()
        ),
        (None, _) => {
            printer.status("no *_instanceIds.png beside the truth: iIoU is not measured");
            Ok(false)
        }
        (Some(_), None) => Ok(true),
    }
}

impl Values {
    /// Of `label_space`, whose files mark pixels without class with `ignore`; predictions may do so with 255 too.
    fn of(label_space: LabelSpace, ignore: u8) -> Self {
        let mut truth = [None; 256];
        truth[usize::from(ignore)] = Some(IGNORE);
        for class in &label_space.classes {
            if let Ok(value) = u8::try_from(class.class_id.0) {
                truth[usize::from(value)] = Some(class.train_id.0);
            }
        }
        let mut prediction = truth;
        prediction[usize::from(IGNORE)].get_or_insert(IGNORE);
        Self { label_space, truth, prediction }
    }

    fn cityscapes(predicts_train_ids: bool) -> Self {
        let mut truth = [None; 256];
        let train_ids = CityscapesValues::LabelIds.train_ids();
        for value in 0..=usize::from(LAST_LABEL_ID) {
            truth[value] = Some(train_ids[value]);
        }
        let mut prediction = truth;
        if predicts_train_ids {
            let train_ids = CityscapesValues::TrainIds.train_ids();
            prediction = train_ids.map(|id| Some(id).filter(|&id| id != IGNORE));
            prediction[usize::from(IGNORE)] = Some(IGNORE);
        }
        Self { label_space: LabelSpace::cityscapes_19(), truth, prediction }
    }

    /// Of the class table that is given, or lies in the folder of the truth or one above it.
    fn of_folder(settings: &EvalFilesSettings) -> anyhow::Result<Self> {
        let path = match &settings.classes {
            Some(path) => path.clone(),
            None => {
                let folder = settings
                    .truth
                    .canonicalize()
                    .with_context(|| format!("--truth: cannot read the folder {}", settings.truth.display()))?;
                let found = folder.ancestors().map(|folder| folder.join(CLASSES_FILE)).find(|path| path.is_file());
                found.with_context(|| {
                    format!(
                        "--truth {}: expected {CLASSES_FILE} there or in a folder above, found none: it says what the \
                         values of the maps mean (`[[class]]` with `id`, `name`, `color`, `thing`); name one with \
                         --classes",
                        settings.truth.display()
                    )
                })?
            }
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| anyhow::anyhow!("{}: {error}{}", path.display(), segcore::image_io::remedy_for(&error)))?;
        let table: ClassTable = toml::from_str(&text).with_context(|| path.display().to_string())?;
        let label_space = table.label_space().with_context(|| path.display().to_string())?;
        Ok(Self::of(label_space, table.ignore))
    }

    /// Reads the files of an image and counts.
    fn measure(
        &self,
        memory: &mut Memory,
        pair: &Pair,
        with_instances: bool,
        predicts_train_ids: bool,
    ) -> anyhow::Result<Counts> {
        let Memory { truth, prediction, instances, pairs } = memory;
        let (size, truth) = truth.gray8(&pair.truth)?;
        let (got, prediction) = prediction.gray8(&pair.prediction)?;
        check_size(&pair.prediction, got, size, &pair.truth)?;
        pairs.clear();
        pairs.add(truth, prediction)?;
        if let Some((value, _, _)) = pairs.iter().find(|&(t, ..)| self.truth[usize::from(t)].is_none()) {
            return Err(wrong_value(&pair.truth, size, truth, value, &self.truth));
        }
        if let Some((_, value, _)) = pairs.iter().find(|&(_, p, _)| self.prediction[usize::from(p)].is_none()) {
            return Err(wrong_value(&pair.prediction, size, prediction, value, &self.prediction));
        }
        let ids = |values: &[Option<u8>; 256]| values.map(|id| id.unwrap_or(IGNORE));
        let mut confusion = ConfusionMatrix::new(self.label_space.num_classes())?;
        confusion.update_pairs(pairs, &ids(&self.truth), &ids(&self.prediction));
        if !with_instances {
            return Ok(Counts { confusion, instances: None });
        }
        let path = instance_file(&pair.truth);
        let (got, instance_ids) = instances.gray16(&path)?;
        check_size(&path, got, size, &pair.truth)?;
        let mut instances = InstanceIou::new(CityscapesValues::LabelIds);
        if predicts_train_ids {
            // What is no class becomes a label that is not evaluated.
            let label_ids = self.label_ids();
            let prediction: Vec<u8> = prediction.iter().map(|&value| label_ids[usize::from(value)]).collect();
            instances.update_pairs(&LabelPairs::of(truth, &prediction)?, &prediction, instance_ids)?;
        } else {
            instances.update_pairs(pairs, prediction, instance_ids)?;
        }
        Ok(Counts { confusion, instances: Some(instances) })
    }

    /// Label id of each train id; 0, `unlabeled`, where there is none.
    fn label_ids(&self) -> [u8; 256] {
        let mut label_ids = [0; 256];
        for class in &self.label_space.classes {
            label_ids[usize::from(class.train_id.0)] = u8::try_from(class.class_id.0).unwrap_or(0);
        }
        label_ids
    }
}

/// The error of a value that must not occur, with its first place.
fn wrong_value(path: &Path, size: ImageSize, pixels: &[u8], value: u8, known: &[Option<u8>; 256]) -> anyhow::Error {
    let at = pixels.iter().position(|&other| other == value).unwrap_or(0);
    let values: Vec<usize> = (0..256).filter(|&value| known[value].is_some()).collect();
    let runs = values.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] if run.len() > 2 => format!("{first}–{last}"),
        _ => run.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    });
    anyhow::anyhow!(
        "{}: value {value} at column {}, row {} is no label: expected {}; check --dataset and how the file was written",
        path.display(),
        at % size.width,
        at / size.width,
        runs.collect::<Vec<_>>().join(", ")
    )
}
