//! Selection and gates. Values are copied and indices decided on f32, so everything here is exact but the threshold gradient.

use super::{CLOSE, EXACT, Table, tag};
use crate::conformance::build::{Build, Rng};
use lm_saes_runtime::{
    Op,
    op::{self, Mat, Sparse},
};

/// What the values of a selection look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Values {
    /// Normal: all different, half positive.
    Normal,
    /// A handful of values, so that most decisions are ties.
    Ties,
    /// NaN, infinities, zeros of both signs, subnormals among normal values.
    Special,
    /// Nothing positive.
    Negative,
    /// Everything equal.
    Constant,
}

impl Values {
    const ALL: [Self; 5] = [Self::Normal, Self::Ties, Self::Special, Self::Negative, Self::Constant];

    fn draw(self, r: &mut Rng) -> f32 {
        let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, f32::MAX];
        match self {
            Self::Normal => r.normal(),
            Self::Ties => r.below(5) as f32 - 1.0,
            Self::Special => specials.get(r.below(20) as usize).copied().unwrap_or_else(|| r.normal()),
            Self::Negative => -r.normal().abs(),
            Self::Constant => 0.5,
        }
    }
}

/// A selection's x, scale and mask.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) shape: (u64, u64),
    pub(super) values: Values,
    pub(super) scaled: bool,
    pub(super) masked: bool,
}

impl Choice {
    fn name(&self) -> String {
        let (rows, cols) = self.shape;
        let (scaled, masked) = (tag(self.scaled, " scale"), tag(self.masked, " mask"));
        format!("[{rows}, {cols}] {:?}{scaled}{masked}", self.values)
    }

    fn operands(&self, b: &mut Build) -> (Mat, Mat, Mat) {
        let (values, cols) = (self.values, self.shape.1);
        let x = b.input("x", self.shape, |r, _| values.draw(r));
        // With ties the scale must keep them: powers of two.
        let scale = b.when(self.scaled, |b| {
            b.input("scale", (1, cols), |r, _| {
                if values == Values::Ties { 2f32.powi(r.below(3) as i32) } else { r.uniform(0.5, 2.0) }
            })
        });
        let mask = b.when(self.masked, |b| b.input("mask", (1, cols), |r, _| u8::from(r.below(3) > 0)));
        (x, scale, mask)
    }

    fn all() -> Vec<Self> {
        let mut list = Vec::new();
        for shape in [(1, 1), (5, 7), (3, 63), (9, 64), (4, 65), (2, 1000), (0, 9), (9, 0)] {
            for values in Values::ALL {
                for (scaled, masked) in [(false, false), (true, false), (false, true), (true, true)] {
                    list.push(Self { shape, values, scaled, masked });
                }
            }
        }
        list
    }
}

pub(super) fn topk(t: &mut Table) {
    for c in Choice::all() {
        let cols = c.shape.1;
        for k in [0, 1, 7, cols, cols + 3] {
            t.add("TopK", format!("{} k {k}", c.name()), EXACT, move |b| topk_case(b, c, k));
        }
    }
    // By magnitude, and the best of each of several runs of columns.
    for (shape, groups) in
        [((5, 7), 7), ((9, 64), 4), ((3, 6144), 48), ((2, 1000), 1), ((0, 9), 3), ((4, 0), 2)]
    {
        for values in Values::ALL {
            for (scaled, masked, abs) in [(false, false, true), (true, true, true), (true, true, false)] {
                for share in [0, 1, 3] {
                    let c = Choice { shape, values, scaled, masked };
                    let what =
                        format!("{} k {} groups {groups}{}", c.name(), share * groups, tag(abs, " abs"));
                    t.add("TopK", what, EXACT, move |b| topk_by_case(b, c, share * groups, groups, abs));
                }
            }
        }
    }
    // The widths and counts of real dictionaries, where fast paths live.
    for (cols, k) in [(4608, 50), (6144, 50), (6144, 32), (24576, 64), (8200, 500), (16384, 1)] {
        for values in [Values::Normal, Values::Ties, Values::Special, Values::Negative] {
            for (scaled, masked) in [(false, false), (true, true)] {
                let c = Choice { shape: (3, cols), values, scaled, masked };
                t.add("TopK", format!("{} k {k}", c.name()), EXACT, move |b| topk_case(b, c, k));
            }
        }
    }
}

pub(super) fn topk_case(b: &mut Build, c: Choice, k: u64) -> Op {
    topk_by_case(b, c, k, 1, false)
}

pub(super) fn topk_by_case(b: &mut Build, c: Choice, k: u64, groups: u64, abs: bool) -> Op {
    let (x, scale, mask) = c.operands(b);
    let vals = b.output::<f32>("vals", (c.shape.0, k));
    let idx = b.output::<u32>("idx", (c.shape.0, k));
    Op::TopK(op::TopK { x, scale, mask, vals, idx, groups, abs: abs.into() })
}

pub(super) fn threshold(t: &mut Table) {
    for c in Choice::all() {
        for k in [0, 1, 7, 40, c.shape.0 * c.shape.1 + 1] {
            t.add("Threshold", format!("{} k {k}", c.name()), EXACT, move |b| threshold_case(b, c, k));
        }
    }
    for values in [Values::Normal, Values::Ties, Values::Special] {
        let c = Choice { shape: (64, 3000), values, scaled: true, masked: false };
        for k in [1, 3200, 90_000] {
            t.add("Threshold", format!("{} k {k}", c.name()), EXACT, move |b| threshold_case(b, c, k));
        }
    }
}

