//! Transforms of sparse codes. Where few are active, only those: for each entry and each of the r directions of its transform one
//! inner product with the input and one multiple of a row of U; row j of all transforms of a rank is a matrix `[n, d]` of every
//! r-th row. Where many are, dense products over blocks of rows cost less.

use super::{
    BLOCK,
    transforms::{Scales, Transforms},
};
use crate::{
    Result,
    dictionary::{
        Param,
        coder::blocks,
        grad,
        heads::rows_of_sparse,
        slots::{Slots, like, like_mut},
    },
};
use lm_saes_runtime::{Arena, ByColumnView, DType, MapKind, Queue, SparseView, Tensor, View, ViewMut};

/// Buffers for the entries of a batch.
pub(super) struct Entries {
    /// Features counted from the first of a rank, `[1, cap]`.
    idx: Tensor,
    /// One coordinate of V·x for each entry.
    p: Tensor,
}

impl Entries {
    /// For up to `cap` entries; `few` where some rank goes by them.
    pub fn plan(arena: &mut Arena, cap: usize, few: bool) -> Result<Self> {
        Ok(Self {
            idx: arena.tensor("transforms of a rank", 1, cap, DType::U32)?,
            p: arena.tensor("inputs of active transforms", 1, if few { cap } else { 0 }, DType::F32)?,
        })
    }

    /// `y += Σ f_i·U_i·V_i·x` over the transforms of one rank that are active in `s`.
    pub fn apply(
        &mut self,
        q: &mut Queue,
        t: &mut Transforms,
        s: SparseView<'_>,
        x: View<'_>,
        mut y: ViewMut<'_>,
    ) -> Result<()> {
        q.confine(s, t.features.clone(), like_mut(&mut self.idx, s))?;
        let own = SparseView { idx: like(&self.idx, s), n: t.features.len(), ..s };
        if !t.by_entries {
            for r in blocks(x.rows(), BLOCK) {
                let f = Scales::Entries(rows_of_sparse(own, r.clone()));
                t.apply(q, x.slice_rows(r.clone()), f, y.reborrow().slice_rows(r))?;
            }
            return Ok(());
        }
        for j in 0..t.rank {
            q.sparse_dot(own, direction(&t.v, t.rank, j), x, like_mut(&mut self.p, s))?;
            q.zip_in_place(MapKind::Mul, s.vals, 1.0, 0.0, like_mut(&mut self.p, s))?;
            let scaled = SparseView { vals: like(&self.p, s), ..own };
            q.sparse_mul(scaled, direction(&t.u, t.rank, j), None, y.reborrow(), 1.0)?;
        }
        Ok(())
    }

    /// Gradients from `dy [B, d]` of the transforms of one rank (`=`), and of their activations, added to `slots.dcodes`.
    pub fn grads(
        &mut self,
        q: &mut Queue,
        t: &mut Transforms,
        s: SparseView<'_>,
        (x, dy): (View<'_>, View<'_>),
        slots: &mut Slots,
    ) -> Result<()> {
        q.confine(s, t.features.clone(), like_mut(&mut self.idx, s))?;
        let own = SparseView { idx: like(&self.idx, s), n: t.features.len(), ..s };
        if !t.by_entries {
            for r in blocks(x.rows(), BLOCK) {
                let part = rows_of_sparse(own, r.clone());
                let rows = (x.slice_rows(r.clone()), Scales::Entries(part), dy.slice_rows(r.clone()));
                // With as many slots in every row, those of a block stand at its rows.
                let mut df = like_mut(&mut slots.a, s);
                df = if s.ptr.is_none() { df.slice_rows(r.clone()) } else { df };
                t.grads(q, rows, df, if r.start == 0 { 0.0 } else { 1.0 })?;
            }
            return Ok(q.zip_in_place(
                MapKind::Add,
                like(&slots.a, s),
                1.0,
                1.0,
                like_mut(&mut slots.dcodes, s),
            )?);
        }
        for j in 0..t.rank {
            q.sparse_dot(own, direction(&t.v, t.rank, j), x, like_mut(&mut slots.a, s))?;
            q.sparse_dot(own, direction(&t.u, t.rank, j), dy, like_mut(&mut slots.b, s))?;
            q.zip(MapKind::Mul, like(&slots.a, s), like(&slots.b, s), 1.0, 0.0, like_mut(&mut slots.c, s))?;
            q.zip_in_place(MapKind::Add, like(&slots.c, s), 1.0, 1.0, like_mut(&mut slots.dcodes, s))?;
            q.zip_in_place(MapKind::Mul, s.vals, 1.0, 0.0, like_mut(&mut slots.a, s))?;
            q.zip_in_place(MapKind::Mul, s.vals, 1.0, 0.0, like_mut(&mut slots.b, s))?;
            let by = slots.by_column();
            let columns = t.features.start..t.features.end + 1;
            let by = ByColumnView { col_ptr: by.col_ptr.slice_cols(columns), ..by };
            q.sparse_outer(by, like(&slots.a, s), dy, direction_grad(&mut t.u, t.rank, j)?, 0.0)?;
            q.sparse_outer(by, like(&slots.b, s), x, direction_grad(&mut t.v, t.rank, j)?, 0.0)?;
        }
        Ok(())
    }
}

/// Row j of every transform, `[n, d]`.
fn direction(p: &Param, rank: usize, j: usize) -> View<'_> {
    let (rows, d) = (p.value.rows(), p.value.cols());
    p.value.view().reshaped(rows / rank, rank * d).slice_cols(j * d..(j + 1) * d)
}

fn direction_grad(p: &mut Param, rank: usize, j: usize) -> Result<ViewMut<'_>> {
    let to = grad(p)?;
    let (rows, d) = (to.rows(), to.cols());
    Ok(to.view_mut().reshaped(rows / rank, rank * d).slice_cols(j * d..(j + 1) * d))
}
