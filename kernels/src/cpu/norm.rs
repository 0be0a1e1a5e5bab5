//! Row normalisation and cross-entropy.

use super::{Rows, reduce, split, vmath};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Constants of a normalisation.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Root mean square instead of mean and variance.
    pub rms: bool,
    /// Added to the mean square before the root.
    pub eps: f32,
    /// Added to the gain (RMS only).
    pub gain_offset: f32,
}

/// Normalises rows: `y = (x − mean)/s·gain + bias`, or `x/s·(gain + offset) + bias` for RMS; `scale` receives s.
///
/// # Safety
/// `x`, `y [B, D]`, `scale [B, 1]` are live; `gain`, `bias` have D values; `y` is `x` or overlaps nothing; nobody else
/// uses the outputs.
pub unsafe fn norm(
    x: Rows<f32>,
    gain: Option<&[f32]>,
    bias: Option<&[f32]>,
    y: Rows<f32>,
    scale: Option<Rows<f32>>,
    style: Style,
) {
    split::by_rows(x.rows, 4 * x.cols, |rows| {
        for i in rows {
            // SAFETY: each row belongs to one piece.
            unsafe {
                let (mean, s) = moments(x.row(i), style);
                if let Some(scale) = scale {
                    *scale.row_ptr(i) = s;
                }
                apply(x.row_ptr(i), y.row_ptr(i), x.cols, mean, s, gain, bias, style);
            }
        }
    });
}

/// Mean (0 for RMS) and divisor of a row.
unsafe fn moments(x: &[f32], style: Style) -> (f32, f32) {
    let n = x.len() as f64;
    // SAFETY: the instruction set was detected.
    let (mean, square) = unsafe {
        if style.rms {
            (0.0, reduce::row(reduce::Kind::SumSq, x) / n)
        } else {
            let mean = (reduce::row(reduce::Kind::Sum, x) / n) as f32;
            (mean, centred_squares(x, mean) / n)
        }
    };
    (mean, (square + f64::from(style.eps)).sqrt() as f32)
}

multiversion! {
    /// Σ (x − mean)².
    fn centred_squares(x: &[f32], mean: f32) -> f64 {
        let mut acc = [0f32; 64];
        let mut blocks = x.chunks_exact(64);
        for block in &mut blocks {
            for l in 0..64 {
                let d = block[l] - mean;
                acc[l] = vmath::fma::<FMA>(d, d, acc[l]);
            }
        }
        for (a, v) in acc.iter_mut().zip(blocks.remainder()) {
            *a += (v - mean) * (v - mean);
        }
        f64::from(reduce::fold(reduce::Kind::Sum, acc))
    }
}

multiversion! {
    fn apply(
        x: *const f32,
        y: *mut f32,
        n: usize,
        mean: f32,
        s: f32,
        gain: Option<&[f32]>,
        bias: Option<&[f32]>,
        style: Style,
    ) {
        let inverse = 1.0 / s;
        // SAFETY: n elements; where x is not y they are distinct.
        unsafe {
            if !std::ptr::eq(x, y) {
                std::ptr::copy_nonoverlapping(x, y, n);
            }
            let y = std::slice::from_raw_parts_mut(y, n);
            let offset = if style.rms { style.gain_offset } else { 0.0 };
            match (gain, bias) {
                (Some(g), Some(b)) => {
                    for ((v, g), b) in y.iter_mut().zip(g).zip(b) {
                        *v = (*v - mean) * inverse * (g + offset) + b;
                    }
                }
                (Some(g), None) => y.iter_mut().zip(g).for_each(|(v, g)| *v = (*v - mean) * inverse * (g + offset)),
                (None, b) => {
                    let g = if style.rms { 1.0 + offset } else { 1.0 };
                    y.iter_mut().for_each(|v| *v = (*v - mean) * inverse * g);
                    if let Some(b) = b {
                        y.iter_mut().zip(b).for_each(|(v, b)| *v += b);
                    }
                }
            }
        }
    }
}

/// `loss[i] = log Σ exp(logits[i,:]) − logits[i, target[i]]`, 0 where the target is `u32::MAX`.
///
/// # Errors
/// The first target that is not a column, with its row.
///
/// # Safety
/// `logits [B, V]` is live; `target` and `loss` have B entries.
pub unsafe fn cross_entropy(logits: Rows<f32>, target: &[u32], loss: Rows<f32>) -> Result<(), String> {
    let bad = AtomicUsize::new(usize::MAX);
    split::by_rows(target.len(), 8 * logits.cols, |rows| {
        for i in rows {
            let t = target[i];
            // SAFETY: row i; element i of the loss belongs to this piece.
            unsafe {
                let value = if t == u32::MAX {
                    0.0
                } else if let Some(&hit) = logits.row(i).get(t as usize) {
                    (log_sum_exp(logits.row(i)) - f64::from(hit)) as f32
                } else {
                    bad.fetch_min(i, Ordering::Relaxed);
                    f32::NAN
                };
                *loss.ptr().add(i) = value;
            }
        }
    });
    match bad.into_inner() {
        usize::MAX => Ok(()),
        i => Err(format!("target {} of row {i} is not below {}", target[i], logits.cols)),
    }
}

