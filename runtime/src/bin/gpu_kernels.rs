//! `gpu-kernels`: the kernels on the GPU of this machine, beside the Rust code that they must equal and beside what the
//! hardware allows. Exit code 1 when something differs, 2 when there is no GPU to run on.
//!
//! Each time is that of the kernels alone, by CUDA events, started one by one and as a captured graph: median, 5th and 95th
//! percentile. Floors: bytes that must move over the bandwidth of a copy on this device, and operations over the peak of the
//! arithmetic units as the data sheet counts them (printed, so that it can be judged).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use retrieval::Storage;
use runtime::backend::BackendError;
use runtime::backend::cuda::checks::{self, Numbers, Outcome, Scene};
use runtime::backend::cuda::{Cuda, Executor, Kmeans, Memory, Preprocess, Refine, TopK};
use segcore::image::{ImageSize, PixelFormat};
use segcore::preprocess::ResizePlan;
use segcore::spherical_kmeans::{KmeansSpec, Start};
use segcore::yuv::YuvColors;
use serde::Serialize;

/// Checks and times the CUDA kernels.
#[derive(Parser)]
struct Options {
    /// Compare on small sizes only and time nothing: for compute-sanitizer.
    #[arg(long)]
    small: bool,
    /// Write everything as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Timed runs of each kind.
    #[arg(long, default_value_t = 101)]
    runs: usize,
    /// Prototypes of the large bank.
    #[arg(long, default_value_t = 857_000)]
    prototypes: usize,
    /// Seed of the made-up data.
    #[arg(long, default_value_t = 20_221)]
    seed: u64,
}

/// Milliseconds of one way of running.
#[derive(Serialize, Clone, Copy)]
struct Times {
    median_millis: f32,
    p5_millis: f32,
    p95_millis: f32,
}

#[derive(Serialize)]
struct Timing {
    name: String,
    launches: Times,
    graph: Times,
    moved_bytes: f64,
    operations: f64,
    /// Bytes over the measured bandwidth.
    memory_floor_millis: f64,
    /// Operations over the peak of 32-bit multiply-adds.
    arithmetic_floor_millis: f64,
}

#[derive(Serialize)]
struct Comparison {
    name: String,
    passed: bool,
    /// Null where it is not finite.
    largest_difference: Option<f64>,
    detail: String,
}

