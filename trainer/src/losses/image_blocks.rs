//! L_f where groups do not reach beyond their image, which is how training groups segments.
//!
//! A pixel's positives are then among the segments of its own image, one of so many in the batch, and only the sum over
//! all segments, which every grouping shares, needs the similarities to all of them. That leaves one product, one
//! exponential and two products for the gradient per pair of pixel and segment; everything that depends on a grouping is
//! done on the blocks of pixels and segments of one image. Memory-bound passes over the matrix fall from about twenty to
//! three.

use tch::{Kind, Tensor};

use super::pixel_segment::{Grouping, LEAST_ROWS, PixelSegmentSpec};
use crate::base_segments::TokenSets;

/// Which pixels and segments belong to which image. Pixels and segments of an image are adjacent.
pub struct ImageBlocks<'a> {
    /// The pixels of every image.
    pub pixels: &'a TokenSets,
    /// The segments of every image that a pixel can have.
    pub segments: &'a TokenSets,
    /// Where these segments begin among all of the batch (those of other ranks stand beside them).
    pub first_segment: i64,
    /// Which of all rows are segments, `[S]` bool; `None`: all. Those that are not have a feature of 0.
    pub present: Option<&'a Tensor>,
}

/// Added to the similarity of what is no segment: exp of it is 0.
const ABSENT: f64 = -1e4;

/// What the losses are computed of; no tensor has a gradient here.
pub(super) struct Inputs<'a> {
    /// Unit features, `[P, m]`.
    pub pixels: &'a Tensor,
    /// Unit features, `[S, m]`.
    pub segments: &'a Tensor,
    /// `[P]` int64.
    pub segment_of_pixel: &'a Tensor,
    pub groupings: &'a [Grouping<'a>],
    pub spec: &'a PixelSegmentSpec,
}

/// Losses and gradients.
pub(super) struct Computed {
    /// Of every grouping: each pixel's loss, `[P]`; empty where the weight is 0.
    pub per_pixel: Vec<Tensor>,
    pub grad_pixels: Tensor,
    pub grad_segments: Tensor,
}

/// One grouping on the blocks.
struct Part {
    weight: f64,
    /// Whether a pixel's segment is alone in its group, `[P, 1]`.
    alone: Tensor,
    /// Whether a segment is of a pixel's group, `[images, pixels, segments]` bool.
    same: Tensor,
    /// Sum over the pixel's positives, `[P, 1]`.
    positives: Tensor,
}

fn row_sum(x: &Tensor) -> Tensor {
    x.sum_dim_intlist([1i64].as_slice(), true, None::<Kind>)
}

