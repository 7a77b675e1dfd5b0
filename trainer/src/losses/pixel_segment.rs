//! Pixel–segment contrastive loss L_f, Eq. 3 of the paper.
//!
//! The similarities of all pixels to all segments of a batch would be the largest tensor of a step by far (at 64 views
//! of 448² about 50 000 pixels × 10 000 segments), and autograd would keep several of its size. Here they are computed
//! once for all groupings, a chunk of pixels at a time, together with the gradient, which has a closed form:
//! with K_ij = exp(c·cos(i, j)), pos_i and total_i the two sums of pixel i,
//!
//! ∂(−log(pos_i / total_i)) / ∂K_ij = 1/total_i − \[j positive\]/pos_i for every j that takes part,
//!
//! and ∂K_ij/∂cos = c·K_ij. A chunk is forgotten when it is done, so memory is bounded whatever the batch.

use tch::{Kind, Tensor};

use super::image_blocks::{self, Computed, ImageBlocks, Inputs};

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

/// One grouping of the segments and the weight of its loss.
pub struct Grouping<'a> {
    /// Group of every segment, `[S]` int64; any ids, or with [`ImageBlocks`] from 0 on.
    pub group_of_segment: &'a Tensor,
    /// λ; 0 leaves the term out.
    pub weight: f64,
}

/// How the losses are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelSegmentSpec {
    /// 1/T.
    pub concentration: f64,
    /// How positives are summed.
    pub sum: PositiveSum,
    /// Pixels over which the mean is taken; those of all ranks where several train together.
    pub num_pixels: f64,
    /// Memory of one matrix of similarities; a chunk has a few of them.
    pub chunk_bytes: usize,
}

/// The losses of several groupings.
pub struct PixelSegmentLosses {
    /// Weighted sum of all, a scalar with gradient.
    pub total: Tensor,
    /// Each one's weighted mean over the pixels, scalars without gradient.
    pub terms: Vec<Tensor>,
    /// Each one's loss of every pixel, `[P]`, unweighted, without gradient; empty where the weight is 0.
    pub per_pixel: Vec<Tensor>,
}

const SCALAR: [i64; 0] = [];

/// Chunks have at least this many pixels: below, the number of operations costs more than memory saves.
pub(super) const LEAST_ROWS: i64 = 64;

/// The loss −log(positives / (positives + negatives)) of unit pixel features `[P, m]` for every grouping of the unit
/// segment features `[S, m]`; `segment_of_pixel` is `[P]` int64 in `0..S`.
///
/// Positives of a pixel: the segments of its group except its own; if there are none, its own. Negatives: all segments
/// of other groups. The gradient reaches pixels and segments through `total`.
///
/// With `blocks` no group reaches beyond its image and ids of groups are not negative ([`super::image_blocks`]), which
/// takes a fraction of the time.
pub fn pixel_segment_losses(
    pixels: &Tensor,
    segments: &Tensor,
    segment_of_pixel: &Tensor,
    groupings: &[Grouping<'_>],
    spec: &PixelSegmentSpec,
    blocks: Option<&ImageBlocks<'_>>,
) -> PixelSegmentLosses {
    let computed = tch::no_grad(|| match (blocks, spec.sum) {
        (Some(blocks), PositiveSum::Direct) => {
            let (pixels, segments) = (&pixels.detach(), &segments.detach());
            image_blocks::compute(&Inputs { pixels, segments, segment_of_pixel, groupings, spec }, blocks)
        }
        _ => Chunks::new(pixels, segments, segment_of_pixel, groupings, spec).run(),
    });
    let Computed { per_pixel, grad_pixels, grad_segments } = computed;
    let mean = |(losses, grouping): (&Tensor, &Grouping<'_>)| {
        losses.sum(None::<Kind>).detach() * (grouping.weight / spec.num_pixels)
    };
    let terms: Vec<Tensor> = per_pixel.iter().zip(groupings).map(mean).collect();
    let value = terms.iter().fold(Tensor::zeros(SCALAR, (pixels.kind(), pixels.device())), |sum, term| sum + term);
    // A number that is 0 and whose gradient is the one just computed.
    let carrier = (pixels * grad_pixels).sum(None::<Kind>) + (segments * grad_segments).sum(None::<Kind>);
    let carrier = &carrier - carrier.detach();
    PixelSegmentLosses { total: carrier + value, terms, per_pixel }
}

/// A grouping made ready: dense ids and which segments are alone in their group.
struct Prepared {
    weight: f64,
    group: Tensor,
    /// Whether a segment has no other one in its group, decided on ids, not on sums.
    alone: Tensor,
    losses: Vec<Tensor>,
}

struct Chunks<'a> {
    pixels: Tensor,
    segments: Tensor,
    segment_of_pixel: &'a Tensor,
    groupings: Vec<Prepared>,
    spec: &'a PixelSegmentSpec,
    grad_segments: Tensor,
}

