//! A folder of drives: videos, images or both, to learn from without labels.
//!
//! The chosen frames of each video (see [`FrameChoice`]) are extracted once into
//! `CACHE/<video path without extension>/NNNNNN.png`, NNNNNN = the frame's place in the video. Beside them `frames.toml`
//! says of which video and by which choice; when either changes, the frames are made again. A folder comes into place by
//! one rename, so it is complete or not there, and an interrupted run goes on with the videos that are missing. Folders
//! that killed runs have left under temporary names are removed.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::image_io::{read_rgb, write_file_atomically, write_rgb8};
use serde::{Deserialize, Serialize};
use video::VideoReader;

use crate::check::goes_on;
use crate::files::without_extension;
use crate::folder::{Folder, ImageFile, Layout, sequence_of};
use crate::frame_choice::{Chooser, Spread};
use crate::sequences::{Sequence, select};
use crate::{Dataset, DatasetError, FrameChoice};

/// Name of the file that says what a folder of frames was made of.
const MARKER: &str = "frames.toml";
/// Raised when the same video and choice give other frames than before.
const RECIPE: u32 = 1;
/// Frames between two reports of progress.
const REPORT_EVERY: u64 = 16;

/// What [`open_drives`] found.
pub struct Drives {
    /// Images and chosen frames; every video is a sequence named by its path without extension.
    pub dataset: Box<dyn Dataset>,
    /// The videos, by path.
    pub videos: Vec<VideoReport>,
    /// Images that [`FrameChoice::thin_images`] left out.
    pub num_images_left_out: usize,
}

/// What became of a video.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VideoReport {
    /// The file.
    pub path: PathBuf,
    /// Frames decoded; 0 when it cannot be read at all and is left out.
    pub num_decoded: u64,
    /// Frames that it promises.
    pub num_promised: u64,
    /// Frames chosen.
    pub num_kept: usize,
    /// Whether they were in the cache already.
    pub was_cached: bool,
    /// What is wrong with it, if something is.
    pub problem: Option<String>,
}

/// How far the extraction is.
#[derive(Clone, Copy, Debug)]
pub struct DriveProgress<'a> {
    /// The video that has got on, its path relative to the split.
    pub video: &'a str,
    /// Frames of it decoded.
    pub num_decoded: u64,
    /// Frames that it promises.
    pub num_promised: u64,
    /// Frames of it chosen so far.
    pub num_kept: usize,
    /// Videos that are done, of any outcome.
    pub videos_done: usize,
    /// Videos in all.
    pub num_videos: usize,
}

