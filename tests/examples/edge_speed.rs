//! Seconds and memory of the edge detectors and of OWT-UCM on one image; `cargo xtask bench-edges` calls it.
//!
//! `edge_speed time DETECTOR WIDTH HEIGHT [IMAGE]`: one JSON line for `DETECTOR` (pmi-accurate, pmi-fast, fast) on the image
//! at that size. A process of its own, so that its peak memory is that of the detector.
//!
//! `edge_speed merge WIDTH HEIGHT RUNS FOLDER [IMAGE]`: seconds of the steps of OWT-UCM on the edges of `pmi-fast`, and
//! the graph that is merged, for `beside_higra.py`: `u`, `v` (32-bit ids), `sum` (64-bit floats), `length` (32 bits) of
//! every boundary, and our `energies` of the merges.
//!
//! Without IMAGE the first frame of the shipped clip is taken.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use image::RgbImage;
use image::imageops::{FilterType, resize};
use oversegment::Detector;
use oversegment::owt_ucm::{DoubledGrid, OrientedEdges, owt_ucm, trace, watershed_with_lines};
use oversegment::pmi::{self, PmiSpec};
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::image_io::read_rgb;
use tests::folders::shipped_clip;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["time", detector, width, height, rest @ ..] => {
            time(detector, &picture(rest.first().copied(), width.parse()?, height.parse()?)?)
        }
        ["merge", width, height, runs, folder, rest @ ..] => {
            let frame = picture(rest.first().copied(), width.parse()?, height.parse()?)?;
            merge(&frame, runs.parse()?, Path::new(folder))
        }
        _ => Err("see the head of tests/examples/edge_speed.rs".into()),
    }
}

/// The image at this size.
fn picture(path: Option<&str>, width: usize, height: usize) -> Outcome<Frame> {
    let frame = match path {
        Some(path) => read_rgb(PathBuf::from(path))?,
        None => {
            let mut frame = Frame::black(ImageSize::new(1, 1), PixelFormat::Rgb8);
            if !video::VideoReader::open(shipped_clip())?.next_frame(&mut frame)? {
                return Err("the shipped clip has no frame".into());
            }
            frame
        }
    };
    let size = frame.size;
    let picture = RgbImage::from_raw(size.width as u32, size.height as u32, frame.pixels).ok_or("the image is cut")?;
    let picture = resize(&picture, width as u32, height as u32, FilterType::CatmullRom);
    Ok(Frame::from_pixels(ImageSize::new(width, height), PixelFormat::Rgb8, picture.into_raw())?)
}

fn time(detector: &str, frame: &Frame) -> Outcome<()> {
    let chosen = match detector {
        "pmi-accurate" => Detector::Pmi(PmiSpec::accurate()),
        "pmi-fast" => Detector::Pmi(PmiSpec::fast()),
        "fast" => Detector::Fast { seed: 1 },
        other => return Err(format!("no detector `{other}`").into()),
    };
    let start = Instant::now();
    let found = chosen.segment(&frame.view(), 1024)?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"detector\":\"{detector}\",\"width\":{},\"height\":{},\"seconds\":{seconds:.4},\"regions\":{},\"peak_rss_mb\":{}}}",
        frame.size.width,
        frame.size.height,
        found.regions.num_regions,
        peak_rss_mb().unwrap_or(0)
    );
    Ok(())
}

/// The most memory this process has had, in MB.
fn peak_rss_mb() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1000)
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn timed<T>(runs: usize, mut work: impl FnMut() -> T) -> (f64, T) {
    let mut result = None;
    let seconds = (0..runs.max(1)).map(|_| {
        let start = Instant::now();
        result = Some(work());
        start.elapsed().as_secs_f64()
    });
    let seconds = median(seconds.collect());
    (seconds, result.expect("at least one run"))
}

fn merge(frame: &Frame, runs: usize, folder: &Path) -> Outcome<()> {
    let edges: OrientedEdges = pmi::edges(&frame.view(), &PmiSpec::fast())?.scaled_to_unit();
    let (whole, _) = timed(runs, || owt_ucm(&edges));
    let (flood, lines) = timed(runs, || watershed_with_lines(&edges.strength()));
    let (tracing, arcs) = timed(runs, || {
        let mut arcs = trace(&lines);
        arcs.subdivide();
        arcs
    });
    let (doubling, grid) = timed(runs, || {
        DoubledGrid::new(edges.height(), edges.width(), &edges.along(&arcs)).expect("a grid of this size")
    });
    let (labelling, leaves) = timed(runs, || grid.leaves());
    let (merging, tree) = timed(runs, || grid.merge(&leaves));
    println!(
        "OWT-UCM of {}×{} edges, {} leaves: {:.1} ms = watershed {:.1}, arcs {:.1}, doubled grid {:.1}, leaves {:.1}, \
         boundaries and merging {:.1} (medians of {runs}, one thread)",
        edges.width(),
        edges.height(),
        leaves.num_basins,
        1e3 * whole,
        1e3 * flood,
        1e3 * tracing,
        1e3 * doubling,
        1e3 * labelling,
        1e3 * merging
    );
    let boundaries = grid.boundaries(&leaves);
    let energies = tree.merges().iter().map(|merge| merge.energy);
    let write = |name: &str, bytes: Vec<u8>| fs::write(folder.join(name), bytes);
    fs::create_dir_all(folder)?;
    write("u", boundaries.iter().flat_map(|b| b.0.to_le_bytes()).collect())?;
    write("v", boundaries.iter().flat_map(|b| b.1.to_le_bytes()).collect())?;
    write("sum", boundaries.iter().flat_map(|b| b.2.to_le_bytes()).collect())?;
    write("length", boundaries.iter().flat_map(|b| b.3.to_le_bytes()).collect())?;
    write("energies", energies.flat_map(f64::to_le_bytes).collect())?;
    write("seconds", format!("{merging} {whole}").into_bytes())?;
    write("edges", edges.values().iter().flat_map(|v| v.to_le_bytes()).collect())?;
    write("size", format!("{} {}", edges.height(), edges.width()).into_bytes())?;
    Ok(())
}
