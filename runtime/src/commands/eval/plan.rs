//! Which samples a shard measures.

use datasets::Dataset;

use crate::settings::Shard;

/// Indices into the first `wanted` samples of `dataset` that belong to `shard`, rising.
///
/// Sequences stay whole, because what is measured over time needs them so; images that are no video go one by one. The
/// longest sequences are handed out first, each to the shard with the fewest frames so far, so that shards take about the
/// same time and every machine finds the same split.
pub(super) fn samples_of(dataset: &dyn Dataset, wanted: usize, shard: Shard) -> Vec<usize> {
    let samples = &dataset.samples()[..wanted.min(dataset.samples().len())];
    let mut units: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        match units.last_mut() {
            Some(unit)
                if samples[unit.start].sequence == sample.sequence && dataset.rate_hz(&sample.sequence).is_some() =>
            {
                unit.end = index + 1;
            }
            _ => units.push(index..index + 1),
        }
    }
    units.sort_by_key(|unit| std::cmp::Reverse(unit.len()));
    let mut loads = vec![0; shard.of as usize];
    let mut chosen = Vec::new();
    for unit in units {
        let (lightest, _) = loads.iter().enumerate().min_by_key(|&(index, load)| (*load, index)).unwrap_or((0, &0));
        loads[lightest] += unit.len();
        if lightest + 1 == shard.index as usize {
            chosen.extend(unit);
        }
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use datasets::{Annotation, DatasetError, SampleEntry, Sequence};
    use segcore::label_space::LabelSpace;

    use super::*;

    struct Lengths {
        samples: Vec<SampleEntry>,
        sequences: Vec<Sequence>,
    }

    impl Lengths {
        fn new(lengths: &[usize], rate_hz: Option<f64>) -> Self {
            let name = |i: usize| format!("s{i}");
            let sequences = (0..lengths.len()).map(|i| Sequence { name: name(i), drive: name(i), rate_hz }).collect();
            let sample = |i: usize, j: usize| SampleEntry {
                name: format!("{i}-{j}"),
                image: "image.png".into(),
                annotation: None,
                sequence: name(i),
                index_in_sequence: j,
            };
            let samples = lengths.iter().enumerate().flat_map(|(i, &n)| (0..n).map(move |j| sample(i, j))).collect();
            Self { samples, sequences }
        }
    }

    impl Dataset for Lengths {
        fn name(&self) -> &str {
            "lengths"
        }
        fn split(&self) -> &str {
            "."
        }
        fn label_space(&self) -> LabelSpace {
            LabelSpace::camvid_11()
        }
        fn samples(&self) -> &[SampleEntry] {
            &self.samples
        }
        fn sequences(&self) -> &[Sequence] {
            &self.sequences
        }
        fn check_annotations(&self) -> Result<(), DatasetError> {
            Ok(())
        }
        fn read_annotation(&self, entry: &SampleEntry) -> Result<Annotation, DatasetError> {
            Err(DatasetError::NoAnnotation { image: entry.image.clone() })
        }
    }

    fn shards(dataset: &Lengths, wanted: usize, of: u32) -> Vec<Vec<usize>> {
        (1..=of).map(|index| samples_of(dataset, wanted, Shard { index, of })).collect()
    }

    #[test]
    fn every_sample_is_in_one_shard_and_sequences_are_whole() {
        let dataset = Lengths::new(&[3, 10, 4, 5, 1], Some(10.0));
        for of in 1..8 {
            let shards = shards(&dataset, usize::MAX, of);
            let mut all = shards.concat();
            all.sort_unstable();
            assert_eq!(all, (0..23).collect::<Vec<_>>(), "{of} shards");
            for shard in &shards {
                for i in 0..5 {
                    let name = format!("s{i}");
                    let inside = shard.iter().filter(|&&sample| dataset.samples[sample].sequence == name).count();
                    let length = dataset.samples.iter().filter(|sample| sample.sequence == name).count();
                    assert!(inside == 0 || inside == length, "{name} is cut");
                }
            }
        }
        let loads: Vec<usize> = shards(&dataset, usize::MAX, 2).iter().map(Vec::len).collect();
        assert_eq!(loads, [11, 12]);
    }

    #[test]
    fn images_that_are_no_video_go_one_by_one() {
        let dataset = Lengths::new(&[7], None);
        let loads: Vec<usize> = shards(&dataset, 5, 2).iter().map(Vec::len).collect();
        assert_eq!(loads, [3, 2]);
    }
}
