//! Instance ids for class maps without instances (method.md §7): what STQ and the KITTI-STEP format want of things.
//!
//! A connected piece of a thing class is an instance. It is the instance of the frame before with which it shares most,
//! counted in pixels: those that lie where that one lay, and those whose base segment (by its track id) that one had most
//! of. Each instance goes on in at most one piece; a piece without predecessor is a new instance.

use std::collections::HashMap;

use evaluation::{EvaluationError, TruthRegions};
use segcore::image::ImageSize;
use segcore::label_space::{IGNORE, LabelSpace};

/// Largest instance id of the formats: 16 bits.
const LAST_ID: u16 = u16::MAX;

/// No instance.
const NONE: u32 = u32::MAX;

/// Follows instances through a sequence.
pub(super) struct InstanceTracker {
    is_thing: [bool; 256],
    /// Id that the next new instance gets; ids begin again at 1 only when all are used up.
    next_id: u16,
    /// Instances of the last frame: class and id; the pixels of each in `previous_map`.
    previous: Vec<(u8, u16)>,
    /// `[h·w]` index into `previous`, or [`NONE`].
    previous_map: Vec<u32>,
    /// Per track id and class the instance of the last frame that had most of its pixels.
    owners: HashMap<(u32, u8), u32>,
    things: Vec<u8>,
    map: Vec<u32>,
    /// `[h·w]` ids of the last frame.
    ids: Vec<u16>,
}

impl InstanceTracker {
    /// A tracker that has seen nothing, for class maps of `label_space`.
    pub(super) fn new(label_space: &LabelSpace) -> Self {
        let mut is_thing = [false; 256];
        for class in &label_space.classes {
            is_thing[usize::from(class.train_id.0)] = class.thing;
        }
        Self {
            is_thing,
            next_id: 1,
            previous: Vec::new(),
            previous_map: Vec::new(),
            owners: HashMap::new(),
            things: Vec::new(),
            map: Vec::new(),
            ids: Vec::new(),
        }
    }

    /// Begins another sequence.
    pub(super) fn restart(&mut self) {
        self.next_id = 1;
        self.forget();
    }

    fn forget(&mut self) {
        self.previous.clear();
        self.previous_map.clear();
        self.owners.clear();
    }

