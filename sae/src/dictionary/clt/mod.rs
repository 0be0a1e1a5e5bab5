//! Cross-layer transcoder (VARIANTS §8): features of a layer are read there and written to that layer and all later ones,
//!   h_l = x_l·W_E[l] + b_E[l]     n_l = sqrt(Σ_{t ≥ l} ‖W_D[t][l]‖²)     f_l = h_l where selected by h·n (or h)
//!   ŷ_t = Σ_{s ≤ t} f_s·W_D[t][s] + b_D[t]
//! n only decides the selection and weighs penalties; it has no gradient. Dividing the gated value by n again makes f exactly h.
//! Gradients of the decoders, most of all memory, are made a piece at a time when the optimiser asks for them.

mod backward;
mod codes;
mod fold;
mod forward;
mod init;
mod merge;
mod settings;
mod turned;
mod work;

pub use settings::CltSettings;

use super::{
    Base, Codes, Coefficients, DeadFeatures, Dictionary, LossTerms, Param, Share, StepInput,
    ranked::{Ranked, slots},
    settings::DictionarySettings,
};
use crate::{
    Error, Result,
    settings::ActFn,
    training::{LossSettings, SparsityLoss},
};
pub(super) use codes::{LayerCodes, Selection};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, ReduceKind, Tensor, View, ViewMut};
use std::ops::Range;
use work::{Store, Work};

/// A cross-layer transcoder.
pub(crate) struct Clt {
    base: Base,
    own: CltSettings,
    p: Params,
    work: Work,
}

/// The trainable tensors, L layers of S features here.
struct Params {
    layers: usize,
    s: usize,
    /// `[L·S, d]`.
    w_e: Param,
    /// `[L, S]`.
    b_e: Param,
    /// For each target t `[(t+1)·S, d]`.
    w_d: Vec<Param>,
    /// For each target `[1, d]`.
    b_d: Vec<Param>,
    /// `[L, S]`.
    log_theta: Option<Param>,
}

impl Params {
    /// Number of the first decoder among all parameters.
    const DECODERS: usize = 2;

    /// Rows of layer `l` in stacked matrices.
    fn of(&self, l: usize) -> Range<usize> {
        l * self.s..(l + 1) * self.s
    }

    /// `‖·‖²` of the decoders of every feature to all its targets, `[1, L·S]`, then the root.
    fn decoder_norms(&self, q: &mut Queue, norms: &mut Tensor) -> Result<()> {
        for l in 0..self.layers {
            for (t, w) in self.w_d.iter().enumerate().skip(l) {
                let beta = if t == l { 0.0 } else { 1.0 };
                let out = norms.view_mut().slice_cols(self.of(l)).reshaped(self.s, 1);
                q.reduce_cols(ReduceKind::SumSq, w.value.rows_view(self.of(l)), out, beta)?;
            }
        }
        Ok(q.map_in_place(MapKind::Sqrt, 0.0, 0.0, norms)?)
    }
}

impl Clt {
    fn zeros(q: &mut Queue, settings: &DictionarySettings, own: &CltSettings, share: Share) -> Result<Self> {
        let (layers, s, d) = (own.hook_points_in.len(), settings.d_sae(), settings.d_model());
        // For no rows: every step is refused until the dictionary has been planned.
        let work =
            Work::plan(&mut Arena::planning("nothing"), settings, (layers, share.len()), 0, (0, 1), None)?;
        let decoder = |q: &mut Queue, t: usize| {
            Param::zeros(q, &format!("W_D.{t}"), &[t + 1, s, d], share.of_features(1))
        };
        let bias = |q: &mut Queue, t: usize| Param::zeros(q, &format!("b_D.{t}"), &[d], Vec::new());
        let p = Params {
            layers,
            s: share.len(),
            w_e: Param::transposed(q, "W_E", &[layers, d, s], share.of_features(2))?,
            b_e: Param::zeros(q, "b_E", &[layers, s], share.of_features(1))?,
            w_d: (0..layers).map(|t| decoder(q, t)).collect::<Result<_>>()?,
            b_d: (0..layers).map(|t| bias(q, t)).collect::<Result<_>>()?,
            log_theta: match settings.act_fn() {
                ActFn::JumpRelu => Some(Param::thresholds(q, &[layers, s], share.of_features(1))?),
                _ => None,
            },
        };
        Ok(Self { base: Base::new(settings, layers, share), own: own.clone(), p, work })
    }

