//! Sparse autoencoder and transcoder (VARIANTS §6): parameters, and how a step runs through the parts. With `n_i = ‖W_D[i]‖`
//!   h = x·W_E + b_E   (⊙ sigmoid(x·W_E_glu + b_E_glu))     f = h where selected by h·n (or h), else 0     ŷ = f·W_D + b_D
//! Dividing the gated value by n again makes f exactly h, so n only decides the selection: gradients reach it through the
//! penalties alone. `sparse` holds topk and batchtopk, `dense` relu and jumprelu, forward and backward side by side.

mod codes;
mod dead;
mod dense;
mod encode;
mod fold;
mod init;
mod loss;
mod sparse;
mod work;

use super::{Codes, Coefficients, DeadFeatures, Dictionary, LossTerms, Param, ParamGroup, StepInput};
use crate::{
    Error, Result,
    settings::{ActFn, DictionarySettings, SaeSettings},
    training::LossSettings,
};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, ReduceKind, Tensor, View, ViewMut};
use loss::Parts;
use std::collections::BTreeMap;
use work::{Store, Work};

/// A sparse autoencoder or transcoder.
pub struct Sae {
    settings: DictionarySettings,
    cfg: SaeSettings,
    norms: BTreeMap<String, f32>,
    p: Params,
    work: Work,
}

/// The trainable tensors, matrices as `[S, d]`.
struct Params {
    w_e: Param,
    b_e: Param,
    w_d: Param,
    b_d: Option<Param>,
    glu: Option<Glu>,
    log_theta: Option<Param>,
}

/// The gate's encoder.
struct Glu {
    w: Param,
    b: Param,
}

impl Params {
    fn zeros(q: &mut Queue, cfg: &SaeSettings) -> Result<Self> {
        let (s, d) = (cfg.d_sae(), cfg.d_model);
        let mut new = |name: &str, shape: &[usize], transposed| -> Result<Param> {
            let (rows, cols) = if shape.len() == 1 { (1, shape[0]) } else { (s, d) };
            let value = q.zeros(rows, cols, DType::F32)?;
            let group = ParamGroup::Others;
            Ok(Param { name: name.into(), shape: shape.into(), transposed, group, value, grad: None })
        };
        Ok(Self {
            w_e: new("W_E", &[d, s], true)?,
            b_e: new("b_E", &[s], false)?,
            w_d: new("W_D", &[s, d], false)?,
            b_d: if cfg.use_decoder_bias { Some(new("b_D", &[d], false)?) } else { None },
            glu: match cfg.use_glu_encoder {
                true => Some(Glu { w: new("W_E_glu", &[d, s], true)?, b: new("b_E_glu", &[s], false)? }),
                false => None,
            },
            log_theta: match cfg.act_fn {
                ActFn::JumpRelu => {
                    let p = new("activation_function.log_jumprelu_threshold", &[s], false)?;
                    Some(Param { group: ParamGroup::Thresholds, ..p })
                }
                _ => None,
            },
        })
    }

    /// In the order of the reference system's checkpoints.
    fn all(&self) -> Vec<&Param> {
        let mut all = vec![&self.w_e, &self.b_e, &self.w_d];
        all.extend(&self.b_d);
        all.extend(self.glu.iter().flat_map(|g| [&g.w, &g.b]));
        all.extend(&self.log_theta);
        all
    }

    fn all_mut(&mut self) -> Vec<&mut Param> {
        let mut all = vec![&mut self.w_e, &mut self.b_e, &mut self.w_d];
        all.extend(&mut self.b_d);
        all.extend(self.glu.iter_mut().flat_map(|g| [&mut g.w, &mut g.b]));
        all.extend(&mut self.log_theta);
        all
    }

    fn decoder_bias(&self) -> Option<View<'_>> {
        self.b_d.as_ref().map(|b| b.value.view())
    }
}

/// The gradient buffer of a parameter.
fn grad(p: &mut Param) -> Result<&mut Tensor> {
    let name = &p.name;
    p.grad.as_mut().ok_or_else(|| Error::Data { what: format!("{name} was not planned for training") })
}

/// `‖row‖` of `w [S, d]` into `out [S, 1]`.
fn row_norms(q: &mut Queue, w: &Tensor, mut out: ViewMut<'_>) -> Result<()> {
    q.reduce_cols(ReduceKind::SumSq, w, out.reborrow(), 0.0)?;
    Ok(q.map_in_place(MapKind::Sqrt, 0.0, 0.0, out)?)
}

impl Sae {
    /// A dictionary of zeros.
    pub fn new(q: &mut Queue, cfg: &SaeSettings) -> Result<Self> {
        let settings = DictionarySettings::Sae(cfg.clone());
        settings.validate()?;
        // For no rows: every step is refused until the dictionary has been planned.
        let work = Work::plan(&mut Arena::planning("nothing"), cfg, 0, 0, None)?;
        Ok(Self { settings, cfg: cfg.clone(), norms: BTreeMap::new(), p: Params::zeros(q, cfg)?, work })
    }

    /// Whether selection compares `h·n`.
    fn gated(&self) -> bool {
        self.cfg.sparsity_include_decoder_norm
    }

    fn check_planned(&self, rows: usize, k: usize, training: bool) -> Result<()> {
        let w = &self.work;
        let enough = (1..=w.rows).contains(&rows) && (!self.cfg.act_fn.has_k() || k <= w.max_k);
        if enough && (!training || w.train.is_some()) {
            return Ok(());
        }
        let trained = if w.train.is_some() { " of training" } else { "" };
        let what = format!(
            "a step of {rows} rows with k {k} on a dictionary planned for steps{trained} of 1 to {} rows with k up to {}",
            w.rows, w.max_k
        );
        Err(Error::Data { what })
    }

