//! relu and jumprelu: a batch passes in blocks of rows, each through forward and backward at once; only the activations
//! themselves are kept for the whole batch. Where the loss first needs something of all rows (the mean activity of
//! tanh-quad, or which features are dead after this step) pre-activations are computed a second time.

use super::{
    Params, Sae, aux,
    encode::{dense_grads, hidden},
    grad,
    loss::{self, Parts},
    work::{Aux, Path, Store, Train, Work, blocks, mixed_up},
};
use crate::{
    Result,
    dictionary::{Coefficients, DeadFeatures, StepInput},
    settings::SaeSettings,
    training::LossSettings,
};
use lm_saes_runtime::{
    CompactArgs, GemmOpts, MapKind, Queue, ReduceKind, Select, ThresholdPenaltyArgs, View,
};
use std::ops::Range;

/// What a block's backward needs to know of the step.
struct Step<'a> {
    cfg: &'a SaeSettings,
    input: &'a StepInput<'a>,
    settings: &'a LossSettings,
    c: Coefficients,
    parts: Parts,
}

impl Sae {
    /// Codes and reconstruction of `x [B, d]`.
    pub(super) fn forward_dense(&mut self, q: &mut Queue, x: View<'_>) -> Result<()> {
        for r in blocks(x.rows(), self.work.block) {
            forward_block(q, &self.p, &self.cfg, &mut self.work, x, r)?;
        }
        Ok(())
    }

    /// Forward, errors and the gradients of matrices, encoder biases and thresholds.
    pub(super) fn step_dense(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        settings: &LossSettings,
        c: Coefficients,
        parts: &mut Parts,
        mut dead: Option<&mut DeadFeatures>,
    ) -> Result<()> {
        let x = input.inputs[0];
        let twice = parts.quad() || parts.auxk;
        if twice {
            self.forward_dense(q, x)?;
            if parts.quad() {
                self.mean_activity(q, settings, c.l1, x.rows())?;
            }
            if let Some(dead) = dead.take() {
                parts.dead = self.age_dense(q, input, dead, parts.auxk)?;
            }
        }
        if let (Some(t), Some(_)) = (&mut self.work.train, &self.p.log_theta) {
            q.fill(&mut t.dtheta, 0.0)?;
        }
        let step = Step { cfg: &self.cfg, input, settings, c, parts: *parts };
        for r in blocks(x.rows(), self.work.block) {
            if twice {
                let Work { h, gate, .. } = &mut self.work;
                hidden(q, &self.p, x.slice_rows(r.clone()), h.rows_mut(0..r.len()), gate)?;
            } else {
                forward_block(q, &self.p, &self.cfg, &mut self.work, x, r.clone())?;
            }
            backward_block(q, &mut self.p, &mut self.work, &step, r)?;
        }
        if let Some(dead) = dead {
            self.age_dense(q, input, dead, false)?;
        }
        Ok(())
    }

