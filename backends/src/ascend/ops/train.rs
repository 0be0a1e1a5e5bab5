//! Penalties, firing counts, the optimiser.

use super::{AscendStream, FLOAT, ZERO, blocks, sparse::Slots};
use crate::ascend::view::View;
use lm_saes_runtime::{
    PenaltyKind, Result,
    op::{self, Mat},
};

impl AscendStream {
    /// `x^p` for `x >= 0`, without a power where there is a product.
    fn power(&mut self, x: View, p: f32) -> Result<View> {
        if p == 1.0 {
            return Ok(x);
        }
        let t = self.floats(x.dims())?;
        if p == 0.0 {
            self.fill(t, 1.0.into())?;
        } else if p == 2.0 {
            self.mul(x, x, t)?;
        } else if p == 0.5 {
            self.sqrt(x, t)?;
        } else {
            self.pow(x, p.into(), t)?;
        }
        Ok(t)
    }

    /// `x·z` in new memory.
    fn times(&mut self, x: View, z: View) -> Result<View> {
        let t = self.floats(x.dims())?;
        self.mul(x, z, t)?;
        Ok(t)
    }
}

/// The values of dense or sparse codes, and how vectors meet them.
struct Values {
    u: View,
    slots: Option<Slots>,
}

impl Values {
    /// Of codes with at least one slot, row and column.
    fn of(s: &mut AscendStream, codes: &op::Sparse) -> Result<Self> {
        if !codes.idx.is_some() {
            return Ok(Self { u: View::of(&codes.vals), slots: None });
        }
        let slots = Slots::of(s, codes)?;
        Ok(Self { u: slots.values(s, &codes.vals)?, slots: Some(slots) })
    }
    fn of_columns(&self, s: &mut AscendStream, vector: &Mat) -> Result<View> {
        match &self.slots {
            None => Ok(View::of(vector)),
            Some(slots) => slots.of_columns(s, View::of(vector)),
        }
    }
    fn of_rows(&self, s: &mut AscendStream, vector: View) -> Result<View> {
        match &self.slots {
            None => Ok(vector),
            Some(slots) => slots.of_rows(s, vector),
        }
    }
    fn row_sums(&self, s: &mut AscendStream, values: View, rows: i64) -> Result<View> {
        match &self.slots {
            Some(slots) => slots.row_sums(s, values, rows),
            None => {
                let out = s.floats(&[rows, 1])?;
                s.total(values, 1, out)?;
                Ok(out)
            }
        }
    }
}

pub(super) fn penalty(s: &mut AscendStream, o: &op::Penalty) -> Result<()> {
    let (rows, out) = (o.codes.rows as i64, View::of(&o.out));
    if o.codes.vals.is_empty() || rows == 0 || o.codes.n == 0 {
        return if o.out.is_some() && rows > 0 { s.fill(out, ZERO) } else { Ok(()) };
    }
    let values = Values::of(s, &o.codes)?;
    let mut u = values.u;
    if o.scale.is_some() {
        let n = values.of_columns(s, &o.scale)?;
        u = s.times(u, n)?;
    }
    let gain = if o.colgain.is_some() { Some(values.of_columns(s, &o.colgain)?) } else { None };
    let (sum, slope) = match o.kind {
        PenaltyKind::Power | PenaltyKind::PowerSum => powers(s, o, &values, u)?,
        _ => tanhs(s, o, &values, u, gain)?,
    };
    if o.out.is_some() {
        match sum {
            Some(sum) => s.copy(out, sum)?,
            None => s.fill(out, ZERO)?,
        }
    }
    let mut du = slope;
    if o.kind != PenaltyKind::TanhValue {
        if o.weight.is_some() {
            let weight = values.of_rows(s, View::of(&o.weight))?;
            du = s.times(du, weight)?;
        }
        if let Some(gain) = gain {
            du = s.times(du, gain)?;
        }
    }
    let to = View::of(&o.du);
    let to = if o.codes.ptr.is_some() { to.line() } else { to };
    s.copy(to, du)?;
    match &values.slots {
        Some(slots) => s.masked_fill(to, slots.empty, ZERO),
        None => Ok(()),
    }
}

/// Row sums of Σu^p, its root or not, and the derivative, 0 where u is.
fn powers(s: &mut AscendStream, o: &op::Penalty, values: &Values, u: View) -> Result<(Option<View>, View)> {
    let up = s.power(u, o.p)?;
    let mut sum = values.row_sums(s, up, o.codes.rows as i64)?;
    let base = if o.kind == PenaltyKind::Power {
        sum = s.power(sum, 1.0 / o.p)?;
        let whole = values.of_rows(s, sum)?;
        let part = s.floats(u.dims())?;
        s.div(u, whole, part)?;
        part
    } else {
        u
    };
    let slope = s.power(base, o.p - 1.0)?;
    let t = s.floats(u.dims())?;
    let factor = if o.kind == PenaltyKind::PowerSum { o.p } else { 1.0 };
    s.muls(slope, factor.into(), t)?;
    let zero = s.bools(u.dims())?;
    s.eq_scalar(u, ZERO, zero)?;
    s.masked_fill(t, zero, ZERO)?;
    Ok((Some(sum), t))
}

