//! The operations, as data. One `repr(C)` struct per op; the same value is asked about (`Device::supports`), executed,
//! traced, recorded, sent to plugins, and listed as a conformance or bench case. The doc comment of each struct is its
//! contract: what [`crate::Queue`] checks and what every back end must compute. Accumulation is f32 or wider.
//!
//! Rules for all ops: decisions (which entry passes, ties, windows) compare f32 values, each product or difference rounded
//! to f32, never fused, so every device decides alike. With `beta == 0` the old output is not read. A condition selects, it
//! does not multiply: NaN times a false condition is 0. Matrices without elements are legal everywhere.

use crate::{Addr, DType};

/// A row-major matrix on a device. `ld` is the distance between rows in elements, `ld >= cols`.
/// An absent optional operand has `addr == Addr::NONE`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Mat {
    /// Address of element (0, 0).
    pub addr: Addr,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Elements from one row to the next.
    pub ld: u64,
    /// Element type.
    pub dtype: DType,
}

impl Mat {
    /// The absent operand.
    pub const NONE: Self = Self { addr: Addr::NONE, rows: 0, cols: 0, ld: 0, dtype: DType::F32 };

    /// Whether the operand is present.
    pub const fn is_some(&self) -> bool {
        self.addr.0 != 0
    }
    /// Bytes from the first to just past the last element.
    pub const fn span_bytes(&self) -> u64 {
        if self.rows == 0 || self.cols == 0 {
            0
        } else {
            ((self.rows - 1) * self.ld + self.cols) * self.dtype.bytes() as u64
        }
    }
    /// Number of elements.
    pub const fn len(&self) -> u64 {
        self.rows * self.cols
    }
    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sparse rows over `n` columns. Row `r` holds the entries `ptr[r]..ptr[r+1]` of `vals`/`idx` when `ptr [1, rows+1] u32`
/// is present, otherwise `r*k..(r+1)*k` with `vals, idx [rows, k]`. An index of `u32::MAX` marks an empty slot: its
/// value is 0 and every op skips it. With `ptr`, `vals` and `idx` are `[1, capacity]` and entries past `ptr[rows]` are
/// undefined, in outputs shaped like `vals` too. Both are dense in memory (`ld == cols`). A column occurs at most once a row.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Sparse {
    /// Values, f32.
    pub vals: Mat,
    /// Column indices, u32.
    pub idx: Mat,
    /// Row offsets, u32, or absent.
    pub ptr: Mat,
    /// Rows.
    pub rows: u64,
    /// Columns of the matrix represented.
    pub n: u64,
}

/// The entries of a [`Sparse`] grouped by column, rows ascending inside a column: `col_ptr [1, n+1]`, and for each entry
/// its `row` and its `slot` (position in `vals`), both `[1, capacity]`; all u32. Empty slots do not appear; entries past
/// `col_ptr[n]` are undefined.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct ByColumn {
    /// Offsets of each column's entries.
    pub col_ptr: Mat,
    /// Row of each entry.
    pub row: Mat,
    /// Position of each entry in the sparse matrix's `vals`.
    pub slot: Mat,
}

