//! From a camera frame to the network's input in one pass: resize, normalise, transpose, pad.

use crate::image::{ImageError, ImageSize, ImageView, PixelFormat};
use serde::{Deserialize, Serialize};

/// What the network wants to see; part of the model's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessSpec {
    /// Largest network input: a frame is resized to fit, keeping its aspect.
    pub input: ImageSize,
    /// Mean of RGB / 255, subtracted.
    pub mean: [f32; 3],
    /// Standard deviation of RGB / 255, divided by.
    pub std: [f32; 3],
    /// Padded sizes are multiples of this (8 for stride 8).
    pub multiple: usize,
}

/// Why a frame cannot be preprocessed.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// The specification makes no sense.
    #[error("invalid preprocessing: {field} is {got}, expected {expected}")]
    InvalidSpec {
        /// Field of [`PreprocessSpec`].
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// The frame's own lengths are wrong.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The frame's pixels are neither RGB nor grey.
    #[error("the frame is {got}, expected RGB or grey pixels; convert it first (segcore::yuv)")]
    PixelFormat {
        /// Its format.
        got: PixelFormat,
    },
    /// The frame has another size than the plan.
    #[error("the frame is {got}, but this preprocessor was made for {expected}")]
    WrongFrameSize {
        /// Size of the plan.
        expected: ImageSize,
        /// Size of the frame.
        got: ImageSize,
    },
    /// The output has another length than `3 · H · W`.
    #[error("the output has {got} values, expected {expected} for [3, {}, {}]", padded.height, padded.width)]
    WrongOutputLength {
        /// Values needed.
        expected: usize,
        /// Values given.
        got: usize,
        /// Padded size.
        padded: ImageSize,
    },
}

impl PreprocessSpec {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`PreprocessError::InvalidSpec`] when the input is empty or beyond 65 536 per side, `multiple` is 0 or beyond
    /// 1024, or mean or deviation are unusable.
    pub fn check(&self) -> Result<(), PreprocessError> {
        let invalid = |field, expected, got| Err(PreprocessError::InvalidSpec { field, expected, got });
        if self.input.is_empty() || self.input.width > 1 << 16 || self.input.height > 1 << 16 {
            return invalid("input", "1 to 65536 pixels per side", self.input.to_string());
        }
        if self.multiple == 0 || self.multiple > 1024 {
            return invalid("multiple", "1 to 1024", self.multiple.to_string());
        }
        if self.mean.iter().any(|v| !v.is_finite()) {
            return invalid("mean", "finite numbers", format!("{:?}", self.mean));
        }
        if self.std.iter().any(|v| !v.is_finite() || *v <= 0.0) {
            return invalid("std", "positive numbers", format!("{:?}", self.std));
        }
        Ok(())
    }
}

/// Sizes on the way from a frame to the network, in whole pixels, computed once and shared by all paths.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizePlan {
    /// The frame.
    pub source: ImageSize,
    /// The resized frame: its aspect up to rounding, at most [`PreprocessSpec::input`]; smaller frames are enlarged.
    pub content: ImageSize,
    /// `content` rounded up to the multiple; content lies at the top left, the rest is the mean (0 after
    /// normalisation).
    pub padded: ImageSize,
}

impl ResizePlan {
    /// The plan for frames of size `source`.
    ///
    /// # Errors
    /// When the specification is invalid or `source` is empty or beyond 2²⁴ pixels per side.
    pub fn new(spec: &PreprocessSpec, source: ImageSize) -> Result<Self, PreprocessError> {
        spec.check()?;
        if source.is_empty() {
            return Err(ImageError::ZeroSized { size: source }.into());
        }
        if source.width > 1 << 24 || source.height > 1 << 24 {
            return Err(PreprocessError::InvalidSpec {
                field: "source size",
                expected: "at most 16777216 pixels per side",
                got: source.to_string(),
            });
        }
        // The side that hits its limit first takes it exactly; integers, so that all platforms agree.
        let round_div = |a: usize, b: usize| (a + b / 2) / b;
        let input = spec.input;
        let content = if input.width * source.height <= input.height * source.width {
            let height = round_div(source.height * input.width, source.width);
            ImageSize::new(input.width, height.clamp(1, input.height))
        } else {
            let width = round_div(source.width * input.height, source.height);
            ImageSize::new(width.clamp(1, input.width), input.height)
        };
        let padded = ImageSize::new(
            content.width.next_multiple_of(spec.multiple),
            content.height.next_multiple_of(spec.multiple),
        );
        Ok(Self { source, content, padded })
    }

