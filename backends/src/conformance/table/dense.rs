//! Products, movement, elementwise forms, reductions.

use super::{CLOSE, EXACT, Table, WIDTHS, tag};
use crate::conformance::build::{Build, Rng};
use half::{bf16, f16};
use lm_saes_runtime::{
    Act, DType, MapKind, Op, ReduceKind,
    op::{self, Mat},
};

const FLOATS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Parameters of a product.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) mkn: (u64, u64, u64),
    pub(super) ta: bool,
    pub(super) tb: bool,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) bias: bool,
    pub(super) act: Act,
    pub(super) types: (DType, DType),
}

impl Product {
    pub(super) fn new(m: u64, k: u64, n: u64) -> Self {
        Self {
            mkn: (m, k, n),
            ta: false,
            tb: false,
            alpha: 1.0,
            beta: 0.0,
            bias: false,
            act: Act::None,
            types: (DType::F32, DType::F32),
        }
    }

    fn name(&self) -> String {
        let (m, k, n) = self.mkn;
        let act = Act::ALL.iter().find(|(a, _)| *a == self.act).map_or("", |(_, name)| name);
        format!(
            "{m}x{k}x{n}{}{} {}·{} alpha {} beta {}{} act {act}",
            tag(self.ta, " aT"),
            tag(self.tb, " bT"),
            self.types.0,
            self.types.1,
            self.alpha,
            self.beta,
            tag(self.bias, " bias"),
        )
    }

    pub(super) fn build(&self, b: &mut Build) -> Op {
        let (m, k, n) = self.mkn;
        let a = b.floats("a", if self.ta { (k, m) } else { (m, k) }, self.types.0);
        let w = b.floats("b", if self.tb { (n, k) } else { (k, n) }, self.types.1);
        let bias = b.when(self.bias, |b| b.normal("bias", (1, n)));
        let c = b.result("c", (m, n), self.beta != 0.0);
        self.op(a, w, c, bias)
    }

    fn op(&self, a: Mat, b: Mat, c: Mat, bias: Mat) -> Op {
        Op::Gemm(op::Gemm {
            a,
            b,
            c,
            bias,
            alpha: self.alpha,
            beta: self.beta,
            ta: self.ta.into(),
            tb: self.tb.into(),
            act: self.act,
            batch: 1,
            stride_a: 0,
            stride_b: 0,
            stride_c: 0,
        })
    }
}

pub(super) fn gemm(t: &mut Table) {
    let shapes = [
        (1, 1, 1),
        (7, 65, 63),
        (64, 64, 64),
        (65, 7, 1),
        (1, 300, 129),
        (63, 0, 5),
        (0, 8, 8),
        (5, 8, 0),
        (130, 100, 129),
        (33, 520, 70),
    ];
    let mut add = |p: Product| t.add("Gemm", p.name(), CLOSE, move |b| p.build(b));
    for (m, k, n) in shapes {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            add(Product { ta, tb, ..Product::new(m, k, n) });
        }
        add(Product { bias: true, alpha: -0.5, ..Product::new(m, k, n) });
        add(Product { bias: true, beta: 0.75, tb: true, ..Product::new(m, k, n) });
    }
    for &(act, _) in Act::ALL {
        add(Product { act, bias: true, ..Product::new(13, 40, 37) });
        add(Product { act, bias: true, beta: 1.0, ..Product::new(3, 0, 9) });
    }
    for ta in FLOATS {
        for tb in FLOATS {
            add(Product { types: (ta, tb), ta: true, ..Product::new(17, 33, 70) });
            add(Product { types: (ta, tb), tb: true, beta: 1.0, ..Product::new(65, 64, 9) });
        }
    }
    gemm_batched(t);
    gemm_special(t);
}

fn gemm_batched(t: &mut Table) {
    for batch in [0, 1, 3] {
        for (shared_a, shared_b) in [(false, false), (true, false), (false, true)] {
            let what = format!("batch {batch}{}{}", tag(shared_a, " one a"), tag(shared_b, " one b"));
            t.add("Gemm", what, CLOSE, move |b| {
                let (m, k, n) = (9, 21, 18);
                let count = |shared| if shared { 1 } else { batch };
                let a = b.normal("a", (count(shared_a) * m, k));
                let w = b.normal("b", (count(shared_b) * k, n));
                let c = b.result("c", (batch * m, n), false);
                let stride = |x: Mat, rows: u64, shared| if shared { 0 } else { rows * x.ld };
                let Op::Gemm(one) = Product::new(m, k, n).op(
                    Mat { rows: m, ..a },
                    Mat { rows: k, ..w },
                    Mat { rows: m, ..c },
                    Mat::NONE,
                ) else {
                    unreachable!("a product is a Gemm")
                };
                Op::Gemm(op::Gemm {
                    batch,
                    stride_a: stride(a, m, shared_a),
                    stride_b: stride(w, k, shared_b),
                    stride_c: stride(c, m, false),
                    ..one
                })
            });
        }
    }
}

