//! Which entries of a dense matrix pass: the rule shared by compaction and gates, both of these, and the gate's gradient.

use super::{Isa, Rows, simd::per_isa};
use rayon::prelude::*;
use std::ops::Range;

/// What passes besides `g = x·scale > 0`.
#[derive(Clone, Copy, Debug)]
pub enum Rule<'a> {
    /// Nothing more.
    Positive,
    /// `g > theta[column]`.
    Theta(&'a [f32]),
    /// `g > tau`, or `g == tau` among the first `ties` such entries in row-major order.
    Tau {
        /// The global threshold.
        tau: f32,
        /// How many entries equal to it pass.
        ties: usize,
    },
}

/// Operands of a selection; `scale` and `mask` have one element a column.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// `x [B, F]`.
    pub x: Rows<f32>,
    /// Factor of each column.
    pub scale: Option<&'a [f32]>,
    /// Columns with a 0 byte never pass.
    pub mask: Option<&'a [u8]>,
    /// What passes.
    pub rule: Rule<'a>,
}

/// The thresholds in force: `g > upto` before the cut (row, column), `g > beyond` from there on. Ties of τ pass before it.
#[derive(Clone, Copy)]
struct Cut {
    upto: f32,
    beyond: f32,
    at: (usize, usize),
}

impl Cut {
    /// The part of row `r` before the cut, of `cols` columns.
    fn split(&self, r: usize, cols: usize) -> usize {
        match r.cmp(&self.at.0) {
            std::cmp::Ordering::Less => cols,
            std::cmp::Ordering::Equal => self.at.1,
            std::cmp::Ordering::Greater => 0,
        }
    }
}

impl Selection<'_> {
    /// Entries that pass in each row, and the cut: the row where the ties run out is the only one that is split.
    ///
    /// # Safety
    /// `x` is live and nobody writes it; the machine has `isa`.
    unsafe fn count(&self, isa: Isa) -> (Vec<u32>, Cut) {
        let Rule::Tau { tau, mut ties } = self.rule else {
            // SAFETY: the caller's contract.
            let row = |r| unsafe { passing(isa, self, r, 0..self.x.cols, 0.0, &mut Sink::Count) as u32 };
            let counts = (0..self.x.rows).into_par_iter().with_min_len(8).map(row).collect();
            return (counts, Cut { upto: 0.0, beyond: 0.0, at: (0, 0) });
        };
        // The next smaller float: g > upto is g >= tau.
        let upto = if ties == 0 || tau <= 0.0 { tau } else { f32::from_bits(tau.to_bits() - 1) };
        let row = |r| {
            let mut above = 0;
            // SAFETY: the caller's contract.
            let all =
                unsafe { passing(isa, self, r, 0..self.x.cols, upto, &mut Sink::Above(tau, &mut above)) };
            (above as u32, all as u32)
        };
        let rows: Vec<(u32, u32)> = (0..self.x.rows).into_par_iter().with_min_len(8).map(row).collect();
        let mut counts: Vec<u32> = rows.iter().map(|&(above, _)| above).collect();
        for (r, &(above, all)) in rows.iter().enumerate() {
            let here = (all - above) as usize;
            if here > ties {
                let column = self.column_of_tie(r, tau, ties);
                counts[r] += ties as u32;
                return (counts, Cut { upto, beyond: tau, at: (r, column) });
            }
            ties -= here;
            counts[r] = all;
        }
        let end = (counts.len(), 0);
        (counts, Cut { upto, beyond: tau, at: end })
    }

    /// The column of tie number `n` (from 0) in row `r`.
    fn column_of_tie(&self, r: usize, tau: f32, n: usize) -> usize {
        // SAFETY: `count` is called with live operands, and r is one of its rows.
        let x = unsafe { self.x.row(r) };
        let g = |c: usize| self.scale.map_or(x[c], |s| x[c] * s[c]);
        let tie = |&c: &usize| g(c) == tau && self.mask.is_none_or(|m| m[c] != 0);
        (0..x.len()).filter(tie).nth(n).unwrap_or(x.len())
    }
}

/// What happens to the entries that pass.
enum Sink<'a> {
    Count,
    /// Those above a second bound are counted too.
    Above(f32, &'a mut usize),
    /// Values and columns are appended.
    Append(&'a mut [f32], &'a mut [u32], usize),
    /// x where it passes, else 0, written at this row's address.
    Dense(*mut f32),
}

