//! Matryoshka levels of sparse codes (Bussmann et al. 2025): every prefix of the features reconstructs by itself,
//!   ŷ_m = ŷ_{m−1} + Σ_{w_{m−1} ≤ i < w_m} f_i·W_D[i]      loss = mean over m of ‖ŷ_m − y‖²
//! so one decode in L parts gives all of them. What level m adds is part of every later ŷ, so its gradient is the sum of theirs,
//! accumulated from the last level down.

use super::{Decoder, codes::SparseCodes, grad, loss::CACHED_ROWS, work::blocks};
use crate::{
    Result,
    dictionary::{Base, slots::Slots},
};
use lm_saes_runtime::{Arena, ByColumnView, DType, MapKind, Queue, ReduceKind, Tensor, View};

/// Memory of the levels.
pub(super) struct Levels {
    /// Where each level begins, and S.
    bounds: Vec<usize>,
    /// Indices of one level.
    idx: Tensor,
    /// ŷ_m − y, then the gradient of what level m adds; `[rows, d]`, of all levels but the last.
    dy: Vec<Tensor>,
    /// Squared errors of these levels, added up, `[rows, 1]`.
    rec: Tensor,
}

impl Levels {
    /// For prefixes of these ascending sizes, more than one.
    pub fn plan(arena: &mut Arena, widths: &[usize], rows: usize, k: usize, d: usize) -> Result<Self> {
        let mut bounds = vec![0];
        bounds.extend(widths);
        let part = |arena: &mut Arena| arena.tensor("error of a prefix", rows, d, DType::F32);
        Ok(Self {
            bounds,
            idx: arena.tensor("columns of a level", 1, rows * k, DType::U32)?,
            dy: (1..widths.len()).map(|_| part(arena)).collect::<std::result::Result<_, _>>()?,
            rec: arena.tensor("row errors of prefixes", rows, 1, DType::F32)?,
        })
    }

    /// What the reconstruction loss of each level counts.
    pub fn share(&self) -> f32 {
        1.0 / (self.dy.len() + 1) as f32
    }

    fn columns(&self, level: usize) -> std::ops::Range<usize> {
        self.bounds[level]..self.bounds[level + 1]
    }

    /// ŷ of all features into `y_hat`; errors of the earlier levels are kept.
    pub fn decode(
        &mut self,
        q: &mut Queue,
        base: &Base,
        p: &Decoder,
        codes: &SparseCodes,
        y_hat: &mut Tensor,
        label: View<'_>,
    ) -> Result<()> {
        let rows = label.rows();
        for level in 0..=self.dy.len() {
            let columns = self.columns(level);
            q.confine(codes.view(), columns.clone(), codes.like_mut(&mut self.idx))?;
            let part = codes.confined(&self.idx, columns.len());
            let (bias, beta) = if level == 0 { (p.bias_once(base), 0.0) } else { (None, 1.0) };
            q.sparse_mul(part, p.w_d.value.rows_view(columns), bias, y_hat.rows_mut(0..rows), beta)?;
            let Some(dy) = self.dy.get_mut(level) else { continue };
            let shared = base.share.model().0 > 1;
            if shared {
                // What ranks add up is a prefix as a whole, not what a level adds to the one before.
                q.copy(y_hat.rows_view(0..rows), dy.rows_mut(0..rows))?;
                base.sum_over_features(q, dy.rows_mut(0..rows))?;
            }
            for r in blocks(rows, CACHED_ROWS) {
                let (y_hat, label) = (y_hat.rows_view(r.clone()), label.slice_rows(r.clone()));
                match shared {
                    true => q.zip_in_place(MapKind::Add, label, 1.0, -1.0, dy.rows_mut(r.clone()))?,
                    false => q.zip(MapKind::Add, y_hat, label, 1.0, -1.0, dy.rows_mut(r.clone()))?,
                }
                q.reduce_cols(ReduceKind::SumSq, dy.rows_view(r.clone()), self.rec.rows_mut(r), beta)?;
            }
        }
        base.sum_over_features(q, y_hat.rows_mut(0..rows))
    }

    /// From errors to gradients, with that of the last level in `last`; `row_rec` becomes the mean over the levels.
    pub fn accumulate(
        &mut self,
        q: &mut Queue,
        last: &Tensor,
        weight: View<'_>,
        row_rec: &mut Tensor,
    ) -> Result<()> {
        let (rows, share) = (weight.rows(), self.share());
        for level in (0..self.dy.len()).rev() {
            let (lower, upper) = self.dy.split_at_mut(level + 1);
            let (own, next) = (&mut lower[level], upper.first().unwrap_or(last));
            for r in blocks(rows, CACHED_ROWS) {
                let w = weight.slice_rows(r.clone());
                q.zip_in_place(MapKind::Mul, w, 2.0 * share, 0.0, own.rows_mut(r.clone()))?;
                q.zip_in_place(MapKind::Add, next.rows_view(r.clone()), 1.0, 1.0, own.rows_mut(r))?;
            }
        }
        Ok(q.zip_in_place(
            MapKind::Add,
            self.rec.rows_view(0..rows),
            share,
            share,
            row_rec.rows_mut(0..rows),
        )?)
    }

    /// The gradient of what the first level adds, which is that of the bias.
    pub fn first<'a>(&'a self, last: &'a Tensor) -> &'a Tensor {
        self.dy.first().unwrap_or(last)
    }

    /// Groups the codes by column; `dW_D` and `slots.dcodes` (both `=`), each level from its own gradient.
    pub fn decoder_grads(
        &mut self,
        q: &mut Queue,
        p: &mut Decoder,
        codes: &SparseCodes,
        slots: &mut Slots,
        last: &Tensor,
    ) -> Result<()> {
        let (s, rows) = (codes.view(), codes.rows());
        slots.sort(q, s)?;
        for level in 0..=self.dy.len() {
            let columns = self.columns(level);
            let dy = self.dy.get(level).unwrap_or(last).rows_view(0..rows);
            let by = slots.by_column();
            let by = ByColumnView { col_ptr: by.col_ptr.slice_cols(columns.start..columns.end + 1), ..by };
            q.sparse_outer(by, s.vals, dy, grad(&mut p.w_d)?.rows_mut(columns.clone()), 0.0)?;
            q.confine(s, columns.clone(), codes.like_mut(&mut self.idx))?;
            let part = codes.confined(&self.idx, columns.len());
            let w_d = p.w_d.value.rows_view(columns);
            if level == 0 {
                slots.dot(q, part, w_d, dy)?;
                continue;
            }
            let Slots { a, dcodes, .. } = &mut *slots;
            q.sparse_dot(part, w_d, dy, codes.like_mut(a))?;
            q.zip_in_place(MapKind::Add, codes.like(a), 1.0, 1.0, codes.like_mut(dcodes))?;
        }
        Ok(())
    }
}
