//! A folder of PNG and JPEG images, sorted by name.

use std::path::{Path, PathBuf};

use segcore::image::{CaptureTime, Frame};
use segcore::image_io;

use super::spec::is_recording_name;
use super::{Source, SourceError, SourceEvent, SourceInfo, TRACKED_RATE_HZ};

/// The images of one folder (not of its sub-folders), in ascending order of their names' bytes.
///
/// Images may differ in size. One that cannot be read is [`SourceEvent::Skipped`].
pub struct ImageFolder {
    name: String,
    info: SourceInfo,
    files: Vec<PathBuf>,
    next: usize,
    delivered: u64,
}

/// Whether a file is taken for an image, by the end of its name.
pub(super) fn is_image_name(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    matches!(extension.as_str(), "png" | "jpg" | "jpeg")
}

/// Name of a source: the last part of its path.
pub(super) fn name_of(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let part = if path.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    part.map_or_else(|| "source".to_owned(), |part| part.to_string_lossy().into_owned())
}

impl ImageFolder {
    /// Lists the images of `folder`. `rate_hz` is what the user says about it; without, a CamVid-like
    /// `../sequences/index.tsv` is asked.
    ///
    /// # Errors
    /// When the folder cannot be read or holds no image.
    pub fn open(folder: &Path, rate_hz: Option<f64>) -> Result<Self, SourceError> {
        let io_error = |source| SourceError::Io { path: folder.to_owned(), source };
        let (mut files, mut others, mut bag) = (Vec::new(), 0, None);
        for entry in std::fs::read_dir(folder).map_err(io_error)? {
            let path = entry.map_err(io_error)?.path();
            // Hidden files are leftovers of programs that write files whole, or of macOS.
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if is_image_name(&path) && !hidden && !path.is_dir() {
                files.push(path);
            } else {
                others += 1;
                if is_recording_name(&path) && bag.as_ref().is_none_or(|first| path < *first) {
                    bag = Some(path);
                }
            }
        }
        if files.is_empty() {
            let found = match bag {
                // A folder that `ros2 bag record` made.
                Some(bag) => format!("a recording; name its file: {}", bag.display()),
                None if others == 0 => "an empty folder".to_owned(),
                None => format!("{others} other entries"),
            };
            return Err(SourceError::NoImages { path: folder.to_owned(), found });
        }
        files.sort();
        let rate_hz = rate_hz.or_else(|| listed_rate(folder));
        Ok(Self::new(name_of(folder), files, rate_hz))
    }

    /// One image as a source of one frame.
    ///
    /// # Errors
    /// None today; the image is read with its frame.
    pub fn single(path: &Path) -> Result<Self, SourceError> {
        Ok(Self::new(name_of(path), vec![path.to_owned()], None))
    }

    /// Images in this order as one source, named after their folder if they have one in common.
    pub fn of_files(files: Vec<PathBuf>) -> Self {
        let mut folders = files.iter().map(|file| file.parent().unwrap_or(Path::new("")));
        let first = folders.next().unwrap_or(Path::new(""));
        let name = if folders.all(|folder| folder == first) {
            name_of(if first.as_os_str().is_empty() { Path::new(".") } else { first })
        } else {
            "images".to_owned()
        };
        Self::new(name, files, None)
    }

    fn new(name: String, files: Vec<PathBuf>, rate_hz: Option<f64>) -> Self {
        let info = SourceInfo {
            size: None,
            rate_hz,
            is_sequence: rate_hz.is_some_and(|rate| rate >= TRACKED_RATE_HZ),
            frames_promised: Some(files.len() as u64),
            is_live: false,
        };
        Self { name, info, files, next: 0, delivered: 0 }
    }
}

impl Source for ImageFolder {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next(&mut self, frame: &mut Frame) -> Result<SourceEvent, SourceError> {
        let Some(path) = self.files.get(self.next) else {
            return Ok(SourceEvent::End { delivered: self.delivered, promised_more: None });
        };
        let index = self.next as u64;
        self.next += 1;
        match image_io::read_rgb(path) {
            Ok(image) => {
                *frame = image;
                frame.index = index;
                // Images have no clock of their own; with a rate their place in the sequence gives the time.
                let nanos = self.info.rate_hz.map_or(0.0, |rate| index as f64 / rate * 1e9);
                frame.capture_time = CaptureTime { monotonic_nanos: nanos.round() as u64, utc_nanos: 0 };
                self.delivered += 1;
                Ok(SourceEvent::Frame)
            }
            Err(error) => Ok(SourceEvent::Skipped { index, path: path.clone(), reason: error.to_string() }),
        }
    }
}

