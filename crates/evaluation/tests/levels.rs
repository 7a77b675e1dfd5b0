//! Measures of one level of a hierarchy against a class map: hand-made cases, definitions written out pixel by pixel, and
//! their laws.

mod common;

use evaluation::{
    EvaluationError, LevelCovering, MIN_REGION_PIXELS, NfCovering, Overlap, RegionF, TruthRegions, nf_covering,
    region_f,
};
use proptest::prelude::*;

const VOID: u8 = 255;
/// A pixel without segment.
const NONE: u16 = u16::MAX;

/// A picture of digits; `.` is void.
fn classes(picture: &[&str]) -> (usize, usize, Vec<u8>) {
    let values = picture.iter().flat_map(|row| row.bytes()).map(|byte| if byte == b'.' { VOID } else { byte - b'0' });
    (picture.len(), picture[0].len(), values.collect())
}

fn truth(picture: &[&str]) -> TruthRegions {
    let (height, width, ids) = classes(picture);
    TruthRegions::new(height, width, &ids, VOID).unwrap()
}

/// A picture of digits; `.` is no segment.
fn segments(picture: &[&str]) -> Vec<u16> {
    let (.., ids) = classes(picture);
    ids.into_iter().map(|id| if id == VOID { NONE } else { id.into() }).collect()
}

fn covering(overlap: &Overlap) -> Option<f64> {
    let mut covering = LevelCovering::default();
    covering.update(overlap);
    covering.result()
}

fn all(truth: &TruthRegions) -> Vec<bool> {
    truth.choose(1, |_| true)
}

fn assert_near(got: Option<f64>, expected: f64) {
    let got = got.unwrap();
    // Sums are kept to 2⁻⁴⁰.
    assert!((got - expected).abs() < 1e-11, "{got} instead of {expected}");
}

#[test]
fn regions_are_connected_pieces_of_a_class() {
    let truth = truth(&[
        "11022", //
        "10.2.", //
        "0.2.1", //
        "22111",
    ]);
    let found: Vec<(u8, u64)> = truth.regions().iter().map(|r| (r.train_id(), r.num_pixels())).collect();
    // Class 0 is connected at corners, and so is class 2; the two pieces of class 1 are not.
    assert_eq!(found, [(1, 3), (0, 3), (2, 6), (1, 4)]);
    assert_eq!(truth.num_pixels(), 20);
    assert_eq!(truth.choose(4, |id| id != 2), [false, false, false, true]);
}

#[test]
fn a_region_that_closes_late_is_one() {
    // A U of class 1, a ring of class 0, and void that separates what would touch.
    let truth = truth(&["10001", "10.01", "10001", "11111"]);
    assert_eq!(truth.regions().iter().map(|r| r.num_pixels()).collect::<Vec<_>>(), [11, 8]);
}

#[test]
fn a_case_worked_out_by_hand() {
    // One region of class 0 (8 pixels, left), one of class 1 (6), and two void pixels.
    let truth = truth(&["0011", "0011", "001.", "001."]);
    let prediction = segments(&["0001", "0001", "0002", "0002"]);
    let overlap = Overlap::of_labels(&prediction, 3, &truth).unwrap();
    // Segment 0 has 8 + 4 pixels, segment 1 two; segment 2 lies in void and has none.
    assert_eq!(overlap.predicted_areas().collect::<Vec<_>>(), [12, 2, 0]);
    assert_eq!(overlap.num_pixels(), 14);
    // Class 0: 8/12. Class 1: the larger of 4/(6 + 12 − 4) and 2/6.
    assert_near(covering(&overlap), (8.0 * (8.0 / 12.0) + 6.0 * (2.0 / 6.0)) / 14.0);
    assert_near(nf_covering(&overlap, &truth.choose(1, |id| id == 1)).unwrap(), 2.0 / 6.0);
    assert_near(nf_covering(&overlap, &all(&truth)).unwrap(), (8.0 / 12.0 + 2.0 / 6.0) / 2.0);
    // Pairs: 0 with segment 0: 16/20; 1 with segment 1: 4/8.
    assert_near(region_f(&overlap, &all(&truth)).unwrap(), (16.0 / 20.0 + 4.0 / 8.0) / 2.0);

    // Put together to one segment of all 14 pixels, with segment 2 dropped.
    let overlap = overlap.grouped(&[0, 0, NONE], 1);
    assert_eq!(overlap.predicted_areas().collect::<Vec<_>>(), [14]);
    assert_near(covering(&overlap), (8.0 * 8.0 / 14.0 + 6.0 * 6.0 / 14.0) / 14.0);
    assert_near(nf_covering(&overlap, &truth.choose(1, |id| id == 1)).unwrap(), 6.0 / 14.0);
    // Only one of the two regions can have the segment: the larger one.
    assert_near(region_f(&overlap, &all(&truth)).unwrap(), (16.0 / 22.0) / 2.0);
}

