//! Products with sparse rows. Each output element is summed in entry order by one thread, so results do not depend on the
//! number of threads. Narrow column blocks keep the gathered block of the dense operand in the second-level cache.

use super::{
    Isa, Rows,
    codes::{Codes, Shared},
    simd::{Simd, per_isa, prefetch},
};
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of the dense operand that a column block may cover: most of a second-level cache.
const CACHE: usize = 3 << 19;
/// Columns of a block when even that is more than the cache: rows are then read whole.
const NARROWEST: usize = 64;

/// Columns to work on at a time so that `rows` rows of them stay in cache.
fn block_cols(rows: usize, cols: usize) -> usize {
    let fits = CACHE / 4 / rows.max(1) / NARROWEST * NARROWEST;
    if fits == 0 { cols } else { fits.min(cols) }.max(1)
}

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
    let rows = even_rows(&s);
    let block = block_cols(w.rows, w.cols);
    let blocks = w.cols.div_ceil(block);
    // Blocks outermost: a thread keeps one block of w in cache over many rows.
    (0..blocks * rows.len()).into_par_iter().for_each(|task| {
        let d = task / rows.len() * block;
        // SAFETY: tasks cover disjoint rectangles of y; shapes were checked; the instruction set exists.
        unsafe {
            mul_rows(isa, s, w, bias, y, beta, rows[task % rows.len()].clone(), d..(d + block).min(w.cols))
        }
    });
}

/// Row ranges with about as many entries each.
fn even_rows(s: &Codes<'_>) -> Vec<Range<usize>> {
    let tasks = rayon::current_num_threads() * 4;
    // A row without entries still has its output to write.
    let cost = |r: usize| s.row(r).len() + 4;
    let target = (s.slots() + 4 * s.rows).div_ceil(tasks).max(256);
    let (mut ranges, mut start, mut sum) = (Vec::with_capacity(tasks + 1), 0, 0);
    for r in 0..s.rows {
        sum += cost(r);
        if sum >= target {
            ranges.push(start..r + 1);
            (start, sum) = (r + 1, 0);
        }
    }
    if start < s.rows {
        ranges.push(start..s.rows);
    }
    ranges
}

per_isa! {
    unsafe fn mul_rows<S>(
        s: Codes<'_>,
        w: Rows<f32>,
        bias: Option<&[f32]>,
        y: Rows<f32>,
        beta: f32,
        rows: Range<usize>,
        cols: Range<usize>,
    ) {
        for r in rows {
            let entries = s.row(r);
            let (vals, idx) = (&s.vals[entries.clone()], &s.idx[entries]);
            let mut d = cols.start;
            // SAFETY: tiles stay inside `cols`, which lies inside w, y and bias.
            unsafe {
                while d + 8 * S::N <= cols.end {
                    tile::<S, 8>(vals, idx, w, bias, y, beta, r, d);
                    d += 8 * S::N;
                }
                if d + 4 * S::N <= cols.end {
                    tile::<S, 4>(vals, idx, w, bias, y, beta, r, d);
                    d += 4 * S::N;
                }
                while d + S::N <= cols.end {
                    tile::<S, 1>(vals, idx, w, bias, y, beta, r, d);
                    d += S::N;
                }
                if d < cols.end {
                    edge::<S>(vals, idx, w, bias, y, beta, r, d, cols.end - d);
                }
            }
        }
    }
}

/// Entries to look ahead when asking for rows of the dense operand.
const AHEAD: usize = 6;

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

