//! \[F2\] A camera's frame → network input, on the device.

use half::f16;
use segcore::image::{ImageSize, PixelFormat};
use segcore::preprocess::{PreprocessSpec, Preprocessor, ResizePlan};
use segcore::yuv::Conversion;

use super::executor::{Argument, Executor, Kernel, Memory, expect_len, int, unsupported};
use crate::backend::{BackendError, BackendErrorKind};

/// Numbers of the output.
enum Output<B> {
    Float(Memory<B, f32>),
    Half(Memory<B, f16>),
}

/// The kernels of a format: float, half.
fn kernels(format: PixelFormat) -> Result<[Kernel; 2], BackendError> {
    Ok(match format {
        PixelFormat::Gray8 => [Kernel::PreprocessGray, Kernel::PreprocessGrayHalf],
        PixelFormat::Rgb8 => [Kernel::PreprocessRgb, Kernel::PreprocessRgbHalf],
        PixelFormat::Yuyv8(_) => [Kernel::PreprocessYuyv, Kernel::PreprocessYuyvHalf],
        PixelFormat::Uyvy8(_) => [Kernel::PreprocessUyvy, Kernel::PreprocessUyvyHalf],
        PixelFormat::Nv12(_) => [Kernel::PreprocessNv12, Kernel::PreprocessNv12Half],
        other => return Err(unsupported(format!("frames of format {other} have no kernel"))),
    })
}

/// Turns frames of one size and format into network input: tables, a frame and the output on the device.
pub struct Preprocess<E: Executor> {
    plan: ResizePlan,
    kernel: Kernel,
    conversion: Conversion,
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
    /// For frames of `source` size whose rows, of all planes, are `stride` bytes apart; the output is float, or half (16 bits).
    ///
    /// # Errors
    /// When the specification or the stride makes no sense, or memory runs out.
    pub fn new(
        executor: &E,
        spec: &PreprocessSpec,
        source: ImageSize,
        format: PixelFormat,
        stride: usize,
        half: bool,
    ) -> Result<Self, BackendError> {
        let mut made = Self::without_output(executor, spec, source, format, stride)?;
        let len = 3 * made.plan.padded.num_pixels();
        if half {
            made.kernel = kernels(format)?[1];
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
        format: PixelFormat,
        stride: usize,
    ) -> Result<Self, BackendError> {
        let same = Preprocessor::new(spec, source)
            .map_err(|error| BackendError::new(BackendErrorKind::Run, error.to_string()))?;
        let plan = *same.plan();
        if plan.padded.width % 4 != 0 {
            return Err(unsupported(format!("the padded width is {}, expected a multiple of 4", plan.padded.width)));
        }
        let least = format.row_bytes(source.width);
        if stride < least {
            return Err(unsupported(format!("rows are {stride} bytes apart, expected at least {least}")));
        }
        let frame_bytes = stride.saturating_mul(format.num_rows(source.height));
        int("bytes of a frame", frame_bytes)?;
        int("values of the output", same.output_len())?;
        let (gain, bias) = same.gain_and_bias();
        Ok(Self {
            plan,
            kernel: kernels(format)?[0],
            // Of other formats it is an argument that nothing reads.
            conversion: format.yuv_colors().unwrap_or_default().conversion(),
            stride,
            taps: [same.rows().num_taps(), same.columns().num_taps()],
            gain,
            bias,
            row_starts: Memory::of(executor, same.rows().starts())?,
            row_weights: Memory::of(executor, same.rows().weights())?,
            column_starts: Memory::of(executor, same.columns().starts())?,
            column_weights: Memory::of(executor, same.columns().weights())?,
            frame_bytes,
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
        let Conversion { black, luma, red_v, green_u, green_v, blue_u } = self.conversion;
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
            Argument::Int(black),
            Argument::Int(luma),
            Argument::Int(red_v),
            Argument::Int(green_u),
            Argument::Int(green_v),
            Argument::Int(blue_u),
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
