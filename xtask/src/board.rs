//! `cargo xtask board-check`: everything that only a board (or any machine with an NVIDIA GPU and TensorRT) can show, by one
//! command. It starts everywhere; what the machine lacks is listed as not run, with the reason, and is no failure.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::process::{cargo, workspace};

/// What is checked.
#[derive(Args)]
pub struct Options {
    /// Frames of each timing
    #[arg(long, default_value_t = 2000)]
    frames: u32,
    /// Model folder or name
    #[arg(long, default_value = "camvid-r18")]
    model: String,
    /// Where figures and logs go
    #[arg(long, value_name = "FOLDER", default_value = "board-results")]
    out: PathBuf,
}

/// How a part ended.
enum Outcome {
    /// It held; figures.
    Ok(Value),
    /// The machine lacks what it needs.
    NotRun(String),
}

struct Board<'a> {
    options: &'a Options,
    out: PathBuf,
    hsg: PathBuf,
    results: Vec<Value>,
    num_failed: usize,
}

/// Runs every part, also after one has failed.
pub fn check(options: &Options) -> Result<()> {
    // Some parts run in other folders than this one.
    let model = match fs::canonicalize(&options.model) {
        Ok(path) if path.is_dir() => path.display().to_string(),
        _ => options.model.clone(),
    };
    let options = &Options { model, out: options.out.clone(), ..*options };
    let out = workspace().join(&options.out);
    fs::create_dir_all(&out).with_context(|| format!("could not create {}", out.display()))?;
    let metadata = crate::arrows::metadata()?;
    let target = PathBuf::from(metadata["target_directory"].as_str().context("no target folder")?);
    let mut board = Board { options, out, hsg: target.join("release/hsg"), results: Vec::new(), num_failed: 0 };
    board.part("machine", |_| Ok(Outcome::Ok(machine())));
    let is_built = board.part("build", |_| {
        let start = Instant::now();
        cargo()
            .args([
                "build",
                "--release",
                "-p",
                "runtime",
                "--features",
                "tensorrt",
                "--bin",
                "hsg",
                "--bin",
                "gpu-kernels",
            ])
            .run("build hsg with TensorRT")?;
        Ok(Outcome::Ok(json!({"seconds": start.elapsed().as_secs_f64()})))
    });
    if !is_built {
        return board.close();
    }
    let mut lack = Some("`hsg doctor` did not run".to_owned());
    let mut gpu_lack = lack.clone();
    board.part("doctor", |board| {
        // 1: something is missing for `hsg run`; that is told below.
        let report = board.hsg("doctor", &["doctor", "--json"], &[0, 1])?;
        let finding = |what: &str| {
            let findings = report["findings"].as_array().into_iter().flatten();
            findings.clone().find(|finding| finding["what"] == what).cloned().unwrap_or_default()
        };
        let lack_of = |finding: &Value| {
            let words = |key: &str| finding[key].as_str().unwrap_or("not told").to_owned();
            (finding["standing"] != "ok").then(|| format!("{}; {}", words("found"), words("remedy")))
        };
        lack = lack_of(&finding("backend tensorrt"));
        let kernels = finding("GPU kernels");
        // `unused`: they load, in a build without TensorRT.
        gpu_lack = if kernels["standing"] == "unused" { None } else { lack_of(&kernels) };
        Ok(Outcome::Ok(report))
    });
    board.part("kernels", |board| match &gpu_lack {
        Some(why) => Ok(Outcome::NotRun(why.clone())),
        None => {
            let log = board.run("kernels", &board.hsg.with_file_name("gpu-kernels"), &[], &[0])?;
            Ok(Outcome::Ok(json!({"log": last_lines(&log)})))
        }
    });
    for precision in ["fp16", "int8"] {
        board.engines(precision, lack.as_deref());
    }
    let lack_of_chain = lack.clone();
    board.part("stages", |board| match &lack_of_chain {
        Some(why) => Ok(Outcome::NotRun(why.clone())),
        None => board.stages().map(Outcome::Ok),
    });
    let (model, frames) = (options.model.clone(), options.frames.to_string());
    board.part("bench-cpu", |board| {
        let few = options.frames.min(200).to_string();
        let clip = board.clip();
        let arguments = ["bench", &clip, "--model", &model, "--backend", "cpu", "--frames", &few, "--json", "-q"];
        board.hsg("bench-cpu", &arguments, &[0]).map(Outcome::Ok)
    });
    for precision in ["fp16", "int8"] {
        let lack = lack.clone().or_else(|| board.missing(precision));
        // The whole frame on the GPU, and beside it the networks alone there.
        for (stages, more) in [("", &[][..]), ("-host-stages", &["--host-stages"])] {
            let name = format!("bench-{precision}{stages}");
            board.part(&name, |board| match &lack {
                Some(why) => Ok(Outcome::NotRun(why.clone())),
                None => {
                    let clip = board.clip();
                    let usual = [
                        "bench",
                        &clip,
                        "--model",
                        &model,
                        "--backend",
                        "tensorrt",
                        "--precision",
                        precision,
                        "--frames",
                        &frames,
                        "--json",
                        "-q",
                        // Whatever the receipt, which is about the CPU's form, says of its accuracy: this is about time.
                        "--allow-unverified",
                    ];
                    board.hsg(&name, &[&usual, more].concat(), &[0]).map(Outcome::Ok)
                }
            });
        }
    }
    board.close()
}

