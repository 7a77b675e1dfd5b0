//! Frames of videos: chosen, extracted once, resumed, and never half there.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{assert_has, image, names, sequence_names, shared_data, text};
use datasets::{DatasetError, DriveProgress, Drives, FrameChoice, open_drives};
use segcore::image::ImageSize;
use segcore::image_io::{read_rgb, write_rgb8};

/// 1280×720, 38 frames.
fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/clips/highway.mp4")
}

/// 12 small frames.
fn small() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../video/tests/fixtures/fragmented.mp4")
}

fn all_frames() -> FrameChoice {
    FrameChoice { min_difference: 0.0, ..FrameChoice::default() }
}

struct Folders {
    root: tempfile::TempDir,
    cache: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    fn add(&self, video: &Path, name: &str) {
        let path = self.root.path().join("own").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(video, path).unwrap();
    }

    fn open(&self, sequences: &[&str], choice: &FrameChoice) -> Result<Drives, DatasetError> {
        let sequences: Vec<String> = sequences.iter().map(|name| (*name).to_owned()).collect();
        let interrupt = AtomicBool::new(false);
        open_drives(self.root.path(), "own", &sequences, self.cache.path(), choice, &interrupt, &|_| {})
    }

    fn error(&self, choice: &FrameChoice) -> String {
        self.open(&[], choice).err().expect("refused").to_string()
    }

    /// Everything in the cache, relative to it.
    fn cached(&self) -> Vec<String> {
        fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
                if entry.path().is_dir() { walk(&entry.path(), &format!("{name}/"), found) } else { found.push(name) }
            }
        }
        let mut found = Vec::new();
        walk(self.cache.path(), "", &mut found);
        found.sort();
        found
    }
}

#[test]
fn videos_and_images_are_one_data_set() {
    let folders = Folders::new();
    folders.add(&small(), "day/rain.MP4");
    image(&folders.root.path().join("own/a/1.png"));
    image(&folders.root.path().join("own/z.png"));
    let drives = folders.open(&[], &all_frames()).unwrap();
    let data = &*drives.dataset;
    assert_eq!((data.name(), data.split()), ("folder", "own"));
    assert_eq!(sequence_names(data), [".", "a", "day/rain"]);
    let video = &drives.videos[0];
    assert_eq!((video.num_decoded, video.num_promised, video.was_cached, &video.problem), (12, 12, false, &None));
    assert_eq!(names(data)[..3], ["z", "a/1", "day/rain/000000"]);
    assert_eq!((data.samples().len(), video.num_kept), (14, 12));
    let last = data.samples().last().unwrap();
    assert_eq!((last.name.as_str(), last.index_in_sequence), ("day/rain/000011", 11));
    assert_eq!(last.image, folders.cache.path().join("day/rain/000011.png"));
    assert!(data.read_image(last).unwrap().size.num_pixels() > 0);
    // The names decide where edges go, so none may be there twice; nothing is written beside the videos.
    assert_eq!(folders.cached().len(), 13);
    assert_eq!(fs::read_dir(folders.root.path().join("own/day")).unwrap().count(), 1);
    assert_eq!(names(&*folders.open(&["a"], &all_frames()).unwrap().dataset), ["a/1"]);
    assert_has(&folders.open(&["rain"], &all_frames()).err().unwrap().to_string(), &["`rain`", "., a, day/rain"]);
}

