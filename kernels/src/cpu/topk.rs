//! The k largest positive entries of each row, exactly. A lower bound of the k-th largest comes from maxima of disjoint groups
//! (k groups above t mean k elements above t); one filtering pass then leaves little more than k candidates to sort.

use super::{
    Isa, Rows,
    simd::{Simd, per_isa, prefetch_near},
};
use rayon::prelude::*;

/// Per row of `x [B, F]`: the `k = vals.cols` largest `g = x·scale` among those with `g > 0` and a non-zero mask byte, ties to the
/// lower column, in descending order of g. `vals [B, k]` receives x, `idx [B, k]` the column; missing slots 0 and `u32::MAX`.
/// `scale`, `mask` have F elements. With `abs`, `g = |x|·scale`; columns and slots are split into `groups` runs of equal length
/// that are separate.
///
/// # Safety
/// The operands are live with these shapes, nobody else touches the outputs, and the machine has `isa`.
pub unsafe fn topk(
    isa: Isa,
    x: Rows<f32>,
    scale: Option<&[f32]>,
    mask: Option<&[u8]>,
    vals: Rows<f32>,
    idx: Rows<u32>,
    (abs, groups): (bool, usize),
) {
    assert!(scale.is_none_or(|s| s.len() == x.cols) && mask.is_none_or(|m| m.len() == x.cols));
    assert!((vals.rows, idx.rows, idx.cols) == (x.rows, x.rows, vals.cols), "one row of slots a row of x");
    assert!(x.cols.is_multiple_of(groups) && vals.cols.is_multiple_of(groups), "{groups} groups");
    if x.rows == 0 || vals.cols == 0 {
        return;
    }
    let (width, k) = (x.cols / groups, vals.cols / groups);
    let chunk = x.rows.div_ceil(rayon::current_num_threads() * 8);
    (0..x.rows.div_ceil(chunk)).into_par_iter().for_each_init(Scratch::default, |scratch, c| {
        for r in c * chunk..((c + 1) * chunk).min(x.rows) {
            // SAFETY: each row belongs to one task; the instruction set exists; scale and mask are as long as the row.
            unsafe {
                let (row, next) = (x.row(r), x.row_ptr(r + 1));
                let slots = vals.row_mut(r).chunks_exact_mut(k).zip(idx.row_mut(r).chunks_exact_mut(k));
                for (group, (v, i)) in slots.enumerate() {
                    let at = group * width..(group + 1) * width;
                    let (scale, mask) = (scale.map(|s| &s[at.clone()]), mask.map(|m| &m[at.clone()]));
                    let next = next.wrapping_add(at.start);
                    let values = &row[at.clone()];
                    let mut ranked = std::mem::take(&mut scratch.magnitudes);
                    if abs {
                        ranked.clear();
                        ranked.extend(values.iter().map(|v| v.abs()));
                    }
                    candidates(isa, if abs { &ranked } else { values }, next, scale, mask, k, scratch);
                    scratch.magnitudes = ranked;
                    scratch.finish(values, at.start as u32, v, i);
                }
            }
        }
    });
}

/// What one thread reuses from row to row.
#[derive(Default)]
struct Scratch {
    maxima: Vec<f32>,
    found: Vec<u32>,
    keys: Vec<u64>,
    /// |x| of one row.
    magnitudes: Vec<f32>,
}

/// Candidates found between two selections.
const BATCH: usize = 1024;
/// The widest vector, and so the most places `Simd::positions` writes past the end.
const LANES: usize = 16;

impl Scratch {
    /// Turns the found columns into keys whose ascending order is descending g, then ascending column. With more than k of
    /// them only the best k stay, and their worst g is returned: a later column has to exceed it.
    fn take(&mut self, n: usize, k: usize, g: impl Fn(usize) -> f32) -> Option<f32> {
        let keys = self.found[..n].iter().map(|&i| u64::from(!g(i as usize).to_bits()) << 32 | u64::from(i));
        self.keys.extend(keys);
        if self.keys.len() < k {
            return None;
        }
        let (_, &mut worst, _) = self.keys.select_nth_unstable(k - 1);
        self.keys.truncate(k);
        Some(f32::from_bits(!((worst >> 32) as u32)))
    }

