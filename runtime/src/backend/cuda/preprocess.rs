//! \[F2\] A camera's frame → network input, on the device.

use half::f16;
use segcore::image::ImageSize;
use segcore::preprocess::{PreprocessSpec, Preprocessor, ResizePlan};

use super::executor::{Argument, Executor, Kernel, Memory, expect_len, int, unsupported};
use crate::backend::{BackendError, BackendErrorKind};

/// How a frame lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFormat {
    /// One byte of grey.
    Gray8,
    /// Red, green, blue.
    Rgb8,
    /// Y0 U Y1 V, BT.601 with limited range.
    Yuyv,
    /// Y, then interleaved UV at half resolution, BT.601 with limited range.
    Nv12,
}

impl FrameFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gray8, Self::Rgb8, Self::Yuyv, Self::Nv12];

    /// Bytes of a row without filling.
    pub const fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Gray8 => width,
            Self::Rgb8 => width * 3,
            Self::Yuyv => width.div_ceil(2) * 4,
            Self::Nv12 => width.div_ceil(2) * 2,
        }
    }

    /// Bytes of a frame whose rows are `stride` bytes apart.
    pub const fn frame_bytes(self, size: ImageSize, stride: usize) -> usize {
        match self {
            Self::Nv12 => stride * (size.height + size.height.div_ceil(2)),
            _ => stride * size.height,
        }
    }
}

/// RGB of a pixel as the kernel computes it: BT.601, limited range, 13 bits.
pub fn yuv_to_rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (y, u, v) = ((i32::from(y) - 16) * 9539, i32::from(u) - 128, i32::from(v) - 128);
    [y + 13075 * v, y - 3209 * u - 6660 * v, y + 16525 * u].map(|value| ((value + 4096) >> 13).clamp(0, 255) as u8)
}

/// Numbers of the output.
enum Output<B> {
    Float(Memory<B, f32>),
    Half(Memory<B, f16>),
}

/// Turns frames of one size and format into network input: tables, a frame and the output on the device.
pub struct Preprocess<E: Executor> {
    plan: ResizePlan,
    kernel: Kernel,
    stride: usize,
    taps: [usize; 2],
    gain: [f32; 3],
    bias: [f32; 3],
    row_starts: Memory<E::Buffer, u32>,
    row_weights: Memory<E::Buffer, f32>,
    column_starts: Memory<E::Buffer, u32>,
    column_weights: Memory<E::Buffer, f32>,
    frame_bytes: usize,
    /// Empty where somebody else has the memory.
    frame: Memory<E::Buffer, u8>,
    /// None where somebody else has the memory.
    output: Option<Output<E::Buffer>>,
}

impl<E: Executor> Preprocess<E> {
    /// For frames of `source` size whose rows are `stride` bytes apart; the output is float, or half (16 bits).
    ///
    /// # Errors
    /// When the specification or the stride makes no sense, or memory runs out.
    pub fn new(
        executor: &E,
        spec: &PreprocessSpec,
        source: ImageSize,
        format: FrameFormat,
        stride: usize,
        half: bool,
    ) -> Result<Self, BackendError> {
        let mut made = Self::without_output(executor, spec, source, format, stride)?;
        let len = 3 * made.plan.padded.num_pixels();
        if half {
            made.kernel = match format {
                FrameFormat::Gray8 => Kernel::PreprocessGrayHalf,
                FrameFormat::Rgb8 => Kernel::PreprocessRgbHalf,
                FrameFormat::Yuyv => Kernel::PreprocessYuyvHalf,
                FrameFormat::Nv12 => Kernel::PreprocessNv12Half,
            };
        }
        made.frame = Memory::zeros(executor, made.frame_bytes)?;
        made.output = Some(match half {
            true => Output::Half(Memory::zeros(executor, len)?),
            false => Output::Float(Memory::zeros(executor, len)?),
        });
        Ok(made)
    }

    /// The same, float, for a frame and an output in memory that the caller has ([`Preprocess::run_from`]).
    ///
    /// # Errors
    /// As [`Preprocess::new`].
    pub fn without_output(
        executor: &E,
        spec: &PreprocessSpec,
        source: ImageSize,
        format: FrameFormat,
        stride: usize,
    ) -> Result<Self, BackendError> {
        let same = Preprocessor::new(spec, source)
            .map_err(|error| BackendError::new(BackendErrorKind::Run, error.to_string()))?;
        let plan = *same.plan();
        if plan.padded.width % 4 != 0 {
            return Err(unsupported(format!("the padded width is {}, expected a multiple of 4", plan.padded.width)));
        }
        if stride < format.row_bytes(source.width) {
            let least = format.row_bytes(source.width);
            return Err(unsupported(format!("rows are {stride} bytes apart, expected at least {least}")));
        }
        int("bytes of a frame", format.frame_bytes(source, stride))?;
        int("values of the output", same.output_len())?;
        let (gain, bias) = same.gain_and_bias();
        let kernel = match format {
            FrameFormat::Gray8 => Kernel::PreprocessGray,
            FrameFormat::Rgb8 => Kernel::PreprocessRgb,
            FrameFormat::Yuyv => Kernel::PreprocessYuyv,
            FrameFormat::Nv12 => Kernel::PreprocessNv12,
        };
        Ok(Self {
            plan,
            kernel,
            stride,
            taps: [same.rows().num_taps(), same.columns().num_taps()],
            gain,
            bias,
            row_starts: Memory::of(executor, same.rows().starts())?,
            row_weights: Memory::of(executor, same.rows().weights())?,
            column_starts: Memory::of(executor, same.columns().starts())?,
            column_weights: Memory::of(executor, same.columns().weights())?,
            frame_bytes: format.frame_bytes(source, stride),
            frame: Memory::zeros(executor, 0)?,
            output: None,
        })
    }

