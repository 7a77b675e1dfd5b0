//! Where results go \[F8\]: the files of 'Output folder of `run`'.
//!
//! The pipeline fills one [`SegmentedFrame`] per frame, calls [`SegmentedFrame::measure_segments`] and hands it to
//! [`FileSinks::write`]; at the end it calls [`FileSinks::finish`].

mod avi;
mod broadcast;
mod error;
mod fan_out;
mod files;
mod folder;
mod font;
mod live;
mod maps;
mod mcap;
mod palette;
mod panel;
mod save;
mod stream;

use segcore::image::{Frame, ImageSize, PixelFormat};

pub use broadcast::{Broadcast, BroadcastSink, MAX_PLACES, MAX_SUBSCRIBERS, PublishSummary, PublishTo};
pub use error::SinkError;
pub use fan_out::FanOut;
pub use files::{FileSinks, FileSinksSpec};
pub use folder::{DiskBudget, OutputFolder, subfolder_name};
pub use live::{LiveAddress, LiveError, LivePage, LivePictures, LiveSink};
pub use palette::track_color;
pub use save::SaveKinds;
pub use stream::{Publisher, class_table_hash};

/// No segment, no group: unlabelled or masked pixels, slots without pixels.
pub const NO_SEGMENT: u16 = u16::MAX;

/// Nanoseconds each stage spent on one frame; a stage that did not run has zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Hierarchy and names by retrieval.
    pub label: u64,
    /// Ids over time.
    pub associate: u64,
    /// Labels to pixel resolution.
    pub refine: u64,
    /// Writing and publishing (of the frame before, because it is written before this one ends).
    pub publish: u64,
}

/// One segmented frame. Its buffers are kept from frame to frame; only a source whose decoder makes a picture of its own
/// (image folders) replaces that of `frame`.
#[derive(Clone, Debug)]
pub struct SegmentedFrame {
    /// The input at source size, RGB8, or as the camera has it where a GPU takes it so; `frame.index` names the files.
    pub frame: Frame,
    /// Name of the stream (the source).
    pub stream: String,
    /// Counts published frames of this stream from 0, without gaps.
    pub sequence: u64,
    /// Size of `slots`: the source size.
    pub size: ImageSize,
    /// `[h*w]` level-0 slot of each pixel, row-major; [`NO_SEGMENT`] = unlabelled.
    pub slots: Vec<u16>,
    /// Finest level first; `levels[0].segments` is indexed by slot, the others by group.
    pub levels: Vec<LevelSegments>,
    /// What each stage spent.
    pub stage_nanos: StageNanos,
    /// How far the deadline controller has degraded the work; 0 = not at all.
    pub degradation_step: u8,
    /// Frames of this stream dropped so far.
    pub drops: u64,
    /// Sums of [`SegmentedFrame::measure_segments`], kept for their memory.
    pub(crate) extents: Vec<Vec<Extent>>,
}

impl Default for SegmentedFrame {
    fn default() -> Self {
        let size = ImageSize::new(0, 0);
        Self {
            frame: Frame::black(size, PixelFormat::Rgb8),
            stream: String::new(),
            sequence: 0,
            size,
            slots: Vec::new(),
            levels: Vec::new(),
            stage_nanos: StageNanos::default(),
            degradation_step: 0,
            drops: 0,
            extents: Vec::new(),
        }
    }
}

