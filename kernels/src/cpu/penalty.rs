//! Sparsity penalties and their gradients. Rows are summed by one thread each, columns in row order.

use super::{
    Codes, Isa, Rows,
    simd::{Simd, per_isa},
};
use rayon::prelude::*;
use std::ops::Range;

/// Which penalty on `u = vals·scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// The p-norm of each row.
    Power(f32),
    /// Σ |u|^p.
    PowerSum(f32),
    /// Σ tanh(c·u).
    Tanh(f32),
    /// tanh(c·u) itself, instead of a gradient.
    TanhValue(f32),
}

/// Dense or sparse codes, with their gradient's place.
#[derive(Debug)]
pub enum Operand<'a> {
    /// `vals, du [B, F]`.
    Dense(Rows<f32>, Rows<f32>),
    /// Codes, and du as long as their values.
    Sparse(Codes<'a>, &'a mut [f32]),
}

/// Factors of a penalty; absent ones are 1.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// Of the codes, one a column.
    pub scale: Option<&'a [f32]>,
    /// Of each row's gradient `[B, 1]`.
    pub weight: Option<Rows<f32>>,
    /// Of each column.
    pub colgain: Option<&'a [f32]>,
}

/// Per row the penalty into `out [B, 1]` and `du = weight·colgain·∂/∂u`; see [`Kind`]. Empty slots get 0.
///
/// # Safety
/// The operands are live with these shapes, and nobody else touches `du` and `out`.
pub unsafe fn penalty(kind: Kind, codes: Operand<'_>, f: Factors<'_>, out: Option<Rows<f32>>) {
    let finish = |r: usize, vals: &[f32], idx: Option<(&[u32], usize)>, du: &mut [f32]| {
        // SAFETY: weight and out have one element a row, and each row belongs to one task.
        let w = f.weight.map_or(1.0, |w| unsafe { *w.row_ptr(r) });
        let total = match idx {
            None => row(kind, vals, Some, f, w, du),
            Some((idx, n)) => row(kind, vals, |slot| Some(idx[slot] as usize).filter(|&i| i < n), f, w, du),
        };
        if let Some(out) = out {
            // SAFETY: as above.
            unsafe { *out.row_ptr(r) = total };
        }
    };
    match codes {
        Operand::Dense(vals, du) => (0..vals.rows).into_par_iter().with_min_len(8).for_each(|r| {
            // SAFETY: each row belongs to one task.
            unsafe { finish(r, vals.row(r), None, du.row_mut(r)) }
        }),
        Operand::Sparse(s, du) => {
            let du = super::codes::Shared::new(du);
            (0..s.rows).into_par_iter().with_min_len(64).for_each(|r| {
                let e = s.row(r);
                // SAFETY: the entries of a row belong to one task.
                let du = unsafe { std::slice::from_raw_parts_mut(du.ptr().add(e.start), e.len()) };
                finish(r, &s.vals[e.clone()], Some((&s.idx[e], s.n)), du);
            });
        }
    }
}

/// One row; `column` is `None` for an empty slot.
#[inline(always)]
fn row(
    kind: Kind,
    vals: &[f32],
    column: impl Fn(usize) -> Option<usize>,
    f: Factors<'_>,
    weight: f32,
    du: &mut [f32],
) -> f32 {
    let u = |slot: usize, c: usize| vals[slot] * f.scale.map_or(1.0, |s| s[c]);
    let gain = |c: usize| f.colgain.map_or(1.0, |g| g[c]);
    let slots = || (0..vals.len()).filter_map(|slot| column(slot).map(|c| (slot, c)));
    let mut total = 0.0f64;
    match kind {
        Kind::Power(p) => {
            let power = |u: f32| if p == 1.0 { u.abs() } else { u.abs().powf(p) };
            total = slots().map(|(slot, c)| f64::from(power(u(slot, c)))).sum();
            if p != 1.0 {
                total = total.powf(1.0 / f64::from(p));
            }
            let norm = total as f32;
            for (slot, d) in du.iter_mut().enumerate() {
                *d = match column(slot).map(|c| (u(slot, c), c)) {
                    None | Some((0.0, _)) => 0.0,
                    Some((u, c)) if p == 1.0 => weight * gain(c) * u.signum(),
                    Some((u, c)) => weight * gain(c) * u.signum() * (u.abs() / norm).powf(p - 1.0),
                };
            }
        }
        Kind::PowerSum(p) => {
            for (slot, d) in du.iter_mut().enumerate() {
                *d = 0.0;
                if let Some((u, c)) = column(slot).map(|c| (u(slot, c), c)).filter(|(u, _)| *u != 0.0) {
                    // One power for both: u^p = u^(p−1)·u.
                    let slope = u.abs().powf(p - 1.0);
                    total += f64::from(slope * u.abs());
                    *d = weight * gain(c) * p * slope * u.signum();
                }
            }
        }
        Kind::Tanh(stretch) => {
            for (slot, d) in du.iter_mut().enumerate() {
                *d = 0.0;
                if let Some(c) = column(slot) {
                    let t = tanh(stretch * u(slot, c));
                    total += f64::from(gain(c) * t);
                    *d = weight * gain(c) * stretch * (1.0 - t * t);
                }
            }
        }
        Kind::TanhValue(stretch) => {
            for (slot, d) in du.iter_mut().enumerate() {
                *d = column(slot).map_or(0.0, |c| tanh(stretch * u(slot, c)));
            }
        }
    }
    total as f32
}

