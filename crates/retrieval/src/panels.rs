//! How prototypes lie in a bank: in panels of sixteen, which a search streams from the file as they are.
//!
//! A panel is `[dimension, PANEL]`: the first values of all its prototypes, then the second ones, so that sixteen products
//! are made at once without moving anything. Numbers are little-endian.

use half::f16;

use crate::Storage;

/// Prototypes of one panel.
pub(crate) const PANEL: usize = 16;

/// Panels of prototypes in their stored form. The place of a prototype, panel · PANEL + lane, is its slot.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) storage: Storage,
    pub(crate) dimension: usize,
    /// Whole panels.
    pub(crate) bytes: &'a [u8],
}

/// Bytes of one panel; `None` when that is no number.
pub(crate) fn panel_bytes(storage: Storage, dimension: usize) -> Option<usize> {
    match storage {
        Storage::F32 => dimension.checked_mul(4 * PANEL),
        Storage::F16 => dimension.checked_mul(2 * PANEL),
        Storage::Int8 => dimension.checked_mul(PANEL),
    }
}

/// The 8-bit integers that stand for a vector: its largest magnitude becomes 127. The factor is left out, because a
/// cosine does not depend on it.
pub(crate) fn quantise(vector: &[f32]) -> impl Iterator<Item = i8> + '_ {
    let scale = vector.iter().fold(0.0f32, |largest, v| largest.max(v.abs())) / 127.0;
    vector.iter().map(move |v| (v / scale).round().clamp(-127.0, 127.0) as i8)
}

