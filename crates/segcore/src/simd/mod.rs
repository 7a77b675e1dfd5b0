//! The inner loops, compiled twice: once for the baseline of the target and, on x86-64, once more with AVX2 and FMA,
//! chosen at run time ([`dispatch`]; `crates/retrieval` runs its loop through it too). A kernel is one portable body over
//! small fixed arrays that the compiler turns into vectors (on aarch64 the baseline is already NEON). A kernel can ask to be
//! compiled a third time, for AVX-512 ([`Kernel::WIDE`]). This module holds the crate's only unsafe code.
#![allow(unsafe_code)]

mod kernels;
mod wide;

pub use wide::Wide;

pub(crate) use kernels::{Assign, Assignment, PANEL, Products, TILE, dot, sum_rows};

/// A loop to compile for several instruction sets. Implementations must be `#[inline(always)]` all the way down, or
/// the parts that are not keep the baseline instructions.
pub trait Kernel {
    /// What the loop returns.
    type Output;
    /// Whether there is a form of the loop for 512-bit registers ([`Kernel::run_wide`]). It must pay: some machines lower
    /// their clock for them.
    const WIDE: bool = false;

    /// The loop. `FMA`: a fused multiply-add is one instruction here (without it `mul_add` is a slow library call).
    fn run<const FMA: bool>(self) -> Self::Output;

    /// The loop for AVX-512, with fused multiply-add: the same results up to rounding.
    #[inline(always)]
    fn run_wide(self, _wide: Wide) -> Self::Output
    where
        Self: Sized,
    {
        self.run::<true>()
    }
}

/// Runs a kernel with the best instructions that this machine has.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if K::WIDE && has_avx512() {
        // SAFETY: the machine has AVX-512F, BW, DQ and VL, as was just checked; that is all `run_avx512` asks for.
        return unsafe { run_avx512(kernel) };
    }
    dispatch_narrow(kernel)
}

/// Runs a kernel without 512-bit registers (the path of machines without AVX-512; tests compare the two).
#[inline]
pub fn dispatch_narrow<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if has_avx2_and_fma() {
        // SAFETY: the machine has AVX2 and FMA, as was just checked; that is all `run_avx2` asks for.
        return unsafe { run_avx2(kernel) };
    }
    run_baseline(kernel)
}

