//! Products, elementwise forms, movement, reductions, random numbers.

use super::{AscendStream, FLOAT, INT, ZERO, blocks};
use crate::ascend::view::{Number, View};
use lm_saes_kernels::philox;
use lm_saes_runtime::{
    Act, DType, MapKind, RandomKind, ReduceKind, Result,
    op::{self, Mat},
};

/// Of `aclnnGeluV2`.
const BY_ERF: i64 = 0;
const BY_TANH: i64 = 1;

/// One operand of a product: `[rows, cols]`, or `[batch, rows, cols]` with a batch of one where all products share it.
fn factor(m: &Mat, turned: bool, batch: u64, stride: u64) -> View {
    let view = View::of(m);
    let view = if batch == 1 {
        view
    } else {
        let shared = if stride == 0 { 1 } else { batch as i64 };
        let (dims, strides) = ([shared, m.rows as i64, m.cols as i64], [stride as i64, m.ld as i64, 1]);
        View::strided(view.addr, view.dtype, &dims, &strides)
    };
    if turned { view.turned() } else { view }
}

pub(super) fn gemm(s: &mut AscendStream, o: &op::Gemm) -> Result<()> {
    if o.c.is_empty() || o.batch == 0 {
        return Ok(());
    }
    let a = factor(&o.a, o.ta == 1, o.batch, o.stride_a);
    let b = factor(&o.b, o.tb == 1, o.batch, o.stride_b);
    let c = factor(&o.c, false, o.batch, o.stride_c);
    if o.beta == 0.0 {
        s.product(a, b, c)?;
        if o.alpha != 1.0 {
            s.inplace_muls(c, o.alpha.into())?;
        }
    } else if a.is_empty() {
        s.scale(c, o.beta)?;
    } else if o.batch == 1 {
        let (a, b) = (s.widened(a)?, s.widened(b)?);
        s.inplace_addmm(c, a, b, o.beta.into(), o.alpha.into(), s.card.cube.unwrap_or(0))?;
    } else {
        let t = s.floats(c.dims())?;
        s.product(a, b, t)?;
        s.scale(c, o.beta)?;
        s.inplace_add(c, t, o.alpha.into())?;
    }
    if o.bias.is_some() {
        s.inplace_add(c, View::of(&o.bias), 1.0.into())?;
    }
    match o.act {
        Act::Relu => s.relu(c, c),
        Act::GeluErf => s.gelu(c, BY_ERF, c),
        Act::GeluTanh => s.gelu(c, BY_TANH, c),
        Act::Silu => s.silu(c, c),
        _ => Ok(()),
    }
}

impl AscendStream {
    /// The view in f32.
    pub(super) fn widened(&mut self, v: View) -> Result<View> {
        if v.dtype == FLOAT {
            return Ok(v);
        }
        let t = self.floats(v.dims())?;
        self.copy(t, v)?;
        Ok(t)
    }

    /// The view without gaps.
    pub(super) fn gapless(&mut self, v: View) -> Result<View> {
        if v.is_packed() {
            return Ok(v);
        }
        let t = self.temp(v.dtype, v.dims())?;
        self.copy(t, v)?;
        Ok(t)
    }

    /// `out = a·b`, batches broadcast. Products accumulate in f32 or wider and are never rounded to less, so operands are
    /// widened first; the operator is not documented to write with gaps, so that goes through scratch memory.
    pub(super) fn product(&mut self, a: View, b: View, out: View) -> Result<()> {
        if a.is_empty() || b.is_empty() {
            return self.fill(out, ZERO);
        }
        let (a, b) = (self.widened(a)?, self.widened(b)?);
        let cube = self.card.cube.unwrap_or(0);
        if out.is_packed() {
            return self.matmul(a, b, out, cube);
        }
        let t = self.floats(out.dims())?;
        self.matmul(a, b, t, cube)?;
        self.copy(out, t)
    }

    /// `y = factor·y`.
    pub(super) fn scale(&mut self, y: View, factor: f32) -> Result<()> {
        if factor == 1.0 { Ok(()) } else { self.inplace_muls(y, factor.into()) }
    }

    /// `y = beta·y`, with beta 0 without reading y.
    pub(super) fn decay(&mut self, y: View, beta: f32) -> Result<()> {
        if beta == 0.0 { self.fill(y, ZERO) } else { self.scale(y, beta) }
    }

    /// Conditions as numbers, 1 where they hold.
    pub(super) fn ones_of(&mut self, condition: View) -> Result<View> {
        let t = self.floats(condition.dims())?;
        self.cast(condition, FLOAT, t)?;
        Ok(t)
    }

