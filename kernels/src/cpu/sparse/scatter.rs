//! The dense form of sparse rows.

use crate::cpu::{Codes, Rows, split};

/// `y[r,:] = beta·y[r,:]`, plus the values of row r in their columns; `y [rows, n]`. y is not read when beta is 0.
///
/// # Safety
/// The operands are live with these shapes and nobody else touches the output.
pub unsafe fn scatter(s: Codes<'_>, y: Rows<f32>, beta: f32) {
    assert!(y.rows == s.rows && y.cols == s.n, "[{}, {}] for {} rows of {}", y.rows, y.cols, s.rows, s.n);
    split::by_rows(y.rows, y.cols, |rows| {
        for r in rows {
            // SAFETY: each row belongs to one piece.
            let row = unsafe { y.row_mut(r) };
            if beta == 0.0 {
                row.fill(0.0);
            } else if beta != 1.0 {
                row.iter_mut().for_each(|v| *v *= beta);
            }
            let entries = s.row(r);
            for (&v, &i) in s.vals[entries.clone()].iter().zip(&s.idx[entries]) {
                if let Some(y) = row.get_mut(i as usize) {
                    *y += v;
                }
            }
        }
    });
}