    /// First pass of tanh-quad over the activations of the batch.
    fn mean_activity(&mut self, q: &mut Queue, settings: &LossSettings, l1: f32, rows: usize) -> Result<()> {
        let Work { codes: Store::Dense(f), train: Some(t), norms, block, .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let Train { path: Path::Dense { spare, .. }, quad, .. } = &mut *t else { return Err(mixed_up()) };
        for r in blocks(rows, *block) {
            let mut tanh = spare.rows_mut(0..r.len());
            let beta = if r.start == 0 { 0.0 } else { 1.0 };
            q.penalty_dense(f.rows_view(r), loss::tanh_value(settings, norms), None, tanh.reborrow())?;
            q.reduce_rows(ReduceKind::Sum, tanh.as_view(), None, &mut *quad, beta)?;
        }
        loss::quad_gain(q, t, settings, l1, rows)
    }

    /// Counts activity, ages, and for the auxiliary loss prepares the scale that lets only dead features through a gate.
    fn age_dense(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        dead: &mut DeadFeatures,
        needed: bool,
    ) -> Result<usize> {
        let gated = self.gated();
        let Work { codes: Store::Dense(f), train: Some(t), norms, .. } = &mut self.work else {
            return Err(mixed_up());
        };
        q.fill(&mut dead.fired, 0.0)?;
        q.activity_dense(f.rows_view(0..input.weight.rows()), input.mask, &mut dead.fired)?;
        let flags = aux::age(q, dead, input.n_tokens, needed)?;
        let n = aux::count(&flags);
        if let (1.., Some(Aux { scale: Some(scale), .. })) = (n, &mut t.aux) {
            let living_0: Vec<f32> = flags.iter().map(|&d| f32::from(d)).collect();
            q.upload(&living_0, &mut *scale)?;
            if gated {
                q.zip_in_place(MapKind::Mul, &*norms, 1.0, 0.0, scale)?;
            }
        }
        Ok(n)
    }
}

/// Codes and reconstruction of rows `r`; `w.h` keeps their pre-activations.
fn forward_block(
    q: &mut Queue,
    p: &Params,
    cfg: &SaeSettings,
    w: &mut Work,
    x: View<'_>,
    r: Range<usize>,
) -> Result<()> {
    let Work { codes: Store::Dense(f), h, gate, y_hat, norms, theta, .. } = w else { return Err(mixed_up()) };
    hidden(q, p, x.slice_rows(r.clone()), h.rows_mut(0..r.len()), gate)?;
    // Without a threshold the sign of h·n is that of h.
    let scale = (theta.is_some() && cfg.sparsity_include_decoder_norm).then(|| norms.view());
    let theta = theta.as_ref().map(|t| t.view());
    let rule = CompactArgs { select: Select { scale, mask: None }, theta, thr: None };
    let mut f = f.rows_mut(r.clone());
    q.gate(h.rows_view(0..r.len()), rule, f.reborrow())?;
    let decode = GemmOpts { bias: p.decoder_bias(), ..Default::default() };
    Ok(q.gemm(f.as_view(), &p.w_d.value, y_hat.rows_mut(r), decode)?)
}

/// Errors and gradients of rows `r`, whose pre-activations are in `w.h`. The first block overwrites gradients, later ones add.
fn backward_block(
    q: &mut Queue,
    p: &mut Params,
    w: &mut Work,
    step: &Step<'_>,
    r: Range<usize>,
) -> Result<()> {
    let beta = if r.start == 0 { 0.0 } else { 1.0 };
    let n = r.len();
    let Work { codes: Store::Dense(f), h, gate, y_hat, norms, theta, train: Some(t), .. } = w else {
        return Err(mixed_up());
    };
    let (h, f, x) = (h.rows_view(0..n), f.rows_view(r.clone()), step.input.inputs[0].slice_rows(r.clone()));
    let theta = theta.as_ref().map(|t| t.view());
    let window = step.cfg.jumprelu_threshold_window;
    loss::error(q, t, y_hat, step.input.labels[0], r.clone())?;
    let with_aux = (step.parts.dead > 0).then_some(step.c.auxk);
    if with_aux.is_some() {
        forward_dead(q, p, t, h, theta, r.clone())?;
    }
    let detached = step.settings.auxk_detached;
    loss::error_grad(q, t, step.input.weight, with_aux, detached, r.clone())?;

    let Train {
        path: Path::Dense { df, dh, spare },
        dy,
        aux,
        dn,
        dtheta,
        lp_weight,
        row_lp,
        row_penalty,
        penalty_weight,
        quad_gain,
        ..
    } = &mut *t
    else {
        return Err(mixed_up());
    };
    let dy = dy.rows_view(r.clone());
    // df = dy·W_Dᵀ, dW_D = fᵀ·dy
    let transposed = GemmOpts { tb: true, ..Default::default() };
    let outer = |beta| GemmOpts { ta: true, beta, ..Default::default() };
    q.gemm(dy, &p.w_d.value, df.rows_mut(0..n), transposed)?;
    q.gemm(f, dy, grad(&mut p.w_d)?, outer(beta))?;
    if let Some(kind) = step.parts.sparsity {
        let args = loss::penalty_args(step.settings, kind, norms, penalty_weight, quad_gain, r.clone());
        let out = Some(row_penalty.rows_mut(r.clone()));
        let (mut du, mut product) = (spare.rows_mut(0..n), dh.rows_mut(0..n));
        q.penalty_dense(f, args, out, du.reborrow())?;
        q.zip(MapKind::Mul, du.as_view(), f, 1.0, 0.0, product.reborrow())?;
        q.reduce_rows(ReduceKind::Sum, product.as_view(), None, &mut *dn, 1.0)?;
        q.zip_in_place(MapKind::Mul, &*norms, 1.0, 0.0, du.reborrow())?;
        q.zip_in_place(MapKind::Add, du.as_view(), 1.0, 1.0, df.rows_mut(0..n))?;
    }
    let scale = (theta.is_some() && step.cfg.sparsity_include_decoder_norm).then(|| norms.view());
    let jump = theta.map(|theta| (theta, window, dtheta.view_mut()));
    q.gate_grad(h, scale, jump, df.rows_view(0..n), dh.rows_mut(0..n))?;
    if let (true, Some(theta)) = (step.parts.lp, theta) {
        q.threshold_penalty(ThresholdPenaltyArgs {
            x: h,
            scale: Some(norms.view()),
            theta,
            weight: lp_weight.rows_view(r.clone()),
            gated: step.settings.lp_gated && step.cfg.sparsity_include_decoder_norm,
            out: row_lp.rows_mut(r.clone()),
            dx: Some(dh.rows_mut(0..n)),
            dtheta: Some(dtheta.view_mut()),
            dn: Some(dn.view_mut()),
        })?;
    }
    if let (Some(_), Some(Aux { codes: Store::Dense(f_dead), e_hat, scale: Some(scale), .. })) =
        (with_aux, aux)
    {
        let de = e_hat.rows_view(r);
        q.gemm(de, &p.w_d.value, df.rows_mut(0..n), transposed)?;
        q.gemm(f_dead.rows_view(0..n), de, grad(&mut p.w_d)?, outer(1.0))?;
        let jump = theta.map(|theta| (theta, window, dtheta.view_mut()));
        q.gate_grad(h, Some(scale.view()), jump, df.rows_view(0..n), spare.rows_mut(0..n))?;
        q.zip_in_place(MapKind::Add, spare.rows_view(0..n), 1.0, 1.0, dh.rows_mut(0..n))?;
    }
    dense_grads(q, p, x, dh.rows_view(0..n), gate, spare.rows_mut(0..n), beta)
}

/// Activations of the dead features of rows `r` and what they reconstruct, without bias.
fn forward_dead(
    q: &mut Queue,
    p: &Params,
    t: &mut Train,
    h: View<'_>,
    theta: Option<View<'_>>,
    r: Range<usize>,
) -> Result<()> {
    let Some(Aux { codes: Store::Dense(f), e_hat, scale: Some(scale), .. }) = &mut t.aux else {
        return Err(mixed_up());
    };
    let rule = CompactArgs { select: Select { scale: Some(scale.view()), mask: None }, theta, thr: None };
    let mut f = f.rows_mut(0..r.len());
    q.gate(h, rule, f.reborrow())?;
    Ok(q.gemm(f.as_view(), &p.w_d.value, e_hat.rows_mut(r), GemmOpts::default())?)
}
