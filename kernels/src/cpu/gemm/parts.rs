//! Packing for AMX: every f32 becomes the exact sum of three bfloat16 parts, laid out as tiles of one kilobyte. Strips of 32
//! lines are cut into blocks of 32 k steps; a block holds, for each part from the largest to the smallest, the tiles of its
//! lower and upper 16 lines. A dword of a tile pairs steps j and j + 16 of the block, in both factors alike.

use super::{Operand, pack};
use std::arch::x86_64::*;

/// Lines in a strip.
pub(super) const LINES: usize = 32;
/// Steps in a block.
pub(super) const STEPS: usize = 32;
/// Floats that one tile occupies.
const TILE: usize = 256;
/// Floats that one block occupies: three parts of two tiles.
const BLOCK: usize = 6 * TILE;

/// Which factor a strip belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A row of the tile is a line, k runs along it.
    Left,
    /// A row of the tile is a pair of steps, lines run along it.
    Right,
}

/// Floats that the strips of `lines` lines occupy at depth `k`.
pub(super) const fn room(lines: usize, k: usize) -> usize {
    lines.div_ceil(LINES) * k.div_ceil(STEPS) * BLOCK
}

/// Packs `count` lines starting at `first`, steps `k0..k0+kc`, into consecutive strips; what is missing from whole tiles is
/// zero.
///
/// # Safety
/// The processor has AVX-512 F. The rectangle lies inside the operand; `dst` is aligned to 64 bytes and has `room`.
pub(super) unsafe fn pack(
    dst: *mut f32,
    side: Side,
    src: &Operand,
    lines_are_rows: bool,
    (first, count): (usize, usize),
    (k0, kc): (usize, usize),
) {
    let step = pack::GROUP * LINES;
    for at in (0..count).step_by(step) {
        let n = (count - at).min(step);
        let (row, col, rows, cols) =
            if lines_are_rows { (first + at, k0, n, kc) } else { (k0, first + at, kc, n) };
        // SAFETY: sub-rectangles of the caller's; strips start at multiples of 32 lines.
        unsafe {
            let dst = dst.add(room(at, kc));
            pack::as_f32(src, (row, col), (rows, cols), |src, ld| {
                strips(dst, side, src, ld, lines_are_rows, (n, kc))
            });
        }
    }
}

/// Half strips of 16 lines, block by block, in the order that memory is read in runs.
#[target_feature(enable = "avx512f")]
unsafe fn strips(
    dst: *mut f32,
    side: Side,
    src: *const f32,
    ld: usize,
    lines_are_rows: bool,
    (n, kc): (usize, usize),
) {
    let one = |line: usize, step: usize| {
        let (lines, steps) = (n.saturating_sub(line).min(16), (kc - step).min(STEPS));
        // SAFETY: the tile is inside the strips' room and the rectangle read inside the source.
        unsafe {
            let dst = dst.add(room(line / LINES * LINES, kc) + step / STEPS * BLOCK + line / 16 % 2 * TILE);
            if lines == 16 && steps == STEPS {
                let at = if lines_are_rows { line * ld + step } else { step * ld + line };
                tiles(dst, side, src.add(at), ld, lines_are_rows);
                return;
            }
            let mut whole = [0f32; 16 * STEPS];
            let (rows, cols, width) = if lines_are_rows { (lines, steps, STEPS) } else { (steps, lines, 16) };
            for i in 0..if lines == 0 { 0 } else { rows } {
                let at = if lines_are_rows { (line + i) * ld + step } else { (step + i) * ld + line };
                std::ptr::copy_nonoverlapping(src.add(at), whole.as_mut_ptr().add(i * width), cols);
            }
            tiles(dst, side, whole.as_ptr(), width, lines_are_rows);
        }
    };
    let lines = n.next_multiple_of(LINES);
    if lines_are_rows {
        (0..lines).step_by(16).for_each(|line| (0..kc).step_by(STEPS).for_each(|step| one(line, step)));
    } else {
        (0..kc).step_by(STEPS).for_each(|step| (0..lines).step_by(16).for_each(|line| one(line, step)));
    }
}

