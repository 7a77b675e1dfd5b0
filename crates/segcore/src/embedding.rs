//! Pixel features ("embedding") in the layout that clustering wants: pixel-major, unit rows.

use crate::parallel::for_each_range;
use crate::sampling::linspace;

/// Norms below this count as zero: the vector stays zero instead of becoming NaN.
pub const MIN_NORM: f32 = 1e-12;

/// Features of a map of cells, `[height, width, dim]`, pixel-major. Rows have unit length (zero rows are allowed: they
/// stay zero everywhere).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbeddingMap {
    /// Rows of cells.
    pub height: usize,
    /// Cells per row.
    pub width: usize,
    /// Length m of a feature vector.
    pub dim: usize,
    /// `[height, width, dim]`.
    pub data: Vec<f32>,
}

/// A tensor does not have the shape it is said to have.
#[derive(Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// The number of values does not match the shape.
    #[error("the embedding has {got} values, expected {expected} for [{dim}, {height}, {width}]")]
    WrongLength {
        /// Values that the shape needs.
        expected: usize,
        /// Values given.
        got: usize,
        /// Channels.
        dim: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// The content is empty or larger than the padded map.
    #[error("content of [{content_height}, {content_width}] cells does not fit the map [{height}, {width}]")]
    WrongContent {
        /// Rows of content.
        content_height: usize,
        /// Columns of content.
        content_width: usize,
        /// Rows of the map.
        height: usize,
        /// Columns of the map.
        width: usize,
    },
}

impl EmbeddingMap {
    /// A map of zeros.
    #[must_use]
    pub fn zeros(height: usize, width: usize, dim: usize) -> Self {
        Self { height, width, dim, data: vec![0.0; height * width * dim] }
    }

    /// Number of cells.
    #[must_use]
    pub fn num_cells(&self) -> usize {
        self.height * self.width
    }

    /// Feature vector of cell (`y`, `x`).
    ///
    /// # Panics
    /// When the cell is outside the map.
    #[must_use]
    pub fn cell(&self, y: usize, x: usize) -> &[f32] {
        let start = (y * self.width + x) * self.dim;
        &self.data[start..start + self.dim]
    }

    /// Takes the network's output `[dim, padded_h, padded_w]` (batch of one), keeps the first `content_h` rows and
    /// `content_w` columns (the rest is padding), and transposes to pixel-major. Values are not changed; memory is
    /// reused. Runs on the current rayon pool.
    ///
    /// # Errors
    /// When `nchw` has another length, or the content does not fit; the map is then unchanged.
    pub fn set_from_nchw(
        &mut self,
        nchw: &[f32],
        padded_h: usize,
        padded_w: usize,
        content_h: usize,
        content_w: usize,
        dim: usize,
    ) -> Result<(), EmbeddingError> {
        let expected = dim.saturating_mul(padded_h).saturating_mul(padded_w);
        if nchw.len() != expected {
            let got = nchw.len();
            return Err(EmbeddingError::WrongLength { expected, got, dim, height: padded_h, width: padded_w });
        }
        let fits = (1..=padded_h).contains(&content_h) && (1..=padded_w).contains(&content_w);
        if !fits || dim == 0 {
            return Err(EmbeddingError::WrongContent {
                content_height: content_h,
                content_width: content_w,
                height: padded_h,
                width: padded_w,
            });
        }
        (self.height, self.width, self.dim) = (content_h, content_w, dim);
        self.data.resize(content_h * content_w * dim, 0.0);
        let plane = padded_h * padded_w;
        let row_len = content_w * dim;
        for_each_range(0..content_h, &mut self.data, 1, false, &|y| y * row_len, &|rows, out| {
            for (y, out_row) in rows.zip(out.chunks_exact_mut(row_len)) {
                let source_row = &nchw[y * padded_w..];
                // 16 cells at a time: their reads share cache lines, their writes stay in L1.
                for (block, out_block) in out_row.chunks_mut(16 * dim).enumerate() {
                    let num = out_block.len() / dim;
                    for c in 0..dim {
                        let source = &source_row[c * plane + block * 16..][..num];
                        for (x, &value) in source.iter().enumerate() {
                            out_block[x * dim + c] = value;
                        }
                    }
                }
            }
        });
        Ok(())
    }

    /// Scales every row to unit length; rows with a norm below [`MIN_NORM`] (or not finite) become zero.
    pub fn normalize_in_place(&mut self) {
        let dim = self.dim.max(1);
        let num_cells = self.data.len() / dim;
        for_each_range(0..num_cells, &mut self.data, 256, false, &|i| i * dim, &|_, rows| {
            for row in rows.chunks_exact_mut(dim) {
                normalize(row);
            }
        });
    }
}

/// Scales `vector` to unit length; zero (norm below [`MIN_NORM`]) or not finite becomes zero.
pub fn normalize(vector: &mut [f32]) {
    let norm = crate::simd::squared_norm(vector).sqrt();
    let scale = if norm >= MIN_NORM && norm.is_finite() { norm.recip() } else { 0.0 };
    if scale == 0.0 {
        vector.fill(0.0);
    } else {
        for value in vector {
            *value *= scale;
        }
    }
}

/// Location features of a map: cell (y, x) has `(rows[y], columns[x])`, each in [-0.5, 0.5].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocationFeatures {
    /// `linspace(-0.5, 0.5, h)`.
    pub rows: Vec<f32>,
    /// `linspace(-0.5, 0.5, w)`.
    pub columns: Vec<f32>,
}

/// Location features of an `h` × `w` map (§3): `torch.linspace(-0.5, 0.5, ·)` over rows and columns, both ends
/// included; an axis of one cell has -0.5.
#[must_use]
pub fn location_features(h: usize, w: usize) -> LocationFeatures {
    LocationFeatures { rows: linspace(-0.5, 0.5, h).collect(), columns: linspace(-0.5, 0.5, w).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_and_crops() {
        let (dim, h, w) = (3, 4, 40);
        let nchw: Vec<f32> = (0..dim * h * w).map(|i| i as f32).collect();
        let mut map = EmbeddingMap::default();
        map.set_from_nchw(&nchw, h, w, 3, 37, dim).unwrap();
        assert_eq!((map.height, map.width, map.dim), (3, 37, 3));
        for y in 0..3 {
            for x in 0..37 {
                let expected: Vec<f32> = (0..dim).map(|c| nchw[c * h * w + y * w + x]).collect();
                assert_eq!(map.cell(y, x), expected);
            }
        }
        assert!(map.set_from_nchw(&nchw[1..], h, w, 3, 37, dim).is_err());
        assert!(map.set_from_nchw(&nchw, h, w, 5, 37, dim).is_err());
        assert!(map.set_from_nchw(&nchw, h, w, 0, 37, dim).is_err());
    }

    #[test]
    fn zero_and_infinite_rows_survive_normalisation() {
        let mut map = EmbeddingMap::zeros(1, 4, 2);
        map.data.copy_from_slice(&[3.0, 4.0, 0.0, 0.0, f32::NAN, 1.0, f32::MAX, f32::MAX]);
        map.normalize_in_place();
        assert_eq!(map.data[..4], [0.6, 0.8, 0.0, 0.0]);
        assert_eq!(map.data[4..], [0.0; 4]);
    }
}