    /// Writes the slots of columns that begin at `first`.
    fn finish(&mut self, x: &[f32], first: u32, vals: &mut [f32], idx: &mut [u32]) {
        self.keys.sort_unstable();
        let n = self.keys.len();
        for ((key, v), i) in self.keys.drain(..).zip(&mut *vals).zip(&mut *idx) {
            *v = x[key as u32 as usize];
            *i = first + key as u32;
        }
        vals[n..].fill(0.0);
        idx[n..].fill(u32::MAX);
    }
}

/// Vectors to a group: the most that leave 2k groups, so that the k-th largest maximum is a sharp bound.
fn group_size(n: usize, k: usize) -> Option<usize> {
    [64, 32, 16, 8].into_iter().find(|b| n / b >= 2 * k)
}

per_isa! {
    /// Leaves the keys of the best k entries of one row in `scratch`, and asks for the row at `next`.
    unsafe fn candidates<S>(
        x: &[f32],
        next: *const f32,
        scale: Option<&[f32]>,
        mask: Option<&[u8]>,
        k: usize,
        scratch: &mut Scratch,
    ) {
        // SAFETY: the caller checked the lengths.
        unsafe {
            match (scale, mask) {
                (None, None) => row::<S, false, false>(x, x, &[], next, k, scratch),
                (Some(s), None) => row::<S, true, false>(x, s, &[], next, k, scratch),
                (None, Some(m)) => row::<S, false, true>(x, x, m, next, k, scratch),
                (Some(s), Some(m)) => row::<S, true, true>(x, s, m, next, k, scratch),
            }
        }
    }
}

/// g of the vector at column i.
#[inline(always)]
pub(super) unsafe fn gated<S: Simd, const SCALE: bool, const MASK: bool>(
    x: &[f32],
    scale: &[f32],
    mask: &[u8],
    i: usize,
) -> S::V {
    // SAFETY: the caller keeps i + N inside the row.
    unsafe {
        let mut g = S::load(x.as_ptr().add(i));
        if SCALE {
            g = S::mul(g, S::load(scale.as_ptr().add(i)));
        }
        if MASK {
            g = S::keep(S::bytes(mask.as_ptr().add(i)), g);
        }
        g
    }
}

#[inline(always)]
unsafe fn row<S: Simd, const SCALE: bool, const MASK: bool>(
    x: &[f32],
    scale: &[f32],
    mask: &[u8],
    next: *const f32,
    k: usize,
    scratch: &mut Scratch,
) {
    let vectors = x.len() / S::N;
    let g_at = |i: usize| if SCALE { x[i] * scale[i] } else { x[i] };
    scratch.found.resize(BATCH + 4 * LANES, 0);
    // SAFETY: all loads stay below `vectors * N <= x.len()`; `found` has room for four vectors more than BATCH.
    unsafe {
        let mut t = match group_size(x.len(), k) {
            Some(size) => bound::<S, SCALE, MASK>(x, scale, mask, vectors, size, k, &mut scratch.maxima),
            None => 0.0,
        };
        let mut n = 0;
        let (mut v, mut bar) = (0, S::splat(t));
        while v < vectors {
            // Four vectors to a branch: most hold nothing above the bound.
            let mut hits = [0; 4];
            if v + 4 <= vectors {
                for j in 0..4 {
                    hits[j] = S::gt(gated::<S, SCALE, MASK>(x, scale, mask, (v + j) * S::N), bar);
                    prefetch_near(next.wrapping_add((v + j) * S::N));
                }
            } else {
                for j in 0..vectors - v {
                    hits[j] = S::gt(gated::<S, SCALE, MASK>(x, scale, mask, (v + j) * S::N), bar);
                }
            }
            if hits[0] | hits[1] | hits[2] | hits[3] != 0 {
                for j in 0..4 {
                    let at = ((v + j) * S::N) as u32;
                    n += S::positions(hits[j], at, scratch.found.as_mut_ptr().add(n));
                }
                if n >= BATCH {
                    t = scratch.take(n, k, g_at).unwrap_or(t);
                    (n, bar) = (0, S::splat(t));
                }
            }
            v += 4;
        }
        for i in vectors * S::N..x.len() {
            if g_at(i) > t && (!MASK || mask[i] != 0) {
                scratch.found[n] = i as u32;
                n += 1;
            }
        }
        scratch.take(n, k, g_at);
    }
}

