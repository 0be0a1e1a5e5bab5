//! Memory of loss and gradients, what of them depends on the whole batch, and the sums that make up [`LossTerms`].

use super::{Heads, Slots, Store};
use crate::{
    Error, Result,
    dictionary::{Coefficients, LossTerms, Param, StepInput, grad, reciprocals, unplanned},
    settings::ActFn,
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{
    Arena, DType, MapKind, PenaltyArgs, PenaltyKind, Queue, ReduceKind, Reduction, Tensor, View,
};

const F32: DType = DType::F32;
/// Buffers of loss and gradients.
pub(super) struct Train {
    /// ŷ − y of one head, then its gradient, `[rows, d]`.
    pub dy: Tensor,
    pub path: Path,
    /// Gradient of the pre-activations, `[rows, S]`, unless it goes on by entries.
    pub dh: Option<Tensor>,
    pub ones: Tensor,
    /// `[rows, H]`.
    pub row_rec: Tensor,
    pub row_penalty: Tensor,
    pub row_lp: Tensor,
    /// `[rows, 1]`.
    pub penalty_weight: Tensor,
    pub lp_weight: Tensor,
    /// `[1, H·S]`.
    pub dn: Tensor,
    inv_n: Tensor,
    /// `[1, S]`.
    pub dtheta: Tensor,
    quad: Tensor,
    pub quad_gain: Tensor,
    /// One number a head: errors, penalties, threshold penalties; then tanh-quad's sums.
    scalars: Tensor,
    pub has_row_penalty: bool,
}

/// Gradients of one head's activations.
pub(super) enum Path {
    /// `[rows, S]`.
    Dense {
        df: Tensor,
        spare: Tensor,
        product: Tensor,
    },
    Sparse(Slots),
}

impl Train {
    /// Where activations are sparse, `entries` of a row of all heads together are expected, and one head may have `most`.
    pub fn plan(
        arena: &mut Arena,
        (heads, rows, s, d): (usize, usize, usize, usize),
        sparse: Option<(usize, usize)>,
        loss: &LossSettings,
    ) -> Result<Self> {
        let quad = if loss.sparsity == Some(SparsityLoss::TanhQuad) { s } else { 0 };
        let by_entries = sparse.is_some_and(|(entries, _)| super::by_entries(entries, s));
        let path = match sparse {
            Some((_, most)) => Path::Sparse(Slots::plan(arena, s, rows * most)?),
            None => Path::Dense {
                df: arena.tensor("gradient of the activations", rows, s, F32)?,
                spare: arena.tensor("penalty gradient", rows, s, F32)?,
                product: arena.tensor("penalty gradient times activations", rows, s, F32)?,
            },
        };
        let mut part = |label: &str, r, c| arena.tensor(label, r, c, F32).map_err(Error::from);
        Ok(Self {
            dy: part("gradient of the reconstruction", rows, d)?,
            path,
            dh: match by_entries {
                true => None,
                false => Some(part("gradient of the pre-activations", rows, s)?),
            },
            ones: part("ones", rows, 1)?,
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

impl Heads {
    pub(super) fn train(&mut self) -> Result<&mut Train> {
        self.train.as_mut().ok_or_else(unplanned)
    }

    pub(super) fn has_lp(&self, loss: &LossSettings, c: Coefficients) -> bool {
        loss.lp && c.lp > 0.0 && self.act == ActFn::JumpRelu
    }

    /// Fills what depends on weights and activations of the whole batch, before the first head goes back.
    pub fn prepare(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        loss: &LossSettings,
        c: Coefficients,
    ) -> Result<()> {
        let (rows, share, lp) = (self.rows, 1.0 / self.all_heads as f32, self.has_lp(loss, c));
        let total = match loss.sparsity {
            Some(SparsityLoss::TanhQuad) => self.mesh.data.total(q, rows)?,
            _ => rows,
        };
        let Some(t) = &mut self.train else { return Err(unplanned()) };
        t.has_row_penalty = loss.sparsity.is_some_and(|kind| kind != SparsityLoss::TanhQuad);
        q.fill(t.ones.rows_mut(0..rows), 1.0)?;
        q.fill(&mut t.dn, 0.0)?;
        q.fill(&mut t.dtheta, 0.0)?;
        q.fill(&mut t.scalars, 0.0)?;
        if lp {
            let out = t.lp_weight.rows_mut(0..rows);
            q.map(MapKind::Affine, input.weight, c.lp * share, 0.0, out)?;
        }
        let weight = t.penalty_weight.rows_mut(0..rows);
        if loss.sparsity != Some(SparsityLoss::TanhQuad) {
            return Ok(q.map(MapKind::Affine, input.weight, c.l1 * share, 0.0, weight)?);
        }
        // A mean over all rows and heads, masked rows too; the coefficient is in the column gains.
        q.fill(weight, share / total as f32)?;
        self.mean_activity(q, loss, c.l1)
    }

    /// First pass of tanh-quad: the mean of tanh over rows and heads, and the gain of each column that follows.
    fn mean_activity(&mut self, q: &mut Queue, loss: &LossSettings, l1: f32) -> Result<()> {
        let (rows, s, share) = (self.rows, self.s, 1.0 / self.all_heads as f32);
        let Self { codes, norms, train: Some(t), .. } = self else { return Err(unplanned()) };
        for head in 0..self.heads {
            let args = PenaltyArgs {
                kind: PenaltyKind::TanhValue,
                scale: Some(norms.view().slice_cols(head * s..(head + 1) * s)),
                weight: None,
                colgain: None,
                p: loss.p,
                c: loss.tanh_stretch,
            };
            let beta = if head == 0 { 0.0 } else { 1.0 };
            match (&*codes, &mut t.path) {
                (Store::Dense(f), Path::Dense { spare, .. }) => {
                    let f = f.rows_view(super::rows_of(head, self.most_rows, rows));
                    q.penalty_dense(f, args, None, spare.rows_mut(0..rows))?;
                    q.reduce_rows(ReduceKind::Sum, spare.rows_view(0..rows), None, &mut t.quad, beta)?;
                }
                (Store::Sparse(codes), Path::Sparse(slots)) => {
                    let s = codes.view(head);
                    slots.sort(q, s)?;
                    slots.sum_tanh(q, s, args, t.ones.rows_view(0..rows), t.quad.view_mut(), beta)?;
                }
                _ => return Err(unplanned()),
            }
        }
        let total = self.mesh.data.total(q, rows)?;
        self.mesh.data.all_reduce(q, &mut t.quad, Reduction::Sum)?;
        self.mesh.head.all_reduce(q, &mut t.quad, Reduction::Sum)?;
        q.map_in_place(MapKind::Affine, share / total as f32, 0.0, &mut t.quad)?;
        q.map(MapKind::Affine, &t.quad, 2.0 * l1 / loss.frequency_scale, l1, &mut t.quad_gain)?;
        let mut out = t.scalars.rows_mut(3..4);
        q.reduce_cols(ReduceKind::Sum, &t.quad, out.reborrow().slice_cols(0..1), 0.0)?;
        Ok(q.reduce_cols(ReduceKind::SumSq, &t.quad, out.slice_cols(1..2), 0.0)?)
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
        let (rows, share) = (self.rows, 1.0 / self.all_heads as f32);
        let t = self.train()?;
        let mut dy = t.dy.rows_mut(0..rows);
        q.copy(y_hat, dy.reborrow())?;
        q.zip_in_place(MapKind::Add, label, 1.0, -1.0, dy.reborrow().slice_cols(0..label.cols()))?;
        let out = t.row_rec.rows_mut(0..rows).slice_cols(head..head + 1);
        q.reduce_cols(ReduceKind::SumSq, dy.as_view(), out, 0.0)?;
        Ok(q.zip_in_place(MapKind::Mul, weight, 2.0 * share, 0.0, dy)?)
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
            self.mesh.head.all_reduce(q, &mut t.dtheta, Reduction::Sum)?;
            // θ = exp(log θ)
            q.zip(MapKind::Mul, &t.dtheta, theta, 1.0, 0.0, grad(p)?)?;
        }
        if loss.sparsity.is_none() && !lp {
            return Ok(None);
        }
        reciprocals(q, &self.norms, &mut t.inv_n)?;
        q.zip_in_place(MapKind::Mul, &t.inv_n, 1.0, 0.0, &mut t.dn)?;
        Ok(Some(t.dn.view()))
    }

    /// Sums the parts and brings them to the host, in one transfer; over the ranks that share the batch, the features or the heads, too.
    pub fn terms(
        &mut self,
        q: &mut Queue,
        weight: View<'_>,
        loss: &LossSettings,
        c: Coefficients,
    ) -> Result<LossTerms> {
        let (rows, heads, lp) = (self.rows, self.heads, self.has_lp(loss, c));
        let Some(t) = &mut self.train else { return Err(unplanned()) };
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
        let mut all: Vec<f32> = q.download(&t.scalars)?;
        let wide = all.len() / 4;
        // The last two were made of sums over all ranks.
        self.mesh.data.sum_parts(q, &mut all, &[3 * wide, 3 * wide + 1])?;
        // Errors are of whole reconstructions.
        self.mesh.model.sum_parts(q, &mut all, &(0..wide).collect::<Vec<_>>())?;
        let over_heads = |which: usize| -> f64 {
            all[which * wide..which * wide + heads].iter().map(|&v| f64::from(v)).sum()
        };
        let mut sums = [over_heads(0), over_heads(1), over_heads(2)];
        self.mesh.head.sum_f64(q, &mut sums)?;
        let mean = |which: usize| (sums[which] / self.all_heads as f64) as f32;
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
}

/// Refuses the auxiliary loss, whose single decoder these dictionaries do not have, and penalties of other variants.
pub(in crate::dictionary) fn check_loss(loss: &LossSettings, sae_type: &str) -> Result<()> {
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