/// Opens `ROOT/SPLIT` with its images and the chosen frames of its videos (`*.mp4`, `*.avi`), which are extracted into
/// `cache` where they are not there yet: several videos at once, in the current rayon pool.
///
/// `sequences` selects as in [`crate::open`]: an image's folder, or a video's path without extension; only selected videos
/// are decoded. `progress` is called from several threads.
///
/// A video that cannot be read is left out, one that is cut or damaged is used as far as it can be decoded; both are
/// logged as warnings and reported.
///
/// # Errors
/// As [`crate::open`] for a folder; a choice out of range; a cache inside the split's folder; no image and no readable
/// video; a video and a folder, or two videos, whose frames would be in one place; a cache that cannot be written;
/// [`DatasetError::Interrupted`] soon after `interrupt` is set, with the finished videos kept.
pub fn open_drives(
    root: &Path,
    split: &str,
    sequences: &[String],
    cache: &Path,
    choice: &FrameChoice,
    interrupt: &AtomicBool,
    progress: &(dyn Fn(DriveProgress<'_>) + Sync),
) -> Result<Drives, DatasetError> {
    crate::check_split(split)?;
    choice.validate()?;
    if !root.is_dir() {
        return Err(DatasetError::MissingRoot { path: root.to_owned() });
    }
    let layout = Layout::find(root, split)?;
    if layout.images.is_empty() && layout.videos.is_empty() {
        return Err(DatasetError::EmptySplit {
            split: split.to_owned(),
            path: layout.folder,
            remedy: "has no image (*.png, *.jpg, *.jpeg) and no video (*.mp4, *.avi)",
        });
    }
    refuse_same_places(&layout)?;
    let selected = selected_sequences(&layout, sequences)?;
    let chosen_videos: Vec<&String> =
        layout.videos.iter().filter(|path| selected.contains(without_extension(path))).collect();
    if !chosen_videos.is_empty() {
        refuse_cache_inside(cache, &layout.folder)?;
    }
    let done = AtomicUsize::new(0);
    let extracted: Vec<Extracted> = (chosen_videos.par_iter())
        .map(|path| {
            goes_on(interrupt)?;
            let report = |num_decoded, num_promised, num_kept| {
                let (videos_done, num_videos) = (done.load(Ordering::Relaxed), chosen_videos.len());
                progress(DriveProgress { video: path, num_decoded, num_promised, num_kept, videos_done, num_videos });
            };
            let target = cache.join(without_extension(path));
            let extracted = extract(&layout.folder.join(path), &target, choice, interrupt, &report)?;
            done.fetch_add(1, Ordering::Relaxed);
            report(extracted.num_decoded, extracted.num_promised, extracted.frames.len());
            Ok(extracted)
        })
        .collect::<Result<_, DatasetError>>()?;
    let images: Vec<ImageFile> = layout
        .images
        .iter()
        .filter(|path| selected.contains(sequence_of(path)))
        .map(|path| layout.image(path))
        .collect();
    let num_images = images.len();
    let mut images = if choice.thin_images { thin(images, choice, interrupt)? } else { images };
    let num_images_left_out = num_images - images.len();
    let mut videos = Vec::with_capacity(extracted.len());
    for (path, extracted) in chosen_videos.iter().zip(extracted) {
        let sequence = without_extension(path);
        images.extend(extracted.frames.iter().map(|index| ImageFile {
            path: format!("{sequence}/{}", frame_file(*index)),
            file: cache.join(sequence).join(frame_file(*index)),
        }));
        videos.push(extracted.report(layout.folder.join(path)));
    }
    for video in &videos {
        if let Some(problem) = &video.problem {
            log::warn!("{problem}");
        }
    }
    if images.is_empty() {
        return Err(DatasetError::NoReadableVideo {
            path: layout.folder,
            num_videos: videos.len(),
            first: videos.into_iter().find_map(|video| video.problem).unwrap_or_else(|| "it has no frame".to_owned()),
        });
    }
    // Selected already; a video that was left out is no sequence any more.
    let dataset = Box::new(Folder::of(&layout, images, &[])?);
    Ok(Drives { dataset, videos, num_images_left_out })
}

/// Two videos that differ in their extension, or a video `a.mp4` beside a folder `a` that is searched.
fn refuse_same_places(layout: &Layout) -> Result<(), DatasetError> {
    let mut taken: HashSet<&str> = HashSet::new();
    for path in layout.images.iter().chain(&layout.videos) {
        let mut folder = sequence_of(path);
        while taken.insert(folder) {
            folder = sequence_of(folder);
        }
    }
    for path in &layout.videos {
        let place = without_extension(path);
        if !taken.insert(place) {
            let same = |other: &&String| *other != path && without_extension(other) == place;
            let first = layout.videos.iter().find(same).map_or(place, String::as_str);
            return Err(DatasetError::SameName { first: layout.folder.join(first), second: layout.folder.join(path) });
        }
    }
    Ok(())
}

/// Names of the sequences that `selection` asks for, before anything is decoded.
fn selected_sequences(layout: &Layout, selection: &[String]) -> Result<HashSet<String>, DatasetError> {
    let images = layout.images.iter().map(|path| sequence_of(path));
    let mut names: Vec<&str> = images.chain(layout.videos.iter().map(|path| without_extension(path))).collect();
    names.sort_unstable();
    names.dedup();
    let sequence = |name: &str| Sequence { name: name.to_owned(), drive: name.to_owned(), rate_hz: None };
    let (kept, _) = select(&layout.split, names.into_iter().map(sequence).collect(), Vec::new(), selection)?;
    Ok(kept.into_iter().map(|sequence| sequence.name).collect())
}

/// Frames in the split's folder would be images of the data set the next time.
fn refuse_cache_inside(cache: &Path, folder: &Path) -> Result<(), DatasetError> {
    let read_error = |path: &Path, source| DatasetError::Read { path: path.to_owned(), source };
    let absolute = std::path::absolute(cache).map_err(|source| read_error(cache, source))?;
    let real_folder = folder.canonicalize().map_err(|source| read_error(folder, source))?;
    // What is not there yet has no canonical path; the folders above it say where it would be.
    let existing = absolute.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let real = existing.map_or_else(
        || absolute.clone(),
        |(above, real)| absolute.strip_prefix(above).map_or_else(|_| real.clone(), |rest| real.join(rest)),
    );
    let is_searched = real.strip_prefix(&real_folder).is_ok_and(|inside| {
        !inside.components().any(|part| part.as_os_str().to_str().is_some_and(|name| name.starts_with('.')))
    });
    if is_searched {
        return Err(DatasetError::CacheInside { cache: cache.to_owned(), folder: folder.to_owned() });
    }
    Ok(())
}

/// Leaves out images that do not differ from the last one of their folder that was kept.
fn thin(images: Vec<ImageFile>, choice: &FrameChoice, interrupt: &AtomicBool) -> Result<Vec<ImageFile>, DatasetError> {
    let mut images = images;
    images.sort_by(|a, b| (sequence_of(&a.path), &a.path).cmp(&(sequence_of(&b.path), &b.path)));
    let groups: Vec<&[ImageFile]> = images.chunk_by(|a, b| sequence_of(&a.path) == sequence_of(&b.path)).collect();
    let kept: Vec<Vec<bool>> = (groups.par_iter())
        .map(|group| {
            let mut chooser = Chooser::new(choice);
            let keep = |image: &ImageFile| {
                goes_on(interrupt)?;
                // What cannot be read is for others to report.
                Ok(read_rgb(&image.file).map_or(true, |frame| chooser.differs(&frame)))
            };
            group.iter().map(keep).collect()
        })
        .collect::<Result<_, DatasetError>>()?;
    let mut kept = kept.into_iter().flatten();
    images.retain(|_| kept.next().unwrap_or(true));
    Ok(images)
}

/// The content of [`MARKER`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    source: Source,
    num_decoded: u64,
    num_promised: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Places of the chosen frames in the video.
    frames: Vec<u64>,
}

/// What decides which frames are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    recipe: u32,
    video_bytes: u64,
    /// Time of its last change, seconds since 1970 with nine decimals.
    video_modified: String,
    min_difference: f32,
    max_per_video: usize,
}