    /// Instance id of each pixel of the next frame: 0 for stuff and pixels without class. `classes` are train ids,
    /// `tracks` the track id of each pixel's base segment, both `[h·w]` row-major.
    ///
    /// # Errors
    /// When the maps do not have the size.
    pub(super) fn update(
        &mut self,
        size: ImageSize,
        classes: &[u8],
        tracks: &[u32],
    ) -> Result<&[u16], EvaluationError> {
        if self.previous_map.len() != classes.len() {
            self.forget();
        }
        let Self { is_thing, things, .. } = self;
        things.clear();
        things.extend(classes.iter().map(|&class| if is_thing[usize::from(class)] { class } else { IGNORE }));
        let pieces = TruthRegions::new(size.height, size.width, things, IGNORE)?;
        let mut shared: HashMap<(u32, u32), u64> = HashMap::new();
        let mut of_track: HashMap<(u32, u32), u64> = HashMap::new();
        self.map.clear();
        self.map.resize(classes.len(), NONE);
        for (piece, (region, runs)) in (0u32..).zip(pieces.regions().iter().zip(pieces.runs())) {
            for &(start, length) in runs {
                let run = start as usize..(start + length) as usize;
                self.map[run.clone()].fill(piece);
                for pixel in run {
                    let track = tracks.get(pixel).copied().unwrap_or(NONE);
                    *of_track.entry((track, piece)).or_default() += 1;
                    let there = self.previous_map.get(pixel).copied().unwrap_or(NONE);
                    if self.previous.get(there as usize).is_some_and(|(class, _)| *class == region.train_id()) {
                        *shared.entry((piece, there)).or_default() += 1;
                    }
                    if let Some(&owner) = self.owners.get(&(track, region.train_id())) {
                        *shared.entry((piece, owner)).or_default() += 1;
                    }
                }
            }
        }
        let mut pairs: Vec<((u32, u32), u64)> = shared.into_iter().collect();
        pairs.sort_unstable_by_key(|&(pair, pixels)| (std::cmp::Reverse(pixels), pair));
        let mut ids: Vec<u16> = vec![0; pieces.regions().len()];
        let mut is_continued = vec![false; self.previous.len()];
        for ((piece, before), _) in pairs {
            if ids[piece as usize] == 0 && !is_continued[before as usize] {
                ids[piece as usize] = self.previous[before as usize].1;
                is_continued[before as usize] = true;
            }
        }
        for id in ids.iter_mut().filter(|id| **id == 0) {
            *id = self.next_id;
            self.next_id = if self.next_id == LAST_ID { 1 } else { self.next_id + 1 };
        }
        self.ids.clear();
        self.ids.extend(self.map.iter().map(|&piece| ids.get(piece as usize).copied().unwrap_or(0)));

        self.previous.clear();
        self.previous.extend(pieces.regions().iter().zip(&ids).map(|(region, &id)| (region.train_id(), id)));
        std::mem::swap(&mut self.previous_map, &mut self.map);
        self.owners.clear();
        let mut by_track: Vec<((u32, u32), u64)> = of_track.into_iter().collect();
        by_track.sort_unstable_by_key(|&(pair, pixels)| (std::cmp::Reverse(pixels), pair));
        for ((track, piece), _) in by_track {
            self.owners.entry((track, self.previous[piece as usize].0)).or_insert(piece);
        }
        Ok(&self.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAR: u8 = 13;
    const ROAD: u8 = 0;
    const SIZE: ImageSize = ImageSize { width: 20, height: 6 };

    /// Cars as columns `start..end` of rows 1 to 4; each pixel's track is that of its car, 0 elsewhere.
    fn frame(cars: &[(usize, usize, u32)]) -> (Vec<u8>, Vec<u32>) {
        let (mut classes, mut tracks) = (vec![ROAD; SIZE.num_pixels()], vec![0; SIZE.num_pixels()]);
        for &(start, end, track) in cars {
            for y in 1..5 {
                classes[y * SIZE.width + start..y * SIZE.width + end].fill(CAR);
                tracks[y * SIZE.width + start..y * SIZE.width + end].fill(track);
            }
        }
        (classes, tracks)
    }

    fn ids(tracker: &mut InstanceTracker, cars: &[(usize, usize, u32)]) -> Vec<u16> {
        let (classes, tracks) = frame(cars);
        let map = tracker.update(SIZE, &classes, &tracks).unwrap();
        assert!(map.iter().zip(&classes).all(|(id, class)| (*id == 0) == (*class == ROAD)));
        cars.iter().map(|&(start, ..)| map[SIZE.width + start]).collect()
    }

    #[test]
    fn instances_keep_their_ids_by_place_and_by_track() {
        let mut tracker = InstanceTracker::new(&LabelSpace::cityscapes_19());
        assert_eq!(ids(&mut tracker, &[(0, 4, 7), (10, 14, 8)]), [1, 2]);
        // Moved by two columns.
        assert_eq!(ids(&mut tracker, &[(2, 6, 7), (12, 16, 8)]), [1, 2]);
        // Both jump clear of where they were: the tracks tell them apart. A third one is new.
        assert_eq!(ids(&mut tracker, &[(8, 10, 7), (17, 20, 8), (0, 1, 9)]), [1, 2, 3]);
        // One splits: the larger part is it.
        assert_eq!(ids(&mut tracker, &[(8, 9, 7), (10, 13, 7), (17, 20, 8)]), [4, 1, 2]);
        // Gone and back: a new one, since nothing is remembered.
        assert_eq!(ids(&mut tracker, &[]), [0u16; 0]);
        assert_eq!(ids(&mut tracker, &[(17, 20, 8)]), [5]);
        tracker.restart();
        assert_eq!(ids(&mut tracker, &[(17, 20, 8)]), [1]);
    }
}