    /// Shape `(h, w)` of a feature map of the padded input at `stride` (rounded up).
    ///
    /// # Panics
    /// When `stride` is 0 (also below).
    #[must_use]
    pub const fn feature_size(&self, stride: usize) -> (usize, usize) {
        (self.padded.height.div_ceil(stride), self.padded.width.div_ceil(stride))
    }

    /// Rows and columns of the feature map whose cell centre lies inside the content; at least 1 each.
    #[must_use]
    pub fn content_cells(&self, stride: usize) -> (usize, usize) {
        // Centre (i + ½)·stride < n  ⇔  i < n/stride − ½.
        let cells = |n: usize| (2 * n).saturating_sub(stride).div_ceil(2 * stride).max(1);
        (cells(self.content.height), cells(self.content.width))
    }
}

/// Resampling of one axis: every output sample is a weighted sum of `num_taps` neighbouring input samples.
#[derive(Clone, Debug)]
pub struct Axis {
    num_taps: usize,
    starts: Vec<u32>,
    weights: Vec<f32>,
}

impl Axis {
    /// Half-pixel centres. Bilinear up to a factor of 2; beyond that a triangle as wide as the factor, because two taps
    /// would skip pixels.
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let support = if scale > 2.0 { scale } else { 1.0 };
        let wanted = if input == output { 1 } else { (2.0 * support).ceil() as usize + usize::from(scale > 2.0) };
        let num_taps = wanted.min(input);
        let mut starts = Vec::with_capacity(output);
        let mut weights = Vec::with_capacity(output * num_taps);
        for i in 0..output {
            let centre = (i as f64 + 0.5) * scale;
            // Outside samples are clamped to the border for bilinear, left out for the triangle, as PyTorch does.
            let centre = if scale > 2.0 { centre } else { centre.clamp(0.5, input as f64 - 0.5) };
            let first = (centre - support + 0.5).floor().max(0.0) as usize;
            let start = first.min(input - num_taps);
            let row = weights.len();
            weights.extend((0..num_taps).map(|t| {
                let distance = ((start + t) as f64 + 0.5 - centre).abs() / support;
                (1.0 - distance).max(0.0) as f32
            }));
            let sum: f32 = weights[row..].iter().sum();
            weights[row..].iter_mut().for_each(|w| *w /= sum);
            starts.push(start as u32);
        }
        Self { num_taps, starts, weights }
    }

    /// Input samples per output sample.
    #[must_use]
    pub const fn num_taps(&self) -> usize {
        self.num_taps
    }

    /// First input sample of each output sample; `start + num_taps` never exceeds the input.
    #[must_use]
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// `[output, num_taps]`, each row sums to 1.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    fn taps(&self, i: usize) -> (usize, &[f32]) {
        (self.starts[i] as usize, &self.weights[i * self.num_taps..(i + 1) * self.num_taps])
    }
}

/// Output rows per piece of work (each piece has a scratch row of its own).
const ROWS_PER_PIECE: usize = 32;

/// Turns frames of one size into network input; owns its tables and scratch rows.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    plan: ResizePlan,
    /// value / 255 → normalised: byte · gain + bias.
    gain: [f32; 3],
    bias: [f32; 3],
    rows: Axis,
    columns: Axis,
    /// One blended source row per piece, `[pieces, source width · 3]`.
    scratch: Vec<f32>,
}

