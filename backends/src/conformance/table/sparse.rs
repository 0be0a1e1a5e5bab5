//! Products with sparse codes, and their grouping by column.

use super::{CLOSE, EXACT, Table, tag};
use crate::conformance::build::{Build, Codes};
use lm_saes_runtime::{Op, op};

/// Ragged, with holes, with offsets that begin later.
pub(super) const KINDS: [(bool, bool, bool); 4] =
    [(false, false, false), (false, true, false), (true, false, false), (true, false, true)];

/// Shapes of codes: fixed with and without holes, ragged, k from 0 to more than the columns.
pub(super) fn shapes() -> Vec<(Codes, u64)> {
    let mut list = Vec::new();
    for (rows, k, n) in
        [(1, 1, 1), (7, 3, 9), (64, 8, 63), (65, 50, 200), (3, 12, 9), (5, 0, 6), (0, 4, 6), (9, 7, 5000)]
    {
        for width in [1, 7, 64, 65, 130, 0] {
            for (ragged, holes, later) in KINDS {
                list.push((Codes { rows, k, n, ragged, holes, later }, width));
            }
        }
    }
    list
}

pub(super) fn name(c: Codes) -> String {
    let (ragged, holes, later) = (tag(c.ragged, " ragged"), tag(c.holes, " holes"), tag(c.later, " later"));
    format!("{} rows of {} in {}{ragged}{holes}{later}", c.rows, c.k, c.n)
}

pub(super) fn products(t: &mut Table) {
    for (c, width) in shapes() {
        for (bias, beta) in [(false, 0.0), (true, 0.0), (false, 1.0), (true, 0.5)] {
            let what = format!("{} width {width}{} beta {beta}", name(c), tag(bias, " bias"));
            t.add("SparseMul", what, CLOSE, move |b| mul(b, c, width, bias, beta));
        }
        t.add("SparseDot", format!("{} width {width}", name(c)), CLOSE, move |b| dot(b, c, width));
        if width == 1 {
            for (first, last) in [(0, c.n), (c.n / 3, c.n / 2 + 1), (c.n, c.n)] {
                let what = format!("{} to {first}..{last}", name(c));
                t.add("Confine", what, EXACT, move |b| confine(b, c, first, last));
            }
            for beta in [0.0, 1.0, 0.5] {
                t.add("Scatter", format!("{} beta {beta}", name(c)), CLOSE, move |b| scatter(b, c, beta));
            }
        }
    }
}

pub(super) fn mul(b: &mut Build, c: Codes, width: u64, bias: bool, beta: f32) -> Op {
    let (s, _) = b.codes(c);
    let w = b.normal("w", (c.n, width));
    let bias = b.when(bias, |b| b.normal("bias", (1, width)));
    let y = b.result("y", (c.rows, width), beta != 0.0);
    Op::SparseMul(op::SparseMul { s, w, bias, y, beta })
}

pub(super) fn dot(b: &mut Build, c: Codes, width: u64) -> Op {
    let (s, _) = b.codes(c);
    let w = b.normal("w", (c.n, width));
    let x = b.normal("x", (c.rows, width));
    let out = b.contiguous().output::<f32>("out", (s.vals.rows, s.vals.cols));
    // A sum of products of normal numbers is as wide as this; one alone may happen to be near 0, its rounding is not.
    b.of_size((width as f64).sqrt());
    if c.ragged {
        b.defined_by(out, s.ptr, c.rows);
    }
    Op::SparseDot(op::SparseDot { s, w, x, out })
}

pub(super) fn scatter(b: &mut Build, c: Codes, beta: f32) -> Op {
    let (s, _) = b.codes(c);
    let y = b.result("y", (c.rows, c.n), beta != 0.0);
    Op::Scatter(op::Scatter { s, y, beta })
}

pub(super) fn confine(b: &mut Build, c: Codes, first: u64, last: u64) -> Op {
    let (s, _) = b.codes(c);
    let out = b.contiguous().output::<u32>("out", (s.vals.rows, s.vals.cols));
    if c.ragged {
        b.defined_by(out, s.ptr, c.rows);
    }
    Op::Confine(op::Confine { s, out, first, last })
}

pub(super) fn columns(t: &mut Table) {
    for (c, width) in shapes() {
        if width == 1 {
            t.add("SortByColumn", name(c), EXACT, move |b| sort(b, c));
        }
        for beta in [0.0, 1.0] {
            let what = format!("{} width {width} beta {beta}", name(c));
            t.add("SparseOuter", what, CLOSE, move |b| outer(b, c, width, beta));
        }
    }
}

pub(super) fn sort(b: &mut Build, c: Codes) -> Op {
    let (s, _) = b.codes(c);
    let col_ptr = b.output::<u32>("col_ptr", (1, c.n + 1));
    let row = b.output::<u32>("row", (1, s.vals.len()));
    let slot = b.output::<u32>("slot", (1, s.vals.len()));
    b.defined_by(row, col_ptr, c.n);
    b.defined_by(slot, col_ptr, c.n);
    Op::SortByColumn(op::SortByColumn { s, out: op::ByColumn { col_ptr, row, slot } })
}

pub(super) fn outer(b: &mut Build, c: Codes, width: u64, beta: f32) -> Op {
    let (s, entries) = b.codes(c);
    let by = b.by_column(&entries, c.n);
    let x = b.normal("x", (c.rows, width));
    let y = b.result("y", (c.n, width), beta != 0.0);
    Op::SparseOuter(op::SparseOuter { by, vals: s.vals, x, y, beta })
}
