//! CamVid as the SegNet tutorial lays it out.
//!
//! * `SPLIT.txt`: one line per image, `SPLIT/NAME.png SPLITannot/NAME.png`, relative to the root (paths that begin with
//!   `/SegNet/CamVid/`, as in the tutorial's own lists, are taken relative to the root, too).
//! * `sequences/index.tsv` (optional): one line per recorded run with the columns `list`, `split`, `drive`, `frames` and
//!   `rate_hz_at_30fps`; `sequences/LIST` holds the run's images in order of time. Without it, a sequence is a drive (the
//!   image's name up to the last `_`) and the rate is unknown.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use segcore::label_space::LabelSpace;

use crate::annotation::AnnotationValues;
use crate::files::{check_annotation_files, check_files, read_text};
use crate::sequences::{Sequence, select};
use crate::{Annotation, Dataset, DatasetError, SampleEntry};

/// Void in the annotation files.
const VOID: u8 = 11;

pub(crate) struct CamVid {
    split: String,
    sequences: Vec<Sequence>,
    samples: Vec<SampleEntry>,
    values: AnnotationValues,
}

/// A line of `SPLIT.txt`.
struct ListedImage {
    name: String,
    image: PathBuf,
    annotation: Option<PathBuf>,
}

impl CamVid {
    pub(crate) fn open(root: &Path, split: &str, selection: &[String]) -> Result<Self, DatasetError> {
        let listed = read_split_list(root, split)?;
        check_files("images", split, listed.iter().map(|image| image.image.as_path()))?;
        let (sequences, samples) = arrange(root, split, listed)?;
        let (sequences, samples) = select(split, sequences, samples, selection)?;
        let values = AnnotationValues::new(&LabelSpace::camvid_11(), Some(VOID));
        Ok(Self { split: split.to_owned(), sequences, samples, values })
    }
}

impl Dataset for CamVid {
    fn name(&self) -> &str {
        "camvid"
    }

    fn split(&self) -> &str {
        &self.split
    }

    fn label_space(&self) -> LabelSpace {
        LabelSpace::camvid_11()
    }

    fn samples(&self) -> &[SampleEntry] {
        &self.samples
    }

    fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    fn check_annotations(&self) -> Result<(), DatasetError> {
        check_annotation_files(&self.split, &self.samples)
    }

    fn read_annotation(&self, entry: &SampleEntry) -> Result<Annotation, DatasetError> {
        self.values.read(entry)
    }
}

/// The splits that have a list file, for messages.
fn found_splits(root: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".txt") && name != "classes.txt")
        .collect();
    names.sort();
    if names.is_empty() { "no list file".to_owned() } else { names.join(", ") }
}

fn read_split_list(root: &Path, split: &str) -> Result<Vec<ListedImage>, DatasetError> {
    let list = root.join(format!("{split}.txt"));
    if !list.is_file() {
        return Err(DatasetError::MissingPart {
            path: list,
            what: "it lists the images of the split, one `SPLIT/NAME.png SPLITannot/NAME.png` a line",
            found: found_splits(root),
        });
    }
    let text = read_text(&list)?;
    let mut listed: Vec<ListedImage> = Vec::new();
    let mut at_name: HashMap<String, usize> = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |expected: String| DatasetError::ListLine {
            path: list.clone(),
            line: index + 1,
            expected,
            got: line.to_owned(),
        };
        let mut parts = line.split_whitespace().map(relative);
        let (Some(image), annotation, None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("an image and an annotation".to_owned()));
        };
        let name = name_in_split(image, split).ok_or_else(|| wrong(format!("an image path `{split}/NAME.png`")))?;
        if annotation.is_some_and(|path| !is_below(path)) {
            return Err(wrong("an annotation path below the data set's folder".to_owned()));
        }
        if let Some(before) = at_name.insert(name.clone(), listed.len()) {
            let (first, second) = (listed[before].image.clone(), root.join(image));
            if first == second {
                return Err(wrong(format!("every image once, but `{image}` was listed before")));
            }
            return Err(DatasetError::SameName { first, second });
        }
        listed.push(ListedImage { name, image: root.join(image), annotation: annotation.map(|path| root.join(path)) });
    }
    if listed.is_empty() {
        return Err(DatasetError::EmptySplit { split: split.to_owned(), path: list, remedy: "lists none" });
    }
    Ok(listed)
}

/// The tutorial's own lists carry the absolute prefix of the authors' machine.
fn relative(path: &str) -> &str {
    path.strip_prefix("/SegNet/CamVid/").unwrap_or(path)
}

