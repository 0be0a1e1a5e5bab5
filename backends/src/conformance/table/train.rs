//! Penalties, dead-feature bookkeeping, the optimiser, random numbers.

use super::{CLOSE, EXACT, Table, WIDTHS, sparse, tag};
use crate::conformance::build::{Build, Codes, Rng};
use lm_saes_runtime::{
    DType, Op, PenaltyKind, RandomKind,
    op::{self, Mat, Sparse},
};

/// Dense codes with exact zeros; `None` columns of a shape mean the sparse form.
fn dense_codes(b: &mut Build, shape: (u64, u64)) -> Sparse {
    let value = |r: &mut Rng, _| if r.below(3) == 0 { r.uniform(0.01, 2.0) } else { 0.0 };
    let vals = b.input("vals", shape, value);
    Sparse { vals, idx: Mat::NONE, ptr: Mat::NONE, rows: shape.0, n: shape.1 }
}

/// Optional operands of a penalty.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub(super) scale: bool,
    pub(super) weight: bool,
    pub(super) colgain: bool,
    pub(super) out: bool,
}

pub(super) fn penalty(t: &mut Table) {
    for &(kind, name) in PenaltyKind::ALL {
        let powers = match kind {
            PenaltyKind::Power => &[1.0, 1.5, 2.0][..],
            PenaltyKind::PowerSum => &[1.0, 0.3, 2.0],
            _ => &[1.0],
        };
        for p in powers {
            for bits in 0..16 {
                let f = Factors {
                    scale: bits & 1 > 0,
                    weight: bits & 2 > 0,
                    colgain: bits & 4 > 0,
                    out: bits & 8 > 0,
                };
                if f.colgain && [PenaltyKind::Power, PenaltyKind::PowerSum].contains(&kind) {
                    continue;
                }
                let factors = format!(
                    "{name} {p}{}{}{}{}",
                    tag(f.scale, " scale"),
                    tag(f.weight, " weight"),
                    tag(f.colgain, " colgain"),
                    tag(f.out, " out")
                );
                penalty_shapes(t, kind, *p, f, &factors);
            }
        }
    }
}

fn penalty_shapes(t: &mut Table, kind: PenaltyKind, p: f32, f: Factors, factors: &str) {
    for shape in [(1, 1), (7, 65), (3, 200), (0, 5), (5, 0)] {
        t.add("Penalty", format!("{factors} dense {shape:?}"), CLOSE, move |b| {
            let codes = dense_codes(b, shape);
            penalty_case(b, kind, p, f, codes)
        });
    }
    for &(ragged, holes, later) in &sparse::KINDS[1..] {
        for (rows, k, n) in [(1, 1, 1), (9, 7, 65), (4, 12, 9), (0, 3, 4)] {
            let c = Codes { rows, k, n, ragged, holes, later };
            t.add("Penalty", format!("{factors} {}", sparse::name(c)), CLOSE, move |b| {
                let (codes, _) = b.codes(c);
                penalty_case(b, kind, p, f, codes)
            });
        }
    }
}

pub(super) fn penalty_case(b: &mut Build, kind: PenaltyKind, p: f32, f: Factors, codes: Sparse) -> Op {
    let scale = b.when(f.scale, |b| b.uniform("scale", (1, codes.n), 0.5, 2.0));
    let weight = b.when(f.weight, |b| b.uniform("weight", (codes.rows, 1), 0.0, 1.0));
    let colgain = b.when(f.colgain, |b| b.uniform("colgain", (1, codes.n), 0.5, 2.0));
    let out = b.when(f.out, |b| b.result("out", (codes.rows, 1), false));
    let shape = (codes.vals.rows, codes.vals.cols);
    if codes.idx.is_some() {
        b.contiguous();
    }
    let du = b.result("du", shape, false);
    // 1 − tanh² is a small difference of numbers near 1 where tanh saturates.
    b.of_size(1.0);
    if codes.ptr.is_some() {
        b.defined_by(du, codes.ptr, codes.rows);
    }
    Op::Penalty(op::Penalty { kind, codes, scale, weight, colgain, out, du, p, c: 4.0 })
}

pub(super) fn threshold_penalty(t: &mut Table) {
    for shape in [(1, 1), (7, 65), (65, 63), (300, 8), (0, 5), (5, 0)] {
        for bits in 0..16 {
            let (scaled, gated) = (bits & 1 > 0, bits & 2 > 0);
            let (dx, columns) = (bits & 4 > 0, bits & 8 > 0);
            let what = format!(
                "{shape:?}{}{}{}{}",
                tag(scaled, " scale"),
                tag(gated, " gated"),
                tag(dx, " dx"),
                tag(columns, " dtheta dn")
            );
            t.add("ThresholdPenalty", what, CLOSE, move |b| {
                threshold_penalty_case(b, shape, scaled, gated, (dx, columns))
            });
        }
    }
}

