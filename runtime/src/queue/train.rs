//! Checked training operations: penalties, dead-feature bookkeeping, the optimiser.

use super::{Queue, check, disjoint, shaped};
use crate::{
    DType, PenaltyKind, Result, SparseView, View, ViewMut,
    op::{self, Mat, Sparse},
};

/// A sparsity penalty on `u = vals·scale`; see [`op::Penalty`].
#[derive(Clone, Copy, Debug)]
pub struct PenaltyArgs<'a> {
    /// Which penalty.
    pub kind: PenaltyKind,
    /// `[1, F]` factor of the codes (decoder norms).
    pub scale: Option<View<'a>>,
    /// `[B, 1]` factor of each row's gradient.
    pub weight: Option<View<'a>>,
    /// `[1, F]` factor of each column.
    pub colgain: Option<View<'a>>,
    /// Exponent of the power penalty, >= 1.
    pub p: f32,
    /// Stretch of the tanh penalties.
    pub c: f32,
}

/// The JumpReLU threshold penalty; see [`op::ThresholdPenalty`].
#[derive(Debug)]
pub struct ThresholdPenaltyArgs<'a> {
    /// Pre-activations `[B, F]`.
    pub x: View<'a>,
    /// Decoder norms `[1, F]`.
    pub scale: Option<View<'a>>,
    /// Thresholds `[1, F]`.
    pub theta: View<'a>,
    /// Row weights `[B, 1]`.
    pub weight: View<'a>,
    /// Compare with `x·scale` instead of `x`.
    pub gated: bool,
    /// Per-row penalty `[B, 1]` (`=`).
    pub out: ViewMut<'a>,
    /// Gradient of x (`+=`).
    pub dx: Option<ViewMut<'a>>,
    /// Gradient of theta (`+=`).
    pub dtheta: Option<ViewMut<'a>>,
    /// Gradient of scale (`+=`).
    pub dn: Option<ViewMut<'a>>,
}

/// Scalars of one Adam step; see [`op::Adam`].
#[derive(Clone, Copy, Debug)]
pub struct AdamArgs {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// Steps taken including this one, for bias correction.
    pub t: u64,
    /// Multiplies the gradient (clipping).
    pub grad_scale: f32,
    /// Upstream's sparse Adam instead of Adam.
    pub sparse: bool,
}

const F32: DType = DType::F32;

impl Queue {
    /// Penalty of dense codes `[B, F]`: `out [B, 1]` and `du [B, F]`.
    pub fn penalty_dense<'x, 'd>(
        &mut self,
        vals: impl Into<View<'x>>,
        args: PenaltyArgs<'_>,
        out: Option<ViewMut<'_>>,
        du: impl Into<ViewMut<'d>>,
    ) -> Result<()> {
        let codes = self.dense_codes("Penalty", vals.into())?;
        self.penalty(codes, args, out, du.into())
    }

