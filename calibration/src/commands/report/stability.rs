//! How stable a form is over time, without labels: share of the pixels whose id, or class, is that of the frame before.

use runtime::sink::SegmentedFrame;

use super::measure::{classes_of, level_maps};
use super::receipt::StabilityReport;

/// Sums over videos.
#[derive(Clone, Default)]
pub(super) struct Stability {
    /// Per level the pixels that kept their track id; last, those that kept their class.
    kept: Vec<u64>,
    pixels: u64,
    previous: Option<Vec<Vec<u32>>>,
}

impl Stability {
    /// Another video begins.
    pub(super) fn begin(&mut self) {
        self.previous = None;
    }

    /// Adds the next frame.
    pub(super) fn add(&mut self, frame: &SegmentedFrame) {
        let mut maps: Vec<Vec<u32>> = level_maps(frame)
            .into_iter()
            .zip(&frame.levels)
            .map(|((labels, _), level)| {
                let id =
                    |label: u16| level.segments.get(usize::from(label)).map_or(u32::MAX, |segment| segment.track_id);
                labels.into_iter().map(id).collect()
            })
            .collect();
        maps.push(classes_of(frame).into_iter().map(u32::from).collect());
        // A size that changes within a video leaves nothing to compare.
        if let Some(previous) =
            self.previous.take().filter(|held| held.first().map(Vec::len) == maps.first().map(Vec::len))
        {
            self.kept.resize(maps.len(), 0);
            self.pixels += frame.slots.len() as u64;
            for ((kept, before), now) in self.kept.iter_mut().zip(&previous).zip(&maps) {
                *kept += before.iter().zip(now).filter(|(before, now)| before == now).count() as u64;
            }
        }
        self.previous = Some(maps);
    }

    /// The shares; none without two frames.
    pub(super) fn report(&self, has_bank: bool) -> Option<StabilityReport> {
        let (classes, levels) = self.kept.split_last()?;
        let share = |kept: &u64| *kept as f64 / self.pixels.max(1) as f64;
        Some(StabilityReport { classes: has_bank.then(|| share(classes)), levels: levels.iter().map(share).collect() })
    }
}