    /// The opposite conditions.
    pub(super) fn negated(&mut self, condition: View) -> Result<View> {
        let t = self.bools(condition.dims())?;
        self.logical_not(condition, t)?;
        Ok(t)
    }

    /// Whole numbers `from, from + step, …` as `[n]` i32.
    pub(super) fn counting(&mut self, from: i64, step: i64, n: i64) -> Result<View> {
        let t = self.ints(&[n])?;
        let number = |v: i64| Number::Int(v as i32);
        self.arange(number(from), number(from + step * n), number(step), t)?;
        Ok(t)
    }

    /// Sums over one dimension, which stays with size 1.
    pub(super) fn total(&mut self, x: View, dim: i64, out: View) -> Result<()> {
        self.reduce_sum(x, vec![dim], true, FLOAT, out)
    }

    /// Fails the op at the next synchronisation when one of the conditions `[n]` holds.
    pub(super) fn refuse_any(&mut self, bad: View, what: String) -> Result<()> {
        let flag = self.finding(what)?;
        let found = self.bools(&[1])?;
        self.any(bad, vec![0], true, found)?;
        let found = self.ones_of(found)?;
        self.inplace_add(flag, found, 1.0.into())
    }

    /// The indices `[n]` with those outside of `0..limit` brought inside; there being any such fails the op later.
    pub(super) fn checked_indices(&mut self, idx: View, limit: u64, what: String) -> Result<View> {
        let (safe, off, bad) = (self.ints(idx.dims())?, self.ints(idx.dims())?, self.bools(idx.dims())?);
        // With a limit of 0 every index is outside, 0 too.
        self.clamp(idx, 0.into(), (limit.max(1) as i32 - 1).into(), safe)?;
        self.sub(idx, safe, 1.into(), off)?;
        self.ne_scalar(off, 0.into(), bad)?;
        if limit == 0 {
            self.eq(idx, idx, bad)?;
        }
        self.refuse_any(bad, what)?;
        Ok(safe)
    }
}

pub(super) fn fill(s: &mut AscendStream, o: &op::Fill) -> Result<()> {
    if o.y.is_empty() {
        return Ok(());
    }
    let value = match o.y.dtype {
        DType::I32 => Number::Int(o.value as i32),
        DType::U32 => Number::Int((o.value as u32).cast_signed()),
        DType::U8 => Number::Int((o.value as u8).into()),
        _ => Number::Float(o.value),
    };
    s.fill(View::of(&o.y), value)
}

pub(super) fn copy(s: &mut AscendStream, o: &op::Copy) -> Result<()> {
    if o.y.is_empty() { Ok(()) } else { s.copy(View::of(&o.y), View::of(&o.x)) }
}

pub(super) fn gather(s: &mut AscendStream, o: &op::Gather) -> Result<()> {
    if o.y.rows == 0 {
        return Ok(());
    }
    let (table, y) = (View::of(&o.table), View::of(&o.y));
    let what = format!("an index is not below the {} rows of the table", o.table.rows);
    let idx = s.checked_indices(View::of(&o.idx).line(), o.table.rows, what)?;
    if table.is_empty() || y.is_empty() {
        return Ok(());
    }
    if table.dtype == FLOAT {
        return s.index_select(table, 0, idx, y);
    }
    let t = s.temp(table.dtype, y.dims())?;
    s.index_select(table, 0, idx, t)?;
    s.copy(y, t)
}

pub(super) fn map(s: &mut AscendStream, o: &op::Map) -> Result<()> {
    if o.y.is_empty() {
        return Ok(());
    }
    use MapKind as K;
    let (x, z, y) = (View::of(&o.x), View::of(&o.z), View::of(&o.y));
    let (a, b) = (o.a, o.b);
    match o.kind {
        K::Relu => s.relu(x, y),
        K::GeluErf => s.gelu(x, BY_ERF, y),
        K::GeluTanh => s.gelu(x, BY_TANH, y),
        K::Silu => s.silu(x, y),
        K::Exp => s.exp(x, y),
        K::Sqrt => s.sqrt(x, y),
        K::Affine => {
            s.muls(x, a.into(), y)?;
            if b == 0.0 { Ok(()) } else { s.inplace_adds(y, b.into(), 1.0.into()) }
        }
        K::Tanh => {
            s.muls(x, a.into(), y)?;
            s.tanh(y, y)
        }
        K::SoftCap => {
            s.muls(x, (1.0 / a).into(), y)?;
            s.tanh(y, y)?;
            s.inplace_muls(y, a.into())
        }
        K::Add if a == 1.0 => s.add(x, z, b.into(), y),
        K::Add => {
            s.muls(x, a.into(), y)?;
            s.inplace_add(y, z, b.into())
        }
        K::Mul => {
            s.mul(x, z, y)?;
            s.scale(y, a)
        }
        K::Div => {
            s.div(x, z, y)?;
            s.scale(y, a)
        }
        K::SiluMul => {
            s.silu(x, y)?;
            s.inplace_mul(y, z)
        }
        K::GeluTanhMul => {
            s.gelu(x, BY_TANH, y)?;
            s.inplace_mul(y, z)
        }
        K::GeluErfMul => {
            s.gelu(x, BY_ERF, y)?;
            s.inplace_mul(y, z)
        }
        _ => {
            // Shrink; asked before y, which may be x, is written.
            let within = s.bools(x.dims())?;
            s.le_scalar(x, b.into(), within)?;
            s.reciprocal(x, y)?;
            s.inplace_muls(y, (a * b).into())?;
            s.masked_fill(y, within, a.into())
        }
    }
}