/// A value that at least k entries of the row exceed, close below the k-th largest; 0 when there is none.
#[inline(always)]
unsafe fn bound<S: Simd, const SCALE: bool, const MASK: bool>(
    x: &[f32],
    scale: &[f32],
    mask: &[u8],
    vectors: usize,
    size: usize,
    k: usize,
    maxima: &mut Vec<f32>,
) -> f32 {
    let sets = vectors.div_ceil(size);
    maxima.resize(sets * S::N, 0.0);
    // SAFETY: loads stay below `vectors * N`, stores below `sets * N`.
    unsafe {
        let mut top = S::splat(0.0);
        for set in 0..sets {
            // One group a lane; four accumulators hide the latency of the maximum.
            let mut m = [S::splat(0.0); 4];
            let end = ((set + 1) * size).min(vectors);
            let mut v = set * size;
            while v + 4 <= end {
                for j in 0..4 {
                    m[j] = S::max(gated::<S, SCALE, MASK>(x, scale, mask, (v + j) * S::N), m[j]);
                }
                v += 4;
            }
            for v in v..end {
                m[0] = S::max(gated::<S, SCALE, MASK>(x, scale, mask, v * S::N), m[0]);
            }
            let group = S::max(S::max(m[0], m[1]), S::max(m[2], m[3]));
            S::store(maxima.as_mut_ptr().add(set * S::N), group);
            top = S::max(group, top);
        }
        let mut lanes = [0.0f32; LANES];
        S::store(lanes.as_mut_ptr(), top);
        let above = |t: f32| {
            let t = S::splat(t);
            (0..sets).map(|s| S::gt(S::load(maxima.as_ptr().add(s * S::N)), t).count_ones() as usize).sum()
        };
        bisect(lanes.into_iter().fold(0.0, f32::max), k, above)
    }
}

