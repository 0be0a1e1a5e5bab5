//! Dictionaries with one code a token and a linear decoder: an [`Encoder`] gives pre-activations h, the rest is here. With
//! `n_i = ‖W_D[i]‖`
//!   f = h where selected by h·n (or h), else 0     ŷ = f·W_D + b_D
//! Dividing the gated value by n again makes f exactly h, so n only decides the selection: gradients reach it through the
//! penalties alone. `sparse` holds the top-k family, `dense` relu and jumprelu, forward and backward side by side.
//! [`Extras`] are what only some SAEs have.

mod codes;
mod dead;
mod dense;
mod encoder;
mod fold;
mod init;
mod joined;
mod levels;
mod loss;
mod sparse;
mod target;
mod unit;
mod work;

pub(crate) use codes::SparseCodes;
pub(crate) use encoder::{Encoder, Parts as RandomParts, Side};
pub(crate) use init::set_row_norms;
pub(crate) use work::blocks;

use super::{
    Base, Codes, Coefficients, DeadFeatures, Dictionary, LossTerms, Param, Share, StepInput, checkpoint,
    grad, ranked::Ranked, row_norms,
};
use crate::{
    Error, Result,
    settings::{ActFn, DictionarySettings},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{Arena, MapKind, Queue, Tensor, View};
use loss::Parts;
use work::{Needs, Store, Work};

/// An encoder, a selection and a linear decoder.
pub(crate) struct Coder {
    base: Base,
    encoder: Box<dyn Encoder>,
    p: Decoder,
    extras: Extras,
    work: Work,
    /// Reconstruction loss of the encoder's side path in the last step.
    side_loss: Option<f32>,
}

/// What some SAEs have beside encoder, selection and decoder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    /// `ŷ += x·W_skip`.
    pub skip: bool,
    /// The encoder sees `x − b_D`.
    pub centred: bool,
    /// Thresholds are trained themselves, not their logarithms.
    pub direct_threshold: bool,
    /// Ascending sizes of prefixes of the features that each reconstruct, the last S; empty: only all together do.
    pub widths: Vec<usize>,
}

/// The trainable tensors behind the encoder.
struct Decoder {
    /// `[S, d]`.
    w_d: Param,
    /// `[1, d]`.
    b_d: Option<Param>,
    /// `[d_in, d]`.
    skip: Option<Param>,
    /// Thresholds or their logarithms, `[1, S]`.
    threshold: Option<Param>,
    /// Whether they are the thresholds themselves.
    direct: bool,
}

impl Decoder {
    fn zeros(
        q: &mut Queue,
        settings: &DictionarySettings,
        share: &Share,
        w_d: &str,
        extras: &Extras,
    ) -> Result<Self> {
        let (s, d_in, d) = (settings.d_sae(), settings.d_model(), settings.d_out());
        Ok(Self {
            w_d: Param::zeros(q, w_d, &[s, d], share.of_features(0))?,
            b_d: match settings.common.use_decoder_bias {
                true => Some(Param::zeros(q, "b_D", &[d], Vec::new())?),
                false => None,
            },
            skip: match extras.skip {
                true => Some(Param::zeros(q, "W_skip", &[d_in, d], Vec::new())?),
                false => None,
            },
            threshold: match (settings.act_fn(), extras.direct_threshold) {
                (ActFn::JumpRelu, false) => Some(Param::thresholds(q, &[s], share.of_features(0))?),
                (ActFn::JumpRelu, true) => Some(Param::direct_thresholds(q, &[s], share.of_features(0))?),
                _ => None,
            },
            direct: extras.direct_threshold,
        })
    }

    fn all(&self) -> Vec<&Param> {
        let mut all = vec![&self.w_d];
        all.extend(&self.b_d);
        all.extend(&self.skip);
        all.extend(&self.threshold);
        all
    }

    fn all_mut(&mut self) -> Vec<&mut Param> {
        let mut all = vec![&mut self.w_d];
        all.extend(&mut self.b_d);
        all.extend(&mut self.skip);
        all.extend(&mut self.threshold);
        all
    }

    fn bias(&self) -> Option<View<'_>> {
        self.b_d.as_ref().map(|b| b.value.view())
    }

    /// The bias, on one of the ranks whose reconstructions are added up.
    fn bias_once(&self, base: &Base) -> Option<View<'_>> {
        self.bias().filter(|_| base.share.leads())
    }
}

