//! Normalisation, cross-entropy, rotary embedding, attention and its gradient. Attention is written out as products and a
//! softmax, over blocks of sequences and query rows whose scores fit a bounded piece of scratch memory.

use super::{AscendStream, BLOCK, FLOAT};
use crate::ascend::view::View;
use lm_saes_runtime::{
    Result,
    op::{self, Mat},
};

pub(super) fn norm(s: &mut AscendStream, o: &op::Norm) -> Result<()> {
    if o.x.is_empty() {
        return Ok(());
    }
    let (rows, width) = (o.x.rows as i64, o.x.cols as i64);
    let x = s.gapless(View::of(&o.x))?;
    let y = View::of(&o.y);
    let out = if y.is_packed() && y.addr != x.addr { y } else { s.floats(y.dims())? };
    let vector = |m: &Mat| m.is_some().then(|| View::of(m).line());
    let (gain, bias) = (vector(&o.gain), vector(&o.bias));
    let rstd = s.floats(&[rows, 1])?;
    if o.rms == 1 {
        let gain = match gain {
            Some(gain) if o.gain_offset == 0.0 => gain,
            Some(gain) => {
                let t = s.floats(&[width])?;
                s.adds(gain, o.gain_offset.into(), 1.0.into(), t)?;
                t
            }
            None => {
                let t = s.floats(&[width])?;
                s.fill(t, 1.0.into())?;
                t
            }
        };
        s.rms_norm(x, gain, o.eps.into(), out, rstd)?;
        if let Some(bias) = bias {
            s.inplace_add(out, bias, 1.0.into())?;
        }
    } else {
        let mean = s.floats(&[rows, 1])?;
        s.layer_norm(x, vec![width], gain, bias, o.eps.into(), out, mean, rstd)?;
    }
    if out != y {
        s.copy(y, out)?;
    }
    if o.scale.is_some() { s.reciprocal(rstd, View::of(&o.scale)) } else { Ok(()) }
}

pub(super) fn cross_entropy(s: &mut AscendStream, o: &op::CrossEntropy) -> Result<()> {
    let (rows, vocabulary) = (o.logits.rows as i64, o.logits.cols);
    if rows == 0 {
        return Ok(());
    }
    let column = [rows, 1];
    let target = View::of(&o.target).turned();
    let (safe, off) = (s.ints(&column)?, s.ints(&column)?);
    let (ignored, bad) = (s.bools(&column)?, s.bools(&column)?);
    s.eq_scalar(target, (-1).into(), ignored)?;
    s.clamp(target, 0.into(), (vocabulary.max(1) as i32 - 1).into(), safe)?;
    s.sub(target, safe, 1.into(), off)?;
    s.masked_fill(off, ignored, 0.into())?;
    s.ne_scalar(off, 0.into(), bad)?;
    s.refuse_any(bad.line(), format!("a target is not below the {vocabulary} logits"))?;
    let (sum, got) = (s.floats(&column)?, s.floats(&column)?);
    let logits = View::of(&o.logits);
    s.logsumexp(logits, vec![1], true, sum)?;
    s.gather(logits, 1, safe, got)?;
    let loss = View::of(&o.loss).turned();
    s.sub(sum, got, 1.0.into(), loss)?;
    s.masked_fill(loss, ignored, 0.0.into())
}

pub(super) fn rope(s: &mut AscendStream, o: &op::Rope) -> Result<()> {
    let rows = o.x.rows as i64;
    if rows == 0 {
        return Ok(());
    }
    let what = format!("a position is not below the {} rows of the tables", o.cos.rows);
    let pos = s.checked_indices(View::of(&o.pos).line(), o.cos.rows, what)?;
    let half = (o.rotary_dim / 2) as i64;
    if half == 0 || o.heads == 0 || o.cos.rows == 0 {
        return Ok(());
    }
    let table = |s: &mut AscendStream, m: &Mat| -> Result<View> {
        let t = s.floats(&[rows, half])?;
        s.index_select(View::of(m), 0, pos, t)?;
        Ok(t.shaped(&[rows, 1, half]))
    };
    let (cos, sin) = (table(s, &o.cos)?, table(s, &o.sin)?);
    let dims = [rows, o.heads as i64, half];
    let (step, second) = if o.adjacent == 1 { (2, 1) } else { (1, half) };
    let strides = [o.x.ld as i64, o.d_head as i64, step];
    let part = |offset: i64| View::strided(o.x.addr.0 + 4 * offset as u64, FLOAT, &dims, &strides);
    let (u, w) = (part(0), part(second));
    let turned = |s: &mut AscendStream, x: View, table: View| -> Result<View> {
        let t = s.floats(&dims)?;
        s.mul(x, table, t)?;
        Ok(t)
    };
    let (uc, us) = (turned(s, u, cos)?, turned(s, u, sin)?);
    let (wc, ws) = (turned(s, w, cos)?, turned(s, w, sin)?);
    let sign = if o.inverse == 1 { -1.0 } else { 1.0 };
    s.add(uc, ws, (-sign).into(), u)?;
    s.add(wc, us, sign.into(), w)
}

