//! The watershed and the merging against slow, obvious versions of themselves.

use oversegment::{
    Basins, GradientRegions, GradientSpec, StrengthMap, first_threshold, gradient, gradient_regions, region_map,
    region_merging, watershed,
};
use proptest::prelude::*;
use segcore::image::{ImageSize, ImageView, PixelFormat};

/// The 8 neighbours of a pixel inside the map, in column-major order.
fn neighbours8(map: &StrengthMap, pixel: usize) -> Vec<usize> {
    let (height, width) = (map.height() as isize, map.width() as isize);
    let (row, column) = ((pixel as isize) / width, (pixel as isize) % width);
    let mut found = Vec::new();
    for dc in -1..=1 {
        for dr in -1..=1 {
            let (r, c) = (row + dr, column + dc);
            if (dr, dc) != (0, 0) && (0..height).contains(&r) && (0..width).contains(&c) {
                found.push((r * width + c) as usize);
            }
        }
    }
    found
}

fn column_major(map: &StrengthMap) -> Vec<usize> {
    (0..map.width()).flat_map(|c| (0..map.height()).map(move |r| r * map.width() + c)).collect()
}

/// Components of equal keys under 8-connectivity.
fn components<K: PartialEq>(map: &StrengthMap, key: impl Fn(usize) -> K) -> Vec<Vec<usize>> {
    let mut seen = vec![false; map.values().len()];
    let mut all = Vec::new();
    for start in column_major(map) {
        if seen[start] {
            continue;
        }
        seen[start] = true;
        let mut component = vec![start];
        let mut next = 0;
        while next < component.len() {
            for q in neighbours8(map, component[next]) {
                if !seen[q] && key(q) == key(start) {
                    seen[q] = true;
                    component.push(q);
                }
            }
            next += 1;
        }
        all.push(component);
    }
    all
}

/// Regional minima: plateaus without a lower neighbour.
fn minima(map: &StrengthMap) -> Vec<Vec<usize>> {
    let v = map.values();
    components(map, |p| v[p].to_bits())
        .into_iter()
        .filter(|plateau| plateau.iter().all(|&p| neighbours8(map, p).iter().all(|&q| v[q] >= v[p])))
        .collect()
}

/// Priority flooding with a plain list that is searched for its smallest (strength, counter) at every step.
fn naive_watershed(map: &StrengthMap) -> Vec<u32> {
    const NONE: u32 = u32::MAX;
    let v = map.values();
    let mut labels = vec![NONE; v.len()];
    for (label, plateau) in (0u32..).zip(minima(map)) {
        for p in plateau {
            labels[p] = label;
        }
    }
    let mut queue: Vec<(f32, usize, usize)> = Vec::new();
    let mut counter = 0;
    let mut push = |p: usize, labels: &mut Vec<u32>, queue: &mut Vec<(f32, usize, usize)>| {
        for q in neighbours8(map, p) {
            if labels[q] == NONE {
                labels[q] = labels[p];
                queue.push((v[q], counter, q));
                counter += 1;
            }
        }
    };
    let markers: Vec<usize> = column_major(map).into_iter().filter(|&p| labels[p] != NONE).collect();
    for p in markers {
        push(p, &mut labels, &mut queue);
    }
    while !queue.is_empty() {
        let least = (0..queue.len())
            .min_by(|&i, &j| queue[i].0.total_cmp(&queue[j].0).then(queue[i].1.cmp(&queue[j].1)))
            .expect("not empty");
        let (_, _, p) = queue.swap_remove(least);
        push(p, &mut labels, &mut queue);
    }
    labels
}

/// Least possible highest strength on a path from any of `sources` to every pixel, through pixels that `may_pass`.
fn pass_heights(map: &StrengthMap, sources: &[usize], may_pass: impl Fn(usize) -> bool) -> Vec<f32> {
    let v = map.values();
    let mut height = vec![f32::INFINITY; v.len()];
    for &p in sources {
        height[p] = v[p];
    }
    loop {
        let mut has_changed = false;
        for p in 0..v.len() {
            if !may_pass(p) {
                continue;
            }
            for q in neighbours8(map, p) {
                let through = height[q].max(v[p]);
                if may_pass(q) && through < height[p] {
                    height[p] = through;
                    has_changed = true;
                }
            }
        }
        if !has_changed {
            return height;
        }
    }
}

