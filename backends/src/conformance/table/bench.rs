//! Bench rows: the builders of the cases at the sizes of real work.

use super::{
    CLOSE, EXACT, Table,
    dense::{self, Product},
    layers::{self, Attend, Normalise},
    select::{self, Bar, Choice, Values},
    sparse,
    train::{self, Factors, Update},
};
use crate::conformance::build::Codes;
use lm_saes_runtime::{Act, DType, MapKind, Op, PenaltyKind, RandomKind, ReduceKind, op};

/// Batch, model width and dictionary size of a training step.
const B: u64 = 4096;
const D: u64 = 768;
const F: u64 = 6144;

pub(super) fn rows(t: &mut Table) {
    gemm(t);
    simple(t);
    language_model(t);
    selection(t);
    codes(t);
    training(t);
}

fn gemm(t: &mut Table) {
    for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
        let p = Product { ta, tb, ..Product::new(B, D, F) };
        let what = format!("{B}x{D}x{F}{}{}", super::tag(ta, " aT"), super::tag(tb, " bT"));
        t.add("Gemm", what, CLOSE, move |b| p.build(b));
    }
    let mlp = Product { bias: true, act: Act::GeluErf, tb: true, ..Product::new(B, D, 4 * D) };
    t.add("Gemm", format!("{B}x{D}x{} bT bias gelu", 4 * D), CLOSE, move |b| mlp.build(b));
    let bf16 = Product { tb: true, types: (DType::F32, DType::BF16), ..Product::new(B, D, D) };
    t.add("Gemm", format!("{B}x{D}x{D} bT b bf16"), CLOSE, move |b| bf16.build(b));
}

fn simple(t: &mut Table) {
    t.add("Fill", format!("[{B}, {D}]"), EXACT, |b| {
        Op::Fill(op::Fill { y: b.output::<f32>("y", (B, D)), value: 1.0 })
    });
    t.add("Copy", format!("[{B}, {D}] bf16 to f32"), EXACT, |b| {
        let x = b.floats("x", (B, D), DType::BF16);
        Op::Copy(op::Copy { x, y: b.output::<f32>("y", (B, D)) })
    });
    t.add("Gather", format!("{B} rows of {D}"), EXACT, |b| dense::gather(b, DType::F32, B, D, 17));
    for kind in [MapKind::Add, MapKind::GeluErf, MapKind::SiluMul] {
        let form = if kind == MapKind::GeluErf { "" } else { "full" };
        t.add("Map", format!("[{B}, {D}] kind {}", kind.0), CLOSE, move |b| {
            dense::map_case(b, kind, (B, D), form, false, &mut |r| r.uniform(-3.0, 3.0))
        });
    }
    for by_row in [false, true] {
        t.add("Reduce", format!("SumSq [{B}, {D}] by_row {by_row}"), CLOSE, move |b| {
            dense::reduce_case(b, ReduceKind::SumSq, by_row, (B, D), false, 0.0, &mut |r| {
                r.uniform(-1.0, 1.0)
            })
        });
    }
    t.add("Random", format!("Normal [{B}, {D}]"), CLOSE, |b| {
        train::random_case(b, RandomKind::Normal, (B, D), 0)
    });
}

fn language_model(t: &mut Table) {
    for rms in [false, true] {
        let n = Normalise { shape: (B, D), rms, affine: true, scale: false, in_place: false, centre: 0.0 };
        t.add("Norm", format!("[{B}, {D}] rms {rms}"), CLOSE, move |b| n.build(b));
    }
    t.add("CrossEntropy", "[256, 50304]".into(), CLOSE, |b| layers::entropy(b, 256, 50304, 1.0, 50304));
    t.add("Rope", format!("{B} rows, 12 heads of 64"), CLOSE, |b| {
        layers::rotate(b, B, (12, 64, 64), (false, false), 40)
    });
    let a = Attend {
        batch: 16,
        len: 256,
        heads: (12, 12),
        d_head: 64,
        d_value: 64,
        window: 0,
        soft_cap: 0.0,
        pattern: false,
    };
    t.add("Attention", "16 x 256, 12 heads of 64".into(), CLOSE, move |b| a.build(b));
    let shared = Attend { d_value: F / 12, ..a };
    t.add("Attention", format!("16 x 256, 12 heads of 64, values of {}", F / 12), CLOSE, move |b| {
        shared.build(b)
    });
    t.add("AttentionGrad", format!("16 x 256, 12 heads of 64, values of {}", F / 12), CLOSE, |b| {
        layers::attend_grad(b, (16, 256), 12, (64, F / 12))
    });
}

