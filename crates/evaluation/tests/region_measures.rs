//! Regions of a contour map, covering, Rand index and variation of information against hand-made cases, definitions
//! written out pixel by pixel, and their laws.

use evaluation::{
    Annotation, ContourMap, Overlap, Regions, covered_pixels, rand_index, regions_at, variation_of_information,
};
use proptest::prelude::*;

/// Digits of a picture as strengths in tenths.
fn strengths(picture: &[&str]) -> Vec<f32> {
    picture.iter().flat_map(|row| row.bytes().map(|byte| f32::from(byte - b'0') / 10.0)).collect()
}

fn labels_at(contours: &ContourMap, threshold: f32) -> Vec<u32> {
    let regions = regions_at(contours, threshold);
    assert_eq!(regions.labels().iter().max(), Some(&(regions.num_regions() as u32 - 1)));
    regions.labels().to_vec()
}

#[test]
fn regions_of_a_doubled_map() {
    // 2 × 3 pixels: the left column alone, then an upper and a lower pair. The frame repeats the nearest edge.
    let picture = ["0000000", "0080000", "0085550", "0080000", "0000000"];
    let mut cells = strengths(&picture);
    // The frame above and below the strong line is as strong; else its two sides meet there.
    cells[2] = 0.8;
    cells[4 * 7 + 2] = 0.8;
    cells[2 * 7 + 6] = 0.5;
    let contours = ContourMap::doubled(2, 3, cells).unwrap();
    assert_eq!(labels_at(&contours, 0.4), [0, 1, 1, 0, 2, 2]);
    assert_eq!(labels_at(&contours, 0.5), [0, 1, 1, 0, 1, 1]);
    assert_eq!(labels_at(&contours, 0.8), [0; 6]);
}

#[test]
fn regions_touch_at_corners() {
    // The two contour pixels leave an open diagonal.
    let contours = ContourMap::image_sized(2, 2, strengths(&["09", "90"])).unwrap();
    assert_eq!(labels_at(&contours, 0.5), [0; 4]);
    let contours = ContourMap::image_sized(3, 3, strengths(&["099", "990", "900"])).unwrap();
    assert_eq!(regions_at(&contours, 0.5).num_regions(), 2);
}

#[test]
fn contour_pixels_go_to_the_nearest_region() {
    let contours = ContourMap::image_sized(1, 7, strengths(&["0999900"])).unwrap();
    assert_eq!(labels_at(&contours, 0.5), [0, 0, 0, 1, 1, 1, 1]);
    // As near to both: to the left one.
    let contours = ContourMap::image_sized(2, 5, strengths(&["00900", "00900"])).unwrap();
    assert_eq!(labels_at(&contours, 0.5), [0, 0, 0, 1, 1, 0, 0, 0, 1, 1]);
    // Nothing but contour is one region.
    let contours = ContourMap::image_sized(2, 3, vec![1.0; 6]).unwrap();
    assert_eq!(labels_at(&contours, 0.5), [0; 6]);
}

#[test]
fn a_map_of_image_size_and_its_doubled_map_have_the_same_regions() {
    // 3 × 4 pixels in two halves, doubled: all corners and edges of column 4.
    let doubled: Vec<f32> = (0..7 * 9).map(|cell| if cell % 9 == 4 { 0.7 } else { 0.0 }).collect();
    let doubled = ContourMap::doubled(3, 4, doubled).unwrap();
    let image = ContourMap::image_sized(3, 4, strengths(&["0700", "0700", "0700"])).unwrap();
    assert_eq!(labels_at(&doubled, 0.5), labels_at(&image, 0.5));
    assert_eq!(labels_at(&image, 0.5), [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]);
}

/// The table of two segmentations given as labels of the same pixels.
fn overlap(prediction: &[u32], truth: &[u16]) -> Overlap {
    let num_regions = prediction.iter().max().map_or(0, |&label| label as usize + 1);
    let regions = Regions::new(prediction.to_vec(), num_regions).unwrap();
    Overlap::new(&regions, &Annotation::new(1, truth.len(), truth, None).unwrap()).unwrap()
}

#[test]
fn a_case_worked_out_by_hand() {
    let table = overlap(&[0, 0, 1, 1, 1, 2], &[7, 7, 7, 7, 3, 3]);
    assert_eq!(table.common_areas().collect::<Vec<_>>(), [1, 1, 2, 2]);
    // Label 3: one pixel of {1}, IoU 1/4, and one of {2}, 1/2. Label 7: 2/4 with {0}, 2/5 with {1}.
    assert_eq!(covered_pixels(&table), [2.0 * 0.5, 4.0 * 0.5]);
    // 15 pairs. Together in the prediction only: (1 of {1}'s 2) with 3: 2 pairs; in the truth only: 4 of 7's, 1 of 3's.
    assert!((rand_index(&table) - (1.0 - 7.0 / 15.0)).abs() < 1e-15);
    let entropy = |areas: &[f64]| -> f64 { areas.iter().map(|a| -a / 6.0 * (a / 6.0).log2()).sum() };
    let expected = 2.0 * entropy(&[2.0, 2.0, 1.0, 1.0]) - entropy(&[2.0, 3.0, 1.0]) - entropy(&[4.0, 2.0]);
    assert!((variation_of_information(&table) - expected).abs() < 1e-12);
}

