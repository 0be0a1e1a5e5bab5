//! Mixture of linear transforms (VARIANTS §10): each feature scales a linear map of low rank of the input itself,
//!   h = x·W_E + b_E     f = σ(h·n)/n     ŷ = Σ f_i·U_i·V_i·x + b_D     n_i = ‖U_i·V_i‖
//! Every transform is computed for every token, whatever is active. Selection and losses are [`super::heads`]'s.

mod settings;
mod transforms;

pub use settings::{MoltSettings, Rank};

use super::{
    Base, Codes, Coefficients, DeadFeatures, Dictionary, Initialise, LossTerms, Param, RandomInit, StepInput,
    coder::{RandomParts, blocks, set_row_norms},
    grad,
    heads::{self, Heads},
    norms_of,
    settings::DictionarySettings,
};
use crate::{Error, Result, settings::ActFn, training::LossSettings};
use lm_saes_runtime::{Arena, DType, GemmOpts, MapKind, Queue, RandomKind, ReduceKind, Tensor, View};
use transforms::Transforms;

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
    y_hat: Option<Tensor>,
}

impl Molt {
    /// Zeros.
    pub fn zeros(q: &mut Queue, settings: &DictionarySettings, own: &MoltSettings) -> Result<Self> {
        let (s, d) = (settings.d_sae(), settings.d_model());
        let (mut ranks, mut first) = (Vec::new(), 0);
        for (rank, &n) in &own.rank_counts {
            ranks.push(Transforms::zeros(q, d, rank.0, first..first + n)?);
            first += n;
        }
        Ok(Self {
            base: Base::new(settings, 1),
            w_e: Param::transposed(q, "W_E", &[d, s])?,
            b_e: Param::zeros(q, "b_E", &[s])?,
            ranks,
            b_d: match settings.common.use_decoder_bias {
                true => Some(Param::zeros(q, "b_D", &[d])?),
                false => None,
            },
            threshold: match settings.act_fn() {
                ActFn::JumpRelu => Some(Param::thresholds(q, &[s])?),
                _ => None,
            },
            heads: Heads::nothing(settings, 1)?,
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
        let bias = Some(self.b_e.value.view());
        q.gemm(
            x,
            &self.w_e.value,
            self.heads.hidden_mut(),
            GemmOpts { tb: true, bias, ..Default::default() },
        )?;
        self.heads.select(q, k)?;
        let f = self.heads.codes(0);
        let Some(y_hat) = &mut self.y_hat else { return Err(unplanned()) };
        for r in blocks(x.rows(), BLOCK) {
            for (i, t) in self.ranks.iter_mut().enumerate() {
                let beta = if i == 0 { 0.0 } else { 1.0 };
                t.apply(
                    q,
                    x.slice_rows(r.clone()),
                    f.slice_rows(r.clone()),
                    y_hat.rows_mut(r.clone()),
                    beta,
                )?;
            }
            if let Some(b_d) = &self.b_d {
                q.zip_in_place(MapKind::Add, &b_d.value, 1.0, 1.0, y_hat.rows_mut(r))?;
            }
        }
        Ok(())
    }

    /// Multiplies every U and V by this.
    fn scale_transforms(&mut self, q: &mut Queue, factor: f32) -> Result<()> {
        for t in &mut self.ranks {
            q.map_in_place(MapKind::Affine, factor, 0.0, &mut t.u.value)?;
            q.map_in_place(MapKind::Affine, factor, 0.0, &mut t.v.value)?;
        }
        Ok(())
    }

    /// Norms of all transforms in temporary memory, `[1, S]`.
    fn current_norms(&self, q: &mut Queue) -> Result<Tensor> {
        let mut out = q.empty(1, self.base.settings.d_sae(), DType::F32)?;
        for t in &self.ranks {
            let mut uu = q.empty(t.rank, t.rank, DType::F32)?;
            let mut vv = q.empty(t.rank, t.rank, DType::F32)?;
            t.norms(q, (&mut uu, &mut vv), out.view_mut())?;
        }
        Ok(out)
    }
}

fn unplanned() -> Error {
    Error::Data { what: "the dictionary was not planned".into() }
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
        for t in &mut self.ranks {
            t.plan(arena, rows.min(BLOCK), loss.is_some())?;
        }
        self.y_hat = Some(arena.tensor("reconstruction", rows, self.base.settings.d_model(), DType::F32)?);
        let planned = self.base.planned(loss.is_some());
        self.heads = Heads::plan(arena, &planned, 1, rows, max_k, loss)?;
        Ok(())
    }

    fn forward(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        _context: Option<usize>,
        k: usize,
    ) -> Result<()> {
        let x = self.base.only(inputs, "input")?;
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
        let (x, label) = (self.base.only(&input.inputs, "input")?, self.base.only(&input.labels, "label")?);
        self.run(q, x, c.k, true, loss.sparsity.is_some() || loss.lp)?;
        if let Some(limit) = self.heads.limit() {
            self.base.running.observe(q, limit)?;
        }
        self.heads.prepare(q, input, loss, c)?;
        let Some(y_hat) = &self.y_hat else { return Err(unplanned()) };
        self.heads.error(q, 0, y_hat.rows_view(0..x.rows()), label, input.weight)?;
        let (f, dy, mut df) = self.heads.way_back(0)?;
        for r in blocks(x.rows(), BLOCK) {
            let beta = if r.start == 0 { 0.0 } else { 1.0 };
            let rows = [x, f, dy].map(|v| v.slice_rows(r.clone()));
            for t in &mut self.ranks {
                let df = df.reborrow().slice_rows(r.clone());
                t.grads(q, (rows[0], rows[1], rows[2]), df, beta)?;
            }
        }
        if let Some(b_d) = &mut self.b_d {
            q.reduce_rows(ReduceKind::Sum, dy, None, grad(b_d)?, 0.0)?;
        }
        self.heads.backward(q, 0, loss, c)?;
        let dh = self.heads.dh()?;
        q.gemm(dh, x, grad(&mut self.w_e)?, GemmOpts { ta: true, ..Default::default() })?;
        q.reduce_rows(ReduceKind::Sum, dh, None, grad(&mut self.b_e)?, 0.0)?;
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
        for t in &self.ranks {
            let count: u64 = fired[t.features.clone()].iter().map(|&n| u64::from(n)).sum();
            let l0 = count as f64 / input.n_tokens.max(1) as f64;
            all.push((format!("molt_metrics/l0_rank{}", t.rank), l0));
            all.push((format!("molt_metrics/l0_rank{}_ratio", t.rank), l0 / t.features.len() as f64));
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

    /// The input reaches the output twice, through the codes and through the transforms: with `x = x_raw·a` and codes that become
    /// f/a, the transforms take `a²/b`, and h·n becomes `h·n·a/b`.
    fn fold(&mut self, q: &mut Queue) -> Result<()> {
        let (inputs, outputs) = self.base.folding_factors()?;
        let (a, b) = (inputs[0], outputs[0]);
        q.map_in_place(MapKind::Affine, 1.0 / a, 0.0, &mut self.b_e.value)?;
        self.scale_transforms(q, a / b.sqrt())?;
        if let Some(b_d) = &mut self.b_d {
            q.map_in_place(MapKind::Affine, 1.0 / b, 0.0, &mut b_d.value)?;
        }
        let compared = if self.base.settings.gated() { a / b } else { 1.0 / a };
        self.base.running.scale(&[compared]);
        if let Some(threshold) = &mut self.threshold {
            q.map_in_place(MapKind::Affine, 1.0, compared.ln(), &mut threshold.value)?;
            self.base.settings.common.jumprelu_threshold_window *= compared;
        }
        self.base.folded();
        Ok(())
    }
}

impl Initialise for Molt {
    fn variant(&self) -> &'static str {
        "molt"
    }

    /// All matrices uniform within `±1/√S`, whatever the bounds.
    fn init_random(&mut self, q: &mut Queue, init: &RandomInit) -> Result<()> {
        let largest = self.params().iter().map(|p| p.value.len()).max().unwrap_or(0);
        let mut parts = RandomParts::new(largest);
        self.base.running.set(None);
        let bound = 1.0 / (self.base.settings.d_sae() as f32).sqrt();
        let mut matrices = vec![&mut self.w_e];
        matrices.extend(self.ranks.iter_mut().flat_map(|t| [&mut t.u, &mut t.v]));
        for p in matrices {
            q.random(RandomKind::Uniform, (-bound, bound), init.seed, parts.take(), &mut p.value)?;
        }
        q.fill(&mut self.b_e.value, 0.0)?;
        if let Some(b_d) = &mut self.b_d {
            q.fill(&mut b_d.value, 0.0)?;
        }
        if let Some(threshold) = &mut self.threshold {
            q.fill(&mut threshold.value, init.log_threshold()?)?;
        }
        Ok(())
    }

    /// `√(norm/n)` of both factors of each transform.
    fn set_decoder_norm(&mut self, q: &mut Queue, norm: f32, exact: bool) -> Result<()> {
        let current = self.current_norms(q)?;
        let current: Vec<f32> = q.download(&current)?;
        let factor = |&n: &f32| if n <= 0.0 || (!exact && n < norm) { 1.0 } else { (norm / n).sqrt() };
        for t in &mut self.ranks {
            let each = current[t.features.clone()].iter().flat_map(|n| vec![factor(n); t.rank]);
            let each: Vec<f32> = each.collect();
            let each = q.tensor(each.len(), 1, &each)?;
            q.zip_in_place(MapKind::Mul, &each, 1.0, 0.0, &mut t.u.value)?;
            q.zip_in_place(MapKind::Mul, &each, 1.0, 0.0, &mut t.v.value)?;
        }
        Ok(())
    }

    fn set_encoder_norm(&mut self, q: &mut Queue, norm: f32) -> Result<()> {
        set_row_norms(q, &mut self.w_e.value, norm, true)
    }

    fn decoder_bias_from_mean(&mut self, q: &mut Queue, labels: &[View<'_>]) -> Result<()> {
        let label = self.base.only(labels, "label")?;
        let b_d = self.b_d.as_mut().ok_or_else(|| {
            let what = "there is no decoder bias to initialise; use all_zero";
            Error::setting("initializer.bias_init_method", what)
        })?;
        q.reduce_rows(ReduceKind::Sum, label, None, &mut b_d.value, 0.0)?;
        Ok(q.map_in_place(MapKind::Affine, 1.0 / label.rows() as f32, 0.0, &mut b_d.value)?)
    }
}
