//! Entries grouped by column, and the product of the transposed sparse matrix with a dense one.

use super::sparse_mul;
use crate::cpu::{Codes, Isa, Rows, codes::Shared, scratch::Scratch};
use rayon::prelude::*;

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
