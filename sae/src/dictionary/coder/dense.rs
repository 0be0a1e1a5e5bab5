//! relu and jumprelu: a batch passes in blocks of rows, each through forward and backward at once; only the activations
//! themselves are kept for the whole batch. Where the loss first needs something of all rows (the mean activity of
//! tanh-quad, or which features are dead after this step) pre-activations are computed a second time.

use super::{
    Coder, Decoder, Encoder, Side, dead as dead_features, grad,
    loss::{self, Parts},
    target,
    work::{Aux, Path, Store, Train, Work, blocks, mixed_up},
};
use crate::{
    Result,
    dictionary::{Base, Coefficients, DeadFeatures, StepInput},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{
    CompactArgs, GemmOpts, MapKind, Queue, ReduceKind, Select, ThresholdPenaltyArgs, View, ViewMut,
};
use std::ops::Range;

/// What a block's backward needs to know of the step.
struct Step<'a> {
    base: &'a Base,
    input: &'a StepInput<'a>,
    settings: &'a LossSettings,
    c: Coefficients,
    parts: Parts,
}

impl Coder {
    /// Codes and reconstruction of `x [B, d]`.
    pub(super) fn forward_dense(&mut self, q: &mut Queue, x: View<'_>) -> Result<()> {
        for r in blocks(x.rows(), self.work.block) {
            forward_block(q, &mut *self.encoder, &self.p, &self.base, &mut self.work, x, r)?;
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
        if let (Some(t), Some(_)) = (&mut self.work.train, &self.p.threshold) {
            q.fill(&mut t.dtheta, 0.0)?;
        }
        let step = Step { base: &self.base, input, settings, c, parts: *parts };
        for r in blocks(x.rows(), self.work.block) {
            if twice {
                let h = self.work.h.rows_mut(0..r.len());
                self.encoder.hidden(q, x.slice_rows(r.clone()), h)?;
            } else {
                forward_block(q, &mut *self.encoder, &self.p, &self.base, &mut self.work, x, r.clone())?;
            }
            backward_block(q, &mut *self.encoder, &mut self.p, &mut self.work, &step, r)?;
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
            q.penalty_dense(f.rows_view(r), loss::tanh_value(settings, norms.view()), None, tanh.reborrow())?;
            q.reduce_rows(ReduceKind::Sum, tanh.as_view(), None, &mut *quad, beta)?;
        }
        loss::quad_gain(q, &self.base.mesh, t, settings, l1, rows)
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
        let (n, flags) = dead_features::age(q, &self.base.mesh, dead, input.n_tokens, needed)?;
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
    encoder: &mut dyn Encoder,
    p: &Decoder,
    base: &Base,
    w: &mut Work,
    x: View<'_>,
    r: Range<usize>,
) -> Result<()> {
    let Work { codes: Store::Dense(f), h, y_hat, norms, theta, .. } = w else { return Err(mixed_up()) };
    encoder.hidden(q, x.slice_rows(r.clone()), h.rows_mut(0..r.len()))?;
    // Without a threshold the sign of h·n is that of h.
    let scale = (theta.is_some() && base.settings.gated()).then(|| norms.view());
    let theta = theta.as_ref().map(|t| t.view());
    let rule = CompactArgs { select: Select { scale, mask: None }, theta, thr: None };
    let mut f = f.rows_mut(r.clone());
    q.gate(h.rows_view(0..r.len()), rule, f.reborrow())?;
    let decode = GemmOpts { bias: p.bias_once(base), ..Default::default() };
    q.gemm(f.as_view(), &p.w_d.value, y_hat.rows_mut(r.clone()), decode)?;
    loss::add_skip(q, base, p, x.slice_rows(r.clone()), y_hat.rows_mut(r.clone()))?;
    base.sum_over_features(q, y_hat.rows_mut(r))
}

/// Rows `r` of a batch on their way back: pre-activations and activations `[B, S]`, norms and thresholds `[1, S]`.
struct Block<'a> {
    r: Range<usize>,
    h: View<'a>,
    f: View<'a>,
    norms: View<'a>,
    theta: Option<View<'a>>,
    step: &'a Step<'a>,
}

impl Block<'_> {
    fn rows(&self) -> usize {
        self.r.len()
    }
    fn gated(&self) -> bool {
        self.step.base.settings.gated()
    }
}

