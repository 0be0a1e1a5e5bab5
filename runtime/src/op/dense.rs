//! Products, elementwise forms, copies, reductions and random numbers.

use super::{Act, MapKind, Mat, RandomKind, ReduceKind};

/// `c[m,n] = act(alpha·op(a)[m,k]·op(b)[k,n] + beta·c + bias[1,n])`, `op` = transpose when the flag is 1.
/// `batch >= 1` products with element strides `stride_*` between consecutive operands (0 = shared). When `beta == 0`
/// `c` is not read. `a, b` float of any kind, `bias` f32 or absent, `c` f32. k = 0 gives `act(beta·c + bias)`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Gemm {
    pub a: Mat,
    pub b: Mat,
    pub c: Mat,
    pub bias: Mat,
    pub alpha: f32,
    pub beta: f32,
    pub ta: u32,
    pub tb: u32,
    pub act: Act,
    pub batch: u64,
    pub stride_a: u64,
    pub stride_b: u64,
    pub stride_c: u64,
}

/// `y = value`, any type; integer outputs take the value truncated and saturated.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Fill {
    pub y: Mat,
    pub value: f32,
}

/// `y = x`, converting between float types (round to nearest even) or copying equal types. Same shape.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Copy {
    pub x: Mat,
    pub y: Mat,
}

/// `y[i,:] = table[idx[i],:]`; `table [V,D]` any float, `idx [1,N] u32`, `y [N,D] f32`. An index ≥ V fails.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Gather {
    pub table: Mat,
    pub idx: Mat,
    pub y: Mat,
}

/// Elementwise `y = kind(x, z; a, b)`, all f32. `z` is absent, `[B,N]`, a row `[1,N]` or a column `[B,1]`; `y` may be `x`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Map {
    pub kind: MapKind,
    pub x: Mat,
    pub z: Mat,
    pub y: Mat,
    pub a: f32,
    pub b: f32,
}

/// Reduction of `x [B,N] f32`: over rows into `y [1,N]` (`by_row == 0`) or over columns into `y [B,1]` (`by_row == 1`);
/// `y = beta·y + reduction`. `weight [B,1]`, only with `by_row == 0`, multiplies each row's contribution
/// (for NonZero: counts weight; not with Max). Fixed order: the result does not depend on scheduling.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Reduce {
    pub kind: ReduceKind,
    pub by_row: u32,
    pub x: Mat,
    pub weight: Mat,
    pub y: Mat,
    pub beta: f32,
}

/// `y[i]` = Philox4x32-10 draw number `offset + i` (row-major element i) of stream `seed`, shaped by kind (see `random.rs`); `y` f32.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Random {
    pub kind: RandomKind,
    pub y: Mat,
    pub a: f32,
    pub b: f32,
    pub seed: u64,
    pub offset: u64,
}
