//! The top-k family behind an encoder that joins rows, such as attention: its gradients are dense, so blocks of rows go
//! forward and backward at once, and no dense matrix but a block's exists (batchtopk keeps the pre-activations it ranks). Where
//! the loss first needs something of all rows (the batch's threshold, the mean activity of tanh-quad, which features are dead
//! after this step), a first pass selects the codes, and the second brings back what gradients of the encoder need.

use super::{
    Coder,
    loss::{self, Parts},
    sparse::{decoder_grads, mean_activity, penalise},
    work::{Aux, Path, Store, Train, Work, blocks, mixed_up},
};
use crate::{
    Result,
    dictionary::{Coefficients, DeadFeatures, StepInput, ranked},
    training::LossSettings,
};
use lm_saes_runtime::{Queue, Rank, Select, View};
use std::ops::Range;

/// What blocks need to know of the step.
struct Step<'a> {
    input: &'a StepInput<'a>,
    settings: &'a LossSettings,
    c: Coefficients,
    parts: Parts,
}

impl Coder {
    /// [`Coder::step_sparse`] for an encoder that joins rows.
    pub(super) fn step_joined(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        settings: &LossSettings,
        c: Coefficients,
        parts: &mut Parts,
        mut dead: Option<&mut DeadFeatures>,
    ) -> Result<()> {
        let (x, rows) = (input.inputs[0], input.inputs[0].rows());
        let (_, slots) = self.rank(c.k);
        let Store::Sparse(codes) = &mut self.work.codes else { return Err(mixed_up()) };
        let whole = codes.spans_batch();
        codes.set(rows, slots);
        let twice = whole || parts.quad() || parts.auxk;
        let mut living = None;
        if twice {
            self.forward_sparse(q, x, c.k)?;
            if parts.quad() {
                self.mean_activity_of_codes(q, settings, c.l1)?;
            }
            if let Some(dead) = dead.take() {
                parts.dead = self.age_sparse(q, input, dead, parts.auxk)?;
                if parts.dead > 0 && whole {
                    self.forward_dead(q, x, parts.dead, dead)?;
                }
                living = Some(dead);
            }
        }
        let step = Step { input, settings, c, parts: *parts };
        for r in blocks(rows, self.work.block) {
            let x = x.slice_rows(r.clone());
            if !twice {
                self.forward_rows(q, x, r.clone(), c.k)?;
            } else if let Some(dead) = living.as_deref().filter(|_| parts.dead > 0 && !whole) {
                self.forward_dead_rows(q, x, r.clone(), rows, parts.dead, dead)?;
            } else {
                self.encoder.recall(q, x)?;
            }
            self.backward_rows(q, &step, r)?;
        }
        if let Some(dead) = dead {
            self.age_sparse(q, input, dead, false)?;
        }
        Ok(())
    }

