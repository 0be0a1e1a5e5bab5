//! Sparse codes of a batch, and windows on some of its rows.

use crate::{Result, settings::ActFn};
use lm_saes_runtime::{Arena, DType, SparseView, Tensor, View, ViewMut};
use std::ops::Range;

const F32: DType = DType::F32;
const U32: DType = DType::U32;

/// Sparse codes of up to `rows` rows: fixed k per row, or, for batchtopk, counts that vary.
pub(crate) struct SparseCodes {
    vals: Tensor,
    idx: Tensor,
    /// Row offsets and the selection threshold.
    ragged: Option<(Tensor, Tensor)>,
    n: usize,
    rows: usize,
    k: usize,
    /// Entries of the whole selection.
    budget: usize,
}

impl SparseCodes {
    /// For selections of up to `k` of `n` columns by `act_fn`, one of the top-k family.
    pub fn plan(
        arena: &mut Arena,
        label: &str,
        act_fn: ActFn,
        n: usize,
        rows: usize,
        k: usize,
    ) -> Result<Self> {
        let cap = rows * k;
        Ok(Self {
            vals: arena.tensor(label, 1, cap, F32)?,
            idx: arena.tensor(&format!("{label}, columns"), 1, cap, U32)?,
            ragged: match act_fn {
                ActFn::BatchTopK => Some((
                    arena.tensor(&format!("{label}, row offsets"), 1, rows + 1, U32)?,
                    arena.tensor(&format!("{label}, threshold"), 1, 2, U32)?,
                )),
                _ => None,
            },
            n,
            rows: 0,
            k: 0,
            budget: 0,
        })
    }

    /// Sets the shape of the next selection; it was checked against the plan.
    pub fn set(&mut self, rows: usize, k: usize) {
        (self.rows, self.k, self.budget) = (rows, k, rows * k);
    }

    /// Sets the budget of a selection over a batch of which other ranks hold rows or columns too, `total` rows in all.
    pub fn set_total(&mut self, total: usize) {
        self.budget = total * self.k;
    }

    /// Rows of the selection.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Budget of the whole selection.
    pub fn len(&self) -> usize {
        self.budget
    }

    /// Whether the selection is over the whole batch.
    pub fn spans_batch(&self) -> bool {
        self.ragged.is_some()
    }

    fn shape(&self) -> (usize, usize) {
        if self.ragged.is_some() { (1, self.len()) } else { (self.rows, self.k) }
    }

    pub fn view(&self) -> SparseView<'_> {
        SparseView {
            vals: self.like(&self.vals),
            idx: self.like(&self.idx),
            ptr: self.ragged.as_ref().map(|(ptr, _)| ptr.view().slice_cols(0..self.rows + 1)),
            n: self.n,
        }
    }

    /// The codes with indices confined to `n` columns; see [`lm_saes_runtime::op::Confine`].
    pub fn confined<'a>(&'a self, idx: &'a Tensor, n: usize) -> SparseView<'a> {
        SparseView { idx: self.like(idx), n, ..self.view() }
    }

    /// The limit of the last selection over the batch, `[1, 2]`.
    pub fn limit(&self) -> Option<&Tensor> {
        self.ragged.as_ref().map(|(_, limit)| limit)
    }

    /// A buffer with one value for each entry, shaped like the values.
    pub fn like<'a>(&self, t: &'a Tensor) -> View<'a> {
        let (rows, cols) = self.shape();
        t.view().slice_cols(0..self.len()).reshaped(rows, cols)
    }

    /// [`SparseCodes::like`], to write.
    pub fn like_mut<'a>(&self, t: &'a mut Tensor) -> ViewMut<'a> {
        let (rows, cols) = self.shape();
        t.view_mut().slice_cols(0..self.len()).reshaped(rows, cols)
    }

    /// Rows `r`, to look at.
    pub fn window(&self, r: Range<usize>) -> Window<'_> {
        Window { codes: self, r }
    }

    /// All rows.
    pub fn all(&self) -> Window<'_> {
        self.window(0..self.rows)
    }

    /// Values and columns of these rows, for a selection of fixed k.
    pub fn rows_mut(&mut self, r: Range<usize>) -> (ViewMut<'_>, ViewMut<'_>) {
        let (rows, k, len) = (self.rows, self.k, self.len());
        (
            self.vals.view_mut().slice_cols(0..len).reshaped(rows, k).slice_rows(r.clone()),
            self.idx.view_mut().slice_cols(0..len).reshaped(rows, k).slice_rows(r),
        )
    }

    /// Values, columns, row offsets and threshold, for a selection over the whole batch; `None` when k is fixed.
    pub fn ragged_mut(&mut self) -> Option<(ViewMut<'_>, ViewMut<'_>, ViewMut<'_>, &mut Tensor)> {
        let (rows, len) = (self.rows, self.len());
        let (ptr, thr) = self.ragged.as_mut()?;
        Some((
            self.vals.view_mut().slice_cols(0..len),
            self.idx.view_mut().slice_cols(0..len),
            ptr.view_mut().slice_cols(0..rows + 1),
            thr,
        ))
    }
}

/// Some rows of codes. Buffers with one value for each entry begin with the window's where every row has k entries;
/// otherwise entries keep the places they have among those of all rows, and the others are not defined.
pub(crate) struct Window<'a> {
    codes: &'a SparseCodes,
    r: Range<usize>,
}

impl Window<'_> {
    pub fn rows(&self) -> Range<usize> {
        self.r.clone()
    }

    pub fn view(&self) -> SparseView<'_> {
        let all = self.codes.view();
        match all.ptr {
            Some(ptr) => SparseView { ptr: Some(ptr.slice_cols(self.r.start..self.r.end + 1)), ..all },
            None => SparseView {
                vals: all.vals.slice_rows(self.r.clone()),
                idx: all.idx.slice_rows(self.r.clone()),
                ..all
            },
        }
    }

    /// The same columns with other values.
    pub fn with<'a>(&'a self, vals: &'a Tensor) -> SparseView<'a> {
        SparseView { vals: self.like(vals), ..self.view() }
    }

    fn shape(&self) -> (usize, usize) {
        if self.codes.ragged.is_some() { (1, self.codes.len()) } else { (self.r.len(), self.codes.k) }
    }

    /// A buffer with one value for each entry, shaped like the values.
    pub fn like<'a>(&self, t: &'a Tensor) -> View<'a> {
        let (rows, cols) = self.shape();
        t.view().slice_cols(0..rows * cols).reshaped(rows, cols)
    }
}
