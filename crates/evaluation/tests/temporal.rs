//! Measures over time: hand-made cases, definitions written out pixel by pixel, and their laws.

mod common;

use common::{assert_near, stored};
use evaluation::{EvaluationError, Flicker, IdStability, LabelChanges, Overlap, TruthRegions, same_image, same_truth};
use proptest::prelude::*;

const VOID: u8 = 255;

/// A picture of digits; `.` is void.
fn classes(picture: &[&str]) -> Vec<u8> {
    picture.iter().flat_map(|row| row.bytes()).map(|byte| if byte == b'.' { VOID } else { byte - b'0' }).collect()
}

fn ids<const N: usize>(ids: [u32; N]) -> Vec<Option<u32>> {
    ids.map(Some).to_vec()
}

#[test]
fn flicker_worked_out_by_hand() {
    let (before, now) = (classes(&["001.", "0011"]), classes(&["0011", "0.10"]));
    let is_same = same_truth(&before, &now, VOID).unwrap();
    assert_eq!(is_same, [true, true, true, false, true, false, true, false]);
    // Segments; the first frame's 1 is the second frame's 0, and 9 is no segment.
    let changes = LabelChanges::new(&is_same, &[0u16, 1, 1, 0, 9, 0, 9, 0], &[1u16, 0, 1, 0, 9, 0, 1, 0]).unwrap();
    let mut flicker = Flicker::default();
    assert_eq!(flicker.result(), None);
    flicker.update(&changes, &ids([7, 8]), &ids([8, 7]));
    // 7→7, 8→8, 8→7, none→none, none→7.
    assert_eq!(flicker.result(), Some(2.0 / 5.0));
    // On a coarser level all are one group, but for a segment that is in none.
    let mut flicker = Flicker::default();
    flicker.update(&changes, &[Some(3), None], &[Some(3), Some(3)]);
    assert_eq!(flicker.result(), Some(3.0 / 5.0));
    let mut flicker = Flicker::default();
    flicker.update_labels(&LabelChanges::new(&is_same, &before, &now).unwrap());
    assert_eq!(flicker.result(), Some(0.0));
}

#[test]
fn a_scene_that_looks_the_same() {
    let before = [100u8; 12];
    let mut now = before;
    // The means of 9, 6 and 4 pixels change by 27/9, 27/6, 27/4.
    now[0] = 127;
    let is_same = same_image(3, 4, &before, &now).unwrap();
    let expected = ["0011", "0111", "1111"];
    let expected: Vec<bool> = expected.iter().flat_map(|row| row.bytes()).map(|byte| byte == b'1').collect();
    assert_eq!(is_same, expected);
    // Exactly 4 is a change.
    assert_eq!(same_image(1, 1, &[10], &[14]), Ok(vec![false]));
    assert_eq!(same_image(1, 1, &[14], &[11]), Ok(vec![true]));
    assert!(matches!(same_image(2, 2, &[0; 3], &[0; 3]), Err(EvaluationError::MapLength { .. })));
    assert!(matches!(same_image(2, 2, &[0; 4], &[0; 3]), Err(EvaluationError::Length { .. })));
}

/// A 20×6 scene with a 4×3 object of class 1 at column `x` in front of class 0.
fn scene(x: usize) -> Vec<u8> {
    (0..120).map(|at| u8::from((1..4).contains(&(at / 20)) && (x..x + 4).contains(&(at % 20)))).collect()
}

fn add(stability: &mut IdStability, truth: &[u8], segments: &[u16], num_segments: usize, ids: &[Vec<Option<u32>>]) {
    let truth = TruthRegions::new(6, 20, truth, VOID).unwrap();
    let overlap = Overlap::of_labels(segments, num_segments, &truth).unwrap();
    stability.update(&truth, &overlap, ids).unwrap();
}