#[derive(Serialize)]
struct Report {
    device: String,
    driver_cuda: String,
    compute_capability: String,
    memory_bytes: usize,
    cache_bytes: usize,
    multiprocessors: usize,
    seed: u64,
    passed: bool,
    comparisons: Vec<Comparison>,
    copy_bytes_per_second: Option<f64>,
    /// 128 multiply-adds per multiprocessor and clock, two operations each, at the clock the driver names.
    peak_operations_per_second: Option<f64>,
    timings: Vec<Timing>,
    seconds: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: a kernel does not give what it must: see FAILED above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let cuda = Cuda::new()?;
    let info = cuda.info().clone();
    println!(
        "{}, compute capability {}.{}, driver for CUDA {}, {} multiprocessors, {:.0} MB second-level cache",
        info.name,
        info.capability.0,
        info.capability.1,
        info.driver,
        info.num_multiprocessors,
        info.cache_bytes as f64 / 1e6
    );
    println!("kernels loaded after {:.2} s", start.elapsed().as_secs_f64());
    let mut numbers = Numbers(options.seed);
    let mut comparisons = Vec::new();
    let mut add = |outcomes: Vec<Outcome>| {
        for Outcome { name, passed, largest_difference, detail } in outcomes {
            let verdict = if passed { "ok    " } else { "FAILED" };
            println!("{verdict} {name}: {detail} (largest difference {largest_difference:.2e})");
            let largest_difference = largest_difference.is_finite().then_some(largest_difference);
            comparisons.push(Comparison { name, passed, largest_difference, detail });
        }
    };
    for scene in small_scenes() {
        add(checks::preprocess(&cuda, scene.input, scene.source, &mut numbers)?);
        add(checks::cluster(&cuda, &scene, &mut numbers)?);
    }
    for (num_prototypes, dim, storage, num_queries, k) in [
        (3000, 128, Storage::F32, 70, 20),
        (2000, 32, Storage::F16, 9, 20),
        (1500, 64, Storage::Int8, 65, 5),
        (7, 16, Storage::F32, 8, 20),
        (65, 48, Storage::F32, 10, 24),
    ] {
        let (bank, queries) = checks::bank_and_queries(num_prototypes, dim, storage, num_queries, &mut numbers)?;
        add(vec![checks::top_k(&cuda, &bank, &queries, k)?]);
    }
    println!("small sizes done after {:.1} s", start.elapsed().as_secs_f64());
    let mut timings = Vec::new();
    let (mut bandwidth, mut peak) = (None, None);
    if !options.small {
        for scene in real_scenes() {
            add(checks::preprocess(&cuda, scene.input, scene.source, &mut numbers)?);
            add(checks::cluster(&cuda, &scene, &mut numbers)?);
            println!("{} done after {:.1} s", scene.source, start.elapsed().as_secs_f64());
        }
        add(checks::preprocess(&cuda, ImageSize::new(1024, 576), ImageSize::new(1920, 1080), &mut numbers)?);
        let bytes_per_second = copy_bandwidth(&cuda)?;
        let operations_per_second = info.num_multiprocessors as f64 * 256.0 * clock(&cuda)?;
        (bandwidth, peak) = (Some(bytes_per_second), Some(operations_per_second));
        let mut timer = Timer {
            cuda: &cuda,
            num_runs: options.runs.max(3),
            bytes_per_second,
            operations_per_second,
            timings: Vec::new(),
        };
        time_frames(&mut timer, &mut numbers)?;
        time_clustering(&mut timer, &mut numbers)?;
        for storage in [Storage::F32, Storage::F16] {
            let (bank, queries) = checks::bank_and_queries(options.prototypes, 128, storage, 288, &mut numbers)?;
            println!("bank of {} made after {:.1} s", bank.len(), start.elapsed().as_secs_f64());
            add(vec![checks::top_k(&cuda, &bank, &queries, 20)?]);
            println!("and searched on the CPU after {:.1} s", start.elapsed().as_secs_f64());
            time_search(&mut timer, &bank, &queries)?;
        }
        timings = timer.timings;
        print_table(&timings, bytes_per_second, operations_per_second);
    }
    let passed = comparisons.iter().all(|comparison| comparison.passed);
    let num_failed = comparisons.iter().filter(|comparison| !comparison.passed).count();
    println!("{} comparisons, {num_failed} failed; {:.1} s", comparisons.len(), start.elapsed().as_secs_f64());
    let report = Report {
        device: info.name,
        driver_cuda: info.driver,
        compute_capability: format!("{}.{}", info.capability.0, info.capability.1),
        memory_bytes: info.memory_bytes,
        cache_bytes: info.cache_bytes,
        multiprocessors: info.num_multiprocessors,
        seed: options.seed,
        passed,
        comparisons,
        copy_bytes_per_second: bandwidth,
        peak_operations_per_second: peak,
        timings,
        seconds: start.elapsed().as_secs_f64(),
    };
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(passed)
}

fn scene(
    source: (usize, usize),
    input: (usize, usize),
    dim: usize,
    (grid_rows, grid_columns): (usize, usize),
    rounds: usize,
    masked: bool,
) -> Scene {
    let (source, input) = (ImageSize::new(source.0, source.1), ImageSize::new(input.0, input.1));
    Scene { source, input, dim, spec: KmeansSpec { grid_rows, grid_columns, rounds }, masked }
}

fn small_scenes() -> Vec<Scene> {
    vec![
        scene((240, 180), (192, 144), 128, (6, 8), 15, false),
        scene((200, 150), (160, 120), 32, (9, 11), 4, true),
        scene((96, 64), (96, 64), 256, (3, 4), 3, false),
        scene((400, 320), (512, 400), 8, (4, 4), 3, false),
        scene((31, 97), (40, 40), 12, (2, 2), 2, false),
    ]
}

