//! A camera's YUV frame to RGB on one core, beside what frames cost that stay as they are (a copy), and the crate `yuv`.

use divan::Bencher;
use rand::{RngCore, SeedableRng};
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::yuv::{YuvColors, frame_to_rgb};
use yuv::{YuvBiPlanarImage, YuvConversionMode, YuvPackedImage, YuvRange, YuvStandardMatrix};

const SIZES: [[usize; 2]; 2] = [[1280, 720], [1920, 1080]];
const COLORS: YuvColors = YuvColors { matrix: segcore::yuv::YuvMatrix::Bt601, full_range: false };

fn main() {
    divan::main();
}

fn frame([width, height]: [usize; 2], format: PixelFormat) -> Frame {
    let mut frame = Frame::black(ImageSize::new(width, height), format);
    rand_chacha::ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut frame.pixels);
    frame
}

fn to_rgb(bencher: Bencher<'_, '_>, size: [usize; 2], format: PixelFormat) {
    let frame = frame(size, format);
    let mut rgb = Frame::black(frame.size, PixelFormat::Rgb8);
    bencher.bench_local(|| frame_to_rgb(&frame, &mut rgb).unwrap());
}

fn copied(bencher: Bencher<'_, '_>, size: [usize; 2], format: PixelFormat) {
    let frame = frame(size, format);
    let mut copy = frame.pixels.clone();
    bencher.bench_local(|| {
        let width = format.row_bytes(frame.size.width);
        let rows = frame.pixels.chunks_exact(width).zip(copy.chunks_exact_mut(width));
        rows.for_each(|(from, to)| to.copy_from_slice(from));
        divan::black_box(&mut copy);
    });
}

#[divan::bench(args = SIZES)]
fn yuyv_to_rgb(bencher: Bencher<'_, '_>, size: [usize; 2]) {
    to_rgb(bencher, size, PixelFormat::Yuyv8(COLORS));
}

#[divan::bench(args = SIZES)]
fn nv12_to_rgb(bencher: Bencher<'_, '_>, size: [usize; 2]) {
    to_rgb(bencher, size, PixelFormat::Nv12(COLORS));
}

#[divan::bench(args = SIZES)]
fn yuyv_copied(bencher: Bencher<'_, '_>, size: [usize; 2]) {
    copied(bencher, size, PixelFormat::Yuyv8(COLORS));
}

#[divan::bench(args = SIZES)]
fn nv12_copied(bencher: Bencher<'_, '_>, size: [usize; 2]) {
    copied(bencher, size, PixelFormat::Nv12(COLORS));
}

#[divan::bench(args = SIZES)]
fn crate_yuv_yuyv(bencher: Bencher<'_, '_>, size: [usize; 2]) {
    let frame = frame(size, PixelFormat::Yuyv8(COLORS));
    let mut rgb = Frame::black(frame.size, PixelFormat::Rgb8);
    let (width, height) = (size[0] as u32, size[1] as u32);
    let image = YuvPackedImage { yuy: &frame.pixels, yuy_stride: 2 * width, width, height };
    let (range, matrix) = (YuvRange::Limited, YuvStandardMatrix::Bt601);
    bencher.bench_local(|| yuv::yuyv422_to_rgb(&image, &mut rgb.pixels, 3 * width, range, matrix).unwrap());
}

#[divan::bench(args = SIZES)]
fn crate_yuv_nv12(bencher: Bencher<'_, '_>, size: [usize; 2]) {
    let frame = frame(size, PixelFormat::Nv12(COLORS));
    let mut rgb = Frame::black(frame.size, PixelFormat::Rgb8);
    let (width, height) = (size[0] as u32, size[1] as u32);
    let (y_plane, uv_plane) = frame.pixels.split_at(size[0] * size[1]);
    let image = YuvBiPlanarImage { y_plane, y_stride: width, uv_plane, uv_stride: width, width, height };
    let (range, matrix) = (YuvRange::Limited, YuvStandardMatrix::Bt601);
    let mode = YuvConversionMode::Balanced;
    bencher.bench_local(|| yuv::yuv_nv12_to_rgb(&image, &mut rgb.pixels, 3 * width, range, matrix, mode).unwrap());
}