per_isa! {
    /// Applies the rule with lower bound `t` to columns `cols` of row `r`; returns how many pass.
    unsafe fn passing<S>(s: &Selection<'_>, r: usize, cols: Range<usize>, t: f32, sink: &mut Sink<'_>) -> usize {
        let mut found = [0u32; 16];
        let mut total = 0;
        for c in cols.clone().step_by(S::N) {
            let n = S::N.min(cols.end - c);
            // SAFETY: vectors stay inside the row; slices have one element a column.
            unsafe {
                let x = S::load_upto(s.x.row_ptr(r).add(c), n);
                let g = s.scale.map_or(x, |k| S::mul(x, S::load_upto(k.as_ptr().add(c), n)));
                let bound = match s.rule {
                    Rule::Theta(theta) => S::max(S::splat(0.0), S::load_upto(theta.as_ptr().add(c), n)),
                    _ => S::splat(t),
                };
                let mut pass = S::gt(g, bound);
                if let Some(mask) = s.mask {
                    pass &= if n == S::N {
                        S::bytes(mask.as_ptr().add(c))
                    } else {
                        (0..n).fold(0, |m, i| m | u32::from(mask[c + i] != 0) << i)
                    };
                }
                match sink {
                    Sink::Count => total += pass.count_ones() as usize,
                    Sink::Above(second, above) => {
                        total += pass.count_ones() as usize;
                        **above += (pass & S::gt(g, S::splat(*second))).count_ones() as usize;
                    }
                    Sink::Dense(y) => {
                        total += pass.count_ones() as usize;
                        S::store_upto(y.add(c), n, S::keep(pass, x));
                    }
                    Sink::Append(..) if pass == 0 => {}
                    Sink::Append(vals, idx, at) => {
                        let n = S::positions(pass, c as u32, found.as_mut_ptr());
                        for &i in &found[..n] {
                            vals[*at] = *s.x.row_ptr(r).add(i as usize);
                            idx[*at] = i;
                            *at += 1;
                        }
                        total += n;
                    }
                }
            }
        }
        total
    }
}

/// Writes the entries that pass as sparse rows, columns ascending: `ptr [B + 1]`, and `vals`, `idx` of equal capacity.
///
/// # Errors
/// When more entries pass than the capacity; the text says how many.
///
/// # Safety
/// The operands are live with these shapes, nobody else touches the outputs, and the machine has `isa`.
pub unsafe fn compact(
    isa: Isa,
    s: Selection<'_>,
    vals: &mut [f32],
    idx: &mut [u32],
    ptr: &mut [u32],
) -> Result<(), String> {
    assert!(ptr.len() == s.x.rows + 1 && vals.len() == idx.len());
    // SAFETY: the caller's contract.
    let (counts, cut) = unsafe { s.count(isa) };
    let needed: u64 = counts.iter().map(|&n| u64::from(n)).sum();
    if needed > vals.len() as u64 || needed > u64::from(u32::MAX) {
        return Err(format!("{needed} entries pass, the output holds {}", vals.len()));
    }
    ptr[0] = 0;
    let (mut rows, mut rest) = (Vec::with_capacity(s.x.rows), (vals, idx));
    for (r, &n) in counts.iter().enumerate() {
        ptr[r + 1] = ptr[r] + n;
        let (vals, idx) = (rest.0.split_at_mut(n as usize), rest.1.split_at_mut(n as usize));
        rows.push((vals.0, idx.0));
        rest = (vals.1, idx.1);
    }
    let cols = s.x.cols;
    rows.into_par_iter().enumerate().with_min_len(8).for_each(|(r, (vals, idx))| {
        let split = cut.split(r, cols);
        let mut sink = Sink::Append(vals, idx, 0);
        // SAFETY: the caller's contract; rows are disjoint.
        unsafe {
            passing(isa, &s, r, 0..split, cut.upto, &mut sink);
            passing(isa, &s, r, split..cols, cut.beyond, &mut sink);
        }
    });
    Ok(())
}