impl Preprocessor {
    /// A preprocessor for frames of size `source`.
    ///
    /// # Errors
    /// The same as [`ResizePlan::new`].
    pub fn new(spec: &PreprocessSpec, source: ImageSize) -> Result<Self, PreprocessError> {
        let plan = ResizePlan::new(spec, source)?;
        let pieces = plan.padded.height.div_ceil(ROWS_PER_PIECE);
        Ok(Self {
            plan,
            gain: spec.std.map(|s| 1.0 / (255.0 * s)),
            bias: std::array::from_fn(|c| -spec.mean[c] / spec.std[c]),
            rows: Axis::new(source.height, plan.content.height),
            columns: Axis::new(source.width, plan.content.width),
            scratch: vec![0.0; pieces * source.width * 3],
        })
    }

    /// The sizes.
    #[must_use]
    pub const fn plan(&self) -> &ResizePlan {
        &self.plan
    }

    /// How rows are resampled, for code that does the same elsewhere.
    #[must_use]
    pub const fn rows(&self) -> &Axis {
        &self.rows
    }

    /// How columns are resampled.
    #[must_use]
    pub const fn columns(&self) -> &Axis {
        &self.columns
    }

    /// Per channel: byte · gain + bias is what the network sees.
    #[must_use]
    pub const fn gain_and_bias(&self) -> ([f32; 3], [f32; 3]) {
        (self.gain, self.bias)
    }

