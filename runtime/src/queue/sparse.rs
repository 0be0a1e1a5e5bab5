//! Checked products with sparse codes.

use super::{Queue, check, disjoint, shaped};
use crate::{
    ByColumnView, DType, Result, SparseView, View, ViewMut,
    op::{self, Mat, Sparse},
};

const F32: DType = DType::F32;

impl Queue {
    /// Checks a sparse matrix; without `idx` it is dense values (only where the op allows it).
    pub(super) fn sparse(&self, op: &'static str, s: SparseView<'_>) -> Result<Sparse> {
        let vals = self.input(op, "vals", s.vals.raw, F32)?;
        let idx = self.input(op, "idx", s.idx.raw, DType::U32)?;
        let ptr = self.optional(op, "ptr", s.ptr, DType::U32)?;
        shaped(op, "idx", &idx, vals.rows, vals.cols)?;
        check(vals.ld == vals.cols && idx.ld == idx.cols, op, || "sparse values must be contiguous".into())?;
        check(!ptr.is_some() || (vals.rows == 1 && ptr.rows == 1 && ptr.cols > 0), op, || {
            format!("with row offsets values are [1, capacity], got [{}, {}]", vals.rows, vals.cols)
        })?;
        Ok(Sparse { vals, idx, ptr, rows: s.rows() as u64, n: s.n as u64 })
    }

    fn by_column(&self, op: &'static str, b: ByColumnView<'_>) -> Result<op::ByColumn> {
        let col_ptr = self.input(op, "col_ptr", b.col_ptr.raw, DType::U32)?;
        let row = self.input(op, "row", b.row.raw, DType::U32)?;
        let slot = self.input(op, "slot", b.slot.raw, DType::U32)?;
        shaped(op, "slot", &slot, 1, row.cols)?;
        shaped(op, "row", &row, 1, row.cols)?;
        Ok(op::ByColumn { col_ptr, row, slot })
    }

    /// `y = beta·y + S·w + bias`.
    pub fn sparse_mul<'w, 'y>(
        &mut self,
        s: SparseView<'_>,
        w: impl Into<View<'w>>,
        bias: Option<View<'_>>,
        y: impl Into<ViewMut<'y>>,
        beta: f32,
    ) -> Result<()> {
        const OP: &str = "SparseMul";
        let s = self.sparse(OP, s)?;
        let w = self.input(OP, "w", w.into().raw, F32)?;
        let bias = self.optional(OP, "bias", bias, F32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "w", &w, s.n, y.cols)?;
        shaped(OP, "bias", &bias, 1, y.cols)?;
        shaped(OP, "y", &y, s.rows, w.cols)?;
        disjoint(OP, &y, &[("vals", s.vals), ("idx", s.idx), ("w", w), ("bias", bias)])?;
        self.launch(op::SparseMul { s, w, bias, y, beta })
    }