/// The part of a matrix `[batch·len, heads·width]` that a block of sequences and rows covers, as `[sequences, key-value heads,
/// share, rows, width]`.
#[derive(Clone, Copy)]
struct Heads {
    len: u64,
    kv_heads: u64,
    share: u64,
}

/// A block: its first sequence and their number, its first query row and their number.
#[derive(Clone, Copy)]
struct Block {
    sequence: u64,
    sequences: u64,
    row: u64,
    rows: u64,
}

impl Heads {
    fn view(&self, m: &Mat, width: u64, (sequence, sequences): (u64, u64), (row, rows): (u64, u64)) -> View {
        let addr = m.addr.0 + 4 * (sequence * self.len + row) * m.ld;
        let dims = [sequences, self.kv_heads, self.share, rows, width].map(|d| d as i64);
        let strides = [self.len * m.ld, self.share * width, width, m.ld, 1].map(|d| d as i64);
        View::strided(addr, FLOAT, &dims, &strides)
    }

    /// The rows of the block.
    fn rows(&self, m: &Mat, width: u64, b: Block) -> View {
        self.view(m, width, (b.sequence, b.sequences), (b.row, b.rows))
    }

    /// All rows of the block's sequences.
    fn all(&self, m: &Mat, width: u64, b: Block) -> View {
        self.view(m, width, (b.sequence, b.sequences), (0, self.len))
    }

    fn blocks(&self, batch: u64) -> Vec<Block> {
        let heads = self.kv_heads * self.share;
        let (row, all) = ((heads * self.len).max(1), (heads * self.len * self.len).max(1));
        let sequences = (BLOCK / all).clamp(1, batch.max(1));
        let rows = if all <= BLOCK { self.len } else { (BLOCK / row).clamp(1, self.len) };
        let mut list = Vec::new();
        for sequence in (0..batch).step_by(sequences as usize) {
            for row in (0..self.len).step_by(rows.max(1) as usize) {
                let (sequences, rows) = (sequences.min(batch - sequence), rows.min(self.len - row));
                list.push(Block { sequence, sequences, row, rows });
            }
        }
        list
    }
}

/// What shapes the scores besides q and k.
#[derive(Clone, Copy)]
struct Scores {
    scale: f32,
    soft_cap: f32,
    window: u64,
}

/// `softmax(scale·q·kᵀ)` of a block, `[sequences, kv heads, share, rows, len]`, 0 where a query does not look.
fn probabilities(s: &mut AscendStream, q: View, k: View, len: u64, b: Block, how: Scores) -> Result<View> {
    let mut dims = [1; 5];
    dims.copy_from_slice(q.dims());
    dims[4] = len as i64;
    let (scores, p) = (s.floats(&dims)?, s.floats(&dims)?);
    s.product(q, k.turned(), scores)?;
    if how.soft_cap > 0.0 {
        s.inplace_muls(scores, (how.scale / how.soft_cap).into())?;
        s.tanh(scores, scores)?;
        s.inplace_muls(scores, how.soft_cap.into())?;
    } else {
        s.scale(scores, how.scale)?;
    }
    let grid = [b.rows as i64, len as i64];
    let (ones, later) = (s.bools(&grid)?, s.bools(&grid)?);
    s.ones(ones)?;
    s.triu(ones, b.row as i64 + 1, later)?;
    let hidden = if how.window == 0 {
        later
    } else {
        let (earlier, both) = (s.bools(&grid)?, s.bools(&grid)?);
        s.tril(ones, b.row as i64 - how.window as i64, earlier)?;
        s.logical_or(later, earlier, both)?;
        both
    };
    s.masked_fill(scores, hidden, f32::NEG_INFINITY.into())?;
    s.softmax(scores, -1, p)?;
    Ok(p)
}

