//! `cargo xtask gpu-pack` and `gpu-check`: what can only be verified on a GPU, by one command on a machine that has nothing
//! but a driver and a Python with PyTorch: no Rust, no network.
//!
//! The pack is a folder in the repository that git ignores: built programs, a copy of CamVid's training images and their
//! edge segments. The machine gets the tracked files and the pack, and runs `gpu-pack/xtask gpu-check` in the
//! repository's root.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::libtorch;
use crate::process::{cargo, program, workspace};

/// Folder of the pack, below the workspace; git ignores it.
const PACK: &str = "gpu-pack";
/// What one transfer takes, tracked files included.
const TRANSFER_BYTES: u64 = 64 << 20;
/// Most transfers that a session with a GPU is worth.
const MOST_TRANSFERS: u64 = 10;
/// What building an engine takes of TensorRT 8.6.0 (the wheel of `cargo xtask deps tensorrt`): bytes, and bytes after `xz -6`, so
/// that half an hour of compressing need not be repeated while the version stays.
const TENSORRT: [(&str, u64, u64); 3] = [
    ("libnvinfer.so.8", 235_184_720, 61_808_548),
    ("libnvinfer_builder_resource.so.8.6.0", 990_844_368, 407_453_344),
    ("libnvonnxparser.so.8", 2_868_632, 715_232),
];
/// Suites of libtorch that run on the device that HSG_TEST_DEVICE names.
const SUITES: [&str; 2] = ["golden_torch", "training_step"];
/// The program that checks and times the kernels.
const KERNELS: &str = "gpu-kernels";
/// Where the libraries of a Python with PyTorch are, one folder a line; the first is torch itself.
const TORCH_FOLDERS: &str = "
import pathlib, torch
place = pathlib.Path(torch.__file__).parent
print(place)
print(place / 'lib')
for folder in sorted({library.parent for library in (place.parent / 'nvidia').glob('**/*.so*')}):
    print(folder)
";

/// What goes into the pack.
#[derive(Args)]
pub struct PackOptions {
    /// CamVid's folder, for the training check; without it that check is left out
    #[arg(long, value_name = "FOLDER")]
    camvid: Option<PathBuf>,
    /// Edge segments of CamVid's train split that exist already [default: made now, minutes]
    #[arg(long, value_name = "FOLDER", requires = "camvid")]
    edges: Option<PathBuf>,
    /// Pack nothing: say how many transfers TensorRT 8.6's libraries would take
    #[arg(long, conflicts_with = "camvid")]
    tensorrt: bool,
}

/// A check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The golden numbers of the training step, on the GPU in fp32.
    Golden,
    /// Our CUDA kernels against their oracles, under compute-sanitizer, and timed.
    Kernels,
    /// A short training run on CamVid with evaluation, checkpoint, resumption and export.
    Train,
    /// The training step beside the same in plain PyTorch.
    Bench,
}

/// What is checked.
#[derive(Args)]
pub struct CheckOptions {
    /// Checks to run
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Golden, Part::Kernels, Part::Train, Part::Bench])]
    parts: Vec<Part>,
    /// Presets of the timed training step, and images a step
    #[arg(long, value_delimiter = ',', default_values_t = ["camvid:16".to_owned(), "cityscapes:32".to_owned()])]
    presets: Vec<String>,
    /// Steps measured for each
    #[arg(long, default_value_t = 15)]
    steps: u32,
    /// Time the step with PyTorch's default attention and through torch.compile as well
    #[arg(long)]
    all_peers: bool,
    /// Python with PyTorch for CUDA
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Where logs and figures go
    #[arg(long, value_name = "FOLDER", default_value = "gpu-results")]
    out: PathBuf,
}

