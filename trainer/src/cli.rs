//! What was typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::settings::{EdgeScale, LossTerm};

/// Learns label-free hierarchical segmentation (HSG) from street images and exports model folders.
#[derive(Parser, Debug)]
#[command(
    name = "hsg-train",
    version,
    after_help = "Exit codes: 0 done, 1 some images could not be read and were left out, 2 could not run, 130 / 143 interrupted by Ctrl-C / SIGTERM (files whole)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Over-segment the images of a data set (`train` does it by itself when no --edges is given)
    #[command(
        after_help = "Examples:\n  hsg-train edges --dataset camvid --root data/camvid --split train --out edges\n  \
                      hsg-train edges --dataset folder --root drives --split . --detector fast --preview --out edges\n  \
                      hsg-train edges --import pmi_0.05 --out edges\n\nImages whose files are there already are kept; a \
                      run that was interrupted or killed goes on with the same command."
    )]
    Edges(EdgesArgs),
    /// Learn
    #[command(
        after_help = "Example: hsg-train train --preset camvid-cpu --root data/camvid --out runs/camvid --seed 1"
    )]
    Train(TrainArgs),
    /// Name labelled images with a run's checkpoint: mIoU and accuracy by label retrieval
    #[command(after_help = "Example: hsg-train evaluate runs/camvid --root data/camvid --split test --all")]
    Evaluate(EvaluateArgs),
    /// Make a run folder of a checkpoint that another program wrote: the authors' published ones, or safetensors
    #[command(after_help = "Examples:\n  hsg-train import model-59999.pth --out runs/published\n  \
                      hsg-train export runs/published --out models/published\n\nFILE is what torch.save writes (both of \
                      its formats) or a safetensors file. Names are the authors'; what stands before them (`module.`, \
                      `embedding_model.`) is taken off, what the network has no place for is left out and listed. \
                      Nothing in FILE is ever executed.")]
    Import(ImportArgs),
    /// Write the model folder of a run's last checkpoint
    #[command(after_help = "Example: hsg-train export runs/camvid --out models/zoo/camvid-r18")]
    Export(ExportArgs),
}

/// Options of every command.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// One JSON document on stdout, nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no closing line
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// More messages (repeat for even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Threads; 0 = all cores
    #[arg(long, global = true, env = "HSG_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Settings file: everything for `train` and `import`, what is not typed for `edges`, the section [export] for `export`
    #[arg(long, global = true, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Print the resolved settings and stop
    #[arg(long, global = true)]
    pub show_settings: bool,
}

/// `hsg-train edges`
#[derive(Args, Debug)]
pub struct EdgesArgs {
    /// cityscapes, kitti-step, camvid or folder
    #[arg(long)]
    pub dataset: Option<String>,
    /// Folder of the data set
    #[arg(long, env = "HSG_ROOT")]
    pub root: Option<PathBuf>,
    /// Part of the data set
    #[arg(long)]
    pub split: Option<String>,
    /// Where the region maps go: OUT/<image path relative to the split>.png
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Only these drives or sequences
    #[arg(long, value_delimiter = ',')]
    pub sequences: Vec<String>,
    /// pmi (as the paper; the default), fast (a whole data set in minutes) or gradient (one scale, no hierarchy)
    #[arg(long)]
    pub detector: Option<String>,
    /// Of pmi: accurate (as the paper; the default) or fast (a fraction of the time)
    #[arg(long)]
    pub level: Option<String>,
    /// What strengths are compared with [default: image]
    #[arg(long, value_enum)]
    pub scale: Option<EdgeScale>,
    /// Fewer regions than this an image [default: 1024]
    #[arg(long)]
    pub max_regions: Option<usize>,
    /// Seed of what pmi and fast draw at random, the same for every image [default: 1]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Also write <name>.ucm.png: the strength of the contours, 16-bit grey, value / 65535
    #[arg(long)]
    pub ucm: bool,
    /// Take region maps that exist (PNG, 8- or 16-bit grey) instead of making them; with --dataset, --root and --split
    /// they are compared with the images
    #[arg(long, value_name = "DIR", conflicts_with_all = ["detector", "level", "scale", "max_regions", "seed", "ucm", "preview"])]
    pub import: Option<PathBuf>,
    /// Also write <name>.preview.png: the image with region borders
    #[arg(long)]
    pub preview: bool,
}