impl SegmentedFrame {
    /// Takes over all that another frame holds, in memory of its own: from the second copy of frames that are alike on,
    /// nothing is allocated.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        let Frame { size, format, ref pixels, index, capture_time } = other.frame;
        self.frame.pixels.clone_from(pixels);
        (self.frame.size, self.frame.format, self.frame.index) = (size, format, index);
        self.frame.capture_time = capture_time;
        self.stream.clone_from(&other.stream);
        (self.sequence, self.size, self.drops) = (other.sequence, other.size, other.drops);
        self.slots.clone_from(&other.slots);
        self.levels.resize_with(other.levels.len(), LevelSegments::default);
        for (level, from) in self.levels.iter_mut().zip(&other.levels) {
            level.parents.clone_from(&from.parents);
            level.segments.clone_from(&from.segments);
        }
        (self.stage_nanos, self.degradation_step) = (other.stage_nanos, other.degradation_step);
    }

    /// Fills presence, area, bounding box and mean position of all segments of all levels from `slots`, `size` and the
    /// parents, in one pass over the pixels. Slots beyond `levels[0].segments` count as unlabelled.
    pub fn measure_segments(&mut self) {
        let Self { slots, size, levels, extents, .. } = self;
        extents.resize_with(levels.len(), Vec::new);
        for (extents, level) in extents.iter_mut().zip(levels.iter()) {
            extents.clear();
            extents.resize(level.segments.len(), Extent::default());
        }
        let Some(finest) = extents.first_mut() else { return };
        for (y, row) in slots.chunks_exact(size.width.max(1)).enumerate() {
            let mut x0 = 0;
            for run in row.chunk_by(|a, b| a == b) {
                let x1 = x0 + run.len();
                if let Some(extent) = finest.get_mut(usize::from(run[0])) {
                    extent.add_run(x0 as u64, x1 as u64, y as u64);
                }
                x0 = x1;
            }
        }
        for (index, level) in levels.iter().enumerate() {
            let Some((finer, [coarser, ..])) = extents.split_at_mut_checked(index + 1) else { break };
            for (extent, parent) in finer[index].iter().zip(&level.parents) {
                if let Some(group) = coarser.get_mut(usize::from(*parent)) {
                    group.merge(extent);
                }
            }
        }
        for (level, extents) in levels.iter_mut().zip(extents) {
            for (segment, extent) in level.segments.iter_mut().zip(extents) {
                extent.store(segment);
            }
        }
    }
}

/// Sums over the pixels of one segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    area: u64,
    /// x0, y0, x1, y1; x1 and y1 exclusive.
    bounds: [u64; 4],
    sum_x: u64,
    sum_y: u64,
}

impl Extent {
    /// Adds the pixels `x0..x1` of row `y`.
    fn add_run(&mut self, x0: u64, x1: u64, y: u64) {
        let area = x1 - x0;
        // x0 + (x0 + 1) + … + (x1 − 1)
        let sum_x = (x0 + x1 - 1) * area / 2;
        self.merge(&Self { area, bounds: [x0, y, x1, y + 1], sum_x, sum_y: y * area });
    }

    fn merge(&mut self, other: &Self) {
        if self.area == 0 {
            *self = *other;
        } else if other.area > 0 {
            let ([ax0, ay0, ax1, ay1], [bx0, by0, bx1, by1]) = (self.bounds, other.bounds);
            self.bounds = [ax0.min(bx0), ay0.min(by0), ax1.max(bx1), ay1.max(by1)];
            self.area += other.area;
            self.sum_x += other.sum_x;
            self.sum_y += other.sum_y;
        }
    }

    fn store(&self, segment: &mut SegmentInfo) {
        let area = self.area.max(1) as f64;
        segment.present = self.area > 0;
        segment.area = u32::try_from(self.area).unwrap_or(u32::MAX);
        segment.bounding_box = self.bounds.map(|value| value as u32);
        segment.mean_position = [(self.sum_x as f64 / area) as f32, (self.sum_y as f64 / area) as f32];
    }
}

/// The segments of one level of a [`SegmentedFrame`].
#[derive(Clone, Debug, Default)]
pub struct LevelSegments {
    /// Per segment its parent at the next level, [`NO_SEGMENT`] where it has none; empty at the last level.
    pub parents: Vec<u16>,
    /// Per segment what is known about it.
    pub segments: Vec<SegmentInfo>,
}

