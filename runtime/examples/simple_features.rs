//! What features that nobody learned reach in the network's place: colour, place in the image, and histograms of oriented
//! gradients (HOG), with the same clustering, bank, votes and measures as `hsg eval --no-refine --no-track`.
//!
//! `cargo run --release -p runtime --example simple_features -- --root ../shared/data/camvid --split val [--features
//! hog+color+position] [--grid 12x16] [--bank-split train]` (CamVid's layout; without `--features` all rows).
//!
//! Features of a cell of 8×8 pixels:
//! * `color`: its mean in CIE Lab (sRGB, D65);
//! * `position`: the cell's row and column;
//! * `hog`: how strong the grey image's gradient is in 9 unsigned orientations (N. Dalal and B. Triggs, CVPR 2005, shared
//!   linearly between the two nearest), summed over the cell and over the 7×7 cells around it; square roots of the sums.
//!   Their normalisation by blocks was left out: it cost 1 to 4 points of mIoU on `val`.
//!
//! Each number has mean 0 and variance 1 over the training cells, each group of numbers the same weight; a constant is
//! appended, and the vector scaled to unit length, which is what clustering and votes by cosine take (the constant keeps
//! near and far from the mean apart).

use std::error::Error;
use std::path::PathBuf;

use datasets::{Dataset, DatasetKind};
use evaluation::{ConfusionMatrix, LevelCovering, MIN_REGION_PIXELS, NfCovering, Overlap, RegionF, TruthRegions};
use retrieval::{Bank, BankBuilder, NUM_VOTES, Storage, majority_label};
use segcore::embedding::EmbeddingMap;
use segcore::image::{Frame, ImageSize};
use segcore::label_space::IGNORE;
use segcore::preprocess::ResizePlan;
use segcore::refine::upsample_nearest;
use segcore::spherical_kmeans::{KmeansSpec, SegmentMap, SphericalKmeans, Start};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Pixels per cell.
const STRIDE: usize = 8;
/// Rounds of k-means.
const ROUNDS: usize = 15;
/// Orientations of a histogram.
const ORIENTATIONS: usize = 9;
/// Cells on every side that a histogram reaches beyond its own.
const WINDOWS: [usize; 2] = [0, 3];
/// Numbers of the histograms of a cell.
const NUM_HOG: usize = WINDOWS.len() * ORIENTATIONS;
/// Groups of features, and how many numbers of each stand for one cell.
const GROUPS: [(&str, usize); 3] = [("hog", NUM_HOG), ("color", 3), ("position", 2)];
/// The appended constant, in standard deviations of a group.
const CONSTANT: f32 = 1.0;

/// The rows of the table in docs/benchmarks/accuracy.md.
const ALL_FEATURES: [&str; 4] = ["position", "color", "color+position", "hog+color+position"];

struct Options {
    root: PathBuf,
    split: String,
    bank_split: String,
    features: Vec<String>,
    grid: (usize, usize),
}

fn main() -> Result<()> {
    let options = options()?;
    println!(
        "{:<20} {:>7} {:>9} {:>9} {:>11} {:>9}",
        "features", "mIoU", "accuracy", "covering", "NFCovering", "region F"
    );
    for features in &options.features {
        let figures = measure(&options, features)?;
        let [miou, accuracy, covering, nf_covering, region_f] =
            figures.map(|figure| figure.map_or("-".to_owned(), |figure| format!("{:.1}", 100.0 * figure)));
        println!("{features:<20} {miou:>7} {accuracy:>9} {covering:>9} {nf_covering:>11} {region_f:>9}");
    }
    Ok(())
}