    /// Values of the output, `3 · H · W` of the padded size.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        3 * self.plan.padded.width * self.plan.padded.height
    }

    /// Writes the normalised frame to `nchw` `[3, H, W]` (padded size, RGB order; grey frames fill all three planes):
    /// bilinear with half-pixel centres, a triangle filter when shrinking more than twofold. Uses the current rayon
    /// pool; allocates nothing.
    ///
    /// # Errors
    /// When the frame or the output has another size than the plan, or the frame is neither RGB nor grey.
    pub fn run(&mut self, frame: &ImageView<'_>, nchw: &mut [f32]) -> Result<(), PreprocessError> {
        frame.check()?;
        if !matches!(frame.format, PixelFormat::Rgb8 | PixelFormat::Gray8) {
            return Err(PreprocessError::PixelFormat { got: frame.format });
        }
        if frame.size != self.plan.source {
            return Err(PreprocessError::WrongFrameSize { expected: self.plan.source, got: frame.size });
        }
        if nchw.len() != self.output_len() {
            let (expected, got) = (self.output_len(), nchw.len());
            return Err(PreprocessError::WrongOutputLength { expected, got, padded: self.plan.padded });
        }
        let plane = self.plan.padded.num_pixels();
        let (red, rest) = nchw.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let mut scratch = std::mem::take(&mut self.scratch);
        self.pieces(frame, 0, self.plan.padded.height, [red, green, blue], &mut scratch);
        self.scratch = scratch;
        Ok(())
    }

    /// Halves the rows `first..end` until one piece is left.
    fn pieces(&self, frame: &ImageView<'_>, first: usize, end: usize, planes: [&mut [f32]; 3], scratch: &mut [f32]) {
        let num_pieces = (end - first).div_ceil(ROWS_PER_PIECE);
        if num_pieces <= 1 {
            self.piece(frame, first, end, planes, scratch);
            return;
        }
        let left = num_pieces / 2;
        let rows = left * ROWS_PER_PIECE;
        let [r, g, b] = planes.map(|p| p.split_at_mut(rows * self.plan.padded.width));
        let (scratch_left, scratch_right) = scratch.split_at_mut(left * self.plan.source.width * 3);
        rayon::join(
            || self.pieces(frame, first, first + rows, [r.0, g.0, b.0], scratch_left),
            || self.pieces(frame, first + rows, end, [r.1, g.1, b.1], scratch_right),
        );
    }

    fn piece(&self, frame: &ImageView<'_>, first: usize, end: usize, planes: [&mut [f32]; 3], scratch: &mut [f32]) {
        let padded_width = self.plan.padded.width;
        let ImageSize { width, height } = self.plan.content;
        let [red, green, blue] = planes.map(|p| p.chunks_exact_mut(padded_width));
        for (y, ((r, g), b)) in (first..end).zip(red.zip(green).zip(blue)) {
            if y >= height {
                [r, g, b].into_iter().for_each(|row| row.fill(0.0));
                continue;
            }
            [&mut *r, &mut *g, &mut *b].into_iter().for_each(|row| row[width..].fill(0.0));
            let out = [&mut r[..width], &mut g[..width], &mut b[..width]];
            let (start, weights) = self.rows.taps(y);
            match frame.format {
                PixelFormat::Gray8 => self.row::<1>(frame, start, weights, scratch, out),
                // Others were refused by `run`.
                _ => self.row::<3>(frame, start, weights, scratch, out),
            }
        }
    }

    /// One output row: blend source rows vertically, then resample horizontally into the planes.
    fn row<const CHANNELS: usize>(
        &self,
        frame: &ImageView<'_>,
        start: usize,
        weights: &[f32],
        scratch: &mut [f32],
        [red, green, blue]: [&mut [f32]; 3],
    ) {
        let blended = &mut scratch[..frame.row_bytes()];
        match weights {
            [_] => {
                for (o, &a) in blended.iter_mut().zip(frame.row(start)) {
                    *o = f32::from(a);
                }
            }
            [wa, wb] => {
                for ((o, &a), &b) in blended.iter_mut().zip(frame.row(start)).zip(frame.row(start + 1)) {
                    *o = f32::from(a) * wa + f32::from(b) * wb;
                }
            }
            _ => {
                blended.fill(0.0);
                for (t, &w) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                    for (o, &a) in blended.iter_mut().zip(frame.row(start + t)) {
                        *o += f32::from(a) * w;
                    }
                }
            }
        }
        let (gain, bias) = (self.gain, self.bias);
        let output_width = red.len();
        let outputs = red.iter_mut().zip(green).zip(blue);
        let write = |((r, g), b): ((&mut f32, &mut f32), &mut f32), value: [f32; CHANNELS]| {
            *r = value[0] * gain[0] + bias[0];
            *g = value[CHANNELS / 2] * gain[1] + bias[1];
            *b = value[CHANNELS - 1] * gain[2] + bias[2];
        };
        let taps = self.columns.num_taps;
        match taps {
            // One tap is no resampling, unless the frame is one pixel wide.
            1 if frame.size.width == output_width => {
                for (out, pixel) in outputs.zip(blended.chunks_exact(CHANNELS)) {
                    write(out, std::array::from_fn(|c| pixel[c]));
                }
            }
            2 => {
                let (pairs, _) = self.columns.weights.as_chunks::<2>();
                for ((out, &start), [wa, wb]) in outputs.zip(&self.columns.starts).zip(pairs) {
                    let at = start as usize * CHANNELS;
                    let pixels = &blended[at..at + 2 * CHANNELS];
                    write(out, std::array::from_fn(|c| pixels[c] * wa + pixels[CHANNELS + c] * wb));
                }
            }
            _ => {
                for ((out, &start), weights) in
                    outputs.zip(&self.columns.starts).zip(self.columns.weights.chunks_exact(taps))
                {
                    let at = start as usize * CHANNELS;
                    let mut sum = [0.0; CHANNELS];
                    for (pixel, &w) in blended[at..at + taps * CHANNELS].chunks_exact(CHANNELS).zip(weights) {
                        for (s, &v) in sum.iter_mut().zip(pixel) {
                            *s += v * w;
                        }
                    }
                    write(out, sum);
                }
            }
        }
    }
}
