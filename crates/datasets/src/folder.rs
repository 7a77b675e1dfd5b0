//! Any folder of images.
//!
//! Images are `ROOT/SPLIT/**/*.{png,jpg,jpeg}` (any case), sorted by path; a sub-folder is a sequence (`.` for images
//! directly in the split). Labels, where a command needs them, are `ROOT/SPLITannot/<same path>.png` with
//! `ROOT/classes.toml`; for the split `.` they are in `ROOT/.annot` or `ROOT/annot`. Hidden files and folders, and a folder
//! `Xannot` beside a folder `X`, are not searched for images. Videos beside images are left out with a warning.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use segcore::hierarchy::{ClassId, TrainId};
use segcore::label_space::{Class, LabelSpace};
use serde::Deserialize;

use crate::annotation::{AnnotationValues, IGNORE};
use crate::camvid::{check_files, read_text};
use crate::sequences::{Sequence, select};
use crate::{Annotation, Dataset, DatasetError, SampleEntry};

const IMAGE_EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];
const VIDEO_EXTENSIONS: [&str; 2] = ["mp4", "avi"];

pub(crate) struct Folder {
    root: PathBuf,
    split: String,
    sequences: Vec<Sequence>,
    samples: Vec<SampleEntry>,
    label_space: LabelSpace,
    /// `None` without `classes.toml`.
    values: Option<AnnotationValues>,
}

impl Folder {
    pub(crate) fn open(root: &Path, split: &str, selection: &[String]) -> Result<Self, DatasetError> {
        // `a/./b/` and `a/b` are one split.
        let parts: Vec<String> = Path::new(split)
            .components()
            .filter_map(|part| match part {
                std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                _ => None,
            })
            .collect();
        let folder = root.join(parts.join("/"));
        if !folder.is_dir() {
            return Err(DatasetError::MissingPart {
                path: folder,
                what: "the folder of the split's images",
                found: found_folders(root),
            });
        }
        let annotations = if parts.is_empty() {
            [".annot", "annot"].map(|name| root.join(name)).into_iter().find(|path| path.is_dir())
        } else {
            Some(root.join(format!("{}annot", parts.join("/"))))
        };
        let mut found = Found::default();
        // The split may be a hidden folder; only what is inside it is filtered.
        let is_root = parts.is_empty();
        found.walk(&folder, "", is_root, &mut HashSet::new())?;
        let (sequences, samples) = samples_of(&folder, split, found, annotations.as_deref())?;
        let (sequences, samples) = select(split, sequences, samples, selection)?;
        let (label_space, values) = match read_classes(root)? {
            Some((label_space, ignore)) => {
                let values = AnnotationValues::new(&label_space, ignore);
                (label_space, Some(values))
            }
            None => (LabelSpace { name: "unlabelled".to_owned(), classes: Vec::new(), ignore_id: IGNORE }, None),
        };
        Ok(Self { root: root.to_owned(), split: split.to_owned(), sequences, samples, label_space, values })
    }

    fn missing_classes(&self) -> DatasetError {
        DatasetError::MissingPart {
            path: self.root.join("classes.toml"),
            what: "it says what the values of the annotations mean (`[[class]]` with `id`, `name`, `color`, `thing`)",
            found: "images without classes".to_owned(),
        }
    }
}

impl Dataset for Folder {
    fn name(&self) -> &str {
        "folder"
    }

    fn split(&self) -> &str {
        &self.split
    }

    fn label_space(&self) -> LabelSpace {
        self.label_space.clone()
    }

    fn samples(&self) -> &[SampleEntry] {
        &self.samples
    }

    fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    fn check_annotations(&self) -> Result<(), DatasetError> {
        if self.values.is_none() {
            return Err(self.missing_classes());
        }
        if let Some(entry) = self.samples.iter().find(|entry| entry.annotation.is_none()) {
            return Err(DatasetError::MissingPart {
                path: self.root.join("annot"),
                what: "the folder of the annotations",
                found: format!("{} without annotation", entry.image.display()),
            });
        }
        check_files("annotations", &self.split, self.samples.iter().filter_map(|entry| entry.annotation.as_deref()))
    }

    fn read_annotation(&self, entry: &SampleEntry) -> Result<Annotation, DatasetError> {
        self.values.as_ref().ok_or_else(|| self.missing_classes())?.read(entry)
    }
}

fn found_folders(root: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    if names.is_empty() { "no folders".to_owned() } else { format!("folders {}", names.join(", ")) }
}

/// Files of a split, as paths relative to it with `/`.
#[derive(Default)]
struct Found {
    images: Vec<String>,
    videos: Vec<String>,
}

