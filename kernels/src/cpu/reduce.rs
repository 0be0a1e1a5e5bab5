//! Sums, maxima and counts along rows or columns. Additions happen in 64 interleaved f32 lanes over short stretches, then
//! in f64, in an order that depends on the shape alone.

use super::{Rows, split};
use rayon::prelude::*;

/// What is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Σ x
    Sum,
    /// Σ x²
    SumSq,
    /// max x
    Max,
    /// number of x ≠ 0
    NonZero,
}

impl Kind {
    const fn start(self) -> f32 {
        if matches!(self, Self::Max) { f32::NEG_INFINITY } else { 0.0 }
    }
}

/// Lanes of a stretch.
const LANES: usize = 64;
/// Elements of a row added in f32 before they go to f64.
const STRETCH: usize = 64 * LANES;
/// Rows added in f32 before they go to f64.
const SHORT: usize = 64;
/// Rows of one partial result.
const CHUNK: usize = 1024;

#[inline(always)]
fn term(kind: Kind, x: f32) -> f32 {
    match kind {
        Kind::Sum | Kind::Max => x,
        Kind::SumSq => x * x,
        Kind::NonZero => f32::from(u8::from(x != 0.0)),
    }
}

#[inline(always)]
fn join(kind: Kind, a: f32, b: f32) -> f32 {
    if kind == Kind::Max { if b > a { b } else { a } } else { a + b }
}

fn join64(kind: Kind, a: f64, b: f64) -> f64 {
    if kind == Kind::Max { a.max(b) } else { a + b }
}

/// `y [B, 1] = beta·y + reduction of each row of x`; y is not read when `beta == 0`.
///
/// # Safety
/// Operands are live and do not overlap; nobody else uses `y`.
pub unsafe fn along_columns(kind: Kind, x: Rows<f32>, y: Rows<f32>, beta: f32) {
    split::by_rows(x.rows, x.cols, |rows| {
        for i in rows {
            // SAFETY: each row belongs to one piece.
            unsafe { blend(y.row_ptr(i), row(kind, x.row(i)), beta) }
        }
    });
}

unsafe fn blend(y: *mut f32, value: f64, beta: f32) {
    // SAFETY: the caller's element.
    unsafe { *y = if beta == 0.0 { value as f32 } else { (f64::from(beta) * f64::from(*y) + value) as f32 } }
}

multiversion! {
    /// Reduction of one row.
    pub(super) fn row(kind: Kind, x: &[f32]) -> f64 {
        // A constant kind inside each loop lets it vectorise.
        match kind {
            Kind::Sum => lanes(Kind::Sum, x),
            Kind::SumSq => lanes(Kind::SumSq, x),
            Kind::Max => lanes(Kind::Max, x),
            Kind::NonZero => lanes(Kind::NonZero, x),
        }
    }
}

#[inline(always)]
fn lanes(kind: Kind, x: &[f32]) -> f64 {
    let mut total = f64::from(kind.start());
    for stretch in x.chunks(STRETCH) {
        let mut acc = [kind.start(); LANES];
        let mut blocks = stretch.chunks_exact(LANES);
        for block in &mut blocks {
            for l in 0..LANES {
                acc[l] = join(kind, acc[l], term(kind, block[l]));
            }
        }
        for (a, &v) in acc.iter_mut().zip(blocks.remainder()) {
            *a = join(kind, *a, term(kind, v));
        }
        total = join64(kind, total, f64::from(fold(kind, acc)));
    }
    total
}

/// Halves the lanes until one is left.
#[inline(always)]
pub(super) fn fold(kind: Kind, mut acc: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] = join(kind, acc[l], acc[l + width]);
        }
        width /= 2;
    }
    acc[0]
}

/// `y [1, N] = beta·y + reduction of each column of x`, the contribution of row i times `weight[i]`.
///
/// # Safety
/// As [`along_columns`]; `weight` is `[B, 1]`.
pub unsafe fn along_rows(kind: Kind, x: Rows<f32>, weight: Option<Rows<f32>>, y: Rows<f32>, beta: f32) {
    let (chunks, blocks) = (x.rows.div_ceil(CHUNK).max(1), x.cols.div_ceil(LANES));
    let work = |i: usize| {
        let (chunk, block) = (i / blocks, i % blocks);
        let rows = chunk * CHUNK..x.rows.min((chunk + 1) * CHUNK);
        let from = block * LANES;
        // SAFETY: a block of columns inside x.
        unsafe { column_block(kind, x, weight, rows, from, (x.cols - from).min(LANES)) }
    };
    let n = chunks * blocks;
    // Eight blocks of 64 columns a task keep runs of 2 KiB in memory.
    let partial: Vec<[f64; LANES]> = if x.rows * x.cols < 1 << 16 {
        (0..n).map(work).collect()
    } else {
        (0..n).into_par_iter().with_min_len(if chunks == 1 { 1 } else { 8 }).map(work).collect()
    };
    for j in 0..x.cols {
        let (block, lane) = (j / LANES, j % LANES);
        let value = (0..chunks)
            .map(|c| partial[c * blocks + block][lane])
            .fold(f64::from(kind.start()), |a, b| join64(kind, a, b));
        // SAFETY: element j of y.
        unsafe { blend(y.ptr().add(j), value, beta) }
    }
}

