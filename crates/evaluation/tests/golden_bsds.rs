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
fn golden_counts_per_image() {
    let Some(folder) = bench5() else { return };
    let thresholds = Thresholds::new(NUM_THRESHOLDS).unwrap();
    for image in IMAGES {
        let expected = json(&folder.join(format!("{image}.json")));
        let counts = counts(&folder, image, &thresholds);
        for index in 0..NUM_THRESHOLDS {
            assert_near("thr", thresholds.exact(index), expected["thr"][index].as_f64().unwrap(), 1e-15);
            let at = |what: &str| format!("{image}, threshold {index}, {what}");
            let golden = numbers(&expected["bdry_cntR_sumR_cntP_sumP"][index]);
            let got = counts.boundary[index];
            assert_near(&at("truth"), got.truth as f64, golden[1], 1e-9);
            assert_near(&at("prediction"), got.prediction as f64, golden[3], 1e-9);
            // The originals' matcher adds outlier edges at random; ours pairs as many as can be.
            assert_near(&at("matched truth"), got.matched_truth as f64, golden[0], 0.005 * golden[0]);
            assert_near(&at("matched prediction"), got.matched_prediction as f64, golden[2], 0.005 * golden[2]);
            let golden = numbers(&expected["cover"][index]);
            assert_near(&at("covered"), counts.covering.covered[index], golden[0], 1e-9 * golden[0]);
            assert_near(&at("total"), counts.covering.total as f64, golden[1], 1e-9);
            assert_near(&at("pri"), counts.rand_index[index], expected["pri"][index].as_f64().unwrap(), 1e-9);
            let got = counts.variation_of_information[index];
            assert_near(&at("vi"), got, expected["vi"][index].as_f64().unwrap(), 1e-9);
            assert_eq!(counts.num_regions[index] as u64, expected["regions"][index].as_u64().unwrap(), "{image}");
        }
        let best = expected["cover_best"].as_f64().unwrap();
        assert_near("best", counts.covering.covered_at_best, best, 1e-9 * best);
    }
}

/// The data set's own boundaries are those between its regions, thinned: 26 maps that thinning must get right.
#[test]
fn golden_boundaries_from_regions() {
    let Some(folder) = bench5() else { return };
    for image in IMAGES {
        for (index, drawn) in input(&folder, image).1.iter().enumerate() {
            let regions = read_gray16(folder.join(format!("{image}_seg{index}.png"))).unwrap();
            let derived = Annotation::new(drawn.height(), drawn.width(), &regions.pixels, None).unwrap();
            let differences = derived.boundary().iter().zip(drawn.boundary()).filter(|(a, b)| a != b).count();
            assert_eq!(differences, 0, "{image}, annotator {index}");
        }
    }
}

fn result(folder: &Path, num_thresholds: usize) -> BsdsResult {
    let mut benchmark = BsdsBenchmark::new(Thresholds::new(num_thresholds).unwrap());
    for image in IMAGES {
        benchmark.update(&counts(folder, image, benchmark.thresholds())).unwrap();
    }
    benchmark.result().unwrap()
}

#[test]
fn golden_summary_of_ours() {
    let Some(folder) = bench5() else { return };
    let expected = json(&folder.join("summary.json"))["ours"].clone();
    let got = result(&folder, NUM_THRESHOLDS);
    for (key, got, tolerance) in [
        ("odsT", got.ods_threshold, 1e-3),
        ("odsR", got.ods_recall, 1e-3),
        ("odsP", got.ods_precision, 1e-3),
        ("ods", got.ods, 1e-3),
        ("oisR", got.ois_recall, 1e-3),
        ("oisP", got.ois_precision, 1e-3),
        ("ois", got.ois, 1e-3),
        ("AP", got.ap, 1e-3),
        ("T", got.cover_ods_threshold, 1e-9),
        ("cover_ods", got.cover_ods, 1e-9),
        ("cover_ois", got.cover_ois, 1e-9),
        ("cover_best", got.cover_best, 1e-9),
        ("priT", got.pri_ods_threshold, 1e-9),
        ("pri_ods", got.pri_ods, 1e-9),
        ("pri_ois", got.pri_ois, 1e-9),
        ("viT", got.vi_ods_threshold, 1e-9),
        ("vi_ods", got.vi_ods, 1e-9),
        ("vi_ois", got.vi_ois, 1e-9),
    ] {
        assert_near(key, got, expected[key].as_f64().unwrap(), tolerance);
    }
    assert_eq!(got.images, 5);
}

#[test]
fn golden_summary_as_published() {
    let Some(folder) = bench5() else { return };
    let published = json(&folder.join("summary.json"))["published_test_1"].clone();
    let got = result(&folder, NUM_THRESHOLDS);
    let compare = |key: &str, got: &[f64], tolerance: f64| {
        let expected = numbers(&published[key]);
        assert_eq!(got.len(), expected.len());
        for (index, (&got, expected)) in got.iter().zip(expected).enumerate() {
            assert_near(&format!("{key} {index}"), got, expected, tolerance);
        }
    };
    let boundary = [got.ods_threshold, got.ods_recall, got.ods_precision, got.ods];
    compare("eval_bdry", &[&boundary[..], &[got.ois_recall, got.ois_precision, got.ois, got.ap]].concat(), 1e-3);
    // Six digits are published.
    compare("eval_cover", &[got.cover_ods_threshold, got.cover_ods, got.cover_ois, got.cover_best], 5e-6);
    let pairs = [got.pri_ods_threshold, got.pri_ods, got.pri_ois, got.vi_ods_threshold, got.vi_ods, got.vi_ois];
    compare("eval_RI_VOI", &pairs, 5e-6);
}
