//! All files of one source.

use std::path::{Path, PathBuf};

use jpeg_encoder::{ColorType, Encoder};
use rayon::prelude::*;
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::image_io;
use segcore::label_space::LabelSpace;
use segcore::yuv::rgb_of;

use super::avi::{self, VideoFiles};
use super::folder::{DiskBudget, make_folder, remove_earlier_results, temporary_name, write_whole};
use super::maps::{Ancestors, MapMaker};
use super::mcap::{self, McapFile};
use super::panel::Panel;
use super::stream::{Publisher, StreamFile, class_table_hash};
use super::{SaveKinds, SegmentedFrame, SinkError};

/// Quality of the panel's JPEG: text and thin borders stay clean, a 1944×786 panel takes about 0.3 MB.
const JPEG_QUALITY: u8 = 85;
/// Rate of `video.avi` where the source has none, frames per second.
const DEFAULT_RATE_HZ: f64 = 10.0;

/// What [`FileSinks`] writes and where.
#[derive(Clone, Debug)]
pub struct FileSinksSpec {
    /// The folder of this source: [`super::OutputFolder::path`], or its subfolder when there are several sources.
    /// It is made when the first file is written.
    pub folder: PathBuf,
    /// The files to write.
    pub save: SaveKinds,
    /// Frames per second of `video.avi`; none = 10.
    pub rate_hz: Option<f64>,
    /// Classes of the model: names and colours of the panel, hash of `frames.hsg`.
    pub label_space: LabelSpace,
    /// Whether the model has a bank; without one the panel has no class picture.
    pub has_classes: bool,
    /// The bound of `--max-disk`, shared by all sources.
    pub budget: DiskBudget,
}

/// Writes all files of one source; [`FileSinks::finish`] (or dropping it) closes frames.hsg, video.avi and recording.mcap.
///
/// The files of a frame are encoded first, on the current rayon pool, and then written one after the other.
pub struct FileSinks {
    spec: FileSinksSpec,
    ancestors: Ancestors,
    panel: Panel,
    panel_jpeg: Vec<u8>,
    panel_size: ImageSize,
    publisher: Publisher,
    published: Vec<u8>,
    /// One per level, and the last one for the classes.
    maps: Vec<MapFile>,
    stream: Option<StreamFile>,
    video: VideoFiles,
    recording: Option<McapFile>,
    /// The frame's picture for the recording, and as RGB where it is not.
    image_jpeg: Vec<u8>,
    image_rgb: Frame,
    folders_made: bool,
}

/// Buffers of one label or class map.
struct MapFile {
    maker: MapMaker,
    folder: PathBuf,
    values: Vec<u16>,
    classes: Vec<u8>,
    png: Vec<u8>,
}

impl MapFile {
    fn new(folder: PathBuf) -> Self {
        Self { maker: MapMaker::new(), folder, values: Vec::new(), classes: Vec::new(), png: Vec::new() }
    }

    fn encode_labels(&mut self, frame: &SegmentedFrame, ancestors: &Ancestors, level: usize) -> Result<(), SinkError> {
        self.maker.labels_into(frame, ancestors, level, &self.folder, &mut self.values)?;
        let encoded = image_io::encode_gray16_into(&mut self.png, frame.size, &self.values);
        encoded.map_err(|error| not_encoded(&self.folder, &error))
    }

    fn encode_classes(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        self.maker.classes_into(frame, &mut self.classes);
        let encoded = image_io::encode_gray8_into(&mut self.png, frame.size, &self.classes);
        encoded.map_err(|error| not_encoded(&self.folder, &error))
    }
}

fn not_encoded(path: &Path, error: &dyn std::error::Error) -> SinkError {
    SinkError::OutOfRange {
        path: path.to_owned(),
        what: "picture",
        expected: "one that can be encoded".to_owned(),
        got: error.to_string(),
    }
}

