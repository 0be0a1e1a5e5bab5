//! The optimiser step in one pass over parameters, moments and gradient. Chunks have a fixed size, so the statistics do not
//! depend on the number of threads.

use super::{
    Isa, Rows,
    simd::{Simd, per_isa},
};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

/// Scalars of one step; `bc1 = 1−β1^t`, `bc2 = 1−β2^t`.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// Bias correction of the first moment.
    pub bc1: f32,
    /// Bias correction of the second moment.
    pub bc2: f32,
    /// Multiplies the gradient.
    pub grad_scale: f32,
    /// Decay moments everywhere, but grow them and move p only where the gradient is not 0.
    pub sparse: bool,
}

/// A copy of the parameters, usually in a narrower type.
#[derive(Clone, Copy, Debug)]
pub enum Low {
    /// Single precision.
    F32(Rows<f32>),
    /// bfloat16.
    Bf16(Rows<bf16>),
    /// IEEE half.
    F16(Rows<f16>),
}

/// Elements of one task.
const CHUNK: usize = 1 << 14;
/// Elements summed in single precision before the sum is widened.
const BLOCK: usize = 1 << 11;

/// Updates `p, m, v` from `g`, all of one shape; writes p rounded to `low`. Returns Σ(g·grad_scale)² and the number of
/// non-zero g.
///
/// # Safety
/// The operands are live and of one shape, nobody else touches `p`, `m`, `v`, `low`, and the machine has `isa`.
pub unsafe fn adam(
    isa: Isa,
    p: Rows<f32>,
    m: Rows<f32>,
    v: Rows<f32>,
    g: Rows<f32>,
    low: Option<Low>,
    step: AdamStep,
) -> (f64, u64) {
    let flat = [p.ld, m.ld, v.ld, g.ld].iter().all(|&ld| ld == p.cols)
        && match low {
            Some(Low::F32(l)) => l.ld == p.cols,
            Some(Low::Bf16(l)) => l.ld == p.cols,
            Some(Low::F16(l)) => l.ld == p.cols,
            None => true,
        };
    let (rows, cols) = if flat { (1, p.rows * p.cols) } else { (p.rows, p.cols) };
    let per_row = cols.div_ceil(CHUNK);
    let parts: Vec<(f64, u64)> = (0..rows * per_row)
        .into_par_iter()
        .map(|task| {
            let (r, c) = (task / per_row, task % per_row * CHUNK);
            let end = (c + CHUNK).min(cols);
            let mut sums = (0.0, 0);
            for c in (c..end).step_by(BLOCK) {
                let n = BLOCK.min(end - c);
                // SAFETY: chunks are disjoint and inside the operands; the instruction set exists.
                unsafe {
                    let at = |x: Rows<f32>| x.row_ptr(r).add(c);
                    let (squares, nonzero) = block(isa, at(p), at(m), at(v), at(g), n, step);
                    sums = (sums.0 + f64::from(squares), sums.1 + u64::from(nonzero));
                    let new = std::slice::from_raw_parts(at(p), n);
                    match low {
                        Some(Low::F32(l)) => {
                            std::slice::from_raw_parts_mut(l.row_ptr(r).add(c), n).copy_from_slice(new);
                        }
                        Some(Low::Bf16(l)) => {
                            std::slice::from_raw_parts_mut(l.row_ptr(r).add(c), n)
                                .convert_from_f32_slice(new);
                        }
                        Some(Low::F16(l)) => {
                            std::slice::from_raw_parts_mut(l.row_ptr(r).add(c), n)
                                .convert_from_f32_slice(new);
                        }
                        None => {}
                    }
                }
            }
            sums
        })
        .collect();
    parts.into_iter().fold((0.0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

per_isa! {
    /// `n` consecutive elements.
    unsafe fn block<S>(
        p: *mut f32,
        m: *mut f32,
        v: *mut f32,
        g: *const f32,
        n: usize,
        step: AdamStep,
    ) -> (f32, u32) {
        // SAFETY: the caller gives n elements at each address.
        unsafe {
            if step.sparse { update::<S, true>(p, m, v, g, n, step) } else { update::<S, false>(p, m, v, g, n, step) }
        }
    }
}

#[inline(always)]
unsafe fn update<S: Simd, const SPARSE: bool>(
    p: *mut f32,
    m: *mut f32,
    v: *mut f32,
    g: *const f32,
    n: usize,
    step: AdamStep,
) -> (f32, u32) {
    // Both forms are p −= rate·m / (root·√v + eps).
    let root2 = f64::from(step.bc2).sqrt();
    let rate = f64::from(step.lr) / f64::from(step.bc1);
    let (rate, root) = if SPARSE { (rate * root2, 1.0) } else { (rate, 1.0 / root2) };
    // SAFETY: vectors stay inside the n elements.
    unsafe {
        let (beta1, beta2) = (S::splat(step.beta1), S::splat(step.beta2));
        let (grow1, grow2) = (S::splat(1.0 - step.beta1), S::splat(1.0 - step.beta2));
        let (rate, root, eps) = (S::splat(-rate as f32), S::splat(root as f32), S::splat(step.eps));
        let grad_scale = S::splat(step.grad_scale);
        let (mut squares, mut nonzero) = (S::splat(0.0), 0);
        for i in (0..n).step_by(S::N) {
            let len = S::N.min(n - i);
            let raw = S::load_upto(g.add(i), len);
            let touched = S::nonzero(raw);
            nonzero += touched.count_ones();
            let grad = S::mul(raw, grad_scale);
            squares = S::fma(grad, grad, squares);
            // Where the gradient is 0 growing adds nothing, so both forms share the moments.
            let m1 = S::fma(grow1, grad, S::mul(beta1, S::load_upto(m.add(i), len)));
            let v1 = S::fma(S::mul(grow2, grad), grad, S::mul(beta2, S::load_upto(v.add(i), len)));
            S::store_upto(m.add(i), len, m1);
            S::store_upto(v.add(i), len, v1);
            let mut change = S::div(S::mul(rate, m1), S::fma(root, S::sqrt(v1), eps));
            if SPARSE {
                change = S::keep(touched, change);
            }
            S::store_upto(p.add(i), len, S::add(S::load_upto(p.add(i), len), change));
        }
        (S::sum(squares), nonzero)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::testing::*, philox};

    fn normal(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| philox::normal(seed, i, 0.0, 1.0)).collect()
    }

    fn step(sparse: bool) -> AdamStep {
        let t = 3;
        AdamStep {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            bc1: 1.0 - 0.9f32.powi(t),
            bc2: 1.0 - 0.999f32.powi(t),
            grad_scale: 0.5,
            sparse,
        }
    }

    struct State {
        p: Vec<f32>,
        m: Vec<f32>,
        v: Vec<f32>,
        g: Vec<f32>,
    }

    fn state(n: usize) -> State {
        let mut g = normal(n, 4);
        g.iter_mut().step_by(3).for_each(|g| *g = 0.0);
        let v = normal(n, 3).iter().map(|v| v * v).collect();
        State { p: normal(n, 1), m: normal(n, 2), v, g }
    }

    #[test]
    fn equals_f64_for_both_forms_on_every_path() {
        for n in [0, 1, 7, 63, 64, 65, BLOCK + 1, CHUNK + 17] {
            for (isa, sparse) in Isa::available().into_iter().flat_map(|i| [(i, false), (i, true)]) {
                let (mut s, old, a) = (state(n), state(n), step(sparse));
                let mut low = vec![bf16::ZERO; n];
                let (p, m, v) =
                    (rows_mut(&mut s.p, 1, n), rows_mut(&mut s.m, 1, n), rows_mut(&mut s.v, 1, n));
                let l = Some(Low::Bf16(rows_mut(&mut low, 1, n)));
                // SAFETY: fresh arrays of one shape.
                let stats = unsafe { adam(isa, p, m, v, rows_of(&s.g, 1, n), l, a) };
                let mut squares = 0.0;
                for i in 0..n {
                    let g = f64::from(old.g[i]) * 0.5;
                    squares += g * g;
                    let (b1, b2, root) = (f64::from(a.beta1), f64::from(a.beta2), f64::from(a.bc2).sqrt());
                    let m1 = b1 * f64::from(old.m[i]) + (1.0 - b1) * g;
                    let v1 = b2 * f64::from(old.v[i]) + (1.0 - b2) * g * g;
                    let (lr, eps) = (f64::from(a.lr) / f64::from(a.bc1), f64::from(a.eps));
                    let change = match (sparse, old.g[i] != 0.0) {
                        (false, _) => lr * m1 / (v1.sqrt() / root + eps),
                        (true, true) => lr * root * m1 / (v1.sqrt() + eps),
                        (true, false) => 0.0,
                    };
                    let want = f64::from(old.p[i]) - change;
                    assert!((f64::from(s.m[i]) - m1).abs() < 1e-6 && (f64::from(s.v[i]) - v1).abs() < 1e-6);
                    assert!(
                        (f64::from(s.p[i]) - want).abs() <= 2e-6 * (want.abs() + change.abs() + 1.0),
                        "{isa:?} sparse {sparse} n {n} element {i}: {} against {want}",
                        s.p[i]
                    );
                    assert_eq!(low[i], bf16::from_f32(s.p[i]));
                }
                assert!((stats.0 - squares).abs() <= 1e-5 * squares);
                assert_eq!(stats.1 as usize, old.g.iter().filter(|&&g| g != 0.0).count());
            }
        }
    }

    #[test]
    fn strided_rows_leave_the_gaps_alone() {
        let (rows, cols, ld) = (3, 5, 8);
        let (mut p, g) = (vec![1.0; 24], vec![1.0; 24]);
        let (mut m, mut v) = (vec![0.0; 24], vec![0.0; 24]);
        let view = |x: *mut f32| {
            // SAFETY: 24 elements hold 3 rows of 5 at a distance of 8.
            unsafe { Rows::new(x, rows, cols, ld) }
        };
        let g = view(g.as_ptr().cast_mut());
        // SAFETY: fresh arrays.
        let stats = unsafe {
            let (p, m, v) = (view(p.as_mut_ptr()), view(m.as_mut_ptr()), view(v.as_mut_ptr()));
            adam(Isa::best(), p, m, v, g, None, step(false))
        };
        assert_eq!(stats, (15.0 * 0.25, 15));
        assert!((0..24).all(|i| (p[i] == 1.0) == (i % ld >= cols)));
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let n = 5 * CHUNK + 3;
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            let mut s = state(n);
            let (p, m, v) = (rows_mut(&mut s.p, 1, n), rows_mut(&mut s.m, 1, n), rows_mut(&mut s.v, 1, n));
            let g = rows_of(&s.g, 1, n);
            // SAFETY: fresh arrays of one shape.
            let stats = pool.install(|| unsafe { adam(Isa::best(), p, m, v, g, None, step(false)) });
            (s.p, s.m, s.v, stats.0.to_bits(), stats.1)
        };
        assert!(run(1) == run(2) && run(1) == run(3));
    }
}
