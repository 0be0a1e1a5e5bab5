//! Elementwise operators: arithmetic, activations, comparisons, selection. Operands broadcast; the output has the shape they
//! broadcast to. Computed in f64 or, between integers, in i64, and rounded once to the output's type.

use super::{
    Call, Plan, broadcast_shape, check_shape, expand,
    value::{Data, View, is_float},
};
use crate::{
    abi::*,
    executor::{Refusal, refuse},
    objects::Scalar,
};

type F2 = fn(f64, f64, f64) -> f64;
type I2 = fn(i64, i64, i64) -> i64;

/// `out = f(x)` of floats.
fn unary(c: &Call, out: usize, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(out)?.clone());
    check_shape("out", &y, &x.shape)?;
    Ok(Plan::always(move || {
        let mut values = x.load_f();
        values.iter_mut().for_each(|v| *v = f(*v));
        y.store_f(&values);
    }))
}

/// `out = f(x, z, alpha)` with the operands broadcast.
fn binary(x: &View, z: &View, y: &View, alpha: Scalar, f: F2, i: I2) -> Result<Plan, Refusal> {
    let shape = broadcast_shape(&x.shape, &z.shape)?;
    check_shape("out", y, &shape)?;
    let (x, z, y) = (expand("self", x, &shape)?, expand("other", z, &shape)?, y.clone());
    let floats = is_float(x.dtype) || is_float(z.dtype);
    if floats && !is_float(y.dtype) && i64::from(y.dtype) != ACL_BOOL {
        return refuse(format!("a result of floats does not go into {}", dtype_name(y.dtype)));
    }
    Ok(Plan::always(move || {
        if floats {
            let mut a = x.load_f();
            let b = z.load_f();
            a.iter_mut().zip(&b).for_each(|(a, b)| *a = f(*a, *b, alpha.float));
            y.store_f(&a);
        } else {
            let mut a = x.load_i();
            let b = z.load_i();
            a.iter_mut().zip(&b).for_each(|(a, b)| *a = i(*a, *b, alpha.int));
            y.store_i(&a);
        }
    }))
}

/// `out = f(x, s, alpha)` with a scalar.
fn with_scalar(x: &View, s: Scalar, y: &View, alpha: Scalar, f: F2, i: I2) -> Result<Plan, Refusal> {
    check_shape("out", y, &x.shape)?;
    let (x, y) = (x.clone(), y.clone());
    let floats = is_float(x.dtype) || is_float(s.dtype) || is_float(alpha.dtype);
    if floats && !is_float(y.dtype) && i64::from(y.dtype) != ACL_BOOL {
        return refuse(format!("a result of floats does not go into {}", dtype_name(y.dtype)));
    }
    // The scalar takes the tensor's type first, as promotion of a scalar does.
    let rounded = if is_float(x.dtype) { round_to(s.float, x.dtype) } else { s.float };
    Ok(Plan::always(move || {
        if floats {
            let mut a = x.load_f();
            a.iter_mut().for_each(|a| *a = f(*a, rounded, alpha.float));
            y.store_f(&a);
        } else {
            let mut a = x.load_i();
            a.iter_mut().for_each(|a| *a = i(*a, s.int, alpha.int));
            y.store_i(&a);
        }
    }))
}

fn round_to(v: f64, dtype: i32) -> f64 {
    match i64::from(dtype) {
        ACL_FLOAT => f64::from(v as f32),
        ACL_FLOAT16 => half::f16::from_f64(v).to_f64(),
        ACL_BF16 => half::bf16::from_f64(v).to_f64(),
        _ => v,
    }
}

const ONE: Scalar = Scalar { dtype: ACL_FLOAT as i32, float: 1.0, int: 1 };
const ONE_INT: Scalar = Scalar { dtype: ACL_INT32 as i32, float: 1.0, int: 1 };

fn plus(a: f64, b: f64, alpha: f64) -> f64 {
    a + alpha * b
}
fn plus_int(a: i64, b: i64, alpha: i64) -> i64 {
    a.wrapping_add(alpha.wrapping_mul(b))
}
fn minus(a: f64, b: f64, alpha: f64) -> f64 {
    a - alpha * b
}
fn minus_int(a: i64, b: i64, alpha: i64) -> i64 {
    a.wrapping_sub(alpha.wrapping_mul(b))
}
fn times(a: f64, b: f64, _: f64) -> f64 {
    a * b
}
fn times_int(a: i64, b: i64, _: i64) -> i64 {
    a.wrapping_mul(b)
}