/// Errors and gradients of rows `r`, whose pre-activations are in `w.h`. The first block overwrites gradients, later ones add.
fn backward_block(
    q: &mut Queue,
    encoder: &mut dyn Encoder,
    p: &mut Decoder,
    w: &mut Work,
    step: &Step<'_>,
    r: Range<usize>,
) -> Result<()> {
    let beta = if r.start == 0 { 0.0 } else { 1.0 };
    let Work { codes: Store::Dense(f), h, y_hat, norms, theta, train: Some(t), .. } = w else {
        return Err(mixed_up());
    };
    let (h, f) = (h.rows_view(0..r.len()), f.rows_view(r.clone()));
    let theta = theta.as_ref().map(|t| t.view());
    let b = Block { r: r.clone(), h, f, norms: norms.view(), theta, step };
    loss::error(q, t, y_hat, step.input.labels[0], r.clone())?;
    let with_aux = (step.parts.dead > 0).then_some(step.c.auxk);
    if with_aux.is_some() {
        forward_dead(q, step.base, p, t, h, theta, r.clone())?;
    }
    loss::error_grad(q, t, step.input.weight, with_aux, step.settings.auxk_detached, 1.0, r.clone())?;
    loss::bias_grad(q, p, &t.dy, step.input.inputs[0], r.clone())?;

    let Train { path: Path::Dense { df, .. }, dy, .. } = &mut *t else { return Err(mixed_up()) };
    decoder_grads(q, p, f, dy.rows_view(r.clone()), df.rows_mut(0..b.rows()), beta)?;
    match (encoder.side(b.rows()), step.parts.sparsity) {
        (Some(side), _) => side_grads(q, p, t, &b, side)?,
        (None, Some(kind)) => penalise(q, t, &b, kind, b.f, None)?,
        (None, None) => {}
    }
    through_gate(q, t, &b)?;
    if step.parts.target {
        let norms = b.gated().then_some(b.norms);
        target::count(q, t, (b.h, b.f), norms, step.input.weight, r.clone())?;
    }
    if with_aux.is_some() {
        dead_grads(q, p, t, &b)?;
    }
    let Train { path: Path::Dense { dh, spare, .. }, .. } = &mut *t else { return Err(mixed_up()) };
    let x = step.input.inputs[0].slice_rows(r);
    encoder.dense_grads(q, x, dh.rows_view(0..b.rows()), spare.rows_mut(0..b.rows()), beta)
}

/// `df = dy·W_Dᵀ` (`=`), `dW_D = beta·old + fᵀ·dy`.
fn decoder_grads(
    q: &mut Queue,
    p: &mut Decoder,
    f: View<'_>,
    dy: View<'_>,
    df: ViewMut<'_>,
    beta: f32,
) -> Result<()> {
    q.gemm(dy, &p.w_d.value, df, GemmOpts { tb: true, ..Default::default() })?;
    Ok(q.gemm(f, dy, grad(&mut p.w_d)?, GemmOpts { ta: true, beta, ..Default::default() })?)
}

/// The side path of rows `r`: its reconstruction through the decoder as it stands, and the penalty. dh is overwritten.
fn side_grads(q: &mut Queue, p: &Decoder, t: &mut Train, b: &Block<'_>, mut side: Side<'_>) -> Result<()> {
    let Some(error) = &mut t.side else { return Err(mixed_up()) };
    let (label, weight) = (b.step.input.labels[0].slice_rows(b.r.clone()), b.step.input.weight);
    let mut e = error.rows_mut(0..b.rows());
    let base = b.step.base;
    let decode = GemmOpts { bias: p.bias_once(base), ..Default::default() };
    q.gemm(side.acts, &p.w_d.value, e.reborrow(), decode)?;
    base.sum_over_features(q, e.reborrow())?;
    q.zip_in_place(MapKind::Add, label, 1.0, -1.0, e.reborrow())?;
    q.reduce_cols(ReduceKind::SumSq, e.as_view(), t.row_aux.rows_mut(b.r.clone()), 0.0)?;
    q.zip_in_place(MapKind::Mul, weight.slice_rows(b.r.clone()), 2.0, 0.0, e.reborrow())?;
    let back = GemmOpts { tb: true, ..Default::default() };
    q.gemm(e.as_view(), &p.w_d.value, side.grad.reborrow(), back)?;
    match b.step.parts.sparsity {
        Some(kind) => penalise(q, t, b, kind, side.acts, Some(side.grad)),
        None => Ok(()),
    }
}

