//! How products with sparse rows divide their work: column blocks of the gathered matrix, and row ranges.

use crate::cpu::{Codes, Rows, scratch::Scratch, simd::prefetch};
use std::{ops::Range, sync::OnceLock};

/// How the columns of the gathered matrix are divided.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// Columns of one block.
    pub width: usize,
    pub count: usize,
    /// Whether a block is copied together before use. In place, a narrow block of long rows falls on few cache sets and
    /// many pages; copied, all of it stays in the second-level cache.
    pub packed: bool,
}

impl Blocks {
    /// For `slots` reads of rows of `w`.
    pub fn of(w: Rows<f32>, slots: usize) -> Self {
        // A quarter of the cache is left to what streams by. Widths are register tiles; narrower ones than these spend more
        // on entries than they save on rows.
        let fits = l2_bytes() / 4 * 3 / 4 / w.rows.max(1);
        let tile = [128, 64, 32].into_iter().find(|&t| t <= fits).unwrap_or(0);
        let width = if tile == 128 { fits / 128 * 128 } else { tile }.min(w.cols.next_multiple_of(16));
        let packed = width > 0 && w.cols >= 16 && slots >= 2 * w.rows;
        let width = if packed { width } else { w.cols.max(1) };
        Self { width, count: w.cols.div_ceil(width), packed }
    }

    pub fn range(&self, block: usize, cols: usize) -> Range<usize> {
        block * self.width..((block + 1) * self.width).min(cols)
    }

    /// Calls `work` with columns `cols` of `w`, as a matrix of their own.
    ///
    /// # Safety
    /// w is live and nobody writes it; the columns exist.
    pub unsafe fn with(&self, w: Rows<f32>, cols: Range<usize>, work: impl FnOnce(Rows<f32>)) {
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

/// Row ranges with about as many entries each.
pub(super) fn even_rows(s: &Codes<'_>, parts: usize) -> Vec<Range<usize>> {
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

/// Entries to look ahead when asking for rows of the dense operand.
pub(super) const AHEAD: usize = 6;