/// CamVid's model, and Cityscapes' size with its own grid, CamVid's and a fine one.
fn real_scenes() -> Vec<Scene> {
    vec![
        scene((480, 360), (480, 360), 128, (12, 16), 15, false),
        scene((2048, 1024), (1024, 512), 128, (12, 16), 15, false),
        scene((2048, 1024), (1024, 512), 128, (12, 24), 15, false),
        scene((2048, 1024), (1024, 512), 128, (20, 20), 15, false),
    ]
}

/// Bytes read and written per second by a copy within the device that no cache holds.
fn copy_bandwidth(cuda: &Cuda) -> Result<f64, BackendError> {
    const NUM_BYTES: usize = 1 << 30;
    let mut from = cuda.alloc(NUM_BYTES)?;
    let mut to = cuda.alloc(NUM_BYTES)?;
    cuda.fill(0x5a, &mut from)?;
    let mut times = Vec::new();
    for _ in 0..12 {
        times.push(cuda.time(|| cuda.copy(&from, &mut to, NUM_BYTES))?);
    }
    let median = summary(&mut times[2..]).median_millis;
    Ok(2.0 * NUM_BYTES as f64 / (f64::from(median) * 1e-3))
}

/// Clocks per second of the multiprocessors, at most.
fn clock(cuda: &Cuda) -> Result<f64, BackendError> {
    Ok(f64::from(cuda.clock_kilohertz()?) * 1e3)
}

fn summary(times: &mut [f32]) -> Times {
    times.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    Times { median_millis: at(0.5), p5_millis: at(0.05), p95_millis: at(0.95) }
}

struct Timer<'a> {
    cuda: &'a Cuda,
    num_runs: usize,
    bytes_per_second: f64,
    operations_per_second: f64,
    timings: Vec<Timing>,
}

impl Timer<'_> {
    /// Times `work` started kernel by kernel, and captured. `turns`: how many runs in a row begin with other inputs.
    fn time(
        &mut self,
        name: String,
        moved_bytes: f64,
        operations: f64,
        mut work: impl FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let cuda = self.cuda;
        for _ in 0..5 {
            work()?;
        }
        cuda.synchronize()?;
        let mut times = Vec::with_capacity(self.num_runs);
        for _ in 0..self.num_runs {
            times.push(cuda.time(&mut work)?);
        }
        let launches = summary(&mut times);
        let graph = cuda.capture(&mut work)?;
        for _ in 0..5 {
            cuda.launch_graph(&graph)?;
        }
        cuda.synchronize()?;
        times.clear();
        for _ in 0..self.num_runs {
            times.push(cuda.time(|| cuda.launch_graph(&graph))?);
        }
        let graph = summary(&mut times);
        println!("{name}: {:.4} ms, as a graph {:.4} ms", launches.median_millis, graph.median_millis);
        self.timings.push(Timing {
            name,
            launches,
            graph,
            moved_bytes,
            operations,
            memory_floor_millis: moved_bytes / self.bytes_per_second * 1e3,
            arithmetic_floor_millis: operations / self.operations_per_second * 1e3,
        });
        Ok(())
    }
}

fn time_frames(timer: &mut Timer<'_>, numbers: &mut Numbers) -> Result<(), BackendError> {
    for (source, input) in [((1920, 1080), (1024, 576)), ((480, 360), (480, 360)), ((2048, 1024), (1024, 512))] {
        let (source, input) = (ImageSize::new(source.0, source.1), ImageSize::new(input.0, input.1));
        for (format, half) in [
            (PixelFormat::Rgb8, false),
            (PixelFormat::Rgb8, true),
            (PixelFormat::Yuyv8(YuvColors::default()), false),
            (PixelFormat::Nv12(YuvColors::default()), false),
        ] {
            let stride = format.row_bytes(source.width);
            let cuda = timer.cuda;
            // Eight frames in turn: together they are larger than the cache, where the frame is large.
            let mut kernels = Vec::new();
            for _ in 0..8 {
                let mut kernel = Preprocess::new(cuda, &checks::preprocess_spec(input), source, format, stride, half)?;
                kernel.upload(cuda, &checks::frame(format, source, stride, numbers))?;
                kernels.push(kernel);
            }
            let moved = kernels[0].moved_bytes() as f64;
            let padded = kernels[0].plan().padded;
            let kind = if half { "half" } else { "float" };
            let mut turn = 0;
            timer.time(format!("preprocess {format} {source} → {padded} {kind}"), moved, 0.0, || {
                turn = (turn + 1) % kernels.len();
                kernels[turn].run(cuda)
            })?;
        }
    }
    Ok(())
}

