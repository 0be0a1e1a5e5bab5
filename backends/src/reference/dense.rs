//! Reference forms of the dense ops. Contracts: `lm_saes_runtime::op`.

use super::{Outcome, host::Live};
use lm_saes_runtime::{
    Act, MapKind, ReduceKind,
    op::{self, Mat},
};

/// erf by its series with positive terms, 2/√π·e^(−x²)·Σ 2ⁿx²ⁿ⁺¹/(2n+1)!!; beyond |x| = 6 it is ±1 in f64.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// max(x, 0), NaN stays NaN.
fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

fn gelu_erf(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn moved(m: Mat, elements: u64) -> Mat {
    Mat { addr: lm_saes_runtime::Addr(m.addr.0 + elements * m.dtype.bytes() as u64), ..m }
}

pub(super) fn gemm(m: Live, o: &op::Gemm) -> Outcome {
    let k = if o.ta == 1 { o.a.rows } else { o.a.cols };
    for i in 0..o.batch {
        let a = m.at(moved(o.a, i * o.stride_a));
        let b = m.at(moved(o.b, i * o.stride_b));
        let c = m.at(moved(o.c, i * o.stride_c));
        for r in 0..o.c.rows {
            for j in 0..o.c.cols {
                let mut sum = 0.0;
                for l in 0..k {
                    let x = if o.ta == 1 { a.get(l, r) } else { a.get(r, l) };
                    let y = if o.tb == 1 { b.get(j, l) } else { b.get(l, j) };
                    sum += x * y;
                }
                let old = if o.beta == 0.0 { 0.0 } else { f64::from(o.beta) * c.get(r, j) };
                let x = f64::from(o.alpha) * sum + old + m.or(o.bias, 0, j, 0.0);
                c.set(
                    r,
                    j,
                    match o.act {
                        Act::Relu => relu(x),
                        Act::GeluErf => gelu_erf(x),
                        Act::GeluTanh => gelu_tanh(x),
                        Act::Silu => silu(x),
                        _ => x,
                    },
                );
            }
        }
    }
    Ok(())
}

pub(super) fn fill(m: Live, o: &op::Fill) -> Outcome {
    for r in 0..o.y.rows {
        for c in 0..o.y.cols {
            m.at(o.y).set(r, c, o.value.into());
        }
    }
    Ok(())
}

pub(super) fn copy(m: Live, o: &op::Copy) -> Outcome {
    for r in 0..o.y.rows {
        for c in 0..o.y.cols {
            m.at(o.y).set(r, c, m.at(o.x).get(r, c));
        }
    }
    Ok(())
}

pub(super) fn gather(m: Live, o: &op::Gather) -> Outcome {
    for i in 0..o.y.rows {
        let row = u64::from(m.at(o.idx).u32(0, i));
        if row >= o.table.rows {
            return Err(format!("index {row} of a table with {} rows", o.table.rows));
        }
        for c in 0..o.y.cols {
            m.at(o.y).set(i, c, m.at(o.table).get(row, c));
        }
    }
    Ok(())
}

pub(super) fn map(m: Live, o: &op::Map) -> Outcome {
    let (a, b) = (f64::from(o.a), f64::from(o.b));
    for r in 0..o.x.rows {
        for c in 0..o.x.cols {
            let x = m.at(o.x).get(r, c);
            let z = m.or(o.z, r.min(o.z.rows.saturating_sub(1)), c.min(o.z.cols.saturating_sub(1)), 0.0);
            let y = match o.kind {
                MapKind::Affine => a * x + b,
                MapKind::Relu => relu(x),
                MapKind::GeluErf => gelu_erf(x),
                MapKind::GeluTanh => gelu_tanh(x),
                MapKind::Silu => silu(x),
                MapKind::Tanh => (a * x).tanh(),
                MapKind::Exp => x.exp(),
                MapKind::Sqrt => x.sqrt(),
                MapKind::Add => a * x + b * z,
                MapKind::Mul => a * x * z,
                MapKind::Div => a * x / z,
                MapKind::SiluMul => silu(x) * z,
                MapKind::GeluTanhMul => gelu_tanh(x) * z,
                MapKind::GeluErfMul => gelu_erf(x) * z,
                MapKind::Shrink if x <= b => a,
                MapKind::Shrink => a * b / x,
                MapKind::SoftCap => a * (x / a).tanh(),
                kind => return Err(format!("unknown {kind:?}")),
            };
            m.at(o.y).set(r, c, y);
        }
    }
    Ok(())
}

pub(super) fn reduce(m: Live, o: &op::Reduce) -> Outcome {
    let (n, len) = if o.by_row == 1 { (o.x.rows, o.x.cols) } else { (o.x.cols, o.x.rows) };
    for i in 0..n {
        let mut total = if o.kind == ReduceKind::Max { f64::NEG_INFINITY } else { 0.0 };
        for j in 0..len {
            let (r, c) = if o.by_row == 1 { (i, j) } else { (j, i) };
            let (x, w) = (m.at(o.x).get(r, c), m.or(o.weight, r, 0, 1.0));
            total = match o.kind {
                ReduceKind::Sum => total + w * x,
                ReduceKind::SumSq => total + w * x * x,
                ReduceKind::Max => total.max(w * x),
                _ if x != 0.0 => total + w,
                _ => total,
            };
        }
        let (r, c) = if o.by_row == 1 { (i, 0) } else { (0, i) };
        let old = if o.beta == 0.0 { 0.0 } else { f64::from(o.beta) * m.at(o.y).get(r, c) };
        m.at(o.y).set(r, c, old + total);
    }
    Ok(())
}

pub(super) fn norm(m: Live, o: &op::Norm) -> Outcome {
    let x = m.at(o.x);
    let width = o.x.cols as f64;
    for r in 0..o.x.rows {
        let row: Vec<f64> = (0..o.x.cols).map(|c| x.get(r, c)).collect();
        let mean = if o.rms == 1 { 0.0 } else { row.iter().sum::<f64>() / width };
        let square = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / width;
        let s = (square + f64::from(o.eps)).sqrt();
        let offset = if o.rms == 1 { f64::from(o.gain_offset) } else { 0.0 };
        for c in 0..o.x.cols {
            let gain = m.or(o.gain, 0, c, 1.0) + offset;
            m.at(o.y).set(r, c, (row[c as usize] - mean) / s * gain + m.or(o.bias, 0, c, 0.0));
        }
        if o.scale.is_some() {
            m.at(o.scale).set(r, 0, s);
        }
    }
    Ok(())
}

pub(super) fn cross_entropy(m: Live, o: &op::CrossEntropy) -> Outcome {
    for r in 0..o.logits.rows {
        let target = m.at(o.target).u32(0, r);
        if target != u32::MAX && u64::from(target) >= o.logits.cols {
            return Err(format!("target {target} of {} logits", o.logits.cols));
        }
        let loss = if target == u32::MAX {
            0.0
        } else {
            let row = (0..o.logits.cols).map(|c| m.at(o.logits).get(r, c));
            let top = row.clone().fold(f64::NEG_INFINITY, f64::max);
            top + row.map(|x| (x - top).exp()).sum::<f64>().ln() - m.at(o.logits).get(r, target.into())
        };
        m.at(o.loss).set(0, r, loss);
    }
    Ok(())
}

pub(super) fn rope(m: Live, o: &op::Rope) -> Outcome {
    let half = o.rotary_dim / 2;
    for r in 0..o.x.rows {
        let pos = u64::from(m.at(o.pos).u32(0, r));
        if pos >= o.cos.rows {
            return Err(format!("position {pos} of a table with {} rows", o.cos.rows));
        }
        for h in 0..o.heads {
            for j in 0..half {
                let (i0, i1) = if o.adjacent == 1 { (2 * j, 2 * j + 1) } else { (j, j + half) };
                let (c0, c1) = (h * o.d_head + i0, h * o.d_head + i1);
                let (u, w) = (m.at(o.x).get(r, c0), m.at(o.x).get(r, c1));
                let cos = m.at(o.cos).get(pos, j);
                let sin = m.at(o.sin).get(pos, j) * if o.inverse == 1 { -1.0 } else { 1.0 };
                m.at(o.x).set(r, c0, u * cos - w * sin);
                m.at(o.x).set(r, c1, w * cos + u * sin);
            }
        }
    }
    Ok(())
}
