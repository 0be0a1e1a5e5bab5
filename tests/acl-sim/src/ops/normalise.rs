//! Softmax and the normalisations.

use super::{Call, Plan, check_shape, dim_of};
use crate::executor::{Refusal, refuse};

pub fn softmax(c: &Call) -> Result<Plan, Refusal> {
    let (x, y) = (c.tensor(0)?.clone(), c.tensor(2)?.clone());
    check_shape("out", &y, &x.shape)?;
    let (outer, n, inner) = x.around(dim_of(&x, c.int(1))?);
    Ok(Plan::always(move || {
        let mut v = x.load_f();
        for o in 0..outer {
            for i in 0..inner {
                let at = |j: usize| (o * n + j) * inner + i;
                let max = (0..n).map(|j| v[at(j)]).fold(f64::NEG_INFINITY, f64::max);
                let mut sum = 0.0;
                for j in 0..n {
                    v[at(j)] = (v[at(j)] - max).exp();
                    sum += v[at(j)];
                }
                (0..n).for_each(|j| v[at(j)] /= sum);
            }
        }
        y.store_f(&v);
    }))
}

/// Rows and columns of a tensor whose last dims are `shape`.
fn rows(dims: &[i64], shape: &[i64]) -> Result<(usize, usize, Vec<i64>), Refusal> {
    let Some(ahead) =
        dims.len().checked_sub(shape.len()).filter(|a| !shape.is_empty() && dims[*a..] == *shape)
    else {
        return refuse(format!("dims {dims:?} do not end with {shape:?}"));
    };
    let outer = dims[..ahead].iter().product::<i64>() as usize;
    let kept = dims[..ahead].iter().copied().chain(shape.iter().map(|_| 1)).collect();
    Ok((outer, shape.iter().product::<i64>() as usize, kept))
}

pub fn layer_norm(c: &Call) -> Result<Plan, Refusal> {
    let (x, y, eps) = (c.tensor(0)?.clone(), c.tensor(5)?.clone(), c.float(4));
    check_shape("out", &y, &x.shape)?;
    let shape = c.ints(1).to_vec();
    let (n_rows, n, kept) = rows(&x.shape, &shape)?;
    let (weight, bias) = (c.maybe(2).cloned(), c.maybe(3).cloned());
    for (name, v) in [("weight", &weight), ("bias", &bias)] {
        if let Some(v) = v {
            check_shape(name, v, &shape)?;
        }
    }
    let (mean_out, rstd_out) = (c.maybe(6).cloned(), c.maybe(7).cloned());
    for v in [&mean_out, &rstd_out].into_iter().flatten() {
        check_shape("meanOut or rstdOut", v, &kept)?;
    }
    Ok(Plan::always(move || {
        let mut v = x.load_f();
        let weight = weight.as_ref().map(super::View::load_f);
        let bias = bias.as_ref().map(super::View::load_f);
        let (mut means, mut rstds) = (Vec::new(), Vec::new());
        for row in v.chunks_mut(n.max(1)).take(n_rows) {
            let mean = row.iter().sum::<f64>() / n as f64;
            let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
            let rstd = 1.0 / (variance + eps).sqrt();
            for (i, v) in row.iter_mut().enumerate() {
                *v = (*v - mean) * rstd * weight.as_ref().map_or(1.0, |w| w[i])
                    + bias.as_ref().map_or(0.0, |b| b[i]);
            }
            means.push(mean);
            rstds.push(rstd);
        }
        y.store_f(&v);
        if let Some(m) = &mean_out {
            m.store_f(&means);
        }
        if let Some(r) = &rstd_out {
            r.store_f(&rstds);
        }
    }))
}

pub fn rms_norm(c: &Call) -> Result<Plan, Refusal> {
    let (x, gamma, eps) = (c.tensor(0)?.clone(), c.tensor(1)?.clone(), c.float(2));
    let (y, rstd_out) = (c.tensor(3)?.clone(), c.tensor(4)?.clone());
    check_shape("yOut", &y, &x.shape)?;
    let (n_rows, n, kept) = rows(&x.shape, &gamma.shape)?;
    check_shape("rstdOut", &rstd_out, &kept)?;
    Ok(Plan::always(move || {
        let mut v = x.load_f();
        let gamma = gamma.load_f();
        let mut rstds = Vec::new();
        for row in v.chunks_mut(n.max(1)).take(n_rows) {
            let rstd = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / n as f64 + eps).sqrt();
            row.iter_mut().zip(&gamma).for_each(|(v, g)| *v = *v * rstd * g);
            rstds.push(rstd);
        }
        y.store_f(&v);
        rstd_out.store_f(&rstds);
    }))
}
