//! What was typed. `settings.rs` says what it means.
//!
//! Options may also come from the environment (`HSG_` and the option's name), all but `--name`, `-v`,
//! `--show-settings` and what `hsg bank add` and `remove` are pointed at, and from the TOML file of `--config`, all but those about the terminal (`-v`, `-q`, `--json`,
//! `--show-settings`) and `--config` itself; SOURCE comes from the file or is typed. What is typed wins over the
//! environment, the environment over the file.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
pub use runtime::program::args::{BackendArg, CommonArgs, DatasetArgs};

/// Segments street scenes, live and hierarchically, without having been told any labels.
#[derive(Debug, Parser)]
#[command(
    name = "hsg",
    version,
    after_help = "Examples:\n  hsg run                      segment the shipped clip with the shipped model\n  \
                  hsg run drive.mp4 --out result\n  hsg inspect camvid-r18\n\n\
                  Exit codes: 0 done; 1 ran, but an input was skipped or a limit missed; 2 could not run; \
                  130/143 interrupted, files whole."
)]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Segment folders of images and videos.
    Run(RunArgs),
    /// Measure the deployed model on labelled images.
    Eval(EvalArgs),
    /// Name what you point at, or make the prototype bank, which gives segments their names.
    Bank(BankArgs),
    /// Measure latency and throughput; saves nothing.
    Bench(BenchArgs),
    /// Build a model's TensorRT engines for this machine's GPU.
    Build(BuildArgs),
    /// Say what is in a model folder, a network file, an engine, a bank, a stream of frames or a recording.
    Inspect(InspectArgs),
    /// Say what this machine has and lacks, and the remedy for each lack.
    Doctor(DoctorArgs),
}

/// Arguments of `hsg build`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg build --model camvid-r18 --precision fp16\n\n\
    Engines go to $HSG_CACHE/engines; `hsg run --backend tensorrt` uses them, and builds them itself where they are missing,\n\
    stale or of another machine. An engine is built once: --force builds it again.")]
pub struct BuildArgs {
    /// Model folder, or the name of one under models/zoo or $HSG_MODELS [default: camvid-r18].
    #[arg(long, value_name = "M", env = "HSG_MODEL")]
    pub model: Option<String>,
    /// Number format of the engines [default: fp16].
    #[arg(long, value_name = "PRECISION", env = "HSG_PRECISION")]
    pub precision: Option<PrecisionArg>,
    /// Most GPU memory, MiB, that a layer may use for itself while it is tuned and run [default: all].
    #[arg(long, allow_negative_numbers = true, value_name = "MIB", env = "HSG_WORKSPACE_MIB")]
    pub workspace_mib: Option<u64>,
    /// File of timings, read and written: the next build is faster [default: one in $HSG_CACHE/engines].
    #[arg(long, value_name = "FILE", env = "HSG_TIMING_CACHE")]
    pub timing_cache: Option<PathBuf>,
    /// For every GPU from Ampere on instead of this one; slower.
    #[arg(long, env = "HSG_HARDWARE_COMPATIBLE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub hardware_compatible: Option<bool>,
    /// Most frames that the embedding network takes at once, for as many cameras: 1 to 32 [default: 1].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_MAX_BATCH")]
    pub max_batch: Option<usize>,
    /// Build int8 also where its receipt is missing, belongs to another network or says that a limit was missed.
    #[arg(long, env = "HSG_ALLOW_UNVERIFIED", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub allow_unverified: Option<bool>,
    /// Build also where there is an engine already.
    #[arg(long, env = "HSG_FORCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,
}

/// Arguments of `hsg doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg doctor --json\n\nExit code 1 when `hsg run` would not work here.")]
pub struct DoctorArgs {}

/// Number format of the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats; on a CPU no faster.
    Fp16,
    /// 8-bit integers where they cost little (`hsg-calibrate`).
    Int8,
}

