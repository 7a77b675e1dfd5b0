//! How far two label maps of the same image agree, away from the borders of one of them and near them. No paper's measure:
//! it says what a faster way of computing a map changes.

use crate::EvaluationError;
use crate::assignment::best_columns;

/// Sums over images of equal pixels of a map and a reference map.
///
/// *Inside* are the pixels with no border pixel of the reference within `margin` pixels in both directions (a square of
/// 2·margin + 1); a border pixel has a 4-neighbour with another label. All others are *borders*.
///
/// Labels may be names (classes), or numbers that say only which pixels belong together (segments). For the latter the
/// pixels are also compared after labels are paired one to one, per image, so that as many as possible are equal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Agreement {
    margin: usize,
    pixels: [u64; 2],
    equal: [u64; 2],
    matched: [u64; 2],
}

/// Shares of equal pixels; `None` without pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgreementResult {
    /// Share of the pixels that are inside.
    pub inside_share: Option<f64>,
    /// Of labels as they are.
    pub same_label: AgreementShares,
    /// After labels were paired.
    pub matched: AgreementShares,
}

/// Shares of equal pixels; `None` without pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgreementShares {
    /// Of all pixels.
    pub all: Option<f64>,
    /// Of those inside.
    pub inside: Option<f64>,
    /// Of the others.
    pub borders: Option<f64>,
}

/// Places of the inside and of the borders in the sums.
const INSIDE: usize = 0;
const BORDERS: usize = 1;

impl Agreement {
    /// Nothing seen yet; borders are `margin` pixels wide on either side.
    #[must_use]
    pub fn new(margin: usize) -> Self {
        Self { margin, ..Self::default() }
    }

    /// Adds one image of rows of `width` pixels, with labels below `num_labels`; larger ones are equal only to
    /// themselves and are not paired.
    ///
    /// # Errors
    /// When the maps have different lengths or are not whole rows. Nothing is added then.
    pub fn update(
        &mut self,
        reference: &[u16],
        map: &[u16],
        width: usize,
        num_labels: usize,
    ) -> Result<(), EvaluationError> {
        if reference.len() != map.len() {
            return Err(EvaluationError::Length { expected: reference.len(), got: map.len() });
        }
        if width == 0 || reference.is_empty() || !reference.len().is_multiple_of(width) {
            let (rows, columns, got) = (reference.len() / width.max(1), width, reference.len());
            return Err(EvaluationError::MapLength { what: "label map", rows, columns, got });
        }
        let near_border = widened(&border_pixels(reference, width), width, self.margin);
        // Common pixels of each pair of labels, inside and borders together: what the pairing maximises.
        let mut common = vec![0i64; num_labels * num_labels];
        let mut of_pair: [Vec<u64>; 2] = [INSIDE, BORDERS].map(|_| vec![0; num_labels * num_labels]);
        for ((&a, &b), &near_border) in reference.iter().zip(map).zip(&near_border) {
            let place = if near_border { BORDERS } else { INSIDE };
            self.pixels[place] += 1;
            self.equal[place] += u64::from(a == b);
            let (row, column) = (usize::from(a), usize::from(b));
            if row < num_labels && column < num_labels {
                common[row * num_labels + column] += 1;
                of_pair[place][row * num_labels + column] += 1;
            } else {
                self.matched[place] += u64::from(a == b);
            }
        }
        for (row, column) in best_columns(num_labels, &common).into_iter().enumerate() {
            for (sum, of_pair) in self.matched.iter_mut().zip(&of_pair) {
                *sum += of_pair[row * num_labels + column];
            }
        }
        Ok(())
    }

    /// Adds everything that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        let sums =
            [(&mut self.pixels, other.pixels), (&mut self.equal, other.equal), (&mut self.matched, other.matched)];
        for (sums, more) in sums {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }

    /// The shares over everything so far.
    #[must_use]
    pub fn result(&self) -> AgreementResult {
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let total: u64 = self.pixels.iter().sum();
        let shares = |equal: &[u64; 2]| AgreementShares {
            all: share(equal.iter().sum(), total),
            inside: share(equal[INSIDE], self.pixels[INSIDE]),
            borders: share(equal[BORDERS], self.pixels[BORDERS]),
        };
        AgreementResult {
            inside_share: share(self.pixels[INSIDE], total),
            same_label: shares(&self.equal),
            matched: shares(&self.matched),
        }
    }
}

/// True for pixels with a 4-neighbour of another label.
fn border_pixels(labels: &[u16], width: usize) -> Vec<bool> {
    let mut border = vec![false; labels.len()];
    for (at, &label) in labels.iter().enumerate() {
        let right = at + 1;
        if !right.is_multiple_of(width) && labels[right] != label {
            (border[at], border[right]) = (true, true);
        }
        if let Some(&below) = labels.get(at + width)
            && below != label
        {
            (border[at], border[at + width]) = (true, true);
        }
    }
    border
}

/// True for pixels with a true one within `margin` in both directions.
fn widened(mask: &[bool], width: usize, margin: usize) -> Vec<bool> {
    let height = mask.len() / width;
    let mut rows = vec![false; mask.len()];
    for (row, out) in mask.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
        for x in (0..width).filter(|&x| row[x]) {
            out[x.saturating_sub(margin)..(x + margin + 1).min(width)].fill(true);
        }
    }
    let mut all = vec![false; mask.len()];
    for (y, row) in rows.chunks_exact(width).enumerate() {
        for other in y.saturating_sub(margin)..(y + margin + 1).min(height) {
            for (out, &near) in all[other * width..][..width].iter_mut().zip(row) {
                *out |= near;
            }
        }
    }
    all
}