fn selection(t: &mut Table) {
    let c = Choice { shape: (B, F), values: Values::Normal, scaled: false, masked: false };
    t.add("TopK", format!("[{B}, {F}] k 50"), EXACT, move |b| select::topk_case(b, c, 50));
    let scaled = Choice { scaled: true, ..c };
    t.add("TopK", format!("[{B}, {F}] k 50 abs"), EXACT, move |b| select::topk_by_case(b, c, 50, 1, true));
    t.add("TopK", format!("[{B}, {F}] k 64 of 64 groups"), EXACT, move |b| {
        select::topk_by_case(b, c, 64, 64, false)
    });
    t.add("Threshold", format!("[{B}, {F}] k {}", 50 * B), EXACT, move |b| {
        select::threshold_case(b, scaled, 50 * B)
    });
    let high = Bar::Global(2.4, 0);
    t.add("Compact", format!("[{B}, {F}]"), EXACT, move |b| select::compact_case(b, c, high, 60 * B));
    t.add("GateGrad", format!("[{B}, {F}] theta"), CLOSE, move |b| select::gate_grad_case(b, c, true, false));
}

fn codes(t: &mut Table) {
    let c = Codes { rows: B, k: 50, n: F, ragged: false, holes: false, later: false };
    t.add("SparseMul", format!("{B} x 50 in {F} x {D}"), CLOSE, move |b| sparse::mul(b, c, D, true, 0.0));
    t.add("SparseDot", format!("{B} x 50 in {F} x {D}"), CLOSE, move |b| sparse::dot(b, c, D));
    t.add("Scatter", format!("{B} x 50 in {F}"), CLOSE, move |b| sparse::scatter(b, c, 0.0));
    t.add("Confine", format!("{B} x 50 in {F}"), EXACT, move |b| sparse::confine(b, c, 0, F / 4));
    t.add("SortByColumn", format!("{B} x 50 in {F}"), EXACT, move |b| sparse::sort(b, c));
    t.add("SparseOuter", format!("{B} x 50 in {F} x {D}"), CLOSE, move |b| sparse::outer(b, c, D, 0.0));
    t.add("Activity", format!("{B} x 50 in {F}"), EXACT, move |b| {
        let (codes, _) = b.codes(c);
        train::activity_case(b, codes, true)
    });
    let f = Factors { scale: true, weight: true, colgain: false, out: true };
    t.add("Penalty", format!("PowerSum {B} x 50 in {F}"), CLOSE, move |b| {
        let (codes, _) = b.codes(c);
        train::penalty_case(b, PenaltyKind::PowerSum, 0.5, f, codes)
    });
    t.add("Penalty", format!("Power {B} x 50 in {F}"), CLOSE, move |b| {
        let (codes, _) = b.codes(c);
        train::penalty_case(b, PenaltyKind::Power, 1.0, f, codes)
    });
}

fn training(t: &mut Table) {
    t.add("ThresholdPenalty", format!("[{B}, {F}]"), CLOSE, |b| {
        train::threshold_penalty_case(b, (B, F), true, true, (true, true))
    });
    t.add("Age", format!("[1, {F}]"), EXACT, |b| train::age_case(b, F, 100));
    let u = Update { shape: (F, D), sparse: false, low: None, stats: true, grad_scale: 0.5 };
    t.add("Adam", format!("[{F}, {D}]"), CLOSE, move |b| train::adam_case(b, u));
}