/// Builds everything and puts it into the pack's folder.
pub fn pack(options: &PackOptions) -> Result<()> {
    ensure!(cfg!(all(target_arch = "x86_64", target_os = "linux")), "packs are for x86-64 Linux");
    if options.tensorrt {
        return say_tensorrt_transfers();
    }
    libtorch::ensure()?;
    let metadata = crate::arrows::metadata()?;
    let target = PathBuf::from(metadata["target_directory"].as_str().context("no target folder")?);
    let pack = workspace().join(PACK);
    fs::remove_dir_all(&pack).ok();
    fs::create_dir_all(&pack).with_context(|| format!("could not create {}", pack.display()))?;
    cargo()
        .args([
            "build",
            "--release",
            "-p",
            "trainer",
            "-p",
            "xtask",
            "-p",
            "tests",
            "--features",
            "tests/torch",
            "--bins",
        ])
        .run("build the programs")?;
    add_program(&target.join("release/hsg-train"), &pack.join("hsg-train"))?;
    // The one that unpacks the others.
    program("strip").arg("-o").arg(pack.join("xtask")).arg(target.join("release/xtask")).run("strip a program")?;
    for suite in SUITES {
        add_program(&suite_program(suite)?, &pack.join(suite))?;
    }
    cargo()
        .args(["build", "--release", "-p", "runtime", "--features", "cuda", "--bin", KERNELS])
        .run("build the check of the kernels")?;
    add_program(&target.join("release").join(KERNELS), &pack.join(KERNELS))?;
    if let Some(camvid) = &options.camvid {
        let images = pack.join("camvid");
        program(target.join("release/camvid-jpeg")).arg(absolute(camvid)?).arg(&images).run("copy CamVid")?;
        let edges = pack.join("camvid-edges");
        match &options.edges {
            Some(made) => program("cp").arg("-r").arg(absolute(made)?).arg(&edges).run("copy the edge segments")?,
            None => program(target.join("release/hsg-train"))
                .args(["edges", "--dataset", "camvid", "--split", "train", "--detector", "pmi", "--level", "fast"])
                .args(["--max-regions", "128", "--root"])
                .arg(absolute(camvid)?)
                .arg("--out")
                .arg(&edges)
                .run("over-segment CamVid")?,
        }
    }
    let (tracked, packed) = (tracked_bytes()?, folder_bytes(&pack)?);
    println!(
        "{}: {:.1} MiB, beside {:.1} MiB of tracked files; one transfer takes {:.0} MiB",
        pack.display(),
        mib(packed),
        mib(tracked),
        mib(TRANSFER_BYTES)
    );
    ensure!(tracked + packed <= TRANSFER_BYTES, "too large for one transfer: leave --camvid out");
    println!("on the GPU machine, in the repository's root: {PACK}/xtask gpu-check");
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// TensorRT's libraries in pieces: the tracked files travel every time, the pack with the first piece.
fn say_tensorrt_transfers() -> Result<()> {
    let place = workspace().join(".deps/tensorrt/8.6");
    for (name, bytes, packed) in TENSORRT {
        let there = fs::metadata(place.join(name)).map(|file| file.len());
        ensure!(
            there.as_ref().is_ok_and(|&there| there == bytes) || there.is_err(),
            "{} is not of TensorRT 8.6.0: measure again what `xz -6` makes of it (xtask/src/gpu.rs)",
            place.join(name).display()
        );
        let note = if there.is_ok() { "" } else { "; not in .deps/tensorrt" };
        println!("{name}: {:.1} MiB, {:.1} MiB by xz -6{note}", mib(bytes), mib(packed));
    }
    let tracked = tracked_bytes()?;
    let pack = workspace().join(PACK);
    let programs = if pack.is_dir() { folder_bytes(&pack)? } else { 0 };
    let total = TENSORRT.iter().map(|(_, _, packed)| packed).sum();
    let Some(transfers) = transfers(total, tracked, programs) else {
        bail!("{:.1} MiB of tracked files and {:.1} MiB in {PACK} leave no room", mib(tracked), mib(programs));
    };
    println!(
        "{:.1} MiB in transfers of {:.0} MiB, of which {:.1} MiB are tracked files, and {:.1} MiB of the first {PACK}: {transfers} \
         transfers; {MOST_TRANSFERS} at most are worth it: it {}",
        mib(total),
        mib(TRANSFER_BYTES),
        mib(tracked),
        mib(programs),
        if transfers <= MOST_TRANSFERS { "fits" } else { "does not fit" }
    );
    Ok(())
}

/// Transfers for `total` bytes, when `each` bytes travel every time and `first` more in the first; `None` if nothing else
/// finds room then.
fn transfers(total: u64, each: u64, first: u64) -> Option<u64> {
    let room = TRANSFER_BYTES.checked_sub(each).filter(|&room| room > 0)?;
    let left = total.saturating_sub(room.checked_sub(first)?);
    Some(1 + left.div_ceil(room))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("could not find {}", path.display()))
}

/// A copy without debug information, compressed: the tree that travels is near its limit.
fn add_program(built: &Path, to: &Path) -> Result<()> {
    program("strip").arg("-o").arg(to).arg(built).run("strip a program")?;
    program("gzip").arg("-9").arg(to).run("compress a program")
}

