//! `frames.hsg`: the published frames (crate `wire`) in one file.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use segcore::label_space::LabelSpace;
use sha2::{Digest as _, Sha256};

use super::folder::temporary_name;
use super::{NO_SEGMENT, SegmentInfo, SegmentedFrame, SinkError};

/// The hash by which a reader knows which classes train ids refer to: SHA-256 over the lines "train_id name\n" in
/// ascending order of train id.
pub fn class_table_hash(label_space: &LabelSpace) -> [u8; 32] {
    let mut classes: Vec<(u8, &str)> =
        label_space.classes.iter().map(|class| (class.train_id.0, class.name.as_str())).collect();
    classes.sort_unstable();
    let mut hasher = Sha256::new();
    for (train_id, name) in classes {
        hasher.update(format!("{train_id} {name}\n"));
    }
    hasher.finalize().into()
}

/// Turns segmented frames into published ones: only segments with pixels are listed, so indices become dense.
#[derive(Debug, Default)]
pub struct Publisher {
    frame: wire::Frame,
    /// Per level and segment its index among the listed ones.
    listed: Vec<Vec<u16>>,
    map: Vec<u16>,
}

impl Publisher {
    /// A publisher for one stream; `class_table_hash` is zeros when the model names nothing.
    pub fn new(class_table_hash: [u8; 32]) -> Self {
        Self { frame: wire::Frame { class_table_hash, ..wire::Frame::default() }, ..Self::default() }
    }

    /// The published form of `frame`; its memory is reused by the next call.
    pub fn publish(&mut self, frame: &SegmentedFrame) -> &wire::Frame {
        let Self { frame: out, listed, map } = self;
        out.stream.clear();
        out.stream.push_str(&frame.stream);
        out.sequence = frame.sequence;
        out.capture_monotonic_nanos = frame.frame.capture_time.monotonic_nanos;
        out.capture_utc_nanos = frame.frame.capture_time.utc_nanos;
        out.degradation_step = frame.degradation_step;
        out.drops = frame.drops;
        let spent = &frame.stage_nanos;
        out.stage_nanos = wire::StageNanos {
            capture: spent.capture,
            preprocess: spent.preprocess,
            embed: spent.embed,
            segment: spent.segment,
            group: spent.group,
            label: spent.label,
            associate: spent.associate,
            refine: spent.refine,
            publish: spent.publish,
        };

        listed.resize_with(frame.levels.len(), Vec::new);
        for (listed, level) in listed.iter_mut().zip(&frame.levels) {
            let mut next = 0;
            listed.clear();
            listed.extend(level.segments.iter().map(|segment| {
                let index = if segment.present && next < NO_SEGMENT { next } else { NO_SEGMENT };
                next += u16::from(index != NO_SEGMENT);
                index
            }));
        }
        let index_of = |level: usize, segment: u16| {
            listed.get(level).and_then(|listed| listed.get(usize::from(segment))).copied().unwrap_or(NO_SEGMENT)
        };
        map.clear();
        map.extend(frame.slots.iter().map(|slot| index_of(0, *slot)));
        out.set_map(frame.size.width as u32, frame.size.height as u32, map);
        out.levels.resize_with(frame.levels.len(), wire::Level::default);
        for (number, (out, level)) in out.levels.iter_mut().zip(&frame.levels).enumerate() {
            let is_listed = |index: &usize| listed[number][*index] != NO_SEGMENT;
            out.segments.clear();
            out.segments.extend((0..level.segments.len()).filter(is_listed).map(|i| segment_of(&level.segments[i])));
            out.parents.clear();
            if number + 1 < frame.levels.len() {
                let parent = |i: usize| level.parents.get(i).copied().unwrap_or(NO_SEGMENT);
                let listed = (0..level.segments.len()).filter(is_listed);
                out.parents.extend(listed.map(|i| index_of(number + 1, parent(i))));
            }
        }
        out
    }
}

