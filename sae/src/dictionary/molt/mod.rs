//! Mixture of linear transforms (VARIANTS §10): each feature scales a linear map of low rank of the input itself,
//!   h = x·W_E + b_E     f = σ(h·n)/n     ŷ = Σ f_i·U_i·V_i·x + b_D     n_i = ‖U_i·V_i‖
//! With an activation of the top-k family only active transforms are computed, if they are few of many; relu and jumprelu compute all
//! (a threshold's gradient looks at inactive ones too). Selection and losses are [`super::heads`]'s.

mod entries;
mod fold;
mod init;
mod settings;
mod transforms;

pub use settings::{MoltSettings, Rank};

use super::{
    Base, Codes, Coefficients, DeadFeatures, Dictionary, LossTerms, Param, Share, StepInput,
    coder::blocks,
    grad,
    heads::{self, Heads, Way},
    norms_of,
    settings::DictionarySettings,
    unplanned,
};
use crate::{Result, settings::ActFn, training::LossSettings};
use entries::Entries;
use lm_saes_runtime::{Arena, DType, GemmOpts, MapKind, Queue, ReduceKind, Tensor, View};
use transforms::{Scales, Transforms};

/// Rows that pass through the transforms at a time.
const BLOCK: usize = 512;

/// The dictionary.
pub(super) struct Molt {
    base: Base,
    /// `[S, d]`.
    w_e: Param,
    b_e: Param,
    ranks: Vec<Transforms>,
    b_d: Option<Param>,
    threshold: Option<Param>,
    heads: Heads,
    entries: Option<Entries>,
    y_hat: Option<Tensor>,
}

impl Molt {
    /// Zeros.
    pub fn zeros(
        q: &mut Queue,
        settings: &DictionarySettings,
        own: &MoltSettings,
        share: Share,
    ) -> Result<Self> {
        let (s, d) = (settings.d_sae(), settings.d_model());
        let (mut ranks, mut first) = (Vec::new(), 0);
        for (rank, &n) in &own.rank_counts {
            let here = n / share.model().0;
            ranks.push(Transforms::zeros(q, (n, d, rank.0), first..first + here, share.along(0, n))?);
            first += here;
        }
        Ok(Self {
            w_e: Param::transposed(q, "W_E", &[d, s], share.of_features(1))?,
            b_e: Param::zeros(q, "b_E", &[s], share.of_features(0))?,
            ranks,
            b_d: match settings.common.use_decoder_bias {
                true => Some(Param::zeros(q, "b_D", &[d], Vec::new())?),
                false => None,
            },
            threshold: match settings.act_fn() {
                ActFn::JumpRelu => Some(Param::thresholds(q, &[s], share.of_features(0))?),
                _ => None,
            },
            heads: Heads::nothing(settings, (1, share.len()))?,
            base: Base::new(settings, 1, share),
            entries: None,
            y_hat: None,
        })
    }

    fn run(&mut self, q: &mut Queue, x: View<'_>, k: usize, training: bool, norms: bool) -> Result<()> {
        self.heads.begin(q, x.rows(), k, training, self.threshold.as_ref())?;
        self.heads.set_threshold(q, &self.base.running)?;
        if norms || (self.base.settings.gated() && self.base.planned_act_fn() != ActFn::Relu) {
            for t in &mut self.ranks {
                t.planned_norms(q, self.heads.norms.view_mut())?;
            }
        }
        let (w_e, bias) = (&self.w_e.value, Some(self.b_e.value.view()));
        self.heads.encode(q, k, |q, r, h| {
            Ok(q.gemm(x.slice_rows(r), w_e, h, GemmOpts { tb: true, bias, ..Default::default() })?)
        })?;
        let Some(y_hat) = &mut self.y_hat else { return Err(unplanned()) };
        let mut y_hat = y_hat.rows_mut(0..x.rows());
        q.fill(y_hat.reborrow(), 0.0)?;
        if let Some(b_d) = self.b_d.as_ref().filter(|_| self.base.share.leads()) {
            q.zip_in_place(MapKind::Add, &b_d.value, 1.0, 1.0, y_hat.reborrow())?;
        }
        match self.heads.codes(0) {
            Codes::Dense(f) => {
                for r in blocks(x.rows(), BLOCK) {
                    let (x, f) = (x.slice_rows(r.clone()), f.slice_rows(r.clone()));
                    for t in &mut self.ranks {
                        t.apply(q, x, Scales::Features(f), y_hat.reborrow().slice_rows(r.clone()))?;
                    }
                }
            }
            Codes::Sparse(s) => {
                let Some(entries) = &mut self.entries else { return Err(unplanned()) };
                for t in &mut self.ranks {
                    entries.apply(q, t, s, x, y_hat.reborrow())?;
                }
            }
        }
        self.base.sum_over_features(q, y_hat)
    }

