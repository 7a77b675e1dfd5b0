//! The published frame as a value.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::codec::{MAX_PIXELS, WireError};

/// "No segment": an unlabelled pixel in the map, or a segment without parent.
pub const NO_SEGMENT: u16 = u16::MAX;

/// One published frame. Fields are encoded in this order; a change needs a new [`crate::VERSION`].
///
/// Only segments that have at least one pixel are listed, so every index is dense.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Name of the stream (the source).
    pub stream: String,
    /// Counts published frames of this stream from 0.
    pub sequence: u64,
    /// When the frame was captured, nanoseconds of the publisher's monotonic clock; of a file its presentation time.
    pub capture_monotonic_nanos: u64,
    /// When the frame was captured, nanoseconds since 1970-01-01 UTC; 0 = unknown.
    pub capture_utc_nanos: u64,
    /// Image width, pixels.
    pub width: u32,
    /// Image height, pixels.
    pub height: u32,
    /// The level-0 map, row by row, as runs whose lengths sum to `width * height`; a run may go on in the next row.
    pub map: Vec<Run>,
    /// Segments of each level, finest first; level l's parents index the segments of level l + 1.
    pub levels: Vec<Level>,
    /// Which classes `train_id` refers to: SHA-256 over the lines "train_id name\n" in ascending order of train id;
    /// zeros when the model names nothing.
    pub class_table_hash: [u8; 32],
    /// What each stage of the publisher spent on this frame.
    pub stage_nanos: StageNanos,
    /// How far the publisher's deadline controller has degraded its work; 0 = not at all.
    pub degradation_step: u8,
    /// Frames of this stream that the publisher dropped so far.
    pub drops: u64,
}

/// Equal pixels in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Pixels, at least 1.
    pub length: u32,
    /// Index into `levels[0].segments`, or [`NO_SEGMENT`].
    pub segment: u16,
}

/// The segments of one level.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Per segment the index of its parent among the segments of the next level, or [`NO_SEGMENT`]; empty at the last
    /// level.
    pub parents: Vec<u16>,
    /// The segments.
    pub segments: Vec<Segment>,
}

/// One segment at one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Id that stays with the segment over time, below 65535.
    pub track_id: u32,
    /// Class; none when the model names nothing.
    pub train_id: Option<u8>,
    /// Share of the votes that the class got, 0 to 1.
    pub confidence: f32,
    /// 1 − cosine to the nearest prototype, 0 to 2.
    pub unknown_score: f32,
    /// `[x0, y0, x1, y1]` pixels; x1 and y1 are exclusive.
    pub bounding_box: [u32; 4],
    /// Pixels.
    pub area: u32,
    /// `[x, y]`, mean of the pixel indices.
    pub mean_position: [f32; 2],
}

/// Nanoseconds that each stage spent on a frame; a stage that did not run has 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageNanos {
    /// Reading or decoding.
    pub capture: u64,
    /// Resizing and normalising.
    pub preprocess: u64,
    /// Embedding network.
    pub embed: u64,
    /// Spherical k-means.
    pub segment: u64,
    /// Clustering transformers.
    pub group: u64,
    /// Hierarchy and names.
    pub label: u64,
    /// Ids over time.
    pub associate: u64,
    /// Labels to pixel resolution.
    pub refine: u64,
    /// Publishing.
    pub publish: u64,
}

impl Frame {
    /// Checks what the encoding itself does not: run lengths against the size, every index against its table.
    ///
    /// # Errors
    /// [`WireError::Content`], naming the field, what was expected and what was found.
    pub fn validate(&self) -> Result<(), WireError> {
        let content = |field, expected: u64, got: u64| Err(WireError::Content { field, expected, got });
        let pixels = u64::from(self.width) * u64::from(self.height);
        if pixels > MAX_PIXELS {
            return content("width * height at most", MAX_PIXELS, pixels);
        }
        let covered: u64 = self.map.iter().map(|run| u64::from(run.length)).sum();
        if covered != pixels {
            return content("map (sum of run lengths, pixels)", pixels, covered);
        }
        if self.map.iter().any(|run| run.length == 0) {
            return content("map (shortest run, pixels)", 1, 0);
        }
        let mut count = self.levels.first().map_or(0, |level| level.segments.len());
        if let Some(run) = self.map.iter().find(|run| out_of_range(run.segment, count)) {
            return content("map (segment index below)", count as u64, run.segment.into());
        }
        for (index, level) in self.levels.iter().enumerate() {
            count = level.segments.len();
            if count > usize::from(NO_SEGMENT) {
                return content("levels (segments of a level at most)", NO_SEGMENT.into(), count as u64);
            }
            let next = self.levels.get(index + 1);
            let expected = if next.is_some() { count } else { 0 };
            if level.parents.len() != expected {
                return content("levels (parents of a level)", expected as u64, level.parents.len() as u64);
            }
            let next_count = next.map_or(0, |level| level.segments.len());
            if let Some(parent) = level.parents.iter().find(|parent| out_of_range(**parent, next_count)) {
                return content("levels (parent index below)", next_count as u64, u64::from(*parent));
            }
        }
        Ok(())
    }

    /// Writes the level-0 map as one index per pixel, `[height * width]` row-major, into `map`, reusing its memory.
    ///
    /// Of a frame that passed [`Frame::validate`] the length is `width * height`, at most [`MAX_PIXELS`]; that can be
    /// far more memory than the encoded frame (a run is a few bytes), so look at `width` and `height` of frames that
    /// come from strangers first.
    pub fn expand_map_into(&self, map: &mut Vec<u16>) {
        map.clear();
        for run in &self.map {
            map.resize(map.len() + run.length as usize, run.segment);
        }
    }

    /// Sets size and `map` from one index per pixel, reusing memory.
    ///
    /// `labels` is `[height * width]` row-major, [`NO_SEGMENT`] = unlabelled; the size is the caller's to keep equal.
    pub fn set_map(&mut self, width: u32, height: u32, labels: &[u16]) {
        (self.width, self.height) = (width, height);
        self.map.clear();
        for same in labels.chunk_by(|a, b| a == b) {
            // Longer runs than u32 holds are cut; no image that fits into memory here has them.
            for piece in same.chunks(u32::MAX as usize) {
                self.map.push(Run { length: piece.len() as u32, segment: piece[0] });
            }
        }
    }
}

fn out_of_range(index: u16, count: usize) -> bool {
    index != NO_SEGMENT && usize::from(index) >= count
}
