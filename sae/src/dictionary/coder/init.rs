//! Starting values (VARIANTS §6 "Initialisation"; TRAINING §1). Temporary memory comes from the queue's pool: none of this
//! runs inside a step.

use super::{Coder, RandomParts, row_norms};
use crate::{
    Error, Result,
    dictionary::{Dictionary, Initialise, Mlp, ModelAttention, RandomInit, TINY, norms_of, subspace},
    settings::NormActivation,
};
use lm_saes_runtime::{DType, GemmOpts, MapKind, Queue, ReduceKind, Tensor, View};

const F32: DType = DType::F32;

impl Initialise for Coder {
    fn variant(&self) -> &'static str {
        self.base.settings.sae_type()
    }

    fn init_random(&mut self, q: &mut Queue, init: &RandomInit) -> Result<()> {
        // Each matrix has its own stretch of the stream.
        let largest = self.params().iter().map(|p| p.whole_len()).max().unwrap_or(0);
        let mut parts = RandomParts::new(largest);
        self.base.running.set(None);
        self.encoder.init_random(q, init, &mut parts)?;
        self.encoder.init_decoder(q, init, parts.take(), &mut self.p.w_d)?;
        if let Some(b_d) = &mut self.p.b_d {
            q.fill(&mut b_d.value, 0.0)?;
        }
        if let Some(skip) = &mut self.p.skip {
            q.fill(&mut skip.value, 0.0)?;
        }
        if let Some(threshold) = &mut self.p.threshold {
            let log = init.log_threshold()?;
            q.fill(&mut threshold.value, if self.p.direct { log.exp() } else { log })?;
        }
        Ok(())
    }

    fn encoder_from_decoder_transpose(&mut self, q: &mut Queue, factor: f32) -> Result<()> {
        self.encoder.set_from_decoder(q, self.p.w_d.value.view(), factor)
    }

    fn set_decoder_norm(&mut self, q: &mut Queue, norm: f32, exact: bool) -> Result<()> {
        if !self.encoder.decoder_norms_move_together() {
            return set_row_norms(q, &mut self.p.w_d.value, norm, exact);
        }
        let norms = norms_of(q, &self.p.w_d.value)?;
        let mut sum = [norms.iter().map(|n| f64::from(*n)).sum::<f64>()];
        self.base.share.sum(q, &mut sum)?;
        let mean = (sum[0] / self.base.settings.d_sae() as f64) as f32;
        let factor = if exact { norm / mean } else { norm / mean.max(norm) };
        // A decoder of zeros stays.
        let factor = if factor.is_finite() { factor } else { 1.0 };
        Ok(q.map_in_place(MapKind::Affine, factor, 0.0, &mut self.p.w_d.value)?)
    }

    fn set_encoder_norm(&mut self, q: &mut Queue, norm: f32) -> Result<()> {
        self.encoder.set_norm(q, norm)
    }

    fn decoder_bias_from_mean(&mut self, q: &mut Queue, labels: &[View<'_>]) -> Result<()> {
        let label = self.base.label(labels)?;
        let b_d = self.p.b_d.as_mut().ok_or_else(|| {
            Error::setting(
                "initializer.bias_init_method",
                "there is no decoder bias to initialise; use all_zero",
            )
        })?;
        q.reduce_rows(ReduceKind::Sum, label, None, &mut b_d.value, 0.0)?;
        Ok(q.map_in_place(MapKind::Affine, 1.0 / label.rows() as f32, 0.0, &mut b_d.value)?)
    }

    fn encoder_bias_from_mean_hidden_pre(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        context: Option<usize>,
    ) -> Result<()> {
        let x = self.base.input(inputs)?;
        if !self.encoder.bias_is_added() {
            return Err(Error::setting(
                "initializer.init_encoder_bias_with_mean_hidden_pre",
                "this variant's bias is not simply added to its pre-activations; set it to false",
            ));
        }
        let mut centred = match self.extras.centred {
            true => Some(q.empty(x.rows(), x.cols(), F32)?),
            false => None,
        };
        let x = self.centre(q, x, centred.as_mut())?;
        q.fill(&mut self.encoder.bias_mut().value, 0.0)?;
        let (rows, s) = (x.rows(), self.base.features());
        self.begin(q, (rows, context), 0, false, false)?;
        let block = self.work.block.min(rows);
        let mut sum = q.zeros(1, s, F32)?;
        let mut h = q.empty(block, s, F32)?;
        for r in super::blocks(rows, block) {
            self.encoder.hidden(q, x.slice_rows(r.clone()), h.rows_mut(0..r.len()))?;
            q.reduce_rows(ReduceKind::Sum, h.rows_view(0..r.len()), None, &mut sum, 1.0)?;
        }
        let bias = &mut self.encoder.bias_mut().value;
        Ok(q.map(MapKind::Affine, &sum, -1.0 / rows as f32, 0.0, bias)?)
    }

    fn decoder_from_active_subspace(
        &mut self,
        q: &mut Queue,
        labels: &[View<'_>],
        d_active: usize,
    ) -> Result<()> {
        let label = self.base.label(labels)?;
        // U [k, d]: W_D <- W_D[:, :k]·U
        let u = subspace::principal_directions(q, label, d_active)?;
        let first = self.p.w_d.value.view().slice_cols(0..d_active);
        let mut w_d = q.empty(self.base.features(), self.base.settings.d_out(), F32)?;
        q.gemm(first, &u, &mut w_d, GemmOpts::default())?;
        Ok(q.copy(&w_d, &mut self.p.w_d.value)?)
    }

    fn has_heads(&self) -> bool {
        self.encoder.has_heads()
    }

    fn queries_and_keys_from_model(&mut self, q: &mut Queue, attention: &ModelAttention) -> Result<()> {
        let a = self.input_factor("initializer.initialize_lorsa_with_mhsa")?;
        self.encoder.take_queries_and_keys(q, attention, a)
    }

    fn transcoder_from_mlp(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        weight: View<'_>,
        mlp: &mut Mlp<'_>,
    ) -> Result<()> {
        const KEY: &str = "initializer.initialize_tc_with_mlp";
        let x = self.base.input(inputs)?;
        let (s, d, raw) = (self.base.features(), x.cols(), 1.0 / self.input_factor(KEY)?);
        if self.encoder.directions().is_none() {
            return Err(Error::setting(KEY, "is for transcoders with a linear encoder; leave it out"));
        }
        let (mut mean, mut away) = (q.empty(1, d, F32)?, q.empty(x.rows(), d, F32)?);
        q.reduce_rows(ReduceKind::Sum, x, Some(weight), &mut mean, 0.0)?;
        q.zip(MapKind::Add, x, &mean, 1.0, -1.0, &mut away)?;
        let distances = norms_of(q, &away)?;
        let weights: Vec<f32> = q.download(weight)?;
        let radius: f64 = distances.iter().zip(&weights).map(|(r, w)| f64::from(*r) * f64::from(*w)).sum();
        self.encoder.set_norm(q, 1.0)?;
        let Some(directions) = self.encoder.directions() else { return Ok(()) };
        let mut probes = q.empty(s, d, F32)?;
        q.map(MapKind::Affine, directions, radius as f32 * raw, 0.0, &mut probes)?;
        q.zip_in_place(MapKind::Add, &mean, 1.0, raw, &mut probes)?;
        let answers = mlp(q, probes.view())?;
        let mut mean = q.empty(1, answers.cols(), F32)?;
        q.reduce_rows(ReduceKind::Sum, &answers, None, &mut mean, 0.0)?;
        self.base.sum_over_features(q, mean.view_mut())?;
        let share = -1.0 / self.base.settings.d_sae() as f32;
        q.zip(MapKind::Add, &answers, &mean, 1.0, share, &mut self.p.w_d.value)?;
        set_row_norms(q, &mut self.p.w_d.value, 1.0, true)
    }

    fn subspace_from_model(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        attention: &ModelAttention,
    ) -> Result<()> {
        let x = self.base.input(inputs)?;
        self.encoder.take_value_subspace(q, x, attention, &mut self.p.w_d.value)
    }
}

impl Coder {
    /// What multiplies raw inputs, where that is one number; `key` asks for it.
    fn input_factor(&self, key: &str) -> Result<f32> {
        match self.base.settings.norm_activation() {
            NormActivation::Inference => Ok(1.0),
            NormActivation::DatasetWise => Ok(self.base.folding_factors()?.0[0]),
            other => {
                let what = format!("inputs normalised {other:?} have no constant scale; use dataset-wise");
                Err(Error::setting(key, what))
            }
        }
    }
}

/// Scales rows of `w [S, d]` to this norm; unless `exact`, only those above it. A row of zeros stays.
pub(crate) fn set_row_norms(q: &mut Queue, w: &mut Tensor, norm: f32, exact: bool) -> Result<()> {
    let mut factor = q.empty(w.rows(), 1, F32)?;
    row_norms(q, w, factor.view_mut())?;
    // norm/n with n at least tiny; or min(1, norm/n).
    let (a, b) = if exact { (norm / TINY, TINY) } else { (1.0, norm) };
    q.map_in_place(MapKind::Shrink, a, b, &mut factor)?;
    Ok(q.zip_in_place(MapKind::Mul, &factor, 1.0, 0.0, w)?)
}
