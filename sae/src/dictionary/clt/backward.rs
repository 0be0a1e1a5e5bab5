//! Loss and gradients (VARIANTS §8.5), the mask honoured: means over tokens that count and over layers. Source layer by source
//! layer, so that values per entry and pre-activations exist for one layer at a time.

use super::{
    Clt, Params,
    forward::hidden,
    turned::Turned,
    work::{Entries, LAYERS, Path, QUAD, REC, SQUARES, Store, Train, Work, mixed_up, part_rows},
};
use crate::{
    Result,
    dictionary::{LossTerms, StepInput, coder::blocks, grad},
    parallel::Mesh,
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{
    GemmOpts, MapKind, PenaltyArgs, PenaltyKind, Queue, ReduceKind, Reduction, Tensor, View, ViewMut,
};
use std::ops::Range;

/// Rows whose error and gradient are computed one after the other, while they are in the second-level cache.
const CACHED_ROWS: usize = 512;

/// What the penalty of a layer needs beside its codes.
struct Penalise<'a> {
    kind: SparsityLoss,
    settings: &'a LossSettings,
}

impl Penalise<'_> {
    fn args<'a>(&self, t: &'a Factors<'_>, norms: View<'a>, r: Range<usize>) -> PenaltyArgs<'a> {
        PenaltyArgs {
            kind: if self.kind == SparsityLoss::Power { PenaltyKind::Power } else { PenaltyKind::Tanh },
            scale: Some(norms),
            weight: Some(t.weight.rows_view(r)),
            colgain: (self.kind == SparsityLoss::TanhQuad).then(|| t.gain.view()),
            p: self.settings.p,
            c: self.settings.tanh_stretch,
        }
    }
}

/// Factors of the penalty's gradient.
struct Factors<'t> {
    weight: &'t Tensor,
    gain: &'t Tensor,
}

impl Clt {
    /// Errors, gradients and the loss of the codes and reconstructions at hand.
    pub(super) fn backward(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        settings: &LossSettings,
        l1: f32,
    ) -> Result<LossTerms> {
        self.prepare(q, input, settings, l1)?;
        self.errors(q, input)?;
        let layers = self.p.layers;
        let penalise = settings.sparsity.map(|kind| Penalise { kind, settings });
        if settings.sparsity == Some(SparsityLoss::TanhQuad) {
            self.mean_activity(q, settings, l1)?;
        }
        for l in 0..layers {
            match self.base.settings.act_fn().has_k() {
                true => self.sparse_grads(q, l, input.inputs[l], penalise.as_ref())?,
                false => self.dense_grads(q, l, input.inputs[l], penalise.as_ref())?,
            }
        }
        let Work { train: Some(t), theta, .. } = &mut self.work else { return Err(mixed_up()) };
        if let (Some(log_theta), Some(theta), Some(dtheta)) = (&mut self.p.log_theta, theta, &t.dtheta) {
            // θ = exp(log θ)
            q.zip(MapKind::Mul, dtheta, &*theta, 1.0, 0.0, grad(log_theta)?)?;
        }
        terms(q, &self.base.mesh, t, layers, input.weight, settings, l1)
    }

    /// The decoders' gradients in the order that turns each layer's codes once: parameter and rows.
    pub(super) fn made(&self) -> Vec<(usize, Range<usize>)> {
        let (d, layers) = (self.base.settings.d_model(), 0..self.p.layers);
        let of = |l: usize| {
            let first = self.p.of(l).start;
            let rows = move |r: Range<usize>| first + r.start..first + r.end;
            let parts = move || blocks(self.p.s, part_rows(self.p.s, d)).map(rows);
            (l..self.p.layers).flat_map(move |t| parts().map(move |rows| (Params::DECODERS + t, rows)))
        };
        if self.work.train.is_some() { layers.flat_map(of).collect() } else { Vec::new() }
    }

    /// The gradient of one of these, from codes and errors of the last step.
    pub(super) fn make(
        &mut self,
        q: &mut Queue,
        param: usize,
        rows: Range<usize>,
        dw: ViewMut<'_>,
    ) -> Result<()> {
        let Self { p, work: Work { train: Some(t), codes, done, .. }, .. } = self else {
            return Err(mixed_up());
        };
        let l = rows.start / p.s.max(1);
        let features = rows.start - l * p.s..rows.end - l * p.s;
        let dy = t.dy[param - Params::DECODERS].rows_view(0..*done);
        match codes {
            Store::Sparse(codes) => {
                if t.made != Some(l) {
                    codes.turn(q, l)?;
                    t.made = Some(l);
                }
                Ok(q.sparse_mul(codes.turned()?.part(features), dy, None, dw, 0.0)?)
            }
            Store::Dense(f) => {
                let f = f[l].rows_view(0..*done).slice_cols(features);
                Ok(q.gemm(f, dy, dw, GemmOpts { ta: true, ..Default::default() })?)
            }
        }
    }

