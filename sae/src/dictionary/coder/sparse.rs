//! topk and batchtopk: codes are sparse from selection to gradient. A block of pre-activations is selected from as soon as
//! it is computed, so for topk the matrix `[B, S]` never exists; batchtopk ranks across the batch and keeps it.

use super::{
    Coder, Decoder, Encoder,
    codes::{SparseCodes, Window},
    dead as dead_features, grad,
    loss::{self, Parts},
    work::{Aux, Path, Store, Train, Work, blocks, mixed_up},
};
use crate::{
    Result,
    dictionary::{
        Base, Coefficients, DeadFeatures, StepInput,
        ranked::{self, Ranked},
        slots::Slots,
    },
    parallel::{Mesh, Selected},
    settings::ActFn,
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{Queue, Rank, Select, Tensor, View};

/// Where pre-activations go, how many rows of them at a time, and what other ranks have of the batch.
struct Hidden<'a> {
    h: &'a mut Tensor,
    block: usize,
    base: &'a Base,
    /// For a ranking by rows: its budget, and the contest with other ranks.
    k: usize,
    ranked: &'a mut Option<Ranked>,
}

impl Coder {
    /// Codes and reconstruction of `x [B, d]`.
    pub(super) fn forward_sparse(&mut self, q: &mut Queue, x: View<'_>, k: usize) -> Result<()> {
        self.select_sparse(q, x, k)?;
        let Work { codes: Store::Sparse(codes), y_hat, .. } = &mut self.work else { return Err(mixed_up()) };
        decode(q, &self.base, &self.p, codes, x, y_hat)
    }

    /// How a row is ranked, and how many slots it has here for a budget of `k` features.
    pub(super) fn rank(&self, k: usize) -> (Rank, usize) {
        let act_fn = self.base.settings.act_fn();
        let (k, abs) = (k.min(self.base.settings.d_sae()), act_fn == ActFn::AbsTopK);
        match act_fn {
            ActFn::GroupMax => {
                (Rank { abs, groups: k / self.base.share.model().0 }, k / self.base.share.model().0)
            }
            ActFn::BatchTopK => (Rank { abs, groups: 1 }, k),
            _ => (Rank { abs, groups: 1 }, ranked::slots(k, self.base.features())),
        }
    }

    /// Codes of `x [B, d]`.
    fn select_sparse(&mut self, q: &mut Queue, x: View<'_>, k: usize) -> Result<()> {
        let gated = self.gated();
        let (rank, slots) = self.rank(k);
        let Work { norms, h, codes, block, ranked, .. } = &mut self.work;
        let Store::Sparse(codes) = codes else { return Err(mixed_up()) };
        codes.set(x.rows(), slots);
        let select = Select { scale: gated.then(|| norms.view()), mask: None };
        // Every rank has whole groups.
        let mut apart = None;
        let ranked = if self.base.settings.act_fn() == ActFn::GroupMax { &mut apart } else { ranked };
        let k = k.min(self.base.settings.d_sae());
        let e = Hidden { h, block: *block, base: &self.base, k, ranked };
        encode(q, &mut *self.encoder, e, x, (select, rank), codes, false)
    }

