//! From pre-activations to features: the k largest, thresholds, compaction, gates and their gradients.

use super::{Mat, Sparse};

/// Per row of `x [B,F] f32`: the k entries with the largest `g = x·scale` among those with `g > 0` and `mask == 1`
/// (ties to the lower index). `vals [B,k]` receives the UNSCALED x, `idx [B,k]` the column; slots in descending order of
/// g; missing slots get 0 and `u32::MAX`. `scale [1,F] f32`, `mask [1,F] u8` optional. NaN is never selected.
/// `abs == 1`: `g = |x|·scale`, values keep their sign. `groups > 1` (a divisor of F and k): columns are split into that many
/// runs of F/groups, and slots into runs of k/groups, each run of slots the best of its run of columns.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TopK {
    pub x: Mat,
    pub scale: Mat,
    pub mask: Mat,
    pub vals: Mat,
    pub idx: Mat,
    pub groups: u64,
    pub abs: u32,
}

/// The k-th largest positive `g = x·scale` over all rows (mask as in TopK): `out [1,2] u32` = bits of the f32 threshold τ,
/// and how many entries equal to τ belong to the top k. When fewer than k are positive: τ = 0 and count 0
/// (keep all g > 0). k = 0: τ = +inf and count 0 (keep nothing).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Threshold {
    pub x: Mat,
    pub scale: Mat,
    pub mask: Mat,
    pub out: Mat,
    pub k: u64,
}

/// Sparse rows of the entries of `x [B,F]` that pass, columns ascending, values UNSCALED. An entry passes when mask == 1 and
/// * `theta [1,F]` present: `x·scale > theta`;
/// * `thr [1,2] u32` present (from Threshold): `g > τ`, or `g == τ` among the first count such entries in row-major order;
/// * neither: `g > 0`.
///
/// `y.ptr` is written; more entries than `y.vals` holds is an error. Passing always also requires `g > 0`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Compact {
    pub x: Mat,
    pub scale: Mat,
    pub mask: Mat,
    pub theta: Mat,
    pub thr: Mat,
    pub y: Sparse,
}

/// Dense gate: `y = x` where `g = x·scale` passes as in [`Compact`] (without mask), else 0. `y` may be `x`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Gate {
    pub x: Mat,
    pub scale: Mat,
    pub theta: Mat,
    pub thr: Mat,
    pub y: Mat,
}

/// Gradient of a ReLU or JumpReLU [`Gate`] (no thr): `dx = df·1[g > θ and g > 0]` (`=`; `dx` may be `df`), and with theta
/// `dtheta [1,F] += Σ_rows df·(−θ/window)/scale·1[|g−θ| < window/2]·1[g > 0]` (VARIANTS §3.2; scale absent = 1).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GateGrad {
    pub x: Mat,
    pub scale: Mat,
    pub theta: Mat,
    pub df: Mat,
    pub dx: Mat,
    pub dtheta: Mat,
    pub window: f32,
}
