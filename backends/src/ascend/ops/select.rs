//! From pre-activations to features. Decisions are comparisons of f32; the order of equal values is made by stable sorts, as the
//! operators promise none.

use super::{AscendStream, FLOAT, INT, LONG, ZERO, blocks};
use crate::ascend::view::View;
use lm_saes_runtime::{
    Result,
    op::{self, Mat},
};

/// What decides a selection besides the values.
#[derive(Clone, Copy)]
struct Rule {
    mask: Mat,
    theta: Mat,
    thr: Mat,
}

impl AscendStream {
    /// `x·scale`, or x itself.
    fn gated(&mut self, x: View, scale: &Mat) -> Result<View> {
        if !scale.is_some() {
            return Ok(x);
        }
        let g = self.floats(x.dims())?;
        self.mul(x, View::of(scale), g)?;
        Ok(g)
    }

    /// Where `g > 0` and the mask is 1; never at NaN.
    fn positive(&mut self, g: View, mask: &Mat) -> Result<View> {
        let above = self.bools(g.dims())?;
        self.gt_scalar(g, ZERO, above)?;
        if !mask.is_some() {
            return Ok(above);
        }
        let mask = View::of(mask);
        let (open, both) = (self.bools(mask.dims())?, self.bools(g.dims())?);
        self.eq_scalar(mask, 1.into(), open)?;
        self.logical_and(above, open, both)?;
        Ok(both)
    }

    /// Both conditions, which broadcast to the first.
    fn both(&mut self, a: View, b: View) -> Result<View> {
        let t = self.bools(a.dims())?;
        self.logical_and(a, b, t)?;
        Ok(t)
    }

    /// How many conditions hold up to and including each place, in row-major order, and up to the end of each row `[rows, 1]`.
    fn running(&mut self, condition: View) -> Result<(View, View)> {
        let (rows, cols) = (condition.dim(0), condition.dim(1));
        let ones = self.as_ints(condition)?;
        let (count, ends, starts) =
            (self.ints(condition.dims())?, self.ints(&[rows, 1])?, self.ints(&[rows, 1])?);
        self.cumsum(ones, 1, INT, count)?;
        let totals = count.part(1, cols - 1, 1);
        self.cumsum(totals, 0, INT, ends)?;
        self.sub(ends, totals, 1.into(), starts)?;
        self.inplace_add(count, starts, 1.into())?;
        Ok((count, ends))
    }

    /// Where `g` passes the rule.
    fn passes(&mut self, g: View, rule: Rule) -> Result<View> {
        let open = self.positive(g, &rule.mask)?;
        if rule.theta.is_some() {
            let above = self.bools(g.dims())?;
            self.gt(g, View::of(&rule.theta), above)?;
            return self.both(open, above);
        }
        if !rule.thr.is_some() {
            return Ok(open);
        }
        let thr = View::of(&rule.thr);
        let (tau, ties) = (thr.part(1, 0, 1).bits(FLOAT), thr.part(1, 1, 1));
        let (above, equal, early) = (self.bools(g.dims())?, self.bools(g.dims())?, self.bools(g.dims())?);
        self.gt(g, tau, above)?;
        let above = self.both(open, above)?;
        self.eq(g, tau, equal)?;
        let equal = self.both(open, equal)?;
        let (rank, _) = self.running(equal)?;
        self.ge(ties, rank, early)?;
        let tied = self.both(equal, early)?;
        let passes = self.bools(g.dims())?;
        self.logical_or(above, tied, passes)?;
        Ok(passes)
    }
}