/// Most dense codes are 0, where the call would cost as much as anywhere.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.tanh() }
}

/// Operands of the threshold penalty; gradients are added to.
#[derive(Debug)]
pub struct ThresholdPenalty<'a> {
    /// `x [B, F]`.
    pub x: Rows<f32>,
    /// Decoder norms, absent = 1.
    pub scale: Option<&'a [f32]>,
    /// Thresholds.
    pub theta: &'a [f32],
    /// Row weights `[B, 1]`.
    pub weight: Rows<f32>,
    /// Whether θ is compared with `x·scale` rather than `x`.
    pub gated: bool,
    /// Penalty of each row `[B, 1]`.
    pub out: Rows<f32>,
    /// Gradient of x.
    pub dx: Option<Rows<f32>>,
    /// Gradient of θ.
    pub dtheta: Option<&'a mut [f32]>,
    /// Gradient of the norms.
    pub dn: Option<&'a mut [f32]>,
}

const STRIP: usize = 256;

/// Per row `out = Σ relu(θ − g)·n`, with its gradients (`g = x·n` when gated, else x; w the row weights):
/// `dx −= w·n·1[θ>g]·(n if gated)`, `dtheta += Σ w·n·1[θ>g]`, `dn += Σ w·(relu(θ−g) − 1[θ>g]·x·n·gated)`.
///
/// # Safety
/// The operands are live with these shapes, nobody else touches the outputs, and the machine has `isa`.
pub unsafe fn threshold_penalty(isa: Isa, a: ThresholdPenalty<'_>) {
    let ThresholdPenalty { x, scale, theta, weight, gated, out, dx, dtheta, dn } = a;
    let of = Inputs { x, scale, theta, weight, gated };
    (0..x.rows).into_par_iter().with_min_len(8).for_each(|r| {
        // SAFETY: the caller's contract; each row belongs to one task.
        unsafe { *out.row_ptr(r) = row_sum(isa, of, r) }
    });
    if dx.is_none() && dtheta.is_none() && dn.is_none() {
        return;
    }
    let chunks = |d: Option<&mut [f32]>| d.map(super::codes::Shared::new);
    let (dtheta, dn) = (chunks(dtheta), chunks(dn));
    (0..x.cols.div_ceil(STRIP)).into_par_iter().for_each(|i| {
        let cols = i * STRIP..((i + 1) * STRIP).min(x.cols);
        let (mut sum_theta, mut sum_n) = ([0.0; STRIP], [0.0; STRIP]);
        // SAFETY: the caller's contract; strips are disjoint.
        unsafe {
            strip(isa, of, cols.clone(), dx, &mut sum_theta, &mut sum_n);
            for (c, j) in cols.zip(0..) {
                if let Some(d) = dtheta {
                    *d.ptr().add(c) += sum_theta[j];
                }
                if let Some(d) = dn {
                    *d.ptr().add(c) += sum_n[j];
                }
            }
        }
    });
}

#[derive(Clone, Copy)]
struct Inputs<'a> {
    x: Rows<f32>,
    scale: Option<&'a [f32]>,
    theta: &'a [f32],
    weight: Rows<f32>,
    gated: bool,
}

/// x, n, θ − g and the lanes where it is positive, at columns c.. of row r.
#[inline(always)]
unsafe fn load<S: Simd>(a: &Inputs<'_>, r: usize, c: usize, len: usize) -> (S::V, S::V, S::V, u32) {
    // SAFETY: the caller keeps the vector inside the row.
    unsafe {
        let x = S::load_upto(a.x.row_ptr(r).add(c), len);
        let n = a.scale.map_or(S::splat(1.0), |s| S::load_upto(s.as_ptr().add(c), len));
        let theta = S::load_upto(a.theta.as_ptr().add(c), len);
        let g = if a.gated { S::mul(x, n) } else { x };
        (x, n, S::fma(S::splat(-1.0), g, theta), S::gt(theta, g))
    }
}