macro_rules! modes {
    ($(#[$doc:meta])* $name:ident { $($(#[$d:meta])* $v:ident = $n:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u32);
        #[allow(non_upper_case_globals)]
        impl $name {
            $($(#[$d])* pub const $v: Self = Self($n);)*
            /// Every defined value with its name.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$v, stringify!($v))),*];
        }
    };
}

modes!(
    /// Activation applied by a Gemm epilogue.
    Act {
        /// Identity.
        None = 0,
        /// max(x, 0); NaN stays NaN.
        Relu = 1,
        /// x·Φ(x), with the error function.
        GeluErf = 2,
        /// The tanh approximation of GELU.
        GeluTanh = 3,
        /// x·sigmoid(x).
        Silu = 4,
    }
);

modes!(
    /// Elementwise forms. `x`, `z` inputs, `a`, `b` scalars.
    MapKind {
        /// a·x + b
        Affine = 0,
        /// max(x, 0); NaN stays NaN
        Relu = 1,
        /// x·Φ(x)
        GeluErf = 2,
        /// tanh GELU
        GeluTanh = 3,
        /// x·sigmoid(x)
        Silu = 4,
        /// tanh(a·x)
        Tanh = 5,
        /// exp(x)
        Exp = 6,
        /// sqrt(x)
        Sqrt = 7,
        /// a·x + b·z
        Add = 8,
        /// a·x·z
        Mul = 9,
        /// a·x / z
        Div = 10,
        /// silu(x)·z
        SiluMul = 11,
        /// gelu_tanh(x)·z
        GeluTanhMul = 12,
        /// gelu_erf(x)·z
        GeluErfMul = 13,
        /// a·min(1, b / x): shrink factor, 1 where x <= b
        Shrink = 14,
        /// a·tanh(x / a): soft cap
        SoftCap = 15,
    }
);

modes!(
    /// Reductions.
    ReduceKind {
        /// Σ x
        Sum = 0,
        /// Σ x²
        SumSq = 1,
        /// max x (−inf when empty; NaN is ignored)
        Max = 2,
        /// number of x ≠ 0
        NonZero = 3,
    }
);

modes!(
    /// Sparsity penalties on gated values `u`.
    PenaltyKind {
        /// ‖u‖_p per row
        Power = 0,
        /// Σ tanh(c·u) per row
        Tanh = 1,
        /// no penalty (`out` is 0); `du` receives tanh(c·u) itself, without factors (first pass of the tanh-quad penalty)
        TanhValue = 2,
        /// Σ |u|^p per row, any p > 0
        PowerSum = 3,
    }
);

modes!(
    /// Random distributions.
    RandomKind {
        /// uniform in [a, b)
        Uniform = 0,
        /// normal with mean a and standard deviation b
        Normal = 1,
    }
);

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

/// Row normalisation. Layer (`rms == 0`): `(x−mean)/s·gain + bias`, `s = sqrt(mean((x−mean)²)+eps)`.
/// Rms: `x/s·(gain + gain_offset) + bias`, `s = sqrt(mean(x²)+eps)`. `gain, bias [1,D]` optional (1 and 0; without gain
/// `gain_offset` is 0),
/// `scale [B,1]` optional output: s. `y` may be `x`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Norm {
    pub x: Mat,
    pub gain: Mat,
    pub bias: Mat,
    pub y: Mat,
    pub scale: Mat,
    pub eps: f32,
    pub gain_offset: f32,
    pub rms: u32,
}

/// `loss[b] = logsumexp(logits[b,:]) − logits[b, target[b]]`; target `u32::MAX` gives 0, any other
/// target ≥ the columns fails. `target [1,B] u32`, `loss [1,B]`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CrossEntropy {
    pub logits: Mat,
    pub target: Mat,
    pub loss: Mat,
}

/// Rotary embedding in place on `x [N, heads·d_head]`; `pos [1,N] u32`; `cos, sin [n_ctx, rotary_dim/2] f32`.
/// Frequency j rotates the pair (2j, 2j+1) when `adjacent == 1`, otherwise (j, j + rotary_dim/2), of every head.
/// `(u, w) → (u·cos − w·sin, w·cos + u·sin)`; `inverse == 1` turns back (`sin` negated), which is also the gradient of the
/// forward turn. Coordinates ≥ rotary_dim pass through. A position ≥ n_ctx fails.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rope {
    pub x: Mat,
    pub pos: Mat,
    pub cos: Mat,
    pub sin: Mat,
    pub heads: u64,
    pub d_head: u64,
    pub rotary_dim: u64,
    pub adjacent: u32,
    pub inverse: u32,
}

/// Causal attention. `q [batch·len, heads·d_head]`, `k [batch·len, kv_heads·d_head]`, `v [batch·len, kv_heads·d_value]`,
/// `z [batch·len, heads·d_value]`; head h reads kv head `h / (heads/kv_heads)`. `s = scale·q·k`, soft-capped `cap·tanh(s/cap)` when `soft_cap > 0`; query i sees keys
/// `max(0, i−window+1)..=i` (`window == 0`: all up to i); softmax; `z = p·v`. `pattern [batch·heads·len, len] f32`
/// optional output of p (0 where masked). f32.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Attention {
    pub q: Mat,
    pub k: Mat,
    pub v: Mat,
    pub z: Mat,
    pub pattern: Mat,
    pub batch: u64,
    pub len: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub d_head: u64,
    pub d_value: u64,
    pub window: u64,
    pub scale: f32,
    pub soft_cap: f32,
}