#[test]
fn a_foreground_region_is_large_enough_and_of_a_thing() {
    // 100 pixels of class 1, 99 of class 1, 100 of class 2, apart from each other.
    let row = |class: char, num: usize| format!("{}{}", String::from(class).repeat(num), "0".repeat(100 - num));
    let picture = [row('1', 100), row('0', 100), row('1', 99), row('0', 100), row('2', 100)];
    let truth = truth(&picture.each_ref().map(String::as_str));
    let is_foreground = truth.choose(MIN_REGION_PIXELS, |id| id == 1);
    assert_eq!(is_foreground.iter().filter(|&&chosen| chosen).count(), 1);
    // One segment for the whole image: 100 of 500 pixels.
    let overlap = Overlap::of_labels(&[0; 500], 1, &truth).unwrap();
    assert_near(nf_covering(&overlap, &is_foreground).unwrap(), 0.2);
}

#[test]
fn one_segment_may_be_in_several_places() {
    let truth = truth(&["0110"]);
    // Segment 0 has both pieces of class 0, which are two regions: IoU 1/2 each.
    let overlap = Overlap::of_labels(&[0, 1, 1, 0], 2, &truth).unwrap();
    assert_near(covering(&overlap), (2.0 * 0.5 + 2.0) / 4.0);
}

#[test]
fn what_does_not_apply_is_nothing() {
    let blank = TruthRegions::new(1, 3, &[VOID; 3], VOID).unwrap();
    let overlap = Overlap::of_labels(&[0, 1, 1], 2, &blank).unwrap();
    assert_eq!(covering(&overlap), None);
    assert_eq!((nf_covering(&overlap, &[]), region_f(&overlap, &[])), (Ok(None), Ok(None)));

    // No foreground: the image does not count in the mean.
    let street = truth(&["0011"]);
    let overlap = Overlap::of_labels(&[0, 0, 1, 1], 2, &street).unwrap();
    let (mut covering, mut score) = (NfCovering::default(), RegionF::default());
    assert_eq!((covering.result(), score.result()), (None, None));
    for is_wanted in [[false, false], [false, true]] {
        covering.update(&overlap, &is_wanted).unwrap();
        score.update(&overlap, &is_wanted).unwrap();
    }
    assert_eq!((covering.result(), score.result()), (Some(1.0), Some(1.0)));

    // No segment anywhere: nothing is covered.
    let overlap = Overlap::of_labels(&[NONE; 4], 2, &street).unwrap();
    assert_eq!(self::covering(&overlap), Some(0.0));
    assert_eq!(nf_covering(&overlap, &all(&street)), Ok(Some(0.0)));
    assert_eq!(region_f(&overlap, &all(&street)), Ok(Some(0.0)));
}

#[test]
fn bad_input_is_refused_in_words() {
    let street = truth(&["0011"]);
    let overlap = Overlap::of_labels(&[0; 4], 1, &street).unwrap();
    let error = EvaluationError::NumRegions { expected: 2, got: 3 };
    assert_eq!(nf_covering(&overlap, &[true; 3]), Err(error.clone()));
    assert_eq!(region_f(&overlap, &[true; 3]), Err(error.clone()));
    let mut covering = NfCovering::default();
    assert_eq!(covering.update(&overlap, &[true; 3]), Err(error));
    assert_eq!(covering, NfCovering::default());
    let error = Overlap::of_labels(&[0; 5], 1, &street).unwrap_err();
    assert_eq!(error, EvaluationError::Length { expected: 4, got: 5 });
    assert!(TruthRegions::new(0, 4, &[], VOID).unwrap_err().to_string().contains("class map of 0×4"));
    assert!(TruthRegions::new(2, 2, &[0; 3], VOID).unwrap_err().to_string().contains("needs 4 values, got 3"));
}