/// One tile of each part from 16 lines and 32 steps.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tiles(dst: *mut f32, side: Side, src: *const f32, ld: usize, lines_are_rows: bool) {
    // Row i of the result as it comes from memory: line i and its two runs of steps, or steps i and i + 16 of all lines.
    // SAFETY: the caller's rectangle.
    let pair = |i: usize| unsafe {
        if lines_are_rows {
            (_mm512_loadu_ps(src.add(i * ld)), _mm512_loadu_ps(src.add(i * ld + 16)))
        } else {
            (_mm512_loadu_ps(src.add(i * ld)), _mm512_loadu_ps(src.add((i + 16) * ld)))
        }
    };
    // SAFETY: row i of three tiles, two tiles apart.
    unsafe {
        if lines_are_rows == (side == Side::Left) {
            for i in 0..16 {
                let (low, high) = pair(i);
                split(dst.add(16 * i), low, high);
            }
        } else {
            let mut low = [_mm512_setzero_ps(); 16];
            let mut high = low;
            for i in 0..16 {
                (low[i], high[i]) = pair(i);
            }
            let (low, high) = (transpose(low), transpose(high));
            for i in 0..16 {
                split(dst.add(16 * i), low[i], high[i]);
            }
        }
    }
}

/// Writes the three parts of sixteen pairs, `low` in the lower halves of the dwords. Rounding twice to the nearest leaves
/// at most 7 bits, so the third part is exact. Infinity and NaN stay themselves in at least one part, and finite values
/// that round to infinity leave an infinity and a NaN behind: sums that meet them cannot come out finite.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn split(dst: *mut f32, low: __m512, high: __m512) {
    let top = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    let round = |v: __m512| {
        _mm512_castsi512_ps(_mm512_and_si512(
            _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000)),
            top,
        ))
    };
    let parts = |v: __m512| {
        let first = round(v);
        let rest = _mm512_sub_ps(v, first);
        let second = round(rest);
        [first, second, _mm512_sub_ps(rest, second)]
    };
    for (i, (l, h)) in parts(low).into_iter().zip(parts(high)).enumerate() {
        let (l, h) = (_mm512_srli_epi32::<16>(_mm512_castps_si512(l)), _mm512_castps_si512(h));
        // (h and top) or l
        let both = _mm512_ternarylogic_epi32::<0b1110_1010>(h, top, l);
        // SAFETY: the caller's tiles.
        unsafe { _mm512_store_si512(dst.add(2 * TILE * i).cast(), both) };
    }
}

/// Transposes 16×16 floats.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: [__m512; 16]) -> [__m512; 16] {
    // Within quarters of the registers: group g holds rows 4g..4g+4, turned 4×4 by 4×4.
    let mut q = [_mm512_setzero_ps(); 16];
    for g in 0..4 {
        let (a, b) = (_mm512_unpacklo_ps(r[4 * g], r[4 * g + 1]), _mm512_unpackhi_ps(r[4 * g], r[4 * g + 1]));
        let (c, d) =
            (_mm512_unpacklo_ps(r[4 * g + 2], r[4 * g + 3]), _mm512_unpackhi_ps(r[4 * g + 2], r[4 * g + 3]));
        q[4 * g] = _mm512_shuffle_ps::<0x44>(a, c);
        q[4 * g + 1] = _mm512_shuffle_ps::<0xEE>(a, c);
        q[4 * g + 2] = _mm512_shuffle_ps::<0x44>(b, d);
        q[4 * g + 3] = _mm512_shuffle_ps::<0xEE>(b, d);
    }
    // Column 4·quarter + i is that quarter of q[i], q[4 + i], q[8 + i], q[12 + i].
    let mut out = [_mm512_setzero_ps(); 16];
    for i in 0..4 {
        let (a, b) =
            (_mm512_shuffle_f32x4::<0x88>(q[i], q[4 + i]), _mm512_shuffle_f32x4::<0xDD>(q[i], q[4 + i]));
        let (c, d) = (
            _mm512_shuffle_f32x4::<0x88>(q[8 + i], q[12 + i]),
            _mm512_shuffle_f32x4::<0xDD>(q[8 + i], q[12 + i]),
        );
        out[i] = _mm512_shuffle_f32x4::<0x88>(a, c);
        out[8 + i] = _mm512_shuffle_f32x4::<0xDD>(a, c);
        out[4 + i] = _mm512_shuffle_f32x4::<0x88>(b, d);
        out[12 + i] = _mm512_shuffle_f32x4::<0xDD>(b, d);
    }
    out
}
