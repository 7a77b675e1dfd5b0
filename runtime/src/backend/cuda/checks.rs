//! The kernels beside the Rust code that they must equal, on made-up data, on any [`Executor`].
//!
//! Outputs are overwritten with nonsense before every run, so that what a kernel leaves out is seen. Where both sides round
//! the same way (preprocessing, similarities in 64 bits) results must be the same bits; elsewhere labels may differ only
//! where the choice hangs on rounding: within [`TIE`] of the best.

use retrieval::{Bank, BankBuilder, Neighbours, Storage};
use segcore::embedding::EmbeddingMap;
use segcore::hierarchy::NONE;
use segcore::image::{ImageSize, ImageView, PixelFormat};
use segcore::preprocess::{PreprocessSpec, Preprocessor, ResizePlan};
use segcore::refine::{Refiner, refine_plain};
use segcore::spherical_kmeans::{KmeansSpec, SegmentMap, SphericalKmeans, Start, scalar};
use segcore::yuv::{self, YuvColors, YuvMatrix};

use super::executor::{Executor, Memory};
use super::{
    Found, FrameSteps, Kmeans, LastSegments, MapAxes, NO_NEIGHBOUR, NONE_NOT_FINITE, Preprocess, Refine, TopK,
};
use crate::backend::BackendError;
use crate::pipeline::group::{PositionAxes, fill_axis};
use crate::pipeline::segment::distance_to_segments;

/// Differences of similarities that another order of sums makes.
pub const TIE: f64 = 1e-5;
/// Least share of cells that get the same label after all rounds: a label that hangs on rounding moves its cluster a little,
/// and with it others.
pub const LEAST_AGREEMENT: f64 = 0.99;

/// What a comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What was compared.
    pub name: String,
    /// Whether it is as it must be.
    pub passed: bool,
    /// The largest difference of numbers, where numbers were compared.
    pub largest_difference: f64,
    /// In words.
    pub detail: String,
}

/// Seeded numbers (SplitMix64): the same on every machine.
#[derive(Clone, Debug)]
pub struct Numbers(pub u64);

impl Numbers {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in −1 to 1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Roughly normal, variance 1.
    pub fn normal(&mut self) -> f32 {
        (self.uniform() + self.uniform() + self.uniform()) * 1.0
    }
}

/// Features as a network gives them: `num_regions` directions, each where its seed is the nearest, blended at borders, with
/// noise; unit length. One cell in 500 is zero, one NaN.
pub fn features(height: usize, width: usize, dim: usize, num_regions: usize, numbers: &mut Numbers) -> EmbeddingMap {
    let directions: Vec<f32> = (0..num_regions * dim).map(|_| numbers.normal()).collect();
    let seeds: Vec<[f32; 2]> = (0..num_regions).map(|_| [numbers.uniform(), numbers.uniform()]).collect();
    let mut map = EmbeddingMap::zeros(height, width, dim);
    for (i, cell) in map.data.chunks_exact_mut(dim).enumerate() {
        let y = 2.0 * (i / width) as f32 / height as f32 - 1.0;
        let x = 2.0 * (i % width) as f32 / width as f32 - 1.0;
        let distance = |seed: &[f32; 2]| (seed[0] - y).powi(2) + (seed[1] - x).powi(2);
        let mut order: Vec<usize> = (0..num_regions).collect();
        order.sort_unstable_by(|&a, &b| distance(&seeds[a]).total_cmp(&distance(&seeds[b])));
        let (first, second) = (order[0], order[order.len().min(2) - 1]);
        let share = 0.5 * (-20.0 * (distance(&seeds[second]).sqrt() - distance(&seeds[first]).sqrt())).exp();
        for (d, value) in cell.iter_mut().enumerate() {
            *value = (1.0 - share) * directions[first * dim + d]
                + share * directions[second * dim + d]
                + 0.4 * numbers.normal();
        }
        segcore::embedding::normalize(cell);
        match numbers.below(1000) {
            0 | 1 => cell.fill(0.0),
            2 => cell[dim / 2] = f32::NAN,
            _ => {}
        }
    }
    map
}