pub(super) fn topk(s: &mut AscendStream, o: &op::TopK) -> Result<()> {
    if o.vals.is_empty() {
        return Ok(());
    }
    let (vals, idx) = (View::of(&o.vals), View::of(&o.idx));
    let (width, k) = ((o.x.cols / o.groups) as i64, (o.vals.cols / o.groups) as i64);
    let found = k.min(width);
    // A matrix without columns has slots still.
    for (from, n) in blocks(o.x.rows, o.x.cols.max(1)) {
        let mark = s.scratch.mark();
        let slots = |v: View, first: i64, count: i64| {
            let (dims, strides) = ([n, o.groups as i64, k], [v.strides()[0], k, 1]);
            View::strided(v.part(0, from, n).addr, v.dtype, &dims, &strides).part(2, first, count)
        };
        if found > 0 {
            let (best, columns) = best(s, o, from, n, found)?;
            s.copy(slots(vals, 0, found), best.shaped(&[n, o.groups as i64, found]))?;
            s.copy(slots(idx, 0, found), columns.shaped(&[n, o.groups as i64, found]))?;
        }
        if found < k {
            s.fill(slots(vals, found, k - found), ZERO)?;
            s.fill(slots(idx, found, k - found), (-1).into())?;
        }
        s.scratch.release(mark);
    }
    Ok(())
}

/// Values and columns of the `k` best of each group in rows `from..from + n`, both `[n, groups·k]`.
fn best(s: &mut AscendStream, o: &op::TopK, from: i64, n: i64, k: i64) -> Result<(View, View)> {
    let (groups, width) = (o.groups as i64, (o.x.cols / o.groups) as i64);
    let lines = n * groups;
    let x = View::of(&o.x).part(0, from, n);
    let g = s.floats(x.dims())?;
    if o.abs == 1 {
        s.abs(x, g)?;
    } else {
        s.copy(g, x)?;
    }
    if o.scale.is_some() {
        s.inplace_mul(g, View::of(&o.scale))?;
    }
    let open = s.positive(g, &o.mask)?;
    let closed = s.negated(open)?;
    s.masked_fill(g, closed, ZERO)?;
    let g = g.shaped(&[lines, width]);
    let (values, columns) = ranked(s, g, k)?;
    let missing = s.bools(&[lines, k])?;
    s.le_scalar(values, ZERO, missing)?;
    let missing = missing.shaped(&[n, groups * k]);
    // Columns of the matrix from columns of the group.
    let offsets = s.counting(0, width, groups)?;
    let offsets = s.as_floats(offsets)?.shaped(&[1, groups, 1]);
    let strides = [groups * columns.strides()[0], columns.strides()[0], 1];
    let columns = View::strided(columns.addr, FLOAT, &[n, groups, k], &strides);
    let t = s.floats(&[n, groups, k])?;
    s.add(columns, offsets, 1.0.into(), t)?;
    let idx = s.as_ints(t.shaped(&[n, groups * k]))?;
    let vals = s.floats(&[n, groups * k])?;
    s.gather(x, 1, idx, vals)?;
    s.masked_fill(vals, missing, ZERO)?;
    s.masked_fill(idx, missing, (-1).into())?;
    Ok((vals, idx))
}

/// The `k` largest of each row of `g >= 0 [lines, width]` with their columns as f32, descending, equal ones by ascending column.
///
/// The operator leaves open which of several equal values it finds and in which order. So those above the k-th largest value are
/// taken from it; of those equal to that value the first ones are found by their columns; and both are put in order.
fn ranked(s: &mut AscendStream, g: View, k: i64) -> Result<(View, View)> {
    let (lines, width) = (g.dim(0), g.dim(1));
    let (top, at) = (s.floats(&[lines, k])?, s.temp(LONG, &[lines, k])?);
    s.topk(g, k, 1, true, true, top, at)?;
    let least = top.part(1, k - 1, 1);
    let (value, column) = (s.floats(&[lines, 2 * k])?, s.floats(&[lines, 2 * k])?);
    let (above, equal) = (s.bools(&[lines, k])?, s.bools(&[lines, width])?);
    s.gt(top, least, above)?;
    let certain = s.chosen(above, top)?;
    s.copy(value.part(1, 0, k), certain)?;
    s.copy(column.part(1, 0, k), at)?;
    // The earlier a column, the larger its key.
    let keys = s.counting(width, -1, width)?;
    let keys = s.as_floats(keys)?.shaped(&[1, width]);
    s.eq(g, least, equal)?;
    let keys = s.chosen(equal, keys)?;
    let (key, tied) = (s.floats(&[lines, k])?, s.temp(LONG, &[lines, k])?);
    s.topk(keys, k, 1, true, true, key, tied)?;
    let (count, place) = (s.floats(&[lines, 1])?, s.floats(&[lines, k])?);
    let ones = s.ones_of(above)?;
    s.total(ones, 1, count)?;
    let slot = s.counting(0, 1, k)?;
    let slot = s.as_floats(slot)?.shaped(&[1, k]);
    s.add(slot, count, 1.0.into(), place)?;
    let fits = s.bools(&[lines, k])?;
    s.lt_scalar(place, (k as f32).into(), fits)?;
    let ties = s.chosen(fits, least)?;
    s.copy(value.part(1, k, k), ties)?;
    s.copy(column.part(1, k, k), tied)?;
    // By column, then, keeping that order among equals, by value.
    let (column, value) = sorted(s, column, value, false)?;
    let (value, column) = sorted(s, value, column, true)?;
    Ok((value.part(1, 0, k), column.part(1, 0, k)))
}