/// `out[slot] = ⟨w[idx,:], x[row,:]⟩` for every entry; 0 in empty slots. `w [n, D]`, `x [rows, D]`, `out` as long as `s.idx`.
///
/// # Safety
/// The operands are live with these shapes, nobody else touches the output, and the machine has `isa`.
pub unsafe fn sparse_dot(isa: Isa, s: Codes<'_>, w: Rows<f32>, x: Rows<f32>, out: &mut [f32]) {
    assert!(w.rows == s.n && w.cols == x.cols && x.rows == s.rows && out.len() == s.idx.len());
    let rows = even_rows(&s);
    let block = block_cols(w.rows, w.cols);
    let out = Shared::new(out);
    // All blocks of one row range in one task: they add to the same elements, in block order.
    let threads = rayon::current_num_threads().max(1);
    let per_thread = rows.len().div_ceil(threads).max(1);
    rows.par_chunks(per_thread).for_each(|rows| {
        let (start, end) = (rows[0].start, rows[rows.len() - 1].end);
        let mut d = 0;
        loop {
            let cols = d..(d + block).min(w.cols);
            // SAFETY: row ranges are disjoint, and with them their slots; shapes were checked; the instruction set exists.
            unsafe { dot_rows(isa, s, w, x, out, start..end, cols) };
            d += block;
            if d >= w.cols {
                break;
            }
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
        cols: Range<usize>,
    ) {
        for r in rows {
            let entries = s.row(r);
            // SAFETY: the entries of one row are this task's alone.
            let out = unsafe { std::slice::from_raw_parts_mut(out.ptr().add(entries.start), entries.len()) };
            if cols.start == 0 {
                out.fill(0.0);
            }
            let idx = &s.idx[entries];
            let mut d = cols.start;
            // SAFETY: tiles stay inside `cols`, which lies inside w and x.
            unsafe {
                while d + 8 * S::N <= cols.end {
                    dot_tile::<S, 8>(idx, w, x, out, r, d);
                    d += 8 * S::N;
                }
                if d + 4 * S::N <= cols.end {
                    dot_tile::<S, 4>(idx, w, x, out, r, d);
                    d += 4 * S::N;
                }
                while d + S::N <= cols.end {
                    dot_tile::<S, 1>(idx, w, x, out, r, d);
                    d += S::N;
                }
                if d < cols.end {
                    let n = cols.end - d;
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

/// Groups the entries of `s` by column, rows ascending inside a column: `col_ptr [n + 1]`, and for each entry its `row` and its
/// `slot`, both at least as long as the number of entries.
pub fn sort_by_column(s: Codes<'_>, col_ptr: &mut [u32], row: &mut [u32], slot: &mut [u32]) {
    assert!(col_ptr.len() == s.n + 1 && row.len() >= s.slots() && slot.len() >= s.slots());
    let parts = if s.slots() < 1 << 15 { 1 } else { rayon::current_num_threads().min(16) };
    let step = s.rows.div_ceil(parts).max(1);
    let range = |p: usize| (p * step).min(s.rows)..((p + 1) * step).min(s.rows);
    let mut counts: Vec<Vec<u32>> = (0..parts)
        .into_par_iter()
        .map(|p| {
            let mut count = vec![0u32; s.n];
            for r in range(p) {
                for &i in &s.idx[s.row(r)] {
                    if let Some(c) = count.get_mut(i as usize) {
                        *c += 1;
                    }
                }
            }
            count
        })
        .collect();
    // Counts become first places: columns ascending, inside a column the parts in row order.
    let mut place = 0;
    for f in 0..s.n {
        col_ptr[f] = place;
        for count in &mut counts {
            place += std::mem::replace(&mut count[f], place);
        }
    }
    col_ptr[s.n] = place;
    let (row, slot) = (Shared::new(row), Shared::new(slot));
    counts.par_iter_mut().enumerate().for_each(|(p, next)| {
        for r in range(p) {
            for e in s.row(r) {
                if let Some(place) = next.get_mut(s.idx[e] as usize) {
                    // SAFETY: every entry was counted, so its place is below the number of slots and no other entry has it.
                    unsafe {
                        *row.ptr().add(*place as usize) = r as u32;
                        *slot.ptr().add(*place as usize) = e as u32;
                    }
                    *place += 1;
                }
            }
        }
    });
}

/// `y[f,:] = beta·y[f,:] + Σ vals[slot]·x[row,:]` over the entries of column f in order; `x [B, D]`, `y [n, D]`.
/// y is not read when beta is 0.
///
/// # Safety
/// The operands are live with these shapes, nobody else touches the output, and the machine has `isa`.
pub unsafe fn sparse_outer(
    isa: Isa,
    col_ptr: &[u32],
    row: &[u32],
    slot: &[u32],
    vals: &[f32],
    x: Rows<f32>,
    y: Rows<f32>,
    beta: f32,
) {
    assert!(col_ptr.len() == y.rows + 1 && x.cols == y.cols && row.len() == slot.len());
    let entries = (col_ptr[y.rows] as usize).min(row.len());
    // Values in column order once, instead of a scattered read for every column block.
    let vals: Vec<f32> = slot[..entries]
        .par_iter()
        .with_min_len(1 << 13)
        .map(|&e| vals.get(e as usize).copied().unwrap_or(0.0))
        .collect();
    // The transposed matrix is a sparse matrix over the rows of x.
    let s = Codes { vals: &vals, idx: &row[..entries], ptr: Some(col_ptr), k: 0, rows: y.rows, n: x.rows };
    // SAFETY: the caller's contract; rows of x are checked one by one.
    unsafe { sparse_mul(isa, s, x, None, y, beta) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::testing::*, philox};

    fn normal(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| philox::normal(seed, i, 0.0, 1.0)).collect()
    }

    /// Codes with empty slots; ragged rows of 0 to 2k entries when `ragged`.
    fn codes(rows: usize, k: usize, n: usize, ragged: bool) -> (Vec<f32>, Vec<u32>, Option<Vec<u32>>) {
        let mut ptr = vec![0];
        for r in 0..rows {
            let len = if ragged { philox::word(1, r as u64) as usize % (2 * k + 1) } else { k };
            ptr.push(ptr[r] + len as u32);
        }
        let slots = ptr[rows] as usize;
        let mut vals = normal(slots, 2);
        let mut idx: Vec<u32> =
            (0..slots as u64).map(|i| philox::word(3, i).checked_rem(n as u32).unwrap_or(u32::MAX)).collect();
        for e in (0..slots).step_by(11) {
            (vals[e], idx[e]) = (0.0, u32::MAX);
        }
        (vals, idx, ragged.then_some(ptr))
    }

    fn close(got: &[f32], want: &[f64], what: &str) {
        assert_eq!(got.len(), want.len());
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            assert!(
                (f64::from(g) - w).abs() <= 1e-5 * (w.abs() + 10.0),
                "{what} element {i}: {g} against {w}"
            );
        }
    }

    fn view<'a>(c: &'a (Vec<f32>, Vec<u32>, Option<Vec<u32>>), k: usize, rows: usize, n: usize) -> Codes<'a> {
        match &c.2 {
            Some(p) => Codes::ragged(&c.0, &c.1, p, n),
            None => Codes::fixed(&c.0, &c.1, k, rows, n),
        }
    }

    const SIZES: [(usize, usize, usize, usize); 8] = [
        (0, 3, 5, 8),
        (1, 1, 1, 1),
        (5, 0, 4, 9),
        (7, 3, 9, 7),
        (64, 5, 63, 65),
        (33, 9, 100, 129),
        (130, 20, 700, 200),
        (40, 8, 9000, 130),
    ];

    #[test]
    fn mul_and_dot_equal_f64_loops() {
        for ((rows, k, n, d), ragged) in SIZES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
            let c = codes(rows, k, n, ragged);
            let s = view(&c, k, rows, n);
            let (w, x, bias) = (normal(n * d, 4), normal(rows * d, 5), normal(d, 6));
            let mut dots = vec![0.0; s.idx.len()];
            for (beta, with_bias) in [(0.0, true), (1.0, false), (-0.5, true)] {
                let mut want: Vec<f64> = x.iter().map(|&v| f64::from(beta * v)).collect();
                for r in 0..rows {
                    for j in 0..d {
                        want[r * d + j] += if with_bias { f64::from(bias[j]) } else { 0.0 };
                    }
                    for e in s.row(r).filter(|&e| s.idx[e] != u32::MAX) {
                        let i = s.idx[e] as usize;
                        dots[e] = (0..d).map(|j| f64::from(w[i * d + j]) * f64::from(x[r * d + j])).sum();
                        for j in 0..d {
                            want[r * d + j] += f64::from(s.vals[e]) * f64::from(w[i * d + j]);
                        }
                    }
                }
                for isa in Isa::available() {
                    let what = format!("{isa:?} [{rows}, {k}, {n}, {d}] beta {beta}");
                    let mut y = if beta == 0.0 { vec![f32::NAN; rows * d] } else { x.clone() };
                    let bias = with_bias.then_some(&bias[..]);
                    let w = rows_of(&w, n, d);
                    // SAFETY: fresh arrays of these shapes, an available instruction set.
                    unsafe { sparse_mul(isa, s, w, bias, rows_mut(&mut y, rows, d), beta) };
                    close(&y, &want, &what);
                    let mut out = vec![f32::NAN; s.idx.len()];
                    // SAFETY: fresh arrays of these shapes, an available instruction set.
                    unsafe { sparse_dot(isa, s, w, rows_of(&x, rows, d), &mut out) };
                    close(&out, &dots, &what);
                }
            }
        }
    }

    #[test]
    fn sorting_is_stable_and_outer_equals_f64_loops() {
        for ((rows, k, n, d), ragged) in SIZES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
            let c = codes(rows, k, n, ragged);
            let s = view(&c, k, rows, n);
            let (mut ptr, mut row, mut slot) = (vec![9; n + 1], vec![9; s.idx.len()], vec![9; s.idx.len()]);
            sort_by_column(s, &mut ptr, &mut row, &mut slot);
            let mut want: Vec<(u32, u32, u32)> = (0..rows)
                .flat_map(|r| s.row(r).map(move |e| (s.idx[e], r as u32, e as u32)))
                .filter(|t| t.0 != u32::MAX)
                .collect();
            want.sort_unstable();
            let used = want.len();
            assert_eq!(row[..used], want.iter().map(|t| t.1).collect::<Vec<_>>());
            assert_eq!(slot[..used], want.iter().map(|t| t.2).collect::<Vec<_>>());
            assert_eq!((ptr[0], ptr[n]), (0, used as u32));

            let (x, y0) = (normal(rows * d, 7), normal(n * d, 8));
            for beta in [0.0, 1.0] {
                let mut sum: Vec<f64> = y0.iter().map(|&v| f64::from(beta * v)).collect();
                for &(f, r, e) in &want {
                    for j in 0..d {
                        sum[f as usize * d + j] +=
                            f64::from(s.vals[e as usize]) * f64::from(x[r as usize * d + j]);
                    }
                }
                for isa in Isa::available() {
                    let mut y = if beta == 0.0 { vec![f32::NAN; n * d] } else { y0.clone() };
                    let (xm, ym) = (rows_of(&x, rows, d), rows_mut(&mut y, n, d));
                    // SAFETY: fresh arrays of these shapes, an available instruction set.
                    unsafe { sparse_outer(isa, &ptr, &row, &slot, s.vals, xm, ym, beta) };
                    close(&y, &sum, &format!("{isa:?} [{rows}, {k}, {n}, {d}] beta {beta}"));
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (rows, k, n, d) = (3000, 20, 500, 192);
        let c = codes(rows, k, n, false);
        let s = view(&c, k, rows, n);
        let (w, x) = (normal(n * d, 1), normal(rows * d, 2));
        let all = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| {
                let (mut y, mut dots, mut grad) =
                    (vec![0.0; rows * d], vec![0.0; rows * k], vec![0.0; n * d]);
                let (mut ptr, mut row, mut slot) = (vec![0; n + 1], vec![0; rows * k], vec![0; rows * k]);
                // SAFETY: fresh arrays of these shapes, an available instruction set.
                unsafe {
                    sparse_mul(Isa::best(), s, rows_of(&w, n, d), None, rows_mut(&mut y, rows, d), 0.0)
                };
                // SAFETY: fresh arrays of these shapes, an available instruction set.
                unsafe { sparse_dot(Isa::best(), s, rows_of(&w, n, d), rows_of(&x, rows, d), &mut dots) };
                sort_by_column(s, &mut ptr, &mut row, &mut slot);
                let (xm, gm) = (rows_of(&x, rows, d), rows_mut(&mut grad, n, d));
                // SAFETY: fresh arrays of these shapes, an available instruction set.
                unsafe { sparse_outer(Isa::best(), &ptr, &row, &slot, s.vals, xm, gm, 0.0) };
                (y, dots, ptr, row, slot, grad)
            })
        };
        let one = all(1);
        assert!(one == all(2) && one == all(3));
    }
}
