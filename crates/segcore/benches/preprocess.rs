//! Frame to network input: resize, normalise, transpose, pad.

use divan::Bencher;
use rand::{RngCore, SeedableRng};
use segcore::embedding::EmbeddingMap;
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::preprocess::{PreprocessSpec, Preprocessor};

/// Source and network size.
const CASES: [[usize; 4]; 4] =
    [[480, 360, 480, 360], [960, 720, 480, 360], [1280, 720, 1024, 512], [2048, 1024, 512, 256]];

fn main() {
    divan::main();
}

#[divan::bench(args = CASES)]
fn all_cores(bencher: Bencher<'_, '_>, case: [usize; 4]) {
    let (mut preprocessor, frame) = setup(case);
    let mut nchw = vec![0.0; preprocessor.output_len()];
    bencher.bench_local(|| preprocessor.run(&frame.view(), &mut nchw).unwrap());
}

#[divan::bench(args = CASES)]
fn one_core(bencher: Bencher<'_, '_>, case: [usize; 4]) {
    let (mut preprocessor, frame) = setup(case);
    let mut nchw = vec![0.0; preprocessor.output_len()];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    bencher.bench_local(|| pool.install(|| preprocessor.run(&frame.view(), &mut nchw).unwrap()));
}

/// The way back: network output to pixel-major rows.
#[divan::bench(args = [[45, 60], [128, 256]])]
fn embedding_from_nchw(bencher: Bencher<'_, '_>, [h, w]: [usize; 2]) {
    let nchw = vec![0.5; 128 * h * w];
    let mut map = EmbeddingMap::default();
    bencher.bench_local(|| map.set_from_nchw(&nchw, h, w, h, w, 128).unwrap());
}

fn setup([sw, sh, w, h]: [usize; 4]) -> (Preprocessor, Frame) {
    let spec = PreprocessSpec {
        input: ImageSize::new(w, h),
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        multiple: 8,
    };
    let mut frame = Frame::black(ImageSize::new(sw, sh), PixelFormat::Rgb8);
    rand_chacha::ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut frame.pixels);
    (Preprocessor::new(&spec, frame.size).unwrap(), frame)
}
