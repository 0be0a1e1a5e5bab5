//! The pieces of a transformer: normalisation, cross-entropy, rotary embedding, attention.

use super::{CLOSE, Table, tag};
use crate::conformance::build::{Build, Rng};
use lm_saes_runtime::{Op, op};

#[derive(Clone, Copy)]
pub(super) struct Normalise {
    pub(super) shape: (u64, u64),
    pub(super) rms: bool,
    pub(super) affine: bool,
    pub(super) scale: bool,
    pub(super) in_place: bool,
    pub(super) centre: f32,
}

impl Normalise {
    pub(super) fn build(&self, b: &mut Build) -> Op {
        let cols = self.shape.1;
        let centre = self.centre;
        let value = move |r: &mut Rng, _| centre + r.normal();
        let x =
            if self.in_place { b.update("x", self.shape, value) } else { b.input("x", self.shape, value) };
        let gain = b.when(self.affine, |b| b.uniform("gain", (1, cols), 0.5, 1.5));
        let bias = b.when(self.affine, |b| b.normal("bias", (1, cols)));
        let y = if self.in_place { x } else { b.result("y", self.shape, false) };
        let scale = b.when(self.scale, |b| b.result("scale", (self.shape.0, 1), false));
        let gain_offset = if self.rms && self.affine { 1.0 } else { 0.0 };
        Op::Norm(op::Norm { x, gain, bias, y, scale, eps: 1e-5, gain_offset, rms: self.rms.into() })
    }
}

pub(super) fn norm(t: &mut Table) {
    for rms in [false, true] {
        let kind = if rms { "rms" } else { "layer" };
        for (rows, cols) in [(1, 1), (5, 7), (3, 63), (2, 64), (65, 65), (4, 768), (0, 8)] {
            for bits in 0..8 {
                let n = Normalise {
                    shape: (rows, cols),
                    rms,
                    affine: bits & 1 > 0,
                    scale: bits & 2 > 0,
                    in_place: bits & 4 > 0,
                    centre: 0.0,
                };
                let what = format!(
                    "{kind} [{rows}, {cols}]{}{}{}",
                    tag(n.affine, " affine"),
                    tag(n.scale, " scale"),
                    tag(n.in_place, " in place")
                );
                t.add("Norm", what, CLOSE, move |b| n.build(b));
            }
        }
        // The spread is a thousandth of the mean: a one-pass variance in f32 would lose it.
        let far =
            Normalise { shape: (3, 500), rms, affine: false, scale: true, in_place: false, centre: 1000.0 };
        t.add("Norm", format!("{kind} far from zero"), 1e-3, move |b| far.build(b));
    }
}

pub(super) fn cross_entropy(t: &mut Table) {
    for vocabulary in [1, 7, 64, 65, 1000] {
        for size in [1.0, 1e4] {
            let what = format!("[9, {vocabulary}] logits of size {size}");
            t.add("CrossEntropy", what, CLOSE, move |b| entropy(b, 9, vocabulary, size, vocabulary));
        }
    }
    t.add("CrossEntropy", "empty batch".into(), CLOSE, |b| entropy(b, 0, 9, 1.0, 9));
    t.add("CrossEntropy", "NaN and -inf logits".into(), CLOSE, |b| {
        let logits = b.input("logits", (3, 20), |r, i| match i {
            5 => f32::NAN,
            25 | 33 => f32::NEG_INFINITY,
            _ => r.normal(),
        });
        let target = b.input("target", (1, 3), |_, i| [3, 4, 13][i as usize]);
        Op::CrossEntropy(op::CrossEntropy { logits, target, loss: b.result("loss", (1, 3), false) })
    });
    t.add_failing("CrossEntropy", "a target past the vocabulary", |b| entropy(b, 4, 9, 1.0, 10));
}

/// The last target is `largest − 1`, every fourth is ignored.
pub(super) fn entropy(b: &mut Build, rows: u64, vocabulary: u64, size: f32, largest: u64) -> Op {
    let logits = b.input("logits", (rows, vocabulary), |r, _| size * r.normal());
    let target = b.input("target", (1, rows), |r, i| match i {
        _ if i + 1 == rows => largest as u32 - 1,
        _ if i % 4 == 2 => u32::MAX,
        _ => r.below(vocabulary) as u32,
    });
    Op::CrossEntropy(op::CrossEntropy { logits, target, loss: b.result("loss", (1, rows), false) })
}

pub(super) fn rope(t: &mut Table) {
    for (adjacent, inverse) in [(false, false), (true, false), (false, true), (true, true)] {
        for (heads, d_head, rotary_dim) in [(1, 2, 2), (3, 16, 16), (2, 20, 6), (12, 64, 16), (2, 8, 0)] {
            for rows in [0, 1, 65] {
                let what = format!(
                    "{rows} rows, {heads} heads of {d_head}, {rotary_dim} turn{}{}",
                    tag(adjacent, " adjacent"),
                    tag(inverse, " back")
                );
                t.add("Rope", what, CLOSE, move |b| {
                    rotate(b, rows, (heads, d_head, rotary_dim), (adjacent, inverse), 40)
                });
            }
        }
    }
    let flags = (false, false);
    t.add_failing("Rope", "a position past the tables", move |b| rotate(b, 5, (2, 8, 8), flags, 41));
}

