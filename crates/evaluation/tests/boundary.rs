//! Boundaries: thinning, precision and recall against hand-made cases and their laws.

use evaluation::{
    Annotation, BoundaryBenchmark, BoundaryCounts, ContourMap, EvaluationError, Thresholds, boundary_counts, thin,
};
use proptest::prelude::*;

/// True where the picture has `#`.
fn map(picture: &[&str]) -> Vec<bool> {
    picture.iter().flat_map(|row| row.bytes().map(|byte| byte == b'#')).collect()
}

fn thinned(picture: &[&str]) -> Vec<bool> {
    let mut map = map(picture);
    thin(&mut map, picture[0].len());
    map
}

#[test]
fn thin_lines_stay_and_thick_ones_become_thin() {
    for stays in [
        &["....", ".##.", "...."][..],
        &["#...#", ".#.#.", "..#..", ".#.#.", "#...#"],
        &[".###.", "#...#", ".###."],
        &["#"],
        &["."],
    ] {
        assert_eq!(thinned(stays), map(stays), "{stays:?}");
    }
    // Corners of a closed line are not needed to keep it closed.
    assert_eq!(thinned(&["#####", "#...#", "#####"]), map(&[".###.", "#...#", ".###."]));
    let bar = thinned(&[".......", "#######", "#######", "#######", "......."]);
    let middle: Vec<usize> = (0..bar.len()).filter(|&at| bar[at]).map(|at| at / 7).collect();
    assert!(!middle.is_empty() && middle.iter().all(|&row| row == 2), "{bar:?}");
}

#[test]
fn thinned_as_scikit_image_does() {
    // `skimage.morphology.thin` of scikit-image 0.26.0 on a random picture.
    let before = [
        ".........##.........######..............",
        ".........##......##########.............",
        ".........###....##############..........",
        "#........#####..##############..........",
        "#........#####..###########.......##....",
        ".........#####..##########..............",
        "####.......##...##########..............",
        "####............#######.................",
        "#####...........#######......#..........",
        "######....###...######.....####.........",
        "######....############....####...###....",
        "######...###########......####...###....",
        "#.........#########........####..###....",
        "..........#########........####..###....",
    ];
    let after = [
        "........................................",
        ".........#..............................",
        "..........#.............................",
        "#.........#...........#######...........",
        "#..........#.........#............##....",
        "...........#........#...................",
        "...................#....................",
        "...................#....................",
        "..#................#....................",
        "..#...............#..........#..........",
        "..#..............#..........#...........",
        ".#........###...#..........#......#.....",
        "#............###............##....#.....",
        "........................................",
    ];
    assert_eq!(thinned(&before), map(&after));
    assert_eq!(thinned(&["....", ".##.", ".##.", "...."]), map(&["....", "....", ".#..", "...."]));
}

/// An image of `width` columns, one region left of `column` and one from there on.
fn two_halves(height: usize, width: usize, column: usize) -> Annotation {
    let labels: Vec<u16> = (0..height * width).map(|at| u16::from(at % width >= column)).collect();
    Annotation::new(height, width, &labels, None).unwrap()
}

/// Strength `strength` in `column`, 0 elsewhere.
fn line(height: usize, width: usize, column: usize, strength: f32) -> ContourMap {
    let strengths = (0..height * width).map(|at| if at % width == column { strength } else { 0.0 }).collect();
    ContourMap::image_sized(height, width, strengths).unwrap()
}

fn point(matched_truth: u64, truth: u64, matched_prediction: u64, prediction: u64) -> BoundaryCounts {
    BoundaryCounts { matched_truth, truth, matched_prediction, prediction }
}

