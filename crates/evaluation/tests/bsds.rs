//! The whole benchmark: perfect and empty predictions, reuse between thresholds, merging.

use evaluation::{Annotation, BsdsBenchmark, BsdsCounts, ContourMap, Thresholds};
use proptest::prelude::*;

const SIDE: usize = 8;

fn measure(contours: &ContourMap, annotations: &[Annotation], num_thresholds: usize) -> BsdsCounts {
    BsdsCounts::of(contours, annotations, &Thresholds::new(num_thresholds).unwrap()).unwrap()
}

/// An image of four quarters, drawn by two annotators, and its exact doubled contour map.
fn quarters() -> (ContourMap, Vec<Annotation>) {
    let half = |at: usize| u16::from(at >= SIDE / 2);
    let labels: Vec<u16> = (0..SIDE * SIDE).map(|at| 1 + 2 * half(at / SIDE) + half(at % SIDE)).collect();
    let side = 2 * SIDE + 1;
    let strengths = (0..side * side).map(|cell| f32::from(u8::from(cell / side == SIDE || cell % side == SIDE)));
    let contours = ContourMap::doubled(SIDE, SIDE, strengths.collect()).unwrap();
    (contours, vec![Annotation::new(SIDE, SIDE, &labels, None).unwrap(); 2])
}

#[test]
fn a_perfect_prediction_is_1() {
    let (contours, annotations) = quarters();
    let mut benchmark = BsdsBenchmark::new(Thresholds::new(9).unwrap());
    assert_eq!(benchmark.result(), None);
    let counts = measure(&contours, &annotations, 9);
    assert_eq!(counts.num_regions, [4; 9]);
    benchmark.update(&counts).unwrap();
    let result = benchmark.result().unwrap();
    for figure in [result.ods, result.ois, result.cover_ods, result.cover_ois, result.cover_best] {
        assert_eq!(figure, 1.0, "{result:?}");
    }
    assert_eq!((result.pri_ods, result.pri_ois, result.vi_ods, result.vi_ois), (1.0, 1.0, 0.0, 0.0));
    // All thresholds are as good: the first is named. One recall makes no curve.
    assert_eq!((result.ods_threshold, result.cover_ods_threshold, result.ap, result.images), (0.1, 0.1, 0.0, 1));
}

#[test]
fn an_empty_prediction_is_one_region_and_no_boundary() {
    let (_, annotations) = quarters();
    let side = 2 * SIDE + 1;
    let contours = ContourMap::doubled(SIDE, SIDE, vec![0.0; side * side]).unwrap();
    let mut benchmark = BsdsBenchmark::new(Thresholds::new(9).unwrap());
    benchmark.update(&measure(&contours, &annotations, 9)).unwrap();
    let result = benchmark.result().unwrap();
    assert_eq!((result.ods, result.ois, result.ap, result.ods_precision), (0.0, 0.0, 0.0, 0.0));
    // Each quarter is covered by a region four times as large; 2 bits say which quarter a pixel is in.
    assert_eq!((result.cover_ods, result.cover_best, result.vi_ods), (0.25, 0.25, 2.0));
}

#[test]
fn counts_at_other_thresholds_are_refused() {
    let (contours, annotations) = quarters();
    let mut benchmark = BsdsBenchmark::new(Thresholds::new(9).unwrap());
    let empty = benchmark.clone();
    assert!(benchmark.update(&measure(&contours, &annotations, 5)).is_err());
    let mut damaged = measure(&contours, &annotations, 9);
    damaged.variation_of_information.pop();
    assert!(benchmark.update(&damaged).is_err());
    assert!(benchmark.merge(&BsdsBenchmark::new(Thresholds::new(5).unwrap())).is_err());
    assert_eq!(benchmark, empty);
}

/// A map of image size with a few different strengths and one to three annotators' labels.
fn image() -> impl Strategy<Value = (ContourMap, Vec<Annotation>)> {
    let strengths = prop::collection::vec(0u8..6, SIDE * SIDE);
    let labels = prop::collection::vec(prop::collection::vec(0u16..4, SIDE * SIDE), 1..4);
    (strengths, labels).prop_map(|(strengths, labels)| {
        let strengths = strengths.into_iter().map(|strength| f32::from(strength) / 5.0).collect();
        let annotation = |labels: Vec<u16>| Annotation::new(SIDE, SIDE, &labels, None).unwrap();
        (ContourMap::image_sized(SIDE, SIDE, strengths).unwrap(), labels.into_iter().map(annotation).collect())
    })
}

fn benchmark(counts: &[BsdsCounts], num_thresholds: usize) -> BsdsBenchmark {
    let mut benchmark = BsdsBenchmark::new(Thresholds::new(num_thresholds).unwrap());
    counts.iter().for_each(|counts| benchmark.update(counts).unwrap());
    benchmark
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn merged_shards_equal_one_pass_in_any_order(
        images in prop::collection::vec(image(), 0..5),
        cut in 0usize..6,
        num_thresholds in 1usize..12,
    ) {
        let mut counts: Vec<BsdsCounts> =
            images.iter().map(|(contours, annotations)| measure(contours, annotations, num_thresholds)).collect();
        let all = benchmark(&counts, num_thresholds);
        let (left, right) = counts.split_at(cut.min(counts.len()));
        let mut merged = benchmark(left, num_thresholds);
        merged.merge(&benchmark(right, num_thresholds)).unwrap();
        prop_assert_eq!(&merged, &all);
        counts.reverse();
        prop_assert_eq!(&benchmark(&counts, num_thresholds), &all);
    }

    #[test]
    fn figures_are_in_range_and_ordered(images in prop::collection::vec(image(), 1..4), num_thresholds in 1usize..12) {
        let counts: Vec<BsdsCounts> =
            images.iter().map(|(contours, annotations)| measure(contours, annotations, num_thresholds)).collect();
        let result = benchmark(&counts, num_thresholds).result().unwrap();
        let r = &result;
        for figure in [r.ods, r.ois, r.ap, r.cover_ods, r.cover_ois, r.cover_best, r.pri_ods, r.pri_ois] {
            prop_assert!((0.0..=1.0 + 1e-9).contains(&figure), "{:?}", result);
        }
        // Each image's own best cannot be worse than one threshold for all.
        prop_assert!(r.cover_ods <= r.cover_ois && r.cover_ois <= r.cover_best, "{:?}", result);
        prop_assert!(r.pri_ods <= r.pri_ois && r.vi_ois <= r.vi_ods && r.vi_ois >= 0.0, "{:?}", result);
    }

    #[test]
    fn a_finer_row_of_thresholds_repeats_the_coarse_one((contours, annotations) in image(), n in 1usize..4) {
        // k / (n + 1) = 5 k / (5 n + 5): what is reused between thresholds must be what is counted anew.
        let (coarse, fine) = (measure(&contours, &annotations, n), measure(&contours, &annotations, 5 * n + 4));
        for k in 1..=n {
            prop_assert_eq!(coarse.boundary[k - 1], fine.boundary[5 * k - 1]);
            prop_assert_eq!(coarse.covering.covered[k - 1], fine.covering.covered[5 * k - 1]);
            prop_assert_eq!(coarse.rand_index[k - 1], fine.rand_index[5 * k - 1]);
            prop_assert_eq!(coarse.num_regions[k - 1], fine.num_regions[5 * k - 1]);
        }
    }
}