impl<'a> Chunks<'a> {
    fn new(
        pixels: &Tensor,
        segments: &Tensor,
        segment_of_pixel: &'a Tensor,
        groupings: &[Grouping<'_>],
        spec: &'a PixelSegmentSpec,
    ) -> Self {
        let prepare = |grouping: &Grouping<'_>| {
            let (_, group, size) = grouping.group_of_segment.internal_unique2(false, true, true);
            let alone = size.index_select(0, &group).le(1);
            Prepared { weight: grouping.weight, group, alone, losses: Vec::new() }
        };
        let segments = segments.detach();
        Chunks {
            pixels: pixels.detach(),
            grad_segments: segments.zeros_like(),
            segments,
            segment_of_pixel,
            groupings: groupings.iter().map(prepare).collect(),
            spec,
        }
    }

    fn run(mut self) -> Computed {
        let (num_pixels, num_segments) = (self.pixels.size()[0], self.segments.size()[0].max(1));
        let bytes_of_row = num_segments * self.pixels.kind().elt_size_in_bytes() as i64;
        let rows = (self.spec.chunk_bytes as i64 / bytes_of_row).clamp(LEAST_ROWS, num_pixels.max(LEAST_ROWS));
        let mut gradients = Vec::new();
        let mut first = 0;
        while first < num_pixels {
            let count = rows.min(num_pixels - first);
            gradients.push(self.chunk(first, count));
            first += count;
        }
        let empty = || Tensor::zeros([0], (self.pixels.kind(), self.pixels.device()));
        let joined = |parts: &[Tensor]| if parts.is_empty() { empty() } else { Tensor::cat(parts, 0) };
        let per_pixel: Vec<Tensor> = self.groupings.iter().map(|grouping| joined(&grouping.losses)).collect();
        let grad_pixels = if gradients.is_empty() { self.pixels.zeros_like() } else { Tensor::cat(&gradients, 0) };
        Computed { per_pixel, grad_pixels, grad_segments: self.grad_segments }
    }

    /// The losses of `count` pixels from `first`; returns the gradient of their features and adds to that of the
    /// segments'.
    fn chunk(&mut self, first: i64, count: i64) -> Tensor {
        let last = [1i64].as_slice();
        let row_sum = |x: &Tensor| x.sum_dim_intlist(last, true, None::<Kind>);
        let spec = self.spec;
        let pixels = self.pixels.narrow(0, first, count);
        let own_segment = self.segment_of_pixel.narrow(0, first, count);
        let own_features = self.segments.index_select(0, &own_segment);
        let scaled = &pixels * spec.concentration;
        // exp(c · cosine) to the own segment, [c, 1], and to all others, [c, S], where the own one is 0.
        let own = row_sum(&(&scaled * &own_features)).exp();
        let mut others = scaled.matmul(&self.segments.transpose(0, 1)).exp_();
        let _ = others.scatter_value_(1, &own_segment.unsqueeze(1), 0.0);
        let sum_of_others = row_sum(&others);
        // Of the loss by K: what all segments share, [c, 1], what they do not, [c, S], and that of the own segment.
        let mut shared = own.zeros_like();
        let mut apart: Option<Tensor> = None;
        let mut by_own = own.zeros_like();
        for grouping in &mut self.groupings {
            if grouping.weight == 0.0 {
                continue;
            }
            let group_of_pixel = grouping.group.index_select(0, &own_segment).unsqueeze(1);
            let same = group_of_pixel.eq_tensor(&grouping.group.unsqueeze(0)).to_kind(others.kind());
            let positives = row_sum(&(&others * &same));
            let (positives, alone, total) = match spec.sum {
                PositiveSum::Direct => {
                    let alone = grouping.alone.index_select(0, &own_segment).unsqueeze(1);
                    let positives = own.where_self(&alone, &positives);
                    let total = (&sum_of_others + &own).where_self(&alone, &sum_of_others);
                    (positives, alone, total)
                }
                PositiveSum::Subtracted => {
                    let all = others.scatter(1, &own_segment.unsqueeze(1), &own);
                    let group = row_sum(&(&all * &same));
                    let negatives = row_sum(&(&all * (1f64 - &same)));
                    let positives = group - &own;
                    let alone = positives.le(0.0);
                    let positives = own.where_self(&alone, &positives);
                    let total = &positives + negatives;
                    (positives, alone, total)
                }
            };
            grouping.losses.push((total.log() - positives.log()).squeeze_dim(1));
            let weight = grouping.weight / spec.num_pixels;
            let by_total = total.reciprocal() * weight;
            let by_positive = positives.reciprocal() * -weight;
            // Where the own segment is the positive, those of its group that vanished in the subtraction take no part.
            let by_same = (-&by_total).where_self(&alone, &by_positive);
            match &mut apart {
                None => apart = Some(same * by_same),
                Some(apart) => {
                    let _ = apart.addcmul_(&same, &by_same);
                }
            }
            by_own += (&by_total + by_positive) * alone.to_kind(own.kind());
            shared += by_total;
        }
        let Some(mut by_cosine) = apart else { return pixels.zeros_like() };
        let _ = by_cosine.g_add_(&shared).g_mul_(&others);
        let by_own_cosine = by_own * own;
        self.grad_segments += by_cosine.transpose(0, 1).matmul(&scaled);
        let _ = self.grad_segments.index_add_(0, &own_segment, &(&by_own_cosine * &scaled));
        (by_cosine.matmul(&self.segments) + by_own_cosine * own_features) * spec.concentration
    }
}
