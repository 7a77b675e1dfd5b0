//! `cargo xtask bench-train`: where the time of a training step goes, at several crops, and the same step in plain
//! PyTorch beside it where Python has a `torch`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::libtorch;
use crate::process::{Program, cargo, program, workspace};

/// The step in plain PyTorch, written from the same specification.
const REFERENCE: &str = "tests/fixtures/training_step/reference.py";
/// Frames to learn from: the shipped clip, so that it runs anywhere.
const CLIPS: &str = "assets/clips";

/// Ways to run the step in PyTorch: on a GPU all have bf16 autocast and channels innermost in memory, as ours.
const PEERS: [(&str, &[&str]); 3] = [
    ("PyTorch", &[]),
    // Its default for attention in bf16, which is slow where the number of tokens changes from step to step.
    ("cuDNN attention", &["--cudnn-attention"]),
    ("torch.compile", &["--compile"]),
];

/// One crop.
struct Row {
    crop: u32,
    ours: Value,
    /// By the name of the way.
    theirs: Vec<(&'static str, Value)>,
}

impl Row {
    fn to_json(&self) -> Value {
        let theirs: serde_json::Map<String, Value> =
            self.theirs.iter().map(|(name, figures)| ((*name).to_owned(), figures.clone())).collect();
        serde_json::json!({ "crop": self.crop, "ours": self.ours, "theirs": theirs })
    }
}

/// What is measured.
#[derive(Args)]
pub struct Options {
    /// Preset whose network, batch and losses are used
    #[arg(long, default_value = "camvid-cpu")]
    preset: String,
    /// Pixels along each side of a view
    #[arg(long, value_delimiter = ',', default_values_t = [160, 224, 320, 448])]
    crops: Vec<u32>,
    /// Images a step [default: the preset's]
    #[arg(long)]
    images: Option<u32>,
    /// Steps measured at each crop
    #[arg(long, default_value_t = 15)]
    steps: u32,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Python with a torch, to run the step in plain PyTorch too
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Run the step in PyTorch with its default attention and through torch.compile, too (a minute more at each crop)
    #[arg(long)]
    all_peers: bool,
    /// Write all figures to this file as JSON, too
    #[arg(long, value_name = "FILE.json")]
    save: Option<PathBuf>,
    /// A built hsg-train, for machines without Rust; nothing is built or fetched then
    #[arg(long, value_name = "HSG_TRAIN")]
    program: Option<PathBuf>,
}

/// Measures and prints two tables.
pub fn run(options: &Options) -> Result<()> {
    let (trainer, folder) = match &options.program {
        Some(trainer) => (trainer.clone(), workspace().join("gpu-results/bench-train")),
        None => {
            libtorch::ensure()?;
            cargo().args(["build", "--release", "-p", "trainer"]).run("build the trainer")?;
            let metadata = crate::arrows::metadata()?;
            let target = PathBuf::from(metadata["target_directory"].as_str().context("no target folder")?);
            (target.join("release/hsg-train"), target.join("bench-train"))
        }
    };
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    let edges = folder.join("edges");
    let first = folder.join("edges.toml");
    fs::write(&first, settings_of(options, options.crops.first().copied().unwrap_or(224))?)
        .with_context(|| first.display().to_string())?;
    hsg_train(&trainer)
        .args(["edges", "--root", CLIPS, "--detector", "fast", "--quiet", "--out"])
        .arg(&edges)
        .arg("--config")
        .arg(&first)
        .run("over-segment the shipped clip")?;
    let peer = has_torch(&options.python)?;
    let mut rows = Vec::new();
    for &crop in &options.crops {
        let settings = folder.join(format!("{crop}.toml"));
        fs::write(&settings, settings_of(options, crop)?).with_context(|| settings.display().to_string())?;
        let steps = options.steps.to_string();
        let text = hsg_train(&trainer)
            .args(["train", "--root", CLIPS, "--json", "--profile", &steps, "--device", &options.device, "--config"])
            .arg(&settings)
            .arg("--edges")
            .arg(&edges)
            .output("measure training steps")?;
        let ours: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        let mut theirs = Vec::new();
        for (name, arguments) in
            PEERS.iter().filter(|(_, arguments)| peer && (options.all_peers || arguments.is_empty()))
        {
            match reference(options, arguments, crop, &settings, &ours) {
                Ok(figures) => theirs.push((*name, figures)),
                // Its memory grows with pixels × segments; that it does not fit is a result, too.
                Err(error) if format!("{error:#}").contains("out of memory") => {
                    println!("{name} at crop {crop}: out of memory");
                }
                Err(error) => return Err(error),
            }
        }
        rows.push(Row { crop, ours, theirs });
    }
    print(&rows, options);
    if let Some(path) = &options.save {
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        fs::write(path, serde_json::to_string_pretty(&rows)?).with_context(|| path.display().to_string())?;
    }
    if !peer {
        println!(
            "\nskipped: the same step in plain PyTorch ({REFERENCE}); {} has no torch; in a virtual environment: pip install torch==2.11.0 numpy, then --python VENV/bin/python",
            options.python.display()
        );
    }
    Ok(())
}

fn hsg_train(trainer: &Path) -> Program {
    program(trainer)
}

/// The preset with another crop and batch, learning from the shipped clip.
fn settings_of(options: &Options, crop: u32) -> Result<String> {
    let path = workspace().join(format!("trainer/configs/{}.toml", options.preset));
    let text = fs::read_to_string(&path).with_context(|| format!("no preset {}", path.display()))?;
    let mut settings: toml::Table = text.parse().with_context(|| path.display().to_string())?;
    settings.remove("evaluation");
    let data = r#"dataset = "folder"
split = "."
frames = { min_difference = 0.0 }"#;
    settings.insert("data".into(), data.parse::<toml::Table>()?.into());
    let Some(toml::Value::Table(batch)) = settings.get_mut("batch") else { bail!("{}: no [batch]", path.display()) };
    batch.insert("crop".into(), i64::from(crop).into());
    if let Some(images) = options.images {
        batch.insert("images".into(), i64::from(images).into());
    }
    Ok(settings.to_string())
}

fn has_torch(python: &Path) -> Result<bool> {
    if !workspace().join(REFERENCE).is_file() {
        bail!("{REFERENCE} is missing");
    }
    Ok(program(python).args(["-c", "import torch"]).output("look for torch").is_ok())
}

/// Medians of the step in plain PyTorch with the same sizes.
fn reference(options: &Options, arguments: &[&str], crop: u32, settings: &Path, ours: &Value) -> Result<Value> {
    let text = fs::read_to_string(settings).with_context(|| settings.display().to_string())?;
    let settings: toml::Table = text.parse()?;
    let network = &settings["network"];
    let text_of = |value: &toml::Value| value.to_string().trim_matches('"').to_owned();
    let number = |key: &str| ours[key].to_string();
    let device = if options.device == "cpu" { "cpu" } else { "cuda" };
    let line = program(&options.python)
        .args([REFERENCE, "--json", "--bench", &options.steps.to_string(), "--device", device])
        .args(["--backbone", &text_of(&network["backbone"]), "--width-factor", &text_of(&network["width_factor"])])
        .args(["--crop", &crop.to_string(), "--images", &number("images"), "--views", &number("views")])
        .args(["--threads", &number("threads")])
        .args(arguments)
        .output("measure the step in plain PyTorch")?;
    serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
}

fn print(rows: &[Row], options: &Options) {
    let Some(Row { ours: first, .. }) = rows.first() else { return };
    println!(
        "preset {}, {} images × {} views, {}, {}, {} threads; medians of {} steps in ms",
        options.preset,
        first["images"],
        first["views"],
        first["device"].as_str().unwrap_or_default(),
        first["precision"].as_str().unwrap_or_default(),
        first["threads"],
        options.steps
    );
    let stages: Vec<&String> = first["stages_millis"].as_object().map(|o| o.keys().collect()).unwrap_or_default();
    print!("{:<6}", "crop");
    stages.iter().for_each(|stage| print!("{stage:>13}"));
    println!("{:>10}{:>10}{:>12}{:>15}{:>17}", "step", "images/s", "µs/pixel", "other stages", "beyond backbone");
    for Row { crop, ours, .. } in rows {
        let number = |key: &str| ours[key].as_f64().unwrap_or(f64::NAN);
        print!("{crop:<6}");
        stages
            .iter()
            .for_each(|stage| print!("{:>13.1}", ours["stages_millis"][stage.as_str()].as_f64().unwrap_or(f64::NAN)));
        let pixels = number("images") * number("views") * f64::from(crop * crop);
        println!(
            "{:>10.1}{:>10.2}{:>12.3}{:>14.1}%{:>16.1}%",
            number("step_millis"),
            number("images_per_second"),
            1e3 * number("step_millis") / pixels,
            100.0 * number("outside_stages"),
            100.0 * number("outside_backbone")
        );
    }
    if rows.iter().all(|row| row.theirs.is_empty()) {
        return;
    }
    println!("\nbeside plain PyTorch ({REFERENCE})");
    println!(
        "{:<6}{:<17}{:>12}{:>12}{:>10}{:>16}{:>16}{:>12}",
        "crop", "", "ours", "theirs", "ratio", "beyond backbone", "the same there", "MiB there"
    );
    for Row { crop, ours, theirs } in rows {
        for (name, theirs) in theirs {
            let number = |figures: &Value, key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
            let (ours_millis, theirs_millis) = (number(ours, "step_millis"), number(theirs, "step_ms"));
            println!(
                "{crop:<6}{name:<17}{ours_millis:>9.1} ms{theirs_millis:>9.1} ms{:>10.2}{:>15.1}%{:>15.1}%{:>12.0}",
                theirs_millis / ours_millis,
                100.0 * number(ours, "outside_backbone"),
                100.0 * number(theirs, "outside_share"),
                number(theirs, "peak_memory_mib")
            );
        }
    }
}