pub(super) fn reduce(s: &mut AscendStream, o: &op::Reduce) -> Result<()> {
    if o.y.is_empty() {
        return Ok(());
    }
    let (x, y, w) = (View::of(&o.x), View::of(&o.y), View::of(&o.weight));
    let dim = i64::from(o.by_row == 1);
    if x.is_empty() {
        s.decay(y, o.beta)?;
        return match o.kind {
            ReduceKind::Max => s.inplace_adds(y, f32::NEG_INFINITY.into(), 1.0.into()),
            _ => Ok(()),
        };
    }
    let out = if o.beta == 0.0 { y } else { s.floats(y.dims())? };
    match o.kind {
        ReduceKind::Max => {
            let t = s.floats(x.dims())?;
            let number = s.bools(x.dims())?;
            s.copy(t, x)?;
            s.eq(x, x, number)?;
            let nan = s.negated(number)?;
            s.masked_fill(t, nan, f32::NEG_INFINITY.into())?;
            s.amax(t, vec![dim], true, out)?;
        }
        ReduceKind::Sum if !o.weight.is_some() => s.total(x, dim, out)?,
        ReduceKind::Sum => {
            let t = s.floats(x.dims())?;
            s.mul(x, w, t)?;
            s.total(t, dim, out)?;
        }
        ReduceKind::SumSq => {
            let t = s.floats(x.dims())?;
            s.mul(x, x, t)?;
            if o.weight.is_some() {
                s.inplace_mul(t, w)?;
            }
            s.total(t, dim, out)?;
        }
        _ => {
            let counts = s.bools(x.dims())?;
            s.ne_scalar(x, ZERO, counts)?;
            let t = if o.weight.is_some() { s.chosen(counts, w)? } else { s.ones_of(counts)? };
            s.total(t, dim, out)?;
        }
    }
    if o.beta == 0.0 {
        return Ok(());
    }
    s.scale(y, o.beta)?;
    s.inplace_add(y, out, 1.0.into())
}

/// Drawn on the host, so that every device has the same numbers, and copied; for initialisation.
pub(super) fn random(s: &mut AscendStream, o: &op::Random) -> Result<()> {
    let y = View::of(&o.y);
    for (from, n) in blocks(o.y.rows, o.y.cols) {
        let mark = s.scratch.mark();
        let first = o.offset + from as u64 * o.y.cols;
        let draw = |i: u64| match o.kind {
            RandomKind::Uniform => philox::uniform(o.seed, first + i, o.a, o.b),
            _ => philox::normal(o.seed, first + i, o.a, o.b),
        };
        let values: Vec<f32> = (0..n as u64 * o.y.cols).map(draw).collect();
        let t = s.floats(&[n, o.y.cols as i64])?;
        // SAFETY: the scratch memory has room for as many values.
        unsafe { s.send(bytemuck::cast_slice(&values), t.addr) }?;
        s.copy(y.part(0, from, n), t)?;
        s.scratch.release(mark);
    }
    Ok(())
}

impl AscendStream {
    /// `x` where the condition holds, else 0; `x` broadcasts to the condition.
    pub(super) fn chosen(&mut self, condition: View, x: View) -> Result<View> {
        let (t, zero) = (self.floats(condition.dims())?, self.floats(&[1])?);
        self.fill(zero, ZERO)?;
        self.choose(condition, x, zero, t)?;
        Ok(t)
    }

    /// `i32` as f32.
    pub(super) fn as_floats(&mut self, x: View) -> Result<View> {
        let t = self.floats(x.dims())?;
        self.cast(x, FLOAT, t)?;
        Ok(t)
    }

    /// Anything as i32.
    pub(super) fn as_ints(&mut self, x: View) -> Result<View> {
        let t = self.ints(x.dims())?;
        self.cast(x, INT, t)?;
        Ok(t)
    }
}
