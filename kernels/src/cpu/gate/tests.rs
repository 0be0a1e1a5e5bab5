//! Rules, compaction and gates against what they say, entry by entry.

use super::*;
use crate::{
    cpu::{testing::*, threshold::threshold},
    philox,
};

fn normal(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| philox::normal(seed, i, 0.0, 1.0)).collect()
}

/// Few distinct values, so that ties are everywhere, with NaN and infinity among them.
fn steps(n: usize, seed: u64) -> Vec<f32> {
    let mut x: Vec<f32> = (0..n as u64).map(|i| philox::word(seed, i) as f32 % 9.0 - 3.0).collect();
    x.iter_mut().step_by(31).for_each(|v| *v = f32::NAN);
    x.iter_mut().skip(5).step_by(97).for_each(|v| *v = f32::INFINITY);
    x
}

struct Case {
    x: Vec<f32>,
    scale: Option<Vec<f32>>,
    mask: Option<Vec<u8>>,
    cols: usize,
}

impl Case {
    fn all() -> Vec<Self> {
        let shapes = [(0, 4), (3, 0), (1, 1), (7, 7), (5, 63), (9, 64), (4, 65), (40, 300)];
        let with = |(rows, cols): (usize, usize), seed: u64| {
            let n = rows * cols;
            Self {
                x: if seed.is_multiple_of(2) { normal(n, seed) } else { steps(n, seed) },
                scale: (seed > 1).then(|| steps(cols, 7)),
                mask: (seed > 2).then(|| (0..cols).map(|c| u8::from(c % 3 != 1)).collect()),
                cols,
            }
        };
        shapes.into_iter().flat_map(|s| (0..4).map(move |seed| with(s, seed))).collect()
    }
    fn rows(&self) -> usize {
        self.x.len().checked_div(self.cols).unwrap_or(3)
    }
    /// g where it may pass, else 0.
    fn g(&self, i: usize) -> f32 {
        let c = i % self.cols;
        let g = self.scale.as_ref().map_or(self.x[i], |s| self.x[i] * s[c]);
        if g > 0.0 && self.mask.as_ref().is_none_or(|m| m[c] != 0) { g } else { 0.0 }
    }
    fn selection<'a>(&'a self, rule: Rule<'a>) -> Selection<'a> {
        let x = rows_of(&self.x, self.rows(), self.cols);
        Selection { x, scale: self.scale.as_deref(), mask: self.mask.as_deref(), rule }
    }
}

/// Which entries pass, compact and gate must agree with `keep`.
fn check(case: &Case, isa: Isa, rule: Rule<'_>, keep: &[bool]) {
    let (rows, n) = (case.rows(), keep.iter().filter(|&&k| k).count());
    let (mut vals, mut idx, mut ptr) = (vec![9.0; n], vec![9; n], vec![9; rows + 1]);
    // SAFETY: fresh arrays of these shapes.
    unsafe { compact(isa, case.selection(rule), &mut vals, &mut idx, &mut ptr).unwrap() };
    let want: Vec<usize> = (0..keep.len()).filter(|&i| keep[i]).collect();
    assert_eq!(vals, want.iter().map(|&i| case.x[i]).collect::<Vec<_>>());
    assert_eq!(idx, want.iter().map(|&i| (i % case.cols) as u32).collect::<Vec<_>>());
    for r in 0..=rows {
        assert_eq!(ptr[r] as usize, want.iter().filter(|&&i| i < r * case.cols).count());
    }
    if n > 0 {
        // SAFETY: as above.
        let full = unsafe { compact(isa, case.selection(rule), &mut vals[1..], &mut idx[1..], &mut ptr) };
        assert_eq!(full.unwrap_err(), format!("{n} entries pass, the output holds {}", n - 1));
    }
    if case.mask.is_none() {
        let mut y = case.x.clone();
        let place = rows_mut(&mut y, rows, case.cols);
        // SAFETY: as above, and the gate may run in place.
        unsafe { gate(isa, Selection { x: place, ..case.selection(rule) }, place) };
        let want: Vec<f32> = (0..keep.len()).map(|i| if keep[i] { case.x[i] } else { 0.0 }).collect();
        assert_eq!(y, want);
    }
}