impl Found {
    /// Looks through `folder`, whose path relative to the split is `prefix` (empty, or with a `/` at its end).
    fn walk(
        &mut self,
        folder: &Path,
        prefix: &str,
        is_root: bool,
        visited: &mut HashSet<PathBuf>,
    ) -> Result<(), DatasetError> {
        let read_error = |source| DatasetError::Read { path: folder.to_owned(), source };
        // Links to folders are followed, but never in a circle.
        if !visited.insert(folder.canonicalize().map_err(read_error)?) {
            return Ok(());
        }
        let mut folders: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(read_error)? {
            let entry = entry.map_err(read_error)?;
            let path = entry.path();
            let is_folder = path.is_dir();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
            let is_image = !is_folder && IMAGE_EXTENSIONS.contains(&extension.as_str());
            let is_video = !is_folder && VIDEO_EXTENSIONS.contains(&extension.as_str());
            if !(is_folder || is_image || is_video) {
                continue;
            }
            let name = entry.file_name().into_string().map_err(|_| DatasetError::FileName { path })?;
            if name.starts_with('.') {
                continue;
            }
            if is_folder {
                folders.push(name);
            } else if is_image {
                self.images.push(format!("{prefix}{name}"));
            } else {
                self.videos.push(format!("{prefix}{name}"));
            }
        }
        for name in &folders {
            let is_annotation = name
                .strip_suffix("annot")
                .is_some_and(|images| (images.is_empty() && is_root) || folders.iter().any(|other| other == images));
            if !is_annotation {
                self.walk(&folder.join(name), &format!("{prefix}{name}/"), false, visited)?;
            }
        }
        Ok(())
    }
}

fn samples_of(
    folder: &Path,
    split: &str,
    mut found: Found,
    annotations: Option<&Path>,
) -> Result<(Vec<Sequence>, Vec<SampleEntry>), DatasetError> {
    found.videos.sort();
    if found.images.is_empty() {
        return Err(match found.videos.first() {
            Some(first) => DatasetError::OnlyVideos {
                path: folder.to_owned(),
                num_videos: found.videos.len(),
                first: PathBuf::from(first),
            },
            None => DatasetError::EmptySplit {
                split: split.to_owned(),
                path: folder.to_owned(),
                remedy: "has no file *.png, *.jpg or *.jpeg",
            },
        });
    }
    if let Some(first) = found.videos.first() {
        log::warn!(
            "{} has {} video files ({first}) beside its images: they are left out; extract their frames as PNG or JPEG \
             if they belong to the data set",
            folder.display(),
            found.videos.len()
        );
    }
    // Sequence by sequence, each by name.
    let split_path = |path: &str| {
        let (sequence, file) = path.rsplit_once('/').unwrap_or((".", path));
        (sequence.to_owned(), file.to_owned())
    };
    found.images.sort_by_cached_key(|path| split_path(path));
    let mut sequences: Vec<Sequence> = Vec::new();
    let mut samples: Vec<SampleEntry> = Vec::with_capacity(found.images.len());
    let mut image_of_name: HashMap<String, PathBuf> = HashMap::new();
    let mut index_in_sequence = 0;
    for path in &found.images {
        let (sequence, _) = split_path(path);
        if sequences.last().is_none_or(|last| last.name != sequence) {
            sequences.push(Sequence { name: sequence.clone(), drive: sequence.clone(), rate_hz: None });
            index_in_sequence = 0;
        }
        let name = path.rsplit_once('.').map_or(path.as_str(), |(stem, _)| stem).to_owned();
        let image = folder.join(path);
        if let Some(first) = image_of_name.insert(name.clone(), image.clone()) {
            return Err(DatasetError::SameName { first, second: image });
        }
        let annotation = annotations.map(|annotations| annotations.join(format!("{name}.png")));
        samples.push(SampleEntry { name, image, annotation, sequence, index_in_sequence });
        index_in_sequence += 1;
    }
    Ok((sequences, samples))
}

/// `classes.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassesFile {
    /// Name of the label space.
    #[serde(default = "default_name")]
    name: String,
    /// Value of pixels without class.
    #[serde(default = "default_ignore")]
    ignore: u8,
    class: Vec<ClassEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassEntry {
    id: u8,
    name: String,
    color: [u8; 3],
    #[serde(default)]
    thing: bool,
}

fn default_name() -> String {
    "folder".to_owned()
}

fn default_ignore() -> u8 {
    IGNORE
}

/// The classes in the order of the file (train ids from 0) and the value of pixels without class.
fn read_classes(root: &Path) -> Result<Option<(LabelSpace, u8)>, DatasetError> {
    let path = root.join("classes.toml");
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |reason: String| DatasetError::Classes { path: path.clone(), reason };
    let file: ClassesFile = toml::from_str(&read_text(&path)?).map_err(|error| wrong(error.to_string()))?;
    if file.class.is_empty() {
        return Err(wrong("has no `[[class]]`: expected at least one".to_owned()));
    }
    if file.class.len() > usize::from(IGNORE) {
        return Err(wrong(format!("has {} classes: expected at most 255", file.class.len())));
    }
    let mut seen_ids: HashSet<u8> = HashSet::new();
    let mut seen_names: HashSet<&str> = HashSet::new();
    for class in &file.class {
        if class.id == file.ignore {
            return Err(wrong(format!("class `{}` has the id {} of `ignore`: choose another", class.name, class.id)));
        }
        if !seen_ids.insert(class.id) {
            return Err(wrong(format!("two classes have the id {}: ids must differ", class.id)));
        }
        if !seen_names.insert(&class.name) {
            return Err(wrong(format!("two classes are called `{}`: names must differ", class.name)));
        }
    }
    let classes = (0u8..)
        .zip(&file.class)
        .map(|(train_id, class)| Class {
            name: class.name.clone(),
            train_id: TrainId(train_id),
            color: class.color,
            thing: class.thing,
            class_id: ClassId(i32::from(class.id)),
        })
        .collect();
    Ok(Some((LabelSpace { name: file.name, classes, ignore_id: IGNORE }, file.ignore)))
}