impl Coder {
    /// Zeros behind this encoder; `w_d` is the decoder's name in checkpoints.
    pub fn new(
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
        encoder: Box<dyn Encoder>,
        w_d: &str,
    ) -> Result<Self> {
        Self::with(q, settings, share, encoder, w_d, Extras::default())
    }

    /// [`Coder::new`] with extras.
    pub fn with(
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
        encoder: Box<dyn Encoder>,
        w_d: &str,
        extras: Extras,
    ) -> Result<Self> {
        settings.validate()?;
        // For no rows: every step is refused until the dictionary has been planned.
        let work = Work::plan(
            &mut Arena::planning("nothing"),
            settings,
            share.len(),
            &Needs::new(&*encoder, &extras, 1, &share),
            0,
            0,
            None,
        )?;
        let p = Decoder::zeros(q, settings, &share, w_d, &extras)?;
        Ok(Self { base: Base::new(settings, 1, share), encoder, p, extras, work, side_loss: None })
    }

    /// Whether selection compares `h·n`.
    fn gated(&self) -> bool {
        self.base.settings.gated()
    }

    /// Checks a pass against the plan and prepares norms, thresholds and encoder for it.
    fn begin(
        &mut self,
        q: &mut Queue,
        (rows, context): (usize, Option<usize>),
        k: usize,
        training: bool,
        norms_needed: bool,
    ) -> Result<()> {
        let w = &self.work;
        let has_k = self.base.planned_act_fn().has_k();
        let enough = (1..=w.rows).contains(&rows) && (!has_k || k <= w.max_k);
        if !enough || (training && w.train.is_none()) {
            let trained = if w.train.is_some() { " of training" } else { "" };
            let what = format!(
                "a step of {rows} rows with k {k} on a dictionary planned for steps{trained} of 1 to {} rows with k up to {}",
                w.rows, w.max_k
            );
            return Err(Error::Data { what });
        }
        if self.base.settings.act_fn() == ActFn::GroupMax
            && k > 0
            && !self.base.settings.d_sae().is_multiple_of(k)
        {
            let what = format!("{k} groups do not divide {} features", self.base.settings.d_sae());
            return Err(Error::setting("top_k", what));
        }
        let joined = self.encoder.begin(rows, context)?.max(1);
        if joined > w.most_block {
            let what = format!("contexts of {joined} rows on a dictionary planned for {}", w.most_block);
            return Err(Error::Data { what });
        }
        self.work.block = w.most_block / joined * joined;
        self.work.done = rows;
        if norms_needed || (self.gated() && self.base.planned_act_fn() != ActFn::Relu) {
            let out = self.work.norms.view_mut().reshaped(self.base.features(), 1);
            row_norms(q, &self.p.w_d.value, out)?;
        }
        if let (Some(limit), Some(theta)) = (self.base.running.in_force(0), &mut self.work.theta) {
            return Ok(q.fill(theta, limit)?);
        }
        match (&mut self.p.threshold, &mut self.work.theta) {
            (Some(own), Some(theta)) if self.p.direct => {
                // The optimiser may have stepped below 0, where a threshold has no meaning.
                q.map_in_place(MapKind::Relu, 0.0, 0.0, &mut own.value)?;
                Ok(q.copy(&own.value, theta)?)
            }
            (Some(log), Some(theta)) => Ok(q.map(MapKind::Exp, &log.value, 0.0, 0.0, theta)?),
            _ => Ok(()),
        }
    }

    /// `x − b_D` where the encoder sees that, in `place`; too many rows are left for [`Coder::begin`] to refuse.
    fn centre<'a>(&self, q: &mut Queue, x: View<'a>, place: Option<&'a mut Tensor>) -> Result<View<'a>> {
        let (Some(b_d), Some(place)) = (self.p.bias(), place.filter(|t| t.rows() >= x.rows())) else {
            return Ok(x);
        };
        q.zip(MapKind::Add, x, b_d, 1.0, -1.0, place.rows_mut(0..x.rows()))?;
        Ok(place.rows_view(0..x.rows()))
    }

    fn parts(&self, settings: &LossSettings, c: Coefficients) -> Parts {
        let target = settings.sparsity == Some(SparsityLoss::TargetL0);
        Parts {
            sparsity: settings.sparsity.filter(|_| !target),
            target,
            side: self.encoder.has_side(),
            lp: settings.lp && c.lp > 0.0 && self.base.settings.act_fn() == ActFn::JumpRelu,
            auxk: settings.auxk && c.auxk > 0.0,
            dead: 0,
        }
    }

