//! Products with sparse rows and what prepares them.

use super::{ByColumn, Mat, Sparse};

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