pub(super) fn threshold_penalty_case(
    b: &mut Build,
    shape: (u64, u64),
    scaled: bool,
    gated: bool,
    (with_dx, with_columns): (bool, bool),
) -> Op {
    let (rows, cols) = shape;
    let x = b.normal("x", shape);
    let scale = b.when(scaled, |b| b.uniform("scale", (1, cols), 0.5, 2.0));
    let theta = b.uniform("theta", (1, cols), 0.0, 1.0);
    let weight = b.uniform("weight", (rows, 1), 0.0, 1.0);
    let out = b.result("out", (rows, 1), false);
    let dx = b.when(with_dx, |b| b.result("dx", shape, true));
    let dtheta = b.when(with_columns, |b| b.result("dtheta", (1, cols), true));
    let dn = b.when(with_columns, |b| b.result("dn", (1, cols), true));
    let gated = gated.into();
    Op::ThresholdPenalty(op::ThresholdPenalty { x, scale, theta, weight, out, dx, dtheta, dn, gated })
}

pub(super) fn activity_and_age(t: &mut Table) {
    for masked in [false, true] {
        for shape in [(1, 1), (9, 65), (130, 7), (0, 5), (5, 0)] {
            t.add("Activity", format!("dense {shape:?}{}", tag(masked, " mask")), EXACT, move |b| {
                let codes = dense_codes(b, shape);
                activity_case(b, codes, masked)
            });
        }
        for (c, width) in sparse::shapes() {
            if width == 1 {
                let what = format!("{}{}", sparse::name(c), tag(masked, " mask"));
                t.add("Activity", what, EXACT, move |b| {
                    let (codes, _) = b.codes(c);
                    activity_case(b, codes, masked)
                });
            }
        }
    }
    for cols in WIDTHS {
        for limit in [0, 1, 100, u32::MAX] {
            t.add("Age", format!("[1, {cols}] limit {limit}"), EXACT, move |b| age_case(b, cols, limit));
        }
    }
}

pub(super) fn activity_case(b: &mut Build, codes: Sparse, masked: bool) -> Op {
    let mask = b.when(masked, |b| b.input("mask", (1, codes.rows), |r, _| u8::from(r.below(3) > 0)));
    let fired = b.update("fired", (1, codes.n), |r, _| r.below(1000) as u32);
    Op::Activity(op::Activity { codes, mask, fired })
}

pub(super) fn age_case(b: &mut Build, cols: u64, limit: u32) -> Op {
    let fired = b.input("fired", (1, cols), |r, _| r.below(3) as u32);
    let since =
        b.update("since", (1, cols), |r, i| if i % 7 == 3 { u32::MAX - 2 } else { r.below(150) as u32 });
    Op::Age(op::Age { fired, since, dead: b.output::<u8>("dead", (1, cols)), tokens: 50, limit })
}

/// Optional parts of an Adam case.
#[derive(Clone, Copy)]
pub(super) struct Update {
    pub(super) shape: (u64, u64),
    pub(super) sparse: bool,
    pub(super) low: Option<DType>,
    pub(super) stats: bool,
    pub(super) grad_scale: f32,
}

pub(super) fn adam(t: &mut Table) {
    for shape in [(1, 1), (1, 65), (7, 63), (3, 1000), (70, 300), (0, 4)] {
        for sparse in [false, true] {
            for low in [None, Some(DType::BF16), Some(DType::F16)] {
                for (stats, grad_scale) in [(false, 1.0), (true, 1.0), (true, 0.25)] {
                    let u = Update { shape, sparse, low, stats, grad_scale };
                    let what = format!(
                        "{shape:?}{} low {low:?}{} grad_scale {grad_scale}",
                        tag(sparse, " sparse"),
                        tag(stats, " stats")
                    );
                    t.add("Adam", what, CLOSE, move |b| adam_case(b, u));
                }
            }
        }
    }
}

pub(super) fn adam_case(b: &mut Build, u: Update) -> Op {
    let p = b.update("p", u.shape, |r, _| r.normal());
    let m = b.update("m", u.shape, |r, _| 0.1 * r.normal());
    let v = b.update("v", u.shape, |r, _| r.uniform(1e-6, 0.1));
    let g = b.input("g", u.shape, |r, _| if r.below(3) == 0 { 0.0 } else { r.normal() });
    let low = match u.low {
        Some(dtype) => b.float_output("low", u.shape, dtype),
        None => Mat::NONE,
    };
    if u.low.is_some() {
        // A last-bit difference of p may round to the neighbouring bf16 (8 bits).
        b.with_tolerance(1.0 / 128.0);
    }
    let stats = b.when(u.stats, |b| b.result("stats", (1, 2), false));
    Op::Adam(op::Adam {
        p,
        m,
        v,
        g,
        low,
        stats,
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        bc1: 0.271,
        bc2: 0.002_997,
        grad_scale: u.grad_scale,
        sparse: u.sparse.into(),
    })
}

pub(super) fn random(t: &mut Table) {
    for (rows, cols) in [(1, 1), (3, 7), (5, 64), (9, 65), (0, 3), (3, 0)] {
        for offset in [0, 1, 3, 1 << 33] {
            for (kind, name, tolerance) in
                [(RandomKind::Uniform, "Uniform", 1e-6), (RandomKind::Normal, "Normal", 1e-6)]
            {
                let what = format!("{name} [{rows}, {cols}] from {offset}");
                t.add("Random", what, tolerance, move |b| random_case(b, kind, (rows, cols), offset));
            }
        }
    }
}

pub(super) fn random_case(b: &mut Build, kind: RandomKind, shape: (u64, u64), offset: u64) -> Op {
    let y = b.result("y", shape, false);
    Op::Random(op::Random { kind, y, a: -0.5, b: 1.5, seed: 0x1234_5678_9ABC_DEF0, offset })
}