/// Runs a kernel as compiled for the target's baseline (the path of machines without AVX2; tests compare the two).
#[inline]
pub fn run_baseline<K: Kernel>(kernel: K) -> K::Output {
    if cfg!(target_arch = "aarch64") { kernel.run::<true>() } else { kernel.run::<false>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the machine has AVX-512F, or this function could not have been called.
    kernel.run_wide(unsafe { Wide::new() })
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn has_avx512() -> bool {
    has_avx2_and_fma()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn has_avx2_and_fma() -> bool {
    // The standard library probes once per process and keeps the answer.
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Name of the instructions that kernels with a wide form use on this machine, for reports: `avx512` or as
/// [`instruction_set`].
#[must_use]
pub fn wide_instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        return "avx512";
    }
    instruction_set()
}

/// Name of the instructions the kernels use on this machine, for reports: `avx2+fma`, `neon` or `baseline`.
#[must_use]
pub fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if has_avx2_and_fma() {
        return "avx2+fma";
    }
    if cfg!(target_arch = "aarch64") { "neon" } else { "baseline" }
}

/// Σ v², in the order of the vector kernels.
pub(crate) fn squared_norm(vector: &[f32]) -> f32 {
    struct SquaredNorm<'a>(&'a [f32]);
    impl Kernel for SquaredNorm<'_> {
        type Output = f32;
        #[inline(always)]
        fn run<const FMA: bool>(self) -> f32 {
            dot::<FMA>(self.0, self.0)
        }
    }
    dispatch(SquaredNorm(vector))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// Column-major by `columns`: `[n / columns, depth, columns]`.
    fn packed(rows: &[f32], depth: usize, columns: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for group in rows.chunks_exact(depth * columns) {
            for k in 0..depth {
                out.extend((0..columns).map(|column| group[column * depth + k]));
            }
        }
        out
    }

    #[test]
    fn assignment_is_the_same_on_every_machine() {
        for (depth, num_tiles, num_panels) in [(1, 1, 1), (10, 3, 2), (130, 9, 12), (37, 5, 13)] {
            let pixels = numbers(num_tiles * TILE * depth, 1);
            let centroids = numbers(num_panels * PANEL * depth, 2);
            let (tiles, panels) = (packed(&pixels, depth, TILE), packed(&centroids, depth, PANEL));
            let mut fast = vec![Assignment { similarity: 0.0, label: 77, previous: 0 }; num_tiles * TILE];
            let mut baseline = fast.clone();
            dispatch(Assign { tiles: &tiles, panels: &panels, depth, out: &mut fast });
            run_baseline(Assign { tiles: &tiles, panels: &panels, depth, out: &mut baseline });
            for (i, pixel) in pixels.chunks_exact(depth).enumerate() {
                let products: Vec<f64> = centroids
                    .chunks_exact(depth)
                    .map(|c| c.iter().zip(pixel).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum())
                    .collect();
                let best = products.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                for got in [fast[i], baseline[i]] {
                    assert_eq!(got.previous, 77);
                    assert!((products[usize::from(got.label)] - best).abs() < 1e-4);
                    assert!((f64::from(got.similarity) - best).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn ties_and_not_a_number_go_to_the_lowest_label() {
        let depth = 2;
        let mut pixels = vec![0.0; TILE * depth];
        pixels[..6].copy_from_slice(&[1.0, 0.0, f32::NAN, 0.0, -1.0, 0.0]);
        // All centroids are equal, except two better ones for the first pixel and a NaN.
        let mut centroids = [0.5, 0.0].repeat(8 * PANEL);
        for place in [40, 117] {
            centroids[place * depth] = 0.75;
        }
        centroids[3 * depth] = f32::NAN;
        let (tiles, panels) = (packed(&pixels, depth, TILE), packed(&centroids, depth, PANEL));
        let mut out = [Assignment::default(); TILE];
        dispatch(Assign { tiles: &tiles, panels: &panels, depth, out: &mut out });
        assert_eq!(out.map(|a| a.label), [40, 0, 0, 0, 0, 0]);
        run_baseline(Assign { tiles: &tiles, panels: &panels, depth, out: &mut out });
        assert_eq!(out.map(|a| a.label), [40, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn wide_products_agree() {
        struct AllProducts<'a>(&'a [f32], &'a [f32], usize);
        impl Kernel for AllProducts<'_> {
            type Output = [[f32; 16]; 12];
            const WIDE: bool = true;
            #[inline(always)]
            fn run<const FMA: bool>(self) -> Self::Output {
                let mut sums = [[0.0f32; 16]; 12];
                for (columns, lanes) in self.0.chunks_exact(self.2).zip(self.1.chunks_exact(16)) {
                    for column in 0..12 {
                        for lane in 0..16 {
                            sums[column][lane] += columns[1 + column] * lanes[lane];
                        }
                    }
                }
                sums
            }
            #[inline(always)]
            fn run_wide(self, wide: Wide) -> Self::Output {
                wide.products(self.0, (self.2, 1), self.1)
            }
        }
        for depth in [0, 1, 128] {
            let (columns, lanes) = (numbers(13 * depth, 5), numbers(16 * depth, 6));
            let fast = dispatch(AllProducts(&columns, &lanes, 13));
            let plain = run_baseline(AllProducts(&columns, &lanes, 13));
            for (fast, plain) in fast.as_flattened().iter().zip(plain.as_flattened()) {
                assert!((fast - plain).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn dot_products_agree() {
        for n in [0, 1, 7, 31, 32, 33, 130, 257] {
            let (a, b) = (numbers(n, 3), numbers(n, 4));
            let exact: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            assert!((f64::from(dot::<false>(&a, &b)) - exact).abs() < 1e-4);
            let squared: f64 = a.iter().map(|&a| f64::from(a).powi(2)).sum();
            assert!((f64::from(squared_norm(&a)) - squared).abs() < 1e-4);
        }
    }
}
