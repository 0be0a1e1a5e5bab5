//! Checked pieces of a transformer: norms, cross-entropy, rotary embedding, attention and its gradient.

use super::{Queue, check, disjoint, shaped};
use crate::{DType, Result, View, ViewMut, op};

/// Operands of a row normalisation; see [`op::Norm`].
#[derive(Clone, Copy, Debug)]
pub struct NormArgs<'a> {
    /// RMS instead of layer normalisation.
    pub rms: bool,
    /// Added to the mean square before the root.
    pub eps: f32,
    /// `[1, D]`.
    pub gain: Option<View<'a>>,
    /// Added to the gain (1 for families that store gain − 1).
    pub gain_offset: f32,
    /// `[1, D]`.
    pub bias: Option<View<'a>>,
}

/// Shape of an attention call; see [`op::Attention`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs {
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence.
    pub len: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a query or key.
    pub d_head: usize,
    /// Width of a value.
    pub d_value: usize,
    /// Keys a query may look back to, itself included; 0 = all.
    pub window: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// Soft cap of the scores; 0 = none.
    pub soft_cap: f32,
}

/// Operands of an attention gradient; see [`op::AttentionGrad`].
#[derive(Debug)]
pub struct AttentionGradArgs<'a> {
    /// Queries `[batch·len, heads·d_head]`.
    pub q: View<'a>,
    /// Keys, shaped like q.
    pub k: View<'a>,
    /// Values `[batch·len, heads·d_value]`.
    pub v: View<'a>,
    /// Gradient of the result, shaped like v.
    pub dz: View<'a>,
    /// Receives the gradient of q.
    pub dq: ViewMut<'a>,
    /// Receives the gradient of k.
    pub dk: ViewMut<'a>,
    /// Receives the gradient of v.
    pub dv: ViewMut<'a>,
}

/// Shape of an attention whose every head has its own keys, without window or soft cap.
#[derive(Clone, Copy, Debug)]
pub struct HeadsArgs {
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence.
    pub len: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a query or key.
    pub d_head: usize,
    /// Width of a value.
    pub d_value: usize,
    /// Multiplies q·k.
    pub scale: f32,
}

impl From<HeadsArgs> for AttentionArgs {
    fn from(h: HeadsArgs) -> Self {
        let HeadsArgs { batch, len, heads, d_head, d_value, scale } = h;
        Self { batch, len, heads, kv_heads: heads, d_head, d_value, window: 0, scale, soft_cap: 0.0 }
    }
}

const F32: DType = DType::F32;

impl Queue {
    /// Row normalisation; `scale [B, 1]` receives the divisor when given.
    pub fn norm<'x, 'y>(
        &mut self,
        x: impl Into<View<'x>>,
        args: NormArgs<'_>,
        y: impl Into<ViewMut<'y>>,
        scale: Option<ViewMut<'_>>,
    ) -> Result<()> {
        const OP: &str = "Norm";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        let gain = self.optional(OP, "gain", args.gain, F32)?;
        let bias = self.optional(OP, "bias", args.bias, F32)?;
        let scale = self.optional_out(OP, "scale", &scale, F32)?;
        shaped(OP, "gain", &gain, 1, x.cols)?;
        shaped(OP, "bias", &bias, 1, x.cols)?;
        shaped(OP, "y", &y, x.rows, x.cols)?;
        shaped(OP, "scale", &scale, x.rows, 1)?;
        disjoint(OP, &y, &[("x", x), ("gain", gain), ("bias", bias), ("scale", scale)])?;
        self.launch(op::Norm {
            x,
            gain,
            bias,
            y,
            scale,
            eps: args.eps,
            gain_offset: args.gain_offset,
            rms: args.rms.into(),
        })
    }