/// Sparsity penalty on `u = f·n`: adds `du·n` to df, and `Σ du·f` to dn, or of a side path to its own gradient alone: were its norms
/// not constant like the rest of its decoder, the decoder would shrink to nothing for the penalty's sake. dh is overwritten.
fn penalise(
    q: &mut Queue,
    t: &mut Train,
    b: &Block<'_>,
    kind: SparsityLoss,
    f: View<'_>,
    df_of_side: Option<ViewMut<'_>>,
) -> Result<()> {
    let Train { path: Path::Dense { df, dh, spare }, dn, row_penalty, penalty_weight, quad_gain, .. } = t
    else {
        return Err(mixed_up());
    };
    let args = loss::penalty_args(b.step.settings, kind, b.norms, penalty_weight, quad_gain, b.r.clone());
    let (mut du, mut product) = (spare.rows_mut(0..b.rows()), dh.rows_mut(0..b.rows()));
    q.penalty_dense(f, args, Some(row_penalty.rows_mut(b.r.clone())), du.reborrow())?;
    if df_of_side.is_none() {
        q.zip(MapKind::Mul, du.as_view(), f, 1.0, 0.0, product.reborrow())?;
        q.reduce_rows(ReduceKind::Sum, product.as_view(), None, dn, 1.0)?;
    }
    q.zip_in_place(MapKind::Mul, b.norms, 1.0, 0.0, du.reborrow())?;
    let df = df_of_side.unwrap_or_else(|| df.rows_mut(0..b.rows()));
    Ok(q.zip_in_place(MapKind::Add, du.as_view(), 1.0, 1.0, df)?)
}

/// `dh` from df (`=`), dθ (`+=`), and what the threshold penalty adds to both and to dn.
fn through_gate(q: &mut Queue, t: &mut Train, b: &Block<'_>) -> Result<()> {
    let Train { path: Path::Dense { df, dh, .. }, dn, dtheta, lp_weight, row_lp, .. } = t else {
        return Err(mixed_up());
    };
    let n = b.rows();
    let scale = (b.theta.is_some() && b.gated()).then_some(b.norms);
    let jump = b
        .theta
        .map(|theta| (theta, b.step.base.settings.common.jumprelu_threshold_window, dtheta.view_mut()));
    q.gate_grad(b.h, scale, jump, df.rows_view(0..n), dh.rows_mut(0..n))?;
    let (true, Some(theta)) = (b.step.parts.lp, b.theta) else { return Ok(()) };
    Ok(q.threshold_penalty(ThresholdPenaltyArgs {
        x: b.h,
        scale: Some(b.norms),
        theta,
        weight: lp_weight.rows_view(b.r.clone()),
        gated: b.step.settings.lp_gated && b.gated(),
        out: row_lp.rows_mut(b.r.clone()),
        dx: Some(dh.rows_mut(0..n)),
        dtheta: Some(dtheta.view_mut()),
        dn: Some(dn.view_mut()),
    })?)
}

/// The auxiliary loss's part of dW_D, dθ and dh (all `+=`), from the gradient in `aux.e_hat`.
fn dead_grads(q: &mut Queue, p: &mut Decoder, t: &mut Train, b: &Block<'_>) -> Result<()> {
    let Train { path: Path::Dense { df, dh, spare }, aux: Some(aux), dtheta, .. } = t else {
        return Err(mixed_up());
    };
    let Aux { codes: Store::Dense(f), e_hat, scale: Some(scale), .. } = aux else { return Err(mixed_up()) };
    let n = b.rows();
    decoder_grads(q, p, f.rows_view(0..n), e_hat.rows_view(b.r.clone()), df.rows_mut(0..n), 1.0)?;
    let jump = b
        .theta
        .map(|theta| (theta, b.step.base.settings.common.jumprelu_threshold_window, dtheta.view_mut()));
    q.gate_grad(b.h, Some(scale.view()), jump, df.rows_view(0..n), spare.rows_mut(0..n))?;
    Ok(q.zip_in_place(MapKind::Add, spare.rows_view(0..n), 1.0, 1.0, dh.rows_mut(0..n))?)
}

/// Activations of the dead features of rows `r` and what they reconstruct, without bias.
fn forward_dead(
    q: &mut Queue,
    base: &Base,
    p: &Decoder,
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
    q.gemm(f.as_view(), &p.w_d.value, e_hat.rows_mut(r.clone()), GemmOpts::default())?;
    base.sum_over_features(q, e_hat.rows_mut(r))
}
