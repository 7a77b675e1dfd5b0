//! What all data sets do with folders, list files and lists of files.

use std::path::{Path, PathBuf};

use crate::{DatasetError, SampleEntry};

/// Extensions of images, lower case.
pub(crate) const IMAGE_EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// What is directly in a folder, sorted by name; hidden entries are left out.
#[derive(Default)]
pub(crate) struct Listing {
    /// Names of the folders.
    pub(crate) folders: Vec<String>,
    /// Names of the images (`*.png`, `*.jpg`, `*.jpeg`, any case).
    pub(crate) images: Vec<String>,
}

impl Listing {
    /// Reads a folder. Names that are not Unicode are refused where they belong to folders or images.
    pub(crate) fn read(folder: &Path) -> Result<Self, DatasetError> {
        let read_error = |source| DatasetError::Read { path: folder.to_owned(), source };
        let mut listing = Self::default();
        for entry in std::fs::read_dir(folder).map_err(read_error)? {
            let entry = entry.map_err(read_error)?;
            let path = entry.path();
            let is_image = has_extension(&path, &IMAGE_EXTENSIONS);
            let kind = entry.file_type().map_err(read_error)?;
            // Asking the disk about every image of a large folder takes longer than all the rest; links are rare.
            let is_folder = kind.is_dir() || (kind.is_symlink() && path.is_dir());
            if !(is_folder || is_image) {
                continue;
            }
            let name = entry.file_name().into_string().map_err(|_| DatasetError::FileName { path })?;
            if name.starts_with('.') {
                continue;
            }
            if is_folder { listing.folders.push(name) } else { listing.images.push(name) }
        }
        listing.folders.sort();
        listing.images.sort();
        Ok(listing)
    }
}

/// Whether a path ends in one of the extensions (lower case), in any case.
pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    extensions.contains(&extension.as_str())
}

/// `a/b.png` → `a/b`; what has no extension stays.
pub(crate) fn without_extension(path: &str) -> &str {
    path.rsplit_once('.').filter(|(_, extension)| !extension.contains('/')).map_or(path, |(stem, _)| stem)
}

/// `./a//b/` → `a/b`: however a split is written, it is one. Splits have been checked to stay below the root.
pub(crate) fn normal_split(split: &str) -> String {
    let parts = Path::new(split).components().filter_map(|part| match part {
        std::path::Component::Normal(name) => name.to_str(),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Fails with the first few and the number of the files that are not there.
pub(crate) fn check_files<'a>(
    what: &'static str,
    split: &str,
    paths: impl Iterator<Item = &'a Path>,
) -> Result<(), DatasetError> {
    let mut total = 0;
    let mut missing: Vec<PathBuf> = Vec::new();
    for path in paths {
        total += 1;
        if !path.is_file() {
            missing.push(path.to_owned());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let first = missing.iter().take(DatasetError::NUM_NAMED).cloned().collect();
    Err(DatasetError::MissingFiles { what, split: split.to_owned(), missing: missing.len(), total, first })
}

/// Fails when a sample has no annotation, or one that is not there.
pub(crate) fn check_annotation_files(split: &str, samples: &[SampleEntry]) -> Result<(), DatasetError> {
    if let Some(entry) = samples.iter().find(|entry| entry.annotation.is_none()) {
        return Err(DatasetError::NoAnnotation { image: entry.image.clone() });
    }
    check_files("annotations", split, samples.iter().filter_map(|entry| entry.annotation.as_deref()))
}

pub(crate) fn read_text(path: &Path) -> Result<String, DatasetError> {
    std::fs::read_to_string(path).map_err(|source| DatasetError::Read { path: path.to_owned(), source })
}

/// The folders in `root`, for messages.
pub(crate) fn found_folders(root: &Path) -> String {
    match Listing::read(root) {
        Ok(listing) if !listing.folders.is_empty() => format!("folders {}", listing.folders.join(", ")),
        _ => "no folders".to_owned(),
    }
}