    /// Cross-entropy of each row of logits; target `u32::MAX` counts as 0.
    pub fn cross_entropy<'x, 't, 'y>(
        &mut self,
        logits: impl Into<View<'x>>,
        target: impl Into<View<'t>>,
        loss: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        const OP: &str = "CrossEntropy";
        let logits = self.input(OP, "logits", logits.into().raw, F32)?;
        let target = self.input(OP, "target", target.into().raw, DType::U32)?;
        let loss = self.input(OP, "loss", loss.into().raw, F32)?;
        shaped(OP, "target", &target, 1, logits.rows)?;
        shaped(OP, "loss", &loss, 1, logits.rows)?;
        self.launch(op::CrossEntropy { logits, target, loss })
    }

    /// Rotary embedding in place; `heads·d_head` columns, `rotary_dim = 2·cos.cols` coordinates of each head turn.
    pub fn rope<'x, 'p, 't>(
        &mut self,
        x: impl Into<ViewMut<'x>>,
        pos: impl Into<View<'p>>,
        tables: (impl Into<View<'t>>, impl Into<View<'t>>),
        d_head: usize,
        adjacent: bool,
    ) -> Result<()> {
        self.launch_rope(x.into(), pos.into(), (tables.0.into(), tables.1.into()), d_head, (adjacent, false))
    }

    /// Turns back what [`Queue::rope`] turned; also its gradient.
    pub fn rope_back<'x, 'p, 't>(
        &mut self,
        x: impl Into<ViewMut<'x>>,
        pos: impl Into<View<'p>>,
        tables: (impl Into<View<'t>>, impl Into<View<'t>>),
        d_head: usize,
        adjacent: bool,
    ) -> Result<()> {
        self.launch_rope(x.into(), pos.into(), (tables.0.into(), tables.1.into()), d_head, (adjacent, true))
    }

    fn launch_rope(
        &mut self,
        x: ViewMut<'_>,
        pos: View<'_>,
        (cos, sin): (View<'_>, View<'_>),
        d_head: usize,
        (adjacent, inverse): (bool, bool),
    ) -> Result<()> {
        const OP: &str = "Rope";
        let x = self.input(OP, "x", x.raw, F32)?;
        let pos = self.input(OP, "pos", pos.raw, DType::U32)?;
        let cos = self.input(OP, "cos", cos.raw, F32)?;
        let sin = self.input(OP, "sin", sin.raw, F32)?;
        let d_head = d_head as u64;
        check(
            d_head > 0
                && x.cols.is_multiple_of(d_head)
                && 2 * cos.cols <= d_head
                && cos.ld == cos.cols
                && sin.ld == sin.cols,
            OP,
            || format!("{} columns, d_head {d_head}, tables [{}, {}]", x.cols, cos.rows, cos.cols),
        )?;
        shaped(OP, "pos", &pos, 1, x.rows)?;
        shaped(OP, "sin", &sin, cos.rows, cos.cols)?;
        let heads = x.cols / d_head;
        self.launch(op::Rope {
            x,
            pos,
            cos,
            sin,
            heads,
            d_head,
            rotary_dim: 2 * cos.cols,
            adjacent: adjacent.into(),
            inverse: inverse.into(),
        })
    }

    /// Causal attention; `pattern [batch·heads·len, len]` receives the probabilities when given.
    pub fn attention<'q, 'k, 'v, 'z>(
        &mut self,
        q: impl Into<View<'q>>,
        k: impl Into<View<'k>>,
        v: impl Into<View<'v>>,
        z: impl Into<ViewMut<'z>>,
        pattern: Option<ViewMut<'_>>,
        a: AttentionArgs,
    ) -> Result<()> {
        const OP: &str = "Attention";
        let q = self.input(OP, "q", q.into().raw, F32)?;
        let k = self.input(OP, "k", k.into().raw, F32)?;
        let v = self.input(OP, "v", v.into().raw, F32)?;
        let z = self.input(OP, "z", z.into().raw, F32)?;
        let pattern = self.optional_out(OP, "pattern", &pattern, F32)?;
        check(a.kv_heads > 0 && a.heads.is_multiple_of(a.kv_heads), OP, || {
            format!("{} heads over {} key-value heads", a.heads, a.kv_heads)
        })?;
        let n = a.batch * a.len;
        let widths = [
            ("q", &q, a.heads * a.d_head),
            ("k", &k, a.kv_heads * a.d_head),
            ("v", &v, a.kv_heads * a.d_value),
            ("z", &z, a.heads * a.d_value),
        ];
        for (name, m, cols) in widths {
            shaped(OP, name, m, n as u64, cols as u64)?;
        }
        shaped(OP, "pattern", &pattern, (n * a.heads) as u64, a.len as u64)?;
        disjoint(OP, &z, &[("q", q), ("k", k), ("v", v), ("pattern", pattern)])?;
        self.launch(op::Attention {
            q,
            k,
            v,
            z,
            pattern,
            batch: a.batch as u64,
            len: a.len as u64,
            heads: a.heads as u64,
            kv_heads: a.kv_heads as u64,
            d_head: a.d_head as u64,
            d_value: a.d_value as u64,
            window: a.window as u64,
            scale: a.scale,
            soft_cap: a.soft_cap,
        })
    }

    /// Gradients of causal attention; overwrites `dq`, `dk` and `dv`.
    pub fn attention_grad(&mut self, o: AttentionGradArgs<'_>, a: HeadsArgs) -> Result<()> {
        const OP: &str = "AttentionGrad";
        let q = self.input(OP, "q", o.q.raw, F32)?;
        let k = self.input(OP, "k", o.k.raw, F32)?;
        let v = self.input(OP, "v", o.v.raw, F32)?;
        let dz = self.input(OP, "dz", o.dz.raw, F32)?;
        let dq = self.input(OP, "dq", o.dq.raw, F32)?;
        let dk = self.input(OP, "dk", o.dk.raw, F32)?;
        let dv = self.input(OP, "dv", o.dv.raw, F32)?;
        let (n, narrow, wide) = (a.batch * a.len, a.heads * a.d_head, a.heads * a.d_value);
        for (name, m) in [("q", &q), ("k", &k), ("dq", &dq), ("dk", &dk)] {
            shaped(OP, name, m, n as u64, narrow as u64)?;
        }
        for (name, m) in [("v", &v), ("dz", &dz), ("dv", &dv)] {
            shaped(OP, name, m, n as u64, wide as u64)?;
        }
        let inputs = [("q", q), ("k", k), ("v", v), ("dz", dz)];
        disjoint(OP, &dq, &inputs)?;
        disjoint(OP, &dk, &inputs)?;
        disjoint(OP, &dv, &inputs)?;
        self.launch(op::AttentionGrad {
            q,
            k,
            v,
            dz,
            dq,
            dk,
            dv,
            batch: a.batch as u64,
            len: a.len as u64,
            heads: a.heads as u64,
            d_head: a.d_head as u64,
            d_value: a.d_value as u64,
            scale: a.scale,
        })
    }
}