#[test]
fn perfect_tracking_is_1_and_a_fixed_grid_is_bad() {
    let (mut perfect, mut grid) = (IdStability::new(2), IdStability::new(1));
    for x in 0..16 {
        let truth = scene(x);
        let segments: Vec<u16> = truth.iter().map(|&class| class.into()).collect();
        // Segment numbers change places in each frame; their track ids go with what they are.
        let x_is_odd = x % 2 == 1;
        let segments = if x_is_odd { segments.iter().map(|s| 1 - s).collect() } else { segments };
        let track = if x_is_odd { ids([41, 40]) } else { ids([40, 41]) };
        add(&mut perfect, &truth, &segments, 2, &[track, ids([x as u32, x as u32])]);
        // Cells of 2×2 pixels that keep their ids.
        let cells: Vec<u16> = (0..120).map(|at| (at / 20 / 2 * 10 + at % 20 / 2) as u16).collect();
        add(&mut grid, &truth, &cells, 30, &[(0..30).map(Some).collect()]);
    }
    assert_eq!(perfect.result()[0], Some(1.0));
    // Ids of each frame by itself: an object has one of 16 frames' ids.
    assert_eq!(perfect.result()[1], Some(1.0 / 16.0));
    assert_eq!(perfect.purity(), [Some(1.0), Some(1.0)]);
    assert!(grid.result()[0].unwrap() < 0.1, "{:?}", grid.result());
}

#[test]
fn stability_worked_out_by_hand() {
    let mut stability = IdStability::new(1);
    assert_eq!(stability.result(), [None]);
    let mut frame = |truth: &[&str], segments: &[u16], ids: &[Option<u32>]| {
        let truth = TruthRegions::new(1, 6, &classes(truth), VOID).unwrap();
        let overlap = Overlap::of_labels(segments, 3, &truth).unwrap();
        stability.update(&truth, &overlap, &[ids]).unwrap();
        stability.result()[0]
    };
    // Objects: 1 (4 pixels: id 5 three times, none once), 0 (2 pixels: id 6).
    let first = frame(&["111100"], &[0, 0, 0, 2, 1, 1], &[Some(5), Some(6), None]);
    assert_near("first", first, Some((3.0 + 2.0) / 6.0), 0.0);
    // The 1s on the left share two pixels with the object, those on the right one: the left ones go on, the right ones
    // are new. Object 1 has then id 5 three times, 6 twice; the new one id 6; object 0 has id 6 twice more.
    let second = frame(&["110100"], &[1, 1, 0, 1, 1, 1], &[Some(7), Some(6), None]);
    assert_near("second", second, Some((3.0 + 1.0 + 4.0 + 1.0) / 12.0), 0.0);
    // Frame by frame only the pixel without an id is missing: every region of the second frame has one id.
    assert_near("purity", stability.purity()[0], Some(11.0 / 12.0), 0.0);
}

