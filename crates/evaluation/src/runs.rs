//! Stretches of equal values: label maps are flat, so work is done once per stretch.

/// Bytes that are compared together.
pub(crate) const BLOCK: usize = 64;

/// Whether all bytes are equal. Not `==`, which calls a function for blocks of this size.
pub(crate) fn are_equal(a: &[u8; BLOCK], b: &[u8; BLOCK]) -> bool {
    a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// A value of a map.
pub(crate) trait Label: Copy + Eq {
    /// How many values at the beginning of `values` are equal.
    fn run_length(values: &[Self]) -> usize;
}

impl Label for u8 {
    fn run_length(values: &[Self]) -> usize {
        let Some(&first) = values.first() else { return 0 };
        let blocks = values.as_chunks().0;
        let equal = BLOCK * blocks.iter().take_while(|block| are_equal(block, &[first; BLOCK])).count();
        equal + values[equal..].iter().take_while(|&&value| value == first).count()
    }
}

impl Label for u16 {
    fn run_length(values: &[Self]) -> usize {
        let Some(&first) = values.first() else { return 0 };
        // As wide as the registers of most machines.
        let blocks = values.as_chunks::<8>().0;
        let equal = 8 * blocks.iter().take_while(|&&block| block == [first; 8]).count();
        equal + values[equal..].iter().take_while(|&&value| value == first).count()
    }
}

impl Label for [u8; 2] {
    fn run_length(values: &[Self]) -> usize {
        let Some(&[a, b]) = values.first() else { return 0 };
        let bytes = values.as_flattened();
        let first: [u8; BLOCK] = std::array::from_fn(|at| if at % 2 == 0 { a } else { b });
        let equal = BLOCK * bytes.as_chunks().0.iter().take_while(|block| are_equal(block, &first)).count();
        let rest = bytes[equal..].iter().zip(&first).take_while(|(a, b)| a == b).count();
        (equal + rest) / 2
    }
}

impl Label for [u8; 3] {
    fn run_length(values: &[Self]) -> usize {
        let bytes = values.as_flattened();
        let Some((mut before, mut rest)) = bytes.get(3..).map(|rest| (bytes, rest)) else { return 0 };
        // As bytes, each equal to the one three before it.
        while let (Some(a), Some(b)) = (before.first_chunk::<BLOCK>(), rest.first_chunk::<BLOCK>()) {
            if !are_equal(a, b) {
                break;
            }
            (before, rest) = (&before[BLOCK..], &rest[BLOCK..]);
        }
        let equal = before.iter().zip(rest).take_while(|(a, b)| a == b).count();
        (bytes.len() - rest.len() + equal) / 3
    }
}

/// The stretches of a map.
pub(crate) struct Runs<'a, T> {
    values: &'a [T],
    /// End of the stretch looked at last.
    end: usize,
}

impl<'a, T: Label> Runs<'a, T> {
    pub(crate) fn new(values: &'a [T]) -> Self {
        Self { values, end: 0 }
    }

    /// One past the stretch that `start` is in, for `start`s that do not decrease.
    pub(crate) fn end_of(&mut self, start: usize) -> usize {
        if self.end <= start {
            self.end = start + T::run_length(&self.values[start..]);
        }
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_around_blocks() {
        for length in (0..70).chain([95, 96, 97, 127, 128, 129, 200]) {
            let bytes = vec![7u8; length];
            assert_eq!(u8::run_length(&bytes), length);
            assert_eq!(u16::run_length(&vec![700; length]), length);
            assert_eq!(Label::run_length(&vec![[1u8, 2, 3]; length]), length);
            // Another value in each place, and in each channel.
            for at in 1..length {
                let mut bytes = bytes.clone();
                bytes[at] = 8;
                assert_eq!(u8::run_length(&bytes), at);
                let words: Vec<u16> = bytes.iter().map(|&byte| u16::from(byte) << 8).collect();
                assert_eq!(u16::run_length(&words), at);
                let pairs: Vec<[u8; 2]> = bytes.iter().map(|&byte| [1, byte]).collect();
                assert_eq!(Label::run_length(&pairs), at);
                let pairs: Vec<[u8; 2]> = bytes.iter().map(|&byte| [byte, 2]).collect();
                assert_eq!(Label::run_length(&pairs), at);
                for channel in 0..3 {
                    let mut pixels = vec![[1u8, 2, 3]; length];
                    pixels[at][channel] = 9;
                    assert_eq!(Label::run_length(&pixels), at);
                }
            }
        }
    }
}
