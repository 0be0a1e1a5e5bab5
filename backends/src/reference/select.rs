//! Reference forms of selection: which entries of a dense matrix are kept. Decisions compare f32 values, as the contract
//! says, so that every device keeps the same entries.

use super::{Outcome, host::Live};
use lm_saes_runtime::op::{self, Mat};

/// g = x·scale as the rounded f32 product.
fn gated(m: Live, x: Mat, scale: Mat, r: u64, c: u64) -> f32 {
    let x = m.at(x).f32(r, c);
    if scale.is_some() { x * m.at(scale).f32(0, c) } else { x }
}

pub(super) fn topk(m: Live, o: &op::TopK) -> Outcome {
    let (width, k) = (o.x.cols / o.groups, o.vals.cols / o.groups);
    let rank = |r, c| match o.abs {
        0 => gated(m, o.x, o.scale, r, c),
        _ => m.at(o.x).f32(r, c).abs() * m.or(o.scale, 0, c, 1.0) as f32,
    };
    for (r, group) in (0..o.x.rows).flat_map(|r| (0..o.groups).map(move |group| (r, group))) {
        let mut kept: Vec<(f32, u64)> = (group * width..(group + 1) * width)
            .map(|c| (rank(r, c), c))
            .filter(|&(g, c)| g > 0.0 && m.passes(o.mask, c))
            .collect();
        kept.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for slot in group * k..(group + 1) * k {
            let c = kept.get((slot - group * k) as usize).map(|&(_, c)| c);
            m.at(o.vals).set(r, slot, c.map_or(0.0, |c| m.at(o.x).get(r, c)));
            m.at(o.idx).set_u32(r, slot, c.map_or(u32::MAX, |c| c as u32));
        }
    }
    Ok(())
}

pub(super) fn threshold(m: Live, o: &op::Threshold) -> Outcome {
    let mut kept = Vec::new();
    for r in 0..o.x.rows {
        for c in 0..o.x.cols {
            let g = gated(m, o.x, o.scale, r, c);
            if g > 0.0 && m.passes(o.mask, c) {
                kept.push(g);
            }
        }
    }
    kept.sort_by(|a, b| b.total_cmp(a));
    let (tau, ties) = match o.k {
        0 => (f32::INFINITY, 0),
        k if k > kept.len() as u64 => (0.0, 0),
        k => {
            let top = &kept[..k as usize];
            let tau = top[top.len() - 1];
            (tau, top.iter().filter(|&&g| g == tau).count() as u32)
        }
    };
    m.at(o.out).set_u32(0, 0, tau.to_bits());
    m.at(o.out).set_u32(0, 1, ties);
    Ok(())
}

/// Decides entry by entry in row-major order; `ties` counts the entries equal to τ still to be kept.
struct Rule {
    m: Live,
    x: Mat,
    scale: Mat,
    mask: Mat,
    theta: Mat,
    tau: Option<f32>,
    ties: u32,
}

impl Rule {
    fn new(m: Live, x: Mat, scale: Mat, mask: Mat, theta: Mat, thr: Mat) -> Self {
        let tau = thr.is_some().then(|| f32::from_bits(m.at(thr).u32(0, 0)));
        let ties = if thr.is_some() { m.at(thr).u32(0, 1) } else { 0 };
        Self { m, x, scale, mask, theta, tau, ties }
    }

    fn passes(&mut self, r: u64, c: u64) -> bool {
        let g = gated(self.m, self.x, self.scale, r, c);
        if !(g > 0.0 && self.m.passes(self.mask, c)) {
            return false;
        }
        if self.theta.is_some() {
            return g > self.m.at(self.theta).f32(0, c);
        }
        match self.tau {
            Some(tau) if g == tau => {
                let kept = self.ties > 0;
                self.ties = self.ties.saturating_sub(1);
                kept
            }
            Some(tau) => g > tau,
            None => true,
        }
    }
}

pub(super) fn compact(m: Live, o: &op::Compact) -> Outcome {
    let mut rule = Rule::new(m, o.x, o.scale, o.mask, o.theta, o.thr);
    let (mut n, capacity) = (0, o.y.vals.cols);
    m.at(o.y.ptr).set_u32(0, 0, 0);
    for r in 0..o.x.rows {
        for c in 0..o.x.cols {
            if rule.passes(r, c) {
                if n == capacity {
                    return Err(format!("more than {capacity} entries pass"));
                }
                m.at(o.y.vals).set_flat(n, m.at(o.x).get(r, c));
                m.at(o.y.idx).set_u32(0, n, c as u32);
                n += 1;
            }
        }
        m.at(o.y.ptr).set_u32(0, r + 1, n as u32);
    }
    Ok(())
}

pub(super) fn gate(m: Live, o: &op::Gate) -> Outcome {
    let mut rule = Rule::new(m, o.x, o.scale, Mat::NONE, o.theta, o.thr);
    for r in 0..o.x.rows {
        for c in 0..o.x.cols {
            let y = if rule.passes(r, c) { m.at(o.x).get(r, c) } else { 0.0 };
            m.at(o.y).set(r, c, y);
        }
    }
    Ok(())
}

pub(super) fn gate_grad(m: Live, o: &op::GateGrad) -> Outcome {
    let mut rule = Rule::new(m, o.x, o.scale, Mat::NONE, o.theta, Mat::NONE);
    for c in 0..o.x.cols {
        let mut dtheta = 0.0;
        for r in 0..o.x.rows {
            let (g, df) = (gated(m, o.x, o.scale, r, c), m.at(o.df).get(r, c));
            if o.theta.is_some() {
                let theta = m.at(o.theta).f32(0, c);
                if g > 0.0 && (g - theta).abs() < o.window / 2.0 {
                    let scale = m.or(o.scale, 0, c, 1.0);
                    dtheta -= df * f64::from(theta) / f64::from(o.window) / scale;
                }
            }
            m.at(o.dx).set(r, c, if rule.passes(r, c) { df } else { 0.0 });
        }
        if o.theta.is_some() {
            m.at(o.dtheta).set(0, c, m.at(o.dtheta).get(0, c) + dtheta);
        }
    }
    Ok(())
}
