//! What kernels are run by: the driver on a GPU, or the CPU twin of the tests.

use std::marker::PhantomData;

use bytemuck::Pod;

use crate::backend::{BackendError, BackendErrorKind};

/// The modules: name, and the PTX that `cargo xtask kernels` made of `../kernels/<name>.cu`.
#[cfg(feature = "cuda")]
pub(super) const MODULES: [(&str, &str); 5] = [
    ("preprocess", include_str!("../kernels/preprocess.ptx")),
    ("spherical_kmeans", include_str!("../kernels/spherical_kmeans.ptx")),
    ("top_k", include_str!("../kernels/top_k.ptx")),
    ("refine", include_str!("../kernels/refine.ptx")),
    ("frame", include_str!("../kernels/frame.ptx")),
];

macro_rules! kernels {
    ($($variant:ident $name:literal $module:literal $num_arguments:literal,)*) => {
        /// A kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Kernel { $($variant),* }

        impl Kernel {
            /// All of them, in the order of the variants.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Name of its function in the source.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Which of the modules it is in.
            pub const fn module(self) -> usize {
                match self { $(Self::$variant => $module),* }
            }

            /// How many arguments it takes.
            pub const fn num_arguments(self) -> usize {
                match self { $(Self::$variant => $num_arguments),* }
            }
        }
    };
}

kernels! {
    PreprocessGray "preprocess_gray" 0 26,
    PreprocessRgb "preprocess_rgb" 0 26,
    PreprocessYuyv "preprocess_yuyv" 0 26,
    PreprocessUyvy "preprocess_uyvy" 0 26,
    PreprocessNv12 "preprocess_nv12" 0 26,
    PreprocessGrayHalf "preprocess_gray_half" 0 26,
    PreprocessRgbHalf "preprocess_rgb_half" 0 26,
    PreprocessYuyvHalf "preprocess_yuyv_half" 0 26,
    PreprocessUyvyHalf "preprocess_uyvy_half" 0 26,
    PreprocessNv12Half "preprocess_nv12_half" 0 26,
    KmeansGather "kmeans_gather" 1 7,
    KmeansPrepare "kmeans_prepare" 1 9,
    KmeansStart "kmeans_start" 1 11,
    KmeansAssign "kmeans_assign" 1 13,
    KmeansReseed "kmeans_reseed" 1 8,
    KmeansCentroids "kmeans_centroids" 1 15,
    KmeansPrototypes "kmeans_prototypes" 1 6,
    TopKQueries "top_k_queries" 2 5,
    TopKScan "top_k_scan" 2 8,
    TopKScanHalf "top_k_scan_half" 2 8,
    TopKDecide "top_k_decide" 2 13,
    TopKDecideHalf "top_k_decide_half" 2 13,
    RefineLabels "refine_labels" 3 16,
    FrameFirstNotFinite "frame_first_not_finite" 4 3,
    FrameDistances "frame_distances" 4 10,
    FrameGroupingInputs "frame_grouping_inputs" 4 15,
}

/// Most arguments of a kernel.
pub const MAX_ARGUMENTS: usize = 26;

/// An argument of a kernel.
#[derive(Debug)]
pub enum Argument<'a, B> {
    /// Pointer to device memory.
    Memory(&'a B),
    /// A null pointer.
    Null,
    /// `int`.
    Int(i32),
    /// `float`.
    Float(f32),
}

/// Device memory and what runs kernels over it, in order.
pub trait Executor {
    /// Device memory.
    type Buffer;

    /// Memory of this many bytes, contents undefined.
    ///
    /// # Errors
    /// When there is no more.
    fn alloc(&self, num_bytes: usize) -> Result<Self::Buffer, BackendError>;

    /// Copies to the start of `to`; `from` may change afterwards.
    ///
    /// # Errors
    /// When the device is lost, or `to` is shorter.
    fn upload(&self, from: &[u8], to: &mut Self::Buffer) -> Result<(), BackendError>;

    /// Waits for all work so far and copies the start of `from`.
    ///
    /// # Errors
    /// When an earlier kernel failed, or `from` is shorter.
    fn download(&self, from: &Self::Buffer, to: &mut [u8]) -> Result<(), BackendError>;