fn gemm_special(t: &mut Table) {
    for (name, value) in [("NaN", f32::NAN), ("inf", f32::INFINITY), ("-inf", f32::NEG_INFINITY)] {
        for act in [Act::None, Act::Relu] {
            t.add("Gemm", format!("{name} in a{}", tag(act == Act::Relu, " relu")), CLOSE, move |b| {
                let special = move |r: &mut Rng, i| if i == 70 { value } else { r.uniform(0.5, 1.0) };
                let a = b.input("a", (20, 31), special);
                let w = b.uniform("b", (31, 40), 0.5, 1.0);
                let c = b.result("c", (20, 40), false);
                Product { act, ..Product::new(20, 31, 40) }.op(a, w, c, Mat::NONE)
            });
        }
    }
}

pub(super) fn fill_copy_gather(t: &mut Table) {
    for value in [0.0, 1.5, -2.75, 300.0, f32::NAN] {
        for (rows, cols) in [(3, 65), (1, 1), (0, 4)] {
            t.add("Fill", format!("f32 {value} [{rows}, {cols}]"), EXACT, move |b| {
                Op::Fill(op::Fill { y: b.output::<f32>("y", (rows, cols)), value })
            });
        }
        t.add("Fill", format!("bf16 {value}"), EXACT, move |b| fill::<bf16>(b, value));
        t.add("Fill", format!("f16 {value}"), EXACT, move |b| fill::<f16>(b, value));
        t.add("Fill", format!("i32 {value}"), EXACT, move |b| fill::<i32>(b, value));
        t.add("Fill", format!("u32 {value}"), EXACT, move |b| fill::<u32>(b, value));
        t.add("Fill", format!("u8 {value}"), EXACT, move |b| fill::<u8>(b, value));
    }
    for from in FLOATS {
        for to in FLOATS {
            t.add("Copy", format!("{from} to {to}"), EXACT, move |b| {
                let x = b.float_bits("x", (5, 67), from);
                let y = b.float_output("y", (5, 67), to);
                Op::Copy(op::Copy { x, y })
            });
        }
    }
    for cols in WIDTHS {
        t.add("Copy", format!("u32 [4, {cols}]"), EXACT, move |b| {
            let x = b.input("x", (4, cols), |r, _| r.below(1 << 32) as u32);
            Op::Copy(op::Copy { x, y: b.output::<u32>("y", (4, cols)) })
        });
        t.add("Copy", format!("u8 [4, {cols}]"), EXACT, move |b| {
            let x = b.input("x", (4, cols), |r, _| r.below(256) as u8);
            Op::Copy(op::Copy { x, y: b.output::<u8>("y", (4, cols)) })
        });
        t.add("Copy", format!("i32 [4, {cols}]"), EXACT, move |b| {
            let x = b.input("x", (4, cols), |r, _| r.below(1 << 32) as i32);
            Op::Copy(op::Copy { x, y: b.output::<i32>("y", (4, cols)) })
        });
    }
    for dtype in FLOATS {
        for (n, width) in [(0, 8), (1, 1), (65, 63), (7, 200), (5, 0)] {
            t.add("Gather", format!("{n} rows of {width} {dtype}"), EXACT, move |b| {
                gather(b, dtype, n, width, 17)
            });
        }
    }
    t.add_failing("Gather", "an index past the table", |b| gather(b, DType::F32, 6, 9, 18));
}

fn fill<T: lm_saes_runtime::Element>(b: &mut Build, value: f32) -> Op {
    Op::Fill(op::Fill { y: b.output::<T>("y", (3, 37)), value })
}

/// Rows of a table with 17 rows; the second index is `largest − 1`.
pub(super) fn gather(b: &mut Build, dtype: DType, n: u64, width: u64, largest: u64) -> Op {
    let table = b.floats("table", (17, width), dtype);
    let idx = b.input("idx", (1, n), |r, i| if i == 1 { largest as u32 - 1 } else { r.below(17) as u32 });
    Op::Gather(op::Gather { table, idx, y: b.output::<f32>("y", (n, width)) })
}

fn takes_two(kind: MapKind) -> bool {
    use MapKind as K;
    [K::Add, K::Mul, K::Div, K::SiluMul, K::GeluTanhMul, K::GeluErfMul].contains(&kind)
}

/// Kinds of one rounding or none, whose bits are the same everywhere.
fn is_exact(kind: MapKind) -> bool {
    [MapKind::Relu, MapKind::Sqrt].contains(&kind)
}

