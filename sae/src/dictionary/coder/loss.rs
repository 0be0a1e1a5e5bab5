//! What every path of a step shares: reconstruction error, sparsity coefficients, the tanh-quad gain, the gradient of the
//! decoder norms, and the sums that make up [`LossTerms`]. VARIANTS §5.

use super::{
    Decoder, grad,
    work::{AUX, LP, PENALTY, QUAD_SQUARES, REC, Train},
};
use crate::{
    Result,
    dictionary::{Base, Coefficients, LossTerms, StepInput, reciprocals},
    parallel::Mesh,
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{
    GemmOpts, MapKind, PenaltyArgs, PenaltyKind, Queue, ReduceKind, Reduction, Tensor, View, ViewMut,
};
use std::ops::Range;

/// Which parts the loss of this step has.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// Penalty on activations.
    pub sparsity: Option<SparsityLoss>,
    /// The target-l0 loss.
    pub target: bool,
    /// The encoder's activations beside the codes reconstruct too.
    pub side: bool,
    pub lp: bool,
    /// Dead features there are; 0 when the auxiliary loss is off.
    pub dead: usize,
    pub auxk: bool,
}

impl Parts {
    pub fn quad(&self) -> bool {
        self.sparsity == Some(SparsityLoss::TanhQuad)
    }
    /// Whether the loss looks at decoder norms.
    pub fn norms(&self) -> bool {
        self.sparsity.is_some() || self.lp
    }
    /// Whether it has a gradient with respect to them.
    fn norm_grads(&self) -> bool {
        self.norms() && !self.side
    }
}

/// Rows whose error, gradient and bias gradient are computed one after the other, while they are in the second-level cache.
pub(super) const CACHED_ROWS: usize = 512;

/// Fills what depends on row weights and coefficients only; the batch has `total` rows, other ranks' included.
pub(super) fn prepare(
    q: &mut Queue,
    t: &mut Train,
    parts: Parts,
    input: &StepInput<'_>,
    c: Coefficients,
    total: usize,
) -> Result<()> {
    let rows = input.weight.rows();
    q.fill(t.ones.rows_mut(0..rows), 1.0)?;
    match parts.sparsity {
        // A mean over all rows, masked ones too; the coefficient is in the column gains.
        Some(SparsityLoss::TanhQuad) => q.fill(t.penalty_weight.rows_mut(0..rows), 1.0 / total as f32)?,
        Some(_) => q.map(MapKind::Affine, input.weight, c.l1, 0.0, t.penalty_weight.rows_mut(0..rows))?,
        None => {}
    }
    if parts.lp {
        q.map(MapKind::Affine, input.weight, c.lp, 0.0, t.lp_weight.rows_mut(0..rows))?;
    }
    if parts.norms() {
        q.fill(&mut t.dn, 0.0)?;
    }
    t.has_row_penalty = parts.sparsity.is_some() && !parts.quad();
    Ok(())
}

/// `dy = ŷ − y` and its squared norm for these rows.
pub(super) fn error(
    q: &mut Queue,
    t: &mut Train,
    y_hat: &Tensor,
    label: View<'_>,
    r: Range<usize>,
) -> Result<()> {
    let label = label.slice_rows(r.clone());
    q.zip(MapKind::Add, y_hat.rows_view(r.clone()), label, 1.0, -1.0, t.dy.rows_mut(r.clone()))?;
    Ok(q.reduce_cols(ReduceKind::SumSq, t.dy.rows_view(r.clone()), t.row_rec.rows_mut(r), 0.0)?)
}

/// From ŷ − y to the gradient of the loss: `dy = 2·share·w·dy`, and with the auxiliary reconstruction ê in `aux.e_hat`
/// (`e = y − ŷ`, loss `c·w·‖e − ê‖²`): `dê = 2·c·w·(ŷ − y + ê)`, which is also what flows into ŷ unless e counts as constant.
pub(super) fn error_grad(
    q: &mut Queue,
    t: &mut Train,
    weight: View<'_>,
    aux: Option<f32>,
    detached: bool,
    share: f32,
    r: Range<usize>,
) -> Result<()> {
    let w = weight.slice_rows(r.clone());
    let mut dy = t.dy.rows_mut(r.clone());
    let Some((c, aux)) = aux.zip(t.aux.as_mut()) else {
        return Ok(q.zip_in_place(MapKind::Mul, w, 2.0 * share, 0.0, dy)?);
    };
    let mut de = aux.e_hat.rows_mut(r.clone());
    q.zip_in_place(MapKind::Add, dy.as_view(), 1.0, 1.0, de.reborrow())?;
    q.reduce_cols(ReduceKind::SumSq, de.as_view(), t.row_aux.rows_mut(r), 0.0)?;
    q.zip_in_place(MapKind::Mul, w, 2.0 * c, 0.0, de.reborrow())?;
    q.zip_in_place(MapKind::Mul, w, 2.0 * share, 0.0, dy.reborrow())?;
    if !detached {
        q.zip_in_place(MapKind::Add, de.as_view(), 1.0, 1.0, dy)?;
    }
    Ok(())
}