/// One segment at one level.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SegmentInfo {
    /// Id that stays with the segment over time, below 65535.
    pub track_id: u32,
    /// Class; none when the model has no bank.
    pub train_id: Option<u8>,
    /// Share of the votes that the class got, 0 to 1.
    pub confidence: f32,
    /// 1 − cosine to the nearest prototype, 0 to 2.
    pub unknown_score: f32,
    /// `[x0, y0, x1, y1]` pixels, x1 and y1 exclusive; zeros when not present.
    pub bounding_box: [u32; 4],
    /// Pixels.
    pub area: u32,
    /// `[x, y]` mean pixel index; zeros when not present.
    pub mean_position: [f32; 2],
    /// Whether it has at least one pixel in this frame.
    pub present: bool,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small segmented frame: 6×4 pixels, 4 slots of which one has no pixels, 2 groups, 1 group; one pixel unlabelled.
    pub(crate) fn small_frame() -> SegmentedFrame {
        let size = ImageSize::new(6, 4);
        let mut frame = Frame::black(size, PixelFormat::Rgb8);
        frame.pixels.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7 % 256) as u8);
        const N: u16 = NO_SEGMENT;
        let slots = vec![
            0, 0, 0, 3, 3, 3, //
            0, 0, 0, 3, 3, 3, //
            1, 1, 1, 1, 3, 3, //
            1, 1, 1, 1, 1, N,
        ];
        let segment =
            |track_id, train_id| SegmentInfo { track_id, train_id, confidence: 0.5, ..SegmentInfo::default() };
        let levels = vec![
            LevelSegments {
                parents: vec![0, 1, N, 0],
                segments: vec![segment(70, Some(0)), segment(71, Some(3)), segment(72, None), segment(73, None)],
            },
            LevelSegments { parents: vec![0, 0], segments: vec![segment(5, Some(0)), segment(6, Some(3))] },
            LevelSegments { parents: vec![], segments: vec![segment(2, Some(0))] },
        ];
        let mut result =
            SegmentedFrame { frame, stream: "small".to_owned(), size, slots, levels, ..SegmentedFrame::default() };
        result.measure_segments();
        result
    }

    #[test]
    fn segments_are_measured_at_all_levels() {
        let frame = small_frame();
        let [fine, middle, coarse] = &frame.levels[..] else { panic!() };
        let areas: Vec<u32> = fine.segments.iter().map(|segment| segment.area).collect();
        assert_eq!(areas, [6, 9, 0, 8]);
        assert!(!fine.segments[2].present && fine.segments[3].present);
        assert_eq!(fine.segments[2].bounding_box, [0; 4]);
        assert_eq!(fine.segments[0].bounding_box, [0, 0, 3, 2]);
        assert_eq!(fine.segments[0].mean_position, [1.0, 0.5]);
        assert_eq!(fine.segments[3].bounding_box, [3, 0, 6, 3]);
        assert_eq!(middle.segments[0].area, 14);
        assert_eq!(middle.segments[0].bounding_box, [0, 0, 6, 3]);
        assert_eq!(coarse.segments[0].area, 23);
        assert_eq!(coarse.segments[0].bounding_box, [0, 0, 6, 4]);
        let mean_x = (0..24).filter(|i| *i != 23).map(|i| (i % 6) as f32).sum::<f32>() / 23.0;
        assert!((coarse.segments[0].mean_position[0] - mean_x).abs() < 1e-6);
    }

    #[test]
    fn a_copy_is_the_same_frame() {
        let frame = small_frame();
        let mut copy = SegmentedFrame { levels: vec![LevelSegments::default(); 5], ..SegmentedFrame::default() };
        for _ in 0..2 {
            copy.copy_from(&frame);
            copy.extents.clone_from(&frame.extents);
            assert_eq!(format!("{copy:?}"), format!("{frame:?}"));
        }
    }

    #[test]
    fn measuring_again_starts_afresh() {
        let mut frame = small_frame();
        let once = frame.levels[0].segments.clone();
        frame.measure_segments();
        assert_eq!(frame.levels[0].segments, once);
        frame.slots.fill(NO_SEGMENT);
        frame.measure_segments();
        assert!(frame.levels.iter().flat_map(|level| &level.segments).all(|segment| !segment.present));
        SegmentedFrame::default().measure_segments();
    }
}