impl Board<'_> {
    /// Runs a part; true unless it failed.
    fn part(&mut self, name: &str, part: impl FnOnce(&Self) -> Result<Outcome>) -> bool {
        eprintln!("== {name}");
        let start = Instant::now();
        let outcome = part(self);
        let seconds = start.elapsed().as_secs_f64();
        let (line, result) = match outcome {
            Ok(Outcome::Ok(figures)) => ("ok".to_owned(), json!({"outcome": "ok", "figures": figures})),
            Ok(Outcome::NotRun(why)) => (format!("not run: {why}"), json!({"outcome": "not run", "reason": why})),
            Err(error) => {
                self.num_failed += 1;
                let words = format!("{error:#}");
                (format!("FAILED: {words}"), json!({"outcome": "failed", "error": words}))
            }
        };
        let failed = result["outcome"] == "failed";
        eprintln!("   {line}");
        self.results.push(json!({"part": name, "seconds": seconds, "result": result}));
        !failed
    }

    /// Builds the engines of a precision, then compares them with the CPU.
    fn engines(&mut self, precision: &str, lack: Option<&str>) {
        let lack = lack.map(str::to_owned).or_else(|| self.missing(precision));
        let is_built = self.part(&format!("build-{precision}"), |board| match &lack {
            Some(why) => Ok(Outcome::NotRun(why.clone())),
            None => {
                let model = board.options.model.as_str();
                // Whatever the receipt, which is about the CPU's form, says: parity looks at the engine itself.
                let unverified = "--allow-unverified";
                let arguments = ["build", "--model", model, "--precision", precision, "--json", unverified];
                board.hsg(&format!("build-{precision}"), &arguments, &[0]).map(Outcome::Ok)
            }
        });
        self.part(&format!("parity-{precision}"), |board| match &lack {
            Some(why) => Ok(Outcome::NotRun(why.clone())),
            None if !is_built => Ok(Outcome::NotRun("there is no engine".to_owned())),
            None => {
                cargo()
                    .args([
                        "test",
                        "--release",
                        "-p",
                        "tests",
                        "--features",
                        "tensorrt",
                        "--test",
                        "tensorrt",
                        "engines_agree_with_the_cpu",
                    ])
                    .env("HSG_TEST_ENGINES", format!("{}:{precision}", board.options.model))
                    .run("compare the engines with the CPU")?;
                Ok(Outcome::Ok(Value::Null))
            }
        });
    }

    /// Runs the clip with all stages on the GPU and with those between the networks on the CPU, and compares what was saved:
    /// only here the whole chain runs on a GPU, as a graph and with uploads ahead.
    fn stages(&self) -> Result<Value> {
        let clip = self.clip();
        let frames = STAGES_FRAMES.to_string();
        let mut made = Vec::new();
        for (name, more) in [("stages-device", &[][..]), ("stages-host", &["--host-stages"])] {
            let folder = self.out.join(name);
            let out = folder.display().to_string();
            let usual = [
                "run",
                &clip,
                "--model",
                &self.options.model,
                "--backend",
                "tensorrt",
                "--precision",
                "fp16",
                "--frames",
                &frames,
                "--save",
                "labels",
                "--out",
                &out,
                "--force",
                "-q",
            ];
            if folder.exists() {
                // Maps of an earlier run must not be compared.
                fs::remove_dir_all(&folder).with_context(|| format!("could not empty {}", folder.display()))?;
            }
            self.run(name, &self.hsg, &[&usual, more].concat(), &[0])?;
            let file = folder.join("summary.json");
            let text = fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
            let summary: Value =
                serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))?;
            made.push((folder, summary["stages_on"].clone()));
        }
        let [(device, on_device), (host, on_host)] = &made[..] else { bail!("two runs were made") };
        let count = |on: &Value, key: &str| on[key].as_u64().unwrap_or(0);
        ensure!(
            count(on_device, "device_frames") == STAGES_FRAMES && count(on_host, "device_frames") == 0,
            "of {STAGES_FRAMES} frames {on_device} were on the GPU, and with --host-stages {on_host}"
        );
        let agreement = Agreement::of_folders(&device.join("labels/level0"), &host.join("labels/level0"))?;
        let figures = json!({
            "stages_on": on_device,
            "frames": agreement.num_frames,
            "equal_pixels": agreement.mean,
            "equal_pixels_in_the_worst_frame": agreement.least,
            "equal_ids": agreement.mean_ids,
        });
        ensure!(agreement.num_frames == STAGES_FRAMES, "{} of {STAGES_FRAMES} frames were saved", agreement.num_frames);
        ensure!(agreement.mean >= LEAST_EQUAL, "fewer than {LEAST_EQUAL} of the pixels are equal: {figures}");
        for key in ["graph_frames", "uploaded_ahead_frames"] {
            ensure!(count(on_device, key) > 0, "`{key}` is 0: {figures}");
        }
        Ok(figures)
    }

    /// What the model lacks for a precision.
    fn missing(&self, precision: &str) -> Option<String> {
        let folder = workspace().join("models/zoo").join(&self.options.model);
        let folder = if folder.is_dir() { folder } else { PathBuf::from(&self.options.model) };
        let file = folder.join("embedding.int8.onnx");
        let lacks = precision == "int8" && !file.is_file();
        lacks.then(|| format!("{} is not there: `hsg-calibrate quantize` makes it", file.display()))
    }

    fn clip(&self) -> String {
        workspace().join("assets/clips/highway.mp4").display().to_string()
    }

    /// Runs `hsg` and reads its JSON, which is kept.
    fn hsg(&self, name: &str, arguments: &[&str], codes: &[i32]) -> Result<Value> {
        let text = self.run(name, &self.hsg, arguments, codes)?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("hsg {name} wrote no JSON"))?;
        write(&self.out.join(format!("{name}.json")), &value)?;
        Ok(value)
    }

    /// Runs a program; its stdout. What it says otherwise goes to a log.
    fn run(&self, name: &str, program: &Path, arguments: &[&str], codes: &[i32]) -> Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(workspace())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{} did not start", program.display()))?;
        let log = self.out.join(format!("{name}.log"));
        fs::write(&log, &output.stderr).with_context(|| format!("could not write {}", log.display()))?;
        let code = output.status.code();
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            code.is_some_and(|code| codes.contains(&code)),
            "{} ended with {}: {}",
            program.display(),
            output.status,
            last_lines(&stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Prints the table and writes the figures.
    fn close(&self) -> Result<()> {
        println!();
        let mut not_run = 0;
        for result in &self.results {
            let text = |key: &str| result["result"][key].as_str().unwrap_or_default().to_owned();
            let outcome = text("outcome");
            not_run += usize::from(outcome == "not run");
            let why = text("reason") + &text("error");
            let name = result["part"].as_str().unwrap_or_default();
            println!("{name:<26}{:>8.1} s  {outcome:<8} {why}", result["seconds"].as_f64().unwrap_or(0.0));
        }
        let file = self.out.join("board.json");
        write(&file, &json!({"parts": self.results}))?;
        println!(
            "{} parts, {} failed, {not_run} not run; figures in {}",
            self.results.len(),
            self.num_failed,
            file.display()
        );
        if self.num_failed > 0 {
            bail!("{} parts failed", self.num_failed);
        }
        Ok(())
    }
}