/// `db_D` and `dW_skip` from dy of rows `r` of `x [B, d]`; the first rows overwrite them, later ones add.
pub(super) fn bias_grad(
    q: &mut Queue,
    p: &mut Decoder,
    dy: &Tensor,
    x: View<'_>,
    r: Range<usize>,
) -> Result<()> {
    let beta = if r.start == 0 { 0.0 } else { 1.0 };
    let dy = dy.rows_view(r.clone());
    if let Some(b_d) = &mut p.b_d {
        q.reduce_rows(ReduceKind::Sum, dy, None, grad(b_d)?, beta)?;
    }
    let Some(skip) = &mut p.skip else { return Ok(()) };
    Ok(q.gemm(x.slice_rows(r), dy, grad(skip)?, GemmOpts { ta: true, beta, ..Default::default() })?)
}

/// `ŷ += x·W_skip`, on one of the ranks whose ŷ are added up.
pub(super) fn add_skip(
    q: &mut Queue,
    base: &Base,
    p: &Decoder,
    x: View<'_>,
    y_hat: ViewMut<'_>,
) -> Result<()> {
    let Some(skip) = p.skip.as_ref().filter(|_| base.share.leads()) else { return Ok(()) };
    Ok(q.gemm(x, &skip.value, y_hat, GemmOpts { beta: 1.0, ..Default::default() })?)
}

/// How a penalty is computed on codes of these rows.
pub(super) fn penalty_args<'a>(
    loss: &LossSettings,
    kind: SparsityLoss,
    norms: View<'a>,
    weight: &'a Tensor,
    quad_gain: &'a Tensor,
    r: Range<usize>,
) -> PenaltyArgs<'a> {
    PenaltyArgs {
        kind: kind.kind().unwrap_or(PenaltyKind::Tanh),
        scale: Some(norms),
        weight: Some(weight.rows_view(r)),
        colgain: (kind == SparsityLoss::TanhQuad).then(|| quad_gain.view()),
        p: loss.p,
        c: loss.tanh_stretch,
    }
}

/// The first pass of tanh-quad: what makes the op return tanh(c·u).
pub(super) fn tanh_value<'a>(loss: &LossSettings, norms: View<'a>) -> PenaltyArgs<'a> {
    PenaltyArgs {
        kind: PenaltyKind::TanhValue,
        scale: Some(norms),
        weight: None,
        colgain: None,
        p: loss.p,
        c: loss.tanh_stretch,
    }
}

/// From this rank's column sums of tanh over `rows` rows in `t.quad`: the mean q, the gain `λ(1 + 2q/scale)`, and both parts of `Σ q + q²/scale`.
pub(super) fn quad_gain(
    q: &mut Queue,
    mesh: &Mesh,
    t: &mut Train,
    loss: &LossSettings,
    l1: f32,
    rows: usize,
) -> Result<()> {
    let rows = mesh.data.total(q, rows)?;
    mesh.data.all_reduce(q, &mut t.quad, Reduction::Sum)?;
    q.map_in_place(MapKind::Affine, 1.0 / rows as f32, 0.0, &mut t.quad)?;
    q.map(MapKind::Affine, &t.quad, 2.0 * l1 / loss.frequency_scale, l1, &mut t.quad_gain)?;
    q.reduce_cols(ReduceKind::Sum, &t.quad, Train::scalar(&mut t.scalars, PENALTY), 0.0)?;
    Ok(q.reduce_cols(ReduceKind::SumSq, &t.quad, Train::scalar(&mut t.scalars, QUAD_SQUARES), 0.0)?)
}

