//! Causal attention and its gradient, one query at a time.

use super::{Live, Outcome};
use lm_saes_runtime::op;

pub(super) fn attention(m: Live, o: &op::Attention) -> Outcome {
    for b in 0..o.batch {
        for h in 0..o.heads {
            for i in 0..o.len {
                attend(m, o, b, h, i);
            }
        }
    }
    Ok(())
}

/// Query i of head h in sequence b.
fn attend(m: Live, o: &op::Attention, b: u64, h: u64, i: u64) {
    let kv = h / (o.heads / o.kv_heads);
    let first = if o.window == 0 { 0 } else { (i + 1).saturating_sub(o.window) };
    let score = |j: u64| {
        let dot: f64 = (0..o.d_head)
            .map(|e| {
                let key = m.at(o.k).get(b * o.len + j, kv * o.d_head + e);
                m.at(o.q).get(b * o.len + i, h * o.d_head + e) * key
            })
            .sum();
        let (s, cap) = (f64::from(o.scale) * dot, f64::from(o.soft_cap));
        if cap > 0.0 { cap * (s / cap).tanh() } else { s }
    };
    let p = softmax((first..=i).map(score).collect());
    for e in 0..o.d_value {
        let value = |j: u64| m.at(o.v).get(b * o.len + j, kv * o.d_value + e);
        let z = (first..=i).zip(&p).map(|(j, p)| p * value(j)).sum();
        m.at(o.z).set(b * o.len + i, h * o.d_value + e, z);
    }
    if o.pattern.is_some() {
        for j in 0..o.len {
            let seen = (first..=i).contains(&j);
            let value = if seen { p[(j - first) as usize] } else { 0.0 };
            m.at(o.pattern).set((b * o.heads + h) * o.len + i, j, value);
        }
    }
}

fn softmax(scores: Vec<f64>) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    scores.iter().map(|s| (s - top).exp() / total).collect()
}

pub(super) fn attention_grad(m: Live, o: &op::AttentionGrad) -> Outcome {
    for b in 0..o.batch {
        for h in 0..o.heads {
            head_grad(m, o, b, h);
        }
    }
    Ok(())
}

/// Head h of sequence b: sums over queries in f64, rounded once at the end.
fn head_grad(m: Live, o: &op::AttentionGrad, b: u64, h: u64) {
    let (len, d, dv) = (o.len as usize, o.d_head as usize, o.d_value as usize);
    let read = |mat: op::Mat, width: usize| -> Vec<Vec<f64>> {
        let row =
            |i: u64| (0..width as u64).map(|e| m.at(mat).get(b * o.len + i, h * width as u64 + e)).collect();
        (0..o.len).map(row).collect()
    };
    let (q, k, v, dz) = (read(o.q, d), read(o.k, d), read(o.v, dv), read(o.dz, dv));
    let (mut grad_k, mut grad_v) = (vec![vec![0.0; d]; len], vec![vec![0.0; dv]; len]);
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let scale = f64::from(o.scale);
    for i in 0..len {
        let p = softmax((0..=i).map(|j| scale * dot(&q[i], &k[j])).collect());
        let dp: Vec<f64> = (0..=i).map(|j| dot(&dz[i], &v[j])).collect();
        let mean = dot(&p, &dp);
        let mut grad_q = vec![0.0; d];
        for j in 0..=i {
            let ds = scale * p[j] * (dp[j] - mean);
            for e in 0..d {
                grad_q[e] += ds * k[j][e];
                grad_k[j][e] += ds * q[i][e];
            }
            for e in 0..dv {
                grad_v[j][e] += p[j] * dz[i][e];
            }
        }
        write_row(m, o.dq, (b * o.len + i as u64, h), &grad_q);
    }
    for i in 0..len {
        write_row(m, o.dk, (b * o.len + i as u64, h), &grad_k[i]);
        write_row(m, o.dv, (b * o.len + i as u64, h), &grad_v[i]);
    }
}

/// Writes the part of head `h` in one row.
fn write_row(m: Live, mat: op::Mat, (row, h): (u64, u64), values: &[f64]) {
    let first = h * values.len() as u64;
    (first..).zip(values).for_each(|(c, &v)| m.at(mat).set(row, c, v));
}
