//! Label and class maps: one value per pixel, by a table from slots.

use std::path::Path;

use super::{NO_SEGMENT, SegmentedFrame, SinkError};

/// Value of unlabelled pixels in label maps.
const UNLABELLED: u16 = 0;
/// Value of pixels without a class in class maps.
const NO_CLASS: u8 = 255;
/// Number of values that a slot can have.
const TABLE_LEN: usize = NO_SEGMENT as usize + 1;

/// Per level and slot the index of the segment that the slot belongs to, [`NO_SEGMENT`] where it has none.
#[derive(Debug, Default)]
pub(super) struct Ancestors {
    levels: Vec<Vec<u16>>,
}

impl Ancestors {
    /// Follows the parents of `frame`.
    pub fn update(&mut self, frame: &SegmentedFrame) {
        let num_slots = frame.levels.first().map_or(0, |level| level.segments.len().min(usize::from(NO_SEGMENT)));
        self.levels.resize_with(frame.levels.len(), Vec::new);
        let mut below: Option<(&Vec<u16>, &[u16])> = None;
        for (ancestors, level) in self.levels.iter_mut().zip(&frame.levels) {
            ancestors.clear();
            match below {
                None => ancestors.extend(0..num_slots as u16),
                Some((indices, parents)) => ancestors.extend(indices.iter().map(|index| {
                    let parent = parents.get(usize::from(*index)).copied().unwrap_or(NO_SEGMENT);
                    if usize::from(parent) < level.segments.len() { parent } else { NO_SEGMENT }
                })),
            }
            below = Some((ancestors, &level.parents));
        }
    }

    /// Per slot its segment at `level`; empty for a level that does not exist.
    pub fn level(&self, level: usize) -> &[u16] {
        self.levels.get(level).map_or(&[], Vec::as_slice)
    }
}

/// A value per slot, indexed by any u16; slots without an entry have the default.
#[derive(Debug)]
pub(super) struct SlotTable<T> {
    values: Box<[T]>,
    default: T,
    len: usize,
}

impl<T: Copy> SlotTable<T> {
    pub fn new(default: T) -> Self {
        Self { values: vec![default; TABLE_LEN].into_boxed_slice(), default, len: 0 }
    }

    /// Replaces all entries.
    pub fn set(&mut self, values: impl IntoIterator<Item = T>) {
        self.values[..self.len].fill(self.default);
        self.len = 0;
        // The last place belongs to NO_SEGMENT.
        for (place, value) in self.values[..TABLE_LEN - 1].iter_mut().zip(values) {
            *place = value;
            self.len += 1;
        }
    }

    #[inline]
    pub fn get(&self, slot: u16) -> T {
        self.values[usize::from(slot)]
    }

    /// Writes the value of each slot into `out`, reusing its memory.
    pub fn map_into(&self, slots: &[u16], out: &mut Vec<T>) {
        out.clear();
        out.extend(slots.iter().map(|slot| self.get(*slot)));
    }
}

/// Makes label and class maps.
#[derive(Debug)]
pub(super) struct MapMaker {
    labels: SlotTable<u16>,
    classes: SlotTable<u8>,
}

impl MapMaker {
    pub fn new() -> Self {
        Self { labels: SlotTable::new(UNLABELLED), classes: SlotTable::new(NO_CLASS) }
    }

    /// Per pixel 1 + track id of its segment at `level`, 0 where it has none. `path` is for the error only.
    ///
    /// # Errors
    /// When a track id does not fit into 16 bits.
    pub fn labels_into(
        &mut self,
        frame: &SegmentedFrame,
        ancestors: &Ancestors,
        level: usize,
        path: &Path,
        out: &mut Vec<u16>,
    ) -> Result<(), SinkError> {
        let segments = frame.levels.get(level).map_or(&[][..], |level| &level.segments);
        if let Some(segment) = segments.iter().find(|segment| segment.present && segment.track_id >= 65535) {
            return Err(SinkError::OutOfRange {
                path: path.to_owned(),
                what: "track id",
                expected: "0 to 65534".to_owned(),
                got: segment.track_id.to_string(),
            });
        }
        self.labels.set(ancestors.level(level).iter().map(|index| {
            segments.get(usize::from(*index)).map_or(UNLABELLED, |segment| (segment.track_id as u16).wrapping_add(1))
        }));
        self.labels.map_into(&frame.slots, out);
        Ok(())
    }

    /// Per pixel the train id of its level-0 segment, 255 where it has none.
    pub fn classes_into(&mut self, frame: &SegmentedFrame, out: &mut Vec<u8>) {
        let segments = frame.levels.first().map_or(&[][..], |level| &level.segments);
        self.classes.set(segments.iter().map(|segment| segment.train_id.unwrap_or(NO_CLASS)));
        self.classes.map_into(&frame.slots, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::small_frame;

    #[test]
    fn levels_nest_and_unlabelled_is_zero() {
        let frame = small_frame();
        let mut ancestors = Ancestors::default();
        let mut maker = MapMaker::new();
        ancestors.update(&frame);
        let mut maps = vec![Vec::new(); 3];
        for (level, map) in maps.iter_mut().enumerate() {
            maker.labels_into(&frame, &ancestors, level, Path::new("x"), map).unwrap();
        }
        assert_eq!(maps[0][..6], [71, 71, 71, 74, 74, 74]);
        assert_eq!(maps[1][..6], [6; 6]);
        assert_eq!((maps[1][12], maps[2][12]), (7, 3));
        assert!(maps.iter().all(|map| map[23] == 0 && map.iter().filter(|value| **value == 0).count() == 1));
        for (fine, coarse) in maps[0].iter().zip(&maps[1]) {
            let place = maps[0].iter().position(|value| value == fine).unwrap();
            assert_eq!(maps[1][place], *coarse);
        }
        let mut classes = Vec::new();
        maker.classes_into(&frame, &mut classes);
        assert_eq!((classes[0], classes[3], classes[12], classes[23]), (0, 255, 3, 255));
    }

    #[test]
    fn fewer_slots_than_before_leave_nothing_behind() {
        let mut table = SlotTable::new(0u16);
        table.set([1, 2, 3]);
        table.set([9]);
        assert_eq!([0, 1, 2, NO_SEGMENT].map(|slot| table.get(slot)), [9, 0, 0, 0]);
        table.set(std::iter::repeat_n(5, 70_000));
        assert_eq!((table.get(65534), table.get(NO_SEGMENT)), (5, 0));
    }

    #[test]
    fn orphans_and_large_ids_are_handled() {
        let mut frame = small_frame();
        frame.levels[0].parents[1] = NO_SEGMENT;
        frame.levels[1].parents[0] = 99;
        let mut ancestors = Ancestors::default();
        ancestors.update(&frame);
        assert_eq!(ancestors.level(1), [0, NO_SEGMENT, NO_SEGMENT, 0]);
        assert_eq!(ancestors.level(2), [NO_SEGMENT; 4]);
        assert!(ancestors.level(3).is_empty());
        frame.levels[0].segments[0].track_id = 65535;
        let error = MapMaker::new().labels_into(&frame, &ancestors, 0, Path::new("a.png"), &mut vec![]).unwrap_err();
        assert!(error.to_string().contains("65535"), "{error}");
    }
}