impl Source {
    fn of(video: &Path, choice: &FrameChoice) -> std::io::Result<Self> {
        let metadata = fs::metadata(video)?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            recipe: RECIPE,
            video_bytes: metadata.len(),
            video_modified: format!("{}.{:09}", modified.as_secs(), modified.subsec_nanos()),
            min_difference: choice.min_difference,
            max_per_video: choice.max_per_video,
        })
    }
}

/// The frames of a video.
#[derive(Default)]
struct Extracted {
    frames: Vec<u64>,
    num_decoded: u64,
    num_promised: u64,
    was_cached: bool,
    problem: Option<String>,
}

impl Extracted {
    fn of(video: &Path, marker: Marker, was_cached: bool) -> Self {
        let Marker { num_decoded, num_promised, problem, frames, .. } = marker;
        let problem = problem.map(|problem| format!("{}: {problem}", video.display()));
        Self { frames, num_decoded, num_promised, was_cached, problem }
    }

    fn left_out(problem: String) -> Self {
        Self { problem: Some(problem), ..Self::default() }
    }

    fn report(self, path: PathBuf) -> VideoReport {
        let Self { frames, num_decoded, num_promised, was_cached, problem } = self;
        VideoReport { path, num_decoded, num_promised, num_kept: frames.len(), was_cached, problem }
    }
}

fn frame_file(index: u64) -> String {
    format!("{index:06}.png")
}

/// What is in the cache for this source, if it is complete.
fn cached(target: &Path, source: &Source) -> Option<Marker> {
    let marker: Marker = toml::from_str(&fs::read_to_string(target.join(MARKER)).ok()?).ok()?;
    let is_there = |index: &u64| fs::metadata(target.join(frame_file(*index))).is_ok_and(|file| file.len() > 0);
    (marker.source == *source && marker.frames.iter().all(is_there)).then_some(marker)
}

/// Makes sure that `target` has the chosen frames of `video`; a video that cannot be read has a problem and no frames.
fn extract(
    video: &Path,
    target: &Path,
    choice: &FrameChoice,
    interrupt: &AtomicBool,
    report: &dyn Fn(u64, u64, usize),
) -> Result<Extracted, DatasetError> {
    let source = match Source::of(video, choice) {
        Ok(source) => source,
        Err(error) => {
            return Ok(Extracted::left_out(format!("{}: cannot be read: {error}; left out", video.display())));
        }
    };
    if let Some(marker) = cached(target, &source) {
        return Ok(Extracted::of(video, marker, true));
    }
    let mut reader = match VideoReader::open(video) {
        Ok(reader) => reader,
        Err(error) => return Ok(Extracted::left_out(format!("{error}; the video is left out"))),
    };
    let temporary = Temporary::beside(target)?;
    let marker = match write_frames(&mut reader, source, &temporary.path, choice, interrupt, report)? {
        Ok(marker) => marker,
        Err(problem) => return Ok(Extracted::left_out(format!("{problem}; the video is left out"))),
    };
    temporary.replace(target, &marker.source)?;
    Ok(Extracted::of(video, marker, false))
}

