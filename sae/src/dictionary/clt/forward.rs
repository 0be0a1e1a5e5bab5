//! Encoding layer by layer, the four selections of the top-k family (VARIANTS §3.5) and gates, and decoding.

use super::{
    Clt, Params,
    work::{Store, Work, joint, mixed_up},
};
use crate::{
    Result,
    dictionary::{
        coder::blocks,
        ranked::{self, slots},
    },
    parallel::Selected,
    settings::ActFn,
};
use lm_saes_runtime::{CompactArgs, GemmOpts, Queue, Rank, Select, View, ViewMut};

/// `h = x·W_E[l] + b_E[l]`, `x [B, d]`, `h [B, S]`.
pub(super) fn hidden(q: &mut Queue, p: &Params, l: usize, x: View<'_>, h: ViewMut<'_>) -> Result<()> {
    let bias = Some(p.b_e.value.rows_view(l..l + 1));
    let w = p.w_e.value.rows_view(p.of(l));
    Ok(q.gemm(x, w, h, GemmOpts { tb: true, bias, ..Default::default() })?)
}

impl Clt {
    /// Codes of every layer from `x [B, d]` of every layer.
    pub(super) fn encode(&mut self, q: &mut Queue, x: &[View<'_>], k: usize) -> Result<()> {
        if let Store::Sparse(codes) = &mut self.work.codes {
            let wide = if joint(self.base.planned_act_fn()) { self.p.layers * self.p.s } else { self.p.s };
            codes.set(x[0].rows(), if codes.spans_batch() { k } else { slots(k, wide) });
            if codes.spans_batch() {
                codes.set_total(self.base.mesh.data.total(q, x[0].rows())?);
            }
        }
        match self.base.planned_act_fn() {
            ActFn::LayerTopK => self.encode_layertopk(q, x, k),
            ActFn::BatchLayerTopK => self.encode_batchlayertopk(q, x),
            _ => x.iter().enumerate().try_for_each(|(l, x)| self.encode_layer(q, l, *x, k)),
        }
    }

    /// Codes of layer `l` alone, from its `x [B, d]`, where layers do not compete.
    pub(super) fn encode_layer(&mut self, q: &mut Queue, l: usize, x: View<'_>, k: usize) -> Result<()> {
        match self.base.planned_act_fn() {
            ActFn::TopK => self.encode_topk(q, l, x, k),
            ActFn::BatchTopK => self.encode_batchtopk(q, l, x),
            _ => self.encode_dense(q, l, x),
        }
    }

    fn encode_topk(&mut self, q: &mut Queue, l: usize, x: View<'_>, k: usize) -> Result<()> {
        let gated = self.base.settings.gated();
        let Work { h, norms, codes: Store::Sparse(codes), block, ranked, .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let scale = gated.then(|| norms.view().slice_cols(self.p.of(l)));
        for r in blocks(x.rows(), *block) {
            let mut h = h.rows_mut(0..r.len());
            hidden(q, &self.p, l, x.slice_rows(r.clone()), h.reborrow())?;
            let ranking = (Rank::default(), h.as_view(), Select { scale, mask: None });
            ranked::topk(ranked, q, ranking, k, codes.rows_mut(Some(l), r)?)?;
        }
        Ok(())
    }

    fn encode_batchtopk(&mut self, q: &mut Queue, l: usize, x: View<'_>) -> Result<()> {
        let gated = self.base.settings.gated();
        let Work { h, norms, codes: Store::Sparse(codes), .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let budget = codes.len();
        let mut h = h.rows_mut(0..x.rows());
        hidden(q, &self.p, l, x, h.reborrow())?;
        let scale = gated.then(|| norms.view().slice_cols(self.p.of(l)));
        let select = Select { scale, mask: None };
        let (vals, idx, ptr, limit) = codes.ragged_mut(Some(l))?;
        let out = Selected { vals, idx, ptr, limit };
        self.base.share.select_over_batch(q, &self.base.mesh, 1, (h.as_view(), select), budget, out)
    }

    /// layertopk: all layers of a block side by side, `[block, L·S]`.
    fn encode_layertopk(&mut self, q: &mut Queue, x: &[View<'_>], k: usize) -> Result<()> {
        let gated = self.base.settings.gated();
        let Work { h, norms, codes: Store::Sparse(codes), block, ranked, .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let select = Select { scale: gated.then(|| norms.view()), mask: None };
        for r in blocks(x[0].rows(), *block) {
            let mut h = h.rows_mut(0..r.len());
            for (l, x) in x.iter().enumerate() {
                let columns = h.reborrow().slice_cols(self.p.of(l));
                hidden(q, &self.p, l, x.slice_rows(r.clone()), columns)?;
            }
            let ranking = (Rank::default(), h.as_view(), select);
            ranked::topk(ranked, q, ranking, k, codes.rows_mut(None, r)?)?;
        }
        codes.divide(q)
    }

    /// batchlayertopk: layer by layer, what each offers; then what each keeps of it.
    fn encode_batchlayertopk(&mut self, q: &mut Queue, x: &[View<'_>]) -> Result<()> {
        let gated = self.base.settings.gated();
        let Work { h, norms, codes: Store::Sparse(codes), .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let norms = |l: usize| gated.then(|| norms.view().slice_cols(self.p.of(l)));
        let mut h = h.rows_mut(0..x[0].rows());
        for (l, x) in x.iter().enumerate() {
            hidden(q, &self.p, l, *x, h.reborrow())?;
            codes.offer(q, l, h.as_view(), norms(l))?;
        }
        for (l, n) in codes.settle(q, &self.base)?.into_iter().enumerate() {
            codes.keep(q, l, n, h.reborrow(), norms(l))?;
        }
        Ok(())
    }

    fn encode_dense(&mut self, q: &mut Queue, l: usize, x: View<'_>) -> Result<()> {
        let gated = self.base.settings.gated();
        let Work { h, norms, theta, codes: Store::Dense(f), block, .. } = &mut self.work else {
            return Err(mixed_up());
        };
        // Without a threshold the sign of h·n is that of h.
        let scale = (theta.is_some() && gated).then(|| norms.view().slice_cols(self.p.of(l)));
        let theta = theta.as_ref().map(|t| t.rows_view(l..l + 1));
        let rule = CompactArgs { select: Select { scale, mask: None }, theta, thr: None };
        for r in blocks(x.rows(), *block) {
            let mut h = h.rows_mut(0..r.len());
            hidden(q, &self.p, l, x.slice_rows(r.clone()), h.reborrow())?;
            q.gate(h.as_view(), rule, f[l].rows_mut(r))?;
        }
        Ok(())
    }

    /// Reconstructions of every layer from the codes.
    pub(super) fn decode(&mut self, q: &mut Queue) -> Result<()> {
        let Work { codes, y_hat, done, .. } = &mut self.work;
        for (t, y) in y_hat.iter_mut().enumerate() {
            let mut y = y.rows_mut(0..*done);
            for s in 0..=t {
                let bias = Some(self.p.b_d[t].value.view()).filter(|_| self.base.share.leads());
                let (bias, beta) = if s == 0 { (bias, 0.0) } else { (None, 1.0) };
                let w = self.p.w_d[t].value.rows_view(self.p.of(s));
                match &*codes {
                    Store::Sparse(codes) => q.sparse_mul(codes.view(s), w, bias, y.reborrow(), beta)?,
                    Store::Dense(f) => {
                        let opts = GemmOpts { bias, beta, ..Default::default() };
                        q.gemm(f[s].rows_view(0..*done), w, y.reborrow(), opts)?;
                    }
                }
            }
            self.base.sum_over_features(q, y)?;
        }
        Ok(())
    }
}