/// Model and backend.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model folder, or the name of one under models/zoo or $HSG_MODELS [default: camvid-r18].
    #[arg(long, value_name = "M", env = "HSG_MODEL")]
    pub model: Option<String>,
    /// What executes the networks [default: auto].
    #[arg(long, value_name = "BACKEND", env = "HSG_BACKEND")]
    pub backend: Option<BackendArg>,
    /// Number format of the networks [default: fp32].
    #[arg(long, value_name = "PRECISION", env = "HSG_PRECISION")]
    pub precision: Option<PrecisionArg>,
    /// Execute int8 networks in floats, exactly as the file says, instead of with integer kernels [default: only in eval and
    /// bank build].
    #[arg(long, env = "HSG_INT8_FLOAT", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub int8_float: Option<bool>,
    /// Run an int8 network whose receipt is missing, belongs to another network or says that a limit was missed.
    #[arg(long, env = "HSG_ALLOW_UNVERIFIED", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub allow_unverified: Option<bool>,
}

/// How frames are computed.
#[derive(Args, Clone, Debug)]
pub struct ComputeArgs {
    /// Each frame by itself: clustering from the grid, ids = that frame's cluster and group indices.
    #[arg(long, env = "HSG_NO_TRACK", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub no_track: Option<bool>,
    /// Cluster at full resolution: slow, the yardstick of accuracy.
    #[arg(long, env = "HSG_REFERENCE", conflicts_with = "no_refine", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub reference: Option<bool>,
    /// Cluster the pixels instead of the feature cells: the segments of --reference to rounding, at a fraction of the time.
    #[arg(long, env = "HSG_CLUSTER_PIXELS", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub cluster_pixels: Option<bool>,
    /// Give each pixel the label of its cell, without refinement at borders.
    #[arg(long, env = "HSG_NO_REFINE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub no_refine: Option<bool>,
    /// Rounds of clustering per frame [default: 3, or the model's if those are fewer; the paper makes 15].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_ROUNDS")]
    pub rounds: Option<usize>,
    /// How segments are looked up in the prototype bank [default: auto].
    #[arg(long, value_name = "SEARCH", env = "HSG_BANK_SEARCH")]
    pub bank_search: Option<BankSearchArg>,
    /// Name each segment by the majority of its 20 nearest prototypes alone: the paper's protocol, for comparisons.
    #[arg(long, env = "HSG_COUNT_VOTES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub count_votes: Option<bool>,
    /// Run the stages between the networks on the CPU, also where the networks run on a GPU: to compare.
    #[arg(long, env = "HSG_HOST_STAGES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub host_stages: Option<bool>,
}

