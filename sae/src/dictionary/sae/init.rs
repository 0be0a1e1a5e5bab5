//! Starting values (VARIANTS §6 "Initialisation"; TRAINING §1). Temporary memory comes from the queue's pool: none of this
//! runs inside a step.

use super::{Sae, encode::hidden, row_norms, work::GateFactors};
use crate::{
    Error, Result,
    dictionary::{Initialise, RandomInit, subspace},
};
use lm_saes_runtime::{DType, GemmOpts, MapKind, Queue, RandomKind, ReduceKind, Tensor, View};

const F32: DType = DType::F32;

impl Initialise for Sae {
    fn variant(&self) -> &'static str {
        "sae"
    }

    fn init_random(&mut self, q: &mut Queue, init: &RandomInit) -> Result<()> {
        // Each matrix has its own stretch of the stream.
        let size = self.p.w_e.value.len() as u64;
        let mut uniform = |t: &mut Tensor, bound: f32, part: u64| {
            q.random(RandomKind::Uniform, (-bound, bound), init.seed, part * size, t)
        };
        uniform(&mut self.p.w_e.value, init.encoder_bound, 0)?;
        uniform(&mut self.p.w_d.value, init.decoder_bound, 1)?;
        if let Some(glu) = &mut self.p.glu {
            uniform(&mut glu.w.value, init.encoder_bound, 2)?;
            q.fill(&mut glu.b.value, 0.0)?;
        }
        q.fill(&mut self.p.b_e.value, 0.0)?;
        if let Some(b_d) = &mut self.p.b_d {
            q.fill(&mut b_d.value, 0.0)?;
        }
        if let Some(log_theta) = &mut self.p.log_theta {
            let start = init.log_jumprelu_threshold.ok_or_else(|| {
                let what = "is needed with act_fn = jumprelu: the log of the first threshold, e.g. -2.3";
                Error::setting("initializer.init_log_jumprelu_threshold_value", what)
            })?;
            q.fill(&mut log_theta.value, start)?;
        }
        Ok(())
    }

    fn encoder_from_decoder_transpose(&mut self, q: &mut Queue, factor: f32) -> Result<()> {
        // Both are held as [S, d].
        Ok(q.map(MapKind::Affine, &self.p.w_d.value, factor, 0.0, &mut self.p.w_e.value)?)
    }

    fn set_decoder_norm(&mut self, q: &mut Queue, norm: f32, exact: bool) -> Result<()> {
        set_row_norms(q, &mut self.p.w_d.value, norm, exact)
    }

    fn set_encoder_norm(&mut self, q: &mut Queue, norm: f32) -> Result<()> {
        set_row_norms(q, &mut self.p.w_e.value, norm, true)
    }

    fn decoder_bias_from_mean(&mut self, q: &mut Queue, labels: &[View<'_>]) -> Result<()> {
        let label = self.only(labels, "label")?;
        let b_d = self.p.b_d.as_mut().ok_or_else(|| {
            Error::setting(
                "initializer.bias_init_method",
                "there is no decoder bias to initialise; use all_zero",
            )
        })?;
        q.reduce_rows(ReduceKind::Sum, label, None, &mut b_d.value, 0.0)?;
        Ok(q.map_in_place(MapKind::Affine, 1.0 / label.rows() as f32, 0.0, &mut b_d.value)?)
    }

    fn encoder_bias_from_mean_hidden_pre(&mut self, q: &mut Queue, inputs: &[View<'_>]) -> Result<()> {
        const BLOCK: usize = 512;
        let x = self.only(inputs, "input")?;
        q.fill(&mut self.p.b_e.value, 0.0)?;
        let (rows, s) = (x.rows(), self.cfg.d_sae());
        let mut sum = q.zeros(1, s, F32)?;
        let mut h = q.empty(rows.min(BLOCK), s, F32)?;
        let mut gate = match &self.p.glu {
            Some(_) => Some(GateFactors {
                a: q.empty(rows.min(BLOCK), s, F32)?,
                s: q.empty(rows.min(BLOCK), s, F32)?,
            }),
            None => None,
        };
        for r in super::work::blocks(rows, BLOCK) {
            hidden(q, &self.p, x.slice_rows(r.clone()), h.rows_mut(0..r.len()), &mut gate)?;
            q.reduce_rows(ReduceKind::Sum, h.rows_view(0..r.len()), None, &mut sum, 1.0)?;
        }
        Ok(q.map(MapKind::Affine, &sum, -1.0 / rows as f32, 0.0, &mut self.p.b_e.value)?)
    }

    fn decoder_from_active_subspace(
        &mut self,
        q: &mut Queue,
        labels: &[View<'_>],
        d_active: usize,
    ) -> Result<()> {
        let label = self.only(labels, "label")?;
        // U [k, d]: W_D <- W_D[:, :k]·U
        let u = subspace::principal_directions(q, label, d_active)?;
        let first = self.p.w_d.value.view().slice_cols(0..d_active);
        let mut w_d = q.empty(self.cfg.d_sae(), self.cfg.d_model, F32)?;
        q.gemm(first, &u, &mut w_d, GemmOpts::default())?;
        Ok(q.copy(&w_d, &mut self.p.w_d.value)?)
    }
}

/// Scales rows of `w [S, d]` to this norm; unless `exact`, only those above it. A row of zeros stays.
fn set_row_norms(q: &mut Queue, w: &mut Tensor, norm: f32, exact: bool) -> Result<()> {
    const TINY: f32 = 1.0 / (1u64 << 60) as f32;
    let mut factor = q.empty(w.rows(), 1, F32)?;
    row_norms(q, w, factor.view_mut())?;
    // norm/n with n at least tiny; or min(1, norm/n).
    let (a, b) = if exact { (norm / TINY, TINY) } else { (1.0, norm) };
    q.map_in_place(MapKind::Shrink, a, b, &mut factor)?;
    Ok(q.zip_in_place(MapKind::Mul, &factor, 1.0, 0.0, w)?)
}