impl FileSinks {
    /// Prepares the files; nothing is written before the first frame, except that results which an earlier run left
    /// in the folder (`--force`) are removed.
    ///
    /// # Errors
    /// When earlier results cannot be removed.
    pub fn create(spec: FileSinksSpec) -> Result<Self, SinkError> {
        if spec.save.any() {
            remove_earlier_results(&spec.folder)?;
        }
        let rate_hz = spec.rate_hz.filter(|rate| rate.is_finite() && *rate > 0.0).unwrap_or(DEFAULT_RATE_HZ);
        let hash = if spec.has_classes { class_table_hash(&spec.label_space) } else { [0; 32] };
        Ok(Self {
            ancestors: Ancestors::default(),
            panel: Panel::new(spec.label_space.clone(), spec.has_classes),
            panel_jpeg: Vec::new(),
            panel_size: ImageSize::new(0, 0),
            publisher: Publisher::new(hash),
            published: Vec::new(),
            maps: Vec::new(),
            stream: None,
            video: VideoFiles::new(&spec.folder, rate_hz),
            recording: None,
            image_jpeg: Vec::new(),
            image_rgb: Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8),
            folders_made: false,
            spec,
        })
    }

    /// Writes one frame: pictures and maps all or none.
    ///
    /// # Errors
    /// When a file cannot be written or the bound of `--max-disk` is reached. Nothing half-written is left; the next frame
    /// may be tried, and [`FileSinks::finish`] closes what was written before.
    pub fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        if !self.spec.save.any() {
            return Ok(());
        }
        self.encode(frame)?;
        let bytes = self.encoded_bytes();
        self.spec.budget.take(bytes, || self.panel_path(frame))?;
        let written = self.write_encoded(frame);
        if written.is_err() {
            // A frame is saved in all its files or in none; a full disk has room for the next try.
            self.spec.budget.give_back(bytes);
            let _ = std::fs::remove_file(self.panel_path(frame));
            for map in self.maps_to_write(frame.levels.len()) {
                let _ = std::fs::remove_file(map.folder.join(format!("{:06}.png", frame.frame.index)));
            }
        }
        written
    }

    fn panel_path(&self, frame: &SegmentedFrame) -> PathBuf {
        self.spec.folder.join("overlay").join(format!("{:06}.jpg", frame.frame.index))
    }

    fn write_encoded(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        self.make_folders(frame.levels.len())?;
        let save = self.spec.save;
        if save.overlay {
            write_file(&self.panel_path(frame), &self.panel_jpeg)?;
        }
        for map in self.maps_to_write(frame.levels.len()) {
            write_file(&map.folder.join(format!("{:06}.png", frame.frame.index)), &map.png)?;
        }
        if save.frames {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(StreamFile::create(&self.spec.folder.join("frames.hsg"))?),
            };
            stream.append(&self.published)?;
        }
        if save.video {
            self.video.append(self.panel_size, &self.panel_jpeg)?;
        }
        if let Some(recording) = &mut self.recording {
            recording.append()?;
        }
        Ok(())
    }

    /// Closes frames.hsg, video.avi and recording.mcap. Call it at the end of every run, also of an interrupted one; calling it again
    /// does nothing.
    ///
    /// # Errors
    /// When they cannot be completed.
    pub fn finish(&mut self) -> Result<(), SinkError> {
        let stream = self.stream.as_mut().map_or(Ok(()), StreamFile::finish);
        let video = self.video.finish();
        let recording = self.recording.as_mut().map_or(Ok(()), McapFile::finish);
        stream.and(video).and(recording)
    }

    /// Everything that is to be written, into buffers.
    fn encode(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        let save = self.spec.save;
        let num_levels = frame.levels.len();
        self.ancestors.update(frame);
        if self.maps.len() != num_levels + 1 {
            let labels = self.spec.folder.join("labels");
            self.maps = (0..num_levels).map(|level| MapFile::new(labels.join(format!("level{level}")))).collect();
            self.maps.push(MapFile::new(self.spec.folder.join("classes")));
            self.folders_made = false;
        }
        let Self { ancestors, panel, panel_jpeg, panel_size, publisher, published, maps, spec, .. } = self;
        let (recording, image_jpeg, image_rgb) = (&mut self.recording, &mut self.image_jpeg, &mut self.image_rgb);
        let folder = &spec.folder;
        let draw_panel = || {
            if save.overlay || save.video || save.mcap {
                let drawn = panel.draw(frame, ancestors);
                let (pixels, size) = drawn.ok_or_else(|| frame_mismatch(folder, frame))?;
                encode_jpeg(pixels, size, panel_jpeg).map_err(|error| not_encoded(folder, &error))?;
                *panel_size = size;
            }
            if save.mcap {
                let rgb = rgb_of(&frame.frame, image_rgb).map_err(|error| not_encoded(folder, &error))?;
                encode_jpeg(&rgb.pixels, rgb.size, image_jpeg).map_err(|error| not_encoded(folder, &error))?;
            }
            Ok(())
        };
        let encode_maps = || {
            maps.par_iter_mut().enumerate().try_for_each(|(number, map)| match number {
                level if level < num_levels && save.labels => map.encode_labels(frame, ancestors, level),
                classes if classes == num_levels && save.classes => map.encode_classes(frame),
                _ => Ok(()),
            })
        };
        // The stream alone stays on this thread: handing over to the pool is what would cost memory.
        if save.overlay || save.video || save.labels || save.classes || save.mcap {
            let (drawn, encoded) = rayon::join(draw_panel, encode_maps);
            drawn.and(encoded)?;
        }
        published.clear();
        if save.frames || save.mcap {
            wire::encode_into(publisher.publish(frame), published).map_err(|error| not_encoded(folder, &error))?;
        }
        if save.mcap {
            let recording = recording.get_or_insert_with(|| McapFile::new(mcap::path_in(folder), &frame.stream));
            let time = frame.frame.capture_time;
            // Files have no time of day: those of a recording that were taken in 1970 show their place in the stream.
            let nanos = if time.utc_nanos > 0 { time.utc_nanos } else { time.monotonic_nanos };
            recording.encode(nanos, panel_jpeg, image_jpeg, published);
        }
        Ok(())
    }

    fn maps_to_write(&self, num_levels: usize) -> impl Iterator<Item = &MapFile> {
        let save = self.spec.save;
        let wanted = move |number: usize| if number < num_levels { save.labels } else { save.classes };
        self.maps.iter().enumerate().filter(move |(number, _)| wanted(*number)).map(|(_, map)| map)
    }

    /// Bytes that writing the encoded frame will add, closing the files included.
    fn encoded_bytes(&self) -> u64 {
        let save = self.spec.save;
        let panel = self.panel_jpeg.len() as u64;
        let mut bytes = 0;
        bytes += if save.overlay { panel } else { 0 };
        bytes += self.maps_to_write(self.maps.len() - 1).map(|map| map.png.len() as u64).sum::<u64>();
        if save.frames {
            bytes += self.published.len() as u64;
            bytes += if self.stream.is_none() { wire::HEADER_BYTES as u64 } else { 0 };
        }
        if save.video {
            bytes += panel + avi::FRAME_BYTES;
            bytes += if self.folders_made { 0 } else { avi::FIXED_BYTES };
        }
        bytes += self.recording.as_ref().map_or(0, McapFile::encoded_bytes);
        bytes
    }

    fn make_folders(&mut self, num_levels: usize) -> Result<(), SinkError> {
        if self.folders_made {
            return Ok(());
        }
        make_folder(&self.spec.folder)?;
        if self.spec.save.overlay {
            make_folder(&self.spec.folder.join("overlay"))?;
        }
        for map in self.maps_to_write(num_levels) {
            make_folder(&map.folder)?;
        }
        self.folders_made = true;
        Ok(())
    }
}