pub fn add(c: &Call) -> Result<Plan, Refusal> {
    binary(c.tensor(0)?, c.tensor(1)?, c.tensor(3)?, c.scalar(2)?, plus, plus_int)
}
pub fn sub(c: &Call) -> Result<Plan, Refusal> {
    binary(c.tensor(0)?, c.tensor(1)?, c.tensor(3)?, c.scalar(2)?, minus, minus_int)
}
pub fn adds(c: &Call) -> Result<Plan, Refusal> {
    with_scalar(c.tensor(0)?, c.scalar(1)?, c.tensor(3)?, c.scalar(2)?, plus, plus_int)
}
pub fn subs(c: &Call) -> Result<Plan, Refusal> {
    with_scalar(c.tensor(0)?, c.scalar(1)?, c.tensor(3)?, c.scalar(2)?, minus, minus_int)
}
pub fn inplace_add(c: &Call) -> Result<Plan, Refusal> {
    binary(c.tensor(0)?, c.tensor(1)?, c.tensor(0)?, c.scalar(2)?, plus, plus_int)
}
pub fn inplace_sub(c: &Call) -> Result<Plan, Refusal> {
    binary(c.tensor(0)?, c.tensor(1)?, c.tensor(0)?, c.scalar(2)?, minus, minus_int)
}
pub fn inplace_subs(c: &Call) -> Result<Plan, Refusal> {
    with_scalar(c.tensor(0)?, c.scalar(1)?, c.tensor(0)?, c.scalar(2)?, minus, minus_int)
}
pub fn inplace_adds(c: &Call) -> Result<Plan, Refusal> {
    with_scalar(c.tensor(0)?, c.scalar(1)?, c.tensor(0)?, c.scalar(2)?, plus, plus_int)
}
pub fn mul(c: &Call) -> Result<Plan, Refusal> {
    binary(c.tensor(0)?, c.tensor(1)?, c.tensor(2)?, ONE, times, times_int)
}
pub fn muls(c: &Call) -> Result<Plan, Refusal> {
    with_scalar(c.tensor(0)?, c.scalar(1)?, c.tensor(2)?, ONE_INT, times, times_int)
}
pub fn inplace_mul(c: &Call) -> Result<Plan, Refusal> {
    binary(c.tensor(0)?, c.tensor(1)?, c.tensor(0)?, ONE, times, times_int)
}
pub fn inplace_muls(c: &Call) -> Result<Plan, Refusal> {
    with_scalar(c.tensor(0)?, c.scalar(1)?, c.tensor(0)?, ONE_INT, times, times_int)
}

/// Division is true division: of integers too the result is a float.
pub fn div(c: &Call) -> Result<Plan, Refusal> {
    let (x, z, y) = (c.tensor(0)?, c.tensor(1)?, c.tensor(2)?);
    if !is_float(y.dtype) {
        return refuse(format!("a quotient does not go into {}", dtype_name(y.dtype)));
    }
    let shape = broadcast_shape(&x.shape, &z.shape)?;
    check_shape("out", y, &shape)?;
    let (x, z, y) = (expand("self", x, &shape)?, expand("other", z, &shape)?, y.clone());
    Ok(Plan::always(move || {
        let mut a = x.load_f();
        a.iter_mut().zip(z.load_f()).for_each(|(a, b)| *a /= b);
        y.store_f(&a);
    }))
}

pub fn divs(c: &Call) -> Result<Plan, Refusal> {
    let (x, s, y) = (c.tensor(0)?, c.scalar(1)?, c.tensor(2)?);
    if !is_float(y.dtype) {
        return refuse(format!("a quotient does not go into {}", dtype_name(y.dtype)));
    }
    let s = Scalar { dtype: ACL_FLOAT as i32, ..s };
    with_scalar(x, s, y, ONE, |a, b, _| a / b, |_, _, _| 0)
}
pub fn neg(c: &Call) -> Result<Plan, Refusal> {
    same_type_unary(c, |v| -v, i64::wrapping_neg)
}
pub fn reciprocal(c: &Call) -> Result<Plan, Refusal> {
    unary(c, 1, |v| 1.0 / v)
}
pub fn exp(c: &Call) -> Result<Plan, Refusal> {
    unary(c, 1, f64::exp)
}
pub fn sqrt(c: &Call) -> Result<Plan, Refusal> {
    unary(c, 1, f64::sqrt)
}
pub fn tanh(c: &Call) -> Result<Plan, Refusal> {
    unary(c, 1, f64::tanh)
}
pub fn silu(c: &Call) -> Result<Plan, Refusal> {
    unary(c, 1, |v| v / (1.0 + (-v).exp()))
}

