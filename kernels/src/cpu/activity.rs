//! Which features fired, and for how long each has not.

use super::{Codes, Rows};
use rayon::prelude::*;

/// Neither 0 nor NaN.
fn active(x: f32) -> bool {
    x.abs() > 0.0
}

/// Adds to `fired[column]` the number of rows with a non-zero mask byte in which the column's code is above or below 0.
pub fn activity_sparse(s: Codes<'_>, mask: Option<&[u8]>, fired: &mut [u32]) {
    assert!(fired.len() == s.n && mask.is_none_or(|m| m.len() == s.rows));
    let count = |rows: std::ops::Range<usize>, fired: &mut [u32]| {
        for r in rows.filter(|&r| mask.is_none_or(|m| m[r] != 0)) {
            for e in s.row(r) {
                if let Some(n) = fired.get_mut(s.idx[e] as usize) {
                    *n += u32::from(active(s.vals[e]));
                }
            }
        }
    };
    if s.slots() < 1 << 15 {
        return count(0..s.rows, fired);
    }
    let step = s.rows.div_ceil(rayon::current_num_threads()).max(1);
    let parts: Vec<Vec<u32>> = (0..s.rows.div_ceil(step))
        .into_par_iter()
        .map(|p| {
            let mut part = vec![0; s.n];
            count(p * step..((p + 1) * step).min(s.rows), &mut part);
            part
        })
        .collect();
    for part in parts {
        fired.iter_mut().zip(part).for_each(|(n, m)| *n += m);
    }
}

/// [`activity_sparse`] for dense codes `[B, F]`.
///
/// # Safety
/// `x` is live and nobody writes it.
pub unsafe fn activity_dense(x: Rows<f32>, mask: Option<&[u8]>, fired: &mut [u32]) {
    assert!(fired.len() == x.cols && mask.is_none_or(|m| m.len() == x.rows));
    const STRIP: usize = 512;
    fired.par_chunks_mut(STRIP).enumerate().for_each(|(i, fired)| {
        for r in (0..x.rows).filter(|&r| mask.is_none_or(|m| m[r] != 0)) {
            // SAFETY: the row exists and is only read.
            let x = unsafe { &x.row(r)[i * STRIP..] };
            fired.iter_mut().zip(x).for_each(|(n, &x)| *n += u32::from(active(x)));
        }
    });
}

/// `since = fired > 0 ? 0 : saturating since + tokens`; `dead = since >= limit`.
pub fn age(fired: &[u32], since: &mut [u32], dead: &mut [u8], tokens: u32, limit: u32) {
    assert!(fired.len() == since.len() && fired.len() == dead.len());
    for ((&fired, since), dead) in fired.iter().zip(since).zip(dead) {
        *since = if fired > 0 { 0 } else { since.saturating_add(tokens) };
        *dead = u8::from(*since >= limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::testing::*, philox};

    #[test]
    fn counts_codes_that_are_not_zero_in_unmasked_rows_for_any_number_of_threads() {
        for (rows, k, n) in [(0, 3, 4), (7, 2, 5), (4000, 10, 300)] {
            let idx: Vec<u32> = (0..(rows * k) as u64)
                .map(|i| if i % 7 == 0 { u32::MAX } else { philox::word(1, i) % n as u32 })
                .collect();
            let vals: Vec<f32> = (0..rows * k)
                .map(|i| if idx[i] == u32::MAX { 0.0 } else { philox::normal(2, i as u64, 0.0, 1.0) })
                .collect();
            let mask: Vec<u8> = (0..rows).map(|r| (r % 3 != 0).into()).collect();
            let mut dense = vec![0.0; rows * n];
            let (mut want, mut want_dense) = (vec![1u32; n], vec![2u32; n]);
            for e in (0..rows * k).filter(|&e| idx[e] != u32::MAX) {
                dense[e / k * n + idx[e] as usize] = vals[e];
                want[idx[e] as usize] += u32::from(vals[e] != 0.0 && mask[e / k] != 0);
            }
            for i in 0..rows * n {
                want_dense[i % n] += u32::from(dense[i] != 0.0 && mask[i / n] != 0);
            }
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                let (mut fired, mut fired_dense) = (vec![1; n], vec![2; n]);
                pool.install(|| {
                    activity_sparse(Codes::fixed(&vals, &idx, k, rows, n), Some(&mask), &mut fired);
                    // SAFETY: a fresh array of this shape.
                    unsafe { activity_dense(rows_of(&dense, rows, n), Some(&mask), &mut fired_dense) };
                });
                assert_eq!((fired, fired_dense), (want.clone(), want_dense.clone()));
            }
        }
    }

    #[test]
    fn age_resets_on_firing_and_saturates() {
        let (mut since, mut dead) = (vec![5, 5, u32::MAX - 1, 0], vec![9; 4]);
        age(&[0, 3, 0, 0], &mut since, &mut dead, 10, 15);
        assert_eq!(since, [15, 0, u32::MAX, 10]);
        assert_eq!(dead, [1, 0, 1, 0]);
    }
}