/// `y = x` where the rule lets it pass, else 0; `y` may be `x`.
///
/// # Safety
/// The operands are live and of one shape, nobody else touches `y`, and the machine has `isa`.
pub unsafe fn gate(isa: Isa, s: Selection<'_>, y: Rows<f32>) {
    let cut = match s.rule {
        // SAFETY: the caller's contract.
        Rule::Tau { .. } => unsafe { s.count(isa).1 },
        _ => Cut { upto: 0.0, beyond: 0.0, at: (0, 0) },
    };
    let cols = s.x.cols;
    (0..s.x.rows).into_par_iter().with_min_len(8).for_each(|r| {
        let split = cut.split(r, cols);
        let mut sink = Sink::Dense(y.row_ptr(r));
        // SAFETY: the caller's contract; rows are disjoint.
        unsafe {
            passing(isa, &s, r, 0..split, cut.upto, &mut sink);
            passing(isa, &s, r, split..cols, cut.beyond, &mut sink);
        }
    });
}

/// The learned thresholds of a JumpReLU gate and where their gradient goes.
#[derive(Debug)]
pub struct Jump<'a> {
    /// θ, one a column.
    pub theta: &'a [f32],
    /// Width of the window around θ in which the gradient of θ is taken.
    pub window: f32,
    /// Gradient of θ, added to.
    pub dtheta: &'a mut [f32],
}

/// Columns of one task of a reduction over rows.
const STRIP: usize = 256;

/// Gradient of a gate without τ: `dx = df` where `g = x·scale > max(θ, 0)`, else 0 (`dx` may be `df`), and
/// `dtheta += Σ_rows df·(−θ/window)/scale` where `|g − θ| < window/2` and `g > 0`.
///
/// # Safety
/// The operands are live and of one shape, nobody else touches the outputs, and the machine has `isa`.
pub unsafe fn gate_grad(
    isa: Isa,
    x: Rows<f32>,
    scale: Option<&[f32]>,
    mut jump: Option<Jump<'_>>,
    df: Rows<f32>,
    dx: Rows<f32>,
) {
    let (theta, window) = jump.as_ref().map_or((None, 0.0), |j| (Some(j.theta), j.window));
    let strip = |c: usize, dtheta: Option<&mut [f32]>| {
        // SAFETY: the caller's contract; strips are disjoint.
        unsafe { grad_strip(isa, x, scale, theta, window, df, dx, c..(c + STRIP).min(x.cols), dtheta) }
    };
    match &mut jump {
        Some(j) => {
            j.dtheta.par_chunks_mut(STRIP).enumerate().for_each(|(i, d)| strip(i * STRIP, Some(d)));
        }
        None => (0..x.cols.div_ceil(STRIP)).into_par_iter().for_each(|i| strip(i * STRIP, None)),
    }
}

per_isa! {
    unsafe fn grad_strip<S>(
        x: Rows<f32>,
        scale: Option<&[f32]>,
        theta: Option<&[f32]>,
        window: f32,
        df: Rows<f32>,
        dx: Rows<f32>,
        cols: Range<usize>,
        dtheta: Option<&mut [f32]>,
    ) {
        // Sums of this batch alone: one rounding when they are added to what was there.
        let mut sum = [0.0f32; STRIP];
        for r in 0..x.rows {
            for c in cols.clone().step_by(S::N) {
                let n = S::N.min(cols.end - c);
                // SAFETY: vectors stay inside the strip.
                unsafe {
                    let x = S::load_upto(x.row_ptr(r).add(c), n);
                    let g = scale.map_or(x, |k| S::mul(x, S::load_upto(k.as_ptr().add(c), n)));
                    let d = S::load_upto(df.row_ptr(r).add(c), n);
                    let zero = S::splat(0.0);
                    let positive = S::gt(g, zero);
                    let mut pass = positive;
                    if let Some(t) = theta {
                        let t = S::load_upto(t.as_ptr().add(c), n);
                        pass &= S::gt(g, t);
                        let (half, minus) = (S::splat(0.5 * window), S::splat(-1.0));
                        let near = S::gt(half, S::fma(minus, t, g)) & S::gt(half, S::fma(minus, g, t));
                        let at = sum.as_mut_ptr().add(c - cols.start);
                        let old = S::load_upto(at, n);
                        S::store_upto(at, n, S::add(old, S::keep(near & positive, d)));
                    }
                    S::store_upto(dx.row_ptr(r).add(c), n, S::keep(pass, d));
                }
            }
        }
        if let (Some(theta), Some(dtheta)) = (theta, dtheta) {
            for (i, d) in dtheta.iter_mut().enumerate() {
                let c = cols.start + i;
                *d -= sum[i] * (theta[c] / window) / scale.map_or(1.0, |s| s[c]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