/// A t with `above(t) >= k` that is close to the largest such; 0 when there is none. `above` falls with t.
#[inline(always)]
fn bisect(max: f32, k: usize, above: impl Fn(f32) -> usize) -> f32 {
    let (mut lo, mut hi) = (0.0f32, max);
    for step in 0..20 {
        // Halving the value converges fast on ordinary rows, halving the bits also on rows of many magnitudes.
        let mid = if step % 3 < 2 && hi < f32::MAX {
            0.5 * (lo + hi)
        } else {
            f32::from_bits((lo.to_bits() + hi.to_bits()) / 2)
        };
        let count = above(mid);
        if count >= k {
            lo = mid;
            if count <= k + k / 8 {
                break;
            }
        } else {
            hi = mid;
        }
    }
    lo
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::testing::*, philox};

    fn naive(x: &[f32], scale: Option<&[f32]>, mask: Option<&[u8]>, k: usize) -> (Vec<f32>, Vec<u32>) {
        let g = |i: usize| scale.map_or(x[i], |s| x[i] * s[i]);
        let mut order: Vec<usize> =
            (0..x.len()).filter(|&i| g(i) > 0.0 && mask.is_none_or(|m| m[i] != 0)).collect();
        order.sort_by(|&a, &b| g(b).total_cmp(&g(a)).then(a.cmp(&b)));
        order.truncate(k);
        let mut vals: Vec<f32> = order.iter().map(|&i| x[i]).collect();
        let mut idx: Vec<u32> = order.iter().map(|&i| i as u32).collect();
        vals.resize(k, 0.0);
        idx.resize(k, u32::MAX);
        (vals, idx)
    }

    fn agrees(x: &[f32], cols: usize, k: usize, scale: Option<&[f32]>, mask: Option<&[u8]>) {
        let rows = x.len().checked_div(cols).unwrap_or(3);
        for isa in Isa::available() {
            let (mut vals, mut idx) = (vec![9.0; rows * k], vec![9; rows * k]);
            let (xm, vm, im) =
                (rows_of(x, rows, cols), rows_mut(&mut vals, rows, k), rows_mut(&mut idx, rows, k));
            // SAFETY: fresh arrays of these shapes, an available instruction set.
            unsafe { topk(isa, xm, scale, mask, vm, im, (false, 1)) };
            for r in 0..rows {
                let (v, i) = naive(&x[r * cols..(r + 1) * cols], scale, mask, k);
                assert_eq!(idx[r * k..(r + 1) * k], i, "{isa:?} [{rows}, {cols}] k {k} row {r}");
                assert_eq!(vals[r * k..(r + 1) * k], v, "{isa:?} [{rows}, {cols}] k {k} row {r}");
            }
        }
    }

    fn normal(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| philox::normal(seed, i, 0.0, 1.0)).collect()
    }

    #[test]
    fn equals_a_full_sort_at_every_width() {
        for cols in [0, 1, 7, 15, 16, 17, 63, 64, 65, 257, 1000, 4099] {
            let x = normal(5 * cols, cols as u64);
            for k in [1, 2, 7, 50, cols.max(1), cols + 3] {
                agrees(&x, cols, k, None, None);
            }
        }
    }

    #[test]
    fn scale_and_mask_decide_but_values_stay_unscaled() {
        let (rows, cols) = (4, 2051);
        let x = normal(rows * cols, 1);
        let scale: Vec<f32> = normal(cols, 2);
        let mask: Vec<u8> = normal(cols, 3).iter().map(|&v| u8::from(v > 0.5)).collect();
        for k in [1, 9, 50, 700] {
            agrees(&x, cols, k, Some(&scale), None);
            agrees(&x, cols, k, None, Some(&mask));
            agrees(&x, cols, k, Some(&scale), Some(&mask));
        }
    }

    #[test]
    fn ties_go_to_the_lower_column() {
        for k in [1, 5, 64, 3000] {
            agrees(&vec![2.5; 2 * 6144], 6144, k, None, None);
            let steps: Vec<f32> = (0..6144).map(|i| (i * 7 % 13) as f32).collect();
            agrees(&steps, 6144, k, None, None);
            let rising: Vec<f32> = (0..6144).map(|i| i as f32).collect();
            agrees(&rising, 6144, k, None, None);
        }
    }

    #[test]
    fn nan_and_negative_entries_are_never_selected_and_infinity_comes_first() {
        let mut x = normal(4096, 4);
        for i in 0..4096 {
            match i % 9 {
                0 => x[i] = f32::NAN,
                1 => x[i] = -f32::INFINITY,
                2 => x[i] *= 1e-38,
                3 => x[i] *= 1e30,
                _ => {}
            }
        }
        (x[100], x[4000]) = (f32::INFINITY, f32::INFINITY);
        for k in [1, 2, 3, 50, 4096] {
            agrees(&x, 4096, k, None, None);
        }
        agrees(&[f32::NAN; 640], 64, 5, None, None);
        agrees(&[-1.0; 640], 640, 5, None, None);
        agrees(&[0.0; 640], 640, 5, None, None);
    }

    #[test]
    fn few_positive_entries_leave_empty_slots() {
        let mut x = vec![-1.0; 6144];
        for i in [3, 17, 6143] {
            x[i] = i as f32;
        }
        agrees(&x, 6144, 50, None, None);
    }
}