#[test]
fn one_pixel_and_bad_input() {
    let table = overlap(&[0], &[5]);
    assert_eq!((rand_index(&table), variation_of_information(&table), covered_pixels(&table)), (1.0, 0.0, vec![1.0]));
    let regions = Regions::new(vec![0; 3], 1).unwrap();
    assert!(Overlap::new(&regions, &Annotation::new(2, 2, &[0; 4], None).unwrap()).is_err());
    assert!(Regions::new(vec![0, 1, 2], 2).unwrap_err().to_string().contains("pixel 2 has region 2"));
}

/// Two segmentations of the same pixels; the labels of the first are all used.
fn two_segmentations() -> impl Strategy<Value = (Vec<u32>, Vec<u16>)> {
    prop::collection::vec((0u32..5, 0u16..5), 1..40).prop_map(|pixels| {
        let (a, b): (Vec<u32>, Vec<u16>) = pixels.into_iter().unzip();
        let mut used: Vec<u32> = a.clone();
        used.sort_unstable();
        used.dedup();
        (a.iter().map(|label| used.binary_search(label).unwrap() as u32).collect(), b)
    })
}

/// Labels without gaps, in the types of the other side.
fn exchanged(a: &[u32], b: &[u16]) -> (Vec<u32>, Vec<u16>) {
    let mut used = b.to_vec();
    used.sort_unstable();
    used.dedup();
    (b.iter().map(|label| used.binary_search(label).unwrap() as u32).collect(), a.iter().map(|&l| l as u16).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn measures_are_what_they_are_defined_to_be((a, b) in two_segmentations()) {
        let table = overlap(&a, &b);
        let n = a.len();
        let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
        let agreeing = pairs.filter(|&(i, j)| (a[i] == a[j]) == (b[i] == b[j])).count();
        let all = n * (n - 1) / 2;
        let expected = if all == 0 { 1.0 } else { agreeing as f64 / all as f64 };
        prop_assert!((rand_index(&table) - expected).abs() < 1e-12);

        let count = |is: &dyn Fn(usize) -> bool| (0..n).filter(|&i| is(i)).count() as f64;
        // Mean over pixels of −log₂ p(a|b) − log₂ p(b|a).
        let information = (0..n).map(|i| {
            let common = count(&|j| a[j] == a[i] && b[j] == b[i]);
            -(common / count(&|j| b[j] == b[i])).log2() - (common / count(&|j| a[j] == a[i])).log2()
        });
        prop_assert!((variation_of_information(&table) - information.sum::<f64>() / n as f64).abs() < 1e-9);

        let covered: f64 = (0..5u16).map(|truth| {
            let area = count(&|i| b[i] == truth);
            let iou = |label: u32| {
                count(&|i| a[i] == label && b[i] == truth) / count(&|i| a[i] == label || b[i] == truth).max(1.0)
            };
            area * (0..5).map(iou).fold(0.0, f64::max)
        }).sum();
        prop_assert!((covered_pixels(&table).iter().sum::<f64>() - covered).abs() < 1e-9);
    }

    #[test]
    fn equal_is_perfect_and_sides_can_be_exchanged((a, b) in two_segmentations()) {
        let itself = overlap(&a, &exchanged(&a, &b).1);
        prop_assert_eq!((rand_index(&itself), variation_of_information(&itself)), (1.0, 0.0));
        prop_assert_eq!(covered_pixels(&itself).iter().sum::<f64>(), a.len() as f64);
        let (there, back) = (overlap(&a, &b), { let (b, a) = exchanged(&a, &b); overlap(&b, &a) });
        prop_assert_eq!(rand_index(&there), rand_index(&back));
        prop_assert!((variation_of_information(&there) - variation_of_information(&back)).abs() < 1e-12);
    }

    #[test]
    fn regions_are_connected_components(
        (height, width, tenths) in (1usize..9, 1usize..9).prop_flat_map(|(h, w)| {
            (Just(h), Just(w), prop::collection::vec(0u8..3, (2 * h + 1) * (2 * w + 1)))
        }),
    ) {
        // On a doubled map whose pixels are open: flood fill from each pixel.
        let columns = 2 * width + 1;
        let is_pixel = |cell: usize| cell / columns % 2 == 1 && cell % columns % 2 == 1;
        let cells: Vec<f32> =
            tenths.iter().enumerate().map(|(cell, &t)| if is_pixel(cell) { 0.0 } else { f32::from(t) / 2.0 }).collect();
        let contours = ContourMap::doubled(height, width, cells.clone()).unwrap();
        let regions = regions_at(&contours, 0.4);
        let mut expected = vec![u32::MAX; cells.len()];
        let mut next = 0;
        for start in (0..cells.len()).filter(|&cell| is_pixel(cell)) {
            if expected[start] != u32::MAX { continue; }
            let mut stack = vec![start];
            while let Some(cell) = stack.pop() {
                if cells[cell] > 0.4 || expected[cell] != u32::MAX { continue; }
                expected[cell] = next;
                let (row, column) = (cell / columns, cell % columns);
                for near_row in row.saturating_sub(1)..(row + 2).min(2 * height + 1) {
                    for near_column in column.saturating_sub(1)..(column + 2).min(columns) {
                        stack.push(near_row * columns + near_column);
                    }
                }
            }
            next += 1;
        }
        let expected: Vec<u32> = (0..cells.len()).filter(|&cell| is_pixel(cell)).map(|cell| expected[cell]).collect();
        prop_assert_eq!(regions, Regions::new(expected, next as usize).unwrap());
    }
}
