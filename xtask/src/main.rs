//! The project's own chores: `cargo xtask help`.
//!
//! Everything a test or a feature needs beyond Rust and a C++ compiler is installed here, into the project's own
//! `.deps/`; nothing else on the machine is touched.

mod arrows;
mod bench_edges;
mod bench_retrieval;
mod bench_train;
mod board;
mod camera_test;
mod ci;
mod cross_check;
mod gpu;
mod gstreamer;
mod kernels;
mod libtorch;
mod lints;
mod mpi;
mod nvrtc;
mod onnxruntime;
mod parity;
mod process;
mod stock_quantizer;
mod suites;
mod tensorrt;
mod v4l2_bindings;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = "Example: cargo xtask test golden")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the tests of all crates; fetches libtorch first.
    #[command(
        after_help = "Examples:\n  cargo xtask test            all tests\n  cargo xtask test golden     the golden \
                            numbers, in every crate\n  cargo xtask test cli        the suite tests/suites/cli.rs, and \
                            every test with `cli` in its name"
    )]
    Test {
        /// Part of a suite's file name (that suite runs whole) or of a test's name.
        filter: Option<String>,
    },
    /// Everything a change has to pass: format, clippy, arrows, lints, tests.
    #[command(after_help = "Example: cargo xtask ci")]
    Ci,
    /// Install what a part of the project needs: into .deps/, or (mpi, gstreamer) as packages of the system.
    #[command(
        after_help = "Examples:\n  cargo xtask deps libtorch\n  cargo xtask deps onnxruntime\n  cargo xtask deps tensorrt   0.9 GB, for tests\n  cargo xtask deps mpi        says what it installs; needs root\n  cargo xtask deps gstreamer  the same"
    )]
    Deps {
        /// What to install.
        what: Dependency,
    },
    /// Compare the crates' dependencies with the arrow table of ARCHITECTURE.md.
    #[command(after_help = "Example: cargo xtask check-arrows")]
    CheckArrows,
    /// Check that every crate inherits the workspace's lints, and that unsafe code stays where it may be.
    #[command(after_help = "Example: cargo xtask check-lints")]
    CheckLints,
    /// Compile the CUDA kernels to PTX with NVRTC (fetched from PyPI into .deps/); no GPU is needed.
    #[command(after_help = "Examples:\n  cargo xtask kernels\n  cargo xtask kernels --check")]
    Kernels {
        /// Write nothing; fail when a committed .ptx is not what its source compiles to.
        #[arg(long)]
        check: bool,
    },
    /// Write the seeded, untrained model folder that the tests use: tests/fixtures/tiny-model.
    #[command(after_help = "Example: cargo xtask tiny-model")]
    TinyModel,
    /// Accept what the code writes now as the expectation of the tests; look at `git diff` afterwards.
    #[command(after_help = "Example: cargo xtask bless && git diff --stat tests/fixtures")]
    Bless,
    /// Time the edge detectors at three sizes, and OWT-UCM beside higra (fetched from PyPI into .deps/).
    #[command(after_help = "Example: cargo xtask bench-edges")]
    BenchEdges {
        /// Image to use instead of the first frame of the shipped clip.
        image: Option<String>,
    },
    /// Time label retrieval on 857 000 prototypes, in turn with FAISS (fetched from PyPI into .deps/); needs 4 GB of memory.
    #[command(
        after_help = "Examples:\n  cargo xtask bench-retrieval\n  cargo xtask bench-retrieval rounds=31 probes=16,32"
    )]
    BenchRetrieval {
        /// `key=value`, passed to crates/retrieval/examples/speed.rs.
        arguments: Vec<String>,
    },
    /// Measure training steps part by part at several crops, and the same step in plain PyTorch.
    #[command(
        after_help = "Examples:\n  cargo xtask bench-train\n  cargo xtask bench-train --preset cityscapes --crops 448 \
                            --device cuda"
    )]
    BenchTrain(bench_train::Options),
    /// Put what a GPU machine needs for `gpu-check` into gpu-pack/: built programs, and CamVid's training images if named.
    #[command(after_help = "Example: cargo xtask gpu-pack --camvid /data/camvid")]
    GpuPack(gpu::PackOptions),
    /// Check on a machine with a GPU what no other machine can; it needs the repository, the pack, a driver and a Python
    /// with PyTorch for CUDA.
    #[command(after_help = "Examples:\n  cargo xtask gpu-check\n  gpu-pack/xtask gpu-check --out results      where \
                            there is no Rust")]
    GpuCheck(gpu::CheckOptions),
    /// Check a board, or any machine with an NVIDIA GPU and TensorRT: engines, their accuracy, their speed. Starts everywhere,
    /// and says what it could not run.
    #[command(
        after_help = "Examples:\n  cargo xtask board-check\n  cargo xtask board-check --model street-r18-open --frames 500"
    )]
    BoardCheck(board::Options),
    /// Compare the measures of `hsg eval files` with the programs whose figures they equal, and our int8 network with those of
    /// ONNX Runtime's own quantiser (fetched from PyPI into .deps/).
    #[command(
        after_help = "Examples:\n  cargo xtask parity\n  cargo xtask parity --time      how long both sides take, too"
    )]
    Parity(parity::Options),
    /// Test cameras on a real kernel in QEMU: formats, faults, unplugging; about five minutes.
    #[command(after_help = "Example: cargo xtask camera-test")]
    CameraTest,
    /// Build everything but the trainer for aarch64, run tests there under QEMU, and compare a run on the shipped clip with
    /// this machine's; an hour or more. The first time needs root, debootstrap and 3 GB.
    #[command(
        after_help = "Examples:\n  cargo xtask cross-check\n  cargo xtask cross-check golden --frames 0     tests with `golden` in their names"
    )]
    CrossCheck(cross_check::Options),
    /// Compare the committed V4L2 bindings with what bindgen makes of this machine's headers (needs libclang).
    #[command(
        name = "v4l2-bindings",
        after_help = "Examples:\n  cargo xtask v4l2-bindings\n  cargo xtask v4l2-bindings --write"
    )]
    V4l2Bindings {
        /// Write them instead.
        #[arg(long)]
        write: bool,
    },
    /// Run the trainer (also: cargo hsg-train); fetches libtorch first.
    #[command(disable_help_flag = true, after_help = "Example: cargo hsg-train train --help")]
    HsgTrain {
        /// Passed to hsg-train as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Dependency {
    /// The CPU-only libtorch that the trainer and the tests link.
    Libtorch,
    /// The library behind `--backend onnxruntime`, out of its Python wheel.
    #[value(name = "onnxruntime")]
    OnnxRuntime,
    /// NVIDIA's own TensorRT libraries out of Python wheels (0.9 GB), for the tests that open them without a GPU.
    #[value(name = "tensorrt")]
    TensorRt,
    /// The headers of TensorRT 10 out of a package on crates.io, for the test that compiles with them; `test` fetches them.
    #[value(name = "tensorrt-headers")]
    TensorRtHeaders,
    /// Open MPI and libclang from apt, for training in several processes on CPUs (cargo feature `mpi`).
    Mpi,
    /// GStreamer with its usual plugins from apt, for RTSP, CSI cameras and other codecs (cargo feature `gstreamer`).
    #[value(name = "gstreamer")]
    GStreamer,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Test { filter } => suites::test(filter.as_deref()),
        Chore::Ci => ci::run(),
        Chore::Deps { what: Dependency::Libtorch } => {
            libtorch::ensure().map(|place| println!("libtorch is in {}", place.display()))
        }
        Chore::Deps { what: Dependency::OnnxRuntime } => {
            onnxruntime::ensure().map(|library| println!("ONNX Runtime is {}", library.display()))
        }
        Chore::Deps { what: Dependency::TensorRt } => {
            tensorrt::ensure().map(|place| println!("TensorRT's libraries are in {}", place.display()))
        }
        Chore::Deps { what: Dependency::TensorRtHeaders } => {
            tensorrt::ensure_headers().map(|place| println!("TensorRT's headers are in {}", place.display()))
        }
        Chore::Deps { what: Dependency::Mpi } => mpi::install(),
        Chore::Deps { what: Dependency::GStreamer } => gstreamer::install(),
        Chore::CheckArrows => arrows::check(),
        Chore::CheckLints => lints::check(),
        Chore::Kernels { check } => kernels::run(check),
        // One fixture is written by our own code so far; `bless` is the name that stays when there are more.
        Chore::TinyModel | Chore::Bless => write_tiny_model(),
        Chore::BenchEdges { image } => bench_edges::run(image.as_deref()),
        Chore::Parity(options) => parity::run(&options),
        Chore::BenchRetrieval { arguments } => bench_retrieval::run(&arguments),
        Chore::BenchTrain(options) => bench_train::run(&options),
        Chore::CameraTest => camera_test::run(),
        Chore::CrossCheck(options) => cross_check::run(&options),
        Chore::V4l2Bindings { write } => v4l2_bindings::run(write),
        Chore::GpuPack(options) => gpu::pack(&options),
        Chore::GpuCheck(options) => gpu::check(&options),
        Chore::BoardCheck(options) => board::check(&options),
        Chore::HsgTrain { arguments } => hsg_train(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The tests own the writer, because xtask links nothing of ours and so builds in seconds.
fn write_tiny_model() -> anyhow::Result<()> {
    let folder = process::workspace().join("tests/fixtures/tiny-model");
    process::cargo()
        .args(["run", "--quiet", "--release", "-p", "tests", "--bin", "tiny-model", "--"])
        .arg(&folder)
        .run("write the tiny model")
}

/// Becomes `hsg-train`: its exit code is ours, and Ctrl-C reaches it and nobody else.
fn hsg_train(arguments: &[String]) -> anyhow::Result<()> {
    libtorch::ensure()?;
    process::cargo()
        .args(["run", "--release", "-p", "trainer", "--bin", "hsg-train", "--"])
        .args(arguments)
        .replace_this_process("run hsg-train")
}