/// The losses in [`super::pixel_segment::PositiveSum::Direct`].
pub(super) fn compute(inputs: &Inputs<'_>, blocks: &ImageBlocks<'_>) -> Computed {
    let Inputs { pixels, segments, segment_of_pixel, groupings, spec } = inputs;
    let (kind, device) = (pixels.kind(), pixels.device());
    let own_features = segments.index_select(0, segment_of_pixel);
    let scaled = *pixels * spec.concentration;
    let own = row_sum(&(&scaled * &own_features)).exp();

    let local = *segment_of_pixel - blocks.first_segment;
    let (pixel_sets, segment_sets) = (blocks.pixels, blocks.segments);
    let num_local = segment_sets.num_rows();
    let place_of_own = segment_sets.places(&local);
    let block_pixels = pixel_sets.scatter(&scaled).transpose(1, 2);
    let block_segments = segment_sets.scatter(&segments.narrow(0, blocks.first_segment, num_local));
    let mut near = block_pixels.matmul(&block_segments).exp_();
    // Segments that are padding, and each pixel's own.
    let _ = near.g_mul_(&segment_sets.valid.to_kind(kind).unsqueeze(1));
    let own_position = pixel_sets.scatter_ids(&segment_sets.position(&place_of_own), 0);
    let _ = near.scatter_value_(2, &own_position.unsqueeze(2), 0.0);

    let total_weight: f64 = groupings.iter().map(|grouping| grouping.weight / spec.num_pixels).sum();
    let mut weight_of_alone = own.zeros_like();
    let mut parts: Vec<Option<Part>> = Vec::with_capacity(groupings.len());
    for grouping in *groupings {
        if grouping.weight == 0.0 {
            parts.push(None);
            continue;
        }
        let group = grouping.group_of_segment.narrow(0, blocks.first_segment, num_local);
        // Groups have ids from 0, so what is padding is in none of them.
        let of_segment = segment_sets.scatter_ids(&group, -2);
        let of_pixel = pixel_sets.scatter_ids(&TokenSets::gather_at(&of_segment, &place_of_own), -1);
        let members = of_segment.unsqueeze(2).eq_tensor(&of_segment.unsqueeze(1));
        let is_alone = members.sum_dim_intlist([2i64].as_slice(), false, None::<Kind>).le(1);
        let alone = TokenSets::gather_at(&is_alone, &place_of_own).unsqueeze(1);
        let same = of_pixel.unsqueeze(2).eq_tensor(&of_segment.unsqueeze(1));
        let positives = (&near * &same).sum_dim_intlist([2i64].as_slice(), false, None::<Kind>);
        let positives = own.where_self(&alone, &pixel_sets.gather(&positives).unsqueeze(1));
        let weight = grouping.weight / spec.num_pixels;
        let _ = weight_of_alone.g_add_(&(alone.to_kind(kind) * weight));
        parts.push(Some(Part { weight, alone, same, positives }));
    }
    if parts.iter().all(Option::is_none) {
        let none = || Tensor::zeros([0], (kind, device));
        let per_pixel = groupings.iter().map(|_| none()).collect();
        return Computed { per_pixel, grad_pixels: pixels.zeros_like(), grad_segments: segments.zeros_like() };
    }

    // All segments, a chunk of pixels at a time. A group that is the segment alone counts it in its total.
    let weight_of_others = total_weight - &weight_of_alone;
    let (mut sums, mut grad_pixels, mut grad_segments) = (Vec::new(), Vec::new(), segments.zeros_like());
    let absent = blocks.present.map(|present| present.logical_not().to_kind(kind) * ABSENT);
    let num_pixels = pixels.size()[0];
    let bytes_of_row = segments.size()[0].max(1) * kind.elt_size_in_bytes() as i64;
    let rows = (spec.chunk_bytes as i64 / bytes_of_row).clamp(LEAST_ROWS, num_pixels.max(LEAST_ROWS));
    let mut first = 0;
    while first < num_pixels {
        let count = rows.min(num_pixels - first);
        let of_chunk = |x: &Tensor| x.narrow(0, first, count);
        let chunk = of_chunk(&scaled);
        let mut others = chunk.linear(segments, absent.as_ref()).exp_();
        let _ = others.scatter_value_(1, &of_chunk(segment_of_pixel).unsqueeze(1), 0.0);
        let sum = row_sum(&others);
        // A pixel without other segments is alone in every group: its weight here is 0, and 0 / 0 must not be.
        let shared = of_chunk(&weight_of_others) / sum.clamp_min(f64::from(f32::MIN_POSITIVE))
            + of_chunk(&weight_of_alone) / (&sum + of_chunk(&own));
        grad_pixels.push(others.matmul(segments) * &shared);
        grad_segments += others.transpose(0, 1).matmul(&(chunk * shared));
        sums.push(sum);
        first += count;
    }
    let sum_of_others = if sums.is_empty() { own.zeros_like() } else { Tensor::cat(&sums, 0) };
    let mut grad_pixels = if grad_pixels.is_empty() { pixels.zeros_like() } else { Tensor::cat(&grad_pixels, 0) };

    // The positives, block by block.
    let mut per_pixel = Vec::with_capacity(parts.len());
    let mut by_cosine: Option<Tensor> = None;
    let mut by_own = own.zeros_like();
    for part in parts {
        let Some(Part { weight, alone, same, positives }) = part else {
            per_pixel.push(Tensor::zeros([0], (kind, device)));
            continue;
        };
        let total = (&sum_of_others + &own).where_self(&alone, &sum_of_others);
        per_pixel.push((total.log() - positives.log()).squeeze_dim(1));
        let by_positive = positives.reciprocal() * -weight;
        by_own += (total.reciprocal() * weight + &by_positive) * alone.to_kind(kind);
        let by_positive = pixel_sets.scatter(&by_positive).transpose(1, 2);
        let term = same * by_positive;
        by_cosine = Some(match by_cosine {
            None => term,
            Some(mut sum) => sum.g_add_(&term),
        });
    }
    if let Some(mut by_cosine) = by_cosine {
        let _ = by_cosine.g_mul_(&near);
        grad_pixels += pixel_sets.gather_rows(&by_cosine.matmul(&block_segments.transpose(1, 2)));
        let to_segments = segment_sets.gather_rows(&by_cosine.transpose(1, 2).matmul(&block_pixels));
        let _ = grad_segments.narrow(0, blocks.first_segment, num_local).g_add_(&to_segments);
    }
    let by_own = by_own * own;
    let _ = grad_segments.index_add_(0, segment_of_pixel, &(&by_own * &scaled));
    let grad_pixels = (grad_pixels + by_own * own_features) * spec.concentration;
    Computed { per_pixel, grad_pixels, grad_segments }
}