/// Tables of 40 positions; the last row is at `largest − 1`.
pub(super) fn rotate(
    b: &mut Build,
    rows: u64,
    (heads, d_head, rotary_dim): (u64, u64, u64),
    (adjacent, inverse): (bool, bool),
    largest: u64,
) -> Op {
    let x = b.update("x", (rows, heads * d_head), |r, _| r.normal());
    let pos =
        b.input("pos", (1, rows), |r, i| if i + 1 == rows { largest as u32 - 1 } else { r.below(40) as u32 });
    let angle = |i: u64| i as f32 * 0.37;
    let cos = b.contiguous().input("cos", (40, rotary_dim / 2), |_, i| angle(i).cos());
    let sin = b.contiguous().input("sin", (40, rotary_dim / 2), |_, i| angle(i).sin());
    let (adjacent, inverse) = (adjacent.into(), inverse.into());
    Op::Rope(op::Rope { x, pos, cos, sin, heads, d_head, rotary_dim, adjacent, inverse })
}

#[derive(Clone, Copy)]
pub(super) struct Attend {
    pub(super) batch: u64,
    pub(super) len: u64,
    pub(super) heads: (u64, u64),
    pub(super) d_head: u64,
    pub(super) d_value: u64,
    pub(super) window: u64,
    pub(super) soft_cap: f32,
    pub(super) pattern: bool,
}

impl Attend {
    pub(super) fn build(&self, b: &mut Build) -> Op {
        let Self { batch, len, heads: (heads, kv_heads), d_head, d_value, window, soft_cap, .. } = *self;
        let n = batch * len;
        let q = b.normal("q", (n, heads * d_head));
        let k = b.normal("k", (n, kv_heads * d_head));
        let v = b.normal("v", (n, kv_heads * d_value));
        let z = b.result("z", (n, heads * d_value), false);
        let pattern = b.when(self.pattern, |b| b.result("pattern", (n * heads, len), false));
        let scale = 1.5 / (d_head as f32).sqrt();
        Op::Attention(op::Attention {
            q,
            k,
            v,
            z,
            pattern,
            batch,
            len,
            heads,
            kv_heads,
            d_head,
            d_value,
            window,
            scale,
            soft_cap,
        })
    }
}

pub(super) fn attention(t: &mut Table) {
    let mut add = |a: Attend| {
        let what = format!(
            "batch {} len {} heads {}/{} of {}, values of {}, window {} cap {}{}",
            a.batch,
            a.len,
            a.heads.0,
            a.heads.1,
            a.d_head,
            a.d_value,
            a.window,
            a.soft_cap,
            tag(a.pattern, " pattern")
        );
        t.add("Attention", what, CLOSE, move |b| a.build(b));
    };
    for (batch, len) in [(0, 4), (3, 0), (1, 1), (2, 7), (1, 64), (2, 65)] {
        for (heads, d_head) in [((1, 1), 1), ((4, 4), 20), ((6, 2), 16), ((4, 1), 64)] {
            let plain = Attend {
                batch,
                len,
                heads,
                d_head,
                d_value: d_head,
                window: 0,
                soft_cap: 0.0,
                pattern: false,
            };
            add(Attend { d_value: 2 * d_head + 1, pattern: true, ..plain });
            add(Attend { d_value: 1, ..plain });
            add(plain);
            add(Attend { pattern: true, ..plain });
            add(Attend { window: 5, pattern: true, ..plain });
            add(Attend { window: 1, ..plain });
            add(Attend { soft_cap: 2.0, pattern: true, ..plain });
        }
    }
}

pub(super) fn attention_grad(t: &mut Table) {
    for (batch, len) in [(0, 4), (3, 0), (1, 1), (2, 7), (1, 64), (2, 65), (1, 150)] {
        for (heads, d_head, d_value) in [(1, 1, 1), (4, 20, 7), (2, 16, 33), (3, 8, 64), (2, 5, 0), (2, 0, 3)]
        {
            let what = format!("batch {batch} len {len} heads {heads} of {d_head}, values of {d_value}");
            t.add("AttentionGrad", what, CLOSE, move |b| {
                attend_grad(b, (batch, len), heads, (d_head, d_value))
            });
        }
    }
}

pub(super) fn attend_grad(
    b: &mut Build,
    (batch, len): (u64, u64),
    heads: u64,
    (d_head, d_value): (u64, u64),
) -> Op {
    let n = batch * len;
    let (narrow, wide) = ((n, heads * d_head), (n, heads * d_value));
    let q = b.normal("q", narrow);
    let k = b.normal("k", narrow);
    let v = b.normal("v", wide);
    let dz = b.normal("dz", wide);
    let dq = b.result("dq", narrow, false);
    let dk = b.result("dk", narrow, false);
    let dv = b.result("dv", wide, false);
    let scale = 1.5 / (d_head.max(1) as f32).sqrt();
    Op::AttentionGrad(op::AttentionGrad {
        q,
        k,
        v,
        dz,
        dq,
        dk,
        dv,
        batch,
        len,
        heads,
        d_head,
        d_value,
        scale,
    })
}
