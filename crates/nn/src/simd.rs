//! Vector arithmetic with the instruction set chosen at run time: AVX-512, AVX2 with FMA, or portable code.
//!
//! A kernel is written once as a [`Kernel`], generic over [`Simd`], and started with [`dispatch`]. The binary therefore runs on any
//! x86-64 (or other) CPU and uses what it finds; results differ between the levels by rounding only.

use std::sync::OnceLock;

/// One instruction set: a vector of `LANES` f32 and the operations that the kernels need.
///
/// All methods are `unsafe` for the same two reasons: the CPU must support the set (guaranteed by [`dispatch`]), and
/// pointers must be valid for the lanes that are read or written.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The vector type.
    type V: Copy;
    /// f32 values per vector.
    const LANES: usize;
    /// Output pixels that a register tile of a convolution holds with two vectors of channels each.
    const TILE: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Reads the first `n < LANES` values, the other lanes are zero.
    unsafe fn load_partial(p: *const f32, n: usize) -> Self::V;
    /// Writes the first `n < LANES` lanes.
    unsafe fn store_partial(p: *mut f32, n: usize, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN, so that a clamp with the bound first lets NaN through.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a x b + c.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// [`Simd::load`] or, for the last lanes of a row, [`Simd::load_partial`].
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller's.
        unsafe { if n >= Self::LANES { Self::load(p) } else { Self::load_partial(p, n) } }
    }

    /// [`Simd::store`] or [`Simd::store_partial`].
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, v: Self::V) {
        // SAFETY: the caller's.
        unsafe { if n >= Self::LANES { Self::store(p, v) } else { Self::store_partial(p, n, v) } }
    }
}

/// A computation that is compiled once per instruction set. Mark `run` `#[inline(always)]`, or it is compiled without the set.
pub(crate) trait Kernel {
    type Out;
    /// # Safety
    /// Called by [`dispatch`] only, inside a function that enables the set.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return Level::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Level::Avx2;
            }
        }
        Level::Portable
    })
}

/// Runs `kernel` with the widest instruction set of this CPU.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Out {
    at(level(), kernel)
}

/// Runs `kernel` with an instruction set that this CPU has.
pub(crate) fn at<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level {
        // SAFETY: `level` has checked that the CPU supports the set.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_avx2(kernel) },
        // SAFETY: needs no instruction set.
        Level::Portable => unsafe { kernel.run::<Portable>() },
    }
}

/// Every level that this CPU has.
#[cfg(test)]
pub(crate) fn levels() -> Vec<Level> {
    let mut levels = vec![Level::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if level() == Level::Avx512 {
            levels.push(Level::Avx512);
        }
        if level() != Level::Portable {
            levels.push(Level::Avx2);
        }
    }
    levels
}

/// Eight lanes in plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[allow(clippy::undocumented_unsafe_blocks, reason = "each block rests on the trait's contract")]
impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const TILE: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self::V {
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, n: usize, v: Self::V) {
        for (i, x) in v.iter().enumerate().take(n) {
            unsafe { *p.add(i) = *x }
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::undocumented_unsafe_blocks, reason = "each block rests on the trait's contract")]
mod x86 {
    use super::{Kernel, Simd};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
        unsafe { kernel.run::<Avx512>() }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
        unsafe { kernel.run::<Avx2>() }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        // 14 pixels x 2 vectors of accumulators, 2 of weights, 1 broadcast: 31 of the 32 registers.
        const TILE: usize = 14;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_partial(p: *const f32, n: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps((1u16 << n).wrapping_sub(1), p) }
        }
        #[inline(always)]
        unsafe fn store_partial(p: *mut f32, n: usize, v: __m512) {
            unsafe { _mm512_mask_storeu_ps(p, (1u16 << n).wrapping_sub(1), v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    /// A mask of `n` leading lanes is read from the middle of this table.
    static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        // 6 x 2 accumulators, 2 weights, 1 broadcast: 15 of the 16 registers.
        const TILE: usize = 6;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_partial(p: *const f32, n: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(p, _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast())) }
        }
        #[inline(always)]
        unsafe fn store_partial(p: *mut f32, n: usize, v: __m256) {
            unsafe { _mm256_maskstore_ps(p, _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast()), v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x -> 2 x + 1 with a partial tail, at every level that this CPU has.
    struct Affine<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Affine<'_> {
        type Out = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let n = self.0.len();
            let mut i = 0;
            while i < n {
                // SAFETY: `i < n`, and `n - i` bounds the lanes that are touched.
                unsafe {
                    let x = S::load_n(self.0.as_ptr().add(i), n - i);
                    let y = S::fma(S::splat(2.0), x, S::splat(1.0));
                    S::store_n(self.1.as_mut_ptr().add(i), n - i, y);
                }
                i += S::LANES;
            }
        }
    }

    #[test]
    fn every_level_computes_the_same_and_respects_the_tail() {
        let levels = levels();
        for n in 0..70 {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            for level in &levels {
                let mut y = vec![-7.0; n + 3];
                at(*level, Affine(&x, &mut y[..n]));
                for (i, value) in y.iter().enumerate() {
                    let expected = if i < n { 2.0 * i as f32 + 1.0 } else { -7.0 };
                    assert_eq!(*value, expected, "{level:?}, n {n}, lane {i}");
                }
            }
        }
    }
}
