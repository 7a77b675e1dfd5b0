//! What the compiler does not make 512-bit instructions of by itself: twelve sums of sixteen lanes are too many statements
//! for it to keep in registers.

/// Proof that this machine has AVX-512; [`super::dispatch`] gives it to kernels.
#[derive(Clone, Copy, Debug)]
pub struct Wide(());

impl Wide {
    /// Lanes of a register.
    pub const LANES: usize = 16;

    /// # Safety
    /// The machine must have AVX-512F.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn new() -> Self {
        Self(())
    }

    /// `[N, LANES]` inner products of N columns of `columns` (`[depth, stride]`, from column `first` on) with the columns of
    /// `panel` (`[depth, LANES]`), fused. 0 where the columns do not lie within the stride.
    #[inline(always)]
    pub fn products<const N: usize>(
        self,
        columns: &[f32],
        (stride, first): (usize, usize),
        panel: &[f32],
    ) -> [[f32; Self::LANES]; N] {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: a `Wide` exists on machines with AVX-512F alone.
            unsafe { products_avx512(columns, (stride, first), panel) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (columns, stride, first, panel);
            [[0.0; Self::LANES]; N]
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn products_avx512<const N: usize>(
    columns: &[f32],
    (stride, first): (usize, usize),
    panel: &[f32],
) -> [[f32; Wide::LANES]; N] {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};

    let mut sums = [_mm512_setzero_ps(); N];
    for (columns, lanes) in columns.chunks_exact(stride.max(1)).zip(panel.as_chunks::<{ Wide::LANES }>().0) {
        let Some(columns) = columns.get(first..).and_then(|columns| columns.first_chunk::<N>()) else { break };
        // SAFETY: `lanes` are sixteen floats; the instruction needs no alignment.
        let lanes = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
        for (sum, &value) in sums.iter_mut().zip(columns) {
            *sum = _mm512_fmadd_ps(_mm512_set1_ps(value), lanes, *sum);
        }
    }
    let mut out = [[0.0f32; Wide::LANES]; N];
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: `out` has room for sixteen floats; the instruction needs no alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
    out
}