    /// Forward, errors and the gradients of matrices and encoder biases.
    pub(super) fn step_sparse(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        settings: &LossSettings,
        c: Coefficients,
        parts: &mut Parts,
        dead: Option<&mut DeadFeatures>,
    ) -> Result<()> {
        let (x, rows) = (input.inputs[0], input.inputs[0].rows());
        self.select_sparse(q, x, c.k)?;
        if let Some(dead) = dead {
            parts.dead = self.age_sparse(q, input, dead, parts.auxk)?;
            if parts.dead > 0 {
                self.forward_dead(q, x, parts.dead, dead)?;
            }
        }
        let Work { codes: Store::Sparse(codes), y_hat, norms, train: Some(t), .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let with_aux = (parts.dead > 0).then_some(c.auxk);
        let label = input.labels[0];
        let share = match &mut t.levels {
            Some(levels) => {
                levels.decode(q, &self.base, &self.p, codes, y_hat, label)?;
                levels.share()
            }
            None => {
                decode(q, &self.base, &self.p, codes, x, y_hat)?;
                1.0
            }
        };
        for r in blocks(rows, loss::CACHED_ROWS) {
            loss::error(q, t, y_hat, label, r.clone())?;
            loss::error_grad(q, t, input.weight, with_aux, settings.auxk_detached, share, r.clone())?;
            if t.levels.is_none() {
                loss::bias_grad(q, &mut self.p, &t.dy, x, r)?;
            }
        }

        let Train { path: Path::Sparse(slots), dy, levels, row_rec, .. } = &mut *t else {
            return Err(mixed_up());
        };
        match levels {
            Some(levels) => {
                levels.accumulate(q, dy, input.weight, row_rec)?;
                loss::bias_grad(q, &mut self.p, levels.first(dy), x, 0..rows)?;
                levels.decoder_grads(q, &mut self.p, codes, slots, dy)?;
            }
            None => decoder_grads(q, &mut self.p, &codes.all(), slots, dy.rows_view(0..rows), 0.0)?,
        }
        if parts.quad() {
            mean_activity(q, &self.base.mesh, t, codes, norms.view(), settings, c.l1)?;
        }
        if let Some(kind) = parts.sparsity {
            penalise(q, t, &codes.all(), norms.view(), settings, kind)?;
        }
        let Train { path: Path::Sparse(slots), ones, aux, .. } = &mut *t else { return Err(mixed_up()) };
        let ones = ones.rows_view(0..rows);
        self.encoder.sparse_grads(q, x, codes, slots, ones, 0.0)?;
        if let (Some(_), Some(Aux { codes: Store::Sparse(codes), e_hat, .. })) = (with_aux, aux) {
            decoder_grads(q, &mut self.p, &codes.all(), slots, e_hat.rows_view(0..rows), 1.0)?;
            self.encoder.sparse_grads(q, x, codes, slots, ones, 1.0)?;
        }
        Ok(())
    }

    /// Counts activity and ages; the number of dead features, where `needed`.
    pub(super) fn age_sparse(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        dead: &mut DeadFeatures,
        needed: bool,
    ) -> Result<usize> {
        let Store::Sparse(codes) = &self.work.codes else { return Err(mixed_up()) };
        q.fill(&mut dead.fired, 0.0)?;
        q.activity_sparse(codes.view(), input.mask, &mut dead.fired)?;
        Ok(dead_features::age(q, &self.base.mesh, dead, input.n_tokens, needed)?.0)
    }

    /// The best dead features of `x [B, d]` and what they reconstruct, without bias.
    pub(super) fn forward_dead(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        n: usize,
        dead: &DeadFeatures,
    ) -> Result<()> {
        let gated = self.gated();
        // The best dead features, wherever they are.
        let rank = Rank { groups: 1, ..self.rank(1).0 };
        let Work { norms, h, block, ranked, train: Some(Train { aux: Some(aux), .. }), .. } = &mut self.work
        else {
            return Err(mixed_up());
        };
        let Aux { codes: Store::Sparse(codes), e_hat, k_aux, .. } = aux else { return Err(mixed_up()) };
        let k = n.min(*k_aux);
        let slots = if codes.spans_batch() { k } else { ranked::slots(k, self.base.features()) };
        codes.set(x.rows(), slots);
        let select = Select { scale: gated.then(|| norms.view()), mask: Some(dead.dead.view()) };
        let computed = codes.spans_batch();
        let e = Hidden { h, block: *block, base: &self.base, k, ranked };
        encode(q, &mut *self.encoder, e, x, (select, rank), codes, computed)?;
        let mut e_hat = e_hat.rows_mut(0..x.rows());
        q.sparse_mul(codes.view(), &self.p.w_d.value, None, e_hat.reborrow(), 0.0)?;
        self.base.sum_over_features(q, e_hat)
    }
}

/// Selects codes from the pre-activations of `x [B, d]`; `computed` says that `e.h` already holds those of the whole batch.
fn encode(
    q: &mut Queue,
    encoder: &mut dyn Encoder,
    e: Hidden<'_>,
    x: View<'_>,
    (select, rank): (Select<'_>, Rank),
    codes: &mut SparseCodes,
    computed: bool,
) -> Result<()> {
    let rows = x.rows();
    if codes.spans_batch() {
        codes.set_total(e.base.mesh.data.total(q, rows)?);
    }
    let budget = codes.len();
    let Some((vals, idx, ptr, thr)) = codes.ragged_mut() else {
        for r in blocks(rows, e.block) {
            encoder.hidden(q, x.slice_rows(r.clone()), e.h.rows_mut(0..r.len()))?;
            let h = e.h.rows_view(0..r.len());
            let (vals, idx) = codes.rows_mut(r);
            ranked::topk(e.ranked, q, (rank, h, select), e.k, (vals, idx))?;
        }
        return Ok(());
    };
    if !computed {
        for r in blocks(rows, e.block) {
            encoder.hidden(q, x.slice_rows(r.clone()), e.h.rows_mut(r))?;
        }
    }
    let h = e.h.rows_view(0..rows);
    let out = Selected { vals, idx, ptr, limit: thr.view_mut() };
    e.base.share.select_over_batch(q, &e.base.mesh, 1, (h, select), budget, out)
}

/// ŷ of the codes and of `x [B, d]`.
fn decode(
    q: &mut Queue,
    base: &Base,
    p: &Decoder,
    codes: &SparseCodes,
    x: View<'_>,
    y_hat: &mut Tensor,
) -> Result<()> {
    let mut y_hat = y_hat.rows_mut(0..x.rows());
    q.sparse_mul(codes.view(), &p.w_d.value, p.bias_once(base), y_hat.reborrow(), 0.0)?;
    loss::add_skip(q, base, p, x, y_hat.reborrow())?;
    base.sum_over_features(q, y_hat)
}

/// Groups the codes by column; `dW_D = beta·old + fᵀ·dy`; `slots.dcodes = dy·W_Dᵀ` at the entries (`=`).
pub(super) fn decoder_grads(
    q: &mut Queue,
    p: &mut Decoder,
    codes: &Window<'_>,
    slots: &mut Slots,
    dy: View<'_>,
    beta: f32,
) -> Result<()> {
    let s = codes.view();
    slots.sort(q, s)?;
    q.sparse_outer(slots.by_column(), s.vals, dy, grad(&mut p.w_d)?, beta)?;
    slots.dot(q, s, p.w_d.value.view(), dy)
}

/// First pass of tanh-quad, over the codes of the batch, which are grouped by column already.
pub(super) fn mean_activity(
    q: &mut Queue,
    mesh: &Mesh,
    t: &mut Train,
    codes: &SparseCodes,
    norms: View<'_>,
    settings: &LossSettings,
    l1: f32,
) -> Result<()> {
    let rows = codes.rows();
    let Train { path: Path::Sparse(slots), ones, quad, .. } = &mut *t else { return Err(mixed_up()) };
    let tanh = loss::tanh_value(settings, norms);
    slots.sum_tanh(q, codes.view(), tanh, ones.rows_view(0..rows), quad.view_mut(), 0.0)?;
    loss::quad_gain(q, mesh, t, settings, l1, rows)
}

/// Sparsity penalty on `u = f·n`, of codes last grouped by column: adds `du·n` to `slots.dcodes` and `Σ du·f` to `t.dn`.
pub(super) fn penalise(
    q: &mut Queue,
    t: &mut Train,
    codes: &Window<'_>,
    norms: View<'_>,
    settings: &LossSettings,
    kind: SparsityLoss,
) -> Result<()> {
    let r = codes.rows();
    let Train { path: Path::Sparse(slots), ones, dn, row_penalty, penalty_weight, quad_gain, .. } = t else {
        return Err(mixed_up());
    };
    let args = loss::penalty_args(settings, kind, norms, penalty_weight, quad_gain, r.clone());
    let ones = ones.rows_view(0..r.len());
    slots.penalise(q, codes.view(), args, ones, row_penalty.rows_mut(r), Some(dn.view_mut()))
}