/// Row sums of gain·tanh(c·u) and its derivative by u without gain; or no sums and tanh(c·u) itself.
fn tanhs(
    s: &mut AscendStream,
    o: &op::Penalty,
    values: &Values,
    u: View,
    gain: Option<View>,
) -> Result<(Option<View>, View)> {
    let (scaled, t) = (s.floats(u.dims())?, s.floats(u.dims())?);
    s.muls(u, o.c.into(), scaled)?;
    s.tanh(scaled, t)?;
    if o.kind == PenaltyKind::TanhValue {
        return Ok((None, t));
    }
    let gained = match gain {
        Some(gain) => s.times(t, gain)?,
        None => t,
    };
    let sum = values.row_sums(s, gained, o.codes.rows as i64)?;
    let slope = s.times(t, t)?;
    s.inplace_muls(slope, (-o.c).into())?;
    s.inplace_adds(slope, o.c.into(), 1.0.into())?;
    Ok((Some(sum), slope))
}

pub(super) fn threshold_penalty(s: &mut AscendStream, o: &op::ThresholdPenalty) -> Result<()> {
    let out = View::of(&o.out);
    if o.x.is_empty() {
        return if out.is_empty() { Ok(()) } else { s.fill(out, ZERO) };
    }
    let (x, theta, weight) = (View::of(&o.x), View::of(&o.theta), View::of(&o.weight));
    let n = o.scale.is_some().then(|| View::of(&o.scale));
    let gate = n.filter(|_| o.gated == 1);
    let g = match gate {
        Some(n) => s.times(x, n)?,
        None => x,
    };
    let (below, gap) = (s.bools(x.dims())?, s.floats(x.dims())?);
    s.gt(theta, g, below)?;
    s.sub(theta, g, 1.0.into(), gap)?;
    let gap = s.chosen(below, gap)?;
    let owed = match n {
        Some(n) => s.times(gap, n)?,
        None => gap,
    };
    s.total(owed, 1, out)?;
    let weights = s.chosen(below, weight)?;
    if o.dx.is_some() {
        let mut step = weights;
        for factor in [n, gate].into_iter().flatten() {
            step = s.times(step, factor)?;
        }
        s.inplace_add(View::of(&o.dx), step, (-1.0).into())?;
    }
    if o.dtheta.is_some() {
        let sum = s.floats(theta.dims())?;
        s.total(weights, 0, sum)?;
        if let Some(n) = n {
            s.inplace_mul(sum, n)?;
        }
        s.inplace_add(View::of(&o.dtheta), sum, 1.0.into())?;
    }
    if o.dn.is_some() {
        if o.gated == 1 {
            let inner = s.chosen(below, g)?;
            s.inplace_add(gap, inner, (-1.0).into())?;
        }
        let each = s.times(gap, weights)?;
        let sum = s.floats(theta.dims())?;
        s.total(each, 0, sum)?;
        s.inplace_add(View::of(&o.dn), sum, 1.0.into())?;
    }
    Ok(())
}

pub(super) fn activity(s: &mut AscendStream, o: &op::Activity) -> Result<()> {
    let (rows, columns) = (o.codes.rows as i64, o.codes.n as i64);
    if o.codes.vals.is_empty() || rows == 0 || columns == 0 {
        return Ok(());
    }
    let values = Values::of(s, &o.codes)?;
    let (size, fires) = (s.floats(values.u.dims())?, s.bools(values.u.dims())?);
    s.abs(values.u, size)?;
    s.gt_scalar(size, ZERO, fires)?;
    let mut counts = s.ones_of(fires)?;
    if o.mask.is_some() {
        let open = s.bools(&[rows, 1])?;
        s.eq_scalar(View::of(&o.mask).turned(), 1.into(), open)?;
        let open = s.ones_of(open)?;
        let open = values.of_rows(s, open)?;
        counts = s.times(counts, open)?;
    }
    let sum = s.floats(&[1, columns])?;
    match &values.slots {
        None => s.total(counts, 0, sum)?,
        Some(slots) => {
            let (zero, n) = (s.floats(&[columns])?, counts.len());
            s.fill(zero, ZERO)?;
            let (column, counts) = (slots.column.shaped(&[n]), counts.shaped(&[n]));
            s.scatter_add(zero, 0, column, counts, sum.shaped(&[columns]))?;
        }
    }
    let sum = s.as_ints(sum)?;
    s.inplace_add(View::of(&o.fired), sum, 1.into())
}