per_isa! {
    unsafe fn row_sum<S>(a: Inputs<'_>, r: usize) -> f32 {
        // SAFETY: vectors stay inside the row.
        unsafe {
            let mut sum = S::splat(0.0);
            for c in (0..a.x.cols).step_by(S::N) {
                let (_, n, below, on) = load::<S>(&a, r, c, S::N.min(a.x.cols - c));
                sum = S::add(sum, S::keep(on, S::mul(below, n)));
            }
            S::sum(sum)
        }
    }
}

per_isa! {
    unsafe fn strip<S>(
        a: Inputs<'_>,
        cols: Range<usize>,
        dx: Option<Rows<f32>>,
        sum_theta: &mut [f32; STRIP],
        sum_n: &mut [f32; STRIP],
    ) {
        for r in 0..a.x.rows {
            for c in cols.clone().step_by(S::N) {
                let len = S::N.min(cols.end - c);
                // SAFETY: vectors stay inside the strip.
                unsafe {
                    let w = S::splat(*a.weight.row_ptr(r));
                    let (x, n, below, on) = load::<S>(&a, r, c, len);
                    let wn = S::keep(on, S::mul(w, n));
                    let minus = S::splat(-1.0);
                    if let Some(dx) = dx {
                        let p = dx.row_ptr(r).add(c);
                        let slope = if a.gated { S::mul(wn, n) } else { wn };
                        S::store_upto(p, len, S::fma(minus, slope, S::load_upto(p, len)));
                    }
                    let inner = if a.gated { S::fma(minus, S::mul(x, n), below) } else { below };
                    let (t, d) = (sum_theta.as_mut_ptr(), sum_n.as_mut_ptr());
                    let (t, d) = (t.add(c - cols.start), d.add(c - cols.start));
                    S::store_upto(t, len, S::add(S::load_upto(t, len), wn));
                    S::store_upto(d, len, S::add(S::load_upto(d, len), S::keep(on, S::mul(w, inner))));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::testing::*, philox};

    fn normal(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| philox::normal(seed, i, 0.0, 1.0)).collect()
    }

    fn near(got: f32, want: f64, what: &str) {
        assert!((f64::from(got) - want).abs() <= 2e-5 * (want.abs() + 1.0), "{what}: {got} against {want}");
    }

    fn value(kind: Kind, u: &[f64], gain: &[f64]) -> f64 {
        match kind {
            Kind::Power(p) => u.iter().map(|u| u.abs().powf(p.into())).sum::<f64>().powf(1.0 / f64::from(p)),
            Kind::PowerSum(p) => u.iter().map(|u| u.abs().powf(p.into())).sum(),
            Kind::Tanh(c) => u.iter().zip(gain).map(|(u, g)| g * (f64::from(c) * u).tanh()).sum(),
            Kind::TanhValue(_) => 0.0,
        }
    }

    #[test]
    fn gradients_are_the_slopes_of_the_penalty() {
        let (rows, n) = (3, 37);
        let vals: Vec<f32> = normal(rows * n, 1).iter().map(|v| v.max(0.0)).collect();
        let idx: Vec<u32> = (0..(rows * n) as u32).map(|i| (i * 5) % n as u32).collect();
        let scale: Vec<f32> = normal(n, 2).iter().map(|v| v.abs() + 0.1).collect();
        let (weight, gains) = (normal(rows, 3), normal(n, 4));
        for kind in [
            Kind::Power(1.0),
            Kind::Power(2.0),
            Kind::Power(1.5),
            Kind::PowerSum(1.5),
            Kind::Tanh(4.0),
            Kind::TanhValue(4.0),
        ] {
            let colgain = (!matches!(kind, Kind::Power(_) | Kind::PowerSum(_))).then_some(&gains[..]);
            let f = Factors { scale: Some(&scale), weight: Some(rows_of(&weight, rows, 1)), colgain };
            for sparse in [false, true] {
                let (mut du, mut out) = (vec![9.0; rows * n], vec![9.0; rows]);
                let (o, d) = (Some(rows_mut(&mut out, rows, 1)), rows_mut(&mut du, rows, n));
                let codes = if sparse {
                    Operand::Sparse(Codes::fixed(&vals, &idx, n, rows, n), &mut du)
                } else {
                    Operand::Dense(rows_of(&vals, rows, n), d)
                };
                // SAFETY: fresh arrays of these shapes.
                unsafe { penalty(kind, codes, f, o) };
                for r in 0..rows {
                    let column = |i: usize| if sparse { idx[r * n + i] as usize } else { i };
                    let gain = |i: usize| f64::from(colgain.map_or(1.0, |g| g[column(i)]));
                    let u = |i: usize| f64::from(vals[r * n + i]) * f64::from(scale[column(i)]);
                    let us: Vec<f64> = (0..n).map(u).collect();
                    let gs: Vec<f64> = (0..n).map(gain).collect();
                    near(out[r], value(kind, &us, &gs), &format!("{kind:?} out"));
                    for i in 0..n {
                        let got = du[r * n + i];
                        if let Kind::TanhValue(c) = kind {
                            near(got, (f64::from(c) * us[i]).tanh(), "tanh value");
                            continue;
                        }
                        if us[i] == 0.0 && matches!(kind, Kind::Power(_)) {
                            assert_eq!(got, 0.0);
                            continue;
                        }
                        let moved = |by: f64| {
                            let mut us = us.clone();
                            us[i] += by;
                            value(kind, &us, &gs)
                        };
                        let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                        let gain = if matches!(kind, Kind::Power(_)) { gain(i) } else { 1.0 };
                        near(got, f64::from(weight[r]) * gain * slope, &format!("{kind:?} du"));
                    }
                }
            }
        }
    }

    #[test]
    fn empty_slots_and_rows_of_zeros_have_no_gradient() {
        let (vals, idx) = ([0.0, 2.0, 0.0, 0.0], [u32::MAX, 1, 0, u32::MAX]);
        let f = Factors { scale: None, weight: None, colgain: None };
        for kind in [Kind::Power(2.0), Kind::Tanh(3.0)] {
            let (mut du, mut out) = ([9.0; 4], [9.0; 2]);
            let codes = Operand::Sparse(Codes::fixed(&vals, &idx, 2, 2, 2), &mut du);
            // SAFETY: fresh arrays of these shapes.
            unsafe { penalty(kind, codes, f, Some(rows_mut(&mut out, 2, 1))) };
            assert_eq!((du[0], du[3], out[1]), (0.0, 0.0, 0.0));
            assert_eq!(du[2], if kind == Kind::Tanh(3.0) { 3.0 } else { 0.0 });
        }
    }

    #[test]
    fn threshold_penalty_equals_f64_loops() {
        for (rows, n) in [(0, 3), (1, 1), (5, 7), (9, 65), (4, 300)] {
            let (x, theta) = (normal(rows * n, 1), normal(n, 2));
            let (scale, weight) = (normal(n, 3), normal(rows, 4));
            let cases = Isa::available()
                .into_iter()
                .flat_map(|i| [(i, false, true), (i, true, true), (i, true, false)]);
            for (isa, gated, scaled) in cases {
                let (mut out, mut dx) = (vec![9.0; rows], vec![1.0; rows * n]);
                let (mut dtheta, mut dn) = (vec![2.0; n], vec![3.0; n]);
                let a = ThresholdPenalty {
                    x: rows_of(&x, rows, n),
                    scale: scaled.then_some(&scale[..]),
                    theta: &theta,
                    weight: rows_of(&weight, rows, 1),
                    gated,
                    out: rows_mut(&mut out, rows, 1),
                    dx: Some(rows_mut(&mut dx, rows, n)),
                    dtheta: Some(&mut dtheta),
                    dn: Some(&mut dn),
                };
                // SAFETY: fresh arrays of these shapes.
                unsafe { threshold_penalty(isa, a) };
                let (mut sums, mut want) = (vec![0.0; rows], vec![(2.0, 3.0); n]);
                for i in 0..rows * n {
                    let (r, c) = (i / n, i % n);
                    let norm = if scaled { f64::from(scale[c]) } else { 1.0 };
                    let (x, w, t) = (f64::from(x[i]), f64::from(weight[r]), f64::from(theta[c]));
                    let inner = if gated { norm } else { 1.0 };
                    let (mut slope, g) = (0.0, x * inner);
                    if t > g {
                        sums[r] += (t - g) * norm;
                        slope = w * norm * inner;
                        want[c].0 += w * norm;
                        want[c].1 += w * (t - g - if gated { x * norm } else { 0.0 });
                    }
                    near(dx[i], 1.0 - slope, "dx");
                }
                (0..rows).for_each(|r| near(out[r], sums[r], "out"));
                (0..n).for_each(|c| (near(dtheta[c], want[c].0, "dtheta"), near(dn[c], want[c].1, "dn")).1);
            }
        }
    }
}