fn segment_of(segment: &SegmentInfo) -> wire::Segment {
    wire::Segment {
        track_id: segment.track_id,
        train_id: segment.train_id,
        confidence: segment.confidence,
        unknown_score: segment.unknown_score,
        bounding_box: segment.bounding_box,
        area: segment.area,
        mean_position: segment.mean_position,
    }
}

/// Writes `frames.hsg`: under a temporary name until it is closed, so that what bears the name is whole.
#[derive(Debug)]
pub(super) struct StreamFile {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
    whole_bytes: u64,
}

impl StreamFile {
    /// Begins the file with the header.
    pub fn create(path: &Path) -> Result<Self, SinkError> {
        let temporary = temporary_name(path);
        let write = |source| SinkError::Write { path: path.to_owned(), source };
        let mut file = File::create(&temporary).map_err(write)?;
        let header = wire::FileHeader::default().to_bytes();
        if let Err(source) = file.write_all(&header) {
            let _ = fs::remove_file(&temporary);
            return Err(write(source));
        }
        Ok(Self { path: path.to_owned(), temporary, file: Some(file), whole_bytes: header.len() as u64 })
    }

    /// Appends an encoded frame. After an error the file ends with the frame before.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        match file.write_all(bytes) {
            Ok(()) => {
                self.whole_bytes += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                let _ = file.set_len(self.whole_bytes);
                let _ = file.seek(SeekFrom::Start(self.whole_bytes));
                Err(SinkError::Write { path: self.path.clone(), source })
            }
        }
    }

    /// Gives the file its name. Further calls do nothing.
    pub fn finish(&mut self) -> Result<(), SinkError> {
        if self.file.take().is_none() {
            return Ok(());
        }
        fs::rename(&self.temporary, &self.path).map_err(|source| {
            let _ = fs::remove_file(&self.temporary);
            SinkError::Write { path: self.path.clone(), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::small_frame;

    #[test]
    fn published_frames_list_only_what_is_there() {
        let frame = small_frame();
        let mut publisher = Publisher::new([7; 32]);
        for _ in 0..2 {
            let published = publisher.publish(&frame);
            published.validate().unwrap();
            let ids: Vec<u32> = published.levels[0].segments.iter().map(|segment| segment.track_id).collect();
            assert_eq!(ids, [70, 71, 73]);
            assert_eq!(published.levels[0].parents, [0, 1, 0]);
            assert_eq!(published.levels[1].parents, [0, 0]);
            assert!(published.levels[2].parents.is_empty());
            let mut map = Vec::new();
            published.expand_map_into(&mut map);
            assert_eq!((map[0], map[3], map[12], map[23]), (0, 2, 1, NO_SEGMENT));
            assert_eq!((published.width, published.height, published.class_table_hash), (6, 4, [7; 32]));
        }
        // Fewer levels and segments than before.
        let mut fewer = small_frame();
        fewer.levels.truncate(1);
        fewer.levels[0].parents.clear();
        publisher.publish(&fewer).validate().unwrap();
    }

    #[test]
    fn file_holds_whole_frames_and_appears_when_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames.hsg");
        let mut file = StreamFile::create(&path).unwrap();
        let mut publisher = Publisher::default();
        let mut frame = small_frame();
        for sequence in 0..3 {
            frame.sequence = sequence;
            let mut bytes = Vec::new();
            wire::encode_into(publisher.publish(&frame), &mut bytes).unwrap();
            file.append(&bytes).unwrap();
            assert!(!path.exists());
        }
        file.finish().unwrap();
        file.finish().unwrap();
        let mut reader = wire::StreamReader::new(File::open(&path).unwrap());
        for sequence in 0..3 {
            assert_eq!(reader.next_frame().unwrap().unwrap().sequence, sequence);
        }
        assert!(reader.next_frame().unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn class_hash_depends_on_names_and_ids_only() {
        let mut space = LabelSpace::camvid_11();
        let hash = class_table_hash(&space);
        space.classes.reverse();
        space.classes[0].color = [1, 2, 3];
        assert_eq!(class_table_hash(&space), hash);
        space.classes[0].name.push('s');
        assert_ne!(class_table_hash(&space), hash);
    }
}