#[test]
fn a_case_worked_out_by_hand() {
    // 40 × 30: the diagonal is 50, so boundaries may be 0.375 pixels apart: on the same pixel only.
    let thresholds = Thresholds::new(3).unwrap();
    let annotations = [two_halves(40, 30, 10), two_halves(40, 30, 20)];
    assert_eq!(annotations[0].boundary().iter().filter(|&&b| b).count(), 40);
    // The boundary between columns 9 and 10 is drawn in column 9. It is one annotator's; the other one's is missed.
    let counts = boundary_counts(&line(40, 30, 9, 0.5), &annotations, &thresholds).unwrap();
    assert_eq!(counts, [point(40, 80, 40, 40), point(40, 80, 40, 40), point(0, 80, 0, 0)]);
    assert_eq!((counts[0].recall(), counts[0].precision(), counts[2].precision()), (0.5, 1.0, 0.0));
    // One column beside the truth nothing is right.
    let counts = boundary_counts(&line(40, 30, 8, 0.5), &annotations, &thresholds).unwrap();
    assert_eq!(counts[0], point(0, 80, 0, 40));
    // 1600 × 1200: 15 pixels are near enough, 16 are not.
    let annotations = [two_halves(1600, 1200, 501)];
    for (column, matched) in [(500, 1600), (515, 1600), (484, 0), (516, 0)] {
        let counts = boundary_counts(&line(1600, 1200, column, 1.0), &annotations, &thresholds).unwrap();
        assert_eq!(counts[0], point(matched, 1600, matched, 1600), "column {column}");
    }
}

#[test]
fn a_doubled_map_is_read_at_lower_right_corners() {
    let mut strengths = vec![0.0; 5 * 7];
    // Rows 2 and 4, columns 2, 4 and 6 are the corners of a 2 × 3 image.
    strengths[2 * 7 + 4] = 1.0;
    strengths[7 + 4] = 0.9;
    let contours = ContourMap::doubled(2, 3, strengths).unwrap();
    let annotation = Annotation::new(2, 3, &[0; 6], Some(map(&[".#.", "..."]))).unwrap();
    let counts = boundary_counts(&contours, &[annotation], &Thresholds::new(1).unwrap()).unwrap();
    assert_eq!(counts, [point(1, 1, 1, 1)]);
}

#[test]
fn figures_of_a_curve() {
    let thresholds = Thresholds::new(3).unwrap();
    let mut benchmark = BoundaryBenchmark::new(&thresholds);
    let empty = benchmark.result();
    assert_eq!((empty.ods.f_measure, empty.ois.f_measure, empty.ap), (0.0, 0.0, 0.0));
    // Recall 0.8, 0.4, 0; precision 0.5, 1, 0.
    benchmark.update(&[point(8, 10, 8, 16), point(4, 10, 4, 4), point(0, 10, 0, 0)]).unwrap();
    let result = benchmark.result();
    // Between the first two: recall 0.8 - 0.4 x, precision 0.5 + 0.5 x; F is largest near x = 0.414.
    let f = |x: f64| 2.0 * (0.8 - 0.4 * x) * (0.5 + 0.5 * x) / (1.3 + 0.1 * x);
    assert!((result.ods.f_measure - f(0.414)).abs() < 1e-4, "{result:?}");
    assert!((result.ods_threshold - (0.25 + 0.25 * 0.414)).abs() < 5e-3, "{result:?}");
    // The best threshold itself: F = 0.615 at the first, 0.571 at the second.
    assert!((result.ois.f_measure - 2.0 * 0.8 * 0.5 / 1.3).abs() < 1e-12);
    // Precision rises from 0 at recall 0 to 1 at 0.4, falls to 0.5 at 0.8, and is 0 beyond: trapezoids on 0, 0.01 …,
    // each of the 81 points in reach counted whole.
    let area = 0.4 / 2.0 + 0.4 * 0.75 + 0.005 * (0.0 + 0.5);
    assert!((result.ap - area).abs() < 1e-9, "{} {area}", result.ap);
    // A second image that is better at another threshold.
    benchmark.update(&[point(2, 10, 2, 20), point(10, 10, 10, 10), point(1, 10, 1, 1)]).unwrap();
    let result = benchmark.result();
    assert_eq!((result.ois.recall, result.ois.precision), (18.0 / 20.0, 18.0 / 26.0));
}

