//! Crosscoder (VARIANTS §7): one dictionary of several hook points. Heads h share a pre-activation and have decoders of their own,
//!   s = Σ_h x_h·W_E[h] + b_E[h]     f_h = σ(s·n_h)/n_h     ŷ_h = f_h·W_D[h] + b_D[h]     n_h = ‖W_D[h]‖
//! A hook point narrower than d counts as padded with zeros on the right. Selection and losses are [`super::heads`]'s.

mod init;
mod metrics;
mod settings;

pub use settings::CrossCoderSettings;

use super::{
    Base, Codes, Coefficients, DeadFeatures, Dictionary, LossTerms, Param, Share, StepInput, grad,
    heads::{self, Heads, Way},
    norms_of, row_norms,
    settings::DictionarySettings,
    unplanned,
    variants::Variant,
};
use crate::{Error, Result, parallel::placement::even, settings::ActFn, training::LossSettings};
use lm_saes_runtime::{Arena, DType, GemmOpts, MapKind, Queue, ReduceKind, Tensor, View};
use std::ops::Range;

/// Rows of a decoder held at once while the gradient of the norms is added.
const PART: usize = 512;

/// The dictionary.
pub(super) struct CrossCoder {
    base: Base,
    own: CrossCoderSettings,
    /// Hook points that are this rank's.
    held: Range<usize>,
    /// `[H·S, d]`.
    w_e: Param,
    /// `[H, S]`.
    b_e: Param,
    /// `[H·S, d]`.
    w_d: Param,
    /// `[H, d]`.
    b_d: Param,
    threshold: Option<Param>,
    heads: Heads,
    /// Reconstructions of each head `[rows, d]`.
    y_hat: Vec<Tensor>,
    /// Sum of the encoder biases `[1, S]`, and part of a decoder.
    work: Option<(Tensor, Tensor)>,
}

impl CrossCoder {
    /// Zeros.
    pub fn zeros(
        q: &mut Queue,
        settings: &DictionarySettings,
        own: &CrossCoderSettings,
        share: Share,
    ) -> Result<Self> {
        let (s, d, n) = (settings.d_sae(), settings.d_model(), own.hook_points.len());
        let of = |axis| [share.of_heads(0, n), share.of_features(axis)].concat();
        let held = even(n, share.head().0, share.head().1);
        Ok(Self {
            w_e: Param::transposed(q, "W_E", &[n, d, s], of(2))?,
            b_e: Param::zeros(q, "b_E", &[n, s], of(1))?,
            w_d: Param::zeros(q, "W_D", &[n, s, d], of(1))?,
            b_d: Param::zeros(q, "b_D", &[n, d], share.of_heads(0, n))?,
            threshold: match settings.act_fn() {
                ActFn::JumpRelu => Some(Param::thresholds(q, &[s], share.of_features(0))?),
                _ => None,
            },
            heads: Heads::nothing(settings, (held.len(), share.len()))?,
            held,
            base: Base::new(settings, 1, share),
            own: own.clone(),
            y_hat: Vec::new(),
            work: None,
        })
    }

    /// Heads here.
    fn n(&self) -> usize {
        self.held.len()
    }

    fn hook_points(&self) -> &[String] {
        &self.own.hook_points[self.held.clone()]
    }

    /// What multiplies the decoder norms of a head here.
    fn gate_scale(&self, head: usize) -> f32 {
        self.own.gate_scales.get(self.held.start + head).copied().unwrap_or(1.0)
    }

    /// Rows of a head in the matrices.
    fn of(&self, head: usize) -> Range<usize> {
        let s = self.base.features();
        head * s..(head + 1) * s
    }