    /// First pass of tanh-quad over the codes of the batch.
    fn mean_activity_of_codes(&mut self, q: &mut Queue, settings: &LossSettings, l1: f32) -> Result<()> {
        let Work { codes: Store::Sparse(codes), norms, train: Some(t), .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let Train { path: Path::Sparse(slots), .. } = &mut *t else { return Err(mixed_up()) };
        slots.sort(q, codes.view())?;
        mean_activity(q, &self.base.mesh, t, codes, norms.view(), settings, l1)
    }

    /// Codes and reconstruction of rows `r`, with inputs `x`.
    fn forward_rows(&mut self, q: &mut Queue, x: View<'_>, r: Range<usize>, k: usize) -> Result<()> {
        let gated = self.gated();
        let k = k.min(self.base.settings.d_sae());
        let Work { codes: Store::Sparse(codes), h, norms, y_hat, ranked, .. } = &mut self.work else {
            return Err(mixed_up());
        };
        self.encoder.hidden(q, x, h.rows_mut(0..r.len()))?;
        let select = Select { scale: gated.then(|| norms.view()), mask: None };
        let (vals, idx) = codes.rows_mut(r.clone());
        let ranking = (Rank::default(), h.rows_view(0..r.len()), select);
        ranked::topk(ranked, q, ranking, k, (vals, idx))?;
        let picked = codes.window(r.clone());
        let bias = self.p.bias_once(&self.base);
        q.sparse_mul(picked.view(), &self.p.w_d.value, bias, y_hat.rows_mut(r.clone()), 0.0)?;
        self.base.sum_over_features(q, y_hat.rows_mut(r))
    }

    /// The best dead features of rows `r` of `rows`, with inputs `x`, and what they reconstruct, without bias.
    fn forward_dead_rows(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        r: Range<usize>,
        rows: usize,
        n: usize,
        dead: &DeadFeatures,
    ) -> Result<()> {
        let gated = self.gated();
        let Work { norms, h, ranked, train: Some(Train { aux: Some(aux), .. }), .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let Aux { codes: Store::Sparse(codes), e_hat, k_aux, .. } = aux else { return Err(mixed_up()) };
        let k = n.min(*k_aux);
        codes.set(rows, ranked::slots(k, self.base.features()));
        self.encoder.hidden(q, x, h.rows_mut(0..r.len()))?;
        let select = Select { scale: gated.then(|| norms.view()), mask: Some(dead.dead.view()) };
        let (vals, idx) = codes.rows_mut(r.clone());
        let ranking = (Rank::default(), h.rows_view(0..r.len()), select);
        ranked::topk(ranked, q, ranking, k, (vals, idx))?;
        let picked = codes.window(r.clone());
        q.sparse_mul(picked.view(), &self.p.w_d.value, None, e_hat.rows_mut(r.clone()), 0.0)?;
        self.base.sum_over_features(q, e_hat.rows_mut(r))
    }

    /// Errors and gradients of rows `r`, on which the encoder was last; pre-activations of the block are overwritten.
    fn backward_rows(&mut self, q: &mut Queue, step: &Step<'_>, r: Range<usize>) -> Result<()> {
        let Work { codes: Store::Sparse(codes), y_hat, norms, h, train: Some(t), .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let with_aux = (step.parts.dead > 0).then_some(step.c.auxk);
        for part in blocks(r.len(), loss::CACHED_ROWS) {
            let part = r.start + part.start..r.start + part.end;
            loss::error(q, t, y_hat, step.input.labels[0], part.clone())?;
            let detached = step.settings.auxk_detached;
            loss::error_grad(q, t, step.input.weight, with_aux, detached, 1.0, part.clone())?;
            loss::bias_grad(q, &mut self.p, &t.dy, step.input.inputs[0], part)?;
        }
        let beta = if r.start == 0 { 0.0 } else { 1.0 };
        let Train { path: Path::Sparse(slots), dy, .. } = &mut *t else { return Err(mixed_up()) };
        let picked = codes.window(r.clone());
        decoder_grads(q, &mut self.p, &picked, slots, dy.rows_view(r.clone()), beta)?;
        if let Some(kind) = step.parts.sparsity {
            penalise(q, t, &picked, norms.view(), step.settings, kind)?;
        }
        let Train { path: Path::Sparse(slots), dh: Some(dh), aux, .. } = &mut *t else {
            return Err(mixed_up());
        };
        let mut dh = dh.rows_mut(0..r.len());
        q.scatter(picked.with(&slots.dcodes), dh.reborrow(), 0.0)?;
        if let (Some(_), Some(Aux { codes: Store::Sparse(codes), e_hat, .. })) = (with_aux, aux) {
            let picked = codes.window(r.clone());
            decoder_grads(q, &mut self.p, &picked, slots, e_hat.rows_view(r.clone()), 1.0)?;
            q.scatter(picked.with(&slots.dcodes), dh.reborrow(), 1.0)?;
        }
        let x = step.input.inputs[0].slice_rows(r.clone());
        let spare = if codes.spans_batch() { h.rows_mut(r) } else { h.rows_mut(0..r.len()) };
        self.encoder.dense_grads(q, x, dh.as_view(), spare, beta)
    }
}