fn options() -> Result<Options> {
    let (mut root, mut split, mut bank_split) = (None, "val".to_owned(), "train".to_owned());
    let (mut features, mut grid) = (ALL_FEATURES.map(str::to_owned).to_vec(), (12, 16));
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--root" => root = Some(PathBuf::from(value)),
            "--split" => split = value,
            "--bank-split" => bank_split = value,
            "--features" => features = vec![value],
            "--grid" => {
                let parts = value.split_once('x').and_then(|(y, x)| Some((y.parse().ok()?, x.parse().ok()?)));
                grid = parts.ok_or_else(|| format!("--grid {value}: expected ROWSxCOLUMNS, such as 12x16"))?;
            }
            _ => return Err(format!("{option}: expected --root, --split, --bank-split, --features or --grid").into()),
        }
    }
    let root = root.ok_or("--root is missing: name the folder of CamVid")?;
    Ok(Options { root, split, bank_split, features, grid })
}

/// mIoU, accuracy, and covering, NFCovering and region F of the base segments.
fn measure(options: &Options, features: &str) -> Result<[Option<f64>; 5]> {
    let open = |split: &str| -> Result<Box<dyn Dataset>> {
        let dataset = datasets::open(DatasetKind::CamVid, &options.root, split, &[])?;
        dataset.check_annotations()?;
        Ok(dataset)
    };
    let (train, queries) = (open(&options.bank_split)?, open(&options.split)?);
    let space = queries.label_space();
    let mut segmenter = Segmenter::new(Features::new(features)?, options.grid)?;
    for sample in train.samples() {
        segmenter.features.observe(&train.read_image(sample)?);
    }
    let mut builder = BankBuilder::new(segmenter.features.dim(), "", &space.name);
    for sample in train.samples() {
        segmenter.run(&train.read_image(sample)?)?;
        let truth = train.read_annotation(sample)?;
        let labels = majority_label(&segmenter.slots, &truth.train_ids, segmenter.map.num_slots, IGNORE);
        for (slot, prototype) in segmenter.map.prototypes.chunks_exact(segmenter.features.dim()).enumerate() {
            if let Some(label) = labels[slot].filter(|_| segmenter.map.areas[slot] > 0) {
                builder.push(prototype, label)?;
            }
        }
    }
    let bank = Bank::from_bytes(builder.finish(Storage::F32)?.bytes(), "in memory".as_ref())?;

    let mut confusion = ConfusionMatrix::new(space.num_classes())?;
    let (mut covering, mut nf_covering, mut region_f) =
        (LevelCovering::default(), NfCovering::default(), RegionF::default());
    let mut votes = Vec::new();
    for sample in queries.samples() {
        segmenter.run(&queries.read_image(sample)?)?;
        let truth = queries.read_annotation(sample)?;
        // An empty slot's prototype is zero; it has no pixel that would ask for its vote.
        bank.vote(&segmenter.map.prototypes, NUM_VOTES, space.num_classes(), &mut votes)?;
        let prediction: Vec<u8> = segmenter.slots.iter().map(|&slot| votes[usize::from(slot)].train_id).collect();
        confusion.update(&truth.train_ids, &prediction, IGNORE)?;
        let regions = TruthRegions::new(truth.size.height, truth.size.width, &truth.train_ids, IGNORE)?;
        let overlap = Overlap::of_labels(&segmenter.slots, segmenter.map.num_slots, &regions)?;
        let is_thing = |train_id| space.class(train_id).is_some_and(|class| class.thing);
        covering.update(&overlap);
        nf_covering.update(&overlap, &regions.choose(MIN_REGION_PIXELS, is_thing))?;
        region_f.update(&overlap, &regions.choose(MIN_REGION_PIXELS, |_| true))?;
    }
    let semantic = confusion.result();
    Ok([semantic.miou, semantic.accuracy, covering.result(), nf_covering.result(), region_f.result()])
}

/// Frames → base segments, as the pipeline makes them of the network's features.
struct Segmenter {
    features: Features,
    kmeans: SphericalKmeans,
    embedding: EmbeddingMap,
    map: SegmentMap,
    columns: Vec<usize>,
    /// Slot of every pixel.
    slots: Vec<u16>,
}