multiversion! {
    fn column_block(
        kind: Kind,
        x: Rows<f32>,
        weight: Option<Rows<f32>>,
        rows: std::ops::Range<usize>,
        from: usize,
        width: usize,
    ) -> [f64; LANES] {
        // SAFETY: the caller's block.
        unsafe {
            match kind {
                Kind::Sum => columns(Kind::Sum, x, weight, rows, from, width),
                Kind::SumSq => columns(Kind::SumSq, x, weight, rows, from, width),
                Kind::Max => columns(Kind::Max, x, weight, rows, from, width),
                Kind::NonZero => columns(Kind::NonZero, x, weight, rows, from, width),
            }
        }
    }
}

#[inline(always)]
unsafe fn columns(
    kind: Kind,
    x: Rows<f32>,
    weight: Option<Rows<f32>>,
    rows: std::ops::Range<usize>,
    from: usize,
    width: usize,
) -> [f64; LANES] {
    let mut total = [f64::from(kind.start()); LANES];
    let mut at = rows.start;
    while at < rows.end {
        let end = rows.end.min(at + SHORT);
        let mut acc = [kind.start(); LANES];
        for i in at..end {
            // SAFETY: row i and its weight exist.
            let (v, w) = unsafe { (&x.row(i)[from..from + width], weight.map(|w| *w.row_ptr(i))) };
            if let (Ok(v), None) = (<&[f32; LANES]>::try_from(v), w) {
                for l in 0..LANES {
                    acc[l] = join(kind, acc[l], term(kind, v[l]));
                }
            } else {
                for (a, &v) in acc.iter_mut().zip(v) {
                    *a = join(kind, *a, w.unwrap_or(1.0) * term(kind, v));
                }
            }
        }
        for l in 0..LANES {
            total[l] = join64(kind, total[l], f64::from(acc[l]));
        }
        at = end;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::super::testing::{rows_mut, rows_of};
    use super::*;

    const KINDS: [Kind; 4] = [Kind::Sum, Kind::SumSq, Kind::Max, Kind::NonZero];

    fn exact(kind: Kind, terms: impl Iterator<Item = (f64, f64)>) -> f64 {
        match kind {
            Kind::Sum => terms.map(|(x, w)| x * w).sum(),
            Kind::SumSq => terms.map(|(x, w)| x * x * w).sum(),
            Kind::Max => terms.map(|(x, w)| x * w).fold(f64::NEG_INFINITY, f64::max),
            Kind::NonZero => terms.map(|(x, w)| if x == 0.0 { 0.0 } else { w }).sum(),
        }
    }

    fn values(n: usize) -> Vec<f32> {
        (0..n as u64)
            .map(|i| (crate::philox::uniform(5, i, -1.0, 1.2)).max(-0.9))
            .map(|v| if v < -0.5 { 0.0 } else { v })
            .collect()
    }

    #[test]
    fn both_directions_agree_with_f64() {
        for kind in KINDS {
            for (rows, cols) in [(1, 1), (3, 64), (7, 65), (130, 63), (2500, 5), (2, 9001), (1200, 300)] {
                let x = values(rows * cols);
                let weight: Vec<f32> = (0..rows).map(|i| 0.5 + (i % 3) as f32).collect();
                let at = |i: usize, j: usize| f64::from(x[i * cols + j]);
                let close = |got: f32, want: f64| {
                    assert!(
                        (f64::from(got) - want).abs() <= 1e-5 * (1.0 + want.abs()),
                        "{kind:?} [{rows}, {cols}]: {got} instead of {want}"
                    );
                };
                let (mut r, mut c, mut cw) = (vec![2.0; rows], vec![f32::NAN; cols], vec![1.0; cols]);
                // SAFETY: shapes match, memory is distinct.
                unsafe {
                    let xs = rows_of(&x, rows, cols);
                    along_columns(kind, xs, rows_mut(&mut r, rows, 1), 0.5);
                    along_rows(kind, xs, None, rows_mut(&mut c, 1, cols), 0.0);
                    along_rows(kind, xs, Some(rows_of(&weight, rows, 1)), rows_mut(&mut cw, 1, cols), 1.0);
                }
                (0..rows).for_each(|i| close(r[i], 1.0 + exact(kind, (0..cols).map(|j| (at(i, j), 1.0)))));
                for j in 0..cols {
                    close(c[j], exact(kind, (0..rows).map(|i| (at(i, j), 1.0))));
                    close(cw[j], 1.0 + exact(kind, (0..rows).map(|i| (at(i, j), weight[i].into()))));
                }
            }
        }
    }

    #[test]
    fn the_maximum_of_nothing_is_minus_infinity() {
        let (mut y, x) = ([0f32; 2], []);
        // SAFETY: shapes match.
        unsafe {
            along_columns(Kind::Max, rows_of(&x, 2, 0), rows_mut(&mut y, 2, 1), 0.0);
            assert_eq!(y, [f32::NEG_INFINITY; 2]);
            y = [0.0; 2];
            along_rows(Kind::Max, rows_of(&x, 0, 2), None, rows_mut(&mut y, 1, 2), 0.0);
        }
        assert_eq!(y, [f32::NEG_INFINITY; 2]);
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let x = values(3000 * 200);
        let with = |threads| {
            let mut y = vec![0f32; 200];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool");
            // SAFETY: shapes match, memory is distinct.
            pool.install(|| unsafe {
                along_rows(Kind::Sum, rows_of(&x, 3000, 200), None, rows_mut(&mut y, 1, 200), 0.0)
            });
            y
        };
        assert_eq!(with(1), with(3));
    }
}