/// The formats that have kernels; those of YUV with different meanings of their numbers.
pub fn formats() -> [PixelFormat; 7] {
    let colors = |matrix, full_range| YuvColors { matrix, full_range };
    [
        PixelFormat::Gray8,
        PixelFormat::Rgb8,
        PixelFormat::Yuyv8(YuvColors::default()),
        PixelFormat::Uyvy8(colors(YuvMatrix::Bt2020, false)),
        PixelFormat::Nv12(YuvColors::default()),
        PixelFormat::Yuyv8(colors(YuvMatrix::Bt601, true)),
        PixelFormat::Nv12(colors(YuvMatrix::Bt709, false)),
    ]
}

/// Bytes of a made-up frame, with all padding: soft shapes and noise.
pub fn frame(format: PixelFormat, size: ImageSize, stride: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = vec![0u8; stride * format.num_rows(size.height)];
    for (i, byte) in bytes.iter_mut().enumerate() {
        let (y, x) = (i / stride, i % stride);
        let soft = 128.0 + 80.0 * (y as f32 / 17.0).sin() * (x as f32 / 29.0).cos();
        *byte = (soft + 60.0 * numbers.uniform()).clamp(0.0, 255.0) as u8;
    }
    bytes
}

/// Specification of the shipped models' kind.
pub fn preprocess_spec(input: ImageSize) -> PreprocessSpec {
    PreprocessSpec { input, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], multiple: 8 }
}

/// Preprocessing of a frame in every format, as float and half: the same bits.
///
/// # Errors
/// When a kernel fails.
pub fn preprocess<E: Executor>(
    executor: &E,
    input: ImageSize,
    source: ImageSize,
    numbers: &mut Numbers,
) -> Result<Vec<Outcome>, BackendError> {
    let spec = preprocess_spec(input);
    let mut outcomes = Vec::new();
    for format in formats() {
        let stride = format.row_bytes(source.width) + if numbers.below(2) == 0 { 0 } else { 24 };
        let bytes = frame(format, source, stride, numbers);
        let mut rgb = vec![0; PixelFormat::Rgb8.frame_bytes(source)];
        let view = ImageView::new(source, format, stride, &bytes).map_err(as_backend)?;
        yuv::to_rgb(&view, &mut rgb).map_err(as_backend)?;
        let view = ImageView::new(source, PixelFormat::Rgb8, source.width * 3, &rgb).map_err(as_backend)?;
        let mut oracle = Preprocessor::new(&spec, source).map_err(as_backend)?;
        let mut expected = vec![0.0; oracle.output_len()];
        oracle.run(&view, &mut expected).map_err(as_backend)?;
        for half in [false, true] {
            let mut kernel = Preprocess::new(executor, &spec, source, format, stride, half)?;
            kernel.poison(executor)?;
            kernel.upload(executor, &bytes)?;
            kernel.run(executor)?;
            let got = kernel.download(executor)?;
            let (mut num_different, mut largest) = (0, 0.0f64);
            for (&got, &expected) in got.iter().zip(&expected) {
                let expected = if half { half::f16::from_f32(expected).to_f32() } else { expected };
                if got != expected {
                    num_different += 1;
                    let difference = f64::from((got - expected).abs());
                    largest = if difference >= largest { difference } else { f64::NAN };
                }
            }
            let kind = if half { "half" } else { "float" };
            outcomes.push(Outcome {
                name: format!("preprocess {format:?} {source} → {} {kind}", kernel.plan().padded),
                passed: num_different == 0 && got.len() == expected.len(),
                largest_difference: largest,
                detail: format!("{num_different} of {} values differ", expected.len()),
            });
        }
    }
    Ok(outcomes)
}

fn as_backend(error: impl std::fmt::Display) -> BackendError {
    BackendError::new(crate::backend::BackendErrorKind::Run, error.to_string())
}

/// A case of clustering and refinement.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Size of the source frame.
    pub source: ImageSize,
    /// Input of the network.
    pub input: ImageSize,
    /// Length of features.
    pub dim: usize,
    /// Clusters and rounds.
    pub spec: KmeansSpec,
    /// Leave out some cells, as padding is left out.
    pub masked: bool,
}