    /// Fills what depends on row weights and coefficients only.
    fn prepare(&mut self, q: &mut Queue, input: &StepInput<'_>, s: &LossSettings, l1: f32) -> Result<()> {
        let (rows, layers) = (input.weight.rows(), self.p.layers as f32);
        let total = match s.sparsity {
            Some(SparsityLoss::TanhQuad) => self.base.mesh.data.total(q, rows)?,
            _ => rows,
        };
        let Work { train: Some(t), .. } = &mut self.work else { return Err(mixed_up()) };
        q.fill(t.ones.rows_mut(0..rows), 1.0)?;
        q.map(MapKind::Affine, input.weight, 2.0 / layers, 0.0, t.error_weight.rows_mut(0..rows))?;
        let penalty = t.penalty_weight.rows_mut(0..rows);
        match s.sparsity {
            // A mean over all rows, masked ones too; the coefficient is in the column gains.
            Some(SparsityLoss::TanhQuad) => q.fill(penalty, 1.0 / (total as f32 * layers))?,
            Some(_) => q.map(MapKind::Affine, input.weight, l1 / layers, 0.0, penalty)?,
            None => {}
        }
        if let Some(dtheta) = &mut t.dtheta {
            q.fill(dtheta, 0.0)?;
        }
        t.has_row_penalty = s.sparsity.is_some_and(|kind| kind != SparsityLoss::TanhQuad);
        t.made = None;
        Ok(())
    }

    /// Squared errors, the gradients of reconstructions and of decoder biases.
    fn errors(&mut self, q: &mut Queue, input: &StepInput<'_>) -> Result<()> {
        let Work { train: Some(t), y_hat, done, .. } = &mut self.work else { return Err(mixed_up()) };
        for (l, label) in input.labels.iter().enumerate() {
            for r in blocks(*done, CACHED_ROWS) {
                let mut dy = t.dy[l].rows_mut(r.clone());
                let (y, beta) = (label.slice_rows(r.clone()), if l == 0 { 0.0 } else { 1.0 });
                q.zip(MapKind::Add, y_hat[l].rows_view(r.clone()), y, 1.0, -1.0, dy.reborrow())?;
                q.reduce_cols(ReduceKind::SumSq, dy.as_view(), t.row_rec.rows_mut(r.clone()), beta)?;
                let weight = t.error_weight.rows_view(r.clone());
                q.zip_in_place(MapKind::Mul, weight, 1.0, 0.0, dy.reborrow())?;
                let beta = if r.start == 0 { 0.0 } else { 1.0 };
                q.reduce_rows(ReduceKind::Sum, dy.as_view(), None, grad(&mut self.p.b_d[l])?, beta)?;
            }
        }
        Ok(())
    }