/// A small image: width, classes (0 to 3 or void), segments (0 to 5 or none).
fn images() -> impl Strategy<Value = (usize, Vec<u8>, Vec<u16>)> {
    let pixel = (prop_oneof![4 => 0u8..3, 1 => Just(VOID)], prop_oneof![6 => 0u16..6, 1 => Just(NONE)]);
    (1usize..7, 1usize..7).prop_flat_map(move |(height, width)| {
        prop::collection::vec(pixel.clone(), height * width).prop_map(move |pixels| {
            let (classes, segments) = pixels.into_iter().unzip();
            (width, classes, segments)
        })
    })
}

fn regions_of(width: usize, classes: &[u8]) -> TruthRegions {
    TruthRegions::new(classes.len() / width, width, classes, VOID).unwrap()
}

/// Region of each pixel, by flooding.
fn flooded(width: usize, classes: &[u8]) -> Vec<Option<usize>> {
    let mut regions = vec![None; classes.len()];
    let mut count = 0;
    for first in 0..classes.len() {
        if classes[first] == VOID || regions[first].is_some() {
            continue;
        }
        let mut todo = vec![first];
        while let Some(at) = todo.pop() {
            if regions[at].replace(count).is_none() {
                let near =
                    |other: usize| (at / width).abs_diff(other / width) < 2 && (at % width).abs_diff(other % width) < 2;
                todo.extend(
                    (0..classes.len())
                        .filter(|&other| near(other) && classes[other] == classes[at] && regions[other].is_none()),
                );
            }
        }
        count += 1;
    }
    regions
}

fn measures(overlap: &Overlap, truth: &TruthRegions) -> [Option<f64>; 3] {
    let is_foreground = truth.choose(2, |id| id < 2);
    let (nf, f) = (nf_covering(overlap, &is_foreground), region_f(overlap, &all(truth)));
    [covering(overlap), nf.unwrap(), f.unwrap()]
}

