//! Products with sparse rows. Rows of a matrix are summed by `aclnnEmbeddingBag`, whose bags are the rows of the codes, or their
//! columns once sorted: no atomics, one order of summation.

use super::{AscendStream, FLOAT, LONG, ZERO, blocks};
use crate::ascend::view::View;
use lm_saes_runtime::{
    Result,
    op::{self, Mat, Sparse},
};

/// The slots of codes as operators take them: shaped `[rows, k]`, or `[capacity]` with row offsets.
pub(super) struct Slots {
    /// Columns, those of empty slots replaced by one that exists.
    pub(super) column: View,
    /// Which slots are empty, past the end, or before the first row's.
    pub(super) empty: View,
    /// The row of each slot `[capacity]`, with row offsets only.
    pub(super) row: Option<View>,
}

impl Slots {
    /// Of codes with at least one slot, one row and one column.
    pub(super) fn of(s: &mut AscendStream, c: &Sparse) -> Result<Self> {
        let idx = if c.ptr.is_some() { View::of(&c.idx).line() } else { View::of(&c.idx) };
        let (column, mut empty) = (s.ints(idx.dims())?, s.bools(idx.dims())?);
        s.clamp(idx, 0.into(), (c.n as i32 - 1).into(), column)?;
        // u32::MAX is -1 here.
        s.lt_scalar(idx, 0.into(), empty)?;
        let mut row = None;
        if c.ptr.is_some() {
            let capacity = idx.len();
            let (ptr, rows) = (View::of(&c.ptr).line(), c.rows as i64);
            let (outside, all) = (s.outside(ptr, rows, capacity)?, s.bools(&[capacity])?);
            s.logical_or(empty, outside, all)?;
            empty = all;
            let place = s.counting(0, 1, capacity)?;
            let (at, safe) = (s.ints(&[capacity])?, s.ints(&[capacity])?);
            s.search_sorted(ptr.part(0, 1, rows), place, true, true, None, at)?;
            s.clamp(at, 0.into(), (rows as i32 - 1).into(), safe)?;
            row = Some(safe);
        }
        Ok(Self { column, empty, row })
    }

    /// `values` of the slots with 0 in the empty ones.
    pub(super) fn values(&self, s: &mut AscendStream, values: &Mat) -> Result<View> {
        let v = View::of(values);
        let t = s.floats(self.column.dims())?;
        s.copy(t, if self.row.is_some() { v.line() } else { v })?;
        s.masked_fill(t, self.empty, ZERO)?;
        Ok(t)
    }

    /// Of a row vector, the element of each slot's column.
    pub(super) fn of_columns(&self, s: &mut AscendStream, vector: View) -> Result<View> {
        let t = s.floats(&[self.column.len()])?;
        s.index_select(vector.line(), 0, self.column.shaped(&[self.column.len()]), t)?;
        Ok(t.shaped(self.column.dims()))
    }

    /// Of a column vector, the element of each slot's row: as it is where rows are rows of slots.
    pub(super) fn of_rows(&self, s: &mut AscendStream, vector: View) -> Result<View> {
        let Some(row) = self.row else { return Ok(vector) };
        let t = s.floats(row.dims())?;
        s.index_select(vector.line(), 0, row, t)?;
        Ok(t)
    }

    /// Sums of the slots of each row, `[rows, 1]`; empty ones hold 0.
    pub(super) fn row_sums(&self, s: &mut AscendStream, values: View, rows: i64) -> Result<View> {
        let out = s.floats(&[rows, 1])?;
        match self.row {
            None => s.total(values, 1, out)?,
            Some(row) => {
                let zero = s.floats(&[rows])?;
                s.fill(zero, ZERO)?;
                s.scatter_add(zero, 0, row, values, out.shaped(&[rows]))?;
            }
        }
        Ok(out)
    }
}

/// Whether there is nothing to go through.
fn nothing(c: &Sparse) -> bool {
    c.vals.is_empty() || c.rows == 0 || c.n == 0
}

/// `out[b] = Σ weight[i]·table[index[i]]` over the entries from `offsets[b]` to the next offset, or the end.
fn bags(
    s: &mut AscendStream,
    table: View,
    index: View,
    offsets: View,
    weights: View,
    out: View,
) -> Result<()> {
    let n = offsets.len();
    let (bag, sizes) = (s.ints(index.dims())?, s.ints(&[n])?);
    let maxima = if s.card.soc.is_none_or(|c| c.bag_maxima) { n } else { 0 };
    let maxima = s.ints(&[maxima])?;
    let to = if out.is_packed() { out } else { s.floats(out.dims())? };
    s.embedding_bag(
        table,
        index,
        offsets,
        false,
        0,
        false,
        Some(weights),
        false,
        -1,
        to,
        bag,
        sizes,
        maxima,
    )?;
    if to == out { Ok(()) } else { s.copy(out, to) }
}

