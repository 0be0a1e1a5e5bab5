//! One dot product for each entry of sparse rows.

use super::blocks::{AHEAD, Blocks, even_rows};
use crate::cpu::{
    Codes, Isa, Rows,
    codes::Shared,
    scratch::Scratch,
    simd::{Simd, per_isa, prefetch},
};
use rayon::prelude::*;
use std::ops::Range;

/// `out[slot] = ⟨w[idx,:], x[row,:]⟩` for every entry; 0 in empty slots. `w [n, D]`, `x [rows, D]`, `out` as long as `s.idx`.
///
/// # Safety
/// The operands are live with these shapes, nobody else touches the output, and the machine has `isa`.
pub unsafe fn sparse_dot(isa: Isa, s: Codes<'_>, w: Rows<f32>, x: Rows<f32>, out: &mut [f32]) {
    assert!(w.rows == s.n && w.cols == x.cols && x.rows == s.rows && out.len() == s.idx.len());
    let blocks = Blocks::of(w, s.slots());
    // Groups of blocks sum separately, so that each block is packed by few threads. How many groups depends on the shapes
    // alone, and they are added in order.
    let groups = if blocks.packed { blocks.count.clamp(1, 4) } else { 1 };
    let threads = rayon::current_num_threads();
    let rows = even_rows(&s, if blocks.packed { threads.div_ceil(groups) } else { 4 * threads });
    let (slots, out) = (out.len(), Shared::new(out));
    Scratch::with((groups - 1) * slots, |rest| {
        let rest = Shared::at(rest);
        (0..groups * rows.len()).into_par_iter().with_max_len(1).for_each(|task| {
            let (group, rows) = (task / rows.len(), rows[task % rows.len()].clone());
            let mine =
                if group == 0 { out } else { Shared::at(rest.ptr().wrapping_add((group - 1) * slots)) };
            // SAFETY: row ranges are disjoint, and with them their slots; each group has its own sums; shapes were checked;
            // the instruction set exists.
            unsafe {
                for e in rows.clone().flat_map(|r| s.row(r)) {
                    *mine.ptr().add(e) = 0.0;
                }
                for block in group * blocks.count / groups..(group + 1) * blocks.count / groups {
                    let cols = blocks.range(block, w.cols);
                    let x = Rows::new(x.ptr().add(cols.start), x.rows, cols.len(), x.ld);
                    blocks.with(w, cols, |w| dot_rows(isa, s, w, x, mine, rows.clone()));
                }
            }
        });
        if groups > 1 {
            (0..s.rows).into_par_iter().with_min_len(256).flat_map_iter(|r| s.row(r)).for_each(|e| {
                let other = |g: usize| rest.ptr().wrapping_add((g - 1) * slots + e);
                // SAFETY: all groups are done and wrote this entry; each entry belongs to one row.
                unsafe { *out.ptr().add(e) += (1..groups).map(|g| *other(g)).sum::<f32>() };
            });
        }
    });
}

per_isa! {
    unsafe fn dot_rows<S>(
        s: Codes<'_>,
        w: Rows<f32>,
        x: Rows<f32>,
        out: Shared<f32>,
        rows: Range<usize>,
    ) {
        for r in rows {
            let entries = s.row(r);
            // SAFETY: the entries of one row are this task's alone.
            let out = unsafe { std::slice::from_raw_parts_mut(out.ptr().add(entries.start), entries.len()) };
            let idx = &s.idx[entries];
            let mut d = 0;
            // SAFETY: tiles stay inside the columns of w and x.
            unsafe {
                while d + 8 * S::N <= w.cols {
                    dot_tile::<S, 8>(idx, w, x, out, r, d);
                    d += 8 * S::N;
                }
                if d + 4 * S::N <= w.cols {
                    dot_tile::<S, 4>(idx, w, x, out, r, d);
                    d += 4 * S::N;
                }
                if d + 2 * S::N <= w.cols {
                    dot_tile::<S, 2>(idx, w, x, out, r, d);
                    d += 2 * S::N;
                }
                while d + S::N <= w.cols {
                    dot_tile::<S, 1>(idx, w, x, out, r, d);
                    d += S::N;
                }
                if d < w.cols {
                    let n = w.cols - d;
                    let row = S::load_part(x.ptr().add(r * x.ld + d), n);
                    for (o, &i) in out.iter_mut().zip(idx) {
                        if (i as usize) < w.rows {
                            *o += S::sum(S::mul(row, S::load_part(w.ptr().add(i as usize * w.ld + d), n)));
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products over `T` vectors of columns from d to each entry's sum.
#[inline(always)]
unsafe fn dot_tile<S: Simd, const T: usize>(
    idx: &[u32],
    w: Rows<f32>,
    x: Rows<f32>,
    out: &mut [f32],
    r: usize,
    d: usize,
) {
    // SAFETY: the caller keeps the tile inside the operands; rows of w are checked against their number.
    unsafe {
        let mut row = [S::splat(0.0); T];
        for t in 0..T {
            row[t] = S::load(x.ptr().add(r * x.ld + d + t * S::N));
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
            let p = column.add(i * w.ld);
            // Two chains: the sum of one entry is short, the next entry's overlaps it.
            let mut acc = S::mul(row[0], S::load(p));
            for t in 1..T {
                acc = S::fma(row[t], S::load(p.add(t * S::N)), acc);
            }
            *out.get_unchecked_mut(e) += S::sum(acc);
        }
    }
}
