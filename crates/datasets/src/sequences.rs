//! Sequences of a split and the selection of some of them.

use crate::{DatasetError, SampleEntry};

/// An ordered run of frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Name, unique within the split.
    pub name: String,
    /// The recording drive it was cut from; equals `name` where the data set has no drives.
    pub drive: String,
    /// Frames per second; `None` when unknown or when the images are no video.
    pub rate_hz: Option<f64>,
}

/// Frame numbers that are missing within a sequence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FrameGap {
    /// Name of the sequence.
    pub sequence: String,
    /// Number of the last frame before the gap.
    pub after: u64,
    /// Number of the first frame behind it; at least `after` + 2.
    pub before: u64,
}

impl FrameGap {
    /// How many frames are missing; at least 1.
    #[must_use]
    pub fn num_missing(&self) -> u64 {
        self.before.saturating_sub(self.after).saturating_sub(1)
    }

    /// The gaps in the numbers of a sequence, which grow.
    pub(crate) fn find(sequence: &str, numbers: &[u64]) -> Vec<Self> {
        let pairs = numbers.iter().zip(numbers.iter().skip(1));
        let gaps = pairs.filter(|(after, before)| before.saturating_sub(**after) > 1);
        gaps.map(|(&after, &before)| Self { sequence: sequence.to_owned(), after, before }).collect()
    }

    /// Logs one warning per sequence that has gaps.
    pub(crate) fn warn(split: &str, gaps: &[Self]) {
        for gaps in gaps.chunk_by(|a, b| a.sequence == b.sequence) {
            let missing: u64 = gaps.iter().map(Self::num_missing).sum();
            if let Some(Self { sequence, after, before }) = gaps.first() {
                log::warn!(
                    "sequence {sequence} of split `{split}`: {missing} frames are missing in the numbering, the first \
                     between {after} and {before}; what comes after is treated as the next frame"
                );
            }
        }
    }
}

/// Keeps the sequences whose name or drive is in `selection` (all if it is empty) and their samples.
pub(crate) fn select(
    split: &str,
    sequences: Vec<Sequence>,
    samples: Vec<SampleEntry>,
    selection: &[String],
) -> Result<(Vec<Sequence>, Vec<SampleEntry>), DatasetError> {
    if selection.is_empty() {
        return Ok((sequences, samples));
    }
    let is_match = |sequence: &Sequence, wanted: &str| sequence.name == wanted || sequence.drive == wanted;
    for wanted in selection {
        if !sequences.iter().any(|sequence| is_match(sequence, wanted)) {
            let mut known: Vec<&str> = Vec::new();
            for name in sequences.iter().map(|s| s.drive.as_str()).chain(sequences.iter().map(|s| s.name.as_str())) {
                if !known.contains(&name) {
                    known.push(name);
                }
            }
            return Err(DatasetError::UnknownSequence {
                split: split.to_owned(),
                got: wanted.clone(),
                known: known.join(", "),
            });
        }
    }
    let kept: Vec<Sequence> =
        sequences.into_iter().filter(|s| selection.iter().any(|wanted| is_match(s, wanted))).collect();
    let samples = samples.into_iter().filter(|sample| kept.iter().any(|s| s.name == sample.sequence)).collect();
    Ok((kept, samples))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_and_frames_make_the_whole_range(numbers in proptest::collection::btree_set(0u64..200, 1..60)) {
            let numbers: Vec<u64> = numbers.into_iter().collect();
            let gaps = FrameGap::find("s", &numbers);
            let missing: u64 = gaps.iter().map(FrameGap::num_missing).sum();
            let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
            prop_assert_eq!(missing + numbers.len() as u64, last - first + 1);
            for gap in gaps {
                prop_assert!((gap.after + 1..gap.before).all(|number| !numbers.contains(&number)));
                prop_assert!(numbers.contains(&gap.after) && numbers.contains(&gap.before));
            }
        }
    }
}