/// `approximate`: 0 with the error function, 1 with tanh.
pub fn gelu(c: &Call) -> Result<Plan, Refusal> {
    match c.int(1) {
        0 => unary(c, 2, |v| 0.5 * v * (1.0 + erf(v * std::f64::consts::FRAC_1_SQRT_2))),
        1 => unary(c, 2, |v| 0.5 * v * (1.0 + (0.797_884_560_802_865_4 * (v + 0.044715 * v * v * v)).tanh())),
        other => refuse(format!("approximate is {other}, expected 0 or 1")),
    }
}

/// The error function: its series near 0, a continued fraction of its complement far away.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..200 {
            term *= -a * a / f64::from(n);
            let add = term / f64::from(2 * n + 1);
            sum += add;
            if add.abs() < 1e-18 * sum.abs() {
                break;
            }
        }
        (2.0 / std::f64::consts::PI.sqrt() * sum).copysign(x)
    } else if x.is_nan() {
        x
    } else {
        let fraction = (1..=60).rev().fold(0.0, |f, n| f64::from(n) / 2.0 / (a + f));
        (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + fraction)).copysign(x)
    }
}

pub fn relu(c: &Call) -> Result<Plan, Refusal> {
    same_type_unary(c, |v| if v < 0.0 { 0.0 } else { v }, |v| v.max(0))
}
pub fn abs(c: &Call) -> Result<Plan, Refusal> {
    same_type_unary(c, f64::abs, i64::wrapping_abs)
}

fn same_type_unary(c: &Call, f: fn(f64) -> f64, i: fn(i64) -> i64) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(1)?.clone());
    check_shape("out", &y, &x.shape)?;
    Ok(Plan::always(move || {
        let data = match x.load() {
            Data::F(v) => Data::F(v.into_iter().map(f).collect()),
            Data::I(v) => Data::I(v.into_iter().map(i).collect()),
        };
        y.store(&data);
    }))
}

pub fn pow_scalar(c: &Call) -> Result<Plan, Refusal> {
    let s = c.scalar(1)?;
    let y = c.tensor(2)?;
    if !is_float(y.dtype) && (is_float(c.tensor(0)?.dtype) || is_float(s.dtype)) {
        return refuse(format!("a power of floats does not go into {}", dtype_name(y.dtype)));
    }
    unary(c, 2, move |v| v.powf(s.float))
}

/// Either bound may be absent, not both.
pub fn clamp(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(3)?.clone());
    check_shape("out", &y, &x.shape)?;
    let (low, high) = (c.maybe_scalar(1), c.maybe_scalar(2));
    if low.is_none() && high.is_none() {
        return refuse("both bounds are null");
    }
    Ok(Plan::always(move || {
        let data = match x.load() {
            Data::F(mut v) => {
                for v in v.iter_mut().filter(|v| !v.is_nan()) {
                    *v = low.map_or(*v, |l| v.max(l.float));
                    *v = high.map_or(*v, |h| v.min(h.float));
                }
                Data::F(v)
            }
            Data::I(mut v) => {
                for v in &mut v {
                    *v = low.map_or(*v, |l| (*v).max(l.int));
                    *v = high.map_or(*v, |h| (*v).min(h.int));
                }
                Data::I(v)
            }
        };
        y.store(&data);
    }))
}

/// Comparisons: true where the order of the two is one of these.
fn compare(
    x: &View,
    z: &View,
    y: &View,
    truth: fn(Option<std::cmp::Ordering>) -> bool,
) -> Result<Plan, Refusal> {
    let shape = broadcast_shape(&x.shape, &z.shape)?;
    check_shape("out", y, &shape)?;
    let (x, z, y) = (expand("self", x, &shape)?, expand("other", z, &shape)?, y.clone());
    let floats = is_float(x.dtype) || is_float(z.dtype);
    Ok(Plan::always(move || {
        let out: Vec<i64> = if floats {
            let pairs = x.load_f().into_iter().zip(z.load_f());
            pairs.map(|(a, b)| i64::from(truth(a.partial_cmp(&b)))).collect()
        } else {
            let pairs = x.load_i().into_iter().zip(z.load_i());
            pairs.map(|(a, b)| i64::from(truth(Some(a.cmp(&b))))).collect()
        };
        y.store_i(&out);
    }))
}

fn compare_scalar(c: &Call, truth: fn(Option<std::cmp::Ordering>) -> bool) -> Result<Plan, Refusal> {
    let (x, y, s) = (c.tensor(0)?.clone(), c.tensor(2)?.clone(), c.scalar(1)?);
    check_shape("out", &y, &x.shape)?;
    let floats = is_float(x.dtype) || is_float(s.dtype);
    let rounded = if is_float(x.dtype) { round_to(s.float, x.dtype) } else { s.float };
    Ok(Plan::always(move || {
        let out: Vec<i64> = if floats {
            x.load_f().into_iter().map(|a| i64::from(truth(a.partial_cmp(&rounded)))).collect()
        } else {
            x.load_i().into_iter().map(|a| i64::from(truth(Some(a.cmp(&s.int))))).collect()
        };
        y.store_i(&out);
    }))
}