/// Arguments of `hsg run`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg run drive.mp4 --model camvid-r18 --out result --frames 100\n\n\
    A camera, until Ctrl-C:\n  hsg run 'v4l2:/dev/video0?size=1280x720' --save overlay,video\n\n\
    The same, seen in a browser at http://127.0.0.1:8080/:\n  hsg run v4l2:/dev/video0 --live 127.0.0.1:8080\n\n\
    The same for other programs, which connect when they like:\n  \
    hsg run v4l2:/dev/video0 --publish unix:/run/hsg/frames.sock --publish tcp:127.0.0.1:5555\n\n\
    A bag of ROS 2 or a recording of Foxglove:\n  hsg run 'drive.mcap?topic=/camera/front/image_raw'\n\n\
    Without a SOURCE the shipped clip is segmented. Look at OUT/overlay/*.jpg first.")]
pub struct RunArgs {
    /// Folder of images, images, video file (MP4, AVI), MCAP recording (`?topic=/camera/image_raw`), v4l2:/dev/videoN, v4l2:by-id/NAME, raw:WIDTHxHEIGHT:FORMAT on stdin,
    /// and in builds with GStreamer rtsp://… and gst:PIPELINE; `?rate=30`, for cameras `&size=1280x720&format=MJPG`, may
    /// follow. Several run side by side; several images are one source.
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Folder to write to; must be new or empty [default: hsg-out, hsg-out-2, …].
    #[arg(long, value_name = "DIR", env = "HSG_OUT")]
    pub out: Option<PathBuf>,
    /// Write into a folder that holds files already.
    #[arg(long, env = "HSG_FORCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,
    /// Comma list of overlay, labels, classes, frames, video, mcap, or none [default: of files all but mcap, of cameras nothing].
    #[arg(long, value_name = "KINDS", env = "HSG_SAVE")]
    pub save: Option<String>,
    /// Most bytes to write, for example 500M or 2G.
    #[arg(long, allow_negative_numbers = true, value_name = "BYTES", env = "HSG_MAX_DISK")]
    pub max_disk: Option<String>,
    /// Stop after this many frames of each source.
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_FRAMES")]
    pub frames: Option<u64>,
    /// Play files at their own rate and drop what is too late; the newest frame wins.
    #[arg(long, env = "HSG_REALTIME", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub realtime: Option<bool>,
    /// Latency that frames should keep: later ones are computed with less care, step by step.
    #[arg(long, allow_negative_numbers = true, value_name = "T", env = "HSG_DEADLINE_MILLIS")]
    pub deadline_millis: Option<f64>,
    /// With --backend tensorrt: begin on the CPU where engines have to be built, and move over when they are.
    #[arg(long, env = "HSG_BUILD_BESIDE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub build_beside: Option<bool>,
    /// With --backend tensorrt: most frames of several sources that the embedding network takes at once; 1 = every source runs
    /// it for itself [default: auto = as many as there are live sources, or sources with --realtime, up to 8].
    #[arg(long, allow_negative_numbers = true, value_name = "auto|N", env = "HSG_BATCH")]
    pub batch: Option<String>,
    /// How long a run of the embedding network waits for the frames of sources that brought some lately: more frames a run,
    /// later; 0 = it takes what is there [default: 2].
    #[arg(long, allow_negative_numbers = true, value_name = "T", env = "HSG_BATCH_WAIT_MILLIS")]
    pub batch_wait_millis: Option<f64>,
    /// PNG of the frames' size whose black pixels (bonnet, mount) are not segmented; one for all sources, or one for each
    /// in their order.
    #[arg(long = "mask", value_name = "FILE.png", env = "HSG_MASK")]
    pub masks: Vec<PathBuf>,
    /// Do without the names that were given with `hsg bank add`.
    #[arg(long, env = "HSG_NO_USER_BANK", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub no_user_bank: Option<bool>,
    /// Name of a source; repeat it in the order of the sources [default: file names].
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Publish frames to other programs, live, in the bytes of frames.hsg (docs/wire.md): stdout, unix:PATH or
    /// tcp:ADDRESS:PORT, where any number of them may connect at any time; repeat it for several. There is no password: bind to
    /// 127.0.0.1 or a private network.
    #[arg(long, value_name = "TO", env = "HSG_PUBLISH")]
    pub publish: Vec<String>,
    /// Show in a browser what is seen: serve a page at HOST:PORT, for example 127.0.0.1:8080 (this machine alone) or
    /// 0.0.0.0:8080 (everybody who reaches it; there is no password); port 0 = any free one, which is said.
    #[arg(long, value_name = "ADDR", env = "HSG_LIVE")]
    pub live: Option<String>,
    /// Most pictures a second on that page, of each source [default: 10].
    #[arg(long, allow_negative_numbers = true, value_name = "HZ", env = "HSG_LIVE_RATE")]
    pub live_rate: Option<f64>,
    /// Widest picture on it, pixels [default: 1280].
    #[arg(long, allow_negative_numbers = true, value_name = "PIXELS", env = "HSG_LIVE_WIDTH")]
    pub live_width: Option<usize>,
    /// Quality of its JPEGs, 1 to 100 [default: 80].
    #[arg(long, allow_negative_numbers = true, value_name = "Q", env = "HSG_LIVE_QUALITY")]
    pub live_quality: Option<u8>,
}

/// How segments are looked up in the prototype bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BankSearchArg {
    /// Approximately where the bank has an index (`hsg bank build` makes one from 100000 prototypes on), else exactly.
    Auto,
    /// Among all prototypes.
    Exact,
    /// In the 32 lists of the index that are nearest; fewer than 1 name in 100 differ.
    Approximate,
}

/// Arguments of `hsg eval`: its own, or those of a command below it.
#[derive(Args, Clone, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  hsg eval --dataset camvid --root data/camvid --split val --model camvid-r18 --out figures\n\nA part of a large data set:\n  \
                  hsg eval --dataset kitti-step --root kitti --split val --shard 1/4 --out part1\n\n\
                  OUT gets report.html (open it first), evaluation.json, frames.jsonl (figures of each frame) and \
                  shard.json (sums, for `hsg eval merge`)."
)]
pub struct EvalArgs {
    /// Measure something else than the deployed model.
    #[command(subcommand)]
    pub command: Option<EvalCommand>,
    #[command(flatten)]
    pub dataset: DatasetArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Write the report and the figures here.
    #[arg(long, value_name = "DIR", env = "HSG_OUT")]
    pub out: Option<PathBuf>,
    /// Write into folders that hold files already; files of the same names are replaced.
    #[arg(long, env = "HSG_FORCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,
    /// Measure only part I of N, 1/N to N/N; whole sequences stay together. Needs --out; `hsg eval merge` adds the parts.
    #[arg(long, value_name = "I/N", env = "HSG_SHARD")]
    pub shard: Option<String>,
    /// Write the predictions here in the data set's own format: Cityscapes label ids, KITTI-STEP panoptic PNG, CamVid and
    /// folder class values.
    #[arg(long, value_name = "DIR", env = "HSG_SAVE_PREDICTIONS")]
    pub save_predictions: Option<PathBuf>,
    /// Cluster every frame at full resolution as well and say how far the maps agree; slow, and only with --no-track.
    #[arg(long, env = "HSG_AGAINST_REFERENCE", conflicts_with_all = ["reference", "shard"], num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub against_reference: Option<bool>,
    /// Stop after this many frames.
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_FRAMES")]
    pub frames: Option<u64>,
}

/// A kind of evaluation that needs no model.
#[derive(Clone, Debug, Subcommand)]
pub enum EvalCommand {
    /// Measure prediction files of any program, without a model.
    Files(EvalFilesArgs),
    /// Add up the parts that `hsg eval --shard` measured.
    Merge(EvalMergeArgs),
}

/// Arguments of `hsg eval merge`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg eval merge part1 part2 part3 part4 --out figures\n\n\
    The result is what one evaluation of everything gives, file by file.")]
pub struct EvalMergeArgs {
    /// The folders that `hsg eval --shard I/N --out DIR` wrote, all N of them, in any order.
    #[arg(value_name = "DIR", required = true)]
    pub parts: Vec<PathBuf>,
    /// Write the report and the figures here.
    #[arg(long, value_name = "DIR", env = "HSG_OUT")]
    pub out: Option<PathBuf>,
    /// Write into a folder that holds files already; files of the same names are replaced.
    #[arg(long, env = "HSG_FORCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,
}

/// Arguments of `hsg eval files`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg eval files --dataset cityscapes --truth gtFine/val --prediction results\n\n\
    Both folders are searched with their subfolders.\n\
    cityscapes: CITY_SEQ_FRAME*.png belongs to CITY_SEQ_FRAME_gtFine_labelIds.png; label ids, 8 bits.\n  \
    With *_instanceIds.png beside the truth iIoU is measured too\n\
    kitti-step: panoptic maps SEQUENCE/FRAME.png, R = train id, 256 G + B = instance id; whole sequences\n\
    camvid, folder: class maps under the same relative paths, 8 bits; for a folder the values are those of\n  \
    classes.toml; 255 is no class\n\
    bsds: contour maps against several annotators\n  \
    truth       ID_segN.png  regions of annotator N, a label per pixel, 8 or 16 bits\n              \
    ID_bndN.png  boundaries of annotator N, not 0 (from the regions where it is missing)\n  \
    prediction  ID_ucm2.png  contour map on the doubled grid, 2h+1 rows of 2w+1, 16 bits\n              \
    ID.ucm.png   or of the image's size, 16 bits")]
pub struct EvalFilesArgs {
    /// Kind of data set: cityscapes, kitti-step, camvid, folder, bsds.
    #[arg(long, value_name = "NAME", env = "HSG_DATASET")]
    pub dataset: Option<String>,
    /// Folder of what is right.
    #[arg(long, value_name = "DIR", env = "HSG_TRUTH")]
    pub truth: Option<PathBuf>,
    /// Folder of what is to be measured.
    #[arg(long, value_name = "DIR", env = "HSG_PREDICTION")]
    pub prediction: Option<PathBuf>,
    /// Exit with code 1 when something in the truth has no prediction.
    #[arg(long, env = "HSG_COMPLETE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub complete: Option<bool>,
    /// Predictions for cityscapes hold train ids 0–18 and 255 instead of label ids.
    #[arg(long, env = "HSG_TRAIN_IDS", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub train_ids: Option<bool>,
    /// Classes of a folder [default: classes.toml in the folder of the truth or one above it].
    #[arg(long, value_name = "FILE", env = "HSG_CLASSES")]
    pub classes: Option<PathBuf>,
    /// Number of thresholds of bsds, evenly between 0 and 1 [default: 99].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_THRESHOLDS")]
    pub thresholds: Option<usize>,
    /// Write evaluation.json here.
    #[arg(long, value_name = "DIR", env = "HSG_OUT")]
    pub out: Option<PathBuf>,
    /// Write into a folder that holds files already; evaluation.json is replaced.
    #[arg(long, env = "HSG_FORCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,
}

/// Arguments of `hsg bank`.
#[derive(Args, Clone, Debug)]
pub struct BankArgs {
    /// What to do with the bank.
    #[command(subcommand)]
    pub command: BankCommand,
}

/// A command on banks.
#[derive(Clone, Debug, Subcommand)]
pub enum BankCommand {
    /// Make the bank of a model from labelled images, with the deployed network and clustering.
    Build(BankBuildArgs),
    /// Name segments of a frame by pointing at them: this machine knows the names from then on.
    Add(BankAddArgs),
    /// Say which names there are, and where those of yours came from.
    List(BankListArgs),
    /// Give a name of yours another.
    Rename(BankRenameArgs),
    /// Remove names of yours.
    Remove(BankRemoveArgs),
}

/// Arguments of `hsg bank add`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg bank add drive.mp4 --frame 120 --at 640,80 --at 90,60 --name sky\n\n\
    Look at the segments first (`hsg run drive.mp4`, hsg-out/overlay), and with --dry-run --preview picture.png at those that\n\
    would be named. Points are pixels of the source. The frame is segmented by itself, as with `hsg run --no-track`.\n\
    NAME is a class of the model or any other. What is named is kept in $HSG_STATE/banks and used by `hsg run` and `hsg bench`\n\
    with this model; --no-user-bank leaves it out. The same segment named again takes the new name.")]
pub struct BankAddArgs {
    /// Image, folder of images, video file, or another SOURCE of `hsg run`.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// A pixel of the segment, from the upper left corner; repeat it for more segments.
    #[arg(long = "at", value_name = "X,Y", required = true)]
    pub at: Vec<String>,
    /// What they are.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// 0 = the finest segments at the points; 1 and more = all of those in the groups at the points.
    #[arg(long, value_name = "L", default_value_t = 0)]
    pub level: usize,
    /// Index of the frame in its source, from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub frame: u64,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Write the frame with the segments outlined.
    #[arg(long, value_name = "FILE.png")]
    pub preview: Option<PathBuf>,
    /// Say what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `hsg bank list`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg bank list --model camvid-r18")]
pub struct BankListArgs {
    /// Model folder, or the name of one under models/zoo or $HSG_MODELS [default: camvid-r18].
    #[arg(long, value_name = "M", env = "HSG_MODEL")]
    pub model: Option<String>,
}

/// Arguments of `hsg bank rename`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg bank rename forklift truck")]
pub struct BankRenameArgs {
    /// A name of yours.
    #[arg(value_name = "OLD")]
    pub old: String,
    /// What it is to be: a class of the model or any other name.
    #[arg(value_name = "NEW")]
    pub new: String,
    /// Model folder, or the name of one under models/zoo or $HSG_MODELS [default: camvid-r18].
    #[arg(long, value_name = "M", env = "HSG_MODEL")]
    pub model: Option<String>,
}

/// Arguments of `hsg bank remove`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg bank remove forklift\n  hsg bank remove --entry 3")]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct BankRemoveArgs {
    /// A name of yours, with all its entries.
    #[arg(value_name = "NAME", group = "what")]
    pub name: Option<String>,
    /// One entry, by its number in `hsg bank list`.
    #[arg(long, value_name = "N", group = "what")]
    pub entry: Option<u32>,
    /// Everything that you named, also where the file is damaged.
    #[arg(long, group = "what")]
    pub all: bool,
    /// Model folder, or the name of one under models/zoo or $HSG_MODELS [default: camvid-r18].
    #[arg(long, value_name = "M", env = "HSG_MODEL")]
    pub model: Option<String>,
}

/// Arguments of `hsg bank build`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  hsg bank build --dataset camvid --root data/camvid --split train --model runs/model"
)]
pub struct BankBuildArgs {
    #[command(flatten)]
    pub dataset: DatasetArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Write the model with its bank here instead of replacing M; must be new or empty.
    #[arg(long, value_name = "DIR", env = "HSG_OUT")]
    pub out: Option<PathBuf>,
    /// Replace a model folder that is there already.
    #[arg(long, env = "HSG_FORCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,
    /// How prototypes are stored [default: int8].
    #[arg(long, value_name = "TYPE", env = "HSG_STORAGE")]
    pub storage: Option<StorageArg>,
    /// Cluster at full resolution.
    #[arg(long, env = "HSG_REFERENCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub reference: Option<bool>,
    /// Stop after this many images.
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_FRAMES")]
    pub frames: Option<u64>,
}

/// How prototypes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StorageArg {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers with one scale per prototype.
    Int8,
}

/// Arguments of `hsg bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg bench drive.mp4 --model camvid-r18 --frames 500")]
pub struct BenchArgs {
    /// Folder of images, video file or MCAP recording; played again and again.
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Frames to measure [default: 200].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_FRAMES")]
    pub frames: Option<u64>,
    /// Do without the names that were given with `hsg bank add`.
    #[arg(long, env = "HSG_NO_USER_BANK", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub no_user_bank: Option<bool>,
    /// Play at this rate and drop what is too late, instead of as fast as possible.
    #[arg(long, allow_negative_numbers = true, value_name = "HZ", env = "HSG_RATE")]
    pub rate: Option<f64>,
    /// Latency that frames should keep: later ones are computed with less care, step by step.
    #[arg(long, allow_negative_numbers = true, value_name = "T", env = "HSG_DEADLINE_MILLIS")]
    pub deadline_millis: Option<f64>,
}

/// Arguments of `hsg inspect`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  hsg inspect camvid-r18\n  hsg inspect models/zoo/camvid-r18/embedding.fp32.onnx\n  \
                  hsg inspect hsg-out/frames.hsg"
)]
pub struct InspectArgs {
    /// Model folder or name, .onnx file, engine file, bank file, file of names given by hand, frames.hsg, or an MCAP recording.
    #[arg(value_name = "M|ENGINE|FILE")]
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        use clap::CommandFactory as _;
        /// `name`: the command as it is typed.
        fn check(command: &mut clap::Command, name: &str) {
            // What only groups other commands has no example of its own.
            if !command.is_subcommand_required_set() {
                let help = command.render_long_help().to_string();
                assert!(help.contains("Example:") && help.contains(&format!("  {name} ")), "{name}: {help}");
            }
            for subcommand in command.get_subcommands_mut().filter(|c| c.get_name() != "help") {
                let name = format!("{name} {}", subcommand.get_name());
                check(subcommand, &name);
            }
        }
        check(&mut Cli::command(), "hsg");
    }
}
