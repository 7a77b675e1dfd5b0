//! Which frames of a video are worth learning from: those that differ from the last one chosen.

use segcore::image::Frame;
use serde::{Deserialize, Serialize};

use crate::DatasetError;

/// How frames of videos are chosen.
///
/// A frame becomes a thumbnail of 32×18 mean brightnesses (Rec. 601 luma), which is moved to mean 0 and scaled to
/// standard deviation 1 (at least 4 grey levels count as that), so that exposure and contrast do not matter. It is chosen
/// if it is the first, or its thumbnail differs from that of the last one chosen by more than `min_difference` in the
/// mean. Nothing is random: the same video gives the same frames.
///
/// Chosen of two clips of motorway at 25 frames a second, with the default first:
///
/// | `min_difference` | empty road, 221 frames | dense traffic under shadows, 38 frames |
/// |---|---|---|
/// | 0.2 | 5 | 13 |
/// | 0.1 | 23 | 30 |
/// | 0.04 | 97 | 38 |
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrameChoice {
    /// Mean absolute difference of thumbnails, in standard deviations of the brightness, above which a frame is chosen;
    /// 0 or more. 0 chooses every frame that is not the same as the last.
    pub min_difference: f32,
    /// At most so many frames of each video, at least 1, spread over the whole of it.
    pub max_per_video: usize,
    /// Thins the images of a folder by the same rule: they are left out of the data set, not removed.
    pub thin_images: bool,
}

impl Default for FrameChoice {
    fn default() -> Self {
        Self { min_difference: 0.2, max_per_video: 1000, thin_images: false }
    }
}

impl FrameChoice {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`DatasetError::FrameChoice`] naming the field, what was expected and what was given.
    pub fn validate(&self) -> Result<(), DatasetError> {
        let wrong = |field, expected, got| Err(DatasetError::FrameChoice { field, expected, got });
        if !(self.min_difference.is_finite() && self.min_difference >= 0.0) {
            return wrong("min_difference", "a number from 0 on", self.min_difference.to_string());
        }
        if self.max_per_video == 0 {
            return wrong("max_per_video", "at least 1", self.max_per_video.to_string());
        }
        Ok(())
    }
}

const COLUMNS: usize = 32;
const ROWS: usize = 18;
/// Standard deviation, grey levels, that a thumbnail is taken to have at least: noise of a dark or foggy frame must not
/// be scaled up to differences.
const MIN_DEVIATION: f32 = 4.0;

/// Brightness of a frame at 32×18, mean 0, standard deviation 1 or less.
#[derive(Clone, Debug)]
struct Thumbnail([f32; COLUMNS * ROWS]);

impl Thumbnail {
    /// `frame` is RGB8 and has at least one pixel.
    fn of(frame: &Frame) -> Self {
        let (width, height) = (frame.size.width, frame.size.height);
        let row_bytes = 3 * width;
        let mut cells = [0.0; COLUMNS * ROWS];
        for (at, cell) in cells.iter_mut().enumerate() {
            let (rows, columns) = (span(at / COLUMNS, ROWS, height), span(at % COLUMNS, COLUMNS, width));
            let count = rows.len() * columns.len();
            let mut sum = 0u64;
            for y in rows {
                let row = frame.pixels.get(y * row_bytes + 3 * columns.start..y * row_bytes + 3 * columns.end);
                for pixel in row.unwrap_or_default().as_chunks::<3>().0 {
                    let [red, green, blue] = pixel.map(u64::from);
                    sum += 299 * red + 587 * green + 114 * blue;
                }
            }
            *cell = sum as f32 / (1000 * count.max(1)) as f32;
        }
        let mean = cells.iter().sum::<f32>() / cells.len() as f32;
        let variance = cells.iter().map(|cell| (cell - mean) * (cell - mean)).sum::<f32>() / cells.len() as f32;
        let scale = 1.0 / variance.sqrt().max(MIN_DEVIATION);
        Self(cells.map(|cell| (cell - mean) * scale))
    }

    fn difference(&self, other: &Self) -> f32 {
        let sum: f32 = self.0.iter().zip(&other.0).map(|(a, b)| (a - b).abs()).sum();
        sum / self.0.len() as f32
    }
}

/// Pixels of the `index`-th of `parts` equal parts of a side; at least one.
fn span(index: usize, parts: usize, side: usize) -> std::ops::Range<usize> {
    let start = index * side / parts;
    start..((index + 1) * side / parts).max(start + 1)
}

/// Goes through the frames of one video or folder and says which differ.
pub(crate) struct Chooser {
    min_difference: f32,
    last: Option<Thumbnail>,
}

impl Chooser {
    pub(crate) fn new(choice: &FrameChoice) -> Self {
        Self { min_difference: choice.min_difference, last: None }
    }

    /// Whether `frame` (RGB8) differs from the last one that did.
    pub(crate) fn differs(&mut self, frame: &Frame) -> bool {
        let thumbnail = Thumbnail::of(frame);
        let differs = self.last.as_ref().is_none_or(|last| thumbnail.difference(last) > self.min_difference);
        if differs {
            self.last = Some(thumbnail);
        }
        differs
    }
}

