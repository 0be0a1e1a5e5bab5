//! Reductions over dims, and running sums.

use super::{
    Call, Plan, check_shape, dim_of,
    value::{Data, View, is_float},
};
use crate::{
    abi::dtype_name,
    executor::{Refusal, refuse},
};

/// For each element of a tensor, which element of the reduction it goes to; and how many those are.
fn targets(x: &View, dims: &[i64], keep: bool, y: &View) -> Result<(Vec<u32>, usize), Refusal> {
    let mut reduced = vec![dims.is_empty(); x.rank()];
    for d in dims {
        let d = dim_of(x, *d)?;
        if x.rank() > 0 && std::mem::replace(&mut reduced[d], true) {
            return refuse(format!("dim {d} occurs twice"));
        }
    }
    let kept = x.shape.iter().zip(&reduced).filter_map(|(d, r)| match (r, keep) {
        (false, _) => Some(*d),
        (true, true) => Some(1),
        (true, false) => None,
    });
    check_shape("out", y, &kept.collect::<Vec<_>>())?;
    let mut step = vec![0usize; x.rank()];
    let mut n = 1usize;
    for d in (0..x.rank()).rev().filter(|d| !reduced[*d]) {
        step[d] = n;
        n *= x.shape[d] as usize;
    }
    let mut index = vec![0u32];
    for d in 0..x.rank() {
        let steps = (0..x.shape[d] as usize).map(|j| (j * step[d]) as u32);
        index = index.iter().flat_map(|t| steps.clone().map(move |s| t + s)).collect();
    }
    Ok((index, n))
}

pub fn sum(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(4)?.clone());
    if c.int(3) != i64::from(y.dtype) {
        return refuse(format!("dtype is {}, out has {}", dtype_name(c.int(3) as i32), dtype_name(y.dtype)));
    }
    let (index, n) = targets(&x, c.ints(1), c.flag(2), &y)?;
    Ok(Plan::always(move || {
        if is_float(x.dtype) || is_float(y.dtype) {
            let mut out = vec![0.0; n];
            x.load_f().into_iter().zip(&index).for_each(|(v, t)| out[*t as usize] += v);
            y.store_f(&out);
        } else {
            let mut out = vec![0i64; n];
            x.load_i()
                .into_iter()
                .zip(&index)
                .for_each(|(v, t)| out[*t as usize] = out[*t as usize].wrapping_add(v));
            y.store_i(&out);
        }
    }))
}

/// NaN wins, as in the framework this operator serves.
pub fn amax(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(3)?.clone());
    if x.dtype != y.dtype {
        return refuse("self and out have different types");
    }
    if x.is_empty() && !y.is_empty() {
        return refuse("the maximum of nothing");
    }
    let (index, n) = targets(&x, c.ints(1), c.flag(2), &y)?;
    Ok(Plan::always(move || match x.load() {
        Data::F(v) => {
            let mut out = vec![f64::NEG_INFINITY; n];
            for (v, t) in v.into_iter().zip(&index) {
                let o = &mut out[*t as usize];
                if v > *o || v.is_nan() {
                    *o = v;
                }
            }
            y.store_f(&out);
        }
        Data::I(v) => {
            let mut out = vec![i64::MIN; n];
            v.into_iter().zip(&index).for_each(|(v, t)| out[*t as usize] = out[*t as usize].max(v));
            y.store_i(&out);
        }
    }))
}

pub fn any(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(3)?.clone());
    let (index, n) = targets(&x, c.ints(1), c.flag(2), &y)?;
    Ok(Plan::always(move || {
        let mut out = vec![0i64; n];
        for (v, t) in x.load_f().into_iter().zip(&index) {
            out[*t as usize] |= i64::from(v != 0.0);
        }
        y.store_i(&out);
    }))
}

pub fn log_sum_exp(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(3)?.clone());
    let (index, n) = targets(&x, c.ints(1), c.flag(2), &y)?;
    Ok(Plan::always(move || {
        let v = x.load_f();
        let mut max = vec![f64::NEG_INFINITY; n];
        v.iter().zip(&index).for_each(|(v, t)| max[*t as usize] = max[*t as usize].max(*v));
        let mut out = vec![0.0; n];
        for (v, t) in v.iter().zip(&index) {
            let m = max[*t as usize];
            out[*t as usize] += (v - if m.is_finite() { m } else { 0.0 }).exp();
        }
        for (o, m) in out.iter_mut().zip(&max) {
            *o = o.ln() + if m.is_finite() { *m } else { 0.0 };
        }
        y.store_f(&out);
    }))
}

pub fn cumsum(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(3)?.clone());
    check_shape("out", &y, &x.shape)?;
    if c.int(2) != i64::from(y.dtype) {
        return refuse(format!("dtype is {}, out has {}", dtype_name(c.int(2) as i32), dtype_name(y.dtype)));
    }
    let (outer, n, inner) = x.around(dim_of(&x, c.int(1))?);
    Ok(Plan::always(move || match x.load() {
        Data::F(mut v) => {
            run_along(&mut v, outer, n, inner, |a, b| a + b);
            y.store_f(&v);
        }
        Data::I(mut v) => {
            run_along(&mut v, outer, n, inner, i64::wrapping_add);
            y.store_i(&v);
        }
    }))
}

/// Adds to each element along the middle dim the one before it.
fn run_along<V: Copy>(v: &mut [V], outer: usize, n: usize, inner: usize, add: impl Fn(V, V) -> V) {
    for o in 0..outer {
        for at in (o * n + 1) * inner..(o + 1) * n * inner {
            v[at] = add(v[at], v[at - inner]);
        }
    }
}