pub(super) fn map(t: &mut Table) {
    for &(kind, name) in MapKind::ALL {
        let tolerance = if is_exact(kind) { EXACT } else { CLOSE };
        let positive = kind == MapKind::Sqrt || kind == MapKind::Shrink;
        let forms: &[&str] = if takes_two(kind) { &["full", "row", "column"] } else { &[""] };
        for &form in forms {
            for cols in WIDTHS {
                for in_place in [false, true] {
                    let what = format!("{name} [5, {cols}] {form}{}", tag(in_place, " in place"));
                    t.add("Map", what, tolerance, move |b| {
                        let low = if positive { 0.01 } else { -4.0 };
                        map_case(b, kind, (5, cols), form, in_place, &mut |r| r.uniform(low, 4.0))
                    });
                }
            }
        }
    }
    for &(kind, name) in MapKind::ALL {
        if [MapKind::Silu, MapKind::GeluErf, MapKind::GeluTanh].contains(&kind) || takes_two(kind) {
            // NaN only: the limits at infinity of the gates differ by formula (0·inf).
            t.add("Map", format!("{name} NaN"), CLOSE, move |b| {
                let form = if takes_two(kind) { "row" } else { "" };
                map_case(b, kind, (3, 21), form, false, &mut |r| {
                    if r.below(5) == 0 { f32::NAN } else { r.uniform(0.1, 3.0) }
                })
            });
        } else {
            t.add("Map", format!("{name} NaN, inf, -0"), CLOSE, move |b| {
                let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40];
                map_case(b, kind, (3, 21), "", false, &mut |r| {
                    specials.get(r.below(9) as usize).copied().unwrap_or(2.0)
                })
            });
        }
    }
}

pub(super) fn map_case(
    b: &mut Build,
    kind: MapKind,
    (rows, cols): (u64, u64),
    form: &str,
    in_place: bool,
    value: &mut dyn FnMut(&mut Rng) -> f32,
) -> Op {
    let x = if in_place {
        b.update("x", (rows, cols), |r, _| value(r))
    } else {
        b.input("x", (rows, cols), |r, _| value(r))
    };
    let z = match form {
        "full" => b.uniform("z", (rows, cols), 0.5, 2.0),
        "row" => b.uniform("z", (1, cols), 0.5, 2.0),
        "column" => b.uniform("z", (rows, 1), 0.5, 2.0),
        _ => Mat::NONE,
    };
    let y = if in_place { x } else { b.result("y", (rows, cols), false) };
    Op::Map(op::Map { kind, x, z, y, a: 1.25, b: 0.5 })
}

pub(super) fn reduce(t: &mut Table) {
    for &(kind, name) in ReduceKind::ALL {
        let tolerance = if kind == ReduceKind::Max { EXACT } else { CLOSE };
        for by_row in [false, true] {
            let way = if by_row { "over columns" } else { "over rows" };
            for (rows, cols) in [(1, 1), (7, 65), (64, 63), (300, 5), (3, 2000), (0, 6), (6, 0)] {
                for beta in [0.0, 0.5] {
                    let what = format!("{name} {way} [{rows}, {cols}] beta {beta}");
                    let tolerance = if beta == 0.0 { tolerance } else { CLOSE };
                    t.add("Reduce", what, tolerance, move |b| {
                        reduce_case(b, kind, by_row, (rows, cols), false, beta, &mut |r| r.normal())
                    });
                }
            }
            t.add("Reduce", format!("{name} {way} with NaN"), tolerance, move |b| {
                reduce_case(b, kind, by_row, (9, 40), false, 0.0, &mut |r| {
                    if r.below(30) == 0 { f32::NAN } else { r.uniform(0.1, 1.0) }
                })
            });
            t.add("Reduce", format!("{name} {way} mostly 0 or -inf"), tolerance, move |b| {
                reduce_case(b, kind, by_row, (9, 40), false, 0.0, &mut |r| match r.below(6) {
                    0 => -1.5,
                    1 => f32::NEG_INFINITY,
                    _ => 0.0,
                })
            });
        }
        if kind != ReduceKind::Max {
            for (rows, cols) in [(1, 7), (65, 65), (0, 3)] {
                t.add("Reduce", format!("{name} weighted [{rows}, {cols}]"), CLOSE, move |b| {
                    reduce_case(b, kind, false, (rows, cols), true, 1.0, &mut |r| r.normal())
                });
            }
        }
    }
}

pub(super) fn reduce_case(
    b: &mut Build,
    kind: ReduceKind,
    by_row: bool,
    (rows, cols): (u64, u64),
    weighted: bool,
    beta: f32,
    value: &mut dyn FnMut(&mut Rng) -> f32,
) -> Op {
    let x = b.input("x", (rows, cols), |r, _| value(r));
    let weight = b.when(weighted, |b| b.uniform("weight", (rows, 1), 0.0, 2.0));
    let y = b.result("y", if by_row { (rows, 1) } else { (1, cols) }, beta != 0.0);
    Op::Reduce(op::Reduce { kind, by_row: by_row.into(), x, weight, y, beta })
}