    /// The sizes.
    pub const fn plan(&self) -> &ResizePlan {
        &self.plan
    }

    /// Bytes of a frame.
    pub const fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Bytes that a run moves: the frame and the output once each.
    pub fn moved_bytes(&self) -> usize {
        let output = match &self.output {
            Some(Output::Half(output)) => output.len() * 2,
            Some(Output::Float(output)) => output.len() * 4,
            None => 3 * self.plan.padded.num_pixels() * 4,
        };
        self.frame_bytes + output
    }

    /// Copies a frame to the device.
    ///
    /// # Errors
    /// When it has another length.
    pub fn upload(&mut self, executor: &E, frame: &[u8]) -> Result<(), BackendError> {
        expect_len("the frame", self.frame.len(), frame.len())?;
        self.frame.upload(executor, frame)
    }

    /// Starts the kernel on the frame on the device.
    ///
    /// # Errors
    /// When it cannot start, or the output is somebody else's.
    pub fn run(&mut self, executor: &E) -> Result<(), BackendError> {
        match &self.output {
            Some(Output::Float(output)) => self.launch(executor, &self.frame, output.argument()),
            Some(Output::Half(output)) => self.launch(executor, &self.frame, output.argument()),
            None => Err(unsupported("preprocessing has no output of its own".to_owned())),
        }
    }

    /// The same, from a frame elsewhere on the device into `output`, `[3, H, W]`.
    ///
    /// # Errors
    /// When one of them has another length, or the kernel cannot start.
    pub fn run_from(
        &mut self,
        executor: &E,
        frame: &Memory<E::Buffer, u8>,
        output: &Memory<E::Buffer, f32>,
    ) -> Result<(), BackendError> {
        expect_len("the frame", self.frame_bytes, frame.len())?;
        expect_len("the network's input", 3 * self.plan.padded.num_pixels(), output.len())?;
        if matches!(self.output, Some(Output::Half(_))) {
            return Err(unsupported("preprocessing was made for halves".to_owned()));
        }
        self.launch(executor, frame, output.argument())
    }

    fn launch(
        &self,
        executor: &E,
        frame: &Memory<E::Buffer, u8>,
        output: Argument<'_, E::Buffer>,
    ) -> Result<(), BackendError> {
        let ResizePlan { source, content, padded } = self.plan;
        let [g0, g1, g2] = self.gain.map(Argument::Float);
        let [b0, b1, b2] = self.bias.map(Argument::Float);
        let arguments = [
            frame.argument(),
            Argument::Int(self.stride as i32),
            Argument::Int(source.height as i32),
            self.row_starts.argument(),
            self.row_weights.argument(),
            Argument::Int(self.taps[0] as i32),
            self.column_starts.argument(),
            self.column_weights.argument(),
            Argument::Int(self.taps[1] as i32),
            Argument::Int(content.width as i32),
            Argument::Int(content.height as i32),
            Argument::Int(padded.width as i32),
            Argument::Int(padded.height as i32),
            g0,
            g1,
            g2,
            b0,
            b1,
            b2,
            output,
        ];
        let num_threads = padded.num_pixels() / 4;
        // SAFETY: the arguments are those of `preprocess_*`; frame and tables have the lengths that these sizes say, the
        // output has room for `padded`, and taps end within the frame (`Axis`).
        unsafe { executor.launch(self.kernel, [num_threads.div_ceil(128) as u32, 1], 128, &arguments) }
    }

    /// Sets all bytes of the output: a check sees what was not written.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn poison(&mut self, executor: &E) -> Result<(), BackendError> {
        match &mut self.output {
            Some(Output::Float(output)) => output.fill(executor, 0xff),
            Some(Output::Half(output)) => output.fill(executor, 0xff),
            None => Ok(()),
        }
    }

    /// Reads the output, `[3, H, W]`; empty where it is somebody else's.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn download(&self, executor: &E) -> Result<Vec<f32>, BackendError> {
        Ok(match &self.output {
            Some(Output::Float(output)) => output.to_vec(executor, output.len())?,
            Some(Output::Half(output)) => {
                output.to_vec(executor, output.len())?.iter().map(|value| value.to_f32()).collect()
            }
            None => Vec::new(),
        })
    }
}