    /// Penalty of sparse codes; `du` is shaped like their values.
    pub fn penalty_sparse<'d>(
        &mut self,
        codes: SparseView<'_>,
        args: PenaltyArgs<'_>,
        out: Option<ViewMut<'_>>,
        du: impl Into<ViewMut<'d>>,
    ) -> Result<()> {
        let codes = self.sparse("Penalty", codes)?;
        self.penalty(codes, args, out, du.into())
    }

    fn penalty(
        &mut self,
        codes: Sparse,
        args: PenaltyArgs<'_>,
        out: Option<ViewMut<'_>>,
        du: ViewMut<'_>,
    ) -> Result<()> {
        const OP: &str = "Penalty";
        let scale = self.optional(OP, "scale", args.scale, F32)?;
        let weight = self.optional(OP, "weight", args.weight, F32)?;
        let colgain = self.optional(OP, "colgain", args.colgain, F32)?;
        let out = self.optional_out(OP, "out", &out, F32)?;
        let du = self.input(OP, "du", du.raw, F32)?;
        shaped(OP, "scale", &scale, 1, codes.n)?;
        shaped(OP, "colgain", &colgain, 1, codes.n)?;
        shaped(OP, "weight", &weight, codes.rows, 1)?;
        shaped(OP, "out", &out, codes.rows, 1)?;
        shaped(OP, "du", &du, codes.vals.rows, codes.vals.cols)?;
        disjoint(OP, &du, &[("vals", codes.vals), ("scale", scale), ("weight", weight), ("out", out)])?;
        let (kind, p, c) = (args.kind, args.p, args.c);
        self.launch(op::Penalty { kind, codes, scale, weight, colgain, out, du, p, c })
    }

    /// The JumpReLU threshold penalty and its gradients.
    pub fn threshold_penalty(&mut self, a: ThresholdPenaltyArgs<'_>) -> Result<()> {
        const OP: &str = "ThresholdPenalty";
        let x = self.input(OP, "x", a.x.raw, F32)?;
        let scale = self.optional(OP, "scale", a.scale, F32)?;
        let theta = self.input(OP, "theta", a.theta.raw, F32)?;
        let weight = self.input(OP, "weight", a.weight.raw, F32)?;
        let out = self.input(OP, "out", a.out.raw, F32)?;
        let dx = self.optional_out(OP, "dx", &a.dx, F32)?;
        let dtheta = self.optional_out(OP, "dtheta", &a.dtheta, F32)?;
        let dn = self.optional_out(OP, "dn", &a.dn, F32)?;
        for (name, m) in [("scale", &scale), ("theta", &theta), ("dtheta", &dtheta), ("dn", &dn)] {
            shaped(OP, name, m, 1, x.cols)?;
        }
        shaped(OP, "weight", &weight, x.rows, 1)?;
        shaped(OP, "out", &out, x.rows, 1)?;
        shaped(OP, "dx", &dx, x.rows, x.cols)?;
        disjoint(OP, &dx, &[("x", x)])?;
        self.launch(op::ThresholdPenalty {
            x,
            scale,
            theta,
            weight,
            out,
            dx,
            dtheta,
            dn,
            gated: a.gated.into(),
        })
    }

    /// Ages features by `tokens`, resets those that fired, marks those at or past `limit` as dead.
    pub fn age<'f, 's, 'd>(
        &mut self,
        fired: impl Into<View<'f>>,
        since: impl Into<ViewMut<'s>>,
        dead: impl Into<ViewMut<'d>>,
        tokens: u32,
        limit: u32,
    ) -> Result<()> {
        const OP: &str = "Age";
        let fired = self.input(OP, "fired", fired.into().raw, DType::U32)?;
        let since = self.input(OP, "since", since.into().raw, DType::U32)?;
        let dead = self.input(OP, "dead", dead.into().raw, DType::U8)?;
        shaped(OP, "fired", &fired, 1, fired.cols)?;
        shaped(OP, "since", &since, 1, fired.cols)?;
        shaped(OP, "dead", &dead, 1, fired.cols)?;
        self.launch(op::Age { fired, since, dead, tokens, limit })
    }

    /// One Adam update of `p, m, v` from `g`; `stats [1, 2]` receives Σg² and the number of non-zero g, `low` a rounded copy of p.
    pub fn adam<'p, 'm, 'v, 'g>(
        &mut self,
        p: impl Into<ViewMut<'p>>,
        m: impl Into<ViewMut<'m>>,
        v: impl Into<ViewMut<'v>>,
        g: impl Into<View<'g>>,
        args: AdamArgs,
        stats: Option<ViewMut<'_>>,
        low: Option<ViewMut<'_>>,
    ) -> Result<()> {
        const OP: &str = "Adam";
        let p = self.input(OP, "p", p.into().raw, F32)?;
        let m = self.input(OP, "m", m.into().raw, F32)?;
        let v = self.input(OP, "v", v.into().raw, F32)?;
        let g = self.input(OP, "g", g.into().raw, F32)?;
        let stats = self.optional_out(OP, "stats", &stats, F32)?;
        let low = match &low {
            Some(l) => self.float(OP, "low", l.raw)?,
            None => Mat::NONE,
        };
        for (name, x) in [("m", &m), ("v", &v), ("g", &g), ("low", &low)] {
            shaped(OP, name, x, p.rows, p.cols)?;
        }
        shaped(OP, "stats", &stats, 1, 2)?;
        check(args.t > 0, OP, || "the step count starts at 1".into())?;
        disjoint(OP, &p, &[("m", m), ("v", v), ("g", g), ("low", low)])?;
        // In f64: at t = 10^6 the powers of betas near 1 need it.
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(args.t.min(i32::MAX as u64) as i32)) as f32;
        self.launch(op::Adam {
            p,
            m,
            v,
            g,
            low,
            stats,
            lr: args.lr,
            beta1: args.beta1,
            beta2: args.beta2,
            eps: args.eps,
            bc1: correction(args.beta1),
            bc2: correction(args.beta2),
            grad_scale: args.grad_scale,
            sparse: args.sparse.into(),
        })
    }
}
