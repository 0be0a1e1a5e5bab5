//! The vector type the kernels are written in: each kernel body is generic over [`Simd`] and compiled
//! once per instruction set by [`per_isa`], which also picks the version at run time.

/// A vector of `N` f32 lanes. Every method is unsafe because it may use instructions the machine lacks: call only from a
/// [`per_isa`] body. Pointers need no alignment.
pub(crate) trait Simd: Copy {
    /// Lanes, at most 16.
    const N: usize;
    /// The register.
    type V: Copy;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n < N` lanes from memory, zeros behind them.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V;
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::V);
    /// The first `n <= N` lanes from memory, zeros behind them.
    #[inline(always)]
    unsafe fn load_upto(p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller gives n readable floats.
        unsafe { if n == Self::N { Self::load(p) } else { Self::load_part(p, n) } }
    }
    #[inline(always)]
    unsafe fn store_upto(p: *mut f32, n: usize, v: Self::V) {
        // SAFETY: the caller gives n writable floats.
        unsafe { if n == Self::N { Self::store(p, v) } else { Self::store_part(p, n, v) } }
    }
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// The larger of each pair; `b` where `a` is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, fused where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Sum of the lanes in a fixed order.
    unsafe fn sum(a: Self::V) -> f32;
    /// Bit i set where lane i of `a` > lane i of `b`; never for NaN.
    unsafe fn gt(a: Self::V, b: Self::V) -> u32;
    /// Bit i set where lane i is not 0; also for NaN.
    unsafe fn nonzero(a: Self::V) -> u32;
    /// `v` where the bit of `mask` is set, else 0.
    unsafe fn keep(mask: u32, v: Self::V) -> Self::V;
    /// Bit i set where byte i of `p` is not 0.
    unsafe fn bytes(p: *const u8) -> u32;
    /// Writes `base + i` for every set bit i of `mask`, ascending; may scribble on `N` places. Returns how many.
    unsafe fn positions(mask: u32, base: u32, dst: *mut u32) -> usize;
}

/// Compiles `body` once per instruction set and calls the one asked for. `S` names the [`Simd`] type inside the body.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<$S:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis unsafe fn $name(isa: $crate::cpu::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            unsafe fn body<$S: $crate::cpu::simd::Simd>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's contract, passed on; the features are enabled here.
                unsafe { body::<$crate::cpu::simd::x86::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,popcnt")]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's contract, passed on; the features are enabled here.
                unsafe { body::<$crate::cpu::simd::x86::Avx2>($($arg),*) }
            }
            // SAFETY: the caller's contract, passed on; `Isa` values other than `Portable` exist only where detected.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::Isa::Amx | $crate::cpu::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::Isa::Avx2 => avx2($($arg),*),
                    _ => body::<$crate::cpu::simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use per_isa;

/// Asks for the cache line at `p`; any address is allowed.
#[inline(always)]
pub(crate) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Asks for the cache line at `p` in the second-level cache; any address is allowed.
#[inline(always)]
pub(crate) fn prefetch_near(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Eight lanes of plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanewise {
    ($($name:ident($($arg:ident),*) $i:ident => $e:expr;)*) => {
        $(#[inline(always)]
        unsafe fn $name($($arg: Self::V),*) -> Self::V { std::array::from_fn(|$i| $e) })*
    };
}

impl Simd for Portable {
    const N: usize = 8;
    type V = [f32; 8];
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller gives N readable floats.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller gives N writable floats.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V {
        let mut v = [0.0; 8];
        // SAFETY: the caller gives n < N readable floats.
        unsafe { std::ptr::copy_nonoverlapping(p, v.as_mut_ptr(), n) };
        v
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::V) {
        // SAFETY: the caller gives n < N writable floats.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), p, n) };
    }
    lanewise! {
        add(a, b) i => a[i] + b[i];
        mul(a, b) i => a[i] * b[i];
        div(a, b) i => a[i] / b[i];
        sqrt(a) i => a[i].sqrt();
        max(a, b) i => if a[i] > b[i] { a[i] } else { b[i] };
        fma(a, b, c) i => a[i] * b[i] + c[i];
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn gt(a: Self::V, b: Self::V) -> u32 {
        (0..8).fold(0, |m, i| m | u32::from(a[i] > b[i]) << i)
    }
    #[inline(always)]
    unsafe fn nonzero(a: Self::V) -> u32 {
        (0..8).fold(0, |m, i| m | u32::from(a[i] != 0.0) << i)
    }
    #[inline(always)]
    unsafe fn keep(mask: u32, v: Self::V) -> Self::V {
        std::array::from_fn(|i| if mask >> i & 1 == 1 { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> u32 {
        // SAFETY: the caller gives N readable bytes.
        (0..8).fold(0, |m, i| m | u32::from(unsafe { *p.add(i) } != 0) << i)
    }
    #[inline(always)]
    unsafe fn positions(mask: u32, base: u32, dst: *mut u32) -> usize {
        let (mut rest, mut n) = (mask, 0);
        while rest != 0 {
            // SAFETY: the caller gives N writable places, and a mask has at most N bits.
            unsafe { *dst.add(n) = base + rest.trailing_zeros() };
            rest &= rest - 1;
            n += 1;
        }
        n
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    //! The x86 registers. SAFETY of every block: the methods run only inside `per_isa` functions that enable these
    //! features, and the caller vouches for the pointers.
    #![allow(clippy::undocumented_unsafe_blocks)]
    use super::{Portable, Simd};
    use std::arch::x86_64::*;

    /// Sixteen lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;
    /// Eight lanes.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    impl Simd for Avx512 {
        const N: usize = 16;
        type V = __m512;
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
        unsafe fn load_part(p: *const f32, n: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps((1u32 << n).wrapping_sub(1) as __mmask16, p) }
        }
        #[inline(always)]
        unsafe fn store_part(p: *mut f32, n: usize, v: __m512) {
            unsafe { _mm512_mask_storeu_ps(p, (1u32 << n).wrapping_sub(1) as __mmask16, v) }
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
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m512) -> __m512 {
            unsafe { _mm512_sqrt_ps(a) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(a: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(a) }
        }
        #[inline(always)]
        unsafe fn gt(a: __m512, b: __m512) -> u32 {
            unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)) }
        }
        #[inline(always)]
        unsafe fn nonzero(a: __m512) -> u32 {
            unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, _mm512_setzero_ps())) }
        }
        #[inline(always)]
        unsafe fn keep(mask: u32, v: __m512) -> __m512 {
            unsafe { _mm512_maskz_mov_ps(mask as __mmask16, v) }
        }
        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> u32 {
            unsafe {
                let b = _mm_loadu_si128(p.cast());
                !(_mm_movemask_epi8(_mm_cmpeq_epi8(b, _mm_setzero_si128())) as u32) & 0xffff
            }
        }
        #[inline(always)]
        unsafe fn positions(mask: u32, base: u32, dst: *mut u32) -> usize {
            unsafe {
                let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let at = _mm512_add_epi32(lanes, _mm512_set1_epi32(base as i32));
                // Compressing in the register and storing all lanes: compressing stores are microcoded on Zen 4.
                _mm512_storeu_si512(dst.cast(), _mm512_maskz_compress_epi32(mask as __mmask16, at));
            }
            mask.count_ones() as usize
        }
    }

    impl Simd for Avx2 {
        const N: usize = 8;
        type V = __m256;
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
        unsafe fn load_part(p: *const f32, n: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(p, first(n)) }
        }
        #[inline(always)]
        unsafe fn store_part(p: *mut f32, n: usize, v: __m256) {
            unsafe { _mm256_maskstore_ps(p, first(n), v) }
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
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m256) -> __m256 {
            unsafe { _mm256_sqrt_ps(a) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(a: __m256) -> f32 {
            unsafe {
                let q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let h = _mm_add_ps(q, _mm_movehl_ps(q, q));
                _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)))
            }
        }
        #[inline(always)]
        unsafe fn gt(a: __m256, b: __m256) -> u32 {
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) as u32 }
        }
        #[inline(always)]
        unsafe fn nonzero(a: __m256) -> u32 {
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(a, _mm256_setzero_ps())) as u32 }
        }
        #[inline(always)]
        unsafe fn keep(mask: u32, v: __m256) -> __m256 {
            unsafe {
                let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let on = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask as i32), bit), bit);
                _mm256_and_ps(v, _mm256_castsi256_ps(on))
            }
        }
        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> u32 {
            unsafe {
                let b = _mm_loadl_epi64(p.cast());
                !(_mm_movemask_epi8(_mm_cmpeq_epi8(b, _mm_setzero_si128())) as u32) & 0xff
            }
        }
        #[inline(always)]
        unsafe fn positions(mask: u32, base: u32, dst: *mut u32) -> usize {
            unsafe { Portable::positions(mask, base, dst) }
        }
    }

    /// All-ones in the first `n` lanes.
    #[inline(always)]
    unsafe fn first(n: usize) -> __m256i {
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }
}
