//! `cargo xtask parity`: the measures of `hsg eval files` beside the programs whose figures they have to equal, on the same
//! files: cityscapesScripts from PyPI, and STQ in plain numpy (`tests/fixtures/stq/reference.py`); and how long both take.
//! And ONNX's own checker on every form of a network that `models::passes` makes, and ONNX Runtime's own quantiser beside ours
//! (`stock_quantizer.rs`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::process::{cargo, program, workspace};
use crate::stock_quantizer;

/// numpy 2.4 took away a function that cityscapesScripts 2.3.0 calls.
const PACKAGES: [&str; 4] = ["cityscapesScripts==2.3.0", "numpy<2.4", "pillow", "onnx==1.23.2"];
/// Both sides compute in 64 bits and add in another order.
const TOLERANCE: f64 = 1e-9;

/// How figures are compared.
#[derive(Args)]
pub struct Options {
    /// Time both sides as well, in turn, this many times each.
    #[arg(long, value_name = "RUNS", num_args = 0..=1, default_missing_value = "5")]
    time: Option<usize>,
}

/// Names of ours and of the other program's figures.
type Keys = &'static [(&'static str, &'static str)];

/// A pair of programs that measure the same.
struct Comparison {
    name: &'static str,
    dataset: &'static str,
    script: &'static str,
    /// JSON pointers; those of objects compare every figure that the object of ours has.
    keys: Keys,
}

const CITYSCAPES: Comparison = Comparison {
    name: "cityscapesScripts",
    dataset: "cityscapes",
    script: "tests/fixtures/parity/cityscapes_scripts.py",
    keys: &[
        ("/miou", "/averageScoreClasses"),
        ("/iiou", "/averageScoreInstClasses"),
        ("/category_miou", "/averageScoreCategories"),
        ("/category_iiou", "/averageScoreInstCategories"),
        ("/per_class", "/classScores"),
        ("/per_class_iiou", "/classInstScores"),
        ("/per_category", "/categoryScores"),
        ("/per_category_iiou", "/categoryInstScores"),
    ],
};

const STQ: Comparison = Comparison {
    name: "STQ in numpy",
    dataset: "kitti-step",
    script: "tests/fixtures/stq/reference.py",
    keys: &[("/stq", "/stq")],
};

/// One run of a program.
struct Run {
    figures: Value,
    /// Reading files and measuring, as the program itself says.
    inside: f64,
    /// From start to end of the process.
    whole: f64,
}

/// Compares figures, and with `--time` speeds; fails when figures differ.
pub fn run(options: &Options) -> Result<()> {
    cargo().args(["build", "--release", "-p", "runtime", "--bin", "hsg"]).run("build hsg")?;
    let deps = workspace().join(".deps");
    let python = python(&deps.join("parity"))?;
    let work = deps.join("parity-files");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("could not remove {}", work.display()))?;
    }
    check_onnx(&python, &work.join("onnx"))?;
    let mut num_different = 0;
    for seed in ["1", "2"] {
        let made = work.join(format!("made-{seed}"));
        program(&python).arg("tests/fixtures/parity/make.py").arg(&made).arg(seed).output("make label maps")?;
        for (comparison, folder) in [(&CITYSCAPES, "cityscapes"), (&STQ, "kitti")] {
            let (truth, prediction) = (made.join(folder).join("truth"), made.join(folder).join("prediction"));
            num_different += comparison.compare(&python, &truth, &prediction, &format!("made-up maps {seed}"))?;
        }
    }
    for (comparison, files) in [(&CITYSCAPES, cityscapes_files()), (&STQ, stq_files())] {
        let Some(files) = files else {
            println!("skipped: {}: no street data for it; set HSG_DATA", comparison.name);
            continue;
        };
        let (truth, prediction) =
            (work.join(comparison.dataset).join("truth"), work.join(comparison.dataset).join("pred"));
        copy(&files.truth, &truth, files.name, 1)?;
        copy(&files.prediction, &prediction, files.name, 1)?;
        num_different += comparison.compare(&python, &truth, &prediction, "street data")?;
        if let Some(runs) = options.time {
            // A few files are over before a clock has seen them.
            copy(&files.truth, &truth, files.name, files.copies)?;
            copy(&files.prediction, &prediction, files.name, files.copies)?;
            comparison.time(&python, &truth, &prediction, runs.max(1))?;
        }
    }
    ensure!(num_different == 0, "{num_different} comparisons found other figures: they stand above");
    match data("camvid") {
        Some(camvid) => stock_quantizer::compare(&work.join("quantizer"), &camvid)?,
        None => println!("skipped: ONNX Runtime's quantiser: no CamVid; set HSG_DATA"),
    }
    fs::remove_dir_all(&work).with_context(|| format!("could not remove {}", work.display()))
}