    /// `y = beta·y + S`, dense.
    pub fn scatter<'y>(&mut self, s: SparseView<'_>, y: impl Into<ViewMut<'y>>, beta: f32) -> Result<()> {
        const OP: &str = "Scatter";
        let s = self.sparse(OP, s)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "y", &y, s.rows, s.n)?;
        disjoint(OP, &y, &[("vals", s.vals), ("idx", s.idx), ("ptr", s.ptr)])?;
        self.launch(op::Scatter { s, y, beta })
    }

    /// Indices of the matrix of these columns of `s` alone, counted from the first; see [`op::Confine`].
    pub fn confine<'o>(
        &mut self,
        s: SparseView<'_>,
        columns: std::ops::Range<usize>,
        out: impl Into<ViewMut<'o>>,
    ) -> Result<()> {
        const OP: &str = "Confine";
        let s = self.sparse(OP, s)?;
        let out = self.input(OP, "out", out.into().raw, DType::U32)?;
        shaped(OP, "out", &out, s.idx.rows, s.idx.cols)?;
        check(out.ld == out.cols, OP, || "sparse indices must be contiguous".into())?;
        disjoint(OP, &out, &[("idx", s.idx), ("ptr", s.ptr), ("vals", s.vals)])?;
        self.launch(op::Confine { s, out, first: columns.start as u64, last: columns.end as u64 })
    }

    /// `out[slot] = ⟨w[idx], x[row]⟩` for every entry of `s`; its values are not read.
    pub fn sparse_dot<'w, 'x, 'o>(
        &mut self,
        s: SparseView<'_>,
        w: impl Into<View<'w>>,
        x: impl Into<View<'x>>,
        out: impl Into<ViewMut<'o>>,
    ) -> Result<()> {
        const OP: &str = "SparseDot";
        let s = self.sparse(OP, s)?;
        let w = self.input(OP, "w", w.into().raw, F32)?;
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let out = self.input(OP, "out", out.into().raw, F32)?;
        shaped(OP, "w", &w, s.n, x.cols)?;
        shaped(OP, "x", &x, s.rows, w.cols)?;
        shaped(OP, "out", &out, s.vals.rows, s.vals.cols)?;
        check(out.ld == out.cols, OP, || "out must be contiguous".into())?;
        disjoint(OP, &out, &[("vals", s.vals), ("idx", s.idx), ("w", w), ("x", x)])?;
        self.launch(op::SparseDot { s, w, x, out })
    }

    /// Groups entries by column into `col_ptr [1, n+1]`, `row, slot [1, capacity]`.
    pub fn sort_by_column<'c, 'r, 's>(
        &mut self,
        s: SparseView<'_>,
        col_ptr: impl Into<ViewMut<'c>>,
        row: impl Into<ViewMut<'r>>,
        slot: impl Into<ViewMut<'s>>,
    ) -> Result<()> {
        const OP: &str = "SortByColumn";
        let s = self.sparse(OP, s)?;
        let out = op::ByColumn {
            col_ptr: self.input(OP, "col_ptr", col_ptr.into().raw, DType::U32)?,
            row: self.input(OP, "row", row.into().raw, DType::U32)?,
            slot: self.input(OP, "slot", slot.into().raw, DType::U32)?,
        };
        shaped(OP, "col_ptr", &out.col_ptr, 1, s.n + 1)?;
        for (name, m) in [("row", &out.row), ("slot", &out.slot)] {
            check(m.rows == 1 && m.cols >= s.vals.len(), OP, || {
                format!("{name} holds {} of {} entries", m.cols, s.vals.len())
            })?;
        }
        self.launch(op::SortByColumn { s, out })
    }

    /// `y[f] = beta·y[f] + Σ vals[slot]·x[row]` over the entries of each column f.
    pub fn sparse_outer<'v, 'x, 'y>(
        &mut self,
        by: ByColumnView<'_>,
        vals: impl Into<View<'v>>,
        x: impl Into<View<'x>>,
        y: impl Into<ViewMut<'y>>,
        beta: f32,
    ) -> Result<()> {
        const OP: &str = "SparseOuter";
        let by = self.by_column(OP, by)?;
        let vals = self.input(OP, "vals", vals.into().raw, F32)?;
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        check(vals.ld == vals.cols, OP, || "vals must be contiguous".into())?;
        check(by.col_ptr.cols == y.rows + 1 && y.cols == x.cols, OP, || {
            format!(
                "{} column offsets and x [{}, {}] into y [{}, {}]",
                by.col_ptr.cols, x.rows, x.cols, y.rows, y.cols
            )
        })?;
        disjoint(OP, &y, &[("vals", vals), ("x", x)])?;
        self.launch(op::SparseOuter { by, vals, x, y, beta })
    }

    /// Counts, per column, the masked-in rows where the code is positive; adds to `fired [1, F]`.
    pub fn activity_sparse<'f>(
        &mut self,
        s: SparseView<'_>,
        mask: Option<View<'_>>,
        fired: impl Into<ViewMut<'f>>,
    ) -> Result<()> {
        let codes = self.sparse("Activity", s)?;
        self.activity(codes, mask, fired.into())
    }

    /// [`Queue::activity_sparse`] for dense codes `[B, F]`.
    pub fn activity_dense<'x, 'f>(
        &mut self,
        codes: impl Into<View<'x>>,
        mask: Option<View<'_>>,
        fired: impl Into<ViewMut<'f>>,
    ) -> Result<()> {
        let codes = self.dense_codes("Activity", codes.into())?;
        self.activity(codes, mask, fired.into())
    }

    pub(super) fn dense_codes(&self, op: &'static str, x: View<'_>) -> Result<Sparse> {
        let vals = self.input(op, "codes", x.raw, F32)?;
        Ok(Sparse { vals, idx: Mat::NONE, ptr: Mat::NONE, rows: vals.rows, n: vals.cols })
    }

    fn activity(&mut self, codes: Sparse, mask: Option<View<'_>>, fired: ViewMut<'_>) -> Result<()> {
        const OP: &str = "Activity";
        let mask = self.optional(OP, "mask", mask, DType::U8)?;
        let fired = self.input(OP, "fired", fired.raw, DType::U32)?;
        shaped(OP, "mask", &mask, 1, codes.rows)?;
        shaped(OP, "fired", &fired, 1, codes.n)?;
        self.launch(op::Activity { codes, mask, fired })
    }
}