impl AscendStream {
    /// Which of `n` entries the offsets `[rows + 1]` leave out: those past the last, and those before the first, which offsets have
    /// that are a part of those of a larger matrix.
    fn outside(&mut self, offsets: View, rows: i64, n: i64) -> Result<View> {
        let place = self.counting(0, 1, n)?;
        let (past, begun, outside) = (self.bools(&[n])?, self.bools(&[n])?, self.bools(&[n])?);
        self.ge(place, offsets.part(0, rows, 1), past)?;
        self.ge(place, offsets.part(0, 0, 1), begun)?;
        let before = self.negated(begun)?;
        self.logical_or(past, before, outside)?;
        Ok(outside)
    }

    /// The offsets of bags as the operator wants them: the first bag takes what lies before it, whose weights are 0.
    fn bag_offsets(&mut self, offsets: View, rows: i64) -> Result<View> {
        let starts = self.ints(&[rows])?;
        self.copy(starts, offsets.part(0, 0, rows))?;
        self.fill(starts.part(0, 0, 1), 0.into())?;
        Ok(starts)
    }

    /// Bags into `y = beta·y + bags`.
    fn add_bags(
        &mut self,
        y: View,
        beta: f32,
        table: View,
        index: View,
        offsets: View,
        weights: View,
    ) -> Result<()> {
        if beta == 0.0 {
            return bags(self, table, index, offsets, weights, y);
        }
        let t = self.floats(y.dims())?;
        bags(self, table, index, offsets, weights, t)?;
        self.scale(y, beta)?;
        self.inplace_add(y, t, 1.0.into())
    }
}

pub(super) fn sparse_mul(s: &mut AscendStream, o: &op::SparseMul) -> Result<()> {
    if o.y.is_empty() {
        return Ok(());
    }
    let y = View::of(&o.y);
    if nothing(&o.s) {
        s.decay(y, o.beta)?;
    } else {
        let slots = Slots::of(s, &o.s)?;
        let values = slots.values(s, &o.s.vals)?;
        let (n, rows) = (values.len(), o.s.rows as i64);
        let offsets = if o.s.ptr.is_some() {
            s.bag_offsets(View::of(&o.s.ptr).line(), rows)?
        } else {
            s.counting(0, o.s.vals.cols as i64, rows)?
        };
        s.add_bags(y, o.beta, View::of(&o.w), slots.column.shaped(&[n]), offsets, values.shaped(&[n]))?;
    }
    if o.bias.is_some() { s.inplace_add(y, View::of(&o.bias), 1.0.into()) } else { Ok(()) }
}

pub(super) fn scatter(s: &mut AscendStream, o: &op::Scatter) -> Result<()> {
    if o.y.is_empty() {
        return Ok(());
    }
    let y = View::of(&o.y);
    s.decay(y, o.beta)?;
    if nothing(&o.s) {
        return Ok(());
    }
    let slots = Slots::of(s, &o.s)?;
    let values = slots.values(s, &o.s.vals)?;
    let Some(row) = slots.row else {
        return s.inplace_scatter(y, 1, slots.column, values, 1);
    };
    let place = s.ints(row.dims())?;
    s.muls(row, (o.s.n as i32).into(), place)?;
    s.inplace_add(place, slots.column, 1.into())?;
    let dense = if y.is_packed() { y } else { s.floats(y.dims())? };
    if dense != y {
        s.fill(dense, ZERO)?;
    }
    s.inplace_scatter(dense.flat(), 0, place, values, 1)?;
    if dense == y { Ok(()) } else { s.inplace_add(y, dense, 1.0.into()) }
}

pub(super) fn confine(s: &mut AscendStream, o: &op::Confine) -> Result<()> {
    if o.out.is_empty() {
        return Ok(());
    }
    let (idx, out) = (View::of(&o.s.idx), View::of(&o.out));
    let (from, before) = (s.bools(idx.dims())?, s.bools(idx.dims())?);
    s.ge_scalar(idx, (o.first as i32).into(), from)?;
    s.lt_scalar(idx, (o.last as i32).into(), before)?;
    let (inside, first) = (s.bools(idx.dims())?, -(o.first as i32));
    s.logical_and(from, before, inside)?;
    let outside = s.negated(inside)?;
    s.adds(idx, first.into(), 1.into(), out)?;
    s.masked_fill(out, outside, (-1).into())
}