/// Mean strength of the boundary of two regions, from the pixels.
fn boundary(map: &StrengthMap, labels: &[u32], a: u32, b: u32) -> Option<f64> {
    let (mut sum, mut length) = (0.0, 0u32);
    let v = map.values();
    for p in 0..v.len() {
        let right = (p % map.width() + 1 < map.width()).then_some(p + 1);
        let below = (p + map.width() < v.len()).then_some(p + map.width());
        for q in right.into_iter().chain(below) {
            if (labels[p], labels[q]) == (a, b) || (labels[p], labels[q]) == (b, a) {
                sum += f64::from(v[p].max(v[q]));
                length += 1;
            }
        }
    }
    (length > 0).then(|| sum / f64::from(length))
}

fn area(labels: &[u32], id: u32) -> usize {
    labels.iter().filter(|l| **l == id).count()
}

/// All merges, each found by looking at every pair of regions again.
fn naive_merging(map: &StrengthMap, basins: &Basins, min_area: usize) -> Vec<(f64, Vec<u32>)> {
    let mut labels = basins.labels.clone();
    let mut merges = Vec::new();
    for only_small in [true, false] {
        loop {
            let mut ids = labels.clone();
            ids.sort_unstable();
            ids.dedup();
            let mut best: Option<(f64, u32, u32)> = None;
            for (i, &a) in ids.iter().enumerate() {
                for &b in &ids[i + 1..] {
                    if only_small && area(&labels, a).min(area(&labels, b)) >= min_area {
                        continue;
                    }
                    if let Some(energy) = boundary(map, &labels, a, b)
                        && best.is_none_or(|(least, ..)| energy < least)
                    {
                        best = Some((energy, a, b));
                    }
                }
            }
            let Some((energy, a, b)) = best else { break };
            labels.iter_mut().filter(|l| **l == a).for_each(|l| *l = b);
            merges.push((if only_small { 0.0 } else { energy }, labels.clone()));
        }
    }
    merges
}

fn same_partition(a: &[u32], b: &[u32]) -> bool {
    let mut forth = std::collections::HashMap::new();
    let mut back = std::collections::HashMap::new();
    a.iter().zip(b).all(|(x, y)| *forth.entry(*x).or_insert(*y) == *y && *back.entry(*y).or_insert(*x) == *x)
}

/// Few levels, so that plateaus and ties are everywhere.
fn coarse_maps() -> impl Strategy<Value = StrengthMap> {
    (1usize..14, 1usize..14, 1u8..7).prop_flat_map(|(h, w, levels)| {
        prop::collection::vec(0..levels, h * w)
            .prop_map(move |v| StrengthMap::new(h, w, v.iter().map(|&x| f32::from(x) / 8.0).collect()).expect("valid"))
    })
}