/// Rows of `keys` in order, equal ones as they were, and `values` in the same order.
fn sorted(s: &mut AscendStream, keys: View, values: View, descending: bool) -> Result<(View, View)> {
    let dims = keys.dims();
    let (ordered, from, moved) = (s.floats(dims)?, s.temp(LONG, dims)?, s.floats(dims)?);
    s.sort(keys, true, 1, descending, ordered, from)?;
    s.gather(values, 1, from, moved)?;
    Ok((ordered, moved))
}

/// The bits of the threshold are found from the highest down: positive floats are ordered like their bits.
pub(super) fn threshold(s: &mut AscendStream, o: &op::Threshold) -> Result<()> {
    let out = View::of(&o.out);
    let (tau, ties) = (out.part(1, 0, 1), out.part(1, 1, 1));
    s.fill(ties, 0.into())?;
    if o.k == 0 {
        return s.fill(tau, f32::INFINITY.to_bits().cast_signed().into());
    }
    s.fill(tau, 0.into())?;
    if o.x.is_empty() || o.k > o.x.len() {
        return Ok(());
    }
    let x = View::of(&o.x);
    let g = s.floats(x.dims())?;
    if o.scale.is_some() {
        s.mul(x, View::of(&o.scale), g)?;
    } else {
        s.copy(g, x)?;
    }
    let open = s.positive(g, &o.mask)?;
    let closed = s.negated(open)?;
    s.masked_fill(g, closed, ZERO)?;
    let k = o.k as i32;
    for bit in (0..31).rev() {
        let mark = s.scratch.mark();
        let (trial, enough, step) = (s.ints(&[1, 1])?, s.bools(&[1, 1])?, s.ints(&[1, 1])?);
        s.adds(tau, (1 << bit).into(), 1.into(), trial)?;
        let holds = s.bools(g.dims())?;
        s.ge(g, trial.bits(FLOAT), holds)?;
        let count = s.count(holds)?;
        s.ge_scalar(count, k.into(), enough)?;
        s.cast(enough, INT, step)?;
        s.inplace_add(tau, step, (1 << bit).into())?;
        s.scratch.release(mark);
    }
    // Of those equal to a threshold above 0, the ones that complete k.
    let (above, some) = (s.bools(g.dims())?, s.bools(&[1, 1])?);
    s.gt(g, tau.bits(FLOAT), above)?;
    let count = s.count(above)?;
    s.adds(ties, k.into(), 1.into(), ties)?;
    s.inplace_add(ties, count, (-1).into())?;
    s.le_scalar(tau, 0.into(), some)?;
    s.masked_fill(ties, some, 0.into())
}

impl AscendStream {
    /// How many conditions hold, as `[1, 1]` i32: in f32 along rows, which is exact, then in integers.
    fn count(&mut self, condition: View) -> Result<View> {
        let rows = self.floats(&[condition.dim(0), 1])?;
        let ones = self.ones_of(condition)?;
        self.total(ones, 1, rows)?;
        let rows = self.as_ints(rows)?;
        let count = self.ints(&[1, 1])?;
        self.reduce_sum(rows, vec![0], true, INT, count)?;
        Ok(count)
    }
}

