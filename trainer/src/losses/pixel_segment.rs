//! Pixel–segment contrastive loss L_f, Eq. 3 of the paper.
//!
//! The similarities of all pixels to all segments of the batch are computed once
//! ([`SegmentSimilarity`]) and shared by the losses of all levels; a loss is then one mask over them.

use tch::{Kind, Tensor};

/// How the sum over a pixel's positives is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositiveSum {
    /// The positives are added up directly (what training uses).
    Direct,
    /// As the authors' implementation does: the sum over the whole group, own segment included, minus the own
    /// segment, in float32; where nothing positive is left the own segment is used. Positives smaller than the
    /// float32 resolution of the own segment's term vanish in it, which the golden numbers record. Only for
    /// comparing with those: the terms that vanish are the pixels that have most to learn.
    Subtracted,
}

/// `exp(concentration · cosine)` of every pixel to every segment.
pub struct SegmentSimilarity {
    /// To each segment but the pixel's own, which is 0, `[P, S]`, with gradient.
    others: Tensor,
    /// Sum of `others` over the segments, `[P, 1]`.
    sum_of_others: Tensor,
    /// To the pixel's own segment, `[P, 1]`.
    own: Tensor,
    /// Each pixel's segment, `[P]` int64.
    segment_of_pixel: Tensor,
}

impl SegmentSimilarity {
    /// Similarities of unit pixel features `[P, m]` and unit segment features `[S, m]`; `segment_of_pixel` is
    /// `[P]` int64 in `0..S`.
    pub fn new(pixels: &Tensor, segments: &Tensor, segment_of_pixel: &Tensor, concentration: f64) -> Self {
        let pixels = pixels * concentration;
        // Computed apart rather than gathered from the product: gather keeps its source for the backward pass, and
        // the product, the largest tensor of a step, is changed in place below.
        let own = (&pixels * segments.index_select(0, segment_of_pixel))
            .sum_dim_intlist([1i64].as_slice(), true, None::<Kind>)
            .exp();
        let others = pixels
            .matmul(&segments.transpose(0, 1))
            .scatter_value_(1, &segment_of_pixel.unsqueeze(1), f64::NEG_INFINITY)
            .exp_();
        let sum_of_others = others.sum_dim_intlist([1i64].as_slice(), true, None::<Kind>);
        SegmentSimilarity { others, sum_of_others, own, segment_of_pixel: segment_of_pixel.shallow_clone() }
    }

    /// The loss of every pixel, `[P]`, for one grouping of the segments (`group_of_segment` `[S]` int64, any ids).
    ///
    /// Positives of a pixel: the segments of its group except its own; if there are none, its own. Negatives: all
    /// segments of other groups. The loss is −log(positives / (positives + negatives)).
    pub fn loss_per_pixel(&self, group_of_segment: &Tensor, sum: PositiveSum) -> Tensor {
        let (_, group, size_of_group) = group_of_segment.internal_unique2(false, true, true);
        let group_of_pixel = group.index_select(0, &self.segment_of_pixel);
        let other_group = group_of_pixel.unsqueeze(1).ne_tensor(&group.unsqueeze(0));
        let last = [1i64].as_slice();
        match sum {
            PositiveSum::Direct => {
                let positives = self.others.masked_fill(&other_group, 0.0).sum_dim_intlist(last, true, None::<Kind>);
                // Whether a segment has another one in its group is decided on ids, not on sums that may underflow.
                let alone = size_of_group.index_select(0, &group_of_pixel).le(1).unsqueeze(1);
                let positives = self.own.where_self(&alone, &positives);
                // The sum leaves the own segment out; where it is the positive it belongs to the denominator too.
                let total = (&self.sum_of_others + &self.own).where_self(&alone, &self.sum_of_others);
                (total.log() - positives.log()).squeeze_dim(1)
            }
            PositiveSum::Subtracted => {
                let all = self.others.scatter(1, &self.segment_of_pixel.unsqueeze(1), &self.own);
                let group = all.masked_fill(&other_group, 0.0).sum_dim_intlist(last, true, None::<Kind>);
                let negatives = (&all * other_group.to_kind(all.kind())).sum_dim_intlist(last, true, None::<Kind>);
                let positives = group - &self.own;
                let positives = positives.where_self(&positives.gt(0.0), &self.own);
                ((&positives + negatives).log() - positives.log()).squeeze_dim(1)
            }
        }
    }

    /// Mean of [`SegmentSimilarity::loss_per_pixel`] over the pixels.
    pub fn loss(&self, group_of_segment: &Tensor, sum: PositiveSum) -> Tensor {
        self.loss_per_pixel(group_of_segment, sum).mean(None::<Kind>)
    }
}