/// Clusters from the grid and warm (with clusters that have become empty), and refines: against `SphericalKmeans` (the
/// scalar code where that is quick) and `Refiner`.
///
/// # Errors
/// When a kernel fails.
pub fn cluster<E: Executor>(executor: &E, scene: &Scene, numbers: &mut Numbers) -> Result<Vec<Outcome>, BackendError> {
    const STRIDE: usize = 8;
    let plan = ResizePlan::new(&preprocess_spec(scene.input), scene.source).map_err(as_backend)?;
    let (height, width) = plan.content_cells(STRIDE);
    let (dim, spec) = (scene.dim, scene.spec);
    let num_slots = spec.num_slots();
    let map = features(height, width, dim, num_slots / 4 + 2, numbers);
    let mask: Option<Vec<bool>> = scene.masked.then(|| (0..height * width).map(|i| i % width < width - 2).collect());
    let mask = mask.as_deref();
    let mut outcomes = Vec::new();
    let name = |what: &str| format!("{what} {height}×{width}×{dim}, {num_slots} clusters");

    let mut kmeans = Kmeans::new(executor, spec, dim, (height, width), mask)?;
    kmeans.poison(executor)?;
    // Features by way of the network's layout, on a map that is larger.
    let (padded_height, padded_width) = (height + 1, width + 3);
    let mut network = vec![f32::NAN; dim * padded_height * padded_width];
    for (i, cell) in map.data.chunks_exact(dim).enumerate() {
        for (d, &value) in cell.iter().enumerate() {
            network[(d * padded_height + i / width) * padded_width + i % width] = value;
        }
    }
    let network = Memory::of(executor, &network)?;
    kmeans.gather(executor, &network, (padded_height, padded_width))?;
    let gathered = kmeans.features().to_vec(executor, map.data.len())?;
    let num_different = gathered.iter().zip(&map.data).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    outcomes.push(Outcome {
        name: name("k-means gather"),
        passed: num_different == 0,
        largest_difference: 0.0,
        detail: format!("{num_different} of {} values differ", map.data.len()),
    });

    // From the grid.
    let mut oracle = Oracle::new(spec, dim, height * width)?;
    let mut expected = SegmentMap::default();
    oracle.run(&map, mask, Start::Grid, &mut expected)?;
    kmeans.run(executor, Start::Grid)?;
    outcomes.extend(compare(executor, &kmeans, &map, mask, &expected, &name("k-means from the grid"))?);

    // Warm, on the next frame, from the same centroids. Small maps: some are doubled, so that the later of two is empty.
    let mut centroids = oracle.centroids().to_vec();
    let depth = dim + 2;
    let doubled = if oracle.is_scalar() { vec![1, num_slots / 2, num_slots - 1] } else { Vec::new() };
    for &slot in doubled.iter().filter(|&&slot| slot > 0 && slot < num_slots) {
        let first = numbers.below(slot);
        centroids.copy_within(first * depth..(first + 1) * depth, slot * depth);
    }
    oracle.set_centroids(&centroids);
    let mut next = map.clone();
    for cell in next.data.chunks_exact_mut(dim) {
        cell.iter_mut().for_each(|value| *value += 0.02 * numbers.normal());
        if cell.iter().all(|value| value.is_finite()) {
            segcore::embedding::normalize(cell);
        }
    }
    let mut expected = SegmentMap::default();
    oracle.run(&next, mask, Start::Warm, &mut expected)?;
    kmeans.poison(executor)?;
    kmeans.set_centroids(executor, &centroids)?;
    kmeans.upload(executor, &next.data)?;
    kmeans.run(executor, Start::Warm)?;
    let warm_name = name("k-means warm");
    outcomes.extend(compare(executor, &kmeans, &next, mask, &expected, &warm_name)?);
    let reseeded = kmeans.read_reseeded(executor)?;
    outcomes.push(Outcome {
        name: format!("{warm_name}: re-seeded"),
        passed: reseeded == oracle.reseeded() && reseeded.is_empty() <= doubled.is_empty(),
        largest_difference: 0.0,
        detail: format!("{reseeded:?}, expected {:?}", oracle.reseeded()),
    });

    outcomes.extend(frame_steps(executor, &kmeans, &next, &map, &warm_name)?);

    // Refinement of what is on the device now.
    let mut refine = Refine::new(executor, &plan, STRIDE, dim)?;
    refine.poison(executor)?;
    refine.run(executor, &kmeans)?;
    let got = refine.read(executor)?;
    let mut segments = expected;
    segments.labels = kmeans.read_labels(executor)?;
    // Around a cell that is not finite the plain code chooses by location; `Refiner` and the kernel take the lowest label.
    // So the plain code only says where a choice hangs on rounding.
    let mut expected_labels = vec![0; scene.source.num_pixels()];
    let mut margins = vec![0.0; expected_labels.len()];
    let mut refiner = Refiner::new(&plan, STRIDE);
    let centroids = kmeans.read_centroids(executor)?;
    refine_plain(&refiner, &next, &segments, &centroids, &mut expected_labels, &mut margins).map_err(as_backend)?;
    refiner.run(&next, &segments, &centroids, &mut expected_labels).map_err(as_backend)?;
    let (mut num_wrong, mut num_close, mut num_chosen) = (0, 0, 0);
    for ((&got, &expected), &margin) in got.iter().zip(&expected_labels).zip(&margins) {
        num_chosen += usize::from(margin.is_finite());
        if got != expected {
            let is_close = margin.is_nan() || f64::from(margin) < TIE;
            num_close += usize::from(is_close);
            num_wrong += usize::from(!is_close);
        }
    }
    outcomes.push(Outcome {
        name: format!("refine {height}×{width}×{dim} → {}", scene.source),
        passed: num_wrong == 0 && num_chosen > 0 && num_close * 1000 <= num_chosen,
        largest_difference: 0.0,
        detail: format!("{num_chosen} pixels had a choice: {num_wrong} differ, {num_close} more hang on rounding"),
    });
    Ok(outcomes)
}