#[test]
fn frames_are_extracted_once() {
    let folders = Folders::new();
    folders.add(&small(), "v.mp4");
    let before = names(&*folders.open(&[], &all_frames()).unwrap().dataset).join(" ");
    let file = folders.cache.path().join("v/000003.png");
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    let again = folders.open(&[], &all_frames()).unwrap();
    assert!(again.videos[0].was_cached);
    assert_eq!((again.videos[0].num_decoded, names(&*again.dataset).join(" ")), (12, before.clone()));
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
    // A missing or cut frame, another choice, another video: made again.
    let made_again = |choice: &FrameChoice| {
        let drives = folders.open(&[], choice).unwrap();
        assert!(!drives.videos[0].was_cached);
        drives.videos[0].num_kept
    };
    fs::remove_file(&file).unwrap();
    assert_eq!(made_again(&all_frames()), 12);
    text(&file, "");
    assert_eq!(made_again(&all_frames()), 12);
    text(&folders.cache.path().join("v/frames.toml"), "nonsense");
    assert_eq!(made_again(&all_frames()), 12);
    assert_eq!(made_again(&FrameChoice { max_per_video: 3, ..all_frames() }), 3);
    assert_eq!(folders.cached().len(), 4, "{:?}", folders.cached());
    folders.add(&clip(), "v.mp4");
    assert_eq!(made_again(&FrameChoice { max_per_video: 2, ..all_frames() }), 2);
    assert_eq!(read_rgb(folders.cache.path().join("v/000000.png")).unwrap().size, ImageSize::new(1280, 720));
}

#[test]
fn the_limit_spreads_the_frames_over_the_video() {
    let folders = Folders::new();
    folders.add(&small(), "v.mp4");
    let drives = folders.open(&[], &FrameChoice { max_per_video: 4, ..all_frames() }).unwrap();
    assert_eq!(names(&*drives.dataset), ["v/000000", "v/000002", "v/000006", "v/000008"]);
    assert_eq!(folders.cached().len(), 5);
}

#[test]
fn an_interrupted_run_goes_on() {
    let folders = Folders::new();
    folders.add(&small(), "a.mp4");
    folders.add(&clip(), "b.mp4");
    let interrupt = AtomicBool::new(false);
    let seen = Mutex::new(Vec::new());
    let watch = |progress: DriveProgress<'_>| {
        seen.lock().unwrap().push((progress.video.to_owned(), progress.num_decoded, progress.num_promised));
        // In the middle of the large one.
        if progress.video == "b.mp4" {
            interrupt.store(true, Ordering::Relaxed);
        }
    };
    let one_by_one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let open = |interrupt: &AtomicBool| {
        one_by_one.install(|| {
            open_drives(folders.root.path(), "own", &[], folders.cache.path(), &all_frames(), interrupt, &watch)
        })
    };
    assert!(matches!(open(&interrupt), Err(DatasetError::Interrupted)));
    assert_eq!(seen.lock().unwrap().last(), Some(&("b.mp4".to_owned(), 16, 38)));
    assert!(folders.cached().iter().all(|file| file.starts_with("a/")), "{:?}", folders.cached());
    // What a killed run has left goes away.
    fs::create_dir(folders.cache.path().join(".b.99999999.0.tmp")).unwrap();
    text(&folders.cache.path().join(".b.99999999.0.tmp/000000.png"), "half");
    let drives = open(&AtomicBool::new(false)).unwrap();
    assert_eq!(drives.videos.iter().map(|video| video.was_cached).collect::<Vec<_>>(), [true, false]);
    assert_eq!(drives.dataset.samples().len(), 50);
    assert!(!folders.cached().iter().any(|file| file.starts_with('.')), "{:?}", folders.cached());
}