pub(super) fn threshold_case(b: &mut Build, c: Choice, k: u64) -> Op {
    let (x, scale, mask) = c.operands(b);
    Op::Threshold(op::Threshold { x, scale, mask, out: b.output::<u32>("out", (1, 2)), k })
}

/// What a gate compares with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bar {
    Zero,
    /// A threshold a column; some equal values that occur.
    Theta,
    /// A global threshold of this value and count of ties.
    Global(f32, u32),
}

impl Bar {
    const ALL: [Self; 6] = [
        Self::Zero,
        Self::Theta,
        Self::Global(0.0, 0),
        Self::Global(1.0, 3),
        Self::Global(0.5, 9),
        Self::Global(f32::INFINITY, 0),
    ];

    fn operands(self, b: &mut Build, cols: u64) -> (Mat, Mat) {
        match self {
            Self::Zero => (Mat::NONE, Mat::NONE),
            Self::Theta => (b.input("theta", (1, cols), |r, _| r.below(4) as f32 * 0.5), Mat::NONE),
            Self::Global(tau, ties) => {
                let words = [tau.to_bits(), ties];
                (Mat::NONE, b.input("thr", (1, 2), |_, i| words[i as usize]))
            }
        }
    }
}

pub(super) fn compact_and_gate(t: &mut Table) {
    for c in Choice::all() {
        for bar in Bar::ALL {
            t.add("Compact", format!("{} {bar:?}", c.name()), EXACT, move |b| {
                compact_case(b, c, bar, c.shape.0 * c.shape.1)
            });
            if !c.masked {
                for in_place in [false, true] {
                    let what = format!("{} {bar:?}{}", c.name(), tag(in_place, " in place"));
                    t.add("Gate", what, EXACT, move |b| gate_case(b, c, bar, in_place));
                }
            }
        }
    }
    let full = Choice { shape: (4, 30), values: Values::Constant, scaled: false, masked: false };
    t.add("Compact", "exactly full".into(), EXACT, move |b| compact_case(b, full, Bar::Zero, 120));
    for capacity in [0, 1, 63, 119] {
        let what = format!("120 entries into a capacity of {capacity}");
        t.add_failing("Compact", &what, move |b| compact_case(b, full, Bar::Zero, capacity));
    }
}

pub(super) fn compact_case(b: &mut Build, c: Choice, bar: Bar, capacity: u64) -> Op {
    let (x, scale, mask) = c.operands(b);
    let (theta, thr) = bar.operands(b, c.shape.1);
    let (rows, n) = c.shape;
    let vals = b.output::<f32>("vals", (1, capacity));
    let idx = b.output::<u32>("idx", (1, capacity));
    let ptr = b.output::<u32>("ptr", (1, rows + 1));
    b.defined_by(vals, ptr, rows);
    b.defined_by(idx, ptr, rows);
    Op::Compact(op::Compact { x, scale, mask, theta, thr, y: Sparse { vals, idx, ptr, rows, n } })
}

fn gate_case(b: &mut Build, c: Choice, bar: Bar, in_place: bool) -> Op {
    let (mut x, scale, _) = c.operands(b);
    let (theta, thr) = bar.operands(b, c.shape.1);
    if in_place {
        x = b.update("y", c.shape, |r, _| c.values.draw(r));
    }
    let y = if in_place { x } else { b.result("y", c.shape, false) };
    Op::Gate(op::Gate { x, scale, theta, thr, y })
}

pub(super) fn gate_grad(t: &mut Table) {
    // A NaN or infinite x decides; it never enters the sums.
    for c in Choice::all().into_iter().filter(|c| !c.masked) {
        for (theta, in_place) in [(false, false), (false, true), (true, false), (true, true)] {
            let what = format!("{}{}{}", c.name(), tag(theta, " theta"), tag(in_place, " in place"));
            t.add("GateGrad", what, CLOSE, move |b| gate_grad_case(b, c, theta, in_place));
        }
    }
    let tall = Choice { shape: (700, 70), values: Values::Normal, scaled: true, masked: false };
    t.add("GateGrad", format!("{} theta", tall.name()), CLOSE, move |b| gate_grad_case(b, tall, true, false));
}

pub(super) fn gate_grad_case(b: &mut Build, c: Choice, jump: bool, in_place: bool) -> Op {
    let (x, scale, _) = c.operands(b);
    let cols = c.shape.1;
    let theta = b.when(jump, |b| b.input("theta", (1, cols), |r, _| r.below(4) as f32 * 0.5));
    let dtheta = b.when(jump, |b| b.result("dtheta", (1, cols), true));
    let df = if in_place { b.update("dx", c.shape, |r, _| r.normal()) } else { b.normal("df", c.shape) };
    let dx = if in_place { df } else { b.result("dx", c.shape, false) };
    Op::GateGrad(op::GateGrad { x, scale, theta, df, dx, dtheta, window: if jump { 1.0 } else { 0.0 } })
}
