//! Sorting, the largest k, and search in sorted rows. NaN counts as larger than every number. The order of equal elements is
//! open except in a stable sort, so it changes with the call.

use super::{
    Call, Plan, check_shape, dim_of,
    value::{Data, View},
};
use crate::executor::{Refusal, refuse};
use std::cmp::Ordering;

fn by_value(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The first `keep` positions of a row in the order asked for; equal values forwards or backwards.
fn ranked<V: Copy>(
    row: &[V],
    keep: usize,
    descending: bool,
    backwards: bool,
    cmp: impl Fn(V, V) -> Ordering,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    let by = |a: &usize, b: &usize| {
        let o = if descending { cmp(row[*b], row[*a]) } else { cmp(row[*a], row[*b]) };
        o.then_with(|| if backwards { b.cmp(a) } else { a.cmp(b) })
    };
    if keep > 0 && keep < order.len() {
        order.select_nth_unstable_by(keep - 1, by);
    }
    order.truncate(keep);
    order.sort_unstable_by(by);
    order
}

struct Order {
    x: View,
    values: View,
    indices: View,
    dim: usize,
    keep: usize,
    descending: bool,
    backwards: bool,
}

fn run(o: &Order) {
    let (outer, n, inner) = o.x.around(o.dim);
    let total = outer * o.keep * inner;
    let mut picked = vec![0i64; total];
    macro_rules! all {
        ($v:ident, $zero:expr, $cmp:expr) => {{
            let mut out = vec![$zero; total];
            for a in 0..outer {
                for b in 0..inner {
                    let row: Vec<_> = (0..n).map(|j| $v[(a * n + j) * inner + b]).collect();
                    for (j, from) in
                        ranked(&row, o.keep, o.descending, o.backwards, $cmp).into_iter().enumerate()
                    {
                        let at = (a * o.keep + j) * inner + b;
                        out[at] = row[from];
                        picked[at] = from as i64;
                    }
                }
            }
            out
        }};
    }
    let out = match o.x.load() {
        Data::F(v) => Data::F(all!(v, 0.0, by_value)),
        Data::I(v) => Data::I(all!(v, 0, |a: i64, b: i64| a.cmp(&b))),
    };
    o.values.store(&out);
    o.indices.store_i(&picked);
}

/// Only sorted results are offered, with INT64 indices.
pub fn topk(c: &Call) -> Result<Plan, Refusal> {
    let (x, k, values, indices) =
        (c.tensor(0)?.clone(), c.int(1), c.tensor(5)?.clone(), c.tensor(6)?.clone());
    let dim = dim_of(&x, c.int(2))?;
    if !c.flag(4) {
        return refuse("sorted must be true");
    }
    if x.dtype != values.dtype {
        return refuse("self and valuesOut have different types");
    }
    let n = x.shape.get(dim).copied().unwrap_or(1);
    if k < 0 || k > n {
        return refuse(format!("k is {k} of {n}"));
    }
    let mut shape = x.shape.clone();
    if let Some(d) = shape.get_mut(dim) {
        *d = k;
    }
    check_shape("valuesOut", &values, &shape)?;
    check_shape("indicesOut", &indices, &shape)?;
    let (descending, backwards) = (c.flag(3), c.seed % 2 == 1);
    let order = Order { x, values, indices, dim, keep: k as usize, descending, backwards };
    Ok(Plan::always(move || run(&order)).with_workspace(64))
}

pub fn sort(c: &Call) -> Result<Plan, Refusal> {
    let (x, values, indices) = (c.tensor(0)?.clone(), c.tensor(4)?.clone(), c.tensor(5)?.clone());
    let dim = dim_of(&x, c.int(2))?;
    if x.dtype != values.dtype {
        return refuse("self and valuesOut have different types");
    }
    check_shape("valuesOut", &values, &x.shape)?;
    check_shape("indicesOut", &indices, &x.shape)?;
    let keep = x.shape.get(dim).map_or(1, |d| *d as usize);
    let backwards = !c.flag(1) && c.seed % 2 == 1;
    let order = Order { x, values, indices, dim, keep, descending: c.flag(3), backwards };
    Ok(Plan::always(move || run(&order)).with_workspace(64))
}

/// For every value the first place of its sorted row where it could stand; with `right` the last.
pub fn search_sorted(c: &Call) -> Result<Plan, Refusal> {
    let (sorted, x, y) = (c.tensor(0)?.clone(), c.tensor(1)?.clone(), c.tensor(5)?.clone());
    if c.maybe(4).is_some() {
        return refuse("the simulator has no sorter");
    }
    let expected = if c.flag(2) { crate::abi::ACL_INT32 } else { crate::abi::ACL_INT64 };
    if i64::from(y.dtype) != expected || sorted.dtype != x.dtype {
        return refuse("out must have the type outInt32 says, and self that of the sorted sequence");
    }
    check_shape("out", &y, &x.shape)?;
    if sorted.rank() == 0 {
        return refuse("the sorted sequence has no dims");
    }
    let one_row = sorted.rank() == 1;
    if !one_row && (x.rank() != sorted.rank() || x.shape[..x.rank() - 1] != sorted.shape[..x.rank() - 1]) {
        return refuse("self and the sorted sequence differ in more than their last dim");
    }
    let n = sorted.shape[sorted.rank() - 1] as usize;
    let width = if one_row { x.len() } else { x.shape[x.rank() - 1] as usize };
    let right = c.flag(3);
    Ok(Plan::always(move || {
        macro_rules! search {
            ($rows:expr, $values:expr, $cmp:expr) => {{
                let (rows, values, cmp) = ($rows, $values, $cmp);
                let place = |(i, v): (usize, &_)| {
                    let row = &rows[if one_row { 0 } else { i / width * n }..][..n];
                    row.partition_point(|s| {
                        let o: Ordering = cmp(*s, *v);
                        o.is_lt() || (right && o.is_eq())
                    }) as i64
                };
                values.iter().enumerate().map(place).collect::<Vec<i64>>()
            }};
        }
        let out = match (sorted.load(), x.load()) {
            (Data::F(s), Data::F(v)) => search!(s, v, by_value),
            (s, v) => search!(s.ints(), v.ints(), |a: i64, b: i64| a.cmp(&b)),
        };
        y.store_i(&out);
    }))
}