#[test]
fn broken_videos_are_left_out_or_used_as_far_as_they_go() {
    let folders = Folders::new();
    let own = folders.root.path().join("own");
    let bytes = fs::read(small()).unwrap();
    folders.add(&small(), "cut.mp4");
    fs::write(own.join("cut.mp4"), &bytes[..bytes.len() * 2 / 3]).unwrap();
    text(&own.join("empty.mp4"), "");
    text(&own.join("other.avi"), "RIFF, but no more");
    folders.add(&small().with_file_name("hevc.mp4"), "hevc.mp4");
    for is_second in [false, true] {
        let drives = folders.open(&[], &all_frames()).unwrap();
        let [cut, empty, hevc, other] = &drives.videos[..] else { panic!("four videos") };
        assert!(cut.num_decoded > 0 && cut.num_decoded < 12, "{cut:?}");
        assert_eq!((cut.num_kept as u64, cut.was_cached), (cut.num_decoded, is_second));
        assert_has(cut.problem.as_deref().unwrap(), &["cut.mp4: only", "frames can be decoded"]);
        for (video, parts) in [
            (empty, &["empty.mp4", "empty file", "left out"][..]),
            (hevc, &["hevc.mp4", "H.264", "left out"]),
            (other, &["other.avi", "left out"]),
        ] {
            assert_eq!((video.num_decoded, video.num_kept), (0, 0));
            assert_has(video.problem.as_deref().unwrap(), parts);
        }
        assert_eq!(sequence_names(&*drives.dataset), ["cut"]);
    }
    fs::remove_file(own.join("cut.mp4")).unwrap();
    assert_has(&folders.error(&all_frames()), &["none of the 3 videos", "empty.mp4"]);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_decoded() {
    let folders = Folders::new();
    let own = folders.root.path().join("own");
    fs::create_dir(&own).unwrap();
    assert_has(&folders.error(&all_frames()), &["`own` has no images", "no video"]);
    folders.add(&small(), "v.mp4");
    let choice = FrameChoice { min_difference: -1.0, ..FrameChoice::default() };
    assert_has(&folders.error(&choice), &["min_difference is -1", "from 0 on"]);
    let interrupt = AtomicBool::new(false);
    let inside = |cache: &Path| open_drives(folders.root.path(), "own", &[], cache, &all_frames(), &interrupt, &|_| {});
    let message = inside(&own.join("new/cache")).err().unwrap().to_string();
    assert_has(&message, &["new/cache is inside", "outside"]);
    assert!(!own.join("new").exists());
    // A hidden folder is not searched for images.
    assert_eq!(inside(&own.join(".cache")).unwrap().dataset.samples().len(), 12);
    text(&folders.cache.path().join("file"), "");
    assert_has(&inside(&folders.cache.path().join("file")).err().unwrap().to_string(), &["cannot write"]);
    folders.add(&small(), "v.avi");
    assert_has(&folders.error(&all_frames()), &["v.mp4", "v.avi", "rename one"]);
    fs::remove_file(own.join("v.avi")).unwrap();
    folders.add(&small(), "v/w/x.mp4");
    assert_has(&folders.error(&all_frames()), &["own/v ", "own/v.mp4", "rename one"]);
    assert!(folders.cached().iter().all(|file| file == "file"));
}

#[test]
fn images_can_be_thinned_too() {
    let folders = Folders::new();
    for (name, slope) in [("a/1", 1), ("a/2", 1), ("a/3", -1), ("b/1", -1), ("b/2", -1)] {
        let path = folders.root.path().join(format!("own/{name}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..64 * 36).flat_map(|at| [(128 + slope * (at % 64)) as u8; 3]).collect();
        write_rgb8(path, ImageSize::new(64, 36), &bytes).unwrap();
    }
    text(&folders.root.path().join("own/b/broken.png"), "");
    let drives = folders.open(&[], &FrameChoice { thin_images: true, ..FrameChoice::default() }).unwrap();
    assert_eq!(names(&*drives.dataset), ["a/1", "a/3", "b/1", "b/broken"]);
    assert_eq!((drives.num_images_left_out, drives.videos.len()), (2, 0));
    assert!(folders.root.path().join("own/a/2.png").is_file());
    assert_eq!(folders.open(&[], &FrameChoice::default()).unwrap().dataset.samples().len(), 6);
}

/// The numbers in the documentation of [`FrameChoice`].
#[test]
fn the_real_clips_give_the_stated_frames() {
    let Some(root) = shared_data("clips") else { return };
    let cache = tempfile::tempdir().unwrap();
    let kept = |min_difference| {
        let choice = FrameChoice { min_difference, ..FrameChoice::default() };
        let interrupt = AtomicBool::new(false);
        let drives = open_drives(&root, ".", &[], cache.path(), &choice, &interrupt, &|_| {}).unwrap();
        assert_eq!(drives.videos.iter().map(|video| video.num_decoded).collect::<Vec<_>>(), [38, 221]);
        drives.videos.iter().map(|video| video.num_kept).collect::<Vec<_>>()
    };
    // Dense traffic, empty road.
    assert_eq!(kept(FrameChoice::default().min_difference), [13, 5]);
    assert_eq!(kept(0.1), [30, 23]);
    assert_eq!(kept(0.04), [38, 97]);
}
