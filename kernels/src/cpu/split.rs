//! How row-wise and elementwise work is divided among threads. Pieces never depend on the number of threads where results
//! could (see `reduce`); here they only decide who writes what.

use rayon::prelude::*;
use std::ops::Range;

/// Element operations below which a second thread costs more than it brings.
const PIECE: usize = 1 << 15;

/// Calls `work` for stretches of `0..rows`; a row costs `cost` element operations.
pub(super) fn by_rows(rows: usize, cost: usize, work: impl Fn(Range<usize>) + Sync) {
    if rows == 0 {
        return;
    }
    let each = (PIECE / cost.max(1)).max(1).max(rows.div_ceil(16 * rayon::current_num_threads()));
    if each >= rows {
        return work(0..rows);
    }
    (0..rows.div_ceil(each)).into_par_iter().for_each(|i| work(i * each..rows.min((i + 1) * each)));
}

/// Calls `work` for rectangles that tile `[rows, cols]`, of `weight` operations an element.
pub(super) fn by_tiles(
    rows: usize,
    cols: usize,
    weight: usize,
    work: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    if rows >= 32 || cols * weight <= PIECE {
        return by_rows(rows, cols * weight, |r| work(r, 0..cols));
    }
    let width = (PIECE / weight.max(1)).next_multiple_of(64);
    let pieces = cols.div_ceil(width);
    (0..rows * pieces).into_par_iter().for_each(|i| {
        let (row, from) = (i / pieces, i % pieces * width);
        work(row..row + 1, from..cols.min(from + width));
    });
}