fn is_below(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// `train/a/b.png` → `a/b`.
fn name_in_split(path: &str, split: &str) -> Option<String> {
    let inner = path.strip_prefix(split)?.strip_prefix('/')?;
    let (stem, extension) = inner.rsplit_once('.')?;
    (is_below(path) && !stem.is_empty() && !extension.contains('/')).then(|| stem.to_owned())
}

/// Sorts the listed images into sequences.
fn arrange(
    root: &Path,
    split: &str,
    listed: Vec<ListedImage>,
) -> Result<(Vec<Sequence>, Vec<SampleEntry>), DatasetError> {
    let mut sequences: Vec<Sequence> = Vec::new();
    let mut samples: Vec<SampleEntry> = Vec::with_capacity(listed.len());
    let mut by_name: HashMap<&str, &ListedImage> = listed.iter().map(|image| (image.name.as_str(), image)).collect();
    for run in read_index(root, split)? {
        for (index_in_sequence, (line, path)) in run.images.iter().enumerate() {
            let image = name_in_split(path, split).and_then(|name| by_name.remove(name.as_str())).ok_or_else(|| {
                DatasetError::ListLine {
                    path: run.list.clone(),
                    line: *line,
                    expected: format!("an image of {split}.txt that no other sequence has"),
                    got: path.clone(),
                }
            })?;
            samples.push(entry(image, &run.sequence.name, index_in_sequence));
        }
        sequences.push(run.sequence);
    }
    // What no run lists (everything, without an index) belongs to its drive, in the order of the split's list.
    for image in listed.iter().filter(|image| by_name.contains_key(image.name.as_str())) {
        let drive = image.name.rsplit_once('_').map_or(image.name.as_str(), |(drive, _)| drive);
        if !sequences.iter().any(|sequence| sequence.name == drive) {
            sequences.push(Sequence { name: drive.to_owned(), drive: drive.to_owned(), rate_hz: None });
        }
        let index = samples.iter().filter(|sample| sample.sequence == drive).count();
        samples.push(entry(image, drive, index));
    }
    // Stable: sequences in their order, samples of each in theirs.
    let rank: HashMap<&str, usize> = sequences.iter().enumerate().map(|(rank, s)| (s.name.as_str(), rank)).collect();
    samples.sort_by_key(|sample| rank.get(sample.sequence.as_str()).copied());
    Ok((sequences, samples))
}

fn entry(image: &ListedImage, sequence: &str, index_in_sequence: usize) -> SampleEntry {
    SampleEntry {
        name: image.name.clone(),
        image: image.image.clone(),
        annotation: image.annotation.clone(),
        sequence: sequence.to_owned(),
        index_in_sequence,
    }
}

/// A line of the index and the list it names.
struct Run {
    sequence: Sequence,
    list: PathBuf,
    /// Line numbers and paths.
    images: Vec<(usize, String)>,
}

fn read_index(root: &Path, split: &str) -> Result<Vec<Run>, DatasetError> {
    let folder = root.join("sequences");
    let index = folder.join("index.tsv");
    if !index.is_file() {
        return Ok(Vec::new());
    }
    let text = read_text(&index)?;
    let mut lines = text.lines().enumerate();
    let header: Vec<&str> = lines.next().map_or_else(Vec::new, |(_, line)| line.split('\t').collect());
    let column = |name: &str| {
        header.iter().position(|title| *title == name).ok_or_else(|| DatasetError::ListLine {
            path: index.clone(),
            line: 1,
            expected: format!("a column `{name}`"),
            got: header.join(" "),
        })
    };
    let (list, in_split, drive) = (column("list")?, column("split")?, column("drive")?);
    let (frames, rate) = (column("frames")?, column("rate_hz_at_30fps")?);
    let mut runs = Vec::new();
    for (number, line) in lines {
        if line.trim().is_empty() {
            continue;
        }
        let cells: Vec<&str> = line.split('\t').map(str::trim).collect();
        let wrong = |expected: &str| DatasetError::ListLine {
            path: index.clone(),
            line: number + 1,
            expected: expected.to_owned(),
            got: line.to_owned(),
        };
        if cells.len() != header.len() {
            return Err(wrong("as many columns as the first line has"));
        }
        if cells[in_split] != split {
            continue;
        }
        if !is_below(cells[list]) {
            return Err(wrong("a list file in the folder of the index"));
        }
        let expected: usize = cells[frames].parse().map_err(|_| wrong("a number of frames"))?;
        let rate_hz: f64 = cells[rate].parse().map_err(|_| wrong("a rate in Hz"))?;
        if !(rate_hz.is_finite() && rate_hz > 0.0) {
            return Err(wrong("a rate in Hz above 0"));
        }
        let path = folder.join(cells[list]);
        if !path.is_file() {
            return Err(DatasetError::MissingPart {
                path,
                what: "it lists the images of a sequence",
                found: format!("{} names it", index.display()),
            });
        }
        let images: Vec<(usize, String)> = read_text(&path)?
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| (number + 1, relative(line.trim()).to_owned()))
            .collect();
        if images.len() != expected {
            return Err(DatasetError::Count { path, stated_in: index, expected, got: images.len() });
        }
        let name = cells[list].strip_suffix(".txt").unwrap_or(cells[list]).to_owned();
        let sequence = Sequence { name, drive: cells[drive].to_owned(), rate_hz: Some(rate_hz) };
        runs.push(Run { sequence, list: path, images });
    }
    Ok(runs)
}