/// Keeps at most `max` of what is offered, spread evenly, and at no time more than twice that.
pub(crate) struct Spread {
    max: usize,
    /// Every `stride`-th is kept.
    stride: usize,
    num_offered: usize,
    kept: Vec<u64>,
}

impl Spread {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), stride: 1, num_offered: 0, kept: Vec::new() }
    }

    /// Whether the next one is kept; `dropped` gets those that are kept no longer.
    pub(crate) fn offer(&mut self, index: u64, dropped: &mut Vec<u64>) -> bool {
        let is_kept = self.num_offered.is_multiple_of(self.stride);
        self.num_offered += 1;
        if is_kept {
            self.kept.push(index);
            if self.kept.len() >= self.max.saturating_mul(2) {
                let mut is_odd = true;
                self.kept.retain(|kept| {
                    is_odd = !is_odd;
                    if is_odd && *kept != index {
                        dropped.push(*kept);
                    }
                    !is_odd
                });
                self.stride *= 2;
            }
        }
        // The one that made it too many may be among those that go.
        is_kept && self.kept.last() == Some(&index)
    }

    /// What is kept in the end; `dropped` gets the rest.
    pub(crate) fn finish(self, dropped: &mut Vec<u64>) -> Vec<u64> {
        let (max, total) = (self.max, self.kept.len());
        if total <= max {
            return self.kept;
        }
        let chosen: Vec<u64> = (0..max).map(|at| self.kept[at * total / max]).collect();
        dropped.extend(self.kept.into_iter().filter(|index| !chosen.contains(index)));
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use segcore::image::{ImageSize, PixelFormat};

    fn frame(size: ImageSize, brightness: impl Fn(usize, usize) -> u8) -> Frame {
        let at = |index: usize| brightness(index % size.width, index / size.width);
        let pixels = (0..size.num_pixels()).flat_map(|index| [at(index); 3]).collect();
        Frame::from_pixels(size, PixelFormat::Rgb8, pixels).unwrap()
    }

    #[test]
    fn exposure_and_contrast_do_not_count() {
        let size = ImageSize::new(64, 36);
        let mut chooser = Chooser::new(&FrameChoice::default());
        assert!(chooser.differs(&frame(size, |x, y| (20 + 2 * x + y) as u8)));
        assert!(!chooser.differs(&frame(size, |x, y| (60 + 2 * x + y) as u8)));
        assert!(!chooser.differs(&frame(size, |x, y| (10 + x + y / 2) as u8)));
        assert!(chooser.differs(&frame(size, |x, y| (250 - 2 * x - y) as u8)));
        // Nor does noise in a dark frame.
        assert!(chooser.differs(&frame(size, |_, _| 3)));
        assert!(!chooser.differs(&frame(size, |x, y| 2 + (x * 7 + y * 5) as u8 % 3)));
    }

    #[test]
    fn images_smaller_than_the_thumbnail_are_compared_too() {
        let size = ImageSize::new(3, 2);
        let mut chooser = Chooser::new(&FrameChoice::default());
        assert!(chooser.differs(&frame(size, |x, _| 80 * x as u8)));
        assert!(!chooser.differs(&frame(size, |x, _| 80 * x as u8)));
        assert!(chooser.differs(&frame(size, |x, _| 200 - 80 * x as u8)));
    }

    #[test]
    fn settings_are_checked() {
        let message = |choice: FrameChoice| choice.validate().unwrap_err().to_string();
        let text = message(FrameChoice { min_difference: f32::NAN, ..FrameChoice::default() });
        assert!(text.contains("min_difference") && text.contains("NaN"), "{text}");
        let text = message(FrameChoice { max_per_video: 0, ..FrameChoice::default() });
        assert!(text.contains("max_per_video") && text.contains("at least 1"), "{text}");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_spread_and_bounded(max in 1usize..20, total in 0u64..300) {
            let mut spread = Spread::new(max);
            let mut files = std::collections::BTreeSet::new();
            for index in 0..total {
                let mut dropped = Vec::new();
                if spread.offer(index, &mut dropped) {
                    files.insert(index);
                }
                for index in dropped {
                    files.remove(&index);
                }
                prop_assert!(files.len() <= 2 * max);
            }
            let mut dropped = Vec::new();
            let kept = spread.finish(&mut dropped);
            for index in dropped {
                prop_assert!(files.remove(&index));
            }
            prop_assert_eq!(&kept, &files.into_iter().collect::<Vec<_>>());
            prop_assert!(kept.len() <= max);
            prop_assert!(kept.len() as u64 >= total.min(max as u64));
            if total > 0 {
                prop_assert_eq!(kept[0], 0);
            }
            // Nowhere a hole much larger than an even spread would leave.
            let largest = kept.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            prop_assert!(largest <= 4 * (total / max as u64 + 1), "{} of {} at most {}", largest, total, max);
        }
    }
}