    /// Sets all bytes.
    ///
    /// # Errors
    /// When the device is lost.
    fn fill(&self, byte: u8, to: &mut Self::Buffer) -> Result<(), BackendError>;

    /// Starts a kernel; it runs after what was started before.
    ///
    /// # Errors
    /// When it cannot start.
    ///
    /// # Safety
    /// The arguments must be those of the kernel's signature, in order, and describe memory that is long enough for what
    /// the kernel reads and writes. Kernels write through shared references: nobody else may use that memory meanwhile,
    /// which holds because work of one executor runs in order.
    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 2],
        num_threads: u32,
        arguments: &[Argument<'_, Self::Buffer>],
    ) -> Result<(), BackendError>;

    /// Multiprocessors, to fit grids to.
    fn num_multiprocessors(&self) -> usize;
}

/// Device memory of `len` numbers.
#[derive(Debug)]
pub struct Memory<B, T> {
    raw: B,
    len: usize,
    kind: PhantomData<T>,
}

impl<B, T: Pod> Memory<B, T> {
    /// Memory of `len` zeros.
    ///
    /// # Errors
    /// As [`Executor::alloc`].
    pub fn zeros<E: Executor<Buffer = B>>(executor: &E, len: usize) -> Result<Self, BackendError> {
        let mut memory = Self { raw: executor.alloc(len * size_of::<T>())?, len, kind: PhantomData };
        memory.fill(executor, 0)?;
        Ok(memory)
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// As [`Executor::upload`].
    pub fn of<E: Executor<Buffer = B>>(executor: &E, values: &[T]) -> Result<Self, BackendError> {
        let raw = executor.alloc(size_of_val(values))?;
        let mut memory = Self { raw, len: values.len(), kind: PhantomData };
        memory.upload(executor, values)?;
        Ok(memory)
    }

    /// Numbers in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Replaces all numbers.
    ///
    /// # Errors
    /// When there are more or fewer.
    pub fn upload<E: Executor<Buffer = B>>(&mut self, executor: &E, values: &[T]) -> Result<(), BackendError> {
        expect_len("an upload", self.len, values.len())?;
        executor.upload(bytemuck::cast_slice(values), &mut self.raw)
    }

    /// Reads the first `values.len()` numbers.
    ///
    /// # Errors
    /// When it holds fewer.
    pub fn download<E: Executor<Buffer = B>>(&self, executor: &E, values: &mut [T]) -> Result<(), BackendError> {
        if values.len() > self.len {
            expect_len("a download", self.len, values.len())?;
        }
        executor.download(&self.raw, bytemuck::cast_slice_mut(values))
    }

    /// The first `len` numbers, in new memory.
    ///
    /// # Errors
    /// When it holds fewer.
    pub fn to_vec<E: Executor<Buffer = B>>(&self, executor: &E, len: usize) -> Result<Vec<T>, BackendError> {
        let mut values = vec![T::zeroed(); len];
        self.download(executor, &mut values)?;
        Ok(values)
    }

    /// Sets all bytes.
    ///
    /// # Errors
    /// As [`Executor::fill`].
    pub fn fill<E: Executor<Buffer = B>>(&mut self, executor: &E, byte: u8) -> Result<(), BackendError> {
        executor.fill(byte, &mut self.raw)
    }

    /// What the executor holds it in.
    #[cfg(feature = "cuda")]
    pub(super) const fn raw(&self) -> &B {
        &self.raw
    }

    pub(super) fn argument(&self) -> Argument<'_, B> {
        Argument::Memory(&self.raw)
    }
}

pub(super) fn expect_len(what: &str, expected: usize, got: usize) -> Result<(), BackendError> {
    if expected == got {
        return Ok(());
    }
    Err(BackendError::new(BackendErrorKind::Run, format!("{what} has {got} values, expected {expected}")))
}

/// Kernels count in 32 bits: the number as such, or an error that names it.
pub(super) fn int(what: &str, value: usize) -> Result<i32, BackendError> {
    i32::try_from(value).map_err(|_| {
        BackendError::new(BackendErrorKind::Run, format!("{what} is {value}; kernels take at most {}", i32::MAX))
    })
}

pub(super) fn unsupported(message: String) -> BackendError {
    BackendError::new(BackendErrorKind::Run, message)
}