/// `dW_D[i] += dn_i · W_D[i]/n_i`. A row of zeros has no direction and gets nothing.
pub(super) fn norm_grad(q: &mut Queue, p: &mut Decoder, t: &mut Train, norms: &Tensor) -> Result<()> {
    reciprocals(q, norms, &mut t.inv_n)?;
    q.zip_in_place(MapKind::Mul, &t.inv_n, 1.0, 0.0, &mut t.dn)?;
    let features = t.dn.cols();
    let column = t.dn.view().reshaped(features, 1);
    let w_d = p.w_d.value.view();
    let Some(grad) = p.w_d.grad.as_mut() else { return Ok(()) };
    for start in (0..features).step_by(t.dw.rows().max(1)) {
        let r = start..(start + t.dw.rows()).min(features);
        let mut part = t.dw.rows_mut(0..r.len());
        let scale = column.slice_rows(r.clone());
        q.zip(MapKind::Mul, w_d.slice_rows(r.clone()), scale, 1.0, 0.0, part.reborrow())?;
        q.zip_in_place(MapKind::Add, part.as_view(), 1.0, 1.0, grad.rows_mut(r))?;
    }
    Ok(())
}

/// The ends of every backward: norms and thresholds.
pub(super) fn finish_grads(
    q: &mut Queue,
    p: &mut Decoder,
    t: &mut Train,
    parts: Parts,
    norms: &Tensor,
    theta: Option<&Tensor>,
) -> Result<()> {
    if parts.norm_grads() {
        norm_grad(q, p, t, norms)?;
    }
    let (Some(own), Some(theta)) = (&mut p.threshold, theta) else { return Ok(()) };
    if p.direct {
        return Ok(q.copy(&t.dtheta, grad(own)?)?);
    }
    // θ = exp(log θ)
    Ok(q.zip(MapKind::Mul, &t.dtheta, theta, 1.0, 0.0, grad(own)?)?)
}

/// Sums the parts and brings them to the host, in one transfer; over the ranks that share the batch or the features, too.
pub(super) fn terms(
    q: &mut Queue,
    mesh: &Mesh,
    t: &mut Train,
    parts: Parts,
    weight: View<'_>,
    loss: &LossSettings,
    c: Coefficients,
) -> Result<LossTerms> {
    let rows = weight.rows();
    if t.has_row_penalty {
        q.map_in_place(MapKind::Affine, c.l1, 0.0, t.row_penalty.rows_mut(0..rows))?;
    }
    let sums = [
        (REC, true, &t.row_rec),
        (PENALTY, t.has_row_penalty, &t.row_penalty),
        (LP, parts.lp, &t.row_lp),
        (AUX, parts.dead > 0 || parts.side, &t.row_aux),
    ];
    for (which, present, row) in sums {
        if present {
            let out = Train::scalar(&mut t.scalars, which);
            q.reduce_rows(ReduceKind::Sum, row.rows_view(0..rows), Some(weight), out, 0.0)?;
        }
    }
    let mut s: Vec<f32> = q.download(&t.scalars)?;
    // These two were made of sums over all ranks.
    let whole = parts.quad() || parts.target;
    mesh.data.sum_parts(q, &mut s, if whole { &[PENALTY, QUAD_SQUARES] } else { &[] })?;
    // Errors are of whole reconstructions, and the target's sums are of all features already.
    let known = if parts.target { &[REC, AUX, PENALTY, QUAD_SQUARES][..] } else { &[REC, AUX] };
    mesh.model.sum_parts(q, &mut s, known)?;
    let l_s = parts.sparsity.map(|kind| match kind {
        SparsityLoss::TanhQuad => c.l1 * (s[PENALTY] + s[QUAD_SQUARES] / loss.frequency_scale),
        SparsityLoss::Power | SparsityLoss::PowerSum | SparsityLoss::Tanh | SparsityLoss::TargetL0 => {
            s[PENALTY]
        }
    });
    let l_s = match parts.target {
        true => Some(c.l1 * (s[PENALTY] / loss.target_l0 - 1.0).powi(2)),
        false => l_s,
    };
    let l_p = parts.lp.then(|| c.lp * s[LP]);
    let l_aux = match parts.side {
        true => Some(s[AUX]),
        false => parts.auxk.then(|| if parts.dead > 0 { c.auxk * s[AUX] } else { 0.0 }),
    };
    let loss = s[REC] + l_s.unwrap_or(0.0) + l_p.unwrap_or(0.0) + l_aux.unwrap_or(0.0);
    Ok(LossTerms { loss, l_rec: s[REC], l_s, l_p, l_aux })
}
