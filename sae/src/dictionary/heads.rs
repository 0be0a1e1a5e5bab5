//! Codes of dictionaries whose heads share one pre-activation, or that have one head and a decoder of their own: selection,
//! penalties and the way back to the pre-activation. VARIANTS §3, §5. With heads j of norms n_j
//!   f_j = h where selected by h·n_j (or h), else 0
//! and every loss a mean over heads. How h, the norms and the reconstructions come about is the variant's.

use super::{Codes, Coefficients, LossTerms, Param, RunningThresholds, StepInput, grad};
use crate::{
    Error, Result,
    settings::{ActFn, DictionarySettings},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{
    Arena, CompactArgs, DType, MapKind, PenaltyArgs, PenaltyKind, Queue, ReduceKind, Select, SparseView,
    Tensor, ThresholdPenaltyArgs, View, ViewMut,
};
use std::ops::Range;

const F32: DType = DType::F32;
const U32: DType = DType::U32;
/// A power of two, for dividing by numbers that may be 0: `x ↦ min(1, TINY/x)/TINY`.
const TINY: f32 = 1.0 / (1u64 << 60) as f32;

/// Buffers and rules of the codes.
pub(super) struct Heads {
    heads: usize,
    s: usize,
    act: ActFn,
    gated: bool,
    window: f32,
    most_rows: usize,
    max_k: usize,
    /// Rows of the last forward.
    rows: usize,
    /// Pre-activations `[rows, S]`.
    h: Tensor,
    /// Activations, `[rows, S]` of one head after the other.
    f: Tensor,
    /// Norms of the gate `[1, H·S]`.
    pub norms: Tensor,
    /// `exp(log θ)`, `[1, S]`.
    theta: Option<Tensor>,
    select: Selection,
    train: Option<Train>,
}

/// What a selection needs beside its input.
enum Selection {
    /// A gate.
    Gate,
    /// Values and columns, `[1, rows·k]`.
    TopK(Tensor, Tensor),
    /// Pre-activations once for each head and what of them is selected, `[rows, H·S]`, and the threshold.
    Batch(Tensor, Tensor, Tensor),
}

/// Buffers of loss and gradients.
struct Train {
    /// ŷ − y of one head, then its gradient, `[rows, d]`.
    dy: Tensor,
    /// Gradients: of one head's activations, of the pre-activations; and scratch; `[rows, S]`.
    df: Tensor,
    dh: Tensor,
    spare: Tensor,
    product: Tensor,
    /// `[rows, H]`.
    row_rec: Tensor,
    row_penalty: Tensor,
    row_lp: Tensor,
    /// `[rows, 1]`.
    penalty_weight: Tensor,
    lp_weight: Tensor,
    /// `[1, H·S]`.
    dn: Tensor,
    inv_n: Tensor,
    /// `[1, S]`.
    dtheta: Tensor,
    quad: Tensor,
    quad_gain: Tensor,
    /// One number a head: errors, penalties, threshold penalties; then tanh-quad's sums.
    scalars: Tensor,
    has_row_penalty: bool,
}

impl Heads {
    /// For no rows: every pass is refused until there is a plan.
    pub fn nothing(settings: &DictionarySettings, heads: usize) -> Result<Self> {
        Self::plan(&mut Arena::planning("nothing"), settings, heads, 0, 1, None)
    }

    /// For passes over up to `rows` rows.
    pub fn plan(
        arena: &mut Arena,
        settings: &DictionarySettings,
        heads: usize,
        rows: usize,
        max_k: usize,
        loss: Option<&LossSettings>,
    ) -> Result<Self> {
        let (s, d, act) = (settings.d_sae(), settings.d_model(), settings.act_fn());
        let max_k = max_k.min(s);
        let all = heads * s;
        Ok(Self {
            heads,
            s,
            act,
            gated: settings.gated(),
            window: settings.common.jumprelu_threshold_window,
            most_rows: rows,
            max_k,
            rows: 0,
            h: arena.tensor("pre-activations", rows, s, F32)?,
            f: arena.tensor("feature activations", heads * rows, s, F32)?,
            norms: arena.tensor("decoder norms", 1, all, F32)?,
            theta: match act {
                ActFn::JumpRelu => Some(arena.tensor("thresholds", 1, s, F32)?),
                _ => None,
            },
            select: match act {
                ActFn::TopK => Selection::TopK(
                    arena.tensor("selected values", 1, rows * max_k, F32)?,
                    arena.tensor("selected columns", 1, rows * max_k, U32)?,
                ),
                ActFn::BatchTopK => Selection::Batch(
                    arena.tensor("pre-activations by head", rows, all, F32)?,
                    arena.tensor("selected by head", rows, all, F32)?,
                    arena.tensor("selection threshold", 1, 2, U32)?,
                ),
                _ => Selection::Gate,
            },
            train: loss.map(|loss| Train::plan(arena, (heads, rows, s, d), loss)).transpose()?,
        })
    }

    /// Checks a pass against the plan and prepares the thresholds.
    pub fn begin(
        &mut self,
        q: &mut Queue,
        rows: usize,
        k: usize,
        training: bool,
        threshold: Option<&Param>,
    ) -> Result<()> {
        let enough =
            (1..=self.most_rows).contains(&rows) && (!self.act.has_k() || k.min(self.s) <= self.max_k);
        if !enough || (training && self.train.is_none()) {
            let what = format!(
                "a step of {rows} rows with k {k} on a dictionary planned for {} rows with k up to {}{}",
                self.most_rows,
                self.max_k,
                if self.train.is_some() { "" } else { ", without training" }
            );
            return Err(Error::Data { what });
        }
        self.rows = rows;
        if let (Some(log), Some(theta)) = (threshold, &mut self.theta) {
            q.map(MapKind::Exp, &log.value, 0.0, 0.0, theta)?;
        }
        Ok(())
    }

    /// The gate's threshold of this pass, where it is the running threshold of a selection over the batch.
    pub fn set_threshold(&mut self, q: &mut Queue, running: &RunningThresholds) -> Result<()> {
        if let (Some(limit), Some(theta)) = (running.in_force(0), &mut self.theta) {
            q.fill(theta, limit)?;
        }
        Ok(())
    }

    /// The limit of the last selection over the batch, `[1, 2]`.
    pub fn limit(&self) -> Option<&Tensor> {
        match &self.select {
            Selection::Batch(_, _, limit) => Some(limit),
            _ => None,
        }
    }

    /// Rows of the last pass.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Pre-activations of the pass, to write.
    pub fn hidden_mut(&mut self) -> ViewMut<'_> {
        self.h.rows_mut(0..self.rows)
    }

    fn columns(&self, head: usize) -> Range<usize> {
        head * self.s..(head + 1) * self.s
    }

    /// Rows of one head among the activations.
    fn rows_of(&self, head: usize) -> Range<usize> {
        head * self.most_rows..head * self.most_rows + self.rows
    }

    /// Activations of one head, `[B, S]`.
    pub fn codes(&self, head: usize) -> View<'_> {
        self.f.rows_view(self.rows_of(head))
    }

    /// Activations of every head.
    pub fn all_codes(&self) -> Vec<Codes<'_>> {
        (0..self.heads).map(|head| Codes::Dense(self.codes(head))).collect()
    }

    /// Activations from pre-activations and norms.
    pub fn select(&mut self, q: &mut Queue, k: usize) -> Result<()> {
        let (rows, s, heads) = (self.rows, self.s, self.heads);
        let h = self.h.rows_view(0..rows);
        let gated = self.gated;
        if let Selection::Batch(stacked, chosen, thr) = &mut self.select {
            for head in 0..heads {
                q.copy(h, stacked.rows_mut(0..rows).slice_cols(head * s..(head + 1) * s))?;
            }
            let stacked = stacked.rows_view(0..rows);
            let select = Select { scale: gated.then(|| self.norms.view()), mask: None };
            q.threshold(stacked, select, k.min(s) * rows * heads, &mut *thr)?;
            let rule = CompactArgs { select, theta: None, thr: Some(thr.view()) };
            q.gate(stacked, rule, chosen.rows_mut(0..rows))?;
            for head in 0..heads {
                let own = chosen.rows_view(0..rows).slice_cols(head * s..(head + 1) * s);
                q.copy(own, self.f.rows_mut(head * self.most_rows..head * self.most_rows + rows))?;
            }
            return Ok(());
        }
        for head in 0..heads {
            let columns = head * s..(head + 1) * s;
            let norms = self.norms.view().slice_cols(columns.clone());
            let select = Select { scale: gated.then_some(norms), mask: None };
            let f = self.f.rows_mut(head * self.most_rows..head * self.most_rows + rows);
            match &mut self.select {
                Selection::TopK(vals, idx) => {
                    let k = k.min(s);
                    let mut v = vals.view_mut().slice_cols(0..rows * k).reshaped(rows, k);
                    let mut i = idx.view_mut().slice_cols(0..rows * k).reshaped(rows, k);
                    q.topk(h, select, v.reborrow(), i.reborrow())?;
                    q.scatter(SparseView { vals: v.as_view(), idx: i.as_view(), ptr: None, n: s }, f, 0.0)?;
                }
                _ => {
                    // Without a threshold the sign of h·n is that of h.
                    let theta = self.theta.as_ref().map(|t| t.view());
                    let select = if theta.is_some() { select } else { Select::default() };
                    q.gate(h, CompactArgs { select, theta, thr: None }, f)?;
                }
            }
        }
        Ok(())
    }

    fn train(&mut self) -> Result<&mut Train> {
        self.train
            .as_mut()
            .ok_or_else(|| Error::Data { what: "the dictionary was not planned for training".into() })
    }

    /// Fills what depends on weights and activations of the whole batch, before the first head goes back.
    pub fn prepare(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        loss: &LossSettings,
        c: Coefficients,
    ) -> Result<()> {
        let (rows, heads, s) = (self.rows, self.heads, self.s);
        let lp = self.has_lp(loss, c);
        let (f, norms, most) = (self.f.view(), self.norms.view(), self.most_rows);
        let Some(t) = &mut self.train else { return Err(unplanned()) };
        let share = 1.0 / heads as f32;
        t.has_row_penalty = loss.sparsity.is_some_and(|kind| kind != SparsityLoss::TanhQuad);
        q.fill(&mut t.dn, 0.0)?;
        q.fill(&mut t.dtheta, 0.0)?;
        q.fill(&mut t.scalars, 0.0)?;
        if lp {
            let out = t.lp_weight.rows_mut(0..rows);
            q.map(MapKind::Affine, input.weight, c.lp * share, 0.0, out)?;
        }
        let mut weight = t.penalty_weight.rows_mut(0..rows);
        if loss.sparsity != Some(SparsityLoss::TanhQuad) {
            return Ok(q.map(MapKind::Affine, input.weight, c.l1 * share, 0.0, weight)?);
        }
        // A mean over all rows and heads, masked rows too; the coefficient is in the column gains.
        q.fill(weight.reborrow(), share / rows as f32)?;
        for head in 0..heads {
            let columns = head * s..(head + 1) * s;
            let args = PenaltyArgs {
                kind: PenaltyKind::TanhValue,
                scale: Some(norms.slice_cols(columns)),
                weight: None,
                colgain: None,
                p: loss.p,
                c: loss.tanh_stretch,
            };
            let f = f.slice_rows(head * most..head * most + rows);
            q.penalty_dense(f, args, None, t.spare.rows_mut(0..rows))?;
            let beta = if head == 0 { 0.0 } else { 1.0 };
            q.reduce_rows(ReduceKind::Sum, t.spare.rows_view(0..rows), None, &mut t.quad, beta)?;
        }
        q.map_in_place(MapKind::Affine, share / rows as f32, 0.0, &mut t.quad)?;
        q.map(MapKind::Affine, &t.quad, 2.0 * c.l1 / loss.frequency_scale, c.l1, &mut t.quad_gain)?;
        let mut out = t.scalars.rows_mut(3..4);
        q.reduce_cols(ReduceKind::Sum, &t.quad, out.reborrow().slice_cols(0..1), 0.0)?;
        q.reduce_cols(ReduceKind::SumSq, &t.quad, out.slice_cols(1..2), 0.0)?;
        Ok(())
    }

    fn has_lp(&self, loss: &LossSettings, c: Coefficients) -> bool {
        loss.lp && c.lp > 0.0 && self.act == ActFn::JumpRelu
    }

    /// The gradient of the loss with respect to one head's ŷ; a label narrower than ŷ counts as padded with zeros.
    pub fn error(
        &mut self,
        q: &mut Queue,
        head: usize,
        y_hat: View<'_>,
        label: View<'_>,
        weight: View<'_>,
    ) -> Result<()> {
        let (rows, share) = (self.rows, 1.0 / self.heads as f32);
        let t = self.train()?;
        let mut dy = t.dy.rows_mut(0..rows);
        q.copy(y_hat, dy.reborrow())?;
        q.zip_in_place(MapKind::Add, label, 1.0, -1.0, dy.reborrow().slice_cols(0..label.cols()))?;
        let out = t.row_rec.rows_mut(0..rows).slice_cols(head..head + 1);
        q.reduce_cols(ReduceKind::SumSq, dy.as_view(), out, 0.0)?;
        Ok(q.zip_in_place(MapKind::Mul, weight, 2.0 * share, 0.0, dy)?)
    }

    /// One head's activations, the gradient of its ŷ, and where the gradient of the activations goes.
    pub fn way_back(&mut self, head: usize) -> Result<(View<'_>, View<'_>, ViewMut<'_>)> {
        let (rows, of) = (self.rows, self.rows_of(head));
        let Some(t) = &mut self.train else { return Err(unplanned()) };
        let f = self.f.rows_view(of);
        Ok((f, t.dy.rows_view(0..rows), t.df.rows_mut(0..rows)))
    }

    /// From the gradient of one head's activations to that of the pre-activations, with what penalties add to it, to the
    /// norms and to the thresholds. Heads go in order: the first overwrites, others add.
    pub fn backward(
        &mut self,
        q: &mut Queue,
        head: usize,
        loss: &LossSettings,
        c: Coefficients,
    ) -> Result<()> {
        let (rows, columns, window) = (self.rows, self.columns(head), self.window);
        let (lp, gated) = (self.has_lp(loss, c), self.gated);
        let h = self.h.rows_view(0..rows);
        let f = self.f.rows_view(self.rows_of(head));
        let norms = self.norms.view().slice_cols(columns.clone());
        let Some(t) = &mut self.train else { return Err(unplanned()) };
        if let Some(kind) = loss.sparsity {
            let quad = kind == SparsityLoss::TanhQuad;
            let args = PenaltyArgs {
                kind: kind.kind().unwrap_or(PenaltyKind::Tanh),
                scale: Some(norms),
                weight: Some(t.penalty_weight.rows_view(0..rows)),
                colgain: quad.then(|| t.quad_gain.view()),
                p: loss.p,
                c: loss.tanh_stretch,
            };
            let out = t.row_penalty.rows_mut(0..rows).slice_cols(head..head + 1);
            q.penalty_dense(f, args, Some(out), t.spare.rows_mut(0..rows))?;
            q.zip(MapKind::Mul, t.spare.rows_view(0..rows), f, 1.0, 0.0, t.product.rows_mut(0..rows))?;
            let dn = t.dn.view_mut().slice_cols(columns.clone());
            q.reduce_rows(ReduceKind::Sum, t.product.rows_view(0..rows), None, dn, 1.0)?;
            q.zip_in_place(MapKind::Mul, norms, 1.0, 0.0, t.spare.rows_mut(0..rows))?;
            q.zip_in_place(MapKind::Add, t.spare.rows_view(0..rows), 1.0, 1.0, t.df.rows_mut(0..rows))?;
        }
        let theta = self.theta.as_ref().map(|theta| theta.view());
        let jump = theta.map(|theta| (theta, window, t.dtheta.view_mut()));
        // What was selected by rank is where the activation is positive.
        let (x, scale) = match self.act.has_k() {
            true => (f, None),
            false => (h, (theta.is_some() && gated).then_some(norms)),
        };
        q.gate_grad(x, scale, jump, t.df.rows_view(0..rows), t.spare.rows_mut(0..rows))?;
        let spare = t.spare.rows_view(0..rows);
        match head {
            0 => q.copy(spare, t.dh.rows_mut(0..rows))?,
            _ => q.zip_in_place(MapKind::Add, spare, 1.0, 1.0, t.dh.rows_mut(0..rows))?,
        }
        let (true, Some(theta)) = (lp, theta) else { return Ok(()) };
        Ok(q.threshold_penalty(ThresholdPenaltyArgs {
            x: h,
            scale: Some(norms),
            theta,
            weight: t.lp_weight.rows_view(0..rows),
            gated: loss.lp_gated && gated,
            out: t.row_lp.rows_mut(0..rows).slice_cols(head..head + 1),
            dx: Some(t.dh.rows_mut(0..rows)),
            dtheta: Some(t.dtheta.view_mut()),
            dn: Some(t.dn.view_mut().slice_cols(columns)),
        })?)
    }

    /// Gradient of the pre-activations, once every head has gone back.
    pub fn dh(&self) -> Result<View<'_>> {
        Ok(self.train.as_ref().ok_or_else(unplanned)?.dh.rows_view(0..self.rows))
    }

    /// Writes the thresholds' gradient, and turns that of the norms into `dn/n`, `[1, H·S]`, where the loss looks at norms.
    pub fn finish(
        &mut self,
        q: &mut Queue,
        loss: &LossSettings,
        c: Coefficients,
        threshold: Option<&mut Param>,
    ) -> Result<Option<View<'_>>> {
        let lp = self.has_lp(loss, c);
        let Some(t) = &mut self.train else { return Err(unplanned()) };
        if let (Some(p), Some(theta)) = (threshold, &self.theta) {
            // θ = exp(log θ)
            q.zip(MapKind::Mul, &t.dtheta, theta, 1.0, 0.0, grad(p)?)?;
        }
        if loss.sparsity.is_none() && !lp {
            return Ok(None);
        }
        q.map(MapKind::Shrink, &self.norms, 1.0 / TINY, TINY, &mut t.inv_n)?;
        q.zip_in_place(MapKind::Mul, &t.inv_n, 1.0, 0.0, &mut t.dn)?;
        Ok(Some(t.dn.view()))
    }

    /// Sums the parts and brings them to the host, in one transfer.
    pub fn terms(
        &mut self,
        q: &mut Queue,
        weight: View<'_>,
        loss: &LossSettings,
        c: Coefficients,
    ) -> Result<LossTerms> {
        let (rows, heads, lp) = (self.rows, self.heads, self.has_lp(loss, c));
        let t = self.train()?;
        if t.has_row_penalty {
            q.map_in_place(MapKind::Affine, c.l1, 0.0, t.row_penalty.rows_mut(0..rows))?;
        }
        let sums = [(0, true, &t.row_rec), (1, t.has_row_penalty, &t.row_penalty), (2, lp, &t.row_lp)];
        for (which, present, row) in sums {
            if present {
                let out = t.scalars.rows_mut(which..which + 1).slice_cols(0..heads);
                q.reduce_rows(ReduceKind::Sum, row.rows_view(0..rows), Some(weight), out, 0.0)?;
            }
        }
        let all: Vec<f32> = q.download(&t.scalars)?;
        let wide = all.len() / 4;
        let mean = |which: usize| {
            let row = &all[which * wide..which * wide + heads];
            (row.iter().map(|&v| f64::from(v)).sum::<f64>() / heads as f64) as f32
        };
        let quad = c.l1 * (all[3 * wide] + all[3 * wide + 1] / loss.frequency_scale);
        let l_s = loss.sparsity.map(|kind| if kind == SparsityLoss::TanhQuad { quad } else { mean(1) });
        let l_p = lp.then(|| c.lp * mean(2));
        let l_rec = mean(0);
        let loss = l_rec + l_s.unwrap_or(0.0) + l_p.unwrap_or(0.0);
        Ok(LossTerms { loss, l_rec, l_s, l_p, l_aux: None })
    }

    /// The penalty of each row and head of the last step, `[B, H]`.
    pub fn row_penalty(&self) -> Option<View<'_>> {
        let t = self.train.as_ref().filter(|t| t.has_row_penalty)?;
        Some(t.row_penalty.rows_view(0..self.rows))
    }

    /// Rows that count in which each feature is active in each head, and in any head: `[H·S]` and `[S]`.
    pub fn activity(&self, q: &mut Queue, mask: Option<View<'_>>) -> Result<(Vec<u32>, Vec<u32>)> {
        let mut fired = q.zeros(1, self.heads * self.s, U32)?;
        for head in 0..self.heads {
            q.activity_dense(self.codes(head), mask, fired.view_mut().slice_cols(self.columns(head)))?;
        }
        let each: Vec<u32> = q.download(&fired)?;
        if self.heads == 1 {
            return Ok((each.clone(), each));
        }
        let mut any = q.empty(self.rows, self.s, F32)?;
        q.copy(self.codes(0), &mut any)?;
        for head in 1..self.heads {
            q.zip_in_place(MapKind::Add, self.codes(head), 1.0, 1.0, &mut any)?;
        }
        let mut fired = q.zeros(1, self.s, U32)?;
        q.activity_dense(&any, mask, &mut fired)?;
        Ok((each, q.download(&fired)?))
    }
}

