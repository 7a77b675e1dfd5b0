//! Any folder of images.
//!
//! Images are `ROOT/SPLIT/**/*.{png,jpg,jpeg}` (any case), sorted by path; a sub-folder is a sequence (`.` for images
//! directly in the split). Labels, where a command needs them, are `ROOT/SPLITannot/<same path>.png` with
//! `ROOT/classes.toml`; for the split `.` they are in `ROOT/.annot` or `ROOT/annot`. Hidden files and folders, and a folder
//! `Xannot` beside a folder `X`, are not searched for images. Videos beside images are left out with a
//! warning; [`crate::open_drives`] takes their frames.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use segcore::label_space::{CLASSES_FILE, ClassTable, LabelSpace};

use crate::annotation::{AnnotationValues, IGNORE};
use crate::files::{
    IMAGE_EXTENSIONS, check_files, found_folders, has_extension, normal_split, read_text, without_extension,
};
use crate::sequences::{Sequence, select};
use crate::{Annotation, Dataset, DatasetError, SampleEntry};

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

/// An image of the data set, wherever its file is.
pub(crate) struct ImageFile {
    /// Path relative to the split, with `/`: says name and sequence.
    pub(crate) path: String,
    /// The file.
    pub(crate) file: PathBuf,
}

impl Folder {
    pub(crate) fn open(root: &Path, split: &str, selection: &[String]) -> Result<Self, DatasetError> {
        let layout = Layout::find(root, split)?;
        let Layout { folder, videos, .. } = &layout;
        match videos.first() {
            Some(first) if layout.images.is_empty() => {
                let (num_videos, first) = (videos.len(), PathBuf::from(first));
                return Err(DatasetError::OnlyVideos { path: folder.clone(), num_videos, first });
            }
            Some(first) => log::warn!(
                "{} has {} video files ({first}) beside its images: they are left out; extract their frames as PNG or JPEG \
                 if they belong to the data set",
                folder.display(),
                videos.len()
            ),
            None if layout.images.is_empty() => {
                return Err(DatasetError::EmptySplit {
                    split: split.to_owned(),
                    path: folder.clone(),
                    remedy: "has no file *.png, *.jpg or *.jpeg",
                });
            }
            None => {}
        }
        let images = layout.images.iter().map(|path| layout.image(path)).collect();
        Self::of(&layout, images, selection)
    }

    /// The data set of these images, in any order.
    pub(crate) fn of(layout: &Layout, images: Vec<ImageFile>, selection: &[String]) -> Result<Self, DatasetError> {
        let Layout { root, split, annotations, .. } = layout;
        let (sequences, samples) = samples_of(images, annotations.as_deref())?;
        let (sequences, samples) = select(split, sequences, samples, selection)?;
        let (label_space, values) = match read_classes(root)? {
            Some((label_space, ignore)) => {
                let values = AnnotationValues::new(&label_space, Some(ignore));
                (label_space, Some(values))
            }
            None => (LabelSpace { name: "unlabelled".to_owned(), classes: Vec::new(), ignore_id: IGNORE }, None),
        };
        Ok(Self { root: root.clone(), split: split.clone(), sequences, samples, label_space, values })
    }

    fn missing_classes(&self) -> DatasetError {
        DatasetError::MissingPart {
            path: self.root.join(CLASSES_FILE),
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

/// Where the images and annotations of a split are, and what is there.
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) split: String,
    /// The split's folder.
    pub(crate) folder: PathBuf,
    /// The folder of its annotations, if it may have some.
    annotations: Option<PathBuf>,
    /// Images, as paths relative to the split with `/`, in no order.
    pub(crate) images: Vec<String>,
    /// Videos likewise, sorted.
    pub(crate) videos: Vec<String>,
}

impl Layout {
    /// Looks through the split's folder.
    pub(crate) fn find(root: &Path, split: &str) -> Result<Self, DatasetError> {
        let normal = normal_split(split);
        let folder = root.join(&normal);
        if !folder.is_dir() {
            return Err(DatasetError::MissingPart {
                path: folder,
                what: "the folder of the split's images",
                found: found_folders(root),
            });
        }
        let annotations = if normal.is_empty() {
            [".annot", "annot"].map(|name| root.join(name)).into_iter().find(|path| path.is_dir())
        } else {
            Some(root.join(format!("{normal}annot")))
        };
        let mut found = Found::default();
        // The split may be a hidden folder; only what is inside it is filtered.
        let is_root = normal.is_empty();
        found.walk(&folder, "", is_root, &mut HashSet::new())?;
        let Found { images, mut videos } = found;
        videos.sort();
        Ok(Self { root: root.to_owned(), split: split.to_owned(), folder, annotations, images, videos })
    }

    /// An image of the split's folder.
    pub(crate) fn image(&self, path: &str) -> ImageFile {
        ImageFile { path: path.to_owned(), file: self.folder.join(path) }
    }
}

/// The sequence of an image: the folder of its path relative to the split.
pub(crate) fn sequence_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(folder, _)| folder)
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
            let is_image = !is_folder && has_extension(&path, &IMAGE_EXTENSIONS);
            let is_video = !is_folder && has_extension(&path, &VIDEO_EXTENSIONS);
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
    mut images: Vec<ImageFile>,
    annotations: Option<&Path>,
) -> Result<(Vec<Sequence>, Vec<SampleEntry>), DatasetError> {
    // Sequence by sequence, each by name.
    images.sort_by(|a, b| (sequence_of(&a.path), &a.path).cmp(&(sequence_of(&b.path), &b.path)));
    let mut sequences: Vec<Sequence> = Vec::new();
    let mut samples: Vec<SampleEntry> = Vec::with_capacity(images.len());
    let mut image_of_name: HashMap<String, PathBuf> = HashMap::new();
    let mut index_in_sequence = 0;
    for ImageFile { path, file: image } in images {
        let sequence = sequence_of(&path).to_owned();
        if sequences.last().is_none_or(|last| last.name != sequence) {
            sequences.push(Sequence { name: sequence.clone(), drive: sequence.clone(), rate_hz: None });
            index_in_sequence = 0;
        }
        let name = without_extension(&path).to_owned();
        if let Some(first) = image_of_name.insert(name.clone(), image.clone()) {
            return Err(DatasetError::SameName { first, second: image });
        }
        let annotation = annotations.map(|annotations| annotations.join(format!("{name}.png")));
        samples.push(SampleEntry { name, image, annotation, sequence, index_in_sequence });
        index_in_sequence += 1;
    }
    Ok((sequences, samples))
}

/// The classes in the order of the file (train ids from 0) and the value of pixels without class.
fn read_classes(root: &Path) -> Result<Option<(LabelSpace, u8)>, DatasetError> {
    let path = root.join(CLASSES_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |reason: String| DatasetError::Classes { path: path.clone(), reason };
    let table: ClassTable = toml::from_str(&read_text(&path)?).map_err(|error| wrong(error.to_string()))?;
    let label_space = table.label_space().map_err(|error| wrong(error.to_string()))?;
    Ok(Some((label_space, table.ignore)))
}
