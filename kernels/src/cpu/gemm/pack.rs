//! Packing: panels of `w` rows (or columns) of an operand, k steps deep, laid out as the tile reads them. Half-precision
//! operands are widened on the way. A panel that sticks out over the edge repeats the last line; its products are dropped.

use super::{Float, Operand};
use crate::cpu::{copy::Real, scratch::Scratch};
use half::{bf16, f16};

/// Panels written together, so that a line of the source is read in longer runs.
pub(super) const GROUP: usize = 8;

/// Packs `count` lines starting at `first`, steps `k0..k0+kc`, into consecutive panels of `w` lines. `lines_are_rows`: a
/// line of the panel is a row of the operand in memory, so k runs along memory.
///
/// # Safety
/// The rectangle lies inside the operand; `dst` has room for the rounded-up panels plus 8 floats.
pub(in crate::cpu) unsafe fn pack(
    dst: *mut f32,
    w: usize,
    src: &Operand,
    lines_are_rows: bool,
    (first, count): (usize, usize),
    (k0, kc): (usize, usize),
) {
    let step = GROUP * w;
    for at in (0..count).step_by(step) {
        let n = (count - at).min(step);
        // SAFETY: sub-rectangles of the caller's; every panel starts at a multiple of w lines.
        unsafe {
            let dst = dst.add(at * kc);
            let (row, col) = if lines_are_rows { (first + at, k0) } else { (k0, first + at) };
            let size = if lines_are_rows { (n, kc) } else { (kc, n) };
            as_f32(src, (row, col), size, |src, ld| panels(dst, w, src, ld, lines_are_rows, n, kc));
        }
    }
}

/// Calls `work` with the address and leading dimension of a rectangle as f32: in place, or widened to a copy.
///
/// # Safety
/// The rectangle lies inside the operand.
pub(super) unsafe fn as_f32(
    src: &Operand,
    (row, col): (usize, usize),
    (rows, cols): (usize, usize),
    work: impl FnOnce(*const f32, usize),
) {
    let at = src.at(row, col);
    match src.float {
        Float::F32 => work(at.cast(), src.ld),
        half => Scratch::with(rows * cols, |wide| {
            // SAFETY: the caller's rectangle; the scratch has its size.
            unsafe {
                if half == Float::Bf16 {
                    widen(at.cast::<bf16>(), src.ld, rows, cols, wide);
                } else {
                    widen(at.cast::<f16>(), src.ld, rows, cols, wide);
                }
            }
            work(wide, cols);
        }),
    }
}

/// Half-precision rectangle to contiguous f32.
unsafe fn widen<T: Real>(src: *const T, ld: usize, rows: usize, cols: usize, dst: *mut f32) {
    for i in 0..rows {
        // SAFETY: row i of the caller's rectangle, and of the scratch.
        unsafe {
            let s = std::slice::from_raw_parts(src.add(i * ld), cols);
            T::widen(s, std::slice::from_raw_parts_mut(dst.add(i * cols), cols));
        }
    }
}

multiversion! {
    /// Packs up to GROUP panels of f32.
    fn panels(dst: *mut f32, w: usize, src: *const f32, ld: usize, lines_are_rows: bool, n: usize, kc: usize) {
        // SAFETY: the caller's rectangle and room.
        unsafe {
            if lines_are_rows {
                for at in (0..n).step_by(w) {
                    transpose::<FMA>(dst.add(at * kc), w, src.add(at * ld), ld, (n - at).min(w), kc);
                }
            } else {
                match w {
                    32 => copy::<32>(dst, src, ld, n, kc),
                    16 => copy::<16>(dst, src, ld, n, kc),
                    14 => copy::<14>(dst, src, ld, n, kc),
                    8 => copy::<8>(dst, src, ld, n, kc),
                    6 => copy::<6>(dst, src, ld, n, kc),
                    _ => copy::<4>(dst, src, ld, n, kc),
                }
            }
        }
    }
}

/// Lines lie across memory: each k step is a run of `n` floats, cut into panels.
#[inline(always)]
unsafe fn copy<const W: usize>(dst: *mut f32, src: *const f32, ld: usize, n: usize, kc: usize) {
    for p in 0..kc {
        // SAFETY: row p of the rectangle has n floats; panel i starts at i·W·kc.
        unsafe {
            let s = src.add(p * ld);
            // Rows lie pages apart, where hardware does not look ahead.
            #[cfg(target_arch = "x86_64")]
            for line in (0..n).step_by(16) {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(s.wrapping_add(8 * ld + line).cast());
            }
            for at in (0..n).step_by(W) {
                let d = dst.add(at * kc + p * W).cast::<[f32; W]>();
                if n - at >= W {
                    *d = *s.add(at).cast::<[f32; W]>();
                } else {
                    for j in 0..W {
                        (*d)[j] = *s.add((at + j).min(n - 1));
                    }
                }
            }
        }
    }
}

/// Lines lie along memory: the panel is the transposed rectangle.
#[inline(always)]
unsafe fn transpose<const FMA: bool>(
    dst: *mut f32,
    w: usize,
    src: *const f32,
    ld: usize,
    n: usize,
    kc: usize,
) {
    // SAFETY: line(i) is inside the rectangle for every i; stores stay in the panel, or (w < 8) spill at most 2 floats
    // that the next step or panel overwrites.
    unsafe {
        let line = |i: usize| src.add(i.min(n - 1) * ld);
        let mut p = 0;
        #[cfg(target_arch = "x86_64")]
        if FMA {
            while p + 8 <= kc {
                let mut first = 0;
                while first < w {
                    // The last group of eight overlaps the one before it.
                    let at = if first + 8 > w { w.saturating_sub(8) } else { first };
                    let rows = std::array::from_fn(|i| line(at + i).add(p));
                    transpose8(rows, dst.add(p * w + at), w);
                    first += 8;
                }
                p += 8;
            }
        }
        while p < kc {
            for j in 0..w {
                *dst.add(p * w + j) = *line(j).add(p);
            }
            p += 1;
        }
    }
}

/// Transposes 8×8 floats.
///
/// # Safety
/// AVX2; eight readable floats at each row, eight writable at `dst + j·stride`, j < 8.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose8(rows: [*const f32; 8], dst: *mut f32, stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: as the caller promises.
    unsafe {
        let r = rows.map(|p| _mm256_loadu_ps(p));
        let pair = |i: usize| (_mm256_unpacklo_ps(r[i], r[i + 1]), _mm256_unpackhi_ps(r[i], r[i + 1]));
        let half = |i: usize| {
            let ((a, b), (c, d)) = (pair(i), pair(i + 2));
            [
                _mm256_shuffle_ps::<0x44>(a, c),
                _mm256_shuffle_ps::<0xEE>(a, c),
                _mm256_shuffle_ps::<0x44>(b, d),
                _mm256_shuffle_ps::<0xEE>(b, d),
            ]
        };
        let (top, bottom) = (half(0), half(4));
        for j in 0..4 {
            _mm256_storeu_ps(dst.add(j * stride), _mm256_permute2f128_ps::<0x20>(top[j], bottom[j]));
        }
        for j in 0..4 {
            _mm256_storeu_ps(dst.add((j + 4) * stride), _mm256_permute2f128_ps::<0x31>(top[j], bottom[j]));
        }
    }
}