/// Frames of the clip that are compared between GPU and CPU; it has 38.
const STAGES_FRAMES: u64 = 30;
/// Least share of pixels in the same segment: sums of floats in another order let pixels go to the other of two segments that are
/// as near.
const LEAST_EQUAL: f64 = 0.97;

/// How far label maps agree.
#[derive(Debug, PartialEq)]
struct Agreement {
    num_frames: u64,
    /// Share of pixels in the segment that has most pixels of theirs in the other map: ids that were given in another order
    /// are no difference. Over all frames, and of the worst.
    mean: f64,
    least: f64,
    /// Share of pixels with the same id.
    mean_ids: f64,
}

impl Agreement {
    /// Of all maps in a folder with those of the same name in another one.
    fn of_folders(folder: &Path, other: &Path) -> Result<Self> {
        let (mut mean, mut least, mut mean_ids, mut num_frames) = (0.0, 1.0f64, 0.0, 0u64);
        let entries = fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("could not read {}", folder.display()))?.path();
            let name = path.file_name().context("a file has a name")?;
            let (a, b) = (label_map(&path)?, label_map(&other.join(name))?);
            ensure!(a.len() == b.len() && !a.is_empty(), "{} has another size in {}", path.display(), other.display());
            let mut pairs = BTreeMap::<(u16, u16), usize>::new();
            let mut num_same = 0;
            for pair in a.iter().copied().zip(b.iter().copied()) {
                *pairs.entry(pair).or_default() += 1;
                num_same += usize::from(pair.0 == pair.1);
            }
            // Both ways: one segment that holds everything agrees with any map one way.
            let mut largest: [BTreeMap<u16, usize>; 2] = Default::default();
            for (&(of_a, of_b), &count) in &pairs {
                for (largest, label) in largest.iter_mut().zip([of_a, of_b]) {
                    let best = largest.entry(label).or_default();
                    *best = count.max(*best);
                }
            }
            let num_equal = largest.map(|largest| largest.values().sum::<usize>()).into_iter().min().unwrap_or(0);
            let share = num_equal as f64 / a.len() as f64;
            (mean, least, num_frames) = (mean + share, least.min(share), num_frames + 1);
            mean_ids += num_same as f64 / a.len() as f64;
        }
        ensure!(num_frames > 0, "{} holds no maps", folder.display());
        Ok(Self { num_frames, mean: mean / num_frames as f64, least, mean_ids: mean_ids / num_frames as f64 })
    }
}