    /// Decoder norms and thresholds of the present weights, into the work buffers.
    fn refresh(&mut self, q: &mut Queue, norms_needed: bool) -> Result<()> {
        if norms_needed || (self.gated() && self.cfg.act_fn != ActFn::Relu) {
            let out = self.work.norms.view_mut().reshaped(self.cfg.d_sae(), 1);
            row_norms(q, &self.p.w_d.value, out)?;
        }
        if let (Some(log_theta), Some(theta)) = (&self.p.log_theta, &mut self.work.theta) {
            q.map(MapKind::Exp, &log_theta.value, 0.0, 0.0, theta)?;
        }
        Ok(())
    }

    fn only<'a>(&self, views: &[View<'a>], what: &str) -> Result<View<'a>> {
        match views {
            [one] if one.cols() == self.cfg.d_model => Ok(*one),
            _ => Err(Error::Data {
                what: format!("expected one {what} of width {}, got {views:?}", self.cfg.d_model),
            }),
        }
    }

    fn parts(&self, settings: &LossSettings, c: Coefficients) -> Parts {
        Parts {
            sparsity: settings.sparsity,
            lp: settings.lp && c.lp > 0.0 && self.cfg.act_fn == ActFn::JumpRelu,
            auxk: settings.auxk && c.auxk > 0.0,
            dead: 0,
        }
    }
}

impl Dictionary for Sae {
    fn settings(&self) -> &DictionarySettings {
        &self.settings
    }
    fn d_sae(&self) -> usize {
        self.cfg.d_sae()
    }
    fn hook_points_in(&self) -> Vec<String> {
        self.settings.hook_points_in()
    }
    fn hook_points_out(&self) -> Vec<String> {
        self.settings.hook_points_out()
    }
    fn norms(&self) -> &BTreeMap<String, f32> {
        &self.norms
    }
    fn set_norms(&mut self, norms: BTreeMap<String, f32>) {
        self.norms = norms;
    }
    fn params(&self) -> Vec<&Param> {
        self.p.all()
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        self.p.all_mut()
    }

    fn plan(
        &mut self,
        arena: &mut Arena,
        rows: usize,
        max_k: usize,
        loss: Option<&LossSettings>,
    ) -> Result<()> {
        for p in self.p.all_mut() {
            p.grad = match loss {
                Some(_) => Some(arena.tensor(
                    &format!("gradient of {}", p.name),
                    p.value.rows(),
                    p.value.cols(),
                    DType::F32,
                )?),
                None => None,
            };
        }
        self.work = Work::plan(arena, &self.cfg, rows, max_k, loss)?;
        Ok(())
    }

    fn forward(&mut self, q: &mut Queue, inputs: &[View<'_>], k: usize) -> Result<()> {
        let x = self.only(inputs, "input")?;
        self.check_planned(x.rows(), k, false)?;
        self.refresh(q, false)?;
        self.work.done = x.rows();
        if self.cfg.act_fn.has_k() { self.forward_sparse(q, x, k) } else { self.forward_dense(q, x) }
    }

    fn train_step(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        settings: &LossSettings,
        c: Coefficients,
        dead: Option<&mut DeadFeatures>,
    ) -> Result<LossTerms> {
        let x = self.only(&input.inputs, "input")?;
        self.only(&input.labels, "label")?;
        self.check_planned(x.rows(), c.k, true)?;
        let mut parts = self.parts(settings, c);
        if parts.auxk && dead.is_none() {
            return Err(Error::setting("auxk_coefficient", "the auxiliary loss needs dead-feature counts"));
        }
        self.refresh(q, parts.norms())?;
        self.work.done = x.rows();
        if let Some(t) = &mut self.work.train {
            loss::prepare(q, t, parts, input, c)?;
        }
        if self.cfg.act_fn.has_k() {
            self.step_sparse(q, input, settings, c, &mut parts, dead)?;
        } else {
            self.step_dense(q, input, settings, c, &mut parts, dead)?;
        }
        let Work { train: Some(t), norms, theta, .. } = &mut self.work else { return Err(work::mixed_up()) };
        loss::finish_grads(q, &mut self.p, t, parts, norms, theta.as_ref())?;
        loss::terms(q, t, parts, input.weight, settings, c)
    }

    fn codes(&self) -> Codes<'_> {
        match &self.work.codes {
            Store::Dense(f) => Codes::Dense(f.rows_view(0..self.work.done)),
            Store::Sparse(codes) => Codes::Sparse(codes.view()),
        }
    }

    fn reconstruction(&self) -> Vec<View<'_>> {
        vec![self.work.y_hat.rows_view(0..self.work.done)]
    }

    fn row_penalty(&self) -> Option<View<'_>> {
        let t = self.work.train.as_ref().filter(|t| t.has_row_penalty)?;
        Some(t.row_penalty.rows_view(0..self.work.done))
    }

    fn decoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.p.w_d.value)
    }

    fn encoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.p.w_e.value)
    }

    fn fold(&mut self, q: &mut Queue) -> Result<()> {
        self.fold_norms(q)
    }
}

fn norms_of(q: &mut Queue, w: &Tensor) -> Result<Vec<f32>> {
    let mut out = q.empty(w.rows(), 1, DType::F32)?;
    row_norms(q, w, out.view_mut())?;
    Ok(q.download(&out)?)
}