fn time_clustering(timer: &mut Timer<'_>, numbers: &mut Numbers) -> Result<(), BackendError> {
    for scene in real_scenes() {
        let cuda = timer.cuda;
        let plan = ResizePlan::new(&checks::preprocess_spec(scene.input), scene.source)
            .map_err(|error| BackendError::new(runtime::backend::BackendErrorKind::Run, error.to_string()))?;
        let (height, width) = plan.content_cells(8);
        let (dim, num_slots, rounds) = (scene.dim, scene.spec.num_slots(), scene.spec.rounds);
        let num_cells = height * width;
        // Noise does not settle: every round is made.
        let mut map = checks::features(height, width, dim, num_slots, numbers);
        for cell in map.data.chunks_exact_mut(dim) {
            cell.iter_mut().for_each(|value| *value = if value.is_finite() { *value } else { 0.0 });
            cell.iter_mut().for_each(|value| *value += 0.15 * numbers.normal());
            segcore::embedding::normalize(cell);
        }
        let mut kmeans = Kmeans::new(cuda, scene.spec, dim, (height, width), None)?;
        kmeans.upload(cuda, &map.data)?;
        kmeans.run(cuda, Start::Grid)?;
        let rounds_made = kmeans.read_rounds(cuda)?;
        // Features are read by every sum and by every assignment, and written once more as columns.
        let features = (num_cells * dim * 4) as f64;
        let moved = features * (2.0 + 2.0 * rounds_made as f64 + 1.0);
        let operations = 2.0 * (num_cells * (dim + 2)) as f64 * (num_slots as f64 + 1.0) * rounds_made as f64;
        let name = format!("{height}×{width}×{dim}, {num_slots} clusters");
        timer.time(
            format!("k-means from the grid {name}, {rounds} rounds ({rounds_made} until settled)"),
            moved,
            operations,
            || kmeans.run(cuda, Start::Grid),
        )?;
        // Warm starts as on video: every run goes on from the last one's centroids, on frames that differ a little.
        let mut frames = Vec::new();
        for _ in 0..4 {
            let mut frame = map.data.clone();
            frame.iter_mut().for_each(|value| *value += 0.03 * numbers.normal());
            frame.chunks_exact_mut(dim).for_each(segcore::embedding::normalize);
            frames.push(frame);
        }
        kmeans.upload(cuda, &frames[0])?;
        kmeans.run(cuda, Start::Warm)?;
        let warm_rounds = kmeans.read_rounds(cuda)?;
        let before = kmeans.read_centroids(cuda)?;
        let mut times = Vec::new();
        for i in 0..timer.num_runs {
            kmeans.upload(cuda, &frames[i % frames.len()])?;
            times.push(cuda.time(|| kmeans.run(cuda, Start::Warm))?);
        }
        let launches = summary(&mut times);
        let graph = cuda.capture(|| kmeans.run(cuda, Start::Warm))?;
        let mut times = Vec::new();
        for i in 0..timer.num_runs {
            kmeans.upload(cuda, &frames[i % frames.len()])?;
            times.push(cuda.time(|| cuda.launch_graph(&graph))?);
        }
        let graph = summary(&mut times);
        println!(
            "k-means warm {name}: {:.4} ms, as a graph {:.4} ms, first settled after {warm_rounds} rounds",
            launches.median_millis, graph.median_millis
        );
        let moved = features * (2.0 + 2.0 * warm_rounds as f64 + 1.0);
        let operations = 2.0 * (num_cells * (dim + 2)) as f64 * (num_slots as f64 + 1.0) * warm_rounds as f64;
        timer.timings.push(Timing {
            name: format!("k-means warm {name}, at most {rounds} rounds (first frame {warm_rounds})"),
            launches,
            graph,
            moved_bytes: moved,
            operations,
            memory_floor_millis: moved / timer.bytes_per_second * 1e3,
            arithmetic_floor_millis: operations / timer.operations_per_second * 1e3,
        });
        // One round: what the deadline's ladder falls back to.
        let one = KmeansSpec { rounds: 1, ..scene.spec };
        let mut short = Kmeans::new(cuda, one, dim, (height, width), None)?;
        short.upload(cuda, &map.data)?;
        short.set_centroids(cuda, &before)?;
        timer.time(
            format!("k-means from the grid {name}, 1 round"),
            features * 5.0,
            2.0 * (num_cells * (dim + 2)) as f64 * num_slots as f64,
            || short.run(cuda, Start::Grid),
        )?;
        let mut refine = Refine::new(cuda, &plan, 8, dim)?;
        timer.time(
            format!("refine {height}×{width}×{dim} → {}", scene.source),
            features + (scene.source.num_pixels() * 2) as f64,
            0.0,
            || refine.run(cuda, &kmeans),
        )?;
        let network = Memory::of(cuda, &vec![0.5f32; dim * num_cells])?;
        timer.time(format!("gather {height}×{width}×{dim}"), 2.0 * features, 0.0, || {
            kmeans.gather(cuda, &network, (height, width))
        })?;
        kmeans.upload(cuda, &map.data)?;
        let rgb = PixelFormat::Rgb8;
        let stride = rgb.row_bytes(scene.source.width);
        let mut preprocess =
            Preprocess::new(cuda, &checks::preprocess_spec(scene.input), scene.source, rgb, stride, false)?;
        preprocess.upload(cuda, &checks::frame(rgb, scene.source, stride, numbers))?;
        let moved = preprocess.moved_bytes() as f64 + moved + (scene.source.num_pixels() * 2) as f64;
        timer.time(
            format!("preprocess, k-means warm (settled), refine: {name} → {}", scene.source),
            moved,
            0.0,
            || {
                preprocess.run(cuda)?;
                kmeans.run(cuda, Start::Warm)?;
                refine.run(cuda, &kmeans)
            },
        )?;
    }
    Ok(())
}