/// Entries of a position table.
const EXTENT: usize = 14;

/// What lies between the stages, after a run of `kmeans` on `features`: against the pipeline's own code. `other`: features of the
/// same size that are not finite everywhere.
fn frame_steps<E: Executor>(
    executor: &E,
    kmeans: &Kmeans<E>,
    features: &EmbeddingMap,
    other: &EmbeddingMap,
    name: &str,
) -> Result<Vec<Outcome>, BackendError> {
    let (height, width, dim) = (features.height, features.width, features.dim);
    let areas = kmeans.read_areas(executor)?;
    let num_slots = areas.len();
    let segments = SegmentMap {
        height,
        width,
        num_slots,
        labels: kmeans.read_labels(executor)?,
        areas,
        prototypes: kmeans.read_prototypes(executor)?,
    };
    let (mut rows, mut columns) = (Vec::new(), Vec::new());
    fill_axis(&mut rows, height, EXTENT);
    fill_axis(&mut columns, width, EXTENT);
    let mut steps = FrameSteps::new(executor, MapAxes { rows: &rows, columns: &columns }, (dim, num_slots, EXTENT))?;
    let mut outcomes = Vec::new();

    // Finite or not: features have a cell of NaN now and then.
    let mut wrong = 0;
    let mut repaired = other.data.clone();
    repaired.iter_mut().for_each(|value| *value = if value.is_finite() { *value } else { 0.0 });
    let mut late = repaired.clone();
    let last = late.len() - 1;
    late[last] = f32::NEG_INFINITY;
    for values in [&other.data, &repaired, &late] {
        let memory = Memory::of(executor, values)?;
        steps.check_finite(executor, &memory)?;
        let found = steps.first_not_finite().to_vec(executor, 1)?[0];
        let expected = crate::backend::first_not_finite(values).map_or(NONE_NOT_FINITE, |index| index as u32);
        wrong += usize::from(found != expected);
    }
    outcomes.push(Outcome {
        name: format!("{name}: first value that is none"),
        passed: wrong == 0,
        largest_difference: 0.0,
        detail: format!("{wrong} of 3 lists differ"),
    });

    // Distances: to the own segments, and to those of a map of another size.
    let (other_height, other_width) = (height.div_ceil(2), width + 3);
    let labels: Vec<u16> =
        (0..other_height * other_width).map(|i| if i % 5 == 0 { NONE } else { (i * 7 % num_slots) as u16 }).collect();
    let last_map = SegmentMap {
        height: other_height,
        width: other_width,
        num_slots,
        labels,
        areas: Vec::new(),
        prototypes: segments.prototypes.clone(),
    };
    let other_segments = LastSegments {
        labels: Memory::of(executor, &last_map.labels)?,
        size: (other_height, other_width),
        prototypes: Memory::of(executor, &last_map.prototypes)?,
    };
    let mut largest = 0.0f64;
    for is_own in [true, false] {
        steps.compare(executor, kmeans, (!is_own).then_some(&other_segments))?;
        let sums = steps.sums().to_vec(executor, steps.sums().len())?;
        let expected = distance_to_segments(features, if is_own { &segments } else { &last_map });
        let difference = f64::from((FrameSteps::<E>::mean_distance(&sums) - expected).abs());
        // Features that are not finite make both NaN.
        let both = expected.is_nan() && FrameSteps::<E>::mean_distance(&sums).is_nan();
        largest = largest.max(if both {
            0.0
        } else if difference.is_nan() {
            f64::INFINITY
        } else {
            difference
        });
    }
    outcomes.push(Outcome {
        name: format!("{name}: distances"),
        passed: largest < TIE,
        largest_difference: largest,
        detail: "mean distances to own and other segments".to_owned(),
    });

    // What the grouping network is given.
    let mut positions = Vec::new();
    PositionAxes::default().weights(&segments, EXTENT, num_slots, &mut positions);
    let outputs = [
        Memory::of(executor, &vec![f32::NAN; dim * num_slots])?,
        Memory::of(executor, &vec![f32::NAN; 2 * EXTENT * num_slots])?,
        Memory::of(executor, &vec![f32::NAN; num_slots])?,
    ];
    steps.grouping_inputs(executor, kmeans, &outputs[0], &outputs[1], &outputs[2])?;
    let got = outputs[0].to_vec(executor, dim * num_slots)?;
    let transposed = got
        .iter()
        .enumerate()
        .all(|(i, value)| value.to_bits() == segments.prototypes[i % num_slots * dim + i / num_slots].to_bits());
    let valid = outputs[2].to_vec(executor, num_slots)?;
    let valid_right = valid.iter().zip(&segments.areas).all(|(&valid, &area)| valid == f32::from(u8::from(area > 0)));
    let mut largest = 0.0f64;
    for (got, expected) in outputs[1].to_vec(executor, positions.len())?.iter().zip(&positions) {
        let difference = f64::from((got - expected).abs());
        largest = if difference.is_nan() { f64::INFINITY } else { largest.max(difference) };
    }
    outcomes.push(Outcome {
        name: format!("{name}: inputs of the grouping network"),
        passed: transposed && valid_right && largest < TIE,
        largest_difference: largest,
        detail: format!("features {transposed}, mask {valid_right}"),
    });
    Ok(outcomes)
}

