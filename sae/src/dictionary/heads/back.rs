//! From the gradient of a head's reconstruction to that of the pre-activations all heads share: dense, or entry by entry.

use super::{
    Heads, Slots, Store,
    loss::{Path, Train},
    rows_of,
};
use crate::{
    Result,
    dictionary::{Coefficients, unplanned},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{
    MapKind, PenaltyArgs, PenaltyKind, Queue, ReduceKind, Reduction, SparseView, ThresholdPenaltyArgs, View,
    ViewMut,
};

/// What a decoder needs to find its gradients and that of one head's activations.
pub(in crate::dictionary) enum Way<'a> {
    Dense {
        f: View<'a>,
        /// Gradient of ŷ `[B, d]`.
        dy: View<'a>,
        /// Where the gradient of f goes (`=`).
        df: ViewMut<'a>,
    },
    Sparse {
        /// Grouped by column in `slots`, where `dcodes` is the gradient to write.
        s: SparseView<'a>,
        dy: View<'a>,
        slots: &'a mut Slots,
    },
}

impl Heads {
    /// One head's activations, the gradient of its ŷ, and where the gradient of the activations goes.
    pub fn way_back(&mut self, q: &mut Queue, head: usize) -> Result<Way<'_>> {
        let rows = self.rows;
        let Some(Train { dy, path, .. }) = &mut self.train else { return Err(unplanned()) };
        let dy = dy.rows_view(0..rows);
        match (&self.codes, path) {
            (Store::Dense(f), Path::Dense { df, .. }) => {
                let f = f.rows_view(rows_of(head, self.most_rows, rows));
                Ok(Way::Dense { f, dy, df: df.rows_mut(0..rows) })
            }
            (Store::Sparse(codes), Path::Sparse(slots)) => {
                let s = codes.view(head);
                slots.sort(q, s)?;
                Ok(Way::Sparse { s, dy, slots })
            }
            _ => Err(unplanned()),
        }
    }

    /// Gradient of the ŷ last given to [`Heads::error`].
    pub fn dy(&self) -> Result<View<'_>> {
        Ok(self.train.as_ref().ok_or_else(unplanned)?.dy.rows_view(0..self.rows))
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
        match self.codes {
            Store::Dense(_) => self.dense_back(q, head, loss, c),
            Store::Sparse(_) => self.sparse_back(q, head, loss),
        }
    }

    fn sparse_back(&mut self, q: &mut Queue, head: usize, loss: &LossSettings) -> Result<()> {
        let (rows, columns) = (self.rows, self.columns(head));
        let Self { codes: Store::Sparse(codes), norms, train: Some(t), .. } = self else {
            return Err(unplanned());
        };
        let Train { path: Path::Sparse(slots), ones, dn, row_penalty, penalty_weight, quad_gain, dh, .. } = t
        else {
            return Err(unplanned());
        };
        let s = codes.view(head);
        if let Some(kind) = loss.sparsity {
            let norms = norms.view().slice_cols(columns.clone());
            let args = penalty_args(loss, kind, norms, penalty_weight.rows_view(0..rows), quad_gain.view());
            let out = row_penalty.rows_mut(0..rows).slice_cols(head..head + 1);
            let dn = dn.view_mut().slice_cols(columns);
            slots.penalise(q, s, args, ones.rows_view(0..rows), out, Some(dn))?;
        }
        let Some(dh) = dh else { return Ok(()) };
        let beta = if head == 0 { 0.0 } else { 1.0 };
        let dcodes = SparseView { vals: super::like(&slots.dcodes, s), ..s };
        Ok(q.scatter(dcodes, dh.rows_mut(0..rows), beta)?)
    }

    fn dense_back(&mut self, q: &mut Queue, head: usize, loss: &LossSettings, c: Coefficients) -> Result<()> {
        let (rows, columns, window) = (self.rows, self.columns(head), self.window);
        let (lp, gated) = (self.has_lp(loss, c), self.gated);
        let Self { codes: Store::Dense(f), h, norms, theta, train: Some(t), .. } = self else {
            return Err(unplanned());
        };
        let Train { path: Path::Dense { df, spare, product }, dh: Some(dh), dn, dtheta, .. } = t else {
            return Err(unplanned());
        };
        let h = h.rows_view(0..rows);
        let f = f.rows_view(rows_of(head, self.most_rows, rows));
        let norms = norms.view().slice_cols(columns.clone());
        if let Some(kind) = loss.sparsity {
            let args =
                penalty_args(loss, kind, norms, t.penalty_weight.rows_view(0..rows), t.quad_gain.view());
            let out = t.row_penalty.rows_mut(0..rows).slice_cols(head..head + 1);
            q.penalty_dense(f, args, Some(out), spare.rows_mut(0..rows))?;
            q.zip(MapKind::Mul, spare.rows_view(0..rows), f, 1.0, 0.0, product.rows_mut(0..rows))?;
            let dn = dn.view_mut().slice_cols(columns.clone());
            q.reduce_rows(ReduceKind::Sum, product.rows_view(0..rows), None, dn, 1.0)?;
            q.zip_in_place(MapKind::Mul, norms, 1.0, 0.0, spare.rows_mut(0..rows))?;
            q.zip_in_place(MapKind::Add, spare.rows_view(0..rows), 1.0, 1.0, df.rows_mut(0..rows))?;
        }
        let theta = theta.as_ref().map(|theta| theta.view());
        let jump = theta.map(|theta| (theta, window, dtheta.view_mut()));
        let scale = (theta.is_some() && gated).then_some(norms);
        q.gate_grad(h, scale, jump, df.rows_view(0..rows), spare.rows_mut(0..rows))?;
        let spare = spare.rows_view(0..rows);
        match head {
            0 => q.copy(spare, dh.rows_mut(0..rows))?,
            _ => q.zip_in_place(MapKind::Add, spare, 1.0, 1.0, dh.rows_mut(0..rows))?,
        }
        let (true, Some(theta)) = (lp, theta) else { return Ok(()) };
        Ok(q.threshold_penalty(ThresholdPenaltyArgs {
            x: h,
            scale: Some(norms),
            theta,
            weight: t.lp_weight.rows_view(0..rows),
            gated: loss.lp_gated && gated,
            out: t.row_lp.rows_mut(0..rows).slice_cols(head..head + 1),
            dx: Some(dh.rows_mut(0..rows)),
            dtheta: Some(dtheta.view_mut()),
            dn: Some(dn.view_mut().slice_cols(columns)),
        })?)
    }

    /// The gradient of the encoder of `x [B, d]`: of its matrix `dw [S, d]` and its bias `db [1, S]`, where it goes by the
    /// entries of one head, after [`Heads::backward`] of that head. The first head overwrites, others add.
    pub fn encoder_back(
        &self,
        q: &mut Queue,
        head: usize,
        x: View<'_>,
        dw: ViewMut<'_>,
        db: ViewMut<'_>,
    ) -> Result<()> {
        let Self { codes: Store::Sparse(codes), train: Some(t), .. } = self else { return Ok(()) };
        let (Path::Sparse(slots), None) = (&t.path, &t.dh) else { return Ok(()) };
        let beta = if head == 0 { 0.0 } else { 1.0 };
        let s = codes.view(head);
        slots.outer(q, s, x, dw, beta)?;
        slots.outer(q, s, t.ones.rows_view(0..self.rows), db.reshaped(self.s, 1), beta)
    }

    /// Adds up the gradient of the pre-activations over the heads of all ranks, once every head here has gone back.
    pub fn join_heads(&mut self, q: &mut Queue) -> Result<()> {
        let rows = 0..self.rows;
        let Some(dh) = self.train.as_mut().and_then(|t| t.dh.as_mut()) else { return Ok(()) };
        self.mesh.head.all_reduce(q, dh.rows_mut(rows), Reduction::Sum)
    }

    /// Gradient of the pre-activations, once every head has gone back, unless it goes on by entries.
    pub fn dh(&self) -> Result<Option<View<'_>>> {
        let t = self.train.as_ref().ok_or_else(unplanned)?;
        Ok(t.dh.as_ref().map(|dh| dh.rows_view(0..self.rows)))
    }
}

fn penalty_args<'a>(
    loss: &LossSettings,
    kind: SparsityLoss,
    norms: View<'a>,
    weight: View<'a>,
    quad_gain: View<'a>,
) -> PenaltyArgs<'a> {
    PenaltyArgs {
        kind: kind.kind().unwrap_or(PenaltyKind::Tanh),
        scale: Some(norms),
        weight: Some(weight),
        colgain: (kind == SparsityLoss::TanhQuad).then_some(quad_gain),
        p: loss.p,
        c: loss.tanh_stretch,
    }
}