fn time_search(timer: &mut Timer<'_>, bank: &retrieval::Bank, queries: &[f32]) -> Result<(), BackendError> {
    let cuda = timer.cuda;
    let (dim, num_queries) = (bank.dim(), queries.len() / bank.dim());
    let memory = Memory::of(cuda, queries)?;
    let mut search = TopK::new(cuda, bank, num_queries, 20)?;
    for num_queries in [num_queries, 64] {
        let operations = 2.0 * (bank.len() * dim) as f64 * num_queries as f64;
        timer.time(
            format!("top-k {:?} {} × {dim}, {num_queries} queries, k 20", bank.storage(), bank.len()),
            search.bank_bytes() as f64,
            operations,
            || search.run(cuda, &memory, num_queries),
        )?;
    }
    Ok(())
}

fn print_table(timings: &[Timing], bytes_per_second: f64, operations_per_second: f64) {
    println!(
        "\ncopy on the device: {:.0} GB/s read and written together; 32-bit multiply-adds: {:.1} TFLOP/s at most",
        bytes_per_second / 1e9,
        operations_per_second / 1e12
    );
    println!("{:<92}{:>9}{:>17}{:>9}{:>17}{:>9}{:>9}", "", "ms", "5 %–95 %", "graph", "5 %–95 %", "bytes", "flops");
    for Timing { name, launches, graph, memory_floor_millis, arithmetic_floor_millis, .. } in timings {
        let spread = |times: &Times| format!("{:.4}–{:.4}", times.p5_millis, times.p95_millis);
        println!(
            "{name:<92}{:>9.4}{:>17}{:>9.4}{:>17}{memory_floor_millis:>9.4}{arithmetic_floor_millis:>9.4}",
            launches.median_millis,
            spread(launches),
            graph.median_millis,
            spread(graph)
        );
    }
}