unsafe fn log_sum_exp(x: &[f32]) -> f64 {
    // SAFETY: the instruction set was detected.
    unsafe {
        let top = reduce::row(reduce::Kind::Max, x) as f32;
        f64::from(top) + x.chunks(4096).map(|x| f64::from(sum_exp(x, top))).sum::<f64>().ln()
    }
}

multiversion! {
    /// Σ exp(x − top).
    fn sum_exp(x: &[f32], top: f32) -> f32 {
        let mut acc = [0f32; 64];
        let mut blocks = x.chunks_exact(64);
        for block in &mut blocks {
            for l in 0..64 {
                acc[l] += vmath::exp::<FMA>(block[l] - top);
            }
        }
        for (a, v) in acc.iter_mut().zip(blocks.remainder()) {
            *a += vmath::exp::<FMA>(v - top);
        }
        reduce::fold(reduce::Kind::Sum, acc)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{rows_mut, rows_of};
    use super::*;

    fn values(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| crate::philox::uniform(seed, i, -2.0, 3.0)).collect()
    }

    #[test]
    fn rows_are_normalised_as_in_f64() {
        for (rows, cols) in [(1, 1), (3, 63), (2, 64), (50, 777)] {
            for rms in [false, true] {
                for (with_gain, with_bias) in [(false, false), (true, false), (false, true), (true, true)] {
                    let (x, g, b) = (values(rows * cols, 1), values(cols, 2), values(cols, 3));
                    let style = Style { rms, eps: 1e-5, gain_offset: 1.0 };
                    let (gain, bias) = (with_gain.then_some(&g[..]), with_bias.then_some(&b[..]));
                    let (mut y, mut s) = (x.clone(), vec![0f32; rows]);
                    // SAFETY: in place; shapes match.
                    unsafe {
                        let y = rows_mut(&mut y, rows, cols);
                        norm(y, gain, bias, y, Some(rows_mut(&mut s, rows, 1)), style);
                    }
                    for i in 0..rows {
                        let row: Vec<f64> = x[i * cols..(i + 1) * cols].iter().map(|&v| v.into()).collect();
                        let n = cols as f64;
                        let mean = if rms { 0.0 } else { row.iter().sum::<f64>() / n };
                        let want_s = (row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n + 1e-5).sqrt();
                        assert!((f64::from(s[i]) - want_s).abs() < 1e-6 * want_s.max(1.0));
                        for j in 0..cols {
                            let g = if with_gain { f64::from(g[j]) } else { 1.0 };
                            // Absent gain counts as 1, the offset comes on top.
                            let g = if rms { g + 1.0 } else { g };
                            let want =
                                (row[j] - mean) / want_s * g + if with_bias { f64::from(b[j]) } else { 0.0 };
                            // One column: x − mean is 0 and s tiny, so absolute error is what can be asked.
                            assert!((f64::from(y[i * cols + j]) - want).abs() < 1e-5 * (1.0 + want.abs()));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn cross_entropy_agrees_with_f64_and_skips_masked_rows() {
        let (rows, cols) = (5, 5003);
        let mut logits = values(rows * cols, 4);
        logits[17] = 300.0;
        let target = [17, u32::MAX, 0, 5002, 9];
        let mut loss = vec![0f32; rows];
        // SAFETY: shapes match.
        unsafe {
            cross_entropy(rows_of(&logits, rows, cols), &target, rows_mut(&mut loss, 1, rows))
                .expect("targets are columns");
        }
        for i in 0..rows {
            let row: Vec<f64> = logits[i * cols..(i + 1) * cols].iter().map(|&v| v.into()).collect();
            let top = row.iter().copied().fold(f64::MIN, f64::max);
            let lse = top + row.iter().map(|v| (v - top).exp()).sum::<f64>().ln();
            let want = row.get(target[i] as usize).map_or(0.0, |hit| lse - hit);
            assert!(
                (f64::from(loss[i]) - want).abs() < 2e-6 * (1.0 + want),
                "row {i}: {} instead of {want}",
                loss[i]
            );
        }
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_named() {
        let (logits, mut loss) = (values(6, 1), [0f32; 2]);
        // SAFETY: shapes match.
        let done = unsafe { cross_entropy(rows_of(&logits, 2, 3), &[1, 3], rows_mut(&mut loss, 1, 2)) };
        assert_eq!(done, Err("target 3 of row 1 is not below 3".into()));
    }
}