/// The labels of a grey PNG of 16 bits.
fn label_map(path: &Path) -> Result<Vec<u16>> {
    let file = fs::File::open(path).with_context(|| format!("could not read {}", path.display()))?;
    let mut reader =
        png::Decoder::new(BufReader::new(file)).read_info().with_context(|| format!("{} is no PNG", path.display()))?;
    let kind = (reader.info().color_type, reader.info().bit_depth);
    ensure!(kind == (png::ColorType::Grayscale, png::BitDepth::Sixteen), "{} is no label map", path.display());
    let mut bytes = vec![0; reader.output_buffer_size().context("the image is too large")?];
    reader.next_frame(&mut bytes).with_context(|| format!("{} is damaged", path.display()))?;
    Ok(bytes.as_chunks::<2>().0.iter().map(|&pair| u16::from_be_bytes(pair)).collect())
}

fn write(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("no JSON")?;
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text + "\n")
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("could not write {}", path.display()))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// What the machine is, and in which power mode: figures without that are worth nothing.
fn machine() -> Value {
    let file = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        Some(text.trim_end_matches(['\0', '\n']).to_owned())
    };
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let memory = file("/proc/meminfo").and_then(|text| text.lines().next().map(str::to_owned));
    json!({
        "architecture": std::env::consts::ARCH,
        "model": file("/proc/device-tree/model"),
        "release": file("/etc/nv_tegra_release"),
        "memory": memory,
        "threads": std::thread::available_parallelism().map_or(0, usize::from),
        // Null where there is no such program, as on a workstation.
        "power_mode": said("nvpmodel", &["-q"]),
        "gpu": said("nvidia-smi", &["--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]),
        "kernel": said("uname", &["-r"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_map(path: &Path, labels: &[u16]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), labels.len() as u32, 1);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Sixteen);
        let bytes: Vec<u8> = labels.iter().flat_map(|label| label.to_be_bytes()).collect();
        encoder.write_header().unwrap().write_image_data(&bytes).unwrap();
    }

    #[test]
    fn maps_agree_where_segments_do_whatever_their_ids() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        write_map(&a.join("0.png"), &[1, 1, 700, 700, 9, 9, 9, 9]);
        write_map(&b.join("0.png"), &[1, 1, 700, 700, 9, 9, 9, 9]);
        // The second segment has another id; a pixel of the third is in the first.
        write_map(&a.join("1.png"), &[1, 1, 700, 700, 9, 9, 9, 9]);
        write_map(&b.join("1.png"), &[1, 1, 800, 800, 9, 9, 9, 1]);
        let agreement = Agreement::of_folders(&a, &b).unwrap();
        assert_eq!(agreement, Agreement { num_frames: 2, mean: 15.0 / 16.0, least: 7.0 / 8.0, mean_ids: 13.0 / 16.0 });
        // All in one segment is no agreement with many.
        write_map(&a.join("1.png"), &[1; 8]);
        assert_eq!(Agreement::of_folders(&a, &b).unwrap().least, 0.375);
        assert_eq!(Agreement::of_folders(&b, &a).unwrap().least, 0.375);
        fs::remove_file(b.join("1.png")).unwrap();
        assert!(Agreement::of_folders(&a, &b).is_err());
    }

    #[test]
    fn parts_that_lack_something_are_told_and_are_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { frames: 1, model: "none".into(), out: folder.path().to_owned() };
        let board = |options| Board {
            options,
            out: folder.path().to_owned(),
            hsg: "/nowhere/hsg".into(),
            results: Vec::new(),
            num_failed: 0,
        };
        let mut lacking = board(&options);
        lacking.engines("int8", Some("no TensorRT"));
        assert!(lacking.close().is_ok());
        let written: Value = serde_json::from_slice(&fs::read(folder.path().join("board.json")).unwrap()).unwrap();
        assert_eq!(written["parts"][0]["result"]["reason"], "no TensorRT");
        assert_eq!(written["parts"].as_array().unwrap().len(), 2);
        // A program that does not start is a failure.
        let mut failing = board(&options);
        assert!(!failing.part("doctor", |board| board.hsg("doctor", &["doctor"], &[0]).map(Outcome::Ok)));
        assert!(failing.close().unwrap_err().to_string().contains("1 parts failed"));
        assert!(board(&options).missing("int8").unwrap().contains("hsg-calibrate"));
        assert_eq!(board(&options).missing("fp16"), None);
    }
}
