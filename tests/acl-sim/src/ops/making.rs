//! Operators that make, convert and move values.

use super::{
    Call, Plan, check_shape, expand,
    value::{Data, View, is_float},
};
use crate::{
    abi::dtype_name,
    executor::{Refusal, refuse},
};

pub fn cast(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(2)?.clone());
    check_shape("out", &y, &x.shape)?;
    if c.int(1) != i64::from(y.dtype) {
        return refuse(format!("dtype is {}, out has {}", dtype_name(c.int(1) as i32), dtype_name(y.dtype)));
    }
    Ok(Plan::always(move || y.store(&x.load())))
}

pub fn inplace_copy(c: &Call) -> Result<Plan, Refusal> {
    let y = c.tensor(0)?.clone();
    let x = expand("src", c.tensor(1)?, &y.shape)?;
    Ok(Plan::always(move || y.store(&x.load())))
}

fn constant(y: View, float: f64, int: i64) -> Plan {
    Plan::always(move || {
        let n = y.len();
        y.store(&if is_float(y.dtype) { Data::F(vec![float; n]) } else { Data::I(vec![int; n]) });
    })
}
pub fn fill(c: &Call) -> Result<Plan, Refusal> {
    let s = c.scalar(1)?;
    Ok(constant(c.tensor(0)?.clone(), s.float, s.int))
}
pub fn zero(c: &Call) -> Result<Plan, Refusal> {
    Ok(constant(c.tensor(0)?.clone(), 0.0, 0))
}
pub fn one(c: &Call) -> Result<Plan, Refusal> {
    Ok(constant(c.tensor(0)?.clone(), 1.0, 1))
}

/// The output must have exactly the elements from `start` to before `end`.
pub fn arange(c: &Call) -> Result<Plan, Refusal> {
    let (start, end, step) = (c.scalar(0)?, c.scalar(1)?, c.scalar(2)?);
    let y = c.tensor(3)?.clone();
    if step.float == 0.0 || (end.float - start.float) * step.float < 0.0 {
        return refuse("step is 0 or leads away from end");
    }
    let n = ((end.float - start.float) / step.float).ceil() as i64;
    check_shape("out", &y, &[n])?;
    Ok(Plan::always(move || {
        let data = if is_float(y.dtype) {
            Data::F((0..n).map(|i| start.float + i as f64 * step.float).collect())
        } else {
            Data::I((0..n).map(|i| start.int + i * step.int).collect())
        };
        y.store(&data);
    }))
}

fn triangle(c: &Call, keep: fn(i64, i64) -> bool) -> Result<Plan, Refusal> {
    let (x, y, diagonal) = (c.tensor(0)?.clone(), c.tensor(2)?.clone(), c.int(1));
    check_shape("out", &y, &x.shape)?;
    if x.rank() < 2 {
        return refuse("self has fewer than 2 dims");
    }
    let (rows, cols) = (x.shape[x.rank() - 2], x.shape[x.rank() - 1]);
    let kept = move |i: usize| {
        let i = i as i64;
        keep(i % cols - (i / cols) % rows, diagonal)
    };
    Ok(Plan::always(move || {
        let data = match x.load() {
            Data::F(v) => {
                Data::F(v.into_iter().enumerate().map(|(i, v)| if kept(i) { v } else { 0.0 }).collect())
            }
            Data::I(v) => {
                Data::I(v.into_iter().enumerate().map(|(i, v)| if kept(i) { v } else { 0 }).collect())
            }
        };
        y.store(&data);
    }))
}
pub fn tril(c: &Call) -> Result<Plan, Refusal> {
    triangle(c, |column_minus_row, d| column_minus_row <= d)
}
pub fn triu(c: &Call) -> Result<Plan, Refusal> {
    triangle(c, |column_minus_row, d| column_minus_row >= d)
}