    /// Gradients of the transforms and of the activations.
    fn transforms_back(&mut self, q: &mut Queue, x: View<'_>) -> Result<()> {
        match self.heads.way_back(q, 0)? {
            Way::Dense { f, dy, mut df } => {
                for r in blocks(x.rows(), BLOCK) {
                    let beta = if r.start == 0 { 0.0 } else { 1.0 };
                    let [x, f, dy] = [x, f, dy].map(|v| v.slice_rows(r.clone()));
                    for t in &mut self.ranks {
                        let df = df.reborrow().slice_rows(r.clone());
                        t.grads(q, (x, Scales::Features(f), dy), df, beta)?;
                    }
                }
            }
            Way::Sparse { s, dy, slots } => {
                let Some(entries) = &mut self.entries else { return Err(unplanned()) };
                q.fill(&mut slots.dcodes, 0.0)?;
                for t in &mut self.ranks {
                    entries.grads(q, t, s, (x, dy), slots)?;
                }
            }
        }
        Ok(())
    }

    /// Norms of all transforms in temporary memory, `[1, S]`.
    fn current_norms(&self, q: &mut Queue) -> Result<Tensor> {
        let mut out = q.empty(1, self.base.features(), DType::F32)?;
        for t in &self.ranks {
            let mut uu = q.empty(t.rank, t.rank, DType::F32)?;
            let mut vv = q.empty(t.rank, t.rank, DType::F32)?;
            t.norms(q, (&mut uu, &mut vv), out.view_mut())?;
        }
        Ok(out)
    }
}

impl Dictionary for Molt {
    fn base(&self) -> &Base {
        &self.base
    }
    fn base_mut(&mut self) -> &mut Base {
        &mut self.base
    }
    fn params(&self) -> Vec<&Param> {
        let mut all = vec![&self.w_e, &self.b_e];
        all.extend(self.ranks.iter().flat_map(|t| [&t.u, &t.v]));
        all.extend(&self.b_d);
        all.extend(&self.threshold);
        all
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        let mut all = vec![&mut self.w_e, &mut self.b_e];
        all.extend(self.ranks.iter_mut().flat_map(|t| [&mut t.u, &mut t.v]));
        all.extend(&mut self.b_d);
        all.extend(&mut self.threshold);
        all
    }

    fn plan(
        &mut self,
        arena: &mut Arena,
        rows: usize,
        max_k: usize,
        loss: Option<&LossSettings>,
    ) -> Result<()> {
        for p in self.params_mut() {
            p.plan_grad(arena, loss.is_some())?;
        }
        let planned = self.base.planned(loss.is_some());
        let s = self.base.features();
        let (sparse, k) = (planned.act_fn().has_k(), max_k.min(s));
        // One rank may hold all that a selection over the batch lets through.
        let most = match planned.act_fn() {
            ActFn::BatchTopK => max_k.min(self.d_sae()) * self.base.mesh.data.size(),
            _ => k,
        };
        let few = sparse && heads::by_entries(k, s);
        for t in &mut self.ranks {
            t.plan(arena, rows.min(BLOCK), (sparse, few), loss.is_some())?;
        }
        self.entries = if sparse { Some(Entries::plan(arena, rows * most, few)?) } else { None };
        self.y_hat = Some(arena.tensor("reconstruction", rows, self.base.settings.d_model(), DType::F32)?);
        self.heads = Heads::plan(arena, (&planned, Some(&self.base)), (1, s), rows, max_k, loss)?;
        Ok(())
    }

