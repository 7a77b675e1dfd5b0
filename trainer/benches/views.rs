//! Augmented views, which the loader's threads make: `cargo bench -p trainer --bench views`.

use divan::Bencher;
use divan::counter::ItemsCount;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use trainer::augment::{AugmentSpec, Source, ViewSize, random_view};

fn main() {
    divan::main();
}

/// Views of a CamVid frame at the paper's crop, as the presets make them and with the paper's colour changes.
#[divan::bench(args = [("plain", 0.0, 0.0), ("colour", 1.0, 0.0), ("blur", 0.0, 1.0)])]
fn view(bencher: Bencher<'_, '_>, (_, jitter, blur): (&str, f64, f64)) {
    let (width, height) = (480, 360);
    let rgb: Vec<u8> = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
    let regions: Vec<u16> = (0..width * height).map(|i| (i / 900) as u16).collect();
    let source = Source { width, height, rgb: &rgb, regions: &regions };
    let spec = AugmentSpec {
        flip: 0.5,
        scale: [1.25, 1.25],
        brightness: 0.4,
        contrast: 0.4,
        saturation: 0.4,
        hue: 0.1,
        jitter,
        gray: 0.0,
        blur,
    };
    let size = ViewSize { crop: 448, cells: 28 };
    let (mut image, mut edges) = (vec![0.0; size.crop * size.crop * 3], vec![0; size.cells * size.cells]);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    bencher
        .counter(ItemsCount::new(1usize))
        .bench_local(|| random_view(&source, &spec, size, &mut rng, &mut image, &mut edges));
}
