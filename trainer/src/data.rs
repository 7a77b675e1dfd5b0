//! Opens the images of a run and says what is there before hours are spent. [T1]

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;

use datasets::{CheckOptions, Dataset, DatasetError, DatasetKind, DriveProgress, FrameChoice, open_drives};
use models::files::sha256_hex;
use segcore::image::ImageSize;

use crate::edges::{cache_folder, resolved};
use crate::error::Result;
use crate::progress::{Progress, say};
use crate::settings::{DataSettings, dataset_kind};

/// A data set, and how many of its videos could not be read to their end (they are named on stderr).
pub struct Opened {
    /// The images.
    pub dataset: Box<dyn Dataset>,
    /// Videos with a problem.
    pub damaged_videos: usize,
}

/// Opens the data set; `None` when that was interrupted. Frames of videos in a folder are extracted into the cache first.
///
/// # Errors
/// No `--root`; what the data set's own checks find.
pub fn open(data: &DataSettings, quiet: bool, interrupt: &AtomicBool) -> Result<Option<Opened>> {
    let root = data.root()?;
    let kind = dataset_kind(&data.dataset)?;
    if kind != DatasetKind::Folder {
        let dataset = datasets::open(kind, root, &data.split, &data.sequences)?;
        return Ok(Some(Opened { dataset, damaged_videos: 0 }));
    }
    let choice = data.frames.choice();
    let cache = frames_folder(data, &choice)?;
    let progress = Mutex::new(None);
    let show = |at: DriveProgress<'_>| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = progress.get_or_insert_with(|| Progress::new("videos", 0, at.num_videos as u64, quiet));
        progress.update(at.videos_done as u64, || {
            format!("{}: frame {} of {}, {} taken", at.video, at.num_decoded, at.num_promised, at.num_kept)
        });
    };
    let opened = open_drives(root, &data.split, &data.sequences, &cache, &choice, interrupt, &show);
    if let Some(progress) = &*progress.lock().unwrap_or_else(PoisonError::into_inner) {
        progress.finish();
    }
    let drives = match opened {
        Err(DatasetError::Interrupted) => return Ok(None),
        other => other?,
    };
    if !quiet {
        for video in &drives.videos {
            let problem = video.problem.as_ref().map_or_else(String::new, |problem| format!("; {problem}"));
            let (path, kept, decoded) = (video.path.display(), video.num_kept, video.num_decoded);
            say(&format!("{path}: {kept} of {decoded} frames taken{problem}"));
        }
    }
    let damaged_videos = drives.videos.iter().filter(|video| video.problem.is_some()).count();
    Ok(Some(Opened { dataset: drives.dataset, damaged_videos }))
}

/// Counts, sizes and damage of the images, said on stderr; `crop` is the smallest useful size. False when interrupted.
///
/// # Errors
/// As [`Dataset::check`].
pub fn check(dataset: &dyn Dataset, crop: usize, quiet: bool, interrupt: &AtomicBool) -> Result<bool> {
    let options = CheckOptions { min_size: ImageSize::new(crop, crop), ..CheckOptions::default() };
    let report = match dataset.check(&options, interrupt) {
        Err(DatasetError::Interrupted) => return Ok(false),
        other => other?,
    };
    if !quiet {
        say(&format!("{}, split `{}`: {report}", dataset.name(), dataset.split()));
    }
    Ok(true)
}

/// Where the frames of this folder's videos lie, chosen in this way.
fn frames_folder(data: &DataSettings, choice: &FrameChoice) -> Result<PathBuf> {
    let place = data.root.as_deref().map(|root| resolved(&root.join(&data.split))).unwrap_or_default();
    let hash = sha256_hex(format!("{}\n{choice:?}", place.display()).as_bytes());
    Ok(cache_folder()?.join("frames").join(&hash[..32]))
}