impl Segmenter {
    fn new(features: Features, (grid_rows, grid_columns): (usize, usize)) -> Result<Self> {
        let spec = KmeansSpec { grid_rows, grid_columns, rounds: ROUNDS };
        let kmeans = SphericalKmeans::new(spec, features.dim(), 0)?;
        let (embedding, map) = (EmbeddingMap::default(), SegmentMap::default());
        Ok(Self { features, kmeans, embedding, map, columns: Vec::new(), slots: Vec::new() })
    }

    fn run(&mut self, frame: &Frame) -> Result<()> {
        self.features.embed(frame, &mut self.embedding);
        self.kmeans.run(&self.embedding, Start::Grid, &mut self.map)?;
        let plan = ResizePlan { source: frame.size, content: frame.size, padded: frame.size };
        self.slots.resize(frame.size.num_pixels(), 0);
        upsample_nearest(&mut self.columns, &plan, STRIDE, &self.map, &mut self.slots);
        Ok(())
    }
}

/// Which features, and how they are scaled.
struct Features {
    /// In the order of [`GROUPS`].
    wanted: [bool; GROUPS.len()],
    num_numbers: usize,
    count: f64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Features {
    fn new(names: &str) -> Result<Self> {
        let names: Vec<&str> = names.split('+').collect();
        if let Some(other) = names.iter().find(|name| !GROUPS.iter().any(|(group, _)| group == *name)) {
            return Err(format!("--features: expected hog, color, position with + between them, got `{other}`").into());
        }
        let wanted = GROUPS.map(|(group, _)| names.contains(&group));
        let num_numbers = GROUPS.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|((_, n), _)| n).sum();
        Ok(Self { wanted, num_numbers, count: 0.0, sums: vec![0.0; num_numbers], squares: vec![0.0; num_numbers] })
    }

    /// Numbers per cell, the constant included.
    fn dim(&self) -> usize {
        self.num_numbers + 1
    }

    /// Takes a training frame into mean and variance.
    fn observe(&mut self, frame: &Frame) {
        let raw = self.raw(frame);
        for cell in raw.chunks_exact(self.num_numbers) {
            self.count += 1.0;
            for ((sum, square), &value) in self.sums.iter_mut().zip(&mut self.squares).zip(cell) {
                *sum += f64::from(value);
                *square += f64::from(value).powi(2);
            }
        }
    }

    /// Unit vectors of all cells.
    fn embed(&self, frame: &Frame, out: &mut EmbeddingMap) {
        (out.height, out.width) = cells(frame.size);
        out.dim = self.dim();
        out.data.clear();
        let count = self.count.max(1.0);
        let groups = GROUPS.iter().zip(self.wanted).filter(|(_, wanted)| *wanted).map(|((_, num), _)| *num);
        let weights: Vec<f32> = groups.flat_map(|num| std::iter::repeat_n(1.0 / (num as f32).sqrt(), num)).collect();
        let scaled: Vec<(f32, f32)> = self
            .sums
            .iter()
            .zip(&self.squares)
            .zip(&weights)
            .map(|((sum, square), weight)| {
                let mean = sum / count;
                let deviation = (square / count - mean * mean).max(0.0).sqrt().max(1e-6);
                (mean as f32, weight / deviation as f32)
            })
            .collect();
        for cell in self.raw(frame).chunks_exact(self.num_numbers) {
            out.data.extend(cell.iter().zip(&scaled).map(|(value, (mean, scale))| (value - mean) * scale));
            out.data.push(CONSTANT);
        }
        out.normalize_in_place();
    }