/// Writes a prototype's stored values into its lane of a panel.
pub(crate) fn pack(storage: Storage, vector: &[f32], lane: usize, panel: &mut [u8]) {
    match storage {
        Storage::F32 => {
            for (value, row) in vector.iter().zip(panel.chunks_exact_mut(4 * PANEL)) {
                row[4 * lane..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
        Storage::F16 => pack_halves(vector.iter().map(|v| f16::from_f32(*v)), lane, panel),
        Storage::Int8 => pack_integers(quantise(vector), lane, panel),
    }
}

/// The same for 16-bit floats.
pub(crate) fn pack_halves(values: impl Iterator<Item = f16>, lane: usize, panel: &mut [u8]) {
    for (value, row) in values.zip(panel.chunks_exact_mut(2 * PANEL)) {
        row[2 * lane..][..2].copy_from_slice(&value.to_le_bytes());
    }
}

/// The same for 8-bit integers.
pub(crate) fn pack_integers(values: impl Iterator<Item = i8>, lane: usize, panel: &mut [u8]) {
    for (value, row) in values.zip(panel.chunks_exact_mut(PANEL)) {
        row[lane] = value.cast_unsigned();
    }
}

impl<'a> Panels<'a> {
    /// Bytes of one panel.
    #[inline(always)]
    pub(crate) fn stride(&self) -> usize {
        // It was a number when the bank was read.
        panel_bytes(self.storage, self.dimension).unwrap_or(usize::MAX)
    }

    /// The panels of a range.
    pub(crate) fn slice(&self, range: std::ops::Range<usize>) -> Self {
        Self { bytes: &self.bytes[range.start * self.stride()..range.end * self.stride()], ..*self }
    }

    /// Writes one panel as `[dimension, PANEL]` floats. Flat loops: of loops over rows the compiler makes gathers.
    #[inline(always)]
    pub(crate) fn unpack(storage: Storage, panel: &[u8], out: &mut [f32]) {
        match storage {
            Storage::F32 => {
                let (words, _) = panel.as_chunks::<4>();
                out.iter_mut().zip(words).for_each(|(out, word)| *out = f32::from_le_bytes(*word));
            }
            Storage::F16 => {
                let (words, _) = panel.as_chunks::<2>();
                out.iter_mut().zip(words).for_each(|(out, word)| *out = half_to_float(u16::from_le_bytes(*word)));
            }
            Storage::Int8 => {
                out.iter_mut().zip(panel).for_each(|(out, byte)| *out = f32::from(byte.cast_signed()));
            }
        }
    }

    /// Inner product of the stored values of a slot with a query, and their sum of squares: products and sums in 64 bits.
    pub(crate) fn dot_and_square(&self, slot: usize, query: &[f32]) -> (f64, f64) {
        let lane = slot % PANEL;
        let panel = &self.bytes[slot / PANEL * self.stride()..][..self.stride()];
        let (mut dot, mut square) = (0.0f64, 0.0f64);
        let mut add = |value: f64, query: f32| {
            dot += value * f64::from(query);
            square += value * value;
        };
        match self.storage {
            Storage::F32 => {
                let (words, _) = panel.as_chunks::<4>();
                for (&query, row) in query.iter().zip(words.chunks_exact(PANEL)) {
                    add(f64::from(f32::from_le_bytes(row[lane])), query);
                }
            }
            Storage::F16 => {
                let (words, _) = panel.as_chunks::<2>();
                for (&query, row) in query.iter().zip(words.chunks_exact(PANEL)) {
                    add(f16::from_le_bytes(row[lane]).to_f64(), query);
                }
            }
            Storage::Int8 => {
                for (&query, row) in query.iter().zip(panel.chunks_exact(PANEL)) {
                    add(f64::from(row[lane].cast_signed()), query);
                }
            }
        }
        (dot, square)
    }

    /// The stored values of a slot.
    pub(crate) fn copy(&self, slot: usize, out: &mut [f32]) {
        let mut values = vec![0.0; self.dimension * PANEL];
        let panel = &self.bytes[slot / PANEL * self.stride()..][..self.stride()];
        Self::unpack(self.storage, panel, &mut values);
        out.iter_mut().zip(values.chunks_exact(PANEL)).for_each(|(out, row)| *out = row[slot % PANEL]);
    }

    /// 1 / norm of the stored values of all slots; NaN for those that are not filled, so that no product of theirs is ever
    /// above a threshold.
    ///
    /// # Errors
    /// The first slot whose norm is not finite or nearly 0, and that norm.
    pub(crate) fn inverse_norms(&self, is_filled: impl Fn(usize) -> bool) -> Result<Vec<f32>, (usize, f64)> {
        let mut out = Vec::with_capacity(self.bytes.len() / self.stride().max(1) * PANEL);
        let mut values = vec![0.0f32; self.dimension * PANEL];
        for panel in self.bytes.chunks_exact(self.stride()) {
            Self::unpack(self.storage, panel, &mut values);
            let mut squares = [0.0f64; PANEL];
            for row in values.as_chunks::<PANEL>().0 {
                for lane in 0..PANEL {
                    squares[lane] += f64::from(row[lane]).powi(2);
                }
            }
            if self.storage == Storage::F16 {
                // What unpacking makes of an infinite 16-bit float is finite.
                for (index, word) in panel.as_chunks::<2>().0.iter().enumerate() {
                    if !f16::from_le_bytes(*word).is_finite() {
                        squares[index % PANEL] = f64::NAN;
                    }
                }
            }
            for square in squares {
                let norm = square.sqrt();
                if !is_filled(out.len()) {
                    out.push(f32::NAN);
                } else if norm.is_finite() && norm > 1e-6 {
                    out.push((1.0 / norm) as f32);
                } else {
                    return Err((out.len(), norm));
                }
            }
        }
        Ok(out)
    }
}

/// The value of a finite 16-bit float, without branches: the compiler makes vectors of it on every machine.
#[inline(always)]
fn half_to_float(bits: u16) -> f32 {
    // Exponent and fraction at their place in a 32-bit float, whose exponent counts from 127 instead of 15.
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits((127 + 127 - 15) << 23);
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_are_read_as_the_crate_half_reads_them() {
        for bits in (0..=u16::MAX).filter(|bits| f16::from_bits(*bits).is_finite()) {
            assert_eq!(half_to_float(bits).to_bits(), f16::from_bits(bits).to_f32().to_bits(), "{bits:#x}");
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        for (storage, tolerance) in [(Storage::F32, 0.0), (Storage::F16, 5e-4), (Storage::Int8, 4e-3)] {
            for dimension in [1, 3, 4, 9] {
                let mut panel = vec![0u8; panel_bytes(storage, dimension).unwrap()];
                let row = |lane: usize| {
                    (0..dimension).map(|k| if k == 0 { 1.0 } else { (lane as f32 - 7.5) / 8.0 }).collect()
                };
                let rows: Vec<Vec<f32>> = (0..PANEL).map(row).collect();
                rows.iter().enumerate().for_each(|(lane, row)| pack(storage, row, lane, &mut panel));
                let mut values = vec![0.0; dimension * PANEL];
                let factor = if storage == Storage::Int8 { 1.0 / 127.0 } else { 1.0 };
                Panels::unpack(storage, &panel, &mut values);
                let panels = Panels { storage, dimension, bytes: &panel };
                for (lane, row) in rows.iter().enumerate() {
                    for (k, value) in row.iter().enumerate() {
                        assert!(
                            (values[k * PANEL + lane] * factor - value).abs() <= tolerance,
                            "{storage:?} {lane} {k}"
                        );
                    }
                    let (dot, square) = panels.dot_and_square(lane, row);
                    let expected: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
                    assert!((dot / square.sqrt() - expected.sqrt()).abs() < 0.02, "{storage:?}");
                }
            }
        }
    }
}