/// The rate of `folder` by `../sequences/index.tsv`, if its images are one run there: columns `split` (the folder's
/// name) and `rate_hz…`. Folders of several runs have none, because the scene changes between them.
fn listed_rate(folder: &Path) -> Option<f64> {
    let folder = std::path::absolute(folder).ok()?;
    let split = folder.file_name()?.to_str()?;
    let table = std::fs::read_to_string(folder.parent()?.join("sequences/index.tsv")).ok()?;
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next()?.split('\t').collect();
    let split_column = header.iter().position(|name| *name == "split")?;
    let rate_column = header.iter().position(|name| name.starts_with("rate_hz"))?;
    let mut runs = lines
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|fields| fields.get(split_column) == Some(&split));
    let run = runs.next()?;
    if runs.next().is_some() {
        return None;
    }
    run.get(rate_column)?.trim().parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use segcore::image::{ImageSize, PixelFormat};

    fn write_image(path: &Path, width: usize, value: u8) {
        image_io::write_rgb8(path, ImageSize::new(width, 2), &vec![value; width * 6]).unwrap();
    }

    #[test]
    fn images_come_by_name_and_bad_ones_leave_gaps() {
        let folder = tempfile::tempdir().unwrap();
        write_image(&folder.path().join("c.png"), 5, 3);
        write_image(&folder.path().join("a.png"), 4, 1);
        std::fs::write(folder.path().join("b.jpg"), "no image").unwrap();
        std::fs::write(folder.path().join(".d.png"), "hidden").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "text").unwrap();
        let mut source = ImageFolder::open(folder.path(), Some(10.0)).unwrap();
        assert_eq!(source.info().frames_promised, Some(3));
        assert!(source.info().is_sequence);
        let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
        assert_eq!(source.next(&mut frame).unwrap(), SourceEvent::Frame);
        assert_eq!((frame.index, frame.size.width, frame.pixels[0]), (0, 4, 1));
        match source.next(&mut frame).unwrap() {
            SourceEvent::Skipped { index: 1, path, reason } => {
                assert!(path.ends_with("b.jpg") && reason.contains("b.jpg"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(source.next(&mut frame).unwrap(), SourceEvent::Frame);
        assert_eq!((frame.index, frame.size.width, frame.pixels[0]), (2, 5, 3));
        assert_eq!(frame.capture_time.monotonic_nanos, 200_000_000);
        for _ in 0..2 {
            let end = source.next(&mut frame).unwrap();
            assert_eq!(end, SourceEvent::End { delivered: 2, promised_more: None });
        }
    }

    #[test]
    fn folders_without_images_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let message = ImageFolder::open(folder.path(), None).err().unwrap().to_string();
        assert!(message.contains("empty folder"), "{message}");
        std::fs::create_dir(folder.path().join("x.png")).unwrap();
        let message = ImageFolder::open(folder.path(), None).err().unwrap().to_string();
        assert!(message.contains("1 other entries"), "{message}");
    }

    #[test]
    fn runs_of_a_data_set_have_a_rate() {
        let root = tempfile::tempdir().unwrap();
        for name in ["sequences", "val", "train"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        std::fs::write(
            root.path().join("sequences/index.tsv"),
            "list\tsplit\trate_hz_at_30fps\na.txt\ttrain\t15\nb.txt\ttrain\t15\nc.txt\tval\t15\n",
        )
        .unwrap();
        for (name, rate) in [("val", Some(15.0)), ("train", None)] {
            write_image(&root.path().join(name).join("a.png"), 2, 0);
            let source = ImageFolder::open(&root.path().join(name), None).unwrap();
            assert_eq!((source.info().rate_hz, source.info().is_sequence), (rate, rate.is_some()));
            assert_eq!(source.name(), name);
        }
        // The user's word is stronger.
        assert!(!ImageFolder::open(&root.path().join("val"), Some(1.0)).unwrap().info().is_sequence);
    }
}