    fn check(&self, views: &[View<'_>], what: &str) -> Result<()> {
        let d = self.base.settings.d_model();
        let fits = |v: &View<'_>| (1..=d).contains(&v.cols()) && v.rows() == views[0].rows();
        if views.len() == self.n() && views.iter().all(fits) {
            return Ok(());
        }
        let what = format!("expected {} {what}s of equal rows, up to {d} wide, got {views:?}", self.n());
        Err(Error::Data { what })
    }

    /// Norms of the gate: those of the decoders, times the scale of each head.
    fn gate_norms(&mut self, q: &mut Queue) -> Result<()> {
        let (all, s) = (self.w_d.value.rows(), self.base.features());
        row_norms(q, &self.w_d.value, self.heads.norms.view_mut().reshaped(all, 1))?;
        for head in 0..self.n() {
            let scale = self.gate_scale(head);
            if scale == 1.0 {
                continue;
            }
            let part = self.heads.norms.view_mut().slice_cols(head * s..(head + 1) * s);
            q.map_in_place(MapKind::Affine, scale, 0.0, part)?;
        }
        Ok(())
    }

    fn run(&mut self, q: &mut Queue, inputs: &[View<'_>], k: usize, training: bool) -> Result<()> {
        self.check(inputs, "input")?;
        let (rows, s) = (inputs[0].rows(), self.base.features());
        self.heads.begin(q, rows, k, training, self.threshold.as_ref())?;
        self.heads.set_threshold(q, &self.base.running)?;
        self.gate_norms(q)?;
        let Some((bias, _)) = &mut self.work else { return Err(unplanned()) };
        q.reduce_rows(ReduceKind::Sum, &self.b_e.value, None, &mut *bias, 0.0)?;
        let (w_e, bias) = (&self.w_e.value, bias.view());
        self.heads.encode(q, k, |q, r, mut h| {
            for (head, x) in inputs.iter().enumerate() {
                let w = w_e.rows_view(head * s..(head + 1) * s).slice_cols(0..x.cols());
                let (bias, beta) = if head == 0 { (Some(bias), 0.0) } else { (None, 1.0) };
                let opts = GemmOpts { tb: true, beta, bias, ..Default::default() };
                q.gemm(x.slice_rows(r.clone()), w, h.reborrow(), opts)?;
            }
            Ok(())
        })?;
        for head in 0..self.n() {
            let bias = Some(self.b_d.value.rows_view(head..head + 1)).filter(|_| self.base.share.leads());
            let w = self.w_d.value.rows_view(self.of(head));
            let mut y_hat = self.y_hat[head].rows_mut(0..rows);
            self.heads.decode(q, head, w, bias, y_hat.reborrow())?;
            self.base.sum_over_features(q, y_hat)?;
        }
        Ok(())
    }

    /// One head's way back: its decoder's gradients, and what it adds to those of the encoders or of the pre-activations.
    fn head_back(
        &mut self,
        q: &mut Queue,
        head: usize,
        input: &StepInput<'_>,
        loss: &LossSettings,
        c: Coefficients,
    ) -> Result<()> {
        let (rows, of) = (self.heads.rows(), self.of(head));
        let y_hat = self.y_hat[head].rows_view(0..rows);
        self.heads.error(q, head, y_hat, input.labels[head], input.weight)?;
        match self.heads.way_back(q, head)? {
            Way::Dense { f, dy, df } => {
                let w = self.w_d.value.rows_view(of.clone());
                q.gemm(dy, w, df, GemmOpts { tb: true, ..Default::default() })?;
                let dw = grad(&mut self.w_d)?.rows_mut(of);
                q.gemm(f, dy, dw, GemmOpts { ta: true, ..Default::default() })?;
            }
            Way::Sparse { s, dy, slots } => {
                slots.dot(q, s, self.w_d.value.rows_view(of.clone()), dy)?;
                q.sparse_outer(slots.by_column(), s.vals, dy, grad(&mut self.w_d)?.rows_mut(of), 0.0)?;
            }
        }
        let db = grad(&mut self.b_d)?.rows_mut(head..head + 1);
        q.reduce_rows(ReduceKind::Sum, self.heads.dy()?, None, db, 0.0)?;
        self.heads.backward(q, head, loss, c)?;
        for (to, x) in input.inputs.iter().enumerate() {
            let dw = grad(&mut self.w_e)?.rows_mut(to * self.heads.s()..(to + 1) * self.heads.s());
            let db = grad(&mut self.b_e)?.rows_mut(to..to + 1);
            self.heads.encoder_back(q, head, *x, dw.slice_cols(0..x.cols()), db)?;
        }
        Ok(())
    }

    /// The encoders' gradients from that of the pre-activations, where it did not go by entries.
    fn encoder_grads(&mut self, q: &mut Queue, inputs: &[View<'_>]) -> Result<()> {
        let d = self.base.settings.d_model();
        for (head, x) in inputs.iter().enumerate() {
            let of = self.of(head);
            let mut dw = grad(&mut self.w_e)?.rows_mut(of);
            if x.cols() < d {
                q.fill(dw.reborrow().slice_cols(x.cols()..d), 0.0)?;
            }
            let Some(dh) = self.heads.dh()? else { continue };
            q.gemm(dh, *x, dw.slice_cols(0..x.cols()), GemmOpts { ta: true, ..Default::default() })?;
            q.reduce_rows(ReduceKind::Sum, dh, None, grad(&mut self.b_e)?.rows_mut(head..head + 1), 0.0)?;
        }
        Ok(())
    }

    /// `dW_D += dn/n · scale² · W_D`: n itself is scale·‖W_D‖.
    fn norm_grads(&mut self, q: &mut Queue, loss: &LossSettings, c: Coefficients) -> Result<()> {
        let (n, s) = (self.n(), self.base.features());
        let scales: Vec<f32> = (0..n).map(|head| self.gate_scale(head)).collect();
        let Some(ratio) = self.heads.finish(q, loss, c, self.threshold.as_mut())? else { return Ok(()) };
        let column = ratio.reshaped(n * s, 1);
        let (Some((_, part)), Some(to)) = (&mut self.work, &mut self.w_d.grad) else {
            return Err(unplanned());
        };
        for (head, scale) in scales.into_iter().enumerate() {
            let scale = scale * scale;
            for start in (head * s..(head + 1) * s).step_by(PART) {
                let r = start..(start + PART).min((head + 1) * s);
                let mut part = part.rows_mut(0..r.len());
                let w = self.w_d.value.rows_view(r.clone());
                q.zip(MapKind::Mul, w, column.slice_rows(r.clone()), scale, 0.0, part.reborrow())?;
                q.zip_in_place(MapKind::Add, part.as_view(), 1.0, 1.0, to.rows_mut(r))?;
            }
        }
        Ok(())
    }
}

impl Dictionary for CrossCoder {
    fn base(&self) -> &Base {
        &self.base
    }
    fn base_mut(&mut self) -> &mut Base {
        &mut self.base
    }
    fn hook_points_in(&self) -> Vec<String> {
        self.hook_points().to_vec()
    }
    fn hook_points_out(&self) -> Vec<String> {
        self.hook_points().to_vec()
    }
    fn params(&self) -> Vec<&Param> {
        let mut all = vec![&self.w_e, &self.b_e, &self.w_d, &self.b_d];
        all.extend(&self.threshold);
        all
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        let mut all = vec![&mut self.w_e, &mut self.b_e, &mut self.w_d, &mut self.b_d];
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
        let (s, d) = (self.base.features(), self.base.settings.d_model());
        let mut y_hat = Vec::new();
        for hook_point in self.hook_points() {
            let label = format!("reconstruction of {hook_point}");
            y_hat.push(arena.tensor(&label, rows, d, DType::F32)?);
        }
        let part = if loss.is_some() { PART.min(s) } else { 0 };
        self.work = Some((
            arena.tensor("sum of encoder biases", 1, s, DType::F32)?,
            arena.tensor("decoder gradient, part", part, d, DType::F32)?,
        ));
        let planned = self.base.planned(loss.is_some());
        self.heads = Heads::plan(arena, (&planned, Some(&self.base)), (self.n(), s), rows, max_k, loss)?;
        self.y_hat = y_hat;
        Ok(())
    }

    fn forward(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        _context: Option<usize>,
        k: usize,
    ) -> Result<()> {
        self.run(q, inputs, k, false)
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
        self.check(&input.labels, "label")?;
        self.run(q, &input.inputs, c.k, true)?;
        if let Some(limit) = self.heads.limit() {
            self.base.running.observe(q, limit)?;
        }
        self.heads.prepare(q, input, loss, c)?;
        for head in 0..self.n() {
            self.head_back(q, head, input, loss, c)?;
        }
        self.heads.join_heads(q)?;
        self.encoder_grads(q, &input.inputs)?;
        self.norm_grads(q, loss, c)?;
        self.heads.terms(q, input.weight, loss, c)
    }

    fn check_loss(&self, loss: &LossSettings) -> Result<()> {
        heads::check_loss(loss, "crosscoder")
    }
    fn codes(&self) -> Vec<Codes<'_>> {
        self.heads.all_codes()
    }
    fn averaged_heads(&self) -> usize {
        self.own.hook_points.len()
    }
    fn own_metrics(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        weight: &[f32],
    ) -> Result<Vec<(String, f64)>> {
        self.metrics(q, input, weight)
    }
    fn reconstruction(&self) -> Vec<View<'_>> {
        self.y_hat.iter().map(|y| y.rows_view(0..self.heads.rows())).collect()
    }
    fn row_penalty(&self) -> Option<View<'_>> {
        self.heads.row_penalty()
    }
    fn decoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.w_d.value)
    }
    fn encoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.w_e.value)
    }

    /// With c_h what normalises head h: `W_E[h]·c_h` keeps the pre-activation as it is, and `W_D[h]/c_h`, `b_D[h]/c_h` give raw
    /// outputs. The gate goes on comparing the norms from before.
    fn fold(&mut self, q: &mut Queue) -> Result<()> {
        let (factors, _) = self.base.folding_factors()?;
        for (head, &c) in factors[self.held.clone()].iter().enumerate() {
            let of = self.of(head);
            q.map_in_place(MapKind::Affine, c, 0.0, self.w_e.value.rows_mut(of.clone()))?;
            q.map_in_place(MapKind::Affine, 1.0 / c, 0.0, self.w_d.value.rows_mut(of))?;
            q.map_in_place(MapKind::Affine, 1.0 / c, 0.0, self.b_d.value.rows_mut(head..head + 1))?;
        }
        // A ReLU has no scale and a row's ranking none either.
        if matches!(self.base.settings.act_fn(), ActFn::JumpRelu | ActFn::BatchTopK) {
            let before = |head: usize| self.own.gate_scales.get(head).copied().unwrap_or(1.0);
            self.own.gate_scales = factors.iter().enumerate().map(|(h, c)| before(h) * c).collect();
            self.base.settings.variant = Variant::CrossCoder(self.own.clone());
        }
        self.base.folded();
        Ok(())
    }
}