/// Decodes a video and writes its chosen frames and the marker into `folder`; the inner error says why there is none.
fn write_frames(
    reader: &mut VideoReader,
    source: Source,
    folder: &Path,
    choice: &FrameChoice,
    interrupt: &AtomicBool,
    report: &dyn Fn(u64, u64, usize),
) -> Result<Result<Marker, String>, DatasetError> {
    let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
    let (mut chooser, mut spread) = (Chooser::new(choice), Spread::new(choice.max_per_video));
    let mut dropped = Vec::new();
    let mut num_kept = 0usize;
    let num_promised = reader.info().frames_promised;
    let mut broke_off = None;
    loop {
        goes_on(interrupt)?;
        match reader.next_frame(&mut frame) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) if reader.frames_decoded() == 0 => return Ok(Err(error.to_string())),
            Err(error) => {
                broke_off = Some(error.to_string());
                break;
            }
        }
        if chooser.differs(&frame) && spread.offer(frame.index, &mut dropped) {
            write_rgb8(folder.join(frame_file(frame.index)), frame.size, &frame.pixels)?;
            num_kept += 1;
        }
        num_kept -= remove_frames(folder, &mut dropped)?;
        if reader.frames_decoded().is_multiple_of(REPORT_EVERY) {
            report(reader.frames_decoded(), num_promised, num_kept);
        }
    }
    let frames = spread.finish(&mut dropped);
    remove_frames(folder, &mut dropped)?;
    let num_decoded = reader.frames_decoded();
    let reason = broke_off.as_deref().or(reader.first_problem()).unwrap_or("the end is missing");
    let problem = (num_decoded < num_promised || broke_off.is_some())
        .then(|| format!("only {num_decoded} of {num_promised} frames can be decoded ({reason}); these are used"));
    let marker = Marker { source, num_decoded, num_promised, problem, frames };
    let path = folder.join(MARKER);
    let text = toml::to_string(&marker).map_err(|error| DatasetError::Write {
        path: path.clone(),
        source: std::io::Error::other(error.to_string()),
    })?;
    write_file_atomically(&path, text.as_bytes())?;
    Ok(Ok(marker))
}

/// Removes frames and empties the list; gives their number.
fn remove_frames(folder: &Path, dropped: &mut Vec<u64>) -> Result<usize, DatasetError> {
    let number = dropped.len();
    for index in dropped.drain(..) {
        let path = folder.join(frame_file(index));
        fs::remove_file(&path).map_err(|source| DatasetError::Write { path, source })?;
    }
    Ok(number)
}

/// A folder under a temporary name beside its own; removed unless it came into place.
struct Temporary {
    path: PathBuf,
    is_placed: bool,
}

impl Temporary {
    fn beside(target: &Path) -> Result<Self, DatasetError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let folder = target.parent().unwrap_or(Path::new("."));
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or("frames");
        let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".{name}.{}.{counter}.tmp", std::process::id()));
        fs::create_dir_all(folder).map_err(|source| DatasetError::Write { path: folder.to_owned(), source })?;
        remove_leftovers(folder, name);
        // A process that was killed may have had this process's number.
        let made = match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::remove_dir_all(&path).and_then(|()| fs::create_dir(&path))
            }
            made => made,
        };
        made.map_err(|source| DatasetError::Write { path: path.clone(), source })?;
        Ok(Self { path, is_placed: false })
    }

    /// Puts the folder in the place of `target`, unless another process has just put the same there.
    fn replace(mut self, target: &Path, source: &Source) -> Result<(), DatasetError> {
        if cached(target, source).is_some() {
            return Ok(());
        }
        let write_error = |source| DatasetError::Write { path: target.to_owned(), source };
        match fs::remove_dir_all(target) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(write_error(error)),
            _ => {}
        }
        match fs::rename(&self.path, target) {
            Ok(()) => {
                self.is_placed = true;
                Ok(())
            }
            Err(_) if cached(target, source).is_some() => Ok(()),
            Err(error) => Err(write_error(error)),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_placed {
            // Best effort: the next run removes it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the folders `.NAME.PROCESS.NUMBER.tmp` of processes that no longer run. Best effort: they only take space.
fn remove_leftovers(folder: &Path, name: &str) {
    // Without /proc nobody can tell whether a process is still writing.
    if !Path::new("/proc/self").exists() {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let process = file_name.to_str().and_then(|file| {
            let numbers = file.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".tmp")?;
            let (process, counter) = numbers.split_once('.')?;
            counter.parse::<u64>().ok().and(process.parse::<u32>().ok())
        });
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