impl Train {
    fn plan(
        arena: &mut Arena,
        (heads, rows, s, d): (usize, usize, usize, usize),
        loss: &LossSettings,
    ) -> Result<Self> {
        let quad = if loss.sparsity == Some(SparsityLoss::TanhQuad) { s } else { 0 };
        let mut part = |label: &str, r, c| arena.tensor(label, r, c, F32).map_err(Error::from);
        Ok(Self {
            dy: part("gradient of the reconstruction", rows, d)?,
            df: part("gradient of the activations", rows, s)?,
            dh: part("gradient of the pre-activations", rows, s)?,
            spare: part("penalty gradient", rows, s)?,
            product: part("penalty gradient times activations", rows, s)?,
            row_rec: part("row errors", rows, heads)?,
            row_penalty: part("row penalties", rows, heads)?,
            row_lp: part("row threshold penalties", rows, heads)?,
            penalty_weight: part("penalty weights", rows, 1)?,
            lp_weight: part("threshold penalty weights", rows, 1)?,
            dn: part("gradient of the norms", 1, heads * s)?,
            inv_n: part("inverse norms", 1, heads * s)?,
            dtheta: part("gradient of the thresholds", 1, s)?,
            quad: part("mean tanh", 1, quad)?,
            quad_gain: part("column gains", 1, quad)?,
            scalars: part("loss terms", 4, heads.max(2))?,
            has_row_penalty: false,
        })
    }
}

fn unplanned() -> Error {
    Error::Data { what: "the dictionary was not planned for training".into() }
}

/// Refuses the auxiliary loss, whose single decoder these dictionaries do not have, and penalties of other variants.
pub(super) fn check_loss(loss: &LossSettings, sae_type: &str) -> Result<()> {
    if loss.auxk {
        let what = format!("the auxiliary loss does not exist for sae_type {sae_type}; set it to 0");
        return Err(Error::setting("trainer.auxk_coefficient", what));
    }
    match loss.sparsity {
        Some(kind @ (SparsityLoss::PowerSum | SparsityLoss::TargetL0)) => {
            let what = format!("{kind:?} does not exist for sae_type {sae_type}");
            Err(Error::setting("trainer.sparsity_loss_type", what))
        }
        _ => Ok(()),
    }
}
