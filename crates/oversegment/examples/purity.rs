//! How many regions the fast over-segmentation makes of labelled images, and how pure they are.
//!
//! `purity IMAGES ANNOTATIONS [--ignore 11] [--every N] [--sigmas 1,2] [--weights 1,1] [--min-area-share 0.001]`
//!
//! IMAGES and ANNOTATIONS are folders with equal file names (PNG). Purity = share of the labelled pixels whose label
//! is the most frequent one of their region. What a contrastive loss sees are pairs: how many of one class it is told
//! belong together, and how many of those it is told so are of one class.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use oversegment::{GradientRegions, first_threshold, gradient, region_map, region_merging, watershed};
use segcore::image_io::{read_gray8, read_rgb};

fn numbers(text: &str) -> Vec<f32> {
    text.split(',').map(|v| v.parse().expect("a number")).collect()
}

fn purity(labels: &[u16], num_regions: usize, truth: &[u8], ignore: u8) -> (u64, u64) {
    let mut counts = vec![[0u64; 256]; num_regions];
    for (&region, &label) in labels.iter().zip(truth) {
        if label != ignore {
            counts[usize::from(region)][usize::from(label)] += 1;
        }
    }
    let pure = counts.iter().map(|c| *c.iter().max().unwrap_or(&0)).sum();
    (pure, counts.iter().flatten().sum())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut options: HashMap<String, String> = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--") {
            Some(name) => {
                options.insert(name.to_owned(), arguments.next().ok_or("an option needs a value")?);
            }
            None => folders.push(argument.into()),
        }
    }
    let [images, annotations]: [PathBuf; 2] = folders.try_into().map_err(|_| "give IMAGES and ANNOTATIONS")?;
    let ignore: u8 = options.get("ignore").map_or(Ok(11), |v| v.parse())?;
    let every: usize = options.get("every").map_or(Ok(1), |v| v.parse())?;
    let mut spec = GradientRegions::default();
    if let Some(text) = options.get("sigmas") {
        spec.gradient.sigmas = numbers(text);
        spec.gradient.weights = vec![1.0; spec.gradient.sigmas.len()];
    }
    if let Some(text) = options.get("weights") {
        spec.gradient.weights = numbers(text);
    }

    if let Some(text) = options.get("min-area-share") {
        spec.min_area_share = text.parse()?;
    }
    let mut names: Vec<_> = std::fs::read_dir(&images)?.filter_map(|e| Some(e.ok()?.file_name())).collect();
    names.sort();
    let (mut regions, mut basins_of, mut thresholds, mut millis, mut shares) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut pure, mut all, mut pure_at_start, mut small) = (0, 0, 0, 0usize);
    // Pairs of labelled pixels of an image: of one class, in one region, both.
    let (mut same_class, mut together, mut right) = (0.0f64, 0.0f64, 0.0f64);
    let (mut class_pixels, mut class_kept) = ([0u64; 256], [0u64; 256]);
    let mut at_start = vec![];
    let mut stage = [0.0f64; 3];
    for name in names.iter().step_by(every) {
        let frame = read_rgb(Path::new(&images.join(name)))?;
        let truth = read_gray8(Path::new(&annotations.join(name)))?;
        let start = Instant::now();
        let strength = gradient::strength_with(&frame.view(), &spec.gradient)?;
        let after_edges = Instant::now();
        let basins = watershed(&strength);
        let after_watershed = Instant::now();
        let tree = region_merging(&strength, &basins, spec.min_area(basins.labels.len()));
        let threshold = first_threshold(&tree, spec.start, spec.step, spec.max_regions);
        let map = region_map(&basins, &tree, threshold);
        let end = Instant::now();
        stage[0] += (after_edges - start).as_secs_f64();
        stage[1] += (after_watershed - after_edges).as_secs_f64();
        stage[2] += (end - after_watershed).as_secs_f64();
        millis.push((end - start).as_secs_f64() * 1e3);
        let (p, n) = purity(&map.labels, map.num_regions, &truth.pixels, ignore);
        pure += p;
        all += n;
        let mut counts = vec![[0u64; 256]; map.num_regions];
        for (&region, &label) in map.labels.iter().zip(&truth.pixels) {
            counts[usize::from(region)][usize::from(label)] += 1;
            class_pixels[usize::from(label)] += 1;
        }
        let square = |n: u64| n as f64 * n as f64;
        let mut class_sizes = [0u64; 256];
        for count in &mut counts {
            count[usize::from(ignore)] = 0;
            count.iter().zip(&mut class_sizes).for_each(|(n, size)| *size += n);
            together += square(count.iter().sum());
            right += count.iter().map(|n| square(*n)).sum::<f64>();
        }
        same_class += class_sizes.iter().map(|n| square(*n)).sum::<f64>();
        for count in &mut counts {
            let (class, kept) = count.iter().enumerate().max_by_key(|(_, n)| **n).unwrap_or((0, &0));
            class_kept[class] += kept;
        }
        if n > 0 {
            shares.push(p as f64 / n as f64);
        }
        regions.push(map.num_regions);
        let mut areas = vec![0usize; map.num_regions];
        map.labels.iter().for_each(|&l| areas[usize::from(l)] += 1);
        small += areas.iter().filter(|a| **a < 64).count();
        basins_of.push(basins.num_basins);
        at_start.push(tree.num_regions(spec.start));
        if tree.num_regions(spec.start) < 60000 {
            let first = region_map(&basins, &tree, spec.start);
            pure_at_start += purity(&first.labels, first.num_regions, &truth.pixels, ignore).0;
        }
        thresholds.push((threshold * 100.0).round());
    }
    regions.sort_unstable();
    basins_of.sort_unstable();
    at_start.sort_unstable();
    thresholds.sort_by(f64::total_cmp);
    millis.sort_by(f64::total_cmp);
    shares.sort_by(f64::total_cmp);
    let n = regions.len();
    println!(
        "{n} images: regions {}..{} median {} (under 64 px: {:.0} an image); purity {:.4} (worst {:.3}); threshold {}..{} median {}; at {}: median {} regions, purity {:.4}; basins median {}; ms median {:.1} (edges {:.1} watershed {:.1} merge {:.1} mean)",
        regions[0],
        regions[n - 1],
        regions[n / 2],
        small as f64 / n as f64,
        pure as f64 / all as f64,
        shares[0],
        thresholds[0] / 100.0,
        thresholds[n - 1] / 100.0,
        thresholds[n / 2] / 100.0,
        spec.start,
        at_start[n / 2],
        pure_at_start as f64 / all as f64,
        basins_of[n / 2],
        millis[n / 2],
        stage[0] * 1e3 / n as f64,
        stage[1] * 1e3 / n as f64,
        stage[2] * 1e3 / n as f64,
    );
    println!(
        "of the pixel pairs of one class {:.4} are in one region; of the pairs in one region {:.4} are of one class",
        right / same_class,
        right / together,
    );
    print!("share of each class's pixels in regions of that class:");
    for (class, (kept, pixels)) in class_kept.iter().zip(&class_pixels).enumerate() {
        if *pixels > 0 && class != usize::from(ignore) {
            print!(" {class}: {:.3}", *kept as f64 / *pixels as f64);
        }
    }
    println!();
    Ok(())
}