/// Counts are u32 in operators of i32: sums are made so that none leaves the range, and compared by the sign first.
pub(super) fn age(s: &mut AscendStream, o: &op::Age) -> Result<()> {
    if o.fired.is_empty() {
        return Ok(());
    }
    let (fired, since, dead) = (View::of(&o.fired), View::of(&o.since), View::of(&o.dead));
    let dims = since.dims();
    let tokens = o.tokens as i32;
    let large = s.bools(dims)?;
    s.lt_scalar(since, 0.into(), large)?;
    // From 2³¹: the sum has the sign of a large number still, or is past the largest.
    let (plain, wrapped) = (s.ints(dims)?, s.bools(dims)?);
    s.adds(since, tokens.into(), 1.into(), plain)?;
    s.ge_scalar(plain, 0.into(), wrapped)?;
    let saturated = s.as_same(plain)?;
    s.masked_fill(saturated, wrapped, (-1).into())?;
    // Below 2³¹: a sum that reaches it is made in two steps.
    let (rest, crosses, high) = (s.ints(dims)?, s.bools(dims)?, s.ints(dims)?);
    s.adds(since, (tokens.wrapping_add(i32::MIN)).into(), 1.into(), rest)?;
    s.ge_scalar(rest, 0.into(), crosses)?;
    s.adds(rest, i32::MIN.into(), 1.into(), high)?;
    let small = s.ints(dims)?;
    s.choose(crosses, high, plain, small)?;
    let aged = s.ints(dims)?;
    s.choose(large, saturated, small, aged)?;
    let reset = s.bools(dims)?;
    s.ne_scalar(fired, 0.into(), reset)?;
    s.masked_fill(aged, reset, 0.into())?;
    s.copy(since, aged)?;
    let (high, far, old) = (s.bools(dims)?, s.bools(dims)?, s.bools(dims)?);
    s.lt_scalar(aged, 0.into(), high)?;
    s.ge_scalar(aged, o.limit.cast_signed().into(), far)?;
    if o.limit.cast_signed() < 0 {
        s.logical_and(high, far, old)?;
    } else {
        s.logical_or(high, far, old)?;
    }
    s.copy(dead, old)
}

impl AscendStream {
    /// A copy.
    fn as_same(&mut self, x: View) -> Result<View> {
        let t = self.temp(x.dtype, x.dims())?;
        self.copy(t, x)?;
        Ok(t)
    }
}

pub(super) fn adam(s: &mut AscendStream, o: &op::Adam) -> Result<()> {
    let stats = View::of(&o.stats);
    if o.stats.is_some() {
        s.fill(stats, ZERO)?;
    }
    for (from, n) in blocks(o.p.rows, o.p.cols) {
        let mark = s.scratch.mark();
        let part = |m: &Mat| View::of(m).part(0, from, n);
        adam_rows(s, o, [part(&o.p), part(&o.m), part(&o.v), part(&o.g)])?;
        if o.low.is_some() {
            s.copy(part(&o.low), part(&o.p))?;
        }
        s.scratch.release(mark);
    }
    Ok(())
}

fn adam_rows(s: &mut AscendStream, o: &op::Adam, [p, m, v, g]: [View; 4]) -> Result<()> {
    let square = s.times(g, g)?;
    let touched = s.bools(g.dims())?;
    s.ne_scalar(g, ZERO, touched)?;
    let scale = o.grad_scale;
    if o.stats.is_some() {
        let ones = s.ones_of(touched)?;
        for (i, (x, factor)) in [(square, scale * scale), (ones, 1.0)].into_iter().enumerate() {
            let sum = s.floats(&[1, 1])?;
            s.reduce_sum(x, vec![0, 1], true, FLOAT, sum)?;
            s.inplace_add(View::of(&o.stats).part(1, i as i64, 1), sum, factor.into())?;
        }
    }
    s.scale(m, o.beta1)?;
    s.inplace_add(m, g, ((1.0 - o.beta1) * scale).into())?;
    s.scale(v, o.beta2)?;
    s.inplace_add(v, square, ((1.0 - o.beta2) * scale * scale).into())?;
    let root = s.floats(p.dims())?;
    s.sqrt(v, root)?;
    let rate = if o.sparse == 1 {
        o.lr * o.bc2.sqrt() / o.bc1
    } else {
        s.inplace_muls(root, (1.0 / o.bc2.sqrt()).into())?;
        o.lr / o.bc1
    };
    s.inplace_adds(root, o.eps.into(), 1.0.into())?;
    let step = s.floats(p.dims())?;
    s.div(m, root, step)?;
    if o.sparse == 1 {
        let still = s.negated(touched)?;
        s.masked_fill(step, still, ZERO)?;
    }
    s.inplace_add(p, step, (-rate).into())
}
