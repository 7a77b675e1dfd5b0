//! What was typed. `settings.rs` says what it means.
//!
//! Options may also come from the environment (`HSG_` and the option's name) and from the TOML file of `--config`, as those of
//! `hsg` (runtime/src/cli.rs).

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
pub use runtime::program::args::{BackendArg, CommonArgs, DatasetArgs};

/// Makes int8 networks that keep their accuracy, and says what they cost.
#[derive(Debug, Parser)]
#[command(
    name = "hsg-calibrate",
    version,
    after_help = "Example:\n  hsg-calibrate collect --model camvid-r18 data/camvid/train\n  \
                  hsg-calibrate quantize --model camvid-r18 data/camvid/train --out runs/int8\n  \
                  hsg-calibrate report --model runs/int8 --dataset camvid --root data/camvid --split test\n  \
                  hsg run drive.mp4 --model runs/int8 --backend onnxruntime --precision int8\n\n\
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
    /// Observe what values a model's tensors take, on frames that differ: makes calibration.json.
    Collect(CollectArgs),
    /// Make the int8 and fp16 networks of a model from such a table.
    Quantize(QuantizeArgs),
    /// Measure fp32, fp16 and int8 side by side: makes the receipt.
    Report(ReportArgs),
}

/// The model and what executes it.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model folder, or the name of one under models/zoo or $HSG_MODELS [default: camvid-r18].
    #[arg(long, value_name = "M", env = "HSG_MODEL")]
    pub model: Option<String>,
    /// What executes the networks; int8 as written, in floats, on either [default: auto].
    #[arg(long, value_name = "BACKEND", env = "HSG_BACKEND")]
    pub backend: Option<BackendArg>,
}

/// Arguments of `hsg-calibrate collect`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  hsg-calibrate collect --model camvid-r18 drive.mp4 more/images --out calibration.json\n\n\
    Tables of other machines are added with --merge, with or without sources of one's own:\n  \
    hsg-calibrate collect --model camvid-r18 --merge day.json --merge night.json --out both.json\n\n\
    A run that was killed goes on with the same command, from OUT.partial."
)]
pub struct CollectArgs {
    /// Folders of images, video files, cameras: anything that `hsg run` takes. Frames as they come on the road, never those
    /// that the model will be measured on.
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Frames to observe: those that differ most [default: 64].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_FRAMES")]
    pub frames: Option<u64>,
    /// Frames of each source to choose from, evenly over its length; of cameras one a second [default: 400].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_CANDIDATES")]
    pub candidates: Option<u64>,
    /// Add this table of the same model; repeat it for several.
    #[arg(long = "merge", value_name = "FILE", env = "HSG_MERGE")]
    pub merge: Vec<PathBuf>,
    /// The table to write [default: calibration.json].
    #[arg(long, value_name = "FILE", env = "HSG_OUT")]
    pub out: Option<PathBuf>,
}

/// Arguments of `hsg-calibrate quantize`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  hsg-calibrate quantize --model camvid-r18 drive.mp4 --table calibration.json --out runs/int8\n\n\
    Without --out the model folder itself is replaced, whole, by a rename."
)]
pub struct QuantizeArgs {
    /// Frames to measure on while methods are chosen: as for `collect`.
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The table of `collect` [default: calibration.json, then the one in the model folder].
    #[arg(long, value_name = "FILE", env = "HSG_TABLE")]
    pub table: Option<PathBuf>,
    /// Frames to measure on, evenly over the sources; half of them decide, the others check [default: 16].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_FRAMES")]
    pub frames: Option<u64>,
    /// What floats may cost to keep sensitive layers, in percent of the multiplications; values that pass between integers and
    /// floats count [default: 7.5].
    #[arg(long, allow_negative_numbers = true, value_name = "PERCENT", env = "HSG_BUDGET")]
    pub budget: Option<f64>,
    /// Leave the fp16 networks out: smaller, and `--precision fp16` is refused then.
    #[arg(long, env = "HSG_NO_FP16", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub no_fp16: Option<bool>,
    /// Write the model here instead of replacing M; must be new, empty or with --force a model folder.
    #[arg(long, value_name = "DIR", env = "HSG_OUT")]
    pub out: Option<PathBuf>,
    /// Replace a model folder that is there already.
    #[arg(long, env = "HSG_FORCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,
}

/// Arguments of `hsg-calibrate report`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  hsg-calibrate report --model runs/int8 drive.mp4 --out receipt\n\n\
    With labels: mIoU, accuracy, per class, NFCovering per level\n  \
    hsg-calibrate report --model runs/int8 --dataset camvid --root data/camvid --split test\n\n\
    The receipt goes into the model folder (receipt.int8.json), where `hsg` looks for it, and with its page into OUT. Exit \
    code 1 when a limit was missed.")]
pub struct ReportArgs {
    /// Frames without labels; videos also say how stable each form is over time, and beside --dataset only that.
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// Frames of the data set and of each source [default: all of the data set, 100 of a source].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_FRAMES")]
    pub frames: Option<u64>,
    /// Another int8 embedding network, to be measured beside ours.
    #[arg(long, value_name = "FILE.onnx", env = "HSG_COMPARE")]
    pub compare: Option<PathBuf>,
    /// Least frames, each by itself, that int8 must have been measured on [default: 20].
    #[arg(long, allow_negative_numbers = true, value_name = "N", env = "HSG_MIN_FRAMES")]
    pub min_frames: Option<u64>,
    /// Most points of mIoU that int8 may lose [default: 0.3].
    #[arg(long, allow_negative_numbers = true, value_name = "POINTS", env = "HSG_MAX_MIOU_LOSS")]
    pub max_miou_loss: Option<f64>,
    /// Most points of mIoU that fp16 may lose [default: 0.05].
    #[arg(long, allow_negative_numbers = true, value_name = "POINTS", env = "HSG_MAX_FP16_MIOU_LOSS")]
    pub max_fp16_miou_loss: Option<f64>,
    /// Least share of the pixels whose class must be that of fp32, in percent [default: 98.5].
    #[arg(long, allow_negative_numbers = true, value_name = "PERCENT", env = "HSG_MIN_AGREEMENT")]
    pub min_agreement: Option<f64>,
    /// Most disagreement of a level, in terms of what one grey level of noise does to fp32 [default: 2].
    #[arg(long, allow_negative_numbers = true, value_name = "RATIO", env = "HSG_MAX_LEVEL_RATIO")]
    pub max_level_ratio: Option<f64>,
    /// Folder for receipt.html and receipt.int8.json [default: hsg-receipt].
    #[arg(long, value_name = "DIR", env = "HSG_OUT")]
    pub out: Option<PathBuf>,
    /// Put a receipt with missed limits into the model folder even where the one there met the default limits.
    #[arg(long, env = "HSG_FORCE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_shows_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("Example:\n  hsg-calibrate {} ", command.get_name())), "{help}");
        }
    }
}
