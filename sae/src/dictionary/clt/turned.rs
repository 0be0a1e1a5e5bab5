//! Sparse codes turned round: a row for each feature, with an entry for each token it is active on. So a feature's row of a
//! decoder is read or written once, in order, while the tokens' rows, which are far fewer, stay in the cache.

use crate::Result;
use lm_saes_runtime::{Arena, DType, Queue, SparseView, Tensor, View, ViewMut};
use std::ops::Range;

const F32: DType = DType::F32;
const U32: DType = DType::U32;

/// Entries grouped by column.
pub(in crate::dictionary) struct Turned {
    /// Offsets of the columns `[1, n + 1]`, and of each entry its row, its slot among the rows, and its value `[1, capacity]`.
    col_ptr: Tensor,
    row: Tensor,
    slot: Tensor,
    vals: Tensor,
    /// `[max(n, rows), 1]`.
    ones: Tensor,
    /// Columns, rows and slots of the codes turned last.
    n: usize,
    rows: usize,
    len: usize,
}

impl Turned {
    /// For codes of up to `n` columns, `rows` rows and `cap` slots.
    pub fn plan(arena: &mut Arena, n: usize, rows: usize, cap: usize) -> Result<Self> {
        Ok(Self {
            col_ptr: arena.tensor("column offsets", 1, n + 1, U32)?,
            row: arena.tensor("rows by column", 1, cap, U32)?,
            slot: arena.tensor("slots by column", 1, cap, U32)?,
            vals: arena.tensor("values by column", 1, cap, F32)?,
            ones: arena.tensor("ones", n.max(rows), 1, F32)?,
            n: 0,
            rows: 0,
            len: 0,
        })
    }

    /// Turns `s`.
    pub fn turn(&mut self, q: &mut Queue, s: SparseView<'_>) -> Result<()> {
        (self.n, self.rows, self.len) = (s.n, s.rows(), s.vals.rows() * s.vals.cols());
        let (n, len) = (self.n, self.len);
        q.fill(&mut self.ones, 1.0)?;
        let col_ptr = self.col_ptr.view_mut().slice_cols(0..n + 1);
        q.sort_by_column(s, col_ptr, &mut self.row, &mut self.slot)?;
        let Self { col_ptr, slot, vals, ones, .. } = self;
        let col_ptr = col_ptr.view().slice_cols(0..n + 1);
        pick(q, s.vals, slot, col_ptr, ones.rows_view(0..n), front_mut(vals, len))
    }

    /// The turned matrix `[n, rows]` of features `r`.
    pub fn part(&self, r: Range<usize>) -> SparseView<'_> {
        SparseView {
            vals: front(&self.vals, self.len),
            idx: front(&self.row, self.len),
            ptr: Some(self.col_ptr.view().slice_cols(r.start..r.end + 1)),
            n: self.rows,
        }
    }

    /// The turned matrix, `[n, rows]`.
    pub fn all(&self) -> SparseView<'_> {
        self.part(0..self.n)
    }

    /// [`Turned::all`] with other values, `[1, capacity]`.
    pub fn with<'a>(&'a self, vals: &'a Tensor) -> SparseView<'a> {
        SparseView { vals: self.like(vals), ..self.all() }
    }

    /// A buffer with one value for each entry.
    pub fn like<'a>(&self, t: &'a Tensor) -> View<'a> {
        front(t, self.len)
    }

    /// [`Turned::like`], to write.
    pub fn like_mut<'a>(&self, t: &'a mut Tensor) -> ViewMut<'a> {
        front_mut(t, self.len)
    }

    /// `n` ones, `[n, 1]`.
    pub fn ones(&self, n: usize) -> View<'_> {
        self.ones.rows_view(0..n)
    }

    /// What slots of the codes have in `from`, times the factor of their column, by column: `factors [n, 1]`.
    pub fn pick(&self, q: &mut Queue, from: View<'_>, factors: View<'_>, out: &mut Tensor) -> Result<()> {
        pick(q, from, &self.slot, self.col_ptr.view().slice_cols(0..self.n + 1), factors, self.like_mut(out))
    }
}

/// The first `n` of `[1, capacity]`, as values of sparse codes have to be: with nothing behind them.
pub(super) fn front(t: &Tensor, n: usize) -> View<'_> {
    t.view().slice_cols(0..n).reshaped(1, n)
}

/// [`front`], to write.
pub(super) fn front_mut(t: &mut Tensor, n: usize) -> ViewMut<'_> {
    t.view_mut().slice_cols(0..n).reshaped(1, n)
}

/// `out[e] = from[slot[e]]·factors[row of e]`: a product of each entry with a matrix of one column.
fn pick(
    q: &mut Queue,
    from: View<'_>,
    slot: &Tensor,
    ptr: View<'_>,
    factors: View<'_>,
    out: ViewMut<'_>,
) -> Result<()> {
    let len = from.rows() * from.cols();
    let slots = SparseView { vals: from.reshaped(1, len), idx: front(slot, len), ptr: Some(ptr), n: len };
    Ok(q.sparse_dot(slots, from.reshaped(len, 1), factors, out)?)
}