/// `hsg-train train`
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// Settings that are part of the program: cityscapes, kitti-step, camvid, camvid-cpu, own-drives, own-drives-cpu,
    /// published; with --config those keys of it that the file does not have
    #[arg(long)]
    pub preset: Option<String>,
    /// Folder of the data set
    #[arg(long, env = "HSG_ROOT")]
    pub root: Option<PathBuf>,
    /// Folder of region maps; without it the preset's detector runs once, into the cache
    #[arg(long, env = "HSG_EDGES")]
    pub edges: Option<PathBuf>,
    /// Only these drives or sequences
    #[arg(long, value_delimiter = ',')]
    pub sequences: Vec<String>,
    /// Run folder
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Steps of the whole run; 0 writes the seeded untrained network
    #[arg(long, env = "HSG_STEPS")]
    pub steps: Option<usize>,
    /// Seed of weights, order, augmentations and dropout
    #[arg(long, env = "HSG_SEED")]
    pub seed: Option<u64>,
    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, env = "HSG_DEVICE")]
    pub device: Option<String>,
    /// Train on so many GPUs of this machine, a process each (cargo feature nccl); see docs/parallel.md
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 1)]
    pub gpus: usize,
    /// Of the embedding network: auto (bf16 on a GPU), fp32 or bf16
    #[arg(long)]
    pub precision: Option<String>,
    /// Terms of the loss that stay, as in the paper's Table 3 [default: all that the settings weigh]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub losses: Vec<LossTerm>,
    /// Views of each image
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub views: Option<usize>,
    /// Go on from the run folder's last checkpoint (from step 0 if there is none)
    #[arg(long)]
    pub resume: bool,
    /// Measure N steps (medians per part, ratio to the backbone's forward pass), write nothing
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub profile: Option<usize>,
}

/// `hsg-train evaluate`
#[derive(Args, Debug)]
pub struct EvaluateArgs {
    /// Run folder
    pub run: PathBuf,
    /// Folder of the data set [default: where the run learned from]
    #[arg(long, env = "HSG_ROOT")]
    pub root: Option<PathBuf>,
    /// Split that is named [default: that of the settings]
    #[arg(long)]
    pub split: Option<String>,
    /// All images of both splits instead of the settings' numbers
    #[arg(long)]
    pub all: bool,
    /// The best checkpoint instead of the last
    #[arg(long)]
    pub best: bool,
    /// auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, env = "HSG_DEVICE")]
    pub device: Option<String>,
}

/// `hsg-train import`
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Checkpoint: .pth, .pt or .safetensors
    pub file: PathBuf,
    /// Run folder
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Settings that are part of the program, network included: published or camvid-cpu. Without --preset and --config
    /// the network is read off the file, and all other settings are those of `published`
    #[arg(long, conflicts_with = "config")]
    pub preset: Option<String>,
}

/// `hsg-train export`
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Run folder
    pub run: PathBuf,
    /// Model folder to write
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The best checkpoint (by mIoU where there were labels, else by loss) instead of the last
    #[arg(long)]
    pub best: bool,
    /// Name of the model; the folder's name by default
    #[arg(long)]
    pub name: Option<String>,
    /// Licence of the training frames, instead of that of the settings
    #[arg(long, value_name = "TEXT")]
    pub license: Option<String>,
    /// Use this file as CARD.md instead of the generated card
    #[arg(long, value_name = "FILE.md")]
    pub card: Option<PathBuf>,
    /// Replace an existing model folder
    #[arg(long)]
    pub force: bool,
}