    /// [`Dictionary::train_step`] on what the encoder sees.
    fn step(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        settings: &LossSettings,
        c: Coefficients,
        dead: Option<&mut DeadFeatures>,
    ) -> Result<LossTerms> {
        let mut parts = self.parts(settings, c);
        if parts.auxk && dead.is_none() {
            return Err(Error::setting("auxk_coefficient", "the auxiliary loss needs dead-feature counts"));
        }
        self.begin(q, (input.inputs[0].rows(), input.context), c.k, true, parts.norms())?;
        if let Some(t) = &mut self.work.train {
            let rows = match parts.quad() {
                true => self.base.mesh.data.total(q, input.weight.rows())?,
                false => input.weight.rows(),
            };
            loss::prepare(q, t, parts, input, c, rows)?;
            if let (Some(l0), Some(theta)) = (&mut t.l0, &self.work.theta) {
                let window = self.base.settings.common.jumprelu_threshold_window;
                target::prepare(q, l0, theta, input.weight, window)?;
            }
        }
        if self.base.settings.act_fn().has_k() && self.encoder.most_joined().is_some() {
            self.step_joined(q, input, settings, c, &mut parts, dead)?;
        } else if self.base.settings.act_fn().has_k() {
            self.step_sparse(q, input, settings, c, &mut parts, dead)?;
        } else {
            self.step_dense(q, input, settings, c, &mut parts, dead)?;
        }
        if let Store::Sparse(codes) = &self.work.codes
            && let Some(limit) = codes.limit()
        {
            self.base.running.observe(q, limit)?;
        }
        let gated = self.gated();
        let Work { train: Some(t), norms, theta, .. } = &mut self.work else { return Err(work::mixed_up()) };
        target::finish(q, &self.base.mesh, t, gated.then_some(&*norms), settings, c.l1)?;
        loss::finish_grads(q, &mut self.p, t, parts, norms, theta.as_ref())?;
        if let (true, Some(b_d)) = (self.extras.centred, &mut self.p.b_d) {
            // The bias of the output counts once, what comes through the encoder from every rank.
            if !self.base.share.leads() {
                q.fill(grad(b_d)?, 0.0)?;
            }
            self.encoder.centre_grad(q, grad(b_d)?)?;
            self.base.sum_over_features(q, grad(b_d)?.view_mut())?;
        }
        let terms = loss::terms(q, &self.base.mesh, t, parts, input.weight, settings, c)?;
        self.side_loss = terms.l_aux.filter(|_| parts.side);
        Ok(terms)
    }
}

impl Dictionary for Coder {
    fn base(&self) -> &Base {
        &self.base
    }
    fn base_mut(&mut self) -> &mut Base {
        &mut self.base
    }
    fn params(&self) -> Vec<&Param> {
        let mut all = self.encoder.params();
        all.extend(self.p.all());
        all
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        let mut all = self.encoder.params_mut();
        all.extend(self.p.all_mut());
        all
    }

    fn check_loss(&self, loss: &LossSettings) -> Result<()> {
        let act_fn = self.base.settings.act_fn();
        let refused = match loss.sparsity {
            Some(SparsityLoss::TargetL0) if act_fn != ActFn::JumpRelu => {
                "target-l0 moves thresholds, it needs act_fn = jumprelu"
            }
            Some(_) if act_fn == ActFn::AbsTopK => {
                "abstopk has negative activations; its k is all the sparsity it needs"
            }
            Some(SparsityLoss::TanhQuad) if self.encoder.has_side() => {
                "tanh-quad looks at the codes of a whole batch; with a gate use power, power-sum or tanh"
            }
            _ if loss.auxk && self.encoder.has_side() => {
                let what = "this variant has its own auxiliary reconstruction; leave auxk_coefficient out";
                return Err(Error::setting("trainer.auxk_coefficient", what));
            }
            _ => return Ok(()),
        };
        Err(Error::setting("trainer.sparsity_loss_type", refused))
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
        if self.base.settings.act_fn() == ActFn::GroupMax && max_k > self.base.settings.top_k() {
            let what = "groupmax has top_k groups from the beginning; set k_warmup_steps to 0";
            return Err(Error::setting("trainer.initial_k", what));
        }
        let needs = Needs::new(&*self.encoder, &self.extras, self.base.mesh.data.size(), &self.base.share);
        let planned = self.base.planned(loss.is_some());
        self.work = Work::plan(arena, &planned, self.base.features(), &needs, rows, max_k, loss)?;
        if planned.act_fn().has_k() {
            let aux = loss.filter(|l| l.auxk).map_or(0, |l| l.k_aux);
            let k = max_k.max(aux).min(self.base.settings.d_sae());
            self.work.ranked = Ranked::plan(arena, &self.base, 1, self.work.most_block, k)?;
        }
        self.encoder.plan(arena, self.work.most_block, loss.is_some())
    }