    fn forward(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        _context: Option<usize>,
        k: usize,
    ) -> Result<()> {
        let x = self.base.input(inputs)?;
        self.run(q, x, k, false, false)
    }

    fn train_step(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        loss: &LossSettings,
        c: Coefficients,
        _dead: Option<&mut DeadFeatures>,
    ) -> Result<LossTerms> {
        self.check_loss(loss)?;
        let (x, label) = (self.base.input(&input.inputs)?, self.base.label(&input.labels)?);
        self.run(q, x, c.k, true, loss.sparsity.is_some() || loss.lp)?;
        if let Some(limit) = self.heads.limit() {
            self.base.running.observe(q, limit)?;
        }
        self.heads.prepare(q, input, loss, c)?;
        let Some(y_hat) = &self.y_hat else { return Err(unplanned()) };
        self.heads.error(q, 0, y_hat.rows_view(0..x.rows()), label, input.weight)?;
        self.transforms_back(q, x)?;
        if let Some(b_d) = &mut self.b_d {
            q.reduce_rows(ReduceKind::Sum, self.heads.dy()?, None, grad(b_d)?, 0.0)?;
        }
        self.heads.backward(q, 0, loss, c)?;
        match self.heads.dh()? {
            Some(dh) => {
                q.gemm(dh, x, grad(&mut self.w_e)?, GemmOpts { ta: true, ..Default::default() })?;
                q.reduce_rows(ReduceKind::Sum, dh, None, grad(&mut self.b_e)?, 0.0)?;
            }
            None => {
                let (dw, db) = (grad(&mut self.w_e)?.view_mut(), grad(&mut self.b_e)?.view_mut());
                self.heads.encoder_back(q, 0, x, dw, db)?;
            }
        }
        if let Some(ratio) = self.heads.finish(q, loss, c, self.threshold.as_mut())? {
            for t in &mut self.ranks {
                t.norm_grads(q, ratio)?;
            }
        }
        self.heads.terms(q, input.weight, loss, c)
    }

    fn check_loss(&self, loss: &LossSettings) -> Result<()> {
        heads::check_loss(loss, "molt")
    }
    fn codes(&self) -> Vec<Codes<'_>> {
        self.heads.all_codes()
    }
    fn own_metrics(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        _weight: &[f32],
    ) -> Result<Vec<(String, f64)>> {
        let (fired, _) = self.heads.activity(q, input.mask)?;
        let (mut all, mut total) = (Vec::new(), 0.0);
        let count = |t: &Transforms| fired[t.features.clone()].iter().map(|&n| f64::from(n)).sum::<f64>();
        let mut counts: Vec<f64> = self.ranks.iter().map(count).collect();
        self.base.share.sum(q, &mut counts)?;
        for (t, count) in self.ranks.iter().zip(counts) {
            let l0 = count / input.n_tokens.max(1) as f64;
            all.push((format!("molt_metrics/l0_rank{}", t.rank), l0));
            all.push((format!("molt_metrics/l0_rank{}_ratio", t.rank), l0 / t.u.whole[0] as f64));
            total += l0 * t.rank as f64;
        }
        all.push(("molt_metrics/total_rank_sum".into(), total));
        Ok(all)
    }
    fn reconstruction(&self) -> Vec<View<'_>> {
        self.y_hat.iter().map(|y| y.rows_view(0..self.heads.rows())).collect()
    }
    fn row_penalty(&self) -> Option<View<'_>> {
        self.heads.row_penalty()
    }
    fn decoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        let norms = self.current_norms(q)?;
        Ok(q.download(&norms)?)
    }
    fn encoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.w_e.value)
    }

    fn to_unit_decoder_norm(&mut self, q: &mut Queue) -> Result<()> {
        self.unit_norms(q)
    }
    fn fold(&mut self, q: &mut Queue) -> Result<()> {
        self.fold_norms(q)
    }
}