/// The scalar code, or the vector code where that would take seconds.
enum Oracle {
    Scalar(KmeansSpec, scalar::ScalarState),
    Vector(Box<SphericalKmeans>),
}

impl Oracle {
    fn new(spec: KmeansSpec, dim: usize, num_cells: usize) -> Result<Self, BackendError> {
        Ok(if num_cells * spec.num_slots() < 200_000 {
            Self::Scalar(spec, scalar::ScalarState::default())
        } else {
            Self::Vector(Box::new(SphericalKmeans::new(spec, dim, 0).map_err(as_backend)?))
        })
    }

    fn run(
        &mut self,
        map: &EmbeddingMap,
        mask: Option<&[bool]>,
        start: Start,
        out: &mut SegmentMap,
    ) -> Result<(), BackendError> {
        match self {
            Self::Scalar(spec, state) => scalar::run(spec, map, mask, start == Start::Warm, state, out),
            Self::Vector(kmeans) => kmeans.run_masked(map, mask, start, out),
        }
        .map_err(as_backend)
    }

    const fn is_scalar(&self) -> bool {
        matches!(self, Self::Scalar(..))
    }

    /// What a warm start begins with; the vector code keeps its own.
    fn set_centroids(&mut self, centroids: &[f32]) {
        if let Self::Scalar(_, state) = self {
            centroids.clone_into(&mut state.centroids);
        }
    }