#[test]
fn compaction_and_gates_keep_what_the_rule_says() {
    for (case, isa) in Case::all().iter().flat_map(|c| Isa::available().into_iter().map(move |i| (c, i))) {
        let theta = steps(case.cols, 3);
        let every = 0..case.x.len();
        check(case, isa, Rule::Positive, &every.clone().map(|i| case.g(i) > 0.0).collect::<Vec<_>>());
        let above = |i| case.g(i) > 0.0 && case.g(i) > theta[i % case.cols];
        check(case, isa, Rule::Theta(&theta), &every.clone().map(above).collect::<Vec<_>>());

        let mut order: Vec<usize> = every.clone().filter(|&i| case.g(i) > 0.0).collect();
        order.sort_by(|&a, &b| case.g(b).total_cmp(&case.g(a)).then(a.cmp(&b)));
        for k in [0, 1, 2, 5, 60, order.len() / 2, order.len(), order.len() + 1] {
            let s = case.selection(Rule::Positive);
            // SAFETY: as in `check`.
            let (tau, ties) = unsafe { threshold(isa, s.x, s.scale, s.mask, k as u64) };
            let want = match k {
                0 => (f32::INFINITY, 0),
                k if k > order.len() => (0.0, 0),
                k => {
                    let tau = case.g(order[k - 1]);
                    (tau, order[..k].iter().filter(|&&i| case.g(i) == tau).count() as u32)
                }
            };
            assert_eq!((tau, ties), want, "{isa:?} k {k} of {}", order.len());
            let keep: Vec<bool> = every.clone().map(|i| order[..k.min(order.len())].contains(&i)).collect();
            check(case, isa, Rule::Tau { tau, ties: ties as usize }, &keep);
        }
    }
}

#[test]
fn threshold_finds_tiny_and_subnormal_entries() {
    let x: Vec<f32> = (0..2000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761) >> 8)).collect();
    let mut sorted = x.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for (isa, k) in Isa::available().into_iter().flat_map(|i| [1, 7, 500, 1900].map(|k| (i, k))) {
        // SAFETY: a fresh array of this shape.
        let (tau, _) = unsafe { threshold(isa, rows_of(&x, 40, 50), None, None, k as u64) };
        assert_eq!(tau, sorted[k - 1]);
    }
}

#[test]
fn the_gradient_of_a_gate_equals_f64_loops_also_in_place() {
    for (case, isa) in Case::all().iter().flat_map(|c| Isa::available().into_iter().map(move |i| (c, i))) {
        let (rows, cols) = (case.rows(), case.cols);
        let (theta, window) = (steps(cols, 11).iter().map(|t| t.abs().min(4.0)).collect::<Vec<_>>(), 1.5);
        let scale = case.scale.as_ref().map(|s| s.iter().map(|v| v.abs().min(2.0) + 0.5).collect::<Vec<_>>());
        let df = normal(rows * cols, 12);
        for jump in [false, true] {
            let (mut dx, mut dtheta) = (df.clone(), vec![1.0; cols]);
            let place = rows_mut(&mut dx, rows, cols);
            let j = jump.then_some(Jump { theta: &theta, window, dtheta: &mut dtheta });
            // SAFETY: fresh arrays of these shapes; dx may be df.
            unsafe { gate_grad(isa, rows_of(&case.x, rows, cols), scale.as_deref(), j, place, place) };
            let mut want = vec![1.0; cols];
            for i in 0..rows * cols {
                let c = i % cols;
                let n = scale.as_ref().map_or(1.0, |s| s[c]);
                let (g, t) = (case.x[i] * n, theta[c]);
                let pass = g > 0.0 && (!jump || g > t);
                assert_eq!(dx[i], if pass { df[i] } else { 0.0 });
                if jump && g > 0.0 && (g - t).abs() < window / 2.0 {
                    want[c] -= f64::from(df[i]) * f64::from(t) / f64::from(window) / f64::from(n);
                }
            }
            for c in 0..cols {
                assert!((f64::from(dtheta[c]) - want[c]).abs() <= 1e-4 * want[c].abs().max(1.0));
            }
        }
    }
}
