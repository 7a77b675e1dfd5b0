//! The label of a segment: what most of its pixels have.

/// Label of the most pixels of each segment; ties go to the smallest label. `None` for a segment whose most frequent
/// label is `ignore`, and for one without pixels.
///
/// `segments` and `labels` are of the same pixels in the same order; pixels with a segment id of `num_segments` or above
/// (`u16::MAX` means "no segment") are left out.
///
/// # Panics
/// If the two have different lengths.
pub fn majority_label<S: Copy + Into<u32>>(
    segments: &[S],
    labels: &[u8],
    num_segments: usize,
    ignore: u8,
) -> Vec<Option<u8>> {
    assert_eq!(segments.len(), labels.len(), "segments and labels of different images");
    let mut counts = vec![[0u32; 256]; num_segments];
    for (&segment, &label) in segments.iter().zip(labels) {
        if let Some(counts) = counts.get_mut(segment.into() as usize) {
            counts[usize::from(label)] += 1;
        }
    }
    let majority = |counts: &[u32; 256]| {
        let (mut best, mut most) = (None, 0);
        for (label, &count) in (0u8..=255).zip(counts) {
            // Strictly more: the smallest label keeps a tie.
            if count > most {
                (best, most) = (Some(label), count);
            }
        }
        best.filter(|label| *label != ignore)
    };
    counts.iter().map(majority).collect()
}
