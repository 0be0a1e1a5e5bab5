//! Products with sparse rows. Each output element is summed in entry order by one thread, so results do not depend on the
//! number of threads. Narrow column blocks keep the gathered block of the dense operand in the second-level cache.

use super::{
    Isa, Rows,
    codes::{Codes, Shared},
    scratch::Scratch,
    simd::{Simd, per_isa, prefetch},
};
use rayon::prelude::*;
use std::{ops::Range, sync::OnceLock};

/// How the columns of the gathered matrix are divided.
#[derive(Clone, Copy)]
struct Blocks {
    /// Columns of one block.
    width: usize,
    count: usize,
    /// Whether a block is copied together before use. In place, a narrow block of long rows falls on few cache sets and
    /// many pages; copied, all of it stays in the second-level cache.
    packed: bool,
}

impl Blocks {
    /// For `slots` reads of rows of `w`.
    fn of(w: Rows<f32>, slots: usize) -> Self {
        // A quarter of the cache is left to what streams by. Widths are register tiles; narrower ones than these spend more
        // on entries than they save on rows.
        let fits = l2_bytes() / 4 * 3 / 4 / w.rows.max(1);
        let tile = [128, 64, 32].into_iter().find(|&t| t <= fits).unwrap_or(0);
        let width = if tile == 128 { fits / 128 * 128 } else { tile }.min(w.cols.next_multiple_of(16));
        let packed = width > 0 && w.cols >= 16 && slots >= 2 * w.rows;
        let width = if packed { width } else { w.cols.max(1) };
        Self { width, count: w.cols.div_ceil(width), packed }
    }

    fn range(&self, block: usize, cols: usize) -> Range<usize> {
        block * self.width..((block + 1) * self.width).min(cols)
    }

    /// Calls `work` with columns `cols` of `w`, as a matrix of their own.
    unsafe fn with(&self, w: Rows<f32>, cols: Range<usize>, work: impl FnOnce(Rows<f32>)) {
        // SAFETY: the columns lie inside w; the copy is as large as its shape says.
        unsafe {
            if !self.packed {
                return work(Rows::new(w.ptr().add(cols.start), w.rows, cols.len(), w.ld));
            }
            Scratch::with(w.rows * self.width, |copy| {
                let copy = Rows::new(copy, w.rows, cols.len(), self.width);
                for r in 0..w.rows {
                    let ahead = w.row_ptr(r + 8).wrapping_add(cols.start);
                    (0..cols.len()).step_by(16).for_each(|c| prefetch(ahead.wrapping_add(c)));
                    let from = w.row_ptr(r).add(cols.start);
                    std::ptr::copy_nonoverlapping(from, copy.row_ptr(r), cols.len());
                }
                work(copy);
            });
        }
    }
}

/// Size of a core's second-level cache, or a common one where the system does not tell.
fn l2_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size");
        let kib = text.ok().and_then(|t| t.trim().strip_suffix('K')?.parse::<usize>().ok());
        kib.unwrap_or(1024).clamp(256, 4096) << 10
    })
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

/// Row ranges with about as many entries each.
fn even_rows(s: &Codes<'_>, parts: usize) -> Vec<Range<usize>> {
    // A row without entries still has its output to write.
    let cost = |r: usize| s.row(r).len() + 4;
    let target = (s.slots() + 4 * s.rows).div_ceil(parts).max(256);
    let (mut ranges, mut start, mut sum) = (Vec::with_capacity(parts + 1), 0, 0);
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
    Scratch::with(entries, |ordered| {
        let place = Shared::at(ordered);
        (0..entries).into_par_iter().with_min_len(1 << 13).for_each(|e| {
            let value = vals.get(slot[e] as usize).copied().unwrap_or(0.0);
            // SAFETY: each entry is written once, inside the scratch.
            unsafe { *place.ptr().add(e) = value };
        });
        // SAFETY: all entries were just written; rows of x are checked one by one; the rest is the caller's contract.
        unsafe {
            let vals = std::slice::from_raw_parts(ordered, entries);
            // The transposed matrix is a sparse matrix over the rows of x.
            let s = Codes { vals, idx: &row[..entries], ptr: Some(col_ptr), k: 0, rows: y.rows, n: x.rows };
            sparse_mul(isa, s, x, None, y, beta);
        }
    });
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