    /// Checks a pass against the plan and prepares norms and thresholds.
    fn begin(&mut self, q: &mut Queue, rows: usize, k: usize, training: bool, norms: bool) -> Result<()> {
        let (w, act_fn) = (&mut self.work, self.base.planned_act_fn());
        let enough = (1..=w.rows).contains(&rows) && (!act_fn.has_k() || k <= w.max_k);
        if !enough || (training && w.train.is_none()) {
            let trained = if w.train.is_some() { " of training" } else { "" };
            let what = format!(
                "a step of {rows} rows with k {k} on a dictionary planned for steps{trained} of 1 to {} rows with k up to {}",
                w.rows, w.max_k
            );
            return Err(Error::Data { what });
        }
        w.done = rows;
        if norms || (self.base.settings.gated() && act_fn != ActFn::Relu) {
            self.p.decoder_norms(q, &mut w.norms)?;
        }
        if let (Some(log_theta), Some(theta)) = (&self.p.log_theta, &mut w.theta) {
            q.map(MapKind::Exp, &log_theta.value, 0.0, 0.0, theta)?;
        } else if let Some(theta) = &mut w.theta {
            for l in 0..self.p.layers {
                let limit = self.base.running.in_force(l).ok_or_else(work::mixed_up)?;
                q.fill(theta.rows_mut(l..l + 1), limit)?;
            }
        }
        Ok(())
    }

    fn check_views(&self, views: &[View<'_>], what: &str) -> Result<()> {
        let (layers, d) = (self.p.layers, self.base.settings.d_model());
        let rows = views.first().map_or(0, View::rows);
        if views.len() == layers && views.iter().all(|v| v.cols() == d && v.rows() == rows) {
            return Ok(());
        }
        Err(Error::Data { what: format!("expected {layers} {what} of width {d}, got {views:?}") })
    }

    /// The whole selection's budget cannot exceed what there is.
    fn clamp_k(&self, k: usize) -> usize {
        k.min(self.most_active())
    }
}

impl Dictionary for Clt {
    fn base(&self) -> &Base {
        &self.base
    }
    fn base_mut(&mut self) -> &mut Base {
        &mut self.base
    }
    fn most_active(&self) -> usize {
        let s = self.base.settings.d_sae();
        if work::joint(self.base.settings.act_fn()) { self.p.layers * s } else { s }
    }
    fn layer_metrics(&self) -> Option<&'static str> {
        Some("clt_metrics")
    }

    fn params(&self) -> Vec<&Param> {
        let p = &self.p;
        let mut all = vec![&p.w_e, &p.b_e];
        all.extend(&p.w_d);
        all.extend(&p.b_d);
        all.extend(&p.log_theta);
        all
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        let p = &mut self.p;
        let mut all = vec![&mut p.w_e, &mut p.b_e];
        all.extend(&mut p.w_d);
        all.extend(&mut p.b_d);
        all.extend(&mut p.log_theta);
        all
    }

    fn check_loss(&self, loss: &LossSettings) -> Result<()> {
        let refused = match loss.sparsity {
            Some(kind @ (SparsityLoss::PowerSum | SparsityLoss::TargetL0)) => {
                ("trainer.sparsity_loss_type", format!("{kind:?} does not exist for sae_type clt"))
            }
            _ if loss.lp => {
                let what = "a cross-layer transcoder has no threshold penalty; leave it out";
                ("trainer.lp_coefficient", what.into())
            }
            _ if loss.auxk => {
                let what = "a cross-layer transcoder has no auxiliary loss; leave it out";
                ("trainer.auxk_coefficient", what.into())
            }
            _ => return Ok(()),
        };
        Err(Error::setting(refused.0, refused.1))
    }

