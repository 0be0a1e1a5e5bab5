//! Reference forms of the training ops: penalties, dead-feature bookkeeping, the optimiser, random numbers.

use super::{Outcome, host::Live};
use lm_saes_kernels::philox;
use lm_saes_runtime::{PenaltyKind, RandomKind, op};

/// The slots of row `r`, dense codes (no `idx`) included.
fn slots(m: Live, codes: &op::Sparse, r: u64) -> Result<Vec<(u64, Option<u64>)>, String> {
    if codes.idx.is_some() {
        m.slots(codes, r)
    } else {
        Ok((0..codes.n).map(|c| (r * codes.n + c, Some(c))).collect())
    }
}

pub(super) fn penalty(m: Live, o: &op::Penalty) -> Outcome {
    let (p, c) = (f64::from(o.p), f64::from(o.c));
    for r in 0..o.codes.rows {
        let slots = slots(m, &o.codes, r)?;
        let u = |slot, f| m.at(o.codes.vals).flat(slot) * m.or(o.scale, 0, f, 1.0);
        let gain = |f| m.or(o.colgain, 0, f, 1.0);
        let present = || slots.iter().filter_map(|&(slot, f)| f.map(|f| (slot, f)));
        let total: f64 = match o.kind {
            PenaltyKind::Power => present().map(|(s, f)| u(s, f).abs().powf(p)).sum::<f64>().powf(1.0 / p),
            PenaltyKind::PowerSum => present().map(|(s, f)| u(s, f).abs().powf(p)).sum(),
            PenaltyKind::Tanh => present().map(|(s, f)| gain(f) * (c * u(s, f)).tanh()).sum(),
            _ => 0.0,
        };
        let slope = |u: f64| match o.kind {
            PenaltyKind::Power | PenaltyKind::PowerSum if u == 0.0 => 0.0,
            PenaltyKind::PowerSum => p * u.signum() * u.abs().powf(p - 1.0),
            PenaltyKind::Power => u.signum() * (u.abs() / total).powf(p - 1.0),
            _ => c * (1.0 - (c * u).tanh().powi(2)),
        };
        for &(slot, f) in &slots {
            let du = match f {
                None => 0.0,
                Some(f) if o.kind == PenaltyKind::TanhValue => (c * u(slot, f)).tanh(),
                Some(f) => m.or(o.weight, r, 0, 1.0) * gain(f) * slope(u(slot, f)),
            };
            m.at(o.du).set_flat(slot, du);
        }
        if o.out.is_some() {
            m.at(o.out).set(r, 0, total);
        }
    }
    Ok(())
}

pub(super) fn threshold_penalty(m: Live, o: &op::ThresholdPenalty) -> Outcome {
    let mut out = vec![0.0; o.x.rows as usize];
    for c in 0..o.x.cols {
        let n = m.or(o.scale, 0, c, 1.0);
        let theta = m.at(o.theta).f32(0, c);
        let (mut dtheta, mut dn) = (0.0, 0.0);
        for r in 0..o.x.rows {
            let x = m.at(o.x).f32(r, c);
            let g = if o.gated == 1 { x * n as f32 } else { x };
            if theta > g {
                let (w, below) = (m.at(o.weight).get(r, 0), f64::from(theta) - f64::from(g));
                let inner = if o.gated == 1 { n } else { 1.0 };
                out[r as usize] += below * n;
                dtheta += w * n;
                dn += w * (below - if o.gated == 1 { f64::from(x) * n } else { 0.0 });
                if o.dx.is_some() {
                    m.at(o.dx).set(r, c, m.at(o.dx).get(r, c) - w * n * inner);
                }
            }
        }
        for (mat, sum) in [(o.dtheta, dtheta), (o.dn, dn)] {
            if mat.is_some() {
                m.at(mat).set(0, c, m.at(mat).get(0, c) + sum);
            }
        }
    }
    for (r, &v) in out.iter().enumerate() {
        m.at(o.out).set(r as u64, 0, v);
    }
    Ok(())
}

pub(super) fn activity(m: Live, o: &op::Activity) -> Outcome {
    for r in (0..o.codes.rows).filter(|&r| m.passes(o.mask, r)) {
        for (slot, f) in slots(m, &o.codes, r)? {
            if let Some(f) = f.filter(|_| {
                let v = m.at(o.codes.vals).flat(slot);
                v.abs() > 0.0
            }) {
                m.at(o.fired).set_u32(0, f, m.at(o.fired).u32(0, f) + 1);
            }
        }
    }
    Ok(())
}

pub(super) fn age(m: Live, o: &op::Age) -> Outcome {
    for c in 0..o.fired.cols {
        let old = m.at(o.since).u32(0, c);
        let since = if m.at(o.fired).u32(0, c) > 0 { 0 } else { old.saturating_add(o.tokens) };
        m.at(o.since).set_u32(0, c, since);
        m.at(o.dead).set(0, c, f64::from(u8::from(since >= o.limit)));
    }
    Ok(())
}

pub(super) fn adam(m: Live, o: &op::Adam) -> Outcome {
    let (beta1, beta2) = (f64::from(o.beta1), f64::from(o.beta2));
    let (bc1, root) = (f64::from(o.bc1), f64::from(o.bc2).sqrt());
    let (lr, eps) = (f64::from(o.lr), f64::from(o.eps));
    let (mut squares, mut nonzero) = (0.0, 0.0);
    for r in 0..o.p.rows {
        for c in 0..o.p.cols {
            let g = f64::from(o.grad_scale) * m.at(o.g).get(r, c);
            let touched = m.at(o.g).get(r, c) != 0.0;
            squares += g * g;
            nonzero += f64::from(u8::from(touched));
            let grow = if o.sparse == 0 || touched { 1.0 } else { 0.0 };
            let m1 = beta1 * m.at(o.m).get(r, c) + grow * (1.0 - beta1) * g;
            let v1 = beta2 * m.at(o.v).get(r, c) + grow * (1.0 - beta2) * g * g;
            let step = match (o.sparse, touched) {
                (0, _) => lr / bc1 * m1 / (v1.sqrt() / root + eps),
                (_, true) => lr * root / bc1 * m1 / (v1.sqrt() + eps),
                (_, false) => 0.0,
            };
            m.at(o.m).set(r, c, m1);
            m.at(o.v).set(r, c, v1);
            m.at(o.p).set(r, c, m.at(o.p).get(r, c) - step);
            if o.low.is_some() {
                m.at(o.low).set(r, c, m.at(o.p).get(r, c));
            }
        }
    }
    if o.stats.is_some() {
        m.at(o.stats).set(0, 0, squares);
        m.at(o.stats).set(0, 1, nonzero);
    }
    Ok(())
}

pub(super) fn random(m: Live, o: &op::Random) -> Outcome {
    for r in 0..o.y.rows {
        for c in 0..o.y.cols {
            let i = o.offset + r * o.y.cols + c;
            let v = match o.kind {
                RandomKind::Uniform => philox::uniform(o.seed, i, o.a, o.b),
                _ => philox::normal(o.seed, i, o.a, o.b),
            };
            m.at(o.y).set(r, c, v.into());
        }
    }
    Ok(())
}