    fn reseeded(&self) -> &[u32] {
        match self {
            Self::Scalar(_, state) => &state.reseeded,
            Self::Vector(kmeans) => kmeans.reseeded(),
        }
    }

    fn centroids(&self) -> &[f32] {
        match self {
            Self::Scalar(_, state) => &state.centroids,
            Self::Vector(kmeans) => kmeans.centroids(),
        }
    }
}

/// What is on the device against `expected`, and against itself: every label must be that of the best centroid, areas and
/// prototypes those of the labels.
fn compare<E: Executor>(
    executor: &E,
    kmeans: &Kmeans<E>,
    map: &EmbeddingMap,
    mask: Option<&[bool]>,
    expected: &SegmentMap,
    name: &str,
) -> Result<Vec<Outcome>, BackendError> {
    let (dim, num_cells) = (map.dim, map.num_cells());
    let depth = dim + 2;
    let labels = kmeans.read_labels(executor)?;
    let centroids = kmeans.read_centroids(executor)?;
    let num_slots = centroids.len() / depth;
    let agreement = labels.iter().zip(&expected.labels).filter(|(a, b)| a == b).count() as f64 / num_cells as f64;
    let (mut num_wrong, mut largest) = (0, 0.0f64);
    let rows = scalar::rows_with_location(map);
    for (i, (&label, row)) in labels.iter().zip(rows.chunks_exact(depth)).enumerate() {
        if mask.is_some_and(|mask| !mask[i]) {
            num_wrong += usize::from(label != NONE);
            continue;
        }
        let similarity = |slot: usize| -> f64 {
            let centroid = &centroids[slot * depth..(slot + 1) * depth];
            row.iter().zip(centroid).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let best = (0..num_slots).map(similarity).fold(f64::NEG_INFINITY, f64::max);
        let behind = if usize::from(label) < num_slots { best - similarity(label.into()) } else { f64::INFINITY };
        largest = largest.max(behind);
        num_wrong += usize::from(behind.is_nan() || behind > TIE);
    }
    let mut areas = vec![0u32; num_slots];
    let mut sums = vec![0.0f64; num_slots * dim];
    for (i, &label) in labels.iter().enumerate() {
        if let Some(area) = areas.get_mut(usize::from(label)) {
            *area += 1;
            let row = &map.data[i * dim..(i + 1) * dim];
            if row.iter().all(|value| value.is_finite()) {
                let sums = &mut sums[usize::from(label) * dim..][..dim];
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
    }
    let mut prototypes_off = 0.0f64;
    for (got, sum) in kmeans.read_prototypes(executor)?.chunks_exact(dim).zip(sums.chunks_exact(dim)) {
        let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
        for (&got, &sum) in got.iter().zip(sum) {
            let expected = if norm >= 1e-12 { sum / norm } else { 0.0 };
            let difference = (f64::from(got) - expected).abs();
            prototypes_off = if difference.is_nan() { f64::INFINITY } else { prototypes_off.max(difference) };
        }
    }
    let areas_right = kmeans.read_areas(executor)? == areas;
    let rounds = kmeans.read_rounds(executor)?;
    Ok(vec![
        Outcome {
            name: name.to_owned(),
            passed: agreement >= LEAST_AGREEMENT,
            largest_difference: 1.0 - agreement,
            detail: format!("{:.3} % of the labels as in Rust, after {rounds} rounds", agreement * 100.0),
        },
        Outcome {
            name: format!("{name}: best centroid"),
            passed: num_wrong == 0,
            largest_difference: largest,
            detail: format!("{num_wrong} of {num_cells} cells are not in their best cluster"),
        },
        Outcome {
            name: format!("{name}: areas, prototypes"),
            passed: areas_right && prototypes_off < TIE,
            largest_difference: prototypes_off,
            detail: format!("areas {}", if areas_right { "right" } else { "wrong" }),
        },
    ])
}

/// A bank of random prototypes, some of them several times, and queries near them, between them, zero and not finite.
///
/// # Errors
/// When the bank cannot be made.
pub fn bank_and_queries(
    num_prototypes: usize,
    dim: usize,
    storage: Storage,
    num_queries: usize,
    numbers: &mut Numbers,
) -> Result<(Bank, Vec<f32>), BackendError> {
    let mut builder = BankBuilder::new(dim, &"0".repeat(64), "cityscapes-19");
    let mut prototype = vec![0.0f32; dim];
    // Some for the queries to lie near to.
    let mut examples: Vec<f32> = Vec::new();
    for i in 0..num_prototypes {
        // Every ninth is the same once more: ties.
        if i % 9 != 8 {
            // Half of them in a bundle, as features of one class are.
            let bundled = numbers.below(2) == 0;
            for (d, value) in prototype.iter_mut().enumerate() {
                *value = numbers.normal() + if bundled { 2.0 * (d as f32 * 0.7).sin() } else { 0.0 };
            }
        }
        if examples.len() < num_queries * dim && i * num_queries / num_prototypes * dim >= examples.len() {
            examples.extend_from_slice(&prototype);
        }
        builder.push(&prototype, (i % 19) as u8).map_err(as_backend)?;
    }
    examples.resize(num_queries * dim, 0.3);
    for (q, query) in examples.chunks_exact_mut(dim).enumerate() {
        match q % 8 {
            0 => {}
            1 => query.iter_mut().for_each(|value| *value = numbers.normal()),
            _ => query.iter_mut().for_each(|value| *value += 0.5 * numbers.normal()),
        }
        match q {
            3 => query.fill(0.0),
            5 => query[dim - 1] = f32::NAN,
            6 => query[0] = f32::INFINITY,
            _ => {}
        }
    }
    let bank = builder.finish(storage).and_then(|file| file.to_bank()).map_err(as_backend)?;
    Ok((bank, examples))
}

/// The nearest prototypes of queries: the same indices and similarities as [`Bank::nearest`]'s.
///
/// # Errors
/// When a kernel fails.
pub fn top_k<E: Executor>(executor: &E, bank: &Bank, queries: &[f32], k: usize) -> Result<Outcome, BackendError> {
    let num_queries = queries.len() / bank.dim();
    let mut search = TopK::new(executor, bank, num_queries, k)?;
    search.poison(executor)?;
    let memory = Memory::of(executor, queries)?;
    search.run(executor, &memory, num_queries)?;
    let Found { indices, similarities, doubtful } = search.read(executor, num_queries)?;
    let mut expected: Vec<Neighbours> = Vec::new();
    bank.nearest(queries, k, &mut expected).map_err(as_backend)?;
    let (mut num_wrong, mut largest) = (0, 0.0f64);
    for (q, expected) in expected.iter().enumerate() {
        let (indices, similarities) = (&indices[q * k..][..k], &similarities[q * k..][..k]);
        let same = indices[..expected.len()] == *expected.indices()
            && indices[expected.len()..].iter().all(|&index| index == NO_NEIGHBOUR);
        num_wrong += usize::from(!same && !doubtful[q]);
        for (&got, &expected) in similarities.iter().zip(expected.similarities()) {
            let difference = f64::from((got - expected).abs());
            largest = if difference.is_nan() { f64::INFINITY } else { largest.max(difference) };
        }
    }
    let num_doubtful = doubtful.iter().filter(|doubt| **doubt).count();
    Ok(Outcome {
        name: format!("top-k {:?} {} × {}, {num_queries} queries, k {k}", bank.storage(), bank.len(), bank.dim()),
        passed: num_wrong == 0 && num_doubtful * 20 <= num_queries && largest < 1e-6,
        largest_difference: largest,
        detail: format!("{num_wrong} queries have other neighbours, {num_doubtful} are left to the CPU"),
    })
}