/// All values different.
fn fine_maps() -> impl Strategy<Value = StrengthMap> {
    (2usize..9, 2usize..9).prop_flat_map(|(h, w)| {
        Just((1..=h * w).map(|i| i as f32 / (h * w) as f32).collect::<Vec<f32>>())
            .prop_shuffle()
            .prop_map(move |v| StrengthMap::new(h, w, v.iter().map(|x| x * x).collect()).expect("valid"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn watershed_floods_in_the_order_of_the_naive_version(map in coarse_maps()) {
        prop_assert_eq!(watershed(&map).labels, naive_watershed(&map));
    }

    #[test]
    fn one_connected_basin_per_regional_minimum(map in coarse_maps()) {
        let basins = watershed(&map);
        let minima = minima(&map);
        prop_assert_eq!(basins.num_basins, minima.len());
        for (label, plateau) in (0u32..).zip(&minima) {
            prop_assert!(plateau.iter().all(|&p| basins.labels[p] == label));
        }
        // As many components of equal labels as labels: each basin is one piece.
        prop_assert_eq!(components(&map, |p| basins.labels[p]).len(), basins.num_basins);
    }

    #[test]
    fn water_reaches_every_pixel_over_the_lowest_pass(map in coarse_maps()) {
        let basins = watershed(&map);
        let minima = minima(&map);
        let anywhere = pass_heights(&map, &minima.concat(), |_| true);
        for (label, plateau) in (0u32..).zip(&minima) {
            let inside = pass_heights(&map, plateau, |p| basins.labels[p] == label);
            for p in (0..inside.len()).filter(|&p| basins.labels[p] == label) {
                prop_assert_eq!(inside[p], anywhere[p]);
            }
        }
    }

    #[test]
    fn merging_equals_the_naive_version(map in fine_maps(), min_area in 0usize..12) {
        let basins = watershed(&map);
        let tree = region_merging(&map, &basins, min_area);
        let naive = naive_merging(&map, &basins, min_area);
        prop_assert_eq!(tree.merges().len(), basins.num_basins - 1);
        prop_assert_eq!(naive.len(), basins.num_basins - 1);
        for (merge, (energy, _)) in tree.merges().iter().zip(&naive) {
            prop_assert!((merge.energy - energy).abs() < 1e-9, "{} {}", merge.energy, energy);
        }
        for threshold in [0.0, 0.1, 0.3, 0.5, 0.8, 1.0] {
            let roots = tree.cut(threshold);
            let ours: Vec<u32> = basins.labels.iter().map(|&b| roots[b as usize]).collect();
            let done = naive.iter().take_while(|(energy, _)| *energy <= threshold).count();
            let theirs = if done == 0 { &basins.labels } else { &naive[done - 1].1 };
            prop_assert!(same_partition(&ours, theirs));
            prop_assert_eq!(tree.num_regions(threshold), basins.num_basins - done);
        }
    }

    #[test]
    fn energies_never_fall(map in coarse_maps(), min_area in 0usize..20) {
        let tree = region_merging(&map, &watershed(&map), min_area);
        prop_assert!(tree.merges().windows(2).all(|pair| pair[0].energy <= pair[1].energy));
    }

    #[test]
    fn no_region_is_smaller_than_the_smallest_area(map in coarse_maps(), min_area in 0usize..20) {
        let basins = watershed(&map);
        let found = region_map(&basins, &region_merging(&map, &basins, min_area), 0.0);
        if found.num_regions > 1 {
            for id in 0..found.num_regions {
                prop_assert!(found.labels.iter().filter(|l| usize::from(**l) == id).count() >= min_area);
            }
        }
    }

    #[test]
    fn regions_are_dense_few_connected_and_repeatable(
        (size, pixels) in (1usize..24, 1usize..24)
            .prop_flat_map(|(w, h)| (Just(ImageSize { width: w, height: h }), prop::collection::vec(any::<u8>(), w * h * 3))),
        max_regions in 2usize..20,
        min_area_share in 0.0f64..0.1,
    ) {
        let view = ImageView::new(size, PixelFormat::Rgb8, size.width * 3, &pixels).expect("valid");
        let spec = GradientRegions { max_regions, min_area_share, ..GradientRegions::default() };
        let found = gradient_regions(&view, &spec).expect("valid");
        prop_assert_eq!(&found, &gradient_regions(&view, &spec).expect("valid"));
        prop_assert!(found.num_regions < max_regions);
        let mut next = 0;
        for &label in &found.labels {
            prop_assert!(label <= next);
            next = next.max(label + 1);
        }
        prop_assert_eq!(usize::from(next), found.num_regions);
        let any_map = StrengthMap::new(size.height, size.width, vec![0.0; pixels.len() / 3]).expect("valid");
        prop_assert_eq!(components(&any_map, |p| found.labels[p]).len(), found.num_regions);
    }
}

#[test]
fn the_threshold_is_the_first_of_the_series_that_suffices() {
    // Five flat cells in a row between walls (a wall is flooded from the left first) of 0.055, 0.075, 0.5 and 1.
    let row = [0.0, 0.055, 0.0, 0.075, 0.0, 0.5, 0.0, 1.0, 0.0];
    let map = StrengthMap::new(1, 9, row.to_vec()).expect("valid");
    let basins = watershed(&map);
    let tree = region_merging(&map, &basins, 0);
    assert_eq!([0.05, 0.06, 0.08, 0.6, 1.0].map(|t| tree.num_regions(t)), [5, 4, 3, 2, 1]);
    for (max_regions, threshold) in [(6, 0.05), (5, 0.06), (4, 0.08), (3, 0.50), (2, 1.0)] {
        let found = first_threshold(&tree, 0.05, 0.01, max_regions);
        assert!((found - threshold).abs() < 1e-9, "{max_regions}: {found}");
        assert!(tree.num_regions(found) < max_regions);
    }
    assert_eq!(region_map(&basins, &tree, 0.06).labels, [0, 0, 0, 0, 1, 1, 2, 2, 3]);
}

fn picture(width: usize, height: usize, colour: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| colour(x, y)).collect()
}

#[test]
fn a_picture_of_four_colours_has_four_regions() {
    let colours = [[200, 30, 30], [30, 200, 30], [30, 30, 200], [220, 220, 220]];
    let quadrant = |x: usize, y: usize| usize::from(x >= 31) + 2 * usize::from(y >= 17);
    let pixels = picture(60, 40, |x, y| colours[quadrant(x, y)]);
    let view = ImageView::new(ImageSize { width: 60, height: 40 }, PixelFormat::Rgb8, 180, &pixels).expect("valid");
    let found = gradient_regions(&view, &GradientRegions::default()).expect("valid");
    assert_eq!(found.num_regions, 4);
    let wrong = (0..40)
        .flat_map(|y| (0..60).map(move |x| (x, y)))
        .filter(|&(x, y)| usize::from(found.labels[y * 60 + x]) != quadrant(x, y))
        .count();
    // The ridge pixel of a border may go to either side.
    assert!(wrong <= 100, "{wrong} pixels");
}

#[test]
fn strength_is_zero_on_one_colour_and_at_most_one() {
    let flat = picture(20, 10, |_, _| [90, 120, 30]);
    let view = ImageView::new(ImageSize { width: 20, height: 10 }, PixelFormat::Rgb8, 60, &flat).expect("valid");
    let strength = gradient::strength(&view).expect("valid");
    assert!(strength.values().iter().all(|v| *v == 0.0));
    assert_eq!(gradient_regions(&view, &GradientRegions::default()).expect("valid").num_regions, 1);

    let step = picture(20, 10, |x, _| if x < 10 { [0; 3] } else { [255; 3] });
    let view = ImageView::new(ImageSize { width: 20, height: 10 }, PixelFormat::Rgb8, 60, &step).expect("valid");
    let strength = gradient::strength(&view).expect("valid");
    let row = &strength.values()[60..80];
    assert!(row[9] > 0.99 && row[10] > 0.99 && row[0] < 1e-3 && row[19] < 1e-3, "{row:?}");
    assert!(strength.values().iter().all(|v| (0.0..=1.0).contains(v)));
}

#[test]
fn a_grey_image_equals_its_rgb_copy_and_padding_is_not_read() {
    let grey: Vec<u8> = (0..15 * 11).map(|i| (i * 37 % 251) as u8).collect();
    let mut padded = Vec::new();
    for row in grey.chunks(15) {
        padded.extend_from_slice(row);
        padded.extend_from_slice(&[255; 5]);
    }
    let rgb: Vec<u8> = grey.iter().flat_map(|&v| [v; 3]).collect();
    let size = ImageSize { width: 15, height: 11 };
    let gray8 =
        gradient::strength(&ImageView::new(size, PixelFormat::Gray8, 20, &padded).expect("valid")).expect("valid");
    let rgb8 = gradient::strength(&ImageView::new(size, PixelFormat::Rgb8, 45, &rgb).expect("valid")).expect("valid");
    for (a, b) in gray8.values().iter().zip(rgb8.values()) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}

#[test]
fn bad_input_is_refused_with_a_reason() {
    let message = |result: Result<StrengthMap, oversegment::OversegmentError>| result.expect_err("refused").to_string();
    assert!(message(StrengthMap::new(2, 3, vec![0.0; 5])).contains("needs 6 values, got 5"));
    assert!(message(StrengthMap::new(0, 3, vec![])).contains("0×3"));
    assert!(message(StrengthMap::new(2, 2, vec![0.0, 1.0, f32::NAN, 0.0])).contains("row 1, column 0"));
    assert!(message(StrengthMap::new(1, 2, vec![0.0, -1.0])).contains("-1"));
    let size = ImageSize { width: 4, height: 4 };
    let short = ImageView { size, format: PixelFormat::Rgb8, stride_bytes: 12, pixels: &[0; 11] };
    assert!(gradient::strength(&short).is_err());
    let pixels = [0; 48];
    let view = ImageView::new(size, PixelFormat::Rgb8, 12, &pixels).expect("valid");
    for (spec, name) in [
        (GradientRegions { max_regions: 1, ..GradientRegions::default() }, "max_regions"),
        (GradientRegions { max_regions: 65536, ..GradientRegions::default() }, "max_regions"),
        (GradientRegions { step: 0.0, ..GradientRegions::default() }, "step"),
        (GradientRegions { start: f64::NAN, ..GradientRegions::default() }, "start"),
        (GradientRegions { min_area_share: 2.0, ..GradientRegions::default() }, "min_area_share"),
        (
            GradientRegions {
                gradient: GradientSpec { sigmas: vec![], weights: vec![] },
                ..GradientRegions::default()
            },
            "weights",
        ),
        (
            GradientRegions {
                gradient: GradientSpec { sigmas: vec![0.0], weights: vec![1.0] },
                ..GradientRegions::default()
            },
            "sigmas",
        ),
    ] {
        assert!(gradient_regions(&view, &spec).expect_err(name).to_string().contains(name));
    }
}
