//! Flicker: how often the prediction changes where the scene does not. A measure of this project.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::EvaluationError;

/// Whether each pixel has the same class in both ground truths, `[height, width]` row-major, and has one at all; `ignore`
/// is the value of pixels without class.
///
/// # Errors
/// When the lengths differ.
pub fn same_truth(before: &[u8], now: &[u8], ignore: u8) -> Result<Vec<bool>, EvaluationError> {
    check_length(before.len(), now.len())?;
    Ok(before.iter().zip(now).map(|(&before, &now)| (before == now) & (now != ignore)).collect())
}

/// A change of a mean by as many grey levels is one of the scene.
const CHANGE: u32 = 4;

/// Whether the mean grey level of each pixel's 3×3 surroundings differs by less than 4 of 255 between two images, both
/// `[height, width]` row-major: where there is no ground truth, a pixel that looks the same. At the edge the mean is over
/// the pixels that exist.
///
/// # Errors
/// When the lengths are not those of the size.
pub fn same_image(height: usize, width: usize, before: &[u8], now: &[u8]) -> Result<Vec<bool>, EvaluationError> {
    if height.checked_mul(width) != Some(before.len()) {
        return Err(EvaluationError::MapLength { what: "grey image", rows: height, columns: width, got: before.len() });
    }
    check_length(before.len(), now.len())?;
    let mut is_same = Vec::with_capacity(before.len());
    // The difference of means is the mean of differences; sums of a column's three first, then of three columns.
    let mut columns = vec![0i32; width];
    for y in 0..height {
        columns.fill(0);
        let rows = y.saturating_sub(1)..(y + 2).min(height);
        let num_rows = rows.len() as u32;
        for row in rows {
            let pixels = row * width..(row + 1) * width;
            for ((sum, &before), &now) in columns.iter_mut().zip(&before[pixels.clone()]).zip(&now[pixels]) {
                *sum += i32::from(now) - i32::from(before);
            }
        }
        is_same.extend((0..width).map(|x| {
            let around = &columns[x.saturating_sub(1)..(x + 2).min(width)];
            around.iter().sum::<i32>().unsigned_abs() < CHANGE * num_rows * around.len() as u32
        }));
    }
    Ok(is_same)
}

fn check_length(expected: usize, got: usize) -> Result<(), EvaluationError> {
    if expected == got { Ok(()) } else { Err(EvaluationError::Length { expected, got }) }
}

/// How many pixels of one frame and the next went from which label to which, counted once for all levels.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LabelChanges {
    pairs: Vec<(u32, u32, u64)>,
}

impl LabelChanges {
    /// The labels of two frames, one per pixel, where `is_same` is true: segments of the finest level, or classes.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn new<L: Copy + Eq + Into<u32>>(is_same: &[bool], before: &[L], now: &[L]) -> Result<Self, EvaluationError> {
        check_length(is_same.len(), before.len())?;
        check_length(is_same.len(), now.len())?;
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        let (mut run, mut length) = (None, 0);
        for ((&is_same, &before), &now) in is_same.iter().zip(before).zip(now) {
            if !is_same {
                continue;
            }
            if run != Some((before, now)) {
                add_run(&mut counts, run, length);
                (run, length) = (Some((before, now)), 0);
            }
            length += 1;
        }
        add_run(&mut counts, run, length);
        let mut pairs: Vec<_> = counts.into_iter().map(|((before, now), pixels)| (before, now, pixels)).collect();
        pairs.sort_unstable();
        Ok(Self { pairs })
    }
}

fn add_run<L: Into<u32>>(counts: &mut HashMap<(u32, u32), u64>, run: Option<(L, L)>, length: u64) {
    if let Some((before, now)) = run {
        *counts.entry((before.into(), now.into())).or_default() += length;
    }
}

/// Share of the pixels at which the scene stays the same from one frame to the next ([`same_truth`] or [`same_image`])
/// whose prediction changes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "StoredFlicker", into = "StoredFlicker")]
pub struct Flicker {
    changed: u64,
    total: u64,
}

impl Flicker {
    /// Adds a frame and the one before it in the same sequence: what the labels mean in each of them, say the track id of
    /// the group at one level that each segment is in. A label without an item, or with `None`, is a pixel without
    /// prediction; going from one to another is no change.
    pub fn update<I: Eq>(&mut self, changes: &LabelChanges, before: &[Option<I>], now: &[Option<I>]) {
        for &(label_before, label_now, pixels) in &changes.pairs {
            let before = before.get(label_before as usize).and_then(Option::as_ref);
            let now = now.get(label_now as usize).and_then(Option::as_ref);
            self.changed += if before == now { 0 } else { pixels };
            self.total += pixels;
        }
    }

    /// As [`Flicker::update`], for labels that mean the same in both frames, say classes.
    pub fn update_labels(&mut self, changes: &LabelChanges) {
        for &(before, now, pixels) in &changes.pairs {
            self.changed += if before == now { 0 } else { pixels };
            self.total += pixels;
        }
    }

    /// Adds everything that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        self.changed += other.changed;
        self.total += other.total;
    }

    /// The share over everything seen so far, 0 to 1, lower is better; `None` when no pixel stayed the same.
    pub fn result(&self) -> Option<f64> {
        (self.total > 0).then(|| self.changed as f64 / self.total as f64)
    }
}

/// What is written: the fields, not yet checked against each other.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredFlicker {
    changed: u64,
    total: u64,
}

impl From<Flicker> for StoredFlicker {
    fn from(flicker: Flicker) -> Self {
        Self { changed: flicker.changed, total: flicker.total }
    }
}

impl TryFrom<StoredFlicker> for Flicker {
    type Error = EvaluationError;

    fn try_from(stored: StoredFlicker) -> Result<Self, EvaluationError> {
        let (changed, total) = (stored.changed, stored.total);
        EvaluationError::check_stored(changed <= total, "flicker", || {
            format!("at most {total} changed pixels, got {changed}")
        })?;
        Ok(Self { changed, total })
    }
}
