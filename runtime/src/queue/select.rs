//! Checked selection: TopK, the BatchTopK threshold, compaction and dense gates.

use super::{Queue, check, disjoint, shaped};
use crate::{
    DType, Result, View, ViewMut,
    op::{self, Mat},
};

/// What decides a selection besides the values: `g = x·scale`, only columns with `mask == 1`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Select<'a> {
    /// `[1, F]` f32.
    pub scale: Option<View<'a>>,
    /// `[1, F]` u8.
    pub mask: Option<View<'a>>,
}

/// How [`Queue::topk_by`] ranks; the default is [`Queue::topk`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Rank {
    /// By magnitude, signs kept.
    pub abs: bool,
    /// Runs of columns that each have their share of the slots; 0 and 1 are one run.
    pub groups: usize,
}

/// The rule of a compaction or gate: per-column thresholds, a global threshold from [`Queue::threshold`], or `g > 0`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompactArgs<'a> {
    /// Scale and mask.
    pub select: Select<'a>,
    /// `[1, F]` f32.
    pub theta: Option<View<'a>>,
    /// `[1, 2]` u32.
    pub thr: Option<View<'a>>,
}

const F32: DType = DType::F32;

impl Queue {
    fn select(&self, op: &'static str, s: Select<'_>, cols: u64) -> Result<(Mat, Mat)> {
        let scale = self.optional(op, "scale", s.scale, F32)?;
        let mask = self.optional(op, "mask", s.mask, DType::U8)?;
        shaped(op, "scale", &scale, 1, cols)?;
        shaped(op, "mask", &mask, 1, cols)?;
        Ok((scale, mask))
    }

