//! The benchmark against the numbers of its own program (folder `HSG_GOLDEN`, default `../shared/golden` beside the
//! workspace, else `tests/fixtures/golden`; same layout, `edges/bench5`). BSDS500 is for research use only, so none of it
//! is copied into the project.

use evaluation::{Annotation, BsdsBenchmark, BsdsCounts, BsdsResult, ContourMap, Thresholds};
use segcore::image_io::{read_gray16, read_rgb};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

const IMAGES: [&str; 5] = ["2018", "3063", "5096", "6046", "8068"];
const NUM_THRESHOLDS: usize = 5;

/// The golden folder, or `None` with a printed line.
fn bench5() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = match std::env::var_os("HSG_GOLDEN") {
        Some(folder) => {
            let folder = workspace.join(folder);
            assert!(folder.is_dir(), "HSG_GOLDEN is {}, which is no folder", folder.display());
            folder
        }
        None => Some(workspace.join("../shared/golden"))
            .filter(|folder| folder.is_dir())
            .unwrap_or_else(|| workspace.join("tests/fixtures/golden")),
    };
    let folder = folder.join("edges/bench5");
    if folder.is_dir() {
        return Some(folder);
    }
    // Not `eprintln!`: the test harness keeps that of passing tests to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {}: not there", folder.display());
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn boundary(path: &Path) -> Vec<bool> {
    // 1-bit grey becomes 0 or 255 in all channels.
    read_rgb(path).unwrap().pixels.chunks_exact(3).map(|pixel| pixel[0] > 0).collect()
}

fn input(folder: &Path, image: &str) -> (ContourMap, Vec<Annotation>) {
    let ucm2 = read_gray16(folder.join(format!("{image}_ucm2.png"))).unwrap();
    let strengths = ucm2.pixels.iter().map(|&value| f32::from(value) / 65535.0).collect();
    let contours = ContourMap::doubled(ucm2.size.height / 2, ucm2.size.width / 2, strengths).unwrap();
    let annotation = |index: usize| {
        let path = folder.join(format!("{image}_seg{index}.png"));
        let segmentation = path.exists().then(|| read_gray16(&path).unwrap())?;
        let drawn = boundary(&folder.join(format!("{image}_bnd{index}.png")));
        let (height, width) = (segmentation.size.height, segmentation.size.width);
        Some(Annotation::new(height, width, &segmentation.pixels, Some(drawn)).unwrap())
    };
    (contours, (0..).map_while(annotation).collect())
}

fn counts(folder: &Path, image: &str, thresholds: &Thresholds) -> BsdsCounts {
    let (contours, annotations) = input(folder, image);
    BsdsCounts::of(&contours, &annotations, thresholds).unwrap()
}

#[track_caller]
fn assert_near(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance, "{what}: got {got}, expected {expected} ± {tolerance}");
}


#[test]
fn timing() {
    let folder = bench5().unwrap();
    for image in IMAGES {
        let (contours, annotations) = input(&folder, image);
        let expected = json(&folder.join(format!("{image}.json")));
        let c = counts(&folder, image, &Thresholds::new(5).unwrap());
        for index in 0..NUM_THRESHOLDS {
            let golden = numbers(&expected["bdry_cntR_sumR_cntP_sumP"][index]);
            println!("{image} {:?} {golden:?}", c.boundary[index]);
        }
        let t = Thresholds::new(99).unwrap();
        let s = std::time::Instant::now();
        let b = evaluation::boundary_counts(&contours, &annotations, &t).unwrap();
        let tb = s.elapsed();
        let s = std::time::Instant::now();
        let all = BsdsCounts::of(&contours, &annotations, &t).unwrap();
        println!("{image} boundary {tb:?} all {:?} annotators {} pred {} regions {}", s.elapsed(), annotations.len(), b[0].prediction, all.num_regions[0]);
        // derived boundaries
        for index in 0..annotations.len() {
            let seg = read_gray16(&folder.join(format!("{image}_seg{index}.png"))).unwrap();
            let a = Annotation::new(seg.size.height, seg.size.width, &seg.pixels, None).unwrap();
            let mut d = a.boundary().to_vec();
            evaluation::thin(&mut d, seg.size.width);
            println!("thinned {} differ {}", d.iter().filter(|&&b|b).count(), d.iter().zip(annotations[index].boundary()).filter(|(a,b)|a!=b).count());
            let diff = a.boundary().iter().zip(annotations[index].boundary()).filter(|(a,b)|a!=b).count();
            println!("derived {} drawn {} differ {diff}", a.boundary().iter().filter(|&&b|b).count(), annotations[index].boundary().iter().filter(|&&b|b).count());
        }
    }
    println!("{:?}", result(&folder, 99));
}

fn result(folder: &Path, num_thresholds: usize) -> BsdsResult {
    let mut benchmark = BsdsBenchmark::new(Thresholds::new(num_thresholds).unwrap());
    for image in IMAGES {
        benchmark.update(&counts(folder, image, benchmark.thresholds())).unwrap();
    }
    benchmark.result().unwrap()
}