/// Folded, fp16 and int8 forms of the shipped and the tiny networks have to pass ONNX's checker.
fn check_onnx(python: &Path, folder: &Path) -> Result<()> {
    let networks = ["models/zoo/camvid-r18", "models/zoo/street-r18-open", "tests/fixtures/tiny-model"]
        .map(|model| ["embedding", "grouping"].map(|network| format!("{model}/{network}.fp32.onnx")));
    cargo()
        .args(["run", "--release", "--quiet", "-p", "models", "--example", "forms", "--"])
        .arg(folder)
        .args(networks.as_flattened())
        .run("write the forms of the networks")?;
    // Printed either way: which files it refuses, or how many it accepts.
    let check = program(python).arg("tests/fixtures/parity/check_onnx.py").arg(folder).run("check ONNX files");
    check.context("ONNX's checker refuses files: they stand above")
}

/// The Python of a virtual environment in `folder` that has the packages. Not pip's `--target`: cityscapesScripts brings a
/// module `typing` for Python 2, which must not come before Python's own.
fn python(folder: &Path) -> Result<PathBuf> {
    let python = folder.join("bin/python");
    if !program(&python).args(["-c", "import cityscapesscripts, numpy, onnx, PIL"]).works() {
        // One that works and lacks a package gets it: others may be using it.
        ensure!(
            program(&python).arg("--version").works()
                || program("python3").args(["-m", "venv", "--clear"]).arg(folder).works(),
            "python3 has no working venv: apt-get install -y python3-venv"
        );
        program(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES).run("install the oracles")?;
    }
    Ok(python)
}

/// Files of the street data: (path, name) to be copied, and how they are called in copy number N.
struct Files {
    truth: Vec<(PathBuf, String)>,
    prediction: Vec<(PathBuf, String)>,
    name: fn(&str, usize) -> String,
    /// How many copies are timed.
    copies: usize,
}

/// A folder of the street data.
fn data(path: &str) -> Option<PathBuf> {
    let root = match env::var_os("HSG_DATA") {
        Some(folder) => workspace().join(folder),
        None => workspace().join("../shared/data"),
    };
    Some(root.join(path)).filter(|folder| folder.is_dir())
}

fn cityscapes_files() -> Option<Files> {
    let truth = data("cityscapes/gtFine/train/aachen")?;
    let prediction = data("oracle_vectors/cityscapes_official/semantic/pred")?;
    let (mut truths, mut predictions) = (Vec::new(), Vec::new());
    for image in ["aachen_000000_000019", "aachen_000001_000019", "aachen_000002_000019"] {
        for kind in ["labelIds", "instanceIds"] {
            let name = format!("{image}_gtFine_{kind}.png");
            truths.push((truth.join(&name), name));
        }
        let name = format!("{image}_pred_labelIds.png");
        predictions.push((prediction.join(&name), name));
    }
    // Another frame number for each copy.
    let name = |name: &str, copy: usize| name.replacen("_000019", &format!("_{:06}", 19 + copy), 1);
    Some(Files { truth: truths, prediction: predictions, name, copies: 8 })
}

fn stq_files() -> Option<Files> {
    let folder = data("oracle_vectors/stq_vpq_kitti_step")?;
    let files = |kind: &str| {
        let frames = (0..2).flat_map(|sequence| (0..6).map(move |frame| format!("{sequence:04}/{frame:06}.png")));
        frames.map(|name| (folder.join(kind).join("val").join(&name), name)).collect::<Vec<_>>()
    };
    // Another sequence for each copy.
    let name = |name: &str, copy: usize| format!("{copy:02}{name}");
    Some(Files { truth: files("gt"), prediction: files("pred"), name, copies: 20 })
}

fn copy(files: &[(PathBuf, String)], folder: &Path, name: fn(&str, usize) -> String, copies: usize) -> Result<()> {
    for (copy, (from, file_name)) in (0..copies).flat_map(|copy| files.iter().map(move |file| (copy, file))) {
        let to = folder.join(name(file_name, copy));
        let parent = to.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("could not create {}", parent.display()))?;
        // Not `fs::copy`, which would make the copy as read-only as the original.
        let bytes = fs::read(from).with_context(|| format!("could not read {}", from.display()))?;
        fs::write(&to, bytes).with_context(|| format!("could not write {}", to.display()))?;
    }
    Ok(())
}

impl Comparison {
    /// Prints whether both programs have the same figures; 1 when not.
    fn compare(&self, python: &Path, truth: &Path, prediction: &Path, what: &str) -> Result<usize> {
        let (ours, theirs) = (self.ours(truth, prediction, None)?, self.theirs(python, truth, prediction)?);
        let (mut compared, mut largest) = (0, 0.0f64);
        let mut differences = Vec::new();
        for (ours_at, theirs_at) in self.keys {
            let pair = (ours.figures.pointer(ours_at), theirs.figures.pointer(theirs_at));
            let (Some(ours), Some(theirs)) = pair else { bail!("{}: no figure {ours_at} or {theirs_at}", self.name) };
            for (key, ours, theirs) in figures(ours, theirs) {
                compared += 1;
                match (ours.as_f64(), theirs.as_f64()) {
                    (Some(a), Some(b)) if (a - b).abs() <= TOLERANCE => largest = largest.max((a - b).abs()),
                    (None, None) => {}
                    _ => differences.push(format!("{ours_at} {key}: ours {ours}, theirs {theirs}")),
                }
            }
        }
        let verdict = if differences.is_empty() { "equal" } else { "NOT EQUAL" };
        println!(
            "{:<18} {what:<16} {compared} figures: {verdict} (largest difference {largest:.1e}, tolerance {TOLERANCE:.0e})",
            self.name
        );
        differences.iter().for_each(|line| println!("    {line}"));
        Ok(usize::from(!differences.is_empty()))
    }