/// Gradients of [`Attention`] without window and soft cap, with a key-value head for each head. From `q, k [batch·len,
/// heads·d_head]` and `v, dz [batch·len, heads·d_value]`, p recomputed: `dv = pᵀ·dz`, and with `dp = dz·vᵀ` and
/// `ds = scale·p∘(dp − Σ_j p·dp)`: `dq = ds·k`, `dk = dsᵀ·q` (all `=`, shaped like v, q, k). f32. No device holds more
/// of p than a block of query rows for each thread or group of threads.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AttentionGrad {
    pub q: Mat,
    pub k: Mat,
    pub v: Mat,
    pub dz: Mat,
    pub dq: Mat,
    pub dk: Mat,
    pub dv: Mat,
    pub batch: u64,
    pub len: u64,
    pub heads: u64,
    pub d_head: u64,
    pub d_value: u64,
    pub scale: f32,
}

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

/// `y[r,:] = beta·y[r,:] + Σ_entries vals·w[idx,:] + bias`; `w [n,D]`, `y [rows,D]`, `bias [1,D]` optional, all f32.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SparseMul {
    pub s: Sparse,
    pub w: Mat,
    pub bias: Mat,
    pub y: Mat,
    pub beta: f32,
}

/// `y[r,:] = beta·y[r,:]`, plus `vals` in the column of each entry: the dense form of `s`. `y [rows, n] f32`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Scatter {
    pub s: Sparse,
    pub y: Mat,
    pub beta: f32,
}

/// `out`, shaped like `s.idx`: `idx − first` of entries in the columns `first..last`, all others empty. With the values and
/// offsets of `s` it is the matrix of these columns alone (emptied slots keep a value, which no sparse op reads).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Confine {
    pub s: Sparse,
    pub out: Mat,
    pub first: u64,
    pub last: u64,
}

/// `out[slot] = ⟨w[idx,:], x[row,:]⟩` for every entry of `s` (its vals are not read); `out` shaped like `s.vals`; empty slots get 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SparseDot {
    pub s: Sparse,
    pub w: Mat,
    pub x: Mat,
    pub out: Mat,
}

/// Groups the entries of `s` by column (see [`ByColumn`]); `row`, `slot` need capacity for all entries of `s`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SortByColumn {
    pub s: Sparse,
    pub out: ByColumn,
}

/// `y[f,:] = beta·y[f,:] + Σ_{entries e of column f} vals[slot_e]·x[row_e,:]`, entries in order; `x [B,D]`, `y [n,D]`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SparseOuter {
    pub by: ByColumn,
    pub vals: Mat,
    pub x: Mat,
    pub y: Mat,
    pub beta: f32,
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

macro_rules! ops {
    ($($tag:literal $name:ident),* $(,)?) => {
        /// One operation.
        #[derive(Clone, Copy, Debug)]
        pub enum Op { $(#[allow(missing_docs)] $name($name)),* }
        $(impl From<$name> for Op { fn from(op: $name) -> Self { Op::$name(op) } })*
        impl Op {
            /// Name as printed in errors, traces and the support matrix.
            pub const fn name(&self) -> &'static str { match self { $(Op::$name(_) => stringify!($name)),* } }
            /// Stable number used across the plugin table.
            pub const fn tag(&self) -> u32 { match self { $(Op::$name(_) => $tag),* } }
            /// The payload as raw bytes for the plugin table: pointer and size.
            pub fn payload(&self) -> (*const std::ffi::c_void, usize) {
                match self { $(Op::$name(p) => (std::ptr::from_ref(p).cast(), size_of::<$name>())),* }
            }
            /// The op a plugin table brought; `None` for a tag or size this version does not define.
            ///
            /// # Safety
            /// `payload` points to `size` readable bytes.
            pub(crate) unsafe fn from_payload(tag: u32, payload: *const std::ffi::c_void, size: usize) -> Option<Self> {
                match tag {
                    // SAFETY: the caller vouches for `size` bytes; every bit pattern is a value of these structs of numbers.
                    $($tag if size == size_of::<$name>() => Some(Op::$name(unsafe { payload.cast::<$name>().read_unaligned() })),)*
                    _ => None,
                }
            }
            /// Every op's name, in tag order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }
    };
}

ops! {
    1 Gemm, 2 Fill, 3 Copy, 4 Gather, 5 Map, 6 Reduce, 7 Norm, 8 CrossEntropy, 9 Rope, 10 Attention,
    11 TopK, 12 Threshold, 13 Compact, 14 Gate, 15 GateGrad, 16 Penalty, 17 ThresholdPenalty,
    18 SparseMul, 19 SparseDot, 20 SortByColumn, 21 SparseOuter, 22 Activity, 23 Age, 24 Adam, 25 Random, 26 AttentionGrad, 27 Scatter,
    28 Confine,
}