    fn plan(
        &mut self,
        arena: &mut Arena,
        rows: usize,
        max_k: usize,
        loss: Option<&LossSettings>,
    ) -> Result<()> {
        let decoders = Params::DECODERS..Params::DECODERS + self.p.layers;
        for (i, p) in self.params_mut().into_iter().enumerate() {
            p.plan_grad(arena, loss.is_some() && !decoders.contains(&i))?;
        }
        let planned = self.base.planned(loss.is_some());
        let ranks = self.base.mesh.data.size();
        self.work = Work::plan(arena, &planned, (self.p.layers, self.p.s), rows, (max_k, ranks), loss)?;
        let layers = if work::joint(planned.act_fn()) { self.p.layers } else { 1 };
        if matches!(planned.act_fn(), ActFn::TopK | ActFn::LayerTopK) {
            let (block, k) = (self.work.block, self.work.max_k);
            self.work.ranked = Ranked::plan(arena, &self.base, layers, block, k)?;
        }
        Ok(())
    }

    fn forward(&mut self, q: &mut Queue, inputs: &[View<'_>], _: Option<usize>, k: usize) -> Result<()> {
        self.check_views(inputs, "inputs")?;
        let k = self.clamp_k(k);
        self.begin(q, inputs[0].rows(), k, false, false)?;
        self.encode(q, inputs, k)?;
        self.decode(q)
    }

    fn encode_one(&mut self, q: &mut Queue, l: usize, x: View<'_>, k: usize) -> Result<Codes<'_>> {
        let (act_fn, layers) = (self.base.planned_act_fn(), self.p.layers);
        if work::joint(act_fn) {
            return Err(Error::Unsupported {
                what: format!("encoding one layer with act_fn {act_fn:?}"),
                why: "its features compete with those of all layers".into(),
            });
        }
        if l >= layers || x.cols() != self.base.settings.d_model() {
            let what = format!("expected a layer below {layers} and its input, got layer {l} and {x:?}");
            return Err(Error::Data { what });
        }
        let k = self.clamp_k(k);
        self.begin(q, x.rows(), k, false, false)?;
        if let Store::Sparse(codes) = &mut self.work.codes {
            codes.set(x.rows(), if codes.spans_batch() { k } else { slots(k, self.p.s) });
            if codes.spans_batch() {
                codes.set_total(self.base.mesh.data.total(q, x.rows())?);
            }
        }
        self.encode_layer(q, l, x, k)?;
        self.codes().into_iter().nth(l).ok_or_else(work::mixed_up)
    }

    fn train_step(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        settings: &LossSettings,
        c: Coefficients,
        _dead: Option<&mut DeadFeatures>,
    ) -> Result<LossTerms> {
        self.check_loss(settings)?;
        self.check_views(&input.inputs, "inputs")?;
        self.check_views(&input.labels, "labels")?;
        let k = self.clamp_k(c.k);
        self.begin(q, input.inputs[0].rows(), k, true, settings.sparsity.is_some())?;
        self.encode(q, &input.inputs, k)?;
        if let work::Store::Sparse(codes) = &self.work.codes
            && let Some(limits) = codes.limits()
        {
            self.base.running.observe(q, limits)?;
        }
        self.decode(q)?;
        self.backward(q, input, settings, c.l1)
    }

    fn made_gradients(&self) -> Vec<(usize, Range<usize>)> {
        self.made()
    }

    fn make_gradient(
        &mut self,
        q: &mut Queue,
        param: usize,
        rows: Range<usize>,
        out: ViewMut<'_>,
    ) -> Result<()> {
        self.make(q, param, rows, out)
    }

    fn codes(&self) -> Vec<Codes<'_>> {
        let layers = 0..self.p.layers;
        match &self.work.codes {
            Store::Dense(f) => f.iter().map(|f| Codes::Dense(f.rows_view(0..self.work.done))).collect(),
            Store::Sparse(codes) => layers.map(|l| Codes::Sparse(codes.view(l))).collect(),
        }
    }

    fn reconstruction(&self) -> Vec<View<'_>> {
        self.work.y_hat.iter().map(|y| y.rows_view(0..self.work.done)).collect()
    }

    fn row_penalty(&self) -> Option<View<'_>> {
        let t = self.work.train.as_ref().filter(|t| t.has_row_penalty)?;
        Some(t.row_penalty.rows_view(0..self.work.done))
    }

    fn decoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        let mut norms = q.empty(1, self.p.layers * self.p.s, DType::F32)?;
        self.p.decoder_norms(q, &mut norms)?;
        Ok(q.download(&norms)?)
    }

    fn encoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        super::norms_of(q, &self.p.w_e.value)
    }

    fn fold(&mut self, q: &mut Queue) -> Result<()> {
        self.fold_norms(q)
    }
}