pub(super) fn attention(s: &mut AscendStream, o: &op::Attention) -> Result<()> {
    if o.batch * o.len * o.heads == 0 {
        return Ok(());
    }
    let heads = Heads { len: o.len, kv_heads: o.kv_heads, share: o.heads / o.kv_heads };
    let keys = Heads { share: 1, ..heads };
    let how = Scores { scale: o.scale, soft_cap: o.soft_cap, window: o.window };
    for b in heads.blocks(o.batch) {
        let mark = s.scratch.mark();
        let q = heads.rows(&o.q, o.d_head, b);
        let p = probabilities(s, q, keys.all(&o.k, o.d_head, b), o.len, b, how)?;
        if o.d_value > 0 {
            s.product(p, keys.all(&o.v, o.d_value, b), heads.rows(&o.z, o.d_value, b))?;
        }
        if o.pattern.is_some() {
            let (ld, len) = (o.pattern.ld, o.len);
            let addr = o.pattern.addr.0 + 4 * (b.sequence * o.heads * len + b.row) * ld;
            let strides = [o.heads * len * ld, heads.share * len * ld, len * ld, ld, 1].map(|d| d as i64);
            s.copy(View::strided(addr, FLOAT, p.dims(), &strides), p)?;
        }
        s.scratch.release(mark);
    }
    Ok(())
}

pub(super) fn attention_grad(s: &mut AscendStream, o: &op::AttentionGrad) -> Result<()> {
    if o.batch * o.len * o.heads == 0 {
        return Ok(());
    }
    let heads = Heads { len: o.len, kv_heads: o.heads, share: 1 };
    let how = Scores { scale: o.scale, soft_cap: 0.0, window: 0 };
    for b in heads.blocks(o.batch) {
        let mark = s.scratch.mark();
        let (q, k) = (heads.rows(&o.q, o.d_head, b), heads.all(&o.k, o.d_head, b));
        let p = probabilities(s, q, k, o.len, b, how)?;
        let dz = heads.rows(&o.dz, o.d_value, b);
        if o.d_value > 0 {
            gather_rows(s, p, dz, heads.all(&o.dv, o.d_value, b), b)?;
        }
        if o.d_head > 0 {
            let ds = score_gradient(s, p, dz, heads.all(&o.v, o.d_value, b), o.scale)?;
            s.product(ds, k, heads.rows(&o.dq, o.d_head, b))?;
            gather_rows(s, ds, q, heads.all(&o.dk, o.d_head, b), b)?;
        }
        s.scratch.release(mark);
    }
    Ok(())
}

/// `scale·p∘(dp − Σ p·dp)` with `dp = dz·vᵀ`.
fn score_gradient(s: &mut AscendStream, p: View, dz: View, v: View, scale: f32) -> Result<View> {
    let dp = s.floats(p.dims())?;
    s.product(dz, v.turned(), dp)?;
    let t = s.floats(p.dims())?;
    s.mul(p, dp, t)?;
    let mean = s.floats(&p.dims()[..4].iter().copied().chain([1]).collect::<Vec<_>>())?;
    s.total(t, 4, mean)?;
    s.inplace_add(dp, mean, (-1.0).into())?;
    s.inplace_mul(dp, p)?;
    s.scale(dp, scale)?;
    Ok(dp)
}

/// `out (+)= tᵀ·x`: what the rows of a block give to all positions; the first block of a sequence writes, the others add.
fn gather_rows(s: &mut AscendStream, t: View, x: View, out: View, b: Block) -> Result<()> {
    if b.row == 0 {
        return s.product(t.turned(), x, out);
    }
    let sum = s.floats(out.dims())?;
    s.product(t.turned(), x, sum)?;
    s.inplace_add(out, sum, 1.0.into())
}
