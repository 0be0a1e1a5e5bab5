//! What only training needs: penalties, firing counts, the optimizer.

use super::{Mat, PenaltyKind, Sparse};

/// Sparsity penalty on `u = vals·n` (`n = scale[col]`, absent = 1; `vals >= 0`), per row:
/// `out [B,1] = Σ` or norm as [`PenaltyKind`] says, `du = weight[row]·colgain[col]·∂/∂u` (`=`), shaped like vals.
/// Dense (`vals [B,F]`, `codes.idx` absent) or sparse codes. `p` exponent, `c` tanh stretch. `weight [B,1]`,
/// `colgain [1,F]`, `out` optional. Empty slots get du 0. Power at a row of zeros has gradient 0; at u = 0 the derivative of |u| (PowerSum: of |u|^p) is 0.
/// With colgain (tanh kinds only), out is Σ colgain·tanh.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Penalty {
    pub kind: PenaltyKind,
    pub codes: Sparse,
    pub scale: Mat,
    pub weight: Mat,
    pub colgain: Mat,
    pub out: Mat,
    pub du: Mat,
    pub p: f32,
    pub c: f32,
}

/// JumpReLU threshold penalty (VARIANTS §5.3): per row `out [B,1] = Σ_i relu(θ_i − g_i)·n_i`, `g = x·n` when `gated == 1`
/// else `x`, `n = scale` (absent = 1). With row weights w: `dx += −w·n·1[θ>g]·(n if gated)`, `dtheta [1,F] += Σ w·n·1[θ>g]`,
/// `dn [1,F] += Σ w·(relu(θ−g) − 1[θ>g]·x·n·gated)`. `dx, dtheta, dn` optional.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ThresholdPenalty {
    pub x: Mat,
    pub scale: Mat,
    pub theta: Mat,
    pub weight: Mat,
    pub out: Mat,
    pub dx: Mat,
    pub dtheta: Mat,
    pub dn: Mat,
    pub gated: u32,
}

/// `fired [1,F] u32 += ` number of rows with `mask[row] == 1` in which the column's value is above or below 0. Dense (`codes.idx` absent) or
/// sparse codes; `mask [1,B] u8` optional.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Activity {
    pub codes: Sparse,
    pub mask: Mat,
    pub fired: Mat,
}

/// Dead-feature bookkeeping: `since = fired > 0 ? 0 : saturating since + tokens`; `dead = since >= limit`. `fired, since [1,F] u32`,
/// `dead [1,F] u8`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Age {
    pub fired: Mat,
    pub since: Mat,
    pub dead: Mat,
    pub tokens: u32,
    pub limit: u32,
}

/// One Adam update of `p, m, v` (same shape, f32) from `g·grad_scale`:
/// dense: `m=β1 m+(1−β1)g; v=β2 v+(1−β2)g²; p −= lr/bc1·m/(√v/√bc2+eps)`;
/// `sparse == 1` (upstream's sparse Adam): moments decay everywhere, grow and update p only where g ≠ 0, with
/// `p −= lr·√bc2/bc1·m/(√v+eps)`. `bc1 = 1−β1^t`, `bc2 = 1−β2^t`. `stats [1,2] f32` optional output: Σ(g·grad_scale)² and the
/// number of g ≠ 0 (fixed order). `low` optional: p rounded to its type.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Adam {
    pub p: Mat,
    pub m: Mat,
    pub v: Mat,
    pub g: Mat,
    pub low: Mat,
    pub stats: Mat,
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub bc1: f32,
    pub bc2: f32,
    pub grad_scale: f32,
    pub sparse: u32,
}