pub(super) fn compact(s: &mut AscendStream, o: &op::Compact) -> Result<()> {
    let ptr = View::of(&o.y.ptr);
    if o.x.is_empty() {
        return s.fill(ptr, 0.into());
    }
    let (rows, cols, capacity) = (o.x.rows as i64, o.x.cols as i64, o.y.vals.cols as i64);
    let x = View::of(&o.x);
    let g = s.gated(x, &o.scale)?;
    let passes = s.passes(g, Rule { mask: o.mask, theta: o.theta, thr: o.thr })?;
    let (count, ends) = s.running(passes)?;
    s.fill(ptr.part(1, 0, 1), 0.into())?;
    s.copy(ptr.part(1, 1, rows), ends.turned())?;
    let over = s.bools(&[1])?;
    s.gt_scalar(ends.part(0, rows - 1, 1).line(), (capacity as i32).into(), over)?;
    s.refuse_any(over, format!("more entries pass than the {capacity} there is room for"))?;
    if capacity == 0 {
        return Ok(());
    }
    // The n-th entry is where the running count reaches n, its row where the rows' ends do.
    let nth = s.counting(1, 1, capacity)?;
    let found = |s: &mut AscendStream, sorted: View| -> Result<View> {
        let (at, safe) = (s.ints(&[capacity])?, s.ints(&[capacity])?);
        s.search_sorted(sorted, nth, true, false, None, at)?;
        s.clamp(at, 0.into(), (sorted.len() as i32 - 1).into(), safe)?;
        Ok(safe)
    };
    let place = found(s, count.shaped(&[rows * cols]))?;
    let row = found(s, ends.line())?;
    let (before, column) = (s.ints(&[capacity])?, s.ints(&[capacity])?);
    s.muls(row, (cols as i32).into(), before)?;
    s.sub(place, before, 1.into(), column)?;
    s.copy(View::of(&o.y.idx).line(), column)?;
    // Where the entry lies in memory.
    s.muls(row, (o.x.ld as i32).into(), before)?;
    s.inplace_add(before, column, 1.into())?;
    s.index_select(x.flat(), 0, before, View::of(&o.y.vals).line())
}

pub(super) fn gate(s: &mut AscendStream, o: &op::Gate) -> Result<()> {
    if o.x.is_empty() {
        return Ok(());
    }
    let (x, y) = (View::of(&o.x), View::of(&o.y));
    let g = s.gated(x, &o.scale)?;
    let passes = s.passes(g, Rule { mask: Mat::NONE, theta: o.theta, thr: o.thr })?;
    let closed = s.negated(passes)?;
    if x != y {
        s.copy(y, x)?;
    }
    s.masked_fill(y, closed, ZERO)
}

pub(super) fn gate_grad(s: &mut AscendStream, o: &op::GateGrad) -> Result<()> {
    if o.x.is_empty() {
        return Ok(());
    }
    let (df, dx) = (View::of(&o.df), View::of(&o.dx));
    let g = s.gated(View::of(&o.x), &o.scale)?;
    let passes = s.passes(g, Rule { mask: Mat::NONE, theta: o.theta, thr: Mat::NONE })?;
    if o.theta.is_some() {
        let theta = View::of(&o.theta);
        let open = s.positive(g, &Mat::NONE)?;
        let (off, near) = (s.floats(g.dims())?, s.bools(g.dims())?);
        s.sub(g, theta, 1.0.into(), off)?;
        s.abs(off, off)?;
        s.lt_scalar(off, (o.window / 2.0).into(), near)?;
        let near = s.both(open, near)?;
        let t = s.chosen(near, df)?;
        let sum = s.floats(theta.dims())?;
        s.total(t, 0, sum)?;
        s.inplace_mul(sum, theta)?;
        let change = if o.scale.is_some() {
            let quotient = s.floats(theta.dims())?;
            s.div(sum, View::of(&o.scale), quotient)?;
            quotient
        } else {
            sum
        };
        s.inplace_add(View::of(&o.dtheta), change, (-1.0 / o.window).into())?;
    }
    let closed = s.negated(passes)?;
    if df != dx {
        s.copy(dx, df)?;
    }
    s.masked_fill(dx, closed, ZERO)
}