/// The program that cargo makes of a suite.
fn suite_program(suite: &str) -> Result<PathBuf> {
    let messages = cargo()
        .args(["test", "--release", "-p", "tests", "--features", "torch", "--test", suite, "--no-run"])
        .args(["--message-format", "json"])
        .output("build a suite")?;
    let mut found = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = found.find_map(|message| {
        let is_suite = message["target"]["name"] == suite && message["profile"]["test"] == true;
        is_suite.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    found.with_context(|| format!("cargo names no program of the suite {suite}"))
}

fn tracked_bytes() -> Result<u64> {
    let files = program("git").args(["ls-files", "-z"]).output("list the tracked files")?;
    Ok(files.split('\0').filter_map(|name| fs::metadata(workspace().join(name)).ok()).map(|file| file.len()).sum())
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// How a check ended.
struct Outcome {
    what: String,
    passed: bool,
    seconds: f64,
    log: PathBuf,
}

/// The checks under way.
struct Checks {
    pack: PathBuf,
    out: PathBuf,
    /// What our programs need to find libtorch with CUDA.
    environment: Vec<(&'static str, OsString)>,
    outcomes: Vec<Outcome>,
}

/// Runs the checks; one that fails does not keep the others from running.
pub fn check(options: &CheckOptions) -> Result<()> {
    let pack = workspace().join(PACK);
    unpack(&pack)?;
    ensure!(pack.join("hsg-train").is_file(), "{} is missing: make it with `cargo xtask gpu-pack`", pack.display());
    fs::create_dir_all(&options.out).with_context(|| format!("could not create {}", options.out.display()))?;
    let environment = torch_environment(&options.python)?;
    let mut checks = Checks { pack, out: absolute(&options.out)?, environment, outcomes: Vec::new() };
    let gpu = program("nvidia-smi")
        .args(["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
        .output("ask for the GPU")?;
    println!("GPU: {}", gpu.trim());
    for part in &options.parts {
        match part {
            Part::Golden => checks.golden(),
            Part::Kernels => checks.kernels(),
            Part::Train => checks.train(),
            Part::Bench => options.presets.iter().for_each(|preset| checks.bench(preset, options)),
        }
    }
    checks.close(gpu.trim())
}

/// Makes the pack's programs ready to run; those that are already stay.
fn unpack(pack: &Path) -> Result<()> {
    for entry in fs::read_dir(pack).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "gz") {
            program("gzip").arg("-df").arg(&path).run("unpack a program")?;
            let path = path.with_extension("");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// LIBTORCH and LD_LIBRARY_PATH of the Python's torch.
fn torch_environment(python: &Path) -> Result<Vec<(&'static str, OsString)>> {
    let folders = program(python).args(["-c", TORCH_FOLDERS]).output("find PyTorch")?;
    let mut folders = folders.lines();
    let torch = folders.next().context("Python's torch has no folder")?;
    let libraries: Vec<&str> = folders.collect();
    Ok(vec![("LIBTORCH", torch.into()), ("LD_LIBRARY_PATH", libraries.join(":").into())])
}

impl Checks {
    fn golden(&mut self) {
        for suite in SUITES {
            let mut command = self.command(suite);
            // tf32, which convolutions would use, has ten bits.
            command.env("HSG_TEST_DEVICE", "cuda").env("NVIDIA_TF32_OVERRIDE", "0").arg("--nocapture");
            self.run(&format!("{suite} on the GPU"), suite, command);
        }
    }

    fn kernels(&mut self) {
        let kernels = self.pack.join(KERNELS);
        for tool in ["memcheck", "racecheck", "synccheck"] {
            let mut command = Command::new("compute-sanitizer");
            command.args(["--tool", tool, "--error-exitcode", "3"]).arg(&kernels).arg("--small");
            self.run(&format!("kernels under {tool}"), &format!("kernels-{tool}"), command);
        }
        let mut command = Command::new(&kernels);
        command.arg("--json").arg(self.out.join("kernels.json"));
        self.run("kernels", "kernels", command);
    }

    fn train(&mut self) {
        let data = self.pack.join("camvid");
        if !data.is_dir() {
            println!("not yet run: training on CamVid; it is not in the pack");
            return;
        }
        let run = workspace().join("gpu-results/run");
        fs::remove_dir_all(&run).ok();
        let train = |checks: &Checks, steps: &str| {
            let mut command = checks.command("hsg-train");
            command.args(["train", "--device", "cuda", "--steps", steps, "--root"]).arg(&data).arg("--edges");
            command.arg(checks.pack.join("camvid-edges")).arg("--config").arg(checks.out.join("train.toml"));
            command.arg("--out").arg(&run);
            command
        };
        if let Err(error) = self.write_training_settings() {
            eprintln!("error: {error:#}");
        }
        let first = train(self, "40");
        self.run("40 training steps, pictures, evaluation", "train", first);
        let mut second = train(self, "60");
        second.arg("--resume");
        self.run("20 more from the checkpoint", "train-resumed", second);
        let mut export = self.command("hsg-train");
        export.arg("export").arg(&run).arg("--out").arg(run.with_extension("model")).arg("--force");
        self.run("export", "train-export", export);
        fs::copy(run.join("metrics.jsonl"), self.out.join("train-metrics.jsonl")).ok();
    }

    /// The preset `camvid` at half width, with everything that a long run does within sixty steps.
    fn write_training_settings(&self) -> Result<()> {
        let mut settings = preset("camvid")?;
        set(&mut settings, "network", "width_factor", 0.5.into())?;
        set(&mut settings, "run", "pictures_every", 20.into())?;
        set(&mut settings, "run", "checkpoint_every", 20.into())?;
        set(&mut settings, "evaluation", "every", 40.into())?;
        set(&mut settings, "evaluation", "bank_images", 40.into())?;
        set(&mut settings, "evaluation", "images", 10.into())?;
        let path = self.out.join("train.toml");
        fs::write(&path, settings.to_string()).with_context(|| path.display().to_string())
    }

    fn bench(&mut self, preset: &str, options: &CheckOptions) {
        let (name, images) = preset.split_once(':').unwrap_or((preset, "16"));
        let mut command = self.command("xtask");
        command.args(["bench-train", "--device", "cuda", "--crops", "448", "--preset", name, "--images", images]);
        command.args(["--steps", &options.steps.to_string()]).arg("--program").arg(self.pack.join("hsg-train"));
        command.arg("--python").arg(&options.python).arg("--save").arg(self.out.join(format!("bench-{name}.json")));
        if options.all_peers {
            command.arg("--all-peers");
        }
        self.run(&format!("training step of {name}, {images} images"), &format!("bench-{name}"), command);
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.pack.join(name));
        command.envs(self.environment.iter().map(|(name, value)| (*name, value))).current_dir(workspace());
        command
    }

    /// Runs a check with its output in a file, whose end is printed.
    fn run(&mut self, what: &str, log: &str, mut command: Command) {
        let path = self.out.join(format!("{log}.log"));
        let started = Instant::now();
        let passed = match File::create(&path).and_then(|file| Ok((file.try_clone()?, file))) {
            Ok((out, err)) => {
                let status = command.stdin(Stdio::null()).stdout(out).stderr(err).status();
                status.map_err(|error| eprintln!("{what}: {error}")).is_ok_and(|status| status.success())
            }
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                false
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        println!("\n{} {what} ({seconds:.1} s)", if passed { "passed" } else { "FAILED" });
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let most = if passed { 12 } else { 40 };
        lines.iter().skip(lines.len().saturating_sub(most)).for_each(|line| println!("    {line}"));
        self.outcomes.push(Outcome { what: what.to_owned(), passed, seconds, log: path });
    }

    fn close(self, gpu: &str) -> Result<()> {
        let rows = self.outcomes.iter().map(|outcome| {
            json!({ "check": outcome.what, "passed": outcome.passed, "seconds": outcome.seconds,
                    "log": outcome.log.file_name().map(|name| name.to_string_lossy().into_owned()) })
        });
        let summary = json!({ "gpu": gpu, "checks": rows.collect::<Vec<_>>() });
        let path = self.out.join("summary.json");
        fs::write(&path, serde_json::to_string_pretty(&summary)?).with_context(|| path.display().to_string())?;
        println!();
        for Outcome { what, passed, seconds, .. } in &self.outcomes {
            println!("{:<7}{seconds:>7.1} s  {what}", if *passed { "passed" } else { "FAILED" });
        }
        let failed = self.outcomes.iter().filter(|outcome| !outcome.passed).count();
        if failed > 0 {
            bail!("{failed} checks failed; their logs are in {}", self.out.display());
        }
        Ok(())
    }
}

fn preset(name: &str) -> Result<toml::Table> {
    let path = workspace().join(format!("trainer/configs/{name}.toml"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.parse().with_context(|| path.display().to_string())
}

fn set(settings: &mut toml::Table, section: &str, key: &str, value: toml::Value) -> Result<()> {
    let section = settings.get_mut(section).and_then(toml::Value::as_table_mut);
    section.with_context(|| format!("the preset has no section for `{key}`"))?.insert(key.into(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transfer_carries_the_tracked_files_too() {
        let mib = 1 << 20;
        assert_eq!(transfers(10 * mib, 34 * mib, 20 * mib), Some(1));
        assert_eq!(transfers(11 * mib, 34 * mib, 20 * mib), Some(2));
        assert_eq!(transfers(100 * mib, 34 * mib, 0), Some(4));
        assert_eq!(transfers(mib, TRANSFER_BYTES, 0), None);
        assert_eq!(transfers(mib, 34 * mib, 31 * mib), None);
    }
}