#[test]
fn damaged_shards_are_refused() {
    let mut covering = LevelCovering::default();
    covering.update(&Overlap::of_labels(&[0, 1], 2, &truth(&["01"])).unwrap());
    let text = serde_json::to_string(&covering).unwrap();
    // 2 pixels in units of 2⁻⁴⁰: too large for JSON's numbers once there are many.
    assert_eq!(text, r#"{"covered":"2199023255552","total":2}"#);
    for damaged in [text.replace(":2}", ":1}"), text.replace("\"2", "\"-2"), text.replace("\"2", "\"x")] {
        assert!(serde_json::from_str::<LevelCovering>(&damaged).is_err(), "{damaged}");
    }
    let message = serde_json::from_str::<RegionF>(r#"{"sum":"2199023255552","num_images":1}"#).unwrap_err().to_string();
    assert!(message.contains("at most 1, the number of images, got 2"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn measures_are_what_they_are_defined_to_be((width, classes, segments) in images()) {
        let truth = regions_of(width, &classes);
        let regions = flooded(width, &classes);
        let overlap = Overlap::of_labels(&segments, 6, &truth).unwrap();
        let count = |is: &dyn Fn(usize) -> bool| (0..classes.len()).filter(|&at| regions[at].is_some() && is(at)).count();
        let num_regions = regions.iter().flatten().max().map_or(0, |&last| last + 1);
        prop_assert_eq!(num_regions, truth.regions().len());
        let (mut covered, mut foreground) = (0.0, Vec::new());
        for region in 0..num_regions {
            let is_in = |at: usize| regions[at] == Some(region);
            let area = count(&is_in);
            prop_assert_eq!(area as u64, truth.regions()[region].num_pixels());
            let best = (0..6u16).map(|segment| {
                let both = count(&|at| is_in(at) && segments[at] == segment);
                let either = count(&|at| is_in(at) || segments[at] == segment);
                both as f64 / either as f64
            }).fold(0.0, f64::max);
            covered += area as f64 * best;
            let class = classes[regions.iter().position(|&r| r == Some(region)).unwrap()];
            if area >= 2 && class < 2 {
                foreground.push(best);
            }
        }
        let [covering, nf, _] = measures(&overlap, &truth);
        let labelled = count(&|_| true);
        match covering {
            None => prop_assert_eq!(labelled, 0),
            Some(covering) => prop_assert!((covering - covered / labelled as f64).abs() < 1e-11),
        }
        match nf {
            None => prop_assert!(foreground.is_empty()),
            Some(nf) => prop_assert!((nf - foreground.iter().sum::<f64>() / foreground.len() as f64).abs() < 1e-11),
        }
    }

    #[test]
    fn measures_are_bounded_and_do_not_know_names(
        (width, classes, segments) in images(),
        names in Just((0u16..6).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let truth = regions_of(width, &classes);
        let overlap = Overlap::of_labels(&segments, 6, &truth).unwrap();
        let found = measures(&overlap, &truth);
        prop_assert!(found.iter().flatten().all(|value| (0.0..=1.0).contains(value)), "{:?}", found);
        let renamed: Vec<u16> = segments.iter().map(|&s| names.get(usize::from(s)).copied().unwrap_or(NONE)).collect();
        let renamed = Overlap::of_labels(&renamed, 6, &truth).unwrap();
        prop_assert_eq!(measures(&renamed, &truth), found);
        // A table put together by names is that of the renamed labels.
        prop_assert_eq!(measures(&overlap.grouped(&names, 6), &truth), found);
    }

    #[test]
    fn the_truth_itself_is_perfect((width, classes, _) in images()) {
        let truth = regions_of(width, &classes);
        let regions = flooded(width, &classes);
        // What is predicted on void does not matter.
        let prediction: Vec<u16> = regions.iter().map(|region| region.map_or(0, |region| region as u16)).collect();
        let overlap = Overlap::of_labels(&prediction, truth.regions().len(), &truth).unwrap();
        prop_assert!(measures(&overlap, &truth).iter().flatten().all(|&value| value == 1.0));
    }

    #[test]
    fn grouping_labels_or_tables_is_the_same(
        (width, classes, segments) in images(),
        parents in prop::collection::vec(prop_oneof![5 => 0u16..3, 1 => Just(NONE)], 0..7),
    ) {
        let truth = regions_of(width, &classes);
        let group = |&s: &u16| parents.get(usize::from(s)).copied().unwrap_or(NONE);
        let groups: Vec<u16> = segments.iter().map(group).collect();
        let by_labels = Overlap::of_labels(&groups, 3, &truth).unwrap();
        let by_tables = Overlap::of_labels(&segments, 6, &truth).unwrap().grouped(&parents, 3);
        prop_assert_eq!(by_tables.num_pixels(), by_labels.num_pixels());
        prop_assert_eq!(by_tables.predicted_areas().collect::<Vec<_>>(), by_labels.predicted_areas().collect::<Vec<_>>());
        prop_assert_eq!(measures(&by_tables, &truth), measures(&by_labels, &truth));
    }

    #[test]
    fn merging_is_seeing_everything(all_images in prop::collection::vec(images(), 0..6), cut in 0usize..6) {
        type All = (LevelCovering, NfCovering, RegionF);
        let see = |images: &[(usize, Vec<u8>, Vec<u16>)]| -> All {
            let mut seen = All::default();
            for (width, classes, segments) in images {
                let truth = regions_of(*width, classes);
                let overlap = Overlap::of_labels(segments, 6, &truth).unwrap();
                seen.0.update(&overlap);
                seen.1.update(&overlap, &truth.choose(2, |id| id < 2)).unwrap();
                seen.2.update(&overlap, &all(&truth)).unwrap();
            }
            seen
        };
        let (a, b) = all_images.split_at(cut.min(all_images.len()));
        // Shards are written and read again.
        let mut merged: All = common::stored(&see(b));
        let first: All = common::stored(&see(a));
        merged.0.merge(&first.0);
        merged.1.merge(&first.1);
        merged.2.merge(&first.2);
        prop_assert_eq!(merged, see(&all_images));
    }
}