    /// Prints what both programs take, run in turn.
    fn time(&self, python: &Path, truth: &Path, prediction: &Path, runs: usize) -> Result<()> {
        let mut all: [Vec<Run>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..runs {
            all[0].push(self.theirs(python, truth, prediction)?);
            all[1].push(self.ours(truth, prediction, Some("1"))?);
            all[2].push(self.ours(truth, prediction, None)?);
        }
        let images = all[1].first().and_then(|run| run.figures["frames"].as_u64()).unwrap_or(0);
        println!("\n{}, {images} images, {runs} runs in turn; {}; median (fastest–slowest)", self.name, machine());
        let names = [self.name.to_owned(), "hsg, 1 thread".to_owned(), format!("hsg, {} threads", cores())];
        let medians = all.each_ref().map(|runs| [Run::inside, Run::whole].map(|time| spread(runs, time)));
        for (name, spreads) in names.iter().zip(&medians) {
            let cells: Vec<String> = spreads
                .iter()
                .zip(&medians[0])
                .map(|((median, fastest, slowest), (theirs, ..))| {
                    format!("{median:>8.3} s ({fastest:.3}–{slowest:.3}) ×{:<6.1}", theirs / median)
                })
                .collect();
            println!("  {name:<20} reading and measuring {}  whole process {}", cells[0], cells[1]);
        }
        println!();
        Ok(())
    }

    fn ours(&self, truth: &Path, prediction: &Path, threads: Option<&str>) -> Result<Run> {
        let metadata = crate::arrows::metadata()?;
        let target = metadata["target_directory"].as_str().context("no target folder")?;
        let mut command = Command::new(format!("{target}/release/hsg"));
        command.args(["eval", "files", "--json", "--dataset", self.dataset, "--truth"]).arg(truth);
        command.arg("--prediction").arg(prediction).args(threads.map(|number| format!("--threads={number}")));
        let (text, messages, whole) = timed(command)?;
        // `12 images measured in 0.034 s, 2 threads`
        let inside = messages
            .lines()
            .find_map(|line| line.split_once(" images measured in ")?.1.split_once(" s,")?.0.parse().ok());
        let figures = serde_json::from_str(&text).with_context(|| format!("hsg: not JSON: {text}"))?;
        Ok(Run { figures, inside: inside.with_context(|| format!("hsg says no time: {messages}"))?, whole })
    }

    fn theirs(&self, python: &Path, truth: &Path, prediction: &Path) -> Result<Run> {
        let mut command = Command::new(python);
        command.arg(workspace().join(self.script)).arg(truth).arg(prediction);
        let (text, _, whole) = timed(command)?;
        let figures: Value =
            serde_json::from_str(&text).with_context(|| format!("{}: not JSON: {text}", self.script))?;
        let inside = figures["seconds"].as_f64().with_context(|| format!("{} says no time", self.script))?;
        Ok(Run { figures, inside, whole })
    }
}

impl Run {
    fn inside(&self) -> f64 {
        self.inside
    }

    fn whole(&self) -> f64 {
        self.whole
    }
}

/// One figure, or those with the names that the object of ours has.
fn figures<'a>(ours: &'a Value, theirs: &'a Value) -> Vec<(String, &'a Value, &'a Value)> {
    match ours.as_object() {
        None => vec![(String::new(), ours, theirs)],
        Some(object) => object.iter().map(|(key, value)| (key.clone(), value, &theirs[key])).collect(),
    }
}

/// Median, fastest and slowest.
fn spread(runs: &[Run], time: fn(&Run) -> f64) -> (f64, f64, f64) {
    let mut seconds: Vec<f64> = runs.iter().map(time).collect();
    seconds.sort_by(f64::total_cmp);
    let at = |index: usize| seconds.get(index).copied().unwrap_or(f64::NAN);
    (at(seconds.len() / 2), at(0), at(seconds.len().saturating_sub(1)))
}

/// What it wrote to stdout and to stderr, and the seconds from start to end.
fn timed(mut command: Command) -> Result<(String, String, f64)> {
    let start = Instant::now();
    let output = command.output().with_context(|| format!("{command:?} did not start"))?;
    let seconds = start.elapsed().as_secs_f64();
    let [text, messages] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{command:?} ended with {}\n{}", output.status, messages.trim_end());
    Ok((text, messages, seconds))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// CPU and cores.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    format!("{}, {} cores", name.unwrap_or("unknown CPU"), cores())
}
