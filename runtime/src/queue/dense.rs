//! Checked dense operations: products, elementwise forms, reductions, and the pieces of a transformer.

use super::{Queue, check, disjoint, shaped};
use crate::{
    Act, DType, MapKind, RandomKind, ReduceKind, Result, View, ViewMut,
    op::{self, Mat},
};

/// Optional parts of a product: `c = act(alpha·a·b + beta·c + bias)`.
#[derive(Clone, Copy, Debug)]
pub struct GemmOpts<'a> {
    /// Use aᵀ.
    pub ta: bool,
    /// Use bᵀ.
    pub tb: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old c; 0 means c is not read.
    pub beta: f32,
    /// Added to every row, `[1, n]`.
    pub bias: Option<View<'a>>,
    /// Applied last.
    pub act: Act,
}

impl Default for GemmOpts<'_> {
    fn default() -> Self {
        Self { ta: false, tb: false, alpha: 1.0, beta: 0.0, bias: None, act: Act::None }
    }
}

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
    /// `c = act(alpha·op(a)·op(b) + beta·c + bias)`; `a, b` any float type, `c` f32.
    pub fn gemm<'a, 'b, 'c>(
        &mut self,
        a: impl Into<View<'a>>,
        b: impl Into<View<'b>>,
        c: impl Into<ViewMut<'c>>,
        opts: GemmOpts<'_>,
    ) -> Result<()> {
        const OP: &str = "Gemm";
        let (a, b) = (self.float(OP, "a", a.into().raw)?, self.float(OP, "b", b.into().raw)?);
        let c = self.input(OP, "c", c.into().raw, F32)?;
        let bias = self.optional(OP, "bias", opts.bias, F32)?;
        let (m, k) = if opts.ta { (a.cols, a.rows) } else { (a.rows, a.cols) };
        let (kb, n) = if opts.tb { (b.cols, b.rows) } else { (b.rows, b.cols) };
        check(k == kb && c.rows == m && c.cols == n, OP, || {
            format!("[{m}, {k}] · [{kb}, {n}] (after transposition) into [{}, {}]", c.rows, c.cols)
        })?;
        shaped(OP, "bias", &bias, 1, n)?;
        disjoint(OP, &c, &[("a", a), ("b", b), ("bias", bias)])?;
        self.launch(op::Gemm {
            a,
            b,
            c,
            bias,
            alpha: opts.alpha,
            beta: opts.beta,
            ta: opts.ta.into(),
            tb: opts.tb.into(),
            act: opts.act,
            batch: 1,
            stride_a: 0,
            stride_b: 0,
            stride_c: 0,
        })
    }

    /// Sets every element.
    pub fn fill<'y>(&mut self, y: impl Into<ViewMut<'y>>, value: f32) -> Result<()> {
        let y = self.located("Fill", y.into().raw)?;
        self.launch(op::Fill { y, value })
    }

    /// Copies, converting between float types.
    pub fn copy<'x, 'y>(&mut self, x: impl Into<View<'x>>, y: impl Into<ViewMut<'y>>) -> Result<()> {
        let (x, y) = (self.located("Copy", x.into().raw)?, self.located("Copy", y.into().raw)?);
        check(x.dtype == y.dtype || (x.dtype.is_float() && y.dtype.is_float()), "Copy", || {
            format!("{} cannot become {}", x.dtype, y.dtype)
        })?;
        shaped("Copy", "y", &y, x.rows, x.cols)?;
        disjoint("Copy", &y, &[("x", x)])?;
        self.launch(op::Copy { x, y })
    }

    /// `y[i] = table[idx[i]]`.
    pub fn gather<'t, 'i, 'y>(
        &mut self,
        table: impl Into<View<'t>>,
        idx: impl Into<View<'i>>,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        const OP: &str = "Gather";
        let table = self.float(OP, "table", table.into().raw)?;
        let idx = self.input(OP, "idx", idx.into().raw, DType::U32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "idx", &idx, 1, y.rows)?;
        shaped(OP, "y", &y, idx.cols, table.cols)?;
        disjoint(OP, &y, &[("table", table), ("idx", idx)])?;
        self.launch(op::Gather { table, idx, y })
    }

    /// `y = kind(x; a, b)`.
    pub fn map<'x, 'y>(
        &mut self,
        kind: MapKind,
        x: impl Into<View<'x>>,
        a: f32,
        b: f32,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let x = self.input("Map", "x", x.into().raw, F32)?;
        self.launch_map(kind, x, Mat::NONE, a, b, y.into())
    }

    /// `y = kind(y; a, b)`.
    pub fn map_in_place<'y>(
        &mut self,
        kind: MapKind,
        a: f32,
        b: f32,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let y = y.into();
        let x = self.input("Map", "x", y.raw, F32)?;
        self.launch_map(kind, x, Mat::NONE, a, b, y)
    }

    /// `y = kind(x, z; a, b)`; z is full, a row `[1, N]` or a column `[B, 1]`.
    pub fn zip<'x, 'z, 'y>(
        &mut self,
        kind: MapKind,
        x: impl Into<View<'x>>,
        z: impl Into<View<'z>>,
        a: f32,
        b: f32,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let x = self.input("Map", "x", x.into().raw, F32)?;
        let z = self.input("Map", "z", z.into().raw, F32)?;
        self.launch_map(kind, x, z, a, b, y.into())
    }

    /// `y = kind(y, z; a, b)`.
    pub fn zip_in_place<'z, 'y>(
        &mut self,
        kind: MapKind,
        z: impl Into<View<'z>>,
        a: f32,
        b: f32,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let y = y.into();
        let x = self.input("Map", "x", y.raw, F32)?;
        let z = self.input("Map", "z", z.into().raw, F32)?;
        self.launch_map(kind, x, z, a, b, y)
    }

    fn launch_map(&mut self, kind: MapKind, x: Mat, z: Mat, a: f32, b: f32, y: ViewMut<'_>) -> Result<()> {
        const OP: &str = "Map";
        let y = self.input(OP, "y", y.raw, F32)?;
        shaped(OP, "y", &y, x.rows, x.cols)?;
        let binary = matches!(
            kind,
            MapKind::Add
                | MapKind::Mul
                | MapKind::Div
                | MapKind::SiluMul
                | MapKind::GeluTanhMul
                | MapKind::GeluErfMul
        );
        check(binary == z.is_some(), OP, || format!("{kind:?} takes {} operands", 1 + u32::from(binary)))?;
        let fits = |n, full| n == full || n == 1;
        check(!z.is_some() || (fits(z.rows, x.rows) && fits(z.cols, x.cols)), OP, || {
            format!("z is [{}, {}] beside x [{}, {}]", z.rows, z.cols, x.rows, x.cols)
        })?;
        disjoint(OP, &y, &[("z", z)])?;
        if y.addr != x.addr || y.ld != x.ld {
            disjoint(OP, &y, &[("x", x)])?;
        }
        self.launch(op::Map { kind, x, z, y, a, b })
    }

    /// Reduces over rows into `[1, N]`, each row's contribution times `weight [B, 1]`; `y = beta·y + …`.
    pub fn reduce_rows<'x, 'y>(
        &mut self,
        kind: ReduceKind,
        x: impl Into<View<'x>>,
        weight: Option<View<'_>>,
        y: impl Into<ViewMut<'y>>,
        beta: f32,
    ) -> Result<()> {
        const OP: &str = "Reduce";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let weight = self.optional(OP, "weight", weight, F32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "weight", &weight, x.rows, 1)?;
        shaped(OP, "y", &y, 1, x.cols)?;
        disjoint(OP, &y, &[("x", x), ("weight", weight)])?;
        self.launch(op::Reduce { kind, by_row: 0, x, weight, y, beta })
    }

    /// Reduces over columns into `[B, 1]`.
    pub fn reduce_cols<'x, 'y>(
        &mut self,
        kind: ReduceKind,
        x: impl Into<View<'x>>,
        y: impl Into<ViewMut<'y>>,
        beta: f32,
    ) -> Result<()> {
        const OP: &str = "Reduce";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "y", &y, x.rows, 1)?;
        disjoint(OP, &y, &[("x", x)])?;
        self.launch(op::Reduce { kind, by_row: 1, x, weight: Mat::NONE, y, beta })
    }

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

    /// Random numbers: element i is draw `offset + i` of stream `seed`, the same on every device.
    pub fn random<'y>(
        &mut self,
        kind: RandomKind,
        (a, b): (f32, f32),
        seed: u64,
        offset: u64,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let y = self.input("Random", "y", y.into().raw, F32)?;
        self.launch(op::Random { kind, y, a, b, seed, offset })
    }
}
