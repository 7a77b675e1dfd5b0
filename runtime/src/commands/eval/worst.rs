//! Figures of each frame, and the frames worth looking at: those with the lowest figures, with pictures.
//!
//! Neighbours in a video look alike, so a sequence is seen in stretches of [`STRETCH`] frames and gives at most one frame a
//! stretch. Stretches lie inside sequences, and sequences inside shards: the worst frames of all shards together are those
//! of the whole.

use serde::{Deserialize, Serialize};

/// Frames of a stretch.
pub(super) const STRETCH: usize = 16;
/// How many frames are kept.
pub(super) const NUM_WORST: usize = 8;

/// What one frame reached; a line of `frames.jsonl`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FrameFigures {
    /// Position in the evaluation, from 0, whatever the shard.
    pub(super) index: usize,
    /// Name of the image within the split.
    pub(super) name: String,
    pub(super) sequence: String,
    pub(super) miou: Option<f64>,
    pub(super) accuracy: Option<f64>,
    /// Segmentation covering per level, finest first.
    pub(super) covering: Vec<Option<f64>>,
}

impl FrameFigures {
    /// What frames are ordered by, lowest first: accuracy, without names the mean covering of the levels above the base
    /// segments. A frame without labelled pixels has none.
    pub(super) fn score(&self) -> Option<f64> {
        self.accuracy.or_else(|| {
            let groups = self.covering.get(1..).filter(|groups| !groups.is_empty()).unwrap_or(&self.covering);
            let existing: Vec<f64> = groups.iter().flatten().copied().collect();
            (!existing.is_empty()).then(|| existing.iter().sum::<f64>() / existing.len() as f64)
        })
    }
}

/// A picture of a frame: a JPEG file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FramePicture {
    /// What it shows.
    pub(super) caption: String,
    #[serde(with = "base64_text")]
    pub(super) jpeg: Vec<u8>,
}

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A frame to look at.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorstFrame {
    /// Its index in [`FrameFigures`], which has the rest.
    pub(super) index: usize,
    pub(super) score: f64,
    pub(super) pictures: Vec<FramePicture>,
}

/// The worst frames so far.
#[derive(Debug, Default)]
pub(super) struct WorstFrames {
    kept: Vec<WorstFrame>,
    /// The worst frame of the stretch that is going on: (sequence, number of the stretch).
    current: Option<((String, usize), WorstFrame)>,
}

impl WorstFrames {
    /// Shows a frame: `index_in_sequence` is its place in the sequence. `draw` makes its pictures and is called only when
    /// they are needed.
    pub(super) fn offer(
        &mut self,
        figures: &FrameFigures,
        index_in_sequence: usize,
        is_video: bool,
        draw: impl FnOnce() -> anyhow::Result<Vec<FramePicture>>,
    ) -> anyhow::Result<()> {
        // Images that are no video are a stretch each.
        let number = if is_video { index_in_sequence / STRETCH } else { index_in_sequence };
        if self.current.as_ref().is_none_or(|((sequence, at), _)| (sequence, *at) != (&figures.sequence, number)) {
            self.close_stretch();
        }
        let Some(score) = figures.score() else { return Ok(()) };
        let is_worse_than_stretch = self.current.as_ref().is_none_or(|(_, worst)| score < worst.score);
        let is_worse_than_kept = self.kept.len() < NUM_WORST || self.kept.last().is_some_and(|last| score < last.score);
        if is_worse_than_stretch && is_worse_than_kept {
            let frame = WorstFrame { index: figures.index, score, pictures: draw()? };
            self.current = Some(((figures.sequence.clone(), number), frame));
        }
        Ok(())
    }

    fn close_stretch(&mut self) {
        if let Some((_, frame)) = self.current.take() {
            self.kept.push(frame);
            keep_worst(&mut self.kept);
        }
    }

    /// The worst frames, the worst first.
    pub(super) fn finish(mut self) -> Vec<WorstFrame> {
        self.close_stretch();
        self.kept
    }
}

/// Orders frames, the worst first (of equal ones the earlier), and keeps [`NUM_WORST`].
pub(super) fn keep_worst(frames: &mut Vec<WorstFrame>) {
    frames.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.index.cmp(&b.index)));
    frames.truncate(NUM_WORST);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figures(index: usize, sequence: usize, accuracy: f64) -> FrameFigures {
        FrameFigures {
            index,
            name: format!("{index}"),
            sequence: format!("{sequence}"),
            miou: None,
            accuracy: Some(accuracy),
            covering: vec![],
        }
    }

    fn worst(frames: &[(FrameFigures, usize)]) -> Vec<WorstFrame> {
        let mut worst = WorstFrames::default();
        for (figures, at) in frames {
            worst.offer(figures, *at, true, || Ok(vec![])).unwrap();
        }
        worst.finish()
    }

    proptest! {
        #[test]
        fn shards_find_what_the_whole_finds(
            sequences in prop::collection::vec(prop::collection::vec(0u8..40, 1..60), 1..6),
        ) {
            let mut frames = Vec::new();
            for (sequence, accuracies) in sequences.iter().enumerate() {
                for (at, accuracy) in accuracies.iter().enumerate() {
                    frames.push((figures(frames.len(), sequence, f64::from(*accuracy) / 40.0), at));
                }
            }
            let whole = worst(&frames);
            // As written above: the worst of each stretch, the first of equal ones, and of those the worst.
            let mut expected: Vec<WorstFrame> = Vec::new();
            for stretch in frames.chunk_by(|a, b| (&a.0.sequence, a.1 / STRETCH) == (&b.0.sequence, b.1 / STRETCH)) {
                let first = stretch.iter().min_by(|a, b| a.0.accuracy.partial_cmp(&b.0.accuracy).unwrap()).unwrap();
                expected.push(WorstFrame { index: first.0.index, score: first.0.accuracy.unwrap(), pictures: vec![] });
            }
            keep_worst(&mut expected);
            prop_assert_eq!(&whole, &expected);
            let mut merged: Vec<WorstFrame> = frames.chunk_by(|a, b| a.0.sequence == b.0.sequence).flat_map(worst).collect();
            keep_worst(&mut merged);
            prop_assert_eq!(whole, merged);
        }
    }

    #[test]
    fn pictures_survive_the_file() {
        let picture = FramePicture { caption: "input".to_owned(), jpeg: vec![0xff, 0xd8, 0, 1, 2, 255] };
        let text = serde_json::to_string(&picture).unwrap();
        assert_eq!(serde_json::from_str::<FramePicture>(&text).unwrap(), picture);
    }
}