    fn forward(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        context: Option<usize>,
        k: usize,
    ) -> Result<()> {
        let x = self.base.input(inputs)?;
        self.side_loss = None;
        let mut place = self.work.centred.take();
        let done = self.centre(q, x, place.as_mut()).and_then(|x| {
            self.begin(q, (x.rows(), context), k, false, false)?;
            if self.base.planned_act_fn().has_k() {
                self.forward_sparse(q, x, k)
            } else {
                self.forward_dense(q, x)
            }
        });
        self.work.centred = place;
        done
    }

    fn train_step(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        settings: &LossSettings,
        c: Coefficients,
        dead: Option<&mut DeadFeatures>,
    ) -> Result<LossTerms> {
        let x = self.base.input(&input.inputs)?;
        self.base.label(&input.labels)?;
        let mut place = self.work.centred.take();
        let done = self.centre(q, x, place.as_mut()).and_then(|x| {
            let StepInput { ref labels, context, mask, weight, n_tokens, .. } = *input;
            let input =
                StepInput { inputs: vec![x], labels: labels.clone(), context, mask, weight, n_tokens };
            self.step(q, &input, settings, c, dead)
        });
        self.work.centred = place;
        done
    }

    fn codes(&self) -> Vec<Codes<'_>> {
        vec![match &self.work.codes {
            Store::Dense(f) => Codes::Dense(f.rows_view(0..self.work.done)),
            Store::Sparse(codes) => Codes::Sparse(codes.view()),
        }]
    }

    fn own_metrics(
        &mut self,
        _q: &mut Queue,
        _input: &StepInput<'_>,
        _weight: &[f32],
    ) -> Result<Vec<(String, f64)>> {
        let side = self.side_loss.map(|v| ("losses/gate_mse_loss".into(), f64::from(v)));
        Ok(side.into_iter().collect())
    }

    fn reconstruction(&self) -> Vec<View<'_>> {
        vec![self.work.y_hat.rows_view(0..self.work.done)]
    }

    fn row_penalty(&self) -> Option<View<'_>> {
        let t = self.work.train.as_ref().filter(|t| t.has_row_penalty)?;
        Some(t.row_penalty.rows_view(0..self.work.done))
    }

    fn buffers(&self) -> Vec<checkpoint::Buffer> {
        self.encoder.buffers()
    }

    fn z_patterns(&self, q: &mut Queue, x: View<'_>, features: &[usize]) -> Result<Vec<Tensor>> {
        self.encoder.z_patterns(q, x, features)
    }

    fn penalised(&self) -> Vec<Codes<'_>> {
        let last = blocks(self.work.done, self.work.block).last().map_or(0, |r| r.len());
        match self.encoder.side_acts(last) {
            Some(acts) => vec![Codes::Dense(acts)],
            None => self.codes(),
        }
    }

    fn resample(
        &mut self,
        q: &mut Queue,
        i: usize,
        (input, label): (&[f32], &[f32]),
        norm: f32,
    ) -> Result<Vec<String>> {
        let centre: Vec<f32> = match (&self.p.b_d, self.extras.centred) {
            (Some(b_d), true) => q.download(&b_d.value)?,
            _ => vec![0.0; input.len()],
        };
        let along = |v: &[f32], norm: f32| {
            let v: Vec<f32> = v.iter().zip(&centre).map(|(v, b)| v - b).collect();
            let length = v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            // An input at the centre has no direction: the feature stays as it is.
            (length > 0.0)
                .then(|| v.iter().map(|v| (f64::from(*v) / length) as f32 * norm).collect::<Vec<_>>())
        };
        let (Some(w_e), Some(w_d)) = (along(input, norm), along(label, 1.0)) else { return Ok(Vec::new()) };
        let mut set = self.encoder.set_feature(q, i, &w_e)?;
        q.upload(&w_d, self.p.w_d.value.rows_mut(i..i + 1))?;
        set.push(self.p.w_d.name.clone());
        Ok(set)
    }

    fn decoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        super::norms_of(q, &self.p.w_d.value)
    }

    fn encoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        self.encoder.norms(q)
    }

    fn to_unit_decoder_norm(&mut self, q: &mut Queue) -> Result<()> {
        self.unit_norms(q)
    }

    fn fold(&mut self, q: &mut Queue) -> Result<()> {
        self.fold_norms(q)
    }
}
