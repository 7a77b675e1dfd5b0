//! Agreement of two label maps: small cases by hand.

use evaluation::{Agreement, AgreementShares};

/// Two halves of a 4 × 8 image, split before column `at`.
fn halves(at: usize, left: u16, right: u16) -> Vec<u16> {
    (0..32).map(|pixel| if pixel % 8 < at { left } else { right }).collect()
}

fn shares(all: f64, inside: f64, borders: f64) -> AgreementShares {
    AgreementShares { all: Some(all), inside: Some(inside), borders: Some(borders) }
}

#[test]
fn a_shifted_border_costs_nothing_inside() {
    let mut agreement = Agreement::new(1);
    agreement.update(&halves(4, 0, 1), &halves(5, 0, 1), 8, 2).unwrap();
    let result = agreement.result();
    // Border pixels are columns 3 and 4, borders columns 2 to 5; column 4 differs.
    assert_eq!(result.inside_share, Some(0.5));
    assert_eq!(result.same_label, shares(28.0 / 32.0, 1.0, 0.75));
    assert_eq!(result.matched, result.same_label);
}

#[test]
fn numbers_are_paired_and_names_are_not() {
    let mut agreement = Agreement::new(0);
    agreement.update(&halves(4, 0, 1), &halves(4, 1, 0), 8, 2).unwrap();
    let result = agreement.result();
    assert_eq!(result.same_label, shares(0.0, 0.0, 0.0));
    assert_eq!(result.matched, shares(1.0, 1.0, 1.0));
    // One label against two: only one of them is its partner.
    let mut agreement = Agreement::new(0);
    agreement.update(&halves(6, 0, 0), &halves(6, 0, 1), 8, 2).unwrap();
    let result = agreement.result();
    assert_eq!((result.inside_share, result.matched.all, result.matched.borders), (Some(1.0), Some(0.75), None));
    // Labels beyond the number are names.
    let mut agreement = Agreement::new(0);
    agreement.update(&halves(4, 65535, 1), &halves(4, 65535, 0), 8, 2).unwrap();
    assert_eq!(agreement.result().matched.all, Some(1.0));
}

#[test]
fn merging_is_seeing_all() {
    let maps = [(halves(4, 0, 1), halves(5, 0, 1)), (halves(2, 1, 0), halves(3, 0, 1))];
    let mut together = Agreement::new(1);
    let mut merged = Agreement::new(1);
    for (reference, map) in &maps {
        together.update(reference, map, 8, 2).unwrap();
        let mut alone = Agreement::new(1);
        alone.update(reference, map, 8, 2).unwrap();
        merged.merge(&alone);
    }
    assert_eq!(merged, together);
    assert_eq!(Agreement::new(1).result().same_label.all, None);
}

#[test]
fn other_sizes_are_refused() {
    let mut agreement = Agreement::new(1);
    assert!(agreement.update(&[0; 4], &[0; 6], 2, 1).unwrap_err().to_string().contains("6 pixels"));
    assert!(agreement.update(&[0; 5], &[0; 5], 2, 1).unwrap_err().to_string().contains("label map"));
    assert!(agreement.update(&[], &[], 2, 1).is_err());
    assert_eq!(agreement, Agreement::new(1));
}