impl Drop for FileSinks {
    fn drop(&mut self) {
        // Who wants to know about errors calls finish.
        let _ = self.finish();
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), SinkError> {
    write_whole(path, bytes, &temporary_name(path))
}

fn frame_mismatch(path: &Path, frame: &SegmentedFrame) -> SinkError {
    SinkError::OutOfRange {
        path: path.to_owned(),
        what: "frame and slots",
        expected: format!("{} pixels", frame.size),
        got: format!("{} bytes of image and {} slots", frame.frame.pixels.len(), frame.slots.len()),
    }
}

fn encode_jpeg(pixels: &[u8], size: ImageSize, out: &mut Vec<u8>) -> Result<(), jpeg_encoder::EncodingError> {
    out.clear();
    // Panels are below 65536 pixels in both directions by their layout, frames by what sources accept.
    Encoder::new(out, JPEG_QUALITY).encode(pixels, size.width as u16, size.height as u16, ColorType::Rgb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::small_frame;
    use std::fs;

    fn spec(folder: &Path, save: SaveKinds, limit_bytes: Option<u64>) -> FileSinksSpec {
        FileSinksSpec {
            folder: folder.to_owned(),
            save,
            rate_hz: Some(25.0),
            label_space: LabelSpace::camvid_11(),
            has_classes: true,
            budget: DiskBudget::new(limit_bytes),
        }
    }

    /// All files below a folder, by their paths relative to it, sorted.
    fn files(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()),
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn every_kind_of_file_is_written_and_reads_back() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let mut sinks = FileSinks::create(spec(&out, SaveKinds::ALL, None)).unwrap();
        assert!(!out.exists(), "nothing before the first frame");
        let mut frame = small_frame();
        for index in [0, 2] {
            frame.frame.index = index;
            sinks.write(&frame).unwrap();
        }
        sinks.finish().unwrap();
        let expected = [
            "classes/000000.png",
            "classes/000002.png",
            "frames.hsg",
            "labels/level0/000000.png",
            "labels/level0/000002.png",
            "labels/level1/000000.png",
            "labels/level1/000002.png",
            "labels/level2/000000.png",
            "labels/level2/000002.png",
            "overlay/000000.jpg",
            "overlay/000002.jpg",
            "video.avi",
        ];
        assert_eq!(files(&out), expected);
        let labels = image_io::read_gray16(out.join("labels/level0/000002.png")).unwrap();
        assert_eq!((labels.size, labels.pixels[0], labels.pixels[3], labels.pixels[23]), (frame.size, 71, 74, 0));
        let classes = image_io::read_gray8(out.join("classes/000000.png")).unwrap();
        assert_eq!((classes.pixels[0], classes.pixels[3], classes.pixels[12]), (0, 255, 3));
        let panel = image_io::read_rgb(out.join("overlay/000000.jpg")).unwrap();
        assert_eq!(panel.size, sinks.panel_size);
        let mut reader = wire::StreamReader::new(fs::File::open(out.join("frames.hsg")).unwrap());
        let first = reader.next_frame().unwrap().unwrap();
        assert_eq!((first.stream.as_str(), first.levels.len(), first.levels[0].segments.len()), ("small", 3, 3));
        assert_eq!(first.class_table_hash, class_table_hash(&LabelSpace::camvid_11()));
        assert!(reader.next_frame().unwrap().is_some() && reader.next_frame().unwrap().is_none());

        // The bound counts what was written.
        let bytes: u64 = files(&out).iter().map(|name| fs::metadata(out.join(name)).unwrap().len()).sum();
        let used = sinks.spec.budget.used_bytes();
        assert!(used >= bytes && used <= bytes + 8, "{used} counted, {bytes} there");
    }

    #[test]
    fn kinds_are_written_as_asked() {
        for (list, expected) in [
            ("none", &[][..]),
            ("classes", &["classes/000000.png"]),
            ("frames", &["frames.hsg"]),
            ("video", &["video.avi"]),
        ] {
            let parent = tempfile::tempdir().unwrap();
            let out = parent.path().join("out");
            let mut sinks = FileSinks::create(spec(&out, list.parse().unwrap(), None)).unwrap();
            sinks.write(&small_frame()).unwrap();
            drop(sinks);
            let found = if out.exists() { files(&out) } else { vec![] };
            assert_eq!(found, expected, "{list}");
        }
    }

    #[test]
    fn bound_ends_with_whole_frames() {
        let parent = tempfile::tempdir().unwrap();
        let unbounded = parent.path().join("a");
        let mut sinks = FileSinks::create(spec(&unbounded, SaveKinds::ALL, None)).unwrap();
        sinks.write(&small_frame()).unwrap();
        let one_frame = sinks.spec.budget.used_bytes();

        let out = parent.path().join("b");
        let mut sinks = FileSinks::create(spec(&out, SaveKinds::ALL, Some(one_frame * 5 / 2))).unwrap();
        let mut frame = small_frame();
        let error = loop {
            match sinks.write(&frame) {
                Ok(()) => frame.frame.index += 1,
                Err(error) => break error,
            }
        };
        assert!(error.is_limit() && error.to_string().contains("--max-disk"), "{error}");
        assert_eq!(frame.frame.index, 2);
        sinks.finish().unwrap();
        assert_eq!(files(&out).len(), 2 * 5 + 2);
        let bytes: u64 = files(&out).iter().map(|name| fs::metadata(out.join(name)).unwrap().len()).sum();
        assert!(bytes <= one_frame * 5 / 2);
    }

    #[test]
    fn earlier_results_do_not_mix_with_new_ones() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        for (frames, save) in [(3, SaveKinds::ALL), (1, "labels".parse().unwrap())] {
            let mut sinks = FileSinks::create(spec(&out, save, None)).unwrap();
            let mut frame = small_frame();
            for index in 0..frames {
                frame.frame.index = index;
                sinks.write(&frame).unwrap();
            }
        }
        assert_eq!(files(&out), [0, 1, 2].map(|level| format!("labels/level{level}/000000.png")));
    }

    #[test]
    fn folder_that_vanished_is_one_error() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let mut sinks = FileSinks::create(spec(&out, SaveKinds::ALL, None)).unwrap();
        sinks.write(&small_frame()).unwrap();
        fs::remove_dir_all(out.join("overlay")).unwrap();
        let message = sinks.write(&small_frame()).unwrap_err().to_string();
        assert!(message.contains("overlay") && message.contains("000000.jpg"), "{message}");
        sinks.finish().unwrap();
        assert!(files(&out).iter().all(|name| !name.contains("partial")));
    }

    #[test]
    fn frames_that_contradict_themselves_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let mut sinks = FileSinks::create(spec(parent.path(), SaveKinds::ALL, None)).unwrap();
        let mut frame = small_frame();
        frame.slots.truncate(3);
        let message = sinks.write(&frame).unwrap_err().to_string();
        assert!(message.contains("6×4"), "{message}");
        assert!(files(parent.path()).is_empty());
    }
}
