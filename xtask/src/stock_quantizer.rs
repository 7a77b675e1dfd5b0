//! A part of `cargo xtask parity`: our int8 network beside those of ONNX Runtime's own static quantiser, on CamVid `test`. Both
//! are made of the same frames; what is printed is the table of docs/benchmarks/precision.md.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::onnxruntime;
use crate::process::{cargo, program, workspace};

/// The quantiser that is compared, and what it needs. Measuring is done by the version that the tests run with.
const PACKAGES: [&str; 2] = ["onnxruntime==1.31.1", "onnx==1.23.2"];
const MODEL: &str = "models/zoo/camvid-r18";
/// What stock.py writes: the defaults, and the form that ours has.
const FORMS: [(&str, &str); 2] =
    [("with its defaults", "stock.onnx"), ("with U8 activations and scales per channel", "stock-per-channel.onnx")];

/// Prints our figures beside those of the stock quantiser; `work` is a folder for files, `camvid` the data set.
pub fn compare(work: &Path, camvid: &Path) -> Result<()> {
    let library = onnxruntime::ensure()?;
    let python = python(&workspace().join(".deps/stock-quantizer"))?;
    let stock = work.join("stock");
    cargo()
        .args(["run", "--release", "--quiet", "-p", "calibration", "--example", "stock_inputs", "--"])
        .arg(&stock)
        .args([MODEL, &format!("{MODEL}/calibration.json")])
        .arg(camvid.join("train"))
        .run("write the inputs of the stock quantiser")?;
    program(python).arg("tests/fixtures/quantization/stock.py").arg(&stock).run("run the stock quantiser")?;
    // A copy, since `report` replaces the receipt in the folder that it measures.
    let copy = work.join("model");
    copy_files(&workspace().join(MODEL), &copy)?;
    for (settings, file) in FORMS {
        println!("\nONNX Runtime's stock quantiser {settings}, as \"compared int8\":");
        cargo()
            .args(["run", "--release", "--quiet", "-p", "calibration", "--bin", "hsg-calibrate", "--", "report"])
            .args(["--backend", "onnxruntime", "--dataset", "camvid", "--split", "test", "--root"])
            .arg(camvid)
            // The limits are another question, which the shipped receipt answers.
            .args(["--max-miou-loss", "100", "--min-agreement", "0", "--max-level-ratio", "1000000"])
            .args(["--max-fp16-miou-loss", "100", "--model"])
            .arg(&copy)
            .arg("--compare")
            .arg(stock.join(file))
            .arg("--out")
            .arg(work.join("receipt"))
            .env("HSG_ONNXRUNTIME", &library)
            .run("measure the stock quantiser's network")?;
    }
    Ok(())
}

/// The Python of a virtual environment in `folder` that has the packages.
fn python(folder: &Path) -> Result<PathBuf> {
    let python = folder.join("bin/python");
    if !program(&python).args(["-c", "import onnx, onnxruntime.quantization"]).works() {
        ensure!(
            program("python3").args(["-m", "venv", "--clear"]).arg(folder).works(),
            "python3 has no working venv: apt-get install -y python3-venv"
        );
        program(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES).run("install the stock quantiser")?;
    }
    Ok(python)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("could not create {}", to.display()))?;
    let entries = from.read_dir().with_context(|| format!("could not read {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("could not read {}", from.display()))?;
        fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("could not copy {}", entry.path().display()))?;
    }
    Ok(())
}