#[test]
fn a_new_sequence_has_new_objects() {
    let mut stability = IdStability::new(1);
    for id in [1, 2] {
        add(&mut stability, &[0; 120], &[0; 120], 1, &[ids([id])]);
        stability.end_sequence();
    }
    assert_eq!(stability.result(), [Some(1.0)]);
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_no_trace() {
    let truth = TruthRegions::new(1, 2, &[0, 1], VOID).unwrap();
    let other = TruthRegions::new(1, 2, &[0, 0], VOID).unwrap();
    let overlap = Overlap::of_labels(&[0, 0], 1, &truth).unwrap();
    let mut stability = IdStability::new(1);
    let wrong = stability.update(&other, &overlap, &[ids([0])]);
    assert_eq!(wrong, Err(EvaluationError::NumRegions { expected: 2, got: 1 }));
    let wrong = stability.update(&truth, &overlap, &[ids([0]), ids([0])]);
    assert_eq!(wrong, Err(EvaluationError::NumLevels { expected: 1, got: 2 }));
    assert!(stability.merge(&IdStability::new(3)).is_err());
    assert_eq!(stability.result(), [None]);
    assert!(serde_json::from_str::<Flicker>(r#"{"changed":3,"total":2}"#).is_err());
    assert!(serde_json::from_str::<IdStability>(r#"{"levels":[{"stable":3,"pure":3,"total":2}]}"#).is_err());
    assert!(serde_json::from_str::<IdStability>(r#"{"levels":[{"stable":2,"pure":1,"total":2}]}"#).is_err());
    assert!(serde_json::from_str::<IdStability>(r#"{"levels":[{"stable":1,"pure":2,"total":2}]}"#).is_ok());
}

/// One frame: true classes and segments of 4×5 pixels, ids of 4 segments.
type Frame = (Vec<u8>, Vec<u16>, Vec<Option<u32>>);

fn sequence() -> impl Strategy<Value = Vec<Frame>> {
    let class = prop_oneof![4 => 0u8..3, 1 => Just(VOID)];
    let pixels = (prop::collection::vec(class, 20), prop::collection::vec(0u16..5, 20));
    let ids = prop::collection::vec(prop::option::weighted(0.9, 0u32..4), 4);
    prop::collection::vec((pixels, ids).prop_map(|((truth, segments), ids)| (truth, segments, ids)), 1..5)
}

/// The definition, pixel by pixel: (pixels with their object's most frequent id, pixels).
fn slow_stability(frames: &[Frame]) -> (u64, u64) {
    use std::collections::BTreeMap;
    let (mut counts, mut areas) = (BTreeMap::<(usize, u32), u64>::new(), Vec::<u64>::new());
    // Class, object and pixels of each region of the last frame.
    let mut last: Vec<(u8, usize, Vec<usize>)> = Vec::new();
    for (truth, segments, ids) in frames {
        // Flood fill, in the order of first pixels.
        let mut regions: Vec<(u8, Vec<usize>)> = Vec::new();
        let mut is_seen = [false; 20];
        for at in 0..20 {
            if is_seen[at] || truth[at] == VOID {
                continue;
            }
            is_seen[at] = true;
            let mut pixels = vec![at];
            let mut next = 0;
            while let Some(&from) = pixels.get(next) {
                next += 1;
                for near in 0..20usize {
                    let is_near = (near / 5).abs_diff(from / 5) <= 1 && (near % 5).abs_diff(from % 5) <= 1;
                    if is_near && !is_seen[near] && truth[near] == truth[at] {
                        is_seen[near] = true;
                        pixels.push(near);
                    }
                }
            }
            regions.push((truth[at], pixels));
        }
        let mut links = Vec::new();
        for (a, (class, _, before)) in last.iter().enumerate() {
            for (b, (other, now)) in regions.iter().enumerate() {
                let common = before.iter().filter(|at| now.contains(at)).count();
                if class == other && common > 0 {
                    links.push((std::cmp::Reverse(common), a, b));
                }
            }
        }
        links.sort_unstable();
        let mut objects = vec![None; regions.len()];
        let mut is_taken = vec![false; last.len()];
        for (_, a, b) in links {
            if !is_taken[a] && objects[b].is_none() {
                is_taken[a] = true;
                objects[b] = Some(last[a].1);
            }
        }
        last = regions
            .into_iter()
            .zip(objects)
            .map(|((class, pixels), object)| {
                let object = object.unwrap_or_else(|| {
                    areas.push(0);
                    areas.len() - 1
                });
                (class, object, pixels)
            })
            .collect();
        for (_, object, pixels) in &last {
            for &at in pixels {
                areas[*object] += 1;
                if let Some(&Some(id)) = ids.get(usize::from(segments[at])) {
                    *counts.entry((*object, id)).or_default() += 1;
                }
            }
        }
    }
    let most = |object: usize| counts.iter().filter(|((o, _), _)| *o == object).map(|(_, &n)| n).max().unwrap_or(0);
    ((0..areas.len()).map(most).sum(), areas.iter().sum())
}

fn measured(frames: &[Frame]) -> (IdStability, Flicker) {
    let (mut stability, mut flicker) = (IdStability::new(1), Flicker::default());
    for (truth, segments, ids) in frames {
        let regions = TruthRegions::new(4, 5, truth, VOID).unwrap();
        let overlap = Overlap::of_labels(segments, 4, &regions).unwrap();
        stability.update(&regions, &overlap, &[ids]).unwrap();
    }
    for pair in frames.windows(2) {
        let is_same = same_truth(&pair[0].0, &pair[1].0, VOID).unwrap();
        flicker.update(&LabelChanges::new(&is_same, &pair[0].1, &pair[1].1).unwrap(), &pair[0].2, &pair[1].2);
    }
    (stability, flicker)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stability_is_its_definition(frames in sequence()) {
        let (stable, total) = slow_stability(&frames);
        let expected = (total > 0).then(|| stable as f64 / total as f64);
        prop_assert_eq!(measured(&frames).0.result(), vec![expected]);
    }

    /// Purity is the stability of frames that have nothing to do with each other.
    #[test]
    fn purity_is_the_stability_of_single_frames(frames in sequence()) {
        let together = measured(&frames).0;
        let mut apart = IdStability::new(1);
        for frame in &frames {
            apart.merge(&measured(std::slice::from_ref(frame)).0).unwrap();
        }
        prop_assert_eq!(together.purity(), apart.result());
        prop_assert!(together.purity() >= together.result());
    }

    #[test]
    fn flicker_is_its_definition(frames in sequence()) {
        let (mut changed, mut total) = (0, 0);
        for pair in frames.windows(2) {
            for at in 0..20 {
                let id = |frame: &Frame| frame.2.get(usize::from(frame.1[at])).copied().flatten();
                if pair[0].0[at] == pair[1].0[at] && pair[0].0[at] != VOID {
                    total += 1;
                    changed += u64::from(id(&pair[0]) != id(&pair[1]));
                }
            }
        }
        let expected = (total > 0).then(|| changed as f64 / total as f64);
        prop_assert_eq!(measured(&frames).1.result(), expected);
    }

    #[test]
    fn merged_sequences_equal_one_pass(sequences in prop::collection::vec(sequence(), 1..4)) {
        let (mut whole, mut whole_flicker) = (IdStability::new(1), Flicker::default());
        let (mut merged, mut merged_flicker) = (IdStability::new(1), Flicker::default());
        for frames in &sequences {
            for (truth, segments, ids) in frames {
                let regions = TruthRegions::new(4, 5, truth, VOID).unwrap();
                let overlap = Overlap::of_labels(segments, 4, &regions).unwrap();
                whole.update(&regions, &overlap, &[ids]).unwrap();
            }
            whole.end_sequence();
            whole_flicker.merge(&measured(frames).1);
        }
        for frames in sequences.iter().rev() {
            // The last sequence of a shard is still open when it is written.
            let (stability, flicker) = measured(frames);
            merged.merge(&stored(&stability)).unwrap();
            merged_flicker.merge(&stored(&flicker));
        }
        prop_assert_eq!(merged.result(), whole.result());
        prop_assert_eq!(merged_flicker, whole_flicker);
    }

    #[test]
    fn looking_the_same_is_its_definition(
        (height, width, before, now) in (1usize..5, 1usize..6).prop_flat_map(|(height, width)| {
            let image = || prop::collection::vec(95u8..105, height * width);
            (Just(height), Just(width), image(), image())
        })
    ) {
        let is_same = same_image(height, width, &before, &now).unwrap();
        for (at, &is_same) in is_same.iter().enumerate() {
            let (y, x) = (at / width, at % width);
            let near = (0..height * width).filter(|i| (i / width).abs_diff(y) <= 1 && (i % width).abs_diff(x) <= 1);
            let mean = |image: &[u8]| {
                let values: Vec<f64> = near.clone().map(|i| image[i].into()).collect();
                values.iter().sum::<f64>() / values.len() as f64
            };
            let difference = (mean(&before) - mean(&now)).abs();
            // Not decided by rounding.
            if (difference - 4.0).abs() > 1e-9 {
                prop_assert_eq!(is_same, difference < 4.0);
            }
        }
    }
}