    /// The k = `vals.cols()` largest positive entries of each row; see [`op::TopK`].
    pub fn topk<'x, 'v, 'i>(
        &mut self,
        x: impl Into<View<'x>>,
        select: Select<'_>,
        vals: impl Into<ViewMut<'v>>,
        idx: impl Into<ViewMut<'i>>,
    ) -> Result<()> {
        self.topk_by(Rank::default(), x, select, vals, idx)
    }

    /// [`Queue::topk`] by magnitude or in groups of columns.
    pub fn topk_by<'x, 'v, 'i>(
        &mut self,
        rank: Rank,
        x: impl Into<View<'x>>,
        select: Select<'_>,
        vals: impl Into<ViewMut<'v>>,
        idx: impl Into<ViewMut<'i>>,
    ) -> Result<()> {
        const OP: &str = "TopK";
        let groups = rank.groups.max(1) as u64;
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let (scale, mask) = self.select(OP, select, x.cols)?;
        let vals = self.input(OP, "vals", vals.into().raw, F32)?;
        let idx = self.input(OP, "idx", idx.into().raw, DType::U32)?;
        shaped(OP, "vals", &vals, x.rows, vals.cols)?;
        shaped(OP, "idx", &idx, x.rows, vals.cols)?;
        check(x.cols < u64::from(u32::MAX), OP, || format!("{} columns do not fit u32 indices", x.cols))?;
        disjoint(OP, &vals, &[("x", x), ("idx", idx), ("scale", scale), ("mask", mask)])?;
        disjoint(OP, &idx, &[("x", x), ("scale", scale), ("mask", mask)])?;
        check(x.cols.is_multiple_of(groups) && vals.cols.is_multiple_of(groups), OP, || {
            format!("{groups} groups divide neither or only one of {} columns and k {}", x.cols, vals.cols)
        })?;
        self.launch(op::TopK { x, scale, mask, vals, idx, groups, abs: rank.abs.into() })
    }

    /// The k-th largest positive entry of the whole matrix, into `out [1, 2]` u32; see [`op::Threshold`].
    pub fn threshold<'x, 'o>(
        &mut self,
        x: impl Into<View<'x>>,
        select: Select<'_>,
        k: usize,
        out: impl Into<ViewMut<'o>>,
    ) -> Result<()> {
        const OP: &str = "Threshold";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let (scale, mask) = self.select(OP, select, x.cols)?;
        let out = self.input(OP, "out", out.into().raw, DType::U32)?;
        shaped(OP, "out", &out, 1, 2)?;
        self.launch(op::Threshold { x, scale, mask, out, k: k as u64 })
    }

    fn rule(&self, op: &'static str, args: CompactArgs<'_>, cols: u64) -> Result<(Mat, Mat)> {
        let theta = self.optional(op, "theta", args.theta, F32)?;
        let thr = self.optional(op, "thr", args.thr, DType::U32)?;
        shaped(op, "theta", &theta, 1, cols)?;
        shaped(op, "thr", &thr, 1, 2)?;
        check(!(theta.is_some() && thr.is_some()), op, || "theta and thr exclude each other".into())?;
        Ok((theta, thr))
    }

    /// Passing entries as sparse rows: `vals, idx [1, capacity]`, `ptr [1, rows+1]`; see [`op::Compact`].
    ///
    /// # Errors
    /// Fails on the device when more entries pass than the capacity.
    pub fn compact<'x, 'v, 'i, 'p>(
        &mut self,
        x: impl Into<View<'x>>,
        args: CompactArgs<'_>,
        vals: impl Into<ViewMut<'v>>,
        idx: impl Into<ViewMut<'i>>,
        ptr: impl Into<ViewMut<'p>>,
    ) -> Result<()> {
        const OP: &str = "Compact";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let (scale, mask) = self.select(OP, args.select, x.cols)?;
        let (theta, thr) = self.rule(OP, args, x.cols)?;
        let vals = self.input(OP, "vals", vals.into().raw, F32)?;
        let idx = self.input(OP, "idx", idx.into().raw, DType::U32)?;
        let ptr = self.input(OP, "ptr", ptr.into().raw, DType::U32)?;
        shaped(OP, "vals", &vals, 1, vals.cols)?;
        shaped(OP, "idx", &idx, 1, vals.cols)?;
        shaped(OP, "ptr", &ptr, 1, x.rows + 1)?;
        disjoint(OP, &vals, &[("x", x), ("idx", idx), ("ptr", ptr)])?;
        disjoint(OP, &idx, &[("x", x), ("ptr", ptr)])?;
        let y = op::Sparse { vals, idx, ptr, rows: x.rows, n: x.cols };
        self.launch(op::Compact { x, scale, mask, theta, thr, y })
    }

    /// Dense gate: x where it passes, else 0; see [`op::Gate`]. The mask of `args` is not used.
    pub fn gate<'x, 'y>(
        &mut self,
        x: impl Into<View<'x>>,
        args: CompactArgs<'_>,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        const OP: &str = "Gate";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let (scale, _) = self.select(OP, args.select, x.cols)?;
        let (theta, thr) = self.rule(OP, args, x.cols)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "y", &y, x.rows, x.cols)?;
        disjoint(OP, &y, &[("x", x), ("scale", scale), ("theta", theta)])?;
        self.launch(op::Gate { x, scale, theta, thr, y })
    }

    /// Gradient of a ReLU or JumpReLU gate; `dtheta` (`+=`) with `theta`; see [`op::GateGrad`].
    pub fn gate_grad<'x, 'f, 'd>(
        &mut self,
        x: impl Into<View<'x>>,
        scale: Option<View<'_>>,
        jump: Option<(View<'_>, f32, ViewMut<'_>)>,
        df: impl Into<View<'f>>,
        dx: impl Into<ViewMut<'d>>,
    ) -> Result<()> {
        const OP: &str = "GateGrad";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let scale = self.optional(OP, "scale", scale, F32)?;
        let df = self.input(OP, "df", df.into().raw, F32)?;
        let dx = self.input(OP, "dx", dx.into().raw, F32)?;
        let (theta, window, dtheta) = match &jump {
            Some((theta, window, dtheta)) => (
                self.input(OP, "theta", theta.raw, F32)?,
                *window,
                self.input(OP, "dtheta", dtheta.raw, F32)?,
            ),
            None => (Mat::NONE, 0.0, Mat::NONE),
        };
        for (name, m) in [("scale", &scale), ("theta", &theta), ("dtheta", &dtheta)] {
            shaped(OP, name, m, 1, x.cols)?;
        }
        shaped(OP, "df", &df, x.rows, x.cols)?;
        shaped(OP, "dx", &dx, x.rows, x.cols)?;
        disjoint(OP, &dx, &[("x", x), ("df", df), ("dtheta", dtheta)])?;
        self.launch(op::GateGrad { x, scale, theta, df, dx, dtheta, window })
    }
}