    /// The wanted numbers of all cells, as they come.
    fn raw(&self, frame: &Frame) -> Vec<f32> {
        let (height, width) = cells(frame.size);
        let hog = self.wanted[0].then(|| hog(frame));
        let mut out = Vec::with_capacity(height * width * self.num_numbers);
        for y in 0..height {
            for x in 0..width {
                if let Some(hog) = &hog {
                    out.extend_from_slice(&hog[(y * width + x) * NUM_HOG..][..NUM_HOG]);
                }
                if self.wanted[1] {
                    out.extend(mean_lab(frame, y, x));
                }
                if self.wanted[2] {
                    out.extend([y as f32 / height as f32, x as f32 / width as f32]);
                }
            }
        }
        out
    }
}

/// Rows and columns of whole cells; what is left over at the right and below belongs to the last ones.
fn cells(size: ImageSize) -> (usize, usize) {
    ((size.height / STRIDE).max(1), (size.width / STRIDE).max(1))
}

fn mean_lab(frame: &Frame, y: usize, x: usize) -> [f32; 3] {
    let view = frame.view();
    let mut sum = [0.0f32; 3];
    for row in y * STRIDE..((y + 1) * STRIDE).min(frame.size.height) {
        let pixels = &view.row(row)[3 * x * STRIDE..(3 * (x + 1) * STRIDE).min(3 * frame.size.width)];
        for pixel in pixels.chunks_exact(3) {
            let lab = lab([pixel[0], pixel[1], pixel[2]]);
            sum.iter_mut().zip(lab).for_each(|(sum, value)| *sum += value);
        }
    }
    // The number of pixels is the same in all cells.
    sum.map(|sum| sum / (STRIDE * STRIDE) as f32)
}

/// sRGB → CIE Lab, D65.
fn lab(rgb: [u8; 3]) -> [f32; 3] {
    let [r, g, b] = rgb.map(|byte| {
        let value = f32::from(byte) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    });
    let [x, y, z] = [
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    ]
    .map(|value| if value > 0.008_856 { value.cbrt() } else { 7.787 * value + 16.0 / 116.0 });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// `[rows, columns, NUM_HOG]`.
fn hog(frame: &Frame) -> Vec<f32> {
    let ImageSize { width, height } = frame.size;
    let view = frame.view();
    let grey: Vec<f32> = (0..height)
        .flat_map(|y| view.row(y).chunks_exact(3))
        .map(|p| (0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2])) / 255.0)
        .collect();
    let (rows, columns) = cells(frame.size);
    let mut histograms = vec![[0.0f32; ORIENTATIONS]; rows * columns];
    for y in 0..height {
        for x in 0..width {
            let at = |y: usize, x: usize| grey[y * width + x];
            let dx = at(y, (x + 1).min(width - 1)) - at(y, x.saturating_sub(1));
            let dy = at((y + 1).min(height - 1), x) - at(y.saturating_sub(1), x);
            let magnitude = dx.hypot(dy);
            let place =
                dy.atan2(dx).rem_euclid(std::f32::consts::PI) / std::f32::consts::PI * ORIENTATIONS as f32 - 0.5;
            let share = place - place.floor();
            let bin = |offset: i32| (place.floor() as i32 + offset).rem_euclid(ORIENTATIONS as i32) as usize;
            let cell = (y / STRIDE).min(rows - 1) * columns + (x / STRIDE).min(columns - 1);
            histograms[cell][bin(0)] += magnitude * (1.0 - share);
            histograms[cell][bin(1)] += magnitude * share;
        }
    }
    let mut out = Vec::with_capacity(rows * columns * NUM_HOG);
    for y in 0..rows {
        for x in 0..columns {
            for reach in WINDOWS {
                let mut sum = [0.0f32; ORIENTATIONS];
                for ny in y.saturating_sub(reach)..(y + reach + 1).min(rows) {
                    for nx in x.saturating_sub(reach)..(x + reach + 1).min(columns) {
                        sum.iter_mut().zip(&histograms[ny * columns + nx]).for_each(|(sum, value)| *sum += value);
                    }
                }
                out.extend(sum.map(f32::sqrt));
            }
        }
    }
    out
}
