//! One value for each entry of sparse codes, the entries grouped by column, and the gradients that go through them. All methods
//! take the codes that were sorted last; with dcodes the gradient of their values.

use crate::Result;
use lm_saes_runtime::{
    Arena, ByColumnView, DType, MapKind, PenaltyArgs, Queue, SparseView, Tensor, View, ViewMut,
};

const F32: DType = DType::F32;
const U32: DType = DType::U32;

/// Per-entry values and the grouping by column.
pub(super) struct Slots {
    pub dcodes: Tensor,
    pub a: Tensor,
    pub b: Tensor,
    pub c: Tensor,
    col_ptr: Tensor,
    row: Tensor,
    slot: Tensor,
}

/// A buffer with one value for each entry of `s`, shaped like its values.
pub(super) fn like<'a>(t: &'a Tensor, s: SparseView<'_>) -> View<'a> {
    let (rows, cols) = (s.vals.rows(), s.vals.cols());
    t.view().slice_cols(0..rows * cols).reshaped(rows, cols)
}

/// [`like`], to write.
pub(super) fn like_mut<'a>(t: &'a mut Tensor, s: SparseView<'_>) -> ViewMut<'a> {
    let (rows, cols) = (s.vals.rows(), s.vals.cols());
    t.view_mut().slice_cols(0..rows * cols).reshaped(rows, cols)
}

impl Slots {
    /// For up to `cap` entries in `n` columns.
    pub fn plan(arena: &mut Arena, n: usize, cap: usize) -> Result<Self> {
        Ok(Self {
            dcodes: arena.tensor("gradient of the codes", 1, cap, F32)?,
            a: arena.tensor("per-entry values a", 1, cap, F32)?,
            b: arena.tensor("per-entry values b", 1, cap, F32)?,
            c: arena.tensor("per-entry values c", 1, cap, F32)?,
            col_ptr: arena.tensor("column offsets", 1, n + 1, U32)?,
            row: arena.tensor("rows by column", 1, cap, U32)?,
            slot: arena.tensor("slots by column", 1, cap, U32)?,
        })
    }

    /// Groups the entries of `s` by column.
    pub fn sort(&mut self, q: &mut Queue, s: SparseView<'_>) -> Result<()> {
        Ok(q.sort_by_column(s, &mut self.col_ptr, &mut self.row, &mut self.slot)?)
    }

    /// The grouping.
    pub fn by_column(&self) -> ByColumnView<'_> {
        ByColumnView { col_ptr: self.col_ptr.view(), row: self.row.view(), slot: self.slot.view() }
    }

    /// `dcodes = dy·Wᵀ` at the entries, `w [n, d]`, `dy [B, d]`.
    pub fn dot(&mut self, q: &mut Queue, s: SparseView<'_>, w: View<'_>, dy: View<'_>) -> Result<()> {
        Ok(q.sparse_dot(s, w, dy, like_mut(&mut self.dcodes, s))?)
    }

    /// `dW = beta·old + dcodesᵀ·x`, `x [B, d]`, `dw [n, d]`.
    pub fn outer(
        &self,
        q: &mut Queue,
        s: SparseView<'_>,
        x: View<'_>,
        dw: ViewMut<'_>,
        beta: f32,
    ) -> Result<()> {
        Ok(q.sparse_outer(self.by_column(), like(&self.dcodes, s), x, dw, beta)?)
    }

    /// `sums [1, n] = beta·old +` the sums over each column of what a penalty of kind TanhValue says of the entries, the first
    /// pass of tanh-quad; `ones [B, 1]`.
    pub fn sum_tanh(
        &mut self,
        q: &mut Queue,
        s: SparseView<'_>,
        args: PenaltyArgs<'_>,
        ones: View<'_>,
        sums: ViewMut<'_>,
        beta: f32,
    ) -> Result<()> {
        q.penalty_sparse(s, args, None, like_mut(&mut self.a, s))?;
        Ok(q.sparse_outer(self.by_column(), like(&self.a, s), ones, sums.reshaped(s.n, 1), beta)?)
    }

    /// Sparsity penalty on `u = f·n`, n the scale in `args`: its value of each row into `out [B, 1]`, `dcodes += du·n`, and
    /// `dn [1, n] += Σ du·f` where asked for; `ones [B, 1]`.
    pub fn penalise(
        &mut self,
        q: &mut Queue,
        s: SparseView<'_>,
        args: PenaltyArgs<'_>,
        ones: View<'_>,
        out: ViewMut<'_>,
        dn: Option<ViewMut<'_>>,
    ) -> Result<()> {
        q.penalty_sparse(s, args, Some(out), like_mut(&mut self.a, s))?;
        if let Some(dn) = dn {
            q.zip(MapKind::Mul, like(&self.a, s), s.vals, 1.0, 0.0, like_mut(&mut self.c, s))?;
            q.sparse_outer(self.by_column(), like(&self.c, s), ones, dn.reshaped(s.n, 1), 1.0)?;
        }
        if let Some(norms) = args.scale {
            q.sparse_dot(s, norms.reshaped(s.n, 1), ones, like_mut(&mut self.b, s))?;
            q.zip_in_place(MapKind::Mul, like(&self.b, s), 1.0, 0.0, like_mut(&mut self.a, s))?;
        }
        Ok(q.zip_in_place(MapKind::Add, like(&self.a, s), 1.0, 1.0, like_mut(&mut self.dcodes, s))?)
    }
}
