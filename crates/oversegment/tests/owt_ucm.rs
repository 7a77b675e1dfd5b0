//! OWT-UCM on made edges: what must hold whatever the numbers, and the smallest and flattest inputs.

use oversegment::owt_ucm::{
    DoubledGrid, LineMap, NUM_ORIENTATIONS, OrientedEdges, PAPER_MAX_REGIONS, owt_ucm, trace, watershed_with_lines,
};
use oversegment::{OversegmentError, StrengthMap};
use proptest::prelude::*;

/// Edges of the same strength in all orientations.
fn isotropic(height: usize, width: usize, strength: impl Fn(usize, usize) -> f32) -> OrientedEdges {
    let pixels = (0..height).flat_map(|r| (0..width).map(move |c| (r, c)));
    let values = pixels.flat_map(|(r, c)| [strength(r, c); NUM_ORIENTATIONS]).collect();
    OrientedEdges::new(height, width, values).unwrap()
}

/// Few different strengths, so that there are plateaus, ties and thick lines.
fn coarse_edges() -> impl Strategy<Value = OrientedEdges> {
    (1usize..14, 1usize..14).prop_flat_map(|(height, width)| {
        proptest::collection::vec(0u8..6, height * width * NUM_ORIENTATIONS).prop_map(move |levels| {
            let values = levels.into_iter().map(|level| f32::from(level) / 5.0).collect();
            OrientedEdges::new(height, width, values).unwrap()
        })
    })
}

fn neighbours8(map: &StrengthMap, pixel: usize) -> Vec<usize> {
    let (height, width) = (map.height() as isize, map.width() as isize);
    let (row, column) = (pixel as isize / width, pixel as isize % width);
    let steps = (-1..=1).flat_map(|dc| (-1..=1).map(move |dr| (dr, dc))).filter(|&step| step != (0, 0));
    let inside = steps.map(|(dr, dc)| (row + dr, column + dc));
    let inside = inside.filter(|&(r, c)| (0..height).contains(&r) && (0..width).contains(&c));
    inside.map(|(r, c)| (r * width + c) as usize).collect()
}

/// Meyer's flooding with a plain list searched for its smallest (strength, counter) at every step.
fn naive_lines(map: &StrengthMap) -> Vec<bool> {
    let values = map.values();
    let columns = (0..map.width()).flat_map(|c| (0..map.height()).map(move |r| (r, c)));
    let column_major: Vec<usize> = columns.map(|(r, c)| r * map.width() + c).collect();
    let mut labels = vec![0; values.len()];
    let mut next = 0;
    for &start in &column_major {
        let mut plateau = vec![start];
        let mut at = 0;
        while at < plateau.len() {
            let same = neighbours8(map, plateau[at]).into_iter().filter(|&q| values[q] == values[start]);
            let new: Vec<usize> = same.filter(|q| !plateau.contains(q)).collect();
            plateau.extend(new);
            at += 1;
        }
        let is_minimum = plateau.iter().all(|&p| neighbours8(map, p).iter().all(|&q| values[q] >= values[start]));
        if labels[start] == 0 && is_minimum {
            next += 1;
            plateau.iter().for_each(|&p| labels[p] = next);
        }
    }
    let mut is_queued = vec![false; values.len()];
    let mut queue: Vec<usize> = Vec::new();
    let mut push = |p: usize, labels: &[i32], queue: &mut Vec<usize>| {
        for q in neighbours8(map, p) {
            if labels[q] == 0 && !is_queued[q] {
                is_queued[q] = true;
                queue.push(q);
            }
        }
    };
    column_major.iter().filter(|&&p| labels[p] != 0).for_each(|&p| push(p, &labels, &mut queue));
    // The list is in the order of entering, and `min_by` takes the first of equals.
    while let Some(at) = (0..queue.len()).min_by(|&i, &j| values[queue[i]].total_cmp(&values[queue[j]])) {
        let pixel = queue.remove(at);
        let mut around: Vec<i32> = neighbours8(map, pixel).iter().map(|&q| labels[q]).filter(|&l| l != 0).collect();
        around.dedup();
        if around.iter().all(|&label| label == around[0]) {
            labels[pixel] = around[0];
            push(pixel, &labels, &mut queue);
        }
    }
    labels.iter().map(|&label| label == 0).collect()
}

