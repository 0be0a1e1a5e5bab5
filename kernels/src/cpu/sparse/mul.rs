//! Sparse rows times a dense matrix.

use super::blocks::{AHEAD, Blocks, even_rows};
use crate::cpu::{
    Codes, Isa, Rows,
    simd::{Simd, per_isa, prefetch},
};
use rayon::prelude::*;
use std::ops::Range;

/// `y[r,:] = beta·y[r,:] + Σ vals·w[idx,:] + bias`; `w [n, D]`, `y [rows, D]`, `bias [D]`. y is not read when beta is 0.
///
/// # Safety
/// The operands are live with these shapes, nobody else touches the output, and the machine has `isa`.
pub unsafe fn sparse_mul(
    isa: Isa,
    s: Codes<'_>,
    w: Rows<f32>,
    bias: Option<&[f32]>,
    y: Rows<f32>,
    beta: f32,
) {
    assert!(w.rows == s.n && w.cols == y.cols && y.rows == s.rows && bias.is_none_or(|b| b.len() == y.cols));
    let blocks = Blocks::of(w, s.slots());
    // A packed block serves all rows of its task, so few tasks; without packing many small ones balance better.
    let threads = rayon::current_num_threads();
    let parts = if blocks.packed { (3 * threads).div_ceil(blocks.count.max(1)) } else { 4 * threads };
    let rows = even_rows(&s, parts);
    (0..blocks.count * rows.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (rows, cols) = (rows[task % rows.len()].clone(), blocks.range(task / rows.len(), w.cols));
        // SAFETY: tasks cover disjoint rectangles of y; shapes were checked; the instruction set exists.
        unsafe {
            let y = Rows::new(y.ptr().add(cols.start), y.rows, cols.len(), y.ld);
            let bias = bias.map(|b| &b[cols.clone()]);
            blocks.with(w, cols, |w| mul_rows(isa, s, w, bias, y, beta, rows));
        }
    });
}

per_isa! {
    unsafe fn mul_rows<S>(
        s: Codes<'_>,
        w: Rows<f32>,
        bias: Option<&[f32]>,
        y: Rows<f32>,
        beta: f32,
        rows: Range<usize>,
    ) {
        for r in rows {
            let entries = s.row(r);
            let (vals, idx) = (&s.vals[entries.clone()], &s.idx[entries]);
            let mut d = 0;
            // SAFETY: tiles stay inside the columns of w, y and bias.
            unsafe {
                while d + 8 * S::N <= w.cols {
                    tile::<S, 8>(vals, idx, w, bias, y, beta, r, d);
                    d += 8 * S::N;
                }
                if d + 4 * S::N <= w.cols {
                    tile::<S, 4>(vals, idx, w, bias, y, beta, r, d);
                    d += 4 * S::N;
                }
                if d + 2 * S::N <= w.cols {
                    tile::<S, 2>(vals, idx, w, bias, y, beta, r, d);
                    d += 2 * S::N;
                }
                while d + S::N <= w.cols {
                    tile::<S, 1>(vals, idx, w, bias, y, beta, r, d);
                    d += S::N;
                }
                if d < w.cols {
                    edge::<S>(vals, idx, w, bias, y, beta, r, d, w.cols - d);
                }
            }
        }
    }
}

/// `T` vectors of row r of y, from column d.
#[inline(always)]
unsafe fn tile<S: Simd, const T: usize>(
    vals: &[f32],
    idx: &[u32],
    w: Rows<f32>,
    bias: Option<&[f32]>,
    y: Rows<f32>,
    beta: f32,
    r: usize,
    d: usize,
) {
    // SAFETY: the caller keeps the tile inside the operands; rows of w are checked against their number.
    unsafe {
        let out = y.ptr().add(r * y.ld + d);
        // By the time of the stores their lines are here.
        (0..(T * S::N).div_ceil(16)).for_each(|t| prefetch(out.wrapping_add(16 * t)));
        let mut acc = [S::splat(0.0); T];
        if let Some(b) = bias {
            for t in 0..T {
                acc[t] = S::load(b.as_ptr().add(d + t * S::N));
            }
        }
        if beta != 0.0 {
            for t in 0..T {
                acc[t] = S::fma(S::splat(beta), S::load(out.add(t * S::N)), acc[t]);
            }
        }
        let column = w.ptr().add(d);
        for e in 0..idx.len() {
            if let Some(&next) = idx.get(e + AHEAD) {
                let p = column.wrapping_add(next as usize * w.ld);
                for t in 0..(T * S::N).div_ceil(16) {
                    prefetch(p.wrapping_add(16 * t));
                }
            }
            let i = idx[e] as usize;
            if i >= w.rows {
                continue;
            }
            let v = S::splat(vals[e]);
            let p = column.add(i * w.ld);
            for t in 0..T {
                acc[t] = S::fma(v, S::load(p.add(t * S::N)), acc[t]);
            }
        }
        for t in 0..T {
            S::store(out.add(t * S::N), acc[t]);
        }
    }
}

/// The last `n < N` columns.
#[inline(always)]
unsafe fn edge<S: Simd>(
    vals: &[f32],
    idx: &[u32],
    w: Rows<f32>,
    bias: Option<&[f32]>,
    y: Rows<f32>,
    beta: f32,
    r: usize,
    d: usize,
    n: usize,
) {
    // SAFETY: as in `tile`.
    unsafe {
        let out = y.ptr().add(r * y.ld + d);
        if n == 1 {
            // A column of one value a row, such as a bias: nothing to vectorise.
            let mut sum = bias.map_or(0.0, |b| b[d]) + if beta == 0.0 { 0.0 } else { beta * *out };
            for (&v, &i) in vals.iter().zip(idx) {
                if (i as usize) < w.rows {
                    sum += v * *w.ptr().add(i as usize * w.ld + d);
                }
            }
            *out = sum;
            return;
        }
        let mut acc = bias.map_or(S::splat(0.0), |b| S::load_part(b.as_ptr().add(d), n));
        if beta != 0.0 {
            acc = S::fma(S::splat(beta), S::load_part(out, n), acc);
        }
        for (&v, &i) in vals.iter().zip(idx) {
            if (i as usize) < w.rows {
                acc = S::fma(S::splat(v), S::load_part(w.ptr().add(i as usize * w.ld + d), n), acc);
            }
        }
        S::store_part(out, n, acc);
    }
}