    /// First pass of tanh-quad: the mean of tanh over batch and layers, and the gain of each column that follows.
    fn mean_activity(&mut self, q: &mut Queue, settings: &LossSettings, l1: f32) -> Result<()> {
        let Work { train: Some(t), codes, norms, done, block, .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let n = (self.base.mesh.data.total(q, *done)? * self.p.layers) as f32;
        q.fill(&mut t.quad, 0.0)?;
        for l in 0..self.p.layers {
            let args = PenaltyArgs {
                kind: PenaltyKind::TanhValue,
                scale: Some(norms.view().slice_cols(self.p.of(l))),
                weight: None,
                colgain: None,
                p: settings.p,
                c: settings.tanh_stretch,
            };
            match (&mut *codes, &mut t.path) {
                (Store::Dense(f), Path::Dense { spare, .. }) => {
                    for r in blocks(*done, *block) {
                        let mut tanh = spare.rows_mut(0..r.len());
                        q.penalty_dense(f[l].rows_view(r), args, None, tanh.reborrow())?;
                        q.reduce_rows(ReduceKind::Sum, tanh.as_view(), None, &mut t.quad, 1.0)?;
                    }
                }
                (Store::Sparse(codes), Path::Sparse(entries)) => {
                    codes.turn(q, l)?;
                    q.penalty_sparse(codes.view(l), args, None, codes.like_mut(&mut entries.penalty))?;
                    let (turned, penalty) = (codes.turned()?, codes.like(&entries.penalty));
                    turned.pick(q, penalty, turned.ones(self.p.s), &mut entries.spare)?;
                    let sums = t.quad.view_mut().reshaped(self.p.s, 1);
                    q.sparse_mul(turned.with(&entries.spare), turned.ones(*done), None, sums, 1.0)?;
                }
                _ => return Err(mixed_up()),
            }
        }
        self.base.mesh.data.all_reduce(q, &mut t.quad, Reduction::Sum)?;
        q.map_in_place(MapKind::Affine, 1.0 / n, 0.0, &mut t.quad)?;
        Ok(q.map(MapKind::Affine, &t.quad, 2.0 * l1 / settings.frequency_scale, l1, &mut t.quad_gain)?)
    }

    /// Gradients of what layer `l` reads and writes, from its sparse codes.
    fn sparse_grads(
        &mut self,
        q: &mut Queue,
        l: usize,
        x: View<'_>,
        penalise: Option<&Penalise<'_>>,
    ) -> Result<()> {
        let Work { train: Some(t), codes: Store::Sparse(codes), norms, done, .. } = &mut self.work else {
            return Err(mixed_up());
        };
        let own = self.p.of(l);
        let Train { path: Path::Sparse(entries), dy, row_penalty, penalty_weight, quad_gain, .. } = t else {
            return Err(mixed_up());
        };
        codes.turn(q, l)?;
        let turned = codes.turned()?;
        for (target, w_d) in self.p.w_d.iter().enumerate().skip(l) {
            let (dy, w) = (dy[target].rows_view(0..*done), w_d.value.rows_view(own.clone()));
            let out = if target == l { &mut entries.dcodes } else { &mut entries.spare };
            q.sparse_dot(turned.all(), dy, w, turned.like_mut(out))?;
            if target > l {
                add_spare(q, turned, entries)?;
            }
        }
        if let Some(p) = penalise {
            let norms = norms.view().slice_cols(own.clone());
            let factors = Factors { weight: penalty_weight, gain: quad_gain };
            let args = p.args(&factors, norms, 0..*done);
            let out = row_penalty.rows_mut(0..*done).slice_cols(l..l + 1);
            q.penalty_sparse(codes.view(l), args, Some(out), codes.like_mut(&mut entries.penalty))?;
            // u = f·n
            let factors = norms.reshaped(self.p.s, 1);
            turned.pick(q, codes.like(&entries.penalty), factors, &mut entries.spare)?;
            add_spare(q, turned, entries)?;
        }
        // dW_E[l] = Σ dcodes·x and db_E[l] = Σ dcodes over the entries of each feature.
        let dcodes = turned.with(&entries.dcodes);
        q.sparse_mul(dcodes, x, None, grad(&mut self.p.w_e)?.rows_mut(own), 0.0)?;
        let db = grad(&mut self.p.b_e)?.rows_mut(l..l + 1).reshaped(self.p.s, 1);
        Ok(q.sparse_mul(dcodes, turned.ones(*done), None, db, 0.0)?)
    }

    /// Gradients of what layer `l` reads and writes, block by block of its dense codes.
    fn dense_grads(
        &mut self,
        q: &mut Queue,
        l: usize,
        x: View<'_>,
        penalise: Option<&Penalise<'_>>,
    ) -> Result<()> {
        let (gated, window) =
            (self.base.settings.gated(), self.base.settings.common.jumprelu_threshold_window);
        let Work { train: Some(t), codes: Store::Dense(f), h, norms, theta, done, block, .. } =
            &mut self.work
        else {
            return Err(mixed_up());
        };
        let own = self.p.of(l);
        let norms = norms.view().slice_cols(own.clone());
        let theta = theta.as_ref().map(|t| t.rows_view(l..l + 1));
        let Train {
            path: Path::Dense { df, spare }, dy, row_penalty, penalty_weight, quad_gain, dtheta, ..
        } = t
        else {
            return Err(mixed_up());
        };
        for r in blocks(*done, *block) {
            let beta = if r.start == 0 { 0.0 } else { 1.0 };
            let f = f[l].rows_view(r.clone());
            let mut df = df.rows_mut(0..r.len());
            for (target, w_d) in self.p.w_d.iter().enumerate().skip(l) {
                let dy = dy[target].rows_view(r.clone());
                let add = if target == l { 0.0 } else { 1.0 };
                let w = w_d.value.rows_view(own.clone());
                q.gemm(dy, w, df.reborrow(), GemmOpts { tb: true, beta: add, ..Default::default() })?;
            }
            if let Some(p) = penalise {
                let factors = Factors { weight: penalty_weight, gain: quad_gain };
                let args = p.args(&factors, norms, r.clone());
                let mut du = spare.rows_mut(0..r.len());
                let out = row_penalty.rows_mut(r.clone()).slice_cols(l..l + 1);
                q.penalty_dense(f, args, Some(out), du.reborrow())?;
                q.zip_in_place(MapKind::Mul, norms, 1.0, 0.0, du.reborrow())?;
                q.zip_in_place(MapKind::Add, du.as_view(), 1.0, 1.0, df.reborrow())?;
            }
            let x = x.slice_rows(r.clone());
            let mut dh = spare.rows_mut(0..r.len());
            match (theta, &mut *dtheta) {
                (Some(theta), Some(dtheta)) => {
                    // Near its threshold h matters on both sides, and only f was kept.
                    let mut h = h.rows_mut(0..r.len());
                    hidden(q, &self.p, l, x, h.reborrow())?;
                    let jump = Some((theta, window, dtheta.rows_mut(l..l + 1)));
                    q.gate_grad(h.as_view(), gated.then_some(norms), jump, df.as_view(), dh.reborrow())?;
                }
                _ => q.gate_grad(f, None, None, df.as_view(), dh.reborrow())?,
            }
            let dw = grad(&mut self.p.w_e)?.rows_mut(own.clone());
            q.gemm(dh.as_view(), x, dw, GemmOpts { ta: true, beta, ..Default::default() })?;
            let db = grad(&mut self.p.b_e)?.rows_mut(l..l + 1);
            q.reduce_rows(ReduceKind::Sum, dh.as_view(), None, db, beta)?;
        }
        Ok(())
    }
}

/// `dcodes += spare`, entry by entry.
fn add_spare(q: &mut Queue, turned: &Turned, entries: &mut Entries) -> Result<()> {
    let Entries { dcodes, spare, .. } = entries;
    Ok(q.zip_in_place(MapKind::Add, turned.like(spare), 1.0, 1.0, turned.like_mut(dcodes))?)
}

/// Sums the parts and brings them to the host, in one transfer; over the ranks that share the batch or the features, too.
fn terms(
    q: &mut Queue,
    mesh: &Mesh,
    t: &mut Train,
    layers: usize,
    weight: View<'_>,
    s: &LossSettings,
    l1: f32,
) -> Result<LossTerms> {
    let rows = weight.rows();
    let Train { scalars, row_rec, row_penalty, quad, has_row_penalty, .. } = t;
    q.reduce_rows(ReduceKind::Sum, row_rec.rows_view(0..rows), Some(weight), at(scalars, REC..REC + 1), 0.0)?;
    if *has_row_penalty {
        q.map_in_place(MapKind::Affine, l1, 0.0, row_penalty.rows_mut(0..rows))?;
        let rows = row_penalty.rows_view(0..rows);
        q.reduce_rows(ReduceKind::Sum, rows, Some(weight), at(scalars, LAYERS..LAYERS + layers), 0.0)?;
    }
    if s.sparsity == Some(SparsityLoss::TanhQuad) {
        q.reduce_cols(ReduceKind::Sum, &*quad, at(scalars, QUAD..QUAD + 1), 0.0)?;
        q.reduce_cols(ReduceKind::SumSq, &*quad, at(scalars, SQUARES..SQUARES + 1), 0.0)?;
    }
    let mut sums: Vec<f32> = q.download(&*scalars)?;
    mesh.data.sum_parts(q, &mut sums, &[QUAD, SQUARES])?;
    mesh.model.sum_parts(q, &mut sums, &[REC])?;
    let l_rec = sums[REC] / layers as f32;
    let l_s = s.sparsity.map(|kind| match kind {
        SparsityLoss::TanhQuad => l1 * (sums[QUAD] + sums[SQUARES] / s.frequency_scale),
        _ => sums[LAYERS..LAYERS + layers].iter().sum::<f32>() / layers as f32,
    });
    Ok(LossTerms { loss: l_rec + l_s.unwrap_or(0.0), l_rec, l_s, l_p: None, l_aux: None })
}

fn at(scalars: &mut Tensor, which: Range<usize>) -> ViewMut<'_> {
    scalars.view_mut().slice_cols(which)
}