/// Number of 8-connected components of the cells ≤ `threshold` of a doubled map that contain a leaf cell.
fn regions_of_map(map: &[f32], rows: usize, columns: usize, threshold: f32) -> usize {
    let grid = StrengthMap::new(rows, columns, map.to_vec()).unwrap();
    let mut is_seen = vec![false; map.len()];
    let mut number = 0;
    for row in (1..rows).step_by(2) {
        for column in (1..columns).step_by(2) {
            let start = row * columns + column;
            number += usize::from(!is_seen[start]);
            let mut waiting = vec![start];
            while let Some(cell) = waiting.pop() {
                if !std::mem::replace(&mut is_seen[cell], true) {
                    waiting.extend(neighbours8(&grid, cell).into_iter().filter(|&q| map[q] <= threshold));
                }
            }
        }
    }
    number
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn lines_equal_those_of_the_naive_version(edges in coarse_edges()) {
        let map = edges.strength();
        prop_assert_eq!(watershed_with_lines(&map).is_line().to_vec(), naive_lines(&map));
    }

    #[test]
    fn arcs_keep_every_pixel_and_halves_meet(edges in coarse_edges()) {
        let lines = watershed_with_lines(&edges.strength());
        let whole = trace(&lines);
        let mut pieces = whole.clone();
        pieces.subdivide();
        pieces.split_parallel_arcs();
        let with_interior = pieces.arcs().iter().filter(|arc| !pieces.interior(arc).is_empty());
        let mut ends: Vec<_> = with_interior.map(|arc| (arc.start.min(arc.end), arc.start.max(arc.end))).collect();
        ends.sort_unstable();
        prop_assert!(ends.windows(2).all(|pair| pair[0] != pair[1]));
        let mut inner = vec![0; lines.is_line().len()];
        for arc in pieces.arcs() {
            prop_assert!(arc.start != arc.end);
            for &pixel in pieces.interior(arc).iter().chain([&arc.start, &arc.end]) {
                prop_assert!(lines.is_line()[pixel as usize]);
            }
            pieces.interior(arc).iter().for_each(|&pixel| inner[pixel as usize] += 1);
        }
        prop_assert!(inner.iter().all(|&times| times <= 1));
        let count = |arcs: &oversegment::owt_ucm::LineArcs| {
            arcs.arcs().iter().map(|arc| arcs.interior(arc).len()).sum::<usize>()
        };
        prop_assert_eq!(count(&whole), count(&pieces) + pieces.arcs().len() - whole.arcs().len());
    }

    #[test]
    fn cutting_the_tree_equals_labelling_the_map(edges in coarse_edges(), threshold in 0.0f64..1.0) {
        let ucm = owt_ucm(&edges);
        let (rows, columns) = (2 * edges.height() + 1, 2 * edges.width() + 1);
        let map = ucm.doubled_map();
        prop_assert!(map.iter().all(|value| value.is_finite() && *value >= 0.0));
        let expected = regions_of_map(&map, rows, columns, threshold as f32);
        prop_assert_eq!(ucm.regions(f64::from(threshold as f32)).unwrap().num_regions, expected);
        let regions = ucm.sigmoid().paper_regions(PAPER_MAX_REGIONS).unwrap();
        let highest = regions.labels.iter().map(|&label| usize::from(label)).max();
        prop_assert_eq!(highest.map(|label| label + 1), Some(regions.num_regions));
    }
}

#[test]
fn a_wall_parts_two_regions_with_its_strength() {
    let ucm = owt_ucm(&isotropic(9, 12, |_, column| if column == 5 { 0.5 } else { 0.0 }));
    assert_eq!(ucm.leaves().num_basins, 2);
    assert!((ucm.tree().merges()[0].energy - 0.5).abs() < 1e-12);
    assert_eq!(ucm.regions(0.49).unwrap().num_regions, 2);
    assert_eq!(ucm.regions(0.5).unwrap().num_regions, 1);
    assert_eq!(ucm.sigmoid().paper_regions(PAPER_MAX_REGIONS).unwrap().num_regions, 2);
}

#[test]
fn the_smallest_and_flattest_inputs_are_one_region() {
    for (height, width) in [(1, 1), (1, 7), (7, 1), (2, 2), (5, 8)] {
        for strength in [0.0, 1.0] {
            let ucm = owt_ucm(&isotropic(height, width, |_, _| strength));
            assert_eq!(ucm.regions(0.0).unwrap().num_regions, 1, "{height}×{width}");
            assert_eq!(ucm.sigmoid().paper_regions(PAPER_MAX_REGIONS).unwrap().num_regions, 1, "{height}×{width}");
            assert!(ucm.image_size_map().iter().all(|&value| value == 0.0));
            assert_eq!(ucm.image_size_map().len(), height * width);
        }
    }
}

#[test]
fn bad_edges_are_refused_with_a_reason() {
    assert!(matches!(OrientedEdges::new(0, 3, vec![]), Err(OversegmentError::EmptyMap { .. })));
    let short = OrientedEdges::new(2, 3, vec![0.0; 47]);
    assert!(matches!(short, Err(OversegmentError::StrengthLength { expected: 48, got: 47, .. })));
    for bad in [f32::NAN, f32::INFINITY, -0.5] {
        let mut values = vec![0.0; 48];
        values[4 * 8 + 3] = bad;
        let refused = OrientedEdges::new(2, 3, values);
        assert!(matches!(refused, Err(OversegmentError::StrengthValue { row: 1, column: 1, .. })));
    }
    assert!(DoubledGrid::new(2, 3, &[0.0; 5]).is_none());
    assert!(DoubledGrid::new(0, 0, &[]).is_none());
    assert!(LineMap::new(0, 0, vec![]).is_none());
    assert!(LineMap::new(2, 2, vec![true; 3]).is_none());
}