pub(super) fn sparse_dot(s: &mut AscendStream, o: &op::SparseDot) -> Result<()> {
    if o.out.is_empty() {
        return Ok(());
    }
    let out = View::of(&o.out);
    if nothing(&o.s) || o.w.cols == 0 {
        return s.fill(out, ZERO);
    }
    let slots = Slots::of(s, &o.s)?;
    let (w, x, width) = (View::of(&o.w), View::of(&o.x), o.w.cols as i64);
    // Rows of slots, and slots of a row: without row offsets a row's slots meet its x by broadcasting.
    let (lines, k) = if slots.row.is_some() { (out.len(), 1) } else { (out.dim(0), out.dim(1)) };
    let column = slots.column.shaped(&[lines, k]);
    let to = out.shaped(&[lines, k, 1]);
    for (from, n) in blocks(lines as u64, (k * width) as u64) {
        let mark = s.scratch.mark();
        let (rows, mut against) = (s.floats(&[n * k, width])?, x);
        s.index_select(w, 0, column.part(0, from, n).shaped(&[n * k]), rows)?;
        if let Some(row) = slots.row {
            against = s.floats(&[n, width])?;
            s.index_select(x, 0, row.part(0, from, n), against)?;
        } else {
            against = against.part(0, from, n);
        }
        let strides = [against.strides()[0], width, 1];
        let against = View::strided(against.addr, FLOAT, &[n, 1, width], &strides);
        let rows = rows.shaped(&[n, k, width]);
        s.inplace_mul(rows, against)?;
        s.total(rows, 2, to.part(0, from, n))?;
        s.scratch.release(mark);
    }
    s.masked_fill(out.shaped(slots.empty.dims()), slots.empty, ZERO)
}

pub(super) fn sort_by_column(s: &mut AscendStream, o: &op::SortByColumn) -> Result<()> {
    let starts = View::of(&o.out.col_ptr).line();
    if nothing(&o.s) {
        return s.fill(starts, 0.into());
    }
    let slots = Slots::of(s, &o.s)?;
    let (n, columns) = (slots.column.len(), o.s.n as i64);
    // Empty slots go behind the last column.
    s.masked_fill(slots.column, slots.empty, (columns as i32).into())?;
    let keys = s.as_floats(slots.column.shaped(&[n]))?;
    let (sorted, from) = (s.floats(&[n])?, s.temp(LONG, &[n])?);
    s.sort(keys, true, 0, false, sorted, from)?;
    let slot = View::of(&o.out.slot).line().part(0, 0, n);
    s.copy(slot, from)?;
    let row = match slots.row {
        Some(row) => row,
        None => {
            let (rows, each) = (o.s.rows as i64, s.ints(slots.column.dims())?);
            let number = s.counting(0, 1, rows)?.shaped(&[rows, 1]);
            s.fill(each, 0.into())?;
            s.inplace_add(each, number, 1.into())?;
            each.shaped(&[n])
        }
    };
    s.index_select(row, 0, slot, View::of(&o.out.row).line().part(0, 0, n))?;
    let bounds = s.counting(0, 1, columns + 1)?;
    let bounds = s.as_floats(bounds)?;
    s.search_sorted(sorted, bounds, true, false, None, starts)
}

pub(super) fn sparse_outer(s: &mut AscendStream, o: &op::SparseOuter) -> Result<()> {
    if o.y.is_empty() {
        return Ok(());
    }
    let y = View::of(&o.y);
    if o.by.row.is_empty() || o.vals.is_empty() || o.x.rows == 0 {
        return s.decay(y, o.beta);
    }
    let (entries, columns) = (o.by.row.cols as i64, o.y.rows as i64);
    let starts = View::of(&o.by.col_ptr).line();
    let outside = s.outside(starts, columns, entries)?;
    let (slot, row, weights) = (s.ints(&[entries])?, s.ints(&[entries])?, s.floats(&[entries])?);
    let values = s.gapless(View::of(&o.vals))?;
    s.clamp(View::of(&o.by.slot).line(), 0.into(), (values.len() as i32 - 1).into(), slot)?;
    s.clamp(View::of(&o.by.row).line(), 0.into(), (o.x.rows as i32 - 1).into(), row)?;
    s.index_select(values.shaped(&[values.len()]), 0, slot, weights)?;
    s.masked_fill(weights, outside, ZERO)?;
    let offsets = s.bag_offsets(starts, columns)?;
    s.add_bags(y, o.beta, View::of(&o.x), row, offsets, weights)
}