macro_rules! comparisons {
    ($($scalar:ident, $tensor:ident, $truth:expr;)*) => {$(
        pub fn $scalar(c: &Call) -> Result<Plan, Refusal> {
            compare_scalar(c, $truth)
        }
        comparisons!(@tensor $tensor, $truth);
    )*};
    (@tensor $tensor:ident, $truth:expr) => {
        pub fn $tensor(c: &Call) -> Result<Plan, Refusal> {
            compare(c.tensor(0)?, c.tensor(1)?, c.tensor(2)?, $truth)
        }
    };
}
comparisons! {
    gt_scalar, gt_tensor, |o| o.is_some_and(std::cmp::Ordering::is_gt);
    ge_scalar, ge_tensor, |o| o.is_some_and(std::cmp::Ordering::is_ge);
    lt_scalar, lt_tensor, |o| o.is_some_and(std::cmp::Ordering::is_lt);
    le_scalar, le_tensor, |o| o.is_some_and(std::cmp::Ordering::is_le);
    eq_scalar, eq_tensor, |o| o.is_some_and(std::cmp::Ordering::is_eq);
    ne_scalar, ne_tensor, |o| !o.is_some_and(std::cmp::Ordering::is_eq);
}

fn truths(v: &View) -> Vec<bool> {
    match v.load() {
        Data::F(v) => v.into_iter().map(|v| v != 0.0).collect(),
        Data::I(v) => v.into_iter().map(|v| v != 0).collect(),
    }
}

fn logical(c: &Call, f: fn(bool, bool) -> bool) -> Result<Plan, Refusal> {
    let (x, z, y) = (c.tensor(0)?, c.tensor(1)?, c.tensor(2)?);
    let shape = broadcast_shape(&x.shape, &z.shape)?;
    check_shape("out", y, &shape)?;
    let (x, z, y) = (expand("self", x, &shape)?, expand("other", z, &shape)?, y.clone());
    Ok(Plan::always(move || {
        let out: Vec<i64> = truths(&x).into_iter().zip(truths(&z)).map(|(a, b)| i64::from(f(a, b))).collect();
        y.store_i(&out);
    }))
}
pub fn logical_and(c: &Call) -> Result<Plan, Refusal> {
    logical(c, |a, b| a && b)
}
pub fn logical_or(c: &Call) -> Result<Plan, Refusal> {
    logical(c, |a, b| a || b)
}
pub fn logical_not(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(1)?.clone());
    check_shape("out", &y, &x.shape)?;
    Ok(Plan::always(move || {
        let out: Vec<i64> = truths(&x).into_iter().map(|a| i64::from(!a)).collect();
        y.store_i(&out);
    }))
}

pub fn s_where(c: &Call) -> Result<Plan, Refusal> {
    let (condition, x, z, y) = (c.tensor(0)?, c.tensor(1)?, c.tensor(2)?, c.tensor(3)?);
    if x.dtype != z.dtype || x.dtype != y.dtype {
        return refuse("self, other and out have different types");
    }
    let shape = broadcast_shape(&broadcast_shape(&condition.shape, &x.shape)?, &z.shape)?;
    check_shape("out", y, &shape)?;
    let condition = expand("condition", condition, &shape)?;
    let (x, z, y) = (expand("self", x, &shape)?, expand("other", z, &shape)?, y.clone());
    Ok(Plan::always(move || {
        let mask = truths(&condition);
        let data = match (x.load(), z.load()) {
            (Data::F(a), Data::F(b)) => {
                Data::F(mask.iter().zip(a).zip(b).map(|((m, a), b)| if *m { a } else { b }).collect())
            }
            (a, b) => {
                let pairs = mask.iter().zip(a.ints()).zip(b.ints());
                Data::I(pairs.map(|((m, a), b)| if *m { a } else { b }).collect())
            }
        };
        y.store(&data);
    }))
}

pub fn masked_fill(c: &Call) -> Result<Plan, Refusal> {
    let (x, s) = (c.tensor(0)?.clone(), c.scalar(2)?);
    let mask = expand("mask", c.tensor(1)?, &x.shape)?;
    Ok(Plan::always(move || {
        let mask = truths(&mask);
        let data = match x.load() {
            Data::F(v) => {
                Data::F(v.into_iter().zip(&mask).map(|(v, m)| if *m { s.float } else { v }).collect())
            }
            Data::I(v) => {
                Data::I(v.into_iter().zip(&mask).map(|(v, m)| if *m { s.int } else { v }).collect())
            }
        };
        x.store(&data);
    }))
}
