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