#[test]
fn bad_input_is_refused() {
    let thresholds = Thresholds::new(2).unwrap();
    let contours = line(4, 5, 2, 1.0);
    assert_eq!(boundary_counts(&contours, &[], &thresholds), Err(EvaluationError::NoAnnotation));
    let error = boundary_counts(&contours, &[two_halves(4, 5, 2), two_halves(5, 4, 2)], &thresholds).unwrap_err();
    assert_eq!(error, EvaluationError::AnnotationSize { index: 1, expected: (4, 5), got: (5, 4) });
    assert!(ContourMap::doubled(2, 2, vec![0.0; 24]).unwrap_err().to_string().contains("5×5 needs 25 values, got 24"));
    assert!(ContourMap::image_sized(0, 2, vec![]).is_err() && Annotation::new(2, 0, &[], None).is_err());
    for bad in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        let error = ContourMap::image_sized(2, 2, vec![0.0, 0.0, bad, 0.0]).unwrap_err().to_string();
        assert!(error.contains("row 1, column 0") && error.contains(&bad.to_string()), "{error}");
    }
    assert!(Annotation::new(2, 2, &[0; 3], None).is_err() && Annotation::new(2, 2, &[0; 4], Some(vec![true])).is_err());
    assert!(Thresholds::new(0).is_err() && Thresholds::new(10_000).is_err());
    let mut benchmark = BoundaryBenchmark::new(&thresholds);
    assert_eq!(benchmark.update(&[]), Err(EvaluationError::OtherThresholds { expected: 2, got: 0 }));
    assert!(benchmark.merge(&BoundaryBenchmark::new(&Thresholds::new(3).unwrap())).is_err());
}

/// Height, width and a map of that size.
fn any_map() -> impl Strategy<Value = (usize, usize, Vec<bool>)> {
    (1usize..14, 1usize..14, 0.0..1.0f64).prop_flat_map(|(height, width, share)| {
        (Just(height), Just(width), prop::collection::vec(prop::bool::weighted(share), height * width))
    })
}

/// Number of connected pieces of true pixels, 8 neighbours.
fn num_pieces(map: &[bool], width: usize) -> usize {
    let mut left = map.to_vec();
    let mut pieces = 0;
    while let Some(first) = left.iter().position(|&set| set) {
        pieces += 1;
        left[first] = false;
        let mut stack = vec![first];
        while let Some(at) = stack.pop() {
            for near in 0..map.len() {
                let (row, column) = (at / width, at % width);
                if left[near] && row.abs_diff(near / width) <= 1 && column.abs_diff(near % width) <= 1 {
                    left[near] = false;
                    stack.push(near);
                }
            }
        }
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn thinning_ends_removes_only_and_keeps_pieces((_, width, before) in any_map()) {
        let mut once = before.clone();
        thin(&mut once, width);
        let mut twice = once.clone();
        thin(&mut twice, width);
        prop_assert_eq!(&once, &twice);
        prop_assert!(once.iter().zip(&before).all(|(&after, &before)| before || !after));
        prop_assert_eq!(num_pieces(&once, width), num_pieces(&before, width));
    }

    #[test]
    fn drawn_exactly_is_perfect_and_nothing_drawn_is_nothing(
        (height, width, drawn) in any_map(),
        num_thresholds in 1usize..5,
    ) {
        let mut drawn = drawn;
        thin(&mut drawn, width);
        let thresholds = Thresholds::new(num_thresholds).unwrap();
        let annotation = Annotation::new(height, width, &vec![0; height * width], Some(drawn.clone())).unwrap();
        let figures = |strengths: Vec<f32>| {
            let contours = ContourMap::image_sized(height, width, strengths).unwrap();
            let mut benchmark = BoundaryBenchmark::new(&thresholds);
            benchmark.update(&boundary_counts(&contours, std::slice::from_ref(&annotation), &thresholds).unwrap()).unwrap();
            benchmark.result()
        };
        let has_boundary = f64::from(u8::from(drawn.contains(&true)));
        let perfect = figures(drawn.iter().map(|&set| f32::from(u8::from(set))).collect());
        prop_assert_eq!((perfect.ods.f_measure, perfect.ois.f_measure), (has_boundary, has_boundary));
        let nothing = figures(vec![0.0; height * width]);
        prop_assert_eq!((nothing.ods.f_measure, nothing.ois.f_measure, nothing.ap), (0.0, 0.0, 0.0));
    }
}
